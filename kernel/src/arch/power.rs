//! The ways out: PSCI, a board's power manager, semihosting, or none.

use core::sync::atomic::{AtomicU8, AtomicU64, Ordering};

use platform::cmdline::ExitMode;
use platform::fdt::{Conduit, Firmware};
use smccc::{Hvc, Smc, psci};

use super::cpu;
use crate::blackbox;
use crate::drivers::bcm2835_pm::Bcm2835Pm;
use crate::mm::layout::PAGE_SIZE;

/// How the boot went, as the outside is told.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// Everything as it should be.
    Pass,
    /// Anything else.
    Fail,
}

const UNKNOWN: u8 = 0;
const HVC: u8 = 1;
const SMC: u8 = 2;

// Plain loads and stores only: with the MMU off there are no exclusives.
static CONDUIT: AtomicU8 = AtomicU8::new(UNKNOWN);
static EXIT_MODE: AtomicU8 = AtomicU8::new(ExitMode::Psci as u8);
// Where the power manager is now. A device's address survives the jump.
static MANAGER: AtomicU64 = AtomicU64::new(NONE);
const NONE: u64 = 0;

/// Sets how [`exit`] leaves, once device tree and command line have been read.
pub fn configure(firmware: &Firmware, mode: ExitMode) {
    let conduit = match firmware.psci {
        None => UNKNOWN,
        Some(Conduit::Hvc) => HVC,
        Some(Conduit::Smc) => SMC,
    };
    CONDUIT.store(conduit, Ordering::Relaxed);
    MANAGER.store(firmware.power_manager.unwrap_or(NONE), Ordering::Relaxed);
    EXIT_MODE.store(mode as u8, Ordering::Relaxed);
}

/// The power manager's page is now at `page`; nothing happens if there is none.
///
/// # Safety
/// `page` must map the page of what [`configure`] was told of.
pub unsafe fn move_to(page: u64) {
    let base = MANAGER.load(Ordering::Relaxed);
    if base != NONE {
        MANAGER.store(page + base % PAGE_SIZE, Ordering::Relaxed);
    }
}

fn manager() -> Option<Bcm2835Pm> {
    match MANAGER.load(Ordering::Relaxed) {
        NONE => None,
        // SAFETY: the device tree says so, and move_to()'s callers kept up.
        base => Some(unsafe { Bcm2835Pm::at(base) }),
    }
}

/// Whether [`exit`] parks without having been told to: neither device tree nor
/// command line names a way out.
pub fn has_no_way_out() -> bool {
    EXIT_MODE.load(Ordering::Relaxed) == ExitMode::Psci as u8
        && CONDUIT.load(Ordering::Relaxed) == UNKNOWN
        && manager().is_none()
}

/// Ends the boot: as `exit=` says, by PSCI SYSTEM_OFF or the board's power
/// manager otherwise, and parked where there is no way out.
pub fn exit(outcome: Outcome) -> ! {
    blackbox::persist();
    let mode = EXIT_MODE.load(Ordering::Relaxed);
    // If this way out faults, the report of that takes the next one.
    let next = match mode == ExitMode::Semihosting as u8 {
        true => ExitMode::Psci,
        false => ExitMode::Halt,
    };
    EXIT_MODE.store(next as u8, Ordering::Relaxed);
    if mode == ExitMode::Semihosting as u8 {
        let status = match outcome {
            Outcome::Pass => semihosting::process::ExitCode::SUCCESS,
            Outcome::Fail => semihosting::process::ExitCode::FAILURE,
        };
        status.exit_process();
    }
    if mode == ExitMode::Psci as u8 {
        // Returns only if the call failed or the conduit is not known.
        let _ = match CONDUIT.load(Ordering::Relaxed) {
            HVC => psci::system_off::<Hvc>(),
            SMC => psci::system_off::<Smc>(),
            _ => Ok(()),
        };
        if let Some(manager) = manager() {
            manager.power_off();
        }
    }
    cpu::park()
}

/// Starts over: PSCI SYSTEM_RESET, or the board's power manager. Returns if there
/// is neither, and from the latter at once.
pub fn reset() {
    blackbox::persist();
    let _ = match CONDUIT.load(Ordering::Relaxed) {
        HVC => psci::system_reset::<Hvc>(), // fault: RESET
        SMC => psci::system_reset::<Smc>(),
        _ => Ok(()),
    };
    if let Some(manager) = manager() {
        manager.reset();
    }
}
