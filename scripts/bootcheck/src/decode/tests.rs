use super::*;
use crate::testelf::{self, BASE};

/// A decoder with an ELF of two functions, `first` and `second`, 16 bytes each.
fn decoder(directory: &tempfile::TempDir) -> Decoder {
    let path = directory.path().join("kernel.elf");
    let elf = testelf::image(&[("first", 0, 16), ("second", 16, 16)], &[0; 8]);
    std::fs::write(&path, elf).unwrap();
    Decoder::new(Arc::new(Source::new(path)))
}

fn decode(pieces: &[&[u8]]) -> String {
    let directory = tempfile::tempdir().unwrap();
    let mut decoder = decoder(&directory);
    let mut out = Vec::new();
    for piece in pieces {
        decoder.push(piece, &mut out);
    }
    decoder.finish(&mut out);
    String::from_utf8_lossy(&out).into_owned()
}

#[test]
fn known_addresses_get_their_place_and_the_rest_passes() {
    assert_eq!(
        decode(&[b"hello\npc : 0x1 _text+0x14\nboot: FAIL\n"]),
        "hello\npc : 0x1 _text+0x14 second+0x4\nboot: FAIL\n"
    );
    assert_eq!(
        decode(&[b"at 0x40200004, and"]),
        "at 0x40200004, and first+0x4"
    );
    let high = format!("at {:#x}\r\n", BASE + 4);
    assert_eq!(
        decode(&[high.as_bytes()]),
        format!("at {:#x} first+0x4\r\n", BASE + 4)
    );
    // Beyond the code, and the image's own address.
    for line in [
        "at 0x40200020\n",
        "at 0x40200000\n",
        "_text+0x4000\n",
        "nothing+0x4/0x8\n",
    ] {
        assert_eq!(decode(&[line.as_bytes()]), line);
    }
}

#[test]
fn a_load_address_counts_from_where_it_is_told() {
    assert_eq!(
        decode(&[b"at 0x70000004\nimage at 0x70000000,\nat 0x70000004\n"]),
        "at 0x70000004\nimage at 0x70000000,\nat 0x70000004 first+0x4\n"
    );
}

#[test]
fn bytes_come_out_as_they_went_in_whatever_the_pieces() {
    let text = b"a\r\n\r\rb \xff\xc3 \x1b[31m\r\n_text+0x4\r\nlast\r";
    let whole = decode(&[text]);
    let single: Vec<&[u8]> = text.chunks(1).collect();
    assert_eq!(decode(&single), whole);
    assert!(
        whole.contains("\r\n_text+0x4 first+0x4\r\nlast\r"),
        "{whole:?}"
    );

    let directory = tempfile::tempdir().unwrap();
    let mut decoder = decoder(&directory);
    let mut out = Vec::new();
    let noise: Vec<u8> = (0..20_000_u32).map(|n| ((n * n) >> 3) as u8).collect();
    decoder.push(&noise, &mut out);
    decoder.finish(&mut out);
    assert_eq!(out, noise);
}

#[test]
fn a_line_is_shown_before_it_is_complete() {
    let directory = tempfile::tempdir().unwrap();
    let mut decoder = decoder(&directory);
    let mut out = Vec::new();
    decoder.push(b"at _text+0x4", &mut out);
    assert_eq!(out, b"at _text+0x4");
    decoder.push(b"\n", &mut out);
    assert_eq!(out, b"at _text+0x4 first+0x4\n");
}

#[test]
fn without_an_elf_everything_passes() {
    let mut decoder = Decoder::new(Arc::new(Source::new("/nonexistent".into())));
    let mut out = Vec::new();
    decoder.push(b"at _text+0x4\n", &mut out);
    assert_eq!(out, b"at _text+0x4\n");
}
