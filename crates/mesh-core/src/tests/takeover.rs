//! Two nodes that reach each other by way of a third, and then by themselves: whatever comes first, their
//! applications see each other all the time.

use std::collections::{BTreeMap, VecDeque};

use mesh_model::{
    Area, Command, Event, Lane, LinkId, LinkMessage, LinkPeer, NodeId, Now, Request, SessionId, Text, Tick,
};

use super::mesh::{json, settings};
use crate::{Input, Node, NodeSettings, Notice, Output};

/// One connection: end 0 is the dialler's.
struct Connection {
    nodes: [usize; 2],
    opened: [bool; 2],
    open: [bool; 2],
    /// What is on its way to each end: lanes keep their order, each by itself.
    lanes: [BTreeMap<Lane, VecDeque<LinkMessage>>; 2],
    /// Whether the other end has closed it.
    closed: [bool; 2],
}

/// What can happen next.
#[derive(Clone, Copy)]
enum Step {
    Opens(usize, usize),
    Hears(usize, usize, Lane),
    Closes(usize, usize),
}

/// Three nodes; the first two have an app each.
struct Trio {
    nodes: Vec<Node>,
    now: Now,
    connections: Vec<Connection>,
    /// Whether a close overtakes what was sent before it.
    abrupt: bool,
    added: [usize; 2],
    removed: [usize; 2],
    downs: Vec<usize>,
    random: u64,
}

impl Trio {
    /// The first two are linked with the third.
    fn new(seed: u64) -> Self {
        let now = Now { tick: Tick(1_000_000), wall_ms: 1_700_000_000_000 };
        let new = |number| Node::new(NodeSettings { relay: true, ..settings(number, 1) }, now);
        let mut trio = Self {
            nodes: (0..3).map(new).collect(),
            now,
            connections: Vec::new(),
            abrupt: seed.is_multiple_of(2),
            added: [0; 2],
            removed: [0; 2],
            downs: Vec::new(),
            random: seed * 2 + 1,
        };
        for node in 0..2 {
            let identity = json(&format!("{{\"application\":\"app{node}\"}}"));
            let user = Some(Text::from("joe"));
            let request = Request { id: json("1"), face: 0 };
            let (asked, login) = (request.clone(), user.clone());
            let attach = Command::Attach { request, identity, login, user, service: false };
            let join = Command::Join { request: asked, area: Area::Interop, restrictions: None };
            for command in [attach, join] {
                trio.input(node, Input::Session { session: SessionId(1), command });
            }
            trio.dial(node, 2);
        }
        trio.settle();
        trio
    }

    /// All are linked with each other.
    fn linked(seed: u64) -> Self {
        let mut trio = Self::new(seed);
        trio.dial(0, 1);
        trio.settle();
        trio.wait_ms(1_100);
        trio
    }

    fn below(&mut self, count: usize) -> usize {
        self.random ^= self.random << 13;
        self.random ^= self.random >> 7;
        self.random ^= self.random << 17;
        (self.random >> 20) as usize % count
    }

    fn dial(&mut self, from: usize, to: usize) {
        self.connections.push(Connection {
            nodes: [from, to],
            opened: [false; 2],
            open: [true; 2],
            lanes: Default::default(),
            closed: [false; 2],
        });
    }

    fn input(&mut self, node: usize, input: Input) {
        self.nodes[node].handle(input, self.now);
        self.drain(node);
    }

    fn drain(&mut self, node: usize) {
        while let Some(output) = self.nodes[node].poll_output() {
            match output {
                Output::Event { event: Event::InstanceAdded { local: false, .. }, .. } => {
                    self.added[node] += 1
                }
                Output::Event { event: Event::InstanceRemoved { .. }, .. } => self.removed[node] += 1,
                Output::Link { link, lane, message } => {
                    let (at, end) = place(link);
                    self.connections[at].lanes[1 - end].entry(lane).or_default().push_back(message);
                }
                Output::CloseLink { link, .. } => {
                    let (at, end) = place(link);
                    let connection = &mut self.connections[at];
                    connection.open[end] = false;
                    connection.closed[1 - end] = true;
                    if self.abrupt {
                        connection.lanes[1 - end].clear();
                    }
                }
                Output::Notice(Notice::NodeDown { .. }) => self.downs.push(node),
                _ => {}
            }
        }
    }

    fn possible(&self) -> Vec<Step> {
        let mut steps = Vec::new();
        for (at, connection) in self.connections.iter().enumerate() {
            for end in [1, 0].into_iter().filter(|end| connection.open[*end]) {
                if !connection.opened[end] {
                    if connection.closed[end] {
                        steps.push(Step::Closes(at, end));
                    } else if end == 1 || connection.opened[1] {
                        steps.push(Step::Opens(at, end));
                    }
                    continue;
                }
                let lanes = connection.lanes[end].iter().filter(|(_, waiting)| !waiting.is_empty());
                let before = steps.len();
                steps.extend(lanes.map(|(lane, _)| Step::Hears(at, end, *lane)));
                if connection.closed[end] && steps.len() == before {
                    steps.push(Step::Closes(at, end));
                }
            }
        }
        steps
    }

