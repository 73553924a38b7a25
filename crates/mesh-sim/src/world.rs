//! The world: hosts, links, the queue of what happens when, and the faults.

use std::collections::{BTreeMap, BTreeSet};

use bytes::Bytes;
use mesh_core::visibility::Visibility;
use mesh_core::{Input, Node, NodeSettings, Output, Timing};
use mesh_model::{
    Command, DomainId, Event, Incarnation, Lane, Limits, LinkId, LinkPeer, NodeId, Now, SessionId, Text, Tick,
};

use crate::app::{App, CallRecord};
use crate::rng::Rng;

/// What one run is like. Made from a seed by [`Options::of`]; the same options give the same run.
#[derive(Clone, Debug)]
pub struct Options {
    /// Where all chance comes from.
    pub seed: u64,
    /// How many nodes.
    pub nodes: usize,
    /// How many applications may run at once on each.
    pub apps: usize,
    /// How long applications act, in virtual milliseconds.
    pub active_ms: u64,
    /// Whether links are cut, and dials fail for a while.
    pub cuts: bool,
    /// Whether nodes crash, lose their state, and start anew.
    pub crashes: bool,
    /// Whether nodes stop for a while.
    pub stalls: bool,
    /// Whether both ends dial.
    pub double_dials: bool,
    /// Whether two of three or more nodes never have a link.
    pub missing_link: bool,
    /// Whether nodes relay for each other.
    pub relay: bool,
    /// Whether tombstones are dropped while the run lasts.
    pub tombstones: bool,
    /// Whether wall clocks jump, forward and back, by up to 30 s.
    pub clocks: bool,
    /// Whether connections stop carrying in one of their directions.
    pub one_way: bool,
    /// Whether nodes crash while they send or receive a batch.
    pub batch_crashes: bool,
    /// Whether there are many more faults, of all kinds that the run has.
    pub storm: bool,
    /// Whether nodes leave on purpose, and start anew.
    pub leaves: bool,
    /// Whether applications at times do not take what they are asked to run.
    pub overloads: bool,
}

impl Options {
    /// Makes the options of a seed.
    #[must_use]
    pub fn of(seed: u64) -> Self {
        let mut rng = Rng::new(seed ^ 0x5eed);
        let faults = rng.chance(75);
        let mut more = Rng::new(seed ^ 0xfa17);
        let relay = Rng::new(seed ^ 0x4e1a).chance(80);
        let nodes = 2 + usize::from(rng.chance(60)) + usize::from(rng.chance(30));
        Self {
            seed,
            nodes,
            apps: if rng.chance(50) { 2 } else { 3 },
            active_ms: rng.range(3_000, 14_000),
            cuts: faults && rng.chance(75),
            crashes: faults && rng.chance(35),
            stalls: faults && rng.chance(35),
            double_dials: rng.chance(50),
            missing_link: nodes > 2 && rng.chance(15),
            relay,
            tombstones: rng.chance(40),
            clocks: faults && more.chance(25),
            one_way: faults && more.chance(25),
            batch_crashes: faults && more.chance(10),
            storm: faults && more.chance(15),
            leaves: faults && more.chance(10),
            overloads: more.chance(15),
        }
    }

    /// Turns one option on or off, by the name of its field; returns whether there is one of that name.
    pub fn switch(&mut self, name: &str, on: bool) -> bool {
        let switch = match name {
            "cuts" => &mut self.cuts,
            "crashes" => &mut self.crashes,
            "stalls" => &mut self.stalls,
            "double_dials" => &mut self.double_dials,
            "missing_link" => {
                self.nodes = if on { self.nodes.max(3) } else { self.nodes };
                &mut self.missing_link
            }
            "relay" => &mut self.relay,
            "tombstones" => &mut self.tombstones,
            "clocks" => &mut self.clocks,
            "one_way" => &mut self.one_way,
            "batch_crashes" => &mut self.batch_crashes,
            "storm" => &mut self.storm,
            "leaves" => &mut self.leaves,
            "overloads" => &mut self.overloads,
            _ => return false,
        };
        *switch = on;
        true
    }

    pub(crate) const fn faultless(&self) -> bool {
        !(self.cuts
            || self.crashes
            || self.stalls
            || self.double_dials
            || self.one_way
            || self.batch_crashes
            || self.leaves)
    }
}

