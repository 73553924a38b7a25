//! A node of a mesh: several on one bridge, and agents on the bridges of other nodes.

use super::*;

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

/// What the last call to another desk asks.
fn last_call(desktop: &Desktop) -> Json {
    desktop.calls.last().expect("a call").1.clone()
}

#[test]
fn an_agent_finds_and_uses_the_apps_of_one_on_another_bridge() {
    let mut desktop = Desktop::new();
    desktop.other_node("desk-b");
    desktop.other_bridge("desk-b", r#"["x","y"]"#);
    // Its own bridge asks whoever is there by itself.
    assert_eq!(desktop.asked(Exchange::FindIntent, r#"{"intent":"Ask"}"#), []);
    let call = last_call(&desktop);
    assert_eq!(at(&call, "exchange"), "findIntentRequest");
    assert_eq!(at(&call, "source.desktopAgent"), "x@desk-a");
    let found = r#"{"appIntent":{"intent":{"name":"Ask"},"apps":[{"appId":"far","instanceId":"i","desktopAgent":"y@desk-b"}]}}"#;
    desktop.call_ends(found);
    let told = desktop.said.last().unwrap();
    assert_eq!(at(&told.payload, "appIntent.apps.0.appId"), "far@y@desk-b");
    assert_eq!(at(&told.payload, "appIntent.apps.0.desktopAgent"), "own");
    // What it was told is what it may ask for.
    let app = r#""app":{"appId":"far@y@desk-b","instanceId":"i","desktopAgent":"own"}"#;
    for (exchange, answer, place) in [
        (
            Exchange::FindInstances,
            r#"{"appIdentifiers":[{"appId":"far","instanceId":"i","desktopAgent":"y@desk-b"}]}"#,
            "appIdentifiers.0.appId",
        ),
        (
            Exchange::GetAppMetadata,
            r#"{"appMetadata":{"appId":"far","instanceId":"i","desktopAgent":"y@desk-b"}}"#,
            "appMetadata.appId",
        ),
    ] {
        assert_eq!(desktop.asked(exchange, &format!("{{{app}}}")), []);
        let call = last_call(&desktop);
        assert_eq!((at(&call, "agent"), at(&call, "payload.app.appId")), ("y".into(), "far".into()));
        desktop.call_ends(answer);
        assert_eq!(at(&desktop.said.last().unwrap().payload, place), "far@y@desk-b");
    }
    assert_eq!(desktop.asked(Exchange::Open, &format!("{{{app}}}")), []);
    let call = last_call(&desktop);
    assert_eq!(
        (at(&call, "op"), at(&call, "agent"), at(&call, "appId")),
        ("open".into(), "y".into(), "far".into())
    );
    desktop.call_ends(r#"{"appIdentifier":{"appId":"far","instanceId":"i","desktopAgent":"y@desk-b"}}"#);
    assert_eq!(at(&desktop.said.last().unwrap().payload, "appIdentifier.appId"), "far@y@desk-b");
    // Who is on this bridge is asked on it, and who is on none cannot be.
    for wrong in ["foreign@x", "far@z@desk-b", "far@y@desk-c"] {
        let payload = format!(r#"{{"app":{{"appId":"{wrong}","desktopAgent":"own"}}}}"#);
        assert!(desktop.asked(Exchange::GetAppMetadata, &payload)[0].error().is_some(), "{wrong}");
    }
}

#[test]
fn a_private_channel_of_an_agent_on_another_bridge() {
    let mut desktop = Desktop::new();
    desktop.other_node("desk-b");
    desktop.other_bridge("desk-b", r#"["x"]"#);
    let raise = r#"{"intent":"Ask","context":{"type":"x.ask"},"app":{"appId":"far@x@desk-b","instanceId":"i","desktopAgent":"own"}}"#;
    assert_eq!(desktop.asked(Exchange::RaiseIntent, raise), []);
    let call = last_call(&desktop);
    // Agents of one name are on both bridges.
    assert_eq!(at(&call, "by"), "\0x@desk-a\0foreign\0i1");
    let id = at(&call, "raise");
    desktop.call_ends(r#"{"intentResolution":{"intent":"Ask","source":{"appId":"far","instanceId":"i","desktopAgent":"x@desk-b"}}}"#);
    assert_eq!(at(&desktop.said.last().unwrap().payload, "intentResolution.source.appId"), "far@x@desk-b");
    let channel = r#"{"channel":{"id":"stream","type":"private"}}"#;
    let result = format!(
        r#"{{"op":"batch","ops":[{{"op":"result","raise":"{id}","result":{channel},"host":"desk-b"}}]}}"#
    );
    desktop.called("desk-b", &result);
    assert_eq!(at(&desktop.said.last().unwrap().payload, "intentResult.channel.id"), "stream");
    // What its app does is told to the node of the other, under that name.
    desktop.asked(Exchange::PrivateOnAddContextListener, r#"{"channelId":"stream","contextType":null}"#);
    let call = last_call(&desktop);
    assert_eq!(
        (at(&call, "ops.0.op"), at(&call, "ops.0.by")),
        ("did".into(), "\0x@desk-a\0foreign\0i1".into())
    );
    // And what the other does comes here, once.
    let cast = r#"{"op":"batch","ops":[{"op":"cast","channel":"stream","by":"\u0000x@desk-b\u0000far\u0000i","context":{"type":"x.a"},"time":1}]}"#;
    let said = desktop.said.len();
    desktop.called("desk-b", cast);
    let [told] = &desktop.said[said..] else { panic!("{:?}", &desktop.said[said..]) };
    assert_eq!(told.message_type, MessageType::Request(Exchange::PrivateBroadcast));
    assert_eq!(told.meta.source.as_ref().unwrap().app_id.as_deref(), Some("far@x@desk-b"));
    assert_eq!(told.meta.destination, Some(app_of("x")));
}

#[test]
fn what_an_agent_asks_of_another_bridge_does_not_take_longer_than_its_own_waits() {
    let mut desktop = Desktop::new();
    desktop.other_node("desk-b");
    desktop.other_bridge("desk-b", r#"["y"]"#);
    assert_eq!(desktop.asked(Exchange::FindIntent, r#"{"intent":"Quote"}"#), []);
    desktop.pass(Limits::default().bridge_relayed_ms);
    let told = desktop.said.last().unwrap();
    assert_eq!(at(&told.payload, "appIntent.apps.0.appId"), "quoter");
    assert_eq!(desktop.said.len(), 1);
}

#[test]
fn what_has_been_passed_on_is_not_passed_on_again() {
    let of_mesh = r#"{"desktopAgent":"b","deskmesh":{"node":"desk-b","user":"ann"}}"#;
    let of_another = r#"{"desktopAgent":"n","deskmesh":{"node":"elsewhere","user":"bob"}}"#;
    let mut desktop =
        Desktop::with(Limits::default(), &format!(r#"{{"desktopAgent":"x"}},{of_another},{of_mesh}"#));
    desktop.other_node("desk-c");
    desktop.other_bridge("desk-c", r#"["y"]"#);
    let asked = |desktop: &mut Desktop, agent: &str, app_id: &str| {
        let source = Participant { app_id: Some(app_id.into()), ..app_of(agent) };
        let (said, calls) = (desktop.said.len(), desktop.calls.len());
        let request = MessageType::Request(Exchange::FindIntent);
        desktop.receive(request, r#"{"intent":"Quote"}"#, "q", Some(source));
        (desktop.said.len() - said, desktop.calls.len() - calls)
    };
    assert_eq!(asked(&mut desktop, "x", "foreign"), (0, 1));
    // A node of another mesh may be on two bridges of this one, and an app's name tells where it is from.
    for (agent, app_id) in [("n", "foreign"), ("x", "foreign@y@desk-c"), ("x", "foreign@desk-c")] {
        assert_eq!(asked(&mut desktop, agent, app_id), (1, 0), "{agent} {app_id}");
    }
}