    fn happen(&mut self, step: Step) {
        match step {
            Step::Opens(at, end) => {
                let connection = &mut self.connections[at];
                connection.opened[end] = true;
                let (node, other) = (connection.nodes[end], connection.nodes[1 - end]);
                let peer = LinkPeer { node: NodeId([other as u8 + 1; 16]), dialled: end == 0 };
                self.input(node, Input::LinkOpened { link: link(at, end), peer });
            }
            Step::Hears(at, end, lane) => {
                let connection = &mut self.connections[at];
                let node = connection.nodes[end];
                let message = connection.lanes[end].get_mut(&lane).and_then(VecDeque::pop_front);
                if let Some(message) = message {
                    self.input(node, Input::Link { link: link(at, end), lane, message });
                }
            }
            Step::Closes(at, end) => self.lose(at, end),
        }
    }

    /// Loses a connection at one end; the other does not hear of it.
    fn lose(&mut self, at: usize, end: usize) {
        let connection = &mut self.connections[at];
        connection.open[end] = false;
        let (node, opened) = (connection.nodes[end], connection.opened[end]);
        if opened {
            self.input(node, Input::LinkClosed { link: link(at, end), reason: "closed".into() });
        }
    }

    fn pass_ms(&mut self, millis: u64) {
        self.now.tick = self.now.tick.plus_millis(millis);
        self.now.wall_ms += millis;
        for node in 0..3 {
            self.nodes[node].handle_timeout(self.now);
            self.drain(node);
        }
    }

    /// Lets all happen that is under way, in the order in which it was begun.
    fn settle(&mut self) {
        while let Some(next) = self.possible().first().copied() {
            self.happen(next);
        }
    }

    /// Lets it happen in an order of chance; before each step something else may.
    fn shuffle(&mut self, mut before: impl FnMut(&mut Self)) {
        for _ in 0..500 {
            before(self);
            let steps = self.possible();
            if !steps.is_empty() {
                let chosen = self.below(steps.len());
                self.happen(steps[chosen]);
            }
        }
        self.settle();
    }

    /// Either of two nodes dials the other, up to three times.
    fn dial_each_other(&mut self) {
        for _ in 0..=self.below(3) {
            let from = self.below(2);
            self.dial(from, 1 - from);
        }
    }

    /// Whether a node that dials eagerly would dial another.
    fn may_dial(&self, from: usize, to: usize) -> bool {
        let has_end = |at: &&Connection| {
            (0..2).any(|end| at.open[end] && (at.nodes[end], at.nodes[1 - end]) == (from, to))
        };
        let is_linked = self.nodes[from].direct_link_to(NodeId([to as u8 + 1; 16])).is_some();
        !is_linked && self.connections.iter().filter(has_end).count() < 2
    }

    /// Two links are left to each of the two, and how often they were told of the other's app fits.
    fn assert_seen(&self, removed: [usize; 2], downs: &[usize], seed: u64) {
        assert_eq!((self.removed, &self.downs[..]), (removed, downs), "seed {seed}");
        assert_eq!(self.added, removed.map(|count| count + 1), "seed {seed}");
        assert_eq!([0, 1].map(|node| self.nodes[node].links.len()), [2, 2], "seed {seed}");
    }

    fn wait_ms(&mut self, millis: u64) {
        for _ in 0..millis / 100 {
            self.pass_ms(100);
            self.settle();
        }
    }
}

const fn place(link: LinkId) -> (usize, usize) {
    ((link.0 / 2) as usize, (link.0 % 2) as usize)
}

const fn link(at: usize, end: usize) -> LinkId {
    LinkId(at as u64 * 2 + end as u64)
}

const SEEDS: u64 = 1_000;

#[test]
fn a_direct_link_takes_over_and_apps_notice_nothing() {
    for seed in 1..=SEEDS {
        let mut trio = Trio::new(seed);
        trio.wait_ms(1_100);
        trio.dial_each_other();
        trio.shuffle(|_| {});
        trio.wait_ms(800);
        trio.assert_seen([0, 0], &[], seed);
    }
}

#[test]
fn a_direct_link_comes_while_a_relayed_one_is_opened() {
    for seed in 1..=SEEDS {
        let mut trio = Trio::new(seed);
        let wait = 900 + 20 * trio.below(10) as u64;
        trio.pass_ms(wait);
        trio.dial_each_other();
        trio.pass_ms(100);
        trio.shuffle(|_| {});
        trio.wait_ms(800);
        trio.assert_seen([0, 0], &[], seed);
    }
}

#[test]
fn who_lost_a_link_withdraws_apps_once() {
    for seed in 1..=SEEDS {
        let mut trio = Trio::linked(seed);
        let first = trio.below(2);
        trio.lose(2, first);
        trio.lose(2, 1 - first);
        trio.dial_each_other();
        trio.shuffle(|_| {});
        trio.wait_ms(800);
        trio.assert_seen([1, 1], &[first, 1 - first], seed);
    }
}

/// The relayed link takes the place of one that the other end has lost, and a direct one that of the relayed one.
#[test]
fn who_lost_no_link_withdraws_nothing() {
    for seed in 1..=SEEDS {
        let mut trio = Trio::linked(seed);
        trio.lose(2, 0);
        trio.shuffle(|trio| {
            if trio.below(8) == 0 {
                let millis = 1 + trio.below(20) as u64;
                trio.pass_ms(millis);
            }
            if trio.below(15) == 0 && trio.may_dial(1, 0) {
                trio.dial(1, 0);
            }
        });
        trio.wait_ms(800);
        trio.assert_seen([1, 0], &[0], seed);
    }
}
