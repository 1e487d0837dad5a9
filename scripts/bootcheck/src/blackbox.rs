//! The black box of this project's kernel: what it recorded about itself in RAM, read from the
//! dead guest.
//!
//! The layout is a contract between versions, known here by its offsets alone; the kernel's own
//! description of it is in `kernel/src/blackbox.rs`. A version that is not known, or content that
//! makes no sense, is no record: never an error.

use object::LittleEndian;
use object::elf::{FileHeader64, SHT_SYMTAB};
use object::read::elf::{FileHeader, Sym};

use crate::signs::Stage;

/// What a record begins with.
pub const MAGIC: &[u8; 8] = b"EMMUBBOX";

/// Bytes of the record that say what happened.
pub const HEAD: usize = 0x500;

/// Bytes of the head and the console's ring.
pub const WHOLE: usize = 0x2500;

/// Where the tester leaves a number that only this boot can know.
pub const NONCE: u64 = 0x10;

/// The ELF symbol.
pub const SYMBOL: &str = "black_box";

/// Where a record may begin when nothing tells.
pub const ALIGNMENT: u64 = 64 << 10;

/// The stages of version 1, in order.
pub const STAGES: [&str; 12] = [
    "entry",
    "relocate",
    "idmap",
    "fdt",
    "early_mmu",
    "mmu_on",
    "high",
    "console",
    "heap",
    "protect",
    "selftest",
    "done",
];

/// What the kernel recorded.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Record {
    /// The stage that was reached.
    pub stage: Option<&'static str>,
    /// All stages that were reached, with the time since the first one began.
    pub stages: Vec<Stage>,
    /// The kernel's own verdict, if it came to one.
    pub passed: Option<bool>,
    /// What relocation added to link-time addresses last.
    pub displacement: u64,
    /// Where the image is in physical memory.
    pub image: u64,
    /// The exception that nobody expected.
    pub exception: Option<Exception>,
    /// How many faults there were while it was handled.
    pub nested: u64,
    /// The panic.
    pub panic: Option<Panic>,
    /// What was written to the console last, whether or not there is one.
    pub console: String,
}

/// An exception as the vectors recorded it.
#[derive(Debug, Clone, PartialEq, Eq)]
#[allow(missing_docs)] // The architecture's own names.
pub struct Exception {
    pub x: [u64; 31],
    pub sp: u64,
    pub elr: u64,
    pub spsr: u64,
    pub esr: u64,
    pub far: u64,
    pub el: u8,
    /// Not all of it had been written when the guest stopped.
    pub is_partial: bool,
}

/// A panic as its handler recorded it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Panic {
    /// The message.
    pub message: String,
    /// The source file.
    pub file: Option<String>,
    /// The line in it.
    pub line: Option<u32>,
}

/// Reads a record of a known version. With a `nonce`, it must be this boot's.
#[must_use]
pub fn read(bytes: &[u8], nonce: Option<u64>) -> Option<Record> {
    let record = Bytes(bytes);
    let is_known = bytes.len() >= HEAD && bytes.starts_with(MAGIC) && record.u32(0x08) == 1;
    if !is_known || nonce.is_some_and(|nonce| record.u64(0x18) != nonce) {
        return None;
    }
    let frequency = record.u64(0x38);
    let mut stages = Vec::new();
    let reached = usize::from(bytes[0x20]);
    let ticks = |index: usize| record.u64(0x40 + 8 * index);
    for (index, name) in STAGES.iter().enumerate().take(reached + 1) {
        let since = ticks(index).wrapping_sub(ticks(0));
        let ns = u128::from(since) * 1_000_000_000 / u128::from(frequency.max(1));
        stages.push(Stage {
            name: (*name).to_owned(),
            ns: u64::try_from(ns)
                .ok()
                .filter(|_| frequency != 0 && ticks(index) != 0),
        });
    }
    Some(Record {
        stage: STAGES.get(reached).copied(),
        stages,
        passed: match bytes[0x21] {
            1 => Some(true),
            2 => Some(false),
            _ => None,
        },
        displacement: record.u64(0x28),
        image: record.u64(0x30),
        exception: exception(&record),
        nested: record.u64(0x240),
        panic: panic(&record),
        console: console(bytes),
    })
}

/// How far behind the image's first byte the kernel's ELF has its black box.
#[must_use]
pub fn offset_in_image(elf: &[u8]) -> Option<u64> {
    let header = FileHeader64::<LittleEndian>::parse(elf).ok()?;
    let sections = header.sections(LittleEndian, elf).ok()?;
    let symbols = sections.symbols(LittleEndian, elf, SHT_SYMTAB).ok()?;
    let address = |wanted: &str| {
        let is_wanted = |name: &[u8]| name == wanted.as_bytes();
        symbols
            .iter()
            .find(|symbol| {
                symbols
                    .symbol_name(LittleEndian, symbol)
                    .is_ok_and(is_wanted)
            })
            .map(|symbol| symbol.st_value(LittleEndian))
    };
    address(SYMBOL)?.checked_sub(address("_text")?)
}

fn exception(record: &Bytes<'_>) -> Option<Exception> {
    let at = |index: usize| record.u64(0x100 + 8 * index);
    // Being written: what is missing is zero, or left from the one before.
    let state = at(37);
    (state != 0).then(|| Exception {
        x: std::array::from_fn(at),
        sp: at(31),
        elr: at(32),
        spsr: at(33),
        esr: at(34),
        far: at(35),
        el: at(38) as u8,
        is_partial: state == 1,
    })
}

