//! Hangs and what only looks like one, on guests of a few instructions under a real QEMU.

mod common;

use bootcheck::guest::Guest;
use common::Bench;
use serde_json::{Value, json};

const COUNT_IN_CIRCLES: [u32; 4] = [
    0xd280_0060, // 1: mov x0, #3
    0xf100_0400, // 2: subs x0, x0, #1
    0x54ff_ffe1, // b.ne 2b
    0x17ff_fffd, // b 1b
];
const UNMASK: [u32; 1] = [
    0xd503_4fff, // msr daifclr, #0xf
];
const POLL_COUNTER_1S: [u32; 6] = [
    0xd53b_e002, // mrs x2, cntfrq_el0
    0xd53b_e043, // mrs x3, cntvct_el0
    0x8b03_0042, // add x2, x2, x3
    0xd53b_e043, // 1: mrs x3, cntvct_el0
    0xeb02_007f, // cmp x3, x2
    0x54ff_ffc3, // b.lo 1b
];
const POLL_RTC_2S: [u32; 6] = [
    0x52a1_2021, // mov w1, #0x09010000
    0xb940_0022, // ldr w2, [x1]
    0x1100_0842, // add w2, w2, #2
    0xb940_0023, // 1: ldr w3, [x1]
    0x6b02_007f, // cmp w3, w2
    0x54ff_ffc3, // b.lo 1b
];
const WAIT_FOR_EVENT_2S: [u32; 10] = [
    0xd53b_e042, // mrs x2, cntvct_el0
    0xd503_205f, // 1: wfe
    0xd53b_e043, // mrs x3, cntvct_el0
    0xcb02_0063, // sub x3, x3, x2
    0xd35b_fc63, // lsr x3, x3, #27
    0x5280_0284, // mov w4, #20
    0xd503_3fdf, // 2: isb
    0x7100_0484, // subs w4, w4, #1
    0x54ff_ffc1, // b.ne 2b
    0xb4ff_ff03, // cbz x3, 1b
];
const CLEAR_1G: [u32; 8] = [
    0x5280_0204, // mov w4, #16
    0x52a8_4001, // 1: mov w1, #0x42000000
    0x52a8_c002, // mov w2, #0x46000000
    0xa881_7c3f, // 2: stp xzr, xzr, [x1], #16
    0xeb02_003f, // cmp x1, x2
    0x54ff_ffc3, // b.lo 2b
    0x7100_0484, // subs w4, w4, #1
    0x54ff_ff41, // b.ne 1b
];
const ARM_TIMER_1S: [u32; 15] = [
    0x52a1_0001, // mov w1, #0x08000000
    0x5280_0022, // mov w2, #1
    0xb900_0022, // str w2, [x1]
    0x52a1_0002, // mov w2, #0x08000000
    0xb901_0022, // str w2, [x1, #0x100]
    0x52a1_0021, // mov w1, #0x08010000
    0x5280_1fe2, // mov w2, #0xff
    0xb900_0422, // str w2, [x1, #4]
    0x5280_0022, // mov w2, #1
    0xb900_0022, // str w2, [x1]
    0xd53b_e002, // mrs x2, cntfrq_el0
    0xd51b_e302, // msr cntv_tval_el0, x2
    0xd280_0022, // mov x2, #1
    0xd51b_e322, // msr cntv_ctl_el0, x2
    0xd503_3fdf, // isb
];
const WAIT_FOR_TIMER: [u32; 3] = [
    0xd503_207f, // 1: wfi
    0xd53b_e322, // mrs x2, cntv_ctl_el0
    0x3617_ffc2, // tbz w2, #2, 1b
];
const VECTORS_AT_0X800: [u32; 5] = [
    0x1000_0000, // adr x0, .
    0x926b_a800, // and x0, x0, #0xffffffffffe00000
    0x9120_0000, // add x0, x0, #0x800
    0xd518_c000, // msr vbar_el1, x0
    0xd503_3fdf, // isb
];
const SLEEP_FOR_EVER: [u32; 2] = [
    0xd503_207f, // 1: wfi
    0x17ff_ffff, // b 1b
];
const RESUME_BEHIND: [u32; 4] = [
    0xd538_402a, // mrs x10, elr_el1
    0x9100_114a, // add x10, x10, #4
    0xd518_402a, // msr elr_el1, x10
    0xd69f_03e0, // eret
];
const FAULT_2000_TIMES: [u32; 4] = [
    0x5280_fa0b, // mov w11, #2000
    0x0000_0000, // 1: udf #0
    0x7100_056b, // subs w11, w11, #1
    0x54ff_ffc1, // b.ne 1b
];
const FAULT_FOR_EVER: [u32; 2] = [
    0x0000_0000, // 1: udf #0
    0x17ff_ffff, // b 1b
];
const REARM_TIMER_FOR_EVER: [u32; 5] = [
    0xd53b_e002, // 1: mrs x2, cntfrq_el0
    0xd346_fc42, // lsr x2, x2, #6
    0xd51b_e302, // msr cntv_tval_el0, x2
    0xd503_207f, // wfi
    0x17ff_fffc, // b 1b
];
const START_SECONDARY: [u32; 19] = [
    0x5280_0060, // mov w0, #3
    0x72b8_8000, // movk w0, #0xc400, lsl #16
    0xd280_0021, // mov x1, #1
    0x1000_0082, // adr x2, 1f
    0xd280_0003, // mov x3, #0
    0xd400_0002, // hvc #0
    0x1400_000c, // b 2f
    0xd53b_e002, // 1: mrs x2, cntfrq_el0
    0xd53b_e043, // mrs x3, cntvct_el0
    0x8b03_0042, // add x2, x2, x3
    0xd53b_e043, // 3: mrs x3, cntvct_el0
    0xeb02_007f, // cmp x3, x2
    0x54ff_ffc3, // b.lo 3b
    0x1000_0081, // adr x1, 4f
    0x5280_0020, // mov w0, #1
    0xb900_0020, // str w0, [x1]
    0x1400_0000, // 5: b 5b
    0x0000_0000, // 4: .word 0
    0x10ff_ffe1, // 2: adr x1, 4b
];
const WAIT_FOR_FLAG: [u32; 3] = [
    0xd503_205f, // 1: wfe
    0xb940_0020, // ldr w0, [x1]
    0x34ff_ffc0, // cbz w0, 1b
];
const UDF: [u32; 1] = [
    0x0000_0000, // udf #0
];
const BUG: [u32; 1] = [
    0xd421_0000, // brk #0x800
];

