//! The WebSockets of FDC3 apps and of launcher pages.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use fdc3_agent::{Admission, ConnectionId};
use tokio::net::TcpStream;
use tokio::time::Instant;

use super::service::{Desktop, keep_out};
use crate::config::LimitsConfig;
use crate::local::websocket::{CloseWith, End, close};
use crate::local::wire::{Wire, frame_of, relieved};
use crate::outbox::{Item, Taken};

/// Who is at the other end.
#[derive(Debug)]
pub(crate) enum Role {
    /// An app that has yet to say who it is.
    App(Admission),
    Launcher,
}

struct Session {
    desktop: Arc<Desktop>,
    connection: ConnectionId,
    wire: Wire,
    role: Role,
    /// It has said who it is.
    known: bool,
    limits: LimitsConfig,
}

/// Serves a connection to its end.
pub(crate) async fn run(
    desktop: Arc<Desktop>,
    connection: ConnectionId,
    limits: LimitsConfig,
    stream: TcpStream,
    read: Vec<u8>,
    role: Role,
) {
    let wire = Wire::new(stream, read, &limits).await;
    desktop.add_connection(connection, &wire.outbox);
    let known = matches!(role, Role::Launcher);
    let launcher = known.then(|| desktop.add_launcher(&wire.outbox));
    let mut session = Session { desktop, connection, wire, role, known, limits };
    let end = session.serve().await;
    if let Some(id) = launcher {
        session.desktop.launchers.remove(id);
    }
    session.desktop.remove_connection(connection);
    let now = session.desktop.now();
    session.desktop.with(|agent| agent.disconnected(connection, now));
    if let End::Close(CloseWith { code, reason }) = &end {
        tracing::info!(connection = connection.0, code, %reason, "FDC3 connection closed");
    }
    session.wire.socket.close(end).await;
}

/// Ends a connection for which there is no agent.
pub(crate) async fn turn_away(limits: &LimitsConfig, stream: TcpStream, read: Vec<u8>, why: String) {
    let wire = Wire::new(stream, read, limits).await;
    wire.socket.close(close(1013, why)).await;
}

impl Session {
    async fn serve(&mut self) -> End {
        let hello_deadline = Instant::now() + Duration::from_millis(self.limits.hello_timeout_ms);
        let mut ping = tokio::time::interval(Duration::from_millis(self.limits.ping_interval_ms));
        ping.reset();
        let outbox = self.wire.outbox.clone();
        loop {
            let crowded = self.wire.waits_for();
            let ended = tokio::select! {
                biased;
                () = outbox.changed() => self.write().await,
                () = relieved(crowded.as_ref()), if crowded.is_some() => {
                    self.wire.go_on();
                    None
                }
                message = self.wire.socket.read(), if crowded.is_none() => {
                    message.and_then(frame_of).and_then(|frame| self.frame(&frame)).err()
                }
                () = tokio::time::sleep_until(hello_deadline), if !self.known => {
                    let millis = self.limits.hello_timeout_ms;
                    Some(close(1008, format!("no app said who it is within {millis} ms (limit hello_timeout_ms)")))
                }
                _ = ping.tick() => self.wire.ping().await,
            };
            if let Some(end) = ended {
                return end;
            }
        }
    }

    fn frame(&mut self, frame: &Bytes) -> Result<(), End> {
        let max = self.limits.message_bytes_max;
        if frame.len() > max {
            return Err(close(
                1009,
                format!("a message is larger than {max} bytes (limit message_bytes_max)"),
            ));
        }
        let now = self.desktop.now();
        match &self.role {
            Role::Launcher => {
                if let Some(answer) = self.desktop.launcher_asks(frame) {
                    self.wire.outbox.push(Item::Frame(answer));
                }
                Ok(())
            }
            Role::App(_) if self.known => {
                let connection = self.connection;
                let (taken, crowded) = self.desktop.with(|agent| agent.frame(connection, frame, now));
                self.wire.wait_for(crowded);
                taken.map_err(|problem| close(1007, format!("not a DACP message: {problem}")))
            }
            Role::App(admission) => {
                let hello = proto_dacp::decode_hello(frame, self.limits.json())
                    .map_err(|problem| close(1007, format!("not a DACP message: {problem}")))?;
                let session = self.desktop.open_session();
                let connection = self.connection;
                let connected =
                    self.desktop.with(|agent| agent.connect(connection, session, &hello, admission, now)).0;
                match connected {
                    Ok(()) => {
                        self.known = true;
                        Ok(())
                    }
                    Err(refused) => {
                        self.desktop.gateway().close_session(session, None);
                        keep_out(&self.wire.outbox, refused);
                        Ok(())
                    }
                }
            }
        }
    }

    async fn write(&mut self) -> Option<End> {
        match self.wire.outbox.take() {
            Taken::Items(items) => {
                for item in items {
                    let (Item::Frame(frame) | Item::Data(frame)) = item else { continue };
                    if let Err(end) = self.wire.feed(frame).await {
                        return Some(self.wire.outbox.closed().map_or(end, End::Close));
                    }
                }
                if let Err(end) = self.wire.flush().await {
                    return Some(self.wire.outbox.closed().map_or(end, End::Close));
                }
                self.wire.outbox.again();
                None
            }
            Taken::Mark => None,
            Taken::End(with) => with.map(End::Close),
        }
    }
}
