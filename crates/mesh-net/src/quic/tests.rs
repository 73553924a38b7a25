//! Links over real loopback sockets, and over a virtual network on a paused clock.

use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use mesh_identity::join::{Candidate, Exporter, JoinAnswer, JoinRequest, admit};
use mesh_identity::{JoinToken, NodeIdentity, PeerIdentity, TOKEN_TTL_MS, TokenStore, tls};
use mesh_model::{Lane, LinkId};
use quinn::{ConnectionError, Endpoint, EndpointConfig, TokioRuntime};
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime};
use rustls::{DigitallySignedStruct, Error, SignatureScheme};
use tokio::sync::Notify;
use tokio::time::{Instant, timeout};

use super::virtual_net::VirtualNet;
use super::*;

mod limits;

const NOW_MS: u64 = 1_800_000_000_000;
const ADDRESS: &str = "127.0.0.1:0";

/// A data directory and who lives there.
struct Home {
    dir: tempfile::TempDir,
    identity: Arc<NodeIdentity>,
}

impl Home {
    fn found(owner: &str) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let identity = NodeIdentity::found(dir.path(), owner, NOW_MS).unwrap();
        Self { dir, identity: Arc::new(identity) }
    }

    /// Another node of this mesh.
    fn another(&self) -> Self {
        let (token, exporter) = (self.token("h:1"), [3; 32]);
        let candidate = Candidate::generate().unwrap();
        let request = candidate.request(&token, &exporter);
        let answer = admit(&self.identity, &self.tokens(), &request, &exporter, NOW_MS).unwrap();
        let adopted = candidate.accept(&token, answer, NOW_MS).unwrap();
        let dir = tempfile::tempdir().unwrap();
        let identity = NodeIdentity::adopt(dir.path(), &candidate, &adopted).unwrap();
        Self { dir, identity: Arc::new(identity) }
    }

    fn tokens(&self) -> TokenStore {
        TokenStore::open(self.dir.path())
    }

    fn token(&self, address: &str) -> JoinToken {
        self.tokens().create(&self.identity, vec![address.to_owned()], TOKEN_TTL_MS, NOW_MS).unwrap()
    }
}

/// Writes down what happens.
#[derive(Default)]
struct Log {
    rows: Mutex<Rows>,
    changed: Notify,
    authority: Option<(Arc<NodeIdentity>, TokenStore)>,
}

#[derive(Default)]
struct Rows {
    opened: Vec<(LinkId, PeerIdentity, bool)>,
    frames: Vec<(Lane, Bytes, Option<Instant>)>,
    drained: usize,
    eased: usize,
    closed: Vec<(LinkId, String)>,
}

impl Log {
    fn change(&self, change: impl FnOnce(&mut Rows)) {
        change(&mut self.rows.lock().unwrap());
        self.changed.notify_waiters();
    }

    async fn until<T>(&self, look: impl Fn(&Rows) -> Option<T>) -> T {
        let wait = async {
            loop {
                let changed = self.changed.notified();
                if let Some(found) = look(&self.rows.lock().unwrap()) {
                    return found;
                }
                changed.await;
            }
        };
        timeout(Duration::from_secs(120), wait).await.expect("it should have happened by now")
    }

    async fn link(&self) -> LinkId {
        self.until(|rows| rows.opened.first().map(|(link, ..)| *link)).await
    }

    async fn closed(&self) -> String {
        self.until(|rows| rows.closed.first().map(|(_, reason)| reason.clone())).await
    }

    async fn frames(&self, count: usize) -> Vec<(Lane, Bytes)> {
        self.until(|rows| (rows.frames.len() >= count).then_some(())).await;
        self.rows.lock().unwrap().frames.iter().map(|(lane, frame, _)| (*lane, frame.clone())).collect()
    }
}

impl LinkEvents for Log {
    fn link_opened(&self, link: LinkId, peer: PeerIdentity, dialled: bool, _remote: SocketAddr) {
        self.change(|rows| rows.opened.push((link, peer, dialled)));
    }

    fn link_frame(&self, _link: LinkId, lane: Lane, frame: Bytes) {
        assert!(&frame[..] != b"panic", "asked to");
        self.change(|rows| rows.frames.push((lane, frame, Some(Instant::now()))));
    }

