//! A QEMU that has loaded the guest and waits for `cont`.

use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::process::{Command, ExitStatus, Stdio};
use std::time::Duration;

use crossbeam_channel::{Receiver, Sender};
use serde_json::json;

use crate::exceptions::ExceptionLog;
use crate::gdbstub::GdbStub;
use crate::interrupt::Interrupted;
use crate::plan::{Plan, Wiring};
use crate::process::Tethered;
use crate::qmp::{self, Qmp};
use crate::stream::{Sink, Stream};

/// How long QEMU may take to end once told to. It takes milliseconds.
const LAST_PATIENCE: Duration = Duration::from_secs(10);

/// The most of QEMU's own messages that is kept.
const KEPT_MESSAGES: usize = 64 << 10;

/// A running QEMU.
#[derive(Debug)]
pub struct Qemu {
    process: Tethered,
    said: Option<Stream<Said>>,
    /// Its control channel.
    pub qmp: Qmp,
    /// What the guest prints, piece by piece; disconnected once QEMU is gone. Unbounded, so that
    /// the guest never waits for us: it runs for a bounded time.
    pub console: Receiver<Vec<u8>>,
    /// Its version.
    pub version: String,
    /// The thread that runs the guest's first CPU.
    pub cpu_thread: u64,
    /// How many CPUs the machine has.
    pub cpus: usize,
    printed: Stream<ConsoleSink>,
    gdb: Option<GdbStub>,
}

/// What the guest prints, passed on piece by piece.
#[derive(Debug)]
struct ConsoleSink(Option<Sender<Vec<u8>>>);

/// What QEMU writes to its standard error: its log of exceptions, and its own messages, of which
/// the first ones are kept.
#[derive(Debug, Default)]
struct Said {
    line: Vec<u8>,
    kept: Vec<u8>,
    exceptions: ExceptionLog,
}

/// How a QEMU ended.
#[derive(Debug)]
pub struct Exit {
    /// Its exit status; `None` if it had to be killed.
    pub status: Option<ExitStatus>,
    /// What it wrote to its standard error.
    pub messages: String,
}

/// What a QEMU before 6.0 says to an option that it does not have, the newest that is always used.
const TOO_OLD: &str = "-action: invalid option";

/// Why there is no QEMU.
#[derive(Debug)]
pub enum StartError {
    /// It could not start, or refused this machine.
    Failed(String),
    /// The user does not want it any more.
    Interrupted,
}

impl From<Interrupted> for StartError {
    fn from(_: Interrupted) -> Self {
        Self::Interrupted
    }
}

impl Qemu {
    /// Starts QEMU for `plan`, with its loader's files in `files`; the guest has not executed
    /// anything yet.
    ///
    /// # Errors
    /// [`StartError`]
    pub fn start(plan: &Plan, files: &Path) -> Result<Self, StartError> {
        let mut qemu = Self::spawn(plan, files)
            .map_err(|error| StartError::Failed(explain_spawn(&plan.qemu, &error)))?;
        match qemu.come_up() {
            Ok(()) => Ok(qemu),
            Err(qmp::Error::Interrupted) => Err(StartError::Interrupted),
            Err(error) => {
                if matches!(error, qmp::Error::Silent(_)) {
                    qemu.process.kill();
                }
                let exit = qemu.end();
                let reason = match (error, exit.status) {
                    (qmp::Error::Closed, _) if exit.messages.contains(TOO_OLD) => {
                        format!("{}; QEMU 6.0 or later is needed", exit.messages)
                    }
                    (qmp::Error::Closed, _) if !exit.messages.is_empty() => exit.messages,
                    (qmp::Error::Closed, Some(status)) => {
                        let program = plan.qemu.display();
                        format!("{program} ended without a word ({status}); is that a QEMU?")
                    }
                    (error, _) if exit.messages.is_empty() => error.to_string(),
                    // What it had to say before is no reason: a deprecated machine, and the like.
                    (error, _) => format!("{error}\n{}", exit.messages),
                };
                Err(StartError::Failed(format!("QEMU did not start: {reason}")))
            }
        }
    }

    fn spawn(plan: &Plan, files: &Path) -> io::Result<Self> {
        let (qmp_ours, qmp_theirs) = UnixStream::pair()?;
        let (console_ours, console_theirs) = io::pipe()?;
        let mut command = Command::new(&plan.qemu);
        command
            .args(plan.arguments(Wiring::Tester(files)))
            .stdin(OwnedFd::from(qmp_theirs))
            .stdout(OwnedFd::from(console_theirs))
            .stderr(Stdio::piped());
        let mut process = Tethered::spawn(&mut command)?;
        // With it go our copies of QEMU's ends; else its death would not close the channels.
        drop(command);

        let said = match process.child().stderr.take() {
            Some(stderr) => Some(Stream::start(stderr, Said::default())?),
            None => None,
        };
        let (sender, console) = crossbeam_channel::unbounded();
        let printed = Stream::start(console_ours, ConsoleSink(Some(sender)))?;
        Ok(Self {
            process,
            said,
            qmp: Qmp::new(qmp_ours, plan.patience)?,
            console,
            version: String::new(),
            cpu_thread: 0,
            cpus: 0,
            printed,
            gdb: None,
        })
    }

    fn come_up(&mut self) -> Result<(), qmp::Error> {
        self.version = self.qmp.greet()?;
        let cpus = self.qmp.execute("query-cpus-fast", json!({}))?;
        self.cpus = cpus.as_array().map_or(0, Vec::len);
        self.cpu_thread = cpus[0]["thread-id"].as_u64().unwrap_or(0);
        self.refuse_32_bit_cpu(cpus[0]["qom-path"].as_str().unwrap_or_default())
    }

