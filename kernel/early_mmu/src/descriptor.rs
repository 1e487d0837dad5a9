//! One entry of a translation table: VMSAv8-64 stage 1, EL1&0.
//!
//! Where each bit stands says the Arm ARM (DDI 0487), chapter D8, "VMSAv8-64 descriptor formats"; the section
//! named beside a bit says what it does. Linux has the same bits in `pgtable-hwdef.h`, as `PTE_…`.

use core::fmt;

use crate::geometry::{Geometry, LAST_LEVEL, Level};
use crate::{MemType, PhysAddr};

/// Bit 0: the entry translates or leads to a table.
pub const VALID: u64 = 1 << 0;
/// Bits 1:0 of a table descriptor (levels −1 to 2) and of a page descriptor (level 3).
pub const TABLE_OR_PAGE: u64 = 0b11;
/// Bits 1:0 of a block descriptor (levels 0 to 2, where the granule allows one).
pub const BLOCK: u64 = 0b01;
/// `AttrIndx`, bits 4:2: which byte of `MAIR_EL1` gives the memory type ("Memory region attributes").
pub const ATTR_INDX: u64 = 0b111 << ATTR_INDX_SHIFT;
/// Position of `AttrIndx`.
pub const ATTR_INDX_SHIFT: u32 = 2;
/// `AP[1]`, bit 6: EL0 has access ("Memory access control"; Linux: `PTE_USER`).
pub const AP_EL0: u64 = 1 << 6;
/// `AP[2]`, bit 7: read-only ("Memory access control"; Linux: `PTE_RDONLY`).
pub const AP_RDONLY: u64 = 1 << 7;
/// `SH`, bits 9:8: Inner Shareable ("Memory region attributes"). With `FEAT_LPA2` the bits are output
/// address.
pub const SH_INNER: u64 = 0b11 << 8;
/// `AF`, bit 10: access flag; clear means that an access faults ("The Access flag").
pub const AF: u64 = 1 << 10;
/// `nG`, bit 11: the TLB entry belongs to one ASID ("Global and process-specific translation table
/// entries").
pub const NG: u64 = 1 << 11;
/// `GP`, bit 50: guarded page (`FEAT_BTI`; "PSTATE.BTYPE").
pub const GP: u64 = 1 << 50;
/// `DBM`, bit 51: hardware may clear `AP[2]` on a write when `TCR_EL1.HD` is set ("Hardware management of
/// the dirty state"; Linux: `PTE_WRITE`).
pub const DBM: u64 = 1 << 51;
/// `Contiguous`, bit 52: one of a run of entries that may share a TLB entry ("The Contiguous bit").
pub const CONTIGUOUS: u64 = 1 << 52;
/// `PXN`, bit 53: EL1 cannot execute ("Memory access control").
pub const PXN: u64 = 1 << 53;
/// `UXN`, bit 54: EL0 cannot execute ("Memory access control").
pub const UXN: u64 = 1 << 54;
/// Bits 58:55 and 63, which the hardware ignores in a leaf and software may use.
pub const SOFTWARE: u64 = 0b1111 << 55 | 1 << 63;
/// `PXNTable`, bit 59 of a table descriptor: nothing below it is executable at EL1 ("Hierarchical control
/// of instruction execution for Direct permissions").
pub const PXN_TABLE: u64 = 1 << 59;
/// `UXNTable`, bit 60 of a table descriptor: nothing below it is executable at EL0 (as `PXNTable`).
pub const UXN_TABLE: u64 = 1 << 60;
/// `APTable[0]`, bit 61 of a table descriptor: nothing below it is accessible at EL0 ("Hierarchical control
/// of data access Direct permissions").
pub const AP_TABLE_NO_EL0: u64 = 1 << 61;
/// `APTable[1]`, bit 62 of a table descriptor: nothing below it is writable (as `APTable[0]`).
pub const AP_TABLE_RDONLY: u64 = 1 << 62;

