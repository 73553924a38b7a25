//! Desktop Agent Bridging on this machine: the node holds the bridge, or joins the one that is there.
//!
//! The ports of bridges are gone through in order. On the first that is free the node listens, and is the
//! bridge; where another program holds one and says `hello`, the node joins it as an agent. When that
//! bridge goes away, the search begins anew, and the node may come to hold the bridge itself. To the caller
//! all of this looks alike: it takes part as one agent, which sends and receives messages.
//!
//! What is decided, `proto_bridge` decides; here are sockets, the clock, and bounded queues. Agents are
//! admitted as applications are: from loopback, of the same user, and pages by their `Origin`.

use std::collections::BTreeMap;
use std::fmt;
use std::net::{Ipv4Addr, SocketAddr};
use std::ops::RangeInclusive;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use bytes::Bytes;
use futures_util::future::BoxFuture;
use futures_util::{SinkExt as _, StreamExt as _};
use hyper::body::Incoming as Body;
use hyper::header::{self, HeaderMap};
use hyper::{Request, StatusCode};
use mesh_model::{Json, Text};
use mesh_net::clock::Clock;
use proto_bridge::{
    AgentId, AgentInput, AgentOutput, AgentSettings, Bridge, BridgeAgent, BridgeSettings, ChannelsState,
    Input, Message as BridgeMessage, Notice, Output, Uuids, Verdict,
};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::protocol::WebSocketConfig;
use tokio_tungstenite::tungstenite::{Message, Utf8Bytes};

use crate::config::{Config, LimitsConfig};
use crate::local::admission;
use crate::local::websocket::{Answer, CloseWith, End, WebSocket, close, text, upgrade, upgraded};
use crate::owner;

/// Messages from the caller that wait for the bridge (limit `bridge_sent_max`). Sending more waits.
const SENT_MAX: usize = 16_384;
/// Events that wait for the caller (limit `bridge_events_max`). More are dropped, and the log says so.
const EVENTS_MAX: usize = 8_192;
/// Inputs from agents that wait for the bridge. Agents that send more wait.
const INPUTS_MAX: usize = 256;
/// Messages that wait to be written to one agent (limit `bridge_outbox_messages_max`). The agent is cut off.
const OUTBOX_MESSAGES_MAX: usize = 4_096;
/// Connections beside those of agents: ones that are about to be refused.
const DOORS_MORE: usize = 16;
/// The caller's number among the agents.
const LOCAL: AgentId = AgentId(0);

/// Judges the token of a handshake.
pub type TokenCheck = dyn Fn(Option<&Text>) -> Verdict + Send + Sync;

/// What a node needs to take part.
#[derive(Clone)]
pub struct BridgeConfig {
    /// Whom to admit, and the limits of connections.
    pub node: Config,
    /// Where bridges are: [`AgentSettings::PORTS`].
    pub ports: RangeInclusive<u16>,
    /// The name to ask for.
    pub name: Text,
    /// What `getInfo` says of this node, an object.
    pub implementation: Json,
    /// How to be a bridge.
    pub settings: BridgeSettings,
    /// Says what is on the channels here, at the moment of joining.
    pub channels: Arc<dyn Fn() -> ChannelsState + Send + Sync>,
    /// Judges the tokens of agents, if the settings ask for tokens.
    pub check_token: Arc<TokenCheck>,
    /// The token to show to a bridge that asks for one.
    pub token: Option<Text>,
}

impl fmt::Debug for BridgeConfig {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("BridgeConfig").field("ports", &self.ports).field("name", &self.name).finish()
    }
}

/// What a caller learns.
#[derive(Debug)]
#[expect(clippy::large_enum_variant, reason = "moved a few times, and nearly always a message")]
pub enum BridgeEvent {
    /// The node takes part.
    Joined {
        /// Under this name.
        name: Text,
        /// At this port of 127.0.0.1.
        port: u16,
        /// As what.
        role: Role,
    },
    /// The bridge that the node had joined is gone; the search for the next has begun.
    Left,
    /// A message for the node: an update, a request, or an answer.
    Message(BridgeMessage),
}

/// How a node takes part.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    /// It holds the bridge.
    Bridge,
    /// It is an agent of a bridge that another program holds.
    Agent,
}

/// The caller's end. Once all clones are dropped, the node stops taking part.
#[derive(Clone, Debug)]
pub struct BridgeHandle {
    sent_tx: mpsc::Sender<BridgeMessage>,
}

