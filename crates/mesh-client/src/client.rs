//! Connecting, the handle, and closing.

use std::sync::Arc;
use std::time::Duration;

use futures_util::{SinkExt as _, StreamExt as _};
use serde::Serialize;
use tokio::sync::mpsc;
use tokio::task::AbortHandle;
use tokio::time::timeout;
use tokio_tungstenite::connect_async_with_config;
use tokio_tungstenite::tungstenite::protocol::WebSocketConfig;
use tokio_tungstenite::tungstenite::{Error as SocketError, Message};

use crate::connection::{Connection, Effect, Reply, Socket, read, write};
use crate::error::{ConnectError, RequestError};
use crate::identity::{Credentials, Identity, Instance};
use crate::limits::{CONNECT_TIMEOUT, FRAMES_LEN_MAX, MESSAGE_BYTES_MAX};
use crate::message::{Authentication, Domain, Hello, Incoming, Membership, Outgoing, text};

/// A connection to the mesh; clones share it.
#[derive(Clone, Debug)]
pub struct Client {
    pub(crate) connection: Arc<Connection>,
    pub(crate) timeouts: Timeouts,
    /// Held for its end: the last handle takes the connection with it.
    _tasks: Arc<Tasks>,
}

/// How patient a client is.
#[derive(Clone, Copy, Debug)]
pub struct Timeouts {
    /// How long to wait for a provider to appear.
    pub wait: Duration,
    /// How long to wait for an answer.
    pub reply: Duration,
}

impl Default for Timeouts {
    fn default() -> Self {
        Self { wait: Duration::from_secs(30), reply: Duration::from_secs(30) }
    }
}

impl Client {
    /// Connects to a node, logs in and joins its methods, streams and topics.
    ///
    /// When this returns, everything that was offered before is known.
    ///
    /// # Errors
    ///
    /// If no node is there, or it does not let the user in.
    pub async fn connect(
        url: &str,
        credentials: Credentials,
        identity: Identity,
    ) -> Result<Self, ConnectError> {
        let user = credentials.user.clone();
        let (own, socket) =
            timeout(CONNECT_TIMEOUT, login(url, credentials, identity)).await.unwrap_or_else(|_| {
                Err(ConnectError::Timeout { url: url.to_owned(), user, after: CONNECT_TIMEOUT })
            })?;

        let (frames_tx, frames_rx) = mpsc::channel(FRAMES_LEN_MAX);
        let connection = Arc::new(Connection::new(own, frames_tx));
        let (sink, stream) = socket.split();
        let writer = tokio::spawn({
            let connection = connection.clone();
            async move {
                if let Err(error) = write(sink, frames_rx).await {
                    connection.shut(&error.to_string());
                }
            }
        });
        let reader = tokio::spawn({
            let connection = connection.clone();
            async move {
                let why = read(&connection, stream).await;
                connection.shut(&why);
            }
        });
        let tasks =
            Tasks { connection: connection.clone(), handles: [writer.abort_handle(), reader.abort_handle()] };
        let client = Self { connection, timeouts: Timeouts::default(), _tasks: Arc::new(tasks) };
        client.membership("join", Domain::Agm, client.timeouts.reply).await?;
        client.membership("join", Domain::Bus, client.timeouts.reply).await?;
        Ok(client)
    }

    /// Returns this app as the node describes it to others.
    #[must_use]
    pub fn instance(&self) -> &Instance {
        &self.connection.own
    }

    /// Returns a handle on the same connection with another patience.
    #[must_use]
    pub fn with_timeouts(&self, timeouts: Timeouts) -> Self {
        Self { timeouts, ..self.clone() }
    }

    /// Leaves the mesh and closes the connection; others are told at once.
    pub async fn close(self) {
        for domain in [Domain::Bus, Domain::Agm] {
            // A node that does not answer will notice the closed socket.
            let _ = self.membership("leave", domain, CLOSE_TIMEOUT).await;
        }
        self.connection.send_close().await;
        let _ = timeout(CLOSE_TIMEOUT, self.connection.closed()).await;
        self.connection.shut("this app closed it");
    }

    /// Waits until the connection has ended, and says why.
    pub async fn closed(&self) -> String {
        self.connection.closed().await.to_string()
    }

