//! A WebSocket as this node serves it: its handshake, its bounds, and what closes it with which code.
//!
//! What the messages say is no business of this module: a GW3 session reads and writes through it, and
//! so does the echo that the conformance test of the protocol judges.

use std::convert::Infallible;
use std::sync::Mutex;
use std::time::Duration;

use bytes::Bytes;
use futures_util::{SinkExt as _, StreamExt as _};
use http_body_util::Full;
use hyper::body::Incoming as Body;
use hyper::header::{self, HeaderValue};
use hyper::service::service_fn;
use hyper::{Method, Request, Response, StatusCode};
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::net::TcpStream;
use tokio::time::Instant;
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::error::ProtocolError;
use tokio_tungstenite::tungstenite::handshake::derive_accept_key;
use tokio_tungstenite::tungstenite::protocol::frame::Frame;
use tokio_tungstenite::tungstenite::protocol::frame::coding::{CloseCode, Data, OpCode};
use tokio_tungstenite::tungstenite::protocol::{CloseFrame, Role, WebSocketConfig};
use tokio_tungstenite::tungstenite::{Error, Message};

/// The WebSocket code of a node that is about to come back (RFC 6455, registry of close codes).
pub const RESTART: u16 = 1012;
/// A larger message is written in parts of this size: the socket copies what it writes, and keeps as much
/// memory as that ever took.
const FRAGMENT_BYTES: usize = 1 << 20;
/// How long a request's head may take.
const HEAD_TIMEOUT: Duration = Duration::from_secs(5);
/// How long a client may take to answer a close.
const CLOSE_DEADLINE: Duration = Duration::from_secs(1);
/// A message of up to so many times the largest one is read, to be refused by name; beyond that the
/// connection is closed.
const REFUSED_TIMES: usize = 4;

/// What a request is answered with.
pub type Answer = Response<Full<Bytes>>;

/// A connection that has become a WebSocket.
#[derive(Debug)]
pub struct Upgraded<T> {
    /// The socket.
    pub stream: TcpStream,
    /// What was read of it behind the request, in memory of its own.
    pub read: Vec<u8>,
    /// What came with the answer.
    pub with: T,
}

/// Serves the requests of a connection, until one of them is answered with [`upgrade`] and something for
/// the WebSocket, or the connection ends.
///
/// # Errors
///
/// Returns what is wrong with a request that is none.
pub async fn upgraded<T>(
    stream: TcpStream,
    answer: impl Fn(&Request<Body>) -> (Answer, Option<T>),
) -> Result<Option<Upgraded<T>>, hyper::Error> {
    // The WebSocket part runs in the same task, once HTTP has handed the socket over.
    let (upgraded_tx, mut upgraded_rx) = tokio::sync::oneshot::channel();
    let upgraded_tx = Mutex::new(Some(upgraded_tx));
    let service = service_fn(|mut request: Request<Body>| {
        let (answer, with) = answer(&request);
        if let Some(with) = with
            && let Some(tx) = upgraded_tx.lock().ok().and_then(|mut tx| tx.take())
        {
            let _ = tx.send((hyper::upgrade::on(&mut request), with));
        }
        async move { Ok::<_, Infallible>(answer) }
    });
    hyper::server::conn::http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEAD_TIMEOUT)
        .max_buf_size(16 << 10)
        .serve_connection(TokioIo::new(stream), service)
        .with_upgrades()
        .await?;
    // Not awaited: without an upgrade nothing is ever sent.
    let Ok((upgrade, with)) = upgraded_rx.try_recv() else { return Ok(None) };
    let parts = upgrade.await?.downcast::<TokioIo<TcpStream>>().ok();
    Ok(parts.map(|parts| Upgraded { stream: parts.io.into_inner(), read: parts.read_buf.to_vec(), with }))
}

