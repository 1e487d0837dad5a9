use super::build::is_equal_but_signed;
use super::*;

/// An ELF with `_text` at `BASE`, loaded at `LOAD`, and functions of these names, starts and sizes.
fn tiny(functions: &[(&str, u64, u64)]) -> Symbols {
    Symbols::parse(testelf::image(functions, &[0xd503_201f; 64]).into()).unwrap()
}

use crate::testelf::{self, BASE, LOAD};

fn symbol(symbols: &Symbols, offset: u64) -> Option<String> {
    let place = symbols.resolve(BASE + offset, Meaning::Executing);
    place.summary()
}

#[test]
fn an_address_belongs_to_the_function_that_covers_it() {
    let symbols = tiny(&[
        ("first", 0x00, 0x10),
        ("$x", 0x10, 0),
        ("label", 0x18, 0),
        ("outer", 0x20, 0x40),
        ("inner_label", 0x28, 0),
    ]);
    for (offset, expected) in [
        (0x00, Some("first+0x0")),
        (0x0c, Some("first+0xc")),
        (0x10, None),
        (0x1c, Some("label+0x4")),
        (0x30, Some("outer+0x10")),
        (0x60, None),
        (0x1000_0000, None),
    ] {
        assert_eq!(symbol(&symbols, offset).as_deref(), expected, "{offset:#x}");
    }
    assert_eq!(symbols.address_of("outer"), Some(BASE + 0x20));
    assert_eq!(symbols.address_of("_text"), Some(BASE));
}

#[test]
fn a_return_address_belongs_to_the_call_before_it() {
    let symbols = tiny(&[("caller", 0, 0x10), ("next", 0x10, 0x10)]);
    let place = symbols.resolve(BASE + 0x10, Meaning::Return);
    assert_eq!(place.summary().as_deref(), Some("caller+0x10"));
    let place = symbols.resolve(BASE + 0x10, Meaning::Executing);
    assert_eq!(place.summary().as_deref(), Some("next+0x0"));
}

#[test]
fn every_position_leads_back_to_the_address_as_linked() {
    let symbols = tiny(&[("f", 0, 0x10)]);
    let mut positions = Positions::of(&symbols);
    for (address, expected) in [
        (BASE + 8, Some(BASE + 8)),
        (LOAD + 8, Some(BASE + 8)),
        (LOAD - 4, None),
        (0x7000_0008, None),
        (8, None),
    ] {
        assert_eq!(
            positions.as_linked(&symbols, address),
            expected,
            "{address:#x}"
        );
    }
    positions.add(0x7000_0000);
    assert_eq!(positions.as_linked(&symbols, 0x7000_0008), Some(BASE + 8));
}

#[test]
fn calls_are_told_from_other_instructions() {
    let code = [
        0x9400_0001,
        0xd63f_0000,
        0xd63f_0aff,
        0xd65f_03c0,
        0x1400_0001,
    ];
    let symbols = Symbols::parse(testelf::image(&[], &code).into()).unwrap();
    for (offset, expected) in [
        (0, false),
        (4, true),
        (8, true),
        (12, true),
        (16, false),
        (20, false),
        (400, false),
    ] {
        assert_eq!(symbols.follows_call(BASE + offset), expected, "{offset}");
    }
}

#[test]
fn what_is_no_elf_is_an_error_and_not_a_panic() {
    let good = testelf::image(&[("f", 0, 8)], &[0; 4]);
    for length in 0..good.len() {
        if let Ok(symbols) = Symbols::parse(good[..length].into()) {
            let _ = symbols.resolve(BASE, Meaning::Executing);
        }
    }
    assert!(Symbols::parse(Arc::from(*b"no elf")).is_err());
}

