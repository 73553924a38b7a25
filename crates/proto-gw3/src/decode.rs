//! From a frame to what it asks for.

use bytes::Bytes;
use mesh_model::json::members;
use mesh_model::{
    Area, Arguments, Command, Json, JsonError, Key, Lifetime, Permissions, Request, SessionId, Text, Words,
};

use crate::encode::ErrorFrame;
use crate::message::{Connection, Domain};

/// What a frame asks for.
#[derive(Debug)]
pub enum Incoming {
    /// To be done by the node.
    Command {
        /// Who asks.
        session: SessionId,
        /// What.
        command: Command,
    },
    /// Somebody wants to log in.
    Hello {
        /// The request.
        request: Request,
        /// Who it says it is.
        identity: Json,
        /// How it proves its user.
        login: Login,
        /// The same as it was sent, for a program that decides.
        authentication: Json,
    },
    /// A logged-in peer wants a token that logs another client in as its user.
    CreateToken {
        /// Who.
        session: SessionId,
        /// The request.
        request: Request,
    },
    /// Answered by the protocol itself: a frame to be sent behind all that is waiting.
    Reply(Bytes),
    /// An app's own metrics, which are counted and discarded.
    Metrics,
    /// Nothing to do: a ping.
    Nothing,
}

/// How a client proves its user.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Login {
    /// A name and a password.
    Secret {
        /// The name.
        login: Text,
    },
    /// A token from an earlier welcome.
    AccessToken(Text),
    /// A token another peer asked for.
    GatewayToken(Text),
    /// What the authentication provider of this name understands.
    Provider(Text),
    /// Something this gateway has no answer to; the text says what.
    Unsupported(Text),
}

/// Returns the `traceparent` that a client put into a call's arguments, if it did.
#[must_use]
pub fn traceparent(arguments: &Arguments) -> Option<Text> {
    const MEMBER: &str = "__interopIOTracePropagationInfo";
    let named = arguments.named.as_ref()?;
    memchr::memmem::find(named.as_bytes(), MEMBER.as_bytes())?;
    named.member(MEMBER)?.member("traceparent")?.as_text()
}

struct Fields(Vec<(Key, Json)>);

impl Fields {
    fn get(&self, name: &str) -> Option<Json> {
        self.0.iter().rev().find(|(key, _)| key.0 == name.as_bytes()).map(|(_, value)| value.clone())
    }

    fn some(&self, name: &str) -> Option<Json> {
        self.get(name).filter(|value| !value.is_null())
    }

    fn text(&self, name: &str) -> Option<Text> {
        self.get(name)?.as_text()
    }

    fn words(&self) -> Words {
        Words {
            uri: self.some("reason_uri").map(|j| j.detached()),
            reason: self.some("reason").map(|j| j.detached()),
        }
    }

    fn arguments(&self) -> Arguments {
        Arguments {
            positional: self.some("arguments"),
            named: self.some("arguments_kv"),
            flags: self.some("flags"),
            context: self.some("context"),
        }
    }

    /// A number this node gave out as `r-<number>`.
    fn number(&self, name: &str) -> Option<u64> {
        self.text(name)?.strip_prefix("r-")?.parse().ok()
    }

    /// A restriction expression; an empty one is none.
    fn condition(&self, name: &str, domain: Domain) -> Result<Option<Text>, Problem> {
        match self.some(name) {
            None => Ok(None),
            Some(value) => match value.as_text() {
                Some(text) => Ok(Some(text.detached()).filter(|text| !text.is_empty())),
                None => Err(Problem::new(domain, "errors.failure", &format!("`{name}` must be a string"))),
            },
        }
    }
}

impl Connection {
    /// Understands one frame.
    pub fn decode(&mut self, frame: &Bytes) -> Incoming {
        match members(frame, self.limits) {
            Ok(members) => self.message(&Fields(members)),
            Err(error) => Incoming::Reply(not_an_object(frame, error)),
        }
    }

