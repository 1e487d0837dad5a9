//! Table memory without unsafe code: a slot for each table, filled when the table is published.
//!
//! It holds the engine to its order: a frame is published wholly written, and is reachable from the
//! root only after `before_link`. With [`Memory::watch`], walkers look on; see [`Walkers`].

use std::cell::{Cell, OnceCell, RefCell};
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use early_mmu::{Level, PhysAddr, TableMemory, TlbMaintenance, VaRange};

use super::arm_walk;
use super::geometries::{TestGeometry, TestTable};
use super::walkers::{Cpu, Event, Walkers};

/// What frames hold before they are used: would be a valid entry at any level.
pub const DIRT: u64 = 0x5bad_c0de_5bad_c003;

/// Where table memory begins: as high as descriptors of the geometry reach, so that links have all
/// their odd bits in use.
fn tables_pa<G: TestGeometry>() -> u64 {
    if G::OA_BITS > 48 {
        0b1011 << 48 | 0x8000_0000
    } else {
        0x8000_0000
    }
}

/// The physical address of a slot.
pub fn slot_pa<G: TestGeometry>(slot: usize) -> PhysAddr {
    PhysAddr::new(tables_pa::<G>() + slot as u64 * G::GRANULE_BYTES)
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    Unused,
    Table,
    /// Given back; not used again, so that a late use shows.
    Freed,
}

struct Slot<G: TestGeometry> {
    table: OnceCell<Box<G::Table>>,
    state: Cell<State>,
}

impl<G: TestGeometry> Slot<G> {
    fn entries(&self) -> Option<&[AtomicU64]> {
        let table = self.table.get().filter(|_| self.is_table())?;
        Some((**table).as_ref())
    }

    fn is_table(&self) -> bool {
        self.state.get() == State::Table
    }
}

/// All tables, bit for bit.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Snapshot {
    tables: Vec<usize>,
    words: Vec<u64>,
}

impl Snapshot {
    /// Slot, index and value of each entry.
    pub fn entries(&self) -> impl Iterator<Item = (usize, usize, u64)> {
        let length = self.words.len().checked_div(self.tables.len()).unwrap_or(1);
        let words = self.words.iter().enumerate();
        words.map(move |(at, &word)| (self.tables[at / length], at % length, word))
    }
}

pub struct Memory<G: TestGeometry> {
    slots: Vec<Slot<G>>,
    /// Published, but not ordered before a link yet.
    unordered: RefCell<Vec<usize>>,
    pub links: Cell<usize>,
    /// Entries may lead anywhere, also to frames that are not tables yet.
    pub hostile: Cell<bool>,
    walkers: RefCell<Option<Walkers<G>>>,
}

impl<G: TestGeometry> Memory<G> {
    /// A root, and room for `slots - 1` more tables.
    pub fn new(slots: usize) -> Self {
        let unused = || Slot {
            table: OnceCell::new(),
            state: Cell::new(State::Unused),
        };
        let memory = Self {
            slots: (0..slots).map(|_| unused()).collect(),
            unordered: RefCell::default(),
            links: Cell::default(),
            hostile: Cell::default(),
            walkers: RefCell::default(),
        };
        memory.fill(0, |_| 0);
        memory
    }

    pub fn root(&self) -> PhysAddr {
        slot_pa::<G>(0)
    }

    /// Which slot a physical address is.
    pub fn slot_at(&self, pa: PhysAddr) -> Option<usize> {
        let offset = pa.checked_sub(self.root())?;
        let slot = (offset / G::GRANULE_BYTES) as usize;
        (offset % G::GRANULE_BYTES == 0 && slot < self.slots.len()).then_some(slot)
    }

    fn entries_at(&self, pa: PhysAddr) -> Option<&[AtomicU64]> {
        self.slots[self.slot_at(pa)?].entries()
    }

    /// One descriptor by its physical address, as a table walker reads it.
    pub fn read(&self, pa: u64) -> Option<u64> {
        let inside = pa & (G::GRANULE_BYTES - 1);
        let entries = self.entries_at(PhysAddr::new(pa - inside))?;
        Some(entries.get(inside as usize / 8)?.load(Relaxed))
    }

    /// Damages, or prepares, one entry.
    pub fn poke(&self, table: PhysAddr, index: usize, value: u64) {
        self.entries_at(table).expect("no table there")[index].store(value, Relaxed);
    }

