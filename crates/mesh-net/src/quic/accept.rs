//! The listening side: from a first datagram to a link, a join, or a refusal.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use mesh_identity::tls::{ALPN_JOIN, ALPN_MESH};
use quinn::crypto::rustls::HandshakeData;
use quinn::{Connection, ConnectionError, Incoming, TransportErrorCode};
use tokio::time::timeout;
use tracing::{debug, warn};

use super::code::{CloseCode, describe};
use super::gate::Admission;
use super::join;
use super::link::{self, Lanes};
use super::shared::{NotWelcome, Place, Shared};

/// Accepts connections until the endpoint is closed.
pub(super) async fn accept(shared: Arc<Shared>) {
    while let Some(incoming) = shared.endpoint.accept().await {
        let source = incoming.remote_address().ip().to_canonical();
        match shared.admission(source, incoming.remote_address_validated()) {
            Admission::Enter => {
                let place = shared.place(source);
                shared.runtime.spawn(handshake(Arc::clone(&shared), incoming, place));
            }
            // A validated address never gets here, so quinn has no reason to refuse.
            Admission::Retry => {
                let _ = incoming.retry();
                if let Some(suppressed) = shared.may_warn() {
                    let max = shared.limits.handshakes_per_second_max;
                    warn!(%source, suppressed, "an address must prove itself: more than {max} handshakes per second (limit handshakes_per_second_max), or too many unfinished ones");
                }
            }
            Admission::Refuse(limit) => {
                incoming.refuse();
                if let Some(suppressed) = shared.may_warn() {
                    warn!(%source, suppressed, "a handshake was refused: too many are unfinished (limit {limit})");
                }
            }
        }
    }
}

async fn handshake(shared: Arc<Shared>, incoming: Incoming, _place: Place) {
    let remote = canonical(incoming.remote_address());
    let connected = async { incoming.accept()?.await };
    let connection = match timeout(HANDSHAKE_MAX, connected).await {
        Ok(Ok(connection)) => connection,
        Ok(Err(ConnectionError::ConnectionClosed(close)))
            if close.error_code == TransportErrorCode::APPLICATION_ERROR =>
        {
            // No word against this end: another link is up, or another dial was quicker.
            return debug!(%remote, "a dial was given up by the other end");
        }
        Ok(Err(error)) => return stranger(&shared, remote, &format!("handshake: {}", describe(&error))),
        Err(_) => return stranger(&shared, remote, "handshake: timed out"),
    };
    match protocol(&connection).as_deref() {
        Some(ALPN_MESH) => accept_link(&shared, connection, remote).await,
        Some(ALPN_JOIN) => {
            if timeout(JOIN_MAX, join::serve(&shared, &connection, remote)).await.is_err() {
                connection.close(CloseCode::BAD_JOIN.into(), b"join: timed out");
            }
        }
        // TLS has chosen one of the two.
        _ => connection.close(CloseCode::INTERNAL.into(), b"no protocol"),
    }
}

async fn accept_link(shared: &Arc<Shared>, connection: Connection, remote: SocketAddr) {
    let peer = match shared.check_peer(&connection) {
        Ok(peer) => peer,
        Err(not_welcome) => return refuse(shared, &connection, remote, &not_welcome),
    };
    match Lanes::open(&connection, &shared.limits).await {
        Ok(lanes) => {
            if link::open(shared, connection, lanes, peer, None, remote).is_err() {
                debug!(%remote, "link refused: too many links");
            }
        }
        Err(error) => debug!(%remote, reason = describe(&error), "peer left before its link was open"),
    }
}

fn refuse(shared: &Shared, connection: &Connection, remote: SocketAddr, not_welcome: &NotWelcome) {
    let reason = not_welcome.to_string();
    connection.close(not_welcome.code().into(), reason.as_bytes());
    stranger(shared, remote, &reason);
}

/// Tells the operator of a stranger, but not of each of thousands.
pub(super) fn stranger(shared: &Shared, remote: SocketAddr, reason: &str) {
    if let Some(suppressed) = shared.may_warn() {
        warn!(%remote, reason, suppressed, "refused a connection");
    }
}

fn protocol(connection: &Connection) -> Option<Vec<u8>> {
    connection.handshake_data()?.downcast::<HandshakeData>().ok()?.protocol
}

/// Returns an address as an operator writes it: a dual-stack socket sees IPv4 peers as IPv6.
pub(super) fn canonical(address: SocketAddr) -> SocketAddr {
    SocketAddr::new(address.ip().to_canonical(), address.port())
}

const HANDSHAKE_MAX: Duration = Duration::from_secs(10);
const JOIN_MAX: Duration = Duration::from_secs(10);
