//! Reads the flattened device tree: RAM, reservations, console, PSCI, `/chosen`.
//!
//! The blob is hostile until proven otherwise: its structure is checked once,
//! and every number from it is checked here before it becomes an address. What
//! is done with a tree takes time in proportion to its size, whatever it says.

mod devices;
mod structure;

use core::fmt;

use dtoolkit::fdt::{Fdt, FdtNode, FdtProperty};
use dtoolkit::{Cells, Node, Property};

use devices::{find_console, find_power_manager, find_psci};
pub use structure::Malformed;
use structure::{Header, check};

use crate::cmdline::CommandLine;
use crate::memblock::{MAX_RANGES, Memblock};
use crate::range::{ListFull, PhysRange, RangeList};

/// Size of the header's fixed part, which tells how long the rest is.
pub const HEADER_BYTES: usize = 40;
/// Largest blob, in bytes. The Linux arm64 boot protocol allows 2 MiB, and QEMU passes on
/// a little more if `-dtb` gives it what its own `dumpdtb` wrote.
pub const MAX_FDT_SIZE: usize = 3 << 20;

/// How PSCI calls leave EL1.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Conduit {
    /// `hvc #0`: the firmware is at EL2.
    Hvc,
    /// `smc #0`: the firmware is at EL3.
    Smc,
}

/// What the device tree says.
#[derive(Clone, Copy, Debug)]
pub struct Firmware {
    /// RAM banks, reservations.
    pub memblock: Memblock,
    /// Physical address of the PL011 that is the console.
    pub uart: Option<u64>,
    /// How to call PSCI; `None` if the tree has no PSCI 0.2 or later.
    pub psci: Option<Conduit>,
    /// Physical address of a Raspberry Pi's power manager, where there is no PSCI.
    pub power_manager: Option<u64>,
    /// The initial RAM disk.
    pub initrd: Option<PhysRange>,
    /// What the loader left to make keys of.
    pub seeds: Seeds,
    /// `reg` entries of memory nodes that could not be used: empty, wrapping,
    /// or more than are kept.
    pub dropped_banks: u32,
    /// The kernel command line; empty if there is none or it is not text.
    pub bootargs: CommandLine,
}

impl Firmware {
    /// Nothing known yet.
    pub const fn new() -> Self {
        Self {
            memblock: Memblock::new(),
            uart: None,
            psci: None,
            power_manager: None,
            initrd: None,
            seeds: Seeds::new(),
            dropped_banks: 0,
            bootargs: CommandLine::EMPTY,
        }
    }
}

impl Firmware {
    /// What is wrong with the place of the initial RAM disk, if anything is: loaders
    /// that do not know how large a kernel is once it runs put it behind the file.
    pub fn initrd_conflict(&self, image: PhysRange, fdt: PhysRange) -> Option<&'static str> {
        let initrd = self.initrd?;
        if initrd.intersect(image).is_some() {
            Some("overlaps the kernel image")
        } else if initrd.intersect(fdt).is_some() {
            Some("overlaps the device tree")
        } else if !self.memblock.mappable(1).any(|part| part.contains(initrd)) {
            Some("is not in RAM that may be used")
        } else {
            None
        }
    }
}

impl Default for Firmware {
    fn default() -> Self {
        Self::new()
    }
}

/// Why a device tree cannot be used.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum FdtError {
    /// No `0xd00dfeed` where a device tree should start.
    BadMagic(u32),
    /// `totalsize` below the header's size or above [`MAX_FDT_SIZE`].
    BadSize(u32),
    /// The structure is broken.
    Malformed(Malformed),
    /// No memory node with a usable `reg`.
    NoMemory,
    /// A node of `/reserved-memory` whose `reg` cannot be read; what it protects
    /// is unknown.
    BadReservation,
    /// More reservations than are kept; leaving one out would be unsafe.
    TooManyReservations,
    /// More seeds than are kept; leaving one in would be unsafe.
    TooManySeeds,
}

impl fmt::Display for FdtError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::BadMagic(magic) => write!(f, "magic is {magic:#010x}, not 0xd00dfeed"),
            Self::BadSize(size) => {
                write!(
                    f,
                    "totalsize {size:#x} is not within {HEADER_BYTES:#x}..={MAX_FDT_SIZE:#x}"
                )
            }
            Self::Malformed(error) => write!(f, "malformed: {error}"),
            Self::NoMemory => f.write_str("no memory node with a usable reg"),
            Self::BadReservation => f.write_str("a /reserved-memory node has an unusable reg"),
            Self::TooManySeeds => f.write_str("more seeds than this kernel wipes"),
            Self::TooManyReservations => f.write_str("more reservations than this kernel keeps"),
        }
    }
}

