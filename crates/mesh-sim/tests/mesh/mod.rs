//! Nodes, links and applications that do as a test says, in virtual time.
//!
//! Where [`mesh_sim::run`] leaves everything to chance, here only delays are.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use bytes::Bytes;
use mesh_core::visibility::Visibility;
use mesh_core::{Input, Node, NodeSettings, Output, Timing};
use mesh_model::{
    Area, Command, DomainId, Event, Incarnation, Json, Lane, Lifetime, Limits, LinkId, LinkPeer, NodeId, Now,
    Permissions, Request, SessionId, Text, Tick,
};

const WALL_MS: u64 = 1_700_000_000_000;

/// An application: the node it is on, and its session there.
pub(crate) type App = (usize, SessionId);

struct Host {
    node: Option<Node>,
    life: u64,
    /// How far its wall clock is off.
    wall_off_ms: i64,
}

struct Conn {
    host: [usize; 2],
    life: [u64; 2],
    open: [bool; 2],
    /// Which ends nothing reaches any more: no frame comes after one that was lost.
    lost: [bool; 2],
    last: BTreeMap<(usize, Lane), u64>,
}

enum Item {
    Frame { conn: usize, to: usize, frame: Bytes },
    Opened { conn: usize, end: usize },
    Closed { conn: usize, end: usize },
    Dial,
}

pub(crate) struct Mesh {
    pub(crate) now_us: u64,
    count: u64,
    chance: u64,
    queue: BTreeMap<(u64, u64), Item>,
    hosts: Vec<Host>,
    conns: Vec<Conn>,
    /// Of a hundred frames, how many have to be sent again.
    pub(crate) loss: u64,
    /// From and to whom nothing gets.
    deaf: BTreeSet<(usize, usize)>,
    /// How many more frames of batches get through; then all links of that node break.
    pub(crate) frames_left: Option<(usize, u64)>,
    pub(crate) events: BTreeMap<App, VecDeque<(u64, Event)>>,
    contexts: BTreeMap<(App, Text), Text>,
    timing: Timing,
}

pub(crate) fn json(text: &str) -> Json {
    Json::parse(Bytes::copy_from_slice(text.as_bytes())).unwrap()
}

fn id(host: usize) -> NodeId {
    NodeId([0x10 + u8::try_from(host).unwrap(); 16])
}

impl Mesh {
    pub(crate) fn new(hosts: usize, timing: Timing) -> Self {
        let host = || Host { node: None, life: 0, wall_off_ms: 0 };
        let mut mesh = Self {
            now_us: 1_000_000,
            count: 0,
            chance: 7,
            queue: BTreeMap::new(),
            hosts: (0..hosts).map(|_| host()).collect(),
            conns: Vec::new(),
            loss: 0,
            deaf: BTreeSet::new(),
            frames_left: None,
            events: BTreeMap::new(),
            contexts: BTreeMap::new(),
            timing,
        };
        for host in 0..hosts {
            mesh.start(host);
        }
        mesh.at(mesh.now_us, Item::Dial);
        mesh
    }

    /// Starts a node that knows nothing, in a new life.
    pub(crate) fn start(&mut self, host: usize) {
        self.hosts[host].life += 1;
        let settings = NodeSettings {
            node: id(host),
            incarnation: Incarnation(self.hosts[host].life),
            name: format!("host-{host}").into(),
            addresses: Vec::new(),
            domain: DomainId([1; 16]),
            id_secret: (host as u128 + 1) << 64 | u128::from(self.hosts[host].life),
            visibility: Visibility::default(),
            relay: false,
            slow_rules: Vec::new(),
            limits: Limits::default(),
            timing: self.timing,
        };
        let now = self.clock(host);
        self.hosts[host].node = Some(Node::new(settings, now));
        self.drain(host);
    }

