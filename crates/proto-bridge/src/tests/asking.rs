//! Requests, and what comes of them.

use super::*;

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