/// The task that takes part has ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Stopped;

impl BridgeHandle {
    /// Says something as this node's agent: a request, or the answer to one. Ids, times and the node's name
    /// are set where they are not.
    ///
    /// # Errors
    ///
    /// Fails if the node no longer takes part.
    pub async fn send(&self, message: BridgeMessage) -> Result<(), Stopped> {
        self.sent_tx.send(message).await.map_err(|_| Stopped)
    }

    /// Says something as [`send`](Self::send) does, without waiting: if too much waits already, it is not
    /// said, and the log says so.
    pub(crate) fn say(&self, message: BridgeMessage) {
        if let Err(mpsc::error::TrySendError::Full(_)) = self.sent_tx.try_send(message) {
            tracing::error!(
                "the bridge does not take what the node says; a message is dropped (limit bridge_sent_max, {SENT_MAX})"
            );
        }
    }
}

/// Begins to take part.
#[must_use]
pub fn start(config: BridgeConfig) -> (BridgeHandle, mpsc::Receiver<BridgeEvent>) {
    let (sent_tx, sent_rx) = mpsc::channel(SENT_MAX);
    let (events_tx, events_rx) = mpsc::channel(EVENTS_MAX);
    let caller = Caller { sent_rx, events_tx };
    tokio::spawn(run(Arc::new(config), caller));
    (BridgeHandle { sent_tx }, events_rx)
}

/// The caller, as the task sees it.
struct Caller {
    sent_rx: mpsc::Receiver<BridgeMessage>,
    events_tx: mpsc::Sender<BridgeEvent>,
}

impl Caller {
    /// Never waits: a caller that waits for the bridge must not be waited for.
    fn tell(&self, event: BridgeEvent) {
        if let Err(mpsc::error::TrySendError::Full(_)) = self.events_tx.try_send(event) {
            tracing::error!(
                "the node does not take what the bridge has for it; a message is dropped (limit bridge_events_max, {EVENTS_MAX})"
            );
        }
    }
}

async fn run(config: Arc<BridgeConfig>, mut caller: Caller) {
    let clock = Clock::start();
    if let Some(listener) = Seeker::new(&config, &clock).run(&mut caller).await {
        let port = listener.local_addr().map(|address| address.port()).unwrap_or_default();
        Holder::new(config, clock).run(listener, port, &mut caller).await;
    }
}

fn uuids() -> Uuids {
    Uuids::new(|| {
        let mut bytes = [0; 16];
        // Ids need not be secrets: what fails here is a machine without randomness, which cannot do TLS.
        let _ = ring::rand::SecureRandom::fill(&ring::rand::SystemRandom::new(), &mut bytes);
        u128::from_le_bytes(bytes)
    })
}

async fn sleep_until(due_ms: Option<u64>, clock: &Clock) {
    match due_ms {
        Some(due_ms) => {
            tokio::time::sleep(Duration::from_millis(due_ms.saturating_sub(clock.wall_ms()))).await
        }
        None => std::future::pending().await,
    }
}

type Socket = WebSocketStream<TcpStream>;

/// Looks for a port to hold, and is an agent where there is a bridge.
struct Seeker<'a> {
    config: &'a BridgeConfig,
    clock: &'a Clock,
    agent: BridgeAgent,
    dialling: Option<BoxFuture<'static, Option<Socket>>>,
    socket: Option<Socket>,
}

impl<'a> Seeker<'a> {
    fn new(config: &'a BridgeConfig, clock: &'a Clock) -> Self {
        let settings = AgentSettings::new(config.name.clone(), config.implementation.clone());
        let settings = AgentSettings { ports: config.ports.clone(), ..settings };
        let agent = BridgeAgent::new(settings, uuids());
        Self { config, clock, agent, dialling: None, socket: None }
    }

    /// Returns a port to hold, or nothing once the caller is gone.
    async fn run(mut self, caller: &mut Caller) -> Option<TcpListener> {
        loop {
            tokio::select! {
                sent = caller.sent_rx.recv() => {
                    let Some(message) = sent else {
                        self.hang_up();
                        return None;
                    };
                    self.input(AgentInput::Send(message));
                }
                dialled = opened(self.dialling.as_mut()) => {
                    self.dialling = None;
                    self.socket = dialled;
                    self.input(if self.socket.is_some() { AgentInput::Opened } else { AgentInput::Closed });
                }
                message = next(self.socket.as_mut()) => match message {
                    Some(frame) => self.input(AgentInput::Frame(frame)),
                    None => {
                        self.socket = None;
                        self.input(AgentInput::Closed);
                    }
                },
                () = sleep_until(self.agent.poll_timeout(), self.clock) => {
                    self.agent.handle_timeout(self.clock.wall_ms());
                }
            }
            if let Some(listener) = self.drain(caller).await {
                return Some(listener);
            }
        }
    }