/// Answers a request for a WebSocket.
#[must_use]
pub fn upgrade(request: &Request<Body>) -> Answer {
    let headers = request.headers();
    let version = headers.get(header::SEC_WEBSOCKET_VERSION).map(HeaderValue::as_bytes);
    let key = headers.get(header::SEC_WEBSOCKET_KEY).filter(|key| key.len() == 24);
    let (Some(key), Some(b"13"), &Method::GET) = (key, version, request.method()) else {
        let reason = "a WebSocket request needs GET, Sec-WebSocket-Key (16 bytes in Base64) and Sec-WebSocket-Version 13";
        return text(StatusCode::BAD_REQUEST, reason);
    };
    let mut answer = Response::new(Full::default());
    *answer.status_mut() = StatusCode::SWITCHING_PROTOCOLS;
    let accept = derive_accept_key(key.as_bytes());
    let headers = answer.headers_mut();
    headers.insert(header::CONNECTION, HeaderValue::from_static("Upgrade"));
    headers.insert(header::UPGRADE, HeaderValue::from_static("websocket"));
    if let Ok(accept) = HeaderValue::from_str(&accept) {
        headers.insert(header::SEC_WEBSOCKET_ACCEPT, accept);
    }
    answer
}

pub(crate) fn text(status: StatusCode, body: &str) -> Answer {
    let mut answer = Response::new(Full::new(Bytes::from(format!("{body}\n"))));
    *answer.status_mut() = status;
    answer.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static("text/plain; charset=utf-8"));
    answer
}

/// A WebSocket close code and a sentence.
#[derive(Clone, Debug)]
pub struct CloseWith {
    /// The code.
    pub code: u16,
    /// The sentence.
    pub reason: String,
}

/// Why a connection ends.
#[derive(Debug)]
pub enum End {
    /// The client has closed the connection.
    Goodbye,
    /// The client is gone, or its socket is.
    Gone,
    /// This node closes it.
    Close(CloseWith),
}

/// What comes from a client.
#[derive(Debug)]
pub enum Heard {
    /// A message, text or binary.
    Message(Message),
    /// The answer to a ping, with what was in that.
    Pong(Bytes),
}

/// The node's end of a connection.
#[derive(Debug)]
pub struct WebSocket {
    socket: WebSocketStream<TcpStream>,
    message_bytes_max: usize,
    heard: Instant,
}

impl WebSocket {
    /// Takes over a socket behind its handshake, with what was read of it already. The bounds are the
    /// limits `message_bytes_max` and `session_outbox_bytes_max`.
    pub async fn new(
        stream: TcpStream,
        read: Vec<u8>,
        message_bytes_max: usize,
        outbox_bytes_max: usize,
    ) -> Self {
        let config = WebSocketConfig::default()
            .read_buffer_size(4 << 10)
            .write_buffer_size(16 << 10)
            .max_write_buffer_size(outbox_bytes_max + (2 * message_bytes_max))
            .max_message_size(Some(message_bytes_max.saturating_mul(REFUSED_TIMES)))
            .max_frame_size(Some(message_bytes_max.saturating_mul(REFUSED_TIMES)));
        let socket = WebSocketStream::from_partially_read(stream, read, Role::Server, Some(config)).await;
        Self { socket, message_bytes_max, heard: Instant::now() }
    }

    /// Returns the next message of the client, text or binary. May be dropped and called again.
    ///
    /// # Errors
    ///
    /// Returns why the connection ends.
    pub async fn read(&mut self) -> Result<Message, End> {
        loop {
            if let Heard::Message(message) = self.hear().await? {
                return Ok(message);
            }
        }
    }

    /// Returns the next message of the client, or its answer to a ping. May be dropped and called again.
    ///
    /// # Errors
    ///
    /// Returns why the connection ends.
    pub async fn hear(&mut self) -> Result<Heard, End> {
        loop {
            let message = self.socket.next().await;
            if matches!(message, Some(Ok(_))) {
                self.heard = Instant::now();
            }
            match message {
                Some(Ok(message @ (Message::Text(_) | Message::Binary(_)))) => {
                    return Ok(Heard::Message(message));
                }
                Some(Ok(Message::Pong(content))) => return Ok(Heard::Pong(content)),
                Some(Ok(Message::Ping(_) | Message::Frame(_))) => {}
                Some(Ok(Message::Close(_))) => return Err(End::Goodbye),
                None => return Err(End::Gone),
                Some(Err(error)) => return Err(self.failed(&error)),
            }
        }
    }

