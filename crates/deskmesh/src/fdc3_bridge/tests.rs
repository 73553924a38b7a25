//! Nodes that hold a bridge and join one, and agents of another make, on sockets of this machine.

use std::net::Ipv4Addr;

use futures_util::{SinkExt as _, StreamExt as _};
use hyper::Request;
use proto_bridge::{Exchange, MessageType};
use tokio::net::{TcpListener, TcpStream};
use tokio_tungstenite::tungstenite::Message;

use super::seek::{Socket, next};
use super::*;
use crate::config::Flags;

const PATIENCE: Duration = Duration::from_secs(20);

async fn free_port() -> u16 {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
    listener.local_addr().unwrap().port()
}

fn config(port: u16, name: &'static str) -> BridgeConfig {
    BridgeConfig {
        node: Config::load(Flags::default()).unwrap().config,
        ports: port..=port,
        name: Text::from_static(name),
        implementation: Json::from_static(r#"{"fdc3Version":"2.2","provider":"deskmesh"}"#),
        settings: BridgeSettings::default(),
        channels: Arc::new(ChannelsState::default),
        tokens: None,
    }
}

/// The caller's end of a node.
struct Node {
    handle: BridgeHandle,
    events: mpsc::Receiver<BridgeEvent>,
}

impl Node {
    fn start(config: BridgeConfig) -> Self {
        let (handle, events) = start(config);
        Self { handle, events }
    }

    async fn event(&mut self) -> BridgeEvent {
        tokio::time::timeout(PATIENCE, self.events.recv()).await.unwrap().unwrap()
    }

    async fn joined(&mut self) -> (String, Role) {
        loop {
            if let BridgeEvent::Joined { name, role, .. } = self.event().await {
                return (name.to_string(), role);
            }
        }
    }

    /// Returns the next message of that type, past others.
    async fn message(&mut self, message_type: &MessageType) -> BridgeMessage {
        loop {
            match self.event().await {
                BridgeEvent::Message(message) if message.message_type == *message_type => return message,
                _ => {}
            }
        }
    }
}

/// An agent of another make.
struct Fake(Socket);

impl Fake {
    async fn connect(port: u16) -> Self {
        let stream = TcpStream::connect((Ipv4Addr::LOCALHOST, port)).await.unwrap();
        let url = format!("ws://127.0.0.1:{port}/");
        let (socket, _) = tokio_tungstenite::client_async(url, stream).await.unwrap();
        let mut fake = Self(socket);
        assert_eq!(fake.read().await.message_type, MessageType::Hello);
        fake
    }

    async fn join(port: u16, name: &str) -> Self {
        let mut fake = Self::connect(port).await;
        fake.write(format!(
            r#"{{"type":"handshake","payload":{{"requestedName":"{name}","implementationMetadata":{{"provider":"fake"}},"channelsState":null}},"meta":{{"requestUuid":"{name}"}}}}"#
        ))
        .await;
        while fake.message(&MessageType::ConnectedAgentsUpdate).await.meta.request.as_deref() != Some(name) {}
        fake
    }

    async fn read(&mut self) -> BridgeMessage {
        let frame = tokio::time::timeout(PATIENCE, next(Some(&mut self.0))).await.unwrap().unwrap();
        BridgeMessage::decode(&frame).unwrap()
    }

    async fn message(&mut self, message_type: &MessageType) -> BridgeMessage {
        loop {
            let message = self.read().await;
            if message.message_type == *message_type {
                return message;
            }
        }
    }

    async fn write(&mut self, text: String) {
        self.0.send(Message::text(text)).await.unwrap();
    }
}

#[tokio::test]
async fn two_agents_and_the_node() {
    let port = free_port().await;
    let mut node = Node::start(config(port, "node"));
    assert_eq!(node.joined().await, ("node".to_owned(), Role::Bridge));
    let mut a = Fake::join(port, "a").await;
    let mut b = Fake::join(port, "b").await;

    // The node asks both.
    let find = Exchange::FindInstances;
    let payload = Json::from_static(r#"{"app":{"appId":"x"}}"#);
    node.handle.send(BridgeMessage::request(find, payload, None)).await.unwrap();
    for (agent, app) in [(&mut a, "in-a"), (&mut b, "in-b")] {
        let request = agent.message(&MessageType::Request(find)).await;
        assert_eq!(request.meta.source.unwrap().desktop_agent.as_deref(), Some("node"));
        let id = request.meta.request.unwrap();
        agent.write(format!(r#"{{"type":"findInstancesResponse","payload":{{"appIdentifiers":[{{"appId":"x","instanceId":"{app}"}}]}},"meta":{{"requestUuid":"{id}","responseUuid":"r"}}}}"#)).await;
    }
    let answer = node.message(&MessageType::Response(find)).await;
    assert_eq!(
        answer.payload.to_string(),
        r#"{"appIdentifiers":[{"appId":"x","instanceId":"in-a","desktopAgent":"a"},{"appId":"x","instanceId":"in-b","desktopAgent":"b"}]}"#
    );

    // An agent broadcasts: to the node and the other agent, as it was written.
    let payload = r#"{"channelId":"red","context": {"type":"t", "n":1.0}}"#;
    a.write(format!(r#"{{"type":"broadcastRequest","payload":{payload},"meta":{{"requestUuid":"b1"}}}}"#))
        .await;
    let broadcast = MessageType::Request(Exchange::Broadcast);
    assert_eq!(node.message(&broadcast).await.payload.to_string(), payload);
    assert_eq!(b.message(&broadcast).await.payload.to_string(), payload);

    // An agent asks the node, which answers.
    let open = r#"{"app":{"appId":"y","desktopAgent":"node"}}"#;
    b.write(format!(r#"{{"type":"openRequest","payload":{open},"meta":{{"requestUuid":"o1"}}}}"#)).await;
    let request = node.message(&MessageType::Request(Exchange::Open)).await;
    let payload = Json::from_static(r#"{"appIdentifier":{"appId":"y","instanceId":"new"}}"#);
    let answer = BridgeMessage::response(Exchange::Open, request.meta.request.unwrap(), payload);
    node.handle.send(answer).await.unwrap();
    let answer = b.message(&MessageType::Response(Exchange::Open)).await;
    assert_eq!(
        answer.payload.to_string(),
        r#"{"appIdentifier":{"appId":"y","instanceId":"new","desktopAgent":"node"}}"#
    );

    // One leaves without a word.
    drop(a);
    let update = b.message(&MessageType::ConnectedAgentsUpdate).await;
    assert_eq!(update.payload.member("removeAgent").unwrap().to_string(), r#""a""#);
}

#[tokio::test]
async fn a_second_node_joins_and_takes_over() {
    let port = free_port().await;
    let mut first = Node::start(config(port, "node"));
    assert_eq!(first.joined().await.1, Role::Bridge);
    let mut second = Node::start(config(port, "node"));
    assert_eq!(second.joined().await, ("node-2".to_owned(), Role::Agent));
    let find = Exchange::FindIntent;
    let payload = Json::from_static(r#"{"intent":"I"}"#);
    second.handle.send(BridgeMessage::request(find, payload, None)).await.unwrap();
    let request = first.message(&MessageType::Request(find)).await;
    assert_eq!(request.meta.source.unwrap().desktop_agent.as_deref(), Some("node-2"));
    drop(first);
    assert_eq!(second.joined().await, ("node".to_owned(), Role::Bridge));
    Fake::join(port, "a").await;
}

#[tokio::test]
async fn who_is_not_let_in_is_told_and_closed() {
    let port = free_port().await;
    let mut node = Node::start(config(port, "node"));
    node.joined().await;
    let mut fake = Fake::connect(port).await;
    fake.write(r#"{"type":"handshake","payload":{},"meta":{"requestUuid":"h"}}"#.to_owned()).await;
    let refusal = fake.read().await;
    assert_eq!(refusal.message_type, MessageType::AuthenticationFailed);
    let Some(Ok(Message::Close(Some(close)))) = fake.0.next().await else { panic!("no close") };
    assert_eq!(u16::from(close.code), 1008);
    assert!(close.reason.contains("requestedName"), "{}", close.reason);
}

#[tokio::test]
async fn an_agent_that_does_not_read_is_cut_off_and_the_others_go_on() {
    let port = free_port().await;
    let mut config = config(port, "node");
    config.node.limits.session_outbox_bytes_max = 1 << 20;
    let mut node = Node::start(config);
    node.joined().await;
    let _deaf = Fake::join(port, "deaf").await;
    let mut a = Fake::join(port, "a").await;
    let mut b = Fake::join(port, "b").await;
    let text = "x".repeat(100_000);
    let removed = loop {
        a.write(format!(r#"{{"type":"broadcastRequest","payload":{{"channelId":"c","context":{{"type":"t","text":"{text}"}}}},"meta":{{"requestUuid":"b"}}}}"#)).await;
        let message = b.read().await;
        if message.message_type == MessageType::ConnectedAgentsUpdate {
            break message;
        }
    };
    assert_eq!(removed.payload.member("removeAgent").unwrap().to_string(), r#""deaf""#);
}

#[tokio::test]
async fn pages_of_elsewhere_are_refused() {
    let port = free_port().await;
    let mut node = Node::start(config(port, "node"));
    node.joined().await;
    let open = async |origin: &str| {
        let stream = TcpStream::connect((Ipv4Addr::LOCALHOST, port)).await.unwrap();
        let request = Request::builder()
            .uri(format!("ws://127.0.0.1:{port}/"))
            .header("Host", format!("127.0.0.1:{port}"))
            .header("Origin", origin)
            .header("Connection", "Upgrade")
            .header("Upgrade", "websocket")
            .header("Sec-WebSocket-Version", "13")
            .header("Sec-WebSocket-Key", "dGhlIHNhbXBsZSBub25jZQ==")
            .body(())
            .unwrap();
        tokio_tungstenite::client_async(request, stream).await.map(|_| ()).map_err(|error| error.to_string())
    };
    assert!(open("https://evil.example").await.unwrap_err().contains("403"));
    open("http://localhost:3000").await.unwrap();
}

fn tokens(secret: &str) -> Option<Arc<BridgeTokens>> {
    Some(Arc::new(BridgeTokens::new(secret.as_bytes()).unwrap()))
}

const SECRET: &str = "0123456789abcdef0123456789abcdef";

#[tokio::test]
async fn nodes_with_one_secret_meet_and_others_stay_out() {
    let port = free_port().await;
    let mut first = Node::start(BridgeConfig { tokens: tokens(SECRET), ..config(port, "first") });
    assert_eq!(first.joined().await.1, Role::Bridge);
    let mut second = Node::start(BridgeConfig { tokens: tokens(SECRET), ..config(port, "second") });
    assert_eq!(second.joined().await, ("second".to_owned(), Role::Agent));
    // One that has another secret does not believe this bridge, one that has none has nothing to show; each
    // goes on to the next port.
    for of in [tokens("fedcba9876543210fedcba9876543210"), None] {
        let ports = port..=port.saturating_add(100);
        let mut other = Node::start(BridgeConfig { tokens: of, ports, ..config(port, "other") });
        assert_eq!(other.joined().await, ("other".to_owned(), Role::Bridge));
    }
    let token = BridgeTokens::new(SECRET.as_bytes()).unwrap();
    let now_ms = Clock::start().wall_ms();
    let good = token.make(tokens::Audience::Bridge, now_ms).unwrap();
    let handshake = |token: &str| {
        format!(
            r#"{{"type":"handshake","payload":{{"requestedName":"x","implementationMetadata":{{}},"authToken":{token}}},"meta":{{"requestUuid":"h"}}}}"#
        )
    };
    for (token, answer) in [
        ("null".to_owned(), "authToken"),
        (format!("\"{good}\""), ""),
        (format!("\"{good}\""), "shown before"),
        ("\"a.b.c\"".to_owned(), "secret"),
    ] {
        let mut fake = Fake::connect(port).await;
        fake.write(handshake(&token)).await;
        let told = fake.read().await;
        match answer.is_empty() {
            true => assert_eq!(told.message_type, MessageType::ConnectedAgentsUpdate),
            false => {
                assert_eq!(told.message_type, MessageType::AuthenticationFailed);
                let why = told.payload.member("message").unwrap().to_string();
                assert!(why.contains(answer), "{why}");
            }
        }
    }
}