/// What a run gave.
#[derive(Clone, Debug)]
pub struct Report {
    /// What was played.
    pub options: Options,
    /// A hash of all that happened, in order.
    pub trace: u64,
    /// What was wrong; empty when all held.
    pub violations: Vec<String>,
    /// Faults that were injected.
    pub faults: u64,
    /// Frames delivered between nodes.
    pub frames: u64,
    /// Calls made, and how many of them were answered with a result.
    pub calls: (u64, u64),
    /// How many of them certainly never came to their callee, and how many may have.
    pub lost: [u64; 2],
    /// Stream data, context changes and publications that applications got.
    pub received: [u64; 3],
}

/// Plays one run.
#[must_use]
pub fn run(options: &Options) -> Report {
    let mut world = World::new(options.clone());
    world.play();
    Report {
        options: options.clone(),
        trace: world.trace,
        faults: world.faults,
        frames: world.frames,
        calls: (world.calls.len() as u64, world.ok),
        lost: world.lost,
        received: world.received,
        violations: world.violations,
    }
}

#[derive(Debug)]
pub(crate) struct Host {
    pub(crate) node: Option<Node>,
    pub(crate) life: u64,
    skew_ms: u64,
    /// How far its wall clock has jumped.
    jump_ms: u64,
    stalled_until: u64,
    timer: u64,
    /// Its ends of connections.
    links: BTreeMap<LinkId, (usize, usize)>,
}

#[derive(Debug)]
pub(crate) struct Conn {
    pub(crate) host: [usize; 2],
    life: [u64; 2],
    link: [LinkId; 2],
    pub(crate) open: [bool; 2],
    /// Nothing gets through any more.
    cut: bool,
    /// The end that nothing reaches any more, while the other hears it.
    deaf: Option<usize>,
    last: BTreeMap<(usize, Lane), u64>,
}

#[derive(Debug)]
enum Happening {
    Frame { conn: usize, to: usize, lane: Lane, frame: Bytes },
    Opened { conn: usize, end: usize },
    Closed { conn: usize, end: usize },
    Drained { conn: usize, end: usize },
    Timer { host: usize },
    Dial { from: usize, to: usize },
    Command { app: usize, command: Box<Command> },
    Event { app: usize, event: Box<Event> },
    Gone { app: usize },
    Act { app: usize },
    Spawn { host: usize },
    Fault,
    Look,
    Restart { host: usize },
    Exit { host: usize, life: u64 },
}

/// What applications do at present.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Phase {
    /// As they please.
    Active,
    /// They answer what they are asked, and nothing else.
    Quiet,
}

#[derive(Debug)]
pub(crate) struct World {
    pub(crate) options: Options,
    pub(crate) rng: Rng,
    /// For the faults that came later, so that a seed without them is the run it was.
    more: Rng,
    pub(crate) now: u64,
    count: u64,
    queue: BTreeMap<(u64, u64), Happening>,
    pub(crate) hosts: Vec<Host>,
    pub(crate) conns: Vec<Conn>,
    pub(crate) apps: Vec<App>,
    pub(crate) calls: Vec<CallRecord>,
    pub(crate) tokens: u64,
    pub(crate) phase: Phase,
    blocked: BTreeMap<(usize, usize), u64>,
    pub(crate) trace: u64,
    faults: u64,
    frames: u64,
    pub(crate) ok: u64,
    pub(crate) lost: [u64; 2],
    pub(crate) received: [u64; 3],
    pub(crate) violations: Vec<String>,
    pub(crate) crashed: BTreeSet<usize>,
    aside: Vec<(SessionId, Event)>,
}

/// More than any run has.
const ENTRIES_MAX: usize = 2_000;
const BYTES_MAX: usize = 1 << 20;
const WALL_MS: u64 = 1_700_000_000_000;

impl World {
    fn new(options: Options) -> Self {
        let mut rng = Rng::new(options.seed);
        let hosts = (0..options.nodes)
            .map(|_| Host {
                node: None,
                life: 0,
                skew_ms: rng.range(0, 20_000),
                jump_ms: 0,
                stalled_until: 0,
                timer: 0,
                links: BTreeMap::new(),
            })
            .collect();
        Self {
            more: Rng::new(options.seed ^ 0x0dd5),
            options,
            rng,
            now: 1_000_000,
            count: 0,
            queue: BTreeMap::new(),
            hosts,
            conns: Vec::new(),
            apps: Vec::new(),
            calls: Vec::new(),
            tokens: 0,
            phase: Phase::Active,
            blocked: BTreeMap::new(),
            trace: 0,
            faults: 0,
            frames: 0,
            ok: 0,
            lost: [0; 2],
            received: [0; 3],
            violations: Vec::new(),
            crashed: BTreeSet::new(),
            aside: Vec::new(),
        }
    }

