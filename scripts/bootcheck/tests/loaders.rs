//! The kernel started by U-Boot and by UEFI, and on a board that is not `virt`.
//!
//! Most of these tests need the kernel, so they run only when asked for: `cargo test -p bootcheck
//! --test loaders -- --ignored`. `KERNEL_IMAGE` names another kernel than `target/kernel/Image`. A
//! loader or device tree that this machine does not have is left out, and told; with
//! `LOADERS=required` that is a failure. `scripts/setup --all` gets them all.

mod common;

use std::path::{Path, PathBuf};
use std::process::Command;

use bootcheck::guest::Guest;
use bootcheck::loader::Loader;
use common::{Bench, json, status, text};
use serde_json::Value;

const LOADERS: [(&str, Loader); 3] = [
    ("uboot", Loader::Uboot),
    ("uefi", Loader::Uefi),
    ("uefi-disk", Loader::UefiDisk),
];

fn repository(path: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("../..")
        .join(path)
}

fn kernel() -> PathBuf {
    let default = || repository("target/kernel/Image");
    let image = std::env::var_os("KERNEL_IMAGE").map_or_else(default, PathBuf::from);
    assert!(image.exists(), "there is no kernel: `make image` builds it");
    image
}

/// Whether the file is there; if not, that is told, or a failure where all are required.
fn has(path: &Path) -> bool {
    let is_required = std::env::var("LOADERS").is_ok_and(|value| value == "required");
    let exists = path.exists();
    assert!(
        exists || !is_required,
        "there is no {}: `scripts/setup --all` gets it",
        path.display()
    );
    if !exists {
        println!("left out for want of {}", path.display());
    }
    exists
}

fn loaders() -> impl Iterator<Item = (&'static str, Loader)> {
    let is_there =
        |(_, loader): &(&str, Loader)| loader.default_firmware().is_some_and(|it| has(&it));
    LOADERS.into_iter().filter(is_there)
}

/// Boots the kernel.
fn boot(options: &[&str]) -> Value {
    let image = kernel();
    let mut command = Command::new(env!("CARGO_BIN_EXE_bootcheck"));
    command.args(["boot", "-q", "--json", "-", "--timeout", "30", "--image"]);
    command
        .arg(&image)
        .arg("--elf")
        .arg(image.with_file_name("kernel.elf"));
    json(&command.args(options).output().unwrap())
}

fn console(json: &Value) -> &str {
    json["console"].as_str().unwrap()
}

#[test]
#[ignore = "needs the kernel: `make image`"]
fn each_loader_starts_the_kernel() {
    for (name, loader) in loaders() {
        for machine in ["virt", "virt,virtualization=on"] {
            let json = boot(&["--loader", name, "--machine", machine]);
            assert_eq!(json["verdict"], "pass", "{name}: {json:#}");
            // From its black box, which is wherever the loader put the kernel.
            assert_eq!(json["stage"], "done", "{name}: {json:#}");
            assert_eq!(json["stages"][0]["name"], "entry");
            let console = console(&json);
            let mark = if loader.is_uefi() {
                "boot: UEFI: image to 0x"
            } else {
                "Starting kernel ..."
            };
            assert!(console.contains(mark), "{name}: {console}");
            let level = if machine == "virt" { "EL1" } else { "EL2" };
            let entered = format!("Booting at {level}, image at 0x");
            assert!(console.contains(&entered), "{name}: {console}");
            // The firmware keeps some of the one bank that the device tree tells of.
            let banks = console.matches("RAM      [mem").count();
            assert_eq!(banks > 1, loader.is_uefi(), "{name}: {console}");
        }
    }
}

/// What looks like one, as far as it comes: UEFI enters it, and no Image is in it.
#[test]
#[ignore = "needs the kernel: `make image`"]
fn uefi_starts_an_image_that_unpacks_itself() {
    let mut image = std::fs::read(kernel()).unwrap();
    image[4..8].copy_from_slice(b"zimg");
    let packed = Bench::with_bytes(&image);
    for (name, _) in loaders().filter(|(_, loader)| loader.is_uefi()) {
        packed.expect(
            "pass",
            &["--loader", name, "--pass-regex", "^.*boot: UEFI: image to"],
        );
    }
}

#[test]
#[ignore = "needs the kernel: `make image`"]
fn a_fault_is_found_behind_each_loader() {
    for (name, _) in loaders().filter(|(name, _)| *name != "uefi-disk") {
        for (fault, stage, verdict, symbol) in [
            (
                "EXCEPTION",
                "fdt",
                "exception",
                "kernel::fault::undefined_instruction",
            ),
            ("LOOP", "mmu_on", "hang", "kernel::fault::spin"),
            (
                "WRITE_KERN",
                "selftest",
                "exception",
                "kernel::fault::write",
            ),
        ] {
            for earlycon in ["", "earlycon=pl011,0x1000"] {
                let append = format!("loglevel=4 selftest=none fault={fault}@{stage} {earlycon}");
                let json = boot(&["--loader", name, "--append", &append]);
                let found = [&json["verdict"], &json["stage"]];
                assert_eq!(found, [verdict, stage], "{name} {append}: {json:#}");
                if name == "uefi" {
                    // Not only the device tree has it.
                    let told = format!("command line {:?}", append.trim_end());
                    assert!(console(&json).contains(&told), "{json:#}");
                }
                let found = json["symbol"].as_str().unwrap_or_default();
                assert!(found.starts_with(symbol), "{name} {append}: {json:#}");
            }
        }
    }
}

