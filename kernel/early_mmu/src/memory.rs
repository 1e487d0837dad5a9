//! What the crate needs from its user: where tables are, and where frames for new ones come from.
//!
//! A frame is unlinked first: exclusively borrowed, arriving with any content, written entry by
//! entry exactly once. Then it is published, and from there on it is a table that a walker may read.

use core::convert::Infallible;
use core::marker::PhantomData;
use core::ops::DerefMut;
use core::panic::Location;

use crate::geometry::{Geometry, Level};
use crate::{MapError, PhysAddr, VirtAddr};

/// Where the tables are: from physical addresses to memory that can be read and written.
///
/// A kernel implements this once for each way it sees physical memory: at the same address while the
/// MMU is off, through its linear map later. A [`PageTable`](crate::PageTable) owns the value it is given, so let it
/// be `Copy`, or a reference: one for `TTBR0_EL1` and one for `TTBR1_EL1` then share it.
///
/// # Example
///
/// A linear map, and frames that are handed out once, one behind the other.
///
/// ```
/// use core::sync::atomic::AtomicU64;
/// use early_mmu::{Granule4K, MapError, PhysAddr, ReservedFrames, TableAlloc, TableMemory};
///
/// type Table = [AtomicU64; 512];
///
/// /// Where the linear map begins, and the RAM that it shows.
/// const LINEAR: u64 = 0xffff_0000_0000_0000;
/// const RAM: core::ops::Range<u64> = 0x4000_0000..0x4800_0000;
///
/// #[derive(Clone, Copy)]
/// struct LinearMap;
///
/// impl TableMemory<Granule4K<48>> for LinearMap {
///     type Frame = &'static mut Table;
///
///     fn table(&self, pa: PhysAddr) -> Option<&Table> {
///         let pa = pa.as_u64();
///         // SAFETY: RAM is mapped at LINEAR for good, and aligned, since descriptors hold no address that
///         // is not. What is a table is only ever accessed as atomics.
///         RAM.contains(&pa).then(|| unsafe { &*((LINEAR + pa - RAM.start) as *const Table) })
///     }
///
///     fn before_link(&self) {
///         // Not `nomem`: the compiler must not move stores across it either.
///         // unsafe { core::arch::asm!("dsb ishst", options(nostack, preserves_flags)) }
///     }
/// }
///
/// struct Bump {
///     /// Free RAM, whole pages, that nothing refers to.
///     free: core::ops::Range<u64>,
/// }
///
/// impl TableAlloc for Bump {
///     type Frame = &'static mut Table;
///     type Reserved<'a> = &'a mut Bump;
///
///     fn reserve(&mut self, needed: usize) -> Result<&mut Bump, MapError> {
///         let available = ((self.free.end - self.free.start) / 4096) as usize;
///         if needed > available {
///             return Err(MapError::OutOfFrames { needed, available });
///         }
///         Ok(self)
///     }
/// }
///
/// impl ReservedFrames for &mut Bump {
///     type Frame = &'static mut Table;
///
///     fn take(&mut self) -> (PhysAddr, &'static mut Table) {
///         let pa = self.free.start;
///         self.free.start += 4096;
///         // SAFETY: as in `table`; the page was free, and is handed out this once.
///         (PhysAddr::new(pa), unsafe { &mut *((LINEAR + pa - RAM.start) as *mut Table) })
///     }
/// }
/// ```
pub trait TableMemory<G: Geometry> {
    /// A frame that is linked nowhere, and so is ours alone: `&'static mut G::Table` in a kernel.
    type Frame: DerefMut<Target = G::Table>;

    /// The table at `pa`, or `None` if no table can be there.
    ///
    /// The address may come from a damaged descriptor: an implementation answers `None` for whatever
    /// it does not know to be table memory. It is called once per level of each walk, so be quick.
    fn table(&self, pa: PhysAddr) -> Option<&G::Table>;

    /// Takes a frame whose entries have all been written, before it is linked; from here on
    /// [`table`](Self::table) must know it.
    ///
    /// Where physical memory is simply there, nothing is left to do, and the default forgets the
    /// frame, so that the memory is the tables' from now on.
    fn publish(&self, pa: PhysAddr, frame: Self::Frame) {
        let _ = pa;
        core::mem::forget(frame);
    }

    /// Orders all entries written so far before the store that links their table: `dsb ishst` (Arm ARM
    /// DDI 0487, appendix "Barrier Litmus Tests", "Ensuring the visibility of updates to translation
    /// tables"; Linux: `init_clear_pgtable`).
    ///
    /// Called once for each subtree that is built, after the last of its tables was published and
    /// before the one store that makes it reachable. Without it a walker could read the link before
    /// the entries behind it, and take what the frame held earlier for descriptors.
    fn before_link(&self);
}