    fn play(&mut self) {
        for host in 0..self.options.nodes {
            self.start(host);
            for _ in 0..self.options.apps {
                let wait = self.rng.range(0, 1_000_000);
                self.after(wait, Happening::Spawn { host });
            }
            for to in 0..self.options.nodes {
                if host < to || (self.options.double_dials && host != to) {
                    let wait = self.rng.range(0, 300_000);
                    self.after(wait, Happening::Dial { from: host, to });
                }
            }
        }
        self.after(1_500_000, Happening::Fault);
        self.after(1_000_000, Happening::Look);
        let end = self.now + self.options.active_ms * 1000;
        self.advance(end);
        // Heal: what is down comes back, and everything has time to settle.
        self.phase = Phase::Quiet;
        self.blocked.clear();
        for host in 0..self.options.nodes {
            if self.hosts[host].node.is_none() {
                self.start(host);
            }
        }
        self.advance(self.now + 16_000_000);
        self.check_quiet();
        self.check_alive();
        for app in 0..self.apps.len() {
            self.close_app(app);
        }
        self.advance(self.now + 12_000_000);
        self.check_empty();
    }

    pub(crate) fn advance(&mut self, until: u64) {
        while self.violations.is_empty() {
            let Some(entry) = self.queue.first_entry() else { break };
            if entry.key().0 > until {
                break;
            }
            let ((at, _), happening) = entry.remove_entry();
            self.now = self.now.max(at);
            self.happen(happening);
        }
        self.now = self.now.max(until);
    }

    fn after(&mut self, micros: u64, happening: Happening) {
        self.at(self.now + micros, happening);
    }

    fn at(&mut self, time: u64, happening: Happening) {
        self.count += 1;
        self.queue.insert((time, self.count), happening);
    }

    pub(crate) fn violate(&mut self, what: String) {
        self.violations.push(format!("at {} ms: {what}", self.now / 1000));
    }

    pub(crate) const fn mix(&mut self, word: u64) {
        self.trace = (self.trace ^ word).wrapping_mul(0x9fb2_1c65_1e98_df25);
        self.trace ^= self.trace >> 29;
    }

    fn mix_bytes(&mut self, bytes: &[u8]) {
        for chunk in bytes.chunks(8) {
            let mut word = [0u8; 8];
            word[..chunk.len()].copy_from_slice(chunk);
            self.mix(u64::from_le_bytes(word));
        }
        self.mix(self.now);
    }

    /// A stopped host does nothing until it goes on; what came meanwhile is then there in its order.
    fn stalled(&self, host: usize) -> Option<u64> {
        Some(self.hosts[host].stalled_until).filter(|until| *until > self.now)
    }

