//! What fuzzing found, as conversations.

use mesh_model::link::{BatchEnd, WireEntry};
use mesh_model::{
    Dot, Hlc, Incarnation, Json, Lifetime, LinkId, LinkMessage, LinkPeer, NodeId, Origin, Text, VersionVector,
};

use super::mesh::Mesh;
use crate::Input;

/// Creates a context from `data`, changes it, and checks what it is then on two nodes.
fn check(data: &str, delta: &str, expected: &str) {
    let mut mesh = Mesh::new(2);
    let (app, _) = mesh.app(0, "joe");
    mesh.create(app, "c", data, Lifetime::Retained);
    let id = mesh.context(0, "c").unwrap();
    mesh.update(app, &id, delta);
    for node in 0..2 {
        assert_eq!(mesh.value(node, "c").as_deref(), Some(expected), "{data} {delta}");
    }
}

#[test]
fn nothing_is_removed_from_what_has_no_parts() {
    for value in ["5", "[{}]", "\"a\""] {
        check(value, r#"{"removed":["0"]}"#, value);
        check(value, r#"{"commands":[{"type":"remove","path":"0"}]}"#, value);
    }
}

#[test]
fn of_two_updates_of_one_name_the_last_counts() {
    check("{}", r#"{"updated":{"o":{"a":1},"o":{"b":2}}}"#, r#"{"o":{"b":2}}"#);
}

#[test]
fn a_replaced_member_does_not_come_back_when_its_successor_is_removed() {
    let remove = r#"{"commands":[{"type":"remove","path":"l.0.a"}]}"#;
    check(r#"{"l":[{"a":1,"a":2}]}"#, remove, r#"{"l":[{}]}"#);
}

#[test]
fn trace_context_is_no_part_of_a_context_by_a_path_or_a_late_creation() {
    let path = "__interopIOTracePropagationInfo.traceparent";
    check("{}", &format!(r#"{{"commands":[{{"type":"set","path":"{path}","value":1}}]}}"#), "{}");

    let mut mesh = Mesh::new(2);
    let (one, _) = mesh.app(0, "joe");
    let (two, _) = mesh.app(1, "joe");
    mesh.create(one, "c", "{}", Lifetime::Retained);
    mesh.create(two, "c", r#"{"__interopIOTracePropagationInfo":{},"a":1}"#, Lifetime::Retained);
    assert_eq!(mesh.value(0, "c").as_deref(), Some(r#"{"a":1}"#));
}

/// The last tombstones of a quiet mesh: the neighbour has nothing to send that would say it has them.
#[test]
fn tombstones_go_when_the_neighbour_is_silent() {
    let mut mesh = Mesh::new(2);
    let (app, _) = mesh.app(1, "joe");
    mesh.input(1, Input::SessionClosed { session: mesh_model::SessionId(app.1), heard: None });
    mesh.settle();
    mesh.wait_ms(3_700_000);
    assert_eq!(mesh.nodes.iter().map(|node| node.status().entries).collect::<Vec<_>>(), [2, 2]);
}

/// A stamp at the end of time: what is written after it is still taken, and newer.
#[test]
fn a_clock_at_its_end_stands_still() {
    let mut mesh = Mesh::unlinked(1);
    let (app, _) = mesh.app(0, "joe");
    let link = LinkId(9);
    let node = NodeId([9; 16]);
    mesh.input(0, Input::LinkOpened { link, peer: LinkPeer { node, dialled: false } });
    let incarnation = Incarnation(1);
    let hello = LinkMessage::Hello {
        protocol_min: 1,
        protocol_max: 1,
        incarnation,
        name: "broken".into(),
        wall_ms: 0,
        addresses: Vec::new(),
    };
    let origin = Origin { node, incarnation };
    let entry = WireEntry {
        key: crate::key::node(node),
        dot: Dot { origin, seq: 1 },
        hlc: Hlc(u64::MAX),
        value: Some("broken\u{0}".into()),
    };
    let end = BatchEnd { vector: VersionVector::from([(origin, 1)]), floor: VersionVector::new() };
    let domain = super::mesh::settings(0, 1).domain;
    let batch = LinkMessage::Batch { domain, entries: vec![entry], end: Some(end), reset: false };
    for message in [hello, batch] {
        mesh.input(0, Input::Link { link, message });
    }
    mesh.create(app, "c", r#"{"a":1}"#, Lifetime::Retained);
    let id: Text = mesh.context(0, "c").unwrap();
    mesh.update(app, &id, r#"{"updated":{"a":2}}"#);
    assert_eq!(mesh.value(0, "c"), Some(Json::from_static(r#"{"a":2}"#).to_string()));
}
