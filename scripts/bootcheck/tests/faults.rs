//! Known-answer faults: every fault of `kernel/faults.toml` in every stage, and what the tester
//! makes of it.
//!
//! These tests need the kernel, so they run only when asked for:
//! `cargo test -p bootcheck --test faults -- --ignored`; with `--nocapture` they print a table.
//! `KERNEL_IMAGE` names another kernel than `target/kernel/Image`; its ELF is `kernel.elf` beside
//! it. `KERNEL_CPU` names a CPU that it boots on.

mod common;

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{LazyLock, Mutex};

use bootcheck::boot::boot;
use bootcheck::cli::{Cli, Command};
use bootcheck::faults::{Answer, Catalogue, STAGES};
use bootcheck::report::Report;
use bootcheck::symbols::Source;
use bootcheck::verdict::Verdict;
use clap::Parser;
use common::kernel;
use regex::Regex;

/// One boot.
#[derive(Debug)]
struct Cell {
    name: String,
    stage: &'static str,
    expected: Answer,
    /// Why the fault cannot happen there.
    cannot: Option<String>,
    /// Where in the source the tester must find it; one of these, or nowhere.
    places: Vec<Spot>,
}

/// A line of the kernel's source with a comment `fault: NAME`, there or on the line before.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Spot {
    file: String,
    line: u32,
    /// The function, or other item, around it.
    item: String,
}

/// The places of all faults, from the comments in the source.
fn places() -> BTreeMap<String, Vec<Spot>> {
    let mut places = BTreeMap::<String, Vec<Spot>>::new();
    let mut files = vec![root().join("kernel/src")];
    while let Some(path) = files.pop() {
        if path.is_dir() {
            files.extend(
                std::fs::read_dir(path)
                    .unwrap()
                    .map(|entry| entry.unwrap().path()),
            );
            continue;
        }
        if path.extension().is_none_or(|kind| kind != "rs") {
            continue;
        }
        let file = path.strip_prefix(root()).unwrap().display().to_string();
        let text = std::fs::read_to_string(&path).unwrap();
        let (mut item, mut before) = (String::new(), "");
        for (number, line) in (1..).zip(text.lines()) {
            if let Some(name) = item_begins(line) {
                item = name;
            }
            let (code, names) = line.split_once("// fault: ").unwrap_or((line, ""));
            let of_next = code.trim().is_empty();
            let here = if of_next { "" } else { names };
            for name in here.split_whitespace().chain(before.split_whitespace()) {
                places.entry(name.to_owned()).or_default().push(Spot {
                    file: file.clone(),
                    line: number,
                    item: item.clone(),
                });
            }
            before = if of_next { names } else { "" };
        }
    }
    places
}

/// The name of the item whose definition begins on this line.
fn item_begins(line: &str) -> Option<String> {
    const BEGIN: &str = r#"^\s*(?:pub(?:\(\w+\))? )?(?:const |unsafe |extern "C" )*(?:fn|const|static(?: mut)?) (\w+)"#;
    static PATTERN: LazyLock<Regex> = LazyLock::new(|| Regex::new(BEGIN).unwrap());
    Some(PATTERN.captures(line)?[1].to_owned())
}

impl Cell {
    /// What is wrong with the report.
    fn complaint(&self, report: &Report, is_silent: bool) -> Option<String> {
        let first = report.first_exception.as_ref();
        let ec = first.and_then(|first| first.ec.as_deref());
        let expected_ec = self.expected.ec.map(|ec| format!("{ec:#04x}"));
        let found = (report.verdict, report.stage.as_deref(), ec);
        let expected = (
            self.expected.verdict,
            Some(self.expected.stage(self.stage)),
            expected_ec.as_deref(),
        );
        if found != expected {
            let message = report.message.as_deref().unwrap_or_default();
            return Some(format!("{found:?} instead of {expected:?}: {message}"));
        }
        if let Some(complaint) = self.misplaced(report) {
            return Some(complaint);
        }
        if is_silent && report.silent != Some(true) {
            return Some("there is something on the console".to_owned());
        }
        let is_clear = report.verdict == Verdict::Pass || report.message.is_some();
        (!is_clear).then(|| "no message".to_owned())
    }
}

