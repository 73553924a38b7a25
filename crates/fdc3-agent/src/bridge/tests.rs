//! An agent whose node does all that it is told, and whose bridge is the test.

use std::collections::BTreeMap;
use std::sync::Arc;

use bytes::Bytes;
use fdc3_directory::Directory;
use mesh_core::visibility::Pattern;
use mesh_model::limits::JsonLimits;
use mesh_model::{Answer, Arguments, Command, Event, Json, Outcome, SessionId, Text};
use proto_bridge::{Exchange, Message, MessageType, Participant};

use super::AGENTS;
use crate::{
    Admission, Agent, BridgeRule, BridgeRules, ConnectionId, Direction, Limits, Output, Settings, Time,
};

const DESK: SessionId = SessionId(0);
const APPS: &str = r#"{"applications":[
    {"appId":"one","title":"One","type":"web","details":{"url":"http://app.example/one"}},
    {"appId":"quoter","title":"Quoter","type":"web","details":{"url":"http://app.example/quoter"},
     "interop":{"intents":{"listensFor":{"Quote":{"contexts":["x.question"]}}}}}]}"#;

struct Desktop {
    agent: Agent,
    now: Time,
    /// What apps were sent.
    frames: Vec<(ConnectionId, Json)>,
    /// What was said to the bridge.
    said: Vec<Message>,
    /// What other nodes were told.
    published: Vec<Json>,
    /// What other desks were asked, with what their answers are recognized by.
    calls: Vec<(mesh_model::Request, Json)>,
    /// What other desks were answered.
    yielded: Vec<(u64, Json)>,
    /// What rules have kept back.
    kept: Vec<String>,
    /// Shared contexts by name, as other nodes see them.
    shared: BTreeMap<Text, Json>,
    names: BTreeMap<Text, Text>,
    contexts: u64,
}

fn json(text: &str) -> Json {
    Json::parse(Bytes::copy_from_slice(text.as_bytes())).unwrap()
}

fn at(value: &Json, path: &str) -> String {
    let mut value = value.clone();
    for name in path.split('.') {
        value = match name.parse::<usize>() {
            Ok(index) => value.elements().unwrap()[index].clone(),
            Err(_) => value.member(name).unwrap_or_else(|| panic!("no {path} in {value}")),
        };
    }
    value.as_text().map_or_else(|| value.to_string(), |text| text.to_string())
}

fn app_of(agent: &str) -> Participant {
    Participant {
        desktop_agent: Some(agent.into()),
        app_id: Some("foreign".into()),
        instance_id: Some("i1".into()),
    }
}

