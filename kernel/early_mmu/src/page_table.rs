//! The operations: each checks its arguments, plans, and then writes without failing.

use core::marker::PhantomData;

use crate::edit::{Edit, Link, Map, Protect};
use crate::engine::{Engine, Permit, Plan};
use crate::error::Argument;
use crate::geometry::Geometry;
use crate::live::BreakBeforeMake;
use crate::memory::{Budget, NoAlloc, TableAlloc, TableMemory};
use crate::span::Span;
use crate::{Flags, Flush, MapError, PhysAddr, Prot, TlbMaintenance, VirtAddr};

/// Which half of the 64-bit virtual address space a set of tables translates (Arm ARM DDI 0487, chapter
/// D8, "Translation process").
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum VaRange {
    /// From 0 upwards, through `TTBR0_EL1`.
    Lower,
    /// Up to the last address there is, through `TTBR1_EL1`.
    Upper,
}

impl VaRange {
    /// The lowest address of the range, for a geometry.
    #[must_use]
    #[inline(always)]
    pub fn base<G: Geometry>(self) -> VirtAddr {
        match self {
            Self::Lower => VirtAddr::new(0),
            Self::Upper => VirtAddr::new(!0 << G::VA_BITS),
        }
    }
}

/// What to map where.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Mapping {
    /// The first virtual address; a multiple of the granule.
    pub va: VirtAddr,
    /// The physical address that it translates to; a multiple of the granule.
    pub pa: PhysAddr,
    /// The size in bytes; a multiple of the granule, not 0. The mapping may end exactly at the top
    /// of the address space.
    pub size_bytes: u64,
    /// What the mapping permits.
    pub prot: Prot,
}

/// A set of translation tables: a root, the half of the address space it serves, and the memory
/// where its tables are.
///
/// The value is a view: it owns no table, and any number of them can be made for the same root over
/// time, as the way in which the kernel sees memory changes. Never two at once that write: that is
/// the caller's lock to hold, as `&mut self` says.
///
/// Each table is taken to be linked in one place. Where somebody else built tables that are shared (Linux: the
/// KASAN zero shadow), leave them out of [`unmap`](Self::unmap) and [`merge`](Self::merge), which would give them
/// up while the other link is there.
#[derive(Debug)]
pub struct PageTable<G: Geometry, M: TableMemory<G>> {
    pub(crate) root: PhysAddr,
    range: VaRange,
    /// The lowest address of the range.
    pub(crate) base: VirtAddr,
    pub(crate) memory: M,
    output_bits: u32,
    geometry: PhantomData<G>,
}

impl<G: Geometry, M: TableMemory<G>> PageTable<G, M> {
    /// A view of the tables whose root is the table at `root`.
    ///
    /// The root of an empty address space is a table of zeroes.
    #[must_use]
    pub fn new(root: PhysAddr, range: VaRange, memory: M) -> Self {
        const {
            assert!(
                size_of::<G::Table>() == 8 << G::INDEX_BITS,
                "Geometry::Table must be [AtomicU64; 1 << INDEX_BITS]"
            );
            assert!(G::VA_BITS < 64 && G::OA_BITS < 64, "Geometry: too wide");
        }
        let base = range.base::<G>();
        Self {
            root,
            range,
            base,
            memory,
            output_bits: G::OA_BITS,
            geometry: PhantomData,
        }
    }

    /// Refuses physical addresses wider than `bits` too: what the CPU implements
    /// (`ID_AA64MMFR0_EL1.PARange`, `TCR_EL1.IPS`), where that is less than the geometry can hold.
    #[must_use]
    pub fn with_output_bits(mut self, bits: u32) -> Self {
        self.output_bits = bits.min(G::OA_BITS);
        self
    }

    /// Physical address of the root table, for `TTBRn_EL1.BADDR`. Above 48 bits it does not stand there as
    /// it is: with 52-bit addresses bits 51:48 go into bits 5:2 of the register (Linux: `phys_to_ttbr`).
    #[must_use]
    pub fn root(&self) -> PhysAddr {
        self.root
    }

    /// Which half of the address space these tables translate.
    #[must_use]
    pub fn range(&self) -> VaRange {
        self.range
    }

    /// The memory in which the tables are.
    #[must_use]
    pub fn memory(&self) -> &M {
        &self.memory
    }

