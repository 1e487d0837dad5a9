//! A kernel's side of `early_mmu`: how it sees tables, where frames come from, and what executes flushes.
//!
//! Physical memory is a static here, seen at an offset as through a linear map. `cpu.rs` is as it would be in a
//! kernel; here its instructions are printed.

mod cpu;

use std::cell::Cell;
use std::fmt;
use std::sync::atomic::AtomicU64;

use cpu::Cpu;

use early_mmu::{
    BbmLevel, BreakBeforeMake, Flags, Granule4K, MapError, Mapping, PAGE_KERNEL, PAGE_KERNEL_RO,
    PageTable, PhysAddr, ReservedFrames, TableAlloc, TableMemory, TlbMaintenance, VaRange,
    VirtAddr,
};

type G = Granule4K<48>;
type Table = [AtomicU64; 512];

const FRAMES: usize = 16;

/// The RAM that tables live in.
#[repr(C, align(4096))]
struct Ram([Table; FRAMES]);

static RAM: Ram = Ram([const { [const { AtomicU64::new(0) }; 512] }; FRAMES]);

/// Where that RAM is for the table walker, and where frames end.
const RAM_START: u64 = 0x4000_0000;
const RAM_END: u64 = RAM_START + (FRAMES as u64) * 4096;

/// The kernel's view of physical memory: its linear map.
#[derive(Clone, Copy)]
struct LinearMap;

impl TableMemory<G> for LinearMap {
    /// Only an address: a frame becomes a table where it is.
    type Frame = Frame;

    // A descriptor may be damaged: what lies outside of RAM is no table.
    fn table(&self, pa: PhysAddr) -> Option<&Table> {
        let offset = pa.checked_sub(PhysAddr::new(RAM_START))?;
        RAM.0.get((offset / 4096) as usize)
    }

    /// A kernel that takes `&'static mut Table` for a frame needs nothing here; this one wrote its frame
    /// elsewhere, so as to do without `unsafe`.
    fn publish(&self, pa: PhysAddr, frame: Frame) {
        for (to, from) in self.table(pa).into_iter().flatten().zip(frame.0.iter()) {
            to.store(
                from.load(std::sync::atomic::Ordering::Relaxed),
                std::sync::atomic::Ordering::Relaxed,
            );
        }
    }

    fn before_link(&self) {
        Cpu.store_barrier();
    }
}

struct Frame(Box<Table>);

impl std::ops::Deref for Frame {
    type Target = Table;
    fn deref(&self) -> &Table {
        &self.0
    }
}

impl std::ops::DerefMut for Frame {
    fn deref_mut(&mut self) -> &mut Table {
        &mut self.0
    }
}

/// Free frames: those never used, and those that were given back.
struct FrameList {
    next: u64,
    given_back: Vec<PhysAddr>,
}

impl TableAlloc for FrameList {
    type Frame = Frame;
    type Reserved<'a> = &'a mut FrameList;

    // Nothing is set aside, only counted: nobody else takes frames until the call returns.
    fn reserve(&mut self, needed: usize) -> Result<&mut FrameList, MapError> {
        let available = (RAM_END - self.next) as usize / 4096 + self.given_back.len();
        if needed > available {
            return Err(MapError::OutOfFrames { needed, available });
        }
        Ok(self)
    }
}

impl ReservedFrames for &mut FrameList {
    type Frame = Frame;

    fn take(&mut self) -> (PhysAddr, Frame) {
        let pa = self.given_back.pop().unwrap_or_else(|| {
            self.next += 4096;
            PhysAddr::new(self.next - 4096)
        });
        (pa, Frame(Box::new([const { AtomicU64::new(0) }; 512])))
    }
}

thread_local!(static EXECUTED: Cell<usize> = const { Cell::new(0) });

/// Where there is no bare metal, this is all that an instruction does.
fn print(instruction: fmt::Arguments<'_>) {
    EXECUTED.set(EXECUTED.get() + 1);
    println!("    {instruction}");
}

fn main() -> Result<(), MapError> {
    let mut frames = FrameList {
        next: RAM_START + 4096,
        given_back: vec![],
    };
    // The first frame is the root, all zeroes.
    let mut tables = PageTable::<G, _>::new(PhysAddr::new(RAM_START), VaRange::Upper, LinearMap);
    let base = VaRange::Upper.base::<G>();

    println!("map 1 GiB before the MMU is on: no walker looks, so nothing is flushed");
    let ram = Mapping {
        va: base,
        pa: PhysAddr::new(0x4000_0000),
        size_bytes: 1 << 30,
        prot: PAGE_KERNEL,
    };
    let flush = tables.create_mapping(ram, Flags::NONE, &mut frames)?;
    flush.ignore_because("the MMU is off");

    println!("live: one page read-only, for which the block is split, break before make");
    let live = BreakBeforeMake::new(&Cpu, BbmLevel::Level0);
    let page = base.checked_add(0x20_0000).expect("below the top");
    let flush = tables.update_mapping_prot_splitting(
        page,
        4096,
        PAGE_KERNEL_RO,
        Flags::NONE,
        &mut frames,
        live,
    )?;
    flush.execute(&Cpu);
    let row = tables.regions().find(|region| region.va == page);
    assert_eq!(row.map(|region| region.size_bytes), Some(4096));

    println!("unmap all: the tables are free once no walker knows the way to them");
    let retired = tables.unmap(base, 1 << 30)?;
    let count = retired.table_count();
    frames.given_back.extend(retired.execute(&Cpu));
    println!("{count} frames are back");
    assert_eq!((count, frames.given_back.len()), (3, 3));
    assert_eq!(tables.translate(VirtAddr::new(page.as_u64())), None);
    assert_ne!(EXECUTED.get(), 0);
    Ok(())
}