    fn happen(&mut self, happening: Happening) {
        let host = match &happening {
            Happening::Frame { conn, to: end, .. }
            | Happening::Closed { conn, end }
            | Happening::Opened { conn, end }
            | Happening::Drained { conn, end } => Some(self.conns[*conn].host[*end]),
            Happening::Timer { host } => Some(*host),
            Happening::Command { app, .. } | Happening::Gone { app } => Some(self.apps[*app].host),
            _ => None,
        };
        if let Some(until) = host.and_then(|host| self.stalled(host)) {
            return self.at(until, happening);
        }
        match happening {
            Happening::Frame { conn, to, lane, frame } => self.deliver(conn, to, lane, &frame),
            Happening::Opened { conn, end } => self.opened(conn, end),
            Happening::Closed { conn, end } => self.closed(conn, end),
            Happening::Drained { conn, end } => {
                if self.live(conn, end) {
                    let link = self.conns[conn].link[end];
                    self.input(self.conns[conn].host[end], Input::LinkDrained { link });
                }
            }
            Happening::Timer { host } => {
                if self.hosts[host].timer <= self.now {
                    self.hosts[host].timer = u64::MAX;
                    let now = self.clock(host);
                    if let Some(node) = &mut self.hosts[host].node {
                        node.handle_timeout(now);
                        self.drain(host);
                    }
                }
            }
            Happening::Dial { from, to } => self.dial(from, to),
            Happening::Command { app, command } => {
                let (host, session) = (self.apps[app].host, self.apps[app].session);
                if self.apps[app].life == self.hosts[host].life && !self.apps[app].closed {
                    self.input(host, Input::Session { session, command: *command });
                }
            }
            Happening::Gone { app } => {
                let (host, session) = (self.apps[app].host, self.apps[app].session);
                if self.apps[app].life == self.hosts[host].life && !self.apps[app].closed {
                    self.apps[app].closed = true;
                    self.input(host, Input::SessionClosed { session, heard: Some(self.clock(host).tick) });
                }
            }
            Happening::Event { app, event } => {
                if self.apps[app].alive {
                    self.mix_bytes(format!("{event:?}").as_bytes());
                    self.app_event(app, *event);
                }
            }
            Happening::Act { app } => {
                if self.apps[app].alive {
                    self.act(app);
                    let wait = self.rng.range(3_000, 150_000);
                    self.after(wait, Happening::Act { app });
                }
            }
            Happening::Spawn { host } => self.spawn(host),
            Happening::Fault => self.fault(),
            Happening::Look => {
                self.look();
                self.after(1_000_000, Happening::Look);
            }
            Happening::Exit { host, life } => {
                if self.hosts[host].life == life {
                    self.crash(host);
                }
            }
            Happening::Restart { host } => {
                if self.hosts[host].node.is_none() {
                    self.start(host);
                }
            }
        }
    }

    // --- Hosts.

    fn clock(&self, host: usize) -> Now {
        let at = &self.hosts[host];
        Now {
            tick: Tick(self.now + at.skew_ms * 7_000),
            wall_ms: WALL_MS + self.now / 1000 + at.skew_ms + at.jump_ms,
        }
    }

    pub(crate) fn node_id(host: usize) -> NodeId {
        NodeId([0x10 + u8::try_from(host).unwrap_or(0xff); 16])
    }

    fn start(&mut self, host: usize) {
        self.hosts[host].life += 1;
        self.hosts[host].stalled_until = 0;
        let settings = NodeSettings {
            node: Self::node_id(host),
            incarnation: Incarnation(self.hosts[host].life),
            name: format!("host-{host}").into(),
            addresses: vec![format!("10.0.0.{host}:8386").into()],
            domain: DomainId([1; 16]),
            id_secret: u128::from(self.rng.next()) << 64 | u128::from(self.rng.next()),
            visibility: Visibility::default(),
            relay: self.options.relay,
            slow_rules: Vec::new(),
            limits: Limits {
                call_ms_max: 5_000,
                domain_entries_max: ENTRIES_MAX,
                domain_bytes_max: BYTES_MAX,
                // Skew and jump of the one that is furthest ahead.
                clock_skew_ms_max: 60_000,
                ..Limits::default()
            },
            timing: Timing {
                gone_ms: 5_000,
                ended_call_ms: 5_000,
                digest_ms: if self.options.tombstones { 1_000 } else { 2_000 },
                tombstone_ms: if self.options.tombstones { 3_000 } else { 3_600_000 },
                ..Timing::default()
            },
        };
        let now = self.clock(host);
        self.hosts[host].node = Some(Node::new(settings, now));
        self.drain(host);
    }

    pub(crate) fn input(&mut self, host: usize, input: Input) {
        let now = self.clock(host);
        if let Some(node) = &mut self.hosts[host].node {
            node.handle(input, now);
            self.drain(host);
        }
    }

    /// As `input`, but the events of some sessions are returned.
    pub(crate) fn input_aside(
        &mut self,
        host: usize,
        input: Input,
        aside: impl Fn(SessionId) -> bool,
    ) -> Vec<Event> {
        self.input(host, input);
        let (mine, rest) =
            std::mem::take(&mut self.aside).into_iter().partition(|(session, _)| aside(*session));
        self.aside = rest;
        let mine: Vec<(SessionId, Event)> = mine;
        mine.into_iter().map(|(_, event)| event).collect()
    }

    /// Returns whether the outbox of a session has no room for this.
    fn too_much(&mut self, event: &Event) -> bool {
        self.options.overloads
            && self.phase == Phase::Active
            && matches!(event, Event::Invoke { .. } | Event::SubscriptionRequested { .. })
            && self.more.chance(5)
    }

