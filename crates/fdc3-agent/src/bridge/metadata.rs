//! What FDC3 3.0 says about contexts beside them. The schemas of Agent Bridging have no place for it, and forbid
//! members that they do not have: so it is a member of the payload, named as apps name it, and goes to nodes,
//! and to agents that have sent some themselves. Others may refuse a message for it.

use mesh_model::{Json, Text};
use proto_dacp::Object;

use crate::Agent;

/// What an app gives, and whoever passes it on may not alter. Who it is and when, each agent says by itself.
const CARRIED: [&str; 4] = ["traceId", "signature", "antiReplay", "custom"];

/// Returns what of the metadata of a context crosses the bridge.
pub(super) fn carried(metadata: &Json) -> Option<Json> {
    let given: Vec<_> =
        CARRIED.iter().filter_map(|name| Some((*name, metadata.member(name)?.detached()))).collect();
    (!given.is_empty())
        .then(|| given.iter().fold(Object::new(), |object, (name, value)| object.json(name, value)).end())
}

/// Returns what an agent on the bridge says about the context in a payload.
pub(super) fn metadata_in(payload: &Json) -> Option<Json> {
    carried(&payload.member("metadata")?)
}

impl Agent {
    /// Notes that an agent on the bridge knows metadata, if this payload of it has some.
    pub(super) fn note_metadata(&mut self, agent: &Text, payload: &Json) {
        let has = |name: &str| payload.member(name).is_some_and(|metadata| carried(&metadata).is_some());
        if self.bridge.agents.contains_key(agent) && (has("metadata") || has("resultMetadata")) {
            self.bridge.modern.insert(agent.detached());
        }
    }

    /// Returns what of the metadata of a context an agent on the bridge is told.
    pub(super) fn metadata_to(&self, agent: &str, metadata: Option<&Json>) -> Option<Json> {
        metadata.filter(|_| self.bridge.modern.contains(agent.as_bytes())).and_then(carried)
    }

    /// The same of a broadcast, which goes to all of them.
    pub(super) fn metadata_to_all(&self, metadata: Option<&Json>) -> Option<Json> {
        let all_know = self.bridge.agents.keys().all(|agent| self.bridge.modern.contains(agent));
        metadata.filter(|_| all_know).and_then(carried)
    }
}
