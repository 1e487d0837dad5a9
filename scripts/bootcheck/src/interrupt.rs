//! Ctrl-C, SIGTERM and SIGHUP, as a flag that every wait looks at.

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};
use signal_hook::iterator::Signals;

static REQUESTED: AtomicBool = AtomicBool::new(false);

/// What comes so soon after the first signal is no second thought: `timeout` sends one to the program, and
/// one to the process group that it is in.
const SAME: Duration = Duration::from_millis(500);

/// The user wants it to end; nothing about the guest follows from that.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Interrupted;

impl std::fmt::Display for Interrupted {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.write_str("interrupted")
    }
}

impl std::error::Error for Interrupted {}

/// From now on, signals set the flag. A second one while the first is being honoured ends the
/// program at once, with status 130. A SIGHUP that whoever started us has ignored, as `nohup` does, stays so;
/// not a SIGINT, which every shell script ignores for what it starts in the background.
///
/// # Errors
/// What the operating system said.
pub fn listen() -> std::io::Result<()> {
    let hangup = (!is_ignored(SIGHUP)).then_some(SIGHUP);
    let mut signals = Signals::new([SIGINT, SIGTERM].into_iter().chain(hangup))?;
    let take = move || {
        let mut first: Option<Instant> = None;
        for _ in signals.forever() {
            REQUESTED.store(true, Ordering::Relaxed);
            if first.get_or_insert_with(Instant::now).elapsed() >= SAME {
                signal_hook::low_level::exit(130);
            }
        }
    };
    std::thread::Builder::new()
        .name("signals".into())
        .spawn(take)
        .map(drop)
}

/// Whether a signal has come.
///
/// # Errors
/// [`Interrupted`] if so.
pub fn check() -> Result<(), Interrupted> {
    match REQUESTED.load(Ordering::Relaxed) {
        true => Err(Interrupted),
        false => Ok(()),
    }
}

/// Whether a signal is ignored.
#[allow(unsafe_code)]
fn is_ignored(signal: i32) -> bool {
    // SAFETY: every byte of it may be zero, and without a new action the call does nothing but fill it in.
    let (result, action) = unsafe {
        let mut action: libc::sigaction = std::mem::zeroed();
        let result = libc::sigaction(signal, std::ptr::null(), &mut action);
        (result, action)
    };
    result == 0 && action.sa_sigaction == libc::SIG_IGN
}
