//! Shared contexts as sessions see them: names, ids, subscribers, lifetimes.
//!
//! A context exists while its header entry has a value. The header is written anew with every update
//! and names its author, so that an update which is newer than a destroy brings the context back, and
//! an older one cannot. A client keeps the id it was told for a name; ids are this node's own.

use std::collections::{BTreeMap, BTreeSet};

use bytes::Bytes;
use mesh_model::limits::NAME_BYTES_MAX;
use mesh_model::{
    Cause, Event, Json, Key as Segment, Lifetime, Permissions, Reason, Request, SessionId, Text, Tick,
};

use crate::content::{self, Before, Delta, Step, Write};
use crate::key::{self, ContextKey, Subject, UserKey};
use crate::node::Node;
use crate::replica::Replica;
use crate::restriction::Restriction;
use crate::session::{Session, parse_restriction};
use crate::visibility::Scope;

/// What this node knows of a context beside its content.
#[derive(Clone, Debug)]
pub(crate) struct SharedContext {
    pub(crate) id: Text,
    /// The sessions here that receive its changes.
    pub(crate) members: BTreeSet<SessionId>,
    /// The present value as text, until the next write.
    value: Option<Json>,
    /// When this node came to know it, and when it learnt of it from another.
    known_at: Tick,
    learnt_at: Option<Tick>,
    access: Option<Access>,
    /// Whether other nodes know nothing of it.
    pub(crate) local: bool,
}

/// Who may do what with a context, if not everybody of its user may do everything.
#[derive(Clone, Debug)]
struct Access {
    /// The instance that created it, and may do everything.
    creator: Text,
    /// What the creator was when it created the context.
    identity: Json,
    read: Option<Restriction>,
    write: Option<Restriction>,
}

impl Access {
    fn allows(&self, identity: &Json, restriction: Option<&Restriction>) -> bool {
        restriction.is_none_or(|wanted| wanted.holds(&self.identity, identity))
    }

    /// Whoever is expressly allowed to write may read too.
    fn may_read(&self, instance: &Text, identity: &Json) -> bool {
        *instance == self.creator
            || self.allows(identity, self.read.as_ref())
            || (self.write.is_some() && self.allows(identity, self.write.as_ref()))
    }

    fn may_write(&self, instance: &Text, identity: &Json) -> bool {
        *instance == self.creator || self.allows(identity, self.write.as_ref())
    }
}

impl SharedContext {
    pub(crate) fn may_be_read_by(&self, instance: &Text, identity: &Json) -> bool {
        self.access.as_ref().is_none_or(|access| access.may_read(instance, identity))
    }

    fn may_read(&self, session: &Session) -> bool {
        self.may_be_read_by(&session.instance, &session.identity)
    }

    fn may_write(&self, session: &Session) -> bool {
        self.access.as_ref().is_none_or(|access| access.may_write(&session.instance, &session.identity))
    }
}

/// How long after a context has come from another node a client that creates it cannot have known of it.
///
/// Clients turn an update of a context they do not know into a creation; were the data of that one dropped,
/// as it is for a context that exists, an update would be lost whenever two machines begin at once.
const UNKNOWN_FOR_US: u64 = 1_000_000;

/// What a header entry says.
#[derive(Clone, Debug)]
struct Header {
    lifetime: Lifetime,
    creator: Text,
    updater: Text,
    /// Empty, or read expression 0xff write expression 0xff identity of the creator.
    permissions: Bytes,
}

/// Writes the last part of a header.
fn permissions_to_bytes(permissions: &Permissions, creator: &Json) -> Bytes {
    if *permissions == Permissions::default() {
        return Bytes::new();
    }
    let mut out = Vec::new();
    for expression in [&permissions.read, &permissions.write] {
        out.extend_from_slice(expression.as_deref().unwrap_or_default().as_bytes());
        out.push(key::END);
    }
    out.extend_from_slice(creator.as_bytes());
    out.into()
}

