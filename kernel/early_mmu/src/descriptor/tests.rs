//! Bits where Linux has them, and what each of them does.

extern crate std;
use super::*;
use crate::{Granule4K, Granule4KLpa2};

type G = Granule4K<48>;

/// Positions as Linux has them in `pgtable-hwdef.h` and `pgtable-prot.h`.
#[test]
fn bits_are_where_linux_has_them() {
    for (bit, position) in [
        (VALID, 0),
        (AP_EL0, 6),
        (AP_RDONLY, 7),
        (AF, 10),
        (NG, 11),
        (GP, 50),
        (DBM, 51),
        (CONTIGUOUS, 52),
        (PXN, 53),
        (UXN, 54),
        (PXN_TABLE, 59),
        (UXN_TABLE, 60),
    ] {
        assert_eq!(bit, 1 << position);
    }
    assert_eq!(ATTR_INDX, 0x1c);
    assert_eq!(SH_INNER, 0x300);
    assert_eq!(SAFE_LIVE & !SOFTWARE, 0x0028_0000_0000_0880);
    assert_eq!(SOFTWARE, 0x8780_0000_0000_0000);
}

#[test]
fn kinds_depend_on_the_level() {
    let kinds = |bits: u64| [0, 1, 2, 3].map(|level| Descriptor::from_bits(bits).kind::<G>(level));
    use Kind::{Invalid, Leaf, Reserved, Table};
    assert_eq!(kinds(0b00), [Invalid; 4]);
    assert_eq!(kinds(0b10), [Invalid; 4]);
    assert_eq!(kinds(0b01), [Reserved, Leaf, Leaf, Reserved]);
    assert_eq!(kinds(0b11), [Table, Table, Table, Leaf]);
}

#[test]
fn only_the_safe_bits_may_change_live() {
    let page = 0x0060_0000_4020_0703;
    for bit in 0..64 {
        let safe = [7, 51, 53, 55, 56, 57, 58, 63].contains(&bit)
            // From global to one ASID; from Normal to Normal-Tagged; to invalid.
            || [11, 2, 0].contains(&bit);
        let (old, new) = (
            Descriptor::from_bits(page),
            Descriptor::from_bits(page ^ 1 << bit),
        );
        assert_eq!(old.may_become(new), safe, "bit {bit} of a live page");
        let back = safe && bit != 11;
        assert_eq!(
            new.may_become(old),
            back || bit == 0,
            "bit {bit}, the other way"
        );
    }
}

#[test]
fn the_memory_type_changes_live_only_between_normal_and_tagged() {
    let leaf = |memory: MemType| {
        Descriptor::from_bits(crate::Prot::ReadWrite(memory).bits() | TABLE_OR_PAGE)
    };
    let tag_only = |memory| matches!(memory, MemType::Normal | MemType::NormalTagged);
    for from in MemType::ALL {
        for to in MemType::ALL {
            let safe = from == to || tag_only(from) && tag_only(to);
            assert_eq!(leaf(from).may_become(leaf(to)), safe, "{from:?} to {to:?}");
        }
    }
}

#[test]
fn an_invalid_entry_may_become_anything_and_the_same_is_no_change() {
    let page = Descriptor::from_bits(0x0060_0000_4020_0703 | CONTIGUOUS);
    assert!(page.may_become(page));
    assert!(Descriptor::from_bits(!VALID).may_become(page));
    assert!(page.may_become(Descriptor::INVALID));
    assert!(!page.may_become(Descriptor::from_bits(page.bits() ^ AP_RDONLY)));
}

/// The same within a run that changes as a whole, where only the bit itself may not.
#[test]
fn a_run_may_change_as_its_entries_may() {
    let page = Descriptor::from_bits(0x0060_0000_4020_0703 | CONTIGUOUS);
    let other = Descriptor::from_bits(0x0060_0000_8000_0713 | CONTIGUOUS);
    assert!(page.may_become_in_run(page) && !page.may_become_in_run(other));
    for hole in [
        Descriptor::INVALID,
        Descriptor::from_bits(other.bits() & !VALID),
    ] {
        assert!(page.may_become_in_run(hole) && hole.may_become_in_run(page));
    }
    let read_only = Descriptor::from_bits(page.bits() | AP_RDONLY);
    assert!(page.may_become_in_run(read_only) && read_only.may_become_in_run(page));
    assert!(!page.may_become_in_run(Descriptor::from_bits(page.bits() ^ CONTIGUOUS)));
}

#[test]
fn each_limit_of_a_table_takes_one_right_away_and_no_limit_none() {
    let leaf = 0x4020_0703 | AP_EL0;
    let limits = PXN_TABLE | UXN_TABLE | AP_TABLE_NO_EL0 | AP_TABLE_RDONLY;
    for (table, effective) in [
        (0, leaf),
        (!limits, leaf),
        (PXN_TABLE, leaf | PXN),
        (UXN_TABLE, leaf | UXN),
        (AP_TABLE_NO_EL0, leaf & !AP_EL0),
        (AP_TABLE_RDONLY, leaf | AP_RDONLY),
    ] {
        assert_eq!(Descriptor::from_bits(leaf).below(table).bits(), effective);
    }
}

/// With `FEAT_LPA2` bits 9:8 are bits 51:50 of the address.
#[test]
fn shareability_comes_from_where_it_is() {
    let page = Descriptor::from_bits(0x0060_0000_4020_0503);
    let bits = page.with_shareability::<G>().bits();
    assert_eq!(bits, 0x0060_0000_0000_0503);
    let bits = page.with_shareability::<Granule4KLpa2<52>>().bits();
    assert_eq!(bits, 0x0060_0000_0000_0703);
}

#[test]
fn prints_all_sixteen_digits() {
    let page = Descriptor::from_bits(0x0060_0000_4020_0703);
    assert_eq!(std::format!("{page}"), "0060000040200703");
    assert_eq!(std::format!("{page:?}"), "Descriptor(0x0060000040200703)");
}
