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
use crate::party::Party;
use crate::restriction::Restriction;
use crate::session::{InstanceRecord, parse_restriction};
use crate::vector::Vector;
use crate::visibility::Scope;

/// Another node of the domain.
#[derive(Clone, Debug)]
pub(crate) struct RemoteNode {
    pub(crate) name: Text,
    pub(crate) incarnation: Incarnation,
    /// The link that serves, while there is one.
    pub(crate) link: Option<LinkId>,
    /// Whether its rows are shown.
    pub(crate) shown: bool,
    /// Since when it cannot be reached, until it counts as gone.
    pub(crate) lost_at: Option<Tick>,
    /// Until when the calls that went over a link that broke wait for word of them.
    pub(crate) calls_wait_until: Option<Tick>,
    /// What it has covered, as it or another node has said and as far as this node covers it too; and of
    /// which life that was said.
    pub(crate) said: Vector,
    pub(crate) said_in: Incarnation,
    /// When it was last heard, by this node or by another that said so.
    pub(crate) heard_at: Tick,
    /// From when on it may be dialled by way of another node, and how many such dials failed in a row.
    pub(crate) relay_at: Tick,
    pub(crate) relays_tried: usize,
    /// Its instances. One entry per row of `Node::remote` with this node.
    pub(crate) instances: BTreeSet<Text>,
}

/// A method as its provider registered it.
#[derive(Clone, Debug)]
pub(crate) struct Method {
    pub(crate) definition: Json,
    pub(crate) name: Text,
    restriction: Option<Restriction>,
    /// Whether other nodes know nothing of it.
    pub(crate) local: bool,
}

impl Method {
    /// Returns whether a provider offers it to somebody else.
    pub(crate) fn is_for(&self, provider: &Json, consumer: &Json) -> bool {
        self.restriction.as_ref().is_none_or(|restriction| restriction.holds(provider, consumer))
    }
}

/// Returns the definitions that a consumer may see.
pub(crate) fn definitions_for<'a>(
    methods: impl Iterator<Item = &'a Method>,
    provider: &Json,
    consumer: &Json,
) -> Vec<Json> {
    methods
        .filter(|method| method.is_for(provider, consumer))
        .map(|method| method.definition.clone())
        .collect()
}

