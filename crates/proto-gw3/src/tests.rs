//! Frames that are not what they should be, and the answers they get.

use bytes::Bytes;
use mesh_model::{Cause, Command, Event, Json, Request, SessionId, SlowPolicy};

use crate::{Connection, Incoming, Login};

const SESSION: SessionId = SessionId(1);

/// A connection with one logged-in peer, `p-1`.
fn connection() -> Connection {
    let mut connection = Connection::default();
    connection.will_attach(SESSION, None);
    let request = Request { id: Json::from_static("\"r\""), face: 0 };
    let identity = Json::from_static("{\"user\":\"joe\"}");
    connection.encode(SESSION, &Event::Attached { request, instance: "p-1".into(), identity });
    connection
}

fn reply(frame: &str) -> String {
    match connection().decode(&Bytes::copy_from_slice(frame.as_bytes())) {
        Incoming::Reply(reply) => String::from_utf8(reply.to_vec()).unwrap(),
        other => panic!("{frame}: no reply but {other:?}"),
    }
}

#[test]
fn what_is_wrong_is_named_and_answered_where_the_client_listens() {
    let cases = [
        ("x", "global", "global.errors.failure", "unexpected byte at 0"),
        ("", "global", "global.errors.failure", "unexpected byte at 0"),
        ("{}", "global", "global.errors.unhandled_message", "no message ``"),
        ("[]", "global", "global.errors.unhandled_message", "without a type"),
        (r#"{"type":"x","domain":"agm"}"#, "agm", "agm.errors.unhandled_message", "no message `x`"),
        (r#"{"type":7,"domain":"bus"}"#, "bus", "bus.errors.unhandled_message", "no message ``"),
        (r#"{"type":"call","domain":"nope"}"#, "nope", "global.errors.failure", "no domain `nope`"),
        (r#"{"type":"call","domain":"agm"}"#, "agm", "agm.errors.failure", "log in first"),
        (r#"{"type":"join","destination":"agm"}"#, "global", "global.errors.invalid_peer", "log in first"),
        (
            r#"{"type":"join","destination":"zz","peer_id":"p-1"}"#,
            "zz",
            "global.errors.invalid_domain",
            "`zz`",
        ),
        (r#"{"type":"call","domain":"agm","peer_id":"p-1"}"#, "agm", "agm.errors.failure", "`server_id`"),
        (
            r#"{"type":"register","domain":"agm","peer_id":"p-1","methods":7}"#,
            "agm",
            "agm.errors.failure",
            "`methods` must be an array",
        ),
        (
            r#"{"type":"create-context","peer_id":"p-1","name":"n","lifetime":"odd"}"#,
            "global",
            "global.errors.bad_lifetime",
            "retained",
        ),
        (
            r#"{"type":"create","domain":"activity","peer_id":"p-1"}"#,
            "activity",
            "activity.errors.failure",
            "not supported",
        ),
    ];
    for (frame, domain, uri, words) in cases {
        let reply = reply(frame);
        for part in
            [format!("\"domain\":\"{domain}\""), format!("\"reason_uri\":\"{uri}\""), words.to_owned()]
        {
            assert!(reply.contains(&part), "{frame}: no {part} in {reply}");
        }
        assert!(Json::parse(Bytes::from(reply.clone().into_bytes())).is_ok(), "{reply}");
    }
}

#[test]
fn another_connections_peer_is_nobody_here() {
    let reply = reply(r#"{"type":"register","domain":"agm","peer_id":"p-2","request_id":"q","methods":[]}"#);
    assert!(reply.starts_with("{\"domain\":null,") && reply.contains("\"peer_id\":\"p-2\""), "{reply}");
}

#[test]
fn logins_are_told_apart() {
    let login = |authentication: &str| {
        let frame = format!("{{\"type\":\"hello\",\"identity\":{{}},\"authentication\":{authentication}}}");
        match Connection::default().decode(&Bytes::from(frame.into_bytes())) {
            Incoming::Hello { login, .. } => login,
            other => panic!("{other:?}"),
        }
    };
    assert_eq!(
        login(r#"{"method":"secret","login":"joe","secret":""}"#),
        Login::Secret { login: "joe".into() }
    );
    assert_eq!(login(r#"{"method":"access-token","token":"t"}"#), Login::AccessToken("t".into()));
    assert_eq!(
        login(r#"{"method":"gateway-token","token":"t","provider":"win"}"#),
        Login::GatewayToken("t".into())
    );
    for win in [r#"{"provider":"win"}"#, r#"{"provider":"win","method":"gateway-token"}"#] {
        assert_eq!(login(win), Login::Provider("win".into()));
    }
    assert_eq!(
        login(r#"{"provider":"basic","method":"access-token","token":"t"}"#),
        Login::AccessToken("t".into())
    );
    for odd in [r#"{"method":"secret","login":"joe"}"#, r#"{"method":"zz"}"#, "null", "7"] {
        assert!(matches!(login(odd), Login::Unsupported(_)), "{odd}");
    }
}

#[test]
fn payloads_pass_as_they_were_sent() {
    let frame = r##"{"type":"call","domain":"agm","peer_id":"p-1","request_id":77,"server_id":"p-9","method_id":"0","arguments_kv":{"n":12345678901234567890.10,"s":"\ud800","d":"#T42_DATE#1"}}"##;
    let Incoming::Command { command: Command::Call { request, arguments, .. }, .. } =
        connection().decode(&Bytes::from_static(frame.as_bytes()))
    else {
        panic!("not a call")
    };
    assert_eq!(request.id.to_string(), "77");
    assert_eq!(
        arguments.named.unwrap().to_string(),
        r##"{"n":12345678901234567890.10,"s":"\ud800","d":"#T42_DATE#1"}"##
    );
}

#[test]
fn no_bytes_make_it_panic() {
    let seeds = [
        r#"{"type":"hello","identity":{"a":"?"},"authentication":{"method":"secret","login":"u","secret":"p"},"request_id":"1"}"#,
        r#"{"domain":"agm","type":"call","peer_id":"p-1","request_id":"1","server_id":"p-1","method_id":"0","arguments_kv":{"\u00e9":[1,{"b":null}]}}"#,
        r#"{"domain":"agm","type":"error","peer_id":"p-1","request_id":"r-18446744073709551616","reason":"\ud83d\ude00"}"#,
        r#"{"domain":"global","type":"update-context","peer_id":"p-1","context_id":"c","delta":{"commands":[{"type":"set","path":"a.b","value":1}]}}"#,
        r#"{"domain":"bus","type":"publish","peer_id":"p-1","topic":"a.*","data":{},"target_identity":{"x":1}}"#,
    ];
    let mut random = 0x9e37_79b9_7f4a_7c15_u64;
    let mut next = move |below: usize| {
        random ^= random << 13;
        random ^= random >> 7;
        random ^= random << 17;
        usize::try_from(random >> 33).unwrap() % below.max(1)
    };
    for round in 0..200_000 {
        let mut bytes = seeds[round % seeds.len()].as_bytes().to_vec();
        for _ in 0..=next(3) {
            let at = next(bytes.len());
            match next(4) {
                0 => bytes[at] = b"{}[]\",:\\u0e-9nt "[next(16)],
                1 => bytes.truncate(at),
                2 => bytes.insert(at, b"{[\"\\,"[next(5)]),
                _ => {
                    bytes.remove(at);
                }
            }
            if bytes.is_empty() {
                break;
            }
        }
        // The shell hands over text only.
        if std::str::from_utf8(&bytes).is_ok() {
            connection().decode(&Bytes::from(bytes));
        }
    }
}

#[test]
fn a_gap_is_told_beside_what_gw3_has_and_the_end_of_a_slow_subscription_in_its_words() {
    let encoded = |event: &Event| String::from_utf8(connection().encode(SESSION, event).to_vec()).unwrap();
    let data = |gap| Event::StreamData {
        subscription: 7,
        private: false,
        data: Json::from_static("1"),
        sequence: None,
        snapshot: None,
        policy: SlowPolicy::Latest,
        gap,
    };
    let whole = encoded(&data(0));
    assert!(!whole.contains("gap"), "{whole}");
    let after_a_hole = encoded(&data(3));
    assert_eq!(after_a_hole, whole.replace('}', ",\"gap\":3}"));
    let ended = encoded(&Event::SubscriptionEnded { subscription: 7, cause: Cause::TooSlow });
    for part in
        ["subscription-cancelled", "agm.errors.subscription.slow_consumer", "outbox_subscription_bytes_max"]
    {
        assert!(ended.contains(part), "{ended}");
    }
}
