use bytes::Bytes;
use mesh_model::Json;
use mesh_model::limits::JsonLimits;

use super::*;

fn incoming(text: &'static str) -> Incoming {
    decode(&Bytes::from_static(text.as_bytes()), JsonLimits::WIDEST).unwrap()
}

#[test]
fn times_are_written_as_javascript_does() {
    for (millis, text) in [
        (0, "1970-01-01T00:00:00.000Z"),
        (951_782_399_999, "2000-02-28T23:59:59.999Z"),
        (951_782_400_000, "2000-02-29T00:00:00.000Z"),
        (1_709_251_199_001, "2024-02-29T23:59:59.001Z"),
        (1_798_761_600_000, "2027-01-01T00:00:00.000Z"),
        (4_107_542_400_000, "2100-03-01T00:00:00.000Z"),
    ] {
        assert_eq!(iso_time(millis), text);
    }
}

#[test]
fn contexts_pass_as_they_were_sent() {
    let text = r#"{"type":"broadcastRequest","meta":{"requestUuid":7},"payload":{"channelId":"c","context":{"n":1.0,"type":"x.y","s":"\ud800"}}}"#;
    let Incoming { request: Ok(Request::Broadcast { context, .. }), request_uuid, .. } = incoming(text)
    else {
        panic!("not a broadcast")
    };
    assert_eq!(context.to_string(), r#"{"n":1.0,"type":"x.y","s":"\ud800"}"#);
    assert_eq!(request_uuid.to_string(), "7");
}

#[test]
fn what_is_wrong_has_its_word() {
    for (text, fault) in [
        (r#"{"type":"broadcastRequest","payload":{"channelId":"c","context":{}}}"#, Fault::MalformedContext),
        (r#"{"type":"broadcastRequest","payload":{"channelId":"c"}}"#, Fault::MalformedContext),
        (r#"{"type":"openRequest","payload":{"app":{}}}"#, Fault::AppNotFound),
        (r#"{"type":"openRequest","payload":{"app":{"appId":"a"},"context":7}}"#, Fault::MalformedContext),
        (
            r#"{"type":"raiseIntentRequest","payload":{"intent":"i","context":{"type":"t"},"app":{}}}"#,
            Fault::TargetAppUnavailable,
        ),
        (r#"{"type":"findInstancesRequest","payload":{}}"#, Fault::NoAppsFound),
        (r#"{"type":"joinUserChannelRequest"}"#, Fault::InvalidArguments),
        (r#"{"type":"somethingNewRequest","payload":[]}"#, Fault::InvalidArguments),
        (r#"{}"#, Fault::InvalidArguments),
    ] {
        assert_eq!(incoming(text).request, Err(fault), "{text}");
        assert_eq!(Fault::of_word(fault.word()), Some(fault));
    }
    assert!(decode(&Bytes::from_static(b"[]"), JsonLimits::WIDEST).is_err());
}

#[test]
fn null_is_absent() {
    let text = r#"{"type":"addContextListenerRequest","payload":{"channelId":null,"contextType":null}}"#;
    assert_eq!(incoming(text).request, Ok(Request::AddContextListener { channel: None, context: None }));
}

#[test]
fn an_answer_has_the_name_of_its_request() {
    let stamp = Stamp { uuid: "u".into(), wall_ms: 0 };
    let text = refusal("newThingRequest", &Json::from_static("\"r\""), Fault::InvalidArguments, &stamp);
    assert_eq!(
        std::str::from_utf8(&text).unwrap(),
        r#"{"type":"newThingResponse","payload":{"error":"InvalidArguments"},"meta":{"requestUuid":"r","responseUuid":"u","timestamp":"1970-01-01T00:00:00.000Z"}}"#
    );
}

#[test]
fn both_first_frames_are_read() {
    let hello =
        |text: &'static str| decode_hello(&Bytes::from_static(text.as_bytes()), JsonLimits::WIDEST).unwrap();
    let first = hello(
        r#"{"type":"WCP4ValidateAppIdentity","meta":{"connectionAttemptUuid":"a"},"payload":{"identityUrl":"http://x/","instanceId":"i","instanceUuid":"s"},"attested":{"origin":"http://x"}}"#,
    );
    let Hello::Identity { actual_url, claim, attested, .. } = &first else { panic!("{first:?}") };
    assert_eq!((&**actual_url, claim), ("http://x/", &Some(("i".into(), "s".into()))));
    assert_eq!(attested.as_ref().unwrap().origin, "http://x");
    let refused = first.refused("no", 0);
    assert!(refused.starts_with(br#"{"type":"WCP5ValidateAppIdentityFailedResponse","payload":{"message":"no"},"meta":{"connectionAttemptUuid":"a""#));
    let secret =
        hello(r#"{"type":"WSCPApplicationConnect","payload":{"protocolVersion":"1.0","sharedSecret":"s"}}"#);
    assert!(matches!(&secret, Hello::Secret { secret, .. } if **secret == *"s"));
    assert!(secret.refused("no", 0).starts_with(br#"{"type":"WSCPConnectFailed""#));
    assert!(matches!(hello(r#"{"type":"getInfoRequest"}"#), Hello::Other { .. }));
}
