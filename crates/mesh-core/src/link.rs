//! Links to other nodes: opening, heartbeats, batches, and what happens when one breaks.
//!
//! A link is opened by `Hello` and `Welcome`; nothing else is said before. Then both sides exchange the
//! vectors of the domain and batches of what the other lacks. The other node's applications are shown
//! once its first batch is whole. Silence longer than `suspect_ms` breaks the link: its node's
//! applications are withdrawn at once, its calls wait for a new link until `call_grace_ms` after it was last
//! heard; providers are told that its subscribers are gone, and subscriptions to it are kept until it is back
//! or `gone_ms` have passed.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use bytes::Bytes;
use mesh_model::link::{BatchEnd, Heard, LinkMessage, WireEntry, reject};
use mesh_model::{
    Cause, DomainId, Hlc, Incarnation, Lane, LinkId, LinkPeer, NodeId, Origin, Stamp, Text, Tick,
    VersionVector,
};

use crate::content::{Step, Write};
use crate::key::{self, ContextKey, Subject, UserKey};
use crate::node::Node;
use crate::party::Party;
use crate::registry::RemoteNode;
use crate::replica::{Changes, covers, covers_all, join};
use crate::session::parse_restriction;
use crate::{Notice, Output};

/// The one version of the mesh protocol so far.
const PROTOCOL: u16 = 1;
/// Bytes of batches that may be on their way over one link before more are made.
const BATCH_WINDOW_BYTES: usize = 1 << 20;
/// About how large a part of a batch is.
const BATCH_PART_BYTES: usize = 64 << 10;

/// A link to another node.
#[derive(Debug)]
pub(crate) struct Link {
    pub(crate) peer: NodeId,
    dialled: bool,
    pub(crate) incarnation: Incarnation,
    state: State,
    opened: Tick,
    heard: Tick,
    pinged: Tick,
    pings: u64,
    /// What the dialler has said of itself, while another link is asked whether it still serves.
    claim: Option<Claim>,
    /// The last measured round trip, in microseconds.
    pub(crate) rtt_us: Option<u64>,
    /// What the other side has covered once it has taken all that was sent; `None` before it has said
    /// what it has.
    vector: Option<VersionVector>,
    /// All entries that arrived before this have been considered for this link.
    cursor: u64,
    /// Whether there may be something to send.
    pub(crate) dirty: bool,
    in_flight: usize,
    stage: Vec<WireEntry>,
    stage_bytes: usize,
    stage_reset: bool,
    /// Whether its last batch was refused.
    refused: bool,
    /// Messages that wait for a write, in order.
    held: VecDeque<LinkMessage>,
    held_since: Tick,
}

const SERVES: &str = "another link between these nodes serves";
const NEWER_LIFE: &str = "a newer life of this node is known; if its data directory or disk was copied, stop the copy, delete its data directory and join with a new token";
/// How much later than the time of silence a node suspects another, at most, while it is late itself.
const LATE_MAX: u64 = 3;
/// How long it counts that this node was late.
const LATE_MS: u64 = 10_000;
/// How many times the bounds of a domain other nodes may fill: what is within them on two nodes that
/// were apart has to fit when they meet.
const APART: usize = 2;
/// Reasons that are kept until what they are about is withdrawn.
const WHYS_MAX: usize = 1_024;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    Opening,
    /// Opened by the dialler, and kept until it is certain that no other link serves.
    Waiting,
    Up,
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

impl Node {
    pub(crate) fn link_opened(&mut self, link: LinkId, peer: LinkPeer) {
        let now = self.now.tick;
        let new = Link {
            peer: peer.node,
            dialled: peer.dialled,
            incarnation: Incarnation(0),
            state: State::Opening,
            opened: now,
            heard: now,
            pinged: now,
            pings: 0,
            claim: None,
            rtt_us: None,
            vector: None,
            cursor: 0,
            dirty: false,
            in_flight: 0,
            stage: Vec::new(),
            stage_bytes: 0,
            stage_reset: false,
            refused: false,
            held: VecDeque::new(),
            held_since: now,
        };
        self.links.insert(link, new);
        if peer.node == self.settings.node {
            return self.close_link(link, reject::DUPLICATE, "this is the node itself");
        }
        if peer.dialled {
            // What serves is not replaced, and one dial of this node is enough: the other side can rely on it
            // that whoever says `Hello` had neither.
            let others = self.links_beside(link, peer.node);
            if others.iter().any(|(_, state, dialled)| *state == State::Up || *dialled) {
                return self.close_link(link, reject::DUPLICATE, SERVES);
            }
            let message = LinkMessage::Hello {
                protocol_min: PROTOCOL,
                protocol_max: PROTOCOL,
                incarnation: self.settings.incarnation,
                name: self.settings.name.clone(),
                wall_ms: self.now.wall_ms,
                addresses: self.settings.addresses.clone(),
            };
            self.emit(Output::Link { link, lane: Lane::Control, message });
        }
    }

