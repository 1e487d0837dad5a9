//! Guest time: the clock that deadlines count.
//!
//! Wall time would blame the guest for a busy host, and CPU time alone would never end a guest
//! that sleeps. So a moment counts when QEMU runs or sleeps, and does not count when one of its
//! threads is ready to run and the host runs something else. Linux keeps exactly these two figures
//! per thread (`schedstat`: time on a CPU, time waiting for one). Where there is no `schedstat`,
//! guest time is wall time.

use std::collections::HashMap;
use std::fs;
use std::path::PathBuf;
use std::time::{Duration, Instant};

/// The most sleep that counts between two readings. Readings are 50 ms apart; a longer gap means
/// that the tester itself did not run (stopped, suspended, starved).
const LONGEST_SLEEP: Duration = Duration::from_millis(200);

/// Time that one thread has spent on a CPU, and waiting for one.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
struct Usage {
    ran: Duration,
    waited: Duration,
}

/// Counts the guest time of one QEMU.
#[derive(Debug)]
pub struct GuestClock {
    tasks: PathBuf,
    last_reading: Instant,
    last_usage: HashMap<u64, Usage>,
    total: Duration,
    busy: Duration,
}

impl GuestClock {
    /// Starts at zero. `thread` is any thread of the QEMU process.
    #[must_use]
    pub fn start(thread: u64) -> Self {
        let tasks = PathBuf::from(format!("/proc/{thread}/task"));
        Self {
            last_reading: Instant::now(),
            last_usage: read_usage(&tasks),
            tasks,
            total: Duration::ZERO,
            busy: Duration::ZERO,
        }
    }

    /// The part of the time, as it was last read, in which a CPU of the guest was busy.
    #[must_use]
    pub fn busy(&self) -> Duration {
        self.busy
    }

    /// Reads the clock.
    pub fn read(&mut self) -> Duration {
        let now = Instant::now();
        let usage = read_usage(&self.tasks);
        let wall = now - self.last_reading;
        self.total += spent(wall, &self.last_usage, &usage);
        self.busy += busy(wall, &self.last_usage, &usage);
        self.last_reading = now;
        self.last_usage = usage;
        self.total
    }
}

/// The time between two readings in which a thread of QEMU ran.
fn busy(wall: Duration, before: &HashMap<u64, Usage>, after: &HashMap<u64, Usage>) -> Duration {
    if after.is_empty() {
        return wall.min(LONGEST_SLEEP);
    }
    let ran = |(thread, now): (&u64, &Usage)| {
        let then = before.get(thread).copied().unwrap_or_default();
        now.ran.saturating_sub(then.ran)
    };
    after.iter().map(ran).max().unwrap_or_default().min(wall)
}

/// The guest time between two readings that are `wall` apart.
fn spent(wall: Duration, before: &HashMap<u64, Usage>, after: &HashMap<u64, Usage>) -> Duration {
    let mut ran = Duration::ZERO;
    let mut waited = Duration::ZERO;
    for (thread, now) in after {
        let then = before.get(thread).copied().unwrap_or_default();
        ran = ran.max(now.ran.saturating_sub(then.ran));
        waited = waited.max(now.waited.saturating_sub(then.waited));
    }
    let not_waiting = wall.saturating_sub(waited).min(LONGEST_SLEEP);
    ran.min(wall).max(not_waiting)
}

fn read_usage(tasks: &PathBuf) -> HashMap<u64, Usage> {
    let Ok(entries) = fs::read_dir(tasks) else {
        return HashMap::new();
    };
    entries
        .flatten()
        .filter_map(|entry| {
            let thread = entry.file_name().to_str()?.parse().ok()?;
            let line = fs::read_to_string(entry.path().join("schedstat")).ok()?;
            Some((thread, parse_schedstat(&line)?))
        })
        .collect()
}

/// `ran waited slices`, the first two in nanoseconds.
fn parse_schedstat(line: &str) -> Option<Usage> {
    let mut fields = line.split_ascii_whitespace().map(str::parse);
    let mut next = || Some(Duration::from_nanos(fields.next()?.ok()?));
    Some(Usage {
        ran: next()?,
        waited: next()?,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: Duration = Duration::from_millis(1);

    fn usage(ran: u32, waited: u32) -> HashMap<u64, Usage> {
        HashMap::from([(
            1,
            Usage {
                ran: ran * MS,
                waited: waited * MS,
            },
        )])
    }

    #[test]
    fn running_and_sleeping_count_and_waiting_does_not() {
        let spent = |wall: u32, after| spent(wall * MS, &usage(0, 0), &after);
        assert_eq!(spent(50, usage(50, 0)), 50 * MS, "it ran");
        assert_eq!(spent(50, usage(0, 0)), 50 * MS, "it slept");
        assert_eq!(spent(50, usage(20, 30)), 20 * MS, "others ran for 30 ms");
        assert_eq!(
            spent(50, usage(0, 50)),
            Duration::ZERO,
            "others ran all the time"
        );
        assert_eq!(spent(50, usage(10, 20)), 30 * MS, "ran, waited and slept");
    }

    #[test]
    fn a_guest_that_sleeps_is_not_busy() {
        let busy = |wall: u32, after| busy(wall * MS, &usage(0, 0), &after);
        assert_eq!(busy(50, usage(20, 30)), 20 * MS);
        assert_eq!(busy(50, usage(0, 0)), Duration::ZERO);
        assert_eq!(busy(50, HashMap::new()), 50 * MS, "there are no figures");
    }

    #[test]
    fn a_gap_in_the_readings_counts_only_what_ran() {
        let spent = |after| spent(60_000 * MS, &usage(0, 0), &after);
        assert_eq!(spent(usage(0, 0)), LONGEST_SLEEP);
        assert_eq!(spent(usage(3_000, 0)), 3_000 * MS);
    }

    #[test]
    fn without_figures_it_is_wall_time() {
        let none = HashMap::new();
        assert_eq!(spent(50 * MS, &none, &none), 50 * MS);
    }

    #[test]
    fn schedstat_is_read() {
        let read = parse_schedstat("1000000 2000000 7\n").unwrap();
        assert_eq!((read.ran, read.waited), (MS, 2 * MS));
        assert_eq!(parse_schedstat(""), None);
    }
}
