//! Streams: what this app pushes to its subscribers, and what others push to it.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::sync::Arc;

use futures_util::future::join_all;
use serde_json::Value;
use serde_json::value::{RawValue, to_raw_value};
use tokio::sync::mpsc;
use tokio::sync::mpsc::error::TrySendError;

use crate::client::Client;
use crate::connection::{Connection, Effect};
use crate::error::{InvokeError, RequestError};
use crate::feed::{Feed, FeedSender, feed};
use crate::identity::Instance;
use crate::invoke::{Failure, Target, to_arguments};
use crate::limits::SUBSCRIBERS_WAITING_MAX;
use crate::message::{self, Accepted, Domain, EndSubscription, ErrorReply, Post, StreamPublish};
use crate::method::MethodDefinition;
use crate::payload::Payload;

impl Client {
    /// Offers a stream: a handle to push with, and the subscribers who ask to be accepted.
    ///
    /// # Errors
    ///
    /// If this app offers the name already, or the node refuses.
    pub async fn stream(
        &self,
        definition: MethodDefinition,
    ) -> Result<(StreamProvider, StreamRequests), RequestError> {
        let (requests_tx, requests_rx) = mpsc::channel(SUBSCRIBERS_WAITING_MAX);
        let method_id = self.connection.fresh_id().to_string();
        self.reserve(&definition.name, |state| {
            let stream = OwnStream {
                name: definition.name.clone(),
                requests_tx,
                interests: BTreeSet::new(),
                branches: BTreeMap::new(),
            };
            state.own_streams.insert(method_id.clone(), stream);
        })?;
        self.announce(&method_id, &definition, true).await?;
        let provider = StreamProvider { client: self.clone(), method_id: method_id.clone() };
        Ok((provider, StreamRequests { connection: self.connection.clone(), method_id, requests_rx }))
    }

    /// Subscribes to a stream of whoever is meant, in one feed.
    ///
    /// The feed ends when the last provider ends the subscription.
    ///
    /// # Errors
    ///
    /// If nobody that is meant offers the stream, or none of them accepted.
    pub async fn subscribe(
        &self,
        name: &str,
        args: Value,
        target: Target,
    ) -> Result<Feed<StreamEvent>, InvokeError> {
        let args = to_arguments("subscribe", &args)?;
        let offers = self.wait_for_offers(name, &target).await?;
        let connection = &self.connection;
        let id = connection.fresh_id();
        let dropped = Arc::downgrade(connection);
        let (sender, feed) = feed(move || {
            let Some(connection) = dropped.upgrade() else { return };
            let ended: Vec<_> =
                connection.state().stream_sources.extract_if(.., |_, source| source.feed == id).collect();
            for (subscription_id, _) in ended {
                connection.unsubscribe(Domain::Agm, &subscription_id);
            }
        });
        let requests = offers.iter().map(|offer| {
            let effect = Effect::StreamSource { feed: id, by: offer.by.clone(), sender: sender.clone() };
            let body = message::Call {
                server_id: offer.by.peer_id(),
                method_id: &offer.method_id,
                arguments_kv: &args,
            };
            self.request("subscribe to a stream", Domain::Agm, "subscribe", body, effect)
        });
        let mut failures = Vec::new();
        for (offer, outcome) in offers.iter().zip(join_all(requests).await) {
            if let Err(error) = outcome {
                failures.push(Failure { by: offer.by.clone(), error });
            }
        }
        if failures.len() == offers.len() {
            return Err(InvokeError::Failed { name: name.to_owned(), failures });
        }
        Ok(feed)
    }
}

/// Something that a provider pushed.
#[derive(Clone, Debug)]
pub struct StreamEvent {
    /// What it pushed.
    pub data: Payload,
    /// Who pushed it.
    pub by: Arc<Instance>,
    /// Whether it was meant for this subscriber alone.
    pub is_private: bool,
}

/// A stream that this app offers. Clones push to the same one.
#[derive(Clone, Debug)]
pub struct StreamProvider {
    client: Client,
    method_id: String,
}

