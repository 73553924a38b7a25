//! The text of a directory to records.

use std::collections::BTreeMap;
use std::collections::btree_map::Entry;
use std::fmt;

use bytes::Bytes;
use mesh_model::limits::NAME_BYTES_MAX;
use mesh_model::{Json, JsonError, Key, Kind, Text, json};

use crate::{AppType, AppUrl, Details, ListensFor, Record, arguments};

/// What a directory holds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Parsed {
    /// Its records, in order.
    pub records: Vec<Record>,
    /// What is wrong with some of them.
    pub warnings: Vec<Warning>,
}

/// What is wrong with one record. It says also what follows from that.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Warning {
    /// Which record, from 0.
    pub index: usize,
    /// Its id, if it has one.
    pub app_id: Option<Text>,
    /// The member at fault, such as `details.url`; empty for the record as a whole.
    pub member: String,
    /// What it must be, and what is done without it.
    pub problem: &'static str,
}

/// Why a text is no directory.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum DirectoryError {
    /// It is not UTF-8.
    #[error("it is not UTF-8")]
    NotUtf8,
    /// It is not JSON.
    #[error("it is not JSON: {0}")]
    NotJson(#[from] JsonError),
    /// It is JSON of another kind.
    #[error("it has neither `applications`, a list of records, nor an `appId`, and is no list of records")]
    NoApplications,
}

/// Reads a directory: `{"applications":[…]}`, a list of records, or one record.
///
/// A record without a usable id is left out with a warning; one with other faults is kept without them.
///
/// # Errors
///
/// Returns an error if the text is no directory at all.
pub fn parse(text: &[u8]) -> Result<Parsed, DirectoryError> {
    // Some editors write a byte order mark.
    let text = text.strip_prefix(b"\xef\xbb\xbf").unwrap_or(text);
    std::str::from_utf8(text).map_err(|_| DirectoryError::NotUtf8)?;
    let json = Json::parse(Bytes::copy_from_slice(text))?;
    let elements = match Object::of(&json) {
        None => json.elements(),
        Some(object) => match object.get("applications") {
            Some(applications) => applications.elements(),
            None => object.get("appId").is_some().then(|| vec![json]),
        },
    };
    let mut parsed = Parsed { records: Vec::new(), warnings: Vec::new() };
    for (index, raw) in elements.ok_or(DirectoryError::NoApplications)?.into_iter().enumerate() {
        let mut reader = Reader { index, app_id: None, warnings: &mut parsed.warnings };
        parsed.records.extend(reader.record(raw));
    }
    Ok(parsed)
}

/// Reads one record, and notes what is wrong with it.
struct Reader<'a> {
    index: usize,
    app_id: Option<Text>,
    warnings: &'a mut Vec<Warning>,
}

