//! Raising an intent: which app it is for, and getting it there.

use std::collections::BTreeSet;

use mesh_model::{Json, Text, Words};
use proto_dacp::{AppRef, Fault, Object, array, context_type};

use super::{Candidate, Handler, Owed, Purpose, Raise, Raiser, Search};
use crate::app::State;
use crate::bridge::{AgentAt, is_foreign};
use crate::open::{Place, fault};
use crate::peer::{Ask, call};
use crate::{Agent, Asker, Limits, Pending, Timer, app_identifier};

impl Agent {
    pub(crate) fn raise(
        &mut self,
        asker: &Asker,
        intent: Option<Text>,
        context: Json,
        app: Option<AppRef>,
        metadata: Option<Json>,
    ) -> Result<(), Fault> {
        if self.raises.len() + self.owed.len() >= self.settings.limits.intents_max {
            return Err(Fault::IntentDeliveryFailed);
        }
        let kind = context_type(&context).ok_or(Fault::MalformedContext)?;
        let raise = Raise {
            intent: Text::default(),
            context,
            kind: kind.clone(),
            metadata,
            source: self.source(&asker.instance),
            raiser: Raiser::App(asker.clone()),
            target: Text::default(),
        };
        if let (Some(intent), Some(app)) = (&intent, &app) {
            return self.raise_to(Raise { intent: intent.clone(), ..raise }, app);
        }
        let found = match &intent {
            Some(intent) => vec![(intent.clone(), self.candidates(intent, Some(&kind), None))],
            None => self.found_for(&kind, None),
        };
        let purpose = Purpose::Raise(raise, app);
        self.search(Search { asker: asker.clone(), intent, found, purpose }, Some(&kind), None)
    }

    pub(super) fn raise_to_found(
        &mut self,
        asker: &Asker,
        is_named: bool,
        raise: Raise,
        app: Option<AppRef>,
        mut found: Vec<(Text, Vec<Candidate>)>,
    ) -> Result<(), Fault> {
        found.retain(|(_, candidates)| !candidates.is_empty());
        if found.is_empty() {
            return Err(Fault::NoAppsFound);
        }
        if let Some(app) = &app {
            self.check_target(app)?;
            let app_id =
                self.record(&app.app_id).map_or_else(|| app.app_id.clone(), |own| own.app_id.clone());
            let meant = |candidate: &Candidate| {
                candidate.app_id == app_id
                    && app
                        .instance_id
                        .as_ref()
                        .is_none_or(|wanted| candidate.instance.as_ref() == Some(wanted))
                    && app
                        .desktop_agent
                        .as_ref()
                        .is_none_or(|wanted| candidate.node.as_ref().unwrap_or(&self.settings.node) == wanted)
            };
            for (_, candidates) in &mut found {
                candidates.retain(meant);
            }
            found.retain(|(_, candidates)| !candidates.is_empty());
            if found.is_empty() {
                return Err(Fault::NoAppsFound);
            }
            if let [(name, _)] = &found[..] {
                return self.raise_to(Raise { intent: name.clone(), ..raise }, app);
            }
        }
        if let [(name, candidates)] = &found[..] {
            let apps: BTreeSet<&Text> = candidates.iter().map(|candidate| &candidate.app_id).collect();
            let running: Vec<&Candidate> =
                candidates.iter().filter(|candidate| candidate.instance.is_some()).collect();
            let only = match (apps.len(), running.len(), candidates.len()) {
                (1, 0, 1) => Some(&candidates[0]),
                (1, 1, _) => Some(running[0]),
                _ => None,
            };
            if let Some(only) = only {
                let app = AppRef {
                    app_id: only.app_id.clone(),
                    instance_id: only.instance.clone(),
                    desktop_agent: only.node.clone(),
                };
                return self.raise_to(Raise { intent: name.clone(), ..raise }, &app);
            }
        }
        let choices: Vec<Json> =
            found.iter().map(|(name, candidates)| Self::app_intent(name, candidates)).collect();
        let payload = match (is_named, &choices[..]) {
            (true, [choice]) => Object::new().json("appIntent", choice).end(),
            _ => Object::new().json("appIntents", &array(&choices)).end(),
        };
        self.answer(asker, Ok(payload));
        Ok(())
    }

    fn check_target(&self, app: &AppRef) -> Result<(), Fault> {
        if self.on_bridge(app).is_some() {
            return Ok(());
        }
        if let Some(instance) = &app.instance_id {
            let there = self.is_connected(instance)
                || self.peers.servers.values().any(|server| server.instance == *instance);
            return match there {
                true => Ok(()),
                false if self.place(app).is_ok() => Err(Fault::TargetInstanceUnavailable),
                false => Err(Fault::TargetAppUnavailable),
            };
        }
        self.place(app).map(|_| ())
    }

