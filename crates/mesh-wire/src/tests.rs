//! Every message there and back, and every frame that is none refused.

use std::collections::BTreeMap;

use bytes::Bytes;
use mesh_model::limits::JSON_DEPTH_MAX;
use mesh_model::link::{BatchEnd, Carried, Heard, WireEntry};
use mesh_model::trace::TraceContext;
use mesh_model::{
    Answer, Arguments, CallFailure, CallId, Cause, DomainId, Dot, Hlc, Incarnation, Json, JsonError, Lane,
    LinkMessage, NodeId, Origin, Outcome, Text, VersionVector, Words,
};
use proptest::collection::{btree_map, vec};
use proptest::option;
use proptest::prelude::*;
use serde::de::IgnoredAny;

use crate::message::CALL_MS;
use crate::{WireError, decode, encode};

const DOMAIN: DomainId = DomainId([7; 16]);

fn json(text: &str) -> Json {
    Json::parse(Bytes::copy_from_slice(text.as_bytes())).unwrap()
}

fn origin(node: u8) -> Origin {
    Origin { node: NodeId([node; 16]), incarnation: Incarnation(u64::from(node) << 40) }
}

fn vector(nodes: &[u8]) -> VersionVector {
    nodes.iter().map(|node| (origin(*node), u64::from(*node) * 100)).collect()
}

fn heard(age_ms: u64) -> Heard {
    Heard { origin: origin(3), age_ms, vector: vector(&[3, 9]) }
}

fn entry(node: u8, seq: u64, value: Option<&'static str>) -> WireEntry {
    let dot = Dot { origin: origin(node), seq };
    WireEntry { key: Bytes::from_static(b"key"), dot, hlc: Hlc(u64::MAX), value: value.map(Bytes::from) }
}

fn full_call() -> LinkMessage {
    LinkMessage::Call {
        id: CallId(300),
        subscribe: true,
        from: "caller".into(),
        to: "callee".into(),
        method: json("{\"name\":\"T42.Price\"}"),
        arguments: Arguments {
            positional: Some(json("[1]")),
            named: Some(json("{\"a\":\"\\ud800\"}")),
            flags: Some(json("{}")),
            context: Some(json("null")),
        },
        millis_left: 30_000,
        after: 9,
        trace: Some(TraceContext { trace_id: 1 << 100, span_id: u64::MAX, sampled: true }),
    }
}

/// A call as applications make most of them.
fn plain_call(from: &str, to: &str, millis_left: u64) -> LinkMessage {
    LinkMessage::Call {
        id: CallId(1),
        subscribe: false,
        from: from.into(),
        to: to.into(),
        method: json("\"1\""),
        arguments: Arguments { named: Some(json("{}")), ..Arguments::default() },
        millis_left,
        after: 0,
        trace: None,
    }
}

fn result(result: Option<Json>) -> LinkMessage {
    LinkMessage::CallEnd { id: CallId(1), outcome: Outcome::Answered(Answer::Result(result)), after: 0 }
}