    pub(crate) async fn request(
        &self,
        what: &'static str,
        domain: Domain,
        kind: &str,
        body: impl Serialize,
        effect: Effect,
    ) -> Result<Reply, RequestError> {
        self.connection.request(what, domain, kind, body, effect, self.timeouts.reply).await
    }

    async fn membership(
        &self,
        kind: &'static str,
        destination: Domain,
        patience: Duration,
    ) -> Result<(), RequestError> {
        let body = Membership { destination };
        self.connection.request(kind, Domain::Global, kind, body, Effect::None, patience).await.map(drop)
    }
}

/// The tasks of a connection.
#[derive(Debug)]
struct Tasks {
    connection: Arc<Connection>,
    handles: [AbortHandle; 2],
}

impl Drop for Tasks {
    fn drop(&mut self) {
        self.connection.shut("its last handle was dropped");
        for handle in &self.handles {
            handle.abort();
        }
    }
}

/// Opens the socket and exchanges `hello` and `welcome`.
async fn login(
    url: &str,
    credentials: Credentials,
    identity: Identity,
) -> Result<(Instance, Socket), ConnectError> {
    let config = WebSocketConfig::default()
        .max_message_size(Some(MESSAGE_BYTES_MAX))
        .max_frame_size(Some(MESSAGE_BYTES_MAX));
    let disable_nagle = true;
    let (mut socket, _) =
        connect_async_with_config(url, Some(config), disable_nagle).await.map_err(|error| match error {
            SocketError::Url(_) => ConnectError::Url { url: url.to_owned(), source: Box::new(error) },
            _ => unreachable(url, error),
        })?;

    let Credentials { user, secret } = credentials;
    let hello = Outgoing {
        domain: Domain::Global,
        kind: "hello",
        request_id: "0",
        peer_id: None,
        body: Hello {
            identity: identity.into_map(),
            authentication: Authentication { method: "secret", login: &user, secret: &secret },
        },
    };
    let protocol = |what: String| ConnectError::Protocol { url: url.to_owned(), what };
    let hello = serde_json::to_string(&hello).map_err(|error| protocol(error.to_string()))?;
    socket.send(Message::text(hello)).await.map_err(|error| unreachable(url, error))?;

    while let Some(message) = socket.next().await {
        let message = message.map_err(|error| unreachable(url, error))?;
        let Message::Text(message) = message else { continue };
        let message: Incoming<'_> = serde_json::from_str(&message)
            .map_err(|error| protocol(format!("its answer to the login cannot be read ({error})")))?;
        match &*message.kind {
            "welcome" => {
                let peer_id = text(&message.peer_id).to_owned();
                let identity = message.resolved_identity.unwrap_or_default();
                return Ok((Instance::new(peer_id, true, identity), socket));
            }
            "error" => {
                return Err(ConnectError::Login {
                    url: url.to_owned(),
                    user,
                    reason: text(&message.reason).to_owned(),
                    reason_uri: text(&message.reason_uri).to_owned(),
                });
            }
            _ => {}
        }
    }
    Err(protocol("it hung up during the login".to_owned()))
}

fn unreachable(url: &str, error: SocketError) -> ConnectError {
    ConnectError::Unreachable { url: url.to_owned(), source: Box::new(error) }
}

