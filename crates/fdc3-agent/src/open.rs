//! Starting apps: `open`, and what an intent needs. And closing those that ask for it: `close`.

use mesh_model::{Json, Text};
use proto_dacp::{AppRef, Fault, Object};

use crate::app::State;
use crate::bridge::AgentAt;
use crate::channel::Listener;
use crate::document::{Cast, Slot};
use crate::peer::Ask;
use crate::{Agent, Asker, Limits, Output, Time, Timer, app_identifier};

/// How many times `settle_ms` an app that keeps asking may take.
const SETTLE_TIMES_MAX: u64 = 5;

/// An app that was started by `open`.
#[derive(Debug)]
pub(crate) struct Opening {
    opener: Opener,
    /// The context that it is opened with, until it has it.
    context: Option<Slot>,
    /// It is connected, and has until then for its first listener at most.
    settles_by_ms: Option<u64>,
}

/// Who waits for it.
#[derive(Debug)]
enum Opener {
    App(Asker),
    /// The agent of another node, by its invocation.
    Desk(u64),
    /// The launcher.
    Person,
}

/// Where an app is to be found.
pub(crate) enum Place {
    /// In this node's directory, under this id.
    Here(Text),
    /// At the desk of another node.
    There(Text),
    /// At this agent on a bridge.
    Bridge(AgentAt),
}

impl Agent {
    pub(crate) fn open(
        &mut self,
        app: &AppRef,
        context: Option<Json>,
        metadata: Option<&Json>,
        asker: Asker,
    ) {
        match self.place(app) {
            Err(Fault::TargetAppUnavailable) => self.answer(&asker, Err(Fault::AppNotFound)),
            Err(fault) => self.answer(&asker, Err(fault)),
            Ok(Place::Bridge(at)) => match &at.desk {
                None => self.open_on_bridge(asker, &at, app, context.as_ref(), metadata),
                Some(desk) => {
                    let app_id = self.id_at(&at, app);
                    // As long as the app may take there, and the way.
                    let patience = self.settings.limits.bridge_start_ms + self.settings.limits.peer_ms;
                    let members = Object::new().text("appId", &app_id).text("agent", &at.agent);
                    self.open_at(desk, members, context.as_ref(), metadata, asker, patience);
                }
            },
            Ok(Place::There(desk)) => {
                let Limits { start_ms, open_ms, peer_ms, .. } = self.settings.limits;
                let patience = start_ms + open_ms + peer_ms;
                let members = Object::new().text("appId", &app.app_id);
                self.open_at(&desk, members, context.as_ref(), metadata, asker, patience);
            }
            Ok(Place::Here(app_id)) => {
                let source = self.source(&asker.instance);
                self.start_open(app_id, Opener::App(asker), context, source, metadata.cloned());
            }
        }
    }

    fn open_at(
        &mut self,
        desk: &Text,
        members: Object,
        context: Option<&Json>,
        metadata: Option<&Json>,
        asker: Asker,
        patience_ms: u64,
    ) {
        let arguments = members
            .text("op", "open")
            .some("context", context)
            .some("metadata", metadata)
            .json("source", &self.abroad(&self.source(&asker.instance)))
            .end();
        self.ask_peer(desk, Ask::Open(asker), arguments, patience_ms);
    }

    pub(crate) fn open_for(&mut self, invocation: u64, desk: &Text, given: &Json) {
        let text =
            |name: &str| given.member(name).and_then(|value| value.as_text()).map(|text| text.detached());
        if let Some(agent) = text("agent") {
            return self.open_on_bridge_for(invocation, desk, given, &agent);
        }
        let record = text("appId").and_then(|id| self.record(&id)).map(|record| record.app_id.clone());
        let Some(app_id) = record else {
            return self.yield_desk(invocation, Some(fault(Fault::AppNotFound)));
        };
        let own =
            |name: &str| given.member(name).filter(|value| !value.is_null()).map(|value| value.detached());
        let source = self.source_from(desk, given);
        self.start_open(app_id, Opener::Desk(invocation), own("context"), source, own("metadata"));
    }

