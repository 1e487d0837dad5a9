//! What each operation does to one entry. Planning asks, writing asks again and does it.
//!
//! As both passes ask the same functions, they cannot disagree. Where a whole run of entries is
//! alike, `survey` and `overwrite` answer for all of them in a few instructions each.

mod map;
mod protect;

use core::ops::Range;
use core::sync::atomic::{AtomicU64, Ordering::Relaxed};

use crate::descriptor::{self as bits, Descriptor, Kind};
use crate::engine::Place;
use crate::geometry::{Geometry, LAST_LEVEL, Level};
use crate::span::Span;
use crate::{MapError, PhysAddr, VirtAddr};

pub(crate) use map::Map;
pub(crate) use protect::Protect;

/// What is to be done with one entry.
pub(crate) enum Step {
    /// It is as it should be.
    Keep,
    /// Overwrite it.
    Write(Descriptor),
    /// It is invalid: build the tables below it, then link them.
    Build,
}

/// What is to be done with a run of entries that one leaf each would fill.
pub(crate) enum Survey {
    /// All are as they should be.
    Keep,
    /// All are invalid and become leaves.
    AllNew,
    /// All are leaves and are overwritten.
    AllChange,
}

/// One operation, as seen from an entry.
pub(crate) trait Edit<G: Geometry> {
    /// The first level at which an empty entry, wholly covered, is filled by [`fill`](Self::fill)
    /// rather than by a table.
    fn first_leaf_level(&self) -> Level;

    /// log2 of the number of entries at `level` that are asked about, and written, as one where the
    /// request covers them all: a contiguous run.
    fn run_shift(&self, level: Level) -> u32;

    /// The descriptor that links a new table.
    #[inline(always)]
    fn link(&self, table: PhysAddr) -> Descriptor {
        Descriptor::table::<G>(table)
    }

    /// Whether a table forbids to all below it what is asked for (Arm ARM chapter D8, "Memory
    /// access control", hierarchical control).
    #[inline(always)]
    fn is_denied_by(&self, table: Descriptor) -> bool {
        let _ = table;
        false
    }

    /// What becomes of an invalid entry.
    fn hole(&self, place: Place) -> Result<Step, MapError>;

    /// What becomes of a block or page; never [`Step::Build`].
    fn leaf(&self, place: Place, old: Descriptor) -> Result<Step, MapError>;

    /// What becomes of `entries`, all wholly covered and the first translating the input address
    /// `ia`, if one answer fits all; `None` to be asked for each.
    fn survey(&self, level: Level, ia: u64, entries: &[AtomicU64]) -> Option<Survey>;

    /// Writes entries of an unlinked table, the first of which translates the input address `ia`.
    fn fill(&self, level: Level, ia: u64, entries: &mut [AtomicU64]);

    /// Overwrites entries of a linked table, all of which the plan found in need of it.
    fn overwrite(&self, level: Level, ia: u64, entries: &[AtomicU64]);

    /// Whether `new` is what [`overwrite`](Self::overwrite) would write at `place`, if asked for all
    /// of `span`.
    #[inline(always)]
    fn is_even(&self, place: Place, span: Span, new: Descriptor) -> bool {
        let _ = (place, span, new);
        true
    }
}

/// `create_tables`.
pub(crate) struct Link;

impl<G: Geometry> Edit<G> for Link {
    #[inline(always)]
    fn first_leaf_level(&self) -> Level {
        LAST_LEVEL
    }

    #[inline(always)]
    fn run_shift(&self, _: Level) -> u32 {
        0
    }

    #[inline(always)]
    fn hole(&self, place: Place) -> Result<Step, MapError> {
        Ok(if place.level == LAST_LEVEL {
            Step::Keep
        } else {
            Step::Build
        })
    }

    #[inline(always)]
    fn leaf(&self, place: Place, old: Descriptor) -> Result<Step, MapError> {
        if place.level == LAST_LEVEL {
            return Ok(Step::Keep);
        }
        Err(MapError::WouldSplitBlock {
            va: place.va(),
            level: place.level,
            old,
        })
    }

