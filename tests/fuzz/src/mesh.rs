//! Nodes joined by queues of encoded frames.

use std::collections::{BTreeMap, VecDeque};
use std::sync::LazyLock;

use bytes::Bytes;
use mesh_core::visibility::Visibility;
use mesh_core::{Input, Node, NodeSettings, Notice, Output, Timing};
use mesh_model::{
    DomainId, Event, Incarnation, Lane, Limits, LinkId, LinkMessage, LinkPeer, NodeId, Now, SessionId, Text,
    Tick,
};

/// The domain of all nodes here.
pub(crate) const DOMAIN: DomainId = DomainId([7; 16]);

/// The built-in rules: their patterns take long to compile.
fn visibility() -> Visibility {
    static BUILT_IN: LazyLock<Visibility> = LazyLock::new(|| Visibility::default().with_built_in());
    BUILT_IN.clone()
}

fn id_of(number: usize) -> NodeId {
    NodeId([u8::try_from(number + 1).unwrap_or(u8::MAX); 16])
}

/// Small bounds, so that inputs reach them.
pub(crate) fn settings(number: usize) -> NodeSettings {
    let node = id_of(number);
    NodeSettings {
        node,
        incarnation: Incarnation(1),
        name: Text::from(format!("node{number}")),
        addresses: Vec::new(),
        domain: DOMAIN,
        id_secret: u128::from(node.0[0]) * 0x1234_5678_9abc_def1,
        visibility: visibility(),
        relay: true,
        slow_rules: Vec::new(),
        limits: Limits {
            sessions_max: 12,
            methods_per_session_max: 8,
            subscriptions_per_session_max: 6,
            calls_per_session_max: 6,
            domain_entries_max: 500,
            domain_bytes_max: 1 << 18,
            batch_bytes_max: 1 << 20,
            held_messages_max: 16,
            call_ms_max: 4_000,
            ..Limits::default()
        },
        timing: Timing { gone_ms: 3_000, digest_ms: 1_800, tombstone_ms: 2_000, ..Timing::default() },
    }
}

/// Where a frame goes: node, link, and which of the link's ordered flows.
type Flow = (usize, LinkId, Lane);

/// What a node did to a session.
#[derive(Debug)]
pub(crate) enum Told {
    Event(Box<Event>),
    Closed,
}

pub(crate) struct Mesh {
    pub(crate) nodes: Vec<Node>,
    pub(crate) now: Now,
    ends: BTreeMap<(usize, LinkId), (usize, LinkId)>,
    flows: BTreeMap<Flow, VecDeque<(Bytes, LinkMessage)>>,
    /// What was told to sessions and not taken yet, in order.
    pub(crate) told: VecDeque<(usize, SessionId, Told)>,
    next_link: u64,
}

impl Mesh {
    pub(crate) fn new(count: usize) -> Self {
        Self::of((0..count).map(settings).collect())
    }

    /// Makes nodes whose settings differ from [`settings`] in their bounds at most.
    pub(crate) fn of(settings: Vec<NodeSettings>) -> Self {
        let now = Now { tick: Tick(1_000_000), wall_ms: 1_700_000_000_000 };
        let nodes = settings.into_iter().map(|settings| Node::new(settings, now)).collect();
        let mut mesh = Self {
            nodes,
            now,
            ends: BTreeMap::new(),
            flows: BTreeMap::new(),
            told: VecDeque::new(),
            next_link: 0,
        };
        mesh.link();
        mesh
    }

    /// Links the two nodes, if there are two and no link is there.
    pub(crate) fn link(&mut self) {
        if self.nodes.len() < 2 || !self.ends.is_empty() {
            return;
        }
        self.next_link += 2;
        let (one, two) = (LinkId(self.next_link), LinkId(self.next_link + 1));
        self.ends.insert((0, one), (1, two));
        self.ends.insert((1, two), (0, one));
        let peer = |number: usize, dialled| LinkPeer { node: id_of(number), dialled };
        self.input(1, Input::LinkOpened { link: two, peer: peer(0, false) });
        self.input(0, Input::LinkOpened { link: one, peer: peer(1, true) });
        self.settle();
    }

    /// Breaks the link; what is on its way is lost.
    pub(crate) fn cut(&mut self) {
        self.flows.clear();
        for (node, link) in std::mem::take(&mut self.ends).into_keys() {
            self.input(node, Input::LinkClosed { link, reason: "cut".into() });
        }
    }

