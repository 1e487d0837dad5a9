//! Where a bad boot leaves the way of a good one: the functions that each executes, in the order in
//! which it first does.
//!
//! QEMU logs each block of instructions when it is first translated (`-d in_asm`), which is when it
//! is first executed; the guest has no say in it. What the compiler has inlined, and so where blocks
//! begin, differs between two builds: what counts is a function in which a block of one boot begins,
//! and of which the other executes no instruction at all.

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

/// The functions of the source that a boot executes.
#[derive(Debug, Default)]
struct Executed {
    /// Those in which a block begins, in the order of their first one.
    begun: Vec<String>,
    /// Those of any instruction.
    all: HashSet<String>,
}

fn compare(good: &Executed, bad: &Executed) -> Option<FirstDifference> {
    let is_new = |name: &&String| !good.all.contains(*name);
    let parting = bad.begun.iter().position(|name| is_new(&name));
    let common = &bad.begun[..parting.unwrap_or(bad.begun.len())];
    let place = |name: &String| good.begun.iter().position(|other| other == name);
    let after = common.iter().rev().find(|name| place(name).is_some());
    let rest = &good.begun[after.and_then(place).map_or(0, |from| from + 1)..];
    let difference = FirstDifference {
        after: after.cloned(),
        good: rest.iter().find(|name| !bad.all.contains(*name)).cloned(),
        bad: bad.begun.iter().find(is_new).cloned(),
    };
    (difference.good.is_some() || difference.bad.is_some()).then_some(difference)
}

fn functions(lab: &Lab, key: &str) -> anyhow::Result<Option<Executed>> {
    let Ok(mut plan) = lab.boot_args(key).plan() else {
        return Ok(None);
    };
    let source = plan.source.clone();
    let Some(Ok(symbols)) = source.as_ref().map(|source| source.get()) else {
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

fn read(log: &Path, symbols: &Symbols) -> Option<Executed> {
    let log = BufReader::new(File::open(log).ok()?);
    let mut positions = Positions::of(symbols);
    let mut executed = Executed::default();
    let mut begun = HashSet::new();
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
        let begins = std::mem::take(&mut begins);
        let Ok(address) = u64::from_str_radix(address.0, 16) else {
            continue;
        };
        // QEMU's own boot code is the first block; it enters the image by its first byte.
        if begins && blocks == 2 {
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
            executed.all.insert(function.clone());
            if begins && begun.insert(function.clone()) {
                executed.begun.push(function);
            }
        }
    }
    Some(executed)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn compared(good: &str, bad: &str) -> Option<String> {
        // In parentheses: inlined, and no block begins in it.
        let executed = |names: &str| {
            let mut executed = Executed::default();
            for name in names.split_whitespace() {
                let inlined = name.trim_matches(['(', ')']);
                executed.all.insert(inlined.to_owned());
                if inlined == name {
                    executed.begun.push(name.to_owned());
                }
            }
            executed
        };
        compare(&executed(good), &executed(bad)).map(|difference| difference.shown())
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

    #[test]
    fn where_a_block_begins_is_no_difference() {
        assert_eq!(
            compared("head (span) map uart", "head span map panic").unwrap(),
            "after map the good boot goes on to uart, the bad one to panic"
        );
        assert_eq!(
            compared("head map (span) uart", "head map span panic").unwrap(),
            "after map the good boot goes on to uart, the bad one to panic",
            "what both begin is what both know"
        );
    }
}
