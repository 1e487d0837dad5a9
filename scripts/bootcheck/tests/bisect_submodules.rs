//! `bootcheck bisect` of a repository with submodules.

mod common;
#[path = "common/scratch.rs"]
mod scratch;

use scratch::{Scratch, git};

/// Commits what is in a directory, and gives the commit's name.
fn commit(directory: &std::path::Path, message: &str) -> String {
    git(directory, &["add", "-A"]);
    git(directory, &["commit", "-q", "-m", message]);
    git(directory, &["rev-parse", "HEAD"])
}

/// git with submodules from local paths, as no other repository is at hand.
const LOCAL: [&str; 2] = ["-c", "protocol.file.allow=always"];

/// A repository with a file in it, which this becomes a submodule of.
fn add_submodule(scratch: &Scratch, name: &str, of: &std::path::Path) -> std::path::PathBuf {
    let origin = scratch.path(name);
    std::fs::create_dir(&origin).unwrap();
    git(&origin, &["init", "-q", "-b", "main"]);
    std::fs::write(origin.join("kind"), "good").unwrap();
    commit(&origin, "good");
    let add = [
        "submodule",
        "--quiet",
        "add",
        origin.to_str().unwrap(),
        name,
    ];
    git(of, &[&LOCAL[..], &add].concat());
    origin
}

/// A history in which `lib` is a directory at first and a submodule later, which has another, `deep`, which panics
/// in the end: GOOD, and the culprit.
fn history(scratch: &mut Scratch) -> (String, String) {
    scratch.commit("good");
    std::fs::create_dir(scratch.repo().join("lib")).unwrap();
    let good = scratch.commit_file("lib/file", "1");
    scratch.git(&["rm", "-q", "-r", "lib"]);
    let lib = add_submodule(scratch, "lib", &scratch.repo());
    let deep = add_submodule(scratch, "deep", &lib);
    commit(&lib, "a submodule of its own");
    let checkout = scratch.repo().join("lib");
    git(&checkout, &["pull", "-q"]);
    scratch.commit_file("note", "1");
    let update = ["submodule", "--quiet", "update", "--init", "--recursive"];
    scratch.git(&[&LOCAL[..], &update].concat());
    scratch.commit_file("note", "2");

    std::fs::write(deep.join("kind"), "panic").unwrap();
    commit(&deep, "panic");
    git(&checkout.join("deep"), &["pull", "-q", "origin", "main"]);
    commit(&checkout, "the new deep");
    let culprit = commit(&scratch.repo(), "the new lib");
    scratch.commit_file("note", "3");
    (good, culprit)
}

#[test]
fn submodules_come_from_the_users_clone_of_them() {
    let mut scratch = Scratch::new();
    let (good, culprit) = history(&mut scratch);
    // Nothing is fetched.
    for origin in ["lib", "deep"] {
        std::fs::remove_dir_all(scratch.path(origin)).unwrap();
    }
    let report = scratch.culprit(&["--good", &good]);
    assert_eq!(report["culprit"]["sha"], *culprit);
    assert_eq!(report["proof"]["revert"]["outcome"], "good");
}

#[test]
fn a_submodule_that_is_not_there_or_not_whole_is_told() {
    let mut scratch = Scratch::new();
    let (good, _) = history(&mut scratch);
    let lost = "1234567812345678123456781234567812345678";
    scratch.git(&["update-index", "--cacheinfo", "160000", lost, "lib"]);
    scratch.git(&["commit", "-q", "-m", "a commit that was never fetched"]);
    let said = scratch.refusal(&["--good", &good]);
    assert!(said.contains("the submodule lib lacks a commit"), "{said}");
    assert!(
        said.contains(lost) && said.contains("modules/lib"),
        "{said}"
    );

    scratch.git(&["reset", "-q", "--hard", "HEAD~1"]);
    scratch.git(&["submodule", "--quiet", "deinit", "--all", "--force"]);
    std::fs::remove_dir_all(scratch.repo().join(".git/modules")).unwrap();
    let output = scratch.bisect(&["--good", &good]);
    let said = common::text(&output.stderr);
    assert!(
        said.contains("not for the builds: the submodules lib\n"),
        "{said}"
    );
    assert!(said.contains("passes: 30 boots"), "{said}");
}
