//! Clients that return: known again by what they say of themselves, and kept from undoing what others
//! wrote while they were away.
//!
//! The client protocols know no resumption. A client whose connection broke logs in with the words it
//! used before, subscribes to its contexts again, compares each value with the one it remembers, and
//! writes back every key that differs, as an ordinary update. A context it does not find it creates.
//!
//! So a session that ends without a goodbye leaves a record: its instance name, and what it was last
//! shown of each context. The next login with the same words takes the record, and for a few seconds its
//! session is a *resuming* one:
//!
//! - a context is first shown to it as it was when it left, so that there is nothing to write back, and
//!   all that has changed since follows in one piece once it has asked for all of them;
//! - what it writes back nevertheless counts only where nothing is newer than what it has surely heard, and
//!   where its app has not spoken first;
//! - what was destroyed meanwhile is not created again, but destroyed before its eyes.
//!
//! "Newer" is decided by the order of arrival on this node: see [`Arrivals`].

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use bytes::Bytes;
use mesh_model::{Cause, Event, Json, Key as Segment, Limits, Request, SessionId, Text, Tick, json};

use crate::content::{self, Delta};
use crate::key::{self, ContextKey, UserKey};
use crate::node::Node;
use crate::replica::Entry;
use crate::session::Session;

/// How long a session counts as just returned, at most.
pub(crate) const RESUME_MS: u64 = 5_000;
/// How long after it has last subscribed or written back it counts as just returned; more with each context
/// it has. Client libraries subscribe to all and then write back one after the other, without a pause. What
/// an app writes later is what it means.
pub(crate) const WRITE_BACK_MS: u64 = 1_000;
const WRITE_BACK_EACH_MS: u64 = 5;
/// How long after its last subscription a returned client is shown what has changed. It compares and
/// writes back in this time.
pub(crate) const CALM_MS: u64 = 500;
/// How long after the answer a client hears that what it wrote or created does not stand. In one chunk
/// with the answer, it would end with its own value.
pub(crate) const CORRECT_MS: u64 = 100;
/// How long something may have been on its way to a client that was last heard of.
pub(crate) const CROSSING_MS: u64 = 1_000;
/// Longest identity that is recognised, in bytes.
pub(crate) const IDENTITY_BYTES_MAX: usize = 16 << 10;
/// Largest value that is compared with what a client may remember, in bytes.
const REPLACED_BYTES_MAX: usize = 64 << 10;
/// Ranges of its own writes that are remembered of a session. Fewer only mean more caution.
const WROTE_MAX: usize = 16;

/// A session that can be known again when its client returns, in this life of the node or the next.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Recognition {
    /// Its user.
    pub user: Option<Text>,
    /// What its client said of itself when it logged in, with its members in order of name.
    pub identity: Json,
    /// The instance name it had.
    pub instance: Text,
    /// For how long it has been away, in milliseconds; 0 while it is here.
    pub away_ms: u64,
}

/// Returns what a client is known by: all it says of itself, in whatever order. `None` if that is too long.
pub(crate) fn recognised_by(identity: &Json) -> Option<Json> {
    let members: BTreeMap<Segment, Json> = identity.members()?.into_iter().collect();
    let whole = json::object(members.iter());
    (whole.len() <= IDENTITY_BYTES_MAX).then_some(whole)
}

/// Ranges of the replica's arrivals, oldest first: the writes a session made itself, and so knows.
#[derive(Clone, Debug, Default)]
pub(crate) struct Wrote(VecDeque<(u64, u64)>);

impl Wrote {
    fn add(&mut self, from: u64, to: u64) {
        if from == to {
            return;
        }
        match self.0.back_mut() {
            Some((_, end)) if *end == from => *end = to,
            _ => self.0.push_back((from, to)),
        }
        if self.0.len() > WROTE_MAX {
            self.0.pop_front();
        }
    }

    fn contains(&self, arrival: u64) -> bool {
        self.0.iter().any(|(from, to)| (*from..*to).contains(&arrival))
    }
}

/// Which arrival the replica was at, at moments of the past: what a client that was last heard of at some
/// time may not know begins there.
#[derive(Clone, Debug, Default)]
struct Arrivals(VecDeque<(Tick, u64)>);