    fn link_drained(&self, _link: LinkId) {
        self.change(|rows| rows.drained += 1);
    }

    fn link_eased(&self, _link: LinkId) {
        self.change(|rows| rows.eased += 1);
    }

    fn link_closed(&self, link: LinkId, reason: String) {
        self.change(|rows| rows.closed.push((link, reason)));
    }

    fn join_requested(&self, request: JoinRequest, exporter: Exporter) -> JoinAnswer {
        let Some((identity, tokens)) = &self.authority else {
            return JoinRefusal::NotTheAuthority.answer();
        };
        admit(identity, tokens, &request, &exporter, NOW_MS).unwrap_or_else(|refusal| refusal.answer())
    }
}

struct Node {
    endpoint: MeshEndpoint,
    log: Arc<Log>,
    address: SocketAddr,
}

fn bind(home: &Home, limits: LinkLimits) -> Node {
    bind_at(home, limits, ADDRESS.parse().unwrap())
}

fn bind_at(home: &Home, limits: LinkLimits, address: SocketAddr) -> Node {
    let tokens = home.identity.is_authority().then(|| (Arc::clone(&home.identity), home.tokens()));
    let log = Arc::new(Log { authority: tokens, ..Log::default() });
    let clock = Clock::start_at(NOW_MS);
    let events = Arc::clone(&log) as Arc<dyn LinkEvents>;
    let endpoint = MeshEndpoint::bind(Arc::clone(&home.identity), address, events, limits, clock).unwrap();
    let address = endpoint.local_addr().unwrap();
    Node { endpoint, log, address }
}

/// Two nodes of one mesh with a link, as each of them names it.
async fn linked(a: LinkLimits, b: LinkLimits) -> (Node, LinkId, Node, LinkId) {
    let home = Home::found("ada");
    let other = home.another();
    let (a, b) = (bind(&home, a), bind(&other, b));
    let link_b = b.endpoint.dial(a.address, Some(home.identity.node())).await.unwrap().link;
    let link_a = a.log.link().await;
    (a, link_a, b, link_b)
}

async fn linked_by_default() -> (Node, LinkId, Node, LinkId) {
    linked(LinkLimits::default(), LinkLimits::default()).await
}

