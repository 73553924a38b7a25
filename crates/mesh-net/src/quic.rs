//! Links between nodes: thin input and output around quinn.
//!
//! A link is one QUIC connection between two nodes that have proved to belong to the same mesh and
//! the same owner. It carries frames on lanes ([`Lane`]). Each ordered lane is one unidirectional
//! stream in each direction; a [`Lane::Bulk`] frame has a stream of its own:
//!
//! ```text
//! stream = lane u8 | frame*        frame = length u32 little-endian | body
//! ```
//!
//! The listener opens its lanes once it has checked the dialler's certificate, and the dialler sends
//! nothing before it has seen one of them: in TLS 1.3 a client is connected before anybody has
//! looked at its certificate.
//!
//! What arrives is told to [`LinkEvents`] from the task that read it; what is sent is written at
//! once if the stream takes it, else queued within the bounds of [`LinkLimits`]. Nodes without a
//! certificate come over the same socket with another protocol name, see [`mesh_identity::join`].

mod accept;
mod bulk;
mod code;
mod config;
mod congestion;
mod dial;
mod frame;
mod gate;
mod join;
mod lane;
mod link;
mod read;
mod shared;
#[cfg(test)]
mod tests;
#[cfg(any(test, feature = "virtual-net"))]
pub mod virtual_net;

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use mesh_identity::NodeIdentity;
use mesh_identity::join::{Exporter, JoinAnswer, JoinRefusal, JoinRequest};
use mesh_model::{Lane, LinkId, NodeId};
use quinn::{AsyncUdpSocket, Endpoint, EndpointConfig, Runtime as _, TokioRuntime};
use tokio::runtime::Handle;

pub use self::code::CloseCode;
pub use self::dial::{DialError, Dialled};
pub use self::join::{JoinError, join};
pub use self::lane::{Share, queue_limit};
use self::shared::Shared;
use crate::clock::Clock;
pub use mesh_identity::PeerIdentity;

/// What happens on links.
///
/// Every call comes from a task of the endpoint, never from inside a call of [`MeshEndpoint`], so a
/// caller may hold its own lock while it sends or closes. For one link, `link_opened` comes first
/// and `link_closed` last, exactly once each.
pub trait LinkEvents: Send + Sync + 'static {
    /// A link is there, and both ends know who the other is.
    fn link_opened(&self, link: LinkId, peer: PeerIdentity, dialled: bool, remote: SocketAddr);

    /// A frame arrived. Frames of one ordered lane come in order, from one task; lanes run beside
    /// each other. The bytes may be a slice of a larger datagram: what is kept is better copied.
    fn link_frame(&self, link: LinkId, lane: Lane, frame: Bytes);

    /// All that was given to the replication lane has been handed to the transport. Comes at least
    /// once after every send on that lane, unless the link closes.
    fn link_drained(&self, link: LinkId);

    /// A session lane that did not take a frame, since that might only use a share of the queue, has
    /// room again: at most [`Share::EASED`] of the queue is in use.
    fn link_eased(&self, link: LinkId);

    /// The link is gone; sends on it fail from now on.
    fn link_closed(&self, link: LinkId, reason: String);

    /// A node asks to join over a TLS session with this exporter. May block: it comes from a thread
    /// for that. Only the authority's node has something better to say than the default.
    fn join_requested(&self, request: JoinRequest, exporter: Exporter) -> JoinAnswer {
        let _ = (request, exporter);
        JoinRefusal::NotTheAuthority.answer()
    }
}

/// Largest frame: the largest message of an application, and room for what we add to it.
pub const FRAME_BYTES_MAX: usize = (16 << 20) + (64 << 10);

/// The bounds of an endpoint's links.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LinkLimits {
    /// Largest frame, sent or received. A link on which a larger one is announced is closed.
    pub frame_bytes_max: usize,
    /// Waiting bytes of a control lane; beyond it the link is closed.
    pub control_queue_bytes_max: usize,
    /// Waiting bytes of a replication lane; beyond it the link is closed.
    pub replication_queue_bytes_max: usize,
    /// Waiting bytes of all session lanes of a link; beyond it sending fails.
    pub session_queues_bytes_max: usize,
    /// Waiting and unacknowledged bytes of bulk frames of a link; beyond it sending fails.
    pub bulk_queue_bytes_max: usize,
    /// Received bytes of unfinished bulk frames of a link; beyond it the link is closed.
    pub bulk_unfinished_bytes_max: usize,
    /// Links of an endpoint; further ones are closed as overloaded.
    pub links_max: usize,
    /// Incoming handshakes and joins that have not come to an end; further ones are refused.
    pub handshakes_max: usize,
    /// The same from one address.
    pub handshakes_per_source_max: usize,
    /// Incoming handshakes per second from one address; further ones must prove their address.
    pub handshakes_per_second_max: usize,
}

impl Default for LinkLimits {
    fn default() -> Self {
        Self {
            frame_bytes_max: FRAME_BYTES_MAX,
            control_queue_bytes_max: 1 << 20,
            replication_queue_bytes_max: 64 << 20,
            session_queues_bytes_max: 32 << 20,
            bulk_queue_bytes_max: 64 << 20,
            bulk_unfinished_bytes_max: 128 << 20,
            links_max: 1_024,
            handshakes_max: 256,
            handshakes_per_source_max: 64,
            handshakes_per_second_max: 50,
        }
    }
}

/// One UDP socket and all links over it. Dropping it closes them, without waiting.
#[derive(Debug)]
pub struct MeshEndpoint {
    shared: Arc<Shared>,
}

