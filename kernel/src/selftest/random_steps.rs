//! Random changes to a live range of the kernel's tables, each held against a plain
//! list of pages: by AT, and by reads, writes and branches. They are made before a
//! change as well, so that the TLB holds what the change must drive out.
//!
//! QEMU keeps a TLB, so a flush that is missing shows here. It models no table walk
//! that overtakes a store, so a barrier that is missing does not, nor does a CPU's
//! conflict of old and new entries where break-before-make is left out.

use alloc::vec::Vec;

use early_mmu::{
    BbmLevel, BreakBeforeMake, Flags, Geometry as _, LAST_LEVEL, MapError, Mapping, PAGE_KERNEL,
    PAGE_KERNEL_RO, PAGE_KERNEL_ROX, PhysAddr, Prot, ReservedFrames, TableAlloc, VirtAddr,
};
use platform::range::PhysRange;
use platform::xorshift::Xorshift;

use super::{Context, End, Test, TestResult, check};
use crate::arch::mmu::TableWindow;
use crate::arch::tlb::{self, InnerShareable};
use crate::console::raw_println;
use crate::mm::frames::Frame;
use crate::mm::layout::{Geometry, LEVEL2_BLOCK_SIZE, PAGE_END, PAGE_SIZE};
use crate::mm::{KernelTables, tables_checksum};

mod look;

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
}

fn va_of(page: usize) -> VirtAddr {
    VirtAddr::new(START + page as u64 * PAGE_SIZE)
}
