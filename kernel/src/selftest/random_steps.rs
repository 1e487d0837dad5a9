//! Random changes to a live range of the kernel's tables, each held against a plain
//! list of pages: by AT, and by reads, writes and branches. They are made before a
//! change as well, so that the TLB holds what the change must drive out.
//!
//! QEMU keeps a TLB, so a flush that is missing shows here. It models no table walk
//! that overtakes a store, so a barrier that is missing does not, nor does a CPU's
//! conflict of old and new entries where break-before-make is left out.

use alloc::vec::Vec;
use core::arch::asm;

use early_mmu::{
    BbmLevel, BreakBeforeMake, Flags, Geometry as _, LAST_LEVEL, MapError, Mapping, PAGE_KERNEL,
    PAGE_KERNEL_RO, PAGE_KERNEL_ROX, PhysAddr, Prot, ReservedFrames, TableAlloc, VirtAddr,
};
use platform::range::PhysRange;
use platform::xorshift::Xorshift;

use super::{Context, End, Test, TestResult, check};
use crate::arch::exception::{is_permission_fault, is_translation_fault};
use crate::arch::guarded::{self, Fault};
use crate::arch::mmu::{TableWindow, Translated, translate_read, translate_write};
use crate::arch::tlb::{self, InnerShareable};
use crate::console::raw_println;
use crate::mm::frames::Frame;
use crate::mm::layout::{Geometry, LEVEL2_BLOCK_SIZE, PAGE_END, PAGE_SIZE};
use crate::mm::{KernelTables, tables_checksum};

pub(super) const TESTS: &[Test] = &[Test {
    name: "mmu.random_steps",
    run: random_steps,
}];

const STEPS: u32 = 10_000;

/// Four level-2 blocks, on either side of an entry of each level above.
const START: u64 = PAGE_END + (1 << 40) - 2 * LEVEL2_BLOCK_SIZE;
const BLOCK_PAGES: usize = 1 << Geometry::INDEX_BITS;
const PAGES: usize = 4 * BLOCK_PAGES;
/// All tables that the range can have.
const TABLES: u64 = 4 + 2 * (Geometry::LEVELS as u64 - 2);

const PROTS: [Prot; 3] = [PAGE_KERNEL, PAGE_KERNEL_RO, PAGE_KERNEL_ROX];
const RET: u32 = 0xd65f_03c0;

/// What a page should be, if it is mapped.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Page {
    /// Index of its memory.
    frame: usize,
    prot: Prot,
}

/// One call of the mapper.
#[derive(Clone, Copy, Debug)]
enum Change {
    Map {
        frame: usize,
        prot: Prot,
        flags: Flags,
    },
    /// Of whole blocks and runs only.
    Protect(Prot),
    ProtectSplitting(Prot),
    /// Of whole blocks and runs only.
    Unmap,
    SplitAndUnmap,
    Split,
    Merge,
}

/// A change to some pages of the range.
#[derive(Clone, Copy, Debug)]
struct Step {
    first: usize,
    count: usize,
    change: Change,
}

/// What may come of a step.
#[derive(PartialEq, Eq)]
enum Outlook {
    Done,
    Refused,
    /// It depends on how large the leaves are.
    Either,
}

/// What happened to the pages that were looked at.
#[derive(Debug, Default)]
struct Counts {
    refused: u32,
    blocks_split: u32,
    runs_unfolded: u32,
    rights_shrunk: u32,
    tables_given_back: u32,
}

/// How the tables translate a page.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Leaf {
    None,
    Page,
    Run,
    Block,
}

/// Frames for tables, which come back.
struct Pool {
    window: TableWindow,
    free: Vec<PhysAddr>,
}

impl TableAlloc for Pool {
    type Frame = Frame;
    type Reserved<'a> = &'a mut Self;

    fn reserve(&mut self, needed: usize) -> Result<&mut Self, MapError> {
        let available = self.free.len();
        match needed <= available {
            true => Ok(self),
            false => Err(MapError::OutOfFrames { needed, available }),
        }
    }
}

impl ReservedFrames for &mut Pool {
    type Frame = Frame;

    fn take(&mut self) -> (PhysAddr, Frame) {
        let pa = self.free.pop().expect("no more is taken than reserved");
        // SAFETY: the test's own memory, in the linear map; no table uses it.
        (pa, unsafe { self.window.frame(pa) })
    }
}

/// The range, and what should be in it.
struct Range<'t> {
    tables: &'t mut KernelTables,
    /// What to add to a physical address for its virtual one.
    linear_offset: u64,
    memory: PhysRange,
    pool: Pool,
    pages: Vec<Option<Page>>,
    random: Xorshift,
    counts: Counts,
}

