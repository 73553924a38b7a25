//! Congestion control: CUBIC that never falls silent altogether.
//!
//! While a path is broken, nothing is acknowledged, and what is sent fills the window: with the one that a quiet
//! link has, a few updates are enough. From then on quinn sends nothing but its probes, after pauses that double
//! each time and have no bound, so that a path that is whole again is noticed about as late as it was broken long,
//! and silence is taken for the end of the node. So when nothing was acknowledged for [`UNHEARD`], one packet more
//! may go if none has gone for [`QUIET_MAX`]: a heartbeat, which is due more seldom than that, always gets out.
//! Where acknowledgements come, be it slowly, this is CUBIC and nothing else.

use std::any::Any;
use std::sync::Arc;
use std::time::{Duration, Instant};

use quinn::congestion::{Controller, ControllerFactory, ControllerMetrics, Cubic, CubicConfig};
use quinn_proto::RttEstimator;

use crate::clock::transport_now;

/// How long nothing is acknowledged where a path may be broken.
const UNHEARD: Duration = Duration::from_millis(800);
/// How long a window that is full keeps this end silent then, at most.
const QUIET_MAX: Duration = Duration::from_millis(300);

/// Makes the controllers of new connections.
#[derive(Debug, Default)]
pub(super) struct NeverSilentConfig(Arc<CubicConfig>);

impl ControllerFactory for NeverSilentConfig {
    fn build(self: Arc<Self>, now: Instant, mtu: u16) -> Box<dyn Controller> {
        let cubic = Cubic::new(Arc::clone(&self.0), now, mtu);
        Box::new(NeverSilent { cubic, mtu: u64::from(mtu), in_flight: 0, sent: now, acked: now })
    }
}

#[derive(Clone, Debug)]
struct NeverSilent {
    cubic: Cubic,
    mtu: u64,
    /// Bytes on their way, or more: packets that are never acknowledged are counted too.
    in_flight: u64,
    /// When the last packet went, and when one was last acknowledged.
    sent: Instant,
    acked: Instant,
}

impl NeverSilent {
    fn window_at(&self, now: Instant) -> u64 {
        let window = self.cubic.window();
        let since = |then: Instant| now.saturating_duration_since(then);
        if since(self.acked) < UNHEARD || since(self.sent) < QUIET_MAX {
            return window;
        }
        // quinn sends while what is on its way and the largest packet are together below the window.
        window.max(self.in_flight + self.mtu + 1)
    }
}

impl Controller for NeverSilent {
    fn on_sent(&mut self, now: Instant, bytes: u64, last_packet_number: u64) {
        self.in_flight = self.in_flight.saturating_add(bytes);
        self.sent = now;
        self.cubic.on_sent(now, bytes, last_packet_number);
    }

    fn on_ack(&mut self, now: Instant, sent: Instant, bytes: u64, app_limited: bool, rtt: &RttEstimator) {
        self.cubic.on_ack(now, sent, bytes, app_limited, rtt);
    }

    fn on_end_acks(&mut self, now: Instant, in_flight: u64, app_limited: bool, largest_acked: Option<u64>) {
        self.in_flight = in_flight;
        self.acked = now;
        self.cubic.on_end_acks(now, in_flight, app_limited, largest_acked);
    }

    fn on_congestion_event(&mut self, now: Instant, sent: Instant, is_persistent: bool, lost_bytes: u64) {
        self.in_flight = self.in_flight.saturating_sub(lost_bytes);
        self.cubic.on_congestion_event(now, sent, is_persistent, lost_bytes);
    }

    fn on_mtu_update(&mut self, mtu: u16) {
        self.mtu = u64::from(mtu);
        self.cubic.on_mtu_update(mtu);
    }

    fn window(&self) -> u64 {
        self.window_at(transport_now())
    }

    fn metrics(&self) -> ControllerMetrics {
        self.cubic.metrics()
    }

    fn clone_box(&self) -> Box<dyn Controller> {
        Box::new(self.clone())
    }

    fn initial_window(&self) -> u64 {
        self.cubic.initial_window()
    }

    fn into_any(self: Box<Self>) -> Box<dyn Any> {
        self
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_full_window_lets_one_packet_out_now_and_then() {
        let begun = transport_now();
        let cubic = Cubic::new(Arc::new(CubicConfig::default()), begun, 1_200);
        let full = cubic.window();
        let mut controller = NeverSilent { cubic, mtu: 1_200, in_flight: 0, sent: begun, acked: begun };
        let may_send = |controller: &NeverSilent, packets: u64, at: Instant| {
            controller.in_flight + packets * 1_200 < controller.window_at(at)
        };
        controller.on_sent(begun, full, 0);
        let later = begun + UNHEARD;
        assert!(!may_send(&controller, 1, begun) && !may_send(&controller, 1, begun + QUIET_MAX));
        assert!(may_send(&controller, 1, later) && !may_send(&controller, 2, later));
        controller.on_sent(later, 50, 1);
        assert!(!may_send(&controller, 1, later), "not two at once");
        assert!(may_send(&controller, 1, later + QUIET_MAX));
        controller.on_end_acks(later, 0, false, Some(1));
        assert_eq!(controller.window_at(later + QUIET_MAX), full, "there is room");
    }
}
