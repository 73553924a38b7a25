//! Sessions: one application instance each, and who of them sees whom.
//!
//! Two instances see each other when they have both joined the interop area, on this node or on any
//! other that can be reached, and are of the same user; see [`party`](crate::party).

use std::collections::{BTreeMap, BTreeSet};

use bytes::Bytes;
use mesh_model::json;
use mesh_model::{
    Area, CallId, Cause, Event, Json, Key, Kind, Reason, Request, SessionId, Text, Tick, Words,
};

use crate::best;
use crate::content::Write;
use crate::key::{self, ContextKey, UserKey};
use crate::node::Node;
use crate::party::Party;
use crate::registry::{Method, definitions_for};
use crate::restriction::Restriction;
use crate::returning::{self, Wrote};
use crate::visibility::{Scope, Visibility};
use crate::{CloseReason, Output};

/// How much of its rate of changes to contexts a session may use at once.
const CHANGES_AT_ONCE_MS: u64 = 5_000;

/// An application's attachment to this node.
#[derive(Clone, Debug)]
pub(crate) struct Session {
    pub(crate) instance: Text,
    pub(crate) identity: Json,
    pub(crate) application: Text,
    pub(crate) user: UserKey,
    /// Whether it serves all users.
    pub(crate) service: bool,
    /// Whether other nodes know nothing of it, in interop and on the bus.
    pub(crate) interop_local: bool,
    pub(crate) bus_local: bool,
    pub(crate) interop: bool,
    interop_restriction: Option<Restriction>,
    pub(crate) bus: bool,
    bus_restriction: Option<Restriction>,
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
    /// The instance name in its identity: not its id, and the same again when its client returns.
    pub(crate) name: Text,
    /// What its client is known by when it returns.
    pub(crate) recognised_by: Option<Json>,
    /// The writes to contexts that it made last.
    pub(crate) wrote: Wrote,
    /// When it last asked for something.
    pub(crate) asked: Tick,
    /// Up to when it has used its rate of changes to contexts.
    changes_until: Tick,
    /// The last write of this node that it may know of; see [`causal`](crate::causal).
    pub(crate) knows: u64,
    /// Its whole identity, if it came with an instance name of its own.
    fixed_identity: Option<Json>,
}

