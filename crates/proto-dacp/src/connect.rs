//! The first frame of a connection, and its answers: the Web Connection Protocol's identity check
//! (WCP4, WCP5) and the draft WebSocket Connection Protocol (WSCP) for native apps.

use bytes::Bytes;
use mesh_model::json::members;
use mesh_model::limits::JsonLimits;
use mesh_model::{Json, JsonError, Text};

use crate::request::Fields;
use crate::{Object, Stamp, iso_time, message};

/// How an app says who it is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Hello {
    /// `WCP4ValidateAppIdentity`.
    Identity {
        /// Names the attempt, for the answer.
        attempt: Json,
        /// The URL by which the app is found in the directory.
        identity_url: Text,
        /// The URL that the page was loaded from.
        actual_url: Text,
        /// Who it was before: its instance id and the secret that goes with it.
        claim: Option<(Text, Text)>,
        /// The origin that the node's own adaptor page saw, and the key it was launched with.
        attested: Option<Attested>,
    },
    /// `WSCPApplicationConnect`.
    Secret {
        /// Names the attempt, for the answer.
        attempt: Json,
        /// What the app was started with.
        secret: Text,
    },
    /// Something else, which must not come first.
    Other {
        /// Its type.
        name: Text,
    },
}

/// What the node's own adaptor page knows of the window that embeds it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Attested {
    /// Its origin, as the browser says.
    pub origin: Text,
    /// The key of the launch that opened it.
    pub launch_key: Option<Text>,
}

/// Reads the first frame of a connection.
pub fn decode_hello(frame: &Bytes, limits: JsonLimits) -> Result<Hello, JsonError> {
    let fields = Fields(members(frame, limits)?);
    let name = fields.text("type").unwrap_or_default().detached();
    let payload = fields.object("payload");
    let attempt = fields.object("meta").get("connectionAttemptUuid").unwrap_or_else(Json::null).detached();
    let own = |fields: &Fields, name: &str| fields.text(name).map(|text| text.detached());
    Ok(match &*name {
        "WCP4ValidateAppIdentity" => {
            let identity_url = own(&payload, "identityUrl").unwrap_or_default();
            let attested = fields.get("attested").map(|_| {
                let attested = fields.object("attested");
                Attested {
                    origin: own(&attested, "origin").unwrap_or_default(),
                    launch_key: own(&attested, "launchKey"),
                }
            });
            Hello::Identity {
                attempt,
                actual_url: own(&payload, "actualUrl").unwrap_or_else(|| identity_url.clone()),
                identity_url,
                claim: own(&payload, "instanceId").zip(own(&payload, "instanceUuid")),
                attested,
            }
        }
        "WSCPApplicationConnect" => {
            Hello::Secret { attempt, secret: own(&payload, "sharedSecret").unwrap_or_default() }
        }
        _ => Hello::Other { name },
    })
}

impl Hello {
    /// Returns the answer that lets the app in, as this instance.
    #[must_use]
    pub fn accepted(&self, app: &str, instance: &str, secret: &str, about: &Json, wall_ms: u64) -> Bytes {
        match self {
            Self::Secret { .. } => {
                let payload =
                    Object::new().text("protocolVersion", "1.0").json("implementationMetadata", about).end();
                message("WSCPDesktopAgentConnect", &payload, &self.meta(wall_ms))
            }
            _ => {
                let payload = Object::new()
                    .text("appId", app)
                    .text("instanceId", instance)
                    .text("instanceUuid", secret)
                    .json("implementationMetadata", about)
                    .end();
                message("WCP5ValidateAppIdentityResponse", &payload, &self.meta(wall_ms))
            }
        }
    }

    /// Returns the answer that keeps it out.
    #[must_use]
    pub fn refused(&self, why: &str, wall_ms: u64) -> Bytes {
        let name = match self {
            Self::Secret { .. } => "WSCPConnectFailed",
            _ => "WCP5ValidateAppIdentityFailedResponse",
        };
        message(name, &Object::new().text("message", why).end(), &self.meta(wall_ms))
    }

    fn meta(&self, wall_ms: u64) -> Json {
        let meta = Object::new();
        let meta = match self {
            Self::Identity { attempt, .. } | Self::Secret { attempt, .. } => {
                meta.json("connectionAttemptUuid", attempt)
            }
            Self::Other { .. } => meta,
        };
        meta.text("timestamp", &iso_time(wall_ms)).end()
    }
}

/// Returns the heartbeat of the agent; the app acknowledges it.
#[must_use]
pub fn heartbeat(stamp: &Stamp) -> Bytes {
    crate::event("heartbeatEvent", &Json::from_static("{}"), stamp)
}