fn body(lane: u8, n: usize, length: usize) -> Bytes {
    let mut bytes = vec![lane; length];
    bytes[..8].copy_from_slice(&(n as u64).to_le_bytes());
    bytes.into()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn frames_go_both_ways_on_all_lanes_in_order() {
    let (a, link_a, b, link_b) = linked_by_default().await;
    let opened = a.log.rows.lock().unwrap().opened[0].clone();
    assert_eq!((&*opened.1.owner, opened.2), ("ada", false));
    assert!(b.log.rows.lock().unwrap().opened[0].2);
    let lanes: Vec<Lane> = super::lane::ordered_lanes().collect();
    const EACH: usize = 200;
    for n in 0..EACH {
        for (number, lane) in lanes.iter().enumerate() {
            let length = 8 + (n * 97 + number * 13) % 9_000;
            a.endpoint.send(link_a, *lane, body(number as u8, n, length)).unwrap();
            b.endpoint.send(link_b, *lane, body(number as u8, n, length)).unwrap();
        }
    }
    for n in 0..20 {
        a.endpoint.send(link_a, Lane::Bulk, body(9, n, 100_000)).unwrap();
    }
    let in_order = |frames: &[(Lane, Bytes)]| {
        for (number, lane) in lanes.iter().enumerate() {
            let bodies: Vec<&Bytes> =
                frames.iter().filter(|(of, _)| of == lane).map(|(_, body)| body).collect();
            assert_eq!(bodies.len(), EACH);
            for (n, got) in bodies.into_iter().enumerate() {
                assert_eq!(*got, body(number as u8, n, 8 + (n * 97 + number * 13) % 9_000));
            }
        }
    };
    in_order(&a.log.frames(EACH * lanes.len()).await);
    let at_b = b.log.frames(EACH * lanes.len() + 20).await;
    in_order(&at_b);
    let mut bulk: Vec<u64> = at_b
        .iter()
        .filter(|(lane, _)| *lane == Lane::Bulk)
        .map(|(_, body)| u64::from_le_bytes(body[..8].try_into().unwrap()))
        .collect();
    bulk.sort_unstable();
    assert_eq!(bulk, (0..20).collect::<Vec<_>>());
    a.log.until(|rows| (rows.drained > 0).then_some(())).await;
    assert!(a.endpoint.rtt(link_a).unwrap() < Duration::from_secs(1));
    let no_lane = a.endpoint.send(link_a, Lane::Session(mesh_model::SESSION_LANES), body(0, 0, 8));
    assert!(matches!(no_lane, Err(SendError::NoSuchLane(_))));
    assert_eq!(a.endpoint.send(LinkId(99), Lane::Control, body(0, 0, 8)), Err(SendError::Closed));
    a.endpoint.close(link_a, CloseCode(7), "enough");
    assert_eq!(a.log.closed().await, "closed here: enough");
    assert_eq!(b.log.closed().await, "closed by peer: enough");
    assert_eq!(a.endpoint.send(link_a, Lane::Control, body(0, 0, 8)), Err(SendError::Closed));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn ten_thousand_small_frames() {
    let (a, link, b, _) = linked_by_default().await;
    let start = Instant::now();
    for n in 0..10_000 {
        a.endpoint.send(link, Lane::Session(1), body(1, n, 100)).unwrap();
    }
    let frames = b.log.frames(10_000).await;
    println!("10,000 frames of 100 bytes in {:?}", start.elapsed());
    assert!(frames.iter().enumerate().all(|(n, (_, got))| *got == body(1, n, 100)));
}

/// Prints what a frame costs; asserts only that it arrives.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn ping_pong() {
    struct Echo(Mutex<Option<Arc<MeshEndpoint>>>);
    impl LinkEvents for Echo {
        fn link_opened(&self, _: LinkId, _: PeerIdentity, _: bool, _: SocketAddr) {}
        fn link_frame(&self, link: LinkId, lane: Lane, frame: Bytes) {
            self.0.lock().unwrap().as_ref().unwrap().send(link, lane, frame).unwrap();
        }
        fn link_drained(&self, _: LinkId) {}
        fn link_eased(&self, _: LinkId) {}
        fn link_closed(&self, _: LinkId, _: String) {}
    }
    let home = Home::found("ada");
    let echo = Arc::new(Echo(Mutex::default()));
    let endpoint = MeshEndpoint::bind(
        Arc::clone(&home.another().identity),
        ADDRESS.parse().unwrap(),
        Arc::clone(&echo) as Arc<dyn LinkEvents>,
        LinkLimits::default(),
        Clock::start_at(NOW_MS),
    );
    let endpoint = Arc::new(endpoint.unwrap());
    *echo.0.lock().unwrap() = Some(Arc::clone(&endpoint));
    let a = bind(&home, LinkLimits::default());
    let link = a.endpoint.dial(endpoint.local_addr().unwrap(), None).await.unwrap().link;
    let mut micros = Vec::new();
    for n in 0..2_000 {
        let start = Instant::now();
        a.endpoint.send(link, Lane::Session(0), body(0, n, 200)).unwrap();
        a.log.until(|rows| (rows.frames.len() > n).then_some(())).await;
        micros.push(start.elapsed().as_micros());
    }
    micros.sort_unstable();
    println!("round trip of 200 bytes: p50 {} µs, p99 {} µs", micros[1_000], micros[1_980]);
    *echo.0.lock().unwrap() = None;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_large_bulk_frame_beside_small_ones() {
    let (a, link, b, _) = linked_by_default().await;
    let large = body(2, 0, 5 << 20);
    a.endpoint.send(link, Lane::Bulk, large.clone()).unwrap();
    for n in 0..100 {
        a.endpoint.send(link, Lane::Control, body(0, n, 50)).unwrap();
    }
    let mut frames = b.log.frames(101).await;
    let place = frames.iter().position(|(lane, _)| *lane == Lane::Bulk).unwrap();
    assert!(frames.remove(place).1 == large);
    assert!(frames.into_iter().enumerate().all(|(n, (_, got))| got == body(0, n, 50)));
}

#[tokio::test]
async fn diallers_see_whom_they_reach() {
    let (home, strange) = (Home::found("ada"), Home::found("ada"));
    let other = home.another();
    let (a, b, x) = (
        bind(&home, LinkLimits::default()),
        bind(&other, LinkLimits::default()),
        bind(&strange, LinkLimits::default()),
    );
    let check = async |node: &Node, to: &Node, expected, text: &str| {
        let error = node.endpoint.dial(to.address, expected).await.unwrap_err().to_string();
        assert!(error.contains(text), "{error}");
    };
    check(&x, &a, None, "not trusted: certificate of another authority").await;
    check(&b, &a, Some(strange.identity.node()), "was expected").await;
    check(&a, &a, None, "own identity").await;
    assert!(a.log.rows.lock().unwrap().opened.is_empty());
    let nobody = std::net::UdpSocket::bind(ADDRESS).unwrap();
    let dial = a.endpoint.dial(nobody.local_addr().unwrap(), None);
    assert!(timeout(Duration::from_millis(200), dial).await.is_err());
}

/// A client that shows what it likes and believes everybody.
#[derive(Debug)]
struct Gullible;

impl ServerCertVerifier for Gullible {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn verify_tls13_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        vec![SignatureScheme::ED25519]
    }
}

/// Connects without our own care, and returns the connection.
async fn connect_as(
    home: Option<&Home>,
    alpn: &[u8],
    to: SocketAddr,
) -> Result<quinn::Connection, ConnectionError> {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let builder = rustls::ClientConfig::builder_with_provider(provider)
        .with_protocol_versions(&[&rustls::version::TLS13])
        .unwrap()
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(Gullible));
    let mut tls = match home {
        None => builder.with_no_client_auth(),
        Some(home) => {
            let key = std::fs::read(home.dir.path().join("identity/node.key")).unwrap();
            let key = PrivateKeyDer::Pkcs8(key.into());
            builder.with_client_auth_cert(vec![home.identity.certificate().clone()], key).unwrap()
        }
    };
    tls.alpn_protocols = vec![alpn.to_vec()];
    let config = config::quic_client(tls, &config::transport(true)).unwrap();
    let socket = std::net::UdpSocket::bind(ADDRESS).unwrap();
    let endpoint = Endpoint::new(EndpointConfig::default(), None, socket, Arc::new(TokioRuntime)).unwrap();
    endpoint.connect_with(config, to, tls::SERVER_NAME).unwrap().await
}

