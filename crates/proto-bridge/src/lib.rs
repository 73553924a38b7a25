//! Desktop Agent Bridging (FDC3 2.2): how the desktop agents of one machine hear of each other's apps.
//!
//! [`Bridge`] is the bridge's side: it greets agents, names them, keeps their channels alike, passes
//! requests on and collates the answers. [`BridgeAgent`] is the other side: it looks for a bridge, joins
//! it, and asks through it. Both are state machines without sockets, clock or randomness: time is an
//! argument in milliseconds since 1970 that does not go back, and ids come from a function that the caller
//! passes in. After each `handle` or `handle_timeout` the caller drains `poll_output` to its end.
//!
//! A message is a [`Message`]: its envelope is decoded, its payload stays the text it came in. Contexts
//! are never decoded and encoded again.

mod agent;
mod bridge;
mod channels;
mod collate;
mod message;
mod names;
mod settings;
#[cfg(test)]
mod simulation;
#[cfg(test)]
mod tests;
mod uuids;

pub use agent::{AgentInput, AgentOutput, BridgeAgent};
pub use bridge::{AgentId, Bridge, Closing, Input, Notice, Output, Verdict};
pub use channels::{ChannelLimits, ChannelsState, Listeners, Telling};
pub use message::{
    Answered, DecodeError, Exchange, Failure, Message, MessageType, Meta, Participant, Problem,
    UUID_BYTES_MAX, error,
};
pub use settings::{AgentSettings, Authentication, BridgeLimits, BridgeSettings};
pub use uuids::{Uuids, timestamp};
