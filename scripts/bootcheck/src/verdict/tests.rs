use super::*;
use crate::hang::Certainty;
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
fn a_guest_that_need_only_end_may_stay_silent() {
    let by_exit = |ending| verdict(&ended(ending), Rule::Exit);
    assert_eq!(by_exit(Ending::PowerOff), Verdict::Pass);
    assert_eq!(by_exit(Ending::Reset), Verdict::Reset);
    assert_eq!(by_exit(Ending::Deadline), Verdict::Timeout);
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
