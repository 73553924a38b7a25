//! Who offers what: this node's methods, and the table of everybody else's.
//!
//! The registry is a table of claims. A node claims only for its own sessions; every other row came by
//! replication and is replaced only by its owner. A row is *shown* to applications while its node can
//! be reached and has told all it had to tell since the link came up, so that what an application sees
//! can be called.

use std::collections::{BTreeMap, BTreeSet};

use mesh_model::{Cause, Event, Incarnation, Json, LinkId, NodeId, Reason, Request, SessionId, Text, Tick};

use crate::Output;
use crate::content::Write;
use crate::key::{self, Subject, UserKey};
use crate::node::Node;
use crate::session::{Method, is_object};

/// Another node of the domain.
#[derive(Debug)]
pub(crate) struct RemoteNode {
    pub(crate) name: Text,
    pub(crate) incarnation: Incarnation,
    /// The link that serves, while there is one.
    pub(crate) link: Option<LinkId>,
    /// Whether its rows are shown.
    pub(crate) shown: bool,
    /// Since when it cannot be reached, until it counts as gone.
    pub(crate) lost_at: Option<Tick>,
    /// Its instances. One entry per row of `Node::remote` with this node.
    pub(crate) instances: BTreeSet<Text>,
}

/// An application instance on another node.
#[derive(Debug)]
pub(crate) struct RemoteInstance {
    pub(crate) node: NodeId,
    pub(crate) user: UserKey,
    pub(crate) identity: Json,
    pub(crate) methods: BTreeMap<Json, Json>,
    /// Whether its owner has withdrawn it, and it only stays until what hangs on it has ended.
    pub(crate) leaving: bool,
}

impl Node {
    /// Writes this node's own record: its name and where to dial it.
    pub(crate) fn publish_node_record(&mut self) {
        let mut value = self.settings.name.as_bytes().to_vec();
        value.push(key::END);
        for address in &self.settings.addresses {
            value.extend_from_slice(address.as_bytes());
            value.push(key::END);
        }
        let key = key::node(self.settings.node);
        self.write(vec![Write { key, value: Some(value.into()) }]);
    }

    pub(crate) fn register(&mut self, session: SessionId, request: Request, methods: Vec<Json>) {
        let Some(own) = self.sessions.get(&session) else { return };
        if !own.interop {
            return self.refuse(session, request, Reason::NotJoined { area: "agm" });
        }
        let max = self.settings.limits.methods_per_session_max;
        if own.methods.len() + methods.len() > max {
            return self.refuse(
                session,
                request,
                Reason::Limit { limit: "methods_per_session_max", max: max as u64 },
            );
        }
        let mut parsed = Vec::with_capacity(methods.len());
        for definition in methods {
            match method_of(&definition) {
                Ok((id, name)) => parsed.push((id, Method { definition: definition.detached(), name })),
                Err(problem) => {
                    return self.refuse(session, request, Reason::BadMethod { problem: problem.into() });
                }
            }
        }
        let bytes = parsed.iter().map(|(_, method)| method.definition.len()).sum();
        if let Err(reason) = self.room_for(parsed.len(), bytes) {
            return self.refuse(session, request, reason);
        }
        let server = own.instance.clone();
        let node = self.settings.node;
        let step = parsed.iter().map(|(id, method)| Write {
            key: key::method(node, &server, id.as_bytes()),
            value: Some(method.definition.as_bytes().clone()),
        });
        let step = step.collect();
        self.write(step);
        let definitions: Vec<Json> = parsed.iter().map(|(_, method)| method.definition.clone()).collect();
        let Some(own) = self.sessions.get_mut(&session) else { return };
        own.methods.extend(parsed);
        if !definitions.is_empty() {
            for other in self.interop_neighbours(session) {
                let (server, methods) = (server.clone(), definitions.clone());
                self.tell(other, Event::MethodsAdded { server, methods, local: true });
            }
        }
        // A client learns its own methods from its gateway only, so this is sent even when empty.
        self.tell(session, Event::MethodsAdded { server, methods: definitions, local: true });
        self.done(session, request);
    }

    pub(crate) fn unregister(&mut self, session: SessionId, request: Request, ids: Vec<Json>) {
        let Some(own) = self.sessions.get_mut(&session) else { return };
        if let Some(unknown) = ids.iter().find(|id| !own.methods.contains_key(id)) {
            let method = Text::from(unknown.to_string());
            return self.refuse(session, request, Reason::NotRegistered { method });
        }
        let server = own.instance.clone();
        for id in &ids {
            own.methods.remove(id);
        }
        self.end_interests_in(session, &ids);
        let node = self.settings.node;
        self.write(
            ids.iter()
                .map(|id| Write { key: key::method(node, &server, id.as_bytes()), value: None })
                .collect(),
        );
        let mut told = self.interop_neighbours(session);
        told.push(session);
        for other in told {
            self.tell(other, Event::MethodsRemoved { server: server.clone(), methods: ids.clone() });
        }
        self.done(session, request);
    }

