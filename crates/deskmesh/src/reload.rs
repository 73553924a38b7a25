//! Reading the configuration again while the node runs.
//!
//! The visibility lists are taken over at once. What else has changed needs a restart, and is named.

use std::sync::{Mutex, PoisonError};

use mesh_core::Input;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::config::{Config, ConfigError, Flags, key};
use crate::gateway::Gateway;
use crate::output;

/// What a node runs with, and where that came from.
pub(crate) struct Reloader {
    /// The command line; `None` for a node that was not made from one.
    flags: Option<Flags>,
    running: Mutex<Config>,
}

/// What reading the configuration again has done.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Reloaded {
    /// The keys whose new values are in force.
    pub(crate) applied: Vec<String>,
    /// The keys whose new values need a restart.
    pub(crate) needs_restart: Vec<String>,
}

impl Reloader {
    pub(crate) const fn new(config: Config, flags: Option<Flags>) -> Self {
        Self { flags, running: Mutex::new(config) }
    }

    /// Reads the configuration again and takes over what can be.
    ///
    /// # Errors
    ///
    /// Returns what is wrong with the configuration; nothing has changed then.
    pub(crate) fn reload(&self, gateway: &Gateway) -> Result<Reloaded, ConfigError> {
        let Some(flags) = &self.flags else { return Ok(Reloaded::default()) };
        let new = Config::load(flags.clone())?.config;
        let mut running = self.running.lock().unwrap_or_else(PoisonError::into_inner);
        let changed = changed_keys(&running, &new);
        let (applied, needs_restart): (Vec<_>, Vec<_>) =
            changed.into_iter().partition(|path| path.starts_with("visibility."));
        if !applied.is_empty()
            && let Ok(lists) = new.visibility.lists()
        {
            gateway.input(Input::Visibility(Box::new(lists)));
            running.visibility = new.visibility;
        }
        tracing::info!(applied = ?applied, needs_restart = ?needs_restart, "configuration read again");
        Ok(Reloaded { applied, needs_restart })
    }

    /// Returns the visibility lists in force, as lines of a configuration: contexts, methods, peers.
    pub(crate) fn lists(&self) -> crate::config::visibility::VisibilityConfig {
        self.running.lock().unwrap_or_else(PoisonError::into_inner).visibility.clone()
    }
}

fn changed_keys(old: &Config, new: &Config) -> Vec<String> {
    let value = |config: &Config| serde_json::to_value(config).unwrap_or(Value::Null);
    let (old, new) = (value(old), value(new));
    let at =
        |config: &Value, path: &str| path.split('.').fold(config.clone(), |value, name| value[name].clone());
    key::KEYS
        .iter()
        .filter(|key| at(&old, key.path) != at(&new, key.path))
        .map(|key| key.path.to_owned())
        .collect()
}

impl Reloaded {
    /// Says what was done, for people.
    pub(crate) fn print(&self) {
        match &self.applied[..] {
            [] => output::line("Nothing that can be changed while the node runs has changed."),
            applied => output::line(&format!("In force now: {}.", applied.join(", "))),
        }
        if !self.needs_restart.is_empty() {
            output::line(&format!(
                "Changed, but in force only after a restart: {}.",
                self.needs_restart.join(", ")
            ));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_has_changed_is_named() {
        let load = |values: Vec<(&'static str, String)>| {
            let values = [("data_dir", "/nowhere".to_owned())].into_iter().chain(values).collect();
            Config::load(Flags { config: None, values }).unwrap().config
        };
        let old = load(vec![]);
        let mut new = load(vec![("name", "other".into()), ("telemetry.log", "debug".into())]);
        new.visibility.contexts.push(crate::config::visibility::ContextRuleConfig {
            context: "x".into(),
            restrictions: crate::config::visibility::ScopeConfig::Local,
        });
        assert_eq!(changed_keys(&old, &new), ["name", "visibility.contexts", "telemetry.log"]);
        assert!(changed_keys(&old, &old).is_empty());
    }
}
