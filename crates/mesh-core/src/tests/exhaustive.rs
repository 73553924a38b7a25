//! All orders in which writes, parts of batches, cuts, a crash and a long absence can come among three
//! nodes.
//!
//! A state is three whole nodes and what is on its way between them, so that what is checked is the
//! program and no second description of it. A plan says what may happen; all orders of it are tried.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::hash::{Hash, Hasher};
use std::sync::Arc;

use bytes::Bytes;
use mesh_model::{Lane, LinkId, LinkMessage, LinkPeer, Now, Stamp, Tick};
use stateright::{Checker, Model, Property};

use super::mesh::settings;
use crate::content::Write;
use crate::vector::Vector;
use crate::{Input, Node, Output};

const NODES: usize = 3;
const REGISTRATION: u8 = 9;

/// What may happen.
#[derive(Clone, Debug, Default)]
struct Plan {
    /// Whether the first and the last node never have a link.
    chain: bool,
    /// Whether what is said when a link opens takes as long as it likes.
    lanes_overtake: bool,
    /// Whether the first two nodes always hear each other at once.
    instant: bool,
    /// What happens first, each time until all is quiet.
    first: Vec<Action>,
    /// By which node, in this order.
    writes: Vec<(usize, Vec<Part>)>,
    value_bytes: usize,
    left: Left,
}

/// A key, and the letter that is put there; none to remove what is there.
type Part = (u8, Option<char>);

/// What may still happen.
#[derive(Clone, Debug, Default, Hash)]
struct Left {
    crashes: u8,
    cuts: u8,
    /// How many links can be opened again.
    opens: u8,
    /// How often more time can pass than tombstones are kept.
    absences: u8,
    /// How often a node tells the others what it covers, and drops tombstones.
    digests: u8,
}

#[derive(Clone, Debug)]
struct Trio {
    nodes: Vec<Arc<Node>>,
    now: Now,
    /// By sender and receiver.
    lanes: BTreeMap<(usize, usize, Lane), VecDeque<Arc<LinkMessage>>>,
    up: BTreeSet<(usize, usize)>,
    /// What has been written, in this order.
    log: Vec<Arc<Logged>>,
    /// How many of the planned writes were made.
    written: usize,
    left: Left,
    /// A node gave up a link by itself.
    gave_up: bool,
    lanes_overtake: bool,
}

#[derive(Debug)]
struct Logged {
    stamp: Stamp,
    parts: Vec<Write>,
    /// What the node covered that wrote.
    known: Vector,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Action {
    Write,
    Deliver(usize, usize, Lane),
    Cut(usize, usize),
    Open(usize, usize),
    Crash(usize),
    TimePasses,
    Digest(usize),
}

/// The first keys are paths of a context, the last is a registration of the node that writes it.
fn key(number: u8, node: usize) -> Bytes {
    match number {
        REGISTRATION => {
            let node = settings(node, 1).node;
            Bytes::from([b"T".as_slice(), &node.0, b"\xff", b"t\xff"].concat())
        }
        path => Bytes::from(vec![b'P', 0xff, b'c', 0xff, b'0' + path, 0xff]),
    }
}

const fn pair(a: usize, b: usize) -> (usize, usize) {
    if a < b { (a, b) } else { (b, a) }
}

fn link(at: usize, to: usize) -> LinkId {
    LinkId((at * NODES + to) as u64)
}

impl Trio {
    fn new(plan: &Plan) -> Self {
        let now = Now { tick: Tick(1_000_000), wall_ms: 1_700_000_000_000 };
        let mut trio = Self {
            nodes: (0..NODES).map(|number| Arc::new(Node::new(settings(number, 1), now))).collect(),
            now,
            lanes: BTreeMap::new(),
            up: BTreeSet::new(),
            log: Vec::new(),
            written: 0,
            left: Left { crashes: 9, cuts: 9, opens: 9, absences: 9, digests: 9 },
            gave_up: false,
            lanes_overtake: plan.lanes_overtake,
        };
        for (a, b) in [(0, 1), (1, 2), (0, 2)] {
            if !plan.chain || (a, b) != (0, 2) {
                trio.open(a, b);
            }
        }
        trio.settle();
        for action in &plan.first {
            trio.take(plan, *action);
            trio.settle();
        }
        trio.left = plan.left.clone();
        trio
    }

