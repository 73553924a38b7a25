//! Starts deskmesh, one node or two joined by a token.

use std::net::SocketAddr;

use anyhow::{Result, bail};
use tempfile::TempDir;
use tokio::process::Command;

use super::{Kit, Running, output};
use crate::process::{Process, free_address, http_get};
use crate::protocol::Endpoints;

/// Says which binary there is; it is not built here.
pub(super) async fn prepare(kit: &Kit) -> Result<String> {
    if !kit.deskmesh.exists() {
        bail!("no binary; build it with `cargo build --release -p deskmesh`, or name it with --deskmesh");
    }
    output(Command::new(&kit.deskmesh).arg("--version"), "deskmesh --version").await
}

pub(super) async fn start_one(kit: &Kit) -> Result<Running> {
    let node = Node::new()?;
    let process = node.start(kit, "one", None).await?;
    let endpoints = Endpoints { near: node.listen, far: node.listen };
    Ok(Running { endpoints, processes: vec![process], dirs: vec![node.dir] })
}

pub(super) async fn start_two(kit: &Kit) -> Result<Running> {
    let (near, far) = (Node::new()?, Node::new()?);
    let near_process = near.start(kit, "near", None).await?;
    let far_process = far.start(kit, "far", Some(&near.token(kit).await?)).await?;
    let endpoints = Endpoints { near: near.listen, far: far.listen };
    Ok(Running { endpoints, processes: vec![near_process, far_process], dirs: vec![near.dir, far.dir] })
}

/// A node of its own: where it keeps its state, and where it listens.
#[derive(Debug)]
pub(crate) struct Node {
    dir: TempDir,
    /// Where applications connect.
    pub(crate) listen: SocketAddr,
    /// Where it is for other nodes, and from where it dials them.
    pub(crate) mesh_listen: SocketAddr,
    /// Where others are told to dial it, if not there.
    pub(crate) advertised: Option<SocketAddr>,
}

impl Node {
    /// A node that has not been started.
    pub(crate) fn new() -> Result<Self> {
        let (listen, mesh_listen) = (free_address()?, free_address()?);
        Ok(Self { dir: TempDir::new()?, listen, mesh_listen, advertised: None })
    }

    /// Starts it, with a token the first time if it is to join a mesh, and waits until it is ready.
    pub(crate) async fn start(&self, kit: &Kit, name: &str, token: Option<&str>) -> Result<Process> {
        let mut command = Command::new(&kit.deskmesh);
        command.arg("up").arg("--data-dir").arg(self.dir.path());
        command.args(["--listen", &self.listen.to_string(), "--mesh-listen", &self.mesh_listen.to_string()]);
        command.args(["--name", name]);
        if let Some(advertised) = self.advertised {
            command.env("DESKMESH_MESH_ADVERTISE", advertised.to_string());
        }
        if let Some(token) = token {
            command.args(["--join", token]);
        }
        let mut process = Process::start("deskmesh", &mut command, &kit.log(&format!("deskmesh-{name}")))?;
        process
            .wait_until("/readyz is not 200", async || {
                http_get(self.listen, "/readyz").await.is_some_and(|(status, _)| status == 200)
            })
            .await?;
        Ok(process)
    }

    /// Makes a token with which another node can join this one, which runs.
    pub(crate) async fn token(&self, kit: &Kit) -> Result<String> {
        let mut command = Command::new(&kit.deskmesh);
        command.args(["token", "create", "--data-dir"]).arg(self.dir.path());
        output(&mut command, "deskmesh token create").await
    }
}
