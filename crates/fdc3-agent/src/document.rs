//! The shared context of a channel: FDC3 contexts in the layout of io.Connect's own FDC3 library.
//!
//! ```json
//! { "data": { "fdc3_fdc3&instrument": { "id": { "ticker": "VOD" } }, "clientId": 7 },
//!   "latest_fdc3_type": "fdc3&instrument",
//!   "___fdc3___": { "fdc3&instrument": { "event": "…", "of": "…", "source": {…}, "time": 1700000000000 } } }
//! ```
//!
//! A context stands without its `type`, whose dots are written `&`. What that layout has no place for is
//! beside it in `___fdc3___`: which broadcast it was, whose, when, with which metadata, and, where the
//! context could not be put together again byte by byte, its text. That is believed only as long as it
//! is `of` the value that stands there.

use std::collections::BTreeSet;

use mesh_model::json::{Edit, edited, object};
use mesh_model::{Json, Key, Kind, Text};
use proto_dacp::{Object, array};

/// The member with what io.Connect's layout has no place for.
const ASIDE: &str = "___fdc3___";
const LATEST: &str = "latest_fdc3_type";
const PREFIX: &str = "fdc3_";

/// The value of a channel's shared context.
#[derive(Clone, Debug)]
pub(crate) struct Document(Json);

/// A context on a channel, as it was broadcast.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Slot {
    pub(crate) kind: Text,
    pub(crate) context: Json,
    /// What is known of the broadcast that made it; nothing if that was a change by an io.Connect app.
    pub(crate) cast: Option<Cast>,
}

/// What is known of a broadcast beside its context.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Cast {
    /// Its id.
    pub(crate) event: Text,
    /// The app, as an `AppIdentifier`.
    pub(crate) source: Json,
    /// When, in milliseconds since 1970.
    pub(crate) wall_ms: u64,
    /// The metadata of a 3.0 client.
    pub(crate) metadata: Option<Json>,
}

impl Default for Document {
    fn default() -> Self {
        Self(Json::from_static("{}"))
    }
}

impl Document {
    pub(crate) const fn new(value: Json) -> Self {
        Self(value)
    }

    pub(crate) fn into_json(self) -> Json {
        self.0
    }

    /// Applies a change as the client libraries do, and returns which types it speaks of.
    pub(crate) fn apply(&mut self, delta: &Json) -> BTreeSet<Text> {
        let mut types = BTreeSet::new();
        let before = self.types();
        if let Some(value) = delta.member("reset").filter(|value| value.kind() == Kind::Object) {
            self.0 = value;
            types.extend(before);
            types.extend(self.types());
            return types;
        }
        let commands = delta.member("commands").and_then(|commands| commands.elements()).unwrap_or_default();
        if commands.is_empty() {
            self.apply_keys(delta, &mut types);
        }
        for command in commands {
            let Some(path) = command.member("path").and_then(|path| path.as_key()) else { continue };
            let path: Vec<Key> =
                path.0.split(|byte| *byte == b'.').map(|part| Key(path.0.slice_ref(part))).collect();
            let removes = command.member("type").and_then(|kind| kind.as_text()).as_deref() == Some("remove");
            let value = command.member("value").unwrap_or_else(Json::null);
            let edit = if removes { Edit::Remove } else { Edit::Set(&value) };
            self.touched(&path, &mut types);
            self.0 = edited(&self.0, &path, edit);
            self.touched(&path, &mut types);
        }
        types
    }

    fn apply_keys(&mut self, delta: &Json, types: &mut BTreeSet<Text>) {
        for part in ["added", "updated"] {
            for (key, value) in delta.member(part).and_then(|part| part.members()).unwrap_or_default() {
                let path = [key];
                self.touched(&path, types);
                let old = self.0.members().and_then(|members| {
                    members.into_iter().rev().find(|(other, _)| *other == path[0]).map(|(_, value)| value)
                });
                let merged = match (part, old.and_then(|old| old.members()), value.members()) {
                    ("updated", Some(mut old), Some(new)) => {
                        old.retain(|(key, _)| !new.iter().any(|(other, _)| other == key));
                        old.extend(new);
                        object(old.iter().map(|(key, value)| (key, value)))
                    }
                    _ => value,
                };
                self.0 = edited(&self.0, &path, Edit::Set(&merged));
                self.touched(&path, types);
            }
        }
        for key in delta.member("removed").and_then(|removed| removed.elements()).unwrap_or_default() {
            let Some(key) = key.as_key() else { continue };
            self.touched(std::slice::from_ref(&key), types);
            self.0 = edited(&self.0, &[key], Edit::Remove);
        }
    }

    /// Adds the types that stand at a path or below.
    fn touched(&self, path: &[Key], types: &mut BTreeSet<Text>) {
        match path {
            [data] if data.0 == b"data"[..] => types.extend(self.types()),
            [data, name, ..] if data.0 == b"data"[..] => types.extend(type_of_key(name)),
            _ => {}
        }
    }

