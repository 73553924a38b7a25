//! Who is there.

use std::collections::{BTreeMap, BTreeSet};

use mesh_model::{Event, Limits, Text};

use super::{Outcome, Scale, ensure, most, sum};
use crate::mesh::{App, Mesh, Plan, id, written};

/// An app on each host, which offers `m`; all are shown to all.
fn apps(mesh: &mut Mesh, hosts: usize) -> (Vec<App>, Vec<Text>) {
    let apps: Vec<App> = (0..hosts).map(|host| mesh.app(host)).collect();
    for app in &apps {
        mesh.register(*app, "m", false);
    }
    mesh.wait_ms(3_000);
    let instances = apps.iter().map(|app| mesh.instance(*app)).collect();
    mesh.forget_events();
    (apps, instances)
}

fn shown(mesh: &Mesh, host: usize) -> usize {
    mesh.node(host).map_or(0, |node| node.apps().len())
}

/// Answers all invocations of an app, and returns how many there were.
fn answer(mesh: &mut Mesh, app: App) -> u64 {
    let mut answered = 0;
    for (_, event) in mesh.told(app) {
        if let Event::Invoke { invocation, .. } = event {
            mesh.answer(app, invocation);
            answered += 1;
        }
    }
    answered
}

/// Takes the ends of calls: their words.
fn ends(mesh: &mut Mesh, app: App) -> Vec<&'static str> {
    let ends = mesh.told(app).into_iter().filter_map(|(_, event)| match event {
        Event::CallEnded { outcome, .. } => Some(outcome.word()),
        Event::Refused { .. } => Some("refused"),
        _ => None,
    });
    ends.collect()
}

pub(super) fn one_way(seed: u64, scale: Scale) -> Outcome {
    let limits = Limits { call_ms_max: 6_000, ..Limits::default() };
    let (mut slowest, mut calls) = (0, 0);
    for round in 0..scale.of(20, 3) {
        let mut mesh = Mesh::new(Plan { limits: limits.clone(), ..Plan::new(seed << 8 | round, 2) });
        let (apps, instances) = apps(&mut mesh, 2);
        let wait = mesh.rng.range(0, 1_000);
        mesh.wait_ms(wait);
        for number in 0..20 {
            mesh.call(apps[0], &instances[1], number);
            mesh.call(apps[1], &instances[0], number);
        }
        let (from, to) = if mesh.rng.chance(50) { (0, 1) } else { (1, 0) };
        mesh.deafen(from, to);
        let gone = mesh.wait_until(3_000, |mesh| shown(mesh, 0) == 1 && shown(mesh, 1) == 1);
        let Some(gone) = gone else { return Err("an end is not withdrawn within 3 s".into()) };
        slowest = slowest.max(gone);
        mesh.wait_ms(8_000);
        for app in &apps {
            let ends = ends(&mut mesh, *app).len();
            ensure!(ends == 20, "{ends} of 20 calls have ended");
            calls += 20;
        }
        mesh.heal();
        mesh.wait_ms(3_000);
        mesh.equal()?;
        ensure!(shown(&mesh, 0) == 2 && shown(&mesh, 1) == 2, "they are not shown again");
    }
    Ok(vec![most("ms until both are withdrawn", slowest), sum("calls that were open, all ended", calls)])
}

pub(super) fn triangle(seed: u64, scale: Scale) -> Outcome {
    let total = scale.of(1_000, 100);
    let mut mesh = Mesh::new(Plan { relay: true, ..Plan::new(seed, 3) });
    let (apps, instances) = apps(&mut mesh, 3);
    mesh.create(apps[0], "c", "{}");
    mesh.wait_ms(500);
    mesh.part(&[0], &[1]);
    mesh.wait_ms(4_000);
    ensure!(shown(&mesh, 0) == 3 && shown(&mesh, 1) == 3, "they are not shown by way of the third");
    mesh.forget_events();
    let (mut ran, mut ok, mut slowest) = ([0; 2], 0, 0);
    for number in 0..total {
        mesh.set(apps[0], "c", "a", number);
        mesh.set(apps[1], "c", "b", number);
        mesh.call(apps[0], &instances[1], number);
        mesh.call(apps[1], &instances[0], number);
        if number + 1 < total {
            let wait = mesh.rng.range(1, 20);
            mesh.wait_ms(wait);
        } else {
            let Some(equal) = mesh.wait_until(3_000, Mesh::is_equal) else {
                return Err("state does not flow by way of the third".into());
            };
            slowest = equal;
            mesh.wait_ms(200);
        }
        for side in 0..2 {
            for (_, event) in mesh.told(apps[side]) {
                match event {
                    Event::Invoke { invocation, .. } => {
                        ran[side] += 1;
                        mesh.answer(apps[side], invocation);
                    }
                    Event::CallEnded { outcome, .. } => ok += u64::from(outcome.word() == "ok"),
                    _ => {}
                }
            }
        }
    }
    mesh.wait_ms(1_000);
    for app in &apps[..2] {
        ok += ends(&mut mesh, *app).into_iter().filter(|word| *word == "ok").count() as u64;
    }
    ensure!(ran == [total; 2] && ok == total * 2, "{ran:?} ran and {ok} were answered of {total} each way");
    Ok(vec![sum("calls by way of the third, none lost or doubled", ok), most("ms until equal", slowest)])
}

