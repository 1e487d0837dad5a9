//! The heap: aligned, disjoint, given back, and refusing what it cannot give.

use alloc::alloc::{Layout, alloc, dealloc};
use alloc::vec::Vec;

use super::{Context, Test, TestResult, check};
use crate::mm::heap;
use crate::mm::layout::PAGE_SIZE;

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
    let mut blocks: Vec<(*mut u8, Layout, u8)> = Vec::with_capacity(256);
    let fill = |blocks: &mut Vec<_>, count: usize| -> TestResult {
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
            let byte = blocks.len() as u8;
            // SAFETY: the block is that large, and nobody else's.
            unsafe { block.write_bytes(byte, layout.size()) };
            blocks.push((block, layout, byte));
        }
        Ok(())
    };
    fill(&mut blocks, 120)?;
    let mut index = 0;
    blocks.retain(|&(block, layout, _)| {
        index += 1;
        if index % 2 == 0 {
            // SAFETY: allocated above with this layout, and forgotten here.
            unsafe { dealloc(block, layout) };
        }
        index % 2 != 0
    });
    fill(&mut blocks, 60)?;
    for &(block, layout, byte) in &blocks {
        // SAFETY: the block was filled with `byte`.
        let content = unsafe { core::slice::from_raw_parts(block, layout.size()) };
        check!(
            content.iter().all(|&b| b == byte),
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

/// Nothing that was in use before the heap lies in it.
fn memory_is_its_own(context: &mut Context<'_>) -> TestResult {
    let memblock = &context.boot.firmware.memblock;
    let range = heap::phys();
    check!(
        memblock.mappable(1).any(|part| part.contains(range)),
        "{range} is not RAM"
    );
    for &reserved in memblock.reserved.as_slice() {
        check!(
            reserved.intersect(range).is_none(),
            "{range} overlaps {reserved}, which is reserved"
        );
    }
    Ok(())
}
