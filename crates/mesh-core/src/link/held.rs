//! Messages that have arrived and wait for a write of their sender.
//!
//! What one lane brings keeps its order: behind a message that waits, all of that lane waits. Other lanes go
//! on: an application whose messages depend on a large write does not hold up those that know nothing of it.

use std::collections::VecDeque;

use mesh_model::link::LinkMessage;
use mesh_model::{Lane, SESSION_LANES, Tick};

const LANES: usize = SESSION_LANES as usize;

/// A message, and since when it waits.
type Waiting = (Tick, LinkMessage);

/// What waits on one link.
#[derive(Clone, Debug, Default)]
pub(super) struct Held {
    lanes: [VecDeque<Waiting>; LANES],
    /// Those that came by themselves, and are in order with nothing.
    alone: Vec<Waiting>,
    /// When there last was reason to wait on: what came before counts as having come then.
    pub(super) since: Tick,
}

impl Held {
    /// Returns how many wait.
    pub(super) fn len(&self) -> usize {
        self.lanes.iter().map(VecDeque::len).sum::<usize>() + self.alone.len()
    }

    pub(super) fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Returns whether what this lane brings has to wait, whatever it is.
    pub(super) fn blocks(&self, lane: Lane) -> bool {
        number(lane).is_some_and(|number| self.lanes.get(number).is_some_and(|waiting| !waiting.is_empty()))
    }

    pub(super) fn push(&mut self, lane: Lane, message: LinkMessage, now: Tick) {
        match number(lane).and_then(|number| self.lanes.get_mut(number)) {
            Some(waiting) => waiting.push_back((now, message)),
            None => self.alone.push((now, message)),
        }
    }

    /// Returns since when the message waits that has waited for longest.
    pub(super) fn oldest(&self) -> Option<Tick> {
        let first = self.lanes.iter().filter_map(VecDeque::front).chain(&self.alone);
        first.map(|(came, _)| (*came).max(self.since)).min()
    }

    /// Takes a message that need not wait any more, with its lane: one that may go, or that waits since then or
    /// for longer.
    pub(super) fn pop(
        &mut self,
        late: Option<Tick>,
        may_go: impl Fn(&LinkMessage) -> bool,
    ) -> Option<(Lane, LinkMessage)> {
        let since = self.since;
        let goes = |(came, message): &Waiting| {
            late.is_some_and(|late| (*came).max(since) <= late) || may_go(message)
        };
        for (number, waiting) in (0..SESSION_LANES).zip(&mut self.lanes) {
            if let Some((_, message)) = waiting.pop_front_if(|waiting| goes(waiting)) {
                return Some((Lane::Session(number), message));
            }
        }
        let at = self.alone.iter().position(goes)?;
        Some((Lane::Bulk, self.alone.remove(at).1))
    }

    pub(super) fn retain(&mut self, keep: impl Fn(&LinkMessage) -> bool) {
        self.lanes.iter_mut().for_each(|waiting| waiting.retain(|(_, message)| keep(message)));
        self.alone.retain(|(_, message)| keep(message));
    }
}

/// Returns the number of a lane that keeps an order.
fn number(lane: Lane) -> Option<usize> {
    match lane {
        Lane::Session(number) => Some(usize::from(number)),
        Lane::Control | Lane::Replication | Lane::Bulk => None,
    }
}

#[cfg(test)]
mod tests {
    use mesh_model::CallId;

    use super::*;

    #[test]
    fn a_lane_keeps_its_order_and_holds_up_no_other() {
        let mut held = Held::default();
        for (lane, id) in [
            (Lane::Session(1), 1),
            (Lane::Session(1), 2),
            (Lane::Session(3), 3),
            (Lane::Bulk, 4),
            (Lane::Bulk, 5),
        ] {
            held.push(lane, LinkMessage::Cancel { id: CallId(id) }, Tick(id));
        }
        assert_eq!((held.len(), held.oldest()), (5, Some(Tick(1))));
        let blocked =
            [Lane::Session(0), Lane::Session(1), Lane::Session(3), Lane::Bulk].map(|lane| held.blocks(lane));
        assert_eq!(blocked, [false, true, true, false]);
        let mut taken = |ready: &[u64]| {
            let ready = |message: &LinkMessage| matches!(message, LinkMessage::Cancel { id } if ready.contains(&id.0));
            match held.pop(None, ready) {
                Some((lane, LinkMessage::Cancel { id })) => Some((lane, id.0)),
                _ => None,
            }
        };
        assert_eq!(taken(&[2]), None, "it is behind one that waits");
        assert_eq!(taken(&[2, 3]), Some((Lane::Session(3), 3)));
        assert_eq!(taken(&[2, 5]), Some((Lane::Bulk, 5)), "nothing is before it");
        assert_eq!(taken(&[1, 2]), Some((Lane::Session(1), 1)));
        assert_eq!(taken(&[1, 2]), Some((Lane::Session(1), 2)));
        held.retain(|_| false);
        assert!(held.is_empty());
    }

    #[test]
    fn each_waits_for_as_long_whatever_else_waits() {
        let mut held = Held::default();
        for id in 1..=4 {
            held.push(Lane::Session(0), LinkMessage::Cancel { id: CallId(id) }, Tick(id * 10));
        }
        assert!(held.pop(Some(Tick(9)), |_| false).is_none());
        assert!(held.pop(Some(Tick(10)), |_| false).is_some());
        assert!(held.pop(Some(Tick(10)), |_| false).is_none());
        assert_eq!(held.oldest(), Some(Tick(20)));
        // There is reason to wait on.
        held.since = Tick(30);
        assert!(held.oldest() == Some(Tick(30)) && held.pop(Some(Tick(29)), |_| false).is_none());
        let all = std::iter::from_fn(|| held.pop(Some(Tick(30)), |_| false));
        assert_eq!(all.count(), 2);
    }
}
