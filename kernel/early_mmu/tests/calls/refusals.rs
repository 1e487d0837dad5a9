//! Every way to be refused for what is in the tables, each with the tables unchanged bit for bit.

use crate::support;
use crate::support::{
    G48, GIB, KIB, MIB, Memory, Tables, UPPER, frames, map, mapping, pa, refused, upper, va,
};
use early_mmu::{
    Descriptor, Flags, MapError, Mapping, MemType, PAGE_KERNEL, PAGE_KERNEL_RO, PAGE_KERNEL_ROX,
    PROT_DEVICE_nGnRE, PageTable, Prot, VaRange,
};

/// A 1 GiB block, a 2 MiB block, and pages, one after the other.
fn furnished(memory: &Memory<G48>) -> Tables<'_> {
    let mut tables = upper(memory);
    let mut pool = frames(1, 8);
    let _ = map(
        &mut tables,
        &mut pool,
        mapping(UPPER, GIB, GIB, PAGE_KERNEL),
        Flags::NONE,
    );
    let block = mapping(UPPER + GIB, 2 * GIB, 2 * MIB, PAGE_KERNEL);
    let _ = map(&mut tables, &mut pool, block, Flags::NONE);
    let pages = mapping(
        UPPER + GIB + 2 * MIB,
        2 * GIB + 2 * MIB,
        16 * KIB,
        PAGE_KERNEL,
    );
    let _ = map(&mut tables, &mut pool, pages, Flags::NONE);
    tables
}

const PAGES: u64 = UPPER + GIB + 2 * MIB;
const PAGES_PA: u64 = 2 * GIB + 2 * MIB;

#[track_caller]
fn refuse_map(tables: &mut Tables<'_>, mapping: Mapping) -> MapError {
    refused(tables, |t| {
        t.create_mapping(mapping, Flags::NONE, &mut frames(40, 8))
    })
}

#[test]
fn mapped_elsewhere() {
    let memory = Memory::new(64);
    let mut tables = furnished(&memory);
    let other = mapping(PAGES + 0x1000, PAGES_PA + 0x2000, 0x1000, PAGE_KERNEL);
    let error = refuse_map(&mut tables, other);
    let (old, new) = (
        leaf(PAGES_PA + 0x1000, PAGE_KERNEL, 3),
        leaf(PAGES_PA + 0x2000, PAGE_KERNEL, 3),
    );
    assert_eq!(
        error,
        MapError::AlreadyMapped {
            va: va(PAGES + 0x1000),
            level: 3,
            old,
            new
        }
    );
    // Inside a block, by one page.
    let inside = mapping(UPPER + 0x5000, GIB + 0x6000, 0x1000, PAGE_KERNEL);
    let error = refuse_map(&mut tables, inside);
    assert!(
        matches!(error, MapError::AlreadyMapped { level: 1, .. }),
        "{error}"
    );
    // Over a whole block, at a distance that allows no block at all.
    let over = mapping(UPPER, GIB + 0x1000, GIB, PAGE_KERNEL);
    let error = refuse_map(&mut tables, over);
    assert!(
        matches!(error, MapError::AlreadyMapped { level: 1, .. }),
        "{error}"
    );
}

fn leaf(pa: u64, prot: Prot, level: early_mmu::Level) -> Descriptor {
    Descriptor::leaf::<G48>(level, support::pa(pa), prot.bits())
}

#[test]
fn part_of_a_block() {
    let memory = Memory::new(64);
    let mut tables = furnished(&memory);
    let (big, small) = (leaf(GIB, PAGE_KERNEL, 1), leaf(2 * GIB, PAGE_KERNEL, 2));
    for (at, size, level, old) in [
        (UPPER, GIB - 0x1000, 1, big),
        (UPPER + 0x1000, GIB - 0x1000, 1, big),
        (UPPER + 0x1000, 0x1000, 1, big),
        (UPPER + GIB, 2 * MIB - 0x1000, 2, small),
        (UPPER + GIB + MIB, MIB, 2, small),
    ] {
        let expected = MapError::WouldSplitBlock {
            va: va(at),
            level,
            old,
        };
        let error = refused(&mut tables, |t| {
            t.update_mapping_prot(va(at), size, PAGE_KERNEL_RO)
        });
        assert_eq!(error, expected);
        let same_place = at - UPPER + GIB;
        let error = refuse_map(&mut tables, mapping(at, same_place, size, PAGE_KERNEL_RO));
        assert_eq!(error, expected);
    }
    let error = refused(&mut tables, |t| {
        t.create_tables(va(UPPER + GIB), 0x1000, &mut frames(40, 8))
    });
    assert_eq!(
        error,
        MapError::WouldSplitBlock {
            va: va(UPPER + GIB),
            level: 2,
            old: small
        }
    );
    // The blocks before stay whole when the last one of a request is only touched.
    let error = refused(&mut tables, |t| {
        t.update_mapping_prot(va(UPPER), GIB + 0x1000, PAGE_KERNEL_RO)
    });
    assert_eq!(
        error,
        MapError::WouldSplitBlock {
            va: va(UPPER + GIB),
            level: 2,
            old: small
        }
    );
}

