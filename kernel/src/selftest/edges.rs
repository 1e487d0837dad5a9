//! The whole address space: tables, MMU and layout must agree, everywhere by the
//! tables, and by the MMU on the first and last page of each region and on the
//! page before and after.

use alloc::vec::Vec;
use core::arch::asm;

use early_mmu::{MemType, Prot, VirtAddr};

use super::expected::{Expected, address_space, lookup};
use super::{Context, End, Test, TestResult, check};
use crate::arch::exception::{is_permission_fault, is_translation_fault};
use crate::arch::mmu::{Translated, translate_read, translate_write};
use crate::arch::{guarded, mmu};
use crate::mm::layout::PAGE_SIZE;
use crate::mm::{for_each_table, image};

pub(super) const TESTS: &[Test] = &[
    Test {
        name: "mmu.nothing_else_is_mapped",
        run: nothing_else_is_mapped,
    },
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

/// Every mapped region is one that should be, with its address and rights, and
/// together they are all that should be.
fn nothing_else_is_mapped(context: &mut Context<'_>) -> TestResult {
    let all = address_space(context);
    let mut mapped_bytes = 0;
    for region in context.tables.regions() {
        // The linear map's regions may join what is expected in pieces.
        let mut va = region.va.as_u64();
        let mut left = region.size_bytes;
        while left != 0 {
            let Some(expected) = lookup(&all, va) else {
                return Err(End::Failed(alloc::format!(
                    "mapped, and should not be: {region}"
                )));
            };
            let offset = va - region.va.as_u64();
            let pa = region.pa.as_u64() + offset;
            check!(
                pa == expected.pa_of(va),
                "{}: {region}: wrong address",
                expected.name
            );
            let prot = Prot::of(region.attributes);
            check!(
                prot == Some(expected.prot),
                "{}: {region}: {prot:?}",
                expected.name
            );
            let step = left.min(expected.va + expected.size_bytes - va);
            va = va.wrapping_add(step);
            left -= step;
        }
        mapped_bytes += region.size_bytes;
    }
    let expected_bytes: u64 = all.iter().map(|expected| expected.size_bytes).sum();
    check!(
        mapped_bytes == expected_bytes,
        "{mapped_bytes:#x} bytes are mapped, {expected_bytes:#x} should be"
    );
    Ok(())
}

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
    let mut pages = Vec::new();
    for page in all.iter().flat_map(around) {
        // What one region ends with, the next begins after.
        if !pages.contains(&page) {
            pages.push(page);
        }
    }
    pages
}

/// What the MMU should make of `va`, whose page is expected to be there.
fn expected_translation(expected: &Expected, va: u64) -> Translated {
    let memory = expected.prot.mem_type();
    // MAIR's bytes, written out: the crate's table is under test as well.
    let attr = match memory {
        MemType::Normal => 0xff,
        MemType::Device_nGnRE => 0x04,
        other => other.mair_byte(),
    };
    // Device memory is always outer shareable (Arm ARM, PAR_EL1.SH).
    let shareability = if memory.is_device() { 2 } else { 3 };
    Translated {
        pa: expected.pa_of(va),
        attr,
        shareability,
    }
}

fn edges_translate(context: &mut Context<'_>) -> TestResult {
    let all = address_space(context);
    for page in edge_pages(&all) {
        let expected = lookup(&all, page);
        let name = expected.map_or("a hole", |e| e.name);
        let walked = context
            .tables
            .walk(VirtAddr::new(page))
            .pa()
            .map(|pa| pa.as_u64());
        check!(
            walked == expected.map(|e| e.pa_of(page)),
            "{name}: the tables give {walked:x?} for {page:#x}"
        );
        // The last byte too: a page is translated whole.
        for va in [page, page + PAGE_SIZE - 1] {
            let read = expected.map(|e| expected_translation(e, va));
            let write =
                read.filter(|_| expected.is_some_and(|e| matches!(e.prot, Prot::ReadWrite(_))));
            let (at_read, at_write) = (translate_read(va), translate_write(va));
            check!(
                at_read == read,
                "{name}: AT S1E1R {va:#x} gives {at_read:x?}, not {read:x?}"
            );
            check!(
                at_write == write,
                "{name}: AT S1E1W {va:#x} gives {at_write:x?}, not {write:x?}"
            );
        }
    }
    Ok(())
}

