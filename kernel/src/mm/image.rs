//! The kernel image: its segments, as the linker laid them out.

use early_mmu::{PAGE_KERNEL, PAGE_KERNEL_RO, PAGE_KERNEL_ROX, Prot};
use platform::range::PhysRange;

use super::layout::KIMAGE_VADDR;

unsafe extern "C" {
    static _text: u8;
    static _etext: u8;
    static __start_rodata: u8;
    static __end_rodata: u8;
    static _data: u8;
    static _end: u8;
    static init_stack_guard: u8;
    static init_stack_bottom: u8;
    static exception_stack_guard: u8;
    static exception_stack_bottom: u8;
    static init_stack_top: u8;
    static exception_stack_top: u8;
    static swapper_pg_dir: u8;
    static idmap_pg_dir: u8;
    static static_tables: u8;
}

/// A part of the image with one protection, in bytes from `_text`: the same
/// wherever the image runs.
#[derive(Clone, Copy, Debug)]
pub struct Segment {
    /// Its name in logs.
    pub name: &'static str,
    /// First byte.
    pub start: u64,
    /// One past the last byte.
    pub end: u64,
    /// What may be done to it in the end.
    pub prot: Prot,
}

impl Segment {
    /// Its virtual address.
    pub fn va(self) -> u64 {
        KIMAGE_VADDR + self.start
    }

    /// Its size in bytes.
    pub fn size_bytes(self) -> u64 {
        self.end - self.start
    }

    /// Where it lies in RAM, if the image lies at `image_pa`.
    pub fn phys(self, image_pa: u64) -> PhysRange {
        PhysRange {
            start: image_pa + self.start,
            end: image_pa + self.end,
        }
    }
}

macro_rules! offset {
    ($symbol:ident) => {
        (&raw const $symbol).addr() as u64 - (&raw const _text).addr() as u64
    };
}

/// Code: read and execute.
pub fn text() -> Segment {
    Segment {
        name: "text",
        start: 0,
        end: offset!(_etext),
        prot: PAGE_KERNEL_ROX,
    }
}

/// Constants, and what relocation patches: read-only once it is done.
pub fn rodata() -> Segment {
    let (start, end) = (offset!(__start_rodata), offset!(__end_rodata));
    Segment {
        name: "rodata",
        start,
        end,
        prot: PAGE_KERNEL_RO,
    }
}

/// All that is read-only in the end: text, and rodata behind it.
pub fn read_only() -> Segment {
    Segment {
        name: "text and rodata",
        start: text().start,
        end: rodata().end,
        prot: PAGE_KERNEL_RO,
    }
}

/// Variables, stacks and static tables, in pieces: the guard below each stack
/// is left out.
pub fn data() -> [Segment; 3] {
    let guards = stack_guards();
    let piece = |name, start, end| Segment {
        name,
        start,
        end,
        prot: PAGE_KERNEL,
    };
    [
        piece("data", offset!(_data), guards[0].start),
        piece("init stack", guards[0].end, guards[1].start),
        piece("exception stack, black box", guards[1].end, offset!(_end)),
    ]
}

/// The guards, as offsets from `_text`.
pub fn stack_guards() -> [PhysRange; 2] {
    [
        PhysRange {
            start: offset!(init_stack_guard),
            end: offset!(init_stack_bottom),
        },
        PhysRange {
            start: offset!(exception_stack_guard),
            end: offset!(exception_stack_bottom),
        },
    ]
}

/// All mapped segments, ascending.
// One copy: several look at them.
#[inline(never)]
pub fn segments() -> [Segment; 5] {
    let [data, init_stack, exception_stack] = data();
    [text(), rodata(), data, init_stack, exception_stack]
}

/// The whole image in RAM.
pub fn phys(image_pa: u64) -> PhysRange {
    PhysRange {
        start: image_pa,
        end: image_pa + offset!(_end),
    }
}

/// The kernel's root table, as an offset from `_text`.
pub fn swapper_pg_dir_offset() -> u64 {
    offset!(swapper_pg_dir)
}

/// The first of [`STATIC_TABLES`](super::frames::STATIC_TABLES) frames, as an offset
/// from `_text`.
pub fn static_tables_offset() -> u64 {
    offset!(static_tables)
}

/// The identity map's root table, as an offset from `_text`.
pub fn idmap_pg_dir_offset() -> u64 {
    offset!(idmap_pg_dir)
}

/// The text, at the addresses where it runs now.
pub fn runtime_text() -> PhysRange {
    let start = (&raw const _text).addr() as u64;
    PhysRange {
        start,
        end: start + offset!(_etext),
    }
}

/// The stacks, at the addresses where they are now: first the one that runs the
/// kernel, then the one of exceptions.
pub fn runtime_stacks() -> [PhysRange; 2] {
    let text = runtime_text().start;
    let [init_guard, exception_guard] = stack_guards();
    [
        PhysRange {
            start: text + init_guard.end,
            end: text + offset!(init_stack_top),
        },
        PhysRange {
            start: text + exception_guard.end,
            end: text + offset!(exception_stack_top),
        },
    ]
}

/// The guard below the stack that runs the kernel, where it is now.
pub fn runtime_init_stack_guard() -> PhysRange {
    let text = runtime_text().start;
    let [guard, _] = stack_guards();
    PhysRange {
        start: text + guard.start,
        end: text + guard.end,
    }
}
