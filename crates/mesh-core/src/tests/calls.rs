//! Calls to other nodes whose links break, whose callers give up, and that come late.

use mesh_model::{
    Answer, Area, Arguments, CallFailure, CallId, Command, DomainId, Event, Incarnation, Json, Lane, LinkId,
    LinkMessage, NodeId, Origin, Outcome, SessionId, Text, Tick, Words,
};

use super::mesh::{App, Mesh, json};
use crate::served::{ENDED_CALLS_BYTES_MAX, ENDED_CALLS_MAX, Known, Served};
use crate::{Input, Output};

/// Two apps of one user on two nodes; the second offers method 1, which the first has called.
struct Pair {
    mesh: Mesh,
    caller: App,
    callee: App,
    instance: Text,
}

impl Pair {
    fn new() -> Self {
        let mut mesh = Mesh::new(2);
        let (caller, _) = mesh.app(0, "joe");
        let (callee, instance) = mesh.app(1, "joe");
        mesh.register(callee, "1", "Add");
        let mut pair = Self { mesh, caller, callee, instance };
        pair.ends();
        pair.runs();
        pair
    }

    fn call(&mut self) {
        self.mesh.call(self.caller, &self.instance.clone(), "1");
    }

    fn answer(&mut self, invocation: u64) {
        self.mesh.send(self.callee, Command::Yield { invocation, result: Some(json("7")) });
    }

    fn leave(&mut self) {
        let app = self.caller;
        self.mesh.ask(app, |request| Command::Leave {
            request,
            area: Area::Interop,
            words: Words::default(),
        });
        self.ends();
    }

    fn flap(&mut self) {
        self.mesh.cut(0, 1);
        self.mesh.link(0, 1);
    }

    /// Takes the invocations that the callee was told of.
    fn runs(&mut self) -> Vec<u64> {
        self.mesh.take(self.callee, |event| match event {
            Event::Invoke { invocation, .. } => Some(*invocation),
            _ => None,
        })
    }

    /// Takes the words of how the caller's calls ended.
    fn ends(&mut self) -> Vec<&'static str> {
        self.mesh.take(self.caller, |event| match event {
            Event::CallEnded { outcome, .. } => Some(outcome.word()),
            _ => None,
        })
    }

    fn running(&self) -> usize {
        self.mesh.nodes[1].invocations.len()
    }

    /// Gives the callee's node the call again, as if it had come by a slower path.
    fn straggle(&mut self, id: CallId) {
        let link = *self.mesh.nodes[1].links.keys().next().unwrap();
        let message = self.call_message(id);
        self.mesh.input(1, Input::Link { link, lane: Lane::Session(0), message });
        self.mesh.settle();
    }

    fn call_message(&self, id: CallId) -> LinkMessage {
        LinkMessage::Call {
            id,
            subscribe: false,
            from: self.mesh.nodes[0].sessions[&SessionId(self.caller.1)].instance.clone(),
            to: self.instance.clone(),
            method: Json::string("1"),
            arguments: Arguments::default(),
            millis_left: 1_000,
            after: 0,
            trace: None,
        }
    }
}

/// Names of instances are of the form that goes as bytes, and what is usual is not said.
#[test]
fn a_call_and_its_answer_add_few_bytes() {
    let mut pair = Pair::new();
    pair.mesh.bytes.clear();
    pair.call();
    let [invocation] = pair.runs()[..] else { panic!("it runs") };
    pair.answer(invocation);
    assert_eq!(pair.ends(), ["ok"]);
    let (call, end) = (pair.mesh.bytes[&(0, 1)], pair.mesh.bytes[&(1, 0)]);
    assert!(call <= 44 && end <= 14, "{call} and {end} bytes");
}

