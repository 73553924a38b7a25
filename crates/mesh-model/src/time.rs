//! Time as the pure crates see it: an argument.

use crate::id::Dot;

/// Microseconds on a clock that never goes back. Only differences mean something.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Tick(pub u64);

impl Tick {
    /// Returns the tick `millis` milliseconds later.
    #[must_use]
    pub const fn plus_millis(self, millis: u64) -> Self {
        Self(self.0.saturating_add(millis.saturating_mul(1000)))
    }

    /// Returns the microseconds since `earlier`, or 0 if that is later.
    #[must_use]
    pub const fn since(self, earlier: Self) -> u64 {
        self.0.saturating_sub(earlier.0)
    }
}

/// Both clocks, read together by the shell for each input.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Now {
    /// The clock that timers run on.
    pub tick: Tick,
    /// Milliseconds since 1970 as this machine believes. May jump.
    pub wall_ms: u64,
}

/// A hybrid logical clock's reading: 48 bits of milliseconds, 16 bits of counter.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Hlc(pub u64);

impl Hlc {
    /// Returns the smallest reading of a wall-clock millisecond.
    #[must_use]
    pub const fn from_wall_ms(wall_ms: u64) -> Self {
        Self(wall_ms << 16)
    }
}

/// When a write happened, in an order all nodes agree on and no two writes share.
///
/// Ends in the [`Dot`]: a node that restarts with an older clock can repeat a reading, and two values
/// under one stamp would differ for ever.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Stamp {
    /// The hybrid clock of the writer.
    pub hlc: Hlc,
    /// The write.
    pub dot: Dot,
}
