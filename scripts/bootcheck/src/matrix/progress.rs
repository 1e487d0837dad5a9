//! What a person sees while the cells boot: on a terminal a table of what is booting, a bar and
//! the time left; elsewhere one line for each boot.

use std::io::{IsTerminal, Write};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use indicatif::{MultiProgress, ProgressBar, ProgressStyle};

use super::cell::Cell;
use crate::ci;
use crate::report::{Report, verdict_style};
use crate::verdict::Verdict;

/// How often what is booting is drawn anew.
const TICK: Duration = Duration::from_millis(100);

/// A row with a boot, and one without.
const BUSY: &str = "{wide_msg} {elapsed:>4}";
const IDLE: &str = "{wide_msg}";

/// Tells of boots as they begin and end.
#[derive(Debug)]
pub enum Progress {
    /// One line for each boot that has ended.
    Plain,
    /// A table that changes in place.
    Live(Live),
}

/// The table: a row for each boot at a time, and the bar below.
#[derive(Debug)]
pub struct Live {
    screen: MultiProgress,
    free: Mutex<Vec<ProgressBar>>,
    bar: ProgressBar,
    tally: Mutex<Tally>,
}

#[derive(Debug, Default)]
struct Tally {
    good: u32,
    bad: u32,
}

/// A boot that has begun.
#[derive(Debug)]
pub struct Started<'a> {
    cell: &'a Cell,
    row: Option<ProgressBar>,
}

impl Progress {
    /// For so many boots, `jobs` at a time.
    #[must_use]
    pub fn new(boots: usize, jobs: usize) -> Self {
        let is_dumb = std::env::var_os("TERM").is_some_and(|term| term == "dumb");
        if !std::io::stderr().is_terminal() || is_dumb {
            return Self::Plain;
        }
        let screen = MultiProgress::new();
        let head = screen.add(ProgressBar::new_spinner().with_style(style("{msg:.dim}")));
        head.set_message(row_text("cell", "machine", "cpu", "RAM"));
        head.tick();
        let rows = (0..jobs.min(boots)).map(|_| {
            let row = screen.add(ProgressBar::new_spinner());
            row.set_style(style(IDLE));
            row
        });
        let free = Mutex::new(rows.collect());
        let bar = screen.add(ProgressBar::new(boots as u64));
        bar.set_style(style(
            "[{bar:40.green}] {pos}/{len} boots, {msg}, {elapsed} gone, {eta} left",
        ));
        bar.set_message("none ended yet");
        bar.enable_steady_tick(TICK);
        Self::Live(Live {
            screen,
            free,
            bar,
            tally: Mutex::default(),
        })
    }

    /// A boot begins.
    pub fn start<'a>(&self, cell: &'a Cell) -> Started<'a> {
        let mut row = None;
        if let Self::Live(live) = self {
            row = lock(&live.free).pop();
            if let Some(row) = &row {
                let guest = &cell.args.guest;
                let cpu = guest.cpu.as_deref().unwrap_or_default();
                let ram = guest.mem.map(|size| size.to_string()).unwrap_or_default();
                row.set_style(style(BUSY));
                row.reset();
                row.set_message(row_text(&cell.name, &guest.machine, cpu, &ram));
                row.enable_steady_tick(TICK);
            }
        }
        Started { cell, row }
    }

    /// It has ended; `complaint` says what is wrong with it.
    pub fn end(&self, started: Started<'_>, report: &Report, complaint: Option<&str>) {
        let name = &started.cell.name;
        match self {
            Self::Plain => print_line(&line(name, report, complaint)),
            Self::Live(live) => {
                if let Some(row) = started.row {
                    row.disable_steady_tick();
                    row.set_style(style(IDLE));
                    row.set_message("");
                    lock(&live.free).push(row);
                }
                let mut tally = lock(&live.tally);
                match complaint {
                    None => tally.good += 1,
                    Some(_) => tally.bad += 1,
                }
                let Tally { good, bad } = *tally;
                live.bar.set_message(format!("{good} good, {bad} bad"));
                live.bar.inc(1);
                drop(tally);
                if complaint.is_some() {
                    let line = line(name, report, complaint);
                    live.screen.suspend(|| print_line(&line));
                }
            }
        }
    }

    /// Everything has ended; the table goes.
    pub fn finish(self) {
        if let Self::Live(live) = self {
            live.bar.finish_and_clear();
            // Nothing can be done about a terminal that is gone.
            let _ = live.screen.clear();
        }
    }
}

fn style(template: &str) -> ProgressStyle {
    ProgressStyle::with_template(template).unwrap_or_else(|_| ProgressStyle::default_bar())
}

fn row_text(cell: &str, machine: &str, cpu: &str, ram: &str) -> String {
    format!("{cell:<40} {machine:<32} {cpu:<14} {ram:>5}")
}

/// `BAD  panic       0.05 s  cpu/max`
fn line(name: &str, report: &Report, complaint: Option<&str>) -> String {
    let mark = if complaint.is_none() { "ok  " } else { "BAD " };
    let style = verdict_style(match complaint {
        None => Verdict::Pass,
        Some(_) => report.verdict,
    });
    let seconds = report.wall_ms.unwrap_or(0.0) / 1e3;
    let verdict = report.verdict;
    format!("{style}{mark}{style:#} {verdict:<10} {seconds:>5.2} s  {name}")
}

/// On standard error, where nothing can be done about one that is closed.
pub fn print_line(line: &str) {
    let line = ci::tame(line);
    let _ = writeln!(anstream::stderr().lock(), "{line}");
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
