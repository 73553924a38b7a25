//! What an operator may look at.

use mesh_model::{Incarnation, NodeId, Text};

use crate::key::UserKey;
use crate::node::Node;
use crate::registry::Method;

/// A node at a glance.
#[derive(Clone, Debug)]
#[expect(missing_docs, reason = "counts, by name")]
pub struct StatusView {
    pub sessions: usize,
    pub methods: usize,
    pub contexts: usize,
    pub peers_up: usize,
    pub peers_known: usize,
    pub entries: usize,
    pub entry_bytes: usize,
    pub calls_pending: usize,
    pub divergences: u64,
}

/// Another node.
#[derive(Clone, Debug)]
#[expect(missing_docs, reason = "the columns of a table")]
pub struct PeerView {
    pub node: NodeId,
    pub name: Text,
    pub incarnation: Incarnation,
    pub state: &'static str,
    pub rtt_us: Option<u64>,
    /// The node that relays between this one and that, if their link is not a direct one.
    pub by_way_of: Option<Text>,
    pub instances: usize,
}

/// An application instance.
#[derive(Clone, Debug)]
#[expect(missing_docs, reason = "the columns of a table")]
pub struct AppView {
    pub instance: Text,
    pub application: Text,
    pub user: Option<Text>,
    pub node: NodeId,
    pub machine: Text,
    pub local: bool,
    pub methods: usize,
}

/// A method of one instance.
#[derive(Clone, Debug)]
#[expect(missing_docs, reason = "the columns of a table")]
pub struct MethodView {
    pub name: Text,
    pub application: Text,
    pub instance: Text,
    pub machine: Text,
    pub streaming: bool,
    pub local: bool,
}

/// A shared context.
#[derive(Clone, Debug)]
#[expect(missing_docs, reason = "the columns of a table")]
pub struct ContextView {
    pub name: Text,
    pub user: Option<Text>,
    pub bytes: usize,
    pub members: usize,
    pub keys: usize,
}

impl Node {
    /// Returns the node at a glance.
    #[must_use]
    pub fn status(&self) -> StatusView {
        StatusView {
            sessions: self.sessions.len(),
            methods: self.methods().len(),
            contexts: self.contexts.len(),
            peers_up: self.nodes.values().filter(|node| node.link.is_some()).count(),
            peers_known: self.nodes.len(),
            entries: self.replica.len(),
            entry_bytes: self.replica.bytes(),
            calls_pending: self.invocations.len() + self.calls.len(),
            divergences: self.divergences,
        }
    }

    /// Returns a hash of the replicated state: equal on replicas that hold the same.
    #[must_use]
    pub const fn state_hash(&self) -> u64 {
        self.replica.hash()
    }

    /// Returns the user a session belongs to.
    #[must_use]
    pub fn user_of(&self, session: mesh_model::SessionId) -> Option<Text> {
        self.sessions.get(&session)?.user.user()
    }

    /// Returns whether another node can be reached now, directly or by way of a third.
    #[must_use]
    pub fn reaches(&self, node: NodeId) -> bool {
        self.link_to(node).is_some()
    }

    /// Returns whether a direct link to another node serves.
    #[must_use]
    pub fn reaches_directly(&self, node: NodeId) -> bool {
        self.direct_link_to(node).is_some()
    }

    /// Returns the other nodes.
    #[must_use]
    pub fn peers(&self) -> Vec<PeerView> {
        let view = |(id, node): (&NodeId, &crate::registry::RemoteNode)| PeerView {
            node: *id,
            name: node.name.clone(),
            incarnation: node.incarnation,
            state: match (node.link, node.shown, node.lost_at) {
                (Some(_), true, _) => "up",
                (Some(_), false, _) => "syncing",
                (None, _, Some(_)) => "unreachable",
                (None, _, None) => "known",
            },
            rtt_us: node.link.and_then(|link| self.links.get(&link)).and_then(|link| link.rtt_us),
            by_way_of: node.link.and_then(|link| self.relayed_by(link)),
            instances: node.instances.len(),
        };
        self.nodes.iter().map(view).collect()
    }

    /// Returns all application instances this node can reach.
    #[must_use]
    pub fn apps(&self) -> Vec<AppView> {
        let text = |identity: &mesh_model::Json, name: &str| {
            identity.member(name).and_then(|v| v.as_text()).unwrap_or_default()
        };
        let local = self.sessions.values().map(|session| AppView {
            instance: session.instance.clone(),
            application: session.application.clone(),
            user: session.user.user(),
            node: self.settings.node,
            machine: self.settings.name.clone(),
            local: true,
            methods: session.methods.len(),
        });
        let remote =
            self.remote.iter().filter(|(_, row)| self.nodes.get(&row.node).is_some_and(|node| node.shown));
        let remote = remote.map(|(instance, row)| AppView {
            instance: instance.clone(),
            application: text(&row.identity, "application"),
            user: row.user.user(),
            node: row.node,
            machine: text(&row.identity, "machine"),
            local: false,
            methods: row.methods.len(),
        });
        local.chain(remote).collect()
    }

    /// Returns all methods and streams this node can reach.
    #[must_use]
    pub fn methods(&self) -> Vec<MethodView> {
        let view = |instance: &Text,
                    application: Text,
                    machine: Text,
                    local: bool,
                    definition: &mesh_model::Json| MethodView {
            name: definition.member("name").and_then(|v| v.as_text()).unwrap_or_default(),
            application,
            instance: instance.clone(),
            machine,
            streaming: definition
                .member("flags")
                .and_then(|f| f.member("streaming"))
                .is_some_and(|v| v.as_bytes() == &b"true"[..]),
            local,
        };
        let mut all = Vec::new();
        for session in self.sessions.values() {
            for method in session.methods.values() {
                all.push(view(
                    &session.instance,
                    session.application.clone(),
                    self.settings.name.clone(),
                    true,
                    &method.definition,
                ));
            }
        }
        for (instance, row) in &self.remote {
            let Some(node) = self.nodes.get(&row.node).filter(|node| node.shown) else { continue };
            let application =
                row.identity.member("application").and_then(|v| v.as_text()).unwrap_or_default();
            for Method { definition, .. } in row.methods.values() {
                all.push(view(instance, application.clone(), node.name.clone(), false, definition));
            }
        }
        all
    }

    /// Returns the shared contexts.
    #[must_use]
    pub fn contexts(&mut self) -> Vec<ContextView> {
        let keys: Vec<_> = self.contexts.keys().cloned().collect();
        let mut all = Vec::with_capacity(keys.len());
        for key in keys {
            let value = self.context_value(&key);
            let members = self.contexts.get(&key).map_or(0, |context| context.members.len());
            let keys = value.members().map_or(0, |members| members.len());
            let user = UserKey::user(&key.user);
            all.push(ContextView { name: key.name, user, bytes: value.len(), members, keys });
        }
        all
    }
}