impl Header {
    fn access(&self) -> Option<Access> {
        if self.permissions.is_empty() {
            return None;
        }
        let mut fields = self.permissions.splitn(3, |byte| *byte == key::END);
        // An expression that cannot be understood lets nobody in: it may be what its app wanted hidden.
        let mut expression = || {
            let text = fields.next().and_then(|field| std::str::from_utf8(field).ok());
            text.and_then(|text| Restriction::parse(text).ok()).unwrap_or_else(|| Some(Restriction::never()))
        };
        let (read, write) = (expression(), expression());
        let identity = fields.next().and_then(|text| Json::parse(self.permissions.slice_ref(text)).ok());
        let identity = identity.unwrap_or_else(|| Json::from_static("{}"));
        Some(Access { creator: self.creator.clone(), identity, read, write })
    }

    fn to_bytes(&self) -> Bytes {
        let mut out = vec![match self.lifetime {
            Lifetime::Retained => b'r',
            Lifetime::Ownership => b'o',
            Lifetime::RefCounted => b'c',
        }];
        for field in [&self.creator, &self.updater] {
            out.extend_from_slice(field.as_bytes());
            out.push(key::END);
        }
        out.extend_from_slice(&self.permissions);
        out.into()
    }

    fn parse(value: &Bytes) -> Option<Self> {
        let (kind, rest) = value.split_first()?;
        let mut fields = rest.splitn(3, |byte| *byte == key::END);
        let mut text = || fields.next().and_then(|field| std::str::from_utf8(field).ok()).map(Text::from);
        let (creator, updater) = (text()?, text()?);
        let permissions = value.slice_ref(fields.next()?);
        let lifetime = match kind {
            b'o' => Lifetime::Ownership,
            b'c' => Lifetime::RefCounted,
            _ => Lifetime::Retained,
        };
        Some(Self { lifetime, creator, updater, permissions })
    }
}

/// What subscribers see of contexts before a merge.
pub(crate) type Views = BTreeMap<ContextKey, Before>;

/// What a merge changed of a context.
#[derive(Clone, Copy, Debug, Default)]
struct Touched {
    content: bool,
    /// The root itself, so that any part may be another.
    whole: bool,
}

/// A context that an update is being made to, and whether it changed anything.
struct Edited<'a> {
    node: &'a mut Node,
    key: &'a ContextKey,
    written: bool,
}

impl AsRef<Replica> for Edited<'_> {
    fn as_ref(&self) -> &Replica {
        self.node.store(self.key)
    }
}

impl Edited<'_> {
    fn write(&mut self, step: Step) {
        self.written = true;
        self.node.write_context(self.key, step);
    }
}

/// Returns what has to be written for a context to be no more.
fn withdrawal(key: &ContextKey) -> Step {
    vec![Write { key: key.root(), value: None }, Write { key: key.header(), value: None }]
}

impl Node {
    /// Returns whether other nodes know nothing of a context.
    fn is_local(&self, key: &ContextKey) -> bool {
        let decide = || self.settings.visibility.context(&key.name).scope == Scope::Local;
        self.contexts.get(key).map_or_else(decide, |context| context.local)
    }

    /// Returns where the entries of a context are.
    pub(crate) fn store(&self, key: &ContextKey) -> &Replica {
        if self.is_local(key) { &self.local } else { &self.replica }
    }

    fn write_context(&mut self, key: &ContextKey, step: Step) {
        if self.is_local(key) { self.write_local(step) } else { self.write(step) }
    }

    /// Moves contexts to where new visibility lists want them.
    pub(crate) fn contexts_visibility_changed(&mut self) {
        let known: Vec<(ContextKey, bool)> =
            self.contexts.iter().map(|(key, c)| (key.clone(), c.local)).collect();
        for (key, was_local) in known {
            let local = self.settings.visibility.context(&key.name).scope == Scope::Local;
            if local != was_local {
                self.move_context(&key, local);
            }
        }
        // What others share under a name that was local here until now.
        let headers = self.replica.below(b"C").filter(|(_, entry)| entry.value.is_some());
        let headers: Vec<Subject> = headers.filter_map(|(key, _)| key::parse(key)).collect();
        self.contexts_changed(headers, None);
    }

