//! Memory: who lies where, what may be done to it, and how it got mapped.

pub mod fixmap;
pub mod frames;
pub mod heap;
pub mod image;
pub mod layout;
pub mod linear;
pub mod protect;
pub mod ptdump;

use core::sync::atomic::{AtomicU64, Ordering};

use early_mmu::descriptor::Kind;
use early_mmu::{
    Descriptor, Geometry as _, LAST_LEVEL, Level, PAGE_KERNEL, PAGE_KERNEL_RO, PageTable, PhysAddr,
    TableMemory, VaRange,
};
use platform::fdt::wipe_seeds;

use crate::arch::mmu::TableWindow;
use crate::boot::info::BootInfo;

use layout::{Geometry, PAGE_SIZE, Table};

/// The kernel's own tables, for TTBR1.
pub type KernelTables = PageTable<Geometry, TableWindow>;

/// The live kernel tables, seen through the linear map. Linux: `init_mm`.
pub fn kernel_tables(boot: &BootInfo) -> KernelTables {
    // SAFETY: every table is in the image or in RAM taken for it, and the
    // linear map shows all of it writable; nothing else uses that memory.
    let window = unsafe { TableWindow::new(boot.linear.offset()) };
    PageTable::new(PhysAddr::new(boot.swapper_pa), VaRange::Upper, window)
        .with_output_bits(boot.pa_bits)
}

/// Logs what memory there is and what it took to map it.
pub fn report(boot: &BootInfo) {
    let memblock = &boot.firmware.memblock;
    for bank in memblock.memory.as_slice() {
        log::info!("RAM      {bank} {:>8} KiB", bank.size_bytes() >> 10);
    }
    for range in memblock.reserved.as_slice() {
        log::info!("reserved {range} {:>8} KiB", range.size_bytes() >> 10);
    }
    for range in memblock.nomap.as_slice() {
        log::info!("no-map   {range} {:>8} KiB", range.size_bytes() >> 10);
    }
    if boot.firmware.dropped_banks != 0 {
        log::warn!(
            "{} memory banks of the device tree are unusable",
            boot.firmware.dropped_banks
        );
    }
    if boot.linear.clipped_bytes != 0 {
        log::warn!(
            "{} KiB of RAM lie beyond the linear map and are not used",
            boot.linear.clipped_bytes >> 10
        );
    }
    log::info!(
        "{} KiB granule, {}-bit addresses; table frames: 1 root, {} static for image and fixmap, \
         {} for the linear map",
        PAGE_SIZE >> 10,
        Geometry::VA_BITS,
        boot.static_frames,
        boot.linear_frames
    );
}

/// Takes the device tree over: wipes the seeds in it, then makes it read-only.
///
/// # Panics
/// If its window cannot be mapped: the early stage linked the tables for it.
pub fn setup_fdt(tables: &mut KernelTables, boot: &BootInfo) {
    let fdt_pa = boot.fdt.start;
    let (start, size) = match fixmap::remap_fdt(tables, fdt_pa, PAGE_KERNEL) {
        Ok(window) => window,
        Err(error) => panic!("device tree, to be written: {error}"),
    };
    // SAFETY: mapped read-write just now, and nobody else refers to it.
    let blob = unsafe { core::slice::from_raw_parts_mut(start, size) };
    match wipe_seeds(blob, &boot.firmware.seeds) {
        Some(0) => {}
        Some(count) => log::info!("device tree: {count} seeds wiped"),
        None => log::warn!("device tree: not what it was, its seeds are not wiped"),
    }
    if let Err(error) = fixmap::remap_fdt(tables, fdt_pa, PAGE_KERNEL_RO) {
        panic!("device tree, to be read: {error}");
    }
}

fn table(tables: &KernelTables, pa: PhysAddr) -> Option<&Table> {
    TableMemory::<Geometry>::table(tables.memory(), pa)
}

/// Calls `visit` with the physical address of every table.
pub fn for_each_table(tables: &KernelTables, visit: &mut dyn FnMut(u64)) {
    fn descend(tables: &KernelTables, pa: PhysAddr, level: Level, visit: &mut dyn FnMut(u64)) {
        let Some(table) = table(tables, pa) else {
            return;
        };
        visit(pa.as_u64());
        if level == LAST_LEVEL {
            return;
        }
        for entry in table {
            let descriptor = Descriptor::from_bits(entry.load(Ordering::Relaxed));
            if descriptor.kind::<Geometry>(level) == Kind::Table {
                descend(tables, descriptor.output::<Geometry>(), level + 1, visit);
            }
        }
    }
    descend(tables, tables.root(), Geometry::START_LEVEL, visit);
}

/// A checksum of every table, for tests that nothing was written.
pub fn tables_checksum(tables: &KernelTables) -> u64 {
    let mut sum = 0xcbf2_9ce4_8422_2325;
    for_each_table(tables, &mut |pa| {
        let Some(table) = table(tables, PhysAddr::new(pa)) else {
            return;
        };
        // FNV-1a, a word at a time.
        let mut add = |entry: &AtomicU64| {
            sum = (sum ^ entry.load(Ordering::Relaxed)).wrapping_mul(0x0000_0100_0000_01b3);
        };
        // Two in a row: half of the time would otherwise go into counting.
        for [first, second] in table.as_chunks().0 {
            add(first);
            add(second);
        }
    });
    sum
}
