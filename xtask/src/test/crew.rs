// SPDX-License-Identifier: MIT OR Apache-2.0
//! Several tests at a time on one machine: each says how many processors it keeps busy.

use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::{self, available_parallelism};

/// What no test has yet.
struct Rest {
    next: usize,
    processors: usize,
}

/// Does `work` for each item, in their order, as soon as the machine has as many processors left as `busy` says; an item that wants
/// more than there are gets all. Results are in the items' order.
pub(super) fn each<T: Sync, R: Send>(
    items: &[T],
    busy: impl Fn(&T) -> usize + Sync,
    work: impl Fn(&T) -> R + Sync,
) -> Vec<R> {
    on(available_parallelism().map_or(1, usize::from), items, busy, work)
}

fn on<T: Sync, R: Send>(
    processors: usize,
    items: &[T],
    busy: impl Fn(&T) -> usize + Sync,
    work: impl Fn(&T) -> R + Sync,
) -> Vec<R> {
    let (rest, returned) = (Mutex::new(Rest { next: 0, processors }), Condvar::new());
    let results = Mutex::new(Vec::new());
    let worker = || {
        let mut mine = lock(&rest);
        while let Some(item) = items.get(mine.next) {
            let wanted = busy(item).min(processors);
            if wanted > mine.processors {
                mine = returned.wait(mine).unwrap_or_else(PoisonError::into_inner);
                continue;
            }
            let index = mine.next;
            (mine.next, mine.processors) = (index + 1, mine.processors - wanted);
            drop(mine);
            let result = work(item);
            lock(&results).push((index, result));
            mine = lock(&rest);
            mine.processors += wanted;
            returned.notify_all();
        }
    };
    thread::scope(|scope| (0..processors.min(items.len())).for_each(|_| drop(scope.spawn(worker))));
    let mut results = results.into_inner().unwrap_or_else(PoisonError::into_inner);
    results.sort_by_key(|(index, _)| *index);
    results.into_iter().map(|(_, result)| result).collect()
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};
    use std::time::Duration;

    #[test]
    fn no_more_processors_are_busy_than_there_are_and_results_keep_their_order() {
        let (busy, most) = (AtomicUsize::new(0), AtomicUsize::new(0));
        let items = [1, 1, 2, 9, 1, 3, 1, 1, 1, 2];
        let results = on(
            3,
            &items,
            |&wanted| wanted,
            |&wanted| {
                let now = busy.fetch_add(wanted.min(3), SeqCst) + wanted.min(3);
                most.fetch_max(now, SeqCst);
                thread::sleep(Duration::from_millis(2));
                busy.fetch_sub(wanted.min(3), SeqCst);
                wanted * 10
            },
        );
        assert_eq!(results, items.map(|wanted| wanted * 10));
        assert_eq!((most.load(SeqCst), busy.load(SeqCst)), (3, 0));
    }

    #[test]
    fn nothing_to_do_is_done() {
        assert_eq!(on(2, &[(); 0], |()| 1, |()| ()), []);
    }
}
