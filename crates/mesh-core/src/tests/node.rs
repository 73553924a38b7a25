//! One conversation per pattern, between two or three nodes.

use mesh_model::{
    Answer, Area, Arguments, CallFailure, Cause, Command, Event, Json, Lifetime, LinkMessage, Outcome,
    Reason, Text, Words,
};

use super::mesh::{App, Mesh, json};

/// Two apps of one user on two nodes; the second offers method 1.
fn two() -> (Mesh, (App, Text), (App, Text)) {
    let mut mesh = Mesh::new(2);
    let one = mesh.app(0, "joe");
    let two = mesh.app(1, "joe");
    mesh.register(two.0, "1", "Add");
    mesh.events_of(one.0);
    mesh.events_of(two.0);
    (mesh, one, two)
}

fn ended(event: &Event) -> Option<Outcome> {
    match event {
        Event::CallEnded { outcome, .. } => Some(outcome.clone()),
        _ => None,
    }
}

fn invoked(event: &Event) -> Option<u64> {
    match event {
        Event::Invoke { invocation, .. } => Some(*invocation),
        _ => None,
    }
}

fn wanted(event: &Event) -> Option<u64> {
    match event {
        Event::SubscriptionRequested { subscription, .. } => Some(*subscription),
        _ => None,
    }
}

fn data(event: &Event) -> Option<String> {
    match event {
        Event::StreamData { data, private, .. } => Some(format!("{data}{}", if *private { "!" } else { "" })),
        _ => None,
    }
}

/// Names the events about instances and what hangs on them, in order.
fn story(event: &Event) -> Option<&'static str> {
    Some(match event {
        Event::InstanceAdded { .. } => "added",
        Event::MethodsAdded { .. } => "methods",
        Event::MethodsRemoved { .. } => "methods gone",
        Event::InstanceRemoved { .. } => "removed",
        Event::CallEnded { .. } => "call ended",
        Event::StreamData { .. } => "data",
        Event::SubscriptionEnded { .. } => "subscription ended",
        Event::SubscriberGone { .. } => "subscriber gone",
        _ => return None,
    })
}

fn result(text: &str) -> Outcome {
    Outcome::Answered(Answer::Result(Some(json(text))))
}

#[test]
fn apps_of_one_user_see_each_other_and_no_others() {
    let mut mesh = Mesh::new(2);
    let (one, _) = mesh.app(0, "joe");
    let (ann, _) = mesh.app(1, "ann");
    mesh.events_of(one);
    let (two, instance) = mesh.app(1, "joe");
    mesh.register(two, "1", "Add");
    assert_eq!(mesh.take(one, story), ["added", "methods"]);
    assert_eq!(mesh.take(ann, story), [""; 0]);
    let request = mesh.call(ann, &instance, "1");
    assert!(
        matches!(mesh.take(ann, ended)[..], [Outcome::Failed(CallFailure::NoTarget { .. })]),
        "{request:?}"
    );
    let (late, _) = mesh.app(0, "joe");
    assert_eq!(mesh.take(late, story), ["added", "added", "methods"]);
    mesh.input(1, crate::Input::SessionClosed { session: mesh_model::SessionId(two.1), heard: None });
    mesh.settle();
    assert_eq!(mesh.take(one, story), ["added", "methods gone", "removed"]);
    mesh.assert_equal();
}

#[test]
fn a_call_ends_as_its_callee_says() {
    let (mut mesh, (one, _), (two, instance)) = two();
    mesh.call(one, &instance, "1");
    let invocation = mesh.take(two, invoked)[0];
    mesh.send(two, Command::Yield { invocation, result: Some(json("{\"a\":1}")) });
    mesh.send(two, Command::Yield { invocation, result: Some(json("{\"a\":2}")) });
    assert_eq!(mesh.take(one, ended), [result("{\"a\":1}")]);

    mesh.call(one, &instance, "1");
    let id = mesh.take(two, invoked)[0];
    let words = Words { uri: None, reason: Some(json("\"no\"")) };
    mesh.ask(two, |request| Command::Fail { request, id, words: words.clone(), context: None });
    assert_eq!(mesh.take(one, ended), [Outcome::Answered(Answer::Error { words, context: None })]);
    assert!(mesh.nodes.iter().all(|node| node.invocations.is_empty() && node.calls.is_empty()));
}

