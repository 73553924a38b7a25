//! Every limit that an application can reach, at a running node: who reaches it is told its name, and
//! others do not notice.

#![expect(clippy::unwrap_used, reason = "helpers of tests may fail as tests do")]

mod support;

use std::thread;
use std::time::Duration;

use mesh_tests::raw::{Frame, Frames, PONG, TEXT, frame};
use mesh_tests::{Node, NodeOptions, PATIENCE, RawPeer, hello, raw, until};
use serde_json::{Value, json};
use support::{good_client_works, stranger_dials};

fn node(limits: &str) -> Node {
    let config = format!("[telemetry]\nlog = \"info\"\n[limits]\n{limits}\n");
    Node::start(NodeOptions { config, ..NodeOptions::default() })
}

/// Asserts that a text names a limit and its value.
fn check_named(text: &str, limit: &str, value: usize) {
    assert!(text.contains(limit) && text.contains(&value.to_string()), "{limit} ({value}): {text}");
}

/// Asserts that an answer refuses and names a limit and its value.
fn check_refused(answer: &Value, limit: &str, value: usize) {
    assert_eq!(answer["type"], "error", "{answer}");
    check_named(answer["reason"].as_str().unwrap(), limit, value);
}

/// Asserts that a connection is closed with this code and a reason that names a limit and its value.
fn check_closed(frames: &mut Frames, code: u16, limit: &str, value: usize) {
    let (found, reason) = frames.end().unwrap().expect("a close with a code");
    check_named(&reason, limit, value);
    assert_eq!(found, code, "{reason}");
}

/// Asserts that others go on as before.
fn check_others(node: &mut Node) {
    assert!(node.is_alive(), "the node has died");
    good_client_works(&node.url());
    assert!(!node.log().contains("panicked"), "a task has died");
}

/// Waits until the log has a line about this limit.
fn logged(node: &Node, limit: &str) {
    assert!(until(PATIENCE, || node.log().contains(limit)), "{limit} is not in the log");
}

fn method(id: usize, name: &str, streaming: bool) -> Value {
    json!({"id": id, "name": name, "flags": {"streaming": streaming}})
}

fn register(peer: &mut RawPeer, methods: &[Value]) -> Value {
    peer.ask(json!({"domain": "agm", "type": "register", "methods": methods}))
}

fn subscribe_bus(peer: &mut RawPeer, topic: &str) -> Value {
    peer.ask(json!({"domain": "bus", "type": "subscribe", "topic": topic}))
}

fn create_context(peer: &mut RawPeer, name: &str) -> Value {
    peer.ask(json!({
        "domain": "global", "type": "create-context", "name": name, "data": {"n": 0}, "lifetime": "retained",
    }))
}

/// Subscribes to method 1 of a provider, which accepts, and returns the subscription's id.
fn subscribe_stream(subscriber: &mut RawPeer, provider: &mut RawPeer) -> String {
    let server = provider.id.as_str();
    subscriber.send(json!({
        "domain": "agm", "type": "subscribe", "server_id": server, "method_id": 1, "request_id": "s",
    }));
    let wanted = provider.wait(|message| message["type"] == "add-interest");
    let id = wanted["subscription_id"].as_str().unwrap().to_owned();
    provider.send(json!({
        "domain": "agm", "type": "accepted", "subscription_id": id, "stream_id": "branch",
    }));
    subscriber.wait(|message| message["type"] == "subscribed");
    id
}

#[test]
fn message_bytes_max_and_warn() {
    let mut node = node("message_bytes_max = 100000\nmessage_bytes_warn = 5000");
    let mut peer = RawPeer::login(&node, "rude", "eve");
    let other = RawPeer::login(&node, "polite", "eve");
    let publish = |len| json!({"domain": "bus", "type": "publish", "topic": "t", "data": "x".repeat(len)});
    for _ in 0..3 {
        peer.send(publish(6_000));
    }
    // Read to be refused by name; what is much larger is not read at all.
    peer.send(publish(100_000));
    check_refused(&peer.wait(|message| message["type"] == "error"), "message_bytes_max", 100_000);
    peer.send(publish(400_000));
    check_closed(&mut peer.frames, 1009, "message_bytes_max", 100_000);
    let log = node.log();
    let lines: Vec<_> = log.lines().filter(|line| line.contains("message_bytes_warn")).collect();
    assert_eq!(lines.len(), 1, "once per connection: {lines:?}");
    check_named(lines[0], "message_bytes_warn", 5_000);
    drop(other);
    check_others(&mut node);
}

