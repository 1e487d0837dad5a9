//! Rights that a table takes away from all below it: `PXNTable`, `UXNTable`, `APTable`.

use crate::support::run::regime;
use crate::support::{
    G48, GIB, KIB, MIB, Memory, Tables, UPPER, frames, map, mapping, refused, upper, va,
};
use early_mmu::descriptor::{AP_TABLE_RDONLY, PXN_TABLE, UXN_TABLE};
use early_mmu::{
    Flags, MapError, Mapping, PAGE_KERNEL, PAGE_KERNEL_RO, PAGE_KERNEL_ROX, Prot, VaRange,
};

/// The bits 62:59 of the table descriptors on the way to an address, from the root down.
fn limits(tables: &Tables<'_>, at: u64) -> Vec<u64> {
    let walk = tables.walk(va(at));
    let tables_only = walk.descriptors().take_while(|(level, _)| *level < 3);
    tables_only.map(|(_, d)| d.bits() & 0b1111 << 59).collect()
}

#[test]
fn new_tables_say_no_exec_and_old_ones_stay() {
    let memory = Memory::<G48>::new(16);
    let mut tables = upper(&memory);
    let mut pool = frames(1, 15);
    let plain = mapping(UPPER, 0, 4 * KIB, PAGE_KERNEL);
    let _ = map(&mut tables, &mut pool, plain, Flags::NONE);
    assert_eq!(limits(&tables, UPPER), [UXN_TABLE; 3]);
    // Shares levels 1 and 2 with it, and has a level 3 of its own.
    let limited = mapping(UPPER + 4 * MIB, 0, 4 * KIB, PAGE_KERNEL);
    let _ = map(&mut tables, &mut pool, limited, Flags::NO_EXEC);
    assert_eq!(
        limits(&tables, UPPER + 4 * MIB),
        [UXN_TABLE, UXN_TABLE, UXN_TABLE | PXN_TABLE]
    );
    assert_eq!(limits(&tables, UPPER), [UXN_TABLE; 3]);
    let far = mapping(UPPER + 512 * GIB, 0, 4 * KIB, PAGE_KERNEL);
    let _ = map(&mut tables, &mut pool, far, Flags::NO_EXEC);
    assert_eq!(
        limits(&tables, UPPER + 512 * GIB),
        [UXN_TABLE | PXN_TABLE; 3]
    );
    // Nothing else differs.
    let regime = regime::<G48>(&memory, VaRange::Upper);
    let seen = |at| regime.translate(at, |pa| memory.read(pa)).expect("mapped");
    assert_eq!(seen(UPPER), seen(UPPER + 512 * GIB));
}

/// A silent loss of rights: the leaf says executable, the table says no.
#[test]
fn executable_below_a_table_that_forbids_it_is_refused() {
    let memory = Memory::<G48>::new(16);
    let mut tables = upper(&memory);
    let mut pool = frames(1, 8);
    let data = mapping(UPPER, 0, 4 * KIB, PAGE_KERNEL);
    let _ = map(&mut tables, &mut pool, data, Flags::NO_EXEC);
    let text = mapping(UPPER + 4 * KIB, 4 * KIB, 4 * KIB, PAGE_KERNEL_ROX);
    for flags in [Flags::NONE, Flags::NO_EXEC] {
        let error = refused(&mut tables, |t| t.create_mapping_noalloc(text, flags));
        assert!(
            matches!(error, MapError::DeniedByTable { va: at, level: 0, table } if at == text.va && table.bits() & PXN_TABLE != 0),
            "{error}"
        );
    }
    let error = refused(&mut tables, |t| {
        t.update_mapping_prot(data.va, 4 * KIB, PAGE_KERNEL_ROX)
    });
    assert!(
        matches!(error, MapError::DeniedByTable { level: 0, .. }),
        "{error}"
    );
    let _ = tables
        .update_mapping_prot(data.va, 4 * KIB, PAGE_KERNEL_RO)
        .expect("no right is asked for");
    // In a table that would be new.
    let far = Mapping {
        va: va(UPPER + GIB),
        ..text
    };
    let error = refused(&mut tables, |t| {
        t.create_mapping(far, Flags::NO_EXEC, &mut pool)
    });
    assert!(matches!(error, MapError::DeniedByTable { .. }), "{error}");
    assert_eq!(
        error.to_string(),
        "0xffff000040000000 lies below a table that forbids it, at level 0: 1800000080001003"
    );
    // Where all would be new, the table that is refused has no address yet.
    let far = Mapping {
        va: va(UPPER + 512 * GIB),
        ..text
    };
    let error = refused(&mut tables, |t| {
        t.create_mapping(far, Flags::NO_EXEC, &mut pool)
    });
    assert_eq!(
        error.to_string(),
        "0xffff008000000000 lies below a table that forbids it, at level 0: 0800000000000000"
    );
}

#[test]
fn writable_below_a_read_only_table_is_refused() {
    let memory = Memory::<G48>::new(16);
    let mut tables = upper(&memory);
    let data = mapping(UPPER, 0, 4 * KIB, PAGE_KERNEL_RO);
    let _ = map(&mut tables, &mut frames(1, 8), data, Flags::NONE);
    let root = memory.root();
    memory.poke(root, 0, memory.peek(root, 0) | AP_TABLE_RDONLY);
    let error = refused(&mut tables, |t| {
        t.update_mapping_prot(data.va, 4 * KIB, PAGE_KERNEL)
    });
    assert!(
        matches!(error, MapError::DeniedByTable { level: 0, .. }),
        "{error}"
    );
    let leaf = tables.walk(data.va).leaf().expect("mapped");
    assert_eq!(Prot::of(leaf.effective), Some(PAGE_KERNEL_RO));
}