    fn deliver_all(&mut self, a: usize, b: usize) {
        let between = |lane: &&(usize, usize, Lane)| pair(lane.0, lane.1) == (a, b);
        while let Some((from, to, lane)) = self.lanes.keys().find(between).copied() {
            self.deliver(from, to, lane);
        }
    }

    fn settle(&mut self) {
        while let Some((from, to, lane)) = self.lanes.keys().next().copied() {
            self.deliver(from, to, lane);
        }
    }

    fn act(&mut self, node: usize, act: impl FnOnce(&mut Node)) {
        let now = self.now;
        let acting = Arc::make_mut(&mut self.nodes[node]);
        acting.now = now;
        act(acting);
        acting.flush_links();
        while let Some(output) = acting.poll_output() {
            match output {
                // Heartbeats say nothing of the state, and would only multiply the orders.
                Output::Link { message: LinkMessage::Ping { .. } | LinkMessage::Pong { .. }, .. } => {}
                Output::Link { link, lane, message } => {
                    let to = usize::try_from(link.0).unwrap() % NODES;
                    if self.up.contains(&pair(node, to)) {
                        self.lanes.entry((node, to, lane)).or_default().push_back(Arc::new(message));
                    }
                }
                Output::CloseLink { .. } => self.gave_up = true,
                _ => {}
            }
        }
    }

    fn input(&mut self, node: usize, input: Input) {
        let now = self.now;
        self.act(node, |node| node.handle(input, now));
    }

    fn open(&mut self, a: usize, b: usize) {
        self.up.insert(pair(a, b));
        for (at, to, dialled) in [(b, a, false), (a, b, true)] {
            let peer = LinkPeer { node: self.nodes[to].settings.node, dialled };
            self.input(at, Input::LinkOpened { link: link(at, to), peer });
        }
        self.deliver(a, b, Lane::Control);
        self.deliver(b, a, Lane::Control);
        if !self.lanes_overtake {
            self.deliver(a, b, Lane::Control);
            self.deliver(b, a, Lane::Control);
        }
    }

    fn cut(&mut self, a: usize, b: usize) {
        self.up.remove(&pair(a, b));
        self.lanes.retain(|(from, to, _), _| pair(*from, *to) != pair(a, b));
        for (at, to) in [(a, b), (b, a)] {
            self.input(at, Input::LinkClosed { link: link(at, to), reason: "cut".into() });
        }
    }

    fn deliver(&mut self, from: usize, to: usize, lane: Lane) {
        let Some(lane_messages) = self.lanes.get_mut(&(from, to, lane)) else { return };
        let message = lane_messages.pop_front();
        if lane_messages.is_empty() {
            self.lanes.remove(&(from, to, lane));
        }
        if let Some(message) = message {
            self.input(
                to,
                Input::Link { link: link(to, from), lane, message: Arc::unwrap_or_clone(message) },
            );
        }
    }

    fn write(&mut self, node: usize, parts: &[Part], bytes: usize) {
        let value = |letter: char| Bytes::from(letter.to_string().repeat(bytes.max(1)));
        let step =
            parts.iter().map(|(number, letter)| Write { key: key(*number, node), value: letter.map(value) });
        let (parts, known): (Vec<Write>, _) = (step.collect(), self.nodes[node].replica.vector().clone());
        let step = parts.clone();
        self.act(node, |node| node.write(step));
        let entry = self.nodes[node].replica.get(&parts[0].key).unwrap();
        self.log.push(Arc::new(Logged { stamp: entry.stamp, parts, known }));
    }

