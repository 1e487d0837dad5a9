//! Page tables for aarch64: planned before written, no-alloc by type, for early boot and after.
//!
//! VMSAv8-64 stage 1 translation tables for EL1, built and changed without `unsafe`, without
//! assembly and without dependencies. The crate decides what to write; the kernel says where tables
//! are, where frames for new ones come from, and executes barriers and TLB maintenance.
//!
//! - **Planned, then written.** A call first finds out what it would do, then does it. Any error
//!   comes from the first half: not one descriptor has changed then.
//! - **No-alloc is a type.** [`PageTable::create_mapping_noalloc`] and
//!   [`PageTable::update_mapping_prot`] have no allocator to call. A missing table is an error with
//!   its level, the address and the caller.
//! - **A walker never sees a half-built table.** What is missing is built in frames that nobody can
//!   see, ordered by one barrier, and linked by one store.
//! - **What needs break-before-make is refused**, in one place ([`Descriptor::may_become`]), or done
//!   in the right order where the caller asks for it: [`BreakBeforeMake`].
//! - **The largest leaf everywhere it is legal**: blocks and contiguous runs, for granules of 4, 16
//!   and 64 KiB and addresses of up to 52 bits. What has to be apart is split, what fits is merged.
//! - **A table is freed after the flush**: see [`Retired`].
//! - **Writable and executable cannot be written down**: see [`Prot`].
//! - **A flush cannot be forgotten silently**: see [`Flush`].
//!
//! # Names
//!
//! What is in a table is named as in the Arm Architecture Reference Manual (DDI 0487): descriptor,
//! block, page, table, level, output address, `AttrIndx`, `AP`, `SH`, `AF`, `nG`, `PXN`, `UXN`.
//! Operations are named as in Linux: `create_mapping_noalloc`, `update_mapping_prot`. Sizes are in
//! bytes.
//!
//! # Example
//!
//! Table memory on the host, where a table is whatever was published at its address; a kernel's is
//! shorter, as its physical memory is simply there. Frames come from a counter.
//!
//! ```
//! use std::cell::OnceCell;
//! use std::sync::atomic::AtomicU64;
//!
//! use early_mmu::{
//!     Flags, Granule4K, MapError, Mapping, PAGE_KERNEL, PAGE_KERNEL_RO, PageTable, PhysAddr,
//!     ReservedFrames, TableAlloc, TableMemory, VaRange, VirtAddr,
//! };
//!
//! type G = Granule4K<48>;
//! type Table = [AtomicU64; 512];
//!
//! fn empty_table() -> Box<Table> {
//!     Box::new([const { AtomicU64::new(0) }; 512])
//! }
//!
//! /// Sixteen places for tables, from physical address 0x8000_0000 on.
//! #[derive(Default)]
//! struct Memory([OnceCell<Box<Table>>; 16]);
//!
//! impl Memory {
//!     const BASE: u64 = 0x8000_0000;
//!
//!     fn place(&self, pa: PhysAddr) -> Option<&OnceCell<Box<Table>>> {
//!         self.0.get(usize::try_from(pa.as_u64().checked_sub(Self::BASE)? >> 12).ok()?)
//!     }
//! }
//!
//! impl TableMemory<G> for Memory {
//!     type Frame = Box<Table>;
//!
//!     fn table(&self, pa: PhysAddr) -> Option<&Table> {
//!         self.place(pa)?.get().map(|table| &**table)
//!     }
//!     fn publish(&self, pa: PhysAddr, frame: Box<Table>) {
//!         let _ = self.place(pa).map(|place| place.set(frame));
//!     }
//!     fn before_link(&self) {
//!         // dsb ishst
//!     }
//! }
//!
//! /// Hands out the places in order.
//! struct Frames {
//!     next: usize,
//! }
//!
//! impl TableAlloc for Frames {
//!     type Frame = Box<Table>;
//!     type Reserved<'a> = &'a mut Frames;
//!
//!     fn reserve(&mut self, needed: usize) -> Result<&mut Frames, MapError> {
//!         let available = 16 - self.next;
//!         if needed > available {
//!             return Err(MapError::OutOfFrames { needed, available });
//!         }
//!         Ok(self)
//!     }
//! }
//!
//! impl ReservedFrames for &mut Frames {
//!     type Frame = Box<Table>;
//!
//!     fn take(&mut self) -> (PhysAddr, Box<Table>) {
//!         let pa = PhysAddr::new(Memory::BASE + ((self.next as u64) << 12));
//!         self.next += 1;
//!         (pa, empty_table())
//!     }
//! }
//!
//! let root = PhysAddr::new(Memory::BASE);
//! let memory = Memory::default();
//! memory.publish(root, empty_table());
//! let mut frames = Frames { next: 1 };
//! let mut tables = PageTable::<G, _>::new(root, VaRange::Upper, memory);
//!
//! // 1 GiB and 2 MiB of RAM: one block of each size, two tables.
//! let ram = Mapping {
//!     va: VirtAddr::new(0xffff_0000_4000_0000),
//!     pa: PhysAddr::new(0x4000_0000),
//!     size_bytes: (1 << 30) + (2 << 20),
//!     prot: PAGE_KERNEL,
//! };
//! assert_eq!(tables.tables_needed(ram, Flags::NONE), Ok(2));
//! tables
//!     .create_mapping(ram, Flags::NONE, &mut frames)?
//!     .ignore_because("no table walker uses these tables");
//! assert_eq!(
//!     tables.translate(VirtAddr::new(0xffff_0000_8000_1234)),
//!     Some(PhysAddr::new(0x8000_1234)),
//! );
//!
//! // Read-only from here on; a live kernel would `execute` the flush.
//! let flush = tables.update_mapping_prot(ram.va, 1 << 30, PAGE_KERNEL_RO)?;
//! assert_eq!(flush.stale().map(|stale| stale.invalidations()), Some(1));
//! flush.ignore_because("no table walker uses these tables");
//!
//! // A page further on needs tables of levels 2 and 3, and this call must not allocate.
//! let page = Mapping { va: VirtAddr::new(0xffff_0001_0000_0000), size_bytes: 0x1000, ..ram };
//! let error = tables.create_mapping_noalloc(page, Flags::NONE).unwrap_err();
//! assert!(matches!(error, MapError::MissingTable { level: 2, .. }));
//!
//! for region in tables.regions() {
//!     println!("{region}");
//! }
//! # Ok::<(), MapError>(())
//! ```
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
