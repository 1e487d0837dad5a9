//! Self-test results as the guest prints them: KTAP, the kernel's dialect of TAP.
//!
//! Only lines of the top level count. Results of subtests are indented, and the line of their
//! parent sums them up.

use serde::{Deserialize, Serialize};

/// What one console line says in KTAP.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Line {
    /// `1..N`: so many results will follow.
    Plan(u32),
    /// `ok N name` or `not ok N name`.
    Result {
        /// The name, without number, dash and directive.
        name: String,
        /// How it ended.
        outcome: Outcome,
    },
    /// `# name: why (FILE:LINE)`, as our kernel explains a failure.
    Diagnostic {
        /// The test.
        name: String,
        /// What it says.
        why: String,
        /// Where in the source.
        file: String,
        /// The line there.
        line: u32,
    },
}

/// How one self-test ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    /// `ok`.
    Passed,
    /// `not ok`.
    Failed,
    /// `# SKIP`, or `not ok` with `# TODO`: known not to work yet.
    Skipped,
}

/// The counts of a boot.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Counts {
    /// Results that were `ok`.
    pub passed: u32,
    /// Results that were `not ok`.
    pub failed: u32,
    /// Results that were skipped.
    pub skipped: u32,
}

/// Everything KTAP said during one boot.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Tally {
    /// The counts so far.
    pub counts: Counts,
    /// The name of the first test that failed.
    pub first_failed: Option<String>,
    /// Why, and where in the source.
    pub first_reason: Option<(String, String, u32)>,
    /// How many results were announced.
    pub planned: Option<u32>,
}

impl Tally {
    /// Adds what one line says.
    pub fn add(&mut self, line: Line) {
        match line {
            Line::Plan(count) => self.planned = Some(self.planned.unwrap_or(0) + count),
            Line::Diagnostic {
                name,
                why,
                file,
                line,
            } => {
                if self.first_failed.as_ref() == Some(&name) {
                    self.first_reason.get_or_insert((why, file, line));
                }
            }
            Line::Result { name, outcome } => match outcome {
                Outcome::Passed => self.counts.passed += 1,
                Outcome::Skipped => self.counts.skipped += 1,
                Outcome::Failed => {
                    self.counts.failed += 1;
                    self.first_failed.get_or_insert(name);
                }
            },
        }
    }

    /// Why the results do not add up to success, if they do not.
    #[must_use]
    pub fn complaint(&self) -> Option<String> {
        let Counts {
            passed,
            failed,
            skipped,
        } = self.counts;
        let seen = passed + failed + skipped;
        if let Some(name) = &self.first_failed {
            let why = self
                .first_reason
                .as_ref()
                .map(|(why, ..)| format!(": {why}"));
            return Some(format!(
                "{failed} of {seen} self-tests failed, the first is {name}{}",
                why.unwrap_or_default()
            ));
        }
        let planned = self.planned?;
        (planned != seen).then(|| format!("{planned} self-tests were announced, {seen} reported"))
    }
}

