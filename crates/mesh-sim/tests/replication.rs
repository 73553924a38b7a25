//! What replication promises, each with faults of its own and at a size that runs in seconds.

#![expect(clippy::unwrap_used, reason = "helpers of tests may fail as tests do")]

mod mesh;

use mesh::{App, Mesh};
use mesh_core::Timing;
use mesh_model::{Arguments, Command, Event};
use serde_json::Value;

fn apps(mesh: &mut Mesh, hosts: usize) -> Vec<App> {
    let apps = (0..hosts).map(|host| mesh.app(host)).collect();
    mesh.wait_ms(2_000);
    apps
}

/// Nodes with an app each, and a context that all know.
fn with_context(hosts: usize, timing: Timing) -> (Mesh, Vec<App>) {
    let mut mesh = Mesh::new(hosts, timing);
    let apps = apps(&mut mesh, hosts);
    mesh.create(apps[0], "c", "{}");
    mesh.wait_ms(1_000);
    (mesh, apps)
}

fn short_tombstones() -> Timing {
    Timing { digest_ms: 1_000, tombstone_ms: 10_000, ..Timing::default() }
}

/// What apps were told of a key, in the order they were.
fn written(told: Vec<(u64, Event)>, key: &str) -> Vec<u64> {
    let deltas = told.into_iter().filter_map(|(_, event)| match event {
        Event::ContextUpdated { delta, .. } => serde_json::from_slice::<Value>(delta.as_bytes()).ok(),
        _ => None,
    });
    let commands = deltas.flat_map(|delta| delta["commands"].as_array().cloned().unwrap_or_default());
    commands
        .filter(|command| command["path"] == key)
        .filter_map(|command| command["value"].as_u64())
        .collect()
}

#[test]
fn edits_of_different_keys_at_once_all_survive() {
    let (mut mesh, apps) = with_context(5, Timing::default());
    mesh.loss = 2;
    for round in 0..1_000 {
        for app in &apps {
            mesh.set(*app, "c", &format!("k{}-{round}", app.0), round);
        }
        mesh.wait_ms(1);
    }
    mesh.wait_ms(2_000);
    mesh.assert_equal();
    for host in 0..5 {
        let value = mesh.value(host, "c").unwrap();
        assert_eq!(value.as_object().map(serde_json::Map::len), Some(5_000));
    }
}

#[test]
fn of_two_who_write_one_key_apart_one_wins_and_the_other_is_told() {
    let (mut mesh, apps) = with_context(2, Timing::default());
    for app in &apps {
        mesh.enter(*app, "c");
    }
    mesh.part(&[0], &[1]);
    for round in 0..1_000 {
        for app in &apps {
            mesh.set(*app, "c", "k", round * 2 + app.0 as u64);
        }
        mesh.wait_ms(5);
    }
    for app in &apps {
        mesh.told(*app);
    }
    mesh.heal();
    mesh.wait_ms(4_000);
    mesh.assert_equal();
    let won = mesh.value(0, "c").unwrap()["k"].as_u64().unwrap();
    assert_eq!(mesh.value(1, "c").unwrap()["k"].as_u64(), Some(won));
    assert!(won >= 1_998, "an older value won: {won}");
    let winner = usize::try_from(won % 2).unwrap();
    let corrections = written(mesh.told(apps[1 - winner]), "k");
    assert_eq!(corrections.last(), Some(&won));
    // Who has the newest is not shown an older one.
    assert!(written(mesh.told(apps[winner]), "k").is_empty());
}

#[test]
fn what_was_removed_stays_so_for_who_slept_through_it() {
    // Shorter and longer than tombstones are kept.
    for asleep_ms in [5_000, 40_000] {
        let (mut mesh, apps) = with_context(3, short_tombstones());
        mesh.create(apps[0], "d", "{}");
        for key in ["a", "b", "c"] {
            mesh.set(apps[0], "c", key, 1);
        }
        let methods = vec![mesh::json("{\"id\":\"m\",\"name\":\"M\"}")];
        let request = mesh.request();
        mesh.say(apps[0], Command::Register { request, methods });
        mesh.wait_ms(3_000);
        assert_eq!(mesh.node(2).methods().len(), 1);
        mesh.part(&[2], &[0, 1]);
        mesh.wait_ms(3_000);
        mesh.update(apps[0], "c", "{\"removed\":[\"a\"]}");
        mesh.update(apps[1], "c", "{\"removed\":[\"b\"]}");
        mesh.destroy(apps[0], "d");
        let (request, methods) = (mesh.request(), vec![mesh::json("\"m\"")]);
        mesh.say(apps[0], Command::Unregister { request, methods });
        mesh.set(apps[2], "c", "mine", 2);
        mesh.wait_ms(asleep_ms);
        mesh.heal();
        mesh.wait_ms(5_000);
        mesh.assert_equal();
        for host in 0..3 {
            assert_eq!(mesh.value(host, "c"), Some(serde_json::json!({ "c": 1, "mine": 2 })), "{asleep_ms}");
            assert_eq!(mesh.value(host, "d"), None);
            assert!(mesh.node(host).methods().is_empty());
        }
    }
}