/// Runs into the offset of the vector for synchronous exceptions at the current level, and for
/// interrupts.
const SYNC: usize = 0x800 + 0x200;
const IRQ: usize = 0x800 + 0x280;

fn hang(guest: Guest, options: &[&str]) -> Value {
    Bench::with(guest).expect("hang", options)["hang"].clone()
}

/// A guest that must run to its end.
fn ends(guest: Guest, options: &[&str]) {
    let bench = Bench::with(guest.print("boot: PASS\n").power_off());
    bench.expect("pass", &[options, &["--timeout", "20"]].concat());
}

#[test]
fn a_loop_that_nothing_can_end_is_proved() {
    let spin = json!({"kind": "spin", "certainty": "proved"});
    assert_eq!(hang(Guest::default().spin(), &["--timeout", "60"]), spin);
    let circle = Guest::default().execute(&COUNT_IN_CIRCLES);
    assert_eq!(hang(circle, &["--timeout", "60"]), spin);
    // No interrupt comes, as their controller was never turned on.
    let open = Guest::default().execute(&UNMASK).spin();
    assert_eq!(hang(open, &["--timeout", "60"]), spin);
    // CPUs that nobody started do not count.
    let parked = Guest::default().spin();
    let options = ["--smp", "4", "--timeout", "60"];
    assert_eq!(hang(parked.clone(), &options), spin);
    let options = [
        "--qemu-arg=-smp",
        "--qemu-arg=2,maxcpus=4",
        "--timeout",
        "60",
    ];
    assert_eq!(hang(parked, &options), spin);
}

