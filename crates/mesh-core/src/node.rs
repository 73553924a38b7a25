//! The node: its state, its four verbs, and what all parts share.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use bytes::Bytes;
use mesh_model::link::LinkMessage;
use mesh_model::{
    CallId, Cause, Command, DomainId, Dot, Event, Hlc, Incarnation, Json, Lane, Limits, LinkId, NodeId, Now,
    Origin, Reason, Request, SESSION_LANES, SessionId, Stamp, Text, Tick,
};

use crate::bus::Bus;
use crate::call::{Invocation, RemoteCall};
use crate::causal::Causes;
use crate::content::Step;
use crate::context::SharedContext;
use crate::key::{self, ContextKey, UserKey};
use crate::link::Link;
use crate::registry::{RemoteInstance, RemoteNode};
use crate::replica::{Changes, Replica};
use crate::returning::{Departures, Resuming};
use crate::served::Served;
use crate::session::Session;
use crate::stream::{Branch, Interest, RemoteSubscription, SlowRule};
use crate::visibility::Visibility;
use crate::{Input, Notice, Output};

/// Local writes after which their tombstones are dropped.
const TOMBSTONES_KEPT: u64 = 1_024;

/// Who a node is and how it behaves.
#[derive(Clone, Debug)]
pub struct NodeSettings {
    /// Its id.
    pub node: NodeId,
    /// This life.
    pub incarnation: Incarnation,
    /// What people call it; shown to applications as `machine`.
    pub name: Text,
    /// Where other nodes may dial it.
    pub addresses: Vec<Text>,
    /// The domain it lives in.
    pub domain: DomainId,
    /// Makes the ids of this life unguessable and unlike those of others: random, made anew each start.
    pub id_secret: u128,
    /// What other nodes get to know.
    pub visibility: Visibility,
    /// Whether it passes messages on between nodes that cannot reach each other, and lets others do so
    /// for it.
    pub relay: bool,
    /// What becomes of streams whose subscribers here read slowly: the first rule that matches decides.
    pub slow_rules: Vec<SlowRule>,
    /// Bounds.
    pub limits: Limits,
    /// Intervals.
    pub timing: Timing,
}

/// The intervals that decide how soon a node notices things. Milliseconds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Timing {
    /// Between heartbeats on a link.
    pub heartbeat_ms: u64,
    /// Silence after which a link counts as broken.
    pub suspect_ms: u64,
    /// How long after its last sign of life the calls to a node wait for a link to it, if theirs broke.
    pub call_grace_ms: u64,
    /// How long the end of another node's call is known, in case its link broke.
    pub ended_call_ms: u64,
    /// Absence after which subscriptions to an unreachable node end.
    pub gone_ms: u64,
    /// How long a message may wait for the replicated write it was sent after.
    pub hold_ms: u64,
    /// How long a link may take to be opened.
    pub open_ms: u64,
    /// How long a node that cannot be reached directly is dialled before it is by way of another.
    pub relay_ms: u64,
    /// Between comparisons of state with neighbours.
    pub digest_ms: u64,
    /// Age at which tombstones may be dropped.
    pub tombstone_ms: u64,
    /// How long nobody has heard of a node when its registrations are dropped.
    pub retire_ms: u64,
}

impl Timing {
    /// For links over wide areas and bad wireless networks: a silence is noticed within 5 s, so that many of
    /// 3 s break no link; a call outlasts paths that are broken for as long; and an idle link says less.
    #[must_use]
    pub fn wan() -> Self {
        Self { heartbeat_ms: 700, suspect_ms: 4_500, call_grace_ms: 5_000, ..Self::default() }
    }
}

impl Default for Timing {
    /// For local networks: a node that falls silent is withdrawn within 2 s.
    fn default() -> Self {
        Self {
            heartbeat_ms: 400,
            suspect_ms: 1_500,
            call_grace_ms: 1_900,
            ended_call_ms: 30_000,
            gone_ms: 30_000,
            hold_ms: 500,
            open_ms: 5_000,
            relay_ms: 1_000,
            digest_ms: 30_000,
            tombstone_ms: 3_600_000,
            retire_ms: 86_400_000,
        }
    }
}