    /// Returns the agent on a bridge that is named.
    fn on_bridge(&self, app: &AppRef) -> Option<AgentAt> {
        app.desktop_agent.as_ref()?;
        match self.place(app) {
            Ok(Place::Bridge(at)) => Some(at),
            _ => None,
        }
    }

    fn raise_to(&mut self, raise: Raise, app: &AppRef) -> Result<(), Fault> {
        if let Some(at) = self.on_bridge(app) {
            self.raise_over(raise, &at, app);
            return Ok(());
        }
        let Some(instance) = &app.instance_id else { return self.raise_to_app(raise, app) };
        if let Some((id, server)) = self.peers.servers.iter().find(|(_, server)| server.instance == *instance)
        {
            if !server.fdc3 {
                let method = server.intents.iter().find(|(_, method)| method.intent == raise.intent);
                let method = method.map(|(method, _)| method.clone()).ok_or(Fault::NoAppsFound)?;
                let server = id.clone();
                self.call_handler(raise, server, method);
                return Ok(());
            }
            let desk = server.node.as_ref().and_then(|node| self.peers.desk_of(node)).cloned();
            let desk = desk.ok_or(Fault::TargetInstanceUnavailable)?;
            self.raise_at(raise, &desk, None, app);
            return Ok(());
        }
        let Some(own) = self.apps.get(instance).filter(|own| own.state == State::Connected) else {
            self.place(app)?;
            return Err(Fault::TargetInstanceUnavailable);
        };
        let same = own.app_id == app.app_id
            || self.record(&app.app_id).is_some_and(|record| record.app_id == own.app_id);
        if !same {
            self.place(app)?;
            return Err(Fault::TargetInstanceUnavailable);
        }
        let (declares, mentions) = self.declares(&own.app_id, &raise.intent, &raise.kind);
        let listens = own
            .intents
            .values()
            .any(|listener| listener.intent == raise.intent && listener.takes(Some(&raise.kind)));
        if !declares && (mentions || !listens) {
            return Err(Fault::NoAppsFound);
        }
        self.deliver_or_wait(Raise { target: instance.clone(), ..raise });
        Ok(())
    }

    /// Returns whether an app's record declares an intent for a type of context, and whether at all.
    fn declares(&self, app_id: &str, intent: &str, kind: &str) -> (bool, bool) {
        let declares = |kind| {
            let mut found = self.directory.declares(Some(intent), kind, None);
            found.any(|(record, _)| *record.app_id == *app_id)
        };
        (declares(Some(kind)), declares(None))
    }

    fn raise_to_app(&mut self, raise: Raise, app: &AppRef) -> Result<(), Fault> {
        match self.place(app)? {
            Place::There(desk) => self.raise_at(raise, &desk, None, app),
            Place::Bridge(at) => self.raise_over(raise, &at, app),
            Place::Here(app_id) => {
                if !self.declares(&app_id, &raise.intent, &raise.kind).0 {
                    return Err(Fault::NoAppsFound);
                }
                let instance = self.start(&app_id).ok_or(Fault::IntentDeliveryFailed)?;
                self.deliver_or_wait(Raise { target: instance, ..raise });
            }
        }
        Ok(())
    }

    /// Hands an intent to an agent on a bridge.
    fn raise_over(&mut self, raise: Raise, at: &AgentAt, app: &AppRef) {
        if let Some(desk) = &at.desk {
            let app = AppRef { app_id: self.id_at(at, app), ..app.clone() };
            return self.raise_at(raise, desk, Some(&at.agent), &app);
        }
        let Raise { intent, context, metadata, source, raiser, .. } = raise;
        let context = (&context, metadata.as_ref());
        if let Some((id, desk)) = self.raise_on_bridge(&raiser, at, app, &intent, context, &source) {
            self.owe(id, raiser, Handler::Desk(desk));
        }
    }

    /// No result will come of an intent that was not delivered.
    pub(crate) fn nothing_owed(&mut self, id: &Text) {
        self.owed.remove(id);
    }

    /// Returns which desk owes the result of an intent, and to whom.
    pub(crate) fn owed_by(&self, id: &Text) -> Option<(Text, Raiser)> {
        match self.owed.get(id)? {
            Owed { raiser, handler: Handler::Desk(desk), .. } => Some((desk.clone(), raiser.clone())),
            _ => None,
        }
    }

