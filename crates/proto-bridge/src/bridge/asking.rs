//! What agents say, and where it goes (FDC3 2.2, *Forwarding of Messages and Collating Responses*).

use bytes::Bytes;
use mesh_model::{Json, Text};

use super::{AgentId, AgentState, Bridge, Closing, Notice, Recipient, Request};
use crate::collate::missing;
use crate::message::{
    Answered, DecodeError, Exchange, Failure, Message, MessageType, Meta, Participant, Problem, error,
};
use crate::uuids::timestamp;

impl Bridge {
    pub(super) fn frame(&mut self, agent: AgentId, frame: &Bytes) {
        let Some(row) = self.agents.get_mut(&agent).filter(|row| !row.is_local) else { return };
        row.heard_ms = self.now_ms;
        let decoded = Message::decode_within(frame, self.settings.limits.json);
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

    pub(super) fn local_message(&mut self, agent: AgentId, mut message: Message) {
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

    pub(super) fn message(&mut self, agent: AgentId, message: Message) {
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
        message.address_app();
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
}

/// Returns the agent that a request's app is on: the standard's examples leave `destination` out.
fn named_in_payload(exchange: Exchange, payload: &Json) -> Option<Text> {
    let has_app = exchange.answered() == Answered::Once || exchange == Exchange::FindInstances;
    if !has_app {
        return None;
    }
    payload.member("app")?.member("desktopAgent")?.as_text()
}