impl Reader<'_> {
    fn record(&mut self, raw: Json) -> Option<Record> {
        let Some(object) = Object::of(&raw) else {
            self.warn("", "must be an object; it is left out");
            return None;
        };
        let app_id = object.get("appId").and_then(|id| id.as_text()).filter(|id| is_name(id));
        let Some(app_id) = app_id else {
            self.warn("appId", "must be a text of 1 to 1024 bytes; the record is left out");
            return None;
        };
        self.app_id = Some(app_id.clone());
        let metadata = self.metadata(&object);
        let title = ["title", "name"].iter().find_map(|name| metadata.member(name)?.as_text());
        let app_type = object.get("type").and_then(|word| AppType::of_word(&word.as_text()?));
        if app_type.is_none() {
            self.warn(
                "type",
                "must be web, native, citrix, onlineNative or other; the app cannot be started",
            );
        }
        let app_type = app_type.unwrap_or(AppType::Other);
        let details = self.details(app_type, &object);
        Some(Record {
            title: title.filter(|title| !title.is_empty()).unwrap_or_else(|| app_id.clone()),
            app_id,
            app_type,
            details,
            intents: self.intents(&object),
            metadata,
            raw,
        })
    }

    fn metadata(&mut self, object: &Object) -> Json {
        let mut members = Vec::new();
        for (name, kind) in METADATA {
            let Some(value) = object.get(name) else { continue };
            if value.kind() == kind {
                members.push((Key::new(name), value.clone()));
            } else {
                let must = if kind == Kind::String {
                    "must be a text; it is left out"
                } else {
                    "must be a list; it is left out"
                };
                self.warn(name, must);
            }
        }
        json::object(members.iter().map(|(name, value)| (name, value)))
    }

    fn details(&mut self, app_type: AppType, object: &Object) -> Details {
        let details = object.get("details").and_then(Object::of).unwrap_or_default();
        let details = match app_type {
            AppType::Web => self.web(&details),
            AppType::Native => self.native(&details),
            AppType::Citrix | AppType::OnlineNative | AppType::Other => None,
        };
        details.unwrap_or(Details::Other)
    }

    fn web(&mut self, details: &Object) -> Option<Details> {
        let url = details.get("url").and_then(|url| AppUrl::parse(&url.as_text()?));
        if url.is_none() {
            self.warn("details.url", "must be an http:// or https:// address; the app cannot be opened");
        }
        Some(Details::Web { url: url? })
    }

    fn native(&mut self, details: &Object) -> Option<Details> {
        let path = details.get("path").and_then(Json::as_text).filter(|path| is_argument(path));
        if path.as_ref().is_none_or(|path| path.is_empty()) {
            self.warn("details.path", "must be the path of a program; the app cannot be started");
            return None;
        }
        let arguments = match details.get("arguments") {
            None => Some(Vec::new()),
            Some(given) => match given.elements() {
                Some(elements) => elements.iter().map(Json::as_text).collect(),
                None => given.as_text().and_then(|text| arguments::split(&text)),
            },
        };
        let arguments = arguments.filter(|arguments| arguments.iter().all(|argument| is_argument(argument)));
        if arguments.is_none() {
            let problem =
                "must be a text with its quotes closed, or a list of texts; the app cannot be started";
            self.warn("details.arguments", problem);
        }
        Some(Details::Native { path: path?, arguments: arguments? })
    }

    fn intents(&mut self, object: &Object) -> Vec<ListensFor> {
        let member = |object: &Object, name| object.get(name).and_then(Object::of);
        let listens_for = member(object, "interop").and_then(|interop| member(&interop, "intents"));
        let Some(listens_for) = listens_for.and_then(|intents| intents.get("listensFor").cloned()) else {
            return Vec::new();
        };
        let Some(listens_for) = Object::of(&listens_for) else {
            self.warn("interop.intents.listensFor", "must be an object; the app handles no intents");
            return Vec::new();
        };
        let mut intents: Vec<ListensFor> = Vec::new();
        let mut known = BTreeMap::new();
        for (name, listens) in &listens_for.0 {
            let intent = Text::from_utf8(name.0.clone()).ok().filter(|intent| is_name(intent));
            let (Some(intent), Some(listens)) = (intent, Object::of(listens)) else {
                let member = format!("interop.intents.listensFor.{}", String::from_utf8_lossy(&name.0));
                self.warn(
                    &member,
                    "must be an object with a name of 1 to 1024 bytes; the intent is left out",
                );
                continue;
            };
            let listens = self.listens(intent.clone(), &listens);
            // As a JSON parser would have it, the last of one name counts.
            match known.entry(intent) {
                Entry::Occupied(at) => intents[*at.get()] = listens,
                Entry::Vacant(at) => {
                    at.insert(intents.len());
                    intents.push(listens);
                }
            }
        }
        intents
    }

    fn listens(&mut self, intent: Text, listens: &Object) -> ListensFor {
        let contexts = listens
            .get("contexts")
            .map_or(Some(Vec::new()), |contexts| contexts.elements()?.iter().map(Json::as_text).collect());
        if contexts.is_none() {
            let member = format!("interop.intents.listensFor.{intent}.contexts");
            self.warn(&member, "must be a list of texts; the intent is handled for no context type");
        }
        let text = |name| listens.get(name).and_then(Json::as_text);
        ListensFor {
            intent,
            display_name: text("displayName"),
            contexts: contexts.unwrap_or_default(),
            result_type: text("resultType"),
        }
    }

    fn warn(&mut self, member: &str, problem: &'static str) {
        let (index, app_id) = (self.index, self.app_id.clone());
        self.warnings.push(Warning { index, app_id, member: member.to_owned(), problem });
    }
}

