//! Two nodes whose links come up at the same time: in every order of what happens, one link serves, and
//! applications notice nothing.

use std::collections::VecDeque;

use mesh_model::link::reject;
use mesh_model::{
    Answer, Area, Arguments, Command, Event, Incarnation, Json, Lane, Lifetime, LinkId, LinkMessage,
    LinkPeer, NodeId, Now, Outcome, Permissions, Request, SessionId, Text, Tick,
};

use super::mesh::{json, settings};
use crate::{Input, Node, Notice, Output};

/// Choices that are tried in all ways; what is left after them happens in order.
const CHOICES: usize = 9;

/// One connection: end 0 is the dialler's.
struct Connection {
    nodes: [usize; 2],
    opened: [bool; 2],
    open: [bool; 2],
    /// What is on its way to each end; `None` is the close.
    queues: [VecDeque<Option<LinkMessage>>; 2],
}

struct Pair {
    nodes: [Node; 2],
    now: Now,
    connections: Vec<Connection>,
    /// Whether a close overtakes what was sent before it.
    abrupt: bool,
    events: [Vec<Event>; 2],
    downs: usize,
    refused: [Vec<Text>; 2],
}

impl Pair {
    /// Two nodes with an app each; the second offers method 1.
    fn new(abrupt: bool) -> Self {
        let now = Now { tick: Tick(1_000_000), wall_ms: 1_700_000_000_000 };
        let nodes = [0, 1].map(|number| Node::new(settings(number, 1), now));
        let events = [Vec::new(), Vec::new()];
        let mut pair = Self {
            nodes,
            now,
            connections: Vec::new(),
            abrupt,
            events,
            downs: 0,
            refused: Default::default(),
        };
        for node in 0..2 {
            let identity = json(&format!("{{\"application\":\"app{node}\"}}"));
            let user = Some(Text::from("joe"));
            let (request, login) = (ask(1), user.clone());
            pair.command(node, Command::Attach { request, identity, login, user, service: false });
            pair.command(node, Command::Join { request: ask(2), area: Area::Interop, restrictions: None });
        }
        let methods = vec![json("{\"id\":\"1\",\"name\":\"Add\"}")];
        pair.command(1, Command::Register { request: ask(3), methods });
        pair.events = [Vec::new(), Vec::new()];
        pair
    }

    fn command(&mut self, node: usize, command: Command) {
        self.input(node, Input::Session { session: SessionId(1), command });
    }

    fn input(&mut self, node: usize, input: Input) {
        self.nodes[node].handle(input, self.now);
        self.drain(node);
    }

    fn drain(&mut self, node: usize) {
        while let Some(output) = self.nodes[node].poll_output() {
            match output {
                Output::Event { event, .. } => self.events[node].push(event),
                Output::Link { link, message, .. } => {
                    let (at, end) = place(link);
                    self.connections[at].queues[1 - end].push_back(Some(message));
                }
                Output::CloseLink { link, .. } => {
                    let (at, end) = place(link);
                    self.connections[at].open[end] = false;
                    let queue = &mut self.connections[at].queues[1 - end];
                    if self.abrupt {
                        queue.clear();
                    }
                    queue.push_back(None);
                }
                Output::Notice(Notice::NodeDown { .. }) => self.downs += 1,
                Output::Notice(Notice::LinkRefused { reason, .. }) => self.refused[node].push(reason),
                _ => {}
            }
        }
    }

    fn dial(&mut self, from: usize) {
        self.connections.push(Connection {
            nodes: [from, 1 - from],
            opened: [false; 2],
            open: [true; 2],
            queues: [VecDeque::new(), VecDeque::new()],
        });
    }

    /// Returns what can happen next: an end of a connection opens or gets the next message.
    fn possible(&self) -> Vec<(usize, usize)> {
        let ends = (0..self.connections.len()).flat_map(|at| [(at, 1), (at, 0)]);
        let can = |(at, end): &(usize, usize)| {
            let connection = &self.connections[*at];
            let opens = !connection.opened[*end] && (*end == 1 || connection.opened[1]);
            connection.open[*end] && (opens || !connection.queues[*end].is_empty())
        };
        ends.filter(can).collect()
    }

    fn happen(&mut self, (at, end): (usize, usize)) {
        let connection = &mut self.connections[at];
        let (node, link) = (connection.nodes[end], LinkId(at as u64 * 2 + end as u64));
        if !connection.opened[end] {
            if connection.queues[end].contains(&None) {
                connection.open[end] = false;
                return;
            }
            connection.opened[end] = true;
            let peer =
                LinkPeer { node: NodeId([connection.nodes[1 - end] as u8 + 1; 16]), dialled: end == 0 };
            return self.input(node, Input::LinkOpened { link, peer });
        }
        match connection.queues[end].pop_front() {
            Some(Some(message)) => self.input(node, Input::Link { link, lane: Lane::Control, message }),
            Some(None) => {
                connection.open[end] = false;
                self.input(node, Input::LinkClosed { link, reason: "closed".into() });
            }
            None => {}
        }
    }

