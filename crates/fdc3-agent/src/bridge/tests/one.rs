//! One node and the agents on its bridge.

use super::*;

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
fn what_fdc3_3_says_about_a_context_crosses_to_who_knows_it() {
    const GIVEN: &str = r#"{"traceId":"t","signature":{"alg":"x","n":1.0},"custom":{"a":[]}}"#;
    let mut desktop = Desktop::new();
    let (one, _) = desktop.app(1, "one");
    let broadcast =
        format!(r#"{{"channelId":"fdc3.channel.1","context":{{"type":"x.a"}},"metadata":{GIVEN}}}"#);
    let app = r#""app":{"appId":"foreign","instanceId":"i1","desktopAgent":"x"}"#;
    let raise = format!(r#"{{"intent":"Ask","context":{{"type":"x.ask"}},{app},"metadata":{GIVEN}}}"#);
    let open = format!(r#"{{{app},"context":{{"type":"x.ask"}},"metadata":{GIVEN}}}"#);
    // Nobody knows what it knows before it has said some itself.
    desktop.ask(one, "broadcastRequest", &broadcast);
    assert!(desktop.said.last().unwrap().payload.member("metadata").is_none());
    desktop.asked(Exchange::Broadcast, &broadcast);
    for (name, payload) in
        [("broadcastRequest", &broadcast), ("openRequest", &open), ("raiseIntentRequest", &raise)]
    {
        desktop.ask(one, name, payload);
        assert_eq!(at(&desktop.said.last().unwrap().payload, "metadata"), GIVEN, "{name}");
    }
    // What comes of it has some, too.
    let request = desktop.said.last().unwrap().meta.request.clone().unwrap();
    let resolution =
        format!(r#"{{"intentResolution":{{"intent":"Ask","source":{}}}}}"#, app_of("x").to_json());
    desktop.answer(Exchange::RaiseIntent, &resolution);
    let result = format!(r#"{{"intentResult":{{"context":{{"type":"x.b"}}}},"resultMetadata":{GIVEN}}}"#);
    desktop.receive(MessageType::RaiseIntentResult, &result, &request, None);
    let (_, told) = desktop.frames.last().unwrap();
    assert_eq!(at(told, "payload.resultMetadata.signature"), r#"{"alg":"x","n":1.0}"#);
    // And so has what the agent says; who it is and when, nobody says for this one.
    desktop.ask(one, "addContextListenerRequest", r#"{"channelId":"fdc3.channel.1","contextType":null}"#);
    desktop.ask(one, "joinUserChannelRequest", r#"{"channelId":"fdc3.channel.1"}"#);
    let from = r#"{"traceId":"u","custom":{},"source":{"appId":"lie"},"timestamp":"1970"}"#;
    let said = format!(r#"{{"channelId":"fdc3.channel.1","context":{{"type":"x.c"}},"metadata":{from}}}"#);
    desktop.asked(Exchange::Broadcast, &said);
    let (_, told) = desktop.frames.last().unwrap();
    assert_eq!(
        (at(told, "payload.metadata.traceId"), at(told, "payload.metadata.custom")),
        ("u".into(), "{}".into())
    );
    assert_eq!(at(told, "payload.metadata.source.appId"), "foreign");
    assert_ne!(at(told, "payload.metadata.timestamp"), "1970");
    // One that does not know it may refuse a broadcast that has more than it knows; a node does not.
    let others = |more: &str| format!(r#"{{"desktopAgent":"x"}},{{"desktopAgent":"y"{more}}}"#);
    let node = r#","deskmesh":{"node":"elsewhere"}"#;
    for (more, knows) in [("", false), (node, true)] {
        desktop.update(&others(more), "{}");
        desktop.ask(one, "broadcastRequest", &broadcast);
        assert_eq!(desktop.said.last().unwrap().payload.member("metadata").is_some(), knows);
        let there = open.replace(r#""desktopAgent":"x""#, r#""desktopAgent":"y""#);
        for (open, knows) in [(&open, true), (&there, knows)] {
            desktop.ask(one, "openRequest", open);
            assert_eq!(desktop.said.last().unwrap().payload.member("metadata").is_some(), knows);
        }
    }
}
