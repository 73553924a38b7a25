//! The bridge's side: who is connected, what they ask of each other, and what is on the channels.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::fmt;

use bytes::Bytes;
use mesh_model::{Json, Text};

use crate::channels::ChannelsState;
use crate::collate::{collated, missing, stamped};
use crate::message::{
    Answered, DecodeError, Exchange, Failure, Message, MessageType, Meta, Object, Participant, Problem,
    array, error, error_payload, implementation,
};
use crate::names::{Applicant, Names, tidied};
use crate::settings::{Authentication, BridgeSettings};
use crate::uuids::{Uuids, timestamp};

/// One agent's attachment to a bridge. The caller numbers them, and uses no number twice.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct AgentId(pub u64);

/// What a bridge is told.
#[derive(Clone, Debug)]
#[expect(clippy::large_enum_variant, reason = "moved a few times, and matched on by every caller")]
pub enum Input {
    /// An agent has opened a connection.
    Connected {
        /// Its number.
        agent: AgentId,
    },
    /// A text frame came from it.
    Frame {
        /// From whom.
        agent: AgentId,
        /// The frame.
        frame: Bytes,
    },
    /// The caller has looked at its token; see [`Output::CheckToken`].
    Checked {
        /// Whose.
        agent: AgentId,
        /// What came of it.
        verdict: Verdict,
    },
    /// An agent without a connection takes part: the program that holds the bridge, or one that it speaks
    /// for, whose name says so (`name@node`). It gets messages as values.
    Joined {
        /// Its number.
        agent: AgentId,
        /// The name it would like.
        requested_name: Text,
        /// What `getInfo` says of it.
        implementation: Json,
        /// What is on its channels.
        channels: ChannelsState,
    },
    /// An agent without a connection says something. The bridge sets ids, times and its name where they
    /// are not set.
    Message {
        /// Who.
        agent: AgentId,
        /// What.
        message: Message,
    },
    /// An agent is gone.
    Disconnected {
        /// Who.
        agent: AgentId,
    },
}

/// What the caller says of a token.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// The agent may join.
    Admitted,
    /// It may not; the sentence is for its operator.
    Refused(Text),
}

/// What a bridge wants done.
#[derive(Clone, Debug, PartialEq, Eq)]
#[expect(clippy::large_enum_variant, reason = "moved a few times, and matched on by every caller")]
pub enum Output {
    /// Send a text frame.
    Frame {
        /// To whom.
        agent: AgentId,
        /// The frame.
        frame: Bytes,
    },
    /// Give a message to an agent without a connection.
    Message {
        /// To whom.
        agent: AgentId,
        /// The message.
        message: Message,
    },
    /// Check the token of a handshake, and answer with [`Input::Checked`].
    CheckToken {
        /// Whose.
        agent: AgentId,
        /// The token, if there was one.
        token: Option<Text>,
    },
    /// Close a connection once what was sent before is written. The agent is gone for the bridge already.
    Close {
        /// Whose.
        agent: AgentId,
        /// Why.
        because: Closing,
    },
    /// Something worth a line in a log.
    Notice {
        /// About whom.
        agent: AgentId,
        /// What.
        notice: Notice,
    },
}

/// Why a bridge closes a connection.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Closing {
    /// It was not let in; the agent has been told the sentence.
    NotAdmitted(Text),
    /// So many messages in a row said too little to be answered.
    Unreadable(usize),
    /// It has sent nothing for so many milliseconds, and answers nothing.
    Silent(u64),
}

impl fmt::Display for Closing {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NotAdmitted(why) => f.write_str(why),
            Self::Unreadable(max) => {
                write!(f, "{max} messages in a row were unreadable (limit bridge_unreadable_max)")
            }
            Self::Silent(ms) => write!(f, "nothing came for {ms} ms, and requests were not answered"),
        }
    }
}

/// Something a bridge tells its operator.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Notice {
    /// The agent has joined under this name.
    Joined(Text),
    /// The agent of this name has left.
    Left(Text),
    /// A message was not taken.
    NotTaken(Problem),
    /// An answer came too late, twice, or from an agent that was not asked.
    Unasked(Text),
    /// The agent did not answer this request in time.
    Unanswered(Text),
    /// A limit was reached.
    Limit(&'static str),
}

impl fmt::Display for Notice {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Joined(name) => write!(f, "{name} has joined the bridge"),
            Self::Left(name) => write!(f, "{name} has left the bridge"),
            Self::NotTaken(problem) => write!(f, "a message was not taken: {problem}"),
            Self::Unasked(request) => {
                write!(f, "an answer to {request} was dropped: late, second, or not asked for")
            }
            Self::Unanswered(request) => write!(f, "request {request} was not answered in time"),
            Self::Limit(name) => write!(f, "limit {name} is reached"),
        }
    }
}

