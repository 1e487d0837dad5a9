//! Mapping what is mapped: identical, overlapping, with other permissions.

use crate::support;
use crate::support::{
    GIB, KIB, MIB, Memory, Tables, UPPER, frames, map, mapping, pa, refused, upper, va,
};
use early_mmu::{
    Flags, MapError, Mapping, MemType, PAGE_KERNEL, PAGE_KERNEL_RO, PAGE_KERNEL_ROX, Prot,
    descriptor,
};

/// Linux's `fixmap_remap_fdt`: the first page, to read the size; then the whole window, which
/// includes it; all of it again; then read-only. No allocator in any of them.
#[test]
fn the_device_tree_is_mapped_three_times_without_an_allocator() {
    let memory = Memory::<support::G48>::new(16);
    let mut tables = upper(&memory);
    let fixmap = UPPER + 0x1000 * MIB;
    tables
        .create_tables(va(fixmap), 4 * MIB, &mut frames(1, 15))
        .expect("frames")
        .ignore_because("no walker uses these tables");
    let window = |size, prot| mapping(fixmap + 0x8000, 0x4000_8000, size, prot);
    for _ in ["early_fdt_map", "setup_arch"] {
        for size in [4 * KIB, 2 * MIB] {
            let flush = tables
                .create_mapping_noalloc(window(size, PAGE_KERNEL), Flags::NO_CONT)
                .expect("identical, or new");
            assert_eq!(flush.stale(), None);
        }
    }
    let flush = tables
        .create_mapping_noalloc(window(2 * MIB, PAGE_KERNEL_RO), Flags::NO_CONT)
        .expect("less permission");
    let stale = flush.stale().expect("changed");
    assert_eq!(
        (stale.first, stale.invalidations()),
        (va(fixmap + 0x8000), 512)
    );
    assert!(!flush.has_new_entries());
    let region = tables.regions().next().expect("mapped");
    assert_eq!(
        (region.size_bytes, Prot::of(region.attributes)),
        (2 * MIB, Some(PAGE_KERNEL_RO))
    );
}

#[test]
fn an_identical_mapping_writes_nothing_and_needs_no_flush() {
    for (size, flags) in [
        (64 * KIB, Flags::NONE),
        (6 * MIB, Flags::NONE),
        (3 * GIB, Flags::NONE),
    ] {
        let memory = Memory::new(64);
        let mut tables = upper(&memory);
        let request = mapping(UPPER, GIB, size, PAGE_KERNEL);
        let _ = map(&mut tables, &mut frames(1, 8), request, flags);
        let before = memory.snapshot();
        let mut none = frames(40, 0);
        assert!(map(&mut tables, &mut none, request, flags).is_nothing());
        let protect = tables
            .update_mapping_prot(request.va, size, PAGE_KERNEL)
            .expect("mapped");
        assert!(protect.is_nothing());
        assert!(before == memory.snapshot());
        assert_eq!(none.reservations, 0);
    }
}

/// The translation and the attributes are there already; that a block gives them is no matter.
#[test]
fn a_part_of_a_block_that_is_as_asked_is_fine() {
    let memory = Memory::new(64);
    let mut tables = upper(&memory);
    let _ = map(
        &mut tables,
        &mut frames(1, 8),
        mapping(UPPER, GIB, GIB, PAGE_KERNEL),
        Flags::NONE,
    );
    for (at, size, flags) in [
        (0, 4 * KIB, Flags::NONE),
        (GIB - 4 * KIB, 4 * KIB, Flags::NONE),
        (2 * MIB, 2 * MIB, Flags::NO_BLOCK),
        (4 * KIB, GIB - 4 * KIB, Flags::NO_BLOCK),
    ] {
        let part = mapping(UPPER + at, GIB + at, size, PAGE_KERNEL);
        let flush = tables
            .create_mapping_noalloc(part, flags)
            .expect("as it is");
        assert!(flush.is_nothing());
        assert!(
            tables
                .update_mapping_prot(part.va, size, PAGE_KERNEL)
                .expect("as it is")
                .is_nothing()
        );
    }
}

