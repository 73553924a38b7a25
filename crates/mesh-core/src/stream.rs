//! Streams: subscriptions to methods that push data.
//!
//! At the provider's node each subscription is an [`Interest`]. A provider binds it to a *branch*; data
//! of a branch goes once to each subscribing session here and once to each node that has subscribers,
//! which fans out to its own.
//!
//! When a node cannot be reached, providers are told at once that its subscribers are gone. Subscribers
//! are not told of their provider: clients take a cancelled subscription as final. Their node asks for
//! the subscription again when the provider's is back, and ends it only when that is gone for good.

use std::collections::{BTreeMap, BTreeSet};

use mesh_model::link::LinkMessage;
use mesh_model::{
    Answer, Arguments, CallFailure, CallId, Cause, Event, Json, LinkId, NodeId, Outcome, Reason, Request,
    SessionId, SlowPolicy, Text, Tick, Words,
};

use crate::call::Target;
use crate::node::Node;

pub use self::slow::SlowRule;

mod slow;

/// A subscription as its provider's node knows it.
#[derive(Clone, Debug)]
pub(crate) struct Interest {
    provider: SessionId,
    method: Json,
    caller: Text,
    subscriber: Subscriber,
    /// For data to a subscriber here.
    policy: SlowPolicy,
    /// The branch it is bound to; `None` until it is accepted.
    branch: Option<Json>,
}

#[derive(Clone, Debug)]
enum Subscriber {
    Local { session: SessionId, request: Request },
    Remote { node: NodeId, id: CallId },
}

/// A branch of a provider's streams.
#[derive(Clone, Debug, Default)]
pub(crate) struct Branch {
    /// Its number on links.
    number: u64,
    /// The interests bound to it, by subscriber: sessions here, and other nodes.
    local: BTreeMap<u64, SessionId>,
    remote: BTreeMap<NodeId, BTreeSet<u64>>,
}

#[cfg(test)]
impl Branch {
    pub(crate) const fn number(&self) -> u64 {
        self.number
    }
}

/// A subscription to a provider on another node, as its subscriber's node knows it.
#[derive(Clone, Debug)]
pub(crate) struct RemoteSubscription {
    session: SessionId,
    /// The request, until it is answered.
    request: Option<Request>,
    pub(crate) node: NodeId,
    link: LinkId,
    /// The provider, and which of its streams.
    server: Text,
    method: Json,
    /// What it was asked for with; `None` if that is too large to be kept.
    arguments: Option<Arguments>,
    policy: SlowPolicy,
    branch: Option<u64>,
    /// When it ends, if its provider has not answered before; or when it is asked for again, if it rests.
    deadline: Option<Tick>,
    /// Whether it is to be asked for again, since there was no room for it.
    rests: bool,
    /// How often that was so lately, and when last.
    rested: (u32, Tick),
}

/// Largest arguments with which a subscription is asked for again, in bytes. With larger ones it ends
/// with the link.
const ARGUMENTS_KEPT_MAX: usize = 64 << 10;

impl Node {
    pub(crate) fn subscribe(
        &mut self,
        session: SessionId,
        request: Request,
        server: &Text,
        method: Json,
        arguments: Arguments,
    ) {
        let target = match self.target(session, server, &method, &arguments) {
            Ok(target) => target,
            Err(refusal) => return self.not_called(session, request, refusal),
        };
        let max = self.settings.limits.subscriptions_per_session_max;
        let own = &self.sessions[&session];
        if own.subscribed.len() >= max {
            let reason = Reason::Limit { limit: "subscriptions_per_session_max", max: max as u64 };
            return self.refuse(session, request, reason);
        }
        let caller = own.instance.clone();
        match target {
            Target::Local { callee, name } => {
                let policy = self.slow_policy(&name);
                let subscriber = Subscriber::Local { session, request };
                let number = self.ask_provider(callee, caller, method, arguments, subscriber, policy);
                if let Some(own) = self.sessions.get_mut(&session) {
                    own.subscribed.insert(number);
                }
            }
            Target::Remote { node, link, name, .. } => {
                let id = CallId(self.next_number());
                let policy = self.slow_policy(&name);
                let (server_id, method_id) = (server.detached(), method.detached());
                let kept = (arguments.len() <= ARGUMENTS_KEPT_MAX).then(|| arguments.detached());
                let subscription = RemoteSubscription {
                    session,
                    request: Some(request),
                    node,
                    link,
                    server: server_id,
                    method: method_id,
                    arguments: kept,
                    policy,
                    branch: None,
                    deadline: None,
                    rests: false,
                    rested: (0, Tick(0)),
                };
                self.subscriptions.insert(id, subscription);
                self.answer_is_due(id);
                if let Some(own) = self.sessions.get_mut(&session) {
                    own.subscribed.insert(id.0);
                }
                self.send_call(session, link, id, true, server, method, arguments, None);
            }
        }
    }

