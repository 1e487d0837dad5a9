//! Known-answer faults, named as Linux's LKDTM names them: `fault=NAME@STAGE`
//! commits one at the start of a stage, `fault=NAME@STAGE,once` only in the first
//! boot of a machine that gets reset. `kernel/faults.toml` says for each what
//! a tester must find, or why it cannot be had there; a comment `fault: NAME`, on
//! the line or the one before, says where it must find it.

use alloc::vec::Vec;
use core::arch::asm;
use core::hint::black_box;
use core::sync::atomic::{AtomicBool, AtomicU8, Ordering};

use early_mmu::{
    Flags, MapError, Mapping, MemType, PAGE_KERNEL, PhysAddr, Prot, TableAlloc, VirtAddr,
};
use platform::cmdline::Fault;
use platform::range::PhysRange;

use crate::arch::mmu::TableWindow;
use crate::arch::{cpu, power};
use crate::blackbox::previous_boot;
use crate::boot::early::early_tables;
use crate::boot::info::boot_info;
use crate::console::raw_println;
use crate::mm::frames::Frames;
use crate::mm::layout::{KIMAGE_VADDR, PAGE_END, PAGE_SIZE};
use crate::mm::{self, KernelTables, image};
use crate::report::warn_once;
use crate::stage::Stage;

const CATALOGUE: &str = include_str!("../faults.toml");

type Commit = fn(Stage);

/// Between linear map and image, where nothing is mapped.
const NOWHERE: usize = PAGE_END as usize + (1 << 30);

/// Every fault there is; FAIL_SELFTEST is a self-test's business.
const FAULTS: &[(&str, Commit)] = &[
    ("PANIC", |_| panic!("fault=PANIC")), // fault: PANIC
    ("BUG", |_| bug()),                   // fault: BUG
    ("WARNING", |_| warn_once!("fault=WARNING")),
    ("EXCEPTION", |_| undefined_instruction()),
    ("LOOP", |_| spin()),
    ("HARDLOCKUP", |_| hard_lockup()),
    ("WFI", |_| wait_masked()),
    ("EXHAUST_STACK", |_| {
        black_box(exhaust_stack(1));
    }),
    ("UNALIGNED", |_| unaligned_exclusive()),
    ("ACCESS_NULL", |_| read(0)),
    ("EXEC_NULL", |_| jump(0)),
    ("WRITE_RO", |_| write((&raw const CONSTANT).addr())),
    ("WRITE_KERN", |_| {
        write(undefined_instruction as *const () as usize)
    }),
    ("EXEC_DATA", |_| jump((&raw const DATA_CODE).addr())),
    ("EXEC_STACK", |_| execute_stack()),
    ("EXEC_RODATA", |_| jump((&raw const CONSTANT).addr())),
    ("DOUBLE_FAULT", |_| double_fault()),
    ("LOST_VECTORS", |_| lose_vectors()),
    ("CORRUPT_STACK", |_| corrupt_stack()), // fault: CORRUPT_STACK
    ("WILD_JUMP", |_| jump(NOWHERE)),
    ("RESET", |_| power::reset()),
    ("NOALLOC_MISSING_TABLE", noalloc_missing_table),
    ("NOALLOC_HOISTED_ASSERT", noalloc_hoisted_assert),
    ("UNSAFE_PROT_CHANGE", unsafe_prot_change),
    ("TABLE_POOL_EXHAUSTED", table_pool_exhausted),
    ("OOM", |_| out_of_memory()),
    ("FAIL_SELFTEST", |_| {
        FAIL_SELFTEST.store(true, Ordering::Relaxed)
    }),
];

const NONE: u8 = u8::MAX;

// Plain loads and stores, for the early stage.
static CHOSEN: AtomicU8 = AtomicU8::new(NONE);
static AT_STAGE: AtomicU8 = AtomicU8::new(NONE);
static FAIL_SELFTEST: AtomicBool = AtomicBool::new(false);

/// Takes note of what the command line asks for, unless it asks for it once and
/// the machine has booted before; `false` if there is no such
/// fault or stage, or the stage is over before the command line is known.
pub fn choose(fault: Fault<'_>) -> bool {
    let named = FAULTS.iter().position(|(name, _)| *name == fault.name);
    let stage = Stage::ALL
        .into_iter()
        .find(|stage| stage.name() == fault.stage);
    match (named, stage) {
        (Some(_), Some(stage))
            if stage >= Stage::Fdt && fault.once && previous_boot().is_some() =>
        {
            true
        }
        (Some(index), Some(stage)) if stage >= Stage::Fdt => {
            CHOSEN.store(index as u8, Ordering::Relaxed);
            AT_STAGE.store(stage as u8, Ordering::Relaxed);
            true
        }
        _ => false,
    }
}

