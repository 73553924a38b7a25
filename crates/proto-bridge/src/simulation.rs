//! Random agents at one bridge: they answer, err, stay silent, talk nonsense, leave and come back. Each seed
//! is a run of its own; a failure names its seed.

use std::collections::{BTreeMap, BTreeSet};

use bytes::Bytes;
use mesh_model::{Json, Text};

use crate::*;

/// SplitMix64.
struct Rng(u64);

impl Rng {
    fn below(&mut self, bound: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (z ^ (z >> 31)) % bound
    }

    fn chance(&mut self, percent: u64) -> bool {
        self.below(100) < percent
    }
}

/// A request that an agent has sent, and what the bridge has to make of it.
struct Asked {
    by: AgentId,
    exchange: Exchange,
    /// Who was there to be asked, by name.
    recipients: BTreeSet<Text>,
    /// Messages with its id that reached the asker and are not results.
    answers: usize,
    delivered: bool,
    results: usize,
}

struct World {
    rng: Rng,
    bridge: Bridge,
    now_ms: u64,
    next_agent: u64,
    next_request: u64,
    /// Who is connected; named once it has joined. Those without a connection, too.
    connected: BTreeMap<AgentId, Option<Text>>,
    local: BTreeSet<AgentId>,
    asked: BTreeMap<Text, Asked>,
    /// Requests that lie with an agent.
    inbox: Vec<(AgentId, Text, Exchange)>,
    handling: Vec<(AgentId, Text)>,
}

const ASKED: [Exchange; 6] = [
    Exchange::FindIntent,
    Exchange::FindIntentsByContext,
    Exchange::FindInstances,
    Exchange::GetAppMetadata,
    Exchange::Open,
    Exchange::RaiseIntent,
];

impl World {
    fn new(seed: u64) -> Self {
        let mut ids = Rng(!seed);
        let uuids =
            Uuids::new(move || u128::from(ids.below(u64::MAX)) << 64 | u128::from(ids.below(u64::MAX)));
        let settings = BridgeSettings {
            impatient_providers: vec![Text::from("p0")],
            limits: BridgeLimits { agents_max: 1_000, ..BridgeLimits::default() },
            ..BridgeSettings::default()
        };
        Self {
            rng: Rng(seed),
            bridge: Bridge::new(settings, uuids),
            now_ms: 0,
            next_agent: 1,
            next_request: 1,
            connected: BTreeMap::new(),
            local: BTreeSet::new(),
            asked: BTreeMap::new(),
            inbox: Vec::new(),
            handling: Vec::new(),
        }
    }

    fn named(&self) -> Vec<(AgentId, Text)> {
        self.connected.iter().filter_map(|(agent, name)| Some((*agent, name.clone()?))).collect()
    }

    fn anybody(&mut self) -> Option<(AgentId, Text)> {
        let named = self.named();
        let at = self.rng.below(named.len().max(1) as u64);
        named.get(usize::try_from(at).unwrap()).cloned()
    }

    fn input(&mut self, input: Input) {
        self.bridge.handle(input, self.now_ms);
        self.drain();
    }

    fn say(&mut self, agent: AgentId, message: Message) {
        self.input(match self.local.contains(&agent) {
            true => Input::Message { agent, message },
            false => Input::Frame { agent, frame: message.encode() },
        });
    }

    fn drain(&mut self) {
        while let Some(output) = self.bridge.poll_output() {
            match output {
                Output::Frame { agent, frame } => {
                    assert!(!self.local.contains(&agent));
                    self.delivered(agent, Message::decode(&frame).unwrap());
                }
                Output::Message { agent, message } => {
                    assert!(self.local.contains(&agent));
                    self.delivered(agent, message);
                }
                Output::Close { agent, .. } => self.forget(agent),
                Output::CheckToken { .. } => panic!("nobody asked for tokens"),
                Output::Notice { .. } => {}
            }
        }
    }

    fn delivered(&mut self, agent: AgentId, message: Message) {
        assert!(self.connected.contains_key(&agent), "to {agent:?}, which is gone: {message:?}");
        let id = message.meta.request.clone();
        match &message.message_type {
            MessageType::ConnectedAgentsUpdate => self.updated(agent, &message),
            MessageType::Request(exchange) if message.meta.response.is_none() => {
                let source = message.meta.source.as_ref().unwrap().desktop_agent.clone().unwrap();
                assert_ne!(self.connected[&agent].as_ref(), Some(&source), "its own message came back");
                if exchange.answered() != Answered::Never {
                    self.inbox.push((agent, id.unwrap(), *exchange));
                }
            }
            MessageType::Response(_) => self.answered(agent, &message),
            MessageType::RaiseIntentResult => {
                let asked = self.asked.get_mut(&id.unwrap()).unwrap();
                assert_eq!(asked.by, agent);
                assert!(asked.delivered, "a result before its resolution");
                asked.results += 1;
                assert_eq!(asked.results, 1);
            }
            // What was said of nonsense.
            _ => {}
        }
    }

