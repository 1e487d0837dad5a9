//! The kernel command line: which words there are and what they mean.

use core::fmt;

use log::LevelFilter;

/// Longest command line kept, in bytes, as on Linux arm64.
pub const COMMAND_LINE_SIZE: usize = 2048;

/// The command line as it was passed, as far as it is text and fits.
#[derive(Clone, Copy)]
pub struct CommandLine {
    bytes: [u8; COMMAND_LINE_SIZE],
    len: usize,
    cut: bool,
}

impl fmt::Debug for CommandLine {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(self.as_str(), f)
    }
}

impl CommandLine {
    /// No word.
    pub const EMPTY: Self = Self {
        bytes: [0; COMMAND_LINE_SIZE],
        len: 0,
        cut: false,
    };

    /// A copy of `line`, see [`CommandLine::from_bytes`].
    pub fn new(line: &str) -> Self {
        Self::from_bytes(line.as_bytes())
    }

    /// A copy of `line` up to its first NUL.
    ///
    /// What is no text, or would steer a terminal, becomes a `?`, so that the
    /// word it is in is told as unknown and the others still count. A line that
    /// is too long ends with the last whole word: half of an address is another.
    pub fn from_bytes(line: &[u8]) -> Self {
        let mut copy = Self::EMPTY;
        let line = line.split(|&byte| byte == 0).next().unwrap_or(&[]);
        let line = line.trim_ascii();
        // As nearly every line is.
        if let Some(place) = copy.bytes.get_mut(..line.len())
            && line.iter().all(|byte| matches!(byte, b' '..=b'~'))
        {
            place.copy_from_slice(line);
            copy.len = line.len();
            return copy;
        }
        for chunk in line.utf8_chunks() {
            let replaced = match chunk.invalid() {
                [] => None,
                _ => Some('?'),
            };
            for c in chunk.valid().chars().chain(replaced) {
                if !copy.push(c) {
                    return copy;
                }
            }
        }
        copy
    }

    /// The same of UTF-16, as UEFI passes it.
    pub fn from_utf16(units: impl Iterator<Item = u16>) -> Self {
        let mut copy = Self::EMPTY;
        let units = units.take_while(|&unit| unit != 0);
        for c in char::decode_utf16(units) {
            if !copy.push(c.unwrap_or('?')) {
                break;
            }
        }
        copy.len = copy.as_str().trim_ascii_end().len();
        copy
    }

    /// Adds `c`, or cuts the line at its last whole word and says no.
    fn push(&mut self, c: char) -> bool {
        let steers = c.is_control() && !c.is_ascii_whitespace();
        let c = if steers { '?' } else { c };
        let end = self.len + c.len_utf8();
        if let Some(place) = self.bytes.get_mut(self.len..end) {
            c.encode_utf8(place);
            self.len = end;
            return true;
        }
        let last = self.bytes.iter().rposition(u8::is_ascii_whitespace);
        self.len = match c.is_ascii_whitespace() {
            true => self.len,
            false => last.unwrap_or(0),
        };
        self.cut = true;
        false
    }

    /// Its text.
    pub fn as_str(&self) -> &str {
        let bytes = self.bytes.get(..self.len).unwrap_or(&[]);
        core::str::from_utf8(bytes).unwrap_or("")
    }

    /// The text of `word`.
    fn text(&self, word: Word) -> &str {
        let start = usize::from(word.start);
        let end = start + usize::from(word.len);
        self.as_str().get(start..end).unwrap_or("")
    }

    /// Whether words at its end did not fit.
    pub fn is_cut(&self) -> bool {
        self.cut
    }
}

/// Where a part of a [`CommandLine`] is. An offset, since the kernel moves from
/// its physical to its virtual address, and with it the line.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Word {
    start: u16,
    len: u16,
}

const _: () = assert!(COMMAND_LINE_SIZE <= u16::MAX as usize);

impl Word {
    /// No character.
    const EMPTY: Self = Self { start: 0, len: 0 };

    /// Where `text`, which is a part of `line`, is in it.
    fn of(text: &str, line: &str) -> Self {
        Self {
            start: (text.as_ptr().addr() - line.as_ptr().addr()) as u16,
            len: text.len() as u16,
        }
    }
}

