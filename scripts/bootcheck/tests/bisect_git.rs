//! Beside `git bisect`: how many steps it takes, and that `git bisect run bootcheck boot` is right.

mod common;
#[path = "common/scratch.rs"]
mod scratch;

use std::fmt::Write;
use std::path::Path;
use std::process::{Command, Output, Stdio};

use bootcheck::bisect::history::History;
use bootcheck::bisect::rates::Tally;
use bootcheck::bisect::search::{Costs, Next, Search};
use common::{status, text};
use scratch::{Scratch, git};

/// Builds that `bootcheck bisect` takes besides its search: GOOD, BAD, and BAD with the culprit
/// reverted. Its parents and the culprit itself are tried in the search.
const BESIDES: usize = 3;

/// A line of `length` commits with a merge now and then, as git and as we see it.
struct Simulated {
    history: History,
    names: Vec<String>,
    good: String,
}

/// Commits without files: nothing is ever built of them.
fn simulate(directory: &Path, seed: usize, length: usize) -> Simulated {
    let mut parents: Vec<Vec<usize>> = Vec::new();
    for commit in 0..length {
        // Every seventh or so closes a side branch of two commits.
        let merges = commit > 8 && (commit * 31 + seed * 17).is_multiple_of(7);
        parents.push(match commit {
            0 => vec![],
            _ if merges => vec![commit - 1, commit - 4],
            _ => vec![commit - 1],
        });
    }
    let mut stream = String::new();
    let mut commit = |mark: usize, parents: &[usize]| {
        let _ = writeln!(stream, "commit refs/heads/main\nmark :{mark}");
        let _ = writeln!(
            stream,
            "committer T <t@example.org> {} +0000\ndata 1\nx",
            1_700_000_000 + mark
        );
        for (number, parent) in parents.iter().enumerate() {
            let word = if number == 0 { "from" } else { "merge" };
            let _ = writeln!(stream, "{word} :{parent}");
        }
    };
    commit(1, &[]);
    for (number, parents) in parents.iter().enumerate() {
        let marks: Vec<usize> = parents.iter().map(|parent| parent + 2).collect();
        commit(number + 2, if marks.is_empty() { &[1] } else { &marks });
    }
    git(directory, &["init", "-q", "-b", "main"]);
    let file = directory.join("stream");
    std::fs::write(&file, stream).unwrap();
    let import = format!(
        "git fast-import --quiet --export-marks=marks < {}",
        file.display()
    );
    let done = Command::new("sh")
        .args(["-c", &import])
        .current_dir(directory)
        .status()
        .unwrap();
    assert!(done.success());
    let marks = std::fs::read_to_string(directory.join("marks")).unwrap();
    let mut names: Vec<(usize, String)> = marks
        .lines()
        .map(|line| {
            let (mark, name) = line[1..].split_once(' ').unwrap();
            (mark.parse().unwrap(), name.to_owned())
        })
        .collect();
    names.sort_unstable();
    let mut names = names.into_iter().map(|(_, name)| name);
    let good = names.next().unwrap();
    Simulated {
        history: History::new(parents),
        names: names.collect(),
        good,
    }
}

/// How many commits `git bisect run` tries, and which one it names.
fn steps_of_git(
    directory: &Path,
    simulated: &Simulated,
    bad: &[bool],
    mute: &[bool],
) -> (usize, String) {
    let list = |name: &str, which: &[bool]| {
        let names = simulated.names.iter().zip(which).filter(|(_, is)| **is);
        let text: String = names.map(|(name, _)| format!("{name}\n")).collect();
        std::fs::write(directory.join(name), text).unwrap();
    };
    list("bad", bad);
    list("mute", mute);
    let script =
        "h=$(git rev-parse HEAD); echo $h >> tried; grep -q $h mute && exit 125; ! grep -q $h bad";
    git(directory, &["checkout", "-q", "main"]);
    git(directory, &["bisect", "start", "main", &simulated.good]);
    let output = Command::new("git")
        .args(["bisect", "run", "sh", "-c", script])
        .current_dir(directory)
        .output()
        .unwrap();
    let said = text(&output.stdout) + &text(&output.stderr);
    let found = said
        .lines()
        .find_map(|line| line.strip_suffix(" is the first bad commit"));
    let tried = std::fs::read_to_string(directory.join("tried")).unwrap();
    (tried.lines().count(), found.unwrap_or_default().to_owned())
}

