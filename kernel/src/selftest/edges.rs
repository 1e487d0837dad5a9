//! At every edge of every region, the MMU, the software walk and the layout
//! must agree: on the first and last page, and on the page before and after.

use alloc::vec::Vec;

use early_mmu::{Prot, VirtAddr};

use super::expected::{Expected, address_space, lookup};
use super::{Context, End, Test, TestResult, check};
use crate::arch::{guarded, mmu};
use crate::mm::image;
use crate::mm::layout::PAGE_SIZE;

pub(super) const TESTS: &[Test] = &[
    Test {
        name: "mmu.edges_translate",
        run: edges_translate,
    },
    Test {
        name: "mmu.edges_execute",
        run: edges_execute,
    },
    Test {
        name: "mmu.text_executes",
        run: text_executes,
    },
    Test {
        name: "mmu.identity_map_gone",
        run: identity_map_gone,
    },
];

/// Every page whose translation could be off by one.
fn edge_pages(all: &[Expected]) -> Vec<u64> {
    let around = |e: &Expected| {
        [
            e.va.wrapping_sub(PAGE_SIZE),
            e.va,
            e.last_page(),
            e.last_page().wrapping_add(PAGE_SIZE),
        ]
    };
    let mut pages: Vec<u64> = all.iter().flat_map(around).collect();
    for guard in image::stack_guards() {
        let segment = image::Segment {
            start: guard.start,
            end: guard.end,
            ..image::text()
        };
        pages.extend([
            segment.va(),
            segment.va() + segment.size_bytes() - PAGE_SIZE,
        ]);
    }
    pages.sort_unstable();
    pages.dedup();
    pages
}

fn edges_translate(context: &mut Context<'_>) -> TestResult {
    let all = address_space(context);
    for va in edge_pages(&all) {
        let expected = lookup(&all, va);
        let name = expected.map_or("a hole", |e| e.name);
        let expected_pa = expected.map(|e| e.pa_of(va));
        let expected_write_pa = expected
            .filter(|e| matches!(e.prot, Prot::ReadWrite(_)))
            .map(|e| e.pa_of(va));

        let leaf = context.tables.walk(VirtAddr::new(va)).leaf();
        let walked_pa = leaf.map(|leaf| leaf.pa.as_u64() + (va - leaf.va.as_u64()));
        let walked_prot = leaf.and_then(|leaf| Prot::of(leaf.effective));
        check!(
            walked_pa == expected_pa,
            "{name} at {va:#x}: the tables give {walked_pa:x?}, not {expected_pa:x?}"
        );
        check!(
            walked_prot == expected.map(|e| e.prot),
            "{name} at {va:#x}: the tables permit {walked_prot:?}, not {:?}",
            expected.map(|e| e.prot)
        );
        // The last byte too: a page is translated whole.
        for va in [va, va + PAGE_SIZE - 1] {
            let offset = va % PAGE_SIZE;
            let (read, write) = (mmu::translate_read(va), mmu::translate_write(va));
            check!(
                read == expected_pa.map(|pa| pa + offset),
                "{name}: AT S1E1R {va:#x} gives {read:x?}, not {expected_pa:x?}"
            );
            check!(
                write == expected_write_pa.map(|pa| pa + offset),
                "{name}: AT S1E1W {va:#x} gives {write:x?}, not {expected_write_pa:x?}"
            );
        }
    }
    Ok(())
}

/// AT knows nothing of execute rights: only a branch does.
fn edges_execute(context: &mut Context<'_>) -> TestResult {
    let all = address_space(context);
    for va in edge_pages(&all) {
        let expected = lookup(&all, va);
        if expected.is_some_and(|e| e.prot == Prot::ReadExecute) {
            continue;
        }
        // SAFETY: must fault. If it does not, the kernel is broken, which the
        // report of whatever happens next will say.
        let branched = unsafe { guarded::branch(va) };
        check!(
            branched == Err(guarded::Faulted),
            "{} at {va:#x} could be executed",
            expected.map_or("a hole", |e| e.name)
        );
    }
    Ok(())
}

const RET: u32 = 0xd65f_03c0;

/// The first and the last RET of the text can be reached.
fn text_executes(_: &mut Context<'_>) -> TestResult {
    let text = image::text();
    let words = text.size_bytes() as usize / size_of::<u32>();
    // SAFETY: the text segment, mapped readable and never written.
    let code = unsafe { core::slice::from_raw_parts(text.va() as *const u32, words) };
    let first = code.iter().position(|&word| word == RET);
    let last = code.iter().rposition(|&word| word == RET);
    let (Some(first), Some(last)) = (first, last) else {
        return Err(End::Failed("there is no RET in the kernel's text".into()));
    };
    for index in [first, last] {
        let va = text.va() + 4 * index as u64;
        // SAFETY: it is a RET.
        let branched = unsafe { guarded::branch(va) };
        check!(branched.is_ok(), "text at {va:#x} cannot be executed");
    }
    Ok(())
}

/// Nothing translates through TTBR0 any more.
fn identity_map_gone(context: &mut Context<'_>) -> TestResult {
    let uart = context.boot.firmware.uart;
    for pa in [Some(0), Some(context.boot.image_pa), uart]
        .into_iter()
        .flatten()
    {
        let translated = mmu::translate_read(pa);
        check!(
            translated.is_none(),
            "{pa:#x} still translates to {translated:x?}"
        );
        // SAFETY: must fault; if not, a read of image or console is harmless.
        let read = unsafe { guarded::load32(pa) };
        check!(read == Err(guarded::Faulted), "{pa:#x} can still be read");
    }
    Ok(())
}
