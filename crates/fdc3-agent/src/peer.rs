//! The agents of other nodes, the apps there, and io.Connect apps anywhere.
//!
//! Each agent's desk offers one method, [`METHOD`]. Its argument `op` says what is asked:
//!
//! | `op` | members | answer |
//! |---|---|---|
//! | `open` | `appId`, `agent`, `context`, `metadata`, `source` | `appIdentifier` or `error` |
//! | `raise` | `raise`, `intent`, `context`, `appId`, `instanceId`, `agent`, `metadata`, `source` | `intentResolution` or `error`; later `result` |
//! | `ask` | `exchange`, `payload`, `agent`, `source`: for agents on the bridge | the payload of their answer, or `error` |
//! | `current` | `channel`, `type`, `by` | `context`, `source`, `time`, `metadata` |
//! | `batch` | `ops`: in order, each of those below | nothing |
//! | · `result` | `raise`, and `result`, `metadata`, or `error` | |
//! | · `member`, `did`, `event`, `cast` | what happens in private channels | |
//!
//! `agent` names one on the desk's bridge, who is meant. Of batches one at a time is under way to each desk:
//! so their operations keep their order, and what waits is bounded. A desk's apps are in a shared context of
//! its own, [`DIRECTORY`] and its instance id; who is on its bridge, in [`AGENTS`].

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;

use fdc3_directory::Record;
use mesh_model::{
    Answer, Area, Arguments, Command, Event, Json, Lifetime, Outcome, Permissions, Request, Text, Words,
};
use proto_bridge::Exchange;
use proto_dacp::{Fault, Object, array};

use crate::bridge::{AGENTS, Asked};
use crate::document::{Cast, Slot};
use crate::intent::INTENT;
use crate::{Agent, Asker, Output, Pending, Timer, bridge};

/// The method of a desk.
pub(crate) const METHOD: &str = "deskmesh.fdc3";
/// The shared contexts with the apps of a desk begin so.
const DIRECTORY: &str = "___fdc3___.apps.";
/// Names of nodes that are remembered.
const NODES_MAX: usize = 1_024;
/// Operations in one batch.
const BATCH_MAX: usize = 256;
/// Operations that wait for a desk from which on who causes one waits for it.
const BUSY: usize = 512;

/// Everybody who is not an FDC3 app of this node.
#[derive(Debug, Default)]
pub(crate) struct Peers {
    pub(crate) desks: BTreeMap<Text, Peer>,
    pub(crate) servers: BTreeMap<Text, Server>,
    /// The names of nodes that there have been: an app at one of them is not to be looked for elsewhere.
    pub(crate) known_nodes: BTreeSet<Text>,
    /// Directories by the name of their shared context, and its id.
    directories: BTreeMap<Text, Vec<Arc<Record>>>,
    directory_contexts: BTreeMap<Text, Text>,
}

/// The agent of another node.
#[derive(Debug, Default)]
pub(crate) struct Peer {
    pub(crate) node: Text,
    method: Option<Json>,
    queue: VecDeque<(Json, Option<Asker>)>,
    /// The askers of the batch that is under way.
    under_way: Option<Vec<Asker>>,
}

/// An app of another node, or an io.Connect app.
#[derive(Debug, Default)]
pub(crate) struct Server {
    pub(crate) app_id: Text,
    /// Its instance, as apps name it.
    pub(crate) instance: Text,
    /// The node, if another.
    pub(crate) node: Option<Text>,
    /// The desk of its agent, if it is an FDC3 app.
    pub(crate) fdc3: bool,
    /// Its intents: by method id.
    pub(crate) intents: BTreeMap<Json, Method>,
}

/// A method that handles an intent.
#[derive(Debug)]
pub(crate) struct Method {
    pub(crate) intent: Text,
    pub(crate) display_name: Option<Text>,
    pub(crate) contexts: Option<Vec<Text>>,
}

/// What a desk was asked.
#[derive(Debug)]
pub(crate) enum Ask {
    Open(Asker),
    Raise {
        asker: Asker,
        raise: Text,
    },
    Current(Asker),
    /// For agents on its bridge.
    Bridge {
        desk: Text,
        asked: Asked,
        exchange: Exchange,
    },
}

