//! The FDC3 desktop agent of a node: everything FDC3 that is neither a socket nor a message format.
//!
//! It knows the apps that are connected here, starts others, resolves intents, and keeps channels. What
//! it shares with io.Connect apps and with other nodes it shares through the node as any app would: each
//! FDC3 app is a session of the node, and the agent has one of its own, its *desk*. So
//!
//! * an app's instance is an interop instance, whose identity has a member `fdc3`;
//! * a user channel is the shared context of an io.Connect channel, an app channel that of its name, in
//!   the layout that io.Connect's own FDC3 library uses ([`document`]); a broadcast is a change of it;
//! * an intent listener is a method `Tick42.FDC3.Intents.<intent>`, and such a method of an io.Connect
//!   app is an intent listener;
//! * the desks of several nodes call each other: to open an app, to raise an intent, and for what goes on
//!   in private channels ([`peer`]);
//! * the agents on a bridge of this machine are like other nodes, and this one speaks to them ([`bridge`]).
//!
//! A broadcast is an event and leaves state behind, and between nodes the two go separately: the event by
//! publish and subscribe, in order and at most once; the state with the context, which heals. Who gets
//! the state and not the event, because the nodes could not reach each other, is told the newest value
//! once.
//!
//! As the node itself this is a state machine: inputs come with the time, outputs are polled.

mod app;
mod bridge;
mod channel;
mod document;
mod ids;
mod intent;
mod launcher;
mod open;
mod peer;
mod private;
mod receive;
#[cfg(test)]
mod tests;
mod view;

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;

use bytes::Bytes;
use fdc3_directory::{Directory, Record};
use mesh_model::limits::JsonLimits;
use mesh_model::{Area, Command, Event, Json, Request, SessionId, Text};
use proto_bridge::Message;
use proto_dacp::{Fault, Hello, Object, Stamp};

pub use app::{Admission, Refused};
pub use bridge::{BridgeRule, BridgeRules, Direction};
pub use launcher::Asked;
pub use view::{AppItem, InstanceItem};

use app::App;
use bridge::Bridge;
use channel::Channels;
use ids::Ids;
use intent::{Owed, Raise};
use open::Opening;
use peer::Peers;

/// How an agent behaves.
#[derive(Clone, Debug)]
pub struct Settings {
    /// The node's name, by which other machines know this agent.
    pub node: Text,
    /// Whose apps these are.
    pub user: Text,
    /// The version that `getInfo` tells.
    pub version: Text,
    /// Makes ids that nobody can guess: random, made anew each start.
    pub secret: [u8; 32],
    /// Makes what proves that an app is an instance: kept, so that apps find themselves again after a
    /// restart.
    pub instance_key: [u8; 32],
    /// The bounds of a frame.
    pub json: JsonLimits,
    /// Times and bounds.
    pub limits: Limits,
}

/// Times, in milliseconds, and bounds.
#[derive(Clone, Debug)]
pub struct Limits {
    /// How long an app that is started may take to connect.
    pub start_ms: u64,
    /// How long an app that was opened with a context may then take to listen for it.
    pub open_ms: u64,
    /// How long an app without a context may be silent before its first listener, until `open` is answered.
    pub settle_ms: u64,
    /// How long an intent waits for its handler to listen, once that is connected.
    pub intent_ms: u64,
    /// How long the raiser of an intent waits for its result, which a handler that throws never gives.
    pub result_ms: u64,
    /// How long another node may take for an answer that starts no app.
    pub peer_ms: u64,
    /// How long an app may take to go when it has asked to be closed.
    pub close_ms: u64,
    /// How long a closed connection's instance may come back under its id.
    pub return_ms: u64,
    /// How long the state of a channel waits for the broadcast that made it.
    pub event_ms: u64,
    /// How long an app channel that no app here uses is kept here; what is on it stays with the node.
    pub unused_ms: u64,
    /// Between heartbeats.
    pub heartbeat_ms: u64,
    /// Apps, those that are remembered included.
    pub apps_max: usize,
    /// Listeners of all kinds of one app.
    pub listeners_max: usize,
    /// App channels, and private ones.
    pub channels_max: usize,
    /// Intents whose end is awaited.
    pub intents_max: usize,
    /// Results that one app owes; of more the oldest is given up.
    pub results_max: usize,
    /// What waits to be sent to another node's desk.
    pub peer_queue_max: usize,
    /// How long the bridge may take for an answer that starts no app. It has a limit of its own, which is shorter.
    pub bridge_find_ms: u64,
    /// How long another node may take to have its bridge asked: its bridge's own limit, and the way.
    pub bridge_elsewhere_ms: u64,
    /// The same for an agent on the bridge of this machine, which itself is waited for no longer than that
    /// bridge's limit.
    pub bridge_relayed_ms: u64,
    /// How long it may take to open an app, or deliver an intent. The same holds.
    pub bridge_start_ms: u64,
    /// Other agents on the bridge that are known.
    pub bridge_agents_max: usize,
    /// Questions to the bridge that wait for their answers.
    pub bridge_requests_max: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            start_ms: 30_000,
            open_ms: 15_000,
            settle_ms: 400,
            intent_ms: 20_000,
            result_ms: 600_000,
            peer_ms: 5_000,
            close_ms: 5_000,
            return_ms: 10_000,
            event_ms: 1_000,
            unused_ms: 600_000,
            heartbeat_ms: 30_000,
            apps_max: 10_000,
            listeners_max: 4_096,
            channels_max: 10_000,
            intents_max: 10_000,
            results_max: 1_000,
            peer_queue_max: 16_384,
            bridge_find_ms: 3_000,
            bridge_elsewhere_ms: 2_000,
            bridge_relayed_ms: 1_200,
            bridge_start_ms: 90_000,
            bridge_agents_max: 1_024,
            bridge_requests_max: 10_000,
        }
    }
}

