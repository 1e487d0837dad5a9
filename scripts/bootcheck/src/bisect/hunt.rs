//! The search itself: revision after revision, until the culprit is certain and proved.

use std::collections::HashMap;

use serde::Serialize;

use super::ends::{End, Ends};
use super::failure::{Meaning, Sight};
use super::git::Commit;
use super::history::History;
use super::lab::{Built, Lab};
use super::progress::Progress;
use super::rates::Tally;
use super::search::{Next, Search};
use super::sought::{Observation, Sought};

/// Boots that fail in another way after which a revision is skipped.
const OTHER_FAILURES: u32 = 3;

/// What is known of one commit.
#[derive(Debug, Clone, Default, Serialize)]
pub struct Trial {
    /// Its boots.
    pub tally: Tally,
    /// Why it tells nothing.
    pub skipped: Option<String>,
    /// The commit whose image it has.
    pub same_image_as: Option<String>,
    /// What it shows, in one line.
    pub told: String,
    /// The fingerprint of its failure.
    pub fingerprint: Option<String>,
    /// The store's name of its image.
    #[serde(skip)]
    pub key: Option<String>,
    /// A typical boot: a failure, if there was one.
    #[serde(skip)]
    pub sight: Option<Sight>,
    /// Boots that failed in another way.
    #[serde(skip)]
    others: u32,
    /// When it was first tried.
    #[serde(skip)]
    pub turn: usize,
}

/// How the search ended.
#[derive(Debug)]
pub struct Found {
    /// Suspects by number, most likely first; one is a culprit.
    pub suspects: Vec<usize>,
    /// How likely it is that it is one of these.
    pub confidence: f64,
}

/// The search.
#[derive(Debug)]
pub struct Hunt<'a> {
    /// Commits, parents first; the last one is BAD.
    pub commits: &'a [Commit],
    /// The ends.
    pub ends: &'a Ends,
    lab: &'a mut Lab,
    progress: &'a mut Progress,
    search: Search,
    /// What was tried, by number.
    pub trials: HashMap<usize, Trial>,
    /// Who has which image first; `None` is GOOD.
    owners: HashMap<String, Option<usize>>,
    confidence: f64,
}

impl<'a> Hunt<'a> {
    /// Nothing was tried but the ends.
    #[must_use]
    pub fn new(
        commits: &'a [Commit],
        ends: &'a Ends,
        lab: &'a mut Lab,
        progress: &'a mut Progress,
        confidence: f64,
    ) -> Self {
        let numbers: HashMap<&str, usize> = commits
            .iter()
            .enumerate()
            .map(|(number, c)| (c.sha.as_str(), number))
            .collect();
        let parents = commits.iter().map(|commit| {
            commit
                .parents
                .iter()
                .filter_map(|sha| numbers.get(sha.as_str()).copied())
                .collect()
        });
        let history = History::new(parents.collect());
        let tip = history.tip();
        let mut owners = HashMap::new();
        let ends_keys = [(&ends.bad, Some(tip)), (&ends.good, None)];
        for (end, owner) in ends_keys {
            owners.extend(end.key.clone().map(|key| (key, owner)));
        }
        let bad = Trial {
            tally: ends.bad.tally,
            told: ends.bad.told.clone(),
            fingerprint: ends
                .bad
                .sight
                .as_ref()
                .and_then(|sight| sight.fingerprint.clone()),
            key: ends.bad.key.clone(),
            sight: ends.bad.sight.clone(),
            ..Trial::default()
        };
        Self {
            search: Search::new(
                history,
                ends.good.tally,
                ends.bad.tally,
                ends.exact,
                confidence,
            ),
            commits,
            ends,
            lab,
            progress,
            trials: HashMap::from([(tip, bad)]),
            owners,
            confidence,
        }
    }

    /// The builder and the boots, for what comes after the search.
    pub fn lab(&mut self) -> &mut Lab {
        self.lab
    }

    /// Where to tell.
    pub fn progress(&mut self) -> &mut Progress {
        self.progress
    }

    /// Who is whose ancestor.
    #[must_use]
    pub fn history(&self) -> &History {
        self.search.history()
    }

