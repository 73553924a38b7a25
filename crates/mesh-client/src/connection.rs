//! The connection of a client: its two tasks, its requests, and everything that is known because of it.
//!
//! One task writes, one reads. The reader changes [`State`] under its lock and never waits for anybody, so
//! that what the node says is seen in the order in which it was said. A reply that changes state (the
//! snapshot of a context, the id of a subscription) has its [`Effect`] there as well, before the next
//! message is looked at.

use std::collections::{BTreeMap, HashMap};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use futures_util::{SinkExt as _, StreamExt as _};
use serde::Serialize;
use serde_json::Value;
use serde_json::value::RawValue;
use tokio::net::TcpStream;
use tokio::sync::{Semaphore, mpsc, oneshot, watch};
use tokio::time::{MissedTickBehavior, interval, timeout};
use tokio_tungstenite::tungstenite::{self, Message};
use tokio_tungstenite::{MaybeTlsStream, WebSocketStream};

use crate::bus::BusSource;
use crate::context::ContextTable;
use crate::error::RequestError;
use crate::feed::FeedSender;
use crate::identity::Instance;
use crate::limits::{PING_INTERVAL, REQUESTS_LEN_MAX};
use crate::message::{Domain, Outgoing};
use crate::method::WaitingCall;
use crate::payload::Payload;
use crate::stream::{OwnStream, StreamEvent, StreamSource};
use crate::view::View;

/// What the handles of a client share.
#[derive(Debug)]
pub(crate) struct Connection {
    frames_tx: mpsc::Sender<Frame>,
    requests: Semaphore,
    next_id: AtomicU64,
    state: Mutex<State>,
    /// Counts changes of the view and of the set of contexts, for those who wait for one.
    changes: watch::Sender<u64>,
    closed: watch::Sender<Option<Arc<str>>>,
    /// Whether this app asked for the end, so that the end is not blamed on the node.
    is_closing: AtomicBool,
    /// This app, as the node sees it.
    pub(crate) own: Arc<Instance>,
}

/// Everything the node has told, and who waits to be told more.
#[derive(Debug, Default)]
pub(crate) struct State {
    pub(crate) pending: HashMap<u64, Pending>,
    pub(crate) view: View,
    /// Own methods by id; calls go to their handlers.
    pub(crate) own_methods: BTreeMap<String, OwnMethod>,
    /// Own streams by the id of their method.
    pub(crate) own_streams: BTreeMap<String, OwnStream>,
    /// Subscriptions to streams of others, by subscription id.
    pub(crate) stream_sources: BTreeMap<String, StreamSource>,
    /// Subscriptions to topics, by subscription id.
    pub(crate) bus_sources: BTreeMap<String, BusSource>,
    pub(crate) contexts: ContextTable,
}

/// A method this client offers.
#[derive(Debug)]
pub(crate) struct OwnMethod {
    pub(crate) name: String,
    pub(crate) calls_tx: mpsc::Sender<WaitingCall>,
}

/// A request that waits for its reply.
#[derive(Debug)]
pub(crate) struct Pending {
    pub(crate) what: &'static str,
    pub(crate) reply_tx: oneshot::Sender<Result<Reply, RequestError>>,
    pub(crate) effect: Effect,
}

/// What a successful reply changes, in the order of the wire.
#[derive(Debug, Default)]
pub(crate) enum Effect {
    /// Nothing.
    #[default]
    None,
    /// A stream subscription begins.
    StreamSource { feed: u64, by: Arc<Instance>, sender: FeedSender<StreamEvent> },
    /// A topic subscription begins.
    BusSource { feed: u64, topic: String, sender: FeedSender<crate::bus::BusMessage> },
    /// A context sends its snapshot, or was made with this data.
    ContextState { name: String, created_with: Option<Value> },
    /// An own update takes its place among those of others.
    ContextUpdated { context_id: String, delta: Payload },
}

/// The parts of a reply that a request looks at.
#[derive(Debug)]
pub(crate) struct Reply {
    pub(crate) kind: String,
    pub(crate) context_id: String,
    pub(crate) result: Option<Box<RawValue>>,
}

/// Something for the writer.
#[derive(Debug)]
pub(crate) enum Frame {
    Text(String),
    Close,
}

