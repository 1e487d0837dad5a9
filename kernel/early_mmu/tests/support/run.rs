//! One set of tables next to its model: each step is predicted, executed and compared.

use early_mmu::{
    BbmLevel, BreakBeforeMake, Flags, Flush, Geometry, MapError, MemType, PageTable, Prot, Region,
    VaRange,
};

use super::arm_walk::{self, Fault, Regime, Translation};
use super::model::{Done, Frames, Layout, Model, Page, Refusal, Request, Shape, refusal};
use super::{Memory, Pool, Tables, TestGeometry, mapping, pa, va};

#[derive(Clone, Copy, Debug)]
pub enum Op {
    Map {
        at: Request,
        ppn: u64,
        prot: Prot,
        layout: Layout,
        frames: Frames,
    },
    Protect {
        at: Request,
        prot: Prot,
    },
    Tables {
        at: Request,
        frames: Frames,
    },
    Unmap {
        at: Request,
        free_tables: bool,
    },
    Split {
        at: Request,
        runs: bool,
        frames: Frames,
        bbm: BbmLevel,
    },
    ProtectSplitting {
        at: Request,
        prot: Prot,
        runs: bool,
        frames: Frames,
        bbm: BbmLevel,
    },
    Merge {
        at: Request,
        blocks: bool,
        runs: bool,
        bbm: BbmLevel,
    },
}

impl Op {
    pub fn at(&self) -> Request {
        match *self {
            Self::Map { at, .. }
            | Self::Protect { at, .. }
            | Self::Tables { at, .. }
            | Self::Unmap { at, .. }
            | Self::Split { at, .. }
            | Self::ProtectSplitting { at, .. }
            | Self::Merge { at, .. } => at,
        }
    }

    /// What the operation may assume of CPUs, if it asks.
    pub fn bbm(&self) -> Option<BbmLevel> {
        match *self {
            Self::Split { bbm, .. }
            | Self::ProtectSplitting { bbm, .. }
            | Self::Merge { bbm, .. } => Some(bbm),
            _ => None,
        }
    }

    /// Whether break-before-make leaves less to be flushed than was changed.
    fn flushes_itself(&self) -> bool {
        self.bbm().is_some()
    }
}

pub struct Run<'m, G: TestGeometry> {
    memory: &'m Memory<G>,
    tables: Tables<'m, G>,
    model: Model,
    regime: Regime,
    base: u64,
    used: usize,
}

impl<'m, G: TestGeometry> Run<'m, G> {
    pub fn new(memory: &'m Memory<G>, range: VaRange, pages: u64) -> Self {
        let shape = shape::<G>();
        let regime = regime::<G>(memory, range);
        let base = if range == VaRange::Upper {
            u64::MAX << G::VA_BITS
        } else {
            0
        };
        let tables = PageTable::new(memory.root(), range, memory);
        Self {
            memory,
            tables,
            model: Model::new(shape, pages),
            regime,
            base,
            used: 0,
        }
    }

    /// Goes on where the tables are: the model takes them from the independent walker. Frames come
    /// from the slots from `used` on.
    pub fn resume(memory: &'m Memory<G>, range: VaRange, pages: u64, used: usize) -> Self {
        let mut run = Self::new(memory, range, pages);
        run.used = used - 1;
        let root = (run.regime.start_level(), memory.root().as_u64(), 0);
        for page in 0..pages {
            let at = run.base + page * G::GRANULE_BYTES;
            let tables = &mut run.model.tables;
            let shape = &run.model.shape;
            let walked = run.regime.translate_from(
                root,
                at,
                |pa| memory.read(pa),
                |level, _, _| {
                    tables.insert((level + 1, page / shape.pages(level)));
                },
            );
            run.model.pages[page as usize] = walked.ok().map(|leaf| Page {
                ppn: leaf.pa / G::GRANULE_BYTES,
                prot: prot_of(&leaf),
                global: leaf.global,
                level: leaf.level,
                run: leaf.contiguous,
            });
        }
        run
    }

