//! What all tests share: table memory that watches, frames that arrive dirty, and a fresh set of
//! tables in one line.

#![allow(dead_code)] // each test file uses its part

pub mod arm_walk;
pub mod model;
pub mod run;

use std::cell::{OnceCell, RefCell};
use std::collections::HashSet;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use early_mmu::{
    Flags, Flush, Geometry, Granule4K, Granule4KLpa2, Granule64KLpa, Level, MapError, Mapping,
    PageTable, PhysAddr, Prot, ReservedFrames, TableAlloc, TableMemory, TlbMaintenance, VaRange,
    VirtAddr,
};

pub const KIB: u64 = 1 << 10;
pub const MIB: u64 = 1 << 20;
pub const GIB: u64 = 1 << 30;

/// Linux's usual shape, in which most tests run.
pub type G48 = Granule4K<48>;

/// What frames hold before they are used: would be a valid entry at any level.
const DIRT: u64 = 0x5bad_c0de_5bad_c003;

/// Where table memory begins: as high as descriptors of the geometry reach, so that links have all
/// their odd bits in use.
fn tables_pa<G: Geometry>() -> u64 {
    if G::OA_BITS > 48 {
        0b1011 << 48 | 0x8000_0000
    } else {
        0x8000_0000
    }
}

/// Tables that tests can make.
pub trait TestTable {
    fn filled(value: u64) -> Box<Self>;
}

impl<const N: usize> TestTable for [AtomicU64; N] {
    fn filled(value: u64) -> Box<Self> {
        Box::new(std::array::from_fn(|_| AtomicU64::new(value)))
    }
}

/// Four levels of eight entries: 4096 pages in all, blocks of 32 and 256 KiB.
#[derive(Clone, Copy, Debug)]
pub struct Small;

impl Geometry for Small {
    const GRANULE_SHIFT: u32 = 12;
    const INDEX_BITS: u32 = 3;
    const VA_BITS: u32 = 24;
    const OA_BITS: u32 = 48;
    const FIRST_BLOCK_LEVEL: Level = 1;
    type Table = [AtomicU64; 8];

    /// Two, four, two.
    fn run_shift(level: Level) -> u32 {
        match level {
            1 => 1,
            2 => 2,
            3 => 1,
            _ => 0,
        }
    }
}

/// Two levels of four entries: 16 pages in all; contiguous runs of two.
#[derive(Clone, Copy, Debug)]
pub struct Tiny;

impl Geometry for Tiny {
    const GRANULE_SHIFT: u32 = 12;
    const INDEX_BITS: u32 = 2;
    const VA_BITS: u32 = 16;
    const OA_BITS: u32 = 48;
    const FIRST_BLOCK_LEVEL: Level = 2;
    type Table = [AtomicU64; 4];

    fn run_shift(level: Level) -> u32 {
        u32::from(level >= 2)
    }
}

/// Five levels of four entries, from −1 on, with the descriptors of `FEAT_LPA2`: 1024 pages in all.
#[derive(Clone, Copy, Debug)]
pub struct SmallLpa2;

impl Geometry for SmallLpa2 {
    const GRANULE_SHIFT: u32 = 12;
    const INDEX_BITS: u32 = 2;
    const VA_BITS: u32 = 22;
    const OA_BITS: u32 = 52;
    const FIRST_BLOCK_LEVEL: Level = 0;
    const OUTPUT_MASK: u64 = Granule4KLpa2::<52>::OUTPUT_MASK;
    const LPA2: bool = true;
    type Table = [AtomicU64; 4];

    fn run_shift(level: Level) -> u32 {
        u32::from(level >= 1)
    }

    fn encode_output(pa: PhysAddr) -> u64 {
        Granule4KLpa2::<52>::encode_output(pa)
    }

    fn decode_output(bits: u64) -> PhysAddr {
        Granule4KLpa2::<52>::decode_output(bits)
    }
}

/// Three levels of eight entries with the descriptors of the 64 KiB granule and `FEAT_LPA`.
#[derive(Clone, Copy, Debug)]
pub struct SmallLpa64;

impl Geometry for SmallLpa64 {
    const GRANULE_SHIFT: u32 = 16;
    const INDEX_BITS: u32 = 3;
    const VA_BITS: u32 = 25;
    const OA_BITS: u32 = 52;
    const FIRST_BLOCK_LEVEL: Level = 1;
    const OUTPUT_MASK: u64 = Granule64KLpa::<52>::OUTPUT_MASK;
    type Table = [AtomicU64; 8];

