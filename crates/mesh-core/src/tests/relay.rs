//! Three nodes of which two have no link: the third relays for them.

use mesh_model::link::{Carried, LinkMessage, reject};
use mesh_model::{Command, Event, Json, Lane, Lifetime, LinkId, Text};

use super::mesh::{App, Mesh, json, settings};
use crate::{Input, Node, Output};

/// Nodes 0 and 1 have no link, node 2 has one to each; an app on 0 and one on 1, which offers method 1.
pub(super) struct Triangle {
    pub(super) mesh: Mesh,
    pub(super) near: App,
    pub(super) far: App,
    pub(super) far_instance: Text,
}

impl Triangle {
    pub(super) fn new() -> Self {
        Self::with(|_| true)
    }

    fn with(relays: impl Fn(usize) -> bool) -> Self {
        let mut mesh = Mesh::unlinked(3);
        for number in 0..3 {
            let settings = crate::NodeSettings { relay: relays(number), ..settings(number, 1) };
            mesh.nodes[number] = Node::new(settings, mesh.now());
        }
        mesh.link(0, 2);
        mesh.link(1, 2);
        let (near, _) = mesh.app(0, "joe");
        let (far, far_instance) = mesh.app(1, "joe");
        mesh.register(far, "1", "Add");
        Self { mesh, near, far, far_instance }
    }

    fn linked(&self) -> [bool; 2] {
        [(0, 1), (1, 0)].map(|(node, other)| {
            let peer = self.mesh.nodes[other].settings.node;
            self.mesh.nodes[node].peers().iter().any(|known| known.node == peer && known.state == "up")
        })
    }

    pub(super) fn by_way_of(&self) -> Option<Text> {
        let peer = self.mesh.nodes[1].settings.node;
        let peers = self.mesh.nodes[0].peers();
        peers.into_iter().find(|known| known.node == peer).and_then(|known| known.by_way_of)
    }

    pub(super) fn ends(&mut self) -> Vec<&'static str> {
        self.mesh.take(self.near, |event| match event {
            Event::CallEnded { outcome, .. } => Some(outcome.word()),
            _ => None,
        })
    }

    pub(super) fn runs(&mut self) -> Vec<u64> {
        self.mesh.take(self.far, |event| match event {
            Event::Invoke { invocation, .. } => Some(*invocation),
            _ => None,
        })
    }

    pub(super) fn call(&mut self) {
        self.mesh.call(self.near, &self.far_instance.clone(), "1");
    }

    pub(super) fn answer(&mut self, invocation: u64) {
        self.mesh.send(self.far, Command::Yield { invocation, result: Some(json("7")) });
    }

    /// The link of node 2 to node 0 or 1, as node 2 has it.
    fn link_at_the_middle(&self, to: usize) -> LinkId {
        let peer = self.mesh.nodes[to].settings.node;
        let links = &self.mesh.nodes[2].links;
        *links.iter().find(|(_, link)| link.peer == peer).unwrap().0
    }
}

#[test]
fn apps_of_nodes_without_a_link_see_and_call_each_other() {
    let mut triangle = Triangle::new();
    let seen = triangle.mesh.take(triangle.near, |event| match event {
        Event::InstanceAdded { instance, .. } => Some(instance.clone()),
        _ => None,
    });
    assert!(seen.is_empty(), "a direct dial has its chance first");
    triangle.mesh.wait_ms(1_100);
    assert_eq!(triangle.linked(), [true, true]);
    assert_eq!(triangle.by_way_of(), Some("node2".into()));
    let seen = triangle.mesh.take(triangle.near, |event| match event {
        Event::InstanceAdded { instance, .. } => Some(instance.clone()),
        _ => None,
    });
    assert_eq!(seen, [triangle.far_instance.clone()]);
    for _ in 0..3 {
        triangle.call();
        let [invocation] = triangle.runs()[..] else { panic!("it runs once") };
        triangle.answer(invocation);
        assert_eq!(triangle.ends(), ["ok"]);
    }
    triangle.mesh.wait_ms(10_000);
    assert_eq!(triangle.linked(), [true, true]);
    triangle.mesh.assert_equal();
}

