//! Taking mappings away, and tables that have become empty or superfluous.
//!
//! A walker may use a table for as long as a TLB remembers the way to it. So a table that was
//! unlinked is kept back in [`Retired`] until the flush. There is no memory to note it in but the
//! table itself: its first entry holds the address of the next one, with bit 0 clear, which is
//! nothing to a walker.

use core::sync::atomic::{AtomicU64, Ordering::Relaxed};

use crate::descriptor::{self as bits, Descriptor, Kind};
use crate::edit::{Edit, Step, Survey, are_whole_runs, bits_of, for_each};
use crate::engine::{Place, load};
use crate::flush::{Flush, TlbMaintenance};
use crate::geometry::{Geometry, LAST_LEVEL, Level};
use crate::live::BreakBeforeMake;
use crate::memory::TableMemory;
use crate::span::{Span, parts, run_bytes, wholly_covered};
use crate::{Flags, MapError, PageTable, PhysAddr};

/// Tables that were unlinked, held back until no TLB knows the way to them.
///
/// It borrows the tables: nothing else can change before it is decided what becomes of these.
#[must_use = "until the flush is executed, CPUs may use what was there before, and the tables are lost"]
#[derive(Debug)]
pub struct Retired<'t, G: Geometry, M: TableMemory<G>> {
    tables: &'t PageTable<G, M>,
    flush: Flush,
    first: Option<PhysAddr>,
    count: usize,
}

/// Frames of tables that no walker can reach any more, by their physical addresses.
///
/// The frames are the caller's; what is not taken from the iterator is lost. Their content is
/// anything.
#[must_use = "the frames are lost unless they are taken"]
#[derive(Debug)]
pub struct FreedTables<'t, G: Geometry, M: TableMemory<G>> {
    tables: &'t PageTable<G, M>,
    next: Option<PhysAddr>,
    count: usize,
}

impl<'t, G: Geometry, M: TableMemory<G>> Retired<'t, G, M> {
    /// What is left to do before the frames are free.
    pub const fn flush(&self) -> &Flush {
        &self.flush
    }

    /// Number of tables held back.
    #[must_use]
    pub const fn table_count(&self) -> usize {
        self.count
    }

    /// Executes the flush, and gives the frames up.
    pub fn execute(self, tlb: &impl TlbMaintenance) -> FreedTables<'t, G, M> {
        self.flush.execute(tlb);
        self.freed()
    }

    /// Gives the frames up without a flush; see [`Flush::ignore_because`].
    pub fn ignore_because(self, reason: &'static str) -> FreedTables<'t, G, M> {
        self.flush.ignore_because(reason);
        self.freed()
    }

    fn freed(&self) -> FreedTables<'t, G, M> {
        FreedTables {
            tables: self.tables,
            next: self.first,
            count: self.count,
        }
    }
}

impl<G: Geometry, M: TableMemory<G>> Iterator for FreedTables<'_, G, M> {
    type Item = PhysAddr;

    fn next(&mut self) -> Option<PhysAddr> {
        // The count ends it also if somebody wrote into a frame too early.
        self.count = self.count.checked_sub(1)?;
        let this = self.next?;
        let link = load(self.tables.memory.table(this)?.as_ref(), 0);
        self.next = (link.bits() & HAS_NEXT != 0).then(|| link.output::<G>());
        Some(this)
    }

    fn size_hint(&self) -> (usize, Option<usize>) {
        (0, Some(self.count))
    }
}

/// In the first entry of a retired table: another one follows. Bit 0 is clear.
const HAS_NEXT: u64 = 0b10;

/// Tables unlinked so far, and what TLBs may hold of the ways to them.
struct Chain {
    first: Option<PhysAddr>,
    count: usize,
    flush: Flush,
}

impl Chain {
    const fn new(flush: Flush) -> Self {
        Self {
            first: None,
            count: 0,
            flush,
        }
    }

    /// Adds a table whose link was just removed.
    fn push<G: Geometry>(&mut self, pa: PhysAddr, entries: &[AtomicU64]) {
        let link = self
            .first
            .map_or(0, |next| G::encode_output(next) | HAS_NEXT);
        if let Some(entry) = entries.first() {
            entry.store(link, Relaxed);
        }
        self.first = Some(pa);
        self.count += 1;
    }

    fn retired<G: Geometry, M: TableMemory<G>>(
        self,
        tables: &PageTable<G, M>,
    ) -> Retired<'_, G, M> {
        Retired {
            tables,
            flush: self.flush,
            first: self.first,
            count: self.count,
        }
    }
}

