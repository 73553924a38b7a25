//! What a message is stamped with.

use mesh_model::Text;

/// An id and a time for one message.
#[derive(Clone, Debug)]
pub struct Stamp {
    /// The id: a UUID.
    pub uuid: Text,
    /// Milliseconds since 1970, UTC.
    pub wall_ms: u64,
}

/// Returns a time as JavaScript's `toISOString` writes it.
#[must_use]
pub fn iso_time(wall_ms: u64) -> String {
    let (seconds, millis) = (wall_ms / 1000, wall_ms % 1000);
    let (hour, minute, second) = (seconds / 3600 % 24, seconds / 60 % 60, seconds % 60);
    // Days since 0000-03-01, in eras of 400 years: leap days are then the last of their year.
    let days = seconds / 86_400 + 719_468;
    let (era, of_era) = (days / 146_097, days % 146_097);
    let year_of_era = (of_era - of_era / 1_460 + of_era / 36_524 - of_era / 146_096) / 365;
    let day_of_year = of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let month_from_march = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * month_from_march + 2) / 5 + 1;
    let month = if month_from_march < 10 { month_from_march + 3 } else { month_from_march - 9 };
    let year = era * 400 + year_of_era + u64::from(month <= 2);
    format!("{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}.{millis:03}Z")
}
