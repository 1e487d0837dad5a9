//! `bootcheck layout`: what is in an image, how large, where, and with which permissions.
//!
//! Everything is what the Image's header and the ELF say, so that it can be tracked from build to
//! build; nothing is booted.

use std::fmt::Write as _;
use std::fs;
use std::io::Read;
use std::path::Path;

use anyhow::{Context, bail, ensure};
use object::elf;
use object::read::elf::{ElfFile64, FileHeader, ProgramHeader, SectionHeader};
use object::{LittleEndian as LE, Object, ObjectSection, ObjectSymbol, SymbolSection};
use serde::Serialize;

use crate::cli::LayoutArgs;
use crate::image::{Form, Header, UNPACKED_LIMIT, classify};
use crate::output;
use crate::symbols::{Symbols, names};

type Elf<'data> = ElfFile64<'data, LE>;

/// The smallest object that is listed: a page of the smallest granule.
const LARGE: u64 = 4096;

/// What `--json` writes.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Layout {
    /// 1.
    pub schema: u32,
    /// The image.
    pub image: ImageLayout,
    /// The ELF that it was made from, if there is one.
    pub elf: Option<ElfLayout>,
}

/// What the image's file and header say.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct ImageLayout {
    /// Its file.
    pub path: String,
    /// `raw`, `gzip`, `zboot` or `elf`.
    pub form: &'static str,
    /// Length of the file.
    pub file_bytes: u64,
    /// Length of the Image in it; unknown in an ELF.
    pub unpacked_bytes: Option<u64>,
    /// Memory that the Image needs from its first byte on.
    pub image_size: Option<u64>,
    /// Offset from a 2 MiB boundary at which it wants to be loaded.
    pub text_offset: Option<String>,
    /// Bytes of a page: 4096, 16384 or 65536; unknown if the header does not tell.
    pub granule: Option<u32>,
    /// Whether it may lie anywhere in memory, not only near the start of RAM.
    pub anywhere: Option<bool>,
}

/// What an ELF says.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct ElfLayout {
    /// Its file.
    pub path: String,
    /// Where it is entered.
    pub entry: String,
    /// What is loaded together.
    pub segments: Vec<Piece>,
    /// What the segments are made of.
    pub sections: Vec<Piece>,
    /// Objects of a page or more that no file holds: page tables, stacks, the black box.
    pub objects: Vec<Piece>,
    /// Bytes that are loaded, zeroed, and left as they are.
    pub totals: Totals,
}

/// A piece of memory.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Piece {
    /// Its name; a segment has those of its sections.
    pub name: String,
    /// `r-x` and the like, as the ELF has it.
    pub permissions: String,
    /// Where it is linked.
    pub virtual_address: String,
    /// Where it is loaded.
    pub load_address: String,
    /// Bytes in memory.
    pub bytes: u64,
    /// Bytes of them in the file.
    pub file_bytes: u64,
    /// `file`, `bss` (zeroed at the start) or `noinit` (never); a segment has several.
    pub kind: Option<&'static str>,
}

/// Bytes of all sections, by kind.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
pub struct Totals {
    /// In the file.
    pub file: u64,
    /// Zeroed at the start.
    pub bss: u64,
    /// Neither loaded nor zeroed.
    pub noinit: u64,
}

/// Runs the command; the exit status.
///
/// # Errors
/// Why the layout is not known.
pub fn run(args: &LayoutArgs) -> anyhow::Result<u8> {
    let beside = args.image.with_file_name("kernel.elf");
    let elf = args
        .elf
        .clone()
        .or_else(|| beside.exists().then_some(beside));
    let layout = read(&args.image, elf.as_deref())?;
    match &args.json {
        Some(path) => output::write_json(path, &layout)?,
        None => output::write_result(Path::new(output::STDOUT), &text(&layout))?,
    }
    Ok(0)
}

