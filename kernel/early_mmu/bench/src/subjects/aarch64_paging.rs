use std::cell::Cell;
use std::ptr::NonNull;

use aarch64_paging::Mapping;
use aarch64_paging::descriptor::{El1Attributes as A, PagingAttributes, PhysicalAddress};
use aarch64_paging::paging::{Constraints, El1And0, MemoryRegion, PageTable, Translation, VaRange};

use crate::arena;

struct Identity;

impl Translation<A> for Identity {
    fn allocate_table(&mut self) -> (NonNull<PageTable<A>>, PhysicalAddress) {
        let frame = arena::zeroed_frame();
        let table = NonNull::new(frame as *mut PageTable<A>).expect("a frame");
        (table, PhysicalAddress(frame as _))
    }

    unsafe fn deallocate_table(&mut self, _: NonNull<PageTable<A>>) {}

    #[inline(always)]
    fn physical_to_virtual(&self, pa: PhysicalAddress) -> NonNull<PageTable<A>> {
        NonNull::new(pa.0 as *mut PageTable<A>).expect("a frame")
    }
}

const RW: A = A::VALID
    .union(A::ATTRIBUTE_INDEX_0)
    .union(A::INNER_SHAREABLE)
    .union(A::ACCESSED)
    .union(A::UXN)
    .union(A::PXN);

pub struct Tables(Mapping<Identity, El1And0>);

impl super::Subject for Tables {
    fn new() -> Self {
        Self(Mapping::with_asid_and_va_range(
            Identity,
            0,
            0,
            El1And0,
            VaRange::Lower,
        ))
    }

    fn map(&mut self, pa: usize, size: usize, leaf: usize) {
        let constraints = if leaf == 4096 {
            Constraints::NO_BLOCK_MAPPINGS
        } else {
            Constraints::empty()
        };
        let region = MemoryRegion::new(0, size);
        self.0
            .map_range(&region, PhysicalAddress(pa as _), RW, constraints)
            .expect("map");
    }

    fn protect(&mut self, _: usize, size: usize) {
        let region = MemoryRegion::new(0, size);
        let modify = self.0.modify_range(&region, &|_, entry| {
            entry.modify_flags(A::READ_ONLY, A::empty())
        });
        modify.expect("protect");
    }

    fn translate(&self, va: usize) -> usize {
        let found = Cell::new(0);
        let region = MemoryRegion::new(va, va + 1);
        let walk = self.0.walk_range(&region, &mut |_, entry, level| {
            let inside = (4096 << (9 * (3 - level))) - 1;
            found.set(entry.output_address().0 as usize & !inside | va & inside);
            Ok(())
        });
        walk.expect("walk");
        found.get()
    }

    fn unmap(&mut self, size: usize) {
        let region = MemoryRegion::new(0, size);
        let nothing = PhysicalAddress(0);
        self.0
            .map_range(&region, nothing, A::empty(), Constraints::empty())
            .expect("unmap");
    }

    fn split(&mut self, va: usize) {
        let pa = PhysicalAddress((va + crate::PA + crate::BLOCK) as _);
        let region = MemoryRegion::new(va, va + 4096);
        let read_only = RW | A::READ_ONLY;
        self.0
            .map_range(&region, pa, read_only, Constraints::empty())
            .expect("split");
    }
}

const _: () = assert!(A::VALID.bits() == <A as PagingAttributes>::VALID.bits());
