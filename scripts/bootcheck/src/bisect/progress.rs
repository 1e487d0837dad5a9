//! What the person who waits gets to see: a line for each thing that is known, and on a terminal
//! what is going on right now.

use std::io::Write;
use std::time::Duration;

use indicatif::{ProgressBar, ProgressStyle};

use crate::ci;

/// Lines on standard error, and a moving one below them.
#[derive(Debug)]
pub struct Progress {
    bar: ProgressBar,
    estimate: String,
}

impl Progress {
    /// Nothing is shown yet.
    #[must_use]
    pub fn start() -> Self {
        let bar = ProgressBar::new_spinner();
        if let Ok(style) = ProgressStyle::with_template("{spinner} {wide_msg} {elapsed}") {
            bar.set_style(style);
        }
        bar.enable_steady_tick(Duration::from_millis(250));
        Self {
            bar,
            estimate: String::new(),
        }
    }

    /// A line that stays.
    pub fn say(&self, line: &str) {
        let line = crate::escape::escape(line.as_bytes());
        self.bar.suspend(|| {
            // Whoever closed standard error does not want to know.
            let _ = writeln!(anstream::stderr(), "bisect: {}", ci::shown(&line));
        });
    }

    /// What is going on from now on.
    pub fn doing(&self, what: &str) {
        let what = crate::escape::escape(what.as_bytes());
        self.bar.reset_elapsed();
        self.bar.set_message(format!("{what}{}", self.estimate));
    }

    /// How much is left.
    pub fn estimate(&mut self, builds: u32, seconds: f64) {
        self.estimate = format!("; {}", left(builds, seconds));
    }

    /// The moving line goes.
    pub fn end(&self) {
        self.bar.finish_and_clear();
    }
}

/// `about 4 builds, 2 min left`
#[must_use]
pub fn left(builds: u32, seconds: f64) -> String {
    let builds = match builds {
        0 => "only boots".to_owned(),
        1 => "about 1 build".to_owned(),
        _ => format!("about {builds} builds"),
    };
    format!("{builds}, {} left", duration(seconds))
}

/// `0.3 s`, `12 s`, `3 min`, `1.5 h`
#[must_use]
pub fn duration(seconds: f64) -> String {
    match seconds {
        ..10.0 => format!("{seconds:.1} s"),
        ..100.0 => format!("{seconds:.0} s"),
        ..6000.0 => format!("{:.0} min", seconds / 60.0),
        _ => format!("{:.1} h", seconds / 3600.0),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_left_is_told_in_few_words() {
        assert_eq!(left(4, 130.0), "about 4 builds, 2 min left");
        assert_eq!(left(1, 7.25), "about 1 build, 7.2 s left");
        assert_eq!(left(0, 0.5), "only boots, 0.5 s left");
        assert_eq!(duration(9000.0), "2.5 h");
    }
}
