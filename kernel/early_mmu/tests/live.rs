//! Live tables seen through a TLB that keeps all it may: what a walker could ever have read stays until
//! it is invalidated, and may meet nothing that contradicts it.

mod support;

use std::cell::RefCell;

use early_mmu::{
    BbmLevel, BreakBeforeMake, Descriptor, Flags, Granule4K, MapError, Mapping, PAGE_KERNEL,
    PAGE_KERNEL_RO, PAGE_KERNEL_ROX, PhysAddr, Prot, TlbMaintenance, VaRange, VirtAddr,
};
use support::arm_walk::{Regime, Translation};
use support::run::regime;
use support::{
    G48, GIB, KIB, MIB, Memory, NoTlb, Pool, Small, Tables, TestGeometry, UPPER, frames, map,
    mapping, refused, upper, va,
};

type Snapshot = Vec<Option<Vec<u64>>>;

/// The TLB, and the order in which it was talked to.
struct Greedy<'m, G: TestGeometry> {
    memory: &'m Memory<G>,
    regime: Regime,
    level: BbmLevel,
    pages: u64,
    state: RefCell<State>,
}

struct State {
    /// What may be cached for each page.
    cached: Vec<Vec<Translation>>,
    /// The tables when they were last ordered before what follows.
    ordered: Snapshot,
    /// The tables when an invalidation began that is not complete.
    invalidating: Option<Snapshot>,
    breaks: usize,
}

impl<'m, G: TestGeometry> Greedy<'m, G> {
    fn new(memory: &'m Memory<G>, pages: u64, level: BbmLevel) -> Self {
        let state = State {
            cached: vec![vec![]; pages as usize],
            ordered: memory.snapshot(),
            invalidating: None,
            breaks: 0,
        };
        let greedy = Self {
            memory,
            regime: regime::<G>(memory, VaRange::Upper),
            level,
            pages,
            state: RefCell::new(state),
        };
        greedy.look();
        greedy
    }

    fn va(&self, page: u64) -> u64 {
        (u64::MAX << G::VA_BITS) + page * G::GRANULE_BYTES
    }

    fn walk(&self, page: u64) -> Option<Translation> {
        let read = |pa| self.memory.read(pa);
        self.regime.translate(self.va(page), read).ok()
    }

    /// Caches all there is, and compares it with all there was.
    fn look(&self) {
        let mut state = self.state.borrow_mut();
        if let Some(before) = &state.invalidating {
            assert!(
                *before == self.memory.snapshot(),
                "written to before the invalidation was complete"
            );
        }
        for page in 0..self.pages {
            let Some(new) = self.walk(page) else {
                continue;
            };
            let cached = &mut state.cached[page as usize];
            for old in cached.iter() {
                assert!(
                    self.agree(old, &new),
                    "page {page}: {new:x?} while a TLB may have {old:x?}"
                );
            }
            if !cached.contains(&new) {
                cached.push(new);
            }
        }
    }

    fn agree(&self, old: &Translation, new: &Translation) -> bool {
        if (old.level, old.contiguous) == (new.level, new.contiguous) {
            // Permissions may change, and nothing else.
            let rights = Translation {
                el1_write: new.el1_write,
                el1_execute: new.el1_execute,
                ..*old
            };
            return rights == *new;
        }
        let resized = Translation {
            level: new.level,
            contiguous: new.contiguous,
            ..*old
        };
        self.level == BbmLevel::Level2 && resized == *new
    }

    fn invalidate(&self, operand: u64) {
        self.look();
        let mut state = self.state.borrow_mut();
        let now = self.memory.snapshot();
        assert!(
            state.ordered == now,
            "invalidated before the new entries were visible"
        );
        state.invalidating = Some(now);
        let at = ((operand << 20) as i64 >> 8) as u64;
        for page in 0..self.pages {
            let va = self.va(page);
            state.cached[page as usize].retain(|leaf| {
                let bytes = G::entry_bytes(leaf.level as i8);
                va / bytes != at / bytes
            });
        }
    }

