//! The directory in which a bisection works, and what stays of it.

use std::fs::{self, DirBuilder, File};
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};

use anyhow::{Context, bail};

use super::git::Git;
use super::tree;
use crate::digest;

/// The directory; nobody else works in it at the same time.
#[derive(Debug)]
pub struct Work {
    directory: PathBuf,
    _lock: File,
    /// The checkout stays, for the bisection to go on with.
    pub keep_tree: bool,
}

impl Work {
    /// Where `--work` says, or in the user's cache directory, by the repository's place.
    ///
    /// # Errors
    /// It cannot be made, or another bisection is at work there.
    pub fn open(named: Option<&Path>, git: &Git) -> anyhow::Result<Self> {
        let directory = match named {
            Some(directory) => std::path::absolute(directory)?,
            None => default_place(git)?,
        };
        let cannot = || {
            let other = if named.is_none() {
                "; --work names another place"
            } else {
                ""
            };
            format!("cannot work in {}{other}", directory.display())
        };
        // What the builds of a private repository say is nobody else's business.
        let mut builder = DirBuilder::new();
        builder
            .recursive(true)
            .mode(0o700)
            .create(&directory)
            .with_context(cannot)?;
        let lock = File::create(directory.join("lock")).with_context(cannot)?;
        let operation = rustix::fs::FlockOperation::NonBlockingLockExclusive;
        if rustix::fs::flock(&lock, operation).is_err() {
            bail!("another bisection is at work in {}", directory.display());
        }
        Ok(Self {
            directory,
            _lock: lock,
            keep_tree: false,
        })
    }

    /// The directory.
    #[must_use]
    pub fn directory(&self) -> &Path {
        &self.directory
    }

    /// The checkout in it.
    #[must_use]
    pub fn tree(&self) -> PathBuf {
        self.directory.join("tree")
    }

    /// What boots came to, kept for later bisections.
    #[must_use]
    pub fn observations(&self) -> PathBuf {
        self.directory.join("observations")
    }

    /// Forgets what an earlier bisection had built.
    ///
    /// # Errors
    /// What the operating system said.
    pub fn forget(&self) -> anyhow::Result<()> {
        let _ = fs::remove_file(self.directory.join("journal.json"));
        tree::remove(&self.directory.join("images"))?;
        tree::remove(&self.directory.join("builds"))
    }
}

impl Drop for Work {
    fn drop(&mut self) {
        if !self.keep_tree {
            // The next bisection would remove it as well.
            let _ = tree::remove(&self.tree());
        }
    }
}

fn default_place(git: &Git) -> anyhow::Result<PathBuf> {
    // A relative one would lead into the user's checkout; the standard says not to heed it.
    let named = |variable| {
        let path = std::env::var_os(variable).map(PathBuf::from);
        path.filter(|path| path.is_absolute())
    };
    let home = || Some(named("HOME")?.join(".cache"));
    let Some(cache) = named("XDG_CACHE_HOME").or_else(home) else {
        bail!("neither HOME nor XDG_CACHE_HOME names a directory: say --work DIR");
    };
    let top = git.top();
    let top = top.canonicalize().unwrap_or(top);
    let digest = digest::of_bytes(top.as_os_str().as_encoded_bytes());
    let mark = &digest[..12];
    Ok(cache.join(format!("bootcheck/bisect-{mark}")))
}
