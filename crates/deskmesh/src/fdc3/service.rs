//! The desktop agents of this node, one per user, and the loop around each.
//!
//! As with the node itself, whoever has an input takes the lock, hands it over and carries out what the
//! agent says, which may be a command for the node; and then what the node says to the agent's own
//! sessions, until there is no more. So a broadcast has been delivered here when its sender goes on.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError, Weak};
use std::time::Duration;

use dashmap::DashMap;
use fdc3_agent::{Agent, ConnectionId, Limits, Output, Refused, Settings, Time};
use fdc3_directory::{Details, Directory, Record};
use mesh_core::Input;
use mesh_model::{SessionId, Text};
use tokio::sync::{Notify, watch};

use super::launch::{Credentials, Process, launch};
use super::launcher::Launchers;
use crate::config::{Config, LimitsConfig};
use crate::fdc3_bridge::BridgeHandle;
use crate::gateway::Gateway;
use crate::local::websocket::CloseWith;
use crate::outbox::{Item, Outbox, Taken};

/// Users that may have an agent at a time: programs name their user as they like.
const DESKTOPS_MAX: usize = 1_024;
/// How often it is looked which agents nobody needs any more.
const RETIRE_EVERY: Duration = Duration::from_secs(10);

/// All desktop agents of the node.
pub(crate) struct Fdc3 {
    gateway: Arc<Gateway>,
    config: Config,
    /// Where applications connect.
    address: SocketAddr,
    instance_key: [u8; 32],
    directory: OnceLock<watch::Receiver<Arc<Directory>>>,
    desktops: Mutex<BTreeMap<Text, Arc<Desktop>>>,
    next_connection: AtomicU64,
}

/// The desktop agent of one user, while it runs.
pub(crate) struct Desktop {
    user: Text,
    /// It is that of the user to whom FDC3 apps belong, and stays as long as the node.
    is_usual: bool,
    gateway: Arc<Gateway>,
    agent: Mutex<Agent>,
    /// What the node says to the sessions of the agent.
    outbox: Arc<Outbox>,
    connections: DashMap<ConnectionId, Arc<Outbox>>,
    pub(crate) launchers: Launchers,
    /// The native apps that were started, until they end.
    processes: DashMap<Text, Process>,
    /// Where native apps connect.
    websocket_url: String,
    /// When the agent's next timer is due; its task is woken when that is sooner than it knew.
    timer_at: AtomicU64,
    timer_wake: Notify,
    /// From when on it is said again that a limit is reached.
    limit_told_from: AtomicU64,
    /// The bridge, while this agent takes part in one.
    bridge: Mutex<Option<BridgeHandle>>,
    itself: Weak<Self>,
}

impl Fdc3 {
    pub(crate) fn new(
        gateway: Arc<Gateway>,
        config: &Config,
        address: SocketAddr,
        instance_key: [u8; 32],
    ) -> Self {
        Self {
            gateway,
            config: config.clone(),
            address,
            instance_key,
            directory: OnceLock::new(),
            desktops: Mutex::default(),
            next_connection: AtomicU64::new(1),
        }
    }

    /// Takes the directories. If they hold anything, the agent starts now, so that other nodes know of it;
    /// else with the first app.
    pub(crate) fn set_directory(&self, directory: watch::Receiver<Arc<Directory>>) {
        let is_empty = directory.borrow().iter().len() == 0;
        let _ = self.directory.set(directory);
        if !is_empty || !self.config.fdc3.directories.is_empty() || self.config.fdc3.bridge {
            let _ = self.desktop(None);
        }
    }

