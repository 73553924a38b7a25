//! Private channels: they live at the agent of the app that made them, which relays between the members.
//!
//! Agents of other nodes keep what they need for their own members, and tell the host what those do: the
//! operations of [`peer`](crate::peer) that have a `channel`.

use std::collections::{BTreeMap, BTreeSet};

use mesh_model::{Json, Text};
use proto_dacp::{Fault, Object};

use crate::bridge::{desk_of, is_foreign};
use crate::channel::{Channel, Kind, Listener};
use crate::document::{Cast, Slot};
use crate::{Agent, Asker};

/// How the ids of private channels begin, so that agents that know nothing of one do not take it for an app
/// channel.
pub(crate) const PREFIX: &str = "fdc3.private.";

/// A private channel.
#[derive(Debug, Default)]
pub(crate) struct Private {
    /// The desk of the agent that it lives at; none: this one.
    pub(crate) host: Option<Text>,
    /// Who may use it: apps here, and at the host those elsewhere, with their desks.
    pub(crate) members: BTreeMap<Text, Option<Text>>,
    /// Who has left it.
    left: BTreeSet<Text>,
    /// What was broadcast, one per type, the newest last.
    slots: Vec<Slot>,
    /// Which types members elsewhere listen for, by listener; only at the host, and of those on the bridge.
    elsewhere: BTreeMap<Text, (Text, Option<Text>)>,
}

/// What a member did that others are told of.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Deed {
    Listens(Option<Text>),
    Unsubscribed(Option<Text>),
    Disconnected,
}

impl Deed {
    const fn word(&self) -> &'static str {
        match self {
            Self::Listens(_) => "listens",
            Self::Unsubscribed(_) => "unsubscribed",
            Self::Disconnected => "disconnected",
        }
    }

    fn of_word(word: &str, kind: Option<Text>) -> Option<Self> {
        Some(match word {
            "listens" => Self::Listens(kind),
            "unsubscribed" => Self::Unsubscribed(kind),
            "disconnected" => Self::Disconnected,
            _ => return None,
        })
    }

    const fn event(&self) -> &'static str {
        match self {
            Self::Listens(_) => "privateChannelOnAddContextListenerEvent",
            Self::Unsubscribed(_) => "privateChannelOnUnsubscribeEvent",
            Self::Disconnected => "privateChannelOnDisconnectEvent",
        }
    }

    const fn kind(&self) -> Option<&Option<Text>> {
        match self {
            Self::Listens(kind) | Self::Unsubscribed(kind) => Some(kind),
            Self::Disconnected => None,
        }
    }
}

impl Private {
    pub(crate) fn is_member(&self, instance: &Text) -> bool {
        self.members.contains_key(instance)
    }

    pub(crate) fn has_left(&self, instance: &Text) -> bool {
        self.left.contains(instance)
    }

    /// Returns whether this node speaks to the members on other nodes: the channel lives here, or on the bridge.
    fn is_served_here(&self) -> bool {
        self.host.as_ref().is_none_or(|host| is_foreign(host))
    }

    pub(crate) fn current(&self, kind: Option<&str>) -> Option<Slot> {
        let wanted = |slot: &&Slot| kind.is_none_or(|kind| *slot.kind == *kind);
        self.slots.iter().rev().find(wanted).cloned()
    }

    fn keep(&mut self, slot: &Slot) {
        self.slots.retain(|other| other.kind != slot.kind);
        self.slots.push(slot.clone());
    }
}

impl Agent {
    pub(crate) fn create_private(&mut self, asker: &Asker) {
        if self.is_full() {
            self.tell_if_full();
            return self.answer(asker, Err(Fault::CreationFailed));
        }
        let id: Text = format!("{PREFIX}{}", self.ids.uuid()).into();
        let members = BTreeMap::from([(asker.instance.clone(), None)]);
        let channel =
            Channel { kind: Kind::Private(Private { members, ..Private::default() }), display: None };
        let about = channel.about(&id);
        self.channels.by_id.insert(id, channel);
        self.answer(asker, Ok(Object::new().json("privateChannel", &about).end()));
    }

    pub(crate) fn private_mut(&mut self, id: &Text) -> Option<&mut Private> {
        match &mut self.channels.by_id.get_mut(id)?.kind {
            Kind::Private(private) => Some(private),
            _ => None,
        }
    }

