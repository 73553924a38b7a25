//! What agents on the bridge are asked, and those on the bridges of other nodes by way of these nodes.

use mesh_model::{Json, Text};
use proto_bridge::{Exchange, Message, Participant, error};
use proto_dacp::{AppRef, Fault, Object};

use super::metadata::carried;
use super::names::with_apps;
use super::policy::Direction;
use super::{AgentAt, desk, parts, text};
use crate::intent::{Candidate, Raiser, Search};
use crate::peer::Ask;
use crate::{Agent, Asker, Output, Timer, app_identifier};

/// What an agent on the bridge was asked for.
#[derive(Debug)]
pub(crate) enum Asked {
    /// For one of the answers that are gathered under this number.
    Part(u64),
    /// For an app here, or for one of another agent.
    App(Asker, Exchange),
    /// For another node: its invocation.
    Desk(u64, Exchange),
}

/// What is known here, and what bridges have added to it so far.
#[derive(Debug)]
pub(crate) enum Gathered {
    Search(Box<Search>),
    Instances { asker: Asker, found: Result<Vec<Json>, Fault> },
}

/// A question to all bridges, until each has answered.
#[derive(Debug)]
pub(crate) struct Gathering {
    open: usize,
    gathered: Gathered,
}

/// Who asks what.
struct Question<'a> {
    exchange: Exchange,
    payload: Json,
    by: Participant,
    agent: Option<&'a Text>,
}

/// Asking.
impl Agent {
    /// Returns whether there is somebody on a bridge to ask for this app. For one that is on the bridge of
    /// this machine itself only those on other bridges are.
    pub(crate) fn asks_bridges(&self, asker: &Asker) -> bool {
        let is_asked = match super::is_foreign(&asker.instance) {
            true => self.is_passed_on(&asker.instance),
            false => true,
        };
        is_asked && (self.asks_here(&asker.instance) || !self.desks_with_agents().is_empty())
    }

    /// Returns whether the bridge of this machine is asked for an app: not for one that is there.
    fn asks_here(&self, instance: &str) -> bool {
        !super::is_foreign(instance) && self.has_agents()
    }

    /// Returns whether other bridges are asked for an app on the bridge of this machine: not for what has been
    /// passed on already, or another mesh may pass on, as bridges that two meshes join would ask each other
    /// without end.
    fn is_passed_on(&self, instance: &str) -> bool {
        let Some((agent, app, _)) = parts(instance) else { return false };
        let is_node = self.bridge.agents.get(agent.as_bytes()).is_none_or(Option::is_some);
        !is_node && !app.rsplit_once('@').is_some_and(|(_, node)| self.is_node(node))
    }

