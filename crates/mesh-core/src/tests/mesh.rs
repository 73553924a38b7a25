//! Nodes joined by links made of queues, and apps that remember what they were told.

use std::collections::{BTreeMap, VecDeque};

use bytes::Bytes;
use mesh_model::{
    Area, Arguments, Command, DomainId, Event, Incarnation, Json, Lane, Lifetime, Limits, LinkId,
    LinkMessage, LinkPeer, NodeId, Now, Permissions, Request, SessionId, Text, Tick,
};

use crate::visibility::Visibility;
use crate::{Input, Node, NodeSettings, Notice, Output, Timing};

/// Where a session lives: node and number.
pub(crate) type App = (usize, u64);

pub(crate) struct Mesh {
    pub(crate) nodes: Vec<Node>,
    now: Now,
    links: BTreeMap<(usize, LinkId), (usize, LinkId)>,
    queue: VecDeque<(usize, LinkId, Lane, LinkMessage)>,
    events: BTreeMap<App, VecDeque<Event>>,
    pub(crate) notices: Vec<(usize, Notice)>,
    /// Under which identity each app is known.
    pub(crate) identities: BTreeMap<App, Json>,
    /// Link messages that match are kept back, in order, until the test lets them go.
    pub(crate) hold: Option<fn(&LinkMessage) -> bool>,
    held: VecDeque<(usize, LinkId, Lane, LinkMessage)>,
    /// How many messages of sessions went from one node to another, and how many bytes they were.
    pub(crate) traffic: BTreeMap<(usize, usize), usize>,
    pub(crate) bytes: BTreeMap<(usize, usize), usize>,
    /// How many entries of batches did.
    pub(crate) entries: BTreeMap<(usize, usize), usize>,
    /// How many heartbeats each node sent.
    pub(crate) pings: BTreeMap<usize, usize>,
    next: u64,
}

pub(crate) fn json(text: &str) -> Json {
    Json::parse(Bytes::copy_from_slice(text.as_bytes())).unwrap()
}

pub(crate) fn settings(number: usize, incarnation: u64) -> NodeSettings {
    NodeSettings {
        node: NodeId([number as u8 + 1; 16]),
        incarnation: Incarnation(incarnation),
        name: Text::from(format!("node{number}")),
        addresses: Vec::new(),
        domain: DomainId([7; 16]),
        id_secret: (number as u128 + 1) * 0x1234_5678_9abc_def1 + u128::from(incarnation),
        visibility: Visibility::default(),
        relay: false,
        slow_rules: Vec::new(),
        limits: Limits::default(),
        timing: Timing::default(),
    }
}

impl Mesh {
    /// Makes nodes that are all linked with each other.
    pub(crate) fn new(count: usize) -> Self {
        let mut mesh = Self::unlinked(count);
        for a in 0..count {
            for b in a + 1..count {
                mesh.link(a, b);
            }
        }
        mesh
    }

    pub(crate) fn unlinked(count: usize) -> Self {
        let now = Now { tick: Tick(1_000_000), wall_ms: 1_700_000_000_000 };
        let nodes = (0..count).map(|number| Node::new(settings(number, 1), now)).collect();
        Self {
            nodes,
            now,
            links: BTreeMap::new(),
            queue: VecDeque::new(),
            events: BTreeMap::new(),
            notices: Vec::new(),
            identities: BTreeMap::new(),
            hold: None,
            held: VecDeque::new(),
            traffic: BTreeMap::new(),
            bytes: BTreeMap::new(),
            entries: BTreeMap::new(),
            pings: BTreeMap::new(),
            next: 0,
        }
    }

    pub(crate) const fn now(&self) -> Now {
        self.now
    }

    pub(crate) const fn tick(&self) -> Tick {
        self.now.tick
    }

    pub(crate) fn number(&mut self) -> u64 {
        self.next += 1;
        self.next
    }

    /// Opens a link; `a` dials.
    pub(crate) fn link(&mut self, a: usize, b: usize) {
        let (la, lb) = (LinkId(self.number()), LinkId(self.number()));
        self.links.insert((a, la), (b, lb));
        self.links.insert((b, lb), (a, la));
        let peer = |number: usize, dialled| LinkPeer { node: NodeId([number as u8 + 1; 16]), dialled };
        self.input(b, Input::LinkOpened { link: lb, peer: peer(a, false) });
        self.input(a, Input::LinkOpened { link: la, peer: peer(b, true) });
        self.settle();
    }