    /// State and memory are lost; a new life begins.
    fn crash(&mut self, node: usize) {
        for other in 0..NODES {
            if self.up.contains(&pair(node, other)) {
                self.cut(node, other);
            }
        }
        let life = self.nodes[node].settings.incarnation.0 + 1;
        self.nodes[node] = Arc::new(Node::new(settings(node, life), self.now));
    }

    fn take(&mut self, plan: &Plan, action: Action) {
        match action {
            Action::Write => {
                let (node, parts) = &plan.writes[self.written];
                self.written += 1;
                self.write(*node, parts, plan.value_bytes);
            }
            Action::Deliver(from, to, lane) => self.deliver(from, to, lane),
            Action::Cut(a, b) => {
                self.left.cuts -= 1;
                self.cut(a, b);
            }
            Action::Open(a, b) => {
                self.left.opens -= 1;
                self.open(a, b);
            }
            Action::Crash(node) => {
                self.left.crashes -= 1;
                self.crash(node);
            }
            Action::TimePasses => {
                self.left.absences -= 1;
                let away_ms = self.nodes[0].settings.timing.tombstone_ms + 1;
                self.now.tick = self.now.tick.plus_millis(away_ms);
                self.now.wall_ms += away_ms;
            }
            Action::Digest(node) => {
                self.left.digests -= 1;
                self.act(node, |node| {
                    node.send_digests();
                    node.drop_tombstones();
                });
            }
        }
    }

    fn values(&self, node: usize) -> Vec<(&Bytes, &Bytes)> {
        let content = self.nodes[node].replica.below(b"P").chain(self.nodes[node].replica.below(b"T"));
        content.filter_map(|(key, entry)| Some((key, entry.value.as_ref()?))).collect()
    }

    /// Returns what a node covers of all that was written to a key.
    fn covered<'a>(&'a self, node: usize, key: &'a Bytes) -> impl Iterator<Item = (&'a Logged, &'a Write)> {
        let log = self.log.iter().filter(move |w| self.nodes[node].replica.vector().covers(w.stamp.dot));
        log.flat_map(move |w| {
            w.parts.iter().filter(move |part| part.key == *key).map(move |part| (&**w, part))
        })
    }
}

/// Replicas that cover the same hold the same.
fn equal_vectors_mean_equal_states(_: &Plan, trio: &Trio) -> bool {
    let divergences: u64 = trio.nodes.iter().map(|node| node.divergences).sum();
    divergences == 0
        && (0..NODES).all(|a| {
            (0..a).all(|b| {
                let (one, other) = (&trio.nodes[a].replica, &trio.nodes[b].replica);
                one.vector() != other.vector()
                    || one.hash() == other.hash() && trio.values(a) == trio.values(b)
            })
        })
}

/// Whoever covers a write has it, or one that is newer. So it is lost only with the last that covers it.
fn what_is_covered_is_there(_: &Plan, trio: &Trio) -> bool {
    (0..NODES).all(|node| {
        trio.log.iter().filter(|w| trio.nodes[node].replica.vector().covers(w.stamp.dot)).all(|w| {
            w.parts.iter().filter(|part| part.value.is_some()).all(|part| {
                let entry = trio.nodes[node].replica.get(&part.key);
                entry.is_some_and(|entry| entry.value == part.value)
                    || trio.covered(node, &part.key).any(|(newer, _)| newer.stamp > w.stamp)
            })
        })
    })
}

/// What is shown has not been replaced or removed. A removal that all have forgotten does not stand
/// against an edit that was made without knowing of it.
fn nothing_removed_comes_back(plan: &Plan, trio: &Trio) -> bool {
    (0..NODES).all(|node| {
        trio.values(node).into_iter().all(|(key, value)| {
            let Some(shown) = trio
                .log
                .iter()
                .find(|w| w.parts.iter().any(|part| part.key == key && part.value.as_ref() == Some(value)))
            else {
                return false;
            };
            trio.covered(node, key).filter(|(newer, _)| newer.stamp > shown.stamp).all(|(newer, part)| {
                plan.forgets() && part.value.is_none() && !newer.known.covers(shown.stamp.dot)
            })
        })
    })
}

