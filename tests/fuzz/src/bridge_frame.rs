//! What desktop agents and bridges of others send: frames to a bridge, and frames to an agent of one.

use std::collections::{BTreeMap, BTreeSet};

use bytes::Bytes;
use mesh_model::{Json, Text};
use proto_bridge::{
    AgentId, AgentInput, AgentOutput, AgentSettings, Authentication, Bridge, BridgeAgent, BridgeLimits,
    BridgeSettings, ChannelsState, Exchange, Input, Message, MessageType, Output, Participant, Uuids,
    Verdict,
};

use crate::choices::Choices;

/// The agent without a connection.
const LOCAL: AgentId = AgentId(0);
/// The agent of our own make, on a connection.
const OWN: AgentId = AgentId(1);
/// Agents that send what the input says.
const OTHERS: [AgentId; 3] = [AgentId(2), AgentId(3), AgentId(4)];
/// Longer than anything waits for an answer.
const LONG_MS: u64 = 300_000;

const TYPES: [&str; 24] = [
    "handshake",
    "broadcastRequest",
    "findIntentRequest",
    "findIntentResponse",
    "findIntentsByContextRequest",
    "findIntentsByContextResponse",
    "findInstancesRequest",
    "findInstancesResponse",
    "getAppMetadataRequest",
    "getAppMetadataResponse",
    "openRequest",
    "openResponse",
    "raiseIntentRequest",
    "raiseIntentResponse",
    "raiseIntentResultResponse",
    "PrivateChannel.broadcast",
    "PrivateChannel.eventListenerAdded",
    "PrivateChannel.onAddContextListener",
    "PrivateChannel.onDisconnect",
    "connectedAgentsUpdate",
    "authenticationFailed",
    "hello",
    "strange",
    "",
];
const PAYLOADS: [&str; 18] = [
    r#"{"requestedName":"a","implementationMetadata":{"provider":"p"},"channelsState":{"c":[{"type":"t","n":1.0}]}}"#,
    r#"{"requestedName":"a@b","implementationMetadata":{},"channelsState":null,"authToken":"good"}"#,
    r#"{"requestedName":"","implementationMetadata":{"provider":null},"channelsState":{"c":[{}, 1, {"type":"t"}]},"authToken":"bad"}"#,
    r#"{"channelId":"c","context":{"type":"t", "n":1.0}}"#,
    r#"{"channelId":null,"context":null}"#,
    r#"{"intent":"I","context":{"type":"t"},"app":{"appId":"x","desktopAgent":"a"}}"#,
    r#"{"intent":"I","context":{"type":"t"},"app":{"appId":"x","desktopAgent":"own"}}"#,
    r#"{"app":{"appId":"x","instanceId":"i"}}"#,
    r#"{"appIntent":{"intent":{"name":"I"},"apps":[{"appId":"x"},{"appId":7},null]}}"#,
    r#"{"appIntents":[{"intent":{"name":"I"},"apps":[{"appId":"x","desktopAgent":"own"}]},{}]}"#,
    r#"{"appIdentifiers":[{"appId":"x","instanceId":"i"}]}"#,
    r#"{"appIdentifier":{"appId":"x","instanceId":"i"},"appMetadata":{"appId":"x"}}"#,
    r#"{"intentResolution":{"intent":"I","source":{"appId":"x"}}}"#,
    r#"{"intentResult":{"context":{"type":"r"}}}"#,
    r#"{"error":"NoAppsFound"}"#,
    r#"{"addAgent":"a","allAgents":[{"desktopAgent":"a"}],"channelsState":{},"desktopAgentBridgeVersion":"1.0","authRequired":true}"#,
    "{}",
    "null",
];
const NAMES: [&str; 6] = ["a", "a-2", "own", "local", "ghost", "\\ud800"];

fn uuids(first: u128) -> Uuids {
    let mut next = first;
    Uuids::new(move || {
        next += 1;
        next
    })
}

fn json(text: &str) -> Json {
    Json::parse(Bytes::copy_from_slice(text.as_bytes())).expect("JSON")
}

