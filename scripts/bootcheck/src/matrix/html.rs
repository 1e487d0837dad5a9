//! report.html: one file that needs no network and runs no script. The template is
//! `report.html.jinja`; what it shows is worked out here.
//!
//! minijinja escapes every text that it puts into HTML; characters that HTML cannot have, or that
//! deceive the eye, were spelled out before, as everywhere.

use std::collections::BTreeMap;
use std::path::Path;

use anyhow::Context;
use minijinja::syntax::SyntaxConfig;
use minijinja::value::Serde;
use minijinja::{AutoEscape, Environment, UndefinedBehavior};
use serde::Serialize;

use super::results::{CellResult, Counts, Results, Status};
use super::self_tests;
use super::shard::Shard;
use crate::console::floor_boundary;
use crate::escape::escape;
use crate::files::write_atomically;
use crate::ktap::Outcome;
use crate::signs::Stage;

const TEMPLATE: &str = include_str!("report.html.jinja");

/// The most console text of one cell that the page carries; results.json has all of it.
const CONSOLE: usize = 48 << 10;

/// The whole page.
#[derive(Serialize)]
struct Page<'a> {
    name: &'a str,
    shard: Option<Shard>,
    repeat: u32,
    seconds: f64,
    counts: Counts,
    boots: u32,
    qemus: Vec<&'a str>,
    status: Status,
    groups: Vec<Group<'a>>,
    failures: Vec<Failure>,
    timelines: Vec<Timeline<'a>>,
    stages: Vec<&'a str>,
    panels: Vec<Panel<'a>>,
}

/// The same failure, in all the cells that have it.
#[derive(Serialize)]
struct Failure {
    /// The numbers of their panels.
    cells: Vec<usize>,
}

/// One row of the matrix file, as a table.
#[derive(Serialize)]
struct Group<'a> {
    name: &'a str,
    counts: BTreeMap<&'static str, usize>,
    columns: Vec<String>,
    rows: Vec<Row<'a>>,
}

#[derive(Serialize)]
struct Row<'a> {
    name: &'a str,
    /// The number of the panel in each column; none where there is no such cell.
    cells: Vec<Option<usize>>,
}

/// Guest time by stage.
#[derive(Serialize)]
struct Timeline<'a> {
    name: &'a str,
    total_ms: f64,
    /// In percent of the longest timeline.
    width: f64,
    pieces: Vec<Piece<'a>>,
}

#[derive(Serialize)]
struct Piece<'a> {
    stage: &'a str,
    /// Which colour.
    number: usize,
    ms: f64,
    /// In percent of its timeline.
    width: f64,
}

/// What lies behind one cell.
#[derive(Serialize)]
struct Panel<'a> {
    id: usize,
    name: String,
    status: Status,
    mark: &'static str,
    verdict: &'static str,
    seconds: Option<f64>,
    summary: String,
    rate: Option<String>,
    verdicts: Vec<String>,
    places: Vec<String>,
    failed_tests: Vec<String>,
    passed_tests: usize,
    skipped_tests: usize,
    command: String,
    console: Option<String>,
    timeline: Option<Timeline<'a>>,
    qemu_version: &'a str,
}

/// Writes report.html.
///
/// # Errors
/// What the operating system said.
pub fn write(results: &Results, path: &Path) -> anyhow::Result<()> {
    let text = page(results).context("cannot make HTML of the results")?;
    write_atomically(path, text.as_bytes())
}

/// The text of report.html.
///
/// # Errors
/// The template is wrong.
pub fn page(results: &Results) -> Result<String, minijinja::Error> {
    let mut environment = Environment::new();
    environment.set_auto_escape_callback(|_| AutoEscape::Html);
    environment.set_undefined_behavior(UndefinedBehavior::Strict);
    environment.set_syntax(
        SyntaxConfig::builder()
            .trim_blocks(true)
            .lstrip_blocks(true)
            .build()?,
    );
    environment.add_template("report.html", TEMPLATE)?;
    environment
        .get_template("report.html")?
        .render(Serde(Page::new(results)))
}

