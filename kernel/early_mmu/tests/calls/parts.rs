//! Parts of blocks and of runs: split for rights of their own, unmapped, and merged again.

use early_mmu::{
    BbmLevel, BreakBeforeMake, Descriptor, Flags, Granule4K, MapError, Mapping, PAGE_KERNEL,
    PAGE_KERNEL_RO, PAGE_KERNEL_ROX, PhysAddr, Prot, VaRange,
};

use crate::support::{
    G48, GIB, KIB, MIB, Memory, Pool, Tables, UPPER, frames, map, mapping, refused, upper, va,
};

/// The part of one block, at each level of blocks: nothing else changes, and frames are counted.
#[test]
fn a_part_of_a_block_gets_rights_of_its_own() {
    for (block, part, tables_used) in [
        (2 * MIB, 4 * KIB, 1),
        (GIB, 4 * KIB, 2),
        (GIB, 2 * MIB, 1),
        (GIB, 64 * KIB, 2),
    ] {
        for at in [0, part, block / 2, block - part] {
            let memory = Memory::<G48>::new(16);
            let mut tables = upper(&memory);
            let whole = mapping(UPPER, 0, block, PAGE_KERNEL);
            let _ = map(&mut tables, &mut frames(1, 3), whole, Flags::NO_CONT);
            let live = BreakBeforeMake::new(&memory, BbmLevel::Level0);
            let start = va(UPPER + at);
            let needed = tables.tables_needed_to_split(start, part, Flags::NONE);
            assert_eq!(needed, Ok(tables_used));
            let mut short: Pool<G48> = frames(8, tables_used - 1);
            let error = refused(&mut tables, |t| {
                t.update_mapping_prot_splitting(
                    start,
                    part,
                    PAGE_KERNEL_RO,
                    Flags::NONE,
                    &mut short,
                    live,
                )
            });
            assert!(matches!(error, MapError::OutOfFrames { .. }), "{error}");
            let mut pool = frames(8, tables_used);
            let _ = tables
                .update_mapping_prot_splitting(
                    start,
                    part,
                    PAGE_KERNEL_RO,
                    Flags::NONE,
                    &mut pool,
                    live,
                )
                .expect("frames");
            memory.check();
            assert_eq!(pool.len(), 0);
            let read_only = tables.regions().filter(|r| !r.attributes.is_writable());
            assert_eq!(
                read_only.map(|r| (r.va, r.size_bytes)).collect::<Vec<_>>(),
                [(start, part)]
            );
            for offset in
                (0..block)
                    .step_by(64 * KIB as usize)
                    .chain([at, at + part - 1, block - 1])
            {
                assert_eq!(
                    tables.translate(va(UPPER + offset)),
                    Some(PhysAddr::new(offset))
                );
            }
            // And back to one block, with every table returned.
            let _ = tables
                .update_mapping_prot(whole.va, block, PAGE_KERNEL)
                .expect("whole leaves");
            let retired = tables
                .merge(whole.va, block, Flags::NONE, live)
                .expect("range");
            assert_eq!(retired.table_count(), tables_used);
            assert_eq!(memory.take_back(retired.execute(&memory)), tables_used);
            memory.check();
            let regions: Vec<_> = tables.regions().collect();
            assert_eq!((regions.len(), regions[0].leaf_bytes), (1, block));
        }
    }
}

/// Two peers lost what lay around the part that was unmapped, one only told so by a panic.
#[test]
fn unmapping_a_part_of_a_block_is_refused_until_it_is_split() {
    let memory = Memory::<G48>::new(16);
    let mut tables = upper(&memory);
    let block = mapping(UPPER, 0, 2 * MIB, PAGE_KERNEL);
    let _ = map(&mut tables, &mut frames(1, 3), block, Flags::NONE);
    let before = memory.snapshot();
    let error = tables.unmap(block.va, 4 * KIB).err().expect("a part");
    assert!(
        matches!(error, MapError::WouldSplitBlock { level: 2, .. }),
        "{error}"
    );
    assert!(before == memory.snapshot());
    let live = BreakBeforeMake::new(&memory, BbmLevel::Level0);
    let split = tables.split(block.va, 4 * KIB, Flags::NONE, &mut frames(8, 1), live);
    assert!(
        split.expect("frame").is_nothing(),
        "the sequence has flushed"
    );
    let error = tables
        .unmap(va(UPPER + 64 * KIB), 4 * KIB)
        .err()
        .expect("a part of a run");
    assert!(
        matches!(error, MapError::WouldSplitRun { level: 3, .. }),
        "{error}"
    );
    let retired = tables.unmap(block.va, 4 * KIB).expect("a page");
    assert_eq!(retired.table_count(), 0);
    retired.flush().ignore_because("nobody walks them");
    assert_eq!(tables.translate(block.va), None);
    let rest = va(UPPER + 4 * KIB);
    assert_eq!(tables.translate(rest), Some(PhysAddr::new(4 * KIB)));
    let retired = tables.unmap(rest, 2 * MIB - 4 * KIB).expect("the rest");
    assert_eq!(retired.table_count(), 3);
    let stale = retired.flush().stale().expect("all");
    assert!(!stale.last_level_only, "ways to tables are stale too");
    memory.take_back(retired.execute(&memory));
    memory.check();
    assert_eq!(memory.table_count(), 1);
}

