//! JSON as text that passes through.
//!
//! Application values travel as the very text the application sent: decoding and re-encoding would
//! cost time and lose what JSON parsers lose (lone surrogates, big numbers, `1.0`). So the mesh keeps
//! [`Json`], a validated slice, and looks into it only where a rule needs a part: the members of an
//! envelope, the top-level keys of a shared context, a path of a delta.
//!
//! Keys are compared decoded, as [`Key`]: WTF-8, which is UTF-8 that may also hold a lone surrogate.

use std::fmt;
use std::ops::Range;

use bytes::{Bytes, BytesMut};

use crate::Text;
use crate::limits::JsonLimits;

/// One valid JSON value as text, without white space around it. Cheap to clone.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Json(Bytes);

/// A decoded object key: WTF-8 bytes.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Key(pub Bytes);

/// What kind of value a text holds, told by its first byte.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[expect(missing_docs, reason = "the kinds of JSON")]
pub enum Kind {
    Null,
    Bool,
    Number,
    String,
    Array,
    Object,
}

/// Why a text is not JSON, and at which byte.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum JsonError {
    /// The text ends inside a value.
    #[error("the text ends inside a value")]
    End,
    /// A byte that cannot stand where it stands.
    #[error("unexpected byte at {at}")]
    Unexpected {
        /// Offset in bytes.
        at: usize,
    },
    /// Nested deeper than the limit `json_depth_max`.
    #[error("nested deeper than {max} levels (limit json_depth_max)")]
    TooDeep {
        /// The limit.
        max: usize,
    },
    /// An object has more members than the limit `json_keys_max`.
    #[error("an object has more than {max} keys (limit json_keys_max)")]
    TooManyKeys {
        /// The limit.
        max: usize,
    },
    /// Something follows the value.
    #[error("something follows the value at byte {at}")]
    Trailing {
        /// Offset in bytes.
        at: usize,
    },
}

impl Json {
    /// Checks a whole text and returns the value in it.
    pub fn parse(text: Bytes) -> Result<Self, JsonError> {
        let mut scan = Scan { text: &text, at: 0, limits: JsonLimits::WIDEST };
        scan.space();
        let start = scan.at;
        scan.value(0)?;
        let end = scan.at;
        scan.finish()?;
        Ok(Self(text.slice(start..end)))
    }

    /// Wraps text that is known to be JSON, such as text this program wrote.
    #[must_use]
    pub const fn from_static(text: &'static str) -> Self {
        Self(Bytes::from_static(text.as_bytes()))
    }

    /// Wraps text that this program assembled from valid parts.
    #[must_use]
    pub fn assembled(text: Vec<u8>) -> Self {
        debug_assert!(
            Self::parse(Bytes::copy_from_slice(&text)).is_ok(),
            "{}",
            String::from_utf8_lossy(&text)
        );
        Self(Bytes::from(text))
    }

    /// Returns `null`.
    #[must_use]
    pub const fn null() -> Self {
        Self::from_static("null")
    }

    /// Encodes a string.
    #[must_use]
    pub fn string(text: &str) -> Self {
        let mut out = Vec::with_capacity(text.len() + 2);
        write_string(&mut out, text.as_bytes());
        Self(Bytes::from(out))
    }

    /// Returns the text's bytes.
    #[must_use]
    pub fn as_bytes(&self) -> &Bytes {
        &self.0
    }

    /// Returns the length of the text in bytes.
    #[must_use]
    #[expect(clippy::len_without_is_empty, reason = "a JSON text is never empty")]
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Returns a copy in memory of its own; see [`Text::detached`].
    #[must_use]
    pub fn detached(&self) -> Self {
        Self(Bytes::copy_from_slice(&self.0))
    }

    /// Returns what kind of value this is.
    #[must_use]
    pub fn kind(&self) -> Kind {
        kind_of(&self.0)
    }

    /// Returns whether this is `null`.
    #[must_use]
    pub fn is_null(&self) -> bool {
        self.kind() == Kind::Null
    }

