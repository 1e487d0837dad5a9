//! Which commit to try next, and which one is to blame: the arithmetic, without git or QEMU.
//!
//! Every commit is a suspect. If commit C is the culprit, then C and its descendants are bad and
//! all others are good, so each boot of any commit says something about every suspect. The search
//! keeps all boots and asks Bayes' rule anew after each: nothing is decided by one boot that a later
//! one could not revise. The failure rates of good and of bad revisions are unknown and each taken
//! to be the same all along the history; [`Rates`] integrates over them.
//!
//! Next comes the commit that promises most information for its time. To boot again what is built
//! already is cheap, so a failure that occurs in every third boot costs boots, not builds.

use super::history::History;
use super::rates::{Rates, Tally};

/// Less information than this, in bits, is none: what rounding leaves over.
const NO_INFORMATION: f64 = 1e-9;

/// So many boots in all are enough to say that it cannot be told.
const MOST_BOOTS: u32 = 3000;

/// What is known about the suspects.
#[derive(Debug, Clone)]
pub struct Search {
    history: History,
    /// The confidence to reach, below 1.
    confidence: f64,
    exact: bool,
    /// GOOD's own boots.
    good: Tally,
    trials: Vec<Trial>,
    /// Pairs of commits that gave the same image: no suspect tells them apart. None is GOOD.
    twins: Vec<(usize, Option<usize>)>,
    /// The probability of each suspect, given all that.
    suspicion: Vec<f64>,
}

/// What was tried with one commit.
#[derive(Debug, Clone, Default)]
struct Trial {
    tally: Tally,
    is_built: bool,
    is_skipped: bool,
    /// Its image is that of another commit, which is tried in its place.
    is_twin: bool,
}

/// Seconds that one more build and one more boot will take.
#[derive(Debug, Clone, Copy)]
pub struct Costs {
    /// Of a build.
    pub build: f64,
    /// Of a boot.
    pub boot: f64,
}

/// What to do next.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Next {
    /// Try this commit, building it if it is not built yet.
    Try(usize),
    /// The culprit is among these, most likely first: one, or several that nothing more can tell
    /// apart.
    Found(Vec<usize>),
    /// No suspect is left: the boots contradict each other, though the failure should repeat.
    Contradiction,
}

impl Search {
    /// All commits are suspect alike. `good` and `bad` are the boots of the two ends; `exact` says
    /// that every image has but one outcome.
    #[must_use]
    pub fn new(history: History, good: Tally, bad: Tally, exact: bool, confidence: f64) -> Self {
        let mut trials = vec![Trial::default(); history.len()];
        let tip = history.tip();
        trials[tip].tally = bad;
        trials[tip].is_built = true;
        let mut search = Self {
            suspicion: Vec::new(),
            history,
            confidence,
            exact,
            good,
            trials,
            twins: Vec::new(),
        };
        search.judge();
        search
    }

    /// The commits.
    #[must_use]
    pub fn history(&self) -> &History {
        &self.history
    }

    /// The boots of one commit.
    #[must_use]
    pub fn tally(&self, commit: usize) -> Tally {
        self.trials[commit].tally
    }

    /// Notes boots of a commit.
    pub fn record(&mut self, commit: usize, boots: Tally) {
        self.trials[commit].is_built = true;
        self.trials[commit].tally += boots;
        self.judge();
    }

    /// Notes that a commit can tell nothing: not built, or it fails in another way.
    pub fn skip(&mut self, commit: usize) {
        self.trials[commit].is_skipped = true;
    }

    /// Notes that a commit has the same image as one that was tried, or as GOOD.
    pub fn twin(&mut self, commit: usize, other: Option<usize>) {
        self.trials[commit].is_twin = true;
        self.twins.push((commit, other));
        self.judge();
    }

    /// The probability of each suspect.
    #[must_use]
    pub fn suspicion(&self) -> &[f64] {
        &self.suspicion
    }

