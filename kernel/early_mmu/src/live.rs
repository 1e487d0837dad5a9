//! Break-before-make: the one place that takes a live entry away for a moment.
//!
//! What may be overwritten at once is [`Descriptor::may_become`](crate::Descriptor::may_become)'s to
//! say. Everything else goes through here, and only where the caller hands in [`BreakBeforeMake`].

use core::sync::atomic::{AtomicU64, Ordering::Relaxed};

use crate::descriptor::VALID;
use crate::flush::{Flush, Stale};
use crate::{Descriptor, TlbMaintenance};

/// What a CPU can bear when the size of a translation changes: `ID_AA64MMFR2_EL1.BBM` (Arm ARM
/// DDI 0487, chapter D8, "Support levels for changing table or block size").
///
/// It is about block or table, and about the Contiguous bit, with all else equal; nothing relaxes
/// what another output address or memory type needs. The lowest level of all CPUs counts.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub enum BbmLevel {
    /// The old entry must be gone from every TLB before the new one is written. Right on every CPU.
    #[default]
    Level0,
    /// `nT` may be used instead. This crate does not: it does the same as at level 0, which is
    /// always allowed.
    Level1,
    /// The new entry may overwrite the old one; both may be in a TLB until the flush. A CPU may then
    /// raise a TLB conflict abort, so be sure that none of them does (Linux: `BBML2_NOABORT`).
    Level2,
}

/// The caller's consent to a sequence that takes live mappings away for a moment, and what executes
/// it.
///
/// Between break and make an access to the block or the run faults. So nothing that the sequence
/// needs may lie in it: its code, its stack, the tables themselves, the vectors; nor anything that
/// another CPU, or an interrupt, cannot do without.
#[derive(Debug)]
pub struct BreakBeforeMake<'t, T> {
    tlb: &'t T,
    level: BbmLevel,
}

impl<T> Clone for BreakBeforeMake<'_, T> {
    fn clone(&self) -> Self {
        *self
    }
}

impl<T> Copy for BreakBeforeMake<'_, T> {}

impl<'t, T: TlbMaintenance> BreakBeforeMake<'t, T> {
    /// Break-before-make with these instructions, on CPUs of this level.
    #[must_use]
    pub const fn new(tlb: &'t T, level: BbmLevel) -> Self {
        Self { tlb, level }
    }

    /// Executes what is left to do, so that no walker uses what was there before.
    pub(crate) fn settle(&self, flush: &mut Flush) {
        flush.execute(self.tlb);
        *flush = Flush::NOTHING;
    }

    /// Replaces each valid one of `entries`, a run at most, by what `make` gives for it, in the order
    /// that the level needs.
    ///
    /// `stale` is what TLBs may hold of them. What is left to do afterwards is added to `flush`.
    pub(crate) fn replace(
        &self,
        entries: &[AtomicU64],
        stale: Stale,
        flush: &mut Flush,
        make: impl Fn(Descriptor) -> Descriptor,
    ) {
        if self.level == BbmLevel::Level2 {
            for entry in entries {
                let old = Descriptor::from_bits(entry.load(Relaxed));
                if old.is_valid() {
                    entry.store(make(old).bits(), Relaxed);
                }
            }
            *flush = flush.merge(Flush::new(true, Some(stale)));
            return;
        }
        // Invalid with all other bits in place: nothing else remembers them until they are needed
        // again. Which entries these are is remembered here, since a run that somebody else built may
        // have holes.
        let mut broken: u128 = 0;
        for (entry, place) in entries.iter().zip(0..u128::BITS) {
            let old = entry.load(Relaxed);
            if old & VALID != 0 {
                broken |= 1 << place;
                entry.store(old & !VALID, Relaxed);
            }
        }
        Flush::new(false, Some(stale)).execute(self.tlb);
        for (entry, place) in entries.iter().zip(0..u128::BITS) {
            if broken >> place & 1 != 0 {
                let old = Descriptor::from_bits(entry.load(Relaxed) | VALID);
                entry.store(make(old).bits(), Relaxed);
            }
        }
        // Visible before anything else needs it: the next break may be of what this one restored.
        Flush::new(true, None).execute(self.tlb);
    }
}
