//! Results of intents: they take as long as they take, while both ends are there.

use mesh_model::Text;

use super::{AgentId, Bridge, Notice, Outstanding, Recipient, Request};
use crate::message::{Exchange, Failure, Message, MessageType, Meta, Participant, error};
use crate::uuids::timestamp;

impl Bridge {
    pub(super) fn await_result(&mut self, id: &Text, from: AgentId, handler: &Recipient) {
        let of_raiser =
            self.results_by_age.range((from, 0, Text::default())..(from, u64::MAX, Text::default()));
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

    pub(super) fn result(&mut self, agent: AgentId, id: Text, message: Message) {
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

    pub(super) fn fail_result(&mut self, id: &Text, error: Text) {
        let Some(outstanding) = self.take_result(id) else { return };
        let failures =
            vec![Failure { source: Participant::agent(outstanding.handler_name), detail: error.clone() }];
        self.fail(outstanding.from, &MessageType::RaiseIntentResult, id.clone(), &error, failures);
    }

    pub(super) fn take_result(&mut self, id: &Text) -> Option<Outstanding> {
        let outstanding = self.results.remove(id)?;
        self.results_by_age.remove(&(outstanding.from, outstanding.age, id.clone()));
        Some(outstanding)
    }
}
