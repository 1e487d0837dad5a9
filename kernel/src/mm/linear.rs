//! The linear map: all RAM at PAGE_OFFSET, in the largest blocks that fit.

use early_mmu::{Flags, MapError, Mapping, PAGE_KERNEL, PhysAddr, VirtAddr};
use platform::cmdline::{LinearMode, Options, RodataMode};
use platform::memblock::Memblock;
use platform::range::PhysRange;

use super::KernelTables;
use super::frames::Frames;
use super::image;
use super::layout::{PAGE_END, PAGE_OFFSET, PAGE_SIZE};

/// Alignment of what PAGE_OFFSET maps: the largest block or contiguous run that RAM
/// can need (a level-1 block with 4 KiB pages, 32 level-2 blocks with 16 KiB).
const MEMSTART_ALIGN: u64 = 1 << 30;

/// Where RAM is mapped.
#[derive(Clone, Copy, Debug)]
pub struct LinearMap {
    /// What PAGE_OFFSET maps: below all RAM, and aligned so that virtual and
    /// physical addresses are aligned alike.
    memstart: u64,
    /// RAM that is too far up to be mapped, in bytes.
    pub clipped_bytes: u64,
}

impl LinearMap {
    /// Maps nothing; for a static.
    pub const fn new() -> Self {
        Self {
            memstart: 0,
            clipped_bytes: 0,
        }
    }

    /// The map for these banks.
    pub fn for_banks(memblock: &Memblock, pa_bits: u32) -> Self {
        let lowest = memblock
            .memory
            .as_slice()
            .first()
            .map_or(0, |bank| bank.start);
        let mut map = Self {
            memstart: lowest & !(MEMSTART_ALIGN - 1),
            clipped_bytes: 0,
        };
        let reach = map.reach(pa_bits);
        let inside = |bank: &PhysRange| bank.intersect(reach).map_or(0, PhysRange::size_bytes);
        map.clipped_bytes = memblock
            .memory
            .as_slice()
            .iter()
            .map(|bank| bank.size_bytes() - inside(bank))
            .sum();
        map
    }

    /// The physical addresses that the linear region and the CPU can hold.
    pub fn reach(self, pa_bits: u32) -> PhysRange {
        let region_end = self.memstart.saturating_add(PAGE_END - PAGE_OFFSET);
        PhysRange {
            start: self.memstart,
            end: region_end.min(1 << pa_bits),
        }
    }

    /// What to add (wrapping) to a physical address for its virtual one.
    pub fn offset(self) -> u64 {
        PAGE_OFFSET.wrapping_sub(self.memstart)
    }

    /// Virtual address of RAM. Linux: `__va`.
    pub fn virt(self, pa: u64) -> u64 {
        pa.wrapping_add(self.offset())
    }
}

/// Maps all RAM, as `memory` has it, read-write, never executable.
///
/// Leaves end where the image's read-only part does, so that `update_mapping_prot`
/// of its alias needs no block split later.
///
/// # Errors
/// What `create_mapping` refused, and where.
pub fn map(
    tables: &mut KernelTables,
    frames: &mut Frames<'_>,
    memory: &Memblock,
    linear: LinearMap,
    reach: PhysRange,
    image_pa: u64,
    options: &Options,
) -> Result<(), (PhysRange, MapError)> {
    let pages_only = options.linear == LinearMode::Page || options.rodata == RodataMode::Full;
    let blocks = if pages_only {
        Flags::NO_BLOCK
    } else {
        Flags::NONE
    };
    // Nothing in it is ever executed: the tables say so too.
    let flags = blocks | Flags::NO_EXEC;
    let constant = image::read_only().phys(image_pa);
    for part in memory
        .mappable(PAGE_SIZE)
        .filter_map(|part| part.intersect(reach))
    {
        let mut start = part.start;
        for cut in [constant.start, constant.end, part.end] {
            // One outside of what is left cuts nothing off.
            let end = cut.clamp(start, part.end);
            if end == start {
                continue;
            }
            let piece = PhysRange { start, end };
            let mapping = Mapping {
                va: VirtAddr::new(linear.virt(start)),
                pa: PhysAddr::new(start),
                size_bytes: piece.size_bytes(),
                prot: PAGE_KERNEL,
            };
            let flush = tables
                .create_mapping(mapping, flags, frames)
                .map_err(|error| (piece, error))?;
            flush.ignore_because("the MMU is off");
            start = end;
        }
    }
    Ok(())
}
