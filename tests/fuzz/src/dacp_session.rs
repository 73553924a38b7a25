//! What FDC3 apps send to the desktop agents of one node or of two linked ones, beside an io.Connect app:
//! frames in, frames out.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use bytes::Bytes;
use fdc3_agent::{Admission, Agent, ConnectionId, Output, Refused, Settings, Time};
use fdc3_directory::Directory;
use mesh_core::{Input, NodeSettings};
use mesh_model::limits::JsonLimits;
use mesh_model::{Area, Arguments, Command, Event, Json, Lifetime, Limits, Permissions, Request, SessionId};
use mesh_model::{Text, Words};

use crate::choices::Choices;
use crate::mesh::{Mesh, Told, settings};

const CONNECTIONS: usize = 4;
const DIRECTORY: &str = r#"[
  {"appId":"one","title":"One","type":"web","details":{"url":"http://app.example/one"},
   "interop":{"intents":{"listensFor":{"I":{"contexts":["x.y","x"],"resultType":"x"}}}}},
  {"appId":"two","title":"Two","type":"web","details":{"url":"http://app.example/two"}},
  {"appId":"three","title":"Three","type":"native","details":{"path":"/bin/three"},
   "interop":{"intents":{"listensFor":{"J":{"contexts":["x.y"],"resultType":"channel"},"I":{"contexts":["a&b"]}}}}}
]"#;
const FAR: &str = r#"[
  {"appId":"far","title":"Far","type":"native","details":{"path":"/bin/far"},
   "interop":{"intents":{"listensFor":{"I":{"contexts":["x.y"]},"F":{"contexts":["x"]}}}}},
  {"appId":"two","title":"Two","type":"web","details":{"url":"http://app.example/two"}}
]"#;
const APPS: [&str; 8] = ["one", "two", "three", "far", "two@node1", "far@node1", "nobody", "io"];
const KINDS: [&str; 6] = ["x.y", "x.y", "x", "a&b", "a.b", ""];
const INTENTS: [&str; 4] = ["I", "J", "F", "K"];
/// How long all that waits may wait, and a little more.
const OVER_MS: u64 = 70_000;

/// A connection of an app.
#[derive(Default)]
struct Line {
    /// Its number at its agent, while it is open.
    id: Option<ConnectionId>,
    /// Which instance it is, once it was let in.
    instance: Option<Text>,
    /// The last frame from it was a broadcast that is being handled.
    broadcasts: bool,
}

/// What an instance has asked, by name and id: how many answers may come, and how many results.
type Asked = BTreeMap<(String, Json), (usize, usize)>;

struct Desk {
    agent: Agent,
    session: SessionId,
    sessions: BTreeSet<SessionId>,
    lines: Vec<Line>,
    /// Apps that were to be started, each with what proves that it is.
    launches: Vec<(Text, Text)>,
}

struct World {
    mesh: Mesh,
    desks: Vec<Desk>,
    /// The io.Connect app, at the first node.
    io: SessionId,
    asked: BTreeMap<Text, Asked>,
    /// What they asked over earlier connections: it may be answered, and need not.
    former: BTreeMap<Text, Asked>,
    /// Whose each secret is.
    secrets: BTreeMap<Text, Text>,
    /// The contexts that were sent, by the mark in them.
    sent: BTreeMap<Text, Json>,
    /// Ids that were given out.
    listeners: Vec<Text>,
    channels: Vec<Text>,
    raises: Vec<Text>,
    contexts: Vec<Text>,
    methods: Vec<(Text, Json)>,
    invocations: Vec<u64>,
    next: u64,
}

/// Checks that whatever apps send, each request is answered once and by its name, no app is told what is
/// another's, contexts arrive as they were sent, and nothing is left when all have gone.
pub fn dacp_session(data: &[u8]) {
    let mut choices = Choices::new(data);
    let setup = choices.byte();
    let mut world = World::new(1 + usize::from(setup.is_multiple_of(4)));
    if setup & 0x80 == 0 {
        for at in 0..CONNECTIONS - 1 {
            let desk = at % world.desks.len();
            world.hello(desk, at, ["one", "two", "one"][at], None);
        }
    }
    for _ in 0..32 {
        if choices.is_empty() {
            break;
        }
        world.step(&mut choices);
    }
    world.finish();
}

fn node(number: usize) -> NodeSettings {
    let known = settings(number);
    let limits = Limits {
        sessions_max: 40,
        subscriptions_per_session_max: 64,
        contexts_per_session_max: 14,
        calls_per_session_max: 8,
        call_ms_max: 60_000,
        ..known.limits.clone()
    };
    NodeSettings { limits, ..known }
}

fn directory(text: &str) -> Arc<Directory> {
    let mut directory = Directory::default();
    directory.replace("fuzz", fdc3_directory::parse(text.as_bytes()).expect("a directory").records);
    Arc::new(directory)
}

