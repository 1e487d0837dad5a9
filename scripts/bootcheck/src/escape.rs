//! Guest text made safe to show.
//!
//! A guest may print anything: escape sequences that retitle the terminal or hide what follows,
//! bytes that are not UTF-8, characters that reverse the reading order. All of it is shown as
//! `\x1b` or `\u{202e}`; newline, tab and ordinary text pass.

use std::fmt::Write;

/// Makes a stream of bytes safe, however it is cut into pieces.
#[derive(Debug, Default)]
pub struct Escaper {
    /// The beginning of a UTF-8 character or line ending whose rest has not come yet.
    pending: Vec<u8>,
}

impl Escaper {
    /// Appends the safe form of `bytes` to `out`. An unfinished character waits for the next call.
    pub fn push(&mut self, bytes: &[u8], out: &mut String) {
        let joined;
        let bytes = if self.pending.is_empty() {
            bytes
        } else {
            self.pending.extend_from_slice(bytes);
            joined = std::mem::take(&mut self.pending);
            &joined[..]
        };
        let whole = bytes.len() - unfinished_suffix(bytes);
        escape_into(&bytes[..whole], out);
        self.pending.extend_from_slice(&bytes[whole..]);
    }

    /// Appends what was still waiting: nothing will follow.
    pub fn finish(&mut self, out: &mut String) {
        escape_into(&std::mem::take(&mut self.pending), out);
    }
}

/// The safe form of a whole piece of guest text.
#[must_use]
pub fn escape(bytes: &[u8]) -> String {
    let mut out = String::with_capacity(bytes.len());
    escape_into(bytes, &mut out);
    out
}

/// How many bytes at the end of `bytes` cannot be judged without their successors: carriage
/// returns that may belong to a line ending, or the first bytes of a longer character.
fn unfinished_suffix(bytes: &[u8]) -> usize {
    if bytes.last() == Some(&b'\r') {
        return 1;
    }
    let last_four = &bytes[bytes.len().saturating_sub(4)..];
    let Some(lead) = last_four.iter().rposition(|byte| byte & 0xc0 != 0x80) else {
        return 0;
    };
    match std::str::from_utf8(&last_four[lead..]) {
        Err(error) if error.error_len().is_none() => last_four.len() - lead,
        _ => 0,
    }
}

fn escape_into(bytes: &[u8], out: &mut String) {
    for chunk in bytes.utf8_chunks() {
        let mut characters = chunk.valid().chars().peekable();
        while let Some(character) = characters.next() {
            match character {
                '\n' | '\t' => out.push(character),
                '\r' if characters.peek() == Some(&'\n') => {}
                '\0'..='\x1f' | '\x7f' => {
                    let _ = write!(out, "\\x{:02x}", character as u32);
                }
                _ if is_deceptive(character) => {
                    let _ = write!(out, "\\u{{{:x}}}", character as u32);
                }
                _ => out.push(character),
            }
        }
        for byte in chunk.invalid() {
            let _ = write!(out, "\\x{byte:02x}");
        }
    }
}

/// Characters that change how others are shown (C1 controls, directional marks, line separators),
/// and those that no XML file may contain.
fn is_deceptive(character: char) -> bool {
    matches!(character,
        '\u{80}'..='\u{9f}' | '\u{61c}' | '\u{200b}'..='\u{200f}'
        | '\u{2028}'..='\u{202e}' | '\u{2060}'..='\u{206f}' | '\u{feff}'
        | '\u{fffe}' | '\u{ffff}')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn plain_text_passes_and_line_endings_are_unified() {
        assert_eq!(escape("Grüße,\tWelt ✓\r\n".as_bytes()), "Grüße,\tWelt ✓\n");
    }

    #[test]
    fn whatever_a_terminal_would_obey_is_spelled_out() {
        assert_eq!(escape(b"\x1b]0;owned\x07"), "\\x1b]0;owned\\x07");
        assert_eq!(escape(b"over\rwritten"), "over\\x0dwritten");
        assert_eq!(
            escape("\u{9b}31m\u{202e}txt".as_bytes()),
            "\\u{9b}31m\\u{202e}txt"
        );
        assert_eq!(
            escape(b"\xff\xfe\xc3("),
            "\\xff\\xfe\\xc3(",
            "not UTF-8 at all"
        );
        assert_eq!(escape(b"\0\x7f"), "\\x00\\x7f");
    }

    #[test]
    fn the_cut_of_the_stream_does_not_matter() {
        let text = "a\r\nü€😀\u{202e}\r\r\nb\x1b[1m\u{fffd}".as_bytes();
        let mut hostile = text.to_vec();
        hostile.extend_from_slice(b"\xf0\x9f\x98!\xe2\x82\n\xc3");
        for piece_length in 1..hostile.len() {
            let mut escaper = Escaper::default();
            let mut out = String::new();
            for piece in hostile.chunks(piece_length) {
                escaper.push(piece, &mut out);
            }
            escaper.finish(&mut out);
            assert_eq!(out, escape(&hostile), "in pieces of {piece_length}");
        }
    }
}