#[test]
fn a_call_outlives_its_link_and_ends_once() {
    // It is answered before the link breaks, while there is none, or over the next one.
    for answered_in in 0..3 {
        let mut pair = Pair::new();
        pair.call();
        let [invocation] = pair.runs()[..] else { panic!("it runs") };
        if answered_in == 0 {
            pair.mesh.hold = Some(|message| matches!(message, LinkMessage::CallEnd { .. }));
            pair.answer(invocation);
        }
        pair.mesh.cut(0, 1);
        if answered_in == 1 {
            pair.answer(invocation);
        }
        pair.mesh.wait_ms(1_800);
        assert!(pair.ends().is_empty());
        pair.mesh.hold = None;
        pair.mesh.link(0, 1);
        if answered_in == 2 {
            assert!(pair.ends().is_empty());
            pair.flap();
            pair.answer(invocation);
        }
        pair.mesh.release();
        assert_eq!(pair.ends(), ["ok"], "answered in {answered_in}");
        pair.flap();
        pair.mesh.wait_ms(10_000);
        assert!(pair.ends().is_empty() && pair.runs().is_empty());
    }
}

#[test]
fn a_call_outlives_the_change_to_a_newer_link() {
    let mut pair = Pair::new();
    pair.call();
    pair.mesh.link(1, 0);
    pair.mesh.wait_ms(10_000);
    assert!(pair.ends().is_empty());
    let invocation = pair.runs()[0];
    pair.answer(invocation);
    assert_eq!(pair.ends(), ["ok"]);
}

#[test]
fn a_call_that_never_came_is_not_delivered_and_will_not_run() {
    let mut pair = Pair::new();
    pair.mesh.hold = Some(|message| matches!(message, LinkMessage::Call { .. }));
    pair.call();
    let id = *pair.mesh.nodes[0].calls.keys().next().unwrap();
    pair.flap();
    assert_eq!(pair.ends(), ["not_delivered"]);
    pair.mesh.release();
    pair.straggle(id);
    assert!(pair.runs().is_empty(), "fenced");
    pair.call();
    assert_eq!(pair.runs().len(), 1);
}

#[test]
fn a_call_runs_once_whatever_comes_again() {
    let mut pair = Pair::new();
    pair.call();
    let id = *pair.mesh.nodes[0].calls.keys().next().unwrap();
    let [invocation] = pair.runs()[..] else { panic!("it runs") };
    pair.straggle(id);
    pair.answer(invocation);
    pair.straggle(id);
    assert_eq!(pair.ends(), ["ok"]);
    assert!(pair.runs().is_empty());
}

#[test]
fn without_a_link_in_time_it_is_unknown_whether_it_ran() {
    let mut pair = Pair::new();
    pair.call();
    let [invocation] = pair.runs()[..] else { panic!("it runs") };
    pair.mesh.cut(0, 1);
    pair.mesh.wait_ms(1_900);
    assert_eq!(pair.ends(), ["unknown_outcome"]);
    pair.mesh.link(0, 1);
    assert_eq!(pair.running(), 0, "its caller's node did not ask for it");
    pair.answer(invocation);
    assert!(pair.ends().is_empty());
}

#[test]
fn a_silent_node_keeps_its_calls_no_longer_than_two_seconds() {
    let mut pair = Pair::new();
    pair.call();
    pair.mesh.hold = Some(|_| true);
    pair.mesh.wait_ms(1_800);
    assert!(pair.ends().is_empty());
    pair.mesh.wait_ms(200);
    assert_eq!(pair.ends(), ["unknown_outcome"]);
}

#[test]
fn a_callee_that_died_or_leaves_ends_its_calls_at_once() {
    let mut pair = Pair::new();
    pair.call();
    pair.mesh.restart(1, 2);
    assert!(pair.ends().is_empty());
    pair.mesh.link(0, 1);
    assert_eq!(pair.ends(), ["unknown_outcome"], "the life that knew of it is over");

    let mut pair = Pair::new();
    pair.call();
    pair.mesh.input(1, Input::Leave);
    pair.mesh.settle();
    assert_eq!(pair.ends(), ["unknown_outcome"]);
}

