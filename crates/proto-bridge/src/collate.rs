//! What is in requests and answers: checked, marked with who answers, and put together.

use std::collections::BTreeMap;

use mesh_model::json::{Edit, edited};
use mesh_model::{Json, Key, Kind, Text};

use crate::channels::context_type;
use crate::message::{Exchange, Object, array};

/// Returns the member that a request lacks, if it lacks one (Bridging, *Handling Malformed Messages*).
pub(crate) fn missing(exchange: Exchange, payload: &Json) -> Option<&'static str> {
    let text = |name| payload.member(name).and_then(|value| value.as_text()).is_some();
    let context = || payload.member("context").is_some_and(|context| context_type(&context).is_some());
    let app = || {
        let app = payload.member("app");
        app.and_then(|app| app.member("appId")).is_some_and(|id| id.kind() == Kind::String)
    };
    let needs: &[(&'static str, bool)] = match exchange {
        Exchange::Broadcast | Exchange::PrivateBroadcast => {
            &[("payload.channelId", text("channelId")), ("payload.context", context())]
        }
        Exchange::FindIntent => &[("payload.intent", text("intent"))],
        Exchange::FindIntentsByContext => &[("payload.context", context())],
        Exchange::FindInstances | Exchange::GetAppMetadata | Exchange::Open => &[("payload.app", app())],
        Exchange::RaiseIntent => {
            &[("payload.intent", text("intent")), ("payload.context", context()), ("payload.app", app())]
        }
        Exchange::PrivateEventListenerAdded
        | Exchange::PrivateEventListenerRemoved
        | Exchange::PrivateOnAddContextListener
        | Exchange::PrivateOnUnsubscribe
        | Exchange::PrivateOnDisconnect => &[("payload.channelId", text("channelId"))],
    };
    needs.iter().find(|(_, there)| !there).map(|(name, _)| *name)
}

/// Returns the payload of a successful answer with each app in it marked as that agent's, or `None` if the
/// payload is no such answer. Contexts are not looked into.
pub(crate) fn stamped(exchange: Exchange, payload: &Json, agent: &Text) -> Option<Json> {
    match exchange {
        Exchange::FindIntent => replaced(payload, "appIntent", |intent| stamped_intent(intent, agent)),
        Exchange::FindIntentsByContext => {
            replaced(payload, "appIntents", |intents| each(intents, |intent| stamped_intent(intent, agent)))
        }
        Exchange::FindInstances => {
            replaced(payload, "appIdentifiers", |apps| each(apps, |app| stamped_app(app, agent)))
        }
        Exchange::GetAppMetadata => replaced(payload, "appMetadata", |app| stamped_app(app, agent)),
        Exchange::Open => replaced(payload, "appIdentifier", |app| stamped_app(app, agent)),
        Exchange::RaiseIntent => replaced(payload, "intentResolution", |resolution| {
            replaced(resolution, "source", |app| stamped_app(app, agent))
        }),
        _ => None,
    }
}

/// Puts the successful answers to a request together (Bridging, *Collating Responses*). Without any, nobody
/// has anything.
pub(crate) fn collated(exchange: Exchange, intent: Option<&Json>, answers: &[&Json]) -> Json {
    let all =
        |name: &'static str| answers.iter().filter_map(|answer| answer.member(name)).collect::<Vec<_>>();
    let mut payload = Object::new();
    match exchange {
        Exchange::FindInstances => {
            let apps = all("appIdentifiers");
            payload.value("appIdentifiers", &array(apps.iter().filter_map(Json::elements).flatten()));
        }
        Exchange::FindIntentsByContext => {
            let intents = all("appIntents");
            payload.value("appIntents", &merged(intents.iter().filter_map(Json::elements).flatten()));
        }
        _ => {
            let intents = all("appIntent");
            let first = intents.first().and_then(|first| first.member("intent"));
            let asked = || {
                let mut object = Object::new();
                object.value("name", intent.unwrap_or(&Json::null()));
                object.end()
            };
            let mut app_intent = Object::new();
            app_intent.value("intent", &first.unwrap_or_else(asked));
            app_intent.value("apps", &array(apps_of(&intents)));
            payload.value("appIntent", &app_intent.end());
        }
    }
    payload.end()
}

