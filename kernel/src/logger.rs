//! `log` on the console, with time, level and target; and the same lines from
//! before `log` can be set up.

use core::sync::atomic::{AtomicUsize, Ordering};

use log::{Level, LevelFilter, Log, Metadata, Record};

use crate::arch::timer;
use crate::console::print_line;

// Plain loads and stores only, for the early stage.
static MAX_LEVEL: AtomicUsize = AtomicUsize::new(LevelFilter::Info as usize);

/// Shows messages up to `level` from now on.
pub fn set_level(level: LevelFilter) {
    MAX_LEVEL.store(level as usize, Ordering::Relaxed);
}

/// Whether a message of `level` is shown.
pub fn enabled(level: Level) -> bool {
    level as usize <= MAX_LEVEL.load(Ordering::Relaxed)
}

/// Prints one log line, if its level is shown.
pub fn line(level: Level, target: &str, message: core::fmt::Arguments<'_>) {
    if enabled(level) {
        let us = timer::uptime_us();
        let (seconds, us) = (us / 1_000_000, us % 1_000_000);
        print_line(format_args!(
            "[{seconds:5}.{us:06}] {level:<5} {target}: {message}"
        ));
    }
}

struct ConsoleLog;

impl Log for ConsoleLog {
    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        enabled(metadata.level())
    }

    fn log(&self, record: &Record<'_>) {
        // `kernel::mm::fixmap` says no more than `mm::fixmap`.
        let target = record.target();
        line(
            record.level(),
            target.strip_prefix("kernel::").unwrap_or(target),
            *record.args(),
        );
    }

    fn flush(&self) {}
}

/// Makes the `log` macros work. Needs the MMU: `log` sets itself up by an
/// exclusive access.
pub fn init() {
    // Fails only if called twice, which changes nothing.
    let _ = log::set_logger(&ConsoleLog);
    let level = LevelFilter::iter().nth(MAX_LEVEL.load(Ordering::Relaxed));
    log::set_max_level(level.unwrap_or(LevelFilter::Trace));
}

/// A log line of the early stage.
macro_rules! early_info {
    ($($arg:tt)*) => {
        $crate::logger::line(log::Level::Info, "early", format_args!($($arg)*))
    };
}
/// A warning of the early stage.
macro_rules! early_warn {
    ($($arg:tt)*) => {
        $crate::logger::line(log::Level::Warn, "early", format_args!($($arg)*))
    };
}
pub(crate) use {early_info, early_warn};
