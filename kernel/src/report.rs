//! What a fault looked like, in the form Linux users know.
//!
//! Nothing here may fault: every pointer is checked before it is followed, and
//! what cannot be checked is left out.

use core::arch::asm;

use early_mmu::{Geometry as _, VirtAddr};
use platform::range::PhysRange;

use crate::arch::exception::{
    EXTERNAL_ABORT, ExceptionFrame, Syndrome, class, exception_class, fault_status,
    is_permission_fault, is_write, vector_name,
};
use crate::boot::info::boot_info;
use crate::console::raw_println;
use crate::mm::layout::{Geometry, PAGE_OFFSET, PAGE_SIZE};
use crate::mm::{self, image};
use crate::selftest;
use crate::stage::{self, Stage};

/// Frames that a call trace shows at most.
const MAX_FRAMES: usize = 32;

/// All there is to say about an exception.
pub fn exception(frame: &ExceptionFrame) {
    raw_println!("Unhandled exception: {}", Syndrome(frame.esr));
    access(frame);
    raw_println!(
        "  {} vector {} at EL{}, in stage {}",
        vector_name(frame.vector),
        frame.vector,
        frame.el,
        stage::current().name()
    );
    running_test();
    raw_println!("  ESR = {:#018x}, FAR = {:#018x}", frame.esr, frame.far);
    raw_println!("pstate: {:08x}", frame.spsr);
    raw_println!("pc : {:#018x} {}", frame.elr, InImage(frame.elr));
    raw_println!("lr : {:#018x} {}", frame.x[30], InImage(frame.x[30]));
    raw_println!("sp : {:#018x}", frame.sp);
    for high in (0..30).rev().step_by(3) {
        let [a, b, c] = [high, high - 1, high - 2];
        raw_println!(
            "x{a:<2}: {:016x} x{b:<2}: {:016x} x{c:<2}: {:016x}",
            frame.x[a],
            frame.x[b],
            frame.x[c]
        );
    }
    raw_println!("Call trace:");
    raw_println!(" {:#018x} {}", frame.elr, InImage(frame.elr));
    call_trace(frame.x[29], frame.sp);
    code(frame.elr);
}

/// Which self-test was running, if one was.
pub fn running_test() {
    if let Some(name) = selftest::running() {
        raw_println!("  in self-test {name}");
    }
}

/// What was tried, and how the tables stand at the address.
fn access(frame: &ExceptionFrame) {
    let abort = matches!(
        exception_class(frame.esr),
        class::INSTRUCTION_ABORT | class::DATA_ABORT | class::WATCHPOINT
    );
    if !abort {
        return;
    }
    let far = frame.far;
    match overflowed_stack(far) {
        Some(stack) => {
            raw_println!("Kernel stack overflow: {far:#018x} is in the guard below the {stack}")
        }
        None => raw_println!(
            "Unable to handle kernel {} at virtual address {far:#018x}",
            attempt(frame)
        ),
    }
    if fault_status(frame.esr) == EXTERNAL_ABORT {
        name_bank(far);
    }
    if stage::current() >= Stage::High && far >= PAGE_OFFSET {
        let tables = mm::kernel_tables(boot_info());
        raw_println!(
            "swapper pgtable: {}k pages, {}-bit VAs, pgdp={}",
            PAGE_SIZE >> 10,
            Geometry::VA_BITS,
            tables.root()
        );
        for (level, descriptor) in tables.walk(VirtAddr::new(far)).descriptors() {
            raw_println!("  [{far:016x}] level {level}: {descriptor}");
        }
    }
}

/// Nothing answered at `address`: was it said to be RAM?
fn name_bank(address: u64) {
    let boot = boot_info();
    let pa = match stage::current() < Stage::High {
        true => address,
        false => address.wrapping_sub(boot.linear.offset()),
    };
    let mut banks = boot.firmware.memblock.memory.as_slice().iter();
    if let Some(bank) = banks.find(|bank| (bank.start..bank.end).contains(&pa)) {
        raw_println!(
            "Nothing answers at {pa:#x}, though the device tree declares RAM there: {bank}"
        );
    }
}

/// What was attempted, in Linux's words.
fn attempt(frame: &ExceptionFrame) -> &'static str {
    let permission_fault = is_permission_fault(frame.esr);
    match exception_class(frame.esr) {
        class::INSTRUCTION_ABORT if permission_fault => "execute from non-executable memory",
        class::DATA_ABORT if permission_fault && is_write(frame.esr) => "write to read-only memory",
        class::DATA_ABORT if permission_fault => "read from unreadable memory",
        _ if frame.far < PAGE_SIZE => "NULL pointer dereference",
        _ => "paging request",
    }
}

/// The stack in whose guard `address` lies.
fn overflowed_stack(address: u64) -> Option<&'static str> {
    let text = image::runtime_text();
    let offset = address.wrapping_sub(text.start);
    let names = ["init stack", "exception stack"];
    let inside = |guard: &PhysRange| (guard.start..guard.end).contains(&offset);
    image::stack_guards()
        .iter()
        .position(inside)
        .map(|index| names[index])
}