/// Checks that nothing an agent says makes the bridge lie to others, answer twice or keep something, and
/// that an agent of ours gets one answer to each request, whatever its bridge says.
pub fn bridge_frame(data: &[u8]) {
    let mut choices = Choices::new(data);
    let mut world = World::new(choices.once_in(8));
    for _ in 0..96 {
        if choices.is_empty() {
            break;
        }
        world.step(&mut choices);
    }
    world.finish();
}

struct World {
    bridge: Bridge,
    now_ms: u64,
    tokens: bool,
    connected: BTreeSet<AgentId>,
    /// The ids of requests that an agent has sent, by whoever sent them, and how often.
    sent: BTreeMap<(AgentId, Text), usize>,
    answers: BTreeMap<(AgentId, Text), usize>,
    results: BTreeMap<(AgentId, Text), usize>,
    /// Requests that reached an agent.
    inbox: BTreeMap<AgentId, Vec<Text>>,
    /// What each has sent last, as text.
    last: BTreeMap<AgentId, Bytes>,
    own: Client,
    /// An agent of ours whose bridge is the input.
    lost: Client,
}

/// An agent of ours.
struct Client {
    agent: BridgeAgent,
    next: u64,
    open: BTreeSet<Text>,
    asked: usize,
    answered: usize,
    joined: bool,
}

