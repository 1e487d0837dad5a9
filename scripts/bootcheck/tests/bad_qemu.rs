//! What is told where QEMU is not there, is none, refuses, or does not answer.

mod common;

use std::fs::Permissions;
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;
use std::process::Stdio;
use std::time::Duration;

use bootcheck::guest::Guest;
use common::{Bench, json, matrix, status, text, wait_until};
use rustix::process::{Pid, Signal, kill_process, test_kill_process};
use serde_json::Value;

fn good() -> Bench {
    Bench::with(Guest::default().print("hello\nboot: PASS\n").power_off())
}

#[test]
fn a_missing_qemu_is_no_verdict_about_the_guest() {
    let report = good().expect("infra", &["--qemu", "/nonexistent/qemu"]);
    assert!(
        report["message"].as_str().unwrap().contains("make setup"),
        "{report:#}"
    );
}

#[test]
fn the_variable_names_another_qemu_unless_it_is_empty() {
    let run = |qemu: &str| {
        let bench = good();
        let mut command = bench.command(&["--json", "-"]);
        json(&command.env("QEMU", qemu).output().unwrap())
    };
    assert_eq!(run("/nonexistent/qemu")["verdict"], "infra");
    assert_eq!(run("")["qemu"]["argv"][0], "qemu-system-aarch64");
}

#[test]
fn what_qemu_refuses_is_told_in_its_words() {
    let report = good().expect("infra", &["--cpu", "cortex-z80"]);
    assert!(
        report["message"].as_str().unwrap().contains("cortex-z80"),
        "{report:#}"
    );
    let report = good().expect("infra", &["--initrd", "/nonexistent/initrd"]);
    assert!(
        report["message"].as_str().unwrap().contains("initrd"),
        "{report:#}"
    );
}

#[test]
fn a_program_that_is_no_qemu_is_told() {
    let report = good().expect("infra", &["--qemu", "/bin/false"]);
    let message = report["message"].as_str().unwrap();
    assert!(
        message.contains("/bin/false ended without a word"),
        "{message}"
    );
    assert!(message.contains("status: 1"), "{message}");
}

#[test]
fn a_32_bit_cpu_is_refused_by_name() {
    let report = good().expect("infra", &["--cpu", "cortex-a15"]);
    let message = report["message"].as_str().unwrap();
    assert!(message.contains("cortex-a15 is a 32-bit CPU"), "{message}");
    // A warning of QEMU's is not why.
    let warned = ["--qemu-arg=-netdev", "--qemu-arg=user,id=lonely"];
    let report = good().expect("infra", &[&warned[..], &["--cpu", "cortex-a15"]].concat());
    let message = report["message"].as_str().unwrap();
    assert!(message.contains("is a 32-bit CPU"), "{message}");
    assert!(message.contains("lonely has no peer"), "{message}");
}

/// A program that is started as QEMU and does this.
fn wrapper(bench: &Bench, script: &str) -> PathBuf {
    let path = bench.path("qemu");
    std::fs::write(&path, format!("#!/bin/sh\n{script}\n")).unwrap();
    std::fs::set_permissions(&path, Permissions::from_mode(0o755)).unwrap();
    path
}

#[test]
fn what_a_wrapper_says_when_it_gives_up_is_told() {
    let bench = good();
    let qemu = wrapper(&bench, "echo 'no licence' >&2; exit 3");
    let output = matrix(
        &bench,
        "[[cells]]\nname = 'a'",
        &["--qemu", qemu.to_str().unwrap()],
    );
    assert_eq!(status(&output), 129);
    let said = text(&output.stderr);
    assert!(said.contains("no QEMU that talks: no licence"), "{said}");
    // As QEMU 5 does.
    let qemu = wrapper(&bench, "echo 'qemu: -action: invalid option' >&2; exit 1");
    let report = bench.expect("infra", &["--qemu", qemu.to_str().unwrap()]);
    let said = report["message"].as_str().unwrap();
    assert!(said.contains("QEMU 6.0 or later is needed"), "{said}");
}

/// It holds console and control channel and never says a word.
#[test]
fn a_qemu_that_is_mute_is_told_and_killed() {
    let bench = good();
    let pid = bench.path("pid");
    let mute = format!("echo $$ > {}; exec sleep 600", pid.display());
    let mute = wrapper(&bench, &mute);
    let report = bench.expect(
        "infra",
        &["--patience", "1", "--qemu", mute.to_str().unwrap()],
    );
    let message = report["message"].as_str().unwrap();
    assert!(
        message.contains("QEMU did not answer within 1s"),
        "{message}"
    );
    assert_eq!(report["silent"], Value::Null, "no guest ran");
    let pid = std::fs::read_to_string(pid).unwrap();
    let pid = Pid::from_raw(pid.trim().parse().unwrap()).unwrap();
    assert!(test_kill_process(pid).is_err(), "it is gone");
}

/// QEMU comes up only after the tester was stopped for longer than QEMU may take.
#[test]
fn time_in_which_the_tester_was_stopped_is_not_qemus() {
    const PATIENCE: Duration = Duration::from_secs(5);
    let bench = good();
    let (waits, go) = (bench.path("waits"), bench.path("go"));
    let script = format!(
        "touch {}; until [ -e {} ]; do sleep 0.05; done; exec qemu-system-aarch64 \"$@\"",
        waits.display(),
        go.display()
    );
    let qemu = wrapper(&bench, &script);
    let child = bench
        .command(&["--json", "-", "--patience", &PATIENCE.as_secs().to_string()])
        .arg("--qemu")
        .arg(qemu)
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    wait_until("the wrapper runs", || waits.exists());
    let tester = Pid::from_child(&child);
    kill_process(tester, Signal::STOP).unwrap();
    std::thread::sleep(PATIENCE + Duration::from_secs(1));
    kill_process(tester, Signal::CONT).unwrap();
    // Whoever went by the clock has given up by now.
    std::thread::sleep(Duration::from_millis(200));
    std::fs::write(go, "").unwrap();
    let output = child.wait_with_output().unwrap();
    let report = json(&output);
    assert_eq!(report["verdict"], "pass", "{report:#}");
}
