//! junit.xml: a test suite for each cell, with the boot and the kernel's own tests as its cases.

use std::path::Path;
use std::time::Duration;

use anyhow::Context;
use quick_junit::{NonSuccessKind, Report, TestCase, TestCaseStatus, TestSuite};

use super::results::{CellResult, Results, Status};
use super::self_tests;
use crate::escape::escape;
use crate::files::write_atomically;
use crate::ktap::Outcome;
use crate::verdict::Verdict;

/// Writes junit.xml.
///
/// # Errors
/// What the operating system said.
pub fn write(results: &Results, path: &Path) -> anyhow::Result<()> {
    let text = document(results).context("cannot make JUnit of the results")?;
    write_atomically(path, text.as_bytes())
}

/// The text of junit.xml.
///
/// # Errors
/// None that is known: what XML cannot say was escaped before.
pub fn document(results: &Results) -> Result<String, quick_junit::SerializeError> {
    let mut report = Report::new("bootcheck");
    report.set_time(Duration::from_secs_f64(results.wall_ms / 1e3));
    report.add_test_suites(results.cells.iter().map(|cell| suite(&results.name, cell)));
    let text = report.to_string()?;
    // The common schema has the count of each suite, but no sum of them.
    let (head, body) = text.split_once("<testsuite ").unwrap_or((&text, ""));
    let skipped = format!(" skipped=\"{}\"", report.skipped);
    Ok(match body {
        "" => text,
        body => format!("{}<testsuite {body}", head.replacen(&skipped, "", 1)),
    })
}

fn suite(matrix: &str, cell: &CellResult) -> TestSuite {
    let mut suite = TestSuite::new(format!("{matrix}: {}", cell.cell));
    suite.set_time(time(cell));
    suite.add_test_case(boot_case(cell));
    suite.add_test_cases(self_test_cases(cell));
    suite
}

/// The boot itself.
fn boot_case(cell: &CellResult) -> TestCase {
    let report = cell.report.as_ref();
    let status = match cell.status {
        Status::Expected => TestCaseStatus::success(),
        Status::Skipped | Status::NotBooted => {
            let mut status = TestCaseStatus::skipped();
            let reason = cell.skipped.as_deref().unwrap_or("the run was interrupted");
            status.set_message(escape(reason.as_bytes()));
            status
        }
        Status::Unexpected | Status::Flaky => {
            // An error is no failure of what was tested: QEMU or the host has failed, or nothing
            // was there to boot.
            let kind = match cell.verdict() {
                Some(Verdict::Infra | Verdict::Unbootable) => NonSuccessKind::Error,
                _ => NonSuccessKind::Failure,
            };
            let mut status = TestCaseStatus::non_success(kind);
            let verdict = cell.verdict().map_or("none", Verdict::name);
            status.set_type(verdict);
            status.set_message(escape(cell.summary().as_bytes()));
            let mut lines = report.map(|it| it.whereabouts()).unwrap_or_default();
            lines.push(format!("alone: {}", cell.repeat_command()));
            status.set_description(escape(lines.join("\n").as_bytes()));
            status
        }
    };
    let mut case = TestCase::new("boot", status);
    case.set_classname(escape(cell.cell.as_bytes()));
    case.set_time(time(cell));
    if let Some(console) = report.and_then(|report| report.console.as_ref()) {
        case.set_system_out(escape(console.as_bytes()));
    }
    case
}

/// The kernel's own tests, as its console told of them.
fn self_test_cases(cell: &CellResult) -> impl Iterator<Item = TestCase> {
    // A cell that is there to see a test fail is good when it does.
    let is_good = cell.status == Status::Expected;
    let class = format!("{} self-tests", escape(cell.cell.as_bytes()));
    self_tests::of(cell)
        .into_iter()
        .map(move |(name, outcome)| {
            let status = match outcome {
                Outcome::Failed if !is_good => {
                    let mut status = TestCaseStatus::non_success(NonSuccessKind::Failure);
                    status.set_message("not ok");
                    status
                }
                Outcome::Passed | Outcome::Failed => TestCaseStatus::success(),
                Outcome::Skipped => TestCaseStatus::skipped(),
            };
            let mut case = TestCase::new(name, status);
            case.set_classname(class.as_str());
            case
        })
}

fn time(cell: &CellResult) -> Duration {
    let report = cell.report.as_ref();
    let milliseconds = report.and_then(|report| report.wall_ms);
    Duration::from_secs_f64(milliseconds.unwrap_or(0.0) / 1e3)
}