#[test]
fn json_depth_max_and_json_keys_max() {
    let mut node = node("json_depth_max = 10\njson_keys_max = 50");
    let mut peer = RawPeer::login(&node, "rude", "eve");
    let nested = |depth: usize| format!("{}{}", "[".repeat(depth), "]".repeat(depth));
    let wide = |keys: usize| {
        let members: Vec<_> = (0..keys).map(|key| format!("\"{key}\":0")).collect();
        format!("{{{}}}", members.join(","))
    };
    for (data, refused) in [
        (nested(10), None),
        (nested(11), Some(("json_depth_max", 10))),
        (wide(50), None),
        (wide(51), Some(("json_keys_max", 50))),
    ] {
        let id = &peer.id;
        let text = format!(
            r#"{{"domain":"bus","type":"publish","peer_id":"{id}","topic":"t","data":{data},"request_id":1}}"#
        );
        peer.frames.send(text.as_bytes()).unwrap();
        match refused {
            Some((limit, value)) => check_refused(&peer.read().unwrap(), limit, value),
            // A publication has no answer: the next one belongs to the next request.
            None => assert_eq!(subscribe_bus(&mut peer, "t")["type"], "subscribed"),
        }
    }
    check_others(&mut node);
}

#[test]
fn hello_timeout_ms() {
    let mut node = node("hello_timeout_ms = 300");
    let mut silent = Frames::open(node.http_port()).unwrap();
    check_closed(&mut silent, 1008, "hello_timeout_ms", 300);
    check_others(&mut node);
}

#[test]
fn sessions_max() {
    let mut node = node("sessions_max = 3");
    let mut first = RawPeer::login(&node, "one", "eve");
    let more = [RawPeer::login(&node, "two", "eve"), RawPeer::login(&node, "three", "ann")];
    let refusal = Frames::open(node.http_port()).unwrap_err().to_string();
    assert!(refusal.contains("503"), "{refusal}");
    let answer = raw::request(
        node.http_port(),
        &raw::upgrade(node.http_port()).replace("Connection: Upgrade", "Connection: Upgrade, close"),
    )
    .unwrap();
    check_named(&answer.text, "sessions_max", 3);
    // A full node still answers questions, and those who are in.
    assert_eq!(node.ask_json("status")["sessions"], 3);
    assert_eq!(subscribe_bus(&mut first, "t")["type"], "subscribed");
    drop((first, more));
    assert!(until(PATIENCE, || node.ask_json("status")["sessions"] == 0));
    check_others(&mut node);
}

#[test]
fn sessions_per_user_max() {
    let mut node = node("sessions_per_user_max = 2\nhello_timeout_ms = 500");
    let held = [RawPeer::login(&node, "one", "eve"), RawPeer::login(&node, "two", "eve")];
    let mut third = Frames::open(node.http_port()).unwrap();
    third.send(hello("three", "eve").to_string().as_bytes()).unwrap();
    let Frame::Text(answer) = third.read().unwrap() else { panic!("closed without a word") };
    check_refused(&serde_json::from_str(&answer).unwrap(), "sessions_per_user_max", 2);
    // Another user has room, and who is not let in does not stay.
    check_others(&mut node);
    check_closed(&mut third, 1008, "hello_timeout_ms", 500);
    drop(held);
    assert!(until(PATIENCE, || node.ask_json("status")["sessions"] == 0));
    drop(RawPeer::login(&node, "three", "eve"));

    // Who returns under an instance name of its own takes its own place.
    let mut hello = hello("one", "bob");
    hello["identity"]["instance"] = "mine".into();
    let enter = || {
        let mut frames = Frames::open(node.http_port()).unwrap();
        frames.send(hello.to_string().as_bytes()).unwrap();
        let Frame::Text(answer) = frames.read().unwrap() else { panic!("closed without a word") };
        (frames, serde_json::from_str::<Value>(&answer).unwrap())
    };
    let before = enter();
    let other = RawPeer::login(&node, "two", "bob");
    let (_frames, answer) = enter();
    assert_eq!(answer["type"], "welcome", "{answer}");
    drop((before, other));
}

