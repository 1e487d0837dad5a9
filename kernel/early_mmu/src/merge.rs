//! Making leaves as large as they can be.

use core::sync::atomic::{AtomicU64, Ordering::Relaxed};

use crate::descriptor::{self as bits, Descriptor, Kind};
use crate::engine::load;
use crate::flush::{Flush, Stale, TlbMaintenance};
use crate::geometry::{Geometry, LAST_LEVEL, Level};
use crate::live::BreakBeforeMake;
use crate::memory::TableMemory;
use crate::retired::{Chain, Retired};
use crate::span::{Part, Span, parts, run_bytes};
use crate::{Flags, MapError, PageTable, PhysAddr, VirtAddr};

impl<G: Geometry, M: TableMemory<G>> PageTable<G, M> {
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
        va: VirtAddr,
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
        for Part {
            index,
            span: part,
            whole,
            ..
        } in parts::<G>(span, level)
        {
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
                let stale = Stale::new::<G>(self.base, part, stride, false);
                let entry = entries.get(index..index + 1).unwrap_or(&[]);
                live.replace(entry, stale, &mut chain.flush, |_| block);
                // The table still translates as it should: nobody may come by any more before it is
                // written to.
                live.settle(&mut chain.flush);
                chain.push::<G>(next, table.as_ref());
            }
        }
        if !flags.contains(Flags::NO_CONT) {
            self.merge_runs(entries, level, span, live, &mut chain.flush);
        }
    }

    /// Gives the Contiguous hint to all runs in one table that may have it.
    fn merge_runs<T: TlbMaintenance>(
        &self,
        entries: &[AtomicU64],
        level: Level,
        span: Span,
        live: BreakBeforeMake<'_, T>,
        flush: &mut Flush,
    ) {
        let (bytes, run_bytes) = (G::entry_bytes(level), run_bytes::<G>(level));
        let mut run = (span.ia + (run_bytes - 1)) & !(run_bytes - 1);
        while run_bytes > bytes && run < span.end && span.end - run >= run_bytes {
            let first = G::index(run, level);
            if let Some(entries) = entries.get(first..first + (1 << G::run_shift(level)))
                && may_be_run::<G>(entries, level)
            {
                let stale = self.stale(run, run_bytes, bytes);
                live.replace(entries, stale, flush, |old| {
                    Descriptor::from_bits(old.bits() | bits::CONTIGUOUS)
                });
            }
            run += run_bytes;
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

/// Whether the entries could be a contiguous run, and are none yet.
fn may_be_run<G: Geometry>(entries: &[AtomicU64], level: Level) -> bool {
    let hinted = |entry: &AtomicU64| entry.load(Relaxed) & bits::CONTIGUOUS != 0;
    is_one::<G>(entries, level) && !entries.iter().all(hinted)
}
