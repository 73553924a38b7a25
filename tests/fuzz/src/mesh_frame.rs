//! What another node sends: bytes to the decoder, and messages of any content to a node.

use std::collections::BTreeMap;

use bytes::Bytes;
use mesh_core::{Input, Node, Output};
use mesh_model::link::{BatchEnd, Heard, WireEntry};
use mesh_model::trace::TraceContext;
use mesh_model::{
    Answer, Area, Arguments, CallFailure, CallId, Cause, Command, DomainId, Dot, Event, Hlc, Incarnation,
    Json, Lane, Lifetime, LinkId, LinkMessage, LinkPeer, NodeId, Now, Origin, Outcome, Request,
    SESSION_LANES, SessionId, Text, Tick, VersionVector, Words,
};

use crate::choices::Choices;
use crate::mesh::{DOMAIN, settings};

/// What one input may make a node say, at most: to its sessions and links, per message it was given.
const OUTPUTS_MAX: usize = 4_000;

struct World {
    node: Node,
    now: Now,
    /// The instances of this node's sessions, and what others may know of.
    names: Vec<Text>,
    links: BTreeMap<LinkId, u8>,
    next_link: u64,
    /// Bytes and entries given in batches.
    given: (usize, usize),
}

/// Checks that what decodes encodes to the same, and that a node bears whatever its neighbours say.
pub fn mesh_frame(data: &[u8]) {
    round_trip(&Bytes::copy_from_slice(data));
    let mut choices = Choices::new(data);
    let mut world = World::new();
    for _ in 0..48 {
        if choices.is_empty() {
            break;
        }
        world.step(&mut choices);
    }
    world.finish();
}

/// Decodes; what is accepted must come out again, and be the same when it is read once more.
fn round_trip(frame: &Bytes) -> Option<LinkMessage> {
    let message = mesh_wire::decode(frame).ok()?;
    let again = mesh_wire::encode(&message);
    assert_eq!(mesh_wire::decode(&again).as_ref(), Ok(&message));
    Some(message)
}

impl World {
    fn new() -> Self {
        let now = Now { tick: Tick(1_000_000), wall_ms: 1_700_000_000_000 };
        let node = Node::new(settings(0), now);
        let names = vec![Text::from("p-9"), Text::from("p-8")];
        let mut world = Self { node, now, names, links: BTreeMap::new(), next_link: 0, given: (0, 0) };
        for session in [1, 2] {
            let session = SessionId(session);
            let user = Some(Text::from("joe"));
            let ask = |world: &mut Self, command| world.input(Input::Session { session, command });
            let request = || Request { id: Json::from_static("1"), face: 0 };
            let identity = Json::from_static("{}");
            ask(
                &mut world,
                Command::Attach { request: request(), identity, user, login: None, service: session.0 == 2 },
            );
            ask(&mut world, Command::Join { request: request(), area: Area::Interop, restrictions: None });
            ask(&mut world, Command::Join { request: request(), area: Area::Bus, restrictions: None });
            let methods = vec![Json::from_static("{\"id\":1,\"name\":\"m\"}")];
            ask(&mut world, Command::Register { request: request(), methods });
            ask(
                &mut world,
                Command::BusSubscribe { request: request(), pattern: "t>".into(), routing_key: None },
            );
            for (name, lifetime) in [("c", Lifetime::Retained), ("d", Lifetime::RefCounted)] {
                let command = Command::CreateContext {
                    request: request(),
                    name: name.into(),
                    data: None,
                    lifetime,
                    permissions: mesh_model::Permissions::default(),
                };
                ask(&mut world, command);
            }
        }
        world.open(true, 2);
        world
    }

    fn open(&mut self, dialled: bool, peer: u8) -> LinkId {
        self.next_link += 1;
        let link = LinkId(self.next_link);
        self.links.insert(link, peer);
        self.input(Input::LinkOpened { link, peer: LinkPeer { node: NodeId([peer; 16]), dialled } });
        link
    }

