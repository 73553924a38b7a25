//! Private channels.

use mesh_model::{Json, Text};
use proto_bridge::{Exchange, Message, Participant};
use proto_dacp::{Object, context_type};

use super::metadata::metadata_in;
use super::{EVENTS, desk, instance_of, is_foreign, parts, some, text};
use crate::document::{Cast, Slot};
use crate::private::Deed;
use crate::{Agent, Output};

impl Agent {
    /// Tells an agent on the bridge what has happened in a private channel.
    pub(crate) fn tell_bridge(&mut self, desk: &Text, op: &Json) {
        let Some((agent, ..)) = parts(desk) else { return };
        let (Some(word), Some(channel)) = (text(op, "op"), text(op, "channel")) else { return };
        let deed = text(op, "deed");
        let to = self.member_at(&channel, desk, agent);
        let payload = Object::new().text("channelId", &channel);
        let kind = text(op, "type");
        let (exchange, payload) = match (&*word, deed.as_deref()) {
            ("cast", _) => {
                let metadata = self.metadata_to(agent, op.member("metadata").as_ref());
                let payload = payload.some("context", op.member("context").as_ref());
                (Exchange::PrivateBroadcast, payload.some("metadata", metadata.as_ref()))
            }
            (_, Some("listens")) => {
                (Exchange::PrivateOnAddContextListener, payload.text_or_null("contextType", kind.as_deref()))
            }
            (_, Some("unsubscribed")) => {
                (Exchange::PrivateOnUnsubscribe, payload.text_or_null("contextType", kind.as_deref()))
            }
            (_, Some("disconnected")) => (Exchange::PrivateOnDisconnect, payload),
            _ => return,
        };
        // Where the channel lives must know; of the others, those who have asked.
        let name = exchange.types().0.strip_prefix("PrivateChannel.").unwrap_or_default();
        let of = (channel, desk.clone());
        if *word == *"event"
            && !self.bridge.hears.get(&of).is_some_and(|events| events.contains(name.as_bytes()))
        {
            return;
        }
        let by = text(op, "by").map(|by| self.participant(&by)).unwrap_or_default();
        self.say_private(exchange, payload.end(), by, to);
    }

    fn say_private(&mut self, exchange: Exchange, payload: Json, by: Participant, to: Participant) {
        let mut message = Message::request(exchange, payload, Some(by));
        message.meta.destination = Some(to);
        self.outputs.push_back(Output::Bridge(message));
    }

    /// Returns whom a message about a private channel goes to: some agents take none that names no app. One
    /// message is for all members that an agent has, so an app is named only if they are of one, and an
    /// instance only if there is one.
    fn member_at(&self, id: &Text, desk: &Text, agent: &str) -> Participant {
        let to = Participant::agent(agent);
        let Some(private) = self.channels.by_id.get(id).and_then(|channel| channel.private()) else {
            return to;
        };
        if private.host.as_ref() == Some(desk) {
            return self.bridge.makers.get(id).map_or(to.clone(), |maker| Participant {
                app_id: maker.app_id.clone(),
                instance_id: maker.instance_id.clone(),
                ..to
            });
        }
        let mut members = private
            .members
            .iter()
            .filter(|(key, of)| of.as_ref() == Some(desk) && !private.has_left(key))
            .filter_map(|(key, _)| parts(key));
        let Some((_, app, instance)) = members.next() else { return to };
        let others: Vec<_> = members.collect();
        match others.iter().all(|(_, other, _)| *other == app) {
            true => Participant {
                app_id: some(app).map(Text::from),
                instance_id: some(instance).filter(|_| others.is_empty()).map(Text::from),
                ..to
            },
            false => to,
        }
    }

    /// An app on the bridge has made a private channel.
    pub(super) fn made_there(&mut self, id: &Text, app: Participant) {
        if app.app_id.is_some() {
            let channels = &self.channels.by_id;
            if self.bridge.makers.len() > channels.len() {
                self.bridge.makers.retain(|id, _| channels.contains_key(id));
            }
            self.bridge.makers.insert(id.clone(), app);
        }
    }

