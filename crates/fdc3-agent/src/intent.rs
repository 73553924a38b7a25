//! Intents: who handles them, raising them, and their results.
//!
//! Handlers are the apps of directories, here and on other nodes, and running instances: of FDC3 apps,
//! and of io.Connect apps that offer a method `Tick42.FDC3.Intents.<intent>`. An intent that is raised
//! gets an id of ours, which its handler names with the result: so nobody answers for somebody else.

use std::collections::{BTreeMap, BTreeSet};

use mesh_model::{Answer, Arguments, Command, Json, Outcome, SessionId, Text, Words};
use proto_dacp::{AppRef, Fault, Object, array, context_type};

use crate::app::State;
use crate::bridge::{desk_of, is_foreign};
use crate::document::with_type;
use crate::open::{Place, fault};
use crate::peer::{Ask, call};
use crate::{Agent, Asker, Limits, Output, Pending, Timer, app_identifier};

/// What the methods of intent handlers begin with.
pub(crate) const INTENT: &str = "Tick42.FDC3.Intents.";

/// An intent that waits for its handler to listen.
#[derive(Debug)]
pub(crate) struct Raise {
    intent: Text,
    context: Json,
    kind: Text,
    metadata: Option<Json>,
    source: Json,
    raiser: Raiser,
    /// The instance that is to handle it.
    target: Text,
}

/// Who raised an intent.
#[derive(Clone, Debug)]
pub(crate) enum Raiser {
    /// An app here.
    App(Asker),
    /// The agent of another node: its desk, its invocation, its id for the intent, and the app there.
    Desk { desk: Text, invocation: u64, raise: Text, instance: Option<Text> },
    /// An io.Connect app that has called the method of a handler here.
    Call { session: SessionId, invocation: u64 },
}

/// A result that somebody waits for.
#[derive(Debug)]
pub(crate) struct Owed {
    raiser: Raiser,
    handler: Handler,
}

/// Who owes it.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Handler {
    /// An app here.
    App(Text),
    /// The agent of another node.
    Desk(Text),
    /// An io.Connect app.
    Server(Text),
}

/// Somebody who handles an intent.
#[derive(Clone, Debug)]
pub(crate) struct Candidate {
    pub(crate) app_id: Text,
    pub(crate) instance: Option<Text>,
    pub(crate) node: Option<Text>,
    pub(crate) about: Json,
    pub(crate) display_name: Option<Text>,
}

/// A search for handlers, which may take its time as agents on the bridge are asked.
#[derive(Debug)]
pub(crate) struct Search {
    pub(crate) asker: Asker,
    /// The intent; none: all that are handled for a type of context.
    pub(crate) intent: Option<Text>,
    pub(crate) found: Vec<(Text, Vec<Candidate>)>,
    pub(crate) purpose: Purpose,
}

/// What a search is for.
#[derive(Debug)]
#[expect(clippy::large_enum_variant, reason = "made and taken once")]
pub(crate) enum Purpose {
    /// To tell.
    Find,
    /// To raise an intent.
    Raise(Raise, Option<AppRef>),
}

impl Agent {
    // Who handles what.

    fn candidates(&self, intent: &str, kind: Option<&str>, result: Option<&str>) -> Vec<Candidate> {
        let with_result = |members: Object, result: Option<&Text>| {
            members.some_text("resultType", result.map(|result| &**result)).end()
        };
        let mut found = Vec::new();
        let mut declared: BTreeMap<&Text, &fdc3_directory::ListensFor> = BTreeMap::new();
        for (record, listens) in self.directory.declares(Some(intent), kind, result) {
            declared.insert(&record.app_id, listens);
            found.push(Candidate {
                app_id: record.app_id.clone(),
                instance: None,
                node: None,
                about: with_result(Self::metadata(record, None, None), listens.result_type.as_ref()),
                display_name: listens.display_name.clone(),
            });
        }
        let mentions: BTreeSet<&Text> =
            self.directory.declares(Some(intent), None, None).map(|(record, _)| &record.app_id).collect();
        for (instance, app) in self.connected_apps() {
            let listens = app.intents.values().any(|own| *own.intent == *intent && own.takes(kind));
            let listens_for = declared.get(&app.app_id);
            if listens_for.is_none() && (!listens || mentions.contains(&app.app_id) || result.is_some()) {
                continue;
            }
            let members = self.instance_metadata(&app.app_id, instance, None);
            found.push(Candidate {
                app_id: app.app_id.clone(),
                instance: Some(instance.clone()),
                node: None,
                about: with_result(members, listens_for.and_then(|listens| listens.result_type.as_ref())),
                display_name: listens_for.and_then(|listens| listens.display_name.clone()),
            });
        }
        self.candidates_elsewhere(intent, kind, result, &mut found);
        found
    }