    fn input(&mut self, input: AgentInput) {
        self.agent.handle(input, self.clock.wall_ms());
    }

    async fn drain(&mut self, caller: &Caller) -> Option<TcpListener> {
        while let Some(output) = self.agent.poll_output() {
            match output {
                AgentOutput::Dial { port } => {
                    let address = SocketAddr::from((Ipv4Addr::LOCALHOST, port));
                    match TcpListener::bind(address).await {
                        Ok(listener) => return Some(listener),
                        Err(_) => {
                            let limits = &self.config.node.limits;
                            self.dialling = Some(Box::pin(dial(address, limits.message_bytes_max)));
                        }
                    }
                }
                AgentOutput::HangUp => self.hang_up(),
                AgentOutput::Frame(frame) => self.write(frame).await,
                AgentOutput::Greeted { auth_required, .. } => {
                    let token = self.config.token.clone().filter(|_| auth_required);
                    self.input(match auth_required && token.is_none() {
                        true => AgentInput::Decline,
                        false => AgentInput::Join { channels: (self.config.channels)(), auth_token: token },
                    });
                }
                AgentOutput::TurnedAway { port, why } => {
                    tracing::warn!(port, %why, "the desktop agent bridge there did not let this node in");
                }
                AgentOutput::Joined { port, name } => {
                    tracing::info!(port, %name, "joined a desktop agent bridge that another program holds");
                    caller.tell(BridgeEvent::Joined { name, port, role: Role::Agent });
                }
                AgentOutput::Message(message) => caller.tell(BridgeEvent::Message(message)),
                AgentOutput::Left => {
                    tracing::info!("the desktop agent bridge is gone");
                    caller.tell(BridgeEvent::Left);
                }
            }
        }
        None
    }

    async fn write(&mut self, frame: Bytes) {
        let Some(socket) = &mut self.socket else { return };
        let Ok(text) = Utf8Bytes::try_from(frame) else { return };
        let deadline = Duration::from_millis(self.config.node.limits.write_deadline_ms);
        let written = tokio::time::timeout(deadline, socket.send(Message::Text(text))).await;
        if !matches!(written, Ok(Ok(()))) {
            self.socket = None;
            self.input(AgentInput::Closed);
        }
    }

    fn hang_up(&mut self) {
        self.dialling = None;
        if let Some(mut socket) = self.socket.take() {
            tokio::spawn(async move {
                let _ = tokio::time::timeout(Duration::from_secs(1), socket.close(None)).await;
            });
        }
    }
}

/// Opens a WebSocket to whatever listens there, if it is a program of this user.
async fn dial(address: SocketAddr, message_bytes_max: usize) -> Option<Socket> {
    let stream = TcpStream::connect(address).await.ok()?;
    let _ = stream.set_nodelay(true);
    let own = stream.local_addr().ok()?;
    let config = WebSocketConfig::default()
        .max_message_size(Some(message_bytes_max))
        .max_frame_size(Some(message_bytes_max));
    let url = format!("ws://{address}/");
    let opened = tokio_tungstenite::client_async_with_config(url, stream, Some(config)).await;
    let (socket, _) = opened.ok()?;
    // Only now: before it is accepted, the other end is nobody's.
    if owner::same_user(address, own) == Some(false) {
        tracing::warn!(%address, "the desktop agent bridge there belongs to another user of this machine");
        return None;
    }
    Some(socket)
}

async fn opened(dialling: Option<&mut BoxFuture<'static, Option<Socket>>>) -> Option<Socket> {
    match dialling {
        Some(dialling) => dialling.await,
        None => std::future::pending().await,
    }
}

/// Returns the next text frame, or nothing at the connection's end.
async fn next(socket: Option<&mut Socket>) -> Option<Bytes> {
    let Some(socket) = socket else { return std::future::pending().await };
    loop {
        match socket.next().await? {
            Ok(Message::Text(text)) => return Some(Bytes::from(text)),
            Ok(Message::Binary(bytes)) => return Some(bytes),
            Ok(Message::Close(_)) | Err(_) => return None,
            Ok(Message::Ping(_) | Message::Pong(_) | Message::Frame(_)) => {}
        }
    }
}

