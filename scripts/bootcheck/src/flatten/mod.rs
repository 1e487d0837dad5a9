//! The raw `Image` out of the kernel's ELF, and the checks that both must pass.
//!
//! `head.S` relocates the image by a loop of ten instructions that knows one kind of relocation
//! and runs before anything could report a mistake. So every mistake is found here, at build time.

mod pe;

use std::fs;

use anyhow::{Context, bail, ensure};
use object::elf;
use object::read::elf::{ElfFile64, FileHeader, ProgramHeader, Rela, SectionHeader};
use object::{LittleEndian as LE, Object, ObjectSymbol};

use crate::cli::ImageArgs;
use crate::files;
use crate::image::Header;

/// No kernel of ours is larger; a stray section far away must not fill the disk with zeros.
const LARGEST: u64 = 64 << 20;

type Elf<'data> = ElfFile64<'data, LE>;
type Segment = elf::ProgramHeader64<LE>;

/// Runs the command; the exit status.
///
/// # Errors
/// Why there is no Image.
pub fn run(args: &ImageArgs) -> anyhow::Result<u8> {
    let shown = args.elf.display();
    let bytes = fs::read(&args.elf).with_context(|| format!("cannot read {shown}"))?;
    let image = flatten(&bytes).with_context(|| format!("{shown} makes no Image"))?;
    files::write_if_changed(&args.out, &image)?;
    Ok(0)
}

/// Makes the raw Image: what the loadable segments hold, in the order of their physical
/// addresses, from the symbol `_text` on. What a segment only reserves is not in it.
///
/// # Errors
/// What is wrong with the ELF.
pub fn flatten(bytes: &[u8]) -> anyhow::Result<Vec<u8>> {
    let elf = Elf::parse(bytes).context("not a 64-bit little-endian ELF")?;
    let machine = elf.elf_header().e_machine(LE);
    ensure!(machine == elf::EM_AARCH64, "not an ELF for aarch64");
    let symbols = Symbols::read(&elf);
    let segments: Vec<&Segment> = elf
        .elf_program_headers()
        .iter()
        .filter(|segment| segment.p_type(LE) == elf::PT_LOAD && segment.p_memsz(LE) > 0)
        .collect();

    check_segments(&segments)?;
    check_relocations(&elf, &segments, &symbols)?;
    let image = load(bytes, &segments, &symbols)?;
    check_header(&image, &symbols)?;
    Ok(image)
}

fn check_segments(segments: &[&Segment]) -> anyhow::Result<()> {
    for segment in segments {
        let flags = segment.p_flags(LE);
        ensure!(
            !(flags.contains(elf::PF_W) && flags.contains(elf::PF_X)),
            "the segment at {:#x} is writable and executable",
            segment.p_vaddr(LE)
        );
    }
    Ok(())
}

/// Every dynamic relocation is `R_AARCH64_RELATIVE`, aligned, and outside of the code.
fn check_relocations(elf: &Elf, segments: &[&Segment], symbols: &Symbols) -> anyhow::Result<()> {
    let data = elf.data();
    let sections = elf.elf_section_table();
    ensure!(
        !sections.is_empty(),
        "it has no section headers, so its relocations cannot be checked"
    );
    for section in sections.iter() {
        if !section.sh_flags(LE).contains(elf::SHF_ALLOC) {
            continue;
        }
        let name = String::from_utf8_lossy(sections.section_name(LE, section)?).into_owned();
        match section.sh_type(LE) {
            elf::SHT_REL | elf::SHT_RELR => {
                ensure!(
                    section.sh_size(LE) == 0,
                    "{name} holds relocations of a form that head.S does not know (only RELA)"
                );
            }
            elf::SHT_RELA => {
                let (relocations, _) = section.rela(LE, data)?.context("not readable")?;
                for relocation in relocations {
                    check_relocation(relocation, segments, symbols)
                        .with_context(|| format!("a relocation in {name}"))?;
                }
            }
            _ => {}
        }
    }
    Ok(())
}

fn check_relocation(
    relocation: &elf::Rela64<LE>,
    segments: &[&Segment],
    symbols: &Symbols,
) -> anyhow::Result<()> {
    let address = relocation.r_offset(LE);
    let place = || format!("{address:#x} ({})", symbols.near(address));
    let kind = relocation.r_type(LE, false);
    let kind_name = match kind {
        elf::R_AARCH64_ABS64 => "R_AARCH64_ABS64".to_owned(),
        elf::R_AARCH64_GLOB_DAT => "R_AARCH64_GLOB_DAT".to_owned(),
        elf::R_AARCH64_JUMP_SLOT => "R_AARCH64_JUMP_SLOT".to_owned(),
        elf::R_AARCH64_IRELATIVE => "R_AARCH64_IRELATIVE".to_owned(),
        other => format!("type {other:?}"),
    };
    ensure!(
        kind == elf::R_AARCH64_RELATIVE,
        "at {} is {kind_name}; head.S applies only R_AARCH64_RELATIVE",
        place()
    );
    ensure!(
        address.is_multiple_of(8),
        "at {} is not aligned, which faults while the MMU is off",
        place()
    );
    let segment = segments
        .iter()
        .find(|segment| contains(segment, address) && contains(segment, address + 7))
        .with_context(|| format!("at {} lies in no segment", place()))?;
    ensure!(
        !segment.p_flags(LE).contains(elf::PF_X),
        "at {} changes code; the text must be position-independent",
        place()
    );
    Ok(())
}

