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