/// Puts intents of one name together, in the order of their first mention.
fn merged(intents: impl Iterator<Item = Json>) -> Json {
    let mut order = Vec::<(Json, Vec<Json>)>::new();
    let mut places = BTreeMap::<Key, usize>::new();
    for app_intent in intents {
        let Some(intent) = app_intent.member("intent") else { continue };
        let Some(name) = intent.member("name").and_then(|name| name.as_key()) else { continue };
        let place = *places.entry(name).or_insert(order.len());
        if place == order.len() {
            order.push((intent, Vec::new()));
        }
        order[place].1.push(app_intent);
    }
    array(order.iter().map(|(intent, app_intents)| {
        let mut object = Object::new();
        object.value("intent", intent);
        object.value("apps", &array(apps_of(app_intents)));
        object.end()
    }))
}

fn apps_of(app_intents: &[Json]) -> impl Iterator<Item = Json> {
    app_intents.iter().filter_map(|intent| intent.member("apps")?.elements()).flatten()
}

fn stamped_intent(app_intent: &Json, agent: &Text) -> Option<Json> {
    app_intent.member("intent")?.member("name")?.as_key()?;
    replaced(app_intent, "apps", |apps| each(apps, |app| stamped_app(app, agent)))
}

fn stamped_app(app: &Json, agent: &Text) -> Option<Json> {
    app.member("appId").filter(|id| id.kind() == Kind::String)?;
    Some(edited(app, &[Key::new("desktopAgent")], Edit::Set(&Json::string(agent))))
}

fn replaced(object: &Json, name: &str, change: impl FnOnce(&Json) -> Option<Json>) -> Option<Json> {
    let changed = change(&object.member(name)?)?;
    Some(edited(object, &[Key::new(name)], Edit::Set(&changed)))
}

fn each(value: &Json, change: impl Fn(&Json) -> Option<Json>) -> Option<Json> {
    let changed = value.elements()?.iter().map(change).collect::<Option<Vec<_>>>()?;
    Some(array(changed))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(exchange: Exchange, payload: &'static str, expected: Option<&str>) {
        let stamped = stamped(exchange, &Json::from_static(payload), &Text::from("b"));
        assert_eq!(stamped.map(|json| json.to_string()).as_deref(), expected, "{exchange:?}");
    }

    #[test]
    fn apps_are_marked_and_contexts_are_not() {
        check(
            Exchange::FindInstances,
            r#"{"appIdentifiers":[{"appId":"x","desktopAgent":"forged"}]}"#,
            Some(r#"{"appIdentifiers":[{"appId":"x","desktopAgent":"b"}]}"#),
        );
        check(
            Exchange::FindIntent,
            r#"{"appIntent":{"intent":{"name":"I"},"apps":[{"appId":"x","more":{"appId":"y"}}]},"error":null}"#,
            Some(
                r#"{"appIntent":{"intent":{"name":"I"},"apps":[{"appId":"x","more":{"appId":"y"},"desktopAgent":"b"}]},"error":null}"#,
            ),
        );
        check(
            Exchange::RaiseIntent,
            r#"{"intentResolution":{"intent":"I","source":{"appId":"x"}}}"#,
            Some(r#"{"intentResolution":{"intent":"I","source":{"appId":"x","desktopAgent":"b"}}}"#),
        );
    }

    #[test]
    fn what_is_no_answer_is_refused() {
        for payload in
            ["{}", r#"{"appIdentifiers":null}"#, r#"{"appIdentifiers":[{}]}"#, r#"{"appIdentifiers":[1]}"#]
        {
            check(Exchange::FindInstances, payload, None);
        }
        check(Exchange::FindIntent, r#"{"appIntent":{"apps":[]}}"#, None);
    }

    #[test]
    fn intents_of_one_name_become_one() {
        let one = Json::from_static(
            r#"{"appIntents":[{"intent":{"name":"A","displayName":"a"},"apps":[{"appId":"1"}]},{"intent":{"name":"B"},"apps":[]}]}"#,
        );
        let two = Json::from_static(r#"{"appIntents":[{"intent":{"name":"A"},"apps":[{"appId":"2"}]}]}"#);
        assert_eq!(
            collated(Exchange::FindIntentsByContext, None, &[&one, &two]).to_string(),
            r#"{"appIntents":[{"intent":{"name":"A","displayName":"a"},"apps":[{"appId":"1"},{"appId":"2"}]},{"intent":{"name":"B"},"apps":[]}]}"#
        );
    }

    #[test]
    fn nobody_has_anything() {
        let name = Json::from_static(r#""ViewChart""#);
        for (exchange, expected) in [
            (Exchange::FindIntent, r#"{"appIntent":{"intent":{"name":"ViewChart"},"apps":[]}}"#),
            (Exchange::FindIntentsByContext, r#"{"appIntents":[]}"#),
            (Exchange::FindInstances, r#"{"appIdentifiers":[]}"#),
        ] {
            assert_eq!(collated(exchange, Some(&name), &[]).to_string(), expected);
        }
    }
}
