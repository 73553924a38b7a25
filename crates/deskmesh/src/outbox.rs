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
//! | stream data with a policy | one subscription's: it ends, or is thinned out |
//! | all stream data, publications | shed: see `make_room`; closed if that is not enough. The bound of a client that does not read is lower |
//! | who is there and offers what | no bound but that of the whole: a healthy client gets much at once |
//!
//! A bound counts from the second item on, so that one that is larger than its bound gets through. Of a
//! large call half of the bound counts, so that it does not keep small ones out.

use std::collections::{BTreeMap, VecDeque};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use mesh_model::{Event, InstanceId, Json, Outcome, SessionId, SlowPolicy, Text};
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
    /// Stands for the newest data of a stream that only keeps that. Has an entry in `Queue::slots`.
    Slot(Slot),
    /// One of the sessions whose events come here has ended: its identity has logged in elsewhere.
    Ended(SessionId),
    /// Close, and say why.
    Close(CloseWith),
}

/// A subscription, and which of its values if it keeps the newest of each.
pub(crate) type Slot = (SessionId, u64, Option<Json>);

/// What became of an item, as far as others are concerned.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Pushed {
    /// So much stream data waits that whoever sends it had better pause; see [`Outbox::relieved`].
    pub(crate) crowded: bool,
    /// How many events were dropped to make room.
    pub(crate) dropped: u64,
    /// A subscription is to end, since its data is not read: whose, and its number.
    pub(crate) too_slow: Vec<(SessionId, u64)>,
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
    /// It is that of a desktop agent, not of one connection.
    pub(crate) serves_many: bool,
}

#[derive(Clone, Copy, Debug)]
struct Bounds {
    total: usize,
    control: usize,
    calls: usize,
    conflate: usize,
    contexts: usize,
    streams: usize,
    subscription: usize,
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
    /// What slots stand for. One per slot in `items`.
    slots: BTreeMap<Slot, Event>,
    /// The subscriptions whose data waits.
    subscriptions: BTreeMap<(SessionId, u64), Waiting>,
    /// Since when more bytes of contexts wait than may.
    over_since: Option<Instant>,
    /// When something was last taken, or began to wait: who takes nothing for long after does not read.
    progress_at: Option<Instant>,
    /// Set once the connection is to be closed: nothing is added any more.
    closed: Option<CloseWith>,
}

/// What waits of one subscription.
#[derive(Debug, Default)]
struct Waiting {
    bytes: usize,
    /// Whether it ends when too much waits, so that it is worth waiting for.
    ends: bool,
    /// How many were left out since the last that was taken.
    gap: u64,
    /// Since when more waits than may.
    over_since: Option<Instant>,
}

/// Which bound counts for an item.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Class {
    Control,
    Calls,
    Contexts,
    /// Publications and what counts with them, and streams by their policy, in the order in which they are
    /// shed. One bound is for them all.
    Publications,
    Latest,
    DropOldest,
    Ending,
    Registry,
}

const CLASSES: usize = 8;
/// The classes of publications and streams.
const STREAMS: [Class; 4] = [Class::Publications, Class::Latest, Class::DropOldest, Class::Ending];