    /// Predicts, executes and compares; on watched tables the flush is executed as well.
    pub fn step(&mut self, op: Op) {
        let before = self.memory.snapshot();
        let expected = self.predict(op);
        if let Op::Map {
            at,
            ppn,
            prot,
            layout,
            ..
        } = op
        {
            let needed = self
                .tables
                .tables_needed(self.mapping(at, ppn, prot), flags(layout));
            match expected {
                Ok(done) => assert_eq!(needed, Ok(done.tables)),
                Err(Refusal::OutOfFrames { needed: n }) => assert_eq!(needed, Ok(n)),
                Err(Refusal::Missing { .. }) => {}
                Err(other) => assert_eq!(
                    needed.map_err(|e| refusal(e, self.base, G::GRANULE_BYTES)),
                    Err(other)
                ),
            }
        }
        if let Op::Split { at, runs, .. } = op {
            let bytes = G::GRANULE_BYTES;
            let (at, size) = (va(self.base + at.first * bytes), at.count * bytes);
            let needed = self
                .tables
                .tables_needed_to_split(at, size, runs_flag(runs));
            match expected {
                Ok(Done { tables: n, .. }) | Err(Refusal::OutOfFrames { needed: n }) => {
                    assert_eq!(needed, Ok(n));
                }
                Err(other) => panic!("{other:?}"),
            }
        }
        let outcome = self.execute(op);
        let after = self.memory.snapshot();
        if self.memory.is_watched() {
            if let Ok(flush) = outcome {
                flush.execute(self.memory);
            }
            self.memory.settled();
        }
        match outcome {
            Ok(_) if op.flushes_itself() => assert!(expected.is_ok(), "{expected:?}"),
            Ok(flush) => {
                assert_eq!(expected.map(|done| self.flush(done)), Ok(seen(flush)));
                assert_eq!(flush.is_nothing(), before == after);
            }
            Err(error) => {
                assert_eq!(Err(refusal(error, self.base, G::GRANULE_BYTES)), expected);
                assert!(before == after, "{error}: tables changed");
            }
        }
        self.memory.check();
        assert_eq!(self.memory.table_count(), 1 + self.model.tables.len());
    }

    fn mapping(&self, at: Request, ppn: u64, prot: Prot) -> early_mmu::Mapping {
        let bytes = G::GRANULE_BYTES;
        mapping(
            self.base + at.first * bytes,
            ppn * bytes,
            at.count * bytes,
            prot,
        )
    }

    fn predict(&mut self, op: Op) -> Result<Done, Refusal> {
        match op {
            Op::Map {
                at,
                ppn,
                prot,
                layout,
                frames,
            } => self.model.map(at, ppn, prot, layout, frames),
            Op::Protect { at, prot } => self.model.protect(at, prot),
            Op::Tables { at, frames } => self.model.create_tables(at, unlimited(frames)),
            Op::Unmap { at, free_tables } => self.model.unmap(at, free_tables),
            Op::Split {
                at, runs, frames, ..
            } => self.model.split(at, runs, unlimited(frames)),
            Op::ProtectSplitting {
                at,
                prot,
                runs,
                frames,
                ..
            } => self
                .model
                .protect_splitting(at, prot, runs, unlimited(frames)),
            Op::Merge {
                at, blocks, runs, ..
            } => {
                self.model.merge(at, blocks, runs);
                Ok(Done::default())
            }
        }
    }

    fn execute(&mut self, op: Op) -> Result<Flush, MapError> {
        let bytes = G::GRANULE_BYTES;
        match op {
            Op::Map {
                at,
                ppn,
                prot,
                layout,
                frames,
            } => {
                let (mapping, flags) = (self.mapping(at, ppn, prot), flags(layout));
                match frames {
                    Frames::Never => self.tables.create_mapping_noalloc(mapping, flags),
                    _ => self.with_pool(frames, |t, pool| t.create_mapping(mapping, flags, pool)),
                }
            }
            Op::Protect { at, prot } => self.tables.update_mapping_prot(
                va(self.base + at.first * bytes),
                at.count * bytes,
                prot,
            ),
            Op::Tables { at, frames } => {
                let start = va(self.base + at.first * bytes);
                self.with_pool(unlimited(frames), |t, pool| {
                    t.create_tables(start, at.count * bytes, pool)
                })
            }
            other => self.execute_more(other),
        }
    }

