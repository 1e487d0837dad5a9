//! What the integration tests share: a directory with a guest in it, and the program.
#![allow(dead_code, unreachable_pub)] // Each test file uses its own part of this.

use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::time::{Duration, Instant};

use bootcheck::blackbox::{MAGIC, WHOLE};
use bootcheck::guest::Guest;
use serde_json::Value;

/// A temporary directory with an image to boot.
pub struct Bench {
    pub directory: tempfile::TempDir,
}

impl Bench {
    /// A directory with `guest` as `Image`.
    pub fn with(guest: Guest) -> Self {
        Self::with_bytes(&guest.image())
    }

    /// A directory with these bytes as `Image`.
    pub fn with_bytes(bytes: &[u8]) -> Self {
        let directory = tempfile::tempdir().unwrap();
        std::fs::write(directory.path().join("Image"), bytes).unwrap();
        Self { directory }
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    /// `bootcheck boot` of this image, not started yet.
    pub fn command(&self, options: &[&str]) -> Command {
        require_qemu();
        let mut command = Command::new(env!("CARGO_BIN_EXE_bootcheck"));
        command
            .arg("boot")
            .arg("--image")
            .arg(self.path("Image"))
            .args(options);
        // Short deadline: no guest of these tests takes longer, and other kernels' is 60 s.
        if !options.contains(&"--timeout") {
            command.args(["--timeout", "5"]);
        }
        command.env("NO_COLOR", "1").stdin(Stdio::null());
        command
    }

    /// Boots; the exit status and the JSON.
    pub fn boot(&self, options: &[&str]) -> (i32, Value) {
        let output = self
            .command(options)
            .args(["--json", "-"])
            .output()
            .unwrap();
        (status(&output), json(&output))
    }

    /// Boots and expects this verdict and the exit status that belongs to it.
    pub fn expect(&self, verdict: &str, options: &[&str]) -> Value {
        let (status, json) = self.boot(options);
        assert_eq!(json["verdict"], verdict, "{json:#}");
        let expected = match verdict {
            "pass" => 0,
            "unbootable" => 125,
            "infra" => 129,
            _ => 1,
        };
        assert_eq!(status, expected, "{json:#}");
        json
    }
}

/// Runs `bootcheck matrix` over a list of cells; `good` and `bad` are the images.
pub fn matrix(bench: &Bench, cells: &str, options: &[&str]) -> Output {
    std::fs::write(
        bench.path("bad"),
        Guest::default().print("<&\x1b>\n").reset().image(),
    )
    .unwrap();
    let config = format!(
        "[images]\ngood = {{ image = {:?} }}\nbad = {{ image = {:?} }}\n\
         [defaults]\nimage = 'good'\ntimeout = 5\n{cells}",
        bench.path("Image"),
        bench.path("bad")
    );
    std::fs::write(bench.path("cells.toml"), config).unwrap();
    Command::new(env!("CARGO_BIN_EXE_bootcheck"))
        .arg("matrix")
        .arg("--config")
        .arg(bench.path("cells.toml"))
        .args(options)
        .args(match options.contains(&"--out") {
            true => Vec::new(),
            false => vec!["--out".into(), bench.path("out")],
        })
        .output()
        .unwrap()
}

/// The results.json of the last matrix, or what a merge made.
pub fn results(bench: &Bench) -> Value {
    serde_json::from_slice(&std::fs::read(bench.path("out/results.json")).unwrap()).unwrap()
}

/// The names of the cells in a results.json.
pub fn cell_names(results: &Value) -> Vec<&Value> {
    let cells = results["cells"].as_array().unwrap();
    cells.iter().map(|cell| &cell["cell"]).collect()
}

/// A black box of this version: a panic in stage `heap`.
pub fn record(version: u8) -> Vec<u8> {
    let mut record = vec![0; WHOLE];
    record[..8].copy_from_slice(MAGIC);
    record[0x08] = version;
    record[0x20] = 8;
    record[0x280] = 2; // complete
    record[0x284] = 12; // line
    record[0x28c] = 7; // length of the file's name
    record[0x290] = 5; // length of the message
    record[0x2a0..0x2a7].copy_from_slice(b"heap.rs");
    record[0x300..0x305].copy_from_slice(b"oh no");
    record
}

pub fn status(output: &Output) -> i32 {
    output.status.code().expect("ended by a signal")
}

pub fn json(output: &Output) -> Value {
    serde_json::from_slice(&output.stdout).unwrap_or_else(|error| {
        panic!(
            "no JSON ({error}): {:?}\n{}",
            String::from_utf8_lossy(&output.stdout),
            String::from_utf8_lossy(&output.stderr)
        )
    })
}

pub fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

pub fn wait_until(what: &str, condition: impl Fn() -> bool) {
    let start = Instant::now();
    while !condition() {
        assert!(
            start.elapsed() < Duration::from_secs(20),
            "waited in vain until {what}"
        );
        std::thread::sleep(Duration::from_millis(10));
    }
}

/// These tests prove nothing without QEMU, so they fail without it.
fn require_qemu() {
    let qemu = std::env::var_os("QEMU").unwrap_or("qemu-system-aarch64".into());
    let probe = Command::new(&qemu)
        .arg("--version")
        .stdout(Stdio::null())
        .status();
    assert!(
        probe.is_ok_and(|status| status.success()),
        "{} does not run: `make setup` installs QEMU, and QEMU= names another one",
        Path::new(&qemu).display()
    );
}

/// The kernel's Image; `kernel.elf` is beside it.
pub fn kernel() -> PathBuf {
    let default = || Path::new(env!("CARGO_MANIFEST_DIR")).join("../../target/kernel/Image");
    let image = std::env::var_os("KERNEL_IMAGE").map_or_else(default, PathBuf::from);
    assert!(
        image.exists(),
        "there is no kernel {}: `make image` builds it, and KERNEL_IMAGE= names another one",
        image.display()
    );
    image
}
