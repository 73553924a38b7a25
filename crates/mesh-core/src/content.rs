//! What is in a shared context: a value per path, merged by newest write.
//!
//! A context's content is the replica's entries below its root key. An entry at a path holds a whole
//! value as JSON text, or nothing, and in both cases hides what is older at that path and below.
//! Entries below an object's text that are newer than it are laid over it. A *mark* says "there is an
//! object here" without hiding anything: it stands for the parents that a deep `set` creates, so that
//! two machines that create the same parent at once do not wipe each other's children.
//!
//! The value of the context is a pure function of those entries, so equal replicas show equal values.

use std::collections::{BTreeMap, BTreeSet};

use bytes::Bytes;
use mesh_model::json::{self, Edit};
use mesh_model::limits::JSON_DEPTH_MAX;
use mesh_model::{Json, Key as Segment, Kind, Stamp};

use crate::key;
use crate::replica::Replica;

/// The member under which client libraries carry trace context inside data: never part of the state.
pub(crate) const TRACE_MEMBER: &[u8] = b"__interopIOTracePropagationInfo";

/// A write to one register of a path.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Write {
    pub(crate) key: Bytes,
    pub(crate) value: Option<Bytes>,
}

/// Writes that take effect together: one command of a delta. They share a dot.
pub(crate) type Step = Vec<Write>;

/// Turns a value that is assigned whole into the writes for it: `reset`, and the data of a new context.
pub(crate) fn assign(root: &Bytes, data: &Json) -> Step {
    let Some(members) = data.members() else {
        return vec![Write { key: root.clone(), value: (!data.is_null()).then(|| data.as_bytes().clone()) }];
    };
    let mut last: BTreeMap<Segment, Json> = BTreeMap::new();
    for (name, value) in members {
        if name.0 != TRACE_MEMBER {
            last.insert(name, value);
        }
    }
    let mut step = vec![Write { key: root.clone(), value: None }];
    step.extend(last.into_iter().map(|(name, value)| Write {
        key: key::below(root, &name.0),
        value: Some(value.as_bytes().clone()),
    }));
    step
}

/// Returns the step that sets one top-level key.
pub(crate) fn set_key(root: &Bytes, name: &Segment, value: &Json) -> Step {
    vec![Write { key: key::below(root, &name.0), value: Some(value.as_bytes().clone()) }]
}

/// What top-level keys of a context held before a merge.
pub(crate) type Before = BTreeMap<Segment, Option<Json>>;

/// One operation of a delta, before it is resolved against the present value.
#[derive(Clone, Debug)]
enum Operation {
    Reset(Json),
    /// A command with an empty path.
    Root(Json),
    SetKey(Segment, Json),
    MergeKey(Segment, Json),
    RemoveKey(Segment),
    Set(Vec<Segment>, Json),
    Remove(Vec<Segment>),
}

/// A delta as a GW3 client sends it, understood: `reset` alone, else `commands`, else added, updated,
/// removed; all of them where a hand-made delta mixes them.
#[derive(Debug)]
pub(crate) struct Delta {
    operations: Vec<Operation>,
    plain: bool,
}

impl Delta {
    /// Reads a delta; the error says what is wrong with it.
    pub(crate) fn parse(delta: &Json) -> Result<Self, String> {
        let members = delta.members().ok_or("a delta must be an object")?;
        let mut operations = Vec::new();
        let part = |name: &str| {
            members
                .iter()
                .rev()
                .find(|(key, _)| key.0 == name.as_bytes())
                .map(|(_, v)| v.clone())
                .filter(|v| !v.is_null())
        };
        if let Some(reset) = part("reset") {
            if reset.kind() != Kind::Object {
                return Err("`reset` must be an object".into());
            }
            operations.push(Operation::Reset(reset));
        }
        for (name, merge) in [("added", false), ("updated", true)] {
            let Some(value) = part(name) else { continue };
            let members = value.members().ok_or_else(|| format!("`{name}` must be an object"))?;
            // Of two members of one name the last counts; a merge must not take both.
            for (key, value) in members.into_iter().collect::<BTreeMap<Segment, Json>>() {
                if key.0 == TRACE_MEMBER {
                    continue;
                }
                operations.push(if merge {
                    Operation::MergeKey(key, value)
                } else {
                    Operation::SetKey(key, value)
                });
            }
        }
        if let Some(removed) = part("removed") {
            for name in removed.elements().ok_or("`removed` must be an array")? {
                operations.push(Operation::RemoveKey(name.as_key().ok_or("`removed` must hold strings")?));
            }
        }
        if let Some(commands) = part("commands") {
            for command in commands.elements().ok_or("`commands` must be an array")? {
                operations.extend(Self::command(&command)?);
            }
        }
        let parts: BTreeSet<u8> = operations.iter().map(Operation::part).collect();
        let odd = |operation: &Operation| match operation {
            Operation::Set(path, _) | Operation::Remove(path) => path.iter().any(is_forbidden),
            _ => false,
        };
        // A client that finds `commands` looks at nothing else, even if there are none.
        let ignored = part("commands").is_some() && parts.iter().any(|part| *part != COMMANDS);
        let plain = parts.len() <= 1 && !ignored && !operations.iter().any(odd);
        Ok(Self { operations, plain })
    }