    /// Hands an intent to the agent of another node, or by way of it to an agent on its bridge.
    fn raise_at(&mut self, raise: Raise, desk: &Text, agent: Option<&Text>, app: &AppRef) {
        let Raiser::App(asker) = raise.raiser else { return };
        let id = self.ids.uuid();
        let by = is_foreign(&asker.instance)
            .then(|| self.id_abroad(&asker.instance).unwrap_or_else(|| asker.instance.clone()));
        let arguments = Object::new()
            .text("op", "raise")
            .text("raise", &id)
            .text("intent", &raise.intent)
            .json("context", &raise.context)
            .text("appId", &app.app_id)
            .some_text("instanceId", app.instance_id.as_deref())
            .some_text("agent", agent.map(|agent| &**agent))
            .some("metadata", raise.metadata.as_ref())
            .json("source", &self.abroad(&raise.source))
            .some_text("by", by.as_deref())
            .end();
        self.owe(id.clone(), Raiser::App(asker.clone()), Handler::Desk(desk.clone()));
        let Limits { start_ms, intent_ms, peer_ms, bridge_start_ms, .. } = self.settings.limits;
        let patience = peer_ms + agent.map_or(start_ms + intent_ms, |_| bridge_start_ms);
        self.ask_peer(desk, Ask::Raise { asker, raise: id }, arguments, patience);
    }

    /// The agent of another node raises an intent for an app here.
    pub(crate) fn raise_for(&mut self, invocation: u64, desk: &Text, given: &Json) {
        let text =
            |name: &str| given.member(name).and_then(|value| value.as_text()).map(|text| text.detached());
        let context = given.member("context").map(|context| context.detached());
        let kind = context.as_ref().and_then(context_type);
        let (Some(raise), Some(intent), Some(context), Some(kind), Some(app_id)) =
            (text("raise"), text("intent"), context, kind, text("appId"))
        else {
            return self.yield_desk(invocation, Some(fault(Fault::MalformedContext)));
        };
        let instance = given.member("source").and_then(|source| source.member("instanceId")?.as_text());
        // On the bridge of the other node two apps may have one id.
        let instance = text("by").or_else(|| instance.map(|instance| instance.detached()));
        let raise = Raise {
            intent,
            context,
            kind,
            metadata: given.member("metadata").map(|metadata| metadata.detached()),
            source: self.source_from(desk, given),
            raiser: Raiser::Desk { desk: desk.clone(), invocation, raise, instance },
            target: Text::default(),
        };
        // What is asked of this node is not passed on to a third, but to an agent on its bridge.
        if let Some(agent) = text("agent") {
            let app = AppRef { app_id, instance_id: text("instanceId"), desktop_agent: None };
            return self.raise_over_for(raise, invocation, agent, &app);
        }
        let app_id = self.record(&app_id).map_or(app_id, |record| record.app_id.clone());
        let app = AppRef { app_id, instance_id: text("instanceId"), desktop_agent: None };
        let is_here = match &app.instance_id {
            Some(instance) => self.apps.contains_key(instance),
            None => self.record(&app.app_id).is_some(),
        };
        let raised = match (is_here, &app.instance_id) {
            (true, _) => self.raise_to(raise, &app),
            (false, Some(_)) => Err(Fault::TargetInstanceUnavailable),
            (false, None) => Err(Fault::TargetAppUnavailable),
        };
        if let Err(error) = raised {
            self.yield_desk(invocation, Some(fault(error)));
        }
    }

    fn raise_over_for(&mut self, raise: Raise, invocation: u64, agent: Text, app: &AppRef) {
        let error = match self.bridge_has(&agent) {
            true if self.raises.len() + self.owed.len() < self.settings.limits.intents_max => {
                return self.raise_over(raise, &AgentAt { desk: None, agent }, app);
            }
            true => Fault::IntentDeliveryFailed,
            false => Fault::DesktopAgentNotFound,
        };
        self.yield_desk(invocation, Some(fault(error)));
    }

    pub(super) fn deliver_or_wait(&mut self, raise: Raise) {
        // Those of other nodes and of io.Connect apps count as well.
        if self.raises.len() + self.owed.len() >= self.settings.limits.intents_max {
            return self.not_resolved(&raise.raiser, Fault::IntentDeliveryFailed);
        }
        let listens = self.apps.get(&raise.target).is_some_and(|app| {
            let mut own = app.intents.values();
            own.any(|listener| listener.intent == raise.intent && listener.takes(Some(&raise.kind)))
        });
        if listens {
            return self.deliver_intent(raise);
        }
        let id = self.next_request;
        self.next_request += 1;
        let Limits { start_ms, intent_ms, .. } = self.settings.limits;
        let starts = !self.is_connected(&raise.target);
        self.raises.insert(id, raise);
        self.timer(if starts { start_ms } else { intent_ms }, Timer::Raise(id));
    }

