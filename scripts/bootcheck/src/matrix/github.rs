//! Annotations of GitHub Actions, for the cells that fail.

use super::results::{CellResult, Results};

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
    fn a_command_is_one_line() {
        assert_eq!(data("50 %\r\na:b,c"), "50 %25%0D%0Aa:b,c");
        assert_eq!(property("a:b,c\n"), "a%3Ab%2Cc%0A");
    }
}
