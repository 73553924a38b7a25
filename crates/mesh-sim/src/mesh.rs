//! Nodes, links and applications that do as a scenario says, in virtual time.
//!
//! Where [`run`](crate::run) leaves everything to chance, here only delays and losses are.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use bytes::Bytes;
use mesh_core::visibility::Visibility;
use mesh_core::{Input, Node, NodeSettings, Notice, Output, Timing};
use mesh_model::{
    Area, Arguments, Command, DomainId, Event, Incarnation, Json, Lane, Lifetime, Limits, LinkId,
    LinkMessage, LinkPeer, NodeId, Now, Permissions, Request, SessionId, Text, Tick,
};
use serde_json::Value;

use crate::rng::Rng;
use crate::value::{from_json, number, to_json};

const WALL_MS: u64 = 1_700_000_000_000;
/// What a lost packet takes beyond a round trip, before it is sent again.
const ACK_DELAY_US: u64 = 25_000;

/// An application: the node it is on, and its session there.
pub(crate) type App = (usize, SessionId);

/// What a mesh is like.
#[derive(Clone, Debug)]
pub(crate) struct Plan {
    pub(crate) seed: u64,
    pub(crate) hosts: usize,
    pub(crate) timing: Timing,
    pub(crate) limits: Limits,
    pub(crate) relay: bool,
    /// How long a message takes, at least and at most.
    pub(crate) trip_us: (u64, u64),
    /// How often nodes without a link to another dial it.
    pub(crate) dial_us: u64,
    /// Whose name a host has, if not its own.
    pub(crate) named: BTreeMap<usize, usize>,
    /// Whose key and id a host has, if not its own.
    pub(crate) copies: BTreeMap<usize, usize>,
}

impl Plan {
    pub(crate) fn new(seed: u64, hosts: usize) -> Self {
        Self {
            seed,
            hosts,
            timing: Timing::default(),
            limits: Limits::default(),
            relay: false,
            trip_us: (500, 1_000),
            dial_us: 200_000,
            named: BTreeMap::new(),
            copies: BTreeMap::new(),
        }
    }
}

#[derive(Debug)]
struct Host {
    node: Option<Node>,
    id: NodeId,
    life: u64,
    incarnation: u64,
    /// How far its wall clock is off.
    wall_off_ms: i64,
    /// When its node wants to be called again.
    due: Option<u64>,
    /// It does nothing until then.
    stopped_until: u64,
}

#[derive(Debug)]
struct Conn {
    host: [usize; 2],
    life: [u64; 2],
    open: [bool; 2],
    /// Which ends nothing reaches any more: no frame comes after one that was lost.
    lost: [bool; 2],
    last: BTreeMap<(usize, Lane), u64>,
}

#[derive(Debug)]
enum Item {
    Frame { conn: usize, to: usize, lane: Lane, frame: Bytes },
    Opened { conn: usize, end: usize },
    Closed { conn: usize, end: usize },
    Dial,
}

#[derive(Debug)]
pub(crate) struct Mesh {
    plan: Plan,
    pub(crate) now_us: u64,
    count: u64,
    pub(crate) rng: Rng,
    queue: BTreeMap<(u64, u64), Item>,
    hosts: Vec<Host>,
    conns: Vec<Conn>,
    /// The connections of a host that its node may still use.
    open: BTreeMap<usize, BTreeSet<usize>>,
    /// Of a hundred packets, how many have to be sent again.
    pub(crate) loss: u64,
    /// From and to whom nothing gets.
    deaf: BTreeSet<(usize, usize)>,
    /// Who does not dial whom.
    apart: BTreeSet<(usize, usize)>,
    /// How many more frames of batches get through; then all links of that node break.
    pub(crate) frames_left: Option<(usize, u64)>,
    /// Calls that take so much longer, and come even over a link that has ended since.
    pub(crate) slow_calls_us: u64,
    pub(crate) events: BTreeMap<App, VecDeque<(u64, Event)>>,
    contexts: BTreeMap<(App, Text), Text>,
    /// Bytes of frames from a host to another, by what they are for.
    pub(crate) bytes: BTreeMap<(usize, usize, Use), u64>,
    pub(crate) frames: u64,
    /// What nodes have noticed of others: who, whom, and in which life.
    pub(crate) notices: Notices,
    /// A hash over all frames, in their order.
    pub(crate) trace: u64,
}

/// What a frame is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Use {
    Replication,
    Stream,
    Other,
}

