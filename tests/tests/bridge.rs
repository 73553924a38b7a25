//! Desktop agents of other makers, and apps of nodes that hold the bridge.

use std::fs;
use std::net::{Ipv4Addr, TcpListener};
use std::path::Path;

use mesh_tests::clients::run_fdc3;
use mesh_tests::{Node, NodeOptions, PATIENCE, until};
use tempfile::TempDir;

/// A node with a bridge and an app directory.
struct Bridged {
    node: Node,
    fdc3: String,
    bridge: String,
    directory: TempDir,
}

impl Bridged {
    /// Starts one. `place` says which of the test apps it has.
    fn start(name: &str, place: &[&str], join: Option<String>) -> Self {
        Self::start_with(name, place, join, |_| String::new())
    }

    /// Starts one with more in its section `fdc3`, which may name files in the directory given.
    fn start_with(
        name: &str,
        place: &[&str],
        join: Option<String>,
        more: impl FnOnce(&Path) -> String,
    ) -> Self {
        let directory = tempfile::tempdir().expect("a temporary directory");
        let more = more(directory.path());
        let file = directory.path().join("apps.json");
        let file = file.to_str().expect("a path of ASCII");
        run_fdc3(&[&["headless.mjs", "--write-directory", file], place].concat());
        assert!(fs::exists(file).expect("a readable directory"));
        let port = free_port();
        let config = format!("[fdc3]\ndirectories = [{file:?}]\nbridge = true\nbridge_port = {port}\n{more}");
        let node = Node::start(NodeOptions { name: name.to_owned(), config, join, ..NodeOptions::default() });
        let holds = until(PATIENCE, || node.log().contains("holds the desktop agent bridge"));
        assert!(holds, "{}", node.log());
        let fdc3 = format!("{}/fdc3", node.url());
        Self { node, fdc3, bridge: format!("ws://127.0.0.1:{port}"), directory }
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

/// What may cross, as the head of `tests/fdc3/bridge/rules.mjs` has it.
const RULES: &str = r#"bridge_rules = [
  { direction = "out", channel = "kept-out-but", allow = true },
  { direction = "out", channel = "/^kept-out-/", allow = false },
  { direction = "in", channel = "/^kept-in-/", allow = false },
  { direction = "in", channel = "/^quiet-/", app = "foreign", allow = false },
  { direction = "out", intent = "Secret", allow = false },
  { direction = "in", intent = "GetTopic", allow = false },
  { direction = "out", app = "hidden", allow = false },
  { direction = "in", app = "/^test-s/", allow = false },
]
"#;

#[test]
fn what_may_cross_the_bridge() {
    let a = Bridged::start_with("desk-a", &[], None, |_| RULES.to_owned());
    run_fdc3(&["bridge.mjs", "--a", &a.fdc3, "--bridge-a", &a.bridge, "--rules"]);
    // Who wonders why something is not found reads the log: here the eighth rule.
    let told = until(PATIENCE, || a.node.log().contains("test-second"));
    let log = a.node.log();
    let line = log.lines().find(|line| line.contains("test-second"));
    assert!(told && line.is_some_and(|line| line.contains("rule 8 of")), "{line:?}");
}

#[test]
fn agents_that_show_tokens() {
    let secret = |directory: &Path| {
        let file = directory.join("secret");
        fs::write(&file, "a secret that is long enough for HS256\n").expect("a file can be written");
        format!("bridge_secret_file = {file:?}\n{RULES}")
    };
    let a = Bridged::start_with("desk-a", &[], None, secret);
    let file = a.directory.path().join("secret");
    let file = file.to_str().expect("a path of ASCII");
    run_fdc3(&["bridge.mjs", "--a", &a.fdc3, "--bridge-a", &a.bridge, "--rules", "--secret", file]);
    run_fdc3(&["../bridge/bench.mjs", "--bridge", &a.bridge, "--secret", file]);
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