    /// A provider on another node is asked: it has as long to answer as a call has.
    fn answer_is_due(&mut self, id: CallId) {
        self.answer_has_come(id);
        let deadline = self.now.tick.plus_millis(self.settings.limits.call_ms_max);
        if let Some(subscription) = self.subscriptions.get_mut(&id) {
            subscription.deadline = Some(deadline);
            self.deadlines.insert((deadline, id));
        }
    }

    fn answer_has_come(&mut self, id: CallId) {
        if let Some(deadline) = self.subscriptions.get_mut(&id).and_then(|s| s.deadline.take()) {
            self.deadlines.remove(&(deadline, id));
        }
    }

    /// Ends a subscription whose provider, on another node, has not answered in time; returns whether it is
    /// one. What the provider says later is for nobody.
    pub(crate) fn end_unanswered(&mut self, id: CallId) -> bool {
        if self.is_rested(id) {
            return true;
        }
        let Some(subscription) = self.close_subscription(id) else { return false };
        let millis = self.settings.limits.call_ms_max;
        let event = match subscription.request {
            Some(request) => {
                Event::CallEnded { request, outcome: Outcome::Failed(CallFailure::Deadline { millis }) }
            }
            None => Event::SubscriptionEnded { subscription: id.0, cause: Cause::Lost },
        };
        self.tell(subscription.session, event);
        let cause = Cause::Left(Words::default());
        self.send_to_node(subscription.session, subscription.node, |_| LinkMessage::Unsubscribe {
            id,
            cause,
        });
        true
    }

    pub(crate) fn subscription_arrived(
        &mut self,
        provider: SessionId,
        node: NodeId,
        id: CallId,
        caller: Text,
        method: Json,
        arguments: Arguments,
    ) {
        let subscriber = Subscriber::Remote { node, id };
        self.ask_provider(provider, caller, method, arguments, subscriber, SlowPolicy::default());
    }

    fn ask_provider(
        &mut self,
        provider: SessionId,
        caller: Text,
        method: Json,
        arguments: Arguments,
        subscriber: Subscriber,
        policy: SlowPolicy,
    ) -> u64 {
        let subscription = self.next_number();
        let interest = Interest {
            provider,
            method: method.clone(),
            caller: caller.clone(),
            subscriber,
            policy,
            branch: None,
        };
        self.interests.insert(subscription, interest);
        if let Some(session) = self.sessions.get_mut(&provider) {
            session.interests.insert(subscription);
        }
        self.tell(provider, Event::SubscriptionRequested { subscription, method, caller, arguments });
        subscription
    }