#[tokio::test]
async fn strangers_are_refused_with_a_reason() {
    let (home, strange) = (Home::found("ada"), Home::found("ada"));
    let a = bind(&home, LinkLimits::default());
    let check = async |home: Option<&Home>, code: CloseCode, text: &str| {
        let connection = connect_as(home, tls::ALPN_MESH, a.address).await.unwrap();
        match connection.closed().await {
            ConnectionError::ApplicationClosed(close) => {
                assert_eq!(close.error_code, code.into());
                assert_eq!(close.reason, text);
            }
            other => panic!("{other}"),
        }
    };
    check(None, CloseCode::NO_CERTIFICATE, "no certificate").await;
    check(Some(&strange), CloseCode::UNTRUSTED, "certificate of another authority").await;
    check(Some(&home), CloseCode::OWN_NODE, "own identity at the other end").await;
    assert!(connect_as(None, b"h3", a.address).await.is_err());
    assert!(a.log.rows.lock().unwrap().opened.is_empty());
}

/// In TLS 1.3 a client is connected before the server has looked at its certificate.
#[tokio::test]
async fn a_dialler_is_silent_until_it_is_welcome() {
    let home = Home::found("ada");
    let b = bind(&home.another(), LinkLimits::default());
    let clock = Clock::start_at(NOW_MS);
    let transport = config::transport(true);
    let server = config::server(&home.identity, &transport, &LinkLimits::default(), &clock).unwrap();
    let socket = std::net::UdpSocket::bind(ADDRESS).unwrap();
    let undecided =
        Endpoint::new(EndpointConfig::default(), Some(server), socket, Arc::new(TokioRuntime)).unwrap();
    let address = undecided.local_addr().unwrap();
    let listen = async {
        let connection = undecided.accept().await.unwrap().await.unwrap();
        let silence = timeout(Duration::from_millis(200), connection.accept_uni()).await;
        assert!(silence.is_err(), "the dialler has opened a stream");
        connection.close(CloseCode::UNTRUSTED.into(), b"after some thought");
    };
    let (dial, ()) = tokio::join!(b.endpoint.dial(address, None), listen);
    let reason = "after some thought".to_owned();
    assert_eq!(dial, Err(DialError::Refused { code: CloseCode::UNTRUSTED, reason }));
    assert!(b.log.rows.lock().unwrap().opened.is_empty());
}

