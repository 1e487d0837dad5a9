//! What came of a matrix: lines and a summary for people, JSON, JUnit and Markdown for the rest.
//!
//! Everything here may contain text of a guest. For the terminal it was escaped when it was read;
//! JSON and JUnit are written by libraries that know their own rules; Markdown is escaped here.

use std::io::Write;
use std::path::Path;
use std::time::Duration;

use anyhow::Context;
use quick_junit::{NonSuccessKind, TestCase, TestCaseStatus, TestSuite};
use serde::Serialize;

use super::CellResult;
use super::config::Cell;
use crate::files::write_atomically;
use crate::report::{Report, verdict_style};
use crate::verdict::Verdict;

/// One line, when a cell has ended.
pub fn print_line(result: &CellResult) {
    let mut err = anstream::stderr().lock();
    let style = verdict_style(if result.is_expected() {
        Verdict::Pass
    } else {
        result.report.verdict
    });
    let mark = if result.is_expected() { "ok  " } else { "BAD " };
    let verdict = result.report.verdict;
    let seconds = result.report.wall_ms.unwrap_or(0.0) / 1e3;
    // Nothing can be done about a standard error that is closed.
    let _ = writeln!(
        err,
        "{style}{mark}{style:#} {verdict:<10} {seconds:>5.2} s  {}",
        result.cell.name
    );
}

/// At the end: the cells that did not come to what they expect, each with the command that
/// repeats it alone, and the counts.
pub fn print_summary(results: &[CellResult], planned: usize, wall: Duration) {
    let mut err = anstream::stderr().lock();
    let bad: Vec<_> = results
        .iter()
        .filter(|result| !result.is_expected())
        .collect();
    for result in &bad {
        let verdict = result.report.verdict;
        let style = verdict_style(verdict);
        let expected = match result.cell.expect {
            Verdict::Pass => String::new(),
            other => format!(", not {other}"),
        };
        let _ = writeln!(
            err,
            "\n{}: {style}{verdict}{style:#}{expected}{}",
            result.cell.name,
            result.report.summary()
        );
        let _ = writeln!(err, "  alone: {}", result.cell.command());
    }
    let good = results.len() - bad.len();
    let _ = write!(
        err,
        "{}{good} of {planned} cells as expected",
        if bad.is_empty() { "" } else { "\n" }
    );
    if results.len() < planned {
        let _ = write!(err, ", {} not booted", planned - results.len());
    }
    let _ = writeln!(err, ", in {:.1} s", wall.as_secs_f64());
}

/// results.json
#[derive(Serialize)]
struct Results<'a> {
    schema: u32,
    counts: Counts,
    cells: Vec<CellReport<'a>>,
}

#[derive(Serialize)]
struct Counts {
    /// Cells of the matrix.
    cells: usize,
    /// Those that came to the verdict they expect.
    expected: usize,
    /// Those that came to another one.
    unexpected: usize,
    /// Those that were not booted, because of an interruption.
    not_booted: usize,
}

/// The JSON of `bootcheck boot`, with the cell's own fields before it.
#[derive(Serialize)]
struct CellReport<'a> {
    cell: &'a str,
    expect: Verdict,
    command: String,
    #[serde(flatten)]
    report: &'a Report,
}

/// Writes results.json: `counts`, and for each cell the JSON of its boot.
///
/// # Errors
/// What the operating system said.
pub fn write_json(path: &Path, results: &[CellResult], planned: usize) -> anyhow::Result<()> {
    let expected = results.iter().filter(|result| result.is_expected()).count();
    let document = Results {
        schema: 1,
        counts: Counts {
            cells: planned,
            expected,
            unexpected: results.len() - expected,
            not_booted: planned - results.len(),
        },
        cells: results
            .iter()
            .map(|result| CellReport {
                cell: &result.cell.name,
                expect: result.cell.expect,
                command: result.cell.command(),
                report: &result.report,
            })
            .collect(),
    };
    let mut text = serde_json::to_vec_pretty(&document)?;
    text.push(b'\n');
    write_atomically(path, &text)
}

/// Writes junit.xml: one test case per cell.
///
/// # Errors
/// What the operating system said.
pub fn write_junit(
    path: &Path,
    suite: &str,
    results: &[CellResult],
    wall: Duration,
) -> anyhow::Result<()> {
    let mut test_suite = TestSuite::new(suite);
    for result in results {
        test_suite.add_test_case(test_case(suite, result));
    }
    test_suite.set_time(wall);
    let mut junit = quick_junit::Report::new("bootcheck");
    junit.set_time(wall);
    junit.add_test_suite(test_suite);
    let text = junit
        .to_string()
        .context("cannot make JUnit of the results")?;
    write_atomically(path, text.as_bytes())
}

