//! The program around a boot: files, streams, statuses, and what is left behind.

mod common;
#[allow(dead_code)]
#[path = "../src/testelf.rs"]
mod testelf;

use std::io::Read;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use bootcheck::guest::Guest;
use common::{Bench, json, status, text, wait_until};
use rustix::process::{Pid, Signal, kill_process};

fn good() -> Bench {
    Bench::with(Guest::default().print("hello\nboot: PASS\n").power_off())
}

#[test]
fn the_console_is_on_stdout_and_the_verdict_on_stderr() {
    let output = good().command(&[]).output().unwrap();
    assert_eq!(status(&output), 0);
    assert_eq!(text(&output.stdout), "hello\nboot: PASS\n");
    let stderr = text(&output.stderr);
    assert!(stderr.starts_with("bootcheck: pass in "), "{stderr}");
    assert_eq!(stderr.lines().count(), 1);
}

#[test]
fn with_json_on_stdout_the_console_is_on_stderr() {
    let output = good().command(&["--json", "-"]).output().unwrap();
    assert_eq!(json(&output)["verdict"], "pass");
    assert!(text(&output.stderr).starts_with("hello\nboot: PASS\n"));
}

#[test]
fn quiet_tells_the_last_lines_after_a_failure() {
    let bench = Bench::with(Guest::default().print("one\ntwo\nboot: FAIL\n").power_off());
    let output = bench.command(&["-q"]).output().unwrap();
    assert_eq!(text(&output.stdout), "");
    let stderr = text(&output.stderr);
    assert!(stderr.contains("  | two\n  | boot: FAIL\n"), "{stderr}");
    assert!(stderr.contains("to see it again: "), "{stderr}");
    assert!(
        stderr.contains("-serial stdio") && !stderr.contains("fd=0"),
        "{stderr}"
    );
}

#[test]
fn the_command_to_repeat_a_boot_does_repeat_it() {
    let bench = Bench::with(Guest::default().print("it's me\n").power_off());
    let (_, report) = bench.boot(&["--append", "two words; $HOME 'quoted'"]);
    let command = report["reproduce"].as_str().unwrap();
    let output = Command::new("sh")
        .args(["-c", command])
        .stdin(Stdio::null())
        .output()
        .unwrap();
    assert_eq!(
        text(&output.stdout),
        "it's me\n",
        "{}",
        text(&output.stderr)
    );
}

#[test]
fn hostile_bytes_reach_the_file_raw_and_the_terminal_escaped() {
    let bytes = b"\x1b]0;title\x07\xff\xfe\0\rx\xe2\x80\xae\nlong \xe2\x9c\x93\n";
    let bench = Bench::with(Guest::default().print_bytes(bytes).power_off());
    let raw = bench.path("raw");
    let output = bench
        .command(&["--console", raw.to_str().unwrap()])
        .output()
        .unwrap();
    assert_eq!(std::fs::read(raw).unwrap(), bytes);
    assert_eq!(
        text(&output.stdout),
        "\\x1b]0;title\\x07\\xff\\xfe\\x00\\x0dx\\u{202e}\nlong ✓\n"
    );
}

#[test]
fn a_line_without_end_is_shown_whole() {
    let bench = Bench::with(Guest::default().print(&"x".repeat(5000)).power_off());
    let output = bench.command(&[]).output().unwrap();
    assert_eq!(text(&output.stdout), "x".repeat(5000) + "\n");
}

#[test]
fn the_json_file_appears_whole() {
    let bench = good();
    let path = bench.path("out.json");
    let output = bench
        .command(&["--json", path.to_str().unwrap()])
        .output()
        .unwrap();
    assert_eq!(text(&output.stdout), "hello\nboot: PASS\n");
    let report: serde_json::Value = serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap();
    assert_eq!(report["schema"], 1);
    let nowhere = bench.path("missing/out.json");
    let nowhere = nowhere.to_str().unwrap();
    let output = bench.command(&["--json", nowhere]).output().unwrap();
    assert_eq!(status(&output), 129);
    assert!(text(&output.stderr).contains(nowhere));
}

