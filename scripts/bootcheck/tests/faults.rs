//! Known-answer faults: every fault of `kernel/faults.toml` in every stage, and what the tester
//! makes of it.
//!
//! These tests need the kernel, so they run only when asked for:
//! `cargo test -p bootcheck --test faults -- --ignored`; with `--nocapture` they print a table.
//! `KERNEL_IMAGE` names another kernel than `target/kernel/Image`; its ELF is `kernel.elf` beside
//! it. `KERNEL_CPU` names a CPU that it boots on.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};

use bootcheck::boot::boot;
use bootcheck::cli::{Cli, Command};
use bootcheck::faults::{Answer, Catalogue, STAGES};
use bootcheck::report::Report;
use bootcheck::symbols::Source;
use bootcheck::verdict::Verdict;
use clap::Parser;

/// One boot.
#[derive(Debug)]
struct Cell {
    name: String,
    stage: &'static str,
    expected: Answer,
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
        if is_silent && report.silent != Some(true) {
            return Some("there is something on the console".to_owned());
        }
        let is_clear = report.verdict == Verdict::Pass || report.message.is_some();
        (!is_clear).then(|| "no message".to_owned())
    }
}

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..")
}

fn kernel() -> PathBuf {
    let default = || root().join("target/kernel/Image");
    let image = std::env::var_os("KERNEL_IMAGE").map_or_else(default, PathBuf::from);
    assert!(
        image.exists(),
        "there is no kernel {}: `make image` builds it, and KERNEL_IMAGE= names another one",
        image.display()
    );
    image
}

/// The cells, and of those that cannot be how many there are for each reason.
fn cells() -> (Vec<Cell>, BTreeMap<String, usize>) {
    let text = std::fs::read_to_string(root().join("kernel/faults.toml")).unwrap();
    let faults: Catalogue = toml::from_str(&text).unwrap();
    let mut cells = Vec::new();
    let mut impossible = BTreeMap::new();
    for (name, fault) in faults {
        for stage in STAGES {
            match fault.answer(stage) {
                Ok(expected) => cells.push(Cell {
                    name: name.clone(),
                    stage,
                    expected,
                }),
                Err(reason) => *impossible.entry(reason.to_owned()).or_default() += 1,
            }
        }
    }
    (cells, impossible)
}

/// Boots one cell.
fn report(cell: &Cell, image: &Path, source: &Source, words: &str) -> Report {
    let append = format!("fault={}@{} loglevel=4 {words}", cell.name, cell.stage);
    let cpu = std::env::var("KERNEL_CPU").unwrap_or("cortex-a72".into());
    report_on(&cpu, &append, image, source)
}

fn report_on(cpu: &str, append: &str, image: &Path, source: &Source) -> Report {
    let elf = image.with_file_name("kernel.elf");
    let arguments: [&std::ffi::OsStr; 12] = [
        "bootcheck".as_ref(),
        "boot".as_ref(),
        "--image".as_ref(),
        image.as_ref(),
        "--elf".as_ref(),
        elf.as_ref(),
        "--cpu".as_ref(),
        cpu.as_ref(),
        "--append".as_ref(),
        append.as_ref(),
        "--timeout".as_ref(),
        "20".as_ref(),
    ];
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
    println!("\n{} boots; what cannot be:", cells.len());
    for (reason, count) in impossible {
        println!("- {count} cells: {reason}");
    }
    assert!(complaints.is_empty(), "{}", complaints.join("\n"));
}

fn stage_number(stage: &str) -> Option<usize> {
    STAGES.iter().position(|other| *other == stage)
}

/// One line of the table.
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

/// A kernel with a granule that the CPU lacks says so before it uses it, in its log or without one.
#[test]
#[ignore = "needs the kernel: make image GRANULE=16k"]
fn a_missing_granule_is_named() {
    let image = root().join("target/kernel/16k/Image");
    let source = Source::new(image.with_file_name("kernel.elf"));
    for append in ["", "earlycon=pl011,0x30000000"] {
        let report = report_on("cortex-a72", append, &image, &source);
        assert_eq!(report.verdict, Verdict::Panic);
        assert_eq!(report.stage.as_deref(), Some("fdt"));
        let message = report.message.unwrap_or_default();
        let named = "this CPU has no 16 KiB granule (ID_AA64MMFR0_EL1.TGran16 = 0x0)";
        assert!(message.contains(named), "{message}");
    }
}
