//! The Contiguous hint: set where it is right, and never on a part of a run.

use crate::support::{
    G48, GIB, KIB, MIB, Memory, Pool, Tables, TestGeometry, UPPER, frames, map, mapping, refused,
    upper, va,
};
use early_mmu::{
    Descriptor, Flags, Granule4K, Granule16K, Granule64K, MapError, Mapping, PAGE_KERNEL,
    PAGE_KERNEL_RO, PAGE_KERNEL_ROX, PROT_DEVICE_nGnRE, PageTable, PhysAddr, VaRange,
};

/// (address, bytes, level, whether contiguous) of each region, from `base` on.
fn layout<G: TestGeometry>(tables: &Tables<'_, G>, base: u64) -> Vec<(u64, u64, i8, bool)> {
    tables
        .regions()
        .map(|r| {
            (
                r.va.as_u64() - base,
                r.size_bytes,
                r.level,
                r.attributes.is_contiguous(),
            )
        })
        .collect()
}

/// One request on empty tables, and how it is laid out.
#[track_caller]
fn laid_out(at: u64, pa: u64, size: u64, flags: Flags, expected: &[(u64, u64, i8, bool)]) {
    let memory = Memory::<G48>::new(600);
    let mut tables = upper(&memory);
    let request = mapping(UPPER + at, pa, size, PAGE_KERNEL);
    let _ = map(&mut tables, &mut frames(1, 599), request, flags);
    assert_eq!(layout(&tables, UPPER), expected);
    // And the same again is the same.
    assert!(
        tables
            .create_mapping_noalloc(request, flags)
            .expect("same")
            .is_nothing()
    );
}

#[test]
fn pages_in_runs_of_sixteen() {
    let none = Flags::NONE;
    laid_out(0, 0, 64 * KIB, none, &[(0, 64 * KIB, 3, true)]);
    laid_out(0, 0, 60 * KIB, none, &[(0, 60 * KIB, 3, false)]);
    laid_out(
        4 * KIB,
        4 * KIB,
        64 * KIB,
        none,
        &[(4 * KIB, 64 * KIB, 3, false)],
    );
    laid_out(
        60 * KIB,
        60 * KIB,
        72 * KIB,
        none,
        &[
            (60 * KIB, 4 * KIB, 3, false),
            (64 * KIB, 64 * KIB, 3, true),
            (128 * KIB, 4 * KIB, 3, false),
        ],
    );
    // The physical address must be aligned as well.
    laid_out(0, 4 * KIB, 128 * KIB, none, &[(0, 128 * KIB, 3, false)]);
    laid_out(0, 64 * KIB, 128 * KIB, none, &[(0, 128 * KIB, 3, true)]);
    laid_out(0, 0, 64 * KIB, Flags::NO_CONT, &[(0, 64 * KIB, 3, false)]);
    laid_out(0, 0, 2 * MIB, Flags::NO_BLOCK, &[(0, 2 * MIB, 3, true)]);
    laid_out(
        0,
        0,
        2 * MIB,
        Flags::NO_BLOCK | Flags::NO_CONT,
        &[(0, 2 * MIB, 3, false)],
    );
}

#[test]
fn blocks_in_runs_of_sixteen() {
    let none = Flags::NONE;
    laid_out(0, 0, 32 * MIB, none, &[(0, 32 * MIB, 2, true)]);
    laid_out(0, 2 * MIB, 32 * MIB, none, &[(0, 32 * MIB, 2, false)]);
    laid_out(0, 32 * MIB, 64 * MIB, none, &[(0, 64 * MIB, 2, true)]);
    laid_out(0, 0, 32 * MIB, Flags::NO_CONT, &[(0, 32 * MIB, 2, false)]);
    laid_out(0, 0, 16 * GIB, none, &[(0, 16 * GIB, 1, true)]);
    laid_out(0, GIB, 16 * GIB, none, &[(0, 16 * GIB, 1, false)]);
    laid_out(
        15 * GIB,
        15 * GIB,
        18 * GIB,
        none,
        &[
            (15 * GIB, GIB, 1, false),
            (16 * GIB, 16 * GIB, 1, true),
            (32 * GIB, GIB, 1, false),
        ],
    );
    // Pages, then a run of pages, then blocks, then a run of blocks, and back.
    laid_out(
        30 * MIB - 68 * KIB,
        30 * MIB - 68 * KIB,
        36 * MIB + 136 * KIB,
        none,
        &[
            (30 * MIB - 68 * KIB, 4 * KIB, 3, false),
            (30 * MIB - 64 * KIB, 64 * KIB, 3, true),
            (30 * MIB, 2 * MIB, 2, false),
            (32 * MIB, 32 * MIB, 2, true),
            (64 * MIB, 2 * MIB, 2, false),
            (66 * MIB, 64 * KIB, 3, true),
            (66 * MIB + 64 * KIB, 4 * KIB, 3, false),
        ],
    );
}

