//! Which physical memory there is, and which of it is free: enough of Linux's
//! memblock for a boot.

use crate::range::{Gaps, ListFull, PhysRange, RangeList};

/// How many separate ranges each list keeps: as many as Linux begins with
/// (`INIT_MEMBLOCK_REGIONS`). Phones have some 60 reservations.
pub const MAX_RANGES: usize = 128;

/// RAM banks, what is taken of them, and what must not be mapped at all.
#[derive(Clone, Copy, Debug, Default)]
pub struct Memblock {
    /// RAM, as the device tree declares it.
    pub memory: RangeList<MAX_RANGES>,
    /// In use: image, device tree, initrd, firmware's reservations, table frames.
    pub reserved: RangeList<MAX_RANGES>,
    /// `no-map` reservations: never in the linear map, not even speculatively read.
    pub nomap: RangeList<MAX_RANGES>,
}

impl Memblock {
    /// Nothing known yet.
    pub const fn new() -> Self {
        Self {
            memory: RangeList::new(),
            reserved: RangeList::new(),
            nomap: RangeList::new(),
        }
    }

    /// The page-aligned parts of all banks that may be mapped.
    pub fn mappable(&self, page_bytes: u64) -> Mappable<'_> {
        Mappable {
            banks: self.memory.as_slice(),
            nomap: &self.nomap,
            gaps: Gaps::default(),
            page_bytes,
        }
    }

    /// Takes `size_bytes` of free memory at a multiple of `align_bytes` (a power
    /// of two), the lowest that lies wholly in `within`: near the image, as a
    /// rule, so that little memory is touched in a boot. Only whole multiples of
    /// `align_bytes` are looked at: with a page or more, all of it is what
    /// [`mappable`] maps. Never at address 0, where some boards' RAM begins: with the
    /// MMU off that would be a null pointer (Linux's memblock leaves it out as well).
    ///
    /// [`mappable`]: Self::mappable
    ///
    /// # Errors
    /// [`AllocError`], and nothing is taken.
    pub fn allocate(
        &mut self,
        size_bytes: u64,
        align_bytes: u64,
        within: PhysRange,
    ) -> Result<PhysRange, AllocError> {
        let start = self.free(align_bytes, within).find_map(|free| {
            let start = free.start.max(1).checked_next_multiple_of(align_bytes)?;
            let end = start.checked_add(size_bytes)?;
            (end <= free.end).then_some(start)
        });
        let range = start
            .and_then(|start| PhysRange::new(start, size_bytes))
            .ok_or(AllocError::OutOfMemory { size_bytes })?;
        self.reserved.insert(range).map_err(AllocError::ListFull)?;
        Ok(range)
    }

    /// The same, but where no free range is that large, whole units of `align_bytes`
    /// from the lowest that has any: the rest takes further calls, which do not fail
    /// for want of memory while [`free_units`](Self::free_units) are left.
    ///
    /// # Errors
    /// [`AllocError`], and nothing is taken.
    pub fn allocate_piece(
        &mut self,
        size_bytes: u64,
        align_bytes: u64,
        within: PhysRange,
    ) -> Result<PhysRange, AllocError> {
        let whole = self.allocate(size_bytes, align_bytes, within);
        let Err(AllocError::OutOfMemory { .. }) = whole else {
            return whole;
        };
        let Some(piece) = self.units(align_bytes, within).next() else {
            return whole;
        };
        self.reserved.insert(piece).map_err(AllocError::ListFull)?;
        Ok(piece)
    }

    /// How many whole units of `align_bytes`, at multiples of it, are free in `within`.
    pub fn free_units(&self, align_bytes: u64, within: PhysRange) -> u64 {
        let units = self.units(align_bytes, within);
        units.map(|units| units.size_bytes() / align_bytes).sum()
    }

    /// What is free in `within` of units of `align_bytes`, in pieces.
    fn units(&self, align_bytes: u64, within: PhysRange) -> impl Iterator<Item = PhysRange> + '_ {
        self.free(align_bytes, within).filter_map(move |free| {
            let start = free.start.max(1);
            PhysRange { start, ..free }.align_inward(align_bytes)
        })
    }

    /// What is free in `within`, in pieces.
    fn free(&self, align_bytes: u64, within: PhysRange) -> impl Iterator<Item = PhysRange> + '_ {
        self.mappable(align_bytes)
            .filter_map(move |part| part.intersect(within))
            .flat_map(|part| self.reserved.gaps_in(part))
    }
}

