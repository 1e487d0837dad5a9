//! How an address is cut into table indices: granule, number of levels, where blocks may stand.
//!
//! Everything else in the crate is written once, in terms of [`Geometry`]. What is known about a
//! geometry is known at compile time, so an index masked to the table's size needs no check.

use core::fmt::Debug;
use core::sync::atomic::AtomicU64;

use crate::PhysAddr;

/// A lookup level of the translation table walk, −1 to 3; level 3 holds the pages.
pub type Level = i8;

/// The level whose entries are pages, whatever the granule.
pub const LAST_LEVEL: Level = 3;

/// The shape of a set of translation tables (Arm ARM DDI 0487, chapter D8, "Translation
/// process").
///
/// An implementation gives the five items without a default; the rest follows from them. `INDEX_BITS`
/// and the encoding of output addresses can be overridden, for 52-bit output addresses and for tests
/// with tiny tables.
pub trait Geometry: Copy + Debug + 'static {
    /// log2 of the granule in bytes: 12, 14 or 16.
    const GRANULE_SHIFT: u32;
    /// Width of a virtual address in bits: 64 − TxSZ.
    const VA_BITS: u32;
    /// Width of the output addresses that descriptors can hold, in bits.
    const OA_BITS: u32;
    /// The lowest-numbered level at which a block may stand; from there on every level allows one.
    const FIRST_BLOCK_LEVEL: Level;
    /// One table: `[AtomicU64; N]` with N = 2^`INDEX_BITS`.
    ///
    /// As `&Table` it is linked: a table walker may be reading it, so every access is one 64-bit
    /// atomic load or store. As `&mut Table` it is unlinked: nobody else can see it.
    type Table: AsRef<[AtomicU64]> + AsMut<[AtomicU64]> + 'static;

    /// log2 of the number of entries of a table.
    const INDEX_BITS: u32 = Self::GRANULE_SHIFT - 3;
    /// Number of lookup levels.
    const LEVELS: u32 = (Self::VA_BITS - Self::GRANULE_SHIFT).div_ceil(Self::INDEX_BITS);
    /// The level of the root table.
    const START_LEVEL: Level = LAST_LEVEL + 1 - Self::LEVELS as Level;
    /// Size of a page and alignment of every table in bytes.
    const GRANULE_BYTES: u64 = 1 << Self::GRANULE_SHIFT;
    /// Where a descriptor holds its output address.
    const OUTPUT_MASK: u64 = (1 << Self::OA_BITS) - Self::GRANULE_BYTES;

    /// The descriptor bits that stand for the output address `pa`.
    #[must_use]
    #[inline(always)]
    fn encode_output(pa: PhysAddr) -> u64 {
        pa.as_u64() & Self::OUTPUT_MASK
    }

    /// The output address that a descriptor with these bits holds.
    #[must_use]
    #[inline(always)]
    fn decode_output(bits: u64) -> PhysAddr {
        PhysAddr::new(bits & Self::OUTPUT_MASK)
    }

    /// log2 of what one entry at `level` translates, in bytes.
    #[must_use]
    #[inline(always)]
    fn entry_shift(level: Level) -> u32 {
        Self::GRANULE_SHIFT + Self::INDEX_BITS * (LAST_LEVEL - level) as u32
    }

    /// What one entry at `level` translates, in bytes: the size of a block or page there.
    #[must_use]
    #[inline(always)]
    fn entry_bytes(level: Level) -> u64 {
        1 << Self::entry_shift(level)
    }

    /// Which entry of a table at `level` translates the input address `ia`.
    #[must_use]
    #[inline(always)]
    fn index(ia: u64, level: Level) -> usize {
        (ia >> Self::entry_shift(level)) as usize & ((1 << Self::INDEX_BITS) - 1)
    }
}

/// The 4 KiB granule with 48-bit output addresses: blocks of 1 GiB and 2 MiB.
///
/// `VA_BITS` is 25 to 48; Linux uses 39 (three levels) and 48 (four).
#[derive(Clone, Copy, Debug)]
pub struct Granule4K<const VA_BITS: u32>;

impl<const VA_BITS: u32> Geometry for Granule4K<VA_BITS> {
    const GRANULE_SHIFT: u32 = 12;
    const VA_BITS: u32 = {
        assert!(
            VA_BITS >= 25 && VA_BITS <= 48,
            "outside what TCR_EL1.TxSZ can say"
        );
        VA_BITS
    };
    const OA_BITS: u32 = 48;
    const FIRST_BLOCK_LEVEL: Level = 1;
    type Table = [AtomicU64; 512];
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn four_levels_at_48_bits_three_at_39() {
        assert_eq!(Granule4K::<48>::START_LEVEL, 0);
        assert_eq!(Granule4K::<42>::START_LEVEL, 0);
        assert_eq!(Granule4K::<39>::START_LEVEL, 1);
        assert_eq!(Granule4K::<30>::START_LEVEL, 2);
    }

    #[test]
    fn sizes_of_the_4k_granule() {
        type G = Granule4K<48>;
        assert_eq!(G::entry_bytes(3), 4 << 10);
        assert_eq!(G::entry_bytes(2), 2 << 20);
        assert_eq!(G::entry_bytes(1), 1 << 30);
        assert_eq!(G::entry_bytes(0), 512 << 30);
        assert_eq!(G::OUTPUT_MASK, 0x0000_ffff_ffff_f000);
        assert_eq!(G::index(0x0000_8080_4020_1fff, 0), 0x101);
        assert_eq!(G::index(0x0000_8080_4020_1fff, 1), 1);
        assert_eq!(G::index(0x0000_8080_4020_1fff, 2), 1);
        assert_eq!(G::index(0x0000_8080_4020_1fff, 3), 1);
    }
}
