//! How intents end: with a result, without one, or because somebody has gone.

use mesh_model::{Answer, Command, Json, Outcome, Text};
use proto_dacp::{Fault, Object, context_type};

use super::{Handler, Owed, Raiser};
use crate::bridge::desk_of;
use crate::document::with_type;
use crate::{Agent, Asker, Output, Timer, app_identifier};

impl Agent {
    /// Somebody owes a result. Handlers that fail say nothing, so none is waited for longer than
    /// `result_ms`, and of one that owes too many the oldest is given up before.
    pub(super) fn owe(&mut self, raise: Text, raiser: Raiser, handler: Handler) {
        let number = self.next_request;
        self.next_request += 1;
        if matches!(handler, Handler::App(_)) {
            let of_handler = |owed: &(&Text, &Owed)| owed.1.handler == handler;
            let oldest = self.owed.iter().filter(of_handler).min_by_key(|(_, owed)| owed.number);
            let oldest = oldest.map(|(raise, _)| raise.clone());
            if self.owed.iter().filter(of_handler).count() >= self.settings.limits.results_max
                && let Some(owed) = oldest.and_then(|raise| self.owed.remove(&raise))
            {
                self.no_result(owed, Fault::ApiTimeout);
            }
        }
        let due = self.now.ms + self.settings.limits.result_ms;
        self.owed.insert(raise, Owed { raiser, handler, number, due });
        self.watch_results();
    }

    /// Sees to it that the oldest result is not waited for too long. One timer does for all, as all have
    /// the same time.
    fn watch_results(&mut self) {
        if !self.timers.iter().any(|(_, timer)| *timer == Timer::Results)
            && let Some(due) = self.owed.values().map(|owed| owed.due).min()
        {
            self.timers.insert((due, Timer::Results));
        }
    }

    /// Gives up the results that have been awaited for `result_ms`.
    pub(crate) fn results_are_late(&mut self) {
        let is_late = |owed: &Owed| owed.due <= self.now.ms;
        let late: Vec<Text> =
            self.owed.iter().filter(|(_, owed)| is_late(owed)).map(|(raise, _)| raise.clone()).collect();
        for owed in late.iter().filter_map(|raise| self.owed.remove(raise)).collect::<Vec<_>>() {
            self.no_result(owed, Fault::ApiTimeout);
        }
        self.watch_results();
    }

    /// The handler of an intent has a result, or has failed.
    pub(crate) fn result(
        &mut self,
        me: &Text,
        raise: &Text,
        result: Result<Json, Fault>,
        metadata: Option<&Json>,
    ) {
        // Only who was asked may answer, and once.
        if !self.owed.get(raise).is_some_and(|owed| owed.handler == Handler::App(me.clone())) {
            return;
        }
        let Some(owed) = self.owed.remove(raise) else { return };
        let result = match &result {
            Ok(result) => result,
            Err(error) => return self.no_result(owed, *error),
        };
        let channel = result.member("channel").and_then(|channel| channel.member("id")?.as_text());
        let private = channel.filter(|id| {
            self.channels
                .by_id
                .get(id)
                .and_then(|channel| channel.private())
                .is_some_and(|own| own.is_member(me))
        });
        let source = self.source(me);
        match owed.raiser {
            Raiser::App(asker) => {
                if let Some(id) = private {
                    self.add_member(&id.detached(), &asker.instance, None);
                }
                self.answer_result(&asker, result, &source, metadata);
            }
            Raiser::Desk { desk, raise, instance, .. } => {
                let host = private.as_ref().and_then(|id| self.host_of(id));
                if let Some((id, instance)) = private.as_ref().zip(instance) {
                    self.add_member(&id.detached(), &instance, Some(&desk));
                }
                let source = app_identifier(
                    &self.apps.get(me).map(|app| app.app_id.clone()).unwrap_or_default(),
                    Some(me),
                    Some(&self.settings.node),
                );
                let op = Object::new()
                    .text("op", "result")
                    .text("raise", &raise)
                    .json("result", result)
                    .some("metadata", metadata)
                    .json("source", &source)
                    .some_text("host", host.as_deref())
                    .end();
                self.tell_peer(&desk, op, None);
            }
            Raiser::Call { session, invocation } => {
                let command = Command::Yield { invocation, result: Some(result_of_call(result)) };
                self.outputs.push_back(Output::Command(session, command));
            }
        }
    }

    /// The agent of another node has the end of an intent that was raised here.
    pub(crate) fn result_from(&mut self, desk: &Text, given: &Json) {
        let text =
            |name: &str| given.member(name).and_then(|value| value.as_text()).map(|text| text.detached());
        let Some(raise) = text("raise") else { return };
        if !self.owed.get(&raise).is_some_and(|owed| owed.handler == Handler::Desk(desk.clone())) {
            return;
        }
        let Some(Owed { raiser: Raiser::App(asker), .. }) = self.owed.remove(&raise) else { return };
        match (given.member("result"), text("error")) {
            (Some(result), None) => {
                let channel = result.member("channel").and_then(|channel| channel.member("id")?.as_text());
                let channel = channel.map(|id| id.detached());
                match (channel, text("host")) {
                    (Some(id), Some(host)) => self.adopt(&id, &host, &asker.instance, None),
                    (Some(id), None) => {
                        self.add_app_channel(&id);
                    }
                    (None, _) => {}
                }
                let source = self.source_from(desk, given);
                self.answer_result(&asker, &result, &source, given.member("metadata").as_ref());
            }
            (_, error) => {
                let error = error.and_then(|error| Fault::of_word(&error));
                self.answer_no_result(&asker, error.unwrap_or(Fault::IntentHandlerRejected));
            }
        }
    }