    /// Returns whether clients that apply the delta get what the node gets.
    ///
    /// They apply `reset` alone, else `commands` alone, else the rest; know no path to the root; and
    /// stop at names that mean something to JavaScript.
    pub(crate) const fn is_plain(&self) -> bool {
        self.plain
    }

    /// Returns whether the delta only sets or removes top-level keys: it neither assigns the whole value nor
    /// edits inside a key.
    ///
    /// Clients say a key with dots in it as a path; `is_key` tells what is one.
    pub(crate) fn is_by_key(&self, is_key: impl Fn(&Segment) -> bool) -> bool {
        self.operations
            .iter()
            .all(|operation| operation.key().is_some_and(|(key, sure)| sure || is_key(&key)))
    }

    /// Returns the top-level keys that the delta is on, and what it sets them to; `None` for those it removes.
    pub(crate) fn by_key(&self) -> impl Iterator<Item = (Segment, Option<&Json>)> {
        self.operations.iter().filter_map(|operation| Some((operation.key()?.0, operation.value())))
    }

    /// Returns whether the delta says nothing.
    pub(crate) const fn is_empty(&self) -> bool {
        self.operations.is_empty()
    }

    /// Keeps only the operations on keys of which `keep` says so. Returns whether any is gone.
    pub(crate) fn retain(&mut self, keep: impl Fn(&Segment) -> bool) -> bool {
        let before = self.operations.len();
        self.operations.retain(|operation| operation.key().is_none_or(|(key, _)| keep(&key)));
        let dropped = self.operations.len() < before;
        self.plain &= !dropped;
        dropped
    }

    fn command(command: &Json) -> Result<Option<Operation>, String> {
        let kind =
            command.member("type").and_then(|kind| kind.as_text()).ok_or("a command needs a `type`")?;
        let path =
            command.member("path").and_then(|path| path.as_key()).ok_or("a command needs a string `path`")?;
        let value = command.member("value").unwrap_or_else(Json::null);
        if path.0.split(|byte| *byte == b'.').next() == Some(TRACE_MEMBER) {
            return Ok(None);
        }
        let segments: Vec<Segment> = match path.0.is_empty() {
            true => Vec::new(),
            false => {
                path.0.split(|byte| *byte == b'.').map(|segment| Segment(path.0.slice_ref(segment))).collect()
            }
        };
        if segments.len() > 1 && segments.len() + depth_of(&value) > DEPTH_MAX {
            return Err(format!("a path and its value together are nested deeper than {DEPTH_MAX} levels"));
        }
        Ok(Some(match (kind.as_str(), segments.is_empty()) {
            ("set", true) => Operation::Root(value),
            ("set", false) => Operation::Set(segments, value),
            ("remove", true) => Operation::Root(Json::from_static("{}")),
            ("remove", false) => Operation::Remove(segments),
            (other, _) => {
                return Err(format!("unknown command type `{other}`; known are `set` and `remove`"));
            }
        }))
    }

