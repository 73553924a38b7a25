//! What waits to be written to one connection, in the one order that everything for it keeps.
//!
//! There is one queue, and a count of waiting bytes for each class of what is in it. A client that does
//! not read is a matter of its own: memory does not grow, and others do not wait for it for long. What
//! becomes of it depends on the class that is over its bound:
//!
//! | class | at its bound |
//! |---|---|
//! | answers, errors | closed: nothing else of its own can be answered either |
//! | calls, results | a call is not taken, and ends as overloaded; a result closes who called |
//! | context changes | become one, the context's present value; closed if even those are too many |
//! | stream data, publications | closed, or the oldest dropped, as configured |
//! | who is there and offers what | no bound but that of the whole: a healthy client gets much at once |
//!
//! A bound counts from the second item on, so that one that is larger than its bound gets through. Of a
//! large call half of the bound counts, so that it does not keep small ones out.

use std::collections::{BTreeMap, VecDeque};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use mesh_model::{Event, InstanceId, Outcome, SessionId, Text};
use proto_gw3::Domain;
use tokio::sync::Notify;
use tokio::time::Instant;

use crate::config::{LimitsConfig, SlowStreamConsumer};
use crate::local::websocket::CloseWith;

/// One thing to be written, or the end.
#[derive(Debug)]
pub(crate) enum Item {
    /// An event of a session of this connection, not yet encoded.
    Event(SessionId, Event),
    /// A frame the protocol answers with by itself.
    Frame(Bytes),
    /// A frame with what somebody has published.
    Data(Bytes),
    /// Stands for all changes of a context that a session has not been told: the present value, looked
    /// up when its turn comes. Has an entry in `Queue::marks`.
    Mark(SessionId, Text),
    /// Close, and say why.
    Close(CloseWith),
}

/// What became of an item, as far as others are concerned.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Pushed {
    /// So much stream data waits that whoever sends it had better pause; see [`Outbox::relieved`].
    pub(crate) crowded: bool,
    /// How many events were dropped to make room.
    pub(crate) dropped: u64,
    /// The item was an invocation or a request for a subscription, of this number, and was not taken
    /// because of this limit.
    pub(crate) not_taken: Option<(u64, Text)>,
}

/// What a connection is to do next.
#[derive(Debug)]
pub(crate) enum Taken {
    /// Write these.
    Items(VecDeque<Item>),
    /// Look up a value, and [`take_mark`](Outbox::take_mark).
    Mark,
    /// Nothing, or close.
    End(Option<CloseWith>),
}

/// A bounded queue between the node and the task that owns a connection.
#[derive(Debug)]
pub(crate) struct Outbox {
    queue: Mutex<Queue>,
    wake: Notify,
    /// Wakes those who wait for less stream data.
    room: Notify,
    bounds: Bounds,
}

#[derive(Clone, Copy, Debug)]
struct Bounds {
    total: usize,
    control: usize,
    calls: usize,
    conflate: usize,
    contexts: usize,
    streams: usize,
    slow_stream_consumer: SlowStreamConsumer,
    write_deadline: Duration,
}

#[derive(Debug, Default)]
struct Queue {
    items: VecDeque<Item>,
    /// Waiting bytes by class.
    bytes: [usize; CLASSES],
    /// Those of calls that are beyond half of their bound in one item, and do not count for it: a single
    /// large call must not keep small ones out.
    excess: usize,
    /// The updaters that marks name. One per mark in `items`.
    marks: BTreeMap<(SessionId, Text), InstanceId>,
    /// Since when more bytes of contexts wait than may.
    over_since: Option<Instant>,
    /// When something was last taken, or began to wait: who takes nothing for long after does not read.
    progress_at: Option<Instant>,
    /// Set once the connection is to be closed: nothing is added any more.
    closed: Option<CloseWith>,
}

/// Which bound counts for an item.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Class {
    Control,
    Calls,
    Contexts,
    Streams,
    Registry,
}

const CLASSES: usize = 5;

/// A client that takes nothing for this long does not read. On a busy machine a healthy one may take a while.
const PROGRESS: Duration = Duration::from_millis(250);
/// How much is taken at once. What has been taken is out of reach of drops and marks.
const TAKEN_BYTES: usize = 64 << 10;