/// One node. See the crate's page.
#[derive(Debug)]
#[cfg_attr(test, derive(Clone))]
pub struct Node {
    pub(crate) settings: NodeSettings,
    pub(crate) now: Now,
    pub(crate) replica: Replica,
    /// What other nodes know nothing of.
    pub(crate) local: Replica,
    local_seq: u64,
    pub(crate) hlc: Hlc,
    pub(crate) seq: u64,
    /// The last write that had a registration or withdrew one.
    pub(crate) registered: u64,
    pub(crate) causes: Causes,
    next_id: u64,

    pub(crate) sessions: BTreeMap<SessionId, Session>,
    /// The sessions by instance id. One entry per session.
    pub(crate) instances: BTreeMap<Text, SessionId>,
    /// The sessions by user. One entry per session.
    pub(crate) by_user: BTreeMap<UserKey, BTreeSet<SessionId>>,
    /// Those that serve all users.
    pub(crate) services: BTreeSet<SessionId>,
    /// The sessions by their whole identity, for those that brought their own instance name.
    pub(crate) by_identity: BTreeMap<Json, SessionId>,

    pub(crate) nodes: BTreeMap<NodeId, RemoteNode>,
    pub(crate) remote: BTreeMap<Text, RemoteInstance>,
    /// Rows of `remote` that are not in line with the replica yet.
    pub(crate) unsettled: BTreeSet<(NodeId, Text)>,

    pub(crate) invocations: BTreeMap<u64, Invocation>,
    /// Those for other nodes which have not been told that they run; they are with the next heartbeat.
    pub(crate) unaccepted: BTreeSet<u64>,
    pub(crate) calls: BTreeMap<CallId, RemoteCall>,
    /// The calls of other nodes.
    pub(crate) served: Served,
    /// What ends then, by the numbers that count all of them as one: one entry per key of `calls` and of
    /// `invocations`, and per subscription whose provider has not answered.
    pub(crate) deadlines: BTreeSet<(Tick, CallId)>,

    pub(crate) interests: BTreeMap<u64, Interest>,
    pub(crate) branches: BTreeMap<(SessionId, Json), Branch>,
    pub(crate) subscriptions: BTreeMap<CallId, RemoteSubscription>,
    /// Which subscriptions a branch of another node feeds.
    pub(crate) remote_branches: BTreeMap<(NodeId, u64), BTreeSet<CallId>>,
    /// Subscriptions of other nodes, with their providers, that ended here since the link had no room. They
    /// hear of it when it has.
    pub(crate) shed: BTreeMap<NodeId, BTreeMap<CallId, SessionId>>,

    /// Why entries are about to be withdrawn, as the node that does it says.
    pub(crate) whys: BTreeMap<(NodeId, Bytes), Cause>,
    pub(crate) contexts: BTreeMap<ContextKey, SharedContext>,
    pub(crate) context_ids: BTreeMap<Text, ContextKey>,
    pub(crate) departures: Departures,
    /// The sessions whose clients have just returned.
    pub(crate) resuming: BTreeMap<SessionId, Resuming>,
    pub(crate) bus: Bus,

    pub(crate) links: BTreeMap<LinkId, Link>,
    /// Whether links have come or gone, or who can be reached over them has changed.
    pub(crate) links_changed: bool,
    /// Whether this node has said that it leaves: it has no more links then.
    pub(crate) leaves: bool,
    /// When a node is to be dialled by way of another.
    pub(crate) relay_due: Option<Tick>,
    /// How often this node was late lately, and until when that counts.
    pub(crate) late: (u64, Tick),
    pub(crate) next_digest: Tick,
    pub(crate) divergences: u64,
    outputs: VecDeque<Output>,
}

