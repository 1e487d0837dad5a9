//! Building an image to boot, such that no older one can be booted in its place.

use std::io;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::Context;

use crate::interrupt;
use crate::process::Tethered;

/// Why there is no image to judge.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NotBuilt {
    /// In a few words.
    pub reason: String,
    /// The build had no end.
    pub hung: bool,
}

impl NotBuilt {
    /// For this reason; the build did end, or never began.
    #[must_use]
    pub fn because(reason: String) -> Self {
        Self {
            reason,
            hung: false,
        }
    }
}

/// `sh -c command`, with nothing to read from.
#[must_use]
pub fn shell(command: &str) -> Command {
    let mut shell = Command::new("sh");
    shell.args(["-c", command]).stdin(Stdio::null());
    shell
}

/// Deletes `outputs`, runs `shell`, and sees whether the first of them, the image, is there. Of the
/// inner result: why there is no image to judge.
///
/// # Errors
/// The tester itself failed, or was interrupted; the build is gone then.
pub fn run(
    shell: &mut Command,
    outputs: &[&Path],
    patience: Option<Duration>,
) -> anyhow::Result<Result<(), NotBuilt>> {
    for path in outputs {
        match std::fs::remove_file(path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                return Err(error).with_context(|| format!("cannot delete {}", path.display()));
            }
            _ => {}
        }
    }
    let started = Instant::now();
    let mut shell = Tethered::spawn(shell).context("cannot start sh")?;
    let status = loop {
        interrupt::check()?;
        if let Some(status) = shell.wait(Duration::from_millis(100))? {
            break status;
        }
        if let Some(patience) = patience
            && started.elapsed() >= patience
        {
            shell.kill();
            return Ok(Err(NotBuilt {
                reason: format!("the build did not end within {} s", patience.as_secs_f64()),
                hung: true,
            }));
        }
    };
    if !status.success() {
        let reason = format!("the build failed ({status})");
        return Ok(Err(NotBuilt::because(reason)));
    }
    match outputs.first() {
        Some(image) if !image.exists() => {
            let reason = format!("the build left no {}", image.display());
            Ok(Err(NotBuilt::because(reason)))
        }
        _ => Ok(Ok(())),
    }
}