    /// Returns the agent of a user, by default of the one to whom FDC3 apps belong; it is started if it does
    /// not run. There is none, and the sentence says why, if there are too many already, or if the system
    /// gives no random bytes.
    pub(crate) fn desktop(&self, user: Option<&str>) -> Result<Arc<Desktop>, String> {
        let usual = self.config.fdc3.user.as_deref().unwrap_or_else(|| self.gateway.identity().owner());
        let is_usual = user.is_none_or(|user| user == usual);
        let user = Text::from(user.unwrap_or(usual));
        let mut desktops = self.desktops.lock().unwrap_or_else(PoisonError::into_inner);
        desktops.retain(|_, desktop| desktop.outbox.closed().is_none());
        if let Some(desktop) = desktops.get(&user) {
            return Ok(desktop.clone());
        }
        if desktops.len() >= DESKTOPS_MAX {
            retire(&mut desktops);
        }
        if desktops.len() >= DESKTOPS_MAX {
            let max = DESKTOPS_MAX;
            let why = format!("no desktop agent for another user: limit DESKTOPS_MAX ({max}) is reached");
            tracing::warn!(%user, "{why}");
            return Err(why);
        }
        let started = self.start(user.clone(), is_usual);
        let desktop = started.ok_or_else(|| "the system gives no random bytes".to_owned())?;
        desktops.insert(user, desktop.clone());
        Ok(desktop)
    }

    fn start(&self, user: Text, is_usual: bool) -> Option<Arc<Desktop>> {
        let directory = self.directory.get().cloned();
        let now = directory.as_ref().map(|directory| directory.borrow().clone()).unwrap_or_default();
        let mut secret = [0; 32];
        ring::rand::SecureRandom::fill(&ring::rand::SystemRandom::new(), &mut secret).ok()?;
        let settings = Settings {
            node: Text::from(self.config.name.as_str()),
            user: user.clone(),
            version: Text::from_static(env!("CARGO_PKG_VERSION")),
            secret,
            instance_key: self.instance_key,
            json: self.config.limits.json(),
            limits: Limits {
                result_ms: self.config.fdc3.intent_result_timeout_s * 1_000,
                ..Limits::default()
            },
        };
        // What is said to the agent is taken at once; nothing of it may be made one or be dropped.
        let max = self.config.limits.session_outbox_bytes_max;
        let mut outbox = Outbox::new(&LimitsConfig {
            outbox_control_bytes_max: max,
            outbox_calls_bytes_max: max,
            outbox_context_conflate_bytes: max,
            outbox_context_bytes_max: max,
            outbox_stream_bytes_max: max,
            ..self.config.limits.clone()
        });
        outbox.serves_many = true;
        let outbox = Arc::new(outbox);
        let session = self.gateway.open_session(&outbox);
        let agent = Agent::new(settings, session, now, time(&self.gateway));
        let mut websocket_url = format!("ws://{}/fdc3", self.address);
        if !is_usual {
            let user = percent_encoding::utf8_percent_encode(&user, percent_encoding::NON_ALPHANUMERIC);
            websocket_url = format!("{websocket_url}?user={user}");
        }
        let desktop = Arc::new_cyclic(|itself| Desktop {
            user,
            is_usual,
            gateway: self.gateway.clone(),
            agent: Mutex::new(agent),
            outbox,
            connections: DashMap::new(),
            launchers: Launchers::default(),
            processes: DashMap::new(),
            websocket_url,
            timer_at: AtomicU64::new(u64::MAX),
            timer_wake: Notify::new(),
            limit_told_from: AtomicU64::new(0),
            bridge: Mutex::default(),
            itself: itself.clone(),
        });
        desktop.with(|_| ());
        if is_usual && self.config.fdc3.bridge {
            super::bridge::start(&desktop, &self.config);
        }
        tokio::spawn(desktop.clone().run(session, directory));
        Some(desktop)
    }

    /// Starts agents for users who need one though they have no FDC3 app here, and ends those that nobody
    /// needs, until the program ends.
    pub(crate) async fn run(&self) {
        let mut retire_now = tokio::time::interval(RETIRE_EVERY);
        loop {
            tokio::select! {
                users = self.gateway.agents_wanted() => {
                    for user in users {
                        let _ = self.desktop(Some(&user));
                    }
                }
                _ = retire_now.tick() => {
                    retire(&mut self.desktops.lock().unwrap_or_else(PoisonError::into_inner));
                }
            }
        }
    }

