//! Nodes that are gone for good: what is left of them is dropped.
//!
//! Only a node itself withdraws what it has registered, or its next life. A machine that never comes back
//! would be remembered for ever, and so would each desktop that exists for one logon. So when nobody has
//! heard of a node for `retire_ms`, any other may write that it is *retired*, up to the last of its writes
//! that anybody knows. All drop what it has registered up to there, as they would if a newer life began:
//! which registrations count still follows from the writes that a replica covers, and from nothing else.
//!
//! One that was only away is told by the first batch that it gets. What it wrote from then on counts, so it
//! writes all of its registrations again. A later life needs nothing: what was said of earlier ones is moot.

use std::collections::BTreeMap;

use mesh_model::link::WireEntry;
use mesh_model::{NodeId, Stamp};

use super::replication::DIGESTS_HEARD;
use super::{Link, State};
use crate::content::{Step, Write};
use crate::key::{self, Subject};
use crate::node::Node;
use crate::registry::RemoteNode;
use crate::replica::retired_upto;

impl Node {
    /// Retires nodes of which nobody has heard for long, and forgets those of which nothing is left.
    pub(crate) fn retire_nodes(&mut self) {
        let (now, timing) = (self.now.tick, self.settings.timing);
        // A node that slept, or that has just come from where it reached nobody, has not heard of anybody
        // for its own reasons.
        let in_touch = |link: &Link| {
            let since = timing.digest_ms.saturating_mul(DIGESTS_HEARD * 1000);
            link.state == State::Up && link.is_direct() && now.since(link.opened) >= since
        };
        if !self.links.values().any(in_touch) {
            return;
        }
        let silent = |node: &RemoteNode, millis: u64| {
            node.link.is_none() && now.since(node.heard_at) >= millis.saturating_mul(1000)
        };
        let silent: Vec<(NodeId, bool)> = self
            .nodes
            .iter()
            .filter(|(_, node)| silent(node, self.away_ms()))
            .map(|(id, node)| (*id, silent(node, timing.retire_ms)))
            .collect();
        for (node, retires) in silent {
            if retires {
                self.retire(node);
            }
            if self.replica.owned_by(node).next().is_none() {
                self.forget_node(node);
            }
        }
    }

    fn retire(&mut self, node: NodeId) {
        let Some(write) = self.replica.retirement(node) else { return };
        let dropped: Vec<Subject> =
            self.replica.owned_by(node).filter_map(|(key, _)| key::parse(key)).collect();
        self.write(vec![write]);
        self.registry_changed(&dropped);
        self.contexts_changed(dropped, None);
    }

    /// Forgets a node, unless something still waits for it.
    fn forget_node(&mut self, node: NodeId) {
        let idle = |known: &RemoteNode| {
            known.lost_at.is_none() && known.calls_wait_until.is_none() && known.instances.is_empty()
        };
        if self.nodes.get(&node).is_some_and(idle) {
            self.nodes.remove(&node);
            self.links_changed = true;
        }
    }

    /// Returns what this life of this node has registered and others have dropped, as a batch says, in the
    /// order in which it was written.
    pub(super) fn revived_by(&self, batch: &[WireEntry]) -> impl Iterator<Item = Step> + use<> {
        let own = self.origin();
        let said = batch.iter().filter(|entry| key::retired_node(&entry.key) == Some(own.node));
        let upto = said.filter_map(|entry| retired_upto(own.node, entry.value.as_ref()?)).max();
        let mut steps: BTreeMap<Stamp, Step> = BTreeMap::new();
        if let Some(upto) = upto.filter(|upto| upto.origin == own) {
            let live = self.replica.owned_by(own.node).filter(|(_, entry)| entry.value.is_some());
            for (key, entry) in live.filter(|(_, entry)| entry.stamp.dot <= upto) {
                let write = Write { key: key.clone(), value: entry.value.clone() };
                steps.entry(entry.stamp).or_default().push(write);
            }
        }
        steps.into_values()
    }
}
