//! What a file is, told before QEMU is asked to boot it.
//!
//! QEMU starts anything: garbage is loaded at a default address and runs into nothing, silently.
//! So that silence always means the guest's silence, the tester looks first.

use std::fs;
use std::io::Read;
use std::path::Path;

use object::LittleEndian;
use object::elf;
use object::read::elf::{FileHeader, ProgramHeader};
use object::read::pe::PeFile64;

/// What this project's kernel has in its image, and no other.
pub const OUR_MARK: &str = "early_mmu mini-kernel";

/// The most that QEMU unpacks of a gzip'd image.
pub const UNPACKED_LIMIT: u64 = 256 << 20;

/// The most of a Linux's variables that are looked at, in bytes.
const MOST_VARIABLES: u64 = 64 << 20;

/// Where the RAM of QEMU's `virt` machine begins.
pub const VIRT_RAM: u64 = 0x4000_0000;

/// The form of an image that can boot.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Form {
    /// A raw Linux arm64 `Image`.
    Raw,
    /// The same, gzip'd; QEMU unpacks it.
    Gzip,
    /// An EFI application with an `Image` packed in it; UEFI starts it, and it unpacks itself.
    Zboot,
    /// An ELF with physical addresses in its segments.
    Elf,
}

/// An image that can boot.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Image {
    /// Its form.
    pub form: Form,
    /// Whether it is this project's kernel, which is judged by `boot: PASS`.
    pub is_ours: bool,
    /// The lowest and highest physical address of what an ELF loads.
    pub extent: Option<(u64, u64)>,
    /// How far behind the start of RAM QEMU loads a raw image.
    pub load_offset: Option<u64>,
    /// How long the file of a raw image is, and how long its PE header says, if that is longer. It may
    /// boot all the same: what is missing may be zeros.
    pub cut: Option<(u64, u64)>,
    /// What tells of a Linux.
    pub linux: Option<LinuxImage>,
}

/// What finds a Linux in memory, and its variables there.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LinuxImage {
    /// The image's first bytes.
    pub header: [u8; Header::LENGTH],
    /// Where the variables begin, behind the image's first byte.
    pub data_start: u64,
    /// How many bytes they fill.
    pub data_bytes: usize,
}

/// The header of an arm64 `Image` (Documentation/arch/arm64/booting.rst).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Header {
    /// Offset from a 2 MiB boundary at which the image wants to be loaded.
    pub text_offset: u64,
    /// Memory the image needs from its first byte on, .bss included.
    pub image_size: u64,
    /// Bit 0: big-endian; bits 1–2: granule; bit 3: anywhere in memory.
    pub flags: u64,
}

impl Header {
    /// The length of the header.
    pub const LENGTH: usize = 64;

    /// Reads the header; `None` without the magic.
    #[must_use]
    pub fn read(bytes: &[u8]) -> Option<Self> {
        let field = |offset: usize| {
            let word = bytes.get(offset..offset + 8)?;
            Some(u64::from_le_bytes(word.try_into().ok()?))
        };
        if bytes.get(56..60)? != b"ARM\x64" || bytes.len() < Self::LENGTH {
            return None;
        }
        Some(Self {
            text_offset: field(8)?,
            image_size: field(16)?,
            flags: field(24)?,
        })
    }
}

/// Looks at the file.
///
/// # Errors
/// Why it cannot boot, as one sentence: missing, unreadable, or not an arm64 image.
pub fn inspect(path: &Path) -> Result<Image, String> {
    let shown = path.display();
    if fs::metadata(path).is_ok_and(|data| !data.is_file()) {
        // A pipe could be read only once, and QEMU reads it too.
        return Err(format!("{shown} cannot boot: no regular file"));
    }
    let bytes = fs::read(path).map_err(|error| match error.kind() {
        std::io::ErrorKind::NotFound => {
            format!("there is no image {shown} (`make image` builds ours)")
        }
        _ => format!("cannot read the image {shown}: {error}"),
    })?;
    classify(&bytes).map_err(|reason| format!("{shown} cannot boot: {reason}"))
}