    /// An app that was started for intents is connected.
    pub(crate) fn handlers_turn(&mut self, instance: &Text) {
        let waiting: Vec<u64> =
            self.raises.iter().filter(|(_, raise)| raise.target == *instance).map(|(id, _)| *id).collect();
        for id in waiting {
            self.no_timer(&Timer::Raise(id));
            self.timer(self.settings.limits.intent_ms, Timer::Raise(id));
        }
    }

    /// An app has begun to listen: what waits for it is delivered.
    pub(crate) fn deliver_waiting(&mut self, instance: &Text) {
        let waiting: Vec<u64> = self
            .raises
            .iter()
            .filter(|(_, raise)| {
                raise.target == *instance
                    && self.apps.get(instance).is_some_and(|app| {
                        let mut own = app.intents.values();
                        own.any(|listener| {
                            listener.intent == raise.intent && listener.takes(Some(&raise.kind))
                        })
                    })
            })
            .map(|(id, _)| *id)
            .collect();
        for id in waiting {
            if let Some(raise) = self.raises.remove(&id) {
                self.no_timer(&Timer::Raise(id));
                self.deliver_intent(raise);
            }
        }
    }

    fn deliver_intent(&mut self, raise: Raise) {
        let Raise { intent, context, metadata, source, raiser, target, .. } = raise;
        let id = self.ids.uuid();
        let about = self.metadata_of(&source, self.now.wall_ms, metadata.as_ref());
        let payload = Object::new()
            .text("intent", &intent)
            .json("context", &context)
            .json("originatingApp", &source)
            .json("metadata", &about)
            .text("raiseIntentRequestUuid", &id)
            .end();
        self.send_event(&target, "intentEvent", &payload);
        let app_id = self.apps.get(&target).map(|app| app.app_id.clone()).unwrap_or_default();
        self.resolved(&raiser, &intent, &app_id, &target);
        self.owe(id, raiser, Handler::App(target));
    }

    fn resolved(&mut self, raiser: &Raiser, intent: &str, app_id: &str, instance: &str) {
        let resolution = |node: Option<&str>| {
            let source = app_identifier(app_id, Some(instance), node);
            let resolution = Object::new().text("intent", intent).json("source", &source).end();
            Object::new().json("intentResolution", &resolution).end()
        };
        match raiser {
            Raiser::App(asker) => self.answer(asker, Ok(resolution(None))),
            Raiser::Desk { invocation, .. } => {
                let answer = resolution(Some(&self.settings.node));
                self.yield_desk(*invocation, Some(answer));
            }
            Raiser::Call { .. } => {}
        }
    }

    pub(super) fn not_resolved(&mut self, raiser: &Raiser, error: Fault) {
        match raiser {
            Raiser::App(asker) => self.answer(asker, Err(error)),
            Raiser::Desk { invocation, .. } => self.yield_desk(*invocation, Some(fault(error))),
            Raiser::Call { session, invocation } => {
                let words = Words { uri: None, reason: Some(Json::string(error.word())) };
                self.fail_call(*session, *invocation, words);
            }
        }
    }

    pub(crate) fn raise_is_late(&mut self, id: u64) {
        let Some(raise) = self.raises.remove(&id) else { return };
        self.not_resolved(&raise.raiser, Fault::IntentDeliveryFailed);
    }

    /// Hands an intent to an io.Connect app: a call of its method.
    fn call_handler(&mut self, raise: Raise, server: Text, method: Json) {
        let Raiser::App(asker) = &raise.raiser else { return };
        let session = match is_foreign(&asker.instance) {
            true => Some(self.desk.session),
            false => self.apps.get(&asker.instance).and_then(|app| app.session),
        };
        let Some(session) = session else { return };
        let known = self.peers.servers.get(&server);
        let (app_id, instance, node) = known
            .map(|known| (known.app_id.clone(), known.instance.clone(), known.node.clone()))
            .unwrap_or_default();
        let arguments = Object::new().text("type", &raise.kind).json("data", &raise.context).end();
        let id = self.ids.uuid();
        let source = app_identifier(&app_id, Some(&instance), node.as_deref());
        let resolution = Object::new().text("intent", &raise.intent).json("source", &source).end();
        self.answer(asker, Ok(Object::new().json("intentResolution", &resolution).end()));
        self.owe(id.clone(), raise.raiser.clone(), Handler::Server(server.clone()));
        self.ask(session, Pending::Handler(id), |request| call(request, server, method, arguments));
    }
}
