//! Connections that send exactly what they are told to.

use std::io::{self, Read as _, Write as _};
use std::net::{Ipv4Addr, TcpStream};
use std::time::Duration;

/// How long an answer may take.
const PATIENCE: Duration = Duration::from_secs(10);

/// An answer to an HTTP request.
#[derive(Clone, Debug)]
pub struct HttpAnswer {
    /// The status code.
    pub status: u16,
    /// Everything that came, head and body.
    pub text: String,
}

/// Opens a connection to a port of this machine.
pub fn connect(port: u16) -> io::Result<TcpStream> {
    let stream = TcpStream::connect((Ipv4Addr::LOCALHOST, port))?;
    stream.set_read_timeout(Some(PATIENCE))?;
    stream.set_write_timeout(Some(PATIENCE))?;
    stream.set_nodelay(true)?;
    Ok(stream)
}

/// Asks with GET.
pub fn get(port: u16, path: &str) -> io::Result<HttpAnswer> {
    request(port, &format!("GET {path} HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\nConnection: close\r\n\r\n"))
}

/// Sends a request as it is, and reads until the other side hangs up.
pub fn request(port: u16, text: &str) -> io::Result<HttpAnswer> {
    let mut stream = connect(port)?;
    stream.write_all(text.as_bytes())?;
    let text = String::from_utf8_lossy(&to_end(&mut stream)?).into_owned();
    let status = text.split(' ').nth(1).and_then(|status| status.parse().ok());
    let status = status.ok_or_else(|| io::Error::other(format!("no HTTP answer: {text:?}")))?;
    Ok(HttpAnswer { status, text })
}

/// Reads until the other side hangs up, however it does.
///
/// # Errors
///
/// If it does not.
pub fn to_end(stream: &mut TcpStream) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    match stream.read_to_end(&mut bytes) {
        Err(error) if error.kind() != io::ErrorKind::ConnectionReset => Err(error),
        _ => Ok(bytes),
    }
}

/// A WebSocket on which frames may be as wrong as one likes.
#[derive(Debug)]
pub struct Frames {
    stream: TcpStream,
    /// The largest payload of one frame that has come.
    pub largest: usize,
}

/// A frame that came.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Frame {
    /// Text.
    Text(String),
    /// The end, with its code and reason; without, if the socket was closed bare.
    Close(Option<(u16, String)>),
}

impl Frames {
    /// Opens a WebSocket.
    pub fn open(port: u16) -> io::Result<Self> {
        let mut stream = connect(port)?;
        stream.write_all(upgrade(port).as_bytes())?;
        let mut head = Vec::new();
        while !head.ends_with(b"\r\n\r\n") {
            let mut byte = [0];
            stream.read_exact(&mut byte)?;
            head.push(byte[0]);
        }
        if !head.starts_with(b"HTTP/1.1 101 ") {
            return Err(io::Error::other(String::from_utf8_lossy(&head).into_owned()));
        }
        Ok(Self { stream, largest: 0 })
    }

    /// Sends bytes that need not be a frame.
    pub fn send_bytes(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.stream.write_all(bytes)
    }

    /// Sends a text frame.
    pub fn send(&mut self, text: &[u8]) -> io::Result<()> {
        self.send_bytes(&frame(TEXT, text))
    }

    /// Reads the next text or the end; pings and pongs are passed over.
    pub fn read(&mut self) -> io::Result<Frame> {
        loop {
            if let Ok(frame) = self.read_any()? {
                return Ok(frame);
            }
        }
    }

    /// Reads the next text or the end, or else a ping: what an answer to it holds.
    pub fn read_any(&mut self) -> io::Result<Result<Frame, Vec<u8>>> {
        let mut parts = Vec::new();
        loop {
            let mut head = [0; 2];
            match self.stream.read_exact(&mut head) {
                Err(error)
                    if matches!(
                        error.kind(),
                        io::ErrorKind::UnexpectedEof | io::ErrorKind::ConnectionReset
                    ) =>
                {
                    return Ok(Ok(Frame::Close(None)));
                }
                read => read?,
            }
            let len = match head[1] {
                126 => {
                    let mut len = [0; 2];
                    self.stream.read_exact(&mut len)?;
                    usize::from(u16::from_be_bytes(len))
                }
                127 => {
                    let mut len = [0; 8];
                    self.stream.read_exact(&mut len)?;
                    usize::try_from(u64::from_be_bytes(len)).map_err(io::Error::other)?
                }
                len => usize::from(len),
            };
            self.largest = self.largest.max(len);
            let mut payload = vec![0; len];
            self.stream.read_exact(&mut payload)?;
            let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
            match head[0] & 0x0f {
                TEXT | CONTINUATION => {
                    parts.extend(payload);
                    if head[0] & 0x80 != 0 {
                        return Ok(Ok(Frame::Text(text(&parts))));
                    }
                }
                PING => return Ok(Err(payload)),
                CLOSE => {
                    let code = payload.first_chunk().map(|code| u16::from_be_bytes(*code));
                    return Ok(Ok(Frame::Close(code.map(|code| (code, text(&payload[2..]))))));
                }
                _ => {}
            }
        }
    }

    /// Reads until the other side closes, and returns how.
    pub fn end(&mut self) -> io::Result<Option<(u16, String)>> {
        loop {
            if let Frame::Close(how) = self.read()? {
                return Ok(how);
            }
        }
    }
}

/// The opcode of what continues a message.
pub const CONTINUATION: u8 = 0;
/// The opcode of text.
pub const TEXT: u8 = 1;
/// The opcode of bytes.
pub const BINARY: u8 = 2;
/// The opcode of the end.
pub const CLOSE: u8 = 8;

/// The opcode of a ping.
pub const PING: u8 = 9;
/// The opcode of the answer to a ping.
pub const PONG: u8 = 10;

/// Returns a whole frame of a client. The mask is zero, which is as good as any.
#[must_use]
pub fn frame(opcode: u8, payload: &[u8]) -> Vec<u8> {
    let mut bytes = vec![0x80 | opcode];
    match payload.len() {
        len @ 0..=125 => bytes.push(0x80 | len as u8),
        len @ 126..=0xffff => {
            bytes.push(0x80 | 126);
            bytes.extend((len as u16).to_be_bytes());
        }
        len => {
            bytes.push(0x80 | 127);
            bytes.extend((len as u64).to_be_bytes());
        }
    }
    bytes.extend([0; 4]);
    bytes.extend(payload);
    bytes
}

/// Returns the request that opens a WebSocket.
#[must_use]
pub fn upgrade(port: u16) -> String {
    format!(
        "GET / HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\
         Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
    )
}
