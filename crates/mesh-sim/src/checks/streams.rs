//! Streams.

use std::collections::BTreeMap;

use mesh_core::Input;
use mesh_model::{Cause, Command, Event};
use serde_json::json;

use super::{Outcome, Scale, ensure, most, sum};
use crate::mesh::{App, Mesh, Plan, Use, json as text, named};
use crate::value::{from_json, number, to_json};

/// How many messages wait for one subscription before it counts as too slow.
const WAITING_MAX: u64 = 1_024;

/// The last message that each subscription has brought.
type Held = BTreeMap<(App, u64), u64>;

/// A provider on the first host, and subscribers of one branch on all.
fn branch(plan: Plan, each: u64) -> Result<(Mesh, App, Held), String> {
    let hosts = plan.hosts;
    let mut mesh = Mesh::new(plan);
    let provider = mesh.app(0);
    mesh.register(provider, "s", true);
    let apps: Vec<App> =
        (0..hosts).flat_map(|host| (0..each).map(move |_| host)).map(|host| mesh.app(host)).collect();
    mesh.wait_ms(4_000);
    let server = mesh.instance(provider);
    for app in &apps {
        let request = mesh.request();
        let (server, method) = (server.clone(), text("\"s\""));
        mesh.say(*app, Command::Subscribe { request, server, method, arguments: named(&json!({})) });
    }
    mesh.wait_ms(200);
    for (_, event) in mesh.told(provider) {
        if let Event::SubscriptionRequested { subscription, .. } = event {
            mesh.say(provider, Command::Accept { subscription, branch: text("\"x\"") });
        }
    }
    mesh.wait_ms(200);
    let mut held = BTreeMap::new();
    for app in &apps {
        for (_, event) in mesh.told(*app) {
            if let Event::Subscribed { subscription, .. } = event {
                held.insert((*app, subscription), 0);
            }
        }
    }
    ensure!(held.len() == apps.len(), "{} of {} apps are subscribed", held.len(), apps.len());
    Ok((mesh, provider, held))
}

fn push(mesh: &mut Mesh, provider: App, n: u64) {
    let data = to_json(&json!({ "n": n, "price": "x".repeat(100) }));
    mesh.say(provider, Command::Push { branch: text("\"x\""), data, sequence: None, snapshot: None });
}

/// Takes what the subscribers were told: each has all in order.
fn read(mesh: &mut Mesh, held: &mut Held) -> Result<(), String> {
    for ((app, subscription), last) in held {
        for (_, event) in mesh.told(*app) {
            match event {
                Event::StreamData { subscription: of, data, .. } if of == *subscription => {
                    let n = number(&from_json(&data), "n");
                    ensure!(n == *last + 1, "app {app:?} got {n} after {last}");
                    *last = n;
                }
                Event::SubscriptionEnded { cause, .. } => {
                    return Err(format!("a subscription ended: {cause:?}"));
                }
                _ => {}
            }
        }
    }
    Ok(())
}

pub(super) fn fan_out(seed: u64, scale: Scale) -> Outcome {
    let hosts = usize::try_from(scale.of(20, 5)).unwrap_or(5);
    let (each, messages) = (scale.of(50, 5), scale.of(1_000, 200));
    let (mut mesh, provider, mut held) = branch(Plan::new(seed, hosts), each)?;
    mesh.bytes.clear();
    for n in 1..=messages {
        push(&mut mesh, provider, n);
        let gap = mesh.rng.range(0, 2_000);
        mesh.wait_us(gap);
        read(&mut mesh, &mut held)?;
    }
    mesh.wait_ms(100);
    read(&mut mesh, &mut held)?;
    ensure!(held.values().all(|last| *last == messages), "an app did not get all");
    // One copy is what a message with these data is long.
    let one = mesh.bytes.get(&(0, 1, Use::Stream)).copied().unwrap_or(0) / messages;
    ensure!((100..200).contains(&one), "a copy has {one} bytes");
    let mut worst = 0;
    for (from, to) in (0..hosts).flat_map(|from| (0..hosts).map(move |to| (from, to))).filter(|(a, b)| a != b)
    {
        let sent = mesh.bytes.get(&(from, to, Use::Stream)).copied().unwrap_or(0);
        let share = sent * 100 / (one * messages);
        ensure!(from == 0 || sent == 0, "node {from} sent {sent} bytes to node {to}");
        ensure!(share <= 110, "the link to node {to} carried {share} % of one copy");
        worst = worst.max(share);
    }
    let copies = held.len() as u64;
    Ok(vec![
        sum("messages", messages),
        sum("deliveries in order", messages * copies),
        most("% of one copy on a link", worst),
    ])
}

pub(super) fn slow_consumer(seed: u64, scale: Scale) -> Outcome {
    let messages = scale.of(4_000, 1_500);
    let (mut mesh, provider, mut held) = branch(Plan::new(seed, 3), 4)?;
    // One app stops reading: what it is told waits in its outbox until that is full.
    let pick = mesh.rng.range(0, held.len() as u64 - 1);
    let slow = held.keys().nth(usize::try_from(pick).unwrap_or(0)).copied();
    let Some((app, subscription)) = slow else { return Err("nobody is subscribed".into()) };
    held.remove(&(app, subscription));
    let (mut waiting, mut ended, mut after) = (0u64, 0u64, 0u64);
    for n in 1..=messages {
        push(&mut mesh, provider, n);
        mesh.wait_us(1_000);
        read(&mut mesh, &mut held)?;
        for (_, event) in mesh.told(app) {
            match event {
                Event::StreamData { .. } if ended > 0 => after += 1,
                Event::StreamData { .. } => waiting += 1,
                Event::SubscriptionEnded { cause: Cause::TooSlow, .. } => ended += 1,
                _ => {}
            }
        }
        if waiting == WAITING_MAX && ended == 0 {
            mesh.input(app.0, Input::TooSlow { session: app.1, subscription });
        }
    }
    mesh.wait_ms(100);
    read(&mut mesh, &mut held)?;
    ensure!(ended == 1 && after == 0, "the slow subscription ended {ended} times, {after} data came after");
    ensure!(held.values().all(|last| *last == messages), "another app did not get all");
    Ok(vec![
        sum("messages", messages),
        most("waited for the slow app", waiting),
        sum("deliveries to the others in order", messages * held.len() as u64),
    ])
}
