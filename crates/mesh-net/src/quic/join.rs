//! Joining over QUIC: one request and one answer on a bidirectional stream.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use mesh_identity::join::{
    ANSWER_BYTES_MAX, Adopted, Candidate, EXPORTER_LABEL, Exporter, JoinAnswer, JoinRequest,
    REQUEST_BYTES_MAX,
};
use mesh_identity::{JoinToken, join as protocol, tls};
use quinn::{Connection, Endpoint, EndpointConfig, TokioRuntime};
use tokio::net::lookup_host;
use tokio::time::timeout;
use tracing::debug;

use super::accept::stranger;
use super::code::CloseCode;
use super::config;
use super::dial::DialError;
use super::shared::Shared;
use crate::clock::Clock;

/// Asks the nodes of a token, one after the other, to admit a candidate. `bind` is the local address.
pub async fn join(
    token: &JoinToken,
    candidate: &Candidate,
    bind: SocketAddr,
    clock: &Clock,
) -> Result<Adopted, JoinError> {
    let socket = std::net::UdpSocket::bind(bind).map_err(JoinError::Socket)?;
    let endpoint = Endpoint::new(EndpointConfig::default(), None, socket, Arc::new(TokioRuntime))
        .map_err(JoinError::Socket)?;
    let result = ask_all(&endpoint, token, candidate, bind, clock).await;
    endpoint.close(CloseCode::DONE.into(), b"done");
    let _ = timeout(GOODBYE_MAX, endpoint.wait_idle()).await;
    result
}

async fn ask_all(
    endpoint: &Endpoint,
    token: &JoinToken,
    candidate: &Candidate,
    bind: SocketAddr,
    clock: &Clock,
) -> Result<Adopted, JoinError> {
    let mut last = JoinError::NoAddress;
    for name in token.addresses() {
        let addresses = match timeout(RESOLVE_MAX, lookup_host(name.as_str())).await {
            Ok(Ok(addresses)) => addresses,
            Ok(Err(error)) => {
                last = JoinError::Resolve { name: name.clone(), source: error };
                continue;
            }
            Err(_) => {
                last = JoinError::Resolve { name: name.clone(), source: io::ErrorKind::TimedOut.into() };
                continue;
            }
        };
        // A socket of one family cannot reach the other; a dual-stack one is IPv6.
        for address in addresses.filter(|address| bind.is_ipv6() || address.is_ipv4()) {
            match timeout(ASK_MAX, ask(endpoint, token, candidate, address, clock)).await {
                // Not every node is the authority; the next one may be.
                Ok(Ok(JoinAnswer::Refused(text))) => last = protocol::JoinError::Refused(text).into(),
                Ok(Ok(admitted)) => return Ok(candidate.accept(token, admitted, clock.wall_ms())?),
                Ok(Err(error)) => {
                    debug!(%address, %error, "cannot join there");
                    last = JoinError::Dial { address, source: error };
                }
                Err(_) => last = JoinError::Dial { address, source: DialError::TimedOut },
            }
        }
    }
    Err(last)
}

async fn ask(
    endpoint: &Endpoint,
    token: &JoinToken,
    candidate: &Candidate,
    address: SocketAddr,
    clock: &Clock,
) -> Result<JoinAnswer, DialError> {
    let failed = |error: &dyn std::error::Error| DialError::Failed(error.to_string());
    let tls = tls::join_client_config(token, Arc::new(clock.clone())).map_err(|error| failed(&error))?;
    let config = config::quic_client(tls, &config::transport(true))?;
    let connection = endpoint.connect_with(config, address, tls::SERVER_NAME)?.await?;
    let exporter = exporter(&connection).ok_or(DialError::Failed("no exporter".to_owned()))?;
    let (mut sending, mut receiving) = connection.open_bi().await?;
    let request = candidate.request(token, &exporter).encode();
    sending.write_all(&request).await.map_err(|error| lost(&connection, &error))?;
    let _ = sending.finish();
    let answer = receiving.read_to_end(ANSWER_BYTES_MAX).await.map_err(|error| lost(&connection, &error))?;
    connection.close(CloseCode::DONE.into(), b"done");
    JoinAnswer::decode(&answer).map_err(|error| failed(&error))
}

/// Says why a stream broke: most often because the other end has closed the connection, with words.
fn lost(connection: &Connection, error: &dyn std::error::Error) -> DialError {
    match connection.close_reason() {
        Some(reason) => reason.into(),
        None => DialError::Failed(error.to_string()),
    }
}

/// Answers one joiner. The caller bounds the time.
pub(super) async fn serve(shared: &Arc<Shared>, connection: &Connection, remote: SocketAddr) {
    let Ok((mut sending, mut receiving)) = connection.accept_bi().await else { return };
    let request = receiving.read_to_end(REQUEST_BYTES_MAX).await;
    let request = request.ok().and_then(|bytes| JoinRequest::decode(&bytes).ok());
    let (Some(request), Some(exporter)) = (request, exporter(connection)) else {
        connection.close(CloseCode::BAD_JOIN.into(), b"malformed join request");
        return stranger(shared, remote, "malformed join request");
    };
    let events = Arc::clone(&shared.events);
    let answer = shared.runtime.spawn_blocking(move || events.join_requested(request, exporter)).await;
    let Ok(answer) = answer else {
        return connection.close(CloseCode::INTERNAL.into(), b"internal error");
    };
    if sending.write_all(&answer.encode()).await.is_ok() {
        let _ = sending.finish();
        // The joiner closes when it has the answer; closing first could overtake it.
        connection.closed().await;
    }
}

fn exporter(connection: &Connection) -> Option<Exporter> {
    let mut exporter = [0; 32];
    connection.export_keying_material(&mut exporter, EXPORTER_LABEL, b"").ok()?;
    Some(exporter)
}

/// This node has not joined.
#[derive(Debug, thiserror::Error)]
pub enum JoinError {
    /// The local address is taken, or not ours.
    #[error("cannot bind the UDP socket")]
    Socket(#[source] io::Error),
    /// An address of the token cannot be resolved; it was the last one tried.
    #[error("cannot resolve {name}")]
    Resolve {
        /// As the token has it.
        name: String,
        /// What the resolver says.
        source: io::Error,
    },
    /// None of the token's addresses can be reached from the local one.
    #[error("no address of the token can be reached from here")]
    NoAddress,
    /// A node of the token did not answer, or is not of the token's mesh; it was the last one tried.
    #[error("cannot ask {address}")]
    Dial {
        /// Which.
        address: SocketAddr,
        /// Why.
        source: DialError,
    },
    /// There was an answer, but no admission.
    #[error(transparent)]
    Answer(#[from] protocol::JoinError),
}

const RESOLVE_MAX: Duration = Duration::from_secs(5);
const ASK_MAX: Duration = Duration::from_secs(10);
const GOODBYE_MAX: Duration = Duration::from_secs(1);
