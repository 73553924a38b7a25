//! What the load loops need to know about a protocol, prepared before the clock starts.
//!
//! Logging in, announcing and subscribing is different everywhere and happens here with ordinary parsing.
//! The loops then see four things only: a message with a number to patch, a marker behind which a number
//! is found in what comes back, how to answer a call, and sockets.

mod floor;
mod gw3;
mod nats;

use std::net::SocketAddr;
use std::rc::Rc;

use anyhow::{Result, bail};
use memchr::memmem::Finder;

use crate::frame::{self, Opcode};
use crate::socket::{CLIENT_MASK, Reader, Socket, Writer};

/// Where the two ends of a conversation connect; the same address twice for a single server.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Endpoints {
    /// For callers and publishers.
    pub(crate) near: SocketAddr,
    /// For callees and subscribers.
    pub(crate) far: SocketAddr,
}

/// A language spoken by a measured system.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Protocol {
    /// Opaque frames between the sides of a room.
    Floor,
    /// The wire protocol of io.Connect clients.
    Gw3,
    /// NATS text in binary WebSocket frames.
    Nats,
}

/// What is sent to ten receivers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Fan {
    /// Data pushed on an accepted stream.
    Stream,
    /// Updates of a shared context.
    Context,
}

impl Protocol {
    /// Connects a caller and a callee; `run` keeps the names of different runs apart.
    pub(crate) async fn invoke(self, endpoints: Endpoints, run: u32) -> Result<Invoke> {
        match self {
            Self::Floor => floor::invoke(endpoints, run).await,
            Self::Gw3 => gw3::invoke(endpoints, run, &plain_payload()).await,
            Self::Nats => nats::invoke(endpoints, run).await,
        }
    }

    /// Connects a publisher and its subscribers.
    pub(crate) async fn fanout(self, fan: Fan, endpoints: Endpoints, run: u32) -> Result<Fanout> {
        match (self, fan) {
            (Self::Floor, _) => floor::fanout(fan, endpoints, run).await,
            (Self::Gw3, Fan::Stream) => gw3::stream(endpoints, run).await,
            (Self::Gw3, Fan::Context) => gw3::context(endpoints, run).await,
            // NATS has no contexts: an update is a message to a subject, and nobody keeps the state.
            (Self::Nats, _) => nats::fanout(endpoints, run).await,
        }
    }
}

/// Connects a GW3 caller and callee whose calls and results have that payload, a text without escapes.
pub(crate) async fn gw3_invoke(endpoints: Endpoints, run: u32, payload: &str) -> Result<Invoke> {
    gw3::invoke(endpoints, run, payload).await
}

/// A caller and a callee, ready to go.
#[derive(Debug)]
pub(crate) struct Invoke {
    /// Who calls.
    pub(crate) caller: Peer,
    /// Who answers.
    pub(crate) callee: Peer,
    /// One call.
    pub(crate) call: Numbered,
    /// Where a result says which call it belongs to.
    pub(crate) reply: Marker,
    /// How the callee answers.
    pub(crate) answer: Answer,
}

/// A publisher and its subscribers, ready to go.
#[derive(Debug)]
pub(crate) struct Fanout {
    /// Who publishes.
    pub(crate) publisher: Peer,
    /// Who receives.
    pub(crate) subscribers: Vec<Peer>,
    /// One message.
    pub(crate) message: Numbered,
    /// Where a delivery says which message it is.
    pub(crate) seen: Marker,
}

/// A connection with its protocol's framing.
#[derive(Debug)]
pub(crate) struct Peer {
    /// Incoming messages.
    pub(crate) inbox: Inbox,
    /// Outgoing messages.
    pub(crate) outbox: Outbox,
}

impl Peer {
    fn new(socket: Socket, wire: Wire) -> Self {
        let Socket { reader, writer } = socket;
        let outbox = Outbox { writer: writer.clone(), wire, text: Vec::new(), frames: Vec::new() };
        Self { inbox: Inbox { reader, wire, text: Vec::new(), writer }, outbox }
    }
}

/// How messages sit in WebSocket frames.
#[derive(Clone, Copy, Debug)]
enum Wire {
    /// One message per text frame.
    Frames,
    /// A byte stream cut into binary frames anywhere.
    Nats,
}

/// Incoming messages of a connection.
#[derive(Debug)]
pub(crate) struct Inbox {
    reader: Reader,
    wire: Wire,
    text: Vec<u8>,
    writer: Rc<Writer>,
}

impl Inbox {
    /// Waits for bytes and hands over every message that is complete, possibly none.
    pub(crate) async fn batch(&mut self, mut each: impl FnMut(&[u8]) -> Result<()>) -> Result<()> {
        match self.wire {
            Wire::Frames => self.reader.batch(each).await,
            Wire::Nats => {
                let text = &mut self.text;
                let fill = self.reader.batch(|payload| {
                    text.extend_from_slice(payload);
                    Ok(())
                });
                fill.await?;
                let pings = nats::split(&mut self.text, &mut each)?;
                if pings > 0 {
                    let mut pong = Vec::new();
                    frame::push_masked(&mut pong, Opcode::Binary, CLIENT_MASK, b"PONG\r\n");
                    self.writer.send(&pong).await?;
                }
                Ok(())
            }
        }
    }
}

/// Outgoing messages of a connection, collected until `flush`.
#[derive(Debug)]
pub(crate) struct Outbox {
    writer: Rc<Writer>,
    wire: Wire,
    text: Vec<u8>,
    frames: Vec<u8>,
}

impl Outbox {
    /// Adds a message.
    pub(crate) fn push(&mut self, message: &[u8]) {
        match self.wire {
            Wire::Frames => frame::push_masked(&mut self.frames, Opcode::Text, CLIENT_MASK, message),
            Wire::Nats => self.text.extend_from_slice(message),
        }
    }

