//! Bugs of others, by name. Some are tested where they belong: see `truth_table` (9ed2b4616d4e),
//! `blocks` (90268574a3e8), `remap` (05c5c31e9d8d, 895a37028a48, and the peers' skipped and aliased
//! ranges), `refusals` (sizes of zero, damaged tables).

use crate::support;
use crate::support::{GIB, KIB, MIB, Memory, UPPER, frames, map, mapping, pa, refused, upper, va};
use early_mmu::{Flags, MapError, Mapping, PAGE_KERNEL, PAGE_KERNEL_RO, PROT_DEVICE_nGnRE, Prot};

/// ab9b4008092c "fix VA-range sanity check": an address outside passed the guard since 5.4.
#[test]
fn linux_va_range_guard_holds_on_both_sides() {
    let memory = Memory::<support::G48>::new(8);
    let mut tables = upper(&memory);
    for outside in [0, 0x1000, 1 << 47, 1 << 48, 1 << 63, UPPER - 0x1000] {
        let request = mapping(outside, 0, 0x1000, PAGE_KERNEL);
        let error = refused(&mut tables, |t| {
            t.create_mapping(request, Flags::NONE, &mut frames(1, 7))
        });
        assert_eq!(error, MapError::OutsideRange { va: va(outside) });
        assert_eq!(tables.translate(va(outside)), None);
    }
}

/// bf25266f8382 "Always use level 2 or higher for early mappings": a block at a forbidden level.
#[test]
fn linux_no_block_at_a_level_that_has_none() {
    let memory = Memory::new(8);
    let mut tables = upper(&memory);
    let all = mapping(UPPER, 0, 1024 * GIB, PAGE_KERNEL);
    let _ = map(&mut tables, &mut frames(1, 7), all, Flags::NONE);
    assert!(tables.regions().all(|region| region.level == 1));
}

/// 414c109bdf49 "always map fixmap at page granularity": blocks took unrelated memory along.
#[test]
fn linux_pages_only_where_asked() {
    let memory = Memory::new(8);
    let mut tables = upper(&memory);
    let window = mapping(UPPER, GIB, 2 * MIB, PAGE_KERNEL);
    let _ = map(
        &mut tables,
        &mut frames(1, 7),
        window,
        Flags::NO_BLOCK | Flags::NO_CONT,
    );
    assert!(tables.regions().all(|region| region.leaf_bytes == 4 * KIB));
}

/// 8dd640d9233d, a64293e993f6: an unsafe change at block level was dropped without a word.
#[test]
fn linux_an_unsafe_change_of_a_block_is_not_dropped_silently() {
    let memory = Memory::new(8);
    let mut tables = upper(&memory);
    let block = mapping(UPPER, GIB, 2 * MIB, PAGE_KERNEL);
    let _ = map(&mut tables, &mut frames(1, 7), block, Flags::NONE);
    for (bad, name) in [
        (
            Mapping {
                pa: pa(2 * GIB),
                ..block
            },
            "other address",
        ),
        (
            Mapping {
                prot: PROT_DEVICE_nGnRE,
                ..block
            },
            "other memory type",
        ),
    ] {
        let error = refused(&mut tables, |t| t.create_mapping_noalloc(bad, Flags::NONE));
        assert!(
            matches!(
                error,
                MapError::AlreadyMapped { level: 2, .. }
                    | MapError::NeedsBreakBeforeMake { level: 2, .. }
            ),
            "{name}: {error}"
        );
    }
}

/// 15bfba1ad77f "Handle invalid large leaf mappings correctly": a block made invalid was overlooked.
#[test]
fn linux_an_invalid_block_is_a_hole_and_can_be_mapped_again() {
    let memory = Memory::new(8);
    let mut tables = upper(&memory);
    let block = mapping(UPPER, GIB, 2 * MIB, PAGE_KERNEL);
    let _ = map(&mut tables, &mut frames(1, 7), block, Flags::NONE);
    let table = tables
        .walk(va(UPPER))
        .descriptors()
        .nth(1)
        .expect("level 1")
        .1;
    let table = table.output::<support::G48>();
    let descriptor = memory.peek(table, 0);
    memory.poke(table, 0, descriptor & !1);
    assert_eq!(tables.regions().count(), 0);
    let error = refused(&mut tables, |t| {
        t.update_mapping_prot(va(UPPER), 2 * MIB, PAGE_KERNEL_RO)
    });
    assert_eq!(
        error,
        MapError::NotMapped {
            va: va(UPPER),
            level: 2
        }
    );
    let _ = tables
        .create_mapping_noalloc(block, Flags::NONE)
        .expect("free");
    assert_eq!(memory.peek(table, 0), descriptor);
}

