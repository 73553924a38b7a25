//! Agents on the desktop agent bridge of this machine, which are nodes of no mesh.
//!
//! To the apps here they are like other machines: their apps are found, opened, and raised intents at,
//! under `desktopAgent`. To them this agent speaks for all apps of the mesh: those of other nodes go by
//! the name `appId@node`. Each node speaks to its own bridge only; a broadcast goes over the mesh to all
//! nodes and from each to its bridge, and what a bridge has said is not said to it again. Where several
//! nodes of one mesh are on one bridge, the one whose name comes first speaks for all.
//!
//! An app of such an agent is an instance whose id no app of the mesh can have: [`instance_of`]. So what
//! it asks is served as if an app had asked. Its agent is a desk of that kind: [`desk_of`].

#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, BTreeSet};

use mesh_model::json::{Edit, edited};
use mesh_model::{Json, Key, Text};
use proto_bridge::{
    Answered, ChannelLimits, ChannelsState, Exchange, Listeners, Message, MessageType, Participant, error,
};
use proto_dacp::{AppRef, Fault, Object, Request, array, context_type};

use crate::document::{Cast, Slot};
use crate::intent::{Candidate, Search};
use crate::private::Deed;
use crate::{Agent, Asker, Output, Time, Timer, app_identifier};

/// What ids begin with that belong to agents on the bridge.
const MARK: char = '\0';
/// The member of the implementation metadata by which nodes know each other on a bridge.
const OWN: &str = "deskmesh";
/// Longest id of an app or an instance that an agent on the bridge may use, in bytes.
const ID_BYTES_MAX: usize = 1_024;
/// What an agent can listen for in private channels.
const EVENTS: [&str; 3] = ["onAddContextListener", "onUnsubscribe", "onDisconnect"];

/// What is known of the bridge.
#[derive(Debug, Default)]
pub(crate) struct Bridge {
    /// This agent's name there, while it takes part.
    name: Option<Text>,
    /// The update that tells of this agent's own joining has yet to come.
    joining: bool,
    /// The other agents, with the nodes of those that are nodes.
    agents: BTreeMap<Text, Option<Text>>,
    asked: BTreeMap<Text, Asked>,
    /// What is to be taken over once the channel is open.
    adopting: BTreeMap<Text, Vec<Adopted>>,
    /// Which events of private channels agents listen for, by channel and desk.
    hears: BTreeMap<(Text, Text), BTreeSet<Text>>,
}

/// A context that the bridge has and this agent did not have.
#[derive(Clone, Debug)]
pub(crate) struct Adopted {
    pub(crate) kind: Text,
    pub(crate) context: Json,
    pub(crate) is_newest: bool,
    /// Listeners for its type hear of it, listeners for all types do.
    pub(crate) heard_by: (bool, bool),
}

/// What agents on the bridge were asked.
#[derive(Debug)]
enum Asked {
    Search(Box<Search>),
    Instances { asker: Asker, here: Result<Vec<Json>, Fault> },
    Metadata(Asker),
    Open(Asker),
    Raise(Asker),
}

/// Returns the id under which an app of an agent on the bridge goes here.
fn instance_of(agent: &str, app: &Participant) -> Text {
    let text = |text: &Option<Text>| text.clone().unwrap_or_default();
    format!("{MARK}{agent}{MARK}{}{MARK}{}", text(&app.app_id), text(&app.instance_id)).into()
}

/// Returns whether an instance, or a desk, is on the bridge.
pub(crate) fn is_foreign(id: &str) -> bool {
    id.starts_with(MARK)
}

/// Returns the desk of an instance that is on the bridge.
pub(crate) fn desk_of(instance: &str) -> Option<Text> {
    parts(instance).map(|(agent, ..)| desk(agent))
}

fn desk(agent: &str) -> Text {
    format!("{MARK}{agent}").into()
}

/// Returns the agent, the app and its instance.
fn parts(instance: &str) -> Option<(&str, &str, &str)> {
    let mut parts = instance.strip_prefix(MARK)?.splitn(3, MARK);
    Some((parts.next()?, parts.next().unwrap_or_default(), parts.next().unwrap_or_default()))
}

fn some(text: &str) -> Option<&str> {
    Some(text).filter(|text| !text.is_empty())
}

fn text(of: &Json, name: &str) -> Option<Text> {
    of.member(name)?.as_text().map(|text| text.detached())
}