/// Holds the bridge.
struct Holder {
    config: Arc<BridgeConfig>,
    clock: Clock,
    bridge: Bridge,
    agents: BTreeMap<AgentId, Outbox>,
}

/// What an agent's connection tells the bridge.
enum FromAgent {
    Connected(AgentId, Outbox),
    Frame(AgentId, Bytes),
    Disconnected(AgentId),
}

/// What waits for one agent.
struct Outbox {
    items_tx: mpsc::Sender<Item>,
    waiting_bytes: Arc<AtomicUsize>,
    /// Ends the connection past what waits.
    cut_tx: mpsc::Sender<CloseWith>,
}

enum Item {
    Frame(Bytes),
    Close(CloseWith),
}

impl Holder {
    fn new(config: Arc<BridgeConfig>, clock: Clock) -> Self {
        let bridge = Bridge::new(config.settings.clone(), uuids());
        Self { config, clock, bridge, agents: BTreeMap::new() }
    }

    async fn run(mut self, listener: TcpListener, port: u16, caller: &mut Caller) {
        let (inputs_tx, mut inputs_rx) = mpsc::channel(INPUTS_MAX);
        // Ends with this function.
        let mut connections = JoinSet::new();
        let mut numbers = 1..;
        self.input(Input::Joined {
            agent: LOCAL,
            requested_name: self.config.name.clone(),
            implementation: self.config.implementation.clone(),
            channels: (self.config.channels)(),
        });
        let name = self.bridge.name(LOCAL).cloned().unwrap_or_default();
        tracing::info!(port, %name, "this node holds the desktop agent bridge");
        caller.tell(BridgeEvent::Joined { name, port, role: Role::Bridge });
        loop {
            self.drain(caller);
            tokio::select! {
                sent = caller.sent_rx.recv() => match sent {
                    Some(message) => self.input(Input::Message { agent: LOCAL, message }),
                    None => return,
                },
                Some(input) = inputs_rx.recv() => self.agent_input(input),
                accepted = listener.accept() => match accepted {
                    Ok((stream, remote)) => {
                        let max = self.config.settings.limits.agents_max + DOORS_MORE;
                        if connections.len() >= max {
                            tracing::warn!(%remote, "connection refused: limit bridge_agents_max is reached");
                            continue;
                        }
                        let (config, inputs_tx) = (self.config.clone(), inputs_tx.clone());
                        let agent = AgentId(numbers.next().unwrap_or(u64::MAX));
                        connections.spawn(connection(config, agent, stream, remote, inputs_tx));
                    }
                    Err(error) => {
                        tracing::warn!(%error, "a connection could not be accepted");
                        tokio::time::sleep(Duration::from_millis(100)).await;
                    }
                },
                Some(_) = connections.join_next() => {}
                () = sleep_until(self.bridge.poll_timeout(), &self.clock) => {
                    self.bridge.handle_timeout(self.clock.wall_ms());
                }
            }
        }
    }

    fn input(&mut self, input: Input) {
        self.bridge.handle(input, self.clock.wall_ms());
    }

    fn agent_input(&mut self, input: FromAgent) {
        match input {
            FromAgent::Connected(agent, outbox) => {
                self.agents.insert(agent, outbox);
                self.input(Input::Connected { agent });
            }
            FromAgent::Frame(agent, frame) => self.input(Input::Frame { agent, frame }),
            FromAgent::Disconnected(agent) => {
                self.agents.remove(&agent);
                self.input(Input::Disconnected { agent });
            }
        }
    }

    fn drain(&mut self, caller: &Caller) {
        while let Some(output) = self.bridge.poll_output() {
            match output {
                Output::Frame { agent, frame } => self.push(agent, frame),
                Output::Message { message, .. } => caller.tell(BridgeEvent::Message(message)),
                Output::CheckToken { agent, token } => {
                    let verdict = (self.config.check_token)(token.as_ref());
                    self.input(Input::Checked { agent, verdict });
                }
                Output::Close { agent, because } => {
                    let close = CloseWith { code: 1008, reason: because.to_string() };
                    // Without room for this the connection ends anyway, with its outbox.
                    if let Some(outbox) = self.agents.remove(&agent) {
                        let _ = outbox.items_tx.try_send(Item::Close(close));
                    }
                }
                Output::Notice { agent, notice } => note(agent, &notice),
            }
        }
    }

