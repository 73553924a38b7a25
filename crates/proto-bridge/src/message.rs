//! Messages between an agent and a bridge (FDC3 2.2, Bridging, *Message Format*).
//!
//! ```text
//! {"type": "findIntentRequest",
//!  "payload": {"intent": "ViewChart", …},                     kept as text
//!  "meta": {"requestUuid": "…", "responseUuid": "…",          a response has both
//!           "timestamp": "…",
//!           "source": {"desktopAgent", "appId", "instanceId"},        of requests
//!           "destination": {"desktopAgent", "appId", "instanceId"},
//!           "sources": […], "errorSources": […], "errorDetails": […]}}  of the bridge's responses
//! ```
//!
//! `null` counts as absent wherever it stands in an envelope: clients made with other tools write it.
//! Members that are not drawn here are dropped.

use bytes::Bytes;
use mesh_model::json::{self, write_string};
use mesh_model::limits::JsonLimits;
use mesh_model::{Json, JsonError, Key, Kind, Text};

/// Longest `requestUuid` or `responseUuid`, in bytes; a longer one counts as absent.
pub const UUID_BYTES_MAX: usize = 128;

/// Words of `payload.error` and `meta.errorDetails` that bridging itself uses (`BridgingError`, and those of
/// `OpenError` and `ResolveError` that a bridge says by itself).
pub mod error {
    use mesh_model::Text;

    /// There was no answer in time.
    pub const TIMED_OUT: Text = Text::from_static("ResponseToBridgeTimedOut");
    /// The agent has left before it answered.
    pub const DISCONNECTED: Text = Text::from_static("AgentDisconnected");
    /// There is no bridge to ask.
    pub const NOT_CONNECTED: Text = Text::from_static("NotConnectedToBridge");
    /// A message that says too little, or reuses the id of another.
    pub const MALFORMED: Text = Text::from_static("MalformedMessage");
    /// There is no agent of that name.
    pub const NO_AGENT: Text = Text::from_static("DesktopAgentNotFound");
    /// The app takes longer to start than whoever asked would wait.
    pub const APP_TIMEOUT: Text = Text::from_static("AppTimeout");
    /// The same, for an intent.
    pub const NOT_DELIVERED: Text = Text::from_static("IntentDeliveryFailed");
}

/// What a message is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum MessageType {
    /// Step 2 of connecting: the bridge shows what it is.
    Hello,
    /// Step 3: the agent shows what it is, and which name it would like.
    Handshake,
    /// Step 4: the bridge does not let it in.
    AuthenticationFailed,
    /// Steps 6 and 7: somebody has joined or left.
    ConnectedAgentsUpdate,
    /// A request.
    Request(Exchange),
    /// The answer to one.
    Response(Exchange),
    /// What came of an intent, behind the answer to `raiseIntent`.
    RaiseIntentResult,
    /// Anything else.
    Other(Text),
}

/// The exchanges of the messaging protocol (Bridging, *Individual message exchanges*).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
#[expect(missing_docs, reason = "named by the standard")]
pub enum Exchange {
    Broadcast,
    FindIntent,
    FindIntentsByContext,
    FindInstances,
    GetAppMetadata,
    Open,
    RaiseIntent,
    PrivateBroadcast,
    PrivateEventListenerAdded,
    PrivateEventListenerRemoved,
    PrivateOnAddContextListener,
    PrivateOnUnsubscribe,
    PrivateOnDisconnect,
}

/// How an exchange is answered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Answered {
    /// Not at all (*Request only*).
    Never,
    /// By one agent (*Request Response (single)*; `raiseIntent` has a second answer).
    Once,
    /// By everybody, in one collated answer; or by one agent, if the request names it.
    Collated,
}

impl Exchange {
    /// All of them.
    pub const ALL: [Self; 13] = [
        Self::Broadcast,
        Self::FindIntent,
        Self::FindIntentsByContext,
        Self::FindInstances,
        Self::GetAppMetadata,
        Self::Open,
        Self::RaiseIntent,
        Self::PrivateBroadcast,
        Self::PrivateEventListenerAdded,
        Self::PrivateEventListenerRemoved,
        Self::PrivateOnAddContextListener,
        Self::PrivateOnUnsubscribe,
        Self::PrivateOnDisconnect,
    ];