    /// Lets an app use a private channel, because somebody who may has handed it over.
    pub(crate) fn add_member(&mut self, id: &Text, instance: &Text, desk: Option<&Text>) {
        let Some(private) = self.private_mut(id) else { return };
        private.members.insert(instance.clone(), desk.cloned().or_else(|| desk_of(instance)));
        if let Some(host) = private.host.clone() {
            let desk = desk.filter(|desk| !is_foreign(desk)).or(self.desk.instance.as_ref()).cloned();
            let op = self
                .private_op("member", id)
                .text("instance", instance)
                .some_text("desk", desk.as_deref())
                .end();
            self.tell_peer(&host, op, None);
        }
    }

    /// A channel of another agent has been handed to an app here.
    /// `desk` is that of the app, if it is another.
    pub(crate) fn adopt(&mut self, id: &Text, host: &Text, instance: &Text, desk: Option<&Text>) {
        if self.desk.instance.as_ref() == Some(host) {
            return self.add_member(id, instance, desk);
        }
        let channel = self.channels.by_id.entry(id.clone()).or_insert_with(|| Channel {
            kind: Kind::Private(Private { host: Some(host.clone()), ..Private::default() }),
            display: None,
        });
        if let Kind::Private(private) = &mut channel.kind {
            private.members.insert(instance.clone(), desk.cloned().or_else(|| desk_of(instance)));
        }
    }

    /// Returns at which desk a private channel lives, as other nodes see it: for agents on its bridge this
    /// one stands.
    pub(crate) fn host_of(&self, id: &Text) -> Option<Text> {
        let private = self.channels.by_id.get(id)?.private()?;
        private.host.clone().filter(|host| !is_foreign(host)).or_else(|| self.desk.instance.clone())
    }

    fn private_op(&self, op: &str, id: &str) -> Object {
        Object::new().text("op", op).text("channel", id)
    }

    /// Tells the other members what an app here has done.
    pub(crate) fn did(&mut self, id: &Text, by: &Text, deed: &Deed, listener: Option<&Text>) {
        let Some(private) = self.private_mut(id) else { return };
        if *deed == Deed::Disconnected && !private.left.insert(by.clone()) {
            return;
        }
        let host = private.host.clone();
        self.tell_deed(id, by, deed);
        if let Some(host) = host {
            let op = self.deed_op("did", id, by, deed).some_text("listener", listener.map(|id| &**id)).end();
            self.tell_peer(&host, op, None);
        }
        self.relay_deed(id, by, deed);
        if *deed == Deed::Disconnected {
            self.end_private(id);
        }
    }

    fn deed_op(&self, op: &str, id: &str, by: &str, deed: &Deed) -> Object {
        let kind = deed.kind().and_then(|kind| kind.as_deref());
        self.private_op(op, id).text("by", by).text("deed", deed.word()).some_text("type", kind)
    }

    /// Tells the members here that listen for such events.
    pub(crate) fn tell_deed(&mut self, id: &Text, by: &Text, deed: &Deed) {
        // Clients filter by themselves, and some ask for all kinds under the name of one.
        let listens = |app: &crate::app::App| app.events.values().any(|channel| channel.as_ref() == Some(id));
        let to: Vec<Text> = self
            .connected_apps()
            .filter(|(instance, app)| *instance != by && listens(app))
            .map(|(instance, _)| instance.clone())
            .collect();
        let payload = Object::new().text("privateChannelId", id);
        let payload = match deed.kind() {
            Some(kind) => payload.text_or_null("contextType", kind.as_deref()),
            None => payload,
        };
        let payload = payload.end();
        for instance in to {
            self.send_event(&instance, deed.event(), &payload);
        }
    }

    /// As the host: tells the agents of members elsewhere. Others tell those on their bridge.
    pub(crate) fn relay_deed(&mut self, id: &Text, by: &Text, deed: &Deed) {
        for desk in self.desks_of(id, by) {
            let op = self.deed_op("event", id, by, deed).end();
            self.tell_peer(&desk, op, None);
        }
    }

    /// Returns the desks of members elsewhere, but not that of one, which has told its own.
    fn desks_of(&self, id: &Text, but: &Text) -> BTreeSet<Text> {
        let Some(private) = self.channels.by_id.get(id).and_then(Channel::private) else {
            return BTreeSet::new();
        };
        let own = private.members.get(but).cloned().flatten();
        let present = private.members.iter().filter(|(instance, _)| !private.left.contains(*instance));
        let desks = present.filter_map(|(_, desk)| desk.clone());
        desks.filter(|desk| own.as_ref() != Some(desk) && private.host.as_ref() != Some(desk)).collect()
    }

