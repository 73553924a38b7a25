//! Topics: messages to whoever listens now, without an answer and without a memory.

use std::sync::Arc;

use serde_json::value::{RawValue, to_raw_value};
use serde_json::{Map, Value};

use crate::client::Client;
use crate::connection::Effect;
use crate::error::RequestError;
use crate::feed::{Feed, FeedSender, feed};
use crate::message::{BusPublish, BusSubscribe, Domain};
use crate::payload::Payload;

/// The topics, from [`Client::bus`].
#[derive(Debug)]
pub struct Bus<'a> {
    client: &'a Client,
}

/// What narrows down who receives a message; by default nothing does.
#[derive(Clone, Debug, Default)]
pub struct Publication {
    /// Only subscribers with this routing key, or with none.
    pub routing_key: Option<String>,
    /// Only apps whose identity has these values.
    pub target: Map<String, Value>,
}

/// A message of a topic.
#[derive(Clone, Debug)]
pub struct BusMessage {
    /// The topic or pattern that was subscribed to.
    pub topic: String,
    /// What was published.
    pub data: Payload,
    /// What the publisher says about itself.
    pub publisher: Map<String, Value>,
}

impl Client {
    /// Returns the topics.
    #[must_use]
    pub fn bus(&self) -> Bus<'_> {
        Bus { client: self }
    }
}

impl Bus<'_> {
    /// Publishes to everybody who subscribed to the topic, this app included.
    ///
    /// Returns once the message is on its way. The node drops null and false.
    ///
    /// # Errors
    ///
    /// If the connection is closed.
    pub async fn publish(&self, topic: &str, data: Value) -> Result<(), RequestError> {
        let data = to_raw_value(&data).map_err(|error| RequestError::Invalid {
            what: "publish to a topic",
            problem: error.to_string(),
        })?;
        self.publish_raw(topic, &data, &Publication::default()).await
    }

    /// Publishes JSON text as it is, and to whom it may concern.
    ///
    /// # Errors
    ///
    /// If the connection is closed.
    pub async fn publish_raw(
        &self,
        topic: &str,
        data: &RawValue,
        publication: &Publication,
    ) -> Result<(), RequestError> {
        let Publication { routing_key, target } = publication;
        let body = BusPublish { topic, data, routing_key: routing_key.as_deref(), target_identity: target };
        self.client.connection.tell("publish to a topic", Domain::Bus, "publish", body).await
    }

    /// Subscribes to a topic; `*` stands for one word between dots, `>` for the rest.
    ///
    /// # Errors
    ///
    /// If the node refuses.
    pub async fn subscribe(&self, topic: &str) -> Result<Feed<BusMessage>, RequestError> {
        self.subscribe_with_key(topic, None).await
    }

    /// Subscribes to a topic for messages with that routing key, or with none.
    ///
    /// # Errors
    ///
    /// If the node refuses.
    pub async fn subscribe_with_key(
        &self,
        topic: &str,
        routing_key: Option<&str>,
    ) -> Result<Feed<BusMessage>, RequestError> {
        let connection = &self.client.connection;
        let id = connection.fresh_id();
        let dropped = Arc::downgrade(connection);
        let (sender, feed) = feed(move || {
            let Some(connection) = dropped.upgrade() else { return };
            let ended: Vec<_> =
                connection.state().bus_sources.extract_if(.., |_, source| source.feed == id).collect();
            for (subscription_id, _) in ended {
                connection.unsubscribe(Domain::Bus, &subscription_id);
            }
        });
        let effect = Effect::BusSource { feed: id, topic: topic.to_owned(), sender };
        let body = BusSubscribe { topic, routing_key };
        self.client.request("subscribe to a topic", Domain::Bus, "subscribe", body, effect).await?;
        Ok(feed)
    }
}

/// A subscription to a topic.
#[derive(Debug)]
pub(crate) struct BusSource {
    pub(crate) feed: u64,
    pub(crate) topic: String,
    pub(crate) sender: FeedSender<BusMessage>,
}
