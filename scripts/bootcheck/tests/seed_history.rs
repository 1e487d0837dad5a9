//! `bootcheck bisect` on this kernel's own sources, with the history that `scripts/seed-history`
//! makes of them: the failure of 2022, and everything that makes it hard to find.
//!
//! Builds the kernel some ten times, so it runs by `scripts/test` only. SEED_COMMITS says how many
//! harmless commits stand in between.

mod common;
#[path = "common/scratch.rs"]
mod scratch;

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use common::{json, status, text};
use scratch::{contents, git};

fn root() -> PathBuf {
    let here = Path::new(env!("CARGO_MANIFEST_DIR"));
    here.ancestors().nth(2).unwrap().to_owned()
}

/// The kernel alone: the tester is the one that runs this.
const BUILD: &str = "mkdir -p target && cp \"$TOOLS\" target/toolchain.sh && \
    scripts/cargo-kernel build --profile kernel && mkdir -p target/kernel && \
    cp target/aarch64-unknown-none-softfloat/kernel/kernel target/kernel/kernel.elf && \
    \"$TESTER\" image --elf target/kernel/kernel.elf --out target/kernel/Image";

#[test]
#[ignore = "builds the kernel: run by scripts/test"]
fn the_commit_that_hoists_the_assertion_is_found() {
    let tools = root().join("target/toolchain.sh");
    assert!(tools.exists(), "`make setup` finds the tools first");
    let directory = tempfile::tempdir().unwrap();
    let repo = directory.path().join("repo");
    let harmless = std::env::var("SEED_COMMITS").unwrap_or("8".into());
    let made = Command::new(root().join("scripts/seed-history"))
        .arg(&repo)
        .arg(&harmless)
        .stdout(Stdio::null())
        .status()
        .unwrap();
    assert!(made.success());
    let before = contents(&repo);
    let name = |revision: &str| git(&repo, &["rev-parse", &format!("{revision}^{{commit}}")]);
    // A build that lacks Rust's prebuilt library puts its products elsewhere.
    let build = match std::fs::read_to_string(&tools)
        .unwrap()
        .contains("BARE_MODE=build-std")
    {
        true => BUILD.replace("cp target/aarch64", "cp target/build-std/aarch64"),
        false => BUILD.to_owned(),
    };

    let log = directory.path().join("bisect.log");
    let output = Command::new(env!("CARGO_BIN_EXE_bootcheck"))
        .args([
            "bisect", "--good", "good", "--bad", "bad", "--build", &build, "--repo",
        ])
        .arg(&repo)
        .arg("--work")
        .arg(directory.path().join("work"))
        .arg("--log")
        .arg(&log)
        .args(["--env", "TOOLS", "--env", "TESTER", "--json", "-", "--"])
        .args(["--append", "loglevel=4 selftest=none"])
        .env("TOOLS", &tools)
        .env("TESTER", env!("CARGO_BIN_EXE_bootcheck"))
        .stdin(Stdio::null())
        .output()
        .unwrap();
    let said = text(&output.stderr);
    eprintln!("{said}");
    assert_eq!(status(&output), 0, "{said}");
    assert_eq!(contents(&repo), before, "the repository has changed");
    let report = json(&output);

    assert_eq!(report["culprit"]["sha"], *name("culprit"));
    assert_eq!(report["proved"], true);
    assert_eq!(
        report["proof"]["revert"]["outcome"], "good",
        "{}",
        report["proof"]
    );
    let failure = &report["failure"];
    assert_eq!(failure["silent"], true, "{failure}");
    assert_eq!(failure["stage"], "early_mmu");
    let message = failure["message"].as_str().unwrap();
    assert!(message.contains("!pgtable_alloc"), "{message}");
    let place = failure["place"].as_str().unwrap();
    assert!(
        place.starts_with("kernel/early_mmu/src/page_table.rs:"),
        "{place}"
    );
    let trace = failure["trace"].as_array().unwrap();
    let has = |function: &str| {
        trace
            .iter()
            .any(|line| line.as_str().unwrap().contains(function))
    };
    assert!(has("create_mapping") && has("map_fdt"), "{trace:?}");
    // Under another name, and then without a black box, it is the same failure still.
    let fingerprints = report["fingerprints"].as_array().unwrap();
    assert!(fingerprints.len() >= 2, "{fingerprints:?}");
    let difference = report["first_difference"]["bad"]
        .as_str()
        .unwrap_or_default();
    assert!(
        difference.contains("panic"),
        "{}",
        report["first_difference"]
    );

    // No more builds than halving takes, both ends and the revert, and a few for what is skipped.
    let commits = report["commits"].as_f64().unwrap();
    let halving = commits.log2().ceil() as u64;
    let skips = report["steps"].as_array().unwrap().iter();
    let skips = skips.filter(|step| step["outcome"] == "skip").count() as u64;
    let builds = report["effort"]["builds"].as_u64().unwrap();
    assert!(
        builds <= halving + 4 + skips,
        "{builds} builds of {commits} commits, {skips} skipped"
    );

    let clone = directory.path().join("clone");
    git(directory.path(), &["clone", "-q", "repo", "clone"]);
    git(&clone, &["bisect", "replay", log.to_str().unwrap()]);
    let culprit = name("culprit");
    let replayed = git(&clone, &["bisect", "log"]);
    assert!(
        replayed.contains(&format!("first bad commit: [{culprit}]")),
        "{replayed}"
    );
}
