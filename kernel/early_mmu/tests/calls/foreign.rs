//! Tables that somebody else built, firmware or an earlier stage: what this crate never leaves behind, and
//! still must not make worse. A contiguous run may have holes (Arm ARM chapter D8, "Misprogramming the
//! Contiguous bit"), and an invalid entry may hold anything.

use crate::support::{
    G48, GIB, KIB, MIB, Memory, Tables, UPPER, frames, map, mapping, refused, upper, va,
};
use early_mmu::{
    BbmLevel, BreakBeforeMake, Flags, MapError, PAGE_KERNEL, PAGE_KERNEL_RO, PhysAddr, descriptor,
};

/// The first entry of the run, which is not the table's first.
const RUN: usize = 16;
/// Which entry is the hole.
const HOLE: usize = RUN + 5;

/// A run of pages, or of blocks, with a hole whose other bits are all still there; and its table.
fn run_with_a_hole<'m>(memory: &'m Memory<G48>, bytes: u64) -> (Tables<'m>, PhysAddr) {
    let mut tables = upper(memory);
    let start = RUN as u64 * bytes;
    let run = mapping(UPPER + start, GIB + start, 16 * bytes, PAGE_KERNEL);
    let _ = map(&mut tables, &mut frames(1, 7), run, Flags::NONE);
    let table = table_of(&tables, UPPER);
    memory.poke(table, HOLE, memory.peek(table, HOLE) & !descriptor::VALID);
    (tables, table)
}

/// The table whose entry the walk for `address` ends with.
fn table_of(tables: &Tables<'_>, address: u64) -> PhysAddr {
    let read: Vec<_> = tables.walk(va(address)).descriptors().collect();
    let (_, link) = read[read.len() - 2];
    link.output::<G48>()
}

#[test]
fn a_hole_stays_a_hole_when_its_run_is_taken_apart() {
    for bbm in [BbmLevel::Level0, BbmLevel::Level2] {
        for bytes in [4 * KIB, 2 * MIB] {
            let memory = Memory::<G48>::new(8);
            let (mut tables, table) = run_with_a_hole(&memory, bytes);
            let (start, hole) = (RUN as u64 * bytes, memory.peek(table, HOLE));
            let live = BreakBeforeMake::new(&memory, bbm);
            let _ = tables
                .split(
                    va(UPPER + start),
                    bytes,
                    Flags::NONE,
                    &mut frames(7, 1),
                    live,
                )
                .expect("no frame needed");
            assert_eq!(memory.peek(table, HOLE), hole);
            assert_eq!(tables.translate(va(UPPER + HOLE as u64 * bytes)), None);
            let entries = (RUN..RUN + 16).filter(|&index| index != HOLE);
            for index in entries {
                let leaf = tables.walk(va(UPPER + index as u64 * bytes)).leaf();
                let leaf = leaf.expect("mapped");
                assert!(!leaf.descriptor.is_contiguous());
                assert_eq!(leaf.pa.as_u64(), GIB + index as u64 * bytes);
            }
        }
    }
}

#[test]
fn a_hole_in_a_run_is_not_filled() {
    for bytes in [4 * KIB, 2 * MIB] {
        let memory = Memory::<G48>::new(8);
        let (mut tables, table) = run_with_a_hole(&memory, bytes);
        let (start, hole) = (RUN as u64 * bytes, HOLE as u64 * bytes);
        for (at, size) in [
            (hole, bytes),
            (start, 16 * bytes),
            (hole - bytes, 3 * bytes),
            (hole, 4 * KIB),
        ] {
            let request = mapping(UPPER + at, GIB + at, size, PAGE_KERNEL);
            let error = refused(&mut tables, |t| {
                t.create_mapping(request, Flags::NONE, &mut frames(7, 1))
            });
            assert!(
                matches!(error, MapError::WouldSplitRun { va: at, .. } if at == va(UPPER + hole)),
                "{error}"
            );
        }
        // Half of the run is holes: what was asked for is all new, but not the run.
        (RUN..RUN + 8).for_each(|index| memory.poke(table, index, 0));
        let half = mapping(UPPER + start, GIB + start, 8 * bytes, PAGE_KERNEL);
        let error = refused(&mut tables, |t| t.create_mapping_noalloc(half, Flags::NONE));
        assert!(matches!(error, MapError::WouldSplitRun { .. }), "{error}");
        // Without the others it is a hole like any.
        (RUN + 8..RUN + 16).for_each(|index| memory.poke(table, index, 0));
        let _ = tables
            .create_mapping_noalloc(half, Flags::NONE)
            .expect("free");
    }
}

