//! Who sees whom: users, services, restrictions and permissions, on one node and across two.

use std::collections::BTreeMap;

use mesh_model::{Area, Command, Event, Lifetime, Permissions, Reason, Text};

use super::mesh::{App, Mesh, json};
use crate::Input;
use crate::visibility::{ContextRule, MethodRule, Pattern, PeerRule, Scope, Visibility};

/// The applications an app has been told of and not told to forget.
fn seen(mesh: &mut Mesh, app: App) -> Vec<String> {
    let mut seen: Vec<(Text, String)> = Vec::new();
    for event in mesh.events_of(app) {
        match event {
            Event::InstanceAdded { instance, identity, .. } => {
                seen.push((instance, identity.member("application").unwrap().as_text().unwrap().to_string()));
            }
            Event::InstanceRemoved { instance, .. } => seen.retain(|(known, _)| *known != instance),
            _ => {}
        }
    }
    let mut names: Vec<String> = seen.into_iter().map(|(_, name)| name).collect();
    names.sort();
    names
}

fn methods(event: &Event) -> Option<Vec<String>> {
    match event {
        Event::MethodsAdded { methods, .. } => {
            Some(methods.iter().map(|m| m.member("name").unwrap().as_text().unwrap().to_string()).collect())
        }
        Event::MethodsRemoved { methods, .. } => Some(methods.iter().map(|m| format!("-{m}")).collect()),
        _ => None,
    }
}

fn ended(event: &Event) -> Option<&'static str> {
    match event {
        Event::CallEnded { outcome, .. } => Some(outcome.word()),
        Event::Refused { .. } => Some("refused"),
        Event::Invoke { .. } => Some("invoked"),
        _ => None,
    }
}

fn bus(event: &Event) -> Option<String> {
    match event {
        Event::BusEvent { data, .. } => Some(data.to_string()),
        _ => None,
    }
}

#[test]
fn a_peer_that_joins_with_a_restriction_sees_and_is_seen_by_those_that_fulfil_it() {
    for far in [0, 1] {
        let mut mesh = Mesh::new(2);
        let (a, _) = mesh.app_with(0, "joe", "A", false, None);
        let (b, b_id) = mesh.app_with(0, "joe", "B", false, None);
        let (picky, picky_id) = mesh.app_with(far, "joe", "P", false, Some("$application == 'A'"));
        mesh.register(picky, "1", "M");
        assert_eq!(seen(&mut mesh, picky), ["A"]);
        assert_eq!(seen(&mut mesh, a), ["B", "P"]);
        assert_eq!(seen(&mut mesh, b), ["A"]);
        mesh.call(b, &picky_id, "1");
        assert_eq!(mesh.take(b, ended), ["no_target"]);
        mesh.call(picky, &b_id, "1");
        assert_eq!(mesh.take(picky, ended), ["no_target"]);
        mesh.call(a, &picky_id, "1");
        assert_eq!(mesh.take(picky, ended), ["invoked"]);
        // The same on the bus, both ways.
        for app in [a, b, picky] {
            let pattern = Text::from("t");
            mesh.ask(app, |request| Command::BusSubscribe { request, pattern, routing_key: None });
        }
        for (app, data) in [(a, "1"), (b, "2"), (picky, "3")] {
            let (topic, data) = (Text::from("t"), json(data));
            mesh.send(app, Command::BusPublish { topic, routing_key: None, target: None, data });
        }
        assert_eq!(mesh.take(picky, bus), ["1", "3"], "oneself is always in sight");
        assert_eq!(mesh.take(a, bus), ["1", "2", "3"]);
        assert_eq!(mesh.take(b, bus), ["1", "2"]);
    }
}

