//! Every public function, once.

use core::fmt::{Display, Write};
use core::hint::black_box;
use core::marker::PhantomData;

use early_mmu::{
    BbmLevel, BreakBeforeMake, Descriptor, Flags, Flush, Geometry, MapError, Mapping, MemType,
    NoAlloc, PageTable, PhysAddr, Prot, Region, TableAlloc, VaRange, VirtAddr, Walk, WalkEnd,
};

use crate::cpu::Cpu;
use crate::outside::{Memory, Outside};

fn print(outside: &Outside, what: impl Display) {
    let _ = write!(&mut outside.clone(), "{what}");
}

fn done(outside: &Outside, result: Result<Flush, MapError>) {
    match result {
        Ok(flush) => {
            print(outside, flush);
            if let Some(stale) = flush.stale() {
                outside.sink(stale.invalidations());
            }
            if outside.word() == 0 {
                flush.ignore_because("nobody runs this");
            } else if !flush.is_nothing() || flush.has_new_entries() {
                flush.merge(flush).execute(outside);
                flush.execute(&Cpu);
            }
        }
        Err(error) => print(outside, error),
    }
}

fn flags(word: u64) -> Flags {
    let mut flags = Flags::NONE;
    for (bit, flag) in [
        Flags::NO_BLOCK,
        Flags::NO_CONT,
        Flags::NO_EXEC,
        Flags::NON_GLOBAL,
    ]
    .into_iter()
    .enumerate()
    {
        if word >> bit & 1 != 0 {
            flags |= flag;
        }
    }
    flags
}

fn prot(word: u64) -> Prot {
    let memory = MemType::from_attr_indx(word >> 2).unwrap_or(MemType::Normal);
    match word & 3 {
        0 => Prot::ReadOnly(memory),
        1 => Prot::ReadWrite(memory),
        _ => Prot::ReadExecute,
    }
}

fn range(word: u64) -> VaRange {
    if word == 0 {
        VaRange::Lower
    } else {
        VaRange::Upper
    }
}

/// What needs no tables.
pub fn values(outside: &Outside) {
    let word = || outside.word();
    let (a, b) = (PhysAddr::new(word()), PhysAddr::new(word()));
    outside.sink(a.checked_add(word()).map_or(0, PhysAddr::as_u64));
    outside.sink(a.checked_sub(b).unwrap_or(0));
    outside.sink(a.align_down(word()).as_u64() + u64::from(a.is_aligned(word())));
    let (a, b) = (VirtAddr::new(word()), VirtAddr::new(word()));
    outside.sink(a.checked_add(word()).map_or(0, VirtAddr::as_u64));
    outside.sink(a.checked_sub(b).unwrap_or(0));
    outside.sink(a.align_down(word()).as_u64() + u64::from(a.is_aligned(word())));
    let memory = prot(word()).mem_type();
    outside
        .sink(u64::from(memory.mair_byte()) + memory.attr_indx() + u64::from(memory.is_device()));
    print(outside, memory.name());
    outside.sink(prot(word()).bits() + u64::from(flags(word()).contains(flags(word()))));
    let (old, new) = (Descriptor::from_bits(word()), Descriptor::from_bits(word()));
    let says = [
        old.is_valid(),
        old.is_writable(),
        old.is_executable(),
        old.is_contiguous(),
        old.may_become(new),
        old.may_become_in_run(new),
        old.mem_type().is_some(),
        Prot::of(old).is_some(),
    ];
    says.into_iter().for_each(|it| outside.sink(it.into()));
    outside.sink(old.below(word()).bits());
    print(outside, old);
    print(outside, a);
    print(outside, PhysAddr::new(word()));
}

