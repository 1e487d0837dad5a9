//! Builds of revisions: the same surroundings for each, without tokens, and reproducible.

use std::collections::BTreeSet;
use std::ffi::OsString;
use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, bail};

use super::git::Git;
use super::room;
use super::tree::Tree;
use crate::build::{self, NotBuilt};
use crate::interrupt;
use crate::process::Tethered;

/// What a build may see of the user's environment, by name or by how the name begins: what tells
/// where tools are and how to compile. Anything else may be a token.
const PASSED_ON: &[&str] = &[
    "PATH",
    "HOME",
    "USER",
    "LOGNAME",
    "SHELL",
    "TMPDIR",
    "TERM",
    "LD_LIBRARY_PATH",
    "XDG_CACHE_HOME",
    "CARGO_HOME",
    "RUSTUP_HOME",
    "RUSTUP_TOOLCHAIN",
    "RUSTC_WRAPPER",
    "ARCH",
    "CROSS_COMPILE",
    "LLVM",
    "CC",
    "CXX",
    "LD",
    "AR",
    "AS",
    "NM",
    "HOSTCC",
    "HOSTCXX",
    "CFLAGS",
    "CXXFLAGS",
    "LDFLAGS",
    "KCFLAGS",
    "KCONFIG_*",
    "CCACHE_*",
    "SCCACHE_DIR",
    "PKG_CONFIG_*",
    "QEMU",
    "TOOLCHAIN",
];

/// What fetching dependencies may see besides.
const PROXIES: &[&str] = &[
    "http_proxy",
    "https_proxy",
    "all_proxy",
    "no_proxy",
    "HTTP_PROXY",
    "HTTPS_PROXY",
    "ALL_PROXY",
    "NO_PROXY",
    "CARGO_HTTP_*",
    "CARGO_NET_*",
    "SSL_CERT_FILE",
    "SSL_CERT_DIR",
];

/// How long dependencies may take to come.
const FETCH_PATIENCE: Duration = Duration::from_secs(900);

/// Builds one revision after the other in one checkout.
#[derive(Debug)]
pub struct Builder {
    tree: Tree,
    command: String,
    image: PathBuf,
    elf: PathBuf,
    patience: Duration,
    environment: Vec<(OsString, OsString)>,
    /// Where each build's output goes.
    logs: PathBuf,
    /// Lock files whose crates are here.
    fetched: BTreeSet<String>,
}

/// What a build left.
#[derive(Debug)]
pub struct Products {
    /// The image.
    pub image: PathBuf,
    /// The ELF, if there is one.
    pub elf: Option<PathBuf>,
}

/// What a builder is made from.
#[derive(Debug)]
pub struct Settings<'a> {
    /// `--build`
    pub command: &'a str,
    /// `--image`
    pub image: &'a Path,
    /// `--elf`
    pub elf: Option<&'a Path>,
    /// `--build-timeout`
    pub patience: Duration,
    /// `--env`
    pub env: &'a [String],
    /// `--toolchain-from-rev`
    pub toolchain_from_rev: bool,
    /// The time that builds believe it is, in seconds since 1970.
    pub epoch: u64,
}

impl Builder {
    /// Builds in `tree`; what builds say goes to files in `logs`.
    ///
    /// # Errors
    /// A path leads out of the checkout, or a variable is not there.
    pub fn new(
        tree: Tree,
        user: &Git,
        settings: &Settings<'_>,
        logs: PathBuf,
    ) -> anyhow::Result<Self> {
        let image = tree.file(settings.image)?;
        let elf = match settings.elf {
            Some(elf) => tree.file(elf)?,
            None => image.with_file_name("kernel.elf"),
        };
        fs::create_dir_all(&logs).with_context(|| format!("cannot make {}", logs.display()))?;
        Ok(Self {
            environment: environment(user, settings)?,
            tree,
            command: settings.command.to_owned(),
            image,
            elf,
            patience: settings.patience,
            logs,
            fetched: BTreeSet::new(),
        })
    }

    /// The checkout.
    #[must_use]
    pub fn tree(&self) -> &Tree {
        &self.tree
    }

    /// Checks a commit out and builds it. Of the inner result: why it cannot be judged.
    ///
    /// # Errors
    /// The tester, git or the host failed: nothing is known about the commit.
    pub fn build(&mut self, sha: &str) -> anyhow::Result<Result<Products, NotBuilt>> {
        self.tree.checkout(sha)?;
        self.build_checkout(sha)
    }

    /// Builds what is checked out.
    ///
    /// # Errors
    /// As [`Self::build`].
    pub fn build_checkout(&mut self, name: &str) -> anyhow::Result<Result<Products, NotBuilt>> {
        let log_path = self.logs.join(format!("{name}.log"));
        let log = File::create(&log_path)
            .with_context(|| format!("cannot write {}", log_path.display()))?;
        self.fetch(&log)?;
        let mut shell = build::shell(&self.command);
        self.surround(&mut shell, &log)?;
        let outputs = [self.image.as_path(), self.elf.as_path()];
        match build::run(&mut shell, &outputs, Some(self.patience))? {
            Ok(()) => Ok(Ok(Products {
                image: self.image.clone(),
                elf: self.elf.exists().then(|| self.elf.clone()),
            })),
            Err(mut not_built) => {
                let said = fs::read(&log_path).unwrap_or_default();
                let said = String::from_utf8_lossy(&said);
                room::check(self.tree.directory(), &said)?;
                if let Some(line) = telling_line(&said) {
                    not_built.reason.push_str(&format!(": {line}"));
                }
                Ok(Err(not_built))
            }
        }
    }