/// How often which host noticed something.
#[derive(Clone, Debug, Default)]
pub(crate) struct Notices {
    pub(crate) up: BTreeMap<usize, u64>,
    /// By host and host that was withdrawn, after silence.
    pub(crate) silent: BTreeMap<(usize, NodeId), u64>,
    pub(crate) divergences: u64,
    pub(crate) refused: u64,
    /// Hosts that were told of a newer life of their node.
    pub(crate) superseded: BTreeSet<usize>,
}

pub(crate) fn json(text: &str) -> Json {
    Json::parse(Bytes::copy_from_slice(text.as_bytes())).unwrap_or_else(|_| Json::null())
}

pub(crate) fn id(host: usize) -> NodeId {
    NodeId([0x10 + u8::try_from(host).unwrap_or(0xff); 16])
}

impl Mesh {
    pub(crate) fn new(plan: Plan) -> Self {
        let host = |at: usize| Host {
            node: None,
            id: id(plan.copies.get(&at).copied().unwrap_or(at)),
            life: 0,
            incarnation: 0,
            wall_off_ms: 0,
            due: None,
            stopped_until: 0,
        };
        let hosts = (0..plan.hosts).map(host).collect();
        let mut mesh = Self {
            now_us: 1_000_000,
            count: 0,
            rng: Rng::new(plan.seed ^ 0x7e57),
            queue: BTreeMap::new(),
            hosts,
            conns: Vec::new(),
            open: BTreeMap::new(),
            loss: 0,
            deaf: BTreeSet::new(),
            apart: BTreeSet::new(),
            frames_left: None,
            slow_calls_us: 0,
            events: BTreeMap::new(),
            contexts: BTreeMap::new(),
            bytes: BTreeMap::new(),
            frames: 0,
            notices: Notices::default(),
            trace: 0,
            plan,
        };
        for host in 0..mesh.hosts.len() {
            mesh.start(host);
        }
        mesh.at(mesh.now_us, Item::Dial);
        mesh
    }

    /// Starts a node that knows nothing, in a new life.
    pub(crate) fn start(&mut self, host: usize) {
        let at = &mut self.hosts[host];
        at.life += 1;
        let named = self.plan.named.get(&host).copied().unwrap_or(host);
        // Copies begin one after the other.
        at.incarnation = at.life * 100 + if self.plan.copies.contains_key(&host) { host as u64 } else { 0 };
        at.stopped_until = 0;
        let settings = NodeSettings {
            node: at.id,
            incarnation: Incarnation(at.incarnation),
            name: format!("host-{named}").into(),
            addresses: Vec::new(),
            domain: DomainId([1; 16]),
            id_secret: (host as u128 + 1) << 64 | u128::from(at.life),
            visibility: Visibility::default(),
            relay: self.plan.relay,
            slow_rules: Vec::new(),
            limits: self.plan.limits.clone(),
            timing: self.plan.timing,
        };
        let now = self.clock(host);
        self.hosts[host].node = Some(Node::new(settings, now));
        self.drain(host);
    }

    /// Kills a node; its state is lost, and what it has sent arrives.
    pub(crate) fn kill(&mut self, host: usize) {
        self.hosts[host].node = None;
        self.hosts[host].due = None;
        for conn in self.open.remove(&host).unwrap_or_default() {
            if let Some(end) = self.conns[conn].host.iter().position(|at| *at == host) {
                self.conns[conn].open[end] = false;
            }
        }
        self.events.retain(|(at, _), _| *at != host);
        self.contexts.retain(|((at, _), _), _| *at != host);
    }

    /// A copy gets a key and an id of its own, and begins anew with that.
    pub(crate) fn begin_as_another(&mut self, host: usize) {
        self.kill(host);
        self.tell_of_death(host);
        self.plan.copies.remove(&host);
        self.hosts[host].id = id(host + self.hosts.len());
        self.start(host);
    }

    /// The transport of the others notices that a node was killed.
    pub(crate) fn tell_of_death(&mut self, host: usize) {
        for conn in 0..self.conns.len() {
            if let Some(end) = self.conns[conn].host.iter().position(|at| *at == host) {
                self.closed(conn, 1 - end);
            }
        }
    }

    pub(crate) fn set_wall_clock(&mut self, host: usize, off_ms: i64) {
        self.hosts[host].wall_off_ms = off_ms;
    }

