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

use super::{FdtError, HEADER_BYTES, total_size};

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

/// The tree in `blob`, once its structure has been checked: each step is shown to
/// `visit`, with how many nodes are open. Takes time in proportion to the blob's
/// length.
pub(super) fn check(blob: &[u8], mut visit: impl FnMut(Token, usize)) -> Result<Fdt<'_>, FdtError> {
    let mut tokens = Tokens::new(blob)?;
    while let Some(token) = tokens.next(blob)? {
        visit(token, tokens.depth);
    }
    Ok(Fdt::new_unchecked(blob))
}

/// A step through the tree; ranges are offsets in the blob.
pub(super) enum Token {
    /// A node begins: its name.
    BeginNode(Range<usize>),
    /// The innermost node ends.
    EndNode,
    /// A property of the innermost node.
    Property {
        name: Range<usize>,
        value: Range<usize>,
    },
}

/// Steps through the structure block. Keeps no borrow of the blob, so that a
/// caller can overwrite a value on the way.
pub(super) struct Tokens {
    at: usize,
    /// Where the structure block ends.
    end: usize,
    strings: Range<usize>,
    /// How many nodes are open; the root's own properties have 1.
    pub depth: usize,
    /// Properties come before a node's children.
    properties_may_follow: bool,
    root_seen: bool,
}

impl Tokens {
    /// Checks header and reservations, and stands before the root.
    pub fn new(blob: &[u8]) -> Result<Self, FdtError> {
        let header = blob
            .first_chunk::<HEADER_BYTES>()
            .ok_or(malformed("blob ends in the header", blob.len()))?;
        if total_size(header)? != blob.len() {
            return Err(malformed("totalsize is not the blob's length", 4));
        }
        let field = |offset| word(blob, offset).unwrap_or(0);
        if !(field(24)..=field(20)).contains(&VERSION) {
            return Err(malformed("not compatible with version 17", 20));
        }
        let (structure, strings, reservations) =
            (field(8) as usize, field(12) as usize, field(16) as usize);
        // In the order of the specification, none reaching into the next.
        if reservations < HEADER_BYTES || reservations % 8 != 0 {
            return Err(malformed("bad place of the reservations", 16));
        }
        if structure % 4 != 0 {
            return Err(malformed("bad place of the structure block", 8));
        }
        let end = structure.saturating_add(field(36) as usize);
        let strings_end = strings.saturating_add(field(32) as usize);
        if end > strings || strings_end > blob.len() {
            return Err(malformed("blocks overlap, or leave the blob", 8));
        }
        check_reservations(blob, reservations..structure)?;
        Ok(Self {
            at: structure,
            end,
            strings: strings..strings_end,
            depth: 0,
            properties_may_follow: false,
            root_seen: false,
        })
    }

    /// The next step; `None` after the last.
    pub fn next(&mut self, blob: &[u8]) -> Result<Option<Token>, FdtError> {
        loop {
            let here = self.at;
            match self.word(blob)? {
                BEGIN_NODE if self.depth > 0 || !self.root_seen => {
                    let name = self.string(blob, self.at..self.end)?;
                    self.advance(name.end + 1)?;
                    self.depth += 1;
                    self.properties_may_follow = true;
                    self.root_seen = true;
                    return Ok(Some(Token::BeginNode(name)));
                }
                END_NODE if self.depth > 0 => {
                    self.depth -= 1;
                    self.properties_may_follow = false;
                    return Ok(Some(Token::EndNode));
                }
                PROP if self.properties_may_follow => {
                    let length = self.word(blob)? as usize;
                    let name_offset = self.word(blob)? as usize;
                    let value = self.at..self.at.saturating_add(length);
                    self.advance(value.end)?;
                    let start = self.strings.start.saturating_add(name_offset);
                    let longest = start.saturating_add(MAX_NAME_BYTES + 1);
                    let name = self.string(blob, start..longest.min(self.strings.end))?;
                    return Ok(Some(Token::Property { name, value }));
                }
                // Before the root, it would not begin where the header says.
                NOP if self.root_seen => {}
                END if self.root_seen && self.depth == 0 => return Ok(None),
                _ => return Err(malformed("a token that cannot be", here)),
            }
        }
    }

    fn word(&mut self, blob: &[u8]) -> Result<u32, FdtError> {
        let here = self.at;
        self.advance(here + 4)?;
        word(blob, here).ok_or(malformed("the structure block ends early", here))
    }

    /// Goes on at `offset`, rounded up to a whole token.
    fn advance(&mut self, offset: usize) -> Result<(), FdtError> {
        let next = offset.checked_next_multiple_of(4);
        self.at = next
            .filter(|&next| next <= self.end)
            .ok_or(malformed("the structure block ends early", self.at))?;
        Ok(())
    }

    /// The string that starts `within`, without its NUL.
    #[inline(never)]
    fn string(&self, blob: &[u8], within: Range<usize>) -> Result<Range<usize>, FdtError> {
        let start = within.start;
        let bytes = blob.get(within).unwrap_or(&[]);
        let mut any = 0;
        let length = bytes.iter().position(|&byte| {
            any |= byte;
            byte == 0
        });
        length
            .filter(|&length| any.is_ascii() || core::str::from_utf8(&bytes[..length]).is_ok())
            .map(|length| start..start + length)
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
