//! With the entries of the host: those for aarch64 are only built there. The tables are the same code.

use memory_addr::{PhysAddr, VirtAddr};
use page_table_entry::MappingFlags;
use page_table_entry::x86_64::X64PTE;
use page_table_multiarch::{PageTable64, PagingHandler, PagingMetaData};

use crate::arena;

pub struct Four;

impl PagingMetaData for Four {
    const LEVELS: usize = 4;
    const PA_MAX_BITS: usize = 48;
    const VA_MAX_BITS: usize = 48;
    type VirtAddr = VirtAddr;

    fn flush_tlb(_: Option<VirtAddr>) {}
}

pub struct Identity;

impl PagingHandler for Identity {
    fn alloc_frames(_: usize, _: usize) -> Option<PhysAddr> {
        // It clears frames itself.
        Some(PhysAddr::from(arena::frame()))
    }
    fn dealloc_frames(_: PhysAddr, _: usize) {}
    #[inline(always)]
    fn phys_to_virt(pa: PhysAddr) -> VirtAddr {
        VirtAddr::from(pa.as_usize())
    }
}

pub struct Tables(PageTable64<Four, X64PTE, Identity>);

impl super::Subject for Tables {
    // Protecting a part of a block changes all of it, and panics.
    const SPLITS: bool = false;

    fn new() -> Self {
        Self(PageTable64::try_new().expect("a frame"))
    }

    fn map(&mut self, pa: usize, size: usize, leaf: usize) {
        let flags = MappingFlags::READ | MappingFlags::WRITE;
        let to = |va: VirtAddr| PhysAddr::from(va.as_usize() + pa);
        let mut cursor = self.0.cursor();
        cursor
            .map_region(VirtAddr::from(0), to, size, flags, leaf != 4096)
            .expect("map");
    }

    fn protect(&mut self, _: usize, size: usize) {
        let mut cursor = self.0.cursor();
        cursor
            .protect_region(VirtAddr::from(0), size, MappingFlags::READ)
            .expect("protect");
    }

    #[inline(always)]
    fn translate(&self, va: usize) -> usize {
        self.0
            .query(VirtAddr::from(va))
            .expect("mapped")
            .0
            .as_usize()
    }

    fn unmap(&mut self, size: usize) {
        self.0
            .cursor()
            .unmap_region(VirtAddr::from(0), size)
            .expect("unmap");
    }

    fn split(&mut self, _: usize) {}
}