    fn candidates_elsewhere(
        &self,
        intent: &str,
        kind: Option<&str>,
        result: Option<&str>,
        found: &mut Vec<Candidate>,
    ) {
        let mut declared: BTreeMap<&Text, &fdc3_directory::ListensFor> = BTreeMap::new();
        for (node, record) in self.peers.records() {
            let fits = |listens: &&fdc3_directory::ListensFor| {
                *listens.intent == *intent && listens.is_for(kind, result)
            };
            let Some(listens) = record.intents.iter().find(fits) else { continue };
            declared.insert(&record.app_id, listens);
            // An app that this node has as well is started here.
            if self.record(&record.app_id).is_some_and(|own| own.app_id == record.app_id) {
                continue;
            }
            found.push(Candidate {
                app_id: record.app_id.clone(),
                instance: None,
                node: Some(node.clone()),
                about: Self::metadata(record, None, Some(node))
                    .some_text("resultType", listens.result_type.as_deref())
                    .end(),
                display_name: listens.display_name.clone(),
            });
        }
        for (record, listens) in self.directory.declares(Some(intent), kind, result) {
            declared.entry(&record.app_id).or_insert(listens);
        }
        for server in self.peers.servers.values() {
            let method = server.intents.values().find(|method| {
                *method.intent == *intent
                    && kind
                        .zip(method.contexts.as_ref())
                        .is_none_or(|(kind, types)| types.iter().any(|other| **other == *kind))
            });
            let listens = declared.get(&server.app_id).filter(|_| server.fdc3);
            if listens.is_none() && (method.is_none() || result.is_some()) {
                continue;
            }
            let about = self.instance_metadata(&server.app_id, &server.instance, server.node.as_deref());
            let name = method.and_then(|method| method.display_name.clone());
            found.push(Candidate {
                app_id: server.app_id.clone(),
                instance: Some(server.instance.clone()),
                node: server.node.clone(),
                about: about
                    .some_text("resultType", listens.and_then(|listens| listens.result_type.as_deref()))
                    .end(),
                display_name: listens.and_then(|listens| listens.display_name.clone()).or(name),
            });
        }
    }

    /// Returns the intents that are handled for a type of context.
    fn intents_for(&self, kind: &str, result: Option<&str>) -> Vec<Text> {
        let mut found: Vec<Text> = Vec::new();
        let own =
            self.directory.declares(None, Some(kind), result).map(|(_, listens)| listens.intent.clone());
        let others = self.peers.records().flat_map(|(_, record)| &record.intents);
        let others =
            others.filter(|listens| listens.is_for(Some(kind), result)).map(|listens| listens.intent.clone());
        // A method that names no types handles anything, and so says nothing about this one.
        let methods = self
            .peers
            .servers
            .values()
            .filter(|_| result.is_none())
            .flat_map(|server| server.intents.values());
        let methods = methods.filter(|method| {
            method.contexts.as_ref().is_some_and(|types| types.iter().any(|other| **other == *kind))
        });
        for intent in own.chain(others).chain(methods.map(|method| method.intent.clone())) {
            if !found.contains(&intent) {
                found.push(intent);
            }
        }
        found
    }

    fn app_intent(intent: &str, candidates: &[Candidate]) -> Json {
        let display = candidates.iter().find_map(|candidate| candidate.display_name.clone());
        let about = Object::new()
            .text("name", intent)
            .text("displayName", display.as_deref().unwrap_or(intent))
            .end();
        let apps = array(candidates.iter().map(|candidate| &candidate.about));
        Object::new().json("intent", &about).json("apps", &apps).end()
    }

    pub(crate) fn find_intent(
        &mut self,
        asker: &Asker,
        intent: &str,
        kind: Option<&str>,
        result: Option<&str>,
    ) -> Result<(), Fault> {
        let found = vec![(intent.into(), self.candidates(intent, kind, result))];
        let search =
            Search { asker: asker.clone(), intent: Some(intent.into()), found, purpose: Purpose::Find };
        self.search(search, kind, result)
    }

    pub(crate) fn find_intents(
        &mut self,
        asker: &Asker,
        kind: &str,
        result: Option<&str>,
    ) -> Result<(), Fault> {
        let found = self.found_for(kind, result);
        let search = Search { asker: asker.clone(), intent: None, found, purpose: Purpose::Find };
        self.search(search, Some(kind), result)
    }