impl Peers {
    /// Returns whether there is an agent on another node.
    pub(crate) fn any(&self) -> bool {
        !self.desks.is_empty()
    }

    /// Returns the desk of a node.
    pub(crate) fn desk_of(&self, node: &str) -> Option<&Text> {
        self.desks.iter().find(|(_, peer)| *peer.node == *node).map(|(desk, _)| desk)
    }

    /// Returns the apps of other nodes, each with its node.
    pub(crate) fn records(&self) -> impl Iterator<Item = (&Text, &Arc<Record>)> {
        self.desks.iter().flat_map(|(desk, peer)| {
            let name: Text = format!("{DIRECTORY}{desk}").into();
            let records = self.directories.get(&name);
            records.into_iter().flatten().map(|record| (&peer.node, record))
        })
    }

    pub(crate) fn record(&self, app_id: &str) -> Option<&Arc<Record>> {
        self.records().find(|(_, record)| *record.app_id == *app_id).map(|(_, record)| record)
    }
}

impl Agent {
    /// Attaches the desk if that was refused before.
    pub(crate) fn attach_desk_again(&mut self) {
        if std::mem::take(&mut self.desk.refused) {
            self.attach_desk();
        }
    }

    pub(crate) fn attach_desk(&mut self) {
        let fdc3 = Object::new().flag("desk", true).text("node", &self.settings.node).end();
        let identity = Object::new()
            .text("application", METHOD)
            .text("applicationName", METHOD)
            .json("fdc3", &fdc3)
            .end();
        let user = Some(self.settings.user.clone());
        self.ask_desk(Pending::Desk, |request| Command::Attach {
            request,
            identity,
            login: user.clone(),
            user,
            service: false,
        });
        self.join(self.desk.session, Area::Bus);
        let joined = Asker { instance: Text::default(), name: Text::default(), uuid: Json::null() };
        // Answered when all that is announced has been: only then is it known what is missing.
        self.ask_desk(Pending::Reply(joined), |request| Command::Join {
            request,
            area: Area::Interop,
            restrictions: None,
        });
        let method = Object::new().number("id", 1).text("name", METHOD).end();
        self.ask_desk(Pending::Nothing, |request| Command::Register { request, methods: vec![method] });
    }

    /// Takes an event of the desk.
    pub(crate) fn desk_event(&mut self, event: Event) {
        match event {
            Event::Attached { request, instance, .. } => {
                self.pending(&request);
                self.desk.instance = Some(instance);
                self.publish_directory();
            }
            Event::Done { request, .. } => {
                if let Some((_, pending)) = self.pending(&request) {
                    self.done(pending);
                }
            }
            Event::Refused { request, reason } => match self.pending(&request) {
                Some((_, Pending::Channel { name })) => self.channel_refused(&name, &reason),
                Some((_, pending)) => self.refused(pending),
                None => {}
            },
            Event::InstanceAdded { instance, identity, local } => {
                self.server_added(instance, &identity, local)
            }
            Event::InstanceRemoved { instance, .. } => self.server_removed(&instance),
            Event::MethodsAdded { server, methods, .. } => self.methods_added(&server, &methods),
            Event::MethodsRemoved { server, methods } => {
                if let Some(server) = self.peers.servers.get_mut(&server) {
                    for method in methods {
                        let id = method.member("id").unwrap_or(method);
                        server.intents.remove(&id);
                    }
                }
            }
            Event::Invoke { invocation, caller, arguments, .. } => {
                self.asked(invocation, &caller, &arguments);
            }
            Event::CallEnded { request, outcome } => self.call_ended(&request, outcome),
            Event::ContextAdded { context, name, .. } => self.context_added(context, name),
            Event::ContextCreated { request, context } => {
                if let Some((_, Pending::Channel { name })) = self.pending(&request) {
                    self.context_created(&name, context);
                }
            }
            Event::ContextSnapshot { request, context, name, data } => {
                self.pending(&request);
                self.context_opened(&name, context, Some(data));
            }
            Event::ContextUpdated { context, updater, delta } => {
                self.context_updated(&context, &updater, &delta);
            }
            Event::ContextDestroyed { context, .. } => {
                if let Some(name) = self.peers.directory_contexts.remove(&context) {
                    match name.strip_prefix(AGENTS) {
                        Some(desk) => self.no_agents_elsewhere(desk),
                        None => {
                            self.peers.directories.remove(&name);
                            self.outputs.push_back(Output::Changed);
                        }
                    }
                }
                self.context_destroyed(&context);
            }
            Event::BusSubscribed { request, subscription } => {
                if let Some((_, Pending::Listening(id))) = self.pending(&request) {
                    self.listens_elsewhere(&id, Some(subscription));
                }
            }
            Event::BusEvent { data, .. } => self.broadcast_elsewhere(&data),
            _ => {}
        }
    }