impl Bridge {
    pub(crate) const fn is_on(&self) -> bool {
        self.name.is_some()
    }
}

/// Coming and going.
impl Agent {
    /// Returns what `getInfo` says of this agent, for a bridge that it joins.
    #[must_use]
    pub fn bridge_implementation(&self) -> Json {
        let own = Object::new().text("node", &self.settings.node).text("user", &self.settings.user).end();
        self.implementation(true).json(OWN, &own).end()
    }

    /// Returns what is on the user and app channels.
    #[must_use]
    pub fn bridge_channels(&self) -> ChannelsState {
        let limits = ChannelLimits::default();
        let mut state = ChannelsState::default();
        for (id, channel) in &self.channels.by_id {
            let Some(shared) = channel.shared() else { continue };
            for slot in shared.slots() {
                // What has no room is not told.
                let _ = state.broadcast(id, &slot.context, &limits);
            }
        }
        state
    }

    /// This agent takes part in a bridge, under this name. The update that says so follows as a message.
    pub fn bridge_joined(&mut self, name: Text, now: Time) {
        self.now = now;
        self.leave_bridge();
        self.bridge.name = Some(name);
        self.bridge.joining = true;
    }

    /// The bridge is gone.
    pub fn bridge_left(&mut self, now: Time) {
        self.now = now;
        self.leave_bridge();
    }

    fn leave_bridge(&mut self) {
        self.bridge.name = None;
        self.bridge.adopting.clear();
        for (_, asked) in std::mem::take(&mut self.bridge.asked) {
            self.not_answered(asked, Some(&error::NOT_CONNECTED));
        }
        for agent in std::mem::take(&mut self.bridge.agents).into_keys() {
            self.bridge_agent_gone(&agent);
        }
    }

    fn bridge_agent_gone(&mut self, agent: &str) {
        let desk = desk(agent);
        self.bridge.hears.retain(|(_, of), _| *of != desk);
        self.private_peer_gone(&desk);
        self.intent_peer_gone(&desk);
    }

    /// Takes a message of the bridge.
    pub fn bridge_message(&mut self, message: Message, now: Time) {
        self.now = now;
        if !self.bridge.is_on() {
            return;
        }
        match message.message_type {
            MessageType::ConnectedAgentsUpdate => self.bridge_updated(&message),
            MessageType::Request(exchange) if message.meta.response.is_none() => {
                self.bridge_asks(exchange, message);
            }
            MessageType::Response(exchange) => self.bridge_answers(exchange, &message),
            MessageType::RaiseIntentResult => self.bridge_result(&message),
            _ => {}
        }
    }

    fn bridge_updated(&mut self, message: &Message) {
        let all = message.payload.member("allAgents").and_then(|agents| agents.elements());
        let own = self.bridge.name.clone();
        let named = all.unwrap_or_default().into_iter().filter_map(|about| {
            let name = text(&about, "desktopAgent").filter(|name| Some(name) != own.as_ref())?;
            let node = about.member(OWN).and_then(|own| text(&own, "node"));
            (!name.contains(MARK)).then_some((name, node))
        });
        let agents: BTreeMap<Text, Option<Text>> =
            named.take(self.settings.limits.bridge_agents_max).collect();
        let former = std::mem::replace(&mut self.bridge.agents, agents);
        for agent in former.into_keys() {
            if !self.bridge.agents.contains_key(&agent) {
                self.bridge_agent_gone(&agent);
            }
        }
        let joined = std::mem::take(&mut self.bridge.joining);
        if let Some(state) = message.payload.member("channelsState").filter(|_| self.speaks()) {
            let (state, _) = ChannelsState::from_json(&state, &ChannelLimits::default());
            self.adopt_state(&state, joined);
        }
    }

    /// Returns whether this node is the one of its mesh that speaks to the bridge for all.
    fn speaks(&self) -> bool {
        let others = self.bridge.agents.values().flatten();
        others.filter(|node| self.peers.desk_of(node).is_some()).all(|node| self.settings.node < *node)
    }

    /// Returns whether an agent on the bridge is a node of this mesh.
    fn is_of_mesh(&self, agent: &str) -> bool {
        let node =
            self.bridge.agents.iter().find(|(name, _)| ***name == *agent).and_then(|(_, node)| node.as_ref());
        node.is_some_and(|node| self.peers.desk_of(node).is_some())
    }

