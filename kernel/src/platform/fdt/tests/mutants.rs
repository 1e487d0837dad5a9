//! Good trees, damaged at random: nothing panics, and what is read is sound.

use std::vec::Vec;

use dtoolkit::error::FdtErrorKind;

use super::blob::Blob;
use super::*;
use crate::memblock::MAX_RANGES;
use crate::range::RangeList;
use crate::xorshift::Xorshift;

/// Something of all that is read, and little else to hit.
fn rich() -> Vec<u8> {
    Blob::new(2, 1)
        .reserve(0x4800_0000, 0x10_0000)
        .reserve(0x10_0000, 0x1000)
        .memory("memory@42100000", &[0, 0x4210_0000, 0x430_0000])
        .memory(
            "memory@40000000",
            &[0, 0x4000_0000, 0x210_0000, 1, 0, 0x800],
        )
        .node("reserved-memory", |n| {
            n.cells("#address-cells", &[2])
                .cells("#size-cells", &[2])
                .property("ranges", &[])
                .node("a@41000000", |n| {
                    n.cells("reg", &[0, 0x4100_0000, 0, 0x1000])
                })
                .node("b@42000000", |n| {
                    n.property("no-map", &[])
                        .cells("reg", &[0, 0x4200_0000, 0, 0x3000, 0, 0x4300_0000, 0, 0x10])
                })
                .node("pool", |n| n.cells("size", &[0, 0x10_0000]))
        })
        .node("psci", |n| {
            n.text("compatible", "arm,psci-0.2").text("method", "smc")
        })
        .node("soc", |n| {
            n.cells("#address-cells", &[1])
                .cells("#size-cells", &[1])
                .cells("ranges", &[0x7e00_0000, 0, 0x3f00_0000, 0x100_0000])
                .pl011("serial@7e201000", &[0x7e20_1000, 0x200])
        })
        .node("aliases", |n| n.text("serial0", "/soc/serial@7e201000"))
        .chosen(|n| {
            n.text("stdout-path", "serial0:115200n8")
                .text("bootargs", "loglevel=8 linear=page")
                .cells("linux,initrd-start", &[0x4400_0000])
                .cells("linux,initrd-end", &[0x4410_0000])
                .property("kaslr-seed", &[0xa5; 8])
                .property("rng-seed", &[0x5a; 32])
        })
        .finish()
}

/// One to four changes, most of them small enough to leave a tree.
fn mutate(blob: &mut Vec<u8>, random: &mut Xorshift) {
    for _ in 0..=random.below(4) {
        let at = random.below(blob.len() as u64) as usize;
        match random.below(8) {
            0..=2 => blob[at] ^= 1 << random.below(8),
            3..=6 => {
                let (size, any) = (blob.len() as u32, random.next_u64() as u32);
                let nasty = random.pick(&[
                    0,
                    1,
                    2,
                    3,
                    4,
                    9,
                    31,
                    size,
                    size - 1,
                    size + 1,
                    0x7fff_ffff,
                    0x8000_0000,
                    0xffff_fffc,
                    u32::MAX,
                    0x4000_0000,
                    0xd00d_feed,
                    any,
                ]);
                let at = at & !3;
                if let Some(word) = blob.get_mut(at..at + 4) {
                    word.copy_from_slice(&nasty.to_be_bytes());
                }
            }
            _ if at >= HEADER_BYTES => {
                blob.truncate(at);
                // Half of them admit it.
                if random.below(2) == 0 {
                    blob[4..8].copy_from_slice(&(at as u32).to_be_bytes());
                }
            }
            _ => {}
        }
    }
}

fn assert_sound(list: &RangeList<MAX_RANGES>) {
    let ranges = list.as_slice();
    assert!(
        ranges.iter().all(|range| range.start < range.end),
        "{list:?}"
    );
    assert!(ranges.is_sorted_by(|a, b| a.end < b.start), "{list:?}");
}

/// Address and size, as far as `reg` holds whole pairs of such numbers.
fn pairs(node: &FdtNode<'_>, parent: &FdtNode<'_>) -> Vec<(u128, u128)> {
    let cells = |name, default| match parent.property(name) {
        Some(p) => p.value_as::<u32>().unwrap_or(default) as usize,
        None => default as usize,
    };
    let (address, size) = (cells("#address-cells", 2), cells("#size-cells", 1));
    let number = |cells: &[u8]| {
        cells
            .iter()
            .fold(0, |n: u128, &byte| n << 8 | u128::from(byte))
    };
    let Some(reg) = node.property("reg") else {
        return Vec::new();
    };
    match (address, size) {
        (1..=2, 1..=2) => reg
            .value()
            .chunks_exact((address + size) * 4)
            .map(|pair| (number(&pair[..address * 4]), number(&pair[address * 4..])))
            .collect(),
        _ => Vec::new(),
    }
}

/// Whether every byte from `start` on, as far as there are addresses, is in `list`.
fn covers(list: &RangeList<MAX_RANGES>, (start, size): (u128, u128)) -> bool {
    let end = (start + size).min(u64::MAX.into());
    start >= end
        || list
            .as_slice()
            .iter()
            .any(|r| u128::from(r.start) <= start && end <= r.end.into())
}

