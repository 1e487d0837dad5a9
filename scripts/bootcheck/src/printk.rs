//! Linux's own log, read from its memory: the last words of a kernel whose console never came up.
//!
//! A vmlinux tells where it is; without one it is looked for among the kernel's variables. Whatever
//! makes no sense ends the reading, and is no error: the guest may have died in any state.

mod ring;

use std::io;

use crate::gdbstub::GdbStub;
use crate::image::{Header, LinuxImage};
use crate::symbols::Symbols;
use ring::{Ring, word};

/// Where RAM may begin with an image.
const STEP: u64 = 64 << 10;

/// What was found of a Linux.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Linux {
    /// Where its image's first byte lies and where it runs, if a vmlinux helped to find out.
    pub bases: Vec<u64>,
    /// What it logged, as its console would have shown it.
    pub log: String,
}

/// Looks for the log of a Linux that stands still, by its vmlinux. `ram` is where its image may be,
/// with the likely place first.
///
/// # Errors
/// The stub does not answer, or the memory makes no sense; nothing is wrong with either.
pub fn read(
    stub: &mut GdbStub,
    symbols: &Symbols,
    ram: impl Iterator<Item = u64>,
) -> io::Result<Linux> {
    let pointer = symbols.data("prb").ok_or(io::ErrorKind::NotFound)?;
    let header = symbols.bytes(symbols.base(), Header::LENGTH);
    let physical = find_image(stub, header.ok_or(io::ErrorKind::NotFound)?, ram)?;
    let mut memory = Memory {
        stub,
        symbols,
        physical,
        displacement: 0,
    };
    let ring = memory.read(pointer, 8)?;
    let ring = word(&ring, 0);
    // It points to one of two structures: what KASLR added is the difference.
    let structures = ["printk_rb_static", "printk_rb_dynamic"];
    let displacements = structures
        .iter()
        .filter_map(|name| Some(ring.wrapping_sub(symbols.data(name)?)));
    memory.displacement = displacements
        .filter(|displacement| displacement.trailing_zeros() >= STEP.trailing_zeros())
        .min()
        .ok_or(io::ErrorKind::InvalidData)?;
    let running = symbols.base().wrapping_add(memory.displacement);
    let ring = Ring::parse(&memory.read(ring, ring::BYTES)?).ok_or(io::ErrorKind::InvalidData)?;
    let log = ring.log(&mut |address, length| memory.read(address, length))?;
    Ok(Linux {
        bases: vec![physical, running],
        log,
    })
}

/// The same without its vmlinux: looks through all variables for what can be nothing else.
///
/// # Errors
/// As for [`read`].
pub fn search(
    stub: &mut GdbStub,
    image: &LinuxImage,
    ram: impl Iterator<Item = u64>,
) -> io::Result<Linux> {
    let physical = find_image(stub, &image.header, ram)?;
    let data = stub.read_physical(physical + image.data_start, image.data_bytes)?;
    let rings = data.windows(ring::BYTES).step_by(8).filter_map(Ring::parse);
    let mut read = |address, length| stub.read_virtual(address, length);
    let logs = rings.filter_map(|ring| {
        let is_in_use = ring.is_in_use(&mut read);
        is_in_use.then(|| ring.log(&mut read).ok())?
    });
    // The first ring is copied when a larger one takes its place.
    let log = logs.max_by_key(String::len);
    Ok(Linux {
        bases: Vec::new(),
        log: log.ok_or(io::ErrorKind::NotFound)?,
    })
}

/// Where the image's first bytes are: its header is never changed.
fn find_image(
    stub: &mut GdbStub,
    header: &[u8],
    mut ram: impl Iterator<Item = u64>,
) -> io::Result<u64> {
    let place = ram.find(|address| {
        let found = stub.read_physical(*address, header.len());
        found.is_ok_and(|found| found == header)
    });
    place.ok_or(io::ErrorKind::NotFound.into())
}

/// Places in RAM: the likely one, then all others.
pub fn places(likely: Option<u64>, start: u64, size: u64) -> impl Iterator<Item = u64> {
    let all = (start..start.saturating_add(size)).step_by(STEP as usize);
    likely.into_iter().chain(all)
}

struct Memory<'a> {
    stub: &'a mut GdbStub,
    symbols: &'a Symbols,
    physical: u64,
    displacement: u64,
}

impl Memory<'_> {
    /// Reads at an address as the guest knows it: in its image, or mapped somewhere else.
    fn read(&mut self, address: u64, length: usize) -> io::Result<Vec<u8>> {
        let linked = address.wrapping_sub(self.displacement);
        if self.symbols.extent().contains(&linked) {
            let offset = linked - self.symbols.base();
            return self.stub.read_physical(self.physical + offset, length);
        }
        self.stub.read_virtual(address, length)
    }
}
