//! Range TLBIs: operands worked out from the Arm ARM (`TLBI RVAALE1IS`), and their union for any range.

use std::cell::RefCell;

use crate::support::{Memory, Pool, TestGeometry};
use early_mmu::{
    Flags, Flush, Granule4K, Granule4KLpa2, Granule16K, Granule16KLpa2, Granule64K, Granule64KLpa,
    Mapping, PAGE_KERNEL, PAGE_KERNEL_RO, PageTable, PhysAddr, TlbMaintenance, VaRange, VirtAddr,
};

#[derive(Debug, PartialEq, Eq)]
enum Op {
    One(u64),
    Range(u64),
    All,
}

#[derive(Default)]
struct Log {
    ops: RefCell<Vec<Op>>,
    no_ranges: bool,
}

impl TlbMaintenance for Log {
    fn store_barrier(&self) {}
    fn invalidate_leaf(&self, operand: u64) {
        self.ops.borrow_mut().push(Op::One(operand));
    }
    fn invalidate_walk(&self, _: u64) {
        panic!("only leaves changed");
    }
    fn invalidate_all(&self) {
        self.ops.borrow_mut().push(Op::All);
    }
    fn has_ranges(&self) -> bool {
        !self.no_ranges
    }
    fn invalidate_leaf_range(&self, operand: u64) {
        self.ops.borrow_mut().push(Op::Range(operand));
    }
    fn completion_barrier(&self) {}
    fn context_synchronization(&self) {}
}

fn ops(flush: Flush) -> Vec<Op> {
    let log = Log::default();
    flush.execute(&log);
    log.ops.into_inner()
}

/// The flush of a changed range of pages; `page` counts from the beginning of the range.
fn change<G: TestGeometry>(range: VaRange, page: u64, count: u64) -> Flush {
    let memory = Memory::<G>::new(16);
    let mut tables = PageTable::<G, _>::new(memory.root(), range, &memory);
    let mapping = Mapping {
        va: VirtAddr::new(range.base::<G>().as_u64() + page * G::GRANULE_BYTES),
        pa: PhysAddr::new(0),
        size_bytes: count * G::GRANULE_BYTES,
        prot: PAGE_KERNEL,
    };
    tables
        .create_mapping(mapping, Flags::NO_BLOCK, &mut Pool::<G>::new(1, 15))
        .expect("map")
        .ignore_because("nobody walks them");
    tables
        .update_mapping_prot(mapping.va, mapping.size_bytes, PAGE_KERNEL_RO)
        .expect("protect")
}

/// `TLBIRange` of the Arm ARM: first address and the one behind the last.
fn range_of(operand: u64, granulebits: u32, large: bool) -> (u64, u64) {
    assert_eq!(operand >> 46 & 3, u64::from(granulebits - 10) / 2, "TG");
    assert_eq!(operand >> 37 & 3, 0, "TTL");
    assert_eq!(operand >> 48, 0, "ASID");
    let unit = if large { 16 } else { granulebits };
    // Sign-extended from the top bit of BaseADDR.
    let base = ((operand << 27) as i64 >> (27 - unit)) as u64 >> unit << unit;
    let (num, scale) = (operand >> 39 & 31, operand >> 44 & 3);
    (
        base,
        base.wrapping_add((num + 1) << (5 * scale + 1 + u64::from(granulebits))),
    )
}

#[test]
fn operands_worked_out_by_hand() {
    // 64 pages of 4 KiB at 0xffff_0000_0000_0000: TG 1, SCALE 1, NUM 0, BaseADDR the low 37 of bits 63:12.
    let ops_4k = ops(change::<Granule4K<48>>(VaRange::Upper, 0, 64));
    assert_eq!(ops_4k, [Op::Range(1 << 46 | 1 << 44 | 0x10_0000_0000)]);
    // 10 pages from page 3 on: SCALE 0, NUM 4.
    let ops_4k = ops(change::<Granule4K<48>>(VaRange::Lower, 3, 10));
    assert_eq!(ops_4k, [Op::Range(1 << 46 | 4 << 39 | 3)]);
    // 1 + 2 x 3 + 64 x 2: the odd page at last, by itself.
    let ops_4k = ops(change::<Granule4K<48>>(VaRange::Lower, 0, 135));
    assert_eq!(
        ops_4k,
        [
            Op::Range(1 << 46 | 1 << 44 | 1 << 39),
            Op::Range(1 << 46 | 2 << 39 | 128),
            Op::One(134),
        ]
    );
    // 16 KiB: TG 2; a single operand still counts in 4 KiB.
    let ops_16k = ops(change::<Granule16K<47>>(VaRange::Lower, 5, 7));
    assert_eq!(ops_16k, [Op::Range(2 << 46 | 2 << 39 | 5), Op::One(11 * 4)]);
    // 64 KiB: TG 3.
    let ops_64k = ops(change::<Granule64K<42>>(VaRange::Lower, 5, 7));
    assert_eq!(
        ops_64k,
        [Op::Range(3 << 46 | 2 << 39 | 5), Op::One(11 * 16)]
    );
    // With LPA2 BaseADDR counts in 64 KiB: pages 14 and 15 by themselves, then from 16 on.
    let ops_lpa2 = ops(change::<Granule4KLpa2<52>>(VaRange::Lower, 14, 7));
    assert_eq!(
        ops_lpa2,
        [
            Op::One(14),
            Op::One(15),
            Op::Range(1 << 46 | 1 << 39 | 1),
            Op::One(20)
        ]
    );
    let ops_lpa2 = ops(change::<Granule16KLpa2<52>>(VaRange::Lower, 4, 6));
    assert_eq!(ops_lpa2, [Op::Range(2 << 46 | 2 << 39 | 1)]);
    // FEAT_LPA alone does not change the unit.
    let ops_lpa = ops(change::<Granule64KLpa<52>>(VaRange::Lower, 1, 6));
    assert_eq!(ops_lpa, [Op::Range(3 << 46 | 2 << 39 | 1)]);
}