    /// Something that was asked of the node is done.
    pub(crate) fn done(&mut self, pending: Pending) {
        match pending {
            Pending::Reply(asker) if asker.instance.is_empty() => self.contexts_known(),
            Pending::Reply(asker) => self.answer_done(&asker),
            Pending::Broadcast { asker, event } => {
                // Taken out when it is told; an app may have taken the channel's content away meanwhile.
                self.channels.cast(&event);
                self.answer_done(&asker);
            }
            Pending::Cast { context, delta, .. } => {
                let desk = self.desk.instance.clone().unwrap_or_default();
                self.context_updated(&context, &desk, &delta);
            }
            _ => {}
        }
    }

    /// The node has refused something.
    pub(crate) fn refused(&mut self, pending: Pending) {
        match pending {
            Pending::Broadcast { asker, event } => self.not_cast(&asker, &event),
            Pending::Cast { event, .. } => self.channels.cast(&event),
            Pending::Reply(asker) => self.answer(&asker, Err(Fault::AccessDenied)),
            Pending::Listening(id) => self.listens_elsewhere(&id, None),
            Pending::Desk => self.desk.refused = true,
            Pending::Context(name) => {
                // It was destroyed meanwhile.
                self.context_opened(&name, Text::default(), None);
            }
            _ => {}
        }
    }

    fn server_added(&mut self, instance: Text, identity: &Json, local: bool) {
        let fdc3 = identity.member("fdc3");
        let text =
            |of: &Json, name: &str| of.member(name).and_then(|value| value.as_text()).map(|t| t.detached());
        let node = fdc3.as_ref().and_then(|fdc3| text(fdc3, "node"));
        if crate::is_desk(identity) {
            if !local && let Some(node) = node {
                if self.peers.known_nodes.len() < NODES_MAX {
                    self.peers.known_nodes.insert(node.clone());
                }
                self.peers.desks.insert(instance, Peer { node, ..Peer::default() });
                self.publish_agents();
                self.outputs.push_back(Output::Changed);
            }
            return;
        }
        if local && fdc3.is_some() {
            return;
        }
        let app_id =
            fdc3.as_ref().and_then(|fdc3| text(fdc3, "appId")).or_else(|| text(identity, "application"));
        let server = Server {
            app_id: app_id.unwrap_or_default(),
            instance: text(identity, "instance").unwrap_or_else(|| instance.clone()),
            node: if local { None } else { node.or_else(|| text(identity, "machine")) },
            fdc3: fdc3.is_some(),
            intents: BTreeMap::new(),
        };
        self.peers.servers.insert(instance, server);
        self.outputs.push_back(Output::Changed);
    }

    fn server_removed(&mut self, instance: &Text) {
        self.peers.servers.remove(instance);
        if let Some(peer) = self.peers.desks.remove(instance) {
            for asker in peer.queue.into_iter().filter_map(|(_, asker)| asker) {
                self.answer_done(&asker);
            }
            self.private_peer_gone(instance);
            self.intent_peer_gone(instance);
            self.publish_agents();
        }
        self.outputs.push_back(Output::Changed);
    }