    /// The operations that came with unmapping: start and size are those of `at`.
    fn execute_more(&mut self, op: Op) -> Result<Flush, MapError> {
        let bytes = G::GRANULE_BYTES;
        let at = op.at();
        let (start, size) = (va(self.base + at.first * bytes), at.count * bytes);
        match op {
            Op::Unmap {
                free_tables: false, ..
            } => self.tables.unmap_keeping_tables(start, size),
            Op::Unmap { .. } => {
                let retired = self.tables.unmap(start, size)?;
                let (flush, count) = (*retired.flush(), retired.table_count());
                assert_eq!(self.memory.take_back(retired.execute(self.memory)), count);
                Ok(flush)
            }
            Op::Split {
                runs, frames, bbm, ..
            } => self.with_pool(unlimited(frames), |t, pool| {
                t.split(
                    start,
                    size,
                    runs_flag(runs),
                    pool,
                    BreakBeforeMake::new(self.memory, bbm),
                )
            }),
            Op::ProtectSplitting {
                prot,
                runs,
                frames,
                bbm,
                ..
            } => self.with_pool(unlimited(frames), |t, pool| {
                let live = BreakBeforeMake::new(self.memory, bbm);
                t.update_mapping_prot_splitting(start, size, prot, runs_flag(runs), pool, live)
            }),
            Op::Merge {
                blocks, runs, bbm, ..
            } => {
                let mut flags = runs_flag(runs);
                if !blocks {
                    flags |= Flags::NO_BLOCK;
                }
                let live = BreakBeforeMake::new(self.memory, bbm);
                let retired = self.tables.merge(start, size, flags, live)?;
                let (flush, count) = (*retired.flush(), retired.table_count());
                assert_eq!(self.memory.take_back(retired.execute(self.memory)), count);
                Ok(flush)
            }
            other => panic!("{other:?}"),
        }
    }

