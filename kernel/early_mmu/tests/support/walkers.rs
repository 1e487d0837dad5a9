//! Walkers and TLBs that keep all they may, and the log of what they were told.
//!
//! Between two events (a barrier, an invalidation, a frame published or freed) plain stores are not
//! ordered: a walker on another CPU may see any of them, and not the others. So the log holds, between
//! events, the descriptors that differ. Held against it are the architecture's rules (Arm ARM DDI
//! 0487, chapter D8, "Translation Lookaside Buffers" and "Using break-before-make when updating
//! translation table entries"):
//!
//! - a table's entries are all ordered by a barrier before the table can be reached;
//! - two translations of one address that may be in a TLB at once differ in nothing that would need
//!   break-before-make, also where one entry of a contiguous run speaks for all of it;
//! - what is mapped does not fault on a way through tables that a walker may remember;
//! - an invalidation comes after the barrier that makes the new descriptors visible, nothing is written
//!   until it is complete, and what runs on is synchronised;
//! - an invalidation of the last level leaves what was cached of tables: no frame is given back
//!   while a walker may still know the way to it;
//! - after the flush nothing is cached, leaf or way to a table, that the tables do not say.

use std::marker::PhantomData;

use early_mmu::{BbmLevel, PhysAddr, VaRange};

use super::arm_walk::{self, Regime, Translation};
use super::geometries::TestGeometry;
use super::memory::{Memory, Snapshot};
use super::run::regime;

/// What happened, in order; tables by slot.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Event {
    /// A descriptor of a table differs from what it was at the last event.
    Write {
        table: usize,
        index: usize,
        old: u64,
        new: u64,
    },
    Publish(usize),
    BeforeLink,
    StoreBarrier,
    /// By address: first and last, and whether what is cached of tables goes too.
    Invalidate {
        first: u64,
        last: u64,
        walks: bool,
    },
    InvalidateAll,
    CompletionBarrier,
    ContextSynchronization,
    Free(usize),
}

impl Event {
    /// `TLBI VAALE1IS`: `VA[55:12]` in bits 43:0. It meets the block or page that translates the address.
    pub fn leaf(operand: u64) -> Self {
        Self::by_address(operand, false)
    }

    /// `TLBI VAAE1IS`.
    pub fn walk(operand: u64) -> Self {
        Self::by_address(operand, true)
    }

    fn by_address(operand: u64, walks: bool) -> Self {
        assert_eq!(operand >> 44, 0, "TTL or ASID in {operand:#x}");
        let va = ((operand << 20) as i64 >> 8) as u64;
        Self::Invalidate {
            first: va,
            last: va,
            walks,
        }
    }

    /// `TLBI RVAALE1IS`: `BaseADDR`, `NUM` and `SCALE`.
    pub fn leaf_range<G: TestGeometry>(operand: u64) -> Self {
        Self::by_range::<G>(operand, false)
    }

    /// `TLBI RVAAE1IS`.
    pub fn walk_range<G: TestGeometry>(operand: u64) -> Self {
        Self::by_range::<G>(operand, true)
    }

    fn by_range<G: TestGeometry>(operand: u64, walks: bool) -> Self {
        let unit = if G::LPA2 { 16 } else { G::GRANULE_SHIFT };
        let first = ((operand << 27) as i64 >> 27 << unit) as u64;
        let (num, scale) = (operand >> 39 & 31, operand >> 44 & 3);
        let pages = (num + 1) << (5 * scale + 1);
        Self::Invalidate {
            first,
            last: first.wrapping_add((pages << G::GRANULE_SHIFT) - 1),
            walks,
        }
    }
}

/// A table descriptor that a walker may remember, and begin its next walk with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Way {
    /// Level of the descriptor.
    level: i32,
    /// First page that it leads to.
    first: u64,
    descriptor: u64,
    /// What the tables above it forbid.
    limits: u64,
}

/// The CPUs that look on.
#[derive(Clone, Copy, Debug)]
pub struct Cpu {
    /// How much they bear when sizes change.
    pub level: BbmLevel,
    /// Whether they have `FEAT_TLBIRANGE`.
    pub ranges: bool,
}

pub struct Walkers<G: TestGeometry> {
    regime: Regime,
    pub cpu: Cpu,
    pages: u64,
    log: Vec<Event>,
    /// The tables at the last event.
    before: Snapshot,
    reachable: Vec<bool>,
    /// Tables written to since the last barrier.
    unordered: Vec<bool>,
    invalidating: bool,
    /// What may be cached of each page.
    leaves: Vec<Vec<Translation>>,
    ways: Vec<Way>,
    breaks: usize,
    geometry: PhantomData<G>,
}

impl<G: TestGeometry> Walkers<G> {
    pub fn new(memory: &Memory<G>, range: VaRange, pages: u64, cpu: Cpu) -> Self {
        let reachable = memory.reachable();
        let mut walkers = Self {
            regime: regime::<G>(memory, range),
            cpu,
            pages,
            log: vec![],
            before: memory.snapshot(),
            unordered: vec![false; reachable.len()],
            reachable,
            invalidating: false,
            leaves: vec![vec![]; pages as usize],
            ways: vec![],
            breaks: 0,
            geometry: PhantomData,
        };
        walkers.walk_all(memory);
        walkers
    }

