//! The engine: one recursion that plans and one that writes, for all levels and all operations.
//!
//! Planning only reads. It finds every reason to refuse, counts the tables that are missing and notes
//! what would change. Writing follows the same way through the tables and cannot fail: nothing else
//! writes in between, as the caller holds `&mut PageTable`.

use core::sync::atomic::{AtomicU64, Ordering::Relaxed};

use crate::descriptor::{Descriptor, Kind};
use crate::edit::{Edit, Step, Survey};
use crate::flush::{Flush, Stale};
use crate::geometry::{Geometry, LAST_LEVEL, Level};
use crate::memory::{ReservedFrames, TableMemory};
use crate::span::{Span, parts, parts_but, run_span, tables_below, wholly_covered};
use crate::{MapError, PhysAddr, VirtAddr};

/// An entry, and the part of a request that it translates.
#[derive(Clone, Copy)]
pub(crate) struct Place {
    base: u64,
    pub(crate) level: Level,
    pub(crate) span: Span,
    /// Whether the span is all that the entry translates.
    pub(crate) whole: bool,
}

impl Place {
    /// The first virtual address of the part.
    #[inline(always)]
    pub(crate) fn va(&self) -> VirtAddr {
        VirtAddr::new(self.base | self.span.ia)
    }
}

/// What an operation will do.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Plan {
    /// Tables to be built.
    pub(crate) tables: usize,
    /// Whether invalid entries become valid.
    new_entries: bool,
    /// Whether any block or page of the span stays as it is.
    keeps: bool,
    /// Input addresses of the first and behind the last leaf that is overwritten, and the size of
    /// the smallest.
    changed: Option<(Span, u64)>,
}

impl Plan {
    pub(crate) fn writes_nothing(&self) -> bool {
        self.tables == 0 && !self.new_entries && self.changed.is_none()
    }

    pub(crate) fn flush(&self, base: VirtAddr) -> Flush {
        let stale = self.changed.map(|(span, stride_bytes)| Stale {
            first: VirtAddr::new(base.as_u64() | span.ia),
            last: VirtAddr::new(base.as_u64() | (span.end - 1)),
            stride_bytes,
            last_level_only: true,
        });
        Flush::new(self.new_entries, stale)
    }

    /// Notes that the leaves in `span`, each of `bytes`, are overwritten.
    #[inline(always)]
    fn note_change(&mut self, span: Span, bytes: u64) {
        self.changed = match self.changed {
            None => Some((span, bytes)),
            Some((before, smallest)) => {
                let joined = Span {
                    ia: before.ia.min(span.ia),
                    end: before.end.max(span.end),
                };
                Some((joined, smallest.min(bytes)))
            }
        };
    }
}

/// A set of tables in some memory.
pub(crate) struct Engine<'m, G, M> {
    memory: &'m M,
    base: u64,
    geometry: core::marker::PhantomData<G>,
}

impl<'m, G: Geometry, M: TableMemory<G>> Engine<'m, G, M> {
    pub(crate) fn new(memory: &'m M, base: VirtAddr) -> Self {
        Self {
            memory,
            base: base.as_u64(),
            geometry: core::marker::PhantomData,
        }
    }

    pub(crate) fn plan_from_root<E, P>(
        &self,
        root: PhysAddr,
        span: Span,
        edit: &E,
        permit: &P,
    ) -> Result<Plan, MapError>
    where
        E: Edit<G>,
        P: Fn(Level, VirtAddr) -> Result<(), MapError>,
    {
        let va = VirtAddr::new(self.base | span.ia);
        let table = self.table(root, G::START_LEVEL, va)?;
        let mut plan = Plan::default();
        self.plan(table, G::START_LEVEL, span, edit, permit, &mut plan)?;
        Ok(plan)
    }

    pub(crate) fn write_from_root<E, R>(
        &self,
        root: PhysAddr,
        span: Span,
        edit: &E,
        plan: &Plan,
        frames: &mut Option<R>,
    ) where
        E: Edit<G>,
        R: ReservedFrames<Frame = M::Frame>,
    {
        if let Some(table) = self.memory.table(root) {
            self.write(table, G::START_LEVEL, span, edit, !plan.keeps, frames);
        }
    }

