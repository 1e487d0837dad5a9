//! What came of a matrix, as results.json has it: everything that the reports are made of, so
//! that the results of several machines can be joined.

use std::collections::BTreeMap;
use std::path::Path;

use anyhow::{Context, ensure};
use serde::{Deserialize, Serialize};

use super::cell::Cell;
use super::identity::Identity;
use super::rate::Rate;
use super::shard::Shard;
use crate::files::write_atomically;
use crate::report::Report;
use crate::verdict::Verdict;

/// The form of results.json: fields are only ever added to it.
const SCHEMA: u32 = 1;

/// results.json
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Results {
    /// 1.
    pub schema: u32,
    /// The name of the matrix: its file's.
    pub name: String,
    /// Which part of the matrix this is.
    pub shard: Option<Shard>,
    /// What was booted.
    #[serde(flatten)]
    pub identity: Identity,
    /// How often each cell was to boot.
    pub repeat: u32,
    /// From the first start to the last end.
    pub wall_ms: f64,
    /// How many cells have which status.
    pub counts: Counts,
    /// The cells, in the order of the file.
    pub cells: Vec<CellResult>,
}

/// How many cells have which status.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Counts {
    /// Cells of the matrix.
    pub cells: usize,
    /// Those that came to what they expect.
    pub expected: usize,
    /// Those that came to something else, every time.
    pub unexpected: usize,
    /// Those that came to something else at times.
    pub flaky: usize,
    /// Those that this QEMU or host cannot have.
    pub skipped: usize,
    /// Those that were not booted, because of an interruption.
    pub not_booted: usize,
}

/// What came of one cell.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Status {
    /// It came to what it expects.
    Expected,
    /// It came to something else, every time.
    Unexpected,
    /// It came to something else at times.
    Flaky,
    /// This QEMU or host cannot have it.
    Skipped,
    /// The run ended before its turn.
    NotBooted,
}

/// One cell: its own fields, and before all else the JSON of its boot.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct CellResult {
    /// Its name.
    pub cell: String,
    /// The row of the file that it comes from.
    pub group: String,
    /// The values that set it apart in that row.
    pub values: Vec<String>,
    /// What came of it.
    pub status: Status,
    /// The verdict that it must come to.
    pub expect: Verdict,
    /// What is wrong with it.
    pub complaint: Option<String>,
    /// Why it was skipped.
    pub skipped: Option<String>,
    /// The command that repeats it alone.
    pub command: String,
    /// The version of its QEMU, without the distribution's own number.
    pub qemu_version: String,
    /// How often it booted, and how often well.
    pub runs: Runs,
    /// Its first boot that went wrong, or else its first one.
    #[serde(flatten)]
    pub report: Option<Report>,
}

/// The boots of one cell.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub struct Runs {
    /// How many.
    pub count: u32,
    /// How many came to what was expected.
    pub expected: u32,
    /// The share of these.
    #[serde(flatten)]
    pub rate: Option<Rate>,
    /// How often each verdict.
    pub verdicts: BTreeMap<Verdict, u32>,
}

impl CellResult {
    /// A cell before its first boot.
    #[must_use]
    pub fn new(cell: &Cell, qemu_version: String, skipped: Option<String>) -> Self {
        let status = match skipped {
            Some(_) => Status::Skipped,
            None => Status::NotBooted,
        };
        Self {
            cell: cell.name.clone(),
            group: cell.group.clone(),
            values: cell.values.clone(),
            status,
            expect: cell.expect.verdict,
            complaint: None,
            skipped,
            command: cell.command(),
            qemu_version,
            runs: Runs::default(),
            report: None,
        }
    }

