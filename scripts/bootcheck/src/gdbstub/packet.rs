//! Packets of the remote serial protocol, and what is in them.

use std::io;

pub(super) fn checksum(bytes: &[u8]) -> u8 {
    bytes.iter().fold(0, |sum, byte| sum.wrapping_add(*byte))
}

/// The first packet in `input`, and where the next one begins. Acknowledgements are passed over.
pub(super) fn unframe(input: &[u8]) -> Option<(Vec<u8>, usize)> {
    let start = memchr::memchr(b'$', input)? + 1;
    let length = memchr::memchr(b'#', &input[start..])?;
    let end = start + length + 3;
    (input.len() >= end).then(|| (input[start..start + length].to_vec(), end))
}

/// `}` announces a byte that would have ended the packet.
pub(super) fn unescape(bytes: &[u8]) -> Vec<u8> {
    let mut plain = Vec::with_capacity(bytes.len());
    let mut bytes = bytes.iter();
    while let Some(byte) = bytes.next() {
        match (byte, bytes.as_slice().first()) {
            (b'}', Some(escaped)) => {
                plain.push(escaped ^ 0x20);
                bytes.next();
            }
            _ => plain.push(*byte),
        }
    }
    plain
}

pub(super) fn hex_bytes(digits: &[u8]) -> io::Result<Vec<u8>> {
    let pairs = digits.chunks_exact(2);
    if !pairs.remainder().is_empty() {
        return Err(nonsense(digits));
    }
    pairs.map(|pair| Ok(hex_number(pair)? as u8)).collect()
}

pub(super) fn hex_number(digits: &[u8]) -> io::Result<u64> {
    std::str::from_utf8(digits)
        .ok()
        .and_then(|text| u64::from_str_radix(text, 16).ok())
        .ok_or_else(|| nonsense(digits))
}

/// A number of up to eight bytes.
pub(super) fn little_endian(bytes: &[u8]) -> u64 {
    let low = bytes.iter().take(8).rev();
    low.fold(0, |number, byte| number << 8 | u64::from(*byte))
}

pub(super) fn nonsense(answer: &[u8]) -> io::Error {
    let answer = crate::escape::escape(&answer[..answer.len().min(80)]);
    io::Error::new(
        io::ErrorKind::InvalidData,
        format!("the gdb stub answered {answer:?}"),
    )
}
