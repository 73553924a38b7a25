//! The apps of this node: who they are, how they come and go.

use std::collections::BTreeMap;
use std::sync::Arc;

use bytes::Bytes;
use fdc3_directory::Record;
use mesh_model::{Area, Command, Event, Json, Reason, SessionId, Text};
use proto_dacp::{Hello, Object};

use crate::channel::Listener;
use crate::{Agent, Asker, ConnectionId, Output, Pending, Time, Timer, app_identifier};

/// An instance of an app.
#[derive(Debug)]
pub(crate) struct App {
    pub(crate) app_id: Text,
    /// What proves that somebody is this instance. Nobody else is ever told.
    pub(crate) secret: Text,
    pub(crate) state: State,
    pub(crate) connection: Option<ConnectionId>,
    pub(crate) session: Option<SessionId>,
    /// The interop instance of its session; differs from its own id only if that was taken.
    pub(crate) server: Option<Text>,
    /// The user channel that it is on.
    pub(crate) channel: Option<Text>,
    pub(crate) profile: Profile,
    pub(crate) listeners: BTreeMap<Text, Listener>,
    pub(crate) intents: BTreeMap<Text, IntentListener>,
    /// Listeners for events of the agent, and of private channels (by channel).
    pub(crate) events: BTreeMap<Text, Option<Text>>,
    /// The methods that its session has registered, by intent.
    pub(crate) methods: BTreeMap<Text, u64>,
    /// Whether it listened for anything yet.
    pub(crate) listened: bool,
    /// Its request to be closed.
    pub(crate) closing: Option<Asker>,
}

/// A listener for an intent.
#[derive(Debug)]
pub(crate) struct IntentListener {
    pub(crate) intent: Text,
    /// The context types it is for; all if none are named.
    pub(crate) contexts: Option<Vec<Text>>,
}

impl IntentListener {
    pub(crate) fn takes(&self, context: Option<&str>) -> bool {
        match (&self.contexts, context) {
            (Some(types), Some(context)) => types.iter().any(|kind| **kind == *context),
            _ => true,
        }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum State {
    /// Started, and not heard of yet.
    Starting,
    /// It has said who it is, and the node has yet to take its session.
    Attaching,
    Connected,
    /// Its connection is closed; it may come back.
    Away,
}

/// How the client library of an app behaves; see [`Agent::is_modern`].
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Profile {
    /// It listens for changes of its channel, so it is not of FDC3 2.2.0.
    pub(crate) modern: bool,
}

/// Who wants to come in, as far as the connection knows.
#[derive(Clone, Debug, Default)]
pub struct Admission {
    /// The `Origin` of a browser page; none for a native app.
    pub origin: Option<Text>,
    /// Whether that is the node's own, so that what its adaptor attests is believed.
    pub own_page: bool,
}

/// Why an app was kept out.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refused {
    /// The frame that says so.
    pub frame: Bytes,
    /// The sentence in it.
    pub why: String,
}

impl Agent {
    /// Lets an app in by its first frame, or keeps it out. `session` is for it, not attached yet.
    pub fn connect(
        &mut self,
        connection: ConnectionId,
        session: SessionId,
        hello: &Hello,
        admission: &Admission,
        now: Time,
    ) -> Result<(), Refused> {
        self.now = now;
        match self.admit(hello, admission) {
            Ok(instance) => {
                self.attach_desk_again();
                self.attach(&instance, connection, session, hello);
                Ok(())
            }
            Err(why) => Err(Refused { frame: hello.refused(&why, now.wall_ms), why }),
        }
    }

