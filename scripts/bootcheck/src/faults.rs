//! The catalogue of known-answer faults: what a kernel does on `fault=NAME@STAGE`, and what a
//! tester must then find.
//!
//! The kernel keeps it as `kernel/faults.toml`, which says what its fields mean.

use std::collections::BTreeMap;

use serde::Deserialize;

use crate::verdict::Verdict;

/// The stages in which a fault can be asked for: once the command line is known.
pub const STAGES: &[&str] = crate::blackbox::STAGES.split_at(3).1;

/// The faults, by name.
pub type Catalogue = BTreeMap<String, Fault>;

/// One fault.
#[derive(Debug, Deserialize)]
pub struct Fault {
    verdict: Verdict,
    ec: Option<u8>,
    #[serde(default)]
    except: Vec<Exception>,
}

/// Where it is otherwise.
#[derive(Debug, Deserialize)]
struct Exception {
    stages: Vec<String>,
    verdict: Option<Verdict>,
    ec: Option<u8>,
    cannot: Option<String>,
    instead: Option<Verdict>,
}

/// What must come out of a boot with a fault in it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Answer {
    /// The verdict.
    pub verdict: Verdict,
    /// The class of its first exception, if there is one.
    pub ec: Option<u8>,
}

impl Fault {
    /// What it does in this stage.
    ///
    /// # Errors
    /// Why it cannot be had there.
    pub fn answer(&self, stage: &str) -> Result<Answer, &str> {
        let is_here = |except: &&Exception| except.stages.iter().any(|other| other == stage);
        match self.except.iter().find(is_here) {
            None => Ok(Answer {
                verdict: self.verdict,
                ec: self.ec,
            }),
            Some(Exception {
                cannot: Some(reason),
                ..
            }) => Err(reason),
            Some(except) => Ok(Answer {
                verdict: except.verdict.unwrap_or(self.verdict),
                ec: except.ec,
            }),
        }
    }
}

impl Fault {
    /// What becomes of a boot that is asked for it in a stage where it cannot be had.
    #[must_use]
    pub fn instead(&self, stage: &str) -> Option<Answer> {
        let is_here = |except: &&Exception| except.stages.iter().any(|other| other == stage);
        let except = self.except.iter().find(is_here)?;
        Some(Answer {
            verdict: except.instead?,
            ec: except.ec,
        })
    }
}

impl Answer {
    /// The stage that a boot with the fault in `stage` must end in: one that goes on comes to its
    /// end.
    #[must_use]
    pub fn stage(self, stage: &str) -> &str {
        match self.verdict {
            Verdict::Pass | Verdict::Fail | Verdict::Off => "done",
            _ => stage,
        }
    }
}