impl StreamProvider {
    /// Pushes to the subscribers of all branches; nobody there is no error.
    ///
    /// Returns once the data is on its way, and waits while the node takes no more.
    ///
    /// # Errors
    ///
    /// If the connection is closed.
    pub async fn push(&self, data: Value) -> Result<(), RequestError> {
        self.push_raw(&to_data(&data)?).await
    }

    /// Pushes JSON text as it is.
    ///
    /// # Errors
    ///
    /// If the connection is closed.
    pub async fn push_raw(&self, data: &RawValue) -> Result<(), RequestError> {
        self.push_where(data, |_| true).await
    }

    /// Returns a handle for one branch; it need not have subscribers yet.
    #[must_use]
    pub fn branch(&self, key: impl Into<String>) -> Branch {
        Branch { provider: self.clone(), key: key.into() }
    }

    /// Returns how many subscribers there are on all branches.
    #[must_use]
    pub fn subscribers(&self) -> usize {
        let state = self.client.connection.state();
        let stream = state.own_streams.get(&self.method_id);
        stream.map_or(0, |stream| stream.branches.values().map(|branch| branch.subscribers.len()).sum())
    }

    /// Ends all subscriptions and withdraws the stream.
    ///
    /// # Errors
    ///
    /// If the connection is closed.
    pub async fn close(self) -> Result<(), RequestError> {
        self.drop_where(|_| true).await?;
        self.client.withdraw(&self.method_id).await
    }

    async fn push_where(
        &self,
        data: &RawValue,
        mut is_meant: impl FnMut(&str) -> bool,
    ) -> Result<(), RequestError> {
        let connection = &self.client.connection;
        if connection.is_closed() {
            return Err(connection.closed_error());
        }
        let stream_ids: Vec<_> = {
            let state = connection.state();
            let branches =
                state.own_streams.get(&self.method_id).into_iter().flat_map(|stream| &stream.branches);
            branches
                .filter(|(key, branch)| is_meant(key) && !branch.subscribers.is_empty())
                .map(|(_, branch)| branch.stream_id.clone())
                .collect()
        };
        for stream_id in &stream_ids {
            connection.tell("push", Domain::Agm, "publish", StreamPublish { stream_id, data }).await?;
        }
        Ok(())
    }

    async fn drop_where(&self, mut is_meant: impl FnMut(&str) -> bool) -> Result<(), RequestError> {
        let ended: Vec<_> = {
            let mut state = self.client.connection.state();
            let branches = state
                .own_streams
                .get_mut(&self.method_id)
                .map(|stream| &mut stream.branches)
                .into_iter()
                .flatten();
            branches
                .filter(|(key, _)| is_meant(key))
                .flat_map(|(_, branch)| std::mem::take(&mut branch.subscribers))
                .collect()
        };
        for subscription_id in &ended {
            drop_subscription(&self.client.connection, subscription_id, "ServerInitiated").await?;
        }
        Ok(())
    }
}

/// A part of a stream with subscribers of its own.
#[derive(Clone, Debug)]
pub struct Branch {
    provider: StreamProvider,
    key: String,
}

impl Branch {
    /// Returns the name it was accepted on.
    #[must_use]
    pub fn key(&self) -> &str {
        &self.key
    }

    /// Pushes to the subscribers of this branch.
    ///
    /// # Errors
    ///
    /// If the connection is closed.
    pub async fn push(&self, data: Value) -> Result<(), RequestError> {
        self.push_raw(&to_data(&data)?).await
    }

    /// Pushes JSON text as it is.
    ///
    /// # Errors
    ///
    /// If the connection is closed.
    pub async fn push_raw(&self, data: &RawValue) -> Result<(), RequestError> {
        self.provider.push_where(data, |key| key == self.key).await
    }

    /// Ends the subscriptions of this branch.
    ///
    /// # Errors
    ///
    /// If the connection is closed.
    pub async fn close(&self) -> Result<(), RequestError> {
        self.provider.drop_where(|key| key == self.key).await
    }
}