    fn push(&mut self, agent: AgentId, frame: Bytes) {
        let Some(outbox) = self.agents.get(&agent) else { return };
        let limits = &self.config.node.limits;
        let bytes = frame.len();
        let waiting = outbox.waiting_bytes.fetch_add(bytes, Ordering::Relaxed);
        let limit = if waiting > 0 && waiting + bytes > limits.session_outbox_bytes_max {
            "session_outbox_bytes_max"
        } else if outbox.items_tx.try_send(Item::Frame(frame)).is_err() {
            "bridge_outbox_messages_max"
        } else {
            return;
        };
        let reason = format!("the agent does not read what is sent to it (limit {limit})");
        let _ = outbox.cut_tx.try_send(CloseWith { code: 1008, reason });
        self.agents.remove(&agent);
        self.input(Input::Disconnected { agent });
    }
}

fn note(agent: AgentId, notice: &Notice) {
    let agent = agent.0;
    match notice {
        Notice::Joined(_) | Notice::Left(_) => tracing::info!(agent, "{notice}"),
        Notice::Limit(_) => tracing::warn!(agent, "{notice}"),
        _ => tracing::debug!(agent, "{notice}"),
    }
}

/// Serves one connection: HTTP until it becomes a WebSocket, then an agent.
async fn connection(
    config: Arc<BridgeConfig>,
    agent: AgentId,
    stream: TcpStream,
    remote: SocketAddr,
    inputs_tx: mpsc::Sender<FromAgent>,
) {
    let _ = stream.set_nodelay(true);
    let Ok(own) = stream.local_addr() else { return };
    let upgraded = Box::pin(upgraded(stream, |request| answer(&config.node, request, remote, own))).await;
    let Ok(Some(upgraded)) = upgraded else { return };
    let limits = &config.node.limits;
    let (stream, read) = (upgraded.stream, upgraded.read);
    let mut socket =
        WebSocket::new(stream, read, limits.message_bytes_max, limits.session_outbox_bytes_max).await;
    let (items_tx, mut items_rx) = mpsc::channel(OUTBOX_MESSAGES_MAX);
    let (cut_tx, mut cut_rx) = mpsc::channel(1);
    let waiting_bytes = Arc::new(AtomicUsize::new(0));
    let outbox = Outbox { items_tx, waiting_bytes: waiting_bytes.clone(), cut_tx };
    if inputs_tx.send(FromAgent::Connected(agent, outbox)).await.is_err() {
        return;
    }
    let mut ping = tokio::time::interval(Duration::from_millis(limits.ping_interval_ms));
    ping.reset();
    let end = loop {
        let ended = tokio::select! {
            biased;
            Some(cut) = cut_rx.recv() => Some(End::Close(cut)),
            item = items_rx.recv() => match item {
                Some(item) => tokio::select! {
                    biased;
                    Some(cut) = cut_rx.recv() => Some(End::Close(cut)),
                    ended = write(&mut socket, item, &mut items_rx, &waiting_bytes, limits) => ended,
                },
                None => Some(End::Gone),
            },
            message = socket.read() => match message.and_then(|message| frame(message, limits)) {
                Ok(frame) => match inputs_tx.send(FromAgent::Frame(agent, frame)).await {
                    Ok(()) => None,
                    Err(_) => Some(End::Gone),
                },
                Err(end) => Some(end),
            },
            _ = ping.tick() => still_there(&mut socket, limits).await,
        };
        if let Some(end) = ended {
            break end;
        }
    };
    let _ = inputs_tx.send(FromAgent::Disconnected(agent)).await;
    if let End::Close(CloseWith { code, reason }) = &end {
        tracing::info!(%remote, code, %reason, "agent disconnected");
    }
    socket.close(end).await;
}

