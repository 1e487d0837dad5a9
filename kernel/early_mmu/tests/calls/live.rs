//! Live tables under the eyes of walkers that keep all they may: see `support/walkers.rs` for the rules
//! that each operation and its flush are held against.

use early_mmu::{
    BbmLevel, BreakBeforeMake, Flags, Mapping, PAGE_KERNEL, PAGE_KERNEL_RO, PAGE_KERNEL_ROX,
    PhysAddr, VaRange, VirtAddr,
};

use crate::support::walkers::Cpu;
use crate::support::{GIB, Memory, Pool, Small, TestGeometry, upper};

/// Numbers that look random and are the same each time.
struct Numbers(u64);

impl Numbers {
    fn below(&mut self, limit: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0 % limit
    }
}

/// All operations in any order, each with its flush, under the eyes of the TLB.
fn any_order<G: TestGeometry>(level: BbmLevel, seed: u64, steps: usize) {
    const PAGES: u64 = 512;
    let bytes = G::GRANULE_BYTES;
    let memory = Memory::<G>::new(6000);
    let mut used = 1;
    let mut tables = upper::<G>(&memory);
    let ranges = seed.is_multiple_of(2);
    memory.watch(VaRange::Upper, PAGES, Cpu { level, ranges });
    let live = BreakBeforeMake::new(&memory, level);
    let mut numbers = Numbers(seed);
    let mut done = [0; 7];
    let mut breaks = 0;
    for _ in 0..steps {
        let grain = [1, 4, 8, 64][numbers.below(4) as usize];
        let first = numbers.below(PAGES) / grain * grain;
        let count = (numbers.below(160) + 1)
            .next_multiple_of(grain)
            .min(PAGES - first);
        let start = VirtAddr::new((!0 << G::VA_BITS) + first * bytes);
        let size = count * bytes;
        let prot = [PAGE_KERNEL, PAGE_KERNEL_RO, PAGE_KERNEL_ROX][numbers.below(3) as usize];
        let mut pool = Pool::<G>::new(used, 300);
        let kind = (numbers.below(90) / 10) as usize % 7;
        let result = match kind {
            0 => {
                let request = Mapping {
                    va: start,
                    pa: PhysAddr::new(GIB + first * bytes),
                    size_bytes: size,
                    prot,
                };
                tables.create_mapping(request, Flags::NONE, &mut pool)
            }
            1 => tables.update_mapping_prot(start, size, prot),
            2 => tables.update_mapping_prot_splitting(
                start,
                size,
                prot,
                Flags::NONE,
                &mut pool,
                live,
            ),
            3 => tables.split(start, size, Flags::NONE, &mut pool, live),
            4 => tables.unmap(start, size).map(|retired| {
                let flush = *retired.flush();
                memory.take_back(retired.execute(&memory));
                flush
            }),
            5 => tables.unmap_keeping_tables(start, size),
            _ => tables.merge(start, size, Flags::NONE, live).map(|retired| {
                let flush = *retired.flush();
                memory.take_back(retired.execute(&memory));
                flush
            }),
        };
        if let Ok(flush) = result {
            flush.execute(&memory);
            done[kind] += 1;
        }
        // What changes sizes only takes mappings away at level 0.
        let taken_away = memory.settled();
        if matches!(kind, 2 | 3 | 6) {
            breaks += taken_away;
        }
        memory.check();
        used += 300 - pool.len();
    }
    assert!(done.iter().all(|&count| count > 0), "{done:?}");
    assert_eq!(breaks > 0, level == BbmLevel::Level0, "{breaks} breaks");
}

#[test]
fn no_operation_leaves_or_meets_anything_stale() {
    for seed in 1..4 {
        any_order::<Small>(BbmLevel::Level0, seed, 200);
        any_order::<Small>(BbmLevel::Level2, seed + 10, 200);
    }
}
