use super::*;
use crate::verdict::Verdict;

const HEAD: &str = r#"
    [images]
    release = { image = "Image", elf = "kernel.elf" }
    debug = { image = "debug/Image" }
    [machines]
    el2 = "virt,virtualization=on"
    [defaults]
    image = "release"
    cpu = "cortex-a72"
"#;

fn cells(text: &str) -> anyhow::Result<Vec<Cell>> {
    read(&format!("{HEAD}{text}"), &["qemu".into()], Path::new("out"))
}

fn names(text: &str) -> Vec<String> {
    cells(text)
        .unwrap()
        .into_iter()
        .map(|cell| cell.name)
        .collect()
}

fn options(row: &str) -> String {
    cells(&format!("[[cells]]\nname = 'x'\n{row}")).unwrap()[0]
        .options
        .join(" ")
}

#[test]
fn an_array_makes_a_cell_of_each_value() {
    let row = "[[cells]]\nname = 'cpu'\ncpu = ['cortex-a53', 'max']";
    assert_eq!(names(row), ["cpu/cortex-a53", "cpu/max"]);
    let row = "[[cells]]\nname = 'm'\nsmp = [1, 4]\nmem = ['64M', '1G']\nappend = 'x y'";
    assert_eq!(names(row), ["m/1 64M", "m/1 1G", "m/4 64M", "m/4 1G"]);
    assert_eq!(names("[[cells]]\nname = 'plain'\nmem = '64M'"), ["plain"]);
    let row = "[[cells]]\nname = 'a'\nappend = ['', 'linear=page']";
    assert_eq!(names(row), ["a/none", "a/linear=page"]);
}

#[test]
fn a_cell_is_options_of_boot() {
    let row = "[[cells]]\nname = 'x'\nmem = '1G'\nappend = 'a b'\nexpect = 'panic'\nform = 'elf'";
    let cell = &cells(row).unwrap()[0];
    assert_eq!(
        cell.options.join(" "),
        "--image kernel.elf --mem 1G --cpu cortex-a72 --append a b --expect panic --qemu qemu"
    );
    assert_eq!(cell.args.guest.mem, Some(Size(1 << 30)));
    assert_eq!(cell.expect.verdict, Verdict::Panic);
    assert_eq!(
        cell.args.guest.cpu.as_deref(),
        Some("cortex-a72"),
        "from the defaults"
    );
    assert_eq!(
        options("cpu = ''\nicount = true"),
        "--image Image --elf kernel.elf --icount --qemu qemu"
    );
    assert!(options("machine = 'el2'").contains("--machine virt,virtualization=on "));
    assert!(options("machine = 'raspi3b'").contains("--machine raspi3b "));
}

#[test]
fn files_that_a_cell_needs_are_made_for_it() {
    let row = "[[cells]]\nname = 'x'\nform = 'gzip'\ninitrd = '1M'";
    let cell = &cells(row).unwrap()[0];
    let gzip = MadeFile::Gzip("Image".into(), "out/release.gz".into());
    let initrd = MadeFile::Initrd(Size(1 << 20), "out/initrd-1M".into());
    assert_eq!(cell.makes, [gzip, initrd]);
    assert!(
        cell.options
            .join(" ")
            .starts_with("--image out/release.gz --elf kernel.elf --initrd out/initrd-1M ")
    );
}