fn panic(record: &Bytes<'_>) -> Option<Panic> {
    if record.u32(0x280) == 0 {
        return None;
    }
    let file = record.text(0x2a0, record.u32(0x28c) as usize, 96);
    Some(Panic {
        message: record.text(0x300, record.u32(0x290) as usize, 512),
        line: Some(record.u32(0x284)).filter(|_| !file.is_empty()),
        file: Some(file).filter(|file| !file.is_empty()),
    })
}

/// The ring in the order of writing.
fn console(bytes: &[u8]) -> String {
    let Some(ring) = bytes.get(0x508..WHOLE) else {
        return String::new();
    };
    let written = Bytes(bytes).u64(0x500);
    let end = (written % ring.len() as u64) as usize;
    let text = if written <= ring.len() as u64 {
        ring[..written as usize].to_vec()
    } else {
        [&ring[end..], &ring[..end]].concat()
    };
    String::from_utf8_lossy(&text).into_owned()
}

struct Bytes<'a>(&'a [u8]);

impl Bytes<'_> {
    fn u32(&self, offset: usize) -> u32 {
        self.u64(offset) as u32
    }

    fn u64(&self, offset: usize) -> u64 {
        let bytes = self.0[offset..offset + 8].try_into();
        u64::from_le_bytes(bytes.unwrap_or_default())
    }

    fn text(&self, offset: usize, length: usize, room: usize) -> String {
        crate::escape::escape(&self.0[offset..offset + length.min(room)])
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_symbol_tells_where_it_is() {
        let elf = crate::testelf::with_sections(&[("black_box", 0x1_0000, 0)], &[0], &[]);
        assert_eq!(offset_in_image(&elf), Some(0x1_0000));
        let other = crate::testelf::with_sections(&[], &[0], &[]);
        assert_eq!(offset_in_image(&other), None);
        assert_eq!(offset_in_image(b""), None);
    }

    /// A record of version 1, of the boot with nonce 7, in stage `heap`.
    fn record() -> Vec<u8> {
        let mut bytes = vec![0; WHOLE];
        let mut put = |offset: usize, value: u64| {
            bytes[offset..offset + 8].copy_from_slice(&value.to_le_bytes());
        };
        put(0x00, u64::from_le_bytes(*MAGIC));
        put(0x08, 1);
        put(0x18, 7);
        put(0x20, 8);
        put(0x30, 0x4020_0000);
        put(0x38, 1_000_000);
        for stage in 0..9 {
            put(0x40 + 8 * stage, 100 + stage as u64);
        }
        bytes
    }

    #[test]
    fn stages_have_their_times() {
        let record = read(&record(), Some(7)).unwrap();
        assert_eq!(record.stage, Some("heap"));
        assert_eq!(record.stages.len(), 9);
        assert_eq!(record.stages[8].name, "heap");
        assert_eq!(record.stages[8].ns, Some(8000));
        assert_eq!((record.exception, record.panic), (None, None));
        assert_eq!(record.passed, None);
    }

    #[test]
    fn what_is_no_record_of_this_boot_is_none() {
        assert_eq!(read(&record(), Some(8)), None, "the previous boot's");
        assert!(read(&record(), None).is_some(), "no nonce to compare");
        let mut newer = record();
        newer[8] = 2;
        assert_eq!(read(&newer, Some(7)), None);
        assert_eq!(read(&record()[..HEAD - 1], Some(7)), None);
        assert_eq!(read(b"", None), None);
        assert_eq!(read(&[0xff; WHOLE], None), None);
        let mut garbage = vec![0xff; WHOLE];
        garbage[..0x20].copy_from_slice(&record()[..0x20]);
        assert_eq!(read(&garbage, Some(7)).unwrap().stage, None);
    }

    #[test]
    fn exceptions_and_panics_are_read() {
        let mut bytes = record();
        bytes[0x100 + 8 * 34] = 0x25;
        bytes[0x100 + 8 * 37] = 2;
        bytes[0x100 + 8 * 38] = 1;
        bytes[0x240] = 3;
        bytes[0x280] = 2;
        bytes[0x284] = 12;
        bytes[0x28c] = 4;
        bytes[0x290] = 200;
        bytes[0x2a0..0x2a4].copy_from_slice(b"a.rs");
        bytes[0x300..0x305].copy_from_slice(b"oh no");
        let record = read(&bytes, Some(7)).unwrap();
        let exception = record.exception.unwrap();
        assert_eq!((exception.esr, exception.el), (0x25, 1));
        assert_eq!((exception.is_partial, record.nested), (false, 3));
        let panic = record.panic.unwrap();
        assert!(panic.message.starts_with("oh no"));
        assert_eq!(panic.file.as_deref(), Some("a.rs"));
        assert_eq!(panic.line, Some(12));
    }

    #[test]
    fn the_console_is_in_the_order_of_writing() {
        let mut bytes = record();
        let ring = WHOLE - 0x508;
        bytes[0x508..0x50b].copy_from_slice(b"abc");
        bytes[0x500] = 3;
        assert_eq!(read(&bytes, None).unwrap().console, "abc");
        bytes[0x50b..].fill(b'z');
        bytes[0x500..0x508].copy_from_slice(&(ring as u64 + 3).to_le_bytes());
        let text = read(&bytes, None).unwrap().console;
        assert!(text.starts_with('z') && text.ends_with("zabc") && text.len() == ring);
    }
}
