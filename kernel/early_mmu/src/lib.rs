//! Page tables for aarch64: planned before written, no-alloc by type, for early boot and after.
#![no_std]
#![forbid(unsafe_code)]

pub mod descriptor;

mod addr;
mod edit;
mod engine;
mod error;
mod flags;
mod flush;
mod geometry;
mod memory;
mod page_table;
mod prot;
mod regions;
mod walk;

pub use addr::{PhysAddr, VirtAddr};
pub use descriptor::Descriptor;
pub use error::{Argument, MapError};
pub use flags::Flags;
pub use flush::{Flush, Stale, TlbMaintenance};
pub use geometry::{Geometry, Granule4K, LAST_LEVEL, Level};
pub use memory::{NoAlloc, NoFrames, ReservedFrames, TableAlloc, TableMemory};
pub use page_table::{Mapping, PageTable, VaRange};
pub use prot::{
    MAIR_EL1, MemType, PAGE_KERNEL, PAGE_KERNEL_RO, PAGE_KERNEL_ROX, PROT_DEVICE_nGnRE,
    PROT_DEVICE_nGnRnE, Prot,
};
pub use regions::{Region, Regions};
pub use walk::{Leaf, Walk, WalkEnd};
