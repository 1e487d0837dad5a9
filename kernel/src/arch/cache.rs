//! Data-cache maintenance to the point of coherency.
//!
//! Needed wherever memory is reached with the caches off on one side and on on
//! the other: the early stage writes tables that the walker reads cached.
//!
//! Ranges are of addresses as they are mapped now: physical ones with the MMU
//! off, virtual ones after.

use platform::range::PhysRange;

unsafe extern "C" {
    fn dcache_inval_poc(start: u64, end: u64);
    fn dcache_clean_inval_poc(start: u64, end: u64);
    fn dcache_clean_poc(start: u64, end: u64);
}

/// Makes what others wrote cached visible to uncached reads of `range`.
pub fn clean(range: PhysRange) {
    // SAFETY: cleaning writes back what is dirty and changes no program's view.
    unsafe { dcache_clean_poc(range.start, range.end) }
}

/// Empties the caches of `range` before it is written uncached: a line left
/// dirty there could be evicted over it at any time.
pub fn clean_and_invalidate(range: PhysRange) {
    // SAFETY: dirty lines are written back, so no data is lost.
    unsafe { dcache_clean_inval_poc(range.start, range.end) }
}

/// Drops cached copies of `range` after it was written uncached.
///
/// # Safety
/// Nobody may have written `range`, or what shares its cache lines, through
/// the caches since [`clean_and_invalidate`]: such data would be lost.
pub unsafe fn invalidate(range: PhysRange) {
    // SAFETY: the caller answers for dirty lines.
    unsafe { dcache_inval_poc(range.start, range.end) }
}
