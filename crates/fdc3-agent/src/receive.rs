//! What connected apps ask for.

use bytes::Bytes;
use mesh_model::{Json, JsonError, Text};
use proto_dacp::{AppRef, Fault, Object, Request, array};

use crate::app::IntentListener;
use crate::bridge::is_foreign;
use crate::channel::{Channel, Kind, Listener};
use crate::open::Place;
use crate::peer::Ask;
use crate::private::Deed;
use crate::{Agent, Asker, ConnectionId, Output, Time, app_identifier};

impl Agent {
    /// Takes a frame of an app that was let in. The error says why the connection must be closed.
    pub fn frame(&mut self, connection: ConnectionId, frame: &Bytes, now: Time) -> Result<(), JsonError> {
        self.now = now;
        let Some(instance) = self.connections.get(&connection).cloned() else { return Ok(()) };
        let incoming = proto_dacp::decode(frame, self.settings.json)?;
        self.asks(&instance);
        let asker = Asker { instance, name: incoming.name, uuid: incoming.request_uuid };
        match incoming.request {
            Ok(request) => self.request(asker, request),
            Err(fault) => self.answer(&asker, Err(fault)),
        }
        Ok(())
    }

    pub(crate) fn request(&mut self, asker: Asker, request: Request) {
        if let Err(fault) = self.serve(&asker, request) {
            self.answer(&asker, Err(fault));
        }
    }