impl Node {
    /// Makes a node that knows nobody.
    #[must_use]
    pub fn new(settings: NodeSettings, now: Now) -> Self {
        let mut node = Self {
            next_digest: now.tick.plus_millis(settings.timing.digest_ms),
            settings,
            now,
            replica: Replica::default(),
            local: Replica::default(),
            local_seq: 0,
            hlc: Hlc::default(),
            seq: 0,
            registered: 0,
            causes: Causes::default(),
            next_id: 0,
            sessions: BTreeMap::new(),
            instances: BTreeMap::new(),
            by_user: BTreeMap::new(),
            services: BTreeSet::new(),
            by_identity: BTreeMap::new(),
            nodes: BTreeMap::new(),
            remote: BTreeMap::new(),
            unsettled: BTreeSet::new(),
            invocations: BTreeMap::new(),
            unaccepted: BTreeSet::new(),
            calls: BTreeMap::new(),
            served: Served::default(),
            deadlines: BTreeSet::new(),
            interests: BTreeMap::new(),
            branches: BTreeMap::new(),
            subscriptions: BTreeMap::new(),
            remote_branches: BTreeMap::new(),
            shed: BTreeMap::new(),
            whys: BTreeMap::new(),
            contexts: BTreeMap::new(),
            context_ids: BTreeMap::new(),
            departures: Departures::default(),
            resuming: BTreeMap::new(),
            bus: Bus::default(),
            links: BTreeMap::new(),
            links_changed: false,
            leaves: false,
            relay_due: None,
            late: (0, Tick(0)),
            divergences: 0,
            outputs: VecDeque::new(),
        };
        node.publish_node_record();
        node
    }

    /// Takes one input. Drain [`poll_output`](Self::poll_output) before the next.
    pub fn handle(&mut self, input: Input, now: Now) {
        self.now = now;
        self.note_arrivals();
        self.begin(match &input {
            Input::Session { session, .. } | Input::SessionClosed { session, .. } => Some(*session),
            _ => None,
        });
        match input {
            Input::Session { session, command } => self.command(session, command),
            Input::SessionClosed { session, heard } => self.detach(session, heard),
            Input::SessionRemembered(known) => self.remember_session(known),
            Input::NotTaken { session, id, limit } => self.not_taken(session, id, limit),
            Input::TooSlow { session, subscription } => self.end_too_slow(session, subscription),
            Input::NotSent { link, message, limit } => self.not_sent(link, message, limit),
            Input::Disturbed => self.check_links(),
            Input::Addresses(addresses) => {
                self.settings.addresses = addresses;
                self.publish_node_record();
            }
            Input::LinkOpened { link, peer } => self.link_opened(link, peer),
            Input::Link { link, lane, message } => self.link_message(link, lane, message),
            Input::LinkDrained { link } => self.link_drained(link),
            Input::LinkEased { link } => self.link_eased(link),
            Input::NotRelayed { link, node, channel } => self.not_relayed(link, node, channel),
            Input::LinkClosed { link, reason } => {
                self.hear_whether_superseded(link, &reason);
                self.link_closed(link, &reason);
            }
            Input::Leave => self.leave_mesh(),
            Input::Visibility(lists) => {
                self.shows_state();
                self.set_visibility(*lists);
            }
        }
        self.settle_rows();
        self.flush_links();
        self.settle_relays();
        self.end();
    }

    /// Does what is due. Calling it too early or too often does no harm.
    pub fn handle_timeout(&mut self, now: Now) {
        self.now = now;
        self.note_arrivals();
        self.begin(None);
        self.link_timers();
        self.call_timers();
        self.returning_timers();
        self.settle_rows();
        self.flush_links();
        self.settle_relays();
    }

    /// Returns the next thing to be done.
    pub fn poll_output(&mut self) -> Option<Output> {
        self.outputs.pop_front()
    }

    /// Returns when to call [`handle_timeout`](Self::handle_timeout), if nothing else happens before.
    #[must_use]
    pub fn poll_timeout(&self) -> Option<Tick> {
        let call = self.deadlines.first().map(|(at, _)| *at);
        self.link_timeout().into_iter().chain(call).chain(self.returning_timeout()).min()
    }

