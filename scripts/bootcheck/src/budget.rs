//! `bootcheck budget`: what a boot costs, in instructions, and whether it has become more.
//!
//! Under `-icount shift=0,sleep=off` an instruction takes a nanosecond, and the same image boots
//! the same way to the instruction, on any host and any QEMU. With a clock of 1 GHz the kernel's
//! own marks of its stages count instructions. The device tree comes from a file, as each QEMU
//! makes a different one. What a stage may take depends on the compiler, so the budget has figures
//! for each.

use std::ffi::OsStr;
use std::path::Path;

use anyhow::{Context, ensure};
use memchr::memmem;
use toml::{Table, Value};

use crate::boot::boot;
use crate::cli::{BootArgs, BudgetArgs};
use crate::files::write_atomically;
use crate::report::Report;
use crate::verdict::Verdict;

/// What is measured: the name in the budget, and the command line.
const BOOTS: [(&str, &str); 2] = [
    ("linear=auto", "loglevel=4 linear=auto"),
    ("linear=page", "loglevel=4 linear=page"),
];

/// A core with a generic timer that ticks once in a nanosecond.
pub const CPU: &str = "cortex-a72,cntfrq=1000000000";

/// A stage may take so much more than its budget before it fails, in percent.
const TOLERANCE: u64 = 2;

const HEAD: &str = "\
# The instructions that each stage of a boot takes, by compiler and command line: exact, and the same on every
# host and QEMU. `make test` fails where one takes over 2 % more. `make bench` shows the figures of now, and
# `make bench-accept` writes them here, for the compiler that built the kernel.

";

/// The instructions of each stage, in order.
type Stages = Vec<(String, u64)>;

/// Runs the command; the exit status.
///
/// # Errors
/// The tester failed, or there is nothing to measure.
pub fn run(args: &BudgetArgs) -> anyhow::Result<u8> {
    let elf =
        std::fs::read(&args.elf).with_context(|| format!("cannot read {}", args.elf.display()))?;
    let compiler = compiler(&elf);
    let compiler = compiler.with_context(|| {
        let elf = args.elf.display();
        format!("{elf} does not say what compiled it: it has no debug information")
    })?;
    let mut measured = Vec::new();
    for (name, append) in BOOTS {
        measured.push((name, measure(args, append)?));
    }
    let mut budgets = read(&args.file)?;
    if args.accept {
        let boots = measured.iter().map(|(name, stages)| {
            let stages = stages.iter();
            let stages =
                stages.map(|(stage, count)| (stage.clone(), Value::Integer(*count as i64)));
            ((*name).to_owned(), Value::Table(stages.collect()))
        });
        budgets.insert(compiler.clone(), Value::Table(boots.collect()));
        let text = format!("{HEAD}{}", toml::to_string(&budgets)?);
        write_atomically(&args.file, text.as_bytes())?;
        println!("{} now has the figures of {compiler}", args.file.display());
        return Ok(0);
    }
    let budget = budgets.get(&compiler).and_then(Value::as_table);
    let mut excess = Vec::new();
    println!("instructions by stage, {compiler}");
    for (name, stages) in &measured {
        let budget = budget.and_then(|boots| boots.get(*name)?.as_table());
        excess.extend(compare(name, stages, budget));
    }
    if budget.is_none() {
        println!(
            "not judged: {} knows other compilers only",
            args.file.display()
        );
    }
    for line in &excess {
        eprintln!("bootcheck: {line}");
    }
    if !excess.is_empty() {
        eprintln!("bootcheck: `make bench-accept` accepts it, if it is on purpose");
    }
    Ok(u8::from(!excess.is_empty()))
}

/// Prints the figures of one boot beside its budget; what exceeds it.
fn compare(name: &str, stages: &Stages, budget: Option<&Table>) -> Vec<String> {
    let mut excess = Vec::new();
    println!("\n{name:<16} {:>12} {:>12}", "now", "budget");
    for (stage, count) in stages {
        let allowed = budget
            .and_then(|budget| budget.get(stage))
            .and_then(Value::as_integer)
            .and_then(|allowed| u64::try_from(allowed).ok());
        let Some(allowed) = allowed else {
            println!("  {stage:<14} {count:>12}");
            continue;
        };
        let change = 100.0 * (*count as f64 / allowed.max(1) as f64 - 1.0);
        println!("  {stage:<14} {count:>12} {allowed:>12} {change:>+8.1} %");
        if count * 100 > allowed * (100 + TOLERANCE) {
            excess.push(format!(
                "{name}: stage {stage} takes {count} instructions, {change:.1} % more than the \
                 {allowed} of its budget"
            ));
        }
    }
    let total: u64 = stages.iter().map(|(_, count)| count).sum();
    println!("  {:<14} {total:>12}", "all");
    excess
}