fn run_of<G: TestGeometry>(level: i8, run_bytes: u64) {
    let memory = Memory::<G>::new(8);
    let base = VaRange::Lower.base::<G>();
    let mut tables = PageTable::<G, _>::new(memory.root(), VaRange::Lower, &memory);
    let mapping = Mapping {
        va: base,
        pa: PhysAddr::new(run_bytes),
        size_bytes: run_bytes,
        prot: PAGE_KERNEL,
    };
    let flush = tables
        .create_mapping(mapping, Flags::NONE, &mut Pool::<G>::new(1, 7))
        .expect("map");
    flush.ignore_because("no walker");
    memory.check();
    assert_eq!(layout(&tables, 0), [(0, run_bytes, level, true)]);
}

#[test]
fn runs_of_the_other_granules() {
    run_of::<Granule16K<47>>(3, 2 * MIB);
    run_of::<Granule16K<47>>(2, GIB);
    run_of::<Granule64K<48>>(3, 2 * MIB);
    run_of::<Granule64K<48>>(2, 16 * GIB);
    run_of::<Granule4K<39>>(2, 32 * MIB);
}

/// Linux ecda73ae92cb: the hint over live entries that do not have it; and checking only the first of
/// the run is not enough.
#[test]
fn a_run_with_one_live_page_gets_no_hint() {
    for live in 0..16 {
        let memory = Memory::<G48>::new(16);
        let mut tables = upper(&memory);
        let mut pool = frames(1, 8);
        let page = mapping(UPPER + live * 4 * KIB, live * 4 * KIB, 4 * KIB, PAGE_KERNEL);
        let _ = map(&mut tables, &mut pool, page, Flags::NONE);
        let all = mapping(UPPER, 0, 128 * KIB, PAGE_KERNEL);
        let _ = map(&mut tables, &mut pool, all, Flags::NONE);
        assert_eq!(
            layout(&tables, UPPER),
            [(0, 64 * KIB, 3, false), (64 * KIB, 64 * KIB, 3, true)]
        );
    }
}

/// A table among the blocks of a run, and one in the run that the request only reaches in part.
#[test]
fn a_run_of_blocks_with_a_table_in_it_gets_no_hint() {
    let memory = Memory::<G48>::new(16);
    let mut tables = upper(&memory);
    let mut pool = frames(1, 8);
    let page = mapping(UPPER + 6 * MIB, 6 * MIB, 4 * KIB, PAGE_KERNEL);
    let _ = map(&mut tables, &mut pool, page, Flags::NONE);
    let all = mapping(UPPER, 0, 64 * MIB, PAGE_KERNEL);
    let _ = map(&mut tables, &mut pool, all, Flags::NONE);
    assert_eq!(
        layout(&tables, UPPER),
        [
            (0, 6 * MIB, 2, false),
            (6 * MIB, 64 * KIB, 3, false),
            (6 * MIB + 64 * KIB, 2 * MIB - 64 * KIB, 3, true),
            (8 * MIB, 24 * MIB, 2, false),
            (32 * MIB, 32 * MIB, 2, true),
        ]
    );
}

/// What is linked early and mapped without allocator: the device tree's window, read-write, then
/// read-only, in the same pieces.
#[test]
fn the_window_of_the_device_tree() {
    let first = mapping(UPPER, 0x4800_0000, 4 * KIB, PAGE_KERNEL);
    let whole = mapping(UPPER, 0x4800_0000, 2 * MIB, PAGE_KERNEL);
    let read_only = Mapping {
        prot: PAGE_KERNEL_RO,
        ..whole
    };
    for prior in [None, Some(first)] {
        let memory = Memory::<G48>::new(16);
        let mut tables = upper(&memory);
        let _ = tables
            .create_tables(va(UPPER), 4 * MIB, &mut frames(1, 8))
            .expect("frames");
        for request in prior
            .into_iter()
            .chain([whole, whole, read_only, read_only, whole])
        {
            let _ = tables
                .create_mapping_noalloc(request, Flags::NO_BLOCK)
                .expect("tables are there");
            memory.check();
        }
        let head = if prior.is_some() { 64 * KIB } else { 0 };
        let runs = tables.regions().filter(|r| r.attributes.is_contiguous());
        assert_eq!(runs.map(|r| r.size_bytes).sum::<u64>(), 2 * MIB - head);
        let _ = tables
            .update_mapping_prot(read_only.va, 2 * MIB, PAGE_KERNEL_RO)
            .expect("whole runs");
    }
}

/// The linear map in pieces that end where segments end, 64 KiB apart: each alias can change later.
#[test]
fn what_is_mapped_in_pieces_changes_in_pieces() {
    let memory = Memory::<G48>::new(64);
    let mut tables = upper(&memory);
    let mut pool = frames(1, 32);
    let cuts = [
        0,
        2 * MIB + 64 * KIB,
        2 * MIB + 192 * KIB,
        35 * MIB,
        128 * MIB,
    ];
    let base = 0x4000_0000;
    for piece in cuts.windows(2) {
        let request = mapping(
            UPPER + piece[0],
            base + piece[0],
            piece[1] - piece[0],
            PAGE_KERNEL,
        );
        let _ = map(&mut tables, &mut pool, request, Flags::NONE);
    }
    for piece in cuts.windows(2) {
        let flush = tables
            .update_mapping_prot(va(UPPER + piece[0]), piece[1] - piece[0], PAGE_KERNEL_RO)
            .expect("whole pieces");
        assert!(flush.stale().is_some());
        memory.check();
    }
    assert!(tables.regions().all(|r| !r.attributes.is_writable()));
    assert!(
        tables
            .regions()
            .any(|r| r.attributes.is_contiguous() && r.level == 2)
    );
}

