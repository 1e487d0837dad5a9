//! Taking mappings away.

use core::sync::atomic::{AtomicU64, Ordering::Relaxed};

use crate::descriptor::{self as bits, Descriptor, Kind};
use crate::edit::{Edit, Step, Survey, are_whole_runs, bits_of, for_each};
use crate::engine::{Place, load};
use crate::flush::Flush;
use crate::geometry::{Geometry, LAST_LEVEL, Level};
use crate::memory::TableMemory;
use crate::retired::{Chain, Retired};
use crate::span::{Part, Span, parts, wholly_covered};
use crate::{MapError, PageTable, PhysAddr, VirtAddr};

impl<G: Geometry, M: TableMemory<G>> PageTable<G, M> {
    /// Unmaps a range. Holes in it are fine; tables that are empty afterwards are retired, but for
    /// the root. Linux: `unmap_hotplug_range` and `free_empty_tables`.
    ///
    /// # Errors
    ///
    /// `WouldSplitBlock` and `WouldSplitRun` where a part would stay mapped (see
    /// [`split`](Self::split)); the errors of a bad range, and of damaged tables.
    pub fn unmap(&mut self, va: VirtAddr, size_bytes: u64) -> Result<Retired<'_, G, M>, MapError> {
        let span = self.check_range(va, size_bytes)?;
        let plan = self.plan(span, &Unmap, &|_, _| Ok(()))?;
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
        va: VirtAddr,
        size_bytes: u64,
    ) -> Result<Flush, MapError> {
        let span = self.check_range(va, size_bytes)?;
        let plan = self.plan(span, &Unmap, &|_, _| Ok(()))?;
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
            for Part {
                index, span: part, ..
            } in parts::<G>(span, level)
            {
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
}

/// `unmap`, as seen from an entry. Writing is [`PageTable::clear`]'s, which also looks after tables.
pub(crate) struct Unmap;

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