    /// Fails with the log of the operation.
    #[track_caller]
    fn rule(&self, holds: bool, broken: impl FnOnce() -> String) {
        assert!(holds, "{}\nlog: {:#x?}", broken(), self.log);
    }

    fn va(&self, page: u64) -> u64 {
        let base = if self.regime.upper {
            u64::MAX << G::VA_BITS
        } else {
            0
        };
        base + page * G::GRANULE_BYTES
    }

    fn cached(&self) -> usize {
        self.leaves.iter().filter(|page| !page.is_empty()).count()
    }

    pub fn tell(&mut self, memory: &Memory<G>, event: Event) {
        self.look(memory);
        self.log.push(event);
        match event {
            Event::Write { .. } => {}
            // Its entries were written, and are not ordered before anything.
            Event::Publish(slot) => self.unordered[slot] = true,
            Event::BeforeLink => self.order(),
            Event::StoreBarrier => {
                self.order();
                let root = memory.root().as_u64();
                let mapped = (0..self.pages).filter(|&page| {
                    let start = (self.regime.start_level(), root, 0);
                    self.walk(memory, page, start, |_, _, _| {}).is_some()
                });
                self.breaks += usize::from(mapped.count() < self.cached());
            }
            Event::Invalidate { first, last, walks } => {
                self.begin_invalidation();
                self.forget(first, last, walks);
            }
            Event::InvalidateAll => {
                self.begin_invalidation();
                self.leaves.iter_mut().for_each(Vec::clear);
                self.ways.clear();
            }
            Event::CompletionBarrier => {
                self.invalidating = false;
                self.order();
            }
            Event::ContextSynchronization => {
                self.rule(!self.invalidating, || {
                    "not waited for the invalidation".into()
                });
                self.rule(!self.is_unordered(), || "not visible yet".into());
            }
            Event::Free(slot) => self.rule(!self.knows(memory, slot), || {
                format!("table {slot} is given back, and a walker may know the way to it")
            }),
        }
        // What was forgotten may be cached again at once.
        if matches!(event, Event::Invalidate { .. } | Event::InvalidateAll) {
            self.walk_all(memory);
        }
    }

    fn order(&mut self) {
        self.unordered.fill(false);
    }

    fn is_unordered(&self) -> bool {
        let mut tables = self.unordered.iter().zip(&self.reachable);
        tables.any(|(unordered, reachable)| *unordered && *reachable)
    }

    fn begin_invalidation(&mut self) {
        self.rule(!self.is_unordered(), || {
            "invalidated before the new entries were visible".into()
        });
        self.invalidating = true;
    }

    /// Forgets what an invalidation by address meets: the leaves by which an address in the range
    /// is translated and, if `walks`, the ways to them.
    fn forget(&mut self, first: u64, last: u64, walks: bool) {
        let meets = |start: u64, bytes: u64| start <= last && start + (bytes - 1) >= first;
        for page in 0..self.pages {
            let va = self.va(page);
            self.leaves[page as usize].retain(|leaf| {
                let bytes = G::entry_bytes(leaf.level as i8);
                !meets(va / bytes * bytes, bytes)
            });
        }
        if walks {
            let base = self.va(0);
            self.ways.retain(|way| {
                let start = base + way.first * G::GRANULE_BYTES;
                !meets(start, G::entry_bytes(way.level as i8))
            });
        }
    }

    /// Whether a walker may know the way to the table in a slot.
    fn knows(&self, memory: &Memory<G>, slot: usize) -> bool {
        self.ways.iter().any(|way| {
            let table = arm_walk::output::<G>(way.descriptor, G::GRANULE_SHIFT);
            memory.slot_at(PhysAddr::new(table)) == Some(slot)
        })
    }

    /// Notes what was written since the last event, and what walkers can make of it.
    fn look(&mut self, memory: &Memory<G>) {
        let now = memory.snapshot();
        if now == self.before {
            return;
        }
        let mut written = vec![false; self.unordered.len()];
        {
            let mut before = self.before.entries().peekable();
            for (table, index, new) in now.entries() {
                while before
                    .next_if(|&(t, i, _)| (t, i) < (table, index))
                    .is_some()
                {}
                let same_place = before.next_if(|&(t, i, _)| (t, i) == (table, index));
                if let Some((_, _, old)) = same_place.filter(|&(_, _, old)| old != new) {
                    written[table] = true;
                    self.log.push(Event::Write {
                        table,
                        index,
                        old,
                        new,
                    });
                }
            }
        }
        self.before = now;
        let written_to = written.contains(&true);
        self.rule(!(self.invalidating && written_to), || {
            "written to before the invalidation was complete".into()
        });
        let reachable = memory.reachable();
        for slot in 0..reachable.len() {
            let linked_now = reachable[slot] && !self.reachable[slot];
            self.rule(
                !(linked_now && (self.unordered[slot] || written[slot])),
                || format!("table {slot} can be reached before its entries are ordered"),
            );
            self.unordered[slot] |= written[slot];
        }
        self.reachable = reachable;
        self.walk_all(memory);
    }