#[test]
fn a_restricted_method_exists_for_those_it_is_meant_for() {
    for far in [0, 1] {
        let mut mesh = Mesh::new(2);
        let (a, _) = mesh.app_with(far, "joe", "A", false, None);
        let (provider, server) = mesh.app_with(0, "joe", "P", false, None);
        let definition = |condition: &str| {
            let restrictions = mesh_model::Json::string(condition);
            json(&format!("{{\"id\":\"1\",\"name\":\"M\",\"restrictions\":{restrictions}}}"))
        };
        let methods_with =
            |condition: &str| vec![definition(condition), json("{\"id\":\"2\",\"name\":\"N\"}")];
        let wanted = methods_with("$application == 'B' && #application == 'P'");
        mesh.ask(provider, |request| Command::Register { request, methods: wanted });
        let (b, _) = mesh.app_with(far, "joe", "B", false, None);
        assert_eq!(mesh.take(a, methods), [["N"]]);
        assert_eq!(mesh.take(b, methods), [["M", "N"]]);
        assert_eq!(mesh.take(provider, methods), [["M", "N"]], "its own it sees all");
        for (app, end) in [(a, "no_target"), (provider, "invoked")] {
            mesh.call(app, &server, "1");
            assert_eq!(mesh.take(app, ended), [end]);
        }
        mesh.call(b, &server, "1");
        assert_eq!(mesh.take(provider, ended), ["invoked"]);
        // Offered anew, for others.
        let wanted = vec![definition("$application == 'A'")];
        mesh.ask(provider, |request| Command::Register { request, methods: wanted });
        assert_eq!(mesh.take(a, methods), [["M"]]);
        assert_eq!(mesh.take(b, methods), [["-\"1\""]]);
        // Withdrawn: whoever did not know it is not told.
        let ids = vec![json("\"1\"")];
        mesh.ask(provider, |request| Command::Unregister { request, methods: ids });
        assert_eq!(mesh.take(a, methods), [["-\"1\""]]);
        assert_eq!(mesh.take(b, methods), [[""; 0]; 0]);
        let bad = vec![definition("(((")];
        mesh.ask(provider, |request| Command::Register { request, methods: bad });
        let refused = mesh.take(provider, |event| match event {
            Event::Refused { reason, .. } => Some(reason.clone()),
            _ => None,
        });
        assert!(matches!(refused[..], [Reason::BadRestriction { .. }]), "{refused:?}");
    }
}

#[test]
fn a_service_serves_all_users() {
    let mut mesh = Mesh::new(2);
    let (ann, _) = mesh.app_with(0, "ann", "A", false, None);
    let (bob, _) = mesh.app_with(1, "bob", "B", false, None);
    let (service, server) = mesh.app_with(0, "prices", "S", true, None);
    mesh.register(service, "1", "M");
    assert_eq!(seen(&mut mesh, service), ["A", "B"]);
    assert_eq!(seen(&mut mesh, ann), ["S"]);
    assert_eq!(seen(&mut mesh, bob), ["S"]);
    for app in [ann, bob] {
        mesh.call(app, &server, "1");
        assert_eq!(mesh.take(service, ended), ["invoked"]);
    }
    for app in [ann, bob, service] {
        let pattern = Text::from("*");
        mesh.ask(app, |request| Command::BusSubscribe { request, pattern, routing_key: None });
    }
    for (app, data) in [(ann, "1"), (bob, "2"), (service, "3")] {
        let (topic, data) = (Text::from("t"), json(data));
        mesh.send(app, Command::BusPublish { topic, routing_key: None, target: None, data });
    }
    assert_eq!(mesh.take(ann, bus), ["1", "3"]);
    assert_eq!(mesh.take(bob, bus), ["2", "3"]);
    assert_eq!(mesh.take(service, bus), ["1", "2", "3"]);
}

