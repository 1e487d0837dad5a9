//! `bootcheck bench`: what a boot costs over QEMU's own start.
//!
//! The same code starts the kernel and a guest that only powers itself off, in turn and in
//! changing order, so that both halves of a pair see the same host. Each pair gives one ratio; the
//! median of the ratios stands still where the times themselves drift with the load.
//!
//! With `--icount` the instructions of both are counted instead: exactly, or of a guest that is
//! stopped at the line it was to print, up to where it stood then.

use std::path::Path;

use anyhow::{Context, ensure};

use crate::boot::boot;
use crate::cli::BenchArgs;
use crate::guest::Guest;
use crate::image;
use crate::plan::Plan;
use crate::verdict::{Rule, Verdict};

/// What the other guest took, and the kernel.
type Pair = (f64, f64);

/// Runs the command; the exit status.
///
/// # Errors
/// The tester failed, or there is nothing to measure.
pub fn run(args: &BenchArgs) -> anyhow::Result<u8> {
    let kernel = args.guest.plan().map_err(anyhow::Error::msg)?;
    let directory = tempfile::tempdir().context("cannot make a directory for the other guest")?;
    let floor = floor_plan(&kernel, directory.path())?;

    // The first boot of each reads QEMU and the image from disk.
    for plan in [&floor, &kernel] {
        measure(plan)?;
    }
    let mut pairs = Vec::new();
    for number in 0..args.pairs {
        let pair = if number.is_multiple_of(2) {
            let first = measure(&floor)?;
            (first, measure(&kernel)?)
        } else {
            let first = measure(&kernel)?;
            (measure(&floor)?, first)
        };
        pairs.push(pair);
    }
    print(&kernel, &pairs);
    Ok(0)
}

/// The same boot with another guest: one that only powers itself off.
fn floor_plan(kernel: &Plan, directory: &Path) -> anyhow::Result<Plan> {
    let path = directory.join("power-off");
    std::fs::write(&path, Guest::default().power_off().image())?;
    Ok(Plan {
        image: image::inspect(&path).map_err(anyhow::Error::msg)?,
        path,
        // Neither is examined afterwards: what is measured are two good boots.
        rule: Rule::Exit,
        ..kernel.clone()
    })
}

/// Boots once; milliseconds from QEMU's start to its end, or instructions in thousands.
fn measure(plan: &Plan) -> anyhow::Result<f64> {
    let outcome = boot(plan, &mut |_| {})?;
    let judgement = &outcome.judgement;
    let path = plan.path.display();
    ensure!(
        judgement.verdict == Verdict::Pass,
        "{path} came to {}: {}",
        judgement.verdict,
        judgement.message.as_deref().unwrap_or_default()
    );
    if plan.icount {
        let count = outcome.instructions.or(outcome.instructions_when_stopped);
        return Ok(count.context("QEMU counted no instructions")? as f64 / 1e3);
    }
    let wall = outcome.wall.context("the boot has no time")?;
    Ok(wall.as_secs_f64() * 1e3)
}

fn print(kernel: &Plan, pairs: &[Pair]) {
    let machine = [
        Some(kernel.machine.clone()),
        kernel.cpu.clone(),
        kernel.mem.map(|m| m.to_string()),
    ];
    let machine: Vec<String> = machine.into_iter().flatten().collect();
    let (what, unit) = match kernel.icount {
        true => ("thousands of instructions", "K "),
        false => ("QEMU's start to its end", "ms"),
    };
    println!("{} pairs on {}, {what}", pairs.len(), machine.join(" "));
    println!("                        median    middle half");
    let row = |name: &str, value: fn(&Pair) -> f64| {
        let Spread { low, median, high } = Spread::of(pairs.iter().map(value));
        println!("  {name:<16}  {median:>7.1} {unit}   {low:.1} .. {high:.1}");
    };
    row("power-off only", |(floor, _)| *floor);
    row(&name(kernel), |(_, boot)| *boot);
    row("difference", |(floor, boot)| boot - floor);
    if !kernel.icount {
        let ratios = pairs.iter().map(|(floor, boot)| boot / floor);
        let Spread { low, median, high } = Spread::of(ratios);
        println!("  ratio             {median:>7.3}      {low:.3} .. {high:.3}");
    }
}

fn name(plan: &Plan) -> String {
    plan.path
        .file_name()
        .unwrap_or_default()
        .to_string_lossy()
        .into_owned()
}

/// Median and quartiles.
#[derive(Debug, PartialEq)]
struct Spread {
    low: f64,
    median: f64,
    high: f64,
}

impl Spread {
    fn of(values: impl Iterator<Item = f64>) -> Self {
        let mut values: Vec<f64> = values.collect();
        values.sort_by(f64::total_cmp);
        let at = |share: f64| {
            let position = share * (values.len() - 1) as f64;
            let (below, above) = (
                values[position.floor() as usize],
                values[position.ceil() as usize],
            );
            below + (above - below) * position.fract()
        };
        Self {
            low: at(0.25),
            median: at(0.5),
            high: at(0.75),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_spread_is_the_middle_half() {
        let spread = Spread::of([5.0, 1.0, 3.0, 2.0, 4.0].into_iter());
        assert_eq!(
            spread,
            Spread {
                low: 2.0,
                median: 3.0,
                high: 4.0
            }
        );
        let spread = Spread::of([1.0, 2.0].into_iter());
        assert_eq!(spread.median, 1.5);
    }
}