#[test]
fn methods_per_session_max() {
    let mut node = node("methods_per_session_max = 3");
    let mut peer = RawPeer::login(&node, "rude", "eve");
    let methods: Vec<_> = (1..=3).map(|id| method(id, "M", false)).collect();
    assert_eq!(register(&mut peer, &methods)["type"], "success");
    check_refused(&register(&mut peer, &[method(4, "M", false)]), "methods_per_session_max", 3);
    check_others(&mut node);
}

#[test]
fn subscriptions_per_session_max() {
    let mut node = node("subscriptions_per_session_max = 2");
    let mut peer = RawPeer::login(&node, "rude", "eve");
    for topic in ["a", "b"] {
        assert_eq!(subscribe_bus(&mut peer, topic)["type"], "subscribed");
    }
    check_refused(&subscribe_bus(&mut peer, "c"), "subscriptions_per_session_max", 2);
    let mut provider = RawPeer::login(&node, "provider", "eve");
    register(&mut provider, &[method(1, "S", true)]);
    for _ in 0..2 {
        subscribe_stream(&mut peer, &mut provider);
    }
    let answer = peer.ask(json!({
        "domain": "agm", "type": "subscribe", "server_id": provider.id, "method_id": 1,
    }));
    check_refused(&answer, "subscriptions_per_session_max", 2);
    check_others(&mut node);
}

#[test]
fn contexts_per_session_max() {
    let mut node = node("contexts_per_session_max = 2");
    let mut peer = RawPeer::login(&node, "rude", "eve");
    for name in ["a", "b"] {
        assert_eq!(create_context(&mut peer, name)["type"], "context-created");
    }
    check_refused(&create_context(&mut peer, "c"), "contexts_per_session_max", 2);
    let mut other = RawPeer::login(&node, "other", "eve");
    let id = create_context(&mut other, "c")["context_id"].clone();
    let subscribe = json!({"domain": "global", "type": "subscribe-context", "context_id": id});
    check_refused(&peer.ask(subscribe.clone()), "contexts_per_session_max", 2);
    // What it has it may enter again.
    assert_eq!(create_context(&mut peer, "a")["type"], "subscribed-context");
    check_others(&mut node);
}

#[test]
fn calls_per_session_max() {
    let mut node = node("calls_per_session_max = 2");
    let mut callee = RawPeer::login(&node, "callee", "eve");
    register(&mut callee, &[method(1, "Never", false)]);
    let mut caller = RawPeer::login(&node, "caller", "eve");
    let call = json!({"domain": "agm", "type": "call", "server_id": callee.id, "method_id": 1});
    for _ in 0..2 {
        caller.send(call.clone());
    }
    check_refused(&caller.ask(call), "calls_per_session_max", 2);
    check_others(&mut node);
}

#[test]
fn context_updates_per_second_max() {
    let mut node = node("context_updates_per_second_max = 2");
    let (mut peer, mut other) =
        (RawPeer::login(&node, "rude", "eve"), RawPeer::login(&node, "polite", "eve"));
    let id = create_context(&mut peer, "c")["context_id"].clone();
    let mut answers = (0..100).map(|n| {
        let delta = json!({"updated": {"n": n}});
        peer.ask(json!({"domain": "global", "type": "update-context", "context_id": id, "delta": delta}))
    });
    assert!(answers.by_ref().take(9).all(|answer| answer["type"] != "error"), "five seconds' worth at once");
    check_refused(
        &answers.find(|answer| answer["type"] == "error").unwrap(),
        "context_updates_per_second_max",
        2,
    );
    assert_ne!(create_context(&mut other, "d")["type"], "error", "each application has its own");
    check_others(&mut node);
}

#[test]
fn ping_interval_ms_and_missed_pings_max() {
    let mut node = node("ping_interval_ms = 200\nmissed_pings_max = 3");
    let mut peer = RawPeer::login(&node, "mute", "eve");
    let (code, reason) = peer.frames.end().unwrap().expect("a close with a code");
    assert_eq!(code, 1001, "{reason}");
    check_named(&reason, "ping_interval_ms", 200);
    check_named(&reason, "missed_pings_max", 3);
    check_others(&mut node);
}

