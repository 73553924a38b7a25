//! What the tasks of an endpoint have in common.

use std::collections::BTreeMap;
use std::fmt;
use std::net::IpAddr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError, RwLock};
use std::time::Duration;

use mesh_identity::{NodeIdentity, PeerError, PeerIdentity};
use mesh_model::LinkId;
use quinn::{Connection, Endpoint, TransportConfig};
use rustls::pki_types::CertificateDer;
use tokio::runtime::Handle;
use tokio::sync::Notify;

use super::code::CloseCode;
use super::gate::{Admission, Gate, Throttle};
use super::link::Link;
use super::{LinkEvents, LinkLimits};
use crate::clock::Clock;

pub(super) struct Shared {
    pub(super) identity: Arc<NodeIdentity>,
    pub(super) endpoint: Endpoint,
    pub(super) transport: Arc<TransportConfig>,
    pub(super) events: Arc<dyn LinkEvents>,
    pub(super) limits: LinkLimits,
    pub(super) clock: Clock,
    pub(super) runtime: Handle,
    links: RwLock<BTreeMap<LinkId, Arc<Link>>>,
    last_link: AtomicU64,
    /// Told whenever a link has been removed.
    link_removed: Notify,
    gate: Mutex<Gate>,
    warnings: Mutex<Throttle>,
}

impl Shared {
    pub(super) fn new(
        identity: Arc<NodeIdentity>,
        endpoint: Endpoint,
        transport: Arc<TransportConfig>,
        events: Arc<dyn LinkEvents>,
        limits: LinkLimits,
        clock: Clock,
        runtime: Handle,
    ) -> Self {
        Self {
            identity,
            endpoint,
            transport,
            events,
            limits,
            clock,
            runtime,
            links: RwLock::default(),
            last_link: AtomicU64::new(0),
            link_removed: Notify::new(),
            gate: Mutex::default(),
            warnings: Mutex::default(),
        }
    }

    pub(super) fn link(&self, id: LinkId) -> Option<Arc<Link>> {
        self.links.read().unwrap_or_else(PoisonError::into_inner).get(&id).cloned()
    }

    /// Makes a link and gives it a number; `None` if there are too many.
    pub(super) fn add_link(&self, make: impl FnOnce(LinkId) -> Link) -> Option<Arc<Link>> {
        let mut links = self.links.write().unwrap_or_else(PoisonError::into_inner);
        if links.len() >= self.limits.links_max {
            return None;
        }
        let id = LinkId(self.last_link.fetch_add(1, Ordering::Relaxed) + 1);
        let link = Arc::new(make(id));
        links.insert(id, Arc::clone(&link));
        Some(link)
    }

    pub(super) fn remove_link(&self, id: LinkId) {
        self.links.write().unwrap_or_else(PoisonError::into_inner).remove(&id);
        self.link_removed.notify_waiters();
    }

    /// Says who is at the other end of a connection, if it may have a link.
    pub(super) fn check_peer(&self, connection: &Connection) -> Result<PeerIdentity, NotWelcome> {
        let certificates = connection.peer_identity();
        let certificates = certificates.and_then(|any| any.downcast::<Vec<CertificateDer<'static>>>().ok());
        let certificates = certificates.ok_or(PeerError::NoCertificate)?;
        let peer = self.identity.check_peer(&certificates, self.clock.wall_ms())?;
        if peer.node == self.identity.node() { Err(NotWelcome::OwnNode) } else { Ok(peer) }
    }

    pub(super) fn admission(&self, source: IpAddr, is_validated: bool) -> Admission {
        let mut gate = self.gate.lock().unwrap_or_else(PoisonError::into_inner);
        gate.enter(source, is_validated, &self.limits, self.clock.now())
    }

    /// Lets a place among the unfinished handshakes be taken again when the guard is dropped.
    pub(super) fn place(self: &Arc<Self>, source: IpAddr) -> Place {
        Place { shared: Arc::clone(self), source }
    }

    /// Returns how many warnings about strangers were held back before this one; `None` if this one
    /// is to be held back as well.
    pub(super) fn may_warn(&self) -> Option<u64> {
        self.warnings.lock().unwrap_or_else(PoisonError::into_inner).pass(self.clock.now())
    }

    pub(super) fn close(&self) {
        self.endpoint.close(CloseCode::SHUTTING_DOWN.into(), b"shutting down");
    }

    pub(super) async fn shutdown(&self) {
        self.close();
        let links_gone = async {
            loop {
                let removed = self.link_removed.notified();
                if self.links.read().unwrap_or_else(PoisonError::into_inner).is_empty() {
                    break;
                }
                removed.await;
            }
            self.endpoint.wait_idle().await;
        };
        // A peer that does not answer must not keep a node from stopping.
        let _ = tokio::time::timeout(SHUTDOWN_MAX, links_gone).await;
    }
}

impl fmt::Debug for Shared {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Shared").field("identity", &self.identity).finish_non_exhaustive()
    }
}

/// One of the unfinished handshakes.
pub(super) struct Place {
    shared: Arc<Shared>,
    source: IpAddr,
}

impl Drop for Place {
    fn drop(&mut self) {
        self.shared.gate.lock().unwrap_or_else(PoisonError::into_inner).leave(self.source);
    }
}

/// Why a connection does not become a link.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum NotWelcome {
    #[error(transparent)]
    Peer(#[from] PeerError),
    #[error("own identity at the other end")]
    OwnNode,
}

impl NotWelcome {
    pub(super) fn code(&self) -> CloseCode {
        match self {
            Self::Peer(PeerError::NoCertificate) => CloseCode::NO_CERTIFICATE,
            Self::Peer(PeerError::WrongOwner) => CloseCode::WRONG_OWNER,
            Self::Peer(_) => CloseCode::UNTRUSTED,
            Self::OwnNode => CloseCode::OWN_NODE,
        }
    }
}

const SHUTDOWN_MAX: Duration = Duration::from_secs(2);