#[test]
fn an_answer_is_not_lost_when_its_callee_leaves_behind_it() {
    let (mut mesh, (one, _), (two, instance)) = two();
    mesh.call(one, &instance, "1");
    mesh.call(one, &instance, "1");
    let invocations = mesh.take(two, invoked);
    // The lane of the answer is slower than the one that tells that the callee has gone.
    mesh.hold = Some(|message| message.is_session_traffic());
    mesh.send(two, Command::Yield { invocation: invocations[0], result: Some(json("7")) });
    mesh.input(1, crate::Input::SessionClosed { session: mesh_model::SessionId(two.1), heard: None });
    mesh.settle();
    mesh.release();
    let events = mesh.events_of(one);
    let outcomes: Vec<_> = events.iter().filter_map(ended).collect();
    assert_eq!(outcomes, [result("7"), Outcome::Failed(CallFailure::CalleeGone)]);
    let story: Vec<_> = events.iter().filter_map(story).collect();
    assert_eq!(story, ["call ended", "call ended", "methods gone", "removed"]);
    assert!(mesh.nodes[0].remote.is_empty());
}

#[test]
fn a_caller_that_leaves_interop_is_answered_once() {
    let (mut mesh, (one, _), (two, instance)) = two();
    mesh.call(one, &instance, "1");
    mesh.subscribe(one, &instance, "1");
    let invocation = mesh.take(two, invoked)[0];
    mesh.ask(one, |request| Command::Leave { request, area: Area::Interop, words: Words::default() });
    mesh.send(two, Command::Yield { invocation, result: None });
    assert_eq!(mesh.take(one, ended).len(), 2);
}

#[test]
fn calls_end_when_the_link_breaks_or_time_is_up() {
    let (mut mesh, (one, _), (two, instance)) = two();
    let local = mesh.app(1, "joe").0;
    mesh.call(one, &instance, "1");
    mesh.call(local, &instance, "1");
    mesh.cut(0, 1);
    assert!(mesh.take(one, ended).is_empty(), "the link may come back");
    mesh.wait_ms(1_900);
    assert!(matches!(mesh.take(one, ended)[..], [Outcome::Failed(CallFailure::UnknownOutcome { .. })]));
    mesh.call(one, &instance, "1");
    assert!(matches!(mesh.take(one, ended)[..], [Outcome::Failed(CallFailure::NotDelivered { .. })]));
    mesh.link(0, 1);
    mesh.events_of(one);
    mesh.call(one, &instance, "1");
    mesh.wait_ms(600_000);
    assert!(matches!(mesh.take(one, ended)[..], [Outcome::Failed(CallFailure::Deadline { .. })]));
    assert!(matches!(mesh.take(local, ended)[..], [Outcome::Failed(CallFailure::Deadline { .. })]));
    mesh.events_of(two);
    assert!(mesh.nodes[1].invocations.is_empty(), "a callee that never answers is not charged for ever");
}

#[test]
fn a_stream_flows_in_order_over_its_branches() {
    let (mut mesh, (one, _), (two, instance)) = two();
    mesh.subscribe(one, &instance, "1");
    mesh.subscribe(one, &instance, "1");
    let subs = mesh.take(two, wanted);
    for subscription in &subs {
        mesh.send(two, Command::Accept { subscription: *subscription, branch: json("\"b\"") });
    }
    let mine: Vec<u64> = mesh.take(one, |event| match event {
        Event::Subscribed { subscription, .. } => Some(*subscription),
        _ => None,
    });
    assert_eq!(mine.len(), 2);
    let push =
        |text| Command::Push { branch: json("\"b\""), data: json(text), sequence: None, snapshot: None };
    mesh.send(two, push("1"));
    let to = Command::PushTo { subscription: subs[0], data: json("2"), sequence: None, snapshot: None };
    mesh.send(two, to);
    assert_eq!(mesh.take(one, data), ["1", "1", "2!"]);
    let subscription = mine[0];
    mesh.ask(one, |request| Command::Unsubscribe { request, subscription, words: Words::default() });
    assert_eq!(mesh.take(two, story), ["subscriber gone"]);
    mesh.send(two, push("3"));
    assert_eq!(mesh.take(one, data), ["3"]);
    mesh.ask(two, |request| Command::Unregister { request, methods: vec![json("\"1\"")] });
    assert_eq!(mesh.take(one, story), ["subscription ended", "methods gone"]);
    assert!(mesh.nodes[0].remote_branches.is_empty() && mesh.nodes[1].branches.is_empty());
}