/// A public port of `pgattr_change_is_safe` had its validity test inverted: nearly all passed.
#[test]
fn linux_port_valid_to_valid_is_checked() {
    let memory = Memory::new(8);
    let mut tables = upper(&memory);
    let page = mapping(UPPER, GIB, 4 * KIB, PAGE_KERNEL);
    let _ = map(&mut tables, &mut frames(1, 7), page, Flags::NONE);
    refused(&mut tables, |t| {
        t.update_mapping_prot(page.va, 4 * KIB, PROT_DEVICE_nGnRE)
    });
}

/// patina_paging: "protect" of 1 GiB of pages collapsed them into a block and lost 513 tables.
#[test]
fn peer_protecting_pages_keeps_them_pages() {
    let memory = Memory::new(520);
    let mut tables = upper(&memory);
    let pages = mapping(UPPER, GIB, GIB, PAGE_KERNEL);
    let _ = map(&mut tables, &mut frames(1, 519), pages, Flags::NO_BLOCK);
    let _ = tables
        .update_mapping_prot(va(UPPER), GIB, PAGE_KERNEL_RO)
        .expect("pages");
    let _ = tables.create_mapping_noalloc(
        Mapping {
            prot: PAGE_KERNEL_RO,
            ..pages
        },
        Flags::NONE,
    );
    memory.check();
    let region = tables.regions().next().expect("mapped");
    assert_eq!((region.leaf_bytes, region.size_bytes), (4 * KIB, GIB));
}

/// page_table_multiarch: protecting 4 KiB in a 2 MiB block made all of it read-only, and panicked.
/// page-table-generic: unmapping one page of it unmapped all.
#[test]
fn peer_a_page_of_a_block_does_not_speak_for_the_block() {
    let memory = Memory::new(8);
    let mut tables = upper(&memory);
    let block = mapping(UPPER, GIB, 2 * MIB, PAGE_KERNEL);
    let _ = map(&mut tables, &mut frames(1, 7), block, Flags::NONE);
    for at in [0, 4 * KIB, 2 * MIB - 4 * KIB] {
        refused(&mut tables, |t| {
            t.update_mapping_prot(va(UPPER + at), 4 * KIB, PAGE_KERNEL_RO)
        });
    }
    let region = tables.regions().next().expect("mapped");
    assert_eq!(
        (region.size_bytes, Prot::of(region.attributes)),
        (2 * MIB, Some(PAGE_KERNEL))
    );
}

/// page_table_multiarch: a shortage of frames left half of the mapping behind.
#[test]
fn peer_out_of_frames_leaves_nothing_behind() {
    let memory = Memory::<support::G48>::new(64);
    for available in 0..9 {
        let mut tables = upper(&memory);
        let ragged = mapping(UPPER + GIB - 4 * KIB, GIB - 4 * KIB, 512 * GIB, PAGE_KERNEL);
        let error = refused(&mut tables, |t| {
            t.create_mapping(ragged, Flags::NONE, &mut frames(1, available))
        });
        let MapError::OutOfFrames {
            needed,
            available: left,
        } = error
        else {
            panic!("{error}")
        };
        assert_eq!((needed, left), (6, available));
        if available == 5 {
            break;
        }
    }
}

/// page_table_multiarch: accepted an address that is not aligned to the block.
#[test]
fn peer_a_block_is_aligned_in_both_address_spaces() {
    let memory = Memory::new(1030);
    let mut tables = upper(&memory);
    let shifted = mapping(UPPER + 4 * KIB, GIB, GIB, PAGE_KERNEL);
    let _ = map(&mut tables, &mut frames(1, 1029), shifted, Flags::NONE);
    assert!(tables.regions().all(|region| region.leaf_bytes == 4 * KIB));
    assert_eq!(
        tables.translate(va(UPPER + GIB)),
        Some(pa(2 * GIB - 4 * KIB))
    );
}

/// aarch64-paging: a region of nothing at address 0 panicked.
#[test]
fn peer_nothing_at_zero_is_an_error() {
    let memory = Memory::<support::G48>::new(8);
    let mut tables: support::Tables<'_> =
        early_mmu::PageTable::new(memory.root(), early_mmu::VaRange::Lower, &memory);
    let nothing = mapping(0, 0, 0, PAGE_KERNEL);
    let error = refused(&mut tables, |t| {
        t.create_mapping_noalloc(nothing, Flags::NONE)
    });
    assert_eq!(error, MapError::ZeroSize);
}
