//! One answer for many entries, where one fits: without it all comes to the same, and takes far longer, so only a
//! look at the answers sees that it is given.

use core::sync::atomic::AtomicU64;

use super::{Edit, Link, Map, Protect, Survey};
use crate::descriptor as bits;
use crate::geometry::{Geometry, Level};
use crate::span::Span;
use crate::unmap::Unmap;
use crate::{
    Flags, Granule4K, Mapping, PAGE_KERNEL, PAGE_KERNEL_RO, PAGE_KERNEL_ROX, PROT_DEVICE_nGnRE,
    PhysAddr, Prot, VirtAddr,
};

type G = Granule4K<48>;
const PAGE: u64 = bits::TABLE_OR_PAGE;

#[derive(Debug, PartialEq, Eq)]
enum Answer {
    Keep,
    AllNew,
    AllChange,
    None,
}
use Answer::{AllChange, AllNew, Keep};

/// The answer for entries at `level`, the first of which has this index.
fn ask(edit: &dyn Edit<G>, level: Level, index: u64, entries: &[u64]) -> Answer {
    let mut table = [const { AtomicU64::new(0) }; 16];
    let table = &mut table[..entries.len()];
    for (entry, bits) in table.iter_mut().zip(entries) {
        *entry.get_mut() = *bits;
    }
    match edit.survey(level, index << G::entry_shift(level), table) {
        Some(Survey::Keep) => Keep,
        Some(Survey::AllNew) => AllNew,
        Some(Survey::AllChange) => AllChange,
        None => Answer::None,
    }
}

/// Sixteen pages with these bits.
fn pages(bits: u64) -> [u64; 16] {
    let mut next = 0x4000_0000 | bits | PAGE;
    [(); 16].map(|()| {
        let this = next;
        next += 0x1000;
        this
    })
}

/// The same with one that differs.
fn but(mut pages: [u64; 16], different: u64) -> [u64; 16] {
    pages[7] = different;
    pages
}

#[test]
fn protect() {
    let protect = |prot: Prot, level, index, entries: &[u64]| {
        ask(&Protect::new::<G>(prot), level, index, entries)
    };
    let (rw, ro) = (PAGE_KERNEL.bits(), PAGE_KERNEL_RO.bits());
    let read_only = |entries: &[u64]| protect(PAGE_KERNEL_RO, 3, 0, entries);
    assert_eq!(read_only(&pages(rw)), AllChange);
    assert_eq!(read_only(&pages(rw | bits::DBM)), AllChange);
    assert_eq!(read_only(&pages(ro)), Keep);
    assert_eq!(
        read_only(&but(pages(ro), ro | bits::SOFTWARE | bits::NG | PAGE)),
        Keep
    );
    // Some change, and some do not.
    assert_eq!(read_only(&but(pages(ro), rw | PAGE)), Answer::None);
    assert_eq!(read_only(&but(pages(rw), ro | PAGE)), Answer::None);
    // All change, though not all in the same bits.
    let mixed = but(pages(rw), ro | PAGE);
    assert_eq!(protect(PAGE_KERNEL_ROX, 3, 0, &mixed), AllChange);
    assert_eq!(
        protect(PAGE_KERNEL, 3, 0, &pages(PAGE_KERNEL_ROX.bits())),
        AllChange
    );
    // Not for the survey to decide: holes, other memory, what is no access, what the level does not have.
    for odd in [
        0,
        rw,
        rw | bits::BLOCK,
        PROT_DEVICE_nGnRE.bits() | PAGE,
        rw & !bits::AF | PAGE,
    ] {
        assert_eq!(read_only(&but(pages(rw), odd)), Answer::None, "{odd:#x}");
        assert_eq!(read_only(&[odd; 16]), Answer::None, "{odd:#x}");
    }
    let block = [rw | bits::BLOCK; 16];
    let levels = [0, 1, 2, 3].map(|level| protect(PAGE_KERNEL_RO, level, 0, &block));
    assert_eq!(levels, [Answer::None, AllChange, AllChange, Answer::None]);
    assert_eq!(protect(PAGE_KERNEL_RO, 2, 0, &pages(rw)), Answer::None);
    // Runs: whole, from their beginning.
    let run = pages(rw | bits::CONTIGUOUS);
    assert_eq!(read_only(&run), AllChange);
    assert_eq!(protect(PAGE_KERNEL_RO, 3, 32, &run), AllChange);
    assert_eq!(protect(PAGE_KERNEL_RO, 3, 8, &run), Answer::None);
    assert_eq!(read_only(&run[..8]), Answer::None);
    assert_eq!(protect(PAGE_KERNEL_RO, 3, 8, &run[..8]), Answer::None);
    assert_eq!(protect(PAGE_KERNEL_RO, 3, 8, &pages(rw)[..8]), AllChange);
}

