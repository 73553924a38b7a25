//! Keeps links up: dials every node that is known and not linked, with growing pauses.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use mesh_model::{LinkId, NodeId};
use mesh_net::quic::DialError;
use serde::{Deserialize, Serialize};
use tokio::task::JoinSet;

use crate::gateway::Gateway;

/// Pauses between dials of one target.
const PAUSE_FIRST: Duration = Duration::from_millis(200);
const PAUSE_LONGEST: Duration = Duration::from_secs(5);
/// How often targets are looked at when nothing changes.
const LOOK_EVERY: Duration = Duration::from_millis(200);
/// Most nodes that are remembered on disk.
const REMEMBERED_MAX: usize = 256;

/// What to dial: an address that was configured, or a node by what it says of itself.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Target {
    Seed(String),
    Node(NodeId),
}

#[derive(Debug, Default)]
struct Attempt {
    pause: Duration,
    /// Whether a dial is under way.
    dialling: bool,
    due: Option<tokio::time::Instant>,
    /// The link that a seed's dial led to.
    link: Option<LinkId>,
}

/// A node as it is remembered over a restart.
#[derive(Serialize, Deserialize)]
struct Remembered {
    node: String,
    addresses: Vec<String>,
}

/// Dials until the program ends.
pub(crate) async fn run(gateway: Arc<Gateway>, seeds: Vec<String>, data_dir: PathBuf) {
    let file = data_dir.join("peers.json");
    for known in read(&file) {
        if let Some(node) = NodeId::parse(&known.node) {
            gateway
                .addresses
                .entry(node)
                .or_insert_with(|| known.addresses.iter().map(|a| a.as_str().into()).collect());
        }
    }
    let mut attempts: BTreeMap<Target, Attempt> =
        seeds.into_iter().map(|seed| (Target::Seed(seed), Attempt::default())).collect();
    let mut saved = 0;
    let mut dials = JoinSet::new();
    loop {
        for known in &gateway.addresses {
            attempts.entry(Target::Node(*known.key())).or_default();
        }
        if gateway.addresses.len() != saved {
            saved = gateway.addresses.len();
            save(&gateway, &file);
        }
        // Those that are known by name go first: one that does not answer must not keep this node from the
        // others, and a seed is most often one of them.
        let mut seeds_wait = false;
        for (target, attempt) in attempts.iter_mut().rev() {
            if attempt.dialling {
                seeds_wait |= matches!(target, Target::Node(_));
                continue;
            }
            if is_linked(&gateway, target, attempt) {
                attempt.pause = Duration::ZERO;
                attempt.due = None;
                continue;
            }
            let waits = seeds_wait && matches!(target, Target::Seed(_));
            if waits || attempt.due.is_some_and(|due| due > tokio::time::Instant::now()) {
                continue;
            }
            seeds_wait |= matches!(target, Target::Node(_));
            attempt.pause = (attempt.pause * 2).clamp(PAUSE_FIRST, PAUSE_LONGEST);
            attempt.dialling = true;
            let (gateway, target) = (gateway.clone(), target.clone());
            dials.spawn(async move { (dial(&gateway, &target).await, target) });
        }
        tokio::select! {
            () = tokio::time::sleep(LOOK_EVERY) => {}
            () = gateway.topology_changed.notified() => {}
            Some(Ok((link, target))) = dials.join_next() => {
                if let Some(attempt) = attempts.get_mut(&target) {
                    attempt.link = link;
                    attempt.dialling = false;
                    attempt.due = Some(tokio::time::Instant::now() + attempt.pause);
                }
            }
        }
    }
}

fn is_linked(gateway: &Gateway, target: &Target, attempt: &Attempt) -> bool {
    match target {
        Target::Node(node) => {
            *node == gateway.identity().node() || gateway.links.iter().any(|link| link.value().0 == *node)
        }
        Target::Seed(_) => attempt.link.is_some_and(|link| gateway.links.contains_key(&link)),
    }
}

async fn dial(gateway: &Gateway, target: &Target) -> Option<LinkId> {
    let endpoint = gateway.endpoint()?;
    let (addresses, expected) = match target {
        Target::Seed(seed) => (vec![seed.clone()], None),
        Target::Node(node) => {
            let known = gateway.addresses.get(node)?;
            (known.iter().map(ToString::to_string).collect(), Some(*node))
        }
    };
    for address in addresses {
        let Ok(resolved) = tokio::net::lookup_host(&address).await else {
            tracing::debug!(%address, "the name of a node's address is not known");
            continue;
        };
        for socket in resolved.collect::<Vec<SocketAddr>>() {
            match endpoint.dial(socket, expected).await {
                Ok(link) => return Some(link),
                // A seed that turns out to be this node itself is no mistake: one list serves all nodes.
                Err(DialError::OwnNode) => return None,
                Err(error) => tracing::debug!(%address, %error, "a node could not be reached"),
            }
        }
    }
    None
}

fn read(file: &std::path::Path) -> Vec<Remembered> {
    std::fs::read(file).ok().and_then(|bytes| serde_json::from_slice(&bytes).ok()).unwrap_or_default()
}

/// Remembers where the others are, so that this node finds them after a restart without any seed.
fn save(gateway: &Gateway, file: &std::path::Path) {
    let mut all: Vec<Remembered> = gateway
        .addresses
        .iter()
        .take(REMEMBERED_MAX)
        .map(|known| Remembered {
            node: known.key().to_string(),
            addresses: known.value().iter().map(ToString::to_string).collect(),
        })
        .collect();
    all.sort_by(|a, b| a.node.cmp(&b.node));
    let temporary = file.with_extension("json.new");
    let written = serde_json::to_vec_pretty(&all)
        .map_err(std::io::Error::other)
        .and_then(|bytes| std::fs::write(&temporary, bytes))
        .and_then(|()| std::fs::rename(&temporary, file));
    if let Err(error) = written {
        tracing::warn!(%error, file = %file.display(), "the other nodes' addresses could not be saved");
    }
}
