//! Guests of a few instructions under a real QEMU, one for each verdict.

mod common;

use std::io::Write;

use bootcheck::guest::Guest;
use common::Bench;
use serde_json::Value;

#[test]
fn pass_is_the_line_and_then_power_off() {
    let bench = Bench::with(Guest::default().print("hello\nboot: PASS\n").power_off());
    let json = bench.expect("pass", &[]);
    assert_eq!(json["said_pass"], true);
    assert_eq!(json["silent"], false);
    assert_eq!(json["console"], "hello\nboot: PASS\n");
    assert_eq!(json["message"], Value::Null);
    assert_eq!(
        json["evidence"],
        serde_json::json!(["qmp-guest-shutdown", "console-pass"])
    );
    assert!(json["qemu"]["version"].is_string() && json["qemu"]["argv"].is_array());
    assert!(json["wall_ms"].as_f64().unwrap() >= json["last_console_ms"].as_f64().unwrap());
}

#[test]
fn off_without_a_result() {
    let json = Bench::with(Guest::default().power_off()).expect("off", &[]);
    assert_eq!(json["silent"], true);
    assert_eq!(json["last_console_ms"], Value::Null);
}

#[test]
fn pass_must_be_a_whole_line_of_its_own() {
    for console in [
        "boot: PASS",
        "not boot: PASS\n",
        "boot: PASS at last\n",
        "[    0.000001] boot: PASS\n",
        "\x1b[32mboot: PASS\x1b[0m\n",
    ] {
        let bench = Bench::with(Guest::default().print(console).power_off());
        let json = bench.expect("off", &[]);
        assert_eq!(json["said_pass"], false, "{console:?}");
    }
}

#[test]
fn pass_must_be_the_last_line() {
    let bench = Bench::with(Guest::default().print("boot: PASS\nmore\n").power_off());
    let json = bench.expect("off", &[]);
    assert_eq!(json["said_pass"], true);
    let bench = Bench::with(Guest::default().print("boot: PASS\r\n\r\n").power_off());
    bench.expect("pass", &[]);
}

#[test]
fn reset_is_not_power_off_and_wins_over_pass() {
    Bench::with(Guest::default().reset()).expect("reset", &[]);
    let bench = Bench::with(Guest::default().print("boot: PASS\n").reset());
    let json = bench.expect("reset", &[]);
    assert_eq!(json["said_pass"], true);
}

#[test]
fn fail_is_what_the_kernel_says() {
    let console = "KTAP version 1\n1..2\nok 1 a\nnot ok 2 b\nboot: FAIL\n";
    let bench = Bench::with(Guest::default().print(console).power_off());
    let json = bench.expect("fail", &[]);
    assert_eq!(
        json["tests"],
        serde_json::json!({"passed": 1, "failed": 1, "skipped": 0})
    );
    assert_eq!(json["message"], "1 of 2 self-tests failed, the first is b");
}

#[test]
fn a_pass_with_a_failed_test_is_a_fail() {
    let console = "1..1\nnot ok 1 b\nboot: PASS\n";
    let json = Bench::with(Guest::default().print(console).power_off()).expect("fail", &[]);
    assert_eq!(json["said_pass"], true);
}

#[test]
fn panic_with_message_place_and_stage() {
    let console = "[    0.000500] stage: early_mmu\n\
                   [    0.001000] Kernel panic - not syncing: no table at level 2\n\
                   \x20 at kernel/src/mm/fixmap.rs:12:34\n\
                   \x20 in stage early_mmu\n";
    let bench = Bench::with(Guest::default().print(console).power_off());
    let json = bench.expect("panic", &[]);
    assert_eq!(json["message"], "no table at level 2");
    assert_eq!(json["file"], "kernel/src/mm/fixmap.rs");
    assert_eq!(json["line"], 12);
    assert_eq!(json["stage"], "early_mmu");
    assert_eq!(
        json["stages"],
        serde_json::json!([{"name": "early_mmu", "ns": 500_000}])
    );
}

#[test]
fn a_panic_that_never_ends_is_told_long_before_the_deadline() {
    let console = "Kernel panic - not syncing: VFS\n";
    let bench = Bench::with(Guest::default().print(console).spin());
    let json = bench.expect("panic", &["--timeout", "60"]);
    assert!(json["wall_ms"].as_f64().unwrap() < 20_000.0, "{json:#}");
}

#[test]
fn an_exception_wins_over_the_panic_it_leads_to() {
    let console = "Unhandled exception: data abort\nKernel panic - not syncing: exception\n";
    let bench = Bench::with(Guest::default().print(console).power_off());
    let json = bench.expect("exception", &[]);
    assert_eq!(json["message"], "Unhandled exception: data abort");
    assert_eq!(
        json["evidence"],
        serde_json::json!([
            "console-exception",
            "console-panic",
            "qmp-guest-shutdown",
            "registers"
        ])
    );
}

#[test]
fn timeout_of_a_guest_that_never_stops_printing() {
    let bench = Bench::with(Guest::default().print_for_ever("again and again\n"));
    let json = bench.expect("timeout", &["--timeout", "1"]);
    assert!(json["console"].as_str().unwrap().len() <= 1 << 20);
}

#[test]
fn a_parked_guest_passes_if_it_was_told_to_park() {
    let bench = Bench::with(Guest::default().print("boot: PASS\n").sleep());
    let json = bench.expect("pass", &["--append", "quiet exit=halt"]);
    assert_eq!(
        json["evidence"],
        serde_json::json!(["parked", "console-pass"])
    );
}

