//! What QEMU writes: a thread takes it in as it comes, and whoever must have all of it at once,
//! because QEMU stands still now and nothing more will come, has it taken in on the spot.

use std::fs::File;
use std::io::{self, Read};
use std::os::fd::{AsFd, OwnedFd};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

use rustix::event::{PollFd, PollFlags, poll};
use rustix::io::{Errno, ioctl_fionbio};

/// Bytes taken in at a time.
const PIECE: usize = 64 << 10;

/// How long bytes may gather before they are read: QEMU writes a console byte by byte, and would
/// have to wake the reader for each of them.
const PAUSE: Duration = Duration::from_micros(200);

/// Where the bytes go.
pub trait Sink: Send + 'static {
    /// Takes in what has come.
    fn take(&mut self, bytes: &[u8]);

    /// Nothing more will come.
    fn end(&mut self) {}
}

/// One end of a pipe or socket, read to its end.
#[derive(Debug)]
pub struct Stream<S> {
    inner: Arc<Mutex<Inner<S>>>,
    reader: Option<JoinHandle<()>>,
}

/// Bytes are only ever read with this locked: so whoever holds the lock and finds nothing to read
/// knows that the sink has everything.
#[derive(Debug)]
struct Inner<S> {
    file: File,
    sink: S,
    is_over: bool,
}

impl<S: Sink> Stream<S> {
    /// Starts to read.
    ///
    /// # Errors
    /// What the operating system said.
    pub fn start(descriptor: impl Into<OwnedFd>, sink: S) -> io::Result<Self> {
        let file = File::from(descriptor.into());
        ioctl_fionbio(&file, true)?;
        let waited_for = file.try_clone()?;
        let inner = Arc::new(Mutex::new(Inner {
            file,
            sink,
            is_over: false,
        }));
        let shared = Arc::clone(&inner);
        let reader = std::thread::Builder::new()
            .name("stream".into())
            .spawn(move || {
                while wait_for_input(&waited_for) && !lock(&shared).read() {
                    std::thread::sleep(PAUSE);
                }
                lock(&shared).finish();
            })?;
        Ok(Self {
            inner,
            reader: Some(reader),
        })
    }

    /// Takes in everything that has been written until now.
    pub fn settle(&self) {
        let mut inner = lock(&self.inner);
        while inner.has_input() && !inner.read() {}
    }

    /// Does something with the sink.
    pub fn with<T>(&self, action: impl FnOnce(&mut S) -> T) -> T {
        action(&mut lock(&self.inner).sink)
    }

    /// Waits until the other end is closed and everything is taken in.
    pub fn finish(&mut self) {
        if let Some(reader) = self.reader.take() {
            let _ = reader.join();
        }
    }
}

impl<S: Sink> Inner<S> {
    /// Reads once; whether that was the end.
    fn read(&mut self) -> bool {
        let mut buffer = [0; PIECE];
        match self.file.read(&mut buffer) {
            Ok(length @ 1..) => self.sink.take(&buffer[..length]),
            Err(error) if is_passing(&error) => {}
            // A reset connection is the end as well: QEMU was killed.
            Ok(_) | Err(_) => self.finish(),
        }
        self.is_over
    }

    fn has_input(&self) -> bool {
        let mut list = [PollFd::new(&self.file, PollFlags::IN)];
        !self.is_over && poll(&mut list, Some(&Default::default())).is_ok_and(|count| count > 0)
    }

    fn finish(&mut self) {
        if !std::mem::replace(&mut self.is_over, true) {
            self.sink.end();
        }
    }
}

/// Waits; whether there is something to read, the end included.
fn wait_for_input(file: &impl AsFd) -> bool {
    let mut list = [PollFd::new(file, PollFlags::IN)];
    matches!(poll(&mut list, None), Ok(_) | Err(Errno::INTR))
}

fn is_passing(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted
    )
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write;
    use std::os::unix::net::UnixStream;

    #[derive(Default)]
    struct Kept(Vec<u8>, bool);

    impl Sink for Kept {
        fn take(&mut self, bytes: &[u8]) {
            self.0.extend_from_slice(bytes);
        }

        fn end(&mut self) {
            assert!(!self.1, "there is one end");
            self.1 = true;
        }
    }

    #[test]
    fn whoever_settles_has_all_that_was_written() {
        let (ours, mut theirs) = UnixStream::pair().unwrap();
        let mut stream = Stream::start(ours, Kept::default()).unwrap();
        for round in 1..200 {
            theirs.write_all(&[7; 300]).unwrap();
            stream.settle();
            stream.with(|kept| assert_eq!((kept.0.len(), kept.1), (300 * round, false)));
        }
        theirs.write_all(b"end").unwrap();
        drop(theirs);
        stream.finish();
        stream.settle();
        stream.with(|kept| assert!(kept.0.ends_with(b"end") && kept.1));
    }
}