    /// Asks the bridge of this machine. Returns the id of the request, if it was made.
    fn ask_bridge(&mut self, question: Question<'_>, asked: Asked) -> Option<Text> {
        let Question { exchange, payload, by, agent } = question;
        let kept = self.kept_question(exchange, &payload);
        let is_full = self.bridge.asked.len() >= self.settings.limits.bridge_requests_max;
        if let Some(error) = kept.or(is_full.then_some(error::TIMED_OUT)) {
            self.not_answered(asked, Some(&error));
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
        let mut message = Message::request(exchange, payload, Some(by));
        message.meta.request = Some(id.clone());
        message.meta.destination = agent.map(|agent| Participant::agent(agent.clone()));
        self.outputs.push_back(Output::Bridge(message));
        Some(id)
    }

    /// Has another node ask its bridge.
    fn ask_bridge_of(
        &mut self,
        desk: &Text,
        exchange: Exchange,
        payload: &Json,
        agent: Option<&Text>,
        asked: Asked,
        asker: &Text,
    ) {
        let arguments = Object::new()
            .text("op", "ask")
            .text("exchange", exchange.types().0)
            .json("payload", payload)
            .some_text("agent", agent.map(|agent| &**agent))
            .json("source", &self.abroad(&self.source(asker)))
            .end();
        // The bridge of this machine does not wait for longer.
        let patience = match super::is_foreign(asker) {
            true => self.settings.limits.bridge_relayed_ms,
            false => self.settings.limits.bridge_elsewhere_ms,
        };
        self.ask_peer(desk, Ask::Bridge { desk: desk.clone(), asked, exchange }, arguments, patience);
    }

    /// Asks one agent for an answer that starts nothing.
    fn ask_agent(&mut self, at: &AgentAt, exchange: Exchange, payload: Json, asked: Asked, asker: &Text) {
        match &at.desk {
            Some(desk) => self.ask_bridge_of(desk, exchange, &payload, Some(&at.agent), asked, asker),
            None => {
                let by = self.participant(asker);
                self.ask_bridge(Question { exchange, payload, by, agent: Some(&at.agent) }, asked);
            }
        }
    }

    /// Asks all bridges, each of them once.
    fn gather(&mut self, gathered: Gathered, exchange: Exchange, payload: Json, asker: &Text) {
        let number = self.next_request;
        self.next_request += 1;
        let desks = self.desks_with_agents();
        let asks_here = self.asks_here(asker);
        let open = desks.len() + usize::from(asks_here);
        // Some may answer at once.
        self.bridge.gatherings.insert(number, Gathering { open, gathered });
        for desk in desks {
            self.ask_bridge_of(&desk, exchange, &payload, None, Asked::Part(number), asker);
        }
        if asks_here {
            let by = self.participant(asker);
            self.ask_bridge(Question { exchange, payload, by, agent: None }, Asked::Part(number));
        }
    }

    /// Asks for more that handle an intent, or a type of context.
    pub(crate) fn search_bridges(&mut self, search: Search, kind: Option<&str>, result: Option<&str>) {
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
        self.gather(Gathered::Search(Box::new(search)), exchange, payload, &instance);
    }

    /// Asks for more instances of an app, unless it is said that they are in the mesh.
    pub(crate) fn instances_on_bridges(
        &mut self,
        asker: &Asker,
        app: &AppRef,
        here: Result<Vec<Json>, Fault>,
    ) -> Option<Result<Vec<Json>, Fault>> {
        let at = app.desktop_agent.as_ref().map(|shown| self.agent_at(shown));
        if at == Some(None) || (at.is_none() && !self.asks_bridges(asker)) {
            return Some(here);
        }
        let at = at.flatten();
        let app = app_identifier(&app.app_id, None, at.as_ref().map(|at| &*at.agent));
        let payload = Object::new().json("app", &app).end();
        let gathered = Gathered::Instances { asker: asker.clone(), found: here };
        match at {
            Some(at) => {
                let number = self.next_request;
                self.next_request += 1;
                self.bridge.gatherings.insert(number, Gathering { open: 1, gathered });
                let part = Asked::Part(number);
                self.ask_agent(&at, Exchange::FindInstances, payload, part, &asker.instance);
            }
            None => self.gather(gathered, Exchange::FindInstances, payload, &asker.instance),
        }
        None
    }

    pub(crate) fn metadata_on_bridge(&mut self, asker: &Asker, at: &AgentAt, app: &AppRef) {
        let payload = Object::new().json("app", &self.app_at(at, app)).end();
        let asked = Asked::App(asker.clone(), Exchange::GetAppMetadata);
        self.ask_agent(at, Exchange::GetAppMetadata, payload, asked, &asker.instance);
    }

    /// Has an agent on the bridge of this machine open an app.
    pub(crate) fn open_on_bridge(
        &mut self,
        asker: Asker,
        at: &AgentAt,
        app: &AppRef,
        context: Option<&Json>,
        metadata: Option<&Json>,
    ) {
        let by = self.participant(&asker.instance);
        let payload = Object::new()
            .json("app", &self.app_at(at, app))
            .some("context", context)
            .some("metadata", self.metadata_to(&at.agent, metadata).as_ref())
            .end();
        let question = Question { exchange: Exchange::Open, payload, by, agent: Some(&at.agent) };
        self.ask_bridge(question, Asked::App(asker, Exchange::Open));
    }

    /// Raises an intent at an agent on the bridge of this machine. Returns its id, and the desk that owes its
    /// result.
    pub(crate) fn raise_on_bridge(
        &mut self,
        raiser: &Raiser,
        at: &AgentAt,
        app: &AppRef,
        intent: &str,
        (context, metadata): (&Json, Option<&Json>),
        source: &Json,
    ) -> Option<(Text, Text)> {
        let (by, asked) = match raiser {
            Raiser::App(asker) => {
                (self.participant(&asker.instance), Asked::App(asker.clone(), Exchange::RaiseIntent))
            }
            Raiser::Desk { invocation, .. } => {
                (self.exported_source(source), Asked::Desk(*invocation, Exchange::RaiseIntent))
            }
            Raiser::Call { .. } => return None,
        };
        let payload = Object::new()
            .text("intent", intent)
            .json("context", context)
            .json("app", &self.app_at(at, app))
            .some("metadata", self.metadata_to(&at.agent, metadata).as_ref())
            .end();
        let question = Question { exchange: Exchange::RaiseIntent, payload, by, agent: Some(&at.agent) };
        let id = self.ask_bridge(question, asked)?;
        Some((id, desk(&at.agent)))
    }
}

/// Names of apps there.
impl Agent {
    fn app_at(&self, at: &AgentAt, app: &AppRef) -> Json {
        app_identifier(&self.id_at(at, app), app.instance_id.as_deref(), Some(&at.agent))
    }