/// One or more of every variant, with all fields and with as few as it can have.
fn examples() -> Vec<LinkMessage> {
    let words = Words { uri: Some(json("\"e\"")), reason: Some(json("\"because\"")) };
    let failures = [
        CallFailure::NoTarget { what: "m".into() },
        CallFailure::NotDelivered { node: "n".into() },
        CallFailure::UnknownOutcome { node: "n".into() },
        CallFailure::CalleeGone,
        CallFailure::MethodRemoved,
        CallFailure::Deadline { millis: 5 },
        CallFailure::Overloaded { limit: "l".into() },
        CallFailure::Denied { what: "d".into() },
        CallFailure::BadRequest { what: Text::default() },
    ];
    let causes = [
        Cause::Disconnected,
        Cause::Left(words.clone()),
        Cause::Left(Words::default()),
        Cause::Unreachable,
        Cause::Lost,
        Cause::MethodRemoved,
        Cause::Destroyed,
        Cause::OwnerGone,
        Cause::TooSlow,
    ];
    let mut all = vec![
        LinkMessage::Hello {
            protocol_min: 1,
            protocol_max: u16::MAX,
            incarnation: Incarnation(5),
            name: "knödel".into(),
            wall_ms: 1_700_000_000_000,
            addresses: vec!["10.0.0.1:4000".into(), Text::default()],
            over: u64::MAX,
        },
        LinkMessage::Hello {
            protocol_min: 0,
            protocol_max: 0,
            incarnation: Incarnation(0),
            name: Text::default(),
            wall_ms: 0,
            addresses: vec![],
            over: 0,
        },
        LinkMessage::Welcome {
            protocol: 1,
            incarnation: Incarnation(u64::MAX),
            name: "b".into(),
            wall_ms: 1,
            addresses: vec!["[::1]:4000".into()],
            over: 1 << 40,
        },
        LinkMessage::Reject { code: 2, text: "another link serves".into() },
        LinkMessage::Reject { code: 0, text: Text::default() },
        LinkMessage::Ping { count: 0, sent: 0 },
        LinkMessage::Pong { count: u64::MAX, sent: 1 << 33 },
        LinkMessage::Goaway { reason: "shutdown".into() },
        LinkMessage::Goaway { reason: Text::default() },
        LinkMessage::DomainOpen {
            domain: DOMAIN,
            vector: vector(&[1, 2]),
            without_over: true,
            hash: 77,
            awaits_another: true,
        },
        LinkMessage::DomainOpen {
            domain: DOMAIN,
            vector: BTreeMap::new(),
            without_over: false,
            hash: 0,
            awaits_another: false,
        },
        LinkMessage::Have { domain: DOMAIN, vector: vector(&[1, 2]) },
        LinkMessage::Batch { domain: DOMAIN, entries: vec![], end: None, reset: false },
        LinkMessage::Batch {
            domain: DOMAIN,
            entries: vec![
                entry(2, 1, Some("v")),
                entry(1, 2, None),
                entry(2, 3, Some("")),
                entry(2, 300, None),
            ],
            end: Some(BatchEnd { vector: vector(&[1, 2]), floor: vector(&[1]), answer: true }),
            reset: true,
        },
        LinkMessage::Batch {
            domain: DOMAIN,
            entries: vec![],
            end: Some(BatchEnd { vector: BTreeMap::new(), floor: BTreeMap::new(), answer: false }),
            reset: false,
        },
        LinkMessage::Digest { domain: DOMAIN, vector: vector(&[9]), hash: u64::MAX, heard: vec![] },
        LinkMessage::Digest { domain: DOMAIN, vector: vector(&[9]), hash: 1, heard: vec![heard(7)] },
        LinkMessage::Neighbours { nodes: vec![] },
        LinkMessage::Neighbours { nodes: vec![NodeId([1; 16]), NodeId([2; 16])] },
        LinkMessage::Relayed {
            node: NodeId([1; 16]),
            channel: u64::MAX,
            carried: Carried::Message(Box::new(LinkMessage::Ping { count: 1, sent: 2 })),
        },
        full_call(),
        LinkMessage::Call {
            id: CallId(0),
            subscribe: false,
            from: "a".into(),
            to: "b".into(),
            method: json("0"),
            arguments: Arguments::default(),
            millis_left: 0,
            after: 0,
            trace: None,
        },
        plain_call("p-0123456789abcdef0123", "p-00000000000000000000", CALL_MS),
        LinkMessage::Accepted { id: CallId(7) },
        LinkMessage::Covered { seq: 0 },
        LinkMessage::Covered { seq: u64::MAX },
        LinkMessage::Cancel { id: CallId(u64::MAX) },
        LinkMessage::Attach { calls: vec![] },
        LinkMessage::Attach { calls: vec![CallId(0), CallId(300)] },
        LinkMessage::CallState { known: vec![], unseen: vec![], forgotten: vec![] },
        LinkMessage::CallState {
            known: vec![CallId(1)],
            unseen: vec![CallId(2), CallId(3)],
            forgotten: vec![CallId(u64::MAX)],
        },
        result(None),
        result(Some(json("{\"price\":1.0}"))),
        LinkMessage::CallEnd {
            id: CallId(1),
            outcome: Outcome::Answered(Answer::Error { words: words.clone(), context: Some(json("[]")) }),
            after: 8,
        },
        LinkMessage::CallEnd {
            id: CallId(1),
            outcome: Outcome::Answered(Answer::Error { words: Words::default(), context: None }),
            after: 0,
        },
        LinkMessage::SubscriptionAccepted { id: CallId(1), branch: 4 },
        LinkMessage::BranchData { branch: 4, data: json("[1]"), sequence: None, snapshot: None, after: 0 },
        LinkMessage::BranchData {
            branch: 4,
            data: json("{}"),
            sequence: Some(json("1")),
            snapshot: Some(json("true")),
            after: 70_000,
        },
        LinkMessage::PrivateData {
            id: CallId(6),
            data: json("\"x\""),
            sequence: Some(json("2")),
            snapshot: Some(json("false")),
            after: 1,
        },
        LinkMessage::Publish {
            user: Some("u".into()),
            service: true,
            restriction: Some("$user".into()),
            topic: "a.b".into(),
            routing_key: Some("k".into()),
            target: Some(json("{}")),
            publisher: json("{\"instance\":\"i\"}"),
            data: json("{\"x\":[]}"),
            after: 3,
        },
        LinkMessage::Publish {
            user: None,
            service: false,
            restriction: None,
            topic: "t".into(),
            routing_key: None,
            target: None,
            publisher: json("{}"),
            data: json("1"),
            after: 0,
        },
    ];
    all.extend(failures.map(|failure| LinkMessage::CallEnd {
        id: CallId(2),
        outcome: Outcome::Failed(failure),
        after: 1,
    }));
    all.extend(causes.iter().map(|cause| LinkMessage::Why { key: "I\u{1}".into(), cause: cause.clone() }));
    all.extend(causes.iter().map(|cause| LinkMessage::Unsubscribe { id: CallId(3), cause: cause.clone() }));
    all.push(LinkMessage::SubscriptionRoom { id: CallId(3) });
    all.extend(causes.map(|cause| LinkMessage::SubscriptionEnd { id: CallId(3), cause }));
    all
}

