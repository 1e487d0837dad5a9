//! What this CPU can do, from its ID registers, and how it idles.

use aarch64_cpu::asm;
use aarch64_cpu::registers::{ID_AA64MMFR0_EL1, MIDR_EL1, Readable, SCTLR_EL1};

/// A translation granule that the CPU lacks, or whose ID field is reserved.
#[derive(Clone, Copy, Debug)]
pub struct No4KGranule {
    /// `ID_AA64MMFR0_EL1.TGran4`.
    pub tgran4: u64,
}

/// Whether the 4 KiB granule can be used at stage 1.
///
/// # Errors
/// The value of the field, if it says no (Arm ARM, ID_AA64MMFR0_EL1.TGran4: a
/// signed field, in which 0 and above mean supported).
pub fn check_4k_granule() -> Result<(), No4KGranule> {
    match ID_AA64MMFR0_EL1.read(ID_AA64MMFR0_EL1::TGran4) {
        0..=7 => Ok(()),
        tgran4 => Err(No4KGranule { tgran4 }),
    }
}

/// `ID_AA64MMFR0_EL1.PARange` as the value for `TCR_EL1.IPS`, no larger than
/// 48 bits: a larger one needs descriptors of another format.
///
/// # Errors
/// The value of the field, if it is one that the Arm ARM reserves.
pub fn ips() -> Result<u64, u64> {
    match ID_AA64MMFR0_EL1.read(ID_AA64MMFR0_EL1::PARange) {
        reserved @ 8.. => Err(reserved),
        pa_range => Ok(pa_range.min(0b0101)),
    }
}

/// Width in bits of the physical addresses that `TCR_EL1.IPS = ips` allows.
pub fn pa_bits(ips: u64) -> u32 {
    [32, 36, 40, 42, 44, 48]
        .get(ips as usize)
        .copied()
        .unwrap_or(48)
}

/// The CPU's identity: implementer, variant, architecture, part, revision.
pub fn midr() -> u64 {
    MIDR_EL1.get()
}

/// Whether stage 1 translation is on.
pub fn mmu_is_on() -> bool {
    SCTLR_EL1.is_set(SCTLR_EL1::M)
}

/// Sleeps for ever.
pub fn park() -> ! {
    loop {
        asm::wfi();
    }
}
