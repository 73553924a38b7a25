//! User channels and app channels: shared contexts of the node, seen as FDC3 sees them.
//!
//! What a channel holds is what the node says that it holds: a broadcast changes the shared context, and
//! is delivered here when the desk, which is subscribed to it, is told of the change. So all listeners
//! here see all broadcasts in the order in which the node took them.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use mesh_model::json::{Edit, edited};
use mesh_model::{Command, Json, Key, Lifetime, Permissions, Text};
use proto_dacp::{Fault, Object, Request, iso_time};

use crate::bridge::{Adopted, is_foreign};
use crate::document::{self, Cast, Document, Slot};
use crate::private::{self, Private};
use crate::{Agent, Asker, Pending, Timer};

/// How the shared contexts of io.Connect's channels are named.
pub(crate) const CHANNEL: &str = "___channel___";
/// Names that mean something else, and are no app channels.
const RESERVED: [&str; 3] = ["___", "T42.", private::PREFIX];
/// Broadcasts of a channel that are remembered, so that none is told twice.
const SEEN_MAX: usize = 1_024;
/// How old a broadcast may be and still be news, in milliseconds.
const NEWS_MS: u64 = 30_000;
/// The user channels that FDC3 recommends: name and colour.
const USER_CHANNELS: [(&str, &str); 8] = [
    ("Red", "red"),
    ("Orange", "orange"),
    ("Yellow", "yellow"),
    ("Green", "green"),
    ("Cyan", "cyan"),
    ("Blue", "blue"),
    ("Magenta", "magenta"),
    ("Purple", "purple"),
];

/// All channels.
#[derive(Debug, Default)]
pub(crate) struct Channels {
    pub(crate) by_id: BTreeMap<Text, Channel>,
    /// The ids of shared contexts by name, as announced.
    names: BTreeMap<Text, Text>,
    /// The channels by the id of their shared context.
    contexts: BTreeMap<Text, Text>,
    /// Channels of io.Connect whose content is awaited at the start.
    awaited: BTreeSet<Text>,
    /// The desk knows which shared contexts there are.
    started: bool,
    /// Our broadcasts that the node has yet to take, by id: who sent them.
    casting: BTreeMap<Text, Text>,
}

/// A channel.
#[derive(Debug)]
pub(crate) struct Channel {
    pub(crate) kind: Kind,
    pub(crate) display: Option<Json>,
}

#[derive(Debug)]
pub(crate) enum Kind {
    User(Shared),
    App(Shared),
    Private(Private),
}

/// A channel that is a shared context.
#[derive(Debug, Default)]
pub(crate) struct Shared {
    /// The name of the shared context.
    name: Text,
    /// Its id, once the desk is subscribed.
    context: Option<Text>,
    asked: bool,
    /// The desk hears of broadcasts elsewhere.
    listens: bool,
    document: Document,
    /// The broadcasts that have been told, the latest last.
    seen: VecDeque<Text>,
    /// Types whose context an io.Connect app on another node has changed, and that have not been told yet.
    untold: BTreeSet<Text>,
    /// Requests that wait for the subscription.
    waiting: Vec<(Asker, Request)>,
}

/// A listener for contexts.
#[derive(Clone, Debug)]
pub(crate) struct Listener {
    /// The channel; none: the user channel that the app is on.
    pub(crate) channel: Option<Text>,
    /// It listens on whichever user channel the app is on, whatever it said.
    pub(crate) follows: bool,
    /// The type; none: all.
    pub(crate) context: Option<Text>,
}

impl Listener {
    pub(crate) fn takes(&self, kind: &str) -> bool {
        self.context.as_ref().is_none_or(|wanted| **wanted == *kind)
    }
}

impl Channels {
    /// The node has taken a broadcast, or has refused it.
    pub(crate) fn cast(&mut self, event: &Text) {
        self.casting.remove(event);
    }

    /// Returns the id of the shared context of that name, if it is known.
    pub(crate) fn name_of(&self, name: &Text) -> Option<Text> {
        self.names.get(name).cloned()
    }
}

impl Shared {
    /// Returns what is on the channel, the newest last.
    pub(crate) fn slots(&self) -> Vec<Slot> {
        let newest = self.document.slot(None);
        let types = self.document.types();
        let mut slots: Vec<Slot> = types.iter().filter_map(|kind| self.document.slot(Some(kind))).collect();
        slots.sort_by_key(|slot| {
            let is_newest = newest.as_ref().is_some_and(|newest| newest.kind == slot.kind);
            (is_newest, slot.cast.as_ref().map(|cast| cast.wall_ms))
        });
        slots
    }

