//! The bulk lane, outgoing: a stream for each frame, a few at a time.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bytes::Bytes;
use mesh_model::Lane;
use quinn::{Connection, SendStream, WriteError};

use super::frame::{SegmentQueue, framed_len};
use super::lane::{Budget, Share, Untaken, priority, tag};

/// The frames that wait for a stream.
#[derive(Debug)]
pub(super) struct BulkSender {
    budget: Budget,
    state: Mutex<BulkState>,
}

#[derive(Debug, Default)]
struct BulkState {
    queue: VecDeque<Bytes>,
    workers: usize,
}

impl BulkSender {
    pub(super) fn new(bytes_max: usize) -> Self {
        Self { budget: Budget::new(bytes_max), state: Mutex::default() }
    }

    /// Queues a frame. Returns whether the caller must start another [`work`](Self::work).
    pub(super) fn send(&self, frame: Bytes, share: Share) -> Result<bool, Untaken> {
        if !self.budget.take_within(framed_len(&frame), share) {
            return Err(Untaken::Full);
        }
        let mut state = self.state();
        state.queue.push_back(frame);
        let needs_worker = state.workers < BULK_STREAMS_MAX;
        state.workers += usize::from(needs_worker);
        Ok(needs_worker)
    }

    /// Sends frames until none waits or the connection is gone.
    pub(super) async fn work(self: Arc<Self>, connection: Connection) {
        while let Some(frame) = self.next() {
            let bytes = framed_len(&frame);
            let sent = send(&connection, frame).await;
            self.budget.give_back(bytes);
            if sent.is_err() {
                // What waits can only fail as well; the link's own task reports why.
                let mut state = self.state();
                state.workers -= 1;
                return;
            }
        }
    }

    fn next(&self) -> Option<Bytes> {
        let mut state = self.state();
        let frame = state.queue.pop_front();
        state.workers -= usize::from(frame.is_none());
        frame
    }

    fn state(&self) -> MutexGuard<'_, BulkState> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Sends one frame, and waits until the peer's transport has all of it: else many middle-sized
/// frames would fill the connection's send window, which the other lanes need.
async fn send(connection: &Connection, frame: Bytes) -> Result<(), WriteError> {
    let mut stream: SendStream = connection.open_uni().await.map_err(WriteError::ConnectionLost)?;
    // Fails only if the stream is closed, which the first write would tell as well.
    let _ = stream.set_priority(priority(Lane::Bulk));
    let mut queue = SegmentQueue::default();
    queue.push_byte(tag(Lane::Bulk));
    queue.push(frame);
    while !queue.is_empty() {
        let written = stream.write_chunks(queue.front()).await?;
        queue.wrote(written.chunks, written.bytes);
    }
    let _ = stream.finish();
    let _ = stream.stopped().await;
    Ok(())
}

/// Small, so that together they leave most of the connection's send window to the other lanes.
const BULK_STREAMS_MAX: usize = 4;