    /// Returns a number for a connection.
    pub(crate) fn connection(&self) -> ConnectionId {
        ConnectionId(self.next_connection.fetch_add(1, Ordering::Relaxed))
    }

    /// Returns the origins of the apps in the directory: their pages may embed the adaptor.
    pub(crate) fn app_origins(&self) -> Vec<String> {
        let Some(directory) = self.directory.get() else { return Vec::new() };
        let directory = directory.borrow().clone();
        let mut origins: Vec<String> = directory
            .iter()
            .filter_map(|record| match &record.details {
                Details::Web { url } => Some(url.origin()),
                _ => None,
            })
            .collect();
        origins.sort();
        origins.dedup();
        origins
    }

    /// Tells all connections to close.
    pub(crate) fn close_all(&self, with: &CloseWith) {
        let desktops = self.desktops.lock().unwrap_or_else(PoisonError::into_inner);
        for desktop in desktops.values() {
            for outbox in &desktop.connections {
                outbox.push(Item::Close(with.clone()));
            }
            desktop.launchers.close(with);
        }
    }
}

/// Ends the agents that nobody needs, and takes them from the table.
fn retire(desktops: &mut BTreeMap<Text, Arc<Desktop>>) {
    desktops.retain(|_, desktop| {
        // The table has it, and its own task. A connection has it too, and gets it from the table, which is
        // locked here.
        let is_used = Arc::strong_count(desktop) > 2;
        if desktop.is_usual || is_used || !desktop.lock().is_idle() {
            return true;
        }
        let reason = "the last FDC3 app of this user has left".to_owned();
        desktop.outbox.push(Item::Close(CloseWith { code: 1000, reason }));
        false
    });
}

fn time(gateway: &Gateway) -> Time {
    Time { ms: gateway.clock.now().0 / 1000, wall_ms: gateway.clock.wall_ms() }
}

impl Desktop {
    /// Does something with the agent, and carries out what it says, and what the node says to that.
    ///
    /// Returns also an outbox that this has filled by more than half; see [`Gateway::input`].
    pub(crate) fn with<T>(&self, what: impl FnOnce(&mut Agent) -> T) -> (T, Option<Arc<Outbox>>) {
        let mut agent = self.lock();
        let result = what(&mut agent);
        let mut crowded = None;
        let mut changed = false;
        loop {
            self.carry_out(&mut agent, &mut crowded, &mut changed);
            let Taken::Items(items) = self.outbox.take() else { break };
            for item in items {
                match item {
                    Item::Event(session, event) => agent.event(session, event, time(&self.gateway)),
                    Item::Ended(session) => agent.session_ended(session, time(&self.gateway)),
                    _ => {}
                }
            }
        }
        if changed {
            self.launchers.show(&agent);
        }
        let next = agent.poll_timeout().unwrap_or(u64::MAX);
        if next < self.timer_at.swap(next, Ordering::Relaxed) {
            self.timer_wake.notify_one();
        }
        (result, crowded)
    }

    /// Returns the time as agents know it.
    pub(crate) fn now(&self) -> Time {
        time(&self.gateway)
    }

    pub(crate) fn gateway(&self) -> &Gateway {
        &self.gateway
    }

    /// Makes a session for an app, whose events the agent gets.
    pub(crate) fn open_session(&self) -> SessionId {
        self.gateway.open_session(&self.outbox)
    }

    pub(crate) fn add_connection(&self, connection: ConnectionId, outbox: &Arc<Outbox>) {
        self.connections.insert(connection, outbox.clone());
    }

    pub(crate) fn remove_connection(&self, connection: ConnectionId) {
        self.connections.remove(&connection);
    }

    /// Takes part in a bridge from now on, or no longer.
    pub(crate) fn set_bridge(&self, bridge: Option<BridgeHandle>) {
        *self.bridge() = bridge;
    }

