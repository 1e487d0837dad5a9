//! Command line, initial RAM disk, and seeds.

use std::string::String;

use super::blob::Blob;
use super::*;

fn bootargs(value: &[u8]) -> CommandLine {
    good(Blob::with_memory().chosen(|n| n.property("bootargs", value))).bootargs
}

#[test]
fn bootargs_are_a_c_string_whatever_is_in_them() {
    for (value, text) in [
        (&b"loglevel=8 ptdump\0"[..], "loglevel=8 ptdump"),
        (b"no NUL", "no NUL"),
        (b"one\0two\0", "one"),
        (b"\0", ""),
        (b"", ""),
        (
            b"linear=page caf\xe9 \xff\xfe ptdump\0",
            "linear=page caf? ?? ptdump",
        ),
        ("naïve=é\0".as_bytes(), "naïve=é"),
        (
            b"esc=\x1b[31m bell\x07 del\x7f tab\tline\n\0",
            "esc=?[31m bell? del? tab\tline",
        ),
    ] {
        assert_eq!(bootargs(value).as_str(), text);
        assert!(!bootargs(value).is_cut());
    }
    assert_eq!(good(Blob::with_memory()).bootargs.as_str(), "");
}

#[test]
fn bootargs_that_are_too_long_end_with_a_whole_word() {
    let line = |last: &str| {
        let mut line = String::from("a ").repeat(1023);
        line.push_str(last);
        line
    };
    let fits = bootargs(line("é").as_bytes());
    assert_eq!(fits.as_str(), line("é"));
    assert!(!fits.is_cut());
    for last in ["éx", "xé", "exit=halt", "xx xx"] {
        let cut = bootargs(line(last).as_bytes());
        let whole = if last == "xx xx" { "xx" } else { "" };
        assert_eq!(cut.as_str().trim_end(), line(whole).trim_end(), "{last}");
        assert!(cut.is_cut());
    }
    // A line that only ends in blanks loses nothing.
    assert!(!bootargs(line("xx  \n").as_bytes()).is_cut());
    let one_word = bootargs(&[b'x'; 5000]);
    assert_eq!((one_word.as_str(), one_word.is_cut()), ("", true));
}

#[test]
fn initrd() {
    let of = |start: &[u32], end: &[u32]| {
        good(Blob::with_memory().chosen(|n| {
            n.cells("linux,initrd-start", start)
                .cells("linux,initrd-end", end)
        }))
        .initrd
    };
    let at = |start, end| Some(PhysRange { start, end });
    assert_eq!(
        of(&[0x4800_0000], &[0x4800_1234]),
        at(0x4800_0000, 0x4800_1234)
    );
    assert_eq!(of(&[1, 0], &[1, 0x10]), at(0x1_0000_0000, 0x1_0000_0010));
    assert_eq!(
        of(&[0x4800_0000], &[0, 0x4900_0000]),
        at(0x4800_0000, 0x4900_0000)
    );
    for (start, end) in [
        (&[0x10][..], &[0x10][..]),
        (&[0x10], &[0xf]),
        (&[], &[0x10]),
        (&[0, 0, 0x10], &[0, 0, 0x20]),
    ] {
        assert_eq!(of(start, end), None, "{start:?} {end:?}");
    }
    let no_end = Blob::with_memory().chosen(|n| n.cells("linux,initrd-start", &[0x10]));
    assert_eq!(good(no_end).initrd, None);
}

