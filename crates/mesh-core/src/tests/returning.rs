//! Clients that come back: what they are known by, what they are shown, and what they cannot undo.

use bytes::Bytes;
use mesh_model::{Command, Event, Json, Lifetime, SessionId, Text, Tick};

use super::mesh::{App, Mesh, json, settings};
use crate::returning::{CALM_MS, CORRECT_MS, CROSSING_MS, IDENTITY_BYTES_MAX, RESUME_MS, WRITE_BACK_MS};
use crate::{Input, Node, Recognition};

const WHO: &str = r#"{"application":"app","process":7}"#;

/// Longer than anything may have been on its way.
const LONG: u64 = CROSSING_MS + 200;

fn login(mesh: &mut Mesh, node: usize, identity: &str) -> App {
    let app = (node, mesh.number());
    mesh.app_as(app, "joe", identity).0
}

fn instance(mesh: &Mesh, app: App) -> Text {
    mesh.identities[&app].member("instance").and_then(|name| name.as_text()).unwrap()
}

/// Cuts an app off that was last heard of just now.
fn lose(mesh: &mut Mesh, app: App) {
    let heard = Some(mesh.tick());
    lose_heard(mesh, app, heard);
}

fn lose_heard(mesh: &mut Mesh, app: App, heard: Option<Tick>) {
    mesh.input(app.0, Input::SessionClosed { session: SessionId(app.1), heard });
    mesh.settle();
}

fn subscribe(mesh: &mut Mesh, app: App, name: &str) -> Option<String> {
    let context = mesh.context(app.0, name).unwrap();
    mesh.ask(app, |request| Command::SubscribeContext { request, context });
    mesh.take(app, told).last().cloned()
}

fn update(mesh: &mut Mesh, app: App, name: &str, delta: &str) {
    let context = mesh.context(app.0, name).unwrap();
    mesh.update(app, &context, delta);
}

/// Says in a word or two what an app is told of contexts.
fn told(event: &Event) -> Option<String> {
    Some(match event {
        Event::ContextAdded { name, .. } => format!("added {name}"),
        Event::ContextCreated { .. } => "created".to_owned(),
        Event::ContextSnapshot { data, .. } => data.to_string(),
        Event::ContextUpdated { delta, .. } => delta.to_string(),
        Event::ContextDestroyed { .. } => "destroyed".to_owned(),
        Event::Done { .. } => "done".to_owned(),
        Event::Refused { reason, .. } => reason.to_string(),
        _ => return None,
    })
}

/// A node with a steady app and a context, and an app that knows it and is away by now.
fn one_away(value: &str) -> (Mesh, App) {
    let mut mesh = Mesh::new(1);
    let steady = mesh.app(0, "joe").0;
    mesh.create(steady, "K", value, Lifetime::Retained);
    let away = login(&mut mesh, 0, WHO);
    subscribe(&mut mesh, away, "K");
    mesh.wait_ms(LONG);
    lose(&mut mesh, away);
    mesh.events_of(steady);
    (mesh, steady)
}