    pub(crate) fn input(&mut self, node: usize, input: Input) {
        self.nodes[node].handle(input, self.now);
        self.drain(node);
    }

    fn drain(&mut self, node: usize) {
        let mut drained = Vec::new();
        while let Some(output) = self.nodes[node].poll_output() {
            match output {
                Output::Event { session, event } => {
                    self.told.push_back((node, session, Told::Event(Box::new(event))));
                }
                Output::CloseSession { session, .. } => self.told.push_back((node, session, Told::Closed)),
                Output::Link { link, lane, message } => {
                    if lane == Lane::Replication && !drained.contains(&link) {
                        drained.push(link);
                    }
                    let Some((to, there)) = self.ends.get(&(node, link)).copied() else { continue };
                    let frame = mesh_wire::encode(&message);
                    self.flows.entry((to, there, lane)).or_default().push_back((frame, message));
                }
                Output::CloseLink { link, .. } => {
                    if let Some((to, there)) = self.ends.remove(&(node, link)) {
                        self.ends.remove(&(to, there));
                        self.flows.retain(|(_, of, _), _| *of != link && *of != there);
                        self.nodes[to]
                            .handle(Input::LinkClosed { link: there, reason: "closed".into() }, self.now);
                        self.drain(to);
                    }
                }
                Output::Notice(Notice::Divergence { .. }) => panic!("replicas differ"),
                Output::Notice(_) | Output::NodeSeen { .. } | Output::Hop(_) => {}
            }
        }
        for link in drained {
            self.input(node, Input::LinkDrained { link });
        }
    }

    /// Delivers the first frame of one of the flows that have any; returns whether there was one.
    pub(crate) fn deliver(&mut self, choice: usize) -> bool {
        if self.flows.is_empty() {
            return false;
        }
        let flow = *self.flows.keys().nth(choice % self.flows.len()).expect("an index below the length");
        let queue = self.flows.get_mut(&flow).expect("a known key");
        let first = queue.pop_front();
        if queue.is_empty() {
            self.flows.remove(&flow);
        }
        let Some((frame, sent)) = first else { return true };
        let message = mesh_wire::decode(&frame).expect("a node's own frame can be read");
        assert_eq!(message, sent, "a frame says what was sent");
        if self.ends.contains_key(&(flow.0, flow.1)) {
            self.input(flow.0, Input::Link { link: flow.1, lane: flow.2, message });
        }
        true
    }

    /// Delivers all that is on its way.
    pub(crate) fn settle(&mut self) {
        while self.deliver(0) {}
    }

    /// Lets time pass, in steps that heartbeats survive.
    pub(crate) fn wait_ms(&mut self, millis: u64) {
        for _ in 0..millis.div_ceil(900) {
            self.advance_ms(900);
            self.settle();
        }
    }

    /// Lets time pass at once, with nothing delivered.
    pub(crate) fn advance_ms(&mut self, millis: u64) {
        self.now.tick = self.now.tick.plus_millis(millis);
        self.now.wall_ms += millis;
        for node in 0..self.nodes.len() {
            self.nodes[node].handle_timeout(self.now);
            self.drain(node);
        }
    }

    /// Checks that all nodes hold the same.
    pub(crate) fn check_equal(&self) {
        for node in &self.nodes {
            assert_eq!(node.state_hash(), self.nodes[0].state_hash(), "replicas differ");
            assert_eq!(node.status().divergences, 0);
        }
    }
}

/// Checks that the tables of a node that have to be empty without sessions are.
pub(crate) fn check_empty(node: &Node) {
    let status = node.status();
    assert_eq!(
        (status.sessions, status.methods, status.contexts, status.calls_pending),
        (0, 0, 0, 0),
        "{status:?}"
    );
    let text = format!("{node:?}");
    for table in [
        "sessions",
        "instances",
        "by_user",
        "by_identity",
        "remote",
        "unsettled",
        "invocations",
        "calls",
        "deadlines",
        "interests",
        "branches",
        "subscriptions",
        "remote_branches",
        "contexts",
        "context_ids",
        "users",
    ] {
        assert!(text.contains(&format!(" {table}: {{}}")), "{table} is not empty: {text}");
    }
    assert_eq!(text.matches("held: []").count(), text.matches("held: [").count(), "{text}");
}
