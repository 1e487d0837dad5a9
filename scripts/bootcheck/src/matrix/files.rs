//! The files that a matrix leaves: results.json, junit.xml, report.html.

use std::path::Path;

use super::results::Results;
use super::{html, junit};

/// Writes all of them into `out`.
///
/// # Errors
/// What the operating system said.
pub fn write(results: &Results, out: &Path) -> anyhow::Result<()> {
    results.write(&out.join("results.json"))?;
    junit::write(results, &out.join("junit.xml"))?;
    html::write(results, &out.join("report.html"))
}