impl World {
    fn new(nodes: usize) -> Self {
        let mut world = Self {
            mesh: Mesh::of((0..nodes).map(node).collect()),
            desks: Vec::new(),
            io: SessionId(1),
            asked: BTreeMap::new(),
            former: BTreeMap::new(),
            secrets: BTreeMap::new(),
            sent: BTreeMap::new(),
            listeners: Vec::new(),
            channels: ["fdc3.channel.1", "fdc3.channel.2", "app", "___x"].map(Text::from).into(),
            raises: Vec::new(),
            contexts: Vec::new(),
            methods: Vec::new(),
            invocations: Vec::new(),
            next: 1,
        };
        for number in 0..nodes {
            let session = SessionId(world.number());
            let key = u8::try_from(number).unwrap_or(9);
            let settings = Settings {
                node: format!("node{number}").into(),
                user: "joe".into(),
                version: "1".into(),
                secret: [key; 32],
                instance_key: [key + 100; 32],
                json: JsonLimits::default(),
                limits: fdc3_agent::Limits {
                    apps_max: 12,
                    listeners_max: 6,
                    channels_max: 14,
                    intents_max: 8,
                    peer_queue_max: 8,
                    ..fdc3_agent::Limits::default()
                },
            };
            let now = world.time();
            let agent = Agent::new(settings, session, directory([DIRECTORY, FAR][number]), now);
            world.desks.push(Desk {
                agent,
                session,
                sessions: BTreeSet::from([session]),
                lines: (0..CONNECTIONS).map(|_| Line::default()).collect(),
                launches: Vec::new(),
            });
        }
        world.quiet();
        let identity = Json::from_static("{\"application\":\"io\"}");
        let user = || Some(Text::from_static("joe"));
        world.io_asks(|request| Command::Attach {
            request,
            identity,
            user: user(),
            login: user(),
            service: false,
        });
        world.io_asks(|request| Command::Join { request, area: Area::Interop, restrictions: None });
        world.quiet();
        world
    }

    fn number(&mut self) -> u64 {
        self.next += 1;
        self.next
    }

    fn time(&self) -> Time {
        Time { ms: self.mesh.now.tick.0 / 1_000, wall_ms: self.mesh.now.wall_ms }
    }

    fn step(&mut self, choices: &mut Choices<'_>) {
        let kind = choices.byte();
        let at = usize::from(kind >> 6);
        let desk = choices.below(self.desks.len());
        match kind & 0x3f {
            0 => {
                let count = usize::from(choices.byte());
                let frame = Bytes::copy_from_slice(choices.bytes(count));
                if std::str::from_utf8(&frame).is_ok() {
                    self.frame(desk, at, &frame);
                }
            }
            1 => self.hang_up(desk, at),
            2..=5 => {
                let app = choices.pick(&APPS);
                let claim = choices.below(4);
                let known: Vec<(Text, Text)> = self
                    .secrets
                    .iter()
                    .map(|(secret, instance)| (instance.clone(), secret.clone()))
                    .collect();
                let claim = known.get(claim).filter(|_| choices.once_in(2)).cloned();
                self.hello(desk, at, app, claim);
            }
            6 => {
                self.mesh.advance_ms(u64::from(choices.byte()) * 100);
                self.due();
            }
            7 => self.mesh.cut(),
            8 => self.mesh.link(),
            9 => drop(self.mesh.deliver(usize::from(choices.byte()))),
            10 => self.settle(),
            11..=14 => self.launched(desk, at, choices),
            15 => {
                let (app, now) = (choices.pick(&APPS), self.time());
                let _ = self.desks[desk].agent.launch(app, None, now);
            }
            16 => {
                let Some(instance) = self.desks[desk].lines[at].instance.clone() else { return };
                let channel = self.channels[choices.below(self.channels.len().min(256))].clone();
                let now = self.time();
                let channel = (!choices.once_in(3)).then_some(&channel);
                self.desks[desk].agent.move_to(&instance, channel, now);
            }
            17 => {
                let text = choices.pick(&[DIRECTORY, FAR, "[]"]);
                let now = self.time();
                self.desks[desk].agent.set_directory(directory(text), now);
            }
            18..=26 => self.io_step(choices),
            _ => {
                let frame = self.request(desk, at, choices);
                self.frame(desk, at, &frame.into());
            }
        }
        self.pump();
    }

    // Connections.

    fn hello(&mut self, desk: usize, at: usize, app: &str, claim: Option<(Text, Text)>) {
        let claim = claim.map_or_else(String::new, |(instance, secret)| {
            format!(",\"instanceId\":\"{instance}\",\"instanceUuid\":\"{secret}\"")
        });
        let url = format!("http://app.example/{app}");
        self.greet(desk, at, &format!(
            "{{\"type\":\"WCP4ValidateAppIdentity\",\"meta\":{{\"connectionAttemptUuid\":\"a\"}},\"payload\":{{\"identityUrl\":\"{url}\",\"actualUrl\":\"{url}\"{claim}}}}}"
        ));
    }

