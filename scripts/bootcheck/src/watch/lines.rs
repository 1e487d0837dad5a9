//! What a guest prints, line by line, as facts.

use super::{Settling, Watch};
use crate::signs::{self, Sighting, Sign};
use crate::verdict::Rule;

impl Watch<'_> {
    /// Takes in what the guest printed.
    pub(super) fn take(&mut self, bytes: &[u8], on_console: &mut dyn FnMut(&[u8])) {
        on_console(bytes);
        self.last_console = Some(self.started.elapsed());
        let mut console = std::mem::take(&mut self.console);
        console.push(bytes, |line| self.line(line));
        self.console = console;
    }

    /// Takes in one whole line.
    fn line(&mut self, line: &str) {
        if self.has_matched() {
            // Passed at that line; how much more was printed until QEMU stood still is chance.
            return;
        }
        self.match_patterns(line);
        if !line.trim().is_empty() {
            self.facts.pass_is_last = false;
        }
        let wants_location = std::mem::take(&mut self.wants_location);
        match signs::read(line) {
            Some(Sign::Pass) if self.plan.rule == Rule::LastLine => {
                self.facts.said_pass = true;
                self.facts.pass_is_last = true;
            }
            Some(Sign::Fail) if self.plan.rule == Rule::LastLine => self.facts.said_fail = true,
            Some(Sign::Parks) => self.said_parks = true,
            Some(Sign::Panic(sighting)) => self.panic(sighting),
            Some(Sign::Exception(sighting)) => {
                self.facts.exception.get_or_insert(sighting);
            }
            Some(Sign::Location { file, line }) if wants_location => {
                if let Some(panic) = &mut self.facts.panic {
                    panic.file = Some(file);
                    panic.line = Some(line);
                }
            }
            Some(Sign::EndOfReport) => self.report_is_complete = self.facts.panic.is_some(),
            // The report of a failure repeats the stage that it failed in.
            Some(Sign::Stage(stage))
                if self
                    .stages
                    .last()
                    .is_none_or(|last| last.name != stage.name) =>
            {
                self.stages.push(stage);
            }
            Some(Sign::Test(test)) => self.facts.tests.add(test),
            Some(Sign::PreviousBoot(death)) => self.previous_boot = Some(death),
            _ => {}
        }
    }

    /// Holds a line against `--pass-regex` and `--fail-regex`.
    fn match_patterns(&mut self, line: &str) {
        let matches =
            |regex: &Option<regex::Regex>| regex.as_ref().is_some_and(|regex| regex.is_match(line));
        if matches(&self.plan.fail_regex) {
            self.facts.fail_match.get_or_insert_with(|| line.to_owned());
        }
        if matches(&self.plan.pass_regex) {
            self.facts.said_pass = true;
        }
    }

    /// Takes what was begun for a line: whoever waits for an answer does not end it.
    pub(super) fn prompt(&mut self) {
        let line = self.console.unfinished();
        if !line.is_empty() && !self.has_matched() {
            self.match_patterns(&line);
        }
    }

    fn panic(&mut self, sighting: Sighting) {
        if self.facts.panic.is_none() {
            self.wants_location = sighting.file.is_none();
            self.facts.panic = Some(sighting);
        }
    }

    /// Whether `--pass-regex` has matched and nothing more is asked for.
    pub(super) fn has_matched(&self) -> bool {
        self.plan.rule == Rule::Match && self.facts.said_pass
    }

    pub(super) fn settling(&self) -> Option<Settling> {
        let facts = &self.facts;
        let has_failed = facts.said_fail
            || facts.panic.is_some()
            || facts.exception.is_some()
            || facts.fail_match.is_some();
        if has_failed {
            Some(Settling::Failing)
        } else if facts.pass_is_last && (self.plan.parks_at_end() || self.said_parks) {
            Some(Settling::Parking)
        } else {
            None
        }
    }
}
