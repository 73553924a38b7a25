//! Starts the floors: this same program as a relay.

use anyhow::Result;
use tokio::process::Command;

use super::{Kit, Running};
use crate::floor::quic::write_identity;
use crate::process::{Process, free_address};
use crate::protocol::Endpoints;

pub(super) async fn start_ws(kit: &Kit) -> Result<Running> {
    let listen = free_address()?;
    let mut command = relay("floor-ws")?;
    command.args(["--listen", &listen.to_string()]);
    let mut relay = Process::start("floor-ws", &mut command, &kit.log("floor-ws"))?;
    relay.wait_for_listener(listen).await?;
    Ok(Running {
        endpoints: Endpoints { near: listen, far: listen },
        processes: vec![relay],
        dirs: Vec::new(),
    })
}

pub(super) async fn start_quic(kit: &Kit) -> Result<Running> {
    let (near, far, link) = (free_address()?, free_address()?, free_address()?);
    write_identity(&kit.dir)?;
    let identity = kit.dir.to_string_lossy();

    let mut command = relay("floor-quic")?;
    command.args(["--listen", &far.to_string(), "--link", &link.to_string(), "--identity", &identity]);
    let mut far_half = Process::start("floor-quic far", &mut command, &kit.log("floor-quic-far"))?;
    far_half.wait_for_listener(far).await?;

    let mut command = relay("floor-quic")?;
    command.args(["--listen", &near.to_string(), "--peer", &link.to_string(), "--identity", &identity]);
    let mut near_half = Process::start("floor-quic near", &mut command, &kit.log("floor-quic-near"))?;
    near_half.wait_for_listener(near).await?;
    Ok(Running { endpoints: Endpoints { near, far }, processes: vec![near_half, far_half], dirs: Vec::new() })
}

fn relay(subcommand: &str) -> Result<Command> {
    let mut command = Command::new(std::env::current_exe()?);
    command.arg(subcommand);
    Ok(command)
}
