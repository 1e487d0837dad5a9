//! `bootcheck matrix`: many boots in parallel, each of which must come to what it expects.
//!
//! ```text
//! config ──► cells ──► support ──► run ──────────────► results ──► files: results.json,
//! (TOML,     (one      (what the   (jobs at a time,    (statuses,  junit.xml, report.html
//!  axes)      boot)     QEMU has)   progress shown)     rates)  ─► summary, github, ktap
//!                                                       ▲
//!                       merge (results of other shards)─┘
//! ```

pub mod cell;
pub mod config;
pub mod files;
pub mod github;
pub mod html;
pub mod identity;
pub mod junit;
pub mod ktap;
pub mod markdown;
pub mod merge;
pub mod progress;
pub mod rate;
pub mod results;
mod run;
mod self_tests;
pub mod shard;
pub mod summary;
pub mod support;

use std::path::{Path, PathBuf};

use anyhow::{Context, ensure};
use serde_json::json;

use crate::ci;
use crate::cli::MatrixArgs;
use crate::interrupt;
use crate::parallel;
use cell::Cell;
use identity::Identity;
use results::{CellResult, Results};
use support::Supports;

/// Runs the command; the exit status.
///
/// # Errors
/// The tester failed, or the file is wrong: 129.
pub fn run(args: &MatrixArgs) -> anyhow::Result<u8> {
    let (config, cells) = select(args)?;
    let name = name(&args.config);
    if args.list {
        print_list(args, &name, &share(args, cells)?);
        return Ok(0);
    }
    let identity = Identity::of(&config, &cells);
    let cells = share(args, cells)?;
    let out = out_directory(args);
    files::prepare(&out)?;
    let lacking = ask_support(&cells)?;
    for cell in &cells {
        cell.make_files()?;
    }
    let cells: Vec<(Cell, CellResult)> = cells
        .into_iter()
        .zip(lacking)
        .map(|(cell, (version, lacking))| {
            let result = CellResult::new(&cell, version, lacking);
            (cell, result)
        })
        .collect();
    let boots = run::Boots {
        jobs: parallel::jobs(args.jobs),
        repeat: args.repeat,
        fail_fast: args.fail_fast,
    };
    let started = std::time::Instant::now();
    let cells = boots.run(cells);
    let wall_ms = started.elapsed().as_secs_f64() * 1e3;
    let part = (args.shard, identity);
    let results = Results::new(name, part, args.repeat, wall_ms, cells);

    // What there is of an interrupted run is worth keeping.
    files::write(&results, &out)?;
    if args.markdown {
        print!("{}", markdown::table(&results));
    }
    if args.ktap {
        print!("{}", ktap::document(&results));
    }
    report(&results, &out);
    interrupt::check()?;
    let counts = results.counts;
    ensure!(
        counts.skipped < counts.cells,
        "nothing was booted: every cell was skipped"
    );
    Ok(match results.exit_status() {
        0 if args.no_skip && counts.skipped > 0 => 1,
        status => status,
    })
}

/// Tells the end of it to whoever reads: a person, or GitHub.
pub(crate) fn report(results: &Results, out: &Path) {
    summary::print(results);
    progress::print_line(&format!("report: {}", out.join("report.html").display()));
    if ci::is_github() {
        print!("{}", github::annotations(results));
    }
}

/// The version of each cell's QEMU, and why it cannot have the cell, if it cannot.
fn ask_support(cells: &[Cell]) -> anyhow::Result<Vec<(String, Option<String>)>> {
    let mut supports = Supports::default();
    cells.iter().map(|cell| supports.ask(cell)).collect()
}

/// The text of the file, and the cells that were asked for.
fn select(args: &MatrixArgs) -> anyhow::Result<(String, Vec<Cell>)> {
    let shown = args.config.display();
    let text =
        std::fs::read_to_string(&args.config).with_context(|| format!("cannot read {shown}"))?;
    let mut cells = config::read(&text, &args.qemu, &out_directory(args))
        .with_context(|| format!("in {shown}"))?;
    ensure!(!cells.is_empty(), "{shown} has no cell");
    if let Some(filter) = &args.filter {
        let glob = globset::Glob::new(filter)?.compile_matcher();
        cells.retain(|cell| glob.is_match(&cell.name));
        ensure!(
            !cells.is_empty(),
            "no cell of {shown} matches {filter:?}; --list shows them"
        );
    }
    Ok((text, cells))
}

/// Those of the part that was asked for.
fn share(args: &MatrixArgs, mut cells: Vec<Cell>) -> anyhow::Result<Vec<Cell>> {
    if let Some(shard) = args.shard {
        let mut position = 0..;
        cells.retain(|_| position.next().is_some_and(|position| shard.has(position)));
        ensure!(!cells.is_empty(), "there are fewer cells than parts");
    }
    Ok(cells)
}

/// Names, or with `--json` all that another program needs to boot the cells one by one.
fn print_list(args: &MatrixArgs, name: &str, cells: &[Cell]) {
    if !args.json {
        for cell in cells {
            println!("{}", cell.name);
        }
        return;
    }
    let cells = cells.iter().map(|cell| {
        json!({
            "cell": cell.name,
            "group": cell.group,
            "expect": cell.expect.verdict,
            "command": cell.command(),
        })
    });
    let cells: Vec<_> = cells.collect();
    println!("{:#}", json!({ "schema": 1, "name": name, "cells": cells }));
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
