//! The part of a desktop agent in the bridge of this machine.

use std::io;
use std::path::Path;
use std::sync::{Arc, Weak};
use std::time::Duration;

use mesh_model::Text;
use proto_bridge::BridgeSettings;
use tokio::sync::mpsc;
use tokio::time::Instant;

use super::service::Desktop;
use crate::config::Config;
use crate::config::bridge::rules;
use crate::config::place::is_readable_by_others;
use crate::fdc3_bridge::tokens::BridgeTokens;
use crate::fdc3_bridge::{self, BridgeConfig, BridgeEvent};

/// Ports of bridges behind the first.
const PORTS_MORE: u16 = 100;
/// How long what the bridge says waits for an app that does not read what it is sent.
const RELIEF: Duration = Duration::from_secs(1);

/// Begins to take part.
pub(crate) fn start(desktop: &Arc<Desktop>, config: &Config) {
    let first = config.fdc3.bridge_port;
    let tokens = match config.fdc3.bridge_secret_file.as_deref().map(tokens).transpose() {
        Ok(tokens) => tokens,
        Err((file, problem)) => {
            // Without the secret it would let in whoever comes.
            tracing::error!(
                file = %file.display(), %problem,
                "the node takes no part in a desktop agent bridge: fdc3.bridge_secret_file cannot be used"
            );
            return;
        }
    };
    desktop.with(|agent| agent.set_bridge_rules(rules(&config.fdc3.bridge_rules)));
    let itself = Arc::downgrade(desktop);
    let channels = move || {
        let desktop = itself.upgrade();
        desktop.map(|desktop| desktop.with(|agent| agent.bridge_channels()).0).unwrap_or_default()
    };
    let (handle, events) = fdc3_bridge::start(BridgeConfig {
        node: config.clone(),
        ports: first..=first.saturating_add(PORTS_MORE),
        name: Text::from(config.name.as_str()),
        implementation: desktop.with(|agent| agent.bridge_implementation()).0,
        settings: BridgeSettings::default(),
        channels: Arc::new(channels),
        tokens,
    });
    desktop.set_bridge(Some(handle));
    tokio::spawn(hand_over(Arc::downgrade(desktop), events));
}

/// Reads the secret.
fn tokens(file: &Path) -> Result<Arc<BridgeTokens>, (&Path, io::Error)> {
    if is_readable_by_others(file) {
        let file = file.display();
        tracing::warn!("{file} holds a secret that other users can read; run `chmod 600 {file}`");
    }
    BridgeTokens::read(file).map(Arc::new).map_err(|problem| (file, problem))
}

/// Hands the agent what the bridge has for it, until there is no more.
async fn hand_over(desktop: Weak<Desktop>, mut events: mpsc::Receiver<BridgeEvent>) {
    while let Some(event) = events.recv().await {
        let Some(desktop) = desktop.upgrade() else { return };
        let now = desktop.now();
        let ((), crowded) = desktop.with(|agent| match event {
            BridgeEvent::Joined { name, .. } => agent.bridge_joined(name, now),
            BridgeEvent::Left => agent.bridge_left(now),
            BridgeEvent::Message(message) => agent.bridge_message(message, now),
        });
        if let Some(crowded) = crowded {
            crowded.relieved(Instant::now() + RELIEF).await;
        }
    }
}
