//! Connecting (FDC3 2.2, *Bridge Connection Protocol*), and leaving.
//!
//! From a handshake that may join to the update, all is done in one go, so that joiners come one at a time
//! and nothing happens in between.

use mesh_model::{Json, Text};

use super::{Agent, AgentId, AgentState, Bridge, Closing, Deadline, Notice, Output, Verdict};
use crate::channels::ChannelsState;
use crate::message::{DecodeError, Message, MessageType, Meta, Object, array, error, implementation};
use crate::names::{Applicant, tidied};
use crate::settings::Authentication;
use crate::uuids::timestamp;

impl Bridge {
    pub(super) fn connected(&mut self, agent: AgentId, auth_token: Option<&Text>) {
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
        let auth_required = match self.settings.authentication {
            Authentication::Off => "false",
            Authentication::Tokens => "true",
        };
        payload.value("authRequired", &Json::from_static(auth_required));
        payload.text("authToken", auth_token);
        let meta = Meta { timestamp: Some(timestamp(self.now_ms)), ..Meta::default() };
        let hello = Message { message_type: MessageType::Hello, payload: payload.end(), meta };
        self.send(agent, hello);
    }

    pub(super) fn handshake(&mut self, agent: AgentId, decoded: Result<Message, DecodeError>) {
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

    pub(super) fn checked(&mut self, agent: AgentId, verdict: Verdict) {
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

    pub(super) fn join(
        &mut self,
        agent: AgentId,
        applicant: Applicant,
        channels: &ChannelsState,
        request: Text,
    ) {
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
    pub(super) fn refuse(&mut self, agent: AgentId, request: Option<Text>, why: Text) {
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

    pub(super) fn close(&mut self, agent: AgentId, because: Closing) {
        self.outputs.push_back(Output::Close { agent, because });
        self.gone(agent);
    }

    /// Forgets an agent, and ends what it asked and was asked (Bridging, *Workflows Broken By Disconnects*).
    pub(super) fn gone(&mut self, agent: AgentId) {
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
