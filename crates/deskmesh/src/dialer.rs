//! Keeps links up: dials every node that is known and not linked, with growing pauses.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use mesh_model::NodeId;
use mesh_net::quic::DialError;
use serde::{Deserialize, Serialize};
use tokio::task::JoinSet;
use tokio::time::Instant;

use crate::gateway::Gateway;

/// Pauses between dials of one target.
const PAUSE_FIRST: Duration = Duration::from_millis(200);
const PAUSE_LONGEST: Duration = Duration::from_secs(5);
/// How long a link lasts before the pauses begin anew.
const STEADY: Duration = Duration::from_secs(1);
/// How long one address is tried alone, before the next of the same target is tried beside it.
const HEAD_START: Duration = Duration::from_millis(250);
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
    due: Option<Instant>,
    linked_since: Option<Instant>,
    /// Who answered last at a seed.
    answered: Option<NodeId>,
}

/// A node as it is remembered over a restart.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Remembered {
    node: String,
    addresses: Vec<String>,
}

/// Dials until the program ends.
///
/// Each target is dialled by itself, so one that does not answer holds up no other. Where that leads to
/// a second link, one of the two is closed before anybody notices.
pub(crate) async fn run(gateway: Arc<Gateway>, seeds: Vec<String>, data_dir: PathBuf) {
    let file = data_dir.join("peers.json");
    let mut saved = read(&file);
    for known in &saved {
        if let Some(node) = NodeId::parse(&known.node) {
            gateway
                .addresses
                .entry(node)
                .or_insert_with(|| known.addresses.iter().map(|a| a.as_str().into()).collect());
        }
    }
    let mut attempts: BTreeMap<Target, Attempt> =
        seeds.into_iter().map(|seed| (Target::Seed(seed), Attempt::default())).collect();
    let mut dials = JoinSet::new();
    loop {
        for known in gateway.addresses.iter().chain(gateway.found.iter()) {
            attempts.entry(Target::Node(*known.key())).or_default();
        }
        attempts.retain(|target, _| match target {
            Target::Seed(_) => true,
            Target::Node(node) => gateway.addresses.contains_key(node) || gateway.found.contains_key(node),
        });
        for (target, attempt) in &mut attempts {
            if is_linked(&gateway, target, attempt) {
                // A link that is refused is there for a moment too.
                if attempt.linked_since.get_or_insert_with(Instant::now).elapsed() >= STEADY {
                    attempt.pause = Duration::ZERO;
                    attempt.due = None;
                }
                continue;
            }
            attempt.linked_since = None;
            if attempt.dialling || attempt.due.is_some_and(|due| due > Instant::now()) {
                continue;
            }
            attempt.pause = (attempt.pause * 2).clamp(PAUSE_FIRST, PAUSE_LONGEST);
            attempt.dialling = true;
            let (gateway, target) = (gateway.clone(), target.clone());
            dials.spawn(async move { (dial(gateway, &target).await, target) });
        }
        tokio::select! {
            () = tokio::time::sleep(LOOK_EVERY) => {}
            () = gateway.topology_changed.notified() => save(&gateway, &file, &mut saved),
            () = gateway.network_changed.notified() => {
                // Dials that are under way may wait long for an answer to what was lost.
                dials = JoinSet::new();
                for attempt in attempts.values_mut() {
                    *attempt = Attempt { answered: attempt.answered, ..Attempt::default() };
                }
            }
            Some(Ok((answered, target))) = dials.join_next() => {
                if let Some(attempt) = attempts.get_mut(&target) {
                    attempt.answered = answered.or(attempt.answered);
                    attempt.dialling = false;
                    attempt.due = Some(Instant::now() + attempt.pause);
                }
            }
        }
    }
}

fn is_linked(gateway: &Gateway, target: &Target, attempt: &Attempt) -> bool {
    let node = match target {
        Target::Node(node) => Some(*node),
        // A seed that turns out to be this node itself is no mistake: one list serves all nodes.
        Target::Seed(_) => attempt.answered,
    };
    node.is_some_and(|node| {
        node == gateway.identity().node() || gateway.links.iter().any(|link| link.value().0 == node)
    })
}