impl Arrivals {
    /// Between moments that are noted.
    const EVERY_MS: u64 = 100;
    /// How many of them: more than the silence after which a connection is closed.
    const MAX: usize = 1_200;

    fn note(&mut self, now: Tick, cursor: u64) {
        if self.0.back().is_some_and(|(last, _)| now < last.plus_millis(Self::EVERY_MS)) {
            return;
        }
        self.0.push_back((now, cursor));
        if self.0.len() > Self::MAX {
            self.0.pop_front();
        }
    }

    /// Returns the last mark noted that is surely not after `at`: all of the past if that is too long ago.
    fn at(&self, at: Tick) -> u64 {
        let after = self.0.partition_point(|(noted, _)| *noted <= at);
        after.checked_sub(1).map_or(0, |last| self.0[last].1)
    }
}

/// What is left of a session that ended without a goodbye.
#[derive(Clone, Debug)]
pub(crate) struct Departed {
    user: UserKey,
    identity: Json,
    instance: Text,
    /// What arrived at this node from here on is perhaps not known to the client.
    mark: u64,
    /// Whether it is a former life of this node that knew the session.
    former_life: bool,
    wrote: Wrote,
    /// What it was shown of its contexts.
    values: BTreeMap<ContextKey, Json>,
    /// The bytes of `values`.
    bytes: usize,
    expires: Tick,
}

/// All that are left of departed sessions, oldest first.
#[derive(Clone, Debug, Default)]
pub(crate) struct Departures {
    records: VecDeque<Departed>,
    /// The bytes of all values.
    bytes: usize,
    arrivals: Arrivals,
    /// Counts changes of what [`Node::recognitions`] returns.
    changes: u64,
}

impl Departures {
    fn push(&mut self, record: Departed, limits: &Limits) {
        self.changes += 1;
        self.bytes += record.bytes;
        self.records.push_back(record);
        while self.records.len() > limits.departed_sessions_max {
            self.drop_oldest();
        }
        for record in &mut self.records {
            if self.bytes <= limits.departed_bytes_max {
                break;
            }
            record.values.clear();
            self.bytes -= std::mem::take(&mut record.bytes);
        }
    }

    fn take(&mut self, user: &UserKey, identity: &Json) -> Option<Departed> {
        let at = self.records.iter().rposition(|r| r.user == *user && r.identity == *identity)?;
        let record = self.records.remove(at)?;
        self.changes += 1;
        self.bytes -= record.bytes;
        Some(record)
    }

    fn expire(&mut self, now: Tick) {
        while self.records.front().is_some_and(|oldest| oldest.expires <= now) {
            self.drop_oldest();
        }
    }

    fn drop_oldest(&mut self) {
        self.changes += 1;
        self.bytes -= self.records.pop_front().map_or(0, |oldest| oldest.bytes);
    }
}

/// A session whose client has just returned.
#[derive(Clone, Debug)]
pub(crate) struct Resuming {
    until: Tick,
    /// When it is back to normal before that, once it has begun to subscribe or to write back.
    quiet_at: Option<Tick>,
    mark: u64,
    former_life: bool,
    wrote: Wrote,
    /// What it was shown of the contexts it has not subscribed to again.
    values: BTreeMap<ContextKey, Json>,
    /// What it was shown again, and is to believe until `calm_at`.
    held: BTreeMap<ContextKey, Json>,
    calm_at: Option<Tick>,
    /// The contexts that it has written back, or tried to.
    written_back: BTreeSet<ContextKey>,
    /// What keys held before it wrote them since it is back, if that may be what its library remembers.
    replaced: BTreeMap<ContextKey, BTreeMap<Segment, Option<Json>>>,
    /// The contexts whose present value it is to be told, and when.
    corrections: BTreeMap<ContextKey, Tick>,
    /// The contexts that exist for it alone, by id.
    phantoms: BTreeMap<Text, Phantom>,
}

/// A context that was destroyed while the client was away, and that it has created again.
#[derive(Clone, Debug)]
struct Phantom {
    key: ContextKey,
    data: Json,
    until: Tick,
}

impl Session {
    fn recognition(&self) -> Option<Recognition> {
        Some(Recognition {
            user: self.user.user(),
            identity: self.recognised_by.clone()?,
            instance: self.name.clone(),
            away_ms: 0,
        })
    }
}