#[tokio::test]
async fn a_node_joins_and_links() {
    let home = Home::found("ada");
    let a = bind(&home, LinkLimits::default());
    let clock = Clock::start_at(NOW_MS);
    let token = JoinToken::parse(&home.token(&a.address.to_string()).line()).unwrap();
    let candidate = Candidate::generate().unwrap();
    let local: SocketAddr = ADDRESS.parse().unwrap();
    let adopted = join(&token, &candidate, local, &clock).await.unwrap();
    let dir = tempfile::tempdir().unwrap();
    let identity = Arc::new(NodeIdentity::adopt(dir.path(), &candidate, &adopted).unwrap());
    let b = bind(&Home { dir, identity }, LinkLimits::default());
    b.endpoint.dial(a.address, Some(home.identity.node())).await.unwrap();
    assert_eq!(b.log.rows.lock().unwrap().opened[0].1.node, home.identity.node());

    let refused = async |token: &JoinToken, text: &str| {
        let error = join(token, &Candidate::generate().unwrap(), local, &clock).await.unwrap_err();
        let error = match std::error::Error::source(&error) {
            Some(source) => format!("{error}: {source}"),
            None => error.to_string(),
        };
        assert!(error.contains(text), "{error}");
    };
    refused(&token, "already used").await;
    // A node that is not the authority says so, and the next address is asked.
    let at_b = b.address.to_string();
    refused(&home.token(&at_b), "not the authority").await;
    let both = vec![at_b, a.address.to_string()];
    let token = home.tokens().create(&home.identity, both, TOKEN_TTL_MS, NOW_MS).unwrap();
    join(&token, &Candidate::generate().unwrap(), local, &clock).await.unwrap();
    // Another mesh at the token's address.
    let strange = Home::found("ada");
    let x = bind(&strange, LinkLimits::default());
    refused(&home.token(&x.address.to_string()), "another authority").await;
}

#[tokio::test]
async fn garbage_instead_of_a_join_request() {
    let home = Home::found("ada");
    let a = bind(&home, LinkLimits::default());
    for garbage in [&b""[..], b"x", &[1; 60], &[0xff; 5_000]] {
        let connection = connect_as(None, tls::ALPN_JOIN, a.address).await.unwrap();
        let (mut sending, _receiving) = connection.open_bi().await.unwrap();
        let _ = sending.write_all(garbage).await;
        let _ = sending.finish();
        match connection.closed().await {
            ConnectionError::ApplicationClosed(close) => {
                assert_eq!(close.error_code, CloseCode::BAD_JOIN.into());
            }
            other => panic!("{other}"),
        }
    }
}

#[tokio::test]
async fn a_peer_that_goes_is_noticed() {
    let (a, _, b, _) = linked_by_default().await;
    b.endpoint.shutdown().await;
    assert_eq!(a.log.closed().await, "closed by peer: shutting down");
    assert_eq!(b.log.closed().await, "closed here: shutting down");
    let (a, _, b, _) = linked_by_default().await;
    drop(b.endpoint);
    assert_eq!(a.log.closed().await, "closed by peer: shutting down");
}

#[tokio::test]
async fn a_frame_that_is_too_large_closes_its_link() {
    let small = LinkLimits { frame_bytes_max: 1_000, ..LinkLimits::default() };
    for lane in [Lane::Control, Lane::Bulk] {
        let (a, link_a, b, link_b) = linked(small.clone(), LinkLimits::default()).await;
        let too_large = a.endpoint.send(link_a, lane, body(0, 0, 1_001));
        assert_eq!(too_large, Err(SendError::TooLarge(1_001)));
        b.endpoint.send(link_b, lane, body(0, 0, 1_000)).unwrap();
        a.log.frames(1).await;
        b.endpoint.send(link_b, lane, body(0, 0, 1_001)).unwrap();
        let reason = "frame of 1001 bytes is over the limit frame_bytes_max of 1000";
        assert_eq!(a.log.closed().await, format!("closed here: {reason}"));
        assert_eq!(b.log.closed().await, format!("closed by peer: {reason}"));
    }
}