    fn step(&mut self, choices: &mut Choices<'_>) {
        let kind = choices.byte();
        let count = self.links.len();
        let link = self.links.keys().nth(usize::from(kind >> 6) % count.max(1)).copied();
        match kind & 0x3f {
            0 => {
                let dialled = choices.once_in(2);
                let peer = choices.pick(&[1, 2, 3]);
                if self.links.len() < 4 {
                    self.open(dialled, peer);
                }
            }
            1 => {
                if let Some(link) = link {
                    self.links.remove(&link);
                    self.input(Input::LinkClosed { link, reason: "closed".into() });
                }
            }
            2 => self.wait_ms(u64::from(choices.byte()) * 20),
            3 => {
                let count = usize::from(choices.byte());
                let frame = Bytes::copy_from_slice(choices.bytes(count));
                if let (Some(link), Some(message)) = (link, round_trip(&frame)) {
                    self.message(link, message);
                }
            }
            4..=9 => self.ask(choices),
            10..=13 => {
                let Some(link) = link else { return };
                let peer = self.links[&link];
                self.open_well(link, peer);
            }
            _ => {
                let message = self.any_message(choices);
                let Some(link) = link else { return };
                // Only what can be written and read again is what a peer can say.
                let frame = mesh_wire::encode(&message);
                if let Some(message) = round_trip(&frame) {
                    self.message(link, message);
                }
            }
        }
    }

    /// Says what a well-behaved peer says first.
    fn open_well(&mut self, link: LinkId, peer: u8) {
        let hello = LinkMessage::Hello {
            protocol_min: 1,
            protocol_max: 1,
            incarnation: Incarnation(1),
            name: "peer".into(),
            wall_ms: 0,
            addresses: Vec::new(),
            over: 0,
        };
        let welcome = LinkMessage::Welcome {
            protocol: 1,
            incarnation: Incarnation(1),
            name: "peer".into(),
            wall_ms: 0,
            addresses: Vec::new(),
            over: 0,
        };
        // Which of them opens the link depends on who dialled; the other would close it.
        let before = self.node.peers().len();
        self.message(link, if link.0 == 1 { welcome } else { hello });
        let open = LinkMessage::DomainOpen {
            domain: DOMAIN,
            vector: VersionVector::new(),
            without_over: false,
            hash: 0,
            awaits_another: false,
        };
        self.message(link, open);
        let origin = Origin { node: NodeId([peer; 16]), incarnation: Incarnation(1) };
        let name = Text::from(format!("p-{peer}"));
        let mut key = vec![b'I'];
        key.extend_from_slice(&[peer; 16]);
        key.extend_from_slice(name.as_bytes());
        key.push(0xff);
        let entry = WireEntry {
            key: key.into(),
            dot: Dot { origin, seq: 1 },
            hlc: Hlc::from_wall_ms(self.now.wall_ms),
            value: Some(Bytes::from_static(b"=joe\xff{}")),
        };
        self.names.push(name);
        let vector = VersionVector::from([(origin, 1)]);
        let end = BatchEnd { vector, floor: VersionVector::new(), answer: false };
        self.message(
            link,
            LinkMessage::Batch { domain: DOMAIN, entries: vec![entry], end: Some(end), reset: false },
        );
        assert!(self.node.peers().len() >= before);
    }

    fn ask(&mut self, choices: &mut Choices<'_>) {
        let session = SessionId(1 + u64::from(choices.once_in(2)));
        let request = Request { id: Json::from_static("2"), face: 0 };
        let server = self.name(choices);
        let method = Json::from_static("1");
        let arguments = Arguments::default();
        let number = u64::from(choices.byte());
        let command = match choices.below(6) {
            0 => {
                let trace = Some(TraceContext { trace_id: 1, span_id: 1, sampled: true });
                Command::Call { request, server, method, arguments, trace }
            }
            1 => Command::Subscribe { request, server, method, arguments },
            2 => Command::Accept { subscription: number, branch: method },
            3 => Command::Yield { invocation: number, result: None },
            4 => Command::Push { branch: method, data: Json::null(), sequence: None, snapshot: None },
            _ => Command::BusPublish { topic: "t".into(), routing_key: None, target: None, data: method },
        };
        self.input(Input::Session { session, command });
    }

    fn message(&mut self, link: LinkId, message: LinkMessage) {
        if let LinkMessage::Batch { entries, .. } = &message {
            let size = |entry: &WireEntry| entry.key.len() + entry.value.as_ref().map_or(0, Bytes::len);
            self.given.0 += entries.iter().map(size).sum::<usize>();
            self.given.1 += entries.len();
        }
        // Any will do, as long as there are several.
        #[expect(clippy::cast_possible_truncation, reason = "a remainder of a small number")]
        let lane = Lane::Session((message.after() % u64::from(SESSION_LANES)) as u8);
        self.input(Input::Link { link, lane, message });
    }

    fn input(&mut self, input: Input) {
        self.node.handle(input, self.now);
        self.drain();
    }