    pub(crate) fn link_message(&mut self, link: LinkId, message: LinkMessage) {
        let now = self.now.tick;
        let Some(known) = self.links.get_mut(&link) else { return };
        known.heard = now;
        let (state, dialled, peer) = (known.state, known.dialled, known.peer);
        match (state, message) {
            (State::Opening, LinkMessage::Hello { protocol_min, protocol_max, incarnation, name, .. })
                if !dialled =>
            {
                if !(protocol_min..=protocol_max).contains(&PROTOCOL) {
                    let text = format!(
                        "this node speaks mesh protocol {PROTOCOL}, the other {protocol_min} to {protocol_max}; update the older one"
                    );
                    return self.reject_link(link, reject::VERSION, &text);
                }
                self.hello(link, peer, incarnation, name);
            }
            (State::Opening, LinkMessage::Welcome { incarnation, name, .. }) if dialled => {
                if self.nodes.get(&peer).is_some_and(|known| known.incarnation > incarnation) {
                    return self.close_link(link, reject::SUPERSEDED, "a newer life of that node is known");
                }
                self.link_up(link, peer, incarnation, name);
            }
            (State::Opening, LinkMessage::Reject { code, text }) => self.close_link(link, code, &text),
            (State::Opening, message)
                if dialled
                    && message.is_session_traffic()
                    && known.held.len() < self.settings.limits.held_messages_max =>
            {
                // The other side is up already, and its lanes are not ordered with each other: this has
                // overtaken the `Welcome`, and waits for it.
                known.held_since = now;
                known.held.push_back(message);
            }
            (State::Opening | State::Waiting, _) => {
                self.close_link(link, reject::PROTOCOL, "the first message was not the one that opens a link")
            }
            (State::Up, LinkMessage::Hello { .. } | LinkMessage::Welcome { .. }) => {
                self.close_link(link, reject::PROTOCOL, "the link is open already");
            }
            (State::Up, message) => self.message(link, peer, message),
        }
    }

    /// Decides whether a node that introduces itself is let in, and whether this link or another serves.
    fn hello(&mut self, link: LinkId, peer: NodeId, incarnation: Incarnation, name: Text) {
        let known_life = self.nodes.get(&peer).map(|node| node.incarnation);
        if known_life.is_some_and(|known| known > incarnation) {
            return self.reject_link(link, reject::SUPERSEDED, NEWER_LIFE);
        }
        let in_the_way = self.in_the_way(link, peer, incarnation);
        let asked = match in_the_way {
            Some((serving, State::Up)) => self.ping(serving).map(|count| (count, self.now.tick)),
            _ => None,
        };
        if let Some(known) = self.links.get_mut(&link) {
            known.state = State::Waiting;
            known.claim = Some(Claim { incarnation, name, asked });
        }
        if in_the_way.is_none() {
            self.accept_link(link);
        }
    }

    /// Returns the other links between this node and that one.
    fn links_beside(&self, link: LinkId, peer: NodeId) -> Vec<(LinkId, State, bool)> {
        let others = self.links.iter().filter(|(id, other)| **id != link && other.peer == peer);
        others.map(|(id, other)| (*id, other.state, other.dialled)).collect()
    }

    /// Returns the link that a node's new one has to wait for, if there is one.
    ///
    /// That is the one that serves, unless it led to an earlier life; it is asked, since the other side
    /// may have lost it. Else, of two dials at once, that of the smaller id wins on both sides alike.
    fn in_the_way(&self, link: LinkId, peer: NodeId, incarnation: Incarnation) -> Option<(LinkId, State)> {
        let others = self.links_beside(link, peer);
        let same_life = |id: &LinkId| self.links.get(id).is_some_and(|l| l.incarnation >= incarnation);
        let serving = others.iter().find(|(id, state, _)| *state == State::Up && same_life(id));
        let dialled = || {
            let own_first = self.settings.node < peer;
            others.iter().find(|(_, state, dialled)| own_first && *dialled && *state == State::Opening)
        };
        serving.or_else(dialled).map(|(id, state, _)| (*id, *state))
    }

    /// Lets a link serve whose dialler has introduced itself, in place of all others.
    fn accept_link(&mut self, link: LinkId) {
        let Some(known) = self.links.get_mut(&link) else { return };
        let (peer, Some(claim)) = (known.peer, known.claim.take()) else { return };
        known.state = State::Opening;
        if self.nodes.get(&peer).is_some_and(|node| node.incarnation > claim.incarnation) {
            return self.reject_link(link, reject::SUPERSEDED, NEWER_LIFE);
        }
        self.end_other_links(link, peer, claim.incarnation);
        let message = LinkMessage::Welcome {
            protocol: PROTOCOL,
            incarnation: self.settings.incarnation,
            name: self.settings.name.clone(),
            wall_ms: self.now.wall_ms,
            addresses: self.settings.addresses.clone(),
        };
        self.emit(Output::Link { link, lane: Lane::Control, message });
        self.link_up(link, peer, claim.incarnation, claim.name);
    }

    /// One link serves between two nodes: the others end.
    fn end_other_links(&mut self, link: LinkId, peer: NodeId, incarnation: Incarnation) {
        let others = self.links_beside(link, peer);
        for (other, ..) in &others {
            // None of them is to take the place of another now.
            if let Some(known) = self.links.get_mut(other) {
                known.claim = None;
            }
        }
        for (other, state, _) in others {
            if state == State::Waiting {
                self.reject_link(other, reject::DUPLICATE, SERVES);
                continue;
            }
            if self.link_to(peer) == Some(other) {
                self.hand_over(other, incarnation);
            }
            self.close_link(other, reject::DUPLICATE, "replaced by a newer link");
        }
    }