impl Client {
    fn new(name: &'static str, first: u128) -> Self {
        let settings = AgentSettings::new(Text::from_static(name), json(r#"{"provider":"own"}"#));
        let agent = BridgeAgent::new(settings, uuids(first));
        Self { agent, next: 1, open: BTreeSet::new(), asked: 0, answered: 0, joined: false }
    }

    fn ask(&mut self, exchange: Exchange, payload: &str, to: Option<&str>, now_ms: u64) {
        let mut message = Message::request(exchange, json(payload), None);
        let id = Text::from(format!("own-{}", self.next));
        self.next += 1;
        message.meta.request = Some(id.clone());
        message.meta.destination = to.map(Participant::agent);
        self.open.insert(id);
        self.asked += 1;
        self.agent.handle(AgentInput::Send(message), now_ms);
    }

    /// Returns the frames that it sends, and whether it hangs up or dials.
    fn drain(&mut self, now_ms: u64) -> (Vec<Bytes>, bool, bool) {
        let (mut frames, mut hangs_up, mut dials) = (Vec::new(), false, false);
        while let Some(output) = self.agent.poll_output() {
            match output {
                AgentOutput::Frame(frame) => frames.push(frame),
                AgentOutput::HangUp => hangs_up = true,
                AgentOutput::Dial { .. } => dials = true,
                AgentOutput::Greeted { .. } => {
                    let auth_token = Some(Text::from_static("good"));
                    let join = AgentInput::Join { channels: ChannelsState::default(), auth_token };
                    self.agent.handle(join, now_ms);
                }
                AgentOutput::Joined { .. } => {
                    assert!(!self.joined);
                    self.joined = true;
                }
                AgentOutput::Left => {
                    assert!(std::mem::take(&mut self.joined));
                }
                AgentOutput::TurnedAway { .. } => assert!(!self.joined),
                AgentOutput::Message(message) => {
                    let id = message.meta.request.clone().unwrap_or_default();
                    match &message.message_type {
                        MessageType::Response(_) => {
                            assert!(self.open.remove(&id), "{id} was not asked, or was answered before");
                            self.answered += 1;
                        }
                        MessageType::RaiseIntentResult => {}
                        _ => assert!(self.joined),
                    }
                }
            }
        }
        (frames, hangs_up, dials)
    }
}

impl World {
    fn new(tokens: bool) -> Self {
        let authentication = if tokens { Authentication::Tokens } else { Authentication::Off };
        let limits = BridgeLimits { requests_max: 8, results_max: 8, ..BridgeLimits::default() };
        let settings = BridgeSettings { authentication, limits, ..BridgeSettings::default() };
        let mut world = Self {
            bridge: Bridge::new(settings, uuids(1 << 64)),
            now_ms: 1_000,
            tokens,
            connected: BTreeSet::new(),
            sent: BTreeMap::new(),
            answers: BTreeMap::new(),
            results: BTreeMap::new(),
            inbox: BTreeMap::new(),
            last: BTreeMap::new(),
            own: Client::new("own", 2 << 64),
            lost: Client::new("lost", 3 << 64),
        };
        world.connected.insert(LOCAL);
        world.input(Input::Joined {
            agent: LOCAL,
            requested_name: Text::from_static("local"),
            implementation: json("{}"),
            channels: ChannelsState::default(),
        });
        for agent in OTHERS {
            world.connect(agent);
        }
        world.pass(0);
        world
    }

    fn input(&mut self, input: Input) {
        self.bridge.handle(input, self.now_ms);
        self.drain();
    }

    fn connect(&mut self, agent: AgentId) {
        self.connected.insert(agent);
        self.input(Input::Connected { agent, auth_token: Some(Text::from_static("bridge")) });
    }

    fn disconnect(&mut self, agent: AgentId) {
        if self.connected.remove(&agent) {
            self.forget(agent);
            self.input(Input::Disconnected { agent });
        }
    }

    fn forget(&mut self, agent: AgentId) {
        self.connected.remove(&agent);
        self.inbox.remove(&agent);
        self.sent.retain(|(of, _), _| *of != agent);
        self.answers.retain(|(of, _), _| *of != agent);
        self.results.retain(|(of, _), _| *of != agent);
    }

    fn drain(&mut self) {
        while let Some(output) = self.bridge.poll_output() {
            match output {
                Output::Frame { agent, frame } => {
                    assert!(agent != LOCAL && self.connected.contains(&agent), "to {agent:?}, who is gone");
                    let message = Message::decode(&frame).expect("what a bridge says can be read");
                    self.told(agent, &message);
                    if agent == OWN {
                        self.own.agent.handle(AgentInput::Frame(frame), self.now_ms);
                    }
                }
                Output::Message { agent, message } => {
                    assert_eq!(agent, LOCAL);
                    self.told(agent, &message);
                }
                Output::CheckToken { agent, token } => {
                    assert!(self.tokens);
                    let verdict = match token.as_deref() {
                        Some("good") => Verdict::Admitted,
                        _ => Verdict::Refused(Text::from_static("it is not good")),
                    };
                    self.bridge.handle(Input::Checked { agent, verdict }, self.now_ms);
                }
                Output::Close { agent, .. } => {
                    self.forget(agent);
                    if agent == OWN {
                        self.own.agent.handle(AgentInput::Closed, self.now_ms);
                    }
                }
                Output::Notice { .. } => {}
            }
        }
    }

    fn told(&mut self, agent: AgentId, message: &Message) {
        let id = message.meta.request.clone().unwrap_or_default();
        match &message.message_type {
            MessageType::Hello | MessageType::AuthenticationFailed if message.error().is_none() => {}
            // Nonsense gets an error of its own type.
            MessageType::ConnectedAgentsUpdate if message.error().is_none() => {
                let all = message.payload.member("allAgents").and_then(|all| all.elements());
                let all = all.expect("an update has all agents");
                let names: BTreeSet<String> =
                    all.iter().filter_map(|one| Some(one.member("desktopAgent")?.to_string())).collect();
                assert_eq!(names.len(), all.len(), "two agents have one name");
            }
            MessageType::Request(exchange) if message.meta.response.is_none() => {
                // Nobody speaks for somebody else, nor hears himself.
                let source = message.meta.source.as_ref().and_then(|source| source.desktop_agent.clone());
                let source = source.expect("a request has a source");
                assert_ne!(self.bridge.name(agent), Some(&source), "its own message came back");
                let all = [LOCAL, OWN].into_iter().chain(OTHERS);
                let from = all.into_iter().find(|from| self.bridge.name(*from) == Some(&source));
                let from = from.expect("the source is an agent");
                if *exchange == Exchange::Broadcast
                    && let Some(frame) = self.last.get(&from)
                {
                    let payload = message.payload.as_bytes();
                    let found = frame.windows(payload.len().max(1)).any(|window| window == payload);
                    assert!(found, "a broadcast is not what was said: {}", message.payload);
                }
                self.inbox.entry(agent).or_default().push(id);
            }
            MessageType::RaiseIntentResult => {
                *self.results.entry((agent, id.clone())).or_default() += 1;
                self.is_asked(agent, &id, self.results[&(agent, id.clone())]);
            }
            _ => {
                *self.answers.entry((agent, id.clone())).or_default() += 1;
                self.is_asked(agent, &id, self.answers[&(agent, id.clone())]);
            }
        }
    }

    fn is_asked(&self, agent: AgentId, id: &Text, answers: usize) {
        let sent = self.sent.get(&(agent, id.clone())).copied().unwrap_or_default();
        assert!(answers <= sent, "{agent:?} has sent {id} {sent} times, and is answered {answers} times");
    }

    fn say(&mut self, agent: AgentId, frame: Bytes) {
        if !self.connected.contains(&agent) {
            return;
        }
        let id = Message::decode(&frame).map_or_else(|error| error.request, |message| message.meta.request);
        *self.sent.entry((agent, id.unwrap_or_default())).or_default() += 1;
        self.last.insert(agent, frame.clone());
        self.input(Input::Frame { agent, frame });
    }

    fn own_acts(&mut self) {
        // Its frames may make the bridge say something to it, and so on.
        for _ in 0..64 {
            let (frames, hangs_up, dials) = self.own.drain(self.now_ms);
            if frames.is_empty() && !hangs_up && !dials {
                return;
            }
            if hangs_up {
                self.disconnect(OWN);
            }
            for frame in frames {
                self.say(OWN, frame);
            }
            if dials {
                self.own.agent.handle(AgentInput::Opened, self.now_ms);
                self.connect(OWN);
            }
        }
        panic!("an agent and its bridge talk without end");
    }

    fn pass(&mut self, ms: u64) {
        let end = self.now_ms + ms;
        for _ in 0..20_000 {
            let due =
                [self.bridge.poll_timeout(), self.own.agent.poll_timeout(), self.lost.agent.poll_timeout()];
            let Some(due_ms) = due.into_iter().flatten().min().filter(|due_ms| *due_ms <= end) else {
                self.now_ms = end;
                return;
            };
            self.now_ms = self.now_ms.max(due_ms);
            self.bridge.handle_timeout(self.now_ms);
            self.drain();
            self.own.agent.handle_timeout(self.now_ms);
            self.own_acts();
            self.lost.agent.handle_timeout(self.now_ms);
            self.lost_acts();
        }
        panic!("something is due without end");
    }

    fn lost_acts(&mut self) {
        let (_, _, dials) = self.lost.drain(self.now_ms);
        if dials {
            self.lost.agent.handle(AgentInput::Opened, self.now_ms);
        }
    }

    fn step(&mut self, choices: &mut Choices<'_>) {
        let agent = choices.pick(&OTHERS);
        match choices.below(16) {
            0 => self.disconnect(agent),
            1 => {
                if !self.connected.contains(&agent) {
                    self.connect(agent);
                }
            }
            2 => self.pass(u64::from(choices.byte()) * 20),
            3 => self.own_asks(choices),
            4 => {
                let (exchange, payload) = (Self::exchange(choices), choices.pick(&PAYLOADS[5..8]));
                self.lost.ask(exchange, payload, Some("a"), self.now_ms);
                self.lost_acts();
            }
            5 | 6 => {
                let frame = frame(choices, &[Text::from_static("own-1"), Text::from_static("own-2")]);
                self.lost.agent.handle(AgentInput::Frame(frame), self.now_ms);
                self.lost_acts();
            }
            7 => {
                // What a bridge would say first, so that the rest is heard.
                let hello = r#"{"type":"hello","payload":{"desktopAgentBridgeVersion":"1.0","authRequired":false},"meta":{"timestamp":"t"}}"#;
                self.lost.agent.handle(AgentInput::Frame(Bytes::from_static(hello.as_bytes())), self.now_ms);
                let (frames, ..) = self.lost.drain(self.now_ms);
                if let Some(handshake) = frames.last().and_then(|frame| Message::decode(frame).ok()) {
                    let id = handshake.meta.request.unwrap_or_default();
                    let update = format!(
                        r#"{{"type":"connectedAgentsUpdate","payload":{{"addAgent":"lost","allAgents":[],"channelsState":{{}}}},"meta":{{"requestUuid":"{id}","responseUuid":"u"}}}}"#
                    );
                    self.lost.agent.handle(AgentInput::Frame(Bytes::from(update)), self.now_ms);
                }
                self.lost_acts();
            }
            _ => {
                let known = self.inbox.get(&agent).cloned().unwrap_or_default();
                let frame = frame(choices, &known);
                self.say(agent, frame);
                self.own_acts();
            }
        }
    }

    fn exchange(choices: &mut Choices<'_>) -> Exchange {
        choices.pick(&[
            Exchange::FindIntent,
            Exchange::FindIntentsByContext,
            Exchange::FindInstances,
            Exchange::GetAppMetadata,
            Exchange::Open,
            Exchange::RaiseIntent,
        ])
    }

    fn own_asks(&mut self, choices: &mut Choices<'_>) {
        let exchange = Self::exchange(choices);
        let payload = choices.pick(&PAYLOADS[5..8]);
        let to = choices.pick(&[None, Some("a"), Some("a-2"), Some("local"), Some("ghost")]);
        self.own.ask(exchange, payload, to, self.now_ms);
        self.own_acts();
    }

    fn finish(mut self) {
        self.pass(LONG_MS);
        // What came of the last step, when nothing was due any more.
        self.own_acts();
        self.lost_acts();
        for client in [&self.own, &self.lost] {
            assert!(client.open.is_empty(), "never answered: {:?}", client.open);
            assert_eq!(client.asked, client.answered);
        }
        for agent in self.connected.clone() {
            self.disconnect(agent);
        }
        assert!(self.bridge.is_idle(), "something is left: {:?}", self.bridge);
    }
}

/// A message of the protocol with strange parts, or something that is none.
fn frame(choices: &mut Choices<'_>, known: &[Text]) -> Bytes {
    if choices.once_in(16) {
        let count = choices.below(64);
        return Bytes::copy_from_slice(choices.bytes(count));
    }
    let kind = choices.pick(&TYPES);
    let payload = choices.pick(&PAYLOADS);
    let id = match choices.below(4) {
        0 => "own-1".to_owned(),
        1 => format!("r{}", choices.below(4)),
        _ if known.is_empty() => "h".to_owned(),
        _ => known[choices.below(known.len().min(256))].to_string(),
    };
    let mut meta = vec![format!(r#""requestUuid":"{id}""#)];
    if kind.ends_with("Response") || choices.once_in(8) {
        meta.push(r#""responseUuid":"s""#.to_owned());
    }
    for member in ["source", "destination"] {
        match choices.below(4) {
            0 => {
                let name = choices.pick(&NAMES);
                meta.push(format!(r#""{member}":{{"desktopAgent":"{name}","appId":"x","instanceId":"i"}}"#));
            }
            1 => meta.push(format!(r#""{member}":null"#)),
            _ => {}
        }
    }
    match choices.below(16) {
        0 => drop(meta.remove(0)),
        1 => meta.push(r#""requestUuid":7"#.to_owned()),
        2 => meta.push(r#""timestamp":"2026-01-01T00:00:00.123456+00:00","responseUuid":null"#.to_owned()),
        _ => {}
    }
    let mut text =
        format!(r#"{{"type":"{kind}","payload":{payload},"meta":{{{}}}}}"#, meta.join(",")).into_bytes();
    if choices.once_in(8) {
        let at = usize::from(choices.byte()) * 2 % text.len();
        match choices.below(3) {
            0 => text[at] = choices.byte(),
            1 => drop(text.drain(at..(at + 9).min(text.len()))),
            _ => text.extend_from_within(at..),
        }
    }
    Bytes::from(text)
}
