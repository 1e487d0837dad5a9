//! The kernel's virtual address space, for the granule that it is built for.
//!
//! ```text
//! granule        4 KiB                  16 KiB                 64 KiB
//! VA_BITS        48, four levels        47, three levels       42, two levels
//!
//! PAGE_OFFSET    0xffff_0000_0000_0000  0xffff_8000_0000_0000  0xffff_fc00_0000_0000
//!   linear map of all RAM
//! PAGE_END       0xffff_8000_0000_0000  0xffff_c000_0000_0000  0xffff_fe00_0000_0000
//! KIMAGE_VADDR   0xffff_8000_8000_0000  0xffff_c000_8000_0000  0xffff_fe00_8000_0000
//!   the image: text, rodata, data
//! FIXADDR_START  0xffff_ffff_fe00_0000  0xffff_ffff_e000_0000  0xffff_fffe_0000_0000
//!   device tree window, devices
//! FIXADDR_END
//! ```

use early_mmu::Geometry as _;
#[cfg(not(any(feature = "granule-16k", feature = "granule-64k")))]
use early_mmu::Granule4K as Granule;
#[cfg(feature = "granule-16k")]
use early_mmu::Granule16K as Granule;
#[cfg(feature = "granule-64k")]
use early_mmu::Granule64K as Granule;

#[cfg(all(feature = "granule-16k", feature = "granule-64k"))]
compile_error!("a kernel has one granule: granule-16k or granule-64k, or neither for 4 KiB");

/// Width of a kernel address: what the usual number of full tables translates, as
/// in Linux. Fewer levels are fewer tables to build and to walk; the linear map of
/// the smallest still holds 2 TiB of RAM.
pub const VA_BITS: u32 = match Granule::<48>::GRANULE_SHIFT {
    12 => 48,
    14 => 47,
    _ => 42,
};

/// The kernel's own tables, for TTBR1.
pub type Geometry = Granule<VA_BITS>;
/// The identity map's, for TTBR0: whatever the kernel's addresses are, every
/// physical one must fit.
pub type IdentityGeometry = Granule<48>;
/// A table of either.
pub type Table = <Geometry as early_mmu::Geometry>::Table;

/// Size of a page: the translation granule.
pub const PAGE_SIZE: u64 = Geometry::GRANULE_BYTES;
/// What one level-2 block maps: 2, 32 or 512 MiB.
pub const LEVEL2_BLOCK_SIZE: u64 = PAGE_SIZE << Geometry::INDEX_BITS;

/// Start of the linear map.
pub const PAGE_OFFSET: u64 = !0 << VA_BITS;
/// End of the linear map.
pub const PAGE_END: u64 = !0 << (VA_BITS - 1);
/// Where the image is linked and runs.
pub const KIMAGE_VADDR: u64 = PAGE_END + (2 << 30);
/// The most that the image may take: with 4 KiB pages, what two level-3 tables
/// translate from any multiple of 2 MiB on.
pub const IMAGE_MAX_BYTES: u64 = 4 << 20;
/// Start of the fixmap, on a level-2 block.
pub const FIXADDR_START: u64 = (16 * LEVEL2_BLOCK_SIZE).wrapping_neg();
