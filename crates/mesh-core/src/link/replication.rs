//! Batches of the domain's entries over links, and how the nodes know what each has covered.

use std::collections::{BTreeMap, BTreeSet};

use bytes::Bytes;
use mesh_model::link::{BatchEnd, Heard, LinkMessage, WireEntry, reject};
use mesh_model::{Cause, DomainId, Hlc, Lane, LinkId, NodeId, Origin, Stamp, Tick, VersionVector};

use super::State;
use crate::content::{Step, Write};
use crate::key::{self, ContextKey, Subject};
use crate::node::Node;
use crate::registry::RemoteNode;
use crate::replica::Changes;
use crate::vector::{End, UNSHARED_MAX, Vector};
use crate::{Notice, Output};

/// Bytes of batches that may be on their way over one link before more are made.
const BATCH_WINDOW_BYTES: usize = 1 << 20;
/// About how large a part of a batch is. Small in tests, so that their batches have several.
const BATCH_PART_BYTES: usize = if cfg!(test) { 512 } else { 64 << 10 };

/// How many times the bounds of a domain other nodes may fill: what is within them on two nodes that
/// were apart has to fit when they meet.
const APART: usize = 2;
/// How many digests it may take until a word has gone round.
pub(super) const DIGESTS_HEARD: u64 = 4;
/// Messages of the lane of batches that may come before the message which they go on from.
const EARLY_MAX: usize = 8_192;
/// Reasons that are kept until what they are about is withdrawn.
const WHYS_MAX: usize = 1_024;

impl Node {
    /// Tells the other nodes why an entry that is withdrawn now is; before the withdrawal itself, in the
    /// same lane.
    pub(crate) fn tell_why(&mut self, key: &Bytes, cause: &Cause) {
        let opened = self.links.iter().filter(|(_, link)| link.is_open());
        let links: Vec<LinkId> = opened.map(|(id, _)| *id).collect();
        for link in links {
            let message = LinkMessage::Why { key: key.clone(), cause: cause.clone() };
            self.emit(Output::Link { link, lane: Lane::Replication, message });
        }
    }

    /// Notes why a neighbour is about to withdraw an entry. Without a note the usual reason is given.
    pub(super) fn note_why(&mut self, peer: NodeId, key: Bytes, cause: Cause) {
        let foreign = key::owner(&key).is_some_and(|owner| owner != peer);
        if !foreign && self.whys.len() < WHYS_MAX {
            self.whys.insert((peer, key), cause);
        }
    }

    /// Returns why an entry was withdrawn, if its node or any neighbour has said so.
    pub(crate) fn why(&mut self, key: &Bytes) -> Option<Cause> {
        let noted = self.whys.keys().find(|(_, known)| known == key).cloned()?;
        self.whys.remove(&noted)
    }

    pub(super) fn domain_opened(
        &mut self,
        link: LinkId,
        domain: DomainId,
        vector: VersionVector,
        without_over: bool,
        hash: u64,
        awaits_another: bool,
    ) {
        if domain != self.settings.domain {
            return self.close_link(link, reject::PROTOCOL, "that domain is not this node's");
        }
        let Some(known) = self.links.get_mut(&link) else { return };
        // Both ends have opened now, and need it no more.
        let over = std::mem::take(&mut known.over);
        let mut vector = match (without_over, over.agreed()) {
            (false, _) => Vector::from(vector),
            (true, Some(agreed)) => agreed.clone().raised(&vector),
            (true, None) => {
                let why = "`DOMAIN_OPEN` leaves out lives of which the two nodes have not said the same";
                return self.close_link(link, reject::PROTOCOL, why);
            }
        };
        let written = vector.upto(&known.origin());
        if let Some(via) = &mut known.via {
            via.awaits = Some(written);
            return self.show_relayed();
        }
        vector.share(self.replica.vector());
        known.heard_vector = vector.clone();
        known.vector = Some(vector.clone());
        known.cursor = 0;
        known.dirty = true;
        let (peer, early) = (known.peer, std::mem::take(&mut known.early));
        self.compare(link, &vector, hash);
        match awaits_another {
            true => self.keep_first(link),
            // Even when there is nothing to say, an empty batch says so: only then are the applications
            // of this node shown over there.
            false => self.send_batch(link, true),
        }
        for message in early {
            self.message(link, Lane::Replication, peer, message);
        }
    }

