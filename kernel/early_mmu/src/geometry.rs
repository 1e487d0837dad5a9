//! How an address is cut into table indices: granule, number of levels, where blocks may stand.
//!
//! Everything else in the crate is written once, in terms of [`Geometry`]. What is known about a
//! geometry is known at compile time, so an index masked to the table's size needs no check.

use core::fmt::Debug;
use core::sync::atomic::AtomicU64;

use crate::PhysAddr;

/// A lookup level of the translation table walk, −1 to 3; level 3 holds the pages (Arm ARM DDI 0487,
/// chapter D8, "Translation process").
pub type Level = i8;

/// The level whose entries are pages, whatever the granule.
pub const LAST_LEVEL: Level = 3;

/// The shape of a set of translation tables (Arm ARM DDI 0487, chapter D8, "Translation
/// process").
///
/// An implementation gives the five items without a default; the rest follows from them. `INDEX_BITS`,
/// the encoding of output addresses and the length of contiguous runs can be overridden, for 52-bit
/// output addresses and for tests with tiny tables.
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
    ///
    /// What an attribute would be elsewhere but lies in this mask is address: with `FEAT_LPA2` that
    /// is `SH`.
    const OUTPUT_MASK: u64 = (1 << Self::OA_BITS) - Self::GRANULE_BYTES;
    /// Whether descriptors are those of `TCR_EL1.DS` = 1 (`FEAT_LPA2`), which also changes the unit of
    /// `BaseADDR` in range TLBI operands.
    const LPA2: bool = false;
    /// The bits of `TCR_EL1` that must be so for both ranges to be tables of this geometry: `T0SZ`,
    /// `T1SZ`, `TG0`, `TG1`, `DS`, and `SH0`, `SH1` Inner Shareable, which with `FEAT_LPA2` is the
    /// shareability of all that is mapped. `IPS` and the cacheability of walks are left out.
    const TCR_EL1: u64 = {
        // TG0 and TG1 number the granules differently.
        let (tg0, tg1) = match Self::GRANULE_SHIFT {
            14 => (0b10, 0b01),
            16 => (0b01, 0b11),
            _ => (0b00, 0b10),
        };
        let size = 64 - Self::VA_BITS as u64;
        let shareable = 0b11 << 12 | 0b11 << 28;
        size | size << 16 | tg0 << 14 | tg1 << 30 | shareable | (Self::LPA2 as u64) << 59
    };

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

    /// log2 of what one entry at `level` translates, in bytes. `level` is one of the geometry's, here and
    /// below.
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

    /// log2 of the number of entries in a run that the Contiguous bit joins at `level`; 0 where there
    /// is none (Arm ARM chapter D8, "The Contiguous bit"; Linux: `CONT_PTE_SHIFT`, `CONT_PMD_SHIFT`). At
    /// most 7: 128 pages of 16 KiB are the longest run there is.
    #[must_use]
    #[inline(always)]
    fn run_shift(level: Level) -> u32 {
        let _ = level;
        0
    }

    /// Which entry of a table at `level` translates the input address `ia`.
    #[must_use]
    #[inline(always)]
    fn index(ia: u64, level: Level) -> usize {
        (ia >> Self::entry_shift(level)) as usize & ((1 << Self::INDEX_BITS) - 1)
    }
}

// The granules, each with its output-address format. The figures are those of the Arm ARM's functions
// `AArch64.S1StartLevel`, `AArch64.BlockDescSupported`, `AArch64.LeafBase` and `ContiguousSize`.
macro_rules! granule {
    (
        $(#[$doc:meta])*
        $name:ident: shift $shift:literal, entries $entries:literal, VA up to $va_max:literal,
        output $oa:literal bits, blocks from level $block:literal, runs $runs:expr;
        $($more:item)*
    ) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Debug)]
        pub struct $name<const VA_BITS: u32>;

        impl<const VA_BITS: u32> Geometry for $name<VA_BITS> {
            const GRANULE_SHIFT: u32 = $shift;
            const VA_BITS: u32 = {
                assert!(
                    VA_BITS >= 25 && VA_BITS <= $va_max,
                    "VA_BITS is outside what TCR_EL1.TxSZ can say without FEAT_TTST"
                );
                VA_BITS
            };
            const OA_BITS: u32 = $oa;
            const FIRST_BLOCK_LEVEL: Level = $block;
            type Table = [AtomicU64; $entries];

            #[inline(always)]
            fn run_shift(level: Level) -> u32 {
                let runs: [u32; 3] = $runs;
                let shift = match level {
                    1 => runs[0],
                    2 => runs[1],
                    3 => runs[2],
                    _ => 0,
                };
                // A run wider than the range of addresses may fault.
                if Self::entry_shift(level) + shift > VA_BITS {
                    return 0;
                }
                shift
            }

            $($more)*
        }
    };
}

granule! {
    /// The 4 KiB granule with 48-bit output addresses: blocks of 1 GiB and 2 MiB.
    ///
    /// `VA_BITS` is 25 to 48; Linux uses 39 (three levels) and 48 (four).
    Granule4K: shift 12, entries 512, VA up to 48, output 48 bits, blocks from level 1, runs [4, 4, 4];
}