    /// Returns whether there is somebody on the bridge to ask for this app.
    pub(crate) fn asks_bridge(&self, asker: &Asker) -> bool {
        self.bridge.is_on()
            && !is_foreign(&asker.instance)
            && self.bridge.agents.keys().any(|agent| !self.is_of_mesh(agent))
    }
}

/// Names.
impl Agent {
    /// Returns the agent on the bridge that apps here know by this name.
    pub(crate) fn bridge_agent(&self, shown: &str) -> Option<Text> {
        let plain = shown.strip_suffix(&*self.settings.node).and_then(|rest| rest.strip_suffix('@'));
        let known = |name: &str| self.bridge.agents.contains_key(name.as_bytes());
        [Some(shown), plain].into_iter().flatten().find(|name| known(name)).map(Text::from)
    }

    /// Returns the name under which apps here know an agent on the bridge: its own, unless a node has it.
    fn shown(&self, agent: &str) -> Text {
        let node = &self.settings.node;
        match agent == &**node || self.peers.known_nodes.contains(agent.as_bytes()) {
            true => format!("{agent}@{node}").into(),
            false => agent.into(),
        }
    }

    /// Returns the source of what an app on the bridge does.
    pub(crate) fn foreign_source(&self, instance: &str) -> Option<Json> {
        let (agent, app, instance) = parts(instance)?;
        Some(app_identifier(app, some(instance), Some(&self.shown(agent))))
    }

    /// Returns a source as other nodes are to know it.
    pub(crate) fn abroad(&self, source: &Json) -> Json {
        let Some(agent) = text(source, "desktopAgent") else { return source.clone() };
        let node = &self.settings.node;
        if agent.ends_with(&format!("@{node}")) {
            return source.clone();
        }
        edited(source, &[Key::new("desktopAgent")], Edit::Set(&Json::string(&format!("{agent}@{node}"))))
    }

    /// Returns who does something, as the bridge is to know them.
    fn participant(&self, instance: &str) -> Participant {
        let of = |app_id: &str, node: Option<&str>, instance: &str| Participant {
            desktop_agent: None,
            app_id: some(app_id).map(|id| exported_id(id, node, &self.settings.node)),
            instance_id: some(instance).map(Text::from),
        };
        if let Some((agent, app, instance)) = parts(instance) {
            return of(app, Some(agent), instance);
        }
        if let Some(app) = self.apps.get(instance.as_bytes()) {
            return of(&app.app_id, None, instance);
        }
        let server = self.peers.servers.values().find(|server| *server.instance == *instance);
        server.map_or_else(
            || of("", None, instance),
            |server| of(&server.app_id, server.node.as_deref(), instance),
        )
    }

    /// Returns an app identifier as the bridge is to know it: all apps of the mesh are this agent's.
    fn exported(&self, app: &Json) -> Option<Json> {
        let id = exported_id(&text(app, "appId")?, text(app, "desktopAgent").as_deref(), &self.settings.node);
        let app = edited(app, &[Key::new("appId")], Edit::Set(&Json::string(&id)));
        let name = self.bridge.name.as_deref().unwrap_or_default();
        Some(edited(&app, &[Key::new("desktopAgent")], Edit::Set(&Json::string(name))))
    }

    /// Returns an app identifier of an agent on the bridge as apps here are to know it.
    fn imported(&self, app: &Json) -> Option<Json> {
        text(app, "appId")?;
        let agent = text(app, "desktopAgent").filter(|agent| self.bridge.agents.contains_key(agent))?;
        let shown = self.shown(&agent);
        match shown == agent {
            true => Some(app.detached()),
            false => Some(edited(app, &[Key::new("desktopAgent")], Edit::Set(&Json::string(&shown)))),
        }
    }

    /// Reads which app an agent on the bridge means.
    fn app_meant(&self, payload: &Json) -> Result<AppRef, Fault> {
        let app = payload.member("app").ok_or(Fault::TargetAppUnavailable)?;
        let given = Participant::from_json(&app);
        let app_id = given.app_id.ok_or(Fault::TargetAppUnavailable)?.detached();
        if given.desktop_agent.is_some_and(|agent| Some(&agent) != self.bridge.name.as_ref()) {
            return Err(Fault::DesktopAgentNotFound);
        }
        let mut meant =
            AppRef { app_id, instance_id: given.instance_id.map(|id| id.detached()), desktop_agent: None };
        let is_ours = self.record(&meant.app_id).is_some_and(|record| record.app_id == meant.app_id);
        if let Some((id, node)) = meant.app_id.clone().rsplit_once('@').filter(|_| !is_ours) {
            if self.bridge_agent(node).is_some() {
                // From the bridge to the bridge is no business of this agent.
                return Err(Fault::DesktopAgentNotFound);
            }
            if self.peers.desk_of(node).is_some() {
                (meant.app_id, meant.desktop_agent) = (id.into(), Some(node.into()));
            }
        }
        Ok(meant)
    }
}