    /// Returns the id of an app at its agent: apps here may have named the agent in it.
    pub(crate) fn id_at(&self, at: &AgentAt, app: &AppRef) -> Text {
        match self.agent_in_id(&app.app_id) {
            Some((app_id, of)) if of == *at => app_id,
            _ => app.app_id.clone(),
        }
    }
}

/// For other nodes, whose apps ask the agents on the bridge of this machine.
impl Agent {
    /// Another node asks for an answer that starts nothing.
    pub(crate) fn ask_for(&mut self, invocation: u64, from: &Text, given: &Json) {
        let exchange = [
            Exchange::FindIntent,
            Exchange::FindIntentsByContext,
            Exchange::FindInstances,
            Exchange::GetAppMetadata,
        ]
        .into_iter()
        .find(|exchange| text(given, "exchange").is_some_and(|name| *name == *exchange.types().0));
        let (Some(exchange), Some(payload)) = (exchange, given.member("payload")) else {
            return self.yield_desk(invocation, Some(crate::open::fault(Fault::InvalidArguments)));
        };
        let agent = text(given, "agent");
        let is_there = match &agent {
            Some(agent) => self.bridge_has(agent),
            None => self.has_agents() && self.speaks(),
        };
        if !is_there {
            return self.yield_desk(invocation, Some(crate::open::fault(Fault::DesktopAgentNotFound)));
        }
        let by = self.exported_source(&self.source_from(from, given));
        let question = Question { exchange, payload: payload.detached(), by, agent: agent.as_ref() };
        self.ask_bridge(question, Asked::Desk(invocation, exchange));
    }

    /// Another node has an app opened by an agent on the bridge of this machine.
    pub(crate) fn open_on_bridge_for(&mut self, invocation: u64, from: &Text, given: &Json, agent: &Text) {
        let Some(app_id) = text(given, "appId").filter(|_| self.bridge_has(agent)) else {
            return self.yield_desk(invocation, Some(crate::open::fault(Fault::DesktopAgentNotFound)));
        };
        let by = self.exported_source(&self.source_from(from, given));
        let context = given.member("context").filter(|context| !context.is_null());
        let app = app_identifier(&app_id, None, Some(agent));
        let metadata = self.metadata_to(agent, given.member("metadata").as_ref());
        let payload = Object::new()
            .json("app", &app)
            .some("context", context.as_ref())
            .some("metadata", metadata.as_ref())
            .end();
        let question = Question { exchange: Exchange::Open, payload, by, agent: Some(agent) };
        self.ask_bridge(question, Asked::Desk(invocation, Exchange::Open));
    }
}

/// Answers.
impl Agent {
    pub(crate) fn bridge_is_late(&mut self, id: &Text) {
        if let Some(asked) = self.bridge.asked.remove(id) {
            self.nothing_owed(id);
            self.not_answered(asked, Some(&error::TIMED_OUT));
        }
    }

