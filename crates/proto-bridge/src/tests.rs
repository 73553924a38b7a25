//! A bridge, and agents that are played by the test.

use std::collections::BTreeMap;

use bytes::Bytes;
use mesh_model::{Json, Text};

use crate::*;

fn json(text: &str) -> Json {
    Json::parse(Bytes::copy_from_slice(text.as_bytes())).unwrap()
}

/// A bridge with what it sent, by agent.
struct Desk {
    bridge: Bridge,
    now_ms: u64,
    sent: BTreeMap<u64, Vec<Message>>,
    closed: BTreeMap<u64, Closing>,
    tokens: Vec<(u64, Option<Text>)>,
    notices: Vec<Notice>,
}

impl Desk {
    fn new(settings: BridgeSettings) -> Self {
        let mut drawn = 0;
        let uuids = Uuids::new(move || {
            drawn += 1;
            drawn
        });
        let (sent, closed) = (BTreeMap::new(), BTreeMap::new());
        let bridge = Bridge::new(settings, uuids);
        Self { bridge, now_ms: 1_000_000, sent, closed, tokens: Vec::new(), notices: Vec::new() }
    }

    /// With named agents of the numbers from 1 on.
    fn with(names: &[&str]) -> Self {
        let mut desk = Self::new(BridgeSettings::default());
        for (number, name) in (1..).zip(names) {
            desk.join(number, name, "{}");
        }
        desk.sent.clear();
        desk
    }

    fn input(&mut self, input: Input) {
        self.bridge.handle(input, self.now_ms);
        self.drain();
    }

    fn drain(&mut self) {
        while let Some(output) = self.bridge.poll_output() {
            match output {
                Output::Frame { agent, frame } => {
                    let message = Message::decode(&frame).unwrap();
                    self.sent.entry(agent.0).or_default().push(message);
                }
                Output::Message { agent, message } => self.sent.entry(agent.0).or_default().push(message),
                Output::CheckToken { agent, token } => self.tokens.push((agent.0, token)),
                Output::Close { agent, because } => {
                    self.closed.insert(agent.0, because);
                }
                Output::Notice { notice, .. } => self.notices.push(notice),
            }
        }
    }

    /// Lets time pass, with what is due at its moment.
    fn pass(&mut self, ms: u64) {
        let end = self.now_ms + ms;
        while let Some(due_ms) = self.bridge.poll_timeout().filter(|due_ms| *due_ms <= end) {
            self.now_ms = due_ms;
            self.bridge.handle_timeout(due_ms);
            self.drain();
        }
        self.now_ms = end;
    }

    fn connect(&mut self, agent: u64) {
        self.input(Input::Connected { agent: AgentId(agent) });
    }

    fn frame(&mut self, agent: u64, text: &str) {
        self.input(Input::Frame { agent: AgentId(agent), frame: Bytes::copy_from_slice(text.as_bytes()) });
    }

    fn leave(&mut self, agent: u64) {
        self.input(Input::Disconnected { agent: AgentId(agent) });
    }

    fn join(&mut self, agent: u64, name: &str, channels: &str) -> String {
        self.connect(agent);
        self.frame(
            agent,
            &format!(
                r#"{{"type":"handshake","payload":{{"requestedName":"{name}","implementationMetadata":{{"fdc3Version":"2.2","provider":"{name}","providerVersion":null,"appMetadata":{{"appId":"x"}}}},"channelsState":{channels}}},"meta":{{"requestUuid":"join-{agent}","responseUuid":null,"timestamp":"2026-01-01T00:00:00.123456+00:00"}}}}"#
            ),
        );
        self.bridge.name(AgentId(agent)).map(ToString::to_string).unwrap_or_default()
    }

