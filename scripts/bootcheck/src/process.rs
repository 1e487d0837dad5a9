//! Child processes that never outlive the tester.
//!
//! A forgotten QEMU keeps a CPU busy for ever. Three nets hold it: the child is killed when its
//! handle is dropped; Ctrl-C and SIGTERM only set a flag ([`crate::interrupt`]), so that handles
//! do get dropped; and where the tester itself is killed, the kernel does it (`PR_SET_PDEATHSIG`,
//! Linux only: macOS offers nothing of the kind).

use std::io;
use std::os::unix::process::CommandExt;
use std::process::{Child, Command, ExitStatus};
use std::time::{Duration, Instant};

/// A running child in a process group of its own, killed when dropped.
#[derive(Debug)]
pub struct Tethered {
    child: Child,
}

impl Tethered {
    /// Starts `command`. The thread that calls this must outlive the child: Linux sends the signal
    /// when the thread ends, not the process.
    ///
    /// # Errors
    /// What the operating system said.
    pub fn spawn(command: &mut Command) -> io::Result<Self> {
        // Its own group: a Ctrl-C at the terminal comes to us alone, and a wrapper script dies
        // together with what it started.
        command.process_group(0);
        #[cfg(target_os = "linux")]
        die_with_parent(command);
        Ok(Self {
            child: command.spawn()?,
        })
    }

    /// The child.
    pub fn child(&mut self) -> &mut Child {
        &mut self.child
    }

    /// Waits up to `patience` for the child to end.
    ///
    /// # Errors
    /// What the operating system said.
    pub fn wait(&mut self, patience: Duration) -> io::Result<Option<ExitStatus>> {
        let start = Instant::now();
        loop {
            if let Some(status) = self.child.try_wait()? {
                return Ok(Some(status));
            }
            let Some(left) = patience.checked_sub(start.elapsed()) else {
                return Ok(None);
            };
            wait_for_end(&self.child, left);
        }
    }

    /// Kills the child and whatever it started, unless it has ended.
    pub fn kill(&mut self) {
        if let Ok(None) = self.child.try_wait() {
            // Not reaped yet, so the number still is this child's.
            if let Some(group) = rustix::process::Pid::from_raw(self.child.id() as i32) {
                let _ = rustix::process::kill_process_group(group, rustix::process::Signal::KILL);
            }
            let _ = self.child.kill();
            let _ = self.child.wait();
        }
    }
}

impl Drop for Tethered {
    fn drop(&mut self) {
        self.kill();
    }
}

/// Sleeps until the child has ended, or less long: no longer than `left`.
fn wait_for_end(child: &Child, left: Duration) {
    #[cfg(target_os = "linux")]
    {
        use rustix::event::{PollFd, PollFlags, Timespec, poll};
        use rustix::process::{Pid, PidfdFlags, pidfd_open};

        let pid = Pid::from_raw(child.id() as i32);
        // Readable as soon as the child has ended.
        let end = pid.and_then(|pid| pidfd_open(pid, PidfdFlags::empty()).ok());
        if let (Some(end), Ok(left)) = (end, Timespec::try_from(left)) {
            let _ = poll(&mut [PollFd::new(&end, PollFlags::IN)], Some(&left));
            return;
        }
    }
    #[cfg(not(target_os = "linux"))]
    let _ = child;
    std::thread::sleep(left.min(Duration::from_micros(500)));
}

/// Has the kernel kill the child when the thread that starts it is gone.
#[cfg(target_os = "linux")]
#[allow(unsafe_code)]
fn die_with_parent(command: &mut Command) {
    use rustix::process::{Signal, getpid, getppid, set_parent_process_death_signal};

    let parent = getpid();
    let tether = move || {
        set_parent_process_death_signal(Some(Signal::KILL))?;
        // It may have died before the line above took effect; then no signal will come.
        if getppid() != Some(parent) {
            return Err(io::Error::from(io::ErrorKind::Interrupted));
        }
        Ok(())
    };
    // SAFETY: between fork and exec only async-signal-safe work is allowed. The closure makes two
    // plain system calls; it allocates nothing, takes no lock, and its errors are plain numbers.
    unsafe { command.pre_exec(tether) };
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::{BufRead, BufReader};
    use std::process::Stdio;

    #[test]
    fn dropping_the_handle_ends_a_wrapper_and_what_it_started() {
        let mut command = Command::new("sh");
        command
            .args(["-c", "sleep 30 & echo $!; wait"])
            .stdout(Stdio::piped());
        let mut wrapper = Tethered::spawn(&mut command).unwrap();
        let mut line = String::new();
        let stdout = wrapper.child().stdout.take().unwrap();
        let mut stdout = BufReader::new(stdout);
        stdout.read_line(&mut line).unwrap();
        assert!(line.trim().parse::<u32>().is_ok(), "{line:?}");

        assert!(
            wrapper.wait(Duration::from_millis(20)).unwrap().is_none(),
            "both run"
        );
        let start = Instant::now();
        drop(wrapper);
        // Both hold the pipe; its end tells that both are gone.
        assert_eq!(stdout.read_line(&mut line).unwrap(), 0);
        assert!(
            start.elapsed() < Duration::from_secs(15),
            "it ran to its own end"
        );
    }
}
