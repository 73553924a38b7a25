//! Desktop Agent Bridging on this machine: the node holds the bridge, or joins the one that is there.
//!
//! The ports of bridges are gone through in order. On the first that is free the node listens, and is the
//! bridge; where another program holds one and says `hello`, the node joins it as an agent. When that
//! bridge goes away, the search begins anew, and the node may come to hold the bridge itself. To the caller
//! all of this looks alike: it takes part as one agent, which sends and receives messages.
//!
//! What is decided, `proto_bridge` decides; here are sockets, the clock, and bounded queues. Agents are
//! admitted as applications are: from loopback, of the same user, and pages by their `Origin`.

mod hold;
mod seek;
#[cfg(test)]
mod tests;
pub mod tokens;

use std::fmt;
use std::ops::RangeInclusive;
use std::sync::Arc;
use std::time::Duration;

use mesh_model::{Json, Text};
use mesh_net::clock::Clock;
use proto_bridge::{BridgeSettings, ChannelsState, Message as BridgeMessage, Uuids};
use tokio::sync::mpsc;

use crate::config::Config;
use tokens::BridgeTokens;

/// Messages from the caller that wait for the bridge (limit `bridge_sent_max`). Sending more waits.
const SENT_MAX: usize = 16_384;
/// Events that wait for the caller (limit `bridge_events_max`). More are dropped, and the log says so.
const EVENTS_MAX: usize = 8_192;

/// What a node needs to take part.
#[derive(Clone)]
pub struct BridgeConfig {
    /// Whom to admit, and the limits of connections.
    pub node: Config,
    /// Where bridges are: [`AgentSettings::PORTS`].
    pub ports: RangeInclusive<u16>,
    /// The name to ask for.
    pub name: Text,
    /// What `getInfo` says of this node, an object.
    pub implementation: Json,
    /// How to be a bridge.
    pub settings: BridgeSettings,
    /// Says what is on the channels here, at the moment of joining.
    pub channels: Arc<dyn Fn() -> ChannelsState + Send + Sync>,
    /// What this node and whoever it meets prove themselves with; none: nobody is asked to.
    pub tokens: Option<Arc<BridgeTokens>>,
}

impl fmt::Debug for BridgeConfig {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("BridgeConfig").field("ports", &self.ports).field("name", &self.name).finish()
    }
}

/// What a caller learns.
#[derive(Debug)]
#[expect(clippy::large_enum_variant, reason = "moved a few times, and nearly always a message")]
pub enum BridgeEvent {
    /// The node takes part.
    Joined {
        /// Under this name.
        name: Text,
        /// At this port of 127.0.0.1.
        port: u16,
        /// As what.
        role: Role,
    },
    /// The bridge that the node had joined is gone; the search for the next has begun.
    Left,
    /// A message for the node: an update, a request, or an answer.
    Message(BridgeMessage),
}

/// How a node takes part.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    /// It holds the bridge.
    Bridge,
    /// It is an agent of a bridge that another program holds.
    Agent,
}

/// The caller's end. Once all clones are dropped, the node stops taking part.
#[derive(Clone, Debug)]
pub struct BridgeHandle {
    sent_tx: mpsc::Sender<BridgeMessage>,
}

/// The task that takes part has ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Stopped;

impl BridgeHandle {
    /// Says something as this node's agent: a request, or the answer to one. Ids, times and the node's name
    /// are set where they are not.
    ///
    /// # Errors
    ///
    /// Fails if the node no longer takes part.
    pub async fn send(&self, message: BridgeMessage) -> Result<(), Stopped> {
        self.sent_tx.send(message).await.map_err(|_| Stopped)
    }

    /// Says something as [`send`](Self::send) does, without waiting: if too much waits already, it is not
    /// said, and the log says so.
    pub(crate) fn say(&self, message: BridgeMessage) {
        if let Err(mpsc::error::TrySendError::Full(_)) = self.sent_tx.try_send(message) {
            tracing::error!(
                "the bridge does not take what the node says; a message is dropped (limit bridge_sent_max, {SENT_MAX})"
            );
        }
    }
}

/// Begins to take part.
#[must_use]
pub fn start(config: BridgeConfig) -> (BridgeHandle, mpsc::Receiver<BridgeEvent>) {
    let (sent_tx, sent_rx) = mpsc::channel(SENT_MAX);
    let (events_tx, events_rx) = mpsc::channel(EVENTS_MAX);
    let caller = Caller { sent_rx, events_tx };
    tokio::spawn(run(Arc::new(config), caller));
    (BridgeHandle { sent_tx }, events_rx)
}

/// The caller, as the task sees it.
struct Caller {
    sent_rx: mpsc::Receiver<BridgeMessage>,
    events_tx: mpsc::Sender<BridgeEvent>,
}

impl Caller {
    /// Never waits: a caller that waits for the bridge must not be waited for.
    fn tell(&self, event: BridgeEvent) {
        if let Err(mpsc::error::TrySendError::Full(_)) = self.events_tx.try_send(event) {
            tracing::error!(
                "the node does not take what the bridge has for it; a message is dropped (limit bridge_events_max, {EVENTS_MAX})"
            );
        }
    }
}

async fn run(config: Arc<BridgeConfig>, mut caller: Caller) {
    let clock = Clock::start();
    if let Some(listener) = seek::Seeker::new(&config, &clock).run(&mut caller).await {
        let port = listener.local_addr().map(|address| address.port()).unwrap_or_default();
        hold::Holder::new(config, clock).run(listener, port, &mut caller).await;
    }
}

fn uuids() -> Uuids {
    Uuids::new(|| {
        let mut bytes = [0; 16];
        // Ids need not be secrets: what fails here is a machine without randomness, which cannot do TLS.
        let _ = ring::rand::SecureRandom::fill(&ring::rand::SystemRandom::new(), &mut bytes);
        u128::from_le_bytes(bytes)
    })
}

async fn sleep_until(due_ms: Option<u64>, clock: &Clock) {
    match due_ms {
        Some(due_ms) => {
            tokio::time::sleep(Duration::from_millis(due_ms.saturating_sub(clock.wall_ms()))).await
        }
        None => std::future::pending().await,
    }
}
