//! Keeps links up: dials every node that is known and not linked, with growing pauses.
//!
//! A node record is never removed, and its machine may be gone for good. So it is counted how long a node
//! was dialled in vain while others could be reached, over restarts of this node too: after a day it is
//! dialled seldom, after 30 days not at all, until it comes by itself or says that it is elsewhere.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use mesh_model::{NodeId, Text};
use mesh_net::quic::DialError;
use serde::{Deserialize, Serialize};
use tokio::task::{AbortHandle, JoinSet};
use tokio::time::Instant;

use crate::gateway::Gateway;

/// Pauses between dials of one target.
const PAUSE_FIRST: Duration = Duration::from_millis(200);
const PAUSE_LONGEST: Duration = Duration::from_secs(5);
/// How long a node is missing before it is no longer dialled eagerly: it may be back at any moment.
const EAGER_FOR: Duration = Duration::from_mins(1);
const PAUSE_LONGEST_EAGER: Duration = Duration::from_secs(1);
/// How often an eager dial is begun anew beside the one that is waited for.
const AGAIN_EVERY: Duration = Duration::from_millis(1_500);
/// The same for a node that was dialled in vain for a day.
const PAUSE_LONGEST_SELDOM: Duration = Duration::from_mins(5);
const SELDOM_AFTER: Duration = Duration::from_hours(24);
/// How long a node is dialled in vain before it is given up.
const GIVEN_UP_AFTER: Duration = Duration::from_hours(30 * 24);
/// How often what was counted is written down, if nothing else is.
const SAVE_EVERY: Duration = Duration::from_hours(1);
/// How long a link lasts before the pauses begin anew.
const STEADY: Duration = Duration::from_secs(1);
/// How much later than the other end one dials that has lost the same link.
const SECOND_AFTER: Duration = Duration::from_millis(300);
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
    /// The dial that is under way.
    dial: Option<AbortHandle>,
    due: Option<Instant>,
    linked_since: Option<Instant>,
    missing_since: Option<Instant>,
    /// Who answered last at a seed.
    answered: Option<NodeId>,
    /// Where the node was said to be, and how long it was dialled there in vain.
    addresses: Vec<Text>,
    in_vain: Duration,
}

/// A node as it is remembered over a restart. One without an id is not known yet: addresses that came
/// with a token.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Remembered {
    node: String,
    addresses: Vec<String>,
    #[serde(default)]
    in_vain_s: u64,
}

impl Attempt {
    /// Counts time for which a node is not there, or no more since it is, or is said to be somewhere else.
    fn count(&mut self, passed: Duration, is_there: bool, addresses: Vec<Text>) {
        if is_there || self.addresses != addresses {
            self.in_vain = Duration::ZERO;
            self.addresses = addresses;
        } else {
            self.in_vain += passed;
        }
    }

    /// Has a node dialled at once that is elsewhere, or somewhere else too: a dial that is under way knows nothing
    /// of that.
    fn note_addresses(&mut self, known: &[Text]) {
        if self.addresses == known {
            return;
        }
        if let Some(dial) = self.dial.take() {
            dial.abort();
        }
        self.due = None;
    }

    /// Ends a dial that is under way: the node has been reached otherwise, and what comes of a second handshake
    /// would only be closed again.
    fn give_up_dial(&mut self) {
        if let Some(dial) = self.dial.take() {
            dial.abort();
            self.due = Some(Instant::now() + self.pause);
        }
    }

