//! Values, deltas, and what the JavaScript client makes of a delta.

use bytes::Bytes;
use mesh_model::Json;
use serde_json::{Map, Value, json};

use crate::rng::Rng;

pub(crate) fn to_json(value: &Value) -> Json {
    Json::parse(Bytes::from(value.to_string())).unwrap_or_else(|_| Json::null())
}

pub(crate) fn from_json(value: &Json) -> Value {
    serde_json::from_slice(value.as_bytes()).unwrap_or(Value::Null)
}

/// Returns a member that is a number.
pub(crate) fn number(value: &Value, name: &str) -> u64 {
    value.get(name).and_then(Value::as_u64).unwrap_or(u64::MAX)
}

const KEYS: [&str; 4] = ["a", "b", "c", "d"];

fn key(rng: &mut Rng) -> String {
    (*rng.pick(&KEYS).unwrap_or(&"a")).to_owned()
}

/// Makes a value that carries its user's name, so that one that strays is known.
pub(crate) fn value(rng: &mut Rng, user: &str, depth: u32) -> Value {
    match rng.range(0, if depth == 0 { 3 } else { 6 }) {
        0 => json!(rng.range(0, 99)),
        1 | 2 => json!(format!("{user}#{}", rng.range(0, 99))),
        3 => match rng.range(0, 3) {
            0 => Value::Null,
            1 => json!(true),
            2 => json!([]),
            _ => json!({}),
        },
        4 => Value::Array((0..rng.range(1, 3)).map(|_| value(rng, user, depth - 1)).collect()),
        _ => object(rng, user, depth - 1),
    }
}

pub(crate) fn object(rng: &mut Rng, user: &str, depth: u32) -> Value {
    Value::Object((0..rng.range(0, 3)).map(|_| (key(rng), value(rng, user, depth))).collect())
}

pub(crate) fn delta(rng: &mut Rng, user: &str) -> Value {
    match rng.range(0, 9) {
        0 | 1 => json!({ "reset": object(rng, user, 2) }),
        2..=6 => {
            let commands: Vec<Value> = (0..rng.range(1, 3))
                .map(|_| {
                    let mut path = vec![key(rng)];
                    for _ in 1..rng.range(1, 4) {
                        path.push(if rng.chance(15) { rng.range(0, 2).to_string() } else { key(rng) });
                    }
                    let path = path.join(".");
                    match rng.chance(30) {
                        true => json!({ "type": "remove", "path": path }),
                        false => json!({ "type": "set", "path": path, "value": value(rng, user, 2) }),
                    }
                })
                .collect();
            json!({ "added": {}, "updated": {}, "removed": [], "commands": commands })
        }
        _ => {
            let added = object(rng, user, 2);
            let updated: Map<String, Value> =
                (0..rng.range(0, 2)).map(|_| (key(rng), object(rng, user, 1))).collect();
            let removed: Vec<String> = (0..rng.range(0, 1)).map(|_| key(rng)).collect();
            json!({ "added": added, "updated": updated, "removed": removed })
        }
    }
}

/// Applies a delta as the JavaScript client does.
pub(crate) fn apply(context: &mut Value, delta: &Value) {
    if let Some(reset) = delta.get("reset").filter(|reset| !reset.is_null()) {
        *context = reset.clone();
        return;
    }
    if let Some(commands) = delta.get("commands").and_then(Value::as_array) {
        for command in commands {
            let path: Vec<&str> =
                command.get("path").and_then(Value::as_str).unwrap_or_default().split('.').collect();
            if command.get("type").and_then(Value::as_str) == Some("remove") {
                remove(context, &path);
            } else {
                set(context, &path, command.get("value").cloned().unwrap_or(Value::Null));
            }
        }
        return;
    }
    let Some(top) = context.as_object_mut() else { return };
    for (name, value) in delta.get("added").and_then(Value::as_object).into_iter().flatten() {
        top.insert(name.clone(), value.clone());
    }
    for (name, value) in delta.get("updated").and_then(Value::as_object).into_iter().flatten() {
        match (top.get_mut(name), value) {
            (Some(Value::Object(old)), Value::Object(new)) => old.extend(new.clone()),
            _ => {
                top.insert(name.clone(), value.clone());
            }
        }
    }
    for name in delta.get("removed").and_then(Value::as_array).into_iter().flatten() {
        top.remove(name.as_str().unwrap_or_default());
    }
}

fn set(at: &mut Value, path: &[&str], new: Value) {
    let Some((first, rest)) = path.split_first() else { return };
    let slot = match at {
        Value::Array(elements) => {
            // A name that is no index is a property of the array, which JSON does not show.
            let Ok(index) = first.parse::<usize>() else { return };
            while elements.len() <= index {
                elements.push(Value::Null);
            }
            &mut elements[index]
        }
        Value::Object(members) => members.entry((*first).to_owned()).or_insert(Value::Null),
        _ => return,
    };
    if rest.is_empty() {
        *slot = new;
    } else {
        if !slot.is_object() && !slot.is_array() {
            *slot = json!({});
        }
        set(slot, rest, new);
    }
}

fn remove(at: &mut Value, path: &[&str]) {
    let Some((first, rest)) = path.split_first() else { return };
    match at {
        Value::Array(elements) => {
            let Some(slot) = first.parse::<usize>().ok().and_then(|index| elements.get_mut(index)) else {
                return;
            };
            if rest.is_empty() { *slot = Value::Null } else { remove(slot, rest) }
        }
        Value::Object(members) if rest.is_empty() => {
            members.remove(*first);
        }
        Value::Object(members) => {
            if let Some(slot) = members.get_mut(*first) {
                remove(slot, rest);
            }
        }
        _ => {}
    }
}