/// What is registered on a node suffices to show its apps: a context that takes long does not hide them.
#[test]
fn a_relayed_link_waits_for_registrations_only() {
    let mut triangle = Triangle::new();
    triangle.mesh.hold = Some(|message| matches!(message, LinkMessage::Batch { .. }));
    triangle.mesh.create(triangle.far, "large", "{\"a\":1}", Lifetime::Retained);
    triangle.mesh.wait_ms(1_100);
    assert_eq!(triangle.linked(), [true, true]);
    let seen = triangle.mesh.take(triangle.near, |event| match event {
        Event::InstanceAdded { instance, .. } => Some(instance.clone()),
        _ => None,
    });
    assert_eq!(seen, [triangle.far_instance.clone()]);
    triangle.call();
    let [invocation] = triangle.runs()[..] else { panic!("it runs once") };
    triangle.mesh.hold = None;
    triangle.mesh.release();
    triangle.answer(invocation);
    assert_eq!(triangle.ends(), ["ok"]);
    triangle.mesh.wait_ms(2_000);
    triangle.mesh.assert_equal();
}

fn carries_call(message: &LinkMessage) -> bool {
    matches!(message, LinkMessage::Relay { carried: Carried::Message(carried), .. }
        if matches!(**carried, LinkMessage::Call { .. }))
}

/// What the link to the node between has no room for is shed as it is on a direct link.
#[test]
fn a_call_that_the_first_link_does_not_take_has_not_run() {
    let mut triangle = Triangle::new();
    triangle.mesh.wait_ms(1_100);
    triangle.mesh.hold = Some(carries_call);
    triangle.call();
    let message = triangle.mesh.held().find(|message| carries_call(message)).unwrap().clone();
    let between = triangle.mesh.nodes[2].settings.node;
    let links = &triangle.mesh.nodes[0].links;
    let link = *links.iter().find(|(_, link)| link.peer == between).unwrap().0;
    triangle.mesh.input(0, Input::NotSent { link, message, limit: "session_queues_bytes_max".into() });
    triangle.mesh.settle();
    assert_eq!(triangle.ends(), ["overloaded"]);
    assert!(triangle.runs().is_empty());
    assert_eq!(triangle.linked(), [true, true]);
}

#[test]
fn streams_and_publications_are_relayed_once() {
    let mut triangle = Triangle::new();
    triangle.mesh.wait_ms(1_100);
    let (near, far, server) = (triangle.near, triangle.far, triangle.far_instance.clone());
    let request = triangle.mesh.request();
    let (pattern, routing_key) = (Text::from("t"), None);
    triangle.mesh.send(near, Command::BusSubscribe { request, pattern, routing_key });
    triangle.mesh.subscribe(near, &server, "1");
    let asked = triangle.mesh.take(far, |event| match event {
        Event::SubscriptionRequested { subscription, .. } => Some(*subscription),
        _ => None,
    });
    let branch = Json::string("b");
    triangle.mesh.send(far, Command::Accept { subscription: asked[0], branch: branch.clone() });
    for number in 0..5 {
        let (branch, data) = (branch.clone(), json(&number.to_string()));
        triangle.mesh.send(far, Command::Push { branch, data: data.clone(), sequence: None, snapshot: None });
        let topic = Text::from("t");
        triangle.mesh.send(
            far,
            Command::BusPublish {
                topic,
                routing_key: None,
                target: None,
                data: json(&format!("[{number}]")),
            },
        );
    }
    let got = triangle.mesh.take(near, |event| match event {
        Event::StreamData { data, .. } | Event::BusEvent { data, .. } => Some(data.to_string()),
        _ => None,
    });
    assert_eq!(got, ["0", "[0]", "1", "[1]", "2", "[2]", "3", "[3]", "4", "[4]"]);
}

/// The call that runs while a direct link comes up, and again while it breaks, ends once and with its result.
#[test]
fn a_direct_link_takes_over_and_gives_back() {
    let mut triangle = Triangle::new();
    triangle.mesh.wait_ms(1_100);
    triangle.ends();
    triangle.call();
    let [first] = triangle.runs()[..] else { panic!("it runs") };
    triangle.mesh.link(0, 1);
    assert_eq!(triangle.by_way_of(), None);
    assert_eq!(triangle.linked(), [true, true]);
    assert!(triangle.mesh.events_of(triangle.near).is_empty(), "apps notice nothing of that");
    triangle.call();
    let [second] = triangle.runs()[..] else { panic!("it runs, and the first one not again") };
    triangle.mesh.cut(0, 1);
    assert_eq!(triangle.linked(), [false, false]);
    triangle.mesh.wait_ms(100);
    assert_eq!(triangle.by_way_of(), Some("node2".into()), "at once, so that the calls find it");
    triangle.answer(first);
    triangle.answer(second);
    assert_eq!(triangle.ends(), ["ok", "ok"]);
    assert!(triangle.runs().is_empty());
}

