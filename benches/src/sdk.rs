//! `mesh-client` against real gateways: does everything work, and what does the convenience cost?
//!
//! Each check is a small conversation between two clients, on the near and the far node. The figures at the
//! end compare with `invoke, 1 in flight` of the table, which is measured without a client library.

use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use hdrhistogram::Histogram;
use mesh_client::{
    Client, ContextChange, Credentials, Feed, Identity, InvokeError, MethodDefinition, Target, Timeouts,
};
use serde_json::value::to_raw_value;
use serde_json::{Value, json};
use tokio::time::timeout;

use crate::clock;
use crate::protocol::Endpoints;

/// Runs every check and prints a line for each; fails at the first that does not hold.
pub(crate) async fn check(endpoints: Endpoints) -> Result<()> {
    let near = connect(endpoints.near, "near").await?;
    let far = connect(endpoints.far, "far").await?;
    for (name, outcome) in [
        ("methods", methods(&near, &far).await),
        ("failures", failures(&near, &far).await),
        ("streams", streams(&near, &far).await),
        ("contexts", contexts(&near, &far).await),
        ("topics", topics(&near, &far).await),
    ] {
        outcome.with_context(|| format!("{name} do not work"))?;
        println!("  {name}: ok");
    }
    far.register_raw(MethodDefinition::new("Sdk.Raw"), |call| async move { Ok(call.args.into()) }).await?;
    far.register(MethodDefinition::new("Sdk.Value"), |call| async move { Ok(call.args) }).await?;
    for (raw, in_flight) in [(true, 1), (false, 1), (true, 64), (false, 64)] {
        let layer = if raw { "raw JSON" } else { "Value" };
        let figures = round_trips(&near, raw, in_flight).await?;
        println!("  invoke through the client, {layer}, {in_flight} in flight: {figures}");
    }
    near.close().await;
    let handle = far.clone();
    far.close().await;
    let why = timeout(PATIENCE, handle.closed()).await?;
    ensure!(why == "this app closed it", "{why}");
    Ok(())
}

async fn connect(address: std::net::SocketAddr, application: &str) -> Result<Client> {
    let credentials = Credentials { user: "sdk".to_owned(), secret: "sdk".to_owned() };
    let client = Client::connect(&format!("ws://{address}"), credentials, Identity::new(application)).await?;
    Ok(client.with_timeouts(Timeouts { wait: PATIENCE, reply: PATIENCE }))
}