/// Boots twice; what each stage took, which must be the same.
fn measure(args: &BudgetArgs, append: &str) -> anyhow::Result<Stages> {
    let first = boot_once(args, append)?;
    let second = boot_once(args, append)?;
    ensure!(
        first == second,
        "two boots of the same image differ: {first:?} and {second:?}"
    );
    Ok(first)
}

fn boot_once(args: &BudgetArgs, append: &str) -> anyhow::Result<Stages> {
    let options: [&OsStr; 13] = [
        "--icount".as_ref(),
        "--cpu".as_ref(),
        CPU.as_ref(),
        "--append".as_ref(),
        append.as_ref(),
        "--image".as_ref(),
        args.image.as_ref(),
        "--elf".as_ref(),
        args.elf.as_ref(),
        "--dtb".as_ref(),
        args.dtb.as_ref(),
        "--qemu".as_ref(),
        args.qemu.as_ref(),
    ];
    let boot_args = BootArgs::from_options(options)?;
    let plan = boot_args.plan().map_err(anyhow::Error::msg)?;
    let report = Report::new(&boot(&plan, &mut |_| {})?, None);
    ensure!(
        report.verdict == Verdict::Pass,
        "{} came to {}{}",
        args.image.display(),
        report.verdict,
        report.summary()
    );
    let counts: Option<Stages> = report
        .stages
        .windows(2)
        .map(|pair| Some((pair[0].name.clone(), pair[1].ns?.checked_sub(pair[0].ns?)?)))
        .collect();
    let counts = counts.filter(|counts| !counts.is_empty());
    counts.context("the kernel does not mark its stages with its clock")
}

fn read(path: &Path) -> anyhow::Result<Table> {
    let shown = path.display();
    match std::fs::read_to_string(path) {
        Ok(text) => toml::from_str(&text).with_context(|| format!("in {shown}")),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(Table::new()),
        Err(error) => Err(error).with_context(|| format!("cannot read {shown}")),
    }
}

/// `rustc 1.95.0 (59807616e 2026-04-14)`, as debug information names its producer.
fn compiler(elf: &[u8]) -> Option<String> {
    let start = memmem::find(elf, b"(rustc version ")?;
    let text = &elf[start..elf.len().min(start + 200)];
    let end = memchr::memchr(0, text)?;
    let text = std::str::from_utf8(&text[..end]).ok()?;
    let version = text.strip_prefix("(rustc version ")?.strip_suffix(')')?;
    Some(format!("rustc {version}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_compiler_is_who_made_the_debug_information() {
        let elf = b"\0x\0clang LLVM (rustc version 1.95.0 (59807616e 2026-04-14))\0kernel";
        assert_eq!(
            compiler(elf).as_deref(),
            Some("rustc 1.95.0 (59807616e 2026-04-14)")
        );
        assert_eq!(compiler(b"GNU C17\0"), None);
    }

    #[test]
    fn more_than_two_percent_more_is_too_much() {
        let budget: Table = toml::from_str("fdt = 1000\nheap = 100").unwrap();
        let excess = |fdt, heap| {
            let stages = vec![("fdt".to_owned(), fdt), ("heap".to_owned(), heap)];
            compare("linear=auto", &stages, Some(&budget))
        };
        assert_eq!(excess(1020, 50), [""; 0]);
        assert_eq!(
            excess(1021, 100),
            [
                "linear=auto: stage fdt takes 1021 instructions, 2.1 % more than the 1000 of its budget"
            ]
        );
        assert_eq!(excess(2000, 200).len(), 2);
        let unknown = vec![("new".to_owned(), 5)];
        assert_eq!(compare("linear=auto", &unknown, Some(&budget)), [""; 0]);
        assert_eq!(compare("linear=auto", &unknown, None), [""; 0]);
    }
}
