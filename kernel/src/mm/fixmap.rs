//! The fixmap: virtual addresses known at compile time, whose tables are static
//! and linked once. Everything in it is mapped by `create_mapping_noalloc`.
//!
//! The window for the device tree comes first: 3 MiB, and a page more for a tree
//! that does not start on a page. A slot for each device follows, with an unmapped
//! page around each. Where a slot is depends on the granule, but for the first.

use core::fmt;

use early_mmu::{Flags, Flush, MapError, Mapping, PROT_DEVICE_nGnRE, PhysAddr, Prot, VirtAddr};
use platform::fdt::{self, FdtError, HEADER_BYTES, MAX_FDT_SIZE};
use platform::range::PhysRange;

use super::KernelTables;
use super::frames::Frames;
use super::layout::{FIXADDR_START, LEVEL2_BLOCK_SIZE, PAGE_SIZE};
use crate::arch::tlb;

/// The device tree's window.
pub const FIX_FDT: u64 = FIXADDR_START;
/// The console's page.
pub const FIX_EARLYCON: u64 = FIXADDR_START + FDT_WINDOW_BYTES + PAGE_SIZE;
/// The page of the power manager.
pub const FIX_POWER: u64 = FIX_EARLYCON + 2 * PAGE_SIZE;
/// A page for self-tests.
pub const FIX_SELFTEST: u64 = FIX_POWER + 2 * PAGE_SIZE;
/// Another, for the test that a new leaf needs no allocation.
pub const FIX_NOALLOC: u64 = FIX_SELFTEST + 2 * PAGE_SIZE;
/// Room for self-tests that map many pages.
pub const FIX_SELFTEST_PAGES: u64 = FIXADDR_START + 2 * FDT_WINDOW_BYTES;
/// How many.
pub const SELFTEST_PAGES: u64 = 1024;
/// The end of what the last of the tables translates; the page before is unmapped.
pub const FIXADDR_END: u64 = FIXADDR_START + SLOTS_BYTES.next_multiple_of(LEVEL2_BLOCK_SIZE);
/// Beyond the fixmap, where only tables down to level 2 exist: room for blocks.
pub const FIX_SELFTEST_BLOCK: u64 = FIXADDR_END + 2 * LEVEL2_BLOCK_SIZE;

/// Any granule's contiguous run is aligned to it.
const FDT_WINDOW_BYTES: u64 = 4 << 20;
const SLOTS_BYTES: u64 = FIX_SELFTEST_PAGES - FIXADDR_START + (SELFTEST_PAGES + 1) * PAGE_SIZE;
const _: () = assert!(MAX_FDT_SIZE as u64 + PAGE_SIZE <= FDT_WINDOW_BYTES);
const _: () = assert!(FIX_NOALLOC + PAGE_SIZE < FIX_SELFTEST_PAGES);

/// Links the tables of the whole fixmap, which makes every later call here one
/// that needs no allocation. Linux: `early_fixmap_init`.
///
/// # Errors
/// What `create_tables` refused.
pub fn init(tables: &mut KernelTables, frames: &mut Frames<'_>) -> Result<Flush, MapError> {
    tables.create_tables(
        VirtAddr::new(FIXADDR_START),
        FIXADDR_END - FIXADDR_START,
        frames,
    )
}

/// The page that a device at `pa` is in: not always at its start.
pub fn page_of(pa: u64) -> u64 {
    pa & !(PAGE_SIZE - 1)
}

/// Maps a device's page of registers into its slot.
///
/// # Errors
/// What `create_mapping_noalloc` refused.
pub fn map_device(tables: &mut KernelTables, slot: u64, pa: u64) -> Result<Flush, MapError> {
    let mapping = Mapping {
        va: VirtAddr::new(slot),
        pa: PhysAddr::new(page_of(pa)),
        size_bytes: PAGE_SIZE,
        prot: PROT_DEVICE_nGnRE,
    };
    tables.create_mapping_noalloc(mapping, Flags::NONE)
}

/// Where the device tree is in its window: the offset in its page stays.
fn fdt_va(fdt_pa: u64) -> u64 {
    FIX_FDT + fdt_pa % PAGE_SIZE
}

/// Maps the device tree, known to be `fdt`, into its window.
///
/// # Errors
/// What `create_mapping_noalloc` refused.
pub fn map_fdt(tables: &mut KernelTables, fdt: PhysRange, prot: Prot) -> Result<Flush, MapError> {
    let pages = fdt.align_outward(PAGE_SIZE);
    let mapping = Mapping {
        va: VirtAddr::new(FIX_FDT),
        pa: PhysAddr::new(pages.start),
        size_bytes: pages.size_bytes(),
        prot,
    };
    // Pages, so that nothing beside the tree is mapped.
    tables.create_mapping_noalloc(mapping, Flags::NO_BLOCK)
}

/// Why the device tree cannot be had through its window.
#[derive(Debug)]
pub enum RemapError {
    /// The mapper refused.
    Map(MapError),
    /// What is there is no device tree any more.
    Fdt(FdtError),
}

impl fmt::Display for RemapError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Map(error) => error.fmt(f),
            Self::Fdt(error) => error.fmt(f),
        }
    }
}

/// Maps the device tree anew with `prot`, on the live tables, and says where it
/// is. Reads its header through the mapping made before: by the early stage, or
/// by this. Linux: `fixmap_remap_fdt`.
///
/// # Errors
/// [`RemapError`].
pub fn remap_fdt(
    tables: &mut KernelTables,
    fdt_pa: u64,
    prot: Prot,
) -> Result<(*mut u8, usize), RemapError> {
    let va = fdt_va(fdt_pa) as *mut u8;
    // SAFETY: the early stage mapped the tree here, header and all; nothing
    // writes to it while this copy is made.
    let header = unsafe { va.cast::<[u8; HEADER_BYTES]>().read() };
    let size = fdt::total_size(&header).map_err(RemapError::Fdt)?;
    let range = PhysRange {
        start: fdt_pa,
        end: fdt_pa + size as u64,
    };
    tlb::execute(map_fdt(tables, range, prot).map_err(RemapError::Map)?);
    Ok((va, size))
}
