//! Hostile device trees: the kernel boots with each, or says clearly why not.
//!
//! These tests need the kernel, so they run only when asked for:
//! `cargo test -p bootcheck --test dtbs -- --ignored`. `DTB_MUTANTS` says how many trees (100),
//! `KERNEL_IMAGE` names another kernel than `target/kernel/Image`.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};

use bootcheck::boot::boot;
use bootcheck::cli::{Cli, Command};
use bootcheck::report::Report;
use bootcheck::verdict::Verdict;
use clap::Parser;

/// Where the tree lies, and the code that enters the kernel with its address in x0.
const TREE: u64 = 0x4600_0000;
const STUB: u64 = 0x4700_0000;
/// Where QEMU puts the Image.
const KERNEL: u64 = 0x4020_0000;

/// QEMU's own tree, as the kernel's host tests have it.
const VIRT: &[u8] = include_bytes!("../../../kernel/src/platform/fdt/virt.dtb");

/// Words that are likely to be somebody's limit.
const NASTY: [u32; 8] = [
    0,
    1,
    3,
    0x7fff_ffff,
    0x8000_0000,
    0xffff_fff8,
    0xffff_ffff,
    0x4020_0000,
];

/// A mutant: a few bits flipped, words replaced, or the end missing.
fn mutant(seed: u64) -> Vec<u8> {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let mut random = |below: usize| {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state as usize % below
    };
    let mut tree = VIRT.to_vec();
    for _ in 0..1 + random(4) {
        match random(4) {
            0 | 1 => {
                let at = random(tree.len());
                tree[at] ^= 1 << random(8);
            }
            2 => {
                let at = random(tree.len() / 4) * 4;
                tree[at..at + 4].copy_from_slice(&NASTY[random(NASTY.len())].to_be_bytes());
            }
            _ => {
                let from = random(tree.len());
                tree[from..].fill(0);
            }
        }
    }
    tree
}

/// `ldr x0, =tree; ldr x1, =KERNEL; br x1`
fn stub(tree: u64) -> Vec<u8> {
    let code = [0x5800_0080_u32, 0x5800_00a1, 0xd61f_0020, 0xd503_201f];
    let mut bytes: Vec<u8> = code.iter().flat_map(|word| word.to_le_bytes()).collect();
    bytes.extend(tree.to_le_bytes());
    bytes.extend(KERNEL.to_le_bytes());
    bytes
}

/// Boots with this tree at `place`; `name` is of the files for it.
fn report(image: &Path, directory: &Path, name: &str, bytes: &[u8], place: u64) -> Report {
    let tree = directory.join(format!("{name}.dtb"));
    let code = directory.join(format!("{name}.bin"));
    std::fs::write(&tree, bytes).unwrap();
    std::fs::write(&code, stub(place)).unwrap();
    let mut arguments = vec!["bootcheck".to_owned(), "boot".to_owned()];
    arguments.extend(["--image".to_owned(), image.display().to_string()]);
    arguments.extend(["--timeout".to_owned(), "20".to_owned()]);
    for device in [
        format!(
            "loader,file={},addr={place:#x},force-raw=on",
            tree.display()
        ),
        format!("loader,file={},addr={STUB:#x},force-raw=on", code.display()),
        format!("loader,addr={STUB:#x},cpu-num=0"),
    ] {
        arguments.extend([
            "--qemu-arg=-device".to_owned(),
            format!("--qemu-arg={device}"),
        ]);
    }
    let Command::Boot(args) = Cli::parse_from(arguments).command else {
        unreachable!("the command is boot");
    };
    let outcome = boot(&args.plan().unwrap(), &mut |_| {}).unwrap();
    for file in [tree, code] {
        std::fs::remove_file(file).unwrap();
    }
    Report::new(&outcome, None)
}

/// What became of a boot, or what is wrong with that.
fn judge(report: &Report) -> Result<&'static str, String> {
    let console = report.console.as_deref().unwrap_or_default();
    let message = report.message.as_deref().unwrap_or_default();
    match report.verdict {
        Verdict::Pass => Ok("pass"),
        // Without a PSCI node there is no way to switch off.
        Verdict::Hang if report.said_pass => Ok("pass, then parked"),
        Verdict::Panic if !message.is_empty() => Ok("panic that says why"),
        // Without a UART node nobody can say PASS; the black box has no failure to tell.
        Verdict::Off | Verdict::Hang if report.silent == Some(true) => Ok("no console"),
        Verdict::Exception if console.contains("though the device tree declares RAM there") => {
            Ok("abort that names the bank")
        }
        verdict => Err(format!(
            "{verdict:?} in {:?}: {message}\n{console}",
            report.stage
        )),
    }
}

fn kernel() -> PathBuf {
    let default = || Path::new(env!("CARGO_MANIFEST_DIR")).join("../../target/kernel/Image");
    let image = std::env::var_os("KERNEL_IMAGE").map_or_else(default, PathBuf::from);
    assert!(
        image.exists(),
        "there is no kernel {}: `make image` builds it",
        image.display()
    );
    image
}

/// QEMU's tree with `/memreserve/` entries: start and size in bytes.
fn with_reservations(ranges: &[(u64, u64)]) -> Vec<u8> {
    // Words of the header, at these offsets: totalsize, off_dt_struct, off_dt_strings; and
    // off_mem_rsvmap, where the block begins that comes before all other.
    const MOVED: [usize; 3] = [4, 8, 12];
    const OFF_MEM_RSVMAP: usize = 16;
    let word = |at: usize| u32::from_be_bytes(VIRT[at..at + 4].try_into().unwrap());
    let entries = ranges.iter().flat_map(|(start, size)| [start, size]);
    let entries: Vec<u8> = entries.flat_map(|word| word.to_be_bytes()).collect();
    let mut tree = VIRT.to_vec();
    for at in MOVED {
        let moved = word(at) + entries.len() as u32;
        tree[at..at + 4].copy_from_slice(&moved.to_be_bytes());
    }
    let block = word(OFF_MEM_RSVMAP) as usize;
    tree.splice(block..block, entries);
    tree
}

