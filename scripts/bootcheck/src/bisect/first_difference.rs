//! Where a bad boot leaves the way of a good one: the functions that each executes, in the order in
//! which it first does.
//!
//! QEMU logs each block of instructions when it is first translated (`-d in_asm`), which is when it
//! is first executed; the guest has no say in it. What the compiler has inlined differs between two
//! builds, so what counts is which functions of the source a boot executes at all.

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
    /// What the bad boot executed last that the good one executes as well.
    pub after: Option<String>,
    /// What the good boot executes after that and the bad one never does.
    pub good: Option<String>,
    /// What the bad boot executes after that and the good one never does.
    pub bad: Option<String>,
}

impl FirstDifference {
    /// `after map_fdt the good boot goes on to map_console, the bad one to panic_fmt`
    #[must_use]
    pub fn shown(&self) -> String {
        let name = |function: &Option<String>| function.clone().unwrap_or("nothing new".into());
        let after = self.after.as_deref().unwrap_or("the start");
        let (good, bad) = (name(&self.good), name(&self.bad));
        format!("after {after} the good boot goes on to {good}, the bad one to {bad}")
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
    let (good_set, bad_set): (HashSet<_>, HashSet<_>) =
        (good.iter().collect(), bad.iter().collect());
    let parting = bad.iter().position(|name| !good_set.contains(name));
    let after = parting
        .unwrap_or(bad.len())
        .checked_sub(1)
        .map(|last| &bad[last]);
    let from = after.and_then(|after| good.iter().position(|name| name == after));
    let rest = &good[from.map_or(0, |from| from + 1)..];
    let difference = FirstDifference {
        after: after.cloned(),
        good: rest.iter().find(|name| !bad_set.contains(name)).cloned(),
        bad: parting.map(|at| bad[at].clone()),
    };
    (difference.good.is_some() || difference.bad.is_some()).then_some(difference)
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
        // Callers first; without lines, the linker's name alone.
        let calls = place
            .calls
            .into_iter()
            .rev()
            .filter_map(|call| call.function);
        for function in place.symbol.into_iter().chain(calls) {
            let function = names::plain(&function);
            if seen.insert(function.clone()) {
                order.push(function);
            }
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
            "after early the good boot goes on to map, the bad one to panic"
        );
        assert_eq!(
            compared("head early map", "head early").unwrap(),
            "after early the good boot goes on to map, the bad one to nothing new"
        );
        assert_eq!(
            compared("head read token map", "head token read panic").unwrap(),
            "after read the good boot goes on to map, the bad one to panic",
            "another order alone is no difference"
        );
        assert_eq!(compared("a b", "a b"), None);
    }
}
