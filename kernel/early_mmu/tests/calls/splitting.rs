//! What a split leaves as it was; and a change with a split before it, which is all or nothing too.

use crate::support::{
    G48, GIB, KIB, MIB, Memory, Tables, UPPER, frames, map, mapping, refused, upper, va,
};
use early_mmu::{
    BbmLevel, BreakBeforeMake, Flags, MapError, PAGE_KERNEL, PAGE_KERNEL_RO, PAGE_KERNEL_ROX,
    descriptor,
};

/// At the block's beginning, in its middle, and at its end. Neither wish alone is wrong.
#[test]
fn execution_below_new_tables_that_forbid_it_is_refused_before_the_split() {
    for (first, size_bytes) in [(0, 4 * KIB), (64 * KIB, 8 * KIB), (MIB, MIB)] {
        for (prot, flags) in [
            (PAGE_KERNEL_ROX, Flags::NO_EXEC),
            (PAGE_KERNEL_ROX, Flags::NONE),
            (PAGE_KERNEL_RO, Flags::NO_EXEC),
        ] {
            let memory = Memory::<G48>::new(8);
            let mut tables = upper(&memory);
            let mut pool = frames(1, 3);
            let block = mapping(UPPER, GIB, 2 * MIB, PAGE_KERNEL);
            let _ = map(&mut tables, &mut pool, block, Flags::NONE);
            let live = BreakBeforeMake::new(&memory, BbmLevel::Level0);
            let start = va(UPPER + first);
            let mut change = |t: &mut Tables<'_>| {
                t.update_mapping_prot_splitting(start, size_bytes, prot, flags, &mut pool, live)
            };
            if (prot, flags) != (PAGE_KERNEL_ROX, Flags::NO_EXEC) {
                let flush = change(&mut tables);
                flush.expect("allowed").ignore_because("a test");
                continue;
            }
            let error = refused(&mut tables, change);
            assert!(
                matches!(error, MapError::DeniedByTable { va, level: 2, .. } if va == start),
                "{error}"
            );
        }
    }
}

/// This crate gives EL0 nothing; who built the tables before may have.
#[test]
fn what_el0_may_execute_it_may_after_a_split() {
    let memory = Memory::<G48>::new(8);
    let mut tables = upper(&memory);
    let block = mapping(UPPER, GIB, GIB, PAGE_KERNEL_ROX);
    let _ = map(&mut tables, &mut frames(1, 1), block, Flags::NONE);
    let (_, link) = tables.walk(block.va).descriptors().next().expect("a table");
    let table = link.output::<G48>();
    memory.poke(memory.root(), 0, link.bits() & !descriptor::UXN_TABLE);
    memory.poke(table, 0, memory.peek(table, 0) & !descriptor::UXN);
    let effective = |tables: &Tables<'_>| {
        let leaf = tables.walk(block.va).leaf().expect("mapped");
        leaf.effective.attributes::<G48>()
    };
    let before = effective(&tables);
    let live = BreakBeforeMake::new(&memory, BbmLevel::Level0);
    let pool = &mut frames(4, 2);
    let flush = tables.split(block.va, 4 * KIB, Flags::NONE, pool, live);
    flush.expect("two frames").ignore_because("a test");
    assert_eq!(effective(&tables), before);
    assert_eq!(before & descriptor::UXN, 0);
}

/// Somebody else's run that has an end where it should have none: what is refused then was split, and says the
/// same as before.
#[test]
fn a_run_that_is_none_is_refused_and_says_what_it_said() {
    let holes = |_| 0;
    let read_only = |entry| entry | descriptor::AP_RDONLY;
    for odd in [holes, read_only] {
        let memory = Memory::<G48>::new(16);
        let mut tables = upper(&memory);
        let mut pool = frames(1, 8);
        // A block and a run behind it; the ninth entry of the run is no part of it.
        let both = mapping(UPPER, GIB, 2 * MIB + 64 * KIB, PAGE_KERNEL);
        let _ = map(&mut tables, &mut pool, both, Flags::NONE);
        let run = both.va.as_u64() + 2 * MIB;
        let (_, link) = tables.walk(va(run)).descriptors().nth(2).expect("a table");
        let table = link.output::<G48>();
        memory.poke(table, 8, odd(memory.peek(table, 8)));
        let regions = |tables: &Tables<'_>| {
            let pages = (0..both.size_bytes).step_by(4096);
            let leaves = pages.map(|page| tables.walk(va(UPPER + page)));
            let said = leaves.map(|walk| {
                (
                    walk.pa(),
                    walk.leaf().map(|leaf| leaf.effective.is_writable()),
                )
            });
            said.collect::<Vec<_>>()
        };
        let before = regions(&tables);
        let live = BreakBeforeMake::new(&memory, BbmLevel::Level0);
        let start = va(run - 4 * KIB);
        let error = tables.update_mapping_prot_splitting(
            start,
            36 * KIB,
            PAGE_KERNEL_RO,
            Flags::NONE,
            &mut pool,
            live,
        );
        assert!(
            matches!(error, Err(MapError::WouldSplitRun { va: at, .. }) if at == va(run)),
            "{error:?}"
        );
        assert!(before == regions(&tables));
    }
}
