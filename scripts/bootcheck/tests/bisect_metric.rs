//! `bootcheck bisect` where every look at an image tells the same: by numbers, and under icount.

mod common;
#[path = "common/scratch.rs"]
mod scratch;

use scratch::Scratch;

#[test]
fn what_grew_is_found_without_a_boot() {
    let mut scratch = Scratch::new();
    let commits = scratch.commit_all("good good good big big");
    let metric = ["--metric", "image-bytes", "--worse-by", "5%"];
    let report = scratch.culprit(&[&["--good", commits[0].as_str()][..], &metric].concat());
    assert_eq!(report["culprit"]["sha"], *commits[3]);
    assert_eq!(report["effort"]["boots"], 0);
    let complaint = scratch.refusal(
        &[
            &["--good", commits[0].as_str(), "--bad", &commits[2]][..],
            &metric,
        ]
        .concat(),
    );
    assert!(complaint.contains("not worse"), "{complaint}");
}

#[test]
fn what_takes_more_instructions_is_found_with_one_boot_each() {
    let mut scratch = Scratch::new();
    let commits = scratch.commit_all("quick quick quick slower broken slower slow slow slow slow");
    let options = |metric, share| {
        let options = ["--metric", metric, "--worse-by", share];
        [&["--good", commits[0].as_str()][..], &options].concat()
    };
    let report = scratch.culprit(&options("instructions", "5%"));
    assert_eq!(report["culprit"]["sha"], *commits[6]);
    assert_eq!(report["confidence"], 1.0);
    assert_eq!(report["proof"]["parents_good"], true);
    let builds = scratch.builds();
    let booted = builds.iter().filter(|number| **number != 5).count();
    // Each end a second time, to see that it repeats.
    assert_eq!(report["effort"]["boots"], booted + 2, "{builds:?}");
    let value = |end: &str| report[end]["value"].as_u64().unwrap();
    // 1000 rounds of two instructions more, and nothing else.
    assert_eq!(value("bad") - value("good"), 2_000);
    let reproduce = report["reproduce"].as_str().unwrap();
    assert!(reproduce.contains(" --icount"), "{reproduce}");

    // Where 1 % is too much, another commit is to blame.
    let report = scratch.culprit(&options("instructions:early_mmu", "1%"));
    assert_eq!(report["culprit"]["sha"], *commits[3]);
    assert_eq!(report["good"]["value"], 30_000);
    let reproduce = report["reproduce"].as_str().unwrap();
    assert!(reproduce.contains("cntfrq=1000000000"), "{reproduce}");
}

#[test]
fn what_takes_more_table_frames_is_found() {
    let mut scratch = Scratch::new();
    let commits = scratch.commit_all("quick slow good quick greedy slower greedy greedy");
    let options = [
        ["--good", commits[0].as_str()],
        ["--metric", "table-frames"],
        ["--worse-by", "5%"],
        ["--bad", &commits[4]],
    ];
    let report = scratch.culprit(options.as_flattened());
    assert_eq!(report["culprit"]["sha"], *commits[4]);
    assert_eq!(report["good"]["value"], 18);
    assert_eq!(report["bad"]["value"], 20);
    let metric = &options.as_flattened()[2..6];
    // Guests that pass and do not tell are no ends.
    let said = scratch.refusal(&[&["--good", &commits[2][..]], metric].concat());
    assert!(said.contains("no line `table frames"), "{said}");
}

#[test]
fn a_failure_that_repeats_exactly_is_booted_once_for_each_revision() {
    let mut scratch = Scratch::new();
    let commits = scratch.commit_all("good good reset good good good panic panic panic panic");
    let report = scratch.culprit(&["--good", &commits[0], "--", "--icount"]);
    assert_eq!(report["culprit"]["sha"], *commits[6]);
    assert_eq!(report["confidence"], 1.0);
    let builds = scratch.builds();
    // BAD a second time, to see that it repeats.
    assert_eq!(report["effort"]["boots"], builds.len() + 1, "{builds:?}");
    for step in report["steps"].as_array().unwrap() {
        let boots =
            step["tally"]["failed"].as_u64().unwrap() + step["tally"]["passed"].as_u64().unwrap();
        assert!(boots <= 1, "{step:#}");
    }
}