/// When something is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Time {
    /// Milliseconds of a clock that never goes back.
    pub ms: u64,
    /// Milliseconds since 1970, UTC.
    pub wall_ms: u64,
}

/// A connection of an app.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ConnectionId(pub u64);

/// What is to be done.
#[derive(Debug)]
pub enum Output {
    /// Send a frame to an app.
    Frame(ConnectionId, Bytes),
    /// Send it a context that somebody has broadcast: who goes on broadcasting may be made to wait.
    Data(ConnectionId, Bytes),
    /// Close a connection: why, for the log and the app.
    Close(ConnectionId, String),
    /// Tell an app that it is not let in after all, and close its connection.
    Refuse(ConnectionId, Refused),
    /// Hand this to the node.
    Command(SessionId, Command),
    /// End a session of the node.
    CloseSession(SessionId),
    /// Start an app here, and say how that went with [`Agent::launched`].
    Launch {
        /// The instance that it will be.
        instance: Text,
        /// What proves that it is.
        secret: Text,
        /// What to start.
        record: Arc<Record>,
    },
    /// Close the window of an app, or end its process; if there is no way to, say so with [`Agent::not_closed`].
    CloseApp(Text),
    /// Say this to the bridge, as the node's agent.
    Bridge(Message),
    /// Note that a rule has kept something from crossing the bridge.
    Kept {
        /// The rule's place in the list, from 1.
        rule: usize,
        /// What it is about.
        what: String,
        /// Whether somebody was told so: a request, and no broadcast.
        is_request: bool,
    },
    /// A limit is reached: a sentence that names it, as what apps are told does not.
    LimitReached(String),
    /// What [`Agent::apps`] or [`Agent::instances`] tell has changed.
    Changed,
}

/// A node's desktop agent for one user.
#[derive(Debug)]
pub struct Agent {
    settings: Settings,
    ids: Ids,
    now: Time,
    outputs: VecDeque<Output>,
    desk: Desk,
    directory: Arc<Directory>,
    apps: BTreeMap<Text, App>,
    connections: BTreeMap<ConnectionId, Text>,
    sessions: BTreeMap<SessionId, Text>,
    channels: Channels,
    peers: Peers,
    bridge: Bridge,
    openings: BTreeMap<Text, Opening>,
    raises: BTreeMap<u64, Raise>,
    owed: BTreeMap<Text, Owed>,
    /// What the node has yet to answer, and to which session.
    pending: BTreeMap<u64, (SessionId, Pending)>,
    next_request: u64,
    timers: BTreeSet<(u64, Timer)>,
}

/// The agent's own session.
#[derive(Debug)]
struct Desk {
    session: SessionId,
    /// Its instance id, once it has one.
    instance: Option<Text>,
    /// The node has not taken it, as the user had too many sessions.
    refused: bool,
}

/// What is due at a time.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Timer {
    /// An app was started, or may settle.
    Open(Text),
    /// An intent has waited for its handler.
    Raise(u64),
    /// The oldest of the results that are awaited may be late.
    Results,
    /// A request to another node is late.
    Pending(u64),
    /// A request to the bridge is late.
    Bridge(Text),
    /// An app has asked to be closed and is still there.
    Close(Text),
    /// An instance has been away.
    Return(Text),
    /// State came without its event.
    State(Text, Text),
    Heartbeat,
}

