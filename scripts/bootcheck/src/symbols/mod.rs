//! What is at an address: function, offset, source file and line, inlined frames.
//!
//! Everything comes from one ELF, the kernel's or a `vmlinux`, and everything is read when it is
//! first asked for: a boot that passes pays for none of it.
//!
//! The tables of an ELF know addresses as linked. The same code also runs where it was loaded
//! (MMU off, or through an identity map) and, with KASLR, somewhere else again; [`Positions`]
//! takes such addresses back.

mod build;
mod lines;
pub mod names;
mod positions;
mod source;

use std::ops::Range;
use std::path::Path;
use std::sync::{Arc, OnceLock};

use gimli::{EndianArcSlice, LittleEndian};
use object::elf;
use object::read::elf::{ElfFile64, FileHeader, ProgramHeader};
use object::{LittleEndian as LE, Object, ObjectSection, ObjectSymbol, SymbolKind, SymbolSection};

pub use lines::Call;
use lines::Lines;
pub use positions::Positions;
pub use source::Source;

/// A piece of the ELF, shared with it.
pub(crate) type Piece = EndianArcSlice<LittleEndian>;

/// How many symbols before an address are looked at for one that covers it.
const NEIGHBOURS: usize = 16;

/// An ELF, asked about addresses as linked.
pub struct Symbols {
    bytes: Arc<[u8]>,
    segments: Vec<Segment>,
    index: OnceLock<Index>,
    lines: OnceLock<Lines>,
}

/// What is loaded together.
#[derive(Debug, Clone)]
struct Segment {
    address: u64,
    physical: u64,
    size: u64,
    file: Range<usize>,
    is_code: bool,
}

/// The functions, by address.
#[derive(Default)]
struct Index {
    functions: Vec<Function>,
    text: Option<u64>,
}

struct Function {
    start: u64,
    /// 0 where the assembler was not told.
    size: u64,
    name: String,
}

/// What an address means in relation to the code there.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Meaning {
    /// The instruction at it was executing.
    Executing,
    /// A call before it will return to it: the call is what is of interest.
    Return,
}

/// What is at an address.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Place {
    /// The function that the linker knows there, demangled.
    pub symbol: Option<String>,
    /// How far into it.
    pub offset: u64,
    /// What the source says, innermost inlined function first, that function last.
    pub calls: Vec<Call>,
}

impl Place {
    /// `symbol+0x1c (file:line)`, as far as it is known.
    #[must_use]
    pub fn summary(&self) -> Option<String> {
        let mut text = format!("{}+{:#x}", self.symbol.as_deref()?, self.offset);
        if let Some(place) = self.calls.last().and_then(Call::location) {
            text.push_str(&format!(" ({place})"));
        }
        Some(text)
    }
}

impl Symbols {
    /// Reads the file.
    ///
    /// # Errors
    /// Why it tells nothing, with its name.
    pub fn open(path: &Path) -> Result<Self, String> {
        let shown = path.display();
        let bytes = std::fs::read(path).map_err(|error| format!("cannot read {shown}: {error}"))?;
        Self::parse(bytes.into()).map_err(|error| format!("{shown} has no symbols: {error}"))
    }

    /// Takes the bytes of an ELF.
    ///
    /// # Errors
    /// What is wrong with them.
    pub fn parse(bytes: Arc<[u8]>) -> Result<Self, String> {
        let header = elf::FileHeader64::<LE>::parse(&*bytes).map_err(|error| error.to_string())?;
        let mut segments = Vec::new();
        for segment in header
            .program_headers(LE, &*bytes)
            .map_err(|error| error.to_string())?
        {
            if segment.p_type(LE) != elf::PT_LOAD || segment.p_memsz(LE) == 0 {
                continue;
            }
            let start = usize::try_from(segment.p_offset(LE)).unwrap_or(usize::MAX);
            let length = usize::try_from(segment.p_filesz(LE)).unwrap_or(usize::MAX);
            let end = start.saturating_add(length).min(bytes.len());
            segments.push(Segment {
                address: segment.p_vaddr(LE),
                physical: segment.p_paddr(LE),
                size: segment.p_memsz(LE),
                file: start.min(end)..end,
                is_code: segment.p_flags(LE).0 & elf::PF_X.0 != 0,
            });
        }
        segments.sort_by_key(|segment| segment.address);
        if segments.is_empty() {
            return Err("nothing in it is loaded".into());
        }
        Ok(Self {
            bytes,
            segments,
            index: OnceLock::new(),
            lines: OnceLock::new(),
        })
    }

