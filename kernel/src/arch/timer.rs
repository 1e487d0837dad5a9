//! Time since power-on, from the generic timer.

use aarch64_cpu::asm::barrier;
use aarch64_cpu::registers::{CNTFRQ_EL0, CNTVCT_EL0, Readable};

/// Microseconds since the counter started; 0 if firmware left CNTFRQ unset.
pub fn uptime_us() -> u64 {
    // The counter may be read early otherwise (Arm ARM, Generic Timer).
    barrier::isb(barrier::SY);
    let ticks = u128::from(CNTVCT_EL0.get());
    match u128::from(CNTFRQ_EL0.get()) {
        0 => 0,
        frequency_hz => (ticks * 1_000_000 / frequency_hz) as u64,
    }
}