#[test]
fn an_image_is_told_from_that_of_another_build() {
    let directory = tempfile::tempdir().unwrap();
    let path = |name| directory.path().join(name);
    let image = crate::guest::Guest::default().power_off().image();
    let code: Vec<u32> = image
        .chunks_exact(4)
        .map(|word| u32::from_le_bytes(word.try_into().unwrap()))
        .collect();
    std::fs::write(path("Image"), &image).unwrap();
    assert!(Source::for_image(None, &path("Image")).is_none());

    std::fs::write(path("kernel.elf"), testelf::image(&[], &code)).unwrap();
    let source = Source::for_image(None, &path("Image")).unwrap();
    assert!(source.get().is_ok());

    std::fs::write(path("other.elf"), testelf::image(&[], &code[1..])).unwrap();
    let source = Source::for_image(Some(path("other.elf")), &path("Image")).unwrap();
    assert!(source.get().unwrap_err().contains("was not made from"));
    // An ELF that boots is its own.
    std::fs::remove_file(path("kernel.elf")).unwrap();
    assert!(
        Source::for_image(None, &path("other.elf"))
            .unwrap()
            .get()
            .is_ok()
    );
}

#[test]
fn a_signature_makes_no_other_image() {
    let mut linked = vec![0x11; 0x200];
    linked[..2].copy_from_slice(b"MZ");
    linked[0x3c..0x40].copy_from_slice(&0x40_u32.to_le_bytes());
    let signed_at = |at: usize| {
        let mut image = linked.clone();
        image[at] = 0x22;
        is_equal_but_signed(0, &image, &linked)
    };
    for (at, is_same) in [
        (0x97, false),
        (0x98, true),
        (0x9b, true),
        (0x9c, false),
        (0xe7, false),
        (0xe8, true),
        (0xef, true),
        (0xf0, false),
        (0x1ff, false),
    ] {
        assert_eq!(signed_at(at), is_same, "{at:#x}");
    }
    let mut other = linked.clone();
    other[0x98] = 0x22;
    assert!(
        !is_equal_but_signed(0x1000, &other, &linked),
        "no header there"
    );
}

#[test]
fn what_ends_before_its_signature_is_compared_too() {
    let mut linked = vec![0x11; 0x200];
    linked[..2].copy_from_slice(b"MZ");
    linked[0x3c..0x40].copy_from_slice(&0x100_u32.to_le_bytes());
    let mut image = linked[..0x80].to_vec();
    assert!(is_equal_but_signed(0, &image, &linked[..0x80]));
    image[8] ^= 1;
    assert!(!is_equal_but_signed(0, &image, &linked[..0x80]));
}

#[test]
fn an_image_that_is_only_the_beginning_is_told() {
    let mut code = [0xd503_201f_u32; 64];
    code[60..].fill(0);
    let symbols = Symbols::parse(testelf::image(&[], &code).into()).unwrap();
    let image: Vec<u8> = code.iter().flat_map(|word| word.to_le_bytes()).collect();
    assert_eq!(symbols.whole_length(&image), None, "all is there");
    assert_eq!(
        symbols.whole_length(&image[..240]),
        None,
        "zeros are not missed"
    );
    assert_eq!(symbols.whole_length(&image[..239]), Some(240));
    assert_eq!(symbols.whole_length(&image[..64]), Some(240));
    assert_eq!(
        symbols.whole_length(b""),
        None,
        "of what it is the beginning"
    );
    let mut other = image[..64].to_vec();
    other[8] ^= 1;
    assert_eq!(symbols.whole_length(&other), None, "another build");
}

/// Sections that were left out on purpose do not excuse the kernel that fails without them.
#[test]
fn an_image_that_ends_with_a_section_is_not_called_cut() {
    let mut code = [0xd503_201f_u32; 64];
    code[14] = u32::from_le_bytes(*b"ARM\x64");
    let directory = tempfile::tempdir().unwrap();
    let (elf, path) = (directory.path().join("elf"), directory.path().join("Image"));
    let head = (".head.text", testelf::BASE, &[0; 80][..]);
    std::fs::write(&elf, testelf::with_sections(&[], &code, &[head])).unwrap();
    let image: Vec<u8> = code.iter().flat_map(|word| word.to_le_bytes()).collect();
    for (length, is_cut) in [(79, true), (80, false), (81, true), (256, false)] {
        std::fs::write(&path, &image[..length]).unwrap();
        let source = Source::for_image(Some(elf.clone()), &path).unwrap();
        assert_eq!(source.cut().is_some(), is_cut, "{length}");
    }
}