    /// Tries commits until the culprit is certain, or nothing more can tell.
    ///
    /// # Errors
    /// The tester, git, the host or QEMU failed.
    pub fn search(&mut self) -> anyhow::Result<Found> {
        let mut last = None;
        loop {
            let costs = self.lab.costs();
            let next = self.search.next(costs);
            if last.is_some() && next != last.map_or(Next::Contradiction, Next::Try) {
                self.tell(last.take());
            }
            let commit = match next {
                Next::Try(commit) => commit,
                Next::Contradiction => anyhow::bail!(
                    "the boots contradict each other: the failure comes and goes along the history, \
                     or does not repeat under --icount; try without it, or --first-parent"
                ),
                Next::Found(suspects) => {
                    let suspicion = self.search.suspicion();
                    let confidence = suspects.iter().map(|suspect| suspicion[*suspect]).sum();
                    return Ok(Found {
                        suspects,
                        confidence,
                    });
                }
            };
            let builds = self.search.builds_left();
            let seconds = f64::from(builds) * costs.build + f64::from(3 * builds + 5) * costs.boot;
            self.progress.estimate(builds, seconds);
            last = Some(commit);
            self.try_once(commit)?;
        }
    }

    /// Builds a commit if need be, and looks at it once.
    ///
    /// # Errors
    /// The tester, git, the host or QEMU failed.
    pub fn try_once(&mut self, commit: usize) -> anyhow::Result<()> {
        let Commit { sha, .. } = &self.commits[commit];
        let shown = self.commits[commit].shown();
        if !self.trials.contains_key(&commit) {
            self.progress.doing(&format!("building {shown}"));
            let turn = self.trials.len();
            let built = self.lab.build(sha)?;
            self.trials.insert(
                commit,
                Trial {
                    turn,
                    ..Trial::default()
                },
            );
            if !self.take_build(commit, built) {
                return Ok(());
            }
        }
        let Some(key) = self.trials.get(&commit).and_then(|trial| trial.key.clone()) else {
            return Ok(());
        };
        self.progress.doing(&format!("booting {shown}"));
        let observation = self.ends.sought.observe(self.lab, &key)?;
        self.take(commit, observation);
        Ok(())
    }

    /// Takes in what a build came to; whether there is something to boot.
    fn take_build(&mut self, commit: usize, built: Built) -> bool {
        let seeks_build = matches!(self.ends.sought, Sought::BuildFailure);
        let trial = self.trials.entry(commit).or_default();
        match built {
            Built::Broken(reason) if seeks_build => {
                let boots = Tally {
                    failed: 1,
                    passed: 0,
                };
                trial.tally += boots;
                trial.told = reason;
                self.search.record(commit, boots);
                false
            }
            Built::Broken(reason) | Built::Hung(reason) => {
                trial.skipped = Some(reason);
                self.search.skip(commit);
                false
            }
            Built::Image(key) => {
                let owner = *self.owners.entry(key.clone()).or_insert(Some(commit));
                trial.key = Some(key);
                if owner == Some(commit) || seeks_build {
                    return true;
                }
                let model = owner.and_then(|owner| self.trials.get(&owner)).cloned();
                let trial = self.trials.entry(commit).or_default();
                trial.same_image_as = Some(match owner {
                    Some(owner) => self.commits[owner].sha.clone(),
                    None => "GOOD".into(),
                });
                match model {
                    Some(Trial {
                        skipped: Some(reason),
                        ..
                    }) => {
                        trial.skipped = Some(reason);
                        self.search.skip(commit);
                    }
                    Some(model) => {
                        trial.told = model.told;
                        trial.fingerprint = model.fingerprint;
                        trial.sight = model.sight;
                        self.search.twin(commit, owner);
                    }
                    None => {
                        trial.told = self.ends.good.told.clone();
                        trial.sight = self.ends.good.sight.clone();
                        self.search.twin(commit, None);
                    }
                }
                false
            }
        }
    }

