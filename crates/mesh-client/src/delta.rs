//! What an update does to the state of a context (the clients' rules, GW3 section 7.5).
//!
//! `reset` stands alone; else `commands` stand alone, if there are any; else `added`, `updated` and
//! `removed`, in that order. What makes no sense is skipped, since the node has accepted it already.

use serde::Deserialize;
use serde_json::{Map, Value};

use crate::limits::ARRAY_GROWTH_MAX;

/// An update as it travels.
#[derive(Debug, Default, Deserialize)]
pub(crate) struct Delta {
    reset: Option<Map<String, Value>>,
    #[serde(default)]
    added: Option<Map<String, Value>>,
    #[serde(default)]
    updated: Option<Map<String, Value>>,
    #[serde(default)]
    removed: Option<Vec<String>>,
    #[serde(default)]
    commands: Option<Vec<Command>>,
}

#[derive(Debug, Deserialize)]
#[serde(tag = "type", rename_all = "lowercase")]
enum Command {
    Set {
        path: String,
        #[serde(default)]
        value: Value,
    },
    Remove {
        path: String,
    },
    #[serde(other)]
    Unknown,
}

impl Delta {
    /// Changes `data` in place.
    pub(crate) fn apply(self, data: &mut Value) {
        if let Some(reset) = self.reset {
            *data = Value::Object(reset);
            return;
        }
        let commands = self.commands.unwrap_or_default();
        if !commands.is_empty() {
            commands.into_iter().for_each(|command| command.apply(data));
            return;
        }
        let map = object(data);
        map.extend(self.added.unwrap_or_default());
        for (key, value) in self.updated.unwrap_or_default() {
            match (map.get_mut(&key), value) {
                (Some(Value::Object(own)), Value::Object(value)) => own.extend(value),
                (_, value) => {
                    map.insert(key, value);
                }
            }
        }
        for key in self.removed.unwrap_or_default() {
            map.remove(&key);
        }
    }
}

impl Command {
    fn apply(self, data: &mut Value) {
        match self {
            Self::Set { path, value } if path.is_empty() => *data = value,
            Self::Set { path, value } => set(data, &path, value),
            Self::Remove { path } if path.is_empty() => *data = Value::Object(Map::new()),
            Self::Remove { path } => remove(data, &path),
            Self::Unknown => {}
        }
    }
}

/// Sets the value at a path; what is missing on the way becomes an object.
fn set(mut data: &mut Value, path: &str, value: Value) {
    let mut segments = path.split('.').peekable();
    while let Some(segment) = segments.next() {
        let Some(slot) = slot(data, segment) else { return };
        if segments.peek().is_none() {
            *slot = value;
            return;
        }
        data = slot;
    }
}

/// The place for a segment; an element if `data` is an array and the segment its index.
fn slot<'a>(data: &'a mut Value, segment: &str) -> Option<&'a mut Value> {
    // Asked before the match: an array that is not indexed becomes an object, like any scalar.
    let index = data.as_array().and(segment.parse::<usize>().ok());
    match (data, index) {
        (Value::Array(array), Some(index)) => {
            if index >= array.len() {
                if index - array.len() > ARRAY_GROWTH_MAX {
                    return None;
                }
                array.resize(index + 1, Value::Null);
            }
            array.get_mut(index)
        }
        (data, _) => Some(object(data).entry(segment).or_insert(Value::Null)),
    }
}

/// Deletes the value at a path; parents stay, and an array keeps its length.
fn remove(mut data: &mut Value, path: &str) {
    let (parents, leaf) = path.rsplit_once('.').map_or(("", path), |(parents, leaf)| (parents, leaf));
    for segment in parents.split('.').filter(|_| !parents.is_empty()) {
        let next = match data {
            Value::Object(map) => map.get_mut(segment),
            Value::Array(array) => segment.parse::<usize>().ok().and_then(|index| array.get_mut(index)),
            _ => None,
        };
        let Some(next) = next else { return };
        data = next;
    }
    match data {
        Value::Object(map) => {
            map.remove(leaf);
        }
        Value::Array(array) => {
            if let Some(element) = leaf.parse::<usize>().ok().and_then(|index| array.get_mut(index)) {
                *element = Value::Null;
            }
        }
        _ => {}
    }
}

/// The map in `data`, which becomes an empty one if it is something else.
fn object(data: &mut Value) -> &mut Map<String, Value> {
    if !data.is_object() {
        *data = Value::Object(Map::new());
    }
    match data {
        Value::Object(map) => map,
        _ => unreachable!("it was made an object just above"),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn check(mut data: Value, delta: Value, expected: &Value) {
        let shown = format!("{data} with {delta}");
        serde_json::from_value::<Delta>(delta).unwrap().apply(&mut data);
        assert_eq!(&data, expected, "{shown}");
    }

    #[test]
    fn deltas_do_what_the_clients_do() {
        for (data, delta, expected) in [
            (json!({"o":{"a":1,"b":2}}), json!({"added":{"o":{"c":3}}}), json!({"o":{"c":3}})),
            (
                json!({"o":{"a":{"x":1},"b":2}}),
                json!({"updated":{"o":{"a":{"y":1}}}}),
                json!({"o":{"a":{"y":1},"b":2}}),
            ),
            (json!({"o":[1,2]}), json!({"updated":{"o":[3]}}), json!({"o":[3]})),
            (json!({"a":1,"b":2}), json!({"removed":["a","zz"]}), json!({"b":2})),
            (json!({"a":1}), json!({"reset":{"z":1}}), json!({"z":1})),
            (json!({"a":1}), json!({"reset":null}), json!({"a":1})),
            (
                json!({"a":5}),
                json!({"commands":[{"type":"set","path":"a.b.c","value":1},{"type":"set","path":"x","value":[1]}]}),
                json!({"a":{"b":{"c":1}},"x":[1]}),
            ),
            (
                json!({"a":{"b":1},"c":1}),
                json!({"commands":[{"type":"remove","path":"a.b"},{"type":"remove","path":"c"}]}),
                json!({"a":{}}),
            ),
            (json!({"a":1}), json!({"commands":[{"type":"remove","path":"no.such.path"}]}), json!({"a":1})),
            (
                json!({"r":[{"a":1}]}),
                json!({"commands":[{"type":"set","path":"r.0.a","value":2},{"type":"set","path":"r.2","value":3}]}),
                json!({"r":[{"a":2},null,3]}),
            ),
            (
                json!({"r":[]}),
                json!({"commands":[{"type":"set","path":"r.4000000000","value":1}]}),
                json!({"r":[]}),
            ),
            (json!({"r":[1]}), json!({"commands":[{"type":"remove","path":"r.0"}]}), json!({"r":[null]})),
        ] {
            check(data, delta, &expected);
        }
    }
}
