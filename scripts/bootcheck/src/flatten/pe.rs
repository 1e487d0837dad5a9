//! What UEFI reads of the Image, held to what the strictest firmware wants: an application for
//! arm64 whose sections lie where file and memory agree, none of them writable and executable.

use anyhow::{Context, ensure};
use object::LittleEndian as LE;
use object::pe::{self, ImageOptionalHeader64, ImageSectionHeader};
use object::read::pe::{ImageNtHeaders, PeFile64};

/// A page of UEFI's: below it, sections cannot have rights of their own.
const PAGE: u32 = 4096;

/// Checks the PE header of an image that starts with "MZ"; others are no EFI applications.
///
/// # Errors
/// What is wrong with it.
pub fn check(image: &[u8], image_size: u64) -> anyhow::Result<()> {
    if !image.starts_with(b"MZ") {
        return Ok(());
    }
    let file = PeFile64::parse(image).context("not readable")?;
    let machine = file.nt_headers().file_header().machine.get(LE);
    ensure!(machine == pe::IMAGE_FILE_MACHINE_ARM64, "not for arm64");
    let header = &file.nt_headers().optional_header;
    let subsystem = header.subsystem.get(LE);
    ensure!(
        subsystem == pe::IMAGE_SUBSYSTEM_EFI_APPLICATION,
        "no EFI application"
    );
    ensure!(
        header
            .dll_characteristics
            .get(LE)
            .contains(pe::IMAGE_DLLCHARACTERISTICS_NX_COMPAT),
        "it does not say that it bears memory that is not executable"
    );
    let size = header.size_of_image.get(LE);
    ensure!(
        u64::from(size) == image_size,
        "its size is {size:#x}, not image_size ({image_size:#x})"
    );
    check_alignment(header)?;
    let sections: Vec<&ImageSectionHeader> = file.section_table().iter().collect();
    check_sections(image, header, &sections)
}

fn check_alignment(header: &ImageOptionalHeader64) -> anyhow::Result<()> {
    let (memory, file) = (
        header.section_alignment.get(LE),
        header.file_alignment.get(LE),
    );
    ensure!(
        memory.is_power_of_two() && memory >= PAGE,
        "sections are aligned to {memory:#x}, less than a page"
    );
    ensure!(
        file.is_power_of_two() && (512..=memory).contains(&file),
        "the file's alignment is {file:#x}"
    );
    Ok(())
}

