//! The question of November 2022, cell by cell: who may allocate, and was a table missing?
//!
//! A Linux patch (9ed2b4616d4e, reverted by 32d495b0c330) asserted the allocator once, at entry. Calls
//! that pass none because they need none then died before the console was up.
//!
//! | call                        | all tables there | table missing                     |
//! |-----------------------------|------------------|-----------------------------------|
//! | no-alloc                    | done             | `MissingTable`, nothing written   |
//! | allocator with frames       | done, none taken | done, exactly the missing taken   |
//! | allocator without frames    | done, none asked | `OutOfFrames`, nothing written    |

use crate::support::{
    G48, GIB, Memory, Pool, Tables, UPPER, frames, map, mapping, pa, refused, upper, va,
};
use early_mmu::{
    BbmLevel, BreakBeforeMake, Flags, Geometry, Level, MapError, Mapping, NoAlloc, PAGE_KERNEL,
    PAGE_KERNEL_RO, PhysAddr, TableAlloc, TableMemory, VirtAddr,
};
use std::cell::RefCell;
use std::ops::{Deref, DerefMut};
use std::sync::atomic::AtomicU64;

const FIXMAP: u64 = UPPER + 0x1234 * GIB;

/// Two pages on either side of a 2 MiB boundary: two last-level tables, below one of each level.
fn request() -> Mapping {
    mapping(
        FIXMAP + (2 << 20) - 0x1000,
        0x4000_0000,
        0x2000,
        PAGE_KERNEL,
    )
}

fn with_all_tables(memory: &Memory<G48>) -> Tables<'_> {
    let mut tables = upper(memory);
    let mut pool = frames(1, 4);
    tables
        .create_tables(request().va, request().size_bytes, &mut pool)
        .expect("four frames are enough")
        .ignore_because("no walker uses these tables");
    assert_eq!(pool.len(), 0);
    tables
}

/// The same but for the second of the last-level tables.
fn with_one_missing(memory: &Memory<G48>) -> Tables<'_> {
    let mut tables = upper(memory);
    let mut pool = frames(1, 3);
    tables
        .create_tables(request().va, 0x1000, &mut pool)
        .expect("three frames are enough")
        .ignore_because("no walker uses these tables");
    tables
}

#[track_caller]
fn assert_mapped(tables: &Tables<'_>) {
    let at = |offset| VirtAddr::new(request().va.as_u64() + offset);
    assert_eq!(tables.translate(at(0)), Some(pa(0x4000_0000)));
    assert_eq!(tables.translate(at(0x1fff)), Some(pa(0x4000_1fff)));
    assert_eq!(tables.translate(at(0x2000)), None);
}

#[test]
fn no_alloc_and_all_tables_there_is_done() {
    let memory = Memory::new(8);
    let mut tables = with_all_tables(&memory);
    let flush = tables
        .create_mapping_noalloc(request(), Flags::NONE)
        .expect("no table is missing");
    assert!(flush.has_new_entries() && flush.stale().is_none());
    assert_mapped(&tables);
}

#[test]
fn no_alloc_and_table_missing_says_which_where_and_who() {
    let memory = Memory::new(8);
    let mut tables = with_one_missing(&memory);
    let before = line!();
    let error = refused(&mut tables, |t| {
        t.create_mapping_noalloc(request(), Flags::NONE)
    });
    let after = line!();
    let MapError::MissingTable {
        level,
        va: missing_at,
        caller,
    } = error
    else {
        panic!("{error}");
    };
    assert_eq!((level, missing_at), (3, va(FIXMAP + (2 << 20))));
    assert_eq!(caller.file(), file!());
    assert!(before < caller.line() && caller.line() < after);
    assert_eq!(
        error.to_string(),
        format!("no level 3 table for {missing_at}, and none may be allocated: called at {caller}")
    );
}

#[test]
fn allocator_and_all_tables_there_takes_none() {
    let memory = Memory::new(8);
    let mut tables = with_all_tables(&memory);
    let mut pool = frames(5, 3);
    let _ = map(&mut tables, &mut pool, request(), Flags::NONE);
    assert_mapped(&tables);
    assert_eq!((pool.len(), pool.reservations), (3, 0));
}

#[test]
fn allocator_and_table_missing_takes_exactly_what_is_missing() {
    let memory = Memory::new(8);
    let mut tables = with_one_missing(&memory);
    let mut pool = frames(4, 3);
    let _ = map(&mut tables, &mut pool, request(), Flags::NONE);
    assert_mapped(&tables);
    assert_eq!((pool.len(), pool.reservations), (2, 1));
}

#[test]
fn empty_allocator_and_all_tables_there_is_done_without_asking() {
    let memory = Memory::new(8);
    let mut tables = with_all_tables(&memory);
    let mut pool = frames(5, 0);
    let _ = map(&mut tables, &mut pool, request(), Flags::NONE);
    assert_mapped(&tables);
    assert_eq!(pool.reservations, 0);
}

