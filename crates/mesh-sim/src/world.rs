//! The world: the queue of what happens when, and the course of a run.

use std::collections::{BTreeMap, BTreeSet};

use bytes::Bytes;
use mesh_core::Input;
use mesh_model::{Command, Event, Lane, SessionId};

use crate::app::{App, CallRecord};
use crate::connection::Conn;
use crate::host::Host;
use crate::options::{Options, Report};
use crate::rng::Rng;

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
pub(crate) enum Happening {
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
    Replace { host: usize, life: u64 },
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
    pub(crate) more: Rng,
    /// For those that came later still.
    pub(crate) rare: Rng,
    pub(crate) now: u64,
    count: u64,
    queue: BTreeMap<(u64, u64), Happening>,
    pub(crate) hosts: Vec<Host>,
    /// All lives that each node has had.
    pub(crate) lives: Vec<BTreeSet<u64>>,
    pub(crate) conns: Vec<Conn>,
    pub(crate) apps: Vec<App>,
    pub(crate) calls: Vec<CallRecord>,
    pub(crate) tokens: u64,
    pub(crate) phase: Phase,
    pub(crate) blocked: BTreeMap<(usize, usize), u64>,
    pub(crate) trace: u64,
    pub(crate) faults: u64,
    pub(crate) frames: u64,
    pub(crate) ok: u64,
    pub(crate) lost: [u64; 2],
    pub(crate) received: [u64; 3],
    pub(crate) violations: Vec<String>,
    pub(crate) aside: Vec<(SessionId, Event)>,
}

impl World {
    fn new(options: Options) -> Self {
        let mut rng = Rng::new(options.seed);
        let hosts = (0..options.nodes).map(|machine| Host::new(machine, rng.range(0, 20_000))).collect();
        let lives = vec![BTreeSet::new(); options.nodes];
        Self {
            more: Rng::new(options.seed ^ 0x0dd5),
            rare: Rng::new(options.seed ^ 0x71e5),
            options,
            rng,
            now: 1_000_000,
            count: 0,
            queue: BTreeMap::new(),
            hosts,
            lives,
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
        self.end_twins();
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

    pub(crate) fn after(&mut self, micros: u64, happening: Happening) {
        self.at(self.now + micros, happening);
    }

    pub(crate) fn at(&mut self, time: u64, happening: Happening) {
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

    pub(crate) fn mix_bytes(&mut self, bytes: &[u8]) {
        for chunk in bytes.chunks(8) {
            let mut word = [0u8; 8];
            word[..chunk.len()].copy_from_slice(chunk);
            self.mix(u64::from_le_bytes(word));
        }
        self.mix(self.now);
    }

    /// A stopped host does nothing until it goes on; what came meanwhile is then there in its order.
    pub(crate) fn stalled(&self, host: usize) -> Option<u64> {
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
            Happening::Replace { host, life } => {
                if self.hosts[host].life == life {
                    self.replace(host);
                }
            }
            Happening::Restart { host } => {
                if self.hosts[host].node.is_none() {
                    self.start(host);
                }
            }
        }
    }
}
