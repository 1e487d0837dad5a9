//! Boots of one guest in one QEMU: the first, and those after resets with its RAM kept.

use std::path::Path;
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};

use crate::console::Console;
use crate::interrupt::Interrupted;
use crate::loader;
use crate::locate::Scene;
use crate::plan::{BlackBox, Plan, Wiring, random};
use crate::postmortem;
use crate::qemu::{Qemu, StartError};
use crate::qmp;
use crate::signs::Stage;
use crate::verdict::{Facts, Judgement, Rule, Verdict, judge};
use crate::watch::Watch;

/// What one boot came to.
#[derive(Debug)]
pub struct Outcome {
    /// The verdict and what it rests on.
    pub judgement: Judgement,
    /// Everything that was seen.
    pub facts: Facts,
    /// The stages that the console told of, in order.
    pub stages: Vec<Stage>,
    /// The console; `None` if the guest never ran.
    pub console: Option<Console>,
    /// From QEMU's start to its end.
    pub wall: Option<Duration>,
    /// From the guest's first instruction to the last byte on its console.
    pub last_console: Option<Duration>,
    /// Instructions executed, under icount, by a guest that powered off or reset.
    pub instructions: Option<u64>,
    /// The same of a guest that was stopped: a little more each time.
    pub instructions_when_stopped: Option<u64>,
    /// QEMU's version, if it came up.
    pub qemu_version: Option<String>,
    /// QEMU's command line, as it was started.
    pub argv: Vec<String>,
    /// A shell command that shows the same boot.
    pub reproduce: Option<String>,
    /// Registers and memory of a guest that failed.
    pub scene: Option<Scene>,
    /// What our kernel had recorded on its console when it ended, seen or not.
    pub recorded_console: Option<String>,
    /// What our kernel said that the boot before this one died of.
    pub previous_boot: Option<String>,
    /// The boots before this one in the same QEMU, in order.
    pub earlier: Vec<Earlier>,
}

/// A boot before the one that is judged.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Earlier {
    /// What it came to.
    pub verdict: Verdict,
    /// The last stage that was reached.
    pub stage: Option<String>,
    /// What went wrong; nothing for a pass.
    pub message: Option<String>,
    /// What it said that the boot before it died of.
    pub previous_boot: Option<String>,
}

impl Earlier {
    /// One line: what happened, and where.
    #[must_use]
    pub fn summary(&self) -> String {
        let mut line = String::new();
        if let (Some(stage), Some(message)) = (&self.stage, &self.message) {
            line.push_str(&format!(" at stage {stage}: {message}"));
        }
        if let Some(death) = &self.previous_boot {
            line.push_str(&format!("; it said of the boot before: {death}"));
        }
        line
    }
}

impl Outcome {
    /// A boot of an image that cannot boot.
    #[must_use]
    pub fn unbootable(reason: String) -> Self {
        Self::without_guest(Facts {
            unbootable: Some(reason),
            ..Facts::default()
        })
    }

    /// A boot that did not come to running the guest.
    #[must_use]
    pub fn without_guest(facts: Facts) -> Self {
        Self {
            judgement: judge(&facts, Rule::LastLine),
            facts,
            stages: Vec::new(),
            console: None,
            wall: None,
            last_console: None,
            instructions: None,
            instructions_when_stopped: None,
            qemu_version: None,
            argv: Vec::new(),
            reproduce: None,
            scene: None,
            recorded_console: None,
            previous_boot: None,
            earlier: Vec::new(),
        }
    }
}