/// Looks at the bytes of an image.
///
/// # Errors
/// Why they cannot boot.
pub fn classify(bytes: &[u8]) -> Result<Image, String> {
    if bytes.starts_with(&[0x1f, 0x8b]) {
        let mut inner = Vec::new();
        flate2::read::MultiGzDecoder::new(bytes)
            .take(UNPACKED_LIMIT)
            .read_to_end(&mut inner)
            .map_err(|error| format!("gzip'd, and broken: {error}"))?;
        return match classify(&inner) {
            Ok(image) if image.form == Form::Raw => Ok(Image {
                form: Form::Gzip,
                ..image
            }),
            Ok(_) => {
                Err("QEMU unpacks raw images only, this is a gzip'd file of another form".into())
            }
            Err(reason) => Err(format!("unpacked, {reason}")),
        };
    }
    let unplaced = |form| Image {
        form,
        is_ours: memchr::memmem::find(bytes, OUR_MARK.as_bytes()).is_some(),
        extent: None,
        load_offset: None,
        cut: None,
        linux: None,
    };
    if bytes.starts_with(&elf::ELFMAG) {
        let extent = elf_extent(bytes)?;
        return Ok(Image {
            extent: Some(extent),
            ..unplaced(Form::Elf)
        });
    }
    if bytes.starts_with(b"MZ") && bytes.get(4..8) == Some(b"zimg") {
        return Ok(Image {
            cut: cut(bytes),
            ..unplaced(Form::Zboot)
        });
    }
    match Header::read(bytes) {
        Some(header) if header.flags & 1 != 0 => Err("a big-endian kernel".into()),
        Some(header) => Ok(Image {
            load_offset: Some(load_offset(&header)),
            cut: cut(bytes),
            linux: linux(&header, bytes),
            ..unplaced(Form::Raw)
        }),
        None if bytes.is_empty() => Err("an empty file".into()),
        None => Err("neither an arm64 Image (no \"ARM\\x64\" at offset 56) nor an ELF".into()),
    }
}

/// What a PE header, if there is one, tells of bytes behind the end of the file.
pub(crate) fn cut(bytes: &[u8]) -> Option<(u64, u64)> {
    let file = PeFile64::parse(bytes).ok()?;
    let ends = file.section_table().iter().map(|section| {
        let start = section.pointer_to_raw_data.get(LittleEndian);
        u64::from(start) + u64::from(section.size_of_raw_data.get(LittleEndian))
    });
    let (there, wanted) = (bytes.len() as u64, ends.max()?);
    (there < wanted).then_some((there, wanted))
}

/// What an image tells of the Linux in it, if there is one. Without a PE header its variables may be
/// anywhere.
fn linux(header: &Header, bytes: &[u8]) -> Option<LinuxImage> {
    memchr::memmem::find(bytes, b"Linux version ")?;
    let data_section = PeFile64::parse(bytes).ok().and_then(|file| {
        let sections = file.section_table();
        let data = sections.iter().find(|it| it.name == *b".data\0\0\0")?;
        let start = data.virtual_address.get(LittleEndian);
        Some((start.into(), data.virtual_size.get(LittleEndian).into()))
    });
    let (data_start, data_bytes) = data_section.unwrap_or((0, header.image_size));
    Some(LinuxImage {
        header: *bytes.first_chunk()?,
        data_start,
        data_bytes: data_bytes.min(MOST_VARIABLES) as usize,
    })
}

/// Where QEMU puts an image: out of the way of its own first instructions.
fn load_offset(header: &Header) -> u64 {
    match (header.image_size, header.text_offset) {
        (0, _) => 0x8_0000,
        (_, offset @ ..0x1000) => offset + (2 << 20),
        (_, offset) => offset,
    }
}

/// The physical addresses that an ELF fills.
fn elf_extent(bytes: &[u8]) -> Result<(u64, u64), String> {
    let broken = |error: object::Error| format!("a broken ELF: {error}");
    let header = elf::FileHeader64::<LittleEndian>::parse(bytes)
        .map_err(|_| "an ELF, but not a 64-bit little-endian one".to_owned())?;
    let endian = LittleEndian;
    if header.e_machine(endian) != elf::EM_AARCH64 {
        return Err("an ELF for another machine than aarch64".into());
    }
    let mut extent: Option<(u64, u64)> = None;
    for segment in header.program_headers(endian, bytes).map_err(broken)? {
        if segment.p_type(endian) != elf::PT_LOAD || segment.p_memsz(endian) == 0 {
            continue;
        }
        if segment.data(endian, bytes).is_err() {
            return Err("a truncated ELF".into());
        }
        let start = segment.p_paddr(endian);
        let end = start.saturating_add(segment.p_memsz(endian));
        let (low, high) = extent.unwrap_or((start, end));
        extent = Some((low.min(start), high.max(end)));
    }
    extent.ok_or_else(|| "an ELF with nothing to load".into())
}