    /// Returns the longest pause between dials; none if there are to be no more.
    fn pause_longest(&self) -> Option<Duration> {
        match self.in_vain {
            time if time < SELDOM_AFTER => Some(PAUSE_LONGEST),
            time if time < GIVEN_UP_AFTER => Some(PAUSE_LONGEST_SELDOM),
            _ => None,
        }
    }
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
    let unknown = saved.iter().filter(|known| known.node.is_empty());
    for seed in unknown.flat_map(|known| &known.addresses) {
        attempts.entry(Target::Seed(seed.clone())).or_default();
    }
    for known in &saved {
        if let Some(node) = NodeId::parse(&known.node) {
            let addresses = known.addresses.iter().map(|address| address.as_str().into()).collect();
            let in_vain = Duration::from_secs(known.in_vain_s);
            attempts.insert(Target::Node(node), Attempt { addresses, in_vain, ..Attempt::default() });
        }
    }
    let mut dials = JoinSet::new();
    let (mut looked, mut written) = (Instant::now(), Instant::now());
    loop {
        for known in gateway.addresses.iter().chain(gateway.found.iter()) {
            attempts.entry(Target::Node(*known.key())).or_default();
        }
        attempts.retain(|target, _| match target {
            Target::Seed(_) => true,
            Target::Node(node) => gateway.addresses.contains_key(node) || gateway.found.contains_key(node),
        });
        // Alone, this node cannot tell whether the others are gone or its network is.
        let passed = if gateway.links.is_empty() { Duration::ZERO } else { looked.elapsed() };
        looked = Instant::now();
        for (target, attempt) in &mut attempts {
            if let Target::Node(node) = target {
                let known = all_addresses(&gateway, *node);
                attempt.note_addresses(&known);
                // By way of a third it is there too, and a direct way may come back.
                attempt.count(passed, gateway.look(|core| core.reaches(*node)), known);
            }
            if is_linked(&gateway, target, attempt) {
                if target.node(attempt).is_some_and(|node| gateway.look(|core| core.reaches_directly(node))) {
                    attempt.give_up_dial();
                }
                // A link that is refused is there for a moment too.
                if attempt.linked_since.get_or_insert_with(Instant::now).elapsed() >= STEADY {
                    attempt.pause = Duration::ZERO;
                    // Both ends lose a link at once. One waits, so that they do not find each other at once, too.
                    let waits = target.node(attempt).is_some_and(|node| gateway.identity().node() > node);
                    attempt.due = waits.then(|| Instant::now() + SECOND_AFTER);
                    attempt.missing_since = None;
                }
                continue;
            }
            attempt.linked_since = None;
            let is_eager = attempt.missing_since.get_or_insert_with(Instant::now).elapsed() < EAGER_FOR;
            if attempt.dial.is_some() || attempt.due.is_some_and(|due| due > Instant::now()) {
                continue;
            }
            if is_eager && is_said_address(target, attempt, |node| all_addresses(&gateway, node)) {
                continue;
            }
            let Some(longest) = attempt.pause_longest() else { continue };
            let longest = if is_eager { longest.min(PAUSE_LONGEST_EAGER) } else { longest };
            attempt.pause = (attempt.pause * 2).clamp(PAUSE_FIRST, longest);
            let (gateway, target) = (gateway.clone(), target.clone());
            let dial = async move { (dial(gateway, &target, is_eager).await, target) };
            attempt.dial = Some(dials.spawn(dial));
        }
        tokio::select! {
            () = tokio::time::sleep(LOOK_EVERY) => {
                if written.elapsed() >= SAVE_EVERY {
                    written = Instant::now();
                    save(&gateway, &attempts, &file, &mut saved);
                }
            }
            () = gateway.topology_changed.notified() => save(&gateway, &attempts, &file, &mut saved),
            () = gateway.network_changed.notified() => {
                // Dials that are under way may wait long for an answer to what was lost.
                dials = JoinSet::new();
                for attempt in attempts.values_mut() {
                    let addresses = std::mem::take(&mut attempt.addresses);
                    let (answered, in_vain) = (attempt.answered, attempt.in_vain);
                    *attempt = Attempt { answered, addresses, in_vain, ..Attempt::default() };
                }
            }
            Some(Ok((answered, target))) = dials.join_next() => {
                if let Some(attempt) = attempts.get_mut(&target) {
                    attempt.answered = answered.or(attempt.answered);
                    attempt.dial = None;
                    attempt.due = Some(Instant::now() + attempt.pause);
                }
            }
        }
    }
}

impl Target {
    /// Returns which node that is, or who answered there.
    const fn node(&self, attempt: &Attempt) -> Option<NodeId> {
        match self {
            Self::Node(node) => Some(*node),
            Self::Seed(_) => attempt.answered,
        }
    }
}

fn is_linked(gateway: &Gateway, target: &Target, attempt: &Attempt) -> bool {
    target.node(attempt).is_some_and(|node| {
        // A seed that turns out to be this node itself is no mistake: one list serves all nodes.
        node == gateway.identity().node() || gateway.links.iter().any(|link| link.value().0 == node)
    })
}

/// Returns whether a target is a seed where a node answered that says so of itself: it is dialled there as that
/// node, and once is enough. After a while that counts no more, since another may be there now.
fn is_said_address(target: &Target, attempt: &Attempt, said: impl Fn(NodeId) -> Vec<Text>) -> bool {
    let (Target::Seed(seed), Some(node)) = (target, attempt.answered) else { return false };
    said(node).iter().any(|address| **address == **seed)
}

