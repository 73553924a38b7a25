//! The agent's side: looking for a bridge, joining it, and asking through it.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use bytes::Bytes;
use mesh_model::{Json, Text};

use crate::channels::ChannelsState;
use crate::message::{
    Answered, Exchange, Failure, Message, MessageType, Meta, Object, Participant, error, error_payload,
    implementation,
};
use crate::settings::AgentSettings;
use crate::uuids::{Uuids, timestamp};

/// What an agent is told. All of it is about the newest connection that it asked for: once it has hung up,
/// nothing more may come from that one.
#[derive(Clone, Debug)]
#[expect(clippy::large_enum_variant, reason = "moved a few times, and matched on by every caller")]
pub enum AgentInput {
    /// The port answers, and the WebSocket is open.
    Opened,
    /// It does not, or the connection has ended.
    Closed,
    /// A text frame came.
    Frame(Bytes),
    /// Join the bridge that has greeted; see [`AgentOutput::Greeted`].
    Join {
        /// What is on the channels here.
        channels: ChannelsState,
        /// The token to show.
        auth_token: Option<Text>,
    },
    /// Do not join it: look further.
    Decline,
    /// Say something through the bridge: a request, or an answer. Ids and times are set where they are not.
    /// A request that needs an answer gets one, from the bridge or else from here.
    Send(Message),
}

/// What an agent wants done.
#[derive(Clone, Debug, PartialEq, Eq)]
#[expect(clippy::large_enum_variant, reason = "moved a few times, and matched on by every caller")]
pub enum AgentOutput {
    /// Open a WebSocket to this port of 127.0.0.1.
    Dial {
        /// The port.
        port: u16,
    },
    /// Send a text frame.
    Frame(Bytes),
    /// Close the connection, or stop opening it.
    HangUp,
    /// A bridge has said what it is (Bridging, step 2). Answer with [`AgentInput::Join`] or
    /// [`AgentInput::Decline`].
    Greeted {
        /// Where.
        port: u16,
        /// Whether it wants a token.
        auth_required: bool,
        /// What it shows of itself, which a careful agent checks.
        auth_token: Option<Text>,
    },
    /// The bridge did not let this agent in.
    TurnedAway {
        /// Where.
        port: u16,
        /// What it said.
        why: Text,
    },
    /// This agent takes part, under this name. The update with the state of the channels follows.
    Joined {
        /// Where.
        port: u16,
        /// The name it was given.
        name: Text,
    },
    /// A message for this agent: an update, a request, or an answer.
    Message(Message),
    /// The bridge is gone.
    Left,
}

/// An agent of a bridge.
#[derive(Debug)]
pub struct BridgeAgent {
    settings: AgentSettings,
    uuids: Uuids,
    state: State,
    /// The name it was given last, which it asks for when it comes back.
    former_name: Option<Text>,
    /// What the last update said of all agents.
    agents: Vec<Json>,
    requests: BTreeMap<Text, Waiting>,
    deadlines: BTreeSet<(u64, Text)>,
    /// Intents that were delivered and whose result is outstanding, and the order they came in.
    results: BTreeMap<Text, u64>,
    raised: u64,
    outputs: VecDeque<AgentOutput>,
    now_ms: u64,
}

#[derive(Debug)]
enum State {
    /// Dials this port next.
    Paused { until_ms: u64, port: u16 },
    /// Waits for the connection.
    Dialing { until_ms: u64, port: u16 },
    /// Waits for `hello`.
    Opened { until_ms: u64, port: u16 },
    /// Waits for the caller.
    Greeted { until_ms: u64, port: u16 },
    /// Waits for the update with its own request.
    Joining { until_ms: u64, port: u16, request: Text },
    /// Takes part.
    Joined { name: Text },
}

#[derive(Debug)]
struct Waiting {
    exchange: Exchange,
    destination: Option<Participant>,
    deadline_ms: u64,
}

