//! A kernel that boots itself and checks the result.
//!
//! Read it in the order in which it runs:
//!
//! ```text
//! boot/head.S        first instructions: vectors, EL2 -> EL1, relocation, identity map
//! boot/early.rs      MMU off: device tree, early_mmu builds the kernel's tables
//! boot/enable_mmu.S  MMU on, jump to KIMAGE_VADDR, second relocation
//! kmain (below)      console, heap, protection, self-tests, verdict, power off
//! ```
//!
//! `platform` (the package's library) holds what needs no hardware.

#![no_std]
#![no_main]

extern crate alloc;

mod arch;
mod blackbox;
mod boot;
mod console;
mod drivers;
mod fault;
mod logger;
mod mm;
mod panic;
mod report;
mod selftest;
mod stage;

use arch::power::{self, Outcome};
use boot::info::boot_info;
use console::raw_println;
use stage::Stage;

/// The kernel at its virtual address. Called by `head.S` with the MMU on, the
/// identity map still in place, and everything relocated.
#[unsafe(no_mangle)]
extern "C" fn kmain() -> ! {
    let boot = boot_info();
    // SAFETY: the early stage mapped there the page that it opened.
    unsafe { console::move_to(mm::fixmap::FIX_EARLYCON) };
    // SAFETY: as for the console.
    unsafe { power::move_to(mm::fixmap::FIX_POWER) };
    stage::enter(Stage::High);
    // SAFETY: head.S relocated everything; console and stack are high.
    unsafe { arch::mmu::drop_identity_map() };
    // One from before the kernel's time, as the early stage said, stays where it is.
    let serror_is_pending = arch::exception::serror_is_pending();
    if !serror_is_pending {
        arch::exception::unmask_serror();
    }

    stage::enter(Stage::Console);
    logger::init();
    if serror_is_pending {
        log::warn!("a pending SError stays masked");
    }
    if let Some(boot) = blackbox::previous_boot().filter(|boot| !boot.ended_well()) {
        log::warn!("previous boot: {boot}");
    }
    mm::report(boot);
    let mut tables = mm::kernel_tables(boot);
    mm::setup_fdt(&mut tables, boot);

    stage::enter(Stage::Heap);
    mm::heap::init(boot);

    let before = selftest::before_protect(boot);
    stage::enter(Stage::Protect);
    mm::protect::mark_linear_text_alias_ro(&mut tables, boot);
    mm::protect::mark_rodata_ro(&mut tables, boot.options.rodata);
    let no_wx = mm::ptdump::check(&tables, boot.options.ptdump);

    stage::enter(Stage::Selftest);
    let passed = selftest::run(boot, &mut tables, before) && no_wx;

    stage::enter(Stage::Done);
    blackbox::set_outcome(passed);
    if power::has_no_way_out() {
        // Whoever watches would take it for a hang.
        raw_println!("boot: no way to power off, parks after this");
    }
    let outcome = if passed {
        raw_println!("boot: PASS");
        Outcome::Pass
    } else {
        raw_println!("boot: FAIL");
        Outcome::Fail
    };
    console::drain();
    power::exit(outcome)
}