#[test]
fn secondaries_that_wait_at_a_spin_table_do_not_hide_a_hang() {
    let bench = Bench::with(Guest::default().spin());
    let json = bench.expect("hang", &["--machine", "raspi3b"]);
    assert_eq!(
        json["hang"],
        json!({"kind": "spin", "certainty": "proved"}),
        "{json:#}"
    );
}

#[test]
fn a_sleep_that_nothing_can_end_is_proved() {
    let wfi = json!({"kind": "wfi", "certainty": "proved"});
    assert_eq!(hang(Guest::default().sleep(), &["--timeout", "60"]), wfi);
    // A timer ends each sleep, but the CPU goes straight back.
    let masked = Guest::default().execute(&ARM_TIMER_1S).sleep();
    assert_eq!(hang(masked, &["--timeout", "60"]), wfi);
}

/// Starts a second CPU, which sleeps at once.
fn with_a_sleeping_cpu() -> Guest {
    let mut words = START_SECONDARY;
    words[7] = UNMASK[0];
    words[8..10].copy_from_slice(&SLEEP_FOR_EVER);
    Guest::default().execute(&words)
}

#[test]
fn a_sleep_of_all_cpus_that_nothing_will_end_is_proved() {
    let wfi = json!({"kind": "wfi", "certainty": "proved"});
    let options = ["--smp", "2", "--timeout", "60"];
    let guest = || {
        with_a_sleeping_cpu()
            .execute(&UNMASK)
            .execute(&SLEEP_FOR_EVER)
    };
    assert_eq!(hang(guest(), &options), wfi);
    let gicv3 = [&options[..], &["--machine", "virt,gic-version=3"]].concat();
    assert_eq!(hang(guest(), &gicv3), wfi);
    // A timer ends each sleep, so it is left to the deadline.
    let armed = with_a_sleeping_cpu()
        .execute(&ARM_TIMER_1S)
        .execute(&REARM_TIMER_FOR_EVER);
    Bench::with(armed).expect("timeout", &["--smp", "2", "--timeout", "2"]);
}

#[test]
fn a_cpu_that_sleeps_while_another_one_works_is_no_hang() {
    let mut words = START_SECONDARY;
    words[6] = 0xd503_207f; // wfi, for ever
    words[13] = 0xd503_201f; // nop, and on into what follows instead of storing
    words[14..].fill(0xd503_201f);
    let guest = Guest::default().execute(&UNMASK).execute(&words);
    ends(guest, &["--smp", "2"]);
}

#[test]
fn a_hang_after_pass_is_no_pass() {
    let json = Bench::with(Guest::default().print("boot: PASS\n").spin()).expect("hang", &[]);
    assert_eq!(json["said_pass"], true);
    assert_eq!(json["silent"], false);
    assert!(
        json["evidence"]
            .as_array()
            .unwrap()
            .contains(&json!("single-steps"))
    );
}

#[test]
fn a_guest_that_only_polls_is_a_likely_hang() {
    let likely = json!({"kind": "livelock", "certainty": "likely"});
    let options = ["--quiet", "0.5", "--timeout", "60"];
    assert_eq!(hang(Guest::default().poll_for_ever(), &options), likely);
}

#[test]
fn sleeping_until_a_timer_is_no_hang() {
    let armed = || Guest::default().execute(&ARM_TIMER_1S);
    ends(armed().execute(&WAIT_FOR_TIMER), &[]);
    // The interrupt itself ends it.
    let guest = Guest::default()
        .execute(&VECTORS_AT_0X800)
        .execute(&ARM_TIMER_1S)
        .execute(&UNMASK)
        .execute(&SLEEP_FOR_EVER)
        .pad_to(IRQ);
    ends(guest, &[]);
}

#[test]
fn a_guest_that_sleeps_again_and_again_is_left_to_the_deadline() {
    let guest = Guest::default()
        .execute(&ARM_TIMER_1S)
        .execute(&REARM_TIMER_FOR_EVER);
    Bench::with(guest).expect("timeout", &["--timeout", "2"]);
}

