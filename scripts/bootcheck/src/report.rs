//! The result of a boot as JSON, and as lines for a person.
//!
//! The fields of [`Report`] are a contract (`schema: 1`): they may be added to, but none changes
//! or goes. What is not known is `null`.

use std::borrow::Cow;
use std::io::Write;

use anstyle::{AnsiColor, Style};
use serde::{Deserialize, Serialize};

use crate::a64;
use crate::boot::{Earlier, Outcome};
use crate::ci;
use crate::console::Console;
use crate::fingerprint::fingerprint;
use crate::hang::Hang;
use crate::ktap::Counts;
use crate::locate::{Step, Whereabouts, locate};
use crate::signs::Stage;
use crate::symbols::{Source, names};
use crate::verdict::{Ending, Fatal, Verdict};

/// The most callers that are shown to a person; the JSON has all.
const MOST_CALLERS: usize = 12;

/// One boot, for machines.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Report {
    /// 1.
    pub schema: u32,
    /// What the boot came to.
    pub verdict: Verdict,
    /// The kernel said that it had passed, whatever followed.
    pub said_pass: bool,
    /// No byte came from the console.
    pub silent: Option<bool>,
    /// The last stage that was reached.
    pub stage: Option<String>,
    /// Where it failed, at its address as linked.
    pub pc: Option<String>,
    /// The function there.
    pub symbol: Option<String>,
    /// The source file there.
    pub file: Option<String>,
    /// The line there.
    pub line: Option<u32>,
    /// What went wrong, in a sentence; null for a pass.
    pub message: Option<String>,
    /// What kind of hang, and how certain.
    pub hang: Option<Hang>,
    /// The exception that began it.
    pub first_exception: Option<FirstException>,
    /// Who called.
    pub backtrace: Option<Vec<Frame>>,
    /// The counts of the self-tests.
    pub tests: Counts,
    /// What the guest printed: at most 1 MiB, head and tail.
    pub console: Option<String>,
    /// From the guest's first instruction to the last byte of the console.
    pub last_console_ms: Option<f64>,
    /// From QEMU's start to its end.
    pub wall_ms: Option<f64>,
    /// Instructions executed, with `--icount`; null for a guest that had to be stopped, as nothing
    /// repeats there.
    pub instructions: Option<u64>,
    /// The stages in order, with the guest's clock.
    pub stages: Vec<Stage>,
    /// The same for the same failure, different for different ones.
    pub fingerprint: Option<String>,
    /// What the verdict rests on, strongest first.
    pub evidence: Vec<Cow<'static, str>>,
    /// The QEMU that ran.
    pub qemu: QemuReport,
    /// A shell command that shows the same boot.
    pub reproduce: Option<String>,
    /// What our kernel, or a Linux, had logged in its memory, where its end did not come from the console.
    pub recorded_console: Option<String>,
    /// What our kernel said that the boot before this one died of.
    pub previous_boot: Option<String>,
    /// With `--reboots`, the boots before this one.
    pub earlier: Vec<Earlier>,
    /// `symbol+0x10 (file:line)` of the place where it failed.
    #[serde(skip)]
    place: Option<String>,
    /// Why nothing is known but addresses.
    #[serde(skip)]
    no_symbols: Option<String>,
}

/// An exception.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[allow(missing_docs)] // The architecture's own names.
pub struct FirstException {
    pub kind: Cow<'static, str>,
    pub ec: Option<String>,
    pub esr: Option<String>,
    pub elr: Option<String>,
    pub far: Option<String>,
    pub el: Option<u8>,
    pub symbol: Option<String>,
    pub file: Option<String>,
    pub line: Option<u32>,
}

/// One call.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Frame {
    /// Its address as linked.
    pub pc: String,
    /// The function.
    pub symbol: Option<String>,
    /// The source file.
    pub file: Option<String>,
    /// The line.
    pub line: Option<u32>,
}

impl Frame {
    fn new(step: &Step) -> Self {
        Self {
            pc: hex(step.pc),
            symbol: step.function.clone(),
            file: step.file.clone(),
            line: step.line,
        }
    }

