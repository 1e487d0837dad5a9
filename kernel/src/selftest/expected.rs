//! What the kernel's address space should look like, from the layout, the
//! device tree and the command line alone.

use alloc::vec::Vec;

use early_mmu::{PAGE_KERNEL, PAGE_KERNEL_RO, PROT_DEVICE_nGnRE, Prot};
use platform::cmdline::RodataMode;
use platform::range::PhysRange;

use super::Context;
use crate::mm::fixmap;
use crate::mm::image::{self, Segment};
use crate::mm::layout::PAGE_SIZE;

/// A range with one protection that must be mapped to consecutive memory.
#[derive(Clone, Copy, Debug)]
pub struct Expected {
    pub name: &'static str,
    pub va: u64,
    pub pa: u64,
    pub size_bytes: u64,
    pub prot: Prot,
}

impl Expected {
    /// The last page.
    pub fn last_page(&self) -> u64 {
        self.va + (self.size_bytes - PAGE_SIZE)
    }

    fn covers(&self, va: u64) -> bool {
        va.checked_sub(self.va)
            .is_some_and(|offset| offset < self.size_bytes)
    }

    /// What `va`, which it covers, translates to.
    pub fn pa_of(&self, va: u64) -> u64 {
        self.pa + (va - self.va)
    }
}

/// Every range that must be mapped; all else must not be.
pub fn address_space(context: &Context<'_>) -> Vec<Expected> {
    let mut all = image_segments(context);
    all.extend(linear_map(context));
    all.extend(fixmap_slots(context));
    all
}

/// The range that covers `va`, if it should be mapped.
pub fn lookup(all: &[Expected], va: u64) -> Option<&Expected> {
    all.iter().find(|expected| expected.covers(va))
}

fn image_segments(context: &Context<'_>) -> Vec<Expected> {
    let writable_rodata = context.boot.options.rodata == RodataMode::Off;
    let expected = |segment: Segment| Expected {
        name: segment.name,
        va: segment.va(),
        pa: context.boot.image_pa + segment.start,
        size_bytes: segment.size_bytes(),
        prot: match segment.name {
            "rodata" if writable_rodata => PAGE_KERNEL,
            _ => segment.prot,
        },
    };
    image::segments().into_iter().map(expected).collect()
}

/// Each bank in pieces: the alias of text and rodata is apart.
fn linear_map(context: &Context<'_>) -> Vec<Expected> {
    let boot = context.boot;
    let text = image::text().phys(boot.image_pa);
    let rodata = image::rodata().phys(boot.image_pa);
    let prot = |piece: PhysRange| {
        if text.contains(piece) || rodata.contains(piece) {
            PAGE_KERNEL_RO
        } else {
            PAGE_KERNEL
        }
    };
    let reach = boot.linear.reach(boot.pa_bits);
    let mut all = Vec::new();
    for part in boot
        .firmware
        .memblock
        .mappable(PAGE_SIZE)
        .filter_map(|part| part.intersect(reach))
    {
        let inner = [text.start, text.end, rodata.end].into_iter();
        let inner = inner.filter(|&cut| part.start < cut && cut < part.end);
        let mut start = part.start;
        for end in inner.chain([part.end]) {
            let piece = PhysRange { start, end };
            all.push(Expected {
                name: "linear map",
                va: boot.linear.virt(start),
                pa: start,
                size_bytes: piece.size_bytes(),
                prot: prot(piece),
            });
            start = end;
        }
    }
    all
}

fn fixmap_slots(context: &Context<'_>) -> Vec<Expected> {
    let boot = context.boot;
    let fdt = boot.fdt.align_outward(PAGE_SIZE);
    let mut all = alloc::vec![Expected {
        name: "fixmap: device tree",
        va: fixmap::FIX_FDT,
        pa: fdt.start,
        size_bytes: fdt.size_bytes(),
        prot: PAGE_KERNEL_RO,
    }];
    let device = |name, va, pa: Option<u64>| {
        pa.map(|pa| Expected {
            name,
            va,
            pa: fixmap::page_of(pa),
            size_bytes: PAGE_SIZE,
            prot: PROT_DEVICE_nGnRE,
        })
    };
    let (uart, manager) = (boot.firmware.uart, boot.firmware.power_manager);
    all.extend(device("fixmap: console", fixmap::FIX_EARLYCON, uart));
    all.extend(device("fixmap: power manager", fixmap::FIX_POWER, manager));
    all
}
