//! Why a call was refused. Whatever the error, not one descriptor was changed; for one call on damaged tables see
//! [`PageTable::update_mapping_prot_splitting`](crate::PageTable::update_mapping_prot_splitting).

use core::fmt;
use core::panic::Location;

use crate::geometry::Level;
use crate::{Descriptor, PhysAddr, VirtAddr};

/// Which argument an error is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Argument {
    /// The virtual address.
    Va,
    /// The physical address.
    Pa,
    /// The size in bytes.
    Size,
}

impl fmt::Display for Argument {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Va => "virtual address",
            Self::Pa => "physical address",
            Self::Size => "size",
        })
    }
}

/// Why a call was refused; prints as one line for a kernel log.
///
/// `va` is the first address of the request that the refused entry translates; `level` is the level
/// of that entry, or of the table that is missing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum MapError {
    /// The size is 0.
    ZeroSize,
    /// An argument is not a multiple of the granule.
    Misaligned {
        /// Which one.
        which: Argument,
        /// Its value.
        value: u64,
    },
    /// Address plus size passes the end of the 64-bit address space. (Ending exactly there is fine.)
    Wraps {
        /// Which address.
        which: Argument,
        /// Its value.
        start: u64,
        /// The size asked for, in bytes.
        size_bytes: u64,
    },
    /// The range does not lie within the half of the address space that these tables translate.
    OutsideRange {
        /// The first address of the request that lies outside.
        va: VirtAddr,
    },
    /// A physical address is wider than descriptors of this geometry, or the CPU, can hold: see
    /// [`PageTable::with_output_bits`](crate::PageTable::with_output_bits).
    OutputAddressTooWide {
        /// The last address of the request.
        pa: PhysAddr,
    },
    /// A call that must not allocate needs a table that is not there;
    /// [`PageTable::create_tables`](crate::PageTable::create_tables) links it beforehand.
    MissingTable {
        /// The level of the missing table.
        level: Level,
        /// The first address that needs it.
        va: VirtAddr,
        /// Who made the call that must not allocate.
        caller: &'static Location<'static>,
    },
    /// Only a part of a block would change: [split](crate::PageTable::split) it first. Or a table was asked for
    /// where a block is.
    WouldSplitBlock {
        /// Where.
        va: VirtAddr,
        /// The level of the block.
        level: Level,
        /// The block.
        old: Descriptor,
    },
    /// Only a part of a run of entries with the Contiguous bit would change, or a hole in it be filled;
    /// they must stay alike: [split](crate::PageTable::split) it first.
    WouldSplitRun {
        /// Where.
        va: VirtAddr,
        /// The level of the run.
        level: Level,
        /// The entry.
        old: Descriptor,
    },
    /// The change is not allowed on an entry that a table walker may be using: it would have to be
    /// made invalid and flushed first: unmap it, execute the flush, map it again.
    NeedsBreakBeforeMake {
        /// Where.
        va: VirtAddr,
        /// The level of the entry.
        level: Level,
        /// What stands there.
        old: Descriptor,
        /// What was asked for.
        new: Descriptor,
    },
    /// The address is mapped, to another physical address; a mapping moves by being unmapped first.
    AlreadyMapped {
        /// Where.
        va: VirtAddr,
        /// The level of the entry.
        level: Level,
        /// What stands there.
        old: Descriptor,
        /// What was asked for.
        new: Descriptor,
    },
    /// The address is not mapped.
    NotMapped {
        /// Where.
        va: VirtAddr,
        /// The level of the invalid entry.
        level: Level,
    },
    /// A table forbids to all below it what was asked for: the leaf would say executable or writable,
    /// and an access would fault.
    DeniedByTable {
        /// Where.
        va: VirtAddr,
        /// The level of the entry that leads to the table.
        level: Level,
        /// The table descriptor; without an address if the table would be new.
        table: Descriptor,
    },
    /// The allocator has fewer frames than the call needs.
    OutOfFrames {
        /// Table frames that the call needs.
        needed: usize,
        /// Table frames that there are.
        available: usize,
    },
    /// The table memory does not know the table that a descriptor, or the root, points to.
    UnreachableTable {
        /// Where the table should be.
        pa: PhysAddr,
        /// The first address of the request that it would translate.
        va: VirtAddr,
        /// The level of the table.
        level: Level,
    },
    /// An entry has an encoding that the architecture reserves; this crate writes none, so the
    /// table is damaged or none of ours.
    ReservedDescriptor {
        /// Where.
        va: VirtAddr,
        /// The level of the entry.
        level: Level,
        /// What stands there.
        old: Descriptor,
    },
}

impl fmt::Display for MapError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match *self {
            Self::ZeroSize => f.write_str("size is zero"),
            Self::Misaligned { which, value } => {
                write!(f, "{which} {value:#x} is not aligned to the granule")
            }
            Self::Wraps {
                which,
                start,
                size_bytes,
            } => {
                write!(
                    f,
                    "{which} {start:#x} + {size_bytes:#x} bytes passes the end of the address space"
                )
            }
            Self::OutsideRange { va } => {
                write!(f, "{va} is outside the range that these tables translate")
            }
            Self::OutputAddressTooWide { pa } => write!(f, "physical address {pa} is too wide"),
            Self::MissingTable { level, va, caller } => {
                write!(
                    f,
                    "no level {level} table for {va}, and none may be allocated: called at {caller}"
                )
            }
            Self::WouldSplitBlock { va, level, old } => {
                write!(
                    f,
                    "would change part of the level {level} block at {va}: {old}"
                )
            }
            Self::WouldSplitRun { va, level, old } => {
                write!(
                    f,
                    "would change part of the level {level} contiguous run at {va}: {old}"
                )
            }
            Self::NeedsBreakBeforeMake {
                va,
                level,
                old,
                new,
            } => {
                write!(
                    f,
                    "needs break-before-make at {va} level {level}: {old} -> {new}"
                )
            }
            Self::AlreadyMapped {
                va,
                level,
                old,
                new,
            } => {
                write!(
                    f,
                    "{va} is mapped elsewhere at level {level}: {old}, asked for {new}"
                )
            }
            Self::NotMapped { va, level } => {
                write!(f, "{va} is not mapped: invalid at level {level}")
            }
            Self::DeniedByTable { va, level, table } => {
                write!(
                    f,
                    "{va} lies below a table that forbids it, at level {level}: {table}"
                )
            }
            Self::OutOfFrames { needed, available } => {
                write!(
                    f,
                    "out of table frames: {needed} needed, {available} available"
                )
            }
            Self::UnreachableTable { pa, va, level } => {
                write!(f, "the level {level} table for {va} is unreachable at {pa}")
            }
            Self::ReservedDescriptor { va, level, old } => {
                write!(f, "reserved encoding at {va} level {level}: {old}")
            }
        }
    }
}

impl core::error::Error for MapError {}