/// A Desktop Agent Bridge.
#[derive(Debug)]
pub struct Bridge {
    settings: BridgeSettings,
    uuids: Uuids,
    agents: BTreeMap<AgentId, Agent>,
    names: Names,
    channels: ChannelsState,
    requests: BTreeMap<Text, Request>,
    /// Intents that were delivered and whose result is outstanding.
    results: BTreeMap<Text, Outstanding>,
    /// By raiser and age, so that the oldest can be given up.
    results_by_age: BTreeSet<(AgentId, u64, Text)>,
    deadlines: BTreeSet<(u64, Deadline)>,
    recent: Recent,
    outputs: VecDeque<Output>,
    now_ms: u64,
    /// Counts results, for their age.
    raised: u64,
}

#[derive(Debug)]
struct Agent {
    /// Without a connection.
    is_local: bool,
    state: AgentState,
    /// Messages in a row that said too little to be answered.
    unreadable: usize,
    /// Answers in a row that did not come.
    unanswered: u32,
    heard_ms: u64,
    /// Its requests that wait.
    requests: usize,
}

#[derive(Debug)]
enum AgentState {
    /// Has been sent `hello`.
    Greeted { until_ms: u64 },
    /// Its token is being checked.
    Checked { until_ms: u64, handshake: Box<Message> },
    /// Takes part.
    Named { name: Text, applicant: Applicant, is_impatient: bool },
}

#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Deadline {
    Handshake(AgentId),
    Request(Text),
}

/// A request that waits for answers.
#[derive(Debug)]
struct Request {
    from: AgentId,
    exchange: Exchange,
    /// The intent it asks for.
    intent: Option<Json>,
    /// The one agent it goes to; else it is collated.
    to_one: bool,
    recipients: Vec<Recipient>,
    /// `responseUuid` of the one agent's answer.
    response: Option<Text>,
    /// When it is answered with what is there.
    deadline_ms: u64,
    /// What is said of who has not answered by then.
    overdue: Text,
    /// A result that came before the answer it belongs behind.
    early_result: Option<Message>,
}

#[derive(Debug)]
struct Recipient {
    agent: AgentId,
    name: Text,
    /// How long this one is waited for.
    until_ms: u64,
    answer: Option<Result<Json, Text>>,
}

/// A result that is outstanding.
#[derive(Debug)]
struct Outstanding {
    from: AgentId,
    handler: AgentId,
    handler_name: Text,
    age: u64,
}

/// Ids of requests that have ended.
#[derive(Debug, Default)]
struct Recent {
    order: VecDeque<Text>,
    ids: BTreeSet<Text>,
}

impl Bridge {
    /// Makes a bridge that nobody has joined.
    #[must_use]
    pub fn new(settings: BridgeSettings, uuids: Uuids) -> Self {
        Self {
            settings,
            uuids,
            agents: BTreeMap::new(),
            names: Names::default(),
            channels: ChannelsState::default(),
            requests: BTreeMap::new(),
            results: BTreeMap::new(),
            results_by_age: BTreeSet::new(),
            deadlines: BTreeSet::new(),
            recent: Recent::default(),
            outputs: VecDeque::new(),
            now_ms: 0,
            raised: 0,
        }
    }

    /// Takes an input.
    pub fn handle(&mut self, input: Input, now_ms: u64) {
        self.now_ms = now_ms;
        match input {
            Input::Connected { agent } => self.connected(agent),
            Input::Frame { agent, frame } => self.frame(agent, &frame),
            Input::Checked { agent, verdict } => self.checked(agent, verdict),
            Input::Joined { agent, requested_name, implementation: metadata, channels } => {
                if self.agents.contains_key(&agent) {
                    return;
                }
                let name = tidied(&requested_name, self.settings.limits.name_bytes_max);
                let applicant =
                    Applicant { requested: name, implementation: implementation(&metadata, None) };
                let request = self.uuids.draw();
                self.agents
                    .insert(agent, Agent::new(true, AgentState::Greeted { until_ms: u64::MAX }, now_ms));
                self.join(agent, applicant, &channels, request);
            }
            Input::Message { agent, message } => self.local_message(agent, message),
            Input::Disconnected { agent } => self.gone(agent),
        }
    }

    /// Does what is due.
    pub fn handle_timeout(&mut self, now_ms: u64) {
        self.now_ms = now_ms;
        while let Some((due_ms, _)) = self.deadlines.first()
            && *due_ms <= now_ms
            && let Some((_, deadline)) = self.deadlines.pop_first()
        {
            match deadline {
                Deadline::Handshake(agent) => {
                    let ms = self.settings.handshake_timeout_ms;
                    self.refuse(agent, None, Text::from(format!("no handshake was complete within {ms} ms")));
                }
                Deadline::Request(request) => self.finish(&request),
            }
        }
    }

    /// Returns the next thing to do.
    pub fn poll_output(&mut self) -> Option<Output> {
        self.outputs.pop_front()
    }

    /// Returns when [`handle_timeout`](Self::handle_timeout) is due.
    #[must_use]
    pub fn poll_timeout(&self) -> Option<u64> {
        self.deadlines.first().map(|(due_ms, _)| *due_ms)
    }

    /// Returns the name of an agent that takes part.
    #[must_use]
    pub fn name(&self, agent: AgentId) -> Option<&Text> {
        self.agents.get(&agent)?.name()
    }

    /// Returns what is on the channels.
    #[must_use]
    pub const fn channels(&self) -> &ChannelsState {
        &self.channels
    }
}