    fn methods_added(&mut self, server: &Text, methods: &[Json]) {
        for method in methods {
            let Some(name) = method.member("name").and_then(|name| name.as_text()) else { continue };
            let Some(id) = method.member("id").map(|id| id.detached()) else { continue };
            if *name == *METHOD {
                if let Some(peer) = self.peers.desks.get_mut(server) {
                    peer.method = Some(id);
                    self.flush_peer(server);
                }
                continue;
            }
            let Some(intent) = name.strip_prefix(INTENT) else { continue };
            let about = method.member("flags").and_then(|flags| flags.member("metadata")?.member("intent"));
            let about = about.unwrap_or_else(crate::empty);
            let contexts = about.member("contextTypes").and_then(|types| types.elements()).map(|types| {
                types.iter().filter_map(|kind| kind.as_text()).map(|kind| kind.detached()).collect::<Vec<_>>()
            });
            let method = Method {
                intent: intent.into(),
                display_name: about
                    .member("displayName")
                    .and_then(|name| name.as_text())
                    .map(|n| n.detached()),
                contexts: contexts.filter(|types| !types.is_empty()),
            };
            if let Some(server) = self.peers.servers.get_mut(server) {
                server.intents.insert(id, method);
            }
        }
    }

    /// Writes who an instance is, as the source of a context.
    pub(crate) fn source_of_server(&self, server: &Text) -> Json {
        if let Some((instance, app)) = self.apps.iter().find(|(_, app)| app.server.as_ref() == Some(server)) {
            return crate::app_identifier(&app.app_id, Some(instance), None);
        }
        match self.peers.servers.get(server) {
            Some(known) => crate::app_identifier(&known.app_id, Some(&known.instance), known.node.as_deref()),
            None => crate::app_identifier("unknown", None, None),
        }
    }

    /// Returns the source that another agent gave, which is that agent's.
    pub(crate) fn source_from(&self, desk: &Text, given: &Json) -> Json {
        let source = given.member("source").unwrap_or_else(crate::empty);
        let text = |name: &str| source.member(name).and_then(|value| value.as_text());
        let node = self.peers.desks.get(desk).map(|peer| peer.node.clone());
        let agent = text("desktopAgent").or(node);
        crate::app_identifier(
            &text("appId").unwrap_or_default(),
            text("instanceId").as_deref(),
            agent.as_deref(),
        )
    }

    // Directories.

    /// Returns whether a shared context is the directory of another desk, or tells of its bridge.
    pub(crate) fn peer_directory_added(&self, name: &Text) -> bool {
        let own = self.desk.instance.as_deref();
        let desk = name.strip_prefix(DIRECTORY).or_else(|| name.strip_prefix(AGENTS));
        desk.is_some_and(|desk| Some(desk) != own)
    }

    /// Takes the value of such a one.
    pub(crate) fn peer_directory_changed(&mut self, name: &Text, value: Option<&Json>) -> bool {
        if let Some(desk) = name.strip_prefix(AGENTS) {
            self.agents_elsewhere(desk, value);
            return true;
        }
        if !name.starts_with(DIRECTORY) {
            return false;
        }
        let apps = value.and_then(|value| value.member("apps"));
        if value.is_some() && apps.is_none() {
            return true; // A change beside the apps.
        }
        let records = apps.and_then(|apps| fdc3_directory::parse(apps.as_bytes()).ok());
        let records = records.map(|parsed| parsed.records.into_iter().map(Arc::new).collect());
        self.peers.directories.insert(name.clone(), records.unwrap_or_default());
        self.outputs.push_back(Output::Changed);
        true
    }

    /// A shared context that is no channel has changed.
    pub(crate) fn other_context_updated(&mut self, context: &Text, delta: &Json) {
        let Some(name) = self.peers.directory_contexts.get(context).cloned() else { return };
        // A directory is written whole.
        let mut document = crate::document::Document::default();
        document.apply(delta);
        self.peer_directory_changed(&name, Some(&document.into_json()));
    }

    pub(crate) fn note_directory(&mut self, context: &Text, name: &Text) {
        if name.starts_with(DIRECTORY) || name.starts_with(AGENTS) {
            self.peers.directory_contexts.insert(context.clone(), name.clone());
        }
    }