/// Returns where a node says that it is, and where it was found.
fn all_addresses(gateway: &Gateway, node: NodeId) -> Vec<Text> {
    let said = gateway.addresses.get(&node).map(|known| known.clone());
    let found = gateway.found.get(&node).map(|known| known.clone());
    let mut all = said.unwrap_or_default();
    for address in found.unwrap_or_default() {
        if !all.contains(&address) {
            all.push(address);
        }
    }
    all
}

/// Dials all addresses of a target, and returns who answers first.
async fn dial(gateway: Arc<Gateway>, target: &Target, is_eager: bool) -> Option<NodeId> {
    let (addresses, expected) = match target {
        Target::Seed(seed) => (vec![seed.clone()], None),
        Target::Node(node) => {
            let all = all_addresses(&gateway, *node);
            (all.iter().map(ToString::to_string).collect(), Some(*node))
        }
    };
    let mut tries = JoinSet::new();
    for (turn, address) in (0..).zip(addresses) {
        let gateway = gateway.clone();
        tries.spawn(async move {
            tokio::time::sleep(HEAD_START * turn).await;
            dial_address(gateway, address, expected, is_eager).await
        });
    }
    first(tries).await
}

/// Dials what an address stands for now: a name may mean another machine than the last time.
async fn dial_address(
    gateway: Arc<Gateway>,
    address: String,
    expected: Option<NodeId>,
    is_eager: bool,
) -> Option<NodeId> {
    let Ok(resolved) = tokio::net::lookup_host(&address).await else {
        tracing::debug!(%address, "the name of a node's address is not known");
        return None;
    };
    let mut tries = JoinSet::new();
    for (turn, socket) in (0..).zip(resolved) {
        let gateway = gateway.clone();
        tries.spawn(async move {
            tokio::time::sleep(HEAD_START * turn).await;
            match is_eager {
                true => eagerly(|| dial_socket(&gateway, socket, expected)).await,
                false => dial_socket(&gateway, socket, expected).await,
            }
        });
    }
    first(tries).await
}

