//! What a run is like, and what it gave.

use crate::rng::Rng;

/// What one run is like. Made from a seed by [`Options::of`]; the same options give the same run.
#[derive(Clone, Debug)]
pub struct Options {
    /// Where all chance comes from.
    pub seed: u64,
    /// How many nodes.
    pub nodes: usize,
    /// How many applications may run at once on each.
    pub apps: usize,
    /// How long applications act, in virtual milliseconds.
    pub active_ms: u64,
    /// Whether links are cut, and dials fail for a while.
    pub cuts: bool,
    /// Whether nodes crash, lose their state, and start anew.
    pub crashes: bool,
    /// Whether nodes stop for a while.
    pub stalls: bool,
    /// Whether both ends dial.
    pub double_dials: bool,
    /// Whether two of three or more nodes never have a link.
    pub missing_link: bool,
    /// Whether two of three or more nodes have no link until half of the run is over.
    pub late_link: bool,
    /// Whether nodes relay for each other.
    pub relay: bool,
    /// Whether tombstones are dropped while the run lasts.
    pub tombstones: bool,
    /// Whether wall clocks jump, forward and back, by up to 30 s.
    pub clocks: bool,
    /// Whether connections stop carrying in one of their directions.
    pub one_way: bool,
    /// Whether nodes crash while they send or receive a batch.
    pub batch_crashes: bool,
    /// Whether there are many more faults, of all kinds that the run has.
    pub storm: bool,
    /// Whether nodes leave on purpose, and start anew.
    pub leaves: bool,
    /// Whether applications at times do not take what they are asked to run.
    pub overloads: bool,
    /// Whether nodes crash and come back with an earlier copy of their disk, at times with a clock so far
    /// behind that their life is older than ones before.
    pub old_disks: bool,
    /// Whether two lives of one node run at once.
    pub twins: bool,
    /// Whether applications at times read a subscription too slowly.
    pub slow_readers: bool,
}

impl Options {
    /// Makes the options of a seed.
    #[must_use]
    pub fn of(seed: u64) -> Self {
        let mut rng = Rng::new(seed ^ 0x5eed);
        let faults = rng.chance(75);
        let mut more = Rng::new(seed ^ 0xfa17);
        let mut rare = Rng::new(seed ^ 0xd15c);
        let relay = Rng::new(seed ^ 0x4e1a).chance(80);
        let nodes = 2 + usize::from(rng.chance(60)) + usize::from(rng.chance(30));
        Self {
            seed,
            nodes,
            apps: if rng.chance(50) { 2 } else { 3 },
            active_ms: rng.range(3_000, 14_000),
            cuts: faults && rng.chance(75),
            crashes: faults && rng.chance(35),
            stalls: faults && rng.chance(35),
            double_dials: rng.chance(50),
            missing_link: nodes > 2 && rng.chance(15),
            late_link: nodes > 2 && Rng::new(seed ^ 0x1a7e).chance(15),
            relay,
            tombstones: rng.chance(40),
            clocks: faults && more.chance(25),
            one_way: faults && more.chance(25),
            batch_crashes: faults && more.chance(10),
            storm: faults && more.chance(15),
            leaves: faults && more.chance(10),
            overloads: more.chance(15),
            old_disks: faults && rare.chance(10),
            twins: faults && rare.chance(10),
            slow_readers: rare.chance(15),
        }
    }

    /// Turns one option on or off, by the name of its field; returns whether there is one of that name.
    pub fn switch(&mut self, name: &str, on: bool) -> bool {
        let switch = match name {
            "cuts" => &mut self.cuts,
            "crashes" => &mut self.crashes,
            "stalls" => &mut self.stalls,
            "double_dials" => &mut self.double_dials,
            "missing_link" => {
                self.nodes = if on { self.nodes.max(3) } else { self.nodes };
                &mut self.missing_link
            }
            "late_link" => {
                self.nodes = if on { self.nodes.max(3) } else { self.nodes };
                &mut self.late_link
            }
            "relay" => &mut self.relay,
            "tombstones" => &mut self.tombstones,
            "clocks" => &mut self.clocks,
            "one_way" => &mut self.one_way,
            "batch_crashes" => &mut self.batch_crashes,
            "storm" => &mut self.storm,
            "leaves" => &mut self.leaves,
            "overloads" => &mut self.overloads,
            "old_disks" => &mut self.old_disks,
            "twins" => &mut self.twins,
            "slow_readers" => &mut self.slow_readers,
            _ => return false,
        };
        *switch = on;
        true
    }

    /// Returns whether nodes may end without a word.
    pub(crate) const fn crashing(&self) -> bool {
        self.crashes || self.batch_crashes || self.leaves || self.old_disks || self.twins
    }

    /// Returns whether a link ends only when another takes its place.
    pub(crate) const fn keeps_links(&self) -> bool {
        !(self.cuts || self.one_way || self.stalls || self.crashing())
    }

    pub(crate) const fn faultless(&self) -> bool {
        !(self.cuts
            || self.crashes
            || self.stalls
            || self.double_dials
            || self.late_link
            || self.one_way
            || self.batch_crashes
            || self.leaves
            || self.old_disks
            || self.twins)
    }
}

/// What a run gave.
#[derive(Clone, Debug)]
pub struct Report {
    /// What was played.
    pub options: Options,
    /// A hash of all that happened, in order.
    pub trace: u64,
    /// What was wrong; empty when all held.
    pub violations: Vec<String>,
    /// Faults that were injected.
    pub faults: u64,
    /// Frames delivered between nodes.
    pub frames: u64,
    /// Calls made, and how many of them were answered with a result.
    pub calls: (u64, u64),
    /// How many of them certainly never came to their callee, and how many may have.
    pub lost: [u64; 2],
    /// Stream data, context changes and publications that applications got.
    pub received: [u64; 3],
}