    /// Kills a node; its state is lost.
    pub(crate) fn kill(&mut self, host: usize) {
        self.hosts[host].node = None;
        for conn in 0..self.conns.len() {
            if let Some(end) = self.conns[conn].host.iter().position(|at| *at == host) {
                self.conns[conn].open[end] = false;
            }
        }
    }

    pub(crate) fn set_wall_clock(&mut self, host: usize, off_ms: i64) {
        self.hosts[host].wall_off_ms = off_ms;
    }

    /// Nothing gets from one host to another any more, and neither is told.
    pub(crate) fn deafen(&mut self, from: usize, to: usize) {
        self.deaf.insert((from, to));
    }

    /// Cuts two groups of hosts off from each other.
    pub(crate) fn part(&mut self, some: &[usize], others: &[usize]) {
        for a in some {
            for b in others {
                self.deaf.extend([(*a, *b), (*b, *a)]);
            }
        }
    }

    pub(crate) fn heal(&mut self) {
        self.deaf.clear();
    }

    pub(crate) fn node(&self, host: usize) -> &Node {
        self.hosts[host].node.as_ref().unwrap()
    }

    // --- Applications.

    /// Attaches an application, which joins interop and is told all of it.
    pub(crate) fn app(&mut self, host: usize) -> App {
        self.count += 1;
        let app = (host, SessionId(self.count));
        let (request, user) = (self.request(), Some(Text::from("ann")));
        let identity = json("{\"application\":\"app\"}");
        self.say(app, Command::Attach { request, identity, user, login: None, service: false });
        let request = self.request();
        self.say(app, Command::Join { request, area: Area::Interop, restrictions: None });
        app
    }

    pub(crate) fn say(&mut self, app: App, command: Command) {
        self.input(app.0, Input::Session { session: app.1, command });
    }

    pub(crate) fn request(&mut self) -> Request {
        self.count += 1;
        Request { id: json(&self.count.to_string()), face: 0 }
    }

    pub(crate) fn create(&mut self, app: App, name: &str, data: &str) {
        let (request, data) = (self.request(), Some(json(data)));
        let (lifetime, permissions) = (Lifetime::Retained, Permissions::default());
        self.say(app, Command::CreateContext { request, name: name.into(), data, lifetime, permissions });
    }

    /// Returns the id under which an app knows a context.
    pub(crate) fn context(&self, app: App, name: &str) -> Option<Text> {
        self.contexts.get(&(app, Text::from(name))).cloned()
    }

    pub(crate) fn enter(&mut self, app: App, name: &str) {
        let (request, context) = (self.request(), self.context(app, name).unwrap());
        self.say(app, Command::SubscribeContext { request, context });
    }

    pub(crate) fn update(&mut self, app: App, name: &str, delta: &str) {
        let (request, context) = (self.request(), self.context(app, name).unwrap());
        self.say(app, Command::UpdateContext { request, context, delta: json(delta) });
    }

    /// Sets one top-level key.
    pub(crate) fn set(&mut self, app: App, name: &str, key: &str, value: u64) {
        self.update(app, name, &format!("{{\"added\":{{\"{key}\":{value}}}}}"));
    }

    pub(crate) fn destroy(&mut self, app: App, name: &str) {
        let (request, context) = (self.request(), self.context(app, name).unwrap());
        self.say(app, Command::DestroyContext { request, context });
    }

    /// Returns the value of a context on a node, as somebody who comes new is told it.
    pub(crate) fn value(&mut self, host: usize, name: &str) -> Option<serde_json::Value> {
        let app = self.app(host);
        if self.context(app, name).is_some() {
            self.enter(app, name);
        }
        let value = self.events[&app].iter().rev().find_map(|(_, event)| match event {
            Event::ContextSnapshot { data, .. } => serde_json::from_slice(data.as_bytes()).ok(),
            _ => None,
        });
        self.input(host, Input::SessionClosed { session: app.1, heard: None });
        value
    }

