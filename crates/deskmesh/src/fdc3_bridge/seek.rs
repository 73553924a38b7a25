//! Looking for a port to hold, and being an agent where there is a bridge.

use std::net::{Ipv4Addr, SocketAddr};
use std::time::Duration;

use bytes::Bytes;
use futures_util::future::BoxFuture;
use futures_util::{SinkExt as _, StreamExt as _};
use mesh_model::Text;
use mesh_net::clock::Clock;
use proto_bridge::{AgentInput, AgentOutput, AgentSettings, BridgeAgent};
use tokio::net::{TcpListener, TcpStream};
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::protocol::WebSocketConfig;
use tokio_tungstenite::tungstenite::{Message, Utf8Bytes};

use super::tokens::Audience;
use super::{BridgeConfig, BridgeEvent, Caller, Role, sleep_until, uuids};
use crate::owner;

pub(super) type Socket = WebSocketStream<TcpStream>;

/// Looks for a port to hold, and is an agent where there is a bridge.
pub(super) struct Seeker<'a> {
    config: &'a BridgeConfig,
    clock: &'a Clock,
    agent: BridgeAgent,
    dialling: Option<BoxFuture<'static, Option<Socket>>>,
    socket: Option<Socket>,
}

impl<'a> Seeker<'a> {
    pub(super) fn new(config: &'a BridgeConfig, clock: &'a Clock) -> Self {
        let settings = AgentSettings::new(config.name.clone(), config.implementation.clone());
        let settings = AgentSettings { ports: config.ports.clone(), ..settings };
        let agent = BridgeAgent::new(settings, uuids());
        Self { config, clock, agent, dialling: None, socket: None }
    }

    /// Returns a port to hold, or nothing once the caller is gone.
    pub(super) async fn run(mut self, caller: &mut Caller) -> Option<TcpListener> {
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
                AgentOutput::Greeted { port, auth_required, auth_token } => {
                    let input = self.greeted(port, auth_required, auth_token.as_ref());
                    self.input(input);
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

    /// Joins a bridge that has greeted, if both can prove themselves.
    fn greeted(&self, port: u16, auth_required: bool, shown: Option<&Text>) -> AgentInput {
        let channels = (self.config.channels)();
        let (auth_token, problem) = match &self.config.tokens {
            Some(tokens) => {
                let now_ms = self.clock.wall_ms();
                (tokens.make(Audience::Bridge, now_ms), tokens.check(Audience::Agent, shown, now_ms).err())
            }
            None if auth_required => {
                (None, Some("it asks for a token; set fdc3.bridge_secret_file to its secret".to_owned()))
            }
            None => (None, None),
        };
        match problem {
            Some(problem) => {
                tracing::warn!(port, %problem, "the desktop agent bridge there is not joined");
                AgentInput::Decline
            }
            None => AgentInput::Join { channels, auth_token },
        }
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
pub(super) async fn next(socket: Option<&mut Socket>) -> Option<Bytes> {
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
