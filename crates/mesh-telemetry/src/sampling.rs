//! Which new traces are kept.
//!
//! The decision is made once, where a trace begins, and travels in the `traceparent`'s sampled flag;
//! every later hop obeys the flag. It depends on the trace id alone, so it needs no randomness and
//! nodes with the same ratio agree.

/// Decides for new traces by a ratio, as OpenTelemetry's `TraceIdRatioBased` does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RatioSampler {
    /// Traces whose low 63 bits are below this are kept.
    kept_below: u64,
}

impl RatioSampler {
    /// Returns a sampler that keeps this share of new traces; out-of-range values mean all or none.
    #[must_use]
    pub fn new(ratio: f64) -> Self {
        // A float-to-integer cast saturates, and makes 0 of NaN.
        Self { kept_below: (ratio.clamp(0.0, 1.0) * RANGE as f64) as u64 }
    }

    /// Returns whether a new trace with this id is kept.
    #[must_use]
    pub const fn keeps(&self, trace_id: u128) -> bool {
        (trace_id as u64 & (RANGE - 1)) < self.kept_below
    }
}

/// One more than the largest number of 63 bits.
const RANGE: u64 = 1 << 63;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keeps_the_share_asked_for() {
        for (ratio, expected) in [(0.0, 0), (0.25, 250), (0.5, 500), (1.0, 1000), (2.0, 1000), (f64::NAN, 0)]
        {
            let sampler = RatioSampler::new(ratio);
            let step = u64::MAX / 1000;
            let kept = (0..1000u64).filter(|n| sampler.keeps(u128::from(n * step))).count();
            assert!(kept.abs_diff(expected) <= 1, "{ratio}: {kept}");
        }
        assert!(RatioSampler::new(1.0).keeps(u128::MAX));
        assert!(!RatioSampler::new(0.0).keeps(0));
    }
}
