//! What each operation does to one entry. Planning asks, writing asks again and does it.
//!
//! As both passes ask the same functions, they cannot disagree. Where a whole run of entries is
//! alike, `survey` and `overwrite` answer for all of them in a few instructions each.

use core::sync::atomic::{AtomicU64, Ordering::Relaxed};

use crate::descriptor::{self as bits, Descriptor};
use crate::engine::{Place, Span};
use crate::geometry::{Geometry, LAST_LEVEL, Level};
use crate::{Flags, MapError, Mapping, PhysAddr, Prot};

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

    /// What becomes of an invalid entry.
    fn hole(&self, place: Place) -> Result<Step, MapError>;

    /// What becomes of a block or page; never [`Step::Build`].
    fn leaf(&self, place: Place, old: Descriptor) -> Result<Step, MapError>;

    /// What becomes of `entries`, all wholly covered, if one answer fits all; `None` to be asked
    /// for each.
    fn survey(&self, level: Level, entries: &[AtomicU64]) -> Option<Survey>;

    /// Writes entries of an unlinked table, the first of which translates the input address `ia`.
    fn fill(&self, level: Level, ia: u64, entries: &mut [AtomicU64]);

    /// Overwrites last-level entries of a linked table, all of which the plan found in need of it.
    fn overwrite(&self, ia: u64, entries: &[AtomicU64]);
}

/// `create_mapping`.
pub(crate) struct Map {
    /// Output address minus input address.
    offset: u64,
    attributes: u64,
    first_leaf_level: Level,
}

impl Map {
    pub(crate) fn new<G: Geometry>(mapping: &Mapping, span: Span, flags: Flags) -> Self {
        let offset = mapping.pa.as_u64().wrapping_sub(span.ia);
        // A block needs input and output address alike in all bits below its size. That holds for
        // every block of this size in the span or for none.
        let mut first_leaf_level = LAST_LEVEL;
        if !flags.contains(Flags::NO_BLOCK) {
            while first_leaf_level > G::FIRST_BLOCK_LEVEL.max(G::START_LEVEL)
                && offset & (G::entry_bytes(first_leaf_level - 1) - 1) == 0
            {
                first_leaf_level -= 1;
            }
        }
        let global = if flags.contains(Flags::NON_GLOBAL) {
            bits::NG
        } else {
            0
        };
        Self {
            offset,
            attributes: mapping.prot.bits() | global,
            first_leaf_level,
        }
    }

    #[inline(always)]
    fn descriptor<G: Geometry>(&self, level: Level, ia: u64) -> Descriptor {
        Descriptor::leaf::<G>(
            level,
            PhysAddr::new(ia.wrapping_add(self.offset)),
            self.attributes,
        )
    }

    /// The descriptors of neighbouring leaves, as first value and difference.
    ///
    /// `None` if the output addresses cross into bits that descriptors keep elsewhere.
    #[inline(always)]
    fn ramp<G: Geometry>(&self, level: Level, ia: u64, entries: usize) -> Option<(u64, u64)> {
        let step = G::entry_bytes(level);
        let length = step.wrapping_mul((entries as u64).wrapping_sub(1));
        let first = self.descriptor::<G>(level, ia).bits();
        let last = self.descriptor::<G>(level, ia.wrapping_add(length)).bits();
        if first.wrapping_add(length) == last {
            Some((first, step))
        } else {
            None
        }
    }
}

impl<G: Geometry> Edit<G> for Map {
    #[inline(always)]
    fn first_leaf_level(&self) -> Level {
        self.first_leaf_level
    }

    #[inline(always)]
    fn hole(&self, place: Place) -> Result<Step, MapError> {
        if place.whole && place.level >= self.first_leaf_level {
            return Ok(Step::Write(
                self.descriptor::<G>(place.level, place.span.ia),
            ));
        }
        Ok(Step::Build)
    }

    #[inline(always)]
    fn leaf(&self, place: Place, old: Descriptor) -> Result<Step, MapError> {
        let Place { level, span, .. } = place;
        let inside = span.ia & (G::entry_bytes(level) - 1);
        let start = ia_to_block(span.ia, inside, self.offset);
        // A contiguous run translates as its entries say: as long as nothing else differs, the hint
        // may stay.
        let hint = old.bits() & bits::CONTIGUOUS;
        let new = Descriptor::leaf::<G>(level, start, self.attributes | hint);
        let va = place.va();
        if old == new {
            return Ok(Step::Keep);
        }
        let old_start = old.output::<G>().align_down(G::entry_bytes(level));
        if old_start != start {
            return Err(MapError::AlreadyMapped {
                va,
                level,
                old,
                new,
            });
        }
        if !place.whole {
            return Err(MapError::WouldSplitBlock { va, level, old });
        }
        if !old.may_become(new) {
            return Err(MapError::NeedsBreakBeforeMake {
                va,
                level,
                old,
                new,
            });
        }
        Ok(Step::Write(new))
    }