#[test]
fn what_an_earlier_life_called_is_no_answer_to_the_next() {
    let mut pair = Pair::new();
    pair.call();
    let [invocation] = pair.runs()[..] else { panic!("it runs") };
    pair.mesh.restart(0, 2);
    pair.mesh.link(0, 1);
    assert_eq!(pair.running(), 0);
    pair.caller = pair.mesh.app(0, "joe").0;
    pair.call();
    pair.answer(invocation);
    assert!(pair.ends().is_empty());
    let [invocation] = pair.runs()[..] else { panic!("it runs") };
    pair.answer(invocation);
    assert_eq!(pair.ends(), ["ok"]);
}

#[test]
fn a_call_that_is_given_up_takes_no_room_at_its_callee() {
    let mut pair = Pair::new();
    pair.call();
    let [invocation] = pair.runs()[..] else { panic!("it runs") };
    pair.leave();
    assert_eq!(pair.running(), 0);
    pair.answer(invocation);
    assert!(pair.ends().is_empty());

    // The caller leaves while there is no link to say it over.
    let mut pair = Pair::new();
    pair.call();
    pair.mesh.cut(0, 1);
    pair.leave();
    assert_eq!(pair.running(), 1);
    pair.mesh.link(0, 1);
    assert_eq!(pair.running(), 0);

    // The caller leaves between the link's coming back and word of the call.
    let mut pair = Pair::new();
    pair.call();
    pair.mesh.cut(0, 1);
    pair.mesh.hold = Some(|message| matches!(message, LinkMessage::CallState { .. }));
    pair.mesh.link(0, 1);
    assert_eq!(pair.running(), 1);
    pair.leave();
    assert_eq!(pair.running(), 0);

    // Its node leaves.
    let mut pair = Pair::new();
    pair.call();
    pair.mesh.input(0, Input::Leave);
    pair.mesh.settle();
    assert_eq!(pair.running(), 0);

    // Its node does not come back.
    let mut pair = Pair::new();
    pair.call();
    pair.mesh.cut(0, 1);
    pair.mesh.wait_ms(30_000);
    assert_eq!(pair.running(), 0);
}

#[test]
fn a_call_that_is_overtaken_by_its_cancellation_does_not_run() {
    let mut pair = Pair::new();
    pair.mesh.hold = Some(|message| matches!(message, LinkMessage::Call { .. }));
    pair.call();
    pair.leave();
    pair.mesh.release();
    assert!(pair.runs().is_empty());
    assert_eq!(pair.running(), 0);
}

#[test]
fn a_deadline_holds_at_both_ends() {
    let mut pair = Pair::new();
    pair.mesh.nodes[0].settings.limits.call_ms_max = 1_000;
    pair.call();
    // The callee's node keeps the time by itself, and is told besides.
    pair.mesh.hold =
        Some(|message| matches!(message, LinkMessage::Cancel { .. } | LinkMessage::CallEnd { .. }));
    pair.mesh.wait_ms(900);
    assert_eq!((pair.ends().len(), pair.running()), (0, 1));
    pair.mesh.wait_ms(100);
    assert_eq!((pair.ends(), pair.running()), (vec!["deadline"], 0));
    pair.mesh.release();
    assert!(pair.ends().is_empty());

    // A call waits for its link no longer than its deadline.
    let mut pair = Pair::new();
    pair.mesh.nodes[0].settings.limits.call_ms_max = 500;
    pair.call();
    pair.mesh.cut(0, 1);
    pair.mesh.wait_ms(500);
    assert_eq!(pair.ends(), ["deadline"]);
}

#[test]
fn the_callee_s_node_grants_no_more_than_its_own_limit() {
    let mut pair = Pair::new();
    pair.mesh.nodes[1].settings.limits.call_ms_max = 1_000;
    pair.call();
    pair.mesh.wait_ms(1_000);
    let ended = pair.mesh.take(pair.caller, |event| match event {
        Event::CallEnded { outcome, .. } => Some(outcome.clone()),
        _ => None,
    });
    assert_eq!(ended, [Outcome::Failed(CallFailure::Deadline { millis: 1_000 })]);
}

