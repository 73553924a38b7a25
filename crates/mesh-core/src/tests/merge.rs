//! Random edits on three replicas, exchanged in random order: equal state, equal value, true deltas.

use std::collections::BTreeSet;

use bytes::Bytes;
use mesh_model::{Dot, Hlc, Incarnation, Json, Key as Segment, Kind, NodeId, Origin, Stamp, Text, json};

use crate::content::{self, Delta, Step};
use crate::key::{self, ContextKey, Subject, UserKey};
use crate::replica::{Changes, Replica};

struct Side {
    replica: Replica,
    origin: Origin,
    seq: u64,
    hlc: u64,
}

impl AsRef<Replica> for Side {
    fn as_ref(&self) -> &Replica {
        &self.replica
    }
}

impl Side {
    fn new(id: u8) -> Self {
        let origin = Origin { node: NodeId([id; 16]), incarnation: Incarnation(1) };
        Self { replica: Replica::default(), origin, seq: 0, hlc: 0 }
    }

    fn write(&mut self, step: Step) {
        self.seq += 1;
        self.hlc += 1;
        let dot = Dot { origin: self.origin, seq: self.seq };
        let stamp = Stamp { hlc: Hlc(self.hlc), dot };
        for write in step {
            self.replica.merge(&write.key, stamp, write.value, 0, &mut Changes::default());
        }
        self.replica.cover_own(dot);
    }

    fn edit(&mut self, root: &Bytes, delta: &Json) {
        let delta = Delta::parse(delta).expect("a delta");
        delta.resolve(root, self, Self::write);
    }

    /// Takes what another side has, as one batch, in any order.
    fn pull(&mut self, from: &Self, root: &Bytes, random: &mut impl FnMut(u64) -> u64) {
        let mut news = from.replica.news_for(self.replica.vector());
        for at in (1..news.len()).rev() {
            news.swap(at, usize::try_from(random(at as u64 + 1)).unwrap());
        }
        let names: BTreeSet<Segment> = news
            .iter()
            .filter_map(|entry| match key::parse(&entry.key) {
                Some(Subject::Path { path, .. }) => path.into_iter().next(),
                _ => None,
            })
            .collect();
        let (old, before) =
            (content::value(&self.replica, root), content::before(&self.replica, root, names.iter()));
        // A root that was written anew changes names that no key says.
        let whole = news.iter().any(|entry| entry.key == *root);
        let mut changes = Changes::default();
        for entry in news {
            self.hlc = self.hlc.max(entry.hlc.0);
            let stamp = Stamp { hlc: entry.hlc, dot: entry.dot };
            self.replica.merge(&entry.key, stamp, entry.value, 0, &mut changes);
        }
        self.replica.cover(from.replica.vector(), &mut changes);
        let new = content::value(&self.replica, root);
        let mut client = Self::new(9);
        client.write(content::assign(root, &old));
        if let Some(delta) = content::delta_for(&self.replica, root, (!whole).then_some(&before)) {
            client.edit(root, &delta);
        }
        assert_eq!(sorted(&content::value(&client.replica, root)), sorted(&new), "from {old}");
    }
}

/// Writes a value with its members in order of their names.
fn sorted(value: &Json) -> Json {
    if value.kind() != Kind::Object {
        return value.clone();
    }
    let mut members = value.members().unwrap_or_default();
    members.iter_mut().for_each(|(_, member)| *member = sorted(member));
    members.sort_by(|a, b| a.0.cmp(&b.0));
    json::object(members.iter().map(|(name, member)| (name, member)))
}

fn delta(random: &mut impl FnMut(u64) -> u64) -> Json {
    let name = |random: &mut dyn FnMut(u64) -> u64| ["a", "b", "c"][usize::try_from(random(3)).unwrap()];
    let number = random(100);
    let values = [
        number.to_string(),
        "{}".into(),
        format!("{{\"b\":{number}}}"),
        "[1,{\"a\":2}]".into(),
        "null".into(),
    ];
    let value = &values[usize::try_from(random(5)).unwrap()];
    let mut path = name(random).to_owned();
    for _ in 0..random(3) {
        path = format!("{path}.{}", name(random));
    }
    let text = match random(10) {
        0 => format!("{{\"reset\":{{\"{}\":{value}}}}}", name(random)),
        1 => format!("{{\"updated\":{{\"{}\":{value}}}}}", name(random)),
        2 => format!("{{\"removed\":[\"{}\"]}}", name(random)),
        3..=5 => format!("{{\"commands\":[{{\"type\":\"remove\",\"path\":\"{path}\"}}]}}"),
        _ => format!("{{\"commands\":[{{\"type\":\"set\",\"path\":\"{path}\",\"value\":{value}}}]}}"),
    };
    Json::parse(text.into()).expect("JSON")
}

#[test]
fn replicas_that_exchanged_everything_are_equal_and_their_deltas_true() {
    let root = ContextKey { user: UserKey::new(None), name: Text::from("K") }.root();
    for seed in 1..=1_500_u64 {
        let mut state = seed;
        let mut random = |below: u64| {
            state = state.wrapping_mul(0x5851_f42d_4c95_7f2d).wrapping_add(0x1405_7b7e_f767_814f);
            (state >> 33) % below
        };
        let mut sides = [Side::new(1), Side::new(2), Side::new(3)];
        for _ in 0..30 {
            let at = usize::try_from(random(3)).unwrap();
            if random(3) > 0 {
                let delta = delta(&mut random);
                sides[at].edit(&root, &delta);
            } else {
                let [first, rest @ ..] = &mut sides;
                let other = &mut rest[usize::try_from(random(2)).unwrap()];
                if at == 0 {
                    first.pull(other, &root, &mut random)
                } else {
                    other.pull(first, &root, &mut random)
                }
            }
        }
        for _ in 0..2 {
            let [a, b, c] = &mut sides;
            a.pull(b, &root, &mut random);
            a.pull(c, &root, &mut random);
            b.pull(a, &root, &mut random);
            c.pull(b, &root, &mut random);
        }
        let seen: Vec<(u64, Json)> =
            sides.iter().map(|s| (s.replica.hash(), content::value(&s.replica, &root))).collect();
        assert!(seen.windows(2).all(|pair| pair[0] == pair[1]), "seed {seed}: {seen:x?}");
    }
}