#[test]
fn handshakes_per_second_max() {
    let mut node = node("handshakes_per_second_max = 1");
    stranger_dials(node.mesh_port());
    logged(&node, "handshakes_per_second_max");
    check_others(&mut node);
}

/// What a node may hold beside its bounds, after many messages.
const SLACK_BYTES: u64 = 24 << 20;
/// Enough to fill the buffers of the system and every bound, many times.
const VOLUME_BYTES: usize = 100 << 20;
const PIECE_BYTES: usize = 16 << 10;

/// Returns this text as a frame, `count` times.
fn frames(text: &str, count: usize) -> Vec<u8> {
    frame(TEXT, text.as_bytes()).repeat(count)
}

/// Has a peer send numbered pieces of this much in all, and returns it when all have been read.
fn flood(
    mut peer: RawPeer,
    piece: impl Fn(&str, &str) -> Value + Send + 'static,
) -> thread::JoinHandle<RawPeer> {
    thread::spawn(move || {
        let filler = "x".repeat(PIECE_BYTES);
        for number in 0..VOLUME_BYTES / PIECE_BYTES {
            peer.send(piece(&number.to_string(), &filler));
        }
        // The answer comes when all before it have been read.
        subscribe_bus(&mut peer, "end");
        peer
    })
}

/// Has a peer read until the last numbered piece, and returns the numbers it got.
fn numbers(
    mut peer: RawPeer,
    number_of: impl Fn(&Value) -> Option<usize> + Send + 'static,
) -> thread::JoinHandle<Vec<usize>> {
    thread::spawn(move || {
        let mut found = Vec::new();
        while found.last() != Some(&(VOLUME_BYTES / PIECE_BYTES - 1)) {
            found.extend(number_of(&peer.read().unwrap()));
        }
        found
    })
}

fn number_in(data: &Value) -> Option<usize> {
    data["number"].as_str()?.parse().ok()
}

fn check_memory(node: &Node, before: Option<u64>) {
    if let Some((before, after)) = before.zip(node.resident_bytes()) {
        let grown = after.saturating_sub(before);
        assert!(grown < SLACK_BYTES, "the node has grown by {} KiB", grown >> 10);
    }
}

#[test]
fn outbox_stream_bytes_max_on_the_bus() {
    let mut node = node("");
    let publisher = RawPeer::login(&node, "publisher", "eve");
    let (mut slow, mut other) = (RawPeer::login(&node, "slow", "eve"), RawPeer::login(&node, "other", "eve"));
    for peer in [&mut slow, &mut other] {
        subscribe_bus(peer, "t");
    }
    let before = node.resident_bytes();
    let reading = numbers(other, |message| number_in(&message["data"]));
    let flooding = flood(
        publisher,
        |number, filler| json!({"domain": "bus", "type": "publish", "topic": "t", "data": {"number": number, "filler": filler}}),
    );
    logged(&node, "outbox_stream_bytes_max");
    check_closed(&mut slow.frames, 1013, "outbox_stream_bytes_max", 4 << 20);
    flooding.join().unwrap();
    check_memory(&node, before);
    let all: Vec<_> = (0..VOLUME_BYTES / PIECE_BYTES).collect();
    assert_eq!(reading.join().unwrap(), all, "the other gets everything, in order");
    check_others(&mut node);
}

#[test]
fn outbox_stream_bytes_max_of_a_stream() {
    let mut node = node("");
    let mut provider = RawPeer::login(&node, "provider", "eve");
    register(&mut provider, &[method(1, "S", true)]);
    let (mut slow, mut other) = (RawPeer::login(&node, "slow", "eve"), RawPeer::login(&node, "other", "eve"));
    for peer in [&mut slow, &mut other] {
        subscribe_stream(peer, &mut provider);
    }
    let before = node.resident_bytes();
    let reading = numbers(other, |message| number_in(&message["data"]));
    let flooding = flood(provider, |number, filler| {
        let data = json!({"number": number, "filler": filler});
        json!({"domain": "agm", "type": "publish", "stream_id": "branch", "data": data})
    });
    logged(&node, "outbox_stream_bytes_max");
    check_closed(&mut slow.frames, 1013, "outbox_stream_bytes_max", 4 << 20);
    flooding.join().unwrap();
    check_memory(&node, before);
    let all: Vec<_> = (0..VOLUME_BYTES / PIECE_BYTES).collect();
    assert_eq!(reading.join().unwrap(), all, "the other gets everything, in order");
    check_others(&mut node);
}