    /// An app here listens for what happens in a private channel, or no longer does.
    pub(crate) fn events_of_private(&mut self, id: &Text, me: &Text, listens: bool) {
        let host = self.channels.by_id.get(id).and_then(|channel| channel.private()?.host.clone());
        let Some(host) = host.filter(|host| is_foreign(host)) else { return };
        let own = self
            .apps
            .get(me)
            .map_or(0, |app| app.events.values().filter(|channel| channel.as_ref() == Some(id)).count());
        // Told of the first that comes, and the last that goes.
        if own != usize::from(listens) {
            return;
        }
        self.listen_for_events(id, &host, me, listens);
    }

    /// Tells the agent where a private channel lives that an app of the mesh listens for what happens in it.
    pub(super) fn listen_for_events(&mut self, id: &Text, host: &Text, me: &Text, listens: bool) {
        let Some((agent, ..)) = parts(host) else { return };
        let exchange = match listens {
            true => Exchange::PrivateEventListenerAdded,
            false => Exchange::PrivateEventListenerRemoved,
        };
        let to = self.member_at(id, host, agent);
        for event in EVENTS {
            let payload = Object::new().text("channelId", id).text("listenerType", event).end();
            let by = self.participant(me);
            self.say_private(exchange, payload, by, to.clone());
        }
    }

    pub(super) fn private_from_bridge(
        &mut self,
        exchange: Exchange,
        agent: &str,
        source: &Participant,
        payload: &Json,
    ) {
        let Some(id) = text(payload, "channelId") else { return };
        let desk = desk(agent);
        let Some(private) = self.private_mut(&id) else { return };
        let lives_there = private.host.as_ref() == Some(&desk);
        let by = match lives_there {
            true => instance_of(agent, source),
            false => {
                // Some agents do not name the app.
                let mut members = private.members.iter().filter(|(_, of)| of.as_ref() == Some(&desk));
                let instance = source.instance_id.as_deref();
                let named = members.find(|(key, _)| {
                    instance.is_none_or(|wanted| parts(key).is_some_and(|(_, _, own)| own == wanted))
                });
                let Some((key, _)) = named else { return };
                key.clone()
            }
        };
        let kind = text(payload, "contextType");
        let deed = match exchange {
            Exchange::PrivateOnAddContextListener => Deed::Listens(kind),
            Exchange::PrivateOnUnsubscribe => Deed::Unsubscribed(kind),
            Exchange::PrivateOnDisconnect => Deed::Disconnected,
            Exchange::PrivateBroadcast => {
                let Some(context) = payload.member("context").map(|context| context.detached()) else {
                    return;
                };
                let Some(kind) = context_type(&context) else { return };
                let source = self.foreign_source(&by).unwrap_or_else(crate::empty);
                let metadata = metadata_in(payload);
                let cast = Cast { event: self.ids.uuid(), source, wall_ms: self.now.wall_ms, metadata };
                self.cast_private(&id, &Slot { kind, context, cast: Some(cast) }, &by, None);
                return;
            }
            _ => {
                let word = text(payload, "listenerType");
                return self.hears(
                    &id,
                    desk,
                    word.as_deref(),
                    exchange == Exchange::PrivateEventListenerAdded,
                );
            }
        };
        match lives_there {
            true => {
                self.tell_deed(&id, &by, &deed);
                self.relay_deed(&id, &by, &deed);
            }
            false => self.did_elsewhere(&id, &by, &deed),
        }
    }

    /// An agent on the bridge wants to be told of events in a private channel that one of its apps uses.
    fn hears(&mut self, id: &Text, desk: Text, word: Option<&str>, wants: bool) {
        let channels = &self.channels.by_id;
        self.bridge.hears.retain(|(id, _), _| channels.contains_key(id));
        let events = self.bridge.hears.entry((id.clone(), desk)).or_default();
        // Written with and without `on`; none at all is all of them.
        let plain = word.map(|word| word.strip_prefix("on").unwrap_or(word).to_ascii_lowercase());
        for event in EVENTS {
            if plain.as_ref().is_none_or(|plain| event[2..].eq_ignore_ascii_case(plain)) {
                match wants {
                    true => events.insert(event.into()),
                    false => events.remove(event.as_bytes()),
                };
            }
        }
    }
}