/// Connecting (Bridging, *Bridge Connection Protocol*). From a handshake that may join to the update, all is
/// done in one go, so that joiners come one at a time and nothing happens in between.
impl Bridge {
    fn connected(&mut self, agent: AgentId) {
        if self.agents.contains_key(&agent) {
            return;
        }
        let until_ms = self.now_ms.saturating_add(self.settings.handshake_timeout_ms);
        self.agents.insert(agent, Agent::new(false, AgentState::Greeted { until_ms }, self.now_ms));
        let max = self.settings.limits.agents_max;
        if self.agents.values().filter(|agent| !agent.is_local).count() > max {
            let why = format!("limit bridge_agents_max ({max}) is reached: disconnect another agent");
            return self.refuse(agent, None, Text::from(why));
        }
        self.deadlines.insert((until_ms, Deadline::Handshake(agent)));
        let mut payload = Object::new();
        payload.text("desktopAgentBridgeVersion", Some(&self.settings.bridge_version));
        let versions = self.settings.fdc3_versions.iter().map(|version| Json::string(version));
        payload.value("supportedFDC3Versions", &array(versions));
        let tokens = match &self.settings.authentication {
            Authentication::Off => None,
            Authentication::Tokens { own } => Some(own),
        };
        payload.value("authRequired", &Json::from_static(if tokens.is_some() { "true" } else { "false" }));
        payload.text("authToken", tokens.and_then(Option::as_ref));
        let meta = Meta { timestamp: Some(timestamp(self.now_ms)), ..Meta::default() };
        let hello = Message { message_type: MessageType::Hello, payload: payload.end(), meta };
        self.send(agent, hello);
    }

    fn handshake(&mut self, agent: AgentId, decoded: Result<Message, DecodeError>) {
        let handshake = match decoded {
            Ok(message) if message.message_type == MessageType::Handshake => message,
            Ok(message) => {
                let why = "the first message must be a handshake".into();
                return self.refuse(agent, message.meta.request, why);
            }
            Err(error) => {
                let why = format!("the first message must be a handshake: {error}");
                return self.refuse(agent, error.request, why.into());
            }
        };
        let Some(request) = handshake.meta.request.clone() else {
            let why = "the handshake has no meta.requestUuid, so its answer could not be recognized".into();
            return self.refuse(agent, None, why);
        };
        let member = |name| handshake.payload.member(name);
        let named = member("requestedName").is_some_and(|name| name.as_text().is_some());
        let described = member("implementationMetadata").is_some_and(|metadata| metadata.members().is_some());
        if !named || !described {
            let why = "the handshake lacks requestedName or implementationMetadata".into();
            return self.refuse(agent, Some(request), why);
        }
        if self.settings.authentication == Authentication::Off {
            return self.admit(agent, &handshake);
        }
        let Some(AgentState::Greeted { until_ms }) = self.agents.get(&agent).map(|agent| &agent.state) else {
            return;
        };
        let (until_ms, token) = (*until_ms, member("authToken").and_then(|token| token.as_text()));
        if let Some(agent) = self.agents.get_mut(&agent) {
            agent.state = AgentState::Checked { until_ms, handshake: Box::new(handshake) };
        }
        self.outputs.push_back(Output::CheckToken { agent, token });
    }

    fn checked(&mut self, agent: AgentId, verdict: Verdict) {
        let Some(AgentState::Checked { handshake, .. }) = self.agents.get(&agent).map(|agent| &agent.state)
        else {
            return;
        };
        let handshake = handshake.clone();
        match verdict {
            Verdict::Admitted => self.admit(agent, &handshake),
            Verdict::Refused(why) => self.refuse(agent, handshake.meta.request, why),
        }
    }

    fn admit(&mut self, agent: AgentId, handshake: &Message) {
        let limits = self.settings.limits;
        let member = |name| handshake.payload.member(name);
        let requested = member("requestedName").and_then(|name| name.as_text()).unwrap_or_default();
        // The part behind an `@` names another machine, which is not for the agents of this one to say.
        let requested = tidied(&requested.replace('@', "-"), limits.name_bytes_max);
        let metadata = member("implementationMetadata").unwrap_or_else(Json::null);
        let applicant = Applicant { requested, implementation: implementation(&metadata, None).detached() };
        let channels = member("channelsState").unwrap_or_else(Json::null);
        let (channels, reached) = ChannelsState::from_json(&channels, &limits.channels);
        self.limit(agent, reached);
        let request = handshake.meta.request.clone().unwrap_or_default();
        self.join(agent, applicant, &channels, request);
    }

    fn join(&mut self, agent: AgentId, applicant: Applicant, channels: &ChannelsState, request: Text) {
        let name = self.names.assign(agent, &applicant, self.now_ms);
        let provider = applicant.implementation.member("provider").and_then(|provider| provider.as_text());
        let is_impatient =
            provider.is_some_and(|provider| self.settings.impatient_providers.contains(&provider));
        let reached = self.channels.merge(channels, &self.settings.limits.channels);
        self.limit(agent, reached);
        if let Some(row) = self.agents.get_mut(&agent) {
            if let Some(until_ms) = row.handshake_until_ms() {
                self.deadlines.remove(&(until_ms, Deadline::Handshake(agent)));
            }
            row.state = AgentState::Named { name: name.clone(), applicant, is_impatient };
        }
        self.notice(agent, Notice::Joined(name.clone()));
        let mut payload = Object::new();
        payload.text("addAgent", Some(&name));
        payload.value("allAgents", &self.all_agents());
        payload.value("channelsState", &self.channels.to_json());
        self.update(payload.end(), Some(request));
    }

