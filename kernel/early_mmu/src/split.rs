//! Cutting blocks and contiguous runs where a range begins and ends.

use core::sync::atomic::AtomicU64;

use crate::descriptor::{self as bits, Descriptor, Kind};
use crate::edit::denies;
use crate::engine::load;
use crate::flush::{Flush, Stale};
use crate::geometry::{Geometry, LAST_LEVEL, Level};
use crate::live::BreakBeforeMake;
use crate::memory::{Budget, ReservedFrames, TableAlloc, TableMemory};
use crate::span::{Span, run_bytes};
use crate::{Flags, MapError, PageTable, PhysAddr, TlbMaintenance, VirtAddr};

/// A leaf that an input address lies in the middle of.
struct Found<'t> {
    entries: &'t [AtomicU64],
    level: Level,
    old: Descriptor,
}

/// The two addresses at which a range is cut off from its surroundings.
#[derive(Clone, Copy)]
struct Cuts([u64; 2]);

impl Cuts {
    const fn around(span: Span) -> Self {
        Self([span.ia, span.end])
    }

    /// Those that lie within the `bytes` from `ia` on, not at their beginning.
    fn inside(self, ia: u64, bytes: u64) -> impl Iterator<Item = u64> {
        let inside = move |cut: &u64| ia < *cut && *cut - ia < bytes;
        self.0.into_iter().filter(inside)
    }

    fn any_inside(self, ia: u64, bytes: u64) -> bool {
        self.inside(ia, bytes).next().is_some()
    }

    /// The first address of the range in the block at `ia`.
    fn first_in(self, ia: u64) -> u64 {
        self.0[0].max(ia)
    }

    /// The number of tables that take the place of a block at `level`: one for each entry, down to the
    /// pages, that a cut lies inside.
    fn tables_for<G: Geometry>(self, level: Level, block: u64) -> usize {
        let mut tables = 0;
        for below in level..LAST_LEVEL {
            let inside_entry = |cut: &u64| *cut & (G::entry_bytes(below) - 1) != 0;
            let cuts = self
                .inside(block, G::entry_bytes(level))
                .filter(inside_entry);
            let mut entries = cuts.map(|cut| cut >> G::entry_shift(below));
            let (first, second) = (entries.next(), entries.next());
            tables += usize::from(first.is_some());
            tables += usize::from(second.is_some() && second != first);
        }
        tables
    }
}

impl<G: Geometry, M: TableMemory<G>> PageTable<G, M> {
    /// Splits what lies across the two ends of a range: blocks into tables, contiguous runs into
    /// single entries. Afterwards the range can be unmapped, or its protection changed. All
    /// translations stay. Linux 6.18: `split_kernel_leaf_mapping`.
    ///
    /// Not more than needed: a block becomes the largest pieces that do not lie across an end, with
    /// the Contiguous hint unless `flags` has `NO_CONT`. `NO_EXEC` is for new tables.
    ///
    /// At [`BbmLevel::Level2`](crate::BbmLevel::Level2) TLBs may hold the old size beside the new one until the
    /// flush: execute it before a protection changes here, as they may differ in nothing else.
    ///
    /// # Errors
    ///
    /// `OutOfFrames`, or what `alloc` says; `DeniedByTable` if `NO_EXEC` would take execution away;
    /// the errors of a bad range, and of damaged tables.
    pub fn split<A, T>(
        &mut self,
        va: VirtAddr,
        size_bytes: u64,
        flags: Flags,
        alloc: &mut A,
        live: BreakBeforeMake<'_, T>,
    ) -> Result<Flush, MapError>
    where
        A: TableAlloc<Frame = M::Frame>,
        T: TlbMaintenance,
    {
        let span = self.check_range(va, size_bytes)?;
        self.split_where(span, flags, Some, alloc, live)
    }

    /// The exact number of table frames that [`split`](Self::split) would take.
    ///
    /// # Errors
    ///
    /// As `split`, except `OutOfFrames`.
    pub fn tables_needed_to_split(
        &self,
        va: VirtAddr,
        size_bytes: u64,
        flags: Flags,
    ) -> Result<usize, MapError> {
        let span = self.check_range(va, size_bytes)?;
        self.plan_cuts(Cuts::around(span), flags, Some, |_, _| Ok(()))
    }

