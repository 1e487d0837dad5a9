//! How far the boot has come.

use log::Level;

use crate::arch::timer;
use crate::{blackbox, fault, logger};

/// The stages of a boot, in order; head.S enters the first three.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
#[repr(u8)]
pub enum Stage {
    /// First instructions.
    Entry,
    /// The image's pointers are made to fit its physical address.
    Relocate,
    /// The identity map is built.
    Idmap,
    /// The device tree is read.
    Fdt,
    /// The kernel's tables are built.
    EarlyMmu,
    /// The MMU is turned on.
    MmuOn,
    /// The kernel runs at its virtual address.
    High,
    /// The log is set up.
    Console,
    /// The heap is set up.
    Heap,
    /// What is constant becomes read-only.
    Protect,
    /// The self-tests run.
    Selftest,
    /// Nothing is left to do.
    Done,
}

impl Stage {
    /// All of them.
    pub const ALL: [Self; 12] = [
        Self::Entry,
        Self::Relocate,
        Self::Idmap,
        Self::Fdt,
        Self::EarlyMmu,
        Self::MmuOn,
        Self::High,
        Self::Console,
        Self::Heap,
        Self::Protect,
        Self::Selftest,
        Self::Done,
    ];

    /// Its name on the console and in reports.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Entry => "entry",
            Self::Relocate => "relocate",
            Self::Idmap => "idmap",
            Self::Fdt => "fdt",
            Self::EarlyMmu => "early_mmu",
            Self::MmuOn => "mmu_on",
            Self::High => "high",
            Self::Console => "console",
            Self::Heap => "heap",
            Self::Protect => "protect",
            Self::Selftest => "selftest",
            Self::Done => "done",
        }
    }
}

/// How far the boot is now.
pub fn current() -> Stage {
    blackbox::stage()
}

/// The boot has come this far.
pub fn enter(stage: Stage) {
    blackbox::enter_stage(stage, timer::ticks());
    logger::line(
        Level::Debug,
        "boot",
        format_args!("stage: {}", stage.name()),
    );
    fault::at(stage);
}
