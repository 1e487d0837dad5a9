//! Rights as accesses see them: what must fault does, what changes counts at once.

use alloc::alloc::Layout;
use alloc::boxed::Box;
use alloc::format;
use core::arch::global_asm;

use early_mmu::{
    Flags, MapError, Mapping, MemType, PAGE_KERNEL, PAGE_KERNEL_RO, PhysAddr, Prot, VirtAddr,
};
use platform::cmdline::RodataMode;

use super::{Context, End, Test, TestResult, check};
use crate::arch::exception::{is_permission_fault, is_translation_fault, is_write};
use crate::arch::mmu::{translate_read, translate_write};
use crate::arch::{guarded, tlb};
use crate::boot::info::BootInfo;
use crate::mm::layout::{LEVEL2_BLOCK_SIZE, PAGE_SIZE};
use crate::mm::{fixmap, image};

pub(super) const TESTS: &[Test] = &[
    Test {
        name: "protection.write_text",
        run: write_text,
    },
    Test {
        name: "protection.write_rodata",
        run: write_rodata,
    },
    Test {
        name: "protection.text_alias",
        run: text_alias,
    },
    Test {
        name: "protection.rodata_alias",
        run: rodata_alias,
    },
    Test {
        name: "protection.execute_data",
        run: execute_data,
    },
    Test {
        name: "protection.stack_guard",
        run: stack_guard,
    },
    Test {
        name: "protection.device_tree",
        run: device_tree,
    },
    Test {
        name: "protection.change_takes_effect",
        run: change_takes_effect,
    },
    Test {
        name: "protection.large_change_takes_effect",
        run: large_change_takes_effect,
    },
    Test {
        name: "protection.block_change_takes_effect",
        run: block_change_takes_effect,
    },
    Test {
        name: "protection.live_type_change_refused",
        run: live_type_change_refused,
    },
];

// A word of text that nothing executes, for writes that must or must not work.
global_asm!(
    "
.section .text.selftest, \"ax\"
.balign 4
.global selftest_text_word
selftest_text_word:
	.word	0
"
);

unsafe extern "C" {
    static selftest_text_word: u32;
}

fn text_word_va() -> u64 {
    (&raw const selftest_text_word).addr() as u64
}

fn text_word() -> u32 {
    // SAFETY: readable; volatile, as it changes behind the compiler's back.
    unsafe { (&raw const selftest_text_word).read_volatile() }
}

/// Why text could not be written through its alias before the protect stage.
#[derive(Clone, Copy, Debug)]
pub enum AliasError {
    /// The write faulted.
    #[expect(dead_code, reason = "shown by Debug")]
    Faulted(guarded::Fault),
    /// It went somewhere else.
    WentElsewhere,
}

/// Where the linear map shows an address of the image.
fn linear_alias(boot: &BootInfo, va: u64) -> u64 {
    boot.linear.virt(boot.image_pa + (va - image::text().va()))
}

/// Writes the text word through the linear map, as is possible before the
/// protect stage.
pub(super) fn write_text_through_alias(boot: &BootInfo) -> Result<(), AliasError> {
    // SAFETY: nothing executes the word.
    unsafe { guarded::store8(linear_alias(boot, text_word_va()), 0xa5) }
        .map_err(AliasError::Faulted)?;
    if text_word() == 0xa5 {
        Ok(())
    } else {
        Err(AliasError::WentElsewhere)
    }
}

/// Writes a byte, which must raise a permission fault.
fn must_not_be_writable(what: &str, va: u64) -> TestResult {
    // SAFETY: must fault; callers choose bytes whose change harms nothing.
    match unsafe { guarded::store8(va, 0x5a) } {
        Ok(()) => Err(End::Failed(format!("{what} at {va:#x} could be written"))),
        Err(fault) => {
            let refused = is_permission_fault(fault.esr) && is_write(fault.esr);
            check!(refused, "{what} at {va:#x}: {fault}");
            Ok(())
        }
    }
}

fn write_text(_: &mut Context<'_>) -> TestResult {
    must_not_be_writable("text", text_word_va())
}

static CONSTANT: [u8; 16] = [0x11; 16];

fn write_rodata(context: &mut Context<'_>) -> TestResult {
    if context.boot.options.rodata == RodataMode::Off {
        return Err(End::Skipped("rodata=off"));
    }
    must_not_be_writable("rodata", CONSTANT.as_ptr().addr() as u64)?;
    let rodata = image::rodata();
    must_not_be_writable("the end of rodata", rodata.va() + rodata.size_bytes() - 1)
}

fn text_alias(context: &mut Context<'_>) -> TestResult {
    let before = context.before.text_alias_write;
    check!(
        before.is_ok(),
        "before the protect stage the alias was no way to write: {before:?}"
    );
    let text_word_alias = linear_alias(context.boot, text_word_va());
    must_not_be_writable("the linear alias of text", text_word_alias)?;
    check!(text_word() == 0xa5, "the text changed");
    Ok(())
}

