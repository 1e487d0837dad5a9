//! Regions as a kernel log shows them.

use crate::support;
use crate::support::{G48, GIB, KIB, MIB, Memory, UPPER, frames, map, mapping, upper, va};
use early_mmu::{
    Flags, PAGE_KERNEL, PAGE_KERNEL_RO, PAGE_KERNEL_ROX, PROT_DEVICE_nGnRE, descriptor,
};

#[test]
fn rows_say_where_how_large_and_what() {
    let memory = Memory::new(16);
    let mut tables = upper(&memory);
    let mut pool = frames(1, 15);
    for (at, pa, size, prot) in [
        (0, 0x4020_0000, 64 * KIB, PAGE_KERNEL_ROX),
        (64 * KIB, 0x4021_0000, 32 * KIB, PAGE_KERNEL_RO),
        (96 * KIB, 0x4021_8000, 4 * KIB, PAGE_KERNEL),
        (
            4 * MIB,
            0x900_0000 & !(2 * MIB - 1),
            2 * MIB,
            PROT_DEVICE_nGnRE,
        ),
        (GIB, GIB, 3 * GIB, PAGE_KERNEL),
    ] {
        let _ = map(
            &mut tables,
            &mut pool,
            mapping(UPPER + at, pa, size, prot),
            Flags::NONE,
        );
    }
    let rows: Vec<String> = tables.regions().map(|region| region.to_string()).collect();
    assert_eq!(
        rows,
        [
            "0xffff000000000000-0xffff00000000ffff -> 0x0000000040200000     64K L3   4K     ro x  SHD AF    CON UXN    MEM/NORMAL",
            "0xffff000000010000-0xffff000000017fff -> 0x0000000040210000     32K L3   4K     ro NX SHD AF        UXN    MEM/NORMAL",
            "0xffff000000018000-0xffff000000018fff -> 0x0000000040218000      4K L3   4K     RW NX SHD AF        UXN    MEM/NORMAL",
            "0xffff000000400000-0xffff0000005fffff -> 0x0000000009000000      2M L2   2M     RW NX SHD AF        UXN    DEVICE/nGnRE",
            "0xffff000040000000-0xffff0000ffffffff -> 0x0000000040000000      3G L1   1G     RW NX SHD AF        UXN    MEM/NORMAL",
        ]
    );
}

#[test]
fn regions_that_violate_w_xor_x_are_found() {
    let memory = Memory::new(16);
    let mut tables = upper(&memory);
    let pages = mapping(UPPER, GIB, 16 * KIB, PAGE_KERNEL);
    let _ = map(&mut tables, &mut frames(1, 15), pages, Flags::NONE);
    assert!(
        !tables
            .regions()
            .any(|region| region.is_writable_and_executable())
    );
    let table = tables
        .walk(va(UPPER))
        .descriptors()
        .nth(2)
        .expect("level 2")
        .1;
    let table = table.output::<support::G48>();
    memory.poke(table, 2, memory.peek(table, 2) & !descriptor::PXN);
    let found: Vec<_> = tables
        .regions()
        .filter(|r| r.is_writable_and_executable())
        .collect();
    assert_eq!(found.len(), 1);
    assert_eq!(
        (found[0].va, found[0].size_bytes),
        (va(UPPER + 8 * KIB), 4 * KIB)
    );
}

/// Neighbours in virtual but not in physical memory, or of another size, are regions of their own.
#[test]
fn regions_end_where_anything_differs() {
    let memory = Memory::new(16);
    let mut tables = upper(&memory);
    let mut pool = frames(1, 15);
    let _ = map(
        &mut tables,
        &mut pool,
        mapping(UPPER, GIB, 4 * KIB, PAGE_KERNEL),
        Flags::NONE,
    );
    let apart = mapping(UPPER + 4 * KIB, 2 * GIB, 4 * KIB, PAGE_KERNEL);
    let _ = map(&mut tables, &mut pool, apart, Flags::NONE);
    let larger = mapping(UPPER + 2 * MIB, 4 * GIB, 4 * MIB, PAGE_KERNEL);
    let _ = map(&mut tables, &mut pool, larger, Flags::NONE);
    assert_eq!(tables.regions().count(), 3);
    // Across the end of a table, equal neighbours are one.
    let memory = Memory::new(16);
    let mut tables = upper(&memory);
    let across = mapping(UPPER + 2 * MIB - 4 * KIB, GIB, 8 * KIB, PAGE_KERNEL);
    let _ = map(&mut tables, &mut frames(1, 15), across, Flags::NONE);
    assert_eq!(tables.regions().count(), 1);
}

/// A root has a full table's entries, also where the range needs fewer.
#[test]
fn regions_end_with_the_range() {
    type G36 = early_mmu::Granule4K<36>;
    let memory = Memory::<G36>::new(2);
    let mut tables = upper(&memory);
    let last = mapping(GIB.wrapping_neg(), GIB, GIB, PAGE_KERNEL);
    let flush = tables
        .create_mapping_noalloc(last, Flags::NONE)
        .expect("the root has blocks");
    assert!(flush.has_new_entries());
    // What the hardware never reads looks like a continuation.
    memory.poke(memory.root(), 64, memory.peek(memory.root(), 63) + GIB);
    let regions: Vec<_> = tables.regions().collect();
    assert_eq!(regions.len(), 1);
    assert_eq!(
        (regions[0].size_bytes, regions[0].last()),
        (GIB, va(u64::MAX))
    );
}

/// What cannot be read counts as not mapped, and no further than it reaches.
#[test]
fn regions_go_on_behind_a_table_that_cannot_be_reached() {
    let memory = Memory::new(8);
    let mut tables = upper(&memory);
    let page = mapping(UPPER, GIB, 4 * KIB, PAGE_KERNEL);
    let _ = map(&mut tables, &mut frames(1, 3), page, Flags::NONE);
    for at in [2 * MIB, GIB] {
        let block = mapping(UPPER + at, GIB + at, 2 * MIB, PAGE_KERNEL);
        let _ = map(&mut tables, &mut frames(4, 1), block, Flags::NONE);
    }
    let (_, link) = tables.walk(page.va).descriptors().nth(1).expect("level 1");
    let table = link.output::<support::G48>();
    memory.poke(table, 0, memory.peek(table, 0) + (1 << 40));
    let found: Vec<_> = tables.regions().map(|region| region.va).collect();
    assert_eq!(found, [va(UPPER + 2 * MIB), va(UPPER + GIB)]);
    let nowhere = early_mmu::PageTable::<support::G48, _>::new(
        support::pa(1 << 40),
        early_mmu::VaRange::Upper,
        &memory,
    );
    assert_eq!(nowhere.regions().count(), 0);
}

/// The least that is valid: a block at 0, with no attribute.
#[test]
fn a_bare_block_behind_a_hole_is_shown() {
    let memory = Memory::<G48>::new(8);
    let mut tables = upper(&memory);
    let block = mapping(UPPER + 8 * MIB, GIB, 2 * MIB, PAGE_KERNEL);
    let _ = map(&mut tables, &mut frames(1, 7), block, Flags::NONE);
    let (_, link) = tables.walk(block.va).descriptors().nth(1).expect("a table");
    memory.poke(link.output::<G48>(), 2, descriptor::VALID);
    let starts: Vec<_> = tables.regions().map(|region| region.va).collect();
    assert_eq!(starts, [va(UPPER + 4 * MIB), block.va]);
}