#[test]
fn unmap() {
    let rw = PAGE_KERNEL.bits();
    let unmap = |index, entries: &[u64]| ask(&Unmap, 3, index, entries);
    assert_eq!(unmap(0, &pages(rw)), AllChange);
    assert_eq!(unmap(0, &[0; 16]), Keep);
    assert_eq!(unmap(0, &[!bits::VALID; 16]), Keep);
    for odd in [0, rw, rw | bits::BLOCK] {
        assert_eq!(unmap(0, &but(pages(rw), odd)), Answer::None, "{odd:#x}");
    }
    assert_eq!(unmap(0, &[rw | bits::BLOCK; 16]), Answer::None);
    assert_eq!(ask(&Unmap, 2, 0, &[rw | bits::BLOCK; 16]), Answer::None);
    assert_eq!(ask(&Unmap, 2, 0, &pages(rw)), Answer::None);
    let run = pages(rw | bits::CONTIGUOUS);
    assert_eq!(unmap(16, &run), AllChange);
    assert_eq!(unmap(8, &run), Answer::None);
    assert_eq!(unmap(8, &pages(rw)[..8]), AllChange);
    assert_eq!(unmap(0, &run[..8]), Answer::None);
}

#[test]
fn map() {
    let request = Mapping {
        va: VirtAddr::new(0),
        pa: PhysAddr::new(0x4000_0000),
        size_bytes: 16 << 12,
        prot: PAGE_KERNEL,
    };
    let span = Span {
        ia: 0,
        end: 16 << 12,
    };
    let map = Map::new::<G>(&request, span, Flags::NO_BLOCK);
    let survey = |entries: &[u64]| ask(&map, 3, 0, entries);
    let rw = PAGE_KERNEL.bits();
    assert_eq!(survey(&[0; 16]), AllNew);
    assert_eq!(survey(&[!bits::VALID; 16]), AllNew);
    assert_eq!(survey(&pages(rw)), Keep);
    assert_eq!(survey(&pages(rw | bits::CONTIGUOUS)), Keep);
    assert_eq!(survey(&but(pages(rw), 0)), Answer::None);
    assert_eq!(survey(&but(pages(rw), rw | PAGE)), Answer::None);
    // Other rights, for all: the run keeps its hint, and is whole.
    let ro = PAGE_KERNEL_RO.bits();
    let run = pages(ro | bits::CONTIGUOUS);
    assert_eq!(survey(&run), AllChange);
    assert_eq!(survey(&pages(ro)), Answer::None);
    assert_eq!(survey(&but(run, pages(ro)[7])), Answer::None);
    assert_eq!(
        survey(&but(run, pages(rw | bits::CONTIGUOUS)[7])),
        Answer::None
    );
    assert_eq!(survey(&run[..8]), Answer::None);
    assert_eq!(
        ask(&map, 3, 16, &run.map(|bits| bits + (16 << 12))),
        AllChange
    );
    assert_eq!(
        ask(&map, 3, 8, &run.map(|bits| bits + (8 << 12))),
        Answer::None
    );
    let single = Map::new::<G>(&request, span, Flags::NO_BLOCK | Flags::NO_CONT);
    assert_eq!(ask(&single, 3, 0, &pages(ro)), AllChange);
    assert_eq!(ask(&single, 3, 0, &run), Answer::None);
    // What needs an invalid entry in between is not for the survey, nor is another address.
    for bits in [PROT_DEVICE_nGnRE.bits(), ro & !bits::AF, ro | 1 << 31] {
        assert_eq!(ask(&single, 3, 0, &pages(bits)), Answer::None, "{bits:#x}");
    }
    // At a level where tables lead to them nothing is known.
    assert_eq!(ask(&map, 2, 0, &[0; 16]), Answer::None);
}

#[test]
fn link() {
    assert_eq!(ask(&Link, 3, 0, &[0; 16]), Keep);
    assert_eq!(ask(&Link, 2, 0, &[0; 16]), Answer::None);
}
