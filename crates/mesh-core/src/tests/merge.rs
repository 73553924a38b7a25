//! Random histories on several replicas against a model that keeps every path by itself.
//!
//! The model is the rule of the design note (5.8), written down as plainly as it can be: each path has
//! three registers, each of which keeps its newest write. Nothing is ever pruned, whole values are
//! taken apart to their last leaf, and what is seen is computed from all that was ever written. At each
//! step each replica must show what the model makes of the writes that the replica covers.

use std::collections::{BTreeMap, BTreeSet};

use bytes::Bytes;
use mesh_model::link::WireEntry;
use mesh_model::{Dot, Hlc, Incarnation, Json, Key as Segment, Kind, NodeId, Origin, Stamp, Text};

use crate::content::{self, Delta, Step, Write};
use crate::key::{self, ContextKey, Subject, UserKey};
use crate::replica::{Changes, Replica};
use crate::vector::{End, Vector};

type Path = Vec<Vec<u8>>;

/// A value taken apart.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Value {
    Plain(Vec<u8>),
    Array(Vec<Self>),
    Object(BTreeMap<Vec<u8>, Self>),
}

impl Value {
    fn of(json: &Json) -> Self {
        match json.kind() {
            Kind::Object => Self::Object(
                json.members()
                    .unwrap()
                    .iter()
                    .map(|(name, value)| (name.0.to_vec(), Self::of(value)))
                    .collect(),
            ),
            Kind::Array => Self::Array(json.elements().unwrap().iter().map(Self::of).collect()),
            _ => Self::Plain(json.as_bytes().to_vec()),
        }
    }

    fn null() -> Self {
        Self::Plain(b"null".to_vec())
    }

    fn empty() -> Self {
        Self::Object(BTreeMap::new())
    }

    // --- As a client has it: what the JavaScript library does with a delta.

    fn apply(&mut self, delta: &Json) {
        let part = |name: &str| delta.member(name).filter(|part| !part.is_null());
        if let Some(reset) = part("reset") {
            *self = Self::of(&reset);
            return;
        }
        if let Some(commands) = part("commands") {
            for command in commands.elements().unwrap() {
                let path = command.member("path").unwrap().as_key().unwrap();
                let path: Path = path.0.split(|byte| *byte == b'.').map(<[u8]>::to_vec).collect();
                if command.member("type").unwrap().as_text().unwrap() == "remove" {
                    self.remove(&path);
                } else {
                    self.set(&path, Self::of(&command.member("value").unwrap()));
                }
            }
            return;
        }
        let Self::Object(top) = self else { panic!("a context is an object") };
        for (name, value) in part("added").and_then(|part| part.members()).unwrap_or_default() {
            top.insert(name.0.to_vec(), Self::of(&value));
        }
        for (name, value) in part("updated").and_then(|part| part.members()).unwrap_or_default() {
            match (top.get_mut(&name.0[..]), Self::of(&value)) {
                (Some(Self::Object(old)), Self::Object(new)) => old.extend(new),
                (_, new) => drop(top.insert(name.0.to_vec(), new)),
            }
        }
        for name in part("removed").and_then(|part| part.elements()).unwrap_or_default() {
            top.remove(&name.as_key().unwrap().0[..]);
        }
    }

    fn index(name: &[u8]) -> Option<usize> {
        let digits = std::str::from_utf8(name).ok()?;
        digits.parse().ok().filter(|index: &usize| index.to_string() == digits)
    }

    fn set(&mut self, path: &[Vec<u8>], new: Self) {
        let (first, rest) = path.split_first().unwrap();
        let slot = match self {
            Self::Array(elements) => {
                let Some(index) = Self::index(first) else { return };
                if elements.len() <= index {
                    elements.resize(index + 1, Self::null());
                }
                &mut elements[index]
            }
            Self::Object(members) => members.entry(first.clone()).or_insert_with(Self::null),
            Self::Plain(_) => return,
        };
        if rest.is_empty() {
            *slot = new;
            return;
        }
        if matches!(slot, Self::Plain(_)) {
            *slot = Self::empty();
        }
        slot.set(rest, new);
    }