    pub(crate) fn accept(&mut self, provider: SessionId, subscription: u64, branch: &Json) {
        let Some(interest) = self.interests.get_mut(&subscription).filter(|i| i.provider == provider) else {
            return;
        };
        let branch = branch.detached();
        let first = interest.branch.is_none();
        let subscriber = interest.subscriber.clone();
        // A second accept binds anew: the old branch feeds it no more.
        self.unbind(subscription);
        if let Some(interest) = self.interests.get_mut(&subscription) {
            interest.branch = Some(branch.clone());
        }
        let number = match self.branches.get(&(provider, branch.clone())) {
            Some(known) => known.number,
            None => self.next_number(),
        };
        let bound =
            self.branches.entry((provider, branch)).or_insert_with(|| Branch { number, ..Branch::default() });
        match subscriber {
            Subscriber::Local { session, request } => {
                bound.local.insert(subscription, session);
                if first {
                    self.tell(session, Event::Subscribed { request, subscription });
                }
            }
            Subscriber::Remote { node, id, .. } => {
                bound.remote.entry(node).or_default().insert(subscription);
                if let Some(link) = self.link_to(node) {
                    self.send_from(
                        provider.0,
                        link,
                        LinkMessage::SubscriptionAccepted { id, branch: number },
                    );
                }
            }
        }
    }

    /// Takes a subscription off its branch.
    fn unbind(&mut self, subscription: u64) {
        let Some(interest) = self.interests.get_mut(&subscription) else { return };
        let Some(branch) = interest.branch.take() else { return };
        let key = (interest.provider, branch);
        let Some(bound) = self.branches.get_mut(&key) else { return };
        bound.local.remove(&subscription);
        if let Subscriber::Remote { node, .. } = interest.subscriber
            && let Some(of_node) = bound.remote.get_mut(&node)
        {
            of_node.remove(&subscription);
            if of_node.is_empty() {
                bound.remote.remove(&node);
            }
        }
        if bound.local.is_empty() && bound.remote.is_empty() {
            self.branches.remove(&key);
        }
    }

    /// The provider rejects a subscription, or kills an accepted one with an error.
    pub(crate) fn reject(&mut self, provider: SessionId, subscription: u64, outcome: Outcome) -> bool {
        if self.interests.get(&subscription).is_none_or(|interest| interest.provider != provider) {
            return false;
        }
        // An accepted one has no open request left that an error could answer: it is cancelled.
        if self.interests.get(&subscription).is_some_and(|interest| interest.branch.is_some()) {
            let words = match outcome {
                Outcome::Answered(Answer::Error { words, .. }) => words,
                Outcome::Answered(Answer::Result(_)) | Outcome::Failed(_) => Words::default(),
            };
            self.end_interest(subscription, &Cause::Left(words), None);
            return true;
        }
        let Some((interest, _)) = self.close_interest(subscription) else { return false };
        match interest.subscriber {
            Subscriber::Local { session, request } => {
                self.tell(session, Event::CallEnded { request, outcome })
            }
            Subscriber::Remote { node, id, .. } => {
                self.send_to_node(provider, node, |after| LinkMessage::CallEnd { id, outcome, after })
            }
        }
        true
    }

    pub(crate) fn drop_subscription(
        &mut self,
        provider: SessionId,
        request: Request,
        subscription: u64,
        words: Words,
    ) {
        let established =
            self.interests.get(&subscription).is_some_and(|i| i.provider == provider && i.branch.is_some());
        if !established {
            return self.refuse(provider, request, Reason::InvalidSubscription);
        }
        self.end_interest(subscription, &Cause::Left(words), None);
    }

    pub(crate) fn push(
        &mut self,
        provider: SessionId,
        branch: Json,
        data: Json,
        sequence: Option<Json>,
        snapshot: Option<Json>,
    ) {
        let Some(bound) = self.branches.get(&(provider, branch)) else { return };
        let number = bound.number;
        let local: Vec<(u64, SessionId)> =
            bound.local.iter().map(|(sub, session)| (*sub, *session)).collect();
        let nodes: Vec<NodeId> = bound.remote.keys().copied().collect();
        for (subscription, session) in local {
            let (data, sequence, snapshot) = (data.clone(), sequence.clone(), snapshot.clone());
            let policy =
                self.interests.get(&subscription).map(|known| known.policy.clone()).unwrap_or_default();
            let (private, gap) = (false, 0);
            let event = Event::StreamData { subscription, private, data, sequence, snapshot, policy, gap };
            self.tell(session, event);
        }
        for node in nodes {
            let (data, sequence, snapshot) = (data.clone(), sequence.clone(), snapshot.clone());
            self.send_to_node(provider, node, |after| LinkMessage::BranchData {
                branch: number,
                data,
                sequence,
                snapshot,
                after,
            });
        }
    }