    fn has_seen(&mut self, event: &Text) -> bool {
        if self.seen.contains(event) {
            return true;
        }
        if self.seen.len() >= SEEN_MAX {
            self.seen.pop_front();
        }
        self.seen.push_back(event.clone());
        false
    }
}

impl Channel {
    pub(crate) const fn shared(&self) -> Option<&Shared> {
        match &self.kind {
            Kind::User(shared) | Kind::App(shared) => Some(shared),
            Kind::Private(_) => None,
        }
    }

    const fn shared_mut(&mut self) -> Option<&mut Shared> {
        match &mut self.kind {
            Kind::User(shared) | Kind::App(shared) => Some(shared),
            Kind::Private(_) => None,
        }
    }

    pub(crate) const fn private(&self) -> Option<&Private> {
        match &self.kind {
            Kind::Private(private) => Some(private),
            _ => None,
        }
    }

    pub(crate) fn about(&self, id: &str) -> Json {
        let kind = match self.kind {
            Kind::User(_) => "user",
            Kind::App(_) => "app",
            Kind::Private(_) => "private",
        };
        Object::new().text("id", id).text("type", kind).some("displayMetadata", self.display.as_ref()).end()
    }
}

impl Agent {
    /// Makes the user channels. Their shared contexts follow once it is known which there are.
    pub(crate) fn make_user_channels(&mut self) {
        for (at, (name, color)) in USER_CHANNELS.into_iter().enumerate() {
            let number = (at + 1).to_string();
            let display = Object::new()
                .text("name", &format!("Channel {number}"))
                .text("color", color)
                .text("glyph", &number)
                .end();
            let shared = Shared { name: format!("{CHANNEL}{name}").into(), ..Shared::default() };
            let channel = Channel { kind: Kind::User(shared), display: Some(display) };
            self.channels.by_id.insert(format!("fdc3.channel.{number}").into(), channel);
        }
    }

    /// A shared context is announced.
    pub(crate) fn context_added(&mut self, context: Text, name: Text) {
        self.channels.names.insert(name.clone(), context.clone());
        if name.starts_with(CHANNEL) {
            // Only its content tells which user channel it is.
            if !self.channels.started {
                self.channels.awaited.insert(name.clone());
            }
            self.ask_desk(Pending::Context(name), |request| Command::SubscribeContext { request, context });
        } else if self.peer_directory_added(&name) {
            self.ask_desk(Pending::Context(name), |request| Command::SubscribeContext { request, context });
        }
    }

    pub(crate) fn context_destroyed(&mut self, context: &Text) {
        self.channels.names.retain(|_, id| id != context);
        let Some(id) = self.channels.contexts.remove(context) else { return };
        let Some(shared) = self.channels.by_id.get_mut(&id).and_then(Channel::shared_mut) else { return };
        shared.context = None;
        shared.asked = false;
        let types = std::mem::take(&mut shared.document).types();
        for kind in types {
            self.tell_cleared(&id, Some(&kind));
        }
    }

    /// The desk knows all shared contexts that there are at the start.
    pub(crate) fn contexts_known(&mut self) {
        self.channels.started = true;
        self.start_user_channels();
    }

    fn start_user_channels(&mut self) {
        if !self.channels.started || !self.channels.awaited.is_empty() {
            return;
        }
        let missing: Vec<Text> = self
            .channels
            .by_id
            .iter()
            .filter_map(|(id, channel)| match &channel.kind {
                Kind::User(shared) if !shared.asked => Some(id.clone()),
                _ => None,
            })
            .collect();
        for id in missing {
            self.open_channel(&id);
        }
    }

    /// Asks the node for the shared context of a channel.
    fn open_channel(&mut self, id: &Text) {
        let Some(channel) = self.channels.by_id.get_mut(id) else { return };
        let display = channel.display.clone();
        let is_user = matches!(channel.kind, Kind::User(_));
        let Some(shared) = channel.shared_mut().filter(|shared| !shared.asked) else { return };
        shared.asked = true;
        // The name of an io.Connect channel that is another one to FDC3 is not ours to take.
        if is_user && self.channels.names.contains_key(&shared.name) {
            shared.name = format!("{CHANNEL}{id}").into();
        }
        let name = shared.name.clone();
        let data = match is_user {
            true => {
                let plain = name.strip_prefix(CHANNEL).unwrap_or(&name);
                let color = display.as_ref().and_then(|display| display.member("color")?.as_text());
                let color = color.unwrap_or_default();
                let shown = Object::new().text("name", plain).text("color", &color).end();
                let fdc3 = Object::new().text("id", id).json("displayMetadata", &shown).end();
                let meta = Object::new().text("color", &color).json("fdc3", &fdc3).end();
                Object::new().text("name", plain).json("meta", &meta).end()
            }
            false => crate::empty(),
        };
        self.ask_desk(Pending::Channel { name: name.clone() }, |request| Command::CreateContext {
            request,
            name,
            data: Some(data),
            lifetime: Lifetime::Retained,
            permissions: Permissions::default(),
        });
    }