#[test]
fn expect_decides_the_exit_status() {
    let bench = Bench::with(Guest::default().reset());
    assert_eq!(bench.boot(&["--expect", "reset"]).0, 0);
    assert_eq!(bench.boot(&["--expect", "panic"]).0, 1);
    assert_eq!(good().boot(&["--expect", "reset"]).0, 1);
}

#[test]
fn repeat_stops_at_the_first_boot_that_is_not_as_expected() {
    let output = good().command(&["--repeat", "3"]).output().unwrap();
    assert_eq!(text(&output.stdout).matches("boot: PASS").count(), 3);
    let bench = Bench::with(Guest::default().print("x\n").reset());
    let output = bench.command(&["--repeat", "3"]).output().unwrap();
    assert_eq!(text(&output.stdout), "x\n");
    assert_eq!(status(&output), 1);
}

#[test]
fn build_deletes_the_elf_beside_the_image_and_reads_the_new_one() {
    let image = Guest::default().ours().spin().image();
    let code = image.chunks_exact(4);
    let code: Vec<u32> = code
        .map(|word| u32::from_le_bytes(word.try_into().unwrap()))
        .collect();
    let elf = testelf::image(&[("lost", 0, 4 * code.len() as u64)], &code);
    let bench = Bench::with_bytes(&image);
    std::fs::rename(bench.path("Image"), bench.path("saved")).unwrap();
    std::fs::write(bench.path("new.elf"), elf).unwrap();
    let build = "test ! -e kernel.elf && cp saved Image && cp new.elf kernel.elf";
    for before in [None, Some("old")] {
        let _ = std::fs::remove_file(bench.path("kernel.elf"));
        if let Some(text) = before {
            std::fs::write(bench.path("kernel.elf"), text).unwrap();
        }
        let mut boot = bench.command(&["--json", "-", "--build", build]);
        let output = boot.current_dir(bench.directory.path()).output().unwrap();
        let report = json(&output);
        assert_eq!(report["verdict"], "hang", "{before:?}: {report:#}");
        assert_eq!(report["symbol"], "lost", "{before:?}: {report:#}");
    }
}

#[test]
fn build_never_judges_a_stale_image() {
    let bench = good();
    let image = bench.path("Image");
    let elf = bench.path("kernel.elf");
    let elf_option = ["--elf", elf.to_str().unwrap()];
    let build = |command: &str| {
        std::fs::write(&elf, "old").unwrap();
        let output = bench
            .command(&elf_option)
            .args(["--json", "-", "--build", command])
            .current_dir(bench.directory.path())
            .output()
            .unwrap();
        (
            status(&output),
            json(&output)["message"]
                .as_str()
                .unwrap_or_default()
                .to_owned(),
        )
    };
    std::fs::copy(&image, bench.path("saved")).unwrap();
    let (status, _) =
        build("test ! -e Image && test ! -e kernel.elf && echo building && cp saved Image");
    assert_eq!(status, 0);
    let (status, message) = build("exit 7");
    assert_eq!(status, 125);
    assert!(
        message.contains("build failed") && message.contains('7'),
        "{message}"
    );
    let (status, message) = build("true");
    assert_eq!(status, 125);
    assert!(message.contains("left no"), "{message}");
}

#[test]
fn a_missing_image_cannot_be_judged() {
    let bench = good();
    std::fs::remove_file(bench.path("Image")).unwrap();
    let report = bench.expect("unbootable", &[]);
    assert!(report["message"].as_str().unwrap().contains("make image"));
}

#[test]
fn what_is_no_file_is_no_image() {
    let bench = good();
    let pipe = bench.path("pipe");
    let made = Command::new("mkfifo").arg(&pipe).status();
    assert!(made.unwrap().success());
    for image in ["/dev/zero", "/dev/null", "/", pipe.to_str().unwrap()] {
        let mut child = Command::new(env!("CARGO_BIN_EXE_bootcheck"))
            .args(["boot", "--image", image])
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        // Nobody ever writes into the pipe, and there is no end of zeros.
        wait_for_end(&mut child);
        let output = child.wait_with_output().unwrap();
        assert_eq!(status(&output), 125);
        let said = text(&output.stderr);
        assert!(said.contains("no regular file"), "{image}: {said}");
    }
}