fn contains(segment: &Segment, address: u64) -> bool {
    let start = segment.p_vaddr(LE);
    (start..start.saturating_add(segment.p_memsz(LE))).contains(&address)
}

/// Lays the segments out in memory order, with zeros between them.
fn load(bytes: &[u8], segments: &[&Segment], symbols: &Symbols) -> anyhow::Result<Vec<u8>> {
    let mut loaded: Vec<&Segment> = segments
        .iter()
        .copied()
        .filter(|segment| segment.p_filesz(LE) > 0)
        .collect();
    loaded.sort_by_key(|segment| segment.p_paddr(LE));
    let first = loaded.first().context("it has nothing to load")?;
    let base = first.p_paddr(LE);
    let text = symbols.address("_text").context("it has no symbol _text")?;
    ensure!(
        first.p_vaddr(LE) == text,
        "its lowest physical address {base:#x} holds {:#x}, not _text ({text:#x}); \
         does the linker script set AT()?",
        first.p_vaddr(LE)
    );
    let mut image = Vec::new();
    for segment in loaded {
        let (physical, virt) = (segment.p_paddr(LE), segment.p_vaddr(LE));
        let offset = physical - base;
        ensure!(
            virt.wrapping_sub(text) == offset,
            "the segment at {virt:#x} lies at another distance from _text than its physical \
             address {physical:#x}"
        );
        let end = offset.saturating_add(segment.p_filesz(LE));
        ensure!(
            end <= LARGEST,
            "the segment at {virt:#x} ends {end:#x} bytes after _text"
        );
        ensure!(
            offset >= image.len() as u64,
            "the segment at {virt:#x} overlaps another"
        );
        let data = segment
            .data(LE, bytes)
            .ok()
            .context("a segment is not in the file")?;
        image.resize(offset as usize, 0);
        image.extend_from_slice(data);
    }
    Ok(image)
}

/// What a loader reads is true.
fn check_header(image: &[u8], symbols: &Symbols) -> anyhow::Result<()> {
    let header = Header::read(image).context("no arm64 Image header at _text")?;
    let size = header.image_size;
    ensure!(
        header.text_offset == 0,
        "text_offset is {:#x}, not 0",
        header.text_offset
    );
    ensure!(
        size >= image.len() as u64,
        "image_size is {size:#x}, less than the {:#x} bytes of the file",
        image.len()
    );
    if let (Some(text), Some(end)) = (symbols.address("_text"), symbols.address("_end")) {
        let extent = end.wrapping_sub(text);
        ensure!(
            size == extent,
            "image_size is {size:#x}, but _end - _text is {extent:#x}"
        );
    }
    ensure!(header.flags & 1 == 0, "the flags say big-endian");
    ensure!(
        header.flags & 8 != 0,
        "the flags ({:#x}) do not say that it may be placed anywhere",
        header.flags
    );
    let granule = header.flags >> 1 & 3;
    if granule == 0 {
        bail!("the flags ({:#x}) do not name a granule", header.flags);
    }
    pe::check(image, size).context("the PE header")
}

/// The symbols by address.
struct Symbols(Vec<(u64, String)>);

impl Symbols {
    fn read(elf: &Elf) -> Self {
        let mut list: Vec<(u64, String)> = elf
            .symbols()
            .filter(|symbol| symbol.is_definition() || symbol.is_global())
            .filter_map(|symbol| Some((symbol.address(), symbol.name().ok()?.to_owned())))
            .filter(|(_, name)| !name.is_empty() && !name.starts_with('$'))
            .collect();
        list.sort();
        Self(list)
    }

    fn address(&self, name: &str) -> Option<u64> {
        self.0
            .iter()
            .find(|(_, other)| other == name)
            .map(|(address, _)| *address)
    }

    /// `symbol+0x10`, the nearest at or below.
    fn near(&self, address: u64) -> String {
        let after = self.0.partition_point(|(start, _)| *start <= address);
        match after.checked_sub(1).map(|index| &self.0[index]) {
            Some((start, name)) => {
                format!(
                    "{:#}+{:#x}",
                    rustc_demangle::demangle(name),
                    address - start
                )
            }
            None => "before every symbol".to_owned(),
        }
    }
}
#[cfg(test)]
mod tests;
