//! Nodes that die, leave, come back and sleep.

use std::time::Duration;

use anyhow::{Context as _, Result};
use mesh_client::{Client, ContextChange, Feed, Target};
use rustix::process::Signal;
use serde_json::json;
use tokio::time::timeout;

use super::desks::{Desks, PATIENCE, offer, sees, until};
use super::latency::ms;
use super::relay::Conditions;
use super::{Latencies, Row};
use crate::clock;
use crate::system::Kit;

/// One node is killed, leaves, and is killed and started again; how soon do the apps of the other know?
pub(crate) async fn leave(kit: &Kit, network: Conditions, trials: usize) -> Result<Vec<Row>> {
    let mut desks = Desks::start(kit, 2).await?;
    let near = desks.0[0].app("near").await?;
    desks.set(network);
    let (mut killed, mut left, mut restarted) = (Latencies::new()?, Latencies::new()?, Latencies::new()?);
    let mut life = 0;
    for _ in 0..trials {
        let name = show(&desks, &near, &mut life).await?;
        desks.0[1].process.signal(Signal::KILL)?;
        killed.record(until("a killed node's methods go", || !sees(&near, &name)).await?);
        desks.0[1].restart(kit).await?;

        let name = show(&desks, &near, &mut life).await?;
        desks.0[1].process.signal(Signal::TERM)?;
        left.record(until("the methods of a node that leaves go", || !sees(&near, &name)).await?);
        desks.0[1].restart(kit).await?;

        let name = show(&desks, &near, &mut life).await?;
        desks.0[1].process.signal(Signal::KILL)?;
        desks.0[1].process.wait().await?;
        let (start, watched) = (clock::now(), near.clone());
        let gone = tokio::task::spawn_local(async move {
            until("the methods of an earlier life go", || !sees(&watched, &name)).await?;
            anyhow::Ok(clock::now())
        });
        desks.0[1].restart(kit).await?;
        restarted.record(gone.await??.saturating_duration_since(start));
    }
    desks.stop().await;
    let row = |what: &str, most: Duration, latencies: &Latencies| {
        let (p50, p99, longest) =
            (latencies.quantile(0.5), latencies.quantile(0.99), latencies.quantile(1.0));
        Row {
            what: what.to_owned(),
            target: format!("p99 ≤ {}", ms(most)),
            measured: format!("p50 {}, p99 {}, longest {} of {trials}", ms(p50), ms(p99), ms(longest)),
            holds: p99 <= most,
        }
    };
    let trip = network.delay * 2;
    Ok(vec![
        row("a node is killed: its methods are withdrawn elsewhere", Duration::from_secs(2), &killed),
        row("a node leaves on purpose: the same", Duration::from_millis(100) + trip, &left),
        row("a node is killed and started at once: the same, from its start", HEARTBEAT, &restarted),
    ])
}

/// Connects an app to the second node that offers a method of a new name, and waits until the first sees it.
async fn show(desks: &Desks, near: &Client, life: &mut u32) -> Result<String> {
    *life += 1;
    let name = format!("Figures.Life.{life}");
    // The connection ends with the node, and the app with it.
    let far = desks.0[1].app("far").await?;
    offer(&far, &name).await?;
    near.wait_for_method(&name, PATIENCE).await?;
    tokio::task::spawn_local(async move { far.closed().await });
    // A link that has just come up is not what a node is in the middle of its day.
    tokio::time::sleep(STEADY).await;
    Ok(name)
}

/// A node sleeps until the other has given it up, and wakes: how long until both work again as one?
pub(crate) async fn wake(
    kit: &Kit,
    network: Conditions,
    trials: usize,
    asleep: Duration,
) -> Result<Vec<Row>> {
    let mut rows = Vec::new();
    for (what, without_network) in [
        ("wake after 10 s of sleep: calls both ways, and what was written meanwhile is seen", Duration::ZERO),
        ("the same with a network that comes 1 s after the wake, from then on", Duration::from_secs(1)),
    ] {
        let desks = Desks::start(kit, 2).await?;
        let (near, far) = (desks.0[0].app("near").await?, desks.0[1].app("far").await?);
        offer(&near, NEAR).await?;
        offer(&far, FAR).await?;
        near.contexts().set(CONTEXT, json!({ "n": 0 })).await?;
        far.wait_for_method(NEAR, PATIENCE).await?;
        near.wait_for_method(FAR, PATIENCE).await?;
        let mut changes = far.contexts().subscribe(CONTEXT);
        desks.set(network);
        let mut latencies = Latencies::new()?;
        for trial in 1..=trials {
            tokio::time::sleep(STEADY).await;
            desks.cut(!without_network.is_zero());
            let sleeper = &desks.0[1].process;
            sleeper.signal(Signal::STOP)?;
            tokio::time::sleep(asleep).await;
            until("a sleeping node is given up", || !sees(&near, FAR)).await?;
            near.contexts().set(CONTEXT, json!({ "n": trial })).await?;
            sleeper.signal(Signal::CONT)?;
            tokio::time::sleep(without_network).await;
            desks.cut(false);
            let start = clock::now();
            let whole = async {
                tokio::try_join!(called(&near, FAR), called(&far, NEAR), changed(&mut changes, trial as u64))
            };
            timeout(PATIENCE, whole).await.context("a node that woke up is not whole")??;
            latencies.record(start.elapsed());
        }
        desks.stop().await;
        let (p50, longest) = (latencies.quantile(0.5), latencies.quantile(1.0));
        rows.push(Row {
            what: what.to_owned(),
            target: format!("≤ {}", ms(WHOLE)),
            measured: format!("p50 {}, longest {} of {trials}", ms(p50), ms(longest)),
            holds: longest <= WHOLE,
        });
    }
    Ok(rows)
}

/// Calls until one call is answered.
async fn called(app: &Client, name: &str) -> Result<()> {
    while app.invoke(name, json!({}), Target::Best).await.is_err() {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    Ok(())
}

async fn changed(changes: &mut Feed<ContextChange>, wanted: u64) -> Result<()> {
    loop {
        match changes.next().await.context("the feed ended")? {
            ContextChange::Updated { data, .. } if data["n"] == wanted => return Ok(()),
            _ => {}
        }
    }
}

const NEAR: &str = "Figures.Near";
const FAR: &str = "Figures.Far";
const CONTEXT: &str = "figures";
const STEADY: Duration = Duration::from_secs(2);
const WHOLE: Duration = Duration::from_secs(2);
/// How often nodes tell each other that they are there.
const HEARTBEAT: Duration = Duration::from_millis(400);
