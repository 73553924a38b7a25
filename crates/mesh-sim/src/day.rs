//! A long day: many users with two machines each, from logon to the next morning.
//!
//! Every user is a domain of their own, so that a day of many users is many small meshes. What they do
//! follows the clock: a wave of logons, work, laptops that sleep over lunch, wireless links that flap, an
//! outage of a region's network, logoff, and the next logon.

use mesh_core::Timing;
use mesh_model::{Event, Limits, Text};

use crate::mesh::{App, Mesh, Plan};

/// Apps on each machine.
const APPS: usize = 3;
const MINUTE_MS: u64 = 60_000;
const HOUR_MS: u64 = 60 * MINUTE_MS;
/// Users whose network is out for ten minutes at the seventh hour: one of this many.
const REGIONS: u64 = 5;

/// One user's two machines, and their day.
#[derive(Debug)]
pub struct Day {
    mesh: Mesh,
    apps: Vec<App>,
    /// The instances of the apps.
    servers: Vec<Text>,
    user: u64,
    /// When logon and logoff are, and the time at the laptop's lunch.
    logon_ms: u64,
    logoff_ms: u64,
    lunch_ms: (u64, u64),
    /// Whether it is one whose second machine is on a wireless network that flaps.
    wireless: bool,
    at_ms: u64,
    made: Made,
    violations: Vec<String>,
}

/// What came of a day, or of several.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Made {
    /// Frames between nodes.
    pub frames: u64,
    /// Calls, and how many of them were answered.
    pub calls: (u64, u64),
    /// Context updates, and changes that apps were told of.
    pub updates: (u64, u64),
    /// Times that two nodes with equal vectors differed.
    pub divergences: u64,
    /// Times that a node was withdrawn after silence.
    pub silences: u64,
    /// A hash over all frames.
    pub trace: u64,
}

impl Made {
    /// Adds another.
    #[must_use]
    pub const fn and(self, other: Self) -> Self {
        Self {
            frames: self.frames + other.frames,
            calls: (self.calls.0 + other.calls.0, self.calls.1 + other.calls.1),
            updates: (self.updates.0 + other.updates.0, self.updates.1 + other.updates.1),
            divergences: self.divergences + other.divergences,
            silences: self.silences + other.silences,
            // Whatever the order in which they are added.
            trace: self.trace.wrapping_add(other.trace),
        }
    }
}

/// What the nodes of a user hold.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Held {
    /// Replicated entries, tombstones among them.
    pub entries: u64,
    /// Their bytes.
    pub bytes: u64,
    /// The bytes of all that the nodes know, written out.
    pub written: u64,
}

impl Held {
    /// Adds another.
    #[must_use]
    pub const fn and(self, other: Self) -> Self {
        Self {
            entries: self.entries + other.entries,
            bytes: self.bytes + other.bytes,
            written: self.written + other.written,
        }
    }
}

impl Day {
    /// Makes the day of a user.
    #[must_use]
    pub fn new(seed: u64, user: u64) -> Self {
        let limits = Limits { call_ms_max: 30_000, ..Limits::default() };
        let plan = Plan {
            limits,
            timing: Timing::default(),
            trip_us: (200, 2_000),
            dial_us: 1_000_000,
            ..Plan::new(seed ^ user << 20, 2)
        };
        let mut mesh = Mesh::new(plan);
        mesh.loss = 1;
        let mut minutes = |low, high| mesh.rng.range(low, high) * MINUTE_MS;
        let logon_ms = minutes(0, 60);
        let logoff_ms = minutes(9 * 60, 11 * 60);
        let lunch = minutes(4 * 60, 5 * 60);
        let lunch_ms = (lunch, lunch + minutes(20, 60));
        let wireless = mesh.rng.chance(40);
        Self {
            mesh,
            apps: Vec::new(),
            servers: Vec::new(),
            user,
            logon_ms,
            logoff_ms,
            lunch_ms,
            wireless,
            at_ms: 0,
            made: Made::default(),
            violations: Vec::new(),
        }
    }

    /// Lets time pass, a minute after the other.
    pub fn pass_minutes(&mut self, minutes: u64) {
        for _ in 0..minutes {
            self.minute();
            self.at_ms += MINUTE_MS;
        }
    }

    /// Returns what came of it so far.
    #[must_use]
    pub fn made(&self) -> Made {
        Made {
            frames: self.mesh.frames,
            divergences: self.mesh.notices.divergences,
            silences: self.mesh.notices.silent.values().sum(),
            trace: self.mesh.trace,
            ..self.made
        }
    }

    /// Returns what was wrong.
    #[must_use]
    pub fn violations(&self) -> &[String] {
        &self.violations
    }

    /// Returns what the nodes hold.
    #[must_use]
    pub fn held(&self) -> Held {
        let nodes = (0..2).filter_map(|host| self.mesh.node(host));
        nodes.fold(Held::default(), |held, node| {
            let status = node.status();
            let written = format!("{node:?}").len() as u64;
            held.and(Held { entries: status.entries as u64, bytes: status.entry_bytes as u64, written })
        })
    }

    /// Whether a moment of every day falls into the minute that begins now.
    const fn is_due(&self, moment_ms: u64) -> bool {
        let at = self.at_ms % (24 * HOUR_MS);
        at <= moment_ms && moment_ms < at + MINUTE_MS
    }

