//! Which leaf goes where: the largest that fits, and nothing beyond the request.

use crate::support::{
    G48, GIB, KIB, MIB, Memory, Tables, UPPER, frames, map, mapping, pa, refused, upper, va,
};
use early_mmu::{Flags, Mapping, PAGE_KERNEL, PAGE_KERNEL_RO, PageTable, VaRange};

/// (address, bytes, level) of each region, from `UPPER` on, whether its runs are contiguous or not.
fn layout(tables: &Tables<'_>) -> Vec<(u64, u64, i8)> {
    let mut regions: Vec<(u64, u64, i8)> = vec![];
    for region in tables.regions() {
        let at = region.va.as_u64() - UPPER;
        match regions.last_mut() {
            Some((start, size, level)) if *start + *size == at && *level == region.level => {
                *size += region.size_bytes;
            }
            _ => regions.push((at, region.size_bytes, region.level)),
        }
    }
    regions
}

#[test]
fn the_largest_leaf_at_each_alignment() {
    for (at, pa, size, flags, expected, tables_used) in [
        (0, 0, GIB, Flags::NONE, vec![(0, GIB, 1)], 1),
        (0, 0, GIB, Flags::NO_BLOCK, vec![(0, GIB, 3)], 514),
        (0, 2 * MIB, GIB, Flags::NONE, vec![(0, GIB, 2)], 2),
        (
            2 * MIB,
            2 * MIB,
            GIB,
            Flags::NONE,
            vec![(2 * MIB, GIB, 2)],
            3,
        ),
        (0, 4 * KIB, 2 * MIB, Flags::NONE, vec![(0, 2 * MIB, 3)], 3),
        (
            0,
            0,
            GIB - 2 * MIB,
            Flags::NONE,
            vec![(0, GIB - 2 * MIB, 2)],
            2,
        ),
        (
            0,
            0,
            2 * MIB - 4 * KIB,
            Flags::NONE,
            vec![(0, 2 * MIB - 4 * KIB, 3)],
            3,
        ),
        (
            GIB - 4 * KIB,
            GIB - 4 * KIB,
            GIB + 8 * KIB,
            Flags::NONE,
            vec![
                (GIB - 4 * KIB, 4 * KIB, 3),
                (GIB, GIB, 1),
                (2 * GIB, 4 * KIB, 3),
            ],
            5,
        ),
        // No block at level 0, whatever the alignment.
        (0, 0, 512 * GIB, Flags::NONE, vec![(0, 512 * GIB, 1)], 1),
        (
            512 * GIB - GIB,
            GIB,
            2 * GIB,
            Flags::NONE,
            vec![(511 * GIB, 2 * GIB, 1)],
            2,
        ),
    ] {
        let memory = Memory::new(600);
        let mut tables = upper(&memory);
        let mut pool = frames(1, 599);
        let mapping = mapping(UPPER + at, pa, size, PAGE_KERNEL);
        assert_eq!(
            tables.tables_needed(mapping, flags),
            Ok(tables_used),
            "{mapping:?}"
        );
        let flush = map(&mut tables, &mut pool, mapping, flags);
        assert!(flush.has_new_entries() && flush.stale().is_none());
        assert_eq!(599 - pool.len(), tables_used);
        assert_eq!(layout(&tables), expected, "{mapping:?}");
        assert_eq!(memory.links.get(), 1 + usize::from(at == 511 * GIB));
    }
}

/// Linux 90268574a3e8: an exclusive end taken as inclusive mapped one block more, and needed one
/// table more.
#[test]
fn nothing_is_mapped_on_either_side() {
    for (start, size) in [
        (2 * MIB, 2 * MIB),
        (GIB, GIB),
        (GIB - 2 * MIB, 4 * MIB),
        (4 * KIB, 4 * KIB),
        (2 * MIB - 4 * KIB, 8 * KIB),
        (512 * GIB - 4 * KIB, 8 * KIB),
    ] {
        let memory = Memory::new(64);
        let mut tables = upper(&memory);
        let request = mapping(UPPER + start, start, size, PAGE_KERNEL);
        let _ = map(&mut tables, &mut frames(1, 8), request, Flags::NONE);
        let at = |offset| tables.translate(va(UPPER + offset));
        assert_eq!(at(start - 1), None, "{start:#x}");
        assert_eq!(at(start), Some(pa(start)));
        assert_eq!(at(start + size - 1), Some(pa(start + size - 1)));
        assert_eq!(at(start + size), None, "{start:#x}");
    }
}

