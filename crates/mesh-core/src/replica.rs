//! The one replication algorithm: registry and contexts as dotted entries.
//!
//! A replica maps keys to entries; an entry keeps the *dot* of the write that made it. A version
//! vector says up to where the writes of each origin are covered, that is: here, or replaced by
//! something that is here. Neighbours exchange their vectors, then batches of what the other's vector
//! does not cover. A batch is staged and takes effect whole: entries and vector together, since a
//! vector taken over entry by entry would claim what a newer write had already replaced.
//!
//! The merge is a maximum per key, so the path a write takes does not matter and loops do no harm.
//! Keys below each other in a context's content hide each other by the rules of
//! [`content`](crate::content); what is hidden for good is dropped at once.
//!
//! Invariant: for every write that `vector` covers, the entry, or one that replaced or hides it, is in
//! `entries`, or its tombstone was dropped and `floor` covers it.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Bound;

use bytes::Bytes;
use mesh_model::link::WireEntry;
use mesh_model::{Dot, Incarnation, NodeId, Origin, Stamp, VersionVector};

use crate::content::Write;
use crate::key;
use crate::vector::{End, Vector};

/// A write as it is kept.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Entry {
    pub(crate) stamp: Stamp,
    /// `None` is a tombstone: "nothing here as of that stamp".
    pub(crate) value: Option<Bytes>,
    /// When it arrived here, counted.
    pub(crate) arrival: u64,
    /// When it arrived here, in wall-clock milliseconds, for the age of tombstones.
    pub(crate) at_wall_ms: u64,
}

/// A node's copy of one domain.
#[derive(Clone, Debug, Default)]
pub(crate) struct Replica {
    entries: BTreeMap<Bytes, Entry>,
    /// The keys of `entries` in the order of arrival. One per entry.
    arrivals: BTreeMap<u64, Bytes>,
    vector: Vector,
    /// Covers every write whose tombstone was dropped.
    floor: Vector,
    hash: u64,
    bytes: usize,
    next_arrival: u64,
    #[cfg(test)]
    pub(crate) shares_no_more: bool,
}

/// What a merge changed.
#[derive(Clone, Debug, Default)]
pub(crate) struct Changes {
    /// Keys whose entry is another one now, gone, or turned from value to tombstone. May repeat.
    pub(crate) keys: Vec<Bytes>,
}

impl Replica {
    pub(crate) fn get(&self, key: &[u8]) -> Option<&Entry> {
        self.entries.get(key)
    }

