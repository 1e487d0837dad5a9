//! Rights as accesses see them: what must fault does, what changes counts at once.

use alloc::boxed::Box;
use core::arch::global_asm;

use early_mmu::{
    Flags, MapError, Mapping, MemType, PAGE_KERNEL, PAGE_KERNEL_RO, PhysAddr, Prot, VirtAddr,
};
use platform::cmdline::RodataMode;

use super::{Context, End, Test, TestResult, check};
use crate::arch::guarded::{self, Faulted};
use crate::arch::tlb;
use crate::boot::info::BootInfo;
use crate::mm::{fixmap, image, layout::PAGE_SIZE, protect};

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
    Faulted,
    /// It went somewhere else.
    WentElsewhere,
}

fn text_word_alias(boot: &BootInfo) -> u64 {
    protect::linear_alias(boot, image::text()) + (text_word_va() - image::text().va())
}

/// Writes the text word through the linear map, as is possible before the
/// protect stage.
pub(super) fn write_text_through_alias(boot: &BootInfo) -> Result<(), AliasError> {
    // SAFETY: nothing executes the word.
    unsafe { guarded::store8(text_word_alias(boot), 0xa5) }
        .map_err(|Faulted| AliasError::Faulted)?;
    if text_word() == 0xa5 {
        Ok(())
    } else {
        Err(AliasError::WentElsewhere)
    }
}

fn must_fault_on_write(what: &str, va: u64) -> TestResult {
    // SAFETY: must fault; callers choose bytes whose change harms nothing.
    let written = unsafe { guarded::store8(va, 0x5a) };
    check!(
        written == Err(Faulted),
        "{what} at {va:#x} could be written"
    );
    Ok(())
}

fn write_text(_: &mut Context<'_>) -> TestResult {
    must_fault_on_write("text", text_word_va())
}

static CONSTANT: [u8; 16] = [0x11; 16];

fn write_rodata(context: &mut Context<'_>) -> TestResult {
    if context.options.rodata == RodataMode::Off {
        return Err(End::Skipped("rodata=off"));
    }
    must_fault_on_write("rodata", CONSTANT.as_ptr().addr() as u64)?;
    let rodata = image::rodata();
    must_fault_on_write("the end of rodata", rodata.va() + rodata.size_bytes() - 1)
}

fn text_alias(context: &mut Context<'_>) -> TestResult {
    let before = context.before.text_alias_write;
    check!(
        before.is_ok(),
        "before the protect stage the alias was no way to write: {before:?}"
    );
    must_fault_on_write("the linear alias of text", text_word_alias(context.boot))?;
    check!(text_word() == 0xa5, "the text changed");
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
        check!(
            branched == Err(Faulted),
            "{what} at {va:#x} could be executed"
        );
    }
    Ok(())
}

fn stack_guard(_: &mut Context<'_>) -> TestResult {
    for guard in image::stack_guards() {
        let below_stack = image::text().va() + guard.end - 1;
        must_fault_on_write("a stack guard", below_stack)?;
    }
    Ok(())
}

fn device_tree(context: &mut Context<'_>) -> TestResult {
    let va = fixmap::FIX_FDT + context.boot.fdt.start % PAGE_SIZE;
    // SAFETY: the device tree's header.
    let magic = unsafe { guarded::load32(va) };
    check!(
        magic == Ok(0xd00d_feed_u32.swap_bytes()),
        "no device tree in its window: {magic:x?}"
    );
    must_fault_on_write("the device tree", va + 8)
}

/// A page to play with, and nothing else in it.
#[repr(align(4096))]
struct ScratchPage(
    #[expect(dead_code, reason = "reached by its address")] [u8; PAGE_SIZE as usize],
);

static mut SCRATCH: ScratchPage = ScratchPage([0; PAGE_SIZE as usize]);

/// Maps the scratch page read-write in its fixmap slot.
fn map_scratch(context: &mut Context<'_>) -> Result<u64, MapError> {
    let va = fixmap::FIX_SELFTEST;
    let offset = (&raw const SCRATCH).addr() as u64 - image::text().va();
    let mapping = Mapping {
        va: VirtAddr::new(va),
        pa: PhysAddr::new(context.boot.image_pa + offset),
        size_bytes: PAGE_SIZE,
        prot: PAGE_KERNEL,
    };
    tlb::execute(
        context
            .tables
            .create_mapping_noalloc(mapping, Flags::NONE)?,
    );
    Ok(va)
}

fn set_scratch(context: &mut Context<'_>, va: u64, prot: Prot) -> TestResult {
    let changed = context
        .tables
        .update_mapping_prot(VirtAddr::new(va), PAGE_SIZE, prot);
    match changed {
        Ok(flush) => tlb::execute(flush),
        Err(error) => check!(false, "cannot make the scratch page {prot:?}: {error}"),
    }
    Ok(())
}

/// Each access warms the TLB entry that the next change must invalidate: AT
/// would walk afresh, and so hide a flush that was forgotten.
fn change_takes_effect(context: &mut Context<'_>) -> TestResult {
    let va = map_scratch(context).map_err(|error| End::Failed(alloc::format!("{error}")))?;
    for value in [1, 2, 3] {
        // SAFETY: the scratch page is this test's alone.
        let written = unsafe { guarded::store8(va, value) };
        check!(
            written.is_ok(),
            "round {value}: cannot write what is read-write"
        );
        set_scratch(context, va, PAGE_KERNEL_RO)?;
        must_fault_on_write("a page made read-only", va)?;
        // SAFETY: as above.
        let word = unsafe { guarded::load32(va) };
        check!(
            word == Ok(value.into()),
            "round {value}: reads {word:x?} after the change"
        );
        set_scratch(context, va, PAGE_KERNEL)?;
    }
    set_scratch(context, va, PAGE_KERNEL_RO)
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
