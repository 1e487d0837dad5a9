//! Where a bad boot leaves the way of a good one: the functions that each executes, in the order in
//! which it first does.
//!
//! QEMU logs each block of instructions when it is first translated (`-d in_asm`), which is when it
//! is first executed; the guest has no say in it.

use std::collections::HashSet;
use std::fs::File;
use std::io::{BufRead, BufReader};
use std::path::Path;

use serde::Serialize;

use super::lab::Lab;
use crate::boot::boot;
use crate::symbols::{Meaning, Positions, Symbols, names};

/// As much of the log as is read: far more than a boot of a mini-kernel.
const MOST_BYTES: u64 = 64 << 20;

/// Where two boots part.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct FirstDifference {
    /// The function that both have executed last.
    pub after: Option<String>,
    /// What the good boot executes next that is new to it.
    pub good: Option<String>,
    /// What the bad boot executes next.
    pub bad: Option<String>,
}

impl FirstDifference {
    /// `after map_fdt, good: switch_mm, bad: panic_fmt`
    #[must_use]
    pub fn shown(&self) -> String {
        let name = |function: &Option<String>| function.clone().unwrap_or("nothing new".into());
        let after = self.after.as_deref().unwrap_or("the start");
        format!(
            "after {after}, good: {}, bad: {}",
            name(&self.good),
            name(&self.bad)
        )
    }
}

/// Boots both images once more and compares; nothing where QEMU or the ELF cannot tell.
///
/// # Errors
/// Interrupted.
pub fn find(lab: &Lab, good: &str, bad: &str) -> anyhow::Result<Option<FirstDifference>> {
    let Some(good) = functions(lab, good)? else {
        return Ok(None);
    };
    let Some(bad) = functions(lab, bad)? else {
        return Ok(None);
    };
    Ok(compare(&good, &bad))
}

fn compare(good: &[String], bad: &[String]) -> Option<FirstDifference> {
    let same = good
        .iter()
        .zip(bad)
        .take_while(|(good, bad)| good == bad)
        .count();
    let difference = FirstDifference {
        after: same.checked_sub(1).map(|last| good[last].clone()),
        good: good.get(same).cloned(),
        bad: bad.get(same).cloned(),
    };
    (difference.good != difference.bad).then_some(difference)
}

/// The functions that an image executes, in order of their first instruction.
fn functions(lab: &Lab, key: &str) -> anyhow::Result<Option<Vec<String>>> {
    let Some(source) = lab.source(key) else {
        return Ok(None);
    };
    let Ok(symbols) = source.get() else {
        return Ok(None);
    };
    let Ok(mut plan) = lab.boot_args(key).plan() else {
        return Ok(None);
    };
    if !plan.has_exception_log() {
        return Ok(None);
    }
    let directory = tempfile::tempdir()?;
    let log = directory.path().join("log");
    for word in ["-d", "in_asm", "-D", &log.to_string_lossy()] {
        plan.qemu_args.push(word.to_owned());
    }
    boot(&plan, &mut |_| {})?;
    Ok(read(&log, symbols))
}

fn read(log: &Path, symbols: &Symbols) -> Option<Vec<String>> {
    let log = BufReader::new(File::open(log).ok()?);
    let mut positions = Positions::of(symbols);
    let mut seen = HashSet::new();
    let mut order = Vec::new();
    let mut blocks = 0;
    let mut begins = false;
    for line in std::io::Read::take(log, MOST_BYTES).split(b'\n') {
        let line = line.ok()?;
        let line = String::from_utf8_lossy(&line);
        if line.starts_with("IN:") {
            blocks += 1;
            begins = true;
            continue;
        }
        let Some(address) = line
            .strip_prefix("0x")
            .and_then(|rest| rest.split_once(':'))
        else {
            continue;
        };
        if !std::mem::take(&mut begins) {
            continue;
        }
        let Ok(address) = u64::from_str_radix(address.0, 16) else {
            continue;
        };
        // QEMU's own boot code is the first block; it enters the image by its first byte.
        if blocks == 2 {
            positions.add(address);
        }
        let Some(linked) = positions.as_linked(symbols, address) else {
            continue;
        };
        let place = symbols.resolve(linked, Meaning::Executing);
        if let Some(function) = place.symbol
            && seen.insert(names::plain(&function))
        {
            order.push(names::plain(&function));
        }
    }
    Some(order)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn compared(good: &str, bad: &str) -> Option<String> {
        let list = |names: &str| {
            names
                .split_whitespace()
                .map(str::to_owned)
                .collect::<Vec<_>>()
        };
        compare(&list(good), &list(bad)).map(|difference| difference.shown())
    }

    #[test]
    fn the_first_function_that_differs_is_named() {
        assert_eq!(
            compared("head early map uart", "head early panic").unwrap(),
            "after early, good: map, bad: panic"
        );
        assert_eq!(
            compared("head early map", "head early").unwrap(),
            "after early, good: map, bad: nothing new"
        );
        assert_eq!(
            compared("a", "b").unwrap(),
            "after the start, good: a, bad: b"
        );
        assert_eq!(compared("a b", "a b"), None);
    }
}
