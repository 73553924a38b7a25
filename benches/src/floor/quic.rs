//! The floor of two nodes: WebSocket, QUIC, WebSocket.
//!
//! Two processes joined by one QUIC connection. The half with the near sides dials the half with the far
//! sides and opens one bidirectional stream per near connection; a frame crosses it as a length and a
//! payload, once, however many receivers the far half has.
//!
//! ```text
//! stream  = room-len:u32 room  *( payload-len:u32 payload )
//! ```

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::Path;
use std::rc::Rc;
use std::sync::Arc;

use anyhow::{Context as _, Result, bail};
use quinn::{ClientConfig, Connection, Endpoint, RecvStream, SendStream, ServerConfig};
use rustls_pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Mutex;
use tokio::task::spawn_local;

use super::{Rooms, Side, parse_path};
use crate::frame::{self, Opcode};
use crate::socket::{Reader, Socket};

/// Writes the certificate that both halves share: `cert.der` and `key.der` in `dir`.
pub(crate) fn write_identity(dir: &Path) -> Result<()> {
    let made = rcgen::generate_simple_self_signed([SERVER_NAME.to_owned()])?;
    std::fs::write(dir.join("cert.der"), made.cert.der())?;
    std::fs::write(dir.join("key.der"), made.signing_key.serialize_der())?;
    Ok(())
}

/// Runs the half of callers and publishers; it listens once the link to `peer` is up.
pub(crate) async fn run_near(listen: SocketAddr, peer: SocketAddr, identity: &Path) -> Result<()> {
    let mut endpoint = Endpoint::client((Ipv4Addr::LOCALHOST, 0).into())?;
    endpoint.set_default_client_config(client_config(identity)?);
    let link = endpoint.connect(peer, SERVER_NAME)?.await.context("the QUIC link did not come up")?;
    let listener = TcpListener::bind(listen).await?;
    loop {
        let (stream, _) = listener.accept().await?;
        let link = link.clone();
        spawn_local(async move {
            let _ = serve_near(stream, &link).await;
        });
    }
}

async fn serve_near(stream: TcpStream, link: &Connection) -> Result<()> {
    let (path, socket) = Socket::accept(stream).await?;
    let (room, Side::Near) = parse_path(&path)? else { bail!("this half serves the near sides only") };
    let (mut send, mut recv) = link.open_bi().await?;
    let mut hello = Vec::new();
    push_framed(&mut hello, room.as_bytes());
    send.write_all(&hello).await?;
    let Socket { mut reader, writer } = socket;
    let back = spawn_local(async move {
        let mut inbox = Inbox::default();
        let mut out = Vec::new();
        while inbox.fill(&mut recv).await.is_ok() {
            while let Some(payload) = inbox.next() {
                frame::push(&mut out, Opcode::Text, payload);
            }
            if writer.send(&out).await.is_err() {
                return;
            }
            out.clear();
        }
    });
    let ended = forward(&mut reader, &Mutex::new(send)).await;
    back.abort();
    ended
}

/// Runs the half of callees and subscribers.
pub(crate) async fn run_far(listen: SocketAddr, link_listen: SocketAddr, identity: &Path) -> Result<()> {
    let endpoint = Endpoint::server(server_config(identity)?, link_listen)?;
    let listener = TcpListener::bind(listen).await?;
    let far = Rc::new(Far::default());
    spawn_local({
        let far = far.clone();
        async move {
            while let Some(incoming) = endpoint.accept().await {
                let Ok(link) = incoming.await else { continue };
                while let Ok((send, recv)) = link.accept_bi().await {
                    let far = far.clone();
                    spawn_local(async move {
                        let _ = far.serve_link(send, recv).await;
                    });
                }
            }
        }
    });
    loop {
        let (stream, _) = listener.accept().await?;
        let far = far.clone();
        spawn_local(async move {
            let _ = far.serve_socket(stream).await;
        });
    }
}

/// The half of callees and subscribers: its rooms, and for each the stream towards the near side.
#[derive(Default)]
struct Far {
    rooms: Rooms,
    upstreams: RefCell<BTreeMap<String, Rc<Mutex<SendStream>>>>,
}

impl Far {
    async fn serve_link(&self, send: SendStream, mut recv: RecvStream) -> Result<()> {
        let mut inbox = Inbox::default();
        let name = loop {
            inbox.fill(&mut recv).await?;
            if let Some(name) = inbox.next() {
                break String::from_utf8(name.to_vec())?;
            }
        };
        let room = self.rooms.enter(&name);
        self.upstreams.borrow_mut().insert(name, Rc::new(Mutex::new(send)));
        let mut out = Vec::new();
        loop {
            while let Some(payload) = inbox.next() {
                frame::push(&mut out, Opcode::Text, payload);
            }
            if !out.is_empty() {
                room.group(Side::Far).send(&out).await?;
                out.clear();
            }
            inbox.fill(&mut recv).await?;
        }
    }