    /// The probability that a commit is bad.
    #[must_use]
    pub fn badness(&self, commit: usize) -> f64 {
        self.history.sums(&self.suspicion)[commit]
    }

    /// How many suspects are worth the name: a hundredth as likely as the first one, or more.
    #[must_use]
    pub fn suspects(&self) -> usize {
        let least = self.suspicion.iter().copied().fold(0.0, f64::max) / 100.0;
        self.suspicion.iter().filter(|p| **p >= least).count()
    }

    /// About how many builds are still to come: each tells one bit at best.
    #[must_use]
    pub fn builds_left(&self) -> u32 {
        let bits: f64 = self.suspicion.iter().map(|p| -p * log2(*p)).sum();
        (bits - 0.01).ceil().max(0.0) as u32
    }

    /// What to do next.
    #[must_use]
    pub fn next(&self, costs: Costs) -> Next {
        let Some(leaders) = self.leaders() else {
            return Next::Contradiction;
        };
        if leaders.len() == 1 || self.boots() >= MOST_BOOTS {
            return Next::Found(leaders);
        }
        let mut weight = vec![0.0; self.history.len()];
        for leader in &leaders {
            weight[*leader] = 1.0;
        }
        // Each sum is a count, so what lies between none and all is found exactly.
        let counts = self.history.sums(&weight);
        let separates =
            |commit: &usize| counts[*commit] > 0.0 && counts[*commit] < leaders.len() as f64;
        let testable: Vec<usize> = (0..self.history.len())
            .filter(|commit| !self.trials[*commit].is_skipped && !self.trials[*commit].is_twin)
            .collect();
        if !testable.iter().any(separates) {
            return Next::Found(leaders);
        }
        let badness = self.history.sums(&self.suspicion);
        let odds = self.odds();
        let skipped: Vec<usize> = (0..self.history.len())
            .filter(|commit| self.trials[*commit].is_skipped)
            .filter(|commit| (0.001..0.999).contains(&badness[*commit]))
            .collect();
        let undecided = badness
            .iter()
            .filter(|p| (0.001..0.999).contains(*p))
            .count();
        let best = testable
            .into_iter()
            .map(|commit| {
                let worth = self.worth(commit, badness[commit], odds, costs);
                let is_built = self.trials[commit].is_built;
                (
                    commit,
                    if is_built {
                        worth
                    } else {
                        worth * hope(commit, &skipped, undecided)
                    },
                )
            })
            .max_by(|(_, one), (_, other)| one.total_cmp(other));
        match best {
            Some((commit, worth)) if worth > 0.0 => Next::Try(commit),
            _ => Next::Found(leaders),
        }
    }

    /// The fewest suspects that hold the confidence between them, most likely first. Those that are
    /// equally likely belong together.
    fn leaders(&self) -> Option<Vec<usize>> {
        let mut order: Vec<usize> = (0..self.history.len()).collect();
        order.sort_by(|one, other| self.suspicion[*other].total_cmp(&self.suspicion[*one]));
        let mut sum = 0.0;
        let mut count = 0;
        let mut last = f64::INFINITY;
        for commit in &order {
            let suspicion = self.suspicion[*commit];
            if sum >= self.confidence && suspicion < last * (1.0 - 1e-6) {
                break;
            }
            sum += suspicion;
            last = suspicion;
            count += 1;
        }
        order.truncate(count);
        (sum > 0.0).then_some(order)
    }

    /// Information for its time: bits a second.
    fn worth(&self, commit: usize, badness: f64, odds: (f64, f64), costs: Costs) -> f64 {
        let (bad_fails, good_passes) = odds;
        let outcome = badness * bad_fails + (1.0 - badness) * (1.0 - good_passes);
        let boot = entropy(outcome)
            - badness * entropy(bad_fails)
            - (1.0 - badness) * entropy(good_passes);
        if boot < NO_INFORMATION {
            return 0.0;
        }
        if self.trials[commit].is_built {
            // Under icount the next boot is the last one once more.
            return if self.exact { 0.0 } else { boot / costs.boot };
        }
        // Once it is built, it will be booted until it has told all it can.
        let all = entropy(badness);
        all / (costs.build + costs.boot * all / boot)
    }

