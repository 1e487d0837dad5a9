//! The result for people: a summary on the console, Markdown for a list or an issue, and a log
//! that git replays.

use std::fmt::Write;

use super::ends;
use super::git::Commit;
use super::outcome::{EndReport, Outcome, Step};
use super::progress::duration;
use super::prove::Revert;
use super::rates::Tally;

/// The line for the commit that repairs it, in the form that Linux asks for.
#[must_use]
pub fn fixes(culprit: &Commit) -> String {
    let short = &culprit.sha[..culprit.sha.len().min(12)];
    format!("Fixes: {short} (\"{}\")", culprit.subject)
}

/// A log for `git bisect replay`.
#[must_use]
pub fn bisect_log(
    good: &Commit,
    bad: &Commit,
    steps: &[Step],
    culprit: Option<&Commit>,
    first_parent: bool,
    paths: &[String],
) -> String {
    let mut log = String::new();
    let mut line = |text: String| {
        log.push_str(&text);
        log.push('\n');
    };
    let told =
        |mark: &str, commit: &Commit| format!("# {mark}: [{}] {}", commit.sha, commit.subject);
    line(told("bad", bad));
    line(told("good", good));
    let options = if first_parent {
        "'--first-parent' "
    } else {
        ""
    };
    let paths: String = paths
        .iter()
        .map(|path| format!(" '{}'", path.replace('\'', "'\\''")))
        .collect();
    let paths = if paths.is_empty() {
        paths
    } else {
        format!(" '--'{paths}")
    };
    line(format!(
        "git bisect start {options}'{}' '{}'{paths}",
        bad.sha, good.sha
    ));
    for step in steps {
        line(told(step.outcome, &step.commit));
        line(format!("git bisect {} {}", step.outcome, step.commit.sha));
    }
    if let Some(culprit) = culprit {
        line(told("first bad commit", culprit));
    }
    log
}

impl Outcome {
    /// The summary for the console.
    #[must_use]
    pub fn summary(&self) -> String {
        let mut text = String::new();
        match &self.culprit {
            Some(culprit) => {
                let _ = writeln!(text, "{} is the first bad commit", culprit.sha);
                let _ = writeln!(text, "  {}", culprit.subject);
                let _ = writeln!(text, "  {}, {}", culprit.author, culprit.date);
            }
            None => {
                let _ = writeln!(
                    text,
                    "one of these {} is the first bad commit; nothing that can be tested lies between them:",
                    self.candidates.len()
                );
                for candidate in &self.candidates {
                    let _ = writeln!(text, "  {} {}", candidate.sha, candidate.subject);
                }
            }
        }
        let failure = &self.failure;
        let silence = if failure.silent {
            ", not one byte on the console"
        } else {
            ""
        };
        match self.bad.value {
            Some(_) => {
                let _ = writeln!(text, "\nIt has {}:", self.sought);
            }
            None => {
                let _ = writeln!(text, "\nIt fails like this{silence}:");
            }
        }
        let _ = writeln!(text, "  {}", failure.told);
        if let Some(message) = &failure.message {
            let _ = writeln!(text, "  {message}");
        }
        for line in &failure.trace {
            let _ = writeln!(text, "    {line}");
        }
        if let Some(difference) = &self.first_difference {
            let _ = writeln!(text, "The boots part: {}", difference.shown());
        }
        let _ = writeln!(text);
        for line in self.proof_lines() {
            let _ = writeln!(text, "{line}");
        }
        for line in self.change_lines() {
            let _ = writeln!(text, "{line}");
        }
        let effort = &self.effort;
        let _ = writeln!(
            text,
            "{}, {} ({}), {} boots ({}) and {} remembered, {} in all",
            count(self.commits, "commit"),
            count(effort.builds as usize, "build"),
            duration(effort.build_seconds),
            effort.boots,
            duration(effort.boot_seconds),
            effort.remembered,
            duration(self.seconds)
        );
        let _ = writeln!(text, "To see it again: {}", self.reproduce);
        crate::escape::escape(text.as_bytes())
    }

    /// How it is known, line by line.
    fn proof_lines(&self) -> Vec<String> {
        let certainty = format!("certain to {}", percent(self.confidence));
        let told = |end: &EndReport| match (end.value, end.boots) {
            (Some(_), _) => end.told.clone(),
            // What cannot be built was not booted.
            (None, boots) if boots.boots() <= 1 => end.told.clone(),
            (None, Tally { failed: 0, passed }) => format!("{} ({passed} boots)", end.told),
            (None, boots) => {
                let (failed, all) = (boots.failed, boots.boots());
                format!("{} ({failed} of {all} boots failed)", end.told)
            }
        };
        let ends = format!(
            "GOOD {}: {}; BAD {}: {}",
            self.good.commit.short,
            told(&self.good),
            self.bad.commit.short,
            told(&self.bad)
        );
        let Some(proof) = &self.proof else {
            return vec![format!("Not proved; the candidates are {certainty}"), ends];
        };
        let revert = match &proof.revert {
            Revert::Good { boots } => {
                let count = ends::boots(boots.boots());
                format!("{} without it is good ({count})", self.bad.commit.short)
            }
            Revert::StillBad { told, .. } => {
                format!(
                    "but {} without it still fails: {told}",
                    self.bad.commit.short
                )
            }
            Revert::Unclear { reason } => {
                format!(
                    "{} without it tells nothing: {reason}",
                    self.bad.commit.short
                )
            }
        };
        let parents = if proof.parents_good {
            "its parent is good"
        } else {
            "its parent cannot be judged"
        };
        let culprit = if proof.culprit_bad {
            "it is bad"
        } else {
            "it cannot be judged itself"
        };
        let proved = if self.proved { "Proved" } else { "Not proved" };
        vec![
            format!("{proved}, {certainty}: {parents}, {culprit}, {revert}"),
            ends,
        ]
    }