/// A strategy for every variant. A new variant fails to compile in `encode`, and belongs here too.
fn any_message() -> impl Strategy<Value = LinkMessage> {
    let number = || prop_oneof![Just(0), 0..300_u64, any::<u64>()];
    let text = || "\\PC{0,40}".prop_map(Text::from);
    let instance =
        || prop_oneof!["\\PC{0,40}", "p-[0-9a-f]{20}", "[pi]-?[0-9a-gF]{18,22}"].prop_map(Text::from);
    let millis = prop_oneof![Just(CALL_MS), Just(CALL_MS - 1), any::<u64>(), Just(0)];
    let json = || {
        prop_oneof![
            "\\PC{0,40}".prop_map(|text| Json::string(&text)),
            any::<i64>().prop_map(|number| json(&number.to_string())),
            vec(any::<u32>(), 0..20).prop_map(|list| json(&format!("{list:?}"))),
            (0..70_000_usize).prop_map(|len| Json::string(&"x".repeat(len))),
        ]
    };
    let maybe = move || option::of(json());
    let domain = || any::<[u8; 16]>().prop_map(DomainId);
    let call = move || number().prop_map(CallId);
    let node = || any::<[u8; 16]>().prop_map(NodeId);
    let lane = prop_oneof![
        Just(Lane::Control),
        Just(Lane::Replication),
        Just(Lane::Bulk),
        (0..4_u8).prop_map(Lane::Session)
    ];
    let life = || any::<u64>().prop_map(Incarnation);
    let origin = move || {
        (0..5_u8, 0..3_u64)
            .prop_map(|(node, life)| Origin { node: NodeId([node; 16]), incarnation: Incarnation(life) })
    };
    let vector = move || btree_map(origin(), number(), 0..20);
    let bytes = || vec(any::<u8>(), 0..300).prop_map(Bytes::from);
    let entry = move || {
        (bytes(), origin(), number(), number(), option::of(bytes())).prop_map(
            |(key, origin, seq, hlc, value)| WireEntry {
                key,
                dot: Dot { origin, seq },
                hlc: Hlc(hlc),
                value,
            },
        )
    };
    let end = move || {
        (vector(), vector(), any::<bool>()).prop_map(|(vector, floor, answer)| BatchEnd {
            vector,
            floor,
            answer,
        })
    };
    let words = move || (maybe(), maybe()).prop_map(|(uri, reason)| Words { uri, reason });
    let cause = move || {
        prop_oneof![
            Just(Cause::Disconnected),
            words().prop_map(Cause::Left),
            Just(Cause::Unreachable),
            Just(Cause::Lost),
            Just(Cause::MethodRemoved),
            Just(Cause::Destroyed),
            Just(Cause::OwnerGone),
            Just(Cause::TooSlow),
        ]
    };
    let outcome = prop_oneof![
        maybe().prop_map(|result| Outcome::Answered(Answer::Result(result))),
        (words(), maybe()).prop_map(|(words, context)| Outcome::Answered(Answer::Error { words, context })),
        (text(), 0..6).prop_map(|(text, which)| Outcome::Failed(match which {
            0 => CallFailure::NoTarget { what: text },
            1 => CallFailure::NotDelivered { node: text },
            2 => CallFailure::UnknownOutcome { node: text },
            3 => CallFailure::Overloaded { limit: text },
            4 => CallFailure::Denied { what: text },
            _ => CallFailure::BadRequest { what: text },
        })),
        number().prop_map(|millis| Outcome::Failed(CallFailure::Deadline { millis })),
        Just(Outcome::Failed(CallFailure::CalleeGone)),
        Just(Outcome::Failed(CallFailure::MethodRemoved)),
    ];
    let arguments = (maybe(), maybe(), maybe(), maybe())
        .prop_map(|(positional, named, flags, context)| Arguments { positional, named, flags, context });
    let trace =
        option::of(
            (any::<u128>(), any::<u64>(), any::<bool>())
                .prop_map(|(trace_id, span_id, sampled)| TraceContext { trace_id, span_id, sampled }),
        );
    let addresses = move || vec(text(), 0..20);

    let control = prop_oneof![
        (any::<u16>(), any::<u16>(), life(), text(), number(), addresses(), number()).prop_map(
            |(protocol_min, protocol_max, incarnation, name, wall_ms, addresses, over)| LinkMessage::Hello {
                protocol_min,
                protocol_max,
                incarnation,
                name,
                wall_ms,
                addresses,
                over,
            }
        ),
        (any::<u16>(), life(), text(), number(), addresses(), number()).prop_map(
            |(protocol, incarnation, name, wall_ms, addresses, over)| LinkMessage::Welcome {
                protocol,
                incarnation,
                name,
                wall_ms,
                addresses,
                over,
            }
        ),
        (any::<u16>(), text()).prop_map(|(code, text)| LinkMessage::Reject { code, text }),
        (number(), number()).prop_map(|(count, sent)| LinkMessage::Ping { count, sent }),
        (number(), number()).prop_map(|(count, sent)| LinkMessage::Pong { count, sent }),
        text().prop_map(|reason| LinkMessage::Goaway { reason }),
    ];
    let replication = prop_oneof![
        (domain(), vector(), any::<bool>(), number(), any::<bool>()).prop_map(
            |(domain, vector, without_over, hash, awaits_another)| {
                LinkMessage::DomainOpen { domain, vector, without_over, hash, awaits_another }
            }
        ),
        (domain(), vector()).prop_map(|(domain, vector)| LinkMessage::Have { domain, vector }),
        (domain(), vec(entry(), 0..40), option::of(end()), any::<bool>())
            .prop_map(|(domain, entries, end, reset)| LinkMessage::Batch { domain, entries, end, reset }),
        (domain(), vector(), number(), vec((number(), vector()), 0..3)).prop_map(
            |(domain, vector, hash, heard)| {
                let heard = heard.into_iter().map(|(age_ms, vector)| Heard { vector, ..self::heard(age_ms) });
                LinkMessage::Digest { domain, vector, hash, heard: heard.collect() }
            }
        ),
        vec(node(), 0..40).prop_map(|nodes| LinkMessage::Neighbours { nodes }),
        (node(), number(), lane, bytes()).prop_map(|(node, channel, lane, frame)| LinkMessage::Relay {
            node,
            channel,
            lane,
            carried: Carried::Frame(frame),
        }),
    ];
    let addressed = (call(), any::<bool>(), instance(), instance(), json());
    let calls = prop_oneof![
        (addressed, arguments, millis, number(), trace).prop_map(
            |((id, subscribe, from, to, method), arguments, millis_left, after, trace)| {
                LinkMessage::Call { id, subscribe, from, to, method, arguments, millis_left, after, trace }
            }
        ),
        (call(), outcome, number()).prop_map(|(id, outcome, after)| LinkMessage::CallEnd {
            id,
            outcome,
            after
        }),
        call().prop_map(|id| LinkMessage::Accepted { id }),
        number().prop_map(|seq| LinkMessage::Covered { seq }),
        call().prop_map(|id| LinkMessage::Cancel { id }),
        vec(call(), 0..40).prop_map(|calls| LinkMessage::Attach { calls }),
        (vec(call(), 0..40), vec(call(), 0..40), vec(call(), 0..40))
            .prop_map(|(known, unseen, forgotten)| { LinkMessage::CallState { known, unseen, forgotten } }),
        (call(), number()).prop_map(|(id, branch)| LinkMessage::SubscriptionAccepted { id, branch }),
        (number(), json(), maybe(), maybe(), number()).prop_map(
            |(branch, data, sequence, snapshot, after)| LinkMessage::BranchData {
                branch,
                data,
                sequence,
                snapshot,
                after
            }
        ),
        (call(), json(), maybe(), maybe(), number()).prop_map(|(id, data, sequence, snapshot, after)| {
            LinkMessage::PrivateData { id, data, sequence, snapshot, after }
        }),
        (call(), cause()).prop_map(|(id, cause)| LinkMessage::SubscriptionEnd { id, cause }),
        (call(), cause()).prop_map(|(id, cause)| LinkMessage::Unsubscribe { id, cause }),
        call().prop_map(|id| LinkMessage::SubscriptionRoom { id }),
        (vec(any::<u8>(), 0..40), cause())
            .prop_map(|(key, cause)| LinkMessage::Why { key: key.into(), cause }),
        (
            (option::of(text()), any::<bool>(), option::of(text())),
            (text(), option::of(text()), maybe(), json(), json(), number()),
        )
            .prop_map(
                |((user, service, restriction), (topic, routing_key, target, publisher, data, after))| {
                    LinkMessage::Publish {
                        user,
                        service,
                        restriction,
                        topic,
                        routing_key,
                        target,
                        publisher,
                        data,
                        after,
                    }
                },
            ),
    ];
    let ends = prop_oneof![control, replication, calls];
    (ends, option::weighted(0.1, (node(), number()))).prop_map(|(message, relayed)| {
        match (relayed, message) {
            (None, message) | (_, message @ (LinkMessage::Neighbours { .. } | LinkMessage::Relay { .. })) => {
                message
            }
            (Some((node, channel)), message) => {
                LinkMessage::Relayed { node, channel, carried: Carried::Message(Box::new(message)) }
            }
        }
    })
}

