//! `bootcheck merge`: joins the results of the parts of a matrix.

use std::collections::BTreeSet;

use anyhow::{bail, ensure};

use super::identity::Identity;
use super::results::Results;
use super::shard::Shard;
use super::{files, report};
use crate::cli::MergeArgs;

/// Runs the command; the exit status is that of the whole matrix.
///
/// # Errors
/// A part is missing, or there twice, or the parts are of different matrices or kernels: 129.
pub fn run(args: &MergeArgs) -> anyhow::Result<u8> {
    let mut parts = Vec::new();
    for path in &args.results {
        // A directory is what `bootcheck matrix --out` has made.
        let path = match path.is_dir() {
            true => path.join("results.json"),
            false => path.clone(),
        };
        parts.push((Results::read(&path)?, path));
    }
    for (number, (other, there)) in parts.iter().enumerate() {
        for (one, here) in &parts[..number] {
            let difference = difference(one, other).or_else(|| {
                let builds = one
                    .identity
                    .difference(&other.identity)
                    .filter(|_| !args.mixed);
                builds.map(|it| format!("{it}; --mixed joins them all the same"))
            });
            if let Some(difference) = difference {
                let (here, there) = (here.display(), there.display());
                bail!("{here} and {there} are not parts of one run: {difference}");
            }
        }
    }
    parts.sort_by_key(|(part, _)| part.shard.map(|shard| shard.number));
    for pair in parts.windows(2) {
        ensure!(
            pair[0].0.shard != pair[1].0.shard,
            "{} and {} are the same part",
            pair[0].1.display(),
            pair[1].1.display()
        );
    }
    let parts: Vec<Results> = parts.into_iter().map(|(part, _)| part).collect();
    let missing = missing(&parts);
    let results = join(parts)?;
    files::prepare(&args.out)?;
    files::write(&results, &args.out)?;
    report(&results, &args.out);
    // The results that there are have been written; but nobody may take them for all.
    ensure!(missing.is_empty(), "missing: {}", missing.join(", "));
    Ok(results.exit_status())
}

/// Why two results cannot be of one run.
fn difference(one: &Results, other: &Results) -> Option<String> {
    if one.name != other.name {
        return Some(format!("one is of {}, one of {}", one.name, other.name));
    }
    if one.identity.list != other.identity.list {
        return Some("their matrices have different cells, before or after --filter".into());
    }
    if one.repeat != other.repeat {
        return Some(format!("--repeat {} and {}", one.repeat, other.repeat));
    }
    let totals = [one, other].map(|part| part.shard.map(|shard| shard.total));
    (totals[0] != totals[1]).then(|| {
        let [one, other] = totals.map(|total| total.unwrap_or(1));
        format!("one is cut into {one}, one into {other}")
    })
}

/// The parts that are not there.
fn missing(parts: &[Results]) -> Vec<String> {
    let shards: Vec<Shard> = parts.iter().filter_map(|part| part.shard).collect();
    let total = shards.first().map_or(0, |first| first.total);
    let there = |number: &usize| shards.iter().any(|shard| shard.number == *number);
    let missing = (1..=total).filter(|number| !there(number));
    missing
        .map(|number| format!("part {number}/{total}"))
        .collect()
}

/// All cells, as if one machine had booted them.
fn join(parts: Vec<Results>) -> anyhow::Result<Results> {
    let Some(first) = parts.first() else {
        bail!("no results were given");
    };
    let (name, repeat) = (first.name.clone(), first.repeat);
    let identities: Vec<&Identity> = parts.iter().map(|part| &part.identity).collect();
    let identity = Identity::common(&identities);
    let mut wall_ms = 0.0_f64;
    let mut there = BTreeSet::new();
    let mut columns = Vec::new();
    for part in parts {
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
    Ok(Results::new(name, (None, identity), repeat, wall_ms, cells))
}