impl BridgeAgent {
    /// Makes an agent that looks for a bridge from its first timeout on, which is due at once.
    #[must_use]
    pub fn new(settings: AgentSettings, uuids: Uuids) -> Self {
        let port = *settings.ports.start();
        Self {
            settings,
            uuids,
            state: State::Paused { until_ms: 0, port },
            former_name: None,
            agents: Vec::new(),
            requests: BTreeMap::new(),
            deadlines: BTreeSet::new(),
            results: BTreeMap::new(),
            raised: 0,
            outputs: VecDeque::new(),
            now_ms: 0,
        }
    }

    /// Takes an input.
    pub fn handle(&mut self, input: AgentInput, now_ms: u64) {
        self.now_ms = now_ms;
        match input {
            AgentInput::Opened => {
                if let State::Dialing { until_ms, port } = self.state {
                    self.state = State::Opened { until_ms, port };
                }
            }
            AgentInput::Closed => self.closed(),
            AgentInput::Frame(frame) => {
                // A bridge's messages are taken as they are, or not at all.
                if let Ok(message) = Message::decode(&frame) {
                    self.frame(message);
                } else if let Some(port) = self.port() {
                    self.next_port(port);
                }
            }
            AgentInput::Join { channels, auth_token } => self.join(&channels, auth_token.as_ref()),
            AgentInput::Decline => {
                if let State::Greeted { port, .. } = self.state {
                    self.next_port(port);
                }
            }
            AgentInput::Send(message) => self.send(message),
        }
    }

    /// Does what is due.
    pub fn handle_timeout(&mut self, now_ms: u64) {
        self.now_ms = now_ms;
        match self.state {
            State::Paused { until_ms, port } if until_ms <= now_ms => self.dial(port),
            State::Dialing { until_ms, port }
            | State::Opened { until_ms, port }
            | State::Greeted { until_ms, port }
            | State::Joining { until_ms, port, .. }
                if until_ms <= now_ms =>
            {
                self.next_port(port);
            }
            _ => {}
        }
        while let Some((due_ms, _)) = self.deadlines.first()
            && *due_ms <= now_ms
            && let Some((_, request)) = self.deadlines.first().cloned()
        {
            self.fail(&request, &error::TIMED_OUT);
        }
    }

    /// Returns the next thing to do.
    pub fn poll_output(&mut self) -> Option<AgentOutput> {
        self.outputs.pop_front()
    }

    /// Returns when [`handle_timeout`](Self::handle_timeout) is due.
    #[must_use]
    pub fn poll_timeout(&self) -> Option<u64> {
        let of_state = match self.state {
            State::Paused { until_ms, .. }
            | State::Dialing { until_ms, .. }
            | State::Opened { until_ms, .. }
            | State::Greeted { until_ms, .. }
            | State::Joining { until_ms, .. } => Some(until_ms),
            State::Joined { .. } => None,
        };
        of_state.into_iter().chain(self.deadlines.first().map(|(due_ms, _)| *due_ms)).min()
    }

    /// Returns the name the bridge has given, while this agent takes part.
    #[must_use]
    pub const fn name(&self) -> Option<&Text> {
        match &self.state {
            State::Joined { name } => Some(name),
            _ => None,
        }
    }

    /// Returns what the bridge last said of all agents: their implementation metadata, each with
    /// `desktopAgent`.
    #[must_use]
    pub fn agents(&self) -> &[Json] {
        &self.agents
    }
}

/// Finding a bridge and joining it (Bridging, *Bridge Connection Protocol*).
impl BridgeAgent {
    fn dial(&mut self, port: u16) {
        self.state =
            State::Dialing { until_ms: self.now_ms.saturating_add(self.settings.port_timeout_ms), port };
        self.outputs.push_back(AgentOutput::Dial { port });
    }

    /// Leaves this port for the next; behind the last one there is a pause.
    fn next_port(&mut self, port: u16) {
        self.outputs.push_back(AgentOutput::HangUp);
        match port < *self.settings.ports.end() {
            true => self.dial(port + 1),
            false => self.pause(self.settings.pause_ms),
        }
    }

    fn pause(&mut self, ms: u64) {
        self.state =
            State::Paused { until_ms: self.now_ms.saturating_add(ms), port: *self.settings.ports.start() };
    }