    /// The desk has created a shared context: it gets the object that io.Connect's libraries look for.
    pub(crate) fn context_created(&mut self, name: &Text, context: Text) {
        // Written as a whole it would hide what another node has in it that this one does not know yet.
        let delta = document::with_data();
        let of = context.clone();
        self.ask_desk(Pending::Nothing, |request| Command::UpdateContext { request, context: of, delta });
        self.context_opened(name, context, None);
    }

    /// The node has not created the shared context of a channel.
    pub(crate) fn channel_refused(&mut self, name: &Text) {
        let of =
            |channel: &Channel| channel.shared().is_some_and(|shared| shared.asked && shared.name == *name);
        let found = self.channels.by_id.iter().find(|(_, channel)| of(channel)).map(|(id, _)| id.clone());
        let Some(shared) =
            found.as_ref().and_then(|id| self.channels.by_id.get_mut(id)).and_then(Channel::shared_mut)
        else {
            return;
        };
        shared.asked = false;
        let waiting = std::mem::take(&mut shared.waiting);
        if let Some(id) = found
            && matches!(self.channels.by_id.get(&id), Some(Channel { kind: Kind::App(_), .. }))
        {
            self.channels.by_id.remove(&id);
        }
        for (asker, _) in waiting {
            self.answer(&asker, Err(Fault::CreationFailed));
        }
    }

    /// The desk is subscribed to a shared context.
    pub(crate) fn context_opened(&mut self, name: &Text, context: Text, value: Option<Json>) {
        self.channels.names.insert(name.clone(), context.clone());
        self.channels.awaited.remove(name);
        self.note_directory(&context, name);
        if self.peer_directory_changed(name, value.as_ref()) {
            return;
        }
        let document = Document::new(value.unwrap_or_else(|| Json::from_static("{}")));
        if let Some(id) = self.channel_of(name, &document) {
            let Some(shared) = self.channels.by_id.get_mut(&id).and_then(Channel::shared_mut) else { return };
            shared.name = name.clone();
            shared.context = Some(context.clone());
            shared.asked = true;
            // What is there is no news.
            for kind in document.types() {
                if let Some(cast) = document.slot(Some(&kind)).and_then(|slot| slot.cast) {
                    shared.has_seen(&cast.event);
                }
            }
            shared.document = document;
            let waiting = std::mem::take(&mut shared.waiting);
            if !std::mem::replace(&mut shared.listens, true) {
                let pattern = topic(&id);
                self.ask_desk(Pending::Nothing, |request| Command::BusSubscribe {
                    request,
                    pattern,
                    routing_key: None,
                });
            }
            self.channels.contexts.insert(context, id.clone());
            self.adopt_waiting(&id);
            for (asker, request) in waiting {
                self.request(asker, request);
            }
        }
        self.start_user_channels();
    }