#[test]
fn the_last_data_of_a_stream_arrives_before_its_provider_goes() {
    let (mut mesh, (one, _), (two, instance)) = two();
    mesh.subscribe(one, &instance, "1");
    let subscription = mesh.take(two, wanted)[0];
    mesh.send(two, Command::Accept { subscription, branch: json("1") });
    mesh.events_of(one);
    mesh.hold = Some(|message| message.is_session_traffic());
    mesh.send(two, Command::Push { branch: json("1"), data: json("1"), sequence: None, snapshot: None });
    mesh.ask(two, |request| Command::Unregister { request, methods: vec![json("\"1\"")] });
    mesh.release();
    assert_eq!(mesh.take(one, story), ["data", "subscription ended", "methods gone"]);
}

#[test]
fn a_killed_subscription_ends_and_its_request_is_not_answered_twice() {
    let (mut mesh, (far, _), (two, instance)) = two();
    let near = mesh.app(1, "joe").0;
    for app in [far, near] {
        mesh.events_of(app);
        mesh.subscribe(app, &instance, "1");
        let id = mesh.take(two, wanted)[0];
        mesh.send(two, Command::Accept { subscription: id, branch: json("1") });
        mesh.events_of(app);
        let words = Words { uri: None, reason: Some(json("\"no\"")) };
        mesh.ask(two, |request| Command::Fail { request, id, words: words.clone(), context: None });
        let events = mesh.events_of(app);
        assert!(
            matches!(&events[..], [Event::SubscriptionEnded { cause: Cause::Left(w), .. }] if *w == words),
            "{events:?}"
        );
    }
}

#[test]
fn subscriptions_outlive_a_flap_and_die_with_the_node() {
    let (mut mesh, (one, _), (two, instance)) = two();
    mesh.subscribe(one, &instance, "1");
    let subscription = mesh.take(two, wanted)[0];
    mesh.send(two, Command::Accept { subscription, branch: json("1") });
    mesh.events_of(one);
    let push = |text| Command::Push { branch: json("1"), data: json(text), sequence: None, snapshot: None };
    mesh.cut(0, 1);
    assert_eq!(mesh.take(two, story), ["subscriber gone", "removed"], "the provider need not wait");
    mesh.send(two, push("1"));
    mesh.wait_ms(5_000);
    mesh.link(0, 1);
    let again = mesh.take(two, wanted)[0];
    assert_ne!(again, subscription);
    mesh.send(two, Command::Accept { subscription: again, branch: json("1") });
    mesh.send(two, push("2"));
    assert_eq!(mesh.take(one, story), ["methods gone", "removed", "added", "methods", "data"]);
    mesh.restart(1, 2);
    mesh.link(0, 1);
    assert_eq!(mesh.take(one, story), ["methods gone", "removed", "subscription ended"]);
    mesh.assert_equal();
}

#[test]
fn a_subscription_is_asked_for_again_as_it_was_and_may_be_refused() {
    let (mut mesh, (one, one_id), (two, instance)) = two();
    let subscribe = |request| Command::Subscribe {
        request,
        server: instance,
        method: json("\"1\""),
        arguments: Arguments { named: Some(json("{\"symbol\":\"VOD\"}")), ..Arguments::default() },
    };
    mesh.ask(one, subscribe);
    let asked = |event: &Event| match event {
        Event::SubscriptionRequested { subscription, caller, arguments, .. } => {
            Some((*subscription, caller.clone(), arguments.clone()))
        }
        _ => None,
    };
    let (subscription, _, arguments) = mesh.take(two, asked).remove(0);
    mesh.send(two, Command::Accept { subscription, branch: json("1") });
    for branch in ["2", "3"] {
        mesh.cut(0, 1);
        mesh.link(0, 1);
        let (again, caller, same) = mesh.take(two, asked).remove(0);
        assert_eq!((caller, &same), (one_id.clone(), &arguments));
        mesh.events_of(one);
        mesh.send(two, Command::Accept { subscription: again, branch: json(branch) });
        for (branch, data) in [("1", "1"), (branch, "2")] {
            let (branch, data) = (json(branch), json(data));
            mesh.send(two, Command::Push { branch, data, sequence: None, snapshot: None });
        }
        assert_eq!(mesh.take(one, data), ["2"], "of the branch that it is bound to now");
    }
    mesh.cut(0, 1);
    mesh.link(0, 1);
    let (again, ..) = mesh.take(two, asked).remove(0);
    mesh.events_of(one);
    mesh.ask(two, |request| Command::Fail { request, id: again, words: Words::default(), context: None });
    assert_eq!(mesh.take(one, story), ["subscription ended"]);
    // Nothing is left of it on either side.
    mesh.cut(0, 1);
    mesh.link(0, 1);
    assert!(mesh.take(two, asked).is_empty());
}

