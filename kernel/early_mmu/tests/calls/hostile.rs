//! Looking at tables that nobody sane wrote: every call ends, and none panics.

use crate::support;
use crate::support::fuzzed::hostile_tables;
use crate::support::{G48, KIB, Memory, Pool, Tiny, UPPER, frames, mapping, refused, upper, va};
use early_mmu::{
    BbmLevel, BreakBeforeMake, Flags, MapError, PAGE_KERNEL, PAGE_KERNEL_RO, descriptor,
};
use proptest::prelude::*;

const TABLES: u64 = 0x8000_0000;

/// A root that is its own next table, at each level: the walk ends after four.
#[test]
fn a_table_that_leads_to_itself_ends_the_walk_as_a_page() {
    let memory = Memory::<G48>::new(2);
    memory.poke(memory.root(), 0, TABLES | 0b11 | descriptor::AF);
    let mut tables = upper(&memory);
    let walk = tables.walk(va(UPPER));
    assert_eq!(walk.descriptors().count(), 4);
    assert_eq!(
        walk.leaf().map(|leaf| (leaf.level, leaf.pa)),
        Some((3, memory.root()))
    );
    assert_eq!(
        tables.translate(va(UPPER + 0x123)),
        memory.root().checked_add(0x123)
    );
    assert_eq!(tables.regions().count(), 1);
    let request = mapping(UPPER, 0, 1 << 30, PAGE_KERNEL);
    let _ = tables
        .create_mapping(request, Flags::NONE, &mut Pool::<G48>::new(1, 1))
        .is_err();
    let _ = tables
        .update_mapping_prot(va(UPPER), 0x1000, PAGE_KERNEL_RO)
        .is_err();
}

/// What tables forbid counts in every view (Arm ARM, hierarchical control of permissions).
#[test]
fn table_descriptors_take_rights_away() {
    let memory = Memory::<G48>::new(8);
    let mut tables = upper(&memory);
    let page = mapping(UPPER, 0, 0x1000, early_mmu::PAGE_KERNEL_ROX);
    let _ = support::map(&mut tables, &mut Pool::<G48>::new(1, 7), page, Flags::NONE);
    let link = memory.peek(memory.root(), 0);
    assert_eq!(link & descriptor::UXN_TABLE, descriptor::UXN_TABLE);
    memory.poke(
        memory.root(),
        0,
        link | descriptor::PXN_TABLE | descriptor::AP_TABLE_RDONLY,
    );
    let leaf = tables.walk(va(UPPER)).leaf().expect("mapped");
    assert!(leaf.descriptor.is_executable() && !leaf.effective.is_executable());
    assert!(
        tables
            .regions()
            .all(|region| !region.attributes.is_executable())
    );
    let user = leaf.descriptor.bits() & !descriptor::AP_RDONLY | descriptor::AP_EL0;
    let below = early_mmu::Descriptor::from_bits(user)
        .below(descriptor::AP_TABLE_NO_EL0 | descriptor::AP_TABLE_RDONLY);
    assert_eq!(
        below.bits() & (descriptor::AP_EL0 | descriptor::AP_RDONLY),
        descriptor::AP_RDONLY
    );
}

/// Entries that are likely to mean something: links within the memory, leaves, rubbish.
fn entries() -> impl Strategy<Value = u64> {
    prop_oneof![
        3 => (0u64..5, any::<u64>()).prop_map(|(slot, bits)| {
            (TABLES + (slot << 12)) | 0b11 | bits & 0x7ff0_0000_0000_0ffc
        }),
        2 => any::<u64>().prop_map(|bits| bits | descriptor::AF),
        1 => any::<u64>(),
        1 => Just(0),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn random_tables_are_walked_as_the_architecture_says(
        content in prop::collection::vec(entries(), 16),
        first in 0u64..16,
        count in 1u64..17,
    ) {
        let memory = Memory::<Tiny>::new(12);
        for (slot, entries) in content.chunks(4).enumerate() {
            memory.fill(slot, |index| entries[index]);
        }
        hostile_tables(&memory, first, count);
    }
}

#[test]
fn a_split_names_the_address_whose_table_cannot_be_reached() {
    let memory = Memory::<G48>::new(8);
    let mut tables = upper(&memory);
    memory.poke(memory.root(), 0, 0xdead_0000_0003);
    let at = va(UPPER + 5 * 4 * KIB);
    let error = refused(&mut tables, |tables| {
        let live = BreakBeforeMake::new(&memory, BbmLevel::Level0);
        tables.split(at, 4 * KIB, Flags::NONE, &mut frames(1, 7), live)
    });
    assert!(
        matches!(error, MapError::UnreachableTable { va, .. } if va == at),
        "{error}"
    );
}
