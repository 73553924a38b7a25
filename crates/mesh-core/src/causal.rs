//! Which writes of this node an application may know of.
//!
//! A message must not be seen before what its sender had seen when it sent it: "update a context, then call". So
//! it names a write of its node in `after`, and waits at the other end until that is there. Naming the last write
//! that anybody on the node has made would do; but then a large one that is on its way holds up all applications
//! of the node, those that have nothing to do with it included. So each session has the number of the last write
//! that it may know of: one of its own, one that it was told of, by whatever event, or one that whoever sent it
//! something may have known of, here or on another node.
//!
//! Told of is who gets an event that comes of the write, or of a message of somebody who knows of it. Two cases
//! are decided otherwise:
//!
//! * That there is a new context is told to all who may see it, and says nothing of what is in it. That alone
//!   does not count; entering it does.
//! * What a node writes at nobody's request may be about any session: all are taken to know of it.

use mesh_model::{Event, Lane, LinkId, LinkMessage, SESSION_LANES, SessionId};

use crate::node::Node;

/// What is being handled, and what may be known of by whoever hears of it.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Causes {
    /// Who has asked for it.
    asked_by: Option<SessionId>,
    /// The last write that it may come of.
    cause: u64,
    /// The last write that nobody asked for.
    unasked: u64,
}

/// What the two ends of a link have said of the writes of the one that the other has covered.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Told {
    /// The last write of this node that the other end has covered, as it says.
    pub(crate) covered: u64,
    /// What this end has said of the other's, in each session lane.
    said: [u64; SESSION_LANES as usize],
}

impl Node {
    /// Begins with an input of a session, or of nobody.
    pub(crate) fn begin(&mut self, asked_by: Option<SessionId>) {
        let known = asked_by.and_then(|session| self.sessions.get(&session)).map_or(0, |own| own.knows);
        self.causes = Causes { asked_by, cause: known, ..self.causes };
    }

    /// All writes of this node may be known of by whoever hears of what is being handled: it shows state.
    pub(crate) const fn shows_state(&mut self) {
        self.causes.cause = self.seq;
    }

    /// What is being handled comes of somebody who knew of this write, at most.
    pub(crate) const fn comes_of(&mut self, write: u64) {
        self.causes.cause = write;
    }

    /// A write has been made.
    pub(crate) const fn note_write(&mut self) {
        self.causes.cause = self.seq;
        if self.causes.asked_by.is_none() {
            self.causes.unasked = self.seq;
        }
    }

    /// Ends with an input: who asked for something knows what came of it.
    pub(crate) fn end(&mut self) {
        if let Some(session) = self.causes.asked_by.take() {
            self.learns(session);
        }
    }

    /// A session is told something.
    pub(crate) fn is_told(&mut self, session: SessionId, event: &Event) {
        if !matches!(event, Event::ContextAdded { .. }) {
            self.learns(session);
        }
    }

    fn learns(&mut self, session: SessionId) {
        // Over a link that opens later, nothing is shown of what comes before the first batch.
        if self.causes.cause == 0 || self.links.is_empty() {
            return;
        }
        if let Some(own) = self.sessions.get_mut(&session) {
            own.knows = own.knows.max(self.causes.cause);
        }
    }

    /// Returns the last write that a session may know of; of a session that is gone, the last there is.
    pub(crate) fn known_to(&self, session: u64) -> u64 {
        let own = self.sessions.get(&SessionId(session));
        own.map_or(self.seq, |own| own.knows.max(self.causes.unasked))
    }

    /// The other end says what it has covered of this node's writes.
    pub(crate) fn note_covered(&mut self, link: LinkId, seq: u64) {
        // There is nothing to wait for beyond what has been written.
        let seq = seq.min(self.seq);
        if let Some(known) = self.links.get_mut(&link) {
            known.said.covered = known.said.covered.max(seq);
        }
    }

    /// Before a message of a session's traffic: says what is covered of the other end's writes, if that end does
    /// not know. What it tells its applications of the message may then be known to have come of these.
    pub(crate) fn tell_covered(&mut self, link: LinkId, lane: Lane) -> Option<LinkMessage> {
        let Lane::Session(number) = lane else { return None };
        let known = self.links.get_mut(&link)?;
        let seq = self.replica.vector().get(&known.origin())?;
        let said = known.said.said.get_mut(usize::from(number)).filter(|said| **said < seq)?;
        *said = seq;
        Some(LinkMessage::Covered { seq })
    }
}