/// Dials all addresses of a target, and returns who answers first.
async fn dial(gateway: Arc<Gateway>, target: &Target) -> Option<NodeId> {
    let (addresses, expected) = match target {
        Target::Seed(seed) => (vec![seed.clone()], None),
        Target::Node(node) => {
            let mut all: Vec<String> = Vec::new();
            for known in [gateway.addresses.get(node), gateway.found.get(node)].into_iter().flatten() {
                all.extend(
                    known
                        .iter()
                        .map(ToString::to_string)
                        .filter(|address| !all.contains(address))
                        .collect::<Vec<_>>(),
                );
            }
            (all, Some(*node))
        }
    };
    let mut tries = JoinSet::new();
    for (turn, address) in (0..).zip(addresses) {
        let gateway = gateway.clone();
        tries.spawn(async move {
            tokio::time::sleep(HEAD_START * turn).await;
            dial_address(gateway, address, expected).await
        });
    }
    first(tries).await
}

/// Dials what an address stands for now: a name may mean another machine than the last time.
async fn dial_address(gateway: Arc<Gateway>, address: String, expected: Option<NodeId>) -> Option<NodeId> {
    let Ok(resolved) = tokio::net::lookup_host(&address).await else {
        tracing::debug!(%address, "the name of a node's address is not known");
        return None;
    };
    let mut tries = JoinSet::new();
    for (turn, socket) in (0..).zip(resolved) {
        let gateway = gateway.clone();
        tries.spawn(async move {
            tokio::time::sleep(HEAD_START * turn).await;
            dial_socket(&gateway, socket, expected).await
        });
    }
    first(tries).await
}

async fn dial_socket(gateway: &Gateway, socket: SocketAddr, expected: Option<NodeId>) -> Option<NodeId> {
    match gateway.endpoint()?.dial(socket, expected).await {
        Ok(dialled) => Some(dialled.node),
        Err(DialError::OwnNode) => {
            if !is_own(gateway, socket) {
                let advice = "stop the copy, delete its data directory and join with a new token";
                tracing::warn!(address = %socket, "another machine answers with this node's identity, so its data directory or disk was copied: {advice}");
            }
            Some(gateway.identity().node())
        }
        Err(error) => {
            tracing::debug!(address = %socket, %error, "a node could not be reached");
            None
        }
    }
}

/// Returns whether an address is this node's own: the machine has it, and the port is the node's.
fn is_own(gateway: &Gateway, socket: SocketAddr) -> bool {
    let port = gateway.endpoint().and_then(|endpoint| endpoint.local_addr().ok()).map(|local| local.port());
    port == Some(socket.port()) && std::net::UdpSocket::bind(SocketAddr::new(socket.ip(), 0)).is_ok()
}

/// Returns the first success, and gives up the rest.
async fn first(mut tries: JoinSet<Option<NodeId>>) -> Option<NodeId> {
    while let Some(done) = tries.join_next().await {
        if let Ok(Some(node)) = done {
            return Some(node);
        }
    }
    None
}

fn read(file: &Path) -> Vec<Remembered> {
    std::fs::read(file).ok().and_then(|bytes| serde_json::from_slice(&bytes).ok()).unwrap_or_default()
}

/// Remembers where the others are, so that this node finds them after a restart without any seed.
fn save(gateway: &Gateway, file: &Path, saved: &mut Vec<Remembered>) {
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
    if all == *saved {
        return;
    }
    let temporary = file.with_extension("json.new");
    let written = serde_json::to_vec_pretty(&all)
        .map_err(std::io::Error::other)
        .and_then(|bytes| std::fs::write(&temporary, bytes))
        .and_then(|()| std::fs::rename(&temporary, file));
    match written {
        Ok(()) => *saved = all,
        Err(error) => {
            tracing::warn!(%error, file = %file.display(), "the other nodes' addresses could not be saved");
        }
    }
}