    /// Takes a context back from the other nodes, or gives it to them. Where they have one of that name
    /// already, this one is merged into it.
    fn move_context(&mut self, key: &ContextKey, local: bool) {
        let (Some(header), value) = (self.header(key), self.context_value(key)) else { return };
        // The hold of a context that lives by its subscribers moves too.
        let hold = key::member(self.settings.node, key);
        let held = self.store(key).get(&hold).is_some_and(|entry| entry.value.is_some());
        let mut withdrawn = withdrawal(key);
        if held {
            withdrawn.push(Write { key: hold.clone(), value: None });
        }
        self.write_context(key, withdrawn);
        if let Some(context) = self.contexts.get_mut(key) {
            (context.local, context.value) = (local, None);
        }
        let mut step = content::assign(&key.root(), &value);
        if !local && value.members().is_some() {
            step.remove(0);
        }
        step.push(Write { key: key.header(), value: Some(header.to_bytes()) });
        if held {
            step.push(Write { key: hold, value: Some(Bytes::new()) });
        }
        self.write_context(key, step);
        if self.context_value(key).as_bytes() != value.as_bytes() {
            self.context_changed(key, &header, None);
        }
    }

    /// Tells a new session which contexts its user has.
    pub(crate) fn announce_contexts(&mut self, session: SessionId, user: &UserKey) {
        let first = ContextKey { user: user.clone(), name: Text::default() };
        let Some(own) = self.sessions.get(&session) else { return };
        let known = self.contexts.range(first..).take_while(|(key, _)| key.user == *user);
        let known = known.filter(|(_, context)| context.may_read(own));
        let events: Vec<Event> = known.map(|(key, context)| self.added(key, &context.id)).collect();
        for event in events {
            self.tell(session, event);
        }
    }

    fn added(&self, key: &ContextKey, id: &Text) -> Event {
        let creator = self.header(key).map(|header| header.creator);
        Event::ContextAdded { context: id.clone(), name: key.name.clone(), creator }
    }

    /// Returns who wrote to a context last.
    pub(crate) fn last_updater(&self, key: &ContextKey) -> Option<Text> {
        self.header(key).map(|header| header.updater)
    }

    fn header(&self, key: &ContextKey) -> Option<Header> {
        Header::parse(self.store(key).get(&key.header())?.value.as_ref()?)
    }

    pub(crate) fn create_context(
        &mut self,
        session: SessionId,
        request: Request,
        name: Text,
        data: Option<Json>,
        lifetime: Lifetime,
        permissions: &Permissions,
    ) {
        for expression in [&permissions.read, &permissions.write] {
            if let Err(reason) = parse_restriction(expression.as_ref()) {
                return self.refuse(session, request, reason);
            }
        }
        if let Err(reason) = self.count_change(session) {
            return self.refuse(session, request, reason);
        }
        let Some(own) = self.sessions.get(&session) else { return };
        if name.len() > NAME_BYTES_MAX {
            let reason = Reason::NameTooLong { what: "context name", max: NAME_BYTES_MAX as u64 };
            return self.refuse(session, request, reason);
        }
        let (user, creator, identity) = (own.user.clone(), own.instance.clone(), own.identity.clone());
        let key = ContextKey { user, name: name.detached() };
        if let Err(reason) = self.may_enter(session, &key) {
            return self.refuse(session, request, reason);
        }
        if let Some(known) = self.contexts.get(&key) {
            if !known.may_read(own) {
                return self.refuse(session, request, Reason::NotAuthorized);
            }
            let (may_write, known_at) = (known.may_write(own), known.known_at);
            let unknown = known.learnt_at.is_some_and(|at| self.now.tick.since(at) < UNKNOWN_FOR_US);
            let own_word = self.was_told_of(session, known_at);
            if may_write && (unknown || own_word) {
                self.merge_creation(session, &key, data.as_ref(), own_word);
            }
            return self.enter(session, request, &key);
        }
        if self.create_phantom(session, &request, &key, data.as_ref()) {
            return;
        }
        let data = data.filter(|data| !data.is_null()).unwrap_or_else(|| Json::from_static("{}"));
        let mut step = content::assign(&key.root(), &data);
        if data.members().is_some() {
            // Without the clear: what another machine puts into a context of this name at the same
            // moment must not be wiped.
            step.remove(0);
        }
        let permissions = permissions_to_bytes(permissions, &identity);
        let header = Header { lifetime, creator: creator.clone(), updater: creator, permissions };
        step.push(Write { key: key.header(), value: Some(header.to_bytes()) });
        if lifetime != Lifetime::Retained {
            let holder = key::member(self.settings.node, &key);
            step.push(Write { key: holder, value: Some(Bytes::new()) });
        }
        if let Err(reason) = self.room_for(step.len(), data.len()) {
            return self.refuse(session, request, reason);
        }
        let from = self.cursor();
        self.write_context(&key, step);
        self.note_wrote(session, from);
        let id = self.know_context(&key);
        self.announce_context(&key);
        self.add_member(session, &key);
        self.tell(session, Event::ContextCreated { request, context: id });
    }

