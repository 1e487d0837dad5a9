//! Boots the cells.

use std::collections::{HashMap, HashSet};
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use super::cell::Cell;
use super::progress::Progress;
use super::results::{CellResult, Status};
use crate::interrupt::Interrupted;
use crate::parallel;
use crate::plan::Plan;
use crate::run::boot_unseen;
use crate::symbols::Source;

/// How to boot them.
#[derive(Debug, Clone, Copy)]
pub struct Boots {
    /// How many at a time.
    pub jobs: usize,
    /// How often each.
    pub repeat: u32,
    /// Whether the first bad one is the last one.
    pub fail_fast: bool,
}

impl Boots {
    /// Boots all cells that can be had, in rounds: the repetitions of one cell lie far apart, so
    /// that they meet different weather on the host. Results in the order of the cells, without
    /// those boots that an interruption came before.
    pub fn run(self, cells: Vec<(Cell, CellResult)>) -> Vec<CellResult> {
        let cells: Vec<(Cell, Mutex<CellResult>)> = cells
            .into_iter()
            .map(|(cell, result)| (cell, Mutex::new(result)))
            .collect();
        let bootable: Vec<_> = cells
            .iter()
            .filter(|(_, result)| lock(result).status != Status::Skipped)
            .collect();
        let rounds = (0..self.repeat).flat_map(|_| &bootable);
        let boots: Vec<_> = rounds.collect();
        let sources = Sources::of(cells.iter().map(|(cell, _)| cell));
        let progress = Progress::new(boots.len(), self.jobs);
        let is_enough = AtomicBool::new(false);
        parallel::map(&boots, self.jobs, |(cell, result)| {
            if is_enough.load(Ordering::Relaxed) {
                return Err(Interrupted);
            }
            let started = progress.start(cell);
            let report = boot_unseen(sources.plan(cell))?;
            let complaint = cell.expect.complaint(&report);
            progress.end(started, &report, complaint.as_deref());
            if self.fail_fast && complaint.is_some() {
                is_enough.store(true, Ordering::Relaxed);
            }
            lock(result).add(report, complaint);
            Ok(())
        });
        progress.finish();
        cells
            .into_iter()
            .map(|(_, result)| result.into_inner().unwrap_or_else(PoisonError::into_inner))
            .collect()
    }
}

/// The ELFs of the images, each read once: a vmlinux may have half a gigabyte.
struct Sources(HashMap<Build, Option<Arc<Source>>>);

/// The ELF that was named, and the image.
type Build = (Option<PathBuf>, PathBuf);

impl Sources {
    fn of<'a>(cells: impl Iterator<Item = &'a Cell>) -> Self {
        let builds: HashSet<Build> = cells.map(Self::key).collect();
        let read = |build: Build| {
            let source = Source::for_image(build.0.clone(), &build.1).map(Arc::new);
            (build, source)
        };
        Self(builds.into_iter().map(read).collect())
    }

    fn key(cell: &Cell) -> Build {
        (cell.args.elf(), cell.args.guest.image.clone())
    }

    fn plan(&self, cell: &Cell) -> Result<Plan, String> {
        let mut plan = cell.args.plan()?;
        plan.source = self.0.get(&Self::key(cell)).cloned().flatten();
        Ok(plan)
    }
}

fn lock(result: &Mutex<CellResult>) -> std::sync::MutexGuard<'_, CellResult> {
    result.lock().unwrap_or_else(PoisonError::into_inner)
}