impl Cell {
    /// Whether the place is not the one that the source says.
    fn misplaced(&self, report: &Report) -> Option<String> {
        if self.places.is_empty() || self.cannot.is_some() || report.verdict == Verdict::Pass {
            return None;
        }
        let is_right = |place: &Spot| {
            let is_inside = report.symbol.as_ref().is_none_or(|symbol| {
                symbol
                    .split("::")
                    .any(|part| part.split('<').next() == Some(place.item.as_str()))
            });
            // A failed test has a place, but nothing was executing there any more.
            let is_known = report.symbol.is_some() || report.verdict == Verdict::Fail;
            let is_there =
                report.file.as_ref() == Some(&place.file) && report.line == Some(place.line);
            is_inside && is_known && is_there
        };
        (!self.places.iter().any(is_right)).then(|| {
            let found = (&report.symbol, &report.file, report.line);
            format!("{found:?} instead of {:?}", self.places)
        })
    }
}

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..")
}

/// The cells, and of those that cannot be how many there are for each reason.
fn cells() -> (Vec<Cell>, BTreeMap<String, usize>) {
    let text = std::fs::read_to_string(root().join("kernel/faults.toml")).unwrap();
    let faults: Catalogue = toml::from_str(&text).unwrap();
    let places = places();
    let mut cells = Vec::new();
    let mut impossible = BTreeMap::new();
    for (name, fault) in faults {
        for &stage in STAGES {
            let (expected, cannot) = match fault.answer(stage) {
                Ok(expected) => (expected, None),
                Err(reason) => {
                    *impossible.entry(reason.to_owned()).or_default() += 1;
                    let instead = fault.instead(stage);
                    let instead = instead.unwrap_or_else(|| panic!("{name}@{stage}: no `instead`"));
                    (instead, Some(reason.to_owned()))
                }
            };
            cells.push(Cell {
                places: places.get(&name).cloned().unwrap_or_default(),
                name: name.clone(),
                stage,
                expected,
                cannot,
            });
        }
    }
    let without: Vec<&str> = cells
        .iter()
        .filter(|cell| cell.places.is_empty())
        .map(|cell| cell.name.as_str())
        .collect();
    let known = |name: &&str| !PLACELESS.contains(name);
    assert_eq!(
        without.into_iter().find(known),
        None,
        "no comment `fault: NAME` in kernel/src"
    );
    (cells, impossible)
}

/// A boot that goes on.
const PLACELESS: [&str; 1] = ["WARNING"];

fn cpu() -> String {
    std::env::var("KERNEL_CPU").unwrap_or("cortex-a72".into())
}

/// Boots one cell; `words` go to the kernel.
fn report(cell: &Cell, image: &Path, source: &Source, words: &str) -> Report {
    let append = format!("fault={}@{} loglevel=4 {words}", cell.name, cell.stage);
    report_on(&["--cpu", &cpu(), "--append", &append], image, source)
}

fn report_on(options: &[&str], image: &Path, source: &Source) -> Report {
    let elf = image.with_file_name("kernel.elf");
    let [image, elf] = [image, &elf].map(|path| path.to_str().unwrap());
    let fixed = [
        "bootcheck",
        "boot",
        "--timeout",
        "20",
        "--image",
        image,
        "--elf",
        elf,
    ];
    let arguments = fixed.iter().chain(options);
    let Command::Boot(args) = Cli::parse_from(arguments).command else {
        unreachable!("the command is boot");
    };
    let outcome = boot(&args.plan().unwrap(), &mut |_| {}).unwrap();
    Report::new(&outcome, Some(source))
}

