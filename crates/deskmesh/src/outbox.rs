//! What waits to be written to one connection, in the one order that everything for it keeps.

use std::collections::VecDeque;
use std::sync::{Mutex, MutexGuard, PoisonError};

use bytes::Bytes;
use mesh_model::{Event, SessionId};
use tokio::sync::Notify;

/// One thing to be written, or the end.
#[derive(Debug)]
pub(crate) enum Item {
    /// An event of a session of this connection, not yet encoded.
    Event(SessionId, Event),
    /// A frame the protocol answers with by itself.
    Frame(Bytes),
    /// Close, and say why.
    Close(CloseWith),
}

/// A WebSocket close code and a sentence.
#[derive(Clone, Debug)]
pub(crate) struct CloseWith {
    pub(crate) code: u16,
    pub(crate) reason: String,
}

/// A bounded queue between the node and the task that owns a connection.
#[derive(Debug)]
pub(crate) struct Outbox {
    queue: Mutex<Queue>,
    wake: Notify,
    bytes_max: usize,
}

#[derive(Debug, Default)]
struct Queue {
    items: VecDeque<Item>,
    bytes: usize,
    /// Set once the connection is to be closed: nothing is added any more.
    closed: Option<CloseWith>,
}

impl Outbox {
    pub(crate) fn new(bytes_max: usize) -> Self {
        Self { queue: Mutex::default(), wake: Notify::new(), bytes_max }
    }

    /// Adds an item. A connection that does not read what it is sent is closed at the limit
    /// `session_outbox_bytes_max`: others must not wait for it, nor memory grow.
    pub(crate) fn push(&self, item: Item) {
        let weight = match &item {
            Item::Event(_, event) => event.weight(),
            Item::Frame(frame) => frame.len() + 64,
            Item::Close(_) => 0,
        };
        let mut queue = self.lock();
        if queue.closed.is_some() {
            return;
        }
        if let Item::Close(with) = item {
            queue.closed = Some(with);
        } else if queue.bytes + weight > self.bytes_max && !queue.items.is_empty() {
            let reason = format!(
                "too slow: more than {} bytes are waiting (limit session_outbox_bytes_max)",
                self.bytes_max
            );
            queue.items.clear();
            queue.closed = Some(CloseWith { code: 1013, reason });
        } else {
            queue.bytes += weight;
            queue.items.push_back(item);
        }
        drop(queue);
        self.wake.notify_one();
    }

    /// Takes all that waits.
    pub(crate) fn take(&self) -> (VecDeque<Item>, Option<CloseWith>) {
        let mut queue = self.lock();
        queue.bytes = 0;
        (std::mem::take(&mut queue.items), queue.closed.clone())
    }

    /// Waits until something was added since the last time.
    pub(crate) async fn changed(&self) {
        self.wake.notified().await;
    }

    /// Makes the next [`changed`](Self::changed) return at once if anything waits.
    pub(crate) fn again(&self) {
        let queue = self.lock();
        if !queue.items.is_empty() || queue.closed.is_some() {
            self.wake.notify_one();
        }
    }

    /// Returns why the connection is to be closed, once it is.
    pub(crate) fn closed(&self) -> Option<CloseWith> {
        self.lock().closed.clone()
    }

    fn lock(&self) -> MutexGuard<'_, Queue> {
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