    /// Returns the decoded text of a string; `None` for other kinds and for strings that are not
    /// Unicode (lone surrogates).
    #[must_use]
    pub fn as_text(&self) -> Option<Text> {
        if self.kind() != Kind::String {
            return None;
        }
        let inner = self.0.slice(1..self.0.len() - 1);
        if memchr::memchr(b'\\', &inner).is_none() {
            return Text::from_utf8(inner).ok();
        }
        Text::from_utf8(decode_string(&inner)).ok()
    }

    /// Returns the decoded string as a key.
    #[must_use]
    pub fn as_key(&self) -> Option<Key> {
        (self.kind() == Kind::String).then(|| key_of(&self.0.slice(1..self.0.len() - 1)))
    }

    /// Returns the members of an object, in order, or `None` for other kinds.
    #[must_use]
    pub fn members(&self) -> Option<Vec<(Key, Self)>> {
        members(&self.0, JsonLimits::WIDEST).ok()
    }

    /// Returns the last member of that name.
    #[must_use]
    pub fn member(&self, name: &str) -> Option<Self> {
        // Nothing is kept of the others: this is asked for nearly everything that comes in.
        let mut found = None;
        let each = |key: Range<usize>, value| {
            let raw = &self.0[key.clone()];
            let is_wanted = match memchr::memchr(b'\\', raw) {
                None => raw == name.as_bytes(),
                Some(_) => decode_string(raw) == name.as_bytes(),
            };
            if is_wanted {
                found = Some(value);
            }
        };
        each_member(&self.0, JsonLimits::WIDEST, each).ok()?;
        found.map(|value: Range<usize>| Self(self.0.slice(value)))
    }

    /// Returns the elements of an array, or `None` for other kinds.
    #[must_use]
    pub fn elements(&self) -> Option<Vec<Self>> {
        let mut scan = Scan { text: &self.0, at: 0, limits: JsonLimits::WIDEST };
        if scan.peek() != Some(b'[') {
            return None;
        }
        scan.at += 1;
        let mut elements = Vec::new();
        scan.space();
        if scan.peek() == Some(b']') {
            return Some(elements);
        }
        loop {
            scan.space();
            let start = scan.at;
            scan.value(0).ok()?;
            elements.push(Self(self.0.slice(start..scan.at)));
            scan.space();
            match scan.next()? {
                b',' => {}
                _ => return Some(elements),
            }
        }
    }
}

impl fmt::Display for Json {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&String::from_utf8_lossy(&self.0))
    }
}

impl fmt::Debug for Json {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl Key {
    /// Makes a key of ordinary text.
    #[must_use]
    pub fn new(text: &str) -> Self {
        Self(Bytes::copy_from_slice(text.as_bytes()))
    }

