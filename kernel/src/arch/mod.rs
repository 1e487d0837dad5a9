//! What only an AArch64 core understands: registers, barriers, caches, TLBs,
//! exceptions.

pub mod cache;
pub mod cpu;
pub mod debug;
pub mod exception;
pub mod guarded;
pub mod mmu;
pub mod power;
pub mod timer;
pub mod tlb;
