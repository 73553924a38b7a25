//! Agents on real nodes, in one thread: what an agent asks of its node is done at once, and links carry
//! everything at once unless they are cut.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;

use bytes::Bytes;
use fdc3_directory::Directory;
use mesh_core::visibility::Visibility;
use mesh_core::{Input, Node, NodeSettings, Output as NodeOutput, Timing};
use mesh_model::{
    DomainId, Incarnation, Json, Lane, LinkId, LinkMessage, LinkPeer, NodeId, Now, SessionId, Text, Tick,
};
use proto_dacp::{Hello, Object, decode_hello};

use super::*;

const DIRECTORY: &str = r#"[
    {"appId":"one","title":"One","type":"web","details":{"url":"http://app.example/one"}},
    {"appId":"two","title":"Two","type":"web","details":{"url":"http://app.example/two"},
     "interop":{"intents":{"listensFor":{"Do":{"contexts":["x.y"]}}}}}
]"#;

/// An app: the node it is at, and its connection.
type Handle = (usize, u64);

struct World {
    nodes: Vec<Node>,
    agents: Vec<Agent>,
    frames: BTreeMap<Handle, VecDeque<Json>>,
    launched: Vec<(usize, Text, Text)>,
    limits: Vec<String>,
    closing: Vec<Text>,
    links: VecDeque<(usize, LinkId, Lane, LinkMessage)>,
    cut: bool,
    /// The latest link between the two nodes.
    link: LinkId,
    now: Time,
    next: u64,
}

impl World {
    fn new(count: usize) -> Self {
        Self::of_life(count, 1)
    }

    fn of_life(count: usize, life: u8) -> Self {
        Self::limited(count, life, mesh_model::Limits::default())
    }

    fn limited(count: usize, life: u8, limits: mesh_model::Limits) -> Self {
        let mut world = Self {
            nodes: Vec::new(),
            agents: Vec::new(),
            frames: BTreeMap::new(),
            launched: Vec::new(),
            limits: Vec::new(),
            closing: Vec::new(),
            links: VecDeque::new(),
            cut: false,
            link: LinkId(0),
            now: Time { ms: 1_000, wall_ms: 1_700_000_000_000 },
            next: 100,
        };
        for number in 0..count {
            let settings = NodeSettings { limits: limits.clone(), ..node_settings(number) };
            world.nodes.push(Node::new(settings, world.clock()));
            world.agents.push(agent(number, life, world.now));
        }
        if count == 2 {
            world.heal();
        }
        world.settle();
        world
    }

    fn clock(&self) -> Now {
        Now { tick: Tick(self.now.ms * 1_000), wall_ms: self.now.wall_ms }
    }

    fn heal(&mut self) {
        self.cut = false;
        self.link = LinkId(self.link.0 + 1);
        for (at, other) in [(0, 1), (1, 0)] {
            let peer = LinkPeer { node: NodeId([other as u8 + 1; 16]), dialled: at == 0 };
            let input = Input::LinkOpened { link: self.link, peer };
            let now = self.clock();
            self.nodes[at].handle(input, now);
        }
        self.settle();
    }

    fn cut(&mut self) {
        self.cut = true;
        let (link, now) = (self.link, self.clock());
        for node in &mut self.nodes {
            node.handle(Input::LinkClosed { link, reason: "cut".into() }, now);
        }
        self.settle();
    }

