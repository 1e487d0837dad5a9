//! `create_mapping`, as seen from an entry.

use core::sync::atomic::{AtomicU64, Ordering::Relaxed};

use crate::descriptor::{self as bits, Descriptor};
use crate::edit::{Edit, Step, Survey, bits_of, for_each};
use crate::engine::Place;
use crate::geometry::{Geometry, LAST_LEVEL, Level};
use crate::span::Span;
use crate::{Flags, MapError, Mapping, PhysAddr};

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
            attributes: mapping.prot.bits_in::<G>() | global,
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

    /// The descriptors of neighbouring leaves, from `ia` on.
    ///
    /// `None` if the output addresses cross into bits that descriptors keep elsewhere.
    #[inline(always)]
    fn ramp<G: Geometry>(&self, level: Level, ia: u64, entries: usize) -> Option<Ramp> {
        let step = G::entry_bytes(level);
        let length = step.wrapping_mul((entries as u64).wrapping_sub(1));
        let first = self.descriptor::<G>(level, ia).bits();
        let last = self.descriptor::<G>(level, ia.wrapping_add(length)).bits();
        if first.wrapping_add(length) == last {
            Some(Ramp { next: first, step })
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
        let start = leaf_start(span.ia, inside, self.offset);
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
    fn survey(&self, level: Level, ia: u64, entries: &[AtomicU64]) -> Option<Survey> {
        if level < self.first_leaf_level {
            return None;
        }
        let (_, any) = bits_of(entries);
        if any & bits::VALID == 0 {
            return Some(Survey::AllNew);
        }
        let mut ramp = self.ramp::<G>(level, ia, entries.len())?;
        let different = entries.iter().fold(0, |different, entry| {
            different | (entry.load(Relaxed) ^ ramp.next())
        });
        if different == 0 {
            Some(Survey::Keep)
        } else {
            None
        }
    }

    #[inline(always)]
    fn fill(&self, level: Level, ia: u64, entries: &mut [AtomicU64]) {
        if let Some(mut ramp) = self.ramp::<G>(level, ia, entries.len()) {
            return entries
                .iter_mut()
                .for_each(|entry| *entry.get_mut() = ramp.next());
        }
        for (entry, ia) in entries
            .iter_mut()
            .zip((ia..).step_by(G::entry_bytes(level) as usize))
        {
            *entry.get_mut() = self.descriptor::<G>(level, ia).bits();
        }
    }

    #[inline(always)]
    fn overwrite(&self, ia: u64, entries: &[AtomicU64]) {
        if let Some(mut ramp) = self.ramp::<G>(LAST_LEVEL, ia, entries.len()) {
            return for_each(entries, |entry| entry.store(ramp.next(), Relaxed));
        }
        for (entry, ia) in entries
            .iter()
            .zip((ia..).step_by(G::GRANULE_BYTES as usize))
        {
            entry.store(self.descriptor::<G>(LAST_LEVEL, ia).bits(), Relaxed);
        }
    }
}

/// Evenly ascending descriptors.
struct Ramp {
    next: u64,
    step: u64,
}

impl Ramp {
    #[inline(always)]
    fn next(&mut self) -> u64 {
        let this = self.next;
        self.next = this.wrapping_add(self.step);
        this
    }
}

/// Where a block would start in physical memory, of which the span begins `inside` bytes in.
#[inline(always)]
fn leaf_start(ia: u64, inside: u64, offset: u64) -> PhysAddr {
    PhysAddr::new(ia.wrapping_add(offset).wrapping_sub(inside))
}
