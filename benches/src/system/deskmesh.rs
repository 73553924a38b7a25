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
    let mut token = Command::new(&kit.deskmesh);
    token.args(["token", "create", "--data-dir"]).arg(near.dir.path());
    let token = output(&mut token, "deskmesh token create").await?;
    let far_process = far.start(kit, "far", Some(&token)).await?;
    let endpoints = Endpoints { near: near.listen, far: far.listen };
    Ok(Running { endpoints, processes: vec![near_process, far_process], dirs: vec![near.dir, far.dir] })
}

struct Node {
    dir: TempDir,
    listen: SocketAddr,
    mesh_listen: SocketAddr,
}

impl Node {
    fn new() -> Result<Self> {
        Ok(Self { dir: TempDir::new()?, listen: free_address()?, mesh_listen: free_address()? })
    }

    async fn start(&self, kit: &Kit, name: &str, token: Option<&str>) -> Result<Process> {
        let mut command = Command::new(&kit.deskmesh);
        command.arg("up").arg("--data-dir").arg(self.dir.path());
        command.args(["--listen", &self.listen.to_string(), "--mesh-listen", &self.mesh_listen.to_string()]);
        command.args(["--name", name]);
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
}