#[test]
fn seeds_are_wiped_and_nothing_else() {
    let seeds = |n: Blob, byte: u8| {
        n.property("kaslr-seed", &[byte; 8])
            .text("bootargs", "ptdump")
            .property("rng-seed", &[byte; 31])
            // Twice the same name: whoever gets this one must not learn it either.
            .property("rng-seed", &[byte; 3])
    };
    let tree = |byte: u8| {
        Blob::with_memory()
            .chosen(|n| seeds(n, byte).node("sub", |n| n.property("rng-seed", &[7; 4])))
            .node("other", |n| seeds(n, 7))
            .finish()
    };
    let mut blob = tree(0xa5);
    assert_eq!(find_and_wipe(&mut blob), Ok(3));
    assert_eq!(blob, tree(0));
    assert_eq!(find_and_wipe(&mut Blob::with_memory().finish()), Ok(0));

    let mut virt = VIRT.to_vec();
    assert_eq!(find_and_wipe(&mut virt), Ok(2));
    assert_ne!(virt, VIRT);
    assert!(read_blob(&virt).is_ok());

    let mut broken = tree(0xa5);
    broken[8] = 0xff;
    let before = broken.clone();
    assert!(matches!(
        find_and_wipe(&mut broken),
        Err(FdtError::Malformed(_))
    ));
    assert_eq!(broken, before);
}

#[test]
fn the_first_chosen_node_counts_but_for_seeds() {
    let blob = Blob::with_memory()
        .chosen(|n| {
            n.cells("linux,initrd-start", &[0x10])
                .property("rng-seed", &[7; 4])
        })
        .node("chosen@1", |n| {
            n.text("bootargs", "ptdump")
                .cells("linux,initrd-end", &[0x20])
                .property("rng-seed", &[7; 4])
        });
    let firmware = good(blob);
    assert_eq!(firmware.bootargs.as_str(), "");
    assert_eq!(firmware.initrd, None);
    assert_eq!(firmware.seeds.as_slice().len(), 2);
}

#[test]
fn behind_too_many_seeds_all_is_read() {
    let blob = Blob::with_memory().chosen(|n| {
        let seeded = (0..MAX_RANGES + 1).fold(n, |n, _| n.property("rng-seed", &[7; 4]));
        seeded.text("bootargs", "ptdump")
    });
    let mut firmware = Firmware::new();
    let result = read(&blob.finish(), &mut firmware);
    assert_eq!(result, Err(FdtError::TooManySeeds));
    assert_eq!(firmware.bootargs.as_str(), "ptdump");
}

#[test]
fn seeds_of_another_blob_are_not_wiped() {
    let seeds = read_blob(VIRT).unwrap().seeds;
    let mut short = VIRT[..100].to_vec();
    assert_eq!(wipe_seeds(&mut short, &seeds), None);
    assert_eq!(short, VIRT[..100]);
}

/// RAM is 128 MiB at 1 GiB; the image has 1 MiB at 2 MiB, the tree 4 KiB at 64 MiB.
#[test]
fn an_initrd_that_cannot_be_where_it_is_said_to_be_is_told() {
    let [image, fdt] = [(0x4020_0000, 0x4030_0000), (0x4400_0000, 0x4400_1000)]
        .map(|(start, end)| PhysRange { start, end });
    let conflict = |start: u32, end: u32| {
        let firmware = good(Blob::with_memory().chosen(|n| {
            n.cells("linux,initrd-start", &[start])
                .cells("linux,initrd-end", &[end])
        }));
        firmware.initrd_conflict(image, fdt)
    };
    assert_eq!(good(Blob::with_memory()).initrd_conflict(image, fdt), None);
    for (start, end, word) in [
        (0x4030_0000, 0x4400_0000, None),
        (0x4400_1000, 0x4800_0000, None),
        (0x402f_ffff, 0x4100_0000, Some("image")),
        (0x43ff_0000, 0x4400_0001, Some("device tree")),
        (0x47ff_0000, 0x4800_0001, Some("RAM")),
        (0x3fff_ffff, 0x4000_1000, Some("RAM")),
    ] {
        let told = conflict(start, end);
        let as_expected = match (told, word) {
            (Some(told), Some(word)) => told.contains(word),
            (told, word) => told.is_none() && word.is_none(),
        };
        assert!(as_expected, "{start:#x}-{end:#x}: {told:?}, not {word:?}");
    }
}
