//! A checkout of our own, in a repository of our own that borrows the user's objects.
//!
//! `git worktree` would write to the user's repository, and a crash would leave it there. This one
//! only reads: whatever happens, checkout, index, stash, refs and an ongoing bisection stay as they
//! are.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, bail};

use super::git::Git;
use super::submodules;

/// The checkout. One directory for all revisions: paths in debug information stay the same, and
/// each build only does what the last one has not done.
#[derive(Debug)]
pub struct Tree {
    git: Git,
    /// The repository it is a checkout of.
    user: Git,
}

impl Tree {
    /// Makes the checkout, or takes the one that is there.
    ///
    /// # Errors
    /// The disk is full, or git failed.
    pub fn make(directory: &Path, user: &Git) -> anyhow::Result<Self> {
        let objects = user.objects()?;
        let alternates = directory.join(".git/objects/info/alternates");
        let borrowed = quoted(&objects);
        if fs::read_to_string(&alternates).is_ok_and(|old| old == borrowed) {
            return Ok(Self {
                git: Git::at(directory),
                user: user.clone(),
            });
        }
        remove(directory)?;
        let cannot = || format!("cannot make a checkout in {}", directory.display());
        fs::create_dir_all(directory).with_context(cannot)?;
        let git = Git::at(directory);
        let format = format!("--object-format={}", user.object_format()?);
        git.text(&["init", "--quiet", "--template=", &format])
            .with_context(cannot)?;
        for (key, value) in [
            ("core.hooksPath", "/dev/null"),
            ("advice.detachedHead", "false"),
            ("gc.auto", "0"),
            ("maintenance.auto", "false"),
            ("user.name", "bootcheck"),
            ("user.email", "bootcheck@localhost"),
        ] {
            git.text(&["config", key, value])?;
        }
        // A shallow clone is one without the parents it names.
        let shallow = user.path(&["--git-path", "shallow"])?;
        if shallow.exists() {
            fs::copy(shallow, directory.join(".git/shallow")).with_context(cannot)?;
        }
        fs::create_dir_all(directory.join(".git/objects/info")).with_context(cannot)?;
        fs::write(alternates, borrowed).with_context(cannot)?;
        Ok(Self {
            git,
            user: user.clone(),
        })
    }

    /// Its directory.
    #[must_use]
    pub fn directory(&self) -> &Path {
        self.git.directory()
    }

    /// Checks a commit out, and its submodules. What the last one left and git ignores stays, for the
    /// next build to go on from.
    ///
    /// # Errors
    /// The disk is full, or the repository is damaged or partial, or a submodule's is.
    pub fn checkout(&self, sha: &str) -> anyhow::Result<()> {
        // An interrupted revert, if there was one.
        let _ = fs::remove_file(self.directory().join(".git/index.lock"));
        self.git
            .text(&["checkout", "--quiet", "--force", "--detach", sha])?;
        self.git.text(&["clean", "--quiet", "-ffd"])?;
        submodules::enter(&self.git, &self.user)
    }

    /// Checks out `tip` with `culprit` reverted. Of the inner result: why that cannot be done.
    ///
    /// # Errors
    /// As [`Self::checkout`].
    pub fn checkout_reverted(
        &self,
        tip: &str,
        culprit: &str,
    ) -> anyhow::Result<Result<(), String>> {
        self.checkout(tip)?;
        if self.git.text(&["revert", "--no-commit", culprit]).is_ok() {
            submodules::enter(&self.git, &self.user)?;
            return Ok(Ok(()));
        }
        let conflicts = self.git.text(&["diff", "--name-only", "--diff-filter=U"])?;
        self.git.text(&["reset", "--quiet", "--hard", tip])?;
        let conflicts: Vec<&str> = conflicts.lines().collect();
        Ok(Err(match conflicts[..] {
            [] => "it cannot be reverted alone".into(),
            _ => format!("reverting it conflicts in {}", conflicts.join(", ")),
        }))
    }

    /// The name of a file's content in the commit that is checked out.
    #[must_use]
    pub fn blob(&self, path: &str) -> Option<String> {
        self.git
            .text(&["rev-parse", "--verify", "--quiet", &format!("HEAD:{path}")])
            .ok()
    }

    /// Where a file of the revision is: `path`, seen from the root of the checkout.
    ///
    /// # Errors
    /// It is outside of the checkout.
    pub fn file(&self, path: &Path) -> anyhow::Result<PathBuf> {
        let climbs = path
            .components()
            .any(|part| part == std::path::Component::ParentDir);
        if path.is_absolute() || climbs {
            bail!(
                "{} must be a path inside the checkout, where the build puts it",
                path.display()
            );
        }
        Ok(self.directory().join(path))
    }
}

/// A line for git's list of alternates, quoted as a string of C: a path may have any byte in it.
fn quoted(path: &Path) -> String {
    let mut line = String::from("\"");
    for byte in path.as_os_str().as_encoded_bytes() {
        match byte {
            b'"' | b'\\' => line.push_str(&format!("\\{}", char::from(*byte))),
            b' '..=b'~' => line.push(char::from(*byte)),
            _ => line.push_str(&format!("\\{byte:03o}")),
        }
    }
    line + "\"\n"
}

/// Removes a directory with all that is in it, if it is there.
///
/// # Errors
/// What the operating system said.
pub fn remove(directory: &Path) -> anyhow::Result<()> {
    match fs::remove_dir_all(directory) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
            Err(error).with_context(|| format!("cannot remove {}", directory.display()))
        }
        _ => Ok(()),
    }
}