/// What [`Memblock::mappable`] finds.
#[derive(Clone, Debug)]
pub struct Mappable<'a> {
    banks: &'a [PhysRange],
    nomap: &'a RangeList<MAX_RANGES>,
    gaps: Gaps<'a>,
    page_bytes: u64,
}

impl Iterator for Mappable<'_> {
    type Item = PhysRange;

    // One copy for everybody who looks for memory.
    #[inline(never)]
    fn next(&mut self) -> Option<PhysRange> {
        loop {
            let page_bytes = self.page_bytes;
            let part = self.gaps.find_map(|gap| gap.align_inward(page_bytes));
            if part.is_some() {
                return part;
            }
            let (&bank, rest) = self.banks.split_first()?;
            self.banks = rest;
            self.gaps = self.nomap.gaps_in(bank);
        }
    }
}

/// Why memory could not be taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AllocError {
    /// No free range is that large.
    OutOfMemory {
        /// What was asked for, in bytes.
        size_bytes: u64,
    },
    /// There is memory, but no place left to note that it is taken.
    ListFull(ListFull),
}

impl core::fmt::Display for AllocError {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        match self {
            Self::OutOfMemory { size_bytes } => write!(f, "no free range of {size_bytes:#x} bytes"),
            Self::ListFull(full) => full.fmt(f),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::xorshift::Xorshift;
    use std::vec::Vec;

    const EVERYWHERE: PhysRange = PhysRange {
        start: 0,
        end: u64::MAX,
    };

    fn range(start: u64, end: u64) -> PhysRange {
        PhysRange { start, end }
    }

    /// Banks less `reserved` and `nomap`.
    fn free_bytes(memblock: &Memblock) -> u64 {
        memblock
            .mappable(1)
            .flat_map(|part| memblock.reserved.gaps_in(part))
            .map(PhysRange::size_bytes)
            .sum()
    }

    fn sample() -> Memblock {
        let mut memblock = Memblock::new();
        memblock.memory.insert(range(0x1_0000, 0x2_0000)).unwrap();
        memblock.memory.insert(range(0x8_0800, 0x9_0800)).unwrap();
        memblock.nomap.insert(range(0x8_4000, 0x8_5000)).unwrap();
        memblock.reserved.insert(range(0x8_f000, 0x9_0800)).unwrap();
        memblock
    }

    #[test]
    fn mappable_leaves_out_nomap_and_part_pages() {
        let parts: Vec<_> = sample().mappable(0x1000).collect();
        assert_eq!(
            parts,
            [
                range(0x1_0000, 0x2_0000),
                range(0x8_1000, 0x8_4000),
                range(0x8_5000, 0x9_0000)
            ]
        );
    }

    #[test]
    fn allocate_takes_the_lowest_that_fits_and_never_twice() {
        let mut memblock = sample();
        let a = memblock.allocate(0x1000, 0x1000, EVERYWHERE).unwrap();
        assert_eq!(a, range(0x1_0000, 0x1_1000));
        let b = memblock.allocate(0x9000, 0x1000, EVERYWHERE).unwrap();
        assert_eq!(b, range(0x1_1000, 0x1_a000));
        let c = memblock.allocate(0x4000, 0x4000, EVERYWHERE).unwrap();
        assert_eq!(c, range(0x1_c000, 0x2_0000));
        let window = range(0x8_3000, 0x9_0000);
        let d = memblock.allocate(0x1000, 0x1000, window).unwrap();
        assert_eq!(d, range(0x8_3000, 0x8_4000));
        let e = memblock.allocate(0x1000, 0x1000, window).unwrap();
        assert_eq!(e, range(0x8_5000, 0x8_6000));
    }