#[test]
fn outbox_subscription_bytes_max() {
    let ends = "[streams]\nslow_subscribers = [{ stream = \"S\", policy = \"end\" }]";
    let mut node = node(&format!("write_deadline_ms = 60000\n{ends}"));
    let mut provider = RawPeer::login(&node, "provider", "eve");
    register(&mut provider, &[method(1, "S", true)]);
    let (mut slow, mut other) = (RawPeer::login(&node, "slow", "eve"), RawPeer::login(&node, "other", "eve"));
    for peer in [&mut slow, &mut other] {
        subscribe_stream(peer, &mut provider);
    }
    let before = node.resident_bytes();
    let reading = numbers(other, |message| number_in(&message["data"]));
    let flooding = flood(provider, |number, filler| {
        let data = json!({"number": number, "filler": filler});
        json!({"domain": "agm", "type": "publish", "stream_id": "branch", "data": data})
    });
    logged(&node, "outbox_subscription_bytes_max");
    flooding.join().unwrap();
    check_memory(&node, before);
    let all: Vec<_> = (0..VOLUME_BYTES / PIECE_BYTES).collect();
    assert_eq!(reading.join().unwrap(), all, "the other gets everything, in order");
    // What was on its way to it comes whole, then the end; nothing else of it ends.
    let ended = slow.wait(|message| message["type"] == "subscription-cancelled");
    assert_eq!(ended["reason_uri"], "agm.errors.subscription.slow_consumer");
    subscribe_bus(&mut slow, "t");
    check_others(&mut node);
}

#[test]
fn slow_stream_consumer_may_lose_the_oldest() {
    let mut node = node("slow_stream_consumer = \"drop-oldest\"\nwrite_deadline_ms = 60000");
    let publisher = RawPeer::login(&node, "publisher", "eve");
    let (mut slow, mut other) = (RawPeer::login(&node, "slow", "eve"), RawPeer::login(&node, "other", "eve"));
    for peer in [&mut slow, &mut other] {
        subscribe_bus(peer, "t");
    }
    let before = node.resident_bytes();
    let reading = numbers(other, |message| number_in(&message["data"]));
    let flooding = flood(
        publisher,
        |number, filler| json!({"domain": "bus", "type": "publish", "topic": "t", "data": {"number": number, "filler": filler}}),
    );
    flooding.join().unwrap();
    check_memory(&node, before);
    let all: Vec<_> = (0..VOLUME_BYTES / PIECE_BYTES).collect();
    assert_eq!(reading.join().unwrap(), all, "the other gets everything, in order");
    logged(&node, "outbox_stream_bytes_max");
    let dropped = node.ask_json("status")["stream_events_dropped"].as_u64().unwrap() as usize;
    let got = numbers(slow, |message| number_in(&message["data"])).join().unwrap();
    assert!(got.is_sorted() && got.first() == Some(&0));
    assert_eq!((got.len() + dropped, dropped > 0), (all.len(), true), "what is not delivered is counted");
    check_others(&mut node);
}

