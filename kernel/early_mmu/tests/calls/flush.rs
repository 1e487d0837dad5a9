//! Barriers and TLB maintenance: which, in which order, with which operands.

use std::cell::RefCell;

use crate::support::{G48, GIB, KIB, MIB, Memory, UPPER, frames, map, mapping, upper, va};
use early_mmu::{Flags, Flush, PAGE_KERNEL, PAGE_KERNEL_RO, TlbMaintenance};

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Event {
    DsbIshst,
    Vaale1is(u64),
    Vaae1is(u64),
    Vmalle1is,
    DsbIsh,
    Isb,
}
use Event::{DsbIsh, DsbIshst, Isb, Vaale1is, Vmalle1is};

#[derive(Default)]
struct Log(RefCell<Vec<Event>>);

impl TlbMaintenance for Log {
    fn store_barrier(&self) {
        self.0.borrow_mut().push(DsbIshst);
    }
    fn invalidate_leaf(&self, operand: u64) {
        self.0.borrow_mut().push(Vaale1is(operand));
    }
    fn invalidate_walk(&self, operand: u64) {
        self.0.borrow_mut().push(Event::Vaae1is(operand));
    }
    fn invalidate_all(&self) {
        self.0.borrow_mut().push(Vmalle1is);
    }
    fn completion_barrier(&self) {
        self.0.borrow_mut().push(DsbIsh);
    }
    fn context_synchronization(&self) {
        self.0.borrow_mut().push(Isb);
    }
}

fn events(flush: Flush) -> Vec<Event> {
    let log = Log::default();
    flush.execute(&log);
    log.0.into_inner()
}

#[test]
fn new_entries_take_barriers_only() {
    let memory = Memory::new(8);
    let mut tables = upper(&memory);
    let page = mapping(UPPER, GIB, 4 * KIB, PAGE_KERNEL);
    assert_eq!(
        events(map(&mut tables, &mut frames(1, 7), page, Flags::NONE)),
        [DsbIshst, Isb]
    );
    assert_eq!(
        events(map(&mut tables, &mut frames(4, 0), page, Flags::NONE)),
        []
    );
}

/// Bits 63:44 of an operand are ASID and TTL: the sign bits of an upper address must not get there.
#[test]
fn changed_pages_are_invalidated_one_by_one_with_masked_operands() {
    let memory = Memory::new(8);
    let mut tables = upper(&memory);
    let last = mapping(8192u64.wrapping_neg(), GIB, 8 * KIB, PAGE_KERNEL);
    let _ = map(&mut tables, &mut frames(1, 7), last, Flags::NONE);
    let flush = tables
        .update_mapping_prot(last.va, 8 * KIB, PAGE_KERNEL_RO)
        .expect("pages");
    assert_eq!(
        events(flush),
        [
            DsbIshst,
            Vaale1is(0xfff_ffff_fffe),
            Vaale1is(0xfff_ffff_ffff),
            DsbIsh,
            Isb
        ]
    );
}

#[test]
fn a_block_takes_one_invalidation() {
    let memory = Memory::new(8);
    let mut tables = upper(&memory);
    let block = mapping(UPPER + GIB, GIB, 2 * GIB, PAGE_KERNEL);
    let _ = map(&mut tables, &mut frames(1, 7), block, Flags::NONE);
    let flush = tables
        .update_mapping_prot(block.va, 2 * GIB, PAGE_KERNEL_RO)
        .expect("blocks");
    let operand = |address: u64| (address >> 12) & 0xfff_ffff_ffff;
    assert_eq!(
        events(flush),
        [
            DsbIshst,
            Vaale1is(operand(UPPER + GIB)),
            Vaale1is(operand(UPPER + 2 * GIB)),
            DsbIsh,
            Isb
        ]
    );
}

#[test]
fn beyond_512_entries_everything_is_invalidated() {
    for (pages, one_by_one) in [(512, true), (513, false)] {
        let memory = Memory::new(8);
        let mut tables = upper(&memory);
        let size = pages * 4 * KIB;
        let request = mapping(UPPER, GIB, size, PAGE_KERNEL);
        let _ = map(&mut tables, &mut frames(1, 7), request, Flags::NO_BLOCK);
        let flush = tables
            .update_mapping_prot(va(UPPER), size, PAGE_KERNEL_RO)
            .expect("pages");
        let events = events(flush);
        if one_by_one {
            assert_eq!(events.len(), 512 + 3);
        } else {
            assert_eq!(events, [DsbIshst, Vmalle1is, DsbIsh, Isb]);
        }
    }
}

#[test]
fn merged_flushes_cover_both() {
    let memory = Memory::new(8);
    let mut tables = upper(&memory);
    let two = mapping(UPPER, GIB, 2 * MIB + 4 * KIB, PAGE_KERNEL);
    let mut flush = map(&mut tables, &mut frames(1, 7), two, Flags::NONE);
    for at in [UPPER + 2 * MIB, UPPER] {
        let size = if at == UPPER { 2 * MIB } else { 4 * KIB };
        let next = tables
            .update_mapping_prot(va(at), size, PAGE_KERNEL_RO)
            .expect("whole leaves");
        flush = flush.merge(next);
    }
    let stale = flush.stale().expect("changed");
    assert!(flush.has_new_entries() && stale.last_level_only);
    assert_eq!(
        (stale.first, stale.last),
        (va(UPPER), va(UPPER + 2 * MIB + 4 * KIB - 1))
    );
    assert_eq!((stale.stride_bytes, stale.invalidations()), (4 * KIB, 513));
    assert_eq!(flush.merge(Flush::NOTHING), flush);
    assert_eq!(Flush::NOTHING.merge(flush), flush);
    flush.ignore_because("looked at above");
}

/// From the middle of what one table translates to the middle of the next: two ways, in as many bytes
/// as one of them has.
#[test]
fn each_way_to_an_emptied_table_is_invalidated() {
    let memory = Memory::<G48>::new(8);
    let mut tables = upper(&memory);
    let _ = tables
        .create_tables(va(UPPER), 4 * MIB, &mut frames(1, 4))
        .expect("frames");
    let retired = tables.unmap(va(UPPER + MIB), 2 * MIB).expect("empty");
    assert_eq!(retired.table_count(), 4);
    let at = |address: u64| Event::Vaae1is(address >> 12 & 0xfff_ffff_ffff);
    let two = [DsbIshst, at(UPPER), at(UPPER + 2 * MIB), DsbIsh, Isb];
    assert_eq!(events(*retired.flush()), two);
}

#[test]
fn nothing_is_nothing() {
    assert!(Flush::NOTHING.is_nothing());
    assert_eq!(events(Flush::NOTHING.merge(Flush::NOTHING)), []);
}

#[test]
fn flushes_print_what_they_will_do() {
    let memory = Memory::new(8);
    let mut tables = upper(&memory);
    let page = mapping(UPPER, GIB, 4 * KIB, PAGE_KERNEL);
    let new = map(&mut tables, &mut frames(1, 7), page, Flags::NONE);
    assert_eq!(new.to_string(), "new entries only");
    let changed = tables
        .update_mapping_prot(va(UPPER), 4 * KIB, PAGE_KERNEL_RO)
        .expect("page");
    assert_eq!(
        changed.to_string(),
        "invalidate 0xffff000000000000-0xffff000000000fff by 0x1000"
    );
    assert_eq!(Flush::NOTHING.to_string(), "nothing");
    let _ = new.merge(changed);
}
