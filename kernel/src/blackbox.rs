//! The black box: what this boot did, kept in RAM where a tester, or the next
//! boot, finds it even if nothing was ever printed.
//!
//! It lies after `.bss`, in no loaded file, and is neither cleared nor moved,
//! so it survives a reset. `TPIDRRO_EL0` holds its physical address from the
//! first instructions on; the ELF's symbol is `black_box`. head.S opens it,
//! vectors.S writes exceptions into it before they touch any stack.
//!
//! Layout, version 1, little-endian, offsets in bytes:
//!
//! ```text
//! 0x000  magic "EMMUBBOX"         0x008  version u32     0x00c  size in bytes u32
//! 0x010  nonce u64: the tester's, never written here
//! 0x018  nonce u64 as this boot found it: the record is of the boot that the
//!        tester started only if both are equal
//! 0x020  stage u8  0x021  outcome u8: 0 none, 1 pass, 2 fail  0x022  entry EL u8
//! 0x028  displacement u64: what relocation added to link-time addresses last
//! 0x030  physical address of _text u64          0x038  CNTFRQ_EL0 u64
//! 0x040  CNTVCT_EL0 at the start of each stage, 12 u64
//! 0x100  exception: x0..x30, SP, ELR, SPSR, ESR, FAR, vector, state, EL, u64 each.
//!        state: 0 none or resumed, 1 being written, 2 complete
//! 0x240  faults while that was handled: how many u64, and of the first of them
//!        ESR, ELR, FAR, SP, u64 each
//! 0x280  panic: state u32 (0 none, 1 being written, 2 complete), line u32,
//!        column u32, length of file name u32, length of message u32
//! 0x2a0  panic: file name, 96 bytes             0x300  message, 512 bytes
//! 0x500  console: bytes written so far u64      0x508  ring of 8184 bytes
//! 0x2500 bytes 0x000 to 0x500 as the boot before left them, or zeros
//! ```

use core::cell::UnsafeCell;
use core::fmt::{self, Write};
use core::mem::offset_of;
use core::panic::PanicInfo;
use core::sync::atomic::{AtomicU8, AtomicU32, AtomicU64, Ordering};

use platform::range::PhysRange;

use crate::arch::cache;
use crate::arch::exception::{ExceptionFrame, Syndrome};
use crate::stage::Stage;

/// "EMMUBBOX".
pub const MAGIC: u64 = u64::from_le_bytes(*b"EMMUBBOX");
/// Version of the layout.
pub const VERSION: u32 = 1;
/// Size of the part of which the next boot keeps a copy: all but the console.
pub const KEPT_BYTES: usize = 0x500;
/// Size of the whole record.
pub const SIZE_BYTES: usize = 0x2500 + KEPT_BYTES;

const RING_BYTES: usize = 0x2500 - 0x508;

/// What head.S and vectors.S write to, as offsets.
pub mod offset {
    use super::{BlackBox, Head, offset_of};

    pub const BOOT_NONCE: usize = offset_of!(Head, boot_nonce);
    pub const NONCE: usize = offset_of!(Head, nonce);
    pub const STAGE: usize = offset_of!(Head, stage);
    pub const ENTRY_EL: usize = offset_of!(Head, entry_el);
    pub const DISPLACEMENT: usize = offset_of!(Head, displacement);
    pub const IMAGE_PA: usize = offset_of!(Head, image_pa);
    pub const CNTFRQ: usize = offset_of!(Head, cntfrq);
    pub const STAGE_TICKS: usize = offset_of!(Head, stage_ticks);
    pub const EXCEPTION: usize = offset_of!(Head, exception);
    pub const NESTED: usize = offset_of!(Head, nested);
    pub const PREVIOUS: usize = offset_of!(BlackBox, previous);
}

/// States of [`Head::panic_state`].
const BEING_WRITTEN: u32 = 1;
const COMPLETE: u32 = 2;

