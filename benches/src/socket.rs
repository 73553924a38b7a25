//! One WebSocket as the bench uses it: whole batches in, one write out.
//!
//! A reader hands over every complete message that one `read` brought, so its owner can answer them all
//! with a single write. Writes happen inline in the caller's task; only a full socket makes it wait.

use std::cell::{Cell, RefCell};
use std::net::SocketAddr;
use std::rc::Rc;

use anyhow::{Context as _, Result, bail};
use base64::Engine as _;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio_tungstenite::tungstenite::handshake::derive_accept_key;

use crate::frame::{self, Opcode};

/// Both halves of a connection.
#[derive(Debug)]
pub(crate) struct Socket {
    /// Where messages come from.
    pub(crate) reader: Reader,
    /// Where bytes go; shared by the tasks of this connection.
    pub(crate) writer: Rc<Writer>,
}

impl Socket {
    /// Opens `ws://{address}{path}`.
    pub(crate) async fn connect(address: SocketAddr, path: &str) -> Result<Self> {
        let mut stream =
            TcpStream::connect(address).await.with_context(|| format!("no connection to {address}"))?;
        stream.set_nodelay(true)?;
        let key = base64::engine::general_purpose::STANDARD.encode("deskmesh-bench!!");
        let request = format!(
            "GET {path} HTTP/1.1\r\nHost: {address}\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
             Sec-WebSocket-Key: {key}\r\nSec-WebSocket-Version: 13\r\n\r\n"
        );
        stream.write_all(request.as_bytes()).await?;
        let (head, rest) = read_head(&mut stream).await?;
        if !head.starts_with("HTTP/1.1 101") {
            bail!("{address} refused the WebSocket: {}", head.lines().next().unwrap_or_default());
        }
        Ok(Self::new(stream, rest, Role::Client))
    }

    /// Answers the upgrade request on an accepted connection, and says which path it asked for.
    pub(crate) async fn accept(mut stream: TcpStream) -> Result<(String, Self)> {
        stream.set_nodelay(true)?;
        let (head, rest) = read_head(&mut stream).await?;
        let path = head.split(' ').nth(1).unwrap_or_default().to_owned();
        let key = head
            .lines()
            .filter_map(|line| line.split_once(':'))
            .find(|(name, _)| name.eq_ignore_ascii_case("sec-websocket-key"))
            .map(|(_, value)| value.trim())
            .context("an upgrade request without Sec-WebSocket-Key")?;
        let response = format!(
            "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
             Sec-WebSocket-Accept: {}\r\n\r\n",
            derive_accept_key(key.as_bytes())
        );
        stream.write_all(response.as_bytes()).await?;
        Ok((path, Self::new(stream, rest, Role::Server)))
    }

    fn new(stream: TcpStream, rest: Vec<u8>, role: Role) -> Self {
        let (read_half, write_half) = stream.into_split();
        let writer =
            Rc::new(Writer { half: write_half, busy: Cell::new(false), backlog: RefCell::default() });
        let end = rest.len();
        let mut buffer = rest;
        buffer.resize(end + READ_BUFFER_BYTES, 0);
        let reader = Reader { half: read_half, buffer, start: 0, end, role, pongs: writer.clone() };
        Self { reader, writer }
    }
}

/// The receiving half.
#[derive(Debug)]
pub(crate) struct Reader {
    half: OwnedReadHalf,
    buffer: Vec<u8>,
    start: usize,
    end: usize,
    role: Role,
    pongs: Rc<Writer>,
}