async fn methods(near: &Client, far: &Client) -> Result<()> {
    let sum = MethodDefinition::new("Sdk.Sum").with_signature("Int a, Int b", "Int sum");
    // Waited for: the caller asks before the method exists.
    let early = near.invoke("sdk.sum", json!({ "a": 1, "b": 2 }), Target::Best);
    let register = far.register(sum, |call| async move {
        let number = |key: &str| call.args[key].as_i64().ok_or(format!("{key} is missing"));
        Ok(json!({ "sum": number("a")? + number("b")?, "caller": call.caller.application() }))
    });
    let (early, registered) = tokio::join!(early, register);
    registered?;
    let answers = early?;
    ensure!(*answers.value() == json!({ "sum": 3, "caller": "near" }), "{answers:?}");
    ensure!(answers.by().application() == "far", "{answers:?}");

    near.register(MethodDefinition::new("Sdk.Sum"), |_| async { Ok(json!(42)) }).await?;
    let method = near.wait_for_method("Sdk.Sum", PATIENCE).await?;
    ensure!(method.providers.len() == 2, "{method:?}");
    let all = near.invoke("Sdk.Sum", json!({ "a": 1, "b": 1 }), Target::All).await?;
    ensure!(all.iter().count() == 2 && *all.value() == json!(42), "{all:?}");
    let others = near.invoke("Sdk.Sum", json!({ "a": 5, "b": 1 }), Target::AllOthers).await?;
    ensure!(others.value()["sum"] == 6, "{others:?}");
    let one = near.invoke("Sdk.Sum", json!({ "a": 5, "b": 2 }), Target::application("FAR")).await?;
    ensure!(one.value()["sum"] == 7, "{one:?}");
    near.unregister("sdk.sum").await?;
    let best = near.invoke("Sdk.Sum", json!({ "a": 0, "b": 0 }), Target::Best).await?;
    ensure!(best.by().application() == "far", "{best:?}");

    let args = serde_json::from_str::<Box<serde_json::value::RawValue>>(r#"{"a":1,"b":2,"s":"\ud800"}"#)?;
    let refused = near.invoke_raw("Sdk.Sum", &args, Target::Best).await;
    ensure!(
        matches!(refused, Err(InvokeError::Failed { .. })),
        "a lone surrogate fits no Value: {refused:?}"
    );
    Ok(())
}

async fn failures(near: &Client, far: &Client) -> Result<()> {
    let error = near.invoke("Sdk.Sum", json!({ "a": 1 }), Target::Best).await;
    let error = error.err().context("a failing method returned")?.to_string();
    ensure!(error == r#""Sdk.Sum" failed: far: b is missing"#, "{error}");

    let hasty = near.with_timeouts(Timeouts { wait: Duration::from_millis(50), reply: PATIENCE });
    let error = hasty.invoke("Sdk.Nobody", json!({}), Target::Best).await;
    ensure!(matches!(error, Err(InvokeError::NoMethod { .. })), "{error:?}");
    let error = hasty.invoke("Sdk.Sum", json!({}), Target::application("else")).await;
    ensure!(matches!(error, Err(InvokeError::NoInstance { offering: 1, .. })), "{error:?}");
    ensure!(far.register(MethodDefinition::new("SDK.SUM"), |_| async { Ok(json!({})) }).await.is_err());
    ensure!(near.invoke("Sdk.Sum", json!([1]), Target::Best).await.is_err());
    Ok(())
}

async fn streams(near: &Client, far: &Client) -> Result<()> {
    let (quotes, mut requests) = near.stream(MethodDefinition::new("Sdk.Quotes")).await?;
    tokio::task::spawn_local(async move {
        while let Some(request) = requests.next().await {
            let symbol = request.args.value().unwrap_or_default()["symbol"].as_str().map(str::to_owned);
            let _ = match symbol.as_deref() {
                Some("dropped") => Ok(()),
                Some(symbol) => match request.accept_on(symbol).await {
                    Ok(subscriber) => subscriber.push(json!({ "welcome": symbol })).await,
                    Err(error) => Err(error),
                },
                None => request.reject("symbol is missing").await,
            };
        }
    });
    let mut vod = far.subscribe("Sdk.Quotes", json!({ "symbol": "VOD" }), Target::Best).await?;
    let mut bp = far.subscribe("Sdk.Quotes", json!({ "symbol": "BP" }), Target::Best).await?;
    for args in [json!({}), json!({ "symbol": "dropped" })] {
        let error = far.subscribe("Sdk.Quotes", args, Target::Best).await;
        ensure!(matches!(error, Err(InvokeError::Failed { .. })), "{error:?}");
    }
    for (feed, symbol) in [(&mut vod, "VOD"), (&mut bp, "BP")] {
        let welcome = next(feed).await?;
        ensure!(welcome.is_private && welcome.data.value()? == json!({ "welcome": symbol }), "{welcome:?}");
    }
    ensure!(quotes.subscribers() == 2);
    quotes.branch("VOD").push(json!({ "bid": 72 })).await?;
    quotes.push(json!({ "all": true })).await?;
    ensure!(next(&mut vod).await?.data.text() == r#"{"bid":72}"#);
    ensure!(next(&mut vod).await?.data.text() == r#"{"all":true}"#);
    ensure!(next(&mut bp).await?.data.text() == r#"{"all":true}"#);

    drop(bp);
    until("an unsubscribed feed is gone", async || quotes.subscribers() == 1).await?;
    quotes.close().await?;
    ensure!(timeout(PATIENCE, vod.next()).await?.is_none());
    until("a closed stream is gone", async || !far.methods().iter().any(|method| method.name == "Sdk.Quotes"))
        .await
}

async fn contexts(near: &Client, far: &Client) -> Result<()> {
    ensure!(far.contexts().get("sdk").await?.is_none());
    let mut changes = far.contexts().subscribe("sdk");
    near.contexts().update("sdk", json!({ "a": 1, "dot.ted": 2, "gone": null })).await?;
    until_state(&mut changes, "made", json!({ "a": 1, "dot.ted": 2 })).await?;

    far.contexts().update("sdk", json!({ "b": { "c": 1 }, "a": null })).await?;
    // Nodes merge; a path below a key that the other node is just replacing would be a conflict.
    until(
        "a change reaches the other app",
        async || matches!(near.contexts().get("sdk").await, Ok(Some(state)) if state["b"]["c"] == 1),
    )
    .await?;
    near.contexts().set_path("sdk", "b.d", json!([1])).await?;
    until_state(&mut changes, "merged", json!({ "dot.ted": 2, "b": { "c": 1, "d": [1] } })).await?;
    far.contexts().set("sdk", json!({ "only": true })).await?;
    until("a replaced state reaches the other app", async || {
        matches!(near.contexts().get("sdk").await, Ok(Some(state)) if *state == json!({ "only": true }))
    })
    .await?;
    until_state(&mut changes, "replaced", json!({ "only": true })).await?;

    near.contexts().destroy("sdk").await?;
    let last = next(&mut changes).await.context("not destroyed")?;
    ensure!(matches!(last, ContextChange::Destroyed), "{last:?}");
    near.contexts().set("sdk", json!({ "again": 1 })).await?;
    until_state(&mut changes, "made again", json!({ "again": 1 })).await?;
    near.contexts().destroy("sdk").await?;
    Ok(())
}

/// Waits until a feed shows that state, through whatever states come before.
async fn until_state(changes: &mut Feed<ContextChange>, what: &str, expected: Value) -> Result<()> {
    let mut last = None;
    loop {
        let change = next(changes).await;
        match change.with_context(|| format!("not {what}: {last:?} instead of {expected}"))? {
            ContextChange::Updated { data, .. } if *data == expected => return Ok(()),
            other => last = Some(other),
        }
    }
}

async fn topics(near: &Client, far: &Client) -> Result<()> {
    let mut all = far.bus().subscribe("sdk.>").await?;
    let one = far.bus().subscribe("sdk.one").await?;
    drop(one);
    // Interest may still be on its way to the other node.
    let first = timeout(PATIENCE, async {
        loop {
            near.bus().publish("sdk.one", json!({ "n": 1 })).await?;
            if let Ok(Some(message)) = timeout(Duration::from_millis(50), all.next()).await {
                return anyhow::Ok(message);
            }
        }
    });
    let message = first.await??;
    ensure!(message.publisher["application"] == "near" && message.topic == "sdk.>", "{message:?}");
    ensure!(message.data.value()? == json!({ "n": 1 }), "{message:?}");
    Ok(())
}

/// Calls for a second from `in_flight` loops and returns the figures as text.
async fn round_trips(near: &Client, raw: bool, in_flight: usize) -> Result<String> {
    let args = json!({ "d": "The quick brown fox jumps over the lazy dog and keeps running..." });
    let raw_args = to_raw_value(&args)?;
    let started = clock::now();
    let calls = async || {
        let mut latencies = Histogram::<u32>::new(3)?;
        while started.elapsed() < MEASURE {
            let sent = clock::now();
            if raw {
                near.invoke_raw("Sdk.Raw", &raw_args, Target::Best).await?;
            } else {
                near.invoke("Sdk.Value", args.clone(), Target::Best).await?;
            }
            latencies.record(sent.elapsed().as_nanos() as u64)?;
        }
        anyhow::Ok(latencies)
    };
    let mut latencies = Histogram::<u32>::new(3)?;
    for one in futures_util::future::join_all((0..in_flight).map(|_| calls())).await {
        latencies.add(one?)?;
    }
    let quantile = |q| latencies.value_at_quantile(q) as f64 / 1000.0;
    let per_second = latencies.len() as f64 / started.elapsed().as_secs_f64();
    Ok(format!("p50 {:.0} µs, p99 {:.0} µs, {per_second:.0} per second", quantile(0.5), quantile(0.99)))
}

async fn next<T>(feed: &mut Feed<T>) -> Result<T> {
    timeout(PATIENCE, feed.next()).await?.context("the feed ended")
}

async fn until(what: &str, mut holds: impl AsyncFnMut() -> bool) -> Result<()> {
    let deadline = clock::now() + PATIENCE;
    while !holds().await {
        ensure!(clock::now() < deadline, "it never came about that {what}");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    Ok(())
}

const PATIENCE: Duration = Duration::from_secs(5);
const MEASURE: Duration = Duration::from_secs(1);