    /// Returns the types of which there is a context.
    pub(crate) fn types(&self) -> BTreeSet<Text> {
        let data = self.0.member("data").and_then(|data| data.members()).unwrap_or_default();
        data.iter()
            .filter(|(_, value)| value.kind() == Kind::Object)
            .filter_map(|(key, _)| type_of_key(key))
            .collect()
    }

    /// Returns the context of a type, or the newest one.
    pub(crate) fn slot(&self, kind: Option<&str>) -> Option<Slot> {
        let wire = match kind {
            Some(kind) => wire(kind),
            None => self.latest()?,
        };
        let value = self.0.member("data")?.member(&format!("{PREFIX}{wire}"))?;
        if value.kind() != Kind::Object {
            return None;
        }
        let kind: Text = wire.replace('&', ".").into();
        let aside = self.0.member(ASIDE).and_then(|aside| aside.member(&wire));
        let aside = aside.filter(|aside| {
            aside.member("of").and_then(|of| of.as_text()).is_some_and(|of| *of == *fingerprint(&value))
        });
        let context = aside
            .as_ref()
            .and_then(|aside| aside.member("text")?.as_text())
            .and_then(|text| Json::parse(text.as_bytes().clone()).ok());
        let at = aside.as_ref().and_then(|aside| number(&aside.member("at")?)).unwrap_or(0);
        let context = context.unwrap_or_else(|| with_type(&value, &kind, at));
        let kind = proto_dacp::context_type(&context).unwrap_or(kind);
        let cast = aside.and_then(|aside| {
            Some(Cast {
                event: aside.member("event")?.as_text()?,
                source: aside.member("source")?,
                wall_ms: number(&aside.member("time")?)?,
                metadata: aside.member("metadata"),
            })
        });
        Some(Slot { kind, context, cast })
    }

    /// The newest type on the wire: what is said to be, as long as there is such a context.
    fn latest(&self) -> Option<String> {
        let data = self.0.member("data")?;
        let there = |wire: &str| data.member(&format!("{PREFIX}{wire}")).is_some();
        let said = self.0.member(LATEST).and_then(|said| said.as_text()).map(|said| said.to_string());
        said.filter(|said| there(said)).or_else(|| {
            let time = |kind: &Text| self.slot(Some(kind)).and_then(|slot| Some(slot.cast?.wall_ms));
            self.types().into_iter().max_by_key(time).map(|kind| wire(&kind))
        })
    }

    /// Returns what an io.Connect channel says about itself.
    pub(crate) fn meta(&self) -> Option<Json> {
        self.0.member("meta")
    }
}

/// Returns the change of a channel's shared context that a broadcast is.
pub(crate) fn broadcast(kind: &str, context: &Json, cast: &Cast) -> Json {
    commands(&changes(kind, context, cast))
}

/// Returns the change that puts a context beside the newest one.
pub(crate) fn older(kind: &str, context: &Json, cast: &Cast) -> Json {
    let [value, _, aside] = changes(kind, context, cast);
    commands(&[value, aside])
}

fn changes(kind: &str, context: &Json, cast: &Cast) -> [Json; 3] {
    let wire = wire(kind);
    let (value, at) = without_type(context);
    // As it is read again: of a type with `&` only the text is left.
    let exact = with_type(&value, &wire.replace('&', "."), at) == *context;
    let text = (!exact).then(|| context.to_string());
    let aside = Object::new()
        .text("event", &cast.event)
        .text("of", &fingerprint(&value))
        .json("source", &cast.source)
        .number("time", cast.wall_ms)
        .number("at", at)
        .some("metadata", cast.metadata.as_ref())
        .some_text("text", text.as_deref())
        .end();
    [
        set(&format!("data.{PREFIX}{wire}"), &value),
        set(LATEST, &Json::string(&wire)),
        set(&format!("{ASIDE}.{wire}"), &aside),
    ]
}

/// Returns the change that takes a context away, or all of these.
pub(crate) fn cleared(types: &BTreeSet<Text>, all: bool) -> Json {
    let mut changes: Vec<Json> = Vec::new();
    for kind in types {
        let wire = wire(kind);
        changes.push(remove(&format!("data.{PREFIX}{wire}")));
        changes.push(remove(&format!("{ASIDE}.{wire}")));
    }
    if all {
        changes.push(remove(LATEST));
    }
    commands(&changes)
}

/// Returns the change that makes `data` an object and leaves in it what there may be.
pub(crate) fn with_data() -> Json {
    let path = format!("data.{PREFIX}");
    commands(&[set(&path, &Json::null()), remove(&path)])
}

fn commands(commands: &[Json]) -> Json {
    Object::new()
        .json("added", &Json::from_static("{}"))
        .json("updated", &Json::from_static("{}"))
        .json("removed", &Json::from_static("[]"))
        .json("commands", &array(commands))
        .end()
}

fn set(path: &str, value: &Json) -> Json {
    Object::new().text("type", "set").text("path", path).json("value", value).end()
}

fn remove(path: &str) -> Json {
    Object::new().text("type", "remove").text("path", path).end()
}

fn wire(kind: &str) -> String {
    kind.replace('.', "&")
}