/// The commits that our search tries.
fn our_steps(simulated: &Simulated, bad: &[bool], mute: &[bool]) -> (usize, Vec<usize>) {
    let ten = |failed: bool| Tally {
        failed: 10 * u32::from(failed),
        passed: 10 * u32::from(!failed),
    };
    let mut search = Search::new(
        simulated.history.clone(),
        ten(false),
        ten(true),
        false,
        0.9999,
    );
    let mut tried = std::collections::BTreeSet::new();
    loop {
        match search.next(Costs {
            build: 6.0,
            boot: 0.1,
        }) {
            Next::Found(found) => return (tried.len(), found),
            Next::Contradiction => panic!("contradiction"),
            Next::Try(commit) => {
                tried.insert(commit);
                let boot = Tally {
                    failed: bad[commit].into(),
                    passed: (!bad[commit]).into(),
                };
                if mute[commit] {
                    search.skip(commit);
                } else {
                    search.record(commit, boot);
                }
            }
        }
    }
}

/// The demand: no more builds than git's steps and four, for a failure that always occurs.
#[test]
fn no_more_builds_than_gits_steps_and_four() {
    let (mut ours_with_skips, mut gits_with_skips) = (0, 0);
    for seed in 0..16 {
        let directory = tempfile::tempdir().unwrap();
        let directory = directory.path();
        let length = 3 + (seed * 37) % 120;
        let simulated = simulate(directory, seed, length);
        let culprit = (seed * 53 + 11) % length;
        let bad: Vec<bool> = (0..length)
            .map(|commit| simulated.history.ancestors(commit)[culprit])
            .collect();
        let none = vec![false; length];
        let (gits, named) = steps_of_git(directory, &simulated, &bad, &none);
        assert_eq!(named, simulated.names[culprit], "seed {seed}");
        let (ours, found) = our_steps(&simulated, &bad, &none);
        assert_eq!(found, [culprit], "seed {seed}");
        assert!(
            ours + BESIDES <= gits + 4,
            "seed {seed}: {ours} of ours, {gits} of git's"
        );

        // A fifth that cannot be built; git draws lots then, so only the sums compare.
        let mute: Vec<bool> = (0..length)
            .map(|commit| commit + 1 != length && (commit * 7 + seed * 3) % 5 == 0)
            .collect();
        std::fs::remove_file(directory.join("tried")).unwrap();
        git(directory, &["bisect", "reset"]);
        gits_with_skips += steps_of_git(directory, &simulated, &bad, &mute).0;
        ours_with_skips += our_steps(&simulated, &bad, &mute).0;
    }
    assert!(
        ours_with_skips <= gits_with_skips + 16,
        "with skips {ours_with_skips} of ours, {gits_with_skips} of git's, in 16 histories"
    );
}

/// `git bisect run bootcheck boot --build ...` in the repository itself.
fn git_bisect_run(scratch: &Scratch, good: &str, qemu: Option<&str>) -> Output {
    scratch.git(&["bisect", "start", "main", good]);
    let mut command = Command::new("git");
    command
        .arg("-C")
        .arg(scratch.repo())
        .args([
            "bisect",
            "run",
            env!("CARGO_BIN_EXE_bootcheck"),
            "boot",
            "-q",
            "--timeout",
            "5",
        ])
        .args(["--image", "out/Image", "--build"])
        .arg(format!("sh {}", scratch.path("build.sh").display()))
        .env_remove("SECRET_TOKEN")
        .stdin(Stdio::null());
    if let Some(qemu) = qemu {
        command.args(["--qemu", qemu]);
    }
    let output = command.output().unwrap();
    scratch.git(&["bisect", "reset"]);
    output
}

#[test]
fn git_bisect_run_blames_neither_a_stale_image_nor_a_broken_build_or_tester() {
    let mut scratch = Scratch::new();
    scratch.commit_file(".gitignore", "out\n");
    let commits = scratch.commit_all("good good broken good panic panic broken panic panic");
    // An image that is bad lies where the build of a good revision fails.
    std::fs::create_dir(scratch.repo().join("out")).unwrap();
    std::fs::copy(scratch.path("panic"), scratch.repo().join("out/Image")).unwrap();
    let output = git_bisect_run(&scratch, &commits[0], None);
    let said = text(&output.stdout);
    assert!(
        said.contains(&format!("{} is the first bad commit", commits[4])),
        "{said}"
    );
    assert_eq!(status(&output), 0);

    let output = git_bisect_run(&scratch, &commits[0], Some("/nonexistent/qemu"));
    let said = text(&output.stdout) + &text(&output.stderr);
    assert_ne!(status(&output), 0, "it stops");
    assert!(!said.contains("is the first bad commit"), "{said}");
}