    /// Address of the image's first byte, as linked.
    #[must_use]
    pub fn base(&self) -> u64 {
        self.index().text.unwrap_or(self.segments[0].address)
    }

    /// The physical address of the image's first byte that the ELF itself asks for.
    #[must_use]
    pub fn load_address(&self) -> u64 {
        let first = &self.segments[0];
        first
            .physical
            .wrapping_add(self.base().wrapping_sub(first.address))
    }

    /// Addresses of the image, as linked.
    #[must_use]
    pub fn extent(&self) -> Range<u64> {
        let ends = self.segments.iter();
        let end = ends.map(|segment| segment.address.saturating_add(segment.size));
        self.base()..end.max().unwrap_or_default()
    }

    /// Whether code is linked to this address.
    #[must_use]
    pub fn is_code(&self, address: u64) -> bool {
        self.segment(address).is_some_and(|segment| segment.is_code)
    }

    /// The instruction at an address as linked.
    #[must_use]
    pub fn instruction(&self, address: u64) -> Option<u32> {
        let word = self
            .content(address, 4)
            .filter(|_| address.is_multiple_of(4))?;
        Some(u32::from_le_bytes(word.try_into().ok()?))
    }

    /// Whether the instruction before this address is a call, so that a return may lead to it.
    #[must_use]
    pub fn follows_call(&self, address: u64) -> bool {
        let Some(before) = address
            .checked_sub(4)
            .filter(|before| self.is_code(*before))
        else {
            return false;
        };
        self.instruction(before).is_some_and(|word| {
            let bl = word >> 26 == 0b10_0101;
            // blr, and its forms with pointer authentication
            let blr = word & 0xfeff_f000 == 0xd63f_0000;
            bl || blr
        })
    }

    /// Where a symbol begins. Its name as the linker knows it, or demangled.
    #[must_use]
    pub fn address_of(&self, name: &str) -> Option<u64> {
        if name == "_text" {
            return Some(self.base());
        }
        let functions = &self.index().functions;
        functions
            .iter()
            .find(|function| function.name == name || names::demangle(&function.name) == name)
            .map(|function| function.start)
    }

    /// Where a variable is linked, by the name that the linker knows.
    #[must_use]
    pub fn data(&self, name: &str) -> Option<u64> {
        let elf = ElfFile64::<LE>::parse(&*self.bytes).ok()?;
        let symbol = elf.symbols().find(|symbol| symbol.name() == Ok(name))?;
        Some(symbol.address())
    }

    /// What the ELF loads at an address as linked.
    #[must_use]
    pub fn bytes(&self, address: u64, length: usize) -> Option<&[u8]> {
        self.content(address, length)
    }

    /// Names, demangled, and addresses of all functions, in order.
    pub fn functions(&self) -> impl Iterator<Item = (String, Range<u64>)> {
        let functions = &self.index().functions;
        functions.iter().enumerate().map(|(at, function)| {
            let next = functions[at..].iter().map(|other| other.start);
            let next = next.into_iter().find(|start| *start > function.start);
            let end = match function.size {
                0 => next.unwrap_or(function.start + 4),
                size => function.start.saturating_add(size),
            };
            (names::demangle(&function.name), function.start..end)
        })
    }

    /// What is at an address as linked.
    #[must_use]
    pub fn resolve(&self, address: u64, meaning: Meaning) -> Place {
        let probe = match meaning {
            Meaning::Executing => address,
            Meaning::Return => address.saturating_sub(1),
        };
        if !self.is_code(probe) {
            return Place::default();
        }
        let mut place = Place::default();
        if let Some(function) = self.function(probe) {
            place.symbol = Some(names::demangle(&function.name));
            place.offset = address - function.start;
        }
        place.calls = self.lines().find(probe);
        // Where there are no lines for assembly, its symbol still has a name.
        if let Some(call) = place.calls.last_mut()
            && call.function.is_none()
        {
            call.function.clone_from(&place.symbol);
        }
        place
    }