    fn with_pool<T>(
        &mut self,
        frames: Frames,
        call: impl FnOnce(&mut Tables<'m, G>, &mut Pool<G>) -> T,
    ) -> T {
        let Frames::UpTo(limit) = frames else {
            panic!("no frames")
        };
        let count = limit.min(self.memory.free(1 + self.used));
        let mut pool = Pool::new(1 + self.used, count);
        let result = call(&mut self.tables, &mut pool);
        self.used += count - pool.len();
        result
    }

    fn flush(&self, done: Done) -> (bool, Option<(u64, u64, u64, bool)>) {
        let bytes = G::GRANULE_BYTES;
        let changed = done.changed.map(|(first, last, pages)| {
            (
                self.base + first * bytes,
                self.base + last * bytes + (bytes - 1),
                pages * bytes,
                !done.walks,
            )
        });
        (done.new_entries, changed)
    }

    /// Compares one page as the model, the independent walker and the crate see it.
    pub fn compare(&self, page: u64) {
        let bytes = G::GRANULE_BYTES;
        let address = self.base + page * bytes + 0x123;
        let walked = self.regime.translate(address, |pa| self.memory.read(pa));
        let walk = self.tables.walk(va(address));
        let Some(Page {
            ppn,
            prot,
            global,
            level,
            run,
        }) = self.model.pages[page as usize]
        else {
            assert!(
                matches!(walked, Err(Fault::Translation(_))),
                "{address:#x}: {walked:?}"
            );
            assert_eq!(self.tables.translate(va(address)), None);
            assert_eq!(walk.leaf(), None);
            return;
        };
        let walked = walked.unwrap_or_else(|fault| panic!("{address:#x}: {fault:?}"));
        let expected = ppn * bytes + 0x123;
        assert_eq!(walked.pa, expected, "{address:#x}");
        assert_eq!(walked.level, level, "{address:#x}");
        assert_eq!(walked.el1_write, matches!(prot, Prot::ReadWrite(_)));
        assert_eq!(walked.el1_execute, matches!(prot, Prot::ReadExecute));
        assert!(!walked.el0_access && !walked.el0_execute);
        assert_eq!(walked.contiguous, run, "{address:#x}");
        assert_eq!(walked.attr_indx, prot.mem_type() as u64);
        assert_eq!((walked.shareability, walked.global), (3, global));
        assert_eq!(self.tables.translate(va(address)), Some(pa(expected)));
        assert_eq!(walk.pa(), Some(pa(expected)));
        let leaf = walk.leaf().expect("mapped");
        assert_eq!(
            (i32::from(leaf.level), Prot::of_in::<G>(leaf.effective)),
            (level, Some(prot))
        );
    }

    /// The regions add up to the model, and none continues another.
    pub fn compare_regions(&self) {
        let bytes = G::GRANULE_BYTES;
        let mut mapped = 0;
        let mut before: Option<Region> = None;
        for region in self.tables.regions() {
            mapped += region.size_bytes / bytes;
            for address in [region.va, region.last()] {
                let page = (address.as_u64() - self.base) / bytes;
                let expected = self.model.pages[page as usize].expect("mapped");
                assert_eq!(Prot::of(region.attributes), Some(expected.prot));
                assert_eq!(i32::from(region.level), expected.level);
                assert_eq!(region.attributes.is_contiguous(), expected.run);
                let offset = address.as_u64() - region.va.as_u64();
                assert_eq!((region.pa.as_u64() + offset) / bytes, expected.ppn);
            }
            if let Some(before) = before {
                assert!(before.last() < region.va);
                let follows = before.last().as_u64() + 1 == region.va.as_u64()
                    && before.pa.as_u64() + before.size_bytes == region.pa.as_u64();
                let alike = (before.attributes, before.level) == (region.attributes, region.level);
                assert!(!(follows && alike), "{before} and {region} are one");
            }
            before = Some(region);
        }
        assert_eq!(mapped, self.model.pages.iter().flatten().count() as u64);
    }
}

/// What the walker found, as one of the protections that there are.
fn prot_of(leaf: &Translation) -> Prot {
    let memory = MemType::ALL[leaf.attr_indx as usize];
    match (leaf.el1_write, leaf.el1_execute) {
        (true, false) => Prot::ReadWrite(memory),
        (false, false) => Prot::ReadOnly(memory),
        (false, true) => Prot::ReadExecute,
        (true, true) => panic!("writable and executable: {leaf:x?}"),
    }
}

/// `create_tables` has no form that cannot allocate.
fn unlimited(frames: Frames) -> Frames {
    if frames == Frames::Never {
        Frames::UpTo(usize::MAX)
    } else {
        frames
    }
}

fn runs_flag(runs: bool) -> Flags {
    if runs { Flags::NONE } else { Flags::NO_CONT }
}

fn seen(flush: Flush) -> (bool, Option<(u64, u64, u64, bool)>) {
    let stale = flush.stale().map(|stale| {
        (
            stale.first.as_u64(),
            stale.last.as_u64(),
            stale.stride_bytes,
            stale.last_level_only,
        )
    });
    (flush.has_new_entries(), stale)
}

fn flags(layout: Layout) -> Flags {
    let mut flags = Flags::NONE;
    if !layout.blocks {
        flags |= Flags::NO_BLOCK;
    }
    if !layout.runs {
        flags |= Flags::NO_CONT;
    }
    if !layout.global {
        flags |= Flags::NON_GLOBAL;
    }
    flags
}

pub fn regime<G: TestGeometry>(memory: &Memory<G>, range: VaRange) -> Regime {
    Regime {
        ttbr: memory.root().as_u64(),
        upper: range == VaRange::Upper,
        iasize: G::VA_BITS,
        granulebits: G::GRANULE_SHIFT,
        stride: G::INDEX_BITS,
        first_block_level: G::FIRST_BLOCK_LEVEL.into(),
        format: arm_walk::format::<G>(),
        contiguous: if G::INDEX_BITS == G::GRANULE_SHIFT - 3 {
            arm_walk::contiguous_sizes(G::GRANULE_SHIFT)
        } else {
            [0, 1, 2, 3].map(G::run_shift)
        },
    }
}

pub fn shape<G: Geometry>() -> Shape {
    Shape {
        granule: G::GRANULE_BYTES,
        entries: 1 << G::INDEX_BITS,
        start_level: G::START_LEVEL.into(),
        first_block_level: G::FIRST_BLOCK_LEVEL.into(),
        runs: [0, 1, 2, 3].map(G::run_shift),
        ppn: match (G::OA_BITS, G::LPA2) {
            // Where addresses carry into the bits that stand elsewhere.
            (52, true) => (1 << (50 - G::GRANULE_SHIFT)) - 512,
            (52, false) => (1 << (48 - G::GRANULE_SHIFT)) - 256,
            _ => 1 << 20,
        },
    }
}
