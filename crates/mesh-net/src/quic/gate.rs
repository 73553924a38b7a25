//! Who may begin a handshake, and how often a stranger gets into the log.

use std::collections::BTreeMap;
use std::net::IpAddr;

use mesh_model::Tick;

use super::LinkLimits;

/// What to do with a connection attempt.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Admission {
    /// Go on with the handshake, and [`Gate::leave`] afterwards.
    Enter,
    /// Let the sender prove that the address is its own.
    Retry,
    /// Say no, because of this limit.
    Refuse(&'static str),
}

/// Counts handshakes, in total and by address.
#[derive(Debug, Default)]
pub(super) struct Gate {
    unfinished: usize,
    /// Addresses with unfinished handshakes, or seen within the last second.
    sources: BTreeMap<IpAddr, Source>,
}

#[derive(Debug, Default)]
struct Source {
    unfinished: usize,
    /// The second in which `begun` counts.
    second: u64,
    begun: usize,
}

impl Gate {
    pub(super) fn enter(
        &mut self,
        source: IpAddr,
        is_validated: bool,
        limits: &LinkLimits,
        now: Tick,
    ) -> Admission {
        let second = now.0 / 1_000_000;
        if self.sources.len() >= SOURCES_MAX {
            self.sources.retain(|_, source| source.unfinished > 0 || source.second == second);
        }
        if self.unfinished >= limits.handshakes_max {
            return Admission::Refuse("handshakes_max");
        }
        // Addresses are free to invent until they are proved.
        let is_crowded = self.unfinished * 2 >= limits.handshakes_max || self.sources.len() >= SOURCES_MAX;
        if is_crowded && !is_validated {
            return Admission::Retry;
        }
        let source = self.sources.entry(source).or_default();
        if source.second != second {
            source.second = second;
            source.begun = 0;
        }
        if source.begun >= limits.handshakes_per_second_max && !is_validated {
            return Admission::Retry;
        }
        if source.unfinished >= limits.handshakes_per_source_max {
            return Admission::Refuse("handshakes_per_source_max");
        }
        source.begun += 1;
        source.unfinished += 1;
        self.unfinished += 1;
        Admission::Enter
    }

    pub(super) fn leave(&mut self, source: IpAddr) {
        self.unfinished = self.unfinished.saturating_sub(1);
        if let Some(source) = self.sources.get_mut(&source) {
            source.unfinished = source.unfinished.saturating_sub(1);
        }
    }
}

/// Lets a few lines through in each period, and counts the rest.
#[derive(Debug, Default)]
pub(super) struct Throttle {
    period: u64,
    passed: u32,
    suppressed: u64,
}

impl Throttle {
    /// Returns how many lines were held back before this one, or `None` if this one is held back.
    pub(super) fn pass(&mut self, now: Tick) -> Option<u64> {
        let period = now.0 / PERIOD_MICROS;
        if self.period != period {
            self.period = period;
            self.passed = 0;
        }
        if self.passed >= LINES_PER_PERIOD_MAX {
            self.suppressed += 1;
            return None;
        }
        self.passed += 1;
        Some(std::mem::take(&mut self.suppressed))
    }
}

const SOURCES_MAX: usize = 4_096;
const PERIOD_MICROS: u64 = 10_000_000;
const LINES_PER_PERIOD_MAX: u32 = 5;

#[cfg(test)]
mod tests {
    use super::*;

    fn ip(n: u32) -> IpAddr {
        IpAddr::from(n.to_be_bytes())
    }

    #[test]
    fn a_busy_address_must_prove_itself() {
        let (mut gate, limits) = (Gate::default(), LinkLimits::default());
        let mut enter = |source, validated, micros| {
            let admission = gate.enter(source, validated, &limits, Tick(micros));
            if admission == Admission::Enter {
                gate.leave(source);
            }
            admission
        };
        for _ in 0..50 {
            assert_eq!(enter(ip(1), false, 999_999), Admission::Enter);
        }
        assert_eq!(enter(ip(1), false, 999_999), Admission::Retry);
        assert_eq!(enter(ip(1), true, 999_999), Admission::Enter);
        assert_eq!(enter(ip(2), false, 999_999), Admission::Enter);
        assert_eq!(enter(ip(1), false, 1_000_000), Admission::Enter);
    }

    #[test]
    fn unfinished_handshakes_are_bounded() {
        let (mut gate, limits) = (Gate::default(), LinkLimits::default());
        for second in 0..64 {
            assert_eq!(gate.enter(ip(1), true, &limits, Tick(second * 1_000_000)), Admission::Enter);
        }
        let refused = Admission::Refuse("handshakes_per_source_max");
        assert_eq!(gate.enter(ip(1), true, &limits, Tick(0)), refused);
        for n in 0..64 {
            assert_eq!(gate.enter(ip(100 + n), false, &limits, Tick(0)), Admission::Enter);
        }
        assert_eq!(gate.enter(ip(300), false, &limits, Tick(0)), Admission::Retry);
        for n in 0..128 {
            assert_eq!(gate.enter(ip(400 + n), true, &limits, Tick(0)), Admission::Enter);
        }
        assert_eq!(gate.enter(ip(600), true, &limits, Tick(0)), Admission::Refuse("handshakes_max"));
        gate.leave(ip(1));
        assert_eq!(gate.enter(ip(1), true, &limits, Tick(0)), Admission::Enter);
    }

    #[test]
    fn invented_addresses_do_not_fill_memory() {
        let (mut gate, limits) = (Gate::default(), LinkLimits::default());
        for n in 0..10_000 {
            if gate.enter(ip(n), false, &limits, Tick(5)) == Admission::Enter {
                gate.leave(ip(n));
            }
        }
        assert!(gate.sources.len() <= SOURCES_MAX);
        assert_eq!(gate.enter(ip(1 << 20), false, &limits, Tick(2_000_000)), Admission::Enter);
        assert!(gate.sources.len() < 3);
    }

    #[test]
    fn the_log_is_spared() {
        let mut throttle = Throttle::default();
        let lines = (0..100).filter_map(|_| throttle.pass(Tick(0))).count();
        assert_eq!(lines, 5);
        assert_eq!(throttle.pass(Tick(PERIOD_MICROS)), Some(95));
        assert_eq!(throttle.pass(Tick(PERIOD_MICROS)), Some(0));
    }
}