fn answer(
    node: &Config,
    request: &Request<Body>,
    remote: SocketAddr,
    own: SocketAddr,
) -> (Answer, Option<()>) {
    // No path here is a probe, which would be answered to anybody.
    if let Err(refusal) = admission::check(node, request.headers(), remote, own, "/", &[]) {
        tracing::warn!(%remote, reason = %refusal.reason, "connection refused");
        return (text(refusal.status, &refusal.reason), None);
    }
    if !is_upgrade(request.headers()) {
        let what = "this is a desktop agent bridge (FDC3 2.2): connect with a WebSocket";
        return (text(StatusCode::UPGRADE_REQUIRED, what), None);
    }
    let answer = upgrade(request);
    let is_open = answer.status() == StatusCode::SWITCHING_PROTOCOLS;
    (answer, is_open.then_some(()))
}

fn is_upgrade(headers: &HeaderMap) -> bool {
    headers.get(header::UPGRADE).is_some_and(|value| value.as_bytes().eq_ignore_ascii_case(b"websocket"))
}

fn frame(message: Message, limits: &LimitsConfig) -> Result<Bytes, End> {
    let bytes = match message {
        Message::Text(text) => Bytes::from(text),
        message => message.into_data(),
    };
    if std::str::from_utf8(&bytes).is_err() {
        return Err(close(1007, "a binary frame must hold JSON text in UTF-8"));
    }
    if bytes.len() > limits.message_bytes_max {
        let max = limits.message_bytes_max;
        return Err(close(1009, format!("a message is larger than {max} bytes (limit message_bytes_max)")));
    }
    Ok(bytes)
}

/// Writes an item, and all that have come meanwhile. May be given up only with the connection.
async fn write(
    socket: &mut WebSocket,
    first: Item,
    items_rx: &mut mpsc::Receiver<Item>,
    waiting_bytes: &AtomicUsize,
    limits: &LimitsConfig,
) -> Option<End> {
    let deadline = Duration::from_millis(limits.write_deadline_ms);
    let writing = async {
        let mut item = Some(first);
        while let Some(next) = item {
            match next {
                Item::Frame(frame) => {
                    waiting_bytes.fetch_sub(frame.len(), Ordering::Relaxed);
                    let Ok(text) = Utf8Bytes::try_from(frame) else { return Some(End::Gone) };
                    if socket.feed(Message::Text(text)).await.is_err() {
                        return Some(End::Gone);
                    }
                }
                Item::Close(close) => return Some(End::Close(close)),
            }
            item = items_rx.try_recv().ok();
        }
        socket.flush().await.is_err().then_some(End::Gone)
    };
    tokio::time::timeout(deadline, writing).await.unwrap_or_else(|_| {
        let millis = limits.write_deadline_ms;
        Some(close(1008, format!("nothing was read for {millis} ms (limit write_deadline_ms)")))
    })
}

async fn still_there(socket: &mut WebSocket, limits: &LimitsConfig) -> Option<End> {
    let (millis, missed) = (limits.ping_interval_ms, limits.missed_pings_max);
    // Half an interval more than the pings take, so that one that has just been sent is not missed.
    if socket.silence() > Duration::from_millis(millis.saturating_mul(missed).saturating_add(millis / 2)) {
        return Some(close(1001, format!("{missed} pings were not answered (limit missed_pings_max)")));
    }
    let deadline = Duration::from_millis(limits.write_deadline_ms);
    match tokio::time::timeout(deadline, socket.ping()).await {
        Ok(Ok(())) => None,
        _ => Some(End::Gone),
    }
}

#[cfg(test)]
mod tests {
    use proto_bridge::{Exchange, MessageType};

    use super::*;
    use crate::config::Flags;

    const PATIENCE: Duration = Duration::from_secs(20);

    async fn free_port() -> u16 {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
        listener.local_addr().unwrap().port()
    }

