//! What nodes say to each other on a link. The bytes are the business of `mesh-wire`.

use bytes::Bytes;

use crate::command::Arguments;
use crate::event::{Cause, Outcome};
use crate::trace::TraceContext;
use crate::{CallId, DomainId, Dot, Hlc, Incarnation, InstanceId, Json, Lane, NodeId, Origin, Text};

/// For each life of each node, the highest write that is covered.
pub type VersionVector = std::collections::BTreeMap<Origin, u64>;

/// A replicated entry as it travels.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WireEntry {
    /// What it is about; see `mesh_core::key`.
    pub key: Bytes,
    /// The write that made it.
    pub dot: Dot,
    /// When.
    pub hlc: Hlc,
    /// Its value; `None` is a tombstone.
    pub value: Option<Bytes>,
}

/// What another node has covered, as its neighbour knows it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Heard {
    /// Which life of which node.
    pub origin: Origin,
    /// How long ago it said so, in milliseconds.
    pub age_ms: u64,
    /// Where what it said that it has covered is less than what the sender of the digest has covered; 0 where it is
    /// nothing.
    pub vector: VersionVector,
}

/// The end of a batch: what the receiver has covered once it has taken it.
///
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct BatchEnd {
    /// What has changed of the sender's vector since it last said so on the same link: in the end of a batch, in a
    /// digest, or in its `DomainOpen`.
    pub vector: VersionVector,
    /// The writes whose tombstones the sender has dropped; in the end of a reset only, and whole.
    pub floor: VersionVector,
    /// Whether it has all that the last snapshot of the receiver does not cover, whatever became of the
    /// batches before it.
    pub answer: bool,
}

/// What one node passes on between two others.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Carried {
    /// At the two ends.
    Message(Box<LinkMessage>),
    /// At the node between them, which does not read it: the encoded message.
    Frame(Bytes),
}

/// One message between nodes. `docs/protocols/mesh.md` has them all.
///
/// `after` is the sender's last own write in the domain when it sent the message: the receiver waits
/// (bounded) until it has covered it, so that "update, then call" is never seen the other way round.
#[derive(Clone, Debug, PartialEq, Eq)]
#[expect(missing_docs, reason = "fields are described on the protocol page")]
pub enum LinkMessage {
    /// First words of the dialling node.
    Hello {
        protocol_min: u16,
        protocol_max: u16,
        incarnation: Incarnation,
        name: Text,
        wall_ms: u64,
        addresses: Vec<Text>,
        /// A hash of what the sender has covered of lives that are over; 0 if of none. If both ends say the
        /// same, neither repeats it in its `DomainOpen`.
        over: u64,
    },
    /// The answer that opens the link; nothing else is sent before it.
    Welcome {
        protocol: u16,
        incarnation: Incarnation,
        name: Text,
        wall_ms: u64,
        addresses: Vec<Text>,
        /// As in `Hello`.
        over: u64,
    },
    /// The answer that closes it.
    Reject { code: u16, text: Text },
    /// I am here. Answered, so that both sides know the time a trip takes.
    Ping { count: u64, sent: u64 },
    /// The answer.
    Pong { count: u64, sent: u64 },
    /// This node leaves on purpose.
    Goaway { reason: Text },

    /// Opens a domain: what this node has covered of it. If it says so, the answer is to wait for a `Have`:
    /// another node is about to bring what this one may lack, too.
    DomainOpen {
        domain: DomainId,
        vector: VersionVector,
        /// Whether the vector is without what both ends have said with `over`.
        without_over: bool,
        hash: u64,
        awaits_another: bool,
    },
    /// A part of a batch; with `end` it is the last one and the whole takes effect.
    Batch { domain: DomainId, entries: Vec<WireEntry>, end: Option<BatchEnd>, reset: bool },
    /// What this node has covered by now, though it did not come from the receiver.
    Have { domain: DomainId, vector: VersionVector },
    /// What this node holds, to be compared where vectors are equal, and what it has heard from others.
    Digest { domain: DomainId, vector: VersionVector, hash: u64, heard: Vec<Heard> },

    /// To which other nodes this one has links, and would pass messages on.
    Neighbours { nodes: Vec<NodeId> },
    /// Asks a neighbour to pass this on to `node`, in this lane.
    Relay { node: NodeId, channel: u64, lane: Lane, carried: Carried },
    /// What `node` has asked the sender to pass on.
    Relayed { node: NodeId, channel: u64, carried: Carried },