    /// Takes in one look.
    fn take(&mut self, commit: usize, observation: Observation) {
        let exact = self.ends.exact;
        let trial = self.trials.entry(commit).or_default();
        let is_bad = observation.meaning == Meaning::Bad;
        if observation.meaning == Meaning::Other {
            trial.others += 1;
            if trial.tally.boots() == 0 {
                trial.told.clone_from(&observation.told);
                trial.fingerprint = observation
                    .sight
                    .as_ref()
                    .and_then(|s| s.fingerprint.clone());
                trial.sight = observation.sight;
            }
            let enough = if exact { 1 } else { OTHER_FAILURES };
            if trial.others >= enough && trial.others > trial.tally.boots() {
                let is_metric = self.ends.bad.value.is_some();
                let what = if is_metric { "" } else { "another failure: " };
                trial.skipped = Some(format!("{what}{}", observation.told));
                self.search.skip(commit);
            }
            return;
        }
        if trial.tally.boots() == 0 || (is_bad && trial.tally.failed == 0) {
            trial.told = observation.told;
            trial.fingerprint = observation
                .sight
                .as_ref()
                .and_then(|s| s.fingerprint.clone());
            trial.sight = observation.sight;
        }
        let boots = Tally {
            failed: is_bad.into(),
            passed: (!is_bad).into(),
        };
        trial.tally += boots;
        self.search.record(commit, boots);
    }

    /// Tells what became of a commit.
    fn tell(&mut self, commit: Option<usize>) {
        let Some(commit) = commit else { return };
        let Some(trial) = self.trials.get(&commit) else {
            return;
        };
        let suspects = self.search.suspects();
        let outcome = match (&trial.skipped, &trial.same_image_as) {
            (Some(reason), _) => format!("skipped: {reason}"),
            (None, Some(_)) => format!("the same image as one before: {}", trial.told),
            (None, None) => format!("{}: {}", mark(trial.tally), summary(trial)),
        };
        let left = match suspects {
            1 => "1 suspect".to_owned(),
            _ => format!("{suspects} suspects"),
        };
        self.progress.say(&format!(
            "{} {outcome}; {left}",
            self.commits[commit].shown()
        ));
    }

    /// Boots a commit until it is as certain as the result that it does not fail as BAD, or it
    /// fails: then the search goes on.
    ///
    /// # Errors
    /// The tester, git, the host or QEMU failed.
    pub fn assure_good(&mut self, commit: usize) -> anyhow::Result<bool> {
        let needed = self.passes_needed();
        loop {
            match self.trials.get(&commit) {
                Some(trial) if trial.skipped.is_some() || trial.tally.failed > 0 => {
                    return Ok(false);
                }
                // Those boots are counted where they were made.
                Some(trial) if trial.same_image_as.is_some() => return Ok(true),
                Some(trial) if trial.tally.passed >= needed => return Ok(true),
                _ => self.try_once(commit)?,
            }
        }
    }

    /// How many passes in a row make it unlikely enough that the revision fails as BAD does.
    #[must_use]
    pub fn passes_needed(&self) -> u32 {
        if self.ends.exact {
            return 1;
        }
        // The rate may be anything; these are the boots that tell of it.
        let mut bad = self.ends.bad.tally;
        for trial in self.trials.values().filter(|trial| trial.tally.failed > 0) {
            bad += trial.tally;
        }
        let (failed, passed) = (f64::from(bad.failed), f64::from(bad.passed));
        let mut chance = 1.0;
        let mut passes = 0.0;
        while chance > 1.0 - self.confidence && passes < 1000.0 {
            chance *= (passed + passes + 1.0) / (failed + passed + passes + 2.0);
            passes += 1.0;
        }
        passes as u32
    }

    /// GOOD.
    #[must_use]
    pub fn good(&self) -> &End {
        &self.ends.good
    }
}

/// Whether the boots speak for good or bad.
#[must_use]
pub fn mark(tally: Tally) -> &'static str {
    match tally {
        Tally {
            failed: 0,
            passed: 0,
        } => "untold",
        Tally { failed: 0, .. } => "good",
        _ => "bad",
    }
}

fn summary(trial: &Trial) -> String {
    let Tally { failed, passed } = trial.tally;
    match (failed, passed) {
        (0, 1) | (1, 0) => trial.told.clone(),
        (0, passed) => format!("{}, {passed} boots", trial.told),
        (failed, passed) => format!("{}, {failed} of {} boots", trial.told, failed + passed),
    }
}