/// A client that takes nothing for this long does not read. On a busy machine a healthy one may take a while.
const PROGRESS: Duration = Duration::from_millis(250);
/// How many eighths of the bound of stream data are for a client that does not read. What waits for it takes
/// memory and may be for nobody; what waits for one that reads is a burst.
const UNREAD_EIGHTHS: usize = 3;
/// Subscriptions of which nothing waits any more, and whose gaps are still to be told.
const GAPS_MAX: usize = 4_096;
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
            subscription: limits.outbox_subscription_bytes_max,
            slow_stream_consumer: limits.slow_stream_consumer,
            write_deadline: Duration::from_millis(limits.write_deadline_ms),
        };
        Self { queue: Mutex::default(), wake: Notify::new(), room: Notify::new(), bounds, serves_many: false }
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
    /// How much stream data may wait for a client that does not read.
    fn streams_unread(&self) -> usize {
        self.streams / 8 * UNREAD_EIGHTHS
    }

    fn over_streams(&self, reads: bool) -> CloseWith {
        let (max, name) = (self.streams, "outbox_stream_bytes_max");
        if reads {
            return over_bound("stream data", max, name);
        }
        let (unread, millis) = (self.streams_unread(), PROGRESS.as_millis());
        close(format!(
            "too slow: nothing read for {millis} ms, {unread} bytes wait ({UNREAD_EIGHTHS}/8 of limit {name}, {max})"
        ))
    }

    fn over_contexts(&self) -> CloseWith {
        let (max, millis) = (self.contexts, self.write_deadline.as_millis());
        close(format!(
            "too slow: over {max} bytes of contexts waited {millis} ms (limit outbox_context_bytes_max)"
        ))
    }
}

impl Queue {
    fn push(&mut self, mut item: Item, bounds: &Bounds) -> Pushed {
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
            Class::Publications | Class::Latest | Class::DropOldest | Class::Ending => {
                if !self.thin_out(&mut item, class, weight, bounds, &mut pushed) {
                    return pushed;
                }
                let waiting = self.stream_bytes();
                if waiting > 0 && waiting + weight > bounds.streams_unread() {
                    let reads = self.reads();
                    let max = if reads { bounds.streams } else { bounds.streams_unread() };
                    if waiting + weight > max {
                        self.make_room(max.saturating_sub(weight), bounds, &mut pushed);
                    }
                    if self.stream_bytes() > 0 && self.stream_bytes() + weight > max {
                        self.close(bounds.over_streams(reads));
                        return pushed;
                    }
                    if subscription_of(&item).is_some_and(|known| pushed.too_slow.contains(&known)) {
                        return pushed;
                    }
                }
            }
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
            Class::Control | Class::Calls | Class::Registry => {}
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
        pushed.crowded = STREAMS.contains(&class) && self.is_crowded(bounds);
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
        if let Some(subscription) = subscription_of(&item) {
            let waiting = self.subscriptions.entry(subscription).or_default();
            waiting.bytes += weight;
            waiting.ends = class == Class::Ending;
        }
        match (slot_of(&item), item) {
            (Some(slot), Item::Event(_, event)) => {
                self.slots.insert(slot.clone(), event);
                self.items.push_back(Item::Slot(slot));
            }
            (_, item) => self.items.push_back(item),
        }
    }

    fn pop(&mut self, bounds: &Bounds) -> Option<(Item, usize)> {
        let item = self.items.pop_front()?;
        let mut item = self.resolved(item)?;
        let weight = self.forget(&item, bounds);
        if let Some(subscription) = subscription_of(&item)
            && let Some(waiting) = self.subscriptions.get_mut(&subscription)
        {
            if waiting.bytes <= bounds.subscription {
                waiting.over_since = None;
            }
            if let Item::Event(_, Event::StreamData { gap, .. }) = &mut item {
                *gap += std::mem::take(&mut waiting.gap);
            }
            if waiting.bytes == 0 {
                self.subscriptions.remove(&subscription);
            }
        }
        Some((item, weight))
    }

    /// Returns what a slot stands for, and anything else as it is.
    fn resolved(&mut self, item: Item) -> Option<Item> {
        match item {
            Item::Slot(slot) => self.slots.remove(&slot).map(|event| Item::Event(slot.0, event)),
            item => Some(item),
        }
    }

