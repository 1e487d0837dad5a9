//! Facts weighed into a verdict.

use super::{Ending, Facts, Judgement, Rule, Verdict};
use crate::a64;
use crate::hang::Certainty;

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
    if let Some(sighting) = &facts.kept_exception {
        note(
            Verdict::Exception,
            "printk-exception",
            Some(sighting.message.clone()),
        );
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
    if let Some(sighting) = &facts.kept_panic {
        note(
            Verdict::Panic,
            "printk-panic",
            Some(sighting.message.clone()),
        );
    }
    // Behind what the kernel itself said: that has names for it.
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
        Rule::Exit => true,
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
                    (_, Some(true)) => {
                        "the boot passed by its black box, but the console is mute \
                         (no PL011 is where earlycon=pl011,ADDR, or else the device tree, says)"
                    }
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
            Rule::Match | Rule::MatchUntilExit | Rule::Exit => "pass-regex",
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