#[test]
fn outbox_context_conflate_bytes() {
    let mut node = node("write_deadline_ms = 60000");
    let mut updater = RawPeer::login(&node, "updater", "eve");
    let id = create_context(&mut updater, "c")["context_id"].clone();
    let (mut slow, mut other) = (RawPeer::login(&node, "slow", "eve"), RawPeer::login(&node, "other", "eve"));
    for peer in [&mut slow, &mut other] {
        let answer = peer.ask(json!({"domain": "global", "type": "subscribe-context", "context_id": id}));
        assert_eq!(answer["data"], json!({"n": 0}));
    }
    let before = node.resident_bytes();
    let last = VOLUME_BYTES / PIECE_BYTES - 1;
    let end = |mut peer: RawPeer| {
        thread::spawn(move || {
            let (mut value, mut changes) = (json!({"n": 0}), 0);
            while number_in(&value) != Some(last) {
                let message = peer.read().unwrap();
                if message["type"] == "context-updated" {
                    apply(&mut value, &message["delta"]);
                    changes += 1;
                }
            }
            (value, changes, peer)
        })
    };
    let reading = end(other);
    let context = id.clone();
    let flooding = thread::spawn(move || {
        let filler = "x".repeat(PIECE_BYTES);
        for number in 0..=last {
            // A new key now and then, so that what came long ago must not be lost.
            let key = format!("k{}", number / 1_000);
            let added = json!({"number": number.to_string(), "filler": filler, key: number});
            let answer = updater.ask(json!({
                "domain": "global", "type": "update-context", "context_id": context, "delta": {"added": added},
            }));
            assert_eq!(answer["type"], "success", "{answer}");
        }
    });
    flooding.join().unwrap();
    check_memory(&node, before);
    let (expected, ..) = reading.join().unwrap();
    let (value, changes, slow) = end(slow).join().unwrap();
    assert_eq!(value, expected, "the slow one ends with the right value");
    assert_eq!(value["k0"], 999);
    assert!(changes < last, "{changes} changes were sent one by one");
    drop(slow);
    check_others(&mut node);
}

/// Applies a delta of top-level keys as clients do.
fn apply(value: &mut Value, delta: &Value) {
    if let Some(reset) = delta.get("reset") {
        *value = reset.clone();
    }
    for part in ["added", "updated"] {
        let members = delta.get(part).and_then(Value::as_object).cloned().unwrap_or_default();
        value.as_object_mut().unwrap().extend(members);
    }
}

#[test]
fn large_messages_come_in_parts() {
    let node = node("");
    let mut writer = RawPeer::login(&node, "writer", "eve");
    let mut reader = RawPeer::login(&node, "reader", "eve");
    let context = create_context(&mut writer, "large")["context_id"].clone();
    let value = "xé".repeat(1_000_000);
    writer.ask(json!({
        "domain": "global", "type": "update-context", "context_id": context, "delta": {"updated": {"n": value}},
    }));
    let read = reader.ask(json!({"domain": "global", "type": "subscribe-context", "context_id": context}));
    assert!(read["data"]["n"] == value, "it is not what was written");
    assert_eq!(reader.frames.largest, 1 << 20);
}

/// Returns what comes until a change of a context, as words; the last ping is answered if that is wanted.
fn words_until_change(peer: &mut RawPeer, answers: bool) -> Vec<String> {
    let mut words = Vec::new();
    loop {
        match peer.frames.read_any().unwrap() {
            Ok(Frame::Text(text)) => {
                let message: Value = serde_json::from_str(&text).unwrap();
                words.push(message["type"].as_str().unwrap().to_owned());
                if message["type"] == "context-updated" {
                    return words;
                }
            }
            Err(content) => {
                words.push("ping".to_owned());
                if answers {
                    peer.frames.send_bytes(&frame(PONG, &content)).unwrap();
                }
            }
            Ok(end) => panic!("{end:?}"),
        }
    }
}

#[test]
fn a_change_comes_once_the_acknowledgement_before_it_is_read() {
    let mut node = node("");
    let mut one = RawPeer::login(&node, "one", "eve");
    let mut two = RawPeer::login(&node, "two", "eve");
    let shared = create_context(&mut one, "shared")["context_id"].clone();
    let other = create_context(&mut one, "other")["context_id"].clone();
    for context in [&shared, &other] {
        two.ask(json!({"domain": "global", "type": "subscribe-context", "context_id": context}));
    }
    let update = |peer: &mut RawPeer, context: &Value| {
        let delta = json!({"updated": {"n": peer.id}});
        let answer = peer.ask(
            json!({"domain": "global", "type": "update-context", "context_id": context, "delta": delta}),
        );
        assert_eq!(answer["type"], "success", "{answer}");
    };
    let round = |one: &mut RawPeer, two: &mut RawPeer, context: &Value, answers: bool| {
        update(two, context);
        words_until_change(one, answers)
    };
    // Its creation has been acknowledged.
    assert_eq!(round(&mut one, &mut two, &shared, true), ["ping", "context-updated"]);
    assert_eq!(round(&mut one, &mut two, &shared, true), ["context-updated"]);
    assert_eq!(round(&mut one, &mut two, &other, true), ["context-updated"], "that ping was for both");
    update(&mut one, &shared);
    assert_eq!(round(&mut one, &mut two, &other, true), ["context-updated"], "another context");
    // One that never answers is told at last.
    let mut three = RawPeer::login(&node, "three", "eve");
    three.ask(json!({"domain": "global", "type": "subscribe-context", "context_id": shared}));
    update(&mut three, &shared);
    assert_eq!(round(&mut three, &mut two, &shared, false), ["ping", "context-updated"]);
    check_others(&mut node);
}