/// Where frames for new tables come from: the allocation policy of a call. Linux: the `pgtable_alloc`
/// argument of `__create_pgd_mapping`.
pub trait TableAlloc {
    /// What a frame is; the same as [`TableMemory::Frame`].
    type Frame;

    /// Frames that are set aside and can be taken without failing.
    type Reserved<'a>: ReservedFrames<Frame = Self::Frame>
    where
        Self: 'a;

    /// Asked while planning, at the place where a table is missing, before anything is written: may
    /// there be a new one? An error refuses the whole call.
    ///
    /// # Errors
    ///
    /// [`NoAlloc`] answers [`MapError::MissingTable`]; the default permits.
    #[inline(always)]
    fn missing_table(&self, level: Level, va: VirtAddr) -> Result<(), MapError> {
        let _ = (level, va);
        Ok(())
    }

    /// Sets `needed` frames aside. Called at most once per call of an operation, after everything
    /// else was checked and before the first write; exactly `needed` are then taken. `needed` is
    /// never 0.
    ///
    /// # Errors
    ///
    /// [`MapError::OutOfFrames`] if there are fewer; nothing was set aside then.
    fn reserve(&mut self, needed: usize) -> Result<Self::Reserved<'_>, MapError>;
}

/// Frames set aside by [`TableAlloc::reserve`].
pub trait ReservedFrames {
    /// What a frame is.
    type Frame;

    /// The next frame and its physical address, aligned to the granule and no wider than descriptors of the
    /// geometry can hold: it becomes the address in a table descriptor as it is. Its content may be anything.
    ///
    /// This cannot fail: it is called as often as was reserved, and never more often.
    fn take(&mut self) -> (PhysAddr, Self::Frame);
}

/// The frames that one operation has reserved, and how many of them are not spent.
///
/// Counted once more, since in damaged tables one table can be linked in two places: what was planned
/// for one of them may meet what was done in the other. More than was reserved is never taken.
pub(crate) struct Budget<R> {
    frames: Option<R>,
    left: usize,
}

impl<R: ReservedFrames> Budget<R> {
    /// Reserves `needed` frames, if any are.
    pub(crate) fn reserve<'a, A>(alloc: &'a mut A, needed: usize) -> Result<Self, MapError>
    where
        A: TableAlloc<Reserved<'a> = R>,
    {
        let frames = match needed {
            0 => None,
            needed => Some(alloc.reserve(needed)?),
        };
        Ok(Self {
            frames,
            left: needed,
        })
    }

    /// The frames, of which exactly `needed` are taken next.
    pub(crate) fn spend(&mut self, needed: usize) -> Option<&mut R> {
        self.left = self.left.checked_sub(needed)?;
        self.frames.as_mut()
    }
}

/// The policy that there is nothing to allocate from.
///
/// The promise is in the type: its [`TableAlloc::Reserved`] has no values, so the code that builds
/// and links tables is not in the compiled call at all. A missing table is found where it is
/// missing, not asserted at entry, where calls that need none would be refused as well.
#[derive(Debug)]
pub struct NoAlloc<F> {
    caller: &'static Location<'static>,
    frame: PhantomData<fn() -> F>,
}

impl<F> NoAlloc<F> {
    /// The policy, remembering who promised.
    #[must_use]
    #[track_caller]
    pub fn here() -> Self {
        Self {
            caller: Location::caller(),
            frame: PhantomData,
        }
    }
}

impl<F> TableAlloc for NoAlloc<F> {
    type Frame = F;
    type Reserved<'a>
        = NoFrames<F>
    where
        Self: 'a;

    #[inline(always)]
    fn missing_table(&self, level: Level, va: VirtAddr) -> Result<(), MapError> {
        Err(MapError::MissingTable {
            level,
            va,
            caller: self.caller,
        })
    }

    fn reserve(&mut self, needed: usize) -> Result<Self::Reserved<'_>, MapError> {
        Err(MapError::OutOfFrames {
            needed,
            available: 0,
        })
    }
}

/// The frames of [`NoAlloc`]: a type without values.
#[derive(Debug)]
pub struct NoFrames<F>(Infallible, PhantomData<fn() -> F>);

impl<F> ReservedFrames for NoFrames<F> {
    type Frame = F;

    fn take(&mut self) -> (PhysAddr, F) {
        match self.0 {}
    }
}