/// Subscribers who ask to be accepted. Once this is dropped, new ones are rejected.
#[derive(Debug)]
pub struct StreamRequests {
    connection: Arc<Connection>,
    method_id: String,
    requests_rx: mpsc::Receiver<WaitingSubscriber>,
}

impl StreamRequests {
    /// Returns the next request, or nothing once the stream is withdrawn.
    pub async fn next(&mut self) -> Option<StreamRequest> {
        let WaitingSubscriber { subscription_id, args, caller } = self.requests_rx.recv().await?;
        Some(StreamRequest {
            args,
            caller,
            connection: self.connection.clone(),
            method_id: self.method_id.clone(),
            subscription_id,
            is_answered: false,
        })
    }
}

/// Somebody asks to be accepted. Dropping the request rejects it.
pub struct StreamRequest {
    /// The arguments: a JSON object, or null.
    pub args: Payload,
    /// Who asks.
    pub caller: Arc<Instance>,
    connection: Arc<Connection>,
    method_id: String,
    subscription_id: String,
    is_answered: bool,
}

impl StreamRequest {
    /// Accepts on the default branch.
    ///
    /// # Errors
    ///
    /// If the subscriber has left, or the connection is closed.
    pub async fn accept(self) -> Result<Subscriber, RequestError> {
        self.accept_on("").await
    }

    /// Accepts on a branch, which is made on first use.
    ///
    /// # Errors
    ///
    /// If the subscriber has left, or the connection is closed.
    pub async fn accept_on(mut self, branch: &str) -> Result<Subscriber, RequestError> {
        const WHAT: &str = "accept a subscriber";
        self.is_answered = true;
        let fresh_id = self.connection.fresh_id();
        let stream_id = {
            let mut state = self.connection.state();
            let stream = state.own_streams.get_mut(&self.method_id);
            let Some(stream) = stream.filter(|stream| stream.interests.contains(&self.subscription_id))
            else {
                let problem = "the subscriber has left".to_owned();
                return Err(RequestError::Invalid { what: WHAT, problem });
            };
            let branch = stream.branches.entry(branch.to_owned()).or_insert_with(|| OwnBranch {
                stream_id: fresh_id.to_string(),
                subscribers: BTreeSet::new(),
            });
            branch.subscribers.insert(self.subscription_id.clone());
            branch.stream_id.clone()
        };
        let body = Accepted { subscription_id: &self.subscription_id, stream_id: &stream_id };
        self.connection.tell(WHAT, Domain::Agm, "accepted", body).await?;
        Ok(Subscriber {
            connection: self.connection.clone(),
            subscription_id: std::mem::take(&mut self.subscription_id),
            instance: self.caller.clone(),
        })
    }

    /// Rejects with a reason that the subscriber is shown.
    ///
    /// # Errors
    ///
    /// If the connection is closed.
    pub async fn reject(mut self, reason: &str) -> Result<(), RequestError> {
        self.is_answered = true;
        self.forget();
        let body = ErrorReply { reason_uri: REJECTED, reason };
        self.connection.tell_about("reject a subscriber", &self.subscription_id, body).await
    }

    fn forget(&self) {
        let mut state = self.connection.state();
        if let Some(stream) = state.own_streams.get_mut(&self.method_id) {
            stream.interests.remove(&self.subscription_id);
        }
    }
}

impl Drop for StreamRequest {
    fn drop(&mut self) {
        if !self.is_answered {
            self.forget();
            reject_at_once(
                &self.connection,
                &self.subscription_id,
                "the app did not answer the subscription",
            );
        }
    }
}

impl fmt::Debug for StreamRequest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { args, caller, .. } = self;
        f.debug_struct("StreamRequest").field("args", args).field("caller", caller).finish_non_exhaustive()
    }
}

/// An accepted subscriber.
#[derive(Clone, Debug)]
pub struct Subscriber {
    connection: Arc<Connection>,
    subscription_id: String,
    instance: Arc<Instance>,
}

impl Subscriber {
    /// Returns who it is.
    #[must_use]
    pub fn instance(&self) -> &Instance {
        &self.instance
    }