    fn drain(&mut self) {
        let mut drained = Vec::new();
        let mut count = 0;
        while let Some(output) = self.node.poll_output() {
            count += 1;
            assert!(count < OUTPUTS_MAX, "one input makes more than {OUTPUTS_MAX} outputs");
            match output {
                Output::Link { link, message, .. } => {
                    drained.push(link);
                    let frame = mesh_wire::encode(&message);
                    assert_eq!(mesh_wire::decode(&frame).as_ref(), Ok(&message), "its own frame");
                }
                Output::CloseLink { link, .. } => drop(self.links.remove(&link)),
                Output::Event { event: Event::Attached { instance, .. }, .. } => self.names.push(instance),
                Output::Event { .. }
                | Output::CloseSession { .. }
                | Output::NodeSeen { .. }
                | Output::Hop(_)
                | Output::Notice(_) => {}
            }
        }
        for link in drained {
            self.node.handle(Input::LinkDrained { link }, self.now);
            while let Some(output) = self.node.poll_output() {
                if let Output::CloseLink { link, .. } = output {
                    self.links.remove(&link);
                }
            }
        }
    }

    fn wait_ms(&mut self, millis: u64) {
        self.now.tick = self.now.tick.plus_millis(millis);
        self.now.wall_ms += millis;
        self.node.handle_timeout(self.now);
        self.drain();
        assert!(self.node.poll_timeout().is_none_or(|at| at > self.now.tick), "a timer that is due stays so");
    }

    /// Checks the bounds, then lets all links and sessions go.
    fn finish(&mut self) {
        self.check_bounds();
        for link in std::mem::take(&mut self.links).into_keys() {
            self.input(Input::LinkClosed { link, reason: "over".into() });
        }
        for session in [1, 2] {
            self.input(Input::SessionClosed { session: SessionId(session), heard: None });
        }
        for _ in 0..3 {
            self.wait_ms(5_000);
        }
        let status = self.node.status();
        assert_eq!((status.sessions, status.methods, status.calls_pending), (0, 0, 0), "{status:?}");
        assert!(self.node.apps().is_empty(), "apps are shown that cannot be reached");
        let text = format!("{:?}", self.node);
        for table in [
            "sessions",
            "instances",
            "by_user",
            "invocations",
            "calls",
            "deadlines",
            "interests",
            "branches",
            "subscriptions",
            "remote_branches",
            "links",
        ] {
            assert!(text.contains(&format!(" {table}: {{}}")), "{table} is not empty: {text}");
        }
        self.check_bounds();
        let _ = (self.node.contexts(), self.node.methods(), self.node.peers());
    }

    fn check_bounds(&self) {
        // What the two applications wrote themselves.
        const OWN: (usize, usize) = (8_000, 60);
        let status = self.node.status();
        assert!(status.entry_bytes <= OWN.0 + self.given.0 + 200 * self.given.1, "{status:?}");
        assert!(status.entries <= OWN.1 + self.given.1, "{status:?}");
    }

    // --- Messages.

    fn name(&self, choices: &mut Choices<'_>) -> Text {
        self.names[choices.below(self.names.len().min(256))].clone()
    }

