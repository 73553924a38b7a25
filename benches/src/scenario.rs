//! What is measured of every system.

use std::time::Duration;

use anyhow::Result;
use serde::Serialize;

use crate::load::{self, Plan, Sample};
use crate::process::Meter;
use crate::protocol::{Endpoints, Fan, Protocol};

/// One row group of the table.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Scenario {
    /// Calls, one after the other.
    InvokeOne,
    /// Calls, 64 open at any time.
    InvokeMany,
    /// Stream data to ten subscribers.
    Stream,
    /// Context updates to ten subscribers.
    Context,
}

impl Scenario {
    /// All of them, in the order of the report.
    pub(crate) const ALL: [Self; 4] = [Self::InvokeOne, Self::InvokeMany, Self::Stream, Self::Context];

    /// The name on the command line and in JSON.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::InvokeOne => "invoke-one",
            Self::InvokeMany => "invoke-many",
            Self::Stream => "stream",
            Self::Context => "context",
        }
    }

    /// The heading of its table.
    pub(crate) fn title(self) -> &'static str {
        match self {
            Self::InvokeOne => "invoke, 1 in flight",
            Self::InvokeMany => "invoke, 64 in flight",
            Self::Stream => "stream to 10 subscribers",
            Self::Context => "context updates to 10 subscribers",
        }
    }

    /// Runs it once against a started system.
    ///
    /// A fan-out runs twice: at a moderate rate for the latencies, and as fast as it goes for the rest.
    pub(crate) async fn run(
        self,
        protocol: Protocol,
        endpoints: Endpoints,
        run: &mut u32,
        plan: Plan,
        meter: &Meter,
    ) -> Result<Sample> {
        let mut next = || {
            *run += 1;
            *run
        };
        let fan = match self {
            Self::InvokeOne => {
                return load::invoke(protocol.invoke(endpoints, next()).await?, 1, plan, meter).await;
            }
            Self::InvokeMany => {
                return load::invoke(protocol.invoke(endpoints, next()).await?, IN_FLIGHT, plan, meter).await;
            }
            Self::Stream => Fan::Stream,
            Self::Context => Fan::Context,
        };
        let steady = protocol.fanout(fan, endpoints, next()).await?;
        let steady = load::fanout_at_rate(steady, plan, meter).await?;
        // What is still queued behind the last subscriber belongs to the run before.
        tokio::time::sleep(PAUSE).await;
        let full = protocol.fanout(fan, endpoints, next()).await?;
        let full = load::fanout_full(full, plan, meter).await?;
        Ok(Sample { p50_us: steady.p50_us, p99_us: steady.p99_us, ..full })
    }
}

/// Open calls of [`Scenario::InvokeMany`].
const IN_FLIGHT: usize = 64;
const PAUSE: Duration = Duration::from_millis(50);