    fn run_shift(level: Level) -> u32 {
        if level >= 2 { 2 } else { 0 }
    }

    fn encode_output(pa: PhysAddr) -> u64 {
        Granule64KLpa::<52>::encode_output(pa)
    }

    fn decode_output(bits: u64) -> PhysAddr {
        Granule64KLpa::<52>::decode_output(bits)
    }
}

pub trait TestGeometry: Geometry<Table: TestTable> {}
impl<G: Geometry<Table: TestTable>> TestGeometry for G {}

/// Table memory without unsafe code: a slot for each table, filled when the table is published.
///
/// It holds the engine to its order: a frame is published wholly written, and is reachable from the
/// root only after `before_link`.
pub struct Memory<G: TestGeometry> {
    slots: Vec<OnceCell<Box<G::Table>>>,
    /// Published, but not ordered before a link yet.
    unordered: RefCell<Vec<u64>>,
    pub links: RefCell<usize>,
    /// Given back; never used again, so that a late use shows.
    freed: RefCell<HashSet<u64>>,
}

impl<G: TestGeometry> Memory<G> {
    pub fn new(slots: usize) -> Self {
        let memory = Self {
            slots: (0..slots).map(|_| OnceCell::new()).collect(),
            unordered: RefCell::default(),
            links: RefCell::default(),
            freed: RefCell::default(),
        };
        assert!(memory.slots[0].set(G::Table::filled(0)).is_ok());
        memory
    }

    pub fn root(&self) -> PhysAddr {
        PhysAddr::new(tables_pa::<G>())
    }

    fn slot(&self, pa: PhysAddr) -> Option<&OnceCell<Box<G::Table>>> {
        let offset = pa.checked_sub(PhysAddr::new(tables_pa::<G>()))?;
        if offset % G::GRANULE_BYTES != 0 {
            return None;
        }
        self.slots.get((offset / G::GRANULE_BYTES) as usize)
    }

    /// One descriptor by its physical address, as a table walker reads it.
    pub fn read(&self, pa: u64) -> Option<u64> {
        let table = self
            .slot(PhysAddr::new(pa & !(G::GRANULE_BYTES - 1)))?
            .get()?;
        let entries: &[AtomicU64] = (**table).as_ref();
        Some(
            entries
                .get((pa & (G::GRANULE_BYTES - 1)) as usize / 8)?
                .load(Relaxed),
        )
    }

    /// Damages, or prepares, one entry.
    pub fn poke(&self, table: PhysAddr, index: usize, value: u64) {
        let table = self
            .slot(table)
            .and_then(OnceCell::get)
            .expect("no table there");
        (**table).as_ref()[index].store(value, Relaxed);
    }

    pub fn peek(&self, table: PhysAddr, index: usize) -> u64 {
        self.read(table.as_u64() + 8 * index as u64)
            .expect("no table there")
    }

    /// All tables, bit for bit.
    pub fn snapshot(&self) -> Vec<Option<Vec<u64>>> {
        let words = |table: &G::Table| table.as_ref().iter().map(|e| e.load(Relaxed)).collect();
        self.slots
            .iter()
            .map(|slot| slot.get().map(|table| words(table)))
            .collect()
    }

    /// Slots from `first` on, for frames.
    pub fn free(&self, first: usize) -> usize {
        self.slots.len() - first
    }

    pub fn table_count(&self) -> usize {
        self.slots
            .iter()
            .filter(|slot| slot.get().is_some())
            .count()
            - self.freed.borrow().len()
    }

    /// Whether the table in a slot was given back.
    pub fn is_freed(&self, slot: usize) -> bool {
        let pa = tables_pa::<G>() + slot as u64 * G::GRANULE_BYTES;
        self.freed.borrow().contains(&pa)
    }

    /// Takes frames back, and fills them with what must not be read any more.
    pub fn take_back(&self, freed: impl Iterator<Item = PhysAddr>) -> usize {
        let freed: Vec<_> = freed.collect();
        let reachable = self.reachable();
        for pa in &freed {
            assert!(!reachable.contains(&pa.as_u64()), "{pa} is still linked");
            assert!(
                self.freed.borrow_mut().insert(pa.as_u64()),
                "{pa} freed twice"
            );
            let table = self.slot(*pa).and_then(OnceCell::get).expect("a table");
            for entry in (**table).as_ref() {
                entry.store(DIRT, Relaxed);
            }
        }
        freed.len()
    }