    /// Pushes to this subscriber alone.
    ///
    /// # Errors
    ///
    /// If the connection is closed.
    pub async fn push(&self, data: Value) -> Result<(), RequestError> {
        self.push_raw(&to_data(&data)?).await
    }

    /// Pushes JSON text to this subscriber alone.
    ///
    /// # Errors
    ///
    /// If the connection is closed.
    pub async fn push_raw(&self, data: &RawValue) -> Result<(), RequestError> {
        let body = Post { subscription_id: &self.subscription_id, data };
        self.connection.tell("push", Domain::Agm, "post", body).await
    }

    /// Ends this subscription with a reason that the subscriber is shown.
    ///
    /// # Errors
    ///
    /// If the connection is closed.
    pub async fn close(self, reason: &str) -> Result<(), RequestError> {
        for stream in self.connection.state().own_streams.values_mut() {
            stream.remove_subscriber(&self.subscription_id);
        }
        drop_subscription(&self.connection, &self.subscription_id, reason).await
    }
}

/// A stream of this client, as the connection knows it.
#[derive(Debug)]
pub(crate) struct OwnStream {
    pub(crate) name: String,
    pub(crate) requests_tx: mpsc::Sender<WaitingSubscriber>,
    /// Subscriptions that the node has told of and not taken back, accepted or not.
    pub(crate) interests: BTreeSet<String>,
    branches: BTreeMap<String, OwnBranch>,
}

#[derive(Debug)]
struct OwnBranch {
    stream_id: String,
    /// Invariant: a subset of the stream's `interests`.
    subscribers: BTreeSet<String>,
}

impl OwnStream {
    /// Hands a subscriber to the app.
    pub(crate) fn ask(&mut self, request: WaitingSubscriber) -> Result<(), TrySendError<WaitingSubscriber>> {
        let subscription_id = request.subscription_id.clone();
        self.requests_tx.try_send(request)?;
        self.interests.insert(subscription_id);
        Ok(())
    }

    /// Forgets a subscription, accepted or not.
    pub(crate) fn remove_subscriber(&mut self, subscription_id: &str) {
        if self.interests.remove(subscription_id) {
            for branch in self.branches.values_mut() {
                branch.subscribers.remove(subscription_id);
            }
        }
    }
}

/// A subscriber on its way to the app.
#[derive(Debug)]
pub(crate) struct WaitingSubscriber {
    pub(crate) subscription_id: String,
    pub(crate) args: Payload,
    pub(crate) caller: Arc<Instance>,
}

/// A subscription to a stream of another app.
#[derive(Debug)]
pub(crate) struct StreamSource {
    pub(crate) feed: u64,
    pub(crate) by: Arc<Instance>,
    pub(crate) sender: FeedSender<StreamEvent>,
}

impl Connection {
    /// Ends a subscription of this client, from a place that must not wait.
    pub(crate) fn unsubscribe(&self, domain: Domain, subscription_id: &str) {
        let body = EndSubscription { subscription_id, reason_uri: "", reason: "ClientInitiated" };
        self.try_tell(domain, "unsubscribe", None, body);
    }
}

/// Rejects a subscriber from a place that must not wait.
pub(crate) fn reject_at_once(connection: &Connection, subscription_id: &str, reason: &str) {
    let body = ErrorReply { reason_uri: REJECTED, reason };
    connection.try_tell(Domain::Agm, "error", Some(subscription_id), body);
}

async fn drop_subscription(
    connection: &Connection,
    subscription_id: &str,
    reason: &str,
) -> Result<(), RequestError> {
    let body = EndSubscription { subscription_id, reason_uri: "", reason };
    connection.tell("end a subscription", Domain::Agm, "drop-subscription", body).await
}

fn to_data(data: &Value) -> Result<Box<RawValue>, RequestError> {
    to_raw_value(data).map_err(|error| RequestError::Invalid { what: "push", problem: error.to_string() })
}

const REJECTED: &str = "com.tick42.agm.errors.subscription.failure";