impl Resuming {
    /// Returns when there is something to do.
    fn due(&self) -> Tick {
        let phantoms = self.phantoms.values().map(|phantom| phantom.until);
        let pending = self.corrections.values().copied().chain(phantoms).chain(self.calm_at);
        pending.min().unwrap_or(self.until)
    }
}

impl Node {
    /// Remembers which arrival the replicas are at before an input.
    ///
    /// What is local and what is shared is counted as one, so that the order holds between the two.
    pub(crate) fn note_arrivals(&mut self) {
        let cursor = self.cursor();
        self.replica.arrive_from(cursor);
        self.local.arrive_from(cursor);
        self.departures.arrivals.note(self.now.tick, cursor);
    }

    /// Returns the arrival that the next write will be at least.
    pub(crate) fn cursor(&self) -> u64 {
        self.replica.cursor().max(self.local.cursor())
    }

    /// Remembers that a session made the writes since `from` itself.
    pub(crate) fn note_wrote(&mut self, session: SessionId, from: u64) {
        let to = self.cursor();
        if let Some(own) = self.sessions.get_mut(&session) {
            own.wrote.add(from, to);
        }
    }

    /// Returns what is to be left of a session that is about to end. `heard` is when its client last gave a
    /// sign of life.
    pub(crate) fn departing(&mut self, session: SessionId, heard: Tick) -> Option<Departed> {
        let own = self.sessions.get(&session)?;
        let identity = own.recognised_by.clone()?;
        let (user, instance) = (own.user.clone(), own.name.clone());
        let (contexts, mut wrote) = (own.contexts.clone(), own.wrote.clone());
        let surely = Tick(heard.0.saturating_sub(CROSSING_MS * 1000));
        let mut mark = self.departures.arrivals.at(surely);
        let mut former_life = false;
        let shown = |key: ContextKey| {
            let value = self.context_value(&key);
            (key, value)
        };
        let mut values: BTreeMap<ContextKey, Json> = contexts.into_iter().map(shown).collect();
        if let Some(resuming) = self.resuming.remove(&session) {
            // It went again before it had caught up: it may know no more than the first time.
            mark = mark.min(resuming.mark);
            former_life = resuming.former_life;
            values.extend(resuming.values);
            values.extend(resuming.held);
            let newer = std::mem::replace(&mut wrote, resuming.wrote);
            newer.0.into_iter().for_each(|(from, to)| wrote.add(from, to));
        }
        Some(Departed {
            user,
            identity,
            instance,
            mark,
            former_life,
            wrote,
            bytes: values.values().map(Json::len).sum(),
            values,
            expires: self.now.tick.plus_millis(self.settings.limits.departed_ms_max),
        })
    }

    /// Keeps what is left of a session that has ended. What its own end changed since `from` is no news
    /// to its client.
    pub(crate) fn departed(&mut self, mut record: Departed, from: u64) {
        record.wrote.add(from, self.cursor());
        self.departures.push(record, &self.settings.limits);
    }

    /// Takes over what a former life of this node knew of a session. All that this life holds may be
    /// unknown to its client, but for what was written here.
    pub(crate) fn remember_session(&mut self, known: Recognition) {
        let left = self.settings.limits.departed_ms_max.saturating_sub(known.away_ms);
        let record = Departed {
            user: UserKey::new(known.user.as_ref()),
            identity: known.identity,
            instance: known.instance,
            mark: 0,
            former_life: true,
            wrote: Wrote::default(),
            values: BTreeMap::new(),
            bytes: 0,
            expires: self.now.tick.plus_millis(left),
        };
        self.departures.push(record, &self.settings.limits);
    }

    /// Returns who can be known again: those who are away, longest first, then those who are here.
    #[must_use]
    pub fn recognitions(&self) -> Vec<Recognition> {
        let max = self.settings.limits.departed_ms_max;
        let away = self.departures.records.iter().map(|record| Recognition {
            user: record.user.user(),
            identity: record.identity.clone(),
            instance: record.instance.clone(),
            away_ms: max.saturating_sub(record.expires.since(self.now.tick) / 1000),
        });
        away.chain(self.sessions.values().filter_map(Session::recognition)).collect()
    }

