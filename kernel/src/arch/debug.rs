//! A watchpoint below the stack: with the MMU off nothing else stops an overflow.

use core::arch::asm;

use aarch64_cpu::registers::{ID_AA64DFR0_EL1, Readable};
use platform::range::PhysRange;

/// Traps every access of EL1 to `range`: a power of two of at least 8 bytes, and
/// aligned to it. The exception has class 0x35 and the exact address in FAR. DC IVAC
/// counts as a store (Arm ARM, "Watchpoint behavior for certain instruction classes"),
/// but not in QEMU.
///
/// (Arm ARM, DBGWCRn_EL1 and MDSCR_EL1: KDE lets EL1 debug itself, MDE turns
/// watchpoints on, PSTATE.D must be clear, and the OS lock is set at reset.) What
/// else these registers hold after a reset is unknown, so all of them are written.
pub fn watch(range: PhysRange) {
    disable_all();
    let mask = u64::from(range.size_bytes().trailing_zeros());
    // MASK, BAS = all bytes, LSC = loads and stores, PAC = EL1, enable.
    let control = mask << 24 | 0xff << 5 | 0b11 << 3 | 0b01 << 1 | 1;
    // SAFETY: affects only accesses to `range`, which nobody should make.
    unsafe {
        asm!(
            "msr oslar_el1, xzr",
            "msr dbgwvr0_el1, {address}",
            "msr dbgwcr0_el1, {control}",
            "msr mdscr_el1, {kde_mde}",
            "isb", // all of it, before the next access
            "msr daifclr, #8",
            address = in(reg) range.start,
            control = in(reg) control,
            kde_mde = in(reg) 1_u64 << 15 | 1 << 13,
            options(nostack, preserves_flags)
        );
    }
}

/// Disables every breakpoint and watchpoint that the CPU has. Linux:
/// `hw_breakpoint_reset`.
fn disable_all() {
    let features = ID_AA64DFR0_EL1.extract();
    let breakpoints = features.read(ID_AA64DFR0_EL1::BRPs) + 1;
    let watchpoints = features.read(ID_AA64DFR0_EL1::WRPs) + 1;
    // Writing one that is not there is undefined: the last `count` of sixteen run.
    macro_rules! disable {
        ($register:literal, $count:expr) => {
            // SAFETY: stops exceptions that nobody asked for. 16 at most, as the
            // field has four bits.
            unsafe {
                asm!(
                    "adr {to}, 2f",
                    "sub {to}, {to}, {count}, lsl #2",
                    "br {to}",
                    ".irp n, 15, 14, 13, 12, 11, 10, 9, 8, 7, 6, 5, 4, 3, 2, 1, 0",
                    concat!("msr ", $register, "\\n\\()_el1, xzr"),
                    ".endr",
                    "2:",
                    to = out(reg) _,
                    count = in(reg) $count,
                    options(nomem, nostack, preserves_flags)
                )
            }
        };
    }
    disable!("dbgbcr", breakpoints);
    disable!("dbgwcr", watchpoints);
}

/// Traps nothing any more.
pub fn unwatch() {
    // SAFETY: turns off what watch() turned on.
    unsafe {
        asm!(
            "msr daifset, #8",
            "msr dbgwcr0_el1, xzr",
            "msr mdscr_el1, xzr",
            "isb", // both, before the next access or DC IVAC
            options(nomem, nostack, preserves_flags)
        );
    }
}