    fn command(&mut self, session: SessionId, command: Command) {
        if shows_state(&command) {
            self.shows_state();
        }
        if let Command::Attach { request, identity, user, login, service } = command {
            return self.attach(session, request, &identity, user, login, service);
        }
        let Some(own) = self.sessions.get_mut(&session) else {
            // Without a session there is nobody to answer; the adapter has said so already.
            return;
        };
        own.asked = self.now.tick;
        match command {
            Command::Attach { .. } => {}
            Command::Join { request, area, restrictions } => {
                self.join(session, request, area, restrictions.as_ref());
            }
            Command::Leave { request, area, words } => self.leave(session, request, area, words),
            Command::Register { request, methods } => self.register(session, request, methods),
            Command::Unregister { request, methods } => self.unregister(session, request, methods),
            Command::Call { request, server, method, arguments, trace } => {
                self.call(session, request, &server, method, arguments, trace);
            }
            Command::Yield { invocation, result } => self.yield_result(session, invocation, result),
            Command::Fail { request, id, words, context } => self.fail(session, request, id, words, context),
            Command::Subscribe { request, server, method, arguments } => {
                self.subscribe(session, request, &server, method, arguments);
            }
            Command::Unsubscribe { request, subscription, words } => {
                self.unsubscribe(session, request, subscription, words);
            }
            Command::Accept { subscription, branch } => self.accept(session, subscription, &branch),
            Command::Drop { request, subscription, words } => {
                self.drop_subscription(session, request, subscription, words)
            }
            Command::Push { branch, data, sequence, snapshot } => {
                self.push(session, branch, data, sequence, snapshot)
            }
            Command::PushTo { subscription, data, sequence, snapshot } => {
                self.push_to(session, subscription, data, sequence, snapshot);
            }
            Command::CreateContext { request, name, data, lifetime, permissions } => {
                self.create_context(session, request, name, data, lifetime, &permissions);
            }
            Command::SubscribeContext { request, context } => {
                self.subscribe_context(session, request, &context)
            }
            Command::UnsubscribeContext { request, context } => {
                self.unsubscribe_context(session, request, &context)
            }
            Command::UpdateContext { request, context, delta } => {
                self.update_context(session, request, &context, delta)
            }
            Command::DestroyContext { request, context } => self.destroy_context(session, request, &context),
            Command::BusSubscribe { request, pattern, routing_key } => {
                self.bus_subscribe(session, request, pattern, routing_key);
            }
            Command::BusUnsubscribe { request, subscription } => {
                self.bus_unsubscribe(session, request, subscription)
            }
            Command::BusPublish { topic, routing_key, target, data } => {
                self.bus_publish(session, topic, routing_key, target, data);
            }
        }
    }

    pub(crate) fn emit(&mut self, output: Output) {
        self.outputs.extend(self.routed(output));
    }

    pub(crate) fn notice(&mut self, notice: Notice) {
        self.emit(Output::Notice(notice));
    }

    pub(crate) fn tell(&mut self, session: SessionId, event: Event) {
        self.is_told(session, &event);
        self.emit(Output::Event { session, event });
    }

    pub(crate) fn done(&mut self, session: SessionId, request: Request) {
        self.tell(session, Event::Done { request, changed: None });
    }

    /// Says that a session's own change of a context is made.
    pub(crate) fn changed(&mut self, session: SessionId, request: Request, context: &Text) {
        self.tell(session, Event::Done { request, changed: Some(context.detached()) });
    }

    pub(crate) fn refuse(&mut self, session: SessionId, request: Request, reason: Reason) {
        self.tell(session, Event::Refused { request, reason });
    }

    /// Sends a message of one session's traffic, behind all writes made so far.
    pub(crate) fn send_from(&mut self, session: u64, link: LinkId, message: LinkMessage) {
        /// From this size on, a call or a result travels beside the ordered lanes, not in them.
        const BULK_BYTES_MIN: usize = 64 << 10;
        self.flush_link(link);
        // A request for a subscription keeps to its lane, where an end of it would follow.
        let alone =
            matches!(message, LinkMessage::Call { subscribe: false, .. } | LinkMessage::CallEnd { .. });
        let large = alone && message.payload_len() >= BULK_BYTES_MIN;
        #[expect(clippy::cast_possible_truncation, reason = "a remainder of a small number")]
        let lane = if large { Lane::Bulk } else { Lane::Session((session % u64::from(SESSION_LANES)) as u8) };
        if let Some(covered) = self.tell_covered(link, lane) {
            self.emit(Output::Link { link, lane, message: covered });
        }
        self.emit(Output::Link { link, lane, message });
    }

    /// Returns a number that this life of the node never used before.
    pub(crate) const fn next_number(&mut self) -> u64 {
        self.next_id += 1;
        self.next_id
    }

    /// Returns a number that no life of any node uses for another relayed link.
    pub(crate) const fn next_channel(&mut self) -> u64 {
        (self.next_mixed() >> 64) as u64
    }

