//! What fuzzing found, as conversations.

use bytes::Bytes;
use mesh_model::link::{BatchEnd, WireEntry};
use mesh_model::{
    Dot, Hlc, Incarnation, Lane, Lifetime, Limits, LinkId, LinkMessage, LinkPeer, NodeId, Origin,
    VersionVector,
};

use super::mesh::Mesh;
use crate::{Input, NodeSettings, Notice};

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

/// Has a node that is no real one send an entry, and returns the notices about it.
fn refused(limits: Limits, hlc: Hlc, values: usize) -> Vec<Notice> {
    let mut mesh = Mesh::unlinked(1);
    let now = mesh.now();
    mesh.nodes[0] = crate::Node::new(NodeSettings { limits, ..super::mesh::settings(0, 1) }, now);
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
        over: 0,
    };
    let origin = Origin { node, incarnation };
    let entry = |number: usize| WireEntry {
        key: Bytes::from(vec![b'P', 0xff, b'c', 0xff, number as u8, 0xff]),
        dot: Dot { origin, seq: 1 },
        hlc,
        value: Some("1".into()),
    };
    let end =
        BatchEnd { vector: VersionVector::from([(origin, 1)]), floor: VersionVector::new(), answer: false };
    let domain = super::mesh::settings(0, 1).domain;
    let entries = (1..=values).map(entry).collect();
    let batch = LinkMessage::Batch { domain, entries, end: Some(end), reset: false };
    let vector = VersionVector::new();
    let open =
        LinkMessage::DomainOpen { domain, vector, without_over: false, hash: 0, awaits_another: false };
    for message in [hello, open, batch] {
        mesh.input(0, Input::Link { link, lane: Lane::Control, message });
    }
    let taken = mesh.nodes[0].status().entries > 1;
    let notices: Vec<Notice> = mesh.notices.into_iter().map(|(_, notice)| notice).collect();
    let refusals: Vec<Notice> =
        notices.into_iter().filter(|notice| matches!(notice, Notice::BatchRefused { .. })).collect();
    assert_eq!(taken, refusals.is_empty(), "a batch is taken whole or not at all");
    refusals
}

#[test]
fn what_is_stamped_too_far_in_the_future_is_refused() {
    let wall_ms = Mesh::unlinked(1).now().wall_ms;
    let limits = || Limits { clock_skew_ms_max: 1_000, ..Limits::default() };
    assert_eq!(refused(limits(), Hlc::from_wall_ms(wall_ms + 1_000), 1), []);
    for late in [Hlc::from_wall_ms(wall_ms + 1_001), Hlc(u64::MAX)] {
        let notices = refused(limits(), late, 1);
        assert!(
            matches!(&notices[..], [Notice::BatchRefused { limit: "clock_skew_ms_max", .. }]),
            "{notices:?}"
        );
    }
}

#[test]
fn what_other_nodes_write_is_bounded() {
    // The node's own record is one entry.
    let entries = || Limits { domain_entries_max: 5, ..Limits::default() };
    assert_eq!(refused(entries(), Hlc(1), 9), []);
    let notices = refused(entries(), Hlc(1), 10);
    assert!(
        matches!(&notices[..], [Notice::BatchRefused { limit: "domain_entries_max", .. }]),
        "{notices:?}"
    );
    let bytes = Limits { domain_bytes_max: 40, ..Limits::default() };
    let notices = refused(bytes, Hlc(1), 20);
    assert!(matches!(&notices[..], [Notice::BatchRefused { limit: "domain_bytes_max", .. }]), "{notices:?}");
}