    /// Shows a session that has just joined what the other nodes offer its user.
    pub(crate) fn announce_remote_to(&mut self, session: SessionId, user: &UserKey) {
        let mut events = Vec::new();
        for (instance, row) in &self.remote {
            if row.user == *user && self.nodes.get(&row.node).is_some_and(|node| node.shown) {
                row.announce(instance, |event| events.push(event));
            }
        }
        for event in events {
            self.tell(session, event);
        }
    }

    /// Shows all of a node's instances.
    pub(crate) fn show_node(&mut self, node: NodeId) {
        let Some(known) = self.nodes.get_mut(&node).filter(|known| known.link.is_some()) else { return };
        if std::mem::replace(&mut known.shown, true) {
            return;
        }
        for instance in known.instances.clone() {
            self.announce_row(&instance);
        }
    }

    /// Withdraws all of a node's instances, and keeps the rows.
    pub(crate) fn hide_node(&mut self, node: NodeId, cause: &Cause) {
        let Some(known) = self.nodes.get_mut(&node) else { return };
        if !std::mem::replace(&mut known.shown, false) {
            return;
        }
        for instance in known.instances.clone() {
            self.withdraw_row(&instance, cause);
        }
    }

    /// Brings the table up to date after a merge that changed these keys.
    pub(crate) fn registry_changed(&mut self, subjects: &[Subject]) {
        let mut touched: BTreeSet<(NodeId, Text)> = BTreeSet::new();
        for subject in subjects {
            match subject {
                Subject::Node(node) => self.node_record_changed(*node),
                Subject::Instance { node, instance } | Subject::Method { node, instance, .. } => {
                    touched.insert((*node, instance.clone()));
                }
                Subject::Interest { node, user, pattern } => {
                    let wanted = self
                        .replica
                        .get(&key::interest(*node, user, pattern))
                        .is_some_and(|e| e.value.is_some());
                    self.bus.set_remote_interest(*node, user, pattern, wanted);
                }
                Subject::Member { .. } | Subject::Header(_) | Subject::Path { .. } => {}
            }
        }
        for (node, instance) in touched {
            if node != self.settings.node {
                self.refresh_row(node, &instance);
            }
        }
    }

    fn node_record_changed(&mut self, node: NodeId) {
        if node == self.settings.node {
            return;
        }
        let Some(entry) = self.replica.get(&key::node(node)) else { return };
        let incarnation = entry.stamp.dot.origin.incarnation;
        let Some(value) = entry.value.clone() else { return };
        if self.nodes.get(&node).is_some_and(|known| known.incarnation < incarnation) {
            self.older_life_ended(node, incarnation);
        }
        let mut fields =
            value.split(|byte| *byte == key::END).filter_map(|f| std::str::from_utf8(f).ok()).map(Text::from);
        let name = fields.next().unwrap_or_default();
        let addresses: Vec<Text> = fields.filter(|address| !address.is_empty()).collect();
        self.know_node(node, incarnation, name);
        self.emit(Output::NodeSeen { node, addresses });
    }

    /// Returns the row of a node, made if need be.
    pub(crate) fn know_node(
        &mut self,
        node: NodeId,
        incarnation: Incarnation,
        name: Text,
    ) -> &mut RemoteNode {
        let known = self.nodes.entry(node).or_insert_with(|| RemoteNode {
            name: name.clone(),
            incarnation,
            link: None,
            shown: false,
            lost_at: None,
            instances: BTreeSet::new(),
        });
        if incarnation >= known.incarnation && !name.is_empty() {
            known.name = name;
        }
        known
    }

    /// Looks again at rows that waited for calls and subscriptions to end.
    pub(crate) fn settle_rows(&mut self) {
        for (node, instance) in std::mem::take(&mut self.unsettled) {
            self.refresh_row(node, &instance);
        }
    }

