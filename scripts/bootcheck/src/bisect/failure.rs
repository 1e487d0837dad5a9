//! One boot, as far as a bisection cares, and whether it failed as BAD does.

use regex::Regex;
use serde::{Deserialize, Serialize};

use crate::report::Report;
use crate::verdict::Verdict;

/// What one boot came to. Kept between runs.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Sight {
    /// The verdict.
    pub verdict: Verdict,
    /// The verdict with the kind of exception or hang: `exception: data abort`.
    pub class: String,
    /// The last stage that was reached.
    pub stage: Option<String>,
    /// The fingerprint of the failure.
    pub fingerprint: Option<String>,
    /// What went wrong, in a sentence.
    pub message: Option<String>,
    /// The function where it failed.
    pub symbol: Option<String>,
    /// Its source file and line.
    pub place: Option<String>,
    /// Where it failed and who called, line by line.
    pub trace: Vec<String>,
    /// Whether nothing came out.
    pub silent: bool,
    /// What came out.
    pub console: String,
    /// The stages, with the guest's clock in nanoseconds.
    pub stages: Vec<(String, Option<u64>)>,
    /// Instructions executed, where QEMU counted them.
    pub instructions: Option<u64>,
    /// Seconds from QEMU's start to its end.
    pub seconds: f64,
    /// The QEMU that ran.
    pub qemu: Option<String>,
}

impl From<Report> for Sight {
    fn from(report: Report) -> Self {
        let kind = match (&report.first_exception, report.hang) {
            (Some(exception), _) if report.verdict == Verdict::Exception => {
                Some(exception.kind.as_ref())
            }
            (_, Some(hang)) => Some(hang.kind.name()),
            _ => None,
        };
        let class = match kind {
            Some(kind) => format!("{}: {kind}", report.verdict),
            None if ended_by_panic(&report) => Verdict::Panic.to_string(),
            None => report.verdict.to_string(),
        };
        let place = match (&report.file, report.line) {
            (Some(file), Some(line)) => Some(format!("{file}:{line}")),
            _ => None,
        };
        Self {
            verdict: report.verdict,
            class,
            place,
            trace: report.whereabouts(),
            silent: report.silent.unwrap_or_default(),
            console: report.console.unwrap_or_default(),
            stages: report
                .stages
                .into_iter()
                .map(|stage| (stage.name, stage.ns))
                .collect(),
            stage: report.stage,
            fingerprint: report.fingerprint,
            message: report.message,
            symbol: report.symbol,
            instructions: report.instructions,
            seconds: report.wall_ms.unwrap_or_default() / 1e3,
            qemu: report.qemu.version,
        }
    }
}

/// A kernel that says nothing, and whose black box this tester cannot read, may still have left by
/// way of its panic handler.
fn ended_by_panic(report: &Report) -> bool {
    let frames = report.backtrace.as_deref().unwrap_or_default();
    let mut functions = frames.iter().filter_map(|frame| frame.symbol.as_deref());
    matches!(report.verdict, Verdict::Off | Verdict::Reset)
        && functions.any(|name| name == "panic" || name.ends_with("rust_begin_unwind"))
}

impl Sight {
    /// One line: what happened, at which stage, and where.
    #[must_use]
    pub fn shown(&self) -> String {
        let mut line = self.class.clone();
        match (self.verdict, &self.message) {
            (Verdict::Pass, _) => return line,
            (Verdict::Unbootable, Some(reason)) => return format!("{line}: {reason}"),
            _ => {}
        }
        if let Some(stage) = &self.stage {
            line.push_str(&format!(" at stage {stage}"));
        }
        match (&self.symbol, &self.place) {
            (Some(symbol), Some(place)) => line.push_str(&format!(" in {symbol} ({place})")),
            (Some(symbol), None) => line.push_str(&format!(" in {symbol}")),
            _ => {}
        }
        line
    }
}

/// What a boot says about its revision.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Meaning {
    /// As it should be.
    Good,
    /// It failed as BAD does.
    Bad,
    /// It failed in another way: nothing is known about the failure that is sought.
    Other,
}