    /// After an operation and its flush: nothing is left that the tables do not say.
    fn nothing_is_stale(&self) {
        self.look();
        let state = self.state.borrow();
        assert!(state.invalidating.is_none());
        for (pa, (ordered, now)) in state.ordered.iter().zip(self.memory.snapshot()).enumerate() {
            let visible = now.is_none() || *ordered == now || self.memory.is_freed(pa);
            assert!(visible, "table {pa} was written to after the last barrier");
        }
        for page in 0..self.pages {
            let now: Vec<_> = self.walk(page).into_iter().collect();
            assert_eq!(state.cached[page as usize], now, "page {page}");
        }
    }
}

impl<G: TestGeometry> TlbMaintenance for Greedy<'_, G> {
    fn store_barrier(&self) {
        self.look();
        let mapped = (0..self.pages)
            .filter(|&page| self.walk(page).is_some())
            .count();
        let cached = |state: &State| state.cached.iter().filter(|page| !page.is_empty()).count();
        let mut state = self.state.borrow_mut();
        if mapped < cached(&state) {
            state.breaks += 1;
        }
        state.ordered = self.memory.snapshot();
    }
    fn invalidate_leaf(&self, operand: u64) {
        self.invalidate(operand);
    }
    fn invalidate_walk(&self, operand: u64) {
        self.invalidate(operand);
    }
    fn invalidate_all(&self) {
        (0..self.pages).for_each(|page| self.invalidate(self.va(page) >> 12 & 0xfff_ffff_ffff));
    }
    fn completion_barrier(&self) {
        self.look();
        self.state.borrow_mut().invalidating = None;
    }
    fn context_synchronization(&self) {
        self.look();
        let state = self.state.borrow();
        assert!(
            state.invalidating.is_none(),
            "not waited for the invalidation"
        );
        assert!(state.ordered == self.memory.snapshot(), "not visible yet");
    }
}

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
    let tlb = Greedy::new(&memory, PAGES, level);
    let live = BreakBeforeMake::new(&tlb, level);
    let mut numbers = Numbers(seed);
    let mut done = [0; 7];
    let mut breaks = 0;
    for _ in 0..steps {
        let grain = [1, 4, 8, 64][numbers.below(4) as usize];
        let first = numbers.below(PAGES) / grain * grain;
        let count = (numbers.below(160) + 1)
            .next_multiple_of(grain)
            .min(PAGES - first);
        let start = VirtAddr::new(tlb.va(first));
        let size = count * bytes;
        let prot = [PAGE_KERNEL, PAGE_KERNEL_RO, PAGE_KERNEL_ROX][numbers.below(3) as usize];
        let mut pool = Pool::<G>::new(used, 300);
        let kind = (numbers.below(90) / 10) as usize % 7;
        let breaks_before = tlb.state.borrow().breaks;
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
                memory.take_back(retired.execute(&tlb));
                flush
            }),
            5 => tables.unmap_keeping_tables(start, size),
            _ => tables.merge(start, size, Flags::NONE, live).map(|retired| {
                let flush = *retired.flush();
                memory.take_back(retired.execute(&tlb));
                flush
            }),
        };
        // What changes sizes only takes mappings away at level 0.
        if matches!(kind, 2 | 3 | 6) {
            breaks += tlb.state.borrow().breaks - breaks_before;
        }
        if let Ok(flush) = result {
            flush.execute(&tlb);
            done[kind] += 1;
        }
        tlb.nothing_is_stale();
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

