//! Publish and subscribe: at most once, no replay.
//!
//! A publication goes to the subscribers here and once to each node where somebody is interested. What
//! a node is interested in is a registry entry: the union of its applications' patterns, per user.

use std::collections::{BTreeMap, BTreeSet};

use mesh_model::limits::NAME_BYTES_MAX;
use mesh_model::link::LinkMessage;
use mesh_model::{Event, Json, NodeId, Reason, Request, SessionId, Text};

use crate::content::Write;
use crate::key::{self, UserKey};
use crate::node::Node;
use crate::party::Party;
use crate::session::Session;

/// All that is subscribed here, and what other nodes want.
#[derive(Clone, Debug, Default)]
pub(crate) struct Bus {
    subscriptions: BTreeMap<u64, Subscription>,
    users: BTreeMap<UserKey, Topics>,
}

/// Who publishes, as it joined the bus.
type Publisher<'a> = Party<'a>;

#[derive(Clone, Debug)]
struct Subscription {
    session: SessionId,
    pattern: Text,
    routing_key: Option<Text>,
}

/// The patterns of one user. Exact topics are found by name; only real patterns are tried one by one.
#[derive(Clone, Debug, Default)]
struct Topics {
    exact: BTreeMap<Text, BTreeSet<u64>>,
    patterns: BTreeMap<Text, BTreeSet<u64>>,
    remote: BTreeMap<NodeId, BTreeSet<Text>>,
}

impl Topics {
    fn local(&mut self, pattern: &Text) -> &mut BTreeMap<Text, BTreeSet<u64>> {
        if is_pattern(pattern) { &mut self.patterns } else { &mut self.exact }
    }
}

impl Topics {
    fn subscribed(&self, pattern: &Text) -> &BTreeMap<Text, BTreeSet<u64>> {
        if is_pattern(pattern) { &self.patterns } else { &self.exact }
    }
}

impl Bus {
    pub(crate) fn set_remote_interest(&mut self, node: NodeId, user: &UserKey, pattern: &Text, wanted: bool) {
        if wanted {
            let of_user = self.users.entry(user.clone()).or_default();
            of_user.remote.entry(node).or_default().insert(pattern.detached());
            return;
        }
        let Some(of_user) = self.users.get_mut(user) else { return };
        if let Some(of_node) = of_user.remote.get_mut(&node) {
            of_node.remove(pattern);
            if of_node.is_empty() {
                of_user.remote.remove(&node);
            }
        }
        self.drop_if_empty(user);
    }

    fn drop_if_empty(&mut self, user: &UserKey) {
        let empty = |of_user: &Topics| {
            of_user.exact.is_empty() && of_user.patterns.is_empty() && of_user.remote.is_empty()
        };
        if self.users.get(user).is_some_and(empty) {
            self.users.remove(user);
        }
    }

    /// Returns the topics that a publication may be for: those of its publisher's user and of the services,
    /// or all if a service published it.
    fn topics(&self, from: Publisher<'_>) -> impl Iterator<Item = &Topics> {
        let all = from.service.then(|| self.users.values());
        let some = (!from.service).then(|| [self.users.get(from.user), self.users.get(&UserKey::services())]);
        all.into_iter().flatten().chain(some.into_iter().flatten().flatten())
    }

    fn receivers(&self, from: Publisher<'_>, topic: &Text) -> Vec<u64> {
        let mut found = Vec::new();
        for topics in self.topics(from) {
            found.extend(topics.exact.get(topic).into_iter().flatten());
            for (pattern, subscriptions) in &topics.patterns {
                if matches(pattern, topic) {
                    found.extend(subscriptions);
                }
            }
        }
        found
    }

    fn interested_nodes(&self, from: Publisher<'_>, topic: &Text) -> BTreeSet<NodeId> {
        let wants = |patterns: &BTreeSet<Text>| {
            patterns.contains(topic)
                || patterns.iter().any(|pattern| is_pattern(pattern) && matches(pattern, topic))
        };
        let nodes = self.topics(from).flat_map(|topics| &topics.remote);
        nodes.filter(|(_, patterns)| wants(patterns)).map(|(node, _)| *node).collect()
    }
}

