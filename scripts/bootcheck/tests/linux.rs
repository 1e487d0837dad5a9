//! A Linux that shares no code with this project: `scripts/debian-kernel --symbols target/linux` fetches it, with its vmlinux.
//!
//! These tests run only when asked for: `cargo test -p bootcheck --test linux -- --ignored`.
//! `LINUX_IMAGE` names another one than `target/linux/Image`; its ELF is `vmlinux` beside it.

mod common;

use std::path::{Path, PathBuf};
use std::process::Command;

use bootcheck::symbols::Symbols;
use common::{Bench, json};
use serde_json::{Value, json};

/// What a panic without a root file system says.
const NO_ROOT: &str = "VFS: Unable to mount root fs";

/// Its console is a driver that is not there: silent to its end.
const SILENT: &str = "console=hvc0";

fn linux() -> PathBuf {
    let default = || Path::new(env!("CARGO_MANIFEST_DIR")).join("../../target/linux/Image");
    let image = std::env::var_os("LINUX_IMAGE").map_or_else(default, PathBuf::from);
    assert!(
        image.exists(),
        "there is no {}: scripts/debian-kernel --symbols target/linux fetches it",
        image.display()
    );
    image
}

fn vmlinux() -> PathBuf {
    linux().with_file_name("vmlinux")
}

fn boot(image: &Path, elf: Option<&Path>, options: &[&str]) -> Value {
    let mut command = Command::new(env!("CARGO_BIN_EXE_bootcheck"));
    command.args(["boot", "-q", "--json", "-", "--image"]);
    command.arg(image);
    if let Some(elf) = elf {
        command.arg("--elf").arg(elf);
    }
    json(&command.args(options).output().unwrap())
}

#[test]
#[ignore = "needs a Linux: scripts/debian-kernel --symbols target/linux"]
fn a_healthy_linux_passes_by_pattern_and_has_no_exception() {
    let options = [
        "--append",
        "console=ttyAMA0 rdinit=/nowhere",
        "--pass-regex",
        "NET: Registered PF_INET6 protocol family|io scheduler .* registered",
    ];
    for smp in ["1", "2"] {
        let json = boot(&linux(), None, &[&options[..], &["--smp", smp]].concat());
        assert_eq!(json["verdict"], "pass", "{json:#}");
        assert_eq!(json["first_exception"], Value::Null);
    }
}

#[test]
#[ignore = "needs a Linux: scripts/debian-kernel --symbols target/linux"]
fn a_linux_that_waits_is_no_hang() {
    let append = "console=ttyAMA0 quiet rootdelay=5 panic=-1";
    let json = boot(&linux(), None, &["--append", append, "--quiet", "3"]);
    assert_eq!(json["verdict"], "panic", "{json:#}");
    assert!(json["message"].as_str().unwrap().starts_with(NO_ROOT));
}

#[test]
#[ignore = "needs a Linux: scripts/debian-kernel --symbols target/linux"]
fn a_panic_has_functions_and_lines_wherever_kaslr_put_it() {
    // With two CPUs either may be the one that panics; it stops the other.
    let tries = [("", "1"), (" nokaslr", "1")].into_iter();
    for (nokaslr, smp) in tries.chain([("", "2"); 6]) {
        let append = format!("console=ttyAMA0 panic=-1{nokaslr}");
        let options = ["--append", &append, "--smp", smp];
        let json = boot(&linux(), Some(&vmlinux()), &options);
        assert_eq!(json["verdict"], "panic", "{json:#}");
        assert_eq!(json["symbol"], "mount_block_root", "{json:#}");
        assert_eq!(json["file"], "init/do_mounts.c");
        let calls = json["backtrace"].as_array().unwrap();
        assert!(calls.iter().any(|call| call["symbol"] == "kernel_init"));
    }
}

/// The same words as on a console that works, read from its memory.
#[test]
#[ignore = "needs a Linux: scripts/debian-kernel --symbols target/linux"]
fn the_last_words_of_a_silent_linux() {
    // Told long before it resets itself.
    let append = format!("{SILENT} panic=1000");
    let json = boot(&linux(), Some(&vmlinux()), &["--append", &append]);
    assert_eq!(
        (&json["silent"], &json["verdict"]),
        (&json!(true), &json!("panic")),
        "{json:#}"
    );
    assert!(json["message"].as_str().unwrap().starts_with(NO_ROOT));
    assert_eq!(json["evidence"][0], "printk-panic");
    assert_eq!(json["symbol"], "mount_block_root", "{json:#}");
    let log = json["recorded_console"].as_str().unwrap();
    assert!(
        log.starts_with("[    0.000000] Booting Linux on physical CPU"),
        "{log}"
    );
    assert!(log.contains("Kernel panic - not syncing: VFS"), "{log}");
}

/// Without a vmlinux the log is found all the same, though not the function; also where the firmware
/// printed something before.
#[test]
#[ignore = "needs a Linux: scripts/debian-kernel --symbols target/linux"]
fn the_last_words_of_a_silent_linux_without_its_vmlinux() {
    let append = format!("{SILENT} panic=1000");
    for loader in ["qemu", "uefi"] {
        let options = ["--append", &append, "--loader", loader, "--smp", "2"];
        let json = boot(&linux(), None, &options);
        assert_eq!(json["verdict"], "panic", "{loader}: {json:#}");
        assert_eq!(json["silent"], loader == "qemu");
        assert!(json["message"].as_str().unwrap().starts_with(NO_ROOT));
        let log = json["recorded_console"].as_str().unwrap();
        assert!(log.contains("Kernel panic - not syncing: VFS"), "{log}");
        assert!(log.contains("] Linux version "), "{log}");
    }
}

/// A Linux in which a function begins with a jump to one of its own BUG()s: an assertion that was
/// moved to the top, as the patch of 2022 did it.
fn hoisted(function: &str) -> (Bench, u64) {
    let symbols = Symbols::open(&vmlinux()).unwrap();
    let (_, range) = symbols
        .functions()
        .find(|(name, _)| name == function)
        .unwrap();
    let bug = range
        .clone()
        .step_by(4)
        .find(|address| symbols.instruction(*address) == Some(0xd421_0000)) // brk #0x800
        .expect("the function has a BUG()");
    let mut image = std::fs::read(linux()).unwrap();
    let offset = (range.start - symbols.base()) as usize;
    let jump = 0x1400_0000 | ((bug - range.start) / 4) as u32;
    image[offset..offset + 4].copy_from_slice(&jump.to_le_bytes());
    (Bench::with_bytes(&image), bug)
}

/// The failure of 2022, on the kernel that it was for: not one byte on any console.
#[test]
#[ignore = "needs a Linux: scripts/debian-kernel --symbols target/linux"]
fn a_linux_that_dies_before_its_console_is_told_from_its_bug_trap() {
    let (bench, bug) = hoisted("__create_pgd_mapping_locked");
    let image = bench.path("Image");
    // The ELF is not that of the changed image: only QEMU's log tells.
    let options = ["--append", "earlycon nokaslr panic=30"];
    let json = boot(&image, None, &options);
    assert_eq!(
        (&json["silent"], &json["verdict"]),
        (&json!(true), &json!("panic")),
        "{json:#}"
    );
    let first = &json["first_exception"];
    assert_eq!(
        (&first["esr"], &first["elr"]),
        (&json!("0xf2000800"), &json!(format!("{bug:#x}")))
    );
    assert!(
        json["evidence"]
            .as_array()
            .unwrap()
            .contains(&json!("exception-log"))
    );
}
