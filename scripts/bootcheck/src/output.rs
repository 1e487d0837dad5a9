//! Results, and standard output, which may be closed by its reader, as `| head` does.

use std::io::{ErrorKind, Write};
use std::path::Path;

use anyhow::Context;
use serde::Serialize;

use crate::files;

/// Standard output, as a file's name.
pub const STDOUT: &str = "-";

/// Writes a result to where an option says.
///
/// # Errors
/// What the operating system said.
pub fn write_result(path: &Path, text: &str) -> anyhow::Result<()> {
    if path != Path::new(STDOUT) {
        return files::write_atomically(path, text.as_bytes());
    }
    let mut stdout = std::io::stdout().lock();
    let result = stdout.write_all(text.as_bytes());
    match result.and_then(|()| stdout.flush()) {
        Err(error) if error.kind() != ErrorKind::BrokenPipe => {
            Err(error).context("cannot write to standard output")
        }
        _ => Ok(()),
    }
}

/// Writes a value there, as JSON for people to read, too.
///
/// # Errors
/// As for [`write_result`].
pub fn write_json(path: &Path, value: &impl Serialize) -> anyhow::Result<()> {
    write_result(path, &(serde_json::to_string_pretty(value)? + "\n"))
}

/// Sees whether a result could be written there: better before hours of work than after.
///
/// # Errors
/// What the operating system said.
pub fn check_result(path: &Path) -> anyhow::Result<()> {
    match path == Path::new(STDOUT) {
        true => Ok(()),
        false => files::check(path),
    }
}

/// Whoever closes the pipe does not want to read on: no failure. A full disk is one.
///
/// # Panics
/// If nothing can be written for another reason: without a trace, as it is nobody's mistake. `main` makes
/// 129 of it.
pub fn expect_written(result: std::io::Result<()>) {
    match result {
        Err(error) if error.kind() != ErrorKind::BrokenPipe => {
            eprintln!("bootcheck: cannot write to standard output: {error}");
            std::panic::resume_unwind(Box::new(error))
        }
        _ => {}
    }
}

/// In place of the standard library's, which panics where a pipe is closed.
macro_rules! print {
    ($($argument:tt)*) => {{
        use std::io::Write as _;
        $crate::output::expect_written(write!(std::io::stdout(), $($argument)*));
    }};
}

/// The same, and the end of the line.
macro_rules! println {
    ($($argument:tt)*) => {{
        use std::io::Write as _;
        $crate::output::expect_written(writeln!(std::io::stdout(), $($argument)*));
    }};
}
