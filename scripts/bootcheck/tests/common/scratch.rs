//! A git repository whose revisions build to tiny guests, each with an image of its own.
#![allow(dead_code, unreachable_pub)] // Each test file uses its own part of this.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

use bootcheck::guest::Guest;
use serde_json::Value;

use crate::common::{json, status, text};

/// The repository, beside the images that its builds copy.
pub struct Scratch {
    directory: tempfile::TempDir,
    commits: u32,
}

/// Copies the image that the file `kind` names, in the repository or in a submodule of a submodule, and says so
/// in a file outside; `hang` has no end, `lazy` succeeds
/// with nothing made, and the image of `unkept` finds the disk full when it is put aside.
const BUILD: &str = r#"#!/bin/sh
echo "$(cat number)" >> "$(dirname "$0")/builds"
kind=$(cat lib/deep/kind 2>/dev/null || cat kind)
[ "$kind" != hang ] || exec sleep 1000
[ "$kind" != broken ] || { echo "x.c:1: error: boo" >&2; exit 2; }
[ "$kind" != lazy ] || exit 0
[ "$kind" != full ] || { echo "ld: a.o: No space left on device" >&2; exit 1; }
[ -z "$SECRET_TOKEN" ] || { echo "error: the build sees $SECRET_TOKEN" >&2; exit 2; }
[ ! -e "$(dirname "$0")/wait-at-$(cat number)" ] || sleep 1000
mkdir -p out && cat "$(dirname "$0")/$kind" number > out/Image || exit
[ "$kind" = unkept ] && [ ! -e "$(dirname "$0")/has-room" ] || exit 0
place=$(dirname "$0")/work/images/$(sha256sum < out/Image | cut -d' ' -f1)
mkdir -p "$place" && ln -s /dev/full "$place/Image"
"#;

/// A guest that panics one time in four, by the clock.
fn flaky() -> Guest {
    let panics = || Guest::default().print(PANIC).power_off();
    let words = (panics().image().len() - 64) / 4 - 1;
    let skip = 0xb500_0000 | ((words as u32 + 1) << 5); // cbnz x0, behind the panic
    Guest::default()
        .execute(&[0xd53b_e040, 0x9240_0400, skip]) // mrs x0, cntvct_el0; and x0, x0, #3
        .print(PANIC)
        .power_off()
        .print("boot: PASS\n")
        .power_off()
}

/// A guest with two stages, the first of which takes this many rounds of two instructions; it says
/// three nanoseconds each, so that nobody takes what it says for what was counted.
fn working(rounds: u32, tables: u32) -> Guest {
    let second = 3 * rounds + 5_000;
    Guest::default()
        .count_down(rounds)
        .print(&format!(
            "[    0.000005000] stage: early_mmu\n\
             [    0.{second:09}] stage: heap\n\
             [    0.000100] INFO  mm: table frames: 1 root, {tables} static, 3 for the linear map\n\
             boot: PASS\n"
        ))
        .power_off()
}

const PANIC: &str = "Kernel panic - not syncing: no table at level 2\n";

