//! Shared contexts: named state that every app of the user may read and change.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::time::Duration;

use serde_json::value::{RawValue, to_raw_value};
use serde_json::{Map, Value, json};

use crate::client::Client;
use crate::connection::{Connection, Effect};
use crate::delta::Delta;
use crate::error::RequestError;
use crate::feed::{Feed, FeedSender, feed};
use crate::message::{CreateContext, Domain, OneContext, UpdateContext};
use crate::payload::Payload;

/// The shared contexts, from [`Client::contexts`].
///
/// A context is a JSON object under a name. Whoever changes a name that does not exist makes it.
#[derive(Debug)]
pub struct Contexts<'a> {
    client: &'a Client,
}

/// News about a context.
#[derive(Clone, Debug)]
pub enum ContextChange {
    /// Its state, first as it is when the subscription begins, then after every update.
    Updated {
        /// The whole state.
        data: Arc<Value>,
        /// What the update said; nothing for the first state.
        delta: Option<Payload>,
        /// The peer id of the other app that made the update; nothing if it was this app.
        updater: Option<String>,
    },
    /// Somebody destroyed it. If it is made again, the feed goes on.
    Destroyed,
}

impl Client {
    /// Returns the shared contexts.
    #[must_use]
    pub fn contexts(&self) -> Contexts<'_> {
        Contexts { client: self }
    }
}

