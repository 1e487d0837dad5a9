use super::*;
use std::string::{String, ToString};
use std::vec::Vec;

struct Parsed {
    line: CommandLine,
    options: Options,
    ignored: Vec<String>,
}

fn parsed(line: &str) -> Parsed {
    let line = CommandLine::new(line);
    let mut ignored = Vec::new();
    let options = parse(&line, &mut |word| ignored.push(word.to_string()));
    Parsed {
        options,
        ignored,
        line,
    }
}

impl Parsed {
    fn selftest(&self) -> &str {
        self.options.selftest(&self.line)
    }

    fn fault(&self) -> Option<Fault<'_>> {
        self.options.fault(&self.line)
    }
}

#[test]
fn a_line_of_utf_16_is_the_same_line() {
    let of = |text: &str| CommandLine::from_utf16(text.encode_utf16());
    let options = "loglevel=4 fault=PANIC@heap";
    assert_eq!(of(options).as_str(), options);
    assert_eq!(of("nokaslr \n").as_str(), "nokaslr");
    assert_eq!(of("ü=\u{1f980}\0x").as_str(), "ü=\u{1f980}");
    // Half of a pair, and what would steer a terminal.
    let broken = [0x61, 0xd83e, 0x62, 0x1b, 0xdd80, 0x63];
    let line = CommandLine::from_utf16(broken.into_iter());
    assert_eq!(line.as_str(), "a?b??c");
    let long = of(&"word ".repeat(COMMAND_LINE_SIZE));
    assert!(long.is_cut() && long.as_str().ends_with("word"));
    assert_eq!(of("").as_str(), "");
}

#[test]
fn every_option_is_read() {
    let parsed = parsed(
        " loglevel=8 linear=page\trodata=full nokaslr selftest=mmu.* selftest.seed=7 exit=halt \
         earlycon=pl011,0x9000000 ptdump\n",
    );
    let o = parsed.options;
    assert!(parsed.ignored.is_empty(), "{:?}", parsed.ignored);
    assert_eq!(o.log_level, LevelFilter::Debug);
    assert_eq!(
        (o.linear, o.rodata, o.exit),
        (LinearMode::Page, RodataMode::Full, ExitMode::Halt)
    );
    assert_eq!(
        (parsed.selftest(), o.selftest_seed, o.earlycon, o.ptdump),
        ("mmu.*", 7, Some(0x900_0000), true)
    );
}

#[test]
fn faults_have_a_name_and_a_stage() {
    assert_eq!(parsed("").fault(), None);
    for (line, name, stage, once) in [
        ("fault=BUG", "BUG", "selftest", false),
        ("x fault=BUG@fdt y", "BUG", "fdt", false),
        ("fault=BUG@fdt,once", "BUG", "fdt", true),
        ("fault=BUG,once", "BUG", "selftest", true),
        ("fault=BUG@fdt,twice", "BUG", "fdt,twice", false),
    ] {
        let fault = Fault { name, stage, once };
        assert_eq!(parsed(line).fault(), Some(fault), "{line}");
    }
    assert_eq!(
        parsed("fault=").ignored,
        [Ignored::BadValue("fault=").to_string()]
    );
}

#[test]
fn what_is_kept_of_the_line_survives_a_move_of_it() {
    let Parsed { line, options, .. } = parsed("selftest=heap.* fault=BUG@fdt");
    let mut moved = [line, CommandLine::EMPTY];
    moved.swap(0, 1);
    assert_eq!(options.selftest(&moved[1]), "heap.*");
    assert_eq!(options.fault(&moved[1]).unwrap().stage, "fdt");
    // Of another line nothing is said, and nothing panics.
    assert_eq!(options.selftest(&moved[0]), "");
}

#[test]
fn the_last_word_wins() {
    assert_eq!(
        parsed("rodata=off rodata=on").options.rodata,
        RodataMode::On
    );
    assert_eq!(parsed("selftest=none selftest=all").selftest(), "*");
    assert_eq!(parsed("selftest=a selftest=none").selftest(), "");
}

#[test]
fn what_cannot_be_used_is_told_and_changes_nothing() {
    let line = "quiet loglevel=9 loglevel linear=huge exit earlycon=uart,1 selftest= \
                selftest.seed=x ptdump=1";
    let parsed = parsed(line);
    assert_eq!(parsed.ignored.len(), 9);
    assert_eq!(parsed.ignored[0], Ignored::UnknownWord("quiet").to_string());
    assert!(
        parsed.ignored[1..]
            .iter()
            .all(|why| why.ends_with("default kept"))
    );
    let o = parsed.options;
    assert_eq!(o.log_level, LevelFilter::Info);
    assert_eq!(
        (o.earlycon, o.ptdump, parsed.selftest()),
        (None, false, "*")
    );
}

#[test]
fn log_levels_are_linux_numbers() {
    let levels: Vec<_> = (0..=8)
        .map(|n| parsed(&std::format!("loglevel={n}")).options.log_level as u8)
        .collect();
    assert_eq!(levels, [0, 0, 0, 0, 1, 2, 2, 3, 4]);
}

#[test]
fn globs() {
    for (glob, name, matches) in [
        ("*", "", true),
        ("*", "x", true),
        ("", "x", false),
        ("mmu.*", "mmu.edges", true),
        ("mmu.*", "heap.alloc", false),
        ("*edges*", "mmu.edges", true),
        ("*edges*", "mmu.edges.all", true),
        ("m*u*s", "mmu.edges", true),
        ("m*u*x", "mmu.edges", false),
        ("**", "x", true),
        ("a*a", "a", false),
    ] {
        assert_eq!(glob_matches(glob, name), matches, "{glob} {name}");
    }
}
