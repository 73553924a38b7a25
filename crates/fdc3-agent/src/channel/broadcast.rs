//! Broadcasts on user and app channels: what an app says, what the node says has changed, and who is told.

use std::collections::BTreeSet;

use mesh_model::json::{Edit, edited};
use mesh_model::{Command, Json, Key, Text};
use proto_dacp::{Fault, Object, iso_time};

use super::{Channel, Listener, topic};
use crate::bridge::{Adopted, is_foreign};
use crate::document::{self, Cast, Document, Slot};
use crate::{Agent, Asker, Pending, Timer};

/// How old a broadcast may be and still be news, in milliseconds.
const NEWS_MS: u64 = 30_000;

impl Agent {
    /// A shared context has changed.
    pub(crate) fn context_updated(&mut self, context: &Text, updater: &Text, delta: &Json) {
        let Some(id) = self.channels.contexts.get(context).cloned() else {
            return self.other_context_updated(context, delta);
        };
        let Some(shared) = self.channels.by_id.get_mut(&id).and_then(Channel::shared_mut) else { return };
        let before = shared.document.clone();
        let types = shared.document.apply(delta);
        // All that one change says is told in one go, the newest type last.
        let newest = shared.document.slot(None).map(|slot| slot.kind);
        let (last, first): (Vec<Text>, Vec<Text>) =
            types.into_iter().partition(|kind| newest.as_ref() == Some(kind));
        for kind in first.into_iter().chain(last) {
            self.slot_changed(&id, &kind, &before, updater);
        }
    }

    fn slot_changed(&mut self, id: &Text, kind: &Text, before: &Document, updater: &Text) {
        let told_elsewhere = self.is_told_elsewhere(updater);
        let Some(shared) = self.channels.by_id.get_mut(id).and_then(Channel::shared_mut) else { return };
        let former = before.slot(Some(kind));
        let Some(slot) = shared.document.slot(Some(kind)) else {
            if former.is_some() {
                self.tell_cleared(id, Some(kind));
            }
            return;
        };
        match &slot.cast {
            // A merge may bring back what was there.
            Some(cast) if shared.seen.contains(&cast.event) => {}
            Some(cast) => match self.channels.casting.remove(&cast.event) {
                Some(from) => {
                    shared.has_seen(&cast.event);
                    self.deliver(id, &slot, Some(&from));
                }
                None => self.await_event(id, kind),
            },
            None if told_elsewhere => {
                shared.untold.insert(kind.clone());
                self.await_event(id, kind);
            }
            None => self.cast_of_server(id, slot, updater),
        }
    }

    /// The state of a channel is there before the broadcast that made it, which may yet come.
    fn await_event(&mut self, id: &Text, kind: &Text) {
        let timer = Timer::State(id.clone(), kind.clone());
        self.no_timer(&timer);
        self.timer(self.settings.limits.event_ms, timer);
    }

    /// Returns whether the agent of another node tells of what an io.Connect app changes there.
    fn is_told_elsewhere(&self, updater: &Text) -> bool {
        let node = self.peers.servers.get(updater).and_then(|server| server.node.as_ref());
        node.is_some_and(|node| self.peers.desk_of(node).is_some())
    }

    /// An io.Connect app has changed a channel: that is a broadcast, even if nothing is other than before.
    fn cast_of_server(&mut self, id: &Text, slot: Slot, updater: &Text) {
        let source = self.source_of_server(updater);
        let cast = Cast { event: self.ids.uuid(), source, wall_ms: self.now.wall_ms, metadata: None };
        let is_here = self.peers.servers.get(updater).is_some_and(|server| server.node.is_none());
        if is_here && self.peers.any() {
            let node = Json::string(&self.settings.node);
            let source = edited(&cast.source, &[Key::new("desktopAgent")], Edit::Set(&node));
            self.publish(id, &slot.context, &cast, &source);
        }
        // It comes back to the desk as well.
        if let Some(shared) = self.channels.by_id.get_mut(id).and_then(Channel::shared_mut) {
            shared.has_seen(&cast.event);
        }
        self.deliver(id, &Slot { cast: Some(cast), ..slot }, None);
    }

    /// The broadcast that made a channel's state has not come: the nodes could not reach each other.
    pub(crate) fn state_without_event(&mut self, id: &Text, kind: &Text) {
        let Some(shared) = self.channels.by_id.get_mut(id).and_then(Channel::shared_mut) else { return };
        let Some(slot) = shared.document.slot(Some(kind)) else { return };
        let is_newest = shared.document.slot(None).is_some_and(|newest| newest.kind == slot.kind);
        let news = match &slot.cast {
            Some(cast) => !shared.has_seen(&cast.event),
            None => shared.untold.remove(kind),
        };
        if news {
            self.cast_to_bridge(id, &slot, None);
            // Who listens to all types has heard, or is about to hear, what is newer.
            self.deliver_to(id, &slot, None, |listener| {
                listener.takes(&slot.kind) && (is_newest || listener.context.is_some())
            });
        }
    }