    /// Resolves the delta step by step: `apply` is given each step and must have taken it when it
    /// returns, since a later step may depend on it.
    pub(crate) fn resolve<R>(&self, root: &Bytes, state: &mut R, mut apply: impl FnMut(&mut R, Step))
    where
        R: AsRef<Replica>,
    {
        for operation in &self.operations {
            let removes = matches!(operation, Operation::RemoveKey(_) | Operation::Remove(_));
            if removes && is_plain_root(state.as_ref(), root) {
                continue;
            }
            let step = match operation {
                Operation::Reset(data) | Operation::Root(data) => assign(root, data),
                Operation::SetKey(name, value) => set_key(root, name, value),
                Operation::RemoveKey(name) => vec![Write { key: key::below(root, &name.0), value: None }],
                Operation::MergeKey(name, value) => merge_key(root, state.as_ref(), name, value),
                Operation::Set(path, value) => set_path(root, state.as_ref(), path, Edit::Set(value)),
                Operation::Remove(path) => set_path(root, state.as_ref(), path, Edit::Remove),
            };
            // What is below an array is removed by writing the array.
            let removed = match operation {
                Operation::Remove(path) if step.last().is_some_and(|write| write.value.is_none()) => {
                    &path[..]
                }
                _ => &[],
            };
            if !step.is_empty() {
                apply(state, step);
            }
            let emptied = emptied_parents(root, state.as_ref(), removed);
            if !emptied.is_empty() {
                apply(state, emptied);
            }
        }
    }
}

impl Operation {
    /// Returns the top-level key that the operation is on, and whether it can be no other; a path may stand
    /// for a key with dots. The whole value has no key.
    fn key(&self) -> Option<(Segment, bool)> {
        match self {
            Self::Reset(_) | Self::Root(_) => None,
            Self::SetKey(name, _) | Self::MergeKey(name, _) | Self::RemoveKey(name) => {
                Some((name.clone(), true))
            }
            Self::Set(path, _) | Self::Remove(path) => {
                let names: Vec<&[u8]> = path.iter().map(|segment| segment.0.as_ref()).collect();
                Some((Segment(names.join(&b'.').into()), path.len() == 1))
            }
        }
    }

    const fn value(&self) -> Option<&Json> {
        match self {
            Self::Reset(value)
            | Self::Root(value)
            | Self::SetKey(_, value)
            | Self::MergeKey(_, value)
            | Self::Set(_, value) => Some(value),
            Self::RemoveKey(_) | Self::Remove(_) => None,
        }
    }

    /// Returns which part of a delta the operation comes from, as clients tell them apart.
    const fn part(&self) -> u8 {
        match self {
            Self::Reset(_) => 0,
            Self::SetKey(..) | Self::MergeKey(..) | Self::RemoveKey(_) => 1,
            Self::Set(..) | Self::Remove(_) => COMMANDS,
            Self::Root(_) => 3,
        }
    }
}

const COMMANDS: u8 = 2;
/// Deepest nesting that a path may make: a little less than a message may have, since the value
/// travels inside one.
const DEPTH_MAX: usize = JSON_DEPTH_MAX - 8;

/// Returns how deep a value is nested; a plain one counts as 0.
fn depth_of(value: &Json) -> usize {
    let (mut depth, mut deepest, mut quoted, mut escaped) = (0_usize, 0, false, false);
    for byte in value.as_bytes().iter() {
        match (quoted, byte) {
            (true, _) if escaped => escaped = false,
            (true, b'\\') => escaped = true,
            (_, b'"') => quoted = !quoted,
            (false, b'{' | b'[') => {
                depth += 1;
                deepest = deepest.max(depth);
            }
            (false, b'}' | b']') => depth = depth.saturating_sub(1),
            _ => {}
        }
    }
    deepest
}

/// Returns whether clients refuse a path with this segment.
fn is_forbidden(segment: &Segment) -> bool {
    matches!(segment.0.as_ref(), b"__proto__" | b"constructor" | b"prototype")
}

/// Returns whether the whole value is no object, so that there is nothing in it to remove.
fn is_plain_root(replica: &Replica, root: &Bytes) -> bool {
    replica.get(root).is_some_and(|entry| entry.value.is_some())
        && value(replica, root).kind() != Kind::Object
}

