//! What goes wrong.

use mesh_core::Input;

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

    pub(crate) fn crash(&mut self, host: usize) {
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
}