/// What an answer of the node is for.
#[derive(Debug)]
enum Pending {
    /// Nothing depends on it.
    Nothing,
    /// An app's session, with its first frame.
    Attach(Box<Hello>),
    /// The desk's own session.
    Desk,
    /// The desk's own subscription to a context.
    Context(Text),
    /// An app's request that is answered with `{}` when this is done.
    Reply(Asker),
    /// A change of a channel's context, with what made it.
    Broadcast { asker: Asker, event: Text },
    /// A change of a channel's context by the desk, which is not told of its own.
    Cast { context: Text, event: Text, delta: Json },
    /// The desk's subscription to the broadcasts of a channel elsewhere.
    Listening(Text),
    /// A channel's context that an app waits for.
    Channel { name: Text },
    /// A call to another desk: a batch.
    Batch(Text),
    /// A call to another desk.
    Ask(peer::Ask),
    /// A call of an io.Connect app's intent method.
    Handler(Text),
}

/// Who is to be answered, and how.
#[derive(Clone, Debug)]
struct Asker {
    /// The app.
    instance: Text,
    /// The name of its request.
    name: Text,
    /// Its id.
    uuid: Json,
}

impl Agent {
    /// Makes an agent. `desk` is a session that has yet to attach; the agent attaches it at once.
    #[must_use]
    pub fn new(settings: Settings, desk: SessionId, directory: Arc<Directory>, now: Time) -> Self {
        let ids = Ids::new(settings.secret, &settings.instance_key, &settings.user);
        let heartbeat = now.ms + settings.limits.heartbeat_ms;
        let mut agent = Self {
            ids,
            now,
            outputs: VecDeque::new(),
            desk: Desk { session: desk, instance: None, refused: false },
            directory,
            apps: BTreeMap::new(),
            connections: BTreeMap::new(),
            sessions: BTreeMap::new(),
            channels: Channels::default(),
            peers: Peers::default(),
            bridge: Bridge::default(),
            openings: BTreeMap::new(),
            raises: BTreeMap::new(),
            owed: BTreeMap::new(),
            pending: BTreeMap::new(),
            next_request: 1,
            timers: BTreeSet::from([(heartbeat, Timer::Heartbeat)]),
            settings,
        };
        agent.make_user_channels();
        agent.attach_desk();
        agent
    }

    /// Returns what is to be done next.
    pub fn poll_output(&mut self) -> Option<Output> {
        self.outputs.pop_front()
    }

    /// Returns when [`handle_timeout`](Self::handle_timeout) is to be called, in [`Time::ms`].
    #[must_use]
    pub fn poll_timeout(&self) -> Option<u64> {
        self.timers.first().map(|(at, _)| *at)
    }

    /// Does what is due.
    pub fn handle_timeout(&mut self, now: Time) {
        self.now = now;
        while let Some((at, timer)) = self.timers.first().cloned() {
            if at > now.ms {
                break;
            }
            self.timers.remove(&(at, timer.clone()));
            match timer {
                Timer::Open(instance) => self.open_is_due(&instance),
                Timer::Raise(id) => self.raise_is_late(id),
                Timer::Results => self.results_are_late(),
                Timer::Pending(id) => self.pending_is_late(id),
                Timer::Bridge(id) => self.bridge_is_late(&id),
                Timer::Close(instance) => self.close_failed(&instance),
                Timer::Return(instance) => self.forget(&instance),
                Timer::State(channel, kind) => self.state_without_event(&channel, &kind),
                Timer::Heartbeat => {
                    self.heartbeats();
                    self.forget_channels();
                    self.timer(self.settings.limits.heartbeat_ms, Timer::Heartbeat);
                }
            }
        }
    }

    /// Takes an event of one of the agent's sessions.
    pub fn event(&mut self, session: SessionId, event: Event, now: Time) {
        self.now = now;
        if session == self.desk.session {
            self.desk_event(event);
        } else if let Some(instance) = self.sessions.get(&session).cloned() {
            self.app_event(&instance, event);
        }
    }

    /// Replaces the directory of this node's apps.
    pub fn set_directory(&mut self, directory: Arc<Directory>, now: Time) {
        self.now = now;
        self.directory = directory;
        self.publish_directory();
        self.outputs.push_back(Output::Changed);
    }