    /// Answers a frame that is larger than a node takes: with an error that names the limit, and if it is
    /// the result of a call, to the caller. What is in it goes no further.
    pub fn refuse_large(&mut self, frame: &Bytes, bytes_max: usize) -> Incoming {
        let fields = match members(frame, self.limits) {
            Ok(members) => Fields(members),
            Err(error) => return Incoming::Reply(not_an_object(frame, error)),
        };
        let reason = format!(
            "the message of {} bytes is larger than {bytes_max} bytes (limit message_bytes_max)",
            frame.len()
        );
        let kind = fields.text("type").unwrap_or_default();
        let named = fields.text("domain").unwrap_or(Text::from_static("global"));
        let (id, peer_id) = (fields.get("request_id"), fields.some("peer_id"));
        let session = peer_id.as_ref().and_then(Json::as_text).and_then(|id| self.peers.get(&id).copied());
        let uri = format!("{named}.errors.limits_exceeded");
        if let ("agm", "yield", Some(session), Some(invocation)) =
            (&*named, &*kind, session, fields.number("invocation_id"))
        {
            let request = Request { id: id.unwrap_or_else(Json::null), face: Domain::Agm.face() };
            let words = Words { uri: Some(Json::string(&uri)), reason: Some(Json::string(&reason)) };
            let command = Command::Fail { request, id: invocation, words, context: None };
            return Incoming::Command { session, command };
        }
        let destination = fields.text("destination").filter(|_| matches!(&*kind, "join" | "leave"));
        let domain = destination.unwrap_or(named);
        let error = ErrorFrame {
            domain: Some(&domain),
            request_id: id.as_ref(),
            peer_id: peer_id.as_ref(),
            uri: &uri,
            reason: &reason,
        };
        Incoming::Reply(error.encode())
    }

    fn message(&mut self, fields: &Fields) -> Incoming {
        let kind = fields.text("type").unwrap_or_default();
        if &*kind == "ping" {
            return Incoming::Nothing;
        }
        let id = fields.get("request_id");
        let named = fields.text("domain");
        let domain_name = named.clone().unwrap_or(Text::from_static("global"));
        let given = fields.some("peer_id");
        let answer = |domain: Option<&str>, uri: &str, reason: &str| {
            let error = ErrorFrame { domain, request_id: id.as_ref(), peer_id: given.as_ref(), uri, reason };
            Incoming::Reply(error.encode())
        };
        let Some(domain) = Domain::parse(&domain_name) else {
            let reason = format!(
                "there is no domain `{domain_name}`; known are agm, bus, global, context, metrics, activity"
            );
            return answer(Some(&domain_name), "global.errors.failure", &reason);
        };
        let request = Request { id: id.clone().unwrap_or_else(Json::null), face: domain.face() };
        if domain == Domain::Global && &*kind == "hello" {
            let identity = fields.some("identity").unwrap_or_else(|| Json::from_static("{}"));
            let authentication = fields.some("authentication").unwrap_or_else(Json::null);
            return Incoming::Hello { request, identity, login: login(&authentication), authentication };
        }
        if !is_known(domain, &kind) {
            let minus_one = Json::from_static("-1");
            let error = ErrorFrame {
                domain: Some(domain.name()),
                request_id: Some(id.as_ref().unwrap_or(&minus_one)),
                peer_id: given.as_ref(),
                uri: &format!("{}.errors.unhandled_message", domain.name()),
                reason: &format!("there is no message `{kind}` in domain {}", domain.name()),
            };
            return Incoming::Reply(error.encode());
        }
        let membership = domain == Domain::Global && matches!(&*kind, "join" | "leave");
        let failure = format!("{}.errors.failure", domain.name());
        let uri = if membership { "global.errors.invalid_peer" } else { failure.as_str() };
        let Some(given_id) = given.as_ref() else {
            return answer(
                Some(domain.name()),
                uri,
                "Peer id is missing: log in first, then send the peer_id of the welcome",
            );
        };
        let session = given_id.as_text().and_then(|id| self.peers.get(&id).copied());
        let Some(session) = session else {
            // Another connection's peer, or nobody: the pair of connection and peer is the authority.
            return answer(None, "global.errors.failure", "that peer_id does not belong to this connection");
        };
        match self.command(domain, &kind, session, request, fields) {
            Ok(incoming) => incoming,
            Err(Problem { domain, uri, reason }) => answer(Some(&domain), &uri, &reason),
        }
    }

