//! Keys of replicated entries, as bytes whose order is useful.
//!
//! ```text
//! key      = kind field…           field = UTF-8 or WTF-8 text, then 0xff (which neither contains)
//! node     = 'N' node-id(16 bytes)                       one writer
//! instance = 'I' node-id  instance 0xff                  one writer
//! method   = 'M' node-id  instance 0xff  method-id 0xff  one writer
//! interest = 'T' node-id  user 0xff  pattern 0xff        one writer
//! member   = 'R' node-id  user 0xff  name 0xff           one writer; of reference-counted contexts
//! retired  = 'G' node-id                                 any writer
//! header   = 'C' user 0xff  name 0xff                    any writer
//! path     = 'P' user 0xff  name 0xff  segment 0xff …  [0xfe]   any writer
//! ```
//!
//! A path is a byte prefix of everything below it, so "all below" is one range of an ordered map. The
//! last byte 0xfe marks the second register of a path; see [`content`](crate::content).
//! A user is written `=name`, or empty for an app without one; `*` stands for the services.

use bytes::Bytes;
use mesh_model::{Key as Segment, NodeId, Text};

/// Ends a field.
pub(crate) const END: u8 = 0xff;
/// Ends the key of a path's mark.
pub(crate) const MARK: u8 = 0xfe;

/// What a key is about, taken apart.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Subject {
    Node(NodeId),
    Retired(NodeId),
    Instance {
        node: NodeId,
        instance: Text,
    },
    Method {
        node: NodeId,
        instance: Text,
        id: Bytes,
    },
    Interest {
        node: NodeId,
        user: UserKey,
        pattern: Text,
    },
    Member {
        node: NodeId,
        context: ContextKey,
    },
    Header(ContextKey),
    /// A path of a context's content; `mark` tells which of its two registers.
    Path {
        context: ContextKey,
        path: Vec<Segment>,
        mark: bool,
    },
}

/// A user's partition of the domain, as it stands in keys.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct UserKey(pub(crate) Bytes);

impl UserKey {
    pub(crate) fn new(user: Option<&Text>) -> Self {
        Self(user.map_or_else(Bytes::new, |user| [b"=", user.as_bytes().as_ref()].concat().into()))
    }

    /// Returns the partition of those that serve all users.
    pub(crate) const fn services() -> Self {
        Self(Bytes::from_static(b"*"))
    }

    pub(crate) fn user(&self) -> Option<Text> {
        self.0.split_first().and_then(|(_, name)| std::str::from_utf8(name).ok()).map(Text::from)
    }
}

/// A shared context: names are per user.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct ContextKey {
    pub(crate) user: UserKey,
    pub(crate) name: Text,
}

impl ContextKey {
    /// Returns the key of the context's header.
    pub(crate) fn header(&self) -> Bytes {
        build(b'C', &[&self.user.0, self.name.as_bytes()])
    }

    /// Returns the key of the content's root, which is a prefix of all its paths.
    pub(crate) fn root(&self) -> Bytes {
        build(b'P', &[&self.user.0, self.name.as_bytes()])
    }
}

/// Returns the key below `parent` for one more segment.
pub(crate) fn below(parent: &[u8], segment: &[u8]) -> Bytes {
    let mut key = Vec::with_capacity(parent.len() + segment.len() + 1);
    key.extend_from_slice(parent);
    key.extend_from_slice(segment);
    key.push(END);
    key.into()
}

/// Returns the key of the mark at a path.
pub(crate) fn mark_of(path: &[u8]) -> Bytes {
    [path, &[MARK]].concat().into()
}

pub(crate) fn node(node: NodeId) -> Bytes {
    with_node(b'N', node, &[])
}

/// Returns the key that says that a node is gone for good.
pub(crate) fn retired(node: NodeId) -> Bytes {
    with_node(b'G', node, &[])
}

/// Returns the node of which a key says that it is gone for good.
pub(crate) fn retired_node(key: &[u8]) -> Option<NodeId> {
    node_id(key).filter(|_| key.len() == 17 && key.first() == Some(&b'G'))
}

pub(crate) fn instance(node: NodeId, instance: &Text) -> Bytes {
    with_node(b'I', node, &[instance.as_bytes()])
}

pub(crate) fn method(node: NodeId, instance: &Text, id: &[u8]) -> Bytes {
    with_node(b'M', node, &[instance.as_bytes(), id])
}

/// Returns the prefix of the keys of an instance's methods.
pub(crate) fn methods(node: NodeId, instance: &Text) -> Bytes {
    with_node(b'M', node, &[instance.as_bytes()])
}

pub(crate) fn interest(node: NodeId, user: &UserKey, pattern: &Text) -> Bytes {
    with_node(b'T', node, &[&user.0, pattern.as_bytes()])
}

pub(crate) fn member(node: NodeId, context: &ContextKey) -> Bytes {
    with_node(b'R', node, &[&context.user.0, context.name.as_bytes()])
}

/// The kinds of key that one node writes and that die with its life.
pub(crate) const OWNED: [u8; 5] = [b'N', b'I', b'M', b'T', b'R'];

