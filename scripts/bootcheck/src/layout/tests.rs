use super::*;
use crate::guest::Guest;
use crate::testelf;

fn write(directory: &tempfile::TempDir, name: &str, bytes: &[u8]) -> std::path::PathBuf {
    let path = directory.path().join(name);
    fs::write(&path, bytes).unwrap();
    path
}

#[test]
fn a_foreign_image_has_its_header() {
    let directory = tempfile::tempdir().unwrap();
    let image = write(&directory, "Image", &Guest::default().power_off().image());
    let layout = read(&image, None).unwrap();
    assert_eq!(layout.image.form, "raw");
    assert_eq!(
        (layout.image.granule, layout.image.anywhere),
        (Some(4096), Some(true))
    );
    assert_eq!(layout.image.unpacked_bytes, Some(layout.image.file_bytes));
    assert_eq!(layout.elf, None);
    assert!(text(&layout).contains("4 KiB pages, anywhere in RAM"));
}

#[test]
fn an_elf_has_segments_and_sections() {
    let directory = tempfile::tempdir().unwrap();
    let bytes = testelf::image(&[("main", 0, 16)], &[0xd503_201f; 8]);
    let elf = write(&directory, "kernel.elf", &bytes);
    let layout = read(&elf, None).unwrap().elf.unwrap();
    assert_eq!(layout.entry, hex(testelf::BASE));
    let [segment] = &*layout.segments else {
        panic!("{:?}", layout.segments)
    };
    assert_eq!((segment.permissions.as_str(), segment.bytes), ("r-x", 32));
    assert_eq!(segment.load_address, hex(testelf::LOAD));
    assert_eq!(segment.name, ".text");
    assert_eq!(layout.sections.len(), 1, "{:?}", layout.sections);
    let totals = Totals {
        file: 32,
        ..Totals::default()
    };
    assert_eq!(layout.totals, totals);
}

#[test]
fn garbage_is_told_by_name() {
    let directory = tempfile::tempdir().unwrap();
    let good = write(&directory, "Image", &Guest::default().power_off().image());
    let garbage = write(&directory, "garbage", &[0x55; 4096]);
    let other = testelf::image(&[], &[0xd503_201f; 8]);
    let other = write(&directory, "kernel.elf", &other);
    for (image, elf, reason) in [
        (&garbage, None, "is no image: neither"),
        (&directory.path().join("nowhere"), None, "cannot read"),
        (&good, Some(&other), "was not made from"),
        (&good, Some(&garbage), "was not made from"),
    ] {
        let error = format!(
            "{:#}",
            read(image, elf.map(|elf| elf.as_path())).unwrap_err()
        );
        assert!(error.contains(reason), "{error:?} lacks {reason:?}");
    }
}