    /// A broadcast on another node.
    pub(crate) fn broadcast_elsewhere(&mut self, data: &Json) {
        let text = |name: &str| data.member(name).and_then(|value| value.as_text());
        let (Some(id), Some(event), Some(context)) = (text("channel"), text("event"), data.member("context"))
        else {
            return;
        };
        let Some(kind) = proto_dacp::context_type(&context) else { return };
        self.open_for_bridge(&id.detached());
        let Some(shared) = self.channels.by_id.get_mut(&id).and_then(Channel::shared_mut) else { return };
        // Our own come back, before or after the change of the context.
        if self.channels.casting.contains_key(&event) || shared.has_seen(&event.detached()) {
            return;
        }
        let wall_ms = data.member("time").and_then(|time| time.to_string().parse().ok()).unwrap_or(0);
        // An old one is state, which comes by itself. Clocks may differ: a young one is never too young.
        if self.now.wall_ms.saturating_sub(wall_ms) > NEWS_MS {
            return;
        }
        let kind = kind.detached();
        shared.untold.remove(&kind);
        let cast = Cast {
            event: event.detached(),
            source: data.member("source").unwrap_or_else(crate::empty),
            wall_ms,
            metadata: data.member("metadata"),
        };
        self.deliver(&id.detached(), &Slot { kind, context, cast: Some(cast) }, None);
    }

    /// Tells a context to all listeners here that are not the sender's.
    fn deliver(&mut self, id: &Text, slot: &Slot, from: Option<&Text>) {
        self.cast_to_bridge(id, slot, from);
        let mut slot = slot.clone();
        // What is kept of a broadcast on the bridge has the name that other nodes need.
        if let (Some(cast), Some(source)) = (&mut slot.cast, from.and_then(|from| self.foreign_source(from)))
        {
            cast.source = source;
        }
        self.deliver_to(id, &slot, from, |listener| listener.takes(&slot.kind));
    }