/// The members of an object.
#[derive(Default)]
struct Object(Vec<(Key, Json)>);

impl Object {
    fn of(json: &Json) -> Option<Self> {
        json.members().map(Self)
    }

    /// Returns a member. One that is `null` counts as missing: programs write it for what they lack.
    fn get(&self, name: &str) -> Option<&Json> {
        let (_, value) = self.0.iter().rev().find(|(key, _)| key.0 == name.as_bytes())?;
        (!value.is_null()).then_some(value)
    }
}

impl fmt::Display for Warning {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "record {}", self.index)?;
        if let Some(app_id) = &self.app_id {
            write!(f, " (`{app_id}`)")?;
        }
        if !self.member.is_empty() {
            write!(f, ": `{}`", self.member)?;
        }
        write!(f, " {}", self.problem)
    }
}

fn is_name(text: &str) -> bool {
    (1..=NAME_BYTES_MAX).contains(&text.len())
}

/// No system can pass a zero byte to a program.
fn is_argument(text: &str) -> bool {
    !text.contains('\0')
}

/// The members of a record that make up its metadata.
const METADATA: [(&str, Kind); 8] = [
    ("appId", Kind::String),
    ("name", Kind::String),
    ("version", Kind::String),
    ("title", Kind::String),
    ("tooltip", Kind::String),
    ("description", Kind::String),
    ("icons", Kind::Array),
    ("screenshots", Kind::Array),
];

#[cfg(test)]
mod tests {
    use super::*;