    fn command(
        &mut self,
        domain: Domain,
        kind: &str,
        session: SessionId,
        request: Request,
        fields: &Fields,
    ) -> Result<Incoming, Problem> {
        let failure = |reason: &str| Problem::new(domain, "errors.failure", reason);
        let need = |name: &str| fields.get(name).ok_or_else(|| failure(&format!("`{name}` is missing")));
        let need_text = |name: &str| {
            fields.text(name).ok_or_else(|| {
                failure(&format!("`{name}` must be a string, and is missing or something else"))
            })
        };
        let list = |name: &str| {
            fields
                .get(name)
                .and_then(|list| list.elements())
                .ok_or_else(|| failure(&format!("`{name}` must be an array")))
        };
        let server = || {
            let reason = "`server_id` must be the peer id of a server";
            fields.text("server_id").ok_or_else(|| failure(reason))
        };
        let reply_success = || Ok(Incoming::Reply(self.success(session, &request)));
        let command = match (domain, kind) {
            (Domain::Global, "join" | "leave") => return self.membership(kind, session, request, fields),
            (Domain::Global, "create-token") => return Ok(Incoming::CreateToken { session, request }),
            (Domain::Global | Domain::Context, "create-context") => {
                let lifetime = match fields.text("lifetime").as_deref() {
                    Some("retained") => Lifetime::Retained,
                    Some("ownership") => Lifetime::Ownership,
                    Some("ref-counted") => Lifetime::RefCounted,
                    _ => {
                        let reason = "`lifetime` must be retained, ownership or ref-counted";
                        return Err(Problem::new(domain, "errors.bad_lifetime", reason));
                    }
                };
                Command::CreateContext {
                    request,
                    name: need_text("name")?,
                    data: fields.some("data"),
                    lifetime,
                    permissions: Permissions {
                        read: fields.condition("read_permissions", domain)?,
                        write: fields.condition("write_permissions", domain)?,
                    },
                }
            }
            (Domain::Global | Domain::Context, _) => {
                let context = need_text("context_id")?;
                match kind {
                    "subscribe-context" => Command::SubscribeContext { request, context },
                    "unsubscribe-context" => Command::UnsubscribeContext { request, context },
                    "destroy-context" => Command::DestroyContext { request, context },
                    _ => Command::UpdateContext { request, context, delta: need("delta")? },
                }
            }
            (Domain::Agm, "register") => Command::Register { request, methods: list("methods")? },
            (Domain::Agm, "unregister") => Command::Unregister { request, methods: list("methods")? },
            (Domain::Agm, "call") => {
                let (server, method, arguments) = (server()?, need("method_id")?, fields.arguments());
                Command::Call { request, server, method, arguments, trace: None }
            }
            (Domain::Agm, "subscribe") => {
                let (server, method, arguments) = (server()?, need("method_id")?, fields.arguments());
                Command::Subscribe { request, server, method, arguments }
            }
            (Domain::Agm, "yield") => match fields.number("invocation_id") {
                Some(invocation) => Command::Yield { invocation, result: fields.some("result") },
                None => return Ok(Incoming::Nothing),
            },
            (Domain::Agm, "error") => {
                // 0 is nobody's number, so an id of another form is refused as unknown.
                let id = fields.number("request_id").unwrap_or(0);
                Command::Fail { request, id, words: fields.words(), context: fields.get("context") }
            }
            (Domain::Agm, "accepted") => match (fields.number("subscription_id"), fields.some("stream_id")) {
                (Some(subscription), Some(branch)) => Command::Accept { subscription, branch },
                (_, None) => {
                    let reason = "`stream_id` is missing";
                    return Err(Problem::new(domain, "errors.subscription.invalid_subscription", reason));
                }
                (None, _) => return Ok(Incoming::Nothing),
            },
            (Domain::Agm, "publish") => Command::Push {
                branch: need("stream_id")?,
                data: fields.get("data").unwrap_or_else(Json::null),
                sequence: fields.some("sequence"),
                snapshot: fields.some("snapshot"),
            },
            (Domain::Agm, "post") => match fields.number("subscription_id") {
                Some(subscription) => Command::PushTo {
                    subscription,
                    data: fields.get("data").unwrap_or_else(Json::null),
                    sequence: fields.some("sequence"),
                    snapshot: fields.some("snapshot"),
                },
                None => return Ok(Incoming::Nothing),
            },
            (Domain::Agm, "drop-subscription") => {
                // Refused under the subscription's id, not the request's.
                let request =
                    Request { id: fields.get("subscription_id").unwrap_or_else(Json::null), ..request };
                let subscription = fields.number("subscription_id").unwrap_or(0);
                Command::Drop { request, subscription, words: fields.words() }
            }
            (Domain::Agm, _) => {
                let subscription = fields.number("subscription_id").unwrap_or(0);
                let given = fields.words();
                let words = Words {
                    uri: fields.get("reason_uri").or(given.uri),
                    reason: fields.get("reason").or(given.reason),
                };
                Command::Unsubscribe { request, subscription, words }
            }
            (Domain::Bus, "subscribe") => {
                let pattern = need_text("topic")?;
                Command::BusSubscribe { request, pattern, routing_key: fields.text("routing_key") }
            }
            (Domain::Bus, "unsubscribe") => Command::BusUnsubscribe {
                request,
                subscription: fields.number("subscription_id").unwrap_or(0),
            },
            (Domain::Bus, _) => match (fields.text("topic"), fields.some("data")) {
                (Some(topic), Some(data)) => Command::BusPublish {
                    topic,
                    routing_key: fields.text("routing_key"),
                    target: fields.some("target_identity"),
                    data,
                },
                _ => return Ok(Incoming::Nothing),
            },
            (Domain::Metrics, _) => return Ok(Incoming::Metrics),
            (Domain::Activity, "unsubscribe") => return reply_success(),
            (Domain::Activity, _) => {
                return Err(failure("activities are not supported by this version of deskmesh"));
            }
        };
        Ok(Incoming::Command { session, command })
    }

