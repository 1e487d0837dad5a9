//! The command line.

use std::ffi::OsStr;
use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, FromArgMatches, Parser, Subcommand};
use regex::Regex;

use crate::bisect::options::{self, BisectArgs};
use crate::loader::Loader;
use crate::matrix::shard::Shard;
use crate::plan::Size;
use crate::verdict::Verdict;

mod planning;

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
    #[command(after_help = BOOT_HELP)]
    Boot(Box<BootArgs>),
    /// Find the commit that broke the boot
    #[command(after_help = options::HELP)]
    Bisect(Box<BisectArgs>),
    /// Boot on many machines in parallel
    #[command(after_help = MATRIX_HELP)]
    Matrix(MatrixArgs),
    /// Join the results of `bootcheck matrix --shard`
    #[command(after_help = MERGE_HELP)]
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

const BOOT_HELP: &str = "\
Examples:
  bootcheck boot                                     target/kernel/Image on a Cortex-A72
  bootcheck boot --cpu max --mem 4G --smp 4 --append 'linear=page'
  bootcheck boot -q --json - | jq .verdict           the result as JSON
  bootcheck boot --image vmlinuz --append 'earlycon panic=-1' --pass-regex 'Run /init'
  git bisect run bootcheck boot -q --build 'make image'

Exit status: 0 pass (or the verdict of --expect), 1 another verdict about the guest, 125 this
revision cannot be judged (not built, missing or unbootable image), 129 usage error, or QEMU, the
host or the tester failed, 130 interrupted.";

const MATRIX_HELP: &str = "\
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

const MERGE_HELP: &str = "\
Exit status: 0 every cell came to what it expects, 1 not, 129 usage error, or a part is missing or of
another run.";

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

/// `bootcheck boot`
#[derive(Debug, Clone, Args)]
pub struct BootArgs {
    /// What to boot, and how to judge it.
    #[command(flatten)]
    pub guest: GuestArgs,
    /// The ELF that the image was made from; --build deletes it too
    /// [default: kernel.elf beside the image, if it is there]
    #[arg(long, value_name = "FILE")]
    pub elf: Option<PathBuf>,
    /// Delete image and ELF, run this with `sh -c`, then boot
    #[arg(long, value_name = "COMMAND")]
    pub build: Option<String>,
    /// Write the console's bytes to this file as they come
    #[arg(long, value_name = "FILE")]
    pub console: Option<PathBuf>,
    /// Write the result to this file as JSON; `-` is standard output, the console then goes to
    /// standard error
    #[arg(long, value_name = "FILE")]
    pub json: Option<PathBuf>,
    /// Exit with 0 if this is the verdict, and only then
    #[arg(
        long,
        value_name = "VERDICT",
        default_value = "pass",
        hide_default_value = true
    )]
    pub expect: Verdict,
    /// Boot up to so many times, until a verdict is not the expected one; the last boot is reported
    #[arg(long, value_name = "N", default_value_t = 1,
          value_parser = clap::value_parser!(u32).range(1..))]
    pub repeat: u32,
    /// Then reset the machine so many times, with its RAM kept, boot again after each, and judge the
    /// last boot; our kernel tells what the one before it died of
    #[arg(long, value_name = "N", default_value_t = 0, hide_default_value = true)]
    pub reboots: u32,
    /// Show addresses on the console as they come, without functions and source lines
    #[arg(long)]
    pub no_decode: bool,
    /// Do not show the console; its last lines are told after a failure
    #[arg(short = 'q')]
    pub hide_console: bool,
}

