//! The loop around the core: inputs in, outputs out, under one short lock.
//!
//! There is no task that owns the core: whoever has an input takes the lock, hands it over and carries
//! the outputs to their queues. That saves a task hop per message, and keeps the order: what the core
//! says first is in its queue first. Nothing waits, reads or writes while the lock is held.

use std::collections::{BTreeSet, VecDeque};
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use dashmap::DashMap;
use mesh_core::{CloseReason, Input, Node, NodeSettings, Notice, Output};
use mesh_identity::join::{Exporter, JoinAnswer, JoinRequest};
use mesh_identity::{NodeIdentity, PeerIdentity, TokenStore};
use mesh_model::link::Carried;
use mesh_model::trace::TraceContext;
use mesh_model::{Event, Lane, LinkId, LinkMessage, LinkPeer, NodeId, SessionId, Text, Tick};
use mesh_net::clock::Clock;
use mesh_net::quic::{CloseCode, LinkEvents, MeshEndpoint, SendError, Share, queue_limit};
use mesh_telemetry::sampling::RatioSampler;
use mesh_telemetry::{SpanRecord, Telemetry, traceparent};
use tokio::sync::Notify;

use crate::local::websocket::CloseWith;
use crate::outbox::{Item, Outbox};
use crate::remembered::SessionsFile;
use crate::watchdog;

/// A running node: the core and everything around it that is shared.
pub(crate) struct Gateway {
    core: Mutex<Node>,
    pub(crate) clock: Clock,
    /// Where each session's events go.
    outboxes: DashMap<SessionId, Arc<Outbox>>,
    /// The other end of each link, while it is open.
    pub(crate) links: DashMap<LinkId, (NodeId, SocketAddr)>,
    /// Where nodes can be dialled, as they say themselves.
    pub(crate) addresses: DashMap<NodeId, Vec<Text>>,
    /// Where nodes may be, as somebody in the local network says.
    pub(crate) found: DashMap<NodeId, Vec<Text>>,
    pub(crate) topology_changed: Notify,
    /// Tells that the machine has slept or its addresses are others: what failed may work now.
    pub(crate) network_changed: Notify,
    /// Tells that others know a newer life of this node.
    pub(crate) superseded: Notify,
    is_superseded: AtomicBool,
    /// Tells when those who can be known again are others than before.
    pub(crate) recognitions_changed: Notify,
    recognitions_seen: AtomicU64,
    /// When a refused link was last told of.
    refusals: DashMap<NodeId, Tick>,
    sessions_file: OnceLock<SessionsFile>,
    endpoint: OnceLock<MeshEndpoint>,
    next_session: AtomicU64,
    /// When the timer task wants to run, in ticks; it is woken when that is too late.
    timer_at: AtomicU64,
    timer_wake: Notify,
    core_stall_ms_max: u64,
    /// Messages about applications' own metrics, which are discarded.
    metrics: AtomicU64,
    identity: Arc<NodeIdentity>,
    tokens: TokenStore,
    pub(crate) telemetry: Telemetry,
    sampler: RatioSampler,
    /// Users whose apps here have heard of a desktop agent on another node.
    agents_wanted: Mutex<BTreeSet<Text>>,
    agents_wanted_changed: Notify,
    /// Stream data and publications that slow applications were not given.
    dropped: AtomicU64,
    wall_at_start_ns: u64,
}