    /// Tables that a walker can reach from the root.
    fn reachable(&self) -> HashSet<u64> {
        let mut found = HashSet::new();
        self.each_table(|_, pa, _| {
            found.insert(pa);
        });
        found
    }

    /// Calls `visit` with the level, address and content of each table that can be reached.
    fn each_table(&self, mut visit: impl FnMut(i32, u64, &[AtomicU64])) {
        let mut seen = HashSet::from([tables_pa::<G>()]);
        let mut level_tables = vec![tables_pa::<G>()];
        for level in i32::from(G::START_LEVEL)..=3 {
            let mut next = vec![];
            for pa in level_tables {
                let Some(table) = self.slot(PhysAddr::new(pa)).and_then(OnceCell::get) else {
                    continue;
                };
                visit(level, pa, (**table).as_ref());
                for entry in (**table).as_ref().iter().filter(|_| level < 3) {
                    let entry = entry.load(Relaxed);
                    let table = arm_walk::output::<G>(entry, G::GRANULE_SHIFT);
                    if entry & 3 == 3 && seen.insert(table) {
                        next.push(table);
                    }
                }
            }
            level_tables = next;
        }
    }

    /// No run has the Contiguous bit in some entries only, or entries that differ in more than their
    /// output addresses, and those ascend evenly from an aligned one.
    fn check_runs(&self) {
        self.each_table(|level, pa, entries| {
            let size = G::GRANULE_SHIFT + G::INDEX_BITS * (3 - level) as u32;
            let shift = G::run_shift(level as Level);
            for (index, run) in entries.chunks(1 << shift).enumerate() {
                let run: Vec<u64> = run.iter().map(|entry| entry.load(Relaxed)).collect();
                let is_leaf = |entry: u64| entry & 3 == if level == 3 { 3 } else { 1 };
                let hinted = |entry: &&u64| is_leaf(**entry) && **entry >> 52 & 1 == 1;
                let count = run.iter().filter(hinted).count();
                if count == 0 {
                    continue;
                }
                let what = format!("run {index} of level {level} table {pa:#x}: {run:x?}");
                assert_eq!(count, run.len(), "mixed {what}");
                let base = arm_walk::output::<G>(run[0], size);
                assert_eq!(base % (1 << (size + shift)), 0, "misaligned {what}");
                for (entry, step) in run.iter().zip(0..) {
                    assert_eq!(
                        arm_walk::output::<G>(*entry, size),
                        base + (step << size),
                        "{what}"
                    );
                    let attributes = |entry: u64| entry & !G::OUTPUT_MASK;
                    assert_eq!(attributes(*entry), attributes(run[0]), "{what}");
                }
            }
        });
    }

    /// To be true after every operation.
    pub fn check(&self) {
        assert_eq!(*self.unordered.borrow(), [], "linked without before_link");
        self.check_runs();
        let reachable = self.reachable();
        for (index, slot) in self.slots.iter().enumerate() {
            let pa = tables_pa::<G>() + index as u64 * G::GRANULE_BYTES;
            assert_eq!(
                slot.get().is_some() && !self.freed.borrow().contains(&pa),
                reachable.contains(&pa),
                "table {pa:#x} lost"
            );
        }
    }
}

impl<G: TestGeometry> TableMemory<G> for &Memory<G> {
    type Frame = Box<G::Table>;

    fn table(&self, pa: PhysAddr) -> Option<&G::Table> {
        self.slot(pa)?.get().map(|table| &**table)
    }

    fn publish(&self, pa: PhysAddr, mut frame: Box<G::Table>) {
        let table: &mut G::Table = &mut frame;
        for entry in table.as_mut() {
            assert_ne!(*entry.get_mut(), DIRT, "entry of {pa} not written");
        }
        self.unordered.borrow_mut().push(pa.as_u64());
        assert!(
            self.slot(pa)
                .expect("frame from elsewhere")
                .set(frame)
                .is_ok(),
            "{pa} used twice"
        );
    }

    fn before_link(&self) {
        let reachable = self.reachable();
        for pa in self.unordered.borrow_mut().drain(..) {
            assert!(
                !reachable.contains(&pa),
                "{pa:#x} was linked before its entries were ordered"
            );
        }
        *self.links.borrow_mut() += 1;
    }
}