/// Boots as planned. `on_console` gets the console's bytes as they come.
///
/// # Errors
/// [`Interrupted`], with QEMU gone.
pub fn boot(plan: &Plan, on_console: &mut dyn FnMut(&[u8])) -> Result<Outcome, Interrupted> {
    let start = Instant::now();
    let mut version = None;
    let mut earlier = Vec::new();
    let files = loader::prepare(plan);
    let directory = match &files {
        Ok(Some(files)) => files.path(),
        _ => Path::new(""),
    };
    let started = match &files {
        Ok(_) => Qemu::start(plan, directory),
        Err(reason) => Err(StartError::Failed(reason.clone())),
    };
    let mut watch = match started {
        Err(StartError::Interrupted) => return Err(Interrupted),
        Err(StartError::Failed(reason)) => {
            let mut watch = Watch::new(plan);
            watch.facts.infra = Some(reason);
            watch
        }
        Ok(mut qemu) => {
            version = Some(qemu.version.clone());
            boot_and_reboot(&mut qemu, plan, &mut earlier, on_console)?
        }
    };
    let mut argv = vec![plan.qemu.to_string_lossy().into_owned()];
    let arguments = plan.arguments(Wiring::Tester(directory));
    argv.extend(
        arguments
            .iter()
            .map(|word| word.to_string_lossy().into_owned()),
    );
    Ok(Outcome {
        judgement: judge_image_too(&mut watch.facts, plan),
        facts: watch.facts,
        stages: watch.stages,
        console: version.is_some().then_some(watch.console),
        wall: Some(start.elapsed()),
        last_console: watch.last_console,
        instructions: watch.instructions,
        instructions_when_stopped: watch.instructions_when_stopped,
        qemu_version: version,
        argv,
        reproduce: Some(plan.shell_command()),
        scene: watch.scene,
        recorded_console: watch.recorded_console,
        previous_boot: watch.previous_boot,
        earlier,
    })
}

/// Judges, and after a failure looks whether the image was whole: a kernel is not to blame for what was
/// cut off its file. One that boots without is a good one.
fn judge_image_too(facts: &mut Facts, plan: &Plan) -> Judgement {
    let mut judgement = judge(facts, plan.rule);
    if matches!(judgement.verdict, Verdict::Pass | Verdict::Infra) {
        return judgement;
    }
    if let Some(reason) = plan.source.as_ref().and_then(|source| source.cut()) {
        facts.unbootable = Some(reason.to_owned());
        return judge(facts, plan.rule);
    }
    if let Some((there, wanted)) = plan.image.cut {
        let message = judgement.message.unwrap_or_default();
        judgement.message = Some(format!(
            "{message}; the image may be cut short: {there} bytes, and its PE header tells of {wanted}"
        ));
        judgement.evidence.push("image-cut");
    }
    judgement
}

/// The first boot, then as many as planned after resets; the last of them, with QEMU gone.
fn boot_and_reboot<'a>(
    qemu: &mut Qemu,
    plan: &'a Plan,
    earlier: &mut Vec<Earlier>,
    on_console: &mut dyn FnMut(&[u8]),
) -> Result<Watch<'a>, Interrupted> {
    let mut marks: Vec<BlackBox> = plan.black_box.into_iter().collect();
    let mut is_marked = plan.marks_by_loader();
    if plan.has_ram_of_before() {
        for address in postmortem::old_records(qemu, plan) {
            renew(&mut marks, Some(address));
            is_marked = false;
        }
    }
    for number in 0.. {
        let mut watch = Watch::new(plan);
        let started = if is_marked {
            Ok(())
        } else {
            leave_marks(qemu, &marks)
        };
        watch.run(qemu, started, &marks, on_console)?;
        if number == plan.reboots || watch.facts.ending.is_none() {
            watch.finish(qemu, on_console);
            return Ok(watch);
        }
        renew(&mut marks, watch.record_at);
        is_marked = false;
        let verdict = judge(&watch.facts, plan.rule);
        match qemu.reset() {
            Ok(()) => earlier.push(Earlier {
                verdict: verdict.verdict,
                stage: watch.stages.last().map(|stage| stage.name.clone()),
                message: verdict.message,
                previous_boot: watch.previous_boot,
            }),
            Err(qmp::Error::Interrupted) => return Err(Interrupted),
            Err(error) => {
                watch.facts.infra = Some(format!("the machine could not be reset: {error}"));
                watch.finish(qemu, on_console);
                return Ok(watch);
            }
        }
    }
    unreachable!("there are fewer reboots than numbers")
}

/// New numbers for the next boot, also where the last one had left its record.
fn renew(marks: &mut Vec<BlackBox>, record_at: Option<u64>) {
    let is_new = |address: &u64| marks.iter().all(|mark| mark.address != *address);
    if let Some(address) = record_at.filter(is_new) {
        marks.push(BlackBox { address, nonce: 0 });
    }
    for mark in marks {
        mark.nonce = random();
    }
}

/// Writes into the memory of a guest that has not started yet.
fn leave_marks(qemu: &mut Qemu, marks: &[BlackBox]) -> Result<(), qmp::Error> {
    for mark in marks {
        let address = mark.address + crate::blackbox::NONCE;
        qemu.gdb()?
            .write_physical(address, &mark.nonce.to_le_bytes())
            .map_err(|error| qmp::Error::Refused(error.to_string()))?;
    }
    Ok(())
}
