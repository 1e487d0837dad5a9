//! Random sequences of all operations, against the naive model and the independent walker.

mod support;

use early_mmu::{
    BbmLevel, Geometry, Granule4K, Granule4KLpa2, Granule16K, Granule16KLpa2, Granule64K,
    Granule64KLpa, MemType, PAGE_KERNEL, PAGE_KERNEL_RO, PAGE_KERNEL_ROX, PROT_DEVICE_nGnRE, Prot,
    VaRange,
};
use proptest::prelude::*;
use support::geometries::{SmallLpa2, SmallLpa64};
use support::model::{Frames, Layout, Request, Shape};
use support::run::{Op, Run, shape};
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
fn run_large<G: TestGeometry>(range: VaRange, pages: u64, sequence: Vec<Op>) {
    let memory = Memory::<G>::new(4096);
    let mut run = Run::new(&memory, range, pages);
    let entries = shape::<G>().entries;
    for op in sequence {
        run.step(op);
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
    fn addresses_of_52_bits_agree_with_the_model(
        upper: bool,
        of_4k in prop::collection::vec(ops(shape::<SmallLpa2>(), 1024, 1024), 1..12),
        of_64k in prop::collection::vec(ops(shape::<SmallLpa64>(), 512, 512), 1..12),
    ) {
        let range = if upper { VaRange::Upper } else { VaRange::Lower };
        run_whole::<SmallLpa2>(range, of_4k);
        run_whole::<SmallLpa64>(range, of_64k);
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
        run_large::<G48>(if upper { VaRange::Upper } else { VaRange::Lower }, LARGE, sequence);
    }

    /// The same tables, requests up to 8 MiB.
    #[test]
    fn large_tables_agree_on_small_requests(
        sequence in prop::collection::vec(ops(shape::<G48>(), 4096, 2048), 1..16),
    ) {
        run_large::<G48>(VaRange::Upper, 4096, sequence);
    }
}

/// A random sequence on the first level-2 blocks of each granule and size of address.
macro_rules! each_geometry {
    ($($name:ident: $geometry:ty;)*) => {
        proptest! {
            #![proptest_config(ProptestConfig { cases: 2, failure_persistence: None, ..ProptestConfig::default() })]

            $(
                #[test]
                fn $name(
                    upper: bool,
                    sequence in prop::collection::vec(
                        ops(
                            shape::<$geometry>(),
                            3 << <$geometry as Geometry>::INDEX_BITS,
                            3 << <$geometry as Geometry>::INDEX_BITS,
                        ),
                        1..8,
                    ),
                ) {
                    let range = if upper { VaRange::Upper } else { VaRange::Lower };
                    run_large::<$geometry>(range, 3 << <$geometry as Geometry>::INDEX_BITS, sequence);
                }
            )*
        }
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
