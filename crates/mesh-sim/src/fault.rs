//! What goes wrong.

use mesh_core::Input;
use mesh_model::LinkId;

use crate::host::Host;
use crate::world::{Happening, Phase, World};

impl World {
    fn cut(&mut self, conn: usize) {
        self.conns[conn].cut = true;
        for end in [0, 1] {
            if self.rng.chance(60) {
                let wait = self.rng.range(100, 2_500_000);
                self.after(wait, Happening::Closed { conn, end });
            }
        }
    }

    pub(crate) fn fault(&mut self) {
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
                    let pair = self.pair(a, b);
                    self.cut(conn);
                    if self.rng.chance(50) {
                        let long = self.rng.range(100_000, 9_000_000);
                        self.blocked.insert(pair, self.now + long);
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
        self.rare_fault();
    }

    fn rare_fault(&mut self) {
        let host = usize::try_from(self.rare.range(0, self.options.nodes as u64 - 1)).unwrap_or(0);
        let up = self.hosts[host].node.is_some();
        if self.options.old_disks && up && self.rare.chance(15) {
            self.crash(host);
            let copies = std::mem::take(&mut self.hosts[host].copies);
            if let Some(copy) = self.rare.pick(&copies).cloned() {
                self.hosts[host].disk.sessions = copy.sessions;
                if self.rare.chance(40) {
                    self.hosts[host].disk.incarnation =
                        copy.incarnation.saturating_sub(self.rare.range(1, 9));
                }
            }
        }
        let up = self.hosts[host].node.is_some() && !self.is_superseded(host);
        if self.options.twins && up && self.hosts.len() == self.options.nodes && self.rare.chance(20) {
            self.faults += 1;
            if self.rare.chance(60) { self.start_beside(host) } else { self.start_copy_of(host) }
        }
    }

    /// Starts a node whose former life only seems to be over.
    fn start_beside(&mut self, host: usize) {
        let twin = self.hosts.len();
        let at = &mut self.hosts[host];
        let mut new = Host::new(host, at.skew_ms);
        (new.life, new.disk) = (at.life, at.disk.clone());
        (new.jump_ms, new.copies) = (at.jump_ms, std::mem::take(&mut at.copies));
        new.disk.sessions = at.node.as_ref().map(mesh_core::Node::recognitions).unwrap_or_default();
        let old = std::mem::replace(at, new);
        for (conn, end) in old.links.values() {
            self.conns[*conn].host[*end] = twin;
        }
        for app in self.apps.iter_mut().filter(|app| app.host == host) {
            app.host = twin;
        }
        self.hosts.push(old);
        self.hosts[twin].timer = 0;
        if self.rare.chance(50) && self.stalled(twin).is_none() {
            let long = self.rare.range(50_000, 4_000_000);
            self.hosts[twin].stalled_until = (self.now + long) | 1;
        }
        // Its timer is set by the next thing that happens to it.
        self.after(1_000, Happening::Timer { host: twin });
        self.start(host);
        self.live_on(twin, host);
    }

    /// Starts a copy of a node, which takes its place until somebody stops it.
    fn start_copy_of(&mut self, host: usize) {
        let twin = self.hosts.len();
        let at = &self.hosts[host];
        let mut new = Host::new(host, at.skew_ms);
        new.disk = at.disk.clone();
        new.disk.sessions = at.node.as_ref().map(mesh_core::Node::recognitions).unwrap_or_default();
        self.hosts.push(new);
        self.start(twin);
        self.live_on(twin, twin);
    }

    /// Lets a twin dial for a while, and applications begin on one of the two.
    fn live_on(&mut self, twin: usize, spawn: usize) {
        let life = self.hosts[twin].life;
        let wait = self.rare.range(200_000, 9_000_000);
        self.after(wait, Happening::Exit { host: twin, life });
        for to in 0..self.options.nodes {
            let wait = self.rare.range(1_000, 900_000);
            self.after(wait, Happening::Dial { from: twin, to });
        }
        for _ in 0..self.options.apps {
            let wait = self.rare.range(1_000, 2_000_000);
            self.after(wait, Happening::Spawn { host: spawn });
        }
    }

    /// One end of a link was told that its life is over: whoever looks after that node starts it anew, or
    /// stops it if it is a copy.
    pub(crate) fn superseded(&mut self, link: LinkId) {
        let conn = self.conns.iter().find(|conn| conn.link.contains(&link));
        for host in conn.map(|conn| conn.host).into_iter().flatten() {
            if self.is_superseded(host) {
                let (wait, life) = (self.rare.range(300_000, 3_000_000), self.hosts[host].life);
                self.after(wait, Happening::Replace { host, life });
            }
        }
    }

    pub(crate) fn replace(&mut self, host: usize) {
        self.crash(host);
        self.hosts[host].disk.incarnation = self.newest(host);
    }

    /// Twins are stopped, and nodes whose life was superseded begin a new one.
    pub(crate) fn end_twins(&mut self) {
        for host in 0..self.hosts.len() {
            if host >= self.options.nodes || self.is_superseded(host) {
                self.replace(host);
            }
        }
    }

    pub(crate) fn crash(&mut self, host: usize) {
        if self.hosts[host].node.take().is_none() {
            return;
        }
        self.faults += 1;
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
        if host >= self.options.nodes {
            return; // A twin does not come back.
        }
        let wait = self.rng.range(50_000, 9_000_000);
        self.after(wait, Happening::Restart { host });
        for _ in 0..self.options.apps {
            let more = self.rng.range(1_000, 2_000_000);
            self.after(wait + more, Happening::Spawn { host });
        }
    }
}
