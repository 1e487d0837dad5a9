//! What a bisection seeks, and what it sees of that in one image.

use super::failure::{Failure, Meaning, Recognition, Sight};
use super::lab::Lab;
use super::metric::Metric;

/// What a bisection seeks the beginning of.
#[derive(Debug, Clone)]
pub enum Sought {
    /// BAD cannot be built.
    BuildFailure,
    /// A boot that fails.
    Failure(Failure),
    /// A number that is too high.
    Regression {
        /// Which one.
        metric: Metric,
        /// The highest value that is good.
        limit: u64,
    },
}

/// One look at an image.
#[derive(Debug, Clone)]
pub struct Observation {
    /// What it says about the revision.
    pub meaning: Meaning,
    /// The same in one line.
    pub told: String,
    /// The boot.
    pub sight: Option<Sight>,
    /// The number.
    pub value: Option<u64>,
}

impl Sought {
    /// Looks at an image once more.
    ///
    /// # Errors
    /// The tester, the host or QEMU failed.
    pub fn observe(&self, lab: &mut Lab, key: &str) -> anyhow::Result<Observation> {
        let observation = match self {
            Self::BuildFailure => Observation {
                meaning: Meaning::Good,
                told: "can be built".into(),
                sight: None,
                value: None,
            },
            Self::Failure(failure) => {
                let sight = lab.boot(key)?;
                Observation {
                    meaning: failure.meaning(&sight),
                    told: sight.shown(),
                    sight: Some(sight),
                    value: None,
                }
            }
            Self::Regression { metric, limit } => measure(lab, key, metric, *limit)?,
        };
        Ok(observation)
    }

    /// In a few words, for reports.
    #[must_use]
    pub fn shown(&self) -> String {
        match self {
            Self::BuildFailure => "the build fails".into(),
            Self::Regression { metric, limit } => format!("{metric} above {limit}"),
            Self::Failure(failure) => match &failure.by {
                Recognition::Any => format!("any verdict but {}", failure.expected),
                Recognition::Match(regex) => format!("a failure that matches {:?}", regex.as_str()),
                Recognition::ClassOrStage { class, stage: None } => class.clone(),
                Recognition::ClassOrStage {
                    class,
                    stage: Some(stage),
                } => {
                    format!("{class}, or any failure at stage {stage}")
                }
            },
        }
    }
}

/// Measures an image once; it is bad above `limit`.
///
/// # Errors
/// The tester, the host or QEMU failed.
pub fn measure(
    lab: &mut Lab,
    key: &str,
    metric: &Metric,
    limit: u64,
) -> anyhow::Result<Observation> {
    let (sight, value) = if metric.needs_no_boot() {
        (None, Ok(lab.image_bytes(key)?))
    } else {
        let sight = lab.boot(key)?;
        let value = if sight.verdict == lab.expected() {
            metric.of(&sight)
        } else {
            Err(format!("nothing to measure: {}", sight.shown()))
        };
        (Some(sight), value)
    };
    Ok(match value {
        Ok(value) => Observation {
            meaning: if value > limit {
                Meaning::Bad
            } else {
                Meaning::Good
            },
            told: format!("{metric} {value}"),
            sight,
            value: Some(value),
        },
        Err(reason) => Observation {
            meaning: Meaning::Other,
            told: reason,
            sight,
            value: None,
        },
    })
}
