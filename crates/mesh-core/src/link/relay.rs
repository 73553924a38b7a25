//! Links that another node carries: two nodes that cannot reach each other, and both reach a third.
//!
//! State needs nothing of this: each node passes on what is new to it, so that entries travel over any
//! path. Calls, streams and publications go from node to node, and each node judges by its own link
//! whether another can be reached. So a *relayed link* is a link like any other, with `Hello`, `Welcome`,
//! heartbeats and an end, and all that holds for links holds for it: what the other offers is shown when
//! it is up, calls wait and are asked for when it breaks, and one link serves between two nodes.
//! It differs in this:
//!
//! * **Way.** Its messages go over the direct link to the node between, the *carrier*, as `Relay` with the
//!   node that they are for, and from there as `Relayed` with the node that they are of. What is `Relayed`
//!   is at its end: it is never passed on, so that no message takes more than one node between and
//!   none goes round. The order of a lane is kept, since both hops use the same lane.
//! * **Channel.** The dialler names it by a number that nobody uses twice, so that what an earlier link or
//!   life has left on its way is for nobody. To close it, either end or the node between says `Reject`.
//! * **State.** No batches and no digests: these come over the carriers, with their own pace. The other's
//!   applications are shown once what it had written when the link came up is here.
//! * **When.** All nodes tell their neighbours whom they have direct links to, and so whom they can relay
//!   to. Of two nodes without a link the one with the smaller id dials over a neighbour of both: at once
//!   when their direct link broke, so that calls find the new one in time, else after `relay_ms`, which
//!   leaves a direct dial its chance.
//! * **Until.** A direct link does not wait for a relayed one. When it is up it serves, and the relayed
//!   one [drains](super::drain).
//!
//! The node between is believed when it names the sender: all links are between nodes of one owner, and
//! it could write anything into the common state as well. It names the node at the other end of the link
//! that a message came over, so that no other node can speak in a foreign name. It reads nothing of what
//! it passes on.

use std::collections::BTreeSet;

use mesh_model::link::{Carried, LinkMessage, reject};
use mesh_model::{Lane, LinkId, LinkPeer, NodeId, Text};

use super::{Link, State};
use crate::Output;
use crate::node::Node;
use crate::registry::RemoteNode;

/// The ids of relayed links, which the node gives itself; those of the shell are below.
const RELAYED_IDS: u64 = 1 << 63;
const NOT_OPEN: &str = "this relayed link is not open here";

/// What makes a link a relayed one.
#[derive(Clone, Copy, Debug)]
pub(super) struct Via {
    /// The direct link that its messages go over.
    pub(super) carrier: LinkId,
    channel: u64,
    /// Up to which of its writes the other has to be known here before it is shown; `None` before it has
    /// said so.
    pub(super) awaits: Option<u64>,
}

impl Node {
    /// Returns an output as it leaves this node: what is for a relayed link goes over its carrier.
    pub(crate) fn routed(&self, output: Output) -> Option<Output> {
        let via = |link: &LinkId| self.links.get(link).and_then(|known| Some((known.peer, known.via?)));
        let (link, lane, message) = match output {
            Output::Link { link, lane, message } if via(&link).is_some() => (link, lane, message),
            Output::CloseLink { link, code, text } if via(&link).is_some() => {
                (link, Lane::Control, LinkMessage::Reject { code, text })
            }
            output => return Some(output),
        };
        let (node, Via { carrier, channel, .. }) = via(&link)?;
        self.links.contains_key(&carrier).then(|| {
            let carried = Carried::Message(Box::new(message));
            Output::Link { link: carrier, lane, message: LinkMessage::Relay { node, channel, lane, carried } }
        })
    }

    /// Returns the direct link that serves between this node and another.
    pub(crate) fn direct_link_to(&self, node: NodeId) -> Option<LinkId> {
        self.link_to(node).filter(|link| self.links.get(link).is_some_and(Link::is_direct))
    }

    pub(super) fn is_direct(&self, link: LinkId) -> bool {
        self.links.get(&link).is_some_and(Link::is_direct)
    }

    /// Returns the direct link that messages for a link go over: that link itself, if it is not relayed.
    pub(crate) fn carrier_of(&self, link: LinkId) -> LinkId {
        self.links.get(&link).and_then(|known| known.via).map_or(link, |via| via.carrier)
    }

    // --- The node between.

    /// A neighbour asks to pass a message on.
    pub(super) fn relay(&mut self, link: LinkId, node: NodeId, channel: u64, lane: Lane, carried: Carried) {
        let Some(from) = self.links.get(&link).filter(|known| known.is_direct()).map(|known| known.peer)
        else {
            return;
        };
        match self.direct_link_to(node).filter(|_| self.settings.relay) {
            Some(next) => {
                let message = LinkMessage::Relayed { node: from, channel, carried };
                self.emit(Output::Link { link: next, lane, message });
            }
            None => self.refuse_relay(link, node, channel, "the node between has no link to the other"),
        }
    }