/// Whatever `rodata=` says.
fn rodata_alias(context: &mut Context<'_>) -> TestResult {
    let rodata = image::rodata();
    let last = rodata.va() + rodata.size_bytes() - 1;
    for va in [CONSTANT.as_ptr().addr() as u64, last] {
        must_not_be_writable("the linear alias of rodata", linear_alias(context.boot, va))?;
    }
    Ok(())
}

/// `ret`, where no code belongs.
#[repr(align(4))]
struct Code(#[expect(dead_code, reason = "only branched to")] u32);

fn execute_data(_: &mut Context<'_>) -> TestResult {
    static mut DATA: Code = Code(0xd65f_03c0);
    static RODATA: Code = Code(0xd65f_03c0);
    let heap = Box::new(Code(0xd65f_03c0));
    let stack = Code(0xd65f_03c0);
    let places = [
        ("data", (&raw const DATA).addr()),
        ("rodata", (&raw const RODATA).addr()),
        ("the heap", (&raw const *heap).addr()),
        ("the stack", (&raw const stack).addr()),
    ];
    for (what, va) in places {
        // SAFETY: must fault; what is there is a RET.
        let branched = unsafe { guarded::branch(va as u64) };
        let refused = branched.is_err_and(|fault| is_permission_fault(fault.esr));
        check!(
            refused,
            "{what} at {va:#x} could be executed: {branched:x?}"
        );
    }
    Ok(())
}

unsafe extern "C" {
    static init_stack_guard: u8;
    static init_stack_bottom: u8;
    static exception_stack_guard: u8;
    static exception_stack_bottom: u8;
}

/// From the labels of head.S, not from what the mapper made of them: each guard
/// is a hole, at least a page of the largest granule, and the stack above is not.
fn stack_guard(_: &mut Context<'_>) -> TestResult {
    let guards = [
        (&raw const init_stack_guard, &raw const init_stack_bottom),
        (
            &raw const exception_stack_guard,
            &raw const exception_stack_bottom,
        ),
    ];
    for (guard, bottom) in guards {
        let (guard, bottom) = (guard.addr() as u64, bottom.addr() as u64);
        check!(
            bottom - guard >= 64 << 10,
            "the guard at {guard:#x} is too small"
        );
        for va in (guard..bottom).step_by(PAGE_SIZE as usize) {
            check!(
                translate_read(va).is_none(),
                "the guard page at {va:#x} is mapped"
            );
        }
        check!(
            translate_write(bottom).is_some(),
            "the stack at {bottom:#x} is not writable"
        );
        // SAFETY: must fault; if not, nothing is there.
        let written = unsafe { guarded::store8(bottom - 1, 0x5a) };
        let faulted = written.is_err_and(|fault| is_translation_fault(fault.esr));
        check!(faulted, "below the stack at {bottom:#x}: {written:x?}");
    }
    let here = 0_u8;
    let sp = (&raw const here).addr();
    let [init_stack, _] = image::runtime_stacks();
    check!(
        (init_stack.start..init_stack.end).contains(&(sp as u64)),
        "SP is not on the stack"
    );
    Ok(())
}

fn device_tree(context: &mut Context<'_>) -> TestResult {
    let fdt = context.boot.fdt;
    let va = fixmap::FIX_FDT + fdt.start % PAGE_SIZE;
    // SAFETY: the device tree's header.
    let magic = unsafe { guarded::load32(va) };
    check!(
        magic == Ok(0xd00d_feed_u32.swap_bytes()),
        "no device tree in its window: {magic:x?}"
    );
    must_not_be_writable("the device tree", va + 8)?;
    must_not_be_writable("the device tree's last byte", va + fdt.size_bytes() - 1)
}

/// Memory to play with, its physical address; aligned to its size. From the heap,
/// and a block, or what is too large for the heap, from RAM that nobody took. Never
/// given back: it stays mapped twice.
fn scratch(context: &mut Context<'_>, size_bytes: u64) -> Result<u64, End> {
    let layout = Layout::from_size_align(size_bytes as usize, size_bytes as usize)
        .map_err(|error| End::Failed(format!("{error}")))?;
    if size_bytes < LEVEL2_BLOCK_SIZE {
        // SAFETY: the size is not zero.
        let memory = unsafe { alloc::alloc::alloc(layout) };
        if !memory.is_null() {
            return Ok((memory.addr() as u64).wrapping_sub(context.boot.linear.offset()));
        }
    }
    match context.take_memory(size_bytes, size_bytes) {
        Some(range) => Ok(range.start),
        None => Err(End::Skipped("no free RAM is that large")),
    }
}

/// Maps memory read-write where the tables for it are.
fn map(context: &mut Context<'_>, va: u64, pa: u64, size_bytes: u64, flags: Flags) -> TestResult {
    let mapping = Mapping {
        va: VirtAddr::new(va),
        pa: PhysAddr::new(pa),
        size_bytes,
        prot: PAGE_KERNEL,
    };
    match context.tables.create_mapping_noalloc(mapping, flags) {
        Ok(flush) => tlb::execute(flush),
        Err(error) => return Err(End::Failed(format!("{error}"))),
    }
    Ok(())
}

fn set_prot(context: &mut Context<'_>, va: u64, size_bytes: u64, prot: Prot) -> TestResult {
    match context
        .tables
        .update_mapping_prot(VirtAddr::new(va), size_bytes, prot)
    {
        Ok(flush) => tlb::execute(flush),
        Err(error) => {
            return Err(End::Failed(format!(
                "cannot make {va:#x} {prot:?}: {error}"
            )));
        }
    }
    Ok(())
}

/// Each access warms the TLB entry that the next change must invalidate: a table
/// walk alone would hide a flush that was forgotten.
fn change_takes_effect(context: &mut Context<'_>) -> TestResult {
    let va = fixmap::FIX_SELFTEST;
    let pa = scratch(context, PAGE_SIZE)?;
    map(context, va, pa, PAGE_SIZE, Flags::NONE)?;
    for value in [1, 2, 3] {
        // SAFETY: the page is this test's alone.
        let written = unsafe { guarded::store8(va, value) };
        check!(
            written.is_ok(),
            "round {value}: cannot write what is read-write"
        );
        set_prot(context, va, PAGE_SIZE, PAGE_KERNEL_RO)?;
        must_not_be_writable("a page made read-only", va)?;
        // SAFETY: as above.
        let byte = unsafe { guarded::load32(va) }.map(|word| word as u8);
        check!(
            byte == Ok(value),
            "round {value}: reads {byte:x?} after the change"
        );
        set_prot(context, va, PAGE_SIZE, PAGE_KERNEL)?;
    }
    set_prot(context, va, PAGE_SIZE, PAGE_KERNEL_RO)
}

/// More pages than are invalidated one by one, of the same memory time and again.
fn large_change_takes_effect(context: &mut Context<'_>) -> TestResult {
    // Little: the host gives a guest its memory when it is first written to.
    const MEMORY_BYTES: u64 = 512 << 10;
    let (start, size_bytes) = (
        fixmap::FIX_SELFTEST_PAGES,
        fixmap::SELFTEST_PAGES * PAGE_SIZE,
    );
    let pa = scratch(context, MEMORY_BYTES)?;
    for va in (start..start + size_bytes).step_by(MEMORY_BYTES as usize) {
        map(context, va, pa, MEMORY_BYTES, Flags::NO_BLOCK)?;
    }
    becomes_read_only(context, start, size_bytes)
}

/// The same for a block. It is new, and no table is missing for it: the other half
/// of the promise.
fn block_change_takes_effect(context: &mut Context<'_>) -> TestResult {
    let va = fixmap::FIX_SELFTEST_BLOCK;
    let pa = scratch(context, LEVEL2_BLOCK_SIZE)?;
    map(context, va, pa, LEVEL2_BLOCK_SIZE, Flags::NONE)?;
    let leaf = context.tables.walk(VirtAddr::new(va)).leaf();
    check!(
        leaf.is_some_and(|leaf| leaf.size_bytes == LEVEL2_BLOCK_SIZE),
        "no block: {leaf:x?}"
    );
    becomes_read_only(context, va, LEVEL2_BLOCK_SIZE)
}

fn becomes_read_only(context: &mut Context<'_>, va: u64, size_bytes: u64) -> TestResult {
    let places = [va, va + size_bytes / 2, va + size_bytes - 1];
    for place in places {
        // SAFETY: the memory is this test's alone.
        let written = unsafe { guarded::store8(place, 1) };
        check!(written.is_ok(), "{place:#x}: {written:x?}");
    }
    set_prot(context, va, size_bytes, PAGE_KERNEL_RO)?;
    for place in places {
        must_not_be_writable("what was made read-only", place)?;
    }
    Ok(())
}

/// Normal to Device needs break-before-make: refused, and nothing is written.
fn live_type_change_refused(context: &mut Context<'_>) -> TestResult {
    let va = VirtAddr::new(image::data()[0].va());
    let before = context.tables.walk(va).leaf();
    let device = Prot::ReadWrite(MemType::Device_nGnRE);
    let result = context.tables.update_mapping_prot(va, PAGE_SIZE, device);
    check!(
        matches!(result, Err(MapError::NeedsBreakBeforeMake { .. })),
        "data may become Device memory while it is used: {result:?}"
    );
    check!(
        context.tables.walk(va).leaf() == before,
        "refused, but written"
    );
    Ok(())
}
