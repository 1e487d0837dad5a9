//! Linux's own log, read from its memory: the last words of a kernel whose console never came up.
//!
//! Since 5.10 the log is a ring of descriptors, a ring of records' properties, and a ring of text
//! (kernel/printk/printk_ringbuffer.h). A vmlinux tells where they are; their layout is known here.
//! Whatever makes no sense ends the reading, and is no error: the guest may have died in any state.

use std::io;

use crate::gdbstub::GdbStub;
use crate::image::Header;
use crate::symbols::Symbols;

/// The most descriptors and the most text: `log_buf_len` allows no more in earnest.
const DESCRIPTORS_BITS: u32 = 20;
const TEXT_BITS: u32 = 26;

/// The smallest text ring: `CONFIG_LOG_BUF_SHIFT` begins there.
const LEAST_TEXT_BITS: u32 = 12;

/// sizeof(struct prb_desc): state_var, text_blk_lpos.begin, text_blk_lpos.next.
const DESCRIPTOR: u64 = 24;

/// sizeof(struct printk_info): seq, ts_nsec, text_len (u16), facility, flags and level, caller_id,
/// dev_info.
const INFO: u64 = 88;

/// Bytes of struct printk_ringbuffer that are looked at.
const RING_BUFFER: usize = 128;

/// Where text_data_ring follows in it: `last_finalized_id` came in 5.18, before it.
const TEXT_RING: [usize; 2] = [40, 48];

/// The two topmost bits of state_var: 1 is committed, 2 is finalized.
const COMMITTED: u64 = 1;
const FINALIZED: u64 = 2;
const STATE_SHIFT: u32 = 62;

/// Where RAM may begin with an image.
const STEP: u64 = 64 << 10;

/// What was found of a Linux.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Linux {
    /// Where its image's first byte lies.
    pub physical: u64,
    /// Where it runs.
    pub running: u64,
    /// What it logged, as its console would have shown it.
    pub log: String,
}

/// Looks for the log of a Linux that stands still. `ram` is where its image may be, with the likely
/// place first.
///
/// # Errors
/// The stub does not answer, or the memory makes no sense; nothing is wrong with either.
pub fn read(
    stub: &mut GdbStub,
    symbols: &Symbols,
    ram: impl Iterator<Item = u64>,
) -> io::Result<Linux> {
    let pointer = symbols.data("prb").ok_or(io::ErrorKind::NotFound)?;
    let physical = find_image(stub, symbols, ram).ok_or(io::ErrorKind::NotFound)?;
    let mut memory = Memory {
        stub,
        symbols,
        physical,
        displacement: 0,
    };
    let ring = memory.word(pointer)?;
    // It points to one of two structures: what KASLR added is the difference.
    let structures = ["printk_rb_static", "printk_rb_dynamic"];
    let displacements = structures
        .iter()
        .filter_map(|name| Some(ring.wrapping_sub(symbols.data(name)?)));
    memory.displacement = displacements
        .filter(|displacement| displacement.trailing_zeros() >= STEP.trailing_zeros())
        .min()
        .ok_or(io::ErrorKind::InvalidData)?;
    let running = symbols.base().wrapping_add(memory.displacement);
    let log = records(ring, |address, length| memory.read(address, length))?;
    Ok(Linux {
        physical,
        running,
        log,
    })
}

/// Where the image's first bytes are: its header is never changed.
fn find_image(
    stub: &mut GdbStub,
    symbols: &Symbols,
    mut ram: impl Iterator<Item = u64>,
) -> Option<u64> {
    let header = symbols.bytes(symbols.base(), Header::LENGTH)?;
    ram.find(|address| {
        let found = stub.read_physical(*address, header.len());
        found.is_ok_and(|found| found == header)
    })
}

/// Places in RAM: the likely one, then all others.
pub fn places(likely: Option<u64>, start: u64, size: u64) -> impl Iterator<Item = u64> {
    let all = (start..start.saturating_add(size)).step_by(STEP as usize);
    likely.into_iter().chain(all)
}

struct Memory<'a> {
    stub: &'a mut GdbStub,
    symbols: &'a Symbols,
    physical: u64,
    displacement: u64,
}

impl Memory<'_> {
    /// Reads at an address as the guest knows it: in its image, or mapped somewhere else.
    fn read(&mut self, address: u64, length: usize) -> io::Result<Vec<u8>> {
        let linked = address.wrapping_sub(self.displacement);
        if self.symbols.extent().contains(&linked) {
            let offset = linked - self.symbols.base();
            return self.stub.read_physical(self.physical + offset, length);
        }
        self.stub.read_virtual(address, length)
    }

    fn word(&mut self, address: u64) -> io::Result<u64> {
        Ok(word(&self.read(address, 8)?, 0))
    }
}

