//! Which changes wait until their client has read an acknowledgement.
//!
//! On the acknowledgement of its own change a client changes its own copy. A Node.js client does so a moment
//! after it has read it, so that somebody else's later change which it reads in one chunk with it is undone in
//! its copy. What tells that the client has read the one before the other is its answer to a ping between
//! them: so nothing is held longer than it takes, be the client idle or busy, and nothing is held at all
//! where no change of the same thing follows an acknowledgement that close.

use std::collections::BTreeMap;
use std::time::Duration;

use mesh_model::{Event, SessionId, Text};

/// How long the answer of a client is waited for that has not answered a ping yet, and may never do so.
const UNTRIED: Duration = Duration::from_millis(100);
/// How long that of one which has: it answers when it reads on, and while it does not, nothing is read later for
/// being held.
const TRIED: Duration = Duration::from_secs(5);
/// Acknowledgements of different things that nothing tells are read.
const UNREAD_MAX: usize = 1_024;

/// What a client keeps a copy or a register of by itself.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Thing {
    Context(Text),
    Stream(u64),
    Topic(u64),
}

/// The acknowledgements that a client may not have read.
#[derive(Debug, Default)]
pub(super) struct Settling {
    /// Each with the number of the first ping behind it.
    unread: BTreeMap<(SessionId, Thing), u64>,
    /// The number of the next ping.
    next: u64,
    /// It has not answered the last ping in time.
    deaf: bool,
    /// It has answered a ping before.
    answers: bool,
}

impl Settling {
    /// Returns the ping that must be answered before this is written, if one must.
    pub(super) fn awaits(&self, session: SessionId, event: &Event) -> Option<u64> {
        if self.deaf || self.unread.is_empty() {
            return None;
        }
        if self.unread.len() >= UNREAD_MAX {
            return self.unread.values().max().copied();
        }
        let thing = match event {
            Event::ContextUpdated { context, .. } => Thing::Context(context.clone()),
            Event::StreamData { subscription, .. } => Thing::Stream(*subscription),
            Event::BusEvent { subscription, .. } => Thing::Topic(*subscription),
            _ => return None,
        };
        self.unread.get(&(session, thing)).copied()
    }

    /// Takes it that an event has been written.
    pub(super) fn written(&mut self, session: SessionId, event: &Event) {
        let thing = match event {
            Event::Done { changed: Some(context), .. }
            | Event::ContextCreated { context, .. }
            | Event::ContextSnapshot { context, .. } => Thing::Context(context.clone()),
            Event::Subscribed { subscription, .. } => Thing::Stream(*subscription),
            Event::BusSubscribed { subscription, .. } => Thing::Topic(*subscription),
            _ => return,
        };
        // More than that are only there where nothing is waited for.
        if self.unread.len() < UNREAD_MAX {
            self.unread.insert((session, thing), self.next);
        }
    }

    /// Returns the number for a ping, if that one has not been sent.
    pub(super) fn ping(&mut self, number: u64) -> Option<u64> {
        let due = number == self.next;
        self.next += u64::from(due);
        due.then_some(number)
    }

    /// Takes it that the client has answered a ping.
    pub(super) fn answered(&mut self, number: u64) {
        self.deaf = false;
        self.answers = true;
        // What no ping was sent behind is not read by any answer.
        self.unread.retain(|_, ping| *ping > number || *ping >= self.next);
    }

    /// Returns how long an answer is to be waited for.
    pub(super) const fn patience(&self) -> Duration {
        if self.answers { TRIED } else { UNTRIED }
    }

    /// Takes it that no answer will come in time. Until one does, nothing waits for this client any more.
    pub(super) fn give_up(&mut self) {
        self.deaf = true;
        self.unread.clear();
    }
}

#[cfg(test)]
mod tests {
    use mesh_model::{Json, Request};

    use super::*;

    const ONE: SessionId = SessionId(1);

    fn acknowledged(context: &str) -> Event {
        let request = Request { id: Json::from_static("1"), face: 0 };
        Event::Done { request, changed: Some(context.into()) }
    }

    fn changed(context: &str) -> Event {
        Event::ContextUpdated { context: context.into(), updater: "i-2".into(), delta: Json::null() }
    }

    #[test]
    fn only_changes_of_the_same_thing_wait() {
        let mut settling = Settling::default();
        settling.written(ONE, &acknowledged("c-1"));
        assert_eq!(settling.awaits(ONE, &changed("c-2")), None, "another context");
        assert_eq!(settling.awaits(SessionId(2), &changed("c-1")), None, "another copy");
        assert_eq!(settling.awaits(ONE, &acknowledged("c-1")), None, "another change of its own");
        assert_eq!(settling.awaits(ONE, &changed("c-1")), Some(0));
        let subscribed = Event::BusSubscribed {
            request: Request { id: Json::from_static("1"), face: 0 },
            subscription: 7,
        };
        let published =
            |subscription| Event::BusEvent { subscription, publisher: Json::null(), data: Json::null() };
        settling.written(ONE, &subscribed);
        assert_eq!([7, 8].map(|number| settling.awaits(ONE, &published(number))), [Some(0), None]);
    }

    #[test]
    fn who_has_answered_once_is_waited_for() {
        let mut settling = Settling::default();
        assert_eq!(settling.patience(), UNTRIED);
        settling.give_up();
        assert_eq!(settling.patience(), UNTRIED);
        settling.answered(0);
        settling.give_up();
        assert_eq!(settling.patience(), TRIED, "it does answer");
    }

    #[test]
    fn an_answer_is_for_what_came_before_its_ping() {
        let mut settling = Settling::default();
        settling.written(ONE, &acknowledged("c-1"));
        settling.answered(5);
        assert_eq!(settling.awaits(ONE, &changed("c-1")), Some(0), "no ping was sent behind it");
        assert_eq!([settling.ping(0), settling.ping(0)], [Some(0), None], "once");
        settling.written(ONE, &acknowledged("c-2"));
        settling.written(ONE, &acknowledged("c-3"));
        assert_eq!(settling.ping(1), Some(1));
        settling.written(ONE, &acknowledged("c-2"));
        settling.answered(0);
        let awaits = |settling: &Settling| ["c-1", "c-2", "c-3"].map(|c| settling.awaits(ONE, &changed(c)));
        assert_eq!(awaits(&settling), [None, Some(2), Some(1)]);
        settling.answered(1);
        assert_eq!(awaits(&settling), [None, Some(2), None]);
    }

    #[test]
    fn one_that_does_not_answer_is_not_waited_for_again_before_it_does() {
        let mut settling = Settling::default();
        settling.written(ONE, &acknowledged("c-1"));
        settling.ping(0);
        settling.give_up();
        settling.written(ONE, &acknowledged("c-1"));
        assert_eq!(settling.awaits(ONE, &changed("c-1")), None);
        settling.answered(0);
        assert_eq!(settling.awaits(ONE, &changed("c-1")), Some(1));
    }

    #[test]
    fn what_may_be_unread_is_bounded() {
        let mut settling = Settling::default();
        for number in 0..UNREAD_MAX {
            assert_eq!(settling.awaits(ONE, &changed("c-x")), None);
            settling.written(ONE, &acknowledged(&format!("c-{number}")));
        }
        assert_eq!(settling.awaits(ONE, &acknowledged("c-y")), Some(0), "all of it is to be read first");
        settling.ping(0);
        settling.answered(0);
        assert_eq!(settling.awaits(ONE, &acknowledged("c-y")), None);
    }
}
