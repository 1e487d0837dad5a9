//! What a merge and a split must leave alone.

use crate::support::{
    G48, GIB, KIB, MIB, Memory, Pool, Tables, UPPER, frames, map, mapping, upper, va,
};
use early_mmu::{
    BbmLevel, BreakBeforeMake, Flags, Granule4KLpa2, Mapping, PAGE_KERNEL, PAGE_KERNEL_RO,
    PAGE_KERNEL_ROX, VirtAddr,
};

const PAGE: u64 = 4 * KIB;
const RUN: u64 = 16 * PAGE;

/// A run of pages without the hint, `pa` behind 1 GiB.
fn sixteen_pages<'m>(memory: &'m Memory<G48>, pa: u64) -> Tables<'m> {
    let mut tables = upper(memory);
    let run = mapping(UPPER, GIB + pa, RUN, PAGE_KERNEL);
    let _ = map(&mut tables, &mut frames(1, 7), run, Flags::NO_CONT);
    tables
}

fn merge(memory: &Memory<G48>, tables: &mut Tables<'_>, size_bytes: u64) {
    let live = BreakBeforeMake::new(memory, BbmLevel::Level2);
    let retired = tables.merge(va(UPPER), size_bytes, Flags::NONE, live);
    assert_eq!(retired.expect("a range").execute(memory).count(), 0);
}

fn is_contiguous(tables: &Tables<'_>, at: VirtAddr) -> bool {
    let leaf = tables.walk(at).leaf().expect("mapped");
    leaf.descriptor.is_contiguous()
}

#[test]
fn a_run_is_merged_if_it_is_asked_for_whole() {
    let memory = Memory::<G48>::new(8);
    let mut tables = sixteen_pages(&memory, 0);
    let second = mapping(UPPER + RUN, GIB + RUN, RUN, PAGE_KERNEL);
    let flush = tables.create_mapping_noalloc(second, Flags::NO_CONT);
    flush.expect("a hole").ignore_because("a test");
    merge(&memory, &mut tables, 2 * RUN - PAGE);
    assert!(is_contiguous(&tables, va(UPPER)));
    assert!(!is_contiguous(&tables, second.va));
    merge(&memory, &mut tables, 2 * RUN);
    assert!(is_contiguous(&tables, second.va));
}

#[test]
fn no_run_is_made_of_addresses_that_a_run_cannot_have() {
    for pa in (1..16).map(|page| page * PAGE) {
        let memory = Memory::<G48>::new(8);
        let mut tables = sixteen_pages(&memory, pa);
        merge(&memory, &mut tables, RUN);
        assert!(!is_contiguous(&tables, va(UPPER)), "{pa:#x}");
    }
}

#[test]
fn no_run_is_made_of_pages_that_differ() {
    let memory = Memory::<G48>::new(8);
    let mut tables = sixteen_pages(&memory, 0);
    let one = va(UPPER + 7 * PAGE);
    let flush = tables.update_mapping_prot(one, PAGE, PAGE_KERNEL_RO);
    flush.expect("mapped").ignore_because("a test");
    merge(&memory, &mut tables, RUN);
    assert!(!is_contiguous(&tables, va(UPPER)));

    let _ = tables.unmap_keeping_tables(one, PAGE).expect("mapped");
    let elsewhere = mapping(one.as_u64(), GIB + 8 * PAGE, PAGE, PAGE_KERNEL);
    let flush = tables.create_mapping_noalloc(elsewhere, Flags::NONE);
    flush.expect("a hole").ignore_because("a test");
    merge(&memory, &mut tables, RUN);
    assert!(!is_contiguous(&tables, va(UPPER)));
}

#[test]
fn a_block_cut_in_two_of_its_parts_takes_three_tables() {
    let memory = Memory::<G48>::new(16);
    let mut tables = upper(&memory);
    let mut pool = frames(1, 15);
    let block = mapping(UPPER + GIB, GIB, GIB, PAGE_KERNEL);
    let _ = map(&mut tables, &mut pool, block, Flags::NONE);
    let before = pool.len();
    let live = BreakBeforeMake::new(&memory, BbmLevel::Level0);
    let (start, end) = (UPPER + GIB + PAGE, UPPER + GIB + 8 * MIB + PAGE);
    let flush = tables.split(va(start), end - start, Flags::NONE, &mut pool, live);
    flush.expect("frames enough").ignore_because("a test");
    assert_eq!(before - pool.len(), 3);
    assert_eq!(
        tables.translate(va(end)),
        Some(crate::support::pa(GIB + 8 * MIB + PAGE))
    );
}

#[test]
fn a_run_is_unfolded_without_a_table_that_could_forbid() {
    let memory = Memory::<G48>::new(8);
    let mut tables = upper(&memory);
    let run = mapping(UPPER, GIB, RUN, PAGE_KERNEL_ROX);
    let _ = map(&mut tables, &mut frames(1, 7), run, Flags::NONE);
    let live = BreakBeforeMake::new(&memory, BbmLevel::Level0);
    let (half, none) = (va(UPPER + RUN / 2), &mut frames(7, 0));
    let flush = tables.split(half, RUN / 2, Flags::NO_EXEC, none, live);
    flush.expect("no table is needed").ignore_because("a test");
    assert!(!is_contiguous(&tables, va(UPPER)));
}

#[test]
fn the_root_is_the_one_that_was_given() {
    let memory = Memory::<G48>::new(1);
    assert_eq!(upper(&memory).root(), memory.root());
}