    /// Returns all entries whose key begins with `prefix`, in key order.
    pub(crate) fn below<'a>(&'a self, prefix: &'a [u8]) -> impl Iterator<Item = (&'a Bytes, &'a Entry)> {
        self.entries
            .range::<[u8], _>((Bound::Included(prefix), Bound::Unbounded))
            .take_while(move |(key, _)| key.starts_with(prefix))
    }

    pub(crate) const fn vector(&self) -> &Vector {
        &self.vector
    }

    pub(crate) const fn floor(&self) -> &Vector {
        &self.floor
    }

    pub(crate) const fn hash(&self) -> u64 {
        self.hash
    }

    pub(crate) fn len(&self) -> usize {
        self.entries.len()
    }

    pub(crate) const fn bytes(&self) -> usize {
        self.bytes
    }

    /// Has what arrives next be counted from here on.
    pub(crate) fn arrive_from(&mut self, cursor: u64) {
        self.next_arrival = self.next_arrival.max(cursor);
    }

    /// Returns the highest arrival so far; entries that come later have higher ones.
    pub(crate) const fn cursor(&self) -> u64 {
        self.next_arrival
    }

    /// Returns whether there is an entry at, above or below a path of which `wanted` says so.
    pub(crate) fn any_around(&self, path: &[u8], wanted: impl Fn(&Entry) -> bool) -> bool {
        let above = ancestors(path).filter(|above| above.len() < path.len());
        let above = above.filter_map(|above| self.get(above));
        above.chain(self.below(path).map(|(_, entry)| entry)).any(wanted)
    }

    /// Returns the newest life known of a node.
    pub(crate) fn newest(&self, node: NodeId) -> Option<Incarnation> {
        self.vector.newest(node)
    }

    /// Takes one write, local or from a batch, if nothing here is newer.
    ///
    /// Does not touch the vector: a batch joins it once, when all its entries are in.
    pub(crate) fn merge(
        &mut self,
        key: &Bytes,
        stamp: Stamp,
        value: Option<Bytes>,
        wall_ms: u64,
        changes: &mut Changes,
    ) {
        if let Some(owner) = key::owner(key) {
            let stale = self.newest(owner).is_some_and(|newest| newest > stamp.dot.origin.incarnation);
            let older = self.get(key).is_some_and(|old| old.stamp.dot >= stamp.dot);
            let retired = self.retired(owner).is_some_and(|upto| stamp.dot <= upto);
            // A registration counts only while its node lives the life that made it.
            if stamp.dot.origin.node != owner || stale || older || retired {
                return;
            }
            self.put(key, stamp, value, wall_ms);
            changes.keys.push(key.clone());
            return;
        }
        if let Some(node) = key::retired_node(key) {
            self.merge_retirement(node, key, stamp, value, wall_ms, changes);
        } else if key.first() == Some(&b'P') {
            self.merge_content(key, stamp, value, wall_ms, changes);
        } else if self.get(key).is_none_or(|old| old.stamp < stamp) {
            self.put(key, stamp, value, wall_ms);
            changes.keys.push(key.clone());
        }
    }

    /// The rule for nodes that are gone for good: the furthest word counts, whoever wrote it and when, and
    /// drops what it covers, as a newer life does.
    fn merge_retirement(
        &mut self,
        node: NodeId,
        key: &Bytes,
        stamp: Stamp,
        value: Option<Bytes>,
        wall_ms: u64,
        changes: &mut Changes,
    ) {
        let upto = value.as_ref().and_then(|value| retired_upto(node, value));
        let stale = |upto: Dot| self.newest(node).is_some_and(|newest| newest > upto.origin.incarnation);
        let older = |old: &Entry| (&old.value, old.stamp) >= (&value, stamp);
        if upto.is_some_and(stale) || self.get(key).is_some_and(older) {
            return;
        }
        self.put(key, stamp, value, wall_ms);
        changes.keys.push(key.clone());
        if let Some(upto) = upto {
            self.drop_owned(node, |entry| entry.stamp.dot <= upto, changes);
        }
    }

    /// Returns up to which of its writes the registrations of a node are dropped, since it is gone for good.
    fn retired(&self, node: NodeId) -> Option<Dot> {
        let value = self.get(&key::retired(node))?.value.as_ref()?;
        retired_upto(node, value)
    }

    /// Returns the write that says that a node is gone for good, if anything of it is left here.
    pub(crate) fn retirement(&self, node: NodeId) -> Option<Write> {
        self.owned_by(node).next()?;
        let incarnation = self.newest(node)?;
        let seq = self.vector.get(&Origin { node, incarnation })?;
        let value = [incarnation.0.to_be_bytes(), seq.to_be_bytes()].concat();
        Some(Write { key: key::retired(node), value: Some(value.into()) })
    }

    /// Returns all that a node has registered, with what it has withdrawn.
    pub(crate) fn owned_by(&self, node: NodeId) -> impl Iterator<Item = (&Bytes, &Entry)> {
        let prefixes = key::OWNED.iter().map(move |kind| [&[*kind], &node.0[..]].concat());
        prefixes.flat_map(|prefix| {
            let end = prefix.clone();
            self.entries
                .range::<[u8], _>((Bound::Included(&prefix[..]), Bound::Unbounded))
                .take_while(move |(key, _)| key.starts_with(&end))
        })
    }

    /// The content rule: an entry hides older ones at its path and below, and turns an older plain
    /// value above it into an object.
    fn merge_content(
        &mut self,
        key: &Bytes,
        stamp: Stamp,
        mut value: Option<Bytes>,
        wall_ms: u64,
        changes: &mut Changes,
    ) {
        let mark = key.last() == Some(&key::MARK);
        let path = if mark { &key[..key.len() - 1] } else { &key[..] };
        if let Some(old) = self.entries.get_mut(key)
            && old.stamp >= stamp
        {
            // The same write where it has been turned into an object since, by one that was dropped.
            if old.stamp == stamp && value.is_none() && old.value.is_some() {
                self.hash ^= counted(key, old);
                self.bytes -= old.value.take().map_or(0, |value| value.len());
                changes.keys.push(key.clone());
            }
            return;
        }
        // Above, and for a mark at its own path: anything newer there replaced all below.
        let mut plain_above = Vec::new();
        for ancestor in ancestors(path) {
            let own = ancestor.len() == path.len();
            if own && !mark {
                continue;
            }
            if let Some(entry) = self.get(ancestor) {
                if entry.stamp > stamp {
                    return;
                }
                if entry.stamp < stamp && entry.value.as_ref().is_some_and(|v| v.first() != Some(&b'{')) {
                    plain_above.push(key.slice(..ancestor.len()));
                }
            }
        }
        for above in plain_above {
            if let Some(entry) = self.entries.get_mut(&above) {
                self.bytes -= entry.value.take().map_or(0, |v| v.len());
                self.hash ^= entry_hash(&above, entry.stamp.dot);
                changes.keys.push(above);
            }
        }
        if !mark {
            let older: Vec<Bytes> = self
                .below(path)
                .filter(|(below, entry)| below.len() > path.len() && entry.stamp < stamp)
                .map(|(below, _)| below.clone())
                .collect();
            for below in older {
                self.drop_entry(&below);
                changes.keys.push(below);
            }
            let plain = value.as_ref().is_some_and(|v| v.first() != Some(&b'{'));
            let newer_below = plain
                && self.below(path).any(|(below, entry)| below.len() > path.len() && entry.stamp > stamp);
            if newer_below {
                value = None;
            }
        }
        self.put(key, stamp, value, wall_ms);
        changes.keys.push(key.clone());
    }

    /// Joins a vector after the entries it covers are in, and forgets what dead lives registered.
    pub(crate) fn cover(&mut self, vector: &VersionVector, changes: &mut Changes) {
        for (origin, seq) in vector {
            let newer_life = self.newest(origin.node).is_none_or(|newest| newest < origin.incarnation);
            self.vector.raise(*origin, *seq);
            if newer_life {
                self.forget_older_lives(*origin, changes);
            }
        }
    }

    fn forget_older_lives(&mut self, origin: Origin, changes: &mut Changes) {
        self.drop_owned(origin.node, |e| e.stamp.dot.origin.incarnation < origin.incarnation, changes);
        if self.retired(origin.node).is_some_and(|upto| upto.origin < origin) {
            let key = key::retired(origin.node);
            self.drop_entry(&key);
            changes.keys.push(key);
        }
    }

    fn drop_owned(&mut self, node: NodeId, concerned: impl Fn(&Entry) -> bool, changes: &mut Changes) {
        let owned = self.owned_by(node).filter(|(_, entry)| concerned(entry));
        let dropped: Vec<Bytes> = owned.map(|(key, _)| key.clone()).collect();
        for key in dropped {
            self.drop_entry(&key);
            changes.keys.push(key);
        }
    }

    /// Covers one more write of this node.
    pub(crate) fn cover_own(&mut self, dot: Dot) {
        self.vector.raise(dot.origin, dot.seq);
    }

    /// Returns whether who covers this has seen all removals that are forgotten here.
    pub(crate) fn knows_the_forgotten(&self, vector: &Vector) -> bool {
        match vector.shares_with(&self.vector) {
            // What of the floor is shared is covered by what of the vector is.
            true => self.floor.unshared().iter().all(|(origin, seq)| vector.upto(origin) >= *seq),
            false => vector.covers_all(&self.floor),
        }
    }

    /// Puts aside the components of lives that are over, for others to share.
    pub(crate) fn put_aside(&mut self) {
        let is_over = |origin: &Origin| {
            let upto = self.vector.upto(origin);
            // Whatever is shared, nothing else may depend on it; tests share more, to see that.
            #[cfg(test)]
            if upto % 2 == 1 && !self.shares_no_more {
                return true;
            }
            let newer = self.vector.newest(origin.node).is_some_and(|newest| newest > origin.incarnation);
            newer || self.retired(origin.node).is_some_and(|last| last >= Dot { origin: *origin, seq: upto })
        };
        let over: BTreeSet<Origin> = self.vector.unshared().keys().copied().filter(is_over).collect();
        if self.vector.put_aside(|origin| over.contains(origin)) {
            self.floor = self.floor.whole().into();
            let covered = |origin: &Origin| self.vector.is_shared(origin, self.floor.upto(origin));
            let below: BTreeSet<Origin> = self.floor.unshared().keys().copied().filter(covered).collect();
            self.floor.put_aside(|origin| below.contains(origin));
        }
    }

    /// Returns entries that a vector does not cover, oldest write first.
    pub(crate) fn news_for(&self, vector: &Vector) -> Vec<WireEntry> {
        self.news_among(self.entries.iter(), vector)
    }

    /// Returns entries that arrived after `cursor` and that a vector does not cover, oldest write first.
    pub(crate) fn news_since(&self, cursor: u64, vector: &Vector) -> Vec<WireEntry> {
        let arrived = self.arrivals.range(cursor..).filter_map(|(_, key)| self.entries.get_key_value(key));
        self.news_among(arrived, vector)
    }

    /// Whole values come with the removals that hide parts of them, though the receiver covers those: it may
    /// have dropped them while it had nothing that they hid a part of.
    fn news_among<'a>(
        &self,
        entries: impl Iterator<Item = (&'a Bytes, &'a Entry)>,
        vector: &Vector,
    ) -> Vec<WireEntry> {
        let mut news = Vec::new();
        let mut hiding = BTreeMap::new();
        for (key, entry) in entries.filter(|(_, entry)| !vector.covers(entry.stamp.dot)) {
            news.push(wire(key, entry));
            let whole = entry.value.as_ref().is_some_and(|value| value.first() == Some(&b'{'));
            if whole && key.first() == Some(&b'P') {
                let below = self.below(key).filter(|(_, e)| e.value.is_none() && vector.covers(e.stamp.dot));
                hiding.extend(below);
            }
        }
        news.extend(hiding.into_iter().map(|(key, entry)| wire(key, entry)));
        news.sort_by_key(|entry| entry.dot);
        news
    }

    /// Drops tombstones that all of `vectors` cover and that are older than `before_wall_ms`.
    ///
    /// The newest of those of contexts stays: whoever takes a snapshot must learn how late it is by the
    /// stamps in it, or would write with a stamp that a tombstone elsewhere still hides.
    pub(crate) fn drop_tombstones<'a>(
        &mut self,
        vectors: impl Iterator<Item = &'a Vector> + Clone,
        before_wall_ms: u64,
    ) {
        let old: Vec<(Bytes, Stamp)> = self
            .entries
            .iter()
            .filter(|(_, e)| e.value.is_none() && e.at_wall_ms < before_wall_ms)
            .filter(|(_, e)| vectors.clone().all(|vector| vector.covers(e.stamp.dot)))
            // One with entries below it stands for an object; one below a whole value hides a part of it.
            .filter(|(key, _)| self.below(key).nth(1).is_none() && !self.hides_a_part(key))
            .map(|(key, e)| (key.clone(), e.stamp))
            .collect();
        let shared = old.iter().filter(|(key, _)| key::owner(key).is_none());
        let newest = shared.map(|(_, stamp)| *stamp).max();
        for (key, stamp) in old {
            if Some(stamp) == newest {
                continue;
            }
            self.drop_entry(&key);
            self.floor.raise(stamp.dot.origin, stamp.dot.seq);
        }
    }

    /// Returns whether a write is covered, but neither here nor replaced by what is here under its key.
    pub(crate) fn has_forgotten(&self, key: &[u8], dot: Dot) -> bool {
        self.vector.covers(dot) && self.get(key).is_none_or(|entry| entry.stamp.dot != dot)
    }

    /// Prepares for a snapshot of a replica whose dropped tombstones this one may have missed: drops
    /// what the sender's vector covers and the snapshot does not bring.
    ///
    /// What the sender has not covered stays and will be sent to it. So does what the present life of
    /// this node has registered: nobody knows that better, and nobody's snapshot may bring it back.
    pub(crate) fn reset_to(&mut self, own: Origin, snapshot: &[WireEntry], end: &End, changes: &mut Changes) {
        let brought: BTreeMap<&Bytes, Dot> = snapshot.iter().map(|entry| (&entry.key, entry.dot)).collect();
        let is_own = |key: &Bytes, e: &Entry| {
            e.stamp.dot.origin == own && key::owner(key).is_some_and(|owner| owner == own.node)
        };
        let covered: Vec<Bytes> = self
            .entries
            .iter()
            .filter(|(key, e)| end.vector.covers(e.stamp.dot) && !is_own(key, e))
            .filter(|(key, e)| brought.get(key) != Some(&e.stamp.dot))
            .map(|(key, _)| key.clone())
            .collect();
        for key in covered {
            self.drop_entry(&key);
            changes.keys.push(key);
        }
        self.floor.raise_all(&end.floor);
    }

    /// Checks that what is counted while things change is what a count from scratch gives.
    #[cfg(test)]
    pub(crate) fn check(&self) {
        let hash = self.entries.iter().fold(0, |hash, (key, entry)| hash ^ counted(key, entry));
        assert_eq!(self.hash, hash);
        let size = |(key, entry): (&Bytes, &Entry)| key.len() + entry.value.as_ref().map_or(0, Bytes::len);
        assert_eq!(self.bytes, self.entries.iter().map(size).sum::<usize>());
        let arrivals = self.entries.iter().map(|(key, entry)| (entry.arrival, key.clone()));
        assert_eq!(self.arrivals, arrivals.collect());
        assert!(self.entries.values().all(|entry| self.vector.covers(entry.stamp.dot)));
    }

    #[cfg(test)]
    pub(crate) fn arrived_since(&self, cursor: u64) -> impl Iterator<Item = &Bytes> {
        self.arrivals.range(cursor..).map(|(_, key)| key)
    }

    /// Returns whether a content key lies below a path that was written as one whole value.
    fn hides_a_part(&self, key: &[u8]) -> bool {
        key.first() == Some(&b'P')
            && ancestors(key)
                .any(|above| above.len() < key.len() && self.get(above).is_some_and(|e| e.value.is_some()))
    }

    fn put(&mut self, key: &Bytes, stamp: Stamp, value: Option<Bytes>, wall_ms: u64) {
        let arrival = self.next_arrival;
        self.next_arrival += 1;
        let size = key.len() + value.as_ref().map_or(0, Bytes::len);
        // A key or value that came in a frame must not keep the frame alive.
        let entry =
            Entry { stamp, value: value.map(|v| Bytes::copy_from_slice(&v)), arrival, at_wall_ms: wall_ms };
        let key = Bytes::copy_from_slice(key);
        self.hash ^= counted(&key, &entry);
        self.bytes += size;
        if let Some(old) = self.entries.insert(key.clone(), entry) {
            self.hash ^= counted(&key, &old);
            self.bytes -= key.len() + old.value.map_or(0, |v| v.len());
            self.arrivals.remove(&old.arrival);
        }
        self.arrivals.insert(arrival, key);
    }

    fn drop_entry(&mut self, key: &[u8]) {
        if let Some((key, old)) = self.entries.remove_entry(key) {
            self.hash ^= counted(&key, &old);
            self.bytes -= key.len() + old.value.map_or(0, |v| v.len());
            self.arrivals.remove(&old.arrival);
        }
    }
}

