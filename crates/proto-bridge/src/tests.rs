//! A bridge, and agents that are played by the test.

mod agent;
mod asking;
mod joining;

use std::collections::BTreeMap;

use bytes::Bytes;
use mesh_model::{Json, Text};

use crate::*;

fn json(text: &str) -> Json {
    Json::parse(Bytes::copy_from_slice(text.as_bytes())).unwrap()
}

/// A bridge with what it sent, by agent.
struct Desk {
    bridge: Bridge,
    now_ms: u64,
    sent: BTreeMap<u64, Vec<Message>>,
    closed: BTreeMap<u64, Closing>,
    tokens: Vec<(u64, Option<Text>)>,
    notices: Vec<Notice>,
}

impl Desk {
    fn new(settings: BridgeSettings) -> Self {
        let mut drawn = 0;
        let uuids = Uuids::new(move || {
            drawn += 1;
            drawn
        });
        let (sent, closed) = (BTreeMap::new(), BTreeMap::new());
        let bridge = Bridge::new(settings, uuids);
        Self { bridge, now_ms: 1_000_000, sent, closed, tokens: Vec::new(), notices: Vec::new() }
    }

    /// With named agents of the numbers from 1 on.
    fn with(names: &[&str]) -> Self {
        let mut desk = Self::new(BridgeSettings::default());
        for (number, name) in (1..).zip(names) {
            desk.join(number, name, "{}");
        }
        desk.sent.clear();
        desk
    }

    fn input(&mut self, input: Input) {
        self.bridge.handle(input, self.now_ms);
        self.drain();
    }

    fn drain(&mut self) {
        while let Some(output) = self.bridge.poll_output() {
            match output {
                Output::Frame { agent, frame } => {
                    let message = Message::decode(&frame).unwrap();
                    self.sent.entry(agent.0).or_default().push(message);
                }
                Output::Message { agent, message } => self.sent.entry(agent.0).or_default().push(message),
                Output::CheckToken { agent, token } => self.tokens.push((agent.0, token)),
                Output::Close { agent, because } => {
                    self.closed.insert(agent.0, because);
                }
                Output::Notice { notice, .. } => self.notices.push(notice),
            }
        }
    }

    /// Lets time pass, with what is due at its moment.
    fn pass(&mut self, ms: u64) {
        let end = self.now_ms + ms;
        while let Some(due_ms) = self.bridge.poll_timeout().filter(|due_ms| *due_ms <= end) {
            self.now_ms = due_ms;
            self.bridge.handle_timeout(due_ms);
            self.drain();
        }
        self.now_ms = end;
    }

    fn connect(&mut self, agent: u64) {
        self.input(Input::Connected { agent: AgentId(agent), auth_token: None });
    }

    fn frame(&mut self, agent: u64, text: &str) {
        self.input(Input::Frame { agent: AgentId(agent), frame: Bytes::copy_from_slice(text.as_bytes()) });
    }

    fn leave(&mut self, agent: u64) {
        self.input(Input::Disconnected { agent: AgentId(agent) });
    }

    fn join(&mut self, agent: u64, name: &str, channels: &str) -> String {
        self.connect(agent);
        self.frame(
            agent,
            &format!(
                r#"{{"type":"handshake","payload":{{"requestedName":"{name}","implementationMetadata":{{"fdc3Version":"2.2","provider":"{name}","providerVersion":null,"appMetadata":{{"appId":"x"}}}},"channelsState":{channels}}},"meta":{{"requestUuid":"join-{agent}","responseUuid":null,"timestamp":"2026-01-01T00:00:00.123456+00:00"}}}}"#
            ),
        );
        self.bridge.name(AgentId(agent)).map(ToString::to_string).unwrap_or_default()
    }

    /// Sends a request, or an answer if `response` is not empty.
    fn say(&mut self, agent: u64, message_type: &str, request: &str, response: &str, payload: &str) {
        let response = if response.is_empty() { "null".to_owned() } else { format!(r#""{response}""#) };
        self.frame(
            agent,
            &format!(
                r#"{{"type":"{message_type}","payload":{payload},"meta":{{"requestUuid":"{request}","responseUuid":{response},"timestamp":"t","source":{{"appId":"app","desktopAgent":"forged"}}}}}}"#
            ),
        );
    }

    /// Takes what was sent to an agent.
    fn taken(&mut self, agent: u64) -> Vec<Message> {
        self.sent.remove(&agent).unwrap_or_default()
    }

    /// Takes the one message that was sent to an agent.
    fn one(&mut self, agent: u64) -> Message {
        let mut messages = self.taken(agent);
        assert_eq!(messages.len(), 1, "to {agent}: {messages:#?}");
        messages.remove(0)
    }

    fn nothing(&mut self, agent: u64) {
        assert_eq!(self.taken(agent), []);
    }
}

fn names(participants: &[Participant]) -> Vec<&str> {
    participants.iter().filter_map(|participant| participant.desktop_agent.as_deref()).collect()
}

fn failures(message: &Message) -> Vec<(&str, &str)> {
    let pair = |failure| {
        let Failure { source, detail }: &Failure = failure;
        (source.desktop_agent.as_deref().unwrap_or_default(), detail.as_str())
    };
    message.meta.failures.iter().map(pair).collect()
}

fn member(message: &Message, name: &str) -> String {
    message.payload.member(name).map(|value| value.to_string()).unwrap_or_default()
}