impl Session {
    /// Returns how it takes part in interop.
    pub(crate) fn party(&self) -> Party<'_> {
        let restriction = self.interop_restriction.as_ref();
        Party { user: &self.user, service: self.service, identity: &self.identity, restriction }
    }

    /// Returns whose topics its own are among.
    pub(crate) fn bus_partition(&self) -> UserKey {
        if self.service { UserKey::services() } else { self.user.clone() }
    }

    /// Returns how it takes part in the bus.
    pub(crate) fn bus_party(&self) -> Party<'_> {
        Party { restriction: self.bus_restriction.as_ref(), ..self.party() }
    }
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
        service: bool,
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
        let user_key = UserKey::new(user.as_ref());
        let recognised_by = returning::recognised_by(identity);
        // One who comes under its own instance may take over its old session first, and does not need room
        // for two.
        if !own_instance && let Err(reason) = self.room_for_session(&user_key) {
            return self.refuse(session, request, reason);
        }
        let mut returned = match own_instance {
            true => None,
            false => self.returning(&user_key, recognised_by.as_ref()),
        };
        let mut resolved: Vec<(Key, Json)> = Vec::with_capacity(members.len() + 4);
        let mut set = |name: Key, value: Json| match resolved.iter_mut().find(|(known, _)| *known == name) {
            Some((_, old)) => *old = value,
            None => resolved.push((name, value)),
        };
        for (name, value) in members {
            set(Key(bytes::Bytes::copy_from_slice(&name.0)), value);
        }
        if !own_instance {
            // Applications hand this name to each other: a client that returns keeps it.
            let name = returned.as_ref().map(|(name, _)| name.clone());
            set(Key::new("instance"), Json::string(&name.unwrap_or_else(|| self.next_name('i'))));
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
            let heard = self.sessions.get(&old).map(|old| old.asked);
            self.detach(old, heard);
            self.emit(Output::CloseSession { session: old, reason: CloseReason::TakenOver });
        }
        if own_instance {
            if let Err(reason) = self.room_for_session(&user_key) {
                return self.refuse(session, request, reason);
            }
            returned = self.returning(&user_key, recognised_by.as_ref());
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
        let name = text("instance").unwrap_or_default();
        let user = user_key;
        self.instances.insert(instance.clone(), session);
        self.by_user.entry(user.clone()).or_default().insert(session);
        if service {
            self.services.insert(session);
        }
        if let Some(fixed) = &fixed_identity {
            self.by_identity.insert(fixed.clone(), session);
        }
        let new = Session {
            instance: instance.clone(),
            identity: identity.clone(),
            application,
            user: user.clone(),
            service,
            interop_local: self.settings.visibility.peer(Area::Interop, &identity).scope == Scope::Local,
            bus_local: self.settings.visibility.peer(Area::Bus, &identity).scope == Scope::Local,
            interop: false,
            interop_restriction: None,
            bus: false,
            bus_restriction: None,
            methods: BTreeMap::new(),
            invocations: BTreeSet::new(),
            calls: BTreeSet::new(),
            interests: BTreeSet::new(),
            subscribed: BTreeSet::new(),
            contexts: BTreeSet::new(),
            topics: BTreeSet::new(),
            name,
            recognised_by,
            wrote: Wrote::default(),
            asked: self.now.tick,
            changes_until: self.now.tick,
            knows: 0,
            fixed_identity,
        };
        self.sessions.insert(session, new);
        self.note_recognition();
        if let Some((_, resuming)) = returned {
            self.resuming.insert(session, resuming);
        }
        self.tell(session, Event::Attached { request, instance, identity });
        self.announce_contexts(session, &user);
    }

    fn room_for_session(&self, user: &UserKey) -> Result<(), Reason> {
        let max = self.settings.limits.sessions_per_user_max;
        match self.by_user.get(user).map_or(0, BTreeSet::len) < max {
            true => Ok(()),
            false => Err(Reason::Limit { limit: "sessions_per_user_max", max: max as u64 }),
        }
    }

    /// Ends a session: everything that was its own goes, in the order its neighbours need. Its client may
    /// return if it was cut off, which `heard` tells: when it was last heard of.
    pub(crate) fn detach(&mut self, session: SessionId, heard: Option<Tick>) {
        if !self.sessions.contains_key(&session) {
            return;
        }
        let left = heard.and_then(|heard| self.departing(session, heard));
        let from = self.cursor();
        self.resuming.remove(&session);
        self.note_recognition();
        self.leave_interop(session, &Cause::Disconnected);
        self.leave_bus(session);
        self.leave_contexts(session);
        let Some(gone) = self.sessions.remove(&session) else { return };
        self.instances.remove(&gone.instance);
        self.services.remove(&session);
        if let Some(fixed) = &gone.fixed_identity {
            self.by_identity.remove(fixed);
        }
        if let Some(of_user) = self.by_user.get_mut(&gone.user) {
            of_user.remove(&session);
            if of_user.is_empty() {
                self.by_user.remove(&gone.user);
            }
        }
        if let Some(left) = left {
            self.departed(left, from);
        }
    }

    /// Counts a change to a context, unless the session has made too many.
    pub(crate) fn count_change(&mut self, session: SessionId) -> Result<(), Reason> {
        let max = self.settings.limits.context_updates_per_second_max;
        let now = self.now.tick;
        let Some(own) = self.sessions.get_mut(&session).filter(|_| max > 0) else { return Ok(()) };
        // Each takes its part of a second, from now on or from where those before it end.
        let until = Tick(own.changes_until.max(now).0.saturating_add(1_000_000 / max));
        if until.since(now) > CHANGES_AT_ONCE_MS * 1000 {
            return Err(Reason::Limit { limit: "context_updates_per_second_max", max });
        }
        own.changes_until = until;
        Ok(())
    }

    pub(crate) fn join(
        &mut self,
        session: SessionId,
        request: Request,
        area: Area,
        restrictions: Option<&Text>,
    ) {
        let restriction = match parse_restriction(restrictions) {
            Ok(restriction) => restriction,
            Err(reason) => return self.refuse(session, request, reason),
        };
        let Some(own) = self.sessions.get_mut(&session) else { return };
        match area {
            // Joining again is no new beginning.
            Area::Bus if own.bus => {}
            Area::Interop if own.interop => {}
            Area::Bus => (own.bus, own.bus_restriction) = (true, restriction),
            Area::Interop => {
                (own.interop, own.interop_restriction) = (true, restriction);
                self.join_interop(session);
            }
        }
        self.done(session, request);
    }

    fn join_interop(&mut self, session: SessionId) {
        let own = &self.sessions[&session];
        let (instance, identity) = (own.instance.clone(), own.identity.clone());
        self.publish_instance(session);

        let mut neighbours = self.interop_neighbours(session);
        neighbours.sort_by_key(|other| {
            let party = self.sessions.get(other).map(Session::party);
            !party.is_some_and(|party| best::is_of_own_user(party, self.sessions[&session].party()))
        });
        for other in neighbours {
            let Some(peer) = self.sessions.get(&other) else { continue };
            let methods = definitions_for(peer.methods.values(), &peer.identity, &identity);
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
        self.announce_remote_to(session);
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
        let (instance, identity) = (own.instance.clone(), own.identity.clone());
        let methods = std::mem::take(&mut own.methods);
        if let Cause::Left(words) = cause
            && *words != Words::default()
        {
            self.tell_why(&key::instance(self.settings.node, &instance), cause);
        }
        self.publish_instance(session);
        for other in neighbours {
            self.tell_removed(other, &instance, &identity, &methods);
            self.tell(other, Event::InstanceRemoved { instance: instance.clone(), cause: cause.clone() });
        }
    }

    /// Writes what other nodes may know of a session in interop: its record and its methods.
    pub(crate) fn publish_instance(&mut self, session: SessionId) {
        let Some(own) = self.sessions.get(&session) else { return };
        let node = self.settings.node;
        let key = key::instance(node, &own.instance);
        let shown = own.interop && !own.interop_local;
        let mut step = Vec::new();
        let published = |key: &Bytes| self.replica.get(key).is_some_and(|entry| entry.value.is_some());
        if shown != published(&key) {
            let value = shown.then(|| InstanceRecord::of(own).to_bytes());
            step.push(Write { key: key.clone(), value });
        }
        let wanted = own.methods.iter().filter(|(_, method)| shown && !method.local);
        let wanted: BTreeMap<Bytes, &Method> =
            wanted.map(|(id, method)| (key::method(node, &own.instance, id.as_bytes()), method)).collect();
        let prefix = key::methods(node, &own.instance);
        for (key, entry) in self.replica.below(&prefix) {
            if entry.value.is_some() && !wanted.contains_key(key) {
                step.push(Write { key: key.clone(), value: None });
            }
        }
        for (key, method) in wanted {
            let definition = method.definition.as_bytes();
            if self.replica.get(&key).is_none_or(|entry| entry.value.as_ref() != Some(definition)) {
                step.push(Write { key, value: Some(definition.clone()) });
            }
        }
        if !step.is_empty() {
            self.write(step);
        }
    }

    /// Takes new visibility lists: what became hidden is withdrawn from the other nodes, what may be seen now
    /// is told to them.
    pub(crate) fn set_visibility(&mut self, lists: Visibility) {
        self.settings.visibility = lists;
        let lists = &self.settings.visibility;
        let mut toggled = Vec::new();
        for (id, session) in &mut self.sessions {
            let local = |area| lists.peer(area, &session.identity).scope == Scope::Local;
            let interop_local = local(Area::Interop);
            if interop_local != session.interop_local && session.interop {
                toggled.push(*id);
            }
            (session.interop_local, session.bus_local) = (interop_local, local(Area::Bus));
            for method in session.methods.values_mut() {
                method.local = lists.method(&method.name, &session.identity).scope == Scope::Local;
            }
        }
        for session in self.sessions.keys().copied().collect::<Vec<_>>() {
            self.publish_instance(session);
        }
        for session in toggled {
            self.remote_sight_changed(session);
        }
        self.publish_interests();
        self.contexts_visibility_changed();
    }

    /// Returns the other sessions of this node that a session sees.
    pub(crate) fn interop_neighbours(&self, session: SessionId) -> Vec<SessionId> {
        let Some(own) = self.sessions.get(&session) else { return Vec::new() };
        let mut others = self.interop_sessions(own.party());
        others.retain(|other| *other != session);
        others
    }

    /// Returns the sessions of this node that see a peer.
    pub(crate) fn interop_sessions(&self, peer: Party<'_>) -> Vec<SessionId> {
        let sees = |id: &SessionId| {
            self.sessions.get(id).is_some_and(|session| session.interop && session.party().sees(peer))
        };
        if peer.service {
            return self.sessions.keys().copied().filter(sees).collect();
        }
        let of_user = self.by_user.get(peer.user).into_iter().flatten();
        let services =
            self.services.iter().filter(|id| self.sessions.get(id).is_some_and(|s| s.user != *peer.user));
        of_user.chain(services).copied().filter(sees).collect()
    }
}

