//! The mesh against its targets: nodes of their own with a network between them.

mod desks;
mod idle;
mod latency;
mod outage;
mod relay;
mod snapshot;

use std::fmt;
use std::path::Path;
use std::time::Duration;

use anyhow::{Result, bail, ensure};
use hdrhistogram::Histogram;

use self::latency::Wanted;
use self::relay::Conditions;
use crate::machine::Machine;
use crate::scale::{self, Ninth};
use crate::system::{Kit, System};

/// One figure beside its target.
#[derive(Debug)]
pub(crate) struct Row {
    /// What is measured.
    what: String,
    /// What is wanted of it.
    target: String,
    /// What came out.
    measured: String,
    /// Whether that is what is wanted.
    holds: bool,
}

/// Runs the parts of that name, or all; prints each figure and then the table.
pub(crate) async fn run(kit: &Kit, only: &[String], quick: bool, markdown: Option<&Path>) -> Result<()> {
    for name in only {
        ensure!(PARTS.contains(&name.as_str()), "there is no part {name:?}; there are {}", PARTS.join(", "));
    }
    let version = kit.prepare(System::Deskmesh2).await?;
    let machine = Machine::read();
    let (mut rows, mut failed) = (Vec::new(), Vec::new());
    for part in PARTS.into_iter().filter(|part| only.is_empty() || only.iter().any(|name| name == part)) {
        eprintln!("{part}");
        match measure(part, kit, quick).await {
            Ok(measured) => {
                for row in &measured {
                    eprintln!("  {}: {} ({})", row.what, row.measured, row.target);
                }
                rows.extend(measured);
            }
            Err(error) => {
                eprintln!("  failed: {error:#}");
                failed.push(part);
            }
        }
    }
    let after = Machine::read().load_average;
    let Machine { cores, processor, kernel, memory_mib, load_average } = machine;
    let mut text = format!(
        "{cores} cores ({processor}), {memory_mib} MiB of memory, Linux {kernel}; load average {load_average} before the run, {after} after it; {version}\n\n\
         | what | target | measured | |\n|---|---|---|---|\n"
    );
    for Row { what, target, measured, holds } in &rows {
        let verdict = if *holds { "pass" } else { "**falls short**" };
        text += &format!("| {what} | {target} | {measured} | {verdict} |\n");
    }
    println!("{text}");
    if let Some(file) = markdown {
        std::fs::write(file, text)?;
    }
    if !failed.is_empty() {
        bail!("these parts failed: {}; logs are in {}", failed.join(", "), kit.dir.display());
    }
    Ok(())
}

const PARTS: [&str; 13] = [
    "register",
    "register-lossy",
    "context",
    "call",
    "rate",
    "overhead",
    "beside",
    "beside-own",
    "late-joiner",
    "leave",
    "wake",
    "idle",
    "stalled",
];

async fn measure(part: &str, kit: &Kit, quick: bool) -> Result<Vec<Row>> {
    let near = Conditions::delay(Duration::from_millis(1));
    let wide = Conditions { delay: Duration::from_millis(30), loss: 0.01, bits_per_second: None };
    let soon = Wanted { p50: Some(Duration::from_millis(8)), p99: Duration::from_millis(30) };
    let count = if quick { 40 } else { 400 };
    match part {
        "register" => {
            let what = "registration seen on another node, 20 per second, 1 ms each way";
            latency::register(kit, what, near, count, soon).await
        }
        "register-lossy" => {
            let what = "the same, 30 ms each way, 1 % loss";
            let wanted = Wanted { p50: None, p99: Duration::from_millis(250) };
            latency::register(kit, what, wide, count, wanted).await
        }
        "context" => {
            let what = "context update seen on another node, 20 per second, 1 ms each way";
            latency::context(kit, what, near, count as usize, soon).await
        }
        "call" => latency::call(kit, near, if quick { 2 } else { 20 }).await,
        "rate" => latency::rate(kit, Duration::from_secs(if quick { 1 } else { 5 })).await,
        "overhead" => latency::overhead(kit, if quick { 2_000 } else { 20_000 }).await,
        "beside" => snapshot::beside(kit, if quick { 1 } else { 5 }).await,
        "beside-own" => snapshot::beside_own(kit, if quick { 1 } else { 5 }).await,
        "late-joiner" => snapshot::late_joiner(kit, if quick { 1 } else { 5 }, Duration::from_secs(5)).await,
        "leave" => outage::leave(kit, near, if quick { 2 } else { 20 }).await,
        "wake" => outage::wake(kit, near, if quick { 2 } else { 10 }, Duration::from_secs(10)).await,
        "idle" => idle::idle(kit, Duration::from_secs(if quick { 10 } else { 60 })).await,
        "stalled" => stalled(kit, if quick { 3 } else { 25 }).await,
        _ => bail!("there is no part {part:?}"),
    }
}

