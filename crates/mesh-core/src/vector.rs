//! What a node has covered, as it is kept in memory.
//!
//! A version vector has a component for each life of each node that ever wrote, for good: a write of a life
//! that is over may still come from a node that was away, and only its number tells whether it is known. A node
//! keeps such a vector of its own and several for each link, and looks at them with each batch. They differ in
//! what was written just now, and agree on the lives that are over, of which there are more each day. So that
//! part is one map, which all of them hold by reference: where two hold the same, it is neither compared nor
//! copied.

use std::sync::Arc;

use mesh_model::{Dot, Incarnation, NodeId, Origin, VersionVector};

/// How many components a vector may keep for itself, or a message bring, before they are shared at once and not with
/// the next digest.
pub(crate) const UNSHARED_MAX: usize = 32;

/// A version vector, a part of which may be shared with others.
#[derive(Clone, Debug, Default)]
pub(crate) struct Vector {
    shared: Arc<VersionVector>,
    /// What the shared part does not have, or not as high.
    own: VersionVector,
}

/// The end of a batch: with it, this is what its sender has covered.
#[derive(Clone, Debug, Default)]
pub(crate) struct End {
    pub(crate) vector: Vector,
    /// See [`BatchEnd`](mesh_model::link::BatchEnd).
    pub(crate) floor: VersionVector,
    pub(crate) answer: bool,
}

impl Vector {
    pub(crate) fn get(&self, origin: &Origin) -> Option<u64> {
        self.own.get(origin).or_else(|| self.shared.get(origin)).copied()
    }

    /// Returns up to which of its writes a life is covered, 0 if none is.
    pub(crate) fn upto(&self, origin: &Origin) -> u64 {
        self.get(origin).unwrap_or(0)
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.own.is_empty() && self.shared.is_empty()
    }

    pub(crate) fn covers(&self, dot: Dot) -> bool {
        self.get(&dot.origin).is_some_and(|seq| seq >= dot.seq)
    }

    /// Returns whether this covers all that another does.
    pub(crate) fn covers_all(&self, other: &Self) -> bool {
        let covered = |(origin, seq): (&Origin, &u64)| self.get(origin).is_some_and(|own| own >= *seq);
        other.own.iter().all(covered) && (self.shares_with(other) || other.shared.iter().all(covered))
    }

    /// Returns whether both hold the same shared part.
    pub(crate) fn shares_with(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.shared, &other.shared)
    }

    /// Covers the writes of a life up to one.
    pub(crate) fn raise(&mut self, origin: Origin, seq: u64) {
        if self.get(&origin).is_none_or(|covered| covered < seq) {
            self.own.insert(origin, seq);
        }
    }

    pub(crate) fn raise_all(&mut self, news: &VersionVector) {
        for (origin, seq) in news {
            self.raise(*origin, *seq);
        }
    }

    /// Returns this with what a message says.
    pub(crate) fn raised(mut self, news: &VersionVector) -> Self {
        self.raise_all(news);
        self
    }

    /// Covers what a message says; if that is much, shares it with a vector that may know it already.
    pub(crate) fn learn(&mut self, news: &VersionVector, like: &Self) {
        self.raise_all(news);
        if news.len() > UNSHARED_MAX {
            self.share(like);
        }
    }

    /// Covers what another covers too.
    pub(crate) fn join(&mut self, other: &Self) {
        if self.is_empty() {
            self.clone_from(other);
            return;
        }
        if !self.shares_with(other) {
            self.raise_all(&other.shared);
            if other.shared.len() > self.shared.len() {
                self.share(other);
            }
        }
        self.raise_all(&other.own);
    }

    /// Returns the part of this that another does not cover.
    pub(crate) fn beyond(&self, other: &Self) -> VersionVector {
        let is_new =
            |(origin, seq): &(&Origin, &u64)| other.get(origin).is_none_or(|covered| covered < **seq);
        let mut news: VersionVector = self.own.iter().filter(is_new).map(|(o, seq)| (*o, *seq)).collect();
        if !self.shares_with(other) {
            for (origin, seq) in self.shared.iter().filter(is_new) {
                news.entry(*origin).or_insert(*seq);
            }
        }
        news
    }

    /// Returns where another is lower, with 0 where it has nothing.
    pub(crate) fn lowered(&self, other: &Self) -> VersionVector {
        self.beyond(other).into_keys().map(|origin| (origin, other.upto(&origin))).collect()
    }

    /// Returns this, but lower where `lowered` says so.
    pub(crate) fn lower(mut self, lowered: &VersionVector) -> Self {
        if lowered.keys().any(|origin| self.shared.contains_key(origin)) {
            self = self.whole().into();
        }
        for (origin, seq) in lowered {
            match seq {
                0 => drop(self.own.remove(origin)),
                _ => drop(self.own.insert(*origin, *seq)),
            }
        }
        self
    }

    /// Returns the newest life of a node that this covers something of.
    pub(crate) fn newest(&self, node: NodeId) -> Option<Incarnation> {
        let first = Origin { node, incarnation: Incarnation(0) };
        let last = Origin { node, incarnation: Incarnation(u64::MAX) };
        let newest = |part: &VersionVector| part.range(first..=last).next_back().map(|(o, _)| o.incarnation);
        newest(&self.own).max(newest(&self.shared))
    }

    /// Returns what may be shared of it, alone.
    pub(crate) fn shared(&self) -> Self {
        Self { shared: Arc::clone(&self.shared), own: VersionVector::new() }
    }

    pub(crate) fn whole(&self) -> VersionVector {
        let mut whole = VersionVector::clone(&self.shared);
        whole.extend(self.own.iter().map(|(origin, seq)| (*origin, *seq)));
        whole
    }

    /// Adds components of one's own that `belongs` names to the shared part. Returns whether there are any.
    pub(crate) fn put_aside(&mut self, belongs: impl Fn(&Origin) -> bool) -> bool {
        let (aside, own) = std::mem::take(&mut self.own).into_iter().partition(|(origin, _)| belongs(origin));
        let aside: VersionVector = aside;
        self.own = own;
        let any = !aside.is_empty();
        if any {
            let mut shared = VersionVector::clone(&self.shared);
            shared.extend(aside);
            self.shared = Arc::new(shared);
        }
        any
    }

    /// Holds the shared part of another as its own, if it covers that.
    pub(crate) fn share(&mut self, other: &Self) {
        let covered = |(origin, seq): (&Origin, &u64)| self.get(origin).is_some_and(|own| own >= *seq);
        if self.shares_with(other) || !other.shared.iter().all(covered) {
            return;
        }
        let mut own = self.whole();
        own.retain(|origin, seq| other.shared.get(origin).is_none_or(|shared| *shared < *seq));
        *self = Self { shared: Arc::clone(&other.shared), own };
    }

    /// Returns whether the shared part covers the writes of a life up to one.
    pub(crate) fn is_shared(&self, origin: &Origin, upto: u64) -> bool {
        self.shared.get(origin).is_some_and(|seq| *seq >= upto)
    }

    /// Returns the components that are not in the shared part.
    pub(crate) const fn unshared(&self) -> &VersionVector {
        &self.own
    }
}