impl<'a> Page<'a> {
    fn new(results: &'a Results) -> Self {
        let mut qemus: Vec<&str> = Vec::new();
        let mut stages: Vec<&str> = Vec::new();
        for cell in &results.cells {
            if !qemus.contains(&cell.qemu_version.as_str()) {
                qemus.push(&cell.qemu_version);
            }
            for stage in cell.report.iter().flat_map(|report| &report.stages) {
                if stage.ns.is_some() && !stages.contains(&stage.name.as_str()) {
                    stages.push(&stage.name);
                }
            }
        }
        let groups = groups(results, qemus.len() > 1);
        let mut timelines: Vec<_> = groups
            .iter()
            .filter_map(|group| group_timeline(group.name, results, &stages))
            .collect();
        let longest = timelines.iter().map(|it| it.total_ms).fold(0.0, f64::max);
        for timeline in &mut timelines {
            timeline.width = 100.0 * timeline.total_ms / longest;
        }
        let panels = results.cells.iter().enumerate();
        Self {
            boots: results.cells.iter().map(|cell| cell.runs.count).sum(),
            qemus,
            status: match results.exit_status() {
                0 if results.counts.not_booted > 0 => Status::NotBooted,
                0 => Status::Expected,
                _ => Status::Unexpected,
            },
            groups,
            failures: failures(results),
            timelines,
            panels: panels
                .map(|(id, cell)| Panel::new(id, cell, &stages))
                .collect(),
            stages,
            name: &results.name,
            shard: results.shard,
            repeat: results.repeat,
            seconds: results.wall_ms / 1e3,
            counts: results.counts,
        }
    }
}

/// The rows of the matrix file in its order: the values of the first axis down, all others across.
fn groups(results: &Results, has_qemus: bool) -> Vec<Group<'_>> {
    let mut groups: Vec<Group<'_>> = Vec::new();
    for (id, cell) in results.cells.iter().enumerate() {
        let index = match groups.iter().position(|group| group.name == cell.group) {
            Some(index) => index,
            None => {
                groups.push(Group {
                    name: &cell.group,
                    counts: BTreeMap::new(),
                    columns: Vec::new(),
                    rows: Vec::new(),
                });
                groups.len() - 1
            }
        };
        let group = &mut groups[index];
        *group.counts.entry(name(cell.status)).or_default() += 1;
        // A single axis lies across.
        let (first, rest) = match cell.values.as_slice() {
            [first, rest @ ..] if !rest.is_empty() => (first.as_str(), rest),
            values => ("", values),
        };
        let mut column = rest.join(" ");
        if has_qemus {
            column = format!("{column} {}", cell.qemu_version).trim().to_owned();
        }
        let column = position(
            &mut group.columns,
            |other| *other == column,
            || column.clone(),
        );
        let new_row = || Row {
            name: first,
            cells: Vec::new(),
        };
        let row = position(&mut group.rows, |row| row.name == first, new_row);
        let cells = &mut group.rows[row].cells;
        cells.resize(cells.len().max(column + 1), None);
        cells[column] = Some(id);
    }
    for group in &mut groups {
        for row in &mut group.rows {
            row.cells.resize(group.columns.len(), None);
        }
    }
    groups
}

/// The failures, each with its cells: one cause is told once.
fn failures(results: &Results) -> Vec<Failure> {
    let mut failures: Vec<(Option<&str>, Failure)> = Vec::new();
    for (id, cell) in results.cells.iter().enumerate() {
        if !cell.is_bad() {
            continue;
        }
        let report = cell.report.as_ref();
        let print = report.and_then(|report| report.fingerprint.as_deref());
        let is_same = |it: &(Option<&str>, Failure)| print.is_some() && it.0 == print;
        let new = || (print, Failure { cells: Vec::new() });
        let index = position(&mut failures, is_same, new);
        failures[index].1.cells.push(id);
    }
    failures.into_iter().map(|(_, failure)| failure).collect()
}

/// Where it is in the list; it is added if it is not.
fn position<T>(list: &mut Vec<T>, is_it: impl Fn(&T) -> bool, new: impl FnOnce() -> T) -> usize {
    list.iter().position(is_it).unwrap_or_else(|| {
        list.push(new());
        list.len() - 1
    })
}

/// How long each stage lasted. The last one has no end.
fn durations(stages: &[Stage]) -> impl Iterator<Item = (&str, f64)> {
    stages.windows(2).filter_map(|pair| {
        let time = pair[1].ns?.checked_sub(pair[0].ns?)?;
        Some((pair[0].name.as_str(), time as f64 / 1e6))
    })
}