    /// Since when it fails as what.
    fn change_lines(&self) -> Vec<String> {
        let [first, later @ ..] = &self.fingerprints[..] else {
            return Vec::new();
        };
        // What lies between two that were tested may be the first.
        let culprit = self.culprit.as_ref();
        let latest = match culprit.is_some_and(|culprit| culprit.sha == first.since.sha) {
            true => "",
            false => " at the latest",
        };
        let mut lines = vec![format!(
            "Fails since {}{latest} as {}",
            first.since.short, first.fingerprint
        )];
        lines.extend(later.iter().map(|change| {
            let after = change.after.as_ref();
            let after = after.filter(|after| !change.since.parents.contains(&after.sha));
            let latest = after.map_or(String::new(), |after| {
                format!(" at the latest, not yet at {},", after.short)
            });
            format!(
                "  and since {}{latest} as {}",
                change.since.short, change.fingerprint
            )
        }));
        let others: Vec<String> = self
            .steps
            .iter()
            .filter_map(|step| {
                let reason = step.trial.skipped.as_deref()?;
                Some(format!("Skipped {}: {reason}", step.commit.shown()))
            })
            .collect();
        lines.extend(others);
        lines
    }

    /// The report for a mailing list or an issue.
    #[must_use]
    pub fn markdown(&self) -> String {
        let mut text = String::new();
        let failure = &self.failure;
        let what = match self.bad.value {
            Some(_) => "made worse",
            None => "broken",
        };
        match &self.culprit {
            Some(culprit) => {
                let _ = writeln!(
                    text,
                    "# Boot {what} by {} (\"{}\")\n",
                    culprit.short, culprit.subject
                );
                let _ = writeln!(
                    text,
                    "`{}` is the first bad commit, by {}, {}.\n",
                    culprit.sha, culprit.author, culprit.date
                );
            }
            None => {
                let _ = writeln!(
                    text,
                    "# Boot {what} by one of {} commits\n",
                    self.candidates.len()
                );
                for candidate in &self.candidates {
                    let _ = writeln!(text, "- `{}` {}", candidate.sha, candidate.subject);
                }
                let _ = writeln!(text, "\nNothing that can be tested lies between them.\n");
            }
        }
        let silence = if failure.silent {
            " Not one byte came out on the console."
        } else {
            ""
        };
        let _ = writeln!(text, "## Failure\n\n{}.{silence}\n", failure.told);
        let mut block = String::new();
        if let Some(message) = &failure.message {
            let _ = writeln!(block, "{message}");
        }
        for line in &failure.trace {
            let _ = writeln!(block, "  {line}");
        }
        fence(&mut text, "", &block);
        if let Some(difference) = &self.first_difference {
            let _ = writeln!(
                text,
                "Where the last good boot and the first bad one part: {}.\n",
                difference.shown()
            );
        }
        let _ = writeln!(text, "## How it is known\n");
        for line in self.proof_lines().iter().chain(&self.change_lines()) {
            let _ = writeln!(text, "- {}", line.trim());
        }
        let _ = writeln!(
            text,
            "- {} commits between good and bad; {} builds, {} boots; bootcheck {}, QEMU {}\n",
            self.commits,
            self.effort.builds,
            self.effort.boots + self.effort.remembered,
            self.tester,
            self.qemu.as_deref().unwrap_or("not started")
        );
        let _ = writeln!(text, "## To see it again\n");
        fence(&mut text, "sh", &format!("{}\n", self.reproduce));
        if let Some(fixes) = &self.fixes {
            let _ = writeln!(text, "Tag for the repair:\n");
            fence(&mut text, "", &format!("{fixes}\n"));
        }
        let _ = writeln!(text, "## Bisect log\n\nFor `git bisect replay`:\n");
        fence(&mut text, "", &self.bisect_log);
        crate::escape::escape(text.as_bytes())
    }
}

/// `1 commit`, `2 commits`
fn count(number: usize, what: &str) -> String {
    let ending = if number == 1 { "" } else { "s" };
    format!("{number} {what}{ending}")
}

/// A block of text as it is, whatever it holds.
fn fence(text: &mut String, language: &str, block: &str) {
    if block.is_empty() {
        return;
    }
    let longest = block
        .split(|letter| letter != '`')
        .map(str::len)
        .max()
        .unwrap_or(0);
    let fence = "`".repeat(longest.max(2) + 1);
    let _ = writeln!(text, "{fence}{language}\n{block}{fence}\n");
}

/// As many digits as say something: 99.9987 %.
fn percent(confidence: f64) -> String {
    if confidence >= 1.0 - 1e-9 {
        return "100 %".into();
    }
    // Rounded down: 99.996 % is not 100 %.
    let digits = (-(1.0 - confidence).log10()).ceil().max(2.0) as usize - 2;
    let scale = 10_f64.powi(digits as i32);
    format!(
        "{:.digits$} %",
        (confidence * 100.0 * scale + 1e-6).floor() / scale
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_certainty_is_never_rounded_up() {
        assert_eq!(percent(1.0), "100 %");
        assert_eq!(percent(0.999_96), "99.996 %");
        assert_eq!(percent(0.5), "50 %");
        assert_eq!(percent(0.758), "75 %");
    }

    #[test]
    fn a_fence_is_longer_than_what_it_holds() {
        let mut text = String::new();
        fence(&mut text, "", "a ```` b\n");
        assert_eq!(text, "`````\na ```` b\n`````\n\n");
    }
}
