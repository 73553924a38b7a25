//! State in bulk: for a node that comes late, after a cut, and beside small calls.

use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use mesh_client::{Client, ContextChange, Feed, Target};
use serde_json::{Value, json};
use tokio::time::{interval, timeout};

use super::desks::{Desks, PATIENCE, offer, sees, until};
use super::latency::{METHOD, ms};
use super::relay::Conditions;
use super::{Latencies, Row};
use crate::clock;
use crate::system::Kit;

/// A node joins a mesh with one large context over a link of limited rate; later one key changes while the
/// link is cut.
pub(crate) async fn late_joiner(kit: &Kit, trials: usize, cut: Duration) -> Result<Vec<Row>> {
    let slow =
        Conditions { bits_per_second: Some(100_000_000), ..Conditions::delay(Duration::from_millis(1)) };
    let (mut whole, mut healed, mut most) = (Latencies::new()?, Latencies::new()?, 0);
    for _ in 0..trials {
        let mut desks = Desks::start(kit, 1).await?;
        let near = desks.0[0].app("near").await?;
        for key in 0..KEYS {
            near.contexts().update(CONTEXT, json!({ format!("key-{key}"): filling(key) })).await?;
        }
        desks.set(slow);
        let start = clock::now();
        desks.join(kit, slow).await?;
        let far = desks.0[1].app("far").await?;
        until("the context is there", || far.contexts().names().iter().any(|name| name == CONTEXT)).await?;
        let state = far.contexts().get(CONTEXT).await?.context("a context without a state")?;
        whole.record(start.elapsed());
        let bytes: usize = state
            .as_object()
            .context("not an object")?
            .values()
            .filter_map(Value::as_str)
            .map(str::len)
            .sum();
        ensure!(bytes == KEYS * KEY_BYTES, "{bytes} bytes came");

        offer(&near, METHOD).await?;
        far.wait_for_method(METHOD, PATIENCE).await?;
        let mut changes = far.contexts().subscribe(CONTEXT);
        // Digests may still be on their way.
        tokio::time::sleep(Duration::from_secs(3)).await;
        desks.cut(true);
        near.contexts().set_path(CONTEXT, "late", json!("one key")).await?;
        tokio::time::sleep(cut).await;
        ensure!(!sees(&far, METHOD), "a cut link was not given up");
        let before = desks.bytes();
        let start = clock::now();
        desks.cut(false);
        timeout(PATIENCE, until_change(&mut changes, "late", "one key")).await??;
        healed.record(start.elapsed());
        most = most.max(desks.bytes() - before);
        desks.stop().await;
    }
    let (p50, longest) = (whole.quantile(0.5), whole.quantile(1.0));
    let back = healed.quantile(1.0);
    Ok(vec![
        Row {
            what:
                "a context of 16 MiB for a node that joins at 100 Mbit/s, from its start until an app has it"
                    .to_owned(),
            target: "≤ 2.5 s".to_owned(),
            measured: format!("p50 {}, longest {} of {trials}", ms(p50), ms(longest)),
            holds: longest <= Duration::from_millis(2_500),
        },
        Row {
            what: format!(
                "one key of it after a cut of {} s: bytes on the wire until it is seen",
                cut.as_secs()
            ),
            target: "≤ 20 kB".to_owned(),
            measured: format!("at most {most} bytes in {trials}, seen at most {} after the cut", ms(back)),
            holds: most <= 20_000,
        },
    ])
}

async fn until_change(changes: &mut Feed<ContextChange>, key: &str, value: &str) -> Result<()> {
    loop {
        match changes.next().await.context("the feed ended")? {
            ContextChange::Updated { data, .. } if data[key] == value => return Ok(()),
            _ => {}
        }
    }
}

/// Calls between two nodes while 64 MiB of state cross the same link.
///
/// The state is written on a third node that is cut off from both, and that then finds the first again: the
/// first has it all at once, and passes it on to the second.
pub(crate) async fn beside(kit: &Kit, trials: usize) -> Result<Vec<Row>> {
    let mut rows = Vec::new();
    for (what, network) in [
        (
            "small calls beside 64 MiB of contexts on the same link, 1 ms each way",
            Conditions::delay(Duration::from_millis(1)),
        ),
        (
            "the same at 100 Mbit/s",
            Conditions { bits_per_second: Some(100_000_000), ..Conditions::delay(Duration::from_millis(1)) },
        ),
    ] {
        let desks = Desks::start(kit, 3).await?;
        let (near, far) = (desks.0[0].app("near").await?, desks.0[1].app("far").await?);
        let writer = desks.0[2].app("writer").await?;
        offer(&near, METHOD).await?;
        far.wait_for_method(METHOD, PATIENCE).await?;
        writer.contexts().set(DONE, json!({ "n": 0 })).await?;
        let mut done = [near.contexts().subscribe(DONE), far.contexts().subscribe(DONE)];
        for done in &mut done {
            until_number(done, 0).await?;
        }
        desks.set(network);
        let (mut alone, mut beside, mut took) = (Latencies::new()?, Latencies::new()?, Duration::ZERO);
        for trial in 1..=trials {
            desks.cut_off(2, true);
            until("a cut link is given up", || !sees(&writer, METHOD)).await?;
            for number in 0..CONTEXTS {
                writer
                    .contexts()
                    .set(&format!("figures-{number}"), json!({ "v": filling(trial + number) }))
                    .await?;
            }
            writer.contexts().set(DONE, json!({ "n": trial })).await?;
            let a_while = async {
                tokio::time::sleep(Duration::from_secs(2)).await;
                Ok(())
            };
            alone.add(&calls_until(&far, a_while).await?)?;
            // The second gets it by way of the first alone.
            desks.cut_between(2, 0, false);
            until_number(&mut done[0], trial as u64).await?;
            let start = clock::now();
            let whole = until_number(&mut done[1], trial as u64);
            beside.add(&calls_until(&far, whole).await?)?;
            took += start.elapsed();
            desks.cut_off(2, false);
            writer.wait_for_method(METHOD, PATIENCE).await?;
        }
        desks.stop().await;
        let p99 = beside.quantile(0.99);
        rows.push(Row {
            what: what.to_owned(),
            target: format!("p99 ≤ {}", ms(BESIDE)),
            measured: format!(
                "p50 {}, p99 {}, longest {} of {} (alone p50 {}, p99 {}); {} for the state",
                ms(beside.quantile(0.5)),
                ms(p99),
                ms(beside.quantile(1.0)),
                beside.count(),
                ms(alone.quantile(0.5)),
                ms(alone.quantile(0.99)),
                ms(took / trials as u32)
            ),
            holds: p99 <= BESIDE,
        });
    }
    Ok(rows)
}