    fn updated(&mut self, agent: AgentId, message: &Message) {
        if let Some(name) = message.payload.member("addAgent").and_then(|name| name.as_text())
            && let Some(own) = self.bridge.name(agent).cloned()
            && own == name
        {
            assert!(self.connected.values().all(|other| other.as_ref() != Some(&own)), "{own} twice");
            self.connected.insert(agent, Some(own));
        }
        let all = message.payload.member("allAgents").unwrap().elements().unwrap();
        let all = all.iter().map(|one| one.member("desktopAgent").unwrap().as_text().unwrap());
        let all = all.collect::<BTreeSet<_>>();
        assert!(all.contains(self.connected[&agent].as_ref().unwrap()));
    }

    fn answered(&mut self, agent: AgentId, message: &Message) {
        let id = message.meta.request.clone().unwrap();
        // An error about its own nonsense is not an answer to a request of its own.
        let Some(asked) = self.asked.get_mut(&id).filter(|asked| asked.by == agent) else {
            assert_eq!(message.error(), Some(error::MALFORMED));
            return;
        };
        assert_eq!(message.message_type, asked.exchange.answer_type());
        asked.answers += 1;
        assert_eq!(asked.answers, 1, "{id} is answered twice");
        asked.delivered = message.error().is_none();
        let sources = message.meta.sources.iter();
        let failures = message.meta.failures.iter().map(|failure| &failure.source);
        let names = sources.chain(failures).map(|source| source.desktop_agent.clone().unwrap());
        let names = names.collect::<Vec<_>>();
        let distinct = names.iter().cloned().collect::<BTreeSet<_>>();
        assert_eq!(distinct.len(), names.len(), "{id}: somebody is named twice");
        assert_eq!(distinct, asked.recipients, "{id}");
        match message.error() {
            Some(error) => {
                assert!(message.meta.sources.is_empty());
                assert!(message.meta.failures.iter().any(|failure| failure.detail == error));
            }
            None => {
                let left = |failure: &Failure| failure.detail == error::DISCONNECTED;
                let failures = &message.meta.failures;
                assert!(!message.meta.sources.is_empty() || failures.iter().all(left), "{message:?}");
            }
        }
    }

    fn forget(&mut self, agent: AgentId) {
        self.connected.remove(&agent);
        // Nobody is there to be answered any more.
        self.asked.retain(|_, asked| asked.by != agent);
        self.inbox.retain(|(of, ..)| *of != agent);
        self.handling.retain(|(of, _)| *of != agent);
    }

    fn step(&mut self) {
        match self.rng.below(20) {
            0 => self.join(),
            1 if self.connected.len() > 2 => {
                let agents = self.connected.keys().copied().collect::<Vec<_>>();
                let at = usize::try_from(self.rng.below(agents.len() as u64)).unwrap();
                self.forget(agents[at]);
                self.input(Input::Disconnected { agent: agents[at] });
            }
            2 => self.nonsense(),
            3 => self.broadcast(),
            4..=8 => self.ask(),
            9..=15 => self.answer(),
            16 => self.finish(),
            _ => {
                let ms = self.rng.below(2_000);
                self.pass(ms);
            }
        }
    }

