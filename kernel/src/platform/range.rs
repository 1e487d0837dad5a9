//! Half-open ranges of physical addresses, and a sorted list of them.

use core::fmt;

/// A half-open range of physical addresses, in bytes; never wraps.
#[derive(Clone, Copy, PartialEq, Eq, Default)]
pub struct PhysRange {
    /// First byte.
    pub start: u64,
    /// One past the last byte.
    pub end: u64,
}

impl PhysRange {
    /// The range of `size_bytes` at `start`; `None` if it is empty or wraps.
    pub const fn new(start: u64, size_bytes: u64) -> Option<Self> {
        match start.checked_add(size_bytes) {
            Some(end) if size_bytes != 0 => Some(Self { start, end }),
            _ => None,
        }
    }

    /// The range of `size_bytes` at `start`, cut off where it would wrap; `None`
    /// if it is empty.
    pub const fn clipped(start: u64, size_bytes: u64) -> Option<Self> {
        let end = start.saturating_add(size_bytes);
        if start < end {
            Some(Self { start, end })
        } else {
            None
        }
    }

    /// Its length in bytes.
    pub const fn size_bytes(self) -> u64 {
        self.end - self.start
    }

    /// The part of it that lies in `other`.
    pub fn intersect(self, other: Self) -> Option<Self> {
        let start = self.start.max(other.start);
        let end = self.end.min(other.end);
        (start < end).then_some(Self { start, end })
    }

    /// Whether `other` lies wholly in it.
    pub const fn contains(self, other: Self) -> bool {
        self.start <= other.start && other.end <= self.end
    }

    /// Shrunk to multiples of `align_bytes` (a power of two).
    pub fn align_inward(self, align_bytes: u64) -> Option<Self> {
        let start = self.start.checked_next_multiple_of(align_bytes)?;
        let end = self.end & !(align_bytes - 1);
        (start < end).then_some(Self { start, end })
    }

    /// Grown to multiples of `align_bytes` (a power of two); at the top of the
    /// address space to the last one there is.
    pub fn align_outward(self, align_bytes: u64) -> Self {
        let mask = align_bytes - 1;
        Self {
            start: self.start & !mask,
            end: self
                .end
                .checked_next_multiple_of(align_bytes)
                .unwrap_or(!mask),
        }
    }
}

impl fmt::Debug for PhysRange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl fmt::Display for PhysRange {
    /// As Linux prints memory: first and last byte.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "[mem {:#018x}-{:#018x}]",
            self.start,
            self.end.wrapping_sub(1)
        )
    }
}

/// The list holds as many ranges as it can.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ListFull;

impl fmt::Display for ListFull {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("more ranges than this kernel keeps")
    }
}

/// Up to `N` disjoint ranges in ascending order; neighbours are merged.
#[derive(Clone, Copy)]
pub struct RangeList<const N: usize> {
    ranges: [PhysRange; N],
    len: usize,
}

impl<const N: usize> fmt::Debug for RangeList<N> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(self.as_slice(), f)
    }
}

impl<const N: usize> Default for RangeList<N> {
    fn default() -> Self {
        Self::new()
    }
}

impl<const N: usize> RangeList<N> {
    /// An empty list.
    pub const fn new() -> Self {
        Self {
            ranges: [PhysRange { start: 0, end: 0 }; N],
            len: 0,
        }
    }

    /// The ranges, ascending and disjoint.
    pub fn as_slice(&self) -> &[PhysRange] {
        self.ranges.get(..self.len).unwrap_or(&[])
    }

    /// Adds `range`, merged with all it overlaps or touches; nothing if it is empty.
    ///
    /// # Errors
    /// [`ListFull`], and the list is as it was.
    pub fn insert(&mut self, range: PhysRange) -> Result<(), ListFull> {
        if range.start >= range.end {
            return Ok(());
        }
        let ranges = self.as_slice();
        let first = ranges
            .iter()
            .position(|r| r.end >= range.start)
            .unwrap_or(ranges.len());
        let mut merged = range;
        let mut touched = 0;
        for r in &ranges[first..] {
            if r.start > range.end {
                break;
            }
            merged.start = merged.start.min(r.start);
            merged.end = merged.end.max(r.end);
            touched += 1;
        }
        let new_len = self.len + 1 - touched;
        if new_len > N {
            return Err(ListFull);
        }
        let tail = first + touched..self.len;
        self.ranges.copy_within(tail, first + 1);
        self.ranges[first] = merged;
        self.len = new_len;
        Ok(())
    }

    /// Their lengths added up, in bytes.
    pub fn size_bytes(&self) -> u64 {
        self.as_slice().iter().map(|r| r.size_bytes()).sum()
    }

    /// The parts of `range` that no range of the list covers, ascending.
    pub fn gaps_in(&self, range: PhysRange) -> Gaps<'_> {
        Gaps {
            left: range,
            covered: self.as_slice(),
        }
    }
}

/// What [`RangeList::gaps_in`] finds.
#[derive(Clone, Debug, Default)]
pub struct Gaps<'a> {
    left: PhysRange,
    covered: &'a [PhysRange],
}