/// How the linear map is built.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LinearMode {
    /// The largest blocks that fit.
    Auto,
    /// Pages only.
    Page,
}

/// What becomes read-only in the protect stage.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RodataMode {
    /// Only the linear map's alias of text and rodata: constants stay writable.
    Off,
    /// Also the constants.
    On,
    /// As `On`, and the linear map consists of pages, so that the rights of any of
    /// them can change without a block to split.
    Full,
}

/// How the kernel ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ExitMode {
    /// PSCI SYSTEM_OFF.
    Psci,
    /// Semihosting exit: the emulator's status is 0 for a good boot, else 1.
    Semihosting,
    /// Park in WFI.
    Halt,
}

/// A deliberate fault: which, and at the start of which stage.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Fault<'a> {
    /// Its name, as LKDTM names it.
    pub name: &'a str,
    /// The stage's name; `selftest` if none was given.
    pub stage: &'a str,
    /// Not in a boot that finds the record of another one.
    pub once: bool,
}

impl<'a> Fault<'a> {
    fn new(word: &'a str) -> Self {
        let (fault, once) = match word.strip_suffix(",once") {
            Some(fault) => (fault, true),
            None => (word, false),
        };
        let (name, stage) = fault.split_once('@').unwrap_or((fault, "selftest"));
        Self { name, stage, once }
    }
}

/// What the words of the command line ask for: plain data, which may move.
#[derive(Clone, Copy, Debug)]
pub struct Options {
    /// `loglevel=0..8`: what the console shows, in Linux's numbers.
    pub log_level: LevelFilter,
    /// `linear=auto|page`.
    pub linear: LinearMode,
    /// `rodata=on|off|full`.
    pub rodata: RodataMode,
    /// `exit=psci|semihosting|halt`.
    pub exit: ExitMode,
    /// `selftest.seed=N`: what random tests draw by.
    pub selftest_seed: u64,
    /// `earlycon=pl011,ADDR`: physical address of the console.
    pub earlycon: Option<u64>,
    /// `ptdump`: print every region of the kernel's tables.
    pub ptdump: bool,
    selftest: Option<Word>,
    fault: Option<Word>,
}

impl Options {
    /// What an empty command line asks for.
    pub const DEFAULT: Self = Self {
        log_level: LevelFilter::Info,
        linear: LinearMode::Auto,
        rodata: RodataMode::On,
        exit: ExitMode::Psci,
        selftest_seed: 1,
        earlycon: None,
        ptdump: false,
        selftest: None,
        fault: None,
    };

    /// `selftest=all|none|GLOB`: which self-tests run, `*` for all, nothing for none.
    /// `line` is the one that was parsed.
    pub fn selftest<'a>(&self, line: &'a CommandLine) -> &'a str {
        match self.selftest {
            None => "*",
            Some(Word::EMPTY) => "",
            Some(glob) => line.text(glob),
        }
    }

    /// `fault=NAME[@STAGE][,once]`: the fault to commit, and when. `help` lists
    /// them. `line` is the one that was parsed.
    pub fn fault<'a>(&self, line: &'a CommandLine) -> Option<Fault<'a>> {
        self.fault.map(|fault| Fault::new(line.text(fault)))
    }
}

/// A word of the command line that has no effect.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ignored<'a> {
    /// No option has that name.
    UnknownWord(&'a str),
    /// The option exists, its value does not.
    BadValue(&'a str),
}

impl fmt::Display for Ignored<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::UnknownWord(word) => write!(f, "unknown word `{word}` ignored"),
            Self::BadValue(word) => write!(f, "`{word}`: no such value, default kept"),
        }
    }
}

/// Reads a command line; a later word overrides an earlier one. What cannot be
/// used goes to `ignored`: a boot never fails for a word it does not know.
pub fn parse<'a>(line: &'a CommandLine, ignored: &mut dyn FnMut(Ignored<'a>)) -> Options {
    let mut options = Options::DEFAULT;
    let line = line.as_str();
    for word in line.split_ascii_whitespace() {
        match apply(&mut options, line, word) {
            Ok(()) => {}
            Err(why) => ignored(why),
        }
    }
    options
}