    fn join(&mut self) {
        let agent = AgentId(self.next_agent);
        self.next_agent += 1;
        self.connected.insert(agent, None);
        let kind = self.rng.below(3);
        let implementation = Json::assembled(format!(r#"{{"provider":"p{kind}"}}"#).into_bytes());
        if self.rng.chance(20) {
            self.local.insert(agent);
            let (requested_name, channels) = (Text::from(format!("n{kind}@node")), ChannelsState::default());
            return self.input(Input::Joined { agent, requested_name, implementation, channels });
        }
        self.input(Input::Connected { agent, auth_token: None });
        // Some never shake hands.
        if self.rng.chance(90) {
            let payload = format!(
                r#"{{"requestedName":"n{kind}","implementationMetadata":{implementation},"channelsState":{{"c":[{{"type":"t{kind}"}}]}}}}"#
            );
            let frame = format!(
                r#"{{"type":"handshake","payload":{payload},"meta":{{"requestUuid":"j{}"}}}}"#,
                agent.0
            );
            self.input(Input::Frame { agent, frame: Bytes::from(frame) });
            assert!(self.connected[&agent].is_some());
        }
    }

    fn ask(&mut self) {
        let Some((by, name)) = self.anybody() else { return };
        let exchange = ASKED[usize::try_from(self.rng.below(6)).unwrap()];
        let others = self.named().into_iter().filter(|(agent, _)| *agent != by).map(|(_, name)| name);
        let others = others.collect::<BTreeSet<_>>();
        let one = exchange.answered() == Answered::Once || self.rng.chance(20);
        let recipients = if one {
            let ghost = (others.is_empty() || self.rng.chance(5)).then(|| Text::from("ghost"));
            let at = usize::try_from(self.rng.below(others.len().max(1) as u64)).unwrap();
            BTreeSet::from([ghost.or_else(|| others.iter().nth(at).cloned()).unwrap_or(name)])
        } else {
            others
        };
        let payload = r#"{"app":{"appId":"x"},"intent":"I","context":{"type":"t"}}"#;
        let mut message = Message::request(exchange, Json::from_static(payload), None);
        let id = Text::from(format!("r{}", self.next_request));
        self.next_request += 1;
        message.meta.request = Some(id.clone());
        message.meta.destination = recipients.first().filter(|_| one).cloned().map(Participant::agent);
        let asked = Asked { by, exchange, recipients, answers: 0, delivered: false, results: 0 };
        self.asked.insert(id, asked);
        self.say(by, message);
    }

    fn answer(&mut self) {
        if self.inbox.is_empty() {
            return;
        }
        let at = usize::try_from(self.rng.below(self.inbox.len() as u64)).unwrap();
        // Some answer again, or keep the request and never do.
        let (agent, id, exchange) = match self.rng.chance(90) {
            true => self.inbox.remove(at),
            false => self.inbox[at].clone(),
        };
        if self.rng.chance(15) {
            return;
        }
        let payload = match self.rng.below(10) {
            0 | 1 => r#"{"error":"NoAppsFound"}"#,
            2 => "{}",
            _ => match exchange {
                Exchange::FindIntent => r#"{"appIntent":{"intent":{"name":"I"},"apps":[{"appId":"x"}]}}"#,
                Exchange::FindIntentsByContext => {
                    r#"{"appIntents":[{"intent":{"name":"I"},"apps":[{"appId":"x"}]}]}"#
                }
                Exchange::FindInstances => r#"{"appIdentifiers":[{"appId":"x","instanceId":"i"}]}"#,
                Exchange::GetAppMetadata => r#"{"appMetadata":{"appId":"x"}}"#,
                Exchange::Open => r#"{"appIdentifier":{"appId":"x","instanceId":"i"}}"#,
                _ => r#"{"intentResolution":{"intent":"I","source":{"appId":"x"}}}"#,
            },
        };
        if exchange == Exchange::RaiseIntent {
            self.handling.push((agent, id.clone()));
            // Some handlers are quicker than their agent.
            if self.rng.chance(30) {
                self.finish();
            }
        }
        let mut message = Message::response(exchange, id, Json::from_static(payload));
        message.meta.response = Some(Text::from("response"));
        self.say(agent, message);
    }

    fn finish(&mut self) {
        if let Some((agent, id)) = self.handling.pop() {
            let mut message = Message::intent_result(id, Json::from_static("{}"));
            message.meta.response = Some(Text::from("response"));
            self.say(agent, message);
        }
    }

    fn broadcast(&mut self) {
        if let Some((agent, _)) = self.anybody() {
            let payload = Json::from_static(r#"{"channelId":"c","context":{"type":"t"}}"#);
            let mut message = Message::request(Exchange::Broadcast, payload, None);
            message.meta.request = Some(Text::from("broadcast"));
            self.say(agent, message);
        }
    }

    /// Answers to requests of others, messages of no type, frames that are no messages.
    fn nonsense(&mut self) {
        let Some((agent, _)) = self.anybody() else { return };
        let known = self.asked.iter().filter(|(_, asked)| asked.by != agent).map(|(id, _)| id.clone());
        let known = known.collect::<Vec<_>>();
        let at = usize::try_from(self.rng.below(known.len().max(1) as u64)).unwrap();
        if let Some(id) = known.get(at)
            && self.rng.chance(50)
        {
            // Somebody else's id.
            let payload = Json::from_static(r#"{"app":{"appId":"x"}}"#);
            let mut message = Message::request(Exchange::FindInstances, payload, None);
            message.meta.request = Some(id.clone());
            return self.say(agent, message);
        }
        if !self.local.contains(&agent) {
            let frame = Bytes::from_static(match self.rng.below(3) {
                0 => br#"{"type":"strange","payload":{},"meta":{"requestUuid":"s"}}"#,
                1 => br#"{"type":"findIntentRequest","payload":{}}"#,
                _ => b"?",
            });
            self.input(Input::Frame { agent, frame });
        }
    }

    fn pass(&mut self, ms: u64) {
        let end = self.now_ms + ms;
        while let Some(due_ms) = self.bridge.poll_timeout().filter(|due_ms| *due_ms <= end) {
            assert!(due_ms > self.now_ms || due_ms == 0, "something is due without end");
            self.now_ms = due_ms;
            self.bridge.handle_timeout(due_ms);
            self.drain();
        }
        self.now_ms = end;
    }

    fn run(mut self) -> Self {
        for _ in 0..400 {
            self.step();
        }
        // Whoever has not answered by now never will.
        self.pass(120_000);
        for (id, asked) in &self.asked {
            assert_eq!(asked.answers, 1, "{id} ({:?})", asked.exchange);
        }
        self
    }

    /// Everybody leaves.
    fn end(mut self) {
        // With something to forget.
        for _ in 0..10 {
            self.ask();
        }
        for agent in self.connected.keys().copied().collect::<Vec<_>>() {
            self.forget(agent);
            self.input(Input::Disconnected { agent });
        }
        assert!(self.bridge.is_idle(), "{:?}", self.bridge);
    }
}

#[test]
fn every_request_is_answered_once() {
    let (mut answered, mut results) = (0, 0);
    for seed in 0..300 {
        let world = std::panic::catch_unwind(|| World::new(seed).run());
        let world = world.unwrap_or_else(|_| panic!("seed {seed}"));
        answered += world.asked.len();
        results += world.asked.values().map(|asked| asked.results).sum::<usize>();
        world.end();
    }
    // Else nothing was tried.
    assert!(answered > 5_000 && results > 100, "{answered} answers, {results} results");
}

#[test]
fn a_seed_gives_the_same_run_again() {
    let trace = |seed| {
        let world = World::new(seed).run();
        (world.next_request, world.now_ms, format!("{:?}", world.bridge))
    };
    assert_eq!(trace(7), trace(7));
    assert_ne!(trace(7).2, trace(8).2);
}

/// Frames with parts overwritten, left out and repeated, from an agent that has joined and for one that has
/// not; and the same to an agent.
#[test]
fn strange_frames_do_no_harm() {
    let frames = [
        r#"{"type":"handshake","payload":{"requestedName":"n","implementationMetadata":{"provider":"p"},"channelsState":{"c":[{"type":"t"}]}},"meta":{"requestUuid":"h"}}"#,
        r#"{"type":"findInstancesResponse","payload":{"appIdentifiers":[{"appId":"x"}]},"meta":{"requestUuid":"f","responseUuid":"r"}}"#,
        r#"{"type":"raiseIntentRequest","payload":{"intent":"I","context":{"type":"t"},"app":{"appId":"x","desktopAgent":"a"}},"meta":{"requestUuid":"i","source":{"appId":"\ud800"},"destination":{"desktopAgent":"a"}}}"#,
        r#"{"type":"connectedAgentsUpdate","payload":{"addAgent":"n","allAgents":[{"desktopAgent":"n"}],"channelsState":{}},"meta":{"requestUuid":"h","responseUuid":"u"}}"#,
        r#"{"type":"broadcastRequest","payload":{"channelId":"c","context":{"type":"t","n":[1.0,{"a":null}]}},"meta":{"requestUuid":"b"}}"#,
    ];
    let mut rng = Rng(1);
    let mut world = World::new(1);
    for _ in 0..4 {
        world.join();
    }
    let mut ids = 0;
    let settings = AgentSettings::new(Text::from("a"), Json::from_static("{}"));
    let mut seeker = BridgeAgent::new(settings, Uuids::new(|| 1));
    for number in 0..4_000 {
        let mut frame = frames[usize::try_from(rng.below(5)).unwrap()].as_bytes().to_vec();
        for _ in 0..rng.below(4) {
            let at = usize::try_from(rng.below(frame.len() as u64)).unwrap();
            match rng.below(3) {
                0 => frame[at] = b"{}[]\",:\\0e\xff"[usize::try_from(rng.below(11)).unwrap()],
                1 => drop(frame.drain(at..(at + 9).min(frame.len()))),
                _ => frame.extend_from_within(at..),
            }
            if frame.is_empty() {
                frame.push(b'{');
            }
        }
        let frame = Bytes::from(frame);
        let agent = AgentId(1_000 + number / 16);
        world.bridge.handle(Input::Connected { agent, auth_token: None }, number);
        world.bridge.handle(Input::Frame { agent, frame: frame.clone() }, number);
        while let Some(output) = world.bridge.poll_output() {
            if let Output::Frame { frame, .. } = output {
                Message::decode(&frame).unwrap();
                ids += 1;
            }
        }
        seeker.handle_timeout(number);
        seeker.handle(AgentInput::Opened, number);
        seeker.handle(AgentInput::Frame(frame), number);
        while seeker.poll_output().is_some() {}
    }
    assert!(ids > 4_000, "{ids}");
}
