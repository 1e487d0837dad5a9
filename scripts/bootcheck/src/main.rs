//! The program: reads the command line, runs one command, and turns what came of it into an exit
//! status that `git bisect run` understands.

use std::process::ExitCode;

use bootcheck::cli::{Cli, Command};
use bootcheck::interrupt::{self, Interrupted};
use bootcheck::{bench, bisect, budget, decode, flatten, inject, layout, matrix, run};
use clap::Parser;

/// The tester failed, not the guest: `git bisect run` stops.
const TROUBLE: u8 = 129;
/// Ctrl-C or SIGTERM.
const INTERRUPTED: u8 = 130;

fn main() -> ExitCode {
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(error) => {
            let _ = error.print();
            // --help and --version come this way too.
            let status = if error.use_stderr() { TROUBLE } else { 0 };
            return ExitCode::from(status);
        }
    };
    // A panic here would exit with 101, which a bisection takes for a bad revision.
    let result = std::panic::catch_unwind(|| execute(&cli));
    let status = match result {
        Ok(Ok(status)) => status,
        Ok(Err(error)) if error.is::<Interrupted>() => INTERRUPTED,
        Ok(Err(error)) => {
            eprintln!("bootcheck: {error:#}");
            TROUBLE
        }
        Err(_) => TROUBLE,
    };
    ExitCode::from(status)
}

fn execute(cli: &Cli) -> anyhow::Result<u8> {
    interrupt::listen()?;
    match &cli.command {
        Command::Boot(args) => run::run(args),
        Command::Bisect(args) => bisect::run(args),
        Command::Matrix(args) => matrix::run(args),
        Command::Merge(args) => matrix::merge::run(args),
        Command::Bench(args) => bench::run(args),
        Command::Budget(args) => budget::run(args),
        Command::Decode(args) => decode::run(args),
        Command::Inject(args) => inject::run(args),
        Command::Layout(args) => layout::run(args),
        Command::Image(args) => flatten::run(args),
    }
}