/// Boots every cell, as many at a time as there are CPUs, and asks for the expected answers.
fn check_all(words: &str, is_silent: bool) {
    let image = kernel();
    let source = Source::new(image.with_file_name("kernel.elf"));
    let (mut cells, impossible) = cells();
    if is_silent {
        for cell in &mut cells {
            // Only the console can say that a boot has passed.
            if cell.expected.verdict == Verdict::Pass {
                cell.expected.verdict = Verdict::Off;
            }
        }
    }
    let next = AtomicUsize::new(0);
    let reports = Mutex::new(BTreeMap::new());
    let jobs = std::thread::available_parallelism().map_or(1, usize::from);
    std::thread::scope(|scope| {
        for _ in 0..jobs {
            scope.spawn(|| {
                while let Some(cell) = cells.get(next.fetch_add(1, Ordering::Relaxed)) {
                    let report = report(cell, &image, &source, words);
                    let key = (cell.name.clone(), stage_number(cell.stage));
                    reports.lock().unwrap().insert(key, report);
                }
            });
        }
    });
    let reports = reports.into_inner().unwrap();
    let mut complaints = Vec::new();
    println!("| fault | stage | verdict | exception | where | ms |\n|---|---|---|---|---|---:|");
    for cell in &cells {
        let report = &reports[&(cell.name.clone(), stage_number(cell.stage))];
        println!("{}", row(cell, report));
        if let Some(complaint) = cell.complaint(report, is_silent) {
            complaints.push(format!("{}@{}: {complaint}", cell.name, cell.stage));
        }
    }
    println!("\n{}", table(&cells, &complaints));
    println!(
        "{} boots; what cannot be, and comes to this instead:",
        cells.len()
    );
    for (reason, count) in impossible {
        println!("- {count} cells: {reason}");
    }
    assert!(complaints.is_empty(), "{}", complaints.join("\n"));
}

fn stage_number(stage: &str) -> Option<usize> {
    STAGES.iter().position(|other| *other == stage)
}

/// The verdict of each fault in each stage.
fn table(cells: &[Cell], complaints: &[String]) -> String {
    let mut table = format!(
        "| fault | {} |\n|---|{}\n",
        STAGES.join(" | "),
        "---|".repeat(STAGES.len())
    );
    for row in cells.chunk_by(|a, b| a.name == b.name) {
        table.push_str(&format!("| {} |", row[0].name));
        for cell in row {
            let key = format!("{}@{}:", cell.name, cell.stage);
            let mark = match &cell.cannot {
                _ if complaints
                    .iter()
                    .any(|complaint| complaint.starts_with(&key)) =>
                {
                    "WRONG "
                }
                Some(_) => "cannot: ",
                None => "",
            };
            table.push_str(&format!(" {mark}{} |", cell.expected.verdict));
        }
        table.push('\n');
    }
    table
}

/// One line of the list.
fn row(cell: &Cell, report: &Report) -> String {
    let exception = report
        .first_exception
        .as_ref()
        .map_or("", |first| &first.kind);
    let hang = report.hang.map_or("", |hang| hang.kind.name());
    let place = match (&report.symbol, &report.file, report.line) {
        (Some(symbol), Some(file), Some(line)) => format!("{symbol} ({file}:{line})"),
        (symbol, ..) => symbol.clone().unwrap_or_default(),
    };
    format!(
        "| {} | {} | {} | {exception}{hang} | {place} | {:.0} |",
        cell.name,
        cell.stage,
        report.verdict,
        report.wall_ms.unwrap_or_default()
    )
}

#[test]
#[ignore = "needs the kernel: make image"]
fn every_fault_in_every_stage() {
    check_all("", false);
}

/// The same with the console at an address where there is none.
#[test]
#[ignore = "needs the kernel: make image"]
fn every_fault_in_every_stage_without_a_console() {
    check_all("earlycon=pl011,0x30000000", true);
}

/// The same with every CPU of this machine busy twice over: no verdict depends on that.
#[test]
#[ignore = "needs the kernel, and the machine for itself"]
fn busy_machine() {
    let is_over = AtomicBool::new(false);
    let cpus = std::thread::available_parallelism().map_or(1, usize::from);
    std::thread::scope(|scope| {
        for _ in 0..2 * cpus {
            scope.spawn(|| {
                while !is_over.load(Ordering::Relaxed) {
                    std::hint::spin_loop();
                }
            });
        }
        let result = std::panic::catch_unwind(|| check_all("", false));
        is_over.store(true, Ordering::Relaxed);
        result.unwrap_or_else(|complaints| std::panic::resume_unwind(complaints));
    });
}

