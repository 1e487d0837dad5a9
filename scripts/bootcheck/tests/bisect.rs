//! `bootcheck bisect` on small repositories whose revisions build to tiny guests.

mod common;
#[path = "common/scratch.rs"]
mod scratch;

use common::{json, status, text};
use scratch::{Scratch, contents, git};

/// Everything that a session of work may have going on in a repository.
fn occupy(scratch: &Scratch) {
    let write = |name: &str, text: &str| std::fs::write(scratch.repo().join(name), text).unwrap();
    write("kind", "stashed");
    scratch.git(&["stash", "-q"]);
    scratch.git(&["bisect", "start"]);
    scratch.git(&["bisect", "bad"]);
    write("number", "staged");
    scratch.git(&["add", "number"]);
    write("kind", "dirty");
    write("untracked", "x");
}

#[test]
fn the_culprit_is_named_proved_and_reported_and_the_repository_left_alone() {
    let mut scratch = Scratch::new();
    let commits =
        scratch.commit_all("good good broken good good panic panic reset panic panic panic");
    let culprit = &commits[5];
    occupy(&scratch);
    let report = scratch.culprit(&["--good", &commits[0]]);
    assert_eq!(report["culprit"]["sha"], **culprit);
    assert_eq!(report["proved"], true);
    assert!(report["confidence"].as_f64().unwrap() >= 0.9999);
    assert_eq!(report["proof"]["parents_good"], true);
    // `kind` and `number` changed again since: it cannot be reverted alone.
    assert_eq!(report["proof"]["revert"]["outcome"], "unclear");
    assert_eq!(report["failure"]["message"], "no table at level 2");
    assert_eq!(
        report["fixes"],
        format!("Fixes: {} (\"kind: panic (6)\")", &culprit[..12])
    );

    let markdown = std::fs::read_to_string(scratch.path("report.md")).unwrap();
    for part in [
        culprit,
        "no table at level 2",
        "Fixes: ",
        "git bisect start",
        "bootcheck boot",
    ] {
        assert!(markdown.contains(part), "{part} is missing:\n{markdown}");
    }
    // git comes to the same end.
    let clone = scratch.path("clone");
    git(&scratch.path(""), &["clone", "-q", "repo", "clone"]);
    let log = scratch.path("bisect.log");
    git(&clone, &["bisect", "replay", log.to_str().unwrap()]);
    let log = git(&clone, &["bisect", "log"]);
    assert!(
        log.contains(&format!("first bad commit: [{culprit}]")),
        "{log}"
    );
}

#[test]
fn a_culprit_that_can_be_reverted_is_proved_by_that() {
    let mut scratch = Scratch::new();
    let first = scratch.commit("good");
    scratch.commit_file("note", "1");
    let culprit = scratch.commit_file("kind", "panic");
    scratch.commit_file("note", "2");
    let report = scratch.culprit(&["--good", &first]);
    assert_eq!(report["culprit"]["sha"], *culprit);
    assert_eq!(report["proof"]["revert"]["outcome"], "good");
    assert!(report["effort"]["builds"].as_u64().unwrap() <= 2 + 2 + 1);
}

#[test]
fn an_image_that_did_not_change_is_not_booted_again() {
    let mut scratch = Scratch::new();
    let first = scratch.commit("good");
    for number in 0..6 {
        scratch.commit_file("note", &number.to_string());
    }
    let culprit = scratch.commit_file("kind", "panic");
    for number in 6..12 {
        scratch.commit_file("note", &number.to_string());
    }
    let report = scratch.culprit(&["--good", &first, "--repeat", "4"]);
    assert_eq!(report["culprit"]["sha"], *culprit);
    // GOOD and BAD four times each; all others have one of their two images.
    let boots = report["effort"]["boots"].as_u64().unwrap();
    let revert = report["proof"]["revert"]["boots"]["passed"]
        .as_u64()
        .unwrap();
    assert!(
        boots <= 8 + revert,
        "{boots} boots, {revert} of them of the revert"
    );
    // And another bisection boots nothing that this one has.
    let again = scratch.culprit(&["--good", &first, "--repeat", "4"]);
    assert_eq!(again["effort"]["boots"], 0);
}

#[test]
fn where_only_skipped_commits_are_left_the_candidates_are_listed() {
    let mut scratch = Scratch::new();
    let commits = scratch.commit_all("good good broken reset broken panic panic");
    let output = scratch.bisect(&["--good", &commits[0]]);
    assert_eq!(status(&output), 1, "{}", text(&output.stderr));
    let report = json(&output);
    assert_eq!(report["proved"], false);
    assert!(report["culprit"].is_null() && report["proof"].is_null());
    let mut candidates: Vec<&str> = report["candidates"]
        .as_array()
        .unwrap()
        .iter()
        .map(|commit| commit["sha"].as_str().unwrap())
        .collect();
    candidates.sort_unstable();
    let mut expected: Vec<&str> = commits[2..6].iter().map(String::as_str).collect();
    expected.sort_unstable();
    assert_eq!(candidates, expected);
    // The log says the same to git.
    let log = std::fs::read_to_string(scratch.path("bisect.log")).unwrap();
    assert_eq!(log.matches("\ngit bisect skip ").count(), 3, "{log}");
}