/// The bits that may change in a live leaf without break-before-make.
///
/// Permissions and software bits (Arm ARM chapter D8, "Using break-before-make when updating
/// translation table entries", lists what does need it; Linux keeps the same set in
/// `pgattr_change_is_safe`). `nG` is here, but only from 0 to 1: see [`Descriptor::may_become`].
const SAFE_LIVE: u64 = PXN | AP_RDONLY | DBM | NG | SOFTWARE;

/// What an entry is, at the level where it stands (Arm ARM chapter D8, "Translation table descriptor
/// formats").
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Bit 0 is clear: an access faults, the other bits are ignored.
    Invalid,
    /// Leads to a table of the next level.
    Table,
    /// Translates: a block above level 3, a page at level 3.
    Leaf,
    /// An encoding that the architecture reserves at this level; it faults.
    Reserved,
}

/// A 64-bit entry of a translation table. What it means depends on its level.
#[derive(Clone, Copy, Default, PartialEq, Eq, Hash)]
#[repr(transparent)]
pub struct Descriptor(u64);

impl Descriptor {
    /// The entry that faults, as this crate writes it.
    pub const INVALID: Self = Self(0);

    /// A descriptor from its bits.
    #[must_use]
    pub const fn from_bits(bits: u64) -> Self {
        Self(bits)
    }

    /// The bits as they stand in memory.
    #[must_use]
    pub const fn bits(self) -> u64 {
        self.0
    }

    /// The descriptor that links the next level's table at `table`.
    ///
    /// `UXNTable` is set, as Linux does for kernel tables: nothing this crate maps runs at EL0.
    #[must_use]
    #[inline(always)]
    pub fn table<G: Geometry>(table: PhysAddr) -> Self {
        Self(G::encode_output(table) | TABLE_OR_PAGE | UXN_TABLE)
    }

    /// The block or page at `level` that translates to `output` with these attribute bits.
    #[must_use]
    #[inline(always)]
    pub fn leaf<G: Geometry>(level: Level, output: PhysAddr, attributes: u64) -> Self {
        let kind = if level == LAST_LEVEL {
            TABLE_OR_PAGE
        } else {
            BLOCK
        };
        Self(G::encode_output(output) | attributes | kind)
    }

    /// Whether bit 0 is set.
    #[must_use]
    #[inline(always)]
    pub const fn is_valid(self) -> bool {
        self.0 & VALID != 0
    }

    /// What the entry is at `level`.
    #[must_use]
    #[inline(always)]
    pub fn kind<G: Geometry>(self, level: Level) -> Kind {
        match (self.0 & TABLE_OR_PAGE, level) {
            (0b00 | 0b10, _) => Kind::Invalid,
            (TABLE_OR_PAGE, LAST_LEVEL) => Kind::Leaf,
            (TABLE_OR_PAGE, _) => Kind::Table,
            (_, LAST_LEVEL) => Kind::Reserved,
            (_, block) if block < G::FIRST_BLOCK_LEVEL => Kind::Reserved,
            _ => Kind::Leaf,
        }
    }

    /// The output address: of the next table, or of the first byte of a block or page.
    ///
    /// Bits of a block descriptor below the block's size are no address (`nT`, and what is reserved), and yet in
    /// it: [align it down](PhysAddr::align_down) to [`Geometry::entry_bytes`].
    #[must_use]
    #[inline(always)]
    pub fn output<G: Geometry>(self) -> PhysAddr {
        G::decode_output(self.0)
    }

    /// All bits of a leaf but the output address and the type.
    #[must_use]
    #[inline(always)]
    pub fn attributes<G: Geometry>(self) -> u64 {
        self.0 & !(G::OUTPUT_MASK | TABLE_OR_PAGE)
    }