    #[test]
    fn allocate_refuses_what_does_not_fit_and_takes_nothing() {
        let mut memblock = sample();
        let free = free_bytes(&memblock);
        let error = memblock.allocate(0x2_0000, 0x1000, EVERYWHERE);
        assert_eq!(
            error,
            Err(AllocError::OutOfMemory {
                size_bytes: 0x2_0000
            })
        );
        assert_eq!(free_bytes(&memblock), free);
        assert_eq!(free, 0x1_0000 + 0x1_0000 - 0x1000 - 0x1800);
    }

    /// Memory at random, on a grid of 0x800 so that banks end in mid-page.
    fn random_memblock(random: &mut Xorshift) -> Memblock {
        let mut memblock = Memblock::new();
        let Memblock {
            memory,
            reserved,
            nomap,
        } = &mut memblock;
        for (list, most, longest) in [(memory, 6, 64), (reserved, 10, 8), (nomap, 4, 8)] {
            for _ in 0..random.below(most) {
                let start = random.below(256) * 0x800;
                let size = random.below(longest) * 0x800;
                list.insert(range(start, start + size)).unwrap();
            }
        }
        memblock
    }

    fn overlaps(list: &RangeList<MAX_RANGES>, range: PhysRange) -> bool {
        list.as_slice()
            .iter()
            .any(|r| r.start < range.end && range.start < r.end)
    }

    /// Where `size` bytes could go, the lowest first: tried one by one.
    fn lowest_place(memblock: &Memblock, size: u64, align: u64, within: PhysRange) -> Option<u64> {
        (0..320).map(|i| i * 0x800).find(|&start| {
            let range = range(start, start + size);
            let units = range.align_outward(align);
            start != 0
                && start % align == 0
                && within.contains(range)
                && memblock
                    .memory
                    .as_slice()
                    .iter()
                    .any(|bank| bank.contains(units))
                && !overlaps(&memblock.nomap, units)
                && !overlaps(&memblock.reserved, range)
        })
    }

    #[test]
    fn allocate_takes_what_is_free_and_nothing_else() {
        let mut random = Xorshift::new(0x5eed_0003);
        let (mut taken, mut refused) = (0, 0);
        for _ in 0..1000 {
            let mut memblock = random_memblock(&mut random);
            for _ in 0..10 {
                let size = (1 + random.below(16)) * 0x800;
                let align = random.pick(&[0x800, 0x1000, 0x4000]);
                let start = random.below(256) * 0x800;
                let window = range(start, start + random.below(256) * 0x800);
                let within = random.pick(&[EVERYWHERE, EVERYWHERE, window]);
                let before = memblock;
                let lowest = lowest_place(&before, size, align, within);
                let Ok(got) = memblock.allocate(size, align, within) else {
                    assert_eq!(lowest, None, "{before:?} {size:#x} {align:#x} {within}");
                    assert_eq!(memblock.reserved.as_slice(), before.reserved.as_slice());
                    refused += 1;
                    continue;
                };
                assert_eq!(Some(got.start), lowest, "{before:?} {size:#x} {align:#x}");
                assert_eq!(got.size_bytes(), size);
                assert!(memblock.reserved.as_slice().iter().any(|r| r.contains(got)));
                assert!(before.mappable(align).any(|part| part.contains(got)));
                assert_eq!(free_bytes(&before) - free_bytes(&memblock), size);
                taken += 1;
            }
        }
        assert!(taken > 1000 && refused > 1000, "{taken} {refused}");
    }

    /// Page by page: what single allocations would find.
    fn free_pages(memblock: &Memblock, page: u64, within: PhysRange) -> Vec<u64> {
        let mut memblock = *memblock;
        let next = || memblock.allocate(page, page, within).ok();
        core::iter::from_fn(next).map(|page| page.start).collect()
    }

