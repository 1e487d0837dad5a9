//! `bootcheck bisect`: its command line.

use std::ffi::OsStr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use clap::{Args, FromArgMatches};
use regex::Regex;

use super::metric::{Metric, Percent};
use crate::budget;
use crate::cli::{BootArgs, DEFAULT_IMAGE, seconds};
use crate::plan::is_virt;

/// Shown below the options.
pub const HELP: &str = "\
Bisecting runs the code of the revisions: their build, with your rights. It does so without the
tokens of your environment, in a checkout of its own; that is no sandbox.

Examples:
  bootcheck bisect --good v0.1                        until HEAD; `make image` builds
  bootcheck bisect --good v0.1 --bad main -- --append 'linear=page' --mem 4G
  bootcheck bisect --good v6.0 --bad v6.1 --repo ~/linux --build 'make -j8 Image' \\
      --image arch/arm64/boot/Image --elf vmlinux -- --pass-regex 'Run /init' --append earlycon
  bootcheck bisect --good v0.1 --metric instructions --worse-by 5%
  bootcheck bisect --resume                           after Ctrl-C, a full disk or a crash

Exit status: 0 the culprit is proved, 1 candidates only, 129 usage error, or the ends are not good
and bad, or the tester, the host or QEMU failed, 130 interrupted.";

/// `bootcheck bisect`
#[derive(Debug, Clone, Args)]
pub struct BisectArgs {
    /// A revision that boots
    #[arg(long, value_name = "REV", required_unless_present = "resume")]
    pub good: Option<String>,
    /// A revision that does not; GOOD is an ancestor of it
    #[arg(long, value_name = "REV", default_value = "HEAD")]
    pub bad: String,
    /// The repository; nothing in it is changed
    #[arg(long, value_name = "DIR", default_value = ".")]
    pub repo: PathBuf,
    /// Builds a revision, run by `sh -c` in the root of a checkout
    #[arg(long, value_name = "COMMAND", default_value = "make image")]
    pub build: String,
    /// Where the build puts the image, from the root of the checkout
    #[arg(long, value_name = "FILE", default_value = DEFAULT_IMAGE)]
    pub image: PathBuf,
    /// Where it puts the ELF [default: kernel.elf beside the image]
    #[arg(long, value_name = "FILE")]
    pub elf: Option<PathBuf>,
    /// Only first parents: which merge broke it
    #[arg(long)]
    pub first_parent: bool,
    /// Only commits that touch this file or directory; may be repeated
    #[arg(long, value_name = "PATH")]
    pub path: Vec<String>,
    /// Take any failure for the one that is sought, not only one of BAD's class or stage
    #[arg(long, conflicts_with_all = ["match_regex", "metric"])]
    pub any_failure: bool,
    /// Take for it a failure of which message, trace, fingerprint or console match
    #[arg(long = "match", value_name = "REGEX", conflicts_with = "metric")]
    pub match_regex: Option<Regex>,
    /// Seek what got worse: `instructions[:STAGE]` (counts with --icount), image-bytes, table-frames
    #[arg(long, value_name = "METRIC", requires = "worse_by")]
    pub metric: Option<Metric>,
    /// How much worse than GOOD's is bad
    #[arg(long, value_name = "PERCENT", requires = "metric")]
    pub worse_by: Option<Percent>,
    /// Boots of each end before the search [default: as many as the failure's rate asks for]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=500))]
    pub repeat: Option<u32>,
    /// Boot until the culprit is as certain as this
    #[arg(long, value_name = "PERCENT", default_value = "99.99%")]
    pub confidence: Percent,
    /// How long one build may take
    #[arg(long, value_name = "SECONDS", default_value = "3600", value_parser = seconds)]
    pub build_timeout: Duration,
    /// Let builds see this variable of your environment, or give it a value; may be repeated
    #[arg(long, value_name = "NAME[=VALUE]")]
    pub env: Vec<String>,
    /// Let each revision choose its Rust toolchain (rust-toolchain.toml)
    #[arg(long)]
    pub toolchain_from_rev: bool,
    /// Go on where the last bisection of this repository was stopped
    #[arg(long)]
    pub resume: bool,
    /// Keep checkout, images and reports in this directory
    /// [default: bootcheck/bisect-... in the user's cache directory]
    #[arg(long, value_name = "DIR")]
    pub work: Option<PathBuf>,
    /// Write the result to this file as JSON; `-` is standard output
    #[arg(long, value_name = "FILE")]
    pub json: Option<PathBuf>,
    /// Write the result to this file as Markdown, for an issue or a mailing list
    #[arg(long, value_name = "FILE")]
    pub markdown: Option<PathBuf>,
    /// Write what was tried to this file, for `git bisect replay`
    #[arg(long, value_name = "FILE")]
    pub log: Option<PathBuf>,
    /// How to boot: options of `bootcheck boot`. Files named here are yours, not the revision's
    #[arg(last = true, value_name = "BOOT OPTIONS", allow_hyphen_values = true)]
    pub boot: Vec<String>,
}