impl Node {
    pub(crate) fn bus_subscribe(
        &mut self,
        session: SessionId,
        request: Request,
        pattern: Text,
        routing_key: Option<Text>,
    ) {
        let Some(own) = self.sessions.get(&session) else { return };
        let max = self.settings.limits.subscriptions_per_session_max;
        if !own.bus {
            return self.refuse(session, request, Reason::NotJoined { area: "bus" });
        }
        if own.topics.len() >= max {
            let reason = Reason::Limit { limit: "subscriptions_per_session_max", max: max as u64 };
            return self.refuse(session, request, reason);
        }
        if pattern.len() > NAME_BYTES_MAX {
            let reason = Reason::NameTooLong { what: "topic", max: NAME_BYTES_MAX as u64 };
            return self.refuse(session, request, reason);
        }
        let user = own.bus_partition();
        let pattern = pattern.detached();
        let subscription = self.next_number();
        let routing_key = routing_key.map(|key| key.detached());
        self.bus
            .subscriptions
            .insert(subscription, Subscription { session, pattern: pattern.clone(), routing_key });
        let topics = self.bus.users.entry(user.clone()).or_default();
        topics.local(&pattern).entry(pattern.clone()).or_default().insert(subscription);
        if let Some(own) = self.sessions.get_mut(&session) {
            own.topics.insert(subscription);
        }
        self.publish_interest(&user, &pattern);
        self.tell(session, Event::BusSubscribed { request, subscription });
    }

    pub(crate) fn bus_unsubscribe(&mut self, session: SessionId, request: Request, subscription: u64) {
        if self.sessions.get(&session).is_some_and(|own| own.topics.contains(&subscription)) {
            self.end_topic(session, subscription);
        }
        self.done(session, request);
    }

    pub(crate) fn leave_bus(&mut self, session: SessionId) {
        let Some(own) = self.sessions.get_mut(&session) else { return };
        own.bus = false;
        for subscription in own.topics.clone() {
            self.end_topic(session, subscription);
        }
    }

    fn end_topic(&mut self, session: SessionId, subscription: u64) {
        let Some(own) = self.sessions.get_mut(&session) else { return };
        own.topics.remove(&subscription);
        let user = own.bus_partition();
        let Some(gone) = self.bus.subscriptions.remove(&subscription) else { return };
        let Some(topics) = self.bus.users.get_mut(&user) else { return };
        let same = topics.local(&gone.pattern).entry(gone.pattern.clone()).or_default();
        same.remove(&subscription);
        if same.is_empty() {
            topics.local(&gone.pattern).remove(&gone.pattern);
            self.bus.drop_if_empty(&user);
        }
        self.publish_interest(&user, &gone.pattern);
    }

    /// Writes whether other nodes shall send what is published to a pattern.
    fn publish_interest(&mut self, user: &UserKey, pattern: &Text) {
        let topics = self.bus.users.get(user);
        let mut subscriptions =
            topics.and_then(|topics| topics.subscribed(pattern).get(pattern)).into_iter().flatten();
        let wanted = subscriptions.any(|subscription| {
            let session = self.bus.subscriptions.get(subscription).map(|known| known.session);
            session.and_then(|id| self.sessions.get(&id)).is_some_and(|session| !session.bus_local)
        });
        let key = key::interest(self.settings.node, user, pattern);
        if wanted != self.replica.get(&key).is_some_and(|entry| entry.value.is_some()) {
            self.write(vec![Write { key, value: wanted.then(bytes::Bytes::new) }]);
        }
    }

    /// The same for all patterns, after new visibility lists.
    pub(crate) fn publish_interests(&mut self) {
        let mut all = BTreeSet::new();
        for (user, topics) in &self.bus.users {
            all.extend(topics.exact.keys().chain(topics.patterns.keys()).map(|p| (user.clone(), p.clone())));
        }
        for (user, pattern) in all {
            self.publish_interest(&user, &pattern);
        }
    }