    /// The leaf without its output address, and Inner Shareable where `SH` is not in the descriptor:
    /// `TCR_EL1.SHn` says so for all (see [`Geometry::TCR_EL1`]).
    #[must_use]
    #[inline(always)]
    pub const fn with_shareability<G: Geometry>(self) -> Self {
        Self(self.0 & !G::OUTPUT_MASK | SH_INNER & G::OUTPUT_MASK)
    }

    /// `AttrIndx` as a memory type, or `None` for an index that [`crate::MAIR_EL1`] does not use.
    #[must_use]
    pub const fn mem_type(self) -> Option<MemType> {
        MemType::from_attr_indx((self.0 & ATTR_INDX) >> ATTR_INDX_SHIFT)
    }

    /// Whether EL1 may write: `AP[2]` is clear.
    #[must_use]
    pub const fn is_writable(self) -> bool {
        self.0 & AP_RDONLY == 0
    }

    /// Whether EL1 may execute: `PXN` is clear.
    #[must_use]
    pub const fn is_executable(self) -> bool {
        self.0 & PXN == 0
    }

    /// Whether the Contiguous hint is set.
    #[must_use]
    pub const fn is_contiguous(self) -> bool {
        self.0 & CONTIGUOUS != 0
    }

    /// The leaf as it works below table descriptors with these bits (Arm ARM chapter D8,
    /// "Memory access control", hierarchical control): a table can take rights away, never give them.
    #[must_use]
    pub const fn below(self, tables: u64) -> Self {
        let mut bits = self.0;
        if tables & PXN_TABLE != 0 {
            bits |= PXN;
        }
        if tables & UXN_TABLE != 0 {
            bits |= UXN;
        }
        if tables & AP_TABLE_NO_EL0 != 0 {
            bits &= !AP_EL0;
        }
        if tables & AP_TABLE_RDONLY != 0 {
            bits |= AP_RDONLY;
        }
        Self(bits)
    }

    /// Whether this live leaf may be overwritten by `new` at once, without break-before-make.
    ///
    /// This is the one place that knows (Arm ARM chapter D8, "Using break-before-make"; Linux 7.2
    /// `pgattr_change_is_safe`): output address, size, memory type, shareability and global-ness gained
    /// must go through an invalid entry. So do `AF`, `UXN` and `GP`, for which Linux is as strict and the
    /// Arm ARM is not. A change within a contiguous run never passes: the run's other entries
    /// would differ from it for a while.
    #[must_use]
    #[inline(always)]
    pub const fn may_become(self, new: Self) -> bool {
        let (old, new) = (self.0, new.0);
        if old & VALID == 0 || new & VALID == 0 || old == new {
            return true;
        }
        if (old | new) & CONTIGUOUS != 0 {
            return false;
        }
        self.may_become_in_run(Self(new))
    }

    /// [`may_become`](Self::may_become), if every other entry of the contiguous run that this one
    /// belongs to changes in the same way before the flush.
    ///
    /// Until the flush, any entry of the run may be used for all of it; as all go from the same
    /// rights to the same rights, an access meets the old ones or the new ones, as for a single page.
    /// The Contiguous bit itself never changes so.
    #[must_use]
    #[inline(always)]
    pub const fn may_become_in_run(self, new: Self) -> bool {
        let (old, new) = (self.0, new.0);
        if old & VALID == 0 || new & VALID == 0 || old == new {
            return true;
        }
        if old & NG > new & NG {
            return false;
        }
        // Normal and Normal-Tagged differ in tag checking only, for which Linux needs no break.
        let tagged = 1 << ATTR_INDX_SHIFT;
        let untagged_type = (old | new) & ATTR_INDX & !tagged == 0;
        let safe = if untagged_type {
            SAFE_LIVE | tagged
        } else {
            SAFE_LIVE
        };
        (old ^ new) & !safe == 0
    }
}

impl fmt::Debug for Descriptor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Descriptor({:#018x})", self.0)
    }
}

impl fmt::Display for Descriptor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:016x}", self.0)
    }
}

#[cfg(test)]
mod tests;