/// Reads the image, and the ELF that it was made from.
///
/// # Errors
/// What is wrong with the one or the other, or with both together.
pub fn read(image: &Path, elf: Option<&Path>) -> anyhow::Result<Layout> {
    let shown = image.display();
    let bytes = fs::read(image).with_context(|| format!("cannot read {shown}"))?;
    let form = match classify(&bytes) {
        Ok(image) => image.form,
        Err(reason) => bail!("{shown} is no image: {reason}"),
    };
    let mut unpacked = Vec::new();
    let raw: &[u8] = match form {
        Form::Gzip => {
            flate2::read::MultiGzDecoder::new(&*bytes)
                .take(UNPACKED_LIMIT)
                .read_to_end(&mut unpacked)
                .with_context(|| format!("cannot unpack {shown}"))?;
            &unpacked
        }
        Form::Raw | Form::Zboot | Form::Elf => &bytes,
    };
    let header = Header::read(raw).filter(|_| form != Form::Elf);
    let elf = match (elf, form) {
        (Some(path), _) => {
            let content =
                fs::read(path).with_context(|| format!("cannot read {}", path.display()))?;
            if form != Form::Elf {
                let symbols = Symbols::parse(content.clone().into());
                let is_of = symbols.is_ok_and(|symbols| symbols.is_of(raw));
                ensure!(is_of, "{shown} was not made from {}", path.display());
            }
            Some(elf_layout(path, &content)?)
        }
        (None, Form::Elf) => Some(elf_layout(image, &bytes)?),
        (None, _) => None,
    };
    Ok(Layout {
        schema: 1,
        image: ImageLayout {
            path: shown.to_string(),
            form: match form {
                Form::Raw => "raw",
                Form::Gzip => "gzip",
                Form::Zboot => "zboot",
                Form::Elf => "elf",
            },
            file_bytes: bytes.len() as u64,
            unpacked_bytes: header.map(|_| raw.len() as u64),
            image_size: header.map(|header| header.image_size),
            text_offset: header.map(|header| hex(header.text_offset)),
            granule: header.and_then(|header| match header.flags >> 1 & 3 {
                1 => Some(4096),
                2 => Some(16384),
                3 => Some(65536),
                _ => None,
            }),
            anywhere: header.map(|header| header.flags & 8 != 0),
        },
        elf,
    })
}

fn elf_layout(path: &Path, bytes: &[u8]) -> anyhow::Result<ElfLayout> {
    let broken = || format!("{} is no ELF for aarch64", path.display());
    let elf = Elf::parse(bytes).with_context(broken)?;
    ensure!(elf.elf_header().e_machine(LE) == elf::EM_AARCH64, broken());
    let loads: Vec<_> = elf
        .elf_program_headers()
        .iter()
        .filter(|segment| segment.p_type(LE) == elf::PT_LOAD && segment.p_memsz(LE) > 0)
        .collect();
    let loaded_at = |address: u64| {
        let of = loads.iter().find(|segment| {
            let offset = address.checked_sub(segment.p_vaddr(LE));
            offset.is_some_and(|offset| offset < segment.p_memsz(LE))
        });
        of.map(|segment| address - segment.p_vaddr(LE) + segment.p_paddr(LE))
    };
    let mut totals = Totals::default();
    let mut sections = Vec::new();
    for section in elf.sections() {
        let header = section.elf_section_header();
        let flags = header.sh_flags(LE);
        let Some(load) = loaded_at(section.address()).filter(|_| flags.0 & elf::SHF_ALLOC.0 != 0)
        else {
            continue;
        };
        let name = section.name().unwrap_or("?").to_owned();
        let bytes = section.size();
        let is_file = header.sh_type(LE) != elf::SHT_NOBITS;
        let (kind, total) = match (is_file, name.starts_with(".noinit")) {
            (true, _) => ("file", &mut totals.file),
            (false, true) => ("noinit", &mut totals.noinit),
            (false, false) => ("bss", &mut totals.bss),
        };
        *total += bytes;
        sections.push(Piece {
            name,
            permissions: permissions(
                true,
                flags.0 & elf::SHF_WRITE.0 != 0,
                flags.0 & elf::SHF_EXECINSTR.0 != 0,
            ),
            virtual_address: hex(section.address()),
            load_address: hex(load),
            bytes,
            file_bytes: if is_file { bytes } else { 0 },
            kind: Some(kind),
        });
    }
    let segments = loads.iter().map(|segment| {
        let (start, flags) = (segment.p_vaddr(LE), segment.p_flags(LE).0);
        let inside = elf.sections().filter(|section| {
            let offset = section.address().checked_sub(start);
            let is_loaded = section.elf_section_header().sh_flags(LE).0 & elf::SHF_ALLOC.0 != 0;
            is_loaded
                && section.size() > 0
                && offset.is_some_and(|offset| offset < segment.p_memsz(LE))
        });
        let names: Vec<&str> = inside.filter_map(|section| section.name().ok()).collect();
        Piece {
            name: names.join(" "),
            permissions: permissions(
                flags & elf::PF_R.0 != 0,
                flags & elf::PF_W.0 != 0,
                flags & elf::PF_X.0 != 0,
            ),
            virtual_address: hex(start),
            load_address: hex(segment.p_paddr(LE)),
            bytes: segment.p_memsz(LE),
            file_bytes: segment.p_filesz(LE),
            kind: None,
        }
    });
    Ok(ElfLayout {
        path: path.display().to_string(),
        entry: hex(elf.entry()),
        segments: segments.collect(),
        objects: objects(&elf, &sections, loaded_at),
        sections,
        totals,
    })
}

