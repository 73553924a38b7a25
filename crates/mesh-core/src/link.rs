//! Links to other nodes: opening, heartbeats, batches, and what happens when one breaks.
//!
//! A link is opened by `Hello` and `Welcome`; nothing else is said before. Then both sides exchange the
//! vectors of the domain and batches of what the other lacks. The other node's applications are shown
//! once its first batch is whole. Silence longer than `suspect_ms` breaks the link: its node's
//! applications are withdrawn at once, its calls wait for a new link until `call_grace_ms` after it was last
//! heard; providers are told that its subscribers are gone, and subscriptions to it are kept until it is back
//! or `gone_ms` have passed.

mod drain;
mod held;
mod liveness;
mod opening;
mod relay;
mod replication;
mod restraint;
mod retirement;

use std::collections::BTreeSet;

use mesh_model::link::{LinkMessage, WireEntry};
use mesh_model::{Incarnation, Lane, LinkId, NodeId, Origin, Text, Tick};

use self::drain::Drain;
use self::held::Held;
use self::relay::Via;
use self::restraint::Restraint;
use crate::Output;
use crate::best::Distance;
use crate::causal::Told;
use crate::key::UserKey;
use crate::node::Node;
use crate::party::Party;
use crate::session::parse_restriction;
use crate::vector::Vector;

/// A link to another node.
#[derive(Clone, Debug)]
pub(crate) struct Link {
    pub(crate) peer: NodeId,
    dialled: bool,
    /// How a relayed link gets there.
    via: Option<Via>,
    /// Since another link serves in its place, and it only brings what was on its way.
    drains: Option<Drain>,
    /// To whom the other end has direct links, as it says, and what it was told of this end's.
    neighbours: BTreeSet<NodeId>,
    told: BTreeSet<NodeId>,
    pub(crate) incarnation: Incarnation,
    state: State,
    opened: Tick,
    heard: Tick,
    /// When a heartbeat was last due here, and when one was last sent.
    beaten: Tick,
    pinged: Tick,
    pings: u64,
    /// What the dialler has said of itself, while another link is asked whether it still serves.
    claim: Option<Claim>,
    /// The last measured round trip, in microseconds.
    pub(crate) rtt_us: Option<u64>,
    /// How far the other side is, by the round trips measured.
    pub(crate) distance: Distance,
    /// What the other side has covered once it has taken all that was sent; `None` before it has said
    /// what it has.
    vector: Option<Vector>,
    /// All entries that arrived before this have been considered for this link.
    cursor: u64,
    /// What is not sent, since others do.
    restraint: Restraint,
    /// Whether there may be something to send.
    pub(crate) dirty: bool,
    in_flight: usize,
    stage: Vec<WireEntry>,
    stage_bytes: usize,
    stage_reset: bool,
    /// Whether a batch was refused, and with it all that go on from it.
    refused: bool,
    /// Whether the next batch is the answer to a snapshot.
    answers: bool,
    /// What this end has said of its vector, and what it has heard of the other's. Messages say only what has
    /// changed: vectors only grow, and the lane keeps its order.
    said_vector: Vector,
    heard_vector: Vector,
    /// What each end has said of lives that are over, until both have opened the domain.
    over: Over,
    /// What has come in the lane of batches before the other end's `DomainOpen`, which it goes on from.
    early: Vec<LinkMessage>,
    /// What each end has covered of the other's writes, as said before sessions' traffic.
    pub(crate) said: Told,
    /// Messages that wait for a write.
    held: Held,
}

/// What the two ends of a link have said of lives that are over, before they say what they have covered.
#[derive(Clone, Debug, Default)]
struct Over {
    said: Vector,
    said_hash: u64,
    heard_hash: u64,
}

impl Over {
    /// Returns what both have covered alike, if they have.
    fn agreed(&self) -> Option<&Vector> {
        (self.said_hash == self.heard_hash && self.said_hash != 0).then_some(&self.said)
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    Opening,
    /// Opened by the dialler, and kept until it is certain that no other link serves.
    Waiting,
    Up,
}

#[cfg(test)]
impl Link {
    /// Adds to a hash all that decides how batches go on, counting arrivals in no absolute numbers.
    pub(crate) fn mix(&self, replica: &crate::replica::Replica, into: &mut impl std::hash::Hasher) {
        use std::hash::Hash;
        let stage: Vec<_> = self.stage.iter().map(|entry| (&entry.key, entry.dot)).collect();
        (self.state == State::Up, self.incarnation, &self.vector, self.cursor == 0).hash(into);
        (self.dirty, stage, self.stage_reset, self.refused, self.answers).hash(into);
        (&self.said_vector, &self.heard_vector, self.over.said_hash, self.over.heard_hash).hash(into);
        format!("{:?}", self.early).hash(into);
        self.restraint.mixed().hash(into);
        replica.arrived_since(self.cursor).for_each(|key| key.hash(into));
    }