pub(super) fn laptop(seed: u64, scale: Scale) -> Outcome {
    let hours = [60_000, 3_600_000, scale.of(9 * 3_600_000, 2 * 3_600_000)];
    let mut slowest = 0;
    for asleep_ms in hours {
        let mut mesh = Mesh::new(Plan { relay: true, ..Plan::new(seed ^ asleep_ms, 3) });
        let (apps, instances) = apps(&mut mesh, 3);
        mesh.create(apps[0], "c", "{\"a\":1}");
        mesh.wait_ms(500);
        mesh.enter(apps[2], "c");
        mesh.set(apps[2], "c", "own", 7);
        mesh.wait_ms(500);
        // It sleeps: nothing reaches it, and it does nothing.
        mesh.part(&[2], &[0, 1]);
        mesh.stop_for(2, asleep_ms);
        mesh.wait_ms(5_000);
        ensure!(shown(&mesh, 0) == 2, "the sleeper's app is still shown");
        mesh.told(apps[0]);
        mesh.call(apps[0], &instances[2], 1);
        let ended = ends(&mut mesh, apps[0]);
        ensure!(ended == ["not_delivered"] || ended == ["refused"], "a call to it ended as {ended:?}");
        mesh.set(apps[0], "c", "a", 2);
        mesh.update(apps[0], "c", "{\"removed\":[\"own\"]}");
        let start = mesh.now_us;
        mesh.wait_ms(asleep_ms - 5_000);
        ensure!(mesh.now_us > start, "no time has passed");
        mesh.told(apps[2]);
        mesh.wake(2);
        let whole = |mesh: &Mesh| mesh.is_equal() && (0..3).all(|host| shown(mesh, host) == 3);
        let Some(whole) = mesh.wait_until(2_000, whole) else {
            return Err(format!("not whole 2 s after {} s of sleep", asleep_ms / 1_000));
        };
        slowest = slowest.max(whole);
        mesh.wait_ms(2_000);
        mesh.equal()?;
        let told = mesh.told(apps[2]);
        ensure!(written(&told, "a").iter().all(|a| *a == 2), "the sleeper was shown an older value");
        for host in 0..3 {
            let value = mesh.value(host, "c");
            ensure!(value == Some(serde_json::json!({ "a": 2 })), "node {host} has {value:?}");
        }
        mesh.call(apps[0], &instances[2], 2);
        mesh.wait_ms(10);
        let ran = answer(&mut mesh, apps[2]);
        mesh.wait_ms(10);
        // It comes back under the ids it had.
        ensure!(ran == 1 && ends(&mut mesh, apps[0]) == ["ok"], "a call after waking did not arrive");
    }
    Ok(vec![sum("sleeps", 3), most("ms until whole", slowest)])
}

