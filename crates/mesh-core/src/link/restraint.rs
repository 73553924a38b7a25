//! What is not sent, since the other end gets it from somebody else.
//!
//! Any neighbour may bring any entry, so that state needs no direct links to spread. Where there are direct
//! links, all but one copy would be in vain. Two rules hold them back, and neither changes what a batch is: it
//! still has all that the receiver does not cover, and only comes later, when mostly nothing is left to send.
//!
//! * **One at first.** A node of which several links open at once lets one of them bring what it lacks. Over
//!   the others it says that it awaits another; they keep their first batch until it says what it has then.
//! * **The writer itself.** News that was all written by nodes to which the other end has direct links, as it
//!   says or they do, is held back for `REPAIR_MS`: they tell it themselves. Whoever got news says after `HAVE_MS`
//!   what it has. What it still lacks then is sent, be it that a link is slow or has just broken.
//!
//! Both have an end by time, so that nothing depends on what another node does or does not do.

use mesh_model::link::{LinkMessage, reject};
use mesh_model::{DomainId, Lane, LinkId, Origin, Tick, VersionVector};

use super::{Link, State};
use crate::Output;
use crate::node::Node;
use crate::vector::Vector;

/// How long a first batch is kept for a node that awaits another.
const FIRST_MS: u64 = 1_000;
/// How long news is held back that the other end hears from who wrote it.
const REPAIR_MS: u64 = 1_000;
/// How long a node gathers news before it says to its neighbours what it has.
const HAVE_MS: u64 = 600;

/// What one link holds back, and why.
#[derive(Clone, Debug, Default)]
pub(super) struct Restraint {
    /// Until when the first batch is kept, since the other end awaits another.
    kept_until: Option<Tick>,
    /// Whether the other end was told to keep its own.
    is_asked: bool,
    /// Whether the first batch of the other end is here.
    is_served: bool,
    /// Until when news is held back, and what this end had covered when that began.
    held: Option<(Tick, Vector)>,
    /// What this end has covered, as far as the other knows.
    said: Vector,
    /// When to say the rest.
    say_at: Option<Tick>,
}

impl Restraint {
    /// Returns when something is due. News that is due and was not sent yet waits for room on its link.
    pub(super) fn timeout(&self, is_dirty: bool) -> Option<Tick> {
        let held = self.held.as_ref().filter(|_| !is_dirty).map(|(until, _)| *until);
        [self.kept_until, held, self.say_at].into_iter().flatten().min()
    }

    /// Returns the vectors in here.
    pub(super) fn vectors(&mut self) -> impl Iterator<Item = &mut Vector> {
        self.held.iter_mut().map(|(_, vector)| vector).chain([&mut self.said])
    }

    /// A batch has been sent, which says what this end has covered.
    pub(super) fn sent(&mut self, vector: &Vector) {
        self.held = None;
        self.say_at = None;
        self.said.clone_from(vector);
    }

    #[cfg(test)]
    pub(super) const fn keeps_first(&self) -> bool {
        self.kept_until.is_some()
    }

    #[cfg(test)]
    pub(super) const fn mixed(&self) -> (bool, bool, bool) {
        (self.kept_until.is_some(), self.is_asked, self.is_served)
    }
}

impl Link {
    /// Returns whether this link is about to bring what this end lacks.
    fn is_source(&self) -> bool {
        let restraint = &self.restraint;
        let serves = self.state == State::Up && self.is_direct();
        serves && !restraint.is_served && !restraint.is_asked
    }
}

impl Node {
    /// Returns whether the other end of a link that is up now is to keep its first batch.
    pub(super) fn awaits_another(&mut self, link: LinkId) -> bool {
        let awaits = self.links.iter().any(|(id, other)| *id != link && other.is_source());
        let Some(known) = self.links.get_mut(&link).filter(|known| known.is_direct()) else { return false };
        known.restraint.is_asked = awaits;
        known.restraint.said.clone_from(self.replica.vector());
        awaits
    }

    /// The other end awaits another.
    pub(super) fn keep_first(&mut self, link: LinkId) {
        let until = self.now.tick.plus_millis(FIRST_MS);
        if let Some(known) = self.links.get_mut(&link) {
            known.restraint.kept_until = Some(until);
        }
    }

    /// A whole batch has come, whatever became of it.
    pub(super) fn batch_came(&mut self, link: LinkId, vector: &Vector) {
        if let Some(known) = self.links.get_mut(&link) {
            known.restraint.is_served = true;
            known.restraint.said.join(vector);
        }
        if self.settings.relay {
            let at = self.now.tick.plus_millis(HAVE_MS);
            for known in self.links.values_mut().filter(|known| known.vector.is_some()) {
                if known.restraint.say_at.is_none() && !known.restraint.said.covers_all(self.replica.vector())
                {
                    known.restraint.say_at = Some(at);
                }
            }
        }
        self.ask_the_others();
    }