    /// For a person: the function, and where in the source.
    fn shown(&self) -> String {
        let name = self.symbol.as_deref().unwrap_or(&self.pc);
        match (&self.file, self.line) {
            (Some(file), Some(line)) => format!("{name} ({file}:{line})"),
            _ => name.to_owned(),
        }
    }
}

impl FirstException {
    /// With the place where it was found to be, if it is what the verdict is about.
    fn new(fatal: &Fatal, place: Option<&Step>) -> Self {
        Self {
            kind: a64::exception_name(fatal.esr).into(),
            ec: Some(format!("{:#04x}", a64::exception_class(fatal.esr))),
            esr: Some(hex(fatal.esr)),
            elr: Some(hex(place.map_or(fatal.elr, |step| step.pc))),
            far: fatal.far.map(hex),
            el: Some(fatal.el),
            symbol: place.and_then(|step| step.function.clone()),
            file: place.and_then(|step| step.file.clone()),
            line: place.and_then(|step| step.line),
        }
    }
}

/// An address as the JSON has it.
fn hex(address: u64) -> String {
    format!("{address:#x}")
}

/// The QEMU that ran.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct QemuReport {
    /// Its version, if it came up.
    pub version: Option<String>,
    /// Its command line, as it was started.
    pub argv: Vec<String>,
}

impl Report {
    /// Tells what an outcome holds; what is at an address comes from `source`.
    #[must_use]
    pub fn new(outcome: &Outcome, source: Option<&Source>) -> Self {
        let facts = &outcome.facts;
        let judgement = &outcome.judgement;
        let place = match judgement.verdict {
            Verdict::Exception => facts.exception.as_ref(),
            Verdict::Panic => facts
                .panic
                .as_ref()
                .or(facts.recorded_panic.as_ref())
                .or(facts.kept_panic.as_ref()),
            _ => None,
        };
        let console = outcome.console.as_ref().map(|console| console.text());
        let is_failure = !matches!(
            judgement.verdict,
            Verdict::Pass | Verdict::Infra | Verdict::Unbootable
        );
        // A boot that passes needs no symbols, and does not wait for them.
        let symbols = source.filter(|_| is_failure).map(Source::get);
        let no_symbols = symbols.and_then(|symbols| symbols.err().map(str::to_owned));
        let symbols = symbols.and_then(Result::ok);
        let found = locate(
            judgement.verdict,
            outcome.scene.as_ref(),
            console.as_deref(),
            symbols,
        );
        let steps = found.as_ref().map_or(&[][..], |found| &found.steps);
        let culprit = found.as_ref().and_then(|found| found.culprit());
        let hang = match facts.ending {
            Some(Ending::Hang(hang)) if judgement.verdict == Verdict::Hang => Some(hang),
            _ => None,
        };
        let is_place = judgement.verdict == Verdict::Exception && outcome.scene.is_some();
        let first_exception = facts
            .first_exception()
            .map(|fatal| FirstException::new(fatal, steps.first().filter(|_| is_place)));
        let class = match judgement.verdict {
            Verdict::Exception => first_exception
                .as_ref()
                .map(|exception| exception.kind.as_ref()),
            Verdict::Hang => hang.map(|hang| hang.kind.name()),
            _ => None,
        };
        let fingerprint = fingerprint(
            judgement.verdict,
            class,
            judgement.message.as_deref(),
            found.iter().flat_map(Whereabouts::functions),
        );
        // A panic names its place itself, and means the caller where that is to blame; but what is
        // in Rust's own library was called by somebody.
        let named = place.and_then(|place| Some((place.file.as_deref()?, place.line)));
        let named = named.filter(|(file, _)| !names::is_library_path(file) || culprit.is_none());
        let failed = facts.tests.first_reason.as_ref();
        let (symbol, file, line) = match (judgement.verdict, named, failed) {
            (Verdict::Fail, _, Some((_, file, line))) => (None, Some(file.as_str()), Some(*line)),
            (_, Some((file, line)), _) => {
                let step = found.as_ref().and_then(|found| found.step_at(file, line));
                (step.or(culprit), Some(file), line)
            }
            _ => (
                culprit,
                culprit.and_then(|step| step.file.as_deref()),
                culprit.and_then(|step| step.line),
            ),
        };
        let milliseconds = |time: std::time::Duration| (time.as_secs_f64() * 1e6).round() / 1e3;
        let is_silent = outcome.console.as_ref().map(Console::is_silent);
        let end_was_kept = facts.kept_panic.is_some() || facts.kept_exception.is_some();
        Self {
            schema: 1,
            verdict: judgement.verdict,
            said_pass: facts.said_pass,
            silent: is_silent,
            stage: outcome.stages.last().map(|stage| stage.name.clone()),
            pc: steps.first().map(|step| hex(step.pc)),
            symbol: symbol.and_then(|step| step.function.clone()),
            file: file.map(str::to_owned),
            line,
            message: judgement.message.clone(),
            hang,
            first_exception,
            backtrace: found
                .as_ref()
                .map(|_| steps.iter().map(Frame::new).collect()),
            tests: facts.tests.counts,
            console,
            last_console_ms: outcome.last_console.map(milliseconds),
            wall_ms: outcome.wall.map(milliseconds),
            instructions: outcome.instructions,
            stages: outcome.stages.clone(),
            fingerprint,
            evidence: judgement
                .evidence
                .iter()
                .map(|name| Cow::Borrowed(*name))
                .collect(),
            qemu: QemuReport {
                version: outcome.qemu_version.clone(),
                argv: outcome.argv.clone(),
            },
            reproduce: outcome.reproduce.clone(),
            recorded_console: outcome
                .recorded_console
                .clone()
                .filter(|_| is_silent == Some(true) || end_was_kept),
            previous_boot: outcome.previous_boot.clone(),
            earlier: outcome.earlier.clone(),
            place: found.as_ref().and_then(|found| found.summary.clone()),
            no_symbols,
        }
    }