/// Encodes a message, has another MessagePack library read it, and decodes it.
fn check_round_trip(message: &LinkMessage) {
    let frame = encode(message);
    let fields: (u64, BTreeMap<char, IgnoredAny>) = rmp_serde::from_slice(&frame).unwrap();
    assert!(fields.0 < crate::message::CRITICAL);
    assert_eq!(decode(&frame).as_ref(), Ok(message));
}

/// The node in the middle has the frame as it was, whatever it is, and sends it on as it is.
#[test]
fn what_is_relayed_is_not_read_on_the_way() {
    let (node, channel, lane) = (NodeId([1; 16]), 5, Lane::Session(3));
    let carried = Carried::Message(Box::new(full_call()));
    let asked = decode(&encode(&LinkMessage::Relay { node, channel, lane, carried })).unwrap();
    let LinkMessage::Relay { carried, lane: Lane::Session(3), .. } = asked else { panic!("{asked:?}") };
    assert_eq!(carried, Carried::Frame(encode(&full_call())));
    let arrived = decode(&encode(&LinkMessage::Relayed { node, channel, carried })).unwrap();
    let carried = Carried::Message(Box::new(full_call()));
    assert_eq!(arrived, LinkMessage::Relayed { node, channel, carried });
}

#[test]
fn nothing_is_relayed_within_what_is_relayed() {
    let relayed =
        |frame| LinkMessage::Relayed { node: NodeId([1; 16]), channel: 5, carried: Carried::Frame(frame) };
    let mut frame = encode(&LinkMessage::Ping { count: 1, sent: 1 });
    for depth in 0..3 {
        frame = encode(&relayed(frame));
        assert_eq!(decode(&frame).is_ok(), depth == 0);
    }
    let neighbours = encode(&relayed(encode(&LinkMessage::Neighbours { nodes: vec![] })));
    assert!(decode(&neighbours).unwrap_err().is_ignorable());
}

