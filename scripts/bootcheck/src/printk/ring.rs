//! Linux's ring buffer: a ring of descriptors, one of the records' properties, and one of text
//! (kernel/printk/printk_ringbuffer.h, since 5.10). A vmlinux does not tell its layout; it is known here.

use std::io;

/// Bytes of struct printk_ringbuffer that are looked at.
pub(super) const BYTES: usize = 128;

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

/// Where text_data_ring follows in it: `last_finalized_id` came in 5.18, before it.
const TEXT_RING: [usize; 2] = [40, 48];

/// The two topmost bits of state_var: 1 is committed, 2 is finalized.
const COMMITTED: u64 = 1;
const FINALIZED: u64 = 2;
const STATE_SHIFT: u32 = 62;

/// struct printk_ringbuffer.
#[derive(Debug, Clone, Copy)]
pub(super) struct Ring {
    descriptors: u64,
    infos: u64,
    /// Numbers of the newest and the oldest record.
    head: u64,
    tail: u64,
    /// From a record's number to its index.
    mask: u64,
    text: u64,
    text_mask: u64,
}

impl Ring {
    /// Reads the structure; `None` if these bytes can be none.
    pub fn parse(bytes: &[u8]) -> Option<Self> {
        let is_pointer = |at| word(bytes, at) >> 48 == 0xffff && word(bytes, at).is_multiple_of(8);
        let count_bits = word(bytes, 0) as u32;
        if !(1..=DESCRIPTORS_BITS).contains(&count_bits) || !is_pointer(8) || !is_pointer(16) {
            return None;
        }
        let text_ring = TEXT_RING.into_iter().find(|&at| {
            let bits = word(bytes, at) as u32;
            (LEAST_TEXT_BITS..=TEXT_BITS).contains(&bits) && is_pointer(at + 8)
        })?;
        Some(Self {
            descriptors: word(bytes, 8),
            infos: word(bytes, 16),
            head: word(bytes, 24),
            tail: word(bytes, 32),
            mask: (1 << count_bits) - 1,
            text: word(bytes, text_ring + 8),
            text_mask: (1 << (word(bytes, text_ring) as u32)) - 1,
        })
    }

    /// Whether the newest record's descriptor is where it must be, and says so itself.
    pub fn is_in_use(&self, read: &mut impl FnMut(u64, usize) -> io::Result<Vec<u8>>) -> bool {
        let id = |state: u64| state & ((1 << STATE_SHIFT) - 1);
        let descriptor = self.descriptors + (self.head & self.mask) * DESCRIPTOR;
        read(descriptor, 8).is_ok_and(|state| id(word(&state, 0)) == id(self.head))
    }

    /// Its records, as Linux's console would have shown them.
    pub fn log(
        &self,
        read: &mut impl FnMut(u64, usize) -> io::Result<Vec<u8>>,
    ) -> io::Result<String> {
        let text = read(self.text, self.text_mask as usize + 1)?;
        let mut log = String::new();
        // Numbers of records wrap at 62 bits.
        for number in 0..=self.head.wrapping_sub(self.tail) & self.mask {
            let index = self.tail.wrapping_add(number) & self.mask;
            let descriptor = read(self.descriptors + index * DESCRIPTOR, DESCRIPTOR as usize)?;
            let state = word(&descriptor, 0) >> STATE_SHIFT;
            if !matches!(state, COMMITTED | FINALIZED) {
                continue;
            }
            let info = read(self.infos + index * INFO, INFO as usize)?;
            let length = usize::from(u16::from_le_bytes([info[16], info[17]]));
            let (begin, next) = (word(&descriptor, 8), word(&descriptor, 16));
            // A record without text; or one that has wrapped and begins anew at the ring's start.
            if begin & 1 != 0 {
                continue;
            }
            let has_wrapped = begin & !self.text_mask != next.wrapping_sub(1) & !self.text_mask;
            let start = if has_wrapped {
                0
            } else {
                begin & self.text_mask
            } as usize
                + 8;
            let end = start.saturating_add(length).min(text.len());
            let words = text.get(start..end).unwrap_or_default();
            line(&mut log, word(&info, 8), words);
        }
        Ok(log)
    }
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

pub(super) fn word(bytes: &[u8], at: usize) -> u64 {
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
    struct Memory {
        bytes: Vec<u8>,
    }

    impl Memory {
        fn new(text_ring: u64, tail: u64, head: u64) -> Self {
            let mut ring = Self {
                bytes: vec![0; 0x9000],
            };
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
            self.bytes[at..at + 8].copy_from_slice(&word.to_le_bytes());
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
            self.bytes[at..at + text.len()].copy_from_slice(text.as_bytes());
        }

        fn read(&self, address: u64, length: usize) -> io::Result<Vec<u8>> {
            let start = address.checked_sub(RING).map(|start| start as usize);
            let bytes = start.and_then(|start| self.bytes.get(start..start.checked_add(length)?));
            let bytes = bytes.ok_or(io::ErrorKind::NotFound)?;
            Ok(bytes.to_vec())
        }

        fn ring(&self) -> Option<Ring> {
            Ring::parse(&self.bytes[..BYTES])
        }

        fn log(&self) -> Option<String> {
            let log = self.ring()?.log(&mut |at, length| self.read(at, length));
            Some(log.unwrap())
        }
    }

    #[test]
    fn records_come_in_order_whatever_has_wrapped() {
        for text_ring in [40, 48] {
            let mut ring = Memory::new(text_ring, 3, 6);
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
        assert!(Memory::new(56, 0, 0).log().is_none(), "the text is nowhere");
        let mut ring = Memory::new(48, 0, 3);
        ring.put(RING, 40);
        assert!(ring.log().is_none(), "too many descriptors");
        let mut ring = Memory::new(48, 0, 3);
        ring.put(RING + 8, 0);
        assert!(ring.log().is_none(), "no descriptors");
        let mut ring = Memory::new(48, 0, u64::MAX);
        ring.record(0, FINALIZED, (u64::MAX - 1, u64::MAX), "");
        ring.put(INFOS + 16, 0xffff);
        assert!(ring.log().is_some(), "the text ends with its ring");
    }

    #[test]
    fn a_ring_in_use_has_its_newest_descriptor() {
        let mut memory = Memory::new(48, 3, 6);
        let is_in_use = |memory: &Memory| {
            let mut read = |at, length| memory.read(at, length);
            memory.ring().unwrap().is_in_use(&mut read)
        };
        assert!(!is_in_use(&memory));
        memory.record(6, FINALIZED, (64, 96), "newest");
        assert!(is_in_use(&memory));
    }
}
