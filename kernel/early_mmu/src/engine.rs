//! The engine: one recursion that plans and one that writes, for all levels and all operations.
//!
//! Planning only reads. It finds every reason to refuse, counts the tables that are missing and notes
//! what would change. Writing follows the same way through the tables and cannot fail: nothing else
//! writes in between, as the caller holds `&mut PageTable`.
//!
//! There is one copy of it for all operations, which it asks through `dyn Edit`: an emulator translates each
//! copy that runs anew, and a run of entries is one question, however long it is.

use core::sync::atomic::{AtomicU64, Ordering::Relaxed};

use crate::descriptor::{Descriptor, Kind};
use crate::edit::{Edit, Step, Survey, check_holes};
use crate::flush::{Flush, Stale};
use crate::geometry::{Geometry, LAST_LEVEL, Level};
use crate::memory::{Budget, ReservedFrames, TableMemory};
use crate::span::{
    Part, Span, parts, parts_but, run_bytes, run_span, tables_below, wholly_covered,
};
use crate::{MapError, PhysAddr, VirtAddr};

/// An entry, and the part of a request that it translates.
#[derive(Clone, Copy)]
pub(crate) struct Place {
    base: u64,
    pub(crate) level: Level,
    pub(crate) span: Span,
    /// Whether the span is all that the entry translates.
    pub(crate) whole: bool,
    /// Whether the request covers all of the contiguous run to which the entry would belong.
    pub(crate) whole_run: bool,
}

impl Place {
    /// The first virtual address of the part.
    #[inline(always)]
    pub(crate) fn va(&self) -> VirtAddr {
        VirtAddr::new(self.base | self.span.ia)
    }
}

/// Whether a table may be built at a level for an address: the allocation policy's answer.
pub(crate) type Permit<'a> = dyn Fn(Level, VirtAddr) -> Result<(), MapError> + 'a;

/// What an operation will do.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Plan {
    /// Tables to be built.
    pub(crate) tables: usize,
    /// Whether invalid entries become valid.
    new_entries: bool,
    /// Whether any entry of the span does not become what [`Edit::overwrite`] would write: because it
    /// stays as it is, or because only a part of a contiguous run was free.
    uneven: bool,
    /// Input addresses of the first and behind the last leaf that is overwritten, and the size of
    /// the smallest.
    changed: Option<(Span, u64)>,
}

impl Plan {
    pub(crate) fn writes_nothing(&self) -> bool {
        self.tables == 0 && !self.new_entries && self.changed.is_none()
    }

    pub(crate) fn flush<G: Geometry>(&self, base: VirtAddr) -> Flush {
        let stale = self
            .changed
            .map(|(span, stride_bytes)| Stale::new::<G>(base, span, stride_bytes, true));
        Flush::new(self.new_entries, stale)
    }