    /// Gives a command the surroundings of a build.
    fn surround(&self, command: &mut Command, log: &File) -> anyhow::Result<()> {
        command
            .current_dir(self.tree.directory())
            .env_clear()
            .envs(self.environment.iter().map(|(name, value)| (name, value)))
            .stdin(Stdio::null())
            .stdout(log.try_clone()?)
            .stderr(log.try_clone()?);
        Ok(())
    }

    /// Has cargo fetch what a Cargo.lock names that was not met before; the build itself is
    /// offline. If it cannot be had, the build will tell.
    fn fetch(&mut self, log: &File) -> anyhow::Result<()> {
        let Some(lock) = self.tree.blob("Cargo.lock") else {
            return Ok(());
        };
        if !self.fetched.insert(lock) {
            return Ok(());
        }
        let is = |name: &str, value: &str| std::env::var(name).is_ok_and(|found| found == value);
        if is("SETUP", "never") || is("CARGO_NET_OFFLINE", "true") {
            return Ok(());
        }
        for arguments in [
            &["fetch", "--locked", "--offline"][..],
            &["fetch", "--locked"],
        ] {
            let mut cargo = Command::new("cargo");
            self.surround(&mut cargo, log)?;
            cargo.args(arguments).env_remove("CARGO_NET_OFFLINE");
            cargo.envs(passed_on(PROXIES));
            let Ok(mut cargo) = Tethered::spawn(&mut cargo) else {
                return Ok(());
            };
            let started = Instant::now();
            while started.elapsed() < FETCH_PATIENCE {
                interrupt::check()?;
                match cargo.wait(Duration::from_millis(50))? {
                    None => {}
                    Some(status) if status.success() => return Ok(()),
                    Some(_) => break,
                }
            }
        }
        Ok(())
    }
}

/// The variables that a build sees.
fn environment(user: &Git, settings: &Settings<'_>) -> anyhow::Result<Vec<(OsString, OsString)>> {
    let mut all: Vec<(OsString, OsString)> = passed_on(PASSED_ON).collect();
    if settings.toolchain_from_rev {
        all.retain(|(name, _)| name != "RUSTUP_TOOLCHAIN");
    } else if let Some(toolchain) = active_toolchain(user) {
        all.retain(|(name, _)| name != "RUSTUP_TOOLCHAIN");
        all.push(("RUSTUP_TOOLCHAIN".into(), toolchain.into()));
    }
    let epoch = settings.epoch.to_string();
    for (name, value) in [
        ("SETUP", "never"),
        ("CARGO_NET_OFFLINE", "true"),
        ("RUSTUP_AUTO_INSTALL", "0"),
        ("GIT_TERMINAL_PROMPT", "0"),
        // What an incremental compiler makes depends on what it made before.
        ("CARGO_INCREMENTAL", "0"),
        ("SOURCE_DATE_EPOCH", &epoch),
        ("LC_ALL", "C"),
        ("TZ", "UTC"),
        // Linux: what would be in the image otherwise is when, where and how often it was built.
        ("KBUILD_BUILD_TIMESTAMP", "1970-01-01"),
        ("KBUILD_BUILD_USER", "bootcheck"),
        ("KBUILD_BUILD_HOST", "bootcheck"),
        ("KBUILD_BUILD_VERSION", "1"),
        ("LOCALVERSION", ""),
    ] {
        all.push((name.into(), value.into()));
    }
    for wish in settings.env {
        let (name, value) = match wish.split_once('=') {
            Some((name, value)) => (name, value.into()),
            None => match std::env::var_os(wish) {
                Some(value) => (wish.as_str(), value),
                None => bail!("--env {wish}: there is no such variable"),
            },
        };
        all.retain(|(other, _)| other != name);
        all.push((name.into(), value));
    }
    Ok(all)
}

/// The variables of ours that match one of these names.
fn passed_on(names: &'static [&str]) -> impl Iterator<Item = (OsString, OsString)> {
    std::env::vars_os().filter(|(variable, _)| {
        let variable = variable.to_string_lossy();
        names.iter().any(|name| match name.strip_suffix('*') {
            Some(start) => variable.starts_with(start),
            None => variable == *name,
        })
    })
}

/// The toolchain that a build in the user's checkout would use now.
fn active_toolchain(user: &Git) -> Option<String> {
    let output = Command::new("rustup")
        .args(["show", "active-toolchain"])
        .current_dir(user.top())
        .env("RUSTUP_AUTO_INSTALL", "0")
        .stdin(Stdio::null())
        .output()
        .ok()?;
    let said = String::from_utf8(output.stdout).ok()?;
    let name = said.split_whitespace().next()?;
    output.status.success().then(|| name.to_owned())
}

/// The line of a failed build's output that tells most: the first error, or what came last.
fn telling_line(said: &str) -> Option<String> {
    let lines = || said.lines().map(str::trim).filter(|line| !line.is_empty());
    let is_error = |line: &&str| {
        line.starts_with("error") || line.contains(": error:") || line.contains("fatal error")
    };
    let line = lines().find(is_error).or_else(|| lines().next_back())?;
    let line = crate::escape::escape(line.as_bytes());
    Some(line.chars().take(160).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_error_tells_why_a_build_failed() {
        for (said, line) in [
            (
                "ok\nerror[E0308]: mismatched\n  --> a.rs\nerror: aborting\n",
                "error[E0308]: mismatched",
            ),
            (
                "cc -c x.c\nx.c:1:2: error: boo\nmake: *** [x.o] Error 1\n",
                "x.c:1:2: error: boo",
            ),
            (
                "make: *** No rule to make target 'image'.  Stop.\n\n",
                "make: *** No rule to make target 'image'.  Stop.",
            ),
            ("\x1b[1mbad\n", "\\x1b[1mbad"),
        ] {
            assert_eq!(telling_line(said).as_deref(), Some(line));
        }
        assert_eq!(telling_line("\n"), None);
    }
}