    /// Forgets a channel that nobody can use any more.
    fn end_private(&mut self, id: &Text) {
        let Some(private) = self.channels.by_id.get(id).and_then(Channel::private) else { return };
        // Of a channel that lives elsewhere not all members are known here.
        let left = |instance: &Text| {
            (private.is_served_here() || is_foreign(instance)) && private.left.contains(instance)
        };
        let gone = |instance: &Text, desk: &Option<Text>| {
            left(instance) || (desk.is_none() && !self.is_connected(instance))
        };
        if private.members.iter().all(|(instance, desk)| gone(instance, desk)) {
            self.channels.by_id.remove(id);
        }
    }

    pub(crate) fn broadcast_private(
        &mut self,
        id: &Text,
        context: Json,
        metadata: Option<Json>,
        asker: &Asker,
    ) {
        let Some(kind) = proto_dacp::context_type(&context) else { return };
        let source = self.source(&asker.instance);
        let cast = Cast { event: self.ids.uuid(), source, wall_ms: self.now.wall_ms, metadata };
        let slot = Slot { kind, context, cast: Some(cast) };
        if !self.cast_private(id, &slot, &asker.instance, Some(asker)) {
            self.answer_done(asker);
        }
    }

    /// Tells a context to the other members. Returns whether its sender is answered later.
    pub(crate) fn cast_private(&mut self, id: &Text, slot: &Slot, by: &Text, asker: Option<&Asker>) -> bool {
        let host = self.private_mut(id).and_then(|private| {
            private.keep(slot);
            private.host.clone()
        });
        self.deliver_private(id, slot, by);
        let mut desks = self.listening_desks(id, by, &slot.kind);
        desks.extend(host.filter(|host| desk_of(by).as_ref() != Some(host)));
        // Where much waits already, so does the sender: until one of them has taken it.
        let mut waits = false;
        for desk in desks {
            waits |= self.tell_cast(id, slot, by, &desk, asker.filter(|_| !waits));
        }
        waits
    }

    /// Does what a member on the bridge has done.
    pub(crate) fn did_elsewhere(&mut self, id: &Text, by: &Text, deed: &Deed) {
        let max = self.settings.limits.listeners_max;
        let listener = match deed {
            Deed::Listens(_) => Some(self.ids.uuid()),
            _ => None,
        };
        let Some(private) = self.private_mut(id) else { return };
        let is_own = |(of, _): &&(Text, Option<Text>)| of == by;
        let listener = match deed {
            Deed::Listens(kind) => {
                if private.elsewhere.values().filter(is_own).count() >= max {
                    return;
                }
                listener.inspect(|listener| {
                    private.elsewhere.insert(listener.clone(), (by.clone(), kind.clone()));
                })
            }
            Deed::Unsubscribed(kind) => {
                let same = |entry: &(&Text, &(Text, Option<Text>))| entry.1.0 == *by && entry.1.1 == *kind;
                let listener = private.elsewhere.iter().find(same).map(|(listener, _)| listener.clone());
                let Some(listener) = listener else { return };
                private.elsewhere.remove(&listener);
                Some(listener)
            }
            Deed::Disconnected => {
                private.elsewhere.retain(|_, (of, _)| of != by);
                None
            }
        };
        self.did(id, by, deed, listener.as_ref());
    }

    fn tell_cast(&mut self, id: &Text, slot: &Slot, by: &Text, desk: &Text, asker: Option<&Asker>) -> bool {
        let cast = slot.cast.as_ref();
        let op = self
            .private_op("cast", id)
            .text("by", by)
            .json("context", &slot.context)
            .some("source", cast.map(|cast| &cast.source))
            .number("time", cast.map_or(0, |cast| cast.wall_ms))
            .some("metadata", cast.and_then(|cast| cast.metadata.as_ref()))
            .end();
        self.tell_peer(desk, op, asker)
    }

    /// As the host: returns the desks where somebody listens for a type. Of others, those on the bridge.
    fn listening_desks(&self, id: &Text, but: &Text, kind: &str) -> BTreeSet<Text> {
        let Some(private) = self.channels.by_id.get(id).and_then(Channel::private) else {
            return BTreeSet::new();
        };
        let listens = private.elsewhere.values().filter(|(instance, wanted)| {
            instance != but && wanted.as_ref().is_none_or(|wanted| **wanted == *kind)
        });
        listens.filter_map(|(instance, _)| private.members.get(instance)?.clone()).collect()
    }