    /// Opens a connection, if it is not open, with this first frame.
    fn greet(&mut self, desk: usize, at: usize, frame: &str) {
        if self.desks[desk].lines[at].id.is_some() {
            return;
        }
        let hello =
            proto_dacp::decode_hello(&Bytes::copy_from_slice(frame.as_bytes()), JsonLimits::default());
        let Ok(hello) = hello else { return };
        let (id, session, now) = (ConnectionId(self.number()), SessionId(self.number()), self.time());
        let of = &mut self.desks[desk];
        of.lines[at] = Line { id: Some(id), ..Line::default() };
        match of.agent.connect(id, session, &hello, &Admission::default(), now) {
            Ok(()) => drop(of.sessions.insert(session)),
            Err(Refused { frame, .. }) => {
                assert!(Json::parse(frame).is_ok());
                of.lines[at] = Line::default();
            }
        }
        self.pump();
    }

    /// Something becomes of an app that was to be started.
    fn launched(&mut self, desk: usize, at: usize, choices: &mut Choices<'_>) {
        let known = self.desks[desk].launches.len();
        if known == 0 {
            return;
        }
        let (instance, secret) = self.desks[desk].launches.remove(choices.below(known.min(256)));
        let now = self.time();
        match choices.below(4) {
            0 => self.desks[desk].agent.launched(&instance, false, now),
            1 => self.desks[desk].agent.window_closed(&instance, now),
            2 => self.hello(desk, at, "native", Some((instance, secret))),
            _ => self.greet(
                desk,
                at,
                &format!(
                    "{{\"type\":\"WSCPApplicationConnect\",\"payload\":{{\"sharedSecret\":\"{secret}\"}}}}"
                ),
            ),
        }
    }

    fn hang_up(&mut self, desk: usize, at: usize) {
        let now = self.time();
        let line = std::mem::take(&mut self.desks[desk].lines[at]);
        self.closed(line.instance.as_ref());
        if let Some(id) = line.id {
            self.desks[desk].agent.disconnected(id, now);
        }
    }

    fn frame(&mut self, desk: usize, at: usize, frame: &Bytes) {
        let Some(id) = self.desks[desk].lines[at].id else { return };
        let Some(instance) = self.desks[desk].lines[at].instance.clone() else { return };
        let now = self.time();
        let Ok(incoming) = proto_dacp::decode(frame, JsonLimits::default()) else {
            assert!(self.desks[desk].agent.frame(id, frame, now).is_err());
            return self.hang_up(desk, at);
        };
        let name = incoming.name.to_string();
        let key = (name.clone(), incoming.request_uuid);
        let is_silent = matches!(
            (&*name, &incoming.request),
            ("closeRequest" | "heartbeatAcknowledgementRequest" | "WCP6Goodbye" | "WSCPGoodbye", Ok(_))
        );
        if let Ok(request) = &incoming.request {
            self.note_contexts(request);
        }
        let of = self.asked.entry(instance.clone()).or_default().entry(key.clone()).or_default();
        of.0 += usize::from(!is_silent);
        of.1 += usize::from(name.starts_with("raiseIntent"));
        let waits = matches!(&*name, "openRequest" | "raiseIntentRequest" | "raiseIntentForContextRequest")
            || (self.desks.len() > 1 && matches!(&*name, "broadcastRequest" | "getCurrentContextRequest"));
        self.desks[desk].lines[at].broadcasts = name == "broadcastRequest";
        assert_eq!(self.desks[desk].agent.frame(id, frame, now), Ok(()));
        self.pump();
        self.desks[desk].lines[at].broadcasts = false;
        let due = self.asked.get(&instance).and_then(|asked| asked.get(&key)).map_or(0, |of| of.0);
        let is_open = self.desks[desk].lines[at].id == Some(id);
        assert!(due == 0 || waits || !is_open, "{name} {} was not answered: {frame:?}", key.1);
    }

    fn note_contexts(&mut self, request: &proto_dacp::Request) {
        use proto_dacp::Request as R;
        let context = match request {
            R::Broadcast { context, .. }
            | R::RaiseIntent { context, .. }
            | R::RaiseIntentForContext { context, .. }
            | R::Open { context: Some(context), .. } => Some(context.clone()),
            R::IntentResult { result: Ok(result), .. } => result.member("context"),
            _ => None,
        };
        if let Some((mark, context)) = context.and_then(|context| Some((mark_of(&context)?, context))) {
            self.sent.insert(mark, context);
        }
    }