    /// Returns which instance it is.
    fn admit(&mut self, hello: &Hello, admission: &Admission) -> Result<Text, String> {
        let (identity_url, actual_url, claim, attested) = match hello {
            Hello::Secret { secret, .. } => {
                let of_secret = |(_, app): &(&Text, &App)| app.secret == *secret && !secret.is_empty();
                let found = self.apps.iter().find(of_secret).map(|(instance, _)| instance.clone());
                // A second connection with the same secret replaces the first.
                return found.ok_or_else(|| "no app is expected with this sharedSecret".to_owned());
            }
            Hello::Other { name } => {
                return Err(format!(
                    "`{name}` came first; WCP4ValidateAppIdentity or WSCPApplicationConnect must"
                ));
            }
            Hello::Identity { identity_url, actual_url, claim, attested, .. } => {
                (identity_url, actual_url, claim, attested.as_ref().filter(|_| admission.own_page))
            }
        };
        let page = attested.map(|attested| &attested.origin).or(admission.origin.as_ref());
        if let Some(origin) = page {
            for (what, url) in [("identityUrl", identity_url), ("actualUrl", actual_url)] {
                if origin_of(url) != Some(&**origin) {
                    return Err(format!("{what} {url} is not of the page's origin {origin}"));
                }
            }
        }
        let launched = attested.and_then(|attested| attested.launch_key.as_ref());
        let launched = launched.and_then(|key| self.launched_with(key));
        let record = match (self.directory.by_url(identity_url), &launched) {
            (Some(record), _) => record.app_id.clone(),
            // A native app says who it is by the instance it was started as.
            (None, _) => match claim.as_ref().map(|(instance, secret)| (self.apps.get(instance), secret)) {
                Some((Some(app), secret)) if page.is_none() && app.secret == *secret => app.app_id.clone(),
                _ => return Err(format!("no app of the directory has the URL {identity_url}")),
            },
        };
        let is_free = |app: &App| app.app_id == record && app.connection.is_none();
        if let Some((instance, secret)) = claim
            && self.ids.proof(&record, instance) == *secret
        {
            // If it is not known, an earlier life of the node knew it; if it is not free, its window was copied.
            let known = self.apps.get(instance).map(is_free);
            if known.unwrap_or_else(|| self.reserve_as(&record, instance.clone())) {
                return Ok(instance.clone());
            }
        }
        if let Some(instance) = launched
            && self.apps.get(&instance).is_some_and(is_free)
        {
            return Ok(instance);
        }
        self.reserve(record)
            .ok_or_else(|| format!("limit fdc3 apps_max ({}) is reached", self.settings.limits.apps_max))
    }

    fn launched_with(&self, key: &Text) -> Option<Text> {
        self.apps.iter().find(|(_, app)| app.secret == *key).map(|(instance, _)| instance.clone())
    }

    /// Makes an instance that has yet to connect.
    pub(crate) fn reserve(&mut self, app_id: Text) -> Option<Text> {
        let instance = self.ids.uuid();
        self.reserve_as(&app_id, instance.clone()).then_some(instance)
    }

    fn reserve_as(&mut self, app_id: &Text, instance: Text) -> bool {
        if self.apps.len() >= self.settings.limits.apps_max {
            return false;
        }
        let app = App {
            app_id: app_id.clone(),
            secret: self.ids.proof(app_id, &instance),
            state: State::Starting,
            connection: None,
            session: None,
            server: None,
            channel: None,
            profile: Profile::default(),
            listeners: BTreeMap::new(),
            intents: BTreeMap::new(),
            events: BTreeMap::new(),
            methods: BTreeMap::new(),
            listened: false,
            closing: None,
        };
        self.apps.insert(instance, app);
        true
    }

    fn attach(&mut self, instance: &Text, connection: ConnectionId, session: SessionId, hello: &Hello) {
        let Some(app) = self.apps.get_mut(instance) else { return };
        if let Some(former) = app.connection {
            self.disconnect(former);
            self.outputs.push_back(Output::Close(former, "the same app has connected again".into()));
        }
        let Some(app) = self.apps.get_mut(instance) else { return };
        app.state = State::Attaching;
        app.connection = Some(connection);
        app.session = Some(session);
        app.profile = Profile::default();
        app.listened = false;
        let app_id = app.app_id.clone();
        self.no_timer(&Timer::Return(instance.clone()));
        self.connections.insert(connection, instance.clone());
        self.sessions.insert(session, instance.clone());
        let fdc3 = Object::new().text("appId", &app_id).text("node", &self.settings.node).end();
        let identity = Object::new()
            .text("application", &app_id)
            .text("applicationName", &app_id)
            .text("instance", instance)
            .json("fdc3", &fdc3)
            .end();
        let user = Some(self.settings.user.clone());
        self.ask(session, Pending::Attach(Box::new(hello.clone())), |request| Command::Attach {
            request,
            identity,
            login: user.clone(),
            user,
            service: false,
        });
        self.join(session, Area::Interop);
    }

