//! The results as KTAP, the kernel's dialect of TAP: a test for each cell, the kernel's own tests
//! below it.

use std::fmt::Write;

use super::results::{CellResult, Results, Status};
use super::self_tests;
use crate::escape::escape;
use crate::ktap::Outcome;

/// The whole document.
#[must_use]
pub fn document(results: &Results) -> String {
    let mut text = format!("KTAP version 1\n1..{}\n", results.cells.len());
    for (index, cell) in results.cells.iter().enumerate() {
        subtests(cell, &mut text);
        let (ok, directive) = match cell.status {
            Status::Expected => ("ok", String::new()),
            Status::Skipped => {
                let reason = cell.skipped.as_deref().unwrap_or_default();
                ("ok", format!(" # SKIP {}", line(reason)))
            }
            Status::NotBooted => ("ok", " # SKIP the run was interrupted".to_owned()),
            Status::Unexpected | Status::Flaky => {
                let _ = writeln!(text, "# {}", line(&cell.summary()));
                ("not ok", String::new())
            }
        };
        let name = line(&cell.cell).replace('#', "_");
        let _ = writeln!(text, "{ok} {} {name}{directive}", index + 1);
    }
    text
}

fn subtests(cell: &CellResult, text: &mut String) {
    let results = self_tests::of(cell);
    if results.is_empty() {
        return;
    }
    let _ = writeln!(text, "    KTAP version 1\n    1..{}", results.len());
    for (index, (name, outcome)) in results.into_iter().enumerate() {
        let (ok, directive) = match outcome {
            Outcome::Passed => ("ok", ""),
            Outcome::Failed => ("not ok", ""),
            Outcome::Skipped => ("ok", " # SKIP"),
        };
        let name = line(&name).replace('#', "_");
        let _ = writeln!(text, "    {ok} {} {name}{directive}", index + 1);
    }
}

/// Text that stays on its line.
fn line(text: &str) -> String {
    escape(text.as_bytes()).replace('\n', " ")
}