proptest! {
    #[test]
    fn any_message_survives_the_wire(message in any_message()) {
        check_round_trip(&message);
    }

    #[test]
    fn any_bytes_decode_or_fail(bytes in vec(any::<u8>(), 0..200)) {
        let _ = decode(&Bytes::from(bytes));
    }
}

#[test]
fn every_message_survives_the_wire() {
    examples().iter().for_each(check_round_trip);
}

#[test]
fn the_bytes_are_these() {
    let check = |message: &LinkMessage, expected: &[u8]| {
        assert_eq!(encode(message), expected, "{message:?}");
    };
    check(&LinkMessage::Ping { count: 0, sent: 300 }, b"\x92\x04\x82\xa1n\x00\xa1s\xcd\x01\x2c");
    check(&LinkMessage::Goaway { reason: "bye".into() }, b"\x92\x06\x81\xa1t\xa3bye");
    check(
        &LinkMessage::BranchData { branch: 4, data: json("[1]"), sequence: None, snapshot: None, after: 200 },
        b"\x92\x51\x83\xa1b\x04\xa1d\xc4\x03[1]\xa1a\xcc\xc8",
    );
    let name = "p-000102030405060708ff";
    let bytes = b"\x00\x01\x02\x03\x04\x05\x06\x07\x08\xff";
    let expected: &[&[u8]] = &[
        b"\x92\x40\x85\xa1i\x01\xa1f\xc4\x0a",
        bytes,
        b"\xa1t\xc4\x0a",
        bytes,
        b"\xa1m\xc4\x03\"1\"\xa1n\xc4\x02{}",
    ];
    check(&plain_call(name, name, CALL_MS), &expected.concat());
    let expected: &[u8] =
        b"\x92\x40\x86\xa1i\x01\xa1f\xa1A\xa1t\xa0\xa1m\xc4\x03\"1\"\xa1n\xc4\x02{}\xa1l\x00";
    check(&plain_call("A", "", 0), expected);
    check(&result(Some(json("true"))), b"\x92\x42\x82\xa1i\x01\xa1r\xc4\x04true");
    check(&result(None), b"\x92\x42\x81\xa1i\x01");
    let batch = LinkMessage::Batch {
        domain: DOMAIN,
        entries: vec![WireEntry { hlc: Hlc(5), ..entry(0, 1, None) }],
        end: Some(BatchEnd { vector: BTreeMap::new(), floor: BTreeMap::new(), answer: false }),
        reset: true,
    };
    let expected: &[&[u8]] = &[
        b"\x92\x29\x85\xa1d\xc4\x10",
        &[7; 16],
        b"\xa1o\x91\x92\xc4\x10",
        &[0; 16],
        b"\x00\xa1e\x91\x95\xc4\x03key\x00\x01\x05\xc0\xa1v\x90\xa1r\xc3",
    ];
    check(&batch, &expected.concat());
}

