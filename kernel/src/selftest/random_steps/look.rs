//! How the range is looked at: by AT, and by reads, writes and branches.

use core::arch::asm;

use early_mmu::{PAGE_KERNEL, Prot};

use super::{PAGES, Page, Range, va_of};
use crate::arch::exception::{is_permission_fault, is_translation_fault};
use crate::arch::guarded::{self, Fault};
use crate::arch::mmu::{Translated, translate_read, translate_write};
use crate::mm::layout::PAGE_SIZE;
use crate::selftest::{TestResult, check};

const RET: u32 = 0xd65f_03c0;

/// Offset of a page's second mark.
const LAST_MARK: u64 = PAGE_SIZE - 16;

impl Range<'_> {
    /// Puts into each frame, at either end, what a read, a write and a branch need.
    pub(super) fn mark_memory(&self) {
        for frame in 0..self.frames() {
            for at in [0, LAST_MARK] {
                let mark = self.mark(frame, at);
                // SAFETY: the test's own memory, in the linear map. Written back
                // as far as instruction fetches see it.
                unsafe {
                    mark.write_volatile(frame as u32);
                    mark.add(1).write_volatile(RET);
                    asm!("dc cvau, {}", in(reg) mark, options(nostack, preserves_flags));
                }
            }
        }
        // SAFETY: forgets fetched instructions, once what is to be fetched is out.
        unsafe { asm!("dsb ish", "ic ialluis", "dsb ish", "isb", options(nostack)) }
    }

    /// The mark of a frame at this offset: its number, RET, and a word to write to.
    fn mark(&self, frame: usize, at: u64) -> *mut u32 {
        (self.frame_pa(frame) + at).wrapping_add(self.linear_offset) as *mut u32
    }

    /// AT of every page.
    pub(super) fn check_translations(&self) -> TestResult {
        (0..PAGES).try_for_each(|page| self.check_translation(page, va_of(page).as_u64()))
    }

    fn check_translation(&self, page: usize, va: u64) -> TestResult {
        let expected = self.pages[page];
        let read = expected.map(|page| Translated {
            pa: self.frame_pa(page.frame) + va % PAGE_SIZE,
            // Normal memory, write-back; inner shareable.
            attr: 0xff,
            shareability: 3,
        });
        let write = read.filter(|_| expected.is_some_and(|page| page.prot == PAGE_KERNEL));
        let (at_read, at_write) = (translate_read(va), translate_write(va));
        check!(
            at_read == read && at_write == write,
            "page {page:#x}: AT S1E1R {va:#x} gives {at_read:x?}, AT S1E1W {at_write:x?}, \
             and it should be {expected:x?}"
        );
        Ok(())
    }

    /// A page as AT sees it, and as accesses do: at its start or, every other one,
    /// at its end.
    pub(super) fn check_page(&self, page: usize) -> TestResult {
        let at = page as u64 % 2 * LAST_MARK;
        let va = va_of(page).as_u64() + at;
        self.check_translation(page, va)?;
        let expected = self.pages[page];
        let written = page as u8 ^ self.counts.refused as u8;
        // SAFETY: holes, or the test's own memory with a mark there: read as a number,
        // written where nothing matters, branched to where a RET is.
        let (read, write, branch) = unsafe {
            (
                guarded::load32(va),
                guarded::store8(va + 8, written),
                guarded::branch(va + 4),
            )
        };
        let as_expected = match expected {
            None => {
                let is_hole = |fault: Fault| is_translation_fault(fault.esr);
                read.is_err_and(is_hole) && write.is_err_and(is_hole) && branch.is_err_and(is_hole)
            }
            Some(Page { frame, prot }) => {
                let denied = |fault: Fault| is_permission_fault(fault.esr);
                read == Ok(frame as u32)
                    && match prot {
                        Prot::ReadWrite(_) => {
                            write == Ok(())
                                && self.last_written(frame, at) == written
                                && branch.is_err_and(denied)
                        }
                        Prot::ReadOnly(_) => write.is_err_and(denied) && branch.is_err_and(denied),
                        Prot::ReadExecute => {
                            self.renew_code(frame, at);
                            write.is_err_and(denied) && branch == Ok(())
                        }
                    }
            }
        };
        check!(
            as_expected,
            "page {page:#x} at {va:#x}: read {read:x?}, write {write:x?}, branch {branch:x?}, \
             and it should be {expected:x?}"
        );
        Ok(())
    }

    /// Writes the RET of a mark once more. QEMU remembers where a branch led and, of
    /// a page larger than 4 KiB or a block, forgets no more than 4 KiB at a TLBI by
    /// address; it forgets what is written to.
    fn renew_code(&self, frame: usize, at: u64) {
        // SAFETY: the test's own memory, in the linear map, and the same value.
        unsafe { self.mark(frame, at).add(1).write_volatile(RET) }
    }

    /// What a mark holds where writes go, by the linear map.
    fn last_written(&self, frame: usize, at: u64) -> u8 {
        // SAFETY: the test's own memory, in the linear map.
        unsafe { self.mark(frame, at).add(2).cast::<u8>().read_volatile() }
    }
}
