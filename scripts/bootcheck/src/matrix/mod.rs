//! `bootcheck matrix`: many boots in parallel, each of which must come to the verdict it expects.
//!
//! - [`config`] reads the file and expands it into cells;
//! - this module boots them;
//! - [`results`] writes what came of it.

pub mod config;
pub mod results;

use std::path::{Path, PathBuf};

use anyhow::{Context, ensure};

use crate::boot::{Outcome, boot};
use crate::cli::MatrixArgs;
use crate::interrupt::Interrupted;
use crate::parallel;
use crate::report::Report;
use crate::symbols::Source;
use crate::verdict::{Facts, Verdict};
use config::Cell;

/// One cell, booted.
#[derive(Debug)]
pub struct CellResult {
    /// The cell.
    pub cell: Cell,
    /// What came of it.
    pub report: Report,
}

impl CellResult {
    /// Whether it came to the verdict that the cell expects.
    #[must_use]
    pub fn is_expected(&self) -> bool {
        self.report.verdict == self.cell.expect
    }
}

/// Runs the command; the exit status.
///
/// # Errors
/// The tester failed, or the file is wrong: 129.
pub fn run(args: &MatrixArgs) -> anyhow::Result<u8> {
    let cells = select(args)?;
    if args.list {
        for cell in &cells {
            println!("{}", cell.name);
        }
        return Ok(0);
    }
    let out = out_directory(args);
    std::fs::create_dir_all(&out).with_context(|| format!("cannot make {}", out.display()))?;
    for cell in &cells {
        cell.make_files()?;
    }

    let started = std::time::Instant::now();
    let results = boot_all(&cells, parallel::jobs(args.jobs));
    let complete = results.len() == cells.len();
    let wall = started.elapsed();

    // What there is of an interrupted run is worth keeping.
    results::write_json(&out.join("results.json"), &results, cells.len())?;
    results::write_junit(&out.join("junit.xml"), &name(&args.config), &results, wall)?;
    if args.markdown {
        print!("{}", results::markdown(&results));
    }
    results::print_summary(&results, cells.len(), wall);
    if !complete {
        return Err(Interrupted.into());
    }
    let infra = results
        .iter()
        .any(|r| !r.is_expected() && r.report.verdict == Verdict::Infra);
    let unexpected = results.iter().any(|result| !result.is_expected());
    Ok(match (infra, unexpected) {
        (true, _) => 129,
        (false, true) => 1,
        (false, false) => 0,
    })
}

/// The cells that were asked for.
fn select(args: &MatrixArgs) -> anyhow::Result<Vec<Cell>> {
    let shown = args.config.display();
    let text =
        std::fs::read_to_string(&args.config).with_context(|| format!("cannot read {shown}"))?;
    let mut cells = config::read(&text, &args.qemu, &out_directory(args))
        .with_context(|| format!("in {shown}"))?;
    if let Some(filter) = &args.filter {
        let glob = globset::Glob::new(filter)?.compile_matcher();
        cells.retain(|cell| glob.is_match(&cell.name));
        ensure!(
            !cells.is_empty(),
            "no cell of {shown} matches {filter:?}; --list shows them"
        );
    }
    ensure!(!cells.is_empty(), "{shown} has no cell");
    Ok(cells)
}

/// Where the results go: what was said, or `target/` and the name of the file.
fn out_directory(args: &MatrixArgs) -> PathBuf {
    args.out
        .clone()
        .unwrap_or_else(|| Path::new("target").join(name(&args.config)))
}

fn name(config: &Path) -> String {
    config
        .file_stem()
        .unwrap_or_default()
        .to_string_lossy()
        .into_owned()
}

/// Boots the cells, `jobs` at a time; results in the order of the cells, all of them unless
/// interrupted.
fn boot_all(cells: &[Cell], jobs: usize) -> Vec<CellResult> {
    parallel::map(cells, jobs, |cell| {
        let outcome = boot_cell(cell)?;
        let source = Source::for_image(cell.args.elf(), &cell.args.guest.image);
        let result = CellResult {
            cell: cell.clone(),
            report: Report::new(&outcome, source.as_ref()),
        };
        results::print_line(&result);
        Ok(result)
    })
}

fn boot_cell(cell: &Cell) -> Result<Outcome, Interrupted> {
    match cell.plan() {
        Ok(plan) => boot(&plan, &mut |_| {}),
        Err(reason) => Ok(Outcome::without_guest(Facts {
            unbootable: Some(reason),
            ..Facts::default()
        })),
    }
}