fn apply<'a>(options: &mut Options, line: &str, word: &'a str) -> Result<(), Ignored<'a>> {
    let (name, value) = match word.split_once('=') {
        Some((name, value)) => (name, Some(value)),
        None => (word, None),
    };
    let bad = Ignored::BadValue(word);
    match name {
        "loglevel" => options.log_level = value.and_then(log_level).ok_or(bad)?,
        "linear" => {
            options.linear = match value {
                Some("auto") => LinearMode::Auto,
                Some("page") => LinearMode::Page,
                _ => return Err(bad),
            }
        }
        "rodata" => {
            options.rodata = match value {
                Some("off") => RodataMode::Off,
                Some("on") => RodataMode::On,
                Some("full") => RodataMode::Full,
                _ => return Err(bad),
            }
        }
        "exit" => {
            options.exit = match value {
                Some("psci") => ExitMode::Psci,
                Some("semihosting") => ExitMode::Semihosting,
                Some("halt") => ExitMode::Halt,
                _ => return Err(bad),
            }
        }
        "selftest" => {
            options.selftest = match value {
                Some("all") => None,
                Some("none") => Some(Word::EMPTY),
                Some(glob) if !glob.is_empty() => Some(Word::of(glob, line)),
                _ => return Err(bad),
            }
        }
        "selftest.seed" => {
            options.selftest_seed = value.and_then(|seed| seed.parse().ok()).ok_or(bad)?;
        }
        "earlycon" => options.earlycon = Some(value.and_then(earlycon).ok_or(bad)?),
        "fault" => match value {
            Some(fault) if !fault.is_empty() => options.fault = Some(Word::of(fault, line)),
            _ => return Err(bad),
        },
        "ptdump" if value.is_none() => options.ptdump = true,
        // The image runs where it is linked; said for loaders that pass it always.
        "nokaslr" if value.is_none() => {}
        "ptdump" | "nokaslr" => return Err(bad),
        _ => return Err(Ignored::UnknownWord(word)),
    }
    Ok(())
}

/// Linux's console levels: messages with a level below the number are shown.
/// 4 is KERN_WARNING, 6 KERN_INFO, 7 KERN_DEBUG.
fn log_level(value: &str) -> Option<LevelFilter> {
    Some(match value.parse::<u8>().ok()? {
        0..=3 => LevelFilter::Off,
        4 => LevelFilter::Error,
        5..=6 => LevelFilter::Warn,
        7 => LevelFilter::Info,
        8 => LevelFilter::Debug,
        _ => return None,
    })
}

/// `pl011,0x9000000`, as Linux writes it; an `mmio32,` or `mmio,` between is fine.
fn earlycon(value: &str) -> Option<u64> {
    let address = value.strip_prefix("pl011,")?;
    let address = address
        .strip_prefix("mmio32,")
        .or(address.strip_prefix("mmio,"))
        .unwrap_or(address);
    let address = address.split(',').next()?;
    match address.strip_prefix("0x") {
        Some(hex) => u64::from_str_radix(hex, 16).ok(),
        None => address.parse().ok(),
    }
}

/// Whether `name` matches `glob`, in which `*` stands for any run of characters.
pub fn glob_matches(glob: &str, name: &str) -> bool {
    let (glob, name) = (glob.as_bytes(), name.as_bytes());
    let (mut g, mut n) = (0, 0);
    // Where to take up again: after the last star, one character further on.
    let mut retry = None;
    while n < name.len() {
        if glob.get(g) == Some(&b'*') {
            g += 1;
            retry = Some((g, n + 1));
        } else if glob.get(g) == Some(&name[n]) {
            (g, n) = (g + 1, n + 1);
        } else if let Some((after_star, next)) = retry {
            (g, n) = (after_star, next);
            retry = Some((after_star, next + 1));
        } else {
            return false;
        }
    }
    glob[g..].iter().all(|&byte| byte == b'*')
}

#[cfg(test)]
mod tests;
