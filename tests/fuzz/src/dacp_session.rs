//! What FDC3 apps send to the desktop agents of one node or of two linked ones, beside an io.Connect app:
//! frames in, frames out.

mod io;
mod requests;
mod told;

use std::collections::BTreeMap;

use bytes::Bytes;
use fdc3_agent::{Admission, ConnectionId, Refused, Time};
use mesh_core::{Input, NodeSettings};
use mesh_model::limits::JsonLimits;
use mesh_model::{Area, Command, Json, Limits, SessionId, Text};

use crate::choices::Choices;
use crate::desk::{Desk, Secrets, directory, time};
use crate::mesh::{Mesh, settings};
use told::mark_of;

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
const INTENTS: [&str; 4] = ["I", "J", "F", "K"];
/// How long all that waits may wait, and a little more.
const OVER_MS: u64 = 70_000;

/// What an instance has asked, by name and id: how many answers may come, and how many results.
type Asked = BTreeMap<(String, Json), (usize, usize)>;

struct World {
    mesh: Mesh,
    desks: Vec<Desk>,
    /// Apps that were to be started at each, with what proves that they are.
    launches: Vec<Vec<(Text, Text)>>,
    /// The io.Connect app, at the first node.
    io: SessionId,
    asked: BTreeMap<Text, Asked>,
    /// What they asked over earlier connections: it may be answered, and need not.
    former: BTreeMap<Text, Asked>,
    secrets: Secrets,
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

impl World {
    fn new(nodes: usize) -> Self {
        let mut world = Self {
            mesh: Mesh::of((0..nodes).map(node).collect()),
            desks: Vec::new(),
            launches: vec![Vec::new(); nodes],
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
            let limits = fdc3_agent::Limits {
                apps_max: 12,
                listeners_max: 6,
                channels_max: 14,
                intents_max: 8,
                results_max: 3,
                peer_queue_max: 8,
                unused_ms: 20_000,
                ..fdc3_agent::Limits::default()
            };
            let directory = directory([DIRECTORY, FAR][number]);
            let now = time(&world.mesh);
            world.desks.push(Desk::new(number, limits, directory, session, CONNECTIONS, now));
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
        time(&self.mesh)
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
                let known = self.secrets.iter().nth(claim).filter(|_| choices.once_in(2));
                let claim = known.map(|(instance, secret)| (instance.clone(), secret.clone()));
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
        if let Err(Refused { frame, .. }) = of.connect(at, (id, session), &hello, &Admission::default(), now)
        {
            assert!(Json::parse(frame).is_ok());
        }
        self.pump();
    }

    /// Something becomes of an app that was to be started.
    fn launched(&mut self, desk: usize, at: usize, choices: &mut Choices<'_>) {
        let known = self.launches[desk].len();
        if known == 0 {
            return;
        }
        let (instance, secret) = self.launches[desk].remove(choices.below(known.min(256)));
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
            ("heartbeatAcknowledgementRequest" | "WCP6Goodbye" | "WSCPGoodbye", Ok(_))
        );
        if let Ok(request) = &incoming.request {
            self.note_contexts(request);
        }
        let of = self.asked.entry(instance.clone()).or_default().entry(key.clone()).or_default();
        of.0 += usize::from(!is_silent);
        of.1 += usize::from(name.starts_with("raiseIntent"));
        let waits = matches!(
            &*name,
            "openRequest" | "closeRequest" | "raiseIntentRequest" | "raiseIntentForContextRequest"
        ) || (self.desks.len() > 1
            && matches!(&*name, "broadcastRequest" | "getCurrentContextRequest"));
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
            desk.check_empty(&self.mesh.nodes[number]);
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

fn add(known: &mut Vec<Text>, id: Text) {
    if !known.contains(&id) {
        known.push(id);
    }
}
