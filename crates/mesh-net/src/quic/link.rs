//! A link: the connection, its outgoing lanes, and the task that sees it through to its end.

use std::net::SocketAddr;
use std::sync::atomic::{AtomicU32, AtomicUsize, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use bytes::Bytes;
use mesh_identity::PeerIdentity;
use mesh_model::{Lane, LinkId};
use quinn::{Connection, ConnectionError, RecvStream};
use tokio::runtime::Handle;
use tokio::task::JoinSet;
use tracing::{debug, error};

use super::bulk::BulkSender;
use super::code::{CloseCode, describe};
use super::lane::{Budget, LaneSender, ORDERED_LANES, Share, Told, Untaken, index, ordered_lanes, priority};
use super::read;
use super::shared::Shared;
use super::{LinkLimits, SendError};

/// One connection to an authenticated peer.
#[derive(Debug)]
pub(super) struct Link {
    pub(super) id: LinkId,
    connection: Connection,
    lanes: Lanes,
    bulk: Arc<BulkSender>,
    runtime: Handle,
    pub(super) frame_bytes_max: usize,
    pub(super) bulk_unfinished_bytes_max: usize,
    /// Received bytes of unfinished bulk frames.
    pub(super) bulk_unfinished_bytes: AtomicUsize,
    /// One bit for each ordered lane whose incoming stream there is.
    incoming_lanes: AtomicU32,
    /// Why this end has closed the link, once it has.
    closed_here: OnceLock<String>,
}

/// The outgoing ordered lanes, by [`index`].
#[derive(Debug)]
pub(super) struct Lanes([LaneSender; ORDERED_LANES]);

impl Lanes {
    /// Opens the streams of all ordered lanes. To the peer, this is our word that it is welcome.
    pub(super) async fn open(connection: &Connection, limits: &LinkLimits) -> Result<Self, ConnectionError> {
        let sessions = Budget::new(limits.session_queues_bytes_max);
        let mut lanes = Vec::with_capacity(ORDERED_LANES);
        for lane in ordered_lanes() {
            let budget = match lane {
                Lane::Control => Budget::new(limits.control_queue_bytes_max),
                Lane::Replication => Budget::new(limits.replication_queue_bytes_max),
                Lane::Session(_) | Lane::Bulk => sessions.clone(),
            };
            let stream = connection.open_uni().await?;
            // Fails only if the connection is gone, which the announcement would tell as well.
            let _ = stream.set_priority(priority(lane));
            lanes.push(LaneSender::new(lane, stream, budget));
        }
        for lane in &lanes {
            // A failure is the connection's, and is told by it.
            let _ = lane.announce();
        }
        Ok(Self(lanes.try_into().expect("as many as there are ordered lanes")))
    }
}

impl Link {
    pub(super) fn new(id: LinkId, connection: Connection, lanes: Lanes, shared: &Shared) -> Self {
        let limits = &shared.limits;
        Self {
            id,
            connection,
            lanes,
            bulk: Arc::new(BulkSender::new(limits.bulk_queue_bytes_max)),
            runtime: shared.runtime.clone(),
            frame_bytes_max: limits.frame_bytes_max,
            bulk_unfinished_bytes_max: limits.bulk_unfinished_bytes_max,
            bulk_unfinished_bytes: AtomicUsize::new(0),
            incoming_lanes: AtomicU32::new(0),
            closed_here: OnceLock::new(),
        }
    }

    pub(super) fn send(&self, lane: Lane, frame: Bytes, share: Share) -> Result<(), SendError> {
        if self.is_closing() {
            return Err(SendError::Closed);
        }
        if frame.len() > self.frame_bytes_max {
            return Err(SendError::TooLarge(frame.len()));
        }
        let result = match (lane, index(lane)) {
            (_, Some(index)) => self.lanes.0[index].send(frame, share),
            (Lane::Bulk, None) => self.bulk.send(frame, share).map(|needs_worker| {
                if needs_worker {
                    self.runtime.spawn(Arc::clone(&self.bulk).work(self.connection.clone()));
                }
            }),
            (lane, None) => return Err(SendError::NoSuchLane(lane)),
        };
        result.map_err(|untaken| match untaken {
            Untaken::Closed => SendError::Closed,
            Untaken::Full => {
                // These lanes carry what the peer cannot do without.
                if matches!(lane, Lane::Control | Lane::Replication) {
                    self.close(CloseCode::OVERLOADED, &SendError::Overloaded(lane).to_string());
                }
                SendError::Overloaded(lane)
            }
        })
    }

    pub(super) fn close(&self, code: CloseCode, reason: &str) {
        // The first reason counts: what comes after is most likely its consequence.
        if self.closed_here.set(format!("closed here: {reason}")).is_ok() {
            self.connection.close(code.into(), reason.as_bytes());
        }
    }

    pub(super) fn is_closing(&self) -> bool {
        self.closed_here.get().is_some()
    }

    pub(super) fn rtt(&self) -> Duration {
        self.connection.rtt()
    }

    /// Notes that the peer has opened an ordered lane; a second stream would break its order.
    pub(super) fn is_first_stream_of(&self, lane_index: usize) -> bool {
        let bit = 1 << lane_index;
        self.incoming_lanes.fetch_or(bit, Ordering::Relaxed) & bit == 0
    }
}

/// Takes a link into service: from here on its end will be told.
pub(super) fn open(
    shared: &Arc<Shared>,
    connection: Connection,
    lanes: Lanes,
    peer: PeerIdentity,
    first_stream: Option<RecvStream>,
    remote: SocketAddr,
) -> Result<LinkId, SendError> {
    let is_dialled = first_stream.is_some();
    let Some(link) = shared.add_link(|id| Link::new(id, connection.clone(), lanes, shared)) else {
        connection.close(CloseCode::OVERLOADED.into(), b"too many links (limit links_max)");
        return Err(SendError::Overloaded(Lane::Control));
    };
    let id = link.id;
    debug!(link = id.0, peer = %peer.node.short(), %remote, is_dialled, "link opened");
    shared.events.link_opened(id, peer, is_dialled, remote);
    shared.runtime.spawn(run(Arc::clone(shared), link, first_stream));
    Ok(id)
}

/// Serves a link until its connection is gone and all that came before its end has been handed on.
async fn run(shared: Arc<Shared>, link: Arc<Link>, first_stream: Option<RecvStream>) {
    // Dropped at the end, which stops writers that wait for something to write.
    let mut writers = JoinSet::new();
    for place in 0..ORDERED_LANES {
        writers.spawn(write(Arc::clone(&shared), Arc::clone(&link), place));
    }
    let mut readers = JoinSet::new();
    if let Some(stream) = first_stream {
        readers.spawn(read::read(Arc::clone(&shared), Arc::clone(&link), stream));
    }
    let end = loop {
        tokio::select! {
            biased;
            Some(done) = readers.join_next() => close_if_panicked(&link, done),
            Some(done) = writers.join_next() => close_if_panicked(&link, done),
            stream = link.connection.accept_uni() => match stream {
                Ok(stream) => {
                    readers.spawn(read::read(Arc::clone(&shared), Arc::clone(&link), stream));
                }
                Err(end) => break end,
            },
        }
    };
    shared.remove_link(link.id);
    // Streams hand out what they have before they tell that the connection is gone.
    while let Some(done) = readers.join_next().await {
        close_if_panicked(&link, done);
    }
    // A task that is stopped may be in the middle of telling that the lane has drained.
    writers.shutdown().await;
    let reason = link.closed_here.get().cloned().unwrap_or_else(|| describe(&end));
    debug!(link = link.id.0, reason, "link closed");
    shared.events.link_closed(link.id, reason);
}

async fn write(shared: Arc<Shared>, link: Arc<Link>, place: usize) {
    let told = |event| match event {
        Told::Drained => shared.events.link_drained(link.id),
        Told::Eased => shared.events.link_eased(link.id),
    };
    let error = link.lanes.0[place].write(told).await;
    if let quinn::WriteError::Stopped(_) = error {
        link.close(CloseCode::BAD_STREAM, "lane refused");
    }
}

fn close_if_panicked(link: &Link, done: Result<(), tokio::task::JoinError>) {
    if let Err(error) = done
        && error.is_panic()
    {
        error!(link = link.id.0, %error, "a task of a link has failed");
        link.close(CloseCode::INTERNAL, "internal error");
    }
}