    /// Returns the array index this key names, as JavaScript reads it.
    fn index(&self) -> Option<usize> {
        let digits = std::str::from_utf8(&self.0).ok()?;
        let canonical = digits == "0" || (digits.starts_with(|c: char| ('1'..='9').contains(&c)));
        (canonical && digits.len() <= 7 && digits.bytes().all(|b| b.is_ascii_digit()))
            .then(|| digits.parse().ok())?
    }
}

/// Checks a text that must hold one object, and returns its members in order.
///
/// One pass: the values are validated while they are skipped.
pub fn members(text: &Bytes, limits: JsonLimits) -> Result<Vec<(Key, Json)>, JsonError> {
    let mut members = Vec::with_capacity(10);
    each_member(text, limits, |key, value| {
        members.push((key_of(&text.slice(key)), Json(text.slice(value))));
    })?;
    Ok(members)
}

/// Calls `each` with where each key, without its quotes, and its value are.
fn each_member(
    text: &[u8],
    limits: JsonLimits,
    mut each: impl FnMut(Range<usize>, Range<usize>),
) -> Result<(), JsonError> {
    let mut scan = Scan { text, at: 0, limits };
    scan.space();
    if scan.peek() != Some(b'{') {
        return Err(JsonError::Unexpected { at: scan.at });
    }
    scan.at += 1;
    scan.space();
    if scan.peek() == Some(b'}') {
        scan.at += 1;
        return scan.finish();
    }
    let mut count = 0;
    loop {
        scan.space();
        let key_start = scan.at + 1;
        scan.string()?;
        let key = key_start..scan.at - 1;
        scan.space();
        scan.expect(b':')?;
        scan.space();
        let start = scan.at;
        scan.value(1)?;
        each(key, start..scan.at);
        count += 1;
        scan.count_key(count)?;
        scan.space();
        match scan.next().ok_or(JsonError::End)? {
            b',' => {}
            b'}' => break,
            _ => return Err(JsonError::Unexpected { at: scan.at - 1 }),
        }
    }
    scan.finish()
}

/// Appends a string in quotes, given as WTF-8.
pub fn write_string(out: &mut Vec<u8>, wtf8: &[u8]) {
    out.push(b'"');
    let mut at = 0;
    while at < wtf8.len() {
        let byte = wtf8[at];
        match byte {
            b'"' | b'\\' => out.extend_from_slice(&[b'\\', byte]),
            b'\n' => out.extend_from_slice(b"\\n"),
            b'\r' => out.extend_from_slice(b"\\r"),
            b'\t' => out.extend_from_slice(b"\\t"),
            0..0x20 => out.extend_from_slice(format!("\\u{byte:04x}").as_bytes()),
            // A surrogate, which UTF-8 cannot hold: only an escape can say it.
            0xed if wtf8.get(at + 1).is_some_and(|next| *next >= 0xa0) && wtf8.len() > at + 2 => {
                let unit = 0xd000 | (u32::from(wtf8[at + 1] & 0x3f) << 6) | u32::from(wtf8[at + 2] & 0x3f);
                out.extend_from_slice(format!("\\u{unit:04x}").as_bytes());
                at += 2;
            }
            _ => out.push(byte),
        }
        at += 1;
    }
    out.push(b'"');
}

/// What to do at the end of a path.
#[derive(Clone, Copy, Debug)]
pub enum Edit<'a> {
    /// Put this value there.
    Set(&'a Json),
    /// Take away what is there.
    Remove,
}

/// Largest array that an edit may create by naming an index beyond its end.
const ARRAY_GROWTH_MAX: usize = 100_000;

/// Returns `value` with an edit made at `path`, as the client libraries would make it in JavaScript.
///
/// Missing parents of a `Set` become objects; an index beyond an array's end leaves `null`s; removing
/// an element leaves `null`; a name that is no index changes nothing in an array.
#[must_use]
pub fn edited(value: &Json, path: &[Key], edit: Edit<'_>) -> Json {
    let Some((first, rest)) = path.split_first() else {
        return match edit {
            Edit::Set(new) => new.clone(),
            Edit::Remove => Json::null(),
        };
    };
    if let Some(mut elements) = value.elements() {
        let Some(index) = first.index() else { return value.clone() };
        match edit {
            Edit::Remove if index >= elements.len() => return value.clone(),
            _ if index >= elements.len() + ARRAY_GROWTH_MAX => return value.clone(),
            _ => {}
        }
        while elements.len() <= index {
            elements.push(Json::null());
        }
        elements[index] = edited_child(&elements[index], rest, edit);
        let mut out = vec![b'['];
        for (at, element) in elements.iter().enumerate() {
            if at > 0 {
                out.push(b',');
            }
            out.extend_from_slice(element.as_bytes());
        }
        out.push(b']');
        return Json(Bytes::from(out));
    }
    let mut members = value.members().unwrap_or_default();
    let found = members.iter().rposition(|(key, _)| key == first);
    match (found, edit, rest.is_empty()) {
        (None, Edit::Remove, _) => return value.clone(),
        // All of that name: else one that the last had replaced would come back.
        (Some(_), Edit::Remove, true) => members.retain(|(key, _)| key != first),
        (Some(at), ..) => members[at].1 = edited_child(&members[at].1, rest, edit),
        (None, Edit::Set(_), _) => {
            members.push((first.clone(), edited_child(&Json::from_static("{}"), rest, edit)));
        }
    }
    object(members.iter().map(|(key, value)| (key, value)))
}

fn edited_child(child: &Json, rest: &[Key], edit: Edit<'_>) -> Json {
    let container = matches!(child.kind(), Kind::Object | Kind::Array);
    match edit {
        Edit::Set(_) if !rest.is_empty() && !container => edited(&Json::from_static("{}"), rest, edit),
        Edit::Remove if !rest.is_empty() && !container => child.clone(),
        _ => edited(child, rest, edit),
    }
}

/// Assembles an object.
pub fn object<'a>(members: impl Iterator<Item = (&'a Key, &'a Json)>) -> Json {
    let mut out = vec![b'{'];
    for (at, (key, value)) in members.enumerate() {
        if at > 0 {
            out.push(b',');
        }
        write_string(&mut out, &key.0);
        out.push(b':');
        out.extend_from_slice(value.as_bytes());
    }
    out.push(b'}');
    Json(Bytes::from(out))
}

