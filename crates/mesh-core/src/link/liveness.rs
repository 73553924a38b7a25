//! Which nodes can be reached: heartbeats, silence, and what follows from it.

use mesh_model::link::{LinkMessage, reject};
use mesh_model::{Cause, Incarnation, Lane, LinkId, NodeId, Text, Tick};

use super::State;
use super::opening::{LEAVES, NEWER_LIFE_THERE};
use crate::node::Node;
use crate::registry::RemoteNode;
use crate::{Notice, Output};

/// How much later than the time of silence a node suspects another, at most, while it is late itself.
const LATE_MAX: u64 = 3;
/// How many heartbeats of the other end go by before this one sends one, to measure the trip.
const MEASURED_EVERY: u64 = 10;
/// How long it counts that this node was late.
const LATE_MS: u64 = 10_000;

impl Node {
    pub(crate) fn link_to(&self, node: NodeId) -> Option<LinkId> {
        self.nodes.get(&node).and_then(|node| node.link)
    }

    /// Sends a heartbeat, and returns its number.
    pub(super) fn ping(&mut self, link: LinkId) -> Option<u64> {
        let known = self.links.get_mut(&link)?;
        (known.beaten, known.pinged) = (self.now.tick, self.now.tick);
        known.pings += 1;
        let count = known.pings;
        let message = LinkMessage::Ping { count, sent: self.now.tick.0 };
        self.emit(Output::Link { link, lane: Lane::Control, message });
        Some(count)
    }

    /// Sends a heartbeat, unless the other end's will do.
    ///
    /// One that is answered is a sign of life for both ends, so one end sends them, and the other only if it
    /// misses one, or to know again how long a trip takes.
    fn beat(&mut self, link: LinkId) {
        let (now, heartbeat_us) = (self.now.tick, self.settings.timing.heartbeat_ms * 1000);
        let Some(known) = self.links.get_mut(&link) else { return };
        let answers = self.settings.node > known.peer;
        let hears = now.since(known.heard) < heartbeat_us * 3 / 2;
        if answers && hears && now.since(known.pinged) < heartbeat_us * MEASURED_EVERY {
            known.beaten = now;
        } else {
            self.ping(link);
        }
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
                    let stalled = now.since(link.beaten) > (timing.heartbeat_ms + 600) * 1000;
                    if stalled {
                        link.heard = Tick(now.0.saturating_sub((suspect_ms - timing.heartbeat_ms) * 1000));
                    }
                    if now.since(link.heard) >= suspect_ms * 1000 {
                        let text = format!("nothing heard for {} ms", now.since(link.heard) / 1000);
                        self.close_link(id, 0, &text);
                        continue;
                    }
                    if now.since(link.beaten) >= timing.heartbeat_ms * 1000 {
                        self.beat(id);
                    }
                    if self.held_until(id).is_some_and(|until| now >= until) {
                        let late = Tick(now.0.saturating_sub(timing.hold_ms * 1000));
                        self.release_held(id, Some(late));
                    }
                }
            }
        }
        self.restraint_timers();
        self.settle_drains();
        self.dial_relayed();
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
            self.retire_nodes();
        }
    }

    /// A node that is late itself, since its machine has too much to do, must not accuse the others of it.
    fn note_lateness(&mut self) {
        let (now, heartbeat_ms) = (self.now.tick, self.settings.timing.heartbeat_ms);
        if now >= self.late.1 {
            self.late.0 = 0;
        }
        let up = self.links.values().filter(|link| link.state == State::Up);
        if up.map(|link| now.since(link.beaten)).max().is_some_and(|since| since > heartbeat_ms * 1500) {
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

    pub(crate) fn link_timeout(&self) -> Option<Tick> {
        let timing = self.settings.timing;
        let of_links = self.links.iter().flat_map(|(id, link)| {
            let opening = (link.state != State::Up).then(|| link.opened.plus_millis(timing.open_ms));
            let asked = link.claim.as_ref().and_then(|claim| claim.asked);
            let answer = asked.map(|(_, at)| at.plus_millis(timing.heartbeat_ms));
            let up = (link.state == State::Up).then(|| {
                link.beaten.plus_millis(timing.heartbeat_ms).min(link.heard.plus_millis(self.suspect_ms()))
            });
            [opening, answer, up, self.held_until(*id), link.restraint.timeout(link.dirty)]
                .into_iter()
                .flatten()
        });
        let of_nodes =
            self.nodes.values().filter_map(|node| node.lost_at).map(|at| at.plus_millis(timing.gone_ms));
        let of_calls = self.nodes.values().filter_map(|node| node.calls_wait_until);
        of_links.chain(of_nodes).chain(of_calls).chain(self.relay_due).chain([self.next_digest]).min()
    }

    /// A newer life of a node is known: the older one is over, though its link may not have noticed.
    pub(crate) fn older_life_ended(&mut self, node: NodeId, newer: Incarnation) {
        let Some(known) = self.nodes.get_mut(&node) else { return };
        known.incarnation = newer;
        if let Some(link) = known.link
            && self.links.get(&link).is_some_and(|link| link.incarnation < newer)
        {
            self.close_link(link, reject::SUPERSEDED, NEWER_LIFE_THERE);
        }
        self.end_calls_to(node);
        self.end_streams_with(node);
    }

    pub(super) fn node_unreachable(&mut self, peer: NodeId, link: LinkId, heard: Tick, reason: &Text) {
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
        // Others dial at once whom they have lost.
        self.leaves = true;
        self.reconsider_held();
        self.flush_links();
        // The relayed ones first, which come after those that carry them.
        let links: Vec<(LinkId, bool)> =
            self.links.iter().rev().map(|(id, link)| (*id, link.is_direct())).collect();
        for (link, is_direct) in links {
            // Behind the last writes: on another lane it would overtake them, and they would be lost.
            let lane = if is_direct { Lane::Replication } else { Lane::Control };
            let message = LinkMessage::Goaway { reason: Text::from_static(LEAVES) };
            self.emit(Output::Link { link, lane, message });
        }
    }
}
