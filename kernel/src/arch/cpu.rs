//! What this CPU can do, from its ID registers, and how it idles.

use aarch64_cpu::asm;
use aarch64_cpu::registers::{ID_AA64MMFR0_EL1, MIDR_EL1, Readable};
use early_mmu::Geometry as _;

use crate::mm::layout::Geometry;

/// The CPU lacks the translation granule, or its ID field is reserved.
#[derive(Clone, Copy, Debug)]
pub struct NoGranule {
    /// The field of `ID_AA64MMFR0_EL1` that says so.
    pub field: &'static str,
    /// Its value.
    pub value: u64,
}

/// Whether the kernel's granule can be used at stage 1.
///
/// # Errors
/// What says no. (Arm ARM, ID_AA64MMFR0_EL1: TGran4 and TGran64 are signed, and 0
/// and above mean supported; TGran16 is not, and 0 means not supported.)
pub fn check_granule() -> Result<(), NoGranule> {
    let mmfr0 = ID_AA64MMFR0_EL1.extract();
    let (field, value, lowest, highest) = match Geometry::GRANULE_SHIFT {
        12 => ("TGran4", mmfr0.read(ID_AA64MMFR0_EL1::TGran4), 0, 7),
        14 => ("TGran16", mmfr0.read(ID_AA64MMFR0_EL1::TGran16), 1, 15),
        _ => ("TGran64", mmfr0.read(ID_AA64MMFR0_EL1::TGran64), 0, 7),
    };
    match (lowest..=highest).contains(&value) {
        true => Ok(()),
        false => Err(NoGranule { field, value }),
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

/// Sleeps for ever.
pub fn park() -> ! {
    loop {
        asm::wfi(); // fault: WFI
    }
}
