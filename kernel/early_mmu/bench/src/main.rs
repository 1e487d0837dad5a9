//! One call of one crate on one case, measured: `early_mmu-bench CRATE CASE`, once, for callgrind to count
//! in `measured`, or `early_mmu-bench CRATE CASE RUNS`, for the median time. Prints what scripts/bench-mmu
//! makes a table of: leaves, frames taken, nanoseconds.

mod arena;
mod subjects;

use std::env;
use std::hint::black_box;
use std::time::{Duration, Instant};

use subjects::Subject;

const GIB: usize = 1 << 30;
const PAGE: usize = 1 << 12;
const BLOCK: usize = 2 << 20;
/// Where all is mapped to.
const PA: usize = 4 * GIB;

/// Callgrind counts from here to the return.
#[inline(never)]
#[unsafe(no_mangle)]
fn measured(work: &mut dyn FnMut()) -> Duration {
    let start = Instant::now();
    work();
    start.elapsed()
}

/// Addresses in the first GiB that look random.
fn addresses(count: usize) -> Vec<usize> {
    let mut x = 0x9e37_79b9_7f4a_7c15_u64;
    let next = std::iter::repeat_with(move || {
        x ^= x << 13;
        x ^= x >> 7;
        x ^= x << 17;
        x as usize % GIB
    });
    next.take(count).collect()
}

/// Leaves written or read, and the time; `None` if the crate has no such call.
fn run<S: Subject>(case: &str) -> Option<(usize, Duration)> {
    let mut subject = S::new();
    let (leaves, time) = match case {
        "a" => (1 << 20, measured(&mut || subject.map(PA, 4 * GIB, PAGE))),
        "b" => (512, measured(&mut || subject.map(0, 512 * GIB, GIB))),
        "c" => (
            512 << 9,
            measured(&mut || subject.map(BLOCK, 512 * GIB, BLOCK)),
        ),
        "d" => {
            subject.map(PA, GIB, PAGE);
            (1 << 18, measured(&mut || subject.protect(PA, GIB)))
        }
        "e" => {
            subject.map(PA, GIB, PAGE);
            let addresses = addresses(1_000_000);
            let mut sum = 0;
            let time = measured(&mut || {
                for &va in &addresses {
                    sum += subject.translate(va);
                }
            });
            let expected = addresses.iter().map(|va| va + PA).sum();
            assert!(S::IS_LIMIT || sum == expected, "wrong translations");
            (addresses.len(), time)
        }
        "f" => {
            subject.map(PA, 4 * GIB, PAGE);
            (1 << 20, measured(&mut || subject.unmap(4 * GIB)))
        }
        "g" if S::SPLITS => {
            subject.map(PA + BLOCK, GIB, BLOCK);
            (
                512 << 9,
                measured(&mut || (0..512).for_each(|block| subject.split(block * BLOCK))),
            )
        }
        _ => return None,
    };
    // What was done is there.
    if !S::IS_LIMIT && "abcd".contains(case) {
        let pa = [PA, 0, BLOCK, PA]["abcd".find(case)?];
        for va in [0, GIB / 2 + PAGE, GIB - PAGE] {
            assert_eq!(subject.translate(va), va + pa, "{case}");
        }
    }
    black_box(&subject);
    Some((leaves, time))
}

fn bench<S: Subject>(case: &str, runs: usize) {
    let mut times = vec![];
    for _ in 0..runs {
        arena::prepare();
        let before = arena::left();
        let Some((leaves, time)) = run::<S>(case) else {
            return println!("- - -");
        };
        times.push((time, leaves, before - arena::left()));
    }
    times.sort_unstable();
    let (time, leaves, frames) = times[times.len() / 2];
    println!("{leaves} {frames} {}", time.as_nanos());
}

fn main() {
    let args: Vec<String> = env::args().skip(1).collect();
    let [subject, case, runs @ ..] = &args[..] else {
        panic!("early_mmu-bench CRATE CASE [RUNS]")
    };
    let runs = runs
        .first()
        .map_or(1, |runs| runs.parse().expect("a number"));
    match subject.as_str() {
        "early_mmu" => bench::<subjects::early_mmu::Tables>(case, runs),
        "limit" => bench::<subjects::limit::Stores>(case, runs),
        "aarch64-paging" => bench::<subjects::aarch64_paging::Tables>(case, runs),
        "page_table_multiarch" => bench::<subjects::page_table_multiarch::Tables>(case, runs),
        "page-table-generic" => bench::<subjects::page_table_generic::Tables>(case, runs),
        "patina_paging" => bench::<subjects::patina_paging::Tables>(case, runs),
        other => panic!("no crate {other}"),
    }
}