/// What one peer answers `Ok` to, and then translates 0x40200000 to 0x40001000.
#[test]
fn an_overlap_continues_at_the_right_physical_address() {
    let memory = Memory::new(64);
    let mut tables = upper(&memory);
    let mut pool = frames(1, 8);
    let block = mapping(UPPER + GIB, GIB, 2 * MIB, PAGE_KERNEL);
    let _ = map(&mut tables, &mut pool, block, Flags::NONE);
    let overlap = mapping(
        UPPER + GIB + 4 * KIB,
        GIB + 4 * KIB,
        4 * MIB - 4 * KIB,
        PAGE_KERNEL,
    );
    let _ = map(&mut tables, &mut pool, overlap, Flags::NONE);
    for offset in [0, 4 * KIB, 2 * MIB - 1, 2 * MIB, 4 * MIB - 1] {
        assert_eq!(
            tables.translate(va(UPPER + GIB + offset)),
            Some(pa(GIB + offset))
        );
    }
    assert_eq!(tables.translate(va(UPPER + GIB + 4 * MIB)), None);
    // Aliasing inside the block is refused, not ignored.
    let alias = mapping(UPPER + GIB + 4 * KIB, GIB, 4 * KIB, PAGE_KERNEL);
    let error = refused(&mut tables, |t| {
        t.create_mapping_noalloc(alias, Flags::NONE)
    });
    assert!(
        matches!(error, MapError::AlreadyMapped { level: 2, .. }),
        "{error}"
    );
}

#[test]
fn permissions_change_in_place_and_only_where_they_differ() {
    let memory = Memory::new(64);
    let mut tables = upper(&memory);
    let request = mapping(UPPER, GIB, 16 * KIB, PAGE_KERNEL);
    let _ = map(&mut tables, &mut frames(1, 8), request, Flags::NONE);
    let page = |n: u64| va(UPPER + n * 4 * KIB);
    let two = tables
        .update_mapping_prot(page(1), 8 * KIB, PAGE_KERNEL_ROX)
        .expect("pages");
    assert_eq!(two.stale().map(|s| s.invalidations()), Some(2));
    // Pages 1 and 2 are as asked already: the range to flush ends before and begins behind them.
    let rest = Mapping {
        size_bytes: 12 * KIB,
        prot: PAGE_KERNEL_ROX,
        ..request
    };
    let flush = tables
        .create_mapping_noalloc(rest, Flags::NONE)
        .expect("pages");
    let stale = flush.stale().expect("page 0 changed");
    assert_eq!(
        (stale.first, stale.last),
        (page(0), va(page(1).as_u64() - 1))
    );
    let flush = tables
        .update_mapping_prot(page(0), 16 * KIB, PAGE_KERNEL_ROX)
        .expect("pages");
    let stale = flush.stale().expect("page 3 changed");
    assert_eq!((stale.first, stale.invalidations()), (page(3), 1));
}

/// Linux 895a37028a48: a change of software bits was called unsafe.
#[test]
fn software_bits_and_dbm_may_change_live() {
    let memory = Memory::new(64);
    let mut tables = upper(&memory);
    let request = mapping(UPPER, GIB, 16 * KIB, PAGE_KERNEL);
    let _ = map(&mut tables, &mut frames(1, 8), request, Flags::NONE);
    let table = tables
        .walk(va(UPPER))
        .descriptors()
        .nth(2)
        .expect("level 2")
        .1;
    let table = table.output::<support::G48>();
    let plain = memory.peek(table, 1);
    for extra in [descriptor::SOFTWARE, descriptor::DBM, 1 << 55, 1 << 63] {
        memory.poke(table, 1, plain | extra);
        let flush = tables
            .create_mapping_noalloc(request, Flags::NONE)
            .expect("safe");
        assert_eq!(flush.stale().map(|s| s.first), Some(va(UPPER + 4 * KIB)));
        assert_eq!(memory.peek(table, 1), plain);
    }
    // A protection is not about software bits: they stay.
    memory.poke(table, 1, plain | descriptor::SOFTWARE | descriptor::DBM);
    let _ = tables
        .update_mapping_prot(va(UPPER), 16 * KIB, PAGE_KERNEL_RO)
        .expect("safe");
    assert_eq!(
        memory.peek(table, 1),
        plain | descriptor::SOFTWARE | descriptor::AP_RDONLY
    );
}

