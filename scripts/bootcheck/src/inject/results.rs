//! What came of breaking instructions: one line each, counts, JSON.

use std::io::Write;

use anstyle::{AnsiColor, Style};
use serde::Serialize;

use super::select::{Kind, Shot};
use crate::report::Report;
use crate::symbols::{Meaning, Symbols};
use crate::verdict::Verdict;

/// What each verdict must say.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Expected {
    /// The instruction that was broken.
    TheInstruction,
    /// The failure that the image has unbroken.
    TheOriginal {
        /// Its verdict.
        verdict: Verdict,
        /// Its place.
        pc: Option<String>,
    },
}

/// One broken instruction, and what the boot came to.
#[derive(Debug, Clone, Serialize)]
pub struct Hit {
    /// Where it is linked.
    pub address: String,
    /// `symbol+0x10 (file:line)`
    pub place: Option<String>,
    /// What was put there.
    pub kind: Kind,
    /// Whether the boot came to what it must.
    pub exact: bool,
    /// Its verdict.
    pub verdict: Verdict,
    /// Where the verdict says that it failed.
    pub pc: Option<String>,
    /// What went wrong, according to it.
    pub message: Option<String>,
}

impl Hit {
    /// Compares what a boot came to with what it must.
    #[must_use]
    pub fn new(shot: Shot, report: &Report, expected: &Expected, symbols: &Symbols) -> Self {
        let address = symbols.base() + shot.offset;
        let pc = place_of(report);
        let address_text = format!("{address:#x}");
        let exact = match expected {
            Expected::TheInstruction => {
                let verdict = match shot.kind {
                    Kind::Udf => Verdict::Exception,
                    Kind::Loop => Verdict::Hang,
                };
                report.verdict == verdict && pc.as_ref() == Some(&address_text)
            }
            Expected::TheOriginal {
                verdict,
                pc: original,
            } => report.verdict == *verdict && pc == *original,
        };
        Self {
            place: symbols.resolve(address, Meaning::Executing).summary(),
            address: address_text,
            kind: shot.kind,
            exact,
            verdict: report.verdict,
            pc,
            message: report.message.clone(),
        }
    }

    /// For a person, if it was missed.
    pub fn print(&self) {
        if self.exact {
            return;
        }
        let place = self.place.as_deref().unwrap_or("?");
        let pc = self.pc.as_deref().unwrap_or("nowhere");
        let _ = writeln!(
            anstream::stderr().lock(),
            "{} {:4} {place}: {} at {pc}: {}",
            self.address,
            self.kind.name(),
            self.verdict,
            self.message.as_deref().unwrap_or("no message")
        );
    }
}

/// Where a verdict says that it failed: for an exception, where the first one was taken.
#[must_use]
pub fn place_of(report: &Report) -> Option<String> {
    let exception = report
        .first_exception
        .as_ref()
        .filter(|_| report.verdict == Verdict::Exception);
    exception
        .and_then(|exception| exception.elr.clone())
        .or_else(|| report.pc.clone())
}

/// How many of a kind were exact, and how many there are.
fn count(hits: &[Hit], kind: Kind) -> (usize, usize) {
    let of_kind = hits.iter().filter(|hit| hit.kind == kind);
    (
        of_kind.clone().filter(|hit| hit.exact).count(),
        of_kind.count(),
    )
}

/// The last line, on standard error.
pub fn print_summary(hits: &[Hit], planned: usize, seconds: f64) {
    let exact = hits.iter().filter(|hit| hit.exact).count();
    let colour = match exact == planned {
        true => AnsiColor::Green,
        false => AnsiColor::Red,
    };
    let style: Style = colour.on_default().bold();
    let mut parts = Vec::new();
    for kind in [Kind::Udf, Kind::Loop] {
        let (exact, all) = count(hits, kind);
        if all > 0 {
            parts.push(format!("{} {exact} of {all}", kind.name()));
        }
    }
    if hits.len() < planned {
        parts.push(format!("{} not tried", planned - hits.len()));
    }
    let _ = writeln!(
        anstream::stderr().lock(),
        "inject: {style}{exact} of {planned} exact{style:#} ({}) in {seconds:.1} s",
        parts.join(", ")
    );
}
