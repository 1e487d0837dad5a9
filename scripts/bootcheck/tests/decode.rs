//! `bootcheck decode`, and the places that a boot names.

mod common;
#[allow(dead_code)]
#[path = "../src/testelf.rs"]
mod testelf;

use std::io::{Read, Write};
use std::process::{Command, Stdio};
use std::time::Duration;

use bootcheck::guest::Guest;
use common::{Bench, text};

fn decode(options: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_bootcheck"));
    command.arg("decode").args(options);
    command
}

/// A guest that prints `console`, with the ELF it could have been made from beside it.
fn bench(console: &str) -> Bench {
    let image = Guest::default().print(console).power_off().image();
    let code: Vec<u32> = image
        .chunks_exact(4)
        .map(|word| u32::from_le_bytes(word.try_into().unwrap()))
        .collect();
    let functions = [
        ("entry", 0x40, 0x10),
        ("guilty", 0x50, 0x10),
        ("caller", 0x60, 0x20),
    ];
    let bench = Bench::with_bytes(&image);
    std::fs::write(bench.path("kernel.elf"), testelf::image(&functions, &code)).unwrap();
    bench
}

const REPORT: &str = "\
Unhandled exception: data abort
pc : 0x0000000040200054
Call trace:
 0x0000000040200054
 0x0000000040200068
boot: FAIL
";

#[test]
fn a_failed_boot_names_its_place_and_shows_it_on_the_console() {
    let bench = bench(REPORT);
    let json = bench.expect("exception", &[]);
    assert_eq!(json["pc"], "0xffff800080000054");
    assert_eq!(json["symbol"], "guilty");
    assert_eq!(json["backtrace"][1]["symbol"], "caller", "{json:#}");
    assert_eq!(json["console"], REPORT, "the JSON has it raw");
    let fingerprint = json["fingerprint"].as_str().unwrap();
    assert!(fingerprint.contains("exception") && fingerprint.contains("guilty < caller"));

    let shown = |options: &[&str]| {
        let output = bench.command(options).output().unwrap();
        (text(&output.stdout), text(&output.stderr))
    };
    let (stdout, stderr) = shown(&[]);
    assert!(
        stdout.contains("pc : 0x0000000040200054 guilty+0x4\n"),
        "{stdout}"
    );
    assert!(
        stderr.contains("at 0xffff800080000054 guilty+0x4\n  from caller"),
        "{stderr}"
    );
    assert_eq!(shown(&["--no-decode"]).0, REPORT);
}

#[test]
fn an_elf_of_another_build_is_not_believed() {
    let bench = bench(REPORT);
    std::fs::write(
        bench.path("kernel.elf"),
        testelf::image(&[("x", 0, 256)], &[0; 64]),
    )
    .unwrap();
    let json = bench.expect("exception", &[]);
    assert_eq!(json["pc"], "0x40200054");
    assert_eq!(json["symbol"], serde_json::Value::Null);
    let output = bench.command(&[]).output().unwrap();
    assert_eq!(text(&output.stdout), REPORT);
    assert!(text(&output.stderr).contains("was not made from"));
}

#[test]
fn a_log_is_decoded_line_by_line_as_it_comes() {
    let bench = bench(REPORT);
    let elf = bench.path("kernel.elf");
    let mut child = decode(&["--elf", elf.to_str().unwrap()])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut stdin = child.stdin.take().unwrap();
    let mut stdout = child.stdout.take().unwrap();
    let (sender, bytes) = std::sync::mpsc::channel();
    std::thread::spawn(move || {
        let mut byte = [0];
        while stdout.read_exact(&mut byte).is_ok() && sender.send(byte[0]).is_ok() {}
    });
    let mut expect = |sent: &str, expected: &str| {
        stdin.write_all(sent.as_bytes()).unwrap();
        let next = || bytes.recv_timeout(Duration::from_secs(20)).ok();
        let got: Vec<u8> = expected.bytes().map_while(|_| next()).collect();
        assert_eq!(text(&got), expected);
    };
    expect("pc : _text+0x54", "pc : _text+0x54");
    expect("\nx", " guilty+0x4\nx");
    drop(stdin);
    assert_eq!(child.wait().unwrap().code(), Some(0));
}

#[test]
fn a_file_or_nothing_to_decode_with() {
    let bench = bench(REPORT);
    let log = bench.path("log");
    std::fs::write(&log, "at 0x40200054.\n").unwrap();
    let (elf, log) = (bench.path("kernel.elf"), log);
    let (elf, log) = (elf.to_str().unwrap(), log.to_str().unwrap());
    let output = decode(&["--elf", elf, log]).output().unwrap();
    assert_eq!(text(&output.stdout), "at 0x40200054. guilty+0x4\n");
    for wrong in [
        ["--elf", "/nonexistent", log],
        ["--elf", log, log],
        ["--elf", elf, "/nonexistent"],
    ] {
        let output = decode(&wrong).output().unwrap();
        assert_eq!(output.status.code(), Some(129), "{wrong:?}");
        assert!(!output.stderr.is_empty());
    }
}