impl BisectArgs {
    /// Where JSON, Markdown and log go.
    #[must_use]
    pub fn results(&self) -> [Option<&Path>; 3] {
        [&self.json, &self.markdown, &self.log].map(|path| path.as_deref())
    }

    /// The options that ask the same question again, with commits in place of names that move.
    #[must_use]
    pub fn question(&self, good: &str, bad: &str) -> Vec<String> {
        let mut words = Vec::new();
        let mut add = |name: &str, value: &str| words.extend([name.to_owned(), value.to_owned()]);
        add("--good", good);
        add("--bad", bad);
        add("--build", &self.build);
        add("--image", &self.image.to_string_lossy());
        if let Some(elf) = &self.elf {
            add("--elf", &elf.to_string_lossy());
        }
        for path in &self.path {
            add("--path", path);
        }
        if let Some(regex) = &self.match_regex {
            add("--match", regex.as_str());
        }
        if let (Some(metric), Some(worse_by)) = (&self.metric, self.worse_by) {
            add("--metric", &metric.to_string());
            add("--worse-by", &worse_by.to_string());
        }
        if let Some(repeat) = self.repeat {
            add("--repeat", &repeat.to_string());
        }
        add("--confidence", &self.confidence.to_string());
        add(
            "--build-timeout",
            &self.build_timeout.as_secs_f64().to_string(),
        );
        for name in &self.env {
            add("--env", name);
        }
        for (flag, is_set) in [
            ("--first-parent", self.first_parent),
            ("--any-failure", self.any_failure),
            ("--toolchain-from-rev", self.toolchain_from_rev),
        ] {
            if is_set {
                words.push(flag.to_owned());
            }
        }
        if !self.boot.is_empty() {
            words.push("--".to_owned());
            words.extend(self.boot.iter().cloned());
        }
        words
    }

    /// The options of a bisection that was stopped, with this one's files for the results.
    ///
    /// # Errors
    /// They are none.
    pub fn resumed(&self, question: &[String]) -> anyhow::Result<Self> {
        let command = Self::augment_args(clap::Command::new("bisect").no_binary_name(true));
        let matches = command.try_get_matches_from(question)?;
        let mut args = Self::from_arg_matches(&matches)?;
        args.resume = true;
        args.repo.clone_from(&self.repo);
        args.work.clone_from(&self.work);
        args.json.clone_from(&self.json);
        args.markdown.clone_from(&self.markdown);
        args.log.clone_from(&self.log);
        Ok(args)
    }

    /// [`Self::boot_words`], read as `bootcheck boot` reads them.
    ///
    /// # Errors
    /// It would not, or an option has no place here.
    pub fn boot_args(&self) -> anyhow::Result<BootArgs> {
        let command = BootArgs::augment_args(clap::Command::new("boot").no_binary_name(true));
        let matches = command.try_get_matches_from(self.boot_words())?;
        for (option, instead) in [
            ("image", "--image before the `--`"),
            ("elf", "--elf before the `--`"),
            ("build", "--build before the `--`"),
            ("repeat", "--repeat before the `--`"),
            ("json", "--json before the `--`"),
            ("console", "the report, which has the console"),
        ] {
            let source = matches.value_source(option);
            anyhow::ensure!(
                source != Some(clap::parser::ValueSource::CommandLine),
                "--{option} cannot stand among the boot options; there is {instead}"
            );
        }
        let mut args = BootArgs::from_arg_matches(&matches)?;
        let files = [
            &mut args.guest.dtb,
            &mut args.guest.initrd,
            &mut args.guest.firmware,
        ];
        for file in files.into_iter().flatten() {
            *file = std::path::absolute(&*file)?;
        }
        Ok(args)
    }

    /// The options of each boot: what was said after `--`, and what the metric needs besides.
    #[must_use]
    pub fn boot_words(&self) -> Vec<String> {
        let mut words = self.boot.clone();
        let Some(Metric::Instructions(stage)) = &self.metric else {
            return words;
        };
        let Ok(args) = BootArgs::from_options(words.iter().map(OsStr::new)) else {
            return words;
        };
        let guest = args.guest;
        if !guest.icount {
            words.push("--icount".to_owned());
        }
        // Stages are marked with the guest's clock, which by default ticks every 16 instructions.
        let is_default = guest.cpu.is_none() && is_virt(&guest.machine);
        if stage.is_some() && is_default {
            words.extend(["--cpu", budget::CPU].map(str::to_owned));
        }
        words
    }
}