#[test]
fn a_build_that_makes_nothing_is_not_judged_by_an_older_image() {
    let mut scratch = Scratch::new();
    let commits = scratch.commit_all("good good lazy panic panic");
    let output = scratch.bisect(&["--good", &commits[0]]);
    assert_eq!(status(&output), 1, "{}", text(&output.stderr));
    let report = json(&output);
    assert_eq!(report["candidates"].as_array().unwrap().len(), 2);
    let steps = report["steps"].to_string();
    assert!(steps.contains("the build left no"), "{steps}");
}

#[test]
fn a_flaky_failure_is_followed_through_its_passes() {
    let mut scratch = Scratch::new();
    let commits = scratch.commit_all("good good good flaky flaky flaky flaky");
    let report = scratch.culprit(&["--good", &commits[0]]);
    assert_eq!(report["culprit"]["sha"], *commits[3]);
    assert!(report["confidence"].as_f64().unwrap() >= 0.9999);
    // Ten, or three where boots are slow.
    let bad = &report["bad"]["boots"];
    assert!(
        bad["failed"].as_u64().unwrap() >= 3 && bad["passed"].as_u64().unwrap() > 0,
        "{bad}"
    );
}

#[test]
fn a_build_failure_is_followed_if_that_is_how_bad_fails() {
    let mut scratch = Scratch::new();
    let commits = scratch.commit_all("good good good broken broken broken");
    let report = scratch.culprit(&["--good", &commits[0]]);
    assert_eq!(report["culprit"]["sha"], *commits[3]);
    assert!(
        report["failure"]["told"]
            .as_str()
            .unwrap()
            .contains("x.c:1: error: boo")
    );
    assert_eq!(report["effort"]["boots"], 0);
}

#[test]
fn another_failure_is_a_skip_unless_any_will_do() {
    let mut scratch = Scratch::new();
    let commits = scratch.commit_all("good good reset reset panic panic");
    let output = scratch.bisect(&["--good", &commits[0]]);
    assert_eq!(json(&output)["candidates"].as_array().unwrap().len(), 3);
    let report = scratch.culprit(&["--good", &commits[0], "--any-failure"]);
    assert_eq!(report["culprit"]["sha"], *commits[2]);
    let report = scratch.culprit(&["--good", &commits[0], "--match", "reset|no table"]);
    assert_eq!(report["culprit"]["sha"], *commits[2]);
}

#[test]
fn a_build_without_end_is_a_skip() {
    let mut scratch = Scratch::new();
    let commits = scratch.commit_all("good good hang good panic panic hang");
    let good_and_bad = ["--good", &commits[0], "--bad", &commits[5]];
    let limit = ["--build-timeout", "2"];
    let report = scratch.culprit(&[&good_and_bad[..], &limit].concat());
    assert_eq!(report["culprit"]["sha"], *commits[4]);
    let mut steps = report["steps"].as_array().unwrap().iter();
    let hung = steps.find(|step| step["commit"]["sha"] == *commits[2]);
    let hung = hung.expect("the one in the middle is tried");
    assert_eq!(hung["outcome"], "skip");
    let reason = hung["skipped"].as_str().unwrap();
    assert!(reason.contains("2 s"), "{reason}");
}

/// Two lines of development, and the merge of them.
fn merged(scratch: &mut Scratch) -> (String, String, String) {
    let first = scratch.commit("good");
    scratch.git(&["checkout", "-q", "-b", "side"]);
    scratch.commit_file("side", "1");
    let culprit = scratch.commit_file("kind", "panic");
    scratch.commit_file("side", "2");
    scratch.git(&["checkout", "-q", "main"]);
    scratch.commit_file("note", "1");
    scratch.commit_file("note", "2");
    scratch.git(&["merge", "-q", "--no-ff", "-m", "merge", "side"]);
    let merge = scratch.git(&["rev-parse", "HEAD"]);
    scratch.commit_file("note", "3");
    (first, culprit, merge)
}

#[test]
fn merges_are_followed_into_both_sides_or_not_at_all() {
    let mut scratch = Scratch::new();
    let (first, culprit, merge) = merged(&mut scratch);
    let report = scratch.culprit(&["--good", &first]);
    assert_eq!(report["culprit"]["sha"], *culprit);
    let report = scratch.culprit(&["--good", &first, "--first-parent"]);
    assert_eq!(report["culprit"]["sha"], *merge);
    let report = scratch.culprit(&["--good", &first, "--path", "kind"]);
    assert_eq!(report["culprit"]["sha"], *culprit);
    assert!(
        report["commits"].as_u64().unwrap() <= 3,
        "{}",
        report["commits"]
    );
}