/// Tables that are there for calls that must not allocate survive an unmapping that keeps them.
#[test]
fn tables_can_be_kept() {
    let memory = Memory::<G48>::new(16);
    let mut tables = upper(&memory);
    let _ = tables
        .create_tables(va(UPPER), 4 * MIB, &mut frames(1, 8))
        .expect("frames");
    let page = mapping(UPPER + 2 * MIB, 0, 4 * KIB, PAGE_KERNEL);
    let _ = tables
        .create_mapping_noalloc(page, Flags::NONE)
        .expect("tables are there");
    let flush = tables
        .unmap_keeping_tables(va(UPPER), 4 * MIB)
        .expect("whole pages");
    assert_eq!(
        flush
            .stale()
            .map(|stale| (stale.first, stale.last_level_only)),
        Some((page.va, true))
    );
    assert!(
        tables
            .unmap_keeping_tables(va(UPPER), 4 * MIB)
            .expect("holes")
            .is_nothing()
    );
    let _ = tables
        .create_mapping_noalloc(page, Flags::NONE)
        .expect("tables are there");
    // Empty tables go as well, and the ways to them are flushed.
    let _ = tables
        .unmap_keeping_tables(va(UPPER), 4 * MIB)
        .expect("whole pages");
    let retired = tables.unmap(va(UPPER), 4 * MIB).expect("empty");
    assert_eq!(retired.table_count(), 4);
    assert!(
        retired
            .flush()
            .stale()
            .is_some_and(|stale| !stale.last_level_only)
    );
    let freed = retired.execute(&memory);
    assert_eq!(freed.size_hint(), (0, Some(4)));
    assert_eq!(freed.count(), 4);
}

/// A table's limits go into the block that replaces it.
#[test]
fn a_block_keeps_what_its_table_forbade() {
    let memory = Memory::<G48>::new(16);
    let mut tables = upper(&memory);
    let data = mapping(UPPER, 0, 2 * MIB, PAGE_KERNEL_RO);
    let _ = map(
        &mut tables,
        &mut frames(1, 3),
        data,
        Flags::NO_BLOCK | Flags::NO_EXEC,
    );
    let live = BreakBeforeMake::new(&memory, BbmLevel::Level0);
    let retired = tables
        .merge(data.va, 2 * MIB, Flags::NONE, live)
        .expect("range");
    assert_eq!(retired.execute(&memory).count(), 1);
    let leaf = tables.walk(data.va).leaf().expect("mapped");
    assert_eq!(
        (leaf.level, Prot::of(leaf.descriptor)),
        (2, Some(PAGE_KERNEL_RO))
    );
    let text = mapping(UPPER + 4 * MIB, 4 * MIB, 2 * MIB, PAGE_KERNEL_ROX);
    let error = tables.create_mapping(text, Flags::NO_EXEC, &mut frames(8, 1));
    assert!(
        matches!(error, Err(MapError::DeniedByTable { .. })),
        "{error:?}"
    );
}

/// Splitting what is executable with tables that forbid it would take the right away.
#[test]
fn no_exec_tables_do_not_replace_executable_blocks() {
    let memory = Memory::<Granule4K<39>>::new(16);
    let mut tables: Tables<'_, Granule4K<39>> = upper(&memory);
    let text = Mapping {
        va: VaRange::Upper.base::<Granule4K<39>>(),
        pa: PhysAddr::new(0),
        size_bytes: 2 * MIB,
        prot: PAGE_KERNEL_ROX,
    };
    let _ = tables
        .create_mapping(text, Flags::NONE, &mut Pool::<Granule4K<39>>::new(1, 2))
        .expect("map");
    let live = BreakBeforeMake::new(&memory, BbmLevel::Level0);
    let error = refused(&mut tables, |t| {
        t.split(
            text.va,
            4 * KIB,
            Flags::NO_EXEC,
            &mut Pool::<Granule4K<39>>::new(8, 2),
            live,
        )
    });
    assert!(
        matches!(error, MapError::DeniedByTable { level: 2, .. }),
        "{error}"
    );
    let _ = tables
        .split(
            text.va,
            4 * KIB,
            Flags::NO_CONT,
            &mut Pool::<Granule4K<39>>::new(8, 2),
            live,
        )
        .expect("frames");
    let leaf = tables.walk(text.va).leaf().expect("mapped");
    let page = Descriptor::leaf::<Granule4K<39>>(3, text.pa, PAGE_KERNEL_ROX.bits());
    assert_eq!(leaf.descriptor, page);
    assert!(tables.regions().all(|r| !r.attributes.is_contiguous()));
}
