//! `bootcheck inject`: the tester tested. One instruction after the other is broken in a copy of
//! the image, and each time the verdict must name exactly that instruction.
//!
//! - [`learn`] finds out which instructions execute, from a log of QEMU's;
//! - [`select`] picks those to break;
//! - this module boots the broken images in parallel;
//! - [`results`] says whether each verdict was exact.

pub mod learn;
pub mod results;
pub mod select;

use std::fs::File;
use std::io::{BufReader, Write};
use std::path::Path;
use std::time::Instant;

use anyhow::{Context, bail, ensure};

use crate::boot::{Outcome, boot};
use crate::cli::InjectArgs;
use crate::image::Form;
use crate::interrupt::Interrupted;
use crate::output;
use crate::parallel;
use crate::plan::{Entry, Plan};
use crate::report::Report;
use crate::symbols::Source;
use crate::verdict::Verdict;
use learn::Executed;
use results::{Expected, Hit};
use select::Shot;

/// Runs the command; the exit status.
///
/// # Errors
/// There is nothing to try, or the tester failed: 129 (or [`Interrupted`]).
pub fn run(args: &InjectArgs) -> anyhow::Result<u8> {
    if let Some(path) = &args.json {
        output::check_result(path)?;
    }
    let plan = args
        .guest
        .plan_with(Some(&args.elf))
        .map_err(anyhow::Error::msg)?;
    ensure!(
        plan.image.form == Form::Raw && plan.entry == Entry::Kernel,
        "only a raw Image that QEMU loads itself can be broken"
    );
    let image = std::fs::read(&plan.path)?;
    let source = Source::new(args.elf.clone());
    let symbols = source.require()?;
    let directory = tempfile::tempdir().context("cannot make a temporary directory")?;
    let work = Work {
        plan: &plan,
        image: &image,
        source: &source,
        directory: directory.path(),
    };

    let (executed, report) = work.learn()?;
    let (offsets, expected) = match report.verdict {
        Verdict::Pass => (executed.before, Expected::TheInstruction),
        Verdict::Infra | Verdict::Unbootable => {
            bail!(report.message.unwrap_or_else(|| "it does not boot".into()))
        }
        verdict => {
            let pc = results::place_of(&report);
            (executed.after, Expected::TheOriginal { verdict, pc })
        }
    };
    let shots = select::select(args, offsets.iter().copied(), symbols)?;
    let _ = writeln!(
        anstream::stderr(),
        "inject: {} instructions {}, {} boots",
        offsets.len(),
        match &expected {
            Expected::TheInstruction => "execute before the first exception".to_owned(),
            Expected::TheOriginal { verdict, pc } => format!(
                "execute only after the {verdict} at {}",
                pc.as_deref().unwrap_or("an unknown place")
            ),
        },
        shots.len()
    );
    ensure!(!shots.is_empty(), "none of them was asked for");
    if args.list {
        for shot in &shots {
            let address = symbols.base() + shot.offset;
            let place = symbols.resolve(address, crate::symbols::Meaning::Executing);
            let place = place.summary().unwrap_or_default();
            println!("{address:#x} {:4} {place}", shot.kind.name());
        }
        return Ok(0);
    }

    let started = Instant::now();
    let hits = parallel::map(&shots, parallel::jobs(args.jobs), |shot| {
        let hit = Hit::new(*shot, &work.shoot(*shot)?, &expected, symbols);
        hit.print();
        Ok(hit)
    });
    if let Some(path) = &args.json {
        output::write_json(path, &hits)?;
    }
    results::print_summary(&hits, shots.len(), started.elapsed().as_secs_f64());
    if hits.len() < shots.len() {
        return Err(Interrupted.into());
    }
    Ok(match hits.iter().all(|hit| hit.exact) {
        true => 0,
        false if hits.iter().any(|hit| hit.verdict == Verdict::Infra) => 129,
        false => 1,
    })
}

/// What every boot needs.
struct Work<'a> {
    plan: &'a Plan,
    image: &'a [u8],
    source: &'a Source,
    directory: &'a Path,
}

impl Work<'_> {
    /// Boots the image as it is; what it executes, and what it comes to.
    fn learn(&self) -> anyhow::Result<(Executed, Report)> {
        let log = self.directory.join("log");
        let mut plan = self.plan.clone();
        let path = log
            .to_str()
            .context("a temporary directory without a name")?;
        for word in ["-d", "in_asm,int", "-D", path] {
            plan.qemu_args.push(word.to_owned());
        }
        boot(&plan, &mut |_| {})?;
        let symbols = self.source.require()?;
        let reader = BufReader::new(File::open(&log).context("QEMU wrote no log")?);
        let executed = learn::read(reader, symbols.base(), self.image.len() as u64)?;
        std::fs::remove_file(&log)?;
        ensure!(
            !executed.before.is_empty(),
            "nothing of the image is in QEMU's log: does this QEMU have a disassembler?"
        );
        // The log may stand in the way of what a verdict rests on: the verdict is another boot's.
        let outcome = boot(self.plan, &mut |_| {})?;
        Ok((executed, Report::new(&outcome, Some(self.source))))
    }

    /// Boots with one instruction broken.
    fn shoot(&self, shot: Shot) -> Result<Report, Interrupted> {
        let path = self
            .directory
            .join(format!("Image-{:x}-{}", shot.offset, shot.kind.name()));
        let mut plan = self.plan.clone();
        plan.path.clone_from(&path);
        let outcome = match self.write(shot, &path) {
            Ok(()) => boot(&plan, &mut |_| {})?,
            Err(error) => Outcome::without_guest(crate::verdict::Facts {
                infra: Some(format!("cannot write the broken image: {error}")),
                ..Default::default()
            }),
        };
        // If it cannot be removed now, it goes with the directory.
        let _ = std::fs::remove_file(&path);
        Ok(Report::new(&outcome, Some(self.source)))
    }

    fn write(&self, shot: Shot, path: &Path) -> std::io::Result<()> {
        let mut image = self.image.to_vec();
        let start = usize::try_from(shot.offset).unwrap_or(usize::MAX);
        match image.get_mut(start..start.saturating_add(4)) {
            Some(word) => word.copy_from_slice(&shot.kind.word().to_le_bytes()),
            None => return Err(std::io::ErrorKind::UnexpectedEof.into()),
        }
        std::fs::write(path, image)
    }
}
