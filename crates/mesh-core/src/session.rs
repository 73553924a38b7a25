//! Sessions: one application instance each, and who of them sees whom.
//!
//! Two instances see each other when they have the same user and have both joined the interop area,
//! on this node or on any other that can be reached.

use std::collections::{BTreeMap, BTreeSet};

use mesh_model::json;
use mesh_model::{Area, CallId, Cause, Event, Json, Key, Kind, Reason, Request, SessionId, Text, Words};

use crate::content::Write;
use crate::key::{self, ContextKey, UserKey};
use crate::node::Node;
use crate::{CloseReason, Output};

/// An application's attachment to this node.
#[derive(Debug)]
pub(crate) struct Session {
    pub(crate) instance: Text,
    pub(crate) identity: Json,
    pub(crate) application: Text,
    pub(crate) user: UserKey,
    pub(crate) interop: bool,
    pub(crate) bus: bool,
    /// Its methods by the id it gave them, as JSON text.
    pub(crate) methods: BTreeMap<Json, Method>,
    /// What it is asked to run, by invocation.
    pub(crate) invocations: BTreeSet<u64>,
    /// Its calls to other nodes that have not ended.
    pub(crate) calls: BTreeSet<CallId>,
    /// Subscriptions to its streams.
    pub(crate) interests: BTreeSet<u64>,
    /// Its subscriptions to streams: to this node's providers by number, to others' by call.
    pub(crate) subscribed: BTreeSet<u64>,
    /// The contexts it receives changes of.
    pub(crate) contexts: BTreeSet<ContextKey>,
    /// Its bus subscriptions.
    pub(crate) topics: BTreeSet<u64>,
    /// Its whole identity, if it came with an instance name of its own.
    fixed_identity: Option<Json>,
}

/// A method as its provider registered it.
#[derive(Debug)]
pub(crate) struct Method {
    pub(crate) definition: Json,
    pub(crate) name: Text,
}

impl Node {
    /// Makes a session, under an identity that says the truth about user and machine.
    pub(crate) fn attach(
        &mut self,
        session: SessionId,
        request: Request,
        identity: &Json,
        user: Option<Text>,
        login: Option<Text>,
    ) {
        if self.sessions.contains_key(&session) {
            return self.refuse(session, request, Reason::AlreadyAttached);
        }
        let Some(members) = identity.members() else {
            return self.refuse(session, request, Reason::BadIdentity);
        };
        if self.sessions.len() >= self.settings.limits.sessions_max {
            let max = self.settings.limits.sessions_max as u64;
            return self.refuse(session, request, Reason::Limit { limit: "sessions_max", max });
        }
        let own_instance = members.iter().any(|(name, value)| name.0 == b"instance"[..] && !value.is_null());
        let instance = self.next_name('p');
        let mut resolved: Vec<(Key, Json)> = Vec::with_capacity(members.len() + 4);
        let mut set = |name: Key, value: Json| match resolved.iter_mut().find(|(known, _)| *known == name) {
            Some((_, old)) => *old = value,
            None => resolved.push((name, value)),
        };
        for (name, value) in members {
            set(Key(bytes::Bytes::copy_from_slice(&name.0)), value);
        }
        if !own_instance {
            set(Key::new("instance"), Json::string(&self.next_name('i')));
        }
        // What an application says of its machine and user counts for nothing: others decide by these.
        set(Key::new("machine"), Json::string(&self.settings.name));
        let known = [("user", &user), ("login", &login)];
        for (name, value) in known {
            if let Some(value) = value {
                set(Key::new(name), Json::string(value));
            }
        }
        resolved.retain(|(name, _)| {
            known.iter().all(|(known, value)| name.0 != known.as_bytes() || value.is_some())
        });
        let fixed_identity = own_instance.then(|| json::object(resolved.iter().map(|(n, v)| (n, v))));
        if let Some(fixed) = &fixed_identity
            && let Some(old) = self.by_identity.get(fixed).copied()
        {
            // The same application again: its old connection is half dead, or it was started twice. The
            // newcomer is let in, for a client that is refused here gives up for good.
            self.detach(old);
            self.emit(Output::CloseSession { session: old, reason: CloseReason::TakenOver });
        }
        for (_, value) in &mut resolved {
            if value.as_bytes() == &b"\"?\""[..] {
                *value = Json::string(&instance);
            }
        }
        let identity = json::object(resolved.iter().map(|(n, v)| (n, v)));
        let text =
            |name: &str| identity.member(name).and_then(|value| value.as_text()).map(|text| text.detached());
        let application = text("application").unwrap_or_default();
        let user = UserKey::new(user.as_ref());
        self.instances.insert(instance.clone(), session);
        self.by_user.entry(user.clone()).or_default().insert(session);
        if let Some(fixed) = &fixed_identity {
            self.by_identity.insert(fixed.clone(), session);
        }
        let new = Session {
            instance: instance.clone(),
            identity: identity.clone(),
            application,
            user: user.clone(),
            interop: false,
            bus: false,
            methods: BTreeMap::new(),
            invocations: BTreeSet::new(),
            calls: BTreeSet::new(),
            interests: BTreeSet::new(),
            subscribed: BTreeSet::new(),
            contexts: BTreeSet::new(),
            topics: BTreeSet::new(),
            fixed_identity,
        };
        self.sessions.insert(session, new);
        self.tell(session, Event::Attached { request, instance, identity });
        self.announce_contexts(session, &user);
    }

