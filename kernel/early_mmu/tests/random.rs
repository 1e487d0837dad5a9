//! Random sequences of all operations, against the naive model and the independent walker.

mod support;

use early_mmu::{
    Flags, Flush, Geometry, MapError, MemType, PAGE_KERNEL, PAGE_KERNEL_RO, PAGE_KERNEL_ROX,
    PROT_DEVICE_nGnRE, PageTable, Prot, VaRange,
};
use proptest::prelude::*;
use support::arm_walk::{Fault, Regime};
use support::model::{Done, Frames, Model, Page, Refusal, Request, Shape, refusal};
use support::{G48, Memory, Pool, Small, Tables, TestGeometry, Tiny, mapping, pa, va};

#[derive(Clone, Copy, Debug)]
enum Op {
    Map {
        at: Request,
        ppn: u64,
        prot: Prot,
        blocks: bool,
        global: bool,
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
}

fn prots() -> impl Strategy<Value = Prot> {
    prop_oneof![
        4 => Just(PAGE_KERNEL),
        4 => Just(PAGE_KERNEL_RO),
        3 => Just(PAGE_KERNEL_ROX),
        1 => Just(PROT_DEVICE_nGnRE),
        1 => Just(Prot::ReadWrite(MemType::NormalTagged)),
    ]
}

/// Numbers up to `limit` that like to be near multiples of the entry sizes.
fn near_edges(shape: Shape, limit: u64) -> impl Strategy<Value = u64> {
    let sizes = (shape.start_level.max(1)..=3).map(move |level| shape.pages(level));
    let sizes: Vec<u64> = sizes.filter(move |&size| size <= limit).collect();
    (
        0..sizes.len(),
        0..limit,
        -1i64..=1,
        prop::bool::weighted(0.8),
    )
        .prop_map(move |(size, number, off, exact)| {
            let near = number / sizes[size] * sizes[size];
            let near = if exact {
                near
            } else {
                near.saturating_add_signed(off)
            };
            near.min(limit)
        })
}

fn requests(shape: Shape, pages: u64, longest: u64) -> impl Strategy<Value = Request> {
    let small = prop_oneof![3 => 1..shape.entries * 3, 1 => 1..=2u64];
    (
        near_edges(shape, pages - 1),
        prop_oneof![2 => near_edges(shape, longest), 3 => small],
    )
        .prop_map(move |(first, count)| Request {
            first,
            count: count.clamp(1, longest).min(pages - first),
        })
}

fn ops(shape: Shape, pages: u64, longest: u64) -> impl Strategy<Value = Op> {
    let frames = prop_oneof![
        4 => Just(Frames::UpTo(usize::MAX)),
        2 => Just(Frames::Never),
        1 => (0usize..6).prop_map(Frames::UpTo),
    ];
    // Mostly one linear map, so that requests meet what is there; sometimes shifted.
    let shift = prop_oneof![
        6 => Just(1 << 20),
        1 => Just((1 << 20) + shape.entries),
        1 => Just((1 << 20) + 1),
    ];
    let map = (
        requests(shape, pages, longest),
        shift,
        prots(),
        frames.clone(),
    )
        .prop_flat_map(|(at, shift, prot, frames)| {
            (
                Just((at, shift, prot, frames)),
                prop::bool::weighted(0.8),
                prop::bool::weighted(0.9),
            )
        })
        .prop_map(|((at, shift, prot, frames), blocks, global)| Op::Map {
            at,
            ppn: shift + at.first,
            prot,
            blocks,
            global,
            frames,
        });
    prop_oneof![
        5 => map,
        3 => (requests(shape, pages, longest), prots()).prop_map(|(at, prot)| Op::Protect { at, prot }),
        1 => (requests(shape, pages, longest), frames).prop_map(|(at, frames)| Op::Tables { at, frames }),
    ]
}

struct Run<'m, G: TestGeometry> {
    memory: &'m Memory<G>,
    tables: Tables<'m, G>,
    model: Model,
    regime: Regime,
    base: u64,
    used: usize,
}