    /// Shows other nodes which apps there are here.
    pub(crate) fn publish_directory(&mut self) {
        let Some(desk) = self.desk.instance.clone() else { return };
        let records: Vec<Json> = self.directory.iter().map(|record| record.raw.clone()).collect();
        let data = Object::new().json("apps", &array(&records)).end();
        let name: Text = format!("{DIRECTORY}{desk}").into();
        match self.channels.name_of(&name) {
            Some(context) => {
                let delta = Object::new().json("reset", &data).end();
                self.ask_desk(Pending::Nothing, |request| Command::UpdateContext { request, context, delta });
            }
            None if records.is_empty() => {}
            None => {
                let of = name.clone();
                self.ask_desk(Pending::Channel { name: of }, |request| Command::CreateContext {
                    request,
                    name,
                    data: Some(data),
                    lifetime: Lifetime::Ownership,
                    permissions: Permissions::default(),
                });
            }
        }
    }

    // Questions and batches.

    pub(crate) fn ask_peer(&mut self, desk: &Text, ask: Ask, arguments: Json, patience_ms: u64) {
        let method = self.peers.desks.get(desk).and_then(|peer| peer.method.clone());
        let Some(method) = method else { return self.ask_failed(ask, Fault::DesktopAgentNotFound) };
        let server = desk.clone();
        let id = self.ask_desk(Pending::Ask(ask), |request| call(request, server, method, arguments));
        self.timer(patience_ms, Timer::Pending(id));
    }

    fn ask_failed(&mut self, ask: Ask, fault: Fault) {
        match ask {
            Ask::Open(asker) | Ask::Current(asker) => self.answer(&asker, Err(fault)),
            Ask::Raise { asker, raise } => {
                self.owed.remove(&raise);
                self.answer(&asker, Err(fault));
            }
            Ask::Bridge { asked, .. } => self.not_answered(asked, Some(&fault.word().into())),
        }
    }

    /// Sends an operation to a desk, after all before. Returns whether the asker is answered later, as much
    /// waits already.
    pub(crate) fn tell_peer(&mut self, desk: &Text, op: Json, asker: Option<&Asker>) -> bool {
        if bridge::is_foreign(desk) {
            self.tell_bridge(desk, &op);
            return false;
        }
        let op = self.op_abroad(op);
        let max = self.settings.limits.peer_queue_max;
        let Some(peer) = self.peers.desks.get_mut(desk) else { return false };
        if peer.queue.len() >= max {
            // Who does not wait for its answers: what it says is not heard there.
            return false;
        }
        let waits = asker.filter(|_| peer.queue.len() >= BUSY).cloned();
        let is_later = waits.is_some();
        peer.queue.push_back((op, waits));
        self.flush_peer(desk);
        is_later
    }

    fn flush_peer(&mut self, desk: &Text) {
        let Some(peer) = self.peers.desks.get_mut(desk) else { return };
        let Some(method) = peer.method.clone() else { return };
        if peer.under_way.is_some() || peer.queue.is_empty() {
            return;
        }
        let taken: Vec<(Json, Option<Asker>)> = peer.queue.drain(..peer.queue.len().min(BATCH_MAX)).collect();
        let ops = array(taken.iter().map(|(op, _)| op));
        peer.under_way = Some(taken.into_iter().filter_map(|(_, asker)| asker).collect());
        let server = desk.clone();
        let arguments = Object::new().text("op", "batch").json("ops", &ops).end();
        self.ask_desk(Pending::Batch(desk.clone()), |request| call(request, server, method, arguments));
    }

    pub(crate) fn pending_is_late(&mut self, id: u64) {
        if let Some((_, Pending::Ask(ask))) = self.pending.remove(&id) {
            self.ask_failed(ask, Fault::ApiTimeout);
        }
    }

    /// A call that the agent made has ended.
    pub(crate) fn call_ended(&mut self, request: &Request, outcome: Outcome) {
        let Some((_, pending)) = self.pending(request) else { return };
        match pending {
            Pending::Batch(desk) => {
                let askers = self.peers.desks.get_mut(&desk).and_then(|peer| peer.under_way.take());
                for asker in askers.into_iter().flatten() {
                    self.answer_done(&asker);
                }
                self.flush_peer(&desk);
            }
            Pending::Ask(ask) => match outcome {
                Outcome::Answered(Answer::Result(Some(result))) => self.peer_answered(ask, &result),
                _ => self.ask_failed(ask, Fault::IntentDeliveryFailed),
            },
            Pending::Handler(raise) => self.handler_ended(&raise, outcome),
            _ => {}
        }
    }