    fn bridge(&self) -> MutexGuard<'_, Option<BridgeHandle>> {
        self.bridge.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn lock(&self) -> MutexGuard<'_, Agent> {
        self.agent.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Passes on what comes by itself: from the node, from the clock, and of the directory.
    async fn run(
        self: Arc<Self>,
        session: SessionId,
        mut directory: Option<watch::Receiver<Arc<Directory>>>,
    ) {
        loop {
            let wait = self.timer_at.load(Ordering::Relaxed).saturating_sub(self.now().ms);
            tokio::select! {
                () = self.outbox.changed() => {
                    self.with(|_| ());
                }
                () = self.timer_wake.notified() => continue,
                () = tokio::time::sleep(Duration::from_millis(wait.min(60_000))) => {
                    let now = self.now();
                    self.with(|agent| agent.handle_timeout(now));
                }
                directory = changed(directory.as_mut()) => {
                    let now = self.now();
                    self.with(|agent| agent.set_directory(directory, now));
                }
            }
            if let Some(with) = self.outbox.closed() {
                // Nobody needs it, or the node shuts down; or this agent was too slow, which it must not be.
                tracing::info!(user = %self.user, reason = %with.reason, "desktop agent ended");
                self.set_bridge(None);
                let open: Vec<ConnectionId> = self.connections.iter().map(|entry| *entry.key()).collect();
                for connection in open {
                    if let Some((_, outbox)) = self.connections.remove(&connection) {
                        outbox.push(Item::Close(with.clone()));
                    }
                    let now = self.now();
                    self.with(|agent| agent.disconnected(connection, now));
                }
                self.gateway.close_session(session, None);
                return;
            }
        }
    }

    fn carry_out(&self, agent: &mut Agent, crowded: &mut Option<Arc<Outbox>>, changed: &mut bool) {
        while let Some(output) = agent.poll_output() {
            match output {
                Output::Frame(connection, frame) => self.push(connection, Item::Frame(frame)),
                Output::Data(connection, frame) => {
                    let Some(outbox) = self.connections.get(&connection) else { continue };
                    if outbox.push(Item::Data(frame)).crowded && crowded.is_none() {
                        *crowded = Some(outbox.clone());
                    }
                }
                Output::Close(connection, reason) => {
                    self.push(connection, Item::Close(CloseWith { code: 1000, reason }));
                    self.connections.remove(&connection);
                }
                Output::Refuse(connection, refused) => {
                    if let Some(outbox) = self.connections.get(&connection) {
                        keep_out(&outbox, refused);
                    }
                }
                Output::Command(session, command) => {
                    let full = self.gateway.input(Input::Session { session, command });
                    // Its own is emptied right here.
                    if let Some(full) = full.filter(|full| !Arc::ptr_eq(full, &self.outbox)) {
                        crowded.get_or_insert(full);
                    }
                }
                Output::CloseSession(session) => self.gateway.close_session(session, None),
                Output::Launch { instance, secret, record } => {
                    if !self.start_app(&instance, &secret, &record) {
                        let now = self.now();
                        agent.launched(&instance, false, now);
                    }
                }
                Output::Bridge(message) => {
                    if let Some(bridge) = &*self.bridge() {
                        bridge.say(message);
                    }
                }
                Output::Kept { rule, what, is_request } => match is_request {
                    true => tracing::info!(
                        rule,
                        "rule {rule} of fdc3.bridge_rules keeps this from crossing, {what}"
                    ),
                    false => tracing::debug!(
                        rule,
                        "rule {rule} of fdc3.bridge_rules keeps this from crossing, {what}"
                    ),
                },
                Output::CloseApp(instance) => {
                    if !self.end_app(&instance) {
                        let now = self.now();
                        agent.not_closed(&instance, now);
                    }
                }
                Output::LimitReached(why) => self.tell_of_limit(&why),
                Output::Changed => *changed = true,
            }
        }
    }