    /// Every update has all agents: some never look at `removeAgent`.
    fn all_agents(&self) -> Json {
        array(self.agents.values().filter_map(|agent| match &agent.state {
            AgentState::Named { name, applicant, .. } => {
                Some(implementation(&applicant.implementation, Some(name)))
            }
            _ => None,
        }))
    }

    fn update(&mut self, payload: Json, request: Option<Text>) {
        let response = self.uuids.draw();
        let meta = Meta {
            request: Some(request.unwrap_or_else(|| response.clone())),
            response: Some(response),
            timestamp: Some(timestamp(self.now_ms)),
            ..Meta::default()
        };
        let message = Message { message_type: MessageType::ConnectedAgentsUpdate, payload, meta };
        let everybody = self.named().map(|(agent, _)| agent).collect::<Vec<_>>();
        self.send_all(&everybody, message);
    }

    /// Turns away an agent that has not joined. It is told, and not only cut off: there are agents that dial
    /// again at once when an open connection just closes.
    fn refuse(&mut self, agent: AgentId, request: Option<Text>, why: Text) {
        let state = self.agents.get(&agent).map(|agent| &agent.state);
        let asked = match state {
            Some(AgentState::Checked { handshake, .. }) => handshake.meta.request.clone(),
            _ => None,
        };
        let response = self.uuids.draw();
        let mut payload = Object::new();
        payload.text("message", Some(&why));
        let meta = Meta {
            request: Some(request.or(asked).unwrap_or_else(|| response.clone())),
            response: Some(response),
            timestamp: Some(timestamp(self.now_ms)),
            ..Meta::default()
        };
        let message_type = MessageType::AuthenticationFailed;
        self.send(agent, Message { message_type, payload: payload.end(), meta });
        self.close(agent, Closing::NotAdmitted(why));
    }

    fn close(&mut self, agent: AgentId, because: Closing) {
        self.outputs.push_back(Output::Close { agent, because });
        self.gone(agent);
    }

    /// Forgets an agent, and ends what it asked and was asked (Bridging, *Workflows Broken By Disconnects*).
    fn gone(&mut self, agent: AgentId) {
        let Some(row) = self.agents.remove(&agent) else { return };
        let AgentState::Named { name, applicant, .. } = row.state else {
            if let Some(until_ms) = row.handshake_until_ms() {
                self.deadlines.remove(&(until_ms, Deadline::Handshake(agent)));
            }
            return;
        };
        let until_ms = self.now_ms.saturating_add(self.settings.name_grace_ms);
        self.names.release(&name, applicant, until_ms, self.settings.limits.former_names_max);
        self.notice(agent, Notice::Left(name.clone()));
        self.forget_requests_of(agent);
        self.fail_requests_to(agent);
        if self.named().next().is_none() {
            self.channels = ChannelsState::default();
            return;
        }
        let mut payload = Object::new();
        payload.text("removeAgent", Some(&name));
        payload.value("allAgents", &self.all_agents());
        self.update(payload.end(), None);
    }

    fn forget_requests_of(&mut self, agent: AgentId) {
        let own = self.requests.iter().filter(|(_, request)| request.from == agent);
        for id in own.map(|(id, _)| id.clone()).collect::<Vec<_>>() {
            self.take_request(&id);
        }
        let own = self.results.iter().filter(|(_, outstanding)| outstanding.from == agent);
        for id in own.map(|(id, _)| id.clone()).collect::<Vec<_>>() {
            self.take_result(&id);
        }
    }

    fn fail_requests_to(&mut self, agent: AgentId) {
        let asked = self.requests.iter().filter(|(_, request)| request.waits_for(agent));
        for id in asked.map(|(id, _)| id.clone()).collect::<Vec<_>>() {
            self.answer(&id, agent, Err(error::DISCONNECTED));
        }
        let handled = self.results.iter().filter(|(_, outstanding)| outstanding.handler == agent);
        for id in handled.map(|(id, _)| id.clone()).collect::<Vec<_>>() {
            self.fail_result(&id, error::DISCONNECTED);
        }
    }
}

/// Messages (Bridging, *Bridge Messaging Protocol*).
impl Bridge {
    fn frame(&mut self, agent: AgentId, frame: &Bytes) {
        let Some(row) = self.agents.get_mut(&agent).filter(|row| !row.is_local) else { return };
        row.heard_ms = self.now_ms;
        let decoded = Message::decode(frame);
        match &row.state {
            AgentState::Greeted { .. } => return self.handshake(agent, decoded),
            // An agent in a hurry is answered once it is in; until then nothing may change.
            AgentState::Checked { .. } => return,
            AgentState::Named { .. } => {}
        }
        let decoded = decoded.and_then(|message| match &message.meta.request {
            Some(_) => Ok(message),
            None => Err(DecodeError {
                message_type: Some(message.message_type),
                request: None,
                is_response: message.meta.response.is_some(),
                problem: Problem::Member("meta.requestUuid"),
            }),
        });
        match decoded {
            Ok(message) => {
                row.unreadable = 0;
                self.message(agent, message);
            }
            Err(error) => self.undecodable(agent, error),
        }
    }

