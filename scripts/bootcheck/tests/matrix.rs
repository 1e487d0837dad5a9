//! `bootcheck matrix` and `bootcheck bench` with tiny guests.

mod common;

use std::process::Command;

use bootcheck::guest::Guest;
use common::{Bench, cell_names, matrix, results, status, text};

fn good() -> Bench {
    Bench::with(Guest::default().print("boot: PASS\n").power_off())
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
    assert_eq!(
        cell_names(&json),
        ["cpu/cortex-a53", "cpu/max", "resets", "initrd"]
    );
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
    let output = matrix(
        &bench,
        "[[cells]]\nname = 'a'",
        &["--qemu", "/nonexistent/qemu"],
    );
    assert_eq!(status(&output), 129);
    let stderr = text(&output.stderr);
    assert!(
        stderr.contains("there is no /nonexistent/qemu: `make setup` installs QEMU"),
        "{stderr}"
    );
    let output = matrix(&bench, "[[cells]]\nname = 'a'", &["--qemu", "/bin/true"]);
    assert_eq!(status(&output), 129);
    let output = matrix(&bench, "[[cells]\nname = 'a'", &[]);
    assert_eq!(status(&output), 129);
    let stderr = text(&output.stderr);
    assert!(
        stderr.contains("cells.toml") && stderr.contains("line 7, column 9"),
        "{stderr}"
    );
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

#[test]
fn bench_counts_instructions_up_to_a_line() {
    let guest = Guest::default().count_down(100_000);
    let bench = Bench::with(guest.print("Memory: 1K\n").sleep());
    let output = Command::new(env!("CARGO_BIN_EXE_bootcheck"))
        .args([
            "bench",
            "--icount",
            "--pairs",
            "1",
            "--pass-regex",
            "Memory:",
        ])
        .arg("--image")
        .arg(bench.path("Image"))
        .output()
        .unwrap();
    let stdout = text(&output.stdout);
    assert_eq!(status(&output), 0, "{}", text(&output.stderr));
    let row = stdout.lines().find(|line| line.starts_with("  Image "));
    let count = row.and_then(|row| row.split_ascii_whitespace().nth(1));
    let thousands: f64 = count.unwrap().parse().unwrap();
    // Two each time round, and next to nothing more: it sleeps once it has printed.
    assert!((200.0..210.0).contains(&thousands), "{stdout}");
    assert!(!stdout.contains(" ms "), "{stdout}");
}

/// A guest that gives way to chance: it passes or resets by the low bits of the host's clock.
fn flaky() -> Guest {
    // cntvct_el0 runs at 62.5 MHz: bit 12 changes 15,000 times a second.
    Guest::default()
        .execute(&[
            0xd53b_e040, // mrs x0, cntvct_el0
            0x3660_0060, // tbz w0, #12, . + 12
            0xd503_201f, // nop
            0x1400_0008, // b . + 32: print and power off
        ])
        .reset()
        .execute(&[0xd503_201f; 4])
        .print("boot: PASS\n")
        .power_off()
}

#[test]
fn a_cell_that_passes_at_times_is_flaky_and_fails_the_run() {
    let bench = Bench::with(flaky());
    let output = matrix(&bench, "[[cells]]\nname = 'a'", &["--repeat", "30"]);
    let stderr = text(&output.stderr);
    assert_eq!(status(&output), 1, "{stderr}");
    let json = results(&bench);
    assert_eq!(json["counts"]["flaky"], 1, "{stderr}");
    let runs = &json["cells"][0]["runs"];
    assert_eq!(runs["count"], 30);
    let good = runs["verdicts"]["pass"].as_u64().unwrap();
    assert!((1..30).contains(&good), "{runs}");
    assert_eq!(runs["verdicts"]["reset"].as_u64().unwrap(), 30 - good);
    let (low, high) = (
        runs["low"].as_f64().unwrap(),
        runs["high"].as_f64().unwrap(),
    );
    let rate = runs["rate"].as_f64().unwrap();
    assert!(low < rate && rate < high, "{runs}");
    assert_eq!(json["cells"][0]["verdict"], "reset", "the bad one is shown");
    assert!(
        stderr.contains(&format!("flaky: {good} of 30 good, ")) && stderr.contains("--repeat 30"),
        "{stderr}"
    );
}

#[test]
fn fail_fast_begins_no_boot_after_a_bad_one() {
    let bench = good();
    let cells = "[[cells]]\nname = 'a'\n[[cells]]\nname = 'b'\nimage = 'bad'\n\
        [[cells]]\nname = 'c'\nsmp = [1, 2, 3]";
    let output = matrix(&bench, cells, &["--jobs", "1", "--fail-fast"]);
    assert_eq!(status(&output), 1, "{}", text(&output.stderr));
    let counts = &results(&bench)["counts"];
    assert_eq!(
        (&counts["expected"], &counts["unexpected"]),
        (&1.into(), &1.into())
    );
    assert_eq!(counts["not_booted"], 3);
}

#[test]
fn what_qemu_lacks_is_skipped_with_the_reason() {
    let bench = good();
    let cells = "[[cells]]\nname = 'a'\n[[cells]]\nname = 'b'\ncpu = 'cortex-z9'\n\
        [[cells]]\nname = 'c'\nmachine = 'vrit'\n[[cells]]\nname = 'd'\nmachine = 'virt,gicc=3'\n\
        [[cells]]\nname = 'e'\nsmp = 5000\n[[cells]]\nname = 'f'\naccel = 'hax'\n\
        [[cells]]\nname = 'g'\ncpu = 'max,lpa3=off'\n\
        [[cells]]\nname = 'h'\nloader = 'uboot'\nfirmware = '/nonexistent/u-boot.bin'";
    let output = matrix(&bench, cells, &["--ktap"]);
    let stderr = text(&output.stderr);
    assert_eq!(status(&output), 0, "{stderr}");
    for reason in [
        "has no CPU model cortex-z9: b",
        "has no machine vrit: c",
        "knows no option gicc of virt: d",
        "gives virt 512 CPUs at most: e",
        "is built without hax: f",
        "knows no option lpa3 of max: g",
        "there is no firmware /nonexistent/u-boot.bin",
    ] {
        assert!(stderr.contains(reason), "{reason}: {stderr}");
    }
    assert_eq!(results(&bench)["counts"]["skipped"], 7);
    let ktap = text(&output.stdout);
    assert!(
        ktap.starts_with("KTAP version 1\n1..8\nok 1 a\nok 2 b # SKIP QEMU "),
        "{ktap}"
    );

    let output = matrix(&bench, cells, &["--no-skip"]);
    assert_eq!(status(&output), 1, "a skipped cell fails where none may be");
    let output = matrix(&bench, cells, &["--filter", "b"]);
    assert_eq!(status(&output), 129, "nothing was booted");
    assert!(text(&output.stderr).contains("every cell was skipped"));
}

#[test]
fn a_list_for_programs_has_commands_that_work() {
    let bench = good();
    let output = matrix(&bench, MIXED, &["--list", "--json", "--filter", "cpu/*"]);
    let json = common::json(&output);
    assert_eq!(json["cells"][1]["cell"], "cpu/max");
    assert_eq!(json["cells"][1]["group"], "cpu");
    let command = json["cells"][1]["command"].as_str().unwrap();
    let again = Command::new("sh")
        .args(["-c", &format!("{command} -q")])
        .status();
    assert!(again.unwrap().success(), "{command}");
}

/// Processes whose command line has this text, as `ps` knows them.
fn processes_with(mark: &str) -> Vec<String> {
    let output = Command::new("ps")
        .args(["-ww", "-eo", "pid,args"])
        .output()
        .unwrap();
    let lines = text(&output.stdout);
    let ours = lines
        .lines()
        .filter(|line| line.contains("qemu") && line.contains(mark));
    ours.map(str::to_owned).collect()
}

#[test]
fn an_interruption_keeps_the_results_and_leaves_no_qemu() {
    let bench = good();
    std::fs::write(
        bench.path("endless"),
        Guest::default().print("x\n").poll_for_ever().image(),
    )
    .unwrap();
    let config = format!(
        "[images]\ngood = {{ image = {:?} }}\nendless = {{ image = {:?} }}\n\
         [defaults]\nimage = 'good'\n[[cells]]\nname = 'c'\nsmp = [1, 2, 3]\n\
         [[cells]]\nname = 'e'\nimage = 'endless'\ntimeout = 600\nquiet = 600\nsmp = [1, 2]",
        bench.path("Image"),
        bench.path("endless")
    );
    std::fs::write(bench.path("cells.toml"), config).unwrap();
    let mut run = Command::new(env!("CARGO_BIN_EXE_bootcheck"))
        .args(["matrix", "--jobs", "2", "--config"])
        .arg(bench.path("cells.toml"))
        .arg("--out")
        .arg(bench.path("out"))
        .stderr(std::process::Stdio::piped())
        .spawn()
        .unwrap();
    let endless = bench.path("endless");
    let endless = endless.to_str().unwrap();
    // The good ones come first, so both endless guests run once these are through.
    while processes_with(endless).len() < 2 {
        assert!(run.try_wait().unwrap().is_none(), "it ended by itself");
        std::thread::sleep(std::time::Duration::from_millis(50));
    }
    let started = std::time::Instant::now();
    // `timeout` sends two: one to the program, one to its process group.
    for _ in 0..2 {
        let killed = Command::new("kill")
            .args(["-INT", &run.id().to_string()])
            .status();
        assert!(killed.unwrap().success());
    }
    let output = run.wait_with_output().unwrap();
    println!("stopped within {:?}", started.elapsed());
    assert_eq!(status(&output), 130, "{}", text(&output.stderr));
    assert_eq!(processes_with(endless), [""; 0]);
    let counts = &results(&bench)["counts"];
    assert_eq!(
        (&counts["expected"], &counts["not_booted"]),
        (&3.into(), &2.into())
    );
    assert!(bench.path("out/report.html").exists());
}

#[test]
fn many_boots_at_a_time_open_many_files() {
    let bench = good();
    let config = format!(
        "[images]\ngood = {{ image = {:?} }}\n[[cells]]\nname = 'a'\nimage = 'good'\nsmp = [1, 2, 3, 4]",
        bench.path("Image")
    );
    std::fs::write(bench.path("cells.toml"), config).unwrap();
    let output = Command::new("sh")
        .args(["-c", "ulimit -S -n 20; exec \"$0\" \"$@\""])
        .arg(env!("CARGO_BIN_EXE_bootcheck"))
        .args(["matrix", "--jobs", "4", "--config"])
        .arg(bench.path("cells.toml"))
        .arg("--out")
        .arg(bench.path("out"))
        .output()
        .unwrap();
    assert_eq!(status(&output), 0, "{}", text(&output.stderr));
}

#[test]
fn a_directory_that_cannot_be_written_is_named() {
    let bench = good();
    // Root may write anywhere, but make no directory below a file and no file in /proc.
    let below = bench.path("Image/out");
    let complaints = [
        (below.to_str().unwrap(), "cannot make"),
        ("/proc/self", "cannot write into"),
    ];
    for (out, complaint) in complaints {
        let output = matrix(&bench, "[[cells]]\nname = 'a'", &["--out", out]);
        assert_eq!(status(&output), 129);
        let stderr = text(&output.stderr);
        assert!(stderr.contains(&format!("{complaint} {out}")), "{stderr}");
        assert!(
            !stderr.contains("ok "),
            "it says so before it boots: {stderr}"
        );
    }
}