    /// The link that served is broken, and another of the same life is there to take its place: it is asked
    /// what became of the calls, and applications notice nothing.
    fn hand_over(&mut self, serving: LinkId, incarnation: Incarnation) {
        let Some(known) = self.links.get(&serving).filter(|link| link.incarnation == incarnation) else {
            return;
        };
        let (peer, heard) = (known.peer, known.heard);
        let Some(node) = self.nodes.get_mut(&peer) else { return };
        node.link = None;
        let name = node.name.clone();
        self.calls_wait(peer, heard.plus_millis(self.settings.timing.call_grace_ms));
        self.end_requests_over(serving, &name);
    }

    /// Looks at the links that wait: the one that serves has answered, or is no more.
    fn settle_claims(&mut self, peer: NodeId, answered: Option<u64>) {
        let waiting: Vec<(LinkId, Claim)> = self
            .links
            .iter()
            .filter(|(_, link)| link.peer == peer)
            .filter_map(|(id, link)| Some((*id, link.claim.clone()?)))
            .collect();
        for (id, claim) in waiting {
            let serves = claim.asked.is_some_and(|(count, _)| answered.is_some_and(|pong| pong >= count));
            if serves {
                self.reject_link(id, reject::DUPLICATE, SERVES);
            } else if self.links.contains_key(&id) && self.in_the_way(id, peer, claim.incarnation).is_none() {
                self.accept_link(id);
            }
        }
    }

    /// Sends a heartbeat, and returns its number.
    fn ping(&mut self, link: LinkId) -> Option<u64> {
        let known = self.links.get_mut(&link)?;
        known.pinged = self.now.tick;
        known.pings += 1;
        let count = known.pings;
        let message = LinkMessage::Ping { count, sent: self.now.tick.0 };
        self.emit(Output::Link { link, lane: Lane::Control, message });
        Some(count)
    }

    fn link_up(&mut self, link: LinkId, peer: NodeId, incarnation: Incarnation, name: Text) {
        if let Some(known) = self.links.get_mut(&link) {
            known.state = State::Up;
            known.incarnation = incarnation;
        }
        self.end_other_links(link, peer, incarnation);
        let node = self.know_node(peer, incarnation, name.clone());
        let restarted = node.incarnation < incarnation;
        node.incarnation = incarnation;
        node.link = Some(link);
        node.lost_at = None;
        if restarted {
            self.end_streams_with(peer);
        }
        self.cancel_all_of(peer, |origin| origin.incarnation < incarnation);
        let message = LinkMessage::DomainOpen {
            domain: self.settings.domain,
            vector: self.replica.vector().clone(),
            floor: self.replica.floor().clone(),
            hash: self.replica.hash(),
        };
        self.emit(Output::Link { link, lane: Lane::Control, message });
        self.attach_calls(peer, link);
        self.end_interests_of_node(peer);
        self.subscribe_again(peer, link);
        self.notice(Notice::NodeUp { node: peer, name });
        if let Some(known) = self.links.get_mut(&link) {
            known.held_since = self.now.tick;
        }
        self.release_held(link, false);
    }

