//! What all tests share: table memory that watches, frames that arrive dirty, and a fresh set of
//! tables in one line.

#![allow(dead_code, unused_imports)] // each test program uses its part

pub mod arm_walk;
pub mod frames;
pub mod fuzzed;
pub mod geometries;
pub mod memory;
pub mod model;
pub mod run;
pub mod walkers;

use early_mmu::{
    Flags, Flush, Granule4K, MapError, Mapping, PageTable, PhysAddr, Prot, VaRange, VirtAddr,
};

pub use frames::Pool;
pub use geometries::{Small, TestGeometry, Tiny};
pub use memory::Memory;

pub const KIB: u64 = 1 << 10;
pub const MIB: u64 = 1 << 20;
pub const GIB: u64 = 1 << 30;

/// Linux's usual shape, in which most tests run.
pub type G48 = Granule4K<48>;

pub type Tables<'m, G = G48> = PageTable<G, &'m Memory<G>>;

/// Empty tables for the upper range in `memory`.
pub fn upper<G: TestGeometry>(memory: &Memory<G>) -> Tables<'_, G> {
    PageTable::new(memory.root(), VaRange::Upper, memory)
}

/// The lowest address of the upper range of [`G48`].
pub const UPPER: u64 = 0xffff_0000_0000_0000;

/// Frames for the usual tables, in the slots from `first` on.
pub fn frames(first: usize, count: usize) -> Pool<G48> {
    Pool::new(first, count)
}

pub fn va(address: u64) -> VirtAddr {
    VirtAddr::new(address)
}

pub fn pa(address: u64) -> PhysAddr {
    PhysAddr::new(address)
}

pub fn mapping(va: u64, pa: u64, size_bytes: u64, prot: Prot) -> Mapping {
    Mapping {
        va: VirtAddr::new(va),
        pa: PhysAddr::new(pa),
        size_bytes,
        prot,
    }
}

/// Maps with as many frames as it takes.
#[track_caller]
pub fn map(tables: &mut Tables<'_>, pool: &mut Pool<G48>, mapping: Mapping, flags: Flags) -> Flush {
    let flush = tables.create_mapping(mapping, flags, pool).expect("map");
    tables.memory().check();
    flush
}

/// Makes the call, expects this refusal, and that not one bit changed.
#[track_caller]
pub fn refused<G: TestGeometry>(
    tables: &mut Tables<'_, G>,
    call: impl FnOnce(&mut Tables<'_, G>) -> Result<Flush, MapError>,
) -> MapError {
    let before = tables.memory().snapshot();
    let error = call(tables).expect_err("should be refused");
    assert!(
        before == tables.memory().snapshot(),
        "refused with {error}, but tables changed"
    );
    error
}
