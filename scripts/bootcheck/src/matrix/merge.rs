//! `bootcheck merge`: joins the results of the parts of a matrix.

use std::collections::BTreeSet;

use anyhow::{Context, bail, ensure};

use super::results::Results;
use super::{files, report};
use crate::cli::MergeArgs;

/// Runs the command; the exit status is that of the whole matrix.
///
/// # Errors
/// A part is missing, or there twice, or the parts are of different matrices: 129.
pub fn run(args: &MergeArgs) -> anyhow::Result<u8> {
    let mut parts = Vec::new();
    for path in &args.results {
        // A directory is what `bootcheck matrix --out` has made.
        let path = match path.is_dir() {
            true => path.join("results.json"),
            false => path.clone(),
        };
        parts.push(Results::read(&path)?);
    }
    let missing = missing(&parts)?;
    let results = join(parts)?;
    std::fs::create_dir_all(&args.out)
        .with_context(|| format!("cannot make {}", args.out.display()))?;
    files::write(&results, &args.out)?;
    report(&results, &args.out);
    // The results that there are have been written; but nobody may take them for all.
    ensure!(missing.is_empty(), "missing: {}", missing.join(", "));
    Ok(results.exit_status())
}

/// The parts that are not there.
fn missing(parts: &[Results]) -> anyhow::Result<Vec<String>> {
    let shards: Vec<_> = parts.iter().filter_map(|part| part.shard).collect();
    let Some(first) = shards.first() else {
        return Ok(Vec::new());
    };
    let total = first.total;
    ensure!(
        shards.len() == parts.len() && shards.iter().all(|shard| shard.total == total),
        "these are not parts of one run: they are cut into different numbers of parts"
    );
    let there: BTreeSet<usize> = shards.iter().map(|shard| shard.number).collect();
    let missing = (1..=total).filter(|number| !there.contains(number));
    Ok(missing
        .map(|number| format!("part {number}/{total}"))
        .collect())
}

/// All cells, as if one machine had booted them.
fn join(mut parts: Vec<Results>) -> anyhow::Result<Results> {
    parts.sort_by_key(|part| part.shard.map(|shard| shard.number));
    let Some(first) = parts.first() else {
        bail!("no results were given");
    };
    let (name, repeat) = (first.name.clone(), first.repeat);
    let mut wall_ms = 0.0_f64;
    let mut there = BTreeSet::new();
    let mut columns = Vec::new();
    for part in parts {
        ensure!(
            part.name == name,
            "these are of different matrices: {name} and {}",
            part.name
        );
        wall_ms = wall_ms.max(part.wall_ms);
        for cell in &part.cells {
            ensure!(
                there.insert(cell.cell.clone()),
                "{} is there twice",
                cell.cell
            );
        }
        columns.push(part.cells.into_iter());
    }
    // Each part had every Nth cell.
    let mut cells = Vec::with_capacity(there.len());
    while cells.len() < there.len() {
        cells.extend(columns.iter_mut().filter_map(Iterator::next));
    }
    Ok(Results::new(name, None, repeat, wall_ms, cells))
}
