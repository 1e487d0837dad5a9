//! Ranges that are none, or lie where these tables do not translate.

use crate::support::{
    G48, GIB, Memory, Tables, UPPER, frames, map, mapping, pa, refused, upper, va,
};
use early_mmu::{Argument, Flags, Granule4K, MapError, Mapping, PAGE_KERNEL, PageTable, VaRange};

#[track_caller]
fn refuse_map(tables: &mut Tables<'_>, mapping: Mapping) -> MapError {
    refused(tables, |t| {
        t.create_mapping(mapping, Flags::NONE, &mut frames(40, 8))
    })
}

#[test]
fn arguments_that_make_no_range() {
    let memory = Memory::new(64);
    let mut tables = upper(&memory);
    let good = mapping(UPPER + 8 * GIB, 0, 0x1000, PAGE_KERNEL);
    let misaligned = |which, value| MapError::Misaligned { which, value };
    for (bad, error) in [
        (
            Mapping {
                size_bytes: 0,
                ..good
            },
            MapError::ZeroSize,
        ),
        (
            Mapping {
                va: va(UPPER + 1),
                ..good
            },
            misaligned(Argument::Va, UPPER + 1),
        ),
        (
            Mapping {
                pa: pa(0x800),
                ..good
            },
            misaligned(Argument::Pa, 0x800),
        ),
        (
            Mapping {
                size_bytes: 0x1001,
                ..good
            },
            misaligned(Argument::Size, 0x1001),
        ),
        (
            Mapping { va: va(0), ..good },
            MapError::OutsideRange { va: va(0) },
        ),
        (
            Mapping {
                va: va(UPPER - 0x1000),
                ..good
            },
            MapError::OutsideRange {
                va: va(UPPER - 0x1000),
            },
        ),
        (
            Mapping {
                va: va(!0xfff),
                size_bytes: 0x2000,
                ..good
            },
            MapError::Wraps {
                which: Argument::Va,
                start: !0xfff,
                size_bytes: 0x2000,
            },
        ),
        (
            Mapping {
                pa: pa(!0xfff),
                size_bytes: 0x2000,
                ..good
            },
            MapError::Wraps {
                which: Argument::Pa,
                start: !0xfff,
                size_bytes: 0x2000,
            },
        ),
        (
            Mapping {
                pa: pa(1 << 48),
                ..good
            },
            MapError::OutputAddressTooWide {
                pa: pa((1 << 48) + 0xfff),
            },
        ),
        (
            Mapping {
                pa: pa((1 << 48) - 0x1000),
                size_bytes: 0x2000,
                ..good
            },
            MapError::OutputAddressTooWide {
                pa: pa((1 << 48) + 0xfff),
            },
        ),
    ] {
        assert_eq!(refuse_map(&mut tables, bad), error);
        assert_eq!(tables.tables_needed(bad, Flags::NONE), Err(error));
        let noalloc = refused(&mut tables, |t| t.create_mapping_noalloc(bad, Flags::NONE));
        assert_eq!(noalloc, error);
        if bad.pa == good.pa {
            let protect = refused(&mut tables, |t| {
                t.update_mapping_prot(bad.va, bad.size_bytes, bad.prot)
            });
            assert_eq!(protect, error);
            let link = refused(&mut tables, |t| {
                t.create_tables(bad.va, bad.size_bytes, &mut frames(40, 8))
            });
            assert_eq!(link, error);
        }
    }
}

/// Linux, where size 0 runs its loops once and can install a whole block.
#[test]
fn size_zero_installs_nothing() {
    let memory = Memory::new(8);
    let mut tables = upper(&memory);
    let error = refuse_map(&mut tables, mapping(UPPER, GIB, 0, PAGE_KERNEL));
    assert_eq!(error, MapError::ZeroSize);
    assert_eq!(tables.regions().count(), 0);
}

#[test]
fn the_lower_range_ends_at_its_top() {
    let memory = Memory::<G48>::new(8);
    let mut tables: Tables<'_> = PageTable::new(memory.root(), VaRange::Lower, &memory);
    let end = 1 << 48;
    let over = mapping(end - 0x1000, 0, 0x2000, PAGE_KERNEL);
    assert_eq!(
        refuse_map(&mut tables, over),
        MapError::OutsideRange { va: va(end) }
    );
    assert_eq!(tables.translate(va(end)), None);
    assert_eq!(
        tables.walk(va(UPPER)).end(),
        early_mmu::WalkEnd::OutsideRange
    );
}

/// A CPU with fewer physical address bits than descriptors have.
#[test]
fn physical_addresses_beyond_the_cpu_are_refused() {
    let memory = Memory::<G48>::new(8);
    let mut tables = upper(&memory).with_output_bits(40);
    let last = pa((1 << 40) + 0xfff);
    let beyond = mapping(UPPER, 1 << 40, 0x1000, PAGE_KERNEL);
    assert_eq!(
        refuse_map(&mut tables, beyond),
        MapError::OutputAddressTooWide { pa: last }
    );
    let inside = mapping(UPPER, (1 << 40) - 0x1000, 0x1000, PAGE_KERNEL);
    let _ = map(&mut tables, &mut frames(1, 3), inside, Flags::NONE);
}

/// A 39-bit address space has its root at level 1.
#[test]
fn three_levels_refuse_what_four_would_take() {
    type G39 = Granule4K<39>;
    let memory = Memory::<G39>::new(8);
    let mut tables: Tables<'_, G39> = PageTable::new(memory.root(), VaRange::Upper, &memory);
    let outside = mapping(UPPER, 0, 0x1000, PAGE_KERNEL);
    let error = refused(&mut tables, |t| {
        t.create_mapping_noalloc(outside, Flags::NONE)
    });
    assert_eq!(error, MapError::OutsideRange { va: va(UPPER) });
    let inside = mapping(!0 << 39, 0, 0x1000, PAGE_KERNEL);
    let error = refused(&mut tables, |t| {
        t.create_mapping_noalloc(inside, Flags::NONE)
    });
    assert!(
        matches!(error, MapError::MissingTable { level: 2, .. }),
        "{error}"
    );
}

/// Which argument it was stands in the line.
#[test]
fn errors_name_the_argument() {
    for (which, name) in [
        (Argument::Va, "virtual address"),
        (Argument::Pa, "physical address"),
        (Argument::Size, "size"),
    ] {
        let misaligned = MapError::Misaligned {
            which,
            value: 0x1001,
        };
        assert_eq!(
            misaligned.to_string(),
            format!("{name} 0x1001 is not aligned to the granule")
        );
    }
    let wraps = MapError::Wraps {
        which: Argument::Pa,
        start: 0x1000,
        size_bytes: u64::MAX - 0xfff,
    };
    assert_eq!(
        wraps.to_string(),
        "physical address 0x1000 + 0xfffffffffffff000 bytes passes the end of the address space"
    );
    assert_eq!(MapError::ZeroSize.to_string(), "size is zero");
}