    fn minute(&mut self) {
        // The day after begins an hour earlier, so that its logon is over when the night is.
        if self.is_due(self.logon_ms) || self.is_due(self.logon_ms + 22 * HOUR_MS) {
            self.logon();
        }
        if self.is_due(self.logoff_ms) {
            self.logoff();
        }
        let outage = self.user.is_multiple_of(REGIONS) && self.is_due(7 * HOUR_MS);
        let flap = self.wireless && !self.apps.is_empty() && self.mesh.rng.chance(3);
        if self.is_due(self.lunch_ms.0) {
            self.sleep(self.lunch_ms.1 - self.lunch_ms.0);
        } else if self.is_due(self.lunch_ms.1) {
            self.mesh.wake(1);
        } else if outage {
            self.mesh.part(&[0], &[1]);
        } else if self.user.is_multiple_of(REGIONS) && self.is_due(7 * HOUR_MS + 10 * MINUTE_MS) {
            self.mesh.heal();
        } else if flap && !self.is_asleep() {
            // A second to ten without a network, noticed or not.
            self.mesh.part(&[0], &[1]);
            if self.mesh.rng.chance(50) {
                self.mesh.break_links(1);
            }
            let long = self.mesh.rng.range(1_000, 10_000);
            self.mesh.wait_ms(long);
            self.mesh.heal();
            self.mesh.wait_ms(MINUTE_MS - long);
            return self.read();
        }
        if self.apps.is_empty() || self.is_asleep() {
            self.mesh.wait_ms(MINUTE_MS);
            return self.read();
        }
        self.work();
    }

    const fn is_asleep(&self) -> bool {
        let at = self.at_ms % (24 * HOUR_MS);
        self.lunch_ms.0 <= at && at < self.lunch_ms.1
    }

    fn sleep(&mut self, millis: u64) {
        self.mesh.part(&[1], &[0]);
        self.mesh.stop_for(1, millis);
    }

    fn logon(&mut self) {
        if !self.apps.is_empty() {
            return;
        }
        for app in 0..APPS * 2 {
            let app = self.mesh.app_of(app % 2, &format!("app-{app}"), Some("ann"));
            for method in 0..10 {
                self.mesh.register(app, &format!("m{method}"), false);
            }
            self.mesh.register(app, "m", false);
            self.apps.push(app);
            self.servers.push(self.mesh.instance(app));
            self.mesh.wait_ms(300);
        }
        let first = self.apps[0];
        self.mesh.create(first, "desk", "{}");
        self.mesh.wait_ms(500);
        for app in self.apps.clone() {
            self.mesh.enter(app, "desk");
        }
    }

    fn logoff(&mut self) {
        self.servers.clear();
        for app in std::mem::take(&mut self.apps) {
            self.mesh.leave(app);
        }
    }

    /// A minute of work: a few calls and updates, and now and then a method that comes and goes.
    fn work(&mut self) {
        let mut left = MINUTE_MS;
        for n in 0..6 {
            let (from, to) = (self.pick(), self.pick());
            if from != to {
                self.mesh.call(self.apps[from], &self.servers[to], self.made.calls.0);
                self.made.calls.0 += 1;
            }
            for key in 0..2 {
                let app = self.some_app();
                self.mesh.set(app, "desk", &format!("k{}", (n * 2 + key) % 20), self.made.updates.0);
                self.made.updates.0 += 1;
            }
            let wait = self.mesh.rng.range(100, 9_000);
            self.mesh.wait_ms(wait);
            left -= wait;
            self.read();
        }
        if self.mesh.rng.chance(5) {
            let app = self.some_app();
            self.mesh.register(app, "now-and-then", true);
            self.mesh.wait_ms(1_000);
            left -= 1_000;
            self.mesh.unregister(app, "now-and-then");
        }
        self.mesh.wait_ms(left);
        self.read();
    }

    fn some_app(&mut self) -> App {
        let picked = self.pick();
        self.apps[picked]
    }

    fn pick(&mut self) -> usize {
        let last = self.apps.len() as u64 - 1;
        usize::try_from(self.mesh.rng.range(0, last)).unwrap_or(0)
    }

    /// Takes what apps were told; each call is answered at once.
    fn read(&mut self) {
        for app in self.apps.clone() {
            for (_, event) in self.mesh.told(app) {
                match event {
                    Event::Invoke { invocation, .. } => self.mesh.answer(app, invocation),
                    Event::CallEnded { outcome, .. } => {
                        self.made.calls.1 += u64::from(outcome.word() == "ok")
                    }
                    Event::ContextUpdated { .. } => self.made.updates.1 += 1,
                    _ => {}
                }
            }
        }
    }

    /// Checks that the two machines hold the same and show the same.
    pub fn check(&mut self) {
        self.mesh.wait_ms(5_000);
        let user = self.user;
        if !self.mesh.is_equal() {
            self.violations.push(format!("user {user}: the nodes do not hold the same"));
        }
        for host in 0..2 {
            let shown = self.mesh.node(host).map_or(0, |node| node.apps().len());
            if shown != self.apps.len() {
                self.violations
                    .push(format!("user {user}: node {host} shows {shown} of {} apps", self.apps.len()));
            }
        }
    }
}
