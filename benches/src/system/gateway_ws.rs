//! Starts the reference GW3 gateway, an npm package run by node.

use std::path::PathBuf;

use anyhow::{Context as _, Result};
use tokio::process::Command;

use super::{Kit, Running, output, write_if_changed};
use crate::process::{Process, free_address};
use crate::protocol::Endpoints;

/// Installs the pinned package under the kit's directory, unless it is there.
pub(super) async fn prepare(kit: &Kit) -> Result<String> {
    let node = output(Command::new("node").arg("--version"), "node --version").await?;
    let dir = dir(kit);
    std::fs::create_dir_all(&dir)?;
    let mut changed = false;
    for (name, text) in FILES {
        changed |= write_if_changed(&dir.join(name), text)?;
    }
    let package = dir.join("node_modules/@glue42/gateway-ws/package.json");
    if changed || !package.exists() {
        eprintln!("npm ci: the reference gateway");
        output(Command::new("npm").args(["ci", "--silent"]).current_dir(&dir), "npm ci").await?;
    }
    let package: serde_json::Value = serde_json::from_slice(&std::fs::read(&package)?)?;
    let version = package["version"].as_str().context("gateway-ws without a version")?;
    Ok(format!("@glue42/gateway-ws {version}, node {node}"))
}

pub(super) async fn start(kit: &Kit) -> Result<Running> {
    let listen = free_address()?;
    let mut command = Command::new("node");
    command.args(["gateway.cjs", &listen.port().to_string()]).current_dir(dir(kit));
    let mut gateway = Process::start("gateway-ws", &mut command, &kit.log("gateway-ws"))?;
    gateway.wait_for_listener(listen).await?;
    Ok(Running {
        endpoints: Endpoints { near: listen, far: listen },
        processes: vec![gateway],
        dirs: Vec::new(),
    })
}

fn dir(kit: &Kit) -> PathBuf {
    kit.dir.join("reference")
}

const FILES: [(&str, &str); 4] = [
    (".npmrc", include_str!("../../reference/.npmrc")),
    ("package.json", include_str!("../../reference/package.json")),
    ("package-lock.json", include_str!("../../reference/package-lock.json")),
    ("gateway.cjs", include_str!("../../reference/gateway.cjs")),
];
