//! Which of several providers a caller gets when it does not say whom it wants.
//!
//! Client libraries choose by themselves: the first provider that was announced as local, else the first
//! that was announced. What a node decides is the order in which it announces providers to an app that
//! joins, and that is the order here. What is announced later comes last, so that callers stay with whom
//! they have.

use mesh_model::{NodeId, Text};

use crate::node::Node;
use crate::party::Party;
use crate::registry::RemoteInstance;

/// What is added to or taken from a bound between distances before a node counts as having crossed it.
const HYSTERESIS_PERCENT: u64 = 20;
/// The round trips, in microseconds, that end one distance and begin the next.
const BOUNDS_US: [u64; 3] = [2_000, 10_000, 50_000];

/// How far a node is, by the round trip to it: 0 is nearest. Coarse, and slow to change, so that nodes that
/// are about as far count as equally far.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Distance(u8);

impl Default for Distance {
    /// That of a node which has not answered yet.
    fn default() -> Self {
        Self(BOUNDS_US.len() as u8)
    }
}

impl Distance {
    /// Returns the distance after a round trip was measured.
    pub(crate) fn after(self, rtt_us: u64) -> Self {
        let beyond = |percent: u64| {
            let passed = BOUNDS_US.iter().filter(|bound| rtt_us * 100 >= **bound * percent).count();
            u8::try_from(passed).unwrap_or(u8::MAX)
        };
        let (nearest, farthest) = (beyond(100 + HYSTERESIS_PERCENT), beyond(100 - HYSTERESIS_PERCENT));
        Self(self.0.clamp(nearest, farthest))
    }
}

/// A provider's place in the order: the least is the best.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Rank {
    owner: Owner,
    /// Whether it is on another desktop than the caller.
    away: bool,
    distance: Distance,
    /// Spreads callers over nodes that are equally good, and keeps each with one.
    spread: u64,
    node: NodeId,
    /// Those of one node, in the order in which they joined.
    joined: u64,
}

/// For whom a provider works.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Owner {
    /// For the caller's user.
    User,
    /// For another one, which only a service sees.
    Other,
    /// For all.
    Service,
}

fn owner(provider: Party<'_>, caller: Party<'_>) -> Owner {
    match (provider.service, provider.user == caller.user) {
        (true, _) => Owner::Service,
        (false, true) => Owner::User,
        (false, false) => Owner::Other,
    }
}

/// Returns whether a provider on the caller's own node comes before others there.
pub(crate) fn is_of_own_user(provider: Party<'_>, caller: Party<'_>) -> bool {
    owner(provider, caller) == Owner::User
}

impl Node {
    /// Returns the place of a provider on another node for a caller here. `joined` is the number of the
    /// write by which the provider's node told of it.
    pub(crate) fn rank(
        &self,
        caller: Party<'_>,
        caller_id: &Text,
        row: &RemoteInstance,
        joined: u64,
    ) -> Rank {
        let node = self.nodes.get(&row.node);
        let link = node.and_then(|node| node.link).and_then(|link| self.links.get(&link));
        Rank {
            owner: owner(row.party(), caller),
            // A node is called after its machine, so nodes of one name are on one desktop.
            away: node.is_none_or(|node| node.name != self.settings.name),
            distance: link.map(|link| link.distance).unwrap_or_default(),
            spread: spread(caller_id, row.node),
            node: row.node,
            joined,
        }
    }
}

/// Mixes a caller and a node into a number (FNV-1a, with a last stir for its high bits).
fn spread(caller: &Text, node: NodeId) -> u64 {
    let bytes = caller.as_bytes().iter().chain(&node.0);
    let hash = bytes.fold(0xcbf2_9ce4_8422_2325u64, |hash, byte| {
        (hash ^ u64::from(*byte)).wrapping_mul(0x0000_0100_0000_01b3)
    });
    (hash ^ (hash >> 32)).wrapping_mul(0x9e37_79b9_7f4a_7c15)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_distance_changes_only_well_beyond_its_bound() {
        let mut at = Distance::default();
        let mut seen = Vec::new();
        for rtt_us in [500, 2_300, 2_400, 1_700, 1_599, 9_000, 12_000, 60_000, 45_000, 100] {
            at = at.after(rtt_us);
            seen.push(at.0);
        }
        assert_eq!(seen, [0, 0, 1, 1, 0, 1, 2, 3, 3, 0]);
    }

    #[test]
    fn callers_spread_over_nodes_that_are_equally_good() {
        let nodes = [1, 2, 3].map(|number| NodeId([number; 16]));
        let mut callers = [0; 3];
        for number in 0..300 {
            let caller = Text::from(format!("p-{number:020x}"));
            let best = (0..3).min_by_key(|at| spread(&caller, nodes[*at])).unwrap();
            callers[best] += 1;
        }
        assert!(callers.iter().all(|count| *count > 60), "{callers:?}");
    }
}