    /// Says that a limit is reached, though not again and again.
    fn tell_of_limit(&self, why: &str) {
        /// How often it is said.
        const EVERY_MS: u64 = 60_000;
        let now = self.now().ms;
        let next = self.limit_told_from.load(Ordering::Relaxed);
        if now >= next {
            self.limit_told_from.store(now + EVERY_MS, Ordering::Relaxed);
            tracing::warn!(user = %self.user, "{why}");
        }
    }

    fn push(&self, connection: ConnectionId, item: Item) {
        if let Some(outbox) = self.connections.get(&connection) {
            outbox.push(item);
        }
    }

    /// Starts an app, and returns whether that is under way.
    fn start_app(&self, instance: &Text, secret: &Text, record: &Record) -> bool {
        match &record.details {
            Details::Web { url } => self.launchers.open(instance, secret, url.as_str()),
            _ => {
                let credentials = Credentials {
                    websocket_url: self.websocket_url.clone(),
                    instance_id: instance.to_string(),
                    instance_uuid: secret.to_string(),
                    shared_secret: secret.to_string(),
                };
                let (desktop, of) = (self.itself.clone(), instance.clone());
                let started = launch(record, &credentials, move |_| {
                    if let Some(desktop) = desktop.upgrade() {
                        let now = desktop.now();
                        desktop.with(|agent| {
                            // The agent is locked until it is in there.
                            desktop.processes.remove(&of);
                            agent.launched(&of, false, now);
                        });
                    }
                });
                match started {
                    Ok(process) => {
                        self.processes.insert(instance.clone(), process);
                        true
                    }
                    Err(error) => {
                        let problem = crate::output::chain(&error);
                        tracing::warn!(app = %record.app_id, %problem, "an app was not started");
                        self.launchers.show_problem(&problem);
                        false
                    }
                }
            }
        }
    }

    /// Asks an app to end, and returns whether there is a way to: its process, or a launcher that may have
    /// opened its window.
    fn end_app(&self, instance: &Text) -> bool {
        match self.processes.get(instance) {
            Some(process) => process.end(),
            None => self.launchers.close_window(instance),
        }
    }
}

/// Tells an app why it is not let in, and ends its connection.
pub(crate) fn keep_out(outbox: &Outbox, Refused { frame, why }: Refused) {
    tracing::warn!(reason = %why, "an FDC3 app was not let in");
    outbox.push(Item::Frame(frame));
    outbox.push(Item::Close(CloseWith { code: 1008, reason: why }));
}

async fn changed(directory: Option<&mut watch::Receiver<Arc<Directory>>>) -> Arc<Directory> {
    if let Some(directory) = directory
        && directory.changed().await.is_ok()
    {
        return directory.borrow_and_update().clone();
    }
    std::future::pending().await
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::up::{private_config, start};

    #[tokio::test(flavor = "multi_thread")]
    async fn agents_of_other_users_are_bounded_and_end_when_nobody_needs_them() {
        let dir = tempfile::tempdir().unwrap();
        let config = private_config(dir.path().to_owned(), "a", "ann", None).unwrap();
        let node = start(config, None).await.unwrap();
        let fdc3 = &node.local().fdc3;
        let agents = || fdc3.desktops.lock().unwrap().len();
        fdc3.desktop(None).unwrap();
        let held: Vec<_> =
            (1..DESKTOPS_MAX).map(|number| fdc3.desktop(Some(&format!("u{number}"))).unwrap()).collect();
        let why = fdc3.desktop(Some("late")).map(drop).unwrap_err();
        assert!(why.contains("limit DESKTOPS_MAX (1024) is reached"), "{why}");
        assert_eq!(agents(), DESKTOPS_MAX);
        drop(held);
        fdc3.desktop(Some("late")).unwrap();
        assert!(
            fdc3.desktops.lock().unwrap().contains_key(b"ann".as_slice()),
            "that of the node's user stays"
        );
        assert_eq!(agents(), 2);
        node.stop().await;
    }
}
