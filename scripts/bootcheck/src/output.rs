//! Standard output that may be closed by its reader, as `| head` does.

/// Whoever closes the pipe does not want to read on: no failure. A full disk is one.
///
/// # Panics
/// If nothing can be written for another reason: without a trace, as it is nobody's mistake. `main` makes
/// 129 of it.
pub fn expect_written(result: std::io::Result<()>) {
    match result {
        Err(error) if error.kind() != std::io::ErrorKind::BrokenPipe => {
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
