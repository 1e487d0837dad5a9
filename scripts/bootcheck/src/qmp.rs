//! QMP, the control channel of QEMU: one JSON object per line.
//!
//! A reader thread sorts what comes: answers go to whoever asked, events to [`Qmp::events`].

use std::io::{BufRead, BufReader, IoSlice, Write};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::net::UnixStream;
use std::time::Duration;

use crossbeam_channel::{Receiver, RecvTimeoutError, Sender};
use rustix::net::{SendAncillaryBuffer, SendAncillaryMessage, SendFlags, sendmsg};
use serde_json::{Value, json};

use crate::interrupt;

/// How long QEMU may take to answer, where nothing else was said. It takes milliseconds; this is for a host in trouble.
pub const PATIENCE: Duration = Duration::from_secs(60);

/// How often signals are looked at meanwhile.
const TURN: Duration = Duration::from_millis(50);

/// Why there is no answer.
#[derive(Debug)]
pub enum Error {
    /// QEMU has closed the channel: it is ending, or never came up.
    Closed,
    /// QEMU is there but has not answered within this time.
    Silent(Duration),
    /// QEMU refused, in these words.
    Refused(String),
    /// The user does not want to wait any more.
    Interrupted,
}

impl std::fmt::Display for Error {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Error::Closed => formatter.write_str("QEMU closed its control channel"),
            Error::Silent(patience) => write!(formatter, "QEMU did not answer within {patience:?}"),
            Error::Refused(reason) => write!(formatter, "QEMU refused: {reason}"),
            Error::Interrupted => interrupt::Interrupted.fmt(formatter),
        }
    }
}

impl std::error::Error for Error {}

/// An event that QEMU reported.
#[derive(Debug, Clone, PartialEq)]
pub struct Event {
    /// Its name, as `SHUTDOWN`.
    pub name: String,
    /// What comes with it.
    pub data: Value,
}

/// One end of a QMP channel.
#[derive(Debug)]
pub struct Qmp {
    writer: UnixStream,
    patience: Duration,
    answers: Receiver<Value>,
    /// The events; disconnected once QEMU has closed the channel.
    pub events: Receiver<Event>,
}

impl Qmp {
    /// Starts to listen on a socket whose other end QEMU holds; QEMU may take as long as `patience` to
    /// answer.
    ///
    /// # Errors
    /// What the operating system said.
    pub fn new(socket: UnixStream, patience: Duration) -> std::io::Result<Self> {
        let writer = socket.try_clone()?;
        let (answer_sender, answers) = crossbeam_channel::unbounded();
        let (event_sender, events) = crossbeam_channel::unbounded();
        std::thread::Builder::new()
            .name("qmp".into())
            .spawn(move || listen(socket, &answer_sender, &event_sender))?;
        Ok(Self {
            writer,
            patience,
            answers,
            events,
        })
    }

    /// Waits for QEMU's greeting and takes up the conversation; QEMU's version.
    ///
    /// # Errors
    /// [`Error`]
    pub fn greet(&mut self) -> Result<String, Error> {
        let greeting = self.answer()?;
        let version = &greeting["QMP"]["version"];
        let part = |name: &str| version["qemu"][name].as_u64().unwrap_or(0);
        let mut text = format!("{}.{}.{}", part("major"), part("minor"), part("micro"));
        match version["package"].as_str() {
            Some(package) if !package.is_empty() => text.push_str(&format!(" ({package})")),
            _ => {}
        }
        self.execute("qmp_capabilities", json!({}))?;
        Ok(text)
    }

    /// Has QEMU do something; its answer.
    ///
    /// # Errors
    /// [`Error`]
    pub fn execute(&mut self, command: &str, arguments: Value) -> Result<Value, Error> {
        let request = json!({ "execute": command, "arguments": arguments });
        self.writer
            .write_all(format!("{request}\n").as_bytes())
            .map_err(|_| Error::Closed)?;
        Self::result(self.answer()?)
    }