    /// Keeps what goes on from a `DomainOpen` that it has overtaken.
    pub(super) fn keep_early(&mut self, link: LinkId, message: LinkMessage) {
        let max = self.settings.limits.batch_bytes_max;
        let Some(known) = self.links.get_mut(&link) else { return };
        known.early.push(message);
        let entries = known.early.iter().map(|message| match message {
            LinkMessage::Batch { entries, .. } => bytes_of(entries),
            _ => 0,
        });
        if entries.sum::<usize>() > max || known.early.len() > EARLY_MAX {
            let why = "more batches came before `DOMAIN_OPEN` than the limit batch_bytes_max allows";
            self.close_link(link, reject::PROTOCOL, why);
        }
    }

    /// Equal vectors mean equal replicas. If not, something is wrong with this program: it is counted,
    /// and everything is sent again, which brings the two together whatever the cause was.
    pub(super) fn compare(&mut self, link: LinkId, vector: &Vector, hash: u64) {
        if vector != self.replica.vector() || hash == self.replica.hash() {
            return;
        }
        self.divergences += 1;
        let count = self.divergences;
        let Some(known) = self.links.get_mut(&link) else { return };
        known.vector = Some(Vector::default());
        known.cursor = 0;
        known.dirty = true;
        let node = known.peer;
        self.notice(Notice::Divergence { node, count });
    }

    pub(crate) fn flush_links(&mut self) {
        let due: Vec<LinkId> = self.links.iter().filter(|(_, link)| link.dirty).map(|(id, _)| *id).collect();
        for link in due {
            self.flush_link(link);
        }
    }

    /// Sends what the other side lacks, if the link can take it. While it cannot, nothing is queued: a
    /// later batch carries the newest values only.
    pub(crate) fn flush_link(&mut self, link: LinkId) {
        let Some(known) = self.links.get(&link) else { return };
        if let Some(via) = known.via {
            // What was written before comes that way.
            return self.flush_link(via.carrier);
        }
        if known.dirty
            && known.state == State::Up
            && known.vector.is_some()
            && known.in_flight < BATCH_WINDOW_BYTES
            && !self.holds_back(link)
        {
            self.send_batch(link, false);
        }
    }

    pub(super) fn send_batch(&mut self, link: LinkId, even_if_empty: bool) {
        let Some(known) = self.links.get_mut(&link) else { return };
        known.dirty = false;
        let Some(covered) = &mut known.vector else { return };
        // Tombstones that the other side has not seen are gone here: only a snapshot, which replaces what
        // it has, can tell it. This node may have learnt of that itself by a snapshot just now.
        let reset = !self.replica.knows_the_forgotten(covered);
        if reset {
            *covered = Vector::default();
            known.cursor = 0;
        }
        let entries = match known.cursor {
            0 => self.replica.news_for(covered),
            cursor => self.replica.news_since(cursor, covered),
        };
        // Even if nothing is sent: a node that only listens must not look through all it has each time.
        known.cursor = self.replica.cursor();
        let vector = self.replica.vector();
        if entries.is_empty() && !even_if_empty && covered.covers_all(vector) {
            return;
        }
        covered.join(vector);
        known.restraint.sent(vector);
        let answer = std::mem::take(&mut known.answers);
        let news = vector.beyond(&known.said_vector);
        known.said_vector.clone_from(vector);
        let floor = if reset { self.replica.floor().whole() } else { VersionVector::new() };
        let end = BatchEnd { vector: news, floor, answer };
        let mut parts: Vec<Vec<WireEntry>> = vec![Vec::new()];
        let mut bytes = 0;
        for entry in entries {
            let size = entry.key.len() + entry.value.as_ref().map_or(0, Bytes::len) + 64;
            known.in_flight += size;
            if bytes + size > BATCH_PART_BYTES && bytes > 0 {
                parts.push(Vec::new());
                bytes = 0;
            }
            bytes += size;
            if let Some(part) = parts.last_mut() {
                part.push(entry);
            }
        }
        let domain = self.settings.domain;
        let last = parts.pop().unwrap_or_default();
        for entries in parts {
            let message = LinkMessage::Batch { domain, entries, end: None, reset };
            self.emit(Output::Link { link, lane: Lane::Replication, message });
        }
        let message = LinkMessage::Batch { domain, entries: last, end: Some(end), reset };
        self.emit(Output::Link { link, lane: Lane::Replication, message });
    }