    pub(super) fn bridge_answers(&mut self, exchange: Exchange, message: &Message) {
        let Some(id) = &message.meta.request else { return };
        let Some(asked) = self.bridge.asked.remove(id) else { return };
        self.no_timer(&Timer::Bridge(id.clone()));
        let error = message.error();
        let shown = self.shown_apps(Direction::Out, exchange, &message.payload);
        let answer = with_apps(exchange, &shown, &|app| self.imported(app));
        match answer.filter(|_| error.is_none()) {
            Some(answer) => {
                if exchange == Exchange::RaiseIntent {
                    self.handled_there(id, &message.payload);
                }
                self.answered(asked, &answer);
            }
            None => {
                self.nothing_owed(id);
                self.not_answered(asked, error.as_ref());
            }
        }
    }

    /// Another node has the answer of an agent on its bridge.
    pub(crate) fn bridge_elsewhere_answers(
        &mut self,
        desk: &Text,
        asked: Asked,
        exchange: Exchange,
        answer: &Json,
    ) {
        let node = self.peers.desks.get(desk).map(|peer| format!("@{}", peer.node));
        let is_theirs = |app: &Json| {
            let agent = text(app, "desktopAgent");
            agent.zip(node.as_deref()).is_some_and(|(agent, node)| agent.ends_with(node))
        };
        let apps = with_apps(exchange, answer, &|app| is_theirs(app).then(|| app.detached()));
        match apps {
            Some(answer) => self.answered(asked, &answer),
            None => self.not_answered(asked, text(answer, "error").as_ref()),
        }
    }

    fn answered(&mut self, asked: Asked, answer: &Json) {
        match asked {
            Asked::Part(number) => self.part(number, Some(answer)),
            Asked::App(asker, _) => self.answer(&asker, Ok(answer.clone())),
            Asked::Desk(invocation, exchange) => {
                let named = with_apps(exchange, answer, &|app| Some(self.abroad(app)));
                self.yield_desk(invocation, named);
            }
        }
    }

    /// An agent on a bridge has said no, or nothing.
    pub(crate) fn not_answered(&mut self, asked: Asked, error: Option<&Text>) {
        let fault = |exchange: Exchange| {
            let default = match exchange {
                Exchange::Open => Fault::ErrorOnLaunch,
                Exchange::RaiseIntent => Fault::IntentDeliveryFailed,
                _ => Fault::TargetAppUnavailable,
            };
            match error.map(|error| &**error) {
                Some(word) if *word == *error::TIMED_OUT => Fault::ApiTimeout,
                Some(word) if *word == *error::DISCONNECTED || *word == *error::NOT_CONNECTED => {
                    Fault::DesktopAgentNotFound
                }
                Some(word) => Fault::of_word(word).unwrap_or(default),
                None => default,
            }
        };
        match asked {
            Asked::Part(number) => self.part(number, None),
            Asked::App(asker, exchange) => self.answer(&asker, Err(fault(exchange))),
            Asked::Desk(invocation, exchange) => {
                self.yield_desk(invocation, Some(crate::open::fault(fault(exchange))));
            }
        }
    }

    /// One of the bridges that were asked has answered, or has not.
    fn part(&mut self, number: u64, answer: Option<&Json>) {
        let Some(mut gathering) = self.bridge.gatherings.remove(&number) else { return };
        gathering.open = gathering.open.saturating_sub(1);
        if let Some(answer) = answer {
            self.add_part(&mut gathering.gathered, answer);
        }
        if gathering.open > 0 {
            self.bridge.gatherings.insert(number, gathering);
            return;
        }
        match gathering.gathered {
            Gathered::Search(search) => {
                let asker = search.asker.clone();
                if let Err(fault) = self.found(*search) {
                    self.answer(&asker, Err(fault));
                }
            }
            Gathered::Instances { asker, found } => self.answer_instances(&asker, found),
        }
    }

