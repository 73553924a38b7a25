//! Replicated state.

use mesh_core::Timing;
use mesh_model::Event;
use serde_json::{Value, json};

use super::{Outcome, Scale, ensure, least, most, sum};
use crate::mesh::{App, Mesh, Plan, Use, written};

fn apps(mesh: &mut Mesh, hosts: usize) -> Vec<App> {
    let apps = (0..hosts).map(|host| mesh.app(host)).collect();
    mesh.wait_ms(2_000);
    apps
}

/// Nodes with an app each, and a context that all know.
pub(super) fn with_context(plan: Plan) -> (Mesh, Vec<App>) {
    let hosts = plan.hosts;
    let mut mesh = Mesh::new(plan);
    let apps = apps(&mut mesh, hosts);
    mesh.create(apps[0], "c", "{}");
    mesh.wait_ms(1_000);
    (mesh, apps)
}

fn keys(value: Option<&Value>) -> usize {
    value.and_then(Value::as_object).map_or(0, serde_json::Map::len)
}

fn settled(mesh: &mut Mesh, max_ms: u64) -> Result<u64, String> {
    let equal = mesh.wait_until(max_ms, Mesh::is_equal);
    equal.ok_or_else(|| format!("the nodes do not hold the same after {max_ms} ms"))
}

pub(super) fn concurrent_edits(seed: u64, scale: Scale) -> Outcome {
    let (mut mesh, apps) = with_context(Plan::new(seed, 5));
    mesh.loss = 2;
    let rounds = scale.of(1_000, 200);
    for round in 0..rounds {
        for app in &apps {
            mesh.set(*app, "c", &format!("k{}-{round}", app.0), round);
        }
        mesh.wait_ms(1);
    }
    let equal = settled(&mut mesh, 2_000)?;
    for host in 0..5 {
        let there = keys(mesh.value(host, "c").as_ref()) as u64;
        ensure!(there == rounds * 5, "node {host} has {there} of {} edits", rounds * 5);
    }
    Ok(vec![sum("edits, all there", rounds * 5), most("ms until equal", equal)])
}

pub(super) fn same_key(seed: u64, scale: Scale) -> Outcome {
    let (mut mesh, apps) = with_context(Plan::new(seed, 2));
    for app in &apps {
        mesh.enter(*app, "c");
    }
    mesh.part(&[0], &[1]);
    let rounds = scale.of(1_000, 100);
    for round in 0..rounds {
        for app in &apps {
            if mesh.rng.chance(50) {
                mesh.wait_ms(1);
            }
            mesh.set(*app, "c", "k", round * 2 + app.0 as u64);
        }
        mesh.wait_ms(3);
    }
    for app in &apps {
        mesh.told(*app);
    }
    mesh.heal();
    mesh.wait_ms(4_000);
    mesh.equal()?;
    let won = mesh.value(0, "c").and_then(|value| value["k"].as_u64()).unwrap_or(0);
    let there = mesh.value(1, "c").and_then(|value| value["k"].as_u64());
    ensure!(there == Some(won) && won >= rounds * 2 - 2, "{won} won on one node, {there:?} on the other");
    let winner = usize::from(won % 2 == 1);
    let told = mesh.told(apps[1 - winner]);
    ensure!(written(&told, "k").last() == Some(&won), "the loser was not told");
    let told = mesh.told(apps[winner]);
    ensure!(written(&told, "k").is_empty(), "who has the newest was shown an older one");
    Ok(vec![sum("writes, one winner each time", rounds * 2)])
}