/// A peer that belongs here, but does not keep to the protocol.
#[tokio::test]
async fn broken_streams_close_the_link() {
    let home = Home::found("ada");
    let other = home.another();
    let check = async |streams: &[&[u8]], text: &str| {
        let a = bind(&home, LinkLimits::default());
        let connection = connect_as(Some(&other), tls::ALPN_MESH, a.address).await.unwrap();
        connection.accept_uni().await.unwrap();
        let mut open = Vec::new();
        for bytes in streams {
            let mut stream = connection.open_uni().await.unwrap();
            stream.write_all(bytes).await.unwrap();
            if text.contains("ended") {
                stream.finish().unwrap();
            }
            open.push(stream);
        }
        let reason = a.log.closed().await;
        assert!(reason.contains(text), "{reason}");
    };
    check(&[&[3]], "stream of no lane").await;
    check(&[&[255]], "stream of no lane").await;
    check(&[&[0], &[0]], "second stream of lane Control").await;
    check(&[&[1]], "lane Replication ended").await;
    check(&[&[2, 9, 0, 0, 0, 1]], "lane Bulk ended").await;
    check(&[&[2, 0, 0]], "lane Bulk ended").await;
    check(&[&[16, 0xff, 0xff, 0xff, 0xff]], "over the limit").await;
    check(&[&[16, 5, 0, 0, 0, b'p', b'a', b'n', b'i', b'c']], "internal error").await;
}

#[tokio::test]
async fn a_peer_that_does_not_read_is_given_up() {
    let limits = LinkLimits {
        replication_queue_bytes_max: 1 << 20,
        session_queues_bytes_max: 1 << 20,
        bulk_queue_bytes_max: 1 << 20,
        ..LinkLimits::default()
    };
    let home = Home::found("ada");
    let other = home.another();
    let a = bind(&home, limits);
    // It accepts nothing, so that its windows fill up.
    let connection = connect_as(Some(&other), tls::ALPN_MESH, a.address).await.unwrap();
    let link = a.log.link().await;
    let fill = |lane| (0..1_000).find_map(|n| a.endpoint.send(link, lane, body(0, n, 60_000)).err()).unwrap();
    assert_eq!(fill(Lane::Bulk), SendError::Overloaded(Lane::Bulk));
    assert_eq!(fill(Lane::Session(0)), SendError::Overloaded(Lane::Session(0)));
    // The session lanes share their bound.
    assert_eq!(fill(Lane::Session(3)), SendError::Overloaded(Lane::Session(3)));
    a.endpoint.send(link, Lane::Control, body(0, 0, 10)).unwrap();
    assert!(a.log.rows.lock().unwrap().closed.is_empty());
    assert_eq!(fill(Lane::Replication), SendError::Overloaded(Lane::Replication));
    assert_eq!(
        a.log.closed().await,
        "closed here: queue of the Replication lane is full (limit replication_queue_bytes_max)"
    );
    drop(connection);
}

#[tokio::test]
async fn links_are_bounded() {
    let home = Home::found("ada");
    let a = bind(&home, LinkLimits { links_max: 1, ..LinkLimits::default() });
    let (b, c) = (bind(&home.another(), LinkLimits::default()), bind(&home.another(), LinkLimits::default()));
    b.endpoint.dial(a.address, None).await.unwrap();
    // The bound is met after the welcome, so the dialler may see either end of it.
    if c.endpoint.dial(a.address, None).await.is_ok() {
        assert_eq!(c.log.closed().await, "closed by peer: too many links (limit links_max)");
    }
    assert_eq!(a.log.rows.lock().unwrap().opened.len(), 1);
}

/// Many links at once from one address: the gate makes them prove it, and lets them in.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_storm_of_links_gets_through() {
    let home = Home::found("ada");
    let a = bind(&home, LinkLimits { handshakes_per_second_max: 5, ..LinkLimits::default() });
    let b = Arc::new(bind(&home.another(), LinkLimits::default()));
    let mut dials = tokio::task::JoinSet::new();
    for _ in 0..40 {
        let (b, to) = (Arc::clone(&b), a.address);
        dials.spawn(async move { b.endpoint.dial(to, None).await });
    }
    while let Some(dial) = dials.join_next().await {
        dial.unwrap().unwrap();
    }
    a.log.until(|rows| (rows.opened.len() == 40).then_some(())).await;
}