// Atomics for plain loads and stores only: assembly and Rust share the record,
// and with the MMU off there are no exclusives.
#[repr(C)]
struct Head {
    magic: AtomicU64,
    version: AtomicU32,
    size: AtomicU32,
    nonce: AtomicU64,
    boot_nonce: AtomicU64,
    stage: AtomicU8,
    outcome: AtomicU8,
    entry_el: AtomicU8,
    _reserved: [u8; 5],
    displacement: AtomicU64,
    image_pa: AtomicU64,
    cntfrq: AtomicU64,
    stage_ticks: [AtomicU64; Stage::ALL.len()],
    _reserved2: [u64; 12],
    exception: UnsafeCell<ExceptionFrame>,
    _reserved3: u64,
    nested: [AtomicU64; 5],
    _reserved4: [u64; 3],
    panic_state: AtomicU32,
    panic_line: AtomicU32,
    panic_column: AtomicU32,
    panic_file_len: AtomicU32,
    panic_message_len: AtomicU32,
    _reserved5: [u32; 3],
    panic_file: [AtomicU8; 96],
    panic_message: [AtomicU8; 512],
}

#[repr(C)]
struct Ring {
    written: AtomicU64,
    bytes: [AtomicU8; RING_BYTES],
}

/// The record.
#[repr(C, align(4096))]
pub struct BlackBox {
    head: Head,
    ring: Ring,
    previous: Head,
}

// SAFETY: all but the exception frame is atomic; that is written by vectors.S
// with everything else stopped, and read after.
unsafe impl Sync for BlackBox {}

// Testers rely on these: a change is a new version.
const _: () = {
    assert!(offset_of!(Head, stage) == 0x20);
    assert!(offset_of!(Head, stage_ticks) == 0x40);
    assert!(offset_of!(Head, exception) == 0x100);
    assert!(offset_of!(Head, nested) == 0x240);
    assert!(offset_of!(Head, panic_state) == 0x280);
    assert!(offset_of!(Head, panic_file) == 0x2a0);
    assert!(offset_of!(Head, panic_message) == 0x300);
    assert!(size_of::<Head>() == KEPT_BYTES);
    assert!(offset_of!(BlackBox, ring) == 0x500);
    assert!(offset_of!(BlackBox, previous) == 0x2500);
};

unsafe extern "C" {
    /// Reserved by head.S, which writes to it before Rust can.
    safe static black_box: BlackBox;
}

fn head() -> &'static Head {
    &black_box.head
}

/// The stage that was entered last.
pub fn stage() -> Stage {
    let stage = head().stage.load(Ordering::Relaxed);
    Stage::ALL
        .get(usize::from(stage))
        .copied()
        .unwrap_or(Stage::Done)
}

/// A stage begins, at this count of the generic timer.
pub fn enter_stage(stage: Stage, ticks: u64) {
    head().stage.store(stage as u8, Ordering::Relaxed);
    head().stage_ticks[stage as usize].store(ticks, Ordering::Relaxed);
}

/// Notes the verdict, before it is printed.
pub fn set_outcome(passed: bool) {
    head()
        .outcome
        .store(if passed { 1 } else { 2 }, Ordering::Relaxed);
}

/// Notes a panic, before it is printed. The first one stays.
pub fn record_panic(info: &PanicInfo<'_>) {
    let head = head();
    if head.panic_state.load(Ordering::Relaxed) != 0 {
        return;
    }
    head.panic_state.store(BEING_WRITTEN, Ordering::Relaxed);
    if let Some(location) = info.location() {
        head.panic_line.store(location.line(), Ordering::Relaxed);
        head.panic_column
            .store(location.column(), Ordering::Relaxed);
        let mut file = Text {
            bytes: &head.panic_file,
            len: &head.panic_file_len,
        };
        // Cut if it does not fit; what fits is there.
        let _ = file.write_str(location.file());
    }
    let mut message = Text {
        bytes: &head.panic_message,
        len: &head.panic_message_len,
    };
    let _ = write!(message, "{}", info.message());
    // Release: the mark is never seen before what it vouches for.
    head.panic_state.store(COMPLETE, Ordering::Release);
}