    /// One line: what happened, and where.
    #[must_use]
    pub fn summary(&self) -> String {
        let mut line = String::new();
        if let Some(stage) = &self.stage
            && self.verdict != Verdict::Pass
        {
            line.push_str(&format!(" at stage {stage}"));
        }
        if let Some(message) = &self.message {
            line.push_str(&format!(": {message}"));
        }
        if let (Some(file), Some(number)) = (&self.file, self.line) {
            line.push_str(&format!(" ({file}:{number})"));
        }
        if let Some(wall) = self.wall_ms {
            line.push_str(&format!(" in {:.2} s", wall / 1e3));
        }
        if let Some(instructions) = self.instructions {
            line.push_str(&format!(", {instructions} instructions"));
        }
        line
    }

    /// Where it failed and from where that was called, line by line.
    #[must_use]
    pub fn whereabouts(&self) -> Vec<String> {
        let Some(backtrace) = &self.backtrace else {
            return Vec::new();
        };
        let first = self.pc.as_deref().unwrap_or_default();
        let place = self.place.as_deref();
        let mut lines = vec![
            format!("at {first} {}", place.unwrap_or_default())
                .trim_end()
                .to_owned(),
        ];
        // The last step of the first address is the function that was just named.
        let inside = backtrace
            .iter()
            .take_while(|frame| frame.pc == first)
            .count();
        let inlined = if place.is_some() {
            inside.saturating_sub(1)
        } else {
            0
        };
        lines.extend(
            backtrace[..inlined]
                .iter()
                .map(|frame| format!("   inlined {}", frame.shown())),
        );
        let callers = backtrace.iter().skip(inside).map(Frame::shown);
        let mut shown: Vec<(String, usize)> = Vec::new();
        for caller in callers {
            match shown.last_mut() {
                Some((last, times)) if *last == caller => *times += 1,
                _ => shown.push((caller, 1)),
            }
        }
        lines.extend(
            shown
                .into_iter()
                .take(MOST_CALLERS)
                .map(|(caller, times)| match times {
                    1 => format!("from {caller}"),
                    _ => format!("from {caller}, {times} times"),
                }),
        );
        lines
    }

