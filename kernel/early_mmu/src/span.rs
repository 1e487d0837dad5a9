//! Ranges of input addresses, and how the entries of a table divide them.

use core::marker::PhantomData;
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

/// Entries of one table, and the part of a span that they translate: one, or a contiguous run.
pub(crate) struct Part {
    pub(crate) index: usize,
    pub(crate) entries: usize,
    pub(crate) span: Span,
    /// Whether the part is all that the entries translate.
    pub(crate) whole: bool,
}

impl Part {
    /// The indices of a run; `None` for a single entry.
    #[inline(always)]
    pub(crate) fn run(&self) -> Option<Range<usize>> {
        (self.entries > 1).then_some(self.index..self.index + self.entries)
    }
}

/// The entries of one table that a span touches, ascending.
pub(crate) struct Parts<G> {
    level: Level,
    ia: u64,
    end: u64,
    /// What is left out: whole entries, or nothing.
    but: Span,
    run_shift: u32,
    /// Below this address also the runs that the span covers whole come entry by entry.
    single_until: u64,
    geometry: PhantomData<G>,
}

/// Entry by entry.
#[inline(always)]
pub(crate) fn parts<G: Geometry>(span: Span, level: Level) -> Parts<G> {
    let nothing = Span {
        ia: span.end,
        end: span.end,
    };
    parts_but(span, level, nothing)
}

/// Entry by entry, without those that translate `but`, which the span covers whole.
#[inline(always)]
pub(crate) fn parts_but<G: Geometry>(span: Span, level: Level, but: Span) -> Parts<G> {
    Parts {
        level,
        ia: span.ia,
        end: span.end,
        but,
        run_shift: 0,
        single_until: 0,
        geometry: PhantomData,
    }
}

impl<G: Geometry> Parts<G> {
    /// The same with each run of 2^`run_shift` entries that the span covers whole as one part.
    #[inline(always)]
    pub(crate) fn in_runs(self, run_shift: u32) -> Self {
        Self { run_shift, ..self }
    }

    /// The entries of `run`, the last part, come again one by one.
    #[inline(always)]
    pub(crate) fn split(&mut self, run: &Part) {
        self.ia = run.span.ia;
        self.single_until = run.span.end;
    }
}

impl<G: Geometry> Iterator for Parts<G> {
    type Item = Part;

    #[inline(always)]
    fn next(&mut self) -> Option<Part> {
        if self.ia == self.but.ia {
            self.ia = self.but.end;
        }
        let ia = self.ia;
        if ia >= self.end {
            return None;
        }
        let entry_bytes = G::entry_bytes(self.level);
        let run_bytes = entry_bytes << self.run_shift;
        let is_run =
            ia & (run_bytes - 1) == 0 && self.end - ia >= run_bytes && ia >= self.single_until;
        let (bytes, entries) = if is_run {
            (run_bytes, 1 << self.run_shift)
        } else {
            (entry_bytes, 1)
        };
        let end = ((ia | (bytes - 1)) + 1).min(self.end);
        self.ia = end;
        Some(Part {
            index: G::index(ia, self.level),
            entries,
            span: Span { ia, end },
            whole: end - ia == bytes,
        })
    }
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
