//! Reads the flattened device tree: RAM, reservations, console, PSCI, `/chosen`.
//!
//! The blob is hostile until proven otherwise: dtoolkit validates it once, and
//! every number from it is checked here before it becomes an address.

use core::fmt;

use dtoolkit::error::FdtParseError;
use dtoolkit::fdt::{Fdt, FdtNode, FdtProperty};
use dtoolkit::standard::{NodeStandard, Status};
use dtoolkit::{Node, Property, ToCellInt};

use crate::cmdline::CommandLine;
use crate::memblock::Memblock;
use crate::range::{ListFull, PhysRange};

/// Size of the header's fixed part, which tells how long the rest is.
pub const HEADER_BYTES: usize = 40;
/// Largest blob, in bytes (Linux arm64 boot protocol).
pub const MAX_FDT_SIZE: usize = 2 << 20;

/// How far down buses are followed.
const MAX_DEPTH: usize = 8;

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
    /// The initial RAM disk.
    pub initrd: Option<PhysRange>,
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
            initrd: None,
            dropped_banks: 0,
            bootargs: CommandLine::EMPTY,
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
    Malformed(FdtParseError),
    /// No memory node with a usable `reg`.
    NoMemory,
    /// More reservations than are kept; leaving one out would be unsafe.
    TooManyReservations,
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

/// Reads all that this kernel wants of the device tree into `firmware`.
///
/// # Errors
/// [`FdtError`]; `firmware` then holds what was read before.
pub fn read(blob: &[u8], firmware: &mut Firmware) -> Result<(), FdtError> {
    let fdt = Fdt::new(blob).map_err(FdtError::Malformed)?;
    read_chosen(fdt, firmware);
    firmware.uart = find_console(fdt);
    firmware.psci = find_psci(fdt);
    read_memory(fdt, firmware);
    read_reservations(fdt, &mut firmware.memblock)?;
    if firmware.memblock.memory.as_slice().is_empty() {
        return Err(FdtError::NoMemory);
    }
    Ok(())
}