    fn remove(&mut self, path: &[Vec<u8>]) {
        let (first, rest) = path.split_first().unwrap();
        match self {
            Self::Array(elements) => {
                if let Some(slot) = Self::index(first).and_then(|index| elements.get_mut(index)) {
                    if rest.is_empty() { *slot = Self::null() } else { slot.remove(rest) }
                }
            }
            Self::Object(members) if rest.is_empty() => drop(members.remove(first)),
            Self::Object(members) => {
                if let Some(slot) = members.get_mut(first) {
                    slot.remove(rest);
                }
            }
            Self::Plain(_) => {}
        }
    }
}

/// The naive model.
#[derive(Default)]
struct Model {
    cleared: BTreeMap<Path, Stamp>,
    leaves: BTreeMap<Path, (Stamp, Value)>,
    objects: BTreeMap<Path, Stamp>,
}

impl Model {
    fn write(&mut self, path: &Path, mark: bool, stamp: Stamp, value: Option<&Value>) {
        if mark {
            let known = self.objects.entry(path.clone()).or_insert(stamp);
            *known = (*known).max(stamp);
            return;
        }
        let known = self.cleared.entry(path.clone()).or_insert(stamp);
        *known = (*known).max(stamp);
        if let Some(value) = value {
            self.assign(path.clone(), stamp, value);
        }
    }

    fn assign(&mut self, path: Path, stamp: Stamp, value: &Value) {
        if let Value::Object(members) = value {
            for (name, value) in members {
                self.assign([&path[..], std::slice::from_ref(name)].concat(), stamp, value);
            }
            let known = self.objects.entry(path).or_insert(stamp);
            *known = (*known).max(stamp);
        } else if self.leaves.get(&path).is_none_or(|(known, _)| *known < stamp) {
            self.leaves.insert(path, (stamp, value.clone()));
        }
    }

    fn hidden_before(&self, path: &Path) -> Option<Stamp> {
        (0..=path.len()).filter_map(|end| self.cleared.get(&path[..end])).max().copied()
    }

    fn newest_below(&self, path: &Path) -> Option<Stamp> {
        let below = |other: &Path| other.len() > path.len() && other.starts_with(path);
        let cleared = self.cleared.iter().filter(|(other, _)| below(other)).map(|(_, stamp)| *stamp);
        let leaves = self.leaves.iter().filter(|(other, _)| below(other)).map(|(_, (stamp, _))| *stamp);
        let objects = self.objects.iter().filter(|(other, _)| below(other)).map(|(_, stamp)| *stamp);
        cleared.chain(leaves).chain(objects).max()
    }

    fn view(&self, path: &Path) -> Option<Value> {
        let hidden = self.hidden_before(path);
        let object = self.objects.get(path).copied().filter(|stamp| Some(*stamp) >= hidden);
        if let Some((stamp, value)) = self.leaves.get(path)
            && Some(*stamp) >= hidden
            && Some(*stamp) > self.newest_below(path)
            && Some(*stamp) > object
        {
            return Some(value.clone());
        }
        let names: BTreeSet<&Vec<u8>> = (self.cleared.keys())
            .chain(self.leaves.keys())
            .chain(self.objects.keys())
            .filter(|other| other.len() > path.len() && other.starts_with(path))
            .map(|other| &other[path.len()])
            .collect();
        let members: BTreeMap<Vec<u8>, Value> = names
            .into_iter()
            .filter_map(|name| {
                Some((name.clone(), self.view(&[&path[..], std::slice::from_ref(name)].concat())?))
            })
            .collect();
        (path.is_empty() || object.is_some() || !members.is_empty()).then_some(Value::Object(members))
    }
}

/// A write of the whole history.
struct Logged {
    dot: Dot,
    hlc: Hlc,
    step: Step,
}

/// One replica and the client that looks at it.
struct Side {
    replica: Replica,
    origin: Origin,
    seq: u64,
    hlc: u64,
    client: Value,
    written: Vec<Logged>,
}

impl AsRef<Replica> for Side {
    fn as_ref(&self) -> &Replica {
        &self.replica
    }
}

fn root() -> Bytes {
    ContextKey { user: UserKey::new(None), name: Text::from("K") }.root()
}

impl Side {
    fn new(id: u8) -> Self {
        let origin = Origin { node: NodeId([id; 16]), incarnation: Incarnation(1) };
        let replica = Replica::default();
        Self { replica, origin, seq: 0, hlc: u64::from(id) * 3, client: Value::empty(), written: Vec::new() }
    }

