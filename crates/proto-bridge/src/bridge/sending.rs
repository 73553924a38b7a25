//! Sending, and saying what was not taken (FDC3 2.2, *Handling Malformed Messages*).

use mesh_model::Text;

use super::{AgentId, Bridge, Notice, Output};
use crate::message::{Failure, Message, MessageType, Meta, Participant, Problem, error, error_payload};
use crate::uuids::timestamp;

impl Bridge {
    pub(super) fn unexpected(&mut self, agent: AgentId, message_type: &MessageType, request: Text) {
        let problem = Problem::Type(Text::from(message_type.as_str()));
        self.malformed(agent, message_type, request, problem);
    }

    /// Tells the sender of a message that it was not taken (Bridging, *Handling Malformed Messages*).
    pub(super) fn malformed(
        &mut self,
        agent: AgentId,
        message_type: &MessageType,
        request: Text,
        problem: Problem,
    ) {
        self.notice(agent, Notice::NotTaken(problem));
        let answer_type = match message_type {
            MessageType::Request(exchange) => exchange.answer_type(),
            other => other.clone(),
        };
        let source = self.name(agent).cloned().map(Participant::agent).unwrap_or_default();
        let failures = vec![Failure { source, detail: error::MALFORMED }];
        self.fail(agent, &answer_type, request, &error::MALFORMED, failures);
    }

    pub(super) fn fail(
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

    pub(super) fn send(&mut self, agent: AgentId, message: Message) {
        self.send_all(&[agent], message);
    }

    pub(super) fn send_all(&mut self, agents: &[AgentId], message: Message) {
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

    pub(super) fn named(&self) -> impl Iterator<Item = (AgentId, &Text)> {
        self.agents.iter().filter_map(|(id, agent)| Some((*id, agent.name()?)))
    }

    pub(super) fn others(&self, than: AgentId) -> Vec<AgentId> {
        self.named().map(|(agent, _)| agent).filter(|agent| *agent != than).collect()
    }

    pub(super) fn notice(&mut self, agent: AgentId, notice: Notice) {
        self.outputs.push_back(Output::Notice { agent, notice });
    }

    pub(super) fn limit(&mut self, agent: AgentId, reached: Option<&'static str>) {
        if let Some(name) = reached {
            self.notice(agent, Notice::Limit(name));
        }
    }
}
