//! The options of `bootcheck boot`: the image, the machine, and what makes it a pass.

use std::ffi::OsStr;
use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, FromArgMatches};
use regex::Regex;

use super::DEFAULT_IMAGE;
use crate::loader::Loader;
use crate::size::Size;
use crate::verdict::Verdict;

pub(super) const HELP: &str = "\
Examples:
  bootcheck boot                                     target/kernel/Image on a Cortex-A72
  bootcheck boot --cpu max --mem 4G --smp 4 --append 'linear=page'
  bootcheck boot -q --json - | jq .verdict           the result as JSON
  bootcheck boot --image vmlinuz --append 'earlycon panic=-1' --pass-regex 'Run /init'
  git bisect run bootcheck boot -q --build 'make image'

Exit status: 0 pass (or the verdict of --expect), 1 another verdict about the guest, 125 this
revision cannot be judged (not built, missing or unbootable image), 129 usage error, or QEMU, the
host or the tester failed, 130 interrupted.";

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
    /// The image: raw arm64 Image, the same gzip'd, or ELF; with --loader uefi also EFI zboot
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

/// An empty variable is none: `make` passes it on like that.
pub(super) fn default_qemu() -> PathBuf {
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