    pub(crate) fn link_drained(&mut self, link: LinkId) {
        if let Some(known) = self.links.get_mut(&link) {
            known.in_flight = 0;
        }
    }

    pub(super) fn batch_part(
        &mut self,
        link: LinkId,
        domain: DomainId,
        entries: Vec<WireEntry>,
        end: Option<BatchEnd>,
        reset: bool,
    ) {
        let max = self.settings.limits.batch_bytes_max;
        let Some(known) = self.links.get_mut(&link) else { return };
        if domain != self.settings.domain {
            return self.close_link(link, reject::PROTOCOL, "that domain is not this node's");
        }
        known.stage_bytes += bytes_of(&entries);
        known.stage_reset |= reset;
        if known.stage_bytes > max {
            return self.close_link(
                link,
                reject::PROTOCOL,
                "a batch is larger than the limit batch_bytes_max",
            );
        }
        known.stage.extend(entries);
        let Some(end) = end else { return };
        // Whatever becomes of the batch, the next one goes on from what this one says.
        known.heard_vector.learn(&end.vector, self.replica.vector());
        let end = End { vector: known.heard_vector.clone(), floor: end.floor, answer: end.answer };
        self.whole_batch(link, &end);
        self.batch_came(link, &end.vector);
    }

    fn whole_batch(&mut self, link: LinkId, end: &End) {
        let Some(known) = self.links.get_mut(&link) else { return };
        let stage = std::mem::take(&mut known.stage);
        known.stage_bytes = 0;
        let reset = std::mem::take(&mut known.stage_reset);
        let known_peer = known.peer;
        if let Err((limit, why)) = self.check_batch(&stage) {
            let node = known_peer;
            self.notice(Notice::BatchRefused { node, limit, why: why.as_str().into() });
            return self.close_link(link, reject::PROTOCOL, &why);
        }
        let Some(known) = self.links.get_mut(&link) else { return };
        let behind = !self.replica.knows_the_forgotten(&end.vector);
        let shared = stage.iter().any(|entry| key::owner(&entry.key).is_none());
        let goes_on = known.refused && !end.answer;
        known.refused = !reset && (goes_on || behind && shared);
        if known.refused {
            // It has missed removals that are forgotten here, and what it writes may be older than they
            // are. It is sent a snapshot, whatever it was thought to cover, and answers with all that is
            // not in there. What it sends before that goes on from what was refused, even if it has caught
            // up over another link meanwhile.
            if !goes_on {
                (known.vector, known.cursor, known.dirty) = (Some(Vector::default()), 0, true);
            }
            return;
        }
        match &mut known.vector {
            // What it had not taken when it made its snapshot was of no use to it.
            covered if reset => {
                (*covered, known.cursor) = (Some(end.vector.clone()), 0);
                known.answers = true;
            }
            Some(covered) => covered.join(&end.vector),
            None => {}
        }
        let origin = known.origin();
        let peer = known.peer;
        // Of what this node wrote, what the batch brings may come of as much as its sender had covered.
        let covered = end.vector.upto(&self.origin());
        self.comes_of(covered);
        self.take_batch(peer, stage, end, reset);
        self.node_said(origin, 0, &end.vector);
        if reset {
            self.send_batch(link, true);
        }
        if self.link_to(peer) == Some(link) {
            self.show_node(peer);
            if let Some(known) = self.links.get_mut(&link) {
                known.held.since = self.now.tick;
            }
        }
        self.show_relayed();
        // What came over another link may have waited for writes that this one brought.
        let waiting: Vec<LinkId> =
            self.links.iter().filter(|(_, link)| !link.held.is_empty()).map(|(id, _)| *id).collect();
        for link in waiting {
            self.release_held(link, None);
        }
    }

