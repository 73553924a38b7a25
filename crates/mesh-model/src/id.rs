//! Names of things: nodes, links, sessions, app instances, writes.
//!
//! Numbers that could be mistaken for each other are newtypes. Ids that travel to applications are
//! [`Text`]; those that only a node or a link uses are numbers.

use std::fmt;

use crate::Text;

/// A node: one gateway process of one operating-system session. 16 bytes of its key's hash.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct NodeId(pub [u8; 16]);

impl NodeId {
    /// Parses the 32 lower-case hexadecimal digits that [`Display`](fmt::Display) writes.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        if text.len() != 32 || !text.is_ascii() {
            return None;
        }
        let mut bytes = [0u8; 16];
        for (byte, pair) in bytes.iter_mut().zip(text.as_bytes().chunks(2)) {
            *byte = u8::from_str_radix(std::str::from_utf8(pair).ok()?, 16).ok()?;
        }
        Some(Self(bytes))
    }

    /// Returns the first eight digits, for logs and tables.
    #[must_use]
    pub fn short(&self) -> String {
        self.to_string()[..8].to_owned()
    }
}

impl fmt::Display for NodeId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl fmt::Debug for NodeId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "NodeId({})", &self.to_string()[..8])
    }
}

/// One life of a node: larger than any it had before.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Incarnation(pub u64);

/// A visibility domain: the partition of state, routing, trust and failure. Normally one owner.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct DomainId(pub [u8; 16]);

/// One life of one node: the source of numbered writes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Origin {
    /// The node.
    pub node: NodeId,
    /// Its life.
    pub incarnation: Incarnation,
}

/// Names one write: no two writes of the mesh share a dot.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Dot {
    /// Who wrote.
    pub origin: Origin,
    /// Counts the writes of that origin, from 1.
    pub seq: u64,
}

/// An authenticated connection between this node and another. Never reused within a process.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct LinkId(pub u64);

/// One application's attachment to this node. Never reused within a process.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SessionId(pub u64);

/// A call or a request for a subscription, as its caller's node counts them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct CallId(pub u64);

/// An app instance as the whole mesh knows it: unique over all nodes, stable over link flaps, and
/// beginning with a letter, since clients keep it as a key where digits would sort first.
pub type InstanceId = Text;

/// Which of a link's ordered flows a message takes.
///
/// Messages of one lane arrive in order; nothing is promised between lanes but what
/// [`LinkMessage`](crate::LinkMessage) carries in its `after` field.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Lane {
    /// Handshake, heartbeats, digests. Highest priority.
    Control,
    /// Batches of replicated entries.
    Replication,
    /// Calls, results, stream data and publications of the sessions that map to this number.
    Session(u8),
    /// A stream of its own for one large message. Lowest priority.
    Bulk,
}

/// How many [`Lane::Session`] lanes a link has.
pub const SESSION_LANES: u8 = 4;