    /// [`split`](Self::split) of those leaves that will become something else; see [`plan_cuts`](Self::plan_cuts).
    pub(crate) fn split_where<A, T>(
        &mut self,
        span: Span,
        flags: Flags,
        becomes: impl Fn(Descriptor) -> Option<Descriptor>,
        alloc: &mut A,
        live: BreakBeforeMake<'_, T>,
    ) -> Result<Flush, MapError>
    where
        A: TableAlloc<Frame = M::Frame>,
        T: TlbMaintenance,
    {
        let cuts = Cuts::around(span);
        let tables = self.plan_cuts(cuts, flags, &becomes, |level, va| {
            alloc.missing_table(level, va)
        })?;
        let mut frames = Budget::reserve(alloc, tables)?;
        Ok(self.cut(cuts, flags, becomes, &mut frames, live))
    }

    /// The number of tables that it takes to cut. Checks all that could fail.
    ///
    /// `becomes` says what a leaf that lies across a cut will be on the inside, once it is cut; `None` leaves
    /// it uncut.
    fn plan_cuts(
        &self,
        cuts: Cuts,
        flags: Flags,
        becomes: impl Fn(Descriptor) -> Option<Descriptor>,
        permit: impl Fn(Level, VirtAddr) -> Result<(), MapError>,
    ) -> Result<usize, MapError> {
        let mut tables = 0;
        let mut counted = None;
        for cut in cuts.0 {
            let Some(Found { level, old, .. }) = self.leaf_across(cut)? else {
                continue;
            };
            let bytes = G::entry_bytes(level);
            let Some(new) = becomes(old).filter(|_| cut & (bytes - 1) != 0) else {
                continue;
            };
            let va = VirtAddr::new(self.base.as_u64() | cut);
            for below in level..LAST_LEVEL {
                if cut & (G::entry_bytes(below) - 1) == 0 {
                    break;
                }
                permit(below + 1, va)?;
            }
            let block = cut & !(bytes - 1);
            let denied = [old, new].iter().any(|leaf| denies(NO_EXEC, leaf.bits()));
            if flags.contains(Flags::NO_EXEC) && denied {
                return Err(MapError::DeniedByTable {
                    va: VirtAddr::new(self.base.as_u64() | cuts.first_in(block)),
                    level,
                    table: NO_EXEC,
                });
            }
            if counted != Some(block) {
                tables += cuts.tables_for::<G>(level, block);
            }
            counted = Some(block);
        }
        Ok(tables)
    }

    /// Cuts, after [`plan_cuts`](Self::plan_cuts) with the same arguments. All translations stay.
    fn cut<R, T>(
        &mut self,
        cuts: Cuts,
        flags: Flags,
        becomes: impl Fn(Descriptor) -> Option<Descriptor>,
        frames: &mut Budget<R>,
        live: BreakBeforeMake<'_, T>,
    ) -> Flush
    where
        R: ReservedFrames<Frame = M::Frame>,
        T: TlbMaintenance,
    {
        let mut flush = Flush::NOTHING;
        for cut in cuts.0 {
            // The second cut finds what the first has left to do.
            let Ok(Some(Found {
                entries,
                level,
                old,
            })) = self.leaf_across(cut)
            else {
                continue;
            };
            if becomes(old).is_none() {
                continue;
            }
            let bytes = G::entry_bytes(level);
            if old.is_contiguous() {
                let run = cut & !(run_bytes::<G>(level) - 1);
                let first = G::index(run, level);
                let entries = entries.get(first..first + (1 << G::run_shift(level)));
                let stale = self.stale(run, run_bytes::<G>(level), bytes);
                live.replace(entries.unwrap_or(&[]), stale, &mut flush, |old| {
                    Descriptor::from_bits(old.bits() & !bits::CONTIGUOUS)
                });
            }
            if cut & (bytes - 1) == 0 {
                continue;
            }
            let block = cut & !(bytes - 1);
            let Some(frames) = frames.spend(cuts.tables_for::<G>(level, block)) else {
                continue;
            };
            let leaf = Leaf {
                ia: block,
                pa: old.output::<G>().align_down(bytes),
                attributes: old.attributes::<G>() & !bits::CONTIGUOUS,
            };
            let table = self.build_pieces(level + 1, leaf, cuts, flags, frames);
            self.memory.before_link();
            let index = G::index(block, level);
            let entry = entries.get(index..index + 1).unwrap_or(&[]);
            let link = link::<G>(table, leaf, flags);
            live.replace(entry, self.stale(block, bytes, bytes), &mut flush, |_| link);
        }
        flush
    }

