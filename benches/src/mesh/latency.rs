//! How long it takes until something is seen on another desk.

use std::cell::RefCell;
use std::rc::Rc;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};
use mesh_client::{Client, ContextChange, Target};
use serde_json::value::to_raw_value;
use serde_json::{Value, json};
use tokio::task::{JoinSet, spawn_local};
use tokio::time::{MissedTickBehavior, interval, timeout};

use super::desks::{Desks, PATIENCE, offer};
use super::relay::{Conditions, Echo};
use super::{Latencies, Row};
use crate::clock;
use crate::load::{self, Plan};
use crate::process::Meter;
use crate::protocol::gw3_invoke;
use crate::system::{Kit, System};

/// Registrations at a steady pace on one desk, each until an app on the other sees it.
pub(crate) async fn register(
    kit: &Kit,
    what: &str,
    network: Conditions,
    count: u32,
    wanted: Wanted,
) -> Result<Vec<Row>> {
    let desks = Desks::start(kit, 2).await?;
    let (near, far) = (desks.0[0].app("near").await?, desks.0[1].app("far").await?);
    desks.set(network);
    let mut pace = interval(Duration::from_millis(50));
    let mut waiting = JoinSet::new();
    for number in 0..count {
        pace.tick().await;
        let (near, far) = (near.clone(), far.clone());
        waiting.spawn_local(async move { registration(&near, &far, number).await });
    }
    let mut latencies = Latencies::new()?;
    while let Some(seen) = waiting.join_next().await {
        latencies.record(seen??);
    }
    desks.stop().await;
    Ok(vec![wanted.row(what, &latencies)])
}

async fn registration(near: &Client, far: &Client, number: u32) -> Result<Duration> {
    let name = format!("Figures.Registered.{number}");
    let start = clock::now();
    let seen = async {
        far.wait_for_method(&name, PATIENCE).await?;
        anyhow::Ok(start.elapsed())
    };
    let (registered, seen) = tokio::join!(offer(near, &name), seen);
    registered?;
    seen
}

/// Updates of a context at 20 per second on one desk, each until an app on the other sees it.
pub(crate) async fn context(
    kit: &Kit,
    what: &str,
    network: Conditions,
    count: usize,
    wanted: Wanted,
) -> Result<Vec<Row>> {
    const NAME: &str = "figures";
    let desks = Desks::start(kit, 2).await?;
    let (near, far) = (desks.0[0].app("near").await?, desks.0[1].app("far").await?);
    near.contexts().set(NAME, json!({ "n": -1 })).await?;
    let mut changes = far.contexts().subscribe(NAME);
    timeout(PATIENCE, changes.next()).await?.context("the context is not seen")?;
    desks.set(network);

    let sent: Rc<RefCell<Vec<Instant>>> = Rc::default();
    let reading = spawn_local({
        let sent = sent.clone();
        async move {
            let mut latencies = Latencies::new()?;
            let mut last = None;
            while last != Some(count - 1) {
                match timeout(PATIENCE, changes.next()).await? {
                    Some(ContextChange::Updated { data, .. }) => last = number(&data),
                    other => bail!("instead of an update: {other:?}"),
                }
                if let Some(at) = last.and_then(|number| sent.borrow().get(number).copied()) {
                    latencies.record(at.elapsed());
                }
            }
            anyhow::Ok(latencies)
        }
    });
    let mut pace = interval(Duration::from_millis(50));
    for number in 0..count {
        pace.tick().await;
        sent.borrow_mut().push(clock::now());
        near.contexts().set_path(NAME, "n", json!(number)).await?;
    }
    let latencies = reading.await??;
    desks.stop().await;
    let mut row = wanted.row(what, &latencies);
    row.measured += &format!(", {} of {count} seen", latencies.count());
    Ok(vec![row])
}

fn number(data: &Value) -> Option<usize> {
    data["n"].as_u64().and_then(|number| number.try_into().ok())
}

/// 1,000 calls per second from one desk to the other; what the network takes by itself is subtracted.
pub(crate) async fn call(kit: &Kit, network: Conditions, seconds: u32) -> Result<Vec<Row>> {
    let mut rows = Vec::new();
    for (what, network) in [
        ("call to another node beyond the round trip, 1,000 per second, 1 ms each way", network),
        ("the same without a delay between the nodes", Conditions::default()),
    ] {
        let desks = Desks::start(kit, 2).await?;
        let (near, far) = (desks.0[0].app("near").await?, desks.0[1].app("far").await?);
        offer(&far, METHOD).await?;
        near.wait_for_method(METHOD, PATIENCE).await?;
        desks.set(network);
        let echo = Echo::start(network).await?;
        let echoing = spawn_local(async move {
            let mut trips = Latencies::new()?;
            let mut pace = interval(Duration::from_millis(10));
            for _ in 0..seconds * 100 {
                pace.tick().await;
                trips.record(timeout(PATIENCE, echo.round_trip()).await??);
            }
            anyhow::Ok(trips)
        });
        let calls = paced_calls(&near, Duration::from_millis(1), seconds * 1_000).await?;
        let trip = echoing.await??.quantile(0.5);
        desks.stop().await;
        let beyond = |q| calls.quantile(q).saturating_sub(trip);
        let (p50, p99) = (beyond(0.5), beyond(0.99));
        rows.push(Row {
            what: what.to_owned(),
            target: "p50 ≤ 0.6 ms, p99 ≤ 4 ms".to_owned(),
            measured: format!("p50 {}, p99 {} (round trip of a datagram: {})", ms(p50), ms(p99), ms(trip)),
            holds: p50 <= Duration::from_micros(600) && p99 <= Duration::from_millis(4),
        });
    }
    Ok(rows)
}