impl Iterator for Gaps<'_> {
    type Item = PhysRange;

    // One copy for everybody who looks for memory.
    #[inline(never)]
    fn next(&mut self) -> Option<PhysRange> {
        while let Some((first, rest)) = self.covered.split_first() {
            if first.start >= self.left.end {
                break;
            }
            let gap = PhysRange {
                start: self.left.start,
                end: first.start,
            };
            self.left.start = self.left.start.max(first.end);
            self.covered = rest;
            if gap.start < gap.end {
                return Some(gap);
            }
        }
        let last = self.left;
        self.left.start = last.end;
        (last.start < last.end).then_some(last)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::xorshift::Xorshift;
    use std::vec;
    use std::vec::Vec;

    fn range(start: u64, end: u64) -> PhysRange {
        PhysRange { start, end }
    }

    fn list(of: &[(u64, u64)]) -> RangeList<4> {
        let mut list = RangeList::new();
        for &(start, end) in of {
            list.insert(range(start, end)).unwrap();
        }
        list
    }

    #[test]
    fn empty_and_wrapping_ranges_do_not_exist() {
        assert_eq!(PhysRange::new(5, 0), None);
        assert_eq!(PhysRange::new(u64::MAX, 2), None);
        assert_eq!(PhysRange::new(1, u64::MAX - 1), Some(range(1, u64::MAX)));
    }

    #[test]
    fn alignment_shrinks_and_grows() {
        assert_eq!(
            range(1, 0x2fff).align_inward(0x1000),
            Some(range(0x1000, 0x2000))
        );
        assert_eq!(range(1, 0xfff).align_inward(0x1000), None);
        assert_eq!(range(1, 0x2fff).align_outward(0x1000), range(0, 0x3000));
        assert_eq!(range(u64::MAX - 1, u64::MAX).align_inward(0x1000), None);
        let top = u64::MAX - 0xfff;
        assert_eq!(
            range(top - 1, u64::MAX).align_outward(0x1000),
            range(top - 0x1000, top)
        );
    }

    #[test]
    fn clipped_ranges_end_where_addresses_do() {
        assert_eq!(PhysRange::clipped(5, 0), None);
        assert_eq!(PhysRange::clipped(5, 2), Some(range(5, 7)));
        assert_eq!(PhysRange::clipped(7, u64::MAX), Some(range(7, u64::MAX)));
        assert_eq!(PhysRange::clipped(u64::MAX, 1), None);
    }

    #[test]
    fn insert_sorts_and_merges() {
        assert_eq!(
            list(&[(8, 9), (1, 2), (4, 5)]).as_slice(),
            [range(1, 2), range(4, 5), range(8, 9)]
        );
        assert_eq!(list(&[(1, 2), (4, 5), (2, 4)]).as_slice(), [range(1, 5)]);
        assert_eq!(list(&[(1, 9), (3, 4)]).as_slice(), [range(1, 9)]);
        assert_eq!(list(&[(3, 4), (6, 7), (1, 9)]).as_slice(), [range(1, 9)]);
        assert_eq!(list(&[(1, 3), (3, 5)]).as_slice(), [range(1, 5)]);
    }

    #[test]
    fn a_full_list_refuses_and_stays() {
        let mut full = list(&[(1, 2), (3, 4), (5, 6), (7, 8)]);
        assert_eq!(full.insert(range(10, 11)), Err(ListFull));
        assert_eq!(
            full.as_slice(),
            list(&[(1, 2), (3, 4), (5, 6), (7, 8)]).as_slice()
        );
        // One that merges still fits.
        full.insert(range(2, 3)).unwrap();
        assert_eq!(full.as_slice(), [range(1, 4), range(5, 6), range(7, 8)]);
    }

    #[test]
    fn gaps_are_what_is_not_covered() {
        let gaps =
            |of: &[(u64, u64)], start, end| list(of).gaps_in(range(start, end)).collect::<Vec<_>>();
        assert_eq!(gaps(&[], 3, 9), vec![range(3, 9)]);
        assert_eq!(
            gaps(&[(4, 5), (7, 8)], 3, 9),
            vec![range(3, 4), range(5, 7), range(8, 9)]
        );
        assert_eq!(gaps(&[(1, 4), (8, 20)], 3, 9), vec![range(4, 8)]);
        assert_eq!(gaps(&[(1, 20)], 3, 9), vec![]);
        assert_eq!(gaps(&[(1, 2), (30, 40)], 3, 9), vec![range(3, 9)]);
    }

    /// Against a list of addresses that are in or not.
    #[test]
    fn lists_agree_with_a_map_of_every_address() {
        let mut random = Xorshift::new(0x5eed_0004);
        for _ in 0..2000 {
            let mut list = RangeList::<6>::new();
            let mut map = [false; 48];
            for _ in 0..12 {
                let start = random.below(40);
                let end = start + random.below(8);
                let before = list;
                if list.insert(range(start, end)).is_ok() {
                    map[start as usize..end as usize].fill(true);
                } else {
                    assert_eq!(before.as_slice().len(), 6);
                    assert_eq!(list.as_slice(), before.as_slice());
                }
                let ranges = list.as_slice();
                assert!(ranges.iter().all(|r| r.start < r.end));
                assert!(ranges.is_sorted_by(|a, b| a.end < b.start));
                let inside = |at: u64| ranges.iter().any(|r| r.start <= at && at < r.end);
                assert!((0..48).all(|at| inside(at) == map[at as usize]));
                assert_eq!(
                    list.size_bytes(),
                    map.iter().filter(|&&is| is).count() as u64
                );
                let part = range(random.below(24), 24 + random.below(24));
                let gaps: Vec<_> = list.gaps_in(part).collect();
                assert!(gaps.is_sorted_by(|a, b| a.end < b.start));
                let in_gap = |at: u64| gaps.iter().any(|r| r.start <= at && at < r.end);
                assert!((0..48).all(|at| {
                    let asked = part.start <= at && at < part.end;
                    in_gap(at) == (asked && !map[at as usize])
                }));
            }
        }
    }
}