    #[inline(always)]
    fn note(&mut self, answer: Survey, span: Span, bytes: u64) {
        match answer {
            Survey::Keep => self.uneven = true,
            Survey::AllNew => self.new_entries = true,
            Survey::AllChange => self.note_change(span, bytes),
        }
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

    pub(crate) fn plan_from_root(
        &self,
        root: PhysAddr,
        span: Span,
        edit: &dyn Edit<G>,
        permit: &Permit<'_>,
    ) -> Result<Plan, MapError> {
        let va = VirtAddr::new(self.base | span.ia);
        let table = self.table(root, G::START_LEVEL, va)?;
        let mut plan = Plan::default();
        self.plan(table, G::START_LEVEL, span, edit, permit, &mut plan)?;
        Ok(plan)
    }

    pub(crate) fn write_from_root<R>(
        &self,
        root: PhysAddr,
        span: Span,
        edit: &dyn Edit<G>,
        plan: &Plan,
        frames: &mut Budget<R>,
    ) where
        R: ReservedFrames<Frame = M::Frame>,
    {
        if let Some(table) = self.memory.table(root) {
            self.write(table, G::START_LEVEL, span, edit, !plan.uneven, frames);
        }
    }

    fn plan(
        &self,
        table: &G::Table,
        level: Level,
        span: Span,
        edit: &dyn Edit<G>,
        permit: &Permit<'_>,
        plan: &mut Plan,
    ) -> Result<(), MapError> {
        let entries = table.as_ref();
        let covered = wholly_covered::<G>(span, level);
        let run = entries.get(covered.clone()).filter(|run| !run.is_empty());
        let run_span = run_span::<G>(span, level, &covered);
        let surveyed = run.and_then(|run| edit.survey(level, run_span.ia, run));
        let entry_bytes = G::entry_bytes(level);
        let mut parts = match surveyed {
            None => parts::<G>(span, level).in_runs(edit.run_shift(level)),
            Some(answer) => {
                if matches!(answer, Survey::AllNew) {
                    let va = VirtAddr::new(self.base | run_span.ia);
                    check_holes::<G>(entries, level, &covered, va)?;
                }
                plan.note(answer, run_span, entry_bytes);
                parts_but::<G>(span, level, run_span)
            }
        };
        // The run of which it is known that holes in it may be filled.
        let mut checked = None;
        while let Some(part) = parts.next() {
            if let Some(run) = part.run() {
                match edit.survey(level, part.span.ia, entries.get(run).unwrap_or(&[])) {
                    Some(answer) => plan.note(answer, part.span, entry_bytes),
                    None => parts.split(&part),
                }
                continue;
            }
            let index = part.index;
            let place = self.place(level, span, &part);
            let old = load(entries, index);
            let step = match old.kind::<G>(level) {
                Kind::Table => {
                    if edit.is_denied_by(old) {
                        return Err(MapError::DeniedByTable {
                            va: place.va(),
                            level,
                            table: old,
                        });
                    }
                    let next = self.table(old.output::<G>(), level + 1, place.va())?;
                    self.plan(next, level + 1, part.span, edit, permit, plan)?;
                    continue;
                }
                Kind::Invalid => {
                    let step = edit.hole(place)?;
                    let run = index >> G::run_shift(level);
                    if !matches!(step, Step::Keep) && checked != Some(run) {
                        check_holes::<G>(entries, level, &(index..index + 1), place.va())?;
                        checked = Some(run);
                    }
                    step
                }
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
                Step::Keep => plan.uneven = true,
                Step::Write(new) => {
                    plan.uneven |= !edit.is_even(place, span, new);
                    if old.is_valid() {
                        plan.note_change(part.span, entry_bytes);
                    } else {
                        plan.new_entries = true;
                    }
                }
                Step::Build => {
                    permit(level + 1, place.va())?;
                    plan.tables += tables_below::<G>(level, part.span, edit.first_leaf_level());
                    plan.new_entries = true;
                }
            }
        }
        Ok(())
    }

    /// Carries out a plan. `all` says that every entry becomes what [`Edit::overwrite`] writes.
    fn write<R>(
        &self,
        table: &G::Table,
        level: Level,
        span: Span,
        edit: &dyn Edit<G>,
        all: bool,
        frames: &mut Budget<R>,
    ) where
        R: ReservedFrames<Frame = M::Frame>,
    {
        let entries = table.as_ref();
        if all && level == LAST_LEVEL {
            let covered = wholly_covered::<G>(span, level);
            return edit.overwrite(level, span.ia, entries.get(covered).unwrap_or(&[]));
        }

        let mut parts = parts::<G>(span, level).in_runs(edit.run_shift(level));
        while let Some(part) = parts.next() {
            if let Some(run) = part.run() {
                let run = entries.get(run).unwrap_or(&[]);
                match edit.survey(level, part.span.ia, run) {
                    None => parts.split(&part),
                    Some(Survey::Keep) => {}
                    Some(Survey::AllNew | Survey::AllChange) => {
                        edit.overwrite(level, part.span.ia, run);
                    }
                }
                continue;
            }
            let index = part.index;
            let place = self.place(level, span, &part);
            let old = load(entries, index);
            let step = match old.kind::<G>(level) {
                Kind::Table => {
                    if let Some(next) = self.memory.table(old.output::<G>()) {
                        self.write(next, level + 1, part.span, edit, all, frames);
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
                    let needed = tables_below::<G>(level, part.span, edit.first_leaf_level());
                    if let Some(frames) = frames.spend(needed) {
                        let pa = self.build(level + 1, part.span, edit, frames);
                        self.memory.before_link();
                        store(entries, index, edit.link(pa));
                    }
                }
            }
        }
    }

    /// Builds the table at `level` for `span` and all tables below it, in frames that nobody sees.
    fn build<R>(&self, level: Level, span: Span, edit: &dyn Edit<G>, frames: &mut R) -> PhysAddr
    where
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
        let filled = run_span::<G>(span, level, &leaves);
        if let Some(run) = entries.get_mut(leaves).filter(|run| !run.is_empty()) {
            edit.fill(level, filled.ia, run);
        }
        if level < LAST_LEVEL {
            for part in parts_but::<G>(span, level, filled) {
                let next = self.build(level + 1, part.span, edit, frames);
                if let Some(entry) = entries.get_mut(part.index) {
                    *entry.get_mut() = edit.link(next).bits();
                }
            }
        }
        self.memory.publish(pa, frame);
        pa
    }

    /// The entry for `part` of a request, of which `span` lies in the entry's table.
    #[inline(always)]
    fn place(&self, level: Level, span: Span, part: &Part) -> Place {
        let in_run = run_bytes::<G>(level) - 1;
        Place {
            base: self.base,
            level,
            span: part.span,
            whole: part.whole,
            whole_run: part.span.ia & !in_run >= span.ia && (part.span.ia | in_run) < span.end,
        }
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