/// What to boot, on which machine, and what makes it a pass: for every command that boots.
#[derive(Debug, Clone, Args)]
pub struct GuestArgs {
    /// The image: raw arm64 Image, the same gzip'd, or ELF
    #[arg(long, value_name = "FILE", default_value = DEFAULT_IMAGE)]
    pub image: PathBuf,
    /// The machine and its options
    #[arg(long, default_value = "virt")]
    pub machine: String,
    /// The CPU model [default: cortex-a72 on virt, host under kvm and hvf]
    #[arg(long)]
    pub cpu: Option<String>,
    /// RAM [default: 128M, 512M for images of other projects]
    #[arg(long, value_name = "SIZE")]
    pub mem: Option<Size>,
    /// Number of CPUs; a topology goes through --qemu-arg
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..))]
    pub smp: u32,
    /// Sizes of NUMA memory nodes, as 33M+95M; their sum is the RAM
    #[arg(
        long,
        value_name = "SIZE+SIZE",
        value_delimiter = '+',
        conflicts_with = "mem"
    )]
    pub numa: Vec<Size>,
    /// Copy the raw image to this physical address and enter it there with x0 = 0, as a bare
    /// loader would; the device tree then lies at the start of RAM
    #[arg(long, value_name = "ADDRESS", value_parser = address,
          conflicts_with_all = ["append", "initrd"])]
    pub load_address: Option<u64>,
    /// Device tree instead of the one QEMU makes
    #[arg(long, value_name = "FILE")]
    pub dtb: Option<PathBuf>,
    /// Initial RAM disk
    #[arg(long, value_name = "FILE")]
    pub initrd: Option<PathBuf>,
    /// What starts the image
    #[arg(
        long,
        value_enum,
        default_value = "qemu",
        conflicts_with = "load_address"
    )]
    pub loader: Loader,
    /// Firmware to start instead of QEMU's own boot code
    /// [default: that of the loader, where distributions install it]
    #[arg(long, value_name = "FILE")]
    pub firmware: Option<PathBuf>,
    /// The kernel's command line
    #[arg(long, value_name = "WORDS", allow_hyphen_values = true)]
    pub append: Option<String>,
    /// The accelerator: tcg, kvm or hvf
    #[arg(long, default_value = "tcg")]
    pub accel: String,
    /// The QEMU to start; the variable QEMU may name another default
    #[arg(long, value_name = "BIN", default_value_os_t = default_qemu())]
    pub qemu: PathBuf,
    /// One more argument for QEMU, after all others; may be repeated
    #[arg(long, value_name = "ARG", allow_hyphen_values = true, value_parser = qemu_argument)]
    pub qemu_arg: Vec<String>,
    /// Deadline in seconds of guest time, in which waiting for the host does not count
    /// [default: 10, 60 for images of other projects]
    #[arg(long, value_name = "SECONDS", value_parser = seconds)]
    pub timeout: Option<Duration>,
    /// How long a busy guest may do nothing new before it is called a likely hang, in seconds that
    /// its CPUs ran
    #[arg(long, value_name = "SECONDS", default_value = "3", value_parser = seconds)]
    pub quiet: Duration,
    /// How long QEMU may take to come up or to answer, in seconds: longer where it runs under a
    /// debugger, or has much RAM to allocate beforehand
    #[arg(long, value_name = "SECONDS", default_value = "60", value_parser = seconds)]
    pub patience: Duration,
    /// Pass at the first line that matches, a prompt included, instead of `boot: PASS`
    #[arg(long, value_name = "REGEX")]
    pub pass_regex: Option<Regex>,
    /// Fail at the first line that matches, a prompt included
    #[arg(long, value_name = "REGEX")]
    pub fail_regex: Option<Regex>,
    /// With --pass-regex: pass only if the guest then ends in good order
    #[arg(long, requires = "pass_regex")]
    pub until_exit: bool,
    /// Count instructions instead of time: every boot is the same, to the instruction
    #[arg(long)]
    pub icount: bool,
}

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

/// An empty variable is none: `make` passes it on like that.
fn default_qemu() -> PathBuf {
    std::env::var_os("QEMU")
        .filter(|qemu| !qemu.is_empty())
        .map_or_else(|| "qemu-system-aarch64".into(), PathBuf::from)
}

fn address(text: &str) -> Result<u64, String> {
    let digits = text
        .strip_prefix("0x")
        .ok_or("not a hexadecimal address like 0x44000000")?;
    u64::from_str_radix(digits, 16).map_err(|error| error.to_string())
}

/// What takes QEMU away from the tester would leave it waiting, or QEMU behind.
fn qemu_argument(text: &str) -> Result<String, String> {
    let device = text.strip_prefix("mon:").unwrap_or(text);
    if device == "stdio" || device.starts_with("stdio,") {
        return Err(
            "QEMU's standard input and output are the tester's; name a file or socket".into(),
        );
    }
    if text.trim_start_matches('-') == "daemonize" {
        return Err("the tester can end only a QEMU that stays its child".into());
    }
    Ok(text.to_owned())
}

pub(crate) fn seconds(text: &str) -> Result<Duration, String> {
    match text.parse::<f64>() {
        Ok(seconds) if seconds > 0.0 && seconds <= 1e6 => Ok(Duration::from_secs_f64(seconds)),
        _ => Err("not a number of seconds".into()),
    }
}

impl BootArgs {
    /// The options of `bootcheck boot`, as a shell would give them.
    ///
    /// # Errors
    /// What is wrong with them.
    pub fn from_options<'a>(
        options: impl IntoIterator<Item = &'a OsStr>,
    ) -> Result<Self, clap::Error> {
        let command = Self::augment_args(clap::Command::new("boot").no_binary_name(true));
        Self::from_arg_matches(&command.try_get_matches_from(options)?)
    }
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