    fn settle(&mut self) {
        while let Some(next) = self.possible().first().copied() {
            self.happen(next);
        }
    }

    fn wait_ms(&mut self, millis: u64) {
        for _ in 0..millis / 100 {
            self.now.tick = self.now.tick.plus_millis(100);
            for node in 0..2 {
                self.nodes[node].handle_timeout(self.now);
                self.drain(node);
            }
            self.settle();
        }
    }

    /// Loses a connection at one end; the other does not hear of it.
    fn lose(&mut self, at: usize, end: usize) {
        let connection = &mut self.connections[at];
        connection.open[end] = false;
        let node = connection.nodes[end];
        self.input(
            node,
            Input::LinkClosed { link: LinkId(at as u64 * 2 + end as u64), reason: "cut".into() },
        );
    }

    fn count(&self, node: usize, wanted: fn(&Event) -> bool) -> usize {
        self.events[node].iter().filter(|event| wanted(event)).count()
    }

    /// Both ends of one connection serve, and there is no other.
    fn assert_one_link(&self) {
        let open: Vec<_> = self.connections.iter().filter(|c| c.open[0] || c.open[1]).collect();
        assert_eq!(open.len(), 1);
        assert_eq!(open[0].open, [true; 2]);
        for node in &self.nodes {
            assert_eq!(node.links.len(), 1);
            assert_eq!(node.peers()[0].state, "up");
        }
    }
}

const fn place(link: LinkId) -> (usize, usize) {
    ((link.0 / 2) as usize, (link.0 % 2) as usize)
}

fn ask(id: u64) -> Request {
    Request { id: json(&id.to_string()), face: 0 }
}

fn added(event: &Event) -> bool {
    matches!(event, Event::InstanceAdded { local: false, .. })
}

fn removed(event: &Event) -> bool {
    matches!(event, Event::InstanceRemoved { .. })
}

/// Tries all orders of the first [`CHOICES`] things that happen after `begin`.
fn in_every_order(begin: impl Fn(bool) -> Pair, check: impl Fn(&mut Pair)) {
    let mut tried = 0;
    for abrupt in [false, true] {
        let mut choices: Vec<usize> = Vec::new();
        loop {
            let mut pair = begin(abrupt);
            let mut options = Vec::new();
            for step in 0..CHOICES {
                let possible = pair.possible();
                if possible.is_empty() {
                    break;
                }
                options.push(possible.len());
                pair.happen(possible[choices.get(step).copied().unwrap_or(0)]);
            }
            pair.settle();
            pair.wait_ms(800);
            check(&mut pair);
            tried += 1;
            choices.resize(options.len(), 0);
            while choices.last().is_some_and(|last| last + 1 == options[choices.len() - 1]) {
                choices.pop();
            }
            match choices.last_mut() {
                Some(last) => *last += 1,
                None => break,
            }
        }
    }
    assert!(tried > 30, "{tried}");
}

#[test]
fn both_dial_at_once() {
    let begin = |abrupt| {
        let mut pair = Pair::new(abrupt);
        pair.dial(0);
        pair.dial(1);
        pair
    };
    in_every_order(begin, |pair| {
        pair.assert_one_link();
        for node in 0..2 {
            assert_eq!((pair.count(node, added), pair.count(node, removed)), (1, 0));
        }
        assert_eq!(pair.downs, 0);
    });
}

#[test]
fn one_dials_twice_and_the_other_too() {
    for twice in 0..2 {
        let begin = |abrupt| {
            let mut pair = Pair::new(abrupt);
            for from in [twice, twice, 1 - twice] {
                pair.dial(from);
            }
            pair
        };
        in_every_order(begin, |pair| {
            pair.assert_one_link();
            for node in 0..2 {
                assert_eq!((pair.count(node, added), pair.count(node, removed)), (1, 0));
            }
            assert_eq!(pair.downs, 0);
        });
    }
}

/// Returns a pair with a link, over which a call runs and a subscription waits for its answer.
fn with_a_call(abrupt: bool) -> Pair {
    let mut pair = Pair::new(abrupt);
    pair.dial(0);
    pair.settle();
    let server = pair.events[0].iter().find_map(|event| match event {
        Event::InstanceAdded { instance, .. } => Some(instance.clone()),
        _ => None,
    });
    let (server, method) = (server.unwrap(), Json::string("1"));
    let arguments = Arguments::default();
    let call = Command::Call { request: ask(8), server, method, arguments, trace: None };
    pair.command(0, call);
    pair.settle();
    pair
}