impl<'m, G: TestGeometry> Run<'m, G> {
    fn new(memory: &'m Memory<G>, range: VaRange, pages: u64) -> Self {
        let shape = shape::<G>();
        let regime = Regime {
            ttbr: memory.root().as_u64(),
            upper: range == VaRange::Upper,
            iasize: G::VA_BITS,
            granulebits: G::GRANULE_SHIFT,
            stride: G::INDEX_BITS,
            first_block_level: G::FIRST_BLOCK_LEVEL.into(),
        };
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

    fn step(&mut self, op: Op) {
        let before = self.memory.snapshot();
        let expected = self.predict(op);
        if let Op::Map {
            at,
            ppn,
            prot,
            blocks,
            global,
            ..
        } = op
        {
            let needed = self
                .tables
                .tables_needed(self.mapping(at, ppn, prot), flags(blocks, global));
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
        let outcome = self.execute(op);
        let after = self.memory.snapshot();
        match outcome {
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
                blocks,
                global,
                frames,
            } => self.model.map(at, ppn, prot, (blocks, global), frames),
            Op::Protect { at, prot } => self.model.protect(at, prot),
            Op::Tables { at, frames } => self.model.create_tables(at, unlimited(frames)),
        }
    }

    fn execute(&mut self, op: Op) -> Result<Flush, MapError> {
        let bytes = G::GRANULE_BYTES;
        match op {
            Op::Map {
                at,
                ppn,
                prot,
                blocks,
                global,
                frames,
            } => {
                let (mapping, flags) = (self.mapping(at, ppn, prot), flags(blocks, global));
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

    fn flush(&self, done: Done) -> (bool, Option<(u64, u64, u64)>) {
        let bytes = G::GRANULE_BYTES;
        let changed = done.changed.map(|(first, last, pages)| {
            (
                self.base + first * bytes,
                self.base + last * bytes + (bytes - 1),
                pages * bytes,
            )
        });
        (done.new_entries, changed)
    }

    /// Compares one page as the model, the independent walker and the crate see it.
    fn compare(&self, page: u64) {
        let bytes = G::GRANULE_BYTES;
        let address = self.base + page * bytes + 0x123;
        let walked = self.regime.translate(address, |pa| self.memory.read(pa));
        let walk = self.tables.walk(va(address));
        let Some(Page {
            ppn,
            prot,
            global,
            level,
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
        assert!(!walked.el0_access && !walked.el0_execute && !walked.contiguous);
        assert_eq!(walked.attr_indx, prot.mem_type() as u64);
        assert_eq!((walked.shareability, walked.global), (3, global));
        assert_eq!(self.tables.translate(va(address)), Some(pa(expected)));
        assert_eq!(walk.pa(), Some(pa(expected)));
        let leaf = walk.leaf().expect("mapped");
        assert_eq!(
            (i32::from(leaf.level), Prot::of(leaf.effective)),
            (level, Some(prot))
        );
    }

    /// The regions add up to the model, and none continues another.
    fn compare_regions(&self) {
        let bytes = G::GRANULE_BYTES;
        let mut mapped = 0;
        let mut before: Option<early_mmu::Region> = None;
        for region in self.tables.regions() {
            mapped += region.size_bytes / bytes;
            for address in [region.va, region.last()] {
                let page = (address.as_u64() - self.base) / bytes;
                let expected = self.model.pages[page as usize].expect("mapped");
                assert_eq!(Prot::of(region.attributes), Some(expected.prot));
                assert_eq!(i32::from(region.level), expected.level);
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

/// `create_tables` has no form that cannot allocate.
fn unlimited(frames: Frames) -> Frames {
    if frames == Frames::Never {
        Frames::UpTo(usize::MAX)
    } else {
        frames
    }
}

fn seen(flush: Flush) -> (bool, Option<(u64, u64, u64)>) {
    let stale = flush.stale().map(|stale| {
        assert!(stale.last_level_only);
        (
            stale.first.as_u64(),
            stale.last.as_u64(),
            stale.stride_bytes,
        )
    });
    (flush.has_new_entries(), stale)
}

fn flags(blocks: bool, global: bool) -> Flags {
    let mut flags = Flags::NONE;
    if !blocks {
        flags |= Flags::NO_BLOCK;
    }
    if !global {
        flags |= Flags::NON_GLOBAL;
    }
    flags
}

fn shape<G: Geometry>() -> Shape {
    Shape {
        granule: G::GRANULE_BYTES,
        entries: 1 << G::INDEX_BITS,
        start_level: G::START_LEVEL.into(),
        first_block_level: G::FIRST_BLOCK_LEVEL.into(),
    }
}

/// All pages of a small geometry are compared after every step.
fn run_whole<G: TestGeometry>(range: VaRange, sequence: Vec<Op>) {
    let memory = Memory::<G>::new(1024);
    let pages = 1 << (G::VA_BITS - G::GRANULE_SHIFT);
    let mut run = Run::new(&memory, range, pages);
    for op in sequence {
        run.step(op);
        (0..pages).for_each(|page| run.compare(page));
        run.compare_regions();
    }
}

/// The first pages of a large geometry; compared at the edges of each step and here and there.
fn run_large(range: VaRange, pages: u64, sequence: Vec<Op>) {
    let memory = Memory::<G48>::new(4096);
    let mut run = Run::new(&memory, range, pages);
    for op in sequence {
        run.step(op);
        let (Op::Map { at, .. } | Op::Protect { at, .. } | Op::Tables { at, .. }) = op;
        let end = at.first + at.count;
        for edge in [
            at.first,
            end,
            at.first / 512 * 512,
            end / 512 * 512,
            (at.first + end) / 2,
        ] {
            for page in edge.saturating_sub(2)..(edge + 2).min(pages) {
                run.compare(page);
            }
        }
        (0..pages).step_by(9973).for_each(|page| run.compare(page));
        run.compare_regions();
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 256, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn small_tables_agree_with_the_model(
        upper: bool,
        sequence in prop::collection::vec(ops(shape::<Small>(), 4096, 1024), 1..12),
    ) {
        run_whole::<Small>(if upper { VaRange::Upper } else { VaRange::Lower }, sequence);
    }

    #[test]
    fn tiny_tables_agree_with_the_model(
        sequence in prop::collection::vec(ops(shape::<Tiny>(), 16, 16), 1..16),
    ) {
        run_whole::<Tiny>(VaRange::Upper, sequence);
    }
}

const LARGE: u64 = 5 << 18;

proptest! {
    #![proptest_config(ProptestConfig { cases: 12, failure_persistence: None, ..ProptestConfig::default() })]

    /// 5 GiB of the 4 KiB granule, requests up to 3 GiB.
    #[test]
    fn large_tables_agree_with_the_model(
        upper: bool,
        sequence in prop::collection::vec(ops(shape::<G48>(), LARGE, 3 << 18), 1..8),
    ) {
        run_large(if upper { VaRange::Upper } else { VaRange::Lower }, LARGE, sequence);
    }

    /// The same tables, requests up to 8 MiB.
    #[test]
    fn large_tables_agree_on_small_requests(
        sequence in prop::collection::vec(ops(shape::<G48>(), 4096, 2048), 1..16),
    ) {
        run_large(VaRange::Upper, 4096, sequence);
    }
}
