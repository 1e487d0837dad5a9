//! Every sequence of a few operations, on tables so small that all of them can be tried: two levels of
//! four entries, contiguous runs of two, 16 pages. Breadth first; states that were met before are
//! not followed again. Each step is held against the naive model, the independent walker and the rules
//! of `support/walkers.rs`, and begins with everything cached that may be.

mod support;

use std::collections::HashSet;
use std::io::Write;
use std::thread;

use early_mmu::{BbmLevel, MemType, PAGE_KERNEL, PAGE_KERNEL_RO, PROT_DEVICE_nGnRE, Prot, VaRange};
use support::memory::slot_pa;
use support::model::{Frames, Layout, Request};
use support::run::{Op, Run, shape};
use support::walkers::Cpu;
use support::{Memory, Tiny};

const PAGES: u64 = 16;
const ENTRIES: usize = 4;
/// The root, a table behind each of its entries, and as many while they are replaced.
const SLOTS: usize = 1 + 2 * ENTRIES;

/// The root, and the tables behind its entries in order: equal for equal tables, wherever they lie.
type State = [[u64; ENTRIES]; 1 + ENTRIES];

const EMPTY: State = [[0; ENTRIES]; 1 + ENTRIES];

fn save(memory: &Memory<Tiny>) -> State {
    let mut state = EMPTY;
    for index in 0..ENTRIES {
        let entry = memory.peek(memory.root(), index);
        state[0][index] = entry;
        if entry & 3 == 3 {
            let table = early_mmu::PhysAddr::new(entry & 0x0000_ffff_ffff_f000);
            state[1 + index] = std::array::from_fn(|page| memory.peek(table, page));
            let place = slot_pa::<Tiny>(1 + index).as_u64();
            state[0][index] = entry - table.as_u64() + place;
        }
    }
    state
}

fn load(memory: &Memory<Tiny>, state: &State) {
    (0..SLOTS).for_each(|slot| memory.forget(slot));
    memory.fill(0, |index| state[0][index]);
    for index in (0..ENTRIES).filter(|&index| state[0][index] & 3 == 3) {
        memory.fill(1 + index, |page| state[1 + index][page]);
    }
}

/// All ranges whose two ends are multiples of `step` pages.
fn ranges(step: u64) -> impl Iterator<Item = Request> {
    let starts = (0..PAGES).step_by(step as usize);
    starts.flat_map(move |first| {
        let counts = (step..=PAGES - first).step_by(step as usize);
        counts.map(move |count| Request { first, count })
    })
}

/// Every operation and every change of attributes, over all these ranges.
fn operations(step: u64) -> Vec<Op> {
    let largest = Layout {
        blocks: true,
        runs: true,
        global: true,
    };
    let pages = Layout {
        blocks: false,
        runs: false,
        ..largest
    };
    let private = Layout {
        global: false,
        ..largest
    };
    let frames = Frames::UpTo(usize::MAX);
    let ppn = shape::<Tiny>().ppn;
    let mut ops = vec![];
    for at in ranges(step) {
        let map = |prot, layout, shift| Op::Map {
            at,
            ppn: ppn + at.first + shift,
            prot,
            layout,
            frames,
        };
        ops.extend([
            map(PAGE_KERNEL, largest, 0),
            map(PAGE_KERNEL_RO, largest, 0),
            map(PAGE_KERNEL, pages, 0),
            map(PAGE_KERNEL, private, 0),
            map(PAGE_KERNEL, largest, 1),
            Op::Tables { at, frames },
        ]);
        let prots = [PAGE_KERNEL, PAGE_KERNEL_RO, PROT_DEVICE_nGnRE];
        let tagged = Prot::ReadWrite(MemType::NormalTagged);
        ops.extend(
            prots
                .into_iter()
                .chain([tagged])
                .map(|prot| Op::Protect { at, prot }),
        );
        ops.extend([true, false].map(|free_tables| Op::Unmap { at, free_tables }));
        for bbm in [BbmLevel::Level0, BbmLevel::Level2] {
            ops.push(Op::Split {
                at,
                runs: true,
                frames,
                bbm,
            });
            ops.push(Op::Merge {
                at,
                blocks: true,
                runs: true,
                bbm,
            });
            ops.push(Op::ProtectSplitting {
                at,
                prot: PAGE_KERNEL_RO,
                runs: true,
                frames,
                bbm,
            });
        }
    }
    ops
}

/// One operation on one state, checked in all ways; the state that it leads to.
fn step(memory: &Memory<Tiny>, state: &State, op: Op) -> State {
    load(memory, state);
    let level = op.bbm().unwrap_or_default();
    memory.watch(
        VaRange::Upper,
        PAGES,
        Cpu {
            level,
            ranges: level == BbmLevel::Level2,
        },
    );
    let used = 1 + ENTRIES;
    let mut run = Run::resume(memory, VaRange::Upper, PAGES, used);
    run.step(op);
    (0..PAGES).for_each(|page| run.compare(page));
    run.compare_regions();
    save(memory)
}

/// Where `ops` lead from `states`, without what was known.
fn follow(states: &[State], ops: &[Op], known: &HashSet<State>) -> HashSet<State> {
    let workers = thread::available_parallelism().map_or(1, |count| count.get());
    let shares = states.chunks(states.len().div_ceil(workers).max(1));
    thread::scope(|scope| {
        let threads: Vec<_> = shares
            .map(|share| scope.spawn(|| follow_all(share, ops, known)))
            .collect();
        let mut all = HashSet::new();
        for thread in threads {
            match thread.join() {
                Ok(found) => all.extend(found),
                Err(panic) => std::panic::resume_unwind(panic),
            }
        }
        all
    })
}

fn follow_all(states: &[State], ops: &[Op], known: &HashSet<State>) -> HashSet<State> {
    let memory = Memory::<Tiny>::new(SLOTS);
    let mut found = HashSet::new();
    for state in states {
        let after = ops.iter().map(|op| step(&memory, state, *op));
        found.extend(after.filter(|state| !known.contains(state)));
    }
    found
}

/// All sequences of up to `depth` operations over ranges that begin and end at multiples of `step`.
fn exhaust(what: &str, step: u64, depth: usize) {
    let ops = operations(step);
    let mut known = HashSet::from([EMPTY]);
    let mut front = vec![EMPTY];
    let mut steps = 0;
    for _ in 0..depth {
        steps += front.len() * ops.len();
        let found = follow(&front, &ops, &known);
        known.extend(&found);
        front = found.into_iter().collect();
    }
    // Past the capture of output: the count is the result.
    let _ = writeln!(
        std::io::stderr(),
        "exhaustive: {what}: up to {depth} of {} operations: {} states visited, {steps} steps",
        ops.len(),
        known.len(),
    );
}

#[test]
fn one_operation_over_every_range() {
    exhaust("every range", 1, 1);
}

#[test]
fn two_operations_at_run_and_block_edges() {
    exhaust("run and block edges", 2, 2);
}

#[test]
#[ignore = "long: make test-long"]
fn three_operations_over_every_range() {
    exhaust("every range", 1, 3);
}

#[test]
#[ignore = "long: make test-long"]
fn four_operations_at_run_and_block_edges() {
    exhaust("run and block edges", 2, 4);
}