impl Outbox {
    pub(crate) fn new(limits: &LimitsConfig) -> Self {
        let bounds = Bounds {
            total: limits.session_outbox_bytes_max,
            control: limits.outbox_control_bytes_max,
            calls: limits.outbox_calls_bytes_max,
            conflate: limits.outbox_context_conflate_bytes.min(limits.outbox_context_bytes_max),
            contexts: limits.outbox_context_bytes_max,
            streams: limits.outbox_stream_bytes_max,
            slow_stream_consumer: limits.slow_stream_consumer,
            write_deadline: Duration::from_millis(limits.write_deadline_ms),
        };
        Self { queue: Mutex::default(), wake: Notify::new(), room: Notify::new(), bounds }
    }

    /// Adds an item, or does what its class needs at its bound.
    pub(crate) fn push(&self, item: Item) -> Pushed {
        let mut queue = self.lock();
        if queue.closed.is_some() {
            return Pushed::default();
        }
        let pushed = queue.push(item, &self.bounds);
        drop(queue);
        self.wake.notify_one();
        pushed
    }

    /// Takes what waits at the front: not all of it if that is much, and not past a mark.
    pub(crate) fn take(&self) -> Taken {
        let mut queue = self.lock();
        match queue.items.front() {
            None => return Taken::End(queue.closed.clone()),
            Some(Item::Mark(..)) => return Taken::Mark,
            Some(_) => {}
        }
        let full = queue.is_half_full(&self.bounds);
        let (mut items, mut bytes) = (VecDeque::new(), 0);
        while bytes < TAKEN_BYTES && !matches!(queue.items.front(), Some(Item::Mark(..))) {
            let Some((item, weight)) = queue.pop(&self.bounds) else { break };
            bytes += weight;
            items.push_back(item);
        }
        queue.taken(&self.bounds);
        let relieved = full && !queue.is_half_full(&self.bounds);
        drop(queue);
        if relieved {
            self.room.notify_waiters();
        }
        Taken::Items(items)
    }

    /// Takes the mark at the front: whose it is, which context, and who has changed that last.
    ///
    /// To be used while nobody else can change the context, so that what is changed later waits behind.
    pub(crate) fn take_mark(&self) -> Option<(SessionId, Text, InstanceId)> {
        let mut queue = self.lock();
        if !matches!(queue.items.front(), Some(Item::Mark(..))) {
            return None;
        }
        let (item, _) = queue.pop(&self.bounds)?;
        let Item::Mark(session, context) = item else { return None };
        let updater = queue.marks.remove(&(session, context.clone()))?;
        queue.taken(&self.bounds);
        Some((session, context, updater))
    }

    /// Waits until something was added since the last time.
    pub(crate) async fn changed(&self) {
        self.wake.notified().await;
    }

    /// Makes the next [`changed`](Self::changed) return at once if anything waits, and returns whether so.
    pub(crate) fn again(&self) -> bool {
        let queue = self.lock();
        let waits = !queue.items.is_empty() || queue.closed.is_some();
        if waits {
            self.wake.notify_one();
        }
        waits
    }

    /// Waits until no more than half of the stream data that may wait does so, but not beyond `until`, and
    /// not for one that reads nothing: then this client is too slow to wait for.
    pub(crate) async fn relieved(&self, until: Instant) {
        loop {
            let room = self.room.notified();
            tokio::pin!(room);
            room.as_mut().enable();
            let patience = {
                let queue = self.lock();
                match queue.progress_at.map(|at| until.min(at + PROGRESS)) {
                    Some(patience) if queue.is_half_full(&self.bounds) && Instant::now() < patience => {
                        patience
                    }
                    _ => return,
                }
            };
            // In vain or not, what there is now decides.
            let _ = tokio::time::timeout_at(patience, room).await;
        }
    }

    /// Returns why the connection is to be closed, once it is.
    pub(crate) fn closed(&self) -> Option<CloseWith> {
        self.lock().closed.clone()
    }

    /// Returns why to close a client that has not read for the time of the write deadline.
    pub(crate) fn too_slow(&self) -> CloseWith {
        if self.lock().over_since.is_some() {
            return self.bounds.over_contexts();
        }
        let millis = self.bounds.write_deadline.as_millis();
        close(format!("too slow: nothing was read for {millis} ms (limit write_deadline_ms)"))
    }