#[test]
fn when_the_node_between_is_gone_so_is_the_link() {
    let mut triangle = Triangle::new();
    triangle.mesh.wait_ms(1_100);
    triangle.ends();
    triangle.call();
    triangle.mesh.cut(1, 2);
    assert_eq!(triangle.linked(), [false, false], "the node between says so");
    triangle.mesh.wait_ms(3_000);
    assert_eq!(triangle.ends(), ["unknown_outcome"]);
    triangle.mesh.link(1, 2);
    triangle.mesh.wait_ms(1_100);
    assert_eq!(triangle.linked(), [true, true]);
}

#[test]
fn each_of_the_three_can_refuse_to_relay() {
    for refuses in 0..3 {
        let mut triangle = Triangle::with(|number| number != refuses);
        triangle.mesh.wait_ms(5_000);
        assert_eq!(triangle.linked(), [false, false], "node {refuses} refuses");
        triangle.mesh.assert_equal();
    }
}

/// A node that asks to pass a message on is named by the node between, and cannot name another.
#[test]
fn nobody_speaks_in_a_foreign_name() {
    let mut triangle = Triangle::new();
    triangle.mesh.wait_ms(1_100);
    let victim = triangle.mesh.nodes[0].settings.node;
    let ping = || Carried::Message(Box::new(LinkMessage::Ping { count: 1, sent: 1 }));
    let outputs = |node: &mut Node| std::iter::from_fn(|| node.poll_output()).collect::<Vec<_>>();
    // Node 1 asks node 2 to pass something on to node 0: it arrives as of node 1.
    let (link, now) = (triangle.link_at_the_middle(1), triangle.mesh.now());
    let message = LinkMessage::Relay { node: victim, channel: 9, lane: Lane::Control, carried: ping() };
    let middle = &mut triangle.mesh.nodes[2];
    middle.handle(Input::Link { link, lane: Lane::Control, message }, now);
    let forger = triangle.mesh.nodes[1].settings.node;
    let passed_on = outputs(&mut triangle.mesh.nodes[2]);
    let of_forger = |output: &Output| matches!(output, Output::Link { message: LinkMessage::Relayed { node, .. }, .. } if *node == forger);
    assert!(passed_on.len() == 1 && of_forger(&passed_on[0]), "{passed_on:?}");
    // What says that it was relayed is at its end: node 2 passes nothing on, and there is no such link.
    let message = LinkMessage::Relayed { node: victim, channel: 9, carried: ping() };
    let middle = &mut triangle.mesh.nodes[2];
    middle.handle(Input::Link { link, lane: Lane::Control, message }, now);
    let answers = outputs(middle);
    let rejects = |output: &Output| match output {
        Output::Link {
            link: to,
            message: LinkMessage::Relay { carried: Carried::Message(message), .. },
            ..
        } => *to == link && matches!(**message, LinkMessage::Reject { code: reject::NO_ROUTE, .. }),
        _ => false,
    };
    assert!(answers.len() == 1 && rejects(&answers[0]), "{answers:?}");
}

/// A node between that is asked to pass on what it cannot says so, and both ends know.
#[test]
fn what_the_node_between_cannot_take_breaks_the_relayed_link_only() {
    let mut triangle = Triangle::new();
    triangle.mesh.wait_ms(1_100);
    triangle.ends();
    triangle.call();
    let (link, node) = (triangle.link_at_the_middle(1), triangle.mesh.nodes[0].settings.node);
    let channel = triangle.mesh.nodes[0].links.values().find_map(|link| link.channel()).unwrap();
    triangle.mesh.input(2, Input::NotRelayed { link, node, channel });
    triangle.mesh.settle();
    assert_eq!(triangle.linked(), [false, false]);
    assert_eq!(triangle.mesh.nodes[2].status().peers_up, 2);
    // They find each other again, and the call is known.
    triangle.mesh.wait_ms(200);
    let [invocation] = triangle.runs()[..] else { panic!("it runs once") };
    triangle.answer(invocation);
    triangle.mesh.wait_ms(1_000);
    assert_eq!(triangle.ends(), ["ok"]);
}

#[test]
fn a_node_that_leaves_says_so_to_those_it_reaches_by_way_of_another() {
    let mut triangle = Triangle::new();
    triangle.mesh.wait_ms(1_100);
    triangle.ends();
    triangle.call();
    triangle.mesh.input(1, Input::Leave);
    triangle.mesh.settle();
    assert!(!triangle.linked()[0]);
    assert_eq!(triangle.ends(), ["unknown_outcome"], "at once");
}
