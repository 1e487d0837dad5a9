//! The files that a matrix leaves: results.json, junit.xml, report.html.

use std::path::Path;

use anyhow::Context;

use super::results::Results;
use super::{html, junit};

/// Makes the directory for them, and sees whether it can be written to: better before the first boot
/// than after the last.
///
/// # Errors
/// What the operating system said.
pub fn prepare(out: &Path) -> anyhow::Result<()> {
    let shown = out.display();
    std::fs::create_dir_all(out).with_context(|| format!("cannot make {shown}"))?;
    tempfile::tempfile_in(out).with_context(|| format!("cannot write into {shown}"))?;
    Ok(())
}

/// Writes all of them into `out`.
///
/// # Errors
/// What the operating system said.
pub fn write(results: &Results, out: &Path) -> anyhow::Result<()> {
    results.write(&out.join("results.json"))?;
    junit::write(results, &out.join("junit.xml"))?;
    html::write(results, &out.join("report.html"))
}