fn kind_of(text: &[u8]) -> Kind {
    match text.first() {
        Some(b'{') => Kind::Object,
        Some(b'[') => Kind::Array,
        Some(b'"') => Kind::String,
        Some(b't' | b'f') => Kind::Bool,
        Some(b'n') => Kind::Null,
        _ => Kind::Number,
    }
}

fn key_of(inner: &Bytes) -> Key {
    Key(if memchr::memchr(b'\\', inner).is_none() { inner.clone() } else { decode_string(inner) })
}

/// Decodes the inside of a valid JSON string to WTF-8.
fn decode_string(inner: &[u8]) -> Bytes {
    let mut out = BytesMut::with_capacity(inner.len());
    let hex4 = |at: usize| {
        inner
            .get(at..at + 4)
            .and_then(|d| std::str::from_utf8(d).ok())
            .and_then(|d| u32::from_str_radix(d, 16).ok())
    };
    let mut at = 0;
    while at < inner.len() {
        if inner[at] != b'\\' {
            let run = memchr::memchr(b'\\', &inner[at..]).unwrap_or(inner.len() - at);
            out.extend_from_slice(&inner[at..at + run]);
            at += run;
            continue;
        }
        let escape = inner.get(at + 1).copied().unwrap_or(b'\\');
        at += 2;
        let byte = match escape {
            b'n' => b'\n',
            b'r' => b'\r',
            b't' => b'\t',
            b'b' => 8,
            b'f' => 12,
            b'u' => {
                let mut unit = hex4(at).unwrap_or(0xfffd);
                at += 4;
                if (0xd800..0xdc00).contains(&unit)
                    && inner.get(at..at + 2) == Some(b"\\u")
                    && let Some(low) = hex4(at + 2).filter(|low| (0xdc00..0xe000).contains(low))
                {
                    unit = 0x10000 + ((unit - 0xd800) << 10) + (low - 0xdc00);
                    at += 6;
                }
                match char::from_u32(unit) {
                    Some(c) => out.extend_from_slice(c.encode_utf8(&mut [0; 4]).as_bytes()),
                    None => out.extend_from_slice(&[
                        0xed,
                        0x80 | ((unit >> 6) & 0x3f) as u8,
                        0x80 | (unit & 0x3f) as u8,
                    ]),
                }
                continue;
            }
            other => other,
        };
        out.extend_from_slice(&[byte]);
    }
    out.freeze()
}

struct Scan<'a> {
    text: &'a [u8],
    at: usize,
    limits: JsonLimits,
}