    /// Returns the limit that a batch breaks, and what to do. It is refused whole: a vector must not cover
    /// what was left out.
    fn check_batch(&self, entries: &[WireEntry]) -> Result<(), (&'static str, String)> {
        let limits = &self.settings.limits;
        let latest = self.now.wall_ms.saturating_add(limits.clock_skew_ms_max).min(u64::MAX >> 16);
        if let Some(ahead) =
            entries.iter().map(|entry| entry.hlc).max().filter(|hlc| *hlc > Hlc::from_wall_ms(latest))
        {
            let ahead = (ahead.0 - Hlc::from_wall_ms(self.now.wall_ms).0) / Hlc::from_wall_ms(1).0;
            let why = format!(
                "it is stamped {ahead} ms after this node's time, and the limit clock_skew_ms_max is {}; set both clocks and start the node that was ahead again",
                limits.clock_skew_ms_max
            );
            return Err(("clock_skew_ms_max", why));
        }
        let new: Vec<&WireEntry> =
            entries.iter().filter(|entry| self.replica.get(&entry.key).is_none()).collect();
        let count = self.replica.len() + new.len();
        if count > limits.domain_entries_max.saturating_mul(APART) {
            let why = format!(
                "with it the domain had {count} entries, more than {APART} times the limit domain_entries_max of {}; raise it, or remove contexts and registrations",
                limits.domain_entries_max
            );
            return Err(("domain_entries_max", why));
        }
        let size = |entry: &WireEntry| entry.key.len() + entry.value.as_ref().map_or(0, Bytes::len);
        let bytes = self.replica.bytes() + entries.iter().map(size).sum::<usize>();
        if !entries.is_empty() && bytes > limits.domain_bytes_max.saturating_mul(APART) {
            let why = format!(
                "with it the domain might have {bytes} bytes, more than {APART} times the limit domain_bytes_max of {}; raise it, or remove contexts and registrations",
                limits.domain_bytes_max
            );
            return Err(("domain_bytes_max", why));
        }
        Ok(())
    }

    /// Notes what a node has covered, by its own word or another's. It counts once this node has covered
    /// it too: then every write of that node which this one lacks was made after it knew of all these.
    pub(super) fn node_said(&mut self, origin: Origin, age_ms: u64, vector: &Vector) {
        let covered = self.replica.vector().covers_all(vector);
        let at = Tick(self.now.tick.0.saturating_sub(age_ms.saturating_mul(1000)));
        let Some(known) = self.nodes.get_mut(&origin.node) else { return };
        if known.said_in > origin.incarnation {
            return;
        }
        if known.said_in < origin.incarnation {
            known.said_in = origin.incarnation;
            known.said = Vector::default();
        }
        known.heard_at = known.heard_at.max(at);
        if covered {
            known.said.join(vector);
        }
    }

    /// Returns the nodes whose word is needed before a tombstone may go: all but those of which nobody
    /// has heard for long. Whoever returns after that is sent a snapshot.
    fn awaited(&self) -> impl Iterator<Item = (NodeId, &RemoteNode)> + Clone {
        let away_ms = self.away_ms();
        let now = self.now.tick;
        self.nodes
            .iter()
            .filter(move |(_, node)| {
                node.link.is_some() || now.since(node.heard_at) < away_ms.saturating_mul(1000)
            })
            .map(|(id, node)| (*id, node))
    }