    fn config(port: u16, name: &'static str) -> BridgeConfig {
        BridgeConfig {
            node: Config::load(Flags::default()).unwrap().config,
            ports: port..=port,
            name: Text::from_static(name),
            implementation: Json::from_static(r#"{"fdc3Version":"2.2","provider":"deskmesh"}"#),
            settings: BridgeSettings::default(),
            channels: Arc::new(ChannelsState::default),
            check_token: Arc::new(|_| Verdict::Admitted),
            token: None,
        }
    }

    /// The caller's end of a node.
    struct Node {
        handle: BridgeHandle,
        events: mpsc::Receiver<BridgeEvent>,
    }

    impl Node {
        fn start(config: BridgeConfig) -> Self {
            let (handle, events) = start(config);
            Self { handle, events }
        }

        async fn event(&mut self) -> BridgeEvent {
            tokio::time::timeout(PATIENCE, self.events.recv()).await.unwrap().unwrap()
        }

        async fn joined(&mut self) -> (String, Role) {
            loop {
                if let BridgeEvent::Joined { name, role, .. } = self.event().await {
                    return (name.to_string(), role);
                }
            }
        }

        /// Returns the next message of that type, past others.
        async fn message(&mut self, message_type: &MessageType) -> BridgeMessage {
            loop {
                match self.event().await {
                    BridgeEvent::Message(message) if message.message_type == *message_type => return message,
                    _ => {}
                }
            }
        }
    }

    /// An agent of another make.
    struct Fake(Socket);

    impl Fake {
        async fn connect(port: u16) -> Self {
            let stream = TcpStream::connect((Ipv4Addr::LOCALHOST, port)).await.unwrap();
            let url = format!("ws://127.0.0.1:{port}/");
            let (socket, _) = tokio_tungstenite::client_async(url, stream).await.unwrap();
            let mut fake = Self(socket);
            assert_eq!(fake.read().await.message_type, MessageType::Hello);
            fake
        }

        async fn join(port: u16, name: &str) -> Self {
            let mut fake = Self::connect(port).await;
            fake.write(format!(
                r#"{{"type":"handshake","payload":{{"requestedName":"{name}","implementationMetadata":{{"provider":"fake"}},"channelsState":null}},"meta":{{"requestUuid":"{name}"}}}}"#
            ))
            .await;
            while fake.message(&MessageType::ConnectedAgentsUpdate).await.meta.request.as_deref()
                != Some(name)
            {}
            fake
        }

        async fn read(&mut self) -> BridgeMessage {
            let frame = tokio::time::timeout(PATIENCE, next(Some(&mut self.0))).await.unwrap().unwrap();
            BridgeMessage::decode(&frame).unwrap()
        }

        async fn message(&mut self, message_type: &MessageType) -> BridgeMessage {
            loop {
                let message = self.read().await;
                if message.message_type == *message_type {
                    return message;
                }
            }
        }

        async fn write(&mut self, text: String) {
            self.0.send(Message::text(text)).await.unwrap();
        }
    }

    #[tokio::test]
    async fn two_agents_and_the_node() {
        let port = free_port().await;
        let mut node = Node::start(config(port, "node"));
        assert_eq!(node.joined().await, ("node".to_owned(), Role::Bridge));
        let mut a = Fake::join(port, "a").await;
        let mut b = Fake::join(port, "b").await;

        // The node asks both.
        let find = Exchange::FindInstances;
        let payload = Json::from_static(r#"{"app":{"appId":"x"}}"#);
        node.handle.send(BridgeMessage::request(find, payload, None)).await.unwrap();
        for (agent, app) in [(&mut a, "in-a"), (&mut b, "in-b")] {
            let request = agent.message(&MessageType::Request(find)).await;
            assert_eq!(request.meta.source.unwrap().desktop_agent.as_deref(), Some("node"));
            let id = request.meta.request.unwrap();
            agent.write(format!(r#"{{"type":"findInstancesResponse","payload":{{"appIdentifiers":[{{"appId":"x","instanceId":"{app}"}}]}},"meta":{{"requestUuid":"{id}","responseUuid":"r"}}}}"#)).await;
        }
        let answer = node.message(&MessageType::Response(find)).await;
        assert_eq!(
            answer.payload.to_string(),
            r#"{"appIdentifiers":[{"appId":"x","instanceId":"in-a","desktopAgent":"a"},{"appId":"x","instanceId":"in-b","desktopAgent":"b"}]}"#
        );

        // An agent broadcasts: to the node and the other agent, as it was written.
        let payload = r#"{"channelId":"red","context": {"type":"t", "n":1.0}}"#;
        a.write(format!(
            r#"{{"type":"broadcastRequest","payload":{payload},"meta":{{"requestUuid":"b1"}}}}"#
        ))
        .await;
        let broadcast = MessageType::Request(Exchange::Broadcast);
        assert_eq!(node.message(&broadcast).await.payload.to_string(), payload);
        assert_eq!(b.message(&broadcast).await.payload.to_string(), payload);

        // An agent asks the node, which answers.
        let open = r#"{"app":{"appId":"y","desktopAgent":"node"}}"#;
        b.write(format!(r#"{{"type":"openRequest","payload":{open},"meta":{{"requestUuid":"o1"}}}}"#)).await;
        let request = node.message(&MessageType::Request(Exchange::Open)).await;
        let payload = Json::from_static(r#"{"appIdentifier":{"appId":"y","instanceId":"new"}}"#);
        let answer = BridgeMessage::response(Exchange::Open, request.meta.request.unwrap(), payload);
        node.handle.send(answer).await.unwrap();
        let answer = b.message(&MessageType::Response(Exchange::Open)).await;
        assert_eq!(
            answer.payload.to_string(),
            r#"{"appIdentifier":{"appId":"y","instanceId":"new","desktopAgent":"node"}}"#
        );

        // One leaves without a word.
        drop(a);
        let update = b.message(&MessageType::ConnectedAgentsUpdate).await;
        assert_eq!(update.payload.member("removeAgent").unwrap().to_string(), r#""a""#);
    }

    #[tokio::test]
    async fn a_second_node_joins_and_takes_over() {
        let port = free_port().await;
        let mut first = Node::start(config(port, "node"));
        assert_eq!(first.joined().await.1, Role::Bridge);
        let mut second = Node::start(config(port, "node"));
        assert_eq!(second.joined().await, ("node-2".to_owned(), Role::Agent));
        let find = Exchange::FindIntent;
        let payload = Json::from_static(r#"{"intent":"I"}"#);
        second.handle.send(BridgeMessage::request(find, payload, None)).await.unwrap();
        let request = first.message(&MessageType::Request(find)).await;
        assert_eq!(request.meta.source.unwrap().desktop_agent.as_deref(), Some("node-2"));
        drop(first);
        assert_eq!(second.joined().await, ("node".to_owned(), Role::Bridge));
        Fake::join(port, "a").await;
    }

    #[tokio::test]
    async fn who_is_not_let_in_is_told_and_closed() {
        let port = free_port().await;
        let mut node = Node::start(config(port, "node"));
        node.joined().await;
        let mut fake = Fake::connect(port).await;
        fake.write(r#"{"type":"handshake","payload":{},"meta":{"requestUuid":"h"}}"#.to_owned()).await;
        let refusal = fake.read().await;
        assert_eq!(refusal.message_type, MessageType::AuthenticationFailed);
        let Some(Ok(Message::Close(Some(close)))) = fake.0.next().await else { panic!("no close") };
        assert_eq!(u16::from(close.code), 1008);
        assert!(close.reason.contains("requestedName"), "{}", close.reason);
    }

    #[tokio::test]
    async fn an_agent_that_does_not_read_is_cut_off_and_the_others_go_on() {
        let port = free_port().await;
        let mut config = config(port, "node");
        config.node.limits.session_outbox_bytes_max = 1 << 20;
        let mut node = Node::start(config);
        node.joined().await;
        let _deaf = Fake::join(port, "deaf").await;
        let mut a = Fake::join(port, "a").await;
        let mut b = Fake::join(port, "b").await;
        let text = "x".repeat(100_000);
        let removed = loop {
            a.write(format!(r#"{{"type":"broadcastRequest","payload":{{"channelId":"c","context":{{"type":"t","text":"{text}"}}}},"meta":{{"requestUuid":"b"}}}}"#)).await;
            let message = b.read().await;
            if message.message_type == MessageType::ConnectedAgentsUpdate {
                break message;
            }
        };
        assert_eq!(removed.payload.member("removeAgent").unwrap().to_string(), r#""deaf""#);
    }

    #[tokio::test]
    async fn pages_of_elsewhere_are_refused() {
        let port = free_port().await;
        let mut node = Node::start(config(port, "node"));
        node.joined().await;
        let open = async |origin: &str| {
            let stream = TcpStream::connect((Ipv4Addr::LOCALHOST, port)).await.unwrap();
            let request = Request::builder()
                .uri(format!("ws://127.0.0.1:{port}/"))
                .header("Host", format!("127.0.0.1:{port}"))
                .header("Origin", origin)
                .header("Connection", "Upgrade")
                .header("Upgrade", "websocket")
                .header("Sec-WebSocket-Version", "13")
                .header("Sec-WebSocket-Key", "dGhlIHNhbXBsZSBub25jZQ==")
                .body(())
                .unwrap();
            tokio_tungstenite::client_async(request, stream)
                .await
                .map(|_| ())
                .map_err(|error| error.to_string())
        };
        assert!(open("https://evil.example").await.unwrap_err().contains("403"));
        open("http://localhost:3000").await.unwrap();
    }
}