/// Commits the chosen fault if this is its stage.
pub fn at(stage: Stage) {
    if AT_STAGE.load(Ordering::Relaxed) != stage as u8 {
        return;
    }
    AT_STAGE.store(NONE, Ordering::Relaxed);
    if let Some((name, commit)) = FAULTS.get(usize::from(CHOSEN.load(Ordering::Relaxed))) {
        commit(stage);
        raw_println!("fault={name}@{}: survived", stage.name());
    }
}

/// Whether a self-test is to fail on purpose.
pub fn fail_selftest() -> bool {
    FAIL_SELFTEST.load(Ordering::Relaxed)
}

/// Lists all faults with what each does.
pub fn help() {
    raw_println!("fault=NAME[@STAGE][,once]: once, not again after a reset. STAGE one of");
    for stage in Stage::ALL.into_iter().filter(|&stage| stage >= Stage::Fdt) {
        raw_println!("  {}", stage.name());
    }
    raw_println!("NAME one of");
    let mut name = "";
    for line in CATALOGUE.lines() {
        if let Some(section) = line
            .strip_prefix('[')
            .and_then(|rest| rest.strip_suffix(']'))
        {
            name = section;
        } else if let Some(summary) = line.strip_prefix("summary = ") {
            raw_println!("  {name:<24} {}", summary.trim_matches('"'));
        }
    }
}

#[track_caller]
fn bug() -> ! {
    let location = core::panic::Location::caller();
    panic!("kernel BUG at {}:{}!", location.file(), location.line());
}

#[inline(never)]
fn undefined_instruction() {
    // SAFETY: faults, which is the point.
    unsafe { asm!("udf #0", options(nomem, nostack)) } // fault: EXCEPTION
}

#[inline(never)]
fn spin() {
    // SAFETY: goes nowhere.
    unsafe { asm!("b .", options(nomem, nostack)) } // fault: LOOP
}

#[inline(never)]
fn hard_lockup() {
    // SAFETY: masks everything and goes nowhere.
    unsafe { asm!("msr daifset, #0xf", "b .", options(nomem, nostack)) } // fault: HARDLOCKUP
}

#[inline(never)]
fn wait_masked() {
    // SAFETY: masks everything; nothing is armed that could wake the CPU.
    unsafe { asm!("msr daifset, #0xf", options(nomem, nostack)) }
    cpu::park()
}

/// Never returns before the stack is gone.
#[inline(never)]
#[expect(unconditional_recursion, reason = "to exhaust the stack")]
// fault: EXHAUST_STACK
fn exhaust_stack(depth: u64) -> u64 {
    let frame = black_box([depth; 64]); // fault: EXHAUST_STACK
    exhaust_stack(depth + 1) + frame[depth as usize % 64] // fault: EXHAUST_STACK
}

/// Exclusives fault on an unaligned address whatever the memory type; across 16
/// bytes even with FEAT_LSE2.
#[inline(never)]
fn unaligned_exclusive() {
    let words = black_box([0_u64; 4]);
    let address = ((&raw const words).addr() & !15) + 13;
    // SAFETY: faults; the bytes are on this stack in any case.
    // fault: UNALIGNED
    unsafe { asm!("ldxr {0:w}, [{1}]", out(reg) _, in(reg) address, options(nostack, readonly)) }
}

#[inline(never)]
fn read(address: usize) {
    // SAFETY: faults, or reads what nobody needs.
    // fault: ACCESS_NULL
    unsafe { asm!("ldr {0:w}, [{1}]", out(reg) _, in(reg) address, options(nostack, readonly)) }
}

#[inline(never)]
fn write(address: usize) {
    // SAFETY: faults. If not, the boot is about to end anyway: what is written
    // to is the text of a fault, or a constant of this module.
    unsafe { asm!("str wzr, [{}]", in(reg) address, options(nostack)) } // fault: WRITE_RO WRITE_KERN
}

#[inline(never)]
fn jump(address: usize) {
    // SAFETY: faults, or returns: where there is code, it is a RET.
    // fault: EXEC_NULL EXEC_DATA EXEC_STACK EXEC_RODATA WILD_JUMP
    unsafe { asm!("blr {}", in(reg) address, clobber_abi("C")) }
}

/// RET.
static CONSTANT: [u32; 4] = [0xd65f_03c0; 4];
static mut DATA_CODE: u32 = 0xd65f_03c0;

