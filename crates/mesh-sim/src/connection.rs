//! Connections between hosts: what they carry, and how they end.

use std::collections::BTreeMap;

use bytes::Bytes;
use mesh_core::Input;
use mesh_model::{Lane, LinkId, LinkMessage, LinkPeer, Text};

use crate::world::{Happening, Phase, World};

#[derive(Debug)]
pub(crate) struct Conn {
    pub(crate) host: [usize; 2],
    pub(crate) life: [u64; 2],
    pub(crate) link: [LinkId; 2],
    pub(crate) open: [bool; 2],
    /// Nothing gets through any more.
    pub(crate) cut: bool,
    /// The end that nothing reaches any more, while the other hears it.
    pub(crate) deaf: Option<usize>,
    pub(crate) last: BTreeMap<(usize, Lane), u64>,
}

impl World {
    pub(crate) fn live(&self, conn: usize, end: usize) -> bool {
        let known = &self.conns[conn];
        let host = known.host[end];
        known.open[end] && self.hosts[host].node.is_some() && self.hosts[host].life == known.life[end]
    }

    pub(crate) fn send(&mut self, host: usize, link: LinkId, lane: Lane, message: &LinkMessage) {
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

    pub(crate) fn deliver(&mut self, conn: usize, to: usize, lane: Lane, frame: &Bytes) {
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
                self.input(self.conns[conn].host[to], Input::Link { link, lane, message });
            }
            Err(error) => self.violate(format!("a frame of a node was not understood: {error}")),
        }
    }

    pub(crate) fn pair(&self, a: usize, b: usize) -> (usize, usize) {
        let (a, b) = (self.hosts[a].machine, self.hosts[b].machine);
        (a.min(b), a.max(b))
    }

    pub(crate) fn dial(&mut self, from: usize, to: usize) {
        if from >= self.options.nodes && self.hosts[from].node.is_none() {
            return; // A twin that is no more.
        }
        let wait = self.rng.range(100_000, 900_000);
        self.after(wait, Happening::Dial { from, to });
        let late = self.options.late_link && self.now < self.options.active_ms * 500;
        if (self.options.missing_link || late) && self.pair(from, to) == (0, 1) {
            return;
        }
        let blocked = self.blocked.get(&self.pair(from, to)).is_some_and(|until| *until > self.now);
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

    pub(crate) fn opened(&mut self, conn: usize, end: usize) {
        if !self.live(conn, end) {
            return;
        }
        let known = &self.conns[conn];
        let peer = LinkPeer { node: self.node_id(known.host[1 - end]), dialled: end == 0 };
        let link = known.link[end];
        self.input(known.host[end], Input::LinkOpened { link, peer });
    }

    /// The other end of a connection is gone, and the transport says so.
    pub(crate) fn closed(&mut self, conn: usize, end: usize) {
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

    pub(crate) fn close_end(&mut self, host: usize, link: LinkId) {
        let Some((conn, end)) = self.hosts[host].links.remove(&link) else { return };
        self.conns[conn].open[end] = false;
        if !self.conns[conn].cut {
            // What is on its way may be lost with the close, or arrive before it.
            self.conns[conn].cut = self.rng.chance(40);
            let wait = self.rng.range(200, 50_000);
            self.after(wait, Happening::Closed { conn, end: 1 - end });
        }
    }
}