fn test_case(suite: &str, result: &CellResult) -> TestCase {
    let report = &result.report;
    let status = if result.is_expected() {
        TestCaseStatus::success()
    } else {
        // An error is no failure of what was tested: QEMU or the host has failed, or nothing was
        // there to boot.
        let kind = match report.verdict {
            Verdict::Infra | Verdict::Unbootable => NonSuccessKind::Error,
            _ => NonSuccessKind::Failure,
        };
        let mut status = TestCaseStatus::non_success(kind);
        status.set_type(report.verdict.name());
        let summary = format!("{}{}", report.verdict, report.summary());
        status.set_message(crate::escape::escape(summary.as_bytes()));
        status.set_description(format!("alone: {}", result.cell.command()));
        status
    };
    let mut case = TestCase::new(result.cell.name.as_str(), status);
    case.set_classname(suite);
    case.set_time(Duration::from_secs_f64(report.wall_ms.unwrap_or(0.0) / 1e3));
    if let Some(console) = &report.console {
        case.set_system_out(crate::escape::escape(console.as_bytes()));
    }
    case
}

/// A Markdown table: one row per cell, one column per QEMU.
#[must_use]
pub fn markdown(results: &[CellResult]) -> String {
    let mut versions: Vec<&str> = Vec::new();
    for result in results {
        let version = version(&result.report);
        if !versions.contains(&version) {
            versions.push(version);
        }
    }
    let mut rows: Vec<(&str, &Cell, Vec<String>)> = Vec::new();
    for result in results {
        let name = result.cell.name.split(" on ").next().unwrap_or_default();
        let column = versions
            .iter()
            .position(|other| *other == version(&result.report));
        let row = match rows.iter().position(|(other, ..)| *other == name) {
            Some(row) => row,
            None => {
                rows.push((name, &result.cell, vec![String::new(); versions.len()]));
                rows.len() - 1
            }
        };
        if let Some(column) = column {
            let seconds = result.report.wall_ms.unwrap_or(0.0) / 1e3;
            rows[row].2[column] = format!("{} {seconds:.2} s", result.report.verdict);
        }
    }
    let mut table = String::from("| cell | options |");
    for version in &versions {
        table.push_str(&format!(" QEMU {} |", cell_text(version)));
    }
    table.push_str(&format!("\n|---|---|{}\n", "---|".repeat(versions.len())));
    for (name, cell, columns) in rows {
        // The QEMU is the column.
        let options = &cell.options[..cell.options.len() - 2];
        let options = shlex::try_join(options.iter().map(String::as_str)).unwrap_or_default();
        let columns = columns.join(" | ");
        table.push_str(&format!(
            "| {} | `{}` | {columns} |\n",
            cell_text(name),
            cell_text(&options)
        ));
    }
    table
}

/// `7.2.22`, without the distribution's own number.
fn version(report: &Report) -> &str {
    let version = report.qemu.version.as_deref().unwrap_or("?");
    version.split(' ').next().unwrap_or(version)
}

/// Text that stays within its cell of a Markdown table.
fn cell_text(text: &str) -> String {
    text.replace('|', "\\|").replace(['\n', '`'], " ")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::boot::Outcome;
    use crate::matrix::config;
    use crate::verdict::Facts;

    fn result(verdict: Verdict, console: &str, message: &str) -> CellResult {
        let text = "[images]\nr = { image = 'I' }\n[[cells]]\nname = 'a|b'\nimage = 'r'";
        let cell = config::read(text, &["qemu".into()], Path::new(""))
            .unwrap()
            .remove(0);
        let mut report = Report::new(&Outcome::without_guest(Facts::default()), None);
        report.verdict = verdict;
        report.console = Some(console.to_owned());
        report.message = Some(message.to_owned());
        CellResult { cell, report }
    }

    #[test]
    fn hostile_guest_text_stays_text_in_junit() {
        let hostile = "\x1b[2J</system-out><testcase>]]>\0\u{fffe} & \"";
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("junit.xml");
        let results = [result(Verdict::Panic, hostile, hostile)];
        write_junit(&path, "smoke", &results, Duration::from_secs(1)).unwrap();
        let xml = std::fs::read_to_string(&path).unwrap();
        assert_eq!(xml.matches("<testcase").count(), 1);
        assert_eq!(xml.matches("</system-out>").count(), 1);
        assert!(!xml.contains(['\x1b', '\0', '\u{fffe}']), "{xml}");
        assert!(
            xml.contains(r#"failures="1""#) && xml.contains(r#"type="panic""#),
            "{xml}"
        );
    }

    #[test]
    fn results_count_and_carry_the_boot() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("results.json");
        let results = [
            result(Verdict::Pass, "", ""),
            result(Verdict::Infra, "", ""),
        ];
        write_json(&path, &results, 3).unwrap();
        let json: serde_json::Value =
            serde_json::from_slice(&std::fs::read(&path).unwrap()).unwrap();
        assert_eq!(json["schema"], 1);
        assert_eq!(json["counts"]["cells"], 3);
        assert_eq!(json["counts"]["expected"], 1);
        assert_eq!(json["counts"]["unexpected"], 1);
        assert_eq!(json["counts"]["not_booted"], 1);
        assert_eq!(json["cells"][0]["cell"], "a|b");
        assert_eq!(json["cells"][0]["verdict"], "pass");
        assert_eq!(json["cells"][1]["schema"], 1);
    }

    #[test]
    fn markdown_keeps_its_columns() {
        let table = markdown(&[result(Verdict::Pass, "", "")]);
        assert_eq!(
            table,
            "| cell | options | QEMU ? |\n|---|---|---|\n| a\\|b | `--image I` | pass 0.00 s |\n"
        );
    }
}
