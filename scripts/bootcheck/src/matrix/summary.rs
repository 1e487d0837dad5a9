//! The end of a matrix for a person: what failed first, each with the command that repeats it
//! alone; what was skipped, and why; the counts.

use std::collections::BTreeMap;

use super::progress::print_line;
use super::results::{CellResult, Results, Status};
use crate::ci::tame;
use crate::escape::escape;
use crate::report::verdict_style;
use crate::verdict::Verdict;

/// How many names of skipped cells are told for each reason.
const SOME: usize = 4;

/// Prints it on standard error.
pub fn print(results: &Results) {
    for cell in results.bad() {
        for line in failure(cell) {
            print_line(&line);
        }
    }
    for line in skipped(results) {
        print_line(&line);
    }
    let counts = results.counts;
    let mut line = format!(
        "{} of {} cells as expected",
        counts.expected,
        counts.cells - counts.skipped
    );
    for (count, what) in [
        (counts.unexpected, "not as expected"),
        (counts.flaky, "flaky"),
        (counts.skipped, "skipped"),
        (counts.not_booted, "not booted"),
    ] {
        if count > 0 {
            line.push_str(&format!(", {count} {what}"));
        }
    }
    let boots: u32 = results.cells.iter().map(|cell| cell.runs.count).sum();
    let seconds = results.wall_ms / 1e3;
    line.push_str(&format!(", {boots} boots in {seconds:.1} s"));
    print_line(&line);
}

/// The lines about one cell.
fn failure(cell: &CellResult) -> Vec<String> {
    let style = verdict_style(cell.verdict().unwrap_or(Verdict::Fail));
    let name = &cell.cell;
    let summary = escape(cell.summary().as_bytes());
    let mut lines = vec![
        String::new(),
        tame(&format!("{style}{name}{style:#}: {summary}")),
    ];
    if let Some(report) = &cell.report {
        let places = report.whereabouts();
        lines.extend(
            places
                .iter()
                .map(|place| format!("  {}", escape(place.as_bytes()))),
        );
    }
    lines.push(format!("  alone: {}", cell.repeat_command()));
    lines
}

/// One line for each reason.
fn skipped(results: &Results) -> Vec<String> {
    let mut reasons: BTreeMap<&str, Vec<&str>> = BTreeMap::new();
    let skipped = results.cells.iter();
    for cell in skipped.filter(|cell| cell.status == Status::Skipped) {
        let reason = cell.skipped.as_deref().unwrap_or_default();
        reasons.entry(reason).or_default().push(&cell.cell);
    }
    let line = |(reason, cells): (&str, Vec<&str>)| {
        let more = match cells.len().saturating_sub(SOME) {
            0 => String::new(),
            more => format!(" and {more} more"),
        };
        let names = cells[..cells.len().min(SOME)].join(", ");
        format!("skipped, as {reason}: {names}{more}")
    };
    reasons.into_iter().map(line).collect()
}
