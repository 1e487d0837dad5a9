//! Which words of a console line are addresses of code, and what they mean there.
//!
//! Known are this project's reports (`0xADDRESS _text+0xOFFSET`) and Linux's (`name+0x10/0x20`,
//! `[<ADDRESS>]`), and otherwise any address that stands alone. A range (`0x1000-0x1fff`) is none,
//! nor is a page table's line, nor a value in a dump of registers.

use std::sync::LazyLock;

use regex::{Captures, Regex};

use crate::symbols::Meaning;

/// The most addresses of one line that are of interest.
const MOST_WORDS: usize = 4;

static WORDS: LazyLock<Regex> = LazyLock::new(|| {
    regex(
        r"(?x)
        \b _text \+ 0x (?<offset> [0-9a-f]{1,16} ) \b
        | \b (?<name> [A-Za-z_] [\w.$]* ) \+ 0x (?<into> [0-9a-f]{1,16} ) / 0x [0-9a-f]+ \b
        ",
    )
});

static ADDRESSES: LazyLock<Regex> =
    LazyLock::new(|| regex(r"(?:^|[\s(=:])(?:0x([0-9a-f]{5,16})|\[<([0-9a-f]{8,16})>\])"));

static IMAGE_AT: LazyLock<Regex> = LazyLock::new(|| regex(r"\bimage at 0x([0-9a-f]{1,16})\b"));

/// A log's prefix: time, perhaps the thread, as the kernel or Linux write it.
static PREFIX: LazyLock<Regex> = LazyLock::new(|| regex(r"^(\[ *\d+\.\d+\](\[ *[TC]\d+\])? )?"));

fn regex(pattern: &str) -> Regex {
    Regex::new(pattern).expect("a pattern written here")
}

/// What one line holds.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Found {
    /// Where the image says that it was loaded.
    pub image_at: Option<u64>,
    /// What may be places in code.
    pub spots: Vec<Spot>,
    /// The line says where the CPU was executing.
    pub is_pc: bool,
    /// The line belongs to a call trace.
    pub in_trace: bool,
}

/// A word that may be a place in code.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Spot {
    /// The word.
    pub word: Word,
    /// Whether it executed or is to be returned to.
    pub meaning: Meaning,
}

/// How a place in code is written.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Word {
    /// `_text+0x1c`.
    Offset(u64),
    /// `name+0x1c/0x40`.
    Symbol(String, u64),
    /// An address as the guest had it.
    Address(u64),
}

/// Reads a log line by line.
#[derive(Debug, Default)]
pub struct Finder {
    in_trace: bool,
    /// The places that the last report said were executing.
    executing: Vec<Word>,
}

impl Finder {
    /// Reads the next line, without its ending.
    pub fn read(&mut self, line: &str) -> Found {
        let text = PREFIX.replace(line, "");
        let text = text.trim_end();
        let is_in_trace = self.in_trace && text.starts_with(' ');
        self.in_trace = is_in_trace || text.eq_ignore_ascii_case("call trace:");
        // Cheap, and true for nearly every line of a log.
        if !text.contains("0x") && !text.contains("[<") {
            return Found {
                in_trace: is_in_trace,
                ..Found::default()
            };
        }

        let mut words: Vec<Word> = WORDS
            .captures_iter(text)
            .filter_map(|c| named(&c))
            .collect();
        if words.is_empty() && !is_table(text) {
            words = bare(text);
        }
        words.truncate(MOST_WORDS);
        let is_pc = starts_with_name(text, "pc");
        if is_pc {
            self.executing.clone_from(&words);
        }
        let is_return = is_in_trace || starts_with_name(text, "lr");
        let spots = words.into_iter().map(|word| {
            // A trace may begin with the place itself.
            let meaning = match is_return && !self.executing.contains(&word) {
                true => Meaning::Return,
                false => Meaning::Executing,
            };
            Spot { word, meaning }
        });
        Found {
            spots: spots.collect(),
            image_at: IMAGE_AT.captures(text).and_then(|found| hex(&found[1])),
            is_pc,
            in_trace: is_in_trace,
        }
    }
}