impl Scan<'_> {
    fn peek(&self) -> Option<u8> {
        self.text.get(self.at).copied()
    }

    fn next(&mut self) -> Option<u8> {
        let byte = self.peek()?;
        self.at += 1;
        Some(byte)
    }

    fn expect(&mut self, byte: u8) -> Result<(), JsonError> {
        match self.peek() {
            Some(found) if found == byte => {
                self.at += 1;
                Ok(())
            }
            Some(_) => Err(JsonError::Unexpected { at: self.at }),
            None => Err(JsonError::End),
        }
    }

    fn space(&mut self) {
        while let Some(b' ' | b'\t' | b'\n' | b'\r') = self.peek() {
            self.at += 1;
        }
    }

    fn finish(&mut self) -> Result<(), JsonError> {
        self.space();
        if self.at == self.text.len() { Ok(()) } else { Err(JsonError::Trailing { at: self.at }) }
    }

    fn value(&mut self, depth: usize) -> Result<(), JsonError> {
        if depth > self.limits.depth_max {
            return Err(JsonError::TooDeep { max: self.limits.depth_max });
        }
        match self.peek().ok_or(JsonError::End)? {
            b'"' => self.string(),
            b'{' => self.container(b'}', depth),
            b'[' => self.container(b']', depth),
            b't' => self.word(b"true"),
            b'f' => self.word(b"false"),
            b'n' => self.word(b"null"),
            _ => self.number(),
        }
    }

    const fn count_key(&self, keys: usize) -> Result<(), JsonError> {
        if keys > self.limits.keys_max {
            return Err(JsonError::TooManyKeys { max: self.limits.keys_max });
        }
        Ok(())
    }

    fn container(&mut self, close: u8, depth: usize) -> Result<(), JsonError> {
        self.at += 1;
        self.space();
        if self.peek() == Some(close) {
            self.at += 1;
            return Ok(());
        }
        let mut keys = 0;
        loop {
            self.space();
            if close == b'}' {
                keys += 1;
                self.count_key(keys)?;
                self.string()?;
                self.space();
                self.expect(b':')?;
                self.space();
            }
            self.value(depth + 1)?;
            self.space();
            match self.next().ok_or(JsonError::End)? {
                b',' => {}
                byte if byte == close => return Ok(()),
                _ => return Err(JsonError::Unexpected { at: self.at - 1 }),
            }
        }
    }

    fn string(&mut self) -> Result<(), JsonError> {
        self.expect(b'"')?;
        loop {
            let rest = &self.text[self.at..];
            let run = memchr::memchr2(b'"', b'\\', rest).ok_or(JsonError::End)?;
            if let Some(control) = rest[..run].iter().position(|byte| *byte < 0x20) {
                return Err(JsonError::Unexpected { at: self.at + control });
            }
            self.at += run + 1;
            if rest[run] == b'"' {
                return Ok(());
            }
            match self.next().ok_or(JsonError::End)? {
                b'"' | b'\\' | b'/' | b'b' | b'f' | b'n' | b'r' | b't' => {}
                b'u' => {
                    for _ in 0..4 {
                        if !self.next().ok_or(JsonError::End)?.is_ascii_hexdigit() {
                            return Err(JsonError::Unexpected { at: self.at - 1 });
                        }
                    }
                }
                _ => return Err(JsonError::Unexpected { at: self.at - 1 }),
            }
        }
    }

    fn word(&mut self, word: &[u8]) -> Result<(), JsonError> {
        if self.text[self.at..].starts_with(word) {
            self.at += word.len();
            Ok(())
        } else {
            Err(JsonError::Unexpected { at: self.at })
        }
    }

    fn number(&mut self) -> Result<(), JsonError> {
        if self.peek() == Some(b'-') {
            self.at += 1;
        }
        match self.peek() {
            Some(b'0') => self.at += 1,
            Some(b'1'..=b'9') => self.digits()?,
            Some(_) => return Err(JsonError::Unexpected { at: self.at }),
            None => return Err(JsonError::End),
        }
        if self.peek() == Some(b'.') {
            self.at += 1;
            self.digits()?;
        }
        if let Some(b'e' | b'E') = self.peek() {
            self.at += 1;
            if let Some(b'+' | b'-') = self.peek() {
                self.at += 1;
            }
            self.digits()?;
        }
        Ok(())
    }

    fn digits(&mut self) -> Result<(), JsonError> {
        let start = self.at;
        while self.peek().is_some_and(|byte| byte.is_ascii_digit()) {
            self.at += 1;
        }
        match (self.at > start, self.peek()) {
            (true, _) => Ok(()),
            (false, Some(_)) => Err(JsonError::Unexpected { at: self.at }),
            (false, None) => Err(JsonError::End),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::limits::JSON_DEPTH_MAX;

    fn json(text: &str) -> Json {
        Json::parse(Bytes::copy_from_slice(text.as_bytes())).unwrap()
    }

    #[test]
    fn a_member_is_the_last_of_its_name() {
        for text in [
            "{}",
            "[]",
            "7",
            r#"{"a":1,"b":{"a":2},"a":3}"#,
            r#"{"\u0061":1,"a\n":2}"#,
            r#"{"a":1,"\u0061":[2]} "#,
            r#"{"a\n":1,"\ud800":2}"#,
        ] {
            let value = json(text);
            for name in ["a", "a\n", "\\u0061", "b", ""] {
                let members = value.members().unwrap_or_default();
                let last = members.into_iter().rfind(|(key, _)| *key == Key::new(name));
                assert_eq!(value.member(name), last.map(|(_, value)| value), "{name} of {text}");
            }
        }
        assert_eq!(json(r#"{"\u0061":1}"#).member("a"), Some(json("1")));
    }

    #[test]
    fn accepts_what_is_json_and_nothing_else() {
        let good = [
            "1",
            "-0.5e+3",
            "\"\\ud800\"",
            "{}",
            "[]",
            " {\"a\": [1, {\"b\":null}]} ",
            "true",
            "\"\u{2028}\"",
        ];
        let bad = [
            "",
            "01",
            "1.",
            "-",
            "tru",
            "\"",
            "\"\\x\"",
            "{\"a\"}",
            "[1,]",
            "{,}",
            "1 2",
            "{\"a\":1,}",
            "\"\n\"",
            "nan",
        ];
        for text in good {
            assert!(Json::parse(Bytes::from_static(text.as_bytes())).is_ok(), "{text}");
        }
        for text in bad {
            assert!(Json::parse(Bytes::from_static(text.as_bytes())).is_err(), "{text}");
        }
        let deep = "[".repeat(JSON_DEPTH_MAX + 2) + &"]".repeat(JSON_DEPTH_MAX + 2);
        assert_eq!(
            Json::parse(Bytes::from(deep.into_bytes())),
            Err(JsonError::TooDeep { max: JSON_DEPTH_MAX })
        );
    }

    #[test]
    fn messages_of_applications_have_narrower_limits() {
        let limits = JsonLimits { depth_max: 3, keys_max: 2 };
        for (text, expected) in [
            (r#"{"a":[[1]],"b":{"c":1,"d":2}}"#, Ok(2)),
            (r#"{"a":[[[1]]]}"#, Err(JsonError::TooDeep { max: 3 })),
            (r#"{"a":1,"b":2,"c":3}"#, Err(JsonError::TooManyKeys { max: 2 })),
            (r#"{"a":[{"b":1,"c":2,"d":3}]}"#, Err(JsonError::TooManyKeys { max: 2 })),
            (r#"{"a":[1,2,3]}"#, Ok(1)),
        ] {
            let found = members(&Bytes::from_static(text.as_bytes()), limits).map(|members| members.len());
            assert_eq!(found, expected, "{text}");
        }
    }

    #[test]
    fn keys_are_compared_decoded_and_written_back() {
        for (raw, wtf8) in [
            (r#""a.b""#, &b"a.b"[..]),
            (r#""\u0061""#, b"a"),
            (r#""\ud83d\ude00""#, "😀".as_bytes()),
            (r#""\ud800""#, b"\xed\xa0\x80"),
            (r#""\u0000\"\\""#, b"\0\"\\"),
        ] {
            let key = json(raw).as_key().unwrap();
            assert_eq!(key.0, wtf8);
            let mut out = Vec::new();
            write_string(&mut out, &key.0);
            assert_eq!(Json::parse(Bytes::from(out)).unwrap().as_key().unwrap(), key);
        }
    }

    #[test]
    fn edits_follow_the_clients() {
        let check = |value: &str, path: &str, set: Option<&str>, expected: &str| {
            let path: Vec<Key> = path.split('.').map(Key::new).collect();
            let new = set.map(json);
            let edit = new.as_ref().map_or(Edit::Remove, Edit::Set);
            assert_eq!(edited(&json(value), &path, edit).to_string(), expected, "{value} {path:?}");
        };
        check("[1,2]", "0", Some("5"), "[5,2]");
        check("[{\"a\":1}]", "0.a", Some("2"), "[{\"a\":2}]");
        check("[]", "2", Some("1"), "[null,null,1]");
        check("[1,2]", "0", None, "[null,2]");
        check("[1]", "7", None, "[1]");
        check("[1]", "x", Some("1"), "[1]");
        check("{\"a\":1}", "a.b", Some("1"), "{\"a\":{\"b\":1}}");
        check("{\"a\":{\"b\":1}}", "a.b", None, "{\"a\":{}}");
        check("{}", "a.b", None, "{}");
        check("[{\"a\":1,\"b\":2,\"a\":3}]", "0.a", None, "[{\"b\":2}]");
    }
}
