//! A watchpoint below the stack: with the MMU off nothing else stops an overflow.

use core::arch::asm;

use platform::range::PhysRange;

/// Traps every access of EL1 to `range`: a power of two of at least 8 bytes, and
/// aligned to it. The exception has class 0x35 and the exact address in FAR.
///
/// (Arm ARM, DBGWCRn_EL1 and MDSCR_EL1: KDE lets EL1 debug itself, MDE turns
/// watchpoints on, PSTATE.D must be clear, and the OS lock is set at reset.)
pub fn watch(range: PhysRange) {
    let mask = u64::from(range.size_bytes().trailing_zeros());
    // MASK, BAS = all bytes, LSC = loads and stores, PAC = EL1, enable.
    let control = mask << 24 | 0xff << 5 | 0b11 << 3 | 0b01 << 1 | 1;
    // SAFETY: affects only accesses to `range`, which nobody should make.
    unsafe {
        asm!(
            "msr oslar_el1, xzr",
            "msr dbgwvr0_el1, {address}",
            "msr dbgwcr0_el1, {control}",
            "mrs {old}, mdscr_el1",
            "orr {old}, {old}, {kde_mde}",
            "msr mdscr_el1, {old}",
            "isb", // all of it, before the next access
            "msr daifclr, #8",
            address = in(reg) range.start,
            control = in(reg) control,
            kde_mde = in(reg) 1_u64 << 15 | 1 << 13,
            old = out(reg) _,
            options(nostack, preserves_flags)
        );
    }
}

/// Traps nothing any more: the guard page has taken over.
pub fn unwatch() {
    // SAFETY: turns off what watch() turned on.
    unsafe {
        asm!(
            "msr daifset, #8",
            "msr dbgwcr0_el1, xzr",
            "isb",
            options(nomem, nostack, preserves_flags)
        );
    }
}