    /// Returns how it is answered.
    #[must_use]
    pub const fn answered(self) -> Answered {
        match self {
            Self::FindIntent | Self::FindIntentsByContext | Self::FindInstances => Answered::Collated,
            Self::GetAppMetadata | Self::Open | Self::RaiseIntent => Answered::Once,
            _ => Answered::Never,
        }
    }

    /// Returns the `type` of its request, and of its response.
    #[must_use]
    pub const fn types(self) -> (&'static str, Option<&'static str>) {
        match self {
            Self::Broadcast => ("broadcastRequest", None),
            Self::FindIntent => ("findIntentRequest", Some("findIntentResponse")),
            Self::FindIntentsByContext => {
                ("findIntentsByContextRequest", Some("findIntentsByContextResponse"))
            }
            Self::FindInstances => ("findInstancesRequest", Some("findInstancesResponse")),
            Self::GetAppMetadata => ("getAppMetadataRequest", Some("getAppMetadataResponse")),
            Self::Open => ("openRequest", Some("openResponse")),
            Self::RaiseIntent => ("raiseIntentRequest", Some("raiseIntentResponse")),
            Self::PrivateBroadcast => ("PrivateChannel.broadcast", None),
            Self::PrivateEventListenerAdded => ("PrivateChannel.eventListenerAdded", None),
            Self::PrivateEventListenerRemoved => ("PrivateChannel.eventListenerRemoved", None),
            Self::PrivateOnAddContextListener => ("PrivateChannel.onAddContextListener", None),
            Self::PrivateOnUnsubscribe => ("PrivateChannel.onUnsubscribe", None),
            Self::PrivateOnDisconnect => ("PrivateChannel.onDisconnect", None),
        }
    }

    /// Returns the type of a message that answers it; for those that have no answer, of an error.
    #[must_use]
    pub const fn answer_type(self) -> MessageType {
        match self.answered() {
            Answered::Never => MessageType::Request(self),
            Answered::Once | Answered::Collated => MessageType::Response(self),
        }
    }
}

impl MessageType {
    /// Returns the word in `type`.
    #[must_use]
    pub fn as_str(&self) -> &str {
        match self {
            Self::Hello => "hello",
            Self::Handshake => "handshake",
            Self::AuthenticationFailed => "authenticationFailed",
            Self::ConnectedAgentsUpdate => "connectedAgentsUpdate",
            Self::Request(exchange) => exchange.types().0,
            Self::Response(exchange) => exchange.types().1.unwrap_or(exchange.types().0),
            Self::RaiseIntentResult => "raiseIntentResultResponse",
            Self::Other(word) => word,
        }
    }
}

impl From<Text> for MessageType {
    fn from(word: Text) -> Self {
        let named = [
            Self::Hello,
            Self::Handshake,
            Self::AuthenticationFailed,
            Self::ConnectedAgentsUpdate,
            Self::RaiseIntentResult,
        ];
        let exchanges = Exchange::ALL.iter().flat_map(|exchange| {
            let (_, response) = exchange.types();
            [Some(Self::Request(*exchange)), response.map(|_| Self::Response(*exchange))]
        });
        let mut known = named.into_iter().chain(exchanges.flatten());
        known.find(|known| known.as_str() == word.as_str()).unwrap_or(Self::Other(word))
    }
}

/// An app, an instance of one, or an agent: `AppIdentifier` or `DesktopAgentIdentifier`.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Participant {
    /// The agent's name at the bridge.
    pub desktop_agent: Option<Text>,
    /// The app.
    pub app_id: Option<Text>,
    /// Its instance.
    pub instance_id: Option<Text>,
}

impl Participant {
    /// Names an agent as such.
    #[must_use]
    pub fn agent(name: impl Into<Text>) -> Self {
        Self { desktop_agent: Some(name.into()), ..Self::default() }
    }

