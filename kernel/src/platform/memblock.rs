//! Which physical memory there is, and which of it is free: enough of Linux's
//! memblock for a boot.

use crate::range::{ListFull, PhysRange, RangeList};

/// How many separate ranges each list keeps.
pub const MAX_RANGES: usize = 64;

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
    pub fn mappable(&self, page_bytes: u64) -> impl Iterator<Item = PhysRange> + '_ {
        self.memory
            .as_slice()
            .iter()
            .flat_map(move |&bank| self.nomap.gaps_in(bank))
            .filter_map(move |part| part.align_inward(page_bytes))
    }

    /// Takes `size_bytes` of free memory at a multiple of `align_bytes` (a power
    /// of two), the highest that lies wholly in `within`, so that low memory
    /// stays for those who need it.
    ///
    /// # Errors
    /// [`AllocError`], and nothing is taken.
    pub fn allocate(
        &mut self,
        size_bytes: u64,
        align_bytes: u64,
        within: PhysRange,
    ) -> Result<PhysRange, AllocError> {
        let out_of_memory = AllocError::OutOfMemory { size_bytes };
        let mut best = None;
        for part in self
            .mappable(align_bytes)
            .filter_map(|part| part.intersect(within))
        {
            for free in self.reserved.gaps_in(part) {
                let Some(start) = free.end.checked_sub(size_bytes) else {
                    continue;
                };
                let start = start & !(align_bytes - 1);
                if start >= free.start {
                    best = PhysRange::new(start, size_bytes);
                }
            }
        }
        let range = best.ok_or(out_of_memory)?;
        self.reserved.insert(range).map_err(AllocError::ListFull)?;
        Ok(range)
    }

    /// Free memory in bytes: banks less `reserved` and `nomap`.
    pub fn free_bytes(&self) -> u64 {
        self.mappable(1)
            .flat_map(|part| self.reserved.gaps_in(part))
            .map(PhysRange::size_bytes)
            .sum()
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
    extern crate std;
    use super::*;
    use std::vec::Vec;

    const EVERYWHERE: PhysRange = PhysRange {
        start: 0,
        end: u64::MAX,
    };

    fn range(start: u64, end: u64) -> PhysRange {
        PhysRange { start, end }
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
    fn allocate_takes_the_highest_that_fits_and_never_twice() {
        let mut memblock = sample();
        let a = memblock.allocate(0x1000, 0x1000, EVERYWHERE).unwrap();
        assert_eq!(a, range(0x8_e000, 0x8_f000));
        let b = memblock.allocate(0x9000, 0x1000, EVERYWHERE).unwrap();
        assert_eq!(b, range(0x8_5000, 0x8_e000));
        let c = memblock.allocate(0x4000, 0x4000, EVERYWHERE).unwrap();
        assert_eq!(c, range(0x1_c000, 0x2_0000));
        let low = memblock
            .allocate(0x1000, 0x1000, range(0, 0x1_8000))
            .unwrap();
        assert_eq!(low, range(0x1_7000, 0x1_8000));
    }

    #[test]
    fn allocate_refuses_what_does_not_fit_and_takes_nothing() {
        let mut memblock = sample();
        let free = memblock.free_bytes();
        let error = memblock.allocate(0x2_0000, 0x1000, EVERYWHERE);
        assert_eq!(
            error,
            Err(AllocError::OutOfMemory {
                size_bytes: 0x2_0000
            })
        );
        assert_eq!(memblock.free_bytes(), free);
        assert_eq!(free, 0x1_0000 + 0x1_0000 - 0x1000 - 0x1800);
    }
}