#[test]
fn a_caller_is_shown_before_it_calls() {
    let (mut mesh, (one, _), (two, instance)) = two();
    mesh.cut(0, 1);
    mesh.events_of(two);
    // What node 0 holds is slow to arrive; its app's call is quick.
    mesh.hold = Some(|message| matches!(message, LinkMessage::DomainOpen { .. }));
    mesh.link(0, 1);
    mesh.hold = Some(|message| matches!(message, LinkMessage::Batch { entries, .. } if entries.is_empty()));
    mesh.release();
    mesh.call(one, &instance, "1");
    let order: Vec<bool> = mesh.take(two, |event| match event {
        Event::InstanceAdded { .. } => Some(true),
        Event::Invoke { .. } => Some(false),
        _ => None,
    });
    assert_eq!(order, [true, false]);
}

#[test]
fn contexts_are_shared_and_everybody_is_told_the_difference() {
    let (mut mesh, (one, _), (two, _)) = two();
    mesh.create(one, "K", "{\"a\":1}", Lifetime::Retained);
    assert_eq!(mesh.value(1, "K").as_deref(), Some("{\"a\":1}"));
    let (here, there) = (mesh.context(0, "K").unwrap(), mesh.context(1, "K").unwrap());
    mesh.ask(two, |request| Command::SubscribeContext { request, context: there.clone() });
    mesh.events_of(one);
    mesh.events_of(two);
    let updates = |mesh: &mut Mesh, app| {
        mesh.take(app, |event| match event {
            Event::ContextUpdated { delta, .. } => Some(delta.to_string()),
            _ => None,
        })
    };
    mesh.update(one, &here, "{\"commands\":[{\"type\":\"set\",\"path\":\"b.c\",\"value\":2}]}");
    assert_eq!(updates(&mut mesh, two).len(), 1);
    assert_eq!(updates(&mut mesh, one).len(), 0);
    mesh.update(two, &there, "{\"commands\":[{\"type\":\"remove\",\"path\":\"b.c\"}]}");
    assert_eq!(mesh.value(0, "K").as_deref(), Some("{\"a\":1,\"b\":{}}"), "an emptied parent stays");
    assert_eq!(
        updates(&mut mesh, one),
        [
            "{\"added\":{},\"updated\":{},\"removed\":[],\"commands\":[{\"type\":\"remove\",\"path\":\"b.c\"}]}"
        ]
    );
    mesh.update(two, &there, "{\"reset\":{\"z\":[1]}}");
    assert_eq!(mesh.value(0, "K").as_deref(), Some("{\"z\":[1]}"));
    mesh.ask(one, |request| Command::DestroyContext { request, context: here.clone() });
    assert_eq!(mesh.value(1, "K"), None);
    mesh.assert_equal();
}

#[test]
fn concurrent_edits_merge_and_the_newest_creation_finds_both() {
    let (mut mesh, (one, _), (two, _)) = two();
    mesh.cut(0, 1);
    mesh.create(one, "K", "{\"a\":1,\"o\":{}}", Lifetime::Retained);
    mesh.create(two, "K", "{\"b\":1}", Lifetime::Retained);
    mesh.link(0, 1);
    assert_eq!(mesh.value(0, "K"), mesh.value(1, "K"));
    assert!(mesh.value(0, "K").unwrap().contains("\"a\":1"));
    let ids = [mesh.context(0, "K").unwrap(), mesh.context(1, "K").unwrap()];
    mesh.cut(0, 1);
    mesh.update(one, &ids[0], "{\"commands\":[{\"type\":\"set\",\"path\":\"o.x\",\"value\":1}]}");
    mesh.update(two, &ids[1], "{\"commands\":[{\"type\":\"set\",\"path\":\"o.y\",\"value\":1}]}");
    mesh.update(two, &ids[1], "{\"commands\":[{\"type\":\"set\",\"path\":\"a\",\"value\":2}]}");
    mesh.link(0, 1);
    assert_eq!(mesh.value(0, "K"), mesh.value(1, "K"));
    assert!(mesh.value(0, "K").unwrap().contains("\"x\":1"), "{:?}", mesh.value(0, "K"));
    assert!(mesh.value(0, "K").unwrap().contains("\"a\":2"));
    mesh.assert_equal();
}