impl Scratch {
    /// An empty repository.
    pub fn new() -> Self {
        let scratch = Self {
            directory: tempfile::tempdir().unwrap(),
            commits: 0,
        };
        for (kind, guest) in [
            ("good", Guest::default().print("boot: PASS\n").power_off()),
            ("panic", Guest::default().print(PANIC).power_off()),
            ("unkept", Guest::default().print(PANIC).power_off()),
            ("reset", Guest::default().print("up\n").reset()),
            ("flaky", flaky()),
            ("quick", working(10_000, 14)),
            ("slower", working(10_300, 14)),
            ("slow", working(11_000, 14)),
            ("greedy", working(10_000, 16)),
            (
                "big",
                Guest::default()
                    .print("boot: PASS\n")
                    .power_off()
                    .pad_to(0x2000),
            ),
        ] {
            std::fs::write(scratch.path(kind), guest.ours().image()).unwrap();
        }
        std::fs::write(scratch.path("build.sh"), BUILD).unwrap();
        std::fs::create_dir(scratch.path("repo")).unwrap();
        scratch.git(&["init", "-q", "-b", "main"]);
        // What a build makes is ignored, as a rule, and stays from one revision to the next.
        std::fs::write(scratch.repo().join(".gitignore"), "out\n").unwrap();
        scratch
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    pub fn repo(&self) -> PathBuf {
        self.path("repo")
    }

    /// Runs git in the repository.
    pub fn git(&self, arguments: &[&str]) -> String {
        git(&self.repo(), arguments)
    }

    /// Commits a revision of this kind; its name.
    pub fn commit(&mut self, kind: &str) -> String {
        self.commits += 1;
        std::fs::write(self.repo().join("number"), format!("{}\n", self.commits)).unwrap();
        self.commit_file("kind", kind)
    }

    /// Commits a change to one file that the image does not depend on, unless it is one of two.
    pub fn commit_file(&mut self, name: &str, content: &str) -> String {
        std::fs::write(self.repo().join(name), content).unwrap();
        self.git(&["add", "-A"]);
        self.git(&[
            "commit",
            "-q",
            "-m",
            &format!("{name}: {content} ({})", self.commits),
        ]);
        self.git(&["rev-parse", "HEAD"])
    }

    /// Commits of these kinds; their names.
    pub fn commit_all(&mut self, kinds: &str) -> Vec<String> {
        kinds
            .split_whitespace()
            .map(|kind| self.commit(kind))
            .collect()
    }

    /// `bootcheck bisect` of it, not started yet.
    pub fn command(&self, options: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_bootcheck"));
        let (bisect, boot) = match options.iter().position(|option| *option == "--") {
            Some(at) => options.split_at(at),
            None => (options, &["--"][..]),
        };
        command
            .arg("bisect")
            .arg("--repo")
            .arg(self.repo())
            .arg("--work")
            .arg(self.path("work"))
            .arg("--build")
            .arg(format!("sh {}", self.path("build.sh").display()))
            .args(["--image", "out/Image", "--json", "-"])
            .arg("--markdown")
            .arg(self.path("report.md"))
            .arg("--log")
            .arg(self.path("bisect.log"))
            .args(bisect)
            .args(boot)
            .args(["--timeout", "5"])
            .env("NO_COLOR", "1")
            .env("SECRET_TOKEN", "of the user")
            .stdin(Stdio::null());
        command
    }

    /// Bisects; whatever comes of it, the repository is as before and no checkout is left.
    pub fn bisect(&self, options: &[&str]) -> Output {
        let before = contents(&self.repo());
        let output = self.command(options).output().unwrap();
        assert_eq!(contents(&self.repo()), before, "the repository has changed");
        assert!(!self.path("work/tree").exists(), "the checkout is left");
        output
    }

    /// Bisects to a proved culprit; the JSON.
    pub fn culprit(&self, options: &[&str]) -> Value {
        let output = self.bisect(options);
        assert_eq!(status(&output), 0, "{}", text(&output.stderr));
        json(&output)
    }

    /// Bisects to a complaint; what it says.
    pub fn refusal(&self, options: &[&str]) -> String {
        let output = self.bisect(options);
        let complaint = text(&output.stderr);
        assert_eq!(status(&output), 129, "{complaint}");
        complaint.lines().last().unwrap_or_default().to_owned()
    }

    /// The numbers of the commits that were built since the last call, in order.
    pub fn builds(&self) -> Vec<u32> {
        let file = self.path("builds");
        let text = std::fs::read_to_string(&file).unwrap_or_default();
        let _ = std::fs::remove_file(file);
        text.lines().map(|line| line.parse().unwrap()).collect()
    }
}

/// Runs git somewhere.
pub fn git(directory: &Path, arguments: &[&str]) -> String {
    let output = Command::new("git")
        .arg("-C")
        .arg(directory)
        .args([
            "-c",
            "user.name=T",
            "-c",
            "user.email=t@example.org",
            "-c",
            "commit.gpgsign=false",
        ])
        .args(arguments)
        .env("GIT_CONFIG_GLOBAL", "/dev/null")
        .output()
        .unwrap();
    assert!(
        output.status.success(),
        "git {arguments:?}: {}",
        text(&output.stderr)
    );
    text(&output.stdout).trim_end().to_owned()
}

/// Every file below a directory, with what is in it.
pub fn contents(directory: &Path) -> BTreeMap<PathBuf, Vec<u8>> {
    let mut files = BTreeMap::new();
    let mut open = vec![directory.to_owned()];
    while let Some(directory) = open.pop() {
        for entry in std::fs::read_dir(&directory).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                files.insert(path.clone(), Vec::new());
                open.push(path);
            } else {
                files.insert(path.clone(), std::fs::read(&path).unwrap());
            }
        }
    }
    files
}
