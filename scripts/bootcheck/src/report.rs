//! The result of a boot as JSON, and as lines for a person.
//!
//! The fields of [`Report`] are a contract (`schema: 1`): they may be added to, but none changes
//! or goes. What is not known is `null`.

use std::io::Write;

use anstyle::{AnsiColor, Style};
use serde::Serialize;

use crate::boot::Outcome;
use crate::ktap::Counts;
use crate::signs::Stage;
use crate::verdict::Verdict;

/// One boot, for machines.
#[derive(Debug, Clone, Serialize)]
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
    /// Instructions executed, with `--icount`.
    pub instructions: Option<u64>,
    /// The stages in order, with the guest's clock.
    pub stages: Vec<Stage>,
    /// The same for the same failure, different for different ones.
    pub fingerprint: Option<String>,
    /// What the verdict rests on, strongest first.
    pub evidence: Vec<&'static str>,
    /// The QEMU that ran.
    pub qemu: QemuReport,
    /// A shell command that shows the same boot.
    pub reproduce: Option<String>,
}

/// A hang.
#[derive(Debug, Clone, Serialize)]
pub struct Hang {
    /// `spin`, `wfi`, `livelock` or `idle`.
    pub kind: String,
    /// `proved` or `likely`.
    pub certainty: String,
}

/// An exception.
#[derive(Debug, Clone, Serialize)]
#[allow(missing_docs)] // The architecture's own names.
pub struct FirstException {
    pub kind: String,
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
#[derive(Debug, Clone, Serialize)]
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

/// The QEMU that ran.
#[derive(Debug, Clone, Serialize)]
pub struct QemuReport {
    /// Its version, if it came up.
    pub version: Option<String>,
    /// Its command line, as it was started.
    pub argv: Vec<String>,
}

impl Report {
    /// Tells what an outcome holds.
    #[must_use]
    pub fn new(outcome: &Outcome) -> Self {
        let facts = &outcome.facts;
        let judgement = &outcome.judgement;
        let place = match judgement.verdict {
            Verdict::Exception => facts.exception.as_ref(),
            Verdict::Panic => facts.panic.as_ref(),
            _ => None,
        };
        let milliseconds = |time: std::time::Duration| (time.as_secs_f64() * 1e6).round() / 1e3;
        Self {
            schema: 1,
            verdict: judgement.verdict,
            said_pass: facts.said_pass,
            silent: outcome.console.as_ref().map(|console| console.is_silent()),
            stage: outcome.stages.last().map(|stage| stage.name.clone()),
            pc: None,
            symbol: None,
            file: place.and_then(|place| place.file.clone()),
            line: place.and_then(|place| place.line),
            message: judgement.message.clone(),
            hang: None,
            first_exception: None,
            backtrace: None,
            tests: facts.tests.counts,
            console: outcome.console.as_ref().map(|console| console.text()),
            last_console_ms: outcome.last_console.map(milliseconds),
            wall_ms: outcome.wall.map(milliseconds),
            instructions: None,
            stages: outcome.stages.clone(),
            fingerprint: None,
            evidence: judgement.evidence.clone(),
            qemu: QemuReport {
                version: outcome.qemu_version.clone(),
                argv: outcome.argv.clone(),
            },
            reproduce: outcome.reproduce.clone(),
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
        line
    }

    /// For a person, on standard error: the verdict, and after a failure how to see it again.
    pub fn print(&self, last_lines: &[String]) {
        let mut err = anstream::stderr().lock();
        let style = verdict_style(self.verdict);
        // Nothing can be done about a standard error that is closed.
        let _ = writeln!(
            err,
            "bootcheck: {style}{}{style:#}{}",
            self.verdict,
            self.summary()
        );
        if self.verdict == Verdict::Pass {
            return;
        }
        if !last_lines.is_empty() {
            let _ = writeln!(err, "the console's last lines:");
            for line in last_lines {
                let _ = writeln!(err, "  | {line}");
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
        let json = serde_json::to_value(Report::new(&outcome)).unwrap();
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
        let mut report = Report::new(&Outcome::without_guest(Facts::default()));
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