    /// A message that names its request is answered; another is discarded, and counted.
    fn undecodable(&mut self, agent: AgentId, error: DecodeError) {
        let Some(request) = error.request else {
            self.notice(agent, Notice::NotTaken(error.problem));
            let max = self.settings.limits.unreadable_max;
            let Some(row) = self.agents.get_mut(&agent) else { return };
            row.unreadable += 1;
            if row.unreadable >= max {
                self.close(agent, Closing::Unreadable(max));
            }
            return;
        };
        let message_type = error.message_type.unwrap_or(MessageType::Other(Text::from("unknown")));
        if error.is_response && self.requests.get(&request).is_some_and(|r| r.waits_for(agent)) {
            self.malformed(agent, &message_type, request.clone(), error.problem);
            return self.answer(&request, agent, Err(error::MALFORMED));
        }
        self.malformed(agent, &message_type, request, error.problem);
    }

    fn local_message(&mut self, agent: AgentId, mut message: Message) {
        let Some(row) = self.agents.get_mut(&agent).filter(|row| row.is_local) else { return };
        row.heard_ms = self.now_ms;
        let is_response =
            matches!(message.message_type, MessageType::Response(_) | MessageType::RaiseIntentResult);
        if is_response && message.meta.response.is_none() {
            message.meta.response = Some(self.uuids.draw());
        }
        if !is_response && message.meta.request.is_none() {
            message.meta.request = Some(self.uuids.draw());
        }
        self.message(agent, message);
    }

    fn message(&mut self, agent: AgentId, message: Message) {
        let Some(request) = message.meta.request.clone() else { return };
        if message.meta.response.is_some()
            && let Some(row) = self.agents.get_mut(&agent)
        {
            // It does answer, if perhaps too late.
            row.unanswered = 0;
        }
        match (&message.message_type, message.meta.response.is_some()) {
            (MessageType::RaiseIntentResult, true) => self.result(agent, request, message),
            (MessageType::Request(exchange), false) => self.request(agent, *exchange, request, message),
            (_, is_response) => {
                let asked = self.requests.get(&request).filter(|request| request.waits_for(agent));
                let Some(asked) = asked else {
                    return match is_response {
                        true => self.notice(agent, Notice::Unasked(request)),
                        false => self.unexpected(agent, &message.message_type, request),
                    };
                };
                let expected = MessageType::Response(asked.exchange);
                if !is_response || message.message_type != expected {
                    self.unexpected(agent, &message.message_type, request.clone());
                    return self.answer(&request, agent, Err(error::MALFORMED));
                }
                self.response(agent, asked.exchange, request, &message);
            }
        }
    }

    fn request(&mut self, agent: AgentId, exchange: Exchange, id: Text, mut message: Message) {
        let message_type = message.message_type.clone();
        if let Some(member) = missing(exchange, &message.payload) {
            return self.malformed(agent, &message_type, id, Problem::Member(member));
        }
        let Some(row) = self.agents.get(&agent) else { return };
        let AgentState::Named { name, is_impatient, .. } = &row.state else { return };
        let (name, is_impatient, waiting) = (name.clone(), *is_impatient, row.requests);
        let source = message.meta.source.take().unwrap_or_default();
        let destination = message.meta.destination.take().filter(|_| exchange != Exchange::Broadcast);
        let to = destination
            .as_ref()
            .and_then(|destination| destination.desktop_agent.clone())
            .or_else(|| named_in_payload(exchange, &message.payload));
        message.meta = Meta {
            request: Some(id.clone()),
            timestamp: Some(timestamp(self.now_ms)),
            // Whatever it says, it speaks for itself.
            source: Some(Participant { desktop_agent: Some(name), ..source }),
            destination: destination.or_else(|| to.clone().map(Participant::agent)),
            ..Meta::default()
        };
        if exchange.answered() == Answered::Never {
            return self.tell(agent, exchange, to, message);
        }
        if let Some(problem) = self.reused(&id) {
            // The answer to its own request is still to come, and will do for both.
            return match self.requests.get(&id).is_some_and(|request| request.from == agent) {
                true => self.notice(agent, Notice::NotTaken(problem)),
                false => self.malformed(agent, &message_type, id, problem),
            };
        }
        if waiting >= self.settings.limits.requests_max {
            self.limit(agent, Some("bridge_requests_max"));
            let sources = to.into_iter().map(Participant::agent);
            let failures = sources.map(|source| Failure { source, detail: error::TIMED_OUT }).collect();
            return self.fail(agent, &exchange.answer_type(), id, &error::TIMED_OUT, failures);
        }
        if exchange.answered() == Answered::Once && to.is_none() {
            let problem = Problem::Member("meta.destination.desktopAgent");
            return self.malformed(agent, &message_type, id, problem);
        }
        let found = to.as_ref().map(|to| self.names.agent(to).filter(|found| *found != agent));
        if let (Some(None), Some(to)) = (&found, &to) {
            let failures = vec![Failure { source: Participant::agent(to.clone()), detail: error::NO_AGENT }];
            self.recent.push(id.clone(), self.settings.limits.recent_requests_max);
            return self.fail(agent, &exchange.answer_type(), id, &error::NO_AGENT, failures);
        }
        self.ask(agent, exchange, id, found.flatten(), is_impatient, message);
    }

