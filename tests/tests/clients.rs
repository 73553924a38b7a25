//! The published client libraries and the wire checks, against the built program.
//!
//! What is known to fail stands in `tests/clients/lib/known-deskmesh.mjs`, with the reason.

use std::sync::{Arc, Mutex};

use mesh_tests::clients::{control, lock, run};
use mesh_tests::{Linked, Mesh, Node, NodeOptions};

/// One suite at a time: they measure how long things take, and each keeps the machine busy.
static TURN: Mutex<()> = Mutex::new(());

#[test]
fn libraries_on_one_node() {
    let _turn = lock(&TURN);
    let a = Node::start(NodeOptions::default());
    run(&["run.mjs", "--deskmesh", "--lib", "both", "--a", &a.url()]);
}

#[test]
fn libraries_on_three_nodes() {
    let _turn = lock(&TURN);
    let nodes = Linked::start(3);
    run_on(&nodes.urls(), &["run.mjs", "--deskmesh", "--lib", "all"]);
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
fn the_same_as_the_reference() {
    let _turn = lock(&TURN);
    let a = Node::start(NodeOptions::default());
    run(&["differential.mjs", "--jobs", "8", "--a", &a.url()]);
}

#[test]
fn libraries_when_programs_decide_about_logins() {
    let _turn = lock(&TURN);
    let program = concat!(env!("CARGO_MANIFEST_DIR"), "/clients/authenticator.mjs");
    let command = |provider: &str| format!("{provider} = ['node', '{program}', '{provider}']\n");
    let commands: String = ["win", "corp", "basic"].map(command).concat();
    let config = format!("[authenticators]\n{commands}[limits]\nauthentication_timeout_ms = 2000\n");
    let nodes = Linked::start_with(2, |_| config.clone());
    run_on(&nodes.urls(), &["run.mjs", "--deskmesh", "--suite", "logins", "--lib", "all"]);
}

#[test]
fn libraries_when_their_only_node_is_killed() {
    run_controlled(1, "restart");
}

#[test]
fn libraries_when_one_of_two_nodes_is_killed() {
    run_controlled(2, "restart");
}

#[test]
fn libraries_when_links_are_cut() {
    run_controlled(3, "links");
}

/// Runs a suite that does things to the nodes.
fn run_controlled(count: u8, suite: &str) {
    let _turn = lock(&TURN);
    let nodes = Linked::start(count);
    let urls = nodes.urls();
    let nodes = Arc::new(Mutex::new(nodes));
    let command = format!("'{}' {}", env!("CARGO_BIN_EXE_node-control"), control(&nodes));
    run_on(&urls, &["run.mjs", "--deskmesh", "--suite", suite, "--control", &command]);
}

/// Runs a program with the addresses of nodes as `--a`, `--b` and so on.
fn run_on(urls: &[String], arguments: &[&str]) {
    let places = ["--a", "--b", "--c"].into_iter().zip(urls).flat_map(|(place, url)| [place, url.as_str()]);
    run(&arguments.iter().copied().chain(places).collect::<Vec<_>>());
}