#[test]
fn an_existing_table_is_never_replaced_by_a_block() {
    let memory = Memory::new(64);
    let mut tables = upper(&memory);
    let mut pool = frames(1, 16);
    let page = mapping(UPPER + 6 * MIB, 6 * MIB, 4 * KIB, PAGE_KERNEL);
    let _ = map(&mut tables, &mut pool, page, Flags::NONE);
    let all = mapping(UPPER, 0, GIB, PAGE_KERNEL);
    assert_eq!(tables.tables_needed(all, Flags::NONE), Ok(0));
    let flush = map(&mut tables, &mut pool, all, Flags::NONE);
    assert!(flush.stale().is_none());
    assert_eq!(
        layout(&tables),
        [
            (0, 6 * MIB, 2),
            (6 * MIB, 2 * MIB, 3),
            (8 * MIB, GIB - 8 * MIB, 2)
        ]
    );
}

#[test]
fn protecting_one_leaf_leaves_its_neighbours() {
    for (leaf_bytes, flags) in [
        (4 * KIB, Flags::NO_BLOCK),
        (2 * MIB, Flags::NONE),
        (GIB, Flags::NONE),
    ] {
        let memory = Memory::new(64);
        let mut tables = upper(&memory);
        let three = mapping(
            UPPER + 3 * leaf_bytes,
            3 * leaf_bytes,
            3 * leaf_bytes,
            PAGE_KERNEL,
        );
        let _ = map(&mut tables, &mut frames(1, 8), three, flags);
        let middle = va(UPPER + 4 * leaf_bytes);
        let flush = tables
            .update_mapping_prot(middle, leaf_bytes, PAGE_KERNEL_RO)
            .expect("whole leaf");
        let stale = flush.stale().expect("changed");
        assert_eq!((stale.first, stale.stride_bytes), (middle, leaf_bytes));
        assert_eq!(stale.last.as_u64(), middle.as_u64() + (leaf_bytes - 1));
        let regions: Vec<_> = tables.regions().collect();
        assert_eq!(regions.len(), 3);
        assert_eq!(
            regions
                .iter()
                .map(|r| r.attributes.is_writable())
                .collect::<Vec<_>>(),
            [true, false, true]
        );
        assert!(
            regions
                .iter()
                .all(|r| r.size_bytes == leaf_bytes && r.leaf_bytes == leaf_bytes)
        );
    }
}

#[test]
fn the_top_of_the_address_space() {
    let memory = Memory::new(64);
    let mut tables = upper(&memory);
    let top = |size: u64| mapping(size.wrapping_neg(), GIB - size, size, PAGE_KERNEL);
    let _ = map(
        &mut tables,
        &mut frames(1, 8),
        top(2 * MIB + 4 * KIB),
        Flags::NONE,
    );
    assert_eq!(tables.translate(va(u64::MAX)), Some(pa(GIB - 1)));
    let last = tables.regions().last().expect("mapped");
    assert_eq!((last.last(), last.level), (va(u64::MAX), 2));
    let flush = tables
        .update_mapping_prot(va((2 * MIB).wrapping_neg()), 2 * MIB, PAGE_KERNEL_RO)
        .expect("whole block");
    assert_eq!(flush.stale().expect("changed").last, va(u64::MAX));
    // The whole range in one call.
    let memory = Memory::new(512 + 2);
    let mut tables = upper(&memory);
    let all = mapping(UPPER, 0, 1 << 48, PAGE_KERNEL);
    assert_eq!(tables.tables_needed(all, Flags::NONE), Ok(512));
    let _ = map(&mut tables, &mut frames(1, 512), all, Flags::NONE);
    assert_eq!(layout(&tables), [(0, 1 << 48, 1)]);
}

