//! Ranges of input addresses, and how the entries of a table divide them.

use core::ops::Range;

use crate::geometry::{Geometry, LAST_LEVEL, Level};

/// A range of input addresses: virtual addresses without the bits that choose `TTBR0` or `TTBR1`, so
/// that the end of the address space is not the end of the number range.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Span {
    pub(crate) ia: u64,
    /// Exclusive; greater than `ia`.
    pub(crate) end: u64,
}

/// What a contiguous run at `level` translates, in bytes; the same as one entry where there are none.
#[inline(always)]
pub(crate) fn run_bytes<G: Geometry>(level: Level) -> u64 {
    G::entry_bytes(level) << G::run_shift(level)
}

/// The entries of one table at `level` that `span` touches: index, part of the span, and whether the
/// part is all that the entry translates.
#[inline(always)]
pub(crate) fn parts<G: Geometry>(
    span: Span,
    level: Level,
) -> impl Iterator<Item = (usize, Span, bool)> {
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

/// [`parts`] without those whose index lies in `run`.
#[inline(always)]
pub(crate) fn parts_but<G: Geometry>(
    span: Span,
    level: Level,
    run: &Range<usize>,
) -> impl Iterator<Item = (usize, Span, bool)> {
    let (before, after) = around::<G>(span, level, run);
    parts::<G>(before, level).chain(parts::<G>(after, level))
}

/// What is left of `span` on either side of the entries `run`.
#[inline(always)]
fn around<G: Geometry>(span: Span, level: Level, run: &Range<usize>) -> (Span, Span) {
    if run.is_empty() {
        let nothing = Span {
            ia: span.end,
            end: span.end,
        };
        return (span, nothing);
    }
    let run = run_span::<G>(span, level, run);
    let before = Span {
        ia: span.ia,
        end: run.ia,
    };
    let after = Span {
        ia: run.end,
        end: span.end,
    };
    (before, after)
}

/// The entries of one table at `level` that `span` touches but those in `run`, in chunks: each run of
/// 2^`run_shift` entries that the span covers whole is one chunk, every other entry is one of its own.
#[inline(always)]
pub(crate) fn chunks_but<G: Geometry>(
    span: Span,
    level: Level,
    run_shift: u32,
    run: &Range<usize>,
) -> impl Iterator<Item = (Range<usize>, Span)> {
    let (before, after) = around::<G>(span, level, run);
    chunks::<G>(before, level, run_shift).chain(chunks::<G>(after, level, run_shift))
}

#[inline(always)]
fn chunks<G: Geometry>(
    span: Span,
    level: Level,
    run_shift: u32,
) -> impl Iterator<Item = (Range<usize>, Span)> {
    let entry_bytes = G::entry_bytes(level);
    let run_bytes = entry_bytes << run_shift;
    let mut ia = span.ia;
    core::iter::from_fn(move || {
        if ia >= span.end {
            return None;
        }
        let (bytes, entries) = if ia & (run_bytes - 1) == 0 && span.end - ia >= run_bytes {
            (run_bytes, 1 << run_shift)
        } else {
            (entry_bytes, 1)
        };
        let part = Span {
            ia,
            end: ((ia | (bytes - 1)) + 1).min(span.end),
        };
        ia = part.end;
        let index = G::index(part.ia, level);
        Some((index..index + entries, part))
    })
}

/// The indices of the entries at `level` that lie wholly within `span`, which one table translates.
#[inline(always)]
pub(crate) fn wholly_covered<G: Geometry>(span: Span, level: Level) -> Range<usize> {
    let inside = G::entry_bytes(level) - 1;
    let start = G::index(span.ia, level) + usize::from(span.ia & inside != 0);
    let end = G::index(span.end - 1, level) + usize::from(span.end & inside == 0);
    start..end.max(start)
}

/// The input addresses that the entries `run`, wholly within `span`, translate.
#[inline(always)]
pub(crate) fn run_span<G: Geometry>(span: Span, level: Level, run: &Range<usize>) -> Span {
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
pub(crate) fn tables_below<G: Geometry>(
    level: Level,
    span: Span,
    first_leaf_level: Level,
) -> usize {
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
