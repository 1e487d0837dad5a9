//! The raw `Image` out of the kernel's ELF, and the checks that both must pass.
//!
//! `head.S` relocates the image by a loop of ten instructions that knows one kind of relocation
//! and runs before anything could report a mistake. So every mistake is found here, at build time.

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
    Ok(())
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
mod tests {
    use super::*;
    use crate::guest::Guest;

    const TEXT: u64 = 0xffff_8000_8000_0000;
    const LOAD: u64 = 0x4020_0000;
    const RX: u32 = 5;
    const RW: u32 = 6;
    const RELATIVE: u64 = 1027;

    struct Loaded {
        flags: u32,
        offset: u64,
        data: Vec<u8>,
        memory: u64,
    }

    /// A small kernel: a page of code with the header, a page of data, .bss behind it.
    struct Kernel {
        segments: Vec<Loaded>,
        physical: u64,
        symbols: Vec<(&'static str, u64)>,
        /// `r_offset` and type.
        relocations: Vec<(u64, u64)>,
        relocation_section: u32,
    }

    impl Kernel {
        fn good() -> Self {
            let mut code = Guest::default().power_off().image();
            code[16..24].copy_from_slice(&0x4000_u64.to_le_bytes());
            let segment = |flags, offset, data: Vec<u8>, memory| Loaded {
                flags,
                offset,
                data,
                memory,
            };
            Self {
                segments: vec![
                    segment(RX, 0, code, 0x1000),
                    segment(RW, 0x1000, b"data".repeat(8), 0x3000),
                ],
                physical: LOAD,
                symbols: vec![
                    ("_text", TEXT),
                    ("table", TEXT + 0x1008),
                    ("_end", TEXT + 0x4000),
                ],
                relocations: vec![(TEXT + 0x1000, RELATIVE), (TEXT + 0x1010, RELATIVE)],
                relocation_section: 4,
            }
        }

        /// Writes the ELF: headers, segments, relocations, symbols, names, section headers.
        fn elf(&self) -> Vec<u8> {
            fn words(out: &mut Vec<u8>, words: &[u64]) {
                out.extend(words.iter().flat_map(|word| word.to_le_bytes()));
            }
            let pair = |low: u64, high: u64| low | high << 32;
            let mut body = vec![0; 64 + 56 * self.segments.len()];
            let mut headers = Vec::new();
            for segment in &self.segments {
                words(
                    &mut headers,
                    &[pair(1, segment.flags.into()), body.len() as u64],
                );
                let (virt, phys) = (TEXT + segment.offset, self.physical + segment.offset);
                let size = segment.data.len() as u64;
                words(&mut headers, &[virt, phys, size, segment.memory, 0x1000]);
                body.extend(&segment.data);
            }
            let relocations_at = body.len() as u64;
            for (offset, kind) in &self.relocations {
                words(&mut body, &[*offset, *kind, TEXT]);
            }
            let symbols_at = body.len() as u64;
            let mut names = b"\0".to_vec();
            words(&mut body, &[0; 3]);
            for (name, address) in &self.symbols {
                // A global symbol with an absolute value.
                words(
                    &mut body,
                    &[pair(names.len() as u64, 0xfff1_0010), *address, 0],
                );
                names.extend(name.bytes().chain([0]));
            }
            let names_at = body.len() as u64;
            body.extend(&names);
            body.resize(body.len().next_multiple_of(8), 0);

            let sections_at = body.len() as u64;
            let kind = u64::from(self.relocation_section);
            let relocation_bytes = symbols_at - relocations_at;
            words(&mut body, &[0; 8]);
            words(
                &mut body,
                &[kind << 32, 2, 0, relocations_at, relocation_bytes, 0, 8, 24],
            );
            let symbol_bytes = names_at - symbols_at;
            words(
                &mut body,
                &[2 << 32, 0, 0, symbols_at, symbol_bytes, pair(3, 1), 8, 24],
            );
            words(
                &mut body,
                &[3 << 32, 0, 0, names_at, names.len() as u64, 0, 1, 0],
            );

            let mut head = b"\x7fELF\x02\x01\x01".to_vec();
            head.resize(16, 0);
            words(&mut head, &[pair(3 | 183 << 16, 1), TEXT, 64, sections_at]);
            let counts = [64, 56, self.segments.len() as u16, 64, 4, 3];
            head.extend([0; 4]);
            head.extend(counts.iter().flat_map(|count| count.to_le_bytes()));
            head.extend(headers);
            body[..head.len()].copy_from_slice(&head);
            body
        }
    }