/// The end of a program that might have none; it is not left behind.
fn wait_for_end(child: &mut Child) {
    let start = Instant::now();
    while child.try_wait().unwrap().is_none() {
        if start.elapsed() > Duration::from_secs(30) {
            child.kill().unwrap();
            panic!("it does not end");
        }
        std::thread::sleep(Duration::from_millis(10));
    }
}

#[test]
fn what_cannot_be_written_does_not_hide_the_verdict() {
    let bench = Bench::with(Guest::default().print("boot: FAIL\n").power_off());
    for option in ["--console", "--json"] {
        let output = bench
            .command(&["-q", option, "/dev/full"])
            .output()
            .unwrap();
        assert_eq!(status(&output), 129);
        let said = text(&output.stderr);
        assert!(said.starts_with("bootcheck: fail"), "{option}: {said}");
        assert!(said.contains("No space left on device"), "{option}: {said}");
    }
}

#[test]
fn a_list_on_a_full_disk_is_an_error_and_no_crash() {
    let bench = good();
    let config = bench.path("cells.toml");
    let cells = "[images]\ni = { image = 'Image' }\n[[cells]]\nname = 'a'\nimage = 'i'";
    std::fs::write(&config, cells).unwrap();
    let full = std::fs::File::create("/dev/full").unwrap();
    let output = Command::new(env!("CARGO_BIN_EXE_bootcheck"))
        .args(["matrix", "--list", "--config"])
        .arg(config)
        .stdout(full)
        .output()
        .unwrap();
    assert_eq!(status(&output), 129);
    let said = text(&output.stderr);
    assert_eq!(said.lines().count(), 1, "{said}");
    assert!(said.contains("No space left on device"), "{said}");
}

#[test]
fn usage_errors_stop_a_bisection() {
    for options in [
        &["--no-such-flag"][..],
        &["--timeout", "soon"],
        &["--pass-regex", "("],
        &["--qemu-arg=-monitor", "--qemu-arg=stdio"],
        &["--qemu-arg=-serial", "--qemu-arg=mon:stdio"],
        &["--qemu-arg=-daemonize"],
    ] {
        let output = good().command(&[]).args(options).output().unwrap();
        assert_eq!(status(&output), 129, "{options:?}");
        assert!(text(&output.stderr).contains("try '--help'"), "{options:?}");
    }
    let help = Command::new(env!("CARGO_BIN_EXE_bootcheck"))
        .args(["boot", "--help"])
        .output();
    let help = help.unwrap();
    assert_eq!(status(&help), 0);
    assert!(text(&help.stdout).contains("git bisect run"));
}

/// The QEMUs whose command line names this bench's directory.
fn qemus_of(bench: &Bench) -> Vec<String> {
    let listing = Command::new("ps")
        .args(["-A", "-ww", "-o", "pid=,args="])
        .output()
        .unwrap();
    let image = bench.path("Image");
    text(&listing.stdout)
        .lines()
        .filter(|line| line.contains("-kernel") && line.contains(image.to_str().unwrap()))
        .map(str::to_owned)
        .collect()
}

/// Starts a boot that would take long, kills the tester once the guest runs, and returns its
/// status; QEMU must be gone.
fn signal_during_boot(signal: Signal) -> Option<i32> {
    let bench = Bench::with(Guest::default().print("up\n").poll_for_ever());
    let mut child = bench
        .command(&["--timeout", "600", "--quiet", "600"])
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut up = [0; 3];
    child.stdout.as_mut().unwrap().read_exact(&mut up).unwrap();
    assert_eq!(qemus_of(&bench).len(), 1, "{:?}", qemus_of(&bench));
    kill_process(Pid::from_child(&child), signal).unwrap();
    let status = child.wait().unwrap();
    wait_until("QEMU is gone", || qemus_of(&bench).is_empty());
    let names: Vec<_> = std::fs::read_dir(bench.directory.path())
        .unwrap()
        .map(|entry| entry.unwrap().file_name())
        .collect();
    assert_eq!(names, ["Image"], "nothing else is left");
    status.code()
}

