//! Relayed links in whose place direct ones serve: make before break.
//!
//! The node between may have messages of a relayed link on their way when a direct link comes up. So the
//! relayed one does not end, but *drains*: nothing more is sent over it but heartbeats, and what still
//! comes is taken, as far as it belongs to calls. A call that has neither ended nor been accepted may still
//! be on its way. When there is none any more, this end asks over the direct link for those that run, as
//! over any new link, and that tells the other end as well that it has drained. When both have said so, the
//! link is closed.
//!
//! A relayed link may come up at one end, and a direct one at the other, before either hears of that. The end
//! that has opened the direct one must not refuse the relayed one: the other would hear that first, and withdraw
//! for a moment what it shows. So it lets that come up and drain.
//!
//! Streams are asked for again over the direct link, as over any other: data that comes late would mix with
//! what comes there, and publications would lose their order. Both are not taken.

use std::collections::BTreeMap;

use mesh_model::link::LinkMessage;
use mesh_model::{CallId, Incarnation, LinkId, NodeId, Tick};

use super::{Link, State};
use crate::node::Node;
use crate::stream::RemoteSubscription;

/// How far a link has drained.
#[derive(Clone, Copy, Debug)]
pub(super) struct Drain {
    since: Tick,
    /// Whether this end has asked for the calls that still run.
    asked: bool,
    /// Whether the other end has.
    was_asked: bool,
}

/// Returns whether a message is taken from a link that drains. Requests for subscriptions are made again over
/// the other link, so that an answer to the first ones counts no more.
pub(super) fn is_awaited(
    message: &LinkMessage,
    subscriptions: &BTreeMap<CallId, RemoteSubscription>,
) -> bool {
    match message {
        LinkMessage::Ping { .. }
        | LinkMessage::Pong { .. }
        | LinkMessage::Call { subscribe: false, .. }
        | LinkMessage::Covered { .. }
        | LinkMessage::Accepted { .. }
        | LinkMessage::Cancel { .. } => true,
        LinkMessage::CallEnd { id, .. } => !subscriptions.contains_key(id),
        _ => false,
    }
}

impl Node {
    /// Has a relayed link that serves drain while a direct one to the same life takes its place; returns
    /// whether it does.
    pub(super) fn drains_beside(&mut self, relayed: LinkId, direct: LinkId, life: Incarnation) -> bool {
        let serves = |link: &Link| self.link_to(link.peer) == Some(relayed);
        let may = |link: &Link| {
            !link.is_direct() && link.state == State::Up && link.incarnation == life && serves(link)
        };
        if !self.is_direct(direct) || !self.links.get(&relayed).is_some_and(may) {
            return false;
        }
        if let Some(known) = self.links.get_mut(&relayed).filter(|known| known.drains.is_none()) {
            known.drains = Some(Drain { since: self.now.tick, asked: false, was_asked: false });
            known.held.retain(|message| is_awaited(message, &self.subscriptions));
        }
        true
    }

    /// Has a relayed link drain that the other end has opened while a direct one to the same life came to serve
    /// here; returns whether it does. The other end closes it, once it knows of the direct one too.
    pub(super) fn drains_at_once(&mut self, relayed: LinkId, peer: NodeId, life: Incarnation) -> bool {
        let direct = self.direct_link_to(peer).and_then(|direct| self.links.get(&direct));
        if self.is_direct(relayed) || direct.is_none_or(|direct| direct.incarnation != life) {
            return false;
        }
        if let Some(known) = self.links.get_mut(&relayed) {
            (known.state, known.incarnation) = (State::Up, life);
            // Nothing was sent over it, and the calls that run were asked for when the direct link came up.
            known.drains = Some(Drain { since: self.now.tick, asked: true, was_asked: false });
            known.held.retain(|message| is_awaited(message, &self.subscriptions));
        }
        // From here on it has heartbeats.
        self.ping(relayed);
        self.release_held(relayed, None);
        true
    }

    /// Returns the link to a node that drains.
    pub(super) fn draining(&self, node: NodeId) -> Option<LinkId> {
        let drains = |link: &Link| link.peer == node && link.drains.is_some();
        self.links.iter().find(|(_, link)| drains(link)).map(|(id, _)| *id)
    }

    /// Looks whether links have drained at this end. One that takes too long has lost something.
    pub(super) fn settle_drains(&mut self) {
        let (now, most) = (self.now.tick, self.settings.timing.gone_ms.saturating_mul(1000));
        let drained = |(id, link): (&LinkId, &Link)| {
            let drain = link.drains.filter(|drain| !drain.asked)?;
            (!self.any_on_its_way(*id) || now.since(drain.since) >= most).then_some((*id, link.peer))
        };
        let drained: Vec<(LinkId, NodeId)> = self.links.iter().filter_map(drained).collect();
        for (link, peer) in drained {
            if let Some(drain) = self.links.get_mut(&link).and_then(|known| known.drains.as_mut()) {
                drain.asked = true;
            }
            if let Some(serving) = self.link_to(peer) {
                self.attach_calls(peer, serving);
            }
            self.close_drained(link);
        }
    }

    /// The other end has asked for its calls, so that none of them is on its way.
    pub(super) fn other_end_drained(&mut self, peer: NodeId) {
        let Some(link) = self.draining(peer) else { return };
        if let Some(drain) = self.links.get_mut(&link).and_then(|known| known.drains.as_mut()) {
            drain.was_asked = true;
        }
        self.close_drained(link);
    }

    fn close_drained(&mut self, link: LinkId) {
        let drained = |link: &Link| link.drains.is_some_and(|drain| drain.asked && drain.was_asked);
        if self.links.get(&link).is_some_and(drained) {
            self.close_link(link, 0, "a direct link serves in its place");
        }
    }

    /// A link has ended, and it was draining: what has not come will not.
    pub(super) fn drain_ended(&mut self, ended: &Link) {
        if ended.drains.is_some_and(|drain| !drain.asked)
            && let Some(serving) = self.link_to(ended.peer)
        {
            self.attach_calls(ended.peer, serving);
        }
    }
}