    /// Breaks all links between two nodes; what is on the way is lost.
    pub(crate) fn cut(&mut self, a: usize, b: usize) {
        let broken: Vec<_> = self
            .links
            .iter()
            .filter(|((from, _), (to, _))| (*from, *to) == (a, b) || (*from, *to) == (b, a))
            .map(|(end, _)| *end)
            .collect();
        for (node, link) in broken {
            self.links.remove(&(node, link));
            self.input(node, Input::LinkClosed { link, reason: "cut".into() });
        }
        self.settle();
    }

    /// Kills a node and starts it again as a new life.
    pub(crate) fn restart(&mut self, number: usize, incarnation: u64) {
        for other in 0..self.nodes.len() {
            if other != number {
                self.cut(number, other);
            }
        }
        self.nodes[number] = Node::new(settings(number, incarnation), self.now);
        self.events.retain(|(node, _), _| *node != number);
    }

    pub(crate) fn wait_ms(&mut self, millis: u64) {
        for _ in 0..millis.div_ceil(100) {
            self.now.tick = self.now.tick.plus_millis(100);
            self.now.wall_ms += 100;
            for number in 0..self.nodes.len() {
                self.nodes[number].handle_timeout(self.now);
                self.drain(number);
            }
            self.settle();
        }
    }

    pub(crate) fn input(&mut self, node: usize, input: Input) {
        self.nodes[node].handle(input, self.now);
        self.drain(node);
    }

    fn drain(&mut self, node: usize) {
        let mut drained = Vec::new();
        while let Some(output) = self.nodes[node].poll_output() {
            match output {
                Output::Event { session, event } => {
                    self.events.entry((node, session.0)).or_default().push_back(event);
                }
                Output::Link { link, message, lane } => {
                    if lane == Lane::Replication && !drained.contains(&link) {
                        drained.push(link);
                    }
                    let Some((to, there)) = self.links.get(&(node, link)).copied() else { continue };
                    if message.is_session_traffic() && !matches!(message, LinkMessage::Covered { .. }) {
                        *self.traffic.entry((node, to)).or_default() += 1;
                        *self.bytes.entry((node, to)).or_default() += mesh_wire::encode(&message).len();
                    }
                    match &message {
                        LinkMessage::Batch { entries, .. } => {
                            *self.entries.entry((node, to)).or_default() += entries.len();
                        }
                        LinkMessage::Ping { .. } => *self.pings.entry(node).or_default() += 1,
                        _ => {}
                    }
                    match self.hold {
                        Some(held) if held(&message) => self.held.push_back((to, there, lane, message)),
                        _ => self.queue.push_back((to, there, lane, message)),
                    }
                }
                Output::CloseLink { link, .. } => {
                    if let Some(other) = self.links.remove(&(node, link)) {
                        self.links.remove(&other);
                        self.input(other.0, Input::LinkClosed { link: other.1, reason: "closed".into() });
                    }
                }
                Output::Notice(notice) => self.notices.push((node, notice)),
                Output::CloseSession { .. } | Output::NodeSeen { .. } | Output::Hop(_) => {}
            }
        }
        for link in drained {
            self.input(node, Input::LinkDrained { link });
        }
    }

    /// Delivers all that is on the way.
    pub(crate) fn settle(&mut self) {
        while let Some((node, link, lane, message)) = self.queue.pop_front() {
            if self.links.contains_key(&(node, link)) {
                self.input(node, Input::Link { link, lane, message });
            }
        }
    }

    /// Returns what is held back.
    pub(crate) fn held(&self) -> impl Iterator<Item = &LinkMessage> {
        self.held.iter().map(|(.., message)| message)
    }

    /// Lets go what was held back.
    pub(crate) fn release(&mut self) {
        self.hold = None;
        self.queue.append(&mut self.held);
        self.settle();
    }

    /// Lets go what was held back for one node, and goes on to hold back.
    pub(crate) fn release_to(&mut self, node: usize) {
        let (go, stay) = std::mem::take(&mut self.held).into_iter().partition(|(to, ..)| *to == node);
        (self.queue, self.held) = (go, stay);
        self.settle();
    }

    // --- Apps.

    pub(crate) fn send(&mut self, app: App, command: Command) {
        self.input(app.0, Input::Session { session: SessionId(app.1), command });
        self.settle();
    }

    /// Attaches an app of a user and joins it everywhere; returns it and its instance id.
    pub(crate) fn app(&mut self, node: usize, user: &str) -> (App, Text) {
        let application = format!("app{}", self.number());
        self.app_with(node, user, &application, false, None)
    }