    /// A host does nothing for a while, and then finds in order what came meanwhile.
    pub(crate) fn stop_for(&mut self, host: usize, millis: u64) {
        self.hosts[host].stopped_until = self.now_us + millis * 1000;
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

    /// Two hosts cannot dial each other, whatever link they have.
    pub(crate) fn keep_apart(&mut self, a: usize, b: usize) {
        self.apart.extend([(a, b), (b, a)]);
    }

    pub(crate) fn heal(&mut self) {
        self.deaf.clear();
        self.apart.clear();
    }

    /// A host that slept is awake again: its node is told, and what its links carried is lost.
    pub(crate) fn wake(&mut self, host: usize) {
        self.heal();
        self.input(host, Input::Disturbed);
    }

    pub(crate) fn node_id(&self, host: usize) -> NodeId {
        self.hosts[host].id
    }

    pub(crate) fn node(&self, host: usize) -> Option<&Node> {
        self.hosts[host].node.as_ref()
    }

    // --- Applications.

    /// Attaches an application, which joins interop and is told all of it.
    pub(crate) fn app(&mut self, host: usize) -> App {
        self.app_of(host, "app", Some("ann"))
    }

    /// Attaches one of a name and a user, or one that serves all users.
    pub(crate) fn app_of(&mut self, host: usize, name: &str, user: Option<&str>) -> App {
        self.count += 1;
        let app = (host, SessionId(self.count));
        let request = self.request();
        let identity = json(&format!("{{\"application\":\"{name}\"}}"));
        let service = user.is_none();
        let user = user.map(Text::from);
        self.say(app, Command::Attach { request, identity, user, login: None, service });
        let request = self.request();
        self.say(app, Command::Join { request, area: Area::Interop, restrictions: None });
        app
    }

    /// An application closes its connection.
    pub(crate) fn leave(&mut self, app: App) {
        self.input(app.0, Input::SessionClosed { session: app.1, heard: None });
        self.events.remove(&app);
        self.contexts.retain(|(of, _), _| *of != app);
    }

    pub(crate) fn say(&mut self, app: App, command: Command) {
        self.input(app.0, Input::Session { session: app.1, command });
    }

    pub(crate) fn request(&mut self) -> Request {
        self.count += 1;
        Request { id: json(&self.count.to_string()), face: 0 }
    }

    pub(crate) fn register(&mut self, app: App, name: &str, streaming: bool) {
        let definition =
            format!("{{\"id\":\"{name}\",\"name\":\"M.{name}\",\"flags\":{{\"streaming\":{streaming}}}}}");
        let (request, methods) = (self.request(), vec![json(&definition)]);
        self.say(app, Command::Register { request, methods });
    }

    pub(crate) fn unregister(&mut self, app: App, name: &str) {
        let (request, methods) = (self.request(), vec![json(&format!("\"{name}\""))]);
        self.say(app, Command::Unregister { request, methods });
    }

    /// Returns the instance of an application, as its own node names it.
    pub(crate) fn instance(&self, app: App) -> Text {
        let events = self.events.get(&app).into_iter().flatten();
        let attached = events.filter_map(|(_, event)| match event {
            Event::Attached { instance, .. } => Some(instance.clone()),
            _ => None,
        });
        attached.last().unwrap_or_else(|| Text::from_static("?"))
    }

    /// Calls method `m`, with a number that says which call it is.
    pub(crate) fn call(&mut self, app: App, server: &Text, number: u64) -> Request {
        let request = self.request();
        let named = Some(json(&format!("{{\"call\":{number}}}")));
        let (arguments, method) = (Arguments { named, ..Arguments::default() }, json("\"m\""));
        let (asked, server) = (request.clone(), server.clone());
        self.say(app, Command::Call { request, server, method, arguments, trace: None });
        asked
    }

    pub(crate) fn answer(&mut self, app: App, invocation: u64) {
        self.say(app, Command::Yield { invocation, result: None });
    }

    pub(crate) fn create(&mut self, app: App, name: &str, data: &str) {
        let (request, data) = (self.request(), Some(json(data)));
        let (lifetime, permissions) = (Lifetime::Retained, Permissions::default());
        self.say(app, Command::CreateContext { request, name: name.into(), data, lifetime, permissions });
    }

    fn context(&self, app: App, name: &str) -> Text {
        self.contexts.get(&(app, Text::from(name))).cloned().unwrap_or_default()
    }

    pub(crate) fn enter(&mut self, app: App, name: &str) {
        let (request, context) = (self.request(), self.context(app, name));
        self.say(app, Command::SubscribeContext { request, context });
    }

    pub(crate) fn update(&mut self, app: App, name: &str, delta: &str) {
        let (request, context) = (self.request(), self.context(app, name));
        self.say(app, Command::UpdateContext { request, context, delta: json(delta) });
    }

    /// Sets one top-level key.
    pub(crate) fn set(&mut self, app: App, name: &str, key: &str, value: u64) {
        self.update(app, name, &format!("{{\"added\":{{\"{key}\":{value}}}}}"));
    }

    pub(crate) fn destroy(&mut self, app: App, name: &str) {
        let (request, context) = (self.request(), self.context(app, name));
        self.say(app, Command::DestroyContext { request, context });
    }

    /// Returns the value of a context on a node, as somebody who comes new is told it.
    pub(crate) fn value(&mut self, host: usize, name: &str) -> Option<Value> {
        let app = self.app(host);
        if self.contexts.contains_key(&(app, Text::from(name))) {
            self.enter(app, name);
        }
        let value = self.events.get(&app)?.iter().rev().find_map(|(_, event)| match event {
            Event::ContextSnapshot { data, .. } => Some(from_json(data)),
            _ => None,
        });
        self.leave(app);
        value
    }

    /// Takes what an app has been told so far.
    pub(crate) fn told(&mut self, app: App) -> Vec<(u64, Event)> {
        self.events.get_mut(&app).map(std::mem::take).unwrap_or_default().into()
    }

    /// Forgets what all apps have been told so far.
    pub(crate) fn forget_events(&mut self) {
        self.events.values_mut().for_each(VecDeque::clear);
    }

    /// Returns whether all nodes that run hold the same, and none ever saw that it was not so.
    pub(crate) fn is_equal(&self) -> bool {
        let nodes: Vec<&Node> = self.hosts.iter().filter_map(|host| host.node.as_ref()).collect();
        nodes.windows(2).all(|pair| pair[0].state_hash() == pair[1].state_hash())
            && nodes.iter().all(|node| node.status().divergences == 0)
    }

    /// Checks that it is so.
    pub(crate) fn equal(&self) -> Result<(), String> {
        if self.is_equal() { Ok(()) } else { Err("the nodes do not hold the same".into()) }
    }

    // --- Time.

    pub(crate) fn wait_ms(&mut self, millis: u64) {
        self.wait_us(millis * 1000);
    }

    pub(crate) fn wait_us(&mut self, micros: u64) {
        let until = self.now_us + micros;
        loop {
            let due = |(at, host): (usize, &Host)| Some((host.due?.max(host.stopped_until), at));
            let timer = self.hosts.iter().enumerate().filter_map(due).min();
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

    /// Waits until something holds, and returns how long that took in milliseconds.
    pub(crate) fn wait_until(&mut self, max_ms: u64, holds: impl Fn(&Self) -> bool) -> Option<u64> {
        let start = self.now_us;
        while !holds(self) {
            if self.now_us >= start + max_ms * 1000 {
                return None;
            }
            self.wait_us(5_000);
        }
        Some((self.now_us - start) / 1000)
    }

    fn at(&mut self, time: u64, item: Item) {
        self.count += 1;
        self.queue.insert((time, self.count), item);
    }

    fn clock(&self, host: usize) -> Now {
        let wall_ms = (WALL_MS + self.now_us / 1000).saturating_add_signed(self.hosts[host].wall_off_ms);
        Now { tick: Tick(self.now_us), wall_ms }
    }

    fn happen(&mut self, item: Item) {
        let host = match &item {
            Item::Frame { conn, to: end, .. } | Item::Opened { conn, end } | Item::Closed { conn, end } => {
                Some(self.conns[*conn].host[*end])
            }
            Item::Dial => None,
        };
        if let Some(until) = host.map(|host| self.hosts[host].stopped_until).filter(|at| *at > self.now_us) {
            return self.at(until, item);
        }
        match item {
            Item::Frame { conn, to, lane, frame } => self.deliver(conn, to, lane, &frame),
            Item::Opened { conn, end } if self.live(conn, end) => {
                let known = &self.conns[conn];
                let peer = LinkPeer { node: self.hosts[known.host[1 - end]].id, dialled: end == 0 };
                self.input(known.host[end], Input::LinkOpened { link: Self::link(conn, end), peer });
            }
            Item::Closed { conn, end } => self.closed(conn, end),
            Item::Opened { .. } => {}
            Item::Dial => {
                for from in 0..self.hosts.len() {
                    for to in 0..self.hosts.len() {
                        // One begins; the other does if it has lost what the first has not. Whoever dials
                        // a copy gets one of them, but each copy dials the others.
                        let copy = [from, to].map(|host| self.plan.copies.contains_key(&host));
                        let begins = if copy[0] == copy[1] { from < to } else { copy[0] };
                        if begins || !self.has_link(from, to) && self.has_link(to, from) {
                            self.dial(from, to);
                        }
                    }
                }
                let wait = self.plan.dial_us / 2 + self.rng.range(0, self.plan.dial_us);
                self.at(self.now_us + wait, Item::Dial);
            }
        }
    }

    // --- Links.

    const fn link(conn: usize, end: usize) -> LinkId {
        LinkId((conn * 2 + end) as u64)
    }

    fn conn_of(link: LinkId) -> (usize, usize) {
        let link = usize::try_from(link.0).unwrap_or(usize::MAX);
        (link / 2, link % 2)
    }

    fn live(&self, conn: usize, end: usize) -> bool {
        let (known, host) = (&self.conns[conn], &self.hosts[self.conns[conn].host[end]]);
        known.open[end] && host.node.is_some() && host.life == known.life[end]
    }

    fn has_link(&self, from: usize, to: usize) -> bool {
        let conns = self.open.get(&from).into_iter().flatten();
        conns.copied().any(|conn| {
            let end = usize::from(self.conns[conn].host[0] != from);
            self.conns[conn].host[1 - end] == to && self.live(conn, end)
        })
    }

    /// Opens a connection, unless there is one.
    fn dial(&mut self, from: usize, to: usize) {
        if !self.has_link(from, to) {
            self.dial_again(from, to);
        }
    }

    /// Opens a connection, though there may be one.
    pub(crate) fn dial_again(&mut self, from: usize, to: usize) {
        let cut = [(from, to), (to, from)].iter().any(|pair| self.deaf.contains(pair));
        let cut = cut || self.apart.contains(&(from, to)) || self.hosts[from].id == self.hosts[to].id;
        let ready = |host: &usize| {
            let host = &self.hosts[*host];
            host.node.is_some() && host.stopped_until <= self.now_us
        };
        if cut || ![from, to].iter().all(ready) {
            return;
        }
        let life = [self.hosts[from].life, self.hosts[to].life];
        let host = [from, to];
        self.conns.push(Conn { host, life, open: [true; 2], lost: [false; 2], last: BTreeMap::new() });
        let conn = self.conns.len() - 1;
        for host in host {
            self.open.entry(host).or_default().insert(conn);
        }
        let (low, high) = self.plan.trip_us;
        self.at(self.now_us + low + high, Item::Opened { conn, end: 1 });
        self.at(self.now_us + 2 * (low + high), Item::Opened { conn, end: 0 });
    }

    fn deliver(&mut self, conn: usize, to: usize, lane: Lane, frame: &Bytes) {
        let (from, at) = (self.conns[conn].host[1 - to], self.conns[conn].host[to]);
        self.conns[conn].lost[to] |= self.deaf.contains(&(from, at));
        let Ok(message) = mesh_wire::decode(frame) else { return };
        let call = matches!(message, LinkMessage::Call { .. } | LinkMessage::Relayed { .. });
        let late = call && self.slow_calls_us > 0 && self.hosts[at].life == self.conns[conn].life[to];
        if (!self.live(conn, to) || self.conns[conn].lost[to]) && !late {
            return;
        }
        if let (Some((host, left)), true) =
            (&mut self.frames_left, matches!(message, LinkMessage::Batch { .. }))
            && *host == from
        {
            if *left == 0 {
                return self.break_links(from);
            }
            *left -= 1;
        }
        self.frames += 1;
        self.trace =
            (self.trace ^ frame.len() as u64 ^ self.now_us << 20).wrapping_mul(0x9fb2_1c65_1e98_df25);
        self.trace ^= self.trace >> 29;
        self.input(at, Input::Link { link: Self::link(conn, to), lane, message });
    }

    /// Breaks all links of a host; both ends are told.
    pub(crate) fn break_links(&mut self, host: usize) {
        for conn in self.open.get(&host).cloned().unwrap_or_default() {
            self.closed(conn, 0);
            self.closed(conn, 1);
        }
    }

    /// Breaks the links between two hosts; one end is told, or both.
    pub(crate) fn break_between(&mut self, a: usize, b: usize, both: bool) {
        for conn in self.open.get(&a).cloned().unwrap_or_default() {
            if self.conns[conn].host.contains(&b) {
                self.conns[conn].lost = [true; 2];
                self.closed(conn, 0);
                if both {
                    self.closed(conn, 1);
                }
            }
        }
    }

    fn close_end(&mut self, conn: usize, end: usize) {
        let known = &mut self.conns[conn];
        known.open[end] = false;
        if known.open == [false; 2] {
            known.last.clear();
        }
        if let Some(open) = self.open.get_mut(&self.conns[conn].host[end]) {
            open.remove(&conn);
        }
    }

    fn closed(&mut self, conn: usize, end: usize) {
        if self.live(conn, end) {
            self.close_end(conn, end);
            let link = Self::link(conn, end);
            self.input(self.conns[conn].host[end], Input::LinkClosed { link, reason: "cut".into() });
        }
    }

    pub(crate) fn input(&mut self, host: usize, input: Input) {
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
                    if lane == Lane::Replication {
                        drained.insert(link);
                    }
                    self.send(host, link, lane, &message);
                }
                Output::CloseLink { link, .. } => {
                    let (conn, end) = Self::conn_of(link);
                    if conn < self.conns.len() {
                        self.close_end(conn, end);
                        let trip = self.trip();
                        self.at(self.now_us + trip, Item::Closed { conn, end: 1 - end });
                    }
                }
                Output::Notice(notice) => self.note(host, &notice),
                Output::CloseSession { .. } | Output::NodeSeen { .. } | Output::Hop(_) => {}
            }
        }
        for link in drained {
            self.input(host, Input::LinkDrained { link });
        }
        self.hosts[host].due = self.hosts[host].node.as_ref().and_then(Node::poll_timeout).map(|at| at.0);
    }