/// No reservation is lost, and no memory is made up.
fn assert_nothing_lost_or_made_up(fdt: Fdt<'_>, memblock: &Memblock) {
    for entry in fdt.memory_reservations() {
        let entry = (entry.address().into(), entry.size().into());
        assert!(covers(&memblock.reserved, entry));
    }
    let root = fdt.root();
    for parent in root
        .children()
        .filter(|n| n.name_without_address() == "reserved-memory")
    {
        for node in parent.children().filter(is_available) {
            let list = match node.property("no-map") {
                Some(_) => &memblock.nomap,
                None => &memblock.reserved,
            };
            assert!(
                pairs(&node, &parent)
                    .into_iter()
                    .all(|pair| covers(list, pair))
            );
        }
    }
    let mut declared: Vec<(u128, u128)> = root
        .children()
        .filter(is_memory)
        .flat_map(|node| pairs(&node, &root))
        .collect();
    declared.sort();
    for bank in memblock.memory.as_slice() {
        let mut at = u128::from(bank.start);
        for &(start, size) in declared.iter().filter(|&&(s, n)| s + n <= u64::MAX.into()) {
            if start <= at {
                at = at.max(start + size);
            }
        }
        assert!(
            at >= bank.end.into(),
            "{bank} is not declared: {declared:x?}"
        );
    }
}

/// dtoolkit's own check agrees with ours but for the names, which is what makes
/// `Fdt::new_unchecked` right.
fn assert_dtoolkit_agrees(blob: &[u8]) {
    if let (Ok(_), Err(error)) = (check(blob), Fdt::new(blob)) {
        let names = [
            FdtErrorKind::InvalidNodeName,
            FdtErrorKind::InvalidPropertyName,
        ];
        assert!(names.contains(&error.kind), "{error}");
    }
}

fn assert_wipe_is_sound(blob: &[u8]) {
    let mut wiped = blob.to_vec();
    match find_and_wipe(&mut wiped) {
        Err(_) => assert_eq!(wiped, blob),
        Ok(0) => assert_eq!(wiped, blob),
        Ok(count) => {
            let again = wiped.clone();
            assert_eq!(find_and_wipe(&mut wiped), Ok(count));
            assert_eq!(wiped, again);
            let changed = blob.iter().zip(&again).filter(|(a, b)| a != b);
            assert!(changed.clone().all(|(_, &after)| after == 0));
            let fdt = check(&again).unwrap();
            let chosen = fdt.find_node("/chosen").unwrap();
            for seed in ["kaslr-seed", "rng-seed"] {
                let value = chosen.property(seed);
                assert!(value.is_none_or(|p| p.value().iter().all(|&byte| byte == 0)));
            }
        }
    }
}

/// Returns whether it was still a tree.
pub fn try_mutant(blob: &[u8]) -> bool {
    let mut firmware = Firmware::new();
    let result = read(blob, &mut firmware);
    let lists = &firmware.memblock;
    for list in [&lists.memory, &lists.reserved, &lists.nomap] {
        assert_sound(list);
    }
    assert!(firmware.bootargs.as_str().len() <= crate::cmdline::COMMAND_LINE_SIZE);
    for device in [firmware.uart, firmware.power_manager] {
        assert!(device.is_none_or(|address| address % 0x1000 == 0));
    }
    assert!(firmware.initrd.is_none_or(|range| range.start < range.end));
    if result.is_ok() {
        assert!(!lists.memory.as_slice().is_empty());
        assert_nothing_lost_or_made_up(check(blob).unwrap(), lists);
    }
    assert_dtoolkit_agrees(blob);
    assert_wipe_is_sound(blob);
    if let Err(error) = &result {
        assert!(!std::format!("{error}").is_empty());
    }
    result.is_ok()
}

fn try_mutants_of(good: &[u8], count: usize, seed: u64) {
    let mut random = Xorshift::new(seed);
    let mut still_trees = 0;
    assert!(try_mutant(good));
    for number in 0..count {
        let mut blob = good.to_vec();
        mutate(&mut blob, &mut random);
        let result = std::panic::catch_unwind(|| try_mutant(&blob));
        match result {
            Ok(still) => still_trees += usize::from(still),
            Err(_) => panic!("mutant {number} of seed {seed:#x}"),
        }
    }
    // Else they are too broken to reach what reads the tree.
    assert!(still_trees > count / 10, "{still_trees}");
}

/// What the fuzzer has found to be different (kernel/fuzz).
#[test]
fn the_corpus_of_the_fuzzer() {
    let corpus = concat!(env!("CARGO_MANIFEST_DIR"), "/fuzz/corpus/device_tree");
    let mut trees = 0;
    for file in std::fs::read_dir(corpus).unwrap() {
        let path = file.unwrap().path();
        let blob = std::fs::read(&path).unwrap();
        let result = std::panic::catch_unwind(|| try_mutant(&blob));
        trees += usize::from(result.unwrap_or_else(|_| panic!("{}", path.display())));
    }
    assert!(trees > 10, "only {trees} of the corpus are trees");
}

#[test]
fn mutants_of_qemu_virt() {
    try_mutants_of(VIRT, 5_000, 0x5eed_0001);
}

#[test]
fn mutants_of_a_rich_tree() {
    try_mutants_of(&rich(), 15_000, 0x5eed_0002);
}

/// What the mutants start from says what it should.
#[test]
fn the_rich_tree_is_read() {
    let firmware = read_blob(&rich()).unwrap();
    assert_eq!(firmware.uart, Some(0x3f20_1000));
    assert_eq!(firmware.psci, Some(Conduit::Smc));
    assert_eq!(firmware.memblock.memory.as_slice().len(), 2);
    assert_eq!(firmware.memblock.reserved.as_slice().len(), 3);
    assert_eq!(firmware.memblock.nomap.as_slice().len(), 2);
    assert!(firmware.initrd.is_some());
}
