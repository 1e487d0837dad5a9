//! `update_mapping_prot`, as seen from an entry.

use core::sync::atomic::{AtomicU64, Ordering::Relaxed};

use crate::descriptor::{self as bits, Descriptor};
use crate::edit::{Edit, Step, Survey, are_whole_runs, bits_of, change, denies, for_each};
use crate::engine::Place;
use crate::geometry::{Geometry, LAST_LEVEL, Level};
use crate::{MapError, Prot};

/// `update_mapping_prot`.
#[derive(Clone, Copy)]
pub(crate) struct Protect {
    mask: u64,
    set: u64,
    /// Whether what is covered in part is going to be split first.
    splitting: bool,
}

impl Protect {
    pub(crate) fn new<G: Geometry>(prot: Prot) -> Self {
        Self {
            mask: Prot::mask_in::<G>(),
            set: prot.bits_in::<G>(),
            splitting: false,
        }
    }

    /// As if all that is covered in part had been split.
    pub(crate) fn splitting(mut self) -> Self {
        self.splitting = true;
        self
    }

    /// What a leaf becomes, or `None` if it is as it should be.
    pub(crate) fn changed(&self, leaf: Descriptor) -> Option<Descriptor> {
        let new = Descriptor::from_bits(self.apply(leaf.bits()));
        (new != leaf).then_some(new)
    }

    #[inline(always)]
    fn apply(&self, old: u64) -> u64 {
        old & !self.mask | self.set
    }
}

impl<G: Geometry> Edit<G> for Protect {
    #[inline(always)]
    fn first_leaf_level(&self) -> Level {
        LAST_LEVEL
    }

    #[inline(always)]
    fn run_shift(&self, level: Level) -> u32 {
        G::run_shift(level)
    }

    #[inline(always)]
    fn is_denied_by(&self, table: Descriptor) -> bool {
        denies(table, self.set)
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
        if self.splitting && old.may_become_in_run(new) {
            return Ok(Step::Write(new));
        }
        if !place.whole && !self.splitting {
            return Err(MapError::WouldSplitBlock { va, level, old });
        }
        change(place, old, new)
    }

    #[inline(always)]
    fn survey(&self, level: Level, ia: u64, entries: &[AtomicU64]) -> Option<Survey> {
        let (all, any) = bits_of(entries);
        let leaf = if level == LAST_LEVEL {
            bits::TABLE_OR_PAGE
        } else {
            bits::BLOCK
        };
        let leaves = all & bits::TABLE_OR_PAGE == leaf && any & bits::TABLE_OR_PAGE == leaf;
        if !leaves || level < G::FIRST_BLOCK_LEVEL {
            return None;
        }
        // A bit changes in some entry if not all have it as it should be; and in every entry if all
        // have it as it should not be.
        let changes_somewhere = (any & !self.set | !all & self.set) & self.mask;
        let changes_everywhere = (all & !self.set | !any & self.set) & self.mask;
        if changes_somewhere == 0 {
            return Some(Survey::Keep);
        }
        let permissions_only = changes_somewhere & !(bits::AP_RDONLY | bits::PXN | bits::DBM) == 0;
        // Contiguous runs change whole or not at all.
        if permissions_only
            && changes_everywhere != 0
            && (any & bits::CONTIGUOUS == 0 || are_whole_runs::<G>(level, ia, entries.len()))
        {
            return Some(Survey::AllChange);
        }
        None
    }

    fn fill(&self, _: Level, _: u64, _: &mut [AtomicU64]) {
        // A hole is an error, so nothing is ever built.
    }

    #[inline(always)]
    fn overwrite(&self, _: Level, _: u64, entries: &[AtomicU64]) {
        for_each(entries, |entry| {
            entry.store(self.apply(entry.load(Relaxed)), Relaxed)
        });
    }
}