pub(crate) type Socket = WebSocketStream<MaybeTlsStream<TcpStream>>;

impl Connection {
    pub(crate) fn new(own: Instance, frames_tx: mpsc::Sender<Frame>) -> Self {
        let own = Arc::new(own);
        let mut state = State::default();
        // First of all, so that "first announced" begins with this app itself.
        state.view.add_peer(own.clone());
        Self {
            frames_tx,
            requests: Semaphore::new(REQUESTS_LEN_MAX),
            next_id: AtomicU64::new(1),
            state: Mutex::new(state),
            changes: watch::Sender::new(0),
            closed: watch::Sender::new(None),
            is_closing: AtomicBool::new(false),
            own,
        }
    }

    pub(crate) fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A number that this connection has not used before.
    pub(crate) fn fresh_id(&self) -> u64 {
        self.next_id.fetch_add(1, Ordering::Relaxed)
    }

    /// A receiver that wakes when peers, methods or contexts come or go.
    pub(crate) fn changes(&self) -> watch::Receiver<u64> {
        self.changes.subscribe()
    }

    pub(crate) fn notify_changes(&self) {
        self.changes.send_modify(|count| *count += 1);
    }

    /// Sends a request and waits for its reply.
    pub(crate) async fn request(
        &self,
        what: &'static str,
        domain: Domain,
        kind: &str,
        body: impl Serialize,
        effect: Effect,
        patience: Duration,
    ) -> Result<Reply, RequestError> {
        let exchange = async {
            // The permit is held until the reply, which bounds `pending`.
            let Ok(_permit) = self.requests.acquire().await else { return Err(self.closed_error()) };
            let id = self.fresh_id();
            let text = self.encode(what, domain, kind, &id.to_string(), body)?;
            let (reply_tx, reply_rx) = oneshot::channel();
            {
                let mut state = self.state();
                if self.is_closed() {
                    return Err(self.closed_error());
                }
                // Requests given up without an answer count as well, if they still have an effect to come.
                if state.pending.len() >= 2 * REQUESTS_LEN_MAX {
                    let problem = "too many requests are unanswered; wait for some of them".to_owned();
                    return Err(RequestError::Invalid { what, problem });
                }
                state.pending.insert(id, Pending { what, reply_tx, effect });
            }
            let forget = Forget { connection: self, id };
            self.send(text).await?;
            let reply = reply_rx.await.unwrap_or_else(|_| Err(self.closed_error()));
            drop(forget);
            reply
        };
        timeout(patience, exchange).await.unwrap_or(Err(RequestError::Timeout { what, after: patience }))
    }

    /// Sends a message that is not answered.
    pub(crate) async fn tell(
        &self,
        what: &'static str,
        domain: Domain,
        kind: &str,
        body: impl Serialize,
    ) -> Result<(), RequestError> {
        let id = self.fresh_id();
        self.send(self.encode(what, domain, kind, &id.to_string(), body)?).await
    }

    /// Sends an `error` about an invocation or a subscription, which is named by the request id.
    pub(crate) async fn tell_about(
        &self,
        what: &'static str,
        id: &str,
        body: impl Serialize,
    ) -> Result<(), RequestError> {
        self.send(self.encode(what, Domain::Agm, "error", id, body)?).await
    }

    /// Sends a message if there is room for it now; for places that must not wait.
    ///
    /// If there is none the far side waits for its own timeout, which is what overload looks like anyway.
    pub(crate) fn try_tell(&self, domain: Domain, kind: &str, id: Option<&str>, body: impl Serialize) {
        let fresh = self.fresh_id().to_string();
        if let Ok(text) = self.encode("answer", domain, kind, id.unwrap_or(&fresh), body) {
            let _ = self.frames_tx.try_send(Frame::Text(text));
        }
    }

    fn encode(
        &self,
        what: &'static str,
        domain: Domain,
        kind: &str,
        id: &str,
        body: impl Serialize,
    ) -> Result<String, RequestError> {
        let message = Outgoing { domain, kind, request_id: id, peer_id: Some(self.own.peer_id()), body };
        serde_json::to_string(&message)
            .map_err(|error| RequestError::Invalid { what, problem: error.to_string() })
    }

