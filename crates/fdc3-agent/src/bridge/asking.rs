//! What agents on the bridge are asked.

use mesh_model::{Json, Text};
use proto_bridge::{Exchange, Message, Participant, error};
use proto_dacp::{AppRef, Fault, Object};

use super::names::with_apps;
use super::{Asked, desk, parts, text};
use crate::intent::{Candidate, Search};
use crate::{Agent, Asker, Output, Timer, app_identifier};

impl Agent {
    fn ask_bridge(
        &mut self,
        exchange: Exchange,
        payload: Json,
        instance: &Text,
        agent: Option<&Text>,
        asked: Asked,
    ) -> Option<Text> {
        if self.bridge.asked.len() >= self.settings.limits.bridge_requests_max {
            self.not_answered(asked, Some(&error::TIMED_OUT));
            return None;
        }
        let id = self.ids.uuid();
        // The bridge has limits of its own, and answers by then; these are for a bridge that does not.
        let patience = match exchange {
            Exchange::Open | Exchange::RaiseIntent => self.settings.limits.bridge_start_ms,
            _ => self.settings.limits.bridge_find_ms,
        };
        self.timer(patience, Timer::Bridge(id.clone()));
        self.bridge.asked.insert(id.clone(), asked);
        let mut message = Message::request(exchange, payload, Some(self.participant(instance)));
        message.meta.request = Some(id.clone());
        message.meta.destination = agent.map(|agent| Participant::agent(agent.clone()));
        self.outputs.push_back(Output::Bridge(message));
        Some(id)
    }

    /// Asks for more that handle an intent, or a type of context.
    pub(crate) fn search_bridge(&mut self, search: Search, kind: Option<&str>, result: Option<&str>) {
        // The type is all that matters to whom is asked, and the rest is no business of theirs.
        let context = kind.map(|kind| Object::new().text("type", kind).end());
        let payload = Object::new()
            .some_text("intent", search.intent.as_deref())
            .some("context", context.as_ref())
            .some_text("resultType", result)
            .end();
        let exchange = match &search.intent {
            Some(_) => Exchange::FindIntent,
            None => Exchange::FindIntentsByContext,
        };
        let instance = search.asker.instance.clone();
        self.ask_bridge(exchange, payload, &instance, None, Asked::Search(Box::new(search)));
    }

    /// Asks for more instances of an app, unless it is said that they are here.
    pub(crate) fn instances_on_bridge(
        &mut self,
        asker: &Asker,
        app: &AppRef,
        here: Result<Vec<Json>, Fault>,
    ) -> Option<Result<Vec<Json>, Fault>> {
        let agent = app.desktop_agent.as_ref().map(|shown| self.bridge_agent(shown));
        if !self.asks_bridge(asker) || agent == Some(None) {
            return Some(here);
        }
        let agent = agent.flatten();
        let app = app_identifier(&app.app_id, None, agent.as_deref());
        let payload = Object::new().json("app", &app).end();
        let asked = Asked::Instances { asker: asker.clone(), here };
        self.ask_bridge(Exchange::FindInstances, payload, &asker.instance, agent.as_ref(), asked);
        None
    }

    pub(crate) fn metadata_on_bridge(&mut self, asker: &Asker, agent: &Text, app: &AppRef) {
        let payload = Object::new().json("app", &app_at(agent, app)).end();
        let asked = Asked::Metadata(asker.clone());
        self.ask_bridge(Exchange::GetAppMetadata, payload, &asker.instance, Some(agent), asked);
    }

    pub(crate) fn open_on_bridge(
        &mut self,
        asker: Asker,
        agent: &Text,
        app: &AppRef,
        context: Option<&Json>,
    ) {
        let payload = Object::new().json("app", &app_at(agent, app)).some("context", context).end();
        let instance = asker.instance.clone();
        self.ask_bridge(Exchange::Open, payload, &instance, Some(agent), Asked::Open(asker));
    }

    /// Raises an intent at an agent on the bridge. Returns its id, and the desk that owes its result.
    pub(crate) fn raise_on_bridge(
        &mut self,
        asker: Asker,
        agent: &Text,
        app: &AppRef,
        intent: &str,
        context: &Json,
    ) -> Option<(Text, Text)> {
        let payload = Object::new()
            .text("intent", intent)
            .json("context", context)
            .json("app", &app_at(agent, app))
            .end();
        let instance = asker.instance.clone();
        let id = self.ask_bridge(Exchange::RaiseIntent, payload, &instance, Some(agent), Asked::Raise(asker));
        Some((id?, desk(agent)))
    }

    pub(crate) fn bridge_is_late(&mut self, id: &Text) {
        if let Some(asked) = self.bridge.asked.remove(id) {
            if matches!(asked, Asked::Raise(_)) {
                self.nothing_owed(id);
            }
            self.not_answered(asked, Some(&error::TIMED_OUT));
        }
    }

