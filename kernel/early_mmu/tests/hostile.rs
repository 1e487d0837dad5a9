//! Looking at tables that nobody sane wrote: every call ends, and none panics.

mod support;

use early_mmu::{Flags, PAGE_KERNEL, PAGE_KERNEL_RO, WalkEnd, descriptor};
use proptest::prelude::*;
use support::arm_walk::{Fault, Format, Regime};
use support::{G48, Memory, Pool, Tiny, UPPER, mapping, upper, va};

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
        addresses in prop::collection::vec(any::<u16>(), 8),
        first in 0u64..16,
        count in 1u64..17,
    ) {
        let memory = Memory::<Tiny>::new(8);
        {
            let mut tables = upper(&memory);
            // Fill three more slots, so that there is something to be led to.
            for block in 1..4u64 {
                let at = (!0 << 16) + block * 0x4000;
                let _ = tables.create_tables(va(at), 0x1000, &mut Pool::<Tiny>::new(block as usize, 1));
            }
        }
        for (index, entry) in content.iter().enumerate() {
            let table = memory.root().checked_add((index as u64 / 4) << 12).expect("small");
            memory.poke(table, index % 4, *entry);
        }
        let mut tables = upper(&memory);
        let regime = Regime {
            ttbr: TABLES,
            upper: true,
            iasize: 16,
            granulebits: 12,
            stride: 2,
            first_block_level: 2,
            format: Format::Plain,
            contiguous: [0; 4],
        };
        for address in addresses {
            let address = !0 << 16 | u64::from(address);
            let expected = regime.translate(address, |pa| memory.read(pa));
            let walk = tables.walk(va(address));
            let got = tables.translate(va(address)).map(|pa| pa.as_u64());
            prop_assert_eq!(walk.pa().map(|pa| pa.as_u64()), got);
            match expected {
                Ok(expected) => {
                    prop_assert_eq!(got, Some(expected.pa));
                    let leaf = walk.leaf().expect("mapped").effective;
                    prop_assert_eq!(leaf.is_writable(), expected.el1_write);
                    let el0_writes = expected.el0_access && expected.el1_write;
                    prop_assert_eq!(leaf.is_executable() && !el0_writes, expected.el1_execute);
                }
                Err(Fault::Translation(level)) => {
                    prop_assert_eq!(got, None);
                    prop_assert_eq!(walk.end(), WalkEnd::Fault { level: level as i8 });
                }
                Err(Fault::External(level)) => {
                    let unreachable = matches!(
                        walk.end(), WalkEnd::Unreachable { level: l, .. } if i32::from(l) == level
                    );
                    prop_assert!(unreachable);
                }
                // The crate looks at translations, not at accesses.
                Err(Fault::AccessFlag(_)) => prop_assert!(got.is_some()),
                Err(Fault::AddressRange) => unreachable!(),
            }
        }
        prop_assert!(tables.regions().count() <= 16);
        for region in tables.regions() {
            let _ = region.to_string();
        }
        let start = (!0 << 16) + first * 0x1000;
        let size = count.min(16 - first) * 0x1000;
        let before = memory.snapshot();
        let request = mapping(start, 0x10_0000, size, PAGE_KERNEL);
        for outcome in [
            tables.update_mapping_prot(va(start), size, PAGE_KERNEL_RO),
            tables.create_mapping_noalloc(request, Flags::NONE),
        ] {
            if let Err(error) = outcome {
                let _ = error.to_string();
            } else {
                return Ok(());
            }
        }
        prop_assert!(before == memory.snapshot());
    }
}
