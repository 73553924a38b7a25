//! One ordered lane, outgoing.
//!
//! A send writes to the stream itself as long as nothing waits: no task stands between the caller
//! and quinn. When the stream is full, the rest waits in a queue, and the lane's writer task, whose
//! waker the failed write has left with quinn, goes on from there.

use std::future::poll_fn;
use std::pin::pin;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Waker};

use bytes::Bytes;
use mesh_model::{Lane, SESSION_LANES};
use quinn::{SendStream, WriteError};

use super::frame::{SegmentQueue, framed_len};

/// How many ordered lanes a link has in each direction.
pub(super) const ORDERED_LANES: usize = 2 + SESSION_LANES as usize;

/// The ordered lanes, in the order in which their streams are opened.
pub(super) fn ordered_lanes() -> impl Iterator<Item = Lane> {
    [Lane::Control, Lane::Replication].into_iter().chain((0..SESSION_LANES).map(Lane::Session))
}

/// Returns a lane's place among the ordered lanes.
pub(super) fn index(lane: Lane) -> Option<usize> {
    match lane {
        Lane::Control => Some(0),
        Lane::Replication => Some(1),
        Lane::Session(number) if number < SESSION_LANES => Some(2 + usize::from(number)),
        Lane::Session(_) | Lane::Bulk => None,
    }
}

/// Returns the first byte of a lane's streams.
pub(super) fn tag(lane: Lane) -> u8 {
    match lane {
        Lane::Control => 0,
        Lane::Replication => 1,
        Lane::Bulk => 2,
        Lane::Session(number) => SESSION_TAG.saturating_add(number),
    }
}

/// Returns the lane that a stream's first byte names.
pub(super) fn from_tag(tag: u8) -> Option<Lane> {
    match tag {
        0 => Some(Lane::Control),
        1 => Some(Lane::Replication),
        2 => Some(Lane::Bulk),
        _ => tag.checked_sub(SESSION_TAG).filter(|number| *number < SESSION_LANES).map(Lane::Session),
    }
}

/// Returns a lane's priority among the streams of its connection. Those of one priority take turns.
pub(super) fn priority(lane: Lane) -> i32 {
    match lane {
        Lane::Control => 100,
        // Before the sessions' lanes, a large context would hold up every call until it is there; behind
        // them, it might never be.
        Lane::Replication | Lane::Session(_) => 40,
        Lane::Bulk => -10,
    }
}

/// Returns the name of the limit that a lane's queue keeps.
#[must_use]
pub const fn queue_limit(lane: Lane) -> &'static str {
    match lane {
        Lane::Control => "control_queue_bytes_max",
        Lane::Replication => "replication_queue_bytes_max",
        Lane::Session(_) => "session_queues_bytes_max",
        Lane::Bulk => "bulk_queue_bytes_max",
    }
}

/// How much of a queue a frame may use, in percent: what has a smaller share is shed first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Share(pub u8);

impl Share {
    /// The whole queue.
    pub const ALL: Self = Self(100);
    /// What may still be used of a queue that refused a frame, when it counts as eased.
    pub const EASED: Self = Self(25);

    const fn of(self, bytes: usize) -> usize {
        bytes / 100 * self.0 as usize + bytes % 100 * self.0 as usize / 100
    }
}

/// The bytes that wait in one lane, or in several together.
#[derive(Clone, Debug)]
pub(super) struct Budget {
    used: Arc<AtomicUsize>,
    bytes_max: usize,
    /// Whether a frame was refused that had less than all for its share, since it was last eased.
    refused: Arc<AtomicBool>,
}

impl Budget {
    pub(super) fn new(bytes_max: usize) -> Self {
        Self { used: Arc::default(), bytes_max, refused: Arc::default() }
    }

    /// Takes bytes out of the budget. One frame always fits into an unused one, however small.
    pub(super) fn take(&self, bytes: usize) -> bool {
        self.take_within(bytes, Share::ALL)
    }

