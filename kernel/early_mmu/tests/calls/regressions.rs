//! Bugs of others, by name: each test fails when the bug is put in.
//!
//! Linux, arm64:
//!
//! | commit | what it was | here |
//! |---|---|---|
//! | 9ed2b4616d4e | allocator asserted at entry | `truth_table` |
//! | ab9b4008092c | guard of the address range wrong | `linux_va_range_guard_holds_on_both_sides` |
//! | 90268574a3e8 | exclusive end taken as inclusive | `blocks::nothing_is_mapped_on_either_side` |
//! | ecc54006f158 | a table not cleared | `linux_dirt_in_a_frame_is_never_an_entry` |
//! | 363cd2b81cfd | tables built from a flag in .bss before it was cleared | cannot be: the crate has no variables |
//! | bf25266f8382 | block at a forbidden level | `linux_no_block_at_a_level_that_has_none` |
//! | 2b1283e1ea9b | physical address range read before it was known | `linux_a_range_of_no_physical_addresses_maps_nothing` |
//! | 414c109bdf49 | blocks mapped what lies beside | `linux_pages_only_where_asked` |
//! | 348a65cdcbbf | Contiguous set on live entries | `linux_a_live_entry_gets_no_hint` |
//! | 8dd640d9233d, a64293e993f6 | a change that was refused dropped | `linux_an_unsafe_change_of_a_block_is_not_dropped_silently`, `blocks::an_existing_table_is_never_replaced_by_a_block` |
//! | 05c5c31e9d8d, ecda73ae92cb | Contiguous entries written again; set beside live ones | `remap::a_contiguous_run_may_be_mapped_again_as_it_is`, `contiguous::a_run_with_one_live_page_gets_no_hint` |
//! | 36ca7f4be809 | an empty bank ended the loop over banks | cannot be: no loop over banks; a size of 0 is an error, `arguments::size_zero_installs_nothing` |
//! | 895a37028a48 | software bits called unsafe | `remap::software_bits_and_dbm_may_change_live` |
//! | 15bfba1ad77f | an invalid block overlooked | `linux_an_invalid_block_is_a_hole_and_can_be_mapped_again` |
//! | ce2b3a50ad92, 61d2d1808b20 | locks in atomic context | cannot be: no locks; frames are reserved once and before the first write, `truth_table::allocator_and_table_missing_takes_exactly_what_is_missing` |
//! | ca88ecdce5f5 | detection of HCR_EL2.E2H | cannot be: no system registers |
//!
//! Published page-table code:
//!
//! | crate | what it does, or did | here |
//! |---|---|---|
//! | patina_paging | skips a block that is there, and does not advance the physical address | `remap::an_overlap_continues_at_the_right_physical_address` |
//! | patina_paging | ignores that a part of a block is mapped elsewhere | `refusals::mapped_elsewhere` |
//! | patina_paging | protecting pages makes a block of them, and loses the tables | `peer_protecting_pages_keeps_them_pages` |
//! | page_table_multiarch | protecting a page changes its whole block, then panics | `peer_a_page_of_a_block_does_not_speak_for_the_block` |
//! | page_table_multiarch | unmapping a page drops its whole block, then panics | `parts::unmapping_a_part_of_a_block_is_refused_until_it_is_split` |
//! | page_table_multiarch | a partial map stays when frames run out | `peer_out_of_frames_leaves_nothing_behind` |
//! | page_table_multiarch | takes an address that is not aligned to the block | `peer_a_block_is_aligned_in_both_address_spaces` |
//! | page-table-generic | unmapping a page unmaps its block | `parts::unmapping_a_part_of_a_block_is_refused_until_it_is_split` |
//! | aarch64-paging | changes one live entry of a contiguous run | `contiguous::a_part_of_a_run_does_not_change` |
//! | aarch64-paging | panics on a region of nothing at 0 | `peer_nothing_at_zero_is_an_error` |
//! | rmm, aarch64-paging before 0.12.3 | operand of TLBI not masked | `flush::changed_pages_are_invalidated_one_by_one_with_masked_operands` |
//! | hermit | contiguous runs misaligned | `contiguous::pages_in_runs_of_sixteen` |
//! | tgoskits | no barrier before the link; tables freed before the flush | `live::no_operation_leaves_or_meets_anything_stale` |
//! | asterinas | a split with the wrong stride | `parts::a_part_of_a_block_gets_rights_of_its_own` |

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

/// ecc54006f158 "Clear the initial ID map correctly before remapping": nothing was cleared.
#[test]
fn linux_dirt_in_a_frame_is_never_an_entry() {
    let memory = Memory::<support::G48>::new(8);
    let mut tables = upper(&memory);
    let page = mapping(UPPER + 5 * GIB, GIB, 4 * KIB, PAGE_KERNEL);
    let _ = map(&mut tables, &mut frames(1, 3), page, Flags::NONE);
    let entries: Vec<_> = memory.snapshot().entries().collect();
    assert_eq!(entries.len(), 4 * 512);
    assert_eq!(
        entries.iter().filter(|(_, _, entry)| *entry != 0).count(),
        4
    );
}

/// 2b1283e1ea9b "Fix Boot panic on Ampere Altra": `PARange` read as 0 before it was set up.
#[test]
fn linux_a_range_of_no_physical_addresses_maps_nothing() {
    let memory = Memory::<support::G48>::new(8);
    for bits in [0, 32] {
        let mut tables = upper(&memory).with_output_bits(bits);
        let high = mapping(UPPER, (1 << 32) - 4 * KIB, 8 * KIB, PAGE_KERNEL);
        let error = refused(&mut tables, |t| {
            t.create_mapping(high, Flags::NONE, &mut frames(1, 7))
        });
        assert_eq!(
            error,
            MapError::OutputAddressTooWide {
                pa: pa((1 << 32) + 4 * KIB - 1)
            }
        );
    }
}

/// 348a65cdcbbf, reverted by 667c27597ca8: the Contiguous bit went on live mappings without a break.
#[test]
fn linux_a_live_entry_gets_no_hint() {
    let memory = Memory::<support::G48>::new(8);
    let mut tables = upper(&memory);
    let pages = mapping(UPPER, GIB, 64 * KIB, PAGE_KERNEL);
    let _ = map(&mut tables, &mut frames(1, 7), pages, Flags::NO_CONT);
    let read_only = Mapping {
        prot: PAGE_KERNEL_RO,
        ..pages
    };
    for again in [pages, read_only] {
        let _ = tables
            .create_mapping_noalloc(again, Flags::NONE)
            .expect("the tables are there");
        assert!(tables.regions().all(|r| !r.attributes.is_contiguous()));
    }
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
