//! What a node tells an application.

use crate::command::{Answer, Request, Words};
use crate::{Arguments, InstanceId, Json, Reason, Text};

/// Why something that others could see is gone.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Cause {
    /// Its application disconnected.
    Disconnected,
    /// Its application left, in its own words.
    Left(Words),
    /// Its node cannot be reached at the moment.
    Unreachable,
    /// Its node was away too long or came back as a new life.
    Lost,
    /// The method it belonged to is offered no longer.
    MethodRemoved,
    /// Somebody destroyed it.
    Destroyed,
    /// The instance it lived for is gone.
    OwnerGone,
    /// Its subscriber reads too slowly.
    TooSlow,
}

/// What becomes of a stream's data that its subscriber does not read in time.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum SlowPolicy {
    /// It counts with publications; if too many of them wait, the application's connection is closed, unless
    /// the operator has it lose the oldest. A client library that connects again also subscribes again.
    #[default]
    AsPublications,
    /// The subscription ends.
    End,
    /// The oldest is left out.
    DropOldest,
    /// Only the newest is kept.
    Latest,
    /// Of each value of this member only the newest is kept.
    LatestByKey(Text),
}

/// How a call ended. Every call ends exactly once, with one of these.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// The callee answered.
    Answered(Answer),
    /// The mesh ended it.
    Failed(CallFailure),
}

/// Why the mesh, not the callee, ended a call: a closed list, see docs/protocols/mesh.md.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum CallFailure {
    /// Nobody of that name offers that.
    #[error("no such target: {what}")]
    NoTarget {
        /// What is not there.
        what: Text,
    },
    /// Certainly not run: safe to try again.
    #[error("not delivered: the call did not reach an app on node {node}; the method did not run")]
    NotDelivered {
        /// The callee's node, by name.
        node: Text,
    },
    /// It may have run.
    #[error(
        "unknown outcome: the link to node {node} broke, or the caller left, before the call had ended; it may have run"
    )]
    UnknownOutcome {
        /// The callee's node, by name.
        node: Text,
    },
    /// The callee's application went away; it may have run.
    #[error("Peer has left while waiting for result")]
    CalleeGone,
    /// The subscription's method is offered no longer.
    #[error("Method has been removed")]
    MethodRemoved,
    /// No answer in time.
    #[error("deadline: no answer within {millis} ms; it may have run")]
    Deadline {
        /// The time it had.
        millis: u64,
    },
    /// A limit was reached.
    #[error("overloaded: limit {limit} is reached")]
    Overloaded {
        /// The limit's name.
        limit: Text,
    },
    /// Not allowed.
    #[error("denied: {what}")]
    Denied {
        /// What is not allowed.
        what: Text,
    },
    /// The request is malformed.
    #[error("bad request: {what}")]
    BadRequest {
        /// What is wrong.
        what: Text,
    },
}

impl Outcome {
    /// Returns the outcome's word in the closed list.
    #[must_use]
    pub const fn word(&self) -> &'static str {
        match self {
            Self::Answered(Answer::Result(_)) => "ok",
            Self::Answered(Answer::Error { .. }) => "app_error",
            Self::Failed(CallFailure::NoTarget { .. } | CallFailure::MethodRemoved) => "no_target",
            Self::Failed(CallFailure::NotDelivered { .. }) => "not_delivered",
            Self::Failed(CallFailure::UnknownOutcome { .. } | CallFailure::CalleeGone) => "unknown_outcome",
            Self::Failed(CallFailure::Deadline { .. }) => "deadline",
            Self::Failed(CallFailure::Overloaded { .. }) => "overloaded",
            Self::Failed(CallFailure::Denied { .. }) => "denied",
            Self::Failed(CallFailure::BadRequest { .. }) => "bad_request",
        }
    }
}

/// What a node tells a session. The order in which a session gets its events is part of their meaning.
#[derive(Clone, Debug, PartialEq, Eq)]
#[expect(missing_docs, reason = "fields are named after the protocol's; the variants tell the meaning")]
pub enum Event {
    /// The session exists, under this instance id and identity.
    Attached { request: Request, instance: InstanceId, identity: Json },
    /// A request succeeded and has no more to say. Its application may have changed a context by it.
    Done { request: Request, changed: Option<Text> },
    /// A request failed and changed nothing.
    Refused { request: Request, reason: Reason },