/// Whatever else a name is, the reader has it to the letter: only what nodes make is sent as bytes.
#[test]
fn names_of_instances_arrive_as_they_are() {
    let text_of = |name: &str| {
        let call = plain_call(name, "to", 1);
        check_round_trip(&call);
        encode(&call).windows(name.len().max(1)).any(|window| window == name.as_bytes())
    };
    for name in ["p-0123456789abcdef0123", "p-00000000000000000000", "p-ffffffffffffffffffff"] {
        assert!(!text_of(name), "{name}");
    }
    for name in [
        "p-0123456789abcdef012",
        "p-0123456789abcdef01234",
        "p-0123456789abcdef012G",
        "p-0123456789ABCDEF0123",
        "p-+123456789abcdef0123",
        "p-0123456789abcdef01ü",
        "i-0123456789abcdef0123",
        "P-0123456789abcdef0123",
        "p_0123456789abcdef0123",
        "p-p-0123456789abcdef01",
        "0123456789abcdef0123",
        "p-",
        "my instance",
    ] {
        assert!(text_of(name), "{name}");
    }
}

/// A call of a node with the usual configuration does not say its time, and means it at every other node.
#[test]
fn the_usual_time_is_not_said() {
    assert_eq!(CALL_MS, mesh_model::Limits::default().call_ms_max);
    let len = |millis| {
        let call = plain_call("from", "to", millis);
        check_round_trip(&call);
        encode(&call).len()
    };
    assert_eq!([0, CALL_MS - 1, CALL_MS + 1].map(|millis| len(millis) - len(CALL_MS)), [3, 7, 7]);
}

#[test]
fn a_batch_names_each_origin_once() {
    let entries = (1..=100).map(|seq| entry(u8::try_from(1 + seq % 2).unwrap(), seq, None)).collect();
    let frame = encode(&LinkMessage::Batch { domain: DOMAIN, entries, end: None, reset: false });
    for node in [1, 2] {
        assert_eq!(frame.windows(16).filter(|window| *window == [node; 16]).count(), 1);
    }
}

#[test]
fn payloads_are_slices_of_the_frame() {
    let frame = encode(&full_call());
    let LinkMessage::Call { method, to, .. } = decode(&frame).unwrap() else { panic!("a call") };
    for part in [method.as_bytes(), to.as_bytes()] {
        assert!(frame.as_ptr_range().contains(&part.as_ptr()));
    }
}