    fn peer_answered(&mut self, ask: Ask, result: &Json) {
        let error = result.member("error").and_then(|error| error.as_text());
        if let Some(error) = error {
            return self.ask_failed(ask, Fault::of_word(&error).unwrap_or(Fault::IntentDeliveryFailed));
        }
        match ask {
            Ask::Open(asker) => self.answer(&asker, Ok(result.detached())),
            Ask::Raise { asker, .. } => self.answer(&asker, Ok(result.detached())),
            Ask::Bridge { desk, asked, exchange } => {
                self.bridge_elsewhere_answers(&desk, asked, exchange, result);
            }
            Ask::Current(asker) => {
                let slot =
                    result.member("context").filter(|context| !context.is_null()).and_then(|context| {
                        let cast = Cast {
                            event: Text::default(),
                            source: result.member("source").unwrap_or_else(crate::empty),
                            wall_ms: result.member("time")?.to_string().parse().ok()?,
                            metadata: result.member("metadata"),
                        };
                        Some(Slot { kind: proto_dacp::context_type(&context)?, context, cast: Some(cast) })
                    });
                self.answer_current(&asker, slot);
            }
        }
    }

    /// Another desk asks this one.
    fn asked(&mut self, invocation: u64, caller: &Text, arguments: &Arguments) {
        let given = arguments.named.clone().unwrap_or_else(crate::empty);
        let text =
            |name: &str| given.member(name).and_then(|value| value.as_text()).map(|text| text.detached());
        if !self.peers.desks.contains_key(caller) {
            let words = Words { uri: None, reason: Some(Json::string("only desktop agents may call this")) };
            return self.fail_call(self.desk.session, invocation, words);
        }
        match text("op").as_deref() {
            Some("batch") => {
                for op in given.member("ops").and_then(|ops| ops.elements()).unwrap_or_default() {
                    let word = op.member("op").and_then(|word| word.as_text()).unwrap_or_default();
                    match &*word {
                        "result" => self.result_from(caller, &op),
                        word => self.private_operation(caller, word, &op),
                    }
                }
                self.yield_desk(invocation, None);
            }
            Some("open") => self.open_for(invocation, caller, &given),
            Some("raise") => self.raise_for(invocation, caller, &given),
            Some("ask") => self.ask_for(invocation, caller, &given),
            Some("current") => {
                let slot = text("channel").zip(text("by")).and_then(|(id, by)| {
                    let private = self.channels.by_id.get(&id)?.private()?;
                    let of = private.members.get(&by)?.as_ref();
                    (of == Some(caller)).then(|| private.current(text("type").as_deref())).flatten()
                });
                let cast = slot.as_ref().and_then(|slot| slot.cast.as_ref());
                let answer = Object::new()
                    .or_null("context", slot.as_ref().map(|slot| &slot.context))
                    .some("source", cast.map(|cast| &cast.source))
                    .number("time", cast.map_or(0, |cast| cast.wall_ms))
                    .some("metadata", cast.and_then(|cast| cast.metadata.as_ref()))
                    .end();
                self.yield_desk(invocation, Some(answer));
            }
            _ => {
                let words = Words { uri: None, reason: Some(Json::string("unknown `op`")) };
                self.fail_call(self.desk.session, invocation, words);
            }
        }
    }

    pub(crate) fn yield_desk(&mut self, invocation: u64, result: Option<Json>) {
        let command = Command::Yield { invocation, result };
        self.outputs.push_back(Output::Command(self.desk.session, command));
    }

    pub(crate) fn fail_call(&mut self, session: mesh_model::SessionId, id: u64, words: Words) {
        // Answered only where it is refused, which changes nothing.
        let request = Request { id: Json::null(), face: 0 };
        self.outputs.push_back(Output::Command(session, Command::Fail { request, id, words, context: None }));
    }
}

pub(crate) fn call(request: Request, server: Text, method: Json, arguments: Json) -> Command {
    let arguments = Arguments { named: Some(arguments), ..Arguments::default() };
    Command::Call { request, server, method, arguments, trace: None }
}