/// A client that removes the last member of an object keeps the object. Where it was there only by
/// that member's path, a mark takes over.
fn emptied_parents(root: &Bytes, replica: &Replica, removed: &[Segment]) -> Step {
    let mut step = Vec::new();
    let Some((first, parents)) = removed.split_last().and_then(|(_, parents)| parents.split_first()) else {
        return step;
    };
    let mut present = value_at(replica, root, std::slice::from_ref(first));
    let mut at = key::below(root, &first.0);
    for segment in parents.iter().map(Some).chain([None]) {
        if present.as_ref().is_none_or(|value| value.kind() != Kind::Object) {
            step.push(Write { key: key::mark_of(&at), value: Some(Bytes::new()) });
        }
        if let Some(segment) = segment {
            present = present.and_then(|value| member(&value, segment));
            at = key::below(&at, &segment.0);
        }
    }
    step
}

/// One-level merge of an object into an object; anything else replaces.
fn merge_key(root: &Bytes, replica: &Replica, name: &Segment, value: &Json) -> Step {
    let path = key::below(root, &name.0);
    let present = value_at(replica, root, std::slice::from_ref(name));
    match (present.map(|p| p.kind()), value.members()) {
        (Some(Kind::Object), Some(members)) => {
            let mut last: BTreeMap<Segment, Json> = members.into_iter().collect();
            std::mem::take(&mut last)
                .into_iter()
                .map(|(sub, value)| Write {
                    key: key::below(&path, &sub.0),
                    value: Some(value.as_bytes().clone()),
                })
                .collect()
        }
        _ => set_key(root, name, value),
    }
}

/// A deep edit. Parents that are missing or plain become marks; an array on the way is edited whole.
fn set_path(root: &Bytes, replica: &Replica, path: &[Segment], edit: Edit<'_>) -> Step {
    let written = |edit: Edit<'_>| match edit {
        Edit::Set(value) => Some(value.as_bytes().clone()),
        Edit::Remove => None,
    };
    let mut step = Vec::new();
    let mut at = key::below(root, &path[0].0);
    if path.len() > 1 {
        // Only the subtree below the first segment matters; it is looked at once.
        let mut present = value_at(replica, root, &path[..1]);
        for (depth, segment) in path.iter().enumerate().skip(1) {
            match (&present, present.as_ref().map(Json::kind)) {
                (Some(array), Some(Kind::Array)) => {
                    let new = json::edited(array, &path[depth..], edit);
                    return if new == *array {
                        Vec::new()
                    } else {
                        vec![Write { key: at, value: Some(new.as_bytes().clone()) }]
                    };
                }
                (Some(object), Some(Kind::Object)) => present = member(object, segment),
                _ if matches!(edit, Edit::Remove) => return Vec::new(),
                _ => {
                    step.push(Write { key: key::mark_of(&at), value: Some(Bytes::new()) });
                    present = None;
                }
            }
            at = key::below(&at, &segment.0);
        }
        if present.is_none() && matches!(edit, Edit::Remove) {
            return Vec::new();
        }
    }
    step.push(Write { key: at, value: written(edit) });
    step
}

fn member(object: &Json, segment: &Segment) -> Option<Json> {
    object.members()?.into_iter().rev().find(|(key, _)| key == segment).map(|(_, value)| value)
}

/// Returns the whole value of a context.
pub(crate) fn value(replica: &Replica, root: &Bytes) -> Json {
    let mut tree = Tree::default();
    for (key, entry) in replica.below(root) {
        tree.insert(&key[root.len()..], entry.stamp, entry.value.as_ref());
    }
    tree.render(None, None).unwrap_or_else(|| Json::from_static("{}"))
}

/// Returns the value at a path of one or more segments, if there is one.
pub(crate) fn value_at(replica: &Replica, root: &Bytes, path: &[Segment]) -> Option<Json> {
    let (first, rest) = path.split_first()?;
    if replica.get(root).is_some_and(|entry| entry.value.is_some()) {
        // The root was assigned a plain value or a whole text: rare, and then nothing is cheap.
        let mut present = value(replica, root);
        for segment in path {
            present = member(&present, segment)?;
        }
        return Some(present);
    }
    let top = key::below(root, &first.0);
    let mut tree = Tree::default();
    for (key, entry) in replica.below(&top) {
        tree.insert(&key[top.len()..], entry.stamp, entry.value.as_ref());
    }
    let mut present = tree.render(replica.get(root).map(|entry| entry.stamp), None)?;
    for segment in rest {
        present = member(&present, segment)?;
    }
    Some(present)
}