#[test]
fn permissions_say_who_may_see_and_change_a_context() {
    for far in [0, 1] {
        let mut mesh = Mesh::new(2);
        let (creator, _) = mesh.app_with(0, "joe", "P", false, None);
        let (a, _) = mesh.app_with(far, "joe", "A", false, None);
        let (b, _) = mesh.app_with(far, "joe", "B", false, None);
        mesh.events_of(a);
        mesh.events_of(b);
        let create = |read: Option<&str>, write: Option<&str>| {
            let permissions = Permissions { read: read.map(Text::from), write: write.map(Text::from) };
            let name = Text::from(format!("K{}{}", read.is_some(), write.is_some()));
            move |request| Command::CreateContext {
                request,
                name,
                data: Some(json("{\"x\":1}")),
                lifetime: Lifetime::Retained,
                permissions,
            }
        };
        let story = |event: &Event| match event {
            Event::ContextAdded { name, .. } => Some(format!("added {name}")),
            Event::ContextSnapshot { data, .. } => Some(format!("snapshot {data}")),
            Event::ContextUpdated { .. } => Some("updated".into()),
            Event::ContextDestroyed { .. } => Some("destroyed".into()),
            Event::Refused { reason: Reason::NotAuthorized, .. } => Some("not authorized".into()),
            Event::Refused { reason: Reason::BadRestriction { .. }, .. } => Some("bad".into()),
            Event::Done { .. } => Some("done".into()),
            _ => None,
        };
        let only_b = Some("$application == 'B'");
        mesh.ask(creator, create(only_b, None));
        assert_eq!(mesh.take(a, story), [""; 0]);
        assert_eq!(mesh.take(b, story), ["added Ktruefalse"]);
        mesh.ask(a, create(only_b, None));
        let id = mesh.context(far, "Ktruefalse").unwrap();
        let subscribe = |context: Text| move |request| Command::SubscribeContext { request, context };
        mesh.ask(a, subscribe(id.clone()));
        assert_eq!(mesh.take(a, story), ["not authorized", "not authorized"]);
        mesh.ask(b, subscribe(id.clone()));
        assert_eq!(mesh.take(b, story), ["snapshot {\"x\":1}"]);
        // Without a condition on writing everybody may write, who knows the id.
        mesh.update(a, &id, "{\"added\":{\"y\":2}}");
        assert_eq!(mesh.take(a, story), ["done"]);
        assert_eq!(mesh.take(b, story), ["updated"]);
        // Who joins later sees what it may see.
        let (late, _) = mesh.app_with(far, "joe", "A", false, None);
        assert_eq!(mesh.take(late, story), ["done", "done"], "of its joins");

        mesh.ask(creator, create(None, only_b));
        let id = mesh.context(far, "Kfalsetrue").unwrap();
        assert_eq!(mesh.take(a, story), ["added Kfalsetrue"]);
        mesh.update(a, &id, "{\"added\":{\"y\":2}}");
        mesh.ask(a, |request| Command::DestroyContext { request, context: id.clone() });
        assert_eq!(mesh.take(a, story), ["not authorized", "not authorized"]);
        mesh.events_of(b);
        mesh.update(b, &id, "{\"added\":{\"y\":2}}");
        mesh.ask(b, |request| Command::DestroyContext { request, context: id });
        assert_eq!(mesh.take(b, story), ["done", "destroyed", "done"]);
        assert_eq!(mesh.take(a, story), ["destroyed"]);
        mesh.ask(creator, create(Some("((("), None));
        assert_eq!(mesh.take(creator, story).last().unwrap(), "bad");
    }
}

/// Lists with one rule each.
fn lists(context: Option<&str>, method: Option<&str>, peer: Option<(Area, &str)>) -> Input {
    let pattern = |text: &str| Pattern::parse(text).unwrap();
    let lists = Visibility {
        contexts: context
            .map(|name| ContextRule { context: pattern(name), scope: Scope::Local })
            .into_iter()
            .collect(),
        methods: method
            .map(|name| MethodRule {
                method: Some(pattern(name)),
                identity: BTreeMap::new(),
                scope: Scope::Local,
            })
            .into_iter()
            .collect(),
        peers: peer
            .map(|(area, application)| PeerRule {
                area: Some(area),
                identity: [("application".to_owned(), pattern(application))].into(),
                scope: Scope::Local,
            })
            .into_iter()
            .collect(),
    };
    Input::Visibility(Box::new(lists.with_built_in()))
}

