//! How a bridge, and an agent of one, behave: times and bounds by name.

use std::ops::RangeInclusive;

use mesh_model::limits::JsonLimits;
use mesh_model::{Json, Text};

use crate::channels::ChannelLimits;

/// How a bridge behaves.
#[derive(Clone, Debug)]
pub struct BridgeSettings {
    /// What `hello` says of this bridge.
    pub bridge_version: Text,
    /// The versions of FDC3 that `hello` names.
    pub fdc3_versions: Vec<Text>,
    /// Whether agents must show a token.
    pub authentication: Authentication,
    /// How long a connection may take for its handshake, and the caller for checking its token.
    pub handshake_timeout_ms: u64,
    /// How long agents may take for an answer that starts nothing: `findIntent`, `findIntentsByContext`,
    /// `findInstances`, `getAppMetadata` (Bridging, *Collating Responses*: 1500 ms).
    pub find_timeout_ms: u64,
    /// How long an agent may take for `open` and `raiseIntent`, which may have to start an app.
    pub start_timeout_ms: u64,
    /// Agents of these providers (`implementationMetadata.provider`) wait 15 s and no longer, for anything.
    pub impatient_providers: Vec<Text>,
    /// When they are answered at the latest.
    pub impatient_timeout_ms: u64,
    /// After so many answers in a row that did not come, an agent is waited for only
    /// `unanswering_timeout_ms` by requests that ask everybody.
    pub unanswered_in_row: u32,
    /// See `unanswered_in_row`.
    pub unanswering_timeout_ms: u64,
    /// An agent that owes `unanswered_in_row` answers and has sent nothing at all for so long is
    /// disconnected (Bridging, *Workflows Broken By Disconnects*).
    pub silence_ms_max: u64,
    /// For how long the name of an agent that left is kept for it.
    pub name_grace_ms: u64,
    /// The bounds.
    pub limits: BridgeLimits,
}

impl Default for BridgeSettings {
    fn default() -> Self {
        Self {
            bridge_version: Text::from_static("1.0"),
            fdc3_versions: vec![Text::from_static("2.2")],
            authentication: Authentication::Off,
            handshake_timeout_ms: 10_000,
            find_timeout_ms: 1_500,
            start_timeout_ms: 60_000,
            impatient_providers: Vec::new(),
            impatient_timeout_ms: 14_000,
            unanswered_in_row: 3,
            unanswering_timeout_ms: 200,
            silence_ms_max: 60_000,
            name_grace_ms: 60_000,
            limits: BridgeLimits::default(),
        }
    }
}

/// Whether agents must show a token with their handshake (Bridging, steps 2 to 4).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Authentication {
    /// No: who can connect may join.
    #[default]
    Off,
    /// Yes. The bridge asks its caller about each ([`Output::CheckToken`](crate::Output::CheckToken)).
    Tokens,
}

/// What a stranger can make a bridge keep. Reaching a bound is answered with an error or a close that names
/// it, or noted ([`Notice::Limit`](crate::Notice::Limit)).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BridgeLimits {
    /// Agents that are connected, named or not (`bridge_agents_max`). Further ones are turned away.
    pub agents_max: usize,
    /// Longest name of an agent in bytes, before a number is added (`bridge_name_bytes_max`). Longer ones
    /// are cut.
    pub name_bytes_max: usize,
    /// Names kept for agents that left (`bridge_former_names_max`). The oldest is let go.
    pub former_names_max: usize,
    /// Messages in a row that say too little to be answered (`bridge_unreadable_max`). The connection is
    /// closed.
    pub unreadable_max: usize,
    /// Requests of one agent that wait for their answer (`bridge_requests_max`). Further ones are refused.
    pub requests_max: usize,
    /// Intents raised by one agent whose result is outstanding (`bridge_results_max`). The oldest ends with
    /// an error.
    pub results_max: usize,
    /// Requests remembered after their end, so that their ids are not used again
    /// (`bridge_recent_requests_max`). The oldest is forgotten.
    pub recent_requests_max: usize,
    /// How complicated a message may be. Less than what anybody reads, because a context that is kept stands
    /// deeper in the updates that pass it on.
    pub json: JsonLimits,
    /// What is kept of channels. More is passed on and not kept.
    pub channels: ChannelLimits,
}

impl Default for BridgeLimits {
    fn default() -> Self {
        Self {
            agents_max: 64,
            name_bytes_max: 128,
            former_names_max: 256,
            unreadable_max: 10,
            requests_max: 1_024,
            results_max: 4_096,
            recent_requests_max: 8_192,
            json: JsonLimits::default(),
            channels: ChannelLimits::default(),
        }
    }
}

/// How an agent of a bridge behaves.
#[derive(Clone, Debug)]
pub struct AgentSettings {
    /// Where a bridge may be, in the order of trying (Bridging, step 1: 4475 to 4575).
    pub ports: RangeInclusive<u16>,
    /// The name the agent asks for.
    pub requested_name: Text,
    /// What `getInfo` says of it, an object without `appMetadata`.
    pub implementation: Json,
    /// How long a port may take for connecting and saying `hello`.
    pub port_timeout_ms: u64,
    /// How long the bridge may take to answer the handshake.
    pub join_timeout_ms: u64,
    /// Between the last port and the first (Bridging, step 1: at least 5 s).
    pub pause_ms: u64,
    /// Between the loss of a bridge and the search for the next.
    pub redial_ms: u64,
    /// How long the bridge may take for an answer that starts nothing (Bridging, *Collating Responses*).
    pub find_timeout_ms: u64,
    /// How long it may take for `open` and `raiseIntent`.
    pub start_timeout_ms: u64,
    /// Requests that wait for their answer, and intents whose result is outstanding, each
    /// (`bridge_requests_max`). Further ones fail; the oldest result is given up.
    pub requests_max: usize,
}

impl AgentSettings {
    /// Where bridges are by the standard (Bridging, *Connection*).
    pub const PORTS: RangeInclusive<u16> = 4475..=4575;

    /// The defaults, for an agent of that name.
    #[must_use]
    pub const fn new(requested_name: Text, implementation: Json) -> Self {
        Self {
            ports: Self::PORTS,
            requested_name,
            implementation,
            port_timeout_ms: 750,
            join_timeout_ms: 10_000,
            pause_ms: 5_000,
            redial_ms: 1_000,
            find_timeout_ms: 3_000,
            start_timeout_ms: 90_000,
            requests_max: 4_096,
        }
    }
}
