//! Looking one address up, as the hardware would.

use crate::descriptor::{Descriptor, Kind, TABLE_OR_PAGE};
use crate::engine::load;
use crate::geometry::{Geometry, LAST_LEVEL, Level};
use crate::memory::TableMemory;
use crate::{PageTable, PhysAddr, VirtAddr};

/// The most levels a walk can have: −1 to 3.
const MAX_LEVELS: usize = 5;

/// What a table walk for one address read, level by level (Arm ARM DDI 0487, chapter D8, "Translation
/// process"; its pseudo-code is `AArch64.S1Walk`). Linux: `show_pte`.
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

/// Where a walk ended, with the table that holds the last entry it read.
pub(crate) enum Descent<'t, G: Geometry> {
    Leaf {
        table: &'t G::Table,
        level: Level,
        descriptor: Descriptor,
        inherited: u64,
    },
    Fault {
        table: &'t G::Table,
        level: Level,
    },
    Unreachable {
        level: Level,
        pa: PhysAddr,
    },
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
        let Some(ia) = self.input_address(va) else {
            return walk;
        };
        let descent = self.descend(ia, |descriptor| {
            if let Some(slot) = walk.read.get_mut(walk.count) {
                *slot = descriptor;
                walk.count += 1;
            }
        });
        walk.end = match descent {
            Descent::Fault { level, .. } => WalkEnd::Fault { level },
            Descent::Unreachable { level, pa } => WalkEnd::Unreachable { level, pa },
            Descent::Leaf {
                level,
                descriptor,
                inherited,
                ..
            } => {
                let bytes = G::entry_bytes(level);
                WalkEnd::Leaf(Leaf {
                    va: va.align_down(bytes),
                    pa: descriptor.output::<G>().align_down(bytes),
                    size_bytes: bytes,
                    level,
                    descriptor,
                    effective: descriptor.below(inherited),
                })
            }
        };
        walk
    }

    /// The walk itself: from the root to the entry that ends it, showing each entry to `visit`.
    pub(crate) fn descend(&self, ia: u64, mut visit: impl FnMut(Descriptor)) -> Descent<'_, G> {
        let (mut level, mut pa, mut inherited) = (G::START_LEVEL, self.root, 0);
        loop {
            let Some(table) = self.memory.table(pa) else {
                return Descent::Unreachable { level, pa };
            };
            let descriptor = load(table.as_ref(), G::index(ia, level));
            visit(descriptor);
            match descriptor.kind::<G>(level) {
                Kind::Invalid | Kind::Reserved => return Descent::Fault { table, level },
                Kind::Leaf => {
                    return Descent::Leaf {
                        table,
                        level,
                        descriptor,
                        inherited,
                    };
                }
                Kind::Table => {
                    inherited |= descriptor.bits();
                    pa = descriptor.output::<G>();
                    level += 1;
                }
            }
        }
    }

    /// The physical address that `va` translates to, or `None` if it faults: what `AT S1E1R` would say, but
    /// for permissions and `AF`.
    #[must_use]
    #[inline]
    pub fn translate(&self, va: VirtAddr) -> Option<PhysAddr> {
        let ia = va.as_u64() ^ self.base.as_u64();
        // Outside the range, the index into the root passes the root's last entry.
        let root_shift = G::entry_shift(G::START_LEVEL);
        if ia >> root_shift >= 1 << (G::VA_BITS - root_shift) {
            return None;
        }
        // Constant bounds, so that the compiler unrolls the levels.
        let (mut level, mut pa) = (G::START_LEVEL, self.root);
        while level < LAST_LEVEL {
            let descriptor = load(self.memory.table(pa)?.as_ref(), G::index(ia, level));
            // The type bits of a table, and of a page, are both ones: taking them away leaves none.
            let untyped = descriptor.bits().wrapping_sub(TABLE_OR_PAGE);
            if untyped & TABLE_OR_PAGE != 0 {
                return translate_leaf::<G>(descriptor, level, ia);
            }
            pa = G::decode_output(untyped);
            level += 1;
        }
        let descriptor = load(self.memory.table(pa)?.as_ref(), G::index(ia, LAST_LEVEL));
        let untyped = descriptor.bits().wrapping_sub(TABLE_OR_PAGE);
        if untyped & TABLE_OR_PAGE != 0 {
            return None;
        }
        Some(PhysAddr::new(
            G::decode_output(untyped).as_u64() | ia & (G::GRANULE_BYTES - 1),
        ))
    }
}

/// What a block translates `ia` to; `None` if the entry is no block.
#[cold]
#[inline(never)]
fn translate_leaf<G: Geometry>(descriptor: Descriptor, level: Level, ia: u64) -> Option<PhysAddr> {
    if descriptor.kind::<G>(level) != Kind::Leaf {
        return None;
    }
    let inside = G::entry_bytes(level) - 1;
    let start = descriptor.output::<G>().as_u64() & !inside;
    Some(PhysAddr::new(start | ia & inside))
}