    fn found_for(&self, kind: &str, result: Option<&str>) -> Vec<(Text, Vec<Candidate>)> {
        let intents = self.intents_for(kind, result).into_iter();
        intents.map(|intent| (intent.clone(), self.candidates(&intent, Some(kind), result))).collect()
    }

    /// Ends a search, or asks the agents on the bridge first.
    fn search(&mut self, search: Search, kind: Option<&str>, result: Option<&str>) -> Result<(), Fault> {
        match self.asks_bridge(&search.asker) {
            true => {
                self.search_bridge(search, kind, result);
                Ok(())
            }
            false => self.found(search),
        }
    }

    /// All that can be found has been.
    pub(crate) fn found(&mut self, search: Search) -> Result<(), Fault> {
        let Search { asker, intent, mut found, purpose } = search;
        if let Purpose::Raise(raise, app) = purpose {
            return self.raise_to_found(&asker, intent.is_some(), raise, app, found);
        }
        // Agents on the bridge are told that there is nothing; apps, that this is an error.
        let is_foreign = is_foreign(&asker.instance);
        found.retain(|(_, candidates)| !candidates.is_empty() || (is_foreign && intent.is_some()));
        if found.is_empty() && !is_foreign {
            return Err(Fault::NoAppsFound);
        }
        let found: Vec<Json> =
            found.iter().map(|(intent, candidates)| Self::app_intent(intent, candidates)).collect();
        let payload = match (&intent, &found[..]) {
            (Some(_), [found]) => Object::new().json("appIntent", found).end(),
            _ => Object::new().json("appIntents", &array(&found)).end(),
        };
        self.answer(&asker, Ok(payload));
        Ok(())
    }

    // Listeners here, as other nodes and io.Connect apps see them.

    /// Registers the method of an intent, unless it is.
    pub(crate) fn offer_intent(&mut self, instance: &Text, intent: &Text) {
        let Some(app) = self.apps.get_mut(instance) else { return };
        let Some(session) = app.session.filter(|_| !app.methods.contains_key(intent)) else { return };
        let id = self.next_request;
        app.methods.insert(intent.clone(), id);
        let of_intent = app.intents.values().filter(|listener| listener.intent == *intent);
        let mut types: Vec<Json> = Vec::new();
        for listener in of_intent {
            types.extend(listener.contexts.iter().flatten().map(|kind| Json::string(kind)));
        }
        let record = self.directory.find(&app.app_id);
        let declared = record.and_then(|record| record.intents.iter().find(|own| own.intent == *intent));
        if types.is_empty() {
            types =
                declared.into_iter().flat_map(|own| &own.contexts).map(|kind| Json::string(kind)).collect();
        }
        let about = Object::new()
            .json("contextTypes", &array(&types))
            .some_text("displayName", declared.and_then(|own| own.display_name.as_deref()))
            .some_text("resultType", declared.and_then(|own| own.result_type.as_deref()))
            .end();
        let flags = Object::new()
            .flag("streaming", false)
            .json("metadata", &Object::new().json("intent", &about).end())
            .end();
        let method = Object::new()
            .number("id", id)
            .text("name", &format!("{INTENT}{intent}"))
            .json("flags", &flags)
            .end();
        self.ask(session, Pending::Nothing, |request| Command::Register { request, methods: vec![method] });
    }

    pub(crate) fn intent_listener_gone(&mut self, instance: &Text, intent: &Text) {
        let Some(app) = self.apps.get_mut(instance) else { return };
        if app.intents.values().any(|listener| listener.intent == *intent) {
            return;
        }
        if let (Some(id), Some(session)) = (app.methods.remove(intent), app.session) {
            let method = Json::assembled(id.to_string().into_bytes());
            self.ask(session, Pending::Nothing, |request| Command::Unregister {
                request,
                methods: vec![method],
            });
        }
    }

    /// An io.Connect app calls the method of an intent.
    pub(crate) fn invoked(
        &mut self,
        instance: &Text,
        invocation: u64,
        method: &Json,
        caller: &Text,
        arguments: &Arguments,
    ) {
        let Some(app) = self.apps.get(instance) else { return };
        let Some(session) = app.session else { return };
        let id = method.to_string().parse().ok();
        let intent = app.methods.iter().find(|(_, own)| Some(**own) == id).map(|(intent, _)| intent.clone());
        let given = arguments.named.clone().unwrap_or_else(crate::empty);
        let context = context_of_call(&given);
        let (Some(intent), Some(kind)) = (intent, context_type(&context)) else {
            let words =
                Words { uri: None, reason: Some(Json::string("an intent needs a context with a `type`")) };
            return self.fail_call(session, invocation, words);
        };
        let raise = Raise {
            intent,
            context,
            kind,
            metadata: None,
            source: self.source_of_server(caller),
            raiser: Raiser::Call { session, invocation },
            target: instance.clone(),
        };
        self.deliver_or_wait(raise);
    }

