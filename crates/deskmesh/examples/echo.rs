//! The node's WebSocket endpoint with an echo in place of GW3, for a conformance test to judge.
//!
//! Handshake, bounds and close codes are those of the node; see `tests/autobahn`.

use anyhow::{Context as _, Result};
use deskmesh::websocket::{self, End, Upgraded, WebSocket};
use mesh_model::Limits;
use tokio::net::{TcpListener, TcpStream};

#[tokio::main]
async fn main() -> Result<()> {
    let port = std::env::args().nth(1).context("usage: echo PORT")?.parse()?;
    let listener = TcpListener::bind(("127.0.0.1", port)).await?;
    loop {
        let (stream, _) = listener.accept().await?;
        let _ = stream.set_nodelay(true);
        tokio::spawn(serve(stream));
    }
}

async fn serve(stream: TcpStream) {
    let upgraded = websocket::upgraded(stream, |request| (websocket::upgrade(request), Some(()))).await;
    if let Ok(Some(Upgraded { stream, read, .. })) = upgraded {
        let limits = Limits::default();
        let (message, outbox) = (limits.message_bytes_max, limits.session_outbox_bytes_max);
        let mut socket = WebSocket::new(stream, read, message, outbox).await;
        let end = echo(&mut socket).await;
        socket.close(end).await;
    }
}

async fn echo(socket: &mut WebSocket) -> End {
    loop {
        let message = match socket.read().await {
            Ok(message) => message,
            Err(end) => return end,
        };
        if socket.feed(message).await.is_err() || socket.flush().await.is_err() {
            return End::Gone;
        }
    }
}
