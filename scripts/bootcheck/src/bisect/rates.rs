//! What boots say about how often a revision fails.
//!
//! The rate at which bad revisions fail may be anything from 0 to 1, all alike (a Beta(1,1) prior):
//! five failures of five may still be two in three. That good ones fail just like BAD is possible,
//! but not likely; so it is *never* with probability `NEVER`, and otherwise any rate again. Both
//! have closed forms, so nothing is approximated.

use std::ops::AddAssign;

/// How much it counts, before the first boot, that no good revision ever fails like BAD.
const NEVER: f64 = 0.8;

/// Boots of one revision that could tell something.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct Tally {
    /// Boots that failed as BAD does.
    pub failed: u32,
    /// Boots that did not fail.
    pub passed: u32,
}

impl Tally {
    /// All of them.
    #[must_use]
    pub fn boots(self) -> u32 {
        self.failed + self.passed
    }
}

impl AddAssign for Tally {
    fn add_assign(&mut self, other: Self) {
        self.failed += other.failed;
        self.passed += other.passed;
    }
}

/// Logarithms of factorials, remembered.
#[derive(Debug, Clone)]
pub struct Rates {
    /// Every image has but one outcome: one boot tells all.
    exact: bool,
    ln_factorial: Vec<f64>,
}

impl Rates {
    /// For tallies of up to `most` boots in all.
    #[must_use]
    pub fn new(exact: bool, most: u32) -> Self {
        let mut ln_factorial = vec![0.0];
        for number in 1..=most + 2 {
            ln_factorial.push(ln_factorial[ln_factorial.len() - 1] + f64::from(number).ln());
        }
        Self {
            exact,
            ln_factorial,
        }
    }

    /// Logarithm of the probability of these boots, if all were of bad revisions.
    #[must_use]
    pub fn ln_if_bad(&self, boots: Tally) -> f64 {
        if self.exact {
            return f64::from(u8::from(boots.passed == 0)).ln();
        }
        self.ln_any_rate(boots)
    }

    /// Logarithm of the probability of these boots, if all were of good revisions.
    #[must_use]
    pub fn ln_if_good(&self, boots: Tally) -> f64 {
        let never = f64::from(u8::from(boots.failed == 0));
        if self.exact {
            return never.ln();
        }
        (NEVER * never + (1.0 - NEVER) * self.ln_any_rate(boots).exp()).ln()
    }

    /// The probability that the next boot of a bad revision fails, after these.
    #[must_use]
    pub fn bad_fails(&self, boots: Tally) -> f64 {
        let mut more = boots;
        more.failed += 1;
        (self.ln_if_bad(more) - self.ln_if_bad(boots)).exp()
    }

    /// The probability that the next boot of a good revision passes, after these.
    #[must_use]
    pub fn good_passes(&self, boots: Tally) -> f64 {
        let mut more = boots;
        more.passed += 1;
        (self.ln_if_good(more) - self.ln_if_good(boots)).exp()
    }

    fn ln_any_rate(&self, boots: Tally) -> f64 {
        let factorial = |number: u32| self.ln_factorial[number as usize];
        factorial(boots.failed) + factorial(boots.passed) - factorial(boots.boots() + 1)
    }
}

/// The probability that `bad` really fails more often than `good`, by their tallies alone.
#[must_use]
pub fn fails_more_often(bad: Tally, good: Tally) -> f64 {
    // Both posteriors on a grid; the densities need no normalisation before the end.
    const STEPS: u32 = 400;
    let density = |tally: Tally| -> Vec<f64> {
        let rates = (0..STEPS).map(|step| (f64::from(step) + 0.5) / f64::from(STEPS));
        let logarithms: Vec<f64> = rates
            .map(|rate| {
                f64::from(tally.failed) * rate.ln() + f64::from(tally.passed) * (1.0 - rate).ln()
            })
            .collect();
        let highest = logarithms.iter().copied().fold(f64::MIN, f64::max);
        let densities = logarithms.iter().map(|ln| (ln - highest).exp());
        densities.collect()
    };
    let (bad, good) = (density(bad), density(good));
    let mut good_below = 0.0;
    let mut more = 0.0;
    for (bad, good) in bad.iter().zip(&good) {
        more += bad * (good_below + good / 2.0);
        good_below += good;
    }
    more / (good_below * bad.iter().sum::<f64>())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tally(failed: u32, passed: u32) -> Tally {
        Tally { failed, passed }
    }

    #[test]
    fn likelihoods_are_probabilities_of_sequences() {
        let rates = Rates::new(false, 10);
        // Of the sequences of three boots, by how many fail.
        let sequences = [(3, 0, 1.0), (2, 1, 3.0), (1, 2, 3.0), (0, 3, 1.0)];
        for ln in [Rates::ln_if_bad, Rates::ln_if_good] {
            let sum: f64 = sequences
                .iter()
                .map(|(failed, passed, ways)| ways * ln(&rates, tally(*failed, *passed)).exp())
                .sum();
            assert!((sum - 1.0).abs() < 1e-12, "{sum}");
            assert!(ln(&rates, tally(0, 0)).abs() < 1e-12);
        }
    }

    #[test]
    fn a_good_revision_that_fails_once_may_fail_again() {
        let rates = Rates::new(false, 100);
        assert!(rates.good_passes(tally(0, 5)) > 0.99);
        assert!((0.7..0.8).contains(&rates.good_passes(tally(1, 5))));
        assert!((0.8..0.9).contains(&rates.bad_fails(tally(5, 0))));
        let exact = Rates::new(true, 100);
        assert_eq!(exact.bad_fails(tally(1, 0)), 1.0);
        assert_eq!(exact.ln_if_bad(tally(1, 1)), f64::NEG_INFINITY);
        assert_eq!(exact.ln_if_good(tally(1, 1)), f64::NEG_INFINITY);
    }

    #[test]
    fn rates_are_told_apart_once_there_are_boots_enough() {
        assert!((fails_more_often(tally(0, 0), tally(0, 0)) - 0.5).abs() < 0.01);
        assert!(fails_more_often(tally(5, 0), tally(0, 5)) > 0.99);
        assert!(fails_more_often(tally(6, 14), tally(1, 19)) > 0.95);
        assert!(fails_more_often(tally(6, 14), tally(6, 14)) < 0.6);
        assert!(fails_more_often(tally(0, 5), tally(5, 0)) < 0.01);
        assert!(
            fails_more_often(tally(4000, 0), tally(0, 4000)) > 0.999,
            "no underflow"
        );
    }
}