    /// A 64-bit image on a 32-bit CPU is silent, and `virt`'s default CPU is one. Only 64-bit CPU
    /// models have the property `aarch64`.
    fn refuse_32_bit_cpu(&mut self, path: &str) -> Result<(), qmp::Error> {
        let mut get = |property| {
            self.qmp
                .execute("qom-get", json!({ "path": path, "property": property }))
        };
        match get("aarch64") {
            Ok(serde_json::Value::Bool(true)) => Ok(()),
            Ok(_) | Err(qmp::Error::Refused(_)) => {
                let model = get("type")?;
                let model = model.as_str().unwrap_or("this CPU");
                let model = model.trim_end_matches("-arm-cpu");
                Err(qmp::Error::Refused(format!(
                    "{model} is a 32-bit CPU and cannot run an arm64 image; try --cpu cortex-a72"
                )))
            }
            Err(error) => Err(error),
        }
    }

    /// Lets the guest run.
    ///
    /// # Errors
    /// [`qmp::Error`]
    pub fn run(&mut self) -> Result<(), qmp::Error> {
        self.qmp.execute("cont", json!({})).map(drop)
    }

    /// Stops the guest, unless it has ended; it can go on with [`Self::run`].
    ///
    /// # Errors
    /// [`qmp::Error`]
    pub fn stop(&mut self) -> Result<(), qmp::Error> {
        self.qmp.execute("stop", json!({})).map(drop)
    }

    /// The instructions that a guest under `-icount` has executed; it stands still.
    #[must_use]
    pub fn instructions(&mut self) -> Option<u64> {
        // Its name notwithstanding, it tells the count without record or replay too.
        let state = self.qmp.execute("query-replay", json!({})).ok()?;
        state["icount"].as_u64()
    }

    /// Takes in all that a guest that stands still has printed, and all that QEMU has logged.
    pub fn settle(&self) {
        self.printed.settle();
        if let Some(said) = &self.said {
            said.settle();
        }
    }

    /// Asks what QEMU's exception log has told so far.
    pub fn exceptions<T: Default>(&self, ask: impl FnOnce(&mut ExceptionLog) -> T) -> T {
        let said = self.said.as_ref();
        said.map_or_else(T::default, |said| {
            said.with(|said| ask(&mut said.exceptions))
        })
    }

    /// Resets the machine with its RAM kept, as a reset button would; it stands still before its
    /// first instruction. What was logged before is forgotten.
    ///
    /// # Errors
    /// [`qmp::Error`]
    pub fn reset(&mut self) -> Result<(), qmp::Error> {
        // A reset by the guest must end the watch, so it is set to stop the machine; this one not.
        self.qmp
            .execute("set-action", json!({ "reboot": "reset" }))?;
        self.qmp.execute("system_reset", json!({}))?;
        self.qmp.wait_for("RESET")?;
        self.qmp
            .execute("set-action", json!({ "reboot": "shutdown" }))?;
        self.settle();
        self.exceptions(|log| *log = ExceptionLog::default());
        Ok(())
    }

    /// The gdb stub of a guest that stands still.
    ///
    /// # Errors
    /// Why there is none.
    pub fn gdb(&mut self) -> Result<&mut GdbStub, qmp::Error> {
        if self.gdb.is_none() {
            let socket = self.qmp.open_gdb_stub()?;
            let stub = GdbStub::new(socket);
            self.gdb = Some(stub.map_err(|error| qmp::Error::Refused(error.to_string()))?);
        }
        let Some(gdb) = &mut self.gdb else {
            return Err(qmp::Error::Closed);
        };
        gdb.catch_up()
            .map_err(|error| qmp::Error::Refused(error.to_string()))?;
        Ok(gdb)
    }

    /// Ends QEMU, if it has not ended yet. What the guest had printed stays in `console`.
    pub fn end(&mut self) -> Exit {
        self.qmp.quit();
        let status = self.process.wait(LAST_PATIENCE).ok().flatten();
        if status.is_none() {
            self.process.kill();
        }
        let messages = self.said.as_mut().map_or_else(String::new, |said| {
            said.finish();
            said.with(|said| crate::escape::escape(&said.kept).trim().to_owned())
        });
        Exit { status, messages }
    }
}

impl Sink for ConsoleSink {
    fn take(&mut self, bytes: &[u8]) {
        if let Some(sender) = &self.0 {
            let _ = sender.send(bytes.to_vec());
        }
    }

    fn end(&mut self) {
        self.0 = None;
    }
}

impl Sink for Said {
    fn take(&mut self, bytes: &[u8]) {
        for piece in bytes.split_inclusive(|byte| *byte == b'\n') {
            self.line.extend_from_slice(piece);
            // A guest may write there through semihosting, without ever ending its line.
            if piece.ends_with(b"\n") || self.line.len() > KEPT_MESSAGES {
                self.end();
            }
        }
    }

    fn end(&mut self) {
        let line = std::mem::take(&mut self.line);
        let is_log =
            std::str::from_utf8(&line).is_ok_and(|text| self.exceptions.line(text.trim_end()));
        if !is_log && self.kept.len() < KEPT_MESSAGES {
            self.kept.extend(line);
        }
    }
}

/// What to tell when `qemu` could not be started.
pub fn explain_spawn(qemu: &Path, error: &io::Error) -> String {
    let qemu = qemu.display();
    match error.kind() {
        io::ErrorKind::NotFound => format!(
            "there is no {qemu}: `make setup` installs QEMU, and --qemu or QEMU= names another one"
        ),
        _ => format!("cannot start {qemu}: {error}"),
    }
}