/// Two nodes with a link and nothing on its way between them cover the same, unless one of them keeps its first
/// batch while something is on its way elsewhere.
fn a_quiet_link_joins_equals(_: &Plan, trio: &Trio) -> bool {
    let keeps = |at: usize, to: usize| {
        trio.nodes[at].links.get(&link(at, to)).is_some_and(crate::link::Link::keeps_first)
    };
    !trio.gave_up
        && trio.up.iter().all(|(a, b)| {
            let busy = trio.lanes.keys().any(|(from, to, _)| pair(*from, *to) == (*a, *b));
            let keeps = !trio.lanes.is_empty() && (keeps(*a, *b) || keeps(*b, *a));
            busy || keeps || trio.nodes[*a].replica.vector() == trio.nodes[*b].replica.vector()
        })
}

impl Plan {
    fn forgets(&self) -> bool {
        self.left.absences > 0 || self.first.contains(&Action::TimePasses)
    }
}

impl Model for Plan {
    type State = Trio;
    type Action = Action;

    fn init_states(&self) -> Vec<Trio> {
        vec![Trio::new(self)]
    }

    fn actions(&self, trio: &Trio, actions: &mut Vec<Action>) {
        actions.extend(trio.lanes.keys().map(|(from, to, lane)| Action::Deliver(*from, *to, *lane)));
        if trio.written < self.writes.len() {
            actions.push(Action::Write);
        }
        for (a, b) in [(0, 1), (1, 2), (0, 2)] {
            if trio.up.contains(&(a, b)) {
                if trio.left.cuts > 0 {
                    actions.push(Action::Cut(a, b));
                }
            } else if trio.left.opens > 0 && (!self.chain || (a, b) != (0, 2)) {
                actions.push(Action::Open(a, b));
            }
        }
        let nodes = 0..NODES;
        if trio.left.crashes > 0 {
            actions.push(Action::Crash(0));
        }
        if trio.left.absences > 0 && trio.lanes.is_empty() {
            actions.push(Action::TimePasses);
        }
        if trio.left.digests > 0 && trio.left.absences == 0 {
            actions.extend(nodes.map(Action::Digest));
        }
    }

    fn next_state(&self, last: &Trio, action: Action) -> Option<Trio> {
        let mut next = last.clone();
        next.take(self, action);
        if self.instant {
            next.deliver_all(0, 1);
        }
        Some(next)
    }

    fn properties(&self) -> Vec<Property<Self>> {
        vec![
            Property::always("equal vectors mean equal states", equal_vectors_mean_equal_states),
            Property::always("what is covered is there", what_is_covered_is_there),
            Property::always("nothing removed comes back", nothing_removed_comes_back),
            Property::always("a quiet link joins equals", a_quiet_link_joins_equals),
        ]
    }
}

impl Hash for Trio {
    fn hash<H: Hasher>(&self, into: &mut H) {
        for node in &self.nodes {
            let replica = &node.replica;
            (node.settings.incarnation, node.hlc, node.seq, replica.vector(), replica.floor()).hash(into);
            for (key, entry) in replica.below(b"") {
                (key, entry.stamp, entry.value.is_some(), entry.at_wall_ms).hash(into);
            }
            for (id, known) in &node.nodes {
                (id, known.incarnation, known.link, known.shown, &known.said, known.said_in, known.heard_at)
                    .hash(into);
            }
            for (id, link) in &node.links {
                id.hash(into);
                link.mix(replica, into);
            }
        }
        for (lane, messages) in &self.lanes {
            lane.hash(into);
            for message in messages {
                match &**message {
                    LinkMessage::Batch { entries, end, reset, .. } => {
                        for entry in entries {
                            (&entry.key, entry.dot, entry.hlc, entry.value.is_some()).hash(into);
                        }
                        let end = end.as_ref().map(|end| (&end.vector, &end.floor, end.answer));
                        (end, reset).hash(into);
                    }
                    other => format!("{other:?}").hash(into),
                }
            }
        }
        let written: Vec<(Stamp, &Vector)> = self.log.iter().map(|w| (w.stamp, &w.known)).collect();
        (self.now.tick, &self.up, written, self.written, &self.left, self.gave_up).hash(into);
    }
}

