//! Why a request is refused, in words for the one who asked.

use crate::Text;

/// Why a request was refused. Nothing has changed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[expect(missing_docs, reason = "the messages say it")]
pub enum Reason {
    #[error("this connection has not logged in")]
    NotAttached,
    #[error("an app is already logged in here under this peer id")]
    AlreadyAttached,
    #[error("this peer has not joined {area}")]
    NotJoined { area: &'static str },
    #[error("identity must be an object")]
    BadIdentity,
    #[error("method {method} is not registered by this peer")]
    NotRegistered { method: Text },
    #[error("a method must be an object with a string `name` and an `id`; {problem}")]
    BadMethod { problem: Text },
    #[error("Unable to find server {server}")]
    UnknownServer { server: Text },
    #[error("unknown or unestablished subscription")]
    InvalidSubscription,
    #[error("Unable to find context with id {context}")]
    UnknownContext { context: Text },
    #[error("bad restriction `{expression}`: {problem}")]
    BadRestriction { expression: Text, problem: Text },
    #[error("this peer may not do that with this context")]
    NotAuthorized,
    #[error("bad delta: {problem}")]
    BadDelta { problem: Text },
    #[error("limit {limit} ({max}) is reached")]
    Limit { limit: &'static str, max: u64 },
    #[error("{what} is longer than {max} bytes (limit name_bytes_max)")]
    NameTooLong { what: &'static str, max: u64 },
}
