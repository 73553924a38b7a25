//! A WebSocket with its outbox: what all connections of applications have in common.

use std::time::Duration;

use bytes::Bytes;
use mesh_model::Tick;
use std::sync::Arc;
use tokio::net::TcpStream;
use tokio::time::Instant;
use tokio_tungstenite::tungstenite::{Error, Message, Utf8Bytes};

use super::websocket::{End, WebSocket, close};
use crate::config::LimitsConfig;
use crate::outbox::Outbox;

/// How long a client that sends waits for one that reads slowly.
const RELIEF: Duration = Duration::from_millis(250);

/// A connection that is read from and written to.
pub(crate) struct Wire {
    pub(crate) socket: WebSocket,
    pub(crate) outbox: Arc<Outbox>,
    limits: LimitsConfig,
    /// Whose outbox this client has filled, and until when it waits for that to be read. Its own is
    /// written meanwhile: two clients may have filled each other's.
    crowded: Option<(Arc<Outbox>, Instant)>,
}

impl Wire {
    /// Takes over a socket behind its handshake, with what was read of it already.
    pub(crate) async fn new(stream: TcpStream, read: Vec<u8>, limits: &LimitsConfig) -> Self {
        let socket =
            WebSocket::new(stream, read, limits.message_bytes_max, limits.session_outbox_bytes_max).await;
        Self { socket, outbox: Arc::new(Outbox::new(limits)), limits: limits.clone(), crowded: None }
    }

    /// Pings the client, unless it has been silent for too long.
    pub(crate) async fn ping(&mut self) -> Option<End> {
        let (millis, missed) = (self.limits.ping_interval_ms, self.limits.missed_pings_max);
        // Half an interval more than the pings take, so that a ping that has just been sent is not missed.
        let silence = Duration::from_millis(millis.saturating_mul(missed).saturating_add(millis / 2));
        if self.socket.silence() > silence {
            let reason = format!(
                "{missed} pings, one each {millis} ms, were not answered (limits missed_pings_max, ping_interval_ms)"
            );
            return Some(close(1001, reason));
        }
        self.within(async |socket| socket.ping(Bytes::new()).await).await.err()
    }

    /// Returns when anything last came from the client.
    pub(crate) fn heard(&self, now: Tick) -> Tick {
        let silent = u64::try_from(self.socket.silence().as_micros()).unwrap_or(u64::MAX);
        Tick(now.0.saturating_sub(silent))
    }

    /// Takes it that this client has filled the outbox of another, and is to wait for it.
    pub(crate) fn wait_for(&mut self, crowded: Option<Arc<Outbox>>) {
        self.crowded = crowded
            .filter(|crowded| !Arc::ptr_eq(crowded, &self.outbox))
            .map(|crowded| (crowded, Instant::now() + RELIEF));
    }

    /// Returns whom this client waits for.
    pub(crate) fn waits_for(&self) -> Option<(Arc<Outbox>, Instant)> {
        self.crowded.clone()
    }

    /// It need not wait any more.
    pub(crate) fn go_on(&mut self) {
        self.crowded = None;
    }

    /// Writes a frame, without flushing.
    pub(crate) async fn feed(&mut self, frame: Bytes) -> Result<(), End> {
        // Assembled from parts that are JSON text each.
        let Ok(text) = Utf8Bytes::try_from(frame) else {
            tracing::error!("a frame that is not text was not sent");
            return Ok(());
        };
        self.within(async |socket| socket.feed(Message::Text(text)).await).await
    }

    pub(crate) async fn flush(&mut self) -> Result<(), End> {
        self.within(async |socket| socket.flush().await).await
    }

    /// Pings the client behind all that was written.
    pub(crate) async fn ask(&mut self, number: u64) -> Result<(), End> {
        let content = Bytes::copy_from_slice(&number.to_be_bytes());
        self.within(async |socket| socket.ping(content).await).await
    }

    /// Writes, but not for ever: a client that does not read is closed by its outbox or by the deadline.
    async fn within(
        &mut self,
        write: impl AsyncFnOnce(&mut WebSocket) -> Result<(), Error>,
    ) -> Result<(), End> {
        let outbox = self.outbox.clone();
        let deadline = Duration::from_millis(self.limits.write_deadline_ms);
        let write = write(&mut self.socket);
        tokio::pin!(write);
        // Most writes are done at once, without a timer.
        let result = match futures_util::poll!(&mut write) {
            std::task::Poll::Ready(result) => return result.map_err(|_| End::Gone),
            std::task::Poll::Pending => {
                let deadline = tokio::time::sleep(deadline);
                tokio::pin!(deadline);
                loop {
                    tokio::select! {
                        result = &mut write => break result,
                        () = &mut deadline => return Err(End::Close(outbox.too_slow())),
                        () = outbox.changed() => {
                            if let Some(with) = outbox.closed() {
                                return Err(End::Close(with));
                            }
                        }
                    }
                }
            }
        };
        // Whatever woke the outbox meanwhile is looked at again.
        outbox.again();
        result.map_err(|_| End::Gone)
    }
}

/// Returns the number of the [`ask`](Wire::ask) that this answers; nothing for other pings.
pub(crate) fn answer_of(pong: &Bytes) -> Option<u64> {
    pong.as_ref().try_into().ok().map(u64::from_be_bytes)
}

/// Returns the bytes of a message, or why they cannot be JSON.
pub(crate) fn frame_of(message: Message) -> Result<Bytes, End> {
    match message {
        Message::Text(text) => Ok(Bytes::from(text)),
        message => {
            let bytes = message.into_data();
            match std::str::from_utf8(&bytes) {
                Ok(_) => Ok(bytes),
                Err(_) => Err(close(1007, "a binary frame must hold JSON text in UTF-8")),
            }
        }
    }
}

/// Waits for another client to read; see [`Outbox::relieved`].
pub(crate) async fn relieved(crowded: Option<&(Arc<Outbox>, Instant)>) {
    if let Some((outbox, until)) = crowded {
        outbox.relieved(*until).await;
    }
}
