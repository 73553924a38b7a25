//! The one place where time is read.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{SystemTime, UNIX_EPOCH};

use mesh_identity::tls::WallClock;
use mesh_model::{Now, Tick};
use tokio::time::Instant;

/// Both clocks of a process. Clones read the same ones.
///
/// Ticks come from tokio's clock, so a test that pauses and advances it moves this one too. The wall
/// clock is what the system said at the start plus the ticks since, and so never goes back. It
/// stands still while the machine sleeps and does not see the system's clock being set: the shell
/// calls [`follow_wall`](Self::follow_wall) now and then, and learns from its answer that the
/// machine has slept.
#[derive(Clone, Debug)]
pub struct Clock {
    start: Instant,
    /// Milliseconds since 1970 at `start`.
    wall_start_ms: Arc<AtomicU64>,
}

impl Clock {
    /// Starts the clocks, the wall clock at what the system says.
    #[must_use]
    pub fn start() -> Self {
        Self::start_at(system_wall_ms())
    }

    /// Starts the clocks, the wall clock at a chosen time.
    #[must_use]
    pub fn start_at(wall_ms: u64) -> Self {
        Self { start: Instant::now(), wall_start_ms: Arc::new(AtomicU64::new(wall_ms)) }
    }

    /// Returns the microseconds since the start.
    #[must_use]
    pub fn now(&self) -> Tick {
        Tick(u64::try_from(self.start.elapsed().as_micros()).unwrap_or(u64::MAX))
    }

    /// Returns milliseconds since 1970.
    #[must_use]
    pub fn wall_ms(&self) -> u64 {
        self.wall_at(self.now())
    }

    /// Reads both clocks at once.
    #[must_use]
    pub fn read(&self) -> Now {
        let tick = self.now();
        Now { tick, wall_ms: self.wall_at(tick) }
    }

    /// Sets the wall clock to what the system says now. Returns by how many milliseconds it moved: a
    /// large positive number after the machine has slept.
    pub fn follow_wall(&self) -> i64 {
        self.set_wall(system_wall_ms())
    }

    /// Sets the wall clock, and returns by how many milliseconds it moved.
    pub fn set_wall(&self, wall_ms: u64) -> i64 {
        let tick = self.now();
        let moved = wall_ms.wrapping_sub(self.wall_at(tick)).cast_signed();
        self.wall_start_ms.store(wall_ms.saturating_sub(tick.0 / 1_000), Ordering::Relaxed);
        moved
    }

    fn wall_at(&self, tick: Tick) -> u64 {
        self.wall_start_ms.load(Ordering::Relaxed).saturating_add(tick.0 / 1_000)
    }
}

impl WallClock for Clock {
    fn wall_ms(&self) -> u64 {
        self.wall_ms()
    }
}

/// Returns the time on the clock that the transport reads.
pub(crate) fn transport_now() -> std::time::Instant {
    Instant::now().into_std()
}

#[expect(clippy::disallowed_methods, reason = "this is the one place where time is read")]
fn system_wall_ms() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn follows_the_paused_clock() {
        let clock = Clock::start_at(1_000);
        assert_eq!(clock.read(), Now { tick: Tick(0), wall_ms: 1_000 });
        tokio::time::advance(Duration::from_millis(2_500)).await;
        assert_eq!(clock.read(), Now { tick: Tick(2_500_000), wall_ms: 3_500 });
        assert_eq!(clock.clone().set_wall(60_000), 56_500);
        assert_eq!(clock.set_wall(59_000), -1_000);
        tokio::time::advance(Duration::from_millis(1)).await;
        assert_eq!(clock.wall_ms(), 59_001);
        assert!(clock.follow_wall() > 1_600_000_000_000);
    }
}