#[test]
fn outbox_context_bytes_max() {
    let mut node = node("outbox_context_bytes_max = 3000\nwrite_deadline_ms = 2000");
    let mut updater = RawPeer::login(&node, "updater", "eve");
    let mut slow = RawPeer::login(&node, "slow", "eve");
    let ids: Vec<Value> = (0..50)
        .map(|number| create_context(&mut updater, &number.to_string())["context_id"].clone())
        .collect();
    for id in &ids {
        slow.ask(json!({"domain": "global", "type": "subscribe-context", "context_id": id}));
    }
    let filler = "x".repeat(512 << 10);
    for id in &ids {
        updater.ask(json!({
            "domain": "global", "type": "update-context", "context_id": id, "delta": {"added": {"x": filler}},
        }));
    }
    logged(&node, "outbox_context_bytes_max");
    check_closed(&mut slow.frames, 1013, "outbox_context_bytes_max", 3_000);
    check_others(&mut node);
}

#[test]
fn write_deadline_ms() {
    let mut node = node("write_deadline_ms = 700\noutbox_stream_bytes_max = 100000000");
    let mut publisher = RawPeer::login(&node, "publisher", "eve");
    let mut slow = RawPeer::login(&node, "slow", "eve");
    subscribe_bus(&mut slow, "t");
    let data = "x".repeat(100 << 10);
    let text = publisher.text(json!({"domain": "bus", "type": "publish", "topic": "t", "data": data}));
    publisher.frames.send_bytes(&frames(&text, 300)).unwrap();
    logged(&node, "write_deadline_ms");
    check_closed(&mut slow.frames, 1013, "write_deadline_ms", 700);
    assert_eq!(subscribe_bus(&mut publisher, "u")["type"], "subscribed");
    check_others(&mut node);
}

#[test]
fn outbox_calls_bytes_max_for_a_callee() {
    let mut node = node("write_deadline_ms = 60000");
    let mut callee = RawPeer::login(&node, "callee", "eve");
    register(&mut callee, &[method(1, "Slow", false)]);
    let mut caller = RawPeer::login(&node, "caller", "eve");
    let filler = "x".repeat(200 << 10);
    let call = |request: usize, server: &str| {
        json!({
            "domain": "agm", "type": "call", "server_id": server, "method_id": 1, "arguments_kv": {"x": filler},
            "request_id": request,
        })
    };
    let before = node.resident_bytes();
    let sent = VOLUME_BYTES / filler.len();
    for request in 0..sent {
        caller.send(call(request, &callee.id));
    }
    let first = caller.wait(|message| message["type"] == "error");
    check_refused(&first, "outbox_calls_bytes_max", 8 << 20);
    assert!(first["reason"].as_str().unwrap().starts_with("overloaded"), "{first}");
    check_memory(&node, before);
    // Each call that was taken is still run and answered.
    let taken = first["request_id"].as_u64().unwrap() as usize;
    for _ in 0..taken {
        let invoke = callee.wait(|message| message["type"] == "invoke");
        let id = &invoke["invocation_id"];
        callee.send(json!({"domain": "agm", "type": "yield", "invocation_id": id, "result": {}}));
    }
    let mut answered = 0;
    while answered < taken {
        answered += usize::from(caller.read().unwrap()["type"] == "result");
    }
    check_others(&mut node);
}