granule! {
    /// The 16 KiB granule with 48-bit output addresses: blocks of 32 MiB.
    ///
    /// `VA_BITS` is 25 to 48; Linux uses 36 (two levels), 47 (three) and 48 (four, with two entries in
    /// the root).
    Granule16K: shift 14, entries 2048, VA up to 48, output 48 bits, blocks from level 2, runs [0, 5, 7];
}

granule! {
    /// The 64 KiB granule with 48-bit output addresses: blocks of 512 MiB.
    ///
    /// `VA_BITS` is 25 to 52; Linux uses 42 (two levels), 48 and 52 (three). More than 48 needs
    /// `FEAT_LVA` (`ID_AA64MMFR2_EL1.VARange`).
    Granule64K: shift 16, entries 8192, VA up to 52, output 48 bits, blocks from level 2, runs [0, 5, 5];
}

granule! {
    /// The 64 KiB granule with 52-bit output addresses (`FEAT_LPA`): blocks of 4 TiB and 512 MiB.
    ///
    /// Bits 51:48 of an output address stand in bits 15:12 of the descriptor. `TCR_EL1.IPS` must be
    /// 0b110, 52 bits. `VA_BITS` as for [`Granule64K`].
    Granule64KLpa: shift 16, entries 8192, VA up to 52, output 52 bits, blocks from level 1, runs [0, 5, 5];

    const OUTPUT_MASK: u64 = 0x0000_ffff_ffff_f000;

    #[inline(always)]
    fn encode_output(pa: PhysAddr) -> u64 {
        pa.as_u64() & 0x0000_ffff_ffff_0000 | (pa.as_u64() >> 48 & 0xf) << 12
    }

    #[inline(always)]
    fn decode_output(bits: u64) -> PhysAddr {
        PhysAddr::new(bits & 0x0000_ffff_ffff_0000 | (bits >> 12 & 0xf) << 48)
    }
}

granule! {
    /// The 4 KiB granule with 52-bit output addresses (`FEAT_LPA2`, `TCR_EL1.DS` = 1): blocks of
    /// 512 GiB, 1 GiB and 2 MiB.
    ///
    /// Bits 51:50 of an output address stand in bits 9:8 of the descriptor, where the shareability
    /// was: that is now `TCR_EL1.SHn`, one for the whole range. `VA_BITS` is 25 to 52; above 48 the
    /// walk begins at level −1.
    Granule4KLpa2: shift 12, entries 512, VA up to 52, output 52 bits, blocks from level 0, runs [4, 4, 4];

    const OUTPUT_MASK: u64 = 0x0003_ffff_ffff_f300;
    const LPA2: bool = true;

    #[inline(always)]
    fn encode_output(pa: PhysAddr) -> u64 {
        pa.as_u64() & 0x0003_ffff_ffff_f000 | (pa.as_u64() >> 50 & 0b11) << 8
    }

    #[inline(always)]
    fn decode_output(bits: u64) -> PhysAddr {
        PhysAddr::new(bits & 0x0003_ffff_ffff_f000 | (bits >> 8 & 0b11) << 50)
    }
}