/// The failure that is sought.
#[derive(Debug, Clone)]
pub struct Failure {
    /// The verdict of a good boot.
    pub expected: Verdict,
    /// How it is recognised.
    pub by: Recognition,
}

/// How the failure is recognised.
#[derive(Debug, Clone)]
pub enum Recognition {
    /// By BAD's class or stage: names may change along the history, and one of the two may too.
    ClassOrStage {
        /// The class of BAD's failure.
        class: String,
        /// The stage of it.
        stage: Option<String>,
    },
    /// Any failure will do.
    Any,
    /// What is told of it matches.
    Match(Regex),
}

impl Failure {
    /// What a boot says about its revision.
    #[must_use]
    pub fn meaning(&self, sight: &Sight) -> Meaning {
        if sight.verdict == self.expected {
            return Meaning::Good;
        }
        let is_same = match &self.by {
            Recognition::Any => true,
            Recognition::ClassOrStage { class, stage } => {
                sight.class == *class || (stage.is_some() && sight.stage == *stage)
            }
            Recognition::Match(regex) => {
                let told = [&sight.class].into_iter().chain(&sight.trace);
                told.chain(&sight.message)
                    .chain(&sight.fingerprint)
                    .chain(&sight.stage)
                    .any(|text| regex.is_match(text))
                    || sight.console.lines().any(|line| regex.is_match(line))
            }
        };
        if is_same {
            Meaning::Bad
        } else {
            Meaning::Other
        }
    }
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    pub(in crate::bisect) fn sight(verdict: Verdict, class: &str, stage: Option<&str>) -> Sight {
        Sight {
            verdict,
            class: class.into(),
            stage: stage.map(str::to_owned),
            fingerprint: None,
            message: None,
            symbol: None,
            place: None,
            trace: Vec::new(),
            silent: false,
            console: String::new(),
            stages: Vec::new(),
            instructions: None,
            seconds: 0.1,
            qemu: None,
        }
    }

    #[test]
    fn class_or_stage_makes_it_the_same_failure() {
        let failure = Failure {
            expected: Verdict::Pass,
            by: Recognition::ClassOrStage {
                class: "panic".into(),
                stage: Some("early_mmu".into()),
            },
        };
        let fault = "exception: data abort";
        for (verdict, class, stage, meaning) in [
            (Verdict::Pass, "pass", Some("done"), Meaning::Good),
            (Verdict::Panic, "panic", Some("heap"), Meaning::Bad),
            (Verdict::Exception, fault, Some("early_mmu"), Meaning::Bad),
            (Verdict::Exception, fault, Some("heap"), Meaning::Other),
            (Verdict::Exception, fault, None, Meaning::Other),
        ] {
            let sight = sight(verdict, class, stage);
            assert_eq!(failure.meaning(&sight), meaning, "{sight:?}");
        }
    }

    #[test]
    fn images_of_others_have_no_stages_to_share() {
        let by = Recognition::ClassOrStage {
            class: "hang: spin".into(),
            stage: None,
        };
        let failure = Failure {
            expected: Verdict::Pass,
            by,
        };
        assert_eq!(
            failure.meaning(&sight(Verdict::Reset, "reset", None)),
            Meaning::Other
        );
    }

    #[test]
    fn a_pattern_looks_at_all_that_is_told() {
        let failure = |pattern: &str| Failure {
            expected: Verdict::Pass,
            by: Recognition::Match(Regex::new(pattern).unwrap()),
        };
        let mut sight = sight(Verdict::Panic, "panic", Some("heap"));
        sight.console = "one\nkernel BUG at mmu.c\n".into();
        sight.trace = vec!["at 0x0 create_pgd_mapping".into()];
        for pattern in ["create_pgd", "^kernel BUG", "heap", "panic"] {
            assert_eq!(failure(pattern).meaning(&sight), Meaning::Bad, "{pattern}");
        }
        assert_eq!(failure("oops").meaning(&sight), Meaning::Other);
        sight.verdict = Verdict::Pass;
        assert_eq!(failure("panic").meaning(&sight), Meaning::Good);
    }
}
