//! Memory for tables: one stretch, touched beforehand, handed out page by page. A physical address is the
//! address here, for everyone.

use std::alloc::{Layout, alloc};
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};

pub const FRAME: usize = 4096;
/// More than any case needs.
const FRAMES: usize = 4096;

static NEXT: AtomicUsize = AtomicUsize::new(0);
static END: AtomicUsize = AtomicUsize::new(0);

/// Touches all of it, and leaves dirt behind.
pub fn prepare() {
    let layout = Layout::from_size_align(FRAMES * FRAME, FRAME).expect("a layout");
    // SAFETY: the layout is not empty.
    let base = unsafe { alloc(layout) };
    assert!(!base.is_null());
    // SAFETY: all of it was just allocated.
    unsafe { base.write_bytes(0xa5, FRAMES * FRAME) };
    NEXT.store(base as usize, Relaxed);
    END.store(base as usize + FRAMES * FRAME, Relaxed);
}

/// The next frame, as dirty as it is.
#[inline(always)]
pub fn frame() -> usize {
    let frame = NEXT.load(Relaxed);
    NEXT.store(frame + FRAME, Relaxed);
    assert!(frame < END.load(Relaxed), "out of frames");
    frame
}

/// The next frame, all zeroes, for those who want it so.
#[inline(always)]
pub fn zeroed_frame() -> usize {
    let frame = frame();
    // SAFETY: a frame of the arena that nobody else has.
    unsafe { (frame as *mut u8).write_bytes(0, FRAME) };
    frame
}

/// Frames left, not counting what was given back.
pub fn left() -> usize {
    (END.load(Relaxed) - NEXT.load(Relaxed)) / FRAME
}
