//! The published client libraries and the wire checks, against the built program.
//!
//! What is known to fail stands in `tests/clients/lib/known-deskmesh.mjs`, with the reason.

use std::sync::{Arc, Mutex};

use mesh_tests::clients::{control, lock, run};
use mesh_tests::{Mesh, Node, NodeOptions};

/// One suite at a time: they measure how long things take, and each keeps the machine busy.
static TURN: Mutex<()> = Mutex::new(());

#[test]
fn libraries_on_one_node() {
    let _turn = lock(&TURN);
    let a = Node::start(NodeOptions::default());
    run(&["run.mjs", "--deskmesh", "--lib", "both", "--a", &a.url()]);
}

#[test]
fn libraries_on_two_nodes() {
    let _turn = lock(&TURN);
    let mesh = Mesh::two();
    run(&["run.mjs", "--deskmesh", "--lib", "all", "--a", &mesh.a.url(), "--b", &mesh.b.url()]);
}

#[test]
fn conformance_on_one_node() {
    let _turn = lock(&TURN);
    let a = Node::start(NodeOptions::default());
    run(&["conformance.mjs", "--deskmesh", "--a", &a.url()]);
}

#[test]
fn conformance_on_two_nodes() {
    let _turn = lock(&TURN);
    let mesh = Mesh::two();
    run(&["conformance.mjs", "--deskmesh", "--a", &mesh.a.url(), "--b", &mesh.b.url()]);
}

#[test]
fn libraries_when_their_node_is_killed() {
    let _turn = lock(&TURN);
    let Mesh { a, b } = Mesh::two();
    let url = b.url();
    let b = Arc::new(Mutex::new(b));
    let command = format!("'{}' {}", env!("CARGO_BIN_EXE_node-control"), control(&b));
    run(&[
        "run.mjs",
        "--deskmesh",
        "--suite",
        "restart",
        "--a",
        &a.url(),
        "--b",
        &url,
        "--control",
        &command,
    ]);
}
