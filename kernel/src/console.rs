//! The console in every stage: one PL011, at its physical address with the MMU
//! off, identity-mapped after, in the fixmap at last.
//!
//! Every line starts at the left: whoever is interrupted in the middle of one
//! (a panic, an exception) cannot spoil the next.

use core::fmt::{self, Write};
use core::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use crate::blackbox;
use crate::boot::DEFAULT_UART_PA;
use crate::drivers::pl011::{NotAPl011, Pl011, Stuck};
use crate::mm::layout::PAGE_SIZE;

// Plain loads and stores only: with the MMU off there are no exclusives. The
// address is a device's, not the image's, so it survives the jump.
static BASE: AtomicU64 = AtomicU64::new(NONE);
static DECIDED: AtomicBool = AtomicBool::new(false);
static MID_LINE: AtomicBool = AtomicBool::new(false);
const NONE: u64 = 0;

/// Makes the PL011 at `base` the console, if one answers there. Otherwise the
/// console is off and the boot goes on.
///
/// # Errors
/// [`NotAPl011`].
///
/// # Safety
/// As for [`Pl011::probe`].
pub unsafe fn open(base: u64) -> Result<(), NotAPl011> {
    disable();
    // SAFETY: the caller's.
    let uart = unsafe { Pl011::probe(base)? };
    BASE.store(uart.base(), Ordering::Relaxed);
    Ok(())
}

/// The console's page is now at `page`; nothing happens if there is no console.
///
/// # Safety
/// `page` must map the page in which a console was opened.
pub unsafe fn move_to(page: u64) {
    let base = BASE.load(Ordering::Relaxed);
    if base != NONE {
        BASE.store(page + base % PAGE_SIZE, Ordering::Relaxed);
    }
}

/// Turns the console off for good: nothing may be written where no PL011 is.
pub fn disable() {
    BASE.store(NONE, Ordering::Relaxed);
    DECIDED.store(true, Ordering::Relaxed);
}

/// For a death before anybody knew where the console is: tries the default.
pub fn open_default() {
    if !DECIDED.load(Ordering::Relaxed) {
        DECIDED.store(true, Ordering::Relaxed);
        // SAFETY: the MMU is off, so the address is QEMU's `virt` UART, or
        // something whose ID registers say that it is none.
        let _ = unsafe { open(DEFAULT_UART_PA) };
    }
}

fn uart() -> Option<Pl011> {
    match BASE.load(Ordering::Relaxed) {
        NONE => None,
        // SAFETY: open() probed it, move_to()'s callers kept up with it.
        base => Some(unsafe { Pl011::at(base) }),
    }
}

fn send(bytes: &[u8]) {
    let Some(uart) = uart() else { return };
    if let Err(Stuck) = uart.send(bytes) {
        // A console that takes nothing must not slow the boot down for ever.
        BASE.store(NONE, Ordering::Relaxed);
    }
}

/// Writes to the console, past every lock: for this module's macros.
pub struct Raw;

impl Write for Raw {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        blackbox::record_console(text);
        for line in text.as_bytes().split_inclusive(|&byte| byte == b'\n') {
            // First, since an exception may come between any two bytes.
            MID_LINE.store(true, Ordering::Relaxed);
            match line.strip_suffix(b"\n") {
                Some(line) => {
                    send(line);
                    MID_LINE.store(false, Ordering::Relaxed);
                    send(b"\r\n");
                }
                None => send(line),
            }
        }
        Ok(())
    }
}

/// Prints a line that starts at the left margin.
pub fn print_line(line: fmt::Arguments<'_>) {
    if MID_LINE.load(Ordering::Relaxed) {
        let _ = Raw.write_str("\n");
    }
    // The console cannot fail; a value's own Display may, and the rest still counts.
    // Plain text is left to no formatter.
    let _ = match line.as_str() {
        Some(text) => Raw.write_str(text),
        None => Raw.write_fmt(line),
    };
    let _ = Raw.write_str("\n");
}

/// Waits until all output has left the UART.
pub fn drain() {
    if let Some(uart) = uart() {
        uart.drain();
    }
}

/// Prints a line without time or level, at once: KTAP, reports, the verdict.
macro_rules! raw_println {
    ($($arg:tt)*) => { $crate::console::print_line(format_args!($($arg)*)) };
}
pub(crate) use raw_println;
