//! The one place where the bench reads the clock.

use std::time::Instant;

/// Returns the time now.
#[expect(clippy::disallowed_methods, reason = "measuring time is what this program is for")]
pub(crate) fn now() -> Instant {
    Instant::now()
}
