//! Nodes that are gone for good: what is left of them goes, and those that were only away come back.

use mesh_model::{Event, Lifetime};

use super::mesh::{App, Mesh};
use crate::key;

const RETIRE_MS: u64 = 20_000;

/// Nodes that lose patience soon, and are all linked.
fn impatient(count: usize) -> Mesh {
    let mut mesh = Mesh::unlinked(count);
    for number in 0..count {
        hurry(&mut mesh, number);
    }
    for a in 0..count {
        for b in a + 1..count {
            mesh.link(a, b);
        }
    }
    mesh
}

fn hurry(mesh: &mut Mesh, number: usize) {
    let timing = &mut mesh.nodes[number].settings.timing;
    timing.retire_ms = RETIRE_MS;
    timing.digest_ms = 1_000;
    timing.tombstone_ms = 5_000;
    mesh.nodes[number].next_digest = mesh.tick();
}

/// An app that offers a method, is subscribed to a topic, and has a context that lives as long as it.
fn busy(mesh: &mut Mesh, node: usize) -> (App, mesh_model::Text) {
    let (app, instance) = mesh.app(node, "joe");
    mesh.register(app, "1", "Add");
    mesh.create(app, &format!("of {node}"), "{\"a\":1}", Lifetime::RefCounted);
    mesh.ask(app, |request| mesh_model::Command::BusSubscribe {
        request,
        pattern: "t".into(),
        routing_key: None,
    });
    (app, instance)
}

/// How many apps on other nodes an app sees.
fn seen(mesh: &Mesh, node: usize) -> usize {
    mesh.nodes[node].remote.values().filter(|row| mesh.nodes[node].nodes[&row.node].shown).count()
}

fn assert_whole(mesh: &mut Mesh) {
    mesh.wait_ms(2_000);
    mesh.assert_equal();
    for node in &mesh.nodes {
        node.replica.check();
    }
}

#[test]
fn of_a_node_that_is_gone_for_good_nothing_is_left_but_that() {
    let mut mesh = impatient(3);
    let (app, _) = busy(&mut mesh, 0);
    let before = mesh.nodes[0].replica.len();
    let (_, instance) = busy(&mut mesh, 2);
    assert_eq!(seen(&mesh, 0), 1);
    mesh.events_of(app);
    mesh.cut(2, 0);
    mesh.cut(2, 1);
    mesh.wait_ms(RETIRE_MS / 2);
    assert!(mesh.nodes[0].remote.contains_key(&instance), "it may still come back");
    mesh.wait_ms(RETIRE_MS * 2);
    for node in &mesh.nodes[..2] {
        assert!(!node.remote.contains_key(&instance), "{:?}", node.remote);
        assert_eq!(node.nodes.len(), 1, "the other one of the two");
        node.replica.check();
        assert_eq!(node.replica.vector(), mesh.nodes[0].replica.vector());
        assert_eq!((node.replica.hash(), node.divergences), (mesh.nodes[0].replica.hash(), 0));
    }
    // In the place of its node record there is one word, and the newest removal, that of its context.
    assert!(mesh.nodes[0].replica.len() <= before + 2, "{} of {before}", mesh.nodes[0].replica.len());
    assert!(mesh.value(0, "of 2").is_none(), "nobody holds its context any more");
    let ended = |event: &Event| matches!(event, Event::ContextDestroyed { .. }).then_some(());
    assert_eq!(mesh.take(app, ended).len(), 1);
}

#[test]
fn one_that_was_only_away_is_whole_again() {
    let mut mesh = impatient(3);
    let (caller, _) = busy(&mut mesh, 0);
    let (callee, instance) = busy(&mut mesh, 2);
    mesh.cut(2, 0);
    mesh.cut(2, 1);
    mesh.wait_ms(RETIRE_MS * 2);
    assert!(!mesh.nodes[0].remote.contains_key(&instance));
    // Away, it goes on; what it writes meanwhile counts as it is.
    mesh.register(callee, "2", "Sub");
    mesh.link(1, 2);
    mesh.link(0, 2);
    assert_whole(&mut mesh);
    assert_eq!(mesh.nodes[0].remote[&instance].methods.len(), 2);
    mesh.events_of(callee);
    mesh.call(caller, &instance, "1");
    mesh.ask(caller, |_| mesh_model::Command::BusPublish {
        topic: "t".into(),
        routing_key: None,
        target: None,
        data: super::mesh::json("1"),
    });
    let events = mesh.events_of(callee);
    assert!(events.iter().any(|event| matches!(event, Event::Invoke { .. })));
    assert_eq!(events.iter().filter(|event| matches!(event, Event::BusEvent { .. })).count(), 1);
    // Gone once more, it is retired once more.
    mesh.cut(2, 0);
    mesh.cut(2, 1);
    mesh.wait_ms(RETIRE_MS * 2);
    assert!(!mesh.nodes[0].remote.contains_key(&instance) && !mesh.nodes[1].remote.contains_key(&instance));
}