    // What comes back.

    /// Carries out what agents and nodes say, until there is no more.
    fn pump(&mut self) {
        loop {
            let mut is_quiet = true;
            for desk in 0..self.desks.len() {
                while let Some(output) = self.desks[desk].agent.poll_output() {
                    is_quiet = false;
                    self.carry_out(desk, output);
                }
            }
            while let Some((node, session, told)) = self.mesh.told.pop_front() {
                is_quiet = false;
                let Told::Event(event) = told else { panic!("a session of ours was closed") };
                let now = self.time();
                if node == 0 && session == self.io {
                    self.io_event(*event);
                } else if self.desks[node].sessions.contains(&session) {
                    self.desks[node].agent.event(session, *event, now);
                }
            }
            if is_quiet {
                return;
            }
        }
    }

    /// The same, with all that is on its way between nodes.
    fn settle(&mut self) {
        loop {
            self.pump();
            if !self.mesh.deliver(0) {
                return;
            }
        }
    }

    fn quiet(&mut self) {
        self.settle();
    }

    fn due(&mut self) {
        let now = self.time();
        for desk in &mut self.desks {
            if desk.agent.poll_timeout().is_some_and(|at| at <= now.ms) {
                desk.agent.handle_timeout(now);
            }
        }
        self.pump();
    }

    fn carry_out(&mut self, desk: usize, output: Output) {
        match output {
            Output::Frame(connection, frame) | Output::Data(connection, frame) => {
                self.told(desk, connection, frame);
            }
            Output::Close(connection, _) | Output::Refuse(connection, _) => {
                let line = self.desks[desk].lines.iter_mut().find(|line| line.id == Some(connection));
                let instance = line.and_then(|line| std::mem::take(line).instance);
                self.closed(instance.as_ref());
                let now = self.time();
                self.desks[desk].agent.disconnected(connection, now);
            }
            Output::Command(session, command) => {
                self.mesh.input(desk, Input::Session { session, command });
            }
            Output::CloseSession(session) => {
                assert!(self.desks[desk].sessions.remove(&session), "a session that is not open is closed");
                self.mesh.input(desk, Input::SessionClosed { session, heard: None });
            }
            Output::Launch { instance, secret, .. } => {
                self.secrets.insert(secret.clone(), instance.clone());
                self.desks[desk].launches.push((instance, secret));
            }
            Output::CloseWindow(_) | Output::Changed | Output::Bridge(_) => {}
        }
    }

    fn closed(&mut self, instance: Option<&Text>) {
        let Some((instance, asked)) = instance.and_then(|instance| self.asked.remove_entry(instance)) else {
            return;
        };
        let former = self.former.entry(instance).or_default();
        for (key, (answers, results)) in asked {
            let of = former.entry(key).or_default();
            *of = (of.0 + answers, of.1 + results);
        }
    }

    fn told(&mut self, desk: usize, connection: ConnectionId, frame: Bytes) {
        let text = std::str::from_utf8(&frame).expect("a frame is text");
        assert!(serde_json::from_str::<serde::de::IgnoredAny>(text).is_ok(), "not one JSON value: {text}");
        let found = self.desks[desk].lines.iter().position(|line| line.id == Some(connection));
        let at = found.unwrap_or_else(|| panic!("told to nobody: {text}"));
        let json = Json::parse(frame.clone()).expect("a frame is JSON");
        let name = json.member("type").and_then(|name| name.as_text()).expect("a type");
        let payload = json.member("payload").expect("a payload");
        let text_of = |name: &str| payload.member(name).and_then(|value| value.as_text());
        if self.desks[desk].lines[at].instance.is_none() {
            assert!(
                matches!(&*name, "WCP5ValidateAppIdentityResponse" | "WSCPDesktopAgentConnect"),
                "{text}"
            );
            let about =
                payload.member("implementationMetadata").and_then(|about| about.member("appMetadata"));
            let instance =
                about.and_then(|about| about.member("instanceId")?.as_text()).expect("an instance");
            if let Some(secret) = text_of("instanceUuid") {
                self.secrets.insert(secret, instance.clone());
            }
            self.desks[desk].lines[at].instance = Some(instance);
        }
        let me = self.desks[desk].lines[at].instance.clone().expect("set above");
        for (secret, instance) in &self.secrets {
            let is_told = memchr::memmem::find(&frame, secret.as_bytes()).is_some();
            assert!(!is_told || *instance == me, "{me} is told the secret of {instance}: {text}");
        }
        if name.ends_with("Event") {
            if &*name == "broadcastEvent" {
                assert!(
                    !self.desks[desk].lines[at].broadcasts,
                    "a broadcast came back to its sender: {text}"
                );
            }
            if let Some(raise) = text_of("raiseIntentRequestUuid") {
                add(&mut self.raises, raise);
            }
        } else if !name.starts_with("WCP5") && !name.starts_with("WSCP") {
            self.answered(&me, &name, &json, text);
        }
        for id in ["channel", "privateChannel"] {
            if let Some(id) = payload.member(id).and_then(|channel| channel.member("id")?.as_text()) {
                add(&mut self.channels, id);
            }
        }
        if let Some(listener) = text_of("listenerUUID") {
            add(&mut self.listeners, listener);
        }
        self.check_context(&payload, text);
    }

