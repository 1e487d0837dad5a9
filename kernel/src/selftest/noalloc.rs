//! The promise of 2022: a call that must not allocate says so where a table is
//! missing, and leaves nothing behind.

use core::panic::Location;

use early_mmu::{
    Flags, Geometry as _, LAST_LEVEL, MapError, Mapping, PAGE_KERNEL, PAGE_KERNEL_RO, PhysAddr,
    VirtAddr,
};

use super::{Context, Test, TestResult, check};
use crate::arch::mmu::translate_read;
use crate::arch::tlb;
use crate::mm::layout::{FIXADDR_START, Geometry, PAGE_SIZE};
use crate::mm::{fixmap, tables_checksum};

pub(super) const TESTS: &[Test] = &[
    Test {
        name: "noalloc.missing_table",
        run: missing_table,
    },
    Test {
        name: "noalloc.half_there",
        run: half_there,
    },
    Test {
        name: "noalloc.tables_all_there",
        run: tables_all_there,
    },
];

fn page_at(context: &Context<'_>, va: u64, pages: u64) -> Mapping {
    Mapping {
        va: VirtAddr::new(va),
        pa: PhysAddr::new(context.boot.image_pa),
        size_bytes: pages * PAGE_SIZE,
        prot: PAGE_KERNEL,
    }
}

/// A missing table is named by level, address and caller, at each level.
fn missing_table(context: &mut Context<'_>) -> TestResult {
    let before = tables_checksum(context.tables);
    for missing in Geometry::START_LEVEL + 1..=LAST_LEVEL {
        // One entry before the fixmap's, in the table that both share.
        let va = FIXADDR_START - Geometry::entry_bytes(missing - 1);
        let mapping = page_at(context, va, 1);
        let here = Location::caller().file();
        let result = context.tables.create_mapping_noalloc(mapping, Flags::NONE);
        check!(
            matches!(result, Err(MapError::MissingTable { level, va: at, caller })
                if level == missing && at == mapping.va && caller.file() == here),
            "{va:#x}: {result:?}, not a missing level {missing} table"
        );
    }
    check!(
        tables_checksum(context.tables) == before,
        "the tables changed"
    );
    Ok(())
}

/// The last page has a table and the one after it has none: all or nothing.
fn half_there(context: &mut Context<'_>) -> TestResult {
    let before = tables_checksum(context.tables);
    let mapping = page_at(context, fixmap::FIXADDR_END - PAGE_SIZE, 2);
    let result = context.tables.create_mapping_noalloc(mapping, Flags::NONE);
    let missing_at = VirtAddr::new(fixmap::FIXADDR_END);
    check!(
        matches!(result, Err(MapError::MissingTable { level: 3, va, .. }) if va == missing_at),
        "{result:?}"
    );
    check!(
        tables_checksum(context.tables) == before,
        "the tables changed"
    );
    Ok(())
}

/// The other side of the truth table: with every table there the call succeeds,
/// allocator or not. What is mapped already stays as it is; a hole gets a leaf.
fn tables_all_there(context: &mut Context<'_>) -> TestResult {
    let before = tables_checksum(context.tables);
    let fdt = context.boot.fdt;
    let result = fixmap::map_fdt(context.tables, fdt, PAGE_KERNEL_RO);
    check!(
        result.is_ok_and(|flush| flush.is_nothing()),
        "mapping the device tree again as it is: {result:?}"
    );
    check!(
        tables_checksum(context.tables) == before,
        "the tables changed"
    );

    let va = fixmap::FIX_NOALLOC;
    let mapping = Mapping {
        prot: PAGE_KERNEL_RO,
        ..page_at(context, va, 1)
    };
    check!(translate_read(va).is_none(), "{va:#x} is mapped already");
    match context.tables.create_mapping_noalloc(mapping, Flags::NONE) {
        Ok(flush) => tlb::execute(flush),
        Err(error) => check!(false, "a new leaf in an existing table: {error}"),
    }
    let translated = translate_read(va).map(|translated| translated.pa);
    check!(
        translated == Some(context.boot.image_pa),
        "the new leaf gives {translated:x?}"
    );
    Ok(())
}