impl Contexts<'_> {
    /// Returns the names of all contexts.
    #[must_use]
    pub fn names(&self) -> Vec<String> {
        self.client.connection.state().contexts.names()
    }

    /// Sets the given top-level keys and removes those that are null; the others stay.
    ///
    /// # Errors
    ///
    /// If `data` is not an object, or the node refuses.
    pub async fn update(&self, name: &str, data: Value) -> Result<(), RequestError> {
        let Value::Object(data) = data else { return Err(not_an_object("update a context")) };
        let (removed, added): (Map<_, _>, Map<_, _>) =
            data.into_iter().partition(|(_, value)| value.is_null());
        let removed: Vec<_> = removed.into_iter().map(|(key, _)| key).collect();
        // Not as commands: in those a dot in a key would be a path.
        let delta = json!({ "added": added, "updated": {}, "removed": removed });
        self.change(name, added.into(), delta).await
    }

    /// Replaces the whole state.
    ///
    /// # Errors
    ///
    /// If `data` is not an object, or the node refuses.
    pub async fn set(&self, name: &str, data: Value) -> Result<(), RequestError> {
        if !data.is_object() {
            return Err(not_an_object("set a context"));
        }
        self.change(name, data.clone(), json!({ "reset": data })).await
    }

    /// Sets the value at a path such as `orders.open.0`; null removes it.
    ///
    /// # Errors
    ///
    /// If the path is empty, or the node refuses.
    pub async fn set_path(&self, name: &str, path: &str, value: Value) -> Result<(), RequestError> {
        if path.is_empty() {
            let problem = "the path is empty; use `set` to replace everything".to_owned();
            return Err(RequestError::Invalid { what: "set a path of a context", problem });
        }
        let command = match value {
            Value::Null => json!({ "type": "remove", "path": path }),
            value => json!({ "type": "set", "path": path, "value": value }),
        };
        let delta = json!({ "commands": [command] });
        let mut created_with = Value::Object(Map::new());
        if let Ok(delta) = serde_json::from_value::<Delta>(delta.clone()) {
            delta.apply(&mut created_with);
        }
        self.change(name, created_with, delta).await
    }

    /// Sends a delta as it is, for a context that exists.
    ///
    /// # Errors
    ///
    /// If there is no such context, or the node refuses.
    pub async fn update_raw(&self, name: &str, delta: &RawValue) -> Result<(), RequestError> {
        let Some(context_id) = self.client.connection.state().contexts.id(name) else {
            let problem = format!("there is no context {name:?}; make it with `set`");
            return Err(RequestError::Invalid { what: "update a context", problem });
        };
        self.send_delta(context_id, delta).await
    }

    /// Returns the state, or nothing if there is no such context.
    ///
    /// The first time it is asked for; from then on it is kept up to date and returned at once.
    ///
    /// # Errors
    ///
    /// If the node refuses.
    pub async fn get(&self, name: &str) -> Result<Option<Arc<Value>>, RequestError> {
        let connection = &self.client.connection;
        if connection.is_closed() {
            return Err(connection.closed_error());
        }
        let context_id = {
            let state = connection.state();
            if let Some(data) = state.contexts.data(name) {
                return Ok(Some(data));
            }
            let Some(context_id) = state.contexts.id(name) else { return Ok(None) };
            context_id
        };
        match join(self.client, name, &context_id).await {
            Ok(()) => Ok(connection.state().contexts.data(name)),
            Err(RequestError::Refused { reason, reason_uri, .. })
                if reason_uri == "global.errors.invalid_context"
                    || reason.starts_with("Unable to find context") =>
            {
                Ok(None)
            }
            Err(error) => Err(error),
        }
    }

    /// Subscribes to a context, also to one that does not exist yet.
    ///
    /// The feed begins with the state, as soon as there is one. To be called inside a tokio runtime.
    #[must_use]
    pub fn subscribe(&self, name: &str) -> Feed<ContextChange> {
        let connection = &self.client.connection;
        let dropped = Arc::downgrade(connection);
        let (sender, feed) = feed(move || {
            // Wakes the follower, which sees that nobody listens any more.
            if let Some(connection) = dropped.upgrade() {
                connection.notify_changes();
            }
        });
        let mut state = connection.state();
        if !connection.is_closed() {
            let is_followed = state.contexts.listen(name, sender);
            drop(state);
            if !is_followed {
                let follower = Follower {
                    connection: connection.clone(),
                    patience: self.client.timeouts.reply,
                    name: name.to_owned(),
                };
                tokio::spawn(follower.run());
            }
        }
        feed
    }

    /// Destroys a context for everybody. One that does not exist is no error.
    ///
    /// # Errors
    ///
    /// If the node refuses.
    pub async fn destroy(&self, name: &str) -> Result<(), RequestError> {
        let Some(context_id) = self.client.connection.state().contexts.id(name) else { return Ok(()) };
        let body = OneContext { context_id: &context_id };
        self.client
            .request("destroy a context", Domain::Global, "destroy-context", body, Effect::None)
            .await?;
        Ok(())
    }

    /// Makes the context, or changes it if it is there.
    async fn change(&self, name: &str, created_with: Value, delta: Value) -> Result<(), RequestError> {
        let known = self.client.connection.state().contexts.id(name);
        let context_id = match known {
            Some(context_id) => context_id,
            None => {
                let body = CreateContext { name, data: &created_with, lifetime: "retained" };
                let effect =
                    Effect::ContextState { name: name.to_owned(), created_with: Some(created_with.clone()) };
                let reply = self
                    .client
                    .request("make a context", Domain::Global, "create-context", body, effect)
                    .await?;
                if reply.kind == "context-created" {
                    return Ok(());
                }
                // Somebody was quicker.
                reply.context_id
            }
        };
        let delta = to_raw_value(&delta).map_err(|error| RequestError::Invalid {
            what: "update a context",
            problem: error.to_string(),
        })?;
        self.send_delta(context_id, &delta).await
    }

    async fn send_delta(&self, context_id: String, delta: &RawValue) -> Result<(), RequestError> {
        let effect = Effect::ContextUpdated { context_id: context_id.clone(), delta: Payload::new(delta) };
        let body = UpdateContext { context_id: &context_id, delta };
        self.client.request("update a context", Domain::Global, "update-context", body, effect).await?;
        Ok(())
    }
}

/// Becomes a member of a context; its snapshot is there when this returns.
async fn join(client: &Client, name: &str, context_id: &str) -> Result<(), RequestError> {
    let effect = Effect::ContextState { name: name.to_owned(), created_with: None };
    let body = OneContext { context_id };
    client.request("read a context", Domain::Global, "subscribe-context", body, effect).await?;
    Ok(())
}

/// Joins a context that is listened to, whenever it appears, until nobody listens.
struct Follower {
    connection: Arc<Connection>,
    patience: Duration,
    name: String,
}

impl Follower {
    async fn run(self) {
        let mut changes = self.connection.changes();
        // A context that refused once is not asked again.
        let mut refused = None;
        loop {
            changes.mark_unchanged();
            let wanted = match self.connection.state().contexts.followed(&self.name) {
                Followed::Nobody => return,
                Followed::Joined => None,
                Followed::Absent(id) => id,
            };
            if let Some(context_id) = wanted.filter(|id| refused.as_ref() != Some(id)) {
                let effect = Effect::ContextState { name: self.name.clone(), created_with: None };
                let body = OneContext { context_id: &context_id };
                let joined = self
                    .connection
                    .request(
                        "read a context",
                        Domain::Global,
                        "subscribe-context",
                        body,
                        effect,
                        self.patience,
                    )
                    .await;
                refused = joined.is_err().then_some(context_id);
            }
            if changes.changed().await.is_err() {
                return;
            }
        }
    }
}

