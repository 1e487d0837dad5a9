//! Each granule at each size of address: largest blocks, both ends of the range, the independent walker.

use std::sync::atomic::AtomicU64;

use crate::support::run::regime;
use crate::support::{Memory, Pool, TestGeometry};
use early_mmu::{
    Flags, Geometry, Granule4K, Granule4KLpa2, Granule16K, Granule16KLpa2, Granule64K,
    Granule64KLpa, Level, MapError, Mapping, PAGE_KERNEL, PAGE_KERNEL_RO, PageTable, PhysAddr,
    Prot, VaRange, VirtAddr,
};

/// One leaf at each level that allows one, at the top of the range and at its bottom, then a page on
/// either side of each: all as the walker sees them, and not one byte more.
fn leaves_at_every_level<G: TestGeometry>(range: VaRange) {
    let (base, bytes) = (range.base::<G>(), G::GRANULE_BYTES);
    for level in G::FIRST_BLOCK_LEVEL.max(G::START_LEVEL)..=3 {
        let size_bytes = G::entry_bytes(level);
        let range_bytes = 1u64 << G::VA_BITS;
        for ia in [0, range_bytes - size_bytes] {
            let memory = Memory::<G>::new(8);
            let mut tables = PageTable::<G, _>::new(memory.root(), range, &memory);
            // The highest physical address that is aligned to it.
            let mapping = Mapping {
                va: VirtAddr::new(base.as_u64() | ia),
                pa: PhysAddr::new((1 << G::OA_BITS) - size_bytes),
                size_bytes,
                prot: PAGE_KERNEL,
            };
            let mut pool = Pool::<G>::new(1, 7);
            let levels_above = (level - G::START_LEVEL) as usize;
            assert_eq!(tables.tables_needed(mapping, Flags::NONE), Ok(levels_above));
            let flush = tables
                .create_mapping(mapping, Flags::NONE, &mut pool)
                .expect("map");
            flush.ignore_because("no walker");
            assert_eq!(pool.len(), 7 - levels_above);
            memory.check();
            check_leaf::<G>(&memory, range, &mapping, level);

            let regions: Vec<_> = tables.regions().collect();
            assert_eq!(regions.len(), 1);
            assert_eq!((regions[0].va, regions[0].pa), (mapping.va, mapping.pa));
            assert_eq!(regions[0].size_bytes, size_bytes);
            assert_eq!(Prot::of(regions[0].attributes), Some(PAGE_KERNEL));

            let flush = tables
                .update_mapping_prot(mapping.va, size_bytes, PAGE_KERNEL_RO)
                .expect("whole leaf");
            assert_eq!(
                flush.stale().expect("changed").last.as_u64(),
                mapping.va.as_u64() + (size_bytes - 1)
            );
            let read_only = Mapping {
                prot: PAGE_KERNEL_RO,
                ..mapping
            };
            check_leaf::<G>(&memory, range, &read_only, level);
            if level < 3 {
                let error = tables.update_mapping_prot(mapping.va, bytes, PAGE_KERNEL);
                assert!(
                    matches!(error, Err(MapError::WouldSplitBlock { .. })),
                    "{error:?}"
                );
            }
        }
    }
}

fn check_leaf<G: TestGeometry>(
    memory: &Memory<G>,
    range: VaRange,
    mapping: &Mapping,
    level: Level,
) {
    let tables = PageTable::<G, _>::new(memory.root(), range, memory);
    let regime = regime::<G>(memory, range);
    let size = mapping.size_bytes;
    for offset in [0, 1, size / 2, size - 1] {
        let va = mapping.va.as_u64() + offset;
        let seen = regime.translate(va, |pa| memory.read(pa)).expect("mapped");
        let expected = mapping.pa.as_u64() + offset;
        assert_eq!((seen.pa, seen.level), (expected, level.into()), "{va:#x}");
        assert_eq!(seen.el1_write, mapping.prot == PAGE_KERNEL);
        assert_eq!((seen.shareability, seen.attr_indx), (3, 0));
        assert!(!seen.el1_execute && !seen.el0_access && !seen.el0_execute && seen.global);
        assert_eq!(
            tables.translate(VirtAddr::new(va)),
            Some(PhysAddr::new(expected))
        );
        let walk = tables.walk(VirtAddr::new(va));
        assert_eq!(walk.pa(), Some(PhysAddr::new(expected)));
        let leaf = walk.leaf().expect("mapped");
        assert_eq!(Prot::of_in::<G>(leaf.effective), Some(mapping.prot));
        assert_eq!((leaf.level, leaf.size_bytes), (level, size));
    }
    for outside in [
        mapping.va.as_u64().wrapping_sub(1),
        mapping.va.as_u64().wrapping_add(size),
    ] {
        assert!(
            regime.translate(outside, |pa| memory.read(pa)).is_err(),
            "{outside:#x}"
        );
        assert_eq!(tables.translate(VirtAddr::new(outside)), None);
    }
}

