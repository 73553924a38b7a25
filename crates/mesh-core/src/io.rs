//! All that goes into a node and all that comes out.

use mesh_model::trace::Hop;
use mesh_model::{Command, Event, Lane, LinkId, LinkMessage, LinkPeer, NodeId, SessionId, Text, Tick};

use crate::Recognition;

use crate::visibility::Visibility;

/// What happens to a node.
#[derive(Clone, Debug)]
pub enum Input {
    /// An application asks for something. The first command of a session is `Attach`.
    Session {
        /// Who asks.
        session: SessionId,
        /// What it asks.
        command: Command,
    },
    /// An application's connection is gone.
    SessionClosed {
        /// Whose.
        session: SessionId,
        /// When anything last came from the application, be it an answer to a ping: what this node has
        /// told it since may be lost. `None` if it said goodbye, and so will not return.
        heard: Option<Tick>,
    },
    /// At the start: a former life of this node knew this session.
    SessionRemembered(Recognition),
    /// An application reads too slowly for what it is asked to run: an invocation, or a request for a
    /// subscription, was not given to it.
    NotTaken {
        /// Who was asked.
        session: SessionId,
        /// The invocation or subscription.
        id: u64,
        /// The limit that was reached, with its value.
        limit: Text,
    },
    /// An application reads too slowly for one of its subscriptions, which is to end.
    TooSlow {
        /// Who reads.
        session: SessionId,
        /// The subscription.
        subscription: u64,
    },
    /// A link has no room left for a message of this kind: it was not sent.
    NotSent {
        /// The link.
        link: LinkId,
        /// What was to be sent.
        message: LinkMessage,
        /// The limit that was reached.
        limit: Text,
    },
    /// This node has slept, or its network is another one: links may be broken without a sign of it.
    Disturbed,
    /// Other nodes may dial this one here from now on.
    Addresses(Vec<Text>),
    /// A link to an authenticated node of the same owner is there.
    LinkOpened {
        /// The link.
        link: LinkId,
        /// Who is at its other end, as its certificate proves.
        peer: LinkPeer,
    },
    /// A message came over a link.
    Link {
        /// The link.
        link: LinkId,
        /// Which lane brought it.
        lane: Lane,
        /// What it says.
        message: LinkMessage,
    },
    /// What was given to a link's replication lane has been handed to the transport.
    LinkDrained {
        /// The link.
        link: LinkId,
    },
    /// A link that had no room for a message has some again.
    LinkEased {
        /// The link.
        link: LinkId,
    },
    /// A message that this node passes on for another was not taken by its next link.
    NotRelayed {
        /// That link.
        link: LinkId,
        /// Who sent it.
        node: NodeId,
        /// By which channel.
        channel: u64,
    },
    /// A link is gone.
    LinkClosed {
        /// The link.
        link: LinkId,
        /// Why, in words.
        reason: Text,
    },
    /// This node leaves on purpose: the others are told.
    Leave,
    /// The operator has changed what other nodes get to know.
    Visibility(Box<Visibility>),
}

/// What a node wants done.
#[derive(Clone, Debug)]
pub enum Output {
    /// Tell an application.
    Event {
        /// Whom.
        session: SessionId,
        /// What.
        event: Event,
    },
    /// Close an application's session; it has no more events.
    CloseSession {
        /// Whose.
        session: SessionId,
        /// Why.
        reason: CloseReason,
    },
    /// Send to another node.
    Link {
        /// Over which link.
        link: LinkId,
        /// In which of its ordered flows.
        lane: Lane,
        /// What.
        message: LinkMessage,
    },
    /// Close a link.
    CloseLink {
        /// Which.
        link: LinkId,
        /// A code of [`mesh_model::link::reject`], or 0.
        code: u16,
        /// Why, in words.
        text: Text,
    },
    /// A node of the domain can be dialled at these addresses.
    NodeSeen {
        /// The node.
        node: NodeId,
        /// Its addresses.
        addresses: Vec<Text>,
    },
    /// A hop of a traced call has ended.
    Hop(Box<Hop>),
    /// Something an operator may want to read.
    Notice(Notice),
}

/// Why a node closes a session by itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CloseReason {
    /// The same identity has logged in again, on another connection.
    TakenOver,
}

/// What an operator may want to read.
#[derive(Clone, Debug, PartialEq, Eq)]
#[expect(missing_docs, reason = "the fields are what the sentence needs")]
pub enum Notice {
    /// Another node can be reached.
    NodeUp { node: NodeId, name: Text, by_way_of: Option<Text> },
    /// It cannot any more.
    NodeDown { node: NodeId, name: Text, reason: Text },
    /// The link to it takes less than streams push: its subscriptions wait until it has room again.
    LinkSlow { node: NodeId, name: Text },
    /// It was away too long, or lives a new life.
    NodeGone { node: NodeId, name: Text },
    /// A link that was to be opened is refused, here or at the other side; not because another one serves.
    LinkRefused { node: NodeId, reason: Text },
    /// That node knows a newer life of this one: their data directory or disk was copied, or set back.
    Superseded { node: NodeId },
    /// Two replicas cover the same writes and differ: a defect. They are brought together again.
    Divergence { node: NodeId, count: u64 },
    /// A batch from another node would break a bound; its link was closed.
    BatchRefused { node: NodeId, limit: &'static str, why: Text },
    /// An entry from another node was refused.
    EntryRefused { node: NodeId, why: Text },
}