#[test]
fn a_batch_cut_off_at_any_frame_leaves_survivors_equal() {
    // The last count is more than there are: nothing is cut.
    for (frames, source_dies) in (0..14).flat_map(|frames| [(frames, false), (frames, true)]) {
        let mut mesh = Mesh::new(3, Timing::default());
        mesh.part(&[0], &[1, 2]);
        let app = mesh.app(0);
        mesh.create(app, "c", "{}");
        for key in 0..5_000 {
            mesh.set(app, "c", &format!("key-{key:04}-{}", "x".repeat(60)), key);
        }
        mesh.wait_ms(1_000);
        mesh.heal();
        mesh.frames_left = Some((0, frames));
        mesh.wait_ms(400);
        if source_dies {
            mesh.kill(0);
        }
        mesh.frames_left = None;
        mesh.wait_ms(3_000);
        mesh.assert_equal();
        let keys =
            |value: Option<Value>| value.map_or(0, |value| value.as_object().map_or(0, |map| map.len()));
        let there = [1, 2].map(|host| keys(mesh.value(host, "c")));
        assert_eq!(there[0], there[1]);
        assert!(there[0] == 5_000 || source_dies && there[0] == 0, "{frames} {there:?}");
    }
}

#[test]
fn a_node_back_on_an_empty_disk_an_hour_behind_is_believed() {
    for off_ms in [-3_600_000, 3_600_000] {
        let (mut mesh, apps) = with_context(2, Timing::default());
        let methods = vec![mesh::json("{\"id\":\"m\",\"name\":\"M\"}")];
        let request = mesh.request();
        mesh.say(apps[1], Command::Register { request, methods });
        mesh.set(apps[1], "c", "before", 1);
        mesh.wait_ms(1_000);
        assert_eq!(mesh.node(0).methods().len(), 1);
        mesh.kill(1);
        mesh.set_wall_clock(1, off_ms);
        mesh.start(1);
        mesh.wait_ms(2_000);
        assert!(mesh.node(0).methods().is_empty(), "an earlier life's registration stays");
        let again = mesh.app(1);
        assert_eq!(mesh.value(1, "c").unwrap()["before"], 1);
        for round in 0..5_000 {
            mesh.set(apps[0], "c", "both", round * 2);
            mesh.set(again, "c", "both", round * 2 + 1);
            if round % 50 == 0 {
                mesh.wait_ms(3);
            }
        }
        mesh.wait_ms(1_000);
        mesh.set(again, "c", "before", 2);
        mesh.wait_ms(1_000);
        mesh.assert_equal();
        for host in 0..2 {
            let value = mesh.value(host, "c").unwrap();
            assert_eq!(value["before"], 2, "what was written last did not win");
            assert!(value["both"].as_u64().is_some_and(|both| both >= 9_998), "{value}");
        }
    }
}

#[test]
fn two_halves_work_apart_for_ten_minutes_and_are_one_again() {
    let (mut mesh, apps) = with_context(10, Timing::default());
    let (left, right) = ([0, 1, 2, 3, 4], [5, 6, 7, 8, 9]);
    mesh.part(&left, &right);
    for round in 0..1_000 {
        for app in &apps {
            mesh.set(*app, "c", &format!("k{}-{}", app.0, round % 50), round);
        }
        mesh.wait_ms(600);
    }
    let seen = mesh.node(0).apps().iter().filter(|app| app.local || app.application == "app").count();
    assert_eq!(seen, 5, "apps of the other half are still shown");
    mesh.heal();
    mesh.wait_ms(3_000);
    mesh.assert_equal();
    for host in 0..10 {
        assert_eq!(mesh.node(host).apps().len(), 10);
        let value = mesh.value(host, "c").unwrap();
        let value = value.as_object().unwrap();
        assert_eq!(value.len(), 500);
        assert!(value.values().all(|round| round.as_u64().is_some_and(|round| round >= 950)));
    }
}

#[test]
fn a_link_that_carries_one_way_only_withdraws_both_ends() {
    let (mut mesh, apps) = with_context(2, Timing::default());
    mesh.deafen(1, 0);
    mesh.wait_ms(3_000);
    for app in &apps {
        let gone = |event: &(u64, Event)| matches!(event.1, Event::InstanceRemoved { .. });
        assert!(mesh.told(*app).iter().any(gone), "node {}", app.0);
    }
    mesh.heal();
    mesh.wait_ms(3_000);
    mesh.assert_equal();
}