fn check_sections(
    image: &[u8],
    header: &ImageOptionalHeader64,
    sections: &[&ImageSectionHeader],
) -> anyhow::Result<()> {
    let alignment = header.section_alignment.get(LE);
    let entry = header.address_of_entry_point.get(LE);
    // Sections follow each other from the headers to the end, without a gap.
    let mut end = header.size_of_headers.get(LE);
    let mut has_entry = false;
    for section in sections {
        let name = String::from_utf8_lossy(section.raw_name()).into_owned();
        let (start, size) = (
            section.virtual_address.get(LE),
            section.virtual_size.get(LE),
        );
        let (at, length) = (
            section.pointer_to_raw_data.get(LE),
            section.size_of_raw_data.get(LE),
        );
        let flags = section.characteristics.get(LE);
        let is_code = flags.contains(pe::IMAGE_SCN_MEM_EXECUTE);
        ensure!(
            !(is_code && flags.contains(pe::IMAGE_SCN_MEM_WRITE)),
            "{name} is writable and executable"
        );
        ensure!(
            start == end && start.is_multiple_of(alignment),
            "{name} starts at {start:#x}, not right behind what is before it ({end:#x})"
        );
        ensure!(
            at == start && length <= size,
            "{name} lies elsewhere in the file than in memory"
        );
        let file_end = u64::from(at) + u64::from(length);
        ensure!(
            length.is_multiple_of(header.file_alignment.get(LE)) && file_end <= image.len() as u64,
            "{name} ends at {file_end:#x} of a file of {:#x} bytes",
            image.len()
        );
        has_entry |= is_code && (start..start.saturating_add(length)).contains(&entry);
        end = start.saturating_add(size);
    }
    let size = header.size_of_image.get(LE);
    ensure!(
        end == size,
        "sections end at {end:#x}, the image at {size:#x}"
    );
    ensure!(has_entry, "its entry {entry:#x} is in no code");
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    const HEADER: usize = 0x80;
    const OPTIONAL: usize = HEADER + 24;
    const SECTIONS: usize = OPTIONAL + 112;

    /// Code at 0x1000, data at 0x2000 with a tail that is not in the file.
    fn good() -> Vec<u8> {
        let mut image = vec![0; 0x2200];
        let mut put = |at: usize, bytes: &[u8]| image[at..at + bytes.len()].copy_from_slice(bytes);
        put(0, b"MZ");
        put(0x3c, &(HEADER as u32).to_le_bytes());
        put(HEADER, b"PE\0\0");
        // arm64, two sections; the optional header's size, executable.
        put(HEADER + 4, &[0x64, 0xaa, 2]);
        put(HEADER + 20, &[112, 0, 0x06, 0x02]);
        put(OPTIONAL, &[0x0b, 0x02]);
        for (at, value) in [
            (16, 0x1010_u32), // entry
            (32, 0x1000),     // alignment in memory
            (36, 0x200),      // and in the file
            (56, 0x4000),     // size
            (60, 0x1000),     // headers
            (68, 0x100_000a), // NX_COMPAT, application
        ] {
            put(OPTIONAL + at, &value.to_le_bytes());
        }
        let sections = [
            (
                b".text\0\0\0",
                [0x1000, 0x1000, 0x1000, 0x1000],
                0x6000_0020_u32,
            ),
            (b".data\0\0\0", [0x2000, 0x2000, 0x200, 0x2000], 0xc000_0040),
        ];
        for (number, (name, fields, flags)) in sections.into_iter().enumerate() {
            let at = SECTIONS + 40 * number;
            put(at, name);
            for (index, field) in fields.into_iter().enumerate() {
                put(at + 8 + 4 * index, &u32::to_le_bytes(field));
            }
            put(at + 36, &flags.to_le_bytes());
        }
        image
    }

    #[test]
    fn a_good_header_passes() {
        check(&good(), 0x4000).unwrap();
        check(b"no application", 0).unwrap();
    }

    #[test]
    fn every_mistake_is_named() {
        for (at, byte, complaint) in [
            (0x3c, 0xff, "not readable"),
            (HEADER, 0, "not readable"),
            (HEADER + 4, 0x65, "not for arm64"),
            (OPTIONAL + 17, 0x20, "in no code"),
            (OPTIONAL + 17, 0x00, "in no code"),
            (OPTIONAL + 33, 0x08, "less than a page"),
            (OPTIONAL + 37, 0x01, "file's alignment"),
            (OPTIONAL + 57, 0x50, "image_size"),
            (OPTIONAL + 61, 0x08, "right behind"),
            (OPTIONAL + 68, 11, "no EFI application"),
            (OPTIONAL + 71, 0, "not executable"),
            (SECTIONS + 9, 0x18, "right behind"),
            (SECTIONS + 13, 0x08, "right behind"),
            (SECTIONS + 17, 0x20, "elsewhere"),
            (SECTIONS + 21, 0x08, "elsewhere"),
            (SECTIONS + 39, 0xe0, "writable and executable"),
            (SECTIONS + 40 + 9, 0x10, "sections end at"),
            (SECTIONS + 40 + 17, 0x04, "of a file of"),
            (SECTIONS + 40 + 16, 0x10, "of a file of"),
        ] {
            let mut image = good();
            image[at] = byte;
            let error = format!("{:#}", check(&image, 0x4000).unwrap_err());
            assert!(
                error.contains(complaint),
                "{at:#x}: {error:?} lacks {complaint:?}"
            );
        }
    }
}
