//! The scanner of JSON text against `serde_json`.
//!
//! They differ, on purpose, in two things: the scanner refuses what is nested deeper than
//! `JSON_DEPTH_MAX`, and takes any bytes inside a string, since frames are checked for UTF-8 before.

use bytes::Bytes;
use mesh_model::limits::JSON_DEPTH_MAX;
use mesh_model::{Json, JsonError, Kind, json as scan};
use serde_json::Value;

/// Checks that the scanner accepts what `serde_json` accepts, and finds the same in it.
pub fn json(data: &[u8]) {
    let text = Bytes::copy_from_slice(data);
    let found = Json::parse(text.clone());
    let members = scan::members(&text, mesh_model::limits::JsonLimits::WIDEST);
    let Ok(utf8) = std::str::from_utf8(data) else {
        // Not compared, but it must not panic.
        if let Ok(found) = found {
            walk(&found);
        }
        return;
    };
    let known = serde_json::from_str::<serde::de::IgnoredAny>(utf8).is_ok();
    match &found {
        Ok(_) => assert!(known, "accepted, but is no JSON"),
        Err(JsonError::TooDeep { .. }) => {
            assert!(depth(utf8.as_bytes()) >= JSON_DEPTH_MAX, "refused as too deep, but is not");
        }
        Err(error) => assert!(!known, "refused, but is JSON: {error}"),
    }
    let is_object = found.as_ref().is_ok_and(|found| found.kind() == Kind::Object);
    assert_eq!(members.is_ok(), is_object, "members and the whole disagree");
    let Ok(found) = found else { return };
    assert_eq!(found.as_bytes().as_ref(), utf8.trim_matches([' ', '\t', '\n', '\r']).as_bytes());
    walk(&found);
    // Lone surrogates and numbers out of range are what only the scanner takes.
    if let Ok(value) = serde_json::from_str::<Value>(utf8) {
        same(&found, &value);
    }
}

/// Returns the deepest nesting of brackets outside strings.
fn depth(text: &[u8]) -> usize {
    let (mut depth, mut deepest, mut quoted, mut escaped) = (0_usize, 0, false, false);
    for byte in text {
        match byte {
            _ if escaped => escaped = false,
            b'\\' if quoted => escaped = true,
            b'"' => quoted = !quoted,
            b'{' | b'[' if !quoted => {
                depth += 1;
                deepest = deepest.max(depth);
            }
            b'}' | b']' if !quoted => depth = depth.saturating_sub(1),
            _ => {}
        }
    }
    deepest
}

/// Looks at every part, and checks that a part is JSON by itself and that keys survive being written.
fn walk(json: &Json) {
    assert_eq!(Json::parse(json.as_bytes().clone()).as_ref(), Ok(json));
    for (key, value) in json.members().unwrap_or_default() {
        let mut written = Vec::new();
        scan::write_string(&mut written, &key.0);
        if std::str::from_utf8(json.as_bytes()).is_ok() {
            let again = Json::parse(written.into()).expect("a written key is JSON");
            assert!(std::str::from_utf8(again.as_bytes()).is_ok(), "a written key is UTF-8");
            assert_eq!(again.as_key().as_ref(), Some(&key));
        }
        walk(&value);
    }
    json.elements().unwrap_or_default().iter().for_each(walk);
}

fn same(json: &Json, value: &Value) {
    match value {
        Value::Null => assert!(json.is_null()),
        Value::Bool(is) => assert_eq!(json.to_string(), is.to_string()),
        Value::Number(number) => {
            // `serde_json` may be off by the last bit.
            let (found, known) = (json.to_string().parse::<f64>().ok(), number.as_f64());
            let (Some(found), Some(known)) = (found, known) else { panic!("{json} is {number}") };
            assert!((found - known).abs() <= found.abs() * 1e-14, "{json} is {number}");
        }
        Value::String(text) => {
            assert_eq!(json.as_text().as_deref(), Some(text.as_str()));
            assert_eq!(Json::string(text).as_text().as_deref(), Some(text.as_str()));
        }
        Value::Array(values) => {
            let elements = json.elements().expect("an array");
            assert_eq!(elements.len(), values.len());
            elements.iter().zip(values).for_each(|(json, value)| same(json, value));
        }
        Value::Object(values) => {
            let members = json.members().expect("an object");
            for (name, value) in values {
                same(&json.member(name).expect("a member that is there"), value);
            }
            let known = |key: &[u8]| std::str::from_utf8(key).is_ok_and(|key| values.contains_key(key));
            assert!(members.iter().all(|(key, _)| known(&key.0)));
        }
    }
}