    fn answered(&mut self, me: &Text, name: &str, json: &Json, text: &str) {
        let uuid = json.member("meta").and_then(|meta| meta.member("requestUuid")).expect("a request id");
        let is_result = name == "raiseIntentResultResponse";
        let plain = name.strip_suffix("Response").unwrap_or_else(|| panic!("not an answer: {text}"));
        let names = match is_result {
            true => ["raiseIntentRequest".to_owned(), "raiseIntentForContextRequest".to_owned()],
            false => [format!("{plain}Request"), plain.to_owned()],
        };
        for asked in [&mut self.asked, &mut self.former].into_iter().filter_map(|asked| asked.get_mut(me)) {
            for name in &names {
                let Some(of) = asked.get_mut(&(name.clone(), uuid.clone())) else { continue };
                let left = if is_result { &mut of.1 } else { &mut of.0 };
                if *left > 0 {
                    *left -= 1;
                    return;
                }
            }
        }
        panic!("an answer to nothing, or a second one: {text}");
    }

    /// Checks that a context is the one that an FDC3 app has sent.
    fn check_context(&self, payload: &Json, text: &str) {
        let source = |name: &str| payload.member(name).and_then(|about| about.member("source"));
        let source = payload.member("originatingApp").or_else(|| source("metadata"));
        let source =
            source.or_else(|| payload.member("resultMetadata").and_then(|about| about.member("source")));
        let app = source.and_then(|source| source.member("appId")?.as_text());
        let context = payload
            .member("context")
            .or_else(|| payload.member("intentResult").and_then(|result| result.member("context")));
        let Some(context) = context.filter(|_| app.is_some_and(|app| *app != *"io")) else { return };
        if let Some(known) = mark_of(&context).and_then(|mark| self.sent.get(&mark)) {
            assert_eq!(context.as_bytes(), known.as_bytes(), "another context than was sent: {text}");
        }
    }

    // The io.Connect app.

    fn io_asks(&mut self, command: impl FnOnce(Request) -> Command) {
        let request = Request { id: Json::assembled(self.number().to_string().into_bytes()), face: 0 };
        self.mesh.input(0, Input::Session { session: self.io, command: command(request) });
        self.pump();
    }

    fn io_event(&mut self, event: Event) {
        match event {
            Event::ContextAdded { context, .. } | Event::ContextCreated { context, .. } => {
                add(&mut self.contexts, context);
            }
            Event::ContextDestroyed { context, .. } => self.contexts.retain(|known| *known != context),
            Event::MethodsAdded { server, methods, .. } => {
                for id in methods.iter().filter_map(|method| method.member("id")) {
                    self.methods.push((server.clone(), id));
                }
            }
            Event::MethodsRemoved { server, methods } => {
                let gone: Vec<Json> =
                    methods.iter().map(|m| m.member("id").unwrap_or_else(|| m.clone())).collect();
                self.methods.retain(|(of, id)| *of != server || !gone.contains(id));
            }
            Event::Invoke { invocation, .. } => self.invocations.push(invocation),
            _ => {}
        }
    }