    /// Caches all there is, beginning at the root and wherever a walker remembers a table, and
    /// compares it with all there was.
    fn walk_all(&mut self, memory: &Memory<G>) {
        let (level, root) = (self.regime.start_level(), memory.root().as_u64());
        let mut found = vec![];
        let mut ways = vec![];
        for page in 0..self.pages {
            let known = self.ways.iter().filter(|way| {
                let pages = G::entry_bytes(way.level as i8) / G::GRANULE_BYTES;
                way.first == page / pages * pages
            });
            let starts = known.map(|way| {
                let table = arm_walk::output::<G>(way.descriptor, G::GRANULE_SHIFT);
                (
                    way.level + 1,
                    table,
                    way.limits | way.descriptor >> 59 << 59,
                )
            });
            let root = (level, root, 0);
            let mapped = self.walk(memory, page, root, |_, _, _| {}).is_some();
            for start in [root].into_iter().chain(starts) {
                let leaf = self.walk(memory, page, start, |level, descriptor, limits| {
                    let pages = G::entry_bytes(level as i8) / G::GRANULE_BYTES;
                    let first = page / pages * pages;
                    ways.push(Way {
                        level,
                        first,
                        descriptor,
                        limits,
                    });
                });
                self.rule(leaf.is_some() || !mapped, || {
                    format!("page {page} is mapped, and faults on a way that a walker may remember")
                });
                found.extend(leaf.map(|leaf| (page, leaf)));
            }
        }
        for way in ways {
            if !self.ways.contains(&way) {
                self.ways.push(way);
            }
        }
        for (page, leaf) in found {
            if !leaf.contiguous {
                self.cache(page, leaf);
                continue;
            }
            // One entry of a run may stand in for all of it.
            let entries = 1 << self.regime.contiguous[leaf.level as usize];
            let run = entries * G::entry_bytes(leaf.level as i8) / G::GRANULE_BYTES;
            let first = page / run * run;
            for other in first..(first + run).min(self.pages) {
                let distance = other.wrapping_sub(page).wrapping_mul(G::GRANULE_BYTES);
                let pa = leaf.pa.wrapping_add(distance);
                self.cache(other, Translation { pa, ..leaf });
            }
        }
    }

    fn cache(&mut self, page: u64, new: Translation) {
        for old in &self.leaves[page as usize] {
            self.rule(self.agree(old, &new), || {
                format!("page {page}: {new:x?} while a TLB may have {old:x?}")
            });
        }
        let cached = &mut self.leaves[page as usize];
        if !cached.contains(&new) {
            cached.push(new);
        }
    }

    fn walk(
        &self,
        memory: &Memory<G>,
        page: u64,
        start: (i32, u64, u64),
        visit: impl FnMut(i32, u64, u64),
    ) -> Option<Translation> {
        let read = |pa| memory.read(pa);
        self.regime
            .translate_from(start, self.va(page), read, visit)
            .ok()
    }

    /// Whether both may be in a TLB at once.
    fn agree(&self, old: &Translation, new: &Translation) -> bool {
        let tag_only = |attr_indx: u64| attr_indx <= 1;
        // Rights may change, a global translation may become one of an address space, and Normal
        // memory may have its tags checked.
        let (mut a, mut b) = (*old, *new);
        for leaf in [&mut a, &mut b] {
            (leaf.el1_write, leaf.el1_execute) = (false, false);
            if tag_only(leaf.attr_indx) {
                leaf.attr_indx = 0;
            }
        }
        if old.global && !new.global {
            a.global = false;
        }
        if (old.level, old.contiguous) == (new.level, new.contiguous) {
            return a == b;
        }
        // Two sizes only where the CPU can bear it, and with nothing else different.
        let resized = Translation {
            level: new.level,
            contiguous: new.contiguous,
            ..*old
        };
        self.cpu.level == BbmLevel::Level2 && resized == *new
    }

    /// After an operation and its flush. Returns how often mappings had been taken away.
    pub fn settled(&mut self, memory: &Memory<G>) -> usize {
        self.look(memory);
        self.rule(!self.invalidating, || "an invalidation is not over".into());
        self.rule(!self.is_unordered(), || {
            "written to after the last barrier".into()
        });
        let (leaves, ways) = (
            std::mem::replace(&mut self.leaves, vec![vec![]; self.pages as usize]),
            std::mem::take(&mut self.ways),
        );
        self.walk_all(memory);
        for (page, (cached, now)) in leaves.iter().zip(&self.leaves).enumerate() {
            self.rule(cached == now, || {
                format!("page {page}: a TLB may have {cached:x?}, the tables say {now:x?}")
            });
        }
        let stale = ways.iter().find(|way| !self.ways.contains(way));
        self.rule(stale.is_none(), || {
            format!("a walker may still know {stale:x?}")
        });
        self.log.clear();
        std::mem::take(&mut self.breaks)
    }
}