    /// Takes the data of a creation that another machine's was quicker than, as an update. `own_word` tells
    /// that the app means it, though its client has just returned; what the library remembers of it is older,
    /// so that this is news to it.
    fn merge_creation(&mut self, session: SessionId, key: &ContextKey, data: Option<&Json>, own_word: bool) {
        let Some(members) = data.and_then(Json::members).filter(|members| !members.is_empty()) else {
            return;
        };
        // Of two members of one name the last counts.
        let mut members: BTreeMap<Segment, Json> =
            members.into_iter().filter(|(name, _)| name.0 != content::TRACE_MEMBER).collect();
        let size = data.map_or(0, Json::len);
        let (Some(header), Ok(())) = (self.header(key), self.room_for(members.len(), size)) else { return };
        let updater = self.sessions[&session].instance.clone();
        let root = key.root();
        if !own_word && self.may_be_memory(session, key) {
            members.retain(|name, _| !self.has_news_for(session, key, &key::below(&root, &name.0)));
        }
        let before = content::before(self.store(key), &root, members.keys());
        let mut step: Step =
            members.iter().flat_map(|(name, value)| content::set_key(&root, name, value)).collect();
        if step.is_empty() {
            return;
        }
        let header = Header { updater: updater.clone(), ..header };
        step.push(Write { key: key.header(), value: Some(header.to_bytes()) });
        let from = self.cursor();
        self.write_context(key, step);
        if !own_word {
            self.note_wrote(session, from);
        }
        self.context_changed(key, &header, Some(&before));
    }

    fn know_context(&mut self, key: &ContextKey) -> Text {
        if let Some(known) = self.contexts.get(key) {
            return known.id.clone();
        }
        let id = self.next_name('c');
        let access = self.header(key).and_then(|header| header.access());
        let context = SharedContext {
            id: id.clone(),
            members: BTreeSet::new(),
            value: None,
            known_at: self.now.tick,
            learnt_at: None,
            access,
            local: self.is_local(key),
        };
        self.contexts.insert(key.clone(), context);
        self.context_ids.insert(id.clone(), key.clone());
        id
    }

    fn announce_context(&mut self, key: &ContextKey) {
        self.end_phantoms_of(key);
        let Some(context) = self.contexts.get(key) else { return };
        let event = self.added(key, &context.id);
        for other in self.readers(key, context) {
            self.tell(other, event.clone());
        }
    }

    /// Returns the sessions here that may see a context.
    fn readers(&self, key: &ContextKey, context: &SharedContext) -> Vec<SessionId> {
        let mut readers = self.sessions_of(&key.user);
        readers.retain(|id| self.sessions.get(id).is_some_and(|session| context.may_read(session)));
        readers
    }

    /// Takes over who may see a context after its header has changed: two apps that created it at the same
    /// moment may have wanted different things.
    fn access_changed(&mut self, key: &ContextKey, header: &Header) {
        let Some(context) = self.contexts.get_mut(key) else { return };
        let (old, new) = (context.access.take(), header.access());
        context.access.clone_from(&new);
        if old.is_none() && new.is_none() {
            return;
        }
        let id = context.id.clone();
        let may_read = |access: &Option<Access>, session: &Session| {
            access.as_ref().is_none_or(|access| access.may_read(&session.instance, &session.identity))
        };
        for session in self.sessions_of(&key.user) {
            let Some(own) = self.sessions.get(&session) else { continue };
            match (may_read(&old, own), may_read(&new, own)) {
                (true, false) => {
                    self.remove_member(session, key);
                    self.tell(
                        session,
                        Event::ContextDestroyed { context: id.clone(), cause: Cause::Destroyed },
                    );
                }
                (false, true) => self.tell(session, self.added(key, &id)),
                _ => {}
            }
        }
    }

    fn add_member(&mut self, session: SessionId, key: &ContextKey) {
        let Some(context) = self.contexts.get_mut(key) else { return };
        context.members.insert(session);
        if let Some(own) = self.sessions.get_mut(&session) {
            own.contexts.insert(key.clone());
        }
        self.publish_hold(key);
    }