/// The part of one block, at each level of blocks: nothing else changes, and frames are counted.
#[test]
fn a_part_of_a_block_gets_rights_of_its_own() {
    for (block, part, tables_used) in [
        (2 * MIB, 4 * KIB, 1),
        (GIB, 4 * KIB, 2),
        (GIB, 2 * MIB, 1),
        (GIB, 64 * KIB, 2),
    ] {
        for at in [0, part, block / 2, block - part] {
            let memory = Memory::<G48>::new(16);
            let mut tables = upper(&memory);
            let whole = mapping(UPPER, 0, block, PAGE_KERNEL);
            let _ = map(&mut tables, &mut frames(1, 3), whole, Flags::NO_CONT);
            let live = BreakBeforeMake::new(&NoTlb, BbmLevel::Level0);
            let start = va(UPPER + at);
            let needed = tables.tables_needed_to_split(start, part, Flags::NONE);
            assert_eq!(needed, Ok(tables_used));
            let mut short: Pool<G48> = frames(8, tables_used - 1);
            let error = refused(&mut tables, |t| {
                t.update_mapping_prot_splitting(
                    start,
                    part,
                    PAGE_KERNEL_RO,
                    Flags::NONE,
                    &mut short,
                    live,
                )
            });
            assert!(matches!(error, MapError::OutOfFrames { .. }), "{error}");
            let mut pool = frames(8, tables_used);
            let _ = tables
                .update_mapping_prot_splitting(
                    start,
                    part,
                    PAGE_KERNEL_RO,
                    Flags::NONE,
                    &mut pool,
                    live,
                )
                .expect("frames");
            memory.check();
            assert_eq!(pool.len(), 0);
            let read_only = tables.regions().filter(|r| !r.attributes.is_writable());
            assert_eq!(
                read_only.map(|r| (r.va, r.size_bytes)).collect::<Vec<_>>(),
                [(start, part)]
            );
            for offset in
                (0..block)
                    .step_by(64 * KIB as usize)
                    .chain([at, at + part - 1, block - 1])
            {
                assert_eq!(
                    tables.translate(va(UPPER + offset)),
                    Some(PhysAddr::new(offset))
                );
            }
            // And back to one block, with every table returned.
            let _ = tables
                .update_mapping_prot(whole.va, block, PAGE_KERNEL)
                .expect("whole leaves");
            let retired = tables
                .merge(whole.va, block, Flags::NONE, live)
                .expect("range");
            assert_eq!(retired.table_count(), tables_used);
            assert_eq!(memory.take_back(retired.execute(&NoTlb)), tables_used);
            memory.check();
            let regions: Vec<_> = tables.regions().collect();
            assert_eq!((regions.len(), regions[0].leaf_bytes), (1, block));
        }
    }
}

/// Two peers lost what lay around the part that was unmapped, one only told so by a panic.
#[test]
fn unmapping_a_part_of_a_block_is_refused_until_it_is_split() {
    let memory = Memory::<G48>::new(16);
    let mut tables = upper(&memory);
    let block = mapping(UPPER, 0, 2 * MIB, PAGE_KERNEL);
    let _ = map(&mut tables, &mut frames(1, 3), block, Flags::NONE);
    let before = memory.snapshot();
    let error = tables.unmap(block.va, 4 * KIB).err().expect("a part");
    assert!(
        matches!(error, MapError::WouldSplitBlock { level: 2, .. }),
        "{error}"
    );
    assert!(before == memory.snapshot());
    let live = BreakBeforeMake::new(&NoTlb, BbmLevel::Level0);
    let split = tables.split(block.va, 4 * KIB, Flags::NONE, &mut frames(8, 1), live);
    assert!(
        split.expect("frame").is_nothing(),
        "the sequence has flushed"
    );
    let error = tables
        .unmap(va(UPPER + 64 * KIB), 4 * KIB)
        .err()
        .expect("a part of a run");
    assert!(
        matches!(error, MapError::WouldSplitRun { level: 3, .. }),
        "{error}"
    );
    let retired = tables.unmap(block.va, 4 * KIB).expect("a page");
    assert_eq!(retired.table_count(), 0);
    retired.flush().ignore_because("nobody walks them");
    assert_eq!(tables.translate(block.va), None);
    let rest = va(UPPER + 4 * KIB);
    assert_eq!(tables.translate(rest), Some(PhysAddr::new(4 * KIB)));
    let retired = tables.unmap(rest, 2 * MIB - 4 * KIB).expect("the rest");
    assert_eq!(retired.table_count(), 3);
    let stale = retired.flush().stale().expect("all");
    assert!(!stale.last_level_only, "ways to tables are stale too");
    memory.take_back(retired.execute(&NoTlb));
    memory.check();
    assert_eq!(memory.table_count(), 1);
}