    /// Takes what an app has been told so far.
    pub(crate) fn told(&mut self, app: App) -> Vec<(u64, Event)> {
        self.events.get_mut(&app).map(std::mem::take).unwrap_or_default().into()
    }

    /// Checks that all nodes that run hold the same, and that none ever saw that it was not so.
    pub(crate) fn assert_equal(&self) {
        let nodes: Vec<&Node> = self.hosts.iter().filter_map(|host| host.node.as_ref()).collect();
        assert!(nodes.windows(2).all(|pair| pair[0].state_hash() == pair[1].state_hash()));
        assert!(nodes.iter().all(|node| node.status().divergences == 0));
    }

    // --- Time.

    pub(crate) fn wait_ms(&mut self, millis: u64) {
        let until = self.now_us + millis * 1000;
        loop {
            let due = |host: usize| Some((self.hosts[host].node.as_ref()?.poll_timeout()?.0, host));
            let timer = (0..self.hosts.len()).filter_map(due).min();
            let timer = timer.map(|(at, host)| (at.max(self.now_us + 1), host));
            let item = self.queue.first_key_value().map(|((at, _), _)| *at);
            match (item, timer) {
                (Some(at), timer) if at <= until && timer.is_none_or(|(due, _)| at <= due) => {
                    self.now_us = self.now_us.max(at);
                    if let Some((_, item)) = self.queue.pop_first() {
                        self.happen(item);
                    }
                }
                (_, Some((at, host))) if at <= until => {
                    self.now_us = at;
                    let now = self.clock(host);
                    if let Some(node) = &mut self.hosts[host].node {
                        node.handle_timeout(now);
                    }
                    self.drain(host);
                }
                _ => break,
            }
        }
        self.now_us = until;
    }

    fn at(&mut self, time: u64, item: Item) {
        self.count += 1;
        self.queue.insert((time, self.count), item);
    }

    const fn random(&mut self, below: u64) -> u64 {
        self.chance = self.chance.wrapping_mul(0x5851_f42d_4c95_7f2d).wrapping_add(0x1405_7b7e_f767_814f);
        (self.chance >> 33) % below
    }

    fn clock(&self, host: usize) -> Now {
        let wall_ms = (WALL_MS + self.now_us / 1000).saturating_add_signed(self.hosts[host].wall_off_ms);
        Now { tick: Tick(self.now_us), wall_ms }
    }

    fn happen(&mut self, item: Item) {
        match item {
            Item::Frame { conn, to, frame } => self.deliver(conn, to, &frame),
            Item::Opened { conn, end } if self.live(conn, end) => {
                let known = &self.conns[conn];
                let peer = LinkPeer { node: id(known.host[1 - end]), dialled: end == 0 };
                self.input(known.host[end], Input::LinkOpened { link: Self::link(conn, end), peer });
            }
            Item::Closed { conn, end } => self.closed(conn, end),
            Item::Opened { .. } => {}
            Item::Dial => {
                for from in 0..self.hosts.len() {
                    for to in from + 1..self.hosts.len() {
                        self.dial(from, to);
                    }
                }
                self.at(self.now_us + 200_000, Item::Dial);
            }
        }
    }

    // --- Links.

    const fn link(conn: usize, end: usize) -> LinkId {
        LinkId((conn * 2 + end) as u64)
    }

    fn live(&self, conn: usize, end: usize) -> bool {
        let (known, host) = (&self.conns[conn], &self.hosts[self.conns[conn].host[end]]);
        known.open[end] && host.node.is_some() && host.life == known.life[end]
    }

