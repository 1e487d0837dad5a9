//! The kernel's virtual address space.
//!
//! ```text
//! 0xffff_0000_0000_0000  PAGE_OFFSET      linear map of all RAM, 128 TiB
//! 0xffff_8000_0000_0000  PAGE_END
//! 0xffff_8000_8000_0000  KIMAGE_VADDR     the image: text, rodata, data
//! 0xffff_ffff_fe00_0000  FIXADDR_START    fixmap: device tree window, devices
//! 0xffff_ffff_fee0_0000  FIXADDR_END
//! ```

/// Size of a page: the translation granule.
pub const PAGE_SIZE: u64 = 4 << 10;
/// What one level-2 block maps.
pub const LEVEL2_BLOCK_SIZE: u64 = 2 << 20;
/// What one level-1 block maps.
pub const LEVEL1_BLOCK_SIZE: u64 = 1 << 30;

/// Start of the linear map.
pub const PAGE_OFFSET: u64 = 0xffff_0000_0000_0000;
/// End of the linear map.
pub const PAGE_END: u64 = 0xffff_8000_0000_0000;
/// Where the image is linked and runs; linker.ld holds the same number.
pub const KIMAGE_VADDR: u64 = 0xffff_8000_8000_0000;
/// Start of the fixmap; 2 MiB-aligned.
pub const FIXADDR_START: u64 = 0xffff_ffff_fe00_0000;