    /// The node has taken an app's session.
    fn attached(&mut self, instance: &Text, server: Text, hello: &Hello) {
        let Some(app) = self.apps.get_mut(instance) else { return };
        app.server = Some(server);
        app.state = State::Connected;
        let (app_id, secret) = (app.app_id.clone(), app.secret.clone());
        let about = self.about(instance);
        let frame = hello.accepted(&app_id, instance, &secret, &about, self.now.wall_ms);
        self.send(instance, frame);
        self.connected(instance);
        self.outputs.push_back(Output::Changed);
    }

    /// The node has not taken an app's session.
    fn not_attached(&mut self, instance: &Text, reason: &Reason, hello: &Hello) {
        let Some(connection) = self.apps.get(instance).and_then(|app| app.connection) else { return };
        let why = format!("the node does not take this app: {reason}");
        let frame = hello.refused(&why, self.now.wall_ms);
        self.outputs.push_back(Output::Refuse(connection, Refused { frame, why }));
        self.disconnect(connection);
    }

    /// An app's connection is closed.
    pub fn disconnected(&mut self, connection: ConnectionId, now: Time) {
        self.now = now;
        self.disconnect(connection);
    }

    /// The node has ended a session of an app: another program has taken its identity.
    pub fn session_ended(&mut self, session: SessionId, now: Time) {
        self.now = now;
        let connection = self.sessions.get(&session).and_then(|instance| self.apps.get(instance)?.connection);
        if let Some(connection) = connection {
            self.disconnect(connection);
            self.outputs.push_back(Output::Close(connection, "its identity has logged in elsewhere".into()));
        }
    }

    pub(crate) fn disconnect(&mut self, connection: ConnectionId) {
        let Some(instance) = self.connections.remove(&connection) else { return };
        let Some(app) = self.apps.get_mut(&instance) else { return };
        app.state = State::Away;
        app.connection = None;
        app.channel = None;
        app.intents.clear();
        app.events.clear();
        app.methods.clear();
        app.server = None;
        app.closing = None;
        let listeners = std::mem::take(&mut app.listeners);
        if let Some(session) = app.session.take() {
            self.sessions.remove(&session);
            // Nothing of what it has asked is answered any more.
            self.pending.retain(|_, (of, _)| *of != session);
            self.outputs.push_back(Output::CloseSession(session));
        }
        self.no_timer(&Timer::Close(instance.clone()));
        self.leave_private_channels(&instance, listeners);
        self.handler_is_gone(&instance);
        self.opener_is_gone(&instance);
        self.timer(self.settings.limits.return_ms, Timer::Return(instance));
        self.outputs.push_back(Output::Changed);
    }

    pub(crate) fn forget(&mut self, instance: &Text) {
        if self.apps.get(instance).is_some_and(|app| app.state != State::Connected) {
            self.apps.remove(instance);
            self.outputs.push_back(Output::Changed);
        }
    }

    /// Takes an event of an app's session.
    pub(crate) fn app_event(&mut self, instance: &Text, event: Event) {
        match event {
            Event::Attached { request, instance: server, .. } => {
                if let Some((_, Pending::Attach(hello))) = self.pending(&request) {
                    self.attached(instance, server, &hello);
                }
            }
            Event::Done { request, .. } => {
                if let Some((_, pending)) = self.pending(&request) {
                    self.done(pending);
                }
            }
            Event::Refused { request, reason } => match self.pending(&request) {
                Some((_, Pending::Attach(hello))) => self.not_attached(instance, &reason, &hello),
                Some((_, pending)) => self.refused(pending),
                None => {}
            },
            Event::CallEnded { request, outcome } => self.call_ended(&request, outcome),
            Event::Invoke { invocation, method, caller, arguments } => {
                self.invoked(instance, invocation, &method, &caller, &arguments);
            }
            _ => {}
        }
    }

