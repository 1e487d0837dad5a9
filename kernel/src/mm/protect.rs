//! The protect stage: what is constant from here on becomes read-only.
//!
//! Both are calls that must not allocate: the leaves of the image and of its
//! alias end where its segments end, so no block is split.

use early_mmu::{PAGE_KERNEL_RO, VirtAddr};
use platform::cmdline::RodataMode;

use super::KernelTables;
use super::image::{self, Segment};
use crate::arch::tlb;
use crate::boot::info::BootInfo;

/// Takes write access from the linear map's alias of the kernel text, which
/// otherwise would let code be changed through data. Linux:
/// `mark_linear_text_alias_ro`.
pub fn mark_linear_text_alias_ro(tables: &mut KernelTables, boot: &BootInfo) {
    make_read_only(
        tables,
        "linear alias of text",
        linear_alias(boot, image::text()),
        image::text(),
    );
}

/// Takes write access from rodata, which relocation needed until now. Linux:
/// `mark_rodata_ro`.
pub fn mark_rodata_ro(tables: &mut KernelTables, boot: &BootInfo, mode: RodataMode) {
    let rodata = image::rodata();
    if mode == RodataMode::Off {
        log::warn!("rodata=off: constants stay writable");
        return;
    }
    make_read_only(tables, "rodata", rodata.va(), rodata);
    if mode == RodataMode::Full {
        make_read_only(
            tables,
            "linear alias of rodata",
            linear_alias(boot, rodata),
            rodata,
        );
    }
}

/// Virtual address of a segment in the linear map.
pub fn linear_alias(boot: &BootInfo, segment: Segment) -> u64 {
    boot.linear.virt(boot.image_pa + segment.start)
}

fn make_read_only(tables: &mut KernelTables, what: &str, va: u64, segment: Segment) {
    match tables.update_mapping_prot(VirtAddr::new(va), segment.size_bytes(), PAGE_KERNEL_RO) {
        Ok(flush) => tlb::execute(flush),
        Err(error) => panic!("{what}: {error}"),
    }
}
