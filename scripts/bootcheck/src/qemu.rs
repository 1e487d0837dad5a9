//! A QEMU that has loaded the guest and waits for `cont`.

use std::io::{self, BufRead, BufReader, Read};
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::process::{Command, ExitStatus, Stdio};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

use crossbeam_channel::Receiver;
use serde_json::json;

use crate::exceptions::ExceptionLog;
use crate::gdbstub::GdbStub;
use crate::interrupt::Interrupted;
use crate::plan::{Plan, Wiring};
use crate::process::Tethered;
use crate::qmp::{self, Qmp};

/// How long QEMU may take to end once told to. It takes milliseconds.
const LAST_PATIENCE: Duration = Duration::from_secs(10);

/// The most of QEMU's own messages that is kept.
const KEPT_MESSAGES: usize = 64 << 10;

/// A running QEMU.
#[derive(Debug)]
pub struct Qemu {
    process: Tethered,
    messages: Option<JoinHandle<String>>,
    /// Its control channel.
    pub qmp: Qmp,
    /// What the guest prints, piece by piece; disconnected once QEMU is gone. Unbounded, so that
    /// the guest never waits for us: it runs for a bounded time.
    pub console: Receiver<Vec<u8>>,
    /// Its version.
    pub version: String,
    /// The thread that runs the guest's first CPU.
    pub cpu_thread: u64,
    exceptions: Arc<Mutex<ExceptionLog>>,
    gdb: Option<GdbStub>,
}

/// How a QEMU ended.
#[derive(Debug)]
pub struct Exit {
    /// Its exit status; `None` if it had to be killed.
    pub status: Option<ExitStatus>,
    /// What it wrote to its standard error.
    pub messages: String,
}

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
    /// Starts QEMU for `plan`; the guest has not executed anything yet.
    ///
    /// # Errors
    /// [`StartError`]
    pub fn start(plan: &Plan) -> Result<Self, StartError> {
        let mut qemu = Self::spawn(plan).map_err(|error| spawn_failed(plan, &error))?;
        match qemu.come_up() {
            Ok(()) => Ok(qemu),
            Err(qmp::Error::Interrupted) => Err(StartError::Interrupted),
            Err(error) => {
                let said = qemu.end().messages;
                Err(StartError::Failed(if said.is_empty() {
                    format!("QEMU did not start: {error}")
                } else {
                    format!("QEMU did not start: {said}")
                }))
            }
        }
    }

    fn spawn(plan: &Plan) -> io::Result<Self> {
        let (qmp_ours, qmp_theirs) = UnixStream::pair()?;
        let (console_ours, console_theirs) = UnixStream::pair()?;
        let mut command = Command::new(&plan.qemu);
        command
            .args(plan.arguments(Wiring::Tester))
            .stdin(OwnedFd::from(qmp_theirs))
            .stdout(OwnedFd::from(console_theirs))
            .stderr(Stdio::piped());
        let mut process = Tethered::spawn(&mut command)?;
        // With it go our copies of QEMU's ends; else its death would not close the channels.
        drop(command);

        let stderr = process.child().stderr.take();
        let exceptions = Arc::<Mutex<ExceptionLog>>::default();
        let log = Arc::clone(&exceptions);
        let collect = move || stderr.map(|stderr| collect(stderr, &log));
        let messages = std::thread::spawn(move || collect().unwrap_or_default());
        let (sender, console) = crossbeam_channel::unbounded();
        std::thread::spawn(move || {
            let mut console = console_ours;
            let mut buffer = vec![0; 64 << 10];
            // A reset connection is the end as well: QEMU was killed.
            while let Ok(length @ 1..) = console.read(&mut buffer) {
                if sender.send(buffer[..length].to_vec()).is_err() {
                    break;
                }
            }
        });
        Ok(Self {
            process,
            messages: Some(messages),
            qmp: Qmp::new(qmp_ours)?,
            console,
            version: String::new(),
            cpu_thread: 0,
            exceptions,
            gdb: None,
        })
    }

    fn come_up(&mut self) -> Result<(), qmp::Error> {
        self.version = self.qmp.greet()?;
        let cpus = self.qmp.execute("query-cpus-fast", json!({}))?;
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

    /// What QEMU's exception log has told so far.
    pub fn exceptions(&self) -> MutexGuard<'_, ExceptionLog> {
        self.exceptions
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
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
        let _ = self.qmp.execute("quit", json!({}));
        let status = self.process.wait(LAST_PATIENCE).ok().flatten();
        if status.is_none() {
            self.process.kill();
        }
        let messages = match self.messages.take() {
            Some(reader) => reader.join().unwrap_or_default(),
            None => String::new(),
        };
        Exit { status, messages }
    }
}

/// Reads to the end what QEMU writes to its standard error: its log of exceptions, and its own
/// messages, of which the first ones are kept.
fn collect(stderr: impl Read, exceptions: &Mutex<ExceptionLog>) -> String {
    let mut stderr = BufReader::with_capacity(64 << 10, stderr);
    let mut kept = Vec::new();
    let mut line = Vec::new();
    loop {
        line.clear();
        // A guest may write there through semihosting, without ever ending its line.
        let mut piece = stderr.by_ref().take(KEPT_MESSAGES as u64);
        if !matches!(piece.read_until(b'\n', &mut line), Ok(1..)) {
            return crate::escape::escape(&kept).trim().to_owned();
        }
        let is_log = std::str::from_utf8(&line).is_ok_and(|text| {
            let mut exceptions = exceptions.lock().unwrap_or_else(PoisonError::into_inner);
            exceptions.line(text.trim_end())
        });
        if !is_log && kept.len() < KEPT_MESSAGES {
            kept.extend_from_slice(&line);
        }
    }
}

fn spawn_failed(plan: &Plan, error: &io::Error) -> StartError {
    let qemu = plan.qemu.display();
    StartError::Failed(match error.kind() {
        io::ErrorKind::NotFound => format!(
            "there is no {qemu}: `make setup` installs QEMU, and --qemu or QEMU= names another one"
        ),
        _ => format!("cannot start {qemu}: {error}"),
    })
}