    /// Writes what was added, at once.
    pub(crate) async fn flush(&mut self) -> Result<()> {
        if !self.text.is_empty() {
            frame::push_masked(&mut self.frames, Opcode::Binary, CLIENT_MASK, &self.text);
            self.text.clear();
        }
        if !self.frames.is_empty() {
            self.writer.send(&self.frames).await?;
            self.frames.clear();
        }
        Ok(())
    }
}

/// A prebuilt message with a number in it.
#[derive(Debug)]
pub(crate) struct Numbered {
    message: Vec<u8>,
    at: usize,
}

impl Numbered {
    /// Takes a message in which [`NUMBER`] stands once, where the number belongs.
    fn new(message: impl Into<Vec<u8>>) -> Result<Self> {
        let message = message.into();
        let Some(at) = memchr::memmem::find(&message, NUMBER.as_bytes()) else {
            bail!("a message without a place for its number")
        };
        Ok(Self { message, at })
    }

    /// The message with that number.
    pub(crate) fn with(&mut self, mut number: u32) -> &[u8] {
        for digit in self.message[self.at..self.at + NUMBER.len()].iter_mut().rev() {
            *digit = b'0' + (number % 10) as u8;
            number /= 10;
        }
        &self.message
    }
}

/// The text before a number in an incoming message.
#[derive(Debug)]
pub(crate) struct Marker {
    before: Finder<'static>,
    failure: Option<Finder<'static>>,
}

impl Marker {
    fn new(before: &'static str, failure: Option<&'static str>) -> Self {
        Self { before: Finder::new(before), failure: failure.map(Finder::new) }
    }

    /// The number in `message`; `None` if it is about something else.
    ///
    /// A message that reports a failure is an error: figures of a system that refuses are worth nothing.
    pub(crate) fn number(&self, message: &[u8]) -> Result<Option<u32>> {
        if let Some(failure) = &self.failure
            && failure.find(message).is_some()
        {
            bail!("the server answered {}", String::from_utf8_lossy(message));
        }
        let Some(at) = self.before.find(message) else { return Ok(None) };
        let digits = &message[at + self.before.needle().len()..];
        let Some(digits) = digits.get(..NUMBER.len()) else { return Ok(None) };
        let mut number = 0;
        for digit in digits {
            if !digit.is_ascii_digit() {
                return Ok(None);
            }
            number = number * 10 + u32::from(digit - b'0');
        }
        Ok(Some(number))
    }
}

/// How a callee answers an incoming call.
#[derive(Debug)]
pub(crate) enum Answer {
    /// Sends the message back as it came.
    Echo,
    /// Sends a `yield` with the invocation id between two prebuilt parts.
    Yield {
        /// Finds the id.
        id: Box<Finder<'static>>,
        /// What comes before the id.
        head: Vec<u8>,
        /// What comes after it.
        tail: Vec<u8>,
        /// Where the answer is put together.
        scratch: Vec<u8>,
    },
    /// Publishes to the reply subject of a NATS message.
    Publish {
        /// What follows the subject: length and payload.
        tail: Vec<u8>,
        /// Where the answer is put together.
        scratch: Vec<u8>,
    },
}

impl Answer {
    /// Adds the answer to `message` to `outbox`, if it is a call.
    pub(crate) fn push(&mut self, message: &[u8], outbox: &mut Outbox) {
        match self {
            Self::Echo => outbox.push(message),
            Self::Yield { id, head, tail, scratch } => {
                let Some(at) = id.find(message) else { return };
                let value = &message[at + id.needle().len()..];
                let Some(end) = memchr::memchr(b'"', value) else { return };
                scratch.clear();
                scratch.extend_from_slice(head);
                scratch.extend_from_slice(&value[..end]);
                scratch.extend_from_slice(tail);
                outbox.push(scratch);
            }
            Self::Publish { tail, scratch } => {
                let Some(subject) = nats::reply_subject(message) else { return };
                scratch.clear();
                scratch.extend_from_slice(b"PUB ");
                scratch.extend_from_slice(subject);
                scratch.extend_from_slice(tail);
                outbox.push(scratch);
            }
        }
    }
}

/// The 64 bytes that every message carries, with a place for its number.
fn payload() -> String {
    format!("{PAYLOAD_MARKER}{NUMBER};{}", &FILLER[..PAYLOAD_BYTES - PAYLOAD_MARKER.len() - NUMBER.len() - 1])
}

/// The same without a place for a number, for calls and results.
fn plain_payload() -> String {
    FILLER[..PAYLOAD_BYTES].to_owned()
}

/// How many receive what one publishes.
pub(crate) const SUBSCRIBERS: usize = 10;
/// How many bytes of payload every message carries.
pub(crate) const PAYLOAD_BYTES: usize = 64;
const FILLER: &str = "The quick brown fox jumps over the lazy dog and keeps running.....";
const PAYLOAD_MARKER: &str = "seq=";
const NUMBER: &str = "00000000";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_number_is_found_where_it_was_put() {
        assert_eq!(payload().len(), PAYLOAD_BYTES);
        assert_eq!(plain_payload().len(), PAYLOAD_BYTES);
        let mut message = Numbered::new(payload()).unwrap();
        let marker = Marker::new(PAYLOAD_MARKER, Some("\"error\""));
        for number in [0, 7, 99_999_999, 12_345_678] {
            assert_eq!(marker.number(message.with(number)).unwrap(), Some(number));
        }
        assert_eq!(marker.number(b"seq=12").unwrap(), None);
        assert!(marker.number(b"{\"type\":\"error\"}").is_err());
    }
}