    /// Writes whether this node holds a context: has a subscriber of a reference-counted one, or the
    /// owner of an owned one. Such an entry dies with this life of the node, so a context that lives by
    /// an app does not outlive the node that died with it.
    fn publish_hold(&mut self, key: &ContextKey) {
        let members = self.contexts.get(key).map(|context| &context.members);
        let holds = members.zip(self.header(key)).is_some_and(|(members, header)| match header.lifetime {
            Lifetime::Retained => false,
            Lifetime::RefCounted => !members.is_empty(),
            Lifetime::Ownership => {
                self.instances.get(&header.creator).is_some_and(|owner| members.contains(owner))
            }
        });
        let holder = key::member(self.settings.node, key);
        if holds != self.store(key).get(&holder).is_some_and(|entry| entry.value.is_some()) {
            self.write_context(key, vec![Write { key: holder, value: holds.then(Bytes::new) }]);
        }
    }

    fn may_enter(&self, session: SessionId, key: &ContextKey) -> Result<(), Reason> {
        let max = self.settings.limits.contexts_per_session_max;
        let full = |own: &Session| own.contexts.len() >= max && !own.contexts.contains(key);
        if self.sessions.get(&session).is_some_and(full) {
            return Err(Reason::Limit { limit: "contexts_per_session_max", max: max as u64 });
        }
        Ok(())
    }

    /// Returns the delta that brings any subscriber of a context to its present value; `None` if the
    /// session is not subscribed to it.
    ///
    /// For a session that has missed changes: it may stand in for all of them.
    pub fn context_reset(&mut self, session: SessionId, id: &Text) -> Option<Json> {
        let key = self.context_ids.get(id)?.clone();
        let subscribed = self.sessions.get(&session)?.contexts.contains(&key);
        subscribed.then(|| content::reset_delta(&self.context_value(&key)))
    }

    /// Subscribes a session and answers with the value.
    fn enter(&mut self, session: SessionId, request: Request, key: &ContextKey) {
        self.add_member(session, key);
        let data = self.shown_value(session, key);
        let Some(context) = self.contexts.get(key) else { return };
        let event =
            Event::ContextSnapshot { request, context: context.id.clone(), name: key.name.clone(), data };
        self.tell(session, event);
    }

    /// Returns the present value of a context.
    pub(crate) fn context_value(&mut self, key: &ContextKey) -> Json {
        let Some(context) = self.contexts.get_mut(key) else { return Json::from_static("{}") };
        let store = if context.local { &self.local } else { &self.replica };
        context.value.get_or_insert_with(|| content::value(store, &key.root())).clone()
    }

    pub(crate) fn subscribe_context(&mut self, session: SessionId, request: Request, id: &Text) {
        if let Some((name, data)) = self.phantom(session, id) {
            let context = id.detached();
            return self.tell(session, Event::ContextSnapshot { request, context, name, data });
        }
        let found = self.find_context(session, id, SharedContext::may_read).and_then(|key| {
            self.may_enter(session, &key)?;
            Ok(key)
        });
        match found {
            Ok(key) => self.enter(session, request, &key),
            Err(reason) => self.refuse(session, request, reason),
        }
    }

    pub(crate) fn unsubscribe_context(&mut self, session: SessionId, request: Request, id: &Text) {
        if self.phantom(session, id).is_some() {
            return self.done(session, request);
        }
        match self.find_context(session, id, |_, _| true) {
            Ok(key) => {
                self.remove_member(session, &key);
                self.done(session, request);
            }
            Err(reason) => self.refuse(session, request, reason),
        }
    }

