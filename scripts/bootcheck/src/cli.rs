//! The command line.

use std::path::PathBuf;

use clap::{Args, Parser, Subcommand};

use crate::bisect::options::{self, BisectArgs};

mod boot;
mod matrix;
mod planning;

use boot::default_qemu;
pub(crate) use boot::seconds;
pub use boot::{BootArgs, GuestArgs};
pub use matrix::{MatrixArgs, MergeArgs};

/// Where `make image` puts the kernel.
pub const DEFAULT_IMAGE: &str = "target/kernel/Image";

/// The ELF beside it.
pub const DEFAULT_ELF: &str = "target/kernel/kernel.elf";

/// Boots one aarch64 image under QEMU and says what happened.
#[derive(Debug, Parser)]
#[command(version, max_term_width = 100, disable_help_subcommand = true)]
pub struct Cli {
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
}

/// What to do.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Boot one image and judge it
    #[command(after_help = boot::HELP)]
    Boot(Box<BootArgs>),
    /// Find the commit that broke the boot
    #[command(after_help = options::HELP)]
    Bisect(Box<BisectArgs>),
    /// Boot on many machines in parallel
    #[command(after_help = matrix::HELP)]
    Matrix(MatrixArgs),
    /// Join the results of `bootcheck matrix --shard`
    #[command(after_help = matrix::MERGE_HELP)]
    Merge(MergeArgs),
    /// Compare the kernel's boot with a guest that only powers itself off
    #[command(after_help = BENCH_HELP)]
    Bench(Box<BenchArgs>),
    /// Count the instructions of each stage of a boot, and compare with the budget
    #[command(after_help = BUDGET_HELP)]
    Budget(BudgetArgs),
    /// Break one instruction after the other and see whether the verdict names it
    #[command(after_help = INJECT_HELP)]
    Inject(Box<InjectArgs>),
    /// Add functions and source lines to the addresses in a console log
    #[command(after_help = DECODE_HELP)]
    Decode(DecodeArgs),
    /// What is in an image, how large, where, and with which permissions
    #[command(after_help = LAYOUT_HELP)]
    Layout(LayoutArgs),
    /// Make the raw Image out of the kernel's ELF, and check both
    #[command(after_help = IMAGE_HELP)]
    Image(ImageArgs),
}

const BENCH_HELP: &str = "\
Exit status: 0, 129 usage error, or a boot did not pass, 130 interrupted.";

const IMAGE_HELP: &str = "\
Exit status: 0, 129 if the ELF is none that could boot, or a file cannot be read or written.";

const BUDGET_HELP: &str = "\
Exit status: 0 no stage takes over 2 % more than the file says for this compiler (or it says nothing
of this compiler), 1 one does, 129 usage error, or the kernel did not boot, 130 interrupted.";

const INJECT_HELP: &str = "\
A good boot tells which instructions execute before the first exception (QEMU's own log; the kernel
is not asked). In a copy of the image each one in turn becomes an undefined instruction, and a branch
to itself; the verdict must be `exception`, and `hang`, with exactly that instruction as the place.

Where the image, booted as it is, fails (--append fault=EXCEPTION), what executes after its first
exception is broken instead, and each verdict must still name the original failure.

Examples:
  bootcheck inject                                   everything
  bootcheck inject --symbols 'kernel::boot::*' --kind udf
  bootcheck inject --range primary_entry..relocate_image
  bootcheck inject --sample 100 --seed $(git rev-parse HEAD)

Exit status: 0 all as it must be, 1 not, 129 usage error, or nothing could be tried, 130 interrupted.";

const DECODE_HELP: &str = "\
Examples:
  bootcheck decode < console.log
  bootcheck decode --elf vmlinux dmesg.txt
  picocom -q /dev/ttyUSB0 | bootcheck decode         live, line by line

Exit status: 0, 129 if the log or the ELF cannot be read, 130 interrupted.";

const LAYOUT_HELP: &str = "\
Examples:
  bootcheck layout
  bootcheck layout --image vmlinuz                   what the header says
  bootcheck layout --json - | jq .elf.totals         sizes, to be tracked

Exit status: 0, 129 if a file cannot be read or is no image, or the image is not of this ELF,
130 interrupted.";

