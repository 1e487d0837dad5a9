//! `bootcheck merge`: parts of one matrix become the results of the whole, and nothing else does.

mod common;

use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use bootcheck::guest::Guest;
use common::{Bench, cell_names, matrix, results, status, text};
use serde_json::Value;

fn good() -> Bench {
    Bench::with(Guest::default().print("boot: PASS\n").power_off())
}

fn merge(bench: &Bench, parts: &[&Path], options: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_bootcheck"))
        .arg("merge")
        .arg("--out")
        .arg(bench.path("out"))
        .args(options)
        .args(parts)
        .output()
        .unwrap()
}

#[test]
fn parts_are_joined_as_if_one_machine_had_booted_them() {
    let bench = good();
    let cells = "[[cells]]\nname = 'c'\nsmp = [1, 2, 3, 4]\n[[cells]]\nname = 'b'\nimage = 'bad'";
    let part = |number: &str| {
        let out = bench.path(&number.replace('/', "of"));
        let shard = ["--shard", number, "--out", out.to_str().unwrap()];
        let output = matrix(&bench, cells, &shard);
        (status(&output), out)
    };
    let (first, second) = (part("1/2"), part("2/2"));
    assert_eq!((first.0, second.0), (1, 0), "c/1, c/3 and b; c/2 and c/4");
    let merge = |parts: &[&Path]| merge(&bench, parts, &[]);
    let output = merge(&[&second.1, &first.1.join("results.json")]);
    assert_eq!(status(&output), 1, "{}", text(&output.stderr));
    let json = results(&bench);
    assert_eq!(json["counts"]["expected"], 4);
    assert_eq!(cell_names(&json), ["c/1", "c/2", "c/3", "c/4", "b"]);
    assert!(bench.path("out/report.html").exists() && bench.path("out/junit.xml").exists());

    let output = merge(&[&second.1]);
    assert_eq!(status(&output), 129, "part 1 is missing");
    assert!(
        text(&output.stderr).contains("missing: part 1/2"),
        "{}",
        text(&output.stderr)
    );
    let output = merge(&[&second.1, &second.1]);
    assert_eq!(status(&output), 129);
    assert!(
        text(&output.stderr).contains("results.json are the same part"),
        "{}",
        text(&output.stderr)
    );
    // Of another run: a cell would be lost without a word.
    let out = bench.path("filtered");
    let filtered = ["--shard", "1/2", "--filter", "c/*", "--out"];
    matrix(
        &bench,
        cells,
        &[&filtered[..], &[out.to_str().unwrap()]].concat(),
    );
    let output = merge(&[&out, &second.1]);
    assert_eq!(status(&output), 129);
    assert!(
        text(&output.stderr).contains("not parts of one run: their matrices have different cells"),
        "{}",
        text(&output.stderr)
    );
    let newer = std::fs::read_to_string(first.1.join("results.json")).unwrap();
    let newer = newer.replacen("\"schema\": 1", "\"schema\": 2", 1);
    std::fs::write(bench.path("newer.json"), newer).unwrap();
    let output = merge(&[&bench.path("newer.json"), &second.1]);
    assert!(
        text(&output.stderr).contains("newer.json has schema 2, and this bootcheck knows 1"),
        "{}",
        text(&output.stderr)
    );
    let output = merge(&[&bench.path("Image")]);
    assert!(
        text(&output.stderr).contains("is no results.json"),
        "{}",
        text(&output.stderr)
    );
}

const TWO: &str = "[[cells]]\nname = 'c'\nsmp = [1, 2]";

/// Boots one of two parts; where its results are.
fn part(bench: &Bench, cells: &str, number: u32) -> PathBuf {
    let out = bench.path(&format!("part{number}"));
    let shard = format!("{number}/2");
    let output = matrix(
        bench,
        cells,
        &["--shard", &shard, "--out", out.to_str().unwrap()],
    );
    assert_eq!(status(&output), 0, "{}", text(&output.stderr));
    out
}

/// These must not be joined, and nothing is written, unless it is said that they shall.
fn refuse(bench: &Bench, parts: &[&Path], reason: &str) {
    let output = merge(bench, parts, &[]);
    assert_eq!(status(&output), 129);
    let said = text(&output.stderr);
    assert!(said.contains(reason) && said.contains("--mixed"), "{said}");
    assert!(!bench.path("out").exists());
    let output = merge(bench, parts, &["--mixed"]);
    assert_eq!(status(&output), 0, "{}", text(&output.stderr));
    assert_eq!(results(bench)["counts"]["expected"], 2);
}

#[test]
fn parts_that_booted_different_kernels_are_refused() {
    let bench = good();
    let first = part(&bench, TWO, 1);
    let other = Guest::default().print("boot: PASS\n").power_off().sleep();
    std::fs::write(bench.path("Image"), other.image()).unwrap();
    let second = part(&bench, TWO, 2);
    refuse(&bench, &[&first, &second], "/Image is ");
    let name = bench.path("Image").to_string_lossy().into_owned();
    assert_eq!(
        results(&bench)["images"][name],
        Value::Null,
        "not one of both"
    );
}

#[test]
fn parts_of_different_matrix_files_are_refused() {
    let bench = good();
    let first = part(&bench, TWO, 1);
    let second = part(&bench, &format!("{TWO}\nmem = '256M'"), 2);
    refuse(&bench, &[&first, &second], "their matrix files differ");
}

/// Results that an older tester wrote tell neither.
#[test]
fn what_is_not_known_of_a_part_does_not_matter() {
    let bench = good();
    let (first, second) = (part(&bench, TWO, 1), part(&bench, TWO, 2));
    let path = second.join("results.json");
    let mut old: Value = serde_json::from_slice(&std::fs::read(&path).unwrap()).unwrap();
    let fields = old.as_object_mut().unwrap();
    assert!(fields.remove("images").is_some() && fields.remove("config").is_some());
    std::fs::write(&path, old.to_string()).unwrap();
    let output = merge(&bench, &[&first, &second], &[]);
    assert_eq!(status(&output), 0, "{}", text(&output.stderr));
}