#[test]
fn counted_and_owned_contexts_end_with_their_holders() {
    let mut mesh = Mesh::new(2);
    let (one, _) = mesh.app(0, "joe");
    let (two, _) = mesh.app(1, "joe");
    mesh.create(one, "C", "{}", Lifetime::RefCounted);
    mesh.create(one, "O", "{}", Lifetime::Ownership);
    mesh.create(two, "C", "{}", Lifetime::RefCounted);
    mesh.input(0, crate::Input::SessionClosed { session: mesh_model::SessionId(one.1), heard: None });
    mesh.settle();
    assert_eq!((mesh.value(1, "O"), mesh.value(1, "C").is_some()), (None, true));
    let (three, _) = mesh.app(0, "joe");
    mesh.create(three, "O", "{}", Lifetime::Ownership);
    mesh.input(1, crate::Input::SessionClosed { session: mesh_model::SessionId(two.1), heard: None });
    mesh.settle();
    assert_eq!(mesh.value(0, "C"), None);
    // A node that dies takes along what lived by it, once it is known to live no more.
    mesh.restart(0, 2);
    assert!(mesh.value(1, "O").is_some());
    mesh.link(0, 1);
    assert_eq!((mesh.value(0, "O"), mesh.value(1, "O")), (None, None));
    mesh.assert_equal();
}

#[test]
fn publications_reach_whoever_wants_them_once() {
    let (mut mesh, (one, _), (two, _)) = two();
    for pattern in ["a.b", "a.*"] {
        mesh.ask(two, |request| Command::BusSubscribe {
            request,
            pattern: pattern.into(),
            routing_key: None,
        });
    }
    mesh.events_of(two);
    let publish = |topic: &str| Command::BusPublish {
        topic: topic.into(),
        routing_key: None,
        target: None,
        data: json("1"),
    };
    let got = |mesh: &mut Mesh| mesh.take(two, |e| matches!(e, Event::BusEvent { .. }).then_some(())).len();
    mesh.send(one, publish("a.b"));
    assert_eq!(got(&mut mesh), 2);
    mesh.send(one, publish("a.c"));
    assert_eq!(got(&mut mesh), 1);
    mesh.ask(two, |request| Command::Leave { request, area: Area::Bus, words: Words::default() });
    mesh.send(one, publish("a.b"));
    assert_eq!(got(&mut mesh), 0);
}

#[test]
fn a_newer_life_is_believed_and_an_older_one_is_not() {
    let mut mesh = Mesh::new(3);
    let (one, _) = mesh.app(0, "joe");
    let (two, _) = mesh.app(1, "joe");
    mesh.register(two, "1", "Add");
    mesh.events_of(one);
    mesh.restart(1, 2);
    // Node 2 hears of the new life first and tells node 0.
    mesh.link(1, 2);
    assert_eq!(mesh.take(one, story), ["methods gone", "removed"]);
    assert!(mesh.nodes[0].remote.is_empty());
    mesh.link(1, 0);
    assert_eq!(mesh.nodes[0].peers().iter().filter(|peer| peer.state == "up").count(), 2);
    mesh.assert_equal();
    mesh.restart(1, 1);
    mesh.link(1, 0);
    assert!(mesh.nodes[0].peers().iter().any(|peer| peer.state == "unreachable"), "superseded");
}

#[test]
fn a_double_dial_leaves_one_link() {
    let (mut mesh, ..) = two();
    mesh.link(1, 0);
    mesh.link(0, 1);
    for node in &mesh.nodes {
        assert_eq!(node.links.len(), 1);
        assert_eq!(node.peers()[0].state, "up");
    }
}