/// Objects of [`LARGE`] bytes or more in sections that no file holds. Assembly gives its labels no
/// size: there, one object ends where the next begins.
fn objects(
    elf: &Elf<'_>,
    sections: &[Piece],
    loaded_at: impl Fn(u64) -> Option<u64>,
) -> Vec<Piece> {
    let mut objects = Vec::new();
    for section in elf.sections() {
        let of = section.name().ok();
        let Some(place) = sections
            .iter()
            .find(|piece| Some(piece.name.as_str()) == of && piece.file_bytes == 0)
        else {
            continue;
        };
        let inside = |symbol: &object::read::elf::ElfSymbol64<'_, '_, LE>| {
            symbol.section() == SymbolSection::Section(section.index())
        };
        let mut symbols: Vec<_> = elf.symbols().filter(inside).collect();
        symbols.sort_by_key(|symbol| (symbol.address(), symbol.size()));
        let end = section.address() + section.size();
        for (index, symbol) in symbols.iter().enumerate() {
            let start = symbol.address();
            let next = symbols[index + 1..].iter().map(|other| other.address());
            let next = next.into_iter().find(|next| *next > start).unwrap_or(end);
            let bytes = match symbol.size() {
                0 => next.min(end).saturating_sub(start),
                size => size,
            };
            let name = symbol.name().unwrap_or_default();
            if bytes < LARGE || is_mark(name) {
                continue;
            }
            objects.push(Piece {
                name: names::demangle(name),
                virtual_address: hex(start),
                load_address: loaded_at(start).map(hex).unwrap_or_default(),
                bytes,
                ..place.clone()
            });
        }
    }
    objects
}

/// A label that only says where something ends, or that code or data begins.
fn is_mark(name: &str) -> bool {
    let ends = ["_end", "_stop", "_top"];
    name.is_empty() || name.starts_with('$') || ends.iter().any(|end| name.ends_with(end))
}

fn permissions(read: bool, write: bool, execute: bool) -> String {
    let letter = |is_set, letter| if is_set { letter } else { '-' };
    [letter(read, 'r'), letter(write, 'w'), letter(execute, 'x')]
        .into_iter()
        .collect()
}

fn hex(number: u64) -> String {
    format!("{number:#x}")
}

/// For a person.
fn text(layout: &Layout) -> String {
    let mut text = String::new();
    let image = &layout.image;
    let _ = writeln!(
        text,
        "{}: {}, {} bytes",
        image.path, image.form, image.file_bytes
    );
    if let (Some(unpacked), Some(size), Some(offset)) =
        (image.unpacked_bytes, image.image_size, &image.text_offset)
    {
        let granule = image
            .granule
            .map_or("any".to_owned(), |bytes| format!("{} KiB", bytes >> 10));
        let place = if image.anywhere == Some(true) {
            "anywhere in RAM"
        } else {
            "near the start of RAM"
        };
        let _ = writeln!(
            text,
            "  {unpacked} bytes to load, {size} bytes of memory, text_offset {offset}, {granule} pages, {place}"
        );
    }
    let Some(elf) = &layout.elf else {
        return text;
    };
    let _ = writeln!(text, "{}: entry {}", elf.path, elf.entry);
    for (title, pieces) in [
        ("segments", &elf.segments),
        ("sections", &elf.sections),
        ("in no file", &elf.objects),
    ] {
        let _ = writeln!(
            text,
            "\n{:<18} {:<12} {:>10} {:>10}  {title}",
            "virtual", "loaded at", "bytes", "in file"
        );
        for piece in pieces {
            let _ = writeln!(
                text,
                "{:<18} {:<12} {:>10} {:>10}  {} {}{}",
                piece.virtual_address,
                piece.load_address,
                piece.bytes,
                piece.file_bytes,
                piece.permissions,
                piece.name,
                piece
                    .kind
                    .filter(|kind| *kind != "file")
                    .map_or(String::new(), |kind| format!(" ({kind})")),
            );
        }
    }
    let Totals { file, bss, noinit } = elf.totals;
    let _ = writeln!(
        text,
        "\n{file} bytes in the file, {bss} zeroed at the start, {noinit} neither"
    );
    text
}

#[cfg(test)]
mod tests;