    /// Returns the port that is being tried.
    const fn port(&self) -> Option<u16> {
        match self.state {
            State::Dialing { port, .. }
            | State::Opened { port, .. }
            | State::Greeted { port, .. }
            | State::Joining { port, .. } => Some(port),
            State::Paused { .. } | State::Joined { .. } => None,
        }
    }

    fn closed(&mut self) {
        if let Some(port) = self.port() {
            return self.next_port(port);
        }
        if !matches!(self.state, State::Joined { .. }) {
            return;
        }
        // Not at once: a bridge that closes whoever joins would make both of them spin.
        self.pause(self.settings.redial_ms);
        self.agents.clear();
        while let Some(request) = self.requests.keys().next().cloned() {
            self.fail(&request, &error::NOT_CONNECTED);
        }
        for (request, _) in std::mem::take(&mut self.results) {
            self.failed(MessageType::RaiseIntentResult, request, None, &error::NOT_CONNECTED);
        }
        self.outputs.push_back(AgentOutput::Left);
    }

    fn frame(&mut self, message: Message) {
        match &self.state {
            State::Opened { port, .. } => {
                let port = *port;
                let member = |name| message.payload.member(name).filter(|value: &Json| !value.is_null());
                if message.message_type != MessageType::Hello || member("desktopAgentBridgeVersion").is_none()
                {
                    return self.next_port(port);
                }
                let auth_required = member("authRequired").is_some_and(|value| value.as_bytes() == "true");
                let auth_token = member("authToken").and_then(|token| token.as_text());
                self.state = State::Greeted {
                    until_ms: self.now_ms.saturating_add(self.settings.join_timeout_ms),
                    port,
                };
                self.outputs.push_back(AgentOutput::Greeted { port, auth_required, auth_token });
            }
            State::Joining { port, request, .. } => {
                let port = *port;
                let is_own = message.meta.request.as_ref() == Some(request);
                let name = message.payload.member("addAgent").and_then(|name| name.as_text());
                match (&message.message_type, name) {
                    (MessageType::AuthenticationFailed, _) => {
                        let why = message.payload.member("message").and_then(|why| why.as_text());
                        self.outputs
                            .push_back(AgentOutput::TurnedAway { port, why: why.unwrap_or_default() });
                        self.next_port(port);
                    }
                    (MessageType::ConnectedAgentsUpdate, Some(name)) if is_own => {
                        let name = name.detached();
                        self.former_name = Some(name.clone());
                        self.state = State::Joined { name: name.clone() };
                        self.outputs.push_back(AgentOutput::Joined { port, name });
                        self.updated(message);
                    }
                    // Of others: the own update will have all of it.
                    _ => {}
                }
            }
            State::Joined { .. } => self.message(message),
            State::Paused { .. } | State::Dialing { .. } | State::Greeted { .. } => {}
        }
    }

    fn join(&mut self, channels: &ChannelsState, auth_token: Option<&Text>) {
        let State::Greeted { port, .. } = self.state else { return };
        let request = self.uuids.draw();
        let mut payload = Object::new();
        payload.text("authToken", auth_token);
        payload.value("implementationMetadata", &implementation(&self.settings.implementation, None));
        payload.text("requestedName", self.former_name.as_ref().or(Some(&self.settings.requested_name)));
        payload.value("channelsState", &channels.to_json());
        let meta = Meta { request: Some(request.clone()), ..Meta::default() };
        self.write(Message { message_type: MessageType::Handshake, payload: payload.end(), meta });
        self.state = State::Joining {
            until_ms: self.now_ms.saturating_add(self.settings.join_timeout_ms),
            port,
            request,
        };
    }

    fn updated(&mut self, message: Message) {
        let agents = message.payload.member("allAgents").and_then(|agents| agents.elements());
        self.agents = agents.unwrap_or_default().iter().map(Json::detached).collect();
        self.outputs.push_back(AgentOutput::Message(message));
    }
}