    /// An instance can be reached. Comes before anything else about it.
    InstanceAdded { instance: InstanceId, identity: Json, local: bool },
    /// It cannot any more. Comes after everything else about it.
    InstanceRemoved { instance: InstanceId, cause: Cause },
    /// It offers methods.
    MethodsAdded { server: InstanceId, methods: Vec<Json>, local: bool },
    /// It offers them no more.
    MethodsRemoved { server: InstanceId, methods: Vec<Json> },

    /// As callee: run a method.
    Invoke { invocation: u64, method: Json, caller: InstanceId, arguments: Arguments },
    /// As caller: a call or a request for a subscription has ended.
    CallEnded { request: Request, outcome: Outcome },

    /// As provider: somebody wants to subscribe.
    SubscriptionRequested { subscription: u64, method: Json, caller: InstanceId, arguments: Arguments },
    /// As provider: a subscription is no more.
    SubscriberGone { subscription: u64, method: Json, caller: InstanceId, cause: Cause },
    /// As subscriber: accepted. Comes before the first data.
    Subscribed { request: Request, subscription: u64 },
    /// As subscriber: data, to all of the branch or to this subscription alone.
    StreamData {
        subscription: u64,
        private: bool,
        data: Json,
        sequence: Option<Json>,
        snapshot: Option<Json>,
        /// What becomes of it if it is not read in time.
        policy: SlowPolicy,
        /// How many data of the subscription were left out just before it.
        gap: u64,
    },
    /// As subscriber: the subscription is over for good.
    SubscriptionEnded { subscription: u64, cause: Cause },

    /// A shared context exists.
    ContextAdded { context: Text, name: Text, creator: Option<InstanceId> },
    /// It was created, and its creator is subscribed.
    ContextCreated { request: Request, context: Text },
    /// Its present value; changes follow.
    ContextSnapshot { request: Request, context: Text, name: Text, data: Json },
    /// It changed.
    ContextUpdated { context: Text, updater: InstanceId, delta: Json },
    /// It is gone.
    ContextDestroyed { context: Text, cause: Cause },

    /// Subscribed to the bus.
    BusSubscribed { request: Request, subscription: u64 },
    /// Something was published.
    BusEvent { subscription: u64, publisher: Json, data: Json },
}

impl Event {
    /// Returns about how many bytes this event holds, for the bound of an outbox: all that an application
    /// can make long counts.
    #[must_use]
    pub fn weight(&self) -> usize {
        let of = |parts: &[Option<&Json>]| parts.iter().flatten().map(|part| part.len()).sum::<usize>();
        let words = |words: &Words| of(&[words.uri.as_ref(), words.reason.as_ref()]);
        let payload = match self {
            Self::Attached { request, identity, .. } => request.id.len() + identity.len(),
            Self::InstanceAdded { identity, .. } => identity.len(),
            Self::MethodsAdded { methods, .. } | Self::MethodsRemoved { methods, .. } => {
                methods.iter().map(Json::len).sum()
            }
            Self::Invoke { arguments, .. } | Self::SubscriptionRequested { arguments, .. } => arguments.len(),
            Self::CallEnded { request, outcome } => {
                request.id.len()
                    + match outcome {
                        Outcome::Answered(Answer::Result(result)) => of(&[result.as_ref()]),
                        Outcome::Answered(Answer::Error { words: given, context }) => {
                            words(given) + of(&[context.as_ref()])
                        }
                        Outcome::Failed(_) => 0,
                    }
            }
            Self::Done { request, .. }
            | Self::Refused { request, .. }
            | Self::Subscribed { request, .. }
            | Self::ContextCreated { request, .. }
            | Self::BusSubscribed { request, .. } => request.id.len(),
            Self::SubscriberGone { cause, .. }
            | Self::SubscriptionEnded { cause, .. }
            | Self::InstanceRemoved { cause, .. }
            | Self::ContextDestroyed { cause, .. } => match cause {
                Cause::Left(given) => words(given),
                _ => 0,
            },
            Self::StreamData { data, sequence, snapshot, .. } => {
                data.len() + of(&[sequence.as_ref(), snapshot.as_ref()])
            }
            Self::ContextAdded { name, .. } => name.len(),
            Self::ContextSnapshot { request, data, .. } => request.id.len() + data.len(),
            Self::ContextUpdated { delta, .. } => delta.len(),
            Self::BusEvent { publisher, data, .. } => publisher.len() + data.len(),
        };
        payload + 256
    }
}