    pub(crate) fn update_context(&mut self, session: SessionId, request: Request, id: &Text, delta: Json) {
        if self.phantom(session, id).is_some() {
            return self.changed(session, request, id);
        }
        if let Err(reason) = self.count_change(session) {
            return self.refuse(session, request, reason);
        }
        let found = self.find_context(session, id, SharedContext::may_write);
        let (key, mut parsed) = match found.and_then(|key| {
            let parsed =
                Delta::parse(&delta).map_err(|problem| Reason::BadDelta { problem: problem.into() })?;
            self.room_for(1, delta.len())?;
            Ok((key, parsed))
        }) {
            Ok(found) => found,
            Err(reason) => return self.refuse(session, request, reason),
        };
        if self.drop_stale(session, &key, &mut parsed) && parsed.is_empty() {
            return self.changed(session, request, id);
        }
        let from = self.cursor();
        let mut edited = Edited { node: self, key: &key, written: false };
        parsed.resolve(&key.root(), &mut edited, Edited::write);
        let written = edited.written;
        let updater = self.sessions[&session].instance.clone();
        if written && let Some(header) = self.header(&key) {
            let header = Header { updater: updater.clone(), ..header };
            self.write_context(&key, vec![Write { key: key.header(), value: Some(header.to_bytes()) }]);
        }
        self.note_wrote(session, from);
        if let Some(context) = self.contexts.get_mut(&key) {
            context.value = None;
            let context_id = context.id.clone();
            let mut told: Vec<SessionId> =
                context.members.iter().copied().filter(|member| *member != session).collect();
            told.retain(|member| !self.is_held_back(*member, &key));
            // The others get the delta as it was sent where they compute from it what this node
            // computed, and else the result.
            let delta = match parsed.is_plain() {
                true => delta,
                false => content::reset_delta(&self.context_value(&key)),
            };
            for member in told {
                let (context, updater, delta) = (context_id.clone(), updater.clone(), delta.clone());
                self.tell(member, Event::ContextUpdated { context, updater, delta });
            }
        }
        self.changed(session, request, id);
    }

    pub(crate) fn destroy_context(&mut self, session: SessionId, request: Request, id: &Text) {
        if self.phantom(session, id).is_some() {
            return self.done(session, request);
        }
        let key = match self.find_context(session, id, SharedContext::may_write) {
            Ok(key) => key,
            Err(reason) => return self.refuse(session, request, reason),
        };
        let own = &self.sessions[&session].instance;
        let not_owner =
            self.header(&key).is_some_and(|h| h.lifetime == Lifetime::Ownership && h.creator != *own);
        if not_owner {
            return self.refuse(session, request, Reason::NotAuthorized);
        }
        let from = self.cursor();
        self.destroy(&key, &Cause::Destroyed);
        self.note_wrote(session, from);
        self.done(session, request);
    }

    /// Finds a context by the id this node gave it. Another user's is as unknown as none.
    fn find_context(
        &self,
        session: SessionId,
        id: &Text,
        allowed: impl Fn(&SharedContext, &Session) -> bool,
    ) -> Result<ContextKey, Reason> {
        let own = self.sessions.get(&session).ok_or(Reason::NotAttached)?;
        let found = self.context_ids.get(id).filter(|key| key.user == own.user);
        let found = found.and_then(|key| Some((key, self.contexts.get(key)?)));
        match found {
            Some((key, context)) if allowed(context, own) => Ok(key.clone()),
            Some(_) => Err(Reason::NotAuthorized),
            None => Err(Reason::UnknownContext { context: id.detached() }),
        }
    }

    fn destroy(&mut self, key: &ContextKey, cause: &Cause) {
        if *cause != Cause::Destroyed && !self.is_local(key) {
            self.tell_why(&key.header(), cause);
        }
        self.write_context(key, withdrawal(key));
        self.forget_context(key, cause);
    }

    fn forget_context(&mut self, key: &ContextKey, cause: &Cause) {
        let Some(gone) = self.contexts.remove(key) else { return };
        let told = self.readers(key, &gone);
        self.context_ids.remove(&gone.id);
        self.publish_hold(key);
        for member in gone.members {
            if let Some(session) = self.sessions.get_mut(&member) {
                session.contexts.remove(key);
            }
            self.let_go(member, key);
        }
        for session in told {
            self.tell(session, Event::ContextDestroyed { context: gone.id.clone(), cause: cause.clone() });
        }
    }

    fn remove_member(&mut self, session: SessionId, key: &ContextKey) {
        if let Some(own) = self.sessions.get_mut(&session) {
            own.contexts.remove(key);
        }
        self.let_go(session, key);
        let Some(context) = self.contexts.get_mut(key) else { return };
        context.members.remove(&session);
        self.publish_hold(key);
        self.destroy_unless_held(key);
    }