    /// Returns how a session that is here can be known again.
    #[must_use]
    pub fn recognition_of(&self, session: SessionId) -> Option<Recognition> {
        self.sessions.get(&session)?.recognition()
    }

    /// Returns a number that changes whenever [`recognitions`](Self::recognitions) does, but for the time.
    #[must_use]
    pub const fn recognitions_changed(&self) -> u64 {
        self.departures.changes
    }

    /// Counts a session that has come or gone among the changes.
    pub(crate) const fn note_recognition(&mut self) {
        self.departures.changes += 1;
    }

    /// Returns the instance name of the departed session that a login continues, and what else is left of it.
    pub(crate) fn returning(&mut self, user: &UserKey, identity: Option<&Json>) -> Option<(Text, Resuming)> {
        self.departures.expire(self.now.tick);
        let record = self.departures.take(user, identity?)?;
        let resuming = Resuming {
            until: self.now.tick.plus_millis(RESUME_MS),
            quiet_at: None,
            mark: record.mark,
            former_life: record.former_life,
            wrote: record.wrote,
            values: record.values,
            held: BTreeMap::new(),
            calm_at: None,
            written_back: BTreeSet::new(),
            replaced: BTreeMap::new(),
            corrections: BTreeMap::new(),
            phantoms: BTreeMap::new(),
        };
        Some((record.instance, resuming))
    }

    fn resuming(&mut self, session: SessionId) -> Option<&mut Resuming> {
        let now = self.now.tick;
        self.resuming
            .get_mut(&session)
            .filter(|resuming| now < resuming.until && resuming.quiet_at.is_none_or(|at| now < at))
    }

    /// Returns when a session that does now what returned ones do is back to normal.
    fn quiet_at(&self, session: SessionId) -> Option<Tick> {
        let contexts = self.sessions.get(&session)?.contexts.len() as u64;
        Some(self.now.tick.plus_millis(WRITE_BACK_MS + contexts * WRITE_BACK_EACH_MS))
    }

    /// Returns what a session is shown when it subscribes: the present value, or, if it has just returned,
    /// what it was shown before.
    pub(crate) fn shown_value(&mut self, session: SessionId, key: &ContextKey) -> Json {
        let present = self.context_value(key);
        let (calm_at, quiet_at) = (self.now.tick.plus_millis(CALM_MS), self.quiet_at(session));
        let Some(resuming) = self.resuming(session) else { return present };
        resuming.quiet_at = quiet_at;
        resuming.held.remove(key);
        let kept = resuming.values.remove(key).filter(|kept| *kept != present);
        if let Some(kept) = &kept {
            resuming.held.insert(key.clone(), kept.clone());
        }
        if !resuming.held.is_empty() {
            resuming.calm_at = Some(calm_at);
        }
        kept.unwrap_or(present)
    }

    /// Returns whether changes of a context are kept from a session for the moment.
    pub(crate) fn is_held_back(&self, session: SessionId, key: &ContextKey) -> bool {
        self.resuming.get(&session).is_some_and(|resuming| resuming.held.contains_key(key))
    }

    /// Lets a session that gives a context up have nothing more of it.
    pub(crate) fn let_go(&mut self, session: SessionId, key: &ContextKey) {
        if let Some(resuming) = self.resuming.get_mut(&session) {
            resuming.held.remove(key);
            resuming.corrections.remove(key);
        }
    }

