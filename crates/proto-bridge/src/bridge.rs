//! The bridge's side: who is connected, what they ask of each other, and what is on the channels.
//!
//! Here is what goes in and out, and what is kept; what is done with it is in the files beneath.

mod answering;
mod asking;
mod joining;
mod results;
mod sending;

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::fmt;

use bytes::Bytes;
use mesh_model::{Json, Text};

use crate::channels::ChannelsState;
use crate::message::{Exchange, Message, Problem, implementation};
use crate::names::{Applicant, Names, tidied};
use crate::settings::BridgeSettings;
use crate::uuids::Uuids;

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
        /// What the bridge shows it in `hello`, as a token of its own.
        auth_token: Option<Text>,
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
            Input::Connected { agent, auth_token } => self.connected(agent, auth_token.as_ref()),
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

    /// Returns whether nothing is left of any agent but names.
    #[must_use]
    pub fn is_idle(&self) -> bool {
        let waiting =
            self.requests.len() + self.results.len() + self.results_by_age.len() + self.deadlines.len();
        waiting + self.agents.len() == 0 && self.channels.is_empty()
    }

    /// Returns what is on the channels.
    #[must_use]
    pub const fn channels(&self) -> &ChannelsState {
        &self.channels
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