#[test]
fn changes_that_need_break_before_make() {
    let memory = Memory::new(64);
    let mut tables = furnished(&memory);
    let non_global = Flags::NON_GLOBAL;
    for prot in [
        PROT_DEVICE_nGnRE,
        Prot::ReadOnly(MemType::NormalNonCacheable),
    ] {
        let new = leaf(PAGES_PA, prot, 3);
        let old = leaf(PAGES_PA, PAGE_KERNEL, 3);
        let expected = MapError::NeedsBreakBeforeMake {
            va: va(PAGES),
            level: 3,
            old,
            new,
        };
        let error = refused(&mut tables, |t| {
            t.update_mapping_prot(va(PAGES), 0x2000, prot)
        });
        assert_eq!(error, expected);
        assert_eq!(
            refuse_map(&mut tables, mapping(PAGES, PAGES_PA, 0x2000, prot)),
            expected
        );
    }
    // Global to one ASID is a restriction and may happen live; the way back may not.
    let one = mapping(PAGES, PAGES_PA, 0x1000, PAGE_KERNEL);
    let flush = tables
        .create_mapping_noalloc(one, non_global)
        .expect("G to nG");
    assert!(flush.stale().is_some());
    let error = refused(&mut tables, |t| t.create_mapping_noalloc(one, Flags::NONE));
    assert!(
        matches!(error, MapError::NeedsBreakBeforeMake { level: 3, .. }),
        "{error}"
    );
}

/// What this crate never writes, but may find.
#[test]
fn foreign_attributes_need_break_before_make() {
    use early_mmu::descriptor::{AF, AP_EL0, UXN};
    for foreign in [UXN, AF, AP_EL0, 1 << 8] {
        let memory = Memory::new(64);
        let mut tables = furnished(&memory);
        let table = tables
            .walk(va(PAGES))
            .descriptors()
            .nth(2)
            .expect("level 2")
            .1
            .output::<G48>();
        memory.poke(
            table,
            1,
            leaf(PAGES_PA + 0x1000, PAGE_KERNEL, 3).bits() ^ foreign,
        );
        let error = refused(&mut tables, |t| {
            t.update_mapping_prot(va(PAGES), 0x4000, PAGE_KERNEL_RO)
        });
        assert!(
            matches!(error, MapError::NeedsBreakBeforeMake { va: at, level: 3, .. } if at == va(PAGES + 0x1000)),
            "{foreign:#x}: {error}"
        );
    }
}

#[test]
fn holes_cannot_be_protected() {
    let memory = Memory::new(64);
    let mut tables = furnished(&memory);
    for (at, size, hole, level) in [
        (PAGES + 0x4000, 0x1000, PAGES + 0x4000, 3),
        (PAGES, 0x5000, PAGES + 0x4000, 3),
        (PAGES, 4 * MIB, PAGES + 0x4000, 3),
        (UPPER + GIB + 4 * MIB, 0x1000, UPPER + GIB + 4 * MIB, 2),
        (UPPER + 2 * GIB, 0x1000, UPPER + 2 * GIB, 1),
        (UPPER + 512 * GIB, GIB, UPPER + 512 * GIB, 0),
    ] {
        let error = refused(&mut tables, |t| {
            t.update_mapping_prot(va(at), size, PAGE_KERNEL_RO)
        });
        assert_eq!(
            error,
            MapError::NotMapped {
                va: va(hole),
                level
            }
        );
    }
}

#[test]
fn out_of_frames_by_one_leaves_all_frames() {
    let memory = Memory::new(64);
    let mut tables = furnished(&memory);
    let far = mapping(
        UPPER + 1024 * GIB + 2 * MIB - 0x1000,
        0,
        0x2000,
        PAGE_KERNEL,
    );
    let needed = tables
        .tables_needed(far, Flags::NONE)
        .expect("can be mapped");
    assert_eq!(needed, 4);
    let mut pool = frames(40, 3);
    let error = refused(&mut tables, |t| {
        t.create_mapping(far, Flags::NONE, &mut pool)
    });
    assert_eq!(
        error,
        MapError::OutOfFrames {
            needed: 4,
            available: 3
        }
    );
    assert_eq!(pool.len(), 3);
    let _ = map(&mut tables, &mut frames(40, 4), far, Flags::NONE);
}