/// Returns the id of an app as the bridge is to know it.
fn exported_id(app_id: &str, agent: Option<&str>, node: &str) -> Text {
    match agent.filter(|agent| *agent != node) {
        Some(agent) => format!("{app_id}@{agent}").into(),
        None => app_id.into(),
    }
}

/// Changes each app identifier in a successful answer; those that become nothing are left out.
fn with_apps(exchange: Exchange, payload: &Json, change: &impl Fn(&Json) -> Option<Json>) -> Option<Json> {
    let of_intent = |intent: &Json| replaced(intent, "apps", |apps| each(apps, change));
    match exchange {
        Exchange::FindIntent => replaced(payload, "appIntent", of_intent),
        Exchange::FindIntentsByContext => {
            replaced(payload, "appIntents", |intents| each(intents, &of_intent))
        }
        Exchange::FindInstances => replaced(payload, "appIdentifiers", |apps| each(apps, change)),
        Exchange::GetAppMetadata => replaced(payload, "appMetadata", change),
        Exchange::Open => replaced(payload, "appIdentifier", change),
        Exchange::RaiseIntent => {
            replaced(payload, "intentResolution", |resolution| replaced(resolution, "source", change))
        }
        _ => None,
    }
}

fn replaced(value: &Json, name: &str, with: impl Fn(&Json) -> Option<Json>) -> Option<Json> {
    let new = with(&value.member(name)?)?;
    Some(edited(value, &[Key::new(name)], Edit::Set(&new)))
}

fn each(list: &Json, with: &impl Fn(&Json) -> Option<Json>) -> Option<Json> {
    let elements: Vec<Json> = list.elements()?.iter().filter_map(with).collect();
    Some(array(&elements))
}

/// What agents on the bridge ask.
impl Agent {
    fn bridge_asks(&mut self, exchange: Exchange, message: Message) {
        let Some(request) = message.meta.request.clone() else { return };
        let source = message.meta.source.clone().unwrap_or_default();
        let short = |text: &Option<Text>| text.as_ref().is_none_or(|text| text.len() <= ID_BYTES_MAX);
        let agent = source.desktop_agent.clone().filter(|agent| self.bridge.agents.contains_key(agent));
        let Some(agent) = agent.filter(|_| short(&source.app_id) && short(&source.instance_id)) else {
            if exchange.answered() != Answered::Never {
                let payload = Object::new().text("error", &error::MALFORMED).end();
                self.outputs.push_back(Output::Bridge(Message::response(exchange, request, payload)));
            }
            return;
        };
        let asker = Asker {
            instance: instance_of(&agent, &source),
            name: exchange.types().0.into(),
            uuid: Json::string(&request),
        };
        // Of several nodes one speaks for all, and among each other they have the mesh.
        let stands_back = !self.speaks() || self.is_of_mesh(&agent);
        let asked = match exchange {
            Exchange::Broadcast if stands_back => return,
            _ if exchange.answered() == Answered::Collated && stands_back => Err(Fault::NoAppsFound),
            Exchange::Broadcast
            | Exchange::FindIntent
            | Exchange::FindIntentsByContext
            | Exchange::FindInstances
            | Exchange::GetAppMetadata
            | Exchange::Open
            | Exchange::RaiseIntent => self.request_of(exchange, &message.payload),
            Exchange::PrivateBroadcast
            | Exchange::PrivateEventListenerAdded
            | Exchange::PrivateEventListenerRemoved
            | Exchange::PrivateOnAddContextListener
            | Exchange::PrivateOnUnsubscribe
            | Exchange::PrivateOnDisconnect => {
                return self.private_from_bridge(exchange, &agent, &source, &message.payload);
            }
        };
        match asked {
            Ok(request) => self.request(asker, request),
            Err(fault) => self.answer(&asker, Err(fault)),
        }
    }