    fn trip(&mut self) -> u64 {
        let (low, high) = self.plan.trip_us;
        self.rng.range(low, high)
    }

    fn send(&mut self, host: usize, link: LinkId, lane: Lane, message: &LinkMessage) {
        let (conn, end) = Self::conn_of(link);
        if conn >= self.conns.len() {
            return; // A relayed link has no connection of its own.
        }
        let mut delay = self.trip();
        let mut again = self.plan.trip_us.1 * 2 + ACK_DELAY_US;
        while self.loss > 0 && self.rng.chance(self.loss) {
            delay += again;
            again *= 2;
        }
        if matches!(message, LinkMessage::Call { .. } | LinkMessage::Relay { lane: Lane::Session(_), .. }) {
            delay += self.slow_calls_us;
        }
        let at = self.now_us + delay;
        let last = self.conns[conn].last.entry((end, lane)).or_insert(0);
        *last = at.max(*last + 1);
        let (at, frame) = (*last, mesh_wire::encode(message));
        let kind = match message {
            LinkMessage::Batch { .. } | LinkMessage::Have { .. } => Use::Replication,
            LinkMessage::BranchData { .. } => Use::Stream,
            _ => Use::Other,
        };
        let to = self.conns[conn].host[1 - end];
        *self.bytes.entry((host, to, kind)).or_insert(0) += frame.len() as u64;
        self.at(at, Item::Frame { conn, to: 1 - end, lane, frame });
    }

