//! What a bisection came to, for machines. `schema: 1`: fields are added, none changes or goes.

use serde::Serialize;

use super::first_difference::FirstDifference;
use super::git::Commit;
use super::hunt::{Hunt, Trial, mark};
use super::lab::Effort;
use super::prove::Proof;
use super::rates::Tally;

/// The result.
#[derive(Debug, Clone, Serialize)]
pub struct Outcome {
    /// 1.
    pub schema: u32,
    /// The culprit is known and proved.
    pub proved: bool,
    /// How likely it is, by all boots, that it is the culprit, or one of the candidates.
    pub confidence: f64,
    /// The first bad commit; null if there are candidates only.
    pub culprit: Option<Commit>,
    /// Those that nothing could tell apart, most likely first.
    pub candidates: Vec<Commit>,
    /// What was sought, in words.
    pub sought: String,
    /// The failure at the culprit, or at BAD.
    pub failure: Failure,
    /// GOOD.
    pub good: EndReport,
    /// BAD.
    pub bad: EndReport,
    /// The proof.
    pub proof: Option<Proof>,
    /// What was tried, in order.
    pub steps: Vec<Step>,
    /// Under which fingerprints it fails since when, oldest first.
    pub fingerprints: Vec<Change>,
    /// Where the bad boot leaves the way of the good one.
    pub first_difference: Option<FirstDifference>,
    /// The line for the commit that repairs it.
    pub fixes: Option<String>,
    /// A shell command that builds the culprit and boots it.
    pub reproduce: String,
    /// For `git bisect replay`.
    pub bisect_log: String,
    /// The commits between GOOD and BAD.
    pub commits: usize,
    /// What was done.
    pub effort: Effort,
    /// Seconds from start to end.
    pub seconds: f64,
    /// The QEMU that ran.
    pub qemu: Option<String>,
    /// The tester's version.
    pub tester: String,
}

/// A failure, told in full.
#[derive(Debug, Clone, Default, Serialize)]
pub struct Failure {
    /// In one line.
    pub told: String,
    /// What went wrong, in a sentence.
    pub message: Option<String>,
    /// The stage.
    pub stage: Option<String>,
    /// The function where it failed.
    pub symbol: Option<String>,
    /// Source file and line.
    pub place: Option<String>,
    /// Not one byte on the console.
    pub silent: bool,
    /// Where it failed and who called.
    pub trace: Vec<String>,
    /// The fingerprint.
    pub fingerprint: Option<String>,
}

/// One end.
#[derive(Debug, Clone, Serialize)]
pub struct EndReport {
    /// The commit.
    pub commit: Commit,
    /// What it shows.
    pub told: String,
    /// Its boots.
    pub boots: Tally,
    /// What was measured.
    pub value: Option<u64>,
}

/// One commit that was tried.
#[derive(Debug, Clone, Serialize)]
pub struct Step {
    /// The commit.
    pub commit: Commit,
    /// `good`, `bad` or `skip`.
    pub outcome: &'static str,
    /// What it showed.
    #[serde(flatten)]
    pub trial: Trial,
}

/// A fingerprint, and since when the failure has it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Change {
    /// The fingerprint.
    pub fingerprint: String,
    /// The oldest tested commit that has it.
    pub since: Commit,
    /// The tested commit before that, which had another: the change lies between them.
    pub after: Option<Commit>,
}

/// `good`, `bad` or `skip`, for what was tried of a commit. `bad` tells of one by its number.
#[must_use]
pub fn outcome_of(trial: &Trial, is_bad: bool) -> &'static str {
    match (&trial.skipped, mark(trial.tally)) {
        (Some(_), _) => "skip",
        // One boot of a flaky failure that passes makes no revision good: all boots do.
        _ if is_bad => "bad",
        _ => "good",
    }
}

/// The steps in the order in which they were taken; `culprit` decides what is bad.
#[must_use]
pub fn steps(hunt: &Hunt<'_>, culprits: &[usize]) -> Vec<Step> {
    let mut tried: Vec<(usize, &Trial)> =
        hunt.trials.iter().map(|(n, trial)| (*n, trial)).collect();
    tried.sort_by_key(|(_, trial)| trial.turn);
    let tip = hunt.history().tip();
    tried
        .into_iter()
        .filter(|(number, _)| *number != tip)
        .map(|(number, trial)| {
            let ancestors = hunt.history().ancestors(number);
            let is_bad = culprits.iter().any(|culprit| ancestors[*culprit]) && is_likely_bad(trial);
            Step {
                commit: hunt.commits[number].clone(),
                outcome: outcome_of(trial, is_bad),
                trial: trial.clone(),
            }
        })
        .collect()
}

/// Between candidates, only boots tell.
fn is_likely_bad(trial: &Trial) -> bool {
    trial.tally.failed > 0 || trial.tally.boots() == 0
}

/// The fingerprints of the failure along the history.
#[must_use]
pub fn changes(hunt: &Hunt<'_>) -> Vec<Change> {
    let mut failing: Vec<(usize, &str)> = hunt
        .trials
        .iter()
        .filter(|(_, trial)| {
            trial.skipped.is_none() && (trial.tally.failed > 0 || trial.same_image_as.is_some())
        })
        .filter_map(|(number, trial)| Some((*number, trial.fingerprint.as_deref()?)))
        .collect();
    failing.sort_unstable();
    let mut changes: Vec<Change> = Vec::new();
    let mut before: Option<usize> = None;
    for (number, fingerprint) in failing {
        if changes
            .last()
            .is_none_or(|last| last.fingerprint != fingerprint)
        {
            changes.push(Change {
                fingerprint: fingerprint.to_owned(),
                since: hunt.commits[number].clone(),
                after: before.map(|before| hunt.commits[before].clone()),
            });
        }
        before = Some(number);
    }
    changes
}