/// Dials, and dials again beside it until one dial has an answer or the first has failed. A dial that was begun
/// while the network was away repeats its first packet ever more seldom, and would hear late that it is back.
async fn eagerly<F: Future<Output = Option<NodeId>>>(dial: impl Fn() -> F) -> Option<NodeId> {
    let again = async {
        tokio::time::sleep(AGAIN_EVERY).await;
        loop {
            let next = tokio::time::sleep(AGAIN_EVERY);
            if let Ok(Some(node)) = tokio::time::timeout(AGAIN_EVERY, dial()).await {
                return node;
            }
            next.await;
        }
    };
    tokio::select! {
        answered = dial() => answered,
        node = again => Some(node),
    }
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
fn save(gateway: &Gateway, attempts: &BTreeMap<Target, Attempt>, file: &Path, saved: &mut Vec<Remembered>) {
    let in_vain =
        |node: &NodeId| attempts.get(&Target::Node(*node)).map_or(0, |known| known.in_vain.as_secs());
    let mut all: Vec<Remembered> = gateway
        .addresses
        .iter()
        .take(REMEMBERED_MAX)
        .map(|known| Remembered {
            node: known.key().to_string(),
            addresses: known.value().iter().map(ToString::to_string).collect(),
            in_vain_s: in_vain(known.key()),
        })
        .collect();
    all.sort_by(|a, b| a.node.cmp(&b.node));
    // As long as nobody has been reached, the addresses of the token are all there is.
    if all == *saved || all.is_empty() {
        return;
    }
    if write(file, &all) {
        *saved = all;
    }
}

/// Remembers where the node that has let this one join is, for a start after one that fails.
pub(crate) fn remember_seeds(data_dir: &Path, seeds: &[String]) {
    let known = Remembered { node: String::new(), addresses: seeds.to_vec(), in_vain_s: 0 };
    write(&data_dir.join("peers.json"), &[known]);
}

fn write(file: &Path, all: &[Remembered]) -> bool {
    let temporary = file.with_extension("json.new");
    let written = serde_json::to_vec_pretty(all)
        .map_err(std::io::Error::other)
        .and_then(|bytes| std::fs::write(&temporary, bytes))
        .and_then(|()| std::fs::rename(&temporary, file));
    if let Err(error) = &written {
        tracing::warn!(%error, file = %file.display(), "the other nodes' addresses could not be saved");
    }
    written.is_ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_node_that_does_not_answer_is_dialled_less_and_then_not_at_all() {
        let day = Duration::from_hours(24);
        let here = || vec![Text::from("10.0.0.5:8386")];
        let mut attempt = Attempt::default();
        attempt.count(day, false, here());
        assert_eq!(attempt.pause_longest(), Some(PAUSE_LONGEST), "from now on it is counted");
        attempt.count(day, false, here());
        assert_eq!(attempt.pause_longest(), Some(PAUSE_LONGEST_SELDOM));
        attempt.count(29 * day, false, here());
        assert_eq!(attempt.pause_longest(), None);
        let mut elsewhere = Attempt { addresses: here(), in_vain: attempt.in_vain, ..Attempt::default() };
        elsewhere.count(day, false, vec![Text::from("10.0.0.6:8386")]);
        assert_eq!(elsewhere.pause_longest(), Some(PAUSE_LONGEST), "it is somewhere else");
        attempt.count(day, true, here());
        assert_eq!(attempt.pause_longest(), Some(PAUSE_LONGEST), "it has come by itself");
    }

    #[tokio::test]
    async fn a_dial_ends_when_the_node_is_reached_otherwise_and_is_not_repeated_at_once() {
        let mut dials: JoinSet<()> = JoinSet::new();
        let dial = Some(dials.spawn(std::future::pending()));
        let mut attempt = Attempt { dial, pause: PAUSE_FIRST, ..Attempt::default() };
        attempt.give_up_dial();
        assert!(dials.join_next().await.unwrap().is_err_and(|error| error.is_cancelled()));
        assert!(attempt.dial.is_none() && attempt.due.is_some_and(|due| due > Instant::now()));
        attempt.due = None;
        attempt.give_up_dial();
        assert_eq!(attempt.due, None, "there was none to end");
    }

    #[tokio::test]
    async fn a_node_that_is_said_to_be_elsewhere_is_dialled_there_at_once() {
        let mut dials: JoinSet<()> = JoinSet::new();
        let dial = Some(dials.spawn(std::future::pending()));
        let (here, both) = (vec![Text::from("10.0.0.5:8386")], ["10.0.0.5:8386", "10.0.0.6:8386"]);
        let due = Some(Instant::now() + PAUSE_LONGEST);
        let mut attempt = Attempt { dial, due, addresses: here.clone(), ..Attempt::default() };
        attempt.note_addresses(&here);
        assert!(attempt.dial.is_some() && attempt.due == due, "nothing is new");
        attempt.note_addresses(&both.map(Text::from));
        assert!(attempt.dial.is_none() && attempt.due.is_none());
        assert!(dials.join_next().await.unwrap().is_err_and(|error| error.is_cancelled()));
    }

    #[test]
    fn a_seed_is_left_to_the_node_that_says_it_is_there() {
        let seed = |address: &str| Target::Seed(address.to_owned());
        let answered = Attempt { answered: Some(NodeId([7; 16])), ..Attempt::default() };
        let said = |_: NodeId| vec![Text::from("10.0.0.5:8386")];
        assert!(is_said_address(&seed("10.0.0.5:8386"), &answered, said));
        assert!(!is_said_address(&seed("10.0.0.6:8386"), &answered, said), "it answered somewhere else");
        assert!(!is_said_address(&seed("10.0.0.5:8386"), &Attempt::default(), said), "nobody has answered");
        assert!(!is_said_address(&Target::Node(NodeId([7; 16])), &answered, said));
    }

    #[tokio::test(start_paused = true)]
    async fn an_eager_dial_notices_soon_that_the_network_is_back() {
        let (begun, node) = (Instant::now(), NodeId([7; 16]));
        let back = begun + Duration::from_secs(8);
        // A dial that is begun too early sends its next packet long after that.
        let dial = || async move {
            if Instant::now() < back {
                tokio::time::sleep(Duration::from_secs(60)).await;
            }
            Some(node)
        };
        assert_eq!(eagerly(dial).await, Some(node));
        assert!(Instant::now() <= back + AGAIN_EVERY);
        assert_eq!(eagerly(|| async { None }).await, None, "refused at once");
    }

    #[test]
    fn what_was_counted_outlives_this_node_and_older_files_are_read() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("peers.json");
        std::fs::write(
            &file,
            r#"[{"node":"07","addresses":["a:1"]},{"node":"08","addresses":[],"in_vain_s":9}]"#,
        )
        .unwrap();
        let counted: Vec<u64> = read(&file).iter().map(|known| known.in_vain_s).collect();
        assert_eq!(counted, [0, 9]);
    }
}