/// Reads one line; `None` if it is not KTAP.
#[must_use]
pub fn parse(line: &str) -> Option<Line> {
    if let Some(count) = line.strip_prefix("1..") {
        let digits = count.split([' ', '#']).next().unwrap_or_default();
        return digits.parse().ok().map(Line::Plan);
    }
    if let Some(diagnostic) = line.strip_prefix("# ") {
        let (name, rest) = diagnostic.split_once(": ")?;
        let (why, place) = rest.strip_suffix(')')?.rsplit_once(" (")?;
        let (file, number) = place.rsplit_once(':')?;
        return Some(Line::Diagnostic {
            name: name.to_owned(),
            why: why.to_owned(),
            file: file.to_owned(),
            line: number.parse().ok()?,
        });
    }
    let (ok, rest) = match line.strip_prefix("not ok ") {
        Some(rest) => (false, rest),
        None => (true, line.strip_prefix("ok ")?),
    };
    // KTAP requires the number; without it, this is prose that begins with "ok".
    let rest = rest.trim_start();
    let digits = rest
        .find(|c: char| !c.is_ascii_digit())
        .unwrap_or(rest.len());
    if digits == 0 || !matches!(rest.as_bytes().get(digits), None | Some(b' ' | b'\t')) {
        return None;
    }
    let (description, directive) = match rest[digits..].split_once(" # ") {
        Some((description, directive)) => (description, directive),
        None => (&rest[digits..], ""),
    };
    let description = description.trim();
    let name = description.strip_prefix("- ").unwrap_or(description);
    let directive = directive.trim_start().to_ascii_uppercase();
    let outcome = if directive.starts_with("SKIP") || (!ok && directive.starts_with("TODO")) {
        Outcome::Skipped
    } else if ok {
        Outcome::Passed
    } else {
        Outcome::Failed
    };
    Some(Line::Result {
        name: name.to_owned(),
        outcome,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn result(name: &str, outcome: Outcome) -> Option<Line> {
        Some(Line::Result {
            name: name.to_owned(),
            outcome,
        })
    }

    #[test]
    fn results_and_directives() {
        assert_eq!(parse("ok 1 fixmap"), result("fixmap", Outcome::Passed));
        assert_eq!(
            parse("ok 2 - fixmap edges"),
            result("fixmap edges", Outcome::Passed)
        );
        assert_eq!(parse("not ok 3 rodata"), result("rodata", Outcome::Failed));
        assert_eq!(
            parse("ok 4 bti # SKIP no BTI"),
            result("bti", Outcome::Skipped)
        );
        assert_eq!(parse("ok 5 bti # skip"), result("bti", Outcome::Skipped));
        assert_eq!(
            parse("not ok 6 lpa2 # TODO"),
            result("lpa2", Outcome::Skipped)
        );
        assert_eq!(parse("ok 7"), result("", Outcome::Passed));
        assert_eq!(parse("ok 8 a#b # 3 ns"), result("a#b", Outcome::Passed));
        assert_eq!(parse("1..40"), Some(Line::Plan(40)));
        assert_eq!(parse("1..0 # SKIP"), Some(Line::Plan(0)));
    }

    #[test]
    fn prose_is_not_a_result() {
        for line in [
            "ok",
            "ok then",
            "not ok",
            "okay 1",
            "ok 1st try",
            "    ok 1 subtest",
            "1..x",
            "KTAP version 1",
            "",
        ] {
            assert_eq!(parse(line), None, "{line:?}");
        }
    }

    #[test]
    fn a_tally_complains_about_failures_and_missing_results() {
        let mut tally = Tally::default();
        assert_eq!(tally.complaint(), None);
        tally.add(Line::Plan(2));
        tally.add(parse("ok 1 a").unwrap());
        assert_eq!(
            tally.complaint().unwrap(),
            "2 self-tests were announced, 1 reported"
        );
        tally.add(parse("ok 2 b # SKIP").unwrap());
        assert_eq!(tally.complaint(), None);
        tally.add(parse("not ok 3 c").unwrap());
        assert_eq!(
            tally.complaint().unwrap(),
            "1 of 3 self-tests failed, the first is c"
        );
        assert_eq!(
            tally.counts,
            Counts {
                passed: 1,
                failed: 1,
                skipped: 1
            }
        );
    }

    #[test]
    fn the_first_failure_is_explained() {
        let mut tally = Tally::default();
        for line in [
            "ok 1 a",
            "not ok 2 b",
            "# b: 3 of 4 (no more) (kernel/src/b.rs:12)",
            "not ok 3 c",
            "# c: later (kernel/src/c.rs:1)",
            "# b: no place",
        ] {
            if let Some(line) = parse(line) {
                tally.add(line);
            }
        }
        let reason = ("3 of 4 (no more)".into(), "kernel/src/b.rs".into(), 12);
        assert_eq!(tally.first_reason, Some(reason));
        assert_eq!(
            tally.complaint().unwrap(),
            "2 of 3 self-tests failed, the first is b: 3 of 4 (no more)"
        );
    }
}