/// Returns what top-level keys hold, to be compared later.
pub(crate) fn before<'a>(
    replica: &Replica,
    root: &Bytes,
    names: impl Iterator<Item = &'a Segment>,
) -> Before {
    names.map(|name| (name.clone(), value_at(replica, root, std::slice::from_ref(name)))).collect()
}

/// Returns the delta that says the whole value.
pub(crate) fn reset_delta(value: &Json) -> Json {
    Json::assembled([b"{\"reset\":", value.as_bytes().as_ref(), b"}"].concat())
}

/// Returns the delta that brings a client from the value before a merge to the present one, or `None`
/// if there is no difference. All that changed must be in `before`; without it the delta is whole.
///
/// Small where it can be: a command per part that differs. Names that a command's dotted path cannot say
/// are sent as whole top-level keys, in the form of the older clients, which names keys literally.
pub(crate) fn delta_for(replica: &Replica, root: &Bytes, before: Option<&Before>) -> Option<Json> {
    /// From this number of commands on, whole keys are sent.
    const COMMANDS_MAX: usize = 256;
    let plain_root = replica.get(root).is_some_and(|entry| entry.value.is_some());
    let Some(before) = before.filter(|_| !plain_root) else {
        return Some(reset_delta(&value(replica, root)));
    };
    let mut found = Vec::new();
    for (name, old) in before {
        let new = value_at(replica, root, std::slice::from_ref(name));
        differences(&mut vec![name.clone()], old.as_ref(), new.as_ref(), &mut found);
    }
    if found.is_empty() {
        return None;
    }
    let speakable = |segment: &Segment| {
        let lone_surrogate = segment.0.contains(&0xed) && std::str::from_utf8(&segment.0).is_err();
        !segment.0.is_empty() && !segment.0.contains(&b'.') && !is_forbidden(segment) && !lone_surrogate
    };
    let mut out = Vec::new();
    if found.len() <= COMMANDS_MAX && found.iter().all(|(path, _)| path.iter().all(speakable)) {
        out.extend_from_slice(b"{\"added\":{},\"updated\":{},\"removed\":[],\"commands\":[");
        for (count, (path, new)) in found.iter().enumerate() {
            if count > 0 {
                out.push(b',');
            }
            let name: Vec<&[u8]> = path.iter().map(|segment| segment.0.as_ref()).collect();
            let kind: &[u8] = if new.is_some() { b"set" } else { b"remove" };
            out.extend_from_slice(&[b"{\"type\":\"", kind, b"\",\"path\":"].concat());
            json::write_string(&mut out, &name.join(&b'.'));
            if let Some(value) = new {
                out.extend_from_slice(b",\"value\":");
                out.extend_from_slice(value.as_bytes());
            }
            out.push(b'}');
        }
        out.extend_from_slice(b"]}");
    } else {
        let names: BTreeSet<&Segment> = found.iter().map(|(path, _)| &path[0]).collect();
        let at = |name: &Segment| value_at(replica, root, std::slice::from_ref(name));
        let now: Vec<(&Segment, Option<Json>)> = names.into_iter().map(|name| (name, at(name))).collect();
        let here = now.iter().filter_map(|(name, value)| value.as_ref().map(|value| (*name, value)));
        out.extend_from_slice(b"{\"added\":");
        out.extend_from_slice(json::object(here).as_bytes());
        out.extend_from_slice(b",\"updated\":{},\"removed\":[");
        for (count, (name, _)) in now.iter().filter(|(_, value)| value.is_none()).enumerate() {
            if count > 0 {
                out.push(b',');
            }
            json::write_string(&mut out, &name.0);
        }
        out.extend_from_slice(b"]}");
    }
    Some(Json::assembled(out))
}