    fn deliver_private(&mut self, id: &Text, slot: &Slot, from: &Text) {
        let listens = |app: &crate::app::App| {
            let mut listeners = app.listeners.values();
            listeners.any(|listener| listener.channel.as_ref() == Some(id) && listener.takes(&slot.kind))
        };
        let to: Vec<Text> = self
            .connected_apps()
            .filter(|(instance, app)| *instance != from && listens(app))
            .map(|(instance, _)| instance.clone())
            .collect();
        if to.is_empty() {
            return;
        }
        let payload = self.broadcast_payload(Some(id), slot);
        for instance in to {
            self.send_event(&instance, "broadcastEvent", &payload);
        }
    }

    /// An app leaves a private channel: its listeners go, then it.
    pub(crate) fn leave_private(&mut self, id: &Text, instance: &Text) {
        let Some(app) = self.apps.get_mut(instance) else { return };
        let of_channel = |listener: &Listener| listener.channel.as_ref() == Some(id);
        let gone: Vec<(Text, Listener)> = app
            .listeners
            .iter()
            .filter(|(_, listener)| of_channel(listener))
            .map(|(id, listener)| (id.clone(), listener.clone()))
            .collect();
        app.listeners.retain(|_, listener| !of_channel(listener));
        for (listener, gone) in gone {
            self.did(id, instance, &Deed::Unsubscribed(gone.context), Some(&listener));
        }
        self.did(id, instance, &Deed::Disconnected, None);
    }

    /// An app is gone, and these listeners with it.
    pub(crate) fn leave_private_channels(&mut self, instance: &Text, listeners: BTreeMap<Text, Listener>) {
        for (id, listener) in listeners {
            if let Some(channel) = &listener.channel
                && self.private_mut(channel).is_some()
            {
                self.did(channel, instance, &Deed::Unsubscribed(listener.context.clone()), Some(&id));
            }
        }
        let member = |channel: &Channel| channel.private().is_some_and(|private| private.is_member(instance));
        let of: Vec<Text> = self
            .channels
            .by_id
            .iter()
            .filter(|(_, channel)| member(channel))
            .map(|(id, _)| id.clone())
            .collect();
        for id in of {
            self.did(&id, instance, &Deed::Disconnected, None);
        }
    }

    /// Does what the agent of another node says about a private channel.
    pub(crate) fn private_operation(&mut self, desk: &Text, op: &str, given: &Json) {
        let text =
            |name: &str| given.member(name).and_then(|value| value.as_text()).map(|text| text.detached());
        let Some(id) = text("channel") else { return };
        let Some(private) = self.private_mut(&id) else { return };
        let is_host = private.is_served_here();
        // Of a channel that lives elsewhere only its host speaks, and to a host only those who are members.
        if !is_host && private.host.as_ref() != Some(desk) {
            return;
        }
        let by = text("by");
        if is_host && op != "member" {
            let speaks = by
                .as_ref()
                .and_then(|by| private.members.get(by))
                .is_some_and(|of| of.as_ref() == Some(desk));
            if !speaks {
                return;
            }
        }
        match (op, by) {
            ("member", _) if is_host && private.members.values().any(|of| of.as_ref() == Some(desk)) => {
                if let Some(instance) = text("instance") {
                    private.members.insert(instance, text("desk"));
                }
            }
            ("did", Some(by)) if is_host => {
                let Some(deed) = text("deed").and_then(|word| Deed::of_word(&word, text("type"))) else {
                    return;
                };
                match (&deed, text("listener")) {
                    (Deed::Listens(kind), Some(listener)) => {
                        private.elsewhere.insert(listener, (by.clone(), kind.clone()));
                    }
                    (Deed::Unsubscribed(_), Some(listener)) => {
                        private.elsewhere.remove(&listener);
                    }
                    (Deed::Disconnected, _) => {
                        private.elsewhere.retain(|_, (instance, _)| *instance != by);
                    }
                    _ => {}
                }
                self.did(&id, &by, &deed, None);
            }
            ("event", Some(by)) if !is_host => {
                if let Some(deed) = text("deed").and_then(|word| Deed::of_word(&word, text("type"))) {
                    self.tell_deed(&id, &by, &deed);
                    self.relay_deed(&id, &by, &deed);
                }
            }
            ("cast", Some(by)) => {
                let Some(context) = given.member("context").map(|context| context.detached()) else { return };
                let Some(kind) = proto_dacp::context_type(&context) else { return };
                let cast = Cast {
                    event: Text::default(),
                    source: self.source_from(desk, given),
                    wall_ms: given.member("time").and_then(|time| time.to_string().parse().ok()).unwrap_or(0),
                    metadata: given.member("metadata").map(|metadata| metadata.detached()),
                };
                let slot = Slot { kind, context, cast: Some(cast) };
                let host = self.private_mut(&id).and_then(|private| {
                    private.keep(&slot);
                    private.host.clone().filter(|host| is_foreign(host))
                });
                self.deliver_private(&id, &slot, &by);
                for other in self.listening_desks(&id, &by, &slot.kind).into_iter().chain(host) {
                    if other != *desk {
                        self.tell_cast(&id, &slot, &by, &other, None);
                    }
                }
            }
            _ => {}
        }
    }