fn read_chosen(fdt: Fdt<'_>, firmware: &mut Firmware) {
    let Some(chosen) = fdt.find_node("/chosen") else {
        return;
    };
    if let Some(Ok(line)) = chosen.property("bootargs").map(|p| p.value_as::<&str>()) {
        firmware.bootargs = CommandLine::new(line);
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

/// All banks of all memory nodes: QEMU's NUMA puts one bank in each of several.
fn read_memory(fdt: Fdt<'_>, firmware: &mut Firmware) {
    for node in fdt.root().children().filter(is_memory) {
        let Ok(Some(banks)) = node.reg() else {
            firmware.dropped_banks += 1;
            continue;
        };
        for bank in banks {
            let range = match (bank.address::<u64>(), bank.size::<u64>()) {
                (Ok(start), Ok(size)) => PhysRange::new(start, size),
                _ => None,
            };
            if range.is_none_or(|range| firmware.memblock.memory.insert(range).is_err()) {
                firmware.dropped_banks += 1;
            }
        }
    }
}

fn is_memory(node: &FdtNode<'_>) -> bool {
    let memory = |p: FdtProperty<'_>| p.value() == b"memory\0";
    node.property("device_type").is_some_and(memory) && node.status() == Ok(Status::Okay)
}

fn read_reservations(fdt: Fdt<'_>, memblock: &mut Memblock) -> Result<(), FdtError> {
    for entry in fdt.memory_reservations() {
        if let Some(range) = PhysRange::new(entry.address(), entry.size()) {
            memblock.reserved.insert(range)?;
        }
    }
    let Some(node) = fdt.find_node("/reserved-memory") else {
        return Ok(());
    };
    for child in node.children() {
        // One without reg asks the kernel to choose a place: nobody uses it here.
        let Ok(Some(regions)) = child.reg() else {
            continue;
        };
        let nomap = child.property("no-map").is_some();
        for region in regions {
            let (Ok(start), Ok(size)) = (region.address::<u64>(), region.size::<u64>()) else {
                continue;
            };
            let Some(range) = PhysRange::new(start, size) else {
                continue;
            };
            let list = if nomap {
                &mut memblock.nomap
            } else {
                &mut memblock.reserved
            };
            list.insert(range)?;
        }
    }
    Ok(())
}

fn find_psci(fdt: Fdt<'_>) -> Option<Conduit> {
    let node = fdt.root().children().find(|node| {
        // 0.1 has no SYSTEM_OFF.
        node.is_compatible("arm,psci-0.2") || node.is_compatible("arm,psci-1.0")
    })?;
    match node.property("method")?.value() {
        b"hvc\0" => Some(Conduit::Hvc),
        b"smc\0" => Some(Conduit::Smc),
        _ => None,
    }
}

/// The PL011 that `/chosen/stdout-path` names, by path or alias; without one,
/// the first in the tree.
fn find_console(fdt: Fdt<'_>) -> Option<u64> {
    let named = || {
        let path = fdt
            .find_node("/chosen")?
            .property("stdout-path")?
            .value_as::<&str>()
            .ok()?;
        let path = path.split(':').next()?;
        let path = match path.starts_with('/') {
            true => path,
            false => fdt
                .find_node("/aliases")?
                .property(path)?
                .value_as::<&str>()
                .ok()?,
        };
        find_pl011(fdt.root(), &mut |at| at, Some(path), 0)
    };
    named().or_else(|| find_pl011(fdt.root(), &mut |at| at, None, 0))
}

/// Depth-first search below `node` for an enabled PL011, at `path` if one is
/// given. `to_cpu` translates an address on `node`'s bus to what the CPU sees.
fn find_pl011(
    node: FdtNode<'_>,
    to_cpu: &mut dyn FnMut(u64) -> u64,
    path: Option<&str>,
    depth: usize,
) -> Option<u64> {
    if depth == MAX_DEPTH {
        return None;
    }
    let (wanted, rest) = match path.map(|path| path.trim_start_matches('/')) {
        Some(path) => path
            .split_once('/')
            .map_or((Some(path), None), |(head, rest)| (Some(head), Some(rest))),
        None => (None, None),
    };
    let matches = |child: &FdtNode<'_>| match wanted {
        Some(name) if name.contains('@') => child.name() == name,
        Some(name) => child.name_without_address() == name,
        None => true,
    };
    for child in node.children().filter(matches) {
        let here = rest.is_none() && child.is_compatible("arm,pl011");
        if here && child.status() == Ok(Status::Okay) {
            if let Ok(Some(mut reg)) = child.reg() {
                if let Some(address) = reg.next().and_then(|reg| reg.address::<u64>().ok()) {
                    return Some(to_cpu(address));
                }
            }
        }
        if path.is_some() && rest.is_none() {
            continue;
        }
        let mut child_to_cpu = |at| to_cpu(to_parent_bus(&child, at));
        if let found @ Some(_) = find_pl011(child, &mut child_to_cpu, rest, depth + 1) {
            return found;
        }
    }
    None
}

/// Translates an address on `bus` by its `ranges`; none or empty is one to one.
fn to_parent_bus(bus: &FdtNode<'_>, address: u64) -> u64 {
    let Ok(Some(ranges)) = bus.ranges() else {
        return address;
    };
    for range in ranges {
        let child = range.child_bus_address.to_int::<u64>();
        let parent = range.parent_bus_address.to_int::<u64>();
        let length = range.length.to_int::<u64>();
        if let (Ok(child), Ok(parent), Ok(length)) = (child, parent, length) {
            match address.checked_sub(child) {
                Some(offset) if offset < length => return parent.wrapping_add(offset),
                _ => {}
            }
        }
    }
    address
}

/// Overwrites `/chosen/kaslr-seed` and `/chosen/rng-seed` with zeros: whoever
/// reads the tree later must not learn what keys were made from. Returns how
/// many there were.
///
/// # Errors
/// [`FdtError::Malformed`]; the blob is then as it was.
pub fn wipe_seeds(blob: &mut [u8]) -> Result<usize, FdtError> {
    let mut wiped = 0;
    for name in ["kaslr-seed", "rng-seed"] {
        let Some(value) = seed(blob, name)? else {
            continue;
        };
        blob[value].fill(0);
        wiped += 1;
    }
    Ok(wiped)
}

/// Where in the blob the seed `name` lies.
fn seed(blob: &[u8], name: &str) -> Result<Option<core::ops::Range<usize>>, FdtError> {
    let fdt = Fdt::new(blob).map_err(FdtError::Malformed)?;
    let Some(chosen) = fdt.find_node("/chosen") else {
        return Ok(None);
    };
    let value = chosen
        .properties()
        .find(|p| p.name() == name)
        .map(|p| p.value().as_ptr_range());
    Ok(value.map(|value| {
        let base = blob.as_ptr().addr();
        value.start.addr() - base..value.end.addr() - base
    }))
}

#[cfg(test)]
mod tests;