    fn plan<E, P>(
        &self,
        table: &G::Table,
        level: Level,
        span: Span,
        edit: &E,
        permit: &P,
        plan: &mut Plan,
    ) -> Result<(), MapError>
    where
        E: Edit<G>,
        P: Fn(Level, VirtAddr) -> Result<(), MapError>,
    {
        let entries = table.as_ref();
        let covered = wholly_covered::<G>(span, level);
        let run = entries.get(covered.clone()).filter(|run| !run.is_empty());
        let run_span = run_span::<G>(span, level, &covered);
        let surveyed = run.and_then(|run| edit.survey(level, run_span.ia, run));
        match surveyed {
            None => {}
            Some(Survey::Keep) => plan.keeps = true,
            Some(Survey::AllNew) => plan.new_entries = true,
            Some(Survey::AllChange) => plan.note_change(run_span, G::entry_bytes(level)),
        }
        let answered = if surveyed.is_some() { covered } else { 0..0 };
        for (index, part, whole) in parts_but::<G>(span, level, &answered) {
            let place = Place {
                base: self.base,
                level,
                span: part,
                whole,
            };
            let old = load(entries, index);
            let step = match old.kind::<G>(level) {
                Kind::Table => {
                    let next = self.table(old.output::<G>(), level + 1, place.va())?;
                    self.plan(next, level + 1, part, edit, permit, plan)?;
                    continue;
                }
                Kind::Invalid => edit.hole(place)?,
                Kind::Leaf => edit.leaf(place, old)?,
                Kind::Reserved => {
                    return Err(MapError::ReservedDescriptor {
                        va: place.va(),
                        level,
                        old,
                    });
                }
            };
            match step {
                Step::Keep => plan.keeps = true,
                Step::Write(_) if old.is_valid() => plan.note_change(part, G::entry_bytes(level)),
                Step::Write(_) => plan.new_entries = true,
                Step::Build => {
                    permit(level + 1, place.va())?;
                    plan.tables += tables_below::<G>(level, part, edit.first_leaf_level());
                    plan.new_entries = true;
                }
            }
        }
        Ok(())
    }

    /// Carries out a plan. `all` says that no block or page of the span stays as it is.
    fn write<E, R>(
        &self,
        table: &G::Table,
        level: Level,
        span: Span,
        edit: &E,
        all: bool,
        frames: &mut Option<R>,
    ) where
        E: Edit<G>,
        R: ReservedFrames<Frame = M::Frame>,
    {
        let entries = table.as_ref();
        if all && level == LAST_LEVEL {
            let covered = wholly_covered::<G>(span, level);
            return edit.overwrite(span.ia, entries.get(covered).unwrap_or(&[]));
        }

        for (index, part, whole) in parts::<G>(span, level) {
            let place = Place {
                base: self.base,
                level,
                span: part,
                whole,
            };
            let old = load(entries, index);
            let step = match old.kind::<G>(level) {
                Kind::Table => {
                    if let Some(next) = self.memory.table(old.output::<G>()) {
                        self.write(next, level + 1, part, edit, all, frames);
                    }
                    continue;
                }
                Kind::Invalid => edit.hole(place),
                Kind::Leaf => edit.leaf(place, old),
                Kind::Reserved => continue,
            };
            match step {
                // Not possible after the plan, where the same question was answered.
                Err(_) => {}
                Ok(Step::Keep) => {}
                Ok(Step::Write(new)) => store(entries, index, new),
                Ok(Step::Build) => {
                    if let Some(frames) = frames.as_mut() {
                        let pa = self.build(level + 1, part, edit, frames);
                        self.memory.before_link();
                        store(entries, index, Descriptor::table::<G>(pa));
                    }
                }
            }
        }
    }

    /// Builds the table at `level` for `span` and all tables below it, in frames that nobody sees.
    fn build<E, R>(&self, level: Level, span: Span, edit: &E, frames: &mut R) -> PhysAddr
    where
        E: Edit<G>,
        R: ReservedFrames<Frame = M::Frame>,
    {
        let (pa, mut frame) = frames.take();
        let table: &mut G::Table = &mut frame;
        let entries = table.as_mut();
        let first = G::index(span.ia, level);
        let last = G::index(span.end - 1, level);
        for entry in entries.iter_mut().take(first) {
            *entry.get_mut() = Descriptor::INVALID.bits();
        }
        for entry in entries.iter_mut().skip(last + 1) {
            *entry.get_mut() = Descriptor::INVALID.bits();
        }

        let covered = wholly_covered::<G>(span, level);
        let leaves = if level >= edit.first_leaf_level() {
            covered
        } else {
            first..first
        };
        if let Some(run) = entries
            .get_mut(leaves.clone())
            .filter(|run| !run.is_empty())
        {
            edit.fill(level, run_span::<G>(span, level, &leaves).ia, run);
        }
        if level < LAST_LEVEL {
            for (index, part, _) in parts_but::<G>(span, level, &leaves) {
                let next = self.build(level + 1, part, edit, frames);
                if let Some(entry) = entries.get_mut(index) {
                    *entry.get_mut() = Descriptor::table::<G>(next).bits();
                }
            }
        }
        self.memory.publish(pa, frame);
        pa
    }

    fn table(&self, pa: PhysAddr, level: Level, va: VirtAddr) -> Result<&'m G::Table, MapError> {
        self.memory
            .table(pa)
            .ok_or(MapError::UnreachableTable { pa, va, level })
    }
}

/// One single-copy atomic load: a table walker may be reading, and a CPU with `TCR_EL1.HA` writing.
#[inline(always)]
pub(crate) fn load(entries: &[AtomicU64], index: usize) -> Descriptor {
    Descriptor::from_bits(entries.get(index).map_or(0, |entry| entry.load(Relaxed)))
}

#[inline(always)]
fn store(entries: &[AtomicU64], index: usize, new: Descriptor) {
    if let Some(entry) = entries.get(index) {
        entry.store(new.bits(), Relaxed);
    }
}