impl PartialEq for Trio {
    fn eq(&self, other: &Self) -> bool {
        let hash = |trio: &Self| {
            let mut hasher = std::hash::DefaultHasher::new();
            trio.hash(&mut hasher);
            hasher.finish()
        };
        hash(self) == hash(other)
    }
}

fn check(plan: Plan, states_min: usize) {
    let checker = plan.checker().threads(2).spawn_bfs().join();
    if let Some((name, path)) = checker.discoveries().into_iter().next() {
        panic!("not so: {name}, after {:#?}", path.into_actions());
    }
    // A search in which nothing can happen finds nothing.
    let states = checker.unique_state_count();
    assert!(states > states_min, "{states} states");
}

/// One node writes twice in one batch of several parts, another writes one of the keys, and the first is
/// gone at any moment, for good or to come back empty to one of the others.
#[test]
fn what_a_node_wrote_before_it_crashed_is_everywhere_or_nowhere() {
    check(
        Plan {
            writes: vec![(0, vec![(1, Some('a')), (2, Some('a'))]), (1, vec![(1, Some('b'))])],
            value_bytes: 400,
            left: Left { crashes: 1, opens: 1, ..Left::default() },
            ..Plan::default()
        },
        30_000,
    );
}

/// What is said when a link opens can be overtaken by batches and overtake them.
#[test]
fn a_chain_that_is_cut_and_joined_again_becomes_equal() {
    check(
        Plan {
            chain: true,
            lanes_overtake: true,
            writes: vec![(0, vec![(1, Some('a')), (2, Some('a'))]), (2, vec![(1, None), (3, Some('b'))])],
            value_bytes: 400,
            left: Left { cuts: 2, opens: 1, ..Left::default() },
            ..Plan::default()
        },
        8_000,
    );
}

/// One end of a chain removes, the other edits; at any moment a link breaks and opens again, and so much
/// time passes that the removal may be forgotten.
#[test]
fn a_removal_outlasts_its_tombstone() {
    check(
        Plan {
            chain: true,
            lanes_overtake: true,
            first: vec![Action::Write],
            writes: vec![
                (0, vec![(1, Some('a')), (2, Some('a'))]),
                (0, vec![(1, None)]),
                (2, vec![(2, Some('b'))]),
            ],
            left: Left { cuts: 1, opens: 1, absences: 1, digests: 1, ..Left::default() },
            ..Plan::default()
        },
        50_000,
    );
}

/// Two nodes have forgotten removals that the third slept through while it edited one of the keys; then
/// it meets both, in any order and with what each says on its way for any time.
fn long_sleep(removed: u8) -> Plan {
    use Action::{Cut, Digest, TimePasses, Write};
    let known = [Write, Digest(0), Digest(1), Digest(2)];
    let removals = vec![Write; removed.into()];
    let forgotten = [TimePasses, Digest(1), Digest(0), Digest(1)];
    let first =
        known.into_iter().chain([Cut(0, 2), Cut(1, 2)]).chain(removals).chain([Write]).chain(forgotten);
    let mut writes = vec![(0, (1..=removed).map(|key| (key, Some('a'))).collect())];
    writes.extend((1..=removed).map(|key| (0, vec![(key, None)])));
    writes.push((2, vec![(1, Some('b')), (REGISTRATION, Some('r'))]));
    let left = Left { opens: 2, ..Left::default() };
    Plan { instant: true, first: first.collect(), writes, left, ..Plan::default() }
}

#[test]
fn who_slept_through_a_removal_brings_back_its_own_edit_only() {
    check(long_sleep(1), 2_000);
}

#[test]
#[ignore = "takes a while; cargo test -p mesh-core -- --ignored who_slept"]
fn who_slept_through_removals_brings_back_its_own_edits_only() {
    check(long_sleep(2), 20_000);
}
