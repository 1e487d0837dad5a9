use patina_paging::aarch64::AArch64PageTable;
use patina_paging::page_allocator::PageAllocator;
use patina_paging::{MemoryAttributes, PageTable, PagingType, PtError};

use crate::arena;

struct Frames;

impl PageAllocator for Frames {
    fn allocate_page(&mut self, _: u64, _: u64, _: bool) -> Result<u64, PtError> {
        // It clears frames itself.
        Ok(arena::frame() as u64)
    }
}

pub struct Tables {
    tables: AArch64PageTable<Frames>,
    offset: usize,
    /// What was asked for.
    pa: usize,
}

const RW: MemoryAttributes = MemoryAttributes::Writeback.union(MemoryAttributes::ExecuteProtect);

impl super::Subject for Tables {
    fn new() -> Self {
        let tables = AArch64PageTable::new(Frames, PagingType::Paging4Level);
        Self {
            tables: tables.expect("frames"),
            offset: 0,
            pa: 0,
        }
    }

    /// It chooses the size of leaves by alignment alone: pages take an offset of one page.
    fn map(&mut self, pa: usize, size: usize, leaf: usize) {
        self.pa = pa;
        self.offset = if leaf == 4096 { pa + 4096 } else { pa };
        let map = self
            .tables
            .map_aliased_memory_region(0, self.offset as u64, size as u64, RW);
        map.expect("map");
    }

    fn protect(&mut self, _: usize, size: usize) {
        let (pa, read_only) = (self.offset as u64, RW | MemoryAttributes::ReadOnly);
        let protect = self
            .tables
            .map_aliased_memory_region(0, pa, size as u64, read_only);
        protect.expect("protect");
    }

    /// It has no call that gives the physical address: this one says only that there is one.
    fn translate(&self, va: usize) -> usize {
        let query = self.tables.query_memory_region(va as u64 & !4095, 4096);
        query.expect("mapped");
        va + self.pa
    }

    fn unmap(&mut self, size: usize) {
        self.tables
            .unmap_memory_region(0, size as u64)
            .expect("unmap");
    }

    fn split(&mut self, va: usize) {
        let (pa, read_only) = ((va + self.offset) as u64, RW | MemoryAttributes::ReadOnly);
        let split = self
            .tables
            .map_aliased_memory_region(va as u64, pa, 4096, read_only);
        split.expect("split");
    }
}
