//! What apps ask for.

use bytes::Bytes;
use mesh_model::json::members;
use mesh_model::limits::JsonLimits;
use mesh_model::{Json, JsonError, Text};

use crate::{Fault, context_type};

/// An app, or one instance of it, as an `AppIdentifier` names it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct AppRef {
    /// The app.
    pub app_id: Text,
    /// The instance, if one is meant.
    pub instance_id: Option<Text>,
    /// The agent it belongs to: the name of its node, or of an agent behind a bridge.
    pub desktop_agent: Option<Text>,
}

/// A message from an app that has been let in.
#[derive(Debug)]
pub struct Incoming {
    /// Its `type`.
    pub name: Text,
    /// Its `meta.requestUuid`, for the answer.
    pub request_uuid: Json,
    /// What it asks for, or with which error it is answered.
    pub request: Result<Request, Fault>,
}

/// What an app asks for: the requests of DACP. Contexts are as they came.
#[derive(Clone, Debug, PartialEq, Eq)]
#[expect(missing_docs, reason = "named after the messages of FDC3's DACP reference and their payloads")]
pub enum Request {
    GetInfo,
    /// Of itself, if no app is named.
    GetAppMetadata {
        app: Option<AppRef>,
    },
    FindInstances {
        app: AppRef,
    },
    FindIntent {
        intent: Text,
        context: Option<Text>,
        result: Option<Text>,
    },
    FindIntentsByContext {
        context: Text,
        result: Option<Text>,
    },
    Open {
        app: AppRef,
        context: Option<Json>,
        metadata: Option<Json>,
    },
    Close,
    GetUserChannels,
    GetCurrentChannel,
    JoinUserChannel {
        channel: Text,
    },
    LeaveCurrentChannel,
    GetOrCreateChannel {
        channel: Text,
    },
    CreatePrivateChannel,
    Broadcast {
        channel: Text,
        context: Json,
        metadata: Option<Json>,
    },
    GetCurrentContext {
        channel: Text,
        context: Option<Text>,
    },
    ClearContext {
        channel: Text,
        context: Option<Text>,
    },
    AddContextListener {
        channel: Option<Text>,
        context: Option<Text>,
    },
    ContextListenerUnsubscribe {
        listener: Text,
    },
    AddEventListener {
        event: Option<Text>,
    },
    EventListenerUnsubscribe {
        listener: Text,
    },
    PrivateChannelAddEventListener {
        channel: Text,
        event: Option<Text>,
    },
    PrivateChannelUnsubscribeEventListener {
        listener: Text,
    },
    PrivateChannelDisconnect {
        channel: Text,
    },
    AddIntentListener {
        intent: Text,
        contexts: Option<Vec<Text>>,
    },
    IntentListenerUnsubscribe {
        listener: Text,
    },
    RaiseIntent {
        intent: Text,
        context: Json,
        app: Option<AppRef>,
        metadata: Option<Json>,
    },
    RaiseIntentForContext {
        context: Json,
        app: Option<AppRef>,
        metadata: Option<Json>,
    },
    /// `raise` is the id that the intent event carried. An error says that its handler has failed.
    IntentResult {
        raise: Text,
        result: Result<Json, Fault>,
        metadata: Option<Json>,
    },
    /// Not answered.
    HeartbeatAcknowledgement,
    /// `WCP6Goodbye` or `WSCPGoodbye`. Not answered.
    Goodbye,
}

/// Reads a frame of an app that has been let in. The error says what is wrong with the text.
pub fn decode(frame: &Bytes, limits: JsonLimits) -> Result<Incoming, JsonError> {
    let fields = Fields(members(frame, limits)?);
    let name = fields.text("type").unwrap_or_default();
    let uuid = fields.object("meta").get("requestUuid").unwrap_or_else(Json::null);
    let request = read(&name, &fields.object("payload"));
    // What is kept must not keep the whole frame alive.
    Ok(Incoming { name: name.detached(), request_uuid: uuid.detached(), request })
}

/// The members of an object.
pub(crate) struct Fields(pub(crate) Vec<(mesh_model::Key, Json)>);

impl Fields {
    /// `null` counts as absent: some clients write it for what is not there.
    pub(crate) fn get(&self, name: &str) -> Option<Json> {
        let found = self.0.iter().rev().find(|(key, _)| key.0 == name.as_bytes());
        found.map(|(_, value)| value.clone()).filter(|value| !value.is_null())
    }

    pub(crate) fn text(&self, name: &str) -> Option<Text> {
        self.get(name)?.as_text()
    }

    pub(crate) fn object(&self, name: &str) -> Self {
        Self(self.get(name).and_then(|value| value.members()).unwrap_or_default())
    }

    fn own(&self, name: &str) -> Option<Text> {
        self.text(name).map(|text| text.detached())
    }

    fn must(&self, name: &str) -> Result<Text, Fault> {
        self.own(name).ok_or(Fault::InvalidArguments)
    }

    fn raw(&self, name: &str) -> Option<Json> {
        self.get(name).map(|value| value.detached())
    }

    fn context(&self) -> Result<Json, Fault> {
        let context = self.raw("context").ok_or(Fault::MalformedContext)?;
        context_type(&context).ok_or(Fault::MalformedContext)?;
        Ok(context)
    }