#[test]
fn an_end_that_is_forgotten_is_an_unknown_outcome() {
    let mut pair = Pair::new();
    pair.mesh.nodes[0].settings.timing.call_grace_ms = 60_000;
    pair.call();
    let [invocation] = pair.runs()[..] else { panic!("it runs") };
    pair.mesh.cut(0, 1);
    pair.answer(invocation);
    pair.mesh.wait_ms(30_100);
    pair.mesh.link(0, 1);
    assert_eq!(pair.ends(), ["unknown_outcome"]);
}

/// Calls and publications name no domain: before that of the link is known to be this node's, they wait.
#[test]
fn a_node_of_another_domain_is_not_listened_to() {
    let publication = LinkMessage::Publish {
        user: Some("joe".into()),
        service: false,
        restriction: None,
        topic: "t".into(),
        routing_key: None,
        target: None,
        publisher: json("{}"),
        data: json("1"),
        after: 0,
    };
    let call = Pair::new().call_message(CallId(9));
    for (message, foreign) in [(&call, false), (&publication, false), (&call, true), (&publication, true)] {
        let mut pair = Pair::new();
        let app = pair.callee;
        pair.mesh.ask(app, |request| Command::BusSubscribe {
            request,
            pattern: "t".into(),
            routing_key: None,
        });
        pair.mesh.cut(0, 1);
        if foreign {
            pair.mesh.nodes[0].settings.domain = DomainId([8; 16]);
        }
        pair.mesh.hold = Some(|message| matches!(message, LinkMessage::DomainOpen { .. }));
        pair.mesh.link(0, 1);
        let link = *pair.mesh.nodes[1].links.keys().next().unwrap();
        pair.mesh.input(1, Input::Link { link, lane: Lane::Session(0), message: message.clone() });
        let delivered = |mesh: &mut Mesh| {
            let mut events = mesh.events_of(app).into_iter();
            events.any(|e| matches!(e, Event::Invoke { .. } | Event::BusEvent { .. }))
        };
        assert!(!delivered(&mut pair.mesh));
        pair.mesh.release();
        assert_eq!(pair.mesh.nodes[1].links.is_empty(), foreign);
        assert_eq!(delivered(&mut pair.mesh), !foreign);
    }
}

/// What is large does not stand in the way of what is small: it has another lane, both ways.
#[test]
fn large_calls_and_results_travel_beside_the_lanes() {
    fn lane(pair: &mut Pair, node: usize, session: u64, command: Command) -> Lane {
        let now = pair.mesh.now();
        let node = &mut pair.mesh.nodes[node];
        node.handle(Input::Session { session: SessionId(session), command }, now);
        let mut lanes = Vec::new();
        while let Some(output) = node.poll_output() {
            if let Output::Link {
                lane,
                message: LinkMessage::Call { .. } | LinkMessage::CallEnd { .. },
                ..
            } = output
            {
                lanes.push(lane);
            }
        }
        assert_eq!(lanes.len(), 1);
        lanes[0]
    }
    let mut pair = Pair::new();
    let large = Json::string(&"x".repeat(10 << 20));
    let (caller, callee) = (pair.caller, pair.callee);
    for (payload, bulk) in [(large, true), (json("1"), false)] {
        pair.call();
        let invocation = pair.runs()[0];
        let server = pair.instance.clone();
        let request = pair.mesh.request();
        let arguments = Arguments { named: Some(payload.clone()), ..Arguments::default() };
        let call = Command::Call { request, server, method: Json::string("1"), arguments, trace: None };
        let answer = Command::Yield { invocation, result: Some(payload) };
        assert_eq!(lane(&mut pair, 0, caller.1, call) == Lane::Bulk, bulk);
        assert_eq!(lane(&mut pair, 1, callee.1, answer) == Lane::Bulk, bulk);
    }
}

