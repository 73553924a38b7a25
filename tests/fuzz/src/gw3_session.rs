//! What applications send, on one node or two linked ones: frames in, frames out.

mod requests;

use std::collections::{BTreeMap, BTreeSet};

use bytes::Bytes;
use mesh_core::Input;
use mesh_model::{Command, Event, Json, Request, SessionId, Text};
use proto_gw3::{Connection, Incoming, Login, traceparent};
use serde_json::Value;

use crate::choices::Choices;
use crate::mesh::{Mesh, Told, check_empty};
use requests::{ASKING, CONTEXTS, TEMPLATES};

const USERS: [&str; 2] = ["joe", "ann"];
/// What all values of a user's applications contain, and nothing told to the other user may.
const MARKS: [&str; 2] = ["~joe~", "~ann~"];
/// How long the longest call lives, and a little more.
const CALLS_OVER_MS: u64 = 5_000;

/// One connection of an application: all its logins are of one user.
#[derive(Default)]
struct Client {
    node: usize,
    user: usize,
    connection: Connection,
    /// Its sessions, each with its peer id once it has one.
    sessions: BTreeMap<SessionId, Option<Text>>,
    open: bool,
}

/// What may still be told to a request.
#[derive(Debug, Default)]
struct Open {
    /// Answers that must come.
    due: usize,
    /// Answers that may come: only a refusal is told.
    possible: usize,
    /// Of those due, the ones that wait for an application.
    waiting: usize,
    /// Of those that wait, the ones that wait for the session itself.
    own: usize,
}

/// Ids that were given out, and to whom they mean something: a user, a node.
type Ids = Vec<(usize, String)>;

/// What a session was told of that it may answer or end, the last ones only.
#[derive(Default)]
struct Numbers {
    invocations: Vec<u64>,
    /// Requested of it.
    interests: Vec<u64>,
    /// Of its own, to streams and topics.
    subscriptions: Vec<u64>,
}

struct World {
    mesh: Mesh,
    clients: Vec<Client>,
    owners: BTreeMap<SessionId, usize>,
    open: BTreeMap<SessionId, BTreeMap<Json, Open>>,
    /// What frames may name: ids that nodes gave out.
    peers: Ids,
    contexts: Ids,
    /// Invocations and subscriptions, by the session that was told of them.
    numbers: BTreeMap<SessionId, Numbers>,
    next_session: u64,
    next_request: u64,
}

