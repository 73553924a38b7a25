//! The acceptance checks that can be played in virtual time: each a story with delays and losses left to
//! a seed, and figures of what came of it.

mod calls;
mod places;
mod presence;
mod state;
mod streams;

use std::fmt;

/// Goes on only if something holds.
macro_rules! ensure {
    ($holds:expr, $($what:tt)+) => {
        if !$holds {
            return Err(format!($($what)+));
        }
    };
}
pub(crate) use ensure;

/// How much a check plays.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Scale {
    /// All of it.
    Full,
    /// As much as every change can wait for.
    Slice,
}

impl Scale {
    pub(crate) const fn of(self, full: u64, slice: u64) -> u64 {
        match self {
            Self::Full => full,
            Self::Slice => slice,
        }
    }
}

/// How a figure is taken over several seeds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Across {
    /// All of them together.
    Sum,
    /// The largest.
    Most,
    /// The smallest.
    Least,
}

/// What a check measured.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Figure {
    /// What it is, with its unit.
    pub name: &'static str,
    /// How it is taken over several seeds.
    pub across: Across,
    /// How much.
    pub value: u64,
}

impl Figure {
    /// Takes the same figure of another seed.
    pub fn take(&mut self, other: &Self) {
        self.value = match self.across {
            Across::Sum => self.value + other.value,
            Across::Most => self.value.max(other.value),
            Across::Least => self.value.min(other.value),
        };
    }
}

impl fmt::Display for Figure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let word = match self.across {
            Across::Sum => "",
            Across::Most => "at most ",
            Across::Least => "at least ",
        };
        write!(f, "{word}{} {}", self.value, self.name)
    }
}

pub(crate) const fn sum(name: &'static str, value: u64) -> Figure {
    Figure { name, across: Across::Sum, value }
}

pub(crate) const fn most(name: &'static str, value: u64) -> Figure {
    Figure { name, across: Across::Most, value }
}

pub(crate) const fn least(name: &'static str, value: u64) -> Figure {
    Figure { name, across: Across::Least, value }
}

/// What a check gives: its figures, or what did not hold.
pub type Outcome = Result<Vec<Figure>, String>;

/// A check.
#[derive(Clone, Copy, Debug)]
pub struct Check {
    /// Its name.
    pub name: &'static str,
    /// What it shows, in a sentence.
    pub about: &'static str,
    /// Plays it.
    pub play: fn(u64, Scale) -> Outcome,
}

const fn check(name: &'static str, about: &'static str, play: fn(u64, Scale) -> Outcome) -> Check {
    Check { name, about, play }
}

/// All of them.
pub const CHECKS: &[Check] = &[
    check(
        "concurrent-edits",
        "edits of different keys on five nodes at once all survive",
        state::concurrent_edits,
    ),
    check("same-key", "of two who write one key apart, one wins and the other is told", state::same_key),
    check(
        "path-conflicts",
        "edits apart that contradict each other end as if made in their order",
        state::path_conflicts,
    ),
    check("no-zombie", "what was removed stays so for who slept through it", state::no_zombie),
    check("cut-off-batches", "a batch cut off at any frame leaves survivors equal", state::cut_off_batches),
    check("lost-disk", "a node back on an empty disk with a wrong clock is believed", state::lost_disk),
    check("halves", "two halves work apart for ten minutes and are one again", state::halves),
    check(
        "one-way",
        "a link that carries one way only withdraws both ends, and no call hangs",
        presence::one_way,
    ),
    check("triangle", "two that cannot meet share state and calls by way of a third", presence::triangle),
    check("one-answer", "calls over links that flap end once each and run once at most", calls::one_answer),
    check(
        "honest-outcomes",
        "a call's outcome says what became of it when its callee's node is killed",
        calls::honest_outcomes,
    ),
    check("re-attach", "running calls outlive a break of all paths", calls::re_attach),
    check("fence", "a call that comes late, when another path was asked for it, does not run", calls::fence),
    check("tables", "calls end at their deadline, and nothing is left in any table", calls::tables),
    check("best", "of several providers the documented one is the best", places::best),
    check("fan-out", "a branch costs each link one copy, however many apps subscribe", streams::fan_out),
    check(
        "slow-consumer",
        "an app that stops reading loses its subscription, and the others nothing",
        streams::slow_consumer,
    ),
    check("causal-call", "who is called after an update never sees the old value", calls::causal_call),
    check("laptop", "a node that slept is whole again soon after it wakes", presence::laptop),
    check(
        "clones",
        "twenty nodes of one image get ids of their own, and links do not go to and fro",
        presence::clones,
    ),
    check(
        "suspicion",
        "loss makes nobody suspect a node, nor does a stalled one make others suspect each other",
        presence::suspicion,
    ),
    check("heal", "a large domain of two halves is one again, and at what cost", state::heal),
];
