//! What GitHub Actions makes of a log: commands. Ours become annotations; what looks like one in
//! a guest's text must not become one.

use std::borrow::Cow;

use super::results::{CellResult, Results};

/// Whether GitHub Actions reads what is printed.
#[must_use]
pub fn is_reading() -> bool {
    std::env::var_os("GITHUB_ACTIONS").is_some_and(|value| value == "true")
}

/// Text that no runner takes for a command. GitHub obeys a line that begins with `::` after white
/// space, and `##[` anywhere in one; Azure and TeamCity obey `##name[`.
#[must_use]
pub fn tame(text: &str) -> Cow<'_, str> {
    let begins = |line: &str| line.trim_start().starts_with("::");
    if !text.contains("##") && !text.lines().any(begins) {
        return Cow::Borrowed(text);
    }
    let tamed = text.split_inclusive('\n').map(|line| {
        let line = match begins(line) {
            true => line.replacen("::", ":\\x3a", 1),
            false => line.to_owned(),
        };
        line.replace("##", "#\\x23")
    });
    Cow::Owned(tamed.collect())
}

/// `::error …` for each cell that fails the run, at the place where it failed.
#[must_use]
pub fn annotations(results: &Results) -> String {
    results.bad().map(annotation).collect()
}

fn annotation(result: &CellResult) -> String {
    let report = result.report.as_ref();
    let file = report.and_then(|report| report.file.as_deref());
    let mut properties = String::new();
    if let Some(file) = file {
        properties.push_str(&format!("file={},", property(file)));
        if let Some(line) = report.and_then(|report| report.line) {
            properties.push_str(&format!("line={line},"));
        }
    }
    let title = property(&format!("boot {}", result.cell));
    let text = format!(
        "{}\nalone: {}",
        crate::escape::escape(result.summary().as_bytes()),
        result.repeat_command()
    );
    format!("::error {properties}title={title}::{}\n", data(&text))
}

/// As `@actions/core` escapes a command's text.
fn data(text: &str) -> String {
    text.replace('%', "%25")
        .replace('\r', "%0D")
        .replace('\n', "%0A")
}

/// As `@actions/core` escapes a command's property.
fn property(text: &str) -> String {
    let text = crate::escape::escape(text.as_bytes());
    data(&text).replace(':', "%3A").replace(',', "%2C")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_of_a_guest_is_obeyed() {
        assert_eq!(tame("::error::x"), ":\\x3aerror::x");
        assert_eq!(tame("a\n \t::warning::b\n"), "a\n \t:\\x3awarning::b\n");
        assert_eq!(tame("so ##[error]x"), "so #\\x23[error]x");
        assert_eq!(tame("###[error]x"), "#\\x23#[error]x");
        assert_eq!(tame("##vso[task.x]"), "#\\x23vso[task.x]");
        let harmless = "kernel::boot::early at <a::b>\n#[test]";
        assert_eq!(tame(harmless), harmless);
    }

    #[test]
    fn a_command_is_one_line() {
        assert_eq!(data("50 %\r\na:b,c"), "50 %25%0D%0Aa:b,c");
        assert_eq!(property("a:b,c\n"), "a%3Ab%2Cc%0A");
    }
}