    #[inline(always)]
    fn survey(&self, level: Level, _: u64, _: &[AtomicU64]) -> Option<Survey> {
        if level == LAST_LEVEL {
            Some(Survey::Keep)
        } else {
            None
        }
    }

    #[inline(always)]
    fn fill(&self, _: Level, _: u64, entries: &mut [AtomicU64]) {
        for entry in entries {
            *entry.get_mut() = Descriptor::INVALID.bits();
        }
    }

    fn overwrite(&self, _: Level, _: u64, _: &[AtomicU64]) {
        // The plan keeps every last-level entry.
    }
}

/// Whether so many entries from `ia` on are whole contiguous runs, if they are runs at all.
#[inline(always)]
pub(crate) fn are_whole_runs<G: Geometry>(level: Level, ia: u64, entries: usize) -> bool {
    let in_run = (1 << G::run_shift(level)) - 1;
    (G::index(ia, level) | entries) & in_run == 0
}

/// Refuses to fill holes in a contiguous run, if `new` has a part of one: what is written there has no hint, and
/// must not stand beside entries that have it. This crate leaves no such holes; who built the tables before may.
/// `va` is where `new` begins.
#[inline(never)]
pub(crate) fn check_holes<G: Geometry>(
    entries: &[AtomicU64],
    level: Level,
    new: &Range<usize>,
    va: VirtAddr,
) -> Result<(), MapError> {
    let in_run = (1 << G::run_shift(level)) - 1;
    for edge in [new.start, new.end] {
        let run = edge & !in_run..(edge | in_run) + 1;
        let part = edge & in_run != 0;
        // The same run at both ends is looked at once.
        if !part || edge == new.end && new.start > run.start {
            continue;
        }
        let first = run.start.max(new.start);
        let run = entries.get(run).unwrap_or(&[]);
        if bits_of(run).1 & bits::CONTIGUOUS == 0 {
            continue;
        }
        let mut run = run
            .iter()
            .map(|entry| Descriptor::from_bits(entry.load(Relaxed)));
        let hinted = |old: &Descriptor| old.is_contiguous() && old.kind::<G>(level) == Kind::Leaf;
        if let Some(old) = run.find(hinted) {
            let before = (first - new.start) as u64 * G::entry_bytes(level);
            let va = VirtAddr::new(va.as_u64() + before);
            return Err(MapError::WouldSplitRun { va, level, old });
        }
    }
    Ok(())
}

/// Whether a table forbids to all below it what these bits of a leaf permit.
#[inline(always)]
pub(crate) fn denies(table: Descriptor, leaf: u64) -> bool {
    let leaf = Descriptor::from_bits(leaf);
    let effective = leaf.below(table.bits());
    (effective.bits() ^ leaf.bits()) & (bits::PXN | bits::AP_RDONLY) != 0
}

/// Overwrites a whole leaf, if a walker may be shown the new one without an invalid one in between.
#[inline(always)]
pub(crate) fn change(place: Place, old: Descriptor, new: Descriptor) -> Result<Step, MapError> {
    let (va, level) = (place.va(), place.level);
    if !old.may_become_in_run(new) {
        return Err(MapError::NeedsBreakBeforeMake {
            va,
            level,
            old,
            new,
        });
    }
    if old.is_contiguous() && !place.whole_run {
        return Err(MapError::WouldSplitRun { va, level, old });
    }
    Ok(Step::Write(new))
}

/// Calls `f` for each entry, eight in a row: half of the instructions would otherwise go into
/// counting.
#[inline(always)]
pub(crate) fn for_each(entries: &[AtomicU64], mut f: impl FnMut(&AtomicU64)) {
    let (chunks, rest) = entries.as_chunks::<8>();
    for chunk in chunks {
        chunk.iter().for_each(&mut f);
    }
    rest.iter().for_each(f);
}

/// The bits that all entries have set, and those that any has.
#[inline(always)]
pub(crate) fn bits_of(entries: &[AtomicU64]) -> (u64, u64) {
    let (mut all, mut any) = (!0, 0);
    for_each(entries, |entry| {
        let entry = entry.load(Relaxed);
        all &= entry;
        any |= entry;
    });
    (all, any)
}

#[cfg(test)]
mod tests;