    fn membership(
        &mut self,
        kind: &str,
        session: SessionId,
        request: Request,
        fields: &Fields,
    ) -> Result<Incoming, Problem> {
        let destination = fields.text("destination").unwrap_or_default();
        let Some(domain) = Domain::parse(&destination) else {
            // In the destination's name, else the client that waits there waits for ever.
            return Err(Problem {
                domain: destination.clone(),
                uri: "global.errors.invalid_domain".into(),
                reason: format!("there is no domain `{destination}` to {kind}"),
            });
        };
        let request = Request { face: domain.face(), ..request };
        let area = match domain {
            Domain::Agm => Area::Interop,
            Domain::Bus => Area::Bus,
            Domain::Context | Domain::Global | Domain::Metrics | Domain::Activity => {
                if let (Domain::Context, Some(peer)) = (domain, self.sessions.get_mut(&session)) {
                    peer.in_context_domain = kind == "join";
                }
                return Ok(Incoming::Reply(self.success(session, &request)));
            }
        };
        let command = match kind {
            "join" => {
                Command::Join { request, area, restrictions: fields.condition("restrictions", domain)? }
            }
            _ => Command::Leave { request, area, words: fields.words() },
        };
        Ok(Incoming::Command { session, command })
    }
}

struct Problem {
    domain: Text,
    uri: String,
    reason: String,
}

impl Problem {
    fn new(domain: Domain, code: &str, reason: &str) -> Self {
        Self {
            domain: Text::from_static(domain.name()),
            uri: format!("{}.{code}", domain.name()),
            reason: reason.into(),
        }
    }
}

fn login(authentication: &Json) -> Login {
    let given = Fields(authentication.members().unwrap_or_default());
    let method = given.text("method");
    // A gateway token is the node's own, whoever decides about the rest.
    let own = method.as_deref() == Some("gateway-token") && given.some("token").is_some();
    if let Some(provider) = given.text("provider").filter(|provider| !own && &**provider != "basic") {
        return Login::Provider(provider.detached());
    }
    match method.as_deref() {
        Some("secret") => match (given.text("login"), given.some("secret")) {
            (Some(login), Some(_)) => Login::Secret { login: login.detached() },
            _ => Login::Unsupported("`login` and `secret` are needed".into()),
        },
        Some("access-token") => given
            .text("token")
            .map_or_else(|| Login::Unsupported("`token` is needed".into()), Login::AccessToken),
        Some("gateway-token") => given
            .text("token")
            .map_or_else(|| Login::Unsupported("`token` is needed".into()), Login::GatewayToken),
        Some(other) => Login::Unsupported(format!("there is no authentication method `{other}`").into()),
        None => Login::Unsupported(
            "`authentication.method` is missing: secret, access-token or gateway-token".into(),
        ),
    }
}

fn is_known(domain: Domain, kind: &str) -> bool {
    const CONTEXT: [&str; 5] =
        ["create-context", "subscribe-context", "unsubscribe-context", "update-context", "destroy-context"];
    match domain {
        Domain::Global => matches!(kind, "join" | "leave" | "create-token") || CONTEXT.contains(&kind),
        Domain::Context => CONTEXT.contains(&kind),
        Domain::Agm => matches!(
            kind,
            "register"
                | "unregister"
                | "call"
                | "yield"
                | "error"
                | "subscribe"
                | "unsubscribe"
                | "accepted"
                | "publish"
                | "post"
                | "drop-subscription"
        ),
        Domain::Bus => matches!(kind, "subscribe" | "unsubscribe" | "publish"),
        Domain::Metrics => matches!(kind, "define" | "publish"),
        Domain::Activity => matches!(
            kind,
            "add-types"
                | "remove-types"
                | "add-peer-factories"
                | "remove-peer-factories"
                | "create-peer"
                | "create"
                | "ready"
                | "subscribe"
                | "unsubscribe"
                | "join-activity"
                | "leave-activity"
                | "destroy"
                | "destroy-peer"
                | "reload"
                | "error"
        ),
    }
}

fn not_an_object(frame: &Bytes, error: JsonError) -> Bytes {
    let minus_one = Json::from_static("-1");
    // `null` and `[]` are JSON, and are treated as an empty message.
    let empty =
        Json::parse(frame.clone()).is_ok_and(|value| matches!(value.as_bytes().as_ref(), b"null" | b"[]"));
    let (uri, reason) = match empty {
        true => (
            "global.errors.unhandled_message",
            "there is no message without a type in domain global".to_owned(),
        ),
        false => ("global.errors.failure", format!("a message must be one JSON object: {error}")),
    };
    ErrorFrame { domain: Some("global"), request_id: Some(&minus_one), peer_id: None, uri, reason: &reason }
        .encode()
}