#[test]
fn ends_that_are_not_good_and_bad_are_refused() {
    let mut scratch = Scratch::new();
    let commits = scratch.commit_all("good good panic panic good hang full broken");
    let [first, good, panic, other, repaired, hang, full, broken] = &commits[..] else {
        panic!()
    };
    for (options, complaint) in [
        (vec!["--resume"], "no bisection was stopped"),
        (vec!["--good", "nonsense"], "nonsense is no commit"),
        (vec!["--good", good, "--bad", good], "the same commit"),
        (vec!["--good", panic, "--bad", good], "wrong order"),
        (vec!["--good", panic, "--bad", repaired], "wrong order"),
        (vec!["--good", panic, "--bad", other], "fails as BAD does"),
        (vec!["--good", first, "--bad", good], "passes: 30 boots"),
        (
            vec!["--good", first, "--bad", hang, "--build-timeout", "1"],
            "did not end within 1 s",
        ),
        (vec!["--good", broken, "--bad", "HEAD"], "the same commit"),
        (vec!["--good", first, "--bad", full], "no space left"),
        (vec!["--good", broken, "--bad", panic], "wrong order"),
        (vec!["--good", full, "--bad", broken], "no space left"),
        (
            vec!["--good", first, "--bad", panic, "--env", "SECRET_TOKEN"],
            "the build sees of the user",
        ),
        (
            vec!["--good", first, "--bad", panic, "--env", "NO_SUCH_VARIABLE"],
            "no such variable",
        ),
        (
            vec!["--good", first, "--bad", panic, "--elf", "/out"],
            "inside the checkout",
        ),
        (
            vec!["--good", first, "--bad", panic, "--", "--image", "x"],
            "among the boot options",
        ),
        (
            vec![
                "--good",
                first,
                "--bad",
                panic,
                "--",
                "--qemu",
                "/nonexistent/qemu",
            ],
            "/nonexistent/qemu",
        ),
        (
            vec!["--good", first, "--bad", panic, "--path", "nowhere"],
            "touches nowhere",
        ),
    ] {
        let said = scratch.refusal(&options);
        assert!(said.contains(complaint), "{options:?}: {said}");
    }
}

#[test]
fn good_must_be_an_ancestor_and_history_whole() {
    let mut scratch = Scratch::new();
    let (first, culprit, _) = merged(&mut scratch);
    let main = scratch.git(&["rev-parse", "HEAD~2"]);
    let said = scratch.refusal(&["--good", &main, "--bad", &culprit]);
    assert!(
        said.contains("no ancestor") && said.contains(&first[..7]),
        "{said}"
    );
    let url = format!("file://{}", scratch.repo().display());
    git(
        &scratch.path(""),
        &["clone", "-q", "--depth", "2", &url, "shallow"],
    );
    let shallow = scratch.path("shallow");
    let before = contents(&shallow);
    let output = std::process::Command::new(env!("CARGO_BIN_EXE_bootcheck"))
        .args(["bisect", "--good", &first, "--repo"])
        .arg(&shallow)
        .arg("--work")
        .arg(scratch.path("work"))
        .output()
        .unwrap();
    assert_eq!(status(&output), 129);
    let said = text(&output.stderr);
    assert!(said.contains("git fetch --unshallow"), "{said}");
    assert_eq!(contents(&shallow), before);
}

/// The demand, with real builds and boots: a failure that comes one time in four, a fifth of the
/// revisions that cannot be built, a tenth that fails in another way. The arithmetic alone is
/// tried with a hundred such histories in the unit tests; HISTORIES says how many here.
#[test]
fn a_flaky_failure_is_found_in_random_histories() {
    let histories: u64 = std::env::var("HISTORIES").map_or(1, |number| number.parse().unwrap());
    for seed in 0..histories {
        let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) + 1;
        let mut below = |bound: u64| {
            // xorshift64
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            state % bound
        };
        let length = 8 + below(24) as usize;
        let culprit = 1 + below(length as u64 - 1) as usize;
        let kinds: Vec<&str> = (0..=length)
            .map(|number| match below(10) {
                // Both ends can be judged, and so can the culprit and its parent.
                _ if number == 0 || number + 1 == culprit => "good",
                _ if number == length || number == culprit => "flaky",
                0 | 1 => "broken",
                2 => "reset",
                _ if number < culprit => "good",
                _ => "flaky",
            })
            .collect();
        let mut scratch = Scratch::new();
        let commits = scratch.commit_all(&kinds.join(" "));
        let report = scratch.culprit(&["--good", &commits[0]]);
        assert_eq!(
            report["culprit"]["sha"], *commits[culprit],
            "seed {seed}: {kinds:?}"
        );
    }
}