impl From<ListFull> for FdtError {
    fn from(_: ListFull) -> Self {
        Self::TooManyReservations
    }
}

/// Length in bytes of the blob that starts with `header`.
///
/// # Errors
/// [`FdtError::BadMagic`], [`FdtError::BadSize`].
pub fn total_size(header: &[u8; HEADER_BYTES]) -> Result<usize, FdtError> {
    Header::new(header).total_size()
}

/// Length in bytes of what the blob that starts with `header` says in its blocks; what
/// comes behind them is room for more, with QEMU nearly a megabyte.
pub fn used_size(header: &[u8; HEADER_BYTES]) -> usize {
    Header::new(header).strings().end
}

/// Reads all that this kernel wants of the device tree into `firmware`, less the
/// memory nodes if it holds RAM banks already.
///
/// # Errors
/// [`FdtError`]; `firmware` then holds what could be read.
pub fn read(blob: &[u8], firmware: &mut Firmware) -> Result<(), FdtError> {
    let fdt = check(blob)?;
    // A loader that told of memory itself knows more than the tree.
    let wants_memory = firmware.memblock.memory.as_slice().is_empty();
    let mut chosen = None;
    let mut usable = read_memory_reservations(fdt, &mut firmware.memblock);
    for node in fdt.root().children() {
        let found = match node.name_without_address() {
            "chosen" => {
                let (says, noted) = Chosen::read(&node, blob, &mut firmware.seeds);
                chosen.get_or_insert(says);
                noted
            }
            "reserved-memory" => read_reserved_memory(&node, &mut firmware.memblock),
            _ => Ok(()),
        };
        usable = usable.and(found);
        if wants_memory && is_memory(&node) {
            read_banks(&node, firmware);
        }
    }
    // What it takes to say that the tree cannot be used is read even then.
    let chosen = chosen.unwrap_or_default();
    chosen.apply(firmware);
    firmware.uart = find_console(fdt, chosen.stdout_path);
    firmware.psci = find_psci(fdt);
    // It costs a look at every node, for a way out of boards that have no PSCI.
    if firmware.psci.is_none() {
        firmware.power_manager = find_power_manager(fdt);
    }
    usable?;
    if firmware.memblock.memory.as_slice().is_empty() {
        return Err(FdtError::NoMemory);
    }
    Ok(())
}

/// Where a blob holds `/chosen/kaslr-seed` and `/chosen/rng-seed`, as offsets from
/// its start: whoever reads the tree later must not learn what keys were made of.
pub type Seeds = RangeList<MAX_RANGES>;

/// What the loader has to say: the first node, and of properties of one name the first.
/// Of seeds, all of all such nodes.
#[derive(Default)]
struct Chosen<'a> {
    bootargs: Option<FdtProperty<'a>>,
    stdout_path: Option<FdtProperty<'a>>,
    initrd_start: Option<FdtProperty<'a>>,
    initrd_end: Option<FdtProperty<'a>>,
}

impl<'a> Chosen<'a> {
    /// What `node`, a part of `blob`, says, and whether all its seeds could be noted.
    fn read(node: &FdtNode<'a>, blob: &[u8], seeds: &mut Seeds) -> (Self, Result<(), FdtError>) {
        let mut says = Self::default();
        let mut all_noted = Ok(());
        for property in node.properties() {
            let place = match property.name() {
                "bootargs" => &mut says.bootargs,
                "stdout-path" => &mut says.stdout_path,
                "linux,initrd-start" => &mut says.initrd_start,
                "linux,initrd-end" => &mut says.initrd_end,
                "kaslr-seed" | "rng-seed" => {
                    let value = property.value();
                    let start = (value.as_ptr().addr() - blob.as_ptr().addr()) as u64;
                    let end = start + value.len() as u64;
                    let noted = seeds.insert(PhysRange { start, end });
                    all_noted = all_noted.and(noted);
                    continue;
                }
                _ => continue,
            };
            place.get_or_insert(property);
        }
        (says, all_noted.map_err(|ListFull| FdtError::TooManySeeds))
    }

