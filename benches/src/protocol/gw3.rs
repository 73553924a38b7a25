//! GW3 conversations: log in, join, register or subscribe, then hand over prebuilt frames.

use std::collections::VecDeque;
use std::net::SocketAddr;

use anyhow::{Context as _, Result, bail};
use memchr::memmem::Finder;
use serde_json::{Value, json};

use super::{
    Answer, Endpoints, Fanout, Invoke, Marker, NUMBER, Numbered, PAYLOAD_MARKER, Peer, SUBSCRIBERS, Wire,
    payload,
};
use crate::socket::Socket;

pub(super) async fn invoke(endpoints: Endpoints, run: u32, plain: &str) -> Result<Invoke> {
    let mut callee = Session::login(endpoints.far, run, "callee").await?;
    callee.join_agm().await?;
    callee.register("Bench.Echo", false).await?;
    let mut caller = Session::login(endpoints.near, run, "caller").await?;
    caller.join_agm().await?;
    let server_id = caller.wait_for_method("Bench.Echo").await?;

    let call = format!(
        r#"{{"type":"call","server_id":{server_id},"method_id":"0","arguments_kv":{{"d":"{plain}"}},"request_id":"{NUMBER}","domain":"agm","peer_id":{}}}"#,
        caller.peer_id
    );
    Ok(Invoke {
        call: Numbered::new(call)?,
        reply: Marker::new(r#""request_id":""#, Some(FAILURE)),
        answer: Answer::Yield {
            id: Box::new(Finder::new(r#""invocation_id":""#)),
            head: br#"{"type":"yield","invocation_id":""#.to_vec(),
            tail: format!(
                r#"","peer_id":{},"result":{{"d":"{plain}"}},"request_id":"y","domain":"agm"}}"#,
                callee.peer_id
            )
            .into_bytes(),
            scratch: Vec::new(),
        },
        caller: caller.peer,
        callee: callee.peer,
    })
}

pub(super) async fn stream(endpoints: Endpoints, run: u32) -> Result<Fanout> {
    let mut publisher = Session::login(endpoints.near, run, "publisher").await?;
    publisher.join_agm().await?;
    publisher.register("Bench.Ticks", true).await?;
    let mut subscribers = Vec::new();
    for number in 0..SUBSCRIBERS {
        let mut subscriber = Session::login(endpoints.far, run, &format!("subscriber-{number}")).await?;
        subscriber.join_agm().await?;
        let server_id = subscriber.wait_for_method("Bench.Ticks").await?;
        subscriber
            .send(json!({"domain": "agm", "type": "subscribe", "server_id": server_id, "method_id": "0",
                "arguments_kv": {}, "request_id": "s", "peer_id": subscriber.peer_id}))
            .await?;
        let interest = publisher.wait("add-interest", |_| true).await?;
        publisher
            .send(json!({"domain": "agm", "type": "accepted", "subscription_id": interest["subscription_id"],
                "stream_id": "0", "request_id": "a", "peer_id": publisher.peer_id}))
            .await?;
        subscriber.wait("subscribed", |_| true).await?;
        subscribers.push(subscriber.peer);
    }
    let message = format!(
        r#"{{"type":"publish","stream_id":"0","data":{{"d":"{}"}},"request_id":"p","domain":"agm","peer_id":{}}}"#,
        payload(),
        publisher.peer_id
    );
    Ok(Fanout {
        publisher: publisher.peer,
        subscribers,
        message: Numbered::new(message)?,
        seen: Marker::new(PAYLOAD_MARKER, Some(FAILURE)),
    })
}

pub(super) async fn context(endpoints: Endpoints, run: u32) -> Result<Fanout> {
    let mut publisher = Session::login(endpoints.near, run, "publisher").await?;
    let name = format!("bench-{run}");
    publisher
        .send(json!({"domain": "global", "type": "create-context", "name": name, "data": {"v": ""},
            "lifetime": "retained", "request_id": "c", "peer_id": publisher.peer_id}))
        .await?;
    let context_id = publisher.wait("context-created", |_| true).await?["context_id"].take();
    let mut subscribers = Vec::new();
    for number in 0..SUBSCRIBERS {
        let mut subscriber = Session::login(endpoints.far, run, &format!("subscriber-{number}")).await?;
        let context_id =
            subscriber.wait("context-added", |added| added["name"] == *name).await?["context_id"].take();
        subscriber
            .send(json!({"domain": "global", "type": "subscribe-context", "context_id": context_id,
                "request_id": "s", "peer_id": subscriber.peer_id}))
            .await?;
        subscriber.wait("subscribed-context", |_| true).await?;
        subscribers.push(subscriber.peer);
    }
    let message = format!(
        r#"{{"type":"update-context","domain":"global","context_id":{context_id},"delta":{{"commands":[{{"type":"set","path":"v","value":"{}"}}]}},"request_id":"u","peer_id":{}}}"#,
        payload(),
        publisher.peer_id
    );
    Ok(Fanout {
        publisher: publisher.peer,
        subscribers,
        message: Numbered::new(message)?,
        seen: Marker::new(PAYLOAD_MARKER, Some(FAILURE)),
    })
}

/// A logged-in connection before the load begins, when parsing JSON still costs nothing that is measured.
struct Session {
    peer: Peer,
    peer_id: Value,
    waiting: VecDeque<Value>,
}

impl Session {
    async fn login(address: SocketAddr, run: u32, application: &str) -> Result<Self> {
        let socket = Socket::connect(address, "/gw").await?;
        let peer = Peer::new(socket, Wire::Frames);
        let mut session = Self { peer, peer_id: Value::Null, waiting: VecDeque::new() };
        session
            .send(json!({"domain": "global", "type": "hello", "request_id": "h",
                "identity": {"application": application, "applicationName": application, "process": std::process::id()},
                "authentication": {"method": "secret", "login": format!("bench-{run}"), "secret": "bench"}}))
            .await?;
        session.peer_id = session.wait("welcome", |_| true).await?["peer_id"].take();
        Ok(session)
    }

    async fn join_agm(&mut self) -> Result<()> {
        self.send(json!({"domain": "global", "type": "join", "destination": "agm", "request_id": "join",
            "peer_id": self.peer_id}))
            .await?;
        self.wait("success", |reply| reply["request_id"] == "join").await?;
        Ok(())
    }

    async fn register(&mut self, name: &str, streaming: bool) -> Result<()> {
        self.send(
            json!({"domain": "agm", "type": "register", "request_id": "register", "peer_id": self.peer_id,
            "methods": [{"id": "0", "name": name, "flags": {"metadata": {}, "streaming": streaming}}]}),
        )
        .await?;
        self.wait("success", |reply| reply["request_id"] == "register").await?;
        Ok(())
    }

    /// Waits until somebody offers the method, and returns who.
    async fn wait_for_method(&mut self, name: &str) -> Result<Value> {
        let offers = |added: &Value| {
            added["methods"]
                .as_array()
                .is_some_and(|methods| methods.iter().any(|method| method["name"] == name))
        };
        Ok(self.wait("methods-added", offers).await?["server_id"].take())
    }

    async fn send(&mut self, message: Value) -> Result<()> {
        self.peer.outbox.push(message.to_string().as_bytes());
        self.peer.outbox.flush().await
    }

    /// Takes the first message of that type that `matches`, now or when it comes; others stay for later.
    async fn wait(&mut self, kind: &str, matches: impl Fn(&Value) -> bool) -> Result<Value> {
        let take = |waiting: &mut VecDeque<Value>| {
            let at = waiting.iter().position(|message| message["type"] == kind && matches(message))?;
            waiting.remove(at)
        };
        let receive = async {
            loop {
                if let Some(message) = take(&mut self.waiting) {
                    return Ok(message);
                }
                if let Some(error) = self.waiting.iter().find(|message| message["type"] == "error") {
                    bail!("instead of {kind} the server answered {error}");
                }
                let waiting = &mut self.waiting;
                let batch = self.peer.inbox.batch(|message| {
                    waiting.push_back(serde_json::from_slice(message)?);
                    Ok(())
                });
                batch.await?;
            }
        };
        tokio::time::timeout(crate::load::PATIENCE, receive)
            .await
            .with_context(|| format!("no {kind} came"))?
    }
}

const FAILURE: &str = r#""type":"error""#;
