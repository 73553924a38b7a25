//! An agent whose node does all that it is told, and whose bridge is the test.

mod mesh;
mod one;
mod rules;

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
