//! What can go wrong, one enum per kind of operation.

use std::sync::Arc;
use std::time::Duration;

use crate::identity::Instance;
use crate::invoke::Failure;

/// Why a client could not connect.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ConnectError {
    /// The address is not one this client can use.
    #[error("{url:?} is not an address of a node; use ws://host:port")]
    Url {
        /// The address as given.
        url: String,
        /// What is wrong with it.
        source: Box<tokio_tungstenite::tungstenite::Error>,
    },
    /// Nobody speaks WebSocket there.
    #[error("no node answers at {url}; check that it is running and that the port is right")]
    Unreachable {
        /// The address as given.
        url: String,
        /// What the connection attempt said.
        source: Box<tokio_tungstenite::tungstenite::Error>,
    },
    /// The node is there and does not let this user in.
    #[error("the node at {url} refused {user:?}: {reason}; check user and secret")]
    Login {
        /// The address as given.
        url: String,
        /// Who tried to log in.
        user: String,
        /// The node's reason.
        reason: String,
        /// The node's reason as a code.
        reason_uri: String,
    },
    /// Whoever is there does not speak GW3.
    #[error("whoever answers at {url} is no GW3 gateway: {what}; check the port")]
    Protocol {
        /// The address as given.
        url: String,
        /// What came instead.
        what: String,
    },
    /// The node did not answer in time.
    #[error("the node at {url} did not let {user:?} in within {after:?}; check its health, then try again")]
    Timeout {
        /// The address as given.
        url: String,
        /// Who tried to log in.
        user: String,
        /// How long it was waited for.
        after: Duration,
    },
    /// The login succeeded; joining the domains did not.
    #[error("logged in, but could not join")]
    Join(#[from] RequestError),
}

/// Why a request to the node failed. Nothing has changed on the node, except after `Timeout`.
#[derive(Clone, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum RequestError {
    /// There is no connection any more.
    #[error("the connection is closed ({why}); connect again")]
    Closed {
        /// What ended it.
        why: Arc<str>,
    },
    /// The node refused.
    #[error("the node refused to {what}: {reason}")]
    Refused {
        /// What was asked for.
        what: &'static str,
        /// The node's reason.
        reason: String,
        /// The node's reason as a code.
        reason_uri: String,
    },
    /// The node did not answer; whether it acted is unknown.
    #[error("the node did not answer within {after:?} when asked to {what}; it may be overloaded")]
    Timeout {
        /// What was asked for.
        what: &'static str,
        /// How long it was waited for.
        after: Duration,
    },
    /// The value given cannot be sent.
    #[error("cannot {what}: {problem}")]
    Invalid {
        /// What was asked for.
        what: &'static str,
        /// What is wrong, and what would be right.
        problem: String,
    },
}

/// Why an invocation or a subscription brought nothing.
#[derive(Clone, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum InvokeError {
    /// No app offers the method.
    #[error(
        "no app offers {name:?} after {waited:?}; check the name, and that its app is logged in as the same user"
    )]
    NoMethod {
        /// The method asked for.
        name: String,
        /// How long it was waited for.
        waited: Duration,
    },
    /// Apps offer the method, but none that the target means.
    #[error(
        "none of the {offering} apps that offer {name:?} is the one asked for ({target}); compare with `methods()`"
    )]
    NoInstance {
        /// The method asked for.
        name: String,
        /// The target in words.
        target: String,
        /// How many others offer it.
        offering: usize,
    },
    /// Everybody who was asked failed; the first failure is in the message.
    #[error("{name:?} failed: {}", Failure::summary(.failures))]
    Failed {
        /// The method asked for.
        name: String,
        /// Who failed and why, at least one.
        failures: Vec<Failure>,
    },
    /// The provider's answer is JSON that a `Value` cannot hold.
    #[error("the answer of {} to {name:?} does not fit a Value ({problem}); use the raw layer", .by.application())]
    Unreadable {
        /// The method asked for.
        name: String,
        /// Who answered.
        by: Arc<Instance>,
        /// What the parser says.
        problem: String,
    },
    /// The request did not get that far.
    #[error(transparent)]
    Request(#[from] RequestError),
}