    pub(crate) fn push_to(
        &mut self,
        provider: SessionId,
        subscription: u64,
        data: Json,
        sequence: Option<Json>,
        snapshot: Option<Json>,
    ) {
        let Some(interest) = self.interests.get(&subscription).filter(|i| i.provider == provider) else {
            return;
        };
        let policy = interest.policy.clone();
        match interest.subscriber.clone() {
            Subscriber::Local { session, .. } => {
                let (private, gap) = (true, 0);
                let event =
                    Event::StreamData { subscription, private, data, sequence, snapshot, policy, gap };
                self.tell(session, event);
            }
            Subscriber::Remote { node, id, .. } => {
                self.send_to_node(provider, node, |after| LinkMessage::PrivateData {
                    id,
                    data,
                    sequence,
                    snapshot,
                    after,
                });
            }
        }
    }

    fn send_to_node(&mut self, session: SessionId, node: NodeId, message: impl FnOnce(u64) -> LinkMessage) {
        if let Some(link) = self.link_to(node) {
            let message = message(self.known_to(session.0));
            self.send_from(session.0, link, message);
        }
    }

    pub(crate) fn unsubscribe(
        &mut self,
        session: SessionId,
        request: Request,
        subscription: u64,
        words: Words,
    ) {
        let Some(own) = self.sessions.get_mut(&session).filter(|own| own.subscribed.contains(&subscription))
        else {
            return self.refuse(session, request, Reason::InvalidSubscription);
        };
        own.subscribed.remove(&subscription);
        self.give_up(session, subscription, &Cause::Left(words));
        self.done(session, request);
    }

    /// The subscriber's side ends a subscription; its provider is told.
    fn give_up(&mut self, session: SessionId, subscription: u64, cause: &Cause) {
        let accepted = self.interests.get(&subscription).is_some_and(|interest| interest.branch.is_some());
        if let Some(remote) = self.close_subscription(CallId(subscription)) {
            let id = CallId(subscription);
            let cause = cause.clone();
            if let Some(request) = remote.request {
                let node = self.nodes.get(&remote.node).map(|node| node.name.clone()).unwrap_or_default();
                self.given_up(session, request, node);
            }
            self.send_to_node(session, remote.node, |_| LinkMessage::Unsubscribe { id, cause });
        } else if let Some((interest, method)) = self.close_interest(subscription) {
            if let (Subscriber::Local { request, .. }, false) = (&interest.subscriber, accepted) {
                self.given_up(session, request.clone(), self.settings.name.clone());
            }
            let (caller, cause) = (interest.caller, cause.clone());
            self.tell(interest.provider, Event::SubscriberGone { subscription, method, caller, cause });
        }
    }

    /// Answers a request for a subscription whose session leaves before it was accepted.
    fn given_up(&mut self, session: SessionId, request: Request, node: Text) {
        let outcome = Outcome::Failed(CallFailure::UnknownOutcome { node });
        self.tell(session, Event::CallEnded { request, outcome });
    }

    /// Ends all subscriptions a session has; part of its leaving.
    pub(crate) fn end_subscriptions_of(&mut self, session: SessionId, cause: &Cause) {
        let Some(own) = self.sessions.get_mut(&session) else { return };
        for subscription in std::mem::take(&mut own.subscribed) {
            self.give_up(session, subscription, cause);
        }
    }

    /// Ends all subscriptions to a provider's streams; part of its leaving.
    pub(crate) fn end_interests_of(&mut self, provider: SessionId) {
        let Some(own) = self.sessions.get(&provider) else { return };
        for subscription in own.interests.clone() {
            self.end_interest(subscription, &Cause::Disconnected, Some(CallFailure::CalleeGone));
        }
    }