#[test]
fn a_guest_that_cannot_power_off_passes_parked_if_it_says_so() {
    let ends = |line: &str| {
        Guest::default()
            .print(&format!("{line}\nboot: PASS\n"))
            .sleep()
    };
    let bench = Bench::with(ends("boot: no way to power off, parks after this"));
    let json = bench.expect("pass", &[]);
    assert_eq!(
        json["evidence"],
        serde_json::json!(["parked", "console-pass"])
    );
    Bench::with(ends("a line like any other")).expect("hang", &[]);
}

#[test]
fn semihosting_exits_with_a_status() {
    let options = ["--append", "exit=semihosting"];
    let said = || Guest::default().print("boot: PASS\n");
    Bench::with(said().semihosting_exit(0)).expect("pass", &options);
    let json = Bench::with(said().semihosting_exit(3)).expect("fail", &options);
    assert_eq!(json["said_pass"], true);
    Bench::with(Guest::default().semihosting_exit(0)).expect("off", &options);
    // Other kernels know no such word; QEMU is told.
    let options = ["--qemu-arg=-semihosting"];
    Bench::with(said().semihosting_exit(0)).expect("pass", &options);
    Bench::with(said().semihosting_exit(3)).expect("fail", &options);
    // Without, the guest has no such way out.
    Bench::with(said().semihosting_exit(0)).expect("exception", &[]);
}

#[test]
fn other_kernels_pass_by_pattern() {
    let guest = || Guest::default().print("Linux version 6\nRun /init as init process\n");
    let bench = Bench::with(guest().spin());
    let json = bench.expect("pass", &["--pass-regex", "Run /init"]);
    assert_eq!(json["said_pass"], true);
    bench.expect("hang", &["--pass-regex", "Run /sbin"]);
    bench.expect(
        "fail",
        &["--fail-regex", "^Linux", "--pass-regex", "Run /init"],
    );

    // Passed at that line: what came after it, before QEMU stood still, is chance.
    let guest_then_panic = guest()
        .print("Kernel panic - not syncing: later\n")
        .power_off();
    Bench::with(guest_then_panic).expect("pass", &["--pass-regex", "Run /init"]);

    let until_exit = ["--pass-regex", "Run /init", "--until-exit"];
    Bench::with(guest().power_off()).expect("pass", &until_exit);
    Bench::with(guest().reset()).expect("reset", &until_exit);
    let guest = guest()
        .print("Kernel panic - not syncing: No init\n")
        .power_off();
    Bench::with(guest).expect("panic", &until_exit);
}

#[test]
fn a_prompt_is_a_line_that_matches() {
    let prompt = || Guest::default().print("hello\nlogin: ");
    let armed = ["--quiet", "60", "--timeout", "60"];
    for guest in [
        prompt().sleep(),
        prompt().poll_for_ever(),
        prompt().power_off(),
    ] {
        let bench = Bench::with(guest);
        let expect =
            |verdict, option| bench.expect(verdict, &[&[option, "^login: $"], &armed[..]].concat());
        assert_eq!(expect("pass", "--pass-regex")["said_pass"], true);
        assert_eq!(expect("fail", "--fail-regex")["message"], "login: ");
    }
    // A line that is only slow in coming is not judged by its beginning.
    let slow = Guest::default()
        .print("Run /init")
        .count_down(100_000)
        .print(" as init\n");
    Bench::with(slow.sleep()).expect("hang", &["--pass-regex", "^Run /init$"]);
    let until_exit = ["--pass-regex", "^login: $", "--until-exit"];
    Bench::with(prompt().power_off()).expect("pass", &until_exit);
    Bench::with(prompt().sleep()).expect("hang", &until_exit);
}

#[test]
fn a_gzipped_image_boots() {
    let image = Guest::default().print("boot: PASS\n").power_off().image();
    let mut packer = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::best());
    packer.write_all(&image).unwrap();
    Bench::with_bytes(&packer.finish().unwrap()).expect("pass", &[]);
}

#[test]
fn an_image_boots_where_it_is_put() {
    let bench = Bench::with(Guest::default().print("boot: PASS\n").power_off());
    bench.expect("pass", &["--load-address", "0x44000000"]);
    bench.expect("pass", &["--numa", "33M+67M"]);
}

#[test]
fn garbage_is_unbootable() {
    let json = Bench::with_bytes(&[0xaa; 8192]).expect("unbootable", &[]);
    assert!(
        json["message"]
            .as_str()
            .unwrap()
            .contains("neither an arm64 Image")
    );
    assert_eq!(json["silent"], Value::Null, "no guest ran");
}

#[test]
fn icount_gives_the_same_boot_to_the_instruction() {
    let count = |rounds, options: &[&str]| {
        let guest = Guest::default().count_down(rounds);
        let bench = Bench::with(guest.print("boot: PASS\n").power_off());
        let json = bench.expect("pass", options);
        json["instructions"].as_u64()
    };
    let once = count(1_000, &["--icount"]).unwrap();
    assert_eq!(count(1_500, &["--icount"]), Some(once + 1_000));
    // After a reset of the machine, those of the last boot alone; none without icount.
    assert_eq!(count(1_000, &["--icount", "--reboots", "2"]), Some(once));
    assert_eq!(count(1_000, &[]), None);
    let bench = Bench::with(Guest::default().print("boot: PASS\n").power_off());
    bench.expect("pass", &["--icount", "--repeat", "3"]);
}

#[test]
fn a_guest_that_is_stopped_has_no_number_that_repeats() {
    let json = Bench::with(Guest::default().spin()).expect("hang", &["--icount"]);
    assert_eq!(json["instructions"], Value::Null);
}