    /// Reads what an agent on the bridge asks as what an app would ask.
    fn request_of(&mut self, exchange: Exchange, payload: &Json) -> Result<Request, Fault> {
        let context = payload.member("context").filter(|context| !context.is_null());
        let context = context.map(|context| context.detached());
        let kind = context.as_ref().and_then(context_type).map(|kind| kind.detached());
        if context.is_some() && kind.is_none() {
            return Err(Fault::MalformedContext);
        }
        let needed = |context: Option<Json>| context.ok_or(Fault::MalformedContext);
        let result = text(payload, "resultType");
        let intent = text(payload, "intent").ok_or(Fault::NoAppsFound);
        Ok(match exchange {
            Exchange::FindIntent => Request::FindIntent { intent: intent?, context: kind, result },
            Exchange::FindIntentsByContext => {
                Request::FindIntentsByContext { context: kind.ok_or(Fault::MalformedContext)?, result }
            }
            Exchange::FindInstances => Request::FindInstances { app: self.app_meant(payload)? },
            Exchange::GetAppMetadata => Request::GetAppMetadata { app: Some(self.app_meant(payload)?) },
            Exchange::Open => {
                let app = self.app_meant(payload).map_err(|fault| match fault {
                    Fault::TargetAppUnavailable => Fault::AppNotFound,
                    fault => fault,
                })?;
                Request::Open { app, context, metadata: None }
            }
            Exchange::RaiseIntent => Request::RaiseIntent {
                intent: intent?,
                context: needed(context)?,
                app: Some(self.app_meant(payload)?),
                metadata: None,
            },
            _ => {
                let channel = text(payload, "channelId").ok_or(Fault::NoChannelFound)?;
                if !self.add_app_channel(&channel) {
                    return Err(Fault::CreationFailed);
                }
                Request::Broadcast { channel, context: needed(context)?, metadata: None }
            }
        })
    }

    /// Answers an agent on the bridge.
    pub(crate) fn answer_bridge(&mut self, asker: &Asker, answer: Result<Json, Fault>) {
        let Some(request) = asker.uuid.as_text() else { return };
        if !self.bridge.is_on() {
            return;
        }
        let message = match (MessageType::from(asker.name.clone()), answer) {
            (MessageType::Request(exchange), _) if exchange.answered() == Answered::Never => return,
            (MessageType::Request(exchange), Ok(payload)) => {
                let exported = with_apps(exchange, &payload, &|app| self.exported(app));
                Message::response(exchange, request, exported.unwrap_or(payload))
            }
            (MessageType::Request(exchange), Err(fault)) => {
                let payload = crate::open::fault(of_exchange(exchange, fault));
                Message::response(exchange, request, payload)
            }
            // The second answer to `raiseIntent`.
            (_, Ok(payload)) => {
                let result = payload.member("intentResult").unwrap_or_else(crate::empty);
                Message::intent_result(request, Object::new().json("intentResult", &result).end())
            }
            (_, Err(fault)) => Message::intent_result(request, crate::open::fault(fault)),
        };
        self.outputs.push_back(Output::Bridge(message));
    }
}

/// Returns the fault as the error enumeration of an exchange has it.
const fn of_exchange(exchange: Exchange, fault: Fault) -> Fault {
    match (exchange, fault) {
        (_, Fault::DesktopAgentNotFound | Fault::MalformedContext | Fault::ApiTimeout)
        | (Exchange::Open, Fault::AppNotFound | Fault::AppTimeout | Fault::ErrorOnLaunch) => fault,
        (Exchange::Open, _) => Fault::ErrorOnLaunch,
        (
            _,
            Fault::NoAppsFound
            | Fault::TargetAppUnavailable
            | Fault::TargetInstanceUnavailable
            | Fault::IntentDeliveryFailed,
        ) => fault,
        (Exchange::RaiseIntent, _) => Fault::IntentDeliveryFailed,
        _ => Fault::TargetAppUnavailable,
    }
}

