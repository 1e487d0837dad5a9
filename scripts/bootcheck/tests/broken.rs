//! A deliberately broken kernel turns exactly the right cells red, and every report shows the
//! place.
//!
//! These tests need the kernel, so they run only when asked for:
//! `cargo test -p bootcheck --test broken -- --ignored`.

mod common;

use std::collections::BTreeSet;
use std::fmt::Write;
use std::path::{Path, PathBuf};
use std::process::Command;

use bootcheck::faults::Catalogue;
use bootcheck::symbols::Symbols;
use bootcheck::verdict::Verdict;
use common::{Bench, status, text};
use serde_json::Value;

fn kernel(name: &str) -> PathBuf {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
    let path = root.join("target/kernel").join(name);
    assert!(path.exists(), "no {}: make image", path.display());
    path
}

/// What came of a matrix.
struct Outcome {
    status: i32,
    stdout: String,
    cells: Vec<Value>,
    junit: String,
    html: String,
}

fn matrix(bench: &Bench, image: &Path, cells: &str) -> Outcome {
    let config = format!(
        "[images]\nkernel = {{ image = {image:?}, elf = {:?} }}\n\
         [defaults]\nimage = 'kernel'\ntimeout = 20\n{cells}",
        kernel("kernel.elf")
    );
    std::fs::write(bench.path("cells.toml"), config).unwrap();
    let output = Command::new(env!("CARGO_BIN_EXE_bootcheck"))
        .args(["matrix", "--config"])
        .arg(bench.path("cells.toml"))
        .arg("--out")
        .arg(bench.path("out"))
        .env("GITHUB_ACTIONS", "true")
        .output()
        .unwrap();
    let read = |name: &str| std::fs::read_to_string(bench.path("out").join(name)).unwrap();
    let json: Value = serde_json::from_str(&read("results.json")).unwrap();
    Outcome {
        status: status(&output),
        stdout: text(&output.stdout),
        cells: json["cells"].as_array().unwrap().clone(),
        junit: read("junit.xml"),
        // The template engine escapes slashes, too.
        html: read("report.html").replace("&#x2f;", "/"),
    }
}

/// Names of the cells with this status.
fn with_status<'a>(outcome: &'a Outcome, status: &str) -> BTreeSet<&'a str> {
    let cells = outcome.cells.iter().filter(|cell| cell["status"] == status);
    cells.map(|cell| cell["cell"].as_str().unwrap()).collect()
}

#[test]
#[ignore = "needs the kernel: make image"]
fn every_known_fault_turns_its_own_cells_red_and_no_other() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
    let faults = std::fs::read_to_string(root.join("kernel/faults.toml")).unwrap();
    let faults: Catalogue = toml::from_str(&faults).unwrap();
    let mut cells = "[[cells]]\nname = 'good'\nsmp = [1, 2]\n\
        append = ['loglevel=4', 'loglevel=4 linear=page']\n"
        .to_owned();
    let mut expected = BTreeSet::new();
    for (name, fault) in &faults {
        let _ = write!(
            cells,
            "[[cells]]\nname = '{name}'\nappend = 'loglevel=4 fault={name}@selftest'\n"
        );
        if fault
            .answer("selftest")
            .is_ok_and(|it| it.verdict != Verdict::Pass)
        {
            expected.insert(name.as_str());
        }
    }
    let bench = Bench::with_bytes(b"");
    let outcome = matrix(&bench, &kernel("Image"), &cells);
    assert_eq!(outcome.status, 1);
    assert_eq!(with_status(&outcome, "unexpected"), expected);
    for cell in outcome
        .cells
        .iter()
        .filter(|cell| cell["status"] == "unexpected")
    {
        let name = cell["cell"].as_str().unwrap();
        let annotation = format!("title=boot {name}::");
        let annotations = outcome.stdout.lines();
        let annotation =
            annotations.filter(|line| line.starts_with("::error ") && line.contains(&annotation));
        let [annotation] = annotation.collect::<Vec<_>>()[..] else {
            panic!("{name} has not one annotation: {}", outcome.stdout);
        };
        let verdict = cell["verdict"].as_str().unwrap();
        // A return to nowhere over a stack that is gone has no place in any source.
        if !matches!(verdict, "panic" | "exception" | "hang") || name == "CORRUPT_STACK" {
            continue;
        }
        let (file, line) = (cell["file"].as_str(), cell["line"].as_u64());
        let (Some(file), Some(line)) = (file, line) else {
            panic!("{name} has no place: {cell:#}");
        };
        assert!(
            annotation.starts_with(&format!("::error file={file},line={line},title=")),
            "{annotation}"
        );
        let place = format!("{file}:{line}");
        assert!(
            outcome.junit.contains(&place),
            "{place} is not in junit.xml"
        );
        assert!(
            outcome.html.contains(&place),
            "{place} is not in report.html"
        );
    }
}

/// The code that leaves EL2 is broken: nobody else can notice.
#[test]
#[ignore = "needs the kernel: make image"]
fn a_kernel_broken_at_el2_fails_at_el2_only() {
    let symbols = Symbols::open(&kernel("kernel.elf")).unwrap();
    let mut functions = symbols.functions();
    let (_, range) = functions.find(|(name, _)| name == "el2_to_el1").unwrap();
    let mut image = std::fs::read(kernel("Image")).unwrap();
    let offset = (range.start - symbols.base()) as usize;
    image[offset..offset + 4].copy_from_slice(&[0; 4]); // udf #0
    let bench = Bench::with_bytes(&image);
    let cells = "[[cells]]\nname = 'el1'\nsmp = [1, 2]\n[[cells]]\nname = 'el2'\nsmp = [1, 2]\n\
        machine = 'virt,virtualization=on'";
    let outcome = matrix(&bench, &bench.path("Image"), cells);
    assert_eq!(
        with_status(&outcome, "unexpected"),
        ["el2/1", "el2/2"].into()
    );
    assert_eq!(with_status(&outcome, "expected"), ["el1/1", "el1/2"].into());
}

/// A copy that stopped half-way is no fault of the kernel's: `git bisect run` must not blame a commit.
#[test]
#[ignore = "needs the kernel: make image"]
fn an_image_that_is_cut_short_is_not_judged_as_a_kernel() {
    let image = std::fs::read(kernel("Image")).unwrap();
    let elf = kernel("kernel.elf");
    let elf = ["--elf", elf.to_str().unwrap()];
    Bench::with_bytes(&image).expect("pass", &elf);
    // 192 KiB: a section ends there, and still the PE header tells of more.
    for length in [image.len() / 2, 192 << 10, 8192, 256] {
        let bench = Bench::with_bytes(&image[..length]);
        let json = bench.expect("unbootable", &elf);
        let message = json["message"].as_str().unwrap();
        assert!(
            message.contains(&format!("cut short: {length} of the")),
            "{message}"
        );

        // Nobody can be sure without the ELF; the header is what hints at it.
        let (status, json) = bench.boot(&[]);
        assert_eq!(status, 1, "{json:#}");
        let message = json["message"].as_str().unwrap();
        let hint = format!("may be cut short: {length} bytes");
        // 256 bytes hold no PE header either.
        assert_eq!(message.contains(&hint), length > 256, "{message}");
    }
}