    fn lock(&self) -> MutexGuard<'_, Queue> {
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Bounds {
    fn over_contexts(&self) -> CloseWith {
        let (max, millis) = (self.contexts, self.write_deadline.as_millis());
        close(format!(
            "too slow: over {max} bytes of contexts waited {millis} ms (limit outbox_context_bytes_max)"
        ))
    }
}

impl Queue {
    fn push(&mut self, item: Item, bounds: &Bounds) -> Pushed {
        let mut pushed = Pushed::default();
        let (class, weight) = match item {
            Item::Close(with) => {
                self.closed = Some(with);
                return pushed;
            }
            ref other => weigh(other),
        };
        let waiting = self.bytes[class as usize];
        let over = |max: usize| waiting > 0 && waiting + weight > max;
        match class {
            Class::Control if over(bounds.control) => {
                self.close(over_bound("answers", bounds.control, "outbox_control_bytes_max"));
                return pushed;
            }
            Class::Calls
                if waiting > 0 && waiting - self.excess + weight.min(bounds.calls / 2) > bounds.calls =>
            {
                match asked(&item) {
                    Some(number) => {
                        let limit = format!("outbox_calls_bytes_max ({})", bounds.calls);
                        pushed.not_taken = Some((number, limit.into()));
                    }
                    None => self.close(over_bound("results", bounds.calls, "outbox_calls_bytes_max")),
                }
                return pushed;
            }
            Class::Streams if over(bounds.streams) => match bounds.slow_stream_consumer {
                SlowStreamConsumer::Disconnect => {
                    self.close(over_bound("stream data", bounds.streams, "outbox_stream_bytes_max"));
                    return pushed;
                }
                SlowStreamConsumer::DropOldest => {
                    pushed.dropped = self.drop_streams(bounds.streams.saturating_sub(weight));
                }
            },
            Class::Contexts => {
                if over(bounds.contexts) {
                    let since = *self.over_since.get_or_insert_with(Instant::now);
                    if since.elapsed() >= bounds.write_deadline {
                        self.close(bounds.over_contexts());
                        return pushed;
                    }
                }
                if let Item::Event(session, Event::ContextUpdated { context, updater, .. }) = &item
                    && (self.is_marked(*session, context) || waiting + weight > bounds.conflate)
                {
                    self.mark(*session, context, updater);
                    return pushed;
                }
            }
            Class::Control | Class::Calls | Class::Streams | Class::Registry => {}
        }
        if self.bytes.iter().sum::<usize>() + weight > bounds.total && !self.items.is_empty() {
            self.close(over_bound("messages", bounds.total, "session_outbox_bytes_max"));
            return pushed;
        }
        let acknowledged = match &item {
            Item::Event(session, event) if is_acknowledgement(event) => Some(*session),
            _ => None,
        };
        self.add(item, bounds);
        if let Some(session) = acknowledged {
            self.move_marks_back(session);
        }
        pushed.crowded = class == Class::Streams && self.is_crowded(bounds);
        pushed
    }

    fn add(&mut self, item: Item, bounds: &Bounds) {
        let (class, weight) = weigh(&item);
        if self.items.is_empty() {
            self.progress_at = Some(Instant::now());
        }
        self.bytes[class as usize] += weight;
        if class == Class::Calls {
            self.excess += weight.saturating_sub(bounds.calls / 2);
        }
        self.items.push_back(item);
    }

    fn pop(&mut self, bounds: &Bounds) -> Option<(Item, usize)> {
        let item = self.items.pop_front()?;
        let (class, weight) = weigh(&item);
        self.bytes[class as usize] -= weight;
        if class == Class::Calls {
            self.excess -= weight.saturating_sub(bounds.calls / 2);
        }
        Some((item, weight))
    }

    fn taken(&mut self, bounds: &Bounds) {
        self.progress_at = Some(Instant::now());
        if self.bytes[Class::Contexts as usize] <= bounds.contexts {
            self.over_since = None;
        }
    }

    /// Closes, and forgets what waits: it is what the client has no room for.
    fn close(&mut self, with: CloseWith) {
        *self = Self { closed: Some(with), ..Self::default() };
    }

    const fn is_half_full(&self, bounds: &Bounds) -> bool {
        self.bytes[Class::Streams as usize] > bounds.streams / 2
    }

    /// Returns whether a client that reads has much to read. Nobody waits for one that does not read.
    fn is_crowded(&self, bounds: &Bounds) -> bool {
        self.is_half_full(bounds) && self.progress_at.is_some_and(|at| at.elapsed() < PROGRESS)
    }

    /// Drops the oldest stream data until no more than that waits, and returns how many.
    fn drop_streams(&mut self, max: usize) -> u64 {
        let mut dropped = 0;
        while self.bytes[Class::Streams as usize] > max {
            let oldest = self.items.iter().position(|item| weigh(item).0 == Class::Streams);
            let Some(item) = oldest.and_then(|at| self.items.remove(at)) else { break };
            self.bytes[Class::Streams as usize] -= weigh(&item).1;
            dropped += 1;
        }
        dropped
    }

    fn is_marked(&self, session: SessionId, context: &Text) -> bool {
        !self.marks.is_empty() && self.marks.contains_key(&(session, context.clone()))
    }