    /// Returns how long nobody has heard of a node whose word is not needed any more.
    pub(super) fn away_ms(&self) -> u64 {
        let timing = self.settings.timing;
        // A word may travel over other nodes, and each passes it on with its next digest.
        timing.tombstone_ms.max(timing.digest_ms.saturating_mul(DIGESTS_HEARD))
    }

    pub(crate) fn drop_tombstones(&mut self) {
        let before = self.now.wall_ms.saturating_sub(self.settings.timing.tombstone_ms);
        // A new life has nothing of what the one before had covered.
        if self.awaited().any(|(_, node)| node.said_in < node.incarnation) {
            return;
        }
        let said: Vec<Vector> = self.awaited().map(|(_, node)| node.said.clone()).collect();
        self.replica.drop_tombstones(said.iter(), before);
    }

    /// Has all that is known of what others have covered share what it has in common with this node's own vector.
    fn share_vectors(&mut self) {
        self.replica.put_aside();
        let own = self.replica.vector();
        for link in self.links.values_mut() {
            let vectors = [&mut link.said_vector, &mut link.heard_vector].into_iter();
            for vector in vectors.chain(&mut link.vector).chain(link.restraint.vectors()) {
                vector.share(own);
            }
        }
        for node in self.nodes.values_mut() {
            node.said.share(own);
        }
    }

    /// The same between two digests, if there is much to share.
    pub(super) fn share_many(&mut self) {
        if self.replica.vector().unshared().len() > UNSHARED_MAX {
            self.share_vectors();
        }
    }

    pub(crate) fn send_digests(&mut self) {
        self.share_vectors();
        let opened = self.links.iter().filter(|(_, link)| link.vector.is_some());
        let opened: Vec<LinkId> = opened.map(|(id, _)| *id).collect();
        for link in opened {
            // In the order of the batches: what is compared is what they brought.
            self.flush_link(link);
            let peer = self.links.get(&link).map(|link| link.peer);
            let heard = self.awaited().filter(|(id, _)| Some(*id) != peer).map(|(id, node)| Heard {
                origin: Origin { node: id, incarnation: node.said_in },
                age_ms: self.now.tick.since(node.heard_at) / 1000,
                vector: self.replica.vector().lowered(&node.said),
            });
            let heard = heard.collect();
            let Some(known) = self.links.get_mut(&link) else { continue };
            let vector = self.replica.vector().beyond(&known.said_vector);
            known.said_vector.clone_from(self.replica.vector());
            let (domain, hash) = (self.settings.domain, self.replica.hash());
            let message = LinkMessage::Digest { domain, vector, hash, heard };
            self.emit(Output::Link { link, lane: Lane::Replication, message });
        }
    }

    /// Takes a neighbour's word of what it has covered, and others.
    pub(super) fn digest(&mut self, link: LinkId, news: &VersionVector, hash: u64, heard: &[Heard]) {
        let Some(known) = self.links.get_mut(&link) else { return };
        known.heard_vector.learn(news, self.replica.vector());
        let (origin, vector) = (known.origin(), known.heard_vector.clone());
        // A node that has nothing to send says only here what it has covered since.
        self.node_said(origin, 0, &vector);
        // Nobody has more to tell than of each node once.
        for other in heard.iter().take(self.nodes.len() + 1) {
            if self.nodes.contains_key(&other.origin.node) {
                self.node_said(other.origin, other.age_ms, &vector.clone().lower(&other.vector));
            }
        }
        self.compare(link, &vector, hash);
    }