/// The records in the ring buffer at this address.
fn records(
    ring: u64,
    mut read: impl FnMut(u64, usize) -> io::Result<Vec<u8>>,
) -> io::Result<String> {
    let ring = read(ring, RING_BUFFER)?;
    let count_bits = word(&ring, 0) as u32;
    let text_ring = TEXT_RING.into_iter().find(|at| {
        let bits = word(&ring, *at) as u32;
        (LEAST_TEXT_BITS..=TEXT_BITS).contains(&bits) && word(&ring, at + 8) >> 48 == 0xffff
    });
    let (Some(text_ring), 1..=DESCRIPTORS_BITS) = (text_ring, count_bits) else {
        return Err(io::ErrorKind::InvalidData.into());
    };
    let (descriptors, infos) = (word(&ring, 8), word(&ring, 16));
    let (head, tail) = (word(&ring, 24), word(&ring, 32));
    let text_mask = (1_u64 << (word(&ring, text_ring) as u32)) - 1;
    let text = read(word(&ring, text_ring + 8), text_mask as usize + 1)?;
    let mask = (1_u64 << count_bits) - 1;
    let mut log = String::new();
    // Numbers of records wrap at 62 bits.
    for number in 0..=head.wrapping_sub(tail) & mask {
        let index = tail.wrapping_add(number) & mask;
        let descriptor = read(descriptors + index * DESCRIPTOR, DESCRIPTOR as usize)?;
        let state = word(&descriptor, 0) >> STATE_SHIFT;
        if !matches!(state, COMMITTED | FINALIZED) {
            continue;
        }
        let info = read(infos + index * INFO, INFO as usize)?;
        let length = usize::from(u16::from_le_bytes([info[16], info[17]]));
        let (begin, next) = (word(&descriptor, 8), word(&descriptor, 16));
        // A record without text; or one that has wrapped and begins anew at the ring's start.
        if begin & 1 != 0 {
            continue;
        }
        let has_wrapped = begin & !text_mask != next.wrapping_sub(1) & !text_mask;
        let start = if has_wrapped { 0 } else { begin & text_mask } as usize + 8;
        let end = start.saturating_add(length).min(text.len());
        let words = text.get(start..end).unwrap_or_default();
        line(&mut log, word(&info, 8), words);
    }
    Ok(log)
}

/// Adds a record as Linux's console shows it: each of its lines with the time.
fn line(log: &mut String, ns: u64, text: &[u8]) {
    let us = ns / 1000;
    let text = String::from_utf8_lossy(text);
    for line in text.trim_end_matches('\n').split('\n') {
        let (seconds, us) = (us / 1_000_000, us % 1_000_000);
        log.push_str(&format!("[{seconds:5}.{us:06}] {line}\n"));
    }
}

fn word(bytes: &[u8], at: usize) -> u64 {
    let word = bytes.get(at..at + 8).and_then(|word| word.try_into().ok());
    u64::from_le_bytes(word.unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use super::*;

    const RING: u64 = 0xffff_8000_0000_1000;
    const DESCRIPTORS: u64 = 0xffff_8000_0000_2000;
    const INFOS: u64 = 0xffff_8000_0000_3000;
    const TEXT: u64 = 0xffff_8000_0000_8000;
    const TEXT_SIZE: u64 = 1 << 12;

    /// A memory in which Linux's ring buffer has four descriptors.
    struct Ring {
        memory: Vec<u8>,
    }

    impl Ring {
        fn new(text_ring: u64, tail: u64, head: u64) -> Self {
            let memory = vec![0; 0x9000];
            let mut ring = Self { memory };
            let words = [2, DESCRIPTORS, INFOS, head, tail];
            for (at, word) in (0..).zip(words) {
                ring.put(RING + 8 * at, word);
            }
            ring.put(RING + text_ring, 12);
            ring.put(RING + text_ring + 8, TEXT);
            ring
        }

        fn put(&mut self, address: u64, word: u64) {
            let at = (address - RING) as usize;
            self.memory[at..at + 8].copy_from_slice(&word.to_le_bytes());
        }

        /// A record whose block has these logical positions.
        fn record(&mut self, id: u64, state: u64, (begin, next): (u64, u64), text: &str) {
            let descriptor = DESCRIPTORS + (id & 3) * DESCRIPTOR;
            self.put(descriptor, state << STATE_SHIFT | id);
            self.put(descriptor + 8, begin);
            self.put(descriptor + 16, next);
            let info = INFOS + (id & 3) * INFO;
            self.put(info + 8, 1_234_567_000 * id);
            self.put(info + 16, text.len() as u64);
            let has_wrapped = begin / TEXT_SIZE != (next - 1) / TEXT_SIZE;
            let start = if has_wrapped { 0 } else { begin % TEXT_SIZE };
            let at = (TEXT - RING + start + 8) as usize;
            self.memory[at..at + text.len()].copy_from_slice(text.as_bytes());
        }

        fn log(&self) -> io::Result<String> {
            records(RING, |address, length| {
                let start = address.checked_sub(RING).map(|start| start as usize);
                let bytes =
                    start.and_then(|start| self.memory.get(start..start.checked_add(length)?));
                bytes
                    .map(<[u8]>::to_vec)
                    .ok_or(io::ErrorKind::NotFound.into())
            })
        }
    }

    #[test]
    fn records_come_in_order_whatever_has_wrapped() {
        for text_ring in [40, 48] {
            let mut ring = Ring::new(text_ring, 3, 6);
            ring.record(3, FINALIZED, (4000, 4032), "one\ntwo");
            // Its block does not fit before the end, so it begins anew.
            ring.record(4, COMMITTED, (4072, 4096 + 40), "three");
            ring.record(5, 0, (4200, 4240), "being written");
            ring.record(6, FINALIZED, (1, 2), "");
            assert_eq!(
                ring.log().unwrap(),
                "[    3.703701] one\n[    3.703701] two\n[    4.938268] three\n"
            );
        }
    }

    #[test]
    fn what_makes_no_sense_is_no_log() {
        assert!(Ring::new(56, 0, 0).log().is_err(), "the text is nowhere");
        let mut ring = Ring::new(48, 0, 3);
        ring.put(RING, 40);
        assert!(ring.log().is_err(), "too many descriptors");
        let mut ring = Ring::new(48, 0, 3);
        ring.put(RING + 8, 0);
        assert!(ring.log().is_err(), "no descriptors");
        let mut ring = Ring::new(48, 0, u64::MAX);
        ring.record(0, FINALIZED, (u64::MAX - 1, u64::MAX), "");
        ring.put(INFOS + 16, 0xffff);
        assert!(ring.log().is_ok(), "the text ends with its ring");
    }
}