impl Gateway {
    pub(crate) fn new(
        settings: NodeSettings,
        clock: Clock,
        identity: Arc<NodeIdentity>,
        tokens: TokenStore,
        telemetry: Telemetry,
        sample_ratio: f64,
    ) -> Arc<Self> {
        let now = clock.read();
        Arc::new(Self {
            core_stall_ms_max: settings.limits.core_stall_ms_max,
            core: Mutex::new(Node::new(settings, now)),
            wall_at_start_ns: now
                .wall_ms
                .saturating_mul(1_000_000)
                .saturating_sub(now.tick.0.saturating_mul(1_000)),
            clock,
            outboxes: DashMap::new(),
            links: DashMap::new(),
            addresses: DashMap::new(),
            found: DashMap::new(),
            topology_changed: Notify::new(),
            network_changed: Notify::new(),
            superseded: Notify::new(),
            is_superseded: AtomicBool::new(false),
            recognitions_changed: Notify::new(),
            recognitions_seen: AtomicU64::new(0),
            refusals: DashMap::new(),
            sessions_file: OnceLock::new(),
            endpoint: OnceLock::new(),
            next_session: AtomicU64::new(1),
            timer_at: AtomicU64::new(u64::MAX),
            timer_wake: Notify::new(),
            metrics: AtomicU64::new(0),
            identity,
            tokens,
            telemetry,
            sampler: RatioSampler::new(sample_ratio),
            agents_wanted: Mutex::default(),
            agents_wanted_changed: Notify::new(),
            dropped: AtomicU64::new(0),
        })
    }

    /// Gives the gateway its mesh endpoint; before that it says nothing to other nodes.
    pub(crate) fn set_endpoint(&self, endpoint: MeshEndpoint) {
        let _ = self.endpoint.set(endpoint);
    }

    /// Takes over whom a file remembers; from now on those who come are added to it.
    pub(crate) fn set_sessions_file(&self, file: SessionsFile) {
        file.restore(self);
        let _ = self.sessions_file.set(file);
    }

    pub(crate) fn sessions_file(&self) -> Option<&SessionsFile> {
        self.sessions_file.get()
    }

    pub(crate) fn endpoint(&self) -> Option<&MeshEndpoint> {
        self.endpoint.get()
    }

    pub(crate) const fn identity(&self) -> &Arc<NodeIdentity> {
        &self.identity
    }

    pub(crate) const fn tokens(&self) -> &TokenStore {
        &self.tokens
    }

    /// Hands one input to the core and carries out what it says.
    ///
    /// Returns an outbox that this has filled by more than half with stream data: whoever goes on
    /// sending to it had better wait until it is [`relieved`](Outbox::relieved).
    pub(crate) fn input(&self, input: Input) -> Option<Arc<Outbox>> {
        let mut core = self.lock();
        core.handle(input, self.clock.read());
        self.carry_out(&mut core)
    }

    /// Takes the mark at the front of an outbox, and returns what it stands for now; nothing if its
    /// session does not want that any more.
    pub(crate) fn present_value(&self, outbox: &Outbox) -> Option<Item> {
        let mut core = self.lock();
        let (session, context, updater) = outbox.take_mark()?;
        let delta = core.context_reset(session, &context)?;
        Some(Item::Event(session, Event::ContextUpdated { context, updater, delta }))
    }

    /// Returns how many events slow applications were not given.
    pub(crate) fn dropped(&self) -> u64 {
        self.dropped.load(Ordering::Relaxed)
    }

    /// Counts a message about an application's own metrics.
    pub(crate) fn count_metrics(&self) {
        self.metrics.fetch_add(1, Ordering::Relaxed);
    }

    /// Returns how many there were.
    pub(crate) fn metrics(&self) -> u64 {
        self.metrics.load(Ordering::Relaxed)
    }

    /// Takes it that links may be broken, and that dials which failed may succeed.
    pub(crate) fn disturbed(&self) {
        self.input(Input::Disturbed);
        self.network_changed.notify_one();
    }

    /// Returns whether a refusal by or of a node is news: it is dialled again and again.
    fn is_news(&self, node: NodeId) -> bool {
        /// How often it is said again.
        const AGAIN_MS: u64 = 60_000;
        let now = self.clock.now();
        let before = self.refusals.get(&node).map(|at| *at);
        let is_news = before.is_none_or(|at| now.since(at) >= AGAIN_MS * 1000);
        if is_news {
            self.refusals.insert(node, now);
        }
        is_news
    }

    /// Looks at the core.
    pub(crate) fn look<T>(&self, look: impl FnOnce(&mut Node) -> T) -> T {
        look(&mut self.lock())
    }