    /// Ends a session: everything that was its own goes, in the order its neighbours need.
    pub(crate) fn detach(&mut self, session: SessionId) {
        if !self.sessions.contains_key(&session) {
            return;
        }
        self.leave_interop(session, &Cause::Disconnected);
        self.leave_bus(session);
        self.leave_contexts(session);
        let Some(gone) = self.sessions.remove(&session) else { return };
        self.instances.remove(&gone.instance);
        if let Some(fixed) = &gone.fixed_identity {
            self.by_identity.remove(fixed);
        }
        if let Some(of_user) = self.by_user.get_mut(&gone.user) {
            of_user.remove(&session);
            if of_user.is_empty() {
                self.by_user.remove(&gone.user);
            }
        }
    }

    pub(crate) fn join(&mut self, session: SessionId, request: Request, area: Area) {
        let Some(own) = self.sessions.get_mut(&session) else { return };
        match area {
            Area::Bus => own.bus = true,
            Area::Interop if own.interop => {}
            Area::Interop => {
                own.interop = true;
                self.join_interop(session);
            }
        }
        self.done(session, request);
    }

    fn join_interop(&mut self, session: SessionId) {
        let own = &self.sessions[&session];
        let (instance, identity, user) = (own.instance.clone(), own.identity.clone(), own.user.clone());
        let mut value = user.0.to_vec();
        value.push(key::END);
        value.extend_from_slice(identity.as_bytes());
        let key = key::instance(self.settings.node, &instance);
        self.write(vec![Write { key, value: Some(value.into()) }]);

        for other in self.interop_neighbours(session) {
            let Some(peer) = self.sessions.get(&other) else { continue };
            let methods: Vec<Json> = peer.methods.values().map(|method| method.definition.clone()).collect();
            let server = peer.instance.clone();
            self.tell(
                session,
                Event::InstanceAdded {
                    instance: server.clone(),
                    identity: peer.identity.clone(),
                    local: true,
                },
            );
            if !methods.is_empty() {
                self.tell(session, Event::MethodsAdded { server, methods, local: true });
            }
            let (instance, identity) = (instance.clone(), identity.clone());
            self.tell(other, Event::InstanceAdded { instance, identity, local: true });
        }
        self.announce_remote_to(session, &user);
    }

    pub(crate) fn leave(&mut self, session: SessionId, request: Request, area: Area, words: Words) {
        match area {
            Area::Interop => self.leave_interop(session, &Cause::Left(words)),
            Area::Bus => self.leave_bus(session),
        }
        self.done(session, request);
    }

    /// Withdraws a session from interop. The order is the one clients need: what hangs on the instance
    /// ends before the instance does.
    fn leave_interop(&mut self, session: SessionId, cause: &Cause) {
        let Some(own) = self.sessions.get_mut(&session) else { return };
        if !own.interop {
            return;
        }
        own.interop = false;
        self.end_subscriptions_of(session, cause);
        self.end_invocations_of(session);
        self.end_interests_of(session);
        let neighbours = self.interop_neighbours(session);
        let Some(own) = self.sessions.get_mut(&session) else { return };
        let instance = own.instance.clone();
        let ids: Vec<Json> = std::mem::take(&mut own.methods).into_keys().collect();
        let node = self.settings.node;
        let mut step: Vec<Write> = ids
            .iter()
            .map(|id| Write { key: key::method(node, &instance, id.as_bytes()), value: None })
            .collect();
        step.push(Write { key: key::instance(node, &instance), value: None });
        self.write(step);
        for other in neighbours {
            if !ids.is_empty() {
                self.tell(other, Event::MethodsRemoved { server: instance.clone(), methods: ids.clone() });
            }
            self.tell(other, Event::InstanceRemoved { instance: instance.clone(), cause: cause.clone() });
        }
    }

    /// Returns the other sessions of this node that a session sees.
    pub(crate) fn interop_neighbours(&self, session: SessionId) -> Vec<SessionId> {
        let Some(own) = self.sessions.get(&session) else { return Vec::new() };
        let of_user = self.by_user.get(&own.user).into_iter().flatten().copied();
        of_user
            .filter(|other| *other != session && self.sessions.get(other).is_some_and(|s| s.interop))
            .collect()
    }
}

/// Returns whether a value is an object; what is not cannot be an identity or a definition.
pub(crate) fn is_object(value: &Json) -> bool {
    value.kind() == Kind::Object
}