    fn drain(&mut self, host: usize) {
        let mut refused = Vec::new();
        loop {
            let Some(output) = self.hosts[host].node.as_mut().and_then(Node::poll_output) else { break };
            match output {
                Output::Event { session, event } if session.0 > self.apps.len() as u64 => {
                    self.aside.push((session, event));
                }
                Output::Event { session, event } if self.too_much(&event) => {
                    if let Event::Invoke { invocation: id, .. }
                    | Event::SubscriptionRequested { subscription: id, .. } = event
                    {
                        let limit = Text::from_static("session_outbox_bytes_max");
                        refused.push(Input::NotTaken { session, id, limit });
                    }
                }
                Output::Event { session, event } => {
                    let app = usize::try_from(session.0).unwrap_or(0) - 1;
                    let delay = self.rng.range(10, 4_000);
                    let at = (self.now + delay).max(self.apps[app].down);
                    self.apps[app].down = at;
                    self.at(at, Happening::Event { app, event: Box::new(event) });
                }
                Output::CloseSession { session, .. } => {
                    let app = usize::try_from(session.0).unwrap_or(0) - 1;
                    self.apps[app].closed = true;
                    self.apps[app].alive = false;
                }
                Output::Link { link, lane, message } => self.send(host, link, lane, &message),
                Output::CloseLink { link, .. } => self.close_end(host, link),
                Output::NodeSeen { .. } | Output::Hop(_) | Output::Notice(_) => {}
            }
        }
        for input in refused {
            self.faults += 1;
            self.input(host, input);
        }
        let offset = self.hosts[host].skew_ms * 7_000;
        if let Some(due) = self.hosts[host].node.as_ref().and_then(Node::poll_timeout) {
            let due = due.0.saturating_sub(offset).max(self.now + 1_000);
            if self.hosts[host].timer <= self.now || due < self.hosts[host].timer {
                self.hosts[host].timer = due;
                self.at(due, Happening::Timer { host });
            }
        }
    }

    // --- Links.

    fn live(&self, conn: usize, end: usize) -> bool {
        let known = &self.conns[conn];
        let host = known.host[end];
        known.open[end] && self.hosts[host].node.is_some() && self.hosts[host].life == known.life[end]
    }

    fn send(&mut self, host: usize, link: LinkId, lane: Lane, message: &mesh_model::LinkMessage) {
        let Some((conn, end)) = self.hosts[host].links.get(&link).copied() else { return };
        let frame = mesh_wire::encode(message);
        let delay = match self.rng.range(0, 99) {
            0..=1 => self.rng.range(20_000, 400_000),
            2..=9 => self.rng.range(3_000, 20_000),
            _ => self.rng.range(100, 3_000),
        };
        if lane == Lane::Replication {
            let wait = self.rng.range(50, 20_000);
            self.after(wait, Happening::Drained { conn, end });
        }
        let mut at = self.now + delay;
        if lane != Lane::Bulk {
            let last = self.conns[conn].last.entry((end, lane)).or_insert(0);
            at = at.max(*last + 2);
            *last = at;
        }
        self.at(at & !1, Happening::Frame { conn, to: 1 - end, lane, frame });
    }

    fn deliver(&mut self, conn: usize, to: usize, lane: Lane, frame: &Bytes) {
        if self.conns[conn].cut || self.conns[conn].deaf == Some(to) || !self.live(conn, to) {
            return;
        }
        if self.options.batch_crashes
            && self.phase == Phase::Active
            && lane == Lane::Replication
            && self.more.chance(1)
        {
            // The sender is gone with what it had not sent yet, or the receiver with what it had not taken.
            let end = if self.more.chance(50) { to } else { 1 - to };
            // Nothing comes after a frame that was lost, though the sender may have closed this link before.
            self.conns[conn].cut = true;
            return self.crash(self.conns[conn].host[end]);
        }
        self.frames += 1;
        self.mix_bytes(frame);
        match mesh_wire::decode(frame) {
            Ok(message) => {
                let link = self.conns[conn].link[to];
                self.input(self.conns[conn].host[to], Input::Link { link, message });
            }
            Err(error) => self.violate(format!("a frame of a node was not understood: {error}")),
        }
    }

