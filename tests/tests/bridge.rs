//! Desktop agents of other makers, and apps of nodes that hold the bridge.

use std::fs;
use std::net::{Ipv4Addr, TcpListener};

use mesh_tests::clients::run_fdc3;
use mesh_tests::{Node, NodeOptions, PATIENCE, until};
use tempfile::TempDir;

/// A node with a bridge and an app directory.
struct Bridged {
    node: Node,
    fdc3: String,
    bridge: String,
    _directory: TempDir,
}

impl Bridged {
    /// Starts one. `place` says which of the test apps it has.
    fn start(name: &str, place: &[&str], join: Option<String>) -> Self {
        let directory = tempfile::tempdir().expect("a temporary directory");
        let file = directory.path().join("apps.json");
        let file = file.to_str().expect("a path of ASCII");
        run_fdc3(&[&["headless.mjs", "--write-directory", file], place].concat());
        assert!(fs::exists(file).expect("a readable directory"));
        let port = free_port();
        let config = format!("[fdc3]\ndirectories = [{file:?}]\nbridge = true\nbridge_port = {port}\n");
        let node = Node::start(NodeOptions { name: name.to_owned(), config, join, ..NodeOptions::default() });
        let holds = until(PATIENCE, || node.log().contains("holds the desktop agent bridge"));
        assert!(holds, "{}", node.log());
        let fdc3 = format!("{}/fdc3", node.url());
        Self { node, fdc3, bridge: format!("ws://127.0.0.1:{port}"), _directory: directory }
    }
}

fn free_port() -> u16 {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("a free port");
    listener.local_addr().expect("a bound socket").port()
}

#[test]
fn apps_of_a_node_and_agents_on_its_bridge() {
    let a = Bridged::start("desk-a", &[], None);
    run_fdc3(&["bridge.mjs", "--a", &a.fdc3, "--bridge-a", &a.bridge]);
    run_fdc3(&["../bridge/bench.mjs", "--bridge", &a.bridge]);
}

/// Starts two nodes that see each other.
fn two_nodes() -> (Bridged, Bridged) {
    let a = Bridged::start("desk-a", &["--place", "a"], None);
    let b = Bridged::start("desk-b", &["--place", "b"], Some(a.node.token()));
    for node in [&a.node, &b.node] {
        let joined = until(PATIENCE, || {
            let peers = node.ask_json("peers");
            peers.as_array().is_some_and(|peers| peers.iter().any(|peer| peer["state"] == "up"))
        });
        assert!(joined, "the nodes do not see each other");
    }
    (a, b)
}

#[test]
fn apps_of_two_nodes_and_agents_on_their_bridges() {
    let (a, b) = two_nodes();
    run_fdc3(&bridge_checks(&a, &b));
}

/// What an agent waits for here is an app of the other node that takes 20 s to start, twice.
#[test]
#[ignore = "takes a minute; cargo test -p mesh-tests --test bridge -- --ignored"]
fn apps_that_take_long_to_start() {
    let (a, b) = two_nodes();
    run_fdc3(&[&bridge_checks(&a, &b)[..], &["--slow"]].concat());
}

fn bridge_checks<'a>(a: &'a Bridged, b: &'a Bridged) -> Vec<&'a str> {
    vec!["bridge.mjs", "--a", &a.fdc3, "--b", &b.fdc3, "--bridge-a", &a.bridge, "--bridge-b", &b.bridge]
}