    pub(crate) fn bus_publish(
        &mut self,
        session: SessionId,
        topic: Text,
        routing_key: Option<Text>,
        target: Option<Json>,
        data: Json,
    ) {
        // Null and false are "nothing" to the clients, and are not delivered.
        if matches!(data.as_bytes().as_ref(), b"null" | b"false") {
            return;
        }
        let Some(own) = self.sessions.get(&session) else { return };
        let own_is_local = own.bus_local;
        let Session { user, service, identity: publisher, .. } = own;
        let (user, service, publisher) = (user.clone(), *service, publisher.clone());
        let restriction = own.bus_party().restriction.cloned();
        let from = Party { user: &user, service, identity: &publisher, restriction: restriction.as_ref() };
        self.deliver(from, false, &topic, routing_key.as_ref(), target.as_ref(), &data);
        if own_is_local {
            return;
        }
        for node in self.bus.interested_nodes(from, &topic) {
            let Some(link) = self.link_to(node) else { continue };
            let message = LinkMessage::Publish {
                user: user.user(),
                service,
                restriction: restriction.as_ref().map(|restriction| restriction.text().into()),
                topic: topic.clone(),
                routing_key: routing_key.clone(),
                target: target.clone(),
                publisher: publisher.clone(),
                data: data.clone(),
                after: self.known_to(session.0),
            };
            self.send_from(session.0, link, message);
        }
    }

    /// Gives a publication to the subscribers on this node.
    pub(crate) fn deliver(
        &mut self,
        from: Publisher<'_>,
        from_afar: bool,
        topic: &Text,
        routing_key: Option<&Text>,
        target: Option<&Json>,
        data: &Json,
    ) {
        let target = target.and_then(Json::members).unwrap_or_default();
        for subscription in self.bus.receivers(from, topic) {
            let Some(known) = self.bus.subscriptions.get(&subscription) else { continue };
            if known.routing_key.as_ref().zip(routing_key).is_some_and(|(wanted, given)| wanted != given) {
                continue;
            }
            let session = known.session;
            let fits = self.sessions.get(&session).is_some_and(|own| {
                let is_target = || {
                    let identity = own.identity.members().unwrap_or_default();
                    target.iter().all(|wanted| identity.contains(wanted))
                };
                let oneself = || own.identity == *from.identity;
                let in_sight = own.bus_party().sees(from) || oneself();
                let hidden = from_afar && own.bus_local;
                in_sight && !hidden && (target.is_empty() || is_target())
            });
            if fits {
                let (publisher, data) = (from.identity.clone(), data.clone());
                self.tell(session, Event::BusEvent { subscription, publisher, data });
            }
        }
    }
}

fn is_pattern(topic: &Text) -> bool {
    topic.bytes().any(|byte| matches!(byte, b'*' | b'>'))
}

/// Matches a topic: `*` stands for one or more letters, digits or underscores, `>` for any rest.
fn matches(pattern: &Text, topic: &Text) -> bool {
    // Both wildcards are greedy with backtracking limited to the last one seen, so the work is bounded
    // by the product of the lengths.
    let (pattern, topic) = (pattern.as_bytes().as_ref(), topic.as_bytes().as_ref());
    let word = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'_';
    let mut reachable = vec![false; topic.len() + 1];
    reachable[0] = true;
    for byte in pattern {
        let mut next = vec![false; topic.len() + 1];
        let mut open = false;
        for at in 0..=topic.len() {
            match byte {
                b'>' => {
                    open |= reachable[at];
                    next[at] = open;
                }
                b'*' => {
                    // One more word character, after a start or after the last one it took.
                    next[at] = at > 0 && word(topic[at - 1]) && (reachable[at - 1] || next[at - 1]);
                }
                literal => next[at] = at > 0 && reachable[at - 1] && topic[at - 1] == *literal,
            }
        }
        reachable = next;
    }
    reachable[topic.len()]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn patterns_match_as_the_reference_does() {
        let cases = "a.*,a.b,1 a.*,a.b.c,0 a.*,a.,0 a.*,a.x-y,0 a.*.c,a.b.c,1 a>,a,1 a>,a.b.c,1 a.>,a.b.c,1 a.>,ab,0 *,x_1,1 A,a,0";
        for case in cases.split(' ') {
            let [pattern, topic, expected] = case.split(',').collect::<Vec<_>>().try_into().unwrap();
            assert_eq!(matches(&pattern.into(), &topic.into()), expected == "1", "{case}");
        }
    }
}