    fn any_message(&self, choices: &mut Choices<'_>) -> LinkMessage {
        let number = |choices: &mut Choices<'_>| match choices.byte() {
            255 => u64::MAX,
            254 => u64::MAX - 1,
            small => u64::from(small) % 24,
        };
        let id = CallId(number(choices));
        let after = match choices.below(6) {
            0 => number(choices),
            _ => 0,
        };
        let some = |choices: &mut Choices<'_>| choices.once_in(3).then(|| any_json(choices));
        match choices.below(30) {
            0 => LinkMessage::Hello {
                protocol_min: u16::from(choices.byte() % 3),
                protocol_max: u16::from(choices.byte() % 4),
                incarnation: incarnation(choices),
                name: "x".into(),
                wall_ms: number(choices),
                addresses: vec!["a:1".into()],
                over: number(choices),
            },
            1 => LinkMessage::Welcome {
                protocol: u16::from(choices.byte() % 3),
                incarnation: incarnation(choices),
                name: "".into(),
                wall_ms: number(choices),
                addresses: Vec::new(),
                over: 0,
            },
            2 => match choices.below(4) {
                0 => LinkMessage::Reject { code: u16::from(choices.byte()), text: "no".into() },
                1 => LinkMessage::Ping { count: number(choices), sent: number(choices) },
                2 => LinkMessage::Pong { count: number(choices), sent: number(choices) },
                _ => LinkMessage::Goaway { reason: "bye".into() },
            },
            3 => LinkMessage::DomainOpen {
                domain: domain(choices),
                vector: vector(choices),
                without_over: choices.once_in(8),
                hash: number(choices),
                awaits_another: choices.once_in(4),
            },
            4..=11 => {
                let entries = (0..choices.below(6)).map(|_| self.any_entry(choices)).collect();
                let end = (!choices.once_in(4)).then(|| BatchEnd {
                    vector: vector(choices),
                    floor: vector(choices),
                    answer: choices.once_in(6),
                });
                LinkMessage::Batch { domain: domain(choices), entries, end, reset: choices.once_in(6) }
            }
            12 if choices.once_in(3) => {
                LinkMessage::Have { domain: domain(choices), vector: vector(choices) }
            }
            12 => LinkMessage::Digest {
                domain: domain(choices),
                vector: vector(choices),
                hash: number(choices),
                heard: (0..choices.below(3))
                    .map(|_| Heard {
                        origin: dot(choices).origin,
                        age_ms: number(choices),
                        vector: vector(choices),
                    })
                    .collect(),
            },
            13..=15 => LinkMessage::Call {
                id,
                subscribe: choices.once_in(2),
                from: self.name(choices),
                to: self.name(choices),
                method: any_json(choices),
                arguments: Arguments {
                    positional: some(choices),
                    named: some(choices),
                    flags: some(choices),
                    context: some(choices),
                },
                millis_left: number(choices),
                after,
                trace: choices.once_in(2).then(|| TraceContext {
                    trace_id: 3,
                    span_id: number(choices),
                    sampled: true,
                }),
            },
            16 => LinkMessage::CallEnd { id, outcome: any_outcome(choices), after },
            17 => LinkMessage::SubscriptionAccepted { id, branch: number(choices) },
            18 => LinkMessage::BranchData {
                branch: number(choices),
                data: any_json(choices),
                sequence: some(choices),
                snapshot: some(choices),
                after,
            },
            19 => LinkMessage::PrivateData {
                id,
                data: any_json(choices),
                sequence: some(choices),
                snapshot: some(choices),
                after,
            },
            20 => LinkMessage::SubscriptionEnd { id, cause: any_cause(choices) },
            21 => LinkMessage::Unsubscribe { id, cause: any_cause(choices) },
            24 => LinkMessage::Accepted { id },
            25 => LinkMessage::Cancel { id },
            26 => LinkMessage::Attach { calls: calls(choices) },
            27 => LinkMessage::CallState {
                known: calls(choices),
                unseen: calls(choices),
                forgotten: calls(choices),
            },
            28 => LinkMessage::SubscriptionRoom { id },
            29 => LinkMessage::Covered { seq: number(choices) },
            _ => LinkMessage::Publish {
                user: choices.once_in(2).then(|| "joe".into()),
                service: choices.once_in(4),
                restriction: choices.once_in(4).then(|| choices.pick(&["$a == #b", "(((", "'x'"]).into()),
                topic: choices.pick(&["t", "tt", "", "t*>"]).into(),
                routing_key: choices.once_in(3).then(|| "k".into()),
                target: some(choices),
                publisher: any_json(choices),
                data: any_json(choices),
                after,
            },
        }
    }

    /// An entry that is nearly right: a key of some kind, and a value that may fit it.
    fn any_entry(&self, choices: &mut Choices<'_>) -> WireEntry {
        let kind = choices.pick(b"NIMTRCCPPPPPPPPX");
        let mut key = vec![kind];
        if b"NIMTR".contains(&kind) {
            key.extend_from_slice(&[choices.pick(&[1, 2, 2, 2, 3]); 16]);
        }
        let mut field = |bytes: &[u8]| {
            key.extend_from_slice(bytes);
            key.push(0xff);
        };
        let user: &[u8] = choices.pick(&[b"=joe", b"=joe", b"=ann", b""]);
        match kind {
            b'N' => {}
            b'I' => field(self.name(choices).as_bytes()),
            b'M' => {
                field(self.name(choices).as_bytes());
                field(any_json(choices).as_bytes());
            }
            b'T' => {
                field(user);
                field(choices.pick(&[b"t", b"*", b">"]));
            }
            _ => {
                field(user);
                field(choices.pick(&[b"c", b"d", b"e"]));
                if kind == b'P' {
                    for _ in 0..choices.below(4) {
                        let segment: &[u8] = choices.pick(&[b"a", b"b", b"0", b"", b"\xed\xa0\x80"]);
                        field(segment);
                    }
                    if choices.once_in(4) {
                        key.push(0xfe);
                    }
                }
            }
        }
        if choices.once_in(16) {
            let at = usize::from(choices.byte()) % key.len();
            key[at] = choices.byte();
        }
        let value = match choices.below(8) {
            0 | 1 => None,
            2 => Some(Bytes::from_static(b"")),
            3 => Some(Bytes::copy_from_slice(choices.bytes(3))),
            _ => Some(match kind {
                b'N' => Bytes::from_static(b"peer\xfflocalhost:1\xff"),
                b'I' => {
                    let identity = any_json(choices);
                    [user, b"\xff", identity.as_bytes()].concat().into()
                }
                b'C' => {
                    let life: &[u8] = choices.pick(&[b"r", b"o", b"c"]);
                    [life, self.name(choices).as_bytes(), b"\xffp-9\xff"].concat().into()
                }
                b'T' | b'R' => Bytes::new(),
                b'M' => Bytes::from_static(b"{\"id\":1,\"name\":\"m\"}"),
                _ => any_json(choices).as_bytes().clone(),
            }),
        };
        let hlc = match choices.byte() {
            255 => u64::MAX,
            254 => u64::MAX - 1,
            253 => 0,
            near => Hlc::from_wall_ms(self.now.wall_ms).0 + u64::from(near),
        };
        WireEntry { key: key.into(), dot: dot(choices), hlc: Hlc(hlc), value }
    }
}