fn timeline<'a>(
    name: &'a str,
    durations: impl Iterator<Item = (&'a str, f64)>,
    stages: &[&str],
) -> Option<Timeline<'a>> {
    let mut pieces: Vec<_> = durations
        .map(|(stage, ms)| Piece {
            stage,
            number: stages.iter().position(|it| *it == stage).unwrap_or(0),
            ms,
            width: 0.0,
        })
        .collect();
    let total_ms: f64 = pieces.iter().map(|piece| piece.ms).sum();
    if total_ms <= 0.0 {
        return None;
    }
    for piece in &mut pieces {
        piece.width = 100.0 * piece.ms / total_ms;
    }
    Some(Timeline {
        name,
        total_ms,
        width: 100.0,
        pieces,
    })
}

/// The median of each stage over the cells of a group that came to what they expect.
fn group_timeline<'a>(
    group: &'a str,
    results: &'a Results,
    stages: &[&str],
) -> Option<Timeline<'a>> {
    let mut of_stage: Vec<(&str, Vec<f64>)> = Vec::new();
    let cells = results.cells.iter();
    for cell in cells.filter(|cell| cell.group == group && cell.status == Status::Expected) {
        for (stage, ms) in durations(cell.report.as_ref().map_or(&[], |it| &it.stages)) {
            let index = position(&mut of_stage, |it| it.0 == stage, || (stage, Vec::new()));
            of_stage[index].1.push(ms);
        }
    }
    let medians = of_stage.into_iter().map(|(stage, mut times)| {
        times.sort_by(f64::total_cmp);
        (stage, times[times.len() / 2])
    });
    timeline(group, medians, stages)
}

impl<'a> Panel<'a> {
    fn new(id: usize, cell: &'a CellResult, stages: &[&str]) -> Self {
        let report = cell.report.as_ref();
        let tests = self_tests::of(cell);
        let count = |outcome| tests.iter().filter(|(_, it)| *it == outcome).count();
        let failed = tests.iter().filter(|(_, it)| *it == Outcome::Failed);
        let safe = |text: &str| escape(text.as_bytes());
        let verdicts = cell.runs.verdicts.iter();
        let own_stages = report.map_or(&[][..], |report| &report.stages);
        Self {
            id,
            name: safe(&cell.cell),
            status: cell.status,
            mark: match cell.status {
                Status::Expected => "✓",
                Status::Unexpected => "✗",
                Status::Flaky => "≈",
                Status::Skipped => "–",
                Status::NotBooted => "·",
            },
            verdict: cell.verdict().map_or(name(cell.status), |it| it.name()),
            seconds: report.and_then(|report| report.wall_ms).map(|ms| ms / 1e3),
            summary: safe(&cell.summary()),
            rate: cell.runs.rate.filter(|_| cell.runs.count > 1).map(|rate| {
                let runs = &cell.runs;
                format!(
                    "{} of {} boots as expected, {rate}",
                    runs.expected, runs.count
                )
            }),
            verdicts: verdicts
                .map(|(it, times)| format!("{times} × {it}"))
                .collect(),
            places: match cell.is_bad() || cell.expect != crate::verdict::Verdict::Pass {
                true => report
                    .map(|report| report.whereabouts())
                    .unwrap_or_default(),
                false => Vec::new(),
            }
            .iter()
            .map(|place| safe(place))
            .collect(),
            failed_tests: failed.map(|(name, _)| safe(name)).collect(),
            passed_tests: count(Outcome::Passed),
            skipped_tests: count(Outcome::Skipped),
            command: cell.repeat_command(),
            console: report
                .and_then(|report| report.console.as_deref())
                .map(|console| head_and_tail(&safe(console))),
            timeline: timeline(&cell.cell, durations(own_stages), stages),
            qemu_version: &cell.qemu_version,
        }
    }
}

/// What a guest printed, cut to what a page can carry.
fn head_and_tail(text: &str) -> String {
    if text.len() <= CONSOLE {
        return text.to_owned();
    }
    let head = floor_boundary(text, CONSOLE / 2);
    let tail = floor_boundary(text, text.len() - CONSOLE / 2);
    format!(
        "{}\n[the middle is left out; results.json has it]\n{}",
        &text[..head],
        &text[tail..]
    )
}

/// As the style sheet and results.json have it.
fn name(status: Status) -> &'static str {
    match status {
        Status::Expected => "expected",
        Status::Unexpected => "unexpected",
        Status::Flaky => "flaky",
        Status::Skipped => "skipped",
        Status::NotBooted => "not_booted",
    }
}