    fn message(&mut self, link: LinkId, peer: NodeId, message: LinkMessage) {
        let Some(known) = self.links.get_mut(&link) else { return };
        // Sessions' traffic keeps its order: what comes behind a held message waits with it. Before the
        // first batch its senders are not shown here, and nothing of theirs may come before they are.
        if message.is_session_traffic() {
            let origin = Origin { node: peer, incarnation: known.incarnation };
            let covered = self.replica.vector().get(&origin).copied().unwrap_or(0) >= message.after();
            let shown = self.nodes.get(&peer).is_some_and(|node| node.shown);
            if !covered || !shown || !known.held.is_empty() {
                if known.held.is_empty() {
                    known.held_since = self.now.tick;
                }
                known.held.push_back(message);
                if known.held.len() > self.settings.limits.held_messages_max {
                    self.release_held(link, true);
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
                known.rtt_us = Some(self.now.tick.0.saturating_sub(sent));
                self.settle_claims(peer, Some(count));
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
            LinkMessage::DomainOpen { domain, vector, hash, floor: _ } => {
                self.domain_opened(link, domain, vector, hash)
            }
            LinkMessage::Batch { domain, entries, end, reset } => {
                self.batch_part(link, domain, entries, end, reset)
            }
            LinkMessage::Why { key, cause } => self.note_why(peer, key, cause),
            LinkMessage::Digest { domain, vector, hash, heard } => {
                if domain == self.settings.domain {
                    // A node that has nothing to send says only here what it has covered since.
                    let origin = Origin { node: peer, incarnation: known.incarnation };
                    self.node_said(origin, 0, &vector);
                    for other in &heard {
                        self.node_said(other.origin, other.age_ms, &other.vector);
                    }
                    self.compare(link, &vector, hash);
                }
            }
            LinkMessage::Attach { calls } => self.calls_asked_for(link, &calls),
            LinkMessage::CallState { known, unseen, forgotten } => {
                self.calls_told_of(link, peer, &known, &unseen, &forgotten);
            }
            message => self.traffic(link, peer, message),
        }
    }

    /// Sessions' traffic, once the writes it came after are here.
    fn traffic(&mut self, link: LinkId, peer: NodeId, message: LinkMessage) {
        match message {
            LinkMessage::Call { domain, .. } | LinkMessage::Publish { domain, .. }
                if domain != self.settings.domain =>
            {
                self.close_link(link, reject::PROTOCOL, "that domain is not this node's");
            }
            LinkMessage::Call { id, subscribe, from, to, method, arguments, millis_left, trace, .. } => {
                let time = millis_left;
                self.call_arrived(link, peer, id, subscribe, &from, &to, method, arguments, time, trace);
            }
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
            | LinkMessage::Digest { .. } => {}
        }
    }

    fn release_held(&mut self, link: LinkId, force: bool) {
        loop {
            let Some(known) = self.links.get_mut(&link) else { return };
            let Some(next) = known.held.front() else { return };
            let origin = Origin { node: known.peer, incarnation: known.incarnation };
            let covered = self.replica.vector().get(&origin).copied().unwrap_or(0) >= next.after();
            let peer = known.peer;
            let shown = self.nodes.get(&peer).is_some_and(|node| node.shown);
            let ready = covered && shown;
            if !ready && !force {
                return;
            }
            let Some(message) = known.held.pop_front() else { return };
            self.traffic(link, peer, message);
        }
    }

    // --- Replication.

    /// Tells the other nodes why an entry that is withdrawn now is; before the withdrawal itself, in the
    /// same lane.
    pub(crate) fn tell_why(&mut self, key: &Bytes, cause: &Cause) {
        let opened = self.links.iter().filter(|(_, link)| link.vector.is_some());
        let links: Vec<LinkId> = opened.map(|(id, _)| *id).collect();
        for link in links {
            let message = LinkMessage::Why { key: key.clone(), cause: cause.clone() };
            self.emit(Output::Link { link, lane: Lane::Replication, message });
        }
    }

    /// Notes why a neighbour is about to withdraw an entry. Without a note the usual reason is given.
    fn note_why(&mut self, peer: NodeId, key: Bytes, cause: Cause) {
        let foreign = key::owner(&key).is_some_and(|owner| owner != peer);
        if !foreign && self.whys.len() < WHYS_MAX {
            self.whys.insert((peer, key), cause);
        }
    }

    /// Returns why an entry was withdrawn, if its node or any neighbour has said so.
    pub(crate) fn why(&mut self, key: &Bytes) -> Option<Cause> {
        let noted = self.whys.keys().find(|(_, known)| known == key).cloned()?;
        self.whys.remove(&noted)
    }

    fn domain_opened(&mut self, link: LinkId, domain: DomainId, vector: VersionVector, hash: u64) {
        if domain != self.settings.domain {
            return self.close_link(link, reject::PROTOCOL, "that domain is not this node's");
        }
        let Some(known) = self.links.get_mut(&link) else { return };
        known.vector = Some(vector.clone());
        known.cursor = 0;
        known.dirty = true;
        self.compare(link, &vector, hash);
        // Even when there is nothing to say, an empty batch says so: only then are the applications
        // of this node shown over there.
        self.send_batch(link, true);
    }

    /// Equal vectors mean equal replicas. If not, something is wrong with this program: it is counted,
    /// and everything is sent again, which brings the two together whatever the cause was.
    fn compare(&mut self, link: LinkId, vector: &VersionVector, hash: u64) {
        if vector != self.replica.vector() || hash == self.replica.hash() {
            return;
        }
        self.divergences += 1;
        let count = self.divergences;
        let Some(known) = self.links.get_mut(&link) else { return };
        known.vector = Some(VersionVector::new());
        known.cursor = 0;
        known.dirty = true;
        let node = known.peer;
        self.notice(Notice::Divergence { node, count });
    }

    pub(crate) fn flush_links(&mut self) {
        let due: Vec<LinkId> = self.links.iter().filter(|(_, link)| link.dirty).map(|(id, _)| *id).collect();
        for link in due {
            self.flush_link(link);
        }
    }

    /// Sends what the other side lacks, if the link can take it. While it cannot, nothing is queued: a
    /// later batch carries the newest values only.
    pub(crate) fn flush_link(&mut self, link: LinkId) {
        let Some(known) = self.links.get(&link) else { return };
        if known.dirty
            && known.state == State::Up
            && known.vector.is_some()
            && known.in_flight < BATCH_WINDOW_BYTES
        {
            self.send_batch(link, false);
        }
    }

    fn send_batch(&mut self, link: LinkId, even_if_empty: bool) {
        let Some(known) = self.links.get_mut(&link) else { return };
        known.dirty = false;
        let Some(covered) = &mut known.vector else { return };
        // Tombstones that the other side has not seen are gone here: only a snapshot, which replaces what
        // it has, can tell it. This node may have learnt of that itself by a snapshot just now.
        let reset = !covers_all(covered, self.replica.floor());
        if reset {
            covered.clear();
            known.cursor = 0;
        }
        let entries = match known.cursor {
            0 => self.replica.news_for(covered),
            cursor => self.replica.news_since(cursor, covered),
        };
        let vector = self.replica.vector().clone();
        if entries.is_empty() && !even_if_empty && covers_all(covered, &vector) {
            return;
        }
        join(covered, &vector);
        known.cursor = self.replica.cursor();
        let end = BatchEnd { vector, floor: self.replica.floor().clone() };
        let mut parts: Vec<Vec<WireEntry>> = vec![Vec::new()];
        let mut bytes = 0;
        for entry in entries {
            let size = entry.key.len() + entry.value.as_ref().map_or(0, Bytes::len) + 64;
            known.in_flight += size;
            if bytes + size > BATCH_PART_BYTES && bytes > 0 {
                parts.push(Vec::new());
                bytes = 0;
            }
            bytes += size;
            if let Some(part) = parts.last_mut() {
                part.push(entry);
            }
        }
        let domain = self.settings.domain;
        let last = parts.pop().unwrap_or_default();
        for entries in parts {
            let message = LinkMessage::Batch { domain, entries, end: None, reset };
            self.emit(Output::Link { link, lane: Lane::Replication, message });
        }
        let message = LinkMessage::Batch { domain, entries: last, end: Some(end), reset };
        self.emit(Output::Link { link, lane: Lane::Replication, message });
    }

    pub(crate) fn link_drained(&mut self, link: LinkId) {
        if let Some(known) = self.links.get_mut(&link) {
            known.in_flight = 0;
        }
    }

    fn batch_part(
        &mut self,
        link: LinkId,
        domain: DomainId,
        entries: Vec<WireEntry>,
        end: Option<BatchEnd>,
        reset: bool,
    ) {
        let max = self.settings.limits.batch_bytes_max;
        let Some(known) = self.links.get_mut(&link) else { return };
        if domain != self.settings.domain {
            return self.close_link(link, reject::PROTOCOL, "that domain is not this node's");
        }
        known.stage_bytes +=
            entries.iter().map(|e| e.key.len() + e.value.as_ref().map_or(0, Bytes::len) + 64).sum::<usize>();
        known.stage_reset |= reset;
        if known.stage_bytes > max {
            return self.close_link(
                link,
                reject::PROTOCOL,
                "a batch is larger than the limit batch_bytes_max",
            );
        }
        known.stage.extend(entries);
        let Some(end) = end else { return };
        let stage = std::mem::take(&mut known.stage);
        known.stage_bytes = 0;
        let reset = std::mem::take(&mut known.stage_reset);
        let known_peer = known.peer;
        if let Err((limit, why)) = self.check_batch(&stage) {
            let node = known_peer;
            self.notice(Notice::BatchRefused { node, limit, why: why.as_str().into() });
            return self.close_link(link, reject::PROTOCOL, &why);
        }
        let Some(known) = self.links.get_mut(&link) else { return };
        let behind = !covers_all(&end.vector, self.replica.floor());
        let shared = stage.iter().any(|entry| key::owner(&entry.key).is_none());
        known.refused = behind && !reset && (shared || known.refused);
        if known.refused {
            // It has missed removals that are forgotten here, and what it writes may be older than they
            // are. It is sent a snapshot, and then sends again what it has that is not in there. What it
            // sends before that goes on from what was refused.
            known.dirty = true;
            return;
        }
        match &mut known.vector {
            // What it had not taken when it made its snapshot was of no use to it.
            covered if reset => (*covered, known.cursor) = (Some(end.vector.clone()), 0),
            Some(covered) => join(covered, &end.vector),
            None => {}
        }
        let origin = Origin { node: known.peer, incarnation: known.incarnation };
        let peer = known.peer;
        self.take_batch(peer, stage, &end, reset);
        self.node_said(origin, 0, &end.vector);
        if reset {
            self.send_batch(link, true);
        }
        if self.link_to(peer) == Some(link) {
            self.show_node(peer);
            if let Some(known) = self.links.get_mut(&link) {
                known.held_since = self.now.tick;
            }
        }
        // What came over another link may have waited for writes that this one brought.
        let waiting: Vec<LinkId> =
            self.links.iter().filter(|(_, link)| !link.held.is_empty()).map(|(id, _)| *id).collect();
        for link in waiting {
            self.release_held(link, false);
        }
    }

    /// Returns the limit that a batch breaks, and what to do. It is refused whole: a vector must not cover
    /// what was left out.
    fn check_batch(&self, entries: &[WireEntry]) -> Result<(), (&'static str, String)> {
        let limits = &self.settings.limits;
        let latest = self.now.wall_ms.saturating_add(limits.clock_skew_ms_max).min(u64::MAX >> 16);
        if let Some(ahead) =
            entries.iter().map(|entry| entry.hlc).max().filter(|hlc| *hlc > Hlc::from_wall_ms(latest))
        {
            let ahead = (ahead.0 - Hlc::from_wall_ms(self.now.wall_ms).0) / Hlc::from_wall_ms(1).0;
            let why = format!(
                "it is stamped {ahead} ms after this node's time, and the limit clock_skew_ms_max is {}; set both clocks and start the node that was ahead again",
                limits.clock_skew_ms_max
            );
            return Err(("clock_skew_ms_max", why));
        }
        let new: Vec<&WireEntry> =
            entries.iter().filter(|entry| self.replica.get(&entry.key).is_none()).collect();
        let count = self.replica.len() + new.len();
        if count > limits.domain_entries_max.saturating_mul(APART) {
            let why = format!(
                "with it the domain had {count} entries, more than {APART} times the limit domain_entries_max of {}; raise it, or remove contexts and registrations",
                limits.domain_entries_max
            );
            return Err(("domain_entries_max", why));
        }
        let size = |entry: &WireEntry| entry.key.len() + entry.value.as_ref().map_or(0, Bytes::len);
        let bytes = self.replica.bytes() + entries.iter().map(size).sum::<usize>();
        if !entries.is_empty() && bytes > limits.domain_bytes_max.saturating_mul(APART) {
            let why = format!(
                "with it the domain might have {bytes} bytes, more than {APART} times the limit domain_bytes_max of {}; raise it, or remove contexts and registrations",
                limits.domain_bytes_max
            );
            return Err(("domain_bytes_max", why));
        }
        Ok(())
    }

    /// Notes what a node has covered, by its own word or another's. It counts once this node has covered
    /// it too: then every write of that node which this one lacks was made after it knew of all these.
    fn node_said(&mut self, origin: Origin, age_ms: u64, vector: &VersionVector) {
        let covered = covers_all(self.replica.vector(), vector);
        let at = Tick(self.now.tick.0.saturating_sub(age_ms.saturating_mul(1000)));
        let Some(known) = self.nodes.get_mut(&origin.node) else { return };
        if known.said_in > origin.incarnation {
            return;
        }
        if known.said_in < origin.incarnation {
            known.said_in = origin.incarnation;
            known.said = VersionVector::new();
        }
        known.heard_at = known.heard_at.max(at);
        if covered {
            join(&mut known.said, vector);
        }
    }

    /// Returns the nodes whose word is needed before a tombstone may go: all but those of which nobody
    /// has heard for long. Whoever returns after that is sent a snapshot.
    fn awaited(&self) -> impl Iterator<Item = (NodeId, &RemoteNode)> + Clone {
        let timing = self.settings.timing;
        // A word may travel over other nodes, and each passes it on with its next digest.
        let away_ms = timing.tombstone_ms.max(timing.digest_ms.saturating_mul(4));
        let now = self.now.tick;
        self.nodes
            .iter()
            .filter(move |(_, node)| {
                node.link.is_some() || now.since(node.heard_at) < away_ms.saturating_mul(1000)
            })
            .map(|(id, node)| (*id, node))
    }

    fn drop_tombstones(&mut self) {
        let before = self.now.wall_ms.saturating_sub(self.settings.timing.tombstone_ms);
        // A new life has nothing of what the one before had covered.
        if self.awaited().any(|(_, node)| node.said_in < node.incarnation) {
            return;
        }
        let said: Vec<VersionVector> = self.awaited().map(|(_, node)| node.said.clone()).collect();
        self.replica.drop_tombstones(said.iter(), before);
    }

    /// A newer life of a node is known: the older one is over, though its link may not have noticed.
    pub(crate) fn older_life_ended(&mut self, node: NodeId, newer: Incarnation) {
        let Some(known) = self.nodes.get_mut(&node) else { return };
        known.incarnation = newer;
        if let Some(link) = known.link
            && self.links.get(&link).is_some_and(|link| link.incarnation < newer)
        {
            self.close_link(link, reject::SUPERSEDED, "a newer life of that node is known");
        }
        self.end_calls_to(node);
        self.end_streams_with(node);
    }

    /// Takes a whole batch: entries, then the vector that covers them, then what follows from it.
    ///
    /// If the sender has not seen all tombstones that were dropped here, what it brings and this node
    /// covers and does not have is deleted and forgotten; the sender is about to forget it too.
    fn take_batch(&mut self, peer: NodeId, mut entries: Vec<WireEntry>, end: &BatchEnd, reset: bool) {
        let mut changes = Changes::default();
        if !covers_all(&end.vector, self.replica.floor()) {
            entries.retain(|entry| !self.replica.has_forgotten(&entry.key, entry.dot));
        }
        let before = (!reset).then(|| self.views_before(entries.iter().map(|entry| &entry.key)));
        let mut stale = BTreeSet::new();
        if reset {
            // Both sides may have forgotten removals that the other has missed.
            if !covers_all(&end.vector, self.replica.floor()) {
                let new = entries.iter().filter(|entry| !covers(self.replica.vector(), entry.dot));
                stale.extend(new.filter_map(|entry| key::context(&entry.key)));
            }
            self.replica.reset_to(self.origin(), &entries, end, &mut changes);
            let unsent = self.replica.news_for(&end.vector);
            stale.extend(unsent.iter().filter_map(|entry| key::context(&entry.key)));
        }
        let news = !covers_all(self.replica.vector(), &end.vector) || !entries.is_empty();
        let own = self.settings.node;
        let mut returned_keys = Vec::new();
        for entry in entries {
            if key::parse(&entry.key).is_none()
                && entry.key.first().is_none_or(|kind| b"NIMTRCP".contains(kind))
            {
                let why = "its key is malformed".into();
                self.notice(Notice::EntryRefused { node: peer, why });
                continue;
            }
            // Nobody else can know what this life of this node wrote better than it does itself. If it does
            // not know it any more, it is gone, and the others have to hear that again.
            if key::owner(&entry.key) == Some(own) {
                let returned = entry.value.is_some() && self.replica.get(&entry.key).is_none();
                if returned && entry.dot.origin == self.origin() {
                    returned_keys.push(Write { key: entry.key, value: None });
                }
                continue;
            }
            self.saw(entry.hlc);
            let stamp = Stamp { hlc: entry.hlc, dot: entry.dot };
            self.replica.merge(&entry.key, stamp, entry.value, self.now.wall_ms, &mut changes);
        }
        let mut vector = end.vector.clone();
        vector.remove(&self.origin());
        self.replica.cover(&vector, &mut changes);
        if !returned_keys.is_empty() {
            self.write(returned_keys);
        }
        for context in stale {
            self.write_again(&context);
        }
        if news {
            for link in self.links.values_mut() {
                link.dirty = true;
            }
        }
        let mut keys = changes.keys;
        keys.sort();
        keys.dedup();
        let subjects: Vec<Subject> = keys.iter().filter_map(key::parse).collect();
        self.registry_changed(&subjects);
        self.contexts_changed(subjects, before.as_ref());
    }

    /// Makes one's own, under new stamps, all that is in a context.
    ///
    /// After a long absence some of it may be older than removals which some nodes remember and others
    /// have forgotten: with its old stamps it would be hidden on the ones and shown on the others.
    fn write_again(&mut self, context: &ContextKey) {
        let (header, root) = (context.header(), context.root());
        let mut writes: BTreeMap<Stamp, Step> = BTreeMap::new();
        for (key, entry) in self.replica.below(&header).chain(self.replica.below(&root)) {
            let write = Write { key: key.clone(), value: entry.value.clone() };
            writes.entry(entry.stamp).or_default().push(write);
        }
        for step in writes.into_values() {
            self.write(step);
        }
    }

    // --- Liveness.

    pub(crate) fn link_to(&self, node: NodeId) -> Option<LinkId> {
        self.nodes.get(&node).and_then(|node| node.link)
    }

    pub(crate) fn link_timers(&mut self) {
        let (now, timing) = (self.now.tick, self.settings.timing);
        self.note_lateness();
        let suspect_ms = self.suspect_ms();
        let links: Vec<LinkId> = self.links.keys().copied().collect();
        for id in links {
            let Some(link) = self.links.get_mut(&id) else { continue };
            match link.state {
                State::Opening | State::Waiting if now.since(link.opened) >= timing.open_ms * 1000 => {
                    self.close_link(id, reject::PROTOCOL, "the link was not opened in time");
                }
                State::Opening => {}
                State::Waiting => {
                    let asked = link.claim.as_ref().and_then(|claim| claim.asked);
                    if asked.is_some_and(|(_, at)| now.since(at) >= timing.heartbeat_ms * 1000) {
                        self.accept_link(id);
                    }
                }
                State::Up => {
                    // A heartbeat that is this late means that this node itself was stopped: what the
                    // other said meanwhile is still waiting to be read.
                    let stalled = now.since(link.pinged) > (timing.heartbeat_ms + 600) * 1000;
                    if stalled {
                        link.heard = Tick(now.0.saturating_sub((suspect_ms - timing.heartbeat_ms) * 1000));
                    }
                    if now.since(link.heard) >= suspect_ms * 1000 {
                        let text = format!("nothing heard for {} ms", now.since(link.heard) / 1000);
                        self.close_link(id, 0, &text);
                        continue;
                    }
                    if now.since(link.pinged) >= timing.heartbeat_ms * 1000 {
                        self.ping(id);
                    }
                    if self.held_until(id).is_some_and(|until| now >= until) {
                        self.release_held(id, true);
                    }
                }
            }
        }
        let waited = |node: &RemoteNode| node.calls_wait_until.is_some_and(|until| now >= until);
        let waited: Vec<NodeId> =
            self.nodes.iter().filter(|(_, node)| waited(node)).map(|(id, _)| *id).collect();
        for node in waited {
            self.end_calls_to(node);
        }
        let gone: Vec<NodeId> = self
            .nodes
            .iter()
            .filter(|(_, node)| node.lost_at.is_some_and(|at| now.since(at) >= timing.gone_ms * 1000))
            .map(|(id, _)| *id)
            .collect();
        for node in gone {
            self.cancel_all_of(node, |_| true);
            self.end_streams_with(node);
            let Some(known) = self.nodes.get_mut(&node) else { continue };
            known.lost_at = None;
            let name = known.name.clone();
            self.notice(Notice::NodeGone { node, name });
        }
        if now >= self.next_digest {
            self.next_digest = now.plus_millis(timing.digest_ms);
            self.send_digests();
            self.drop_tombstones();
        }
    }

    /// A node that is late itself, since its machine has too much to do, must not accuse the others of it.
    fn note_lateness(&mut self) {
        let (now, heartbeat_ms) = (self.now.tick, self.settings.timing.heartbeat_ms);
        if now >= self.late.1 {
            self.late.0 = 0;
        }
        let up = self.links.values().filter(|link| link.state == State::Up);
        if up.map(|link| now.since(link.pinged)).max().is_some_and(|since| since > heartbeat_ms * 1500) {
            self.late = ((self.late.0 + 1).min(LATE_MAX), now.plus_millis(LATE_MS));
        }
    }

    /// Returns how long the other side of a link may be silent.
    const fn suspect_ms(&self) -> u64 {
        self.settings.timing.suspect_ms * (1 + self.late.0)
    }

    /// Asks all nodes for a sign of life, and waits for it no longer than two heartbeats.
    pub(crate) fn check_links(&mut self) {
        let allowed_ms = self.suspect_ms().saturating_sub(self.settings.timing.heartbeat_ms * 2);
        let heard = Tick(self.now.tick.0.saturating_sub(allowed_ms * 1000));
        let up = self.links.iter_mut().filter(|(_, link)| link.state == State::Up);
        let up: Vec<LinkId> = up
            .map(|(id, link)| {
                link.heard = heard;
                *id
            })
            .collect();
        for link in up {
            self.ping(link);
        }
    }

    fn send_digests(&mut self) {
        let opened = self.links.iter().filter(|(_, link)| link.vector.is_some());
        let opened: Vec<LinkId> = opened.map(|(id, _)| *id).collect();
        for link in opened {
            let peer = self.links.get(&link).map(|link| link.peer);
            let heard = self.awaited().filter(|(id, _)| Some(*id) != peer).map(|(id, node)| Heard {
                origin: Origin { node: id, incarnation: node.said_in },
                age_ms: self.now.tick.since(node.heard_at) / 1000,
                vector: node.said.clone(),
            });
            let message = LinkMessage::Digest {
                domain: self.settings.domain,
                vector: self.replica.vector().clone(),
                hash: self.replica.hash(),
                heard: heard.collect(),
            };
            // In the order of the batches: what is compared is what they brought.
            self.flush_link(link);
            self.emit(Output::Link { link, lane: Lane::Replication, message });
        }
    }

    pub(crate) fn link_timeout(&self) -> Option<Tick> {
        let timing = self.settings.timing;
        let of_links = self.links.iter().flat_map(|(id, link)| {
            let opening = (link.state != State::Up).then(|| link.opened.plus_millis(timing.open_ms));
            let asked = link.claim.as_ref().and_then(|claim| claim.asked);
            let answer = asked.map(|(_, at)| at.plus_millis(timing.heartbeat_ms));
            let up = (link.state == State::Up).then(|| {
                link.pinged.plus_millis(timing.heartbeat_ms).min(link.heard.plus_millis(self.suspect_ms()))
            });
            [opening, answer, up, self.held_until(*id)].into_iter().flatten()
        });
        let of_nodes =
            self.nodes.values().filter_map(|node| node.lost_at).map(|at| at.plus_millis(timing.gone_ms));
        let of_calls = self.nodes.values().filter_map(|node| node.calls_wait_until);
        of_links.chain(of_nodes).chain(of_calls).chain([self.next_digest]).min()
    }

    /// Returns when what a link's messages wait for counts as late. The first batch comes or the link
    /// breaks, so that waiting for it has no end of its own.
    fn held_until(&self, link: LinkId) -> Option<Tick> {
        let link = self.links.get(&link).filter(|link| link.state == State::Up && !link.held.is_empty())?;
        let shown = self.nodes.get(&link.peer).is_some_and(|node| node.shown);
        shown.then(|| link.held_since.plus_millis(self.settings.timing.hold_ms))
    }

    fn reject_link(&mut self, link: LinkId, code: u16, text: &str) {
        if let Some(known) = self.links.get(&link).filter(|_| code != reject::DUPLICATE) {
            let node = known.peer;
            self.notice(Notice::LinkRefused { node, reason: text.into() });
        }
        let message = LinkMessage::Reject { code, text: text.into() };
        self.emit(Output::Link { link, lane: Lane::Control, message });
        self.close_link(link, code, text);
    }

    fn close_link(&mut self, link: LinkId, code: u16, text: &str) {
        self.emit(Output::CloseLink { link, code, text: text.into() });
        self.link_closed(link, &text.into());
    }

    pub(crate) fn link_closed(&mut self, link: LinkId, reason: &Text) {
        let Some(known) = self.links.get(&link) else { return };
        let (peer, incarnation, heard) = (known.peer, known.incarnation, known.heard);
        // The rejection may be lost to the close that follows it, which has the same words.
        if known.dialled && known.state == State::Opening && !reason.contains(SERVES) {
            self.notice(Notice::LinkRefused { node: peer, reason: reason.clone() });
        }
        let served = self.link_to(peer) == Some(link);
        let mut claims =
            self.links.values().filter(|link| link.peer == peer).filter_map(|link| link.claim.as_ref());
        if served && claims.any(|claim| claim.incarnation == incarnation) {
            self.hand_over(link, incarnation);
        } else if served {
            self.node_unreachable(peer, link, heard, reason);
        }
        self.links.remove(&link);
        self.settle_claims(peer, None);
        if served && self.nodes.get(&peer).is_some_and(|node| node.link.is_none() && node.lost_at.is_none()) {
            self.node_unreachable(peer, link, heard, reason);
        }
    }

    fn node_unreachable(&mut self, peer: NodeId, link: LinkId, heard: Tick, reason: &Text) {
        let Some(node) = self.nodes.get_mut(&peer) else { return };
        node.link = None;
        node.lost_at = Some(self.now.tick);
        let name = node.name.clone();
        self.calls_wait(peer, heard.plus_millis(self.settings.timing.call_grace_ms));
        self.end_requests_over(link, &name);
        self.end_interests_of_node(peer);
        self.whys.retain(|(node, _), _| *node != peer);
        self.hide_node(peer, &Cause::Unreachable);
        self.notice(Notice::NodeDown { node: peer, name, reason: reason.clone() });
    }

    /// Tells the other nodes that this one leaves on purpose.
    pub(crate) fn leave_mesh(&mut self) {
        let links: Vec<LinkId> = self.links.keys().copied().collect();
        for link in links {
            let message = LinkMessage::Goaway { reason: "the node is shutting down".into() };
            self.emit(Output::Link { link, lane: Lane::Control, message });
        }
    }
}