#[test]
fn what_cannot_be_done_is_refused_once() {
    let (mut mesh, (one, _), _) = two();
    let nowhere = Text::from("nowhere");
    let requests = [
        mesh.ask(one, |request| Command::SubscribeContext { request, context: nowhere.clone() }),
        mesh.ask(one, |request| Command::Unregister { request, methods: vec![json("5")] }),
        mesh.ask(one, |request| Command::Unsubscribe { request, subscription: 5, words: Words::default() }),
        mesh.call(one, &nowhere, "1"),
    ];
    let refused = mesh.take(one, |event| match event {
        Event::Refused { request, .. } => Some(request.clone()),
        _ => None,
    });
    assert_eq!(refused, requests);
    mesh.create(one, "K", "{}", Lifetime::Retained);
    let context = mesh.context(0, "K").unwrap();
    let deep = vec!["a"; 200].join(".");
    mesh.events_of(one);
    mesh.update(
        one,
        &context,
        &format!("{{\"commands\":[{{\"type\":\"set\",\"path\":\"{deep}\",\"value\":1}}]}}"),
    );
    let events = mesh.events_of(one);
    assert!(matches!(events[..], [Event::Refused { reason: Reason::BadDelta { .. }, .. }]), "{events:?}");
    assert!(Json::parse(mesh.value(0, "K").unwrap().into_bytes().into()).is_ok());
}

#[test]
fn what_a_reset_took_away_is_told_to_the_neighbours() {
    // A chain: node 2 in the middle.
    let mut mesh = Mesh::unlinked(3);
    mesh.link(0, 2);
    mesh.link(1, 2);
    let (one, _) = mesh.app(1, "joe");
    mesh.create(one, "K", "{\"a\":1,\"b\":1,\"c\":1}", Lifetime::Retained);
    let context = mesh.context(1, "K").unwrap();
    mesh.cut(1, 2);
    mesh.wait_ms(40_000);
    mesh.update(one, &context, "{\"commands\":[{\"type\":\"remove\",\"path\":\"a\"}]}");
    mesh.update(one, &context, "{\"commands\":[{\"type\":\"remove\",\"path\":\"b\"}]}");
    mesh.input(1, crate::Input::SessionClosed { session: mesh_model::SessionId(one.1), heard: None });
    // Node 1 is alone long enough to forget what it deleted.
    mesh.wait_ms(3_700_000);
    assert!(!mesh.nodes[1].replica.floor().is_empty());
    mesh.link(1, 2);
    for node in 0..3 {
        assert_eq!(mesh.value(node, "K").as_deref(), Some("{\"c\":1}"), "node {node}");
    }
    assert!(mesh.nodes.iter().all(|node| node.remote.is_empty()));
    mesh.wait_ms(60_000);
    mesh.assert_equal();
}

#[test]
fn a_registration_that_came_back_from_the_dead_is_withdrawn_again() {
    let (mut mesh, (one, _), _) = two();
    let zombie = Text::from("p-zombie");
    let key = crate::key::instance(mesh_model::NodeId([2; 16]), &zombie);
    let origin = mesh.nodes[1].origin();
    let dot = mesh_model::Dot { origin, seq: 1 };
    let stamp = mesh_model::Stamp { hlc: mesh_model::Hlc(1), dot };
    let value = Some(bytes::Bytes::from_static(b"=joe\xff{}"));
    mesh.nodes[0].replica.merge(&key, stamp, value, 0, &mut crate::replica::Changes::default());
    mesh.wait_ms(70_000);
    assert_eq!(mesh.nodes[0].state_hash(), mesh.nodes[1].state_hash());
    assert!(!mesh.nodes[0].remote.contains_key(&zombie));
    assert!(mesh.take(one, story).iter().all(|what| !what.ends_with("ed")));
    let divergences: Vec<u64> = mesh.nodes.iter().map(|node| node.divergences).collect();
    assert!(divergences.iter().all(|count| *count <= 1), "{divergences:?}");
}

#[test]
fn what_a_slow_app_does_not_take_ends_as_overloaded() {
    let (mut mesh, (one, _), (two, instance)) = two();
    let limit = Text::from("some_limit (7)");
    let overloaded = [Outcome::Failed(CallFailure::Overloaded { limit: limit.clone() })];
    let not_taken =
        |id| crate::Input::NotTaken { session: mesh_model::SessionId(two.1), id, limit: limit.clone() };
    mesh.call(one, &instance, "1");
    let id = mesh.take(two, invoked)[0];
    mesh.input(1, not_taken(id));
    mesh.settle();
    assert_eq!(mesh.take(one, ended), overloaded);

    mesh.subscribe(one, &instance, "1");
    let id = mesh.take(two, wanted)[0];
    mesh.input(1, not_taken(id));
    mesh.settle();
    assert_eq!(mesh.take(one, ended), overloaded);
    assert!(mesh.nodes.iter().all(|node| node.invocations.is_empty() && node.interests.is_empty()));
}

