#![doc = include_str!("../README.md")]
//!
//! # Names
//!
//! What is in a table is named as in the Arm Architecture Reference Manual (DDI 0487): descriptor,
//! block, page, table, level, output address, `AttrIndx`, `AP`, `SH`, `AF`, `nG`, `PXN`, `UXN`.
//! Operations are named as in Linux: `create_mapping_noalloc`, `update_mapping_prot`. Sizes are in
//! bytes.
//!
//! # Reading the code
//!
//! [`geometry`](Geometry) cuts addresses, [`descriptor`] says what an entry means and [`Prot`] what
//! it permits; [`PageTable`] checks arguments; the engine plans and writes; `edit` says what each
//! operation does to an entry. `split`, `merge` and `unmap` are apart, since they look after tables as
//! well; `live` is where entries are broken and made, `retired` where unlinked tables wait.
#![no_std]
#![forbid(unsafe_code)]

mod addr;
mod geometry;

pub mod descriptor;
mod prot;

mod error;
mod flags;
mod flush;
mod memory;

mod edit;
mod engine;
mod live;
mod merge;
mod page_table;
mod retired;
mod span;
mod split;
mod unmap;

mod regions;
mod walk;

pub use addr::{PhysAddr, VirtAddr};
pub use descriptor::Descriptor;
pub use error::{Argument, MapError};
pub use flags::Flags;
pub use flush::{Flush, Stale, TlbMaintenance};
pub use geometry::{
    Geometry, Granule4K, Granule4KLpa2, Granule16K, Granule16KLpa2, Granule64K, Granule64KLpa,
    LAST_LEVEL, Level,
};
pub use live::{BbmLevel, BreakBeforeMake};
pub use memory::{NoAlloc, NoFrames, ReservedFrames, TableAlloc, TableMemory};
pub use page_table::{Mapping, PageTable, VaRange};
pub use prot::{
    MAIR_EL1, MemType, PAGE_KERNEL, PAGE_KERNEL_RO, PAGE_KERNEL_ROX, PROT_DEVICE_nGnRE,
    PROT_DEVICE_nGnRnE, Prot,
};
pub use regions::{Region, Regions};
pub use retired::{FreedTables, Retired};
pub use walk::{Leaf, Walk, WalkEnd};