/// Whether what an ELF loads lies in the RAM of a `virt` machine with `ram` bytes. QEMU itself
/// says nothing where it does not, and the guest stays silent.
///
/// # Errors
/// Where it lies instead.
pub fn check_extent_on_virt(image: &Image, ram: u64) -> Result<(), String> {
    let Some((low, high)) = image.extent else {
        return Ok(());
    };
    let top = VIRT_RAM.saturating_add(ram);
    if low >= VIRT_RAM && high <= top {
        return Ok(());
    }
    let mut reason = format!(
        "the ELF loads {low:#x}..{high:#x}, but this machine's RAM is {VIRT_RAM:#x}..{top:#x}"
    );
    if low >= 0xffff_0000_0000_0000 {
        reason.push_str(" (its physical addresses are virtual ones: boot the Image made from it)");
    }
    Err(reason)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::guest::Guest;

    fn gzip(bytes: &[u8]) -> Vec<u8> {
        use std::io::Write;
        let mut packer = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
        packer.write_all(bytes).unwrap();
        packer.finish().unwrap()
    }

    #[test]
    fn raw_and_packed_images_are_told() {
        let foreign = Guest::default().power_off().image();
        let image = classify(&foreign).unwrap();
        assert_eq!((image.form, image.is_ours), (Form::Raw, false));
        assert_eq!(classify(&gzip(&foreign)).unwrap().form, Form::Gzip);

        let ours = Guest::default().ours().image();
        assert!(classify(&ours).unwrap().is_ours);
        assert!(classify(&gzip(&ours)).unwrap().is_ours);
    }

    #[test]
    fn a_linux_tells_where_its_variables_are() {
        let guest = Guest::default().power_off().image();
        assert_eq!(classify(&guest).unwrap().linux, None);

        let linux = [&guest, &b"Linux version 6.1"[..]].concat();
        let image = classify(&linux).unwrap().linux.unwrap();
        let size = Header::read(&guest).unwrap().image_size;
        assert_eq!((image.data_start, image.data_bytes as u64), (0, size));
        assert_eq!(image.header[..], guest[..Header::LENGTH]);
    }

    #[test]
    fn what_cannot_boot_is_refused_with_the_reason() {
        let good = Guest::default().power_off().image();
        let packed = gzip(&good);
        let mut big_endian = good.clone();
        big_endian[24] |= 1;
        for (bytes, reason) in [
            (&b""[..], "empty"),
            (&[0x55; 4096], "neither"),
            (&good[..60], "neither"),
            (&packed[..packed.len() - 9], "broken"),
            (&gzip(b"text")[..], "unpacked, neither"),
            (b"\x7fELF\x01\x01\x01", "not a 64-bit"),
            (&big_endian, "big-endian"),
        ] {
            let error = classify(bytes).unwrap_err();
            assert!(error.contains(reason), "{error:?} lacks {reason:?}");
        }
    }

    #[test]
    fn an_elf_outside_of_ram_is_refused() {
        let image = |low, high| Image {
            form: Form::Elf,
            is_ours: false,
            extent: Some((low, high)),
            load_offset: None,
            cut: None,
            linux: None,
        };
        let ram = 128 << 20;
        assert!(check_extent_on_virt(&image(0x4020_0000, 0x4030_0000), ram).is_ok());
        assert!(check_extent_on_virt(&image(0x4020_0000, 0x4900_0000), ram).is_err());
        assert!(check_extent_on_virt(&image(0x8_0000, 0x9_0000), ram).is_err());
        let high = check_extent_on_virt(&image(0xffff_8000_8000_0000, u64::MAX), ram);
        assert!(high.unwrap_err().contains("virtual"));
    }
}