    /// A section by its name: where it is linked, and what it holds.
    pub(crate) fn section(&self, name: &str) -> Option<(u64, Piece)> {
        let elf = ElfFile64::<LE>::parse(&*self.bytes).ok()?;
        let section = elf.section_by_name(name)?;
        let piece = piece(&self.bytes, &section)?;
        Some((section.address(), piece))
    }

    fn content(&self, address: u64, length: usize) -> Option<&[u8]> {
        let segment = self.segment(address)?;
        let offset = usize::try_from(address - segment.address).ok()?;
        self.bytes[segment.file.clone()].get(offset..offset.checked_add(length)?)
    }

    fn segment(&self, address: u64) -> Option<&Segment> {
        self.segments.iter().find(|segment| {
            address
                .checked_sub(segment.address)
                .is_some_and(|offset| offset < segment.size)
        })
    }

    /// The function around an address: one whose size covers it, else the nearest one that has
    /// no size.
    fn function(&self, address: u64) -> Option<&Function> {
        let functions = &self.index().functions;
        let end = functions.partition_point(|function| function.start <= address);
        let near = functions[end.saturating_sub(NEIGHBOURS)..end].iter().rev();
        let covers = |function: &&Function| address - function.start < function.size;
        near.clone().find(covers).or_else(|| {
            let nearest = functions[..end].last()?;
            (nearest.size == 0).then_some(nearest)
        })
    }

    fn index(&self) -> &Index {
        self.index
            .get_or_init(|| self.read_index().unwrap_or_default())
    }

    fn read_index(&self) -> Option<Index> {
        let elf = ElfFile64::<LE>::parse(&*self.bytes).ok()?;
        let mut index = Index::default();
        for symbol in elf.symbols() {
            let Ok(name) = symbol.name() else { continue };
            if name == "_text" {
                index.text = Some(symbol.address());
                continue;
            }
            let is_function = match symbol.kind() {
                // Constants of the linker script look like addresses.
                _ if symbol.section() == SymbolSection::Absolute => false,
                SymbolKind::Text => true,
                // Labels of assembly, but not the marks of code and data ($x, $d).
                SymbolKind::Unknown | SymbolKind::Label => !name.starts_with(['$', '.']),
                _ => false,
            };
            if is_function && !name.is_empty() && self.is_code(symbol.address()) {
                index.functions.push(Function {
                    start: symbol.address(),
                    size: symbol.size(),
                    name: name.to_owned(),
                });
            }
        }
        // Of several at one address the choice must not depend on the linker's order.
        index
            .functions
            .sort_by(|a, b| (a.start, a.size > 0, &b.name).cmp(&(b.start, b.size > 0, &a.name)));
        // A label inside a function is no function.
        let mut end = 0;
        index.functions.retain(|function| {
            let inside = function.size == 0 && function.start < end;
            end = end.max(function.start.saturating_add(function.size));
            !inside
        });
        Some(index)
    }

    fn lines(&self) -> &Lines {
        self.lines
            .get_or_init(|| Lines::new(|name| Some(self.section(name)?.1)))
    }
}

impl std::fmt::Debug for Symbols {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter
            .debug_struct("Symbols")
            .field("segments", &self.segments)
            .finish_non_exhaustive()
    }
}

/// What a section holds, shared with the ELF; nothing if it is compressed.
fn piece<'data>(bytes: &Arc<[u8]>, section: &impl ObjectSection<'data>) -> Option<Piece> {
    let range = section.compressed_file_range().ok()?;
    if range.format != object::CompressionFormat::None {
        return None;
    }
    let start = usize::try_from(range.offset).ok()?;
    let end = start.checked_add(usize::try_from(range.compressed_size).ok()?)?;
    let whole = Piece::new(Arc::clone(bytes), LittleEndian);
    (end <= bytes.len()).then(|| whole.range(start..end))
}

#[cfg(test)]
mod tests;
