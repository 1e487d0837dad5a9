//! Random sequences of all operations, against the naive model and the independent walker. What fails is
//! shrunk to the shortest sequence of the smallest requests that does.
//!
//! `EARLY_MMU_OPERATIONS=10000000` in the environment asks for so many operations in all; `make test-long`
//! does.

mod support;

use std::cell::Cell;
use std::env;
use std::io::Write;

use early_mmu::{
    BbmLevel, Granule4K, Granule4KLpa2, Granule16K, Granule16KLpa2, Granule64K, Granule64KLpa,
    MemType, PAGE_KERNEL, PAGE_KERNEL_RO, PAGE_KERNEL_ROX, PROT_DEVICE_nGnRE, Prot, VaRange,
};
use proptest::prelude::*;
use proptest::test_runner::TestRunner;
use support::geometries::{SmallLpa2, SmallLpa64};
use support::model::{Frames, Layout, Request, Shape};
use support::run::{Op, Run, shape};
use support::walkers::Cpu;
use support::{G48, Memory, Small, TestGeometry, Tiny};

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
    let sizes = (shape.start_level.max(1)..=3)
        .flat_map(move |level| [shape.pages(level), shape.run_pages(level)]);
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
        6 => Just(shape.ppn),
        1 => Just(shape.ppn + shape.entries),
        1 => Just(shape.ppn + 1),
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
                prop::bool::weighted(0.8),
                prop::bool::weighted(0.9),
            )
        })
        .prop_map(
            |((at, shift, prot, frames), blocks, runs, global)| Op::Map {
                at,
                ppn: shift + at.first,
                prot,
                layout: Layout {
                    blocks,
                    runs,
                    global,
                },
                frames,
            },
        );
    let at = move || requests(shape, pages, longest);
    let bbm = || prop_oneof![Just(BbmLevel::Level0), Just(BbmLevel::Level2)];
    prop_oneof![
        8 => map,
        3 => (at(), prots()).prop_map(|(at, prot)| Op::Protect { at, prot }),
        1 => (at(), frames.clone()).prop_map(|(at, frames)| Op::Tables { at, frames }),
        3 => (at(), any::<bool>()).prop_map(|(at, free_tables)| Op::Unmap { at, free_tables }),
        2 => (at(), any::<bool>(), frames.clone(), bbm())
            .prop_map(|(at, runs, frames, bbm)| Op::Split { at, runs, frames, bbm }),
        3 => (at(), prots(), any::<bool>(), frames, bbm()).prop_map(|(at, prot, runs, frames, bbm)| {
            Op::ProtectSplitting { at, prot, runs, frames, bbm }
        }),
        2 => (at(), any::<bool>(), any::<bool>(), bbm())
            .prop_map(|(at, blocks, runs, bbm)| Op::Merge { at, blocks, runs, bbm }),
    ]
}

/// How much of it there is.
#[derive(Clone, Copy)]
struct Amount {
    /// Sequences in `make test`.
    sequences: u32,
    /// Operations of a sequence, at most.
    longest: usize,
    /// Its part of all the operations asked for in the environment, in millionths.
    share: u64,
}

impl Amount {
    fn sequences(self) -> u32 {
        let Some(all) = env::var_os("EARLY_MMU_OPERATIONS") else {
            return self.sequences;
        };
        let all: u64 = all
            .to_str()
            .and_then(|all| all.parse().ok())
            .expect("a number");
        let mean = (self.longest as u64).div_ceil(2);
        let sequences = all * self.share / 1_000_000 / mean;
        // Their lengths are random: some more, so that it is never less in all.
        u32::try_from(sequences + sequences / 50 + 1).expect("fewer")
    }
}

/// Runs random sequences in one half of the address space or the other, and says how many operations
/// those were.
fn explore(name: &str, amount: Amount, ops: BoxedStrategy<Op>, run: &dyn Fn(VaRange, &[Op])) {
    let cases = amount.sequences();
    let config = ProptestConfig {
        cases,
        failure_persistence: None,
        ..ProptestConfig::default()
    };
    let sequences = prop::collection::vec(ops, 1..amount.longest);
    let count = Cell::new(0);
    let result = TestRunner::new(config).run(&(any::<bool>(), sequences), |(upper, sequence)| {
        count.set(count.get() + sequence.len());
        let range = if upper {
            VaRange::Upper
        } else {
            VaRange::Lower
        };
        run(range, &sequence);
        Ok(())
    });
    if let Err(failure) = result {
        panic!("{failure}");
    }
    // Past the capture of output: scripts/test-long adds them up.
    let _ = writeln!(
        std::io::stderr(),
        "random: {name}: {cases} sequences, {} operations",
        count.get()
    );
}

