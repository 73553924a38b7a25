//! Who finds whom, and how soon those who were away are known again.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;
use std::time::Duration;

use mesh_tests::{Linked, Node, NodeOptions, PATIENCE, RawPeer, until};
use serde_json::json;

fn named(name: &str, join: Option<String>) -> NodeOptions {
    NodeOptions { name: name.to_owned(), join, ..NodeOptions::default() }
}

#[track_caller]
fn assert_each_sees(nodes: &[Node], count: usize) {
    for node in nodes {
        assert!(until(PATIENCE, || node.peers_up() == count), "a node sees {} of {count}", node.peers_up());
    }
}

/// Each of four knows the first one only; then the first one is no more, and one of them starts again.
#[test]
fn one_seed_leads_to_all_and_is_not_needed_again() {
    let mut seed = Node::start(named("desk-0", None));
    let mut others: Vec<Node> =
        (1..5).map(|number| Node::start(named(&format!("desk-{number}"), Some(seed.token())))).collect();
    assert_each_sees(&others, 4);
    assert_eq!(seed.peers_up(), 4);
    seed.kill();
    assert_each_sees(&others, 3);
    others[3].kill();
    assert_each_sees(&others[..3], 2);
    others[3].up();
    assert_each_sees(&others, 3);
}

/// Copies of one data directory, as machines that are made from one image have them.
fn copies_of(image: &Node, count: usize) -> Vec<Node> {
    let copy = |_| {
        let node = Node::prepared(named("desk-copy", None));
        copy_all(&image.data_dir(), &node.data_dir());
        node
    };
    (0..count).map(copy).collect()
}

fn copy_all(from: &Path, to: &Path) {
    fs::create_dir_all(to).expect("a directory can be made");
    for entry in fs::read_dir(from).expect("a data directory") {
        let entry = entry.expect("an entry");
        let target = to.join(entry.file_name());
        match entry.path().is_dir() {
            true => copy_all(&entry.path(), &target),
            false => drop(fs::copy(entry.path(), target).expect("a file can be copied")),
        }
    }
}

fn id(node: &Node) -> String {
    node.ask_json("status")["node"].as_str().expect("a node id").to_owned()
}

/// Asserts that all nodes see each other, each under an id of its own, and that apps of all of them find each
/// other as instances of their own.
#[track_caller]
fn assert_distinct(nodes: &[Node]) {
    assert_each_sees(nodes, nodes.len() - 1);
    let ids: BTreeSet<String> = nodes.iter().map(id).collect();
    assert_eq!(ids.len(), nodes.len(), "{ids:?}");
    let mut peers: Vec<RawPeer> = nodes.iter().map(|node| RawPeer::login(node, "app", "ann")).collect();
    let instances: BTreeSet<String> = peers.iter().map(|peer| peer.id.clone()).collect();
    assert_eq!(instances.len(), peers.len(), "{instances:?}");
    let (first, others) = peers.split_first_mut().expect("there are nodes");
    for other in &mut *others {
        other.ask(json!({"domain": "agm", "type": "register", "methods": [{"id": 1, "name": "who"}]}));
    }
    let mut offered = BTreeSet::new();
    while offered.len() < others.len() {
        let offer = first.wait(|message| message["type"] == "methods-added");
        offered.insert(offer["server_id"].as_str().expect("a server").to_owned());
    }
    for other in others {
        first.send(json!({
            "domain": "agm", "type": "call", "request_id": "who", "server_id": other.id, "method_id": 1,
        }));
        let invocation = other.wait(|message| message["type"] == "invoke")["invocation_id"].clone();
        let result = json!({"id": other.id});
        other.send(json!({
            "domain": "agm", "type": "yield", "invocation_id": invocation, "result": result,
        }));
        assert_eq!(first.wait(|message| message["request_id"] == "who")["result"], result);
    }
}

const PARTED: &str = "has an id of its own now";

/// What the directories are in tells them apart before anybody else hears of them.
#[test]
fn copies_of_a_data_directory_become_nodes_of_their_own() {
    let mut nodes = vec![Node::start(named("desk-a", None))];
    let image = Node::start(named("desk-image", Some(nodes[0].token())));
    assert_each_sees(&nodes, 1);
    let mut copies = copies_of(&image, 5);
    let image_id = id(&image);
    nodes.push(image);
    for copy in &mut copies {
        copy.up();
    }
    nodes.extend(copies);
    assert_distinct(&nodes);
    assert_eq!(id(&nodes[1]), image_id, "the original stays what it is");
    let before: Vec<String> = nodes.iter().map(id).collect();
    for node in &mut nodes[2..] {
        assert!(node.log().contains(PARTED), "{}", node.log());
        node.terminate();
        node.up();
    }
    assert_distinct(&nodes);
    assert!(nodes.iter().map(id).eq(before), "they keep their ids");
    assert!(nodes.iter().all(|node| !node.log().contains("newer life")), "nobody was superseded");
}

/// Where nothing in the system tells copies apart, other nodes do, once they run.
#[test]
fn copies_that_look_alike_part_when_they_meet() {
    let mut nodes = vec![Node::start(named("desk-a", None))];
    let mut image = Node::start(named("desk-image", Some(nodes[0].token())));
    assert_each_sees(&nodes, 1);
    image.terminate();
    let mut copies = copies_of(&image, 4);
    for copy in &mut copies {
        // As from before there was such a file; each then takes it that it is where it always was.
        fs::remove_file(copy.data_dir().join("identity/place")).expect("a node remembers where it is");
        copy.up();
    }
    nodes.extend(copies);
    assert_distinct(&nodes);
    for copy in &nodes[1..] {
        let parted = copy.log().matches(PARTED).count();
        assert!(parted <= 1, "{parted} times\n{}", copy.log());
    }
    assert_eq!(nodes[1..].iter().filter(|copy| !copy.log().contains(PARTED)).count(), 1, "the newest stays");
}

/// A node that was stopped for longer than the others wait is linked again, and accuses nobody.
#[test]
fn a_node_that_slept_is_linked_again() {
    let a = Node::start(named("desk-a", None));
    let b = Node::start(named("desk-b", Some(a.token())));
    assert_each_sees(std::slice::from_ref(&b), 1);
    b.signal("-STOP");
    assert!(until(PATIENCE, || a.peers_up() == 0));
    // Long enough for the sleeper to notice, too.
    std::thread::sleep(Duration::from_secs(3));
    b.signal("-CONT");
    assert!(until(PATIENCE, || a.peers_up() == 1 && b.peers_up() == 1));
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
        assert!(until(PATIENCE, || a.peers_up() == 1 && b.peers_up() == 1));
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
        assert!(until(PATIENCE, || node.peers_up() == 1));
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
