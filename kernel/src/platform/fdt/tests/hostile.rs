//! Large trees, each made to be slow to read: the time it takes may grow with a
//! tree's size, never with its square.

use std::time::{Duration, Instant};
use std::vec::Vec;
use std::{fs, println, thread};

use super::blob::Blob;
use super::*;

/// The largest there can be, or an eighth of it where code is not optimised.
const SIZE: usize = MAX_FDT_SIZE / if cfg!(debug_assertions) { 8 } else { 1 };
/// Each takes some tenths of a second; what grows with the square of the size
/// takes longer than this.
const LIMIT: Duration = Duration::from_secs(2);

/// How long this thread has run: other load on the machine does not count.
fn time_used(since: Instant) -> Duration {
    let stat = fs::read_to_string("/proc/thread-self/schedstat").unwrap_or_default();
    let nanoseconds = stat.split(' ').next().and_then(|first| first.parse().ok());
    // Without Linux's file, it does.
    nanoseconds.map_or_else(|| since.elapsed(), Duration::from_nanos)
}

/// Repeats `part` until the structure block holds `bytes`.
fn fill(mut blob: Blob, bytes: usize, part: impl Fn(&mut Blob)) -> Blob {
    while blob.len() < bytes {
        part(&mut blob);
    }
    blob
}

fn trees() -> Vec<(&'static str, Blob)> {
    let most = SIZE - 0x1000;
    let memory = Blob::with_memory;
    let empty_node = |blob: &mut Blob| {
        blob.begin("");
        blob.word(2);
    };
    let long_name = "p".repeat(127);
    let cells = |count: usize| (0..count as u32).collect::<Vec<_>>();
    let disjoint: Vec<u32> = (0..most as u32 / 16).flat_map(|i| [i, 0, 0, 1]).collect();
    let mut trees = std::vec![
        ("flat", fill(memory(), most, empty_node)),
        (
            "long property names",
            memory().node("n", |n| fill(n, most, |blob| blob.add(&long_name, &[]))),
        ),
        (
            "long property names of every node",
            fill(memory(), most, |blob| {
                blob.begin("node");
                (0..100).for_each(|_| blob.add(&long_name, &[]));
                blob.word(2);
            }),
        ),
        ("NOPs", fill(memory(), most, |blob| blob.word(4))),
        (
            "chosen nodes",
            fill(memory(), most, |blob| {
                blob.begin("chosen");
                blob.add("stdout-path", b"/chosen\0");
                blob.word(2);
            }),
        ),
        ("one name", memory().node(&"n".repeat(most), |n| n)),
        (
            "bootargs",
            memory().chosen(|n| n.property("bootargs", &std::vec![0xff; most])),
        ),
        (
            "compatible",
            memory().node("uart", |n| n
                .property("compatible", &b"a\0".repeat(most / 2))),
        ),
        (
            "path",
            memory().chosen(|n| n.property("stdout-path", &b"/n".repeat(most / 2))),
        ),
        ("banks", memory().memory("memory", &disjoint)),
        (
            "memory nodes",
            fill(memory(), most, |blob| {
                blob.begin("memory");
                blob.add("device_type", b"memory\0");
                blob.add("reg", &[0x40; 16]);
                blob.word(2);
            }),
        ),
        (
            "regions",
            memory().node("reserved-memory", |n| {
                let n = n.cells("#address-cells", &[1]).cells("#size-cells", &[1]);
                n.node("all", |n| n.cells("reg", &cells(most / 4)))
            }),
        ),
        (
            "reservations",
            (0..most as u64 / 16).fold(memory(), |blob, i| blob.reserve(i, i + 1)),
        ),
        (
            "seeds",
            memory().chosen(|n| fill(n, most, |blob| blob.add("rng-seed", b"seed"))),
        ),
        (
            // Each could mean a search through the bus's ranges.
            "UARTs that no range holds",
            memory().node("soc", |n| {
                let n = n.cells("#address-cells", &[1]).cells("#size-cells", &[1]);
                let ranges: Vec<u32> = (0..most as u32 / 32).flat_map(|i| [i, 0, i, 1]).collect();
                fill(n.cells("ranges", &ranges), most, |blob| {
                    blob.begin("u");
                    blob.add("compatible", b"arm,pl011\0");
                    blob.add("reg", &[0xff; 8]);
                    blob.word(2);
                })
            }),
        ),
    ];
    for (name, depth) in [("deep", usize::MAX), ("a comb of eight teeth", 8)] {
        let mut blob = memory();
        let mut open = 0;
        while blob.len() + 4 * open < most {
            if open < depth {
                blob.begin("");
                open += 1;
            }
            if depth == 8 {
                empty_node(&mut blob);
            }
        }
        (0..open).for_each(|_| blob.word(2));
        trees.push((name, blob));
    }
    trees
}

#[test]
fn no_tree_takes_long() {
    for (name, blob) in trees() {
        let blob = blob.finish();
        assert!(blob.len() > SIZE * 9 / 10, "{name}: {}", blob.len());
        assert!(blob.len() <= SIZE, "{name}: {}", blob.len());
        let reader = thread::Builder::new()
            // The boot's stack is small too.
            .stack_size(64 << 10)
            .spawn(move || {
                let (mut blob, start) = (blob, Instant::now());
                let result = read_blob(&blob).map(|firmware| firmware.dropped_banks);
                let wiped = find_and_wipe(&mut blob);
                (result, wiped, time_used(start))
            });
        let (result, wiped, took) = reader.unwrap().join().unwrap();
        println!("{name}: {took:?}, {result:?}, {wiped:?} seeds");
        assert!(
            !matches!(result, Err(FdtError::Malformed(_))),
            "{name}: {result:?}"
        );
        assert!(took < LIMIT, "{name}: {took:?}");
    }
}
