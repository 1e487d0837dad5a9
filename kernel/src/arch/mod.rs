//! What only an AArch64 core understands: registers, barriers, caches, TLBs,
//! exceptions. `unsafe` and assembly of the kernel live here, in `boot`, in
//! `drivers` and where memory changes its type in `mm`.

pub mod cache;
pub mod cpu;
pub mod debug;
pub mod exception;
pub mod guarded;
pub mod mmu;
pub mod power;
pub mod timer;
pub mod tlb;
