//! GOOD and BAD themselves, first of all: what is sought, and how often it shows.

use anyhow::{bail, ensure};

use super::failure::{Failure, Meaning, Recognition, Sight};
use super::git::Commit;
use super::lab::{Built, Lab};
use super::metric::Metric;
use super::options::BisectArgs;
use super::progress::Progress;
use super::rates::{Tally, fails_more_often};
use super::sought::{Observation, Sought, measure};

/// Failures of BAD that tell enough about its rate.
const FAILURES: u32 = 10;

/// Boots after which BAD passes, if it never failed.
const PASSES: u32 = 30;

/// Boots of one end, at most.
const MOST: u32 = 100;

/// Seconds of boots of one end after which three failures do.
const LONG: f64 = 20.0;

/// How certain it must be that BAD fails more often than GOOD, where GOOD fails at all.
const CERTAIN: f64 = 0.999;

/// The two ends, as they turned out.
#[derive(Debug)]
pub struct Ends {
    /// What BAD does and GOOD does not.
    pub sought: Sought,
    /// Every image has but one outcome.
    pub exact: bool,
    /// GOOD.
    pub good: End,
    /// BAD.
    pub bad: End,
}

/// One end.
#[derive(Debug, Default)]
pub struct End {
    /// The image, if it has one.
    pub key: Option<String>,
    /// Its boots.
    pub tally: Tally,
    /// What it shows, in one line.
    pub told: String,
    /// A boot that is typical for it.
    pub sight: Option<Sight>,
    /// What was measured.
    pub value: Option<u64>,
}

impl End {
    fn note(&mut self, observation: Observation) {
        let is_bad = observation.meaning == Meaning::Bad;
        self.tally += Tally {
            failed: is_bad.into(),
            passed: (!is_bad).into(),
        };
        if self.sight.is_none() || (is_bad && self.tally.failed == 1) {
            self.told = observation.told;
            self.sight = observation.sight;
            self.value = observation.value;
        }
    }

    /// `panic at stage early_mmu in 10 of 10 boots`
    #[must_use]
    pub fn shown(&self) -> String {
        match self.tally {
            _ if self.value.is_some() => self.told.clone(),
            Tally { failed: 0, passed } => format!("{}, {}", self.told, boots(passed)),
            Tally { failed, passed } => {
                format!("{}, {failed} of {}", self.told, boots(failed + passed))
            }
        }
    }
}

/// `1 boot`, `7 boots`
#[must_use]
pub fn boots(count: u32) -> String {
    match count {
        1 => "1 boot".into(),
        _ => format!("{count} boots"),
    }
}

/// Builds and boots both ends.
///
/// # Errors
/// They are not good and bad, or cannot be judged.
pub fn confirm(
    args: &BisectArgs,
    lab: &mut Lab,
    progress: &Progress,
    good: &Commit,
    bad: &Commit,
) -> anyhow::Result<Ends> {
    progress.doing(&format!("building BAD, {}", bad.shown()));
    let bad_built = lab.build(&bad.sha)?;
    if let Built::Hung(reason) = &bad_built {
        bail!(
            "BAD, {}: {reason}; --build-timeout allows more",
            bad.shown()
        );
    }
    progress.doing(&format!("building GOOD, {}", good.shown()));
    let good_key = match lab.build(&good.sha)? {
        Built::Image(key) => key,
        Built::Broken(reason) | Built::Hung(reason) => {
            let both = match bad_built {
                Built::Image(_) => "",
                _ => ", and neither can BAD",
            };
            bail!("GOOD, {}, cannot be judged{both}: {reason}", good.shown());
        }
    };
    let bad_key = match bad_built {
        Built::Image(key) => key,
        Built::Broken(reason) | Built::Hung(reason) => {
            progress.say("BAD cannot be built: that is the failure sought");
            return Ok(unbuildable(good_key, reason));
        }
    };
    let look = Look {
        args,
        lab,
        progress,
        good: (good, good_key),
        bad: (bad, bad_key),
    };
    match (&args.metric, args.worse_by) {
        (Some(metric), Some(worse_by)) => look.metric(metric, worse_by.0),
        _ => look.failure(),
    }
}