#[test]
fn interrupting_leaves_no_qemu() {
    assert_eq!(signal_during_boot(Signal::INT), Some(130));
    assert_eq!(signal_during_boot(Signal::TERM), Some(130));
}

#[test]
fn a_hangup_that_is_ignored_as_by_nohup_stays_ignored() {
    let bench = Bench::with(Guest::default().print("up\n").poll_for_ever());
    let boot = bench.command(&["--timeout", "600", "--quiet", "600"]);
    let mut nohup = Command::new("sh");
    nohup.args(["-c", "trap '' HUP INT; exec \"$0\" \"$@\""]);
    let mut child = nohup
        .arg(boot.get_program())
        .args(boot.get_args())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut up = [0; 3];
    child.stdout.as_mut().unwrap().read_exact(&mut up).unwrap();
    kill_process(Pid::from_child(&child), Signal::HUP).unwrap();
    // Had it been heeded, it would have been the first of two, and the tester gone at the next tick.
    std::thread::sleep(std::time::Duration::from_millis(500));
    assert_eq!(child.try_wait().unwrap(), None, "it goes on");
    // Scripts ignore this one for all that they start in the background.
    kill_process(Pid::from_child(&child), Signal::INT).unwrap();
    assert_eq!(child.wait().unwrap().code(), Some(130));
}

#[test]
#[cfg(target_os = "linux")]
fn killing_the_tester_leaves_no_qemu() {
    assert_eq!(signal_during_boot(Signal::KILL), None);
}

#[test]
fn a_qemu_killed_from_outside_is_no_verdict_about_the_guest() {
    let bench = Bench::with(Guest::default().print("up\n").poll_for_ever());
    let child = bench
        .command(&["--json", "-", "--timeout", "600", "--quiet", "600"])
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    wait_until("QEMU runs", || !qemus_of(&bench).is_empty());
    let line = qemus_of(&bench).remove(0);
    let pid: i32 = line
        .split_ascii_whitespace()
        .next()
        .unwrap()
        .parse()
        .unwrap();
    kill_process(Pid::from_raw(pid).unwrap(), Signal::KILL).unwrap();
    let output = child.wait_with_output().unwrap();
    assert_eq!(status(&output), 129);
    assert_eq!(json(&output)["verdict"], "infra");
}

#[test]
fn a_reader_that_goes_away_does_not_change_the_verdict() {
    let bench = Bench::with(
        Guest::default()
            .print(&"a line of some length\n".repeat(3000))
            .print("boot: PASS\n")
            .power_off(),
    );
    let mut child = bench.command(&[]).stdout(Stdio::piped()).spawn().unwrap();
    drop(child.stdout.take());
    assert_eq!(child.wait().unwrap().code(), Some(0));
}

#[test]
fn a_reader_of_the_result_may_go_away_too() {
    let bench = Bench::with(Guest::default().print("boot: PASS\n").power_off());
    let mut boot = bench.command(&["-q", "--json", "-"]);
    let mut child = boot.stdout(Stdio::piped()).spawn().unwrap();
    drop(child.stdout.take());
    assert_eq!(child.wait().unwrap().code(), Some(0));
}

#[test]
fn a_list_may_be_cut_off_but_not_lost() {
    let list = || {
        let mut list = Command::new(env!("CARGO_BIN_EXE_bootcheck"));
        list.args(["matrix", "--list", "--json"])
            .current_dir(concat!(env!("CARGO_MANIFEST_DIR"), "/../.."));
        list
    };
    let mut cut = list().stdout(Stdio::piped()).spawn().unwrap();
    drop(cut.stdout.take());
    assert_eq!(cut.wait().unwrap().code(), Some(0));
    let full = std::fs::File::create("/dev/full").unwrap();
    let lost = list().stdout(full).output().unwrap();
    assert_eq!(status(&lost), 129);
    let stderr = text(&lost.stderr);
    assert!(
        stderr.contains("cannot write to standard output: No space left"),
        "{stderr}"
    );
}
