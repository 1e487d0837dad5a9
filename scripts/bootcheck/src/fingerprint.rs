//! The fingerprint of a failure: the same for the same failure, whatever else has changed.
//!
//! A bisection must follow one failure, and a list of results should count each once. So nothing
//! goes in that a rebuild moves: no address, no offset, no line, no number; only what kind of
//! failure it is, what it said, and which functions it happened in.

use crate::symbols::names;
use crate::verdict::Verdict;

/// How many functions count. Further up, all failures of a boot look alike.
const FUNCTIONS: usize = 3;

/// Makes the fingerprint: a short hash, then what went into it. Nothing for what is no failure of
/// the guest.
///
/// `class` is the kind of exception or hang; `functions` are the kernel's own in the backtrace,
/// innermost first; `message` counts where the class does not say it all.
#[must_use]
pub fn fingerprint<'a>(
    verdict: Verdict,
    class: Option<&str>,
    message: Option<&str>,
    functions: impl IntoIterator<Item = &'a str>,
) -> Option<String> {
    if matches!(
        verdict,
        Verdict::Pass | Verdict::Infra | Verdict::Unbootable
    ) {
        return None;
    }
    let mut text = verdict.name().to_owned();
    if let Some(class) = class {
        text.push_str(&format!(" {}", without_numbers(class)));
    }
    let mut functions: Vec<String> = functions.into_iter().map(names::plain).collect();
    // How deep a recursion went is no part of the failure.
    functions.dedup();
    functions.truncate(FUNCTIONS);
    if !functions.is_empty() {
        text.push_str(&format!(" in {}", functions.join(" < ")));
    }
    if class.is_none()
        && let Some(message) = message
    {
        text.push_str(&format!(": {}", without_numbers(message)));
    }
    Some(format!("{:012x} {text}", hash(&text) >> 16))
}

/// A message with `#` for each number: a run of digits, or what begins with one (`0x1f`, `16K`).
/// Long words of hexadecimal digits are addresses.
fn without_numbers(message: &str) -> String {
    let mut out = String::new();
    let is_part = |letter: char| letter.is_ascii_alphanumeric();
    let mut rest = message;
    while let Some(start) = rest.find(is_part) {
        out.push_str(&rest[..start]);
        let word = &rest[start..];
        let end = word.find(|letter| !is_part(letter)).unwrap_or(word.len());
        let is_address = end >= 8 && word[..end].bytes().all(|byte| byte.is_ascii_hexdigit());
        match word[..end].find(|letter: char| letter.is_ascii_digit()) {
            Some(0) => out.push('#'),
            _ if is_address => out.push('#'),
            // `x0` and `level2` as well: the digits go.
            Some(at) => out.push_str(&format!("{}#", &word[..at])),
            None => out.push_str(&word[..end]),
        }
        rest = &word[end..];
    }
    out + rest
}

/// FNV-1a, which will be the same in every version.
#[must_use]
pub fn hash(text: &str) -> u64 {
    text.bytes().fold(0xcbf2_9ce4_8422_2325, |hash, byte| {
        (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn panic(message: &str, functions: &[&str]) -> String {
        let functions = functions.iter().copied();
        fingerprint(Verdict::Panic, None, Some(message), functions).unwrap()
    }

    #[test]
    fn numbers_go_and_words_stay() {
        for (message, expected) in [
            (
                "no table at level 2 for 0xffff800080000000",
                "no table at level # for #",
            ),
            ("x0 = ffff8000, 16KiB of 4096", "x# = #, # of #"),
            (
                "index out of bounds: the len is 3 but the index is 7",
                "index out of bounds: the len is # but the index is #",
            ),
            ("an effaced facade", "an effaced facade"),
            ("", ""),
            ("ü 1ä", "ü #ä"),
        ] {
            assert_eq!(without_numbers(message), expected);
        }
    }

    #[test]
    fn the_same_failure_has_the_same_fingerprint() {
        let one = panic(
            "no table at level 2",
            &[
                "early_mmu::Engine<G,C,M>::plan",
                "kernel::mm::map::{{closure}}",
                "kmain",
            ],
        );
        let other = panic(
            "no table at level 3",
            &[
                "<early_mmu::Engine<_, _, _>>::plan::<X>",
                "kernel::mm::map::{closure#1}",
                "kmain",
                "primary_switched",
            ],
        );
        assert_eq!(one, other);
        assert_eq!(
            one[13..],
            *"panic in early_mmu::Engine::plan < kernel::mm::map::{closure} < kmain: no table at level #"
        );
        assert!(one[..12].bytes().all(|byte| byte.is_ascii_hexdigit()));
    }

    #[test]
    fn different_failures_differ() {
        let mut all = vec![
            panic("no table", &["a", "b"]),
            panic("no frame", &["a", "b"]),
            panic("no table", &["b", "a"]),
            panic("no table", &[]),
        ];
        for verdict in Verdict::ALL {
            all.extend(fingerprint(verdict, None, None, ["a", "b"]));
            all.extend(fingerprint(
                verdict,
                Some("data abort"),
                Some("x"),
                ["a", "b"],
            ));
        }
        assert_eq!(all.len(), 4 + 2 * 7);
        let hashes: std::collections::BTreeSet<&str> = all.iter().map(|one| &one[..12]).collect();
        assert_eq!(hashes.len(), all.len());
    }

    #[test]
    fn the_depth_of_a_recursion_does_not_count() {
        assert_eq!(panic("x", &["a", "a", "a", "b"]), panic("x", &["a", "b"]));
    }

    #[test]
    fn a_pass_has_none() {
        assert_eq!(fingerprint(Verdict::Pass, None, None, []), None);
        assert_eq!(
            fingerprint(Verdict::Infra, None, Some("disk full"), []),
            None
        );
    }

    /// Stored fingerprints must stay valid: a change here invalidates them.
    #[test]
    fn the_hash_is_the_same_in_every_version() {
        let off = fingerprint(Verdict::Off, None, None, []).unwrap();
        assert_eq!(off, format!("{:012x} off", hash("off") >> 16));
        assert_eq!(hash(""), 0xcbf2_9ce4_8422_2325);
        assert_eq!(hash("a"), 0xaf63_dc4c_8601_ec8c);
    }
}