/// The last page of the request is in the way; nothing before it may have been written.
#[test]
fn an_error_at_the_end_undoes_nothing_because_nothing_was_done() {
    let memory = Memory::new(1024);
    let mut tables = furnished(&memory);
    let before_pages = UPPER + GIB / 2;
    let long = mapping(
        before_pages,
        4 * GIB,
        PAGES + 0x1000 - before_pages,
        PAGE_KERNEL,
    );
    let error = refuse_map(&mut tables, long);
    assert!(matches!(error, MapError::AlreadyMapped { .. }), "{error}");
    let hole_then_page = mapping(UPPER + GIB + 2 * MIB, PAGES_PA, 2 * MIB, PAGE_KERNEL_RO);
    let last = tables
        .walk(va(PAGES))
        .descriptors()
        .nth(2)
        .expect("level 2")
        .1
        .output::<G48>();
    memory.poke(last, 511, leaf(0, PAGE_KERNEL, 3).bits());
    let error = refuse_map(&mut tables, hole_then_page);
    assert!(
        matches!(error, MapError::AlreadyMapped { level: 3, .. }),
        "{error}"
    );
}

#[test]
fn damaged_tables_are_errors() {
    let memory = Memory::new(64);
    let mut tables = furnished(&memory);
    let read_only = |t: &mut Tables<'_>| t.update_mapping_prot(va(PAGES), 0x4000, PAGE_KERNEL_RO);
    let walk = tables.walk(va(PAGES));
    let table = |level: usize| {
        walk.descriptors()
            .nth(level)
            .map(|(_, descriptor)| descriptor.output::<G48>())
            .expect("table")
    };

    // A page entry with the block encoding.
    memory.poke(table(2), 2, leaf(PAGES_PA, PAGE_KERNEL, 3).bits() & !0b10);
    let error = refused(&mut tables, read_only);
    assert!(
        matches!(error, MapError::ReservedDescriptor { va: at, level: 3, .. } if at == va(PAGES + 0x2000)),
        "{error}"
    );

    // A table where no table is.
    memory.poke(table(1), 1, 0x7777_7000 | 0b11);
    let error = refused(&mut tables, read_only);
    assert_eq!(
        error,
        MapError::UnreachableTable {
            pa: pa(0x7777_7000),
            va: va(PAGES),
            level: 3
        }
    );
    assert_eq!(tables.translate(va(PAGES)), None);

    // A block at level 0.
    let index = (PAGES >> 39) as usize & 511;
    memory.poke(memory.root(), index, leaf(0, PAGE_KERNEL, 0).bits());
    let error = refused(&mut tables, read_only);
    assert!(
        matches!(error, MapError::ReservedDescriptor { level: 0, .. }),
        "{error}"
    );
    assert_eq!(tables.translate(va(PAGES)), None);

    // No root.
    let mut lost: Tables<'_> = PageTable::new(pa(0x1000), VaRange::Upper, &memory);
    let error = refused(&mut lost, read_only);
    assert_eq!(
        error,
        MapError::UnreachableTable {
            pa: pa(0x1000),
            va: va(PAGES),
            level: 0
        }
    );
    assert_eq!(lost.regions().count(), 0);
}

/// One line each, with what a reader of a kernel log needs.
#[test]
fn errors_print_as_one_line() {
    let memory = Memory::new(64);
    let mut tables = furnished(&memory);
    let error = refused(&mut tables, |t| {
        t.update_mapping_prot(va(UPPER), 0x1000, PAGE_KERNEL_ROX)
    });
    assert_eq!(
        error.to_string(),
        "would change part of the level 1 block at 0xffff000000000000: 0060000040000701"
    );
    let error = refused(&mut tables, |t| {
        t.update_mapping_prot(va(PAGES), 0x1000, PROT_DEVICE_nGnRE)
    });
    assert_eq!(
        error.to_string(),
        "needs break-before-make at 0xffff000040200000 level 3: 0060000080200703 -> 0060000080200713"
    );
    let out = MapError::OutOfFrames {
        needed: 4,
        available: 3,
    };
    assert_eq!(
        out.to_string(),
        "out of table frames: 4 needed, 3 available"
    );
}