/// Frames for tables, full of dirt.
pub struct Pool<G: TestGeometry> {
    frames: Vec<(PhysAddr, Box<G::Table>)>,
    /// How often a call asked for frames.
    pub reservations: usize,
}

impl<G: TestGeometry> Pool<G> {
    /// Frames for the slots from `first` on.
    pub fn new(first: usize, count: usize) -> Self {
        let pa = |index: usize| {
            PhysAddr::new(tables_pa::<G>() + (first + index) as u64 * G::GRANULE_BYTES)
        };
        let frames = (0..count)
            .rev()
            .map(|index| (pa(index), G::Table::filled(DIRT)))
            .collect();
        Self {
            frames,
            reservations: 0,
        }
    }

    pub fn len(&self) -> usize {
        self.frames.len()
    }
}

impl<G: TestGeometry> TableAlloc for Pool<G> {
    type Frame = Box<G::Table>;
    type Reserved<'a>
        = Taken<'a, G>
    where
        Self: 'a;

    fn reserve(&mut self, needed: usize) -> Result<Taken<'_, G>, MapError> {
        assert_ne!(needed, 0);
        self.reservations += 1;
        let available = self.frames.len();
        if needed > available {
            return Err(MapError::OutOfFrames { needed, available });
        }
        Ok(Taken {
            pool: self,
            left: needed,
        })
    }
}

/// Frames that were reserved; all of them must be taken, and no more.
pub struct Taken<'a, G: TestGeometry> {
    pool: &'a mut Pool<G>,
    left: usize,
}

impl<G: TestGeometry> ReservedFrames for Taken<'_, G> {
    type Frame = Box<G::Table>;

    fn take(&mut self) -> (PhysAddr, Box<G::Table>) {
        self.left = self
            .left
            .checked_sub(1)
            .expect("more frames taken than reserved");
        self.pool.frames.pop().expect("reserved")
    }
}

impl<G: TestGeometry> Drop for Taken<'_, G> {
    fn drop(&mut self) {
        if !std::thread::panicking() {
            assert_eq!(self.left, 0, "fewer frames taken than reserved");
        }
    }
}

/// Executes nothing.
#[derive(Debug)]
pub struct NoTlb;

impl TlbMaintenance for NoTlb {
    fn store_barrier(&self) {}
    fn invalidate_leaf(&self, _: u64) {}
    fn invalidate_walk(&self, _: u64) {}
    fn invalidate_all(&self) {}
    fn completion_barrier(&self) {}
    fn context_synchronization(&self) {}
}

pub type Tables<'m, G = G48> = PageTable<G, &'m Memory<G>>;

/// Empty tables for the upper range in `memory`.
pub fn upper<G: TestGeometry>(memory: &Memory<G>) -> Tables<'_, G> {
    PageTable::new(memory.root(), VaRange::Upper, memory)
}

/// The lowest address of the upper range of [`G48`].
pub const UPPER: u64 = 0xffff_0000_0000_0000;

/// Frames for the usual tables, in the slots from `first` on.
pub fn frames(first: usize, count: usize) -> Pool<G48> {
    Pool::new(first, count)
}

pub fn va(address: u64) -> VirtAddr {
    VirtAddr::new(address)
}

pub fn pa(address: u64) -> PhysAddr {
    PhysAddr::new(address)
}

pub fn mapping(va: u64, pa: u64, size_bytes: u64, prot: Prot) -> Mapping {
    Mapping {
        va: VirtAddr::new(va),
        pa: PhysAddr::new(pa),
        size_bytes,
        prot,
    }
}

/// Maps with as many frames as it takes.
#[track_caller]
pub fn map(tables: &mut Tables<'_>, pool: &mut Pool<G48>, mapping: Mapping, flags: Flags) -> Flush {
    let flush = tables.create_mapping(mapping, flags, pool).expect("map");
    tables.memory().check();
    flush
}

/// Makes the call, expects this refusal, and that not one bit changed.
#[track_caller]
pub fn refused<G: TestGeometry>(
    tables: &mut Tables<'_, G>,
    call: impl FnOnce(&mut Tables<'_, G>) -> Result<Flush, MapError>,
) -> MapError {
    let before = tables.memory().snapshot();
    let error = call(tables).expect_err("should be refused");
    assert!(
        before == tables.memory().snapshot(),
        "refused with {error}, but tables changed"
    );
    error
}
