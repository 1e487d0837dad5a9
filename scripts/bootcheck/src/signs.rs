//! What a console line tells about the boot.
//!
//! The signs are those of this project's kernel and of Linux. Lines may carry a log prefix,
//! `[    0.001234] ` or Linux's `[    0.001234][    T1] `; the two result lines may not.

use crate::ktap;

/// What one line means.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Sign {
    /// `boot: PASS`, alone on its line.
    Pass,
    /// `boot: FAIL`, alone on its line.
    Fail,
    /// The device tree offers no way to power off: the boot ends parked.
    Parks,
    /// The kernel gave up: a panic or a BUG.
    Panic(Sighting),
    /// A CPU exception that nobody expected.
    Exception(Sighting),
    /// `  at FILE:LINE:COLUMN`, which follows a panic's message.
    Location {
        /// The source file.
        file: String,
        /// The line in it.
        line: u32,
    },
    /// The report of a panic is complete; nothing of use will follow.
    EndOfReport,
    /// The boot has reached a stage.
    Stage(Stage),
    /// A line of KTAP.
    Test(ktap::Line),
    /// What our kernel says that the boot before this one died of.
    PreviousBoot(String),
}

/// A failure as the console told it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Sighting {
    /// The message, without the words that announce it.
    pub message: String,
    /// The source file, where it was named.
    pub file: Option<String>,
    /// The line in that file.
    pub line: Option<u32>,
}

impl From<crate::blackbox::Panic> for Sighting {
    fn from(panic: crate::blackbox::Panic) -> Self {
        Self {
            message: panic.message,
            file: panic.file,
            line: panic.line,
        }
    }
}

/// A stage that the boot has reached.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct Stage {
    /// Its name.
    pub name: String,
    /// The guest's clock when it was reached, where the line carried it.
    pub ns: Option<u64>,
}

/// Reads one line (made safe, without its line ending).
#[must_use]
pub fn read(line: &str) -> Option<Sign> {
    match line {
        "boot: PASS" => return Some(Sign::Pass),
        "boot: FAIL" => return Some(Sign::Fail),
        "boot: no way to power off, parks after this" => return Some(Sign::Parks),
        _ => {}
    }
    let (ns, text) = strip_prefix(line);
    if let Some(message) = text.strip_prefix("Kernel panic - not syncing: ") {
        return Some(Sign::Panic(Sighting {
            message: message.to_owned(),
            ..Sighting::default()
        }));
    }
    if let Some(place) = text.strip_prefix("kernel BUG at ") {
        let (file, line) = split_location(place.trim_end_matches('!')).unzip();
        return Some(Sign::Panic(Sighting {
            message: text.to_owned(),
            file,
            line,
        }));
    }
    if is_exception(text) {
        return Some(Sign::Exception(Sighting {
            message: text.to_owned(),
            ..Sighting::default()
        }));
    }
    if text.starts_with("---[ end Kernel panic") {
        return Some(Sign::EndOfReport);
    }
    if let Some(place) = text.strip_prefix("  at ") {
        let (file, line) = split_location(place)?;
        return Some(Sign::Location { file, line });
    }
    // On entering a stage, and at the end of a line in the report of a failure.
    let stage = match text.strip_prefix("  ") {
        Some(report) => report.rsplit_once("in stage ").map(|(_, name)| name),
        None => text.strip_prefix("stage: "),
    };
    if let Some(name) = stage.map(str::trim).filter(|name| !name.contains(' ')) {
        let name = name.to_owned();
        return Some(Sign::Stage(Stage { name, ns }));
    }
    // A log line: its level, where it comes from, and the message.
    if let Some((_, death)) = text.split_once(": previous boot: ") {
        return Some(Sign::PreviousBoot(death.to_owned()));
    }
    ktap::parse(text).map(Sign::Test)
}

/// The announcement of an exception: ours, and Linux's for all but BUG(), which is a panic.
fn is_exception(text: &str) -> bool {
    text.starts_with("Unhandled exception")
        || text.starts_with("Unable to handle kernel")
        || (text.starts_with("Internal error: ") && !text.starts_with("Internal error: Oops - BUG"))
}

/// Splits `FILE:LINE` or `FILE:LINE:COLUMN`.
fn split_location(place: &str) -> Option<(String, u32)> {
    let (before, last) = place.trim().rsplit_once(':')?;
    let last = last.parse().ok()?;
    match before
        .rsplit_once(':')
        .map(|(file, line)| (file, line.parse()))
    {
        Some((file, Ok(line))) => Some((file.to_owned(), line)),
        _ => Some((before.to_owned(), last)),
    }
}