    fn serve(&mut self, asker: &Asker, request: Request) -> Result<(), Fault> {
        let me = &asker.instance;
        match request {
            Request::GetInfo => {
                let about = Object::new().json("implementationMetadata", &self.about(me)).end();
                self.answer(asker, Ok(about));
            }
            Request::GetAppMetadata { app } => self.app_metadata(asker, app)?,
            Request::FindInstances { app } => self.find_instances(asker, &app)?,
            Request::FindIntent { intent, context, result } => {
                self.find_intent(asker, &intent, context.as_deref(), result.as_deref())?;
            }
            Request::FindIntentsByContext { context, result } => {
                self.find_intents(asker, &context, result.as_deref())?;
            }
            Request::Open { app, context, metadata } => {
                self.open(&app, context, metadata.as_ref(), asker.clone());
            }
            Request::Close => self.close(asker)?,
            Request::GetUserChannels => {
                let channels = self.user_channels();
                self.answer(asker, Ok(channels));
            }
            Request::GetCurrentChannel => {
                let id = self.apps.get(me).and_then(|app| app.channel.clone());
                let about = id.and_then(|id| Some(self.channels.by_id.get(&id)?.about(&id)));
                self.answer(asker, Ok(Object::new().or_null("channel", about.as_ref()).end()));
            }
            Request::JoinUserChannel { ref channel } => {
                self.user_channel(channel)?;
                let id = channel.clone();
                if self.when_open(&id, asker, request).is_some() {
                    self.set_channel(me, Some(id), true);
                    self.answer_done(asker);
                }
            }
            Request::LeaveCurrentChannel => {
                self.set_channel(me, None, true);
                self.answer_done(asker);
            }
            Request::GetOrCreateChannel { channel } => self.get_or_create(&channel, asker.clone()),
            Request::CreatePrivateChannel => self.create_private(asker),
            Request::Broadcast { ref channel, .. } => {
                let id = channel.clone();
                let is_private = self.may_use(&id, me, true)?;
                let Some(Request::Broadcast { context, metadata, .. }) = self.when_open(&id, asker, request)
                else {
                    return Ok(());
                };
                match is_private {
                    true => self.broadcast_private(&id, context, metadata, asker),
                    false => self.broadcast_shared(&id, context, metadata, asker.clone()),
                }
            }
            Request::GetCurrentContext { ref channel, .. } => {
                let id = channel.clone();
                let is_private = self.may_use(&id, me, false)?;
                let Some(Request::GetCurrentContext { context, .. }) = self.when_open(&id, asker, request)
                else {
                    return Ok(());
                };
                match is_private {
                    true => self.current_of_private(asker, &id, context.as_deref()),
                    false => {
                        let slot = self.current_of_shared(&id, context.as_deref());
                        self.answer_current(asker, slot);
                    }
                }
            }
            Request::ClearContext { ref channel, .. } => {
                let id = channel.clone();
                if self.may_use(&id, me, true)? {
                    return Err(Fault::AccessDenied);
                }
                if let Some(Request::ClearContext { context, .. }) = self.when_open(&id, asker, request) {
                    self.clear_shared(&id, context, asker.clone());
                }
            }
            Request::AddContextListener { .. } => self.add_context_listener(asker, request)?,
            Request::ContextListenerUnsubscribe { listener } => {
                let gone = self.app_mut(me)?.listeners.remove(&listener);
                if gone.is_none() {
                    self.not_anothers(&listener, me)?;
                }
                self.answer_done(asker);
                if let Some(gone) = gone
                    && let Some(channel) = &gone.channel
                    && self.private_mut(channel).is_some()
                {
                    self.did(channel, me, &Deed::Unsubscribed(gone.context.clone()), Some(&listener));
                }
            }
            Request::AddEventListener { event } => {
                let id = self.new_listener(me)?;
                let app = self.app_mut(me)?;
                app.profile.modern |= event.as_deref() == Some("USER_CHANNEL_CHANGED");
                app.events.insert(id.clone(), None);
                self.answer(asker, Ok(Object::new().text("listenerUUID", &id).end()));
            }
            Request::PrivateChannelAddEventListener { channel, .. } => {
                if !self.may_use(&channel, me, false)? {
                    return Err(Fault::NoChannelFound);
                }
                let id = self.new_listener(me)?;
                self.app_mut(me)?.events.insert(id.clone(), Some(channel.clone()));
                self.answer(asker, Ok(Object::new().text("listenerUUID", &id).end()));
                self.events_of_private(&channel, me, true);
            }
            Request::EventListenerUnsubscribe { listener }
            | Request::PrivateChannelUnsubscribeEventListener { listener } => {
                let gone = self.app_mut(me)?.events.remove(&listener);
                if gone.is_none() {
                    self.not_anothers(&listener, me)?;
                }
                self.answer_done(asker);
                if let Some(channel) = gone.flatten() {
                    self.events_of_private(&channel, me, false);
                }
            }
            Request::PrivateChannelDisconnect { channel } => {
                if !self.may_use(&channel, me, false)? {
                    return Err(Fault::NoChannelFound);
                }
                self.answer_done(asker);
                self.leave_private(&channel, me);
            }
            Request::AddIntentListener { intent, contexts } => {
                self.add_intent_listener(asker, intent, contexts)?;
            }
            Request::IntentListenerUnsubscribe { listener } => {
                match self.app_mut(me)?.intents.remove(&listener) {
                    Some(gone) => self.intent_listener_gone(me, &gone.intent),
                    None => self.not_anothers(&listener, me)?,
                }
                self.answer_done(asker);
            }
            Request::RaiseIntent { intent, context, app, metadata } => {
                self.raise(asker, Some(intent), context, app, metadata)?;
            }
            Request::RaiseIntentForContext { context, app, metadata } => {
                self.raise(asker, None, context, app, metadata)?;
            }
            Request::IntentResult { raise, result, metadata } => {
                self.result(me, &raise, result, metadata.as_ref());
                self.answer_done(asker);
            }
            Request::HeartbeatAcknowledgement => {}
            Request::Goodbye => {
                let connection = self.apps.get(me).and_then(|app| app.connection);
                if let Some(connection) = connection {
                    self.disconnect(connection);
                    self.outputs.push_back(Output::Close(connection, "the app has said goodbye".into()));
                }
            }
        }
        Ok(())
    }

    fn app_mut(&mut self, instance: &Text) -> Result<&mut crate::app::App, Fault> {
        self.apps.get_mut(instance).ok_or(Fault::AccessDenied)
    }

    fn new_listener(&mut self, instance: &Text) -> Result<Text, Fault> {
        let max = self.settings.limits.listeners_max;
        let app = self.app_mut(instance)?;
        if app.listeners.len() + app.intents.len() + app.events.len() >= max {
            return Err(Fault::AccessDenied);
        }
        Ok(self.ids.uuid())
    }