    /// Returns an id for applications: begins with `prefix`, unique over the mesh, not to be guessed.
    pub(crate) fn next_name(&mut self, prefix: char) -> Text {
        let mixed = self.next_mixed();
        Text::from(format!("{prefix}-{:020x}", mixed >> 48))
    }

    /// Returns a number that looks like chance and differs from all that any node had before.
    const fn next_mixed(&mut self) -> u128 {
        let number = self.next_number() as u128;
        let mut x = self.settings.id_secret ^ number.wrapping_mul(0x9e37_79b9_7f4a_7c15_f39c_c060_5ced_c835);
        let mut round = 0;
        while round < 3 {
            round += 1;
            x = (x ^ (x >> 67)).wrapping_mul(0xda94_2042_e4dd_58b5_2b7e_1516_28ae_d2a7);
            x ^= self.settings.id_secret.rotate_left(41);
        }
        x
    }

    /// Returns whether `more` entries of `bytes` in total still fit into the domain.
    pub(crate) fn room_for(&self, more: usize, bytes: usize) -> Result<(), Reason> {
        let limits = &self.settings.limits;
        if self.replica.len() + self.local.len() + more > limits.domain_entries_max {
            return Err(Reason::Limit { limit: "domain_entries_max", max: limits.domain_entries_max as u64 });
        }
        if self.replica.bytes() + self.local.bytes() + bytes > limits.domain_bytes_max {
            return Err(Reason::Limit { limit: "domain_bytes_max", max: limits.domain_bytes_max as u64 });
        }
        Ok(())
    }

    /// Makes one write of this node out of a step: all its parts under one dot.
    pub(crate) fn write(&mut self, step: Step) {
        self.seq += 1;
        self.note_write();
        if step.iter().any(|write| key::owner(&write.key).is_some()) {
            self.registered = self.seq;
        }
        let stamp = self.stamp(self.seq);
        apply(&mut self.replica, stamp, step, self.now.wall_ms);
        for link in self.links.values_mut() {
            link.dirty = true;
        }
    }

    /// The same for what other nodes know nothing of: its writes are counted by themselves, so that no
    /// message waits for them.
    pub(crate) fn write_local(&mut self, step: Step) {
        self.local_seq += 1;
        let stamp = self.stamp(self.local_seq);
        apply(&mut self.local, stamp, step, self.now.wall_ms);
        // Nobody else can hold what was replaced, so its tombstones need not wait.
        let vector = self.local.vector().clone();
        if self.local_seq.is_multiple_of(TOMBSTONES_KEPT) {
            self.local.drop_tombstones([vector].iter(), u64::MAX);
        }
    }

    fn stamp(&mut self, seq: u64) -> Stamp {
        // At its end, which only a stamp from a broken node can bring it to, the clock stands still; the
        // dot goes on, so that stamps still differ.
        self.hlc = Hlc(self.hlc.0.saturating_add(1).max(Hlc::from_wall_ms(self.now.wall_ms).0));
        Stamp { hlc: self.hlc, dot: Dot { origin: self.origin(), seq } }
    }

    /// Moves the hybrid clock past a stamp seen, so that what is written next is newer.
    pub(crate) fn saw(&mut self, hlc: Hlc) {
        self.hlc = self.hlc.max(hlc);
    }

    pub(crate) const fn origin(&self) -> Origin {
        Origin { node: self.settings.node, incarnation: self.settings.incarnation }
    }

    /// Returns the sessions of a user on this node, in the order they came.
    pub(crate) fn sessions_of(&self, user: &UserKey) -> Vec<SessionId> {
        self.by_user.get(user).map(|sessions| sessions.iter().copied().collect()).unwrap_or_default()
    }
}

/// Returns whether a session is shown by a command what others have written.
const fn shows_state(command: &Command) -> bool {
    matches!(
        command,
        Command::Attach { .. }
            | Command::Join { .. }
            | Command::CreateContext { .. }
            | Command::SubscribeContext { .. }
    )
}

/// Makes one write of a node: all its parts under one stamp.
fn apply(replica: &mut Replica, stamp: Stamp, step: Step, wall_ms: u64) {
    let mut changes = Changes::default();
    for write in step {
        replica.merge(&write.key, stamp, write.value, wall_ms, &mut changes);
    }
    replica.cover_own(stamp.dot);
}
