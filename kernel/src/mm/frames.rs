//! Frames for new tables: from a static pool for image and fixmap, from free
//! RAM for the linear map.

use early_mmu::{Geometry as _, MapError, PhysAddr, ReservedFrames, TableAlloc};
use platform::memblock::Memblock;
use platform::range::PhysRange;

use crate::arch::cache;
use crate::arch::mmu::TableWindow;

use super::fixmap::FIXADDR_END;
use super::image;
use super::layout::{
    FIXADDR_START, Geometry, IMAGE_MAX_BYTES, IdentityGeometry, LEVEL2_BLOCK_SIZE, PAGE_SIZE, Table,
};

/// One table frame.
pub type Frame = &'static mut Table;

/// Where frames come from: a run that nobody else uses, and free RAM once it is used up.
/// One type for both, so that there is one copy of the code that builds tables.
#[derive(Debug)]
pub struct Frames<'m> {
    window: TableWindow,
    run: PhysRange,
    ram: Option<FreeRam<'m>>,
    count: usize,
}

/// Free RAM, while the MMU is off.
#[derive(Debug)]
struct FreeRam<'m> {
    memblock: &'m mut Memblock,
    within: PhysRange,
}

impl<'m> Frames<'m> {
    /// The frames of `run`, page-aligned.
    ///
    /// # Safety
    /// Nobody else uses `run`, now or later, and it is reachable by `window`.
    pub unsafe fn of_run(window: TableWindow, run: PhysRange) -> Self {
        Self {
            window,
            run,
            ram: None,
            count: 0,
        }
    }

    /// Frames from what is free in `memblock` and lies in `within`.
    ///
    /// # Safety
    /// What `memblock` says is free must be RAM that nobody uses, and reachable
    /// by `window`.
    pub unsafe fn of_ram(
        memblock: &'m mut Memblock,
        window: TableWindow,
        within: PhysRange,
    ) -> Self {
        Self {
            window,
            run: PhysRange { start: 0, end: 0 },
            ram: Some(FreeRam { memblock, within }),
            count: 0,
        }
    }

    /// How many were reserved.
    pub fn count(&self) -> usize {
        self.count
    }
}

impl FreeRam<'_> {
    /// At most `needed` of the frames that reserve() has found.
    fn next_run(&mut self, needed: usize) -> PhysRange {
        let size_bytes = needed as u64 * PAGE_SIZE;
        let piece = self
            .memblock
            .allocate_piece(size_bytes, PAGE_SIZE, self.within);
        let run = match piece {
            Ok(run) => run,
            Err(error) => panic!("table frames: {error}"),
        };
        // Whoever ran before may have left lines of it dirty.
        cache::clean_and_invalidate(run);
        run
    }
}

impl<'m> TableAlloc for Frames<'m> {
    type Frame = Frame;
    type Reserved<'a>
        = Reserved<'a, 'm>
    where
        Self: 'a;

    fn reserve(&mut self, needed: usize) -> Result<Reserved<'_, 'm>, MapError> {
        let available = match &self.ram {
            Some(ram) => ram.memblock.free_units(PAGE_SIZE, ram.within),
            None => self.run.size_bytes() / PAGE_SIZE,
        } as usize;
        if available < needed {
            return Err(MapError::OutOfFrames { needed, available });
        }
        self.count += needed;
        Ok(Reserved {
            frames: self,
            left: needed,
        })
    }
}

/// Frames that are there for sure: nobody else can allocate while this borrows.
pub struct Reserved<'a, 'm> {
    frames: &'a mut Frames<'m>,
    left: usize,
}

impl ReservedFrames for Reserved<'_, '_> {
    type Frame = Frame;

    fn take(&mut self) -> (PhysAddr, Frame) {
        assert!(self.left > 0, "more table frames taken than reserved");
        let Frames {
            window, run, ram, ..
        } = self.frames;
        if let (true, Some(ram)) = (run.start == run.end, ram) {
            *run = ram.next_run(self.left);
        }
        self.left -= 1;
        let pa = PhysAddr::new(run.start);
        run.start += PAGE_SIZE;
        // SAFETY: whoever made the Frames gave the run, or all free RAM, away; reserve()
        // saw that so many pages are there, and each is taken once.
        (pa, unsafe { window.frame(pa) })
    }
}

/// How many frames it takes at most to map image, fixmap, and in the identity map
/// two devices: a table at each level below the root, but for the last one's of
/// image and fixmap.
pub const STATIC_TABLES: usize = {
    let levels = Geometry::LEVELS as usize;
    let image = IMAGE_MAX_BYTES.div_ceil(LEVEL2_BLOCK_SIZE) as usize;
    let fixmap = ((FIXADDR_END - FIXADDR_START) / LEVEL2_BLOCK_SIZE) as usize;
    (levels - 2 + image) + (levels - 2 + fixmap) + 2 * (IdentityGeometry::LEVELS as usize - 1)
};

/// The static frames, while the MMU is off.
///
/// # Safety
/// Once only.
pub unsafe fn static_frames(window: TableWindow) -> Frames<'static> {
    let start = image::runtime_text().start + image::static_tables_offset();
    let run = PhysRange {
        start,
        end: start + STATIC_TABLES as u64 * PAGE_SIZE,
    };
    // SAFETY: head.S sets them aside, and nobody refers to them but through the
    // one run.
    unsafe { Frames::of_run(window, run) }
}
