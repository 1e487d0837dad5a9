//! An ELF that is opened when it is first needed.

use std::path::PathBuf;
use std::sync::OnceLock;

use super::Symbols;

/// The ELF that belongs to an image; shared by whoever shows addresses of it.
#[derive(Debug)]
pub struct Source {
    path: PathBuf,
    opened: OnceLock<Result<Symbols, String>>,
}

impl Source {
    /// Nothing is opened yet.
    #[must_use]
    pub fn new(path: PathBuf) -> Self {
        Self {
            path,
            opened: OnceLock::new(),
        }
    }

    /// The symbols, if the file has any. Until the first call the file may still change.
    ///
    /// # Errors
    /// Why there are none, with the file's name.
    pub fn get(&self) -> Result<&Symbols, &str> {
        let opened = self.opened.get_or_init(|| Symbols::open(&self.path));
        opened.as_ref().map_err(String::as_str)
    }

    /// The symbols, for a command that can do nothing without.
    ///
    /// # Errors
    /// Why there are none.
    pub fn require(&self) -> anyhow::Result<&Symbols> {
        self.get().map_err(|reason| anyhow::anyhow!("{reason}"))
    }
}