    /// Run a method, or ask for a subscription.
    Call {
        id: CallId,
        subscribe: bool,
        from: InstanceId,
        to: InstanceId,
        method: Json,
        arguments: Arguments,
        millis_left: u64,
        after: u64,
        trace: Option<TraceContext>,
    },
    /// The call has been given to the callee's application.
    Accepted { id: CallId },
    /// Before what follows in this lane: its senders may know of the receiver's writes up to this one, which
    /// their node has covered.
    Covered { seq: u64 },
    /// Nobody waits for the end of the call any more.
    Cancel { id: CallId },
    /// Asks what became of these calls of this life, which went over an earlier link. All others that went
    /// over an earlier one are given up.
    Attach { calls: Vec<CallId> },
    /// The answer: these run or their ends follow, these never came and never will run, and of these nothing
    /// is known any more.
    CallState { known: Vec<CallId>, unseen: Vec<CallId>, forgotten: Vec<CallId> },
    /// How it ended.
    CallEnd { id: CallId, outcome: Outcome, after: u64 },
    /// A subscription is accepted and bound to a branch of its provider.
    SubscriptionAccepted { id: CallId, branch: u64 },
    /// Data of a branch, once for all its subscribers on the receiving node.
    BranchData { branch: u64, data: Json, sequence: Option<Json>, snapshot: Option<Json>, after: u64 },
    /// Data for one subscription.
    PrivateData { id: CallId, data: Json, sequence: Option<Json>, snapshot: Option<Json>, after: u64 },
    /// The provider's side ended a subscription.
    SubscriptionEnd { id: CallId, cause: Cause },
    /// There is room again for a subscription that has ended as too slow.
    SubscriptionRoom { id: CallId },
    /// The subscriber's side gave it up.
    Unsubscribe { id: CallId, cause: Cause },

    /// Why the entry of this key is withdrawn in the next batch, if not for the usual reason.
    Why { key: bytes::Bytes, cause: Cause },

    /// A publication for the receiver's subscribers.
    Publish {
        user: Option<Text>,
        /// Whether the publisher serves all users.
        service: bool,
        /// What the publisher asks of receivers' identities.
        restriction: Option<Text>,
        topic: Text,
        routing_key: Option<Text>,
        target: Option<Json>,
        publisher: Json,
        data: Json,
        after: u64,
    },
}

/// Codes of [`LinkMessage::Reject`].
pub mod reject {
    /// No protocol version in common.
    pub const VERSION: u16 = 1;
    /// Another link between the same two nodes serves.
    pub const DUPLICATE: u16 = 2;
    /// A newer life of that node is known.
    pub const SUPERSEDED: u16 = 3;
    /// The first message was not `Hello`.
    pub const PROTOCOL: u16 = 4;
    /// The node between the two does not pass messages on, or has no link to the other.
    pub const NO_ROUTE: u16 = 5;
}

impl LinkMessage {
    /// Returns whether the message must be held until this write of the sender is covered.
    #[must_use]
    pub const fn after(&self) -> u64 {
        match self {
            Self::Call { after, .. }
            | Self::CallEnd { after, .. }
            | Self::BranchData { after, .. }
            | Self::PrivateData { after, .. }
            | Self::Publish { after, .. } => *after,
            _ => 0,
        }
    }

    /// Returns whether this is traffic between sessions, as against talk between nodes.
    #[must_use]
    pub const fn is_session_traffic(&self) -> bool {
        match self {
            Self::Call { .. }
            | Self::Covered { .. }
            | Self::Accepted { .. }
            | Self::Cancel { .. }
            | Self::CallEnd { .. }
            | Self::SubscriptionAccepted { .. }
            | Self::BranchData { .. }
            | Self::PrivateData { .. }
            | Self::SubscriptionEnd { .. }
            | Self::SubscriptionRoom { .. }
            | Self::Unsubscribe { .. }
            | Self::Publish { .. } => true,
            Self::Hello { .. }
            | Self::Welcome { .. }
            | Self::Reject { .. }
            | Self::Ping { .. }
            | Self::Pong { .. }
            | Self::Goaway { .. }
            | Self::DomainOpen { .. }
            | Self::Attach { .. }
            | Self::CallState { .. }
            | Self::Batch { .. }
            | Self::Have { .. }
            | Self::Why { .. }
            | Self::Neighbours { .. }
            | Self::Relay { .. }
            | Self::Relayed { .. }
            | Self::Digest { .. } => false,
        }
    }

    /// Returns the bytes of the application's payload.
    #[must_use]
    pub fn payload_len(&self) -> usize {
        match self {
            Self::Call { arguments, .. } => arguments.len(),
            Self::CallEnd { outcome: Outcome::Answered(crate::Answer::Result(Some(result))), .. } => {
                result.len()
            }
            Self::CallEnd {
                outcome: Outcome::Answered(crate::Answer::Error { context: Some(context), .. }),
                ..
            } => context.len(),
            Self::BranchData { data, .. } | Self::PrivateData { data, .. } | Self::Publish { data, .. } => {
                data.len()
            }
            _ => 0,
        }
    }
}

/// Who a link's other end is, as its certificate proves.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LinkPeer {
    /// The node.
    pub node: NodeId,
    /// Whether this node dialled.
    pub dialled: bool,
}