    fn deliver_to(&mut self, id: &Text, slot: &Slot, from: Option<&Text>, takes: impl Fn(&Listener) -> bool) {
        let listens = |app: &crate::app::App| {
            app.listeners.values().any(|listener| {
                let here = match listener.follows {
                    true => app.channel.as_ref() == Some(id),
                    false => listener.channel.as_ref() == Some(id),
                };
                here && takes(listener)
            })
        };
        let to: Vec<Text> = self
            .connected_apps()
            .filter(|(instance, app)| from != Some(instance) && listens(app))
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

    /// Writes the payload of a `broadcastEvent`, with what both 2.2 and 3.0 clients look for.
    pub(crate) fn broadcast_payload(&mut self, channel: Option<&str>, slot: &Slot) -> Json {
        let payload = Object::new().text_or_null("channelId", channel).json("context", &slot.context);
        match &slot.cast {
            Some(cast) => payload
                .json("originatingApp", &cast.source)
                .json("metadata", &self.metadata_of(&cast.source, cast.wall_ms, cast.metadata.as_ref()))
                .end(),
            None => payload.end(),
        }
    }

    /// Writes `ContextMetadata`: what the app gave passes through, the agent says whose it is and when.
    pub(crate) fn metadata_of(&mut self, source: &Json, wall_ms: u64, given: Option<&Json>) -> Json {
        let given = |name: &str| given.and_then(|given| given.member(name));
        let trace = given("traceId").unwrap_or_else(|| Json::string(&self.ids.uuid()));
        Object::new()
            .json("source", source)
            .text("timestamp", &iso_time(wall_ms))
            .json("traceId", &trace)
            .some("signature", given("signature").as_ref())
            .some("antiReplay", given("antiReplay").as_ref())
            .some("custom", given("custom").as_ref())
            .end()
    }

    /// Tells all that contexts of a channel are gone.
    pub(super) fn tell_cleared(&mut self, id: &Text, kind: Option<&Text>) {
        let payload =
            Object::new().text("channelId", id).text_or_null("contextType", kind.map(|kind| &**kind)).end();
        let to: Vec<Text> = self.connected_apps().map(|(instance, _)| instance.clone()).collect();
        for instance in to {
            self.send_event(&instance, "contextClearedEvent", &payload);
        }
    }

    /// Tells an app what is on its channel, as far as it listens, the newest last.
    pub(super) fn replay(&mut self, instance: &Text, id: &Text) {
        let Some(shared) = self.channels.by_id.get(id).and_then(Channel::shared) else { return };
        let Some(app) = self.apps.get(instance) else { return };
        let newest = shared.document.slot(None);
        let mut slots: Vec<Slot> = Vec::new();
        for listener in app.listeners.values().filter(|listener| listener.follows) {
            let slot = match &listener.context {
                Some(kind) => shared.document.slot(Some(kind)),
                None => newest.clone(),
            };
            slots.extend(slot);
        }
        slots.sort_by_key(|slot| {
            let is_newest = newest.as_ref().is_some_and(|newest| newest.kind == slot.kind);
            (is_newest, slot.cast.as_ref().map(|cast| cast.wall_ms), slot.kind.clone())
        });
        slots.dedup();
        for slot in slots {
            let payload = self.broadcast_payload(Some(id), &slot);
            self.send_event(instance, "broadcastEvent", &payload);
        }
    }

    pub(crate) fn broadcast_shared(
        &mut self,
        id: &Text,
        context: Json,
        metadata: Option<Json>,
        asker: Asker,
    ) {
        let session = self.apps.get(&asker.instance).and_then(|app| app.session);
        let is_foreign = is_foreign(&asker.instance);
        let Some(context_id) =
            self.channels.by_id.get(id).and_then(Channel::shared).and_then(|shared| shared.context.clone())
        else {
            return;
        };
        let Some(kind) = proto_dacp::context_type(&context) else { return };
        let source = self.abroad(&self.source(&asker.instance));
        let cast = Cast { event: self.ids.uuid(), source, wall_ms: self.now.wall_ms, metadata };
        self.channels.casting.insert(cast.event.clone(), asker.instance.clone());
        let delta = document::broadcast(&kind, &context, &cast);
        if self.peers.any() {
            let app_id = self.apps.get(&asker.instance).map(|app| app.app_id.clone()).unwrap_or_default();
            let source = match is_foreign {
                true => cast.source.clone(),
                false => crate::app_identifier(&app_id, Some(&asker.instance), Some(&self.settings.node)),
            };
            self.publish(id, &context, &cast, &source);
        }
        if is_foreign {
            return self.write_channel(context_id, cast.event, delta);
        }
        let Some(session) = session else { return };
        let event = cast.event.clone();
        self.ask(session, Pending::Broadcast { asker, event }, |request| Command::UpdateContext {
            request,
            context: context_id,
            delta,
        });
    }

    /// Changes the context of a channel as the desk.
    fn write_channel(&mut self, context: Text, event: Text, delta: Json) {
        let pending = Pending::Cast { context: context.clone(), event, delta: delta.clone() };
        self.ask_desk(pending, |request| Command::UpdateContext { request, context, delta });
    }

    /// Takes over a context that the bridge has: state, and no broadcast.
    pub(crate) fn adopt_context(&mut self, id: &Text, adopted: Adopted, cast: Cast) {
        let Some(shared) = self.channels.by_id.get_mut(id).and_then(Channel::shared_mut) else { return };
        let Some(context) = shared.context.clone() else { return };
        shared.has_seen(&cast.event);
        let delta = match adopted.is_newest {
            true => document::broadcast(&adopted.kind, &adopted.context, &cast),
            false => document::older(&adopted.kind, &adopted.context, &cast),
        };
        self.write_channel(context, cast.event.clone(), delta);
        let (typed, untyped) = adopted.heard_by;
        let slot = Slot { kind: adopted.kind, context: adopted.context, cast: Some(cast) };
        self.deliver_to(id, &slot, None, |listener| match &listener.context {
            Some(kind) => typed && *kind == slot.kind,
            None => untyped,
        });
    }

    /// Tells other nodes of a broadcast.
    fn publish(&mut self, id: &Text, context: &Json, cast: &Cast, source: &Json) {
        let data = Object::new()
            .text("channel", id)
            .text("event", &cast.event)
            .json("context", context)
            .json("source", source)
            .number("time", cast.wall_ms)
            .some("metadata", cast.metadata.as_ref())
            .end();
        let command = Command::BusPublish { topic: topic(id), routing_key: None, target: None, data };
        self.outputs.push_back(crate::Output::Command(self.desk.session, command));
    }

    pub(crate) fn clear_shared(&mut self, id: &Text, kind: Option<Text>, asker: Asker) {
        let (Some(app), Some(shared)) =
            (self.apps.get(&asker.instance), self.channels.by_id.get(id).and_then(Channel::shared))
        else {
            return;
        };
        let (Some(session), Some(context)) = (app.session, shared.context.clone()) else { return };
        let all = kind.is_none();
        let types = kind.map_or_else(|| shared.document.types(), |kind| BTreeSet::from([kind]));
        let delta = document::cleared(&types, all);
        self.ask(session, Pending::Reply(asker), |request| Command::UpdateContext {
            request,
            context,
            delta,
        });
    }

    /// Tells an app that has begun to listen what is on its channel, if its client does not ask by itself.
    pub(crate) fn greet_listener(&mut self, instance: &Text, listener: &Listener) {
        let Some(app) = self.apps.get(instance).filter(|app| !app.profile.modern) else { return };
        let Some(id) = app.channel.clone().filter(|_| listener.follows) else { return };
        if let Some(slot) = self.current_of_shared(&id, listener.context.as_deref()) {
            let payload = self.broadcast_payload(Some(&id), &slot);
            self.send_event(instance, "broadcastEvent", &payload);
        }
    }

    /// The node has not taken a broadcast.
    pub(crate) fn not_cast(&mut self, asker: &Asker, event: &Text) {
        self.channels.cast(event);
        self.answer(asker, Err(Fault::AccessDenied));
    }
}