    fn some_context(&self) -> Result<Option<Json>, Fault> {
        self.get("context").map(|_| self.context()).transpose()
    }

    fn app(&self) -> Option<AppRef> {
        let app = self.object("app");
        let app_id = app.own("appId")?;
        Some(AppRef { app_id, instance_id: app.own("instanceId"), desktop_agent: app.own("desktopAgent") })
    }
}

/// Where a target is given that names no app, nobody can be meant.
fn target(payload: &Fields) -> Result<Option<AppRef>, Fault> {
    match payload.get("app") {
        None => Ok(None),
        Some(_) => payload.app().map(Some).ok_or(Fault::TargetAppUnavailable),
    }
}

/// Returns what a handler says of its failure, as far as `ResultError` has a word for it.
fn failure(word: &str) -> Fault {
    match Fault::of_word(word) {
        Some(fault @ (Fault::NoResultReturned | Fault::ApiTimeout)) => fault,
        _ => Fault::IntentHandlerRejected,
    }
}

fn read(name: &str, payload: &Fields) -> Result<Request, Fault> {
    let channel = || payload.must("channelId");
    let listener = || payload.must("listenerUUID");
    let kind = || payload.own("contextType");
    let metadata = || payload.raw("metadata");
    Ok(match name {
        "getInfoRequest" => Request::GetInfo,
        "getAppMetadataRequest" => Request::GetAppMetadata { app: payload.app() },
        "findInstancesRequest" => Request::FindInstances { app: payload.app().ok_or(Fault::NoAppsFound)? },
        "findIntentRequest" => Request::FindIntent {
            intent: payload.must("intent")?,
            context: payload.some_context()?.and_then(|context| context_type(&context)),
            result: payload.own("resultType"),
        },
        "findIntentsByContextRequest" => Request::FindIntentsByContext {
            context: context_type(&payload.context()?).ok_or(Fault::MalformedContext)?,
            result: payload.own("resultType"),
        },
        "openRequest" => Request::Open {
            app: payload.app().ok_or(Fault::AppNotFound)?,
            context: payload.some_context()?,
            metadata: metadata(),
        },
        "closeRequest" => Request::Close,
        "getUserChannelsRequest" => Request::GetUserChannels,
        "getCurrentChannelRequest" => Request::GetCurrentChannel,
        "joinUserChannelRequest" => Request::JoinUserChannel { channel: channel()? },
        "leaveCurrentChannelRequest" => Request::LeaveCurrentChannel,
        "getOrCreateChannelRequest" => Request::GetOrCreateChannel { channel: channel()? },
        "createPrivateChannelRequest" => Request::CreatePrivateChannel,
        "broadcastRequest" => {
            Request::Broadcast { channel: channel()?, context: payload.context()?, metadata: metadata() }
        }
        "getCurrentContextRequest" => Request::GetCurrentContext { channel: channel()?, context: kind() },
        "clearContextRequest" => Request::ClearContext { channel: channel()?, context: kind() },
        "addContextListenerRequest" => {
            Request::AddContextListener { channel: payload.own("channelId"), context: kind() }
        }
        "contextListenerUnsubscribeRequest" => Request::ContextListenerUnsubscribe { listener: listener()? },
        "addEventListenerRequest" => Request::AddEventListener { event: payload.own("type") },
        "eventListenerUnsubscribeRequest" => Request::EventListenerUnsubscribe { listener: listener()? },
        "privateChannelAddEventListenerRequest" => Request::PrivateChannelAddEventListener {
            channel: payload.must("privateChannelId")?,
            event: payload.own("listenerType"),
        },
        "privateChannelUnsubscribeEventListenerRequest" => {
            Request::PrivateChannelUnsubscribeEventListener { listener: listener()? }
        }
        "privateChannelDisconnectRequest" => Request::PrivateChannelDisconnect { channel: channel()? },
        "addIntentListenerRequest" => Request::AddIntentListener {
            intent: payload.must("intent")?,
            contexts: payload.get("contextTypes").and_then(|types| {
                types.elements()?.iter().map(|kind| kind.as_text().map(|kind| kind.detached())).collect()
            }),
        },
        "intentListenerUnsubscribeRequest" => Request::IntentListenerUnsubscribe { listener: listener()? },
        "raiseIntentRequest" => Request::RaiseIntent {
            intent: payload.must("intent")?,
            context: payload.context()?,
            app: target(payload)?,
            metadata: metadata(),
        },
        "raiseIntentForContextRequest" => Request::RaiseIntentForContext {
            context: payload.context()?,
            app: target(payload)?,
            metadata: metadata(),
        },
        "intentResultRequest" => Request::IntentResult {
            raise: payload.must("raiseIntentRequestUuid")?,
            result: match payload.text("error") {
                Some(word) => Err(failure(&word)),
                None => Ok(payload.raw("intentResult").unwrap_or_else(|| Json::from_static("{}"))),
            },
            metadata: metadata(),
        },
        "heartbeatAcknowledgementRequest" => Request::HeartbeatAcknowledgement,
        "WCP6Goodbye" | "WSCPGoodbye" => Request::Goodbye,
        _ => return Err(Fault::InvalidArguments),
    })
}