    /// Destroys a context that lives by its subscribers or its owner when no node has any. A node that
    /// cannot be reached counts as alive.
    fn destroy_unless_held(&mut self, key: &ContextKey) {
        let needs = self.header(key).is_some_and(|header| header.lifetime != Lifetime::Retained);
        let has =
            |node| self.store(key).get(&key::member(node, key)).is_some_and(|entry| entry.value.is_some());
        if needs && !self.nodes.keys().copied().chain([self.settings.node]).any(has) {
            self.destroy(key, &Cause::OwnerGone);
        }
    }

    pub(crate) fn leave_contexts(&mut self, session: SessionId) {
        let Some(own) = self.sessions.get(&session) else { return };
        for key in own.contexts.clone() {
            self.remove_member(session, &key);
        }
    }

    /// Remembers what subscribers of contexts were told last, as far as the keys of a batch can change
    /// it. Contexts without subscribers here are left out.
    pub(crate) fn views_before<'a>(&self, keys: impl Iterator<Item = &'a Bytes>) -> Views {
        let mut touched: BTreeMap<ContextKey, BTreeSet<Segment>> = BTreeMap::new();
        for key in keys.filter(|key| key.first() == Some(&b'P')) {
            let Some(Subject::Path { context, path, .. }) = key::parse(key) else { continue };
            if self.contexts.get(&context).is_some_and(|known| !known.local && !known.members.is_empty()) {
                touched.entry(context).or_default().extend(path.into_iter().next());
            }
        }
        let view = |(context, names): (ContextKey, BTreeSet<Segment>)| {
            let before = content::before(&self.replica, &context.root(), names.iter());
            (context, before)
        };
        touched.into_iter().map(view).collect()
    }

    /// Brings contexts up to date after a merge that changed these keys, and tells their subscribers
    /// the difference to `before`, or the whole value if that is not known.
    pub(crate) fn contexts_changed(&mut self, subjects: Vec<Subject>, before: Option<&Views>) {
        let mut touched: BTreeMap<ContextKey, Touched> = BTreeMap::new();
        let mut held: BTreeSet<ContextKey> = BTreeSet::new();
        for subject in subjects {
            match subject {
                Subject::Header(context) => {
                    touched.entry(context).or_default();
                }
                Subject::Path { context, path, .. } => {
                    let touched = touched.entry(context).or_default();
                    touched.content = true;
                    touched.whole |= path.is_empty();
                }
                Subject::Member { context, .. } => {
                    held.insert(context);
                }
                Subject::Node(_)
                | Subject::Retired(_)
                | Subject::Instance { .. }
                | Subject::Method { .. }
                | Subject::Interest { .. } => {}
            }
        }
        // What is local here may be shared among others under the same name.
        touched.retain(|key, _| !self.is_local(key));
        held.retain(|key| !self.is_local(key));
        for (key, touched) in touched {
            match (self.header(&key), self.contexts.contains_key(&key)) {
                (None, false) => {}
                (None, true) => {
                    let why = self.why(&key.header()).unwrap_or(Cause::Destroyed);
                    self.forget_context(&key, &why);
                }
                (Some(_), false) => {
                    self.know_context(&key);
                    if let Some(context) = self.contexts.get_mut(&key) {
                        context.learnt_at = Some(self.now.tick);
                    }
                    self.announce_context(&key);
                    held.insert(key);
                }
                (Some(header), true) => {
                    self.access_changed(&key, &header);
                    if touched.content {
                        let before = before.and_then(|views| views.get(&key)).filter(|_| !touched.whole);
                        self.context_changed(&key, &header, before);
                    }
                    self.publish_hold(&key);
                    held.insert(key);
                }
            }
        }
        for key in held {
            if self.contexts.contains_key(&key) {
                self.destroy_unless_held(&key);
            }
        }
    }

    fn context_changed(&mut self, key: &ContextKey, header: &Header, before: Option<&Before>) {
        let Some(context) = self.contexts.get_mut(key) else { return };
        context.value = None;
        if context.members.is_empty() {
            return;
        }
        let (id, members) = (context.id.clone(), context.members.clone());
        let Some(delta) = content::delta_for(self.store(key), &key.root(), before) else { return };
        for member in members {
            if self.is_held_back(member, key) {
                continue;
            }
            let (context, updater, delta) = (id.clone(), header.updater.clone(), delta.clone());
            self.tell(member, Event::ContextUpdated { context, updater, delta });
        }
    }
}