    #[inline(always)]
    fn survey(&self, level: Level, entries: &[AtomicU64]) -> Option<Survey> {
        if level < self.first_leaf_level {
            return None;
        }
        let any = entries
            .iter()
            .fold(0, |any, entry| any | entry.load(Relaxed));
        if any & bits::VALID == 0 {
            Some(Survey::AllNew)
        } else {
            None
        }
    }

    #[inline(always)]
    fn fill(&self, level: Level, ia: u64, entries: &mut [AtomicU64]) {
        if let Some((mut descriptor, step)) = self.ramp::<G>(level, ia, entries.len()) {
            for entry in entries {
                *entry.get_mut() = descriptor;
                descriptor = descriptor.wrapping_add(step);
            }
            return;
        }
        let mut ia = ia;
        for entry in entries {
            *entry.get_mut() = self.descriptor::<G>(level, ia).bits();
            ia = ia.wrapping_add(G::entry_bytes(level));
        }
    }

    #[inline(always)]
    fn overwrite(&self, ia: u64, entries: &[AtomicU64]) {
        if let Some((mut descriptor, step)) = self.ramp::<G>(LAST_LEVEL, ia, entries.len()) {
            for entry in entries {
                entry.store(descriptor, Relaxed);
                descriptor = descriptor.wrapping_add(step);
            }
            return;
        }
        let mut ia = ia;
        for entry in entries {
            entry.store(self.descriptor::<G>(LAST_LEVEL, ia).bits(), Relaxed);
            ia = ia.wrapping_add(G::GRANULE_BYTES);
        }
    }
}

/// Where a block would start in physical memory, of which the span begins `inside` bytes in.
#[inline(always)]
fn ia_to_block(ia: u64, inside: u64, offset: u64) -> PhysAddr {
    PhysAddr::new(ia.wrapping_add(offset).wrapping_sub(inside))
}

/// `update_mapping_prot`.
pub(crate) struct Protect {
    set: u64,
}

impl Protect {
    pub(crate) fn new(prot: Prot) -> Self {
        Self { set: prot.bits() }
    }

    #[inline(always)]
    fn apply(&self, old: u64) -> u64 {
        old & !Prot::MASK | self.set
    }
}

impl<G: Geometry> Edit<G> for Protect {
    #[inline(always)]
    fn first_leaf_level(&self) -> Level {
        LAST_LEVEL
    }

    #[inline(always)]
    fn hole(&self, place: Place) -> Result<Step, MapError> {
        Err(MapError::NotMapped {
            va: place.va(),
            level: place.level,
        })
    }

    #[inline(always)]
    fn leaf(&self, place: Place, old: Descriptor) -> Result<Step, MapError> {
        let new = Descriptor::from_bits(self.apply(old.bits()));
        let (va, level) = (place.va(), place.level);
        if old == new {
            return Ok(Step::Keep);
        }
        if !place.whole {
            return Err(MapError::WouldSplitBlock { va, level, old });
        }
        if !old.may_become(new) {
            return Err(MapError::NeedsBreakBeforeMake {
                va,
                level,
                old,
                new,
            });
        }
        Ok(Step::Write(new))
    }

    #[inline(always)]
    fn survey(&self, level: Level, entries: &[AtomicU64]) -> Option<Survey> {
        let (mut all, mut any) = (!0, 0);
        for entry in entries {
            let entry = entry.load(Relaxed);
            all &= entry;
            any |= entry;
        }
        let leaf = if level == LAST_LEVEL {
            bits::TABLE_OR_PAGE
        } else {
            bits::BLOCK
        };
        if (all | any) & bits::TABLE_OR_PAGE != leaf
            || all & bits::VALID == 0
            || level < G::FIRST_BLOCK_LEVEL
        {
            return None;
        }
        // A bit changes in some entry if not all have it as it should be; and in every entry if all
        // have it as it should not be.
        let changes_somewhere = (any & !self.set | !all & self.set) & Prot::MASK;
        let changes_everywhere = (all & !self.set | !any & self.set) & Prot::MASK;
        if changes_somewhere == 0 {
            return Some(Survey::Keep);
        }
        let permissions_only = changes_somewhere & !(bits::AP_RDONLY | bits::PXN | bits::DBM) == 0;
        if permissions_only && changes_everywhere != 0 && any & bits::CONTIGUOUS == 0 {
            return Some(Survey::AllChange);
        }
        None
    }

    fn fill(&self, _: Level, _: u64, _: &mut [AtomicU64]) {
        // A hole is an error, so nothing is ever built.
    }

    #[inline(always)]
    fn overwrite(&self, _: u64, entries: &[AtomicU64]) {
        for entry in entries {
            entry.store(self.apply(entry.load(Relaxed)), Relaxed);
        }
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
    fn survey(&self, level: Level, _: &[AtomicU64]) -> Option<Survey> {
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

    fn overwrite(&self, _: u64, _: &[AtomicU64]) {
        // The plan keeps every last-level entry.
    }
}