    /// The agent of another node cannot be reached: its apps have left, and its channels are over.
    pub(crate) fn private_peer_gone(&mut self, desk: &Text) {
        let ids: Vec<Text> = self.channels.by_id.keys().cloned().collect();
        for id in ids {
            let Some(private) = self.private_mut(&id) else { continue };
            if private.host.as_ref() == Some(desk) {
                self.tell_deed(&id, desk, &Deed::Disconnected);
                self.relay_deed(&id, desk, &Deed::Disconnected);
                self.channels.by_id.remove(&id);
                continue;
            }
            let gone: Vec<Text> = private
                .members
                .iter()
                .filter(|(_, of)| of.as_ref() == Some(desk))
                .map(|(instance, _)| instance.clone())
                .collect();
            for instance in gone {
                let Some(private) = self.private_mut(&id) else { break };
                let of = |entry: &(&Text, &(Text, Option<Text>))| entry.1.0 == instance;
                let listeners: Vec<(Text, Option<Text>)> = private
                    .elsewhere
                    .iter()
                    .filter(of)
                    .map(|(listener, (_, kind))| (listener.clone(), kind.clone()))
                    .collect();
                private.elsewhere.retain(|_, (other, _)| *other != instance);
                for (listener, kind) in listeners {
                    self.did(&id, &instance, &Deed::Unsubscribed(kind), Some(&listener));
                }
                self.did(&id, &instance, &Deed::Disconnected, None);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use bytes::Bytes;
    use fdc3_directory::Directory;
    use mesh_model::SessionId;
    use mesh_model::limits::JsonLimits;

    use super::*;
    use crate::{ConnectionId, Limits, Output, Settings, Time};

    const APP: ConnectionId = ConnectionId(1);

    /// An agent with one app.
    fn agent(node: &str) -> Agent {
        let settings = Settings {
            node: node.into(),
            user: "ann".into(),
            version: "1".into(),
            secret: *blake3::hash(node.as_bytes()).as_bytes(),
            instance_key: [0; 32],
            json: JsonLimits::default(),
            limits: Limits::default(),
        };
        let mut agent = Agent::new(settings, SessionId(1), Arc::new(Directory::default()), Time::default());
        let instance = agent.reserve("app".into()).unwrap();
        agent.apps.get_mut(&instance).unwrap().connection = Some(APP);
        agent.connections.insert(APP, instance);
        agent
    }

    /// Returns what the app is answered.
    fn answer(agent: &mut Agent, request: &str, payload: &str) -> Json {
        while agent.poll_output().is_some() {}
        let frame = format!(
            r#"{{"type":"{request}","meta":{{"requestUuid":"1","timestamp":"2026-01-01T00:00:00Z"}},"payload":{payload}}}"#
        );
        agent.frame(APP, &Bytes::from(frame), Time::default()).unwrap();
        let answers = std::iter::from_fn(|| agent.poll_output()).find_map(|output| match output {
            Output::Frame(APP, frame) => Some(frame),
            _ => None,
        });
        Json::parse(answers.unwrap()).unwrap().member("payload").unwrap()
    }

    #[test]
    fn a_private_channel_is_no_app_channel_at_any_node() {
        let (mut a, mut b) = (agent("a"), agent("b"));
        let channel = answer(&mut a, "createPrivateChannelRequest", "{}").member("privateChannel").unwrap();
        let id = channel.member("id").unwrap();
        for agent in [&mut a, &mut b] {
            let refused = answer(agent, "getOrCreateChannelRequest", &format!(r#"{{"channelId":{id}}}"#));
            assert_eq!(refused.member("error").unwrap().as_text().unwrap(), "AccessDenied");
        }
    }
}