/// One page further than descriptors can hold; and what the geometry holds but the CPU does not.
fn addresses_too_wide<G: TestGeometry>() {
    let memory = Memory::<G>::new(8);
    let page = |pa| Mapping {
        va: VirtAddr::new(0),
        pa: PhysAddr::new(pa),
        size_bytes: G::GRANULE_BYTES,
        prot: PAGE_KERNEL,
    };
    let tables = PageTable::<G, _>::new(memory.root(), VaRange::Lower, &memory);
    let (last, wide) = ((1u64 << G::OA_BITS) - G::GRANULE_BYTES, 1u64 << G::OA_BITS);
    assert!(tables.tables_needed(page(last), Flags::NONE).is_ok());
    let error = tables.tables_needed(page(wide), Flags::NONE);
    assert!(
        matches!(error, Err(MapError::OutputAddressTooWide { .. })),
        "{error:?}"
    );
    let tables = tables.with_output_bits(44);
    let error = tables.tables_needed(page(1 << 44), Flags::NONE);
    assert!(
        matches!(error, Err(MapError::OutputAddressTooWide { .. })),
        "{error:?}"
    );
}

/// A run of pages across each carry of the output address into another place.
fn across_the_carries<G: TestGeometry>() {
    for carry in [47, 48, 49, 50, 51]
        .into_iter()
        .filter(|&bit| bit < G::OA_BITS)
    {
        for flags in [Flags::NONE, Flags::NO_BLOCK] {
            let memory = Memory::<G>::new(16);
            let mut tables = PageTable::<G, _>::new(memory.root(), VaRange::Lower, &memory);
            let (bytes, table) = (G::GRANULE_BYTES, G::entry_bytes(2));
            let mapping = Mapping {
                va: VirtAddr::new(0),
                pa: PhysAddr::new((1 << carry) - table - 3 * bytes),
                size_bytes: 2 * table,
                prot: PAGE_KERNEL,
            };
            let mut pool = Pool::<G>::new(1, 15);
            let flush = tables
                .create_mapping(mapping, flags, &mut pool)
                .expect("map");
            flush.ignore_because("no walker");
            let again = tables
                .create_mapping_noalloc(mapping, flags)
                .expect("the same");
            assert!(again.is_nothing());
            let regime = regime::<G>(&memory, VaRange::Lower);
            for page in 0..2 * table / bytes {
                let va = page * bytes + 0x10;
                let seen = regime.translate(va, |pa| memory.read(pa)).expect("mapped");
                assert_eq!(seen.pa, mapping.pa.as_u64() + va);
            }
            assert_eq!(tables.regions().count(), 1);
        }
    }
}

fn all<G: TestGeometry>() {
    leaves_at_every_level::<G>(VaRange::Upper);
    leaves_at_every_level::<G>(VaRange::Lower);
    addresses_too_wide::<G>();
    across_the_carries::<G>();
}

#[test]
fn granule_4k() {
    all::<Granule4K<36>>();
    all::<Granule4K<39>>();
    all::<Granule4K<42>>();
    all::<Granule4K<47>>();
    all::<Granule4K<48>>();
}

#[test]
fn granule_16k() {
    all::<Granule16K<36>>();
    all::<Granule16K<39>>();
    all::<Granule16K<42>>();
    all::<Granule16K<47>>();
    all::<Granule16K<48>>();
}

#[test]
fn granule_64k() {
    all::<Granule64K<36>>();
    all::<Granule64K<39>>();
    all::<Granule64K<42>>();
    all::<Granule64K<47>>();
    all::<Granule64K<48>>();
    all::<Granule64K<52>>();
}

#[test]
fn granule_4k_with_lpa2() {
    all::<Granule4KLpa2<39>>();
    all::<Granule4KLpa2<48>>();
    all::<Granule4KLpa2<49>>();
    all::<Granule4KLpa2<52>>();
}

#[test]
fn granule_16k_with_lpa2() {
    all::<Granule16KLpa2<47>>();
    all::<Granule16KLpa2<48>>();
    all::<Granule16KLpa2<52>>();
}

#[test]
fn granule_64k_with_lpa() {
    all::<Granule64KLpa<42>>();
    all::<Granule64KLpa<48>>();
    all::<Granule64KLpa<52>>();
}

/// What follows from the five items that have no default.
#[test]
fn a_geometry_of_ones_own() {
    #[derive(Clone, Copy, Debug)]
    struct Plain;
    impl Geometry for Plain {
        const GRANULE_SHIFT: u32 = 12;
        const VA_BITS: u32 = 39;
        const OA_BITS: u32 = 48;
        const FIRST_BLOCK_LEVEL: i8 = 1;
        type Table = [AtomicU64; 512];
    }
    type Same = Granule4K<39>;
    assert_eq!((Plain::LEVELS, Plain::START_LEVEL), (3, 1));
    assert_eq!(Plain::OUTPUT_MASK, Same::OUTPUT_MASK);
    assert_eq!(Plain::TCR_EL1, Same::TCR_EL1);
    assert!(
        [0, 1, 2, 3]
            .iter()
            .all(|&level| Plain::run_shift(level) == 0)
    );
    leaves_at_every_level::<Plain>(VaRange::Lower);
}

/// The least that `TCR_EL1.TxSZ` allows: one level of pages, in a root that is used in part.
#[test]
fn a_range_of_one_level() {
    leaves_at_every_level::<Granule16K<25>>(VaRange::Upper);
    leaves_at_every_level::<Granule64K<25>>(VaRange::Upper);
    leaves_at_every_level::<Granule64K<29>>(VaRange::Lower);
}
