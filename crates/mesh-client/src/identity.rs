//! Who an app says it is, and who the others are.

use std::fmt;

use serde_json::{Map, Value};

/// With what an app logs in.
#[derive(Clone)]
pub struct Credentials {
    /// The user; apps of the same user see each other.
    pub user: String,
    /// The user's secret. Whether a node checks it depends on its configuration.
    pub secret: String,
}

impl fmt::Debug for Credentials {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Credentials").field("user", &self.user).finish_non_exhaustive()
    }
}

/// What an app tells the others about itself.
#[derive(Clone, Debug, Default)]
pub struct Identity {
    /// The app's name.
    pub application: String,
    /// This instance of it; the node invents one if there is none.
    pub instance: Option<String>,
    /// Anything else, such as `region` or `service`. Instances can be found by it.
    pub extra: Map<String, Value>,
}

impl Identity {
    /// An app of that name.
    #[must_use]
    pub fn new(application: impl Into<String>) -> Self {
        Self { application: application.into(), ..Self::default() }
    }

    /// Adds a value of the app's own.
    #[must_use]
    pub fn with(mut self, key: impl Into<String>, value: impl Into<Value>) -> Self {
        self.extra.insert(key.into(), value.into());
        self
    }

    pub(crate) fn into_map(self) -> Map<String, Value> {
        let mut map = Map::new();
        map.insert("application".into(), self.application.clone().into());
        map.insert("applicationName".into(), self.application.into());
        map.insert("process".into(), std::process::id().into());
        map.insert("api".into(), concat!("mesh-client ", env!("CARGO_PKG_VERSION")).into());
        if let Some(instance) = self.instance {
            map.insert("instance".into(), instance.into());
        }
        map.extend(self.extra);
        map
    }
}

/// A running app, as the node describes it.
#[derive(Clone, Debug, PartialEq)]
pub struct Instance {
    peer_id: String,
    is_local: bool,
    identity: Map<String, Value>,
}

impl Instance {
    pub(crate) fn new(peer_id: String, is_local: bool, identity: Map<String, Value>) -> Self {
        Self { peer_id, is_local, identity }
    }

    /// Returns the id of its connection; a new one each time it connects.
    #[must_use]
    pub fn peer_id(&self) -> &str {
        &self.peer_id
    }

    /// Returns whether it is connected to the same node as this app.
    #[must_use]
    pub fn is_local(&self) -> bool {
        self.is_local
    }

    /// Returns the app's name, or nothing if it has none.
    #[must_use]
    pub fn application(&self) -> &str {
        self.text("application")
    }

    /// Returns the id of the instance.
    #[must_use]
    pub fn instance(&self) -> &str {
        self.text("instance")
    }

    /// Returns everything it says about itself.
    #[must_use]
    pub fn identity(&self) -> &Map<String, Value> {
        &self.identity
    }

    fn text(&self, key: &str) -> &str {
        self.identity.get(key).and_then(Value::as_str).unwrap_or_default()
    }

    /// Whether every given value equals its own, compared as lower-case text.
    ///
    /// `peerId` is looked at unless `instance` is given as well.
    pub(crate) fn matches(&self, wanted: &Map<String, Value>) -> bool {
        wanted.iter().filter(|(_, value)| !value.is_null()).all(|(key, value)| match key.as_str() {
            "peerId" if wanted.contains_key("instance") => true,
            "peerId" => text_of(value) == self.peer_id.to_lowercase(),
            key => self.identity.get(key).is_some_and(|own| text_of(own) == text_of(value)),
        })
    }
}

fn text_of(value: &Value) -> String {
    match value {
        Value::String(text) => text.to_lowercase(),
        other => other.to_string().to_lowercase(),
    }
}
