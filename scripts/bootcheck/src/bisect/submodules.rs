//! The submodules of a checkout, out of the user's own clones of them: nothing is fetched, and nothing
//! written there.
//!
//! A submodule that the user never initialised stays an empty directory, as it is in the user's checkout.

use std::path::{Component, Path, PathBuf};

use anyhow::Context;

use super::git::Git;
use super::tree::Tree;

/// Checks out the submodules of what is checked out, and theirs; `user` is the repository that the checkout
/// is of.
///
/// # Errors
/// The user's clone of one lacks a commit, or as [`Tree::checkout`].
pub fn enter(checkout: &Git, user: &Git) -> anyhow::Result<()> {
    for Submodule { name, path } in list(checkout) {
        let Some(commit) = commit_of(checkout, &path)? else {
            continue;
        };
        let Some(clone) = clone_of(user, &name, &path) else {
            continue;
        };
        clone
            .resolve(&commit)
            .with_context(|| format!("the submodule {path} lacks a commit; `git fetch` it"))?;
        Tree::make(&checkout.directory().join(&path), &clone)?.checkout(&commit)?;
    }
    Ok(())
}

/// The submodules that a commit has and the user's clone does not: those are left to the build.
#[must_use]
pub fn missing(user: &Git, commit: &str) -> Vec<String> {
    let all = read(user, &["--blob", &format!("{commit}:.gitmodules")]);
    all.into_iter()
        .filter(|one| clone_of(user, &one.name, &one.path).is_none())
        .map(|one| one.path)
        .collect()
}

/// The mode of a submodule in the index.
const GITLINK: &str = "160000";

struct Submodule {
    name: String,
    path: String,
}

/// What .gitmodules of the checkout names.
fn list(checkout: &Git) -> Vec<Submodule> {
    match checkout.directory().join(".gitmodules").is_file() {
        true => read(checkout, &["--file", ".gitmodules"]),
        false => Vec::new(),
    }
}

fn read(git: &Git, from: &[&str]) -> Vec<Submodule> {
    let query = ["-z", "--get-regexp", r"^submodule\..*\.path$"];
    let text = git.text(&[&["config"], from, &query].concat());
    let entries = text.unwrap_or_default();
    entries.split('\0').filter_map(parse).collect()
}

/// `submodule.NAME.path`, a new line, and the path.
fn parse(entry: &str) -> Option<Submodule> {
    let (key, path) = entry.split_once('\n')?;
    let name = key.strip_prefix("submodule.")?.strip_suffix(".path")?;
    // .gitmodules is anybody's: neither may lead to another place.
    let is_inside = |text: &str| {
        let mut parts = Path::new(text).components();
        parts.all(|part| matches!(part, Component::Normal(_)))
    };
    (is_inside(name) && is_inside(path)).then(|| Submodule {
        name: name.to_owned(),
        path: path.to_owned(),
    })
}

/// The commit that the checkout wants of a submodule, if there is one.
fn commit_of(checkout: &Git, path: &str) -> anyhow::Result<Option<String>> {
    let listed = checkout.text(&[
        "--literal-pathspecs",
        "ls-files",
        "-z",
        "--stage",
        "--",
        path,
    ])?;
    let entry = listed.split_terminator('\0').find_map(|entry| {
        let (entry, at) = entry.split_once('\t')?;
        (at == path).then_some(entry)
    });
    // Mode, commit, and 0 where nothing is in conflict.
    let commit = entry.and_then(|entry| entry.strip_prefix(GITLINK)?.strip_suffix(" 0"));
    Ok(commit.map(|commit| commit.trim().to_owned()))
}

/// The user's clone of a submodule: below .git, or, made by an old git, in the checkout itself.
fn clone_of(user: &Git, name: &str, path: &str) -> Option<Git> {
    let below = |option: &str| -> Option<PathBuf> {
        let directory = user.path(&[option]).ok()?;
        Some(directory.join("modules").join(name))
    };
    let in_checkout = || Some(user.top().join(path).join(".git"));
    let places = [below("--git-dir"), below("--git-common-dir"), in_checkout()];
    let clone = places
        .into_iter()
        .flatten()
        .find(|place| place.join("objects").is_dir())?;
    Some(Git::at(&clone))
}
