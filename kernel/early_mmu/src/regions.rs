//! All that is mapped, as few regions as possible: for dumps and audits.

use core::fmt;

use crate::descriptor::{self as bits, Descriptor};
use crate::geometry::{Geometry, Level};
use crate::memory::TableMemory;
use crate::walk::{Leaf, WalkEnd};
use crate::{PageTable, PhysAddr, VirtAddr};

/// Neighbouring blocks or pages of one size that translate to neighbouring memory alike.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Region {
    /// The first address.
    pub va: VirtAddr,
    /// What it translates to.
    pub pa: PhysAddr,
    /// The size of the whole region in bytes.
    pub size_bytes: u64,
    /// The size of each of its blocks or pages in bytes.
    pub leaf_bytes: u64,
    /// Their level.
    pub level: Level,
    /// Their attributes, after what the tables above them forbid: a descriptor without output
    /// address.
    pub attributes: Descriptor,
}

impl Region {
    /// The last address of the region.
    #[must_use]
    pub const fn last(&self) -> VirtAddr {
        VirtAddr::new(
            self.va
                .as_u64()
                .wrapping_add(self.size_bytes.wrapping_sub(1)),
        )
    }

    /// Whether EL1 may both write and execute here, which is what no region should allow.
    #[must_use]
    pub const fn is_writable_and_executable(&self) -> bool {
        self.attributes.is_writable() && self.attributes.is_executable()
    }
}

/// A row of a dump in the manner of Linux's ptdump: addresses, size, level, attributes.
impl fmt::Display for Region {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (size, unit) = in_units(self.size_bytes);
        let (leaf, leaf_unit) = in_units(self.leaf_bytes);
        write!(
            f,
            "{}-{} -> {} {size:>6}{unit} L{} {leaf:>3}{leaf_unit}",
            self.va,
            self.last(),
            self.pa,
            self.level
        )?;
        let has = |bit: u64| self.attributes.bits() & bit != 0;
        let columns = [
            if has(bits::AP_EL0) { "USR" } else { "   " },
            if has(bits::AP_RDONLY) { "ro" } else { "RW" },
            if has(bits::PXN) { "NX" } else { "x " },
            if has(bits::SH_INNER) { "SHD" } else { "   " },
            if has(bits::AF) { "AF" } else { "  " },
            if has(bits::NG) { "NG" } else { "  " },
            if has(bits::CONTIGUOUS) { "CON" } else { "   " },
            if has(bits::UXN) { "UXN" } else { "   " },
            if has(bits::GP) { "GP" } else { "  " },
        ];
        for column in columns {
            write!(f, " {column}")?;
        }
        write!(
            f,
            " {}",
            self.attributes
                .mem_type()
                .map_or("?", |memory| memory.name())
        )
    }
}

/// A size in the largest unit in which it is a whole number.
fn in_units(bytes: u64) -> (u64, char) {
    const UNITS: [char; 6] = ['K', 'M', 'G', 'T', 'P', 'E'];
    let mut size = bytes / 1024;
    for unit in UNITS {
        if !size.is_multiple_of(1024) || unit == 'E' {
            return (size, unit);
        }
        size /= 1024;
    }
    (bytes, 'B')
}

/// Iterator over all regions, in order of address; see [`PageTable::regions`].
#[derive(Debug)]
pub struct Regions<'t, G: Geometry, M: TableMemory<G>> {
    tables: &'t PageTable<G, M>,
    /// The input address to look at next; past the end of the range when done.
    ia: u64,
}

impl<G: Geometry, M: TableMemory<G>> PageTable<G, M> {
    /// All that is mapped, neighbours merged. Tables that cannot be reached count as not mapped.
    pub fn regions(&self) -> Regions<'_, G, M> {
        Regions {
            tables: self,
            ia: 0,
        }
    }
}

impl<G: Geometry, M: TableMemory<G>> Regions<'_, G, M> {
    fn leaf_at(&self, ia: u64) -> WalkEnd {
        self.tables
            .walk(VirtAddr::new(self.tables.range().base::<G>().as_u64() | ia))
            .end()
    }
}

impl<G: Geometry, M: TableMemory<G>> Iterator for Regions<'_, G, M> {
    type Item = Region;

    fn next(&mut self) -> Option<Region> {
        let mut region: Option<Region> = None;
        while self.ia >> G::VA_BITS == 0 {
            match self.leaf_at(self.ia) {
                WalkEnd::Leaf(leaf) => {
                    let next = region_of::<G>(leaf);
                    region = match region {
                        None => Some(next),
                        Some(before) => match joined(before, next) {
                            Some(both) => Some(both),
                            None => return Some(before),
                        },
                    };
                    self.ia += leaf.size_bytes;
                }
                WalkEnd::Fault { level } => {
                    if region.is_some() {
                        return region;
                    }
                    self.ia = (self.ia | (G::entry_bytes(level) - 1)) + 1;
                }
                WalkEnd::Unreachable { level, .. } => {
                    if region.is_some() {
                        return region;
                    }
                    if level == G::START_LEVEL {
                        return None;
                    }
                    self.ia = (self.ia | (G::entry_bytes(level - 1) - 1)) + 1;
                }
                WalkEnd::OutsideRange => return region,
            }
        }
        region
    }
}

fn region_of<G: Geometry>(leaf: Leaf) -> Region {
    Region {
        va: leaf.va,
        pa: leaf.pa,
        size_bytes: leaf.size_bytes,
        leaf_bytes: leaf.size_bytes,
        level: leaf.level,
        attributes: Descriptor::from_bits(leaf.effective.attributes::<G>()),
    }
}

/// Both regions as one, if the second continues the first.
fn joined(first: Region, second: Region) -> Option<Region> {
    let alike = first.level == second.level && first.attributes == second.attributes;
    let follows = first.pa.checked_add(first.size_bytes) == Some(second.pa)
        && first.va.checked_add(first.size_bytes) == Some(second.va);
    if alike && follows {
        Some(Region {
            size_bytes: first.size_bytes + second.size_bytes,
            ..first
        })
    } else {
        None
    }
}
