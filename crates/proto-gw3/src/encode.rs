//! From an event to the frame that tells it.

use bytes::Bytes;
use mesh_model::json::write_string;
use mesh_model::{
    Answer, Arguments, CallFailure, Cause, Event, Json, Outcome, Reason, Request, SessionId, Text,
};

use crate::message::{Connection, Domain};

/// Writes one object, member by member.
struct Frame(Vec<u8>);

impl Frame {
    fn new(domain: &str, kind: &str) -> Self {
        let mut out = Vec::with_capacity(256);
        out.extend_from_slice(b"{\"domain\":");
        write_string(&mut out, domain.as_bytes());
        out.extend_from_slice(b",\"type\":\"");
        out.extend_from_slice(kind.as_bytes());
        out.push(b'"');
        Self(out)
    }

    /// A member whose value is JSON text. The name is one of the protocol's, which need no escapes.
    fn raw(mut self, name: &str, value: &[u8]) -> Self {
        self.0.extend_from_slice(b",\"");
        self.0.extend_from_slice(name.as_bytes());
        self.0.extend_from_slice(b"\":");
        self.0.extend_from_slice(value);
        self
    }

    fn text(mut self, name: &str, value: &str) -> Self {
        self.0.extend_from_slice(b",\"");
        self.0.extend_from_slice(name.as_bytes());
        self.0.extend_from_slice(b"\":");
        write_string(&mut self.0, value.as_bytes());
        self
    }

    fn json(self, name: &str, value: &Json) -> Self {
        self.raw(name, value.as_bytes())
    }

    fn or_null(self, name: &str, value: Option<&Json>) -> Self {
        self.raw(name, value.map_or(&b"null"[..], |value| value.as_bytes()))
    }

    fn number(self, name: &str, number: u64) -> Self {
        self.text(name, &format!("r-{number}"))
    }

    fn list(mut self, name: &str, values: &[Json]) -> Self {
        self = self.raw(name, b"[");
        for (at, value) in values.iter().enumerate() {
            if at > 0 {
                self.0.push(b',');
            }
            self.0.extend_from_slice(value.as_bytes());
        }
        self.0.push(b']');
        self
    }

    fn arguments(self, arguments: &Arguments) -> Self {
        self.or_null("arguments", arguments.positional.as_ref())
            .or_null("arguments_kv", arguments.named.as_ref())
    }

    fn cause(self, cause: &Cause) -> Self {
        let (uri, reason) = match cause {
            Cause::Left(words) => {
                return self
                    .or_null("reason_uri", words.uri.as_ref())
                    .or_null("reason", words.reason.as_ref());
            }
            Cause::Disconnected => ("agm.peer-removed", "Peer has been removed"),
            Cause::Unreachable => {
                ("agm.peer-removed", "The node of this peer cannot be reached at the moment")
            }
            Cause::Lost => {
                ("agm.peer-removed", "The node of this peer has been away too long or was restarted")
            }
            Cause::MethodRemoved => ("agm.method-removed", "Method has been removed"),
            Cause::Destroyed => ("global.destroyed", "Context destroyed explicitly"),
            Cause::OwnerGone => ("context.peer-left", "Context destroyed because its owner/last peer left"),
            Cause::TooSlow => (
                "agm.errors.subscription.slow_consumer",
                "too slow: outbox_subscription_bytes_max of its application, or session_queues_bytes_max of the link, is reached",
            ),
        };
        self.text("reason_uri", uri).text("reason", reason)
    }

    fn end(mut self) -> Bytes {
        self.0.push(b'}');
        self.0.into()
    }
}

/// An error that answers a request.
pub(crate) struct ErrorFrame<'a> {
    pub(crate) domain: Option<&'a str>,
    pub(crate) request_id: Option<&'a Json>,
    pub(crate) peer_id: Option<&'a Json>,
    pub(crate) uri: &'a str,
    pub(crate) reason: &'a str,
}

impl ErrorFrame<'_> {
    pub(crate) fn encode(&self) -> Bytes {
        let mut out = b"{\"domain\":".to_vec();
        match self.domain {
            Some(domain) => write_string(&mut out, domain.as_bytes()),
            None => out.extend_from_slice(b"null"),
        }
        out.extend_from_slice(b",\"type\":\"error\"");
        Frame(out)
            .or_null("request_id", self.request_id)
            .or_null("peer_id", self.peer_id)
            .text("reason_uri", self.uri)
            .text("reason", self.reason)
            .end()
    }
}

impl Connection {
    /// Returns the answer to a login that failed. The client may try again on the same connection.
    #[must_use]
    pub fn login_failed(&self, request: &Request, reason: &str) -> Bytes {
        ErrorFrame {
            domain: Some("global"),
            request_id: Some(&request.id),
            peer_id: None,
            uri: "global.errors.authentication.failure",
            reason,
        }
        .encode()
    }

