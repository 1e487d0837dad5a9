//! Boots after a reset with RAM kept: what the kernel says that the boot before died of.
//!
//! These tests need the kernel, so they run only when asked for:
//! `cargo test -p bootcheck --test reboots -- --ignored`. `KERNEL_IMAGE` names another kernel than
//! `target/kernel/Image`; its ELF is `kernel.elf` beside it.

mod common;

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use bootcheck::blackbox::{NONCE, offset_in_image};
use bootcheck::guest::Guest;
use common::{Bench, json, kernel, record};
use serde_json::{Value, json};

/// Where QEMU puts the Image.
const LOADED_AT: u64 = 0x4020_0000;

/// Boots the kernel in this form.
fn boot(image: &Path, options: &[&str]) -> Value {
    let mut command = Command::new(env!("CARGO_BIN_EXE_bootcheck"));
    command.args(["boot", "-q", "--timeout", "20", "--json", "-", "--image"]);
    command
        .arg(image)
        .arg("--elf")
        .arg(kernel().with_file_name("kernel.elf"));
    json(&command.args(options).stdin(Stdio::null()).output().unwrap())
}

/// Verdicts of all boots, and what each said of the one before.
fn story(json: &Value) -> Vec<(&str, Option<&str>)> {
    let boots = json["earlier"].as_array().unwrap().iter().chain([json]);
    boots
        .map(|boot| {
            let verdict = boot["verdict"].as_str().unwrap();
            (verdict, boot["previous_boot"].as_str())
        })
        .collect()
}

#[test]
#[ignore = "needs the kernel: make image"]
fn a_death_is_told_once() {
    for (fault, verdict, death) in [
        (
            "PANIC@heap",
            "panic",
            "panic: fault=PANIC, at kernel/src/fault.rs:",
        ),
        (
            "EXCEPTION@fdt",
            "exception",
            "undefined instruction (EC 0x00), at 0x",
        ),
        ("LOOP@early_mmu", "hang", "no verdict, in stage early_mmu"),
        ("RESET@protect", "reset", "no verdict, in stage protect"),
        ("FAIL_SELFTEST", "fail", "self-tests failed, in stage done"),
    ] {
        let append = format!("fault={fault},once");
        for image in [kernel(), kernel().with_file_name("kernel.elf")] {
            // QEMU clears all of an ELF's memory at each reset, the record too.
            let is_kept = image.extension().is_none();
            let json = boot(&image, &["--append", &append, "--reboots", "2"]);
            let story = story(&json);
            let verdicts: Vec<&str> = story.iter().map(|(verdict, _)| *verdict).collect();
            if !is_kept {
                assert_eq!(verdicts, [verdict; 3], "{json:#}");
                assert!(story.iter().all(|(_, death)| death.is_none()), "{json:#}");
                continue;
            }
            assert_eq!(verdicts, [verdict, "pass", "pass"], "{json:#}");
            let told = story[1].1.unwrap_or_default();
            assert!(told.starts_with(death), "{told:?} for {fault}");
            let stage = fault.split_once('@').map_or("done", |(_, stage)| stage);
            assert!(told.ends_with(&format!(", in stage {stage}")), "{told:?}");
            assert_eq!((story[0].1, story[2].1), (None, None), "{fault}");
        }
    }
}

/// Each boot dies, and each tells of the one before; with no console, the record tells the tester.
#[test]
#[ignore = "needs the kernel: make image"]
fn every_boot_tells_of_the_one_before() {
    for words in ["", " earlycon=pl011,0x30000000"] {
        let append = format!("fault=OOM@protect{words}");
        let json = boot(&kernel(), &["--append", &append, "--reboots", "3"]);
        assert_eq!(json["silent"], !words.is_empty());
        let story = story(&json);
        assert_eq!(story.len(), 4);
        assert_eq!(story[0], ("panic", None));
        for (verdict, death) in &story[1..] {
            assert_eq!(*verdict, "panic");
            let death = death.expect("the boot before is told of");
            assert!(death.starts_with("panic: memory allocation of"), "{death}");
            assert!(death.ends_with("in stage protect"), "{death}");
        }
    }
}