#[test]
#[ignore = "needs the kernel: `make image`"]
fn uefi_without_a_device_tree_gets_the_machine_back() {
    for (name, loader) in loaders().filter(|(_, loader)| loader.is_uefi()) {
        let json = boot(&["--loader", name, "--machine", "virt,acpi=on"]);
        assert_eq!(json["verdict"], "fail", "{json:#}");
        let console = console(&json);
        assert!(
            console.contains("the firmware offers no device tree"),
            "{console}"
        );
        // Back in the firmware, which tells what it got.
        if loader == Loader::UefiDisk {
            assert!(console.contains("Unsupported"), "{console}");
        }
    }
}

#[test]
#[ignore = "needs the kernel: `make image`"]
fn a_raspberry_pi_boots_and_powers_itself_off() {
    let dtb = repository("target/debian-arm64/broadcom/bcm2837-rpi-3-b.dtb");
    if !has(&dtb) {
        return;
    }
    let board = ["--machine", "raspi3b", "--dtb", dtb.to_str().unwrap()];
    let json = boot(&board);
    assert_eq!(json["verdict"], "pass", "{json:#}");
    assert_eq!(json["evidence"][0], "qmp-guest-shutdown", "{json:#}");
    assert!(
        console(&json).contains("RAM      [mem 0x0000000000000000-"),
        "{json:#}"
    );
    for (fault, verdict) in [("RESET@heap", "reset"), ("LOOP@mmu_on", "hang")] {
        let append = format!("loglevel=4 fault={fault}");
        let json = boot(&[&board[..], &["--append", &append]].concat());
        assert_eq!(json["verdict"], verdict, "{json:#}");
    }
}

/// QEMU's `virt` always has PSCI, whatever the device tree says.
#[test]
#[ignore = "needs the kernel: `make image`"]
fn a_machine_that_cannot_power_off_parks_and_passes() {
    let dtb = repository("target/debian-arm64/broadcom/bcm2837-rpi-3-b.dtb");
    if !has(&dtb) {
        return;
    }
    let name = b"brcm,bcm2835-pm-wdt";
    let mut tree = std::fs::read(dtb).unwrap();
    let at = tree.windows(name.len()).position(|part| part == name);
    tree[at.unwrap()] = b'x';
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("no-pm.dtb");
    std::fs::write(&path, tree).unwrap();
    let json = boot(&["--machine", "raspi3b", "--dtb", path.to_str().unwrap()]);
    assert_eq!(json["verdict"], "pass", "{json:#}");
    assert_eq!(
        json["evidence"],
        serde_json::json!(["parked", "console-pass"])
    );
}

#[test]
#[ignore = "needs U-Boot: `scripts/setup --all`"]
fn u_boot_starts_other_images() {
    let bench = Bench::with(Guest::default().print("hello\n").power_off());
    for (name, _) in loaders().filter(|(_, loader)| *loader == Loader::Uboot) {
        let options = [
            "--loader",
            name,
            "--pass-regex",
            "^hello$",
            "--timeout",
            "30",
        ];
        bench.expect("pass", &options);
        let json = bench.expect("off", &["--loader", name, "--pass-regex", "^goodbye$"]);
        assert!(console(&json).contains("Starting kernel"), "{json:#}");
    }
}

#[test]
fn what_a_loader_cannot_start_is_told_before() {
    let bench = Bench::with(Guest::default().power_off());
    for (options, complaint) in [
        (&["--loader", "uefi"][..], "no EFI application"),
        (
            &["--loader", "uefi-disk", "--append", "x"],
            "no command line",
        ),
        (
            &["--loader", "uboot", "--machine", "raspi3b"],
            "machine virt",
        ),
    ] {
        let json = bench.expect("unbootable", options);
        assert!(
            json["message"].as_str().unwrap().contains(complaint),
            "{json:#}"
        );
    }
    let packed = Bench::with_bytes(b"MZ\0\0zimg");
    for (options, complaint) in [
        (&[][..], "--loader uefi"),
        (&["--loader", "uefi"], "no EFI application"),
    ] {
        let json = packed.expect("unbootable", options);
        assert!(
            json["message"].as_str().unwrap().contains(complaint),
            "{json:#}"
        );
    }
    let nowhere = ["--loader", "uboot", "--firmware", "/nowhere"];
    let json = bench.expect("infra", &nowhere);
    let message = json["message"].as_str().unwrap();
    assert!(
        message.contains("/nowhere") && message.contains("u-boot-qemu"),
        "{message}"
    );
    let tree = ["--machine", "raspi3b", "--dtb", "/nowhere.dtb"];
    let json = bench.expect("infra", &tree);
    assert!(
        json["message"].as_str().unwrap().contains("/nowhere.dtb"),
        "{json:#}"
    );

    let both = ["--loader", "uboot", "--load-address", "0x44000000"];
    let output = bench.command(&both).output().unwrap();
    assert_eq!(status(&output), 129, "{}", text(&output.stderr));
}