#[test]
fn what_is_new_is_passed_over() {
    let ping = LinkMessage::Ping { count: 1, sent: 2 };
    let check = |frame: &'static [u8], expected: Result<&LinkMessage, WireError>| {
        let decoded = decode(&Bytes::from_static(frame));
        assert_eq!(decoded.as_ref().map_err(Clone::clone), expected, "{frame:x?}");
    };
    // Fields: another letter, a word, a number, a composite key, one of every odd type.
    check(b"\x92\x04\x83\xa1n\x01\xa1s\x02\xa1z\xc3", Ok(&ping));
    check(b"\x92\x04\x85\xa4sent\x09\xa1n\x01\x07\xa1n\xa1s\x02\x91\xc0\xc2", Ok(&ping));
    check(b"\x92\x04\x85\xa1x\xd6\x01abcd\xa1y\xc7\x02\x05ab\xa1z\xca\0\0\0\0\xa1n\x01\xa1s\x02", Ok(&ping));
    // Wider numbers than needed, elements beyond the second, nil for an absent field.
    check(b"\x92\xcd\x00\x04\x82\xa1n\xd2\0\0\0\x01\xa1s\xcf\0\0\0\0\0\0\0\x02", Ok(&ping));
    check(b"\x94\x04\x82\xa1n\x01\xa1s\x02\x93\x01\x02\x03\x80", Ok(&ping));
    check(b"\x92\x06\x81\xa1t\xc0", Ok(&LinkMessage::Goaway { reason: Text::default() }));
    // Enumerations.
    check(
        b"\x92\x42\x82\xa1i\x01\xa1o\x63",
        Ok(&LinkMessage::CallEnd {
            id: CallId(1),
            outcome: Outcome::Failed(CallFailure::UnknownOutcome { node: Text::default() }),
            after: 0,
        }),
    );
    check(
        b"\x92\x56\x82\xa1i\x01\xa1c\x63",
        Ok(&LinkMessage::Unsubscribe { id: CallId(1), cause: Cause::Lost }),
    );
    // Kinds: the frame must be sound even so, but may have any shape.
    check(b"\x92\x7f\x80", Err(WireError::UnknownKind { kind: 0x7f }));
    check(b"\x93\x7f\x01\x91\x01", Err(WireError::UnknownKind { kind: 0x7f }));
    check(b"\x92\x7f\x81", Err(WireError::End));
    for (kind, ignorable) in [(0, true), (0x3fff, true), (0x4000, false), (u64::MAX, false)] {
        assert_eq!(WireError::UnknownKind { kind }.is_ignorable(), ignorable);
    }
    assert!(!WireError::End.is_ignorable());
}

#[test]
fn what_is_wrong_is_refused() {
    let check = |frame: &[u8], expected: WireError| {
        assert_eq!(decode(&Bytes::copy_from_slice(frame)), Err(expected), "{frame:x?}");
    };
    check(b"", WireError::End);
    check(b"\x04", WireError::Shape);
    check(b"\x91\x04", WireError::Shape);
    check(b"\xc1", WireError::Shape);
    check(b"\x92\xa1a\x80", WireError::Unexpected { at: 1 });
    check(b"\x92\x04\x90", WireError::Unexpected { at: 2 });
    check(b"\x92\x04\x81\xa1n\xc1", WireError::Unexpected { at: 5 });
    check(b"\x92\x04\x81\xa1n\x01", WireError::Missing { field: 's' });
    check(b"\x92\x04\x82\xa1n\xff\xa1s\x01", WireError::OutOfRange { at: 6 });
    check(b"\x92\x03\x81\xa1c\xce\0\x01\0\0", WireError::OutOfRange { at: 10 });
    check(b"\x92\x55\x81\xa1i\xc3", WireError::Unexpected { at: 5 });
    check(b"\x92\x2c\x82\xa1d\xc4\x02ab\xa1h\x01", WireError::OutOfRange { at: 9 });
    // The name of an instance is text, or ten bytes.
    let call = |from: &[u8]| [b"\x92\x40\x84\xa1i\x01\xa1t\xa1t\xa1m\xc4\x011\xa1f", from].concat();
    check(&call(b"\xc4\x09012345678"), WireError::OutOfRange { at: 28 });
    check(&call(b"\xc4\x0b0123456789a"), WireError::OutOfRange { at: 30 });
    check(&call(b"\x01"), WireError::Unexpected { at: 17 });
    check(&call(b"\xc0"), WireError::Missing { field: 'f' });
    // A claim of four billion elements costs nothing.
    check(
        b"\x92\x29\x82\xa1d\xc4\x10\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\xa1e\xdd\xff\xff\xff\xff\x01",
        WireError::End,
    );
    check(b"\x92\x04\x81\xa1n\xc6\xff\xff\xff\xff", WireError::End);
    check(b"\x92\x04\x81\xa1n\xc9\xff\xff\xff\xff\x01", WireError::End);

    let not_utf8 = |bytes: &[u8]| WireError::Text(std::str::from_utf8(bytes).unwrap_err());
    check(b"\x92\x51\x82\xa1b\x01\xa1d\xc4\x03\"\xff\"", not_utf8(b"\"\xff\""));
    check(b"\x92\x06\x81\xa1t\xa1\xff", not_utf8(b"\xff"));
    check(b"\x92\x51\x82\xa1b\x01\xa1d\xc4\x00", WireError::Json(JsonError::End));
    check(b"\x92\x51\x82\xa1b\x01\xa1d\xc4\x021 \x01", WireError::Trailing { at: 12 });
    check(b"\x92\x51\x82\xa1b\x01\xa1d\xc4\x021]", WireError::Json(JsonError::Trailing { at: 1 }));

    let domain = [b"\xa1d\xc4\x10".as_slice(), &[7; 16]].concat();
    let with_domain = |head: &[u8], tail: &[u8]| [head, &domain, tail].concat();
    check(
        &with_domain(b"\x92\x29\x82", b"\xa1e\x91\x95\xc4\x01k\x00\x01\x01\xc0"),
        WireError::UnknownOrigin { index: 0 },
    );
    let pair = [b"\x93\xc4\x10".as_slice(), &[1; 16], b"\x01\x01"].concat();
    let twice = [b"\xa1v\x92".as_slice(), &pair, &pair, b"\xa1h\x01"].concat();
    check(&with_domain(b"\x92\x2c\x83", &twice), WireError::OriginTwice);
}