    fn pair(a: usize, b: usize) -> (usize, usize) {
        (a.min(b), a.max(b))
    }

    fn dial(&mut self, from: usize, to: usize) {
        let wait = self.rng.range(100_000, 900_000);
        self.after(wait, Happening::Dial { from, to });
        if self.options.missing_link && Self::pair(from, to) == (0, 1) {
            return;
        }
        let blocked = self.blocked.get(&Self::pair(from, to)).is_some_and(|until| *until > self.now);
        let up =
            [from, to].iter().all(|host| self.hosts[*host].node.is_some() && self.stalled(*host).is_none());
        let again = self.phase == Phase::Active && self.options.double_dials && self.rng.chance(3);
        if blocked || !up || (self.linked(from, to) && !again) {
            return;
        }
        let conn = self.conns.len();
        let link = [0, 1].map(|end| LinkId(conn as u64 * 2 + end + 1));
        self.conns.push(Conn {
            host: [from, to],
            life: [self.hosts[from].life, self.hosts[to].life],
            link,
            open: [true, true],
            cut: false,
            deaf: None,
            last: BTreeMap::new(),
        });
        self.hosts[from].links.insert(link[0], (conn, 0));
        self.hosts[to].links.insert(link[1], (conn, 1));
        let wait = self.rng.range(200, 20_000);
        self.after(wait, Happening::Opened { conn, end: 1 });
        let more = self.rng.range(200, 20_000);
        self.after(wait + more, Happening::Opened { conn, end: 0 });
    }

    /// Returns whether `from` believes that it has a connection to `to`.
    pub(crate) fn linked(&self, from: usize, to: usize) -> bool {
        self.hosts[from]
            .links
            .values()
            .any(|(conn, end)| self.conns[*conn].host[1 - end] == to && self.live(*conn, *end))
    }

    fn opened(&mut self, conn: usize, end: usize) {
        if !self.live(conn, end) {
            return;
        }
        let known = &self.conns[conn];
        let peer = LinkPeer { node: Self::node_id(known.host[1 - end]), dialled: end == 0 };
        let link = known.link[end];
        self.input(known.host[end], Input::LinkOpened { link, peer });
    }

    /// The other end of a connection is gone, and the transport says so.
    fn closed(&mut self, conn: usize, end: usize) {
        if self.live(conn, end) && self.conns[conn].deaf != Some(end) {
            self.conns[conn].open[end] = false;
            let (host, link) = (self.conns[conn].host[end], self.conns[conn].link[end]);
            self.hosts[host].links.remove(&link);
            self.input(
                host,
                Input::LinkClosed { link, reason: Text::from_static("closed by the other end") },
            );
        }
    }

    fn close_end(&mut self, host: usize, link: LinkId) {
        let Some((conn, end)) = self.hosts[host].links.remove(&link) else { return };
        self.conns[conn].open[end] = false;
        if !self.conns[conn].cut {
            // What is on its way may be lost with the close, or arrive before it.
            self.conns[conn].cut = self.rng.chance(40);
            let wait = self.rng.range(200, 50_000);
            self.after(wait, Happening::Closed { conn, end: 1 - end });
        }
    }

    fn cut(&mut self, conn: usize) {
        self.conns[conn].cut = true;
        for end in [0, 1] {
            if self.rng.chance(60) {
                let wait = self.rng.range(100, 2_500_000);
                self.after(wait, Happening::Closed { conn, end });
            }
        }
    }

    // --- Faults.

    fn fault(&mut self) {
        if self.phase == Phase::Quiet {
            return;
        }
        let wait = self.rng.range(100_000, 3_000_000) / if self.options.storm { 12 } else { 1 };
        self.after(wait, Happening::Fault);
        self.later_fault();
        let host = usize::try_from(self.rng.range(0, self.options.nodes as u64 - 1)).unwrap_or(0);
        match self.rng.range(0, 9) {
            0..=5 if self.options.cuts => {
                let open: Vec<usize> =
                    (0..self.conns.len()).filter(|c| !self.conns[*c].cut && self.conns[*c].open[0]).collect();
                if let Some(conn) = self.rng.pick(&open).copied() {
                    self.faults += 1;
                    let [a, b] = self.conns[conn].host;
                    self.cut(conn);
                    if self.rng.chance(50) {
                        let long = self.rng.range(100_000, 9_000_000);
                        self.blocked.insert(Self::pair(a, b), self.now + long);
                    }
                }
            }
            6 | 7 if self.options.crashes => self.crash(host),
            // Not twice at once: what waits for the end of the first must keep its place.
            8 | 9 if self.options.stalls && self.stalled(host).is_none() => {
                self.faults += 1;
                let long = self.rng.range(50_000, 4_000_000);
                self.hosts[host].stalled_until = (self.now + long) | 1;
            }
            _ => {}
        }
    }

