//! The heap: aligned, disjoint, given back, and refusing what it cannot give.

use alloc::alloc::{Layout, alloc, dealloc};
use alloc::vec::Vec;

use platform::range::PhysRange;

use super::{Context, Test, TestResult, check};
use crate::arch::mmu::translate_write;
use crate::mm::layout::PAGE_SIZE;
use crate::mm::{for_each_table, heap, image};

pub(super) const TESTS: &[Test] = &[
    Test {
        name: "heap.blocks_are_disjoint",
        run: blocks_are_disjoint,
    },
    Test {
        name: "heap.out_of_memory_is_refused",
        run: out_of_memory_is_refused,
    },
    Test {
        name: "heap.memory_is_its_own",
        run: memory_is_its_own,
    },
];

/// Fills blocks of many sizes and alignments, each with its own byte, frees
/// every other one, fills the gaps again, and looks at all of them.
fn blocks_are_disjoint(_: &mut Context<'_>) -> TestResult {
    let (used_before, _) = heap::usage();
    let mut blocks: Vec<(*mut u8, Layout, u8)> = Vec::with_capacity(64);
    let allocate = |blocks: &mut Vec<_>, count: usize| -> TestResult {
        for n in 0..count {
            let align = 1_usize << (n % 13);
            let layout = Layout::from_size_align(1 + n * 37 % 3000, align).expect("a power of two");
            // SAFETY: the size is not zero.
            let block = unsafe { alloc(layout) };
            check!(!block.is_null(), "{layout:?}: out of memory");
            check!(
                block.addr() % align == 0,
                "{layout:?}: {block:?} is not aligned"
            );
            blocks.push((block, layout, blocks.len() as u8));
        }
        Ok(())
    };
    // Looked at before anything is written: what overlaps would break the heap
    // itself.
    let apart = |blocks: &[(*mut u8, Layout, u8)]| -> TestResult {
        let bytes = |&(block, layout, _): &(*mut u8, Layout, u8)| {
            block.addr()..block.addr() + layout.size()
        };
        for (index, a) in blocks.iter().map(bytes).enumerate() {
            for b in blocks[..index].iter().map(bytes) {
                check!(
                    a.end <= b.start || b.end <= a.start,
                    "{a:x?} and {b:x?} overlap"
                );
            }
        }
        Ok(())
    };
    let fill = |blocks: &[(*mut u8, Layout, u8)]| {
        for &(block, layout, byte) in blocks {
            // SAFETY: the block is that large, and nobody else's.
            unsafe { block.write_bytes(byte, layout.size()) };
        }
    };
    // The second time also into the gaps that every other one leaves.
    for count in [52, 26] {
        let mut index = 0;
        blocks.retain(|&(block, layout, _)| {
            index += 1;
            if index % 2 == 0 {
                // SAFETY: allocated below with this layout, and forgotten here.
                unsafe { dealloc(block, layout) };
            }
            index % 2 != 0
        });
        let kept = blocks.len();
        allocate(&mut blocks, count)?;
        apart(&blocks)?;
        fill(&blocks[kept..]);
    }
    for &(block, layout, byte) in &blocks {
        // SAFETY: the block was filled with `byte`.
        let content = unsafe { core::slice::from_raw_parts(block, layout.size()) };
        let (words, rest) = content.as_chunks::<8>();
        check!(
            words.iter().all(|word| *word == [byte; 8]) && rest.iter().all(|&b| b == byte),
            "{layout:?} at {block:?} was overwritten"
        );
    }
    for (block, layout, _) in blocks {
        // SAFETY: allocated above with this layout, and not used again.
        unsafe { dealloc(block, layout) };
    }
    let (used_after, _) = heap::usage();
    check!(
        used_after == used_before,
        "{used_before} bytes were in use, {used_after} are now"
    );
    Ok(())
}

fn out_of_memory_is_refused(_: &mut Context<'_>) -> TestResult {
    let (_, free) = heap::usage();
    for size in [free + 1, isize::MAX as usize - PAGE_SIZE as usize] {
        let layout = Layout::from_size_align(size, 8).expect("not too large for a layout");
        // SAFETY: the size is not zero.
        let block = unsafe { alloc(layout) };
        check!(block.is_null(), "{size} bytes of {free}: got {block:?}");
    }
    Ok(())
}

/// What the allocator hands out, by its own account, is RAM in the linear map, and
/// holds nothing that is in use otherwise: image, device tree, initrd, tables.
fn memory_is_its_own(context: &mut Context<'_>) -> TestResult {
    let (start, end) = heap::bounds();
    check!(start < end, "it has no memory");
    let boot = context.boot;
    let last = end - 1;
    for va in (start..end).step_by(64 * PAGE_SIZE as usize).chain([last]) {
        let pa = translate_write(va).map(|translated| translated.pa);
        let ram = boot.firmware.memblock.memory.as_slice();
        let is_ram =
            pa.is_some_and(|pa| ram.iter().any(|bank| (bank.start..bank.end).contains(&pa)));
        check!(is_ram, "{va:#x} translates to {pa:x?}, which is not RAM");
    }
    let heap = PhysRange {
        start: start.wrapping_sub(boot.linear.offset()),
        end: last.wrapping_sub(boot.linear.offset()) + 1,
    };
    check!(
        boot.heap.contains(heap),
        "{heap} is more than the {} set aside",
        boot.heap
    );
    let in_use = [
        Some(image::phys(boot.image_pa)),
        Some(boot.fdt),
        boot.firmware.initrd,
    ];
    for range in in_use.into_iter().flatten() {
        check!(
            range.intersect(heap).is_none(),
            "{heap} overlaps {range}, which is in use"
        );
    }
    let mut table_in_heap = None;
    for_each_table(context.tables, &mut |pa| {
        if (heap.start..heap.end).contains(&pa) {
            table_in_heap = Some(pa);
        }
    });
    check!(
        table_in_heap.is_none(),
        "{heap} holds the table at {table_in_heap:x?}"
    );
    Ok(())
}