#[test]
fn calls_survive_dials_that_come_late() {
    let begin = |abrupt| {
        let mut pair = with_a_call(abrupt);
        pair.dial(0);
        pair.dial(1);
        pair
    };
    in_every_order(begin, |pair| {
        pair.assert_one_link();
        answer(pair);
        assert_eq!((pair.count(0, removed), pair.count(1, removed), pair.downs), (0, 0, 0));
    });
}

/// Answers the call, which ends with that and only once.
fn answer(pair: &mut Pair) {
    let invocation = pair.events[1].iter().find_map(|event| match event {
        Event::Invoke { invocation, .. } => Some(*invocation),
        _ => None,
    });
    pair.command(1, Command::Yield { invocation: invocation.unwrap(), result: Some(json("7")) });
    pair.settle();
    let answered = Outcome::Answered(Answer::Result(Some(json("7"))));
    let ends = pair.events[0].iter().filter_map(|event| match event {
        Event::CallEnded { outcome, .. } => Some(outcome),
        _ => None,
    });
    assert_eq!(ends.collect::<Vec<_>>(), [&answered]);
}

#[test]
fn a_link_that_one_side_has_lost_is_replaced_under_the_apps_of_the_other() {
    for loser in 0..2 {
        let begin = |abrupt| {
            let mut pair = with_a_call(abrupt);
            pair.lose(0, loser);
            pair.dial(loser);
            // A dial of the side that knows nothing, from before.
            pair.dial(1 - loser);
            pair
        };
        in_every_order(begin, |pair| {
            pair.assert_one_link();
            assert_eq!(pair.count(1 - loser, removed), 0);
            assert_eq!((pair.count(loser, added), pair.count(loser, removed)), (2, 1));
            assert_eq!(pair.downs, 1, "the side that had lost it");
            answer(pair);
        });
    }
}

/// Sends nothing and hears nothing for a while; then says whether the first node still trusts the link.
fn trusts_after(pair: &mut Pair, millis: u64) -> bool {
    pair.now.tick = pair.now.tick.plus_millis(millis);
    pair.nodes[0].handle_timeout(pair.now);
    pair.drain(0);
    pair.nodes[0].peers()[0].state == "up"
}

#[test]
fn a_node_that_is_late_itself_is_patient_with_others() {
    let mut pair = Pair::new(false);
    pair.dial(0);
    pair.settle();
    pair.wait_ms(2_000);
    // On time: the usual silence is enough.
    assert!((0..14).all(|_| trusts_after(&mut pair, 100)));
    assert!(!trusts_after(&mut pair, 200));

    let mut pair = Pair::new(false);
    pair.dial(0);
    pair.settle();
    pair.wait_ms(2_000);
    // Late with two heartbeats: it takes that long three times over, and no longer.
    assert!((0..2).all(|_| trusts_after(&mut pair, 700)));
    assert!((0..30).all(|_| trusts_after(&mut pair, 100)));
    assert!(!trusts_after(&mut pair, 200));
}

#[test]
fn who_wakes_asks_at_once_and_does_not_wait_long() {
    let mut pair = Pair::new(false);
    pair.dial(0);
    pair.settle();
    pair.input(0, Input::Disturbed);
    assert!(matches!(pair.connections[0].queues[1].back(), Some(Some(LinkMessage::Ping { .. }))));
    pair.settle();
    assert!((0..10).all(|_| trusts_after(&mut pair, 100)), "the other side has answered");

    pair.input(0, Input::Disturbed);
    pair.connections[0].queues[1].clear();
    assert!((0..7).all(|_| trusts_after(&mut pair, 100)));
    assert!(!trusts_after(&mut pair, 100));
}

#[test]
fn a_copy_is_refused_with_words_on_both_sides() {
    let mut pair = Pair::new(false);
    pair.dial(0);
    pair.settle();
    // The first node once more, in an older life.
    pair.lose(0, 0);
    pair.nodes[0] = Node::new(settings(0, 0), pair.now);
    pair.dial(0);
    let mut refused = [0, 0];
    while let Some(next) = pair.possible().last().copied() {
        pair.happen(next);
        for (node, reasons) in pair.refused.iter_mut().enumerate() {
            refused[node] += reasons.drain(..).filter(|reason| reason.contains("was copied")).count();
        }
    }
    assert_eq!(refused, [1, 1]);
}

#[test]
fn an_earlier_life_that_still_hears_is_told_that_it_is_a_copy() {
    let now = Now { tick: Tick(1_000_000), wall_ms: 1_700_000_000_000 };
    let mut node = Node::new(settings(0, 1), now);
    let mut closed = Vec::new();
    for life in [1, 2] {
        let (link, peer) = (LinkId(life), LinkPeer { node: NodeId([9; 16]), dialled: false });
        let hello = LinkMessage::Hello {
            protocol_min: 1,
            protocol_max: 1,
            incarnation: Incarnation(life),
            name: "clone".into(),
            wall_ms: now.wall_ms,
            addresses: Vec::new(),
            over: 0,
        };
        for input in
            [Input::LinkOpened { link, peer }, Input::Link { link, lane: Lane::Control, message: hello }]
        {
            node.handle(input, now);
            while let Some(output) = node.poll_output() {
                if let Output::CloseLink { link, code, text } = output {
                    closed.push((link, code, text.contains("was copied")));
                }
            }
        }
    }
    assert_eq!(closed, [(LinkId(1), reject::SUPERSEDED, true)]);
}