/// Reads up to which of its writes a node is retired.
pub(crate) fn retired_upto(node: NodeId, value: &[u8]) -> Option<Dot> {
    let (life, seq) = value.split_at_checked(8)?;
    let incarnation = Incarnation(u64::from_be_bytes(life.try_into().ok()?));
    Some(Dot { origin: Origin { node, incarnation }, seq: u64::from_be_bytes(seq.try_into().ok()?) })
}

/// Returns the paths at and above a content path, root first.
fn ancestors(path: &[u8]) -> impl Iterator<Item = &[u8]> {
    // The first two fields name the context; the root of its content ends there.
    path.iter().enumerate().filter(|(_, byte)| **byte == key::END).skip(1).map(|(at, _)| &path[..=at])
}

fn wire(key: &Bytes, entry: &Entry) -> WireEntry {
    WireEntry { key: key.clone(), dot: entry.stamp.dot, hlc: entry.stamp.hlc, value: entry.value.clone() }
}

/// Returns what an entry adds to the hash. A tombstone adds nothing: each replica drops its own when it
/// pleases, and two that differ only in that hold the same.
fn counted(key: &[u8], entry: &Entry) -> u64 {
    if entry.value.is_some() { entry_hash(key, entry.stamp.dot) } else { 0 }
}

/// Returns a hash over all that a vector covers, 0 if that is nothing.
pub(crate) fn hash_of(vector: &Vector) -> u64 {
    let components = vector.whole().into_iter();
    components.fold(0, |hash, (origin, seq)| hash ^ entry_hash(b"", Dot { origin, seq }))
}