/// Checks that whatever applications send, each of their requests is answered once, frames are what the
/// protocol promises, users are kept apart, and nothing is left when all have gone.
pub fn gw3_session(data: &[u8]) {
    let mut choices = Choices::new(data);
    let setup = choices.byte();
    let nodes = 1 + usize::from(setup % 2);
    let mut world = World {
        mesh: Mesh::new(nodes),
        clients: Vec::new(),
        owners: BTreeMap::new(),
        open: BTreeMap::new(),
        peers: Vec::new(),
        contexts: Vec::new(),
        numbers: BTreeMap::new(),
        next_session: 0,
        next_request: 0,
    };
    for number in 0..4 {
        world.clients.push(Client {
            node: number % nodes,
            user: usize::from(number == 3),
            open: true,
            ..Client::default()
        });
        if setup & 2 == 0 && number != 2 {
            world.greet(number);
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

impl World {
    fn step(&mut self, choices: &mut Choices<'_>) {
        let kind = choices.byte();
        let client = usize::from(kind >> 6);
        match kind & 0x3f {
            0 => {
                let count = usize::from(choices.byte());
                let frame = Bytes::copy_from_slice(choices.bytes(count));
                let other = MARKS[1 - self.clients[client].user];
                if !contains(&frame, other) {
                    self.frame(client, &frame);
                }
            }
            1 => self.hang_up(client),
            2 => self.reopen(client),
            3 => self.greet(client),
            4 => self.mesh.advance_ms(u64::from(choices.byte()) * 20),
            5 => {
                self.mesh.cut();
                self.listen();
            }
            6 => self.mesh.link(),
            7..=10 => drop(self.mesh.deliver(usize::from(choices.byte()))),
            11..=20 => self.mesh.settle(),
            21..=32 => self.respond(choices),
            kind => {
                let session = self.any_session(client, choices);
                let template = match kind {
                    33..=38 => choices.pick(&TEMPLATES[ASKING]),
                    39..=42 => choices.pick(&TEMPLATES[CONTEXTS]),
                    _ => choices.pick(&TEMPLATES),
                };
                let frame = self.structured(client, session, template, choices);
                self.frame(client, &frame.into());
            }
        }
        self.listen();
    }

    /// Logs in and joins, as client libraries do first of all.
    fn greet(&mut self, client: usize) {
        if !self.clients[client].open {
            return;
        }
        let user = self.clients[client].user;
        self.next_request += 1;
        let hello = format!(
            "{{\"type\":\"hello\",\"domain\":\"global\",\"request_id\":\"h{}\",\"identity\":{{\"application\":\"{}\"}},\"authentication\":{{\"method\":\"secret\",\"login\":\"{}\",\"secret\":\"\"}}}}",
            self.next_request, MARKS[user], USERS[user]
        );
        self.frame(client, &hello.into());
        let peer = self.clients[client].sessions.values().next_back().cloned().flatten().unwrap_or_default();
        for destination in ["agm", "bus"] {
            self.next_request += 1;
            let join = format!(
                "{{\"type\":\"join\",\"domain\":\"global\",\"destination\":\"{destination}\",\"request_id\":\"j{}\",\"peer_id\":\"{peer}\"}}",
                self.next_request
            );
            self.frame(client, &join.into());
        }
        self.next_request += 1;
        let register = format!(
            "{{\"type\":\"register\",\"domain\":\"agm\",\"methods\":[{{\"id\":\"0\",\"name\":\"{0}\"}},{{\"id\":1,\"name\":\"{0}s\",\"flags\":{{\"streaming\":true}}}}],\"request_id\":\"m{1}\",\"peer_id\":\"{peer}\"}}",
            MARKS[user], self.next_request
        );
        self.frame(client, &register.into());
    }

    fn hang_up(&mut self, client: usize) {
        let known = &mut self.clients[client];
        known.open = false;
        let node = known.node;
        for session in std::mem::take(&mut known.sessions).into_keys() {
            self.owners.remove(&session);
            self.open.remove(&session);
            self.numbers.remove(&session);
            self.mesh.input(node, Input::SessionClosed { session, heard: None });
        }
    }

    fn reopen(&mut self, client: usize) {
        let known = &mut self.clients[client];
        if !known.open {
            *known = Client { node: known.node, user: known.user, open: true, ..Client::default() };
        }
    }

    /// Does with a frame what the shell does.
    fn frame(&mut self, client: usize, frame: &Bytes) {
        if !self.clients[client].open {
            return;
        }
        let node = self.clients[client].node;
        match self.clients[client].connection.decode(frame) {
            Incoming::Command { session, command } => {
                assert!(self.clients[client].sessions.contains_key(&session), "a session of another");
                self.expect(client, session, &command);
                let command = match command {
                    Command::Call { request, server, method, arguments, trace: None } => {
                        let _ = traceparent(&arguments);
                        let trace_id = u128::from(self.next_request);
                        let trace = mesh_model::trace::TraceContext { trace_id, span_id: 1, sampled: true };
                        Command::Call { request, server, method, arguments, trace: Some(trace) }
                    }
                    other => other,
                };
                self.mesh.input(node, Input::Session { session, command });
                self.listen();
                for (id, open) in self.open.get(&session).into_iter().flatten() {
                    assert_eq!(open.due, open.waiting, "request {id} was not answered at once");
                }
            }
            Incoming::Hello { request, identity, login, .. } => self.hello(client, request, identity, &login),
            Incoming::CreateToken { session, request } => {
                let frame = self.clients[client].connection.token(session, &request, "t");
                self.check_frame(client, Some(session), &frame);
            }
            Incoming::Reply(reply) => {
                // Peer and domain are those that were given: all else is one JSON object.
                self.check_frame(client, None, &reply);
            }
            Incoming::Metrics | Incoming::Nothing => check_silent(frame),
        }
    }

    fn hello(&mut self, client: usize, request: Request, identity: Json, login: &Login) {
        let user = USERS[self.clients[client].user];
        let login = match login {
            Login::Secret { login } if *login == user => Some(login.clone()),
            Login::GatewayToken(_) => None,
            _ => {
                let frame = self.clients[client].connection.login_failed(&request, "no");
                return self.check_frame(client, None, &frame);
            }
        };
        self.next_session += 1;
        let session = SessionId(self.next_session);
        let known = &mut self.clients[client];
        known.sessions.insert(session, None);
        known.connection.will_attach(session, Some("token".into()));
        self.owners.insert(session, client);
        let command = Command::Attach { request, identity, user: Some(user.into()), login, service: false };
        self.expect(client, session, &command);
        let node = self.clients[client].node;
        self.mesh.input(node, Input::Session { session, command });
        self.listen();
    }

    /// Notes which answer a command must get.
    fn expect(&mut self, client: usize, session: SessionId, command: &Command) {
        let own = self.clients[client].sessions.get(&session).cloned().flatten();
        let (request, kind) = match command {
            Command::Yield { .. }
            | Command::Accept { .. }
            | Command::Push { .. }
            | Command::PushTo { .. }
            | Command::BusPublish { .. } => return,
            Command::Fail { request, .. } | Command::Drop { request, .. } => (request, (0, 1, 0, 0)),
            Command::Call { request, server, .. } | Command::Subscribe { request, server, .. } => {
                (request, (1, 0, 1, usize::from(Some(server) == own.as_ref())))
            }
            Command::Attach { request, .. }
            | Command::Join { request, .. }
            | Command::Leave { request, .. }
            | Command::Register { request, .. }
            | Command::Unregister { request, .. }
            | Command::Unsubscribe { request, .. }
            | Command::CreateContext { request, .. }
            | Command::SubscribeContext { request, .. }
            | Command::UnsubscribeContext { request, .. }
            | Command::UpdateContext { request, .. }
            | Command::DestroyContext { request, .. }
            | Command::BusSubscribe { request, .. }
            | Command::BusUnsubscribe { request, .. } => (request, (1, 0, 0, 0)),
        };
        let open = self.open.entry(session).or_default().entry(request.id.clone()).or_default();
        open.due += kind.0;
        open.possible += kind.1;
        open.waiting += kind.2;
        open.own += kind.3;
    }

    /// Takes what was told to sessions, as frames.
    fn listen(&mut self) {
        while let Some((node, session, told)) = self.mesh.told.pop_front() {
            let Some(client) = self.owners.get(&session).copied() else { continue };
            assert_eq!(self.clients[client].node, node);
            match told {
                Told::Closed => self.hang_up(client),
                Told::Event(event) => {
                    if let Some(request) = answers(&event) {
                        self.answered(session, request, &event);
                    }
                    let frame = self.clients[client].connection.encode(session, &event);
                    self.learn(client, session, &event);
                    self.check_frame(client, Some(session), &frame);
                }
            }
        }
    }

    fn answered(&mut self, session: SessionId, request: &Request, event: &Event) {
        let open = self.open.get_mut(&session).and_then(|open| open.get_mut(&request.id));
        let Some(open) = open else { panic!("an answer to no request: {event:?}") };
        if open.due > 0 {
            open.due -= 1;
            open.waiting = open.waiting.min(open.due);
            open.own = open.own.min(open.due);
        } else {
            assert!(open.possible > 0, "answered twice: {event:?}");
            open.possible -= 1;
        }
        if open.due + open.possible == 0 {
            self.open.get_mut(&session).map(|open| open.remove(&request.id));
        }
    }

    fn learn(&mut self, client: usize, session: SessionId, event: &Event) {
        match event {
            Event::Attached { instance, .. } => {
                self.clients[client].sessions.insert(session, Some(instance.clone()));
                remember(&mut self.peers, self.clients[client].user, instance);
            }
            Event::ContextAdded { context, .. } => {
                remember(&mut self.contexts, self.clients[client].node, context);
            }
            Event::ContextDestroyed { context, .. } => {
                self.contexts.retain(|(_, known)| **known != **context);
            }
            Event::Invoke { invocation, .. } => {
                add(&mut self.numbers.entry(session).or_default().invocations, *invocation);
            }
            Event::SubscriptionRequested { subscription, .. } => {
                add(&mut self.numbers.entry(session).or_default().interests, *subscription);
            }
            Event::Subscribed { subscription, .. } | Event::BusSubscribed { subscription, .. } => {
                add(&mut self.numbers.entry(session).or_default().subscriptions, *subscription);
            }
            _ => {}
        }
    }

    fn check_frame(&self, client: usize, session: Option<SessionId>, frame: &Bytes) {
        let text = std::str::from_utf8(frame).expect("a frame is text");
        assert!(serde_json::from_str::<serde::de::IgnoredAny>(text).is_ok(), "not one JSON value: {text}");
        let members = mesh_model::json::members(frame, mesh_model::limits::JsonLimits::WIDEST)
            .expect("one JSON object");
        let names: BTreeSet<_> = members.iter().map(|(name, _)| name).collect();
        assert_eq!(names.len(), members.len(), "a member twice: {text}");
        let member = |name: &str| {
            members.iter().find(|(key, _)| key.0 == name.as_bytes()).map(|(_, value)| value.clone())
        };
        assert!(member("type").is_some_and(|kind| kind.as_text().is_some()), "no type: {text}");
        assert!(member("domain").is_some(), "no domain: {text}");
        let known = &self.clients[client];
        if let Some(session) = session {
            let peer = known.sessions.get(&session).cloned().flatten();
            let given = member("peer_id").expect("a peer id");
            match peer {
                Some(peer) => assert_eq!(given.as_text(), Some(peer), "another's peer id: {text}"),
                None => assert!(given.is_null(), "a peer id before the login: {text}"),
            }
        }
        assert!(!contains(frame, MARKS[1 - known.user]), "told to another user: {text}");
    }

    /// All goes: applications, one by one, then what they left to stay, then time passes.
    fn finish(&mut self) {
        self.mesh.link();
        self.mesh.settle();
        self.listen();
        self.mesh.wait_ms(CALLS_OVER_MS);
        self.listen();
        let open: Vec<usize> = (0..self.clients.len()).filter(|at| self.clients[*at].open).collect();
        let with_sessions: Vec<SessionId> = self.owners.keys().copied().collect();
        if let Some((last, others)) = with_sessions.split_last() {
            for session in others {
                let Some(client) = self.owners.remove(session) else { continue };
                let node = self.clients[client].node;
                self.clients[client].sessions.remove(session);
                self.open.remove(session);
                self.mesh.input(node, Input::SessionClosed { session: *session, heard: None });
                self.mesh.settle();
                self.listen();
            }
            for (id, open) in self.open.get(last).into_iter().flatten() {
                assert!(open.due <= open.own, "request {id} was never answered: {open:?}");
            }
        }
        for client in open {
            self.hang_up(client);
        }
        self.mesh.settle();
        for user in USERS {
            self.destroy_contexts(user);
        }
        // Tombstones go level by level, and each node waits for what the other has said.
        for _ in 0..200 {
            if self.mesh.nodes.iter().all(|node| node.status().entries <= self.floor()) {
                break;
            }
            self.mesh.wait_ms(1_800);
        }
        self.mesh.check_equal();
        for node in &self.mesh.nodes {
            check_empty(node);
            let status = node.status();
            assert!(status.entries <= self.floor(), "{status:?}: {node:?}");
            assert!(status.entry_bytes <= 400 + self.floor() * 1_200, "{status:?}");
        }
    }

    /// A record per node, and the newest tombstone of contexts: of a header and of its content.
    fn floor(&self) -> usize {
        self.mesh.nodes.len() + 2
    }

    /// Destroys what is left of a user's contexts: they are there to stay.
    fn destroy_contexts(&mut self, user: &str) {
        self.mesh.told.clear();
        self.next_session += 1;
        let session = SessionId(self.next_session);
        let request = || Request { id: Json::null(), face: 0 };
        let command = Command::Attach {
            request: request(),
            identity: Json::from_static("{}"),
            user: Some(user.into()),
            login: None,
            service: false,
        };
        self.mesh.input(0, Input::Session { session, command });
        let told: Vec<_> = self.mesh.told.drain(..).collect();
        for (_, _, told) in told {
            let Told::Event(event) = told else { continue };
            if let Event::ContextAdded { context, .. } = *event {
                self.mesh.input(
                    0,
                    Input::Session {
                        session,
                        command: Command::DestroyContext { request: request(), context },
                    },
                );
            }
        }
        self.mesh.input(0, Input::SessionClosed { session, heard: None });
        self.mesh.settle();
    }
}

/// Returns the request that an event answers.
const fn answers(event: &Event) -> Option<&Request> {
    match event {
        Event::Attached { request, .. }
        | Event::Done { request, .. }
        | Event::Refused { request, .. }
        | Event::CallEnded { request, .. }
        | Event::Subscribed { request, .. }
        | Event::ContextCreated { request, .. }
        | Event::ContextSnapshot { request, .. }
        | Event::BusSubscribed { request, .. } => Some(request),
        _ => None,
    }
}

/// Checks that a frame that nothing was done for is one that clients expect no answer to.
fn check_silent(frame: &Bytes) {
    let text = String::from_utf8_lossy(frame);
    // What only the scanner can read is not looked at.
    let Ok(Value::Object(members)) = serde_json::from_str::<Value>(&text) else { return };
    let word = |name: &str| members.get(name).and_then(Value::as_str);
    let silent = match (word("domain").unwrap_or("global"), word("type").unwrap_or_default()) {
        (_, "ping") => true,
        ("agm", kind) => matches!(kind, "accepted" | "publish" | "post" | "yield"),
        ("bus", kind) => kind == "publish",
        ("metrics", kind) => matches!(kind, "define" | "publish"),
        _ => false,
    };
    assert!(silent, "a request without an answer: {text}");
}

fn remember(known: &mut Ids, of: usize, id: &Text) {
    if !known.iter().any(|(_, other)| **other == **id) {
        known.push((of, id.to_string()));
    }
}

fn add(known: &mut Vec<u64>, number: u64) {
    known.push(number);
    if known.len() > 8 {
        known.remove(0);
    }
}

fn contains(bytes: &[u8], text: &str) -> bool {
    memchr::memmem::find(bytes, text.as_bytes()).is_some()
}
