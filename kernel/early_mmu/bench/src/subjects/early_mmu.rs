use early_mmu::{
    BbmLevel, BreakBeforeMake, Flags, Geometry, Granule4K, MapError, Mapping, PAGE_KERNEL,
    PAGE_KERNEL_RO, PageTable, PhysAddr, ReservedFrames, TableAlloc, TableMemory, TlbMaintenance,
    VaRange, VirtAddr,
};

use crate::arena;

type G = Granule4K<48>;
type Table = <G as Geometry>::Table;

/// Tables are where they are: no check, as the other crates' hooks have none.
struct Memory;

impl TableMemory<G> for Memory {
    type Frame = &'static mut Table;

    #[inline(always)]
    fn table(&self, pa: PhysAddr) -> Option<&Table> {
        // SAFETY: all tables are frames of the arena.
        Some(unsafe { &*(pa.as_u64() as *const Table) })
    }

    #[inline(always)]
    fn before_link(&self) {}
}

struct Frames;

impl TableAlloc for Frames {
    type Frame = &'static mut Table;
    type Reserved<'a> = &'a mut Frames;

    fn reserve(&mut self, needed: usize) -> Result<&mut Frames, MapError> {
        let available = arena::left();
        if needed > available {
            return Err(MapError::OutOfFrames { needed, available });
        }
        Ok(self)
    }
}

impl ReservedFrames for &mut Frames {
    type Frame = &'static mut Table;

    #[inline(always)]
    fn take(&mut self) -> (PhysAddr, &'static mut Table) {
        let frame = arena::frame();
        // SAFETY: a frame of the arena that nobody else has.
        (PhysAddr::new(frame as u64), unsafe {
            &mut *(frame as *mut Table)
        })
    }
}

struct NoTlb;

impl TlbMaintenance for NoTlb {
    fn store_barrier(&self) {}
    fn invalidate_leaf(&self, _: u64) {}
    fn invalidate_walk(&self, _: u64) {}
    fn invalidate_all(&self) {}
    fn completion_barrier(&self) {}
    fn context_synchronization(&self) {}
}

const LIVE: BreakBeforeMake<'static, NoTlb> = BreakBeforeMake::new(&NoTlb, BbmLevel::Level0);
const WHY: &str = "no table walker uses these tables";

pub struct Tables(PageTable<G, Memory>);

impl super::Subject for Tables {
    fn new() -> Self {
        let root = PhysAddr::new(arena::zeroed_frame() as u64);
        Self(PageTable::new(root, VaRange::Lower, Memory))
    }

    fn map(&mut self, pa: usize, size: usize, leaf: usize) {
        let mapping = Mapping {
            va: VirtAddr::new(0),
            pa: PhysAddr::new(pa as u64),
            size_bytes: size as u64,
            prot: PAGE_KERNEL,
        };
        let flags = if leaf == 4096 {
            Flags::NO_BLOCK
        } else {
            Flags::NONE
        };
        let flush = self.0.create_mapping(mapping, flags, &mut Frames);
        flush.expect("map").ignore_because(WHY);
    }

    fn protect(&mut self, _: usize, size: usize) {
        let flush = self
            .0
            .update_mapping_prot(VirtAddr::new(0), size as u64, PAGE_KERNEL_RO);
        flush.expect("protect").ignore_because(WHY);
    }

    #[inline(always)]
    fn translate(&self, va: usize) -> usize {
        let pa = self.0.translate(VirtAddr::new(va as u64));
        pa.expect("mapped").as_u64() as usize
    }

    fn unmap(&mut self, size: usize) {
        let retired = self.0.unmap(VirtAddr::new(0), size as u64).expect("unmap");
        retired.ignore_because(WHY).for_each(drop);
    }

    fn split(&mut self, va: usize) {
        let va = VirtAddr::new(va as u64);
        let flush = self.0.update_mapping_prot_splitting(
            va,
            4096,
            PAGE_KERNEL_RO,
            Flags::NONE,
            &mut Frames,
            LIVE,
        );
        flush.expect("split").ignore_because(WHY);
    }
}