    async fn send(&self, text: String) -> Result<(), RequestError> {
        self.frames_tx.send(Frame::Text(text)).await.map_err(|_| self.closed_error())
    }

    /// Asks the writer to close the socket once everything before is sent.
    pub(crate) async fn send_close(&self) {
        self.is_closing.store(true, Ordering::Relaxed);
        let _ = self.frames_tx.send(Frame::Close).await;
    }

    /// Waits for the end of the connection and says why it came.
    pub(crate) async fn closed(&self) -> Arc<str> {
        let mut closed = self.closed.subscribe();
        match closed.wait_for(Option::is_some).await.as_deref() {
            Ok(Some(why)) => why.clone(),
            _ => "the client was dropped".into(),
        }
    }

    /// Whether the connection has ended.
    ///
    /// Asked under the lock of the state by whoever is about to add to it: `shut` says so first and empties
    /// the state afterwards, so that nothing can be added in between.
    pub(crate) fn is_closed(&self) -> bool {
        self.closed.borrow().is_some()
    }

    pub(crate) fn closed_error(&self) -> RequestError {
        let why = self.closed.borrow().clone();
        RequestError::Closed { why: why.unwrap_or_else(|| "it was ended".into()) }
    }

    /// Ends everything that depends on the connection. Only the first reason counts.
    pub(crate) fn shut(&self, why: &str) {
        let why = if self.is_closing.load(Ordering::Relaxed) { "this app closed it" } else { why };
        let is_first = self.closed.send_if_modified(|closed| {
            let is_first = closed.is_none();
            closed.get_or_insert_with(|| why.into());
            is_first
        });
        if !is_first {
            return;
        }
        self.requests.close();
        // Dropped outside the lock: feeds and handlers end by it, and may look at the state again.
        let state = std::mem::take(&mut *self.state());
        for pending in state.pending.into_values() {
            let _ = pending.reply_tx.send(Err(self.closed_error()));
        }
        self.notify_changes();
    }
}

/// Takes a request off the list when its caller no longer waits.
///
/// A request that was given up while its effect is still to come stays without a caller: the node will
/// answer, and a subscription made that way has to be ended.
struct Forget<'a> {
    connection: &'a Connection,
    id: u64,
}

impl Drop for Forget<'_> {
    fn drop(&mut self) {
        let mut state = self.connection.state();
        if state.pending.get(&self.id).is_some_and(|pending| matches!(pending.effect, Effect::None)) {
            state.pending.remove(&self.id);
        }
    }
}

/// Writes frames, as many as are waiting with one flush, and a ping now and then.
pub(crate) async fn write(
    mut sink: futures_util::stream::SplitSink<Socket, Message>,
    mut frames_rx: mpsc::Receiver<Frame>,
) -> Result<(), tungstenite::Error> {
    let mut pings = interval(PING_INTERVAL);
    pings.set_missed_tick_behavior(MissedTickBehavior::Delay);
    pings.reset();
    let mut batch = Vec::new();
    loop {
        tokio::select! {
            count = frames_rx.recv_many(&mut batch, BATCH_LEN_MAX) => {
                if count == 0 {
                    return sink.close().await;
                }
            }
            _ = pings.tick() => batch.push(Frame::Text(r#"{"type":"ping"}"#.to_owned())),
        }
        for frame in batch.drain(..) {
            match frame {
                Frame::Text(text) => sink.feed(Message::text(text)).await?,
                Frame::Close => return sink.close().await,
            }
        }
        sink.flush().await?;
    }
}

/// Reads until the end, and says what that was.
pub(crate) async fn read(
    connection: &Connection,
    mut stream: futures_util::stream::SplitStream<Socket>,
) -> String {
    loop {
        match stream.next().await {
            Some(Ok(Message::Text(text))) => connection.dispatch(&text),
            Some(Ok(Message::Close(Some(frame)))) => {
                return format!("the node closed it: {} {}", frame.code, frame.reason);
            }
            Some(Ok(Message::Close(None))) => return "the node closed it".to_owned(),
            // Binary frames are no part of GW3; pings are answered below this layer.
            Some(Ok(_)) => {}
            Some(Err(error)) => return error.to_string(),
            None => return "the node hung up".to_owned(),
        }
    }
}

const BATCH_LEN_MAX: usize = 64;