    fn reused(&self, id: &Text) -> Option<Problem> {
        let known =
            self.requests.contains_key(id) || self.results.contains_key(id) || self.recent.contains(id);
        known.then(|| Problem::Reused(id.clone()))
    }

    /// Passes on what has no answer.
    fn tell(&mut self, agent: AgentId, exchange: Exchange, to: Option<Text>, message: Message) {
        if exchange == Exchange::Broadcast
            && let (Some(channel), Some(context)) = (
                message.payload.member("channelId").and_then(|channel| channel.as_text()),
                message.payload.member("context"),
            )
        {
            let kept = self.channels.broadcast(&channel, &context, &self.settings.limits.channels);
            self.limit(agent, kept.err());
        }
        let recipients = match to {
            Some(to) => self.names.agent(&to).into_iter().filter(|to| *to != agent).collect(),
            None => self.others(agent),
        };
        self.send_all(&recipients, message);
    }

    /// Passes on what has an answer, and notes who owes it.
    fn ask(
        &mut self,
        agent: AgentId,
        exchange: Exchange,
        id: Text,
        to: Option<AgentId>,
        is_impatient: bool,
        message: Message,
    ) {
        let agents = to.map_or_else(|| self.others(agent), |to| vec![to]);
        let starts_apps = matches!(exchange, Exchange::Open | Exchange::RaiseIntent);
        let settings = &self.settings;
        let patience = if starts_apps { settings.start_timeout_ms } else { settings.find_timeout_ms };
        let hurried = is_impatient && settings.impatient_timeout_ms < patience;
        let patience = if hurried { settings.impatient_timeout_ms } else { patience };
        let recipients = agents.iter().filter_map(|recipient| {
            let row = self.agents.get(recipient)?;
            let gave_up = to.is_none() && row.unanswered >= settings.unanswered_in_row;
            let patience = if gave_up { settings.unanswering_timeout_ms.min(patience) } else { patience };
            let until_ms = self.now_ms.saturating_add(patience);
            Some(Recipient { agent: *recipient, name: row.name()?.clone(), until_ms, answer: None })
        });
        let recipients = recipients.collect::<Vec<_>>();
        let overdue = match exchange {
            Exchange::Open if hurried => error::APP_TIMEOUT,
            Exchange::RaiseIntent if hurried => error::NOT_DELIVERED,
            _ => error::TIMED_OUT,
        };
        let request = Request {
            from: agent,
            exchange,
            intent: message.payload.member("intent").map(|intent| intent.detached()),
            to_one: to.is_some(),
            deadline_ms: self.now_ms,
            recipients,
            response: None,
            overdue,
            early_result: None,
        };
        // Frames hold more than the id.
        let id = id.detached();
        self.requests.insert(id.clone(), request);
        if let Some(row) = self.agents.get_mut(&agent) {
            row.requests += 1;
        }
        self.send_all(&agents, message);
        self.settle(&id);
    }

    fn response(&mut self, agent: AgentId, exchange: Exchange, id: Text, message: &Message) {
        let Some(name) = self.name(agent) else { return };
        let answer = match message.error() {
            Some(error) => Err(error.detached()),
            None => match stamped(exchange, &message.payload, name) {
                Some(payload) => Ok(payload),
                None => {
                    let problem = Problem::Member("payload");
                    self.malformed(agent, &message.message_type, id.clone(), problem);
                    Err(error::MALFORMED)
                }
            },
        };
        if let Some(request) = self.requests.get_mut(&id).filter(|request| request.to_one) {
            request.response = message.meta.response.as_ref().map(Text::detached);
        }
        self.answer(&id, agent, answer);
    }

    fn answer(&mut self, id: &Text, agent: AgentId, answer: Result<Json, Text>) {
        let Some(request) = self.requests.get_mut(id) else { return };
        if let Some(recipient) = request.recipients.iter_mut().find(|recipient| recipient.agent == agent) {
            recipient.answer.get_or_insert(answer);
        }
        self.settle(id);
    }

    /// Ends a request if nobody is waited for any longer, and else sees to it that it will be.
    fn settle(&mut self, id: &Text) {
        let Some(request) = self.requests.get_mut(id) else { return };
        self.deadlines.remove(&(request.deadline_ms, Deadline::Request(id.clone())));
        let open = request.recipients.iter().filter(|recipient| recipient.answer.is_none());
        match open.map(|recipient| recipient.until_ms).max() {
            Some(deadline_ms) if deadline_ms > self.now_ms => {
                request.deadline_ms = deadline_ms;
                self.deadlines.insert((deadline_ms, Deadline::Request(id.clone())));
            }
            _ => self.finish(id),
        }
    }

