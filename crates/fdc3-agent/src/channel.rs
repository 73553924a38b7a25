//! User channels and app channels: shared contexts of the node, seen as FDC3 sees them.
//!
//! What a channel holds is what the node says that it holds: a broadcast changes the shared context, and
//! is delivered here when the desk, which is subscribed to it, is told of the change. So all listeners
//! here see all broadcasts in the order in which the node took them. This file has the channels;
//! [`broadcast`] says what becomes of what is said on them.

mod broadcast;

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use mesh_model::{Command, Json, Lifetime, Permissions, Reason, Text};
use proto_dacp::{Fault, Object, Request};

use crate::document::{self, Document, Slot};
use crate::private::{self, Private};
use crate::{Agent, Asker, Output, Pending};

/// How the shared contexts of io.Connect's channels are named.
pub(crate) const CHANNEL: &str = "___channel___";
/// The topics under which broadcasts go to other nodes begin so.
pub(crate) const TOPIC: &str = "___fdc3___.";
/// Names that mean something else, and are no app channels.
const RESERVED: [&str; 3] = ["___", "T42.", private::PREFIX];
/// The longest channel id that stands in a topic itself.
const TOPIC_ID_BYTES_MAX: usize = 256;
/// Broadcasts of a channel that are remembered, so that none is told twice.
const SEEN_MAX: usize = 1_024;
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
    /// The desk hears of broadcasts elsewhere, or has asked to.
    listens: bool,
    /// By this subscription.
    subscription: Option<u64>,
    /// When an app has last asked for something on it.
    used_ms: u64,
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
    pub(crate) fn channel_refused(&mut self, name: &Text, reason: &Reason) {
        self.outputs.push_back(Output::LimitReached(format!("a channel was not made: {reason}")));
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
                self.ask_desk(Pending::Listening(id.clone()), |request| Command::BusSubscribe {
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

    /// Makes a request wait until the desk is subscribed to the channel. Returns it if it need not.
    pub(crate) fn when_open(&mut self, id: &Text, asker: &Asker, request: Request) -> Option<Request> {
        let now_ms = self.now.ms;
        let Some(shared) = self.channels.by_id.get_mut(id).and_then(Channel::shared_mut) else {
            return Some(request);
        };
        shared.used_ms = now_ms;
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
            self.tell_if_full();
            return self.answer(&asker, Err(Fault::CreationFailed));
        }
        let request = Request::GetOrCreateChannel { channel: id.clone() };
        if self.when_open(id, &asker, request).is_some() {
            let about = self.channels.by_id[id].about(id);
            self.answer(&asker, Ok(Object::new().json("channel", &about).end()));
        }
    }

    pub(crate) fn is_full(&self) -> bool {
        self.channels.by_id.len() >= self.settings.limits.channels_max
    }

    /// Says why there are no more channels, if that is because there are too many.
    pub(crate) fn tell_if_full(&mut self) {
        if self.is_full() {
            let max = self.settings.limits.channels_max;
            let why = format!("a channel was not made: limit fdc3 channels_max ({max}) is reached");
            self.outputs.push_back(Output::LimitReached(why));
        }
    }

    /// Makes an app channel, unless there is a channel of that id. Returns whether there is one now.
    pub(crate) fn add_app_channel(&mut self, id: &Text) -> bool {
        if self.channels.by_id.contains_key(id) {
            return true;
        }
        if id.is_empty() || self.is_full() || is_reserved(id) {
            return false;
        }
        let shared = Shared { name: id.clone(), used_ms: self.now.ms, ..Shared::default() };
        self.channels.by_id.insert(id.clone(), Channel { kind: Kind::App(shared), display: None });
        true
    }

    /// Makes the app channel of an id known again, if there is a shared context for it.
    pub(crate) fn recall_app_channel(&mut self, id: &Text) {
        if self.channels.names.contains_key(id) {
            self.add_app_channel(id);
        }
    }

    /// Forgets app channels that no app here has used for long: the desk hears of them no more. They are not
    /// removed, as apps elsewhere may use them, and what is on them is for who comes later.
    pub(crate) fn forget_channels(&mut self) {
        let listened: BTreeSet<&Text> = self
            .apps
            .values()
            .flat_map(|app| app.listeners.values())
            .filter_map(|l| l.channel.as_ref())
            .collect();
        let Some(before_ms) = self.now.ms.checked_sub(self.settings.limits.unused_ms) else { return };
        let tells_bridge = self.bridge.is_on();
        let is_unused = |id: &Text, channel: &Channel| match &channel.kind {
            Kind::App(shared) => {
                let is_settled = shared.context.is_some()
                    && shared.waiting.is_empty()
                    && shared.listens == shared.subscription.is_some();
                // Who joins the bridge is told what is on it.
                let is_told = tells_bridge && !shared.document.types().is_empty();
                is_settled && !is_told && shared.used_ms <= before_ms && !listened.contains(id)
            }
            _ => false,
        };
        let unused: Vec<Text> = self
            .channels
            .by_id
            .iter()
            .filter(|(id, channel)| is_unused(id, channel))
            .map(|(id, _)| id.clone())
            .collect();
        for id in unused {
            let Some(Channel { kind: Kind::App(shared), .. }) = self.channels.by_id.remove(&id) else {
                continue;
            };
            if let Some(subscription) = shared.subscription {
                self.ask_desk(Pending::Nothing, |request| Command::BusUnsubscribe { request, subscription });
            }
            if let Some(context) = shared.context {
                self.channels.contexts.remove(&context);
                self.ask_desk(Pending::Nothing, |request| Command::UnsubscribeContext { request, context });
            }
        }
    }

    /// The desk hears of broadcasts of a channel elsewhere, or cannot.
    pub(crate) fn listens_elsewhere(&mut self, id: &Text, subscription: Option<u64>) {
        if let Some(shared) = self.channels.by_id.get_mut(id).and_then(Channel::shared_mut) {
            shared.listens = subscription.is_some();
            shared.subscription = subscription;
        }
    }

    /// Puts an app on a user channel, or on none: because it asked for that, or somebody did it for it.
    pub(crate) fn set_channel(&mut self, instance: &Text, channel: Option<Text>, by_itself: bool) {
        let Some(app) = self.apps.get_mut(instance) else { return };
        let modern = app.profile.modern;
        app.channel.clone_from(&channel);
        self.outputs.push_back(Output::Changed);
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

    /// Returns whether the desk is subscribed to a channel.
    pub(crate) fn is_open(&self, id: &Text) -> bool {
        self.channels.by_id.get(id).and_then(Channel::shared).is_some_and(|shared| shared.context.is_some())
    }

    /// Opens a channel for the bridge, which waits for nothing.
    pub(crate) fn open_if_started(&mut self, id: &Text) {
        if self.channels.started && self.channels.awaited.is_empty() {
            self.open_channel(id);
        }
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
}

fn is_reserved(id: &str) -> bool {
    RESERVED.iter().any(|reserved| id.starts_with(reserved))
}

/// The topic under which broadcasts of a channel go to other nodes. Ids may hold what means something in
/// a topic, and be as long as a topic may be: of a long one its hash stands there, and the id in the data.
fn topic(id: &str) -> Text {
    let hex: String = match id.len() <= TOPIC_ID_BYTES_MAX {
        true => id.bytes().map(|byte| format!("{byte:02x}")).collect(),
        false => blake3::hash(id.as_bytes()).to_hex().to_string(),
    };
    format!("{TOPIC}{hex}").into()
}
