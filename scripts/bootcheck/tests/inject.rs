//! `bootcheck inject` on a guest of a few instructions, which shares no code with the kernel.

mod common;
#[allow(dead_code)]
#[path = "../src/testelf.rs"]
mod testelf;

use std::process::{Command, Output};

use bootcheck::guest::Guest;
use common::{Bench, json, status, text};

/// A guest that passes, and the ELF it could have been made from.
fn bench() -> Bench {
    let image = Guest::default()
        .ours()
        .print("boot: PASS\n")
        .power_off()
        .image();
    let words = image.chunks_exact(4);
    let code: Vec<u32> = words
        .map(|word| u32::from_le_bytes(word.try_into().unwrap()))
        .collect();
    let bench = Bench::with_bytes(&image);
    let functions = [
        ("header", 0, 0x40),
        ("guest", 0x40, 4 * code.len() as u64 - 0x40),
    ];
    let elf = testelf::image(&functions, &code);
    std::fs::write(bench.path("kernel.elf"), elf).unwrap();
    bench
}

fn inject(bench: &Bench, options: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_bootcheck"))
        .arg("inject")
        .arg("--image")
        .arg(bench.path("Image"))
        .arg("--elf")
        .arg(bench.path("kernel.elf"))
        .args(options)
        .env("NO_COLOR", "1")
        .output()
        .unwrap()
}

#[test]
fn every_instruction_is_named_though_nothing_in_the_guest_helps() {
    let bench = bench();
    let output = inject(&bench, &["--json", "-"]);
    let stderr = text(&output.stderr);
    assert_eq!(status(&output), 0, "{stderr}");
    let hits = json(&output);
    let hits = hits.as_array().unwrap();
    // The first instruction branches over the header; the last one powers off.
    assert!(hits.len() > 20, "{stderr}");
    assert_eq!(hits[0]["address"], "0xffff800080000000");
    assert!(hits.iter().all(|hit| hit["exact"] == true));
    assert!(
        stderr.contains(&format!("{0} of {0} exact", hits.len())),
        "{stderr}"
    );
}

#[test]
fn only_what_is_asked_for() {
    let bench = bench();
    let list = |options: &[&str]| {
        let output = inject(&bench, &[options, &["--list"]].concat());
        (status(&output), text(&output.stdout).lines().count())
    };
    assert_eq!(list(&["--symbols", "header"]), (0, 2));
    assert_eq!(list(&["--kind", "udf", "--range", "0x0..0x48"]), (0, 3));
    assert_eq!(list(&["--sample", "3"]), (0, 3));
    assert_eq!(list(&["--symbols", "nowhere"]).0, 129);
    assert_eq!(list(&["--range", "x"]).0, 129);
    assert_eq!(list(&["--seed", "x"]).0, 129, "a seed of what?");
}

#[test]
fn without_an_elf_or_an_image_nothing_is_tried() {
    let bench = bench();
    std::fs::remove_file(bench.path("kernel.elf")).unwrap();
    assert_eq!(status(&inject(&bench, &[])), 129);
    std::fs::remove_file(bench.path("Image")).unwrap();
    assert_eq!(status(&inject(&bench, &[])), 129);
}