    /// Lets the others send their first batches, if no link is about to bring one.
    pub(super) fn ask_the_others(&mut self) {
        if self.links.values().any(Link::is_source) {
            return;
        }
        let asked = self.links.iter().filter(|(_, known)| known.restraint.is_asked);
        let asked: Vec<LinkId> = asked.map(|(id, _)| *id).collect();
        for link in asked {
            if let Some(known) = self.links.get_mut(&link) {
                known.restraint.is_asked = false;
            }
            self.say_have(link);
        }
    }

    fn say_have(&mut self, link: LinkId) {
        let Some(known) = self.links.get_mut(&link) else { return };
        known.restraint.say_at = None;
        let said = std::mem::replace(&mut known.restraint.said, self.replica.vector().clone());
        let vector = self.replica.vector().beyond(&said);
        // In the lane of `DomainOpen`, which must not come after it.
        let message = LinkMessage::Have { domain: self.settings.domain, vector };
        self.emit(Output::Link { link, lane: Lane::Control, message });
    }

    /// The other end says what it has.
    pub(super) fn note_have(&mut self, link: LinkId, domain: DomainId, vector: &VersionVector) {
        if domain != self.settings.domain {
            return self.close_link(link, reject::PROTOCOL, "that domain is not this node's");
        }
        let Some(known) = self.links.get_mut(&link) else { return };
        // Where a batch was refused all is sent anew, whatever the other end has by now.
        if let Some(covered) = known.vector.as_mut().filter(|_| !known.refused) {
            covered.learn(vector, self.replica.vector());
        }
        known.dirty |= known.restraint.held.is_some();
        if known.restraint.kept_until.take().is_some() {
            self.send_batch(link, true);
        }
    }

    /// Who hears whom may have changed: looks again at all that is held back.
    pub(super) fn reconsider_held(&mut self) {
        for known in self.links.values_mut() {
            known.dirty |= known.restraint.held.is_some();
        }
    }

    /// Returns whether nothing is to be sent over a link for now, though there may be news.
    pub(super) fn holds_back(&mut self, link: LinkId) -> bool {
        let Some(known) = self.links.get(&link).filter(|_| !self.leaves) else { return false };
        if known.restraint.kept_until.is_some() {
            return true;
        }
        let Some(covered) = &known.vector else { return false };
        let held = known.restraint.held.as_ref();
        let is_due = held.filter(|(until, _)| *until <= self.now.tick);
        if is_due.is_some_and(|(_, vector)| !covered.covers_all(vector)) {
            return false;
        }
        let begun = held.filter(|(until, _)| *until > self.now.tick).cloned();
        let (own, vector) = (self.origin(), self.replica.vector());
        let news = vector.beyond(covered);
        let holds = !news.is_empty()
            && !news.contains_key(&own)
            && news.keys().all(|origin| self.hear_each_other(known, *origin));
        let held =
            holds.then(|| begun.unwrap_or_else(|| (self.now.tick.plus_millis(REPAIR_MS), vector.clone())));
        if let Some(known) = self.links.get_mut(&link) {
            known.dirty = !holds;
            known.restraint.held = held;
        }
        holds
    }

    /// Returns whether the other end of a link has a direct link to the node that wrote something, as one of
    /// them says. Nobody but others can tell a node what it wrote itself in an earlier life.
    fn hear_each_other(&self, link: &Link, origin: Origin) -> bool {
        if origin.node == link.peer {
            return origin == link.origin();
        }
        let says = |known: &Link| known.neighbours.contains(&link.peer);
        let other = || self.direct_link_to(origin.node).and_then(|other| self.links.get(&other));
        link.neighbours.contains(&origin.node) || other().is_some_and(says)
    }

    /// Sends what was held back for long enough, and says what is due.
    pub(super) fn restraint_timers(&mut self) {
        let now = self.now.tick;
        let links: Vec<LinkId> = self.links.keys().copied().collect();
        for link in links {
            let Some(known) = self.links.get_mut(&link) else { continue };
            let restraint = &mut known.restraint;
            known.dirty |= restraint.held.as_ref().is_some_and(|(until, _)| *until <= now);
            let says = restraint.say_at.is_some_and(|at| at <= now);
            if restraint.kept_until.take_if(|until| *until <= now).is_some() {
                self.send_batch(link, true);
            }
            if says {
                self.say_have(link);
            }
        }
    }
}