/// Messages (Bridging, *Bridge Messaging Protocol*).
impl BridgeAgent {
    fn message(&mut self, mut message: Message) {
        let Some(request) = message.meta.request.clone() else { return };
        let is_response = message.meta.response.is_some();
        match &message.message_type {
            MessageType::ConnectedAgentsUpdate => self.updated(message),
            MessageType::Request(_) if !is_response => self.outputs.push_back(AgentOutput::Message(message)),
            MessageType::RaiseIntentResult if self.results.remove(&request).is_some() => {
                self.outputs.push_back(AgentOutput::Message(message));
            }
            MessageType::RaiseIntentResult => {}
            message_type if is_response => {
                let Some(waiting) = self.requests.get(&request) else { return };
                let answer_type = waiting.exchange.answer_type();
                let is_error = message.error().is_some();
                // Some bridges give an error the type of the request.
                if *message_type != answer_type && !is_error {
                    return;
                }
                message.message_type = answer_type;
                let exchange = waiting.exchange;
                self.take(&request);
                self.outputs.push_back(AgentOutput::Message(message));
                if exchange == Exchange::RaiseIntent && !is_error {
                    self.await_result(request);
                }
            }
            _ => {}
        }
    }

    fn send(&mut self, mut message: Message) {
        let exchange = match &message.message_type {
            MessageType::Request(exchange) => *exchange,
            _ => {
                if self.name().is_some() {
                    message.meta.response.get_or_insert_with(|| self.uuids.draw());
                    self.write(message);
                }
                return;
            }
        };
        let request = message.meta.request.get_or_insert_with(|| self.uuids.draw()).clone();
        if exchange.answered() != Answered::Never {
            let destination = message.meta.destination.clone();
            if self.name().is_none() {
                return self.failed(exchange.answer_type(), request, destination, &error::NOT_CONNECTED);
            }
            if self.requests.contains_key(&request) || self.results.contains_key(&request) {
                return self.failed(exchange.answer_type(), request, destination, &error::MALFORMED);
            }
            if self.requests.len() >= self.settings.requests_max {
                return self.failed(exchange.answer_type(), request, destination, &error::TIMED_OUT);
            }
            let patience = match exchange {
                Exchange::Open | Exchange::RaiseIntent => self.settings.start_timeout_ms,
                _ => self.settings.find_timeout_ms,
            };
            let deadline_ms = self.now_ms.saturating_add(patience);
            self.deadlines.insert((deadline_ms, request.clone()));
            self.requests.insert(request, Waiting { exchange, destination, deadline_ms });
        }
        if self.name().is_some() {
            message.address_app();
            self.write(message);
        }
    }

    fn write(&mut self, mut message: Message) {
        message.meta.timestamp = Some(timestamp(self.now_ms));
        self.outputs.push_back(AgentOutput::Frame(message.encode()));
    }

    fn await_result(&mut self, request: Text) {
        if self.results.len() >= self.settings.requests_max
            && let Some((oldest, _)) = self.results.iter().min_by_key(|(_, raised)| **raised)
        {
            let oldest = oldest.clone();
            self.results.remove(&oldest);
            self.failed(MessageType::RaiseIntentResult, oldest, None, &error::TIMED_OUT);
        }
        self.raised += 1;
        self.results.insert(request.detached(), self.raised);
    }

    fn take(&mut self, request: &Text) -> Option<Waiting> {
        let waiting = self.requests.remove(request)?;
        self.deadlines.remove(&(waiting.deadline_ms, request.clone()));
        Some(waiting)
    }

    /// Answers a request of this agent with an error, in the bridge's place.
    fn fail(&mut self, request: &Text, error: &Text) {
        let Some(waiting) = self.take(request) else { return };
        self.failed(waiting.exchange.answer_type(), request.clone(), waiting.destination, error);
    }

    fn failed(
        &mut self,
        message_type: MessageType,
        request: Text,
        destination: Option<Participant>,
        error: &Text,
    ) {
        let failures = destination.map(|source| Failure { source, detail: error.clone() });
        let meta = Meta {
            request: Some(request),
            response: Some(self.uuids.draw()),
            timestamp: Some(timestamp(self.now_ms)),
            failures: failures.into_iter().collect(),
            ..Meta::default()
        };
        self.outputs.push_back(AgentOutput::Message(Message {
            message_type,
            payload: error_payload(error),
            meta,
        }));
    }
}
