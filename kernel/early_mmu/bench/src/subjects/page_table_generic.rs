//! With entries written for this: the crate leaves them to its user.

use page_table_generic::{
    FrameAllocator, MapConfig, PageTable, PageTableEntry, PhysAddr, TableMeta, VirtAddr,
};

use crate::arena;

const ADDRESS: u64 = 0x0000_ffff_ffff_f000;
const RW: u64 = 0x0060_0000_0000_0700;
const READ_ONLY: u64 = 1 << 7;

#[derive(Clone, Copy, Debug)]
#[repr(transparent)]
pub struct Entry(u64);

impl PageTableEntry for Entry {
    type PteConfig = u64;

    #[inline(always)]
    fn new_page(pa: PhysAddr, config: u64, is_huge: bool) -> Self {
        Self(pa.as_usize() as u64 & ADDRESS | config | if is_huge { 0b01 } else { 0b11 })
    }
    #[inline(always)]
    fn new_table(pa: PhysAddr) -> Self {
        Self(pa.as_usize() as u64 & ADDRESS | 0b11)
    }
    #[inline(always)]
    fn paddr(&self, _: bool) -> PhysAddr {
        PhysAddr::from((self.0 & ADDRESS) as usize)
    }
    #[inline(always)]
    fn config(&self, _: bool) -> u64 {
        self.0 & !(ADDRESS | 0b11)
    }
    #[inline(always)]
    fn present(&self) -> bool {
        self.0 & 1 != 0
    }
    #[inline(always)]
    fn huge(&self, is_dir: bool) -> bool {
        is_dir && self.0 & 0b10 == 0
    }
    #[inline(always)]
    fn unused(&self) -> bool {
        self.0 == 0
    }
    #[inline(always)]
    fn clear(&mut self) {
        self.0 = 0;
    }
}

#[derive(Clone, Copy)]
pub struct Four;

impl TableMeta for Four {
    type P = Entry;
    const PAGE_SIZE: usize = 4096;
    const LEVEL_BITS: &[usize] = &[9, 9, 9, 9];
    const MAX_BLOCK_LEVEL: usize = 3;
    fn flush(_: Option<VirtAddr>) {}
}

#[derive(Clone)]
pub struct Frames;

impl FrameAllocator for Frames {
    fn alloc_frame(&self) -> Option<PhysAddr> {
        // It clears frames itself.
        Some(PhysAddr::from(arena::frame()))
    }
    fn dealloc_frame(&self, _: PhysAddr) {}
    #[inline(always)]
    fn phys_to_virt(&self, pa: PhysAddr) -> *mut u8 {
        pa.as_usize() as *mut u8
    }
}

pub struct Tables(PageTable<Four, Frames>);

impl super::Subject for Tables {
    fn new() -> Self {
        Self(PageTable::new(Frames).expect("a frame"))
    }

    fn map(&mut self, pa: usize, size: usize, leaf: usize) {
        let config = MapConfig {
            vaddr: VirtAddr::from(0),
            paddr: PhysAddr::from(pa),
            size,
            pte: RW,
            allow_huge: leaf != 4096,
            flush: false,
        };
        self.0.map(&config).expect("map");
    }

    fn protect(&mut self, _: usize, size: usize) {
        self.0
            .protect_region(VirtAddr::from(0), size, RW | READ_ONLY)
            .expect("protect");
    }

    #[inline(always)]
    fn translate(&self, va: usize) -> usize {
        self.0
            .translate_phys(VirtAddr::from(va))
            .expect("mapped")
            .as_usize()
    }

    fn unmap(&mut self, size: usize) {
        self.0.unmap(VirtAddr::from(0), size).expect("unmap");
    }

    fn split(&mut self, va: usize) {
        self.0
            .protect_region(VirtAddr::from(va), 4096, RW | READ_ONLY)
            .expect("split");
    }
}