    /// The same for an application of a name, with a condition on those it wants to see.
    pub(crate) fn app_with(
        &mut self,
        node: usize,
        user: &str,
        application: &str,
        service: bool,
        restrictions: Option<&str>,
    ) -> (App, Text) {
        let app = (node, self.number());
        self.attach(app, user, &format!("{{\"application\":\"{application}\"}}"), service, restrictions)
    }

    /// Attaches an app that says of itself what it likes.
    pub(crate) fn app_as(&mut self, app: App, user: &str, identity: &str) -> (App, Text) {
        self.attach(app, user, identity, false, None)
    }

    fn attach(
        &mut self,
        app: App,
        user: &str,
        identity: &str,
        service: bool,
        restrictions: Option<&str>,
    ) -> (App, Text) {
        let request = self.request();
        let user = Some(Text::from(user));
        let identity = json(identity);
        self.send(app, Command::Attach { request, identity, login: user.clone(), user, service });
        let instance = match self.events_of(app).into_iter().next() {
            Some(Event::Attached { instance, identity, .. }) => {
                self.identities.insert(app, identity);
                instance
            }
            other => panic!("not attached: {other:?}"),
        };
        for area in [Area::Interop, Area::Bus] {
            let request = self.request();
            self.send(app, Command::Join { request, area, restrictions: restrictions.map(Text::from) });
        }
        (app, instance)
    }

    pub(crate) fn request(&mut self) -> Request {
        Request { id: json(&self.number().to_string()), face: 0 }
    }

    /// Sends a command made from a new request, and returns the request.
    pub(crate) fn ask(&mut self, app: App, command: impl FnOnce(Request) -> Command) -> Request {
        let request = self.request();
        self.send(app, command(request.clone()));
        request
    }

    pub(crate) fn register(&mut self, app: App, id: &str, name: &str) {
        let methods = vec![json(&format!("{{\"id\":\"{id}\",\"name\":\"{name}\"}}"))];
        self.ask(app, |request| Command::Register { request, methods });
    }

    pub(crate) fn call(&mut self, app: App, server: &Text, method: &str) -> Request {
        let (server, method) = (server.clone(), Json::string(method));
        self.ask(app, |request| Command::Call {
            request,
            server,
            method,
            arguments: Arguments::default(),
            trace: None,
        })
    }

    pub(crate) fn subscribe(&mut self, app: App, server: &Text, method: &str) -> Request {
        let (server, method) = (server.clone(), Json::string(method));
        self.ask(app, |request| Command::Subscribe {
            request,
            server,
            method,
            arguments: Arguments::default(),
        })
    }

    pub(crate) fn create(&mut self, app: App, name: &str, data: &str, lifetime: Lifetime) {
        let data = Some(json(data));
        self.ask(app, |request| Command::CreateContext {
            request,
            name: name.into(),
            data,
            lifetime,
            permissions: Permissions::default(),
        });
    }

    pub(crate) fn update(&mut self, app: App, context: &Text, delta: &str) {
        let (context, delta) = (context.clone(), json(delta));
        self.ask(app, |request| Command::UpdateContext { request, context, delta });
    }

    /// Takes all events of an app.
    pub(crate) fn events_of(&mut self, app: App) -> Vec<Event> {
        self.events.remove(&app).unwrap_or_default().into()
    }

    /// Takes all events and keeps those that a test wants to see.
    pub(crate) fn take<T>(&mut self, app: App, wanted: impl Fn(&Event) -> Option<T>) -> Vec<T> {
        self.events_of(app).iter().filter_map(wanted).collect()
    }

    /// Returns the id under which a node's apps know a context.
    pub(crate) fn context(&self, node: usize, name: &str) -> Option<Text> {
        let known = &self.nodes[node].contexts;
        known.iter().find(|(key, _)| key.name == *name).map(|(_, context)| context.id.clone())
    }

    pub(crate) fn value(&mut self, node: usize, name: &str) -> Option<String> {
        let key = self.nodes[node].contexts.keys().find(|key| key.name == *name).cloned()?;
        Some(self.nodes[node].context_value(&key).to_string())
    }

    /// Checks that all nodes hold the same.
    pub(crate) fn assert_equal(&self) {
        for node in &self.nodes[1..] {
            assert_eq!(node.replica.vector(), self.nodes[0].replica.vector());
            assert_eq!(node.state_hash(), self.nodes[0].state_hash());
        }
        assert!(self.nodes.iter().all(|node| node.divergences == 0));
    }
}