    pub fn peek(&self, table: PhysAddr, index: usize) -> u64 {
        self.read(table.as_u64() + 8 * index as u64)
            .expect("no table there")
    }

    /// Makes a slot a table with these entries, whatever it was.
    pub fn fill(&self, slot: usize, entry: impl Fn(usize) -> u64) {
        let slot = &self.slots[slot];
        let table: &G::Table = slot.table.get_or_init(|| G::Table::filled(0));
        for (index, word) in table.as_ref().iter().enumerate() {
            word.store(entry(index), Relaxed);
        }
        slot.state.set(State::Table);
    }

    /// Makes a slot no table.
    pub fn forget(&self, slot: usize) {
        self.slots[slot].state.set(State::Unused);
    }

    pub fn snapshot(&self) -> Snapshot {
        let tables: Vec<usize> = (0..self.slots.len())
            .filter(|&slot| self.slots[slot].is_table())
            .collect();
        let words = tables
            .iter()
            .filter_map(|&slot| self.slots[slot].entries())
            .flatten()
            .map(|entry| entry.load(Relaxed))
            .collect();
        Snapshot { tables, words }
    }

    /// Slots from `first` on, for frames.
    pub fn free(&self, first: usize) -> usize {
        self.slots.len() - first
    }

    pub fn table_count(&self) -> usize {
        self.slots.iter().filter(|slot| slot.is_table()).count()
    }

    /// Takes frames back, and fills them with what must not be read any more.
    pub fn take_back(&self, freed: impl Iterator<Item = PhysAddr>) -> usize {
        let freed: Vec<_> = freed.collect();
        let reachable = self.reachable();
        for pa in &freed {
            let slot = self.slot_at(*pa).expect("a frame of this memory");
            assert!(!reachable[slot], "{pa} is still linked");
            assert!(self.slots[slot].is_table(), "{pa} freed twice");
            self.tell(Event::Free(slot));
            self.fill(slot, |_| DIRT);
            self.slots[slot].state.set(State::Freed);
        }
        freed.len()
    }

    /// Which slots a walker can reach from the root.
    pub fn reachable(&self) -> Vec<bool> {
        let mut found = vec![false; self.slots.len()];
        self.each_table(|_, slot, _| found[slot] = true);
        found
    }

    /// Calls `visit` with the level, slot and content of each table that can be reached.
    fn each_table(&self, mut visit: impl FnMut(i32, usize, &[AtomicU64])) {
        let mut seen = vec![false; self.slots.len()];
        seen[0] = true;
        let mut level_tables = vec![0];
        for level in i32::from(G::START_LEVEL)..=3 {
            let mut next = vec![];
            for slot in level_tables {
                let Some(entries) = self.slots[slot].entries() else {
                    continue;
                };
                visit(level, slot, entries);
                for entry in entries.iter().filter(|_| level < 3) {
                    let entry = entry.load(Relaxed);
                    if entry & 3 != 3 {
                        continue;
                    }
                    let table = arm_walk::output::<G>(entry, G::GRANULE_SHIFT);
                    if let Some(slot) = self.slot_at(PhysAddr::new(table))
                        && !std::mem::replace(&mut seen[slot], true)
                    {
                        next.push(slot);
                    }
                }
            }
            level_tables = next;
        }
    }

    /// No run has the Contiguous bit in some entries only, or entries that differ in more than their
    /// output addresses, and those ascend evenly from an aligned one.
    fn check_runs(&self) {
        self.each_table(|level, slot, entries| {
            let size = G::GRANULE_SHIFT + G::INDEX_BITS * (3 - level) as u32;
            let shift = G::run_shift(level as Level);
            let is_leaf = |entry: u64| entry & 3 == if level == 3 { 3 } else { 1 };
            let hinted = |entry: &AtomicU64| {
                let entry = entry.load(Relaxed);
                is_leaf(entry) && entry >> 52 & 1 == 1
            };
            for (index, run) in entries.chunks(1 << shift).enumerate() {
                let count = run.iter().filter(|entry| hinted(entry)).count();
                if count == 0 {
                    continue;
                }
                let run: Vec<u64> = run.iter().map(|entry| entry.load(Relaxed)).collect();
                let what = || format!("run {index} of level {level} table {slot}: {run:x?}");
                assert_eq!(count, run.len(), "mixed {}", what());
                let base = arm_walk::output::<G>(run[0], size);
                assert_eq!(base % (1 << (size + shift)), 0, "misaligned {}", what());
                for (entry, step) in run.iter().zip(0..) {
                    let output = arm_walk::output::<G>(*entry, size);
                    assert_eq!(output, base + (step << size), "{}", what());
                    let attributes = |entry: u64| entry & !G::OUTPUT_MASK;
                    assert_eq!(attributes(*entry), attributes(run[0]), "{}", what());
                }
            }
        });
    }

