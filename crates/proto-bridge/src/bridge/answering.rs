//! Answers, and what they are put together to (FDC3 2.2, *Collating Responses*).

use mesh_model::{Json, Text};

use super::{AgentId, Bridge, Closing, Deadline, Notice, Request};
use crate::collate::{collated, stamped};
use crate::message::{
    Exchange, Failure, Message, MessageType, Meta, Participant, Problem, error, error_payload,
};
use crate::uuids::timestamp;

impl Bridge {
    pub(super) fn response(&mut self, agent: AgentId, exchange: Exchange, id: Text, message: &Message) {
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

    pub(super) fn answer(&mut self, id: &Text, agent: AgentId, answer: Result<Json, Text>) {
        let Some(request) = self.requests.get_mut(id) else { return };
        if let Some(recipient) = request.recipients.iter_mut().find(|recipient| recipient.agent == agent) {
            recipient.answer.get_or_insert(answer);
        }
        self.settle(id);
    }

    /// Ends a request if nobody is waited for any longer, and else sees to it that it will be.
    pub(super) fn settle(&mut self, id: &Text) {
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
    pub(super) fn finish(&mut self, id: &Text) {
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

    pub(super) fn take_request(&mut self, id: &Text) -> Option<Request> {
        let request = self.requests.remove(id)?;
        self.deadlines.remove(&(request.deadline_ms, Deadline::Request(id.clone())));
        self.recent.push(id.clone(), self.settings.limits.recent_requests_max);
        if let Some(row) = self.agents.get_mut(&request.from) {
            row.requests -= 1;
        }
        Some(request)
    }
}
