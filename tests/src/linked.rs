//! Nodes of one owner whose links can be cut.

use std::net::{Ipv4Addr, UdpSocket};

use crate::node::{Node, NodeOptions, PATIENCE};
use crate::relay::Relay;
use crate::wait::until;

/// What passes over slow links.
const SLOW_BYTES_PER_SECOND: u64 = 2_000_000;

/// Nodes `a`, `b`, … that have joined, and reach each other through relays only.
#[derive(Debug)]
pub struct Linked {
    nodes: Vec<(Node, Relay)>,
}

impl Linked {
    /// Starts that many nodes.
    ///
    /// # Panics
    ///
    /// If they do not become ready and see each other.
    #[must_use]
    pub fn start(count: u8) -> Self {
        Self::start_with(count, |_| String::new())
    }

    /// The same, with more for each configuration file.
    ///
    /// # Panics
    ///
    /// If they do not become ready and see each other.
    #[must_use]
    pub fn start_with(count: u8, config: impl Fn(char) -> String) -> Self {
        let mut nodes: Vec<(Node, Relay)> = Vec::new();
        for letter in (b'a'..).take(count.into()).map(char::from) {
            let front = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).expect("a free port");
            let port = front.local_addr().expect("a bound socket").port();
            let mut node = Node::prepared(NodeOptions {
                name: format!("desk-{letter}"),
                config: format!("mesh_advertise = [\"127.0.0.1:{port}\"]\n{}", config(letter)),
                join: nodes.first().map(|(first, _)| first.token()),
                ..NodeOptions::default()
            });
            let relay = Relay::start(front, node.mesh_port()).expect("a relay can be started");
            node.up();
            nodes.push((node, relay));
        }
        let linked = Self { nodes };
        linked.joined();
        linked
    }

    /// Waits until all nodes see each other.
    ///
    /// # Panics
    ///
    /// If they do not.
    pub fn joined(&self) {
        for (node, _) in &self.nodes {
            let sees_all = || node.peers_up() == self.nodes.len() - 1;
            assert!(until(PATIENCE, sees_all), "the nodes do not see each other");
        }
    }

    /// Returns a node by its letter.
    ///
    /// # Panics
    ///
    /// If there is none.
    #[must_use]
    pub fn node(&self, name: &str) -> &Node {
        let found = index(name).and_then(|at| self.nodes.get(at));
        found.map(|(node, _)| node).expect("a node of that letter")
    }

    /// Returns the addresses for applications, in order.
    #[must_use]
    pub fn urls(&self) -> Vec<String> {
        self.nodes.iter().map(|(node, _)| node.url()).collect()
    }

    /// Obeys `kill a`, `start a`, `freeze a`, `thaw a`, `rebind a`, `cut a b`, `heal a b`, `slow a b` or `fast a b`, and
    /// returns whether that was understood. What is said of two nodes being slow holds for all links that
    /// others have dialled to them.
    pub fn obey(&mut self, words: &[&str]) -> bool {
        match words {
            ["kill", node] => self.with(node, Node::kill),
            ["start", node] => self.with(node, Node::up),
            ["freeze", node] => self.with(node, |node| node.signal("-STOP")),
            ["thaw", node] => self.with(node, |node| node.signal("-CONT")),
            ["rebind", node] => {
                index(node).and_then(|at| self.nodes.get(at)).map(|(_, relay)| relay.rebind()).is_some()
            }
            ["cut", one, other] => self.between(one, other, Relay::refuse),
            ["heal", one, other] => self.between(one, other, Relay::admit),
            ["slow", one, other] => {
                self.between(one, other, |relay, _| relay.slow_down(SLOW_BYTES_PER_SECOND))
            }
            ["fast", one, other] => self.between(one, other, |relay, _| relay.slow_down(0)),
            _ => false,
        }
    }

    fn with(&mut self, name: &str, action: impl FnOnce(&mut Node)) -> bool {
        let found = index(name).and_then(|at| self.nodes.get_mut(at));
        found.map(|(node, _)| action(node)).is_some()
    }

    /// Whichever of two nodes has dialled the other, its datagrams go through the other's relay.
    fn between(&self, one: &str, other: &str, action: impl Fn(&Relay, u16)) -> bool {
        let find = |name| index(name).and_then(|at| self.nodes.get(at));
        let (Some((one, of_one)), Some((other, of_other))) = (find(one), find(other)) else { return false };
        action(of_one, other.mesh_port());
        action(of_other, one.mesh_port());
        true
    }
}

fn index(name: &str) -> Option<usize> {
    match name.as_bytes() {
        [letter @ b'a'..=b'z'] => Some(usize::from(letter - b'a')),
        _ => None,
    }
}