/// A text of fixed size that grows by what is written, as far as it goes.
struct Text {
    bytes: &'static [AtomicU8],
    len: &'static AtomicU32,
}

impl Write for Text {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        let start = self.len.load(Ordering::Relaxed) as usize;
        for (slot, byte) in self.bytes.iter().skip(start).zip(text.bytes()) {
            slot.store(byte, Ordering::Relaxed);
            self.len
                .store(self.len.load(Ordering::Relaxed) + 1, Ordering::Relaxed);
        }
        if start + text.len() <= self.bytes.len() {
            Ok(())
        } else {
            Err(fmt::Error)
        }
    }
}

/// Keeps what goes to the console, whether or not there is one.
pub fn record_console(text: &str) {
    let ring = &black_box.ring;
    let mut written = ring.written.load(Ordering::Relaxed);
    for byte in text.bytes() {
        ring.bytes[written as usize % RING_BYTES].store(byte, Ordering::Relaxed);
        written += 1;
    }
    ring.written.store(written, Ordering::Release);
}

/// Makes the record outlast the caches: before a reset or power-off.
pub fn persist() {
    let start = (&raw const black_box).addr() as u64;
    cache::clean(PhysRange {
        start,
        end: start + SIZE_BYTES as u64,
    });
}

/// The record that the boot before this one left.
pub struct PreviousBoot(&'static Head);

/// The boot before this one, if it left a record of a known version.
pub fn previous_boot() -> Option<PreviousBoot> {
    let previous = &black_box.previous;
    let known = previous.magic.load(Ordering::Relaxed) == MAGIC
        && previous.version.load(Ordering::Relaxed) == VERSION;
    known.then_some(PreviousBoot(previous))
}

impl PreviousBoot {
    /// Whether it came to a good end.
    pub fn ended_well(&self) -> bool {
        let passed = self.0.outcome.load(Ordering::Relaxed) == 1;
        // It may have failed on its way out.
        passed && !self.exception().is_recorded() && !self.has_panicked()
    }

    fn exception(&self) -> &ExceptionFrame {
        // SAFETY: the copy of a frame, which nobody writes in this boot.
        unsafe { &*self.0.exception.get() }
    }

    fn has_panicked(&self) -> bool {
        self.0.panic_state.load(Ordering::Acquire) == COMPLETE
    }
}

/// What it died of.
impl fmt::Display for PreviousBoot {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let head = self.0;
        let stage = Stage::ALL.get(usize::from(head.stage.load(Ordering::Relaxed)));
        let frame = self.exception();
        if frame.is_recorded() {
            write!(f, "{}, at {:#018x}", Syndrome(frame.esr), frame.elr)?;
        } else if self.has_panicked() {
            let message = Kept {
                bytes: &head.panic_message,
                len: &head.panic_message_len,
            };
            let file = Kept {
                bytes: &head.panic_file,
                len: &head.panic_file_len,
            };
            write!(
                f,
                "panic: {message}, at {file}:{}",
                head.panic_line.load(Ordering::Relaxed)
            )?;
        } else if head.outcome.load(Ordering::Relaxed) == 2 {
            f.write_str("self-tests failed")?;
        } else {
            f.write_str("no verdict")?;
        }
        write!(f, ", in stage {}", stage.map_or("?", |stage| stage.name()))
    }
}

/// Text of a record, which may hold anything.
struct Kept {
    bytes: &'static [AtomicU8],
    len: &'static AtomicU32,
}

impl fmt::Display for Kept {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for byte in self
            .bytes
            .iter()
            .take(self.len.load(Ordering::Relaxed) as usize)
        {
            match byte.load(Ordering::Relaxed) {
                printable @ b' '..=b'~' => f.write_char(printable.into())?,
                _ => f.write_char('?')?,
            }
        }
        Ok(())
    }
}
