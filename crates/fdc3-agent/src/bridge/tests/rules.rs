//! What may cross.

use super::*;

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

#[test]
fn rules_hold_for_agents_on_another_bridge_too() {
    let mut desktop = Desktop::new();
    desktop.other_node("desk-b");
    desktop.other_bridge("desk-b", r#"["y"]"#);
    desktop.agent.set_bridge_rules(BridgeRules(vec![rule(Some(Direction::In), "", "", "far", false)]));
    assert_eq!(desktop.asked(Exchange::FindIntent, r#"{"intent":"Ask"}"#), []);
    let found = r#"{"appIntent":{"intent":{"name":"Ask"},"apps":[{"appId":"far","desktopAgent":"y@desk-b"},{"appId":"free","desktopAgent":"y@desk-b"}]}}"#;
    desktop.call_ends(found);
    let told = &desktop.said.last().unwrap().payload;
    assert_eq!(at(told, "appIntent.apps.0.appId"), "free@y@desk-b");
    assert_eq!(told.member("appIntent").unwrap().member("apps").unwrap().elements().unwrap().len(), 1);
    let open = r#"{"app":{"appId":"far@y@desk-b","desktopAgent":"own"}}"#;
    assert_eq!(desktop.asked(Exchange::Open, open)[0].error().as_deref(), Some("AppNotFound"));
    assert_eq!(desktop.kept, ["1 true from the bridge: app `far`"]);
    assert!(desktop.calls.is_empty());
}