#[test]
fn a_local_context_is_this_nodes_own_until_the_lists_say_otherwise() {
    let mut mesh = Mesh::new(2);
    let (one, _) = mesh.app(0, "joe");
    let (near, _) = mesh.app(0, "joe");
    let (far, _) = mesh.app(1, "joe");
    for node in [0, 1] {
        mesh.input(node, lists(None, None, None));
    }
    let name = "___workspace___1";
    mesh.create(one, name, "{\"a\":1}", Lifetime::Retained);
    mesh.create(far, name, "{\"b\":2}", Lifetime::Retained);
    mesh.settle();
    assert_eq!(mesh.value(0, name).unwrap(), "{\"a\":1}");
    assert_eq!(mesh.value(1, name).unwrap(), "{\"b\":2}");
    let context = mesh.context(0, name).unwrap();
    mesh.ask(near, |request| Command::SubscribeContext { request, context: context.clone() });
    mesh.update(one, &context, "{\"commands\":[{\"type\":\"set\",\"path\":\"x.y\",\"value\":3}]}");
    let updates = |event: &Event| match event {
        Event::ContextUpdated { delta, .. } => Some(delta.to_string()),
        Event::ContextDestroyed { .. } => Some("destroyed".into()),
        Event::ContextAdded { name, .. } => Some(format!("added {name}")),
        _ => None,
    };
    assert_eq!(mesh.take(near, updates).len(), 2, "added and updated");
    mesh.events_of(far);
    // Shared from now on, at both ends: what both had is one.
    let all = || Input::Visibility(Box::default());
    mesh.input(0, all());
    mesh.settle();
    assert_eq!(mesh.value(1, name).unwrap(), "{\"b\":2}", "the other end still keeps its own");
    mesh.input(1, all());
    mesh.settle();
    mesh.assert_equal();
    assert_eq!(mesh.value(0, name), mesh.value(1, name));
    assert_eq!(mesh.value(0, name).unwrap(), "{\"a\":1,\"b\":2,\"x\":{\"y\":3}}");
    assert!(!mesh.take(near, updates).is_empty(), "the subscriber heard of it");
    // Taken back: those who could see it cannot any more, and it lives on here.
    mesh.input(0, lists(None, None, None));
    mesh.settle();
    assert_eq!(mesh.take(far, updates).last().unwrap(), "destroyed");
    assert_eq!(mesh.value(0, name).unwrap(), "{\"a\":1,\"b\":2,\"x\":{\"y\":3}}");
    assert_eq!(mesh.value(1, name), None);
    mesh.update(one, &context, "{\"added\":{\"z\":1}}");
    assert_eq!(mesh.take(near, updates), ["{\"added\":{\"z\":1}}"], "under the id it always had");
}

#[test]
fn a_local_method_is_not_known_elsewhere() {
    let mut mesh = Mesh::new(2);
    let (provider, server) = mesh.app(0, "joe");
    let (near, _) = mesh.app(0, "joe");
    let (far, _) = mesh.app(1, "joe");
    mesh.input(0, lists(None, Some("Hidden"), None));
    for (id, name) in [("1", "T42.Wnd.Create"), ("2", "Open"), ("3", "Hidden")] {
        mesh.register(provider, id, name);
    }
    assert_eq!(mesh.take(near, methods), [["T42.Wnd.Create"], ["Open"], ["Hidden"]]);
    assert_eq!(mesh.take(far, methods), [["Open"]]);
    mesh.call(far, &server, "1");
    assert_eq!(mesh.take(far, ended), ["no_target"]);
    mesh.call(near, &server, "1");
    mesh.events_of(provider);
    // A call that runs when its method is hidden is answered.
    mesh.call(far, &server, "2");
    let invocation = mesh.take(provider, |event| match event {
        Event::Invoke { invocation, .. } => Some(*invocation),
        _ => None,
    });
    mesh.input(0, lists(None, Some("Open"), None));
    mesh.settle();
    assert_eq!(mesh.take(far, methods), [["-\"2\""], ["Hidden"]]);
    mesh.send(provider, Command::Yield { invocation: invocation[0], result: None });
    assert_eq!(mesh.take(far, ended), ["ok"]);
    assert_eq!(mesh.take(near, methods), [[""; 0]; 0], "nothing changes on the node itself");
    mesh.assert_equal();
}

