//! The blob's structure, checked once from end to end.
//!
//! dtoolkit's own check also refuses names that the Devicetree Specification
//! forbids, and boards have them: the Raspberry Pi 4 a property of 35 characters
//! where 31 are allowed. Linux takes such a tree, so this kernel does. What
//! passes here is all that dtoolkit relies on, and more: no two blocks overlap,
//! so overwriting a value cannot change what the tree says elsewhere.

use core::fmt;
use core::ops::Range;

use dtoolkit::fdt::Fdt;

use super::{FdtError, HEADER_BYTES, MAX_FDT_SIZE};

/// The format this reads; later ones that say they are compatible will do.
const VERSION: u32 = 17;
/// Longest property name, in bytes. Any number of properties can share one, so
/// without a limit every look-up could take the square of the blob's size.
const MAX_NAME_BYTES: usize = 127;

const BEGIN_NODE: u32 = 1;
const END_NODE: u32 = 2;
const PROP: u32 = 3;
const NOP: u32 = 4;
const END: u32 = 9;

/// What is wrong with a blob's structure.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Malformed {
    /// In words.
    pub what: &'static str,
    /// Where, in bytes from its start.
    pub offset: usize,
}

impl fmt::Display for Malformed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} at offset {:#x}", self.what, self.offset)
    }
}

/// The tree in `blob`, once its structure has been checked. Takes time in proportion to
/// the blob's length.
pub(super) fn check(blob: &[u8]) -> Result<Fdt<'_>, FdtError> {
    let mut block = StructureBlock::of(blob)?;
    // How many nodes are open; properties come before a node's children.
    let mut depth = 0_u32;
    let mut root_seen = false;
    let mut properties_may_follow = false;
    loop {
        let here = block.at;
        match block.word()? {
            BEGIN_NODE if depth > 0 || !root_seen => {
                let name_end = block.string(block.at, block.end)?;
                block.advance(name_end + 1)?;
                depth += 1;
                (root_seen, properties_may_follow) = (true, true);
            }
            END_NODE if depth > 0 => {
                depth -= 1;
                properties_may_follow = false;
            }
            PROP if properties_may_follow => {
                let length = block.word()? as usize;
                let name = block.strings.start.saturating_add(block.word()? as usize);
                block.advance(block.at.saturating_add(length))?;
                let longest = name.saturating_add(MAX_NAME_BYTES + 1);
                block.string(name, longest.min(block.strings.end))?;
            }
            // Before the root, it would not begin where the header says.
            NOP if root_seen => {}
            END if root_seen && depth == 0 => return Ok(Fdt::new_unchecked(blob)),
            _ => return Err(malformed("a token that cannot be", here)),
        }
    }
}

/// The header: offsets from the blob's start, and sizes, in bytes (Devicetree
/// Specification, 5.2).
pub(super) struct Header {
    magic: u32,
    total_size: u32,
    structure: u32,
    strings: u32,
    reservations: u32,
    version: u32,
    last_compatible_version: u32,
    strings_size: u32,
    structure_size: u32,
}

impl Header {
    // One copy, and a loop in it: nine words of four single bytes each are long.
    #[inline(never)]
    pub fn new(bytes: &[u8; HEADER_BYTES]) -> Self {
        let mut words = [0; HEADER_BYTES / 4];
        for (word, bytes) in words.iter_mut().zip(bytes.as_chunks().0) {
            *word = u32::from_be_bytes(*bytes);
        }
        let [
            magic,
            total_size,
            structure,
            strings,
            reservations,
            version,
            last_compatible_version,
            _boot_cpu,
            strings_size,
            structure_size,
        ] = words;
        Self {
            magic,
            total_size,
            structure,
            strings,
            reservations,
            version,
            last_compatible_version,
            strings_size,
            structure_size,
        }
    }