const CLOSE_TIMEOUT: Duration = Duration::from_secs(2);

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};
    use tokio::net::{TcpListener, TcpStream};
    use tokio_tungstenite::{WebSocketStream, accept_async};

    use super::*;
    use crate::{ContextChange, InvokeError, MethodDefinition, Target};

    /// A gateway with one connection, one user and no checks; enough to see both sides of each exchange.
    struct FakeGateway {
        socket: WebSocketStream<TcpStream>,
    }

    impl FakeGateway {
        /// Listens, and connects a client to it.
        async fn with_client() -> (Self, Client) {
            let (url, gateway) = Self::listen().await;
            let credentials = Credentials { user: "ann".to_owned(), secret: "s".to_owned() };
            let connect = Client::connect(&url, credentials, Identity::new("test"));
            let login = async {
                let mut gateway = gateway.await;
                gateway
                    .answer(
                        "hello",
                        &[json!({"type": "welcome", "domain": "global", "peer_id": "p-1",
                    "resolved_identity": {"application": "test", "instance": "i-1"}})],
                    )
                    .await;
                gateway.answer("join", &[json!({"type": "success", "domain": "agm"})]).await;
                gateway.answer("join", &[json!({"type": "success", "domain": "bus"})]).await;
                gateway
            };
            let (client, gateway) = tokio::join!(connect, login);
            (gateway, client.unwrap())
        }

        async fn listen() -> (String, impl Future<Output = Self>) {
            let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
            let url = format!("ws://{}", listener.local_addr().unwrap());
            let accept = async move {
                let (stream, _) = listener.accept().await.unwrap();
                Self { socket: accept_async(stream).await.unwrap() }
            };
            (url, accept)
        }

        /// Takes the next message, which has to be of that type, and sends the answers with its request id.
        async fn answer(&mut self, kind: &str, answers: &[Value]) -> Value {
            let Some(Ok(Message::Text(text))) = self.socket.next().await else { panic!("no {kind}") };
            let request: Value = serde_json::from_str(&text).unwrap();
            assert_eq!(request["type"], kind, "{request}");
            for answer in answers {
                let mut answer = answer.clone();
                answer["request_id"] = request["request_id"].clone();
                self.socket.send(Message::text(answer.to_string())).await.unwrap();
            }
            request
        }
    }

    #[tokio::test]
    async fn a_refused_login_says_who_and_why() {
        let (url, gateway) = FakeGateway::listen().await;
        let credentials = Credentials { user: "ann".to_owned(), secret: "s".to_owned() };
        let refuse = async {
            let refusal =
                json!({"type": "error", "reason": "unknown user", "reason_uri": "x", "peer_id": null});
            gateway.await.answer("hello", &[refusal]).await;
        };
        let (client, ()) = tokio::join!(Client::connect(&url, credentials, Identity::new("test")), refuse);
        let error = client.unwrap_err().to_string();
        assert_eq!(error, format!("the node at {url} refused \"ann\": unknown user; check user and secret"));
    }

    #[tokio::test]
    async fn a_panicking_handler_answers_its_caller() {
        let (mut gateway, client) = FakeGateway::with_client().await;
        let register = client.register(MethodDefinition::new("Boom"), |call| async move {
            assert_eq!(call.args["fine"], true, "this is the panic of the test");
            Ok(json!(7))
        });
        let success = [json!({"type": "success", "domain": "agm"})];
        let (registered, request) = tokio::join!(register, gateway.answer("register", &success));
        registered.unwrap();
        let invoke = |fine: bool| {
            json!({"type": "invoke", "domain": "agm", "invocation_id": "r-1", "caller_id": "p-9",
                "method_id": request["methods"][0]["id"], "arguments_kv": {"fine": fine}})
        };
        gateway.socket.send(Message::text(invoke(false).to_string())).await.unwrap();
        let error = gateway.answer("error", &[]).await;
        assert_eq!(
            (&error["request_id"], &error["reason"]),
            (&json!("r-1"), &json!("the method's handler panicked"))
        );
        gateway.socket.send(Message::text(invoke(true).to_string())).await.unwrap();
        assert_eq!(gateway.answer("yield", &[]).await["result"], json!({"_value": 7}));
    }

    #[tokio::test]
    async fn the_end_of_the_connection_ends_everything() {
        let (mut gateway, client) = FakeGateway::with_client().await;
        let mut changes = client.contexts().subscribe("selection");
        gateway
            .socket
            .send(Message::text(
                r#"{"type":"context-added","domain":"global","context_id":"c-1","name":"selection"}"#,
            ))
            .await
            .unwrap();
        let snapshot =
            json!({"type": "subscribed-context", "domain": "global", "context_id": "c-1", "data": {"a": 1}});
        gateway.answer("subscribe-context", &[snapshot]).await;
        let Some(ContextChange::Updated { data, .. }) = changes.next().await else { panic!("no snapshot") };
        assert_eq!(*data, json!({"a": 1}));

        let waiting = client.invoke("Nobody.Offers.This", json!({}), Target::Best);
        let hang_up = async move { drop(gateway) };
        let (outcome, ()) = tokio::join!(waiting, hang_up);
        assert!(matches!(outcome, Err(InvokeError::Request(RequestError::Closed { .. }))), "{outcome:?}");
        assert!(changes.next().await.is_none());
        assert!(matches!(client.contexts().set("x", json!({})).await, Err(RequestError::Closed { .. })));
    }
}