#[test]
fn a_local_app_lives_on_its_node_alone() {
    let mut mesh = Mesh::new(2);
    mesh.input(0, lists(None, None, Some((Area::Interop, "A"))));
    let (a, a_id) = mesh.app_with(0, "joe", "A", false, None);
    let (near, _) = mesh.app_with(0, "joe", "N", false, None);
    let (far, far_id) = mesh.app_with(1, "joe", "F", false, None);
    mesh.register(a, "1", "M");
    mesh.register(far, "1", "M");
    assert_eq!(seen(&mut mesh, a), ["N"]);
    assert_eq!(seen(&mut mesh, far), ["N"]);
    mesh.call(a, &far_id, "1");
    mesh.call(far, &a_id, "1");
    assert_eq!((mesh.take(a, ended), mesh.take(far, ended)), (vec!["no_target"], vec!["refused"]));
    mesh.input(0, lists(None, None, None));
    mesh.settle();
    assert_eq!(seen(&mut mesh, a), ["F"]);
    assert_eq!(mesh.take(far, methods), [["M"]]);
    mesh.call(far, &a_id, "1");
    let invocation = mesh.take(a, |event| match event {
        Event::Invoke { invocation, .. } => Some(*invocation),
        _ => None,
    });
    assert!(!mesh.take(near, methods).is_empty());
    mesh.input(0, lists(None, None, Some((Area::Interop, "A"))));
    mesh.settle();
    assert_eq!(mesh.take(far, methods), [[""; 0]; 0], "not before the call has ended");
    mesh.send(a, Command::Yield { invocation: invocation[0], result: None });
    assert_eq!(mesh.take(far, methods), [["-\"1\""]]);
}

#[test]
fn a_bus_that_is_local_neither_sends_nor_receives() {
    let mut mesh = Mesh::new(2);
    let (a, _) = mesh.app_with(0, "joe", "A", false, None);
    let (near, _) = mesh.app_with(0, "joe", "N", false, None);
    let (far, _) = mesh.app_with(1, "joe", "F", false, None);
    for app in [a, near, far] {
        let pattern = Text::from("t");
        mesh.ask(app, |request| Command::BusSubscribe { request, pattern, routing_key: None });
    }
    let round = |mesh: &mut Mesh| {
        for (app, data) in [(a, "1"), (far, "2")] {
            let (topic, data) = (Text::from("t"), json(data));
            mesh.send(app, Command::BusPublish { topic, routing_key: None, target: None, data });
        }
        [a, near, far].map(|app| mesh.take(app, bus))
    };
    assert_eq!(round(&mut mesh), [vec!["1", "2"], vec!["1", "2"], vec!["1", "2"]]);
    mesh.input(0, lists(None, None, Some((Area::Bus, "A"))));
    mesh.settle();
    assert_eq!(round(&mut mesh), [vec!["1"], vec!["1", "2"], vec!["2"]]);
    mesh.input(0, lists(None, None, Some((Area::Bus, "/./"))));
    mesh.settle();
    assert_eq!(round(&mut mesh), [vec!["1"], vec!["1"], vec!["2"]]);
    mesh.input(0, lists(None, None, None));
    mesh.settle();
    assert_eq!(round(&mut mesh), [vec!["1", "2"], vec!["1", "2"], vec!["1", "2"]]);
}