#[test]
fn polling_a_clock_is_no_hang() {
    ends(Guest::default().execute(&POLL_COUNTER_1S), &[]);
    ends(Guest::default().execute(&POLL_RTC_2S), &[]);
    // As with the event stream; by the registers alone it goes in circles.
    ends(Guest::default().execute(&WAIT_FOR_EVENT_2S), &[]);
}

#[test]
fn clearing_a_gigabyte_is_no_hang() {
    ends(Guest::default().execute(&CLEAR_1G), &["--mem", "512M"]);
}

#[test]
fn waiting_for_another_cpu_is_no_hang() {
    let started = || Guest::default().execute(&START_SECONDARY);
    ends(started().execute(&WAIT_FOR_FLAG), &["--smp", "2"]);
    // The first one is done for; the second one goes on.
    let mut words = START_SECONDARY;
    words[6] = 0x1400_0000; // b .
    words[13] = 0xd503_201f; // nop, and on into what follows instead of storing
    words[14..].fill(0xd503_201f);
    ends(Guest::default().execute(&words), &["--smp", "2"]);
}

#[test]
fn lost_vectors_tell_the_first_exception() {
    for (option, level) in [("virt", 1), ("virt,virtualization=on", 2)] {
        let guest = Guest::default().execute(&UDF);
        let json = Bench::with(guest).expect("exception", &["--machine", option]);
        let first = &json["first_exception"];
        assert_eq!(first["ec"], "0x00", "{json:#}");
        assert_eq!(first["elr"], "0x40200040", "{json:#}");
        assert_eq!(first["el"], level, "{json:#}");
        assert_eq!(json["silent"], true);
        assert!(json["message"].as_str().unwrap().contains("without end"));
    }
}

#[test]
fn an_exception_that_is_never_resumed_is_told() {
    let handled = |fault: &[u32]| {
        let guest = Guest::default().execute(&VECTORS_AT_0X800).execute(fault);
        guest.pad_to(SYNC)
    };
    let json = Bench::with(handled(&UDF).spin()).expect("exception", &["--timeout", "60"]);
    assert_eq!(json["first_exception"]["elr"], "0x40200054");
    let guest = handled(&UDF).poll_for_ever();
    Bench::with(guest).expect("exception", &["--timeout", "60"]);
    // As a Linux that dies of a BUG() before its console is there.
    let guest = handled(&BUG).poll_for_ever();
    let json = Bench::with(guest).expect("panic", &["--timeout", "60"]);
    assert_eq!(json["first_exception"]["esr"], "0xf2000800");
    assert_eq!(json["silent"], true);
}

#[test]
fn exceptions_that_are_resumed_do_not_count() {
    let guest = Guest::default()
        .execute(&VECTORS_AT_0X800)
        .execute(&FAULT_2000_TIMES)
        .print("boot: PASS\n")
        .power_off()
        .pad_to(SYNC)
        .execute(&RESUME_BEHIND);
    let json = Bench::with(guest).expect("pass", &[]);
    assert_eq!(json["first_exception"], Value::Null);
    let guest = Guest::default()
        .execute(&VECTORS_AT_0X800)
        .execute(&FAULT_2000_TIMES)
        .spin()
        .pad_to(SYNC)
        .execute(&RESUME_BEHIND);
    let json = Bench::with(guest).expect("hang", &[]);
    assert_eq!(json["first_exception"], Value::Null);
}

#[test]
fn a_guest_stopped_while_it_handles_an_exception_has_not_died_of_it() {
    let guest = Guest::default()
        .execute(&VECTORS_AT_0X800)
        .print("hello\n")
        .execute(&FAULT_FOR_EVER)
        .pad_to(SYNC)
        .count_down(0x1_0000)
        .execute(&RESUME_BEHIND);
    let bench = Bench::with(guest);
    for (options, verdict) in [
        (["--timeout", "1"], "timeout"),
        (["--fail-regex", "hello"], "fail"),
    ] {
        let json = bench.expect(verdict, &options);
        assert_eq!(json["first_exception"], Value::Null, "{json:#}");
    }
}