    /// Reads an identifier, leaving out what is `null` or no string.
    #[must_use]
    pub fn from_json(value: &Json) -> Self {
        let mut participant = Self::default();
        for (key, value) in value.members().unwrap_or_default() {
            let place = match &key.0[..] {
                b"desktopAgent" => &mut participant.desktop_agent,
                b"appId" => &mut participant.app_id,
                b"instanceId" => &mut participant.instance_id,
                _ => continue,
            };
            *place = value.as_text();
        }
        participant
    }

    /// Writes the identifier.
    #[must_use]
    pub fn to_json(&self) -> Json {
        let mut object = Object::new();
        object.text("appId", self.app_id.as_ref());
        object.text("instanceId", self.instance_id.as_ref());
        object.text("desktopAgent", self.desktop_agent.as_ref());
        object.end()
    }
}

/// An agent that did not answer as asked, and why: one place of `errorSources` and `errorDetails`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Failure {
    /// Who.
    pub source: Participant,
    /// A word of the standard's error enumerations.
    pub detail: Text,
}

/// The `meta` of a message.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Meta {
    /// `requestUuid`: which request this is, or belongs to.
    pub request: Option<Text>,
    /// `responseUuid`: which response this is.
    pub response: Option<Text>,
    /// When the message was made. Whoever sends it sets this anew.
    pub timestamp: Option<Text>,
    /// Who asks.
    pub source: Option<Participant>,
    /// Who is asked.
    pub destination: Option<Participant>,
    /// Which agents answered.
    pub sources: Vec<Participant>,
    /// Which did not, or with an error.
    pub failures: Vec<Failure>,
}

/// A message.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Message {
    /// What it is.
    pub message_type: MessageType,
    /// An object, as the text it came in.
    pub payload: Json,
    /// Where it belongs.
    pub meta: Meta,
}

/// Why a message cannot be taken.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{problem}")]
pub struct DecodeError {
    /// Its type, if that can be read.
    pub message_type: Option<MessageType>,
    /// What it calls itself or answers, if that can be read. Without this nobody can be told.
    pub request: Option<Text>,
    /// Whether it is a response.
    pub is_response: bool,
    /// What is wrong with it.
    pub problem: Problem,
}

