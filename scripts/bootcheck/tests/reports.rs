//! What a hostile guest, and a broken kernel, become in the reports.

mod common;

use std::process::{Command, Output};

use bootcheck::guest::Guest;
use common::{Bench, status, text};

/// Everything that a terminal, XML, HTML or a CI system might obey.
const HOSTILE: &[u8] = b"\x1b]0;owned\x07\x1b[2J\r\n::error file=x,line=1::from the guest\n\
    ##[error]from the guest\n##vso[task.complete]from the guest\n\
    ]]></system-out></testcase><testcase name=\"from the guest\"/>\n\
    </pre></script><script>document.title='owned'</script><img src=x onerror=\"document.title='owned'\">\n\
    nul \0 invalid \xff\xfe\xc3( reversed \xe2\x80\xae nonchar \xef\xbf\xbe {{ 7*7 }} {% raw %}\n\
    not ok 1 test <b>&\"' ::error::x # x\nKernel panic - not syncing: ::error::<script>alert(1)</script> %0A ]]>\n";

fn matrix(bench: &Bench, github: bool) -> Output {
    let config = format!(
        "[images]\nhostile = {{ image = {:?} }}\n\
         [[cells]]\nname = 'hostile'\nimage = 'hostile'\ncpu = ['cortex-a53', 'max']",
        bench.path("Image")
    );
    std::fs::write(bench.path("cells.toml"), config).unwrap();
    let mut command = Command::new(env!("CARGO_BIN_EXE_bootcheck"));
    command
        .args(["matrix", "--ktap", "--config"])
        .arg(bench.path("cells.toml"))
        .arg("--out")
        .arg(bench.path("out"))
        .env_remove("GITHUB_ACTIONS")
        .env("NO_COLOR", "1");
    if github {
        command.env("GITHUB_ACTIONS", "true");
    }
    command.output().unwrap()
}

fn hostile() -> Bench {
    Bench::with(Guest::default().print_bytes(HOSTILE).reset())
}

fn read(bench: &Bench, name: &str) -> String {
    std::fs::read_to_string(bench.path("out").join(name)).unwrap()
}

/// The lines that GitHub's runner takes for commands.
fn commands(log: &str) -> Vec<&str> {
    let is_command = |line: &&str| line.trim_start().starts_with("::") || line.contains("##[");
    log.lines().filter(is_command).collect()
}

#[test]
fn a_hostile_guest_is_obeyed_by_nobody() {
    let bench = hostile();
    let output = matrix(&bench, true);
    assert_eq!(status(&output), 1);
    let (stdout, stderr) = (text(&output.stdout), text(&output.stderr));
    for log in [&stdout, &stderr] {
        assert!(!log.contains(['\x1b', '\0', '\x07', '\u{202e}']), "{log:?}");
    }
    assert_eq!(commands(&stderr), [""; 0]);
    let annotations = commands(&stdout);
    assert_eq!(annotations.len(), 2, "one for each cell: {stdout}");
    for annotation in annotations {
        assert!(
            annotation.starts_with("::error title=boot hostile/"),
            "{annotation}"
        );
        assert!(annotation.contains("<script>alert(1)</script> %250A ]]>"));
    }
    // KTAP: what the guest printed makes no line of its own.
    assert_eq!(
        stdout
            .lines()
            .filter(|line| line.starts_with("not ok"))
            .count(),
        2
    );

    let html = read(&bench, "report.html");
    assert!(
        !html.contains("<script") && !html.contains("<img"),
        "{html}"
    );
    assert!(html.contains("&lt;script&gt;") && html.contains("{{ 7*7 }}"));
    assert!(!html.contains(['\x1b', '\0', '\x07', '\u{202e}', '\u{fffe}']));
    let xml = read(&bench, "junit.xml");
    assert!(!xml.contains(['\x1b', '\0', '\x07', '\u{202e}', '\u{fffe}']));
    assert_eq!(xml.matches("</system-out>").count(), 2);
}

#[test]
fn nor_is_one_whose_console_is_shown() {
    let bench = hostile();
    for options in [&[][..], &["-q"], &["--json", "-"]] {
        let mut boot = bench.command(options);
        let output = boot.env("GITHUB_ACTIONS", "true").output().unwrap();
        assert_eq!(commands(&text(&output.stderr)), [""; 0]);
        if options.is_empty() {
            assert_eq!(commands(&text(&output.stdout)), [""; 0]);
        }
    }
    let plain = bench.command(&[]).env_remove("GITHUB_ACTIONS").output();
    let shown = text(&plain.unwrap().stdout);
    assert!(
        !commands(&shown).is_empty(),
        "elsewhere it is as it is: {shown}"
    );
}

#[test]
fn without_github_there_are_no_commands() {
    let bench = hostile();
    let output = matrix(&bench, false);
    assert_eq!(commands(&text(&output.stdout)), [""; 0]);
    assert_eq!(commands(&text(&output.stderr)), [""; 0]);
}

/// The schema is the one that Jenkins checks with: https://github.com/jenkinsci/xunit-plugin
fn is_valid(xml: &std::path::Path) -> bool {
    let schema = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/junit-10.xsd");
    let output = Command::new("xmllint")
        .args(["--noout", "--schema"])
        .arg(schema)
        .arg(xml)
        .output()
        .expect("xmllint does not run: `make setup` installs it");
    println!("{}", text(&output.stderr));
    output.status.success()
}

#[test]
fn junit_is_valid_whatever_the_guest_prints() {
    let bench = hostile();
    matrix(&bench, false);
    assert!(is_valid(&bench.path("out/junit.xml")));
    let xml = read(&bench, "junit.xml");
    std::fs::write(
        bench.path("bad.xml"),
        xml.replace("<testcase ", "<testcases "),
    )
    .unwrap();
    assert!(
        !is_valid(&bench.path("bad.xml")),
        "the schema refuses nothing"
    );
}