    /// Connects an app that raises intents, and at `there` one that listens for `Do`. Returns them, and what the
    /// first says to raise that at the second.
    fn raiser_and_handler(&mut self, there: usize) -> (Handle, Handle, String) {
        let (raiser, (handler, welcome)) = (self.app(0, "one").0, self.app(there, "two"));
        self.send(handler, "addIntentListener", r#"{"intent":"Do"}"#);
        let instance = text(&welcome, "instanceId").unwrap();
        let app = format!(r#"{{"appId":"two","instanceId":"{instance}"}}"#);
        (raiser, handler, format!(r#"{{"intent":"Do","context":{CONTEXT},"app":{app}}}"#))
    }

    /// Lets time pass.
    fn pass(&mut self, ms: u64) {
        for _ in 0..ms / 100 {
            self.now.ms += 100;
            self.now.wall_ms += 100;
            let (clock, now) = (self.clock(), self.now);
            for (node, agent) in self.nodes.iter_mut().zip(&mut self.agents) {
                node.handle_timeout(clock);
                agent.handle_timeout(now);
            }
            self.settle();
        }
    }

    /// Passes everything on until nobody has anything to say.
    fn settle(&mut self) {
        loop {
            let mut quiet = true;
            for at in 0..self.nodes.len() {
                while let Some(output) = self.agents[at].poll_output() {
                    quiet = false;
                    let clock = self.clock();
                    match output {
                        Output::Frame(connection, frame) | Output::Data(connection, frame) => {
                            let frame = Json::parse(frame).unwrap();
                            self.frames.entry((at, connection.0)).or_default().push_back(frame);
                        }
                        Output::Refuse(connection, refused) => {
                            let frame = Json::parse(refused.frame).unwrap();
                            self.frames.entry((at, connection.0)).or_default().push_back(frame);
                        }
                        Output::Command(session, command) => {
                            self.nodes[at].handle(Input::Session { session, command }, clock);
                        }
                        Output::CloseSession(session) => {
                            self.nodes[at].handle(Input::SessionClosed { session, heard: None }, clock);
                        }
                        Output::CloseApp(instance) => self.closing.push(instance),
                        Output::LimitReached(why) => self.limits.push(why),
                        Output::Launch { instance, secret, .. } => self.launched.push((at, instance, secret)),
                        _ => {}
                    }
                }
                while let Some(output) = self.nodes[at].poll_output() {
                    quiet = false;
                    match output {
                        NodeOutput::Event { session, event } => {
                            self.agents[at].event(session, event, self.now);
                        }
                        NodeOutput::Link { link, lane, message } if !self.cut => {
                            self.links.push_back((1 - at, link, lane, message));
                        }
                        _ => {}
                    }
                }
            }
            while let Some((at, link, lane, message)) = self.links.pop_front() {
                quiet = false;
                let clock = self.clock();
                self.nodes[at].handle(Input::Link { link, lane, message }, clock);
            }
            if quiet {
                return;
            }
        }
    }

    fn hello(&mut self, at: usize, hello: &Hello) -> Result<Handle, String> {
        self.next += 1;
        let (connection, now) = (ConnectionId(self.next), self.now);
        let session = SessionId(self.next);
        let connected = self.agents[at].connect(connection, session, hello, &Admission::default(), now);
        self.settle();
        connected.map(|()| (at, self.next)).map_err(|refused| refused.why)
    }

    /// Connects an app, and returns it and its welcome.
    fn app(&mut self, at: usize, name: &str) -> (Handle, Json) {
        let hello = identity(&format!("http://app.example/{name}"), None);
        let app = self.hello(at, &hello).unwrap();
        let welcome = self.take(app).member("payload").unwrap();
        (app, welcome)
    }

    /// Ends an agent, and starts another for the same user.
    fn replace_agent(&mut self, at: usize) {
        let clock = self.clock();
        let session = self.agents[at].desk.session;
        self.nodes[at].handle(Input::SessionClosed { session, heard: None }, clock);
        self.settle();
        self.agents[at] = agent(at, 1, self.now);
        self.settle();
    }

    fn gone(&mut self, app: Handle) {
        let now = self.now;
        self.agents[app.0].disconnected(ConnectionId(app.1), now);
        self.settle();
    }

    fn take(&mut self, app: Handle) -> Json {
        self.frames.get_mut(&app).and_then(VecDeque::pop_front).expect("a frame")
    }

    /// Returns the types of all that an app was sent.
    fn story(&mut self, app: Handle) -> Vec<String> {
        let frames = self.frames.remove(&app).unwrap_or_default();
        frames.iter().map(|frame| frame.member("type").unwrap().as_text().unwrap().to_string()).collect()
    }

    fn send(&mut self, app: Handle, name: &str, payload: &str) {
        let text =
            format!(r#"{{"type":"{name}Request","payload":{payload},"meta":{{"requestUuid":"{name}"}}}}"#);
        let now = self.now;
        self.agents[app.0].frame(ConnectionId(app.1), &Bytes::from(text), now).unwrap();
        self.settle();
    }

    /// Asks for something, and returns the payload of the answer; what else came is forgotten.
    fn ask(&mut self, app: Handle, name: &str, payload: &str) -> Json {
        self.frames.remove(&app);
        self.send(app, name, payload);
        self.payload(app, &format!("{name}Response")).expect("an answer")
    }

    fn payload(&mut self, app: Handle, kind: &str) -> Option<Json> {
        let frames = self.frames.remove(&app).unwrap_or_default();
        let found = frames.iter().find(|frame| text(frame, "type").as_deref() == Some(kind));
        found.and_then(|frame| frame.member("payload"))
    }
}

fn text(of: &Json, name: &str) -> Option<Text> {
    of.member(name)?.as_text()
}

fn error(payload: &Json) -> Option<String> {
    text(payload, "error").map(|word| word.to_string())
}

fn identity(url: &str, claim: Option<(&str, &str)>) -> Hello {
    let payload = Object::new().text("identityUrl", url);
    let payload = match claim {
        Some((instance, secret)) => payload.text("instanceId", instance).text("instanceUuid", secret),
        None => payload,
    };
    let frame = Object::new().text("type", "WCP4ValidateAppIdentity").json("payload", &payload.end()).end();
    decode_hello(frame.as_bytes(), JsonLimits::WIDEST).unwrap()
}

fn agent(number: usize, life: u8, now: Time) -> Agent {
    agent_of("ann", number, life, now)
}

fn agent_of(user: &str, number: usize, life: u8, now: Time) -> Agent {
    let settings = Settings {
        node: format!("desk-{number}").into(),
        user: user.into(),
        version: "0".into(),
        secret: [number as u8 * 10 + life; 32],
        instance_key: [9; 32],
        json: JsonLimits::WIDEST,
        limits: Limits::default(),
    };
    let mut directory = Directory::default();
    directory.replace("test", fdc3_directory::parse(DIRECTORY.as_bytes()).unwrap().records);
    Agent::new(settings, SessionId(1), Arc::new(directory), now)
}

const CONTEXT: &str = r#"{"type":"x.y","n":1.0}"#;

fn broadcast(channel: &str) -> String {
    format!(r#"{{"channelId":"{channel}","context":{CONTEXT}}}"#)
}

#[test]
fn a_broadcast_is_heard_by_others_here_and_there_and_is_state_for_who_comes_later() {
    let mut world = World::new(2);
    let apps = [world.app(0, "one").0, world.app(0, "two").0, world.app(1, "two").0];
    for app in apps {
        world.send(app, "joinUserChannel", r#"{"channelId":"fdc3.channel.1"}"#);
        world.send(app, "addContextListener", r#"{"channelId":null,"contextType":"x.y"}"#);
        world.story(app);
    }
    world.send(apps[0], "broadcast", &broadcast("fdc3.channel.1"));
    assert_eq!(world.story(apps[0]), ["broadcastResponse"], "no echo");
    for app in &apps[1..] {
        let heard = world.payload(*app, "broadcastEvent").unwrap();
        assert_eq!(heard.member("context").unwrap().to_string(), CONTEXT);
    }
    // It is not told again as state.
    world.pass(3_000);
    assert_eq!(world.story(apps[2]), [""; 0]);
    let now = world.ask(apps[2], "getCurrentContext", r#"{"channelId":"fdc3.channel.1"}"#);
    assert_eq!(now.member("context").unwrap().to_string(), CONTEXT);
}

#[test]
fn what_was_broadcast_while_nodes_were_apart_is_told_once_as_state() {
    let mut world = World::new(2);
    let (one, two) = (world.app(0, "one").0, world.app(1, "two").0);
    for app in [one, two] {
        world.send(app, "getOrCreateChannel", r#"{"channelId":"news"}"#);
    }
    world.send(two, "addContextListener", r#"{"channelId":"news","contextType":null}"#);
    world.cut();
    for _ in 0..3 {
        world.send(one, "broadcast", &broadcast("news"));
        world.pass(1_000);
    }
    world.story(two);
    world.heal();
    world.pass(3_000);
    assert_eq!(world.story(two), ["broadcastEvent"]);
}

#[test]
fn broadcasts_on_a_channel_with_a_long_id_reach_other_nodes_one_by_one() {
    let mut world = World::new(2);
    let (one, two) = (world.app(0, "one").0, world.app(1, "two").0);
    let id = "n".repeat(1_024);
    for app in [one, two] {
        let made = world.ask(app, "getOrCreateChannel", &format!(r#"{{"channelId":"{id}"}}"#));
        assert_eq!(error(&made), None);
    }
    world.send(two, "addContextListener", &format!(r#"{{"channelId":"{id}","contextType":null}}"#));
    world.story(two);
    for _ in 0..3 {
        world.send(one, "broadcast", &broadcast(&id));
    }
    assert_eq!(world.story(two), ["broadcastEvent"; 3]);
    let longer = world.ask(one, "getOrCreateChannel", &format!(r#"{{"channelId":"{id}n"}}"#));
    assert_eq!(error(&longer).as_deref(), Some("CreationFailed"));
}

#[test]
fn after_a_cut_who_listens_to_all_hears_nothing_older_than_what_it_has_heard() {
    let mut world = World::new(2);
    let speakers = [0, 1].map(|at| world.app(at, "one").0);
    let listeners =
        [0, 1].map(|at| [None, Some("x.0"), Some("x.1")].map(|kind| (world.app(at, "two").0, kind)));
    for (app, kind) in listeners.as_flattened() {
        let kind = kind.map_or_else(|| "null".to_owned(), |kind| format!("\"{kind}\""));
        world.send(*app, "getOrCreateChannel", r#"{"channelId":"news"}"#);
        world.send(*app, "addContextListener", &format!(r#"{{"channelId":"news","contextType":{kind}}}"#));
    }
    world.cut();
    for (side, speaker) in speakers.into_iter().enumerate() {
        world.send(speaker, "getOrCreateChannel", r#"{"channelId":"news"}"#);
        let context = format!(r#"{{"channelId":"news","context":{{"type":"x.{side}"}}}}"#);
        world.send(speaker, "broadcast", &context);
        world.pass(100);
    }
    for (app, _) in listeners.as_flattened() {
        world.story(*app);
    }
    world.heal();
    world.pass(3_000);
    let heard = listeners.map(|apps| apps.map(|(app, _)| world.story(app).len()));
    // All, x.0, x.1: at node 0, and at node 1, where x.1 was said later.
    assert_eq!(heard, [[1, 0, 1], [0, 1, 0]]);
}

#[test]
fn who_makes_too_many_channels_is_refused_and_the_limit_is_named() {
    // The desk is subscribed to the eight user channels.
    let limits = mesh_model::Limits { contexts_per_session_max: 10, ..mesh_model::Limits::default() };
    let mut world = World::limited(1, 1, limits);
    let app = world.app(0, "one").0;
    let make = |world: &mut World, id: &str| {
        error(&world.ask(app, "getOrCreateChannel", &format!(r#"{{"channelId":"{id}"}}"#)))
    };
    let made = (0..20).take_while(|number| make(&mut world, &format!("c{number}")).is_none()).count();
    assert!(made < 20, "no limit");
    assert!(world.limits[0].contains("limit contexts_per_session_max (10) is reached"), "{:?}", world.limits);
    world.agents[0].settings.limits.channels_max = world.agents[0].channels.by_id.len();
    assert_eq!(make(&mut world, "more").as_deref(), Some("CreationFailed"));
    let private = world.ask(app, "createPrivateChannel", "{}");
    assert_eq!(error(&private).as_deref(), Some("CreationFailed"));
    for why in &world.limits[1..] {
        assert!(why.contains("limit fdc3 channels_max"), "{why}");
    }
    assert_eq!(world.limits.len(), 3);
}

#[test]
fn an_app_channel_that_nobody_uses_is_forgotten_and_what_is_on_it_is_not() {
    // The desk is subscribed to the eight user channels, and to the directory of the other node.
    let limits = mesh_model::Limits { contexts_per_session_max: 14, ..mesh_model::Limits::default() };
    let mut world = World::limited(2, 1, limits);
    world.agents[0].settings.limits.unused_ms = 60_000;
    let (app, far) = (world.app(0, "one").0, world.app(1, "one").0);
    let of = |id: &str| format!(r#"{{"channelId":"{id}","contextType":null}}"#);
    let make = |world: &mut World, app, id: &str| {
        error(&world.ask(app, "getOrCreateChannel", &format!(r#"{{"channelId":"{id}"}}"#))).is_none()
    };
    assert!(make(&mut world, app, "spoken") && make(&mut world, app, "heard"));
    world.ask(app, "broadcast", &broadcast("spoken"));
    world.ask(app, "addContextListener", &of("heard"));
    let is_full = |world: &mut World| !(0..6).all(|number| make(world, app, &format!("c{number}")));
    assert!(is_full(&mut world));
    let known = |world: &World, id: &str| world.agents[0].channels.by_id.contains_key(id.as_bytes());
    assert!(known(&world, "spoken"));
    world.pass(95_000);
    assert!(!known(&world, "spoken") && known(&world, "heard"));
    // There is room again.
    assert!(make(&mut world, app, "another"));
    // The app has it still, and so have the others.
    world.story(app);
    let current = world.ask(app, "getCurrentContext", &of("spoken"));
    assert_eq!(current.member("context").unwrap().to_string(), CONTEXT);
    assert!(make(&mut world, far, "spoken") && make(&mut world, far, "heard"));
    world.ask(app, "addContextListener", &of("spoken"));
    for id in ["spoken", "heard"] {
        world.story(app);
        world.ask(far, "broadcast", &broadcast(id));
        assert_eq!(world.story(app), ["broadcastEvent"], "{id}");
    }
    // A name that nobody has used is no channel.
    let nobody = world.ask(app, "getCurrentContext", &of("nobody"));
    assert_eq!(error(&nobody).as_deref(), Some("NoChannelFound"));
}

#[test]
fn a_raiser_hears_of_a_handler_that_is_gone() {
    for there in [0, 1] {
        let mut world = World::new(2);
        let (raiser, handler, raise) = world.raiser_and_handler(there);
        let resolution = world.ask(raiser, "raiseIntent", &raise);
        assert!(resolution.member("intentResolution").is_some(), "{resolution}");
        let event = world.payload(handler, "intentEvent").unwrap();
        assert_eq!(event.member("context").unwrap().to_string(), CONTEXT);
        world.gone(handler);
        let result = world.payload(raiser, "raiseIntentResultResponse").unwrap();
        assert_eq!(error(&result).as_deref(), Some("IntentHandlerRejected"));
    }
}

#[test]
fn nobody_answers_for_somebody_else_or_twice() {
    let mut world = World::new(1);
    let (raiser, other) = (world.app(0, "one").0, world.app(0, "one").0);
    let (handler, welcome) = world.app(0, "two");
    world.send(handler, "addIntentListener", r#"{"intent":"Do"}"#);
    let instance = text(&welcome, "instanceId").unwrap();
    let raise =
        format!(r#"{{"intent":"Do","context":{CONTEXT},"app":{{"appId":"two","instanceId":"{instance}"}}}}"#);
    world.ask(raiser, "raiseIntent", &raise);
    let id = text(&world.payload(handler, "intentEvent").unwrap(), "raiseIntentRequestUuid").unwrap();
    let result = format!(r#"{{"raiseIntentRequestUuid":"{id}","intentResult":{{"context":{CONTEXT}}}}}"#);
    world.send(other, "intentResult", &result);
    assert_eq!(world.story(raiser), [""; 0]);
    world.send(handler, "intentResult", &result);
    world.send(handler, "intentResult", &result);
    assert_eq!(world.story(raiser), ["raiseIntentResultResponse"]);
}

#[test]
fn a_handler_that_says_that_it_has_failed_or_owes_too_much_is_not_waited_for() {
    for there in [0, 1] {
        let mut world = World::new(2);
        world.agents[there].settings.limits.results_max = 2;
        let (raiser, handler, raise) = world.raiser_and_handler(there);
        for (said, word) in
            [("no such word", "IntentHandlerRejected"), ("NoResultReturned", "NoResultReturned")]
        {
            world.ask(raiser, "raiseIntent", &raise);
            let event = world.payload(handler, "intentEvent").unwrap();
            let id = text(&event, "raiseIntentRequestUuid").unwrap();
            let failed = format!(r#"{{"raiseIntentRequestUuid":"{id}","error":"{said}"}}"#);
            world.send(handler, "intentResult", &failed);
            let result = world.payload(raiser, "raiseIntentResultResponse").unwrap();
            assert_eq!(error(&result).as_deref(), Some(word));
        }
        world.ask(raiser, "raiseIntent", &raise);
        world.ask(raiser, "raiseIntent", &raise);
        assert_eq!(world.story(raiser), [""; 0]);
        world.send(raiser, "raiseIntent", &raise);
        let result = world.payload(raiser, "raiseIntentResultResponse").unwrap();
        assert_eq!(error(&result).as_deref(), Some("ApiTimeout"), "the oldest of three");
        assert_eq!(world.agents[there].owed.len(), 2);
    }
}

#[test]
fn a_handler_that_says_nothing_is_not_waited_for_for_ever() {
    for there in [0, 1] {
        let mut world = World::new(2);
        let (raiser, handler, raise) = world.raiser_and_handler(there);
        let limit = 10_000;
        world.agents[there].settings.limits.result_ms = limit;
        world.ask(raiser, "raiseIntent", &raise);
        let event = world.payload(handler, "intentEvent").unwrap();
        let id = text(&event, "raiseIntentRequestUuid").unwrap();
        world.pass(limit / 2);
        // The other times of this one begin later.
        world.ask(raiser, "raiseIntent", &raise);
        world.pass(limit / 2 - 100);
        assert_eq!(world.story(raiser).iter().filter(|name| *name == "raiseIntentResultResponse").count(), 0);
        world.pass(100);
        let late = world.payload(raiser, "raiseIntentResultResponse").unwrap();
        assert_eq!(error(&late).as_deref(), Some("ApiTimeout"));
        assert_eq!(world.agents[there].owed.len(), 1, "the second has time left");
        let result = format!(r#"{{"raiseIntentRequestUuid":"{id}","intentResult":{{"context":{CONTEXT}}}}}"#);
        world.send(handler, "intentResult", &result);
        assert!(world.payload(raiser, "raiseIntentResultResponse").is_none(), "it came too late");
        world.pass(limit / 2);
        let late = world.payload(raiser, "raiseIntentResultResponse").unwrap();
        assert_eq!(error(&late).as_deref(), Some("ApiTimeout"));
        assert!(world.agents.iter().all(|agent| agent.owed.is_empty()));
        world.pass(limit);
        let timers = &world.agents[there].timers;
        assert!(!timers.iter().any(|(_, timer)| *timer == Timer::Results), "nothing is watched any longer");
    }
}

#[test]
fn a_private_channel_is_for_its_members() {
    let mut world = World::new(1);
    let (one, two) = (world.app(0, "one").0, world.app(0, "two").0);
    let made = world.ask(one, "createPrivateChannel", "{}");
    let id = text(&made.member("privateChannel").unwrap(), "id").unwrap();
    let of = format!(r#"{{"channelId":"{id}","contextType":null}}"#);
    for asked in ["getOrCreateChannel", "addContextListener", "getCurrentContext", "privateChannelDisconnect"]
    {
        assert_eq!(error(&world.ask(two, asked, &of)).as_deref(), Some("AccessDenied"), "{asked}");
    }
    assert_eq!(error(&world.ask(two, "broadcast", &broadcast(&id))).as_deref(), Some("AccessDenied"));
    assert_eq!(error(&world.ask(one, "broadcast", &broadcast(&id))), None);
}

#[test]
fn an_instance_is_who_knows_its_secret() {
    let mut world = World::new(1);
    let (one, welcome) = world.app(0, "one");
    let (id, secret) = (text(&welcome, "instanceId").unwrap(), text(&welcome, "instanceUuid").unwrap());
    let url = "http://app.example/one";
    let comes = |world: &mut World, secret: &str| {
        let app = world.hello(0, &identity(url, Some((&id, secret)))).unwrap();
        let welcome = world.take(app).member("payload").unwrap();
        (app, text(&welcome, "instanceId").unwrap())
    };
    // While it is there, whoever comes is a copy of its window.
    assert_ne!(comes(&mut world, &secret).1, id);
    world.gone(one);
    assert_ne!(comes(&mut world, "guessed").1, id);
    let (again, instance) = comes(&mut world, &secret);
    assert_eq!(instance, id);
    world.gone(again);
    // A later life of the node knows it too, and never under another app.
    world = World::of_life(1, 2);
    let other = world.hello(0, &identity("http://app.example/two", Some((&id, &secret)))).unwrap();
    let welcome = world.take(other).member("payload").unwrap();
    assert_ne!(text(&welcome, "instanceId").unwrap(), id);
    assert_eq!(comes(&mut world, &secret).1, id);
    assert!(world.hello(0, &identity("http://evil.example/", None)).is_err());
    // Nor to the agent of another user, which has the same key.
    let mut world = World::of_life(0, 3);
    world.nodes.push(Node::new(node_settings(0), world.clock()));
    world.agents.push(agent_of("bob", 0, 3, world.now));
    world.settle();
    assert_ne!(comes(&mut world, &secret).1, id);
}

#[test]
fn an_app_that_the_node_does_not_take_is_told_of_the_limit() {
    let limits = mesh_model::Limits { sessions_per_user_max: 2, ..mesh_model::Limits::default() };
    let mut world = World::limited(1, 1, limits);
    let (first, _) = world.app(0, "one");
    world.send(first, "open", r#"{"app":{"appId":"two"}}"#);
    let (_, instance, secret) = world.launched.pop().unwrap();
    let hello = identity("http://app.example/two", Some((&instance, &secret)));
    let late = world.hello(0, &hello).unwrap();
    let refused = world.take(late);
    assert_eq!(text(&refused, "type").as_deref(), Some("WCP5ValidateAppIdentityFailedResponse"));
    let why = text(&refused.member("payload").unwrap(), "message").unwrap();
    assert!(why.contains("limit sessions_per_user_max (2) is reached"), "{why}");
    let answer = world.payload(first, "openResponse").unwrap();
    assert_eq!(error(&answer).as_deref(), Some("ErrorOnLaunch"));
    world.gone(first);
    let second = world.hello(0, &hello).unwrap();
    assert_eq!(text(&world.take(second).member("payload").unwrap(), "instanceId"), Some(instance));
}

#[test]
fn a_desk_that_the_node_did_not_take_is_attached_when_there_is_room() {
    let limits = mesh_model::Limits { sessions_per_user_max: 2, ..mesh_model::Limits::default() };
    let mut world = World::of_life(0, 1);
    let clock = world.clock();
    let mut node = Node::new(NodeSettings { limits, ..node_settings(0) }, clock);
    let others = [SessionId(50), SessionId(51)];
    for session in others {
        let request = Request { id: Json::from_static("1"), face: 0 };
        let user = Some(Text::from("ann"));
        let identity = Json::from_static("{}");
        let command = Command::Attach { request, identity, login: user.clone(), user, service: false };
        node.handle(Input::Session { session, command }, clock);
    }
    world.nodes.push(node);
    world.agents.push(agent(0, 1, world.now));
    world.settle();
    let refused = world.hello(0, &identity("http://app.example/one", None)).unwrap();
    let frame = world.take(refused);
    assert_eq!(text(&frame, "type").as_deref(), Some("WCP5ValidateAppIdentityFailedResponse"));
    for session in others {
        world.nodes[0].handle(Input::SessionClosed { session, heard: None }, clock);
    }
    let (app, _) = world.app(0, "one");
    world.ask(app, "joinUserChannel", r#"{"channelId":"fdc3.channel.1"}"#);
    assert_eq!(error(&world.ask(app, "broadcast", &broadcast("fdc3.channel.1"))), None);
}

#[test]
fn an_app_that_never_comes_or_never_listens_is_told_apart() {
    let mut world = World::new(1);
    let one = world.app(0, "one").0;
    let open = format!(r#"{{"app":{{"appId":"two"}},"context":{CONTEXT}}}"#);
    world.send(one, "open", &open);
    world.pass(31_000);
    let answer = world.payload(one, "openResponse").unwrap();
    assert_eq!(error(&answer).as_deref(), Some("ErrorOnLaunch"));
    world.send(one, "open", &open);
    let (_, instance, secret) = world.launched.pop().unwrap();
    let two = world.hello(0, &identity("http://app.example/two", Some((&instance, &secret)))).unwrap();
    world.pass(16_000);
    let answer = world.payload(one, "openResponse").unwrap();
    assert_eq!(error(&answer).as_deref(), Some("AppTimeout"));
    // Too late, and not told any more.
    world.story(two);
    world.send(two, "addContextListener", r#"{"channelId":null,"contextType":null}"#);
    assert_eq!(world.story(two), ["addContextListenerResponse"]);
}

#[test]
fn who_asks_to_be_closed_is_told_when_that_fails() {
    let mut world = World::new(1);
    let (one, welcome) = world.app(0, "one");
    let instance = text(&welcome, "instanceId").unwrap();
    let refused = |world: &mut World| {
        let answer = world.payload(one, "closeResponse")?;
        Some(error(&answer).unwrap())
    };
    // Nobody is there who could.
    world.send(one, "close", "{}");
    assert_eq!((world.closing.pop(), refused(&mut world)), (Some(instance.clone()), None));
    world.agents[0].not_closed(&instance, world.now);
    world.settle();
    assert_eq!(refused(&mut world).as_deref(), Some("ErrorOnClose"));
    // Somebody is, and it is still there; one request at a time.
    world.send(one, "close", "{}");
    assert_eq!(refused(&mut world), None);
    world.pass(3_000);
    world.send(one, "close", "{}");
    assert_eq!(refused(&mut world).as_deref(), Some("ErrorOnClose"));
    assert_eq!(world.closing.len(), 1);
    world.pass(2_100);
    assert_eq!(refused(&mut world).as_deref(), Some("ErrorOnClose"));
    // It goes, and comes back: the time that it had is not that of its next request.
    world.send(one, "close", "{}");
    world.pass(4_000);
    world.gone(one);
    let proof = text(&welcome, "instanceUuid").unwrap();
    let again = world.hello(0, &identity("http://app.example/one", Some((&instance, &proof)))).unwrap();
    world.story(again);
    world.send(again, "close", "{}");
    world.pass(4_000);
    assert_eq!(world.story(again), [""; 0]);
    world.pass(1_100);
    assert_eq!(world.story(again), ["closeResponse"]);
}

#[test]
fn open_is_answered_when_its_app_listens_or_has_nothing_more_to_ask() {
    // Asks every 300 ms, so many times, and listens then or not: how long the answer takes.
    let opened_after = |questions: u64, listens: bool| {
        let mut world = World::new(1);
        let one = world.app(0, "one").0;
        world.send(one, "open", r#"{"app":{"appId":"two"}}"#);
        let (_, instance, secret) = world.launched.pop().unwrap();
        let two = world.hello(0, &identity("http://app.example/two", Some((&instance, &secret)))).unwrap();
        let connected = world.now.ms;
        for asked in 0..=questions {
            match (asked < questions, listens) {
                (true, _) => world.send(two, "getCurrentChannel", "{}"),
                (false, true) => {
                    world.send(two, "addContextListener", r#"{"channelId":null,"contextType":null}"#);
                }
                (false, false) => {}
            }
            for _ in 0..3 {
                if world.payload(one, "openResponse").is_some() {
                    return world.now.ms - connected;
                }
                world.pass(100);
            }
        }
        while world.payload(one, "openResponse").is_none() {
            world.pass(100);
        }
        world.now.ms - connected
    };
    assert_eq!(opened_after(0, false), 400);
    assert_eq!(opened_after(3, true), 900, "with the listener");
    assert_eq!(opened_after(3, false), 1_000, "400 ms after the last question");
    assert_eq!(opened_after(20, false), 2_000, "however much it asks");
}

#[test]
fn nothing_is_left_when_all_have_gone() {
    let mut world = World::new(2);
    for agent in &mut world.agents {
        agent.settings.limits.result_ms = 50_000;
    }
    let (one, (two, welcome)) = (world.app(0, "one").0, world.app(1, "two"));
    let instance = text(&welcome, "instanceId").unwrap();
    for app in [one, two] {
        world.send(app, "addContextListener", r#"{"channelId":null,"contextType":null}"#);
        world.send(app, "joinUserChannel", r#"{"channelId":"fdc3.channel.2"}"#);
        world.send(app, "createPrivateChannel", "{}");
    }
    world.send(two, "addIntentListener", r#"{"intent":"Do"}"#);
    let raise =
        format!(r#"{{"intent":"Do","context":{CONTEXT},"app":{{"appId":"two","instanceId":"{instance}"}}}}"#);
    world.send(one, "raiseIntent", &raise);
    world.send(one, "open", r#"{"app":{"appId":"two"}}"#);
    world.gone(one);
    world.gone(two);
    world.pass(60_000);
    for agent in &world.agents {
        assert!(agent.apps.is_empty() && agent.sessions.is_empty() && agent.connections.is_empty());
        assert!(agent.openings.is_empty() && agent.raises.is_empty() && agent.owed.is_empty());
        assert!(agent.pending.is_empty(), "{:?}", agent.pending);
        assert!(agent.channels.by_id.values().all(|channel| channel.private().is_none()));
        assert_eq!(agent.timers.len(), 1, "the heartbeat: {:?}", agent.timers);
    }
}

#[test]
fn an_agent_without_apps_is_idle_and_the_next_one_finds_its_channels() {
    let mut world = World::new(1);
    assert!(world.agents[0].is_idle());
    let (app, _) = world.app(0, "one");
    world.ask(app, "getOrCreateChannel", r#"{"channelId":"news"}"#);
    for channel in ["news", "fdc3.channel.1"] {
        assert_eq!(error(&world.ask(app, "broadcast", &broadcast(channel))), None);
    }
    world.gone(app);
    assert!(!world.agents[0].is_idle(), "it may come back");
    world.pass(11_000);
    assert!(world.agents[0].is_idle());
    world.replace_agent(0);
    let (app, _) = world.app(0, "one");
    world.ask(app, "getOrCreateChannel", r#"{"channelId":"news"}"#);
    for channel in ["news", "fdc3.channel.1"] {
        let now = world.ask(app, "getCurrentContext", &format!(r#"{{"channelId":"{channel}"}}"#));
        assert_eq!(now.member("context").map(|context| context.to_string()).as_deref(), Some(CONTEXT));
    }
}

#[test]
fn an_agent_stays_while_io_connect_apps_here_have_fdc3_apps_elsewhere_to_tell() {
    let mut world = World::new(2);
    let clock = world.clock();
    assert!(world.agents[0].is_idle(), "the other agent alone is no reason");
    let request = || Request { id: Json::from_static("1"), face: 0 };
    let user = Some(Text::from("ann"));
    let identity = Json::from_static("{}");
    let session = SessionId(50);
    for command in [
        Command::Attach { request: request(), identity, login: user.clone(), user, service: false },
        Command::Join { request: request(), area: Area::Interop, restrictions: None },
    ] {
        world.nodes[0].handle(Input::Session { session, command }, clock);
    }
    world.settle();
    assert!(!world.agents[0].is_idle());
    assert!(world.agents[1].is_idle(), "that app is not its own to tell of");
    world.nodes[0].handle(Input::SessionClosed { session, heard: None }, clock);
    world.settle();
    assert!(world.agents[0].is_idle());
}

fn node_settings(number: usize) -> NodeSettings {
    NodeSettings {
        node: NodeId([number as u8 + 1; 16]),
        incarnation: Incarnation(1),
        name: format!("desk-{number}").into(),
        addresses: Vec::new(),
        domain: DomainId([7; 16]),
        id_secret: number as u128 + 1,
        visibility: Visibility::default(),
        limits: mesh_model::Limits::default(),
        timing: Timing::default(),
        relay: false,
        slow_rules: Vec::new(),
    }
}
