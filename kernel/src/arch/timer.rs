//! Time since power-on, from the generic timer.

use aarch64_cpu::asm::barrier;
use aarch64_cpu::registers::{CNTFRQ_EL0, CNTVCT_EL0, Readable};

/// The counter.
pub fn ticks() -> u64 {
    // It may be read early otherwise (Arm ARM, Generic Timer).
    barrier::isb(barrier::SY);
    CNTVCT_EL0.get()
}

/// Microseconds since the counter started; 0 if firmware left CNTFRQ unset.
pub fn uptime_us() -> u64 {
    match u128::from(CNTFRQ_EL0.get()) {
        0 => 0,
        frequency_hz => (u128::from(ticks()) * 1_000_000 / frequency_hz) as u64,
    }
}