/// Calls between two nodes, either way, while an app of one of them writes 64 MiB that go to the other.
pub(crate) async fn beside_own(kit: &Kit, trials: usize) -> Result<Vec<Row>> {
    let desks = Desks::start(kit, 2).await?;
    let network =
        Conditions { bits_per_second: Some(100_000_000), ..Conditions::delay(Duration::from_millis(1)) };
    desks.set(network);
    let (near, far) = (desks.0[0].app("near").await?, desks.0[1].app("far").await?);
    let writer = desks.0[0].app("writer").await?;
    for number in 0..CONTEXTS {
        writer.contexts().set(&format!("figures-{number}"), json!({})).await?;
    }
    writer.contexts().set(DONE, json!({ "n": 0 })).await?;
    let mut done = far.contexts().subscribe(DONE);
    until_number(&mut done, 0).await?;
    let mut rows = Vec::new();
    for (way, caller, callee) in [("of it", &far, &near), ("by it", &near, &far)] {
        offer(callee, METHOD).await?;
        caller.wait_for_method(METHOD, PATIENCE).await?;
        let (mut beside, mut took) = (Latencies::new()?, Duration::ZERO);
        for trial in 1..=trials {
            let start = clock::now();
            let written = async {
                for number in 0..CONTEXTS {
                    let value = json!({ "v": filling(trial + number) });
                    writer.contexts().set(&format!("figures-{number}"), value).await?;
                }
                let number = format!("{way} {trial}");
                writer.contexts().set(DONE, json!({ "n": number })).await?;
                until_number(&mut done, number).await
            };
            beside.add(&calls_until(caller, written).await?)?;
            took += start.elapsed();
        }
        callee.unregister(METHOD).await?;
        until("the method is gone", || !sees(caller, METHOD)).await?;
        let p99 = beside.quantile(0.99);
        rows.push(Row {
            what: format!("small calls {way} while another app of a node writes 64 MiB, 100 Mbit/s"),
            target: format!("p99 ≤ {}", ms(BESIDE)),
            measured: format!(
                "p50 {}, p99 {}, longest {} of {}; {} for the state",
                ms(beside.quantile(0.5)),
                ms(p99),
                ms(beside.quantile(1.0)),
                beside.count(),
                ms(took / trials as u32)
            ),
            holds: p99 <= BESIDE,
        });
    }
    desks.stop().await;
    Ok(rows)
}

async fn until_number(changes: &mut Feed<ContextChange>, wanted: impl Into<Value>) -> Result<()> {
    let wanted = wanted.into();
    let seen = async {
        loop {
            match changes.next().await.context("the feed ended")? {
                ContextChange::Updated { data, .. } if data["n"] == wanted => return Ok(()),
                _ => {}
            }
        }
    };
    timeout(PATIENCE, seen).await?
}

/// Calls 200 times per second until that is over; calls that were begun before count.
async fn calls_until(app: &Client, over: impl Future<Output = Result<()>>) -> Result<Latencies> {
    let mut calls = tokio::task::JoinSet::new();
    let calling = async {
        let mut pace = interval(Duration::from_millis(5));
        loop {
            pace.tick().await;
            let app = app.clone();
            calls.spawn_local(async move {
                let start = clock::now();
                app.invoke(METHOD, json!({ "d": "small" }), Target::Best).await?;
                anyhow::Ok(start.elapsed())
            });
        }
    };
    tokio::select! {
        () = calling => {}
        over = over => over?,
    }
    let mut latencies = Latencies::new()?;
    while let Some(took) = calls.join_next().await {
        latencies.record(took??);
    }
    Ok(latencies)
}

/// A text of one key's size that differs from others.
fn filling(number: usize) -> String {
    char::from(b'a' + (number % 26) as u8).to_string().repeat(KEY_BYTES)
}

const CONTEXT: &str = "figures";
const DONE: &str = "figures-done";
const KEYS: usize = 16;
const KEY_BYTES: usize = 1 << 20;
const CONTEXTS: usize = 64;
const BESIDE: Duration = Duration::from_millis(40);