/// Returns the only node that may write a key, if it has one writer.
pub(crate) fn owner(key: &[u8]) -> Option<NodeId> {
    key.first().filter(|kind| OWNED.contains(kind)).and_then(|_| node_id(key))
}

/// Returns the shared context that a key belongs to, if it belongs to one.
pub(crate) fn context(key: &Bytes) -> Option<ContextKey> {
    match parse(key)? {
        Subject::Header(context) | Subject::Path { context, .. } => Some(context),
        _ => None,
    }
}

/// Takes a key apart; `None` if it is not well formed or of a kind this version does not know.
pub(crate) fn parse(key: &Bytes) -> Option<Subject> {
    let kind = *key.first()?;
    let fields = |from: usize| -> Option<Vec<Bytes>> {
        let rest = key.get(from..)?;
        if rest.is_empty() {
            return Some(Vec::new());
        }
        let mut fields: Vec<Bytes> =
            rest.split(|byte| *byte == END).map(|field| key.slice_ref(field)).collect();
        fields.pop().is_some_and(|last| last.is_empty()).then_some(fields)
    };
    let text = |field: &Bytes| Text::from_utf8(field.clone()).ok();
    match kind {
        b'N' if key.len() == 17 => Some(Subject::Node(node_id(key)?)),
        b'G' => retired_node(key).map(Subject::Retired),
        b'I' | b'M' | b'T' | b'R' => {
            let node = node_id(key)?;
            match (kind, fields(17)?.as_slice()) {
                (b'I', [instance]) => Some(Subject::Instance { node, instance: text(instance)? }),
                (b'M', [instance, id]) => {
                    Some(Subject::Method { node, instance: text(instance)?, id: id.clone() })
                }
                (b'T', [user, pattern]) => {
                    Some(Subject::Interest { node, user: UserKey(user.clone()), pattern: text(pattern)? })
                }
                (b'R', [user, name]) => {
                    let context = ContextKey { user: UserKey(user.clone()), name: text(name)? };
                    Some(Subject::Member { node, context })
                }
                _ => None,
            }
        }
        b'C' | b'P' => {
            let mark = kind == b'P' && key.last() == Some(&MARK);
            let whole = if mark { key.slice(..key.len() - 1) } else { key.clone() };
            let mut fields: Vec<Bytes> =
                whole.get(1..)?.split(|byte| *byte == END).map(|f| whole.slice_ref(f)).collect();
            if fields.len() < 3 || fields.pop().is_none_or(|last| !last.is_empty()) {
                return None;
            }
            let path = fields.split_off(2);
            let user = UserKey(fields[0].clone());
            let context = ContextKey { user, name: text(&fields[1])? };
            if kind == b'C' {
                return path.is_empty().then_some(Subject::Header(context));
            }
            let path = path.into_iter().map(Segment).collect();
            Some(Subject::Path { context, path, mark })
        }
        _ => None,
    }
}

fn build(kind: u8, fields: &[&[u8]]) -> Bytes {
    let mut key = vec![kind];
    for field in fields {
        key.extend_from_slice(field);
        key.push(END);
    }
    key.into()
}

fn with_node(kind: u8, node: NodeId, fields: &[&[u8]]) -> Bytes {
    let mut key = vec![kind];
    key.extend_from_slice(&node.0);
    for field in fields {
        key.extend_from_slice(field);
        key.push(END);
    }
    key.into()
}

fn node_id(key: &[u8]) -> Option<NodeId> {
    Some(NodeId(key.get(1..17)?.try_into().ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_come_apart_as_they_were_put_together() {
        let n = NodeId([0xff; 16]);
        let (i, u) = (Text::from("p-1"), UserKey::new(Some(&Text::from("joe"))));
        let context = ContextKey { user: u.clone(), name: Text::from("K") };
        assert_eq!(parse(&node(n)), Some(Subject::Node(n)));
        assert_eq!(parse(&retired(n)), Some(Subject::Retired(n)));
        assert_eq!(parse(&instance(n, &i)), Some(Subject::Instance { node: n, instance: i.clone() }));
        let m = Subject::Method { node: n, instance: i.clone(), id: Bytes::from_static(b"\"0\"") };
        assert_eq!(parse(&method(n, &i, b"\"0\"")), Some(m));
        let t = Subject::Interest { node: n, user: u, pattern: Text::from("a.*") };
        assert_eq!(parse(&interest(n, &context.user, &Text::from("a.*"))), Some(t));
        assert_eq!(parse(&context.header()), Some(Subject::Header(context.clone())));
        let path = below(&below(&context.root(), b""), b"b");
        let segments = vec![Segment::new(""), Segment::new("b")];
        let p = Subject::Path { context: context.clone(), path: segments.clone(), mark: false };
        assert_eq!(parse(&path), Some(p));
        assert_eq!(
            parse(&mark_of(&path)),
            Some(Subject::Path { context: context.clone(), path: segments, mark: true })
        );
        assert_eq!(parse(&context.root()), Some(Subject::Path { context, path: vec![], mark: false }));
        for bad in [&b""[..], b"N", b"G", b"Zx", b"P=joe", b"C\xff", b"P\xff\xffx"] {
            assert_eq!(parse(&Bytes::copy_from_slice(bad)), None, "{bad:?}");
        }
    }
}