#[test]
fn outbox_calls_bytes_max_for_a_caller() {
    let mut node = node("write_deadline_ms = 60000");
    let mut callee = RawPeer::login(&node, "callee", "eve");
    register(&mut callee, &[method(1, "Much", false)]);
    let mut caller = RawPeer::login(&node, "caller", "eve");
    let result = json!({"x": "x".repeat(200 << 10)});
    let calls = VOLUME_BYTES / (200 << 10);
    let server = callee.id.clone();
    for _ in 0..calls {
        caller.send(json!({
            "domain": "agm", "type": "call", "server_id": server, "method_id": 1, "request_id": 1,
        }));
    }
    for _ in 0..calls {
        let invoke = callee.wait(|message| message["type"] == "invoke");
        let id = &invoke["invocation_id"];
        callee.send(json!({"domain": "agm", "type": "yield", "invocation_id": id, "result": result}));
    }
    logged(&node, "outbox_calls_bytes_max");
    check_closed(&mut caller.frames, 1013, "outbox_calls_bytes_max", 8 << 20);
    assert_eq!(subscribe_bus(&mut callee, "t")["type"], "subscribed");
    check_others(&mut node);
}

#[test]
fn outbox_control_bytes_max() {
    let mut node = node("write_deadline_ms = 60000");
    let mut provider = RawPeer::login(&node, "provider", "eve");
    register(&mut provider, &[method(1, "S", true)]);
    let mut slow = RawPeer::login(&node, "slow", "eve");
    let subscriptions: Vec<_> = (0..300).map(|_| subscribe_stream(&mut slow, &mut provider)).collect();
    let reason = "x".repeat(100 << 10);
    for id in subscriptions {
        provider.send(json!({
            "domain": "agm", "type": "drop-subscription", "subscription_id": id, "reason": reason,
        }));
    }
    logged(&node, "outbox_control_bytes_max");
    check_closed(&mut slow.frames, 1013, "outbox_control_bytes_max", 1 << 20);
    assert_eq!(subscribe_bus(&mut provider, "t")["type"], "subscribed");
    check_others(&mut node);
}

#[test]
fn session_outbox_bytes_max() {
    let mut node = node("session_outbox_bytes_max = 2000000\nwrite_deadline_ms = 60000");
    let mut server = RawPeer::login(&node, "server", "eve");
    let mut slow = RawPeer::login(&node, "slow", "eve");
    let description = "x".repeat(100 << 10);
    for id in 0..300 {
        let method = json!({"id": id, "name": "M", "description": description});
        assert_eq!(register(&mut server, &[method])["type"], "success");
    }
    logged(&node, "session_outbox_bytes_max");
    check_closed(&mut slow.frames, 1013, "session_outbox_bytes_max", 2_000_000);
    check_others(&mut node);
}

/// Many publishers together are quicker than any reader: they are slowed down, and nothing is lost.
#[test]
fn a_burst_waits_for_a_subscriber_that_reads() {
    const PUBLISHERS: usize = 20;
    const EACH: usize = 2_000;
    let mut node = node("outbox_stream_bytes_max = 200000");
    let mut subscriber = RawPeer::login(&node, "subscriber", "eve");
    subscribe_bus(&mut subscriber, "t");
    let publishers: Vec<_> = (0..PUBLISHERS)
        .map(|number| {
            let mut peer = RawPeer::login(&node, "publisher", "eve");
            thread::spawn(move || {
                let data = json!({"from": number, "filler": "x".repeat(500)});
                let text = peer.text(json!({"domain": "bus", "type": "publish", "topic": "t", "data": data}));
                peer.frames.send_bytes(&frames(&text, EACH)).unwrap();
                peer
            })
        })
        .collect();
    let mut got = [0; PUBLISHERS];
    for count in 0..PUBLISHERS * EACH {
        let message = subscriber.wait(|message| message["type"] == "event");
        got[message["data"]["from"].as_u64().unwrap() as usize] += 1;
        if count % 1_000 == 0 {
            thread::sleep(Duration::from_millis(5));
        }
    }
    assert_eq!(got, [EACH; PUBLISHERS]);
    for publisher in publishers {
        publisher.join().unwrap();
    }
    check_others(&mut node);
}
