//! The proof: the culprit's parents are good, the culprit is bad, and without it BAD is good.

use serde::Serialize;

use super::failure::Meaning;
use super::git::Commit;
use super::hunt::Hunt;
use super::lab::Built;
use super::rates::Tally;
use crate::build::NotBuilt;

/// What became of BAD with the culprit reverted.
#[derive(Debug, Clone, Serialize)]
#[serde(rename_all = "snake_case", tag = "outcome")]
pub enum Revert {
    /// It is good.
    Good {
        /// Its boots.
        boots: Tally,
    },
    /// It fails all the same, in the same way.
    StillBad {
        /// Its boots.
        boots: Tally,
        /// How it fails.
        told: String,
    },
    /// It does not tell: the culprit cannot be reverted alone, or what comes of it cannot be
    /// judged.
    Unclear {
        /// Why.
        reason: String,
    },
}

/// The proof.
#[derive(Debug, Clone, Serialize)]
pub struct Proof {
    /// Every parent is good.
    pub parents_good: bool,
    /// The culprit is bad.
    pub culprit_bad: bool,
    /// BAD without it.
    pub revert: Revert,
}

impl Proof {
    /// Whether nothing speaks against it.
    #[must_use]
    pub fn holds(&self) -> bool {
        let cured = !matches!(self.revert, Revert::StillBad { .. });
        self.parents_good && self.culprit_bad && cured
    }
}

/// Proves that `culprit` is one; `None` if boots made for it say otherwise.
///
/// # Errors
/// The tester, git, the host or QEMU failed.
pub fn prove(hunt: &mut Hunt<'_>, culprit: usize) -> anyhow::Result<Option<Proof>> {
    let mut parents_good = true;
    for parent in hunt.history().parents(culprit).to_vec() {
        if !hunt.assure_good(parent)? {
            match hunt.trials.get(&parent) {
                Some(trial) if trial.skipped.is_none() => return Ok(None),
                _ => parents_good = false,
            }
        }
    }
    if !hunt.trials.contains_key(&culprit) {
        hunt.try_once(culprit)?;
    }
    let trial = hunt.trials.get(&culprit).cloned().unwrap_or_default();
    // An image like that of a bad one is as bad.
    let culprit_bad =
        trial.tally.failed > 0 || (trial.same_image_as.is_some() && trial.skipped.is_none());
    let tip = hunt.history().tip();
    let revert = revert(
        hunt,
        &hunt.commits[tip].clone(),
        &hunt.commits[culprit].clone(),
    )?;
    Ok(Some(Proof {
        parents_good,
        culprit_bad,
        revert,
    }))
}

/// Builds and boots `tip` without `culprit`.
fn revert(hunt: &mut Hunt<'_>, tip: &Commit, culprit: &Commit) -> anyhow::Result<Revert> {
    let unclear = |reason: String| Ok(Revert::Unclear { reason });
    let what = format!("{} without {}", tip.short, culprit.short);
    hunt.progress().doing(&format!("building {what}"));
    let mut cannot = None;
    let name = format!("{}-without-{}", tip.sha, culprit.sha);
    let built = hunt.lab().build_with(&name, |builder| {
        match builder.tree().checkout_reverted(&tip.sha, &culprit.sha)? {
            Ok(()) => builder.build_checkout(&name),
            Err(reason) => {
                cannot = Some(reason.clone());
                Ok(Err(NotBuilt::because(reason)))
            }
        }
    })?;
    let key = match built {
        Built::Image(key) => key,
        Built::Broken(reason) | Built::Hung(reason) => {
            let is_same = matches!(hunt.ends.sought, super::sought::Sought::BuildFailure);
            return match cannot {
                None if is_same && hunt.history().len() > 1 => {
                    let boots = Tally {
                        failed: 1,
                        passed: 0,
                    };
                    Ok(Revert::StillBad {
                        boots,
                        told: reason,
                    })
                }
                _ => unclear(reason),
            };
        }
    };
    let needed = hunt.passes_needed();
    let mut boots = Tally::default();
    while boots.passed < needed {
        hunt.progress().doing(&format!("booting {what}"));
        let ends = hunt.ends;
        let observation = ends.sought.observe(hunt.lab(), &key)?;
        match observation.meaning {
            Meaning::Good => boots.passed += 1,
            Meaning::Bad => {
                boots.failed += 1;
                return Ok(Revert::StillBad {
                    boots,
                    told: observation.told,
                });
            }
            Meaning::Other => {
                return unclear(format!("it fails in another way: {}", observation.told));
            }
        }
    }
    Ok(Revert::Good { boots })
}