#[test]
fn the_lower_range_begins_at_zero_and_ends_at_its_top() {
    let memory = Memory::<G48>::new(64);
    let mut tables: Tables<'_> = PageTable::new(memory.root(), VaRange::Lower, &memory);
    let top = (1 << 48) - GIB;
    for (at, pa) in [(0, 0), (top, GIB)] {
        let _ = map(
            &mut tables,
            &mut frames(1 + at.min(1) as usize, 1),
            mapping(at, pa, GIB, PAGE_KERNEL),
            Flags::NONE,
        );
    }
    assert_eq!(tables.translate(va(0)), Some(pa(0)));
    assert_eq!(tables.translate(va((1 << 48) - 1)), Some(pa(2 * GIB - 1)));
    assert_eq!(tables.translate(va(1 << 48)), None);
}

/// The highest physical page there is.
#[test]
fn the_last_physical_page() {
    let memory = Memory::new(64);
    let mut tables = upper(&memory);
    let last = (1 << 48) - 2 * MIB;
    let _ = map(
        &mut tables,
        &mut frames(1, 8),
        mapping(UPPER, last, 2 * MIB, PAGE_KERNEL),
        Flags::NO_BLOCK,
    );
    assert_eq!(
        tables.translate(va(UPPER + 2 * MIB - 1)),
        Some(pa((1 << 48) - 1))
    );
    assert_eq!(layout(&tables), [(0, 2 * MIB, 3)]);
}

#[test]
fn create_tables_makes_the_no_alloc_calls_succeed() {
    let memory = Memory::<G48>::new(64);
    let mut tables = upper(&memory);
    let fixmap = va(UPPER + 6 * MIB);
    let mut pool = frames(1, 8);
    let flush = tables
        .create_tables(fixmap, 4 * MIB, &mut pool)
        .expect("frames");
    assert!(flush.has_new_entries());
    assert_eq!(pool.len(), 4);
    assert_eq!(tables.regions().count(), 0);
    let again = tables
        .create_tables(fixmap, 4 * MIB, &mut pool)
        .expect("nothing to do");
    assert!(again.is_nothing());
    for offset in (0..4 * MIB).step_by(64 * KIB as usize) {
        let page = mapping(fixmap.as_u64() + offset, offset, 4 * KIB, PAGE_KERNEL);
        let _ = tables
            .create_mapping_noalloc(page, Flags::NONE)
            .expect("tables are there");
    }
    let beyond = mapping(fixmap.as_u64() + 4 * MIB, 0, 4 * KIB, PAGE_KERNEL);
    refused(&mut tables, |t| {
        t.create_mapping_noalloc(beyond, Flags::NONE)
    });
    // Tables that exist are used, not doubled.
    let wider = tables.create_tables(va(UPPER), 16 * MIB, &mut pool);
    assert!(wider.is_err(), "four tables are left, six are missing");
    memory.check();
}

#[test]
fn gigabytes_with_ragged_ends_take_the_least_tables() {
    let memory = Memory::new(64);
    let mut tables = upper(&memory);
    let ragged = mapping(
        UPPER + GIB - 12 * KIB,
        GIB - 12 * KIB,
        4 * GIB + 20 * KIB,
        PAGE_KERNEL,
    );
    let mut pool = frames(1, 8);
    let _ = map(&mut tables, &mut pool, ragged, Flags::NONE);
    // One table of level 1; on each side one of level 2 and one of level 3.
    assert_eq!(8 - pool.len(), 5);
    assert_eq!(
        layout(&tables),
        [
            (GIB - 12 * KIB, 12 * KIB, 3),
            (GIB, 4 * GIB, 1),
            (5 * GIB, 8 * KIB, 3)
        ]
    );
    let same = Mapping {
        prot: PAGE_KERNEL_RO,
        ..ragged
    };
    let flush = tables
        .create_mapping_noalloc(same, Flags::NONE)
        .expect("whole leaves");
    let stale = flush.stale().expect("changed");
    assert_eq!((stale.first, stale.stride_bytes), (ragged.va, 4 * KIB));
    assert_eq!(
        stale.last.as_u64(),
        ragged.va.as_u64() + ragged.size_bytes - 1
    );
}