    pub(crate) fn heartbeats(&mut self) {
        let connected: Vec<Text> = self.connected_apps().map(|(instance, _)| instance.clone()).collect();
        for instance in connected {
            let stamp = self.stamp();
            self.send(&instance, proto_dacp::connect::heartbeat(&stamp));
        }
    }

    pub(crate) fn connected_apps(&self) -> impl Iterator<Item = (&Text, &App)> {
        self.apps.iter().filter(|(_, app)| app.state == State::Connected)
    }

    pub(crate) fn is_connected(&self, instance: &Text) -> bool {
        self.apps.get(instance).is_some_and(|app| app.state == State::Connected)
    }

    pub(crate) fn record(&self, app_id: &str) -> Option<&Arc<Record>> {
        self.directory.find(app_id)
    }

    /// Writes the `AppMetadata` of an app, or of an instance of it.
    pub(crate) fn metadata(record: &Record, instance: Option<&str>, node: Option<&str>) -> Object {
        let mut members = Object::new();
        for (name, value) in record.metadata.members().unwrap_or_default() {
            if let Ok(name) = std::str::from_utf8(&name.0) {
                members = members.json(name, &value);
            }
        }
        members.some_text("instanceId", instance).some_text("desktopAgent", node)
    }

    /// Writes the `AppMetadata` of an instance whose app may not be in the directory.
    pub(crate) fn instance_metadata(&self, app_id: &str, instance: &str, node: Option<&str>) -> Object {
        let known = self.record(app_id).cloned().or_else(|| self.peers.record(app_id).cloned());
        match known {
            Some(record) => Self::metadata(&record, Some(instance), node),
            None => Object::new()
                .text("appId", app_id)
                .text("instanceId", instance)
                .some_text("desktopAgent", node),
        }
    }

    /// Writes the `ImplementationMetadata` for an app.
    pub(crate) fn about(&self, instance: &Text) -> Json {
        let app_id = self.apps.get(instance).map(|app| app.app_id.clone()).unwrap_or_default();
        self.implementation(self.bridge.is_on())
            .json("appMetadata", &self.instance_metadata(&app_id, instance, None).end())
            .end()
    }

    /// Writes what is the same of it for all.
    pub(crate) fn implementation(&self, bridges: bool) -> Object {
        let features = Object::new()
            .flag("OriginatingAppMetadata", true)
            .flag("UserChannelMembershipAPIs", true)
            .flag("DesktopAgentBridging", bridges)
            .end();
        Object::new()
            .text("fdc3Version", "2.2")
            .text("provider", "deskmesh")
            .text("providerVersion", &self.settings.version)
            .json("optionalFeatures", &features)
    }

    /// Returns an app as others are told of it.
    pub(crate) fn source(&self, instance: &Text) -> Json {
        if let Some(source) = self.foreign_source(instance) {
            return source;
        }
        let app_id = self.apps.get(instance).map(|app| app.app_id.clone()).unwrap_or_default();
        app_identifier(&app_id, Some(instance), None)
    }
}

/// Returns the origin of a URL as browsers write it; `None` if it has none.
fn origin_of(url: &str) -> Option<&str> {
    let (scheme, rest) = url.split_once("://")?;
    let authority = rest.find(['/', '?', '#']).unwrap_or(rest.len());
    let origin = &url[..scheme.len() + 3 + authority];
    let default = match scheme {
        "http" => ":80",
        "https" => ":443",
        _ => return Some(origin),
    };
    Some(origin.strip_suffix(default).unwrap_or(origin))
}