/// What other nodes are told of an instance that takes part in interop.
#[derive(Clone, Debug)]
pub(crate) struct InstanceRecord {
    pub(crate) user: UserKey,
    pub(crate) service: bool,
    pub(crate) restriction: Option<Restriction>,
    pub(crate) identity: Json,
}

impl InstanceRecord {
    fn of(session: &Session) -> Self {
        Self {
            user: session.user.clone(),
            service: session.service,
            restriction: session.interop_restriction.clone(),
            identity: session.identity.clone(),
        }
    }

    fn to_bytes(&self) -> Bytes {
        let restriction = self.restriction.as_ref().map_or("", |restriction| restriction.text());
        let flags: &[u8] = if self.service { b"s" } else { b"" };
        let fields = [&self.user.0[..], flags, restriction.as_bytes()];
        let mut out = Vec::new();
        for field in fields {
            out.extend_from_slice(field);
            out.push(key::END);
        }
        out.extend_from_slice(self.identity.as_bytes());
        out.into()
    }

    /// Understands another node's record. One with a restriction that cannot be understood is none: nobody
    /// shall see what its app wanted hidden.
    pub(crate) fn parse(value: &Bytes) -> Option<Self> {
        let mut fields = value.splitn(4, |byte| *byte == key::END).map(|field| value.slice_ref(field));
        let user = UserKey(fields.next()?);
        let service = fields.next()?.contains(&b's');
        let restriction = Restriction::parse(std::str::from_utf8(&fields.next()?).ok()?).ok()?;
        let identity = Json::parse(fields.next()?).ok().filter(is_object)?;
        Some(Self { user, service, restriction, identity })
    }
}

/// Parses a restriction that an application gave.
pub(crate) fn parse_restriction(expression: Option<&Text>) -> Result<Option<Restriction>, Reason> {
    let Some(expression) = expression else { return Ok(None) };
    Restriction::parse(expression)
        .map_err(|problem| Reason::BadRestriction { expression: expression.clone(), problem: problem.into() })
}

/// Returns whether a value is an object; what is not cannot be an identity or a definition.
pub(crate) fn is_object(value: &Json) -> bool {
    value.kind() == Kind::Object
}