    /// Answers a request with what is there.
    fn finish(&mut self, id: &Text) {
        let Some(request) = self.take_request(id) else { return };
        let overdue = request.recipients.iter().filter(|recipient| recipient.answer.is_none());
        let overdue = overdue.map(|recipient| recipient.agent).collect::<Vec<_>>();
        let (mut sources, mut failures, mut answers) = (Vec::new(), Vec::new(), Vec::new());
        for recipient in &request.recipients {
            let source = Participant::agent(recipient.name.clone());
            match &recipient.answer {
                Some(Ok(payload)) => {
                    sources.push(source);
                    answers.push(payload);
                }
                Some(Err(detail)) => failures.push(Failure { source, detail: detail.clone() }),
                None => failures.push(Failure { source, detail: request.overdue.clone() }),
            }
        }
        // Its own word says more than that an agent was slow or left.
        let by_bridge = |detail: &Text| [error::TIMED_OUT, error::DISCONNECTED].contains(detail);
        let details = failures.iter().map(|failure| &failure.detail);
        let error = details.clone().find(|detail| !by_bridge(detail)).or_else(|| details.clone().next());
        // All have left: there is nobody to have anything, which is no error.
        let is_alone = !request.to_one
            && failures.iter().all(|failure| failure.detail == error::DISCONNECTED)
            && self.others(request.from).is_empty();
        let payload = match (answers.first(), error) {
            (Some(answer), _) if request.to_one => (*answer).clone(),
            (None, Some(error)) if !is_alone => error_payload(error),
            _ => collated(request.exchange, request.intent.as_ref(), &answers),
        };
        let is_delivered = request.exchange == Exchange::RaiseIntent && !answers.is_empty();
        let meta = Meta {
            request: Some(id.clone()),
            response: Some(request.response.unwrap_or_else(|| self.uuids.draw())),
            timestamp: Some(timestamp(self.now_ms)),
            sources,
            failures,
            ..Meta::default()
        };
        self.send(
            request.from,
            Message { message_type: MessageType::Response(request.exchange), payload, meta },
        );
        if is_delivered && let Some(handler) = request.recipients.first() {
            self.await_result(id, request.from, handler);
            if let Some(early) = request.early_result {
                self.result(handler.agent, id.clone(), early);
            }
        }
        if request.overdue == error::TIMED_OUT {
            self.note_unanswered(id, &overdue);
        }
    }

    fn note_unanswered(&mut self, id: &Text, overdue: &[AgentId]) {
        for agent in overdue {
            self.notice(*agent, Notice::Unanswered(id.clone()));
            let Some(row) = self.agents.get_mut(agent) else { continue };
            row.unanswered += 1;
            let silent_ms = self.now_ms.saturating_sub(row.heard_ms);
            let gave_up = row.unanswered >= self.settings.unanswered_in_row;
            if gave_up && silent_ms >= self.settings.silence_ms_max && !row.is_local {
                self.close(*agent, Closing::Silent(silent_ms));
            }
        }
    }

    fn take_request(&mut self, id: &Text) -> Option<Request> {
        let request = self.requests.remove(id)?;
        self.deadlines.remove(&(request.deadline_ms, Deadline::Request(id.clone())));
        self.recent.push(id.clone(), self.settings.limits.recent_requests_max);
        if let Some(row) = self.agents.get_mut(&request.from) {
            row.requests -= 1;
        }
        Some(request)
    }
}

/// Results of intents: they take as long as they take, while both ends are there.
impl Bridge {
    fn await_result(&mut self, id: &Text, from: AgentId, handler: &Recipient) {
        let of_raiser =
            self.results_by_age.range((from, 0, Text::default())..(AgentId(from.0 + 1), 0, Text::default()));
        if of_raiser.clone().count() >= self.settings.limits.results_max
            && let Some((_, _, oldest)) = of_raiser.clone().next().cloned()
        {
            self.limit(from, Some("bridge_results_max"));
            self.fail_result(&oldest, error::TIMED_OUT);
        }
        self.raised += 1;
        let age = self.raised;
        self.results_by_age.insert((from, age, id.clone()));
        let (handler, handler_name) = (handler.agent, handler.name.clone());
        self.results.insert(id.clone(), Outstanding { from, handler, handler_name, age });
    }

    fn result(&mut self, agent: AgentId, id: Text, message: Message) {
        let is_early =
            |request: &&mut Request| request.exchange == Exchange::RaiseIntent && request.waits_for(agent);
        if let Some(request) = self.requests.get_mut(&id).filter(is_early) {
            request.early_result.get_or_insert(message);
            return;
        }
        if self.results.get(&id).is_none_or(|outstanding| outstanding.handler != agent) {
            return self.notice(agent, Notice::Unasked(id));
        }
        let Some(outstanding) = self.take_result(&id) else { return };
        let source = Participant::agent(outstanding.handler_name);
        let (sources, failures) = match message.error() {
            Some(detail) => (Vec::new(), vec![Failure { source, detail }]),
            None => (vec![source], Vec::new()),
        };
        let response = message.meta.response;
        let meta = Meta {
            request: Some(id),
            response,
            timestamp: Some(timestamp(self.now_ms)),
            sources,
            failures,
            ..Meta::default()
        };
        self.send(outstanding.from, Message { meta, ..message });
    }

