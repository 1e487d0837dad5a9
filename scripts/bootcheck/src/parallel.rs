//! The same work on many items, several at a time.

use std::num::NonZero;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use crate::interrupt::Interrupted;

/// What was asked for, or one job per host CPU.
#[must_use]
pub fn jobs(asked: Option<NonZero<usize>>) -> usize {
    asked
        .or_else(|| std::thread::available_parallelism().ok())
        .map_or(1, NonZero::get)
}

/// Calls `work` on each item, `jobs` at a time; results in the order of the items, all of them
/// unless interrupted.
pub fn map<T: Sync, R: Send>(
    items: &[T],
    jobs: usize,
    work: impl Fn(&T) -> Result<R, Interrupted> + Sync,
) -> Vec<R> {
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