    async fn serve_socket(&self, stream: TcpStream) -> Result<()> {
        let (path, mut socket) = Socket::accept(stream).await?;
        let (name, Side::Far) = parse_path(&path)? else { bail!("this half serves the far sides only") };
        let room = self.rooms.enter(name);
        room.group(Side::Far).join(&socket.writer);
        let ended = self.answer(&mut socket.reader, name).await;
        room.group(Side::Far).leave(&socket.writer);
        ended
    }

    async fn answer(&self, reader: &mut Reader, room: &str) -> Result<()> {
        // The near side comes second, so the stream is looked up with the first frame.
        let mut first = Vec::new();
        while first.is_empty() {
            read_framed(reader, &mut first).await?;
        }
        let upstream = self.upstreams.borrow().get(room).cloned().context("nobody on the near side")?;
        upstream.lock().await.write_all(&first).await?;
        forward(reader, &upstream).await
    }
}

/// Moves frames from a WebSocket to a stream, one write per batch.
async fn forward(reader: &mut Reader, stream: &Mutex<SendStream>) -> Result<()> {
    let mut out = Vec::new();
    loop {
        read_framed(reader, &mut out).await?;
        if !out.is_empty() {
            stream.lock().await.write_all(&out).await?;
            out.clear();
        }
    }
}

async fn read_framed(reader: &mut Reader, out: &mut Vec<u8>) -> Result<()> {
    let batch = reader.batch(|payload| {
        push_framed(out, payload);
        Ok(())
    });
    batch.await
}

fn push_framed(out: &mut Vec<u8>, payload: &[u8]) {
    out.extend_from_slice(&(payload.len() as u32).to_be_bytes());
    out.extend_from_slice(payload);
}

/// Bytes of a stream on their way to becoming payloads again.
struct Inbox {
    buffer: Vec<u8>,
    start: usize,
    end: usize,
}

impl Default for Inbox {
    fn default() -> Self {
        Self { buffer: vec![0; 64 << 10], start: 0, end: 0 }
    }
}

impl Inbox {
    async fn fill(&mut self, recv: &mut RecvStream) -> Result<()> {
        self.buffer.copy_within(self.start..self.end, 0);
        (self.start, self.end) = (0, self.end - self.start);
        if self.end == self.buffer.len() {
            self.buffer.resize(self.buffer.len() * 2, 0);
        }
        let count = recv.read(&mut self.buffer[self.end..]).await?.context("the stream ended")?;
        self.end += count;
        Ok(())
    }

    fn next(&mut self) -> Option<&[u8]> {
        let bytes = &self.buffer[self.start..self.end];
        let (len, rest) = bytes.split_first_chunk::<4>()?;
        let payload = rest.get(..u32::from_be_bytes(*len) as usize)?;
        self.start += 4 + payload.len();
        Some(payload)
    }
}

fn server_config(identity: &Path) -> Result<ServerConfig> {
    let key = PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(std::fs::read(identity.join("key.der"))?));
    let tls = rustls::ServerConfig::builder_with_provider(provider())
        .with_protocol_versions(&[&rustls::version::TLS13])?
        .with_no_client_auth()
        .with_single_cert(vec![certificate(identity)?], key)?;
    let quic = quinn::crypto::rustls::QuicServerConfig::try_from(tls)?;
    let mut config = ServerConfig::with_crypto(Arc::new(quic));
    config.transport_config(transport());
    Ok(config)
}

fn client_config(identity: &Path) -> Result<ClientConfig> {
    let mut roots = rustls::RootCertStore::empty();
    roots.add(certificate(identity)?)?;
    let tls = rustls::ClientConfig::builder_with_provider(provider())
        .with_protocol_versions(&[&rustls::version::TLS13])?
        .with_root_certificates(roots)
        .with_no_client_auth();
    let quic = quinn::crypto::rustls::QuicClientConfig::try_from(tls)?;
    let mut config = ClientConfig::new(Arc::new(quic));
    config.transport_config(transport());
    Ok(config)
}

/// quinn's defaults, except that an idle link stays up.
fn transport() -> Arc<quinn::TransportConfig> {
    let mut transport = quinn::TransportConfig::default();
    transport.max_idle_timeout(None);
    Arc::new(transport)
}

fn certificate(identity: &Path) -> Result<CertificateDer<'static>> {
    Ok(CertificateDer::from(std::fs::read(identity.join("cert.der"))?))
}

fn provider() -> Arc<rustls::crypto::CryptoProvider> {
    Arc::new(rustls::crypto::ring::default_provider())
}

const SERVER_NAME: &str = "floor.test";