    /// The same for what may only use a share of the budget.
    pub(super) fn take_within(&self, bytes: usize, share: Share) -> bool {
        let max = share.of(self.bytes_max);
        let fits = |used: usize| (used == 0 || used + bytes <= max).then_some(used + bytes);
        let taken = self.used.fetch_update(Ordering::Relaxed, Ordering::Relaxed, fits).is_ok();
        if !taken && share < Share::ALL {
            self.refused.store(true, Ordering::SeqCst);
        }
        taken
    }

    /// Returns whether frames have been refused and there is room again.
    fn is_eased(&self) -> bool {
        self.refused.load(Ordering::SeqCst)
            && self.used.load(Ordering::SeqCst) <= Share::EASED.of(self.bytes_max)
    }

    /// The same, and has it not be said again before the next refusal.
    fn takes_ease(&self) -> bool {
        self.is_eased() && self.refused.swap(false, Ordering::SeqCst)
    }

    pub(super) fn give_back(&self, bytes: usize) {
        self.used.fetch_sub(bytes, Ordering::SeqCst);
    }
}

/// The sending end of an ordered lane.
#[derive(Debug)]
pub(super) struct LaneSender {
    budget: Budget,
    /// Whether somebody wants to know when the queue has become empty.
    tells_drained: bool,
    state: Mutex<LaneState>,
}

#[derive(Debug)]
struct LaneState {
    stream: SendStream,
    queue: SegmentQueue,
    /// The writer task's.
    waker: Waker,
    /// How many sends may still write by themselves before the writer task has run. A burst is
    /// better collected by the writer into a few segments.
    direct_left: u32,
    owes_drained: bool,
    has_failed: bool,
}

/// What the task that writes a lane has to tell.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Told {
    /// Nothing waits any more.
    Drained,
    /// There is room again, after there was too little.
    Eased,
}

/// A frame was not taken by a lane.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Untaken {
    Full,
    Closed,
}

impl LaneSender {
    pub(super) fn new(lane: Lane, stream: SendStream, budget: Budget) -> Self {
        let mut queue = SegmentQueue::default();
        queue.push_byte(tag(lane));
        // The tag is a byte beyond the budget; taken here so that the books balance.
        budget.take(1);
        let state = LaneState {
            stream,
            queue,
            waker: Waker::noop().clone(),
            direct_left: DIRECT_SENDS_MAX,
            owes_drained: false,
            has_failed: false,
        };
        Self { budget, tells_drained: lane == Lane::Replication, state: Mutex::new(state) }
    }

    /// Writes the lane's tag, which lets the peer see the stream.
    pub(super) fn announce(&self) -> Result<(), WriteError> {
        self.state().pump_direct(&self.budget)
    }

    pub(super) fn send(&self, frame: Bytes, share: Share) -> Result<(), Untaken> {
        let mut state = self.state();
        if state.has_failed {
            return Err(Untaken::Closed);
        }
        if !self.budget.take_within(framed_len(&frame), share) {
            self.wake_if_eased(&state);
            return Err(Untaken::Full);
        }
        let was_empty = state.queue.is_empty();
        state.queue.push(frame);
        state.owes_drained |= self.tells_drained;
        if !was_empty {
            // The writer task is waiting for the stream, or has been woken.
            return Ok(());
        }
        if state.direct_left == 0 {
            state.waker.wake_by_ref();
            return Ok(());
        }
        state.direct_left -= 1;
        // Woken early, the writer grants new direct sends before a steady flow runs out of them.
        if state.owes_drained || state.direct_left == DIRECT_SENDS_MAX / 2 {
            state.waker.wake_by_ref();
        }
        let sent = state.pump_direct(&self.budget).map_err(|_| Untaken::Closed);
        self.wake_if_eased(&state);
        sent
    }