#[test]
fn a_catalogue_makes_a_cell_of_each_fault_that_can_be() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("faults.toml");
    let faults = "[BUG]\nsummary = ''\nverdict = 'panic'\n\
        [EXEC]\nsummary = ''\nverdict = 'exception'\nec = 0x21\n\
        [[EXEC.except]]\nstages = ['fdt']\ncannot = 'the MMU is off'\n\
        [WARN]\nsummary = ''\nverdict = 'pass'";
    std::fs::write(&path, faults).unwrap();
    let row = format!(
        "[[cells]]\nname = 'f'\nfaults = {path:?}\nstage = ['fdt', 'heap']\nappend = 'loglevel=4'"
    );
    let cells = cells(&row).unwrap();
    let names: Vec<_> = cells.iter().map(|cell| cell.name.as_str()).collect();
    assert_eq!(
        names,
        [
            "f/BUG fdt",
            "f/BUG heap",
            "f/EXEC heap",
            "f/WARN fdt",
            "f/WARN heap"
        ]
    );
    let exec = &cells[2];
    assert_eq!(
        exec.args.guest.append.as_deref(),
        Some("fault=EXEC@heap loglevel=4")
    );
    assert_eq!(
        (
            exec.expect.verdict,
            exec.expect.stage.as_deref(),
            exec.expect.ec
        ),
        (Verdict::Exception, Some("heap"), Some(0x21))
    );
    assert_eq!(cells[4].expect.stage.as_deref(), Some("done"));
}

#[test]
fn exclusions_take_cells_from_every_row() {
    let rows = "[[cells]]\nname = 'a'\ncpu = ['cortex-a53', 'cortex-a57', 'max']\nsmp = [1, 2]\n\
        [[cells]]\nname = 'b'\ncpu = ['cortex-a53', 'max']\n\
        [[exclude]]\nwhy = 'w'\ncpu = 'cortex-a5*'\nsmp = 2\n\
        [[exclude]]\nwhy = 'w'\nname = 'b'\ncpu = ['max', 'none']";
    assert_eq!(
        names(rows),
        [
            "a/cortex-a53 1",
            "a/cortex-a57 1",
            "a/max 1",
            "a/max 2",
            "b/cortex-a53"
        ]
    );
}

#[test]
fn several_qemus_make_cells_of_their_own() {
    let text = format!("{HEAD}[[cells]]\nname = 'x'");
    let cells = read(&text, &["a".into(), "b".into()], Path::new("out")).unwrap();
    let names: Vec<_> = cells.iter().map(|cell| cell.name.as_str()).collect();
    assert_eq!(names, ["x on a", "x on b"]);
}

#[test]
fn mistakes_are_named() {
    for (row, complaint) in [
        (
            "[[cells]]\nname = 'y'\n\n[[cells]]\nname = 'x'\ncpus = 'max'",
            "line 13: cell x: unexpected argument '--cpus' found; a similar argument exists: '--cpu'",
        ),
        (
            "[[cells]]\ncpu = 'max'",
            "the cells of line 10 have no name",
        ),
        ("[[cells]]\nname = 'x'\nimage = 'beta'", "beta"),
        ("[[cells]]\nname = 'x'\nmem = 'lots'", "lots"),
        ("[[cells]]\nname = 'x'\nexpect = 'win'", "win"),
        ("[[cells]]\nname = 'x'\nform = 'tar'", "tar"),
        ("[[cells]]\nname = 'x'\njson = '-'", "json is no key"),
        (
            "[[cells]]\nname = 'x'\nimage = 'debug'\nform = 'elf'",
            "no elf",
        ),
        (
            "[[cells]]\nname = 'x'\ncpu = 1.5",
            "cpu: wanted a string, number or boolean",
        ),
        ("[[cells]]\nname = 'x'\n[[cells]]\nname = 'x'", "two cells"),
        (
            "[[cells]]\nname = 'x'\nfaults = '/nonexistent'",
            "/nonexistent",
        ),
        (
            "[[cells]]\nname = 'x'\n[[exclude]]\nwhy = 'typo'\ncpu = 'maxx'",
            "\"typo\" excludes no cell",
        ),
        (
            "[[cells]]\nname = 'x'\n[[exclude]]\ncpu = 'max'",
            "does not say why",
        ),
        (
            "[[cells]]\nname = 'x'\n[[exclude]]\nwhy = 'all'",
            "names no cells",
        ),
        ("[cell]\nname = 'x'", "unknown field `cell`"),
    ] {
        let error = format!("{:#}", cells(row).unwrap_err());
        assert!(error.contains(complaint), "{error:?} lacks {complaint:?}");
    }
}
