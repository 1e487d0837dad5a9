//! Tables that have become empty or superfluous, and who may still know the way to them.
//!
//! A walker may use a table for as long as a TLB remembers the way to it. So a table that was
//! unlinked is kept back in [`Retired`] until the flush. There is no memory to note it in but the
//! table itself: its first entry holds the address of the next one, with bit 0 clear, which is
//! nothing to a walker.

use core::sync::atomic::{AtomicU64, Ordering::Relaxed};

use crate::engine::load;
use crate::flush::{Flush, TlbMaintenance};
use crate::geometry::Geometry;
use crate::memory::TableMemory;
use crate::{PageTable, PhysAddr};

/// Tables that were unlinked, held back until no TLB knows the way to them (Arm ARM DDI 0487, chapter D8,
/// "Translation Lookaside Buffers": a TLB may hold table entries too). Linux: `unmap_hotplug_range`, then
/// `free_empty_tables`.
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
        self.next = Some(link.output::<G>());
        Some(this)
    }

    fn size_hint(&self) -> (usize, Option<usize>) {
        (0, Some(self.count))
    }
}

/// Tables unlinked so far, and what TLBs may hold of the ways to them.
pub(crate) struct Chain {
    first: Option<PhysAddr>,
    count: usize,
    pub(crate) flush: Flush,
}

impl Chain {
    pub(crate) const fn new(flush: Flush) -> Self {
        Self {
            first: None,
            count: 0,
            flush,
        }
    }

    /// Adds a table whose link was just removed.
    pub(crate) fn push<G: Geometry>(&mut self, pa: PhysAddr, entries: &[AtomicU64]) {
        let link = self.first.map_or(0, |next| G::encode_output(next));
        if let Some(entry) = entries.first() {
            entry.store(link, Relaxed);
        }
        self.first = Some(pa);
        self.count += 1;
    }

    pub(crate) fn retired<G: Geometry, M: TableMemory<G>>(
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