    /// To be true after every operation.
    pub fn check(&self) {
        assert!(self.unordered.borrow().is_empty(), "published for nothing");
        self.check_runs();
        let reachable = self.reachable();
        for (slot, reachable) in reachable.into_iter().enumerate() {
            assert_eq!(self.slots[slot].is_table(), reachable, "table {slot} lost");
        }
    }

    /// From here on walkers look on: the tables are live, and the first `pages` are looked at.
    pub fn watch(&self, range: VaRange, pages: u64, cpu: Cpu) {
        *self.walkers.borrow_mut() = Some(Walkers::new(self, range, pages, cpu));
    }

    pub fn is_watched(&self) -> bool {
        self.walkers.borrow().is_some()
    }

    /// Ends an operation whose flush has been executed: nothing may be left that the tables do not
    /// say. Returns how often mappings were taken away for a moment.
    pub fn settled(&self) -> usize {
        let mut walkers = self.walkers.borrow_mut();
        walkers.as_mut().expect("watched").settled(self)
    }

    /// Tells the walkers, if they look on.
    pub fn tell(&self, event: Event) {
        if let Some(walkers) = self.walkers.borrow_mut().as_mut() {
            walkers.tell(self, event);
        }
    }
}

impl<G: TestGeometry> TableMemory<G> for &Memory<G> {
    type Frame = Box<G::Table>;

    fn table(&self, pa: PhysAddr) -> Option<&G::Table> {
        let slot = &self.slots[self.slot_at(pa)?];
        slot.table
            .get()
            .filter(|_| slot.is_table())
            .map(|table| &**table)
    }

    fn publish(&self, pa: PhysAddr, mut frame: Box<G::Table>) {
        let slot = self.slot_at(pa).expect("frame from elsewhere");
        assert_eq!(
            self.slots[slot].state.get(),
            State::Unused,
            "{pa} used twice"
        );
        let table: &mut G::Table = &mut frame;
        let entries: Vec<u64> = table.as_mut().iter_mut().map(|e| *e.get_mut()).collect();
        assert!(!entries.contains(&DIRT), "entry of {pa} not written");
        self.fill(slot, |index| entries[index]);
        self.unordered.borrow_mut().push(slot);
        self.tell(Event::Publish(slot));
    }

    fn before_link(&self) {
        let reachable = self.reachable();
        for slot in self.unordered.borrow_mut().drain(..) {
            assert!(
                !reachable[slot] || self.hostile.get(),
                "table {slot} was linked before its entries were ordered"
            );
        }
        self.links.set(self.links.get() + 1);
        self.tell(Event::BeforeLink);
    }
}

/// Executes nothing, but has the walkers look on where they are to.
impl<G: TestGeometry> TlbMaintenance for Memory<G> {
    fn store_barrier(&self) {
        self.tell(Event::StoreBarrier);
    }
    fn invalidate_leaf(&self, operand: u64) {
        self.tell(Event::leaf(operand));
    }
    fn invalidate_walk(&self, operand: u64) {
        self.tell(Event::walk(operand));
    }
    fn invalidate_all(&self) {
        self.tell(Event::InvalidateAll);
    }
    fn has_ranges(&self) -> bool {
        let walkers = self.walkers.borrow();
        walkers.as_ref().is_some_and(|walkers| walkers.cpu.ranges)
    }
    fn invalidate_leaf_range(&self, operand: u64) {
        self.tell(Event::leaf_range::<G>(operand));
    }
    fn invalidate_walk_range(&self, operand: u64) {
        self.tell(Event::walk_range::<G>(operand));
    }
    fn completion_barrier(&self) {
        self.tell(Event::CompletionBarrier);
    }
    fn context_synchronization(&self) {
        self.tell(Event::ContextSynchronization);
    }
}