    /// Ends the subscriptions to methods that are offered no longer.
    pub(crate) fn end_interests_in(&mut self, provider: SessionId, methods: &[Json]) {
        let Some(own) = self.sessions.get(&provider) else { return };
        let affected: Vec<u64> = own.interests.iter().copied().collect();
        for subscription in affected {
            if self.interests.get(&subscription).is_some_and(|interest| methods.contains(&interest.method)) {
                self.end_interest(subscription, &Cause::MethodRemoved, Some(CallFailure::MethodRemoved));
            }
        }
    }

    /// The provider's side ends a subscription. One that was never accepted is still an open request,
    /// and is answered with `pending`: a client cannot match a cancellation to it.
    fn end_interest(&mut self, subscription: u64, cause: &Cause, pending: Option<CallFailure>) {
        let accepted = self.interests.get(&subscription).is_some_and(|interest| interest.branch.is_some());
        let Some((interest, _)) = self.close_interest(subscription) else { return };
        let failure = pending.filter(|_| !accepted).map(Outcome::Failed);
        match (interest.subscriber, failure) {
            (Subscriber::Local { session, request }, Some(outcome)) => {
                self.tell(session, Event::CallEnded { request, outcome });
            }
            (Subscriber::Local { session, .. }, None) => {
                self.tell(session, Event::SubscriptionEnded { subscription, cause: cause.clone() });
            }
            (Subscriber::Remote { node, id, .. }, Some(outcome)) => {
                self.send_to_node(interest.provider, node, |after| LinkMessage::CallEnd {
                    id,
                    outcome,
                    after,
                });
            }
            (Subscriber::Remote { node, id, .. }, None) => {
                let cause = cause.clone();
                self.send_to_node(interest.provider, node, |_| LinkMessage::SubscriptionEnd { id, cause });
            }
        }
    }

    fn close_interest(&mut self, subscription: u64) -> Option<(Interest, Json)> {
        self.unbind(subscription);
        let interest = self.interests.remove(&subscription)?;
        if let Some(provider) = self.sessions.get_mut(&interest.provider) {
            provider.interests.remove(&subscription);
        }
        if let Subscriber::Local { session, .. } = &interest.subscriber
            && let Some(own) = self.sessions.get_mut(session)
        {
            own.subscribed.remove(&subscription);
        }
        let method = interest.method.clone();
        Some((interest, method))
    }

    fn close_subscription(&mut self, id: CallId) -> Option<RemoteSubscription> {
        self.answer_has_come(id);
        let subscription = self.subscriptions.remove(&id)?;
        if let Some(branch) = subscription.branch {
            self.unfeed(subscription.node, branch, id);
        }
        if let Some(own) = self.sessions.get_mut(&subscription.session) {
            own.subscribed.remove(&id.0);
        }
        Some(subscription)
    }

    // --- What the provider's node says.

    pub(crate) fn subscription_accepted(&mut self, node: NodeId, id: CallId, branch: u64) {
        if self.subscriptions.get(&id).is_none_or(|s| s.node != node) {
            return;
        }
        self.answer_has_come(id);
        let Some(subscription) = self.subscriptions.get_mut(&id) else { return };
        let old = subscription.branch.replace(branch);
        let (session, request) = (subscription.session, subscription.request.take());
        if let Some(old) = old {
            self.unfeed(node, old, id);
        }
        self.remote_branches.entry((node, branch)).or_default().insert(id);
        if let Some(request) = request {
            self.tell(session, Event::Subscribed { request, subscription: id.0 });
        }
    }

    /// An end of a call that was a request for a subscription, or kills one; returns whether it was.
    pub(crate) fn subscription_refused(&mut self, node: NodeId, id: CallId, outcome: &Outcome) -> bool {
        if self.subscriptions.get(&id).is_none_or(|s| s.node != node) {
            return false;
        }
        if matches!(outcome, Outcome::Failed(CallFailure::Overloaded { .. })) && self.rest(id) {
            return true;
        }
        let Some(subscription) = self.close_subscription(id) else { return false };
        let event = match subscription.request {
            Some(request) => Event::CallEnded { request, outcome: outcome.clone() },
            None => Event::SubscriptionEnded { subscription: id.0, cause: Cause::Left(Words::default()) },
        };
        self.tell(subscription.session, event);
        true
    }