    /// Counts an item as waiting no more, and returns its weight.
    fn forget(&mut self, item: &Item, bounds: &Bounds) -> usize {
        let (class, weight) = weigh(item);
        self.bytes[class as usize] -= weight;
        if class == Class::Calls {
            self.excess -= weight.saturating_sub(bounds.calls / 2);
        }
        if let Some(subscription) = subscription_of(item)
            && let Some(waiting) = self.subscriptions.get_mut(&subscription)
        {
            waiting.bytes -= weight;
        }
        weight
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

    /// Returns whether much waits of publications and streams.
    fn is_half_full(&self, bounds: &Bounds) -> bool {
        let crowds = |waiting: &Waiting| waiting.ends && waiting.bytes > bounds.subscription / 2;
        self.stream_bytes() > bounds.streams / 2 || self.subscriptions.values().any(crowds)
    }

    /// Returns whether a client that reads has much to read. Nobody waits for one that does not read.
    fn is_crowded(&self, bounds: &Bounds) -> bool {
        self.is_half_full(bounds) && self.reads()
    }

    /// Returns whether the client has lately taken something, or has not had anything to take for long.
    fn reads(&self) -> bool {
        self.progress_at.is_some_and(|at| at.elapsed() < PROGRESS)
    }

    fn stream_bytes(&self) -> usize {
        STREAMS.iter().map(|class| self.bytes[*class as usize]).sum()
    }

    /// Does what a stream's policy says to what waits of the same subscription, before its next data is added;
    /// returns whether that still is to be added.
    fn thin_out(
        &mut self,
        item: &mut Item,
        class: Class,
        weight: usize,
        bounds: &Bounds,
        pushed: &mut Pushed,
    ) -> bool {
        if let Some(slot) = slot_of(item)
            && let Item::Event(session, event) = item
            && let Some(waiting) = self.slots.get_mut(&slot)
        {
            // In the place of what it replaces.
            let older = Item::Event(*session, std::mem::replace(waiting, event.clone()));
            self.forget(&older, bounds);
            self.bytes[class as usize] += weight;
            let of_subscription = self.subscriptions.entry((slot.0, slot.1)).or_default();
            of_subscription.bytes += weight;
            of_subscription.gap += 1 + gap_of(&older);
            pushed.dropped += 1;
            return false;
        }
        let Some(subscription) = subscription_of(item).filter(|_| class != Class::Publications) else {
            return true;
        };
        let waiting = self.subscriptions.get(&subscription).map_or(0, |waiting| waiting.bytes);
        if waiting == 0 || waiting + weight <= bounds.subscription {
            return true;
        }
        if class == Class::Ending {
            let Some(waiting) = self.subscriptions.get_mut(&subscription) else { return true };
            // One that reads may be behind for a moment.
            let since = *waiting.over_since.get_or_insert_with(Instant::now);
            if since.elapsed() < PROGRESS {
                return true;
            }
            self.end(subscription, bounds, pushed);
            return false;
        }
        let mine = |item: &Item| subscription_of(item) == Some(subscription);
        while self
            .subscriptions
            .get(&subscription)
            .is_some_and(|w| w.bytes > 0 && w.bytes + weight > bounds.subscription)
        {
            if !self.drop_oldest(mine, bounds, pushed) {
                break;
            }
        }
        true
    }

    /// Sheds until no more than that waits of publications and streams: first publications and what counts
    /// with them, if they may be lost, then streams by their policy, and at last the subscriptions with the most that waits.
    fn make_room(&mut self, max: usize, bounds: &Bounds, pushed: &mut Pushed) {
        for class in STREAMS {
            let may_go = match class {
                Class::Publications => bounds.slow_stream_consumer == SlowStreamConsumer::DropOldest,
                Class::Ending => false,
                _ => true,
            };
            while may_go && self.bytes[class as usize] > 0 && self.stream_bytes() > max {
                if !self.drop_oldest(|item| weigh(item).0 == class, bounds, pushed) {
                    break;
                }
            }
        }
        while self.stream_bytes() > max {
            let ending = self.items.iter().filter(|item| weigh(item).0 == Class::Ending);
            let waits =
                |known: &(SessionId, u64)| self.subscriptions.get(known).map_or(0, |waiting| waiting.bytes);
            let most = ending.filter_map(subscription_of).max_by_key(waits);
            let Some(subscription) = most else { return };
            self.end(subscription, bounds, pushed);
        }
        if self.subscriptions.len() > GAPS_MAX {
            self.subscriptions.retain(|_, waiting| waiting.bytes > 0);
        }
    }

    /// Drops the oldest item of a kind; returns whether there was one.
    fn drop_oldest(&mut self, kind: impl Fn(&Item) -> bool, bounds: &Bounds, pushed: &mut Pushed) -> bool {
        let oldest = self.items.iter().position(kind);
        let Some(item) = oldest.and_then(|at| self.items.remove(at)) else { return false };
        let Some(item) = self.resolved(item) else { return false };
        self.forget(&item, bounds);
        pushed.dropped += 1;
        if let Some(subscription) = subscription_of(&item) {
            self.subscriptions.entry(subscription).or_default().gap += 1 + gap_of(&item);
        }
        true
    }

    /// Drops all that waits of a subscription, which is to end.
    fn end(&mut self, subscription: (SessionId, u64), bounds: &Bounds, pushed: &mut Pushed) {
        let is_data = |item: &Item| subscription_of(item) == Some(subscription);
        let (data, others): (VecDeque<Item>, VecDeque<Item>) =
            std::mem::take(&mut self.items).into_iter().partition(is_data);
        self.items = others;
        for item in data {
            if let Some(item) = self.resolved(item) {
                self.forget(&item, bounds);
                pushed.dropped += 1;
            }
        }
        self.subscriptions.remove(&subscription);
        pushed.too_slow.push(subscription);
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
        Item::Data(frame) => (Class::Publications, frame.len() + 64),
        Item::Mark(_, context) => (Class::Contexts, context.len() + 256),
        // What it stands for has the weight.
        Item::Slot(_) => (Class::Latest, 0),
        Item::Ended(_) | Item::Close(_) => (Class::Control, 0),
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
        Event::StreamData { policy: SlowPolicy::AsPublications, .. } => Class::Publications,
        Event::StreamData { policy: SlowPolicy::End, .. } => Class::Ending,
        Event::StreamData { policy: SlowPolicy::DropOldest, .. }
        | Event::StreamData { private: true, .. } => Class::DropOldest,
        Event::StreamData { .. } => Class::Latest,
        Event::BusEvent { .. } => Class::Publications,
        Event::InstanceAdded { .. }
        | Event::InstanceRemoved { .. }
        | Event::MethodsAdded { .. }
        | Event::MethodsRemoved { .. }
        | Event::ContextAdded { .. }
        | Event::ContextDestroyed { .. } => Class::Registry,
    }
}

/// Returns the subscription whose data an item is.
const fn subscription_of(item: &Item) -> Option<(SessionId, u64)> {
    match item {
        Item::Event(session, Event::StreamData { subscription, .. })
        | Item::Slot((session, subscription, _)) => Some((*session, *subscription)),
        _ => None,
    }
}

const fn gap_of(item: &Item) -> u64 {
    match item {
        Item::Event(_, Event::StreamData { gap, .. }) => *gap,
        _ => 0,
    }
}

/// Returns where only the newest is kept of what an item is.
fn slot_of(item: &Item) -> Option<Slot> {
    let Item::Event(session, Event::StreamData { subscription, private: false, data, policy, .. }) = item
    else {
        return None;
    };
    match policy {
        SlowPolicy::AsPublications | SlowPolicy::End | SlowPolicy::DropOldest => None,
        SlowPolicy::Latest => Some((*session, *subscription, None)),
        SlowPolicy::LatestByKey(key) => {
            let key = data.member(key).map(|value| value.detached());
            Some((*session, *subscription, Some(key.unwrap_or(Json::null()))))
        }
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
const fn is_acknowledgement(event: &Event) -> bool {
    match event {
        Event::Done { request, .. } | Event::ContextSnapshot { request, .. } => {
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