#[inline(never)]
fn execute_stack() {
    let code = black_box(0xd65f_03c0_u32);
    jump((&raw const code).addr());
}

/// A fault in the handler of a fault: see [`while_reporting`].
#[inline(never)]
fn double_fault() {
    DOUBLE_FAULT.store(true, Ordering::Relaxed);
    // SAFETY: faults, which is the point. Here, or it would be told as EXCEPTION is.
    unsafe { asm!("udf #0", options(nomem, nostack)) } // fault: DOUBLE_FAULT
}

static DOUBLE_FAULT: AtomicBool = AtomicBool::new(false);

/// Called by the handler of unexpected exceptions.
pub fn while_reporting() {
    if DOUBLE_FAULT.load(Ordering::Relaxed) {
        read(NOWHERE);
    }
}

#[inline(never)]
fn lose_vectors() {
    // SAFETY: no vector is there; what follows recurses for ever.
    unsafe { asm!("msr vbar_el1, {}", "isb", "udf #0", in(reg) NOWHERE) } // fault: LOST_VECTORS
}

/// Returns by a frame record that was overwritten. Where that was done cannot be told afterwards,
/// only the innermost call that the stack still has a record of.
#[inline(never)]
fn corrupt_stack() {
    // SAFETY: faults at the RET that loads what is written here.
    unsafe {
        asm!(
            "stp x29, x30, [sp, #-16]!",
            "stp {wild}, {wild}, [sp]",
            "ldp x29, x30, [sp], #16",
            "ret",
            wild = in(reg) 0x5a5a_5a5a_5a5a_5a50_u64,
            options(noreturn)
        );
    }
}

fn tables(stage: Stage) -> KernelTables {
    if stage < Stage::High {
        early_tables()
    } else {
        mm::kernel_tables(boot_info())
    }
}

/// A page where the kernel has no tables.
fn nowhere() -> Mapping {
    Mapping {
        va: VirtAddr::new(PAGE_END + (1 << 40)),
        pa: PhysAddr::new(0x4000_0000),
        size_bytes: PAGE_SIZE,
        prot: PAGE_KERNEL,
    }
}

/// What an early caller does with a refusal.
#[track_caller]
fn expect_mapped(result: Result<early_mmu::Flush, MapError>) {
    match result {
        Ok(flush) => flush.ignore_because("nobody uses the address"),
        Err(error) => panic!("{error}"),
    }
}

#[inline(never)]
fn noalloc_missing_table(stage: Stage) {
    // fault: NOALLOC_MISSING_TABLE
    expect_mapped(tables(stage).create_mapping_noalloc(nowhere(), Flags::NONE));
}

/// Linux's `__create_pgd_mapping` as 9ed2b4616d4e left it: the allocator is
/// asserted on entry, needed or not.
#[inline(never)]
fn create_pgd_mapping_9ed2b46<A>(tables: &mut KernelTables, mapping: Mapping, alloc: Option<&mut A>)
where
    A: TableAlloc<Frame = mm::frames::Frame>,
{
    let Some(alloc) = alloc else {
        panic!("kernel BUG: !pgtable_alloc"); // fault: NOALLOC_HOISTED_ASSERT
    };
    expect_mapped(tables.create_mapping(mapping, Flags::NONE, alloc));
}

/// An early caller, which passes no allocator on purpose. Which mapping it asks
/// for does not matter: the assertion comes first.
#[inline(never)]
fn noalloc_hoisted_assert(stage: Stage) {
    create_pgd_mapping_9ed2b46::<Frames<'_>>(&mut tables(stage), nowhere(), None);
}

/// Live data to Device memory, without break-before-make.
#[inline(never)]
fn unsafe_prot_change(stage: Stage) {
    let va = VirtAddr::new(KIMAGE_VADDR + image::data()[0].start);
    let device = Prot::ReadWrite(MemType::Device_nGnRE);
    // fault: UNSAFE_PROT_CHANGE
    expect_mapped(tables(stage).update_mapping_prot(va, PAGE_SIZE, device));
}

#[inline(never)]
fn table_pool_exhausted(stage: Stage) {
    // SAFETY: there is no frame in it that could be used wrongly.
    let mut empty = unsafe { Frames::of_run(TableWindow::new(0), PhysRange { start: 0, end: 0 }) };
    // fault: TABLE_POOL_EXHAUSTED
    expect_mapped(tables(stage).create_mapping(nowhere(), Flags::NONE, &mut empty));
}

#[inline(never)]
fn out_of_memory() {
    black_box(Vec::<u8>::with_capacity(1 << 40)); // fault: OOM
}
