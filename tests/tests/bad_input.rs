//! Strangers at the doors of a running node: the local endpoint and the mesh port.
//!
//! Whatever is sent, the connection may be answered or closed; the node goes on, a well-behaved client
//! finds it as it was, and its memory stays within bounds. What each frame means is for `proto-gw3`; here
//! the whole program is on the other side.

#![expect(clippy::unwrap_used, reason = "helpers of tests may fail as tests do")]

mod support;

use std::io::Write as _;
use std::net::{Ipv4Addr, UdpSocket};
use std::time::Duration;

use mesh_tests::raw::{self, BINARY, CLOSE, Frame, Frames, TEXT, frame};
use mesh_tests::{Node, NodeOptions, PATIENCE, elapsed, until};
use serde::de::IgnoredAny;
use serde_json::{Value, json};
use support::{good_client_works, stranger_dials};

const MESSAGE_BYTES_MAX: usize = 64 << 10;
const HELLO_TIMEOUT: Duration = Duration::from_millis(1_000);
/// What a node may hold after all this, in an unoptimized build.
const RESIDENT_BYTES_MAX: u64 = 300 << 20;

fn node() -> Node {
    let config = format!(
        "[limits]\nmessage_bytes_max = {MESSAGE_BYTES_MAX}\nhello_timeout_ms = {}\n",
        HELLO_TIMEOUT.as_millis()
    );
    Node::start(NodeOptions { config, ..NodeOptions::default() })
}

/// Asserts that a node has come through it all.
fn check_well(node: &mut Node) {
    assert!(node.is_alive(), "the node has died");
    good_client_works(&node.url());
    let log = node.log();
    assert!(!log.contains("panicked"), "a task has died");
    if let Some(bytes) = node.resident_bytes() {
        assert!(bytes < RESIDENT_BYTES_MAX, "the node holds {} MB", bytes >> 20);
    }
}

/// A logged-in peer without manners.
struct Peer {
    frames: Frames,
    id: String,
}

impl Peer {
    fn login(node: &Node) -> Self {
        let mut frames = Frames::open(node.http_port()).unwrap();
        frames.send(hello("rude").to_string().as_bytes()).unwrap();
        let welcome = text(&mut frames);
        assert_eq!(welcome["type"], "welcome", "{welcome}");
        let mut peer = Self { frames, id: welcome["peer_id"].as_str().unwrap().to_owned() };
        for domain in ["agm", "bus", "context"] {
            peer.send(
                &json!({"domain": "global", "type": "join", "destination": domain, "request_id": domain}),
            );
        }
        peer.fenced().expect("the peer is welcome");
        peer
    }

    fn send(&mut self, message: &Value) {
        let mut message = message.clone();
        message["peer_id"] = self.id.as_str().into();
        self.frames.send(message.to_string().as_bytes()).unwrap();
    }

