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

/// A run of frames that are nobody else's.
#[derive(Debug)]
pub struct FrameRun {
    window: TableWindow,
    free: PhysRange,
}

impl FrameRun {
    /// Frames of `range`, page-aligned.
    ///
    /// # Safety
    /// Nobody else uses `range`, now or later, and it is reachable by `window`.
    pub unsafe fn new(window: TableWindow, range: PhysRange) -> Self {
        Self {
            window,
            free: range,
        }
    }

    /// How many are left.
    pub fn available(&self) -> usize {
        (self.free.size_bytes() / PAGE_SIZE) as usize
    }

    fn take(&mut self) -> (PhysAddr, Frame) {
        let pa = PhysAddr::new(self.free.start);
        self.free.start += PAGE_SIZE;
        assert!(
            self.free.start <= self.free.end,
            "more table frames taken than reserved"
        );
        // SAFETY: new()'s caller gave the run away; each page is taken once.
        (pa, unsafe { self.window.frame(pa) })
    }
}

impl TableAlloc for FrameRun {
    type Frame = Frame;
    type Reserved<'a> = Reserved<'a, 'a>;

    fn reserve(&mut self, needed: usize) -> Result<Reserved<'_, '_>, MapError> {
        let available = self.available();
        if available < needed {
            return Err(MapError::OutOfFrames { needed, available });
        }
        let start = self.free.start;
        self.free.start += needed as u64 * PAGE_SIZE;
        let run = Self {
            window: self.window,
            free: PhysRange {
                start,
                end: self.free.start,
            },
        };
        Ok(Reserved {
            run,
            source: None,
            left: needed,
        })
    }
}

/// Frames from free RAM, while the MMU is off.
pub struct MemblockFrames<'m> {
    memblock: &'m mut Memblock,
    window: TableWindow,
    within: PhysRange,
    count: usize,
}

impl<'m> MemblockFrames<'m> {
    /// Frames from what is free in `memblock` and lies in `within`.
    ///
    /// # Safety
    /// What `memblock` says is free must be RAM that nobody uses, and reachable
    /// by `window`.
    pub unsafe fn new(memblock: &'m mut Memblock, window: TableWindow, within: PhysRange) -> Self {
        Self {
            memblock,
            window,
            within,
            count: 0,
        }
    }

    /// The memory that allocation draws on.
    pub fn memblock(&self) -> &Memblock {
        self.memblock
    }

    /// How many were taken.
    pub fn count(&self) -> usize {
        self.count
    }

    /// At most `needed` of the frames that reserve() has found.
    fn next_run(&mut self, needed: usize) -> FrameRun {
        let size_bytes = needed as u64 * PAGE_SIZE;
        let piece = self
            .memblock
            .allocate_piece(size_bytes, PAGE_SIZE, self.within);
        let range = match piece {
            Ok(range) => range,
            Err(error) => panic!("table frames: {error}"),
        };
        // Whoever ran before may have left lines of it dirty.
        cache::clean_and_invalidate(range);
        // SAFETY: free memory until now, by new()'s caller; nobody else gets it.
        unsafe { FrameRun::new(self.window, range) }
    }
}

impl<'m> TableAlloc for MemblockFrames<'m> {
    type Frame = Frame;
    type Reserved<'a>
        = Reserved<'a, 'm>
    where
        Self: 'a;

    fn reserve(&mut self, needed: usize) -> Result<Reserved<'_, 'm>, MapError> {
        let available = self.memblock.free_units(PAGE_SIZE, self.within) as usize;
        if available < needed {
            return Err(MapError::OutOfFrames { needed, available });
        }
        self.count += needed;
        // SAFETY: there is no frame in it.
        let run = unsafe { FrameRun::new(self.window, PhysRange { start: 0, end: 0 }) };
        Ok(Reserved {
            run,
            source: Some(self),
            left: needed,
        })
    }
}

/// Frames that are free for sure: nobody else can allocate while this borrows. One type
/// for both sources, so that there is one copy of the code that writes tables.
pub struct Reserved<'a, 'm> {
    run: FrameRun,
    /// Where the next run comes from: one, where memory has it, else as many as it takes.
    source: Option<&'a mut MemblockFrames<'m>>,
    left: usize,
}

impl ReservedFrames for Reserved<'_, '_> {
    type Frame = Frame;

    fn take(&mut self) -> (PhysAddr, Frame) {
        if let (0, Some(source)) = (self.run.available(), &mut self.source) {
            self.run = source.next_run(self.left);
        }
        self.left -= 1;
        self.run.take()
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
pub unsafe fn static_frames(window: TableWindow) -> FrameRun {
    let start = image::runtime_text().start + image::static_tables_offset();
    let range = PhysRange {
        start,
        end: start + STATIC_TABLES as u64 * PAGE_SIZE,
    };
    // SAFETY: head.S sets them aside, and nobody refers to them but through the
    // one run.
    unsafe { FrameRun::new(window, range) }
}