    /// Takes out of an update what a returned client only says because it does not know better. Returns
    /// whether there was anything; the client will be told.
    ///
    /// That is what others have written since the client was surely heard, and what its app itself has written
    /// since it is back: the library goes on from what it remembered when it was cut off.
    ///
    /// Only an update by keys can be that: the client libraries write back one top-level key for each that
    /// differs. One that replaces the whole value, or edits inside a key, is the app's own act. It need not be
    /// the first: what an app says while it is cut off comes before what its library remembers.
    pub(crate) fn drop_stale(&mut self, session: SessionId, key: &ContextKey, delta: &mut Delta) -> bool {
        let root = key.root();
        let at = |name: &Segment| key::below(&root, &name.0);
        let by_key = delta.is_by_key(|name| self.store(key).any_around(&at(name), |_| true));
        if !by_key || !self.may_be_memory(session, key) {
            return false;
        }
        let is_news = |name: &Segment| self.has_news_for(session, key, &at(name));
        let none = BTreeMap::new();
        let replaced = self.resuming.get(&session).and_then(|resuming| resuming.replaced.get(key));
        let replaced = replaced.unwrap_or(&none);
        let is_old = |name: &Segment, value: Option<&Json>| {
            value.is_some() && replaced.get(name).is_some_and(|old| old.as_ref() == value)
        };
        // An update is the library's or the app's. All of the library's is older than what the app itself has
        // said since it is back.
        let is_memory = delta.by_key().any(|(name, value)| is_news(&name) || is_old(&name, value));
        let old: Vec<Segment> =
            delta.by_key().filter(|(name, value)| is_old(name, *value)).map(|(name, _)| name).collect();
        let dropped = delta.retain(|name| !(is_news(name) || is_memory && replaced.contains_key(name)));
        let names: Vec<Segment> = delta.by_key().map(|(name, _)| name).collect();
        let before = content::before(self.store(key), &root, names.iter());
        if let Some(resuming) = self.resuming.get_mut(&session) {
            let replaced = resuming.replaced.entry(key.clone()).or_default();
            for (Segment(name), value) in before {
                let small = value.filter(|value| value.len() <= REPLACED_BYTES_MAX);
                replaced.entry(Segment(Bytes::copy_from_slice(&name))).or_insert(small);
            }
            // The library says it once. After that the app means it.
            replaced.extend(old.into_iter().map(|name| (name, None)));
        }
        if dropped {
            self.correct_soon(session, key);
        }
        dropped
    }

    /// Returns whether what a session says about a context may come from its client's memory: it has just
    /// returned, and the library may not have written back everything yet.
    pub(crate) fn may_be_memory(&mut self, session: SessionId, key: &ContextKey) -> bool {
        self.is_first_word(session, key) || self.resuming(session).is_some()
    }

    /// Returns whether a returned session says something about a context for the first time. Only that
    /// lengthens the time for which it counts as returned: an app that is busy is not held up.
    fn is_first_word(&mut self, session: SessionId, key: &ContextKey) -> bool {
        let quiet_at = self.quiet_at(session);
        self.resuming(session).is_some_and(|resuming| {
            let first = resuming.written_back.insert(key.clone());
            if first {
                resuming.quiet_at = quiet_at;
            }
            first
        })
    }

    /// Returns whether a returned session was told of a context when it logged in. The library creates only
    /// what it was not told of, so that a creation of such a one is the app's own, from before the login.
    pub(crate) fn was_told_of(&mut self, session: SessionId, known_at: Tick) -> bool {
        self.resuming(session).is_some_and(|resuming| known_at.plus_millis(RESUME_MS) < resuming.until)
    }

    /// Returns whether something at, above or below a path of a context may be news to a returned session.
    pub(crate) fn has_news_for(&self, session: SessionId, key: &ContextKey, path: &[u8]) -> bool {
        self.store(key).any_around(path, |entry| self.is_news_for(session, entry))
    }

    fn is_news_for(&self, session: SessionId, entry: &Entry) -> bool {
        let (Some(own), Some(resuming)) = (self.sessions.get(&session), self.resuming.get(&session)) else {
            return false;
        };
        // What was written on this node before it was started again, its clients were told at once.
        let origin = entry.stamp.dot.origin;
        let told = resuming.former_life
            && origin.node == self.settings.node
            && origin.incarnation < self.settings.incarnation;
        let wrote = |arrival| resuming.wrote.contains(arrival) || own.wrote.contains(arrival);
        entry.arrival >= resuming.mark && !told && !wrote(entry.arrival)
    }

    /// Has a session told the present value of a context, but not at once.
    pub(crate) fn correct_soon(&mut self, session: SessionId, key: &ContextKey) {
        let at = self.now.tick.plus_millis(CORRECT_MS);
        if let Some(resuming) = self.resuming.get_mut(&session) {
            resuming.corrections.entry(key.clone()).or_insert(at);
        }
    }

