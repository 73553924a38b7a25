//! What a delta means, on plain values: once as the node has it, once as a client applies it.

use serde_json::{Map, Value};

/// Members of this name carry trace context and are no part of a context.
const TRACE: &str = "__interopIOTracePropagationInfo";
/// Deepest nesting that a path with parents may make.
const DEPTH_MAX: usize = 120;
/// How far beyond an array's end an index may reach.
const GROWTH_MAX: usize = 100_000;

/// Applies a delta to the state of a node; `None` if it is refused, and changes nothing.
pub(crate) fn apply(state: &Value, delta: &Value) -> Option<Value> {
    let delta = delta.as_object()?;
    let part = |name: &str| delta.get(name).filter(|part| !part.is_null());
    let object = |name: &str| match part(name) {
        None => Some(None),
        Some(part) => part.as_object().map(Some),
    };
    let (reset, added, updated) = (object("reset")?, object("added")?, object("updated")?);
    let mut removed = Vec::new();
    if let Some(part) = part("removed") {
        for name in part.as_array()? {
            removed.push(name.as_str()?);
        }
    }
    let mut commands = Vec::new();
    if let Some(part) = part("commands") {
        for command in part.as_array()? {
            let command = command.as_object()?;
            let kind = command.get("type")?.as_str()?;
            let path = command.get("path")?.as_str()?;
            let value = command.get("value").unwrap_or(&Value::Null);
            let path: Vec<&str> = if path.is_empty() { Vec::new() } else { path.split('.').collect() };
            if path.first() == Some(&TRACE) {
                continue;
            }
            if path.len() > 1 && path.len() + depth(value) > DEPTH_MAX {
                return None;
            }
            commands.push((matches!(kind, "set").then_some(value), path));
            if !matches!(kind, "set" | "remove") {
                return None;
            }
        }
    }

    let mut state = state.clone();
    if let Some(reset) = reset {
        state = without_trace(&Value::Object(reset.clone()));
    }
    for (name, value) in added.into_iter().flatten().filter(|(name, _)| *name != TRACE) {
        members(&mut state).insert(name.clone(), value.clone());
    }
    for (name, value) in updated.into_iter().flatten().filter(|(name, _)| *name != TRACE) {
        merge(members(&mut state), name, value);
    }
    for name in removed {
        remove_from(&mut state, &[name]);
    }
    for (set_to, path) in commands {
        match (set_to, path.is_empty()) {
            (Some(value), true) => state = assigned(value),
            (None, true) => state = Value::Object(Map::new()),
            (Some(value), false) => {
                members(&mut state);
                set(&mut state, &path, value);
            }
            (None, false) => remove_from(&mut state, &path),
        }
    }
    Some(state)
}

/// What a value that is assigned whole makes of a context: `null` is an empty one.
pub(crate) fn assigned(data: &Value) -> Value {
    if data.is_null() { Value::Object(Map::new()) } else { without_trace(data) }
}

/// Applies a delta to the copy of a client: `reset` alone, else `commands` alone, else the rest.
pub(crate) fn follow(copy: &mut Value, delta: &Value) {
    let part = |name: &str| delta.get(name).filter(|part| !part.is_null());
    if let Some(reset) = part("reset") {
        *copy = without_trace(reset);
        return;
    }
    if let Some(commands) = part("commands").and_then(Value::as_array) {
        for command in commands {
            let path: Vec<&str> = command["path"].as_str().expect("a path").split('.').collect();
            if path[0] == TRACE {
                continue;
            }
            match command["type"].as_str() {
                Some("set") => {
                    members(copy);
                    set(copy, &path, command.get("value").unwrap_or(&Value::Null));
                }
                _ => remove_from(copy, &path),
            }
        }
        return;
    }
    for (name, value) in part("added").and_then(Value::as_object).into_iter().flatten() {
        if name != TRACE {
            members(copy).insert(name.clone(), value.clone());
        }
    }
    for (name, value) in part("updated").and_then(Value::as_object).into_iter().flatten() {
        if name != TRACE {
            merge(members(copy), name, value);
        }
    }
    for name in part("removed").and_then(Value::as_array).into_iter().flatten() {
        remove_from(copy, &[name.as_str().expect("a name")]);
    }
}

fn without_trace(value: &Value) -> Value {
    let mut value = value.clone();
    if let Some(members) = value.as_object_mut() {
        members.remove(TRACE);
    }
    value
}

/// Returns how deep a value is nested; a plain one counts as 0.
fn depth(value: &Value) -> usize {
    match value {
        Value::Array(values) => 1 + values.iter().map(depth).max().unwrap_or(0),
        Value::Object(values) => 1 + values.values().map(depth).max().unwrap_or(0),
        _ => 0,
    }
}

/// Returns the members of a value that is an object, or becomes an empty one.
fn members(value: &mut Value) -> &mut Map<String, Value> {
    if !value.is_object() {
        *value = Value::Object(Map::new());
    }
    value.as_object_mut().expect("an object")
}

fn merge(into: &mut Map<String, Value>, name: &str, value: &Value) {
    match (into.get_mut(name), value) {
        (Some(Value::Object(old)), Value::Object(new)) => {
            old.extend(new.iter().map(|(name, value)| (name.clone(), value.clone())));
        }
        _ => drop(into.insert(name.to_owned(), value.clone())),
    }
}

fn index(name: &str) -> Option<usize> {
    let canonical = name == "0" || name.starts_with(|c: char| ('1'..='9').contains(&c));
    (canonical && name.len() <= 7).then(|| name.parse().ok())?
}

fn set(value: &mut Value, path: &[&str], to: &Value) {
    let Some((first, rest)) = path.split_first() else {
        *value = to.clone();
        return;
    };
    let part = match value {
        Value::Array(elements) => {
            let Some(index) = index(first).filter(|index| *index < elements.len() + GROWTH_MAX) else {
                return;
            };
            while elements.len() <= index {
                elements.push(Value::Null);
            }
            &mut elements[index]
        }
        _ => members(value).entry(*first).or_insert_with(|| Value::Object(Map::new())),
    };
    if !rest.is_empty() && !part.is_array() {
        members(part);
    }
    set(part, rest, to);
}

/// Removes from a whole value: only an object has parts.
fn remove_from(whole: &mut Value, path: &[&str]) {
    if whole.is_object() {
        remove(whole, path);
    }
}

fn remove(value: &mut Value, path: &[&str]) {
    let Some((first, rest)) = path.split_first() else { return };
    match value {
        Value::Array(elements) => {
            let Some(element) = index(first).and_then(|index| elements.get_mut(index)) else { return };
            match rest {
                [] => *element = Value::Null,
                rest => remove(element, rest),
            }
        }
        Value::Object(members) => match rest {
            [] => drop(members.remove(*first)),
            rest => {
                if let Some(part) = members.get_mut(*first) {
                    remove(part, rest);
                }
            }
        },
        _ => {}
    }
}