    #[test]
    fn segments_are_laid_out_in_memory_order_without_bss() {
        let mut kernel = Kernel::good();
        kernel.segments.reverse();
        let image = flatten(&kernel.elf()).unwrap();
        assert_eq!(
            image.len(),
            0x1000 + 32,
            "the data's zeros are not in the file"
        );
        let code = &Kernel::good().segments[0].data;
        assert_eq!(&image[..code.len()], code);
        assert!(image[code.len()..0x1000].iter().all(|byte| *byte == 0));
        assert_eq!(&image[0x1000..], b"data".repeat(8));
    }

    #[test]
    fn what_head_s_could_not_handle_is_refused() {
        type Spoil = fn(&mut Kernel);
        let cases: [(&str, Spoil); 16] = [
            ("R_AARCH64_ABS64", |kernel| kernel.relocations[1].1 = 257),
            ("table+0x8", |kernel| kernel.relocations[1].1 = 257),
            ("changes code", |kernel| {
                kernel.relocations[1].0 = TEXT + 0x40
            }),
            ("not aligned", |kernel| {
                kernel.relocations[1].0 = TEXT + 0x1014
            }),
            ("in no segment", |kernel| {
                kernel.relocations[1].0 = TEXT + 0x8000
            }),
            ("only RELA", |kernel| kernel.relocation_section = 19),
            ("writable and executable", |kernel| {
                kernel.segments[0].flags = 7
            }),
            ("no symbol _text", |kernel| kernel.symbols[0].0 = "text"),
            ("not _text", |kernel| kernel.symbols[0].1 += 8),
            ("overlaps", |kernel| kernel.segments[1].offset = 0x40),
            ("after _text", |kernel| {
                kernel.relocations.clear();
                kernel.segments[1].offset = 1 << 40;
            }),
            ("nothing to load", |kernel| {
                kernel.relocations.clear();
                kernel.segments.clear();
            }),
            ("no arm64 Image header", |kernel| {
                kernel.segments[0].data[56] = 0
            }),
            ("text_offset", |kernel| kernel.segments[0].data[9] = 8),
            ("less than", |kernel| kernel.segments[0].data[17] = 8),
            ("_end - _text", |kernel| kernel.symbols[2].1 += 0x1000),
        ];
        for (complaint, spoil) in cases {
            let mut kernel = Kernel::good();
            spoil(&mut kernel);
            let error = format!("{:#}", flatten(&kernel.elf()).unwrap_err());
            assert!(error.contains(complaint), "{error:?} lacks {complaint:?}");
        }
    }

    #[test]
    fn flags_must_allow_any_place() {
        for (flags, complaint) in [(0x2, "anywhere"), (0xb, "big-endian"), (0x8, "granule")] {
            let mut kernel = Kernel::good();
            kernel.segments[0].data[24] = flags;
            let error = format!("{:#}", flatten(&kernel.elf()).unwrap_err());
            assert!(error.contains(complaint), "{error:?} lacks {complaint:?}");
        }
    }

    #[test]
    fn no_bytes_make_it_panic() {
        let elf = Kernel::good().elf();
        for length in 0..elf.len() {
            let _ = flatten(&elf[..length]);
        }
        for index in 0..elf.len() {
            for value in [0, 1, 0x7f, 0xff] {
                let mut broken = elf.clone();
                broken[index] = value;
                let _ = flatten(&broken);
                let _ = crate::image::classify(&broken);
            }
        }
    }
}