    const FULL: &str = r#"{"applications":[{
        "appId":"pricer@desk.example","name":"pricer","version":"1.0","title":"Pricer","tooltip":null,
        "description":"Prices \u00e4nything","icons":[{"src":"https://a.example/i.png","size":"1x1"}],
        "screenshots":[],"lang":"en","type":"web","details":{"url":"https://a.example/app?x=1"},
        "interop":{"intents":{"listensFor":{
            "GetPrice":{"contexts":["fdc3.instrument"],"displayName":"Price","resultType":"x.price"},
            "Ping":{}},"raises":{}}},"x":1.0}]}"#;

    fn one(text: &str) -> (Record, Vec<String>) {
        let parsed = parse(text.as_bytes()).unwrap();
        let warnings = parsed.warnings.iter().map(ToString::to_string).collect();
        let [record] = <[Record; 1]>::try_from(parsed.records).unwrap();
        (record, warnings)
    }

    #[test]
    fn reads_a_record() {
        let (record, warnings) = one(FULL);
        assert_eq!(warnings, [""; 0]);
        assert_eq!(
            (&*record.app_id, &*record.title, record.app_type),
            ("pricer@desk.example", "Pricer", AppType::Web)
        );
        let Details::Web { url } = &record.details else { panic!("{record:?}") };
        assert_eq!(url.as_str(), "https://a.example/app?x=1");
        let listens = |intent: &str,
                       display_name: Option<&str>,
                       contexts: &[&str],
                       result_type: Option<&str>| ListensFor {
            intent: intent.into(),
            display_name: display_name.map(Text::from),
            contexts: contexts.iter().map(|context| Text::from(*context)).collect(),
            result_type: result_type.map(Text::from),
        };
        let expected = [
            listens("GetPrice", Some("Price"), &["fdc3.instrument"], Some("x.price")),
            listens("Ping", None, &[], None),
        ];
        assert_eq!(record.intents, expected);
        assert_eq!(
            record.metadata.to_string(),
            r#"{"appId":"pricer@desk.example","name":"pricer","version":"1.0","title":"Pricer","description":"Prices \u00e4nything","icons":[{"src":"https://a.example/i.png","size":"1x1"}],"screenshots":[]}"#
        );
        assert_eq!(record.description().as_deref(), Some("Prices änything"));
        assert_eq!(record.icon().as_deref(), Some("https://a.example/i.png"));
        assert_eq!(record.raw.member("x").unwrap().to_string(), "1.0");
    }

    #[test]
    fn a_directory_has_three_forms() {
        let record = r#"{"appId":"a","title":"A","type":"other"}"#;
        for text in [
            format!("{{\"applications\":[{record}],\"message\":\"OK\"}}"),
            format!(" [{record}]\n"),
            record.to_owned(),
            format!("\u{feff}{record}"),
        ] {
            let (record, warnings) = one(&text);
            assert_eq!((&*record.app_id, warnings.len()), ("a", 0), "{text}");
        }
        for empty in ["[]", r#"{"applications":[]}"#] {
            assert_eq!(parse(empty.as_bytes()), Ok(Parsed { records: vec![], warnings: vec![] }));
        }
    }

    #[test]
    fn what_is_no_directory_is_refused() {
        for (text, expected) in [
            (&b"\xff"[..], "it is not UTF-8"),
            (b"", "it is not JSON: the text ends inside a value"),
            (b"[{]", "it is not JSON: unexpected byte at 2"),
            (b"<html>", "it is not JSON: unexpected byte at 0"),
        ] {
            assert_eq!(parse(text).unwrap_err().to_string(), expected);
        }
        for text in [
            "{}",
            "5",
            "null",
            "\"a\"",
            r#"{"applications":{}}"#,
            r#"{"applications":null}"#,
            r#"{"appId":null}"#,
        ] {
            assert_eq!(parse(text.as_bytes()), Err(DirectoryError::NoApplications), "{text}");
        }
        let deep = [vec![b'['; 200], vec![b']'; 200]].concat();
        assert!(parse(&deep).unwrap_err().to_string().contains("json_depth_max"));
    }

    #[test]
    fn a_bad_record_costs_itself_alone() {
        let long = "x".repeat(NAME_BYTES_MAX + 1);
        let text = format!(
            r#"[5,{{"title":"no id"}},{{"appId":""}},{{"appId":7}},{{"appId":"\ud800"}},{{"appId":"{long}"}},{{"appId":"good","type":"other"}}]"#
        );
        let parsed = parse(text.as_bytes()).unwrap();
        assert_eq!(parsed.records.len(), 1);
        assert_eq!(parsed.records[0].app_id, "good");
        let warnings: Vec<_> = parsed.warnings.iter().map(ToString::to_string).collect();
        assert_eq!(warnings[0], "record 0 must be an object; it is left out");
        for (index, warning) in warnings.iter().enumerate().skip(1) {
            let expected = "`appId` must be a text of 1 to 1024 bytes; the record is left out";
            assert_eq!(*warning, format!("record {index}: {expected}"));
        }
        assert_eq!(warnings.len(), 6);
    }

    #[test]
    fn a_record_with_faults_is_kept_without_them() {
        for (members, warning) in [
            (
                r#""type":"web""#,
                "`details.url` must be an http:// or https:// address; the app cannot be opened",
            ),
            (r#""type":"web","details":{"url":"javascript:x"}"#, "`details.url` must be"),
            (r#""type":"web","details":7"#, "`details.url` must be"),
            (r#""type":"native","details":{}"#, "`details.path` must be"),
            (r#""type":"native","details":{"path":""}"#, "`details.path` must be"),
            (r#""type":"native","details":{"path":"a\u0000b"}"#, "`details.path` must be"),
            (r#""type":"native","details":{"path":"p","arguments":"'"}"#, "`details.arguments` must be"),
            (r#""type":"native","details":{"path":"p","arguments":[5]}"#, "`details.arguments` must be"),
            (
                r#""type":"native","details":{"path":"p","arguments":["\u0000"]}"#,
                "`details.arguments` must be",
            ),
            (r#""type":"floppy""#, "`type` must be"),
            (r#""x":1"#, "`type` must be"),
            (r#""type":"other","title":5"#, "`title` must be a text; it is left out"),
            (r#""type":"other","icons":"i.png""#, "`icons` must be a list; it is left out"),
            (
                r#""type":"other","interop":{"intents":{"listensFor":[]}}"#,
                "`interop.intents.listensFor` must be an object",
            ),
            (
                r#""type":"other","interop":{"intents":{"listensFor":{"I":7}}}"#,
                "`interop.intents.listensFor.I` must be an object",
            ),
        ] {
            let (record, warnings) = one(&format!(r#"{{"appId":"a",{members}}}"#));
            let [found] = &warnings[..] else { panic!("{members}: {warnings:?}") };
            assert!(found.starts_with(&format!("record 0 (`a`): {warning}")), "{members}: {found}");
            assert_eq!((&record.details, &*record.title), (&Details::Other, "a"), "{members}");
            assert_eq!(
                (record.intents.len(), &*record.metadata.to_string()),
                (0, r#"{"appId":"a"}"#),
                "{members}"
            );
        }
        let text =
            r#"{"appId":"a","type":"other","interop":{"intents":{"listensFor":{"I":{"contexts":"x"}}}}}"#;
        let (record, warnings) = one(text);
        assert!(
            warnings[0].contains("`interop.intents.listensFor.I.contexts` must be a list"),
            "{warnings:?}"
        );
        assert_eq!((record.intents.len(), record.intents[0].contexts.len()), (1, 0));
    }

    #[test]
    fn nulls_count_as_missing() {
        let (record, warnings) = one(
            r#"{"appId":"a","title":null,"name":"N","type":"citrix","details":null,"icons":null,"interop":{"intents":{"listensFor":{"I":{"contexts":null,"displayName":null,"resultType":null}},"raises":null}}}"#,
        );
        assert_eq!((warnings.len(), &*record.title, record.app_type), (0, "N", AppType::Citrix));
        assert_eq!((record.intents[0].contexts.len(), &record.intents[0].display_name), (0, &None));
        assert_eq!(one(r#"{"appId":"a","type":"other","interop":null}"#).0.intents, []);
    }

    #[test]
    fn native_arguments_are_a_text_or_a_list() {
        for (arguments, expected) in [
            ("", &[][..]),
            (r#","arguments":null"#, &[]),
            (r#","arguments":"--a 'b c'""#, &["--a", "b c"]),
            (r#","arguments":["--a","b c",""]"#, &["--a", "b c", ""]),
        ] {
            let text = format!(r#"{{"appId":"a","type":"native","details":{{"path":"/bin/p"{arguments}}}}}"#);
            let (record, warnings) = one(&text);
            assert_eq!(warnings, [""; 0]);
            let arguments = expected.iter().map(|argument| Text::from(*argument)).collect();
            assert_eq!(record.details, Details::Native { path: "/bin/p".into(), arguments }, "{text}");
        }
    }

    #[test]
    fn the_last_of_one_name_counts() {
        let text = r#"{"appId":"a","appId":"b","type":"other","interop":{"intents":{"listensFor":{"I":{"contexts":["x"]},"I":{"contexts":["y"]}}}}}"#;
        let (record, _) = one(text);
        assert_eq!((&*record.app_id, &*record.metadata.to_string()), ("b", r#"{"appId":"b"}"#));
        assert_eq!((record.intents.len(), &*record.intents[0].contexts[0]), (1, "y"));
    }

    #[test]
    fn any_beginning_of_a_directory_is_an_error_and_no_more() {
        for end in 0..FULL.len() {
            assert!(parse(&FULL.as_bytes()[..end]).is_err(), "{end}");
        }
    }
}