fn boot_with(tree: &Path, options: &[&str]) -> Report {
    let (image, tree) = (kernel(), tree.display().to_string());
    let words = ["bootcheck", "boot", "--dtb", &tree, "--image"];
    let words = words.into_iter().chain(image.to_str());
    let Command::Boot(args) = Cli::parse_from(words.chain(options.iter().copied())).command else {
        unreachable!("the command is boot");
    };
    Report::new(&boot(&args.plan().unwrap(), &mut |_| {}).unwrap(), None)
}

/// A good boot that nobody can hear is not taken for one without a word.
#[test]
#[ignore = "needs the kernel: `make image`"]
fn a_tree_without_a_uart_is_told() {
    let uart = VIRT.windows(9).position(|bytes| bytes == b"arm,pl011");
    let mut deaf = VIRT.to_vec();
    deaf[uart.unwrap()] = b'x';
    let directory = tempfile::tempdir().unwrap();
    let tree = directory.path().join("tree.dtb");
    std::fs::write(&tree, deaf).unwrap();
    let report = boot_with(&tree, &[]);
    assert_eq!((report.verdict, report.silent), (Verdict::Off, Some(true)));
    assert_eq!((report.tests.failed, report.tests.passed > 0), (0, true));
    let message = report.message.unwrap_or_default();
    assert!(
        message.contains("the boot passed by its black box"),
        "{message}"
    );
    assert!(message.contains("earlycon=pl011,ADDR"), "{message}");
    let report = boot_with(&tree, &["--append", "earlycon=pl011,0x9000000"]);
    assert_eq!(report.verdict, Verdict::Pass);
}

/// What QEMU's `dumpdtb` writes is padded to 1 MiB, and QEMU makes more than twice as much of it.
#[test]
#[ignore = "needs the kernel: `make image`"]
fn a_tree_dumped_by_qemu_is_taken() {
    const DUMPED: usize = 1 << 20;
    let mut dumped = VIRT.to_vec();
    dumped.resize(DUMPED, 0);
    dumped[4..8].copy_from_slice(&(DUMPED as u32).to_be_bytes());
    let directory = tempfile::tempdir().unwrap();
    let tree = directory.path().join("tree.dtb");
    std::fs::write(&tree, dumped).unwrap();
    let report = boot_with(&tree, &[]);
    let message = report.message.unwrap_or_default();
    assert_eq!(report.verdict, Verdict::Pass, "{message}");
}

/// 512 MiB, of which 512 KiB in every 8 MiB are free: a linear map of pages takes 1 MiB of tables.
#[test]
#[ignore = "needs the kernel: `make image`"]
fn tables_are_taken_from_ram_in_pieces() {
    let bank = (0x4000_0000_u64..0x6000_0000).step_by(8 << 20);
    let taken: Vec<_> = bank
        .map(|start| (start + (512 << 10), (8 << 20) - (512 << 10)))
        .collect();
    let directory = tempfile::tempdir().unwrap();
    let tree = directory.path().join("tree.dtb");
    std::fs::write(&tree, with_reservations(&taken)).unwrap();
    let report = boot_with(&tree, &["--mem", "512M", "--append", "linear=page"]);
    let console = report.console.unwrap_or_default();
    assert_eq!(report.verdict, Verdict::Pass, "{console}");
}

/// The header is in RAM, and the end, according to it, is not.
#[test]
#[ignore = "needs the kernel: `make image`"]
fn a_tree_that_leaves_ram_is_refused() {
    const LAST_PAGE: u64 = 0x47ff_f000;
    let directory = tempfile::tempdir().unwrap();
    assert!(VIRT.len() > 4096);
    let report = report(&kernel(), directory.path(), "tree", VIRT, LAST_PAGE);
    let message = report.message.unwrap_or_default();
    assert_eq!(report.verdict, Verdict::Panic, "{message}");
    assert!(message.contains("reading it aborts"), "{message}");
}

#[test]
#[ignore = "needs the kernel: `make image`"]
fn every_mutated_tree_boots_or_is_refused_clearly() {
    let image = kernel();
    let count = std::env::var("DTB_MUTANTS").map_or(100, |count| count.parse().unwrap());
    let directory = tempfile::tempdir().unwrap();
    let next = AtomicU64::new(0);
    let results = Mutex::new((BTreeMap::<&str, usize>::new(), Vec::new()));
    let jobs = std::thread::available_parallelism().map_or(1, usize::from);
    std::thread::scope(|scope| {
        for _ in 0..jobs {
            scope.spawn(|| {
                loop {
                    let seed = next.fetch_add(1, Ordering::Relaxed);
                    if seed >= count {
                        break;
                    }
                    let (name, tree) = (seed.to_string(), mutant(seed));
                    let report = report(&image, directory.path(), &name, &tree, TREE);
                    let (kinds, wrong) = &mut *results.lock().unwrap();
                    match judge(&report) {
                        Ok(kind) => *kinds.entry(kind).or_default() += 1,
                        Err(what) => wrong.push(format!("mutant {seed}: {what}")),
                    }
                }
            });
        }
    });
    let (kinds, wrong) = results.into_inner().unwrap();
    println!("{count} mutants: {kinds:?}");
    assert!(
        wrong.is_empty(),
        "{} of {count}:\n{}",
        wrong.len(),
        wrong.join("\n")
    );
    assert!(kinds.len() > 1, "all came to the same end: {kinds:?}");
}
