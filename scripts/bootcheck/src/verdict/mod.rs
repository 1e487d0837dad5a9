//! The verdict: what one boot came to, weighed from what was seen.
//!
//! [`judge()`] is a pure function of [`Facts`], so that every combination can be tested without a
//! guest. When several verdicts fit, the first in [`Verdict::ALL`] holds: what goes wrong after
//! `boot: PASS` wins.

mod judge;

use clap::ValueEnum;
use serde::Serialize;

use crate::a64;
use crate::blackbox;
use crate::exceptions::Taken;
use crate::hang::Hang;
use crate::ktap::Tally;
use crate::signs::Sighting;

pub use judge::judge;

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
    /// An orderly end, whatever was said.
    Exit,
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
    /// The first exception in the log that a Linux kept in its memory.
    pub kept_exception: Option<Sighting>,
    /// The first panic or BUG there.
    pub kept_panic: Option<Sighting>,
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

#[cfg(test)]
mod tests;