    fn answer_result(&mut self, asker: &Asker, result: &Json, source: &Json, metadata: Option<&Json>) {
        let about = self.metadata_of(source, self.now.wall_ms, metadata);
        let payload = Object::new().json("intentResult", result).json("resultMetadata", &about).end();
        let asker = Asker { name: "raiseIntentResultRequest".into(), ..asker.clone() };
        self.answer(&asker, Ok(payload));
    }

    fn answer_no_result(&mut self, asker: &Asker, error: Fault) {
        let asker = Asker { name: "raiseIntentResultRequest".into(), ..asker.clone() };
        self.answer(&asker, Err(error));
    }

    /// A result will never come.
    fn no_result(&mut self, owed: Owed, error: Fault) {
        match owed.raiser {
            Raiser::App(asker) => self.answer_no_result(&asker, error),
            Raiser::Desk { desk, raise, .. } => {
                let op = Object::new()
                    .text("op", "result")
                    .text("raise", &raise)
                    .text("error", error.word())
                    .end();
                self.tell_peer(&desk, op, None);
            }
            raiser @ Raiser::Call { .. } => self.not_resolved(&raiser, error),
        }
    }

    /// The call of an io.Connect app's method has ended.
    pub(crate) fn handler_ended(&mut self, raise: &Text, outcome: Outcome) {
        let Some(owed) = self.owed.remove(raise) else { return };
        match (outcome, &owed.raiser, &owed.handler) {
            (Outcome::Answered(Answer::Result(result)), Raiser::App(asker), Handler::Server(server)) => {
                let source = self.source_of_server(server);
                match result_from_call(&result.unwrap_or_else(Json::null)) {
                    Some(result) => {
                        let asker = asker.clone();
                        self.answer_result(&asker, &result, &source, None);
                    }
                    None => self.no_result(owed, Fault::IntentHandlerRejected),
                }
            }
            _ => self.no_result(owed, Fault::IntentHandlerRejected),
        }
    }

    /// An app is gone: what waits for it fails, and what it waits for is forgotten.
    pub(crate) fn handler_is_gone(&mut self, instance: &Text) {
        let is_raiser = |raiser: &Raiser| matches!(raiser, Raiser::App(asker) if asker.instance == *instance);
        let waiting: Vec<u64> = self
            .raises
            .iter()
            .filter(|(_, raise)| raise.target == *instance || is_raiser(&raise.raiser))
            .map(|(id, _)| *id)
            .collect();
        for id in waiting {
            self.no_timer(&Timer::Raise(id));
            if let Some(raise) = self.raises.remove(&id)
                && !is_raiser(&raise.raiser)
            {
                self.not_resolved(&raise.raiser, Fault::IntentDeliveryFailed);
            }
        }
        self.owed.retain(|_, owed| !is_raiser(&owed.raiser));
        self.end_owed(&Handler::App(instance.clone()));
    }

    pub(crate) fn intent_peer_gone(&mut self, desk: &Text) {
        self.end_owed(&Handler::Desk(desk.clone()));
        // Nobody is left to be told of these.
        let is_gone = |raiser: &Raiser| match raiser {
            Raiser::Desk { desk: of, .. } => of == desk,
            Raiser::App(asker) => desk_of(&asker.instance).as_ref() == Some(desk),
            Raiser::Call { .. } => false,
        };
        self.owed.retain(|_, owed| !is_gone(&owed.raiser));
    }

    fn end_owed(&mut self, handler: &Handler) {
        let owed: Vec<Text> =
            self.owed.iter().filter(|(_, owed)| owed.handler == *handler).map(|(id, _)| id.clone()).collect();
        for id in owed {
            if let Some(owed) = self.owed.remove(&id) {
                self.no_result(owed, Fault::IntentHandlerRejected);
            }
        }
    }
}

/// Returns an FDC3 result as io.Connect apps get it: a context as it is, and also in the wrapping that
/// io.Connect's FDC3 library looks for; a channel in that wrapping.
fn result_of_call(result: &Json) -> Json {
    if let Some(channel) = result.member("channel") {
        return Object::new().json("fdc3intentChannel", &channel).end();
    }
    let Some(context) = result.member("context") else { return crate::empty() };
    let Some(kind) = context_type(&context) else { return context };
    let mut members = context.members().unwrap_or_default();
    let mut payload = Object::new();
    let mut shown = Object::new();
    members.retain(|(key, _)| std::str::from_utf8(&key.0).is_ok());
    for (key, value) in &members {
        let name = std::str::from_utf8(&key.0).unwrap_or_default();
        shown = shown.json(name, value);
        if name != "type" {
            payload = payload.json(name, value);
        }
    }
    let wrapped = Object::new().text("contextType", &kind).json("payload", &payload.end()).end();
    shown.json("fdc3intentContext", &wrapped).end()
}

/// Returns the result of an io.Connect app as an FDC3 result; `None` if it is an error.
fn result_from_call(result: &Json) -> Option<Json> {
    if result.member("fdc3error").is_some() {
        return None;
    }
    if let Some(channel) = result.member("fdc3intentChannel") {
        return Some(Object::new().json("channel", &channel).end());
    }
    let context = match result.member("fdc3intentContext") {
        Some(wrapped) => {
            let kind = wrapped.member("contextType")?.as_text()?;
            let payload = wrapped.member("payload").unwrap_or_else(crate::empty);
            with_type(&payload, &kind, 0)
        }
        None if context_type(result).is_some() => result.clone(),
        None if result.members().is_some_and(|members| !members.is_empty()) => {
            with_type(result, "io.connect.result", 0)
        }
        None => return Some(crate::empty()),
    };
    Some(Object::new().json("context", &context).end())
}