/// BAD is bad because it cannot be built. GOOD can.
fn unbuildable(good_key: String, reason: String) -> Ends {
    Ends {
        sought: Sought::BuildFailure,
        exact: true,
        good: End {
            key: Some(good_key),
            tally: Tally {
                failed: 0,
                passed: 1,
            },
            told: "can be built".into(),
            ..End::default()
        },
        bad: End {
            tally: Tally {
                failed: 1,
                passed: 0,
            },
            told: reason,
            ..End::default()
        },
    }
}

struct Look<'a> {
    args: &'a BisectArgs,
    lab: &'a mut Lab,
    progress: &'a Progress,
    good: (&'a Commit, String),
    bad: (&'a Commit, String),
}

impl Look<'_> {
    /// Both ends by a number.
    fn metric(self, metric: &Metric, worse_by: f64) -> anyhow::Result<Ends> {
        let mut ends = Vec::new();
        for (name, (commit, key)) in [("GOOD", &self.good), ("BAD", &self.bad)] {
            self.progress.doing(&format!("measuring {name}"));
            let mut end = End {
                key: Some(key.clone()),
                ..End::default()
            };
            // A boot once more: it must repeat to be a measure.
            let looks = if metric.needs_no_boot() { 1 } else { 2 };
            for _ in 0..looks {
                let observation = measure(self.lab, key, metric, u64::MAX)?;
                let Some(value) = observation.value else {
                    bail!("{name}, {}: {}", commit.shown(), observation.told);
                };
                ensure!(
                    end.value.is_none_or(|before| before == value),
                    "{name}, {}: {metric} is {value}, and was {} before: nothing that repeats",
                    commit.shown(),
                    end.value.unwrap_or_default()
                );
                end.note(observation);
            }
            ends.push((end, commit.shown()));
        }
        let [(good, good_shown), (mut bad, bad_shown)] =
            <[_; 2]>::try_from(ends).map_err(|_| anyhow::anyhow!("two ends"))?;
        let (value, worse) = (
            good.value.unwrap_or_default(),
            bad.value.unwrap_or_default(),
        );
        let limit = (value as f64 * (1.0 + worse_by)).floor() as u64;
        ensure!(
            worse > limit,
            "BAD, {bad_shown}, is not worse than GOOD, {good_shown}, by {:.2} %: {metric} is {worse}, \
             and was {value}",
            worse_by * 100.0
        );
        bad.tally = Tally {
            failed: bad.tally.passed,
            passed: 0,
        };
        let sought = Sought::Regression {
            metric: metric.clone(),
            limit,
        };
        Ok(Ends {
            sought,
            exact: true,
            good,
            bad,
        })
    }

    /// Both ends by how they boot.
    fn failure(mut self) -> anyhow::Result<Ends> {
        let expected = self.lab.expected();
        let any = Sought::Failure(Failure {
            expected,
            by: Recognition::Any,
        });
        let by_pattern = self.args.match_regex.clone().map(|regex| {
            Sought::Failure(Failure {
                expected,
                by: Recognition::Match(regex),
            })
        });
        let first = by_pattern.unwrap_or(any);

        // BAD, until it fails; what it fails with is what is sought.
        let mut bad = End {
            key: Some(self.bad.1.clone()),
            ..End::default()
        };
        let mut sought = first.clone();
        let mut seconds = 0.0;
        let mut others = None;
        let mut repeats = true;
        while !self.is_enough(&bad, seconds, repeats) {
            self.progress
                .doing(&format!("booting BAD, {}", self.bad.0.shown()));
            let key = self.bad.1.clone();
            let observation = sought.observe(self.lab, &key)?;
            if let Some(sight) = &observation.sight {
                seconds += sight.seconds;
                repeats &= bad
                    .sight
                    .as_ref()
                    .is_none_or(|before| is_same(before, sight));
            }
            if observation.meaning == Meaning::Other {
                others = Some(observation.told.clone());
            }
            if observation.meaning == Meaning::Bad
                && bad.tally.failed == 0
                && !self.args.any_failure
                && self.args.match_regex.is_none()
                && let Some(sight) = &observation.sight
            {
                sought = Sought::Failure(Failure {
                    expected,
                    by: Recognition::ClassOrStage {
                        class: sight.class.clone(),
                        stage: sight.stage.clone(),
                    },
                });
            }
            bad.note(observation);
            if bad.tally
                == (Tally {
                    failed: 0,
                    passed: 5,
                })
            {
                self.check_order(&sought)?;
            }
        }
        if bad.tally.failed == 0 {
            let (bad, count) = (self.bad.0.shown(), boots(bad.tally.passed));
            match others {
                Some(told) => bail!("BAD, {bad}, does not fail as sought: {told}, {count}"),
                None => bail!("BAD, {bad}, passes: {count}"),
            }
        }
        let exact = self.lab.is_icount() && repeats;
        let good = self.good(&sought, &bad, exact)?;
        Ok(Ends {
            sought,
            exact,
            good,
            bad,
        })
    }

    /// Whether BAD's rate is known well enough.
    fn is_enough(&self, bad: &End, seconds: f64, repeats: bool) -> bool {
        let Tally { failed, .. } = bad.tally;
        let count = bad.tally.boots();
        if let Some(repeat) = self.args.repeat {
            return count >= repeat && (failed > 0 || count >= PASSES.max(repeat));
        }
        if self.lab.is_icount() && repeats && count == 2 && failed > 0 {
            return true;
        }
        let rate_is_known = failed >= FAILURES || (failed >= 3 && seconds > LONG);
        rate_is_known || count >= MOST || (failed == 0 && count >= PASSES)
    }

    /// BAD passed a few times: perhaps GOOD is the one that fails.
    fn check_order(&mut self, sought: &Sought) -> anyhow::Result<()> {
        let key = self.good.1.clone();
        let observation = sought.observe(self.lab, &key)?;
        ensure!(
            observation.meaning == Meaning::Good,
            "GOOD fails ({}) and BAD passes: good and bad are in the wrong order. To find what \
             repaired it, say what was usual before: -- --expect {}",
            observation.told,
            observation
                .sight
                .map_or("panic".into(), |sight| sight.verdict.to_string())
        );
        Ok(())
    }

    /// GOOD, as often as BAD.
    fn good(&mut self, sought: &Sought, bad: &End, exact: bool) -> anyhow::Result<End> {
        let shown = self.good.0.shown();
        let mut good = End {
            key: Some(self.good.1.clone()),
            ..End::default()
        };
        let wanted = if exact { 1 } else { bad.tally.boots() };
        while good.tally.boots() < wanted {
            self.progress.doing(&format!("booting GOOD, {shown}"));
            let key = self.good.1.clone();
            let observation = sought.observe(self.lab, &key)?;
            ensure!(
                observation.meaning != Meaning::Other,
                "GOOD, {shown}, fails too, in another way: {}",
                observation.told
            );
            good.note(observation);
        }
        if good.tally.failed > 0 {
            let certainty = fails_more_often(bad.tally, good.tally);
            ensure!(
                !exact && certainty >= CERTAIN,
                "GOOD, {shown}, fails as BAD does: {} against {}",
                good.shown(),
                bad.shown()
            );
            self.progress
                .say("GOOD fails at times as well, only less often than BAD");
        }
        Ok(good)
    }
}

/// Whether two boots were the same to the instruction, as far as can be told.
fn is_same(one: &Sight, other: &Sight) -> bool {
    one.class == other.class
        && one.fingerprint == other.fingerprint
        && one.stages == other.stages
        && one.console == other.console
}
