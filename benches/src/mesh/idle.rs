//! What a node costs that has nothing to do.

use std::time::Duration;

use anyhow::Result;

use super::Row;
use super::desks::{Desks, PATIENCE, offer};
use crate::clock;
use crate::process::{Meter, rss_kib};
use crate::system::Kit;

/// A node with five peers, which offer 200 methods each; and one all alone.
pub(crate) async fn idle(kit: &Kit, watched: Duration) -> Result<Vec<Row>> {
    const PEERS: usize = 5;
    const METHODS: usize = 200;
    let alone = Desks::start(kit, 1).await?;
    let desks = Desks::start(kit, PEERS + 1).await?;
    let mut apps = Vec::new();
    for peer in 1..=PEERS {
        let app = desks.0[peer].app(&format!("peer-{peer}")).await?;
        for number in 0..METHODS {
            offer(&app, &format!("Figures.Idle.{peer}.{number}")).await?;
        }
        apps.push(app);
    }
    let witness = desks.0[0].app("witness").await?;
    for peer in 1..=PEERS {
        witness.wait_for_method(&format!("Figures.Idle.{peer}.{}", METHODS - 1), PATIENCE).await?;
    }
    witness.close().await;
    tokio::time::sleep(SETTLE).await;

    let pids = [desks.0[0].process.pid(), alone.0[0].process.pid()];
    let meters = pids.map(|pid| Meter::new(vec![pid]));
    let start = clock::now();
    let (before, bytes) = ([meters[0].read()?, meters[1].read()?], desks.bytes_of(0));
    tokio::time::sleep(watched).await;
    let (after, bytes) = ([meters[0].read()?, meters[1].read()?], desks.bytes_of(0) - bytes);
    let seconds = start.elapsed().as_secs_f64();
    let busy = |node: usize| (after[node].servers - before[node].servers).as_secs_f64() / seconds * 100.0;
    let resident = |node: usize| anyhow::Ok(rss_kib(pids[node])? as f64 / 1024.0);
    let (rss, per_second) = (resident(0)?, bytes as f64 / seconds);
    let each = per_second / PEERS as f64 / 2.0;
    let node = format!("idle node with {PEERS} peers and {} foreign methods", PEERS * METHODS);
    let rows = vec![
        Row {
            what: format!("{node}: resident memory"),
            target: "≤ 40 MiB".to_owned(),
            measured: format!("{rss:.1} MiB"),
            holds: rss <= 40.0,
        },
        Row {
            what: format!("{node}: processor time over {seconds:.0} s"),
            target: "≤ 0.3 %".to_owned(),
            measured: format!("{:.2} % of one core", busy(0)),
            holds: busy(0) <= 0.3,
        },
        Row {
            what: format!("{node}: bytes on its links"),
            target: "≤ 0.5 kB/s".to_owned(),
            measured: format!("{:.2} kB/s, {each:.0} B/s per link and direction", per_second / 1_000.0),
            holds: per_second <= 500.0,
        },
        Row {
            what: "idle node alone".to_owned(),
            target: "≤ 30 MiB".to_owned(),
            measured: format!("{:.1} MiB, {:.2} % of one core", resident(1)?, busy(1)),
            holds: resident(1)? <= 30.0,
        },
    ];
    desks.stop().await;
    alone.stop().await;
    Ok(rows)
}

const SETTLE: Duration = Duration::from_secs(10);