#[test]
fn a_client_that_returns_keeps_its_instance_name_and_gets_a_new_peer_id() {
    let mut mesh = Mesh::new(2);
    let (first, peer) = {
        let app = (0, mesh.number());
        mesh.app_as(app, "joe", WHO)
    };
    let name = instance(&mesh, first);
    let twin = login(&mut mesh, 0, WHO);
    assert_ne!(instance(&mesh, twin), name, "both are here");
    lose(&mut mesh, first);
    for stranger in [r#"{"application":"app","process":8}"#, r#"{"application":"app"}"#] {
        let stranger = login(&mut mesh, 0, stranger);
        assert_ne!(instance(&mesh, stranger), name);
    }
    let app = (0, mesh.number());
    let ann = mesh.app_as(app, "ann", WHO).0;
    assert_ne!(instance(&mesh, ann), name, "another user");
    let app = (0, mesh.number());
    let (back, new_peer) = mesh.app_as(app, "joe", r#"{"process":7,"application":"app"}"#);
    assert_eq!(instance(&mesh, back), name);
    assert_ne!(new_peer, peer);
    let third = login(&mut mesh, 0, WHO);
    assert_ne!(instance(&mesh, third), name, "it has been taken");
}

#[test]
fn the_newest_record_is_taken_first() {
    let mut mesh = Mesh::new(1);
    let (one, two) = (login(&mut mesh, 0, WHO), login(&mut mesh, 0, WHO));
    let names = [instance(&mesh, one), instance(&mesh, two)];
    lose(&mut mesh, one);
    lose(&mut mesh, two);
    for expected in names.iter().rev() {
        let back = login(&mut mesh, 0, WHO);
        assert_eq!(instance(&mesh, back), *expected);
    }
}

#[test]
fn who_says_goodbye_or_stays_away_too_long_or_says_too_much_is_not_known_again() {
    let mut mesh = Mesh::new(1);
    let app = login(&mut mesh, 0, WHO);
    let name = instance(&mesh, app);
    lose_heard(&mut mesh, app, None);
    let app = login(&mut mesh, 0, WHO);
    assert_ne!(instance(&mesh, app), name, "it closed its connection itself");

    let name = instance(&mesh, app);
    lose(&mut mesh, app);
    mesh.wait_ms(600_000);
    let app = login(&mut mesh, 0, WHO);
    assert_ne!(instance(&mesh, app), name, "departed_ms_max has passed");
    assert_eq!(mesh.nodes[0].recognitions().len(), 1);

    let long = format!(r#"{{"application":"{}"}}"#, "x".repeat(IDENTITY_BYTES_MAX));
    let app = login(&mut mesh, 0, &long);
    let name = instance(&mesh, app);
    lose(&mut mesh, app);
    let app = login(&mut mesh, 0, &long);
    assert_ne!(instance(&mesh, app), name);
}

#[test]
fn records_are_bounded_in_number_and_their_values_in_bytes() {
    let mut mesh = Mesh::new(1);
    let mut limited = settings(0, 1);
    limited.limits.departed_sessions_max = 3;
    limited.limits.departed_bytes_max = 250;
    mesh.nodes[0] = Node::new(limited, mesh.now());
    let steady = mesh.app(0, "joe").0;
    let value = |n: u32| format!(r#"{{"k":"{n}{}"}}"#, "x".repeat(100));
    mesh.create(steady, "K", &value(1), Lifetime::Retained);
    let who = |n: u32| format!(r#"{{"application":"app","process":{n}}}"#);
    let apps: Vec<App> = (0..4).map(|n| login(&mut mesh, 0, &who(n))).collect();
    let names: Vec<Text> = apps.iter().map(|app| instance(&mesh, *app)).collect();
    for app in apps {
        subscribe(&mut mesh, app, "K");
        lose(&mut mesh, app);
    }
    update(&mut mesh, steady, "K", &format!(r#"{{"reset":{}}}"#, value(2)));
    let shown: Vec<(bool, Option<String>)> = (0..4)
        .map(|n| {
            let back = login(&mut mesh, 0, &who(n));
            let known = instance(&mesh, back) == names[n as usize];
            (known, subscribe(&mut mesh, back, "K"))
        })
        .collect();
    let (old, new) = (Some(value(1)), Some(value(2)));
    assert_eq!(shown, [(false, new.clone()), (true, new), (true, old.clone()), (true, old)]);
}

#[test]
fn a_context_is_shown_as_it_was_and_what_has_changed_follows_once_in_one_piece() {
    let (mut mesh, steady) = one_away(r#"{"v":1,"gone":1}"#);
    mesh.create(steady, "L", r#"{"same":1}"#, Lifetime::Retained);
    update(&mut mesh, steady, "K", r#"{"commands":[{"type":"set","path":"v","value":2}]}"#);
    update(&mut mesh, steady, "K", r#"{"commands":[{"type":"remove","path":"gone"}]}"#);
    let back = login(&mut mesh, 0, WHO);
    assert_eq!(subscribe(&mut mesh, back, "K").unwrap(), r#"{"gone":1,"v":1}"#);
    mesh.wait_ms(CALM_MS - 100);
    assert_eq!(subscribe(&mut mesh, back, "L").unwrap(), r#"{"same":1}"#);
    update(&mut mesh, steady, "K", r#"{"commands":[{"type":"set","path":"v","value":3}]}"#);
    mesh.wait_ms(CALM_MS - 100);
    assert_eq!(mesh.take(back, told), [""; 0], "it may still be writing back");
    mesh.wait_ms(100);
    assert_eq!(mesh.take(back, told), [r#"{"reset":{"v":3}}"#]);
    update(&mut mesh, steady, "K", r#"{"commands":[{"type":"set","path":"v","value":4}]}"#);
    assert_eq!(mesh.take(back, told).len(), 1, "changes flow again");
    mesh.wait_ms(RESUME_MS);
    assert_eq!(mesh.take(back, told), [""; 0]);
    assert!(mesh.nodes[0].resuming.is_empty());
}

#[test]
fn a_context_is_shown_as_it_was_once() {
    let (mut mesh, steady) = one_away(r#"{"v":1}"#);
    update(&mut mesh, steady, "K", r#"{"reset":{"v":2}}"#);
    let back = login(&mut mesh, 0, WHO);
    assert_eq!(subscribe(&mut mesh, back, "K").unwrap(), r#"{"v":1}"#);
    assert_eq!(subscribe(&mut mesh, back, "K").unwrap(), r#"{"v":2}"#);
    mesh.wait_ms(CALM_MS);
    assert_eq!(mesh.take(back, told), [""; 0], "it has the present value");
}

#[test]
fn who_is_lost_again_before_it_has_caught_up_begins_where_it_was() {
    let (mut mesh, steady) = one_away(r#"{"v":1}"#);
    update(&mut mesh, steady, "K", r#"{"reset":{"v":2}}"#);
    mesh.wait_ms(LONG);
    for _ in 0..2 {
        let back = login(&mut mesh, 0, WHO);
        assert_eq!(subscribe(&mut mesh, back, "K").unwrap(), r#"{"v":1}"#);
        lose(&mut mesh, back);
    }
    let back = login(&mut mesh, 0, WHO);
    update(&mut mesh, back, "K", r#"{"commands":[{"type":"set","path":"v","value":1}]}"#);
    assert_eq!(mesh.value(0, "K").unwrap(), r#"{"v":2}"#);
}

/// Writes `delta` back after `v`, `deep.x` and `gone` have changed, and returns what stands then.
fn written_back(delta: &str) -> (String, Vec<String>) {
    let (mut mesh, steady) = one_away(r#"{"v":1,"deep":{"x":1,"y":1},"gone":1,"kept":1}"#);
    let meanwhile = r#"{"commands":[{"type":"set","path":"v","value":2},{"type":"set","path":"deep.x","value":2},{"type":"remove","path":"gone"}]}"#;
    update(&mut mesh, steady, "K", meanwhile);
    let back = login(&mut mesh, 0, WHO);
    subscribe(&mut mesh, back, "K");
    mesh.wait_ms(CALM_MS);
    mesh.events_of(back);
    update(&mut mesh, back, "K", delta);
    assert_eq!(mesh.take(back, told), ["done"], "the correction does not come at once");
    mesh.wait_ms(CORRECT_MS);
    let corrected = mesh.take(back, told);
    let value = mesh.value(0, "K").unwrap();
    mesh.wait_ms(100);
    assert_eq!(mesh.take(back, told), [""; 0]);
    (value, corrected)
}

#[test]
fn what_is_written_back_counts_only_where_nothing_is_newer() {
    let now = r#"{"deep":{"x":2,"y":1},"kept":1,"v":2}"#;
    let corrected = vec![format!(r#"{{"reset":{now}}}"#)];
    for stale in [
        r#"{"added":{"v":1,"gone":1,"deep":{"x":1}},"updated":{},"removed":[]}"#,
        r#"{"added":{},"updated":{"v":1,"deep":{"x":1}},"removed":[]}"#,
        r#"{"added":{},"updated":{},"removed":["v","deep","gone"]}"#,
        r#"{"commands":[{"type":"set","path":"v","value":1},{"type":"set","path":"deep","value":{"x":1}}]}"#,
        r#"{"commands":[{"type":"remove","path":"v"},{"type":"remove","path":"deep"}]}"#,
    ] {
        assert_eq!(written_back(stale), (now.to_owned(), corrected.clone()), "{stale}");
    }
    let (value, corrected) = written_back(
        r#"{"commands":[{"type":"set","path":"v","value":1},{"type":"set","path":"kept","value":3},{"type":"set","path":"new","value":3}]}"#,
    );
    assert_eq!(value, r#"{"deep":{"x":2,"y":1},"kept":3,"new":3,"v":2}"#);
    assert_eq!(corrected, [format!(r#"{{"reset":{value}}}"#)]);
    let own_act = r#"{"v":9}"#;
    assert_eq!(written_back(&format!(r#"{{"reset":{own_act}}}"#)), (own_act.to_owned(), vec![]));
    let deep =
        r#"{"commands":[{"type":"set","path":"deep.x","value":9},{"type":"set","path":"v","value":9}]}"#;
    let value = r#"{"deep":{"x":9,"y":1},"kept":1,"v":9}"#;
    assert_eq!(written_back(deep), (value.to_owned(), vec![]), "no library writes back inside a key");
    let untouched = r#"{"commands":[{"type":"set","path":"kept","value":9}]}"#;
    assert_eq!(written_back(untouched).1, [""; 0], "nothing to correct");
}

#[test]
fn a_key_with_dots_that_is_written_back_as_a_path_is_a_key() {
    let (mut mesh, steady) = one_away(r#"{"a.b":1}"#);
    update(&mut mesh, steady, "K", r#"{"added":{"a.b":2},"updated":{},"removed":[]}"#);
    let back = login(&mut mesh, 0, WHO);
    update(&mut mesh, back, "K", r#"{"commands":[{"type":"set","path":"a.b","value":1}]}"#);
    assert_eq!(mesh.value(0, "K").unwrap(), r#"{"a.b":2}"#);
}

#[test]
fn a_root_clear_is_newer_than_all_below_it() {
    let (mut mesh, steady) = one_away(r#"{"v":1}"#);
    update(&mut mesh, steady, "K", r#"{"reset":{"w":2}}"#);
    let back = login(&mut mesh, 0, WHO);
    update(&mut mesh, back, "K", r#"{"added":{"v":1},"updated":{},"removed":[]}"#);
    assert_eq!(mesh.value(0, "K").unwrap(), r#"{"w":2}"#);
}

#[test]
fn updates_are_looked_at_only_for_a_while() {
    let stale = r#"{"commands":[{"type":"set","path":"v","value":1}]}"#;
    let (mut mesh, steady) = one_away(r#"{"v":1}"#);
    update(&mut mesh, steady, "K", r#"{"commands":[{"type":"set","path":"v","value":2}]}"#);
    let back = login(&mut mesh, 0, WHO);
    update(&mut mesh, back, "K", stale);
    assert_eq!(mesh.value(0, "K").unwrap(), r#"{"v":2}"#);
    update(&mut mesh, back, "K", stale);
    assert_eq!(mesh.value(0, "K").unwrap(), r#"{"v":2}"#, "the app may have spoken before its library");
    mesh.wait_ms(WRITE_BACK_MS + 100);
    update(&mut mesh, back, "K", stale);
    assert_eq!(mesh.value(0, "K").unwrap(), r#"{"v":1}"#, "the app means it");

    let (mut mesh, steady) = one_away(r#"{"v":1}"#);
    update(&mut mesh, steady, "K", r#"{"commands":[{"type":"set","path":"v","value":2}]}"#);
    let back = login(&mut mesh, 0, WHO);
    mesh.wait_ms(RESUME_MS);
    update(&mut mesh, back, "K", stale);
    assert_eq!(mesh.value(0, "K").unwrap(), r#"{"v":1}"#);

    let (mut mesh, steady) = one_away(r#"{"v":1}"#);
    update(&mut mesh, steady, "K", r#"{"commands":[{"type":"set","path":"v","value":2}]}"#);
    let back = login(&mut mesh, 0, WHO);
    mesh.wait_ms(WRITE_BACK_MS);
    subscribe(&mut mesh, back, "K");
    mesh.wait_ms(WRITE_BACK_MS + 100);
    update(&mut mesh, back, "K", stale);
    assert_eq!(mesh.value(0, "K").unwrap(), r#"{"v":1}"#, "it has subscribed long ago and is done");
}

#[test]
fn what_others_are_told_is_what_stood() {
    let (mut mesh, steady) = one_away(r#"{"v":1,"kept":1}"#);
    subscribe(&mut mesh, steady, "K");
    update(&mut mesh, steady, "K", r#"{"commands":[{"type":"set","path":"v","value":2}]}"#);
    mesh.events_of(steady);
    let back = login(&mut mesh, 0, WHO);
    let both = r#"{"commands":[{"type":"set","path":"v","value":1},{"type":"set","path":"kept","value":3}]}"#;
    update(&mut mesh, back, "K", both);
    assert_eq!(mesh.take(steady, told), [r#"{"reset":{"kept":3,"v":2}}"#]);

    let (mut mesh, steady) = one_away(r#"{"v":1}"#);
    subscribe(&mut mesh, steady, "K");
    update(&mut mesh, steady, "K", r#"{"commands":[{"type":"set","path":"v","value":2}]}"#);
    mesh.events_of(steady);
    let back = login(&mut mesh, 0, WHO);
    update(&mut mesh, back, "K", r#"{"commands":[{"type":"set","path":"v","value":1}]}"#);
    assert_eq!(mesh.take(steady, told), [""; 0]);
}

#[test]
fn what_was_written_to_a_client_after_it_was_last_heard_counts_as_unknown_to_it() {
    let mut mesh = Mesh::new(1);
    let steady = mesh.app(0, "joe").0;
    mesh.create(steady, "K", r#"{"early":1,"late":1}"#, Lifetime::Retained);
    let half_open = login(&mut mesh, 0, WHO);
    subscribe(&mut mesh, half_open, "K");
    update(&mut mesh, steady, "K", r#"{"commands":[{"type":"set","path":"early","value":2}]}"#);
    mesh.wait_ms(LONG);
    let heard = mesh.tick();
    mesh.wait_ms(3_000);
    update(&mut mesh, steady, "K", r#"{"commands":[{"type":"set","path":"late","value":2}]}"#);
    mesh.wait_ms(3_000);
    lose_heard(&mut mesh, half_open, Some(heard));
    let back = login(&mut mesh, 0, WHO);
    assert_eq!(
        subscribe(&mut mesh, back, "K").unwrap(),
        r#"{"early":2,"late":2}"#,
        "nothing has changed since"
    );
    let delta =
        r#"{"commands":[{"type":"set","path":"late","value":1},{"type":"set","path":"early","value":3}]}"#;
    update(&mut mesh, back, "K", delta);
    assert_eq!(mesh.value(0, "K").unwrap(), r#"{"early":3,"late":2}"#);
    mesh.wait_ms(CORRECT_MS);
    assert_eq!(mesh.take(back, told).last().unwrap(), r#"{"reset":{"early":3,"late":2}}"#);
}

#[test]
fn what_a_client_wrote_itself_is_no_news_to_it() {
    let mut mesh = Mesh::new(1);
    let app = login(&mut mesh, 0, WHO);
    mesh.create(app, "K", r#"{"v":1}"#, Lifetime::Retained);
    update(&mut mesh, app, "K", r#"{"commands":[{"type":"set","path":"v","value":2}]}"#);
    lose(&mut mesh, app);
    let back = login(&mut mesh, 0, WHO);
    update(&mut mesh, back, "K", r#"{"commands":[{"type":"set","path":"v","value":3}]}"#);
    assert_eq!(mesh.value(0, "K").unwrap(), r#"{"v":3}"#);
}

fn create(mesh: &mut Mesh, app: App, data: &str) -> Vec<String> {
    mesh.events_of(app);
    mesh.create(app, "K", data, Lifetime::Retained);
    mesh.take(app, told)
}

fn destroy(mesh: &mut Mesh, app: App) {
    let context = mesh.context(app.0, "K").unwrap();
    mesh.ask(app, |request| Command::DestroyContext { request, context });
}

#[test]
fn what_was_destroyed_meanwhile_is_destroyed_before_the_clients_eyes() {
    let (mut mesh, steady) = one_away(r#"{"v":1}"#);
    destroy(&mut mesh, steady);
    let back = login(&mut mesh, 0, WHO);
    mesh.events_of(steady);
    mesh.events_of(back);
    let data = json(r#"{"v":1}"#);
    mesh.ask(back, |request| Command::CreateContext {
        request,
        name: "K".into(),
        data: Some(data),
        lifetime: Lifetime::Retained,
        permissions: mesh_model::Permissions::default(),
    });
    let events = mesh.events_of(back);
    assert_eq!(events.iter().filter_map(told).collect::<Vec<_>>(), ["added K", "created"]);
    let Some(Event::ContextCreated { context, .. }) = events.last().cloned() else { panic!("{events:?}") };
    assert_eq!(mesh.value(0, "K"), None);

    // The client uses it until it hears.
    let id = context.clone();
    mesh.ask(back, |request| Command::SubscribeContext { request, context: id });
    mesh.update(back, &context, r#"{"reset":{}}"#);
    assert_eq!(mesh.take(back, told), [r#"{"v":1}"#, "done"]);
    mesh.wait_ms(CORRECT_MS);
    assert_eq!(mesh.take(back, told), ["destroyed"]);
    mesh.update(back, &context, r#"{"reset":{}}"#);
    assert!(mesh.take(back, told)[0].starts_with("Unable to find context with id"));
    assert_eq!(mesh.take(steady, told), [""; 0]);

    assert_eq!(create(&mut mesh, back, r#"{"v":5}"#), ["added K", "created"], "the app means it");
    assert_eq!(mesh.value(0, "K").unwrap(), r#"{"v":5}"#);
}

#[test]
fn a_phantom_ends_when_the_real_one_comes() {
    let (mut mesh, steady) = one_away(r#"{"v":1}"#);
    destroy(&mut mesh, steady);
    let back = login(&mut mesh, 0, WHO);
    assert_eq!(create(&mut mesh, back, r#"{"v":1}"#), ["added K", "created"]);
    create(&mut mesh, steady, r#"{"v":7}"#);
    assert_eq!(mesh.take(back, told), ["destroyed", "added K"]);
    mesh.wait_ms(CORRECT_MS);
    assert_eq!(mesh.take(back, told), [""; 0]);
}

#[test]
fn what_was_destroyed_before_the_client_left_or_by_its_leaving_is_created() {
    let mut mesh = Mesh::new(1);
    let steady = mesh.app(0, "joe").0;
    create(&mut mesh, steady, r#"{"v":1}"#);
    let app = login(&mut mesh, 0, WHO);
    destroy(&mut mesh, steady);
    mesh.wait_ms(LONG);
    lose(&mut mesh, app);
    let back = login(&mut mesh, 0, WHO);
    create(&mut mesh, back, r#"{"v":2}"#);
    assert_eq!(mesh.value(0, "K").unwrap(), r#"{"v":2}"#);

    let mut mesh = Mesh::new(1);
    let app = login(&mut mesh, 0, WHO);
    mesh.create(app, "K", r#"{"v":1}"#, Lifetime::RefCounted);
    lose(&mut mesh, app);
    assert_eq!(mesh.value(0, "K"), None, "its last subscriber was lost");
    let back = login(&mut mesh, 0, WHO);
    create(&mut mesh, back, r#"{"v":1}"#);
    assert_eq!(mesh.value(0, "K").unwrap(), r#"{"v":1}"#);
}

/// Starts node 1 anew with what its former life knew of its sessions.
fn restart(mesh: &mut Mesh, incarnation: u64) {
    let known = mesh.nodes[1].recognitions();
    mesh.restart(1, incarnation);
    for known in known {
        mesh.input(1, Input::SessionRemembered(known));
    }
}

#[test]
fn a_node_that_starts_again_knows_its_clients_and_lets_them_undo_nothing() {
    let mut mesh = Mesh::new(2);
    let steady = mesh.app(0, "joe").0;
    mesh.create(steady, "K", r#"{"v":1,"gone":1}"#, Lifetime::Retained);
    mesh.create(steady, "L", r#"{"v":1}"#, Lifetime::Retained);
    let app = login(&mut mesh, 1, WHO);
    let name = instance(&mesh, app);
    subscribe(&mut mesh, app, "K");
    restart(&mut mesh, 2);
    update(&mut mesh, steady, "K", r#"{"commands":[{"type":"set","path":"v","value":2}]}"#);
    update(&mut mesh, steady, "K", r#"{"commands":[{"type":"remove","path":"gone"}]}"#);
    let context = mesh.context(0, "L").unwrap();
    mesh.ask(steady, |request| Command::DestroyContext { request, context });
    mesh.link(0, 1);

    let back = login(&mut mesh, 1, WHO);
    assert_eq!(instance(&mesh, back), name);
    subscribe(&mut mesh, back, "K");
    let delta = r#"{"commands":[{"type":"set","path":"v","value":1},{"type":"set","path":"gone","value":1},{"type":"set","path":"lost","value":1}]}"#;
    update(&mut mesh, back, "K", delta);
    mesh.create(back, "L", r#"{"v":1}"#, Lifetime::Retained);
    mesh.wait_ms(CORRECT_MS);
    for node in [0, 1] {
        assert_eq!(mesh.value(node, "K").unwrap(), r#"{"lost":1,"v":2}"#);
        assert_eq!(mesh.value(node, "L"), None);
    }
    assert_eq!(mesh.take(back, told).last().unwrap(), "destroyed");
    mesh.assert_equal();
}

#[test]
fn what_was_written_on_a_node_before_it_started_again_is_no_news_to_its_clients() {
    let mut mesh = Mesh::new(2);
    let app = login(&mut mesh, 1, WHO);
    mesh.create(app, "K", r#"{"mine":1,"theirs":1}"#, Lifetime::Retained);
    restart(&mut mesh, 2);
    let steady = mesh.app(0, "joe").0;
    update(&mut mesh, steady, "K", r#"{"commands":[{"type":"set","path":"theirs","value":2}]}"#);
    mesh.link(0, 1);
    let back = login(&mut mesh, 1, WHO);
    let delta =
        r#"{"commands":[{"type":"set","path":"mine","value":3},{"type":"set","path":"theirs","value":1}]}"#;
    update(&mut mesh, back, "K", delta);
    assert_eq!(mesh.value(0, "K").unwrap(), r#"{"mine":3,"theirs":2}"#);
}

#[test]
fn what_comes_over_a_link_after_the_client_is_back_is_not_merged_with_its_memory() {
    let mut mesh = Mesh::new(2);
    let steady = mesh.app(0, "joe").0;
    let app = login(&mut mesh, 1, WHO);
    mesh.create(app, "K", r#"{"v":1}"#, Lifetime::Retained);
    restart(&mut mesh, 2);
    update(&mut mesh, steady, "K", r#"{"commands":[{"type":"set","path":"v","value":2}]}"#);
    let back = login(&mut mesh, 1, WHO);
    // The context comes while the client is creating it.
    mesh.link(0, 1);
    mesh.create(back, "K", r#"{"v":1,"lost":1}"#, Lifetime::Retained);
    assert_eq!(mesh.value(1, "K").unwrap(), r#"{"lost":1,"v":2}"#);
}

#[test]
fn a_lone_node_that_starts_again_gets_everything_back_from_its_clients() {
    let mut mesh = Mesh::unlinked(2);
    let app = login(&mut mesh, 1, WHO);
    mesh.create(app, "K", r#"{"v":1}"#, Lifetime::Retained);
    restart(&mut mesh, 2);
    assert_eq!(mesh.context(1, "K"), None);
    let back = login(&mut mesh, 1, WHO);
    mesh.create(back, "K", r#"{"v":1}"#, Lifetime::Retained);
    assert_eq!(mesh.value(1, "K").unwrap(), r#"{"v":1}"#);
    update(&mut mesh, back, "K", r#"{"commands":[{"type":"set","path":"v","value":2}]}"#);
    assert_eq!(mesh.value(1, "K").unwrap(), r#"{"v":2}"#, "it wrote that itself");
}

#[test]
fn what_a_node_knows_of_its_sessions_changes_when_they_come_go_or_expire() {
    let mut mesh = Mesh::new(1);
    let mut last = mesh.nodes[0].recognitions_changed();
    let mut changed =
        |mesh: &Mesh| std::mem::replace(&mut last, mesh.nodes[0].recognitions_changed()) != last;
    let app = login(&mut mesh, 0, WHO);
    assert!(changed(&mesh));
    let known = Recognition {
        user: Some("joe".into()),
        identity: Json::parse(Bytes::from_static(WHO.as_bytes())).unwrap(),
        instance: instance(&mesh, app),
        away_ms: 0,
    };
    assert_eq!(mesh.nodes[0].recognitions(), std::slice::from_ref(&known));
    lose(&mut mesh, app);
    assert!(changed(&mesh));
    mesh.wait_ms(1_000);
    assert!(!changed(&mesh));
    assert_eq!(mesh.nodes[0].recognitions(), [Recognition { away_ms: 1_000, ..known }]);
    mesh.wait_ms(600_000);
    assert!(changed(&mesh));
    assert_eq!(mesh.nodes[0].recognitions(), []);
}

#[test]
fn a_client_with_an_instance_name_of_its_own_undoes_nothing_either() {
    let who = r#"{"application":"app","instance":"mine"}"#;
    let mut mesh = Mesh::new(1);
    let steady = mesh.app(0, "joe").0;
    mesh.create(steady, "K", r#"{"v":1}"#, Lifetime::Retained);
    let app = login(&mut mesh, 0, who);
    subscribe(&mut mesh, app, "K");
    mesh.wait_ms(LONG);
    update(&mut mesh, steady, "K", r#"{"commands":[{"type":"set","path":"v","value":2}]}"#);
    // The old connection has not noticed that it is dead.
    let back = login(&mut mesh, 0, who);
    update(&mut mesh, back, "K", r#"{"commands":[{"type":"set","path":"v","value":1}]}"#);
    assert_eq!(mesh.value(0, "K").unwrap(), r#"{"v":2}"#);
    assert_eq!(instance(&mesh, back), "mine");
}

#[test]
fn what_an_app_says_while_it_is_cut_off_stands_and_its_memory_does_not() {
    let mut mesh = Mesh::new(2);
    let steady = mesh.app(0, "joe").0;
    let app = login(&mut mesh, 1, WHO);
    mesh.create(app, "K", r#"{"a":1,"own":0}"#, Lifetime::Retained);
    restart(&mut mesh, 2);
    update(&mut mesh, steady, "K", r#"{"commands":[{"type":"set","path":"a","value":2}]}"#);
    mesh.link(0, 1);
    mesh.wait_ms(10);
    let back = login(&mut mesh, 1, WHO);
    // The library makes a creation of an update that waited for the login, and then writes back.
    mesh.create(back, "K", r#"{"own":5}"#, Lifetime::Retained);
    let memory =
        r#"{"commands":[{"type":"set","path":"a","value":1},{"type":"set","path":"own","value":0}]}"#;
    update(&mut mesh, back, "K", memory);
    assert_eq!(mesh.value(0, "K").unwrap(), r#"{"a":2,"own":5}"#);
}

/// Sets one key after the other, each by an update of its own.
fn set(mesh: &mut Mesh, app: App, values: &[(&str, u32)]) {
    for (key, value) in values {
        let command = format!(r#"{{"commands":[{{"type":"set","path":"{key}","value":{value}}}]}}"#);
        update(mesh, app, "K", &command);
    }
}

#[test]
fn what_an_app_says_before_its_library_writes_back_stands() {
    for restarted in [false, true] {
        let mut mesh = Mesh::new(2);
        let app = login(&mut mesh, 1, WHO);
        mesh.create(app, "K", r#"{"own":1,"kept":1}"#, Lifetime::Retained);
        match restarted {
            true => {
                restart(&mut mesh, 2);
                mesh.link(0, 1);
            }
            false => lose(&mut mesh, app),
        }
        let back = login(&mut mesh, 1, WHO);
        subscribe(&mut mesh, back, "K");
        set(&mut mesh, back, &[("own", 2), ("own", 3)]);
        mesh.events_of(back);
        // It remembers both, and `kept` is to be written back nevertheless.
        let memory =
            r#"{"commands":[{"type":"set","path":"own","value":1},{"type":"set","path":"kept","value":7}]}"#;
        update(&mut mesh, back, "K", memory);
        mesh.wait_ms(CORRECT_MS);
        assert_eq!(mesh.value(0, "K").unwrap(), r#"{"kept":7,"own":3}"#, "restarted: {restarted}");
        assert_eq!(mesh.take(back, told), ["done", r#"{"reset":{"kept":7,"own":3}}"#]);
        set(&mut mesh, back, &[("own", 1)]);
        assert_eq!(mesh.value(0, "K").unwrap(), r#"{"kept":7,"own":1}"#, "the app means it");
    }
}

#[test]
fn an_update_with_something_stale_in_it_is_the_librarys_and_older_than_what_the_app_has_said() {
    let (mut mesh, steady) = one_away(r#"{"own":1,"theirs":1}"#);
    set(&mut mesh, steady, &[("theirs", 2)]);
    let back = login(&mut mesh, 0, WHO);
    set(&mut mesh, back, &[("own", 5)]);
    // What it remembers of `own` never came to this node.
    let memory =
        r#"{"commands":[{"type":"set","path":"theirs","value":1},{"type":"set","path":"own","value":4}]}"#;
    update(&mut mesh, back, "K", memory);
    assert_eq!(mesh.value(0, "K").unwrap(), r#"{"own":5,"theirs":2}"#);
    set(&mut mesh, back, &[("own", 6)]);
    assert_eq!(mesh.value(0, "K").unwrap(), r#"{"own":6,"theirs":2}"#);
}

#[test]
fn an_app_that_has_been_back_for_a_while_may_set_a_key_back() {
    let (mut mesh, _) = one_away(r#"{"own":1}"#);
    let back = login(&mut mesh, 0, WHO);
    set(&mut mesh, back, &[("own", 2)]);
    mesh.wait_ms(WRITE_BACK_MS + 100);
    set(&mut mesh, back, &[("own", 1)]);
    assert_eq!(mesh.value(0, "K").unwrap(), r#"{"own":1}"#);
}