    fn result(mut answer: Value) -> Result<Value, Error> {
        match answer.get("error") {
            Some(error) => {
                let reason = error["desc"].as_str().unwrap_or("no reason given");
                Err(Error::Refused(reason.to_owned()))
            }
            None => Ok(answer["return"].take()),
        }
    }

    /// Has the human monitor do something; what it says.
    ///
    /// # Errors
    /// [`Error`]
    pub fn monitor(&mut self, command: &str) -> Result<String, Error> {
        let arguments = json!({ "command-line": command });
        let answer = self.execute("human-monitor-command", arguments)?;
        Ok(answer.as_str().unwrap_or_default().to_owned())
    }

    /// Has QEMU end. One that is in trouble would not answer.
    pub fn quit(&mut self) {
        let _ = self.writer.write_all(b"{\"execute\": \"quit\"}\n");
    }

    /// Waits for an event of this name; those before it are dropped.
    ///
    /// # Errors
    /// [`Error`]
    pub fn wait_for(&mut self, name: &str) -> Result<(), Error> {
        while receive(&self.events, self.patience)?.name != name {}
        Ok(())
    }

    /// Opens a channel to QEMU's gdb stub, which stops the guest. The socket is handed over, so
    /// that nothing appears in the file system.
    ///
    /// # Errors
    /// [`Error`]
    pub fn open_gdb_stub(&mut self) -> Result<UnixStream, Error> {
        let (ours, theirs) = UnixStream::pair().map_err(|_| Error::Closed)?;
        let request = json!({ "execute": "getfd", "arguments": { "fdname": "gdb" } });
        self.send_with_descriptor(&format!("{request}\n"), theirs.as_fd())
            .map_err(|_| Error::Closed)?;
        Self::result(self.answer()?)?;
        let address = json!({ "type": "fd", "data": { "str": "gdb" } });
        let socket = json!({ "addr": address, "server": false });
        let backend = json!({ "type": "socket", "data": socket });
        self.execute("chardev-add", json!({ "id": "gdb", "backend": backend }))?;
        let said = self.monitor("gdbserver chardev:gdb")?;
        if said.contains("rror") || said.contains("ould not") {
            return Err(Error::Refused(said.trim().to_owned()));
        }
        Ok(ours)
    }

    fn send_with_descriptor(&self, text: &str, descriptor: BorrowedFd<'_>) -> std::io::Result<()> {
        let descriptors = [descriptor];
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
        let mut control = SendAncillaryBuffer::new(&mut space);
        control.push(SendAncillaryMessage::ScmRights(&descriptors));
        let text = [IoSlice::new(text.as_bytes())];
        sendmsg(&self.writer, &text, &mut control, SendFlags::empty())?;
        Ok(())
    }

    fn answer(&self) -> Result<Value, Error> {
        receive(&self.answers, self.patience)
    }
}

/// Waits for one message, as long as QEMU may take. Time in which this process was stopped, or the host
/// asleep, was none for QEMU either: so turns are counted, not the clock.
fn receive<T>(messages: &Receiver<T>, patience: Duration) -> Result<T, Error> {
    for _ in 0..patience.as_millis().div_ceil(TURN.as_millis()) {
        match messages.recv_timeout(TURN) {
            Ok(message) => return Ok(message),
            Err(RecvTimeoutError::Disconnected) => return Err(Error::Closed),
            Err(RecvTimeoutError::Timeout) => {
                interrupt::check().map_err(|_| Error::Interrupted)?;
            }
        }
    }
    Err(Error::Silent(patience))
}

/// Sorts what QEMU says until it closes the channel.
fn listen(socket: UnixStream, answers: &Sender<Value>, events: &Sender<Event>) {
    for line in BufReader::new(socket).lines() {
        let Ok(Ok(mut message)) = line.map(|line| serde_json::from_str::<Value>(&line)) else {
            return;
        };
        let delivered = match message["event"].as_str() {
            Some(name) => {
                let name = name.to_owned();
                let data = message["data"].take();
                events.send(Event { name, data }).is_ok()
            }
            None => answers.send(message).is_ok(),
        };
        if !delivered {
            return;
        }
    }
}