    fn apply(&self, firmware: &mut Firmware) {
        if let Some(line) = self.bootargs {
            firmware.bootargs = CommandLine::from_bytes(line.value());
        }
        let address = |property: Option<FdtProperty<'_>>| integer(property?.value());
        if let (Some(start), Some(end)) = (address(self.initrd_start), address(self.initrd_end)) {
            firmware.initrd = end
                .checked_sub(start)
                .and_then(|size| PhysRange::new(start, size));
        }
    }
}

/// A big-endian integer of one or two cells.
fn integer(value: &[u8]) -> Option<u64> {
    match value.len() {
        4 => Some(u32::from_be_bytes(value.try_into().ok()?).into()),
        8 => Some(u64::from_be_bytes(value.try_into().ok()?)),
        _ => None,
    }
}

/// What the parent's `#address-cells` or `#size-cells` set apart for a number:
/// with none of them there is no number.
fn number(cells: Cells<'_>) -> Option<u64> {
    match cells.as_ref() {
        [low] => Some(low.get().into()),
        [high, low] => Some(u64::from(high.get()) << 32 | u64::from(low.get())),
        _ => None,
    }
}

/// Whether `node` may be used. Linux takes "ok" for the specification's "okay".
fn is_available(node: &FdtNode<'_>) -> bool {
    node.property("status")
        .is_none_or(|status| matches!(status.value(), b"okay\0" | b"ok\0"))
}

/// As on Linux arm64, `device_type` makes it memory, not its name.
fn is_memory(node: &FdtNode<'_>) -> bool {
    node.property("device_type")
        .is_some_and(|device_type| device_type.value() == b"memory\0")
        && is_available(node)
}

/// All banks of one of the memory nodes: QEMU's NUMA puts one bank in each of several.
fn read_banks(node: &FdtNode<'_>, firmware: &mut Firmware) {
    let Ok(Some(banks)) = node.reg() else {
        firmware.dropped_banks += 1;
        return;
    };
    for bank in banks {
        let range = match (number(bank.address), number(bank.size)) {
            (Some(start), Some(size)) => PhysRange::new(start, size),
            _ => None,
        };
        if range.is_none_or(|range| firmware.memblock.memory.insert(range).is_err()) {
            firmware.dropped_banks += 1;
        }
    }
}

/// The entries of `/memreserve/`. A reservation that wraps is kept as far as it goes.
fn read_memory_reservations(fdt: Fdt<'_>, memblock: &mut Memblock) -> Result<(), FdtError> {
    for entry in fdt.memory_reservations() {
        if let Some(range) = PhysRange::clipped(entry.address(), entry.size()) {
            memblock.reserved.insert(range)?;
        }
    }
    Ok(())
}

/// What `/reserved-memory` holds. One that cannot be read is an error: using memory that
/// firmware needs shows much later, if ever.
fn read_reserved_memory(parent: &FdtNode<'_>, memblock: &mut Memblock) -> Result<(), FdtError> {
    for child in parent.children().filter(is_available) {
        // One without reg asks the kernel to choose a place: nobody uses it here.
        let Some(regions) = child.reg().map_err(|_| FdtError::BadReservation)? else {
            continue;
        };
        let list = match child.property("no-map") {
            Some(_) => &mut memblock.nomap,
            None => &mut memblock.reserved,
        };
        for region in regions {
            let (Some(start), Some(size)) = (number(region.address), number(region.size)) else {
                return Err(FdtError::BadReservation);
            };
            if let Some(range) = PhysRange::clipped(start, size) {
                list.insert(range)?;
            }
        }
    }
    Ok(())
}

/// Overwrites the seeds with zeros; returns how many there were, or `None`, and
/// the blob is as it was, if they do not lie in it.
pub fn wipe_seeds(blob: &mut [u8], seeds: &Seeds) -> Option<usize> {
    let last = seeds.as_slice().last().map_or(0, |seed| seed.end);
    blob.get(..last as usize)?;
    for seed in seeds.as_slice() {
        blob.get_mut(seed.start as usize..seed.end as usize)?
            .fill(0);
    }
    Some(seeds.as_slice().len())
}

/// Reads what may be a device tree and checks that what was read is sound.
///
/// # Panics
/// If it is not.
#[cfg(feature = "fuzz")]
pub fn try_hostile(blob: &[u8]) {
    tests::mutants::try_mutant(blob);
}

#[cfg(any(test, feature = "fuzz"))]
#[cfg_attr(not(test), allow(dead_code, unused_imports))]
mod tests;
