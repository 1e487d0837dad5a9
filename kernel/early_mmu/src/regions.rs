//! All that is mapped, as few regions as possible: for dumps and audits.

use core::fmt;
use core::sync::atomic::{AtomicU64, Ordering::Relaxed};

use crate::descriptor::{self as bits, Descriptor};
use crate::geometry::{Geometry, Level};
use crate::memory::TableMemory;
use crate::walk::Descent;
use crate::{PageTable, PhysAddr, VirtAddr};

/// Neighbouring blocks or pages of one size that translate to neighbouring memory alike. Linux: a row of
/// `ptdump`, `note_page`.
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
    /// address, and with `SH` where only `TCR_EL1` has it ([`Descriptor::with_shareability`]).
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

    /// Whether EL1 may both write and execute here, which is what no region should allow. Linux:
    /// `ptdump_check_wx`.
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

impl<G: Geometry, M: TableMemory<G>> Iterator for Regions<'_, G, M> {
    type Item = Region;

    fn next(&mut self) -> Option<Region> {
        let mut region: Option<Region> = None;
        while self.ia >> G::VA_BITS == 0 {
            // The first address that the walk's last entry does not speak for.
            let ia = self.ia;
            let behind = |level| (ia | (G::entry_bytes(level) - 1)) + 1;
            let unmapped = match self.tables.descend(ia, |_| {}) {
                Descent::Leaf {
                    table,
                    level,
                    descriptor,
                    inherited,
                } => {
                    let run = self.run(table.as_ref(), level, descriptor, inherited);
                    region = match region {
                        None => Some(run),
                        Some(before) => match joined(before, run) {
                            Some(both) => Some(both),
                            None => return Some(before),
                        },
                    };
                    self.ia += run.size_bytes;
                    continue;
                }
                Descent::Fault { table, level } => {
                    behind(level) + hole::<G>(table.as_ref(), level, ia) * G::entry_bytes(level)
                }
                Descent::Unreachable { level, .. } if level > G::START_LEVEL => behind(level - 1),
                Descent::Unreachable { .. } => 1 << G::VA_BITS,
            };
            if region.is_some() {
                return region;
            }
            self.ia = unmapped;
        }
        region
    }
}

impl<G: Geometry, M: TableMemory<G>> Regions<'_, G, M> {
    /// The leaf for `self.ia` and those behind it in the same table that continue it.
    fn run(&self, table: &[AtomicU64], level: Level, first: Descriptor, inherited: u64) -> Region {
        let leaf_bytes = G::entry_bytes(level);
        let pa = first.output::<G>().align_down(leaf_bytes);
        let attributes = first.bits() & !G::OUTPUT_MASK;
        let mut size_bytes = leaf_bytes;
        // The root may have more entries than the range uses.
        let until_end = (1 << G::VA_BITS) - self.ia;
        for entry in behind(table, G::index(self.ia, level)) {
            if size_bytes >= until_end {
                break;
            }
            let next = Descriptor::from_bits(entry.load(Relaxed));
            let follows = next.bits() & !G::OUTPUT_MASK == attributes
                && next.output::<G>().align_down(leaf_bytes).checked_sub(pa) == Some(size_bytes);
            if !follows {
                break;
            }
            size_bytes += leaf_bytes;
        }
        Region {
            va: VirtAddr::new(self.tables.base.as_u64() | self.ia),
            pa,
            size_bytes,
            leaf_bytes,
            level,
            attributes: Descriptor::from_bits(
                first.below(inherited).with_shareability::<G>().bits() & !bits::TABLE_OR_PAGE,
            ),
        }
    }
}

/// How many entries behind the one for `ia` are invalid: most of a sparse table is.
fn hole<G: Geometry>(table: &[AtomicU64], level: Level, ia: u64) -> u64 {
    behind(table, G::index(ia, level))
        .iter()
        .take_while(|entry| entry.load(Relaxed) & bits::VALID == 0)
        .count() as u64
}

/// The entries behind the one at `index`.
fn behind(table: &[AtomicU64], index: usize) -> &[AtomicU64] {
    table.get(index + 1..).unwrap_or(&[])
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