    fn value(&self) -> Value {
        Value::of(&content::value(&self.replica, &root()))
    }

    fn write(&mut self, step: Step) {
        self.seq += 1;
        self.hlc += 1;
        let dot = Dot { origin: self.origin, seq: self.seq };
        let stamp = Stamp { hlc: Hlc(self.hlc), dot };
        for write in &step {
            self.replica.merge(&write.key, stamp, write.value.clone(), self.hlc, &mut Changes::default());
        }
        self.replica.cover_own(dot);
        self.written.push(Logged { dot, hlc: stamp.hlc, step });
    }

    /// An app of this replica changes the context; the node and the app compute the same.
    fn edit(&mut self, text: &Json) {
        let delta = Delta::parse(text).unwrap();
        delta.resolve(&root(), self, Self::write);
        self.client.apply(text);
        assert_eq!(self.value(), self.client, "{text}");
    }

    /// Takes a batch of another side as a link does; its entries come in any order and may repeat.
    fn pull(&mut self, from: &Self, random: &mut impl FnMut(usize) -> usize) {
        let reset = !from.replica.knows_the_forgotten(self.replica.vector());
        let nothing = Vector::default();
        let mut news = from.replica.news_for(if reset { &nothing } else { self.replica.vector() });
        if !reset && random(4) == 0 {
            news.extend(from.replica.news_for(&nothing).into_iter().step_by(3));
        }
        if !self.replica.knows_the_forgotten(from.replica.vector()) {
            news.retain(|entry| !self.replica.has_forgotten(&entry.key, entry.dot));
        }
        for at in (1..news.len()).rev() {
            news.swap(at, random(at + 1));
        }
        let names: BTreeSet<Segment> = news.iter().filter_map(top).collect();
        let whole = reset || news.iter().any(|entry| entry.key == root());
        let before = content::before(&self.replica, &root(), names.iter());
        let mut changes = Changes::default();
        let (vector, floor) = (from.replica.vector().clone(), from.replica.floor().whole());
        let end = End { vector, floor, answer: false };
        if reset {
            self.replica.reset_to(self.origin, &news, &end, &mut changes);
        }
        for entry in news {
            self.hlc = self.hlc.max(entry.hlc.0);
            let stamp = Stamp { hlc: entry.hlc, dot: entry.dot };
            self.replica.merge(&entry.key, stamp, entry.value, self.hlc, &mut changes);
        }
        self.replica.cover(&end.vector.beyond(self.replica.vector()), &mut changes);
        let delta = content::delta_for(&self.replica, &root(), (!whole).then_some(&before));
        match delta {
            Some(delta) => self.client.apply(&delta),
            None => assert!(!whole),
        }
        assert_eq!(self.client, self.value(), "the delta of a merge is not true");
    }

    fn check(&self, log: &[&Logged]) {
        let mut model = Model::default();
        for logged in log.iter().filter(|logged| self.replica.vector().covers(logged.dot)) {
            let stamp = Stamp { hlc: logged.hlc, dot: logged.dot };
            for write in &logged.step {
                let Some(Subject::Path { path, mark, .. }) = key::parse(&write.key) else { panic!() };
                let path: Path = path.iter().map(|segment| segment.0.to_vec()).collect();
                let value = write.value.as_ref().filter(|_| !mark);
                let value = value.map(|text| Value::of(&Json::parse(text.clone()).unwrap()));
                model.write(&path, mark, stamp, value.as_ref());
            }
        }
        assert_eq!(Some(self.value()), model.view(&Vec::new()), "node {:?}", self.origin.node);
        self.replica.check();
    }
}

fn top(entry: &WireEntry) -> Option<Segment> {
    match key::parse(&entry.key) {
        Some(Subject::Path { path, .. }) => path.into_iter().next(),
        _ => None,
    }
}

/// A linear congruential generator: small failures first, and the same ones each time.
pub(crate) fn generator(seed: u64) -> impl FnMut(usize) -> usize {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) ^ 0x1405_7b7e_f767_814f;
    move |below| {
        state = state.wrapping_mul(0x5851_f42d_4c95_7f2d).wrapping_add(0x1405_7b7e_f767_814f);
        usize::try_from(state >> 33).unwrap() % below
    }
}