#[test]
fn a_later_life_needs_no_word_of_the_earlier_one() {
    let mut mesh = impatient(3);
    busy(&mut mesh, 2);
    mesh.cut(2, 0);
    mesh.cut(2, 1);
    mesh.wait_ms(RETIRE_MS * 2);
    let gone = mesh.nodes[2].settings.node;
    assert!(mesh.nodes[0].replica.get(&key::retired(gone)).is_some());
    mesh.restart(2, 2);
    hurry(&mut mesh, 2);
    let (_, instance) = busy(&mut mesh, 2);
    mesh.link(1, 2);
    mesh.link(0, 2);
    assert_whole(&mut mesh);
    for node in &mesh.nodes {
        assert!(node.replica.get(&key::retired(gone)).is_none());
    }
    assert!(mesh.nodes[0].remote.contains_key(&instance));
}

#[test]
fn an_earlier_life_of_a_retired_node_is_still_refused() {
    let mut mesh = impatient(3);
    mesh.restart(2, 5);
    hurry(&mut mesh, 2);
    mesh.link(0, 2);
    mesh.cut(0, 2);
    mesh.wait_ms(RETIRE_MS * 2);
    assert_eq!(mesh.nodes[0].nodes.len(), 1);
    mesh.restart(2, 4);
    mesh.link(2, 0);
    assert!(mesh.nodes[0].link_to(mesh.nodes[2].settings.node).is_none());
}

#[test]
fn halves_that_were_apart_for_long_retire_each_other_and_are_one_again() {
    let mut mesh = impatient(4);
    for node in 0..4 {
        busy(&mut mesh, node);
    }
    for (a, b) in [(0, 2), (0, 3), (1, 2), (1, 3)] {
        mesh.cut(a, b);
    }
    mesh.wait_ms(RETIRE_MS * 2);
    assert_eq!([0, 1, 2, 3].map(|node| mesh.nodes[node].remote.len()), [1; 4]);
    for (a, b) in [(1, 2), (0, 3), (0, 2), (1, 3)] {
        mesh.link(a, b);
    }
    assert_whole(&mut mesh);
    assert_eq!([0, 1, 2, 3].map(|node| seen(&mesh, node)), [3; 4]);
}

#[test]
fn a_node_that_reached_nobody_retires_nobody() {
    let mut mesh = impatient(3);
    busy(&mut mesh, 2);
    let written = mesh.nodes[0].seq;
    mesh.cut(0, 1);
    mesh.cut(0, 2);
    mesh.wait_ms(RETIRE_MS * 3);
    assert_eq!(mesh.nodes[0].seq, written, "it is the one that was away");
    assert!(mesh.nodes[1].replica.get(&key::retired(mesh.nodes[0].settings.node)).is_some());
    mesh.link(0, 1);
    mesh.link(0, 2);
    assert_whole(&mut mesh);
    assert_eq!((mesh.nodes[0].nodes.len(), mesh.nodes[1].nodes.len(), seen(&mesh, 1)), (2, 2, 1));
}

/// Desktops that exist for one logon each.
#[test]
fn what_is_kept_of_desktops_that_came_and_went_is_little() {
    const DESKTOPS: usize = 40;
    const METHODS: usize = 20;
    let mut mesh = Mesh::unlinked(DESKTOPS + 2);
    for number in 0..DESKTOPS + 2 {
        hurry(&mut mesh, number);
    }
    // One node stays; it is not alone.
    mesh.link(0, 1);
    let (before, bytes) = (mesh.nodes[0].replica.len(), mesh.nodes[0].replica.bytes());
    for desktop in 2..DESKTOPS + 2 {
        mesh.link(0, desktop);
        let (app, _) = mesh.app(desktop, "joe");
        for method in 0..METHODS {
            mesh.register(app, &method.to_string(), "Add");
        }
        mesh.wait_ms(1_000);
        assert_eq!(mesh.nodes[1].remote.len(), mesh.nodes[0].remote.len());
        mesh.cut(0, desktop);
    }
    mesh.wait_ms(RETIRE_MS * 2);
    let (entries, grown) = (mesh.nodes[0].replica.len() - before, mesh.nodes[0].replica.bytes() - bytes);
    assert_eq!((entries, grown), (DESKTOPS, DESKTOPS * 33), "one word for each");
    assert_eq!((mesh.nodes[0].nodes.len(), mesh.nodes[0].remote.len()), (1, 0));
}