    fn io_step(&mut self, choices: &mut Choices<'_>) {
        let json = |text: &str| Json::parse(Bytes::copy_from_slice(text.as_bytes())).expect("JSON");
        match choices.below(8) {
            0 => {
                let intent = choices.pick(&INTENTS);
                let id = self.number();
                let flags = choices.pick(&[
                    "{}",
                    "{\"metadata\":{\"intent\":{\"contextTypes\":[\"x.y\"]}}}",
                    "{\"metadata\":{\"intent\":7}}",
                ]);
                let method = json(&format!(
                    "{{\"id\":{id},\"name\":\"Tick42.FDC3.Intents.{intent}\",\"flags\":{flags}}}"
                ));
                self.io_asks(|request| Command::Register { request, methods: vec![method] });
            }
            1 if !self.methods.is_empty() => {
                let (server, method) = self.methods[choices.below(self.methods.len().min(256))].clone();
                let named = choices.pick(&[
                    "{\"type\":\"x.y\",\"data\":{\"v\":1}}",
                    "{\"type\":\"x.y\"}",
                    "{}",
                    "{\"op\":\"batch\",\"ops\":[{\"op\":\"result\"}]}",
                    "{\"type\":7,\"data\":[]}",
                ]);
                let arguments = Arguments { named: Some(json(named)), ..Arguments::default() };
                self.io_asks(|request| Command::Call { request, server, method, arguments, trace: None });
            }
            2 if !self.invocations.is_empty() => {
                let invocation = self.invocations.remove(choices.below(self.invocations.len().min(256)));
                let result = choices.pick(&[
                    "{}",
                    "{\"type\":\"x\",\"v\":1}",
                    "{\"v\":1}",
                    "{\"fdc3error\":\"no\"}",
                    "{\"fdc3intentChannel\":{\"id\":\"app\",\"type\":\"app\"}}",
                    "{\"fdc3intentContext\":{\"contextType\":\"x\",\"payload\":{\"v\":1}}}",
                    "{\"fdc3intentContext\":7}",
                    "[]",
                ]);
                let result = json(result);
                match choices.once_in(4) {
                    true => self.io_asks(|request| {
                        let words = Words { uri: None, reason: None };
                        Command::Fail { request, id: invocation, words, context: None }
                    }),
                    false => self.io_asks(|_| Command::Yield { invocation, result: Some(result) }),
                }
            }
            3 => {
                let name = choices.pick(&["app", "___channel___Red", "___channel___Mine", "other"]);
                let data = choices.pick(&[
                    "{\"meta\":{\"fdc3\":{\"id\":\"fdc3.channel.1\"}}}",
                    "{\"meta\":{\"fdc3\":{\"id\":\"mine\"}},\"data\":{\"fdc3_x\":{\"v\":1}}}",
                    "{}",
                    "{\"data\":7}",
                ]);
                let data = Some(json(data));
                let (lifetime, permissions) = (Lifetime::Retained, Permissions::default());
                self.io_asks(|request| Command::CreateContext {
                    request,
                    name: name.into(),
                    data,
                    lifetime,
                    permissions,
                });
            }
            4 if !self.contexts.is_empty() && choices.once_in(4) => {
                let context = self.contexts[choices.below(self.contexts.len().min(256))].clone();
                self.io_asks(|request| Command::DestroyContext { request, context });
            }
            _ if !self.contexts.is_empty() => {
                let context = self.contexts[choices.below(self.contexts.len().min(256))].clone();
                let delta = json(choices.pick(&DELTAS));
                self.io_asks(|request| Command::UpdateContext { request, context, delta });
            }
            _ => {}
        }
    }

    // Frames that look like those of a client.

    fn context(&mut self, choices: &mut Choices<'_>) -> String {
        let (number, kind) = (self.number(), choices.pick(&KINDS));
        let (mark, kind) = (format!("\"m\":\"~{number}~\""), format!("\"type\":\"{kind}\""));
        match choices.below(12) {
            0 => format!("{{{mark},{kind},\"n\":1.0}}"),
            1 => format!("{{{kind},{mark},\"s\":\"\\ud800\"}}"),
            2 => format!("{{ {kind} , {mark}, \"sp\" : [1 , 2]}}"),
            3 => format!("{{{kind},{mark},\"a\":1,\"a\":2}}"),
            4 => format!("{{{kind},{mark},{kind}}}"),
            5 => format!("{{{mark},\"\\u0074ype\":\"x\",\"b\":12345678901234567890}}"),
            6 => format!("{{{kind},{mark},\"\":null,\"a.b\":{{\"c\":[[[]]]}}}}"),
            7 => format!("{{{mark}}}"),
            8 => format!("{{{kind},{mark},\"__interopIOTracePropagationInfo\":{{\"traceparent\":\"x\"}}}}"),
            _ => format!("{{{kind},{mark}}}"),
        }
    }