/// Returns how many histories to play: more on request.
fn seeds(usual: u64) -> u64 {
    usual * std::env::var("MERGE_TIMES").ok().and_then(|times| times.parse().ok()).unwrap_or(1)
}

const NAMES: [&str; 3] = ["a", "b", "c"];

fn any_value(random: &mut impl FnMut(usize) -> usize, depth: usize) -> String {
    match random(if depth == 0 { 4 } else { 8 }) {
        0 | 1 => random(100).to_string(),
        2 => "null".into(),
        3 => ["{}", "[]", "\"\\u00e9\"", "false"][random(4)].into(),
        4 => format!("[{},{{\"a\":{}}}]", random(9), random(9)),
        _ => {
            let members: Vec<String> = (0..random(3))
                .map(|_| format!("\"{}\":{}", NAMES[random(3)], any_value(random, depth - 1)))
                .collect();
            format!("{{{}}}", members.join(","))
        }
    }
}

fn any_path(random: &mut impl FnMut(usize) -> usize) -> String {
    let mut path = NAMES[random(3)].to_owned();
    for _ in 0..random(4) {
        path = format!("{path}.{}", if random(6) == 0 { "0" } else { NAMES[random(3)] });
    }
    path
}

fn any_delta(random: &mut impl FnMut(usize) -> usize) -> Json {
    let object = |random: &mut _| loop {
        let value = any_value(random, 2);
        if value.starts_with('{') {
            return value;
        }
    };
    let text = match random(12) {
        0 => format!("{{\"reset\":{}}}", object(random)),
        1 => format!("{{\"updated\":{{\"{}\":{}}}}}", NAMES[random(3)], any_value(random, 2)),
        2 => format!("{{\"added\":{},\"removed\":[\"{}\"]}}", object(random), NAMES[random(3)]),
        _ => {
            let commands: Vec<String> = (0..=random(2))
                .map(|_| match (any_path(random), random(5)) {
                    (path, 0 | 1) => format!("{{\"type\":\"remove\",\"path\":\"{path}\"}}"),
                    (path, _) => {
                        let value = any_value(random, 2);
                        format!("{{\"type\":\"set\",\"path\":\"{path}\",\"value\":{value}}}")
                    }
                })
                .collect();
            format!("{{\"commands\":[{}]}}", commands.join(","))
        }
    };
    Json::parse(text.into()).unwrap()
}

/// A write that no delta makes: any register with any value. Merging must not depend on what clients do.
fn any_write(random: &mut impl FnMut(usize) -> usize) -> Write {
    let mut at = root();
    for _ in 0..=random(3) {
        at = key::below(&at, NAMES[random(3)].as_bytes());
    }
    match random(4) {
        0 => Write { key: key::mark_of(&at), value: Some(Bytes::new()) },
        1 => Write { key: at, value: None },
        _ => Write { key: at, value: Some(any_value(random, 2).into()) },
    }
}

fn two<'a>(sides: &'a mut [Side], random: &mut impl FnMut(usize) -> usize) -> (&'a mut Side, &'a Side) {
    let to = random(sides.len());
    let from = (to + 1 + random(sides.len() - 1)) % sides.len();
    let (low, high) = sides.split_at_mut(to.max(from));
    let (one, other) = (&mut low[to.min(from)], &mut high[0]);
    if to < from { (one, other) } else { (other, one) }
}

/// Everybody takes everything from everybody.
fn settle(sides: &mut [Side], random: &mut impl FnMut(usize) -> usize) {
    for _ in 0..2 {
        for to in 0..sides.len() {
            for from in 0..sides.len() {
                if from != to {
                    let (low, high) = sides.split_at_mut(to.max(from));
                    let (one, other) = (&mut low[to.min(from)], &mut high[0]);
                    let (to, from) = if to < from { (one, &*other) } else { (other, &*one) };
                    to.pull(from, random);
                }
            }
        }
    }
}

fn all_equal(sides: &[Side]) {
    let log: Vec<&Logged> = sides.iter().flat_map(|side| &side.written).collect();
    for side in sides {
        side.check(&log);
        assert_eq!(side.replica.vector(), sides[0].replica.vector());
        assert_eq!(side.replica.hash(), sides[0].replica.hash());
        assert_eq!(side.value(), sides[0].value());
    }
}