    #[test]
    fn in_pieces_all_that_is_free_can_be_had() {
        let mut random = Xorshift::new(0x5eed_0004);
        let (mut in_pieces, mut refused) = (0, 0);
        for _ in 0..1000 {
            let mut memblock = random_memblock(&mut random);
            let page = random.pick(&[0x1000, 0x4000]);
            let start = random.below(256) * 0x800;
            let within = random.pick(&[EVERYWHERE, range(start, start + 0x4_0000)]);
            let free = free_pages(&memblock, page, within);
            assert_eq!(memblock.free_units(page, within), free.len() as u64);

            let wanted = 1 + random.below(40) * 0x1000 / page;
            let mut got = Vec::new();
            while let left @ 1.. = wanted - got.len() as u64 {
                let Ok(piece) = memblock.allocate_piece(left * page, page, within) else {
                    break;
                };
                assert!(piece.size_bytes() <= left * page && piece.size_bytes() % page == 0);
                in_pieces += u32::from(piece.size_bytes() < left * page);
                got.extend((piece.start..piece.end).step_by(page as usize));
            }
            refused += u32::from((got.len() as u64) < wanted);
            assert_eq!(got.len(), free.len().min(wanted as usize), "{memblock:?}");
            got.sort_unstable();
            got.dedup();
            assert!(got.iter().all(|page| free.contains(page)), "{memblock:?}");
            let left = memblock.free_units(page, within);
            assert_eq!(
                left as usize,
                free.len() - got.len(),
                "none is lost, none is twice"
            );
        }
        assert!(in_pieces > 100 && refused > 100, "{in_pieces} {refused}");
    }

    #[test]
    fn allocate_never_gives_out_address_0() {
        let mut memblock = Memblock::new();
        memblock.memory.insert(range(0, 0x3000)).unwrap();
        let first = memblock.allocate(0x1000, 0x1000, EVERYWHERE).unwrap();
        assert_eq!(first, range(0x1000, 0x2000));
        let second = memblock.allocate(0x1000, 0x1000, EVERYWHERE).unwrap();
        assert_eq!(second, range(0x2000, 0x3000));
        assert!(memblock.allocate(0x1000, 0x1000, EVERYWHERE).is_err());
    }

    #[test]
    fn allocate_never_gives_out_what_it_cannot_note() {
        let mut memblock = Memblock::new();
        memblock.memory.insert(range(0, 0x100_0000)).unwrap();
        for i in 0..MAX_RANGES as u64 {
            memblock
                .reserved
                .insert(range(i * 0x2000, i * 0x2000 + 0x1000))
                .unwrap();
        }
        let before = memblock;
        let within = range(0x10_0000, 0x100_0000);
        assert_eq!(
            memblock.allocate(0x1000, 0x1000, within),
            Err(AllocError::ListFull(ListFull))
        );
        assert_eq!(memblock.reserved.as_slice(), before.reserved.as_slice());
        // Next to a range that is there, it can.
        assert!(
            memblock
                .allocate(0x1000, 0x1000, range(0, 0x8_0000))
                .is_ok()
        );
    }

    #[test]
    fn sizes_and_alignments_that_make_no_sense_are_refused() {
        let mut memblock = sample();
        for (size, align) in [
            (0, 0x1000),
            (u64::MAX, 0x1000),
            (0x1000, 0),
            (0x1000, 1 << 63),
        ] {
            let refused = Err(AllocError::OutOfMemory { size_bytes: size });
            assert_eq!(memblock.allocate(size, align, EVERYWHERE), refused);
        }
        let backwards = range(0x9_0000, 0x1_0000);
        assert!(memblock.allocate(0x1000, 0x1000, backwards).is_err());
        assert_eq!(memblock.reserved.as_slice(), sample().reserved.as_slice());
    }

    #[test]
    fn memory_up_to_the_top_does_not_wrap() {
        let mut memblock = Memblock::new();
        memblock
            .memory
            .insert(range(u64::MAX - 0x2800, u64::MAX))
            .unwrap();
        let top = u64::MAX - 0xfff;
        let parts: Vec<_> = memblock.mappable(0x1000).collect();
        assert_eq!(parts, [range(top - 0x1000, top)]);
        let got = memblock.allocate(0x1000, 0x1000, EVERYWHERE).unwrap();
        assert_eq!(got, range(top - 0x1000, top));
        assert!(memblock.allocate(0x1000, 0x1000, EVERYWHERE).is_err());
    }
}