impl From<VersionVector> for Vector {
    fn from(own: VersionVector) -> Self {
        Self { shared: Arc::default(), own }
    }
}

/// Two are equal that cover the same, whatever they share.
impl PartialEq for Vector {
    fn eq(&self, other: &Self) -> bool {
        match self.shares_with(other) {
            true => self.own == other.own,
            false => self.covers_all(other) && other.covers_all(self),
        }
    }
}

impl Eq for Vector {}

#[cfg(test)]
impl std::hash::Hash for Vector {
    fn hash<H: std::hash::Hasher>(&self, state: &mut H) {
        self.whole().hash(state);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tests::merge::generator;

    fn origin(number: usize) -> Origin {
        let (node, life) = (number % 3, number / 3);
        Origin { node: NodeId([node as u8; 16]), incarnation: Incarnation(life as u64) }
    }

    fn covers_all(vector: &VersionVector, other: &VersionVector) -> bool {
        other.iter().all(|(origin, seq)| vector.get(origin).is_some_and(|covered| covered >= seq))
    }

    fn beyond(vector: &VersionVector, other: &VersionVector) -> VersionVector {
        let is_new = |(origin, seq): &(&Origin, &u64)| other.get(origin).is_none_or(|covered| covered < seq);
        vector.iter().filter(is_new).map(|(origin, seq)| (*origin, *seq)).collect()
    }

    /// Whatever is put aside and shared, vectors are what plain maps are.
    #[test]
    fn sharing_changes_nothing() {
        for seed in 0..300 {
            let mut random = generator(seed);
            let mut vectors: Vec<(Vector, VersionVector)> = vec![Default::default(); 4];
            for _ in 0..200 {
                let (at, from) = (random(4), random(4));
                let (other, plain) = vectors[from].clone();
                let (vector, model) = &mut vectors[at];
                match random(7) {
                    0 | 1 => {
                        let (origin, seq) = (origin(random(12)), random(9) as u64 + 1);
                        vector.raise(origin, seq);
                        let covered = model.entry(origin).or_insert(seq);
                        *covered = seq.max(*covered);
                    }
                    2 => {
                        vector.join(&other);
                        for (origin, seq) in plain.clone() {
                            let covered = model.entry(origin).or_insert(seq);
                            *covered = seq.max(*covered);
                        }
                    }
                    3 => drop(vector.put_aside(|origin| origin.incarnation.0 % 2 == 0)),
                    4 => drop(vector.put_aside(|_| true)),
                    5 => vector.share(&other),
                    // What a digest says of a third one, as the one who hears it puts it together.
                    _ => {
                        vector.join(&other);
                        for (origin, seq) in plain.clone() {
                            let covered = model.entry(origin).or_insert(seq);
                            *covered = seq.max(*covered);
                        }
                        let lowered = vector.lowered(&other);
                        assert_eq!(vector.clone().lower(&lowered), other);
                    }
                }
                for (vector, model) in &vectors {
                    assert_eq!(vector.whole(), *model);
                    for (other, plain) in &vectors {
                        assert_eq!(vector == other, model == plain);
                        assert_eq!(vector.covers_all(other), covers_all(model, plain));
                        assert_eq!(vector.beyond(other), beyond(model, plain));
                    }
                    for number in 0..12 {
                        assert_eq!(vector.get(&origin(number)), model.get(&origin(number)).copied());
                    }
                    for node in 0..3 {
                        let node = NodeId([node; 16]);
                        let newest = model.keys().filter(|o| o.node == node).map(|o| o.incarnation).max();
                        assert_eq!(vector.newest(node), newest);
                    }
                }
            }
        }
    }
}