    /// Maps a range; tables that are missing come from `alloc`. Linux: `create_pgd_mapping`.
    ///
    /// Uses the largest blocks that address, size and `flags` allow, within the tables that are
    /// there: an existing table is never replaced by a block. What is already mapped as asked stays
    /// as it is and costs no write; a permission that differs is changed.
    ///
    /// # Errors
    ///
    /// Everything in [`MapError`] but `NotMapped`; `MissingTable` only from a policy that refuses.
    pub fn create_mapping<A>(
        &mut self,
        mapping: Mapping,
        flags: Flags,
        alloc: &mut A,
    ) -> Result<Flush, MapError>
    where
        A: TableAlloc<Frame = M::Frame>,
    {
        let span = self.check_mapping(&mapping)?;
        self.run(span, &Map::new::<G>(&mapping, span, flags), alloc)
    }

    /// Maps a range using only tables that are there. Linux: `create_mapping_noalloc`.
    ///
    /// There is no allocator to call: see [`NoAlloc`]. New leaves are written where the tables for
    /// them exist ([`create_tables`](Self::create_tables) makes sure of it).
    ///
    /// # Errors
    ///
    /// [`MapError::MissingTable`], with this call's location, where a table is missing; otherwise as
    /// [`create_mapping`](Self::create_mapping), except `OutOfFrames`.
    #[track_caller]
    pub fn create_mapping_noalloc(
        &mut self,
        mapping: Mapping,
        flags: Flags,
    ) -> Result<Flush, MapError> {
        self.create_mapping(mapping, flags, &mut NoAlloc::here())
    }

    /// Changes what a mapped range permits; never maps, never allocates. Linux:
    /// `update_mapping_prot`, `set_memory_ro` and its like.
    ///
    /// Whole blocks and pages change. Output address, size, `nG`, `GP`, the Contiguous hint and the software
    /// bits stay.
    ///
    /// # Errors
    ///
    /// [`MapError::NotMapped`] at a hole; `WouldSplitBlock` and `WouldSplitRun` where part of a block or of a
    /// contiguous run would change; `NeedsBreakBeforeMake` for another memory type; `DeniedByTable` for what a
    /// table above takes away; the errors of a bad range, and of damaged tables.
    #[track_caller]
    pub fn update_mapping_prot(
        &mut self,
        va: VirtAddr,
        size_bytes: u64,
        prot: Prot,
    ) -> Result<Flush, MapError> {
        let span = self.check_range(va, size_bytes)?;
        self.run(span, &Protect::new::<G>(prot), &mut NoAlloc::here())
    }

    /// [`update_mapping_prot`](Self::update_mapping_prot) for any part of a block or a contiguous run:
    /// what the range covers in part is split first, with tables from `alloc`. Linux 6.18:
    /// `split_kernel_leaf_mapping`, then the change.
    ///
    /// All is checked before the split begins. `flags` are for the pieces: `NO_CONT`, `NO_EXEC`.
    ///
    /// # Errors
    ///
    /// As `update_mapping_prot` but `WouldSplitBlock` and `WouldSplitRun`; `OutOfFrames`, or what
    /// `alloc` says; `DeniedByTable` also if `NO_EXEC` would take away what `prot` permits.
    ///
    /// Only damaged tables can be refused after the split: a contiguous run with holes, or of entries that differ; a
    /// table that is linked in two places. They translate as before then, in smaller pieces.
    pub fn update_mapping_prot_splitting<A, T>(
        &mut self,
        va: VirtAddr,
        size_bytes: u64,
        prot: Prot,
        flags: Flags,
        alloc: &mut A,
        live: BreakBeforeMake<'_, T>,
    ) -> Result<Flush, MapError>
    where
        A: TableAlloc<Frame = M::Frame>,
        T: TlbMaintenance,
    {
        let span = self.check_range(va, size_bytes)?;
        let whole = Protect::new::<G>(prot);
        self.plan(span, &whole.splitting(), &|_, _| Ok(()))?;
        let mut split = self.split_where(span, flags, |leaf| whole.changed(leaf), alloc, live)?;
        // Old and new sizes may be in a TLB at once only as long as they say the same.
        live.settle(&mut split);
        // Nothing is covered in part any more.
        let changed = self.run(span, &whole, &mut NoAlloc::here())?;
        Ok(split.merge(changed))
    }

