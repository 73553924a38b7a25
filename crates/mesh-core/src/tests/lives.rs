//! Lives that are over: what is left of them, and what that costs.

use std::time::Instant;

use mesh_model::{Incarnation, Lifetime, NodeId, Origin};

use super::mesh::Mesh;
use crate::link::Link;
use crate::replica::Changes;

fn life(number: u64) -> Origin {
    Origin { node: NodeId([9; 16]), incarnation: Incarnation(number) }
}

/// Four nodes that are linked, the last of which brings what it has covered of so many lives.
fn mesh_after(lives: u64) -> Mesh {
    let mut mesh = Mesh::unlinked(4);
    let vector = (0..lives).map(|number| (life(number), 2)).collect();
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
        mesh.wait_ms(31_000);
    }
    mesh.wait_ms(62_000);
    for node in &mut mesh.nodes {
        assert_eq!(node.replica.vector().get(&life(LIVES - 1)), Some(2));
        let kept = node.links.values_mut().map(Link::unshared_max).max().unwrap();
        assert!(kept < 10, "{kept}");
        assert!(node.nodes.values().all(|node| node.said.unshared().len() < 10));
    }
    mesh.assert_equal();
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