    fn request(&mut self, desk: usize, at: usize, choices: &mut Choices<'_>) -> String {
        let pick = |from: &[Text], choices: &mut Choices<'_>| match from {
            [] => "null".to_owned(),
            [.., last] if choices.once_in(2) => format!("\"{last}\""),
            from => format!("\"{}\"", from[choices.below(from.len().min(256))]),
        };
        let kind = choices.pick(&["\"x.y\"", "\"x\"", "\"a&b\"", "null", "null", "7"]);
        let intent = choices.pick(&INTENTS);
        let (name, payload) = match choices.below(34) {
            0 => ("getInfo", "{}".to_owned()),
            1 => ("getUserChannels", "{}".into()),
            2 => ("getCurrentChannel", "{}".into()),
            3 => ("getAppMetadata", format!("{{\"app\":{}}}", self.app(choices))),
            4 => ("findInstances", format!("{{\"app\":{}}}", self.app(choices))),
            5 => {
                let context = self.context(choices);
                (
                    "findIntent",
                    format!("{{\"intent\":\"{intent}\",\"context\":{context},\"resultType\":{kind}}}"),
                )
            }
            6 => (
                "findIntentsByContext",
                format!("{{\"context\":{},\"resultType\":{kind}}}", self.context(choices)),
            ),
            7 | 8 => {
                let app = self.app(choices);
                let context = match choices.once_in(2) {
                    true => self.context(choices),
                    false => "null".into(),
                };
                ("open", format!("{{\"app\":{app},\"context\":{context}}}"))
            }
            9 => ("close", "{}".into()),
            10 => ("joinUserChannel", format!("{{\"channelId\":{}}}", pick(&self.channels[..2], choices))),
            11 => ("leaveCurrentChannel", "{}".into()),
            12 => {
                let long = format!("\"{}\"", "n".repeat(1_100));
                let id = match choices.below(6) {
                    0 => long,
                    1 => "\"\"".into(),
                    2 => format!("\"app{}\"", choices.below(8)),
                    _ => pick(&self.channels, choices),
                };
                ("getOrCreateChannel", format!("{{\"channelId\":{id}}}"))
            }
            13 => ("createPrivateChannel", "{}".into()),
            14..=18 => {
                let metadata = choices.pick(&["null", "{\"traceId\":\"t\",\"custom\":{\"a\":1}}", "7"]);
                let (id, context) = (pick(&self.channels, choices), self.context(choices));
                ("broadcast", format!("{{\"channelId\":{id},\"context\":{context},\"metadata\":{metadata}}}"))
            }
            19 => (
                "getCurrentContext",
                format!("{{\"channelId\":{},\"contextType\":{kind}}}", pick(&self.channels, choices)),
            ),
            20 => (
                "clearContext",
                format!("{{\"channelId\":{},\"contextType\":{kind}}}", pick(&self.channels, choices)),
            ),
            21 | 22 => {
                let id = match choices.once_in(3) {
                    true => "null".into(),
                    false => pick(&self.channels, choices),
                };
                ("addContextListener", format!("{{\"channelId\":{id},\"contextType\":{kind}}}"))
            }
            23 => ("addEventListener", "{\"type\":\"USER_CHANNEL_CHANGED\"}".into()),
            24 => (
                "privateChannelAddEventListener",
                format!("{{\"privateChannelId\":{}}}", pick(&self.channels, choices)),
            ),
            25 => {
                ("privateChannelDisconnect", format!("{{\"channelId\":{}}}", pick(&self.channels, choices)))
            }
            26 => {
                let name = choices.pick(&[
                    "contextListenerUnsubscribe",
                    "intentListenerUnsubscribe",
                    "eventListenerUnsubscribe",
                    "privateChannelUnsubscribeEventListener",
                ]);
                (name, format!("{{\"listenerUUID\":{}}}", pick(&self.listeners, choices)))
            }
            27 | 28 => {
                let types = choices.pick(&["null", "[\"x.y\"]", "[\"x\",\"x.y\"]", "[7]"]);
                ("addIntentListener", format!("{{\"intent\":\"{intent}\",\"contextTypes\":{types}}}"))
            }
            29 | 30 => {
                let app = match choices.once_in(2) {
                    true => self.app(choices),
                    false => "null".into(),
                };
                (
                    "raiseIntent",
                    format!(
                        "{{\"intent\":\"{intent}\",\"context\":{},\"app\":{app}}}",
                        self.context(choices)
                    ),
                )
            }
            31 => ("raiseIntentForContext", format!("{{\"context\":{}}}", self.context(choices))),
            32 => {
                let result = match choices.below(4) {
                    0 => "{}".into(),
                    1 => "7".into(),
                    2 => format!(
                        "{{\"channel\":{{\"id\":{},\"type\":\"private\"}}}}",
                        pick(&self.channels, choices)
                    ),
                    _ => format!("{{\"context\":{}}}", self.context(choices)),
                };
                (
                    "intentResult",
                    format!(
                        "{{\"raiseIntentRequestUuid\":{},\"intentResult\":{result}}}",
                        pick(&self.raises, choices)
                    ),
                )
            }
            _ => (choices.pick(&["nonsense", "heartbeatAcknowledgement"]), "{}".into()),
        };
        let number = self.number();
        let uuid = match choices.below(24) {
            0 => "null".into(),
            1 => "\"again\"".into(),
            2 => "{\"a\":[1]}".into(),
            _ => format!("\"q{number}\""),
        };
        let frame = format!(
            "{{\"type\":\"{name}Request\",\"payload\":{payload},\"meta\":{{\"requestUuid\":{uuid}}}}}"
        );
        let name = self.desks[desk].lines[at].instance.as_ref().map_or(0, |name| name.len());
        match choices.below(40) {
            0 => format!("{{\"type\":\"WCP6Goodbye\",\"meta\":{name}}}"),
            1 => frame.replacen("null", choices.pick(&["7", "\"\\ud800\"", "[]", "{}", "tru"]), 1),
            2 => frame.replacen('"', choices.pick(&["", "\\", "\"a\":1,\""]), 1 + choices.below(3)),
            3 => frame.replace("\"payload\"", "\"Payload\""),
            _ => frame,
        }
    }

    fn app(&self, choices: &mut Choices<'_>) -> String {
        let instances: Vec<&Text> = self
            .desks
            .iter()
            .flat_map(|desk| &desk.lines)
            .filter_map(|line| line.instance.as_ref())
            .collect();
        let id = choices.pick(&APPS);
        let instance = match (choices.below(3), instances.len()) {
            (0, _) | (_, 0) => String::new(),
            (_, count) => format!(",\"instanceId\":\"{}\"", instances[choices.below(count)]),
        };
        let agent = choices.pick(&["", "", "", ",\"desktopAgent\":\"node1\"", ",\"desktopAgent\":\"node9\""]);
        format!("{{\"appId\":\"{id}\"{instance}{agent}}}")
    }

    // The end.

    fn finish(&mut self) {
        self.mesh.link();
        self.settle();
        self.wait(OVER_MS);
        for desk in &self.desks {
            for instance in desk.lines.iter().filter_map(|line| line.instance.as_ref()) {
                for ((name, uuid), (due, _)) in self.asked.get(instance).into_iter().flatten() {
                    assert_eq!(*due, 0, "{name} {uuid} was never answered");
                }
            }
        }
        for desk in 0..self.desks.len() {
            for at in 0..CONNECTIONS {
                self.hang_up(desk, at);
                self.settle();
            }
        }
        self.mesh.input(0, Input::SessionClosed { session: self.io, heard: None });
        self.settle();
        self.wait(OVER_MS);
        for (number, desk) in self.desks.iter().enumerate() {
            let text = format!("{:?}", desk.agent);
            for table in [
                "apps",
                "connections",
                "sessions",
                "openings",
                "raises",
                "owed",
                "pending",
                "casting",
                "servers",
            ] {
                let at = text.find(&format!(" {table}: ")).expect("a table");
                let rest: String = text[at..].chars().take(600).collect();
                assert!(rest.starts_with(&format!(" {table}: {{}}")), "{table} is not empty: {rest}");
            }
            assert!(!text.contains("Private("), "a private channel is left");
            assert_eq!(text.matches("waiting: []").count(), text.matches("waiting: [").count());
            assert_eq!(desk.sessions, BTreeSet::from([desk.session]));
            let status = self.mesh.nodes[number].status();
            assert_eq!((status.sessions, status.calls_pending), (1, 0), "{status:?}");
        }
        self.mesh.check_equal();
    }

    /// Lets time pass, in steps that heartbeats of nodes survive.
    fn wait(&mut self, millis: u64) {
        for _ in 0..millis.div_ceil(900) {
            if self.desks.len() > 1 {
                self.mesh.advance_ms(900);
            }
            self.due();
            self.settle();
        }
        if self.desks.len() == 1 {
            self.mesh.advance_ms(millis);
            self.due();
        }
    }
}

