//! The blob as such.

use std::string::ToString;
use std::vec::Vec;

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
    for size in [40, 41, 3 << 20] {
        assert_eq!(header(magic, size), Ok(size as usize));
    }
    for size in [0, 39, (3 << 20) + 1, u32::MAX] {
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

/// `blob` with a NOP at `offset` in its structure block.
fn with_nop(blob: &[u8], offset: usize) -> Vec<u8> {
    let mut blob = blob.to_vec();
    blob.splice(offset..offset, [0, 0, 0, 4]);
    // The sizes of blob and block, and the place of the strings behind it.
    for field in [4, 12, 36] {
        let field = blob[field..].first_chunk_mut::<4>().unwrap();
        *field = (u32::from_be_bytes(*field) + 4).to_be_bytes();
    }
    blob
}

/// dtoolkit relies on each of these, and panics else.
#[test]
fn tokens_in_the_wrong_place_are_told() {
    let told = |change: fn(&mut Blob)| {
        let mut blob = Blob::with_memory();
        change(&mut blob);
        match read_blob(&blob.finish()) {
            Err(FdtError::Malformed(malformed)) => malformed.what,
            other => panic!("{other:?}"),
        }
    };
    let cannot_be = "a token that cannot be";
    assert_eq!(told(|blob| blob.add("late", &[])), cannot_be);
    let second_root = |blob: &mut Blob| {
        blob.word(2);
        blob.begin("");
    };
    assert_eq!(told(second_root), cannot_be);
    assert_eq!(told(|blob| blob.word(2)), cannot_be);
    assert_eq!(told(|blob| blob.word(9)), cannot_be);
    assert_eq!(told(|blob| blob.begin("open")), cannot_be);

    // The block ends one token early; or a NOP comes before the root.
    let good = Blob::with_memory().finish();
    let with = |offset: usize, change: fn(u32) -> u32| {
        let mut blob = good.clone();
        let word: &mut [u8; 4] = (&mut blob[offset..offset + 4]).try_into().unwrap();
        *word = change(u32::from_be_bytes(*word)).to_be_bytes();
        blob
    };
    let early = read_blob(&with(36, |size| size - 4));
    assert!(early.unwrap_err().to_string().contains("ends early"));
    let before_root = with_nop(&good, 56);
    let error = read_blob(&before_root).unwrap_err();
    assert!(error.to_string().contains(cannot_be), "{error}");
}

#[test]
fn nops_are_nothing() {
    let mut blob = Blob::new(2, 2);
    blob.word(4);
    let mut blob = blob.memory("memory", &[0, 0x4000_0000, 0, 0x1000]);
    blob.word(4);
    let mut blob = blob.node("chosen", |mut n| {
        n.word(4);
        let mut n = n.text("bootargs", "ptdump");
        n.word(4);
        n
    });
    blob.word(4);
    let strings = b"#address-cells\0#size-cells\0device_type\0reg\0bootargs\0";
    let blob = blob.finish();
    // And one after the root's end, before the end of all.
    let blob = with_nop(&blob, blob.len() - strings.len() - 4);
    let firmware = read_blob(&blob).unwrap();
    assert_eq!(firmware.bootargs.as_str(), "ptdump");
    assert_eq!(firmware.memblock.memory.as_slice().len(), 1);
}
