//! Waiting for what another process does.

use std::thread;
use std::time::{Duration, Instant};

const STEP: Duration = Duration::from_millis(10);

/// Waits until `done`, and returns whether that came to be within `patience`.
pub fn until(patience: Duration, mut done: impl FnMut() -> bool) -> bool {
    let start = now();
    loop {
        if done() {
            return true;
        }
        if start.elapsed() > patience {
            return false;
        }
        thread::sleep(STEP);
    }
}

/// Returns how long something took, and what came of it.
pub fn elapsed<T>(work: impl FnOnce() -> T) -> (Duration, T) {
    let start = now();
    let outcome = work();
    (start.elapsed(), outcome)
}

#[expect(clippy::disallowed_methods, reason = "real processes are waited for in real time")]
fn now() -> Instant {
    Instant::now()
}