fn simulated(number: u16) -> SocketAddr {
    SocketAddr::from(([10, 0, 0, 1], number))
}

fn bind_virtual(
    home: &Home,
    net: &Arc<VirtualNet>,
    number: u16,
    seed: u8,
) -> (Node, Arc<virtual_net::VirtualSocket>) {
    let log = Arc::new(Log::default());
    let socket = net.socket(simulated(number));
    let endpoint = MeshEndpoint::bind_abstract(
        Arc::clone(&home.identity),
        Arc::clone(&socket) as Arc<dyn AsyncUdpSocket>,
        Arc::clone(&log) as Arc<dyn LinkEvents>,
        LinkLimits::default(),
        Clock::start_at(NOW_MS),
        Some([seed; 32]),
    );
    (Node { endpoint: endpoint.unwrap(), log, address: simulated(number) }, socket)
}

/// One run on a lossy virtual network. Returns its trace and when each frame arrived.
fn simulate(seed: u64) -> (u64, u64, Vec<(Lane, usize, Duration)>) {
    let runtime =
        tokio::runtime::Builder::new_current_thread().enable_all().start_paused(true).build().unwrap();
    runtime.block_on(async {
        let start = Instant::now();
        let home = Home::found("ada");
        let other = home.another();
        let net = VirtualNet::new(seed, 20);
        let (a, _) = bind_virtual(&home, &net, 1, seed as u8);
        let (b, _) = bind_virtual(&other, &net, 2, 128 + seed as u8);
        let link_b = b.endpoint.dial(a.address, Some(home.identity.node())).await.unwrap().link;
        let link_a = a.log.link().await;
        a.endpoint.send(link_a, Lane::Bulk, body(2, 0, 300_000)).unwrap();
        for n in 0..200 {
            tokio::time::sleep(Duration::from_millis(7)).await;
            a.endpoint.send(link_a, Lane::Replication, body(1, n, 700)).unwrap();
            b.endpoint.send(link_b, Lane::Session((n % 4) as u8), body(3, n, 90 + n)).unwrap();
        }
        a.log.frames(200).await;
        b.log.frames(201).await;
        a.endpoint.close(link_a, CloseCode::DONE, "done");
        b.log.closed().await;
        tokio::time::sleep(Duration::from_secs(30)).await;
        let mut frames = Vec::new();
        for node in [&a, &b] {
            let rows = node.log.rows.lock().unwrap();
            frames.extend(
                rows.frames.iter().map(|(lane, frame, at)| (*lane, frame.len(), at.unwrap() - start)),
            );
        }
        let (sent, hash) = net.trace();
        (sent, hash, frames)
    })
}

#[test]
fn equal_seeds_give_equal_traces() {
    let (first, second) = (simulate(5), simulate(5));
    println!("{} datagrams, trace hash {:016x}", first.0, first.1);
    assert_eq!(first, second);
    assert_ne!(first.1, simulate(6).1);
}

/// On a network with latency and some loss, large frames take their time, and small ones do not
/// wait for them.
async fn small_ones_pass(large: Lane, tag: u8, frames: usize, bytes: usize, small: Lane) {
    let home = Home::found("ada");
    let other = home.another();
    let net = VirtualNet::new(9, 1);
    let (a, _) = bind_virtual(&home, &net, 1, 1);
    let (b, _) = bind_virtual(&other, &net, 2, 2);
    let link = a.endpoint.dial(b.address, None).await.unwrap().link;
    for n in 0..frames {
        a.endpoint.send(link, large, body(tag, n, bytes)).unwrap();
    }
    let mut sent = Vec::new();
    for n in 0..100 {
        tokio::time::sleep(Duration::from_millis(3)).await;
        sent.push(Instant::now());
        a.endpoint.send(link, small, body(0, n, 50)).unwrap();
    }
    b.log.frames(frames + 100).await;
    let rows = b.log.rows.lock().unwrap();
    let arrived =
        |of: Lane| rows.frames.iter().filter(move |(lane, ..)| *lane == of).map(|(_, _, at)| at.unwrap());
    let took: Vec<_> = arrived(small).zip(&sent).map(|(at, sent)| at - *sent).collect();
    let worst = took.iter().max().unwrap();
    let last_large = arrived(large).max().unwrap();
    println!("worst small frame {worst:?}, {} bytes {:?}", frames * bytes, last_large - sent[0]);
    assert!(*worst < Duration::from_millis(50) && last_large > sent[99]);
}