    /// See [`super::total_size`].
    pub fn total_size(&self) -> Result<usize, FdtError> {
        if self.magic != 0xd00d_feed {
            return Err(FdtError::BadMagic(self.magic));
        }
        match self.total_size as usize {
            bytes if (HEADER_BYTES..=MAX_FDT_SIZE).contains(&bytes) => Ok(bytes),
            _ => Err(FdtError::BadSize(self.total_size)),
        }
    }

    /// Where the names of properties are: the last block of all.
    pub fn strings(&self) -> Range<usize> {
        let start = self.strings as usize;
        start..start.saturating_add(self.strings_size as usize)
    }
}

/// The structure block, as far as it has been read.
struct StructureBlock<'a> {
    blob: &'a [u8],
    at: usize,
    end: usize,
    /// Where names of properties are.
    strings: Range<usize>,
}

impl<'a> StructureBlock<'a> {
    /// Checks header and reservations, and stands before the root.
    fn of(blob: &'a [u8]) -> Result<Self, FdtError> {
        let header = blob
            .first_chunk::<HEADER_BYTES>()
            .ok_or(malformed("blob ends in the header", blob.len()))?;
        let header = Header::new(header);
        if header.total_size()? != blob.len() {
            return Err(malformed("totalsize is not the blob's length", 4));
        }
        if !(header.last_compatible_version..=header.version).contains(&VERSION) {
            return Err(malformed("not compatible with version 17", 20));
        }
        let (structure, reservations) = (header.structure as usize, header.reservations as usize);
        let strings = header.strings();
        // In the order of the specification, none reaching into the next.
        if reservations < HEADER_BYTES || reservations % 8 != 0 {
            return Err(malformed("bad place of the reservations", 16));
        }
        if structure % 4 != 0 {
            return Err(malformed("bad place of the structure block", 8));
        }
        let end = structure.saturating_add(header.structure_size as usize);
        if end > strings.start || strings.end > blob.len() {
            return Err(malformed("blocks overlap, or leave the blob", 8));
        }
        check_reservations(blob, reservations..structure)?;
        Ok(Self {
            blob,
            at: structure,
            end,
            strings,
        })
    }

    /// The next word.
    fn word(&mut self) -> Result<u32, FdtError> {
        let here = self.at;
        self.advance(here + 4)?;
        word(self.blob, here).ok_or(malformed("the structure block ends early", here))
    }

    /// Goes on at `offset`, rounded up to a whole token.
    fn advance(&mut self, offset: usize) -> Result<(), FdtError> {
        let next = offset.checked_next_multiple_of(4);
        self.at = next
            .filter(|&next| next <= self.end)
            .ok_or(malformed("the structure block ends early", self.at))?;
        Ok(())
    }

    /// Where the string from `start` on has its NUL, which is before `end`.
    #[inline(never)]
    fn string(&self, start: usize, end: usize) -> Result<usize, FdtError> {
        let bytes = self.blob.get(start..end).unwrap_or(&[]);
        let mut any = 0;
        let length = bytes.iter().position(|&byte| {
            any |= byte;
            byte == 0
        });
        length
            .filter(|&length| any.is_ascii() || core::str::from_utf8(&bytes[..length]).is_ok())
            .map(|length| start + length)
            .ok_or(malformed("a name that has no end or is not text", start))
    }
}

/// Each entry lies in the block, and the last is all zeros.
fn check_reservations(blob: &[u8], block: Range<usize>) -> Result<(), FdtError> {
    let unterminated = malformed("the reservations have no end", block.start);
    let entries = blob.get(block).ok_or(unterminated.clone())?;
    let mut entries = entries.as_chunks::<16>().0.iter();
    match entries.any(|entry| *entry == [0; 16]) {
        true => Ok(()),
        false => Err(unterminated),
    }
}

fn word(blob: &[u8], offset: usize) -> Option<u32> {
    let bytes = blob.get(offset..)?.first_chunk()?;
    Some(u32::from_be_bytes(*bytes))
}

const fn malformed(what: &'static str, offset: usize) -> FdtError {
    FdtError::Malformed(Malformed { what, offset })
}
