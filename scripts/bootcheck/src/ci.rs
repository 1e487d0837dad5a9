//! What CI systems make of a log: commands. What looks like one in a guest's text must not become one.
//!
//! GitHub obeys a line that begins with `::` after white space, and `##[` anywhere in one; Azure and TeamCity obey
//! `##name[`.

use std::borrow::Cow;

/// Whether GitHub Actions reads what is printed.
#[must_use]
pub fn is_github() -> bool {
    std::env::var_os("GITHUB_ACTIONS").is_some_and(|value| value == "true")
}

/// Whether anybody reads what is printed who would obey.
#[must_use]
pub fn is_reading() -> bool {
    let is_set = |name| std::env::var_os(name).is_some();
    is_github() || is_set("TF_BUILD") || is_set("TEAMCITY_VERSION")
}

/// Text that no runner takes for a command.
#[must_use]
pub fn tame(text: &str) -> String {
    let mut out = String::new();
    Tamer::default().push(text, &mut out);
    out
}

/// The same, where somebody reads who would obey: a console is shown as it is otherwise.
#[must_use]
pub fn shown(text: &str) -> Cow<'_, str> {
    match is_reading() {
        true => Cow::Owned(tame(text)),
        false => Cow::Borrowed(text),
    }
}

/// Tames a text that comes in pieces, however it is cut.
#[derive(Debug, Default)]
pub struct Tamer {
    /// Something else than white space was in this line.
    has_begun: bool,
    /// What was last, if the next one like it would make a command.
    last: Option<char>,
}

impl Tamer {
    /// Appends the harmless form of `text` to `out`.
    pub fn push(&mut self, text: &str, out: &mut String) {
        for character in text.chars() {
            let last = self.last.take();
            match character {
                ':' if last == Some(':') => out.push_str("\\x3a"),
                '#' if last == Some('#') => out.push_str("\\x23"),
                _ => {
                    let may_double = character == '#' || (character == ':' && !self.has_begun);
                    self.last = may_double.then_some(character);
                    out.push(character);
                }
            }
            self.has_begun = character != '\n' && (self.has_begun || !character.is_whitespace());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_of_a_guest_is_obeyed_however_it_is_cut() {
        let harmless = "kernel::boot::early at <a::b>\n: :\n#[test] # #\n";
        for (text, tamed) in [
            ("::error::x", ":\\x3aerror::x"),
            ("a\n \t::warning::b\n", "a\n \t:\\x3awarning::b\n"),
            ("so ##[error]x", "so #\\x23[error]x"),
            ("###[error]x", "#\\x23#[error]x"),
            ("####[error]x", "#\\x23#\\x23[error]x"),
            ("##vso[task.x]", "#\\x23vso[task.x]"),
            (harmless, harmless),
        ] {
            assert_eq!(tame(text), tamed);
            let mut tamer = Tamer::default();
            let mut out = String::new();
            for character in text.chars() {
                tamer.push(&character.to_string(), &mut out);
            }
            assert_eq!(out, tamed, "in pieces");
        }
    }
}
