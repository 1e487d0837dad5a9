//! TLB maintenance: executes the flushes that `early_mmu` asks for.

use core::arch::asm;

use aarch64_cpu::asm::barrier;
use aarch64_cpu::registers::{ID_AA64ISAR0_EL1, Readable};
use early_mmu::{Flush, TlbMaintenance};

/// This CPU's instructions, for all CPUs of the inner shareable domain.
pub struct InnerShareable;

impl TlbMaintenance for InnerShareable {
    fn store_barrier(&self) {
        barrier::dsb(barrier::ISHST);
    }

    fn invalidate_leaf(&self, operand: u64) {
        // SAFETY: forgetting a translation only makes it be walked again.
        unsafe { asm!("tlbi vaale1is, {}", in(reg) operand, options(nostack, preserves_flags)) }
    }

    fn invalidate_walk(&self, operand: u64) {
        // SAFETY: forgetting a translation only makes it be walked again.
        unsafe { asm!("tlbi vaae1is, {}", in(reg) operand, options(nostack, preserves_flags)) }
    }

    fn invalidate_all(&self) {
        // SAFETY: forgetting a translation only makes it be walked again.
        unsafe { asm!("tlbi vmalle1is", options(nostack, preserves_flags)) }
    }

    fn has_ranges(&self) -> bool {
        // ID_AA64ISAR0_EL1.TLB: 2 and above have FEAT_TLBIRANGE.
        ID_AA64ISAR0_EL1.get() >> 56 & 0xf >= 2
    }

    fn invalidate_leaf_range(&self, operand: u64) {
        // RVAALE1IS, by its encoding: assemblers know the name only with the
        // feature switched on for all code.
        // SAFETY: forgetting translations only makes them be walked again.
        unsafe {
            asm!("sys #0, c8, c2, #7, {}", in(reg) operand, options(nostack, preserves_flags))
        }
    }

    fn invalidate_walk_range(&self, operand: u64) {
        // RVAAE1IS.
        // SAFETY: forgetting translations only makes them be walked again.
        unsafe {
            asm!("sys #0, c8, c2, #3, {}", in(reg) operand, options(nostack, preserves_flags))
        }
    }

    fn completion_barrier(&self) {
        barrier::dsb(barrier::ISH);
    }

    fn context_synchronization(&self) {
        barrier::isb(barrier::SY);
    }
}

/// Puts a change of live tables into effect.
pub fn execute(flush: Flush) {
    flush.execute(&InnerShareable);
}

/// Forgets every EL1 translation on this CPU, after system registers changed.
pub fn flush_all_local() {
    // SAFETY: forgetting translations only makes them be walked again. The DSB
    // waits for the TLBI, the ISB keeps what follows from using a translation
    // fetched before it.
    unsafe {
        asm!(
            "tlbi vmalle1",
            "dsb nsh",
            "isb",
            options(nostack, preserves_flags)
        )
    }
}