    /// Takes in one boot, and what is wrong with it.
    pub fn add(&mut self, report: Report, complaint: Option<String>) {
        let runs = &mut self.runs;
        runs.count += 1;
        runs.expected += u32::from(complaint.is_none());
        runs.rate = Rate::of(runs.expected, runs.count);
        *runs.verdicts.entry(report.verdict).or_default() += 1;
        self.status = match runs.expected {
            0 => Status::Unexpected,
            good if good == runs.count => Status::Expected,
            _ => Status::Flaky,
        };
        if self.report.is_none() || (self.complaint.is_none() && complaint.is_some()) {
            self.report = Some(report);
            self.complaint = complaint;
        }
    }

    /// Whether it fails the run.
    #[must_use]
    pub fn is_bad(&self) -> bool {
        matches!(self.status, Status::Unexpected | Status::Flaky)
    }

    /// The verdict of the boot that is shown.
    #[must_use]
    pub fn verdict(&self) -> Option<Verdict> {
        self.report.as_ref().map(|report| report.verdict)
    }

    /// What came of it, in one line: the verdict, where, and how often.
    #[must_use]
    pub fn summary(&self) -> String {
        let Some(report) = &self.report else {
            return self.skipped.clone().unwrap_or_default();
        };
        let verdict = report.verdict.to_string();
        let complaint = self.complaint.as_ref().unwrap_or(&verdict);
        let mut line = format!("{complaint}{}", report.summary());
        if self.status == Status::Flaky
            && let Some(rate) = self.runs.rate
        {
            let Runs {
                count, expected, ..
            } = self.runs;
            line.push_str(&format!("; flaky: {expected} of {count} good, {rate}"));
        }
        line
    }

    /// The command that repeats it alone, as often as it takes to see it again.
    #[must_use]
    pub fn repeat_command(&self) -> String {
        match (self.status, self.runs.count) {
            (Status::Flaky, count) => format!("{} --repeat {count}", self.command),
            _ => self.command.clone(),
        }
    }
}

impl Results {
    /// Counts the cells.
    #[must_use]
    pub fn new(
        name: String,
        (shard, identity): (Option<Shard>, Identity),
        repeat: u32,
        wall_ms: f64,
        cells: Vec<CellResult>,
    ) -> Self {
        let of = |status| cells.iter().filter(|cell| cell.status == status).count();
        Self {
            schema: SCHEMA,
            name,
            shard,
            identity,
            repeat,
            wall_ms,
            counts: Counts {
                cells: cells.len(),
                expected: of(Status::Expected),
                unexpected: of(Status::Unexpected),
                flaky: of(Status::Flaky),
                skipped: of(Status::Skipped),
                not_booted: of(Status::NotBooted),
            },
            cells,
        }
    }

    /// The cells that fail the run.
    pub fn bad(&self) -> impl Iterator<Item = &CellResult> {
        self.cells.iter().filter(|cell| cell.is_bad())
    }

    /// The exit status: a run in which QEMU or the host failed says nothing about the guest.
    #[must_use]
    pub fn exit_status(&self) -> u8 {
        let mut verdicts = self.bad().map(CellResult::verdict).peekable();
        if verdicts.peek().is_none() {
            0
        } else if verdicts.any(|verdict| verdict == Some(Verdict::Infra)) {
            129
        } else {
            1
        }
    }

    /// Reads a results.json.
    ///
    /// # Errors
    /// It is not there, or is none.
    pub fn read(path: &Path) -> anyhow::Result<Self> {
        let shown = path.display();
        let bytes = std::fs::read(path).with_context(|| format!("cannot read {shown}"))?;
        let results: Self = serde_json::from_slice(&bytes)
            .with_context(|| format!("{shown} is no results.json"))?;
        let schema = results.schema;
        ensure!(
            schema == SCHEMA,
            "{shown} has schema {schema}, and this bootcheck knows {SCHEMA}"
        );
        Ok(results)
    }

    /// Writes results.json.
    ///
    /// # Errors
    /// What the operating system said.
    pub fn write(&self, path: &Path) -> anyhow::Result<()> {
        let mut text = serde_json::to_vec_pretty(self)?;
        text.push(b'\n');
        write_atomically(path, &text)
    }
}