#[test]
fn empty_allocator_and_table_missing_is_out_of_frames() {
    let memory = Memory::new(8);
    let mut tables = with_one_missing(&memory);
    let mut pool = frames(4, 0);
    let error = refused(&mut tables, |t| {
        t.create_mapping(request(), Flags::NONE, &mut pool)
    });
    assert_eq!(
        error,
        MapError::OutOfFrames {
            needed: 1,
            available: 0
        }
    );
}

/// What the assertion at entry broke: the promise not to allocate is kept by calls that need none.
#[test]
fn an_assertion_at_entry_would_refuse_calls_that_need_no_table() {
    let memory = Memory::new(8);
    let mut tables = with_all_tables(&memory);
    // Five calls without an allocator, as in the boot log of that thread: FDT read-write twice and
    // read-only, then text alias and rodata read-only.
    for (prot, stale) in [
        (PAGE_KERNEL, false),
        (PAGE_KERNEL, false),
        (PAGE_KERNEL_RO, true),
    ] {
        let mapping = Mapping { prot, ..request() };
        let flush = tables
            .create_mapping_noalloc(mapping, Flags::NONE)
            .expect("no table is missing");
        assert_eq!(flush.stale().is_some(), stale);
    }
    for prot in [PAGE_KERNEL, PAGE_KERNEL_RO] {
        let flush = tables.update_mapping_prot(request().va, request().size_bytes, prot);
        assert!(flush.expect("no table is missing").stale().is_some());
    }
}

/// The hole in the flag that was proposed then: asking for no allocation while passing an allocator
/// allocated silently. Here one policy is passed, and it is either the one or the other.
#[test]
fn the_policy_is_one_argument_so_it_cannot_contradict_itself() {
    let memory = Memory::new(8);
    let mut tables = with_one_missing(&memory);
    let policy = &mut NoAlloc::here();
    let error = refused(&mut tables, |t| {
        t.create_mapping(request(), Flags::NONE, policy)
    });
    assert!(
        matches!(error, MapError::MissingTable { level: 3, .. }),
        "{error}"
    );
}

/// At each level, the missing table is named, and the first address that needs it.
#[test]
fn a_missing_table_is_named_at_each_level() {
    let memory = Memory::new(8);
    let mut tables = with_all_tables(&memory);
    for (distance, level) in [(512 * GIB, 1), (GIB, 2), (4 << 20, 3)] {
        let far = Mapping {
            va: va(FIXMAP + distance),
            ..request()
        };
        let error = refused(&mut tables, |t| t.create_mapping_noalloc(far, Flags::NONE));
        assert!(
            matches!(error, MapError::MissingTable { level: l, va, .. } if (l, va) == (level, far.va)),
            "{error}"
        );
    }
}

/// A policy is asked for each table that a split takes, by level and address, and for no other.
#[test]
fn a_policy_hears_of_each_table_that_a_split_takes() {
    struct Asked(Pool<G48>, RefCell<Vec<(Level, VirtAddr)>>);
    impl TableAlloc for Asked {
        type Frame = <Pool<G48> as TableAlloc>::Frame;
        type Reserved<'a> = <Pool<G48> as TableAlloc>::Reserved<'a>;
        fn missing_table(&self, level: Level, va: VirtAddr) -> Result<(), MapError> {
            self.1.borrow_mut().push((level, va));
            Ok(())
        }
        fn reserve(&mut self, needed: usize) -> Result<Self::Reserved<'_>, MapError> {
            self.0.reserve(needed)
        }
    }
    for (cut, levels) in [(2 << 20, vec![2]), (0x1000, vec![2, 3])] {
        let memory = Memory::<G48>::new(8);
        let mut tables = upper(&memory);
        let block = mapping(UPPER, GIB, GIB, PAGE_KERNEL);
        let _ = map(&mut tables, &mut frames(1, 2), block, Flags::NONE);
        let mut policy = Asked(frames(3, 2), RefCell::default());
        let live = BreakBeforeMake::new(&memory, BbmLevel::Level0);
        let _ = tables
            .split(va(UPPER), cut, Flags::NONE, &mut policy, live)
            .expect("frames");
        let expected: Vec<_> = levels
            .iter()
            .map(|&level| (level, va(UPPER + cut)))
            .collect();
        assert_eq!(policy.1.into_inner(), expected);
    }
}

/// Where memory is simply there, a frame that became a table is the tables' for good.
#[test]
fn a_published_frame_is_not_given_back() {
    struct Frame(Box<<G48 as Geometry>::Table>);
    impl Deref for Frame {
        type Target = <G48 as Geometry>::Table;
        fn deref(&self) -> &Self::Target {
            &self.0
        }
    }
    impl DerefMut for Frame {
        fn deref_mut(&mut self) -> &mut Self::Target {
            &mut self.0
        }
    }
    impl Drop for Frame {
        fn drop(&mut self) {
            panic!("given back");
        }
    }
    struct Simple;
    impl TableMemory<G48> for Simple {
        type Frame = Frame;
        fn table(&self, _: PhysAddr) -> Option<&<G48 as Geometry>::Table> {
            None
        }
        fn before_link(&self) {}
    }
    let table = [const { AtomicU64::new(0) }; 512];
    Simple.publish(pa(0), Frame(Box::new(table)));
}