fn random_steps(context: &mut Context<'_>) -> TestResult {
    let Some(tables) = context.take_memory(TABLES * PAGE_SIZE, PAGE_SIZE) else {
        return Err(End::Skipped("no free RAM for tables"));
    };
    // With 64 KiB pages a block is half a GiB: without so much RAM, go without.
    let sizes = [LEVEL2_BLOCK_SIZE, 4 << 20];
    let memory = sizes
        .iter()
        .find_map(|&size| context.take_memory(size, size));
    let Some(memory) = memory else {
        return Err(End::Skipped("no free RAM to map"));
    };
    let has_blocks = memory.size_bytes() == LEVEL2_BLOCK_SIZE;
    let seed = context.boot.options.selftest_seed;
    let before = tables_checksum(context.tables);
    let window = *context.tables.memory();
    let mut range = Range {
        tables: context.tables,
        linear_offset: context.boot.linear.offset(),
        memory,
        pool: Pool {
            window,
            free: (tables.start..tables.end)
                .step_by(PAGE_SIZE as usize)
                .map(PhysAddr::new)
                .collect(),
        },
        pages: alloc::vec![None; PAGES],
        random: Xorshift::new(seed.max(1)),
        counts: Counts::default(),
    };
    range.mark_memory();
    for number in 0..STEPS {
        let step = range.draw();
        if let Err(End::Failed(why)) = range.take_step(step) {
            return Err(End::Failed(alloc::format!(
                "seed {seed}, step {number}, {step:x?}: {why}"
            )));
        }
        if number % (STEPS / 4) == 0 {
            range.check_translations()?;
        }
    }
    range.check_translations()?;
    range.take_step(Step {
        first: 0,
        count: PAGES,
        change: Change::SplitAndUnmap,
    })?;
    range.check_translations()?;
    let Range { pool, counts, .. } = range;
    raw_println!(
        "# mmu.random_steps: {STEPS} steps, seed {seed}, blocks: {has_blocks}, {counts:?}"
    );
    check!(
        pool.free.len() as u64 == TABLES,
        "{} of {TABLES} table frames came back",
        pool.free.len()
    );
    check!(
        tables_checksum(context.tables) == before,
        "something is left in the tables"
    );
    let reached = [
        counts.refused,
        counts.runs_unfolded,
        counts.rights_shrunk,
        counts.tables_given_back,
        counts.blocks_split + u32::from(!has_blocks),
    ];
    check!(!reached.contains(&0), "the steps left something out");
    Ok(())
}

