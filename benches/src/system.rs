//! The systems that are compared, and how each is started.

mod deskmesh;
mod floor;
mod gateway_ws;
mod nats;

use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, bail};
use serde::Serialize;
use tempfile::TempDir;
use tokio::process::Command;

pub(crate) use self::deskmesh::Node;
use crate::process::Process;
use crate::protocol::{Endpoints, Protocol};

/// A system under test.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum System {
    /// Frames through one relay, unparsed.
    FloorWs,
    /// Frames through two relays joined by QUIC, unparsed.
    FloorQuic,
    /// The reference GW3 gateway.
    GatewayWs,
    /// One NATS server.
    Nats1,
    /// Two clustered NATS servers.
    Nats2,
    /// One deskmesh node.
    Deskmesh1,
    /// Two deskmesh nodes.
    Deskmesh2,
}

impl System {
    /// All of them, in the order of the report.
    pub(crate) const ALL: [Self; 7] = [
        Self::FloorWs,
        Self::FloorQuic,
        Self::GatewayWs,
        Self::Nats1,
        Self::Nats2,
        Self::Deskmesh1,
        Self::Deskmesh2,
    ];

    /// The name on the command line and in JSON.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::FloorWs => "floor-ws",
            Self::FloorQuic => "floor-quic",
            Self::GatewayWs => "gateway-ws",
            Self::Nats1 => "nats-1",
            Self::Nats2 => "nats-2",
            Self::Deskmesh1 => "deskmesh-1",
            Self::Deskmesh2 => "deskmesh-2",
        }
    }

    /// The name in tables.
    pub(crate) fn title(self) -> &'static str {
        match self {
            Self::FloorWs => "floor, WS–WS",
            Self::FloorQuic => "floor, WS–QUIC–WS",
            Self::GatewayWs => "gateway-ws",
            Self::Nats1 => "NATS, one server",
            Self::Nats2 => "NATS, two clustered",
            Self::Deskmesh1 => "deskmesh, one node",
            Self::Deskmesh2 => "deskmesh, two nodes",
        }
    }

    /// The floor below this system: the one with as many hops.
    pub(crate) fn floor(self) -> Self {
        if self.has_two_nodes() { Self::FloorQuic } else { Self::FloorWs }
    }

    /// The NATS with as many hops.
    pub(crate) fn nats(self) -> Self {
        if self.has_two_nodes() { Self::Nats2 } else { Self::Nats1 }
    }

    fn has_two_nodes(self) -> bool {
        matches!(self, Self::FloorQuic | Self::Nats2 | Self::Deskmesh2)
    }

    /// What its clients speak.
    pub(crate) fn protocol(self) -> Protocol {
        match self {
            Self::FloorWs | Self::FloorQuic => Protocol::Floor,
            Self::Nats1 | Self::Nats2 => Protocol::Nats,
            Self::GatewayWs | Self::Deskmesh1 | Self::Deskmesh2 => Protocol::Gw3,
        }
    }

    /// Starts it and waits until it serves.
    pub(crate) async fn start(self, kit: &Kit) -> Result<Running> {
        let running = match self {
            Self::FloorWs => floor::start_ws(kit).await,
            Self::FloorQuic => floor::start_quic(kit).await,
            Self::GatewayWs => gateway_ws::start(kit).await,
            Self::Nats1 => nats::start_one(kit).await,
            Self::Nats2 => nats::start_two(kit).await,
            Self::Deskmesh1 => deskmesh::start_one(kit).await,
            Self::Deskmesh2 => deskmesh::start_two(kit).await,
        };
        running.with_context(|| format!("{} did not start (logs in {})", self.name(), kit.dir.display()))
    }
}

/// A started system.
#[derive(Debug)]
pub(crate) struct Running {
    /// Where clients connect.
    pub(crate) endpoints: Endpoints,
    /// Its processes.
    pub(crate) processes: Vec<Process>,
    /// Data directories that go away with it.
    pub(crate) dirs: Vec<TempDir>,
}

impl Running {
    /// The ids of its processes.
    pub(crate) fn pids(&self) -> Vec<u32> {
        self.processes.iter().map(Process::pid).collect()
    }

    /// Ends it.
    pub(crate) async fn stop(self) {
        for process in self.processes {
            process.stop().await;
        }
        drop(self.dirs);
    }
}

/// What the systems are started from.
#[derive(Debug)]
pub(crate) struct Kit {
    /// For installed packages, configuration and logs: `target/bench`.
    pub(crate) dir: PathBuf,
    /// The deskmesh binary.
    pub(crate) deskmesh: PathBuf,
}

impl Kit {
    /// Makes a system ready to be started, and returns its version. Installs what can be installed.
    pub(crate) async fn prepare(&self, system: System) -> Result<String> {
        match system {
            System::FloorWs | System::FloorQuic => Ok(format!("built in, {}", env!("CARGO_PKG_VERSION"))),
            System::GatewayWs => gateway_ws::prepare(self).await,
            System::Nats1 | System::Nats2 => nats::prepare(self).await,
            System::Deskmesh1 | System::Deskmesh2 => deskmesh::prepare(self).await,
        }
    }

    fn log(&self, name: &str) -> PathBuf {
        self.dir.join(format!("{name}.log"))
    }
}

/// Runs a command to its end and returns what it printed.
async fn output(command: &mut Command, what: &str) -> Result<String> {
    let output = command.output().await.with_context(|| format!("cannot run {what}"))?;
    if !output.status.success() {
        bail!("{what} failed: {}", String::from_utf8_lossy(&output.stderr).trim());
    }
    Ok(String::from_utf8_lossy(&output.stdout).trim().to_owned())
}

fn write_if_changed(path: &Path, text: &str) -> Result<bool> {
    if std::fs::read_to_string(path).is_ok_and(|present| present == text) {
        return Ok(false);
    }
    std::fs::write(path, text).with_context(|| format!("cannot write {}", path.display()))?;
    Ok(true)
}