#[test]
fn trailing_bytes_are_refused() {
    for message in examples() {
        let frame = [&encode(&message)[..], b"\xc0"].concat();
        let at = frame.len() - 1;
        assert_eq!(decode(&Bytes::from(frame)), Err(WireError::Trailing { at }));
    }
}

#[test]
fn deep_nesting_is_refused() {
    let nested = |levels: usize| {
        let field = [vec![0x91; levels], vec![0xc0]].concat();
        decode(&Bytes::from([b"\x92\x06\x81\xa1z".as_slice(), &field].concat()))
    };
    let fields_depth = 2;
    assert!(nested(crate::message::DEPTH_MAX - fields_depth).is_ok());
    assert_eq!(nested(crate::message::DEPTH_MAX - fields_depth + 1), Err(WireError::TooDeep));
    assert_eq!(nested(1 << 20), Err(WireError::TooDeep));

    let deep = "[".repeat(JSON_DEPTH_MAX * 100);
    let len = u16::try_from(deep.len()).unwrap().to_be_bytes();
    let frame = [b"\x92\x51\x82\xa1b\x01\xa1d\xc5".as_slice(), &len, deep.as_bytes()].concat();
    assert_eq!(decode(&Bytes::from(frame)), Err(WireError::Json(JsonError::TooDeep { max: JSON_DEPTH_MAX })));
}

#[test]
fn a_frame_that_is_cut_short_is_refused() {
    for message in examples() {
        let frame = encode(&message);
        for len in 0..frame.len() {
            assert!(decode(&frame.slice(..len)).is_err(), "{message:?} at {len}");
        }
    }
}

#[test]
fn damaged_frames_never_panic() {
    let frames: Vec<Bytes> = examples().iter().map(encode).collect();
    let mut seed = 0x9e37_79b9_7f4a_7c15_u64;
    let mut below = |bound: usize| {
        seed ^= seed << 13;
        seed ^= seed >> 7;
        seed ^= seed << 17;
        usize::try_from(seed >> 11).unwrap() % bound
    };
    let mut sound = 0;
    for round in 0..100_000 {
        let mut frame = frames[round % frames.len()].to_vec();
        for _ in 0..=below(4) {
            let at = below(frame.len());
            match below(4) {
                0 => frame[at] = below(256).to_le_bytes()[0],
                1 => frame[at] ^= 1 << below(8),
                2 => frame.insert(at, below(256).to_le_bytes()[0]),
                _ if frame.len() > 1 => drop(frame.remove(at)),
                _ => {}
            }
        }
        if let Ok(message) = decode(&Bytes::from(frame)) {
            // What was taken from a stranger can be said again.
            assert_eq!(decode(&encode(&message)).as_ref(), Ok(&message));
            sound += 1;
        }
    }
    assert!(sound > 1_000, "only {sound} damaged frames reached the fields");
}