/// Live tables, all pages of which are looked at after every step.
fn run_live<G: TestGeometry>(range: VaRange, sequence: &[Op]) {
    let memory = Memory::<G>::new(1024);
    let pages = 1 << (G::VA_BITS - G::GRANULE_SHIFT);
    let mut run = Run::new(&memory, range, pages);
    for (op, ranges) in sequence.iter().zip([true, false].into_iter().cycle()) {
        let level = op.bbm().unwrap_or_default();
        memory.watch(range, pages, Cpu { level, ranges });
        run.step(*op);
        (0..pages).for_each(|page| run.compare(page));
        run.compare_regions();
    }
}

/// The first pages of any geometry; compared at the edges of each step and here and there, and all of a
/// small one at the end.
fn run_some<G: TestGeometry>(pages: u64, range: VaRange, sequence: &[Op]) {
    let memory = Memory::<G>::new(4096);
    let mut run = Run::new(&memory, range, pages);
    let entries = shape::<G>().entries;
    let few = (pages / 128).max(9).next_power_of_two() + 1;
    for op in sequence {
        run.step(*op);
        let at = op.at();
        let end = at.first + at.count;
        for edge in [
            at.first,
            end,
            at.first / entries * entries,
            end / entries * entries,
            (at.first + end) / 2,
        ] {
            for page in edge.saturating_sub(2)..(edge + 2).min(pages) {
                run.compare(page);
            }
        }
        (0..pages)
            .step_by(few as usize)
            .for_each(|page| run.compare(page));
        run.compare_regions();
    }
    if pages <= 4096 {
        (0..pages).for_each(|page| run.compare(page));
    }
}

/// Requests of up to `longest` pages in the first `pages` of a geometry.
fn explore_some<G: TestGeometry>(name: &str, amount: Amount, pages: u64, longest: u64) {
    let ops = ops(shape::<G>(), pages, longest).boxed();
    explore(name, amount, ops, &|range, sequence| {
        run_some::<G>(pages, range, sequence);
    });
}

#[test]
fn tiny_live_tables_agree_with_the_model() {
    let amount = Amount {
        sequences: 256,
        longest: 24,
        share: 500_000,
    };
    let ops = ops(shape::<Tiny>(), 16, 16).boxed();
    explore("tiny", amount, ops, &run_live::<Tiny>);
}

const SMALL: Amount = Amount {
    sequences: 128,
    longest: 16,
    share: 160_000,
};

#[test]
fn small_tables_agree_with_the_model() {
    explore_some::<Small>("small", SMALL, 4096, 1024);
}

#[test]
fn addresses_of_52_bits_agree_with_the_model() {
    explore_some::<SmallLpa2>("small, LPA2", SMALL, 1024, 1024);
    explore_some::<SmallLpa64>("small, LPA of 64K", SMALL, 512, 512);
}

/// 5 GiB of the 4 KiB granule, requests up to 3 GiB.
#[test]
fn large_tables_agree_with_the_model() {
    let amount = Amount {
        sequences: 5,
        longest: 8,
        share: 100,
    };
    explore_some::<G48>("large", amount, 5 << 18, 3 << 18);
}

/// The same tables, requests up to 8 MiB.
#[test]
fn large_tables_agree_on_small_requests() {
    let amount = Amount {
        sequences: 12,
        longest: 16,
        share: 10_000,
    };
    explore_some::<G48>("large, small requests", amount, 4096, 2048);
}

/// The first blocks of level 2 of each granule and size of address.
fn explore_geometry<G: TestGeometry>(name: &str) {
    let amount = Amount {
        sequences: 2,
        longest: 8,
        share: 500,
    };
    let pages = 3 << G::INDEX_BITS;
    explore_some::<G>(name, amount, pages, pages);
}

macro_rules! each_geometry {
    ($($name:ident: $geometry:ty;)*) => {
        $(
            #[test]
            fn $name() {
                explore_geometry::<$geometry>(stringify!($name));
            }
        )*
    };
}

each_geometry! {
    granule_4k_with_25_bits: Granule4K<25>;
    granule_4k_with_36_bits: Granule4K<36>;
    granule_4k_with_39_bits: Granule4K<39>;
    granule_4k_with_42_bits: Granule4K<42>;
    granule_4k_with_47_bits: Granule4K<47>;
    granule_4k_with_52_bits: Granule4KLpa2<52>;
    granule_16k_with_36_bits: Granule16K<36>;
    granule_16k_with_39_bits: Granule16K<39>;
    granule_16k_with_42_bits: Granule16K<42>;
    granule_16k_with_47_bits: Granule16K<47>;
    granule_16k_with_48_bits: Granule16K<48>;
    granule_16k_with_52_bits: Granule16KLpa2<52>;
    granule_64k_with_36_bits: Granule64K<36>;
    granule_64k_with_39_bits: Granule64K<39>;
    granule_64k_with_42_bits: Granule64K<42>;
    granule_64k_with_47_bits: Granule64K<47>;
    granule_64k_with_48_bits: Granule64K<48>;
    granule_64k_with_52_bits: Granule64KLpa<52>;
}
