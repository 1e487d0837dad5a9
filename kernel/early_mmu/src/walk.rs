//! Looking one address up, as the hardware would.

use crate::descriptor::{Descriptor, Kind};
use crate::engine::load;
use crate::geometry::{Geometry, Level};
use crate::memory::TableMemory;
use crate::{PageTable, PhysAddr, VirtAddr};

/// The most levels a walk can have: −1 to 3.
const MAX_LEVELS: usize = 5;

/// What a table walk for one address read, level by level.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Walk {
    va: VirtAddr,
    start_level: Level,
    read: [Descriptor; MAX_LEVELS],
    count: usize,
    end: WalkEnd,
}

/// How a table walk ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum WalkEnd {
    /// With a translation.
    Leaf(Leaf),
    /// With an invalid or reserved entry at this level: a translation fault.
    Fault {
        /// The level of the entry.
        level: Level,
    },
    /// At a table that the table memory does not know.
    Unreachable {
        /// The level of the table.
        level: Level,
        /// Its address, as the entry above says.
        pa: PhysAddr,
    },
    /// Before it began: the address lies outside the range that the tables translate.
    OutsideRange,
}

/// A block or page.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Leaf {
    /// The first address that it translates.
    pub va: VirtAddr,
    /// What that translates to.
    pub pa: PhysAddr,
    /// The size in bytes.
    pub size_bytes: u64,
    /// Its level.
    pub level: Level,
    /// Its descriptor, as it stands in the table.
    pub descriptor: Descriptor,
    /// Its descriptor with what the tables above it forbid taken away.
    pub effective: Descriptor,
}

impl Walk {
    /// The address that was looked up.
    #[must_use]
    pub const fn va(&self) -> VirtAddr {
        self.va
    }

    /// How the walk ended.
    #[must_use]
    pub const fn end(&self) -> WalkEnd {
        self.end
    }

    /// The block or page, if the address is mapped.
    #[must_use]
    pub const fn leaf(&self) -> Option<Leaf> {
        match self.end {
            WalkEnd::Leaf(leaf) => Some(leaf),
            _ => None,
        }
    }

    /// The physical address, if the address is mapped.
    #[must_use]
    pub fn pa(&self) -> Option<PhysAddr> {
        let leaf = self.leaf()?;
        leaf.pa.checked_add(self.va.checked_sub(leaf.va)?)
    }

    /// The descriptors that were read, with their levels, from the root down.
    pub fn descriptors(&self) -> impl Iterator<Item = (Level, Descriptor)> {
        (self.start_level..).zip(self.read).take(self.count)
    }
}

impl<G: Geometry, M: TableMemory<G>> PageTable<G, M> {
    /// Looks an address up and keeps all that was read on the way. Terminates on any tables, also
    /// damaged ones: there are no more steps than levels.
    #[must_use]
    pub fn walk(&self, va: VirtAddr) -> Walk {
        let mut walk = Walk {
            va,
            start_level: G::START_LEVEL,
            read: [Descriptor::INVALID; MAX_LEVELS],
            count: 0,
            end: WalkEnd::OutsideRange,
        };
        let Some(ia) = self.range.input_address::<G>(va) else {
            return walk;
        };
        let (mut level, mut pa, mut tables) = (G::START_LEVEL, self.root, 0);
        walk.end = loop {
            let Some(table) = self.memory.table(pa) else {
                break WalkEnd::Unreachable { level, pa };
            };
            let descriptor = load(table.as_ref(), G::index(ia, level));
            if let Some(slot) = walk.read.get_mut(walk.count) {
                *slot = descriptor;
                walk.count += 1;
            }
            match descriptor.kind::<G>(level) {
                Kind::Invalid | Kind::Reserved => break WalkEnd::Fault { level },
                Kind::Leaf => {
                    let bytes = G::entry_bytes(level);
                    break WalkEnd::Leaf(Leaf {
                        va: va.align_down(bytes),
                        pa: descriptor.output::<G>().align_down(bytes),
                        size_bytes: bytes,
                        level,
                        descriptor,
                        effective: descriptor.below(tables),
                    });
                }
                Kind::Table => {
                    tables |= descriptor.bits();
                    pa = descriptor.output::<G>();
                    level += 1;
                }
            }
        };
        walk
    }

    /// The physical address that `va` translates to, or `None` if it faults.
    #[must_use]
    #[inline]
    pub fn translate(&self, va: VirtAddr) -> Option<PhysAddr> {
        let ia = self.range.input_address::<G>(va)?;
        let (mut level, mut pa) = (G::START_LEVEL, self.root);
        loop {
            let descriptor = load(self.memory.table(pa)?.as_ref(), G::index(ia, level));
            match descriptor.kind::<G>(level) {
                Kind::Table => {
                    pa = descriptor.output::<G>();
                    level += 1;
                }
                Kind::Leaf => {
                    let inside = G::entry_bytes(level) - 1;
                    let block = descriptor.output::<G>().as_u64() & !inside;
                    return Some(PhysAddr::new(block | ia & inside));
                }
                Kind::Invalid | Kind::Reserved => return None,
            }
        }
    }
}