fn named(found: &Captures<'_>) -> Option<Word> {
    if let Some(offset) = found.name("offset") {
        return hex(offset.as_str()).map(Word::Offset);
    }
    let offset = hex(&found["into"])?;
    Some(Word::Symbol(found["name"].to_owned(), offset))
}

/// The addresses that stand alone.
fn bare(text: &str) -> Vec<Word> {
    let words = ADDRESSES.captures_iter(text).filter_map(|found| {
        let end = found.get(0)?.end();
        let ends = matches!(
            text.as_bytes().get(end),
            None | Some(b' ' | b',' | b'.' | b';' | b':' | b')' | b']')
        );
        let digits = found.get(1).or(found.get(2)).filter(|_| ends)?;
        hex(digits.as_str()).map(Word::Address)
    });
    words.collect()
}

/// Lines of page tables and memory maps: their addresses are no places in code.
fn is_table(text: &str) -> bool {
    text.contains(" -> 0x") || text.contains("[mem ")
}

/// Whether a line is `name : value`.
fn starts_with_name(text: &str, name: &str) -> bool {
    text.strip_prefix(name)
        .is_some_and(|rest| rest.trim_start().starts_with(':'))
}

fn hex(digits: &str) -> Option<u64> {
    u64::from_str_radix(digits, 16).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn words(line: &str) -> Vec<Word> {
        let found = Finder::default().read(line);
        found.spots.into_iter().map(|spot| spot.word).collect()
    }

    #[test]
    fn places_in_the_words_of_both_kernels() {
        for (line, expected) in [
            ("pc : 0xffff800080005ed4 _text+0x5ed4", Word::Offset(0x5ed4)),
            ("[    0.1] pc : 0x1 _text+0x5ed4", Word::Offset(0x5ed4)),
            (
                "[    0.000000][    T0] pc : __create_pgd_mapping+0x34/0x700",
                Word::Symbol("__create_pgd_mapping".into(), 0x34),
            ),
            (" 0xffff800080005ed4 _text+0x5ed4 ?", Word::Offset(0x5ed4)),
            (
                "undefined instruction, at 0xffff800080005ed4, in stage fdt",
                Word::Address(0xffff_8000_8000_5ed4),
            ),
            (
                "[<ffff800080005ed4>] ",
                Word::Address(0xffff_8000_8000_5ed4),
            ),
            ("elr=0x40205ed4", Word::Address(0x4020_5ed4)),
        ] {
            assert_eq!(words(line), [expected], "{line}");
        }
    }

    #[test]
    fn what_is_no_place() {
        for line in [
            "RAM [mem 0x0000000040000000-0x0000000047ffffff]",
            "0xffff800080000000-0xffff80008002ffff -> 0x0000000040200000    192K",
            "at 0x40200000-0x40300000",
            "MIDR 0x10",
            "x24: ffff800080031758",
            "sizes 0x40200000M",
            "xyz0x40200000",
            "boot: PASS",
            "",
        ] {
            assert_eq!(words(line), [], "{line}");
        }
    }

    #[test]
    fn returns_are_told_from_what_executes() {
        let mut finder = Finder::default();
        let mut meanings = Vec::new();
        for line in [
            "pc : 0x40200100 _text+0x100",
            "lr : 0x40200200 _text+0x200",
            "Call trace:",
            " 0x40200100 _text+0x100",
            " 0x40200300 _text+0x300",
            "at _text+0x400",
        ] {
            meanings.extend(finder.read(line).spots.into_iter().map(|spot| spot.meaning));
        }
        use Meaning::{Executing, Return};
        assert_eq!(meanings, [Executing, Return, Executing, Return, Executing]);
    }

    #[test]
    fn the_load_address_is_learnt() {
        let line =
            "[    0.004421] INFO  early: Booting at EL1, image at 0x40200000, MIDR 0x410fd083";
        assert_eq!(Finder::default().read(line).image_at, Some(0x4020_0000));
    }
}