    /// Puts a mark in the place of what waits of a context for a session.
    ///
    /// The place is that of the first change, so that what was sent after it is still read after it;
    /// but it is behind the session's own acknowledgements, on which a client changes its copy by
    /// itself: the present value has these changes, and newer ones that must not be undone.
    fn mark(&mut self, session: SessionId, context: &Text, updater: &InstanceId) {
        if self.marks.insert((session, context.clone()), updater.clone()).is_some() {
            return;
        }
        let is_change = |item: &Item| {
            matches!(item, Item::Event(to, Event::ContextUpdated { context: of, .. })
                if *to == session && of == context)
        };
        let is_own = |item: &Item| matches!(item, Item::Event(to, event) if *to == session && is_acknowledgement(event));
        let first = self.items.iter().position(is_change).unwrap_or(self.items.len());
        let behind = self.items.iter().rposition(is_own).map_or(0, |at| at + 1);
        let mark = Item::Mark(session, context.clone());
        let (class, weight) = weigh(&mark);
        let mut bytes = self.bytes[class as usize] + weight;
        self.items.insert(first.max(behind), mark);
        self.items.retain(|item| {
            let change = is_change(item);
            if change {
                bytes -= weigh(item).1;
            }
            !change
        });
        self.bytes[class as usize] = bytes;
    }

    /// Moves a session's marks behind an acknowledgement that has just been added.
    fn move_marks_back(&mut self, session: SessionId) {
        let has_mark = |(first, _): (&(SessionId, Text), &InstanceId)| first.0 == session;
        if !self.marks.range((session, Text::default())..).next().is_some_and(has_mark) {
            return;
        }
        let (marks, others): (VecDeque<Item>, VecDeque<Item>) = std::mem::take(&mut self.items)
            .into_iter()
            .partition(|item| matches!(item, Item::Mark(to, _) if *to == session));
        self.items = others;
        self.items.extend(marks);
    }
}

fn weigh(item: &Item) -> (Class, usize) {
    match item {
        Item::Event(_, event) => (class_of(event), event.weight()),
        Item::Frame(frame) => (Class::Control, frame.len() + 64),
        Item::Data(frame) => (Class::Streams, frame.len() + 64),
        Item::Mark(_, context) => (Class::Contexts, context.len() + 256),
        Item::Close(_) => (Class::Control, 0),
    }
}

const fn class_of(event: &Event) -> Class {
    match event {
        Event::Attached { .. }
        | Event::Done { .. }
        | Event::Refused { .. }
        | Event::CallEnded { outcome: Outcome::Failed(_), .. }
        | Event::SubscriberGone { .. }
        | Event::Subscribed { .. }
        | Event::SubscriptionEnded { .. }
        | Event::ContextCreated { .. }
        | Event::BusSubscribed { .. } => Class::Control,
        Event::Invoke { .. }
        | Event::CallEnded { outcome: Outcome::Answered(_), .. }
        | Event::SubscriptionRequested { .. } => Class::Calls,
        Event::ContextSnapshot { .. } | Event::ContextUpdated { .. } => Class::Contexts,
        Event::StreamData { .. } | Event::BusEvent { .. } => Class::Streams,
        Event::InstanceAdded { .. }
        | Event::InstanceRemoved { .. }
        | Event::MethodsAdded { .. }
        | Event::MethodsRemoved { .. }
        | Event::ContextAdded { .. }
        | Event::ContextDestroyed { .. } => Class::Registry,
    }
}

/// Returns the number of what an application is asked to run or to feed.
const fn asked(item: &Item) -> Option<u64> {
    match item {
        Item::Event(_, Event::Invoke { invocation, .. }) => Some(*invocation),
        Item::Event(_, Event::SubscriptionRequested { subscription, .. }) => Some(*subscription),
        _ => None,
    }
}

/// Returns whether a client changes its own copy when it gets this.
pub(crate) const fn is_acknowledgement(event: &Event) -> bool {
    match event {
        Event::Done { request } | Event::ContextSnapshot { request, .. } => {
            request.face == Domain::Global as u8 || request.face == Domain::Context as u8
        }
        Event::ContextCreated { .. } | Event::BusSubscribed { .. } | Event::Subscribed { .. } => true,
        _ => false,
    }
}

fn over_bound(what: &str, max: usize, limit: &str) -> CloseWith {
    close(format!("too slow: more than {max} bytes of {what} are waiting (limit {limit})"))
}

const fn close(reason: String) -> CloseWith {
    CloseWith { code: 1013, reason }
}

#[cfg(test)]
mod tests;