    /// Returns how many components the vectors of this link keep for themselves at most.
    pub(crate) fn unshared_max(&mut self) -> usize {
        let ends = [&mut self.said_vector, &mut self.heard_vector].into_iter();
        let all = ends.chain(&mut self.vector).chain(self.restraint.vectors());
        all.map(|vector| vector.unshared().len()).max().unwrap_or(0)
    }

    /// Returns whether something waits for the other side's `DomainOpen`.
    pub(crate) const fn has_early(&self) -> bool {
        !self.early.is_empty()
    }

    /// Returns whether the first batch is kept until the other side has that of another.
    pub(crate) const fn keeps_first(&self) -> bool {
        self.restraint.keeps_first()
    }
}

/// A node that wants its new link to serve in place of another.
#[derive(Clone, Debug)]
struct Claim {
    incarnation: Incarnation,
    name: Text,
    /// The ping that asks the serving link, and when it went. While this node's own dial is being opened
    /// there is nothing to ask.
    asked: Option<(u64, Tick)>,
}

impl Link {
    /// The life of the node at the other end.
    pub(crate) const fn origin(&self) -> Origin {
        Origin { node: self.peer, incarnation: self.incarnation }
    }
}

impl Node {
    fn message(&mut self, link: LinkId, lane: Lane, peer: NodeId, message: LinkMessage) {
        let Some(known) = self.links.get_mut(&link) else { return };
        if known.drains.is_some() && !drain::is_awaited(&message, &self.subscriptions) {
            return;
        }
        // Sessions' traffic keeps its order: what a lane brings behind a held message waits with it. Before the
        // first batch its senders are not shown here, and nothing of theirs may come before they are.
        if message.is_session_traffic() {
            let origin = Origin { node: peer, incarnation: known.incarnation };
            let covered = self.replica.vector().upto(&origin) >= message.after();
            let shown = self.nodes.get(&peer).is_some_and(|node| node.shown);
            if !covered || !shown || known.held.blocks(lane) {
                known.held.push(lane, message, self.now.tick);
                if known.held.len() > self.settings.limits.held_messages_max {
                    self.release_held(link, Some(Tick(u64::MAX)));
                }
                return;
            }
        }
        match message {
            LinkMessage::Ping { count, sent } => {
                self.emit(Output::Link {
                    link,
                    lane: Lane::Control,
                    message: LinkMessage::Pong { count, sent },
                });
            }
            LinkMessage::Pong { count, sent } => {
                let rtt_us = self.now.tick.0.saturating_sub(sent);
                known.rtt_us = Some(rtt_us);
                known.distance = known.distance.after(rtt_us);
                if self.link_to(peer) == Some(link) {
                    self.settle_claims(peer, Some(count));
                }
            }
            LinkMessage::Goaway { reason } => {
                self.close_link(link, 0, &reason);
                self.end_calls_to(peer);
                self.cancel_all_of(peer, |_| true);
                if let Some(node) = self.nodes.get_mut(&peer) {
                    node.lost_at = None;
                }
                self.end_streams_with(peer);
            }
            LinkMessage::DomainOpen { domain, vector, without_over, hash, awaits_another } => {
                self.domain_opened(link, domain, vector, without_over, hash, awaits_another);
            }
            message @ (LinkMessage::Batch { .. } | LinkMessage::Why { .. } | LinkMessage::Digest { .. })
                if known.vector.is_none() =>
            {
                self.keep_early(link, message);
            }
            LinkMessage::Have { domain, vector } => self.note_have(link, domain, &vector),
            LinkMessage::Batch { domain, entries, end, reset } => {
                self.batch_part(link, domain, entries, end, reset)
            }
            LinkMessage::Why { key, cause } => self.note_why(peer, key, cause),
            LinkMessage::Digest { domain, vector, hash, heard } if domain == self.settings.domain => {
                self.digest(link, &vector, hash, &heard);
            }
            LinkMessage::Digest { .. } => {}
            LinkMessage::Neighbours { nodes } => self.note_neighbours(link, nodes),
            LinkMessage::Relay { node, channel, lane, carried } => {
                self.relay(link, node, channel, lane, carried);
            }
            LinkMessage::Relayed { node, channel, carried } => {
                self.relayed(link, lane, node, channel, carried)
            }
            LinkMessage::Attach { calls } => {
                self.calls_asked_for(link, &calls);
                self.other_end_drained(peer);
            }
            LinkMessage::CallState { known, unseen, forgotten } => {
                self.calls_told_of(link, peer, &known, &unseen, &forgotten);
            }
            message => self.traffic(link, lane, peer, message),
        }
    }