#[tokio::test(start_paused = true)]
async fn a_large_bulk_frame_lets_small_ones_pass() {
    // More than the connection's windows: four large frames, and others that wait for their turn.
    small_ones_pass(Lane::Bulk, 2, 8, 2 << 20, Lane::Control).await;
}

#[tokio::test(start_paused = true)]
async fn a_snapshot_lets_calls_pass() {
    small_ones_pass(Lane::Replication, 1, 256, 64 << 10, Lane::Session(0)).await;
}

/// A node that is killed and comes back at its address with its keys is noticed by the first packet
/// that meets it, not by the idle timeout.
#[tokio::test(start_paused = true)]
async fn a_restart_is_noticed_at_once() {
    let home = Home::found("ada");
    let other = home.another();
    let net = VirtualNet::new(1, 0);
    let (a, _) = bind_virtual(&home, &net, 1, 1);
    let (b, socket) = bind_virtual(&other, &net, 2, 2);
    let link_a = a.endpoint.dial(b.address, None).await.unwrap().link;
    tokio::time::sleep(Duration::from_secs(3)).await;
    socket.kill();
    let (_again, _) = bind_virtual(&other, &net, 2, 3);
    let start = Instant::now();
    a.endpoint.send(link_a, Lane::Control, body(0, 0, 50)).unwrap();
    assert_eq!(a.log.closed().await, "peer has restarted");
    assert!(start.elapsed() < Duration::from_millis(100), "{:?}", start.elapsed());
}

#[tokio::test(start_paused = true)]
async fn silence_ends_a_link() {
    let home = Home::found("ada");
    let other = home.another();
    let net = VirtualNet::new(1, 0);
    let (a, _) = bind_virtual(&home, &net, 1, 1);
    let (b, _) = bind_virtual(&other, &net, 2, 2);
    a.endpoint.dial(b.address, None).await.unwrap();
    // Keep-alives hold an idle link.
    tokio::time::sleep(Duration::from_secs(120)).await;
    assert!(a.log.rows.lock().unwrap().closed.is_empty());
    net.cut(b.address);
    let start = Instant::now();
    assert_eq!(a.log.closed().await, "timed out");
    let took = start.elapsed();
    assert!(took > Duration::from_secs(10) && took < Duration::from_secs(26), "{took:?}");
    assert_eq!(a.endpoint.dial(b.address, None).await, Err(DialError::TimedOut));
}

/// After an outage of this long, in which an application sends what fills the window: how long it takes from then on
/// until something is heard again.
async fn heard_after(outage: Duration) -> Duration {
    let home = Home::found("ada");
    let other = home.another();
    let net = VirtualNet::new(1, 0);
    let (a, _) = bind_virtual(&home, &net, 1, 1);
    let (b, _) = bind_virtual(&other, &net, 2, 2);
    let link = a.endpoint.dial(b.address, None).await.unwrap().link;
    let begun = Instant::now();
    net.cut(b.address);
    for step in 0.. {
        if begun.elapsed() >= outage {
            net.heal(b.address);
        }
        if let Some((.., at)) = b.log.rows.lock().unwrap().frames.first() {
            return at.unwrap() - begun - outage;
        }
        a.endpoint.send(link, Lane::Session(0), body(1, step, 500)).unwrap();
        if step % 14 == 0 {
            a.endpoint.send(link, Lane::Control, body(0, step, 30)).unwrap();
        }
        tokio::time::sleep(HEARTBEAT / 14).await;
    }
    unreachable!("a link ends by itself if nothing is heard")
}

/// That of wide areas.
const HEARTBEAT: Duration = Duration::from_millis(700);

#[tokio::test(start_paused = true)]
async fn a_path_that_is_whole_again_is_noticed_with_the_next_heartbeat() {
    for outage in 1..10 {
        let took = heard_after(Duration::from_secs(outage)).await;
        assert!(took < HEARTBEAT, "after {outage} s: {took:?}");
    }
}
