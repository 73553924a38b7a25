//! What an application can ask of its node.

use crate::trace::TraceContext;
use crate::{Json, Text};

/// A client's name for its request: echoed in the answer, never looked into.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Request {
    /// The id as the client wrote it, any JSON value.
    pub id: Json,
    /// Which of its protocol's faces the client asked through, so that the answer takes the same way.
    pub face: u8,
}

/// Arguments of a call or a subscription, as sent. Absent parts stay absent.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Arguments {
    /// By position: an array.
    pub positional: Option<Json>,
    /// By name: an object.
    pub named: Option<Json>,
    /// A subscription's flags.
    pub flags: Option<Json>,
    /// Free data beside the arguments.
    pub context: Option<Json>,
}

impl Arguments {
    /// Returns the bytes of all parts.
    #[must_use]
    pub fn len(&self) -> usize {
        [&self.positional, &self.named, &self.flags, &self.context].into_iter().flatten().map(Json::len).sum()
    }

    /// Returns the same in memory of its own, so that nothing larger is kept alive.
    #[must_use]
    pub fn detached(&self) -> Self {
        let own = |part: &Option<Json>| part.as_ref().map(Json::detached);
        Self {
            positional: own(&self.positional),
            named: own(&self.named),
            flags: own(&self.flags),
            context: own(&self.context),
        }
    }

    /// Returns whether no part is there.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

/// What is said when something is ended on purpose: a code and a sentence, as the client wrote them.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Words {
    /// A code or URI.
    pub uri: Option<Json>,
    /// A sentence.
    pub reason: Option<Json>,
}

/// How a callee answered.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Answer {
    /// With a result, if it gave one.
    Result(Option<Json>),
    /// With an error of its own.
    Error {
        /// Code and sentence.
        words: Words,
        /// Free data beside the error.
        context: Option<Json>,
    },
}

/// A part of the node that a session joins to take part in it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Area {
    /// Methods and streams.
    Interop,
    /// Publish and subscribe.
    Bus,
}

/// How long a shared context lives.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Lifetime {
    /// Until somebody destroys it.
    Retained,
    /// Until its creator goes.
    Ownership,
    /// Until its last subscriber goes.
    RefCounted,
}

/// Who may do what with a shared context beside its creator, as restriction expressions; everybody of its
/// user if absent.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Permissions {
    /// Who may see it. Whoever may change it by an expression may see it too.
    pub read: Option<Text>,
    /// Who may change it.
    pub write: Option<Text>,
}

/// What a session asks of its node.
///
/// Each command with a [`Request`] is answered exactly once, and the others never are; but `Fail` and
/// `Drop` are answered only when they are refused.
#[derive(Clone, Debug, PartialEq, Eq)]
#[expect(missing_docs, reason = "fields are named after the protocol's; the variants tell the meaning")]
pub enum Command {
    /// Become a session, under a user's name that the adapter has verified.
    Attach { request: Request, identity: Json, user: Option<Text>, login: Option<Text>, service: bool },
    /// Take part in an area: its announcements, then `Done`. Only with peers that fulfil `restrictions`.
    Join { request: Request, area: Area, restrictions: Option<Text> },
    /// Take no part any more.
    Leave { request: Request, area: Area, words: Words },

    /// Offer methods: each an object with an `id` and a `name`.
    Register { request: Request, methods: Vec<Json> },
    /// Offer them no longer. All ids must be known, else nothing changes.
    Unregister { request: Request, methods: Vec<Json> },
    /// Invoke a method of an instance.
    Call { request: Request, server: Text, method: Json, arguments: Arguments, trace: Option<TraceContext> },
    /// Answer an invocation. An unknown or finished one is ignored.
    Yield { invocation: u64, result: Option<Json> },
    /// Answer an invocation with an error, or reject or end a subscription: the id tells which.
    Fail { request: Request, id: u64, words: Words, context: Option<Json> },

    /// Ask an instance for a subscription to one of its streams.
    Subscribe { request: Request, server: Text, method: Json, arguments: Arguments },
    /// Give it up.
    Unsubscribe { request: Request, subscription: u64, words: Words },
    /// As provider: bind a requested subscription to a branch.
    Accept { subscription: u64, branch: Json },
    /// As provider: end a subscription.
    Drop { request: Request, subscription: u64, words: Words },
    /// As provider: data to all subscriptions of a branch.
    Push { branch: Json, data: Json, sequence: Option<Json>, snapshot: Option<Json> },
    /// As provider: data to one subscription.
    PushTo { subscription: u64, data: Json, sequence: Option<Json>, snapshot: Option<Json> },

    /// Create a shared context, or subscribe to the one of that name.
    CreateContext {
        request: Request,
        name: Text,
        data: Option<Json>,
        lifetime: Lifetime,
        permissions: Permissions,
    },
    /// Receive its value and then its changes.
    SubscribeContext { request: Request, context: Text },
    /// Receive no more changes.
    UnsubscribeContext { request: Request, context: Text },
    /// Change it.
    UpdateContext { request: Request, context: Text, delta: Json },
    /// Destroy it.
    DestroyContext { request: Request, context: Text },

    /// Receive what is published to topics that match a pattern.
    BusSubscribe { request: Request, pattern: Text, routing_key: Option<Text> },
    /// Receive it no more. An unknown subscription is no error.
    BusUnsubscribe { request: Request, subscription: u64 },
    /// Publish. `target` filters receivers by identity.
    BusPublish { topic: Text, routing_key: Option<Text>, target: Option<Json>, data: Json },
}
