//! Self-tests of the booted kernel, reported in KTAP (Linux:
//! Documentation/dev-tools/ktap.rst).
//!
//! What should be is derived from the layout and from what the firmware said,
//! never read back from the tables under test.

use alloc::format;
use alloc::string::String;
use core::fmt;
use core::panic::Location;
use core::ptr;
use core::sync::atomic::{AtomicPtr, Ordering};

use platform::cmdline::glob_matches;
use platform::memblock::Memblock;
use platform::range::PhysRange;

use crate::boot::info::BootInfo;
use crate::console::raw_println;
use crate::fault;
use crate::mm::KernelTables;

mod edges;
mod expected;
mod heap;
mod noalloc;
mod protection;
mod random_steps;

/// What tests work on.
pub struct Context<'a> {
    boot: &'a BootInfo,
    tables: &'a mut KernelTables,
    before: BeforeProtect,
    /// What is left of RAM: after the early stage nobody takes any but the tests.
    memory: Memblock,
}

impl Context<'_> {
    /// Takes RAM that nobody uses, for good; the linear map shows it. The end of RAM
    /// if it can be had: the host gives a guest memory when it is first written to, 2 MiB
    /// at a time, and to the last page another test writes anyway.
    fn take_memory(&mut self, size_bytes: u64, align_bytes: u64) -> Option<PhysRange> {
        let reach = self.boot.linear.reach(self.boot.pa_bits);
        let end = self.memory.memory.as_slice().last()?.end.min(reach.end);
        let last = PhysRange {
            start: end.saturating_sub(size_bytes),
            end,
        };
        [last, reach]
            .into_iter()
            .find_map(|within| self.memory.allocate(size_bytes, align_bytes, within).ok())
    }
}

/// How a test ends, unless well.
enum End {
    /// It found something wrong.
    Failed(String),
    /// It cannot be run in this boot.
    Skipped(&'static str),
}

type TestResult = Result<(), End>;

struct Test {
    name: &'static str,
    run: fn(&mut Context<'_>) -> TestResult,
}

/// Fails a test unless a condition holds.
macro_rules! check {
    ($condition:expr, $($arg:tt)+) => {
        if !$condition {
            return Err($crate::selftest::failed(format_args!($($arg)+)));
        }
    };
}
use check;

/// Why a test failed, and where.
#[cold]
#[track_caller]
fn failed(why: fmt::Arguments<'_>) -> End {
    let place = Location::caller();
    End::Failed(format!("{why} ({}:{})", place.file(), place.line()))
}

/// Fails if `fault=FAIL_SELFTEST` asks for it.
const ON_PURPOSE: &[Test] = &[Test {
    name: "selftest.fail_on_purpose",
    run: |_| {
        check!(!fault::fail_selftest(), "fault=FAIL_SELFTEST"); // fault: FAIL_SELFTEST
        Ok(())
    },
}];

const TESTS: &[&[Test]] = &[
    edges::TESTS,
    protection::TESTS,
    noalloc::TESTS,
    heap::TESTS,
    ON_PURPOSE,
];

/// Tests that take longer than a boot should: each runs only if `selftest=` is its
/// name.
const ON_REQUEST: &[Test] = random_steps::TESTS;

/// What could be observed only before the protect stage.
pub struct BeforeProtect {
    text_alias_write: Result<(), protection::AliasError>,
}

/// Observes what the protect stage is about to end.
pub fn before_protect(boot: &BootInfo) -> BeforeProtect {
    BeforeProtect {
        text_alias_write: protection::write_text_through_alias(boot),
    }
}

/// Runs the tests that `selftest=` selects; returns whether none failed. Says nothing
/// if none was asked for.
pub fn run(boot: &BootInfo, tables: &mut KernelTables, before: BeforeProtect) -> bool {
    let glob = boot.options.selftest(&boot.firmware.bootargs);
    if glob.is_empty() {
        return true;
    }
    let mut context = Context {
        boot,
        tables,
        before,
        memory: boot.firmware.memblock,
    };
    let selected = || {
        TESTS
            .iter()
            .copied()
            .flatten()
            .filter(|test| glob_matches(glob, test.name))
            .chain(ON_REQUEST.iter().filter(|test| test.name == glob))
    };
    let count = selected().count();
    if count == 0 {
        log::warn!("selftest={glob}: no test has such a name, none is run");
    }
    raw_println!("KTAP version 1");
    raw_println!("1..{count}");
    let mut all_passed = true;
    for (number, test) in (1..).zip(selected()) {
        let name = test.name;
        RUNNING.store(ptr::from_ref(test).cast_mut(), Ordering::Relaxed);
        match (test.run)(&mut context) {
            Ok(()) => raw_println!("ok {number} {name}"),
            Err(End::Skipped(why)) => raw_println!("ok {number} {name} # SKIP {why}"),
            Err(End::Failed(why)) => {
                raw_println!("not ok {number} {name}");
                raw_println!("# {name}: {why}");
                all_passed = false;
            }
        }
    }
    RUNNING.store(ptr::null_mut(), Ordering::Relaxed);
    all_passed
}

/// The test that runs now; null for none.
static RUNNING: AtomicPtr<Test> = AtomicPtr::new(ptr::null_mut());

/// Name of the test that runs now, for reports.
pub fn running() -> Option<&'static str> {
    // SAFETY: null, or one of the tests in `TESTS`, which live for ever. Stored
    // and read at the kernel's virtual address only.
    let test = unsafe { RUNNING.load(Ordering::Relaxed).as_ref() };
    test.map(|test| test.name)
}