/// What agents on the bridge are asked.
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

    fn bridge_answers(&mut self, exchange: Exchange, message: &Message) {
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
    fn not_answered(&mut self, asked: Asked, error: Option<&Text>) {
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
    fn bridge_result(&mut self, message: &Message) {
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

/// User channels and app channels.
impl Agent {
    /// Tells the bridge of a broadcast, unless it came from there.
    pub(crate) fn cast_to_bridge(&mut self, id: &Text, slot: &Slot, from: Option<&Text>) {
        if !self.bridge.is_on() || from.is_some_and(|from| is_foreign(from)) || !self.speaks() {
            return;
        }
        let source = slot.cast.as_ref().map(|cast| Participant::from_json(&cast.source)).unwrap_or_default();
        let agent = source.desktop_agent.as_deref();
        let source = Participant {
            app_id: source.app_id.map(|id| exported_id(&id, agent, &self.settings.node)),
            instance_id: source.instance_id,
            desktop_agent: None,
        };
        let payload = Object::new().text("channelId", id).json("context", &slot.context).end();
        let message = Message::request(Exchange::Broadcast, payload, Some(source));
        self.outputs.push_back(Output::Bridge(message));
    }

    /// Takes over what the bridge has on its channels: as state, and not as broadcasts.
    fn adopt_state(&mut self, theirs: &ChannelsState, joined: bool) {
        let ours = self.bridge_channels();
        let has = |id: &Text, kind: &Text| {
            ours.contexts(id).any(|context| context_type(context).as_ref() == Some(kind))
        };
        let tellings = ours.clone().adopt(theirs, &ChannelLimits::default());
        for (id, contexts) in theirs.iter() {
            let newest_here = ours.contexts(id).next().cloned();
            let mut taken = Vec::new();
            for (at, context) in contexts.enumerate() {
                let Some(kind) = context_type(context) else { continue };
                let told = |listeners| {
                    tellings.iter().any(|telling| {
                        telling.channel == *id
                            && telling.listeners == listeners
                            && telling.context == *context
                    })
                };
                // Later this agent has heard all broadcasts, and the update may be older than the last one.
                if !joined && has(id, &kind) {
                    continue;
                }
                let is_newest = at == 0 && (joined || newest_here.is_none());
                let same = ours.contexts(id).any(|own| own == context);
                if same && !(is_newest && newest_here.as_ref() != Some(context)) {
                    continue;
                }
                taken.push(Adopted {
                    kind,
                    context: context.clone(),
                    is_newest,
                    heard_by: (told(Listeners::Typed), is_newest && told(Listeners::Untyped)),
                });
            }
            // The oldest first.
            taken.reverse();
            if taken.is_empty() || !self.add_app_channel(id) {
                continue;
            }
            self.bridge.adopting.insert(id.clone(), taken);
            self.open_if_started(id);
            self.adopt_waiting(id);
        }
    }

    /// Takes over what the bridge has on a channel, if the channel is open by now.
    pub(crate) fn adopt_waiting(&mut self, id: &Text) {
        if !self.bridge.adopting.contains_key(id) || !self.is_open(id) {
            return;
        }
        for adopted in self.bridge.adopting.remove(id).unwrap_or_default() {
            let source = app_identifier("unknown", None, None);
            let cast = Cast { event: self.ids.uuid(), source, wall_ms: self.now.wall_ms, metadata: None };
            self.adopt_context(id, adopted, cast);
        }
    }
}

/// Private channels.
impl Agent {
    /// Tells an agent on the bridge what has happened in a private channel.
    pub(crate) fn tell_bridge(&mut self, desk: &Text, op: &Json) {
        let Some((agent, ..)) = parts(desk) else { return };
        let (Some(word), Some(channel)) = (text(op, "op"), text(op, "channel")) else { return };
        let deed = text(op, "deed");
        let payload = Object::new().text("channelId", &channel);
        let kind = text(op, "type");
        let (exchange, payload) = match (&*word, deed.as_deref()) {
            ("cast", _) => {
                (Exchange::PrivateBroadcast, payload.some("context", op.member("context").as_ref()))
            }
            (_, Some("listens")) => {
                (Exchange::PrivateOnAddContextListener, payload.text_or_null("contextType", kind.as_deref()))
            }
            (_, Some("unsubscribed")) => {
                (Exchange::PrivateOnUnsubscribe, payload.text_or_null("contextType", kind.as_deref()))
            }
            (_, Some("disconnected")) => (Exchange::PrivateOnDisconnect, payload),
            _ => return,
        };
        // Where the channel lives must know; of the others, those who have asked.
        let name = exchange.types().0.strip_prefix("PrivateChannel.").unwrap_or_default();
        let of = (channel, desk.clone());
        if *word == *"event"
            && !self.bridge.hears.get(&of).is_some_and(|events| events.contains(name.as_bytes()))
        {
            return;
        }
        let by = text(op, "by").map(|by| self.participant(&by)).unwrap_or_default();
        self.say_private(exchange, payload.end(), by, agent);
    }

    fn say_private(&mut self, exchange: Exchange, payload: Json, by: Participant, agent: &str) {
        let mut message = Message::request(exchange, payload, Some(by));
        message.meta.destination = Some(Participant::agent(agent));
        self.outputs.push_back(Output::Bridge(message));
    }

    /// An app here listens for what happens in a private channel, or no longer does.
    pub(crate) fn events_of_private(&mut self, id: &Text, me: &Text, listens: bool) {
        let host = self.channels.by_id.get(id).and_then(|channel| channel.private()?.host.clone());
        let Some(host) = host.filter(|host| is_foreign(host)) else { return };
        let own = self
            .apps
            .get(me)
            .map_or(0, |app| app.events.values().filter(|channel| channel.as_ref() == Some(id)).count());
        // Told of the first that comes, and the last that goes.
        if own != usize::from(listens) {
            return;
        }
        let Some((agent, ..)) = parts(&host) else { return };
        let exchange = match listens {
            true => Exchange::PrivateEventListenerAdded,
            false => Exchange::PrivateEventListenerRemoved,
        };
        for event in EVENTS {
            let payload = Object::new().text("channelId", id).text("listenerType", event).end();
            let by = self.participant(me);
            self.say_private(exchange, payload, by, agent);
        }
    }

    fn private_from_bridge(&mut self, exchange: Exchange, agent: &str, source: &Participant, payload: &Json) {
        let Some(id) = text(payload, "channelId") else { return };
        let desk = desk(agent);
        let Some(private) = self.private_mut(&id) else { return };
        let lives_there = private.host.as_ref() == Some(&desk);
        let by = match lives_there {
            true => instance_of(agent, source),
            false => {
                // Some agents do not name the app.
                let mut members = private.members.iter().filter(|(_, of)| of.as_ref() == Some(&desk));
                let instance = source.instance_id.as_deref();
                let named = members.find(|(key, _)| {
                    instance.is_none_or(|wanted| parts(key).is_some_and(|(_, _, own)| own == wanted))
                });
                let Some((key, _)) = named else { return };
                key.clone()
            }
        };
        let kind = text(payload, "contextType");
        let deed = match exchange {
            Exchange::PrivateOnAddContextListener => Deed::Listens(kind),
            Exchange::PrivateOnUnsubscribe => Deed::Unsubscribed(kind),
            Exchange::PrivateOnDisconnect => Deed::Disconnected,
            Exchange::PrivateBroadcast => {
                let Some(context) = payload.member("context").map(|context| context.detached()) else {
                    return;
                };
                let Some(kind) = context_type(&context) else { return };
                let source = self.foreign_source(&by).unwrap_or_else(crate::empty);
                let cast = Cast { event: self.ids.uuid(), source, wall_ms: self.now.wall_ms, metadata: None };
                self.cast_private(&id, &Slot { kind, context, cast: Some(cast) }, &by, None);
                return;
            }
            _ => {
                let word = text(payload, "listenerType");
                return self.hears(
                    &id,
                    desk,
                    word.as_deref(),
                    exchange == Exchange::PrivateEventListenerAdded,
                );
            }
        };
        match lives_there {
            true => self.tell_deed(&id, &by, &deed),
            false => self.did_elsewhere(&id, &by, &deed),
        }
    }

    /// An agent on the bridge wants to be told of events in a private channel that one of its apps uses.
    fn hears(&mut self, id: &Text, desk: Text, word: Option<&str>, wants: bool) {
        let channels = &self.channels.by_id;
        self.bridge.hears.retain(|(id, _), _| channels.contains_key(id));
        let events = self.bridge.hears.entry((id.clone(), desk)).or_default();
        // Written with and without `on`; none at all is all of them.
        let plain = word.map(|word| word.strip_prefix("on").unwrap_or(word).to_ascii_lowercase());
        for event in EVENTS {
            if plain.as_ref().is_none_or(|plain| event[2..].eq_ignore_ascii_case(plain)) {
                match wants {
                    true => events.insert(event.into()),
                    false => events.remove(event.as_bytes()),
                };
            }
        }
    }
}
