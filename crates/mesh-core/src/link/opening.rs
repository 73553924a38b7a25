//! How a link is opened and how it ends, and which of several between two nodes serves.

use std::collections::BTreeSet;

use mesh_model::link::{LinkMessage, reject};
use mesh_model::{Incarnation, Lane, LinkId, LinkPeer, NodeId, Text, VersionVector};

use super::held::Held;
use super::relay::Via;
use super::restraint::Restraint;
use super::{Claim, Link, Over, State};
use crate::best::Distance;
use crate::causal::Told;
use crate::node::Node;
use crate::replica;
use crate::vector::Vector;
use crate::{Notice, Output};

/// The one version of the mesh protocol so far.
const PROTOCOL: u16 = 1;
const SERVES: &str = "another link between these nodes serves";
const REPLACED: &str = "replaced by a newer link";
pub(super) const LEAVES: &str = "the node is shutting down";
const NEWER_LIFE: &str =
    "a newer life of this node is known: its data directory or disk was copied, or set back";
/// The same of another node.
pub(super) const NEWER_LIFE_THERE: &str = "a newer life of that node is known";

impl Node {
    pub(crate) fn link_opened(&mut self, link: LinkId, peer: LinkPeer) {
        self.open_link(link, peer, None);
    }

    pub(super) fn open_link(&mut self, link: LinkId, peer: LinkPeer, via: Option<Via>) {
        let now = self.now.tick;
        let new = Link {
            peer: peer.node,
            dialled: peer.dialled,
            via,
            drains: None,
            neighbours: BTreeSet::new(),
            told: BTreeSet::new(),
            incarnation: Incarnation(0),
            state: State::Opening,
            opened: now,
            heard: now,
            beaten: now,
            pinged: now,
            pings: 0,
            claim: None,
            rtt_us: None,
            distance: Distance::default(),
            vector: None,
            cursor: 0,
            restraint: Restraint::default(),
            dirty: false,
            in_flight: 0,
            stage: Vec::new(),
            stage_bytes: 0,
            stage_reset: false,
            refused: false,
            answers: false,
            held: Held::default(),
            said_vector: Vector::default(),
            heard_vector: Vector::default(),
            over: Over::default(),
            early: Vec::new(),
            said: Told::default(),
        };
        self.links.insert(link, new);
        if peer.node == self.settings.node {
            return self.close_link(link, reject::DUPLICATE, "this is the node itself");
        }
        if self.leaves {
            return self.close_link(link, 0, LEAVES);
        }
        if peer.dialled {
            // What serves is not replaced, and one dial of this node is enough: the other side can rely on it
            // that whoever says `Hello` had neither.
            let others = self.rivals(link, peer.node);
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
                over: self.say_over(link),
            };
            self.emit(Output::Link { link, lane: Lane::Control, message });
        }
    }

    pub(crate) fn link_message(&mut self, link: LinkId, lane: Lane, message: LinkMessage) {
        let now = self.now.tick;
        let Some(known) = self.links.get_mut(&link) else { return };
        known.heard = now;
        let (state, dialled, peer) = (known.state, known.dialled, known.peer);
        match (state, message) {
            (
                State::Opening,
                LinkMessage::Hello { protocol_min, protocol_max, incarnation, name, over, .. },
            ) if !dialled => {
                if !(protocol_min..=protocol_max).contains(&PROTOCOL) {
                    let text = format!(
                        "this node speaks mesh protocol {PROTOCOL}, the other {protocol_min} to {protocol_max}; update the older one"
                    );
                    return self.reject_link(link, reject::VERSION, &text);
                }
                known.over.heard_hash = over;
                self.hello(link, peer, incarnation, name);
            }
            (State::Opening, LinkMessage::Welcome { incarnation, name, over, .. }) if dialled => {
                known.over.heard_hash = over;
                if self.known_life(peer).is_some_and(|known| known > incarnation) {
                    return self.close_link(link, reject::SUPERSEDED, NEWER_LIFE_THERE);
                }
                if !self.drains_at_once(link, peer, incarnation) {
                    self.link_up(link, peer, incarnation, name);
                }
            }
            (State::Opening, LinkMessage::Reject { code, text }) => {
                self.hear_whether_superseded(link, &text);
                self.close_link(link, code, &text);
            }
            (State::Opening, message)
                if dialled
                    && message.is_session_traffic()
                    && known.held.len() < self.settings.limits.held_messages_max =>
            {
                // The other side is up already, and its lanes are not ordered with each other: this has
                // overtaken the `Welcome`, and waits for it.
                known.held.push(lane, message, now);
            }
            (State::Opening | State::Waiting, _) => {
                self.close_link(link, reject::PROTOCOL, "the first message was not the one that opens a link")
            }
            (State::Up, LinkMessage::Hello { .. } | LinkMessage::Welcome { .. }) => {
                self.close_link(link, reject::PROTOCOL, "the link is open already");
            }
            (State::Up, message) => self.message(link, lane, peer, message),
        }
    }

    /// Returns what to say of lives that are over, and notes it.
    fn say_over(&mut self, link: LinkId) -> u64 {
        self.share_many();
        let said = self.replica.vector().shared();
        let said_hash = replica::hash_of(&said);
        if let Some(known) = self.links.get_mut(&link) {
            (known.over.said, known.over.said_hash) = (said, said_hash);
        }
        said_hash
    }

    /// Decides whether a node that introduces itself is let in, and whether this link or another serves.
    fn hello(&mut self, link: LinkId, peer: NodeId, incarnation: Incarnation, name: Text) {
        if self.known_life(peer).is_some_and(|known| known > incarnation) {
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

    /// Returns the newest life known of a node, be it one that is retired.
    fn known_life(&self, node: NodeId) -> Option<Incarnation> {
        self.nodes.get(&node).map(|node| node.incarnation).or_else(|| self.replica.newest(node))
    }

    /// Returns the other links between this node and that one.
    fn links_beside(&self, link: LinkId, peer: NodeId) -> Vec<(LinkId, State, bool)> {
        let others = self.links.iter().filter(|(id, other)| **id != link && other.peer == peer);
        others.map(|(id, other)| (*id, other.state, other.dialled)).collect()
    }

    /// Returns those of them that may stand in its way: a direct link does not wait for a relayed one.
    fn rivals(&self, link: LinkId, peer: NodeId) -> Vec<(LinkId, State, bool)> {
        let mut others = self.links_beside(link, peer);
        if self.is_direct(link) {
            others.retain(|(other, ..)| self.is_direct(*other));
        }
        others
    }

    /// Returns the link that a node's new one has to wait for, if there is one.
    ///
    /// That is the one that serves, unless it led to an earlier life; it is asked, since the other side
    /// may have lost it. Else, of two dials at once, that of the smaller id wins on both sides alike.
    fn in_the_way(&self, link: LinkId, peer: NodeId, incarnation: Incarnation) -> Option<(LinkId, State)> {
        let others = self.rivals(link, peer);
        let same_life = |id: &LinkId| self.links.get(id).is_some_and(|l| l.incarnation >= incarnation);
        let serving = others.iter().find(|(id, state, _)| *state == State::Up && same_life(id));
        let dialled = || {
            let own_first = self.settings.node < peer;
            others.iter().find(|(_, state, dialled)| own_first && *dialled && *state == State::Opening)
        };
        serving.or_else(dialled).map(|(id, state, _)| (*id, *state))
    }

    /// Lets a link serve whose dialler has introduced itself, in place of all others.
    pub(super) fn accept_link(&mut self, link: LinkId) {
        let Some(peer) = self.links.get(&link).map(|known| known.peer) else { return };
        let others = self.links_beside(link, peer);
        let direct = others.iter().find(|(id, state, _)| *state == State::Waiting && self.is_direct(*id));
        if let Some((direct, ..)) = direct.filter(|_| !self.is_direct(link)) {
            // What waits for the same, and is better.
            self.reject_link(link, reject::DUPLICATE, SERVES);
            return self.accept_link(*direct);
        }
        let Some(known) = self.links.get_mut(&link) else { return };
        let Some(claim) = known.claim.take() else { return };
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
            over: self.say_over(link),
        };
        self.emit(Output::Link { link, lane: Lane::Control, message });
        self.link_up(link, peer, claim.incarnation, claim.name);
    }

    /// One link serves between two nodes: the others end. But for direct ones that are being opened, if
    /// that one is relayed; and for relayed ones that this node has dialled, if it is direct: they may serve at
    /// the other end already, which does not know yet that this one does.
    fn end_other_links(&mut self, link: LinkId, peer: NodeId, incarnation: Incarnation) {
        let mut others = self.links_beside(link, peer);
        let is_direct = self.is_direct(link);
        others.retain(|(other, state, _)| match is_direct {
            true => *state != State::Opening || self.is_direct(*other),
            false => *state == State::Up || !self.is_direct(*other),
        });
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
            if self.drains_beside(other, link, incarnation) {
                continue;
            }
            if self.link_to(peer) == Some(other) {
                self.hand_over(other, incarnation);
            }
            let earlier =
                self.links.get(&other).is_some_and(|l| state == State::Up && l.incarnation < incarnation);
            if earlier {
                // Normally nobody is there to hear it. Whoever is has the same disk as the newer life.
                self.emit(Output::CloseLink {
                    link: other,
                    code: reject::SUPERSEDED,
                    text: Text::from_static(NEWER_LIFE),
                });
                self.link_closed(other, &Text::from_static("a newer life of that node is here"));
            } else {
                self.close_link(other, reject::DUPLICATE, REPLACED);
            }
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
    pub(super) fn settle_claims(&mut self, peer: NodeId, answered: Option<u64>) {
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
        let (awaits_another, registered) = (self.awaits_another(link), (self.origin(), self.registered));
        let Some(known) = self.links.get_mut(&link) else { return };
        let (own, agreed) = (self.replica.vector(), known.over.agreed());
        let (vector, without_over) = match agreed {
            // The other end only waits for what is registered here to come another way.
            _ if known.via.is_some() => (VersionVector::from([registered]), false),
            Some(agreed) => (own.beyond(agreed), true),
            None => (own.whole(), false),
        };
        known.said_vector.clone_from(own);
        let (domain, hash) = (self.settings.domain, self.replica.hash());
        let message = LinkMessage::DomainOpen { domain, vector, without_over, hash, awaits_another };
        self.emit(Output::Link { link, lane: Lane::Control, message });
        // So that its distance is known when its applications are shown.
        self.ping(link);
        if self.draining(peer).is_none() {
            self.attach_calls(peer, link);
        }
        self.end_interests_of_node(peer);
        self.subscribe_again(peer, link);
        self.links_changed = true;
        self.notice(Notice::NodeUp { node: peer, name, by_way_of: self.relayed_by(link) });
        if let Some(known) = self.links.get_mut(&link) {
            known.held.since = self.now.tick;
        }
        self.release_held(link, None);
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

    /// Notices when the other side closes or refuses a link because it knows a newer life of this node. There
    /// are only the words: of a rejection and the close behind it, which says the same, either may be lost.
    pub(crate) fn hear_whether_superseded(&mut self, link: LinkId, reason: &str) {
        let Some(node) = self.links.get(&link).map(|known| known.peer) else { return };
        if [NEWER_LIFE, NEWER_LIFE_THERE].iter().any(|words| reason.contains(words)) {
            self.notice(Notice::Superseded { node });
        }
    }

    pub(super) fn close_link(&mut self, link: LinkId, code: u16, text: &str) {
        self.emit(Output::CloseLink { link, code, text: text.into() });
        self.link_closed(link, &text.into());
    }

    pub(crate) fn link_closed(&mut self, link: LinkId, reason: &Text) {
        let Some(known) = self.links.get(&link) else { return };
        let (peer, incarnation, heard) = (known.peer, known.incarnation, known.heard);
        // The rejection may be lost to the close that follows it, which has the same words. That another link
        // serves is no refusal, nor that the other node is about to end.
        let refused = known.dialled && known.is_direct() && known.state == State::Opening;
        if refused && ![SERVES, REPLACED, LEAVES].iter().any(|other| reason.contains(other)) {
            self.notice(Notice::LinkRefused { node: peer, reason: reason.clone() });
        }
        let served = self.link_to(peer) == Some(link);
        if served && let Some(draining) = self.draining(peer) {
            self.close_link(draining, 0, reason);
        }
        let mut claims =
            self.links.values().filter(|link| link.peer == peer).filter_map(|link| link.claim.as_ref());
        if served && claims.any(|claim| claim.incarnation == incarnation) {
            self.hand_over(link, incarnation);
        } else if served {
            self.node_unreachable(peer, link, heard, reason);
        }
        if let Some(ended) = self.links.remove(&link) {
            self.relay_after(&ended);
            self.drain_ended(&ended);
        }
        self.links_changed = true;
        self.ask_the_others();
        self.reconsider_held();
        self.end_links_over(link, |_| true);
        self.settle_claims(peer, None);
        if served && self.nodes.get(&peer).is_some_and(|node| node.link.is_none() && node.lost_at.is_none()) {
            self.node_unreachable(peer, link, heard, reason);
        }
    }
}
