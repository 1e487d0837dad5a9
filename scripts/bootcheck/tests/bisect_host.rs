//! `bootcheck bisect` on a host as it is: names that nobody expects, interruptions, a full disk.

mod common;
#[path = "common/scratch.rs"]
mod scratch;

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use common::{json, status, text};
use rustix::process::{Pid, Signal, kill_process};
use scratch::{Scratch, contents};

#[test]
fn a_full_disk_stops_a_bisection_that_goes_on_when_there_is_room() {
    let mut scratch = Scratch::new();
    let commits = scratch.commit_all("good good good unkept panic panic panic");
    let said = scratch.refusal(&["--good", &commits[0]]);
    for part in [
        "no space left; make some, and `bootcheck bisect --resume --work ",
        "out/Image: No space left on device",
    ] {
        assert!(said.contains(part), "{said}");
    }
    assert_eq!(scratch.builds(), [7, 1, 4]);

    // Now there is room.
    std::fs::write(scratch.path("has-room"), "").unwrap();
    let images = std::fs::read_dir(scratch.path("work/images")).unwrap();
    let images = images.map(|directory| directory.unwrap().path().join("Image"));
    for link in images.filter(|image| image.is_symlink()) {
        std::fs::remove_file(link).unwrap();
    }
    let report = scratch.culprit(&["--resume"]);
    assert_eq!(report["culprit"]["sha"], *commits[3]);
    assert_eq!(scratch.builds()[0], 4, "the ends are not built again");
}

#[test]
fn results_that_cannot_be_written_are_told_before_the_first_build() {
    let mut scratch = Scratch::new();
    let commits = scratch.commit_all("good panic");
    for option in ["--json", "--markdown", "--log"] {
        let output = Command::new(env!("CARGO_BIN_EXE_bootcheck"))
            .args(["bisect", "--good", &commits[0], option, "/proc/x", "--repo"])
            .arg(scratch.repo())
            .arg("--work")
            .arg(scratch.path("work"))
            .arg("--build")
            .arg(format!("sh {}", scratch.path("build.sh").display()))
            .args(["--image", "out/Image"])
            .output()
            .unwrap();
        assert_eq!(status(&output), 129);
        let said = text(&output.stderr);
        assert!(said.contains("cannot write /proc/x"), "{said}");
        assert_eq!(scratch.builds(), [0; 0], "{option}");
    }
}

#[test]
fn a_repository_may_have_any_name() {
    let mut scratch = Scratch::new();
    let commits = scratch.commit_all("good panic");
    let odd = OsStr::from_bytes(b"it's a \"r\xffpo\\\n");
    std::fs::rename(scratch.repo(), scratch.path("").join(odd)).unwrap();
    std::os::unix::fs::symlink(odd, scratch.repo()).unwrap();
    let report = scratch.culprit(&["--good", &commits[0]]);
    assert_eq!(report["culprit"]["sha"], *commits[1]);
}

#[test]
fn the_cache_is_never_in_the_directory_one_stands_in() {
    let scratch = Scratch::new();
    let here = scratch.path("here");
    std::fs::create_dir(&here).unwrap();
    let refusal = |home: &Path, cache: &str| {
        let output = Command::new(env!("CARGO_BIN_EXE_bootcheck"))
            .args(["bisect", "--good", "nothing", "--repo"])
            .arg(scratch.repo())
            .current_dir(&here)
            .env("HOME", home)
            .env("XDG_CACHE_HOME", cache)
            .output()
            .unwrap();
        assert_eq!(status(&output), 129);
        assert_eq!(std::fs::read_dir(&here).unwrap().count(), 0);
        text(&output.stderr)
    };
    let home = scratch.path("home");
    assert!(refusal(&home, "relative").contains("nothing is no commit"));
    assert!(home.join(".cache/bootcheck").is_dir());
    assert!(refusal(Path::new(""), "").contains("say --work DIR"));
    assert!(refusal(Path::new("/proc"), "").contains("--work names another place"));
}

/// A bisection that goes on while the test looks.
fn begin(scratch: &Scratch, good: &str) -> Child {
    let mut bisect = scratch.command(&["--good", good]);
    bisect.stdout(Stdio::null()).stderr(Stdio::null());
    bisect.spawn().unwrap()
}

fn wait_for(what: &str, condition: impl Fn() -> bool) {
    let start = Instant::now();
    while !condition() {
        assert!(start.elapsed() < Duration::from_secs(120), "{what}");
        std::thread::sleep(Duration::from_millis(20));
    }
}

#[test]
fn an_interrupted_bisection_goes_on_where_it_was() {
    for signal in [Signal::INT, Signal::KILL] {
        let mut scratch = Scratch::new();
        let commits = scratch.commit_all("good good good good good panic panic panic");
        let before = contents(&scratch.repo());
        // The third commit that is built is the one in the middle; there the build stands still.
        let trap = scratch.path("wait-at-4");
        std::fs::write(&trap, "").unwrap();
        let mut child = begin(&scratch, &commits[0]);
        let builds = scratch.path("builds");
        let stands = || std::fs::read_to_string(&builds).is_ok_and(|text| text.contains("4\n"));
        wait_for("the build of the fourth", stands);
        kill_process(Pid::from_child(&child), signal).unwrap();
        let status = child.wait().unwrap().code();
        assert_eq!(status, (signal == Signal::INT).then_some(130));
        assert_eq!(contents(&scratch.repo()), before);
        assert_eq!(scratch.builds(), [8, 1, 4]);

        std::fs::remove_file(trap).unwrap();
        let output = scratch.bisect(&["--resume"]);
        let said = text(&output.stderr);
        assert!(said.contains("2 revisions are built already"), "{said}");
        assert_eq!(json(&output)["culprit"]["sha"], *commits[5]);
        let builds = scratch.builds();
        assert_eq!(builds[0], 4, "the ends are not built again: {builds:?}");
    }
}

#[test]
fn two_bisections_do_not_work_in_one_place() {
    let mut scratch = Scratch::new();
    let commits = scratch.commit_all("good hang");
    let mut child = begin(&scratch, &commits[0]);
    wait_for("the first build", || scratch.path("builds").exists());
    let output = scratch.command(&["--good", &commits[0]]).output().unwrap();
    assert_eq!(status(&output), 129);
    assert!(
        text(&output.stderr).contains("another bisection"),
        "{}",
        text(&output.stderr)
    );
    kill_process(Pid::from_child(&child), Signal::TERM).unwrap();
    assert_eq!(child.wait().unwrap().code(), Some(130));
}