    /// Returns a challenge: the client says hello again, with the same request id and an answer to it.
    #[must_use]
    pub fn challenge(&self, request: &Request, authentication: &Json) -> Bytes {
        Frame(br#"{"domain":"global","type":"authentication-request""#.to_vec())
            .json("request_id", &request.id)
            .json("authentication", authentication)
            .end()
    }

    /// Returns the answer to a request for a token.
    #[must_use]
    pub fn token(&self, session: SessionId, request: &Request, token: &str) -> Bytes {
        self.frame(Domain::Global, "token", session)
            .json("request_id", &request.id)
            .text("token", token)
            .end()
    }

    pub(crate) fn success(&self, session: SessionId, request: &Request) -> Bytes {
        self.frame(Domain::of_face(request.face), "success", session).json("request_id", &request.id).end()
    }

    fn frame(&self, domain: Domain, kind: &str, session: SessionId) -> Frame {
        let peer = self.sessions.get(&session).map(|peer| peer.id.clone()).unwrap_or_default();
        Frame::new(domain.name(), kind).text("peer_id", &peer)
    }

    fn push(&self, kind: &str, session: SessionId) -> Frame {
        let explicit = self.sessions.get(&session).is_some_and(|peer| peer.in_context_domain);
        self.frame(if explicit { Domain::Context } else { Domain::Global }, kind, session)
    }

    /// Writes the frame that tells a session an event.
    pub fn encode(&mut self, session: SessionId, event: &Event) -> Bytes {
        let agm = |kind: &str| self.frame(Domain::Agm, kind, session);
        let answer = |kind: &str, request: &Request| {
            self.frame(Domain::of_face(request.face), kind, session).json("request_id", &request.id)
        };
        match event {
            Event::Attached { request, instance, identity } => {
                self.welcome(session, request, instance, identity)
            }
            Event::Done { request, .. } => self.success(session, request),
            Event::Refused { request, reason } => self.refusal(session, request, reason),
            Event::InstanceAdded { instance, identity, local } => agm("peer-added")
                .text("new_peer_id", instance)
                .json("identity", identity)
                .raw("meta", if *local { b"{\"local\":true}" } else { b"{\"local\":false}" })
                .end(),
            Event::InstanceRemoved { instance, cause } => {
                agm("peer-removed").text("removed_id", instance).cause(cause).end()
            }
            Event::MethodsAdded { server, methods, local } => agm("methods-added")
                .text("source_type", if *local { "local" } else { "peer" })
                .text("server_id", server)
                .list("methods", methods)
                .end(),
            Event::MethodsRemoved { server, methods } => {
                agm("methods-removed").text("server_id", server).list("methods", methods).end()
            }
            Event::Invoke { invocation, method, caller, arguments } => agm("invoke")
                .number("invocation_id", *invocation)
                .json("method_id", method)
                .text("caller_id", caller)
                .arguments(arguments)
                .or_null("context", arguments.context.as_ref())
                .end(),
            Event::CallEnded { request, outcome } => match outcome {
                Outcome::Answered(Answer::Result(result)) => {
                    answer("result", request).or_null("result", result.as_ref()).end()
                }
                Outcome::Answered(Answer::Error { words, context }) => {
                    let frame = answer("error", request)
                        .or_null("reason_uri", words.uri.as_ref())
                        .or_null("reason", words.reason.as_ref());
                    match context {
                        Some(context) => frame.json("context", context).end(),
                        None => frame.end(),
                    }
                }
                Outcome::Failed(failure) => answer("error", request)
                    .text("reason_uri", uri_of(failure))
                    .text("reason", &failure.to_string())
                    .end(),
            },
            Event::SubscriptionRequested { subscription, method, caller, arguments } => agm("add-interest")
                .number("subscription_id", *subscription)
                .json("method_id", method)
                .text("caller_id", caller)
                .arguments(arguments)
                .or_null("flags", arguments.flags.as_ref())
                .or_null("context", arguments.context.as_ref())
                .end(),
            Event::SubscriberGone { subscription, method, caller, cause } => agm("remove-interest")
                .number("subscription_id", *subscription)
                .json("method_id", method)
                .text("caller_id", caller)
                .cause(cause)
                .end(),
            Event::Subscribed { request, subscription } => {
                answer("subscribed", request).number("subscription_id", *subscription).end()
            }
            Event::StreamData { subscription, private, data, sequence, snapshot, gap, policy: _ } => {
                let frame = agm("event")
                    .number("subscription_id", *subscription)
                    .raw("oob", if *private { b"true" } else { b"false" })
                    .or_null("sequence", sequence.as_ref())
                    .or_null("snapshot", snapshot.as_ref())
                    .json("data", data);
                // Not GW3's: client libraries pass over it.
                let frame = if *gap > 0 { frame.raw("gap", gap.to_string().as_bytes()) } else { frame };
                frame.end()
            }
            Event::SubscriptionEnded { subscription, cause } => {
                agm("subscription-cancelled").number("subscription_id", *subscription).cause(cause).end()
            }
            Event::ContextAdded { context, name, creator } => {
                let creator = creator.as_ref().map(|creator| Json::string(creator));
                self.push("context-added", session)
                    .or_null("creator_id", creator.as_ref())
                    .text("context_id", context)
                    .text("name", name)
                    .end()
            }
            Event::ContextCreated { request, context } => {
                answer("context-created", request).text("context_id", context).end()
            }
            Event::ContextSnapshot { request, context, name, data } => answer("subscribed-context", request)
                .text("context_id", context)
                .text("name", name)
                .json("data", data)
                .end(),
            Event::ContextUpdated { context, updater, delta } => self
                .push("context-updated", session)
                .text("updater_id", updater)
                .text("context_id", context)
                .json("delta", delta)
                .end(),
            Event::ContextDestroyed { context, cause } => {
                self.push("context-destroyed", session).text("context_id", context).cause(cause).end()
            }
            Event::BusSubscribed { request, subscription } => {
                answer("subscribed", request).number("subscription_id", *subscription).end()
            }
            Event::BusEvent { subscription, publisher, data } => self
                .frame(Domain::Bus, "event", session)
                .number("subscription_id", *subscription)
                .json("publisher-identity", publisher)
                .json("data", data)
                .end(),
        }
    }

    /// The client reads the domains' versions, its identity and its token from here.
    fn welcome(&mut self, session: SessionId, request: &Request, instance: &Text, identity: &Json) -> Bytes {
        let peer = self.sessions.entry(session).or_default();
        peer.id = instance.clone();
        let token = peer.access_token.take();
        self.peers.insert(instance.clone(), session);
        let domains: Vec<String> = Domain::ALL
            .into_iter()
            .map(|domain| {
                format!(
                    "{{\"uri\":\"{}\",\"description\":\"\",\"version\":{}}}",
                    domain.name(),
                    domain.version()
                )
            })
            .collect();
        let frame = Frame::new("global", "welcome")
            .json("request_id", &request.id)
            .text("peer_id", instance)
            .raw("available_domains", format!("[{}]", domains.join(",")).as_bytes())
            .json("resolved_identity", identity);
        let Some(token) = token else { return frame.end() };
        let mut options = b"{\"access_token\":".to_vec();
        write_string(&mut options, token.as_bytes());
        options.push(b'}');
        frame.raw("options", &options).end()
    }

    fn refusal(&self, session: SessionId, request: &Request, reason: &Reason) -> Bytes {
        let domain = Domain::of_face(request.face).name();
        let uri = match reason {
            Reason::AlreadyAttached => "global.errors.already_seen".to_owned(),
            Reason::BadIdentity => "global.errors.authentication.failure".to_owned(),
            Reason::NotRegistered { .. } => "agm.errors.unregistration.failure".to_owned(),
            Reason::InvalidSubscription => "agm.errors.subscription.invalid_subscription".to_owned(),
            Reason::NotAuthorized => format!("{domain}.errors.not_authorized"),
            Reason::Limit { .. } => format!("{domain}.errors.limits_exceeded"),
            Reason::NotAttached
            | Reason::NotJoined { .. }
            | Reason::BadMethod { .. }
            | Reason::UnknownServer { .. }
            | Reason::UnknownContext { .. }
            | Reason::BadRestriction { .. }
            | Reason::BadDelta { .. }
            | Reason::NameTooLong { .. } => format!("{domain}.errors.failure"),
        };
        let peer =
            self.sessions.get(&session).filter(|peer| !peer.id.is_empty()).map(|peer| Json::string(&peer.id));
        let reason = reason.to_string();
        ErrorFrame {
            domain: Some(domain),
            request_id: Some(&request.id),
            peer_id: peer.as_ref(),
            uri: &uri,
            reason: &reason,
        }
        .encode()
    }
}

const fn uri_of(failure: &CallFailure) -> &'static str {
    match failure {
        CallFailure::NoTarget { .. }
        | CallFailure::NotDelivered { .. }
        | CallFailure::UnknownOutcome { .. }
        | CallFailure::CalleeGone
        | CallFailure::MethodRemoved
        | CallFailure::Deadline { .. }
        | CallFailure::Overloaded { .. }
        | CallFailure::Denied { .. }
        | CallFailure::BadRequest { .. } => "agm.errors.invocation.failure",
    }
}