fn history(seed: u64, raw: bool) {
    let mut random = generator(seed);
    let random = &mut random;
    let mut sides: Vec<Side> =
        (0..2 + random(3)).map(|id| Side::new(u8::try_from(id + 1).unwrap())).collect();
    for _ in 0..2 + random(40) {
        match random(5) {
            0..=2 => {
                let at = random(sides.len());
                if raw && random(2) == 0 {
                    sides[at].write(vec![any_write(random)]);
                    sides[at].client = sides[at].value();
                } else {
                    let delta = any_delta(random);
                    sides[at].edit(&delta);
                }
            }
            _ => {
                let (to, from) = two(&mut sides, random);
                to.pull(from, random);
            }
        }
        let log: Vec<&Logged> = sides.iter().flat_map(|side| &side.written).collect();
        sides.iter().for_each(|side| side.check(&log));
    }
    settle(&mut sides, random);
    all_equal(&sides);
}

#[test]
fn replicas_show_what_the_model_shows() {
    for seed in 1..=seeds(500) {
        history(seed, false);
    }
}

#[test]
fn registers_merge_as_the_model_does_whatever_is_written() {
    for seed in 1..=seeds(500) {
        history(seed, true);
    }
}

/// Tombstones go while one replica sleeps. When it is back nothing that was deleted returns, whomever
/// it meets first, and nothing that was written is lost.
#[test]
fn what_was_deleted_and_forgotten_does_not_return() {
    let mut dropped = 0;
    for seed in 1..=seeds(300) {
        let mut random = generator(seed);
        let random = &mut random;
        let mut sides: Vec<Side> = (1..=4).map(Side::new).collect();
        for round in 0..3 {
            for _ in 0..random(20) {
                let at = random(sides.len());
                let delta = any_delta(random);
                sides[at].edit(&delta);
                let (to, from) = two(&mut sides, random);
                to.pull(from, random);
            }
            settle(&mut sides, random);
            // The last one sleeps; the others go on, and some of them forget.
            let mut sleeper = sides.pop().unwrap();
            for _ in 0..random(30) {
                let at = random(sides.len());
                let delta = any_delta(random);
                sides[at].edit(&delta);
                let (to, from) = two(&mut sides, random);
                to.pull(from, random);
            }
            settle(&mut sides, random);
            let said: Vec<_> = sides.iter().map(|side| side.replica.vector().clone()).collect();
            for side in &mut sides {
                if random(3) > 0 {
                    let before = side.replica.len();
                    side.replica.drop_tombstones(said.iter(), u64::MAX);
                    dropped += before - side.replica.len();
                }
            }
            all_equal_values(&sides);
            for _ in 0..random(10) {
                let at = random(sides.len());
                let delta = any_delta(random);
                sides[at].edit(&delta);
            }
            let first = random(sides.len());
            let met = &mut sides[first];
            if random(2) == 0 {
                met.pull(&sleeper, random);
                sleeper.pull(met, random);
            } else {
                sleeper.pull(met, random);
                met.pull(&sleeper, random);
            }
            sides.push(sleeper);
            settle(&mut sides, random);
            let log: Vec<&Logged> = sides.iter().flat_map(|side| &side.written).collect();
            sides.iter().for_each(|side| side.check(&log));
            assert!(
                sides.windows(2).all(|pair| pair[0].replica.hash() == pair[1].replica.hash()),
                "round {round}"
            );
        }
    }
    assert!(dropped > 100, "{dropped}");
}

fn all_equal_values(sides: &[Side]) {
    for side in sides {
        side.replica.check();
        assert_eq!(side.value(), sides[0].value());
        assert_eq!(side.replica.hash(), sides[0].replica.hash());
    }
}

/// A delta and what it makes of a value, in the node and in the client.
fn check(before: &str, delta: &str, expected: &str) {
    let mut side = Side::new(1);
    side.edit(&Json::parse(format!("{{\"reset\":{before}}}").into()).unwrap());
    side.edit(&Json::parse(delta.to_owned().into()).unwrap());
    assert_eq!(
        side.value(),
        Value::of(&Json::parse(expected.to_owned().into()).unwrap()),
        "{before} {delta}"
    );
}

