//! The dialling side of a link.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use mesh_identity::tls::SERVER_NAME;
use mesh_model::{LinkId, NodeId};
use quinn::{ConnectError, ConnectionError};
use tokio::time::timeout;

use super::accept::canonical;
use super::code::{CloseCode, describe, printable};
use super::config::{self, ClientConfigError};
use super::link::{self, Lanes};
use super::shared::{NotWelcome, Shared};

pub(super) async fn dial(
    shared: &Arc<Shared>,
    address: SocketAddr,
    expected: Option<NodeId>,
) -> Result<Dialled, DialError> {
    timeout(DIAL_MAX, connect(shared, address, expected)).await.map_err(|_| DialError::TimedOut)?
}

async fn connect(
    shared: &Arc<Shared>,
    address: SocketAddr,
    expected: Option<NodeId>,
) -> Result<Dialled, DialError> {
    let config = config::client(&shared.identity, expected, &shared.transport, &shared.clock)?;
    let connection = shared.endpoint.connect_with(config, address, SERVER_NAME)?.await?;
    // The certificate was checked in the handshake; this is to learn the name.
    let peer = match shared.check_peer(&connection) {
        Ok(peer) => peer,
        Err(NotWelcome::OwnNode) => {
            connection.close(CloseCode::OWN_NODE.into(), NotWelcome::OwnNode.to_string().as_bytes());
            return Err(DialError::OwnNode);
        }
        Err(NotWelcome::Peer(error)) => {
            connection.close(CloseCode::UNTRUSTED.into(), error.to_string().as_bytes());
            return Err(DialError::Untrusted(error.to_string()));
        }
    };
    // The listener opens its lanes when it has checked our certificate. Nothing is sent before.
    let welcome = connection.accept_uni().await?;
    let lanes = Lanes::open(&connection, &shared.limits).await?;
    let remote = canonical(connection.remote_address());
    let node = peer.node;
    match link::open(shared, connection, lanes, peer, Some(welcome), remote) {
        Ok(link) => Ok(Dialled { link, node }),
        Err(_) => Err(DialError::TooManyLinks),
    }
}

/// What a dial led to. The link may have been closed again already.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Dialled {
    /// The link.
    pub link: LinkId,
    /// Who answered.
    pub node: NodeId,
}

/// No link came of a dial.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum DialError {
    /// Nobody answers at this address.
    #[error("no answer")]
    TimedOut,
    /// Who answers is not of our mesh or owner, or not the node that was meant.
    #[error("not trusted: {0}")]
    Untrusted(String),
    /// This node is dialling itself, or a clone of itself.
    #[error("own identity at the other end")]
    OwnNode,
    /// The other end does not want a link with us.
    #[error("refused: {reason}")]
    Refused {
        /// Its code.
        code: CloseCode,
        /// Its words.
        reason: String,
    },
    /// This endpoint has as many links as it may.
    #[error("too many links")]
    TooManyLinks,
    /// The connection failed in another way.
    #[error("{0}")]
    Failed(String),
}

impl From<ConnectionError> for DialError {
    fn from(error: ConnectionError) -> Self {
        match error {
            ConnectionError::TimedOut => Self::TimedOut,
            ConnectionError::ApplicationClosed(close) => Self::Refused {
                // Codes of ours are below 2^32; another's may say what it likes.
                code: CloseCode(u32::try_from(close.error_code.into_inner()).unwrap_or(u32::MAX)),
                reason: printable(&close.reason),
            },
            // TLS alerts: here, our own verifier's.
            ConnectionError::TransportError(error) if is_crypto(u64::from(error.code)) => {
                let reason = error.reason.strip_prefix("unexpected error: ").unwrap_or(&error.reason);
                Self::Untrusted(printable(reason.as_bytes()))
            }
            error => Self::Failed(describe(&error)),
        }
    }
}

impl From<ConnectError> for DialError {
    fn from(error: ConnectError) -> Self {
        Self::Failed(error.to_string())
    }
}

impl From<ClientConfigError> for DialError {
    fn from(error: ClientConfigError) -> Self {
        Self::Failed(error.to_string())
    }
}

fn is_crypto(code: u64) -> bool {
    (0x100..0x200).contains(&code)
}

const DIAL_MAX: Duration = Duration::from_secs(10);
