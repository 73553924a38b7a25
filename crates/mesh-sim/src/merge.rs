//! Measures what it costs a node to take another's writes into a large context.

use std::process::ExitCode;
use std::time::Instant;

use bytes::Bytes;
use mesh_core::visibility::Visibility;
use mesh_core::{Input, Node, NodeSettings, Output, Timing};
use mesh_model::{
    Command, DomainId, Event, Incarnation, Json, Lifetime, Limits, LinkId, LinkMessage, LinkPeer, NodeId,
    Now, Permissions, Request, SessionId, Text, Tick,
};

const PATHS: u64 = 10_000;
const ROUNDS: u64 = 1_000;

/// Two nodes with a link that takes no time.
struct Pair {
    nodes: [Node; 2],
    now: Now,
    context: Text,
    /// What the second node spent on batches.
    spent_ns: u64,
}

fn node(id: u8, now: Now) -> Node {
    let settings = NodeSettings {
        node: NodeId([id; 16]),
        incarnation: Incarnation(1),
        name: format!("host-{id}").into(),
        addresses: Vec::new(),
        domain: DomainId([1; 16]),
        id_secret: u128::from(id),
        visibility: Visibility::default(),
        relay: false,
        slow_rules: Vec::new(),
        limits: Limits::default(),
        timing: Timing::default(),
    };
    Node::new(settings, now)
}

fn json(text: String) -> Json {
    Json::parse(Bytes::from(text)).unwrap_or_else(|_| Json::null())
}

fn request() -> Request {
    Request { id: json("1".to_owned()), face: 0 }
}

impl Pair {
    fn new() -> Self {
        let now = Now { tick: Tick(1_000_000), wall_ms: 1_700_000_000_000 };
        let nodes = [node(1, now), node(2, now)];
        let mut pair = Self { nodes, now, context: Text::default(), spent_ns: 0 };
        for at in [1, 0] {
            let peer = LinkPeer { node: NodeId([2 - u8::from(at == 1); 16]), dialled: at == 0 };
            pair.input(at, Input::LinkOpened { link: LinkId(1), peer });
        }
        pair
    }

    fn say(&mut self, command: Command) {
        self.input(0, Input::Session { session: SessionId(1), command });
    }

    /// Gives a node an input, and the other what comes of it.
    fn input(&mut self, at: usize, input: Input) {
        let batch = at == 1 && matches!(input, Input::Link { message: LinkMessage::Batch { .. }, .. });
        #[expect(clippy::disallowed_methods, reason = "a measurement")]
        let start = Instant::now();
        self.nodes[at].handle(input, self.now);
        if batch {
            self.spent_ns += u64::try_from(start.elapsed().as_nanos()).unwrap_or(u64::MAX);
        }
        let mut sent = Vec::new();
        while let Some(output) = self.nodes[at].poll_output() {
            match output {
                Output::Link { lane, message, .. } => sent.push((lane, message)),
                Output::Event { event: Event::ContextCreated { context, .. }, .. } => self.context = context,
                _ => {}
            }
        }
        for (lane, message) in sent {
            let replicated = matches!(message, LinkMessage::Batch { .. });
            self.input(1 - at, Input::Link { link: LinkId(1), lane, message });
            if replicated {
                self.input(at, Input::LinkDrained { link: LinkId(1) });
            }
        }
    }

    /// Writes to some paths in one update; returns what the other node spent on it.
    fn update(&mut self, round: u64, ops: u64) -> u64 {
        self.spent_ns = 0;
        let command = |op: u64| {
            let path = (round * ops + op) * 7_919 % PATHS;
            format!("{{\"type\":\"set\",\"path\":\"g{}.k{}\",\"value\":{round}}}", path % 100, path / 100)
        };
        let commands: Vec<String> = (0..ops).map(command).collect();
        let delta = json(format!("{{\"commands\":[{}]}}", commands.join(",")));
        self.now.tick = Tick(self.now.tick.0 + 1_000);
        self.now.wall_ms += 1;
        self.say(Command::UpdateContext { request: request(), context: self.context.clone(), delta });
        self.spent_ns
    }
}

#[expect(clippy::print_stdout, reason = "a command-line tool")]
pub(crate) fn run() -> ExitCode {
    let mut pair = Pair::new();
    let identity = json("{\"application\":\"app\"}".to_owned());
    let user = Some(Text::from("ann"));
    pair.say(Command::Attach { request: request(), identity, user, login: None, service: false });
    let groups: Vec<String> = (0..100)
        .map(|group| {
            let keys: Vec<String> = (0..PATHS / 100).map(|key| format!("\"k{key}\":0")).collect();
            format!("\"g{group}\":{{{}}}", keys.join(","))
        })
        .collect();
    pair.say(Command::CreateContext {
        request: request(),
        name: "c".into(),
        data: Some(json(format!("{{{}}}", groups.join(",")))),
        lifetime: Lifetime::Retained,
        permissions: Permissions::default(),
    });
    let equal = |pair: &Pair| pair.nodes[0].state_hash() == pair.nodes[1].state_hash();
    // Each path is written once before it counts.
    for round in 0..PATHS / 100 {
        pair.update(round, 100);
    }
    let entries = pair.nodes[1].status().entries as u64;
    println!("{entries} entries on each of two nodes, equal: {}", equal(&pair));
    for ops in [100, 1] {
        let mut each: Vec<u64> = (0..ROUNDS).map(|round| pair.update(round, ops) / ops).collect();
        each.sort_unstable();
        let at = |share: usize| each[(each.len() - 1) * share / 100];
        println!(
            "{ops} path operations in an update, {ROUNDS} updates: p50 {} ns, p99 {} ns per operation",
            at(50),
            at(99)
        );
    }
    if equal(&pair) && entries > PATHS { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}