    /// Takes a whole batch: entries, then the vector that covers them, then what follows from it.
    ///
    /// If the sender has not seen all tombstones that were dropped here, what it brings and this node
    /// covers and does not have is deleted and forgotten; the sender is about to forget it too.
    fn take_batch(&mut self, peer: NodeId, mut entries: Vec<WireEntry>, end: &End, reset: bool) {
        let mut changes = Changes::default();
        if !self.replica.knows_the_forgotten(&end.vector) {
            entries.retain(|entry| !self.replica.has_forgotten(&entry.key, entry.dot));
        }
        let before = (!reset).then(|| self.views_before(entries.iter().map(|entry| &entry.key)));
        let mut stale = BTreeSet::new();
        if reset {
            // Both sides may have forgotten removals that the other has missed.
            if !self.replica.knows_the_forgotten(&end.vector) {
                let new = entries.iter().filter(|entry| !self.replica.vector().covers(entry.dot));
                stale.extend(new.filter_map(|entry| key::context(&entry.key)));
            }
            self.replica.reset_to(self.origin(), &entries, end, &mut changes);
            let unsent = self.replica.news_for(&end.vector);
            stale.extend(unsent.iter().filter_map(|entry| key::context(&entry.key)));
        }
        let news = !self.replica.vector().covers_all(&end.vector) || !entries.is_empty();
        let own = self.settings.node;
        let revived = self.revived_by(&entries);
        let mut returned_keys = Vec::new();
        for entry in entries {
            if key::parse(&entry.key).is_none()
                && entry.key.first().is_none_or(|kind| b"NIMTRGCP".contains(kind))
            {
                let why = "its key is malformed".into();
                self.notice(Notice::EntryRefused { node: peer, why });
                continue;
            }
            // Nobody else can know what this life of this node wrote better than it does itself. If it does
            // not know it any more, it is gone, and the others have to hear that again.
            if key::owner(&entry.key) == Some(own) {
                let returned = entry.value.is_some() && self.replica.get(&entry.key).is_none();
                if returned && entry.dot.origin == self.origin() {
                    returned_keys.push(Write { key: entry.key, value: None });
                }
                continue;
            }
            self.saw(entry.hlc);
            let stamp = Stamp { hlc: entry.hlc, dot: entry.dot };
            self.replica.merge(&entry.key, stamp, entry.value, self.now.wall_ms, &mut changes);
        }
        let mut covered = end.vector.beyond(self.replica.vector());
        covered.remove(&self.origin());
        self.replica.cover(&covered, &mut changes);
        if covered.len() > UNSHARED_MAX {
            self.share_many();
        }
        if !returned_keys.is_empty() {
            self.write(returned_keys);
        }
        for context in stale {
            self.write_again(&context);
        }
        for step in revived {
            self.write(step);
        }
        if news {
            for link in self.links.values_mut() {
                link.dirty = true;
            }
        }
        let mut keys = changes.keys;
        keys.sort();
        keys.dedup();
        let subjects: Vec<Subject> = keys.iter().filter_map(key::parse).collect();
        self.registry_changed(&subjects);
        self.contexts_changed(subjects, before.as_ref());
    }

    /// Makes one's own, under new stamps, all that is in a context.
    ///
    /// After a long absence some of it may be older than removals which some nodes remember and others
    /// have forgotten: with its old stamps it would be hidden on the ones and shown on the others.
    fn write_again(&mut self, context: &ContextKey) {
        let (header, root) = (context.header(), context.root());
        let mut writes: BTreeMap<Stamp, Step> = BTreeMap::new();
        for (key, entry) in self.replica.below(&header).chain(self.replica.below(&root)) {
            let write = Write { key: key.clone(), value: entry.value.clone() };
            writes.entry(entry.stamp).or_default().push(write);
        }
        for step in writes.into_values() {
            self.write(step);
        }
    }
}

/// Returns about how many bytes entries take.
fn bytes_of(entries: &[WireEntry]) -> usize {
    entries.iter().map(|entry| entry.key.len() + entry.value.as_ref().map_or(0, Bytes::len) + 64).sum()
}
