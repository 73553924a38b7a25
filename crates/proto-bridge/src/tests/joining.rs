//! Coming and going.

use super::*;

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
fn who_is_not_let_in_is_told() {
    let settings = BridgeSettings {
        authentication: Authentication::Tokens,
        limits: BridgeLimits { agents_max: 3, ..BridgeLimits::default() },
        ..BridgeSettings::default()
    };
    let mut desk = Desk::new(settings);
    let handshake = r#"{"type":"handshake","payload":{"requestedName":"n","implementationMetadata":{},"authToken":"secret"},"meta":{"requestUuid":"h"}}"#;
    let auth_token = Some(Text::from("bridge-token"));
    desk.input(Input::Connected { agent: AgentId(1), auth_token });
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
