//! The kernel heap: linked_list_allocator on RAM that nobody else owns.

use core::alloc::{GlobalAlloc, Layout};
use core::ptr::{self, NonNull};

use linked_list_allocator::Heap;
use platform::memblock::Memblock;
use platform::range::PhysRange;
use spin::mutex::SpinMutex;

use super::layout::PAGE_SIZE;
use crate::boot::info::BootInfo;

/// The most the heap takes.
const MAX_HEAP_BYTES: u64 = 16 << 20;
/// The least it is content with.
const MIN_HEAP_BYTES: u64 = 256 << 10;

struct KernelHeap(SpinMutex<Heap>);

#[global_allocator]
static HEAP: KernelHeap = KernelHeap(SpinMutex::new(Heap::empty()));

// SAFETY: Heap hands out disjoint, aligned blocks of the memory it was given,
// and the lock keeps calls apart. No interrupt allocates.
unsafe impl GlobalAlloc for KernelHeap {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        // A null pointer makes the caller panic with the size it asked for.
        self.0
            .lock()
            .allocate_first_fit(layout)
            .map_or(ptr::null_mut(), NonNull::as_ptr)
    }

    unsafe fn dealloc(&self, block: *mut u8, layout: Layout) {
        // SAFETY: the block came from alloc() with this layout, so is not null.
        unsafe {
            self.0
                .lock()
                .deallocate(NonNull::new_unchecked(block), layout)
        }
    }
}

/// Sets an eighth of what RAM is free aside, up to 16 MiB, in one piece; less
/// where memory is in small pieces. For the early stage.
///
/// # Panics
/// If there is no piece of 256 KiB.
pub fn reserve(memblock: &mut Memblock, reach: PhysRange) -> PhysRange {
    let free_bytes = memblock.free_units(PAGE_SIZE, reach) * PAGE_SIZE;
    let mut size_bytes = (free_bytes / 8).clamp(MIN_HEAP_BYTES, MAX_HEAP_BYTES);
    loop {
        size_bytes &= !(PAGE_SIZE - 1);
        match memblock.allocate(size_bytes, PAGE_SIZE, reach) {
            Ok(range) => return range,
            Err(error) if size_bytes <= MIN_HEAP_BYTES => panic!("heap: {error}"),
            Err(_) => size_bytes = (size_bytes / 2).max(MIN_HEAP_BYTES),
        }
    }
}

/// Puts the memory that was set aside into use. Once, with the linear map there.
pub fn init(boot: &BootInfo) {
    let start = boot.linear.virt(boot.heap.start) as *mut u8;
    // SAFETY: RAM that nobody else owns, mapped writable by the linear map.
    unsafe { HEAP.0.lock().init(start, boot.heap.size_bytes() as usize) };
}

/// Bytes in use and bytes free.
pub fn usage() -> (usize, usize) {
    let heap = HEAP.0.lock();
    (heap.used(), heap.free())
}

/// The memory that it hands out, by its own account: start and end address.
pub fn bounds() -> (u64, u64) {
    let heap = HEAP.0.lock();
    (heap.bottom().addr() as u64, heap.top().addr() as u64)
}