    fn fail_result(&mut self, id: &Text, error: Text) {
        let Some(outstanding) = self.take_result(id) else { return };
        let failures =
            vec![Failure { source: Participant::agent(outstanding.handler_name), detail: error.clone() }];
        self.fail(outstanding.from, &MessageType::RaiseIntentResult, id.clone(), &error, failures);
    }

    fn take_result(&mut self, id: &Text) -> Option<Outstanding> {
        let outstanding = self.results.remove(id)?;
        self.results_by_age.remove(&(outstanding.from, outstanding.age, id.clone()));
        Some(outstanding)
    }
}

/// Sending.
impl Bridge {
    fn unexpected(&mut self, agent: AgentId, message_type: &MessageType, request: Text) {
        let problem = Problem::Type(Text::from(message_type.as_str()));
        self.malformed(agent, message_type, request, problem);
    }

    /// Tells the sender of a message that it was not taken (Bridging, *Handling Malformed Messages*).
    fn malformed(&mut self, agent: AgentId, message_type: &MessageType, request: Text, problem: Problem) {
        self.notice(agent, Notice::NotTaken(problem));
        let answer_type = match message_type {
            MessageType::Request(exchange) => exchange.answer_type(),
            other => other.clone(),
        };
        let source = self.name(agent).cloned().map(Participant::agent).unwrap_or_default();
        let failures = vec![Failure { source, detail: error::MALFORMED }];
        self.fail(agent, &answer_type, request, &error::MALFORMED, failures);
    }

    fn fail(
        &mut self,
        agent: AgentId,
        message_type: &MessageType,
        request: Text,
        error: &Text,
        failures: Vec<Failure>,
    ) {
        let meta = Meta {
            request: Some(request),
            response: Some(self.uuids.draw()),
            timestamp: Some(timestamp(self.now_ms)),
            failures,
            ..Meta::default()
        };
        let message_type = message_type.clone();
        self.send(agent, Message { message_type, payload: error_payload(error), meta });
    }

    fn send(&mut self, agent: AgentId, message: Message) {
        self.send_all(&[agent], message);
    }

    fn send_all(&mut self, agents: &[AgentId], message: Message) {
        let mut encoded = None;
        for agent in agents {
            let Some(row) = self.agents.get(agent) else { continue };
            self.outputs.push_back(if row.is_local {
                Output::Message { agent: *agent, message: message.clone() }
            } else {
                let frame = encoded.get_or_insert_with(|| message.encode()).clone();
                Output::Frame { agent: *agent, frame }
            });
        }
    }

    fn named(&self) -> impl Iterator<Item = (AgentId, &Text)> {
        self.agents.iter().filter_map(|(id, agent)| Some((*id, agent.name()?)))
    }

    fn others(&self, than: AgentId) -> Vec<AgentId> {
        self.named().map(|(agent, _)| agent).filter(|agent| *agent != than).collect()
    }

    fn notice(&mut self, agent: AgentId, notice: Notice) {
        self.outputs.push_back(Output::Notice { agent, notice });
    }

    fn limit(&mut self, agent: AgentId, reached: Option<&'static str>) {
        if let Some(name) = reached {
            self.notice(agent, Notice::Limit(name));
        }
    }
}

impl Agent {
    const fn new(is_local: bool, state: AgentState, now_ms: u64) -> Self {
        Self { is_local, state, unreadable: 0, unanswered: 0, heard_ms: now_ms, requests: 0 }
    }

    const fn name(&self) -> Option<&Text> {
        match &self.state {
            AgentState::Named { name, .. } => Some(name),
            _ => None,
        }
    }

    const fn handshake_until_ms(&self) -> Option<u64> {
        match self.state {
            AgentState::Greeted { until_ms } | AgentState::Checked { until_ms, .. } => Some(until_ms),
            AgentState::Named { .. } => None,
        }
    }
}

impl Request {
    fn waits_for(&self, agent: AgentId) -> bool {
        self.recipients.iter().any(|recipient| recipient.agent == agent && recipient.answer.is_none())
    }
}

impl Recent {
    fn contains(&self, id: &Text) -> bool {
        self.ids.contains(id)
    }

    fn push(&mut self, id: Text, max: usize) {
        let id = id.detached();
        if self.ids.insert(id.clone()) {
            self.order.push_back(id);
        }
        while self.order.len() > max
            && let Some(oldest) = self.order.pop_front()
        {
            self.ids.remove(&oldest);
        }
    }
}

/// Returns the agent that a request's app is on: the standard's examples leave `destination` out.
fn named_in_payload(exchange: Exchange, payload: &Json) -> Option<Text> {
    let has_app = exchange.answered() == Answered::Once || exchange == Exchange::FindInstances;
    if !has_app {
        return None;
    }
    payload.member("app")?.member("desktopAgent")?.as_text()
}