/// An application instance on another node.
#[derive(Clone, Debug)]
pub(crate) struct RemoteInstance {
    pub(crate) node: NodeId,
    pub(crate) user: UserKey,
    service: bool,
    restriction: Option<Restriction>,
    pub(crate) identity: Json,
    pub(crate) methods: BTreeMap<Json, Method>,
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
            match method_of(definition) {
                Ok((id, mut method)) => {
                    let verdict = self.settings.visibility.method(&method.name, &own.identity);
                    method.local = verdict.scope == Scope::Local;
                    parsed.push((id, method));
                }
                Err(reason) => return self.refuse(session, request, reason),
            }
        }
        let bytes = parsed.iter().map(|(_, method)| method.definition.len()).sum();
        if let Err(reason) = self.room_for(parsed.len(), bytes) {
            return self.refuse(session, request, reason);
        }
        let server = own.instance.clone();
        let definitions: Vec<Json> = parsed.iter().map(|(_, method)| method.definition.clone()).collect();
        let added: BTreeMap<Json, Method> = parsed.iter().cloned().collect();
        let Some(own) = self.sessions.get_mut(&session) else { return };
        let identity = own.identity.clone();
        let replaced = added.keys().filter_map(|id| Some((id.clone(), own.methods.remove(id)?))).collect();
        own.methods.extend(parsed);
        self.publish_methods(session, added.keys());
        for other in self.interop_neighbours(session) {
            self.tell_changed(other, &server, &identity, &replaced, &added, true);
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
        let identity = own.identity.clone();
        let removed: BTreeMap<Json, Method> =
            ids.iter().filter_map(|id| Some((id.clone(), own.methods.remove(id)?))).collect();
        self.end_interests_in(session, &ids);
        self.publish_methods(session, removed.keys());
        for other in self.interop_neighbours(session) {
            self.tell_removed(other, &server, &identity, &removed);
        }
        self.tell(session, Event::MethodsRemoved { server, methods: ids });
        self.done(session, request);
    }

    /// Tells a session that a provider it sees offers some methods no longer, as far as it knew them.
    pub(crate) fn tell_removed(
        &mut self,
        session: SessionId,
        server: &Text,
        provider: &Json,
        methods: &BTreeMap<Json, Method>,
    ) {
        self.tell_changed(session, server, provider, methods, &BTreeMap::new(), true);
    }

    /// Tells a session what a provider it sees withdraws and what it offers instead. What is offered again
    /// under the same id is not withdrawn before, unless this session may not see it any more.
    fn tell_changed(
        &mut self,
        session: SessionId,
        server: &Text,
        provider: &Json,
        old: &BTreeMap<Json, Method>,
        new: &BTreeMap<Json, Method>,
        local: bool,
    ) {
        let Some(consumer) = self.sessions.get(&session).map(|own| own.identity.clone()) else { return };
        let sees = |method: &Method| method.is_for(provider, &consumer);
        let removed = old.iter().filter(|(id, was)| sees(was) && !new.get(id).is_some_and(sees));
        let removed: Vec<Json> = removed.map(|(id, _)| id.clone()).collect();
        let added = definitions_for(new.values(), provider, &consumer);
        if !removed.is_empty() {
            self.tell(session, Event::MethodsRemoved { server: server.clone(), methods: removed });
        }
        if !added.is_empty() {
            self.tell(session, Event::MethodsAdded { server: server.clone(), methods: added, local });
        }
    }

    /// Writes what other nodes may know of some methods of a session.
    fn publish_methods<'a>(&mut self, session: SessionId, ids: impl Iterator<Item = &'a Json>) {
        let Some(own) = self.sessions.get(&session).filter(|own| !own.interop_local) else { return };
        let node = self.settings.node;
        let mut step = Vec::new();
        for id in ids {
            let key = key::method(node, &own.instance, id.as_bytes());
            let shown = own.methods.get(id).filter(|method| !method.local);
            let value = shown.map(|method| method.definition.as_bytes().clone());
            let published = self.replica.get(&key).and_then(|entry| entry.value.as_ref());
            if published != value.as_ref() {
                step.push(Write { key, value });
            }
        }
        if !step.is_empty() {
            self.write(step);
        }
    }

    /// Returns the sessions here that see an instance of another node.
    fn sessions_that_see(&self, row: &RemoteInstance) -> Vec<SessionId> {
        let mut sessions = self.interop_sessions(row.party());
        sessions.retain(|id| self.sessions.get(id).is_some_and(|session| !session.interop_local));
        sessions
    }

    /// Shows a session the other nodes' instances, or withdraws them, after new visibility lists. What is
    /// under way is left to end by itself.
    pub(crate) fn remote_sight_changed(&mut self, session: SessionId) {
        let Some(own) = self.sessions.get(&session) else { return };
        if !own.interop_local {
            return self.announce_remote_to(session);
        }
        let shown = |row: &RemoteInstance| self.nodes.get(&row.node).is_some_and(|node| node.shown);
        let seen = self.remote.iter().filter(|(_, row)| row.party().sees(own.party()) && shown(row));
        let seen: Vec<_> =
            seen.map(|(id, row)| (id.clone(), row.identity.clone(), row.methods.clone())).collect();
        for (instance, identity, methods) in seen {
            self.tell_removed(session, &instance, &identity, &methods);
            self.tell(session, Event::InstanceRemoved { instance, cause: Cause::Unreachable });
        }
    }

    /// Shows a session that has just joined what the other nodes offer its user.
    pub(crate) fn announce_remote_to(&mut self, session: SessionId) {
        let Some(own) = self.sessions.get(&session) else { return };
        let seen = self.remote.iter().filter(|(_, row)| {
            row.party().sees(own.party()) && self.nodes.get(&row.node).is_some_and(|node| node.shown)
        });
        let mut seen: Vec<_> = seen.filter(|_| !own.interop_local).collect();
        // The first of those that offer something is whom the client takes for the best.
        seen.sort_by_cached_key(|(instance, row)| {
            self.rank(own.party(), &own.instance, row, self.joined_at(row.node, instance))
        });
        let mut events = Vec::new();
        for (instance, row) in seen {
            row.announce(instance, &own.identity, |event| events.push(event));
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
        let mut instances: Vec<Text> = known.instances.iter().cloned().collect();
        instances.sort_by_cached_key(|instance| self.joined_at(node, instance));
        for instance in instances {
            self.announce_row(&instance);
        }
    }

    /// Returns the number of the write by which a node told of an instance: the later it joined, the higher.
    fn joined_at(&self, node: NodeId, instance: &Text) -> u64 {
        self.replica.get(&key::instance(node, instance)).map_or(u64::MAX, |entry| entry.stamp.dot.seq)
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
                Subject::Interest { node, user, pattern } if *node != self.settings.node => {
                    let wanted = self
                        .replica
                        .get(&key::interest(*node, user, pattern))
                        .is_some_and(|e| e.value.is_some());
                    self.bus.set_remote_interest(*node, user, pattern, wanted);
                }
                Subject::Interest { .. }
                | Subject::Retired(_)
                | Subject::Member { .. }
                | Subject::Header(_)
                | Subject::Path { .. } => {}
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
        let now = self.now.tick;
        let known = self.nodes.entry(node).or_insert_with(|| {
            self.links_changed = true;
            RemoteNode {
                name: name.clone(),
                incarnation,
                link: None,
                shown: false,
                lost_at: None,
                calls_wait_until: None,
                said: Vector::default(),
                said_in: Incarnation(0),
                heard_at: now,
                relay_at: now.plus_millis(self.settings.timing.relay_ms),
                relays_tried: 0,
                instances: BTreeSet::new(),
            }
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
        let Some(record) = value.as_ref().and_then(InstanceRecord::parse) else {
            if linked && self.hangs_on(instance) {
                if let Some(row) = self.remote.get_mut(instance) {
                    row.leaving = true;
                }
                self.unsettled.insert((node, instance.clone()));
                return;
            }
            self.end_subscriptions_to(instance, None);
            let why = self.why(&key::instance(node, instance)).unwrap_or(Cause::Disconnected);
            if shown {
                self.withdraw_row(instance, &why);
            }
            if self.remote.remove(instance).is_some()
                && let Some(known) = self.nodes.get_mut(&node)
            {
                known.instances.remove(instance);
            }
            return;
        };
        let prefix = key::methods(node, instance);
        let mut methods = BTreeMap::new();
        for (key, entry) in self.replica.below(&prefix) {
            let Some(value) = &entry.value else { continue };
            // What cannot be understood is not shown, least of all a restriction.
            let definition = Json::parse(value.clone()).ok();
            if let Some(Ok((id, method))) = definition.map(method_of)
                && matches!(key::parse(key), Some(Subject::Method { id: named, .. }) if named == *id.as_bytes())
            {
                methods.insert(id, method);
            }
        }
        if self.instances.contains_key(instance) {
            return;
        }
        let new = !self.remote.contains_key(instance);
        let mut waits = false;
        if linked && let Some(row) = self.remote.get(instance) {
            for (id, method) in &row.methods {
                if !methods.contains_key(id) && self.is_subscribed_to(instance, id) {
                    methods.insert(id.clone(), method.clone());
                    waits = true;
                }
            }
        }
        if waits {
            self.unsettled.insert((node, instance.clone()));
        }
        let row = self.remote.entry(instance.clone()).or_insert_with(|| RemoteInstance {
            node,
            user: record.user,
            service: record.service,
            restriction: record.restriction,
            identity: record.identity,
            methods: BTreeMap::new(),
            leaving: false,
        });
        row.leaving = false;
        let old = std::mem::replace(&mut row.methods, methods);
        // One that was withdrawn and offered anew between two batches is both: clients keep what they
        // know under an id.
        let differing = |a: &BTreeMap<Json, Method>, b: &BTreeMap<Json, Method>| -> BTreeMap<Json, Method> {
            let same =
                |id: &Json, method: &Method| b.get(id).is_some_and(|m| m.definition == method.definition);
            a.iter().filter(|(id, m)| !same(id, m)).map(|(id, m)| (id.clone(), m.clone())).collect()
        };
        let (added, removed) = (differing(&row.methods, &old), differing(&old, &row.methods));
        self.know_node(node, Incarnation(0), Text::default()).instances.insert(instance.clone());
        if !linked {
            for id in removed.keys() {
                self.end_subscriptions_to(instance, Some(id));
            }
        }
        if !shown {
            return;
        }
        if new {
            return self.announce_row(instance);
        }
        let Some(row) = self.remote.get(instance) else { return };
        let identity = row.identity.clone();
        for session in self.sessions_that_see(row) {
            self.tell_changed(session, instance, &identity, &removed, &BTreeMap::new(), false);
            self.tell_changed(session, instance, &identity, &BTreeMap::new(), &added, false);
        }
    }

    fn announce_row(&mut self, instance: &Text) {
        let Some(row) = self.remote.get(instance) else { return };
        let mut events = Vec::new();
        for session in self.sessions_that_see(row) {
            let Some(own) = self.sessions.get(&session) else { continue };
            row.announce(instance, &own.identity, |event| events.push((session, event)));
        }
        for (session, event) in events {
            self.tell(session, event);
        }
    }

    fn withdraw_row(&mut self, instance: &Text, cause: &Cause) {
        let Some(row) = self.remote.get(instance) else { return };
        let (identity, methods) = (row.identity.clone(), row.methods.clone());
        for session in self.sessions_that_see(row) {
            self.tell_removed(session, instance, &identity, &methods);
            self.tell(session, Event::InstanceRemoved { instance: instance.clone(), cause: cause.clone() });
        }
    }
}

impl RemoteInstance {
    pub(crate) fn party(&self) -> Party<'_> {
        let restriction = self.restriction.as_ref();
        Party { user: &self.user, service: self.service, identity: &self.identity, restriction }
    }

    fn announce(&self, instance: &Text, consumer: &Json, mut tell: impl FnMut(Event)) {
        tell(Event::InstanceAdded {
            instance: instance.clone(),
            identity: self.identity.clone(),
            local: false,
        });
        let methods = definitions_for(self.methods.values(), &self.identity, consumer);
        if !methods.is_empty() {
            tell(Event::MethodsAdded { server: instance.clone(), methods, local: false });
        }
    }
}

/// Takes a definition apart: its id, and what this node has to know of it.
fn method_of(definition: Json) -> Result<(Json, Method), Reason> {
    use mesh_model::limits::NAME_BYTES_MAX;
    let bad = |problem: &'static str| Reason::BadMethod { problem: Text::from_static(problem) };
    let id = definition.member("id").filter(|id| !id.is_null()).ok_or(bad("it has no `id`"))?;
    if id.len() > NAME_BYTES_MAX {
        return Err(bad("its `id` is longer than the limit name_bytes_max"));
    }
    let name = definition.member("name").and_then(|name| name.as_text());
    let name = name.ok_or(bad("it has no string `name`"))?;
    if name.len() > NAME_BYTES_MAX {
        return Err(bad("its `name` is longer than the limit name_bytes_max"));
    }
    let restriction = match definition.member("restrictions").filter(|given| !given.is_null()) {
        None => None,
        Some(given) => Some(given.as_text().ok_or(bad("its `restrictions` are not a string"))?),
    };
    let restriction = parse_restriction(restriction.as_ref())?;
    let id = id.detached();
    Ok((id, Method { name: name.detached(), definition: definition.detached(), restriction, local: false }))
}
