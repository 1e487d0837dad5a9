//! The verdict: what one boot came to, weighed from what was seen.
//!
//! [`judge`] is a pure function of [`Facts`], so that every combination can be tested without a
//! guest. When several verdicts fit, the first in [`Verdict::ALL`] holds: what goes wrong after
//! `boot: PASS` wins.

use clap::ValueEnum;
use serde::Serialize;

use crate::a64;
use crate::blackbox;
use crate::exceptions::Taken;
use crate::hang::{Certainty, Hang};
use crate::ktap::Tally;
use crate::signs::Sighting;

/// What a boot came to.
#[derive(
    Debug,
    Clone,
    Copy,
    PartialEq,
    Eq,
    Hash,
    PartialOrd,
    Ord,
    Serialize,
    ValueEnum,
    serde::Deserialize,
)]
#[serde(rename_all = "lowercase")]
pub enum Verdict {
    /// QEMU, the host or the tester failed; nothing is known about the guest
    Infra,
    /// The image cannot start: missing, not built, or not an arm64 image
    Unbootable,
    /// A CPU exception nobody expected, an oops included
    Exception,
    /// The kernel gave up: BUG or panic
    Panic,
    /// It ran to the end and a self-test failed
    Fail,
    /// The guest reset itself
    Reset,
    /// It powered off without a result
    Off,
    /// It stands still for ever
    Hang,
    /// The deadline passed before the boot was over
    Timeout,
    /// The kernel said so on a whole line, then powered off or parked
    Pass,
}

impl Verdict {
    /// All verdicts; of several that fit, the first holds.
    pub const ALL: [Verdict; 10] = [
        Verdict::Infra,
        Verdict::Unbootable,
        Verdict::Exception,
        Verdict::Panic,
        Verdict::Fail,
        Verdict::Reset,
        Verdict::Off,
        Verdict::Hang,
        Verdict::Timeout,
        Verdict::Pass,
    ];

    /// The name, as in the JSON.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Verdict::Infra => "infra",
            Verdict::Unbootable => "unbootable",
            Verdict::Exception => "exception",
            Verdict::Panic => "panic",
            Verdict::Fail => "fail",
            Verdict::Reset => "reset",
            Verdict::Off => "off",
            Verdict::Hang => "hang",
            Verdict::Timeout => "timeout",
            Verdict::Pass => "pass",
        }
    }

    /// The exit status of `bootcheck boot`, made for `git bisect run`: 125 skips a revision, and
    /// 129 stops instead of blaming one.
    #[must_use]
    pub fn exit_status(self, expected: Verdict) -> u8 {
        match self {
            _ if self == expected => 0,
            Verdict::Infra => 129,
            Verdict::Unbootable => 125,
            _ => 1,
        }
    }
}

impl std::fmt::Display for Verdict {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.pad(self.name())
    }
}

/// What makes a boot a good one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Rule {
    /// This project's: `boot: PASS` is the last line, then power-off, a semihosting exit with
    /// status 0, or a parked CPU: with `exit=halt`, or where the kernel said that it cannot power off.
    LastLine,
    /// The first line that matches `--pass-regex`.
    Match,
    /// Such a line, and then an orderly end (`--until-exit`).
    MatchUntilExit,
}

/// How the watch over the guest ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ending {
    /// The guest powered itself off.
    PowerOff,
    /// The guest reset itself.
    Reset,
    /// The guest reported a panic through a pvpanic device.
    GuestPanicked,
    /// The guest left through semihosting with this status.
    Semihosting(u8),
    /// The guest said `boot: PASS` and fell silent, as told by `exit=halt` or for want of a way out.
    Parked,
    /// The tester had seen enough and stopped it.
    Decided,
    /// It takes exceptions on top of exceptions.
    Storm,
    /// It stands still.
    Hang(Hang),
    /// The deadline passed.
    Deadline,
}

/// A CPU exception from which execution did not resume.
#[derive(Debug, Clone, PartialEq, Eq)]
#[allow(missing_docs)] // The architecture's own names.
pub struct Fatal {
    pub esr: u64,
    pub elr: u64,
    pub far: Option<u64>,
    /// Where it was taken from, or to, where only that is known.
    pub el: u8,
}

impl Fatal {
    /// As our kernel's vectors recorded it.
    #[must_use]
    pub fn recorded(exception: &blackbox::Exception) -> Self {
        Self {
            esr: exception.esr,
            elr: exception.elr,
            far: a64::has_far(exception.esr).then_some(exception.far),
            el: exception.el,
        }
    }