    /// Sessions' traffic, once the writes it came after are here.
    fn traffic(&mut self, link: LinkId, lane: Lane, peer: NodeId, message: LinkMessage) {
        // What came by itself may have overtaken what would say how much its sender had covered.
        let covered = self.links.get(&link).map(|known| known.said.covered);
        self.comes_of(covered.filter(|_| lane != Lane::Bulk).unwrap_or(self.seq));
        match message {
            LinkMessage::Call { id, subscribe, from, to, method, arguments, millis_left, trace, .. } => {
                let time = millis_left;
                self.call_arrived(link, peer, id, subscribe, &from, &to, method, arguments, time, trace);
            }
            LinkMessage::Covered { seq } => self.note_covered(link, seq),
            LinkMessage::Accepted { id } => self.call_accepted(peer, id),
            LinkMessage::Cancel { id } => self.call_cancelled(link, id),
            LinkMessage::CallEnd { id, outcome, .. } => self.call_ended(peer, id, outcome),
            LinkMessage::SubscriptionAccepted { id, branch } => self.subscription_accepted(peer, id, branch),
            LinkMessage::BranchData { branch, data, sequence, snapshot, .. } => {
                self.branch_data(peer, branch, &data, sequence.as_ref(), snapshot.as_ref());
            }
            LinkMessage::PrivateData { id, data, sequence, snapshot, .. } => {
                self.private_data(peer, id, data, sequence, snapshot);
            }
            LinkMessage::SubscriptionEnd { id, cause } => self.remote_subscription_ended(peer, id, cause),
            LinkMessage::SubscriptionRoom { id } => self.room_for_subscription(peer, id),
            LinkMessage::Unsubscribe { id, cause } => self.unsubscribed(peer, id, &cause),
            LinkMessage::Publish {
                user,
                service,
                restriction,
                topic,
                routing_key,
                target,
                publisher,
                data,
                ..
            } => {
                // What cannot be understood is for nobody: it may be what its app wanted hidden.
                let Ok(restriction) = parse_restriction(restriction.as_ref()) else { return };
                let user = UserKey::new(user.as_ref());
                let (identity, restriction) = (&publisher, restriction.as_ref());
                let from = Party { user: &user, service, identity, restriction };
                self.deliver(from, true, &topic, routing_key.as_ref(), target.as_ref(), &data);
            }
            LinkMessage::Why { .. }
            | LinkMessage::Hello { .. }
            | LinkMessage::Welcome { .. }
            | LinkMessage::Reject { .. }
            | LinkMessage::Ping { .. }
            | LinkMessage::Pong { .. }
            | LinkMessage::Goaway { .. }
            | LinkMessage::DomainOpen { .. }
            | LinkMessage::Attach { .. }
            | LinkMessage::CallState { .. }
            | LinkMessage::Batch { .. }
            | LinkMessage::Have { .. }
            | LinkMessage::Neighbours { .. }
            | LinkMessage::Relay { .. }
            | LinkMessage::Relayed { .. }
            | LinkMessage::Digest { .. } => {}
        }
    }

    /// Lets go on what need not wait any more, and what waits since then or for longer.
    fn release_held(&mut self, link: LinkId, late: Option<Tick>) {
        while let Some(known) = self.links.get_mut(&link) {
            let peer = known.peer;
            let covered = self.replica.vector().upto(&known.origin());
            let shown = self.nodes.get(&peer).is_some_and(|node| node.shown);
            let Some((lane, message)) = known.held.pop(late, |held| shown && covered >= held.after()) else {
                return;
            };
            self.traffic(link, lane, peer, message);
        }
    }

    /// Returns when what a link's messages wait for counts as late. The first batch comes or the link
    /// breaks, so that waiting for it has no end of its own.
    fn held_until(&self, link: LinkId) -> Option<Tick> {
        let link = self.links.get(&link).filter(|link| link.state == State::Up && !link.held.is_empty())?;
        let shown = self.nodes.get(&link.peer).is_some_and(|node| node.shown);
        let oldest = link.held.oldest().filter(|_| shown)?;
        Some(oldest.plus_millis(self.settings.timing.hold_ms))
    }
}
