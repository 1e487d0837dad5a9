//! The guest's console: bytes in, safe lines out, and a copy of bounded size.

use std::collections::VecDeque;

use crate::escape::escape;

/// The most console text that a result carries.
pub const KEPT: usize = 1 << 20;

/// A line longer than this is cut for judging. No sign is that long, and a guest that never ends
/// its line must not fill the host's memory.
const LONGEST_LINE: usize = 64 << 10;

/// Takes the console apart into lines and keeps its head and tail.
#[derive(Debug, Default)]
pub struct Console {
    line: Vec<u8>,
    is_cut: bool,
    head: Vec<u8>,
    tail: VecDeque<u8>,
    total: u64,
}

impl Console {
    /// Adds what came, and calls `on_line` with each line that it completes: made safe, without
    /// its ending. A line that the guest did not end is never complete.
    pub fn push(&mut self, bytes: &[u8], mut on_line: impl FnMut(&str)) {
        self.keep(bytes);
        for piece in bytes.split_inclusive(|byte| *byte == b'\n') {
            let (text, ended) = match piece.split_last() {
                Some((b'\n', text)) => (text, true),
                _ => (piece, false),
            };
            let room = LONGEST_LINE - self.line.len();
            self.is_cut |= text.len() > room;
            self.line.extend_from_slice(&text[..text.len().min(room)]);
            if ended {
                let line = std::mem::take(&mut self.line);
                let end = line
                    .iter()
                    .rposition(|byte| *byte != b'\r')
                    .map_or(0, |at| at + 1);
                let mut line = escape(&line[..end]);
                if std::mem::take(&mut self.is_cut) {
                    line.push('…');
                }
                on_line(&line);
            }
        }
    }

    /// The line that the guest has begun and not ended, made safe: nothing, or perhaps a prompt.
    #[must_use]
    pub fn unfinished(&self) -> String {
        escape(&self.line)
    }

    /// Whether the guest has printed nothing at all.
    #[must_use]
    pub fn is_silent(&self) -> bool {
        self.total == 0
    }

    /// How many bytes the guest has printed.
    #[must_use]
    pub fn total(&self) -> u64 {
        self.total
    }

    /// The text, at most [`KEPT`] bytes of it: head and tail, with a note of what is left out.
    #[must_use]
    pub fn text(&self) -> String {
        let tail: Vec<u8> = self.tail.iter().copied().collect();
        let left_out = self.total - (self.head.len() + tail.len()) as u64;
        if left_out == 0 {
            let mut whole = self.head.clone();
            whole.extend(&tail);
            let text = String::from_utf8_lossy(&whole).into_owned();
            if text.len() <= KEPT {
                return text;
            }
        }
        // What was not UTF-8 has grown by becoming text.
        let half = KEPT / 2 - 64;
        let head = String::from_utf8_lossy(&self.head);
        let tail = String::from_utf8_lossy(&tail);
        let head = &head[..floor_boundary(&head, half)];
        let tail = &tail[floor_boundary(&tail, tail.len().saturating_sub(half) + 3)..];
        format!("{head}\n[bootcheck: the middle is left out]\n{tail}")
    }

    /// The last lines, made safe.
    #[must_use]
    pub fn last_lines(&self, count: usize) -> Vec<String> {
        let recent = if self.tail.is_empty() {
            self.head.clone()
        } else {
            self.tail.iter().copied().collect()
        };
        let text = escape(&recent);
        let lines: Vec<&str> = text
            .lines()
            .filter(|line| !line.trim().is_empty())
            .collect();
        let first = lines.len().saturating_sub(count);
        lines[first..].iter().map(ToString::to_string).collect()
    }

    fn keep(&mut self, bytes: &[u8]) {
        self.total += bytes.len() as u64;
        let into_head = bytes.len().min(KEPT / 2 - self.head.len());
        self.head.extend_from_slice(&bytes[..into_head]);
        self.tail.extend(&bytes[into_head..]);
        let excess = self.tail.len().saturating_sub(KEPT / 2);
        self.tail.drain(..excess);
    }
}

pub(crate) fn floor_boundary(text: &str, mut index: usize) -> usize {
    index = index.min(text.len());
    while !text.is_char_boundary(index) {
        index -= 1;
    }
    index
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lines(pieces: &[&[u8]]) -> Vec<String> {
        let mut console = Console::default();
        let mut lines = Vec::new();
        for piece in pieces {
            console.push(piece, |line| lines.push(line.to_owned()));
        }
        lines
    }

    #[test]
    fn lines_are_whole_whatever_the_pieces() {
        assert_eq!(lines(&[b"boot: ", b"PASS\r", b"\nnext"]), ["boot: PASS"]);
        assert_eq!(lines(&[b"a\n\nb\r\r\n"]), ["a", "", "b"]);
        assert_eq!(lines(&[b"boot: PASS"]), [""; 0], "the guest did not end it");
        assert_eq!(lines(&[b"\x1b[32mboot: PASS\n"]), ["\\x1b[32mboot: PASS"]);
    }

    #[test]
    fn a_line_without_end_does_not_fill_the_memory() {
        let mut console = Console::default();
        let mut lines = Vec::new();
        for _ in 0..4000 {
            console.push(&[b'x'; 1000], |line| lines.push(line.to_owned()));
        }
        assert!(console.line.len() <= LONGEST_LINE);
        assert!(console.head.len() + console.tail.len() <= KEPT);
        console.push(b"\nboot: PASS\n", |line| lines.push(line.to_owned()));
        assert_eq!(lines[0].len(), LONGEST_LINE + '…'.len_utf8());
        assert_eq!(lines[1], "boot: PASS");
    }

    #[test]
    fn head_and_tail_are_kept() {
        let mut console = Console::default();
        assert!(console.is_silent());
        console.push(b"first\n", |_| {});
        assert_eq!(console.text(), "first\n");
        for _ in 0..300_000 {
            console.push(b"middle\n", |_| {});
        }
        console.push(b"last\n", |_| {});
        let text = console.text();
        assert!(text.starts_with("first\n") && text.ends_with("middle\nlast\n"));
        assert!(text.contains("left out") && text.len() <= KEPT);
        assert_eq!(console.last_lines(2), ["middle", "last"]);
    }

    #[test]
    fn bytes_that_are_no_text_do_not_break_the_limit() {
        let mut console = Console::default();
        console.push(&vec![0xff; 2 * KEPT], |_| {});
        assert!(console.text().len() <= KEPT);
        let mut exactly = Console::default();
        exactly.push(&vec![0xff; KEPT], |_| {});
        assert!(exactly.text().len() <= KEPT);
    }
}
