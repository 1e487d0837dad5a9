//! What the fuzz targets do with their bytes; `tests/corpus.rs` does it with those that are kept.

use early_mmu::{
    BbmLevel, BreakBeforeMake, Flags, MemType, PAGE_KERNEL, PAGE_KERNEL_RO, PAGE_KERNEL_ROX,
    PROT_DEVICE_nGnRE, Prot, VaRange, WalkEnd,
};

use super::arm_walk::Fault;
use super::geometries::{SmallLpa2, TestGeometry};
use super::model::{Frames, Layout, Request};
use super::run::{Op, Run, regime, shape};
use super::walkers::Cpu;
use super::{Memory, Pool, Small, Tables, Tiny, mapping, upper, va};

/// Each operation is taken from so many bytes.
const OP_BYTES: usize = 6;

/// A sequence of operations against model, independent walker and the rules for live tables. The first
/// byte chooses the geometry.
pub fn operations(data: &[u8]) {
    let Some((choice, data)) = data.split_first() else {
        return;
    };
    let sequence = data.chunks_exact(OP_BYTES).take(24);
    match choice % 4 {
        0 => run::<Tiny>(16, true, sequence),
        1 => run::<Small>(128, true, sequence),
        2 => run::<Small>(1024, false, sequence),
        _ => run::<SmallLpa2>(1024, false, sequence),
    }
}

fn run<'a, G: TestGeometry>(pages: u64, watched: bool, sequence: impl Iterator<Item = &'a [u8]>) {
    let memory = Memory::<G>::new(600);
    let mut run = Run::new(&memory, VaRange::Upper, pages);
    for bytes in sequence {
        let op = op::<G>(bytes, pages);
        if watched {
            let level = op.bbm().unwrap_or_default();
            let ranges = bytes[0] & 0x80 != 0;
            memory.watch(VaRange::Upper, pages, Cpu { level, ranges });
        }
        run.step(op);
        (0..pages).for_each(|page| run.compare(page));
        run.compare_regions();
    }
}

fn op<G: TestGeometry>(bytes: &[u8], pages: u64) -> Op {
    let bit = |byte: usize, bit: u32| bytes[byte] >> bit & 1 == 1;
    let first = (u64::from(bytes[1]) << 2 | u64::from(bytes[3]) & 3) % pages;
    let count = (u64::from(bytes[2]) + 1).min(pages - first);
    let at = Request { first, count };
    let prot = [
        PAGE_KERNEL,
        PAGE_KERNEL_RO,
        PAGE_KERNEL_ROX,
        PROT_DEVICE_nGnRE,
        Prot::ReadWrite(MemType::NormalTagged),
    ][usize::from(bytes[3] >> 2) % 5];
    let frames = match bytes[4] & 15 {
        0 | 1 => Frames::Never,
        few @ 2..=7 => Frames::UpTo(usize::from(few) - 2),
        _ => Frames::UpTo(usize::MAX),
    };
    let (runs, blocks) = (!bit(4, 4), !bit(4, 5));
    let bbm = if bit(4, 6) {
        BbmLevel::Level2
    } else {
        BbmLevel::Level0
    };
    match bytes[0] % 8 {
        0 | 1 => Op::Map {
            at,
            // Mostly one linear map, so that requests meet what is there.
            ppn: shape::<G>().ppn
                + first
                + if bytes[5] < 224 {
                    0
                } else {
                    u64::from(bytes[5]) - 223
                },
            prot,
            layout: Layout {
                blocks,
                runs,
                global: !bit(4, 7),
            },
            frames,
        },
        2 => Op::Protect { at, prot },
        3 => Op::Tables { at, frames },
        4 => Op::Unmap {
            at,
            free_tables: runs,
        },
        5 => Op::Split {
            at,
            runs,
            frames,
            bbm,
        },
        6 => Op::ProtectSplitting {
            at,
            prot,
            runs,
            frames,
            bbm,
        },
        _ => Op::Merge {
            at,
            blocks,
            runs,
            bbm,
        },
    }
}