    /// Makes a session whose events go to an outbox.
    pub(crate) fn open_session(&self, outbox: &Arc<Outbox>) -> SessionId {
        let session = SessionId(self.next_session.fetch_add(1, Ordering::Relaxed));
        self.outboxes.insert(session, outbox.clone());
        session
    }

    /// Ends a session. Its application was last heard of then, or has closed its connection itself.
    pub(crate) fn close_session(&self, session: SessionId, heard: Option<Tick>) {
        self.input(Input::SessionClosed { session, heard });
        self.outboxes.remove(&session);
    }

    /// Tells all connections to close.
    pub(crate) fn close_all(&self, with: &CloseWith) {
        for outbox in &self.outboxes {
            outbox.push(Item::Close(with.clone()));
        }
    }

    /// Waits until apps here have heard of a desktop agent on another node, and returns their users: what
    /// such apps change in channels is told to FDC3 apps by an agent of this node.
    pub(crate) async fn agents_wanted(&self) -> BTreeSet<Text> {
        self.agents_wanted_changed.notified().await;
        std::mem::take(&mut *self.agents_wanted.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// Returns the trace that a call belongs to: the client's own, or a new one if this call is sampled.
    pub(crate) fn trace(&self, given: Option<Text>) -> Option<TraceContext> {
        if !self.telemetry.is_enabled() {
            return None;
        }
        if let Some(parent) = given.and_then(|text| traceparent::parse(text.as_bytes())) {
            return Some(TraceContext {
                trace_id: parent.trace_id,
                span_id: parent.span_id,
                sampled: parent.sampled(),
            });
        }
        let mut bytes = [0u8; 16];
        ring::rand::SecureRandom::fill(&ring::rand::SystemRandom::new(), &mut bytes).ok()?;
        let trace_id = u128::from_le_bytes(bytes).max(1);
        self.sampler.keeps(trace_id).then_some(TraceContext { trace_id, span_id: 0, sampled: true })
    }

    /// Runs the core's timers until the program ends.
    pub(crate) async fn run_timers(self: Arc<Self>) {
        /// How often the wall clock is looked at, so that a jump is noticed.
        const WALL_EVERY: Duration = Duration::from_secs(1);
        /// From which delay on the machine must have slept.
        const SLEPT_MS: u64 = 2_000;
        let mut wall_due = self.clock.now().plus_millis(1000);
        let mut dropped_before = 0;
        let rounds = watchdog::start(self.core_stall_ms_max);
        loop {
            let at = self.timer_at.load(Ordering::Relaxed).min(wall_due.0);
            let wait = Duration::from_micros(at.saturating_sub(self.clock.now().0)).min(WALL_EVERY);
            tokio::select! {
                () = tokio::time::sleep(wait) => {}
                () = self.timer_wake.notified() => continue,
            }
            if self.clock.now() >= wall_due {
                // A machine that sleeps stops the one clock; a process that is stopped misses its time by the other.
                let late_ms = self.clock.now().since(wall_due) / 1000;
                let moved_ms = self.clock.follow_wall();
                if late_ms > SLEPT_MS || moved_ms > SLEPT_MS.cast_signed() {
                    tracing::info!("this machine or process was asleep; links are checked");
                    self.disturbed();
                }
                wall_due = self.clock.now().plus_millis(1000);
                let dropped = self.dropped();
                if dropped != dropped_before {
                    let events = dropped - dropped_before;
                    tracing::warn!(
                        events,
                        "slow applications lost stream data (limits outbox_subscription_bytes_max and outbox_stream_bytes_max), or slow links (limit session_queues_bytes_max)"
                    );
                    dropped_before = dropped;
                }
            }
            let mut core = self.lock();
            core.handle_timeout(self.clock.read());
            self.carry_out(&mut core);
            drop(core);
            rounds.fetch_add(1, Ordering::Relaxed);
        }
    }

    fn carry_out(&self, core: &mut Node) -> Option<Arc<Outbox>> {
        let (mut crowded, mut not_taken) = (None, VecDeque::new());
        loop {
            self.carry_out_all(core, &mut crowded, &mut not_taken);
            let Some(input) = not_taken.pop_front() else { break };
            core.handle(input, self.clock.read());
        }
        let recognitions = core.recognitions_changed();
        if self.recognitions_seen.swap(recognitions, Ordering::Relaxed) != recognitions {
            self.recognitions_changed.notify_one();
        }
        let next = core.poll_timeout().map_or(u64::MAX, |tick| tick.0);
        let before = self.timer_at.swap(next, Ordering::Relaxed);
        if next < before {
            self.timer_wake.notify_one();
        }
        crowded
    }

    fn carry_out_all(
        &self,
        core: &mut Node,
        crowded: &mut Option<Arc<Outbox>>,
        not_taken: &mut VecDeque<Input>,
    ) {
        while let Some(output) = core.poll_output() {
            match output {
                Output::Event { session, event } => {
                    let Some(outbox) = self.outboxes.get(&session) else { continue };
                    if let Event::InstanceAdded { identity, local: false, .. } = &event
                        && fdc3_agent::is_desk(identity)
                        && let Some(user) = core.user_of(session)
                    {
                        self.agents_wanted.lock().unwrap_or_else(PoisonError::into_inner).insert(user);
                        self.agents_wanted_changed.notify_one();
                    }
                    let pushed = outbox.push(Item::Event(session, event));
                    if pushed.crowded && crowded.is_none() {
                        *crowded = Some(outbox.clone());
                    }
                    if pushed.dropped > 0 {
                        self.dropped.fetch_add(pushed.dropped, Ordering::Relaxed);
                    }
                    for (session, subscription) in pushed.too_slow {
                        tracing::warn!(
                            session = session.0,
                            subscription,
                            "subscription ended: its application reads too slowly (limit outbox_subscription_bytes_max)"
                        );
                        not_taken.push_back(Input::TooSlow { session, subscription });
                    }
                    if let Some((id, limit)) = pushed.not_taken {
                        not_taken.push_back(Input::NotTaken { session, id, limit });
                    }
                }
                Output::CloseSession { session, reason: CloseReason::TakenOver } => {
                    if let Some((_, outbox)) = self.outboxes.remove(&session) {
                        if outbox.serves_many {
                            outbox.push(Item::Ended(session));
                            continue;
                        }
                        let reason = "the same identity has logged in on another connection".to_owned();
                        outbox.push(Item::Close(CloseWith { code: 1008, reason }));
                    }
                }
                Output::Link { link, lane, message } => {
                    if let Some(input) = self.send(link, lane, message) {
                        not_taken.push_back(input);
                    }
                }
                Output::CloseLink { link, code, text } => {
                    if let Some(endpoint) = self.endpoint() {
                        endpoint.close(link, CloseCode(u32::from(code)), &text);
                    }
                }
                Output::NodeSeen { node, addresses } => {
                    self.addresses.insert(node, addresses);
                    self.topology_changed.notify_one();
                }
                Output::Hop(hop) => {
                    let span = SpanRecord::of_hop(&hop, |tick| self.wall_at_start_ns + tick.0 * 1000);
                    self.telemetry.export(span);
                }
                Output::Notice(Notice::LinkRefused { node, .. }) if !self.is_news(node) => {}
                Output::Notice(notice) => {
                    match notice {
                        Notice::NodeUp { .. } => self.topology_changed.notify_one(),
                        Notice::Superseded { .. } => {
                            self.superseded.notify_one();
                            // All others say so at once.
                            if self.is_superseded.swap(true, Ordering::Relaxed) {
                                continue;
                            }
                        }
                        _ => {}
                    }
                    log(&notice);
                }
            }
        }
    }

    /// Sends a message, and returns what the core has to hear of one that was not taken. What has only a share
    /// of the link's queues is not sent then, and the link stays; other nodes' messages are no reason to close
    /// a link of this one either.
    fn send(&self, link: LinkId, lane: Lane, message: LinkMessage) -> Option<Input> {
        let endpoint = self.endpoint()?;
        let share = share_of(lane, &message);
        let error = match endpoint.send_within(link, lane, mesh_wire::encode(&message), share) {
            Ok(()) | Err(SendError::Closed) => return None,
            Err(error) => error,
        };
        match (&error, message) {
            (_, LinkMessage::Relayed { node, channel, .. }) if lane != Lane::Control => {
                tracing::warn!(link = link.0, from = %node.short(), %error, "a message of another node was not passed on");
                Some(Input::NotRelayed { link, node, channel })
            }
            (SendError::Overloaded(full), message) if share < Share::ALL => {
                self.dropped.fetch_add(u64::from(is_data(&message)), Ordering::Relaxed);
                let limit = Text::from_static(queue_limit(*full));
                Some(Input::NotSent { link, message, limit })
            }
            _ => {
                // The message is lost, and calls must not wait for it: the link starts afresh, and over the next
                // one both sides ask what became of what was under way.
                tracing::warn!(link = link.0, %error, "link closed: it cannot take what is sent");
                endpoint.close(link, CloseCode::OVERLOADED, &error.to_string());
                None
            }
        }
    }

    fn lock(&self) -> MutexGuard<'_, Node> {
        // A panic under the lock is a defect that the tests look for; serving on is still better for the
        // applications than stopping.
        self.core.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl LinkEvents for Gateway {
    fn link_opened(&self, link: LinkId, peer: PeerIdentity, dialled: bool, remote: SocketAddr) {
        self.links.insert(link, (peer.node, remote));
        self.input(Input::LinkOpened { link, peer: LinkPeer { node: peer.node, dialled } });
    }

    fn link_frame(&self, link: LinkId, lane: Lane, frame: Bytes) {
        match mesh_wire::decode(&frame) {
            Ok(message) => {
                self.input(Input::Link { link, lane, message });
            }
            Err(error) if error.is_ignorable() => tracing::debug!(link = link.0, %error, "message ignored"),
            Err(error) => {
                tracing::warn!(link = link.0, %error, "link closed: bad frame");
                if let Some(endpoint) = self.endpoint() {
                    endpoint.close(link, CloseCode::BAD_STREAM, &error.to_string());
                }
            }
        }
    }

    fn link_drained(&self, link: LinkId) {
        self.input(Input::LinkDrained { link });
    }

    fn link_eased(&self, link: LinkId) {
        self.input(Input::LinkEased { link });
    }

    fn link_closed(&self, link: LinkId, reason: String) {
        self.input(Input::LinkClosed { link, reason: reason.into() });
        self.links.remove(&link);
        self.topology_changed.notify_one();
    }

    fn join_requested(&self, request: JoinRequest, exporter: Exporter) -> JoinAnswer {
        match mesh_identity::join::admit(
            &self.identity,
            &self.tokens,
            &request,
            &exporter,
            self.clock.wall_ms(),
        ) {
            Ok(answer) => {
                tracing::info!("a node has joined with a token");
                answer
            }
            Err(refusal) => {
                tracing::warn!(%refusal, "a node was not let in");
                refusal.answer()
            }
        }
    }
}

/// Returns how much of a link's queues a message may use. What is shed first has the least; what the other
/// side waits for has all, and a link that does not take that is closed.
fn share_of(lane: Lane, message: &LinkMessage) -> Share {
    match message {
        LinkMessage::Publish { .. } => Share(50),
        LinkMessage::BranchData { .. } | LinkMessage::PrivateData { .. } => Share(75),
        LinkMessage::Call { .. } => Share(90),
        LinkMessage::Relay { carried: Carried::Message(message), .. } => share_of(lane, message),
        // It is not read what that is; the ends of this node's own calls come first.
        LinkMessage::Relayed { .. } if lane != Lane::Control => Share(90),
        _ => Share::ALL,
    }
}

/// Returns whether a message is stream data or a publication.
fn is_data(message: &LinkMessage) -> bool {
    match message {
        LinkMessage::Publish { .. } | LinkMessage::BranchData { .. } | LinkMessage::PrivateData { .. } => {
            true
        }
        LinkMessage::Relay { carried: Carried::Message(message), .. } => is_data(message),
        _ => false,
    }
}

fn log(notice: &Notice) {
    match notice {
        Notice::NodeUp { node, name, by_way_of: None } => {
            tracing::info!(node = %node.short(), %name, "node is up");
        }
        Notice::NodeUp { node, name, by_way_of: Some(relay) } => {
            tracing::info!(node = %node.short(), %name, %relay, "node is up by way of another");
        }
        Notice::NodeDown { node, name, reason } => {
            tracing::warn!(node = %node.short(), %name, %reason, "node cannot be reached; its apps are withdrawn");
        }
        Notice::LinkSlow { node, name } => {
            tracing::warn!(node = %node.short(), %name, "the link takes less than streams push (limit session_queues_bytes_max); subscriptions wait for it");
        }
        Notice::NodeGone { node, name } => tracing::info!(node = %node.short(), %name, "node is gone"),
        Notice::LinkRefused { node, reason } => {
            tracing::warn!(node = %node.short(), %reason, "link refused");
        }
        Notice::Superseded { node } => {
            tracing::warn!(node = %node.short(), "that node knows a newer life of this one: its data directory or disk was copied, or set back");
        }
        Notice::Divergence { node, count } => {
            tracing::error!(node = %node.short(), count, "replicas differ though they cover the same writes; sent again");
        }
        Notice::BatchRefused { node, limit, why } => {
            tracing::error!(node = %node.short(), limit, %why, "what a node replicates was refused; its link is closed");
        }
        Notice::EntryRefused { node, why } => {
            tracing::warn!(node = %node.short(), %why, "an entry was refused")
        }
    }
}

#[cfg(test)]
mod tests {
    use mesh_model::{Arguments, CallId, Cause, Json};

    use super::*;

    #[test]
    fn a_link_sheds_in_the_stated_order() {
        let (id, data) = (CallId(1), Json::null());
        let publication = LinkMessage::Publish {
            user: None,
            service: false,
            restriction: None,
            topic: Text::default(),
            routing_key: None,
            target: None,
            publisher: data.clone(),
            data: data.clone(),
            after: 0,
        };
        let (sequence, snapshot, after) = (None, None, 0);
        let of_branch = LinkMessage::BranchData { branch: 1, data: data.clone(), sequence, snapshot, after };
        let call = LinkMessage::Call {
            id,
            subscribe: false,
            from: Text::default(),
            to: Text::default(),
            method: data,
            arguments: Arguments::default(),
            millis_left: 1,
            after,
            trace: None,
        };
        let end = LinkMessage::SubscriptionEnd { id, cause: Cause::TooSlow };
        let share_of = |message: &LinkMessage| share_of(Lane::Session(0), message);
        let shares = [&publication, &of_branch, &call, &end].map(share_of);
        assert!(shares.is_sorted_by(|a, b| a < b), "{shares:?}");
        for kept in [&end, &LinkMessage::Accepted { id }, &LinkMessage::Goaway { reason: Text::default() }] {
            assert_eq!(share_of(kept), Share::ALL);
        }
        assert_eq!([&publication, &of_branch, &call].map(is_data), [true, true, false]);

        let (node, channel, lane) = (NodeId([1; 16]), 1, Lane::Session(0));
        for message in [publication, of_branch, call, end] {
            let (share, data) = (share_of(&message), is_data(&message));
            let relay =
                LinkMessage::Relay { node, channel, lane, carried: Carried::Message(Box::new(message)) };
            assert_eq!((share_of(&relay), is_data(&relay)), (share, data), "by way of another node");
        }
        let passed_on = LinkMessage::Relayed { node, channel, carried: Carried::Frame(Bytes::new()) };
        assert!(share_of(&passed_on) < Share::ALL, "what ends this node's own calls comes first");
        assert_eq!(super::share_of(Lane::Control, &passed_on), Share::ALL);
    }
}
