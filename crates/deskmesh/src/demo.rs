//! `deskmesh demo`: two nodes as two machines would run them, an app on each, and what they say to each
//! other. Everything lives in a temporary directory and on loopback ports of its own.

use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context as _, anyhow};
use mesh_client::{Client, ContextChange, Credentials, Identity, MethodDefinition, Target};
use serde_json::json;

use crate::output;
use crate::up::{self, Running, Stop};

/// How long each step may take before the demonstration gives up.
const PATIENCE: Duration = Duration::from_secs(10);

/// Shows two nodes at work; with `once` it ends after that, else it serves until it is interrupted.
#[must_use]
pub fn run(once: bool) -> ExitCode {
    let runtime = match tokio::runtime::Builder::new_multi_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => {
            output::error(
                &format!("the runtime does not start: {error}"),
                "is the machine out of threads or files?",
            );
            return ExitCode::FAILURE;
        }
    };
    match runtime.block_on(show(once)) {
        Ok(()) => ExitCode::SUCCESS,
        Err(Stop { problem, hint }) => {
            output::error(&problem, &hint);
            ExitCode::FAILURE
        }
    }
}

async fn show(once: bool) -> Result<(), Stop> {
    let dir = tempfile::tempdir().context("cannot make a temporary directory")?;
    output::line("Two machines of one user, on this one:");
    let london =
        up::start(up::private_config(dir.path().join("london"), "london", "demo", None)?, None).await?;
    let token = london.token()?;
    let tokyo =
        up::start(up::private_config(dir.path().join("tokyo"), "tokyo", "demo", Some(token))?, None).await?;
    for (name, node) in [("london", &london), ("tokyo", &tokyo)] {
        output::line(&format!("  {name:<7} {}", node.endpoints().join(", ")));
    }
    output::line("They have joined with a one-time token, and are linked by QUIC with mutual TLS.\n");
    let (blotter, risk) = converse(&london, &tokyo).await.map_err(Stop::from)?;
    if !once {
        output::line("\nBoth nodes stay up. Connect your own apps, for example in Node.js:");
        if let Some(endpoint) = tokyo.endpoints().first() {
            output::line("  import IOConnect from '@interopio/core';");
            output::line(&format!(
                "  const io = await IOConnect({{ application: 'mine', gateway: {{ ws: '{endpoint}' }}, auth: {{ username: 'trader', password: '-' }} }});"
            ));
            output::line(
                "  console.log((await io.interop.invoke('Orders.Place', { symbol: 'VOD.L', size: 100 })).returned);",
            );
        }
        output::line("Ctrl-C stops them.");
        tokio::signal::ctrl_c().await.context("cannot listen for Ctrl-C")?;
    }
    blotter.close().await;
    risk.close().await;
    tokio::join!(london.stop(), tokyo.stop());
    Ok(())
}

/// Two apps, one on each node, that know nothing of nodes.
async fn converse(london: &Running, tokyo: &Running) -> anyhow::Result<(Client, Client)> {
    let connect = async |node: &Running, application: &str| {
        let endpoint =
            node.endpoints().into_iter().next().ok_or_else(|| anyhow!("the node has no endpoint"))?;
        let credentials = Credentials { user: "trader".into(), secret: "-".into() };
        Client::connect(&endpoint, credentials, Identity::new(application))
            .await
            .map_err(|error| anyhow!(error))
    };
    let blotter = connect(london, "blotter").await?;
    let risk = connect(tokyo, "risk").await?;

    blotter
        .register(MethodDefinition::new("Orders.Place"), |call| async move {
            Ok(json!({ "order": 1, "symbol": call.args["symbol"], "placed for": call.caller.application() }))
        })
        .await?;
    output::line("blotter@london  offers the method Orders.Place");
    risk.wait_for_method("Orders.Place", PATIENCE).await?;
    output::line("risk@tokyo      sees it");
    let answers =
        risk.invoke("Orders.Place", json!({ "symbol": "VOD.L", "size": 100 }), Target::Best).await?;
    output::line(&format!("risk@tokyo      invokes it, and london answers {}", answers.into_value()));

    let mut changes = risk.contexts().subscribe("selection");
    blotter.contexts().update("selection", json!({ "instrument": "VOD.L" })).await?;
    output::line("blotter@london  writes the shared context `selection`");
    let change =
        tokio::time::timeout(PATIENCE, changes.next()).await.context("the context did not arrive")?;
    let Some(ContextChange::Updated { data, .. }) = change else {
        return Err(anyhow!("the context's feed ended"));
    };
    output::line(&format!("risk@tokyo      reads {data}"));

    let (ticks, mut requests) = blotter.stream(MethodDefinition::new("Ticks")).await?;
    tokio::spawn(async move {
        while let Some(request) = requests.next().await {
            let _ = request.accept().await;
        }
    });
    risk.wait_for_method("Ticks", PATIENCE).await?;
    let mut feed = risk.subscribe("Ticks", json!({}), Target::Best).await?;
    output::line("risk@tokyo      subscribes to the stream Ticks of london");
    for bid in [72.1, 72.2, 72.3] {
        ticks.push(json!({ "bid": bid })).await?;
    }
    for _ in 0..3 {
        let event = tokio::time::timeout(PATIENCE, feed.next()).await.context("no tick arrived")?;
        let event = event.ok_or_else(|| anyhow!("the stream ended"))?;
        output::line(&format!("risk@tokyo      gets {}", event.data));
    }
    Ok((blotter, risk))
}