    // Raising.

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

    fn raise_to_found(
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

    /// Returns the agent on the bridge that is named.
    fn on_bridge(&self, app: &AppRef) -> Option<Text> {
        app.desktop_agent.as_ref()?;
        match self.place(app) {
            Ok(Place::Bridge(agent)) => Some(agent),
            _ => None,
        }
    }

    fn raise_to(&mut self, raise: Raise, app: &AppRef) -> Result<(), Fault> {
        if let Some(agent) = self.on_bridge(app) {
            self.raise_over(raise, &agent, app);
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
            self.raise_at(raise, &desk, app);
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
            Place::There(desk) => self.raise_at(raise, &desk, app),
            Place::Bridge(agent) => self.raise_over(raise, &agent, app),
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

    /// Hands an intent to an agent on the bridge.
    fn raise_over(&mut self, raise: Raise, agent: &Text, app: &AppRef) {
        let Raiser::App(asker) = raise.raiser else { return };
        let of = asker.clone();
        if let Some((id, desk)) = self.raise_on_bridge(of, agent, app, &raise.intent, &raise.context) {
            let owed = Owed { raiser: Raiser::App(asker), handler: Handler::Desk(desk) };
            self.owed.insert(id, owed);
        }
    }

    /// No result will come of an intent that was not delivered.
    pub(crate) fn nothing_owed(&mut self, id: &Text) {
        self.owed.remove(id);
    }

    /// Returns which desk owes the result of an intent, and to which app.
    pub(crate) fn owed_by(&self, id: &Text) -> Option<(Text, Text)> {
        match self.owed.get(id)? {
            Owed { raiser: Raiser::App(asker), handler: Handler::Desk(desk) } => {
                Some((desk.clone(), asker.instance.clone()))
            }
            _ => None,
        }
    }

    /// Hands an intent to the agent of another node.
    fn raise_at(&mut self, raise: Raise, desk: &Text, app: &AppRef) {
        let Raiser::App(asker) = raise.raiser else { return };
        let id = self.ids.uuid();
        let arguments = Object::new()
            .text("op", "raise")
            .text("raise", &id)
            .text("intent", &raise.intent)
            .json("context", &raise.context)
            .text("appId", &app.app_id)
            .some_text("instanceId", app.instance_id.as_deref())
            .some("metadata", raise.metadata.as_ref())
            .json("source", &self.abroad(&raise.source))
            .some_text("by", is_foreign(&asker.instance).then_some(&*asker.instance))
            .end();
        let owed = Owed { raiser: Raiser::App(asker.clone()), handler: Handler::Desk(desk.clone()) };
        self.owed.insert(id.clone(), owed);
        let Limits { start_ms, intent_ms, peer_ms, .. } = self.settings.limits;
        let patience = start_ms + intent_ms + peer_ms;
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
        // What is asked of this node is not passed on to a third.
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

    fn deliver_or_wait(&mut self, raise: Raise) {
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
        self.owed.insert(id, Owed { raiser, handler: Handler::App(target) });
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

    fn not_resolved(&mut self, raiser: &Raiser, error: Fault) {
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
        let owed = Owed { raiser: raise.raiser.clone(), handler: Handler::Server(server.clone()) };
        self.owed.insert(id.clone(), owed);
        self.ask(session, Pending::Handler(id), |request| call(request, server, method, arguments));
    }

    // Results.

    /// The handler of an intent has a result.
    pub(crate) fn result(&mut self, me: &Text, raise: &Text, result: &Json, metadata: Option<&Json>) {
        // Only who was asked may answer, and once.
        if !self.owed.get(raise).is_some_and(|owed| owed.handler == Handler::App(me.clone())) {
            return;
        }
        let Some(owed) = self.owed.remove(raise) else { return };
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
                    (Some(id), Some(host)) => self.adopt(&id, &host, &asker.instance),
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

/// Returns the FDC3 context in the argument of a call by an io.Connect app: `{type, data}`, where `data`
/// may be the context itself.
fn context_of_call(given: &Json) -> Json {
    let data = given.member("data").filter(|data| data.members().is_some());
    match (given.member("type").and_then(|kind| kind.as_text()), data) {
        (Some(kind), Some(data)) => with_type(&data, &kind, 0).detached(),
        _ => given.detached(),
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