    fn add_part(&self, gathered: &mut Gathered, answer: &Json) {
        let list = |name: &str| answer.member(name).and_then(|found| found.elements()).unwrap_or_default();
        match gathered {
            Gathered::Search(search) => {
                for found in list("appIntents").into_iter().chain(answer.member("appIntent")) {
                    self.add_found(search, &found);
                }
            }
            Gathered::Instances { found, .. } => {
                for app in list("appIdentifiers") {
                    match found {
                        Ok(known) if known.iter().any(|other| self.is_same(other, &app)) => {}
                        Ok(known) => known.push(app),
                        Err(_) => *found = Ok(vec![app]),
                    }
                }
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
            Some((_, known)) => {
                for candidate in candidates {
                    if !known.iter().any(|other| self.is_same(&other.about, &candidate.about)) {
                        known.push(candidate);
                    }
                }
            }
            None if search.intent.is_none() => search.found.push((name, candidates.collect())),
            None => {}
        }
    }
}

/// Results of intents.
impl Agent {
    /// An agent on the bridge has found who handles an intent.
    fn handled_there(&mut self, id: &Text, answer: &Json) {
        let owed = &self.owed;
        if self.bridge.handlers.len() > owed.len() {
            self.bridge.handlers.retain(|id, _| owed.contains_key(id));
        }
        let source = answer.member("intentResolution").and_then(|resolution| resolution.member("source"));
        if let Some(source) = source.filter(|_| owed.contains_key(id)) {
            self.bridge.handlers.insert(id.clone(), Participant::from_json(&source.detached()));
        }
    }

    /// What came of an intent that was raised at an agent on the bridge.
    pub(super) fn bridge_result(&mut self, message: &Message) {
        let Some(id) = &message.meta.request else { return };
        let Some((desk, raiser)) = self.owed_by(id) else { return };
        let Some((agent, ..)) = parts(&desk) else { return };
        self.note_metadata(&agent.into(), &message.payload);
        let handler = self.bridge.handlers.remove(id).unwrap_or_default();
        let source = app_identifier("unknown", None, Some(&self.shown(agent)));
        let metadata = message.payload.member("resultMetadata").and_then(|metadata| carried(&metadata));
        let mut op =
            Object::new().text("op", "result").json("source", &source).some("metadata", metadata.as_ref());
        let result = message.payload.member("intentResult").filter(|result| !result.is_null());
        let result = result.unwrap_or_else(crate::empty);
        let channel = result.member("channel");
        let private = channel
            .as_ref()
            .filter(|channel| text(channel, "type").is_none_or(|kind| *kind != *"user" && *kind != *"app"));
        op = match (message.error(), private.and_then(|channel| text(channel, "id"))) {
            (Some(error), _) => op.text("error", &error),
            (None, None) => op.json("result", &result),
            (None, Some(channel)) => match self.may_hand_over(&desk, &channel, &raiser, handler) {
                Some(host) => op.json("result", &result).some_text("host", host.as_deref()),
                None => op.text("error", Fault::IntentHandlerRejected.word()),
            },
        };
        match raiser {
            Raiser::Desk { desk: of, raise, .. } => {
                self.nothing_owed(id);
                self.tell_peer(&of, op.text("raise", &raise).end(), None);
            }
            _ => self.result_from(&desk, &op.text("raise", id).end()),
        }
    }

    /// An agent on the bridge hands a private channel to whoever raised an intent. Returns its host if the
    /// channel does not live here, or nothing if the agent may not.
    fn may_hand_over(
        &mut self,
        desk: &Text,
        id: &Text,
        raiser: &Raiser,
        handler: Participant,
    ) -> Option<Option<Text>> {
        let (instance, of) = match raiser {
            Raiser::App(asker) => (asker.instance.clone(), None),
            Raiser::Desk { instance: Some(instance), desk, .. } => (instance.clone(), Some(desk.clone())),
            _ => return None,
        };
        let known = self.channels.by_id.get(id);
        let lives_there = match known.map(|channel| channel.private()) {
            None if self.channels.by_id.len() >= self.settings.limits.channels_max => return None,
            None => true,
            Some(private) => {
                let private = private?;
                let is_member = private.members.values().any(|of| of.as_ref() == Some(desk));
                let lives_there = private.host.as_ref() == Some(desk);
                (lives_there || is_member).then_some(lives_there)?
            }
        };
        if lives_there {
            self.made_there(id, handler);
        }
        match (lives_there, of) {
            (true, None) => Some(Some(desk.clone())),
            (false, None) => {
                self.add_member(id, &instance, None);
                Some(None)
            }
            // To its node this one stands for the agent.
            (true, Some(of)) => {
                self.adopt(id, desk, &instance, Some(&of));
                self.listen_for_events(id, desk, &instance, true);
                Some(self.desk.instance.clone())
            }
            (false, Some(of)) => {
                self.add_member(id, &instance, Some(&of));
                Some(self.host_of(id))
            }
        }
    }
}