impl<G: Geometry, M: TableMemory<G>> PageTable<G, M> {
    /// Unmaps a range. Holes in it are fine; tables that are empty afterwards are retired, but for
    /// the root.
    ///
    /// # Errors
    ///
    /// `WouldSplitBlock` and `WouldSplitRun` where a part would stay mapped (see
    /// [`split`](Self::split)); the errors of a bad range, and of damaged tables.
    pub fn unmap(
        &mut self,
        va: crate::VirtAddr,
        size_bytes: u64,
    ) -> Result<Retired<'_, G, M>, MapError> {
        let span = self.check_range(va, size_bytes)?;
        let plan = self.plan(span, &Unmap, |_, _| Ok(()))?;
        let mut chain = Chain::new(plan.flush::<G>(self.base));
        self.clear(self.root, G::START_LEVEL, span, &mut Some(&mut chain));
        Ok(chain.retired(self))
    }

    /// Unmaps a range and leaves every table linked, so that the range can be mapped again by
    /// [`create_mapping_noalloc`](Self::create_mapping_noalloc).
    ///
    /// # Errors
    ///
    /// As [`unmap`](Self::unmap).
    pub fn unmap_keeping_tables(
        &mut self,
        va: crate::VirtAddr,
        size_bytes: u64,
    ) -> Result<Flush, MapError> {
        let span = self.check_range(va, size_bytes)?;
        let plan = self.plan(span, &Unmap, |_, _| Ok(()))?;
        self.clear(self.root, G::START_LEVEL, span, &mut None);
        Ok(plan.flush::<G>(self.base))
    }

    /// Clears all leaves in `span`, which the plan found whole. Unlinks tables that are empty then, if
    /// there is a chain for them. Whether the table at `pa` is empty afterwards.
    fn clear(
        &self,
        pa: PhysAddr,
        level: Level,
        span: Span,
        chain: &mut Option<&mut Chain>,
    ) -> bool {
        let Some(table) = self.memory.table(pa) else {
            return false;
        };
        let entries = table.as_ref();
        if level == LAST_LEVEL {
            let covered = entries.get(wholly_covered::<G>(span, level)).unwrap_or(&[]);
            for_each(covered, |entry| {
                entry.store(Descriptor::INVALID.bits(), Relaxed);
            });
            if covered.len() == entries.len() {
                return true;
            }
        } else {
            for (index, part, _) in parts::<G>(span, level) {
                let old = load(entries, index);
                let clear = match old.kind::<G>(level) {
                    Kind::Leaf => true,
                    Kind::Table => {
                        let next = old.output::<G>();
                        let empty = self.clear(next, level + 1, part, chain);
                        empty && chain.is_some()
                    }
                    Kind::Invalid | Kind::Reserved => false,
                };
                if !clear {
                    continue;
                }
                if let Some(entry) = entries.get(index) {
                    entry.store(Descriptor::INVALID.bits(), Relaxed);
                }
                if let (Kind::Table, Some(chain)) = (old.kind::<G>(level), chain.as_mut()) {
                    let next = old.output::<G>();
                    if let Some(table) = self.memory.table(next) {
                        chain.push::<G>(next, table.as_ref());
                    }
                    let stale = self.stale_walk(part, G::entry_bytes(level));
                    chain.flush = chain.flush.merge(stale);
                }
            }
        }
        bits_of(entries).1 & bits::VALID == 0
    }

    /// TLBs may hold the way to a table that was at `level` for `part`.
    fn stale_walk(&self, part: Span, stride_bytes: u64) -> Flush {
        let stale = crate::Stale::new::<G>(self.base, part, stride_bytes, false);
        Flush::new(false, Some(stale))
    }

    /// Makes the leaves of a range as large as they can be: tables whose entries are one block give
    /// way to it, aligned groups of leaves become contiguous runs. Only what lies wholly within the
    /// range changes; no translation does. `NO_BLOCK` and `NO_CONT` leave either out.
    ///
    /// What does not fit together stays as it is, as do damaged tables.
    ///
    /// # Errors
    ///
    /// Those of a bad range.
    pub fn merge<T: TlbMaintenance>(
        &mut self,
        va: crate::VirtAddr,
        size_bytes: u64,
        flags: Flags,
        live: BreakBeforeMake<'_, T>,
    ) -> Result<Retired<'_, G, M>, MapError> {
        let span = self.check_range(va, size_bytes)?;
        let mut chain = Chain::new(Flush::NOTHING);
        self.merge_below(self.root, G::START_LEVEL, span, flags, live, &mut chain);
        Ok(chain.retired(self))
    }

    fn merge_below<T: TlbMaintenance>(
        &self,
        pa: PhysAddr,
        level: Level,
        span: Span,
        flags: Flags,
        live: BreakBeforeMake<'_, T>,
        chain: &mut Chain,
    ) {
        let Some(table) = self.memory.table(pa) else {
            return;
        };
        let entries = table.as_ref();
        let bytes = G::entry_bytes(level);
        for (index, part, whole) in parts::<G>(span, level) {
            let old = load(entries, index);
            if level == LAST_LEVEL || old.kind::<G>(level) != Kind::Table {
                continue;
            }
            let next = old.output::<G>();
            let may_be_block = whole && level >= G::FIRST_BLOCK_LEVEL;
            let may_be_block = may_be_block && !flags.contains(Flags::NO_BLOCK);
            let mut block = may_be_block.then(|| self.as_block(level, old)).flatten();
            if block.is_none() {
                self.merge_below(next, level + 1, part, flags, live, chain);
                block = may_be_block.then(|| self.as_block(level, old)).flatten();
            }
            if let (Some(block), Some(table)) = (block, self.memory.table(next)) {
                let stride = G::entry_bytes(level + 1);
                let stale = crate::Stale::new::<G>(self.base, part, stride, false);
                let entry = entries.get(index..index + 1).unwrap_or(&[]);
                live.replace(entry, stale, &mut chain.flush, |_| block);
                // The table still translates as it should: nobody may come by any more before it is
                // written to.
                live.settle(&mut chain.flush);
                chain.push::<G>(next, table.as_ref());
            }
        }
        if G::run_shift(level) == 0 || flags.contains(Flags::NO_CONT) {
            return;
        }
        let run_bytes = run_bytes::<G>(level);
        let first = span.ia.next_multiple_of(run_bytes);
        for run in (first..span.end).step_by(run_bytes as usize) {
            let index = G::index(run, level);
            let Some(entries) = entries.get(index..index + (1 << G::run_shift(level))) else {
                continue;
            };
            if span.end - run < run_bytes || !is_one::<G>(entries, level) {
                continue;
            }
            if entries
                .iter()
                .all(|entry| entry.load(Relaxed) & bits::CONTIGUOUS != 0)
            {
                continue;
            }
            let stale = self.stale(run, run_bytes, bytes);
            live.replace(entries, stale, &mut chain.flush, |old| {
                Descriptor::from_bits(old.bits() | bits::CONTIGUOUS)
            });
        }
    }

    /// The block that translates as the table behind `link`, an entry at `level`, does.
    fn as_block(&self, level: Level, link: Descriptor) -> Option<Descriptor> {
        let table = self.memory.table(link.output::<G>())?;
        let entries = table.as_ref();
        if !is_one::<G>(entries, level + 1) {
            return None;
        }
        let first = load(entries, 0);
        let attributes = first.below(link.bits()).attributes::<G>() & !bits::CONTIGUOUS;
        Some(Descriptor::leaf::<G>(
            level,
            first.output::<G>(),
            attributes,
        ))
    }
}

