//! One boot of the matrix: what is booted, and what must come of it.

use std::fs::{self, File};
use std::io::Write;
use std::path::PathBuf;

use anyhow::Context;
use flate2::Compression;
use flate2::write::GzEncoder;
use serde::{Deserialize, Serialize};

use crate::cli::BootArgs;
use crate::files::write_atomically;
use crate::report::Report;
use crate::size::Size;
use crate::verdict::Verdict;

/// One boot of the matrix.
#[derive(Debug, Clone)]
pub struct Cell {
    /// Its name, unique in the matrix: the row's, and the values that set it apart.
    pub name: String,
    /// The row that it comes from.
    pub group: String,
    /// The values that set it apart in its row, in order.
    pub values: Vec<String>,
    /// The options of `bootcheck boot` that make it, `--expect` and `--qemu` last.
    pub options: Vec<String>,
    /// The same, understood.
    pub args: BootArgs,
    /// What must come of it.
    pub expect: Expected,
    /// Files to make before it boots.
    pub makes: Vec<MadeFile>,
}

/// What must come of a boot; what is not said does not matter.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Expected {
    /// The verdict.
    pub verdict: Verdict,
    /// The stage that it ends in.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub stage: Option<String>,
    /// The class of its first exception.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ec: Option<u8>,
    /// A text that its console must show, or was to show had it come up.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub says: Option<String>,
}

/// A file that a cell boots with and that is made for it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum MadeFile {
    /// An initial RAM disk of this size. Zeros that take no room on the disk; no guest looks
    /// into it.
    Initrd(Size, PathBuf),
    /// The first file, compressed as `gzip` does.
    Gzip(PathBuf, PathBuf),
}

impl Expected {
    /// What is wrong with a boot that came to this; `None` if nothing is.
    #[must_use]
    pub fn complaint(&self, report: &Report) -> Option<String> {
        if report.verdict != self.verdict {
            return Some(match self.verdict {
                Verdict::Pass => report.verdict.to_string(),
                expected => format!("{}, not {expected}", report.verdict),
            });
        }
        if let Some(stage) = &self.stage
            && report.stage.as_ref() != Some(stage)
        {
            return Some(format!("{}, but not at stage {stage}", self.verdict));
        }
        if let Some(ec) = self.ec {
            let expected = format!("{ec:#04x}");
            let first = report.first_exception.as_ref();
            if first.and_then(|first| first.ec.as_ref()) != Some(&expected) {
                return Some(format!("{}, but not of class {expected}", self.verdict));
            }
        }
        let said = [&report.console, &report.recorded_console];
        let text = self.says.as_ref()?;
        let says_it = said.into_iter().flatten().any(|said| said.contains(text));
        (!says_it).then(|| format!("{}, but it does not say {text:?}", self.verdict))
    }
}

impl Cell {
    /// The command that repeats this cell alone, to be pasted into the directory that the matrix
    /// ran in.
    #[must_use]
    pub fn command(&self) -> String {
        let program = std::env::args().next();
        let words = [program.as_deref().unwrap_or("bootcheck"), "boot"]
            .into_iter()
            .chain(self.options.iter().map(String::as_str));
        shlex::try_join(words).unwrap_or_default()
    }

    /// Makes the files that the cell needs.
    ///
    /// # Errors
    /// What the operating system said.
    pub fn make_files(&self) -> anyhow::Result<()> {
        self.makes.iter().try_for_each(MadeFile::make)
    }
}

impl MadeFile {
    fn make(&self) -> anyhow::Result<()> {
        match self {
            Self::Initrd(size, path) => File::create(path)
                .and_then(|file| file.set_len(size.0))
                .with_context(|| format!("cannot make {}", path.display())),
            Self::Gzip(from, to) => {
                // An image that is not there is told when its cell boots.
                let Ok(bytes) = fs::read(from) else {
                    return Ok(());
                };
                let mut encoder = GzEncoder::new(Vec::new(), Compression::fast());
                encoder.write_all(&bytes)?;
                write_atomically(to, &encoder.finish()?)
            }
        }
    }
}