/// What an app that stops reading costs the others and its node, beside one that reads; both take turns.
///
/// Three seconds each: within the first two, what the kernel holds for it and what the node does fill up, and it
/// is closed. Rounds of one case differ more than the cases do, so there are many.
async fn stalled(kit: &Kit, rounds: usize) -> Result<Vec<Row>> {
    const PUBLICATIONS: usize = 1_500;
    let (mut reads, mut stops) = ([const { Vec::new() }; 2], [const { Vec::new() }; 2]);
    for _ in 0..rounds {
        for (ninth, figures) in [(Ninth::Reads, &mut reads), (Ninth::Stopped, &mut stops)] {
            let flow = scale::steady(kit, ninth, PUBLICATIONS).await?;
            figures[0].push(flow.latencies.value_at_quantile(0.99));
            figures[1].push(flow.most_kib);
        }
    }
    let [p99_before, kib_before] = reads.map(Quarters::of);
    let [p99, kib] = stops.map(Quarters::of);
    let share = p99.middle as f64 / p99_before.middle as f64 - 1.0;
    let more = (kib.middle as f64 - kib_before.middle as f64) / 1024.0;
    Ok(vec![
        Row {
            what: "one app stops reading: p99 of what the others get".to_owned(),
            target: "at most 10 % more than if it reads".to_owned(),
            measured: format!(
                "{p99} µs beside {p99_before} µs if it reads, {:+.0} %, of {rounds} rounds each",
                share * 100.0
            ),
            holds: share <= 0.1,
        },
        Row {
            what: "one app stops reading: memory of the node at most".to_owned(),
            target: "≤ 2 MiB more than if it reads".to_owned(),
            measured: format!("{more:+.1} MiB, medians of {rounds} rounds"),
            holds: more <= 2.0,
        },
    ])
}

/// The median of some figures, and between which half of them are.
#[derive(Clone, Copy, Debug)]
struct Quarters {
    first: u64,
    middle: u64,
    third: u64,
}

impl Quarters {
    fn of(mut figures: Vec<u64>) -> Self {
        figures.sort_unstable();
        let at = |quarter: usize| figures.get(figures.len() * quarter / 4).copied().unwrap_or_default();
        Self { first: at(1), middle: at(2), third: at(3) }
    }
}

impl fmt::Display for Quarters {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} ({} to {})", self.middle, self.first, self.third)
    }
}

/// A set of times.
#[derive(Debug)]
pub(crate) struct Latencies(Histogram<u64>);

impl Latencies {
    /// An empty one.
    pub(crate) fn new() -> Result<Self> {
        Ok(Self(Histogram::new_with_bounds(1, 600_000_000, 3)?))
    }

    /// Adds one.
    pub(crate) fn record(&mut self, time: Duration) {
        self.0.saturating_record(time.as_micros() as u64);
    }

    /// Adds all of another set.
    pub(crate) fn add(&mut self, other: &Self) -> Result<()> {
        Ok(self.0.add(&other.0)?)
    }

    /// How many there are.
    pub(crate) fn count(&self) -> u64 {
        self.0.len()
    }

    /// The time that this share of them does not exceed.
    pub(crate) fn quantile(&self, share: f64) -> Duration {
        Duration::from_micros(self.0.value_at_quantile(share))
    }
}