    /// What was to be passed on to the other end of a link was not taken: the relayed link is broken.
    pub(crate) fn not_relayed(&mut self, link: LinkId, from: NodeId, channel: u64) {
        let Some(to) = self.links.get(&link).map(|known| known.peer) else { return };
        let text = "the node between could not pass on what was sent";
        self.refuse_relay(link, from, channel, text);
        if let Some(back) = self.direct_link_to(from) {
            self.refuse_relay(back, to, channel, text);
        }
    }

    /// Says to the other end of a link, in the name of a node, that a channel is closed.
    fn refuse_relay(&mut self, link: LinkId, node: NodeId, channel: u64, text: &'static str) {
        let reject = LinkMessage::Reject { code: reject::NO_ROUTE, text: Text::from_static(text) };
        let carried = Carried::Message(Box::new(reject));
        let message = LinkMessage::Relayed { node, channel, carried };
        self.emit(Output::Link { link, lane: Lane::Control, message });
    }

    /// Tells neighbours whom this node can relay to, if it is others than before.
    fn tell_neighbours(&mut self) {
        let direct = self.links.iter().filter(|(_, link)| link.state == State::Up && link.is_direct());
        let direct: Vec<(LinkId, NodeId)> = direct.map(|(id, link)| (*id, link.peer)).collect();
        for (link, peer) in &direct {
            let others: BTreeSet<NodeId> =
                direct.iter().map(|(_, node)| *node).filter(|node| node != peer).collect();
            let Some(known) = self.links.get_mut(link).filter(|known| known.told != others) else { continue };
            known.told.clone_from(&others);
            let message = LinkMessage::Neighbours { nodes: others.into_iter().collect() };
            self.emit(Output::Link { link: *link, lane: Lane::Control, message });
        }
    }

    // --- The two ends.

    /// A neighbour says whom it can relay to. What it cannot any more is broken.
    pub(super) fn note_neighbours(&mut self, link: LinkId, nodes: Vec<NodeId>) {
        let Some(known) = self.links.get_mut(&link).filter(|known| known.is_direct()) else { return };
        known.neighbours = nodes.into_iter().collect();
        let neighbours = known.neighbours.clone();
        self.links_changed = true;
        self.reconsider_held();
        self.end_links_over(link, |peer| !neighbours.contains(&peer));
    }

    /// A neighbour passes on what another node says.
    pub(super) fn relayed(
        &mut self,
        carrier: LinkId,
        lane: Lane,
        node: NodeId,
        channel: u64,
        carried: Carried,
    ) {
        let Carried::Message(message) = carried else { return };
        let between = self.links.get(&carrier).filter(|known| known.is_direct()).map(|known| known.peer);
        match (self.relayed_link(carrier, node, channel), *message) {
            (Some(link), LinkMessage::Reject { text, .. }) => self.link_closed(link, &text),
            (Some(link), message) => self.link_message(link, lane, message),
            (None, LinkMessage::Reject { .. }) => {}
            (None, hello @ LinkMessage::Hello { .. })
                if self.settings.relay && between.is_some_and(|between| between != node) =>
            {
                let link = self.open_relayed(node, false, carrier, channel);
                self.link_message(link, lane, hello);
            }
            (None, _) => {
                let reject =
                    LinkMessage::Reject { code: reject::NO_ROUTE, text: Text::from_static(NOT_OPEN) };
                let carried = Carried::Message(Box::new(reject));
                let lane = Lane::Control;
                let message = LinkMessage::Relay { node, channel, lane, carried };
                self.emit(Output::Link { link: carrier, lane, message });
            }
        }
    }

    fn relayed_link(&self, carrier: LinkId, node: NodeId, channel: u64) -> Option<LinkId> {
        let is_ours = |via: Via| (via.carrier, via.channel) == (carrier, channel);
        let known = self.links.iter().find(|(_, link)| link.peer == node && link.via.is_some_and(is_ours));
        known.map(|(id, _)| *id)
    }

    /// Returns the node that a message was for which a link did not take, and the message as that node would
    /// have got it.
    pub(crate) fn addressed(&self, link: LinkId, message: LinkMessage) -> Option<(NodeId, LinkMessage)> {
        match message {
            LinkMessage::Relay { node, channel, carried: Carried::Message(message), .. } => {
                self.relayed_link(link, node, channel).map(|_| (node, *message))
            }
            message => self.links.get(&link).map(|known| (known.peer, message)),
        }
    }

    fn open_relayed(&mut self, node: NodeId, dialled: bool, carrier: LinkId, channel: u64) -> LinkId {
        let link = LinkId(RELAYED_IDS | self.next_number());
        self.open_link(link, LinkPeer { node, dialled }, Some(Via { carrier, channel, awaits: None }));
        link
    }

