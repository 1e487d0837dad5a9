//! The kernel's own tests, as its console told of them.

use super::results::CellResult;
use crate::escape::escape;
use crate::ktap::{Line, Outcome};
use crate::signs::{self, Sign};

/// The tests of the boot that is shown: name and outcome, in order.
#[must_use]
pub fn of(cell: &CellResult) -> Vec<(String, Outcome)> {
    let report = cell.report.as_ref();
    let console = report.and_then(|report| report.console.as_deref());
    let console = escape(console.unwrap_or_default().as_bytes());
    let tests = console.lines().filter_map(|line| match signs::read(line) {
        Some(Sign::Test(Line::Result { name, outcome })) => Some((name, outcome)),
        _ => None,
    });
    tests.collect()
}