/// Wherever in the run the entries with the hint are, and on whichever side of them the new ones.
#[test]
fn a_run_of_holes_and_few_hints_is_not_filled() {
    for bytes in [4 * KIB, 2 * MIB] {
        for (hinted, new) in [
            (RUN + 15..RUN + 16, RUN..RUN + 8),
            (RUN..RUN + 8, RUN + 8..RUN + 16),
            (RUN + 8..RUN + 16, RUN - 16..RUN + 4),
        ] {
            let memory = Memory::<G48>::new(8);
            let (mut tables, table) = run_with_a_hole(&memory, bytes);
            (RUN..RUN + 16)
                .filter(|index| !hinted.contains(index))
                .for_each(|index| memory.poke(table, index, 0));
            let at = new.start as u64 * bytes;
            let size = new.len() as u64 * bytes;
            let request = mapping(UPPER + at, GIB + at, size, PAGE_KERNEL);
            let error = refused(&mut tables, |t| {
                t.create_mapping_noalloc(request, Flags::NONE)
            });
            let hole = va(UPPER + new.start.max(RUN) as u64 * bytes);
            assert!(
                matches!(error, MapError::WouldSplitRun { va: at, .. } if at == hole),
                "{hinted:?} {new:?}: {error}"
            );
        }
    }
}

#[test]
fn a_run_may_be_mapped_before_another() {
    for bytes in [4 * KIB, 2 * MIB] {
        let memory = Memory::<G48>::new(8);
        let (mut tables, table) = run_with_a_hole(&memory, bytes);
        let other = mapping(UPPER, GIB, RUN as u64 * bytes, PAGE_KERNEL);
        let _ = tables
            .create_mapping_noalloc(other, Flags::NONE)
            .expect("free");
        assert_ne!(memory.peek(table, 0) & descriptor::CONTIGUOUS, 0);
    }
}

#[test]
fn a_hint_in_what_is_invalid_is_none() {
    let memory = Memory::<G48>::new(8);
    let (mut tables, table) = run_with_a_hole(&memory, 4 * KIB);
    (RUN..RUN + 16).for_each(|index| {
        let leaf = memory.peek(table, index) & !descriptor::CONTIGUOUS;
        memory.poke(table, index, leaf);
    });
    memory.poke(table, HOLE, descriptor::CONTIGUOUS);
    memory.poke(table, RUN, 0);
    let start = RUN as u64 * 4 * KIB;
    let page = mapping(UPPER + start, GIB + start, 4 * KIB, PAGE_KERNEL);
    let _ = tables
        .create_mapping_noalloc(page, Flags::NONE)
        .expect("no run is split");
}

#[test]
fn a_run_with_a_hole_is_unmapped_whole_and_not_protected() {
    let memory = Memory::<G48>::new(8);
    let (mut tables, _) = run_with_a_hole(&memory, 4 * KIB);
    let start = va(UPPER + RUN as u64 * 4 * KIB);
    let error = refused(&mut tables, |t| {
        t.update_mapping_prot(start, 64 * KIB, PAGE_KERNEL_RO)
    });
    let hole = va(UPPER + HOLE as u64 * 4 * KIB);
    assert_eq!(error, MapError::NotMapped { va: hole, level: 3 });
    let _ = tables
        .unmap_keeping_tables(start, 64 * KIB)
        .expect("holes are fine");
    assert_eq!(tables.regions().count(), 0);
}

/// Misprogrammed: a merge makes one run of it.
#[test]
fn an_entry_of_a_run_without_the_hint_gets_it_back() {
    for bbm in [BbmLevel::Level0, BbmLevel::Level2] {
        let memory = Memory::<G48>::new(8);
        let (mut tables, table) = run_with_a_hole(&memory, 4 * KIB);
        let restored = memory.peek(table, HOLE) | descriptor::VALID;
        memory.poke(table, HOLE, restored & !descriptor::CONTIGUOUS);
        let live = BreakBeforeMake::new(&memory, bbm);
        let retired = tables
            .merge(va(UPPER), 128 * KIB, Flags::NONE, live)
            .expect("a range");
        assert_eq!(retired.execute(&memory).count(), 0);
        let run: Vec<_> = tables.regions().collect();
        assert_eq!(run.len(), 1);
        assert!(run[0].attributes.is_contiguous() && run[0].size_bytes == 64 * KIB);
    }
}

/// Bit 16 of a block is `nT` and no address, though with pages it would be one.
#[test]
fn what_lies_below_the_size_of_a_block_is_no_address() {
    const NT: u64 = 1 << 16;
    for bytes in [2 * MIB, GIB] {
        let memory = Memory::<G48>::new(8);
        let mut tables = upper(&memory);
        let block = mapping(UPPER, GIB, bytes, PAGE_KERNEL);
        let _ = map(&mut tables, &mut frames(1, 7), block, Flags::NONE);
        let table = table_of(&tables, UPPER);
        memory.poke(table, 0, memory.peek(table, 0) | NT);
        for (at, size) in [(0, bytes), (4 * KIB, 4 * KIB)] {
            let request = mapping(UPPER + at, GIB + at, size, PAGE_KERNEL);
            assert_eq!(tables.translate(request.va), Some(request.pa));
            let beside = mapping(UPPER + at, GIB + NT + at, size, PAGE_KERNEL);
            let error = refused(&mut tables, |t| {
                t.create_mapping_noalloc(beside, Flags::NONE)
            });
            assert!(
                matches!(error, MapError::AlreadyMapped { va: at, .. } if at == beside.va),
                "{error}"
            );
        }
    }
}
