//! Exceptions at EL1: resume after one that was armed, report any other.

use core::arch::asm;
use core::fmt;
use core::sync::atomic::{AtomicU64, Ordering};

use aarch64_cpu::asm::barrier;

use super::power::{self, Outcome};
use crate::console::{self, raw_println};
use crate::panic;

/// Everything the interrupted code had: filled in by vectors.S, in the black
/// box. There is one: exceptions do not nest, except to die.
#[repr(C)]
pub struct ExceptionFrame {
    /// x0 to x30.
    pub x: [u64; 31],
    /// Stack pointer of the interrupted code.
    pub sp: u64,
    /// Where it was interrupted.
    pub elr: u64,
    /// Its PSTATE.
    pub spsr: u64,
    /// Syndrome: what happened.
    pub esr: u64,
    /// The address that faulted, where there is one.
    pub far: u64,
    /// Which of the 16 vectors was taken.
    pub vector: u64,
    /// 0 free, 1 being written, 2 complete.
    pub(crate) state: u64,
    /// The exception level it was taken at.
    pub el: u64,
}

impl ExceptionFrame {
    /// Whether the frame holds an exception from which execution did not resume.
    pub fn is_recorded(&self) -> bool {
        self.state == 2
    }
}

/// Whether an SError is pending: somebody accessed what is not there.
pub fn serror_is_pending() -> bool {
    // An external abort of an earlier access may still be on its way.
    barrier::dsb(barrier::SY);
    barrier::isb(barrier::SY);
    let isr: u64;
    // SAFETY: reads a register.
    unsafe { asm!("mrs {}, isr_el1", out(reg) isr, options(nomem, nostack, preserves_flags)) };
    isr >> 8 & 1 == 1
}

/// Lets SError in, so that none is lost from here on.
pub fn unmask_serror() {
    // SAFETY: vectors are in place, and the handler needs nothing else.
    unsafe { asm!("msr daifclr, #4", options(nostack)) }
}

/// `ESR_ELx.EC`, the exception classes that this kernel knows by name
/// (Arm ARM, ESR_EL1).
pub mod class {
    /// Unknown reason: undefined instruction.
    pub const UNKNOWN: u64 = 0x00;
    /// Instruction abort from the same exception level.
    pub const INSTRUCTION_ABORT: u64 = 0x21;
    /// Data abort from the same exception level.
    pub const DATA_ABORT: u64 = 0x25;
    /// Watchpoint at the same exception level.
    pub const WATCHPOINT: u64 = 0x35;
}

/// Its exception class, from a syndrome.
pub const fn exception_class(esr: u64) -> u64 {
    (esr >> 26) & 0x3f
}

/// The one exception that is expected next. All fields must match; then
/// execution goes on at `resume` with x0 = 1 and x1 = the syndrome.
#[derive(Clone, Copy, Debug)]
pub struct Expected {
    /// Exception class.
    pub class: u64,
    /// Faulting address.
    pub far: u64,
    /// Faulting instruction.
    pub elr: u64,
    /// Where to go on.
    pub resume: u64,
}

/// Loads and stores only, no read-modify-write: the MMU may be off, and there is
/// one CPU.
struct Slot {
    armed: AtomicU64,
    class: AtomicU64,
    far: AtomicU64,
    elr: AtomicU64,
    resume: AtomicU64,
}

static SLOT: Slot = Slot {
    armed: AtomicU64::new(0),
    class: AtomicU64::new(0),
    far: AtomicU64::new(0),
    elr: AtomicU64::new(0),
    resume: AtomicU64::new(0),
};

/// Expects `exception` until it happens or [`disarm`] is called.
pub fn arm(exception: Expected) {
    SLOT.class.store(exception.class, Ordering::Relaxed);
    SLOT.far.store(exception.far, Ordering::Relaxed);
    SLOT.elr.store(exception.elr, Ordering::Relaxed);
    SLOT.resume.store(exception.resume, Ordering::Relaxed);
    SLOT.armed.store(1, Ordering::Release);
}

/// Expects nothing any more.
pub fn disarm() {
    SLOT.armed.store(0, Ordering::Release);
}

/// `ESR_ELx.FnV`: a synchronous external abort need not say where.
const fn far_is_valid(esr: u64) -> bool {
    !(fault_status(esr) == EXTERNAL_ABORT && esr >> 10 & 1 == 1)
}

fn resume_address(frame: &ExceptionFrame) -> Option<u64> {
    let expected = SLOT.armed.load(Ordering::Acquire) == 1
        // ESR and FAR are those of an earlier exception at an interrupt.
        && frame.vector % 4 == SYNCHRONOUS
        && SLOT.class.load(Ordering::Relaxed) == exception_class(frame.esr)
        && (!far_is_valid(frame.esr) || SLOT.far.load(Ordering::Relaxed) == frame.far)
        && SLOT.elr.load(Ordering::Relaxed) == frame.elr;
    expected.then(|| SLOT.resume.load(Ordering::Relaxed))
}

