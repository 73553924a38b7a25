//! GW3 messages as the client reads and writes them (sections 2 to 8 of the protocol page).
//!
//! Everything that an app put in stays raw text here.

use std::borrow::Cow;

use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;
use serde_json::{Map, Value};

/// Any message from the node. One flat struct: `type` decides which fields mean something.
#[derive(Debug, Deserialize)]
pub(crate) struct Incoming<'a> {
    #[serde(rename = "type", borrow)]
    pub(crate) kind: Cow<'a, str>,
    #[serde(borrow, default)]
    pub(crate) domain: Option<Text<'a>>,
    #[serde(borrow, default)]
    pub(crate) request_id: Option<&'a RawValue>,
    #[serde(borrow, default)]
    pub(crate) peer_id: Option<Text<'a>>,
    #[serde(borrow, default)]
    pub(crate) reason: Option<Text<'a>>,
    #[serde(borrow, default)]
    pub(crate) reason_uri: Option<Text<'a>>,

    // Login.
    #[serde(default)]
    pub(crate) resolved_identity: Option<Map<String, Value>>,

    // Peers and methods.
    #[serde(borrow, default)]
    pub(crate) new_peer_id: Option<Text<'a>>,
    #[serde(borrow, default)]
    pub(crate) removed_id: Option<Text<'a>>,
    #[serde(default)]
    pub(crate) identity: Option<Map<String, Value>>,
    #[serde(default)]
    pub(crate) meta: Option<Meta>,
    #[serde(borrow, default)]
    pub(crate) server_id: Option<Text<'a>>,
    #[serde(default)]
    pub(crate) methods: Option<Vec<Value>>,

    // Calls and streams.
    #[serde(borrow, default)]
    pub(crate) invocation_id: Option<Text<'a>>,
    #[serde(borrow, default)]
    pub(crate) subscription_id: Option<Text<'a>>,
    #[serde(default)]
    pub(crate) method_id: Option<Value>,
    #[serde(borrow, default)]
    pub(crate) caller_id: Option<Text<'a>>,
    #[serde(borrow, default)]
    pub(crate) arguments_kv: Option<&'a RawValue>,
    #[serde(borrow, default)]
    pub(crate) result: Option<&'a RawValue>,
    #[serde(borrow, default)]
    pub(crate) data: Option<&'a RawValue>,
    #[serde(default)]
    pub(crate) oob: Option<bool>,
    #[serde(default, rename = "publisher-identity")]
    pub(crate) publisher_identity: Option<Map<String, Value>>,

    // Contexts.
    #[serde(borrow, default)]
    pub(crate) context_id: Option<Text<'a>>,
    #[serde(borrow, default)]
    pub(crate) name: Option<Text<'a>>,
    #[serde(borrow, default)]
    pub(crate) delta: Option<&'a RawValue>,
    #[serde(borrow, default)]
    pub(crate) updater_id: Option<Text<'a>>,
}

/// Text that is copied only if it holds escapes.
#[derive(Debug, Deserialize)]
#[serde(transparent)]
pub(crate) struct Text<'a>(#[serde(borrow)] pub(crate) Cow<'a, str>);

/// The text of an optional field; absent is empty, and no id is empty.
pub(crate) fn text<'a>(field: &'a Option<Text<'_>>) -> &'a str {
    field.as_ref().map_or("", |text| &text.0)
}

/// What the node says about a peer beside its identity.
#[derive(Debug, Deserialize)]
pub(crate) struct Meta {
    #[serde(default)]
    pub(crate) local: Option<bool>,
}

/// A domain of the protocol.
#[derive(Clone, Copy, Debug, Serialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Domain {
    Global,
    Agm,
    Bus,
}

/// The envelope of a message to the node.
#[derive(Serialize)]
pub(crate) struct Outgoing<'a, B> {
    pub(crate) domain: Domain,
    #[serde(rename = "type")]
    pub(crate) kind: &'a str,
    pub(crate) request_id: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) peer_id: Option<&'a str>,
    #[serde(flatten)]
    pub(crate) body: B,
}

#[derive(Serialize)]
pub(crate) struct Hello<'a> {
    pub(crate) identity: Map<String, Value>,
    pub(crate) authentication: Authentication<'a>,
}

