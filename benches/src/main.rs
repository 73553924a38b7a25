//! Measures deskmesh beside the reference gateway, NATS and two floors, in one run on one machine.
//!
//! One load generator drives them all over WebSocket with prebuilt frames; every server is a process of its
//! own. What is measured and what it means is written in `docs/performance.md`.

#![expect(clippy::print_stdout, clippy::print_stderr, reason = "a command-line program")]

mod clock;
mod floor;
mod frame;
mod load;
mod machine;
mod mesh;
mod process;
mod protocol;
mod report;
mod scale;
mod scenario;
mod sdk;
mod socket;
mod system;

use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context as _, Result, bail};
use clap::{Parser, Subcommand};
use tokio::runtime::LocalRuntime;

use crate::load::Plan;
use crate::machine::Machine;
use crate::process::{Meter, rss_kib};
use crate::protocol::Protocol;
use crate::report::Collector;
use crate::scenario::Scenario;
use crate::system::{Kit, System};

/// Measures deskmesh beside the reference gateway, NATS and two floors.
#[derive(Debug, Parser)]
#[command(version)]
struct Args {
    #[command(subcommand)]
    command: Option<Command>,
    /// One short round, about 30 seconds.
    #[arg(long)]
    quick: bool,
    /// How often everything is repeated; the tables show the best round and the median.
    #[arg(long, default_value_t = 5)]
    rounds: usize,
    /// How long each scenario is measured, in milliseconds.
    #[arg(long, default_value_t = 500)]
    measure_ms: u64,
    /// Only these systems, separated by commas: floor-ws, floor-quic, gateway-ws, nats-1, nats-2, deskmesh-1,
    /// deskmesh-2.
    #[arg(long, value_delimiter = ',')]
    only: Vec<String>,
    /// Only these scenarios, separated by commas: invoke-one, invoke-many, stream, context.
    #[arg(long, value_delimiter = ',')]
    scenarios: Vec<String>,
    /// Writes everything as JSON to this file.
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
    /// Writes the tables as Markdown to this file.
    #[arg(long, value_name = "FILE")]
    markdown: Option<PathBuf>,
    /// The deskmesh binary.
    #[arg(long, default_value = "target/release/deskmesh")]
    deskmesh: PathBuf,
    /// Where packages are installed and logs are written.
    #[arg(long, default_value = "target/bench")]
    dir: PathBuf,
}

/// What else this program does.
#[derive(Debug, Subcommand)]
enum Command {
    /// Checks `mesh-client` against the systems that speak GW3, and measures it.
    Sdk,
    /// Measures what many applications cost one deskmesh node.
    Scale,
    /// Measures a mesh against its targets, with delay and loss between its nodes.
    Mesh {
        /// Only these parts, separated by commas; a name that is none is answered with all of them.
        #[arg(long, value_delimiter = ',')]
        parts: Vec<String>,
        /// A tenth of the trials: a first look, no figures.
        #[arg(long)]
        short: bool,
    },
    /// Relays WebSocket frames without parsing them.
    FloorWs {
        /// Where to listen for WebSockets.
        #[arg(long)]
        listen: SocketAddr,
    },
    /// One half of a relay that crosses QUIC.
    FloorQuic {
        /// Where to listen for WebSockets.
        #[arg(long)]
        listen: SocketAddr,
        /// The far half: where to listen for the other half.
        #[arg(long, required_unless_present = "peer", conflicts_with = "peer")]
        link: Option<SocketAddr>,
        /// The near half: where the other half listens.
        #[arg(long)]
        peer: Option<SocketAddr>,
        /// The directory with `cert.der` and `key.der`.
        #[arg(long)]
        identity: PathBuf,
    },
}

