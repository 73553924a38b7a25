//! What the launcher shows, and what it can do.

use fdc3_directory::{Details, Record};
use mesh_model::{Json, Text};

use crate::app::State;
use crate::channel::Kind;
use crate::{Agent, Output, Time};

/// An app that can be started.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AppItem {
    /// Its id.
    pub app_id: Text,
    /// Its `AppMetadata`.
    pub metadata: Json,
    /// Its page, if it is a web app.
    pub url: Option<String>,
    /// The node it would start on.
    pub node: Text,
    /// Whether it is of this node.
    pub local: bool,
}

/// A running app of this node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct InstanceItem {
    /// Its app.
    pub app_id: Text,
    /// Its id.
    pub instance: Text,
    /// Its `AppMetadata`.
    pub metadata: Json,
    /// The user channel that it is on: its `Channel` object.
    pub channel: Option<Json>,
    /// Whether it has connected yet.
    pub connected: bool,
}

fn url_of(record: &Record) -> Option<String> {
    match &record.details {
        Details::Web { url } => Some(url.as_str().to_owned()),
        _ => None,
    }
}

impl Agent {
    /// Returns the node's name.
    #[must_use]
    pub fn node(&self) -> &Text {
        &self.settings.node
    }

    /// Returns the apps of all nodes.
    #[must_use]
    pub fn apps(&self) -> Vec<AppItem> {
        let own = self.directory.iter().map(|record| AppItem {
            app_id: record.app_id.clone(),
            metadata: record.metadata.clone(),
            url: url_of(record),
            node: self.settings.node.clone(),
            local: true,
        });
        let others = self.peers.records().map(|(node, record)| AppItem {
            app_id: record.app_id.clone(),
            metadata: record.metadata.clone(),
            url: url_of(record),
            node: node.clone(),
            local: false,
        });
        own.chain(others).collect()
    }

    /// Returns the user channels: their `Channel` objects.
    #[must_use]
    pub fn channels(&self) -> Vec<Json> {
        let users = self.channels.by_id.iter().filter(|(_, channel)| matches!(channel.kind, Kind::User(_)));
        users.map(|(id, channel)| channel.about(id)).collect()
    }

    /// Returns the apps that run here, or are being started.
    #[must_use]
    pub fn instances(&self) -> Vec<InstanceItem> {
        let running = self.apps.iter().filter(|(_, app)| app.state != State::Away);
        running
            .map(|(instance, app)| InstanceItem {
                app_id: app.app_id.clone(),
                instance: instance.clone(),
                metadata: self.instance_metadata(&app.app_id, instance, None).end(),
                channel: app.channel.as_ref().and_then(|id| Some(self.channels.by_id.get(id)?.about(id))),
                connected: app.state == State::Connected,
            })
            .collect()
    }

    /// Puts an app on a user channel, or on none. Returns whether there are both.
    pub fn move_to(&mut self, instance: &Text, channel: Option<&Text>, now: Time) -> bool {
        self.now = now;
        let is_user = |id: &Text| {
            self.channels.by_id.get(id).is_some_and(|channel| matches!(channel.kind, Kind::User(_)))
        };
        let possible = self.is_connected(instance) && channel.is_none_or(is_user);
        if possible {
            self.set_channel(instance, channel.cloned(), false);
        }
        possible
    }

    /// The window of an app was closed.
    pub fn window_closed(&mut self, instance: &Text, now: Time) {
        self.now = now;
        match self.apps.get(instance).map(|app| app.connection) {
            Some(Some(connection)) => {
                self.disconnect(connection);
                self.outputs.push_back(Output::Close(connection, "the window was closed".into()));
            }
            Some(None) => self.launched(instance, false, now),
            None => {}
        }
    }
}