/// A block of RAM with tables in it: what they hold is not below the block.
#[test]
fn a_merge_does_not_look_for_tables_behind_a_block() {
    let memory = Memory::<G48>::new(520);
    let mut tables = upper(&memory);
    let mut pool = frames(510, 10);
    let run = mapping(UPPER, GIB, RUN, PAGE_KERNEL);
    let _ = map(&mut tables, &mut pool, run, Flags::NO_CONT);
    let (_, link) = tables.walk(run.va).descriptors().nth(2).expect("a table");
    let pages = link.output::<G48>().as_u64();
    let block = mapping(UPPER + GIB, pages, 2 * MIB, PAGE_KERNEL);
    let _ = map(&mut tables, &mut pool, block, Flags::NONE);
    let live = BreakBeforeMake::new(&memory, BbmLevel::Level2);
    let retired = tables.merge(block.va, 2 * MIB, Flags::NONE, live);
    assert_eq!(retired.expect("a range").execute(&memory).count(), 0);
    assert!(!is_contiguous(&tables, run.va));
}

/// Of the blocks at level 0, with addresses of 52 bits.
#[test]
fn no_hint_is_given_where_there_are_no_runs() {
    type G = Granule4KLpa2<52>;
    let memory = Memory::<G>::new(4);
    let mut tables = upper(&memory);
    let block = mapping(0xfff0_0000_0000_0000, 0, 512 * GIB, PAGE_KERNEL);
    let mut pool = Pool::<G>::new(1, 3);
    let flush = tables.create_mapping(block, Flags::NONE, &mut pool);
    flush.expect("frames enough").ignore_because("a test");
    let live = BreakBeforeMake::new(&memory, BbmLevel::Level2);
    let retired = tables.merge(block.va, 512 * GIB, Flags::NONE, live);
    assert_eq!(retired.expect("a range").execute(&memory).count(), 0);
    let leaf = tables.walk(block.va).leaf().expect("mapped");
    assert_eq!((leaf.level, leaf.descriptor.is_contiguous()), (0, false));
}

/// Its first pages are no run, those behind them are.
#[test]
fn pages_before_a_run_do_not_move_it() {
    let memory = Memory::<G48>::new(8);
    let mut tables = sixteen_pages(&memory, 0);
    let rest = mapping(
        UPPER + RUN + 8 * PAGE,
        GIB + RUN + 8 * PAGE,
        2 * RUN,
        PAGE_KERNEL,
    );
    let flush = tables.create_mapping_noalloc(rest, Flags::NONE);
    flush.expect("a hole").ignore_because("a test");
    for prot in [PAGE_KERNEL, PAGE_KERNEL_RO] {
        let flush = tables.create_mapping_noalloc(Mapping { prot, ..rest }, Flags::NONE);
        flush.expect("the same pages").ignore_because("a test");
        for page in (24..56).map(|page| page * PAGE) {
            let translated = tables.translate(va(UPPER + page));
            assert_eq!(translated, Some(crate::support::pa(GIB + page)));
        }
        assert!(!is_contiguous(&tables, rest.va));
        assert!(is_contiguous(&tables, va(UPPER + 2 * RUN)));
    }
}

/// Their upper bits stand elsewhere in a descriptor: with 52-bit addresses bit 50 is no carry of bit 49.
#[test]
fn output_addresses_cross_into_bits_that_stand_elsewhere() {
    type G = Granule4KLpa2<52>;
    let memory = Memory::<G>::new(8);
    let mut tables = upper(&memory);
    let mut pool = Pool::<G>::new(1, 7);
    let (start, middle) = (0xfff0_0000_0000_0000, 1 << 50);
    for (at, pa) in [(0, 0), (16 * PAGE, middle - 8 * PAGE)] {
        let pages = mapping(start + at, pa, 16 * PAGE, PAGE_KERNEL);
        let flush = tables.create_mapping(pages, Flags::NONE, &mut pool);
        flush.expect("frames enough").ignore_because("a test");
    }
    for page in (0..16).map(|page| page * PAGE) {
        let translated = tables.translate(va(start + 16 * PAGE + page));
        assert_eq!(
            translated,
            Some(crate::support::pa(middle - 8 * PAGE + page))
        );
    }
}

/// As blocks, the widest there are: more bytes than a 32-bit host's `usize` counts.
#[test]
fn blocks_cross_into_bits_that_stand_elsewhere() {
    type G = Granule4KLpa2<52>;
    let memory = Memory::<G>::new(2);
    let mut tables = upper(&memory);
    let (start, middle) = (0xfff0_0000_0000_0000, 1 << 50);
    let blocks = mapping(start, middle - 512 * GIB, 1024 * GIB, PAGE_KERNEL);
    // Into a new table, then over it.
    for prot in [PAGE_KERNEL, PAGE_KERNEL_RO] {
        let blocks = Mapping { prot, ..blocks };
        let flush = tables.create_mapping(blocks, Flags::NONE, &mut Pool::<G>::new(1, 1));
        flush.expect("one frame").ignore_because("a test");
        for (at, pa) in [(0, middle - 512 * GIB), (512 * GIB, middle)] {
            let leaf = tables.walk(va(start + at)).leaf().expect("mapped");
            assert_eq!((leaf.level, leaf.pa.as_u64()), (0, pa));
        }
    }
}