/// An address as an offset into the image, from which a tester tells symbol and
/// line wherever the image runs; empty if it is outside.
struct InImage(u64);

impl core::fmt::Display for InImage {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        let text = image::runtime_text();
        match (text.start..text.end).contains(&self.0) {
            true => write!(f, "_text+{:#x}", self.0 - text.start),
            false => Ok(()),
        }
    }
}

/// Prints the return addresses on the stack from `sp` on, by the frame records
/// that `fp` begins. Code without frame pointers (a prebuilt `core`) leaves
/// something else in x29: then what looks like a return address is printed with
/// a question mark, up to the first frame record of a sound chain.
fn call_trace(fp: u64, sp: u64) {
    let Some(stack) = image::runtime_stacks()
        .into_iter()
        .find(|stack| within(stack, sp))
    else {
        raw_println!(" (the stack pointer {sp:#018x} is on no stack)");
        return;
    };
    let mut record = match is_sound(&stack, fp) {
        true => fp,
        false => sp.next_multiple_of(8),
    };
    while !is_sound(&stack, record) {
        if !within(&stack, record) {
            return;
        }
        // SAFETY: a word of a stack, which is mapped as long as the image is.
        let word = unsafe { (record as *const u64).read() };
        if is_return_address(word) {
            raw_println!(" {word:#018x} {} ?", InImage(word));
        }
        record += 8;
    }
    for _ in 0..MAX_FRAMES {
        let [next, lr] = read_record(record);
        raw_println!(" {lr:#018x} {}", InImage(lr));
        if next == 0 {
            return;
        }
        record = next;
    }
    raw_println!(" (and more)");
}

/// Whether 16 bytes at `address` lie on the stack.
fn within(stack: &PhysRange, address: u64) -> bool {
    stack.start <= address && address.saturating_add(16) <= stack.end
}

/// A frame record: the one above it, and a return address.
fn read_record(record: u64) -> [u64; 2] {
    // SAFETY: is_sound() saw it on a stack, which is mapped as long as the
    // image is.
    unsafe { (record as *const [u64; 2]).read() }
}

/// Whether frame records lead from `record` upwards, all on the stack, to the
/// one that head.S ended the chain with. A long recursion counts.
fn is_sound(stack: &PhysRange, mut record: u64) -> bool {
    for _ in 0..MAX_FRAMES {
        if !record.is_multiple_of(16) || !within(stack, record) {
            return false;
        }
        let [next, lr] = read_record(record);
        if next == 0 {
            return is_return_address(lr);
        }
        if next <= record || !is_return_address(lr) {
            return false;
        }
        record = next;
    }
    true
}

/// Whether the instruction before `address` is a call.
fn is_return_address(address: u64) -> bool {
    let text = image::runtime_text();
    if !address.is_multiple_of(4) || !(text.start + 4..text.end).contains(&address) {
        return false;
    }
    // SAFETY: the image's text, readable as long as the kernel runs.
    let before = unsafe { ((address - 4) as *const u32).read() };
    let bl = before >> 26 == 0b100101;
    let blr = before & 0xffff_fc1f == 0xd63f_0000;
    bl || blr
}

/// The call trace of whoever calls this.
pub fn call_trace_here() {
    let (fp, sp): (u64, u64);
    // SAFETY: reads registers.
    unsafe {
        asm!("mov {}, x29", "mov {}, sp", out(reg) fp, out(reg) sp, options(nomem, nostack, preserves_flags));
    }
    raw_println!("Call trace:");
    call_trace(fp, sp);
}

/// The instructions before `pc` and at it.
fn code(pc: u64) {
    let text = image::runtime_text();
    let readable = |address: &u64| (text.start..text.end).contains(address);
    if !pc.is_multiple_of(4) || !readable(&pc) {
        return;
    }
    // SAFETY: the image's text, readable as long as the kernel runs.
    let word = |address: u64| unsafe { (address as *const u32).read() };
    let mut before = [0; 4];
    for (slot, address) in before
        .iter_mut()
        .zip((1..=4).rev().map(|n| pc.wrapping_sub(4 * n)))
    {
        *slot = if readable(&address) { word(address) } else { 0 };
    }
    let [a, b, c, d] = before;
    raw_println!("Code: {a:08x} {b:08x} {c:08x} {d:08x} ({:08x})", word(pc));
}

/// Says that something is wrong, with a call trace, and lets the boot go on.
/// Each place in the source says so once.
macro_rules! warn_once {
    ($($arg:tt)+) => {{
        use core::sync::atomic::{AtomicBool, Ordering};
        static SAID: AtomicBool = AtomicBool::new(false);
        if !SAID.load(Ordering::Relaxed) {
            SAID.store(true, Ordering::Relaxed);
            $crate::report::warning(format_args!($($arg)+));
        }
    }};
}
pub(crate) use warn_once;

/// See [`warn_once`].
#[track_caller]
pub fn warning(message: core::fmt::Arguments<'_>) {
    let location = core::panic::Location::caller();
    raw_println!("------------[ cut here ]------------");
    raw_println!(
        "WARNING: at {}:{}: {message}",
        location.file(),
        location.line()
    );
    call_trace_here();
    raw_println!("---[ end trace ]---");
}