    /// Sends a request, or an answer if `response` is not empty.
    fn say(&mut self, agent: u64, message_type: &str, request: &str, response: &str, payload: &str) {
        let response = if response.is_empty() { "null".to_owned() } else { format!(r#""{response}""#) };
        self.frame(
            agent,
            &format!(
                r#"{{"type":"{message_type}","payload":{payload},"meta":{{"requestUuid":"{request}","responseUuid":{response},"timestamp":"t","source":{{"appId":"app","desktopAgent":"forged"}}}}}}"#
            ),
        );
    }

    /// Takes what was sent to an agent.
    fn taken(&mut self, agent: u64) -> Vec<Message> {
        self.sent.remove(&agent).unwrap_or_default()
    }

    /// Takes the one message that was sent to an agent.
    fn one(&mut self, agent: u64) -> Message {
        let mut messages = self.taken(agent);
        assert_eq!(messages.len(), 1, "to {agent}: {messages:#?}");
        messages.remove(0)
    }

    fn nothing(&mut self, agent: u64) {
        assert_eq!(self.taken(agent), []);
    }
}

fn names(participants: &[Participant]) -> Vec<&str> {
    participants.iter().filter_map(|participant| participant.desktop_agent.as_deref()).collect()
}

fn failures(message: &Message) -> Vec<(&str, &str)> {
    let pair = |failure| {
        let Failure { source, detail }: &Failure = failure;
        (source.desktop_agent.as_deref().unwrap_or_default(), detail.as_str())
    };
    message.meta.failures.iter().map(pair).collect()
}

fn member(message: &Message, name: &str) -> String {
    message.payload.member(name).map(|value| value.to_string()).unwrap_or_default()
}

#[test]
fn names_and_updates() {
    let mut desk = Desk::new(BridgeSettings::default());
    assert_eq!(desk.join(1, "agent", "{}"), "agent");
    let hello = desk.taken(1).remove(0);
    assert_eq!(
        (hello.message_type, hello.payload.to_string().as_str()),
        (
            MessageType::Hello,
            r#"{"desktopAgentBridgeVersion":"1.0","supportedFDC3Versions":["2.2"],"authRequired":false}"#
        )
    );
    assert_eq!(desk.join(2, "agent", "{}"), "agent-2");
    let all = r#"[{"fdc3Version":"2.2","provider":"agent","desktopAgent":"agent"},{"fdc3Version":"2.2","provider":"agent","desktopAgent":"agent-2"}]"#;
    for agent in [1, 2] {
        let update = desk.taken(agent).pop().unwrap();
        assert_eq!(update.message_type, MessageType::ConnectedAgentsUpdate);
        assert_eq!(update.meta.request.as_deref(), Some("join-2"));
        assert!(update.meta.response.is_some());
        assert_eq!(member(&update, "addAgent"), r#""agent-2""#);
        assert_eq!(member(&update, "allAgents"), all);
    }
    desk.leave(2);
    let update = desk.one(1);
    assert_eq!(member(&update, "removeAgent"), r#""agent-2""#);
    assert_eq!(
        member(&update, "allAgents"),
        r#"[{"fdc3Version":"2.2","provider":"agent","desktopAgent":"agent"}]"#
    );
    assert_eq!(member(&update, "channelsState"), "");
    assert_eq!(update.meta.request, update.meta.response);
    // The name is kept for it, also where the plain one would be free.
    desk.leave(1);
    desk.pass(1_000);
    assert_eq!(desk.join(3, "agent-2", "{}"), "agent-2-2", "of another provider");
    assert_eq!(desk.join(4, "agent", "{}"), "agent");
    desk.pass(60_000);
    assert_eq!(desk.join(5, "agent-2", "{}"), "agent-2");
}

#[test]
fn a_name_cannot_claim_another_machine() {
    let mut desk = Desk::with(&[]);
    assert_eq!(desk.join(1, "other@node-b", "{}"), "other-node-b");
    let joined = Input::Joined {
        agent: AgentId(2),
        requested_name: Text::from("other@node-b"),
        implementation: json("{}"),
        channels: ChannelsState::default(),
    };
    desk.input(joined);
    assert_eq!(desk.bridge.name(AgentId(2)).unwrap(), "other@node-b");
}

#[test]
fn channels_are_merged_and_dropped_with_the_last_agent() {
    let mut desk = Desk::new(BridgeSettings::default());
    desk.join(1, "a", r#"{"red":[{"type":"x","n":1.0}]}"#);
    desk.join(
        2,
        "b",
        r#"{"red":[{"type":"x","n":2},{"instanceUuid":"typeless"},{"type":"y"}],"mine":[{"type":"z"}]}"#,
    );
    let merged = r#"{"mine":[{"type":"z"}],"red":[{"type":"x","n":1.0},{"type":"y"}]}"#;
    for agent in [1, 2] {
        assert_eq!(member(desk.taken(agent).last().unwrap(), "channelsState"), merged);
    }
    desk.say(1, "broadcastRequest", "b1", "", r#"{"channelId":"red","context": {"type":"y", "n":3}}"#);
    let broadcast = desk.one(2);
    assert_eq!(broadcast.payload.to_string(), r#"{"channelId":"red","context": {"type":"y", "n":3}}"#);
    desk.nothing(1);
    desk.join(3, "c", "null");
    let state = member(desk.taken(3).last().unwrap(), "channelsState");
    assert_eq!(state, r#"{"mine":[{"type":"z"}],"red":[{"type":"y", "n":3},{"type":"x","n":1.0}]}"#);
    for agent in [1, 2, 3] {
        desk.leave(agent);
    }
    assert!(desk.bridge.channels().is_empty());
}

/// One answers, one errs, one is silent.
#[test]
fn a_collated_answer_names_who_did_not_contribute() {
    let mut desk = Desk::with(&["asker", "answers", "errs", "silent"]);
    desk.say(1, "findIntentRequest", "f", "", r#"{"intent":"ViewChart","resultType":null}"#);
    for agent in [2, 3, 4] {
        let request = desk.one(agent);
        let source = request.meta.source.unwrap();
        assert_eq!(source.desktop_agent.as_deref(), Some("asker"), "the forged name is overwritten");
        assert_eq!(source.app_id.as_deref(), Some("app"));
        assert_eq!(request.meta.response, None);
    }
    desk.say(3, "findIntentResponse", "f", "r3", r#"{"error":"NoAppsFound"}"#);
    desk.say(
        2,
        "findIntentResponse",
        "f",
        "r2",
        r#"{"appIntent":{"intent":{"name":"ViewChart","displayName":"View"},"apps":[{"appId":"x"}]}}"#,
    );
    desk.pass(1_499);
    desk.nothing(1);
    desk.pass(1);
    let answer = desk.one(1);
    assert_eq!(answer.message_type, MessageType::Response(Exchange::FindIntent));
    assert_eq!(answer.meta.request.as_deref(), Some("f"));
    assert_eq!(names(&answer.meta.sources), ["answers"]);
    assert_eq!(failures(&answer), [("errs", "NoAppsFound"), ("silent", "ResponseToBridgeTimedOut")]);
    assert_eq!(
        member(&answer, "appIntent"),
        r#"{"intent":{"name":"ViewChart","displayName":"View"},"apps":[{"appId":"x","desktopAgent":"answers"}]}"#
    );
    // Too late.
    desk.say(4, "findIntentResponse", "f", "r4", r#"{"error":"NoAppsFound"}"#);
    desk.nothing(1);
    desk.nothing(4);
}

#[test]
fn an_agent_that_leaves_is_not_waited_for() {
    let mut desk = Desk::with(&["asker", "answers", "leaves"]);
    desk.say(1, "findInstancesRequest", "f", "", r#"{"app":{"appId":"x","instanceId":null}}"#);
    desk.say(2, "findInstancesResponse", "f", "r2", r#"{"appIdentifiers":[{"appId":"x","instanceId":"i"}]}"#);
    desk.taken(1);
    desk.leave(3);
    let answer = desk.taken(1).remove(0);
    assert_eq!(failures(&answer), [("leaves", "AgentDisconnected")]);
    assert_eq!(
        answer.payload.to_string(),
        r#"{"appIdentifiers":[{"appId":"x","instanceId":"i","desktopAgent":"answers"}]}"#
    );
}

#[test]
fn if_all_fail_one_error_is_passed_on() {
    let mut desk = Desk::with(&["asker", "silent", "errs"]);
    desk.say(1, "findInstancesRequest", "f", "", r#"{"app":{"appId":"x"}}"#);
    desk.say(3, "findInstancesResponse", "f", "r", r#"{"error":"NoAppsFound"}"#);
    desk.pass(1_500);
    let answer = desk.one(1);
    assert_eq!(answer.payload.to_string(), r#"{"error":"NoAppsFound"}"#);
    assert_eq!(failures(&answer), [("silent", "ResponseToBridgeTimedOut"), ("errs", "NoAppsFound")]);
}

#[test]
fn a_single_agent_finds_nothing() {
    let mut desk = Desk::with(&["alone"]);
    desk.say(1, "findIntentRequest", "f", "", r#"{"intent":"I"}"#);
    let answer = desk.one(1);
    assert_eq!(answer.payload.to_string(), r#"{"appIntent":{"intent":{"name":"I"},"apps":[]}}"#);
    assert_eq!((answer.meta.sources.len(), answer.meta.failures.len()), (0, 0));
    // Nor does one whose only companion leaves.
    let mut desk = Desk::with(&["alone", "leaves"]);
    desk.say(1, "findIntentsByContextRequest", "f", "", r#"{"context":{"type":"t"}}"#);
    desk.leave(2);
    let answer = desk.taken(1).remove(0);
    assert_eq!(answer.payload.to_string(), r#"{"appIntents":[]}"#);
    assert_eq!(failures(&answer), [("leaves", "AgentDisconnected")]);
}

#[test]
fn an_agent_that_never_answers_is_waited_for_less_and_less() {
    let mut desk = Desk::with(&["asker", "answers", "silent"]);
    let mut find = |number: u32| {
        let start_ms = desk.now_ms;
        let id = format!("f{number}");
        desk.say(1, "findInstancesRequest", &id, "", r#"{"app":{"appId":"x"}}"#);
        desk.say(2, "findInstancesResponse", &id, "r", r#"{"appIdentifiers":[]}"#);
        while !desk.sent.contains_key(&1) {
            let due_ms = desk.bridge.poll_timeout().unwrap();
            desk.pass(due_ms - desk.now_ms);
        }
        desk.one(1);
        desk.now_ms - start_ms
    };
    assert_eq!((1..=4).map(&mut find).collect::<Vec<_>>(), [1_500, 1_500, 1_500, 200]);
    // A late answer is a sign of life.
    desk.say(3, "findInstancesResponse", "f4", "r", r#"{"appIdentifiers":[]}"#);
    desk.say(1, "findInstancesRequest", "f5", "", r#"{"app":{"appId":"x"}}"#);
    desk.say(2, "findInstancesResponse", "f5", "r", r#"{"appIdentifiers":[]}"#);
    desk.pass(1_499);
    desk.nothing(1);
}

#[test]
fn an_agent_that_is_silent_for_long_is_disconnected() {
    let mut desk = Desk::with(&["asker", "silent"]);
    for number in 0..3 {
        desk.pass(25_000);
        desk.say(1, "findIntentRequest", &format!("f{number}"), "", r#"{"intent":"I"}"#);
        assert!(desk.closed.is_empty());
        desk.pass(1_500);
    }
    assert!(matches!(desk.closed[&2], Closing::Silent(_)), "{:?}", desk.closed);
    let update = desk.taken(1).pop().unwrap();
    assert_eq!(member(&update, "removeAgent"), r#""silent""#);
}

#[test]
fn one_agent_is_asked_by_name() {
    let mut desk = Desk::with(&["asker", "target", "other"]);
    // The examples of `open` have no destination.
    desk.say(
        1,
        "openRequest",
        "o",
        "",
        r#"{"app":{"appId":"x","desktopAgent":"target"},"context":{"type":"t"}}"#,
    );
    desk.nothing(3);
    let request = desk.one(2);
    // There are agents that take no destination without an app.
    let app = Participant { app_id: Some("x".into()), ..Participant::agent("target") };
    assert_eq!(request.meta.destination, Some(app));
    // It has to start the app first.
    desk.pass(20_000);
    desk.nothing(1);
    desk.say(2, "openResponse", "o", "their-uuid", r#"{"appIdentifier":{"appId":"x","instanceId":"i"}}"#);
    let answer = desk.one(1);
    assert_eq!(
        answer.payload.to_string(),
        r#"{"appIdentifier":{"appId":"x","instanceId":"i","desktopAgent":"target"}}"#
    );
    assert_eq!(answer.meta.response.as_deref(), Some("their-uuid"));
    assert_eq!(names(&answer.meta.sources), ["target"]);
    // Nobody of that name, oneself, and nobody named at all.
    for (id, agent, error) in [
        ("n1", r#""ghost""#, "DesktopAgentNotFound"),
        ("n2", r#""asker""#, "DesktopAgentNotFound"),
        ("n3", "null", "MalformedMessage"),
    ] {
        let payload = format!(r#"{{"app":{{"appId":"x","desktopAgent":{agent}}}}}"#);
        desk.say(1, "getAppMetadataRequest", id, "", &payload);
        assert_eq!(desk.one(1).error().as_deref(), Some(error));
    }
    desk.nothing(2);
}

#[test]
fn who_waits_for_15_s_is_answered_before() {
    let settings =
        BridgeSettings { impatient_providers: vec![Text::from("hurried")], ..BridgeSettings::default() };
    let mut desk = Desk::new(settings);
    desk.join(1, "hurried", "{}");
    desk.join(2, "target", "{}");
    desk.taken(1);
    let app = r#""app":{"appId":"x","desktopAgent":"target"}"#;
    desk.say(1, "openRequest", "o", "", &format!("{{{app}}}"));
    desk.say(
        1,
        "raiseIntentRequest",
        "r",
        "",
        &format!(r#"{{{app},"intent":"I","context":{{"type":"t"}}}}"#),
    );
    desk.pass(13_999);
    desk.nothing(1);
    desk.pass(1);
    let answers = desk.taken(1);
    assert_eq!(failures(&answers[0]), [("target", "AppTimeout")]);
    assert_eq!(failures(&answers[1]), [("target", "IntentDeliveryFailed")]);
    // The others wait for 60 s.
    let app = r#""app":{"appId":"x","desktopAgent":"hurried"}"#;
    desk.say(2, "openRequest", "o2", "", &format!("{{{app}}}"));
    desk.taken(2);
    desk.pass(59_999);
    desk.nothing(2);
    desk.pass(1);
    assert_eq!(failures(&desk.one(2)), [("hurried", "ResponseToBridgeTimedOut")]);
}

#[test]
fn an_intent_is_resolved_and_later_has_a_result() {
    let mut desk = Desk::with(&["raiser", "handler", "other"]);
    let payload =
        r#"{"intent":"I","context":{"type":"t","n":1.0},"app":{"appId":"x","desktopAgent":"handler"}}"#;
    let raise = |desk: &mut Desk, id: &str| {
        desk.say(1, "raiseIntentRequest", id, "", payload);
        assert_eq!(desk.one(2).payload.to_string(), payload);
    };
    let resolve = |desk: &mut Desk, id: &str| {
        desk.say(
            2,
            "raiseIntentResponse",
            id,
            "r",
            r#"{"intentResolution":{"intent":"I","source":{"appId":"x"}}}"#,
        );
    };
    raise(&mut desk, "i1");
    resolve(&mut desk, "i1");
    assert_eq!(
        desk.one(1).payload.to_string(),
        r#"{"intentResolution":{"intent":"I","source":{"appId":"x","desktopAgent":"handler"}}}"#
    );
    // There is no limit to how long a handler may take, and nobody else can answer for it.
    desk.pass(3_600_000);
    let result = r#"{"intentResult":{"context":{"type":"t","appId":"kept"}}}"#;
    desk.say(3, "raiseIntentResultResponse", "i1", "r", result);
    desk.nothing(1);
    desk.say(2, "raiseIntentResultResponse", "i1", "r", result);
    let answer = desk.one(1);
    assert_eq!(answer.message_type, MessageType::RaiseIntentResult);
    assert_eq!(answer.payload.to_string(), result);
    assert_eq!(names(&answer.meta.sources), ["handler"]);
    desk.say(2, "raiseIntentResultResponse", "i1", "r", result);
    desk.nothing(1);
    // A result that overtakes its resolution waits for it.
    raise(&mut desk, "i2");
    desk.say(2, "raiseIntentResultResponse", "i2", "r", "{}");
    desk.nothing(1);
    resolve(&mut desk, "i2");
    let types = desk.taken(1).into_iter().map(|message| message.message_type).collect::<Vec<_>>();
    assert_eq!(types, [MessageType::Response(Exchange::RaiseIntent), MessageType::RaiseIntentResult]);
    // A handler's agent that leaves owes nothing any more.
    raise(&mut desk, "i3");
    resolve(&mut desk, "i3");
    desk.taken(1);
    desk.leave(2);
    let answer = desk.taken(1).remove(0);
    assert_eq!(answer.message_type, MessageType::RaiseIntentResult);
    assert_eq!(answer.meta.request.as_deref(), Some("i3"));
    assert_eq!(failures(&answer), [("handler", "AgentDisconnected")]);
}

#[test]
fn an_intent_that_was_not_delivered_has_no_result() {
    let mut desk = Desk::with(&["raiser", "handler"]);
    let payload = r#"{"intent":"I","context":{"type":"t"},"app":{"appId":"x","desktopAgent":"handler"}}"#;
    desk.say(1, "raiseIntentRequest", "i", "", payload);
    desk.say(2, "raiseIntentResponse", "i", "r", r#"{"error":"TargetAppUnavailable"}"#);
    assert_eq!(desk.one(1).error().as_deref(), Some("TargetAppUnavailable"));
    desk.say(2, "raiseIntentResultResponse", "i", "r", "{}");
    desk.nothing(1);
}

#[test]
fn ids_are_not_used_twice() {
    let mut desk = Desk::with(&["asker", "other", "third"]);
    let find = r#"{"app":{"appId":"x"}}"#;
    desk.say(1, "findInstancesRequest", "f", "", find);
    desk.taken(2);
    desk.taken(3);
    // By somebody else: refused. By the same: one answer is to come, and will do.
    desk.say(2, "findInstancesRequest", "f", "", find);
    assert_eq!(failures(&desk.one(2)), [("other", "MalformedMessage")]);
    desk.say(1, "findInstancesRequest", "f", "", find);
    desk.nothing(1);
    desk.nothing(3);
    desk.say(2, "findInstancesResponse", "f", "r", r#"{"appIdentifiers":[{"appId":"x"}]}"#);
    // The second answer of one agent does not count for the other.
    desk.say(2, "findInstancesResponse", "f", "r", r#"{"appIdentifiers":[{"appId":"y"}]}"#);
    desk.nothing(1);
    desk.say(3, "findInstancesResponse", "f", "r", r#"{"appIdentifiers":[]}"#);
    assert_eq!(
        desk.one(1).payload.to_string(),
        r#"{"appIdentifiers":[{"appId":"x","desktopAgent":"other"}]}"#
    );
    // After its end, too: an answer to the first may still be on its way.
    desk.say(1, "findInstancesRequest", "f", "", find);
    assert_eq!(desk.one(1).error().as_deref(), Some("MalformedMessage"));
}

#[test]
fn an_answer_counts_only_from_who_was_asked() {
    let mut desk = Desk::with(&["asker", "target", "other"]);
    let app = r#"{"app":{"appId":"x","desktopAgent":"target"}}"#;
    desk.say(1, "getAppMetadataRequest", "g", "", app);
    desk.taken(2);
    for agent in [3, 1] {
        desk.say(agent, "getAppMetadataResponse", "g", "r", r#"{"appMetadata":{"appId":"forged"}}"#);
        desk.nothing(1);
    }
    desk.say(2, "getAppMetadataResponse", "g", "r", r#"{"appMetadata":{"appId":"x"}}"#);
    assert_eq!(desk.one(1).payload.to_string(), r#"{"appMetadata":{"appId":"x","desktopAgent":"target"}}"#);
}

#[test]
fn malformed_messages_are_answered_if_they_can_be() {
    let mut desk = Desk::with(&["a", "b"]);
    for (message_type, payload, answer_type) in [
        ("broadcastRequest", r#"{"channelId":"red","context":{}}"#, "broadcastRequest"),
        ("findIntentRequest", "{}", "findIntentResponse"),
        ("findIntentRequest", "null", "findIntentResponse"),
        ("nonsenseRequest", "{}", "nonsenseRequest"),
        ("handshake", "{}", "handshake"),
    ] {
        desk.say(1, message_type, "m", "", payload);
        let answer = desk.one(1);
        assert_eq!(answer.message_type.as_str(), answer_type);
        assert_eq!(answer.payload.to_string(), r#"{"error":"MalformedMessage"}"#);
        assert_eq!(failures(&answer), [("a", "MalformedMessage")]);
        assert_eq!(answer.meta.request.as_deref(), Some("m"));
        desk.nothing(2);
    }
    // An answer that is none counts as an error of who sent it.
    desk.say(1, "findInstancesRequest", "f", "", r#"{"app":{"appId":"x"}}"#);
    desk.taken(2);
    desk.say(2, "findInstancesResponse", "f", "r", r#"{"appIdentifiers":{}}"#);
    assert_eq!(failures(&desk.one(2)), [("b", "MalformedMessage")]);
    assert_eq!(failures(&desk.one(1)), [("b", "MalformedMessage")]);
    // What names no request is dropped, but not for ever.
    for _ in 0..9 {
        desk.frame(1, r#"{"type":"broadcastRequest","payload":{}}"#);
    }
    desk.say(1, "broadcastRequest", "ok", "", r#"{"channelId":"red","context":{"type":"t"}}"#);
    assert!(desk.closed.is_empty());
    for _ in 0..10 {
        desk.frame(1, "\u{0}");
    }
    assert_eq!(desk.closed[&1], Closing::Unreadable(10));
}

#[test]
fn what_one_agent_nests_another_can_read() {
    let mut desk = Desk::with(&["a", "b"]);
    let mut broadcast = |levels: usize| {
        let nested = format!("{}{}", "[".repeat(levels), "]".repeat(levels));
        let payload = format!(r#"{{"channelId":"c","context":{{"type":"t{levels}","n":{nested}}}}}"#);
        desk.say(1, "broadcastRequest", "b", "", &payload);
        desk.taken(2).len()
    };
    assert_eq!((broadcast(60), broadcast(64)), (1, 0));
    let too_deep = Problem::Json(mesh_model::JsonError::TooDeep { max: 64 });
    assert!(desk.notices.contains(&Notice::NotTaken(too_deep)), "{:?}", desk.notices);
    // The state of the channels has it deeper than the broadcast had.
    desk.join(3, "c", "{}");
    assert!(desk.bridge.channels().contexts(&Text::from("c")).count() == 1);
}

#[test]
fn private_channels_go_to_who_is_named() {
    let mut desk = Desk::with(&["a", "b", "c"]);
    for name in [
        "broadcast",
        "eventListenerAdded",
        "eventListenerRemoved",
        "onAddContextListener",
        "onUnsubscribe",
        "onDisconnect",
    ] {
        let text = format!(
            r#"{{"type":"PrivateChannel.{name}","payload":{{"channelId":"p","contextType":null,"context":{{"type":"t"}}}},"meta":{{"requestUuid":"p","source":{{"appId":"x","instanceId":"i"}},"destination":{{"appId":"y","desktopAgent":"b"}}}}}}"#
        );
        desk.frame(1, &text);
        let message = desk.one(2);
        assert_eq!(message.message_type.as_str(), format!("PrivateChannel.{name}"));
        assert_eq!(message.meta.source.unwrap().desktop_agent.as_deref(), Some("a"));
        assert_eq!(message.meta.destination.unwrap().app_id.as_deref(), Some("y"));
        desk.nothing(3);
        // To nobody that is here: nothing to say.
        desk.frame(1, &text.replace(r#""b""#, r#""ghost""#));
        desk.nothing(1);
        // Without a destination: to everybody else.
        desk.frame(1, &text.replace(r#""desktopAgent":"b""#, r#""desktopAgent":null"#));
        desk.one(2);
        desk.one(3);
    }
    assert!(desk.bridge.channels().is_empty(), "private channels are not kept");
}

#[test]
fn who_is_not_let_in_is_told() {
    let settings = BridgeSettings {
        authentication: Authentication::Tokens { own: Some(Text::from("bridge-token")) },
        limits: BridgeLimits { agents_max: 3, ..BridgeLimits::default() },
        ..BridgeSettings::default()
    };
    let mut desk = Desk::new(settings);
    let handshake = r#"{"type":"handshake","payload":{"requestedName":"n","implementationMetadata":{},"authToken":"secret"},"meta":{"requestUuid":"h"}}"#;
    desk.connect(1);
    let hello = desk.one(1);
    assert_eq!(member(&hello, "authRequired"), "true");
    assert_eq!(member(&hello, "authToken"), r#""bridge-token""#);
    desk.frame(1, handshake);
    assert_eq!(desk.tokens, [(1, Some(Text::from("secret")))]);
    let verdict = Verdict::Refused(Text::from("the token has expired"));
    desk.input(Input::Checked { agent: AgentId(1), verdict });
    let refusal = desk.one(1);
    assert_eq!(refusal.message_type, MessageType::AuthenticationFailed);
    assert_eq!(refusal.meta.request.as_deref(), Some("h"));
    assert_eq!(refusal.payload.to_string(), r#"{"message":"the token has expired"}"#);
    assert!(desk.closed.contains_key(&1));
    // The next has the right one; no handshake at all, and one too many.
    for agent in [2, 3, 4, 5] {
        desk.connect(agent);
    }
    desk.frame(2, handshake);
    desk.input(Input::Checked { agent: AgentId(2), verdict: Verdict::Admitted });
    assert_eq!(desk.bridge.name(AgentId(2)).unwrap(), "n");
    assert!(desk.taken(5).pop().unwrap().payload.to_string().contains("bridge_agents_max (3)"));
    desk.frame(4, r#"{"type":"broadcastRequest","payload":{},"meta":{"requestUuid":"x"}}"#);
    assert!(desk.closed.contains_key(&4) && !desk.closed.contains_key(&3));
    desk.pass(10_000);
    assert!(desk.closed.contains_key(&3) && !desk.closed.contains_key(&2));
}

#[test]
fn an_agent_without_a_connection_is_one_like_others() {
    let mut desk = Desk::with(&["a"]);
    let joined = Input::Joined {
        agent: AgentId(2),
        requested_name: Text::from("node"),
        implementation: json(r#"{"provider":"deskmesh"}"#),
        channels: ChannelsState::default(),
    };
    desk.input(joined);
    assert_eq!(member(&desk.one(1), "addAgent"), r#""node""#);
    assert_eq!(member(&desk.one(2), "addAgent"), r#""node""#);
    let ask = Message::request(Exchange::FindInstances, json(r#"{"app":{"appId":"x"}}"#), None);
    desk.input(Input::Message { agent: AgentId(2), message: ask });
    let request = desk.one(1);
    assert_eq!(request.meta.source, Some(Participant::agent("node")));
    let id = request.meta.request.unwrap();
    desk.say(1, "findInstancesResponse", &id, "r", r#"{"appIdentifiers":[]}"#);
    assert_eq!(desk.one(2).meta.request, Some(id));
    desk.say(1, "findInstancesRequest", "f", "", r#"{"app":{"appId":"x"}}"#);
    let id = desk.one(2).meta.request.unwrap();
    let answer =
        Message::response(Exchange::FindInstances, id, json(r#"{"appIdentifiers":[{"appId":"x"}]}"#));
    desk.input(Input::Message { agent: AgentId(2), message: answer });
    assert_eq!(
        desk.one(1).payload.to_string(),
        r#"{"appIdentifiers":[{"appId":"x","desktopAgent":"node"}]}"#
    );
}

#[test]
fn too_many_requests_and_results() {
    let limits = BridgeLimits { requests_max: 2, results_max: 1, ..BridgeLimits::default() };
    let mut desk = Desk::new(BridgeSettings { limits, ..BridgeSettings::default() });
    desk.join(1, "a", "{}");
    desk.join(2, "b", "{}");
    desk.taken(1);
    for (id, answers) in [("f1", 0), ("f2", 0), ("f3", 1)] {
        desk.say(1, "findIntentRequest", id, "", r#"{"intent":"I"}"#);
        assert_eq!(desk.taken(1).len(), answers);
    }
    assert_eq!(desk.notices.last(), Some(&Notice::Limit("bridge_requests_max")));
    desk.pass(1_500);
    desk.taken(1);
    for id in ["i1", "i2"] {
        let payload = r#"{"intent":"I","context":{"type":"t"},"app":{"appId":"x","desktopAgent":"b"}}"#;
        desk.say(1, "raiseIntentRequest", id, "", payload);
        desk.say(
            2,
            "raiseIntentResponse",
            id,
            "r",
            r#"{"intentResolution":{"intent":"I","source":{"appId":"x"}}}"#,
        );
    }
    let ended = desk.taken(1).pop().unwrap();
    assert_eq!(
        (ended.message_type, ended.meta.request.as_deref()),
        (MessageType::RaiseIntentResult, Some("i1"))
    );
}

mod agent {
    use super::*;

    struct Seeker {
        agent: BridgeAgent,
        now_ms: u64,
    }

    impl Seeker {
        fn new(ports: std::ops::RangeInclusive<u16>) -> Self {
            let mut drawn = 0;
            let uuids = Uuids::new(move || {
                drawn += 1;
                drawn
            });
            let settings =
                AgentSettings::new(Text::from("seeker"), json(r#"{"provider":"p","appMetadata":{}}"#));
            Self { agent: BridgeAgent::new(AgentSettings { ports, ..settings }, uuids), now_ms: 0 }
        }

        fn input(&mut self, input: AgentInput) -> Vec<AgentOutput> {
            self.agent.handle(input, self.now_ms);
            self.outputs()
        }

        fn frame(&mut self, text: &str) -> Vec<AgentOutput> {
            self.input(AgentInput::Frame(Bytes::copy_from_slice(text.as_bytes())))
        }

        /// Lets time pass until something is due.
        fn wait(&mut self) -> (u64, Vec<AgentOutput>) {
            let due_ms = self.agent.poll_timeout().unwrap();
            let waited = due_ms.saturating_sub(self.now_ms);
            self.now_ms += waited;
            self.agent.handle_timeout(self.now_ms);
            (waited, self.outputs())
        }

        fn outputs(&mut self) -> Vec<AgentOutput> {
            std::iter::from_fn(|| self.agent.poll_output()).collect()
        }

        /// Joins the bridge on the port that is dialled next.
        fn join(&mut self, name: &str) -> Message {
            self.wait();
            self.input(AgentInput::Opened);
            self.frame(HELLO);
            let outputs =
                self.input(AgentInput::Join { channels: ChannelsState::default(), auth_token: None });
            let [AgentOutput::Frame(handshake)] = &outputs[..] else { panic!("{outputs:?}") };
            let handshake = Message::decode(handshake).unwrap();
            let request = handshake.meta.request.clone().unwrap();
            // Somebody else's update does not name this one.
            assert_eq!(self.frame(&update("other", "other-request")), []);
            let outputs = self.frame(&update(name, &request));
            assert!(
                matches!(&outputs[..], [AgentOutput::Joined { .. }, AgentOutput::Message(_)]),
                "{outputs:?}"
            );
            assert_eq!(self.agent.name().unwrap(), name);
            handshake
        }
    }

    const HELLO: &str = r#"{"type":"hello","payload":{"desktopAgentBridgeVersion":"1","supportedFDC3Versions":["2.2"],"authRequired":true,"authToken":null},"meta":{"timestamp":"t"}}"#;

    fn update(name: &str, request: &str) -> String {
        format!(
            r#"{{"type":"connectedAgentsUpdate","payload":{{"addAgent":"{name}","allAgents":[{{"desktopAgent":"{name}"}}],"channelsState":{{}}}},"meta":{{"requestUuid":"{request}","responseUuid":"u"}}}}"#
        )
    }

    fn dial(port: u16) -> AgentOutput {
        AgentOutput::Dial { port }
    }

    #[test]
    fn ports_are_tried_in_order() {
        let mut seeker = Seeker::new(4475..=4477);
        assert_eq!(seeker.wait(), (0, vec![dial(4475)]));
        assert_eq!(seeker.input(AgentInput::Closed), [AgentOutput::HangUp, dial(4476)]);
        // Something that opens and says nothing, and something that is no bridge.
        seeker.input(AgentInput::Opened);
        assert_eq!(seeker.wait(), (750, vec![AgentOutput::HangUp, dial(4477)]));
        seeker.input(AgentInput::Opened);
        let strange = r#"{"type":"hello","payload":{},"meta":{}}"#;
        assert_eq!(seeker.frame(strange), [AgentOutput::HangUp]);
        assert_eq!(seeker.wait(), (5_000, vec![dial(4475)]));
        seeker.input(AgentInput::Opened);
        let greeted = AgentOutput::Greeted { port: 4475, auth_required: true, auth_token: None };
        assert_eq!(seeker.frame(HELLO), [greeted]);
        assert_eq!(seeker.input(AgentInput::Decline), [AgentOutput::HangUp, dial(4476)]);
        assert_eq!(AgentSettings::PORTS.count(), 101);
    }

    #[test]
    fn an_agent_that_is_turned_away_looks_further() {
        let mut seeker = Seeker::new(4475..=4476);
        seeker.wait();
        seeker.input(AgentInput::Opened);
        seeker.frame(HELLO);
        seeker.input(AgentInput::Join { channels: ChannelsState::default(), auth_token: None });
        let refused = r#"{"type":"authenticationFailed","payload":{"message":"no"},"meta":{"requestUuid":"x","responseUuid":"y"}}"#;
        let turned_away = AgentOutput::TurnedAway { port: 4475, why: Text::from("no") };
        assert_eq!(seeker.frame(refused), [turned_away, AgentOutput::HangUp, dial(4476)]);
    }

    #[test]
    fn it_joins_asks_and_comes_back_under_its_name() {
        let mut seeker = Seeker::new(4475..=4475);
        let handshake = seeker.join("seeker-2");
        assert_eq!(
            handshake.payload.to_string(),
            r#"{"implementationMetadata":{"provider":"p"},"requestedName":"seeker","channelsState":{}}"#
        );
        assert_eq!(seeker.agent.agents(), [json(r#"{"desktopAgent":"seeker-2"}"#)]);
        let find = || Message::request(Exchange::FindInstances, json(r#"{"app":{"appId":"x"}}"#), None);
        let asked = |outputs: Vec<AgentOutput>| match &outputs[..] {
            [AgentOutput::Frame(frame)] => Message::decode(frame).unwrap().meta.request.unwrap(),
            other => panic!("{other:?}"),
        };
        let request = asked(seeker.input(AgentInput::Send(find())));
        let answer = format!(
            r#"{{"type":"findInstancesResponse","payload":{{"appIdentifiers":[]}},"meta":{{"requestUuid":"{request}","responseUuid":"u"}}}}"#
        );
        assert!(matches!(&seeker.frame(&answer)[..], [AgentOutput::Message(_)]));
        assert_eq!(seeker.frame(&answer), [], "only once");
        // A bridge that does not answer.
        let request = asked(seeker.input(AgentInput::Send(find())));
        let (waited, outputs) = seeker.wait();
        let [AgentOutput::Message(message)] = &outputs[..] else { panic!("{outputs:?}") };
        assert_eq!(waited, 3_000);
        assert_eq!(message.error().as_deref(), Some("ResponseToBridgeTimedOut"));
        assert_eq!(message.meta.request.as_ref(), Some(&request));
        // A bridge that goes away.
        asked(seeker.input(AgentInput::Send(find())));
        let outputs = seeker.input(AgentInput::Closed);
        let [AgentOutput::Message(message), AgentOutput::Left] = &outputs[..] else { panic!("{outputs:?}") };
        assert_eq!(message.error().as_deref(), Some("NotConnectedToBridge"));
        let outputs = seeker.input(AgentInput::Send(find()));
        let [AgentOutput::Message(message)] = &outputs[..] else { panic!("{outputs:?}") };
        assert_eq!(message.error().as_deref(), Some("NotConnectedToBridge"));
        assert_eq!(seeker.agent.poll_timeout(), Some(seeker.now_ms + 1_000));
        let handshake = seeker.join("seeker-2");
        assert_eq!(member(&handshake, "requestedName"), r#""seeker-2""#);
    }

    /// Both sides of this crate, together.
    #[test]
    fn a_bridge_and_its_agent_understand_each_other() {
        let mut desk = Desk::with(&["host"]);
        let mut seeker = Seeker::new(4475..=4475);
        seeker.now_ms = desk.now_ms;
        seeker.wait();
        seeker.input(AgentInput::Opened);
        desk.connect(2);
        let carry = |desk: &mut Desk, seeker: &mut Seeker, mut outputs: Vec<AgentOutput>| {
            let mut messages = Vec::new();
            while !outputs.is_empty() || desk.sent.contains_key(&2) {
                for output in std::mem::take(&mut outputs) {
                    match output {
                        AgentOutput::Frame(frame) => desk.input(Input::Frame { agent: AgentId(2), frame }),
                        AgentOutput::Greeted { .. } => {
                            let channels = ChannelsState::default();
                            outputs.extend(seeker.input(AgentInput::Join { channels, auth_token: None }));
                        }
                        AgentOutput::Message(message) => messages.push(message),
                        other => assert!(matches!(other, AgentOutput::Joined { .. }), "{other:?}"),
                    }
                }
                for message in desk.taken(2) {
                    outputs.extend(seeker.input(AgentInput::Frame(message.encode())));
                }
            }
            messages
        };
        carry(&mut desk, &mut seeker, Vec::new());
        assert_eq!(seeker.agent.name().unwrap(), "seeker");
        let payload =
            json(r#"{"intent":"I","context":{"type":"t"},"app":{"appId":"x","desktopAgent":"host"}}"#);
        let outputs = seeker.input(AgentInput::Send(Message::request(Exchange::RaiseIntent, payload, None)));
        carry(&mut desk, &mut seeker, outputs);
        let id = desk.taken(1).pop().unwrap().meta.request.unwrap();
        desk.say(
            1,
            "raiseIntentResponse",
            &id,
            "r",
            r#"{"intentResolution":{"intent":"I","source":{"appId":"x"}}}"#,
        );
        desk.say(1, "raiseIntentResultResponse", &id, "r", "{}");
        let types = carry(&mut desk, &mut seeker, Vec::new()).into_iter().map(|message| message.message_type);
        assert_eq!(
            types.collect::<Vec<_>>(),
            [MessageType::Response(Exchange::RaiseIntent), MessageType::RaiseIntentResult]
        );
    }
}
