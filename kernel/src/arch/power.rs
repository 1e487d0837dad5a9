//! The ways out: PSCI, semihosting, or none.

use core::sync::atomic::{AtomicU8, Ordering};

use platform::cmdline::ExitMode;
use platform::fdt::Conduit;
use smccc::{Hvc, Smc, psci};

use super::cpu;
use crate::blackbox;

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

/// Sets how [`exit`] leaves, once device tree and command line have been read.
pub fn configure(conduit: Option<Conduit>, mode: ExitMode) {
    let conduit = match conduit {
        None => UNKNOWN,
        Some(Conduit::Hvc) => HVC,
        Some(Conduit::Smc) => SMC,
    };
    CONDUIT.store(conduit, Ordering::Relaxed);
    EXIT_MODE.store(mode as u8, Ordering::Relaxed);
}

/// Ends the boot: as `exit=` says, by PSCI SYSTEM_OFF otherwise, and parked
/// where there is no way out.
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
    }
    cpu::park()
}

/// Starts over: PSCI SYSTEM_RESET. Returns if there is no PSCI.
pub fn reset() {
    blackbox::persist();
    let _ = match CONDUIT.load(Ordering::Relaxed) {
        HVC => psci::system_reset::<Hvc>(),
        SMC => psci::system_reset::<Smc>(),
        _ => Ok(()),
    };
}