#[derive(Serialize)]
pub(crate) struct Authentication<'a> {
    pub(crate) method: &'a str,
    pub(crate) login: &'a str,
    pub(crate) secret: &'a str,
}

/// `join` and `leave`.
#[derive(Serialize)]
pub(crate) struct Membership {
    pub(crate) destination: Domain,
}

/// `register`.
#[derive(Serialize)]
pub(crate) struct Register<'a> {
    pub(crate) methods: [&'a Value; 1],
}

/// `unregister`.
#[derive(Serialize)]
pub(crate) struct Unregister<'a> {
    pub(crate) methods: [&'a str; 1],
}

/// `call` and `subscribe`.
#[derive(Serialize)]
pub(crate) struct Call<'a> {
    pub(crate) server_id: &'a str,
    pub(crate) method_id: &'a Value,
    pub(crate) arguments_kv: &'a RawValue,
}

#[derive(Serialize)]
pub(crate) struct Yield<'a> {
    pub(crate) invocation_id: &'a str,
    pub(crate) result: &'a RawValue,
}

/// `error`, whose request id is that of the invocation or subscription.
#[derive(Serialize)]
pub(crate) struct ErrorReply<'a> {
    pub(crate) reason_uri: &'a str,
    pub(crate) reason: &'a str,
}

#[derive(Serialize)]
pub(crate) struct Accepted<'a> {
    pub(crate) subscription_id: &'a str,
    pub(crate) stream_id: &'a str,
}

/// `publish` in `agm`.
#[derive(Serialize)]
pub(crate) struct StreamPublish<'a> {
    pub(crate) stream_id: &'a str,
    pub(crate) data: &'a RawValue,
}

#[derive(Serialize)]
pub(crate) struct Post<'a> {
    pub(crate) subscription_id: &'a str,
    pub(crate) data: &'a RawValue,
}

/// `unsubscribe` and `drop-subscription`.
#[derive(Serialize)]
pub(crate) struct EndSubscription<'a> {
    pub(crate) subscription_id: &'a str,
    pub(crate) reason_uri: &'a str,
    pub(crate) reason: &'a str,
}

#[derive(Serialize)]
pub(crate) struct CreateContext<'a> {
    pub(crate) name: &'a str,
    pub(crate) data: &'a Value,
    pub(crate) lifetime: &'a str,
}

/// `subscribe-context` and `destroy-context`.
#[derive(Serialize)]
pub(crate) struct OneContext<'a> {
    pub(crate) context_id: &'a str,
}

#[derive(Serialize)]
pub(crate) struct UpdateContext<'a> {
    pub(crate) context_id: &'a str,
    pub(crate) delta: &'a RawValue,
}

/// `subscribe` in `bus`.
#[derive(Serialize)]
pub(crate) struct BusSubscribe<'a> {
    pub(crate) topic: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) routing_key: Option<&'a str>,
}

/// `publish` in `bus`.
#[derive(Serialize)]
pub(crate) struct BusPublish<'a> {
    pub(crate) topic: &'a str,
    pub(crate) data: &'a RawValue,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) routing_key: Option<&'a str>,
    #[serde(skip_serializing_if = "Map::is_empty")]
    pub(crate) target_identity: &'a Map<String, Value>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn payloads_pass_through_as_text() {
        let wire = r#"{"domain":"agm","type":"event","peer_id":"p-2","subscription_id":"r-7","oob":false,"sequence":null,"data":{"v":1.0,"s":"\ud800"}}"#;
        let event: Incoming<'_> = serde_json::from_str(wire).unwrap();
        assert_eq!(event.data.unwrap().get(), r#"{"v":1.0,"s":"\ud800"}"#);

        let body = StreamPublish { stream_id: "0", data: event.data.unwrap() };
        let message =
            Outgoing { domain: Domain::Agm, kind: "publish", request_id: "1", peer_id: Some("p-2"), body };
        assert_eq!(
            serde_json::to_string(&message).unwrap(),
            r#"{"domain":"agm","type":"publish","request_id":"1","peer_id":"p-2","stream_id":"0","data":{"v":1.0,"s":"\ud800"}}"#
        );
    }
}