fn type_of_key(key: &Key) -> Option<Text> {
    let name = std::str::from_utf8(&key.0).ok()?;
    name.strip_prefix(PREFIX).map(|wire| wire.replace('&', ".").into())
}

fn number(value: &Json) -> Option<u64> {
    std::str::from_utf8(value.as_bytes()).ok()?.parse().ok()
}

fn fingerprint(value: &Json) -> String {
    blake3::hash(value.as_bytes()).to_hex()[..16].to_owned()
}

/// Returns a context without its type, and where that stood.
fn without_type(context: &Json) -> (Json, u64) {
    let mut members = context.members().unwrap_or_default();
    let at = members.iter().position(|(key, _)| key.0 == b"type"[..]).unwrap_or(0);
    members.retain(|(key, _)| key.0 != b"type"[..]);
    (object(members.iter().map(|(key, value)| (key, value))), at as u64)
}

pub(crate) fn with_type(value: &Json, kind: &str, at: u64) -> Json {
    let mut members = value.members().unwrap_or_default();
    if !members.iter().any(|(key, _)| key.0 == b"type"[..]) {
        let at = usize::try_from(at).unwrap_or(usize::MAX).min(members.len());
        members.insert(at, (Key::new("type"), Json::string(kind)));
    }
    object(members.iter().map(|(key, value)| (key, value)))
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;

    use super::*;

    fn json(text: &str) -> Json {
        Json::parse(Bytes::copy_from_slice(text.as_bytes())).unwrap()
    }

    fn cast(event: &str) -> Cast {
        Cast { event: event.into(), source: json(r#"{"appId":"a"}"#), wall_ms: 7, metadata: None }
    }

    #[test]
    fn a_context_comes_back_byte_by_byte() {
        for text in [
            r#"{"type":"fdc3.instrument","id":{"ticker":"A"}}"#,
            r#"{"n":1.0,"type":"fdc3.instrument","big":12345678901234567890}"#,
            r#"{"s":"\ud800","type":"fdc3.instrument"}"#,
            r#"{"type": "fdc3.instrument", "spaced": 1}"#,
            r#"{"type":"fdc3.instrument","a":1,"a":2}"#,
        ] {
            let mut document = Document::default();
            let types = document.apply(&broadcast("fdc3.instrument", &json(text), &cast("e")));
            assert_eq!(types, BTreeSet::from(["fdc3.instrument".into()]));
            let slot = document.slot(None).unwrap();
            assert_eq!((slot.context.to_string().as_str(), slot.cast), (text, Some(cast("e"))));
            assert_eq!(document.slot(Some("fdc3.instrument")).unwrap().context, json(text));
        }
    }

    #[test]
    fn a_type_with_an_ampersand_keeps_it() {
        let context = json(r#"{"type":"a&b","v":1}"#);
        let mut document = Document::default();
        document.apply(&broadcast("a&b", &context, &cast("e")));
        let slot = document.slot(Some("a&b")).unwrap();
        assert_eq!((&*slot.kind, slot.context), ("a&b", context));
    }

    #[test]
    fn changes_of_io_connect_apps_are_contexts_of_nobody() {
        let mut document = Document::default();
        document.apply(&broadcast("x.y", &json(r#"{"type":"x.y","v":1}"#), &cast("e")));
        let delta = json(
            r#"{"commands":[{"type":"set","path":"data.fdc3_x&y","value":{"v":2}},{"type":"set","path":"latest_fdc3_type","value":"x&y"}]}"#,
        );
        assert_eq!(document.apply(&delta), BTreeSet::from(["x.y".into()]));
        let slot = document.slot(Some("x.y")).unwrap();
        assert_eq!((slot.context, slot.cast), (json(r#"{"type":"x.y","v":2}"#), None));
        // A part of one, and other keys.
        let delta = json(
            r#"{"commands":[{"type":"set","path":"data.fdc3_x&y.v","value":3},{"type":"set","path":"data.k","value":1}]}"#,
        );
        assert_eq!(document.apply(&delta), BTreeSet::from(["x.y".into()]));
        assert_eq!(document.slot(None).unwrap().context, json(r#"{"type":"x.y","v":3}"#));
        // All of it.
        assert_eq!(document.apply(&json(r#"{"updated":{"data":{"fdc3_z":{}}}}"#)).len(), 2);
        assert_eq!(document.slot(Some("z")).unwrap().context, json(r#"{"type":"z"}"#));
        assert_eq!(document.apply(&json(r#"{"reset":{"data":{}}}"#)).len(), 2);
        assert_eq!((document.slot(None), document.types().len()), (None, 0));
    }

    #[test]
    fn what_is_cleared_is_gone() {
        let mut document = Document::default();
        for kind in ["x.y", "z"] {
            let context = json(&format!(r#"{{"type":"{kind}"}}"#));
            document.apply(&broadcast(kind, &context, &cast(kind)));
        }
        document.apply(&cleared(&BTreeSet::from(["z".into()]), false));
        assert_eq!(document.slot(Some("z")), None);
        assert_eq!(document.slot(None).unwrap().kind, "x.y", "what is newest of the rest");
        document.apply(&cleared(&document.types(), true));
        assert!(document.types().is_empty());
    }
}
