//! A bounded queue that drops its oldest, so that a slow reader holds up nobody.

use std::collections::VecDeque;
use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::Notify;
use tokio::task::JoinHandle;

use crate::limits::FEED_LEN_MAX;

/// What arrives over time: stream data, changes of a context, messages of a topic.
///
/// A feed ends when its source does. Dropping it unsubscribes.
pub struct Feed<T> {
    shared: Arc<Shared<T>>,
    on_drop: Option<Box<dyn FnOnce() + Send + Sync>>,
}

impl<T> Feed<T> {
    /// Returns the next item, or nothing once the source has ended and everything was taken.
    ///
    /// Cancelling this loses nothing.
    pub async fn next(&mut self) -> Option<T> {
        loop {
            {
                let mut ring = self.shared.lock();
                if let Some(item) = ring.items.pop_front() {
                    return Some(item);
                }
                if ring.ended {
                    return None;
                }
            }
            self.shared.news.notified().await;
        }
    }

    /// Returns the next item if it is there already.
    pub fn try_next(&mut self) -> Option<T> {
        self.shared.lock().items.pop_front()
    }

    /// Returns how many items were dropped because nobody took them, since this was last asked.
    pub fn missed(&mut self) -> u64 {
        std::mem::take(&mut self.shared.lock().missed)
    }
}

impl<T: Send + 'static> Feed<T> {
    /// Calls back for every item, in a task of its own; abort it to unsubscribe.
    pub fn for_each(mut self, mut callback: impl FnMut(T) + Send + 'static) -> JoinHandle<()> {
        tokio::spawn(async move {
            while let Some(item) = self.next().await {
                callback(item);
            }
        })
    }
}

impl<T> Drop for Feed<T> {
    fn drop(&mut self) {
        let items = {
            let mut ring = self.shared.lock();
            ring.abandoned = true;
            std::mem::take(&mut ring.items)
        };
        drop(items);
        if let Some(on_drop) = self.on_drop.take() {
            on_drop();
        }
    }
}

impl<T> fmt::Debug for Feed<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Feed").field("waiting", &self.shared.lock().items.len()).finish_non_exhaustive()
    }
}

/// The other end of a feed. The feed ends with the last clone.
pub(crate) struct FeedSender<T>(Arc<Ending<T>>);

impl<T> FeedSender<T> {
    /// Adds an item, at the price of the oldest if the feed is full.
    pub(crate) fn push(&self, item: T) {
        let shared = &self.0.0;
        let dropped = {
            let mut ring = shared.lock();
            if ring.abandoned {
                return;
            }
            let dropped = if ring.items.len() == FEED_LEN_MAX { ring.items.pop_front() } else { None };
            ring.missed += u64::from(dropped.is_some());
            ring.items.push_back(item);
            dropped
        };
        drop(dropped);
        shared.news.notify_one();
    }

    /// Whether nobody reads it any more.
    pub(crate) fn is_abandoned(&self) -> bool {
        self.0.0.lock().abandoned
    }
}

impl<T> Clone for FeedSender<T> {
    fn clone(&self) -> Self {
        Self(self.0.clone())
    }
}

impl<T> fmt::Debug for FeedSender<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("FeedSender")
    }
}

/// Makes both ends; `on_drop` runs when the reader has gone.
pub(crate) fn feed<T>(on_drop: impl FnOnce() + Send + Sync + 'static) -> (FeedSender<T>, Feed<T>) {
    let shared = Arc::new(Shared { ring: Mutex::new(Ring::default()), news: Notify::new() });
    let sender = FeedSender(Arc::new(Ending(shared.clone())));
    (sender, Feed { shared, on_drop: Some(Box::new(on_drop)) })
}

struct Shared<T> {
    ring: Mutex<Ring<T>>,
    news: Notify,
}

impl<T> Shared<T> {
    fn lock(&self) -> MutexGuard<'_, Ring<T>> {
        self.ring.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Invariant: `items` never holds more than [`FEED_LEN_MAX`].
struct Ring<T> {
    items: VecDeque<T>,
    missed: u64,
    ended: bool,
    abandoned: bool,
}

impl<T> Default for Ring<T> {
    fn default() -> Self {
        Self { items: VecDeque::new(), missed: 0, ended: false, abandoned: false }
    }
}

struct Ending<T>(Arc<Shared<T>>);

impl<T> Drop for Ending<T> {
    fn drop(&mut self) {
        self.0.lock().ended = true;
        self.0.news.notify_one();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_full_feed_drops_its_oldest_and_says_so() {
        let (sender, mut feed) = feed(|| ());
        for number in 0..FEED_LEN_MAX + 3 {
            sender.push(number);
        }
        drop(sender);
        assert_eq!(feed.missed(), 3);
        let mut seen = Vec::new();
        while let Some(number) = feed.next().await {
            seen.push(number);
        }
        assert_eq!((seen.len(), seen[0]), (FEED_LEN_MAX, 3));
    }
}