    fn later_fault(&mut self) {
        let host = usize::try_from(self.more.range(0, self.options.nodes as u64 - 1)).unwrap_or(0);
        if self.options.clocks && self.more.chance(30) {
            self.faults += 1;
            self.hosts[host].jump_ms = self.more.range(0, 30_000);
        }
        if self.options.leaves && self.more.chance(10) && self.hosts[host].node.is_some() {
            self.input(host, Input::Leave);
            // Long enough for the word to be out.
            let (wait, life) = (self.more.range(1_000, 50_000), self.hosts[host].life);
            self.after(wait, Happening::Exit { host, life });
        }
        if self.options.one_way && self.more.chance(30) {
            let open: Vec<usize> = (0..self.conns.len())
                .filter(|conn| {
                    let conn = &self.conns[*conn];
                    !conn.cut && conn.deaf.is_none() && conn.open == [true, true]
                })
                .collect();
            let end = usize::from(self.more.chance(50));
            if let Some(conn) = self.more.pick(&open).copied() {
                self.faults += 1;
                self.conns[conn].deaf = Some(end);
            }
        }
    }

    /// What must hold at any time.
    fn look(&mut self) {
        for host in 0..self.hosts.len() {
            let Some(status) = self.hosts[host].node.as_ref().map(Node::status) else { continue };
            if status.divergences > 0 {
                self.violate(format!("node {host} saw equal vectors with unequal states"));
            }
            if status.entries > ENTRIES_MAX || status.entry_bytes > BYTES_MAX {
                self.violate(format!(
                    "node {host} holds {} entries, {} bytes",
                    status.entries, status.entry_bytes
                ));
            }
        }
    }

    fn crash(&mut self, host: usize) {
        if self.hosts[host].node.take().is_none() {
            return;
        }
        self.faults += 1;
        self.crashed.insert(host);
        let links: Vec<(usize, usize)> = std::mem::take(&mut self.hosts[host].links).into_values().collect();
        for (conn, end) in links {
            self.conns[conn].open[end] = false;
            self.conns[conn].cut = true;
            if self.rng.chance(60) {
                let wait = self.rng.range(100, 2_500_000);
                self.after(wait, Happening::Closed { conn, end: 1 - end });
            }
        }
        for app in &mut self.apps {
            if app.host == host {
                app.alive = false;
                app.closed = true;
            }
        }
        let wait = self.rng.range(50_000, 9_000_000);
        self.after(wait, Happening::Restart { host });
        for _ in 0..self.options.apps {
            let more = self.rng.range(1_000, 2_000_000);
            self.after(wait + more, Happening::Spawn { host });
        }
    }

    // --- Applications.

    fn spawn(&mut self, host: usize) {
        if self.hosts[host].node.is_none() || self.phase == Phase::Quiet {
            return;
        }
        let app = self.apps.len();
        let user = if self.rng.chance(70) { "ann" } else { "bob" };
        self.apps.push(App::new(host, self.hosts[host].life, SessionId(app as u64 + 1), user));
        self.begin(app);
        self.after(5_000, Happening::Act { app });
    }

    /// Sends a command from an application to its node.
    pub(crate) fn command(&mut self, app: usize, command: Command) {
        let delay = self.rng.range(10, 4_000);
        let at = (self.now + delay).max(self.apps[app].up);
        self.apps[app].up = at;
        self.at(at, Happening::Command { app, command: Box::new(command) });
    }

    /// An application ends without a word.
    pub(crate) fn close_app(&mut self, app: usize) {
        if self.apps[app].alive {
            self.apps[app].alive = false;
            let at = (self.now + 100).max(self.apps[app].up);
            self.at(at, Happening::Gone { app });
            if self.phase == Phase::Active {
                let (host, wait) = (self.apps[app].host, self.rng.range(10_000, 1_000_000));
                self.after(wait, Happening::Spawn { host });
            }
        }
    }
}
