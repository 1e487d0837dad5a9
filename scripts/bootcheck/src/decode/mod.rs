//! `bootcheck decode`: functions and source lines for the addresses in a log.
//!
//! Everything passes through as it comes; what is known about a line is added at its end, and
//! inlined calls as lines after it. A line is never held back until it is complete.
//!
//! - [`find`] says which words of a line are addresses, and what they mean there;
//! - this module looks them up and writes.

pub mod find;

use std::fs::File;
use std::io::{self, Read, Write};
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context;
use crossbeam_channel::RecvTimeoutError;

use crate::cli::DecodeArgs;
use crate::escape::escape;
use crate::interrupt;
use crate::symbols::{Place, Positions, Source, Symbols};
use find::{Finder, Spot};

/// Nothing of use stands in a line longer than this.
const LONGEST_LINE: usize = 4096;

/// Runs the command; the exit status.
///
/// # Errors
/// The log or the ELF cannot be read, or [`interrupt::Interrupted`].
pub fn run(args: &DecodeArgs) -> anyhow::Result<u8> {
    let source = Arc::new(Source::new(args.elf.clone()));
    source.require()?;
    let log: Box<dyn Read + Send> = match &args.log {
        Some(path) => {
            Box::new(File::open(path).with_context(|| format!("cannot read {}", path.display()))?)
        }
        None => Box::new(io::stdin()),
    };
    match copy(log, Decoder::new(source), io::stdout().lock()) {
        // Whoever closes the pipe has read enough.
        Err(error)
            if error
                .downcast_ref::<io::Error>()
                .is_some_and(|error| error.kind() == io::ErrorKind::BrokenPipe) =>
        {
            Ok(0)
        }
        result => result.map(|()| 0),
    }
}

/// Copies a log, decoded, as it comes.
fn copy(
    mut log: impl Read + Send + 'static,
    mut decoder: Decoder,
    mut out: impl Write,
) -> anyhow::Result<()> {
    // Read in a thread of its own: Ctrl-C must not wait for the next line.
    let (sender, pieces) = crossbeam_channel::bounded(16);
    std::thread::spawn(move || {
        let mut buffer = vec![0; 64 << 10];
        loop {
            let piece = log
                .read(&mut buffer)
                .map(|length| buffer[..length].to_vec());
            let is_last = !matches!(&piece, Ok(bytes) if !bytes.is_empty());
            if sender.send(piece).is_err() || is_last {
                return;
            }
        }
    });
    let mut text = Vec::new();
    loop {
        interrupt::check()?;
        text.clear();
        match pieces.recv_timeout(Duration::from_millis(50)) {
            Ok(piece) => decoder.push(&piece.context("cannot read the log")?, &mut text),
            Err(RecvTimeoutError::Timeout) => continue,
            Err(RecvTimeoutError::Disconnected) => break,
        }
        out.write_all(&text)?;
        out.flush()?;
    }
    decoder.finish(&mut text);
    out.write_all(&text)?;
    Ok(out.flush()?)
}

/// Adds what is known to a stream of text.
#[derive(Debug)]
pub struct Decoder {
    source: Arc<Source>,
    finder: Finder,
    positions: Option<Positions>,
    /// Load addresses seen before the ELF was opened.
    bases: Vec<u64>,
    line: Vec<u8>,
    /// The line's text has a carriage return at its end that is not written yet.
    holds_return: bool,
}

impl Decoder {
    /// Nothing seen yet; the ELF is opened when an address is.
    #[must_use]
    pub fn new(source: Arc<Source>) -> Self {
        Self {
            source,
            finder: Finder::default(),
            positions: None,
            bases: Vec::new(),
            line: Vec::new(),
            holds_return: false,
        }
    }

    /// Appends `bytes` to `out`, with what is known about each line that they complete.
    pub fn push(&mut self, bytes: &[u8], out: &mut Vec<u8>) {
        for &byte in bytes {
            if byte == b'\n' {
                let note = self.note();
                out.extend(note.beside.as_bytes());
                let ending: &[u8] = if self.holds_return { b"\r\n" } else { b"\n" };
                out.extend(ending);
                for line in note.below {
                    out.extend(line.as_bytes());
                    out.extend(ending);
                }
                self.holds_return = false;
                continue;
            }
            if std::mem::replace(&mut self.holds_return, byte == b'\r') {
                out.push(b'\r');
            }
            if byte != b'\r' {
                out.push(byte);
            }
            if self.line.len() <= LONGEST_LINE {
                self.line.push(byte);
            }
        }
    }

    /// Appends what belongs to a last line without an end.
    pub fn finish(&mut self, out: &mut Vec<u8>) {
        if std::mem::take(&mut self.holds_return) {
            out.push(b'\r');
        }
        if !self.line.is_empty() {
            let note = self.note();
            out.extend(note.beside.as_bytes());
            for line in note.below {
                out.push(b'\n');
                out.extend(line.as_bytes());
            }
        }
    }

    /// What there is to say about the line, which is over.
    fn note(&mut self) -> Note {
        let line = std::mem::take(&mut self.line);
        let mut note = Note::default();
        if line.len() > LONGEST_LINE {
            return note;
        }
        let found = self.finder.read(&String::from_utf8_lossy(&line));
        self.bases.extend(found.image_at);
        if found.spots.is_empty() {
            return note;
        }
        let Ok(symbols) = self.source.get() else {
            return note;
        };
        let positions = self.positions.get_or_insert_with(|| Positions::of(symbols));
        for base in self.bases.drain(..) {
            positions.add(base);
        }
        for spot in found.spots {
            if let Some(place) = look_up(symbols, positions, &spot) {
                note.add(&place, &spot);
            }
        }
        note
    }
}

/// What is at a spot, if it is in the image's code.
fn look_up(symbols: &Symbols, positions: &Positions, spot: &Spot) -> Option<Place> {
    let address = match &spot.word {
        find::Word::Offset(offset) => symbols.base().checked_add(*offset)?,
        find::Word::Symbol(name, offset) => symbols.address_of(name)?.checked_add(*offset)?,
        find::Word::Address(address) => {
            let linked = positions.as_linked(symbols, *address)?;
            // The image's own address is no place in its code.
            (linked != symbols.base()).then_some(linked)?
        }
    };
    let place = symbols.resolve(address, spot.meaning);
    place.symbol.is_some().then_some(place)
}

/// What is added to a line.
#[derive(Default)]
struct Note {
    beside: String,
    below: Vec<String>,
}

impl Note {
    fn add(&mut self, place: &Place, spot: &Spot) {
        let location = place.calls.last().and_then(|call| call.location());
        // Linux has said the symbol itself.
        let text = match &spot.word {
            find::Word::Symbol(..) => location.map(|location| format!("({location})")),
            _ => place.summary(),
        };
        if let Some(text) = text {
            self.beside.push(' ');
            self.beside.push_str(&escape(text.as_bytes()));
        }
        let (_, inlined) = place
            .calls
            .split_last()
            .unwrap_or((&Default::default(), &[]));
        for call in inlined.iter().rev() {
            let function = call.function.as_deref().unwrap_or("?");
            let location = call.location().unwrap_or_else(|| "?".into());
            let text = format!("    inlined {function} ({location})");
            self.below.push(escape(text.as_bytes()));
        }
    }
}

#[cfg(test)]
mod tests;