#[test]
fn odd_values_are_edited_as_clients_edit_them() {
    let set = |path: &str, value: &str| {
        format!("{{\"commands\":[{{\"type\":\"set\",\"path\":\"{path}\",\"value\":{value}}}]}}")
    };
    let remove = |path: &str| format!("{{\"commands\":[{{\"type\":\"remove\",\"path\":\"{path}\"}}]}}");
    // Names with dots and without letters are whole names in the older form.
    check("{}", r#"{"added":{"a.b":1,"":2}}"#, r#"{"a.b":1,"":2}"#);
    check(r#"{"a.b":1,"a":{"b":2}}"#, r#"{"removed":["a.b"]}"#, r#"{"a":{"b":2}}"#);
    check(r#"{"a.b":1,"a":{"b":2}}"#, &remove("a.b"), r#"{"a.b":1,"a":{}}"#);
    check(r#"{"a":{"":1}}"#, &remove("a."), r#"{"a":{}}"#);
    check("{}", &set("a..b", "1"), r#"{"a":{"":{"b":1}}}"#);
    // Names are compared decoded; surrogates that stand alone stay what they are.
    check(r#"{"\u0061":1}"#, &set("a", "2"), r#"{"a":2}"#);
    check(r#"{"\ud800":1}"#, r#"{"added":{"x":1}}"#, r#"{"\ud800":1,"x":1}"#);
    check(r#"{"\ud800":1,"\udc00":2}"#, r#"{"removed":["\ud800"]}"#, r#"{"\udc00":2}"#);
    check(r#"{"o":{"\ud800":"\udfff"}}"#, &set("o.x", "1"), r#"{"o":{"\ud800":"\udfff","x":1}}"#);
    check(r#"{"\u0000":1}"#, &set("\\u0000", "2"), r#"{"\u0000":2}"#);
    // Of two members of one name the last counts.
    check(r#"{"a":1,"a":2}"#, &set("b", "{\"c\":1,\"c\":3}"), r#"{"a":2,"b":{"c":3}}"#);
    // Plain value, object, array, and back.
    check(r#"{"a":5}"#, &set("a.b.c", "1"), r#"{"a":{"b":{"c":1}}}"#);
    check(r#"{"a":{"b":{"c":1}}}"#, &set("a", "5"), r#"{"a":5}"#);
    check(r#"{"a":{"b":{"c":1}}}"#, &set("a.b", "[]"), r#"{"a":{"b":[]}}"#);
    check(r#"{"a":[1,{"b":2}]}"#, &set("a.1.b", "3"), r#"{"a":[1,{"b":3}]}"#);
    check(r#"{"a":[1]}"#, &set("a.3", "4"), r#"{"a":[1,null,null,4]}"#);
    check(r#"{"a":[1]}"#, &set("a.x.y", "4"), r#"{"a":[1]}"#);
    check(r#"{"a":[1,2]}"#, &remove("a.0"), r#"{"a":[null,2]}"#);
    check(r#"{"a":[{"b":1}]}"#, &remove("a.0.b"), r#"{"a":[{}]}"#);
    check(r#"{"a":{"b":1}}"#, &remove("a.b.c"), r#"{"a":{"b":1}}"#);
    check(r#"{"a":{"b":1}}"#, &remove("x.y"), r#"{"a":{"b":1}}"#);
    check(r#"{"a":null}"#, &set("a.b", "1"), r#"{"a":{"b":1}}"#);
    check(r#"{"a":{"b":{"c":1}}}"#, &remove("a.b.c"), r#"{"a":{"b":{}}}"#);
    // One level is merged, no deeper; only objects are.
    check(
        r#"{"o":{"a":{"x":1},"b":2}}"#,
        r#"{"updated":{"o":{"a":{"y":1}}}}"#,
        r#"{"o":{"a":{"y":1},"b":2}}"#,
    );
    check(r#"{"o":[1]}"#, r#"{"updated":{"o":{"k":1}}}"#, r#"{"o":{"k":1}}"#);
    check(r#"{"o":{"k":1}}"#, r#"{"updated":{"o":null}}"#, r#"{"o":null}"#);
    // Numbers stay as they are written.
    check("{}", r#"{"added":{"n":1.0e400,"m":9007199254740993}}"#, r#"{"n":1.0e400,"m":9007199254740993}"#);
}

/// What two machines do at once, and what both see then. The second one's clock is ahead.
fn both(before: &str, one: &str, two: &str, expected: &str) {
    let expected = Value::of(&Json::parse(expected.to_owned().into()).unwrap());
    let random = &mut generator(1);
    for swap in [false, true] {
        let mut sides = [Side::new(1), Side::new(2)];
        sides[0].edit(&Json::parse(format!("{{\"reset\":{before}}}").into()).unwrap());
        let [a, b] = &mut sides;
        b.pull(a, random);
        b.hlc += 10;
        a.edit(&Json::parse(one.to_owned().into()).unwrap());
        b.edit(&Json::parse(two.to_owned().into()).unwrap());
        if swap {
            std::mem::swap(a, b);
        }
        a.pull(b, random);
        b.pull(a, random);
        all_equal(&sides);
        assert_eq!(sides[0].value(), expected, "{before}: {one} and {two}");
    }
}

#[test]
fn edits_made_at_once_merge_by_path() {
    let commands = |commands: &[(&str, Option<&str>)]| {
        let commands: Vec<String> = commands
            .iter()
            .map(|(path, value)| match value {
                Some(value) => format!("{{\"type\":\"set\",\"path\":\"{path}\",\"value\":{value}}}"),
                None => format!("{{\"type\":\"remove\",\"path\":\"{path}\"}}"),
            })
            .collect();
        format!("{{\"commands\":[{}]}}", commands.join(","))
    };
    let one = |path, value| commands(&[(path, value)]);
    both("{}", &one("a", Some("1")), &one("b", Some("2")), r#"{"a":1,"b":2}"#);
    both("{}", &one("a.x", Some("1")), &one("a.y", Some("2")), r#"{"a":{"x":1,"y":2}}"#);
    both("{}", &one("a", Some("1")), &one("a.y", Some("2")), r#"{"a":{"y":2}}"#);
    both("{}", &one("a.y", Some("2")), &one("a", Some("1")), r#"{"a":1}"#);
    both(r#"{"a":{"x":1}}"#, &one("a", None), &one("a.y", Some("2")), r#"{"a":{"y":2}}"#);
    both(r#"{"a":{"x":1}}"#, &one("a.y", Some("2")), &one("a", None), "{}");
    both(r#"{"a":{"x":1}}"#, &one("a.x", None), &one("a.y", Some("2")), r#"{"a":{"y":2}}"#);
    both(
        r#"{"a":{"b":[1]}}"#,
        &one("a.b.0", Some("2")),
        &one("a.b", Some("{\"c\":1}")),
        r#"{"a":{"b":{"c":1}}}"#,
    );
    both(
        r#"{"a":{"b":{}}}"#,
        &one("a", Some("{\"b\":[1]}")),
        &one("a.b.c", Some("1")),
        r#"{"a":{"b":{"c":1}}}"#,
    );
    both(r#"{"a":1}"#, r#"{"reset":{"z":1}}"#, &one("b", Some("2")), r#"{"z":1,"b":2}"#);
    both(r#"{"a":1}"#, &one("b", Some("2")), r#"{"reset":{"z":1}}"#, r#"{"z":1}"#);
    // Two dots in a name: no command can say it, so the difference is told in the older form.
    both(
        r#"{"p":{}}"#,
        r#"{"added":{"a.b":{"c":1}}}"#,
        &one("p.q", Some("2")),
        r#"{"p":{"q":2},"a.b":{"c":1}}"#,
    );
    both("{}", r#"{"added":{"":1,"\ud800":2}}"#, &one("p", Some("2")), r#"{"":1,"\ud800":2,"p":2}"#);
    // Names that clients refuse in paths.
    both(
        "{}",
        r#"{"added":{"constructor":{"x":1}}}"#,
        r#"{"updated":{"constructor":{"y":1}}}"#,
        r#"{"constructor":{"y":1}}"#,
    );
    // Removed on both sides, and set under what the other removed.
    both(r#"{"a":1}"#, &one("a", None), &one("a", None), "{}");
}
