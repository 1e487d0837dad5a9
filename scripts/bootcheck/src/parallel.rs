//! The same work on many items, several at a time.

use std::num::NonZero;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use rustix::process::{Resource, getrlimit, setrlimit};

use crate::interrupt::Interrupted;

/// What was asked for, or one job per host CPU.
#[must_use]
pub fn jobs(asked: Option<NonZero<usize>>) -> usize {
    asked
        .or_else(|| std::thread::available_parallelism().ok())
        .map_or(1, NonZero::get)
}

/// Files that one boot has open at most, and the program itself besides: sockets and pipes to QEMU, and more for a
/// moment while it starts.
const FILES: usize = 16;

/// Lets so many boots have files open, as far as the host allows: on many cores that are more than a shell's
/// usual 1024.
fn allow_files(jobs: usize) {
    let wanted = (FILES * (jobs + 4)) as u64;
    let mut limit = getrlimit(Resource::Nofile);
    if limit.current.is_some_and(|current| current < wanted) {
        limit.current = Some(limit.maximum.map_or(wanted, |most| most.min(wanted)));
        // Where it cannot be had, a boot that lacks a file will tell.
        let _ = setrlimit(Resource::Nofile, limit);
    }
}

/// Calls `work` on each item, `jobs` at a time; results in the order of the items, all of them
/// unless interrupted.
pub fn map<T: Sync, R: Send>(
    items: &[T],
    jobs: usize,
    work: impl Fn(&T) -> Result<R, Interrupted> + Sync,
) -> Vec<R> {
    allow_files(jobs.min(items.len()));
    let next = AtomicUsize::new(0);
    let interrupted = AtomicBool::new(false);
    let results: Mutex<Vec<(usize, R)>> = Mutex::default();
    std::thread::scope(|scope| {
        for _ in 0..jobs.min(items.len()) {
            scope.spawn(|| {
                while !interrupted.load(Ordering::Relaxed) {
                    let index = next.fetch_add(1, Ordering::Relaxed);
                    let Some(item) = items.get(index) else { break };
                    let Ok(result) = work(item) else {
                        interrupted.store(true, Ordering::Relaxed);
                        break;
                    };
                    let mut results = results.lock().unwrap_or_else(|poison| poison.into_inner());
                    results.push((index, result));
                }
            });
        }
    });
    let mut results = results
        .into_inner()
        .unwrap_or_else(|poison| poison.into_inner());
    results.sort_by_key(|(index, _)| *index);
    results.into_iter().map(|(_, result)| result).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn results_keep_the_order_of_the_items() {
        let items: Vec<u32> = (0..1000).collect();
        assert_eq!(
            map(&items, 4, |item| Ok(item * 2)),
            items.iter().map(|item| item * 2).collect::<Vec<_>>()
        );
        assert_eq!(map(&[0_u8; 0], 4, |_| Ok(())), []);
    }

    #[test]
    fn an_interrupted_run_keeps_what_it_has() {
        let items: Vec<u32> = (0..1000).collect();
        let results = map(&items, 1, |item| {
            if *item < 10 {
                Ok(*item)
            } else {
                Err(Interrupted)
            }
        });
        assert_eq!(results, (0..10).collect::<Vec<_>>());
    }
}
