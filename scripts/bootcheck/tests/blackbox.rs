//! The black box of a guest without an ELF, found in its memory. The guest is a few instructions;
//! the record is part of its image.

mod common;
#[allow(dead_code)]
#[path = "../src/testelf.rs"]
mod testelf;

use std::fs::File;
use std::io::{Seek, SeekFrom, Write};
use std::process::Stdio;
use std::time::Duration;

use bootcheck::blackbox::WHOLE;
use bootcheck::guest::Guest;
use common::{Bench, json, record, text};
use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;

/// Where the record is in the image, which is loaded at a multiple of 2 MiB.
const OFFSET: usize = 64 << 10;

/// A guest that powers off, with a record of this version: a panic in stage `heap`.
fn guest_with_record(version: u8) -> Vec<u8> {
    with_record(Guest::default().ours().power_off(), version)
}

fn with_record(guest: Guest, version: u8) -> Vec<u8> {
    let mut image = guest.image();
    image.resize(OFFSET + WHOLE, 0);
    image[16..24].copy_from_slice(&(2_u64 << 20).to_le_bytes());
    image[OFFSET..].copy_from_slice(&record(version));
    image
}

#[test]
fn a_record_is_found_without_symbols() {
    let json = Bench::with_bytes(&guest_with_record(1)).expect("panic", &[]);
    assert_eq!(json["silent"], true);
    assert_eq!(json["stage"], "heap");
    assert_eq!(json["message"], "oh no");
    assert_eq!(json["file"], "heap.rs");
    assert_eq!(json["line"], 12);
    assert_eq!(json["evidence"][0], "black-box-panic");
}

/// What a mute console did not show is not told as if it had.
#[test]
fn the_log_of_a_silent_guest_is_told_as_what_it_is() {
    let mut image = guest_with_record(1);
    image[OFFSET + 0x500] = 5;
    image[OFFSET + 0x508..][..5].copy_from_slice(b"help\n");
    let output = Bench::with_bytes(&image).command(&["-q"]).output().unwrap();
    let said = text(&output.stderr);
    assert!(
        said.contains("last lines, from memory:\n  | help\n"),
        "{said}"
    );
    assert!(!said.contains("the console's last lines"), "{said}");
}

#[test]
fn an_unknown_version_is_ignored() {
    let json = Bench::with_bytes(&guest_with_record(2)).expect("off", &[]);
    assert_eq!(json["stage"], Value::Null);
}

/// The record lies in the image, so a reset restores it: with the number of the boot before.
#[test]
fn after_a_reset_an_old_record_does_not_count() {
    let json = Bench::with_bytes(&guest_with_record(1)).expect("off", &["--reboots", "1"]);
    assert_eq!(json["earlier"][0]["verdict"], "panic");
    assert_eq!(json["stage"], Value::Null);
}

/// The recorder failed before it had written where the exception came from: QEMU's log has it.
#[test]
fn a_half_written_exception_does_not_hide_the_one_that_was() {
    let mut image = with_record(Guest::default().ours().execute(&[0]), 1);
    image[OFFSET + 0x100 + 8 * 37] = 1; // being written
    let json = Bench::with_bytes(&image).expect("exception", &[]);
    assert_eq!(json["first_exception"]["elr"], "0x40200040", "{json:#}");
    assert_eq!(json["evidence"][0], "exception-log");
}

/// A read that waits for QEMU ends when the tester is stopped and goes on; it was no answer.
#[test]
fn a_tester_that_is_stopped_again_and_again_still_finds_the_record() {
    const FAR: usize = 16 << 20; // many reads away from the start of RAM
    let mut image = Guest::default().ours().power_off().image();
    image.resize(FAR + WHOLE, 0);
    image[FAR..].copy_from_slice(&record(1));
    let bench = Bench::with_bytes(&image);
    let mut child = bench
        .command(&["--json", "-"])
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    while child.try_wait().unwrap().is_none() {
        for signal in [Signal::STOP, Signal::CONT] {
            let _ = kill_process(Pid::from_child(&child), signal);
            std::thread::sleep(Duration::from_micros(300));
        }
    }
    let report = json(&child.wait_with_output().unwrap());
    assert_eq!(report["verdict"], "panic", "{report:#}");
}

/// RAM is a file that keeps what a boot in another QEMU left there; the ELF, if there is one, tells only where
/// this kernel's would be.
#[test]
fn a_record_that_was_there_before_the_start_does_not_count() {
    let bench = Bench::with(Guest::default().ours().power_off());
    let (ram, elf) = (bench.path("ram"), bench.path("elf"));
    let symbols = [("black_box", OFFSET as u64, 0)];
    std::fs::write(&elf, testelf::image(&symbols, &[0])).unwrap();
    let backend = format!(
        "--qemu-arg=memory-backend-file,id=ram,size=128M,share=on,mem-path={}",
        ram.display()
    );
    let machine = ["--machine", "virt,memory-backend=ram"];
    let options = [&machine[..], &["--qemu-arg=-object", &backend]].concat();
    for elf in [&[][..], &["--elf", elf.to_str().unwrap()]] {
        let mut file = File::create(&ram).unwrap();
        file.set_len(128 << 20).unwrap();
        file.seek(SeekFrom::Start(32 << 20)).unwrap();
        file.write_all(&record(1)).unwrap();
        let json = bench.expect("off", &[&options[..], elf].concat());
        assert_eq!(json["stage"], Value::Null, "{json:#}");
    }
}
