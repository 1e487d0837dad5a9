//! A Markdown table of the results: one row per cell, one column per QEMU.

use super::results::{CellResult, Results, Status};

/// The table.
#[must_use]
pub fn table(results: &Results) -> String {
    let mut versions: Vec<&str> = Vec::new();
    for result in &results.cells {
        if !versions.contains(&result.qemu_version.as_str()) {
            versions.push(&result.qemu_version);
        }
    }
    let mut rows: Vec<(&str, Vec<String>)> = Vec::new();
    for result in &results.cells {
        let name = result.cell.split(" on ").next().unwrap_or_default();
        let row = match rows.iter().position(|(other, ..)| *other == name) {
            Some(row) => row,
            None => {
                rows.push((name, vec![String::new(); versions.len()]));
                rows.len() - 1
            }
        };
        let column = versions
            .iter()
            .position(|other| *other == result.qemu_version);
        if let Some(column) = column {
            rows[row].1[column] = text(result);
        }
    }
    let mut table = String::from("| cell |");
    for version in &versions {
        table.push_str(&format!(" QEMU {} |", cell_text(version)));
    }
    table.push_str(&format!("\n|---|{}\n", "---|".repeat(versions.len())));
    for (name, columns) in rows {
        let columns = columns.join(" | ");
        table.push_str(&format!("| {} | {columns} |\n", cell_text(name)));
    }
    table
}

fn text(result: &CellResult) -> String {
    let Some(report) = &result.report else {
        let reason = result.skipped.as_deref().unwrap_or("not booted");
        return cell_text(&format!("skipped: {reason}"));
    };
    let mark = match result.status {
        Status::Flaky => "flaky: ",
        Status::Unexpected => "**not as expected:** ",
        _ => "",
    };
    let seconds = report.wall_ms.unwrap_or(0.0) / 1e3;
    format!("{mark}{} {seconds:.2} s", report.verdict)
}

/// Text that stays within its cell of a Markdown table.
fn cell_text(text: &str) -> String {
    text.replace('|', "\\|").replace(['\n', '`'], " ")
}