/// Whether the entries at `level` are leaves that differ in nothing but output addresses, and the
/// hint, and translate to one aligned range.
fn is_one<G: Geometry>(entries: &[AtomicU64], level: Level) -> bool {
    let Some(first) = entries.first() else {
        return false;
    };
    let first = Descriptor::from_bits(first.load(Relaxed));
    let bytes = G::entry_bytes(level);
    let pa = first.output::<G>();
    let ignored = G::OUTPUT_MASK | bits::CONTIGUOUS;
    first.kind::<G>(level) == Kind::Leaf
        && pa.is_aligned(bytes * entries.len() as u64)
        && entries.iter().zip(0..).all(|(entry, step)| {
            let entry = Descriptor::from_bits(entry.load(Relaxed));
            (entry.bits() ^ first.bits()) & !ignored == 0
                && entry.output::<G>().checked_sub(pa) == Some(step * bytes)
        })
}

/// `unmap`, as seen from an entry. Writing is [`PageTable::clear`]'s, which also looks after tables.
struct Unmap;

impl<G: Geometry> Edit<G> for Unmap {
    fn first_leaf_level(&self) -> Level {
        LAST_LEVEL
    }

    fn run_shift(&self, level: Level) -> u32 {
        G::run_shift(level)
    }

    fn hole(&self, _: Place) -> Result<Step, MapError> {
        Ok(Step::Keep)
    }

    fn leaf(&self, place: Place, old: Descriptor) -> Result<Step, MapError> {
        let (va, level) = (place.va(), place.level);
        if !place.whole {
            return Err(MapError::WouldSplitBlock { va, level, old });
        }
        if old.is_contiguous() && !place.whole_run {
            return Err(MapError::WouldSplitRun { va, level, old });
        }
        Ok(Step::Write(Descriptor::INVALID))
    }

    #[inline(always)]
    fn survey(&self, level: Level, ia: u64, entries: &[AtomicU64]) -> Option<Survey> {
        let (all, any) = bits_of(entries);
        if any & bits::VALID == 0 {
            return Some(Survey::Keep);
        }
        let pages = level == LAST_LEVEL && all & bits::TABLE_OR_PAGE == bits::TABLE_OR_PAGE;
        let whole_runs =
            any & bits::CONTIGUOUS == 0 || are_whole_runs::<G>(level, ia, entries.len());
        (pages && whole_runs).then_some(Survey::AllChange)
    }

    fn fill(&self, _: Level, _: u64, _: &mut [AtomicU64]) {
        // Nothing is ever built.
    }

    fn overwrite(&self, _: Level, _: u64, _: &[AtomicU64]) {
        // Nothing is written here.
    }
}