    fn boots(&self) -> u32 {
        let tried: u32 = self.trials.iter().map(|trial| trial.tally.boots()).sum();
        tried + self.good.boots()
    }

    /// The probabilities that a bad revision fails at its next boot, and that a good one passes.
    fn odds(&self) -> (f64, f64) {
        let rates = self.rates();
        let (mut bad_fails, mut good_passes) = (0.0, 0.0);
        let suspects = self.suspicion.iter().zip(self.tallies());
        for (suspicion, (bad, good)) in suspects.filter(|(suspicion, _)| **suspicion > 0.0) {
            bad_fails += suspicion * rates.bad_fails(bad);
            good_passes += suspicion * rates.good_passes(good);
        }
        (bad_fails, good_passes)
    }

    fn rates(&self) -> Rates {
        Rates::new(self.exact, self.boots())
    }

    /// For each suspect, if it were the culprit: the boots of bad revisions, and of good ones.
    fn tallies(&self) -> Vec<(Tally, Tally)> {
        let mut all = vec![(Tally::default(), self.good); self.history.len()];
        for (commit, trial) in self.trials.iter().enumerate() {
            if trial.tally.boots() == 0 {
                continue;
            }
            let makes_bad = self.history.ancestors(commit);
            for ((bad, good), makes_bad) in all.iter_mut().zip(makes_bad) {
                *if makes_bad { bad } else { good } += trial.tally;
            }
        }
        all
    }

    /// Bayes' rule, from all boots.
    fn judge(&mut self) {
        let rates = self.rates();
        let mut likelihoods: Vec<f64> = self
            .tallies()
            .into_iter()
            .map(|(bad, good)| rates.ln_if_bad(bad) + rates.ln_if_good(good))
            .collect();
        for (one, other) in &self.twins {
            let one = self.history.ancestors(*one);
            let other = match other {
                Some(other) => self.history.ancestors(*other),
                None => vec![false; self.history.len()],
            };
            for (suspect, likelihood) in likelihoods.iter_mut().enumerate() {
                if one[suspect] != other[suspect] {
                    *likelihood = f64::NEG_INFINITY;
                }
            }
        }
        let highest = likelihoods
            .iter()
            .copied()
            .fold(f64::NEG_INFINITY, f64::max);
        if highest == f64::NEG_INFINITY {
            self.suspicion = vec![0.0; self.history.len()];
            return;
        }
        for likelihood in &mut likelihoods {
            *likelihood = (*likelihood - highest).exp();
        }
        let sum: f64 = likelihoods.iter().sum();
        self.suspicion = likelihoods
            .iter()
            .map(|likelihood| likelihood / sum)
            .collect();
    }
}

/// How likely it seems that a commit can be judged at all. A skip may be a single one, so the next
/// attempt is beside it; more of them stand in a row, mostly, and to miss the middle by some
/// sixteenths of what is undecided costs next to nothing.
fn hope(commit: usize, skipped: &[usize], undecided: usize) -> f64 {
    let Some(distance) = skipped.iter().map(|other| other.abs_diff(commit)).min() else {
        return 1.0;
    };
    let reach = 0.5 + (skipped.len() - 1) as f64 * undecided as f64 / 16.0;
    distance as f64 / (distance as f64 + reach)
}

fn log2(value: f64) -> f64 {
    if value > 0.0 { value.log2() } else { 0.0 }
}

/// Of one bit that is set with this probability.
fn entropy(probability: f64) -> f64 {
    let rest = 1.0 - probability;
    -probability * log2(probability) - rest * log2(rest)
}

#[cfg(test)]
mod tests;
