//! The engine: one recursion that plans and one that writes, for all levels and all operations.
//!
//! Planning only reads. It finds every reason to refuse, counts the tables that are missing and notes
//! what would change. Writing follows the same way through the tables and cannot fail: nothing else
//! writes in between, as the caller holds `&mut PageTable`.

use core::ops::Range;
use core::sync::atomic::{AtomicU64, Ordering::Relaxed};

use crate::descriptor::{Descriptor, Kind};
use crate::edit::{Edit, Step, Survey};
use crate::flush::{Flush, Stale};
use crate::geometry::{Geometry, LAST_LEVEL, Level};
use crate::memory::{ReservedFrames, TableMemory};
use crate::{MapError, PhysAddr, VirtAddr};

/// A range of input addresses: virtual addresses without the bits that choose `TTBR0` or `TTBR1`, so
/// that the end of the address space is not the end of the number range.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Span {
    pub(crate) ia: u64,
    /// Exclusive; greater than `ia`.
    pub(crate) end: u64,
}

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

    /// Notes that the leaves in `span`, each of `bytes`, are overwritten. Spans come in order.
    #[inline(always)]
    fn note_change(&mut self, span: Span, bytes: u64) {
        self.changed = match self.changed {
            None => Some((span, bytes)),
            Some((before, smallest)) => Some((
                Span {
                    ia: before.ia,
                    end: span.end,
                },
                smallest.min(bytes),
            )),
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
        let run = entries.get(covered.clone()).unwrap_or(&[]);
        let surveyed = if run.is_empty() {
            None
        } else {
            edit.survey(level, run)
        };
        match surveyed {
            None => {}
            Some(Survey::Keep) => plan.keeps = true,
            Some(Survey::AllNew) => plan.new_entries = true,
            Some(Survey::AllChange) => {
                plan.note_change(run_span::<G>(span, level, &covered), G::entry_bytes(level));
            }
        }
        if surveyed.is_some() && level == LAST_LEVEL {
            return Ok(());
        }

        for (index, part, whole) in parts::<G>(span, level) {
            if whole && surveyed.is_some() {
                continue;
            }
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
            for (index, part, _) in parts::<G>(span, level) {
                if leaves.contains(&index) {
                    continue;
                }
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

/// The entries of one table at `level` that `span` touches: index, part of the span, and whether the
/// part is all that the entry translates.
#[inline(always)]
fn parts<G: Geometry>(span: Span, level: Level) -> impl Iterator<Item = (usize, Span, bool)> {
    let bytes = G::entry_bytes(level);
    let mut ia = span.ia;
    core::iter::from_fn(move || {
        if ia >= span.end {
            return None;
        }
        let part = Span {
            ia,
            end: ((ia | (bytes - 1)) + 1).min(span.end),
        };
        ia = part.end;
        Some((G::index(part.ia, level), part, part.end - part.ia == bytes))
    })
}

/// The indices of the entries at `level` that lie wholly within `span`, which one table translates.
#[inline(always)]
fn wholly_covered<G: Geometry>(span: Span, level: Level) -> Range<usize> {
    let inside = G::entry_bytes(level) - 1;
    let start = G::index(span.ia, level) + usize::from(span.ia & inside != 0);
    let end = G::index(span.end - 1, level) + usize::from(span.end & inside == 0);
    start..end.max(start)
}

/// The input addresses that the entries `run`, wholly within `span`, translate.
#[inline(always)]
fn run_span<G: Geometry>(span: Span, level: Level, run: &Range<usize>) -> Span {
    let bytes = G::entry_bytes(level);
    let table = span.ia & !((bytes << G::INDEX_BITS) - 1);
    Span {
        ia: table + run.start as u64 * bytes,
        end: table + run.end as u64 * bytes,
    }
}

/// The number of tables that an invalid entry at `level` needs below it, for `span` to be mapped.
///
/// At a level where leaves fit, only the entries that the span covers in part lead to a table; there
/// are two at most.
fn tables_below<G: Geometry>(level: Level, span: Span, first_leaf_level: Level) -> usize {
    let mut tables = 0;
    for level in level..LAST_LEVEL {
        let (shift, inside) = (G::entry_shift(level), G::entry_bytes(level) - 1);
        let (first, last) = (span.ia >> shift, (span.end - 1) >> shift);
        let (starts_inside, ends_inside) = (span.ia & inside != 0, span.end & inside != 0);
        tables += if level < first_leaf_level {
            (last - first + 1) as usize
        } else if first == last {
            usize::from(starts_inside || ends_inside)
        } else {
            usize::from(starts_inside) + usize::from(ends_inside)
        };
    }
    tables
}
