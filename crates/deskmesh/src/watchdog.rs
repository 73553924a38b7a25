//! Ends the program when its core stands still.
//!
//! Everybody who has an input calls the core under one lock. Should one of these calls never return, the
//! node would serve nobody, and others would take it for slow. So a thread of its own looks every second
//! whether the timer task has been through the core since, which it is once a second at least.
//!
//! It counts its own looks and reads no clock: a process that is stopped, or a machine that sleeps, stops
//! the one that looks as well as the one that is looked at.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;
use std::time::Duration;

const LOOK_EVERY: Duration = Duration::from_secs(1);

/// Begins to watch, and returns the number that has to rise once a second for as long as somebody has it.
/// Nobody watches if the limit is 0.
pub(crate) fn start(core_stall_ms_max: u64) -> Arc<AtomicU64> {
    let rounds = Arc::new(AtomicU64::new(0));
    if core_stall_ms_max == 0 {
        return rounds;
    }
    let watched = Arc::downgrade(&rounds);
    let looks_max = looks_in(core_stall_ms_max);
    let watch = move || {
        let number = || Some(watched.upgrade()?.load(Ordering::Relaxed));
        if watch(LOOK_EVERY, looks_max, number) == End::StandsStill {
            tracing::error!(
                "the core has stood still for {core_stall_ms_max} ms (limit core_stall_ms_max); the program ends, with a core dump if the system makes them"
            );
            std::process::abort();
        }
    };
    if let Err(error) = thread::Builder::new().name("watchdog".to_owned()).spawn(watch) {
        tracing::warn!(%error, "the watchdog could not be started");
    }
    rounds
}

/// Why a watch has ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum End {
    StandsStill,
    Gone,
}

/// Looks at a number until it has stayed the same for so many looks, or there is none any more.
fn watch(every: Duration, looks_max: u64, number: impl Fn() -> Option<u64>) -> End {
    let (mut seen, mut looks) = (None, 0);
    while looks < looks_max {
        thread::sleep(every);
        let Some(found) = number() else { return End::Gone };
        looks = if seen == Some(found) { looks + 1 } else { 0 };
        seen = Some(found);
    }
    End::StandsStill
}

const fn looks_in(millis: u64) -> u64 {
    let looks = millis.div_ceil(1_000);
    // The timer task may be about to go on at the first look.
    if looks < 2 { 2 } else { looks }
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;

    use super::*;

    /// Plays what is seen, look by look.
    fn check(looks_max: u64, seen: &[u64], expected: (End, usize)) {
        let looks = Cell::new(0);
        let number = || {
            let found = seen.get(looks.get()).copied();
            looks.set(looks.get() + usize::from(found.is_some()));
            found
        };
        assert_eq!((watch(Duration::ZERO, looks_max, number), looks.get()), expected);
    }

    #[test]
    fn only_what_stands_still_for_all_looks_counts() {
        check(3, &[5, 5, 5, 5, 5, 5], (End::StandsStill, 4));
        check(3, &[1, 2, 2, 2, 3, 3, 3, 4], (End::Gone, 8));
        check(3, &[1, 2, 2, 2, 2], (End::StandsStill, 5));
        check(3, &[], (End::Gone, 0));
    }

    #[test]
    fn a_limit_is_at_least_two_looks() {
        assert_eq!([1, 999, 1_000, 1_001, 10_000].map(looks_in), [2, 2, 2, 2, 10]);
    }
}