/// All that was asked for and nothing else is invalidated, once, in few operations.
fn exactly<G: TestGeometry>() {
    let last_page = (1u64 << (G::VA_BITS - G::GRANULE_SHIFT)) - 1;
    let counts = [5, 6, 63, 64, 65, 127, 200, 1024, 1025, 1500];
    for range in [VaRange::Lower, VaRange::Upper] {
        for count in counts {
            for first in [0, 1, 3, 15, 16, 1023, last_page + 1 - count] {
                let flush = change::<G>(range, first, count);
                let stale = flush.stale().expect("changed");
                let mut next = stale.first.as_u64();
                let ops = ops(flush);
                assert!(ops.len() <= if G::LPA2 { 20 } else { 5 }, "{ops:x?}");
                for op in ops {
                    let (start, end) = match op {
                        Op::Range(operand) => range_of(operand, G::GRANULE_SHIFT, G::LPA2),
                        // VA[55:12], sign-extended.
                        Op::One(operand) => {
                            let start = ((operand << 20) as i64 >> 8) as u64;
                            (start, start.wrapping_add(G::GRANULE_BYTES))
                        }
                        Op::All => panic!("not so many"),
                    };
                    assert_eq!(start, next);
                    next = end;
                }
                assert_eq!(next, stale.last.as_u64().wrapping_add(1));
            }
        }
    }
}

#[test]
fn exactly_the_range_is_invalidated() {
    exactly::<Granule4K<48>>();
    exactly::<Granule4KLpa2<52>>();
    exactly::<Granule16K<47>>();
    exactly::<Granule16KLpa2<52>>();
    exactly::<Granule64K<48>>();
    exactly::<Granule64KLpa<52>>();
}

#[test]
fn thresholds() {
    type G = Granule4K<48>;
    let few = ops(change::<G>(VaRange::Lower, 0, 4));
    assert!(few.iter().all(|op| matches!(op, Op::One(_))) && few.len() == 4);
    let five = ops(change::<G>(VaRange::Lower, 0, 5));
    assert!(matches!(five[..], [Op::Range(_), Op::One(4)]), "{five:x?}");
    // Without the feature: by page up to 512, then all.
    for (count, all) in [(512, false), (513, true)] {
        let log = Log {
            no_ranges: true,
            ..Log::default()
        };
        change::<G>(VaRange::Lower, 0, count).execute(&log);
        assert_eq!(*log.ops.borrow() == [Op::All], all);
        assert!(all || log.ops.borrow().len() == 512);
    }
    // The most that four operations can say is 2^21 - 1 pages; blocks of 1 GiB reach that soon, and
    // are few.
    for (gib, ranges) in [(7, 3), (8, 0)] {
        let memory = Memory::<G>::new(4);
        let mut tables = PageTable::<G, _>::new(memory.root(), VaRange::Lower, &memory);
        let mapping = Mapping {
            va: VirtAddr::new(0),
            pa: PhysAddr::new(0),
            size_bytes: gib << 30,
            prot: PAGE_KERNEL,
        };
        let flush = tables.create_mapping(mapping, Flags::NO_CONT, &mut Pool::<G>::new(1, 3));
        flush.expect("map").ignore_because("nobody walks them");
        let flush = tables.update_mapping_prot(mapping.va, mapping.size_bytes, PAGE_KERNEL_RO);
        let ops = ops(flush.expect("protect"));
        let seen = ops.iter().filter(|op| matches!(op, Op::Range(_))).count();
        assert_eq!(
            (seen > 0, ops.len()),
            (ranges > 0, if ranges > 0 { seen } else { 8 })
        );
    }
}

/// What only the default methods do: everything, which is right.
#[test]
fn a_kernel_without_range_operations_may_claim_them() {
    struct Claims(RefCell<usize>);
    impl TlbMaintenance for Claims {
        fn store_barrier(&self) {}
        fn invalidate_leaf(&self, _: u64) {}
        fn invalidate_walk(&self, _: u64) {}
        fn invalidate_all(&self) {
            *self.0.borrow_mut() += 1;
        }
        fn has_ranges(&self) -> bool {
            true
        }
        fn completion_barrier(&self) {}
        fn context_synchronization(&self) {}
    }
    let tlb = Claims(RefCell::new(0));
    change::<Granule4K<48>>(VaRange::Lower, 0, 64).execute(&tlb);
    assert_eq!(*tlb.0.borrow(), 1);
    // The ways to eight tables of pages, and to those above.
    let memory = Memory::<Granule4K<48>>::new(16);
    let mut tables = PageTable::<Granule4K<48>, _>::new(memory.root(), VaRange::Lower, &memory);
    let _ = tables
        .create_tables(
            VirtAddr::new(0),
            16 << 20,
            &mut Pool::<Granule4K<48>>::new(1, 15),
        )
        .expect("frames");
    let retired = tables.unmap(VirtAddr::new(0), 16 << 20).expect("empty");
    assert_eq!(retired.execute(&tlb).count(), 10);
    assert_eq!(*tlb.0.borrow(), 2);
}