    pub(super) fn bridge_answers(&mut self, exchange: Exchange, message: &Message) {
        let Some(id) = &message.meta.request else { return };
        let Some(asked) = self.bridge.asked.remove(id) else { return };
        self.no_timer(&Timer::Bridge(id.clone()));
        let error = message.error();
        let answer = with_apps(exchange, &message.payload, &|app| self.imported(app));
        let Some(answer) = answer.filter(|_| error.is_none()) else {
            if matches!(asked, Asked::Raise(_)) {
                self.nothing_owed(id);
            }
            return self.not_answered(asked, error.as_ref());
        };
        match asked {
            Asked::Search(mut search) => {
                for found in
                    answer.member("appIntents").and_then(|found| found.elements()).unwrap_or_default()
                {
                    self.add_found(&mut search, &found);
                }
                if let Some(found) = answer.member("appIntent") {
                    self.add_found(&mut search, &found);
                }
                self.end_search(*search);
            }
            Asked::Instances { asker, here } => {
                let more = answer.member("appIdentifiers").and_then(|found| found.elements());
                let more = more.unwrap_or_default();
                let all = match here {
                    Ok(here) => Ok(here.into_iter().chain(more).collect()),
                    Err(_) if !more.is_empty() => Ok(more),
                    Err(fault) => Err(fault),
                };
                self.answer_instances(&asker, all);
            }
            Asked::Metadata(asker) | Asked::Open(asker) | Asked::Raise(asker) => {
                self.answer(&asker, Ok(answer));
            }
        }
    }

    fn add_found(&self, search: &mut Search, found: &Json) {
        let Some(about) = found.member("intent") else { return };
        let Some(name) = text(&about, "name") else { return };
        let display_name = text(&about, "displayName").filter(|display| *display != name);
        let apps = found.member("apps").and_then(|apps| apps.elements()).unwrap_or_default();
        let candidates = apps.into_iter().filter_map(|app| {
            Some(Candidate {
                app_id: text(&app, "appId")?,
                instance: text(&app, "instanceId"),
                node: text(&app, "desktopAgent"),
                about: app,
                display_name: display_name.clone(),
            })
        });
        match search.found.iter_mut().find(|(intent, _)| *intent == name) {
            Some((_, known)) => known.extend(candidates),
            None if search.intent.is_none() => search.found.push((name, candidates.collect())),
            None => {}
        }
    }

    fn end_search(&mut self, search: Search) {
        let asker = search.asker.clone();
        if let Err(fault) = self.found(search) {
            self.answer(&asker, Err(fault));
        }
    }

    /// An agent on the bridge has said no, or nothing.
    pub(super) fn not_answered(&mut self, asked: Asked, error: Option<&Text>) {
        let fault = |default: Fault| match error.map(|error| &**error) {
            Some(word) if *word == *error::TIMED_OUT => Fault::ApiTimeout,
            Some(word) if *word == *error::DISCONNECTED || *word == *error::NOT_CONNECTED => {
                Fault::DesktopAgentNotFound
            }
            Some(word) => Fault::of_word(word).unwrap_or(default),
            None => default,
        };
        match asked {
            Asked::Search(search) => self.end_search(*search),
            Asked::Instances { asker, here } => self.answer_instances(&asker, here),
            Asked::Metadata(asker) => self.answer(&asker, Err(fault(Fault::TargetAppUnavailable))),
            Asked::Open(asker) => self.answer(&asker, Err(fault(Fault::ErrorOnLaunch))),
            Asked::Raise(asker) => self.answer(&asker, Err(fault(Fault::IntentDeliveryFailed))),
        }
    }

    /// What came of an intent that was raised at an agent on the bridge.
    pub(super) fn bridge_result(&mut self, message: &Message) {
        let Some(id) = &message.meta.request else { return };
        let Some((desk, raiser)) = self.owed_by(id) else { return };
        let Some((agent, ..)) = parts(&desk) else { return };
        let source = app_identifier("unknown", None, Some(&self.shown(agent)));
        let mut op = Object::new().text("raise", id).json("source", &source);
        let result = message.payload.member("intentResult").filter(|result| !result.is_null());
        let result = result.unwrap_or_else(crate::empty);
        let channel = result.member("channel");
        let private = channel
            .as_ref()
            .filter(|channel| text(channel, "type").is_none_or(|kind| *kind != *"user" && *kind != *"app"));
        op = match (message.error(), private.and_then(|channel| text(channel, "id"))) {
            (Some(error), _) => op.text("error", &error),
            (None, None) => op.json("result", &result),
            (None, Some(channel)) => match self.may_hand_over(&desk, &channel, &raiser) {
                Some(host) => op.json("result", &result).some_text("host", host.as_deref()),
                None => op.text("error", Fault::IntentHandlerRejected.word()),
            },
        };
        self.result_from(&desk, &op.end());
    }

    /// An agent on the bridge hands a private channel to an app here. Returns its host if that is the
    /// agent, or nothing if the agent may not.
    fn may_hand_over(&mut self, desk: &Text, id: &Text, raiser: &Text) -> Option<Option<Text>> {
        let Some(channel) = self.channels.by_id.get(id) else {
            let full = self.channels.by_id.len() >= self.settings.limits.channels_max;
            return (!full).then(|| Some(desk.clone()));
        };
        let private = channel.private()?;
        if private.host.as_ref() == Some(desk) {
            return Some(Some(desk.clone()));
        }
        let is_member = private.members.values().any(|of| of.as_ref() == Some(desk));
        is_member.then(|| self.add_member(id, raiser, None))?;
        Some(None)
    }
}

fn app_at(agent: &str, app: &AppRef) -> Json {
    let id = app.app_id.strip_suffix(agent).and_then(|rest| rest.strip_suffix('@')).unwrap_or(&app.app_id);
    app_identifier(id, app.instance_id.as_deref(), Some(agent))
}