/// Every context that was announced or is listened to.
#[derive(Debug, Default)]
pub(crate) struct ContextTable {
    by_name: BTreeMap<String, Entry>,
    /// Invariant: one key for each `Some(id)` in `by_name`.
    names: HashMap<String, String>,
}

#[derive(Debug, Default)]
struct Entry {
    id: Option<String>,
    /// The state, if this client is a member.
    data: Option<Arc<Value>>,
    listeners: Vec<FeedSender<ContextChange>>,
    is_followed: bool,
}

/// How a context looks to its follower.
enum Followed {
    /// Nobody listens; the follower is off the list.
    Nobody,
    /// Its state is known.
    Joined,
    /// Its state is not known; the id, if it exists.
    Absent(Option<String>),
}

impl ContextTable {
    pub(crate) fn added(&mut self, name: &str, id: &str) {
        let entry = self.by_name.entry(name.to_owned()).or_default();
        if let Some(old) = entry.id.replace(id.to_owned()).filter(|old| old != id) {
            self.names.remove(&old);
            entry.data = None;
        }
        self.names.insert(id.to_owned(), name.to_owned());
    }

    pub(crate) fn joined(&mut self, name: &str, id: &str, data: Value) {
        self.added(name, id);
        if let Some(entry) = self.by_name.get_mut(name) {
            let data = Arc::new(if data.is_null() { Value::Object(Map::new()) } else { data });
            entry.data = Some(data.clone());
            entry.tell(&ContextChange::Updated { data, delta: None, updater: None });
        }
    }

    pub(crate) fn updated(&mut self, id: &str, updater: Option<&str>, delta: &Payload) {
        let Some(entry) = self.names.get(id).and_then(|name| self.by_name.get_mut(name)) else { return };
        let Some(data) = &mut entry.data else { return };
        if let Ok(parsed) = delta.parse::<Delta>() {
            parsed.apply(Arc::make_mut(data));
        }
        let data = data.clone();
        entry.tell(&ContextChange::Updated {
            data,
            delta: Some(delta.clone()),
            updater: updater.map(ToOwned::to_owned),
        });
    }

    pub(crate) fn destroyed(&mut self, id: &str) {
        let Some(name) = self.names.remove(id) else { return };
        let Some(entry) = self.by_name.get_mut(&name) else { return };
        entry.id = None;
        entry.data = None;
        entry.tell(&ContextChange::Destroyed);
        if entry.listeners.is_empty() && !entry.is_followed {
            self.by_name.remove(&name);
        }
    }

    fn names(&self) -> Vec<String> {
        self.by_name.iter().filter(|(_, entry)| entry.id.is_some()).map(|(name, _)| name.clone()).collect()
    }

    fn id(&self, name: &str) -> Option<String> {
        self.by_name.get(name)?.id.clone()
    }

    fn data(&self, name: &str) -> Option<Arc<Value>> {
        self.by_name.get(name)?.data.clone()
    }

    /// Adds a listener; returns whether the context has a follower already.
    fn listen(&mut self, name: &str, sender: FeedSender<ContextChange>) -> bool {
        let entry = self.by_name.entry(name.to_owned()).or_default();
        if let Some(data) = &entry.data {
            sender.push(ContextChange::Updated { data: data.clone(), delta: None, updater: None });
        }
        entry.listeners.push(sender);
        std::mem::replace(&mut entry.is_followed, true)
    }

    fn followed(&mut self, name: &str) -> Followed {
        let Some(entry) = self.by_name.get_mut(name) else { return Followed::Nobody };
        entry.listeners.retain(|listener| !listener.is_abandoned());
        if !entry.listeners.is_empty() {
            return if entry.data.is_some() { Followed::Joined } else { Followed::Absent(entry.id.clone()) };
        }
        entry.is_followed = false;
        if entry.id.is_none() {
            self.by_name.remove(name);
        }
        Followed::Nobody
    }
}

impl Entry {
    fn tell(&self, change: &ContextChange) {
        for listener in &self.listeners {
            listener.push(change.clone());
        }
    }
}

fn not_an_object(what: &'static str) -> RequestError {
    RequestError::Invalid { what, problem: "its data is not a JSON object".to_owned() }
}
