//! `bootcheck budget` with the kernel: `cargo test -p bootcheck --test budget -- --ignored`.

mod common;

use std::path::Path;
use std::process::{Command, Output};

use common::{Bench, status, text};

fn budget(file: &Path, options: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_bootcheck"))
        .current_dir(Path::new(env!("CARGO_MANIFEST_DIR")).join("../.."))
        .args(["budget", "--file"])
        .arg(file)
        .args(options)
        .output()
        .unwrap()
}

#[test]
#[ignore = "needs the kernel: make image"]
fn a_stage_over_its_budget_fails_until_it_is_accepted() {
    let bench = Bench::with_bytes(b"");
    let file = bench.path("budget.toml");
    let output = budget(&file, &[]);
    assert_eq!(status(&output), 0, "{}", text(&output.stderr));
    assert!(
        text(&output.stdout).contains("not judged"),
        "an unknown compiler is told"
    );

    assert_eq!(status(&budget(&file, &["--accept"])), 0);
    let accepted = std::fs::read_to_string(&file).unwrap();
    let output = budget(&file, &[]);
    assert_eq!(
        status(&output),
        0,
        "the same to the instruction: {}",
        text(&output.stderr)
    );

    // A budget of less than there is now: the same as a kernel that has become slower.
    let mut table: toml::Table = toml::from_str(&accepted).unwrap();
    let (_, boots) = table.iter_mut().next().unwrap();
    let stage = &mut boots["linear=page"]["early_mmu"];
    let now = stage.as_integer().unwrap();
    *stage = (now * 97 / 100).into();
    std::fs::write(&file, toml::to_string(&table).unwrap()).unwrap();
    let output = budget(&file, &[]);
    assert_eq!(status(&output), 1);
    let complaint = format!("linear=page: stage early_mmu takes {now} instructions, 3.1 % more");
    assert!(
        text(&output.stderr).contains(&complaint),
        "{}",
        text(&output.stderr)
    );

    assert_eq!(status(&budget(&file, &["--accept"])), 0);
    assert_eq!(std::fs::read_to_string(&file).unwrap(), accepted);
}
