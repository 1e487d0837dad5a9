//! What is asked of the user's repository, by running git. Nothing here writes to it.

use std::ffi::OsString;
use std::os::unix::ffi::OsStringExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

use anyhow::{Context, bail, ensure};
use serde::{Deserialize, Serialize};

/// A repository.
#[derive(Debug, Clone)]
pub struct Git {
    directory: PathBuf,
}

/// A commit, as reports tell of it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Commit {
    /// Its name, in full.
    pub sha: String,
    /// The same, as short as can be.
    pub short: String,
    /// The first line of its message.
    pub subject: String,
    /// Name and address of its author.
    pub author: String,
    /// When it was written, ISO 8601.
    pub date: String,
    /// When it was committed, seconds since 1970.
    pub committed: u64,
    /// Its parents; with paths or --first-parent, the nearest that count.
    pub parents: Vec<String>,
}

impl Commit {
    /// For a person: `1a2b3c4 ("subject")`.
    #[must_use]
    pub fn shown(&self) -> String {
        format!("{} (\"{}\")", self.short, self.subject)
    }
}

/// Fields of a commit, in the order of [`Commit`], ended by a byte that no message has.
const FORMAT: &str = "--format=%H%n%h%n%s%n%an <%ae>%n%aI%n%ct%n%P%x00";

impl Git {
    /// The repository that `directory` is in.
    ///
    /// # Errors
    /// There is none, or git cannot be run.
    pub fn open(directory: &Path) -> anyhow::Result<Self> {
        let git = Self::at(directory);
        git.text(&["rev-parse", "--git-dir"])
            .with_context(|| format!("{} is in no git repository", directory.display()))?;
        Ok(git)
    }

    /// git, run in `directory`.
    #[must_use]
    pub fn at(directory: &Path) -> Self {
        Self {
            directory: directory.to_owned(),
        }
    }

    /// Where git is run.
    #[must_use]
    pub fn directory(&self) -> &Path {
        &self.directory
    }

