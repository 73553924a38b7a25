//! What is in a shared context: a value per path, merged by newest write (design note 5.8).
//!
//! A context's content is the replica's entries below its root key. An entry at a path holds a whole
//! value as JSON text, or nothing, and in both cases hides what is older at that path and below.
//! Entries below an object's text that are newer than it are laid over it. A *mark* says "there is an
//! object here" without hiding anything: it stands for the parents that a deep `set` creates, so that
//! two machines that create the same parent at once do not wipe each other's children.
//!
//! The value of the context is a pure function of those entries, so equal replicas show equal values.

use std::collections::BTreeMap;

use bytes::Bytes;
use mesh_model::json::{self, Edit};
use mesh_model::{Json, Key as Segment, Kind, Stamp};

use crate::key;
use crate::replica::Replica;

/// The member under which client libraries carry trace context inside data: never part of the state.
const TRACE_MEMBER: &[u8] = b"__interopIOTracePropagationInfo";

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

/// One operation of a delta, before it is resolved against the present value.
#[derive(Clone, Debug)]
enum Operation {
    Reset(Json),
    SetKey(Segment, Json),
    MergeKey(Segment, Json),
    RemoveKey(Segment),
    Set(Vec<Segment>, Json),
    Remove(Vec<Segment>),
}

/// A delta as a GW3 client sends it, understood: `reset` alone, else `commands`, else added, updated,
/// removed; all of them where a hand-made delta mixes them.
#[derive(Debug)]
pub(crate) struct Delta(Vec<Operation>);

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
            for (key, value) in value.members().ok_or_else(|| format!("`{name}` must be an object"))? {
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
        Ok(Self(operations))
    }

    fn command(command: &Json) -> Result<Option<Operation>, String> {
        let kind =
            command.member("type").and_then(|kind| kind.as_text()).ok_or("a command needs a `type`")?;
        let path =
            command.member("path").and_then(|path| path.as_key()).ok_or("a command needs a string `path`")?;
        let value = command.member("value").unwrap_or_else(Json::null);
        if path.0 == TRACE_MEMBER {
            return Ok(None);
        }
        let segments: Vec<Segment> = match path.0.is_empty() {
            true => Vec::new(),
            false => {
                path.0.split(|byte| *byte == b'.').map(|segment| Segment(path.0.slice_ref(segment))).collect()
            }
        };
        Ok(Some(match (kind.as_str(), segments.is_empty()) {
            ("set", true) => Operation::Reset(value),
            ("set", false) => Operation::Set(segments, value),
            ("remove", true) => Operation::Reset(Json::from_static("{}")),
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
        for operation in &self.0 {
            let step = match operation {
                Operation::Reset(data) => assign(root, data),
                Operation::SetKey(name, value) => set_key(root, name, value),
                Operation::RemoveKey(name) => vec![Write { key: key::below(root, &name.0), value: None }],
                Operation::MergeKey(name, value) => merge_key(root, state.as_ref(), name, value),
                Operation::Set(path, value) => set_path(root, state.as_ref(), path, Edit::Set(value)),
                Operation::Remove(path) => set_path(root, state.as_ref(), path, Edit::Remove),
            };
            if !step.is_empty() {
                apply(state, step);
            }
        }
    }
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

/// Returns the delta that brings a client from the value before a merge to the present one, given the
/// keys that the merge changed.
///
/// Small where it can be: a command per changed path. Names that a command's dotted path cannot say
/// are sent as whole top-level keys, in the form of the older clients, which names keys literally.
pub(crate) fn delta_for(replica: &Replica, root: &Bytes, changed: &[Vec<Segment>]) -> Json {
    let whole = changed.iter().any(Vec::is_empty);
    let present = value(replica, root);
    if whole || present.kind() != Kind::Object {
        return assembled(&[b"{\"reset\":", present.as_bytes(), b"}"]);
    }
    let plain =
        |segment: &Segment| !segment.0.is_empty() && !segment.0.contains(&b'.') && !segment.0.contains(&0xed);
    let mut paths: Vec<&[Segment]> = changed.iter().map(|path| shown_part(&present, path)).collect();
    let dotted = paths.iter().all(|path| path.iter().all(plain));
    if !dotted {
        paths = paths.into_iter().map(|path| &path[..1]).collect();
    }
    paths.sort();
    paths.dedup_by(|next, kept| next.starts_with(kept));
    let at =
        |path: &[Segment]| path.iter().try_fold(present.clone(), |value, segment| member(&value, segment));
    let mut out = Vec::new();
    if dotted {
        out.extend_from_slice(b"{\"added\":{},\"updated\":{},\"removed\":[],\"commands\":[");
        for (count, path) in paths.iter().enumerate() {
            if count > 0 {
                out.push(b',');
            }
            let name: Vec<&[u8]> = path.iter().map(|segment| segment.0.as_ref()).collect();
            match at(path) {
                Some(value) => {
                    out.extend_from_slice(b"{\"type\":\"set\",\"path\":");
                    json::write_string(&mut out, &name.join(&b'.'));
                    out.extend_from_slice(b",\"value\":");
                    out.extend_from_slice(value.as_bytes());
                }
                None => {
                    out.extend_from_slice(b"{\"type\":\"remove\",\"path\":");
                    json::write_string(&mut out, &name.join(&b'.'));
                }
            }
            out.push(b'}');
        }
        out.extend_from_slice(b"]}");
    } else {
        let (here, gone): (Vec<_>, Vec<_>) =
            paths.iter().map(|path| (&path[0], at(path))).partition(|(_, v)| v.is_some());
        let here: Vec<_> =
            here.into_iter().filter_map(|(name, value)| value.map(|value| (name, value))).collect();
        out.extend_from_slice(b"{\"added\":");
        out.extend_from_slice(json::object(here.iter().map(|(name, value)| (*name, value))).as_bytes());
        out.extend_from_slice(b",\"updated\":{},\"removed\":[");
        for (count, (name, _)) in gone.iter().enumerate() {
            if count > 0 {
                out.push(b',');
            }
            json::write_string(&mut out, &name.0);
        }
        out.extend_from_slice(b"]}");
    }
    Json::assembled(out)
}

/// Returns the longest part of a path whose parent is an object in the present value: a client told of
/// anything deeper would not know where to put it.
fn shown_part<'a>(present: &Json, path: &'a [Segment]) -> &'a [Segment] {
    let mut value = present.clone();
    for (depth, segment) in path.iter().enumerate() {
        match member(&value, segment) {
            Some(next) if next.kind() == Kind::Object && depth + 1 < path.len() => value = next,
            _ => return &path[..=depth],
        }
    }
    path
}

fn assembled(parts: &[&[u8]]) -> Json {
    Json::assembled(parts.concat())
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