    /// Has the writer task say that there is room again, in case no other one is about to write and notice.
    fn wake_if_eased(&self, state: &LaneState) {
        if self.budget.is_eased() {
            state.waker.wake_by_ref();
        }
    }

    /// Runs the writer task until the stream fails. `told` is called without any lock.
    pub(super) async fn write(&self, told: impl Fn(Told)) -> WriteError {
        loop {
            let event = poll_fn(|context| {
                let mut state = self.state();
                state.waker.clone_from(context.waker());
                state.direct_left = DIRECT_SENDS_MAX;
                let pumped = state.pump(context, &self.budget);
                if self.budget.takes_ease() {
                    return Poll::Ready(Ok(Told::Eased));
                }
                match pumped {
                    Poll::Pending => Poll::Pending,
                    Poll::Ready(Err(error)) => Poll::Ready(Err(error)),
                    Poll::Ready(Ok(())) if std::mem::take(&mut state.owes_drained) => {
                        Poll::Ready(Ok(Told::Drained))
                    }
                    Poll::Ready(Ok(())) => Poll::Pending,
                }
            });
            match event.await {
                Ok(event) => told(event),
                Err(error) => return error,
            }
        }
    }

    fn state(&self) -> MutexGuard<'_, LaneState> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl LaneState {
    fn pump_direct(&mut self, budget: &Budget) -> Result<(), WriteError> {
        // If the stream is full, it is the writer task that quinn wakes.
        let waker = self.waker.clone();
        match self.pump(&mut Context::from_waker(&waker), budget) {
            Poll::Ready(result) => result,
            Poll::Pending => Ok(()),
        }
    }

    /// Writes until nothing is left, or the stream takes no more.
    fn pump(&mut self, context: &mut Context<'_>, budget: &Budget) -> Poll<Result<(), WriteError>> {
        while !self.queue.is_empty() {
            let write = pin!(self.stream.write_chunks(self.queue.front())).poll(context);
            match write {
                Poll::Pending => return Poll::Pending,
                Poll::Ready(Ok(written)) => {
                    self.queue.wrote(written.chunks, written.bytes);
                    budget.give_back(written.bytes);
                }
                Poll::Ready(Err(error)) => {
                    self.has_failed = true;
                    return Poll::Ready(Err(error));
                }
            }
        }
        Poll::Ready(Ok(()))
    }
}

const SESSION_TAG: u8 = 16;
/// What quinn then has to search through is small beside the cost of a wake-up.
const DIRECT_SENDS_MAX: u32 = 64;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tags_name_lanes() {
        for lane in ordered_lanes().chain([Lane::Bulk]) {
            assert_eq!(from_tag(tag(lane)), Some(lane));
        }
        let known = (0..=u8::MAX).filter(|tag| from_tag(*tag).is_some()).count();
        assert_eq!(known, ORDERED_LANES + 1);
        let places: Vec<_> = ordered_lanes().map(index).collect();
        assert_eq!(places, (0..ORDERED_LANES).map(Some).collect::<Vec<_>>());
        assert_eq!((index(Lane::Bulk), index(Lane::Session(SESSION_LANES))), (None, None));
    }

    #[test]
    fn budgets_are_shared_and_take_one_large_frame() {
        let budget = Budget::new(10);
        let other = budget.clone();
        assert!(budget.take(50));
        assert!(!other.take(1));
        budget.give_back(50);
        assert!(other.take(6) && budget.take(4) && !budget.take(1));
    }

    #[test]
    fn what_has_a_smaller_share_is_shed_first() {
        let budget = Budget::new(1_000);
        assert!(budget.take_within(500, Share(50)));
        assert!(!budget.take_within(1, Share(50)) && budget.take_within(250, Share(75)));
        assert!(!budget.take_within(1, Share(75)) && budget.take_within(250, Share::ALL));
        assert!(!budget.take(1));
        budget.give_back(1_000);
        assert!(budget.take_within(5_000, Share(1)), "one frame always fits into an unused one");
    }
}