    /// For a person, on standard error: the verdict, and after a failure how to see it again.
    pub fn print(&self, last_lines: &[String]) {
        let mut err = anstream::stderr().lock();
        for (number, boot) in self.earlier.iter().enumerate() {
            let style = verdict_style(boot.verdict);
            let _ = writeln!(
                err,
                "boot {}: {style}{}{style:#}{}",
                number + 1,
                boot.verdict,
                ci::shown(&boot.summary())
            );
        }
        let style = verdict_style(self.verdict);
        // Nothing can be done about a standard error that is closed.
        let _ = writeln!(
            err,
            "bootcheck: {style}{}{style:#}{}",
            self.verdict,
            ci::shown(&self.summary())
        );
        if self.verdict == Verdict::Pass {
            return;
        }
        for line in self.whereabouts() {
            let _ = writeln!(err, "  {}", crate::escape::escape(line.as_bytes()));
        }
        if let Some(reason) = &self.no_symbols {
            let _ = writeln!(err, "  without symbols: {reason}");
        }
        if !last_lines.is_empty() {
            let source = match (self.silent, &self.recorded_console) {
                (Some(true), _) => {
                    "not one byte on the console; its log's last lines, from memory:"
                }
                (_, Some(_)) => "its log's last lines, from memory:",
                _ => "the console's last lines:",
            };
            let _ = writeln!(err, "{source}");
            for line in last_lines {
                let _ = writeln!(err, "  | {}", ci::shown(line));
            }
        }
        if let Some(command) = &self.reproduce {
            let _ = writeln!(err, "to see it again: {command}");
        }
    }
}

/// The colour of a verdict: good, bad, or not about the guest.
#[must_use]
pub fn verdict_style(verdict: Verdict) -> Style {
    let colour = match verdict {
        Verdict::Pass => AnsiColor::Green,
        Verdict::Infra | Verdict::Unbootable => AnsiColor::Yellow,
        _ => AnsiColor::Red,
    };
    colour.on_default().bold()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::verdict::Facts;

    /// Every field of the contract is there, under its name, known or not.
    #[test]
    fn the_json_has_the_shape_of_the_contract() {
        let outcome = Outcome::without_guest(Facts {
            unbootable: Some("no image".into()),
            ..Facts::default()
        });
        let json = serde_json::to_value(Report::new(&outcome, None)).unwrap();
        let fields = json.as_object().unwrap();
        for name in [
            "schema",
            "verdict",
            "said_pass",
            "silent",
            "stage",
            "pc",
            "symbol",
            "file",
            "line",
            "message",
            "hang",
            "first_exception",
            "backtrace",
            "tests",
            "console",
            "last_console_ms",
            "wall_ms",
            "instructions",
            "stages",
            "fingerprint",
            "evidence",
            "qemu",
        ] {
            assert!(fields.contains_key(name), "{name} is missing");
        }
        assert_eq!(json["schema"], 1);
        assert_eq!(json["verdict"], "unbootable");
        assert_eq!(json["message"], "no image");
        assert_eq!(json["silent"], serde_json::Value::Null);
        assert_eq!(json["tests"]["failed"], 0);
        assert!(json["qemu"]["argv"].is_array() && json["qemu"]["version"].is_null());
    }

    #[test]
    fn the_summary_tells_what_and_where() {
        let mut report = Report::new(&Outcome::without_guest(Facts::default()), None);
        report.verdict = Verdict::Panic;
        report.stage = Some("early_mmu".into());
        report.message = Some("no table".into());
        (report.file, report.line) = (Some("fixmap.rs".into()), Some(12));
        report.wall_ms = Some(94.0);
        assert_eq!(
            report.summary(),
            " at stage early_mmu: no table (fixmap.rs:12) in 0.09 s"
        );
        report.verdict = Verdict::Pass;
        (report.message, report.file) = (None, None);
        assert_eq!(report.summary(), " in 0.09 s");
    }
}