    /// A listener that is gone already may be given up again; somebody else's may not.
    fn not_anothers(&self, listener: &Text, me: &Text) -> Result<(), Fault> {
        let has = |app: &crate::app::App| {
            app.listeners.contains_key(listener)
                || app.intents.contains_key(listener)
                || app.events.contains_key(listener)
        };
        match self.apps.iter().any(|(instance, app)| instance != me && has(app)) {
            true => Err(Fault::AccessDenied),
            false => Ok(()),
        }
    }

    fn user_channel(&self, id: &Text) -> Result<(), Fault> {
        match self.channels.by_id.get(id) {
            Some(Channel { kind: Kind::User(_), .. }) => Ok(()),
            _ => Err(Fault::NoChannelFound),
        }
    }

    /// Returns whether a channel that an app may use is a private one.
    fn may_use(&mut self, id: &Text, me: &Text, to_speak: bool) -> Result<bool, Fault> {
        self.recall_app_channel(id);
        let channel = self.channels.by_id.get(id).ok_or(Fault::NoChannelFound)?;
        let Some(private) = channel.private() else { return Ok(false) };
        match private.is_member(me) && !(to_speak && private.has_left(me)) {
            true => Ok(true),
            false => Err(Fault::AccessDenied),
        }
    }

    fn add_context_listener(&mut self, asker: &Asker, request: Request) -> Result<(), Fault> {
        let me = &asker.instance;
        let Request::AddContextListener { channel, .. } = &request else { return Ok(()) };
        let mut is_private = false;
        let request = match channel.clone() {
            Some(id) => {
                is_private = self.may_use(&id, me, false)?;
                self.when_open(&id, asker, request)
            }
            None => Some(request),
        };
        let Some(Request::AddContextListener { channel, context }) = request else { return Ok(()) };
        let id = self.new_listener(me)?;
        let app = self.app_mut(me)?;
        // Clients of 2.2.0 name the user channel of the moment when they mean whichever they are on.
        let follows = channel.is_none() || (channel == app.channel && !app.profile.modern);
        let listener = Listener { channel: channel.clone(), follows, context: context.clone() };
        app.listeners.insert(id.clone(), listener.clone());
        app.listened = true;
        // The answer first: whoever is told of it may broadcast at once.
        self.answer(asker, Ok(Object::new().text("listenerUUID", &id).end()));
        self.greet_listener(me, &listener);
        self.listens(me, Some(&listener));
        if let Some(channel) = channel.filter(|_| is_private) {
            self.did(&channel, me, &Deed::Listens(context), Some(&id));
        }
        Ok(())
    }

    fn add_intent_listener(
        &mut self,
        asker: &Asker,
        intent: Text,
        contexts: Option<Vec<Text>>,
    ) -> Result<(), Fault> {
        let me = &asker.instance;
        let overlaps = |other: &IntentListener| {
            other.intent == intent
                && contexts
                    .as_ref()
                    .zip(other.contexts.as_ref())
                    .is_some_and(|(one, other)| one.iter().any(|kind| other.contains(kind)))
        };
        if self.app_mut(me)?.intents.values().any(overlaps) {
            return Err(Fault::IntentListenerConflict);
        }
        let id = self.new_listener(me)?;
        let app = self.app_mut(me)?;
        app.intents.insert(id.clone(), IntentListener { intent: intent.clone(), contexts });
        app.listened = true;
        self.answer(asker, Ok(Object::new().text("listenerUUID", &id).end()));
        self.offer_intent(me, &intent);
        self.listens(me, None);
        self.deliver_waiting(me);
        Ok(())
    }