/// Takes the log prefix off a line; the time in it as nanoseconds.
fn strip_prefix(line: &str) -> (Option<u64>, &str) {
    let Some((stamp, mut rest)) = line.strip_prefix('[').and_then(|rest| rest.split_once(']'))
    else {
        return (None, line);
    };
    let Some(ns) = parse_stamp(stamp) else {
        return (None, line);
    };
    // CONFIG_PRINTK_CALLER: the thread or CPU that printed.
    if let Some((caller, after)) = rest.strip_prefix('[').and_then(|rest| rest.split_once(']'))
        && caller.trim_start().starts_with(['T', 'C'])
    {
        rest = after;
    }
    match rest.strip_prefix(' ') {
        Some(text) => (Some(ns), text),
        None => (None, line),
    }
}

/// `   12.345678` as nanoseconds.
fn parse_stamp(stamp: &str) -> Option<u64> {
    let (seconds, fraction) = stamp.trim_start().split_once('.')?;
    let is_number = |text: &str| !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit());
    if !is_number(seconds) || !is_number(fraction) || fraction.len() > 9 {
        return None;
    }
    let nanos: u64 = format!("{fraction:0<9}").parse().ok()?;
    seconds
        .parse::<u64>()
        .ok()?
        .checked_mul(1_000_000_000)?
        .checked_add(nanos)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn results_stand_alone() {
        assert_eq!(read("boot: PASS"), Some(Sign::Pass));
        assert_eq!(read("boot: FAIL"), Some(Sign::Fail));
        for line in [
            "boot: PASS ",
            " boot: PASS",
            "boot: PASSED",
            "[    0.000001] boot: PASS",
            "expect boot: PASS",
            "boot: PASS\\x1b[0m",
        ] {
            assert_eq!(read(line), None, "{line:?}");
        }
    }

    #[test]
    fn panics_and_bugs() {
        for prefix in [
            "",
            "[    0.001234] ",
            "[    0.001234][    T1] ",
            "[ 1234.5][   C0] ",
        ] {
            let line = format!("{prefix}Kernel panic - not syncing: no table");
            let Some(Sign::Panic(sighting)) = read(&line) else {
                panic!("{line:?}")
            };
            assert_eq!(sighting.message, "no table");
        }
        let Some(Sign::Panic(bug)) = read("kernel BUG at arch/arm64/mm/mmu.c:337!") else {
            panic!("not seen")
        };
        assert_eq!(bug.file.as_deref(), Some("arch/arm64/mm/mmu.c"));
        assert_eq!(bug.line, Some(337));
        assert_eq!(read("see: Kernel panic - not syncing: quoted"), None);
        assert_eq!(
            read("[ 0.5] ---[ end Kernel panic - not syncing: x ]---"),
            Some(Sign::EndOfReport)
        );
        assert_eq!(
            read("  at kernel/src/mm/fixmap.rs:12:34"),
            Some(Sign::Location {
                file: "kernel/src/mm/fixmap.rs".into(),
                line: 12
            })
        );
    }

    #[test]
    fn exceptions_of_ours_and_of_linux() {
        for line in [
            "Unhandled exception: data abort at 0x0",
            "[    0.1] Unable to handle kernel NULL pointer dereference at virtual address 0",
            "[    0.1] Internal error: Oops: 0000000096000004 [#1] SMP",
            "Internal error: synchronous external abort: 96000210 [#1]",
        ] {
            assert!(matches!(read(line), Some(Sign::Exception(_))), "{line:?}");
        }
        // BUG() traps too; the line before it has told of it as a panic.
        assert_eq!(
            read("Internal error: Oops - BUG: 00000000f2000800 [#1]"),
            None
        );
    }

    #[test]
    fn stages_carry_the_time_of_their_line() {
        let stage = |name: &str, ns| {
            Some(Sign::Stage(Stage {
                name: name.into(),
                ns,
            }))
        };
        assert_eq!(
            read("[    0.001234] stage: mmu_on"),
            stage("mmu_on", Some(1_234_000))
        );
        assert_eq!(
            read("[   12.000000005] stage: heap"),
            stage("heap", Some(12_000_000_005))
        );
        assert_eq!(read("stage: fdt"), stage("fdt", None));
        assert_eq!(read("  in stage fdt"), stage("fdt", None));
        assert_eq!(
            read("  sync vector 4 at EL1, in stage fdt"),
            stage("fdt", None)
        );
        assert_eq!(read("stage: of development"), None);
        assert_eq!(read("[99999999999999999999.1] stage: fdt"), None);
    }
}