#[test]
fn a_node_notices_that_a_newer_life_of_it_is_known() {
    let now = Now { tick: Tick(1_000_000), wall_ms: 1_700_000_000_000 };
    let (link, peer) = (LinkId(1), LinkPeer { node: NodeId([9; 16]), dialled: true });
    let welcome = |incarnation| LinkMessage::Welcome {
        protocol: 1,
        incarnation: Incarnation(incarnation),
        name: "other".into(),
        wall_ms: now.wall_ms,
        addresses: Vec::new(),
        over: 0,
    };
    // Whether the words of an end are about this node, after these messages.
    let noticed = |messages: Vec<LinkMessage>, end: &str| {
        let mut node = Node::new(settings(0, 1), now);
        node.handle(Input::LinkOpened { link, peer }, now);
        for message in messages {
            node.handle(Input::Link { link, lane: Lane::Control, message }, now);
        }
        node.handle(Input::LinkClosed { link, reason: end.into() }, now);
        let outputs = std::iter::from_fn(|| node.poll_output());
        outputs.filter(|output| matches!(output, Output::Notice(Notice::Superseded { .. }))).count()
    };
    let words = "a newer life of this node is known: its data directory or disk was copied, or set back";
    assert_eq!(noticed(vec![welcome(1)], &format!("closed by peer: {words}")), 1, "its link is closed");
    assert_eq!(noticed(vec![], &format!("closed by peer: {words}")), 1, "its link is refused");
    let rejected = LinkMessage::Reject { code: reject::SUPERSEDED, text: words.into() };
    assert_eq!(noticed(vec![rejected], words), 1, "once");
    let of_dialler = "closed by peer: a newer life of that node is known";
    assert_eq!(noticed(vec![], of_dialler), 1, "in the words of one that has dialled it");
    assert_eq!(noticed(vec![welcome(1)], "closed by peer: the node is shutting down"), 0);
}

#[test]
fn a_dial_that_another_link_was_quicker_than_is_not_refused() {
    let now = Now { tick: Tick(1_000_000), wall_ms: 1_700_000_000_000 };
    for (reason, refused) in [
        ("replaced by a newer link", false),
        ("the node is shutting down", false),
        ("a newer life of this node is known", true),
    ] {
        let mut node = Node::new(settings(0, 1), now);
        let (link, peer) = (LinkId(1), LinkPeer { node: NodeId([9; 16]), dialled: true });
        node.handle(Input::LinkOpened { link, peer }, now);
        node.handle(Input::LinkClosed { link, reason: format!("closed by peer: {reason}").into() }, now);
        let outputs = std::iter::from_fn(|| node.poll_output());
        let notices = outputs.filter(|output| matches!(output, Output::Notice(Notice::LinkRefused { .. })));
        assert_eq!(notices.count(), usize::from(refused), "{reason}");
    }
}

#[test]
fn a_node_that_leaves_says_so_behind_its_last_writes() {
    let mut pair = Pair::new(false);
    pair.dial(0);
    pair.settle();
    let data = Some(json("{}"));
    let (lifetime, permissions) = (Lifetime::Retained, Permissions::default());
    let create = Command::CreateContext { request: ask(9), name: "K".into(), data, lifetime, permissions };
    let node = &mut pair.nodes[1];
    node.handle(Input::Session { session: SessionId(1), command: create }, pair.now);
    node.handle(Input::Leave, pair.now);
    let sent = std::iter::from_fn(|| node.poll_output()).filter_map(|output| match output {
        Output::Link { lane, message: LinkMessage::Batch { .. }, .. } => Some((lane, "batch")),
        Output::Link { lane, message: LinkMessage::Goaway { .. }, .. } => Some((lane, "goaway")),
        _ => None,
    });
    assert_eq!(sent.collect::<Vec<_>>(), [(Lane::Replication, "batch"), (Lane::Replication, "goaway")]);

    // The other dials at once whom it has lost.
    let (link, peer) = (LinkId(90), LinkPeer { node: NodeId([1; 16]), dialled: false });
    node.handle(Input::LinkOpened { link, peer }, pair.now);
    let mut outputs = std::iter::from_fn(|| node.poll_output());
    assert!(outputs.any(|output| matches!(output, Output::CloseLink { link: LinkId(90), .. })));
}