    fn note(&mut self, host: usize, notice: &Notice) {
        match notice {
            Notice::NodeUp { .. } => *self.notices.up.entry(host).or_insert(0) += 1,
            Notice::NodeDown { node, reason, .. } if reason.starts_with("nothing heard") => {
                *self.notices.silent.entry((host, *node)).or_insert(0) += 1;
            }
            Notice::Divergence { .. } => self.notices.divergences += 1,
            Notice::LinkRefused { .. } => self.notices.refused += 1,
            Notice::Superseded { .. } => drop(self.notices.superseded.insert(host)),
            _ => {}
        }
    }
}

/// Returns the number of the call that an invocation is.
pub(crate) fn call_number(arguments: &Arguments) -> u64 {
    arguments.named.as_ref().map_or(u64::MAX, |named| number(&from_json(named), "call"))
}

/// Returns what apps were told of a key, in the order they were.
pub(crate) fn written(told: &[(u64, Event)], key: &str) -> Vec<u64> {
    let deltas = told.iter().filter_map(|(_, event)| match event {
        Event::ContextUpdated { delta, .. } => Some(from_json(delta)),
        _ => None,
    });
    let commands = deltas.flat_map(|delta| delta["commands"].as_array().cloned().unwrap_or_default());
    commands
        .filter(|command| command["path"] == key)
        .filter_map(|command| command["value"].as_u64())
        .collect()
}

/// Writes a value as an application would send it.
pub(crate) fn named(value: &Value) -> Arguments {
    Arguments { named: Some(to_json(value)), ..Arguments::default() }
}