    /// Returns which channel a shared context is.
    fn channel_of(&mut self, name: &Text, document: &Document) -> Option<Text> {
        let named =
            |channel: &Channel| channel.shared().is_some_and(|shared| shared.asked && shared.name == *name);
        if let Some((id, _)) = self.channels.by_id.iter().find(|(_, channel)| named(channel)) {
            return Some(id.clone());
        }
        let fdc3 = document.meta().filter(|_| name.starts_with(CHANNEL))?.member("fdc3")?;
        let id = fdc3.member("id")?.as_text()?.detached();
        let known = self.channels.by_id.get(&id);
        if known.is_some_and(|channel| channel.shared().is_none_or(|shared| shared.context.is_some())) {
            return None;
        }
        if known.is_none() {
            let display = fdc3.member("displayMetadata").map(|display| display.detached());
            let channel = Channel { kind: Kind::User(Shared::default()), display };
            self.channels.by_id.insert(id.clone(), channel);
        }
        Some(id)
    }

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
        let news = match &slot.cast {
            Some(cast) => !shared.has_seen(&cast.event),
            None => shared.untold.remove(kind),
        };
        if news {
            self.deliver(id, &slot, None);
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
    fn tell_cleared(&mut self, id: &Text, kind: Option<&Text>) {
        let payload =
            Object::new().text("channelId", id).text_or_null("contextType", kind.map(|kind| &**kind)).end();
        let to: Vec<Text> = self.connected_apps().map(|(instance, _)| instance.clone()).collect();
        for instance in to {
            self.send_event(&instance, "contextClearedEvent", &payload);
        }
    }

    /// Makes a request wait until the desk is subscribed to the channel. Returns it if it need not.
    pub(crate) fn when_open(&mut self, id: &Text, asker: &Asker, request: Request) -> Option<Request> {
        let Some(shared) = self.channels.by_id.get_mut(id).and_then(Channel::shared_mut) else {
            return Some(request);
        };
        if shared.context.is_some() {
            return Some(request);
        }
        shared.waiting.push((asker.clone(), request));
        if self.channels.started && self.channels.awaited.is_empty() {
            self.open_channel(id);
        }
        None
    }

    pub(crate) fn user_channels(&self) -> Json {
        let about = self.channels();
        Object::new().json("userChannels", &proto_dacp::array(&about)).end()
    }

    pub(crate) fn get_or_create(&mut self, id: &Text, asker: Asker) {
        if self.channels.by_id.get(id).is_some_and(|channel| channel.private().is_some()) || is_reserved(id) {
            return self.answer(&asker, Err(Fault::AccessDenied));
        }
        if !self.add_app_channel(id) {
            return self.answer(&asker, Err(Fault::CreationFailed));
        }
        let request = Request::GetOrCreateChannel { channel: id.clone() };
        if self.when_open(id, &asker, request).is_some() {
            let about = self.channels.by_id[id].about(id);
            self.answer(&asker, Ok(Object::new().json("channel", &about).end()));
        }
    }

    /// Makes an app channel, unless there is a channel of that id. Returns whether there is one now.
    pub(crate) fn add_app_channel(&mut self, id: &Text) -> bool {
        if self.channels.by_id.contains_key(id) {
            return true;
        }
        let full = self.channels.by_id.len() >= self.settings.limits.channels_max;
        if id.is_empty() || full || is_reserved(id) {
            return false;
        }
        let shared = Shared { name: id.clone(), ..Shared::default() };
        self.channels.by_id.insert(id.clone(), Channel { kind: Kind::App(shared), display: None });
        true
    }

    /// Puts an app on a user channel, or on none: because it asked for that, or somebody did it for it.
    pub(crate) fn set_channel(&mut self, instance: &Text, channel: Option<Text>, by_itself: bool) {
        let Some(app) = self.apps.get_mut(instance) else { return };
        let modern = app.profile.modern;
        app.channel.clone_from(&channel);
        self.outputs.push_back(crate::Output::Changed);
        // Clients of 2.2.0 read the channel again when they are told, and after joining by themselves: their own
        // join must not be told.
        if by_itself && !modern {
            return;
        }
        let id = channel.as_deref();
        let payload =
            Object::new().text_or_null("newChannelId", id).text_or_null("currentChannelId", id).end();
        self.send_event(instance, "channelChangedEvent", &payload);
        // Later ones do not read it again when they are moved.
        if let Some(channel) = channel.filter(|_| !by_itself && modern) {
            self.replay(instance, &channel);
        }
    }

    /// Tells an app what is on its channel, as far as it listens, the newest last.
    fn replay(&mut self, instance: &Text, id: &Text) {
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

    /// Returns whether the desk is subscribed to a channel.
    pub(crate) fn is_open(&self, id: &Text) -> bool {
        self.channels.by_id.get(id).and_then(Channel::shared).is_some_and(|shared| shared.context.is_some())
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

    /// Opens a channel for the bridge, which waits for nothing.
    pub(crate) fn open_if_started(&mut self, id: &Text) {
        if self.channels.started && self.channels.awaited.is_empty() {
            self.open_channel(id);
        }
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

    pub(crate) fn current_of_shared(&mut self, id: &Text, kind: Option<&str>) -> Option<Slot> {
        self.channels.by_id.get(id).and_then(Channel::shared)?.document.slot(kind)
    }

    pub(crate) fn answer_current(&mut self, asker: &Asker, slot: Option<Slot>) {
        let payload = Object::new().or_null("context", slot.as_ref().map(|slot| &slot.context));
        let metadata = slot
            .and_then(|slot| slot.cast)
            .map(|cast| self.metadata_of(&cast.source, cast.wall_ms, cast.metadata.as_ref()));
        self.answer(asker, Ok(payload.or_null("metadata", metadata.as_ref()).end()));
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

fn is_reserved(id: &str) -> bool {
    RESERVED.iter().any(|reserved| id.starts_with(reserved))
}

/// The topic under which broadcasts of a channel go to other nodes. Ids may hold what means something in
/// a topic.
fn topic(id: &str) -> Text {
    let hex: String = id.bytes().map(|byte| format!("{byte:02x}")).collect();
    format!("___fdc3___.{hex}").into()
}