impl MeshEndpoint {
    /// Binds a UDP socket and begins to accept links. Must be called within a tokio runtime.
    pub fn bind(
        identity: Arc<NodeIdentity>,
        address: SocketAddr,
        events: Arc<dyn LinkEvents>,
        limits: LinkLimits,
        clock: Clock,
    ) -> Result<Self, BindError> {
        Handle::try_current().map_err(|_| BindError::NoRuntime)?;
        let socket = std::net::UdpSocket::bind(address).map_err(BindError::Socket)?;
        let socket = TokioRuntime.wrap_udp_socket(socket).map_err(BindError::Socket)?;
        let config = config::endpoint(&identity);
        Self::start(identity, socket, config, true, events, limits, clock)
    }

    /// Begins to accept links on something that acts as a UDP socket. `rng_seed` makes a simulation
    /// repeatable. Must be called within a tokio runtime.
    pub fn bind_abstract(
        identity: Arc<NodeIdentity>,
        socket: Arc<dyn AsyncUdpSocket>,
        events: Arc<dyn LinkEvents>,
        limits: LinkLimits,
        clock: Clock,
        rng_seed: Option<[u8; 32]>,
    ) -> Result<Self, BindError> {
        let mut config = config::endpoint(&identity);
        config.rng_seed(rng_seed);
        Self::start(identity, socket, config, false, events, limits, clock)
    }

    fn start(
        identity: Arc<NodeIdentity>,
        socket: Arc<dyn AsyncUdpSocket>,
        config: EndpointConfig,
        discover_mtu: bool,
        events: Arc<dyn LinkEvents>,
        limits: LinkLimits,
        clock: Clock,
    ) -> Result<Self, BindError> {
        let runtime = Handle::try_current().map_err(|_| BindError::NoRuntime)?;
        let transport = config::transport(discover_mtu);
        let server = config::server(&identity, &transport, &limits, &clock)?;
        let endpoint =
            Endpoint::new_with_abstract_socket(config, Some(server), socket, Arc::new(TokioRuntime))
                .map_err(BindError::Socket)?;
        let shared = Arc::new(Shared::new(identity, endpoint, transport, events, limits, clock, runtime));
        shared.runtime.spawn(accept::accept(Arc::clone(&shared)));
        Ok(Self { shared })
    }

    /// Returns the address the socket is bound to.
    pub fn local_addr(&self) -> io::Result<SocketAddr> {
        self.shared.endpoint.local_addr()
    }

    /// Dials a node. When this returns, `link_opened` has been called. `expected` refuses any other
    /// node of this owner that answers at the address.
    pub async fn dial(&self, address: SocketAddr, expected: Option<NodeId>) -> Result<Dialled, DialError> {
        dial::dial(&self.shared, address, expected).await
    }

    /// Gives a frame to a lane. Never waits: what the stream does not take at once is queued.
    pub fn send(&self, link: LinkId, lane: Lane, frame: Bytes) -> Result<(), SendError> {
        self.send_within(link, lane, frame, Share::ALL)
    }

    /// The same for a frame that may only use a share of the lane's queue.
    pub fn send_within(&self, link: LinkId, lane: Lane, frame: Bytes, share: Share) -> Result<(), SendError> {
        self.shared.link(link).ok_or(SendError::Closed)?.send(lane, frame, share)
    }

    /// Closes a link. The peer hears the code and the reason; `link_closed` follows.
    pub fn close(&self, link: LinkId, code: CloseCode, reason: &str) {
        if let Some(link) = self.shared.link(link) {
            link.close(code, reason);
        }
    }

    /// Returns the estimated round trip time of a link.
    #[must_use]
    pub fn rtt(&self, link: LinkId) -> Option<Duration> {
        Some(self.shared.link(link)?.rtt())
    }

    /// Closes all links, and waits (for a bounded time) until the peers have been told.
    pub async fn shutdown(&self) {
        self.shared.shutdown().await;
    }
}

impl Drop for MeshEndpoint {
    fn drop(&mut self) {
        self.shared.close();
    }
}

/// A frame was not sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SendError {
    /// There is no such link, or it is closing.
    #[error("link is closed")]
    Closed,
    /// The peer does not take what is sent fast enough. The link of a control or replication frame
    /// is closed; a session or bulk frame is dropped and the link stays.
    #[error("queue of the {0:?} lane is full (limit {limit})", limit = queue_limit(*.0))]
    Overloaded(Lane),
    /// The frame is larger than `frame_bytes_max`; it is dropped and the link stays.
    #[error("frame of {0} bytes is too large (limit frame_bytes_max)")]
    TooLarge(usize),
    /// A link has only [`SESSION_LANES`](mesh_model::SESSION_LANES) session lanes.
    #[error("there is no lane {0:?}")]
    NoSuchLane(Lane),
}

/// An endpoint could not be made.
#[derive(Debug, thiserror::Error)]
pub enum BindError {
    /// The address is taken, or not ours.
    #[error("cannot bind the UDP socket")]
    Socket(#[source] io::Error),
    /// The identity is not fit for TLS.
    #[error("cannot set up TLS")]
    Tls(#[from] rustls::Error),
    /// The TLS settings are not fit for QUIC.
    #[error("cannot set up QUIC")]
    Quic(#[from] quinn::crypto::rustls::NoInitialCipherSuite),
    /// The caller is not within a tokio runtime.
    #[error("there is no tokio runtime here")]
    NoRuntime,
}