/// Finds the smallest parts that differ, each with what it is now. Only objects have parts: a client
/// can say nothing inside anything else.
fn differences(
    path: &mut Vec<Segment>,
    old: Option<&Json>,
    new: Option<&Json>,
    found: &mut Vec<(Vec<Segment>, Option<Json>)>,
) {
    if old == new {
        return;
    }
    let parts =
        |value: Option<&Json>| value.and_then(Json::members).map(BTreeMap::<Segment, Json>::from_iter);
    let (Some(old_parts), Some(new_parts)) = (parts(old), parts(new)) else {
        found.push((path.clone(), new.cloned()));
        return;
    };
    let names: BTreeSet<&Segment> = old_parts.keys().chain(new_parts.keys()).collect();
    for name in names {
        path.push(name.clone());
        differences(path, old_parts.get(name), new_parts.get(name), found);
        path.pop();
    }
}

/// The entries below a path, as a tree.
#[derive(Default)]
struct Tree<'a> {
    main: Option<(Stamp, Option<&'a Bytes>)>,
    mark: Option<Stamp>,
    children: BTreeMap<&'a [u8], Self>,
}

impl<'a> Tree<'a> {
    fn insert(&mut self, path: &'a [u8], stamp: Stamp, value: Option<&'a Bytes>) {
        if path.is_empty() {
            self.main = Some((stamp, value));
        } else if path == [key::MARK] {
            self.mark = Some(stamp);
        } else if let Some(end) = path.iter().position(|byte| *byte == key::END) {
            self.children.entry(&path[..end]).or_default().insert(&path[end + 1..], stamp, value);
        }
    }

    /// Returns the value here, if any. `hidden` is the newest clear above; `inherited` is the part for
    /// this path of a value that was written whole further up.
    fn render(&self, hidden: Option<Stamp>, inherited: Option<(Stamp, Json)>) -> Option<Json> {
        let main = self.main.filter(|(stamp, _)| Some(*stamp) >= hidden);
        let cleared = main.map(|(stamp, _)| stamp).max(hidden);
        let base = match main {
            Some((stamp, Some(text))) => Some((stamp, Json::parse((*text).clone()).ok()?)),
            Some((_, None)) => None,
            None => inherited,
        };
        let marked = self.mark.is_some_and(|stamp| Some(stamp) >= cleared);
        if self.children.is_empty() {
            return match base {
                Some((_, value)) if !(marked && value.kind() != Kind::Object) => Some(value),
                _ => marked.then(|| Json::from_static("{}")),
            };
        }
        let whole = base.as_ref().filter(|(_, value)| value.kind() == Kind::Object).cloned();
        let mut members: Vec<(Segment, Option<Json>)> = Vec::new();
        if let Some((_, object)) = &whole {
            let known = object.members().unwrap_or_default();
            let mut seen: BTreeMap<Segment, usize> = BTreeMap::new();
            for (name, value) in known {
                match seen.get(&name) {
                    Some(at) => members[*at].1 = Some(value),
                    None => {
                        seen.insert(name.clone(), members.len());
                        members.push((name, Some(value)));
                    }
                }
            }
        }
        let mut touched = false;
        for (name, child) in &self.children {
            let at = members.iter().position(|(known, _)| known.0 == *name);
            let part = at.and_then(|at| members[at].1.clone());
            let part = whole.as_ref().zip(part).map(|((stamp, _), value)| (*stamp, value));
            let shown = child.render(cleared, part);
            touched |= child.any_since(cleared);
            match at {
                Some(at) => members[at].1 = shown,
                None => members.push((Segment(Bytes::copy_from_slice(name)), shown)),
            }
        }
        let shown: Vec<(Segment, Json)> =
            members.into_iter().filter_map(|(name, v)| v.map(|v| (name, v))).collect();
        match base {
            // A plain value that nothing newer below has turned into an object.
            Some((_, value)) if whole.is_none() && !touched && !marked => Some(value),
            _ if shown.is_empty() && whole.is_none() && !marked => None,
            _ => Some(json::object(shown.iter().map(|(name, value)| (name, value)))),
        }
    }

    fn any_since(&self, cleared: Option<Stamp>) -> bool {
        self.main.is_some_and(|(stamp, _)| Some(stamp) > cleared)
            || self.mark.is_some_and(|stamp| Some(stamp) > cleared)
            || self.children.values().any(|child| child.any_since(cleared))
    }
}