pub(super) fn clones(seed: u64, scale: Scale) -> Outcome {
    // Two of another kind, and copies of one image with one key, which nothing tells apart where they start.
    let copies = usize::try_from(scale.of(20, 6)).unwrap_or(6);
    let hosts = 2 + copies;
    let plan = Plan { copies: (2..hosts).map(|host| (host, 2)).collect(), ..Plan::new(seed, hosts) };
    let mut mesh = Mesh::new(plan);
    let mut apps: Vec<App> = (0..hosts).map(|host| mesh.app(host)).collect();
    for app in &apps {
        mesh.register(*app, "m", false);
    }
    let mut parted: BTreeMap<usize, u64> = BTreeMap::new();
    for _ in 0..40 {
        mesh.wait_ms(250);
        for host in std::mem::take(&mut mesh.notices.superseded) {
            mesh.begin_as_another(host);
            apps[host] = mesh.app(host);
            mesh.register(apps[host], "m", false);
            *parted.entry(host).or_default() += 1;
        }
    }
    ensure!(parted.values().all(|times| *times == 1), "some parted more than once: {parted:?}");
    ensure!(parted.keys().copied().eq(2..hosts - 1), "not all but the newest have parted: {parted:?}");
    let ids: BTreeSet<_> = (0..hosts).map(|host| mesh.node_id(host)).collect();
    ensure!(ids.len() == hosts, "{hosts} nodes have {} ids", ids.len());
    let links = |mesh: &Mesh| -> Vec<u64> {
        (0..hosts).map(|host| mesh.notices.up.get(&host).copied().unwrap_or(0)).collect()
    };
    let before = links(&mesh);
    let instances: Vec<Text> = apps.iter().map(|app| mesh.instance(*app)).collect();
    mesh.wait_ms(scale.of(300_000, 30_000));
    mesh.forget_events();
    ensure!(before == links(&mesh), "links go to and fro: {before:?}, then {:?}", links(&mesh));
    for host in 0..hosts {
        let seen = shown(&mesh, host);
        ensure!(seen == hosts, "node {host} shows {seen} of {hosts} apps");
    }
    for (host, instance) in instances.iter().enumerate().skip(1) {
        mesh.call(apps[0], instance, host as u64);
        mesh.wait_ms(10);
        let ran: Vec<usize> = (1..hosts).filter(|other| answer(&mut mesh, apps[*other]) > 0).collect();
        ensure!(ran == [host], "a call to the app on {host} ran on {ran:?}");
        mesh.wait_ms(10);
        ensure!(ends(&mut mesh, apps[0]) == ["ok"], "a call to the app on {host} was not answered");
    }
    Ok(vec![
        sum("copies, each with an id of its own", copies as u64),
        most("links of one node in all", before.into_iter().max().unwrap_or(0)),
    ])
}

pub(super) fn suspicion(seed: u64, scale: Scale) -> Outcome {
    // 80 ms there and back.
    let plan = Plan { trip_us: (38_000, 42_000), dial_us: 1_000_000, ..Plan::new(seed, 2) };
    let mut mesh = Mesh::new(plan.clone());
    apps(&mut mesh, 2);
    mesh.loss = 2;
    mesh.notices = Default::default();
    for _ in 0..scale.of(24 * 60, 30) {
        mesh.wait_ms(60_000);
        mesh.forget_events();
    }
    // Both ends may notice the same silence.
    let by_loss = mesh.notices.silent.values().copied().max().unwrap_or(0);
    ensure!(by_loss <= 1, "{by_loss} suspicions in a day");

    let mut mesh = Mesh::new(Plan { hosts: 5, ..plan });
    apps(&mut mesh, 5);
    mesh.loss = 2;
    mesh.notices = Default::default();
    let stalls = scale.of(60, 5);
    for _ in 0..stalls {
        mesh.stop_for(4, 3_000);
        let wait = mesh.rng.range(20_000, 60_000);
        mesh.wait_ms(wait);
        mesh.forget_events();
    }
    let silent: BTreeMap<_, _> = std::mem::take(&mut mesh.notices.silent);
    let of = |wanted: &dyn Fn(usize, bool) -> bool| -> u64 {
        silent.iter().filter(|((host, peer), _)| wanted(*host, *peer == id(4))).map(|(_, count)| count).sum()
    };
    let (others, of_it, by_it) =
        (of(&|host, it| host != 4 && !it), of(&|_, it| it), of(&|host, _| host == 4));
    ensure!(others == 0, "nodes that were not stalled suspected each other {others} times");
    for host in 0..5 {
        ensure!(shown(&mesh, host) == 5, "node {host} does not show all again");
    }
    Ok(vec![
        sum("suspicions by loss", by_loss),
        sum("stalls of 3 s", stalls),
        sum("suspicions among the nodes that were not stalled", others),
        sum("of the stalled node, by four others", of_it),
        sum("by the stalled node", by_it),
    ])
}