    /// As QEMU logged it.
    #[must_use]
    pub fn logged(taken: &Taken) -> Self {
        Self {
            esr: taken.esr,
            elr: taken.elr,
            far: taken.far,
            el: taken.to_el,
        }
    }

    /// In a sentence.
    #[must_use]
    pub fn message(&self) -> String {
        let name = a64::exception_name(self.esr);
        let mut text = format!("{name} (ESR {:#010x}) at {:#x}", self.esr, self.elr);
        if let Some(far) = self.far {
            text.push_str(&format!(", address {far:#x}"));
        }
        text
    }
}

/// All that was seen of one boot.
#[derive(Debug, Clone, Default)]
pub struct Facts {
    /// QEMU, the host or the tester failed like this.
    pub infra: Option<String>,
    /// The image cannot start, for this reason.
    pub unbootable: Option<String>,
    /// The first exception on the console.
    pub exception: Option<Sighting>,
    /// The first panic or BUG on the console.
    pub panic: Option<Sighting>,
    /// The exception in the black box.
    pub recorded_exception: Option<Fatal>,
    /// The panic in the black box.
    pub recorded_panic: Option<Sighting>,
    /// The verdict in the black box.
    pub recorded_outcome: Option<bool>,
    /// The first exception in QEMU's log from which execution never resumed.
    pub logged_exception: Option<Fatal>,
    /// The registers could be read.
    pub has_registers: bool,
    /// The line `boot: PASS` was there, or one that matches `--pass-regex`.
    pub said_pass: bool,
    /// `boot: PASS` is the last line that is not blank.
    pub pass_is_last: bool,
    /// The line `boot: FAIL` was there.
    pub said_fail: bool,
    /// The first line that matches `--fail-regex`.
    pub fail_match: Option<String>,
    /// The self-tests.
    pub tests: Tally,
    /// How it ended; `None` if the guest never ran.
    pub ending: Option<Ending>,
}

impl Facts {
    /// The exception that began it: the kernel's own record before QEMU's log.
    #[must_use]
    pub fn first_exception(&self) -> Option<&Fatal> {
        let recorded = self.recorded_exception.as_ref();
        recorded.or(self.logged_exception.as_ref())
    }
}

/// A verdict with what it rests on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Judgement {
    /// What the boot came to.
    pub verdict: Verdict,
    /// One line a person can act on; nothing for a pass.
    pub message: Option<String>,
    /// Names of the facts that were weighed, strongest first.
    pub evidence: Vec<&'static str>,
}