const RET: u32 = 0xd65f_03c0;

/// AT knows nothing of execute rights: only a branch does. A RET is put where it
/// goes, so that a page that can be executed by mistake comes back and says so.
fn edges_execute(context: &mut Context<'_>) -> TestResult {
    let all = address_space(context);
    if edges_translate(context).is_err() {
        return Err(End::Skipped(
            "mmu.edges_translate failed: no telling what would run",
        ));
    }
    let mut tables = Vec::new();
    for_each_table(context.tables, &mut |pa| tables.push(pa));
    for va in edge_pages(&all) {
        let expected = lookup(&all, va);
        if expected.is_some_and(|e| e.prot == Prot::ReadExecute) {
            continue;
        }
        let name = expected.map_or("a hole", |e| e.name);
        let is_table = expected.is_some_and(|e| tables.contains(&e.pa_of(va)));
        let writable = expected
            .filter(|_| !is_table)
            .and_then(|e| writable_alias(context, &all, e, va));
        let branched = match writable {
            Some(alias) => with_ret_at(alias, || {
                // SAFETY: must fault; if not, there is a RET.
                unsafe { guarded::branch(va) }
            }),
            // SAFETY: must fault. If not, the kernel is broken, which the report of
            // whatever happens next will say: a hole, a device, a table, or a constant.
            None => unsafe { guarded::branch(va) },
        };
        let Err(fault) = branched else {
            return Err(End::Failed(alloc::format!(
                "{name} at {va:#x} could be executed"
            )));
        };
        let right_kind = match expected {
            Some(_) => is_permission_fault(fault.esr),
            None => is_translation_fault(fault.esr),
        };
        check!(right_kind, "{name} at {va:#x}: {fault}");
    }
    Ok(())
}

/// Where the memory behind `va` can be written: there, or in the linear map.
fn writable_alias(context: &Context<'_>, all: &[Expected], e: &Expected, va: u64) -> Option<u64> {
    let is_ram = |e: &Expected| matches!(e.prot, Prot::ReadWrite(memory) if !memory.is_device());
    if is_ram(e) {
        return Some(va);
    }
    let alias = context.boot.linear.virt(e.pa_of(va));
    lookup(all, alias).filter(|e| is_ram(e)).map(|_| alias)
}

/// Runs `probe` while the word at `va` is a RET.
fn with_ret_at<T>(va: u64, probe: impl FnOnce() -> T) -> T {
    let word = va as *mut u32;
    // SAFETY: RAM that is mapped writable. Nobody else runs, and this function
    // and its callees do not use a region's first or last page's first word.
    let before = unsafe { word.read_volatile() };
    write_code(word, RET);
    let result = probe();
    write_code(word, before);
    result
}

fn write_code(word: *mut u32, value: u32) {
    // SAFETY: with_ret_at()'s word. The cleaning and invalidation make fetches
    // see the store (Arm ARM, "Ordering of instruction fetches").
    unsafe {
        word.write_volatile(value);
        asm!(
            "dc cvau, {0}",
            "dsb ish", // the store is out before fetched lines go
            "ic ivau, {0}",
            "dsb ish", // they are gone before the next fetch
            "isb",
            in(reg) word,
            options(nostack, preserves_flags)
        );
    }
}

/// The first and the last RET of the text can be reached.
fn text_executes(_: &mut Context<'_>) -> TestResult {
    let text = image::text();
    let words = text.size_bytes() as usize / size_of::<u32>();
    // SAFETY: the text segment, mapped readable, and not written while the
    // slice lives.
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
    check!(mmu::lower_half_is_off(), "TTBR0 is still in use");
    let uart = context.boot.firmware.uart;
    for pa in [Some(0), Some(context.boot.image_pa), uart]
        .into_iter()
        .flatten()
    {
        let translated = translate_read(pa);
        check!(
            translated.is_none(),
            "{pa:#x} still translates to {translated:x?}"
        );
        // SAFETY: must fault; if not, a read of image or console is harmless.
        let read = unsafe { guarded::load32(pa) };
        let faulted = read.is_err_and(|fault| is_translation_fault(fault.esr));
        check!(faulted, "{pa:#x} can still be read: {read:x?}");
    }
    Ok(())
}
