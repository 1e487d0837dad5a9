//! What executes a flush: an instruction for each call.
//!
//! `scripts/no-panic` compiles and links this file for bare metal.

use early_mmu::TlbMaintenance;

/// One instruction each, on every CPU of the inner shareable domain.
pub struct Cpu;

/// `asm!` on bare metal; elsewhere the instruction is printed.
macro_rules! instruction {
    ($text:literal $(, $operand:ident)?) => {{
        #[cfg(all(target_arch = "aarch64", target_os = "none"))]
        // SAFETY: barriers and TLB maintenance change no memory.
        unsafe { core::arch::asm!($text $(, in(reg) $operand)?, options(nostack, preserves_flags)) }
        #[cfg(not(all(target_arch = "aarch64", target_os = "none")))]
        crate::print(format_args!($text $(, format_args!("{:#x}", $operand))?));
    }};
}

impl TlbMaintenance for Cpu {
    fn store_barrier(&self) {
        instruction!("dsb ishst");
    }
    fn invalidate_leaf(&self, operand: u64) {
        instruction!("tlbi vaale1is, {}", operand);
    }
    fn invalidate_walk(&self, operand: u64) {
        instruction!("tlbi vaae1is, {}", operand);
    }
    fn invalidate_all(&self) {
        instruction!("tlbi vmalle1is");
    }
    fn completion_barrier(&self) {
        instruction!("dsb ish");
    }
    fn context_synchronization(&self) {
        instruction!("isb");
    }
}
