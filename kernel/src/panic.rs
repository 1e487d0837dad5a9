//! How the kernel dies: says why, then ends the boot as a failure.

use core::panic::PanicInfo;
use core::sync::atomic::{AtomicBool, Ordering};

use crate::arch::exception::{ExceptionFrame, Syndrome, vector_name};
use crate::arch::power::{self, Outcome};
use crate::console::{self, raw_println};
use crate::{blackbox, stage};

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
    finish()
}

/// Reports an exception that nobody expected.
pub fn die_of_exception(frame: &ExceptionFrame) -> ! {
    PANICKING.store(true, Ordering::Relaxed);
    console::open_default();
    raw_println!("Unhandled exception: {}", Syndrome(frame.esr));
    raw_println!(
        "  {} vector {}, in stage {}",
        vector_name(frame.vector),
        frame.vector,
        stage::current().name()
    );
    raw_println!(
        "  ESR {:#018x}  FAR {:#018x}  SPSR {:#010x}",
        frame.esr,
        frame.far,
        frame.spsr
    );
    raw_println!("  pc : {:#018x}", frame.elr);
    raw_println!("  lr : {:#018x}", frame.x[30]);
    raw_println!("  sp : {:#018x}", frame.sp);
    for (pair, number) in frame.x[..30].chunks_exact(2).zip((0..).step_by(2)) {
        raw_println!(
            "  x{number:<2}: {:#018x}  x{:<2}: {:#018x}",
            pair[0],
            number + 1,
            pair[1]
        );
    }
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