impl Range<'_> {
    /// Puts into each frame, at either end, what a read, a write and a branch need.
    fn mark_memory(&self) {
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

    fn frames(&self) -> usize {
        (self.memory.size_bytes() / PAGE_SIZE) as usize
    }

    fn frame_pa(&self, frame: usize) -> u64 {
        self.memory.start + frame as u64 * PAGE_SIZE
    }

    /// A step at random: of pages, runs or blocks, and at times through the middle
    /// of them.
    fn draw(&mut self) -> Step {
        let units = [1, 1 << Geometry::run_shift(LAST_LEVEL), BLOCK_PAGES];
        let unit = self.random.pick(&units).min(self.frames());
        let mut first = self.random.below((PAGES / unit) as u64) as usize * unit;
        let most = if unit == 1 { 40 } else { 2 };
        let count = unit * (1 + self.random.below(most) as usize);
        let mut count = count.min(PAGES - first);
        let prot = self.random.pick(&PROTS);
        let change = match self.random.below(100) {
            0..40 => {
                count = count.min(self.frames());
                // Mostly where nothing is yet.
                let anywhere = self.random.below(8);
                let is_free = |&first: &usize| {
                    let pages = self.pages.get(first..first + count);
                    pages.is_some_and(|pages| pages.iter().all(Option::is_none))
                };
                let free = (first..PAGES).step_by(unit).find(is_free);
                first = free.filter(|_| anywhere != 0).unwrap_or(first);
                let frames = (self.frames() - count) / unit + 1;
                Change::Map {
                    frame: self.random.below(frames as u64) as usize * unit,
                    prot,
                    flags: self.random.pick(&[
                        Flags::NONE,
                        Flags::NONE,
                        Flags::NO_BLOCK,
                        Flags::NO_CONT,
                    ]),
                }
            }
            40..48 => Change::Protect(prot),
            48..65 => Change::ProtectSplitting(prot),
            65..70 => Change::Unmap,
            70..85 => Change::SplitAndUnmap,
            85..92 => Change::Split,
            _ => Change::Merge,
        };
        Step {
            first,
            count,
            change,
        }
    }

    /// Takes a step, and looks at its pages before and after.
    fn take_step(&mut self, step: Step) -> TestResult {
        let last = step.first + step.count - 1;
        let probes = [
            step.first.saturating_sub(1),
            step.first,
            step.first + step.count / 2,
            last,
            (last + 1).min(PAGES - 1),
            self.random.below(PAGES as u64) as usize,
        ];
        let mut before = [(Leaf::None, None); 6];
        for (seen, page) in before.iter_mut().zip(probes) {
            self.check_page(page)?;
            *seen = (self.leaf(page), self.pages[page]);
        }
        let outlook = self.outlook(step);
        match self.execute(step) {
            Ok(()) => {
                check!(outlook != Outlook::Refused, "done");
                self.note(step);
            }
            Err(error) => {
                check!(outlook != Outlook::Done, "refused: {error}");
                self.counts.refused += 1;
            }
        }
        for ((leaf, was), page) in before.into_iter().zip(probes) {
            self.check_page(page)?;
            self.count(leaf, was, page);
        }
        Ok(())
    }

    fn count(&mut self, before: Leaf, was: Option<Page>, page: usize) {
        match (before, self.leaf(page)) {
            (Leaf::Block, Leaf::Run | Leaf::Page) => self.counts.blocks_split += 1,
            (Leaf::Run, Leaf::Page) => self.counts.runs_unfolded += 1,
            _ => {}
        }
        let is = self.pages[page];
        let shrunk = was.is_some_and(|was| was.prot != PAGE_KERNEL_RO)
            && is.is_some_and(|is| is.prot == PAGE_KERNEL_RO);
        self.counts.rights_shrunk += u32::from(shrunk);
    }

    fn leaf(&self, page: usize) -> Leaf {
        match self.tables.walk(va_of(page)).leaf() {
            None => Leaf::None,
            Some(leaf) if leaf.level < LAST_LEVEL => Leaf::Block,
            Some(leaf) if leaf.descriptor.is_contiguous() => Leaf::Run,
            Some(_) => Leaf::Page,
        }
    }

    fn outlook(&self, step: Step) -> Outlook {
        let pages = &self.pages[step.first..][..step.count];
        let mapped = pages.iter().flatten().count();
        match step.change {
            Change::Map { .. } if mapped == 0 => Outlook::Done,
            Change::Map { frame, .. } => {
                let elsewhere = |(page, frame): (&Option<Page>, usize)| {
                    page.is_some_and(|page| page.frame != frame)
                };
                match pages.iter().zip(frame..).any(elsewhere) {
                    true => Outlook::Refused,
                    false => Outlook::Either,
                }
            }
            Change::Protect(_) | Change::ProtectSplitting(_) if mapped < step.count => {
                Outlook::Refused
            }
            Change::Protect(_) | Change::Unmap => Outlook::Either,
            _ => Outlook::Done,
        }
    }

    fn execute(&mut self, step: Step) -> Result<(), MapError> {
        let Self { tables, pool, .. } = self;
        let (va, size_bytes) = (va_of(step.first), step.count as u64 * PAGE_SIZE);
        // Level 0 is right on every CPU. Nothing that the sequence needs is here.
        let live = BreakBeforeMake::new(&InnerShareable, BbmLevel::Level0);
        match step.change {
            Change::Map { frame, prot, flags } => {
                let mapping = Mapping {
                    va,
                    pa: PhysAddr::new(self.memory.start + frame as u64 * PAGE_SIZE),
                    size_bytes,
                    prot,
                };
                tlb::execute(tables.create_mapping(mapping, flags, pool)?);
            }
            Change::Protect(prot) => {
                tlb::execute(tables.update_mapping_prot(va, size_bytes, prot)?);
            }
            Change::ProtectSplitting(prot) => {
                let flags = Flags::NONE;
                tlb::execute(
                    tables
                        .update_mapping_prot_splitting(va, size_bytes, prot, flags, pool, live)?,
                );
            }
            Change::Split => {
                tlb::execute(tables.split(va, size_bytes, Flags::NONE, pool, live)?);
            }
            Change::Unmap | Change::SplitAndUnmap => {
                if matches!(step.change, Change::SplitAndUnmap) {
                    tlb::execute(tables.split(va, size_bytes, Flags::NONE, pool, live)?);
                }
                let unmapped = tables.unmap(va, size_bytes)?;
                self.counts.tables_given_back += unmapped.table_count() as u32;
                pool.free.extend(unmapped.execute(&InnerShareable));
            }
            Change::Merge => {
                let merged = tables.merge(va, size_bytes, Flags::NONE, live)?;
                self.counts.tables_given_back += merged.table_count() as u32;
                pool.free.extend(merged.execute(&InnerShareable));
            }
        }
        Ok(())
    }

    /// Notes what the pages should be after a step that was taken.
    fn note(&mut self, step: Step) {
        let pages = &mut self.pages[step.first..][..step.count];
        for (page, index) in pages.iter_mut().zip(0..) {
            *page = match step.change {
                Change::Map { frame, prot, .. } => Some(Page {
                    frame: frame + index,
                    prot,
                }),
                Change::Protect(prot) | Change::ProtectSplitting(prot) => {
                    page.map(|page| Page { prot, ..page })
                }
                Change::Unmap | Change::SplitAndUnmap => None,
                Change::Split | Change::Merge => *page,
            };
        }
    }

    /// AT of every page.
    fn check_translations(&self) -> TestResult {
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
    fn check_page(&self, page: usize) -> TestResult {
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

/// Offset of a page's second mark.
const LAST_MARK: u64 = PAGE_SIZE - 16;

fn va_of(page: usize) -> VirtAddr {
    VirtAddr::new(START + page as u64 * PAGE_SIZE)
}
