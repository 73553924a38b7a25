//! A peer that speaks GW3 in raw frames: it does what it is told and nothing by itself.

use std::io;

use serde_json::{Value, json};

use crate::node::Node;
use crate::raw::{Frame, Frames};

/// A logged-in peer that has joined the domains `agm`, `bus` and `context`.
///
/// It answers no pings, and reads only when it is asked for something.
#[derive(Debug)]
pub struct RawPeer {
    /// Its connection.
    pub frames: Frames,
    /// Its `peer_id`.
    pub id: String,
    next_request: u64,
}

impl RawPeer {
    /// Logs in under this application name and user.
    ///
    /// # Panics
    ///
    /// If it is not welcome.
    #[must_use]
    pub fn login(node: &Node, application: &str, user: &str) -> Self {
        let mut frames = Frames::open(node.http_port()).expect("a WebSocket can be opened");
        frames.send(hello(application, user).to_string().as_bytes()).expect("the node reads");
        let mut peer = Self { frames, id: String::new(), next_request: 0 };
        let welcome = peer.read().expect("a welcome");
        assert_eq!(welcome["type"], "welcome", "{welcome}");
        welcome["peer_id"].as_str().expect("a peer id").clone_into(&mut peer.id);
        for domain in ["agm", "bus", "context"] {
            let answer = peer.ask(json!({"domain": "global", "type": "join", "destination": domain}));
            assert_eq!(answer["type"], "success", "{answer}");
        }
        peer
    }

    /// Returns the text of a message of this peer.
    #[must_use]
    pub fn text(&self, mut message: Value) -> String {
        message["peer_id"] = self.id.as_str().into();
        message.to_string()
    }

    /// Sends a message.
    ///
    /// # Panics
    ///
    /// If the node does not read.
    pub fn send(&mut self, message: Value) {
        let text = self.text(message);
        self.frames.send(text.as_bytes()).expect("the node reads");
    }

    /// Sends a request and returns its answer; what comes before that is lost.
    ///
    /// # Panics
    ///
    /// If there is none.
    pub fn ask(&mut self, mut message: Value) -> Value {
        self.next_request += 1;
        let request = format!("q-{}", self.next_request);
        message["request_id"] = request.as_str().into();
        self.send(message);
        self.wait(|answer| answer["request_id"] == request)
    }

    /// Returns the next message that is looked for; what comes before that is lost.
    ///
    /// # Panics
    ///
    /// If the node hangs up or says nothing for long.
    pub fn wait(&mut self, wanted: impl Fn(&Value) -> bool) -> Value {
        loop {
            let message = self.read().unwrap_or_else(|end| panic!("{end}"));
            if wanted(&message) {
                return message;
            }
        }
    }

    /// Returns the next message.
    ///
    /// # Errors
    ///
    /// If the node hangs up or says nothing for long.
    pub fn read(&mut self) -> io::Result<Value> {
        match self.frames.read()? {
            Frame::Text(text) => serde_json::from_str(&text).map_err(io::Error::other),
            Frame::Close(how) => Err(io::Error::other(format!("closed: {how:?}"))),
        }
    }
}

/// Returns the message that logs in.
#[must_use]
pub fn hello(application: &str, user: &str) -> Value {
    json!({
        "domain": "global", "type": "hello", "request_id": "hello",
        "identity": {"application": application},
        "authentication": {"method": "secret", "login": user, "secret": "x"},
    })
}