    /// The leaf in the middle of which `ia` lies, or in the middle of whose run.
    fn leaf_across(&self, ia: u64) -> Result<Option<Found<'_>>, MapError> {
        if ia >> G::VA_BITS != 0 {
            return Ok(None);
        }
        let va = VirtAddr::new(self.base.as_u64() | ia);
        let (mut level, mut pa) = (G::START_LEVEL, self.root);
        loop {
            let Some(table) = self.memory.table(pa) else {
                return Err(MapError::UnreachableTable { pa, va, level });
            };
            let entries = table.as_ref();
            let old = load(entries, G::index(ia, level));
            match old.kind::<G>(level) {
                Kind::Invalid => return Ok(None),
                Kind::Reserved => return Err(MapError::ReservedDescriptor { va, level, old }),
                Kind::Table => {
                    pa = old.output::<G>();
                    level += 1;
                }
                Kind::Leaf => {
                    let unit = if old.is_contiguous() {
                        run_bytes::<G>(level)
                    } else {
                        G::entry_bytes(level)
                    };
                    let across = ia & (unit - 1) != 0;
                    return Ok(across.then_some(Found {
                        entries,
                        level,
                        old,
                    }));
                }
            }
        }
    }

    /// Builds the table at `level` that translates as `leaf` does, and those below it that the cuts
    /// need, in frames that nobody sees.
    fn build_pieces<R>(
        &self,
        level: Level,
        leaf: Leaf,
        cuts: Cuts,
        flags: Flags,
        frames: &mut R,
    ) -> PhysAddr
    where
        R: ReservedFrames<Frame = M::Frame>,
    {
        let (pa, mut frame) = frames.take();
        let table: &mut G::Table = &mut frame;
        let (bytes, run_bytes) = (G::entry_bytes(level), run_bytes::<G>(level));
        let may_hint = run_bytes > bytes && !flags.contains(Flags::NO_CONT);
        let mut piece = leaf;
        for run in table.as_mut().chunks_mut(1 << G::run_shift(level)) {
            if !cuts.any_inside(piece.ia, run_bytes) {
                let hint = if may_hint { bits::CONTIGUOUS } else { 0 };
                let first = Descriptor::leaf::<G>(level, piece.pa, piece.attributes | hint);
                // Within an aligned block no address carries into bits that stand elsewhere.
                let mut next = first.bits();
                for entry in run {
                    *entry.get_mut() = next;
                    next = next.wrapping_add(bytes);
                }
                piece = piece.behind(run_bytes);
                continue;
            }
            for entry in run {
                let new = if level < LAST_LEVEL && cuts.any_inside(piece.ia, bytes) {
                    let next = self.build_pieces(level + 1, piece, cuts, flags, frames);
                    link::<G>(next, leaf, flags)
                } else {
                    Descriptor::leaf::<G>(level, piece.pa, piece.attributes)
                };
                *entry.get_mut() = new.bits();
                piece = piece.behind(bytes);
            }
        }
        self.memory.publish(pa, frame);
        pa
    }

    /// What TLBs may hold of leaves of `stride_bytes` each.
    pub(crate) fn stale(&self, ia: u64, bytes: u64, stride_bytes: u64) -> Stale {
        Stale::new::<G>(
            self.base,
            Span {
                ia,
                end: ia + bytes,
            },
            stride_bytes,
            true,
        )
    }
}

/// A block or page, or a piece of one.
#[derive(Clone, Copy)]
struct Leaf {
    ia: u64,
    pa: PhysAddr,
    attributes: u64,
}

impl Leaf {
    /// The piece that begins `bytes` further up.
    fn behind(self, bytes: u64) -> Self {
        Self {
            ia: self.ia.wrapping_add(bytes),
            pa: PhysAddr::new(self.pa.as_u64().wrapping_add(bytes)),
            ..self
        }
    }
}

/// The limit that [`Flags::NO_EXEC`] puts on new tables.
const NO_EXEC: Descriptor = Descriptor::from_bits(bits::PXN_TABLE);

/// The descriptor of a table with pieces of `leaf`.
fn link<G: Geometry>(table: PhysAddr, leaf: Leaf, flags: Flags) -> Descriptor {
    let forbidden = if flags.contains(Flags::NO_EXEC) {
        NO_EXEC.bits()
    } else {
        0
    };
    // Who built the leaf may run it at EL0.
    let permitted = if leaf.attributes & bits::UXN == 0 {
        bits::UXN_TABLE
    } else {
        0
    };
    Descriptor::from_bits((Descriptor::table::<G>(table).bits() | forbidden) & !permitted)
}
