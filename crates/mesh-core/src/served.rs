//! What a node knows of the calls that other nodes have sent it, so that each runs at most once and its
//! end can be told again.
//!
//! When a link breaks, the caller's node asks over the next one what became of its calls. One that runs
//! is waited for; the end of one that has ended is sent again; one that never came is *fenced*: should it
//! still come, it is not run, so that the caller may be told that it certainly was not.

use std::collections::{BTreeMap, VecDeque};

use mesh_model::{Answer, CallId, Incarnation, Json, NodeId, Origin, Outcome, Tick, Words};

/// Calls that have ended and are still known (`ended_calls_max`).
pub(crate) const ENDED_CALLS_MAX: usize = 4_096;
/// Bytes of their answers (`ended_calls_bytes_max`).
pub(crate) const ENDED_CALLS_BYTES_MAX: usize = 16 << 20;

/// The table of them.
#[derive(Clone, Debug, Default)]
pub(crate) struct Served {
    calls: BTreeMap<(Origin, CallId), Known>,
    /// Those of `calls` that do not run any more, oldest first, and since when.
    ended: VecDeque<(Tick, Origin, CallId)>,
    /// Bytes of their answers.
    bytes: usize,
    /// Calls of a life up to this one may be forgotten. One entry per node, for its newest life.
    forgotten: BTreeMap<NodeId, (Incarnation, CallId)>,
}

/// What is known of a call.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Known {
    /// It runs, as this invocation.
    Running(u64),
    /// It has ended so.
    Ended(Outcome),
    /// It did not run, and will not.
    Fenced,
    /// It is too old to say.
    Forgotten,
}

impl Served {
    pub(crate) fn get(&self, origin: Origin, id: CallId) -> Option<Known> {
        let mark = self.forgotten.get(&origin.node);
        let forgotten = || {
            mark.is_some_and(|(life, mark)| {
                origin.incarnation < *life || origin.incarnation == *life && id <= *mark
            })
        };
        self.calls.get(&(origin, id)).cloned().or_else(|| forgotten().then_some(Known::Forgotten))
    }

    pub(crate) fn run(&mut self, origin: Origin, id: CallId, invocation: u64) {
        self.calls.insert((origin, id), Known::Running(invocation));
    }

    /// Notes the end of a call that ran, or was refused.
    pub(crate) fn end(&mut self, origin: Origin, id: CallId, outcome: &Outcome, now: Tick) {
        self.keep(origin, id, Known::Ended(detached(outcome)), now);
    }

    pub(crate) fn fence(&mut self, origin: Origin, id: CallId, now: Tick) {
        self.keep(origin, id, Known::Fenced, now);
    }

    fn keep(&mut self, origin: Origin, id: CallId, known: Known, now: Tick) {
        self.bytes += weight(&known);
        match self.calls.insert((origin, id), known) {
            Some(Known::Running(_)) | None => self.ended.push_back((now, origin, id)),
            Some(before) => self.bytes -= weight(&before),
        }
        while self.ended.len() > ENDED_CALLS_MAX || self.bytes > ENDED_CALLS_BYTES_MAX {
            self.forget_oldest();
        }
    }

    /// Forgets what ended at `before` or earlier.
    pub(crate) fn forget_until(&mut self, before: Tick) {
        while self.ended.front().is_some_and(|(at, ..)| *at <= before) {
            self.forget_oldest();
        }
    }

    fn forget_oldest(&mut self) {
        let Some((_, origin, id)) = self.ended.pop_front() else { return };
        if let Some(known) = self.calls.remove(&(origin, id)) {
            self.bytes -= weight(&known);
        }
        let mark = self.forgotten.entry(origin.node).or_insert((origin.incarnation, id));
        *mark = (*mark).max((origin.incarnation, id));
    }

    /// Returns the calls of a node that run, with their invocations.
    pub(crate) fn running(&self, node: NodeId) -> Vec<(Origin, CallId, u64)> {
        let first = Origin { node, incarnation: Incarnation(0) };
        self.calls
            .range((first, CallId(0))..)
            .take_while(|((origin, _), _)| origin.node == node)
            .filter_map(|((origin, id), known)| match known {
                Known::Running(invocation) => Some((*origin, *id, *invocation)),
                Known::Ended(_) | Known::Fenced | Known::Forgotten => None,
            })
            .collect()
    }
}

fn weight(known: &Known) -> usize {
    let of = |part: &Option<Json>| part.as_ref().map_or(0, Json::len);
    match known {
        Known::Ended(Outcome::Answered(Answer::Result(result))) => of(result),
        Known::Ended(Outcome::Answered(Answer::Error { words, context })) => {
            of(&words.uri) + of(&words.reason) + of(context)
        }
        Known::Running(_) | Known::Ended(Outcome::Failed(_)) | Known::Fenced | Known::Forgotten => 0,
    }
}

/// Returns the same in memory of its own: an answer is a part of the message that it came in.
fn detached(outcome: &Outcome) -> Outcome {
    let own = |part: &Option<Json>| part.as_ref().map(Json::detached);
    match outcome {
        Outcome::Answered(Answer::Result(result)) => Outcome::Answered(Answer::Result(own(result))),
        Outcome::Answered(Answer::Error { words, context }) => {
            let words = Words { uri: own(&words.uri), reason: own(&words.reason) };
            Outcome::Answered(Answer::Error { words, context: own(context) })
        }
        Outcome::Failed(failure) => Outcome::Failed(failure.clone()),
    }
}