impl Desktop {
    /// Starts an agent that takes part in a bridge under the name `own`, with another called `x`.
    fn new() -> Self {
        Self::with(Limits::default(), r#"{"desktopAgent":"x"}"#)
    }

    fn with(limits: Limits, others: &str) -> Self {
        let mut directory = Directory::default();
        directory.replace("test", fdc3_directory::parse(APPS.as_bytes()).unwrap().records);
        let settings = Settings {
            node: "desk-a".into(),
            user: "ann".into(),
            version: "1".into(),
            secret: [1; 32],
            instance_key: [2; 32],
            json: JsonLimits::default(),
            limits,
        };
        let now = Time { ms: 1, wall_ms: 1_700_000_000_000 };
        let agent = Agent::new(settings, DESK, Arc::new(directory), now);
        let mut desktop = Self {
            agent,
            now,
            frames: Vec::new(),
            said: Vec::new(),
            contexts: 0,
            published: Vec::new(),
            calls: Vec::new(),
            yielded: Vec::new(),
            kept: Vec::new(),
            shared: BTreeMap::new(),
            names: BTreeMap::new(),
        };
        desktop.settle();
        desktop.agent.bridge_joined("own".into(), now);
        desktop.update(others, "{}");
        desktop
    }

    fn update(&mut self, others: &str, state: &str) {
        let others = if others.is_empty() { String::new() } else { format!(",{others}") };
        let payload =
            format!(r#"{{"allAgents":[{{"desktopAgent":"own"}}{others}],"channelsState":{state}}}"#);
        self.receive(MessageType::ConnectedAgentsUpdate, &payload, "u", None);
    }

    /// Another node is in the mesh.
    fn other_node(&mut self, name: &str) {
        let identity = json(&format!(r#"{{"fdc3":{{"desk":true,"node":"{name}"}}}}"#));
        let added = Event::InstanceAdded { instance: name.into(), identity, local: false };
        self.agent.event(DESK, added, self.now);
        self.settle();
    }

    /// That node has agents on its bridge.
    fn other_bridge(&mut self, node: &str, agents: &str) {
        let method = json(r#"{"id":7,"name":"deskmesh.fdc3"}"#);
        let offered = Event::MethodsAdded { server: node.into(), methods: vec![method], local: false };
        self.agent.event(DESK, offered, self.now);
        let name = Text::from(format!("{AGENTS}{node}"));
        self.shared.insert(name.clone(), json(&format!(r#"{{"agents":{agents}}}"#)));
        let added = Event::ContextAdded { context: name.clone(), name, creator: Some(node.into()) };
        self.agent.event(DESK, added, self.now);
        self.settle();
    }

    /// Another node's desk calls this one, and this is what it is answered.
    fn called(&mut self, node: &str, arguments: &str) -> Vec<(u64, Json)> {
        let from = self.yielded.len();
        let arguments = Arguments { named: Some(json(arguments)), ..Arguments::default() };
        let invoke = Event::Invoke { invocation: 1, method: json("1"), caller: node.into(), arguments };
        self.agent.event(DESK, invoke, self.now);
        self.settle();
        self.yielded[from..].to_vec()
    }

    /// Another node's desk answers what it was asked last.
    fn call_ends(&mut self, answer: &str) -> Vec<Json> {
        let from = self.frames.len();
        let (request, _) = self.calls.pop().unwrap();
        let outcome = Outcome::Answered(Answer::Result(Some(json(answer))));
        self.agent.event(DESK, Event::CallEnded { request, outcome }, self.now);
        self.settle();
        self.frames[from..].iter().map(|(_, frame)| frame.clone()).collect()
    }

    /// Lets the node do what it is told.
    fn settle(&mut self) {
        while let Some(output) = self.agent.poll_output() {
            match output {
                Output::Frame(connection, frame) | Output::Data(connection, frame) => {
                    self.frames.push((connection, Json::parse(frame).unwrap()));
                }
                Output::Bridge(message) => self.said.push(message),
                Output::Kept { rule, what, is_request } => {
                    self.kept.push(format!("{rule} {is_request} {what}"));
                }
                Output::Command(session, command) => self.obey(session, command),
                _ => {}
            }
        }
    }

    fn obey(&mut self, session: SessionId, command: Command) {
        let now = self.now;
        match command {
            Command::Attach { request, identity, .. } => {
                let instance = Text::from(format!("server-{}", session.0));
                self.agent.event(session, Event::Attached { request, instance, identity }, now);
            }
            Command::CreateContext { request, name, data, .. } => {
                self.contexts += 1;
                let context = Text::from(format!("context-{}", self.contexts));
                self.names.insert(context.clone(), name.clone());
                self.shared.insert(name, data.unwrap());
                self.agent.event(session, Event::ContextCreated { request, context }, now);
            }
            Command::UpdateContext { request, context, delta } => {
                if let Some(data) = delta.member("reset") {
                    self.shared.insert(self.names[&context].clone(), data);
                }
                if session != DESK {
                    let updater = Text::from(format!("server-{}", session.0));
                    self.agent.event(DESK, Event::ContextUpdated { context, updater, delta }, now);
                }
                self.agent.event(session, Event::Done { request, changed: None }, now);
            }
            // The desk is among those who listen.
            Command::BusPublish { data, .. } => {
                self.published.push(data.clone());
                let event = Event::BusEvent { subscription: 1, publisher: Json::null(), data };
                self.agent.event(DESK, event, now);
            }
            Command::Call { request, arguments, .. } => self.calls.push((request, arguments.named.unwrap())),
            Command::Yield { invocation, result } => {
                self.yielded.push((invocation, result.unwrap_or_else(Json::null)));
            }
            Command::SubscribeContext { request, context } => {
                let name = context.clone();
                let data = self.shared[&name].clone();
                self.agent.event(session, Event::ContextSnapshot { request, context, name, data }, now);
            }
            Command::Join { request, .. } => {
                self.agent.event(session, Event::Done { request, changed: None }, now)
            }
            _ => {}
        }
    }

    /// Connects an app, and returns its connection and its instance.
    fn app(&mut self, number: u64, name: &str) -> (ConnectionId, String) {
        let hello = format!(
            r#"{{"type":"WCP4ValidateAppIdentity","meta":{{}},"payload":{{"identityUrl":"http://app.example/{name}"}}}}"#
        );
        let hello = proto_dacp::decode_hello(&Bytes::from(hello), JsonLimits::default()).unwrap();
        let connection = ConnectionId(number);
        let session = SessionId(number);
        self.agent.connect(connection, session, &hello, &Admission::default(), self.now).unwrap();
        self.settle();
        let instance = at(&self.frames.last().unwrap().1, "payload.instanceId");
        (connection, instance)
    }

    /// Has an app ask something, and returns what it is told, as far as it is told at once.
    fn ask(&mut self, app: ConnectionId, name: &str, payload: &str) -> Vec<Json> {
        let from = self.frames.len();
        let frame = format!(r#"{{"type":"{name}","payload":{payload},"meta":{{"requestUuid":"{name}"}}}}"#);
        self.agent.frame(app, &Bytes::from(frame), self.now).unwrap();
        self.settle();
        self.frames[from..].iter().filter(|(to, _)| *to == app).map(|(_, frame)| frame.clone()).collect()
    }

    fn receive(
        &mut self,
        message_type: MessageType,
        payload: &str,
        request: &str,
        source: Option<Participant>,
    ) {
        let is_response = matches!(message_type, MessageType::Response(_) | MessageType::RaiseIntentResult);
        let mut message = Message::response(Exchange::Open, request.into(), json(payload));
        message.message_type = message_type;
        message.meta.response = is_response.then(|| "r".into());
        message.meta.source = source;
        self.agent.bridge_message(message, self.now);
        self.settle();
    }

    /// Has the agent `x` ask something, and returns what is said to the bridge.
    fn asked(&mut self, exchange: Exchange, payload: &str) -> Vec<Message> {
        let from = self.said.len();
        self.receive(MessageType::Request(exchange), payload, "q", Some(app_of("x")));
        self.said[from..].to_vec()
    }

    /// Answers what was said to the bridge last.
    fn answer(&mut self, exchange: Exchange, payload: &str) -> Vec<Json> {
        let from = self.frames.len();
        let request = self.said.last().unwrap().meta.request.clone().unwrap();
        self.receive(MessageType::Response(exchange), payload, &request, None);
        self.frames[from..].iter().map(|(_, frame)| frame.clone()).collect()
    }

    fn pass(&mut self, ms: u64) {
        self.now.ms += ms;
        self.agent.handle_timeout(self.now);
        self.settle();
    }
}

#[test]
fn apps_of_others_stand_behind_those_of_the_mesh() {
    let mut desktop = Desktop::new();
    let (one, instance) = desktop.app(1, "one");
    assert!(desktop.ask(one, "findIntentRequest", r#"{"intent":"Quote"}"#).is_empty());
    let asked = desktop.said.last().unwrap();
    assert_eq!(asked.payload.to_string(), r#"{"intent":"Quote"}"#);
    assert_eq!(asked.meta.source.as_ref().unwrap().instance_id.as_deref(), Some(instance.as_str()));
    let told = desktop.answer(
        Exchange::FindIntent,
        r#"{"appIntent":{"intent":{"name":"Quote"},"apps":[{"appId":"foreign","desktopAgent":"x"},{"appId":"nobodys","desktopAgent":"y"}]}}"#,
    );
    let [told] = &told[..] else { panic!("{told:?}") };
    let apps = told.member("payload").unwrap().member("appIntent").unwrap().member("apps").unwrap();
    let apps: Vec<String> = apps.elements().unwrap().iter().map(|app| at(app, "appId")).collect();
    assert_eq!(apps, ["quoter", "foreign"]);
}

#[test]
fn without_an_answer_there_is_what_is_here() {
    let mut desktop = Desktop::new();
    let (one, _) = desktop.app(1, "one");
    desktop.ask(one, "findIntentRequest", r#"{"intent":"Quote"}"#);
    desktop.ask(one, "findInstancesRequest", r#"{"app":{"appId":"nobody"}}"#);
    desktop.ask(one, "openRequest", r#"{"app":{"appId":"foreign@x"}}"#);
    desktop.frames.clear();
    desktop.pass(Limits::default().bridge_find_ms);
    let told: Vec<Json> = desktop.frames.iter().map(|(_, frame)| frame.clone()).collect();
    assert_eq!(told.len(), 2);
    let errors: Vec<String> = told
        .iter()
        .filter(|told| at(told, "payload").contains("error"))
        .map(|told| at(told, "payload.error"))
        .collect();
    assert_eq!(errors, ["NoAppsFound"]);
    desktop.frames.clear();
    desktop.pass(Limits::default().bridge_start_ms);
    assert!(
        desktop
            .frames
            .iter()
            .any(|(_, told)| at(told, "type") == "openResponse" && at(told, "payload.error") == "ApiTimeout")
    );
    // What comes now is of no use.
    assert!(
        desktop
            .answer(Exchange::Open, r#"{"appIdentifier":{"appId":"foreign","desktopAgent":"x"}}"#)
            .is_empty()
    );
}

#[test]
fn nobody_is_asked_where_nobody_is() {
    let mut desktop = Desktop::with(Limits::default(), "");
    let (one, _) = desktop.app(1, "one");
    assert_eq!(desktop.ask(one, "findIntentRequest", r#"{"intent":"Quote"}"#).len(), 1);
    assert_eq!(desktop.said.len(), 0);
    // Nor for more than there is room for.
    let limits = Limits { bridge_requests_max: 1, ..Limits::default() };
    let mut desktop = Desktop::with(limits, r#"{"desktopAgent":"x"}"#);
    let (one, _) = desktop.app(1, "one");
    assert!(desktop.ask(one, "findIntentRequest", r#"{"intent":"Quote"}"#).is_empty());
    assert_eq!(desktop.ask(one, "findIntentRequest", r#"{"intent":"Quote"}"#).len(), 1);
}

#[test]
fn an_intent_is_raised_there_and_its_result_comes_back() {
    let mut desktop = Desktop::new();
    let (one, _) = desktop.app(1, "one");
    let raise = r#"{"intent":"Ask","context":{"type":"x.ask"},"app":{"appId":"foreign","instanceId":"i1","desktopAgent":"x"}}"#;
    assert!(desktop.ask(one, "raiseIntentRequest", raise).is_empty());
    let request = desktop.said.last().unwrap().meta.request.clone().unwrap();
    let told = desktop.answer(
        Exchange::RaiseIntent,
        r#"{"intentResolution":{"intent":"Ask","source":{"appId":"foreign","instanceId":"i1","desktopAgent":"x"}}}"#,
    );
    assert_eq!(at(&told[0], "payload.intentResolution.source.desktopAgent"), "x");
    desktop.frames.clear();
    for _ in 0..2 {
        desktop.receive(
            MessageType::RaiseIntentResult,
            r#"{"intentResult":{"context":{"type":"x.b"}}}"#,
            &request,
            None,
        );
    }
    let [(_, told)] = &desktop.frames[..] else { panic!("{:?}", desktop.frames) };
    assert_eq!(at(told, "payload.intentResult.context.type"), "x.b");
}

#[test]
fn an_agent_that_leaves_owes_nothing_but_an_error() {
    let mut desktop = Desktop::new();
    let (one, _) = desktop.app(1, "one");
    let raise = r#"{"intent":"Ask","context":{"type":"x.ask"},"app":{"appId":"foreign","desktopAgent":"x"}}"#;
    desktop.ask(one, "raiseIntentRequest", raise);
    desktop.answer(
        Exchange::RaiseIntent,
        r#"{"intentResolution":{"intent":"Ask","source":{"appId":"foreign","desktopAgent":"x"}}}"#,
    );
    desktop.frames.clear();
    desktop.update("", "{}");
    let [(_, told)] = &desktop.frames[..] else { panic!("{:?}", desktop.frames) };
    assert_eq!(at(told, "type"), "raiseIntentResultResponse");
    assert_eq!(at(told, "payload.error"), "IntentHandlerRejected");
    assert_eq!(
        at(&desktop.ask(one, "raiseIntentRequest", raise)[0], "payload.error"),
        "DesktopAgentNotFound"
    );
}

#[test]
fn an_agent_finds_and_raises_here() {
    let mut desktop = Desktop::new();
    let (quoter, instance) = desktop.app(1, "quoter");
    desktop.ask(quoter, "addIntentListenerRequest", r#"{"intent":"Quote"}"#);
    let found = desktop.asked(Exchange::FindIntent, r#"{"intent":"Quote"}"#);
    assert_eq!(at(&found[0].payload, "appIntent.apps.1.instanceId"), instance);
    assert_eq!(at(&found[0].payload, "appIntent.apps.1.desktopAgent"), "own");
    let nothing = desktop.asked(Exchange::FindIntent, r#"{"intent":"Nothing"}"#);
    assert_eq!(at(&nothing[0].payload, "appIntent.apps"), "[]");
    desktop.frames.clear();
    let raise = format!(
        r#"{{"intent":"Quote","context":{{"type":"x.question"}},"app":{{"appId":"quoter","instanceId":"{instance}","desktopAgent":"own"}}}}"#
    );
    let said = desktop.asked(Exchange::RaiseIntent, &raise);
    assert_eq!(at(&said[0].payload, "intentResolution.source.instanceId"), instance);
    let (_, event) = desktop.frames[0].clone();
    assert_eq!(at(&event, "payload.originatingApp.desktopAgent"), "x");
    let id = at(&event, "payload.raiseIntentRequestUuid");
    let result = format!(
        r#"{{"raiseIntentRequestUuid":"{id}","intentEventUuid":"e","intentResult":{{"context":{{"type":"x.price"}}}}}}"#
    );
    desktop.ask(quoter, "intentResultRequest", &result);
    let said = desktop.said.last().unwrap();
    assert_eq!(
        (said.message_type.clone(), said.meta.request.as_deref()),
        (MessageType::RaiseIntentResult, Some("q"))
    );
    assert_eq!(said.payload.to_string(), r#"{"intentResult":{"context":{"type":"x.price"}}}"#);
}

#[test]
fn all_that_agents_ask_is_answered_with_words_of_the_standard() {
    let mut desktop = Desktop::new();
    for (exchange, payload, error) in [
        (Exchange::Open, r#"{"app":{"appId":"nobody"}}"#, "AppNotFound"),
        (Exchange::Open, r#"{"app":{"appId":"one","desktopAgent":"y"}}"#, "DesktopAgentNotFound"),
        (Exchange::Open, r#"{"app":{"appId":"one@x"}}"#, "DesktopAgentNotFound"),
        (Exchange::GetAppMetadata, r#"{"app":{"appId":"nobody"}}"#, "TargetAppUnavailable"),
        (
            Exchange::RaiseIntent,
            r#"{"intent":"Quote","context":{"type":"t"},"app":{"appId":"nobody"}}"#,
            "TargetAppUnavailable",
        ),
        (
            Exchange::RaiseIntent,
            r#"{"intent":"Quote","context":{},"app":{"appId":"quoter"}}"#,
            "MalformedContext",
        ),
        (
            Exchange::RaiseIntent,
            r#"{"intent":"Quote","context":{"type":"t"},"app":{"appId":"one"}}"#,
            "NoAppsFound",
        ),
        (Exchange::FindIntentsByContext, r#"{"context":{}}"#, "MalformedContext"),
    ] {
        let said = desktop.asked(exchange, payload);
        let [said] = &said[..] else { panic!("{payload}: {said:?}") };
        assert_eq!(said.error().as_deref(), Some(error), "{payload}");
    }
    // Somebody whom the bridge has not told of.
    let from = desktop.said.len();
    desktop.receive(
        MessageType::Request(Exchange::FindIntent),
        r#"{"intent":"Quote"}"#,
        "q",
        Some(app_of("y")),
    );
    assert_eq!(desktop.said[from].error().as_deref(), Some("MalformedMessage"));
}

#[test]
fn a_broadcast_goes_to_the_bridge_and_one_of_the_bridge_does_not() {
    let mut desktop = Desktop::new();
    let (one, _) = desktop.app(1, "one");
    let (two, _) = desktop.app(2, "quoter");
    desktop.ask(two, "getOrCreateChannelRequest", r#"{"channelId":"prices"}"#);
    desktop.ask(two, "addContextListenerRequest", r#"{"channelId":"prices","contextType":null}"#);
    desktop.ask(one, "getOrCreateChannelRequest", r#"{"channelId":"prices"}"#);
    desktop.ask(one, "broadcastRequest", r#"{"channelId":"prices","context":{"type":"x.a", "n":1.0}}"#);
    let said = desktop.said.pop().unwrap();
    assert_eq!(said.payload.to_string(), r#"{"channelId":"prices","context":{"type":"x.a", "n":1.0}}"#);
    assert_eq!(said.meta.source.unwrap().app_id.as_deref(), Some("one"));
    desktop.frames.clear();
    let said = desktop.asked(Exchange::Broadcast, r#"{"channelId":"prices","context":{"type":"x.b"}}"#);
    assert!(said.is_empty(), "{said:?}");
    let [(to, told)] = &desktop.frames[..] else { panic!("{:?}", desktop.frames) };
    assert_eq!((*to, at(told, "payload.originatingApp.desktopAgent")), (two, "x".to_owned()));
    let state = desktop.agent.bridge_channels().to_json();
    assert_eq!(state.to_string(), r#"{"prices":[{"type":"x.b"},{"type":"x.a", "n":1.0}]}"#);
}

#[test]
fn what_somebody_brings_is_state() {
    let mut desktop = Desktop::new();
    let (one, _) = desktop.app(1, "one");
    desktop.ask(one, "getOrCreateChannelRequest", r#"{"channelId":"prices"}"#);
    desktop.ask(one, "broadcastRequest", r#"{"channelId":"prices","context":{"type":"x.a","n":1}}"#);
    desktop.ask(one, "addContextListenerRequest", r#"{"channelId":"prices","contextType":"x.b"}"#);
    desktop.ask(one, "addContextListenerRequest", r#"{"channelId":"prices","contextType":"x.a"}"#);
    desktop.frames.clear();
    let said = desktop.said.len();
    let state = r#"{"prices":[{"type":"x.a","n":0},{"type":"x.b"}],"new":[{"type":"x.c"}]}"#;
    for _ in 0..2 {
        desktop.update(r#"{"desktopAgent":"x"}"#, state);
    }
    assert_eq!(desktop.said.len(), said);
    let [(_, told)] = &desktop.frames[..] else { panic!("{:?}", desktop.frames) };
    assert_eq!(at(told, "payload.context"), r#"{"type":"x.b"}"#);
    assert_eq!(
        desktop.agent.bridge_channels().to_json().to_string(),
        r#"{"new":[{"type":"x.c"}],"prices":[{"type":"x.a","n":1},{"type":"x.b"}]}"#
    );
}

#[test]
fn of_several_nodes_of_a_mesh_the_first_speaks() {
    let mut desktop = Desktop::new();
    let (one, _) = desktop.app(1, "one");
    desktop.ask(one, "getOrCreateChannelRequest", r#"{"channelId":"prices"}"#);
    let node = |name: &str| {
        format!(r#"{{"desktopAgent":"{name}","deskmesh":{{"node":"{name}"}}}},{{"desktopAgent":"x"}}"#)
    };
    let broadcast = r#"{"channelId":"prices","context":{"type":"x.a"}}"#;
    for (name, speaks) in [("desk-0", false), ("desk-b", true)] {
        // One that is on the bridge, but not in the mesh, is as any other.
        desktop.update(&node(name), "{}");
        let said = desktop.said.len();
        desktop.ask(one, "broadcastRequest", broadcast);
        assert_eq!(desktop.said.len(), said + 1);
        desktop.other_node(name);
        let said = desktop.said.len();
        desktop.ask(one, "broadcastRequest", broadcast);
        assert_eq!(desktop.said.len(), said + usize::from(speaks), "{name}");
        let said = desktop.asked(Exchange::FindIntent, r#"{"intent":"Quote"}"#);
        assert_eq!(said[0].error().is_none(), speaks, "{name}");
        let removed =
            Event::InstanceRemoved { instance: name.into(), cause: mesh_model::Cause::Disconnected };
        desktop.agent.event(DESK, removed, desktop.now);
    }
}

#[test]
fn a_broadcast_reaches_the_mesh_once_and_apps_here_once() {
    let mut desktop = Desktop::new();
    desktop.other_node("desk-b");
    let (one, _) = desktop.app(1, "one");
    let (two, _) = desktop.app(2, "quoter");
    desktop.ask(two, "getOrCreateChannelRequest", r#"{"channelId":"prices"}"#);
    desktop.ask(two, "addContextListenerRequest", r#"{"channelId":"prices","contextType":null}"#);
    let context = r#"{"channelId":"prices","context":{"type":"x.a"}}"#;
    for by_app in [true, false] {
        desktop.frames.clear();
        desktop.published.clear();
        match by_app {
            true => drop(desktop.ask(one, "broadcastRequest", context)),
            false => drop(desktop.asked(Exchange::Broadcast, context)),
        }
        let heard =
            desktop.frames.iter().filter(|(to, frame)| *to == two && at(frame, "type") == "broadcastEvent");
        assert_eq!(heard.count(), 1, "by an app: {by_app}");
        let [published] = &desktop.published[..] else { panic!("{:?}", desktop.published) };
        let agent = if by_app { "desk-a" } else { "x@desk-a" };
        assert_eq!(at(published, "source.desktopAgent"), agent);
    }
}

#[test]
fn a_broadcast_elsewhere_goes_to_the_bridge_once() {
    let mut desktop = Desktop::new();
    desktop.other_node("desk-b");
    let (one, _) = desktop.app(1, "one");
    desktop.ask(one, "getOrCreateChannelRequest", r#"{"channelId":"prices"}"#);
    let data = format!(
        r#"{{"channel":"prices","event":"e","context":{{"type":"x.a"}},"time":{},"source":{{"appId":"far","instanceId":"f","desktopAgent":"desk-b"}}}}"#,
        desktop.now.wall_ms
    );
    for _ in 0..2 {
        let event = Event::BusEvent { subscription: 1, publisher: Json::null(), data: json(&data) };
        desktop.agent.event(DESK, event, desktop.now);
        desktop.settle();
    }
    // No app here has made that channel.
    let data = data.replace("prices", "unheard").replace(r#""e""#, r#""f""#);
    let event = Event::BusEvent { subscription: 1, publisher: Json::null(), data: json(&data) };
    desktop.agent.event(DESK, event, desktop.now);
    desktop.settle();
    let [said, unheard] = &desktop.said[..] else { panic!("{:?}", desktop.said) };
    assert_eq!(at(&unheard.payload, "channelId"), "unheard");
    let source = said.meta.source.as_ref().unwrap();
    assert_eq!((source.app_id.as_deref(), source.instance_id.as_deref()), (Some("far@desk-b"), Some("f")));
}

#[test]
fn other_nodes_are_told_who_is_on_the_bridge() {
    let mut desktop = Desktop::with(Limits::default(), "");
    let told = |desktop: &Desktop| {
        desktop.shared.get(format!("{AGENTS}server-0").as_bytes()).map(|data| at(data, "agents"))
    };
    assert_eq!(told(&desktop), None);
    desktop.update(r#"{"desktopAgent":"x"},{"desktopAgent":"y"}"#, "{}");
    assert_eq!(told(&desktop).unwrap(), r#"["x","y"]"#);
    desktop.update(r#"{"desktopAgent":"y"}"#, "{}");
    assert_eq!(told(&desktop).unwrap(), r#"["y"]"#);
    // Another node of the mesh is on the bridge, and speaks for all.
    desktop.update(r#"{"desktopAgent":"y"},{"desktopAgent":"n","deskmesh":{"node":"desk-0"}}"#, "{}");
    assert_eq!(told(&desktop).unwrap(), r#"["n","y"]"#);
    desktop.other_node("desk-0");
    assert_eq!(told(&desktop).unwrap(), "[]");
    desktop.agent.bridge_left(desktop.now);
    desktop.settle();
    assert_eq!(told(&desktop).unwrap(), "[]");
}

#[test]
fn agents_of_another_node_are_asked_by_way_of_it() {
    let mut desktop = Desktop::new();
    desktop.other_node("desk-b");
    desktop.other_bridge("desk-b", r#"["x","y"]"#);
    let (one, instance) = desktop.app(1, "one");
    assert!(desktop.ask(one, "findIntentRequest", r#"{"intent":"Ask"}"#).is_empty());
    let [(_, asked)] = &desktop.calls[..] else { panic!("{:?}", desktop.calls) };
    assert_eq!(at(asked, "exchange"), "findIntentRequest");
    assert_eq!(at(asked, "source.instanceId"), instance);
    // Here is an answer of that bridge, of which the apps of others are none of its business.
    let found = r#"{"appIntent":{"intent":{"name":"Ask"},"apps":[{"appId":"far","instanceId":"i","desktopAgent":"y@desk-b"},{"appId":"foreign","instanceId":"j","desktopAgent":"x@desk-b"},{"appId":"lie","desktopAgent":"desk-a"}]}}"#;
    assert!(desktop.call_ends(found).is_empty());
    // One of its agents is on the bridge of this machine, too.
    let told = desktop.answer(
        Exchange::FindIntent,
        r#"{"appIntent":{"intent":{"name":"Ask"},"apps":[{"appId":"foreign","instanceId":"j","desktopAgent":"x"}]}}"#,
    );
    let apps = told[0].member("payload").unwrap().member("appIntent").unwrap().member("apps").unwrap();
    let agents: Vec<String> = apps.elements().unwrap().iter().map(|app| at(app, "desktopAgent")).collect();
    assert_eq!(agents, ["y@desk-b", "x@desk-b"]);
    // Asked is who is named, and nobody else.
    let said = desktop.said.len();
    for (request, payload, exchange) in [
        (
            "findInstancesRequest",
            r#"{"app":{"appId":"far","desktopAgent":"y@desk-b"}}"#,
            "findInstancesRequest",
        ),
        (
            "getAppMetadataRequest",
            r#"{"app":{"appId":"far","desktopAgent":"y@desk-b"}}"#,
            "getAppMetadataRequest",
        ),
    ] {
        assert!(desktop.ask(one, request, payload).is_empty());
        let (_, asked) = desktop.calls.last().unwrap();
        assert_eq!((at(asked, "exchange"), at(asked, "agent")), (exchange.to_owned(), "y".to_owned()));
        assert_eq!(at(asked, "payload.app.desktopAgent"), "y");
    }
    assert!(desktop.ask(one, "openRequest", r#"{"app":{"appId":"far@y@desk-b"}}"#).is_empty());
    let (_, asked) = desktop.calls.last().unwrap();
    assert_eq!(
        (at(asked, "op"), at(asked, "appId"), at(asked, "agent")),
        ("open".into(), "far".into(), "y".into())
    );
    let told =
        desktop.call_ends(r#"{"appIdentifier":{"appId":"far","instanceId":"i","desktopAgent":"y@desk-b"}}"#);
    assert_eq!(at(&told[0], "payload.appIdentifier.desktopAgent"), "y@desk-b");
    let raise =
        r#"{"intent":"Ask","context":{"type":"x.ask"},"app":{"appId":"far","desktopAgent":"y@desk-b"}}"#;
    assert!(desktop.ask(one, "raiseIntentRequest", raise).is_empty());
    let (_, asked) = desktop.calls.last().unwrap();
    assert_eq!((at(asked, "op"), at(asked, "agent")), ("raise".into(), "y".into()));
    assert_eq!(desktop.said.len(), said);
    // Whoever is not there is not asked.
    let nobody = r#"{"app":{"appId":"far","desktopAgent":"z@desk-b"}}"#;
    let told = desktop.ask(one, "getAppMetadataRequest", nobody);
    assert_eq!(at(&told[0], "payload.error"), "DesktopAgentNotFound");
}

#[test]
fn a_node_that_does_not_answer_for_its_bridge_is_not_waited_for_long() {
    let mut desktop = Desktop::with(Limits::default(), "");
    desktop.other_node("desk-b");
    desktop.other_bridge("desk-b", r#"["y"]"#);
    let (one, _) = desktop.app(1, "one");
    assert!(desktop.ask(one, "findIntentRequest", r#"{"intent":"Quote"}"#).is_empty());
    // What has a target is asked there alone.
    assert_eq!(
        desktop.ask(one, "findInstancesRequest", r#"{"app":{"appId":"one","desktopAgent":"desk-b"}}"#).len(),
        1
    );
    desktop.frames.clear();
    desktop.pass(Limits::default().bridge_elsewhere_ms);
    let [(_, told)] = &desktop.frames[..] else { panic!("{:?}", desktop.frames) };
    assert_eq!(at(told, "payload.appIntent.apps.0.appId"), "quoter");
    // And without it nobody is asked.
    let removed = Event::InstanceRemoved { instance: "desk-b".into(), cause: mesh_model::Cause::Unreachable };
    desktop.agent.event(DESK, removed, desktop.now);
    assert_eq!(desktop.ask(one, "findIntentRequest", r#"{"intent":"Quote"}"#).len(), 1);
}

#[test]
fn another_node_asks_the_agents_here() {
    let mut desktop = Desktop::new();
    desktop.other_node("desk-b");
    let source = r#""source":{"appId":"far","instanceId":"f"}"#;
    let payload = r#"{"intent":"Ask"}"#;
    let ask = format!(r#"{{"op":"ask","exchange":"findIntentRequest","payload":{payload},{source}}}"#);
    assert!(desktop.called("desk-b", &ask).is_empty());
    let said = desktop.said.last().unwrap();
    assert_eq!((said.payload.to_string(), said.meta.destination.is_none()), (payload.to_owned(), true));
    assert_eq!(said.meta.source.as_ref().unwrap().app_id.as_deref(), Some("far@desk-b"));
    desktop.answer(
        Exchange::FindIntent,
        r#"{"appIntent":{"intent":{"name":"Ask"},"apps":[{"appId":"foreign","desktopAgent":"x"}]}}"#,
    );
    let (_, answer) = desktop.yielded.pop().unwrap();
    assert_eq!(at(&answer, "appIntent.apps.0.desktopAgent"), "x@desk-a");
    let open = format!(r#"{{"op":"open","appId":"foreign","agent":"x",{source}}}"#);
    assert!(desktop.called("desk-b", &open).is_empty());
    let said = desktop.said.last().unwrap();
    assert_eq!(said.meta.destination.as_ref().unwrap().desktop_agent.as_deref(), Some("x"));
    assert_eq!(said.payload.to_string(), r#"{"app":{"appId":"foreign","desktopAgent":"x"}}"#);
    desktop.answer(Exchange::Open, r#"{"error":"AppNotFound"}"#);
    assert_eq!(desktop.yielded.pop().unwrap().1.to_string(), r#"{"error":"AppNotFound"}"#);
    // Who is not there, and what is not asked in this way.
    for (wrong, error) in [
        (r#"{"op":"open","appId":"foreign","agent":"y"}"#, "DesktopAgentNotFound"),
        (
            r#"{"op":"ask","exchange":"getAppMetadataRequest","payload":{},"agent":"y"}"#,
            "DesktopAgentNotFound",
        ),
        (
            r#"{"op":"raise","raise":"r","intent":"I","context":{"type":"t"},"appId":"a","agent":"y"}"#,
            "DesktopAgentNotFound",
        ),
        (r#"{"op":"ask","exchange":"broadcastRequest","payload":{}}"#, "InvalidArguments"),
    ] {
        assert_eq!(at(&desktop.called("desk-b", wrong)[0].1, "error"), error, "{wrong}");
    }
}

#[test]
fn an_intent_of_another_node_is_raised_there_and_a_private_channel_comes_back() {
    let mut desktop = Desktop::new();
    desktop.other_node("desk-b");
    desktop.other_bridge("desk-b", "[]");
    let raise = r#"{"op":"raise","raise":"r1","intent":"Ask","context":{"type":"x.ask"},"appId":"foreign","agent":"x","source":{"appId":"far","instanceId":"f"}}"#;
    assert!(desktop.called("desk-b", raise).is_empty());
    let request = desktop.said.last().unwrap().meta.request.clone().unwrap();
    desktop.answer(
        Exchange::RaiseIntent,
        r#"{"intentResolution":{"intent":"Ask","source":{"appId":"foreign","instanceId":"i1","desktopAgent":"x"}}}"#,
    );
    let (_, answer) = desktop.yielded.pop().unwrap();
    assert_eq!(at(&answer, "intentResolution.source.desktopAgent"), "x@desk-a");
    let result = r#"{"intentResult":{"channel":{"id":"stream","type":"private"}}}"#;
    desktop.receive(MessageType::RaiseIntentResult, result, &request, None);
    let (batch, ops) = desktop.calls.pop().unwrap();
    assert_eq!(at(&ops, "ops.0.raise"), "r1");
    assert_eq!(at(&ops, "ops.0.host"), "server-0");
    let added = desktop
        .said
        .iter()
        .filter(|said| said.message_type == MessageType::Request(Exchange::PrivateEventListenerAdded));
    // Some agents take no message that does not name the app that it is for.
    assert!(added.clone().all(|said| said.meta.destination == Some(app_of("x"))));
    assert_eq!(added.count(), 3);
    let outcome = Outcome::Answered(Answer::Result(None));
    desktop.agent.event(DESK, Event::CallEnded { request: batch, outcome }, desktop.now);
    // What the app there does is told to the agent, and what the agent does to the app's node.
    let of = r#""channel":"stream","by":"f""#;
    let did = format!(
        r#"{{"op":"batch","ops":[{{"op":"did",{of},"deed":"listens","type":"x.a","listener":"l"}},{{"op":"cast",{of},"context":{{"type":"x.b"}},"time":1}}]}}"#
    );
    let from = desktop.said.len();
    desktop.called("desk-b", &did);
    let told: Vec<MessageType> = desktop.said[from..].iter().map(|said| said.message_type.clone()).collect();
    let expected = [Exchange::PrivateOnAddContextListener, Exchange::PrivateBroadcast];
    assert_eq!(told, expected.map(MessageType::Request));
    assert!(desktop.said[from..].iter().all(|said| said.meta.destination == Some(app_of("x"))));
    let said = desktop.said.len();
    for (exchange, payload) in [
        (Exchange::PrivateBroadcast, r#"{"channelId":"stream","context":{"type":"x.a"}}"#),
        (Exchange::PrivateBroadcast, r#"{"channelId":"stream","context":{"type":"x.unheard"}}"#),
        (Exchange::PrivateOnDisconnect, r#"{"channelId":"stream"}"#),
    ] {
        desktop.asked(exchange, payload);
    }
    assert_eq!(desktop.said.len(), said);
    let (batch, ops) = desktop.calls.pop().unwrap();
    assert_eq!((at(&ops, "ops.0.op"), at(&ops, "ops.0.context.type")), ("cast".to_owned(), "x.a".to_owned()));
    let outcome = Outcome::Answered(Answer::Result(None));
    desktop.agent.event(DESK, Event::CallEnded { request: batch, outcome }, desktop.now);
    desktop.settle();
    let (_, ops) = desktop.calls.pop().unwrap();
    assert_eq!(
        (at(&ops, "ops.0.op"), at(&ops, "ops.0.deed")),
        ("event".to_owned(), "disconnected".to_owned())
    );
    assert!(ops.member("ops").unwrap().elements().unwrap().len() == 1);
}

fn rule(direction: Option<Direction>, channel: &str, intent: &str, app: &str, allow: bool) -> BridgeRule {
    let pattern = |text: &str| (!text.is_empty()).then(|| Pattern::parse(text).unwrap());
    BridgeRule { direction, channel: pattern(channel), intent: pattern(intent), app: pattern(app), allow }
}

#[test]
fn rules_say_what_may_cross() {
    let mut desktop = Desktop::new();
    let (one, _) = desktop.app(1, "one");
    let (quoter, instance) = desktop.app(2, "quoter");
    desktop.ask(quoter, "addIntentListenerRequest", r#"{"intent":"Quote"}"#);
    desktop.ask(quoter, "addContextListenerRequest", r#"{"channelId":"fdc3.channel.1","contextType":null}"#);
    let raise = format!(
        r#"{{"intent":"Quote","context":{{"type":"x.question"}},"app":{{"appId":"quoter","instanceId":"{instance}"}}}}"#
    );
    let error = |said: &[Message]| said[0].error().map(|error| error.to_string());
    let rules = |rules: Vec<BridgeRule>| BridgeRules(rules);

    // Intents, one way.
    desktop.agent.set_bridge_rules(rules(vec![rule(Some(Direction::In), "", "/^Quo/", "", false)]));
    assert_eq!(error(&desktop.asked(Exchange::RaiseIntent, &raise)).unwrap(), "NoAppsFound");
    let found = desktop.asked(Exchange::FindIntent, r#"{"intent":"Quote"}"#);
    assert_eq!(at(&found[0].payload, "appIntent.apps"), "[]");
    let said = desktop.said.len();
    desktop.ask(
        one,
        "raiseIntentRequest",
        r#"{"intent":"Quote","context":{"type":"t"},"app":{"appId":"f","desktopAgent":"x"}}"#,
    );
    assert_eq!(desktop.said.len(), said + 1);
    // Apps, both ways.
    desktop.agent.set_bridge_rules(rules(vec![rule(None, "", "", "quoter", false)]));
    for (exchange, payload, word) in [
        (Exchange::RaiseIntent, raise.as_str(), "NoAppsFound"),
        (Exchange::Open, r#"{"app":{"appId":"quoter"}}"#, "AppNotFound"),
        (Exchange::GetAppMetadata, r#"{"app":{"appId":"quoter"}}"#, "TargetAppUnavailable"),
    ] {
        assert_eq!(error(&desktop.asked(exchange, payload)).unwrap(), word);
    }
    let found = desktop.asked(Exchange::FindInstances, r#"{"app":{"appId":"quoter"}}"#);
    assert_eq!(at(&found[0].payload, "appIdentifiers"), "[]");
    let told = desktop.ask(one, "openRequest", r#"{"app":{"appId":"quoter@x"}}"#);
    assert_eq!(at(&told[0], "payload.error"), "AppNotFound");
    let told = desktop.ask(one, "getAppMetadataRequest", r#"{"app":{"appId":"quoter","desktopAgent":"x"}}"#);
    assert_eq!(at(&told[0], "payload.error"), "TargetAppUnavailable");
    // Channels, but for one.
    desktop.agent.set_bridge_rules(rules(vec![
        rule(Some(Direction::Out), "fdc3.channel.2", "", "", true),
        rule(None, "/./", "", "", false),
    ]));
    desktop.said.clear();
    for channel in ["fdc3.channel.1", "fdc3.channel.2"] {
        let context = format!(r#"{{"channelId":"{channel}","context":{{"type":"x.a"}}}}"#);
        desktop.ask(one, "broadcastRequest", &context);
    }
    let [said] = &desktop.said[..] else { panic!("{:?}", desktop.said) };
    assert_eq!(at(&said.payload, "channelId"), "fdc3.channel.2");
    assert_eq!(
        desktop.agent.bridge_channels().to_json().to_string(),
        r#"{"fdc3.channel.2":[{"type":"x.a"}]}"#
    );
    desktop.frames.clear();
    desktop.asked(Exchange::Broadcast, r#"{"channelId":"fdc3.channel.1","context":{"type":"x.b"}}"#);
    desktop.update(r#"{"desktopAgent":"x"}"#, r#"{"fdc3.channel.1":[{"type":"x.c"}]}"#);
    assert!(desktop.frames.is_empty(), "{:?}", desktop.frames);
    // Each refusal was noted with its rule.
    assert_eq!(
        desktop.kept.first().map(String::as_str),
        Some("1 true from the bridge: intent `Quote`, app `quoter`")
    );
    assert!(desktop.kept.contains(&"2 false to the bridge: channel `fdc3.channel.1`, app `one`".to_owned()));
}