    /// Returns whether nobody would miss this agent: no app is here or may come back, nothing is under way,
    /// and no io.Connect app here has something to tell the FDC3 apps of another node. What was said on
    /// channels is the node's, and there again for the next agent.
    #[must_use]
    pub fn is_idle(&self) -> bool {
        let tells = self.peers.any() && self.peers.servers.values().any(|server| server.node.is_none());
        let has_private = self.channels.by_id.values().any(|channel| channel.private().is_some());
        self.apps.is_empty()
            && self.openings.is_empty()
            && self.raises.is_empty()
            && self.owed.is_empty()
            && self.pending.is_empty()
            && !has_private
            && !tells
            && !self.bridge.is_on()
    }

    fn stamp(&mut self) -> Stamp {
        Stamp { uuid: self.ids.uuid(), wall_ms: self.now.wall_ms }
    }

    fn timer(&mut self, after_ms: u64, timer: Timer) {
        self.timers.insert((self.now.ms + after_ms, timer));
    }

    fn no_timer(&mut self, timer: &Timer) {
        self.timers.retain(|(_, other)| other != timer);
    }

    /// Hands a command to the node, as a session that has a request in it.
    fn ask(&mut self, session: SessionId, pending: Pending, command: impl FnOnce(Request) -> Command) -> u64 {
        let id = self.next_request;
        self.next_request += 1;
        self.pending.insert(id, (session, pending));
        let request = Request { id: Json::assembled(id.to_string().into_bytes()), face: 0 };
        self.outputs.push_back(Output::Command(session, command(request)));
        id
    }

    fn ask_desk(&mut self, pending: Pending, command: impl FnOnce(Request) -> Command) -> u64 {
        self.ask(self.desk.session, pending, command)
    }

    fn pending(&mut self, request: &Request) -> Option<(u64, Pending)> {
        let id = std::str::from_utf8(request.id.as_bytes()).ok()?.parse().ok()?;
        let (_, pending) = self.pending.remove(&id)?;
        self.no_timer_of_pending(id, &pending);
        Some((id, pending))
    }

    fn no_timer_of_pending(&mut self, id: u64, pending: &Pending) {
        if matches!(pending, Pending::Ask(_) | Pending::Batch(_)) {
            self.no_timer(&Timer::Pending(id));
        }
    }

    fn join(&mut self, session: SessionId, area: Area) {
        self.ask(session, Pending::Nothing, |request| Command::Join { request, area, restrictions: None });
    }

    /// Sends a frame to an app, if it is connected.
    fn send(&mut self, instance: &Text, frame: Bytes) {
        if let Some(connection) = self.apps.get(instance).and_then(|app| app.connection) {
            self.outputs.push_back(Output::Frame(connection, frame));
        }
    }

    fn send_event(&mut self, instance: &Text, name: &str, payload: &Json) {
        let Some(connection) = self.apps.get(instance).and_then(|app| app.connection) else { return };
        let stamp = self.stamp();
        let frame = proto_dacp::event(name, payload, &stamp);
        self.outputs.push_back(match name {
            "broadcastEvent" => Output::Data(connection, frame),
            _ => Output::Frame(connection, frame),
        });
    }

    fn answer(&mut self, asker: &Asker, answer: Result<Json, Fault>) {
        if bridge::is_foreign(&asker.instance) {
            return self.answer_bridge(asker, answer);
        }
        let stamp = self.stamp();
        let frame = match answer {
            Ok(payload) => proto_dacp::response(&asker.name, &asker.uuid, &payload, &stamp),
            Err(fault) => proto_dacp::refusal(&asker.name, &asker.uuid, fault, &stamp),
        };
        self.send(&asker.instance, frame);
    }

    fn answer_done(&mut self, asker: &Asker) {
        self.answer(asker, Ok(empty()));
    }
}

/// Returns whether an identity is that of an agent's desk.
#[must_use]
pub fn is_desk(identity: &Json) -> bool {
    // Looked for before the identity is read, as nearly all are others.
    memchr::memmem::find(identity.as_bytes(), b"\"desk\":true").is_some()
        && identity.member("fdc3").is_some_and(|fdc3| fdc3.member("desk").is_some())
}

fn empty() -> Json {
    Json::from_static("{}")
}

/// Writes an `AppIdentifier`.
fn app_identifier(app_id: &str, instance: Option<&str>, node: Option<&str>) -> Json {
    Object::new()
        .text("appId", app_id)
        .some_text("instanceId", instance)
        .some_text("desktopAgent", node)
        .end()
}
