//! Holding the bridge.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use bytes::Bytes;
use hyper::body::Incoming as Body;
use hyper::header::{self, HeaderMap};
use hyper::{Request, StatusCode};
use mesh_net::clock::Clock;
use proto_bridge::{AgentId, Authentication, Bridge, Input, Notice, Output, Verdict};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio_tungstenite::tungstenite::{Message, Utf8Bytes};

use super::tokens::Audience;
use super::{BridgeConfig, BridgeEvent, Caller, Role, sleep_until, uuids};
use crate::config::{Config, LimitsConfig};
use crate::local::admission;
use crate::local::websocket::{Answer, CloseWith, End, WebSocket, close, text, upgrade, upgraded};

/// The caller's number among the agents.
const LOCAL: AgentId = AgentId(0);
/// Connections beside those of agents: ones that are about to be refused.
const DOORS_MORE: usize = 16;
/// Messages that wait to be written to one agent (limit `bridge_outbox_messages_max`). The agent is cut off.
const OUTBOX_MESSAGES_MAX: usize = 4_096;
/// Inputs from agents that wait for the bridge. Agents that send more wait.
const INPUTS_MAX: usize = 256;
/// Holds the bridge.
pub(super) struct Holder {
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
    pub(super) fn new(config: Arc<BridgeConfig>, clock: Clock) -> Self {
        let mut settings = config.settings.clone();
        if config.tokens.is_some() {
            settings.authentication = Authentication::Tokens;
        }
        let bridge = Bridge::new(settings, uuids());
        Self { config, clock, bridge, agents: BTreeMap::new() }
    }

    pub(super) async fn run(mut self, listener: TcpListener, port: u16, caller: &mut Caller) {
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
                let tokens = self.config.tokens.as_ref();
                let auth_token = tokens.and_then(|tokens| tokens.make(Audience::Agent, self.clock.wall_ms()));
                self.input(Input::Connected { agent, auth_token });
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
                    let tokens = self.config.tokens.as_ref();
                    let checked = tokens.map_or(Ok(()), |tokens| {
                        tokens.check(Audience::Bridge, token.as_ref(), self.clock.wall_ms())
                    });
                    let verdict =
                        checked.map_or_else(|why| Verdict::Refused(why.into()), |()| Verdict::Admitted);
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
    match tokio::time::timeout(deadline, socket.ping(Bytes::new())).await {
        Ok(Ok(())) => None,
        _ => Some(End::Gone),
    }
}