/// Tables that are there for calls that must not allocate survive an unmapping that keeps them.
#[test]
fn tables_can_be_kept() {
    let memory = Memory::<G48>::new(16);
    let mut tables = upper(&memory);
    let _ = tables
        .create_tables(va(UPPER), 4 * MIB, &mut frames(1, 8))
        .expect("frames");
    let page = mapping(UPPER + 2 * MIB, 0, 4 * KIB, PAGE_KERNEL);
    let _ = tables
        .create_mapping_noalloc(page, Flags::NONE)
        .expect("tables are there");
    let flush = tables
        .unmap_keeping_tables(va(UPPER), 4 * MIB)
        .expect("whole pages");
    assert_eq!(
        flush
            .stale()
            .map(|stale| (stale.first, stale.last_level_only)),
        Some((page.va, true))
    );
    assert!(
        tables
            .unmap_keeping_tables(va(UPPER), 4 * MIB)
            .expect("holes")
            .is_nothing()
    );
    let _ = tables
        .create_mapping_noalloc(page, Flags::NONE)
        .expect("tables are there");
    // Empty tables go as well, and the ways to them are flushed.
    let _ = tables
        .unmap_keeping_tables(va(UPPER), 4 * MIB)
        .expect("whole pages");
    let retired = tables.unmap(va(UPPER), 4 * MIB).expect("empty");
    assert_eq!(retired.table_count(), 4);
    assert!(
        retired
            .flush()
            .stale()
            .is_some_and(|stale| !stale.last_level_only)
    );
    let freed: Vec<_> = retired.execute(&NoTlb).collect();
    assert_eq!(freed.len(), 4);
}

/// A table's limits go into the block that replaces it.
#[test]
fn a_block_keeps_what_its_table_forbade() {
    let memory = Memory::<G48>::new(16);
    let mut tables = upper(&memory);
    let data = mapping(UPPER, 0, 2 * MIB, PAGE_KERNEL_RO);
    let _ = map(
        &mut tables,
        &mut frames(1, 3),
        data,
        Flags::NO_BLOCK | Flags::NO_EXEC,
    );
    let live = BreakBeforeMake::new(&NoTlb, BbmLevel::Level0);
    let retired = tables
        .merge(data.va, 2 * MIB, Flags::NONE, live)
        .expect("range");
    assert_eq!(retired.execute(&NoTlb).count(), 1);
    let leaf = tables.walk(data.va).leaf().expect("mapped");
    assert_eq!(
        (leaf.level, Prot::of(leaf.descriptor)),
        (2, Some(PAGE_KERNEL_RO))
    );
    let text = mapping(UPPER + 4 * MIB, 4 * MIB, 2 * MIB, PAGE_KERNEL_ROX);
    let error = tables.create_mapping(text, Flags::NO_EXEC, &mut frames(8, 1));
    assert!(
        matches!(error, Err(MapError::DeniedByTable { .. })),
        "{error:?}"
    );
}

/// Splitting what is executable with tables that forbid it would take the right away.
#[test]
fn no_exec_tables_do_not_replace_executable_blocks() {
    let memory = Memory::<Granule4K<39>>::new(16);
    let mut tables: Tables<'_, Granule4K<39>> = upper(&memory);
    let text = Mapping {
        va: VaRange::Upper.base::<Granule4K<39>>(),
        pa: PhysAddr::new(0),
        size_bytes: 2 * MIB,
        prot: PAGE_KERNEL_ROX,
    };
    let _ = tables
        .create_mapping(text, Flags::NONE, &mut Pool::<Granule4K<39>>::new(1, 2))
        .expect("map");
    let live = BreakBeforeMake::new(&NoTlb, BbmLevel::Level0);
    let error = refused(&mut tables, |t| {
        t.split(
            text.va,
            4 * KIB,
            Flags::NO_EXEC,
            &mut Pool::<Granule4K<39>>::new(8, 2),
            live,
        )
    });
    assert!(
        matches!(error, MapError::DeniedByTable { level: 2, .. }),
        "{error}"
    );
    let _ = tables
        .split(
            text.va,
            4 * KIB,
            Flags::NO_CONT,
            &mut Pool::<Granule4K<39>>::new(8, 2),
            live,
        )
        .expect("frames");
    let leaf = tables.walk(text.va).leaf().expect("mapped");
    let page = Descriptor::leaf::<Granule4K<39>>(3, text.pa, PAGE_KERNEL_ROX.bits());
    assert_eq!(leaf.descriptor, page);
    assert!(tables.regions().all(|r| !r.attributes.is_contiguous()));
}