#[test]
fn a_present_value_is_for_subscribers() {
    let mut mesh = Mesh::new(1);
    let (one, two) = (mesh.app(0, "joe").0, mesh.app(0, "joe").0);
    let create = |request| Command::CreateContext {
        request,
        name: "c".into(),
        data: Some(json("{\"a\":1}")),
        lifetime: Lifetime::Retained,
        permissions: mesh_model::Permissions::default(),
    };
    mesh.ask(one, create);
    let context = mesh.take(one, |event| match event {
        Event::ContextCreated { context, .. } => Some(context.clone()),
        _ => None,
    });
    let mut reset = |app: App| mesh.nodes[0].context_reset(mesh_model::SessionId(app.1), &context[0]);
    assert_eq!(reset(one), Some(json("{\"reset\":{\"a\":1}}")));
    assert_eq!(reset(two), None);
}

#[test]
fn the_reason_of_an_end_crosses_nodes() {
    let (mut mesh, (one, _), (two, _)) = two();
    let words = Words { uri: Some(json("\"u\"")), reason: Some(json("\"lunch\"")) };
    let left = words.clone();
    mesh.ask(two, |request| Command::Leave { request, area: Area::Interop, words: left });
    let cause = |event: &Event| match event {
        Event::InstanceRemoved { cause, .. } | Event::ContextDestroyed { cause, .. } => Some(cause.clone()),
        _ => None,
    };
    assert_eq!(mesh.take(one, cause), [Cause::Left(words)]);
    mesh.create(two, "K", "{}", Lifetime::Ownership);
    mesh.events_of(one);
    mesh.input(1, crate::Input::SessionClosed { session: mesh_model::SessionId(two.1), heard: None });
    mesh.settle();
    assert_eq!(mesh.take(one, cause), [Cause::OwnerGone]);
    assert!(mesh.nodes.iter().all(|node| node.whys.is_empty()));
}

/// B-PS-8, B-ST-2: a publication and a push cross a link once, and only where somebody wants them.
#[test]
fn one_copy_goes_to_each_node_that_wants_it() {
    let mut mesh = Mesh::new(3);
    let (one, instance) = mesh.app(0, "joe");
    mesh.register(one, "1", "Prices");
    let many: Vec<App> = (0..3).map(|_| mesh.app(1, "joe").0).collect();
    let (other, _) = mesh.app(2, "joe");
    for app in &many {
        let pattern = Text::from("a.*");
        mesh.ask(*app, |request| Command::BusSubscribe { request, pattern, routing_key: None });
    }
    let pattern = Text::from("b.*");
    mesh.ask(other, |request| Command::BusSubscribe { request, pattern, routing_key: None });
    for app in &many {
        mesh.subscribe(*app, &instance, "1");
    }
    for subscription in mesh.take(one, wanted) {
        mesh.send(one, Command::Accept { subscription, branch: json("1") });
    }
    mesh.traffic.clear();
    let (topic, data) = (Text::from("a.x"), json("1"));
    mesh.send(one, Command::BusPublish { topic, routing_key: None, target: None, data });
    assert_eq!(mesh.traffic.clone().into_iter().collect::<Vec<_>>(), [((0, 1), 1)]);
    mesh.send(one, Command::Push { branch: json("1"), data: json("2"), sequence: None, snapshot: None });
    assert_eq!(mesh.traffic.into_iter().collect::<Vec<_>>(), [((0, 1), 2)]);
}

#[test]
fn one_end_of_a_link_sends_heartbeats_and_the_other_does_if_it_misses_them() {
    let mut mesh = Mesh::new(2);
    mesh.pings.clear();
    mesh.wait_ms(16_000);
    assert_eq!((mesh.pings[&0], mesh.pings[&1]), (40, 4));
    mesh.pings.clear();
    mesh.hold = Some(|message| matches!(message, LinkMessage::Ping { .. }));
    mesh.wait_ms(1_200);
    assert!(mesh.pings[&1] > 0);
    assert_eq!(mesh.nodes[0].peers()[0].state, "up");
}
