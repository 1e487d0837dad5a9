//! `bootcheck boot`: build if asked, boot, tell.

use std::fs::File;
use std::io::{self, Write};
use std::path::Path;
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::Duration;

use anyhow::{Context, ensure};
use crossbeam_channel::{Receiver, RecvTimeoutError, Sender};

use crate::boot::{Outcome, boot};
use crate::build;
use crate::ci::{self, Tamer};
use crate::cli::BootArgs;
use crate::decode::Decoder;
use crate::escape::Escaper;
use crate::interrupt::{self, Interrupted};
use crate::output;
use crate::plan::{Plan, has_word};
use crate::report::Report;
use crate::symbols::Source;

/// How many lines of a hidden console are told after a failure.
const LAST_LINES: usize = 12;

/// Runs the command; the exit status.
///
/// # Errors
/// The tester itself failed: 129 (or [`Interrupted`]).
pub fn run(args: &BootArgs) -> anyhow::Result<u8> {
    ensure!(
        args.reboots == 0 || !has_word(args.guest.append.as_deref(), "exit=semihosting"),
        "--reboots needs a machine to reset, and exit=semihosting ends QEMU"
    );
    let json_on_stdout = args.json.as_deref() == Some(Path::new(output::STDOUT));
    let mut raw = match &args.console {
        Some(path) => {
            Some(File::create(path).with_context(|| format!("cannot write {}", path.display()))?)
        }
        None => None,
    };
    // The build makes the ELF, too.
    let built = match &args.build {
        Some(command) => build(args, command)?,
        None => Ok(()),
    };
    let source = Source::for_image(args.elf(), &args.guest.image).map(Arc::new);
    let decoder = source
        .as_ref()
        .filter(|_| !args.no_decode)
        .map(|source| Decoder::new(Arc::clone(source)));
    let mut live = match (args.hide_console, json_on_stdout) {
        (true, _) => None,
        (false, true) => Some(Live::start(io::stderr(), decoder)),
        (false, false) => Some(Live::start(io::stdout(), decoder)),
    };
    let mut raw_result = Ok(());
    let mut on_console = |bytes: &[u8]| {
        if let Some(live) = &live {
            live.show(bytes);
        }
        if let (Some(raw), Ok(())) = (&mut raw, &raw_result) {
            raw_result = raw.write_all(bytes);
        }
    };
    let outcome = match built {
        Ok(()) => boot_repeatedly(args, source.as_ref(), &mut on_console)?,
        Err(reason) => Outcome::unbootable(reason),
    };
    if let Some(live) = live.take() {
        live.finish()?;
    }
    let report = Report::new(&outcome, source.as_deref());
    let last_lines = match (&report.recorded_console, &outcome.console) {
        // The end was not printed, but the kernel kept what it said.
        (Some(recorded), _) => {
            let text = crate::escape::escape(recorded.as_bytes());
            let lines: Vec<String> = text.lines().map(str::to_owned).collect();
            lines[lines.len().saturating_sub(LAST_LINES)..].to_vec()
        }
        (None, Some(console)) if args.hide_console => console.last_lines(LAST_LINES),
        _ => Vec::new(),
    };
    report.print(&last_lines);
    // What cannot be written does not hide the verdict.
    if let Some(path) = &args.json {
        match json_on_stdout {
            true => output::write_result(path, &(serde_json::to_string(&report)? + "\n"))?,
            false => output::write_json(path, &report)?,
        }
    }
    raw_result.context("cannot write the console's file")?;
    Ok(report.verdict.exit_status(args.expect))
}

/// One boot without a console to show, as planned unless the image cannot boot: what matrices and
/// bisections are made of.
///
/// # Errors
/// [`Interrupted`], with QEMU gone.
pub fn boot_unseen(plan: Result<Plan, String>) -> Result<Report, Interrupted> {
    Ok(match plan {
        Ok(plan) => Report::new(&boot(&plan, &mut |_| {})?, plan.source.as_deref()),
        Err(reason) => Report::new(&Outcome::unbootable(reason), None),
    })
}