    /// Finds where an app is: at the agent that is named, or in this node's directory, or in that of the
    /// only other node that has it.
    pub(crate) fn place(&self, app: &AppRef) -> Result<Place, Fault> {
        let there = |node: &str| self.peers.desk_of(node).cloned().map(Place::There);
        let named = app.desktop_agent.as_deref().filter(|agent| *agent != &*self.settings.node);
        if let Some(agent) = named {
            let on_bridge = || self.agent_at(agent).map(Place::Bridge);
            return there(agent).or_else(on_bridge).ok_or(Fault::DesktopAgentNotFound);
        }
        let exact = self.record(&app.app_id).filter(|record| record.app_id == app.app_id);
        if let Some(record) = exact {
            return Ok(Place::Here(record.app_id.clone()));
        }
        if let Some((_, at)) = self.agent_in_id(&app.app_id) {
            return Ok(Place::Bridge(at));
        }
        if let Some((_, host)) = app.app_id.rsplit_once('@') {
            match there(host) {
                Some(place) => return Ok(place),
                None if self.peers.known_nodes.contains(host.as_bytes()) => {
                    return Err(Fault::DesktopAgentNotFound);
                }
                // The host of a directory, most likely.
                None => {}
            }
        }
        if let Some(record) = self.record(&app.app_id) {
            return Ok(Place::Here(record.app_id.clone()));
        }
        let mut elsewhere = self.peers.records().filter(|(_, record)| *record.app_id == *app.app_id);
        match elsewhere.next() {
            Some((node, _)) => there(node).ok_or(Fault::TargetAppUnavailable),
            None => Err(Fault::TargetAppUnavailable),
        }
    }

    /// Starts an app because somebody chose it in the launcher.
    pub fn launch(&mut self, app_id: &str, node: Option<&str>, now: Time) -> Result<(), Fault> {
        self.now = now;
        let app = AppRef { app_id: app_id.into(), instance_id: None, desktop_agent: node.map(Text::from) };
        match self.place(&app)? {
            Place::Here(app_id) => {
                self.start_open(app_id, Opener::Person, None, crate::empty(), None);
            }
            Place::Bridge(_) => return Err(Fault::DesktopAgentNotFound),
            Place::There(desk) => {
                let asker = Asker { instance: Text::default(), name: "open".into(), uuid: Json::null() };
                let arguments = Object::new().text("op", "open").text("appId", app_id).end();
                let patience = self.settings.limits.start_ms + self.settings.limits.peer_ms;
                self.ask_peer(&desk, Ask::Open(asker), arguments, patience);
            }
        }
        Ok(())
    }

    fn start_open(
        &mut self,
        app_id: Text,
        opener: Opener,
        context: Option<Json>,
        source: Json,
        metadata: Option<Json>,
    ) {
        let Some(instance) = self.start(&app_id) else {
            return self.opened(opener, Err(Fault::ErrorOnLaunch));
        };
        let context = context.and_then(|context| {
            let cast = Cast { event: Text::default(), source, wall_ms: self.now.wall_ms, metadata };
            Some(Slot { kind: proto_dacp::context_type(&context)?, context, cast: Some(cast) })
        });
        self.openings.insert(instance.clone(), Opening { opener, context, settles_by_ms: None });
        self.timer(self.settings.limits.start_ms, Timer::Open(instance));
    }

    /// Makes an instance and has its app started.
    pub(crate) fn start(&mut self, app_id: &Text) -> Option<Text> {
        let record = self.record(app_id)?.clone();
        let instance = self.reserve(app_id.clone())?;
        let secret = self.apps[&instance].secret.clone();
        // Whoever it was started for may be gone before it is heard of.
        self.timer(self.settings.limits.start_ms, Timer::Return(instance.clone()));
        self.outputs.push_back(Output::Launch { instance: instance.clone(), secret, record });
        self.outputs.push_back(Output::Changed);
        Some(instance)
    }

    /// An app could be started, or not; or its process has ended, or its window was closed, without it
    /// having connected.
    pub fn launched(&mut self, instance: &Text, started: bool, now: Time) {
        self.now = now;
        if started || self.apps.get(instance).is_none_or(|app| app.state != State::Starting) {
            return;
        }
        self.apps.remove(instance);
        self.end_opening(instance, Err(Fault::ErrorOnLaunch));
        self.handler_is_gone(instance);
        self.outputs.push_back(Output::Changed);
    }

    /// An app is connected.
    pub(crate) fn connected(&mut self, instance: &Text) {
        self.no_timer(&Timer::Return(instance.clone()));
        self.handlers_turn(instance);
        let Some(opening) = self.openings.get_mut(instance) else { return };
        // Whoever opened it acts at once: without a context it gets a moment for its first listeners.
        let Limits { settle_ms, open_ms, .. } = self.settings.limits;
        let settles = opening.context.is_none();
        opening.settles_by_ms = settles.then(|| self.now.ms.saturating_add(settle_ms * SETTLE_TIMES_MAX));
        let patience = if settles { settle_ms } else { open_ms };
        self.no_timer(&Timer::Open(instance.clone()));
        self.timer(patience, Timer::Open(instance.clone()));
    }

