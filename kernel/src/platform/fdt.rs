//! Reads the flattened device tree: RAM, reservations, console, PSCI, `/chosen`.
//!
//! The blob is hostile until proven otherwise: its structure is checked once,
//! and every number from it is checked here before it becomes an address. What
//! is done with a tree takes time in proportion to its size, whatever it says.

mod devices;
mod structure;

use core::fmt;

use dtoolkit::fdt::{Fdt, FdtNode};
use dtoolkit::{Cells, Node, Property, ToCellInt};

use devices::{find_console, find_power_manager, find_psci};
pub use structure::Malformed;
use structure::{Token, check};

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
    let [m0, m1, m2, m3, s0, s1, s2, s3, ..] = *header;
    let magic = u32::from_be_bytes([m0, m1, m2, m3]);
    if magic != 0xd00d_feed {
        return Err(FdtError::BadMagic(magic));
    }
    let size = u32::from_be_bytes([s0, s1, s2, s3]);
    match size as usize {
        bytes if (HEADER_BYTES..=MAX_FDT_SIZE).contains(&bytes) => Ok(bytes),
        _ => Err(FdtError::BadSize(size)),
    }
}

/// Reads all that this kernel wants of the device tree into `firmware`, less the
/// memory nodes if it holds RAM banks already.
///
/// # Errors
/// [`FdtError`]; `firmware` then holds what was read before.
pub fn read(blob: &[u8], firmware: &mut Firmware) -> Result<(), FdtError> {
    let (fdt, seeds) = check_and_find_seeds(blob)?;
    // First what it takes to say that the rest cannot be used.
    read_chosen(fdt, firmware);
    firmware.uart = find_console(fdt);
    firmware.psci = find_psci(fdt);
    // It costs a look at every node, for a way out of boards that have no PSCI.
    if firmware.psci.is_none() {
        firmware.power_manager = find_power_manager(fdt);
    }
    firmware.seeds = seeds?;
    // A loader that told of memory itself knows more than the tree.
    if firmware.memblock.memory.as_slice().is_empty() {
        read_memory(fdt, firmware);
    }
    read_reservations(fdt, &mut firmware.memblock)?;
    if firmware.memblock.memory.as_slice().is_empty() {
        return Err(FdtError::NoMemory);
    }
    Ok(())
}

fn read_chosen(fdt: Fdt<'_>, firmware: &mut Firmware) {
    let Some(chosen) = fdt.root().child("chosen") else {
        return;
    };
    if let Some(line) = chosen.property("bootargs") {
        firmware.bootargs = CommandLine::from_bytes(line.value());
    }
    let address = |name| chosen.property(name).and_then(|p| integer(p.value()));
    if let (Some(start), Some(end)) = (address("linux,initrd-start"), address("linux,initrd-end")) {
        firmware.initrd = end
            .checked_sub(start)
            .and_then(|size| PhysRange::new(start, size));
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
    match cells.as_ref().len() {
        1 | 2 => cells.to_int().ok(),
        _ => None,
    }
}

/// Whether `node` may be used. Linux takes "ok" for the specification's "okay".
fn is_available(node: &FdtNode<'_>) -> bool {
    node.property("status")
        .is_none_or(|status| matches!(status.value(), b"okay\0" | b"ok\0"))
}

/// All banks of all memory nodes: QEMU's NUMA puts one bank in each of several.
fn read_memory(fdt: Fdt<'_>, firmware: &mut Firmware) {
    for node in fdt.root().children().filter(is_memory) {
        let Ok(Some(banks)) = node.reg() else {
            firmware.dropped_banks += 1;
            continue;
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
}

/// As on Linux arm64, `device_type` makes it memory, not its name.
fn is_memory(node: &FdtNode<'_>) -> bool {
    node.property("device_type")
        .is_some_and(|device_type| device_type.value() == b"memory\0")
        && is_available(node)
}

/// A reservation that wraps is kept as far as it goes, and one that cannot be
/// read is an error: using memory that firmware needs shows much later, if ever.
fn read_reservations(fdt: Fdt<'_>, memblock: &mut Memblock) -> Result<(), FdtError> {
    for entry in fdt.memory_reservations() {
        if let Some(range) = PhysRange::clipped(entry.address(), entry.size()) {
            memblock.reserved.insert(range)?;
        }
    }
    let parents = fdt.root().children();
    for child in parents
        .filter(|node| node.name_without_address() == "reserved-memory")
        .flat_map(|node| node.children())
        .filter(is_available)
    {
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

/// Where a blob holds `/chosen/kaslr-seed` and `/chosen/rng-seed`, as offsets from
/// its start: whoever reads the tree later must not learn what keys were made of.
pub type Seeds = RangeList<MAX_RANGES>;

/// The tree in `blob`, checked from end to end, and its seeds.
fn check_and_find_seeds(blob: &[u8]) -> Result<(Fdt<'_>, Result<Seeds, FdtError>), FdtError> {
    let mut seeds = SeedFinder::default();
    let fdt = check(blob, |token, depth| seeds.visit(blob, token, depth))?;
    let found = seeds.found.map_err(|ListFull| FdtError::TooManySeeds);
    Ok((fdt, found))
}

/// Finds the seeds while the blob is checked.
struct SeedFinder {
    in_chosen: bool,
    found: Result<Seeds, ListFull>,
}

impl Default for SeedFinder {
    fn default() -> Self {
        Self {
            in_chosen: false,
            found: Ok(Seeds::new()),
        }
    }
}

impl SeedFinder {
    /// The next step, after which `depth` nodes are open.
    fn visit(&mut self, blob: &[u8], token: Token, depth: usize) {
        match token {
            Token::BeginNode(name) if depth == 2 => self.in_chosen = is_chosen(&blob[name]),
            Token::Property { name, value } if self.in_chosen && depth == 2 => {
                if let (Ok(seeds), b"kaslr-seed" | b"rng-seed") = (&mut self.found, &blob[name]) {
                    let (start, end) = (value.start as u64, value.end as u64);
                    if let Err(full) = seeds.insert(PhysRange { start, end }) {
                        self.found = Err(full);
                    }
                }
            }
            _ => {}
        }
    }
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

fn is_chosen(name: &[u8]) -> bool {
    name.split(|&byte| byte == b'@').next() == Some(b"chosen")
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