/// What is wrong with a message.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Problem {
    /// The text is not a JSON object.
    #[error("not a JSON object: {0}")]
    Json(#[from] JsonError),
    /// A member that must be there is not, or is of another kind.
    #[error("`{0}` is missing, or not what it should be")]
    Member(&'static str),
    /// The type is none that is understood here.
    #[error("a message of type `{0}` is not expected here")]
    Type(Text),
    /// The id was used by another request.
    #[error("requestUuid {0} belongs to another request")]
    Reused(Text),
}

impl Message {
    /// Names the app of a request in its destination, too: there are agents that take no destination without one.
    pub(crate) fn address_app(&mut self) {
        let Some(destination) = self.meta.destination.as_mut().filter(|to| to.app_id.is_none()) else {
            return;
        };
        if let Some(app) = self.payload.member("app") {
            let app = Participant::from_json(&app);
            (destination.app_id, destination.instance_id) = (app.app_id, app.instance_id);
        }
    }

    /// Makes a request of this agent. Its id and time are set when it is sent.
    #[must_use]
    pub fn request(exchange: Exchange, payload: Json, source: Option<Participant>) -> Self {
        let meta = Meta { source, ..Meta::default() };
        Self { message_type: MessageType::Request(exchange), payload, meta }
    }

    /// Makes the answer of this agent to a request. Its id and time are set when it is sent.
    #[must_use]
    pub fn response(exchange: Exchange, request: Text, payload: Json) -> Self {
        let meta = Meta { request: Some(request), ..Meta::default() };
        Self { message_type: exchange.answer_type(), payload, meta }
    }

    /// Makes the second answer to `raiseIntent`: `{"intentResult": …}`, or `{}` for a handler that returned
    /// nothing.
    #[must_use]
    pub fn intent_result(request: Text, payload: Json) -> Self {
        let meta = Meta { request: Some(request), ..Meta::default() };
        Self { message_type: MessageType::RaiseIntentResult, payload, meta }
    }

    /// Returns `payload.error`, if the message is an error.
    #[must_use]
    pub fn error(&self) -> Option<Text> {
        self.payload.member("error")?.as_text()
    }

    /// Reads a message, however complicated.
    ///
    /// # Errors
    ///
    /// Returns what is wrong with it, and what is needed to say so.
    pub fn decode(frame: &Bytes) -> Result<Self, DecodeError> {
        Self::decode_within(frame, JsonLimits::WIDEST)
    }

    /// Reads a message that is not more complicated than that.
    pub(crate) fn decode_within(frame: &Bytes, limits: JsonLimits) -> Result<Self, DecodeError> {
        let unreadable =
            |problem| DecodeError { message_type: None, request: None, is_response: false, problem };
        let members = json::members(frame, limits).map_err(|error| unreadable(Problem::Json(error)))?;
        let member = |name: &str| {
            members.iter().rev().find(|(key, _)| key.0 == name.as_bytes()).map(|(_, value)| value)
        };
        let meta = member("meta").map(Meta::from_json).unwrap_or_default();
        let message_type = member("type").and_then(Json::as_text).map(MessageType::from);
        let payload = member("payload").filter(|payload| payload.kind() == Kind::Object);
        let error = |message_type, name| DecodeError {
            message_type,
            request: meta.request.clone(),
            is_response: meta.response.is_some(),
            problem: Problem::Member(name),
        };
        let Some(message_type) = message_type else { return Err(error(None, "type")) };
        let Some(payload) = payload else { return Err(error(Some(message_type), "payload")) };
        Ok(Self { message_type, payload: payload.clone(), meta })
    }

    /// Writes the message.
    #[must_use]
    pub fn encode(&self) -> Bytes {
        let mut object = Object::new();
        object.text("type", Some(&Text::from(self.message_type.as_str())));
        object.value("payload", &self.payload);
        object.value("meta", &self.meta.to_json());
        object.end().as_bytes().clone()
    }
}

impl Meta {
    fn from_json(value: &Json) -> Self {
        let mut meta = Self::default();
        let (mut sources, mut details) = (Vec::new(), Vec::new());
        for (key, value) in value.members().unwrap_or_default() {
            let uuid = || value.as_text().filter(|uuid| !uuid.is_empty() && uuid.len() <= UUID_BYTES_MAX);
            let participant = || (value.kind() == Kind::Object).then(|| Participant::from_json(&value));
            let elements = || value.elements().unwrap_or_default();
            match &key.0[..] {
                b"requestUuid" => meta.request = uuid(),
                b"responseUuid" => meta.response = uuid(),
                b"timestamp" => meta.timestamp = value.as_text(),
                b"source" => meta.source = participant(),
                b"destination" => meta.destination = participant(),
                b"sources" => meta.sources = elements().iter().map(Participant::from_json).collect(),
                b"errorSources" => sources = elements(),
                b"errorDetails" => details = elements(),
                _ => {}
            }
        }
        let failures = sources.iter().zip(details).map(|(source, detail)| Failure {
            source: Participant::from_json(source),
            detail: detail.as_text().unwrap_or(error::MALFORMED),
        });
        meta.failures = failures.collect();
        meta
    }

    fn to_json(&self) -> Json {
        let mut object = Object::new();
        object.text("requestUuid", self.request.as_ref());
        object.text("responseUuid", self.response.as_ref());
        object.text("timestamp", self.timestamp.as_ref());
        for (name, participant) in [("source", &self.source), ("destination", &self.destination)] {
            if let Some(participant) = participant {
                object.value(name, &participant.to_json());
            }
        }
        if !self.sources.is_empty() {
            object.value("sources", &array(self.sources.iter().map(Participant::to_json)));
        }
        if !self.failures.is_empty() {
            object
                .value("errorSources", &array(self.failures.iter().map(|failure| failure.source.to_json())));
            object.value("errorDetails", &array(self.failures.iter().map(|f| Json::string(&f.detail))));
        }
        object.end()
    }
}

/// Assembles an object in the order of its members.
#[derive(Debug)]
pub(crate) struct Object(Vec<u8>);

impl Object {
    pub(crate) fn new() -> Self {
        Self(vec![b'{'])
    }

    pub(crate) fn value(&mut self, name: &str, value: &Json) {
        if self.0.len() > 1 {
            self.0.push(b',');
        }
        write_string(&mut self.0, name.as_bytes());
        self.0.push(b':');
        self.0.extend_from_slice(value.as_bytes());
    }

    pub(crate) fn text(&mut self, name: &str, text: Option<&Text>) {
        if let Some(text) = text {
            self.value(name, &Json::string(text));
        }
    }

    pub(crate) fn end(mut self) -> Json {
        self.0.push(b'}');
        Json::assembled(self.0)
    }
}

/// Assembles an array.
pub(crate) fn array(elements: impl IntoIterator<Item = Json>) -> Json {
    let mut out = vec![b'['];
    for (at, element) in elements.into_iter().enumerate() {
        if at > 0 {
            out.push(b',');
        }
        out.extend_from_slice(element.as_bytes());
    }
    out.push(b']');
    Json::assembled(out)
}

/// `{"error": …}`.
pub(crate) fn error_payload(error: &Text) -> Json {
    let mut object = Object::new();
    object.text("error", Some(error));
    object.end()
}

/// Returns what `getInfo` says of an agent, without what is about one app, and without what is `null`.
pub(crate) fn implementation(metadata: &Json, name: Option<&Text>) -> Json {
    let mut members = metadata.members().unwrap_or_default();
    members.retain(|(key, value)| !value.is_null() && key.0 != "appMetadata" && key.0 != "desktopAgent");
    if let Some(name) = name {
        members.push((Key::new("desktopAgent"), Json::string(name)));
    }
    json::object(members.iter().map(|(key, value)| (key, value)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_type_is_its_own_word() {
        for exchange in Exchange::ALL {
            let (request, response) = exchange.types();
            assert_eq!(MessageType::from(Text::from(request)), MessageType::Request(exchange));
            match response {
                Some(response) => {
                    assert_eq!(MessageType::from(Text::from(response)), MessageType::Response(exchange));
                    assert_eq!(request.replace("Request", "Response"), response);
                }
                None => assert_eq!(exchange.answer_type(), MessageType::Request(exchange)),
            }
        }
        assert_eq!(MessageType::from(Text::from("nonsense")), MessageType::Other(Text::from("nonsense")));
    }

    #[test]
    fn a_message_goes_through_with_its_payload_untouched() {
        let text = r#"{"type":"raiseIntentRequest","payload":{"context": {"n":1.0,"s":"\ud800", "n":2}},"meta":{"requestUuid":"r","timestamp":"t","source":{"appId":"a","instanceId":"i","desktopAgent":"d"},"destination":{"desktopAgent":"e"}}}"#;
        let message = Message::decode(&Bytes::from(text)).unwrap();
        assert_eq!(message.encode(), text);
    }

    #[test]
    fn nulls_are_absent() {
        let text = r#"{"type":"findIntentResponse","payload":{"error":null},"meta":{"requestUuid":"r","responseUuid":null,"source":null,"destination":null,"sources":null}}"#;
        let message = Message::decode(&Bytes::from(text)).unwrap();
        assert_eq!(message.meta, Meta { request: Some(Text::from("r")), ..Meta::default() });
        assert_eq!(message.error(), None);
    }

    #[test]
    fn what_cannot_be_read_says_why() {
        for (text, request, problem) in [
            ("[]", None, "not a JSON object: unexpected byte at 0"),
            (
                r#"{"payload":{},"meta":{"requestUuid":"r"}}"#,
                Some("r"),
                "`type` is missing, or not what it should be",
            ),
            (
                r#"{"type":"t","payload":null,"meta":{"requestUuid":"r"}}"#,
                Some("r"),
                "`payload` is missing, or not what it should be",
            ),
        ] {
            let error = Message::decode(&Bytes::from(text)).unwrap_err();
            assert_eq!((error.request.as_deref(), error.to_string().as_str()), (request, problem));
        }
    }
}