/// What one peer allows: changing a part of a live contiguous run.
#[test]
fn a_part_of_a_run_does_not_change() {
    for (run_bytes, leaf_bytes, level) in [
        (64 * KIB, 4 * KIB, 3),
        (32 * MIB, 2 * MIB, 2),
        (16 * GIB, GIB, 1),
    ] {
        let memory = Memory::<G48>::new(16);
        let mut tables = upper(&memory);
        let request = mapping(UPPER, 0, 2 * run_bytes, PAGE_KERNEL);
        let _ = map(&mut tables, &mut frames(1, 8), request, Flags::NONE);
        for (at, size, page) in [
            (0, leaf_bytes, 0),
            (0, run_bytes - leaf_bytes, 0),
            (leaf_bytes, run_bytes - leaf_bytes, leaf_bytes),
            (
                run_bytes - leaf_bytes,
                2 * leaf_bytes,
                run_bytes - leaf_bytes,
            ),
            (0, run_bytes + leaf_bytes, run_bytes),
            (leaf_bytes, 2 * run_bytes - leaf_bytes, leaf_bytes),
        ] {
            let refuse = |error| {
                let expected = Descriptor::leaf::<G48>(
                    level,
                    PhysAddr::new(page),
                    PAGE_KERNEL.bits() | 1 << 52,
                );
                assert_eq!(
                    error,
                    MapError::WouldSplitRun {
                        va: va(UPPER + page),
                        level,
                        old: expected
                    }
                );
            };
            refuse(refused(&mut tables, |t| {
                t.update_mapping_prot(va(UPPER + at), size, PAGE_KERNEL_RO)
            }));
            let other = mapping(UPPER + at, at, size, PAGE_KERNEL_ROX);
            refuse(refused(&mut tables, |t| {
                t.create_mapping_noalloc(other, Flags::NONE)
            }));
        }
        // As it is, it may be asked for in any part.
        let part = tables.update_mapping_prot(va(UPPER), leaf_bytes, PAGE_KERNEL);
        assert!(part.expect("no change").is_nothing());
        let part = mapping(UPPER + leaf_bytes, leaf_bytes, leaf_bytes, PAGE_KERNEL);
        assert!(
            tables
                .create_mapping_noalloc(part, Flags::NONE)
                .expect("no change")
                .is_nothing()
        );
        // What no live entry may become is refused as such.
        let error = refused(&mut tables, |t| {
            t.update_mapping_prot(va(UPPER), leaf_bytes, PROT_DEVICE_nGnRE)
        });
        assert!(
            matches!(error, MapError::NeedsBreakBeforeMake { .. }),
            "{error}"
        );
        // Whole runs change, and their flush meets each entry.
        let flush = tables
            .update_mapping_prot(va(UPPER + run_bytes), run_bytes, PAGE_KERNEL_RO)
            .expect("whole");
        let stale = flush.stale().expect("changed");
        assert_eq!(
            (stale.first, stale.stride_bytes),
            (va(UPPER + run_bytes), leaf_bytes)
        );
        assert_eq!(stale.invalidations(), 16);
        memory.check();
        assert_eq!(tables.regions().count(), 2);
    }
}

/// A hint once given stays, also where new leaves get none.
#[test]
fn a_run_changes_whole_also_if_hints_are_not_wanted() {
    let memory = Memory::<G48>::new(16);
    let mut tables = upper(&memory);
    let run = mapping(UPPER, 0, 64 * KIB, PAGE_KERNEL);
    let _ = map(&mut tables, &mut frames(1, 8), run, Flags::NONE);
    let wider = mapping(UPPER, 0, 128 * KIB, PAGE_KERNEL_RO);
    let flush = tables
        .create_mapping_noalloc(wider, Flags::NO_CONT)
        .expect("run and pages");
    assert!(flush.has_new_entries() && flush.stale().is_some());
    memory.check();
    assert_eq!(
        layout(&tables, UPPER),
        [(0, 64 * KIB, 3, true), (64 * KIB, 64 * KIB, 3, false)]
    );
}

#[test]
fn a_part_of_a_run_is_one_line_in_a_log() {
    let memory = Memory::<G48>::new(16);
    let mut tables = upper(&memory);
    let run = mapping(UPPER, 0, 64 * KIB, PAGE_KERNEL);
    let _ = map(&mut tables, &mut frames(1, 8), run, Flags::NONE);
    let error = refused(&mut tables, |t| {
        t.update_mapping_prot(va(UPPER), 4 * KIB, PAGE_KERNEL_RO)
    });
    assert_eq!(
        error.to_string(),
        "would change part of the level 3 contiguous run at 0xffff000000000000: 0070000000000703"
    );
}
