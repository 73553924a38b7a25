//! Lives that are over: what is left of them, and what that costs.

use std::time::Instant;

use mesh_model::{Incarnation, Lane, Lifetime, LinkMessage, NodeId, Origin, VersionVector};

use super::mesh::Mesh;
use crate::Input;
use crate::link::Link;
use crate::replica::Changes;

fn life(number: u64) -> Origin {
    Origin { node: NodeId([9; 16]), incarnation: Incarnation(number) }
}

/// Four nodes that are linked, the last of which brings what it has covered of so many lives.
fn mesh_after(lives: u64) -> Mesh {
    let mut mesh = Mesh::unlinked(4);
    let vector = (0..lives).map(|number| (life(number), 2)).collect();
    for node in &mut mesh.nodes {
        node.replica.shares_no_more = true;
    }
    mesh.nodes[3].replica.cover(&vector, &mut Changes::default());
    for (a, b) in [(0, 1), (0, 2), (0, 3), (1, 2), (1, 3), (2, 3)] {
        mesh.link(a, b);
    }
    mesh
}

/// Of the lives of four nodes that start anew each day, each node keeps one vector, whatever it knows of others.
#[test]
fn lives_that_are_over_are_kept_once() {
    const LIVES: u64 = 1_000;
    let mut mesh = mesh_after(LIVES);
    let app = mesh.app(0, "joe").0;
    for round in 0..3 {
        mesh.create(app, &format!("c{round}"), "{}", Lifetime::Retained);
        mesh.wait_ms(1_000);
        for node in &mut mesh.nodes {
            assert_eq!(node.replica.vector().get(&life(LIVES - 1)), Some(2));
            let kept = node.links.values_mut().map(Link::unshared_max).max().unwrap();
            assert!(kept < 10, "{kept} after round {round}");
        }
        mesh.wait_ms(31_000);
        assert!(
            mesh.nodes.iter().all(|node| node.nodes.values().all(|node| node.said.unshared().len() < 10))
        );
    }
    mesh.assert_equal();
}

/// Of how many lives two nodes tell each other when they are linked.
fn told(mesh: &mut Mesh, a: usize, b: usize) -> Vec<usize> {
    mesh.hold = Some(|message| matches!(message, LinkMessage::DomainOpen { .. }));
    mesh.link(a, b);
    let lives = |message: &LinkMessage| match message {
        LinkMessage::DomainOpen { vector, .. } => Some(vector.len()),
        _ => None,
    };
    let told = mesh.held().filter_map(lives).collect();
    mesh.hold = None;
    mesh.release();
    told
}

/// Nodes that have covered the same of lives that are over do not list these when they are linked again.
#[test]
fn lives_that_are_over_are_told_to_those_who_lack_them() {
    let mut mesh = mesh_after(1_000);
    let app = mesh.app(0, "joe").0;
    mesh.create(app, "c", "{}", Lifetime::Retained);
    mesh.wait_ms(62_000);
    mesh.cut(0, 1);
    let short = told(&mut mesh, 0, 1);
    assert!(short.len() == 2 && short.iter().all(|lives| *lives < 10), "{short:?}");
    // One of them learns of a late write of such a life, and so the two differ when they meet.
    mesh.cut(0, 1);
    mesh.cut(1, 2);
    mesh.cut(1, 3);
    mesh.nodes[0].replica.cover(&[(life(5), 3)].into(), &mut Changes::default());
    mesh.create(app, "d", "{}", Lifetime::Retained);
    mesh.wait_ms(62_000);
    let whole = told(&mut mesh, 0, 1);
    assert!(whole.len() == 2 && whole.iter().all(|lives| *lives >= 1_000), "{whole:?}");
    mesh.wait_ms(62_000);
    assert!(mesh.nodes.iter().all(|node| node.replica.vector().get(&life(5)) == Some(3)));
    mesh.assert_equal();
}

/// Whoever leaves out lives of which the two have not said the same is told so.
#[test]
fn lives_are_left_out_by_agreement_only() {
    let mut mesh = Mesh::unlinked(2);
    let domain = mesh.nodes[0].settings.domain;
    let (vector, without_over) = (VersionVector::new(), true);
    let message = LinkMessage::DomainOpen { domain, vector, without_over, hash: 0, awaits_another: false };
    mesh.hold = Some(|message| matches!(message, LinkMessage::DomainOpen { .. }));
    mesh.link(0, 1);
    let link = *mesh.nodes[0].links.keys().next().unwrap();
    mesh.input(0, Input::Link { link, lane: Lane::Control, message });
    assert!(mesh.nodes[0].links.is_empty());
}

/// Prints what a write costs on four nodes together after so many lives.
#[test]
#[ignore = "a measurement; cargo test --release -p mesh-core -- --ignored --nocapture a_write_costs"]
#[expect(clippy::disallowed_methods, reason = "it measures")]
fn what_a_write_costs_after_many_lives() {
    for lives in [0, 100, 1_500, 8_000] {
        let mut mesh = mesh_after(lives);
        let app = mesh.app(0, "joe").0;
        mesh.wait_ms(62_000);
        let begun = Instant::now();
        for number in 0..1_000 {
            mesh.create(app, &format!("c{number}"), "{}", Lifetime::Retained);
        }
        println!("{lives} lives: {:?}", begun.elapsed() / 1_000);
    }
}
