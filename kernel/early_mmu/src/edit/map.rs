//! `create_mapping`, as seen from an entry.

use core::ops::Range;
use core::sync::atomic::{AtomicU64, Ordering::Relaxed};

use crate::descriptor::{self as bits, Descriptor};
use crate::edit::{Edit, Step, Survey, are_whole_runs, bits_of, change, denies, for_each};
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
    /// Whether runs may get the Contiguous hint.
    contiguous: bool,
    /// What the descriptors of new tables get besides address and type.
    link: u64,
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
            contiguous: !flags.contains(Flags::NO_CONT),
            link: if flags.contains(Flags::NO_EXEC) {
                bits::PXN_TABLE
            } else {
                0
            },
        }
    }

    /// log2 of the length of contiguous runs at `level`; 0 if there are none.
    ///
    /// A run needs input and output address alike in all bits below its size, as a block does.
    #[inline(always)]
    fn run_shift<G: Geometry>(&self, level: Level) -> u32 {
        let shift = G::run_shift(level);
        let in_run = (G::entry_bytes(level) << shift) - 1;
        if self.contiguous && level >= self.first_leaf_level && self.offset & in_run == 0 {
            shift
        } else {
            0
        }
    }

    /// `entries` leaves from `ia` on in three parts, some of which may be empty: the first and the last
    /// with too few for a run, the middle one all runs. With each its indices and the hint.
    #[inline(always)]
    fn runs<G: Geometry>(&self, level: Level, ia: u64, entries: usize) -> [(Range<usize>, u64); 3] {
        let shift = self.run_shift::<G>(level);
        if shift == 0 {
            return [
                (0..entries, 0),
                (entries..entries, 0),
                (entries..entries, 0),
            ];
        }
        let in_run = (1 << shift) - 1;
        let start = (G::index(ia, level).wrapping_neg() & in_run).min(entries);
        let end = start + ((entries - start) & !in_run);
        [
            (0..start, 0),
            (start..end, bits::CONTIGUOUS),
            (end..entries, 0),
        ]
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
    fn run_shift(&self, level: Level) -> u32 {
        Map::run_shift::<G>(self, level)
    }

    #[inline(always)]
    fn link(&self, table: PhysAddr) -> Descriptor {
        Descriptor::from_bits(Descriptor::table::<G>(table).bits() | self.link)
    }

    #[inline(always)]
    fn is_denied_by(&self, table: Descriptor) -> bool {
        denies(table, self.attributes)
    }

    #[inline(always)]
    fn hole(&self, place: Place) -> Result<Step, MapError> {
        if place.whole && place.level >= self.first_leaf_level {
            return Ok(Step::Write(
                self.descriptor::<G>(place.level, place.span.ia),
            ));
        }
        let link = Descriptor::from_bits(self.link);
        if denies(link, self.attributes) {
            return Err(MapError::DeniedByTable {
                va: place.va(),
                level: place.level,
                table: link,
            });
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
        // Addresses before descriptors: below its size a block may have bits that are no address (`nT`), and equal
        // those of an address that is not aligned.
        let old_start = old.output::<G>().align_down(G::entry_bytes(level));
        if old_start != start {
            return Err(MapError::AlreadyMapped {
                va,
                level,
                old,
                new,
            });
        }
        if old == new {
            return Ok(Step::Keep);
        }
        if !place.whole {
            return Err(MapError::WouldSplitBlock { va, level, old });
        }
        change(place, old, new)
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
        let first = Descriptor::from_bits(ramp.next);
        let (mut everywhere, mut somewhere) = (!0, 0);
        for entry in entries {
            let different = entry.load(Relaxed) ^ ramp.next();
            everywhere &= different;
            somewhere |= different;
        }
        // A run translates as its entries say, with the hint or without.
        if somewhere & !bits::CONTIGUOUS == 0 {
            return Some(Survey::Keep);
        }
        if everywhere != somewhere {
            return None;
        }
        // All differ in the same bits, so what is true of one is true of all. None may lose the hint or get it.
        let hint = everywhere & bits::CONTIGUOUS;
        let hinted = self.run_shift::<G>(level) != 0;
        if hinted != (hint != 0) || hinted && !are_whole_runs::<G>(level, ia, entries.len()) {
            return None;
        }
        let old = Descriptor::from_bits(first.bits() ^ everywhere);
        let new = Descriptor::from_bits(first.bits() | hint);
        old.may_become_in_run(new).then_some(Survey::AllChange)
    }

    #[inline(always)]
    fn fill(&self, level: Level, ia: u64, entries: &mut [AtomicU64]) {
        for (part, hint) in self.runs::<G>(level, ia, entries.len()) {
            let mut ia = ia + ((part.start as u64) << G::entry_shift(level));
            let Some(entries) = entries.get_mut(part).filter(|part| !part.is_empty()) else {
                continue;
            };
            if let Some(mut ramp) = self.ramp::<G>(level, ia, entries.len()) {
                ramp.next |= hint;
                entries
                    .iter_mut()
                    .for_each(|entry| *entry.get_mut() = ramp.next());
                continue;
            }
            for entry in entries {
                *entry.get_mut() = self.descriptor::<G>(level, ia).bits() | hint;
                ia = ia.wrapping_add(G::entry_bytes(level));
            }
        }
    }

    #[inline(always)]
    fn overwrite(&self, level: Level, ia: u64, entries: &[AtomicU64]) {
        for (part, hint) in self.runs::<G>(level, ia, entries.len()) {
            let mut ia = ia + ((part.start as u64) << G::entry_shift(level));
            let Some(entries) = entries.get(part).filter(|part| !part.is_empty()) else {
                continue;
            };
            if let Some(mut ramp) = self.ramp::<G>(level, ia, entries.len()) {
                ramp.next |= hint;
                for_each(entries, |entry| entry.store(ramp.next(), Relaxed));
                continue;
            }
            for entry in entries {
                let new = self.descriptor::<G>(level, ia).bits() | hint;
                entry.store(new, Relaxed);
                ia = ia.wrapping_add(G::entry_bytes(level));
            }
        }
    }

    #[inline(always)]
    fn is_even(&self, place: Place, span: Span, new: Descriptor) -> bool {
        let in_run = (G::entry_bytes(place.level) << Map::run_shift::<G>(self, place.level)) - 1;
        let whole_run = in_run >= G::entry_bytes(place.level)
            && place.span.ia & !in_run >= span.ia
            && (place.span.ia | in_run) < span.end;
        new.is_contiguous() == whole_run
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
