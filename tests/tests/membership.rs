//! Who finds whom, and how soon those who were away are known again.

use std::fs;
use std::time::Duration;

use mesh_tests::{Linked, Node, NodeOptions, PATIENCE, until};

fn peers_up(node: &Node) -> usize {
    let peers = node.ask_json("peers");
    peers.as_array().map_or(0, |peers| peers.iter().filter(|peer| peer["state"] == "up").count())
}

fn named(name: &str, join: Option<String>) -> NodeOptions {
    NodeOptions { name: name.to_owned(), join, ..NodeOptions::default() }
}

#[track_caller]
fn assert_each_sees(nodes: &[Node], count: usize) {
    for node in nodes {
        assert!(until(PATIENCE, || peers_up(node) == count), "a node sees {} of {count}", peers_up(node));
    }
}

/// Each of four knows the first one only; then the first one is no more, and one of them starts again.
#[test]
fn one_seed_leads_to_all_and_is_not_needed_again() {
    let mut seed = Node::start(named("desk-0", None));
    let mut others: Vec<Node> =
        (1..5).map(|number| Node::start(named(&format!("desk-{number}"), Some(seed.token())))).collect();
    assert_each_sees(&others, 4);
    assert_eq!(peers_up(&seed), 4);
    seed.kill();
    assert_each_sees(&others, 3);
    others[3].kill();
    assert_each_sees(&others[..3], 2);
    others[3].up();
    assert_each_sees(&others, 3);
}

/// A copy of a data directory is a second node with the identity of the first.
#[test]
fn a_copied_node_is_refused_and_told_what_to_do() {
    let a = Node::start(named("desk-a", None));
    let b = Node::start(named("desk-b", Some(a.token())));
    assert_each_sees(std::slice::from_ref(&b), 1);
    let mut copy = Node::prepared(named("desk-b", None));
    fs::create_dir_all(copy.data_dir().join("identity")).expect("a node has an identity");
    for path in ["peers.json"].into_iter().map(Into::into).chain(identity_files(&b)) {
        fs::copy(b.data_dir().join(&path), copy.data_dir().join(&path)).expect("a node has an identity");
    }
    // The copy is the newer life: it is the first one that is refused.
    copy.up();
    let advice = "stop the copy, delete its data directory and join with a new token";
    for node in [&a, &b] {
        assert!(until(PATIENCE, || node.log().contains(advice)), "{}", node.log());
    }
    assert_eq!(peers_up(&a), 1);
}

fn identity_files(node: &Node) -> Vec<std::path::PathBuf> {
    let files = fs::read_dir(node.data_dir().join("identity")).expect("a node has an identity");
    files.map(|file| std::path::Path::new("identity").join(file.expect("a directory").file_name())).collect()
}

/// A node that was stopped for longer than the others wait is linked again, and accuses nobody.
#[test]
fn a_node_that_slept_is_linked_again() {
    let a = Node::start(named("desk-a", None));
    let b = Node::start(named("desk-b", Some(a.token())));
    assert_each_sees(std::slice::from_ref(&b), 1);
    b.signal("-STOP");
    assert!(until(PATIENCE, || peers_up(&a) == 0));
    // Long enough for the sleeper to notice, too.
    std::thread::sleep(Duration::from_secs(3));
    b.signal("-CONT");
    assert!(until(PATIENCE, || peers_up(&a) == 1 && peers_up(&b) == 1));
    assert!(until(PATIENCE, || b.log().contains("was asleep")), "{}", b.log());
    assert!(!b.log().contains("reason=nothing heard"), "{}", b.log());
}

/// A node that was killed and is back dials nobody here, since it has forgotten the others: the other one
/// learns of it from the reset that answers its next packet, before it has waited for a sign of life in vain.
#[test]
fn a_restart_is_noticed_by_the_next_packet() {
    let a = Node::start(named("desk-a", None));
    let mut b = Node::start(named("desk-b", Some(a.token())));
    assert_each_sees(std::slice::from_ref(&b), 1);
    let noticed = || a.log().contains("reason=peer has restarted");
    // On a machine with too much to do a start can take longer than the other waits.
    for _ in 0..10 {
        b.kill();
        fs::remove_file(b.data_dir().join("peers.json")).expect("it knew the other");
        b.up();
        assert!(until(PATIENCE, || peers_up(&a) == 1 && peers_up(&b) == 1));
        if noticed() {
            break;
        }
    }
    assert!(noticed(), "{}", a.log());
}

/// Whoever had the keys of the resets could end this node's links.
#[cfg(unix)]
#[test]
fn the_keys_of_resets_are_for_their_owner_alone() {
    use std::os::unix::fs::PermissionsExt as _;

    let node = Node::start(named("desk-a", None));
    let directory = node.data_dir().join("identity");
    for (path, mode) in [(directory.clone(), 0o700), (directory.join("transport.key"), 0o600)] {
        let found = fs::metadata(&path).expect("a node has these keys").permissions().mode();
        assert_eq!(found & 0o777, mode, "{}", path.display());
    }
}

/// Two nodes that have joined forget where the other is, and find each other again in the local network.
/// A node of another mesh is there, too.
#[test]
fn nodes_of_one_mesh_find_each_other_by_mdns() {
    let with_mdns =
        |name: &str, join| NodeOptions { config: "[discovery]\nmdns = true\n".into(), ..named(name, join) };
    let stranger = Node::start(with_mdns("stranger", None));
    let mut a = Node::start(with_mdns("desk-a", None));
    let mut b = Node::start(with_mdns("desk-b", Some(a.token())));
    assert_each_sees(std::slice::from_ref(&b), 1);
    a.kill();
    b.kill();
    for node in [&mut a, &mut b] {
        fs::remove_file(node.data_dir().join("peers.json")).expect("it knew the other");
        node.up();
    }
    for node in [&a, &b] {
        assert!(until(PATIENCE, || peers_up(node) == 1));
    }
    assert!(a.log().contains("found by mDNS") || b.log().contains("found by mDNS"), "{}", a.log());
    assert!(!stranger.log().contains("found by mDNS"), "{}", stranger.log());
}

/// An address translator on the way forgets its table, so that each node appears at another port: the link
/// goes on, and nobody accuses the other.
#[test]
fn a_link_outlives_the_address_of_its_dialler() {
    let mut nodes = Linked::start(2);
    let links = |nodes: &Linked| ["a", "b"].map(|node| nodes.node(node).log().matches("node is up").count());
    let came_up = links(&nodes);
    for node in ["a", "b"] {
        assert!(nodes.obey(&["rebind", node]));
    }
    // Several times what a node waits for a sign of life.
    std::thread::sleep(Duration::from_secs(6));
    nodes.joined();
    assert_eq!(links(&nodes), came_up);
    for node in ["a", "b"] {
        let log = nodes.node(node).log();
        assert!(!log.contains("cannot be reached"), "{log}");
    }
}
