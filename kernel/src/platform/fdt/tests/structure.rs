//! The blob as such.

use super::blob::Blob;
use super::*;

#[test]
fn total_size_of_headers() {
    let header = |magic: u32, size: u32| {
        let mut header = [0; HEADER_BYTES];
        header[..4].copy_from_slice(&magic.to_be_bytes());
        header[4..8].copy_from_slice(&size.to_be_bytes());
        total_size(&header)
    };
    let magic = 0xd00d_feed;
    for size in [40, 41, 2 << 20] {
        assert_eq!(header(magic, size), Ok(size as usize));
    }
    for size in [0, 39, (2 << 20) + 1, u32::MAX] {
        assert_eq!(header(magic, size), Err(FdtError::BadSize(size)));
    }
    for other in [0, 0xedfe_0dd0, magic + 1] {
        assert_eq!(header(other, 40), Err(FdtError::BadMagic(other)));
    }
}

/// The specification allows 31 characters; the Raspberry Pi 4's tree has these.
#[test]
fn names_longer_than_the_specification_allows_are_read() {
    let long = "arm,cpu-registers-not-fw-configured";
    let blob = Blob::with_memory()
        .node("timer", |n| n.property(long, &[]))
        .node(&"n".repeat(40), |n| n.property("odd name", &[]))
        .pl011("serial@9000000", &[0, 0x900_0000, 0, 0x1000]);
    assert!(Fdt::new(&blob.clone().finish()).is_err());
    assert_eq!(good(blob).uart, Some(0x900_0000));

    let named = |length| {
        Blob::with_memory()
            .node("n", |n| n.property(&"p".repeat(length), &[]))
            .finish()
    };
    assert!(read_blob(&named(127)).is_ok());
    assert!(matches!(
        read_blob(&named(128)),
        Err(FdtError::Malformed(_))
    ));
}

#[test]
fn broken_structures_are_told() {
    let good = Blob::with_memory().reserve(1, 1).finish();
    let with = |offset: usize, value: u32| {
        let mut blob = good.clone();
        blob[offset..offset + 4].copy_from_slice(&value.to_be_bytes());
        match read_blob(&blob) {
            Err(FdtError::Malformed(malformed)) => malformed.what,
            other => panic!("{offset}, {value:#x}: {other:?}"),
        }
    };
    let size = good.len() as u32;
    let structure = 72;
    assert_eq!(with(4, size - 4), "totalsize is not the blob's length");
    assert_eq!(with(20, 16), "not compatible with version 17");
    assert_eq!(with(24, 18), "not compatible with version 17");
    for place in [0, 32, 44] {
        assert_eq!(with(16, place), "bad place of the reservations");
    }
    for place in [structure, 0xffff_fff8] {
        assert_eq!(with(16, place), "the reservations have no end");
    }
    // The end of the list, overwritten.
    assert_eq!(with(56, 1), "the reservations have no end");
    assert_eq!(with(8, structure + 2), "bad place of the structure block");
    for (field, value) in [(8, size & !3), (12, structure), (32, size), (36, u32::MAX)] {
        assert_eq!(with(field, value), "blocks overlap, or leave the blob");
    }
    // What the root begins with, then its first property.
    let root = structure as usize;
    for token in [0, 2, 3, 4, 5, 9, u32::MAX] {
        assert_eq!(with(root, token), "a token that cannot be");
    }
    assert_eq!(with(root + 12, u32::MAX), "the structure block ends early");
    assert_eq!(
        with(root + 16, u32::MAX),
        "a name that has no end or is not text"
    );
    assert_eq!(
        with(good.len() - 4, u32::MAX),
        "a name that has no end or is not text"
    );
}