fn main() -> ExitCode {
    match run(&Args::parse()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            // Without the backtrace that `{:?}` would add.
            eprintln!("Error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(args: &Args) -> Result<()> {
    let runtime = LocalRuntime::new()?;
    match &args.command {
        None => runtime.block_on(measure(args)),
        Some(Command::Sdk) => runtime.block_on(check_sdk(args)),
        Some(Command::Scale) => runtime.block_on(async { scale::run(&kit(args)?).await }),
        Some(Command::Mesh { parts, short }) => {
            runtime.block_on(async { mesh::run(&kit(args)?, parts, *short, args.markdown.as_deref()).await })
        }
        Some(Command::FloorWs { listen }) => runtime.block_on(floor::ws::run(*listen)),
        Some(Command::FloorQuic { listen, link: Some(link), identity, .. }) => {
            runtime.block_on(floor::quic::run_far(*listen, *link, identity))
        }
        Some(Command::FloorQuic { listen, peer: Some(peer), identity, .. }) => {
            runtime.block_on(floor::quic::run_near(*listen, *peer, identity))
        }
        Some(Command::FloorQuic { .. }) => bail!("either --link or --peer is needed"),
    }
}

async fn measure(args: &Args) -> Result<()> {
    let (rounds, measure) = if args.quick { (1, 400) } else { (args.rounds, args.measure_ms) };
    let plan = Plan { warm_up: Duration::from_millis(measure / 4), measure: Duration::from_millis(measure) };
    let kit = kit(args)?;

    let machine = Machine::read();
    let mut collector = Collector::default();
    let mut systems = Vec::new();
    for system in chosen(&args.only)? {
        match kit.prepare(system).await {
            Ok(version) => {
                collector.prepared(system, version);
                systems.push(system);
            }
            Err(error) => {
                eprintln!("{} is skipped: {error:#}", system.name());
                collector.skipped(system, format!("{error:#}"));
            }
        }
    }
    let scenarios = chosen_scenarios(&args.scenarios)?;
    let mut run = 0;
    for round in 1..=rounds {
        for &system in &systems {
            eprintln!("round {round} of {rounds}: {}", system.name());
            if let Err(error) = measure_system(system, &scenarios, &kit, plan, &mut run, &mut collector).await
            {
                eprintln!("  {error:#}");
                collector.failed(format!("{}, round {round}: {error:#}", system.name()));
            }
        }
    }

    let failed = collector.has_failures();
    let report = collector.finish(machine, rounds, plan.measure.as_millis());
    println!("{}", report.text());
    if let Some(file) = &args.markdown {
        std::fs::write(file, report.markdown())?;
    }
    if let Some(file) = &args.json {
        std::fs::write(file, serde_json::to_string_pretty(&report)? + "\n")?;
    }
    if failed {
        bail!("some runs failed; the tables show the others");
    }
    Ok(())
}

/// Runs the client's checks against every system that speaks its protocol and is there.
async fn check_sdk(args: &Args) -> Result<()> {
    let kit = kit(args)?;
    for system in chosen(&args.only)?.into_iter().filter(|system| system.protocol() == Protocol::Gw3) {
        if let Err(error) = kit.prepare(system).await {
            println!("{} is skipped: {error:#}", system.name());
            continue;
        }
        println!("mesh-client with {}", system.title());
        let running = system.start(&kit).await?;
        let outcome = sdk::check(running.endpoints).await;
        running.stop().await;
        outcome?;
    }
    Ok(())
}

fn kit(args: &Args) -> Result<Kit> {
    std::fs::create_dir_all(&args.dir).with_context(|| format!("cannot make {}", args.dir.display()))?;
    Ok(Kit {
        dir: std::fs::canonicalize(&args.dir)?,
        // A relative path would be looked up in PATH.
        deskmesh: std::path::absolute(&args.deskmesh)?,
    })
}

/// Starts a system for one round, runs every scenario and ends it.
async fn measure_system(
    system: System,
    scenarios: &[Scenario],
    kit: &Kit,
    plan: Plan,
    run: &mut u32,
    collector: &mut Collector,
) -> Result<()> {
    let running = system.start(kit).await?;
    tokio::time::sleep(SETTLE).await;
    let pids = running.pids();
    let resident = || pids.iter().map(|&pid| rss_kib(pid)).collect::<Result<Vec<_>>>();
    let idle = resident()?;
    let meter = Meter::new(pids.clone());
    let mut outcome = Ok(());
    for &scenario in scenarios {
        match scenario.run(system.protocol(), running.endpoints, run, plan, &meter).await {
            Ok(sample) => collector.sample(system, scenario, sample),
            // The others may still work; the last failure is the one reported.
            Err(error) => outcome = Err(error.context(scenario.title())),
        }
        tokio::time::sleep(SETTLE / 4).await;
    }
    if let Ok(used) = resident() {
        collector.memory(system, idle, used);
    }
    running.stop().await;
    outcome
}

fn chosen(only: &[String]) -> Result<Vec<System>> {
    let find = |name: &String| {
        System::ALL
            .into_iter()
            .find(|system| system.name() == name)
            .with_context(|| format!("there is no system {name:?}; see --help"))
    };
    if only.is_empty() { Ok(System::ALL.to_vec()) } else { only.iter().map(find).collect() }
}

fn chosen_scenarios(only: &[String]) -> Result<Vec<Scenario>> {
    let find = |name: &String| {
        Scenario::ALL
            .into_iter()
            .find(|scenario| scenario.name() == name)
            .with_context(|| format!("there is no scenario {name:?}; see --help"))
    };
    if only.is_empty() { Ok(Scenario::ALL.to_vec()) } else { only.iter().map(find).collect() }
}

/// How long a started system is left alone before its memory is read.
const SETTLE: Duration = Duration::from_millis(300);