/// Linux: `AttrIndx` may change live between Normal and Normal-Tagged, and nowhere else.
#[test]
fn tagging_may_change_live() {
    let memory = Memory::new(64);
    let mut tables = upper(&memory);
    let request = mapping(UPPER, GIB, 16 * KIB, PAGE_KERNEL);
    let _ = map(&mut tables, &mut frames(1, 8), request, Flags::NONE);
    for memory_type in [MemType::NormalTagged, MemType::Normal] {
        let flush = tables
            .update_mapping_prot(va(UPPER), 16 * KIB, Prot::ReadWrite(memory_type))
            .expect("safe");
        assert_eq!(flush.stale().map(|s| s.invalidations()), Some(4));
    }
    let every_other = [
        MemType::NormalNonCacheable,
        MemType::Device_nGnRnE,
        MemType::Device_nGnRE,
    ];
    for memory_type in every_other {
        refused(&mut tables, |t| {
            t.update_mapping_prot(va(UPPER), 16 * KIB, Prot::ReadWrite(memory_type))
        });
    }
}

fn contiguous_run(memory: &Memory<support::G48>) -> Tables<'_> {
    let mut tables = upper(memory);
    let request = mapping(UPPER, GIB, 64 * KIB, PAGE_KERNEL);
    let _ = map(&mut tables, &mut frames(1, 8), request, Flags::NONE);
    tables
}

/// Linux 05c5c31e9d8d: rewriting a contiguous entry as it was died.
#[test]
fn a_contiguous_run_may_be_mapped_again_as_it_is() {
    let memory = Memory::new(64);
    let mut tables = contiguous_run(&memory);
    let same = mapping(UPPER, GIB, 64 * KIB, PAGE_KERNEL);
    assert!(
        tables
            .create_mapping_noalloc(same, Flags::NONE)
            .expect("identical")
            .is_nothing()
    );
    assert!(
        tables
            .update_mapping_prot(same.va, 64 * KIB, PAGE_KERNEL)
            .expect("identical")
            .is_nothing()
    );
}

/// What is kept is not written: a run beside new pages does not lose its hint.
#[test]
fn a_contiguous_run_beside_new_pages_keeps_its_hint() {
    let memory = Memory::new(64);
    let mut tables = contiguous_run(&memory);
    let table = tables
        .walk(va(UPPER))
        .descriptors()
        .nth(2)
        .expect("level 2")
        .1;
    let table = table.output::<support::G48>();
    let hints = || (0..32).map(|index| memory.peek(table, index) & descriptor::CONTIGUOUS != 0);
    let wider = mapping(UPPER, GIB, 128 * KIB, PAGE_KERNEL);
    let flush = tables
        .create_mapping_noalloc(wider, Flags::NO_CONT)
        .expect("16 kept, 16 new");
    assert!(flush.has_new_entries() && flush.stale().is_none());
    assert_eq!(hints().filter(|&hint| hint).count(), 16);
    assert!(hints().take(16).all(|hint| hint));
}

/// An entry with bit 0 clear faults whatever else it holds, and may be overwritten.
#[test]
fn invalid_entries_are_free_whatever_their_other_bits() {
    let memory = Memory::new(64);
    let mut tables = upper(&memory);
    let request = mapping(UPPER, GIB, 16 * KIB, PAGE_KERNEL);
    let _ = map(&mut tables, &mut frames(1, 8), request, Flags::NONE);
    let table = tables
        .walk(va(UPPER))
        .descriptors()
        .nth(2)
        .expect("level 2")
        .1;
    let table = table.output::<support::G48>();
    let page = memory.peek(table, 1);
    for invalid in [page & !1, page & !3, 0b10] {
        memory.poke(table, 1, invalid);
        assert_eq!(tables.translate(va(UPPER + 4 * KIB)), None);
        let error = refused(&mut tables, |t| {
            t.update_mapping_prot(va(UPPER), 16 * KIB, PAGE_KERNEL_RO)
        });
        assert!(
            matches!(error, MapError::NotMapped { level: 3, .. }),
            "{error}"
        );
        let flush = tables
            .create_mapping_noalloc(request, Flags::NONE)
            .expect("free");
        assert!(flush.has_new_entries() && flush.stale().is_none());
        assert_eq!(memory.peek(table, 1), page);
    }
}
