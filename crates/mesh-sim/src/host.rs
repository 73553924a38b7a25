//! A host: its clocks, and the node that runs on it.

use std::collections::{BTreeMap, BTreeSet};

use mesh_core::visibility::Visibility;
use mesh_core::{Input, Node, NodeSettings, Output, Recognition, Timing};
use mesh_model::link::reject;
use mesh_model::{DomainId, Event, Incarnation, Limits, LinkId, NodeId, Now, SessionId, Text, Tick};

use crate::world::{Happening, Phase, World};

#[derive(Debug)]
pub(crate) struct Host {
    pub(crate) node: Option<Node>,
    /// Whose name and key it has; that of another host if it is a twin of it.
    pub(crate) machine: usize,
    /// How often a node was started on it.
    pub(crate) life: u64,
    pub(crate) disk: Disk,
    /// What was on the disk at earlier times.
    pub(crate) copies: Vec<Disk>,
    pub(crate) skew_ms: u64,
    /// How far its wall clock has jumped.
    pub(crate) jump_ms: u64,
    pub(crate) stalled_until: u64,
    pub(crate) timer: u64,
    /// Its ends of connections.
    pub(crate) links: BTreeMap<LinkId, (usize, usize)>,
}

/// What a node finds when it starts.
#[derive(Clone, Debug, Default)]
pub(crate) struct Disk {
    /// Its last life.
    pub(crate) incarnation: u64,
    /// Who was connected.
    pub(crate) sessions: Vec<Recognition>,
}

impl Host {
    pub(crate) fn new(machine: usize, skew_ms: u64) -> Self {
        Self {
            node: None,
            machine,
            life: 0,
            disk: Disk::default(),
            copies: Vec::new(),
            skew_ms,
            jump_ms: 0,
            stalled_until: 0,
            timer: 0,
            links: BTreeMap::new(),
        }
    }
}

/// More than any run has.
pub(crate) const ENTRIES_MAX: usize = 2_000;
pub(crate) const BYTES_MAX: usize = 1 << 20;
const WALL_MS: u64 = 1_700_000_000_000;

impl World {
    pub(crate) fn clock(&self, host: usize) -> Now {
        let at = &self.hosts[host];
        Now {
            tick: Tick(self.now + at.skew_ms * 7_000),
            wall_ms: WALL_MS + self.now / 1000 + at.skew_ms + at.jump_ms,
        }
    }

    pub(crate) fn node_id(&self, host: usize) -> NodeId {
        NodeId([0x10 + u8::try_from(self.hosts[host].machine).unwrap_or(0xff); 16])
    }

    /// Returns the newest life of a host's node, be it here or at its twin.
    pub(crate) fn newest(&self, host: usize) -> u64 {
        self.lives[self.hosts[host].machine].last().copied().unwrap_or(0)
    }

    pub(crate) fn is_superseded(&self, host: usize) -> bool {
        self.hosts[host].disk.incarnation < self.newest(host)
    }

    /// Returns the life that a node begins: newer than that on its disk, and never the same as one before,
    /// since a real one is the time of its start.
    fn next_life(&self, host: usize) -> u64 {
        let (newest, last) = (self.newest(host), self.hosts[host].disk.incarnation);
        // Far enough apart that lives of a node whose clock is behind find a place between them.
        let step = if self.options.old_disks || self.options.twins { 16 } else { 1 };
        let lives = &self.lives[self.hosts[host].machine];
        let between = || (last + 1..newest).find(|life| !lives.contains(life));
        if last < newest { between().unwrap_or(newest + step) } else { newest + step }
    }

    pub(crate) fn start(&mut self, host: usize) {
        let incarnation = self.next_life(host);
        let machine = self.hosts[host].machine;
        self.lives[machine].insert(incarnation);
        let at = &mut self.hosts[host];
        at.life += 1;
        at.stalled_until = 0;
        at.disk.incarnation = incarnation;
        let known = std::mem::take(&mut at.disk.sessions);
        let settings = NodeSettings {
            node: self.node_id(host),
            incarnation: Incarnation(incarnation),
            name: format!("host-{machine}").into(),
            addresses: vec![format!("10.0.0.{machine}:8386").into()],
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
                // Where a call that is not delivered is a fault, none is let through too early to be known.
                hold_ms: if self.options.late_link { 3_000 } else { Timing::default().hold_ms },
                ended_call_ms: 5_000,
                digest_ms: if self.options.tombstones { 1_000 } else { 2_000 },
                tombstone_ms: if self.options.tombstones { 3_000 } else { 3_600_000 },
                retire_ms: if self.options.tombstones { 4_000 } else { 86_400_000 },
                ..Timing::default()
            },
        };
        let now = self.clock(host);
        self.hosts[host].node = Some(Node::new(settings, now));
        self.drain(host);
        for session in known {
            self.input(host, Input::SessionRemembered(session));
        }
    }

    /// Keeps what a node would have on disk now, for a copy of it to return.
    pub(crate) fn copy_disks(&mut self) {
        for host in &mut self.hosts {
            if let Some(node) = &host.node {
                let sessions = node.recognitions();
                host.copies.push(Disk { incarnation: host.disk.incarnation, sessions });
            }
        }
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

    /// Returns whether an application is not given this since it reads too slowly, or was not given what
    /// came before it.
    fn too_slow(&mut self, session: SessionId, event: &Event, slow: &mut BTreeSet<(SessionId, u64)>) -> bool {
        let Event::StreamData { subscription, .. } = event else { return false };
        let reader = (session, *subscription);
        if slow.contains(&reader) {
            return true;
        }
        let now = self.options.slow_readers && self.phase == Phase::Active && self.rare.chance(3);
        now && slow.insert(reader)
    }

    pub(crate) fn drain(&mut self, host: usize) {
        let mut refused = Vec::new();
        let mut slow = BTreeSet::new();
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
                Output::Event { session, event } if self.too_slow(session, &event, &mut slow) => {}
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
                Output::CloseLink { link, code, .. } => {
                    if code == reject::SUPERSEDED {
                        self.superseded(link);
                    }
                    self.close_end(host, link);
                }
                Output::NodeSeen { .. } | Output::Hop(_) | Output::Notice(_) => {}
            }
        }
        let slow = slow.into_iter();
        refused.extend(slow.map(|(session, subscription)| Input::TooSlow { session, subscription }));
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
}