pub(super) fn path_conflicts(seed: u64, scale: Scale) -> Outcome {
    let edits = [
        r#"{"added":{"a":1}}"#,
        r#"{"commands":[{"type":"set","path":"a.b","value":2}]}"#,
        r#"{"added":{"a":{"c":3}}}"#,
        r#"{"removed":["a"]}"#,
    ];
    let apply = |a: &mut Option<Value>, edit: usize| match (edit, &mut *a) {
        (0, _) => *a = Some(json!(1)),
        (1, Some(Value::Object(members))) => drop(members.insert("b".into(), 2.into())),
        (1, _) => *a = Some(json!({ "b": 2 })),
        (2, _) => *a = Some(json!({ "c": 3 })),
        _ => *a = None,
    };
    // All ways to give the first, second, third and last turn to four nodes, one edit each.
    let orders = (0..256usize).map(|n| [n & 3, n >> 2 & 3, n >> 4 & 3, n >> 6]);
    let orders = orders.filter(|order| (0..4).all(|edit| order.contains(&edit)));
    let step = usize::try_from(scale.of(1, 4)).unwrap_or(1);
    let mut played = 0;
    for (before, order) in orders.flat_map(|order| [("{}", order), (r#"{"a":{"z":0}}"#, order)]).step_by(step)
    {
        let mut mesh = Mesh::new(Plan::new(seed << 8 | played, 4));
        let apps = apps(&mut mesh, 4);
        mesh.create(apps[0], "c", before);
        mesh.wait_ms(100);
        mesh.part(&[0], &[1, 2, 3]);
        mesh.part(&[1], &[2, 3]);
        mesh.part(&[2], &[3]);
        let mut a = serde_json::from_str::<Value>(before).ok().and_then(|value| value.get("a").cloned());
        for edit in order {
            mesh.update(apps[edit], "c", edits[edit]);
            apply(&mut a, edit);
            let wait = mesh.rng.range(2, 20);
            mesh.wait_ms(wait);
        }
        mesh.heal();
        mesh.wait_ms(3_000);
        mesh.equal()?;
        for host in 0..4 {
            let there = mesh.value(host, "c").and_then(|value| value.get("a").cloned());
            ensure!(
                there == a,
                "{before} and edits in the order {order:?}: node {host} has {there:?}, not {a:?}"
            );
        }
        played += 1;
    }
    Ok(vec![sum("orders", played)])
}

pub(super) fn no_zombie(seed: u64, scale: Scale) -> Outcome {
    // Shorter and longer than tombstones are kept.
    for asleep_ms in [5_000, 40_000] {
        let timing = Timing { digest_ms: 1_000, tombstone_ms: 10_000, ..Timing::default() };
        let (mut mesh, apps) = with_context(Plan { timing, ..Plan::new(seed, 3) });
        mesh.create(apps[0], "d", "{}");
        for key in ["a", "b", "c"] {
            mesh.set(apps[0], "c", key, 1);
        }
        mesh.register(apps[0], "m", false);
        mesh.wait_ms(3_000);
        let methods = |mesh: &Mesh, host| mesh.node(host).map_or(0, |node| node.methods().len());
        ensure!(methods(&mesh, 2) == 1, "the method is not shown");
        mesh.part(&[2], &[0, 1]);
        mesh.wait_ms(3_000);
        mesh.update(apps[0], "c", "{\"removed\":[\"a\"]}");
        mesh.update(apps[1], "c", "{\"removed\":[\"b\"]}");
        mesh.destroy(apps[0], "d");
        mesh.unregister(apps[0], "m");
        mesh.set(apps[2], "c", "mine", 2);
        let more = mesh.rng.range(0, scale.of(3_000, 500));
        mesh.wait_ms(asleep_ms + more);
        mesh.heal();
        mesh.wait_ms(5_000);
        mesh.equal()?;
        for host in 0..3 {
            let value = mesh.value(host, "c");
            ensure!(
                value == Some(json!({ "c": 1, "mine": 2 })),
                "after {asleep_ms} ms node {host} has {value:?}"
            );
            ensure!(mesh.value(host, "d").is_none(), "after {asleep_ms} ms the context is back");
            ensure!(methods(&mesh, host) == 0, "after {asleep_ms} ms the method is back");
        }
    }
    Ok(vec![sum("sleeps, nothing came back", 2)])
}

pub(super) fn cut_off_batches(seed: u64, scale: Scale) -> Outcome {
    let (size, mut cuts) = (scale.of(5_000, 2_000), 0);
    // The last count is more than there are: nothing is cut.
    for (frames, source_dies) in (0..14).flat_map(|frames| [(frames, false), (frames, true)]) {
        let mut mesh = Mesh::new(Plan::new(seed << 8 | frames, 3));
        mesh.part(&[0], &[1, 2]);
        let app = mesh.app(0);
        mesh.create(app, "c", "{}");
        for key in 0..size {
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
        mesh.equal()?;
        let there = [1, 2].map(|host| keys(mesh.value(host, "c").as_ref()) as u64);
        let right = there[0] == there[1] && (there[0] == size || source_dies && there[0] == 0);
        ensure!(right, "cut after {frames} frames: {there:?} keys");
        cuts += 1;
    }
    Ok(vec![sum("cuts, all or nothing each time", cuts)])
}

pub(super) fn lost_disk(seed: u64, scale: Scale) -> Outcome {
    let mut longest = 0;
    for off_ms in [-3_600_000, 3_600_000] {
        let (mut mesh, apps) = with_context(Plan::new(seed, 2));
        mesh.register(apps[1], "m", false);
        mesh.set(apps[1], "c", "before", 1);
        mesh.wait_ms(1_000);
        let methods = |mesh: &Mesh| mesh.node(0).map_or(0, |node| node.methods().len());
        ensure!(methods(&mesh) == 1, "the method is not shown");
        mesh.kill(1);
        let down = mesh.rng.range(0, 3_000);
        mesh.wait_ms(down);
        mesh.set_wall_clock(1, off_ms);
        mesh.start(1);
        let gone = mesh.wait_until(2_000, |mesh| methods(mesh) == 0);
        let Some(gone) = gone else { return Err("an earlier life's registration stays".into()) };
        longest = longest.max(gone);
        mesh.wait_ms(1_000);
        let again = mesh.app(1);
        ensure!(mesh.value(1, "c").is_some_and(|value| value["before"] == 1), "the context is not restored");
        let rounds = scale.of(5_000, 500);
        for round in 0..rounds {
            mesh.set(apps[0], "c", "both", round * 2);
            mesh.set(again, "c", "both", round * 2 + 1);
            if round % 50 == 0 {
                mesh.wait_ms(3);
            }
        }
        mesh.wait_ms(1_000);
        mesh.set(again, "c", "before", 2);
        mesh.wait_ms(1_000);
        mesh.equal()?;
        for host in 0..2 {
            let value = mesh.value(host, "c").unwrap_or_default();
            ensure!(value["before"] == 2, "what was written last did not win");
            let both = value["both"].as_u64();
            ensure!(both.is_some_and(|both| both >= rounds * 2 - 2), "{both:?} won of {}", rounds * 2);
        }
    }
    Ok(vec![sum("restarts", 2), most("ms until the old registrations are gone", longest)])
}

/// Bytes of batches that were sent so far.
fn batches(mesh: &Mesh) -> u64 {
    mesh.bytes.iter().filter(|((_, _, kind), _)| *kind == Use::Replication).map(|(_, bytes)| bytes).sum()
}

pub(super) fn halves(seed: u64, scale: Scale) -> Outcome {
    let (mut mesh, apps) = with_context(Plan::new(seed, 10));
    mesh.register(apps[0], "s", true);
    mesh.wait_ms(500);
    let server = mesh.instance(apps[0]);
    for app in [apps[1], apps[5]] {
        let request = mesh.request();
        let (server, method) = (server.clone(), crate::mesh::json("\"s\""));
        let arguments = crate::mesh::named(&json!({}));
        mesh.say(app, mesh_model::Command::Subscribe { request, server, method, arguments });
    }
    mesh.wait_ms(100);
    let accept = |mesh: &mut Mesh| {
        for (_, event) in mesh.told(apps[0]) {
            if let Event::SubscriptionRequested { subscription, .. } = event {
                let branch = crate::mesh::json("\"x\"");
                mesh.say(apps[0], mesh_model::Command::Accept { subscription, branch });
            }
        }
    };
    accept(&mut mesh);
    mesh.wait_ms(100);
    let (left, right) = ([0, 1, 2, 3, 4], [5, 6, 7, 8, 9]);
    mesh.part(&left, &right);
    mesh.forget_events();
    let rounds = scale.of(2_000, 200);
    for round in 0..rounds {
        for app in &apps {
            mesh.set(*app, "c", &format!("k{}-{}", app.0, round % 50), round);
        }
        mesh.wait_ms(600_000 / rounds);
    }
    let seen = mesh.node(0).map_or(0, |node| node.apps().len());
    ensure!(seen == 5, "{seen} apps are shown while apart");
    let ended = mesh.told(apps[1]).iter().any(|(_, event)| matches!(event, Event::SubscriptionEnded { .. }));
    ensure!(!ended, "a subscription within a half was cancelled");
    mesh.heal();
    let equal = settled(&mut mesh, 5_000)?;
    mesh.wait_ms(1_000);
    mesh.equal()?;
    for host in 0..10 {
        let shown = mesh.node(host).map_or(0, |node| node.apps().len());
        ensure!(shown == 10, "node {host} shows {shown} apps");
        let value = mesh.value(host, "c").unwrap_or_default();
        let newest = value.as_object().is_some_and(|value| {
            value.len() == 500 && value.values().all(|round| round.as_u64().is_some_and(|r| r >= rounds - 50))
        });
        ensure!(newest, "node {host} does not have what was written last");
    }
    Ok(vec![sum("changes on each side", rounds * 5), most("ms until equal", equal)])
}

pub(super) fn heal(seed: u64, scale: Scale) -> Outcome {
    let hosts = usize::try_from(scale.of(32, 8)).unwrap_or(8);
    let changes = scale.of(1_000, 100);
    let (mut mesh, apps) = with_context(Plan { relay: true, ..Plan::new(seed, hosts) });
    let half = hosts / 2;
    let (left, right): (Vec<usize>, Vec<usize>) = ((0..half).collect(), (half..hosts).collect());
    mesh.part(&left, &right);
    mesh.wait_ms(3_000);
    mesh.bytes.clear();
    for change in 0..changes {
        mesh.set(apps[0], "c", &format!("left-{change}"), change);
        mesh.set(apps[half], "c", &format!("right-{change}"), change);
        mesh.wait_ms(2);
        mesh.forget_events();
    }
    mesh.wait_ms(1_000);
    let before = batches(&mesh);
    let writers = [0, half];
    let own = mesh.bytes.iter().filter(|((from, ..), _)| writers.contains(from));
    let own: u64 = own.filter(|((.., kind), _)| *kind == Use::Replication).map(|(_, bytes)| bytes).sum();
    mesh.heal();
    let equal = settled(&mut mesh, 10_000)?;
    mesh.wait_ms(3_000);
    mesh.equal()?;
    let sent = batches(&mesh) - before;
    for host in [0, hosts - 1] {
        let there = keys(mesh.value(host, "c").as_ref()) as u64;
        ensure!(there == changes * 2, "node {host} has {there} of {} keys", changes * 2);
    }
    // What each node lacked is half of what one that knows nothing is given, by its first neighbour alone.
    let others: Vec<usize> = (1..hosts - 1).collect();
    mesh.part(&[hosts - 1], &others);
    mesh.kill(hosts - 1);
    mesh.tell_of_death(hosts - 1);
    mesh.bytes.clear();
    mesh.start(hosts - 1);
    mesh.wait_ms(500);
    let all = mesh.bytes.get(&(0, hosts - 1, Use::Replication)).copied().unwrap_or(0);
    let missing = all / 2 * hosts as u64;
    Ok(vec![
        sum("changes on each side", changes),
        least("nodes in a domain", hosts as u64),
        most("% of what the writers sent was sent in all while they wrote", before * 100 / own.max(1)),
        most("ms until equal", equal),
        most("% of the bytes that were missing were sent", sent * 100 / missing.max(1)),
    ])
}