impl Reader {
    /// Waits for bytes and hands every complete message to `each`; possibly none, if the last is partial.
    ///
    /// Pings are answered here. A close, or the end of the stream, is an error.
    pub(crate) async fn batch(&mut self, mut each: impl FnMut(&[u8]) -> Result<()>) -> Result<()> {
        // Bytes that came with the handshake are looked at before the first wait.
        if self.start == self.end {
            self.fill().await?;
        }
        let mut pongs = Vec::new();
        let before = self.start;
        while let Some(frame) = frame::parse(&mut self.buffer[self.start..self.end])? {
            match frame.opcode {
                Opcode::Text | Opcode::Binary => each(frame.payload)?,
                Opcode::Ping => match self.role {
                    Role::Client => {
                        frame::push_masked(&mut pongs, Opcode::Pong, CLIENT_MASK, frame.payload);
                    }
                    Role::Server => frame::push(&mut pongs, Opcode::Pong, frame.payload),
                },
                Opcode::Pong => {}
                Opcode::Close => bail!("the other side closed: {}", close_text(frame.payload)),
            }
            self.start += frame.frame_len;
        }
        if self.start == before {
            self.fill().await?;
        }
        if !pongs.is_empty() {
            self.pongs.send(&pongs).await?;
        }
        Ok(())
    }

    /// Gives the memory of the buffer back, when nothing more is to be read.
    pub(crate) fn forget_buffer(&mut self) {
        (self.buffer, self.start, self.end) = (Vec::new(), 0, 0);
    }

    async fn fill(&mut self) -> Result<()> {
        if self.start == self.end {
            (self.start, self.end) = (0, 0);
        } else if self.end == self.buffer.len() {
            if self.start == 0 {
                self.buffer.resize(self.buffer.len() * 2, 0);
            } else {
                self.buffer.copy_within(self.start..self.end, 0);
                (self.start, self.end) = (0, self.end - self.start);
            }
        }
        let count = self.half.read(&mut self.buffer[self.end..]).await?;
        if count == 0 {
            bail!("the other side hung up");
        }
        self.end += count;
        Ok(())
    }
}

/// The sending half.
#[derive(Debug)]
pub(crate) struct Writer {
    half: OwnedWriteHalf,
    /// Whether a task is waiting in `send` with bytes half written; others then queue behind it.
    busy: Cell<bool>,
    backlog: RefCell<Vec<u8>>,
}

impl Writer {
    /// Writes `bytes`, which are whole frames; returns once the kernel has them.
    ///
    /// If another task is in the middle of a write, the bytes are left for it to send.
    pub(crate) async fn send(&self, bytes: &[u8]) -> Result<()> {
        if self.busy.get() {
            self.backlog.borrow_mut().extend_from_slice(bytes);
            return Ok(());
        }
        self.write_all(bytes).await?;
        while !self.backlog.borrow().is_empty() {
            let waiting = self.backlog.take();
            self.write_all(&waiting).await?;
        }
        Ok(())
    }

    async fn write_all(&self, mut bytes: &[u8]) -> Result<()> {
        while !bytes.is_empty() {
            match self.half.try_write(bytes) {
                Ok(count) => bytes = &bytes[count..],
                Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => {
                    self.busy.set(true);
                    self.half.writable().await?;
                    self.busy.set(false);
                }
                Err(error) => return Err(error.into()),
            }
        }
        Ok(())
    }
}

/// Which end of the connection this is: clients mask what they send.
#[derive(Clone, Copy, Debug)]
enum Role {
    Client,
    Server,
}

/// The mask of everything the generator sends. Not zero, so that servers do their unmasking.
pub(crate) const CLIENT_MASK: [u8; 4] = [0x5a, 0xc3, 0x17, 0x9e];

const READ_BUFFER_BYTES: usize = 64 << 10;
const HEAD_BYTES_MAX: usize = 16 << 10;

async fn read_head(stream: &mut TcpStream) -> Result<(String, Vec<u8>)> {
    let mut bytes = Vec::new();
    loop {
        if let Some(end) = memchr::memmem::find(&bytes, b"\r\n\r\n") {
            let rest = bytes.split_off(end + 4);
            return Ok((String::from_utf8(bytes)?, rest));
        }
        if bytes.len() > HEAD_BYTES_MAX {
            bail!("an HTTP head longer than {HEAD_BYTES_MAX} bytes");
        }
        if stream.read_buf(&mut bytes).await? == 0 {
            bail!("the connection ended during the WebSocket handshake");
        }
    }
}

fn close_text(payload: &[u8]) -> String {
    match payload {
        [high, low, text @ ..] => {
            format!("{} {}", u16::from_be_bytes([*high, *low]), String::from_utf8_lossy(text))
        }
        _ => "without a reason".to_owned(),
    }
}