/// Calls at a steady pace, as many as asked for, and how long each took.
pub(crate) async fn paced_calls(app: &Client, pace: Duration, count: u32) -> Result<Latencies> {
    let args = to_raw_value(&json!({ "d": PAYLOAD }))?;
    let mut ticks = interval(pace);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Burst);
    let mut calls = JoinSet::new();
    for _ in 0..count {
        ticks.tick().await;
        let (app, args) = (app.clone(), args.clone());
        calls.spawn_local(async move {
            let start = clock::now();
            app.invoke_raw(METHOD, &args, Target::Best).await?;
            anyhow::Ok(start.elapsed())
        });
    }
    let mut latencies = Latencies::new()?;
    while let Some(took) = calls.join_next().await {
        latencies.record(took??);
    }
    Ok(latencies)
}

/// What calls cost on the wire beyond their payload, one at a time and many.
pub(crate) async fn overhead(kit: &Kit, count: usize) -> Result<Vec<Row>> {
    let desks = Desks::start(kit, 2).await?;
    let (near, far) = (desks.0[0].app("near").await?, desks.0[1].app("far").await?);
    offer(&far, METHOD).await?;
    near.wait_for_method(METHOD, PATIENCE).await?;
    let args = to_raw_value(&json!({ "d": PAYLOAD }))?;
    let payload = 2 * args.get().len() as u64;
    let mut rows = Vec::new();
    for in_flight in [1, 64] {
        let (bytes, datagrams) = (desks.bytes(), desks.datagrams());
        let calls = async || {
            for _ in 0..count / in_flight {
                near.invoke_raw(METHOD, &args, Target::Best).await?;
            }
            anyhow::Ok(())
        };
        futures_util::future::try_join_all((0..in_flight).map(|_| calls())).await?;
        let made = (count / in_flight * in_flight) as f64;
        let beyond = (desks.bytes() - bytes) as f64 / made - payload as f64;
        let datagrams = (desks.datagrams() - datagrams) as f64 / made;
        rows.push(Row {
            what: format!(
                "bytes of a call on the wire beyond its {payload} of payload, {in_flight} in flight"
            ),
            target: "≤ 160 for request and answer".to_owned(),
            measured: format!("{beyond:.0}, in {datagrams:.2} datagrams"),
            holds: beyond <= 160.0,
        });
    }
    desks.stop().await;
    Ok(rows)
}

/// Calls per second over one link, from app to app: no less than from core to core.
pub(crate) async fn rate(kit: &Kit, measure: Duration) -> Result<Vec<Row>> {
    const IN_FLIGHT: usize = 64;
    let running = System::Deskmesh2.start(kit).await?;
    let meter = Meter::new(running.pids());
    let calls = gw3_invoke(running.endpoints, 1, &"x".repeat(200)).await?;
    let plan = Plan { warm_up: measure / 4, measure };
    let sample = load::invoke(calls, IN_FLIGHT, plan, &meter).await?;
    running.stop().await;
    Ok(vec![Row {
        what: format!("calls per second over one link, 200 B each way, {IN_FLIGHT} in flight, app to app"),
        target: "≥ 20,000".to_owned(),
        measured: format!(
            "{:.0}, {:.1} µs of processor time of both nodes each",
            sample.per_second, sample.server_cpu_us
        ),
        holds: sample.per_second >= 20_000.0,
    }])
}

/// What is asked of a latency.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Wanted {
    /// Of its median, if anything.
    pub(crate) p50: Option<Duration>,
    /// Of its 99th percentile.
    pub(crate) p99: Duration,
}

impl Wanted {
    fn row(self, what: &str, latencies: &Latencies) -> Row {
        let (p50, p99) = (latencies.quantile(0.5), latencies.quantile(0.99));
        let median = self.p50.map_or_else(String::new, |most| format!("p50 ≤ {}, ", ms(most)));
        Row {
            what: what.to_owned(),
            target: format!("{median}p99 ≤ {}", ms(self.p99)),
            measured: format!("p50 {}, p99 {}", ms(p50), ms(p99)),
            holds: p99 <= self.p99 && self.p50.is_none_or(|most| p50 <= most),
        }
    }
}

/// A time in milliseconds, with as many digits as say something.
pub(crate) fn ms(time: Duration) -> String {
    let ms = time.as_secs_f64() * 1_000.0;
    if ms == ms.round() || ms >= 100.0 {
        format!("{ms:.0} ms")
    } else if ms >= 10.0 {
        format!("{ms:.1} ms")
    } else {
        format!("{ms:.2} ms")
    }
}

/// The method that is called.
pub(crate) const METHOD: &str = "Figures.Echo";
const PAYLOAD: &str = "The quick brown fox jumps over the lazy dog and keeps running...";