    /// Brings a row in line with the replica.
    ///
    /// The owner ends what hangs on an instance before it withdraws it, but says so on another lane,
    /// behind the last results and data. What is withdrawn here stays until that has arrived, so that an
    /// answer is not lost to its own callee's leaving, and clients, which look the instance up, still
    /// know it. All ends come over the link that is open now; without one there is nothing to wait for.
    fn refresh_row(&mut self, node: NodeId, instance: &Text) {
        if self.remote.get(instance).is_some_and(|row| row.node != node) {
            return; // Ids are unique by construction; a node that claims another's is not believed.
        }
        let shown = self.nodes.get(&node).is_some_and(|known| known.shown);
        let linked = self.link_to(node).is_some();
        let value = self.replica.get(&key::instance(node, instance)).and_then(|entry| entry.value.clone());
        let parsed = value.and_then(|value| {
            let end = value.iter().position(|byte| *byte == key::END)?;
            let identity = Json::parse(value.slice(end + 1..)).ok().filter(is_object)?;
            Some((UserKey(value.slice(..end)), identity))
        });
        let Some((user, identity)) = parsed else {
            if linked && self.hangs_on(instance) {
                if let Some(row) = self.remote.get_mut(instance) {
                    row.leaving = true;
                }
                self.unsettled.insert((node, instance.clone()));
                return;
            }
            self.end_subscriptions_to(instance, None);
            if shown {
                self.withdraw_row(instance, &Cause::Disconnected);
            }
            if self.remote.remove(instance).is_some()
                && let Some(known) = self.nodes.get_mut(&node)
            {
                known.instances.remove(instance);
            }
            return;
        };
        let prefix = key::method(node, instance, b"");
        let prefix = &prefix[..prefix.len() - 1];
        let mut methods = BTreeMap::new();
        for (key, entry) in self.replica.below(prefix) {
            let Some(value) = &entry.value else { continue };
            let (Some(Subject::Method { id, .. }), Ok(definition)) =
                (key::parse(key), Json::parse(value.clone()))
            else {
                continue;
            };
            if let Ok(id) = Json::parse(id) {
                methods.insert(id, definition);
            }
        }
        if self.instances.contains_key(instance) {
            return;
        }
        let new = !self.remote.contains_key(instance);
        let mut waits = false;
        if linked && let Some(row) = self.remote.get(instance) {
            for (id, definition) in &row.methods {
                if !methods.contains_key(id) && self.is_subscribed_to(instance, id) {
                    methods.insert(id.clone(), definition.clone());
                    waits = true;
                }
            }
        }
        if waits {
            self.unsettled.insert((node, instance.clone()));
        }
        let row = self.remote.entry(instance.clone()).or_insert_with(|| RemoteInstance {
            node,
            user,
            identity,
            methods: BTreeMap::new(),
            leaving: false,
        });
        row.leaving = false;
        let old = std::mem::replace(&mut row.methods, methods);
        let user = row.user.clone();
        // One that was withdrawn and offered anew between two batches is both: clients keep what they
        // know under an id.
        let differs = |id: &Json, a: &BTreeMap<Json, Json>, b: &BTreeMap<Json, Json>| a.get(id) != b.get(id);
        let added: Vec<Json> = row
            .methods
            .iter()
            .filter(|(id, _)| differs(id, &old, &row.methods))
            .map(|(_, definition)| definition.clone())
            .collect();
        let removed: Vec<Json> = old.keys().filter(|id| differs(id, &old, &row.methods)).cloned().collect();
        self.know_node(node, Incarnation(0), Text::default()).instances.insert(instance.clone());
        if !linked {
            for id in &removed {
                self.end_subscriptions_to(instance, Some(id));
            }
        }
        if !shown {
            return;
        }
        if new {
            return self.announce_row(instance);
        }
        for session in self.interop_sessions(&user) {
            if !removed.is_empty() {
                let (server, methods) = (instance.clone(), removed.clone());
                self.tell(session, Event::MethodsRemoved { server, methods });
            }
            if !added.is_empty() {
                let (server, methods) = (instance.clone(), added.clone());
                self.tell(session, Event::MethodsAdded { server, methods, local: false });
            }
        }
    }

    fn announce_row(&mut self, instance: &Text) {
        let Some(row) = self.remote.get(instance) else { return };
        let mut events = Vec::new();
        row.announce(instance, |event| events.push(event));
        for session in self.interop_sessions(&row.user.clone()) {
            for event in &events {
                self.tell(session, event.clone());
            }
        }
    }

    fn withdraw_row(&mut self, instance: &Text, cause: &Cause) {
        let Some(row) = self.remote.get(instance) else { return };
        let (user, ids) = (row.user.clone(), row.methods.keys().cloned().collect::<Vec<_>>());
        for session in self.interop_sessions(&user) {
            if !ids.is_empty() {
                self.tell(session, Event::MethodsRemoved { server: instance.clone(), methods: ids.clone() });
            }
            self.tell(session, Event::InstanceRemoved { instance: instance.clone(), cause: cause.clone() });
        }
    }

    fn interop_sessions(&self, user: &UserKey) -> Vec<SessionId> {
        let sessions = self.sessions_of(user).into_iter();
        sessions.filter(|session| self.sessions.get(session).is_some_and(|s| s.interop)).collect()
    }
}

impl RemoteInstance {
    fn announce(&self, instance: &Text, mut tell: impl FnMut(Event)) {
        tell(Event::InstanceAdded {
            instance: instance.clone(),
            identity: self.identity.clone(),
            local: false,
        });
        if !self.methods.is_empty() {
            let methods = self.methods.values().cloned().collect();
            tell(Event::MethodsAdded { server: instance.clone(), methods, local: false });
        }
    }
}

/// Takes id and name out of a definition.
fn method_of(definition: &Json) -> Result<(Json, Text), &'static str> {
    use mesh_model::limits::NAME_BYTES_MAX;
    let id = definition.member("id").filter(|id| !id.is_null()).ok_or("it has no `id`")?;
    if id.len() > NAME_BYTES_MAX {
        return Err("its `id` is longer than the limit name_bytes_max");
    }
    let name = definition.member("name").and_then(|name| name.as_text()).ok_or("it has no string `name`")?;
    if name.len() > NAME_BYTES_MAX {
        return Err("its `name` is longer than the limit name_bytes_max");
    }
    Ok((id.detached(), name.detached()))
}