#[test]
fn what_is_known_of_ended_calls_is_bounded() {
    let origin = |life| Origin { node: NodeId([3; 16]), incarnation: Incarnation(life) };
    let mut served = Served::default();
    served.run(origin(1), CallId(1), 77);
    for id in 2..ENDED_CALLS_MAX as u64 + 3 {
        served.fence(origin(1), CallId(id), Tick(id));
    }
    assert_eq!(served.get(origin(1), CallId(1)), Some(Known::Running(77)), "what runs is not forgotten");
    assert_eq!(served.get(origin(1), CallId(2)), Some(Known::Forgotten));
    assert_eq!(served.get(origin(1), CallId(3)), Some(Known::Fenced));
    assert_eq!(served.get(origin(0), CallId(9)), Some(Known::Forgotten), "of an earlier life");
    assert_eq!(served.get(origin(2), CallId(1)), None);

    let half = Some(Json::string(&"x".repeat(ENDED_CALLS_BYTES_MAX / 2)));
    let outcome = Outcome::Answered(Answer::Result(half));
    for id in [1, 2] {
        served.end(origin(2), CallId(id), &outcome, Tick(1 << 20));
    }
    assert_eq!(served.get(origin(2), CallId(1)), Some(Known::Forgotten));
    assert_eq!(served.get(origin(2), CallId(2)), Some(Known::Ended(outcome)));
    served.forget_until(Tick(1 << 20));
    assert_eq!(served.get(origin(2), CallId(2)), Some(Known::Forgotten));
    assert_eq!(served.get(origin(2), CallId(3)), None);
    assert_eq!(served.running(NodeId([3; 16])), [(origin(1), CallId(1), 77)]);
}

#[test]
fn only_a_call_that_takes_a_while_is_said_to_run() {
    for (waits, messages) in [(false, 1), (true, 2)] {
        let mut pair = Pair::new();
        pair.mesh.traffic.clear();
        pair.call();
        let invocation = pair.runs()[0];
        if waits {
            pair.mesh.wait_ms(400);
            assert!(pair.mesh.nodes[0].calls.values().all(|call| call.accepted));
            pair.mesh.wait_ms(4_000);
        }
        pair.answer(invocation);
        assert_eq!(pair.ends(), ["ok"]);
        assert_eq!(pair.mesh.traffic[&(1, 0)], messages);
        assert!(pair.mesh.nodes[1].unaccepted.is_empty());
    }
}

/// A node that has lost its memory does not make a call that ran one that did not.
#[test]
fn what_the_callee_was_given_cannot_be_unseen() {
    let mut pair = Pair::new();
    pair.call();
    assert_eq!(pair.runs().len(), 1);
    pair.mesh.wait_ms(400);
    pair.mesh.cut(0, 1);
    pair.mesh.nodes[1].served = Served::default();
    pair.mesh.link(0, 1);
    assert_eq!(pair.ends(), ["unknown_outcome"]);
}

/// A node that slept is waited for no longer, but was given the call: that it ran cannot be ruled out.
#[test]
fn what_ran_and_was_cancelled_is_no_call_that_never_came() {
    let mut pair = Pair::new();
    pair.mesh.nodes[0].settings.timing.call_grace_ms = 60_000;
    pair.mesh.nodes[1].settings.timing.gone_ms = 2_000;
    pair.mesh.hold = Some(|message| matches!(message, LinkMessage::Accepted { .. }));
    pair.call();
    assert_eq!(pair.runs().len(), 1);
    pair.mesh.cut(0, 1);
    pair.mesh.wait_ms(2_000);
    assert_eq!(pair.running(), 0);
    pair.mesh.link(0, 1);
    assert_eq!(pair.ends(), ["unknown_outcome"]);
}

#[test]
fn word_of_calls_that_do_not_wait_changes_nothing() {
    let mut pair = Pair::new();
    pair.call();
    let id = *pair.mesh.nodes[0].calls.keys().next().unwrap();
    let link: LinkId = *pair.mesh.nodes[0].links.keys().next().unwrap();
    let message = LinkMessage::CallState { known: vec![], unseen: vec![id], forgotten: vec![id] };
    pair.mesh.input(0, Input::Link { link, lane: Lane::Control, message });
    assert!(pair.ends().is_empty());
}
