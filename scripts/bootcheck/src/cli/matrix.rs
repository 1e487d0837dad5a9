//! The options of `bootcheck matrix` and `bootcheck merge`.

use std::path::PathBuf;

use clap::Args;

use super::default_qemu;
use crate::matrix::shard::Shard;

pub(super) const HELP: &str = "\
Examples:
  bootcheck matrix --config scripts/smoke.toml --out target/smoke
  bootcheck matrix --filter 'cpu/*' --markdown
  bootcheck matrix --qemu qemu-system-aarch64 --qemu /opt/qemu10/qemu     on both
  bootcheck matrix --repeat 100 --filter 'smp/*'     does it always pass?
  bootcheck matrix --shard 2/4 --out part2           on the second of four machines;
  bootcheck merge part1 part2 part3 part4            and then, with the results of all
  bootcheck matrix --list --json | jq '.cells | length'

It writes results.json, junit.xml and report.html. A cell that comes to what it expects only at
times is flaky, and fails the run.

Exit status: 0 every cell came to what it expects, 1 not, 129 usage error, nothing to boot, or
QEMU, the host or the tester failed, 130 interrupted (what there is by then is written).";

pub(super) const MERGE_HELP: &str = "\
Exit status: 0 every cell came to what it expects, 1 not, 129 usage error, or a part is missing or of
another run.";

/// `bootcheck matrix`
#[derive(Debug, Clone, Args)]
pub struct MatrixArgs {
    /// The list of cells
    #[arg(long, value_name = "FILE", default_value = "scripts/matrix.toml")]
    pub config: PathBuf,
    /// Only cells whose name matches
    #[arg(long, value_name = "GLOB")]
    pub filter: Option<String>,
    /// Boots at a time [default: one per host CPU]
    #[arg(long, value_name = "N")]
    pub jobs: Option<std::num::NonZero<usize>>,
    /// Only this part of the cells, as 1/4; `bootcheck merge` joins the results
    #[arg(long, value_name = "I/N")]
    pub shard: Option<Shard>,
    /// Boot each cell so many times
    #[arg(long, value_name = "N", default_value_t = 1,
          value_parser = clap::value_parser!(u32).range(1..))]
    pub repeat: u32,
    /// Begin no boot after the first bad one
    #[arg(long)]
    pub fail_fast: bool,
    /// Fail if a cell had to be skipped because this QEMU or host cannot have it
    #[arg(long)]
    pub no_skip: bool,
    /// Directory for results.json, junit.xml and report.html [default: target/NAME-OF-CONFIG]
    #[arg(long, value_name = "DIR")]
    pub out: Option<PathBuf>,
    /// Only list the cells
    #[arg(long)]
    pub list: bool,
    /// With --list: as JSON, for programs
    #[arg(long, requires = "list")]
    pub json: bool,
    /// Print a Markdown table of the results on standard output
    #[arg(long)]
    pub markdown: bool,
    /// Print the results as KTAP on standard output
    #[arg(long, conflicts_with_all = ["markdown", "list"])]
    pub ktap: bool,
    /// A QEMU to boot on; repeated, every cell boots on each
    #[arg(long, value_name = "BIN", default_values_os_t = [default_qemu()])]
    pub qemu: Vec<PathBuf>,
}

/// `bootcheck merge`
#[derive(Debug, Clone, Args)]
pub struct MergeArgs {
    /// The results.json of every part, or the directories that they are in
    #[arg(required = true, value_name = "RESULTS")]
    pub results: Vec<PathBuf>,
    /// Join them also if the bytes of a kernel, or of the matrix file, are not the same in all
    #[arg(long)]
    pub mixed: bool,
    /// Directory for the results.json, junit.xml and report.html of the whole
    #[arg(long, value_name = "DIR", default_value = "target/merged")]
    pub out: PathBuf,
}
