//! What the live tables hold: for the log, and for the W+X check.

use log::Level;

use super::KernelTables;
use super::layout::{FIXADDR_START, KIMAGE_VADDR, PAGE_OFFSET, PAGE_SIZE};
use crate::console::raw_println;
use crate::logger;

/// Parts of the address space, as the log names them.
const AREAS: [(u64, &str); 3] = [
    (PAGE_OFFSET, "Linear Mapping"),
    (KIMAGE_VADDR, "Kernel Image"),
    (FIXADDR_START, "Fixmap"),
];

/// The name of the area in which `va` lies.
fn area_of(va: u64) -> &'static str {
    let area = AREAS.iter().rev().find(|(start, _)| *start <= va);
    area.map_or("", |(_, name)| name)
}

/// Logs every region (addresses, size, level, block size, protection), and says
/// whether no page is both writable and executable. With `always` the regions are
/// printed whatever the log level. Linux: `ptdump_check_wx`.
pub fn check(tables: &KernelTables, always: bool) -> bool {
    let shown = always || logger::enabled(Level::Info);
    let mut area = "";
    let mut bad_pages = 0;
    for region in tables.regions() {
        if shown {
            let now = area_of(region.va.as_u64());
            if now != area {
                raw_println!("---[ {now} ]---");
            }
            // A table: its rows without time and target, which would be a third of it.
            raw_println!("{region}");
            area = now;
        }
        if region.is_writable_and_executable() {
            log::error!("W+X: {region}");
            bad_pages += region.size_bytes / PAGE_SIZE;
        }
    }
    match bad_pages {
        0 => log::info!("Checked W+X mappings: passed, no W+X pages found"),
        _ => log::error!("Checked W+X mappings: FAILED, {bad_pages} W+X pages found"),
    }
    bad_pages == 0
}