    /// git with these arguments, not started yet.
    #[must_use]
    pub fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new("git");
        // A hook that calls us sets GIT_DIR and more: they name another repository than ours.
        for (name, _) in std::env::vars_os() {
            if name.to_string_lossy().starts_with("GIT_") {
                command.env_remove(name);
            }
        }
        command
            .arg("-C")
            .arg(&self.directory)
            .args(arguments)
            .env("LC_ALL", "C")
            .env("GIT_TERMINAL_PROMPT", "0")
            // Not even the index is refreshed.
            .env("GIT_OPTIONAL_LOCKS", "0")
            .stdin(Stdio::null());
        command
    }

    fn output(&self, arguments: &[&str]) -> anyhow::Result<Output> {
        let output = self.command(arguments).output();
        output.context("cannot run git")
    }

    /// What git prints, without the last line ending.
    ///
    /// # Errors
    /// What git complained about.
    pub fn text(&self, arguments: &[&str]) -> anyhow::Result<String> {
        let bytes = self.bytes(arguments)?;
        Ok(String::from_utf8_lossy(&bytes).into_owned())
    }

    fn bytes(&self, arguments: &[&str]) -> anyhow::Result<Vec<u8>> {
        let mut output = self.output(arguments)?;
        if !output.status.success() {
            let complaint = String::from_utf8_lossy(&output.stderr);
            let complaint = complaint.trim().trim_start_matches("fatal: ");
            bail!("git {}: {complaint}", arguments.first().unwrap_or(&""));
        }
        output.stdout.pop_if(|byte| *byte == b'\n');
        Ok(output.stdout)
    }

    /// A path that `git rev-parse` tells with these options; it may have any name.
    ///
    /// # Errors
    /// What git complained about.
    pub fn path(&self, options: &[&str]) -> anyhow::Result<PathBuf> {
        let name = self.bytes(&[&["rev-parse"], options].concat())?;
        Ok(self.directory.join(OsString::from_vec(name)))
    }

    /// The commit that a person means by `revision`.
    ///
    /// # Errors
    /// There is none.
    pub fn resolve(&self, revision: &str) -> anyhow::Result<Commit> {
        let commit = format!("{revision}^{{commit}}");
        let found = self.text(&[
            "rev-parse",
            "--verify",
            "--quiet",
            "--end-of-options",
            &commit,
        ]);
        let Ok(sha) = found else {
            let shallow = if self.is_shallow()? {
                "; this clone is shallow: `git fetch --unshallow` gets the rest"
            } else {
                ""
            };
            bail!(
                "{revision} is no commit of {}{shallow}",
                self.directory.display()
            );
        };
        let commits = self.log(&["--no-walk", &sha], &[])?;
        commits.into_iter().next().context("git log says nothing")
    }

    /// Whether history is cut off somewhere.
    ///
    /// # Errors
    /// git failed.
    pub fn is_shallow(&self) -> anyhow::Result<bool> {
        Ok(self.text(&["rev-parse", "--is-shallow-repository"])? == "true")
    }

    /// Whether `one` is `other` or an ancestor of it.
    ///
    /// # Errors
    /// git failed.
    pub fn is_ancestor(&self, one: &str, other: &str) -> anyhow::Result<bool> {
        let output = self.output(&["merge-base", "--is-ancestor", one, other])?;
        match output.status.code() {
            Some(0) => Ok(true),
            Some(1) => Ok(false),
            _ => bail!(
                "git merge-base: {}",
                String::from_utf8_lossy(&output.stderr).trim()
            ),
        }
    }

    /// The commits that came to GOOD on the way to BAD, parents first.
    ///
    /// # Errors
    /// git failed, or there is none.
    pub fn between(
        &self,
        good: &Commit,
        bad: &Commit,
        first_parent: bool,
        paths: &[String],
    ) -> anyhow::Result<Vec<Commit>> {
        let range = format!("{}..{}", good.sha, bad.sha);
        let mut arguments = vec!["--topo-order", "--reverse", "--parents"];
        if first_parent {
            arguments.push("--first-parent");
        }
        arguments.push(&range);
        let mut commits = self.log(&arguments, paths)?;
        ensure!(
            !commits.is_empty(),
            "no commit between {} and {} touches {}",
            good.short,
            bad.short,
            paths.join(" ")
        );
        let present: std::collections::HashSet<String> =
            commits.iter().map(|commit| commit.sha.clone()).collect();
        for commit in &mut commits {
            if first_parent {
                commit.parents.truncate(1);
            }
            commit.parents.retain(|parent| present.contains(parent));
        }
        Ok(commits)
    }

    fn log(&self, arguments: &[&str], paths: &[String]) -> anyhow::Result<Vec<Commit>> {
        let mut all = vec![
            "log",
            "--no-show-signature",
            "--no-color",
            "--no-notes",
            FORMAT,
        ];
        all.extend(arguments);
        all.push("--");
        all.extend(paths.iter().map(String::as_str));
        let text = self.text(&all)?;
        let records = text
            .split('\0')
            .map(|record| record.trim_start_matches('\n'));
        records
            .filter(|record| !record.is_empty())
            .map(parse)
            .collect()
    }

    /// Where the objects are, for another repository to read them from.
    ///
    /// # Errors
    /// git failed.
    pub fn objects(&self) -> anyhow::Result<PathBuf> {
        let path = self.path(&["--git-path", "objects"])?;
        path.canonicalize()
            .with_context(|| format!("no {}", path.display()))
    }

    /// `sha1` or `sha256`.
    ///
    /// # Errors
    /// git failed.
    pub fn object_format(&self) -> anyhow::Result<String> {
        self.text(&["rev-parse", "--show-object-format"])
    }

    /// The root of the checkout; the directory itself if there is none.
    #[must_use]
    pub fn top(&self) -> PathBuf {
        let top = self.path(&["--show-toplevel"]);
        top.unwrap_or_else(|_| self.directory.clone())
    }

    /// Whether the checkout differs from its commit in files that git knows.
    #[must_use]
    pub fn is_dirty(&self) -> bool {
        let status = self.text(&["status", "--porcelain", "--untracked-files=no"]);
        status.is_ok_and(|status| !status.is_empty())
    }
}

fn parse(record: &str) -> anyhow::Result<Commit> {
    let mut lines = record.split('\n');
    let mut line = || {
        lines
            .next()
            .map(str::to_owned)
            .context("git log: a field is missing")
    };
    Ok(Commit {
        sha: line()?,
        short: line()?,
        subject: line()?,
        author: line()?,
        date: line()?,
        committed: line()?.parse().context("git log: no time")?,
        parents: line()?
            .split_ascii_whitespace()
            .map(str::to_owned)
            .collect(),
    })
}
