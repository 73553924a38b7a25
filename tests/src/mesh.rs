//! Two nodes of one owner.

use crate::node::{Node, NodeOptions, PATIENCE};
use crate::wait::until;

/// Two nodes that have joined and see each other: `a` holds the authority, `b` came with a token.
#[derive(Debug)]
pub struct Mesh {
    /// The first node.
    pub a: Node,
    /// The second.
    pub b: Node,
}

impl Mesh {
    /// Starts two nodes with the usual configuration.
    #[must_use]
    pub fn two() -> Self {
        Self::two_with("")
    }

    /// Starts two nodes with this text in their configuration files.
    ///
    /// # Panics
    ///
    /// If they do not become ready and see each other.
    #[must_use]
    pub fn two_with(config: &str) -> Self {
        let options = NodeOptions { name: "desk-a".into(), config: config.into(), ..NodeOptions::default() };
        let a = Node::start(options.clone());
        let join = Some(a.token());
        let b = Node::start(NodeOptions { name: "desk-b".into(), join, ..options });
        let mesh = Self { a, b };
        mesh.joined();
        mesh
    }

    /// Waits until both nodes see each other.
    ///
    /// # Panics
    ///
    /// If they do not.
    pub fn joined(&self) {
        for node in [&self.a, &self.b] {
            assert!(until(PATIENCE, || node.peers_up() > 0), "the nodes do not see each other");
        }
    }
}
