//! How the kernel dies: says why, then ends the boot as a failure.

use core::panic::PanicInfo;
use core::sync::atomic::{AtomicBool, Ordering};

use crate::arch::exception::ExceptionFrame;
use crate::arch::power::{self, Outcome};
use crate::console::{self, raw_println};
use crate::{blackbox, fault, report, stage};

// A panic inside a panic must not start over. Plain loads and stores.
static PANICKING: AtomicBool = AtomicBool::new(false);

#[panic_handler]
fn panic(info: &PanicInfo<'_>) -> ! {
    if PANICKING.load(Ordering::Relaxed) {
        raw_println!("Kernel panic while dying: {}", info.message());
        finish();
    }
    PANICKING.store(true, Ordering::Relaxed);
    blackbox::record_panic(info);
    console::open_default();
    raw_println!("Kernel panic - not syncing: {}", info.message());
    if let Some(location) = info.location() {
        raw_println!("  at {location}");
    }
    raw_println!("  in stage {}", stage::current().name());
    report::running_test();
    report::call_trace_here();
    finish()
}

/// Reports an exception that nobody expected.
pub fn die_of_exception(frame: &ExceptionFrame) -> ! {
    PANICKING.store(true, Ordering::Relaxed);
    fault::while_reporting();
    console::open_default();
    report::exception(frame);
    raw_println!("Kernel panic - not syncing: unhandled exception");
    finish()
}

/// The last line of a bad boot.
pub fn finish() -> ! {
    blackbox::set_outcome(false);
    raw_println!("boot: FAIL");
    console::drain();
    power::exit(Outcome::Fail)
}