    fn failed(&self, error: &Error) -> End {
        match error {
            Error::Capacity(_) => {
                let max = self.message_bytes_max;
                let reason = format!(
                    "a message is larger than {REFUSED_TIMES} times {max} bytes (limit message_bytes_max)"
                );
                close(1009, reason)
            }
            Error::Utf8(_) => close(1007, "a text frame is not UTF-8"),
            Error::Protocol(ProtocolError::ResetWithoutClosingHandshake) => End::Gone,
            Error::Protocol(problem) => close(1002, problem.to_string()),
            _ => End::Gone,
        }
    }

    /// Writes a message, without flushing.
    ///
    /// # Errors
    ///
    /// Returns what is wrong with the socket.
    pub async fn feed(&mut self, message: Message) -> Result<(), Error> {
        let (opcode, content) = match message {
            Message::Text(text) if text.len() > FRAGMENT_BYTES => (Data::Text, Bytes::from(text)),
            Message::Binary(bytes) if bytes.len() > FRAGMENT_BYTES => (Data::Binary, bytes),
            message => return self.socket.feed(message).await,
        };
        let mut opcodes = std::iter::once(opcode).chain(std::iter::repeat(Data::Continue));
        let mut from = 0;
        while let Some(opcode) = opcodes.next().filter(|_| from < content.len()) {
            let to = content.len().min(from + FRAGMENT_BYTES);
            let part = Frame::message(content.slice(from..to), OpCode::Data(opcode), to == content.len());
            self.socket.feed(Message::Frame(part)).await?;
            from = to;
        }
        Ok(())
    }

    /// Hands to the socket all that was written.
    ///
    /// # Errors
    ///
    /// Returns what is wrong with the socket.
    pub async fn flush(&mut self) -> Result<(), Error> {
        self.socket.flush().await
    }

    /// Pings the client.
    ///
    /// # Errors
    ///
    /// Returns what is wrong with the socket.
    pub async fn ping(&mut self, content: Bytes) -> Result<(), Error> {
        self.socket.send(Message::Ping(content)).await
    }

    /// Returns how long ago anything came from the client, be it an answer to a ping.
    #[must_use]
    pub fn silence(&self) -> Duration {
        self.heard.elapsed()
    }

    /// Ends the connection with the closing handshake; where its client is to come back, without waiting for
    /// its part of it.
    pub async fn close(mut self, end: End) {
        // A client that closes is answered: the answer waits in the socket (RFC 6455, 5.5.1).
        let _ = tokio::time::timeout(CLOSE_DEADLINE, self.socket.flush()).await;
        let End::Close(CloseWith { code, reason }) = end else { return };
        // A close frame holds at most 123 bytes of reason.
        let reason = reason
            .char_indices()
            .take_while(|(at, c)| at + c.len_utf8() <= 123)
            .map(|(_, c)| c)
            .collect::<String>();
        let frame = CloseFrame { code: CloseCode::from(code), reason: reason.into() };
        let closing = async {
            self.socket.close(Some(frame)).await?;
            if code == RESTART {
                // io.Connect clients that send while a connection is closing open one for that and one to log
                // in, and may then talk on the wrong one: closing is to be short.
                self.socket.get_ref().set_zero_linger()?;
                return Ok(());
            }
            while let Some(Ok(_)) = self.socket.next().await {}
            Ok::<_, Error>(())
        };
        let _ = tokio::time::timeout(CLOSE_DEADLINE, closing).await;
    }
}

pub(crate) fn close(code: u16, reason: impl Into<String>) -> End {
    End::Close(CloseWith { code, reason: reason.into() })
}
