//! The floor of one node: WebSocket in, WebSocket out.

use std::net::SocketAddr;
use std::rc::Rc;

use anyhow::Result;
use tokio::net::{TcpListener, TcpStream};
use tokio::task::spawn_local;

use super::{Rooms, parse_path};
use crate::frame::{self, Opcode};
use crate::socket::Socket;

/// Relays until the process is ended.
pub(crate) async fn run(listen: SocketAddr) -> Result<()> {
    let listener = TcpListener::bind(listen).await?;
    let rooms = Rc::new(Rooms::default());
    loop {
        let (stream, _) = listener.accept().await?;
        let rooms = rooms.clone();
        spawn_local(async move {
            // A connection ends with an error in any case: the other side hangs up when it has measured.
            let _ = serve(stream, &rooms).await;
        });
    }
}

async fn serve(stream: TcpStream, rooms: &Rooms) -> Result<()> {
    let (path, mut socket) = Socket::accept(stream).await?;
    let (room, side) = parse_path(&path)?;
    let room = rooms.enter(room);
    room.group(side).join(&socket.writer);
    let mut out = Vec::new();
    let ended = loop {
        let batch = socket.reader.batch(|payload| {
            frame::push(&mut out, Opcode::Text, payload);
            Ok(())
        });
        if let Err(error) = batch.await {
            break error;
        }
        if !out.is_empty() {
            room.group(side.other()).send(&out).await?;
            out.clear();
        }
    };
    room.group(side).leave(&socket.writer);
    Err(ended)
}