    pub(crate) fn branch_data(
        &mut self,
        node: NodeId,
        branch: u64,
        data: &Json,
        sequence: Option<&Json>,
        snapshot: Option<&Json>,
    ) {
        let fed: Vec<CallId> =
            self.remote_branches.get(&(node, branch)).into_iter().flatten().copied().collect();
        for id in fed {
            self.remote_data(id, false, data.clone(), sequence.cloned(), snapshot.cloned());
        }
    }

    pub(crate) fn private_data(
        &mut self,
        node: NodeId,
        id: CallId,
        data: Json,
        sequence: Option<Json>,
        snapshot: Option<Json>,
    ) {
        if self.subscriptions.get(&id).is_some_and(|subscription| subscription.node == node) {
            self.remote_data(id, true, data, sequence, snapshot);
        }
    }

    fn remote_data(
        &mut self,
        id: CallId,
        private: bool,
        data: Json,
        sequence: Option<Json>,
        snapshot: Option<Json>,
    ) {
        let known = self.subscriptions.get(&id);
        if let Some((session, policy)) = known.map(|known| (known.session, known.policy.clone())) {
            let (subscription, gap) = (id.0, 0);
            let event = Event::StreamData { subscription, private, data, sequence, snapshot, policy, gap };
            self.tell(session, event);
        }
    }

    pub(crate) fn remote_subscription_ended(&mut self, node: NodeId, id: CallId, cause: Cause) {
        if self.subscriptions.get(&id).is_some_and(|subscription| subscription.node == node)
            && !(cause == Cause::TooSlow && self.waits_for_room(id))
            && let Some(subscription) = self.close_subscription(id)
        {
            let event = match subscription.request {
                Some(request) => {
                    let outcome = Outcome::Failed(CallFailure::CalleeGone);
                    Event::CallEnded { request, outcome }
                }
                None => Event::SubscriptionEnded { subscription: id.0, cause },
            };
            self.tell(subscription.session, event);
        }
    }

    /// Returns whether anything is open between apps of this node and an instance of another whose end
    /// that node will send.
    pub(crate) fn hangs_on(&self, instance: &Text) -> bool {
        let from_there = |interest: &Interest| {
            matches!(interest.subscriber, Subscriber::Remote { .. }) && interest.caller == *instance
        };
        self.calls.values().any(|call| call.server == *instance)
            || self
                .subscriptions
                .values()
                .any(|subscription| subscription.server == *instance && !subscription.rests)
            || self.interests.values().any(from_there)
    }

    /// Returns whether an app of this node is subscribed, or asks to be, to a method of another which will
    /// say how that ends.
    pub(crate) fn is_subscribed_to(&self, server: &Text, method: &Json) -> bool {
        self.subscriptions.values().any(|s| s.server == *server && s.method == *method && !s.rests)
    }

    /// A provider on another node is gone, or one of its streams (`method`): its subscribers here are
    /// told before they are told of that, since clients look the provider up.
    pub(crate) fn end_subscriptions_to(&mut self, server: &Text, method: Option<&Json>) {
        let concerned =
            |s: &RemoteSubscription| s.server == *server && method.is_none_or(|method| s.method == *method);
        let ended: Vec<CallId> =
            self.subscriptions.iter().filter(|(_, s)| concerned(s)).map(|(id, _)| *id).collect();
        for id in ended {
            let Some(subscription) = self.close_subscription(id) else { continue };
            let (cause, failure) = match method {
                Some(_) => (Cause::MethodRemoved, CallFailure::MethodRemoved),
                None => (Cause::Disconnected, CallFailure::CalleeGone),
            };
            let event = match subscription.request {
                Some(request) => Event::CallEnded { request, outcome: Outcome::Failed(failure) },
                None => Event::SubscriptionEnded { subscription: id.0, cause },
            };
            self.tell(subscription.session, event);
        }
    }

    // --- What the subscriber's node says.