/// Boots up to `--repeat` times, until a verdict is not the expected one; the last outcome.
fn boot_repeatedly(
    args: &BootArgs,
    source: Option<&Arc<Source>>,
    on_console: &mut dyn FnMut(&[u8]),
) -> anyhow::Result<Outcome> {
    let mut plan = match args.plan() {
        Ok(plan) => plan,
        Err(reason) => return Ok(Outcome::unbootable(reason)),
    };
    plan.source = source.cloned();
    let mut outcome = boot(&plan, on_console)?;
    for _ in 1..args.repeat {
        if outcome.judgement.verdict != args.expect {
            break;
        }
        outcome = boot(&plan, on_console)?;
    }
    Ok(outcome)
}

/// Runs the build. Of the inner result: why this revision cannot be judged.
fn build(args: &BootArgs, command: &str) -> anyhow::Result<Result<(), String>> {
    let image = &args.guest.image;
    let elf = args
        .elf()
        .unwrap_or_else(|| image.with_file_name("kernel.elf"));
    let outputs = [image.as_path(), elf.as_path()];
    // Its output is for people: standard output is the guest's, or the JSON.
    let mut shell = build::shell(command);
    let built = build::run(shell.stdout(io::stderr()), &outputs, None)?;
    Ok(built.map_err(|not_built| format!("{}: {command}", not_built.reason)))
}

/// Shows the console as it comes, from a thread of its own: a pager that stands still must not
/// stop the watch over the guest.
struct Live {
    pieces: Sender<Vec<u8>>,
    done: Receiver<()>,
    writer: JoinHandle<()>,
}

impl Live {
    fn start(out: impl Write + Send + 'static, decoder: Option<Decoder>) -> Self {
        let (pieces, received) = crossbeam_channel::unbounded::<Vec<u8>>();
        let (finished, done) = crossbeam_channel::bounded(1);
        let writer = std::thread::spawn(move || {
            // Whoever closes the pipe does not want to read on; the verdict stands all the same.
            let _ = show(&received, decoder, out);
            let _ = finished.send(());
        });
        Self {
            pieces,
            done,
            writer,
        }
    }

    fn show(&self, bytes: &[u8]) {
        let _ = self.pieces.send(bytes.to_vec());
    }

    /// Waits until everything is shown.
    fn finish(self) -> Result<(), Interrupted> {
        drop(self.pieces);
        while let Err(RecvTimeoutError::Timeout) = self.done.recv_timeout(Duration::from_millis(50))
        {
            interrupt::check()?;
        }
        let _ = self.writer.join();
        Ok(())
    }
}

fn show(
    pieces: &Receiver<Vec<u8>>,
    mut decoder: Option<Decoder>,
    mut out: impl Write,
) -> io::Result<()> {
    let mut escaper = Escaper::default();
    let mut tamer = ci::is_reading().then(Tamer::default);
    let mut text = String::new();
    let mut decoded = Vec::new();
    let mut ends_line = true;
    let mut write = |text: &str, is_last: bool| {
        decoded.clear();
        match &mut decoder {
            Some(decoder) => decoder.push(text.as_bytes(), &mut decoded),
            None => decoded.extend(text.as_bytes()),
        }
        if let Some(last) = decoded.last() {
            ends_line = *last == b'\n';
        }
        if is_last && !ends_line {
            if let Some(decoder) = &mut decoder {
                decoder.finish(&mut decoded);
            }
            decoded.push(b'\n');
        }
        if let Some(tamer) = &mut tamer {
            let mut tamed = String::new();
            tamer.push(&String::from_utf8_lossy(&decoded), &mut tamed);
            decoded = tamed.into_bytes();
        }
        out.write_all(&decoded)?;
        out.flush()
    };
    for piece in pieces {
        text.clear();
        escaper.push(&piece, &mut text);
        write(&text, false)?;
    }
    text.clear();
    escaper.finish(&mut text);
    write(&text, true)
}
