//! `bootcheck matrix` and `bootcheck bench` with tiny guests.

mod common;

use std::process::{Command, Output};

use bootcheck::guest::Guest;
use common::{Bench, status, text};

/// Runs `bootcheck matrix` over a list of cells; `good` and `bad` are the images.
fn matrix(bench: &Bench, cells: &str, options: &[&str]) -> Output {
    std::fs::write(
        bench.path("bad"),
        Guest::default().print("<&\x1b>\n").reset().image(),
    )
    .unwrap();
    let config = format!(
        "[images]\ngood = {{ image = {:?} }}\nbad = {{ image = {:?} }}\n\
         [defaults]\nimage = 'good'\ntimeout = 5\n{cells}",
        bench.path("Image"),
        bench.path("bad")
    );
    std::fs::write(bench.path("cells.toml"), config).unwrap();
    Command::new(env!("CARGO_BIN_EXE_bootcheck"))
        .arg("matrix")
        .arg("--config")
        .arg(bench.path("cells.toml"))
        .arg("--out")
        .arg(bench.path("out"))
        .args(options)
        .output()
        .unwrap()
}

fn good() -> Bench {
    Bench::with(Guest::default().print("boot: PASS\n").power_off())
}

fn results(bench: &Bench) -> serde_json::Value {
    serde_json::from_slice(&std::fs::read(bench.path("out/results.json")).unwrap()).unwrap()
}

const MIXED: &str = "
[[cells]]
name = 'cpu'
cpu = ['cortex-a53', 'max']
[[cells]]
name = 'resets'
image = 'bad'
expect = 'reset'
[[cells]]
name = 'initrd'
initrd = '1M'
numa = '64M+65M'
";

#[test]
fn cells_as_expected() {
    let bench = good();
    let output = matrix(&bench, MIXED, &["--markdown"]);
    let stderr = text(&output.stderr);
    assert_eq!(status(&output), 0, "{stderr}");
    assert!(stderr.contains("4 of 4 cells as expected"), "{stderr}");
    let json = results(&bench);
    assert_eq!(json["counts"]["expected"], 4);
    let names: Vec<_> = json["cells"]
        .as_array()
        .unwrap()
        .iter()
        .map(|c| &c["cell"])
        .collect();
    assert_eq!(names, ["cpu/cortex-a53", "cpu/max", "resets", "initrd"]);
    let junit = std::fs::read_to_string(bench.path("out/junit.xml")).unwrap();
    assert!(
        junit.contains(r#"tests="4" failures="0" errors="0""#),
        "{junit}"
    );
    assert!(
        text(&output.stdout).contains("| cpu/max | "),
        "{}",
        text(&output.stdout)
    );
}

#[test]
fn a_bad_cell_is_told_with_the_command_that_repeats_it() {
    let bench = good();
    let cells = "[[cells]]\nname = 'a'\n[[cells]]\nname = 'b'\nimage = 'bad'";
    let output = matrix(&bench, cells, &["--jobs", "1"]);
    let stderr = text(&output.stderr);
    assert_eq!(status(&output), 1, "{stderr}");
    let command = stderr
        .lines()
        .find_map(|line| line.strip_prefix("  alone: "))
        .unwrap();
    let again = Command::new("sh")
        .args(["-c", &format!("{command} --json -")])
        .output()
        .unwrap();
    assert_eq!(common::json(&again)["verdict"], "reset");
    let junit = std::fs::read_to_string(bench.path("out/junit.xml")).unwrap();
    assert!(junit.contains(r#"tests="2" failures="1""#), "{junit}");
    assert!(
        junit.contains("&lt;&amp;\\x1b&gt;"),
        "the console, escaped: {junit}"
    );
}

#[test]
fn list_and_filter() {
    let bench = good();
    let output = matrix(&bench, MIXED, &["--list", "--filter", "cpu/*"]);
    assert_eq!(text(&output.stdout), "cpu/cortex-a53\ncpu/max\n");
    let output = matrix(&bench, MIXED, &["--filter", "none*"]);
    assert_eq!(status(&output), 129);
}

#[test]
fn trouble_is_129() {
    let bench = good();
    let output = matrix(&bench, "[[cells]]\nname = 'a'\ncpus = 'x'", &[]);
    assert_eq!(status(&output), 129);
    assert!(
        text(&output.stderr).contains("cpus"),
        "{}",
        text(&output.stderr)
    );
}

#[test]
fn bench_compares_in_pairs() {
    let bench = good();
    let output = Command::new(env!("CARGO_BIN_EXE_bootcheck"))
        .args(["bench", "--pairs", "3", "--image"])
        .arg(bench.path("Image"))
        .output()
        .unwrap();
    let stdout = text(&output.stdout);
    assert_eq!(status(&output), 0, "{}", text(&output.stderr));
    assert!(
        stdout.contains("3 pairs on virt cortex-a72") && stdout.contains("ratio"),
        "{stdout}"
    );
    let bad = Bench::with(Guest::default().reset());
    let output = Command::new(env!("CARGO_BIN_EXE_bootcheck"))
        .args(["bench", "--pairs", "1", "--image"])
        .arg(bad.path("Image"))
        .output()
        .unwrap();
    assert_eq!(status(&output), 129, "a kernel that fails has no time");
}