    pub(crate) fn unsubscribed(&mut self, node: NodeId, id: CallId, cause: &Cause) {
        self.forget_shed(node, id);
        for subscription in self.interests_of_node(node, |known| known == id) {
            if let Some((interest, method)) = self.close_interest(subscription) {
                let (caller, cause) = (interest.caller, cause.clone());
                self.tell(interest.provider, Event::SubscriberGone { subscription, method, caller, cause });
            }
        }
    }

    /// The link to a node is new: what apps here had subscribed to over there is asked for again.
    pub(crate) fn subscribe_again(&mut self, node: NodeId, link: LinkId) {
        // One that was asked for over a link that drains is not answered there any more.
        let held = self.subscriptions.iter().filter(|(_, s)| s.node == node && s.link != link);
        let held: Vec<CallId> = held.map(|(id, _)| *id).collect();
        for id in held {
            self.ask_again(id, link);
        }
    }

    /// Asks for a subscription again, as it was asked for first.
    fn ask_again(&mut self, id: CallId, link: LinkId) {
        let Some(subscription) = self.subscriptions.get_mut(&id) else { return };
        subscription.link = link;
        subscription.rests = false;
        let (node, branch) = (subscription.node, subscription.branch.take());
        let (session, server) = (subscription.session, subscription.server.clone());
        let (method, arguments) = (subscription.method.clone(), subscription.arguments.clone());
        if let Some(branch) = branch {
            self.unfeed(node, branch, id);
        }
        match arguments {
            Some(arguments) => {
                self.answer_is_due(id);
                self.send_call(session, link, id, true, &server, method, arguments, None);
            }
            None => self.remote_subscription_ended(node, id, Cause::Lost),
        }
    }

    /// Takes a subscription off a branch of another node.
    fn unfeed(&mut self, node: NodeId, branch: u64, id: CallId) {
        if let Some(fed) = self.remote_branches.get_mut(&(node, branch)) {
            fed.remove(&id);
            if fed.is_empty() {
                self.remote_branches.remove(&(node, branch));
            }
        }
    }

    /// A link broke: requests for subscriptions that went over it will get no answer.
    pub(crate) fn end_requests_over(&mut self, link: LinkId, node_name: &Text) {
        let open: Vec<CallId> = self
            .subscriptions
            .iter()
            .filter(|(_, s)| s.link == link && s.request.is_some())
            .map(|(id, _)| *id)
            .collect();
        for id in open {
            let Some(RemoteSubscription { session, request: Some(request), .. }) =
                self.close_subscription(id)
            else {
                continue;
            };
            let outcome = Outcome::Failed(CallFailure::UnknownOutcome { node: node_name.clone() });
            self.tell(session, Event::CallEnded { request, outcome });
        }
    }

    /// A node cannot be reached: its subscribers are gone. It asks again for those that are still there.
    pub(crate) fn end_interests_of_node(&mut self, node: NodeId) {
        self.shed.remove(&node);
        for subscription in self.interests_of_node(node, |_| true) {
            if let Some((interest, method)) = self.close_interest(subscription) {
                let (caller, cause) = (interest.caller, Cause::Unreachable);
                self.tell(interest.provider, Event::SubscriberGone { subscription, method, caller, cause });
            }
        }
    }

    /// A node is gone for good: subscriptions in both directions end.
    pub(crate) fn end_streams_with(&mut self, node: NodeId) {
        let ours: Vec<CallId> =
            self.subscriptions.iter().filter(|(_, s)| s.node == node).map(|(id, _)| *id).collect();
        for id in ours {
            self.remote_subscription_ended(node, id, Cause::Lost);
        }
        self.end_interests_of_node(node);
    }

    fn interests_of_node(&self, node: NodeId, wanted: impl Fn(CallId) -> bool) -> Vec<u64> {
        let of_node = |interest: &Interest| match interest.subscriber {
            Subscriber::Remote { node: of, id, .. } => of == node && wanted(id),
            Subscriber::Local { .. } => false,
        };
        self.interests.iter().filter(|(_, interest)| of_node(interest)).map(|(number, _)| *number).collect()
    }
}