fn incarnation(choices: &mut Choices<'_>) -> Incarnation {
    Incarnation(choices.pick(&[1, 1, 1, 2, 0, u64::MAX]))
}

fn origin(choices: &mut Choices<'_>) -> Origin {
    Origin { node: NodeId([choices.pick(&[2, 2, 2, 3, 1]); 16]), incarnation: incarnation(choices) }
}

fn sequence(choices: &mut Choices<'_>) -> u64 {
    match choices.byte() {
        255 => u64::MAX,
        small => u64::from(small) % 40,
    }
}

fn calls(choices: &mut Choices<'_>) -> Vec<CallId> {
    (0..choices.below(4)).map(|_| CallId(sequence(choices))).collect()
}

fn dot(choices: &mut Choices<'_>) -> Dot {
    Dot { origin: origin(choices), seq: sequence(choices) }
}

fn vector(choices: &mut Choices<'_>) -> VersionVector {
    (0..choices.below(4)).map(|_| (origin(choices), sequence(choices))).collect()
}

fn domain(choices: &mut Choices<'_>) -> DomainId {
    if choices.once_in(32) { DomainId([8; 16]) } else { DOMAIN }
}

fn any_json(choices: &mut Choices<'_>) -> Json {
    Json::from_static(choices.pick(&[
        "1",
        "1",
        "\"0\"",
        "null",
        "{}",
        "[]",
        "{\"a\":1}",
        "{\"a\":{\"b\":[1,{\"c\":null}]},\"b\":2}",
        "[1,2,3]",
        "\"\\ud800\"",
        "{\"a\":1,\"a\":2}",
        "{\"id\":1,\"name\":\"m\"}",
        "{\"a\":[[[[]]]]}",
        "false",
        "{\"\":{\"\":{}}}",
    ]))
}

fn any_words(choices: &mut Choices<'_>) -> Words {
    Words {
        uri: choices.once_in(2).then(|| any_json(choices)),
        reason: choices.once_in(2).then(|| any_json(choices)),
    }
}

fn any_outcome(choices: &mut Choices<'_>) -> Outcome {
    let text = || Text::from("what");
    Outcome::Failed(match choices.below(8) {
        0 => return Outcome::Answered(Answer::Result(None)),
        1 => return Outcome::Answered(Answer::Result(Some(any_json(choices)))),
        2 => {
            let context = choices.once_in(2).then(|| any_json(choices));
            return Outcome::Answered(Answer::Error { words: any_words(choices), context });
        }
        3 => CallFailure::NoTarget { what: text() },
        4 => CallFailure::NotDelivered { node: text() },
        5 => CallFailure::CalleeGone,
        6 => CallFailure::Deadline { millis: u64::MAX },
        _ => CallFailure::Overloaded { limit: text() },
    })
}

fn any_cause(choices: &mut Choices<'_>) -> Cause {
    match choices.below(4) {
        0 => Cause::Disconnected,
        1 => Cause::Left(any_words(choices)),
        2 => Cause::MethodRemoved,
        _ => Cause::Lost,
    }
}