/// `bootcheck bench`
#[derive(Debug, Clone, Args)]
pub struct BenchArgs {
    /// Pairs of boots, in turn
    #[arg(long, value_name = "N", default_value_t = 21,
          value_parser = clap::value_parser!(u32).range(1..))]
    pub pairs: u32,
    /// The kernel and its machine.
    #[command(flatten)]
    pub guest: GuestArgs,
}

/// `bootcheck budget`
#[derive(Debug, Clone, Args)]
pub struct BudgetArgs {
    /// The figures of each compiler
    #[arg(long, value_name = "FILE", default_value = "scripts/budget.toml")]
    pub file: PathBuf,
    /// Write what is measured into that file, instead of comparing
    #[arg(long)]
    pub accept: bool,
    /// The kernel
    #[arg(long, value_name = "FILE", default_value = DEFAULT_IMAGE)]
    pub image: PathBuf,
    /// Its ELF, which says what compiled it
    #[arg(long, value_name = "FILE", default_value = DEFAULT_ELF)]
    pub elf: PathBuf,
    /// The device tree, so that all QEMUs give the same
    #[arg(
        long,
        value_name = "FILE",
        default_value = "kernel/src/platform/fdt/virt.dtb"
    )]
    pub dtb: PathBuf,
    /// The QEMU to start; the variable QEMU may name another default
    #[arg(long, value_name = "BIN", default_value_os_t = default_qemu())]
    pub qemu: PathBuf,
}

/// `bootcheck inject`
#[derive(Debug, Clone, Args)]
pub struct InjectArgs {
    /// The image, and how it boots.
    #[command(flatten)]
    pub guest: GuestArgs,
    /// The ELF that the image was made from
    #[arg(long, value_name = "FILE", default_value = DEFAULT_ELF)]
    pub elf: PathBuf,
    /// Only in functions whose name matches
    #[arg(long, value_name = "GLOB", conflicts_with = "range")]
    pub symbols: Option<String>,
    /// Only from A up to B: symbols, addresses as linked, or offsets into the image
    #[arg(long, value_name = "A..B")]
    pub range: Option<String>,
    /// What to put there
    #[arg(long, value_enum, default_value = "both")]
    pub kind: Kinds,
    /// Try so many of them, by lot
    #[arg(long, value_name = "N")]
    pub sample: Option<usize>,
    /// Any word; the same one draws the same lots
    #[arg(
        long,
        value_name = "WORD",
        default_value = "",
        requires = "sample",
        hide_default_value = true
    )]
    pub seed: String,
    /// Boots at a time [default: one per host CPU]
    #[arg(long, value_name = "N")]
    pub jobs: Option<std::num::NonZero<usize>>,
    /// Only list what would be tried
    #[arg(long)]
    pub list: bool,
    /// Write the results to this file as JSON; `-` is standard output
    #[arg(long, value_name = "FILE")]
    pub json: Option<PathBuf>,
}

/// What an instruction is replaced by.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum Kinds {
    /// An undefined instruction
    Udf,
    /// A branch to itself
    Loop,
    /// One, then the other
    Both,
}

/// `bootcheck decode`
#[derive(Debug, Clone, Args)]
pub struct DecodeArgs {
    /// The ELF that the image was made from, or a vmlinux
    #[arg(long, value_name = "FILE", default_value = DEFAULT_ELF)]
    pub elf: PathBuf,
    /// The log [default: standard input]
    #[arg(value_name = "FILE")]
    pub log: Option<PathBuf>,
}

/// `bootcheck layout`
#[derive(Debug, Clone, Args)]
pub struct LayoutArgs {
    /// The image: raw arm64 Image, the same gzip'd, or ELF
    #[arg(long, value_name = "FILE", default_value = DEFAULT_IMAGE)]
    pub image: PathBuf,
    /// The ELF that it was made from [default: kernel.elf beside the image, if it is there]
    #[arg(long, value_name = "FILE")]
    pub elf: Option<PathBuf>,
    /// Write it to this file as JSON; `-` is standard output
    #[arg(long, value_name = "FILE")]
    pub json: Option<PathBuf>,
}

/// `bootcheck image`
#[derive(Debug, Clone, Args)]
pub struct ImageArgs {
    /// The linked kernel
    #[arg(long, value_name = "FILE")]
    pub elf: PathBuf,
    /// The raw Image to write
    #[arg(long, value_name = "FILE")]
    pub out: PathBuf,
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory;

    #[test]
    fn the_command_line_is_consistent() {
        Cli::command().debug_assert();
    }
}