/// Weighs the facts.
#[must_use]
pub fn judge(facts: &Facts, rule: Rule) -> Judgement {
    let ending = facts.ending;
    let mut found: Vec<(Verdict, &'static str, Option<String>)> = Vec::new();
    let mut note = |verdict, evidence, message: Option<String>| {
        found.push((verdict, evidence, message));
    };

    if let Some(reason) = &facts.infra {
        note(Verdict::Infra, "infra", Some(reason.clone()));
    }
    if let Some(reason) = &facts.unbootable {
        note(Verdict::Unbootable, "image", Some(reason.clone()));
    }
    if let Some(sighting) = &facts.exception {
        note(
            Verdict::Exception,
            "console-exception",
            Some(sighting.message.clone()),
        );
    }
    if let Some(fatal) = &facts.recorded_exception {
        note(
            Verdict::Exception,
            "black-box-exception",
            Some(fatal.message()),
        );
    }
    if let Some(fatal) = &facts.logged_exception {
        // Linux's BUG() is such an instruction; that it was no WARN() shows in what followed.
        let is_storm = ending == Some(Ending::Storm);
        let is_bug = a64::is_linux_bug(fatal.esr);
        let verdict = if is_bug && !is_storm {
            Verdict::Panic
        } else {
            Verdict::Exception
        };
        let mut message = fatal.message();
        if is_bug {
            message.insert_str(0, "BUG(): ");
        }
        if is_storm {
            message.push_str(", and its vector faults in turn, without end");
        }
        note(verdict, "exception-log", Some(message));
    }
    if let Some(sighting) = &facts.panic {
        note(
            Verdict::Panic,
            "console-panic",
            Some(sighting.message.clone()),
        );
    }
    if let Some(sighting) = &facts.recorded_panic {
        note(
            Verdict::Panic,
            "black-box-panic",
            Some(sighting.message.clone()),
        );
    }
    if ending == Some(Ending::GuestPanicked) {
        let message = "the guest reported a panic through pvpanic".to_owned();
        note(Verdict::Panic, "qmp-guest-panicked", Some(message));
    }
    if let Some(line) = &facts.fail_match {
        note(Verdict::Fail, "fail-regex", Some(line.clone()));
    }
    if facts.said_fail {
        let message = facts
            .tests
            .complaint()
            .unwrap_or_else(|| "the kernel said boot: FAIL".into());
        note(Verdict::Fail, "console-fail", Some(message));
    } else if rule == Rule::LastLine
        && facts.said_pass
        && let Some(complaint) = facts.tests.complaint()
    {
        let message = format!("the kernel said boot: PASS, but {complaint}");
        note(Verdict::Fail, "console-tests", Some(message));
    }
    if facts.recorded_outcome == Some(false) {
        let message = facts
            .tests
            .complaint()
            .unwrap_or_else(|| "the black box says that the boot failed".into());
        note(Verdict::Fail, "black-box-fail", Some(message));
    }
    if let Some(Ending::Semihosting(status @ 1..)) = ending {
        let message = format!("the guest left through semihosting with status {status}");
        note(Verdict::Fail, "semihosting-exit", Some(message));
    }
    if ending == Some(Ending::Reset) {
        note(
            Verdict::Reset,
            "qmp-guest-reset",
            Some("the guest reset itself".into()),
        );
    }
    if let Some(Ending::Hang(hang)) = ending {
        let evidence = match hang.certainty {
            Certainty::Proved => "single-steps",
            Certainty::Likely => "quiet",
        };
        note(Verdict::Hang, evidence, Some(hang.message().to_owned()));
    }
    if ending == Some(Ending::Deadline) {
        let message = "the deadline passed before the boot was over".to_owned();
        note(Verdict::Timeout, "deadline", Some(message));
    }

    let said_so = match rule {
        Rule::LastLine => facts.pass_is_last,
        Rule::Match | Rule::MatchUntilExit => facts.said_pass,
    };
    match ending {
        Some(Ending::PowerOff | Ending::Semihosting(0) | Ending::Parked) => {
            let evidence = match ending {
                Some(Ending::PowerOff) => "qmp-guest-shutdown",
                Some(Ending::Parked) => "parked",
                _ => "semihosting-exit",
            };
            if said_so {
                note(Verdict::Pass, evidence, None);
            } else {
                let message = match (facts.said_pass, facts.recorded_outcome) {
                    (true, _) => "the guest went on after boot: PASS, then powered off",
                    (_, Some(true)) => "the boot passed by its black box, but the console is mute",
                    _ => "the guest powered off without a result",
                };
                note(Verdict::Off, evidence, Some(message.into()));
            }
        }
        // Enough had been seen; a line that passes is enough only if nothing more was asked for.
        Some(Ending::Decided) if said_so && rule == Rule::Match => {
            note(Verdict::Pass, "decided", None);
        }
        _ => {}
    }

    // The order of the verdicts is the order of their declaration; the sort is stable.
    found.sort_by_key(|(verdict, ..)| *verdict);
    let mut evidence: Vec<&'static str> = found.iter().map(|(_, name, _)| *name).collect();
    if facts.said_pass {
        evidence.push(match rule {
            Rule::LastLine => "console-pass",
            Rule::Match | Rule::MatchUntilExit => "pass-regex",
        });
    }
    if facts.has_registers {
        evidence.push("registers");
    }
    match found.into_iter().next() {
        Some((verdict, _, message)) => Judgement {
            verdict,
            message,
            evidence,
        },
        None => unexplained(evidence),
    }
}

/// The watch ended without a fact that a verdict could rest on: a mistake in the tester.
fn unexplained(evidence: Vec<&'static str>) -> Judgement {
    Judgement {
        verdict: Verdict::Infra,
        message: Some("the tester stopped watching without a reason".into()),
        evidence,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ktap;

    /// A boot that said and did nothing but end like this.
    fn ended(ending: Ending) -> Facts {
        Facts {
            ending: Some(ending),
            ..Facts::default()
        }
    }

    /// A good boot of our own, up to its end.
    fn passed(ending: Ending) -> Facts {
        Facts {
            said_pass: true,
            pass_is_last: true,
            ..ended(ending)
        }
    }

    /// Adds one cause to the facts.
    type Cause = fn(&mut Facts);

    fn sighting(message: &str) -> Option<Sighting> {
        Some(Sighting {
            message: message.into(),
            ..Sighting::default()
        })
    }

    fn verdict(facts: &Facts, rule: Rule) -> Verdict {
        judge(facts, rule).verdict
    }

    #[test]
    fn each_ending_alone() {
        for (ending, silent, after_pass) in [
            (Ending::PowerOff, Verdict::Off, Verdict::Pass),
            (Ending::Semihosting(0), Verdict::Off, Verdict::Pass),
            (Ending::Parked, Verdict::Off, Verdict::Pass),
            (Ending::Semihosting(3), Verdict::Fail, Verdict::Fail),
            (Ending::Reset, Verdict::Reset, Verdict::Reset),
            (Ending::GuestPanicked, Verdict::Panic, Verdict::Panic),
            (Ending::Deadline, Verdict::Timeout, Verdict::Timeout),
            (Ending::Decided, Verdict::Infra, Verdict::Infra),
        ] {
            assert_eq!(
                verdict(&ended(ending), Rule::LastLine),
                silent,
                "{ending:?}"
            );
            assert_eq!(
                verdict(&passed(ending), Rule::LastLine),
                after_pass,
                "{ending:?}"
            );
        }
    }

    #[test]
    fn what_goes_wrong_after_pass_wins() {
        let good = passed(Ending::PowerOff);
        let wrong: [(Verdict, Cause); 6] = [
            (Verdict::Infra, |facts| {
                facts.infra = Some("disk full".into())
            }),
            (Verdict::Exception, |facts| {
                facts.exception = sighting("abort")
            }),
            (Verdict::Panic, |facts| facts.panic = sighting("BUG")),
            (Verdict::Fail, |facts| facts.said_fail = true),
            (Verdict::Fail, |facts| facts.fail_match = Some("bad".into())),
            (Verdict::Off, |facts| facts.pass_is_last = false),
        ];
        for (expected, spoil) in wrong {
            let mut facts = good.clone();
            spoil(&mut facts);
            let judgement = judge(&facts, Rule::LastLine);
            assert_eq!(judgement.verdict, expected);
            assert!(judgement.message.is_some());
            assert!(judgement.evidence.contains(&"console-pass"));
        }
    }

    /// Every pair of causes: the first in the order of the contract holds.
    #[test]
    fn precedence_of_every_pair() {
        let causes: [(Verdict, Cause); 8] = [
            (Verdict::Infra, |facts| facts.infra = Some(String::new())),
            (Verdict::Unbootable, |facts| {
                facts.unbootable = Some(String::new())
            }),
            (Verdict::Exception, |facts| facts.exception = sighting("")),
            (Verdict::Panic, |facts| facts.panic = sighting("")),
            (Verdict::Fail, |facts| facts.said_fail = true),
            (Verdict::Reset, |facts| facts.ending = Some(Ending::Reset)),
            (Verdict::Off, |facts| facts.ending = Some(Ending::PowerOff)),
            (Verdict::Timeout, |facts| {
                facts.ending = Some(Ending::Deadline)
            }),
        ];
        for (first, (stronger, cause)) in causes.iter().enumerate() {
            for (weaker, other) in &causes[first + 1..] {
                let mut facts = Facts::default();
                other(&mut facts);
                cause(&mut facts);
                assert_eq!(verdict(&facts, Rule::LastLine), *stronger, "with {weaker}");
            }
        }
        assert!(
            Verdict::ALL.is_sorted(),
            "the declaration has the same order"
        );
    }

    #[test]
    fn tests_that_failed_or_are_missing_spoil_a_pass() {
        let mut facts = passed(Ending::PowerOff);
        facts.tests.add(ktap::parse("1..2").unwrap());
        facts.tests.add(ktap::parse("ok 1 a").unwrap());
        assert_eq!(
            verdict(&facts, Rule::LastLine),
            Verdict::Fail,
            "one is missing"
        );
        facts.tests.add(ktap::parse("ok 2 b").unwrap());
        assert_eq!(verdict(&facts, Rule::LastLine), Verdict::Pass);
        facts.tests.add(ktap::parse("not ok 3 c").unwrap());
        let judgement = judge(&facts, Rule::LastLine);
        assert_eq!(judgement.verdict, Verdict::Fail);
        assert!(judgement.message.unwrap().contains("first is c"));
        assert_eq!(
            verdict(&facts, Rule::MatchUntilExit),
            Verdict::Pass,
            "another kernel's tests"
        );
    }

    fn fatal(esr: u64) -> Option<Fatal> {
        Some(Fatal {
            esr,
            elr: 0x1000,
            far: None,
            el: 1,
        })
    }

    #[test]
    fn what_the_guest_left_behind_speaks_where_the_console_is_silent() {
        const UNDEFINED: u64 = 0x200_0000;
        const BUG: u64 = 0xf200_0800;
        let causes: [(Verdict, &str, Cause); 6] = [
            (Verdict::Exception, "black-box-exception", |facts| {
                facts.recorded_exception = fatal(UNDEFINED);
            }),
            (Verdict::Exception, "exception-log", |facts| {
                facts.logged_exception = fatal(UNDEFINED);
            }),
            (Verdict::Panic, "exception-log", |facts| {
                facts.logged_exception = fatal(BUG);
            }),
            (Verdict::Exception, "exception-log", |facts| {
                facts.logged_exception = fatal(BUG);
                facts.ending = Some(Ending::Storm);
            }),
            (Verdict::Panic, "black-box-panic", |facts| {
                facts.recorded_panic = sighting("no table");
            }),
            (Verdict::Fail, "black-box-fail", |facts| {
                facts.recorded_outcome = Some(false);
            }),
        ];
        for (verdict, evidence, cause) in causes {
            let mut facts = ended(Ending::PowerOff);
            cause(&mut facts);
            let judgement = judge(&facts, Rule::LastLine);
            assert_eq!(judgement.verdict, verdict, "{evidence}");
            assert_eq!(judgement.evidence[0], evidence);
            assert!(judgement.message.is_some());
        }
        // Only the console can say that a boot has passed.
        let mute = Facts {
            recorded_outcome: Some(true),
            ..ended(Ending::PowerOff)
        };
        assert_eq!(verdict(&mute, Rule::LastLine), Verdict::Off);
    }

    #[test]
    fn a_hang_is_told_with_its_evidence() {
        for (certainty, evidence) in [
            (Certainty::Proved, "single-steps"),
            (Certainty::Likely, "quiet"),
        ] {
            let kind = crate::hang::Kind::Spin;
            let facts = passed(Ending::Hang(Hang { kind, certainty }));
            let judgement = judge(&facts, Rule::LastLine);
            assert_eq!(judgement.verdict, Verdict::Hang);
            assert_eq!(judgement.evidence, [evidence, "console-pass"]);
        }
    }

    #[test]
    fn other_kernels_pass_by_pattern() {
        let matched = |ending| Facts {
            said_pass: true,
            ..ended(ending)
        };
        assert_eq!(
            verdict(&matched(Ending::Decided), Rule::Match),
            Verdict::Pass
        );
        assert_eq!(
            verdict(&matched(Ending::PowerOff), Rule::MatchUntilExit),
            Verdict::Pass
        );
        assert_eq!(
            verdict(&matched(Ending::Reset), Rule::MatchUntilExit),
            Verdict::Reset
        );
        assert_eq!(
            verdict(&matched(Ending::Deadline), Rule::MatchUntilExit),
            Verdict::Timeout
        );
        assert_eq!(verdict(&ended(Ending::PowerOff), Rule::Match), Verdict::Off);
        let panicked = Facts {
            panic: sighting("earlier"),
            ..matched(Ending::Decided)
        };
        assert_eq!(verdict(&panicked, Rule::Match), Verdict::Panic);
    }

    #[test]
    fn exit_statuses_suit_git_bisect() {
        for verdict in Verdict::ALL {
            let expected = match verdict {
                Verdict::Pass => 0,
                Verdict::Unbootable => 125,
                Verdict::Infra => 129,
                _ => 1,
            };
            assert_eq!(verdict.exit_status(Verdict::Pass), expected, "{verdict}");
            assert_eq!(verdict.exit_status(verdict), 0, "{verdict} was expected");
        }
        assert_eq!(Verdict::Pass.exit_status(Verdict::Panic), 1);
        assert_eq!(Verdict::Infra.exit_status(Verdict::Panic), 129);
    }
}
