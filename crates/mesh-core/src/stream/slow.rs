//! Streams that are more than somebody takes: the application that reads, or the link to its node.
//!
//! An application that reads slowly has a policy for each of its streams, which its outbox keeps; only
//! with [`SlowPolicy::End`] does the node hear of it.
//!
//! A link without room is treated as one that broke. The provider's side ends at once, so that nobody
//! works for a queue, and the subscriber's node keeps its side. When the link has room again, it is told
//! so, lets each subscription *rest*, twice as long each time that it happens again soon, and then sends
//! the request that it sent first. Its application sees a gap in the data.

use mesh_model::link::LinkMessage;
use mesh_model::{CallFailure, CallId, Cause, Event, LinkId, NodeId, SessionId, SlowPolicy, Text};

use super::{RemoteSubscription, Subscriber};
use crate::Notice;
use crate::node::Node;
use crate::visibility::Pattern;

/// How long a subscription rests, for the first time and at most.
const REST_MS: u64 = 250;
const REST_MS_MAX: u64 = 8_000;
/// How long it counts that it rested.
const RESTED_MS: u64 = 60_000;

/// A rule for streams whose subscribers read slowly.
#[derive(Clone, Debug)]
pub struct SlowRule {
    /// The stream's name.
    pub stream: Pattern,
    /// What becomes of its data.
    pub policy: SlowPolicy,
}

impl Node {
    /// Returns what becomes of a stream's data for a subscriber here that reads slowly: the first rule that
    /// matches decides.
    pub(super) fn slow_policy(&self, stream: &Text) -> SlowPolicy {
        let rule = self.settings.slow_rules.iter().find(|rule| rule.stream.matches(stream));
        rule.map(|rule| rule.policy.clone()).unwrap_or_default()
    }

    // --- The provider's side of a slow link.

    /// The link to a node has no room for data of a branch: its subscriptions there end.
    pub(crate) fn end_branch_for(&mut self, node: NodeId, branch: u64) {
        let bound = self.branches.values().find(|known| known.number == branch);
        let subscriptions = bound.and_then(|known| known.remote.get(&node)).cloned().unwrap_or_default();
        for subscription in subscriptions {
            self.end_for_slow_link(subscription);
        }
    }

    /// The same for one subscription of that node.
    pub(crate) fn end_too_slow_for(&mut self, node: NodeId, id: CallId) {
        for subscription in self.interests_of_node(node, |known| known == id) {
            self.end_for_slow_link(subscription);
        }
    }

    fn end_for_slow_link(&mut self, subscription: u64) {
        let Some(interest) = self.interests.get(&subscription) else { return };
        let (provider, method, caller) =
            (interest.provider, interest.method.clone(), interest.caller.clone());
        let bound = interest.branch.is_some();
        let Subscriber::Remote { node, id } = interest.subscriber else { return };
        self.tell(provider, Event::SubscriberGone { subscription, method, caller, cause: Cause::TooSlow });
        self.end_interest(subscription, &Cause::TooSlow, Some(CallFailure::CalleeGone));
        if !bound {
            return;
        }
        if !self.shed.contains_key(&node) {
            let name = self.nodes.get(&node).map(|node| node.name.clone()).unwrap_or_default();
            self.notice(Notice::LinkSlow { node, name });
        }
        self.shed.entry(node).or_default().insert(id, provider);
    }

    /// A link that had no room has some again: the nodes behind it may ask for what has ended meanwhile.
    pub(crate) fn link_eased(&mut self, link: LinkId) {
        let behind = |node: &NodeId| self.link_to(*node).map(|to| self.carrier_of(to)) == Some(link);
        let nodes: Vec<NodeId> = self.shed.keys().copied().filter(behind).collect();
        for node in nodes {
            for (id, provider) in self.shed.remove(&node).unwrap_or_default() {
                self.send_to_node(provider, node, |_| LinkMessage::SubscriptionRoom { id });
            }
        }
    }

    /// The subscriber's side has given a subscription up.
    pub(super) fn forget_shed(&mut self, node: NodeId, id: CallId) {
        if let Some(subscriptions) = self.shed.get_mut(&node) {
            subscriptions.remove(&id);
            self.shed.retain(|_, subscriptions| !subscriptions.is_empty());
        }
    }

    // --- The subscriber's side.

    /// The link had no room for a subscription's data: it waits until the other node says that there is room
    /// again. Returns whether it can; one that must be whole cannot.
    pub(super) fn waits_for_room(&mut self, id: CallId) -> bool {
        let whole = self.subscriptions.get(&id).is_some_and(|known| known.policy == SlowPolicy::End);
        !whole && self.stops(id)
    }

    /// The provider's node has room again for a subscription that waits for it.
    pub(crate) fn room_for_subscription(&mut self, node: NodeId, id: CallId) {
        let waits =
            |known: &RemoteSubscription| known.node == node && known.rests && known.deadline.is_none();
        if self.subscriptions.get(&id).is_some_and(waits) {
            self.rest(id);
        }
    }

    /// Takes an accepted subscription off its branch, until it is asked for again; returns whether it can be.
    fn stops(&mut self, id: CallId) -> bool {
        self.answer_has_come(id);
        let Some(known) = self.subscriptions.get_mut(&id) else { return false };
        if known.request.is_some() || known.arguments.is_none() {
            return false;
        }
        known.rests = true;
        let (node, branch) = (known.node, known.branch.take());
        if let Some(branch) = branch {
            self.unfeed(node, branch, id);
        }
        true
    }

    /// Has an accepted subscription be asked for again after a while; returns whether it can be.
    pub(super) fn rest(&mut self, id: CallId) -> bool {
        let now = self.now.tick;
        if !self.stops(id) {
            return false;
        }
        if let Some(known) = self.subscriptions.get_mut(&id) {
            let (times, at) = known.rested;
            let times = if now.since(at) < RESTED_MS * 1000 { times } else { 0 };
            let until = now.plus_millis(REST_MS.saturating_mul(1 << times.min(16)).min(REST_MS_MAX));
            known.rested = (times + 1, now);
            known.deadline = Some(until);
            self.deadlines.insert((until, id));
        }
        true
    }

    /// Asks for a subscription again whose rest is over; returns whether it is one. Without a link it is
    /// asked for over the next.
    pub(super) fn is_rested(&mut self, id: CallId) -> bool {
        let Some(known) = self.subscriptions.get_mut(&id).filter(|known| known.rests) else { return false };
        known.rests = false;
        known.deadline = None;
        let node = known.node;
        if let Some(link) = self.link_to(node) {
            self.ask_again(id, link);
        }
        true
    }

    // --- A slow application.

    /// A subscriber here reads too slowly for a subscription of its own, which ends.
    pub(crate) fn end_too_slow(&mut self, session: SessionId, subscription: u64) {
        let Some(own) = self.sessions.get_mut(&session) else { return };
        if !own.subscribed.remove(&subscription) {
            return;
        }
        let is_request = self.subscriptions.get(&CallId(subscription)).is_some_and(|s| s.request.is_some())
            || self.interests.get(&subscription).is_some_and(|interest| interest.branch.is_none());
        self.give_up(session, subscription, &Cause::TooSlow);
        if !is_request {
            self.tell(session, Event::SubscriptionEnded { subscription, cause: Cause::TooSlow });
        }
    }
}