    fn app_metadata(&mut self, asker: &Asker, app: Option<AppRef>) -> Result<(), Fault> {
        let app = match app {
            Some(app) => app,
            None => {
                let own = self.apps.get(&asker.instance).ok_or(Fault::TargetAppUnavailable)?;
                AppRef {
                    app_id: own.app_id.clone(),
                    instance_id: Some(asker.instance.clone()),
                    desktop_agent: None,
                }
            }
        };
        if app.desktop_agent.is_some()
            && let Ok(Place::Bridge(at)) = self.place(&app)
        {
            self.metadata_on_bridge(asker, &at, &app);
            return Ok(());
        }
        // Who asks has said which one is meant. The conformance suite allows what the record says, and the
        // instance; other agents get names of agents, as bridging says.
        let named = |node: &Option<Text>| node.clone().filter(|_| is_foreign(&asker.instance));
        let metadata = match &app.instance_id {
            Some(instance) if self.is_connected(instance) => {
                let app_id = self.apps[instance].app_id.clone();
                self.instance_metadata(&app_id, instance, None).end()
            }
            Some(instance) => {
                let server = self.peers.servers.values().find(|server| server.instance == *instance);
                match server {
                    Some(server) => {
                        let node = named(&server.node);
                        self.instance_metadata(&server.app_id, instance, node.as_deref()).end()
                    }
                    None if self.place(&app).is_ok() => return Err(Fault::TargetInstanceUnavailable),
                    None => return Err(Fault::TargetAppUnavailable),
                }
            }
            None => match self.place(&app)? {
                Place::Bridge(at) => {
                    self.metadata_on_bridge(asker, &at, &app);
                    return Ok(());
                }
                Place::Here(id) => {
                    let record = self.record(&id).ok_or(Fault::TargetAppUnavailable)?;
                    record.metadata.clone()
                }
                Place::There(desk) => {
                    let node = self.peers.desks.get(&desk).map(|peer| peer.node.clone());
                    let plain = node.as_ref().and_then(|node| app.app_id.strip_suffix(&format!("@{node}")));
                    let record = self.peers.record(plain.unwrap_or(&app.app_id));
                    let record = record.ok_or(Fault::TargetAppUnavailable)?;
                    Self::metadata(record, None, named(&node).as_deref()).end()
                }
            },
        };
        self.answer(asker, Ok(Object::new().json("appMetadata", &metadata).end()));
        Ok(())
    }

    fn find_instances(&mut self, asker: &Asker, app: &AppRef) -> Result<(), Fault> {
        let node = self.settings.node.clone();
        let wanted = |agent: Option<&str>| {
            app.desktop_agent.as_deref().is_none_or(|wanted| wanted == agent.unwrap_or(&node))
        };
        let known = self.record(&app.app_id).map(|record| record.app_id.clone());
        let app_id = known.clone().unwrap_or_else(|| app.app_id.clone());
        let mut found = Vec::new();
        for (instance, own) in self.connected_apps().filter(|_| wanted(None)) {
            if own.app_id == app_id {
                found.push(app_identifier(&app_id, Some(instance), None));
            }
        }
        for server in self.peers.servers.values() {
            if server.app_id == app_id && wanted(server.node.as_deref()) {
                found.push(app_identifier(&app_id, Some(&server.instance), server.node.as_deref()));
            }
        }
        let is_unknown = found.is_empty() && known.is_none() && self.peers.record(&app_id).is_none();
        let found = match is_unknown && !is_foreign(&asker.instance) {
            true => Err(Fault::NoAppsFound),
            false => Ok(found),
        };
        if let Some(found) = self.instances_on_bridges(asker, app, found) {
            self.answer_instances(asker, found);
        }
        Ok(())
    }

    pub(crate) fn answer_instances(&mut self, asker: &Asker, found: Result<Vec<Json>, Fault>) {
        let answer = found.map(|found| Object::new().json("appIdentifiers", &array(&found)).end());
        self.answer(asker, answer);
    }

    fn current_of_private(&mut self, asker: &Asker, id: &Text, kind: Option<&str>) {
        let Some(private) = self.private_mut(id) else { return };
        // Of what lives on the bridge there is what was heard of it.
        match private.host.clone().filter(|host| !is_foreign(host)) {
            None => {
                let slot = private.current(kind);
                self.answer_current(asker, slot);
            }
            Some(host) => {
                let arguments = Object::new()
                    .text("op", "current")
                    .text("channel", id)
                    .text("by", &asker.instance)
                    .some_text("type", kind)
                    .end();
                let patience = self.settings.limits.peer_ms;
                self.ask_peer(&host, Ask::Current(asker.clone()), arguments, patience);
            }
        }
    }
}