/// All that depends on a geometry.
pub fn tables<G: Geometry>(outside: &Outside) {
    let word = || outside.word();
    geometry::<G>(outside);
    let memory = || Memory::<G>(*outside, PhantomData);
    let mut frames = memory();
    let mut tables = PageTable::<G, _>::new(PhysAddr::new(word()), range(word()), memory());
    if word() == 0 {
        tables = tables.with_output_bits(word() as u32);
    }
    outside.sink(tables.root().as_u64() + (tables.range() == VaRange::Lower) as u64);
    black_box(tables.memory());
    let va = VirtAddr::new(word());
    let size = word();
    let mapping = Mapping {
        va,
        pa: PhysAddr::new(word()),
        size_bytes: size,
        prot: prot(word()),
    };
    let level = match word() {
        0 => BbmLevel::Level0,
        1 => BbmLevel::Level1,
        _ => BbmLevel::Level2,
    };
    let live = BreakBeforeMake::new(outside, level);
    let flags = || flags(word());

    outside.sink(tables.tables_needed(mapping, flags()).unwrap_or(0) as u64);
    outside.sink(
        tables
            .tables_needed_to_split(va, size, flags())
            .unwrap_or(0) as u64,
    );
    done(
        outside,
        tables.create_mapping(mapping, flags(), &mut frames),
    );
    done(outside, tables.create_mapping_noalloc(mapping, flags()));
    done(outside, tables.create_tables(va, size, &mut frames));
    done(outside, tables.update_mapping_prot(va, size, prot(word())));
    done(
        outside,
        tables.update_mapping_prot_splitting(va, size, prot(word()), flags(), &mut frames, live),
    );
    done(outside, tables.split(va, size, flags(), &mut frames, live));
    done(outside, tables.unmap_keeping_tables(va, size));
    for retired in [tables.unmap(va, size)] {
        match retired {
            Ok(retired) => {
                print(outside, retired.flush());
                outside.sink(retired.table_count() as u64);
                retired
                    .execute(outside)
                    .for_each(|pa| outside.sink(pa.as_u64()));
            }
            Err(error) => print(outside, error),
        }
    }
    if let Ok(retired) = tables.merge(va, size, flags(), live) {
        let freed = retired.ignore_because("nobody runs this");
        outside.sink(freed.size_hint().0 as u64);
        freed.for_each(|pa| outside.sink(pa.as_u64()));
    }
    outside.sink(tables.translate(va).map_or(0, PhysAddr::as_u64));
    walk(outside, &tables.walk(va));
    tables
        .regions()
        .for_each(|region| self::region(outside, &region));
    nothing_to_allocate::<G>(outside);
}

fn geometry<G: Geometry>(outside: &Outside) {
    let word = || outside.word();
    let (level, pa) = (word() as i8, PhysAddr::new(word()));
    outside.sink(G::encode_output(pa) + G::decode_output(word()).as_u64());
    outside.sink(u64::from(G::entry_shift(level)) + G::entry_bytes(level));
    outside.sink(u64::from(G::run_shift(level)) + G::index(word(), level) as u64);
    outside.sink(range(word()).base::<G>().as_u64());
    outside.sink(Prot::mask_in::<G>() + prot(word()).bits_in::<G>());
    let descriptor = Descriptor::from_bits(word());
    outside.sink(Descriptor::table::<G>(pa).bits());
    outside.sink(Descriptor::leaf::<G>(level, pa, word()).bits());
    outside.sink(descriptor.kind::<G>(level) as u64 + descriptor.output::<G>().as_u64());
    outside.sink(descriptor.attributes::<G>() + descriptor.with_shareability::<G>().bits());
    outside.sink(Prot::of_in::<G>(descriptor).is_some().into());
}

fn walk(outside: &Outside, walk: &Walk) {
    outside.sink(walk.va().as_u64() + walk.pa().map_or(0, PhysAddr::as_u64));
    outside.sink(matches!(walk.end(), WalkEnd::OutsideRange).into());
    outside.sink(walk.leaf().map_or(0, |leaf| leaf.size_bytes));
    for (level, descriptor) in walk.descriptors() {
        outside.sink(level as u64 + descriptor.bits());
    }
}

fn region(outside: &Outside, region: &Region) {
    outside.sink(region.last().as_u64() + u64::from(region.is_writable_and_executable()));
    print(outside, region);
}

fn nothing_to_allocate<G: Geometry>(outside: &Outside) {
    let mut policy = NoAlloc::<&'static mut G::Table>::here();
    let level = outside.word() as i8;
    let missing = policy.missing_table(level, VirtAddr::new(outside.word()));
    done(outside, missing.map(|()| Flush::NOTHING));
    let reserved = policy.reserve(outside.word() as usize);
    done(outside, reserved.map(|_| Flush::NOTHING));
}
