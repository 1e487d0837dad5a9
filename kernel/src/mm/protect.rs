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

/// Takes write access from the linear map's alias of text and rodata, which
/// otherwise would let code and constants be changed through data; whatever
/// `rodata=` says. Linux v6.12: `mark_linear_text_alias_ro`, which goes from
/// `_text` to the end of rodata in one call as well.
pub fn mark_linear_text_alias_ro(tables: &mut KernelTables, boot: &BootInfo) {
    let constant = image::read_only();
    let alias = boot.linear.virt(boot.image_pa + constant.start);
    make_read_only(tables, "linear alias of text and rodata", alias, constant);
}

/// Takes write access from rodata, which relocation needed until now. Linux:
/// `mark_rodata_ro`.
pub fn mark_rodata_ro(tables: &mut KernelTables, mode: RodataMode) {
    let rodata = image::rodata();
    if mode == RodataMode::Off {
        log::warn!("rodata=off: constants stay writable");
        return;
    }
    make_read_only(tables, "rodata", rodata.va(), rodata);
}

fn make_read_only(tables: &mut KernelTables, what: &str, va: u64, segment: Segment) {
    match tables.update_mapping_prot(VirtAddr::new(va), segment.size_bytes(), PAGE_KERNEL_RO) {
        Ok(flush) => tlb::execute(flush),
        Err(error) => panic!("{what}: {error}"),
    }
}