const DELTAS: [&str; 14] = [
    r#"{"commands":[{"type":"set","path":"data.fdc3_x&y","value":{"v":2}},{"type":"set","path":"latest_fdc3_type","value":"x&y"}]}"#,
    r#"{"commands":[{"type":"set","path":"data.fdc3_x&y.v","value":3}]}"#,
    r#"{"commands":[{"type":"set","path":"data.fdc3_x","value":7}]}"#,
    r#"{"commands":[{"type":"remove","path":"data.fdc3_x"}]}"#,
    r#"{"commands":[{"type":"remove","path":"data"}]}"#,
    r#"{"commands":[{"type":"set","path":"data","value":[]}]}"#,
    r#"{"commands":[{"type":"remove","path":"___fdc3___"}]}"#,
    r#"{"commands":[{"type":"set","path":"___fdc3___.x&y","value":7},{"type":"set","path":"meta","value":null}]}"#,
    r#"{"commands":[{"type":"set","path":"latest_fdc3_type","value":"nothing"}]}"#,
    r#"{"reset":{"data":{"fdc3_x":{"v":1},"fdc3_a&b":{}}}}"#,
    r#"{"reset":{}}"#,
    r#"{"updated":{"data":{"fdc3_x":{"w":1}}}}"#,
    r#"{"added":{"data":{"fdc3_":{}}},"removed":["latest_fdc3_type"]}"#,
    r#"{"removed":["data","meta"]}"#,
];

fn mark_of(context: &Json) -> Option<Text> {
    context.member("m")?.as_text().filter(|mark| mark.starts_with('~'))
}

fn add(known: &mut Vec<Text>, id: Text) {
    if !known.contains(&id) {
        known.push(id);
    }
}