    /// An app has asked for something. If it has yet to settle it is about to, at the pace of its machine.
    pub(crate) fn asks(&mut self, instance: &Text) {
        let Some(by_ms) = self.openings.get(instance).and_then(|opening| opening.settles_by_ms) else {
            return;
        };
        let patience = self.settings.limits.settle_ms.min(by_ms.saturating_sub(self.now.ms));
        self.no_timer(&Timer::Open(instance.clone()));
        self.timer(patience, Timer::Open(instance.clone()));
    }

    /// An app listens, for contexts if there is such a listener. It has been answered.
    pub(crate) fn listens(&mut self, instance: &Text, listener: Option<&Listener>) {
        let Some(opening) = self.openings.get_mut(instance) else { return };
        if opening.context.is_none() {
            return self.end_opening(instance, Ok(()));
        }
        let takes = |slot: &Slot| listener.is_some_and(|listener| listener.takes(&slot.kind));
        if !opening.context.as_ref().is_some_and(takes) {
            return;
        }
        if let Some(slot) = opening.context.take() {
            // Clients look for the channel that they have registered with.
            let channel = listener.and_then(|listener| listener.channel.clone());
            let payload = self.broadcast_payload(channel.as_deref(), &slot);
            self.send_event(instance, "broadcastEvent", &payload);
        }
        self.end_opening(instance, Ok(()));
    }

    pub(crate) fn open_is_due(&mut self, instance: &Text) {
        let Some(opening) = self.openings.get(instance) else { return };
        let state = self.apps.get(instance).map(|app| app.state);
        let end = match (opening.settles_by_ms.is_some(), state) {
            (true, Some(State::Connected)) => Ok(()),
            (_, Some(State::Connected)) => Err(Fault::AppTimeout),
            _ => Err(Fault::ErrorOnLaunch),
        };
        if state == Some(State::Starting) {
            self.apps.remove(instance);
            self.outputs.push_back(Output::Changed);
        }
        self.end_opening(instance, end);
    }

    /// An app that was being opened is gone again.
    pub(crate) fn opener_is_gone(&mut self, instance: &Text) {
        self.end_opening(instance, Err(Fault::ErrorOnLaunch));
    }

    /// An app wants to be closed. When that has been done, there is nobody to answer.
    pub(crate) fn close(&mut self, asker: &Asker) -> Result<(), Fault> {
        let app = self.apps.get_mut(&asker.instance).ok_or(Fault::ErrorOnClose)?;
        if app.closing.is_some() {
            return Err(Fault::ErrorOnClose);
        }
        app.closing = Some(asker.clone());
        self.timer(self.settings.limits.close_ms, Timer::Close(asker.instance.clone()));
        self.outputs.push_back(Output::CloseApp(asker.instance.clone()));
        Ok(())
    }

    /// There is nobody who could close an app.
    pub fn not_closed(&mut self, instance: &Text, now: Time) {
        self.now = now;
        self.close_failed(instance);
    }

    /// An app that has asked to be closed is still there.
    pub(crate) fn close_failed(&mut self, instance: &Text) {
        self.no_timer(&Timer::Close(instance.clone()));
        if let Some(asker) = self.apps.get_mut(instance).and_then(|app| app.closing.take()) {
            self.answer(&asker, Err(Fault::ErrorOnClose));
        }
    }

    fn end_opening(&mut self, instance: &Text, end: Result<(), Fault>) {
        let Some(opening) = self.openings.remove(instance) else { return };
        self.no_timer(&Timer::Open(instance.clone()));
        let app_id = self.apps.get(instance).map(|app| app.app_id.clone()).unwrap_or_default();
        self.opened(opening.opener, end.map(|()| (app_id, instance.clone())));
    }

    fn opened(&mut self, opener: Opener, end: Result<(Text, Text), Fault>) {
        let identifier = |node: Option<&str>| {
            end.clone().map(|(app_id, instance)| {
                let app = app_identifier(&app_id, Some(&instance), node);
                Object::new().json("appIdentifier", &app).end()
            })
        };
        match opener {
            Opener::App(asker) => {
                let answer = identifier(None);
                self.answer(&asker, answer);
            }
            Opener::Desk(invocation) => {
                let answer = identifier(Some(&self.settings.node)).unwrap_or_else(fault);
                self.yield_desk(invocation, Some(answer));
            }
            Opener::Person => {}
        }
    }
}

pub(crate) fn fault(fault: Fault) -> Json {
    Object::new().text("error", fault.word()).end()
}