    /// Answers the creation of a context that was destroyed while the client was away, as if it were
    /// created. Returns whether this was one.
    pub(crate) fn create_phantom(
        &mut self,
        session: SessionId,
        request: &Request,
        key: &ContextKey,
        data: Option<&Json>,
    ) -> bool {
        let header = self.store(key).get(&key.header());
        let destroyed = header.is_some_and(|entry| entry.value.is_none());
        if !destroyed || !self.has_news_for(session, key, &key.header()) || !self.is_first_word(session, key)
        {
            return false;
        }
        let id = self.next_name('c');
        let phantom = Phantom {
            key: key.clone(),
            data: data.filter(|data| !data.is_null()).map_or_else(|| Json::from_static("{}"), Json::detached),
            until: self.now.tick.plus_millis(CORRECT_MS),
        };
        let Some(resuming) = self.resuming.get_mut(&session) else { return false };
        resuming.phantoms.insert(id.clone(), phantom);
        let creator = self.sessions.get(&session).map(|own| own.instance.clone());
        self.tell(session, Event::ContextAdded { context: id.clone(), name: key.name.clone(), creator });
        self.tell(session, Event::ContextCreated { request: request.clone(), context: id });
        true
    }

    /// Returns name and value of a context that exists for a session alone.
    pub(crate) fn phantom(&self, session: SessionId, id: &Text) -> Option<(Text, Json)> {
        let phantom = self.resuming.get(&session)?.phantoms.get(id)?;
        Some((phantom.key.name.clone(), phantom.data.clone()))
    }

    /// Ends what exists for sessions alone under the name of a context that now exists for all.
    pub(crate) fn end_phantoms_of(&mut self, key: &ContextKey) {
        let of_key = |(session, resuming): (&SessionId, &Resuming)| {
            let ids = resuming.phantoms.iter().filter(|(_, phantom)| phantom.key == *key);
            ids.map(|(id, _)| (*session, id.clone())).collect::<Vec<_>>()
        };
        let ended: Vec<(SessionId, Text)> = self.resuming.iter().flat_map(of_key).collect();
        for (session, id) in ended {
            self.end_phantom(session, id);
        }
    }

    fn end_phantom(&mut self, session: SessionId, id: Text) {
        if let Some(resuming) = self.resuming.get_mut(&session) {
            resuming.phantoms.remove(&id);
            self.tell(session, Event::ContextDestroyed { context: id, cause: Cause::Destroyed });
        }
    }

    /// Does what is due for those who are away and for those who have returned.
    pub(crate) fn returning_timers(&mut self) {
        let now = self.now.tick;
        self.departures.expire(now);
        let due: Vec<SessionId> =
            self.resuming.iter().filter(|(_, r)| r.due() <= now).map(|(session, _)| *session).collect();
        for session in due {
            let Some(resuming) = self.resuming.get_mut(&session) else { continue };
            let mut stale = BTreeSet::new();
            if resuming.calm_at.is_some_and(|at| at <= now) {
                resuming.calm_at = None;
                stale.extend(std::mem::take(&mut resuming.held).into_keys());
            }
            stale.extend(
                resuming.corrections.iter().filter(|(_, at)| **at <= now).map(|(key, _)| key.clone()),
            );
            let over = resuming.phantoms.iter().filter(|(_, phantom)| phantom.until <= now);
            let over: Vec<Text> = over.map(|(id, _)| id.clone()).collect();
            for key in stale {
                self.correct(session, &key);
            }
            for id in over {
                self.end_phantom(session, id);
            }
            if self.resuming.get(&session).is_some_and(|r| r.until <= now && r.due() == r.until) {
                self.resuming.remove(&session);
            }
        }
    }

    /// Tells a session the present value of a context, and all changes from now on.
    fn correct(&mut self, session: SessionId, key: &ContextKey) {
        self.let_go(session, key);
        let Some(context) = self.contexts.get(key).filter(|context| context.members.contains(&session))
        else {
            return;
        };
        let (context, Some(updater)) = (context.id.clone(), self.last_updater(key)) else { return };
        let delta = content::reset_delta(&self.context_value(key));
        self.tell(session, Event::ContextUpdated { context, updater, delta });
    }

    pub(crate) fn returning_timeout(&self) -> Option<Tick> {
        let oldest = self.departures.records.front().map(|record| record.expires);
        self.resuming.values().map(Resuming::due).chain(oldest).min()
    }
}
