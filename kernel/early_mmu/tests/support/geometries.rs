//! Geometries so small that all of their tables can be looked at, and what tests ask of any.

use std::sync::atomic::AtomicU64;

use early_mmu::{Geometry, Granule4KLpa2, Granule64KLpa, Level, PhysAddr};

/// Tables that tests can make.
pub trait TestTable {
    fn filled(value: u64) -> Box<Self>;
}

impl<const N: usize> TestTable for [AtomicU64; N] {
    fn filled(value: u64) -> Box<Self> {
        Box::new(std::array::from_fn(|_| AtomicU64::new(value)))
    }
}

/// Four levels of eight entries: 4096 pages in all, blocks of 32 and 256 KiB.
#[derive(Clone, Copy, Debug)]
pub struct Small;

impl Geometry for Small {
    const GRANULE_SHIFT: u32 = 12;
    const INDEX_BITS: u32 = 3;
    const VA_BITS: u32 = 24;
    const OA_BITS: u32 = 48;
    const FIRST_BLOCK_LEVEL: Level = 1;
    type Table = [AtomicU64; 8];

    /// Two, four, two.
    fn run_shift(level: Level) -> u32 {
        match level {
            1 => 1,
            2 => 2,
            3 => 1,
            _ => 0,
        }
    }
}

/// Two levels of four entries: 16 pages in all; contiguous runs of two.
#[derive(Clone, Copy, Debug)]
pub struct Tiny;

impl Geometry for Tiny {
    const GRANULE_SHIFT: u32 = 12;
    const INDEX_BITS: u32 = 2;
    const VA_BITS: u32 = 16;
    const OA_BITS: u32 = 48;
    const FIRST_BLOCK_LEVEL: Level = 2;
    type Table = [AtomicU64; 4];

    fn run_shift(level: Level) -> u32 {
        u32::from(level >= 2)
    }
}

/// Five levels of four entries, from −1 on, with the descriptors of `FEAT_LPA2`: 1024 pages in all.
#[derive(Clone, Copy, Debug)]
pub struct SmallLpa2;

impl Geometry for SmallLpa2 {
    const GRANULE_SHIFT: u32 = 12;
    const INDEX_BITS: u32 = 2;
    const VA_BITS: u32 = 22;
    const OA_BITS: u32 = 52;
    const FIRST_BLOCK_LEVEL: Level = 0;
    const OUTPUT_MASK: u64 = Granule4KLpa2::<52>::OUTPUT_MASK;
    const LPA2: bool = true;
    type Table = [AtomicU64; 4];

    fn run_shift(level: Level) -> u32 {
        u32::from(level >= 1)
    }

    fn encode_output(pa: PhysAddr) -> u64 {
        Granule4KLpa2::<52>::encode_output(pa)
    }

    fn decode_output(bits: u64) -> PhysAddr {
        Granule4KLpa2::<52>::decode_output(bits)
    }
}

/// Three levels of eight entries with the descriptors of the 64 KiB granule and `FEAT_LPA`.
#[derive(Clone, Copy, Debug)]
pub struct SmallLpa64;

impl Geometry for SmallLpa64 {
    const GRANULE_SHIFT: u32 = 16;
    const INDEX_BITS: u32 = 3;
    const VA_BITS: u32 = 25;
    const OA_BITS: u32 = 52;
    const FIRST_BLOCK_LEVEL: Level = 1;
    const OUTPUT_MASK: u64 = Granule64KLpa::<52>::OUTPUT_MASK;
    type Table = [AtomicU64; 8];

    fn run_shift(level: Level) -> u32 {
        if level >= 2 { 2 } else { 0 }
    }

    fn encode_output(pa: PhysAddr) -> u64 {
        Granule64KLpa::<52>::encode_output(pa)
    }

    fn decode_output(bits: u64) -> PhysAddr {
        Granule64KLpa::<52>::decode_output(bits)
    }
}

pub trait TestGeometry: Geometry<Table: TestTable> {}
impl<G: Geometry<Table: TestTable>> TestGeometry for G {}