    fn dial(&mut self, from: usize, to: usize) {
        let there = |at: usize, other: usize| {
            (0..self.conns.len()).any(|conn| {
                let end = self.conns[conn].host.iter().position(|host| *host == at);
                end.is_some_and(|end| self.conns[conn].host[1 - end] == other && self.live(conn, end))
            })
        };
        let cut = self.deaf.contains(&(from, to)) || self.deaf.contains(&(to, from));
        let down = [from, to].iter().any(|host| self.hosts[*host].node.is_none());
        if cut || down || there(from, to) {
            return;
        }
        let life = [self.hosts[from].life, self.hosts[to].life];
        self.conns.push(Conn {
            host: [from, to],
            life,
            open: [true; 2],
            lost: [false; 2],
            last: BTreeMap::new(),
        });
        let conn = self.conns.len() - 1;
        self.at(self.now_us + 1_000, Item::Opened { conn, end: 1 });
        self.at(self.now_us + 2_000, Item::Opened { conn, end: 0 });
    }

    fn deliver(&mut self, conn: usize, to: usize, frame: &Bytes) {
        let (from, at) = (self.conns[conn].host[1 - to], self.conns[conn].host[to]);
        self.conns[conn].lost[to] |= self.deaf.contains(&(from, at));
        if !self.live(conn, to) || self.conns[conn].lost[to] {
            return;
        }
        let message = mesh_wire::decode(frame).unwrap();
        if let (Some((host, left)), true) =
            (&mut self.frames_left, matches!(message, mesh_model::LinkMessage::Batch { .. }))
            && *host == from
        {
            if *left == 0 {
                return self.break_links(from);
            }
            *left -= 1;
        }
        self.input(at, Input::Link { link: Self::link(conn, to), message });
    }

    /// Breaks all links of a host; both ends are told.
    pub(crate) fn break_links(&mut self, host: usize) {
        for conn in 0..self.conns.len() {
            if self.conns[conn].host.contains(&host) {
                self.closed(conn, 0);
                self.closed(conn, 1);
            }
        }
    }

    fn closed(&mut self, conn: usize, end: usize) {
        if self.live(conn, end) {
            self.conns[conn].open[end] = false;
            let link = Self::link(conn, end);
            self.input(self.conns[conn].host[end], Input::LinkClosed { link, reason: "cut".into() });
        }
    }

    fn input(&mut self, host: usize, input: Input) {
        let now = self.clock(host);
        if let Some(node) = &mut self.hosts[host].node {
            node.handle(input, now);
        }
        self.drain(host);
    }

    fn drain(&mut self, host: usize) {
        let mut drained = BTreeSet::new();
        while let Some(output) = self.hosts[host].node.as_mut().and_then(Node::poll_output) {
            match output {
                Output::Event { session, event } => {
                    let app = (host, session);
                    if let Event::ContextAdded { context, name, .. } = &event {
                        self.contexts.insert((app, name.clone()), context.clone());
                    }
                    self.events.entry(app).or_default().push_back((self.now_us, event));
                }
                Output::Link { link, lane, message } => {
                    let (conn, end) =
                        (usize::try_from(link.0).unwrap() / 2, usize::try_from(link.0 % 2).unwrap());
                    if lane == Lane::Replication {
                        drained.insert(link);
                    }
                    let again = self.random(100) < self.loss;
                    let at = self.now_us + 500 + self.random(500) + if again { 200_000 } else { 0 };
                    let last = self.conns[conn].last.entry((end, lane)).or_insert(0);
                    *last = at.max(*last + 1);
                    let (at, frame) = (*last, mesh_wire::encode(&message));
                    self.at(at, Item::Frame { conn, to: 1 - end, frame });
                }
                Output::CloseLink { link, .. } => {
                    let (conn, end) =
                        (usize::try_from(link.0).unwrap() / 2, usize::try_from(link.0 % 2).unwrap());
                    self.conns[conn].open[end] = false;
                    self.at(self.now_us + 1_000, Item::Closed { conn, end: 1 - end });
                }
                Output::CloseSession { .. }
                | Output::NodeSeen { .. }
                | Output::Hop(_)
                | Output::Notice(_) => {}
            }
        }
        for link in drained {
            self.input(host, Input::LinkDrained { link });
        }
    }
}