granule! {
    /// The 16 KiB granule with 52-bit output addresses (`FEAT_LPA2`, `TCR_EL1.DS` = 1): blocks of
    /// 64 GiB and 32 MiB.
    ///
    /// Descriptors as for [`Granule4KLpa2`]. `VA_BITS` is 25 to 52, four levels at most.
    Granule16KLpa2: shift 14, entries 2048, VA up to 52, output 52 bits, blocks from level 1, runs [0, 5, 7];

    const OUTPUT_MASK: u64 = 0x0003_ffff_ffff_c300;
    const LPA2: bool = true;

    #[inline(always)]
    fn encode_output(pa: PhysAddr) -> u64 {
        pa.as_u64() & 0x0003_ffff_ffff_c000 | (pa.as_u64() >> 50 & 0b11) << 8
    }

    #[inline(always)]
    fn decode_output(bits: u64) -> PhysAddr {
        PhysAddr::new(bits & 0x0003_ffff_ffff_c000 | (bits >> 8 & 0b11) << 50)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn start<G: Geometry>() -> Level {
        G::START_LEVEL
    }

    /// Linux: `ARM64_HW_PGTABLE_LEVELS`; Arm ARM: `AArch64.S1StartLevel`.
    #[test]
    fn start_levels() {
        assert_eq!(start::<Granule4K<48>>(), 0);
        assert_eq!(start::<Granule4K<47>>(), 0);
        assert_eq!(start::<Granule4K<42>>(), 0);
        assert_eq!(start::<Granule4K<40>>(), 0);
        assert_eq!(start::<Granule4K<39>>(), 1);
        assert_eq!(start::<Granule4K<36>>(), 1);
        assert_eq!(start::<Granule4K<30>>(), 2);
        assert_eq!(start::<Granule16K<48>>(), 0);
        assert_eq!(start::<Granule16K<47>>(), 1);
        assert_eq!(start::<Granule16K<37>>(), 1);
        assert_eq!(start::<Granule16K<36>>(), 2);
        assert_eq!(start::<Granule16K<25>>(), 3);
        assert_eq!(start::<Granule64K<52>>(), 1);
        assert_eq!(start::<Granule64K<48>>(), 1);
        assert_eq!(start::<Granule64K<43>>(), 1);
        assert_eq!(start::<Granule64K<42>>(), 2);
        assert_eq!(start::<Granule64K<29>>(), 3);
        assert_eq!(start::<Granule4KLpa2<52>>(), -1);
        assert_eq!(start::<Granule4KLpa2<49>>(), -1);
        assert_eq!(start::<Granule4KLpa2<48>>(), 0);
        assert_eq!(start::<Granule16KLpa2<52>>(), 0);
        assert_eq!(start::<Granule64KLpa<52>>(), 1);
    }

    #[test]
    fn sizes_of_the_granules() {
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
        assert_eq!(Granule4KLpa2::<52>::entry_bytes(-1), 1 << 48);
        assert_eq!(Granule16K::<48>::entry_bytes(3), 16 << 10);
        assert_eq!(Granule16K::<48>::entry_bytes(2), 32 << 20);
        assert_eq!(Granule16K::<48>::entry_bytes(1), 64 << 30);
        assert_eq!(Granule64K::<48>::entry_bytes(3), 64 << 10);
        assert_eq!(Granule64K::<48>::entry_bytes(2), 512 << 20);
        assert_eq!(Granule64K::<48>::entry_bytes(1), 4 << 40);
    }

    /// Arm ARM: `ContiguousSize`. Linux: `CONT_PTES`, `CONT_PMDS`.
    #[test]
    fn runs_of_contiguous_entries() {
        fn runs<G: Geometry>() -> [u64; 4] {
            [0, 1, 2, 3].map(|level| 1 << G::run_shift(level))
        }
        assert_eq!(runs::<Granule4K<48>>(), [1, 16, 16, 16]);
        assert_eq!(runs::<Granule4KLpa2<52>>(), [1, 16, 16, 16]);
        assert_eq!(runs::<Granule16K<48>>(), [1, 1, 32, 128]);
        assert_eq!(runs::<Granule16KLpa2<52>>(), [1, 1, 32, 128]);
        assert_eq!(runs::<Granule64K<48>>(), [1, 1, 32, 32]);
        assert_eq!(runs::<Granule64KLpa<52>>(), [1, 1, 32, 32]);
        // No run is wider than the range.
        assert_eq!(runs::<Granule4K<33>>(), [1, 1, 16, 16]);
        assert_eq!(runs::<Granule4K<34>>(), [1, 16, 16, 16]);
        assert_eq!(runs::<Granule64K<30>>(), [1, 1, 1, 32]);
    }

    /// Every bit of an output address stands where the Arm ARM has it: `AArch64.LeafBase`.
    #[test]
    fn output_addresses_survive_and_stand_where_they_belong() {
        fn places<G: Geometry>(odd: &[(u32, u32)]) {
            let mut all = 0;
            for bit in G::GRANULE_SHIFT..G::OA_BITS {
                let place = odd.iter().find(|(from, _)| *from == bit);
                let place = place.map_or(bit, |&(_, to)| to);
                let pa = PhysAddr::new(1 << bit);
                assert_eq!(G::encode_output(pa), 1 << place, "bit {bit}");
                assert_eq!(G::decode_output(1 << place), pa, "bit {bit}");
                all |= 1 << place;
            }
            assert_eq!(all, G::OUTPUT_MASK);
            assert_eq!(G::decode_output(!all), PhysAddr::new(0));
            assert_eq!(G::encode_output(PhysAddr::new(!0)), all);
        }
        places::<Granule4K<48>>(&[]);
        places::<Granule16K<48>>(&[]);
        places::<Granule64K<48>>(&[]);
        places::<Granule4KLpa2<52>>(&[(50, 8), (51, 9)]);
        places::<Granule16KLpa2<52>>(&[(50, 8), (51, 9)]);
        places::<Granule64KLpa<52>>(&[(48, 12), (49, 13), (50, 14), (51, 15)]);
    }

    /// Linux: `TCR_TG0_4K` and so on in `pgtable-hwdef.h`; they differ between the two fields.
    #[test]
    fn translation_control() {
        const SHARED: u64 = 0b11 << 12 | 0b11 << 28;
        let sizes = |bits: u64| (64 - bits) | (64 - bits) << 16;
        assert_eq!(Granule4K::<48>::TCR_EL1, SHARED | sizes(48) | 2 << 30);
        assert_eq!(
            Granule16K::<47>::TCR_EL1,
            SHARED | sizes(47) | 2 << 14 | 1 << 30
        );
        assert_eq!(
            Granule64K::<42>::TCR_EL1,
            SHARED | sizes(42) | 1 << 14 | 3 << 30
        );
        assert_eq!(Granule64KLpa::<52>::TCR_EL1, Granule64K::<52>::TCR_EL1);
        assert_eq!(
            Granule4KLpa2::<52>::TCR_EL1,
            SHARED | sizes(52) | 2 << 30 | 1 << 59
        );
    }
}