/// Hashes (key, dot), so that the exclusive-or over all values tells two replicas apart.
fn entry_hash(key: &[u8], dot: Dot) -> u64 {
    let mut hash = 0xcbf2_9ce4_8422_2325_u64;
    let mut mix = |word: u64| {
        hash = (hash ^ word).wrapping_mul(0x9fb2_1c65_1e98_df25);
        hash ^= hash >> 32;
    };
    for chunk in key.chunks(8).chain(dot.origin.node.0.chunks(8)) {
        let mut word = [0u8; 8];
        word[..chunk.len()].copy_from_slice(chunk);
        mix(u64::from_le_bytes(word) ^ (chunk.len() as u64) << 56);
    }
    mix(dot.origin.incarnation.0);
    mix(dot.seq);
    hash
}

#[cfg(test)]
mod tests {
    use super::*;
    use mesh_model::{Hlc, Text};

    #[test]
    fn a_reset_leaves_what_this_life_registered_and_drops_what_the_sender_dropped() {
        let own = Origin { node: NodeId([1; 16]), incarnation: Incarnation(2) };
        let (mine, shared) = (key::instance(own.node, &Text::from("p-1")), Bytes::from_static(b"P\xffa\xff"));
        let mut replica = Replica::default();
        let mut changes = Changes::default();
        for (seq, key) in [(1, &mine), (2, &shared)] {
            let dot = Dot { origin: own, seq };
            let stamp = Stamp { hlc: Hlc(seq), dot };
            replica.merge(key, stamp, Some(Bytes::from_static(b"1")), 0, &mut changes);
            replica.cover_own(dot);
        }
        let end = End { vector: VersionVector::from([(own, 2)]).into(), ..End::default() };
        replica.reset_to(own, &[], &end, &mut changes);
        assert!(replica.get(&mine).is_some());
        assert!(replica.get(&shared).is_none());
    }

    #[test]
    fn a_dropped_tombstone_changes_no_hash() {
        let origin = Origin { node: NodeId([1; 16]), incarnation: Incarnation(1) };
        let mut replica = Replica::default();
        for (seq, key) in [(1, &b"P\xffa\xffb\xff"[..]), (2, b"P\xffa\xffc\xff")] {
            let dot = Dot { origin, seq };
            let stamp = Stamp { hlc: Hlc(seq), dot };
            replica.merge(&Bytes::from_static(key), stamp, None, 0, &mut Changes::default());
            replica.cover_own(dot);
        }
        let before = replica.hash();
        replica.drop_tombstones([].iter(), 1);
        assert_eq!((replica.len(), replica.hash()), (1, before), "the newest stays");
    }
}