/// Of a failure, nothing that moves is in the fingerprint: neither addresses, physical ones early on,
/// nor whether there was a console.
#[test]
#[ignore = "needs the kernel: make image"]
fn a_fingerprint_does_not_depend_on_where_the_image_lies() {
    let image = kernel();
    let source = Source::new(image.with_file_name("kernel.elf"));
    let directory = tempfile::tempdir().unwrap();
    let moved = directory.path().join("Image");
    let mut bytes = std::fs::read(&image).unwrap();
    bytes[8..16].copy_from_slice(&0x3e0_0000_u64.to_le_bytes()); // text_offset
    std::fs::write(&moved, bytes).unwrap();
    std::fs::copy(
        image.with_file_name("kernel.elf"),
        moved.with_file_name("kernel.elf"),
    )
    .unwrap();
    let mut by_fingerprint = BTreeMap::<String, BTreeSet<String>>::new();
    for cell in cells().0 {
        if !["early_mmu", "heap"].contains(&cell.stage) || cell.expected.verdict == Verdict::Pass {
            continue;
        }
        let here = report(&cell, &image, &source, "");
        let there = report(&cell, &moved, &source, "earlycon=pl011,0x30000000");
        let (name, stage) = (&cell.name, cell.stage);
        assert_eq!(here.fingerprint, there.fingerprint, "{name}@{stage}");
        if cell.cannot.is_none() && stage == "heap" {
            let print = here.fingerprint.unwrap();
            by_fingerprint.entry(print).or_default().insert(cell.name);
        }
    }
    println!("{by_fingerprint:#?}");
    let shared: Vec<_> = by_fingerprint
        .values()
        .filter(|names| names.len() > 1)
        .collect();
    assert_eq!(shared, [&BTreeSet::from(ALIKE.map(str::to_owned))]);
}

/// Jumps to one kind of nowhere or another, all from one place.
const ALIKE: [&str; 4] = ["EXEC_DATA", "EXEC_NULL", "EXEC_RODATA", "WILD_JUMP"];

/// A kernel built by another compiler fails in the same way: `OTHER_KERNEL` names its Image.
#[test]
#[ignore = "needs the kernel twice, see scripts/test-long"]
fn another_build_has_the_same_fingerprints() {
    let other =
        PathBuf::from(std::env::var_os("OTHER_KERNEL").expect("OTHER_KERNEL names an Image"));
    let images = [kernel(), other];
    let code = images.clone().map(|image| std::fs::read(image).unwrap());
    assert_ne!(code[0], code[1], "this is the same build");
    let sources = images
        .clone()
        .map(|image| Source::new(image.with_file_name("kernel.elf")));
    let mut by_fingerprint = BTreeMap::<String, BTreeSet<String>>::new();
    // One stage says enough: what differs is the code that the compilers made.
    for cell in cells().0.iter().filter(|cell| cell.stage == "heap") {
        let prints =
            [0, 1].map(|build| report(cell, &images[build], &sources[build], "").fingerprint);
        assert_eq!(prints[0], prints[1], "{}", cell.name);
        if let Some(print) = &prints[0] {
            let names = by_fingerprint.entry(print.clone()).or_default();
            names.insert(cell.name.clone());
        }
    }
    // Those that jump to the same kind of nowhere from the same place are the same failure.
    println!("{by_fingerprint:#?}");
    assert!(by_fingerprint.len() >= 18, "{by_fingerprint:#?}");
}

/// A kernel with a granule that the CPU lacks says so before it uses it, in its log or without one.
#[test]
#[ignore = "needs the kernel: make image GRANULE=16k"]
fn a_missing_granule_is_named() {
    let image = root().join("target/kernel/16k/Image");
    let source = Source::new(image.with_file_name("kernel.elf"));
    for append in ["", "earlycon=pl011,0x30000000"] {
        let options = ["--cpu", "cortex-a72", "--append", append];
        let report = report_on(&options, &image, &source);
        assert_eq!(report.verdict, Verdict::Panic);
        assert_eq!(report.stage.as_deref(), Some("fdt"));
        let message = report.message.unwrap_or_default();
        let named = "this CPU has no 16 KiB granule (ID_AA64MMFR0_EL1.TGran16 = 0x0)";
        assert!(message.contains(named), "{message}");
    }
}