    /// Shows nodes behind relayed links whose writes have arrived by now.
    pub(super) fn show_relayed(&mut self) {
        let covered = |link: &Link| {
            let awaits = link.via.and_then(|via| via.awaits);
            awaits.is_some_and(|awaits| self.replica.vector().upto(&link.origin()) >= awaits)
        };
        let waiting = self.links.iter().filter(|(_, link)| link.state == State::Up && covered(link));
        let waiting: Vec<(LinkId, NodeId)> = waiting
            .map(|(id, link)| (*id, link.peer))
            .filter(|(id, peer)| {
                self.nodes.get(peer).is_some_and(|node| !node.shown && node.link == Some(*id))
            })
            .collect();
        for (link, peer) in waiting {
            self.show_node(peer);
            if let Some(known) = self.links.get_mut(&link) {
                known.held.since = self.now.tick;
            }
            self.release_held(link, None);
        }
    }

    /// A carrier is gone, or leads to some nodes no more, and what was on its way there is lost.
    pub(super) fn end_links_over(&mut self, carrier: LinkId, lost: impl Fn(NodeId) -> bool) {
        let over = |link: &Link| lost(link.peer) && link.via.is_some_and(|via| via.carrier == carrier);
        let ended: Vec<LinkId> =
            self.links.iter().filter(|(_, link)| over(link)).map(|(id, _)| *id).collect();
        for link in ended {
            self.link_closed(
                link,
                &Text::from_static("the node between cannot be reached, or not the other from there"),
            );
        }
    }

    // --- When to dial.

    /// Notes that a link has ended: when its node may be dialled by way of another.
    pub(super) fn relay_after(&mut self, link: &Link) {
        let pause = self.settings.timing.relay_ms;
        let Some(known) = self.nodes.get_mut(&link.peer) else { return };
        match (link.is_direct(), link.state) {
            (true, State::Up) => known.relay_at = self.now.tick,
            (true, State::Opening | State::Waiting) => return,
            // What was refused is not asked for again at once, nor what breaks again and again.
            (false, _) => known.relay_at = link.opened.plus_millis(pause),
        }
        known.relays_tried = if link.state == State::Up { 0 } else { known.relays_tried + 1 };
    }

    /// Returns the direct links to those who say that they reach a node.
    fn ways_to(&self, node: NodeId) -> Vec<LinkId> {
        let leads = |link: &Link| link.state == State::Up && link.neighbours.contains(&node);
        let mut ways: Vec<(Option<u64>, LinkId)> =
            self.links.iter().filter(|(_, link)| leads(link)).map(|(id, link)| (link.rtt_us, *id)).collect();
        ways.sort_unstable();
        ways.into_iter().map(|(_, link)| link).collect()
    }

    fn wants_relay(&self, id: NodeId, node: &RemoteNode) -> bool {
        self.settings.node < id
            && node.link.is_none()
            && self.links.values().all(|link| link.peer != id)
            && !self.ways_to(id).is_empty()
    }

    /// Dials nodes by way of others, where that is due.
    pub(super) fn dial_relayed(&mut self) {
        let now = self.now.tick;
        if self.relay_due.is_none_or(|due| now < due) {
            return;
        }
        self.links_changed = true;
        let due = self.nodes.iter().filter(|(id, node)| node.relay_at <= now && self.wants_relay(**id, node));
        let due: Vec<(NodeId, usize)> = due.map(|(id, node)| (*id, node.relays_tried)).collect();
        for (node, tried) in due {
            let ways = self.ways_to(node);
            let Some(carrier) = ways.get(tried % ways.len().max(1)).copied() else { continue };
            let channel = self.next_channel();
            self.open_relayed(node, true, carrier, channel);
        }
    }

    /// After links or what is known of others have changed: tells neighbours, and looks who is to be dialled.
    pub(crate) fn settle_relays(&mut self) {
        if !self.settings.relay || !std::mem::take(&mut self.links_changed) {
            return;
        }
        self.tell_neighbours();
        let wanting = self.nodes.iter().filter(|(id, node)| self.wants_relay(**id, node));
        self.relay_due = wanting.map(|(_, node)| node.relay_at).min();
    }

    /// Returns the name of the node that carries the link to another, if it is relayed.
    pub(crate) fn relayed_by(&self, link: LinkId) -> Option<Text> {
        let carrier = self.links.get(&link)?.via?.carrier;
        let between = self.links.get(&carrier)?.peer;
        self.nodes.get(&between).map(|node| node.name.clone())
    }
}

impl Link {
    pub(super) const fn is_direct(&self) -> bool {
        self.via.is_none()
    }

    #[cfg(test)]
    pub(crate) fn channel(&self) -> Option<u64> {
        self.via.map(|via| via.channel)
    }

    /// Returns whether the other side has opened the domain, and batches or their like go over this link.
    pub(super) fn is_open(&self) -> bool {
        self.drains.is_none() && (self.vector.is_some() || self.via.is_some_and(|via| via.awaits.is_some()))
    }
}