#[unsafe(no_mangle)]
extern "C" fn handle_exception(frame: &mut ExceptionFrame) {
    match resume_address(frame) {
        Some(resume) => {
            disarm();
            frame.elr = resume;
            frame.x[0] = 1;
            frame.x[1] = frame.esr;
        }
        None => panic::die_of_exception(frame),
    }
}

#[unsafe(no_mangle)]
extern "C" fn handle_nested_exception(
    first: *const ExceptionFrame,
    esr: u64,
    elr: u64,
    far: u64,
) -> ! {
    // SAFETY: the frame in the black box, which nobody writes any more. Copied,
    // as the interrupted handler may hold a reference to it.
    let first = unsafe { first.read() };
    raw_println!(
        "Exception while another was reported: ESR {esr:#018x} ELR {elr:#018x} FAR {far:#018x}"
    );
    raw_println!(
        "The first one: ESR {:#018x} ELR {:#018x} FAR {:#018x}",
        first.esr,
        first.elr,
        first.far
    );
    panic::finish()
}

/// Reporting a fault faulted twice: ends the boot without a word.
#[unsafe(no_mangle)]
extern "C" fn handle_last_resort() -> ! {
    console::disable();
    power::exit(Outcome::Fail)
}

/// `ESR_ELx.ISS.{DFSC,IFSC}` of an abort: what went wrong.
pub const fn fault_status(esr: u64) -> u64 {
    esr & 0x3f
}

/// Whether an abort was a translation fault, at any level.
pub const fn is_translation_fault(esr: u64) -> bool {
    fault_status(esr) & !3 == 0x04
}

/// Whether an abort was a permission fault, at any level.
pub const fn is_permission_fault(esr: u64) -> bool {
    fault_status(esr) & !3 == 0x0c
}

/// `ESR_ELx.ISS.WnR` of a data abort: it was a write.
pub const fn is_write(esr: u64) -> bool {
    esr >> 6 & 1 == 1
}

/// A fault status: synchronous external abort, not on a table walk.
pub const EXTERNAL_ABORT: u64 = 0x10;

/// The kind of a vector: synchronous, IRQ, FIQ, SError.
const SYNCHRONOUS: u64 = 0;

/// A syndrome in words.
pub struct Syndrome(pub u64);

impl fmt::Display for Syndrome {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let class = exception_class(self.0);
        let name = match class {
            class::UNKNOWN => "undefined instruction",
            0x07 => "SIMD or floating-point access",
            0x0e => "illegal execution state",
            0x15 => "SVC",
            0x16 => "HVC",
            0x17 => "SMC",
            0x18 => "trapped system register access",
            class::INSTRUCTION_ABORT => "instruction abort",
            0x22 => "PC alignment fault",
            class::DATA_ABORT => "data abort",
            0x26 => "SP alignment fault",
            0x2f => "SError",
            0x31 => "breakpoint",
            0x33 => "software step",
            class::WATCHPOINT => "watchpoint",
            0x3c => "BRK",
            _ => "exception",
        };
        write!(f, "{name} (EC {class:#04x})")?;
        if matches!(class, class::INSTRUCTION_ABORT | class::DATA_ABORT) {
            let access = match class {
                class::INSTRUCTION_ABORT => "fetch",
                _ if is_write(self.0) => "write",
                _ => "read",
            };
            write!(f, ", {access}, {}", FaultStatus(self.0))?;
        }
        Ok(())
    }
}

/// `ESR_ELx.ISS.{DFSC,IFSC}` in words.
struct FaultStatus(u64);

impl fmt::Display for FaultStatus {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let status = fault_status(self.0);
        let level = status & 3;
        match status {
            0x00..=0x03 => write!(f, "level {level} address size fault"),
            0x04..=0x07 => write!(f, "level {level} translation fault"),
            0x08..=0x0b => write!(f, "level {level} access flag fault"),
            0x0c..=0x0f => write!(f, "level {level} permission fault"),
            EXTERNAL_ABORT => f.write_str("synchronous external abort"),
            0x14..=0x17 => write!(
                f,
                "level {level} synchronous external abort on a table walk"
            ),
            0x21 => f.write_str("alignment fault"),
            0x30 => f.write_str("TLB conflict abort"),
            _ => write!(f, "fault status {status:#04x}"),
        }
    }
}

/// The kind of the vector taken.
pub fn vector_name(vector: u64) -> &'static str {
    match vector % 4 {
        0 => "synchronous",
        1 => "IRQ",
        2 => "FIQ",
        _ => "SError",
    }
}