    /// Links all tables down to the last level over a range and maps nothing: afterwards
    /// [`create_mapping_noalloc`](Self::create_mapping_noalloc) finds every table in it. Linux:
    /// `early_fixmap_init`.
    ///
    /// # Errors
    ///
    /// [`MapError::WouldSplitBlock`] where a block is mapped; `OutOfFrames`, or what `alloc` says; the
    /// errors of a bad range, and of damaged tables.
    pub fn create_tables<A>(
        &mut self,
        va: VirtAddr,
        size_bytes: u64,
        alloc: &mut A,
    ) -> Result<Flush, MapError>
    where
        A: TableAlloc<Frame = M::Frame>,
    {
        let span = self.check_range(va, size_bytes)?;
        self.run(span, &Link, alloc)
    }

    /// The exact number of table frames that [`create_mapping`](Self::create_mapping) would take.
    ///
    /// # Errors
    ///
    /// As `create_mapping`, except `OutOfFrames`.
    pub fn tables_needed(&self, mapping: Mapping, flags: Flags) -> Result<usize, MapError> {
        let span = self.check_mapping(&mapping)?;
        Ok(self
            .plan(span, &Map::new::<G>(&mapping, span, flags), &|_, _| Ok(()))?
            .tables)
    }

    /// Plans, reserves, writes: the course of every operation.
    fn run<A>(&mut self, span: Span, edit: &dyn Edit<G>, alloc: &mut A) -> Result<Flush, MapError>
    where
        A: TableAlloc<Frame = M::Frame>,
    {
        let plan = self.plan(span, edit, &|level, va| alloc.missing_table(level, va))?;
        if plan.writes_nothing() {
            return Ok(Flush::NOTHING);
        }
        let mut frames = Budget::reserve(alloc, plan.tables)?;
        self.engine()
            .write_from_root(self.root, span, edit, &plan, &mut frames);
        Ok(plan.flush::<G>(self.base))
    }

    /// Finds out what `edit` would write, without writing. `permit` is asked where a table is missing.
    pub(crate) fn plan(
        &self,
        span: Span,
        edit: &dyn Edit<G>,
        permit: &Permit<'_>,
    ) -> Result<Plan, MapError> {
        self.engine().plan_from_root(self.root, span, edit, permit)
    }

    fn engine(&self) -> Engine<'_, G, M> {
        Engine::new(&self.memory, self.base)
    }

    /// `va` without the bits that choose the range, as the walk takes it; `None` if it lies outside.
    #[inline(always)]
    pub(crate) fn input_address(&self, va: VirtAddr) -> Option<u64> {
        let ia = va.as_u64() ^ self.base.as_u64();
        if ia >> G::VA_BITS == 0 {
            Some(ia)
        } else {
            None
        }
    }

    /// A range of virtual addresses as a span of input addresses, if it can be one.
    pub(crate) fn check_range(&self, va: VirtAddr, size_bytes: u64) -> Result<Span, MapError> {
        if size_bytes == 0 {
            return Err(MapError::ZeroSize);
        }
        check_aligned::<G>(Argument::Va, va.as_u64())?;
        check_aligned::<G>(Argument::Size, size_bytes)?;
        let last = check_last(Argument::Va, va.as_u64(), size_bytes)?;
        let Some(ia) = self.input_address(va) else {
            return Err(MapError::OutsideRange { va });
        };
        if self.input_address(VirtAddr::new(last)).is_none() {
            return Err(MapError::OutsideRange {
                va: VirtAddr::new(1 << G::VA_BITS),
            });
        }
        Ok(Span {
            ia,
            end: ia + size_bytes,
        })
    }

    fn check_mapping(&self, mapping: &Mapping) -> Result<Span, MapError> {
        let span = self.check_range(mapping.va, mapping.size_bytes)?;
        check_aligned::<G>(Argument::Pa, mapping.pa.as_u64())?;
        let last = check_last(Argument::Pa, mapping.pa.as_u64(), mapping.size_bytes)?;
        if last >> self.output_bits != 0 {
            return Err(MapError::OutputAddressTooWide {
                pa: PhysAddr::new(last),
            });
        }
        Ok(span)
    }
}

fn check_aligned<G: Geometry>(which: Argument, value: u64) -> Result<(), MapError> {
    if value & (G::GRANULE_BYTES - 1) == 0 {
        Ok(())
    } else {
        Err(MapError::Misaligned { which, value })
    }
}

/// The last address of a range, which may be the last there is.
fn check_last(which: Argument, start: u64, size_bytes: u64) -> Result<u64, MapError> {
    start.checked_add(size_bytes - 1).ok_or(MapError::Wraps {
        which,
        start,
        size_bytes,
    })
}