/// Tables with any content at all: the root and three more, each reachable from anywhere. Every call must
/// end, none may panic, what is refused changes nothing, and what is read is what the architecture says.
///
/// One byte chooses the calls' range, then nine make an entry.
pub fn hostile(data: &[u8]) {
    let Some((range, data)) = data.split_first() else {
        return;
    };
    let memory = Memory::<Tiny>::new(12);
    for slot in 1..4 {
        memory.fill(slot, |_| 0);
    }
    for (at, entry) in data.chunks_exact(9).take(16).enumerate() {
        let bits = entry[1..]
            .iter()
            .fold(0, |bits, byte| bits << 8 | u64::from(*byte));
        let slot = u64::from(entry[0] >> 2) % 5;
        let entry = match entry[0] & 3 {
            0 => 0,
            // Leads to a table, or just behind the last.
            1 | 2 => {
                let table = memory.root().as_u64() + (slot << 12);
                bits & 0x7ff0_0000_0000_0ffc | table | 0b11
            }
            _ => bits,
        };
        let table = memory.root().checked_add((at as u64 / 4) << 12);
        memory.poke(table.expect("small"), at % 4, entry);
    }
    hostile_tables(&memory, u64::from(range & 15), u64::from(range >> 4) + 1);
}

/// [`hostile`] for tables that are there, and calls for `count` pages from `first` on.
pub fn hostile_tables(memory: &Memory<Tiny>, first: u64, count: u64) {
    let base = !0 << 16;
    let mut tables = upper(memory);
    let regime = super::arm_walk::Regime {
        contiguous: [0; 4],
        ..regime::<Tiny>(memory, VaRange::Upper)
    };
    for page in 0..16 {
        let address = base + page * 0x1000 + 0x123;
        let expected = regime.translate(address, |pa| memory.read(pa));
        let walk = tables.walk(va(address));
        let got = tables.translate(va(address)).map(|pa| pa.as_u64());
        assert_eq!(walk.pa().map(|pa| pa.as_u64()), got);
        match expected {
            Ok(expected) => {
                assert_eq!(got, Some(expected.pa));
                let leaf = walk.leaf().expect("mapped").effective;
                assert_eq!(leaf.is_writable(), expected.el1_write);
                // What EL0 can write, EL1 never executes.
                let el0_writes = expected.el0_access && expected.el1_write;
                assert_eq!(leaf.is_executable() && !el0_writes, expected.el1_execute);
            }
            Err(Fault::Translation(level)) => {
                assert_eq!(got, None);
                assert_eq!(walk.end(), WalkEnd::Fault { level: level as i8 });
            }
            Err(Fault::External(level)) => {
                let end = walk.end();
                assert!(
                    matches!(end, WalkEnd::Unreachable { level: l, .. } if i32::from(l) == level),
                    "{end:?}"
                );
            }
            // The crate looks at translations, not at accesses.
            Err(Fault::AccessFlag(_)) => assert!(got.is_some()),
            Err(Fault::AddressRange) => panic!("an address of the range"),
        }
    }
    assert!(tables.regions().count() <= 16);
    for region in tables.regions() {
        let _ = region.to_string();
    }
    calls(
        memory,
        &mut tables,
        base + first * 0x1000,
        count.min(16 - first) * 0x1000,
    );
}

/// All calls on a range, one after the other.
fn calls(memory: &Memory<Tiny>, tables: &mut Tables<'_, Tiny>, start: u64, size: u64) {
    let request = mapping(start, 0x10_0000, size, PAGE_KERNEL);
    let start = va(start);
    let live = BreakBeforeMake::new(memory, BbmLevel::Level0);
    memory.hostile.set(true);
    let mut pool = Pool::<Tiny>::new(5, 6);
    pool.may_keep = true;
    let mut before = memory.snapshot();
    let mut refused = |outcome: Result<(), early_mmu::MapError>| {
        let after = memory.snapshot();
        if let Err(error) = outcome {
            assert!(before == after, "{error}: tables changed");
        }
        before = after;
    };
    let _ = tables.tables_needed(request, Flags::NONE);
    let _ = tables.tables_needed_to_split(start, size, Flags::NONE);
    refused(
        tables
            .update_mapping_prot(start, size, PAGE_KERNEL_RO)
            .map(drop),
    );
    refused(
        tables
            .create_mapping_noalloc(request, Flags::NONE)
            .map(drop),
    );
    refused(
        tables
            .create_mapping(request, Flags::NONE, &mut pool)
            .map(drop),
    );
    refused(tables.create_tables(start, size, &mut pool).map(drop));
    let split = tables.split(start, size, Flags::NONE, &mut pool, live);
    refused(split.map(drop));
    // Its two halves could disagree where a table is linked in two places.
    let _ = tables.update_mapping_prot_splitting(
        start,
        size,
        PAGE_KERNEL_RO,
        Flags::NONE,
        &mut pool,
        live,
    );
    refused(Ok(()));
    refused(tables.merge(start, size, Flags::NONE, live).map(|retired| {
        retired.execute(memory).for_each(drop);
    }));
    refused(tables.unmap_keeping_tables(start, size).map(drop));
    refused(tables.unmap(start, size).map(|retired| {
        retired.execute(memory).for_each(drop);
    }));
}