/// A boot that dies before it opens its black box finds a record in RAM: not its own.
#[test]
#[ignore = "needs the kernel: make image"]
fn a_record_of_the_boot_before_is_not_taken_for_this_one() {
    let json = boot(
        &kernel(),
        &["--append", "fault=PANIC,once", "--reboots", "1"],
    );
    assert_eq!(
        (&json["verdict"], &json["stage"]),
        (&json!("pass"), &json!("done"))
    );
    // The first record is there; the second boot executes nothing of the kernel.
    let bench = Bench::with(Guest::default().ours().spin());
    let record = bench.path("record");
    std::fs::write(&record, a_record(|_| {})).unwrap();
    let address = black_box();
    let mut options = vec!["--elf".to_owned(), elf().display().to_string()];
    options.extend(preloaded(&record, address));
    let options: Vec<&str> = options.iter().map(String::as_str).collect();
    let json = bench.expect("hang", &options);
    assert_eq!(json["stage"], Value::Null, "the record has another number");
}

fn elf() -> PathBuf {
    kernel().with_file_name("kernel.elf")
}

/// Where the kernel's black box is.
fn black_box() -> u64 {
    LOADED_AT + offset_in_image(&std::fs::read(elf()).unwrap()).unwrap()
}

/// A record of version 1, changed.
fn a_record(change: impl FnOnce(&mut [u8])) -> Vec<u8> {
    let mut record = record(1);
    change(&mut record);
    record
}

/// Options that put a record into RAM, but for the nonce, which the tester itself puts there.
fn preloaded(record: &Path, address: u64) -> Vec<String> {
    let bytes = std::fs::read(record).unwrap();
    let nonce = NONCE as usize;
    let mut options = Vec::new();
    for (name, from, to) in [("head", 0, nonce), ("rest", nonce + 8, bytes.len())] {
        let file = record.with_file_name(name);
        std::fs::write(&file, &bytes[from..to]).unwrap();
        let address = address + from as u64;
        let device = format!(
            "loader,file={},addr={address:#x},force-raw=on",
            file.display()
        );
        options.push("--qemu-arg=-device".to_owned());
        options.push(format!("--qemu-arg={device}"));
    }
    options
}

#[test]
#[ignore = "needs the kernel: make image"]
fn what_is_half_written_or_of_another_version_is_no_death_certificate() {
    type Change = fn(&mut [u8]);
    let cases: [(Change, Option<&str>); 7] = [
        (|_| {}, Some("panic: oh no, at heap.rs:12, in stage heap")),
        // The panic, and the exception, were only being written.
        (
            |record| record[0x280] = 1,
            Some("no verdict, in stage heap"),
        ),
        (
            |record| record[0x280..0x284].fill(0xff),
            Some("no verdict, in stage heap"),
        ),
        (
            |record| record[0x100 + 8 * 37] = 1,
            Some("panic: oh no, at heap.rs:12, in stage heap"),
        ),
        // Whatever is in it, nothing goes wrong.
        (
            |record| record[0x20..].fill(0xff),
            Some("no verdict, in stage ?"),
        ),
        (|record| record[0x08] = 2, None),
        (|record| record[0] = 0, None),
    ];
    let directory = tempfile::tempdir().unwrap();
    for (number, (change, death)) in cases.into_iter().enumerate() {
        let record = directory.path().join("record");
        std::fs::write(&record, a_record(change)).unwrap();
        let options = preloaded(&record, black_box());
        let options: Vec<&str> = options.iter().map(String::as_str).collect();
        let json = boot(&kernel(), &options);
        assert_eq!(json["verdict"], "pass", "case {number}: {json:#}");
        assert_eq!(json["previous_boot"].as_str(), death, "case {number}");
    }
}

#[test]
fn a_guest_that_ends_qemu_cannot_be_reset() {
    let bench = Bench::with(Guest::default().semihosting_exit(0));
    let output = bench
        .command(&["--append", "exit=semihosting", "--reboots", "1"])
        .output()
        .unwrap();
    assert_eq!(output.status.code(), Some(129));
    let said = common::text(&output.stderr);
    assert!(
        said.contains("--reboots needs a machine to reset"),
        "{said}"
    );
}

/// What other people's guests did before a reset is told as well.
#[test]
fn every_boot_has_its_own_verdict() {
    let bench = Bench::with(Guest::default().print("boot: PASS\n").power_off());
    let json = bench.expect("pass", &["--reboots", "2"]);
    assert_eq!(story(&json), [("pass", None); 3]);
    assert_eq!(json["console"], "boot: PASS\n", "of the last boot alone");
    let json =
        Bench::with(Guest::default().execute(&[0]).spin()).expect("exception", &["--reboots", "2"]);
    assert_eq!(story(&json), [("exception", None); 3]);
    let json = Bench::with(Guest::default().reset()).expect("reset", &["--reboots", "1"]);
    assert_eq!(story(&json), [("reset", None); 2]);
}
