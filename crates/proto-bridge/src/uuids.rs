//! Ids and times as they stand in messages.

use std::fmt;

use mesh_model::Text;

/// Makes the ids of messages, from numbers that the caller draws.
pub struct Uuids(Box<dyn FnMut() -> u128 + Send>);

impl Uuids {
    /// Makes ids of what `draw` returns: random numbers, or those of a test.
    pub fn new(draw: impl FnMut() -> u128 + Send + 'static) -> Self {
        Self(Box::new(draw))
    }

    /// Returns the next id: a UUID of version 4 (Bridging, *Universally Unique Identifier*).
    pub fn draw(&mut self) -> Text {
        let drawn = (self.0)();
        let bits = (drawn & !(0xf << 76) & !(0x3 << 62)) | (0x4 << 76) | (0x2 << 62);
        let hex = format!("{bits:032x}");
        Text::from(format!("{}-{}-{}-{}-{}", &hex[..8], &hex[8..12], &hex[12..16], &hex[16..20], &hex[20..]))
    }
}

impl fmt::Debug for Uuids {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Uuids")
    }
}

/// Writes milliseconds since 1970 as messages have it: `2026-01-31T12:00:00.000Z`.
#[must_use]
pub fn timestamp(now_ms: u64) -> Text {
    let (days, ms) = (now_ms / 86_400_000, now_ms % 86_400_000);
    // Howard Hinnant's days-to-civil: years begin in March, so that the leap day is their last.
    let shifted = days + 719_468;
    let (era, of_era) = (shifted / 146_097, shifted % 146_097);
    let year_of_era = (of_era - of_era / 1_460 + of_era / 36_524 - of_era / 146_096) / 365;
    let of_year = of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let shifted_month = (5 * of_year + 2) / 153;
    let day = of_year - (153 * shifted_month + 2) / 5 + 1;
    let month = if shifted_month < 10 { shifted_month + 3 } else { shifted_month - 9 };
    let year = era * 400 + year_of_era + u64::from(month <= 2);
    let (hour, minute, second) = (ms / 3_600_000, ms / 60_000 % 60, ms / 1_000 % 60);
    Text::from(format!("{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}.{:03}Z", ms % 1_000))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times() {
        for (ms, expected) in [
            (0, "1970-01-01T00:00:00.000Z"),
            (951_782_400_000, "2000-02-29T00:00:00.000Z"),
            (1_709_251_199_999, "2024-02-29T23:59:59.999Z"),
            (1_767_225_600_000, "2026-01-01T00:00:00.000Z"),
        ] {
            assert_eq!(timestamp(ms), expected);
        }
    }

    #[test]
    fn ids_are_of_version_4() {
        let mut uuids = Uuids::new(|| u128::MAX);
        assert_eq!(uuids.draw(), "ffffffff-ffff-4fff-bfff-ffffffffffff");
        let mut uuids = Uuids::new(|| 0);
        assert_eq!(uuids.draw(), "00000000-0000-4000-8000-000000000000");
    }
}