    /// Returns all that came before the answer to a last request; `None` if the node has hung up.
    fn fenced(&mut self) -> Option<Vec<Value>> {
        let fence = json!({"domain": "global", "type": "no-such-type", "request_id": "fence"});
        // A node that has hung up is noticed when reading.
        let _ = self.frames.send(fence.to_string().as_bytes());
        let mut messages = Vec::new();
        loop {
            match self.frames.read().expect("an answer in time") {
                Frame::Text(text) if text.contains(r#""request_id":"fence""#) => return Some(messages),
                Frame::Text(text) => {
                    if let Err(error) = serde_json::from_str::<IgnoredAny>(&text) {
                        panic!("the node sends what is not JSON: {error}: {text}");
                    }
                    // A lone surrogate is passed on as it came, but is nothing a string can hold.
                    messages.extend(serde_json::from_str::<Value>(&text));
                }
                Frame::Close(_) => return None,
            }
        }
    }
}

fn hello(application: &str) -> Value {
    json!({
        "domain": "global", "type": "hello", "request_id": "hello",
        "identity": {"application": application, "machine": "desk", "user": "eve"},
        "authentication": {"method": "secret", "login": "eve", "secret": "x"},
    })
}

fn text(frames: &mut Frames) -> Value {
    match frames.read().unwrap() {
        Frame::Text(text) => serde_json::from_str(&text).unwrap(),
        closed @ Frame::Close(_) => panic!("{closed:?}"),
    }
}

#[test]
fn requests_that_are_none_or_not_from_here() {
    let mut node = node();
    let port = node.http_port();
    for bytes in [
        &b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03"[..],
        b"SSH-2.0-x\r\n\r\n",
        b"\0\0\0\0\r\n\r\n",
        b"GET\r\n\r\n",
    ] {
        let mut stream = raw::connect(port).unwrap();
        stream.write_all(bytes).unwrap();
        stream.shutdown(std::net::Shutdown::Write).unwrap();
        let answer = raw::to_end(&mut stream).unwrap();
        assert!(
            answer.is_empty() || answer.starts_with(b"HTTP/1.1 400"),
            "{}",
            String::from_utf8_lossy(&answer)
        );
    }
    let own = format!("127.0.0.1:{port}");
    let upgrade = "Connection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n";
    for (head, status) in [
        (format!("GET /readyz HTTP/1.1\r\nHost: {own}\r\n"), 200),
        (format!("GET / HTTP/1.1\r\nHost: {own}\r\n"), 426),
        (format!("POST / HTTP/1.1\r\nHost: {own}\r\nContent-Length: 0\r\n"), 426),
        ("GET /readyz HTTP/1.1\r\nHost: evil.example\r\n".into(), 421),
        (format!("GET / HTTP/1.1\r\nHost: localhost.evil.example:{port}\r\n{upgrade}"), 421),
        (format!("GET / HTTP/1.1\r\n{upgrade}"), 421),
        (format!("GET / HTTP/1.1\r\nHost: {own}\r\nOrigin: https://evil.example\r\n{upgrade}"), 403),
        (format!("GET / HTTP/1.1\r\nHost: {own}\r\nOrigin: null\r\n{upgrade}"), 403),
        (format!("GET / HTTP/1.1\r\nHost: {own}\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n"), 400),
        (format!("GET /fdc3 HTTP/1.1\r\nHost: {own}\r\nOrigin: https://evil.example\r\n{upgrade}"), 403),
        (format!("GET /fdc3/desk HTTP/1.1\r\nHost: {own}\r\n{upgrade}"), 403),
        (format!("GET /fdc3/other HTTP/1.1\r\nHost: {own}\r\n{upgrade}"), 404),
        (format!("GET /admin/v1/status HTTP/1.1\r\nHost: {own}\r\n"), 401),
        (
            format!(
                "POST /admin/v1/token HTTP/1.1\r\nHost: {own}\r\nAuthorization: Bearer x\r\nContent-Length: 0\r\n"
            ),
            401,
        ),
        (format!("GET / HTTP/1.1\r\nHost: {own}\r\nX: {}\r\n", "x".repeat(64 << 10)), 431),
    ] {
        // A 101 would keep the connection, so `Connection: close` is left to the others.
        let close = if head.contains("Upgrade: ") { "" } else { "Connection: close\r\n" };
        let answer = match status {
            421 | 403 | 400 | 404 if !close.is_empty() || head.contains("Upgrade: ") => {
                first_line(port, &head)
            }
            _ => raw::request(port, &format!("{head}{close}\r\n")).map(|answer| answer.status),
        };
        assert_eq!(answer.unwrap(), status, "{}", &head[..head.len().min(200)]);
    }
    check_well(&mut node);
}

/// Returns the status of an answer whose connection may stay open.
fn first_line(port: u16, head: &str) -> std::io::Result<u16> {
    use std::io::Read as _;
    let mut stream = raw::connect(port)?;
    stream.write_all(format!("{head}\r\n").as_bytes())?;
    let mut line = [0; 12];
    stream.read_exact(&mut line)?;
    let line = String::from_utf8_lossy(&line);
    line[9..].parse().map_err(std::io::Error::other)
}

#[test]
fn nobody_may_idle_at_the_door() {
    let mut node = node();
    let mut silent = Frames::open(node.http_port()).unwrap();
    let (took, end) = elapsed(|| silent.end().unwrap());
    assert_eq!(end.as_ref().map(|(code, _)| *code), Some(1008));
    assert!(end.unwrap().1.contains("hello_timeout_ms"));
    assert!(took > HELLO_TIMEOUT / 2 && took < HELLO_TIMEOUT * 4, "{took:?}");

    // Talking is no excuse for not logging in.
    let mut talker = Frames::open(node.http_port()).unwrap();
    let ended = until(HELLO_TIMEOUT * 4, || talker.send(br#"{"type":"ping"}"#).is_err());
    assert!(ended, "still open");

    // Half a request: the head has five seconds.
    let mut slow = raw::connect(node.http_port()).unwrap();
    slow.write_all(b"GET / HTTP/1.1\r\nHost: local").unwrap();
    let (took, _) = elapsed(|| raw::to_end(&mut slow).unwrap());
    assert!(took < Duration::from_secs(8), "{took:?}");
    check_well(&mut node);
}

#[test]
fn messages_that_make_no_sense_are_answered() {
    let mut node = node();
    let nested = |depth: usize| format!("{}{}", "[".repeat(depth), "]".repeat(depth));
    let deep = format!(r#"{{"domain":"bus","type":"publish","topic":"t","data":{}}}"#, nested(129));
    for (message, uri, reason) in [
        ("{", "global.errors.failure", "must be one JSON object"),
        ("{}{}", "global.errors.failure", "must be one JSON object"),
        ("\u{feff}{}", "global.errors.failure", "must be one JSON object"),
        ("7", "global.errors.failure", "must be one JSON object"),
        (r#""text""#, "global.errors.failure", "must be one JSON object"),
        (r#"{"type":"\uD800""#, "global.errors.failure", "must be one JSON object"),
        ("null", "global.errors.unhandled_message", ""),
        (deep.as_str(), "global.errors.failure", "json_depth_max"),
        (r#"{"domain":"moon","type":"land"}"#, "global.errors.failure", "there is no domain `moon`"),
        (r#"{"domain":"agm","type":"land"}"#, "agm.errors.unhandled_message", "there is no message `land`"),
        (r#"{"domain":"agm","type":"call"}"#, "agm.errors.failure", "log in first"),
        (
            r#"{"domain":"agm","type":"call","peer_id":"p-00000000000000000000"}"#,
            "global.errors.failure",
            "does not belong",
        ),
        (r#"{"domain":"agm","type":"call","peer_id":7}"#, "global.errors.failure", "does not belong"),
    ] {
        let mut frames = Frames::open(node.http_port()).unwrap();
        frames.send(message.as_bytes()).unwrap();
        let answer = text(&mut frames);
        let shown = &message[..message.len().min(60)];
        assert_eq!(
            (answer["type"].as_str(), answer["reason_uri"].as_str()),
            (Some("error"), Some(uri)),
            "{shown}: {answer}"
        );
        assert!(answer["reason"].as_str().unwrap().contains(reason), "{shown}: {answer}");
    }
    // What another connection was given is worth nothing here, not even with a login of one's own.
    let victim = Peer::login(&node);
    let mut thief = Peer::login(&node);
    thief.id.clone_from(&victim.id);
    thief.send(&json!({"domain": "agm", "type": "register", "methods": [{"id": 1, "name": "Stolen"}], "request_id": 1}));
    let answers = thief.fenced().unwrap();
    assert!(answers.iter().any(|answer| answer["type"] == "error"), "{answers:?}");
    assert_eq!(node.ask_json("methods"), json!([]));
    drop(victim);
    check_well(&mut node);
}

#[test]
fn frames_that_make_no_sense_end_their_connection() {
    let mut node = node();
    let big = frame(TEXT, &vec![b' '; 4 * MESSAGE_BYTES_MAX + 1]);
    let fragment = |opcode: u8, len: usize| {
        let mut bytes = frame(opcode, &vec![b' '; len]);
        bytes[0] &= 0x7f;
        bytes
    };
    let fragments =
        [fragment(TEXT, 2 * MESSAGE_BYTES_MAX), fragment(0, 2 * MESSAGE_BYTES_MAX), fragment(0, 10)].concat();
    for (what, bytes, code) in [
        ("an unmasked frame", vec![0x81, 2, b'{', b'}'], 1002),
        ("a reserved bit", vec![0xc1, 0x80, 0, 0, 0, 0], 1002),
        ("a reserved opcode", vec![0x83, 0x80, 0, 0, 0, 0], 1002),
        ("a part without a beginning", vec![0x80, 0x80, 0, 0, 0, 0], 1002),
        ("a ping in parts", vec![0x09, 0x80, 0, 0, 0, 0], 1002),
        ("a ping that is too long", frame(9, &[0; 126]), 1002),
        ("text that is not UTF-8", frame(TEXT, b"\xff\xfe"), 1007),
        ("bytes that are not UTF-8", frame(BINARY, b"\xff\xfe"), 1007),
        ("a message that is too large", big, 1009),
        ("a message that is too large, in parts", fragments, 1009),
        ("the announcement of a tebibyte", vec![0x81, 0xff, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0], 1009),
    ] {
        let mut frames = Frames::open(node.http_port()).unwrap();
        // The node may have hung up before it was all sent.
        let _ = frames.send_bytes(&bytes);
        let end = frames.end().unwrap();
        assert_eq!(end.as_ref().map(|(code, _)| *code), Some(code), "{what}: {end:?}");
        if code == 1009 {
            assert!(end.unwrap().1.contains("message_bytes_max"), "the limit is named");
        }
    }
    // JSON in a binary frame is taken as what it is.
    let mut frames = Frames::open(node.http_port()).unwrap();
    frames.send_bytes(&frame(BINARY, hello("binary").to_string().as_bytes())).unwrap();
    assert_eq!(text(&mut frames)["type"], "welcome");
    check_well(&mut node);
}

#[test]
fn a_close_is_answered() {
    let node = node();
    let mut frames = Peer::login(&node).frames;
    frames.send_bytes(&frame(CLOSE, &1000u16.to_be_bytes())).unwrap();
    assert_eq!(frames.end().unwrap().map(|(code, _)| code), Some(1000));
}

/// Probes come for as long as a node lives; each gives back the place that it took among the connections.
#[test]
fn plain_requests_leave_nothing_behind() {
    let config = "[limits]\nsessions_max = 4\n".to_owned();
    let node = Node::start(NodeOptions { config, ..NodeOptions::default() });
    for count in 1..=20 {
        // The place is given back a moment after the answer.
        let answered = until(PATIENCE, || {
            raw::get(node.http_port(), "/health").is_ok_and(|answer| answer.status == 200)
        });
        assert!(answered, "request {count} is not answered");
    }
}

/// Every message of the protocol with all its fields.
fn messages() -> Vec<Value> {
    let method =
        json!({"id": 1, "name": "M", "flags": {"streaming": true}, "version": 1, "object_types": ["a"]});
    let mut messages = vec![hello("again")];
    for (domain, kind, fields) in [
        ("global", "join", json!({"destination": "agm", "restrictions": null})),
        ("global", "leave", json!({"destination": "bus", "reason": "r", "reason_uri": "u"})),
        ("global", "create-token", json!({})),
        (
            "global",
            "create-context",
            json!({"name": "n", "data": {"a": 1}, "lifetime": "retained", "read_permissions": null}),
        ),
        ("global", "subscribe-context", json!({"context_id": "c-1", "name": "n"})),
        ("global", "unsubscribe-context", json!({"context_id": "c-1"})),
        (
            "global",
            "update-context",
            json!({"context_id": "c-1", "delta": {"added": {"b": 1}, "updated": {"a": {"c": 2}}, "removed": ["d"], "commands": [{"type": "set", "path": "a.b", "value": 1}]}}),
        ),
        ("global", "destroy-context", json!({"context_id": "c-1", "reason": "r"})),
        ("context", "create-context", json!({"name": "o", "data": {}, "lifetime": "ownership"})),
        ("agm", "register", json!({"methods": [method]})),
        ("agm", "unregister", json!({"methods": [1]})),
        (
            "agm",
            "call",
            json!({"server_id": "p-1", "method_id": 1, "arguments": [1], "arguments_kv": {"a": 1}, "context": {}}),
        ),
        ("agm", "yield", json!({"invocation_id": "r-1", "result": {"a": 1}})),
        ("agm", "error", json!({"request_id": "r-1", "reason": "r", "reason_uri": "u", "context": {}})),
        ("agm", "subscribe", json!({"server_id": "p-1", "method_id": 1, "arguments_kv": {}, "flags": {}})),
        ("agm", "unsubscribe", json!({"subscription_id": "r-1", "reason": "r"})),
        ("agm", "accepted", json!({"subscription_id": "r-1", "stream_id": "s"})),
        ("agm", "publish", json!({"stream_id": "s", "sequence": 1, "snapshot": false, "data": {}})),
        ("agm", "post", json!({"subscription_id": "r-1", "sequence": 1, "snapshot": false, "data": {}})),
        ("agm", "drop-subscription", json!({"subscription_id": "r-1", "reason": "r"})),
        ("bus", "subscribe", json!({"topic": "a.*", "routing_key": "k"})),
        ("bus", "unsubscribe", json!({"subscription_id": "r-1"})),
        (
            "bus",
            "publish",
            json!({"topic": "a.b", "routing_key": "k", "target_identity": {"application": "x"}, "data": {"a": 1}}),
        ),
        ("metrics", "define", json!({"metrics": []})),
        ("metrics", "publish", json!({"values": []})),
        ("activity", "create", json!({"activity_type": "a"})),
        ("activity", "subscribe", json!({"activity_types": []})),
    ] {
        let mut message = json!({"domain": domain, "type": kind, "request_id": "q"});
        message.as_object_mut().unwrap().extend(fields.as_object().unwrap().clone());
        messages.push(message);
    }
    messages
}

/// Replaces every member of every message, however deep, by values of every type.
#[test]
fn fields_of_every_wrong_type() {
    let mut node = node();
    let long = "x".repeat(2_000);
    let wrong = [
        json!(null),
        json!(true),
        json!(-1),
        json!(1.5e300),
        json!(u64::MAX),
        json!(""),
        json!("\u{0}"),
        json!(long),
        json!([]),
        json!([[null]]),
        json!({}),
        json!({"": {"a": []}}),
    ];
    let mut count = 0;
    for message in messages() {
        let mut peer = Peer::login(&node);
        for pointer in pointers(&message) {
            for value in &wrong {
                let mut message = message.clone();
                *message.pointer_mut(&pointer).unwrap() = value.clone();
                peer.send(&message);
                count += 1;
            }
            assert!(peer.fenced().is_some(), "{pointer} of {message} ends the connection");
        }
    }
    assert!(count > 1_500, "{count}");
    check_well(&mut node);
}

fn pointers(value: &Value) -> Vec<String> {
    let inner: Vec<(String, &Value)> = match value {
        Value::Object(members) => members.iter().map(|(key, value)| (key.clone(), value)).collect(),
        Value::Array(elements) => {
            elements.iter().enumerate().map(|(index, value)| (index.to_string(), value)).collect()
        }
        _ => Vec::new(),
    };
    let below = |(key, value): (String, &Value)| {
        let further: Vec<_> = pointers(value).into_iter().map(|rest| format!("/{key}{rest}")).collect();
        std::iter::once(format!("/{key}")).chain(further)
    };
    inner.into_iter().flat_map(below).collect()
}

#[test]
fn frames_with_damage() {
    const FRAMES: usize = 20_000;
    const PER_CONNECTION: usize = 50;
    let mut node = node();
    let messages = messages();
    let mut random = Random(0x9e37_79b9_7f4a_7c15);
    let (mut answered, mut hung_up) = (0, 0);
    while answered < FRAMES {
        let mut peer = Peer::login(&node);
        let mut bytes = Vec::new();
        for _ in 0..PER_CONNECTION {
            let mut message = messages[random.below(messages.len())].clone();
            // Mostly one's own id, or nothing would get past the door.
            message["peer_id"] = peer.id.as_str().into();
            let mut text = message.to_string().into_bytes();
            for _ in 0..=random.below(3) {
                damage(&mut text, &mut random);
            }
            if random.below(300) != 0 {
                // What is not UTF-8 ends the connection, and the rest would not be read.
                text = String::from_utf8_lossy(&text).into_owned().into_bytes();
            }
            bytes.extend(frame(TEXT, &text));
        }
        if random.below(8) == 0 {
            // The framing suffers, too.
            damage(&mut bytes, &mut random);
            let _ = peer.frames.send_bytes(&bytes);
            continue;
        }
        let _ = peer.frames.send_bytes(&bytes);
        match peer.fenced() {
            Some(_) => answered += PER_CONNECTION,
            None => hung_up += 1,
        }
        assert!(node.is_alive(), "dead after {answered} frames");
    }
    println!("{answered} damaged frames were read to the end; {hung_up} connections were closed before");
    check_well(&mut node);
}

/// Changes some bytes, as a bad line, a bad programmer or a bad person would.
fn damage(bytes: &mut Vec<u8>, random: &mut Random) {
    const TOKENS: [&[u8]; 16] = [
        b"null",
        b"{",
        b"}",
        b"[",
        b"]",
        b"\"",
        b"\\u0000",
        b"\\ud800",
        b"-",
        b"1e999",
        b",",
        b":",
        b"[[[[[[[[",
        b"\xff",
        b"\xc3\xa9",
        b"99999999999999999999",
    ];
    if bytes.is_empty() {
        return;
    }
    let at = random.below(bytes.len());
    let end = (at + random.below(24)).min(bytes.len());
    match random.below(6) {
        0 => bytes[at] ^= 1 << random.below(8),
        1 => drop(bytes.drain(at..end)),
        2 => {
            let copy = bytes[at..end].to_vec();
            let to = random.below(bytes.len());
            bytes.splice(to..to, copy);
        }
        3 => drop(bytes.splice(at..end, TOKENS[random.below(TOKENS.len())].iter().copied())),
        4 => drop(bytes.splice(at..at, TOKENS[random.below(TOKENS.len())].iter().copied())),
        _ => bytes[at] = b' ' + random.below(95) as u8,
    }
}

/// A sequence that is the same in every run (xorshift).
struct Random(u64);

impl Random {
    fn below(&mut self, end: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 >> 11) as usize % end
    }
}

#[test]
fn strangers_at_the_mesh_port() {
    let mut node = node();
    let socket = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    let mut random = Random(7);
    for _ in 0..3_000 {
        let mut datagram: Vec<u8> = (0..random.below(1_400)).map(|_| random.below(256) as u8).collect();
        // Half of them look like the beginning of a connection.
        if let (0, Some(head)) = (random.below(2), datagram.first_chunk_mut()) {
            *head = [0xc0, 0, 0, 0, 1];
        }
        let _ = socket.send_to(&datagram, (Ipv4Addr::LOCALHOST, node.mesh_port()));
    }
    stranger_dials(node.mesh_port());
    assert_eq!(node.ask_json("peers"), json!([]));
    check_well(&mut node);

    // The authority still lets others in.
    let join = Some(node.token());
    let other = Node::start(NodeOptions { name: "other".into(), join, ..NodeOptions::default() });
    assert!(until(mesh_tests::PATIENCE, || node.ask_json("peers")[0]["state"] == "up"));
    drop(other);
}