#[test]
fn state_of_two_that_cannot_meet_goes_over_a_third() {
    let (mut mesh, apps) = with_context(3, Timing::default());
    mesh.part(&[0], &[1]);
    mesh.wait_ms(3_000);
    for round in 0..100 {
        mesh.set(apps[0], "c", "a", round);
        mesh.set(apps[1], "c", "b", round);
        mesh.wait_ms(20);
    }
    mesh.wait_ms(1_000);
    mesh.assert_equal();
    for host in 0..3 {
        assert_eq!(mesh.value(host, "c"), Some(serde_json::json!({ "a": 99, "b": 99 })));
    }
}

#[test]
fn who_is_called_after_an_update_never_sees_the_old_value() {
    let (mut mesh, apps) = with_context(2, Timing::default());
    let (caller, callee) = (apps[0], apps[1]);
    mesh.enter(callee, "c");
    let (request, methods) = (mesh.request(), vec![mesh::json("{\"id\":\"m\",\"name\":\"M\"}")]);
    mesh.say(callee, Command::Register { request, methods });
    mesh.wait_ms(1_000);
    let server = mesh.node(1).apps().iter().find(|app| app.local).map(|app| app.instance.clone()).unwrap();
    mesh.loss = 2;
    let (mut seen, mut calls) = (0, 0);
    for round in 0..10_000u64 {
        mesh.set(caller, "c", "round", round);
        let (request, method) = (mesh.request(), mesh::json("\"m\""));
        let named = Some(mesh::json(&format!("{{\"round\":{round}}}")));
        let (arguments, server) = (Arguments { named, ..Arguments::default() }, server.clone());
        mesh.say(caller, Command::Call { request, server, method, arguments, trace: None });
        mesh.wait_ms(7);
        for event in mesh.told(callee) {
            if let Event::Invoke { arguments, invocation, .. } = &event.1 {
                let named: Value =
                    serde_json::from_slice(arguments.named.as_ref().unwrap().as_bytes()).unwrap();
                assert!(named["round"].as_u64() <= Some(seen), "call {named} came after value {seen} only");
                calls += 1;
                mesh.say(callee, Command::Yield { invocation: *invocation, result: None });
            }
            seen = written(vec![event], "round").into_iter().fold(seen, u64::max);
        }
    }
    assert!(calls > 9_000, "{calls} calls");
}

#[test]
fn edits_apart_that_contradict_each_other_end_as_if_made_in_their_order() {
    let edits = [
        r#"{"added":{"a":1}}"#,
        r#"{"commands":[{"type":"set","path":"a.b","value":2}]}"#,
        r#"{"added":{"a":{"c":3}}}"#,
        r#"{"removed":["a"]}"#,
    ];
    let apply = |a: &mut Option<Value>, edit: usize| match (edit, &mut *a) {
        (0, _) => *a = Some(serde_json::json!(1)),
        (1, Some(Value::Object(members))) => drop(members.insert("b".into(), 2.into())),
        (1, _) => *a = Some(serde_json::json!({ "b": 2 })),
        (2, _) => *a = Some(serde_json::json!({ "c": 3 })),
        _ => *a = None,
    };
    // All ways to give the first, second, third and last turn to four nodes, one edit each.
    let orders = (0..256usize).map(|n| [n & 3, n >> 2 & 3, n >> 4 & 3, n >> 6]);
    let orders = orders.filter(|order| (0..4).all(|edit| order.contains(&edit)));
    for (before, order) in orders.flat_map(|order| [("{}", order), (r#"{"a":{"z":0}}"#, order)]) {
        let mut mesh = Mesh::new(4, Timing::default());
        let apps = apps(&mut mesh, 4);
        mesh.create(apps[0], "c", before);
        mesh.wait_ms(100);
        mesh.part(&[0], &[1, 2, 3]);
        mesh.part(&[1], &[2, 3]);
        mesh.part(&[2], &[3]);
        let mut a = serde_json::from_str::<Value>(before).unwrap().get("a").cloned();
        for edit in order {
            mesh.update(apps[edit], "c", edits[edit]);
            apply(&mut a, edit);
            mesh.wait_ms(10);
        }
        mesh.heal();
        mesh.wait_ms(3_000);
        mesh.assert_equal();
        for host in 0..4 {
            let value = mesh.value(host, "c").unwrap();
            assert_eq!(value.get("a"), a.as_ref(), "{before} and edits in the order {order:?}, node {host}");
        }
    }
}
