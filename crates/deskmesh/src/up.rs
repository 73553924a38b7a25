//! `deskmesh up`: from a configuration to a running node, and down again.

use std::fs::{File, TryLockError};
use std::io;
use std::net::{IpAddr, SocketAddr, UdpSocket};
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use anyhow::{Context as _, anyhow};
use mesh_core::{Input, NodeSettings};
use mesh_identity::join::Candidate;
use mesh_identity::{JoinToken, NodeIdentity, Place, TokenStore};
use mesh_model::{DomainId, Incarnation, LinkId, Text};
use mesh_net::clock::Clock;
use mesh_net::quic::{self, MeshEndpoint};
use mesh_telemetry::{Telemetry, TelemetrySettings, logging};
use tokio::net::TcpListener;

use crate::admin_client::NodeFile;
use crate::cli::UpArgs;
use crate::config::{Config, Flags, Loaded};
use crate::gateway::Gateway;
use crate::local::Local;
use crate::reload::Reloader;
use crate::remembered::SessionsFile;
use crate::tokens::ClientTokens;
use crate::{dialer, discovery, output, owner};

/// How long connections may take to close when the node goes down.
const DRAIN: Duration = Duration::from_millis(1_500);
/// How long the other nodes may take to hear that this one leaves.
const FAREWELL: Duration = Duration::from_millis(500);
/// How long a node that knows others waits for them before it lets applications in: what they hold is
/// newer than what returning clients bring.
const CATCH_UP: Duration = Duration::from_secs(2);

/// Runs a node until it is told to stop.
#[must_use]
pub fn run(args: &UpArgs) -> ExitCode {
    let Loaded { config, warnings, .. } = match Config::load(args.flags()) {
        Ok(loaded) => loaded,
        Err(error) => return error.report(),
    };
    for warning in warnings {
        output::warning(&warning);
    }
    if let Err(error) = logging::init(&config.telemetry.log_settings()) {
        output::error(&error.to_string(), "see the key telemetry.log in docs/guides/configuration.md");
        return ExitCode::from(78);
    }
    owner::raise_open_files();
    let dir = config.data_dir.clone();
    let ended = live(config, args.flags()).and_then(|ended| match ended {
        Ended::Stopped => Ok(ExitCode::SUCCESS),
        Ended::Superseded(life) => {
            part_from_newer(&dir, life)?;
            let failed = "the node has an id of its own now, but its program cannot be started again";
            again().map_err(|error| Stop::new(format!("{failed}: {error}"), "start the node"))
        }
    });
    ended.unwrap_or_else(|Stop { problem, hint }| {
        output::error(&problem, &hint);
        ExitCode::FAILURE
    })
}

/// Runs this program anew, with the same arguments: nothing of the life before is left.
fn again() -> io::Result<ExitCode> {
    let mut command = Command::new(std::env::current_exe()?);
    command.args(std::env::args_os().skip(1));
    #[cfg(unix)]
    return Err(std::os::unix::process::CommandExt::exec(&mut command));
    #[cfg(not(unix))]
    return Ok(match command.status()?.success() {
        true => ExitCode::SUCCESS,
        false => ExitCode::FAILURE,
    });
}

/// Why a node has ended that was not at fault.
enum Ended {
    /// It was told to stop.
    Stopped,
    /// Others know a newer life of it than this one.
    Superseded(Incarnation),
}

/// Runs a node until it is told to stop, or has to begin anew under another id.
fn live(config: Config, flags: Flags) -> Result<Ended, Stop> {
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().map_err(|error| {
        Stop::new(format!("the runtime does not start: {error}"), "is the machine out of threads or files?")
    })?;
    let result = runtime.block_on(async {
        let running = start(config, Some(flags)).await?;
        running.announce();
        let ended = running.until_ended().await?;
        running.stop().await;
        Ok(ended)
    });
    // What may still hang on a blocking thread, such as a name look-up, is not waited for.
    runtime.shutdown_timeout(Duration::from_millis(500));
    result
}

/// Why a node does not start, and what to do.
#[derive(Debug)]
pub(crate) struct Stop {
    pub(crate) problem: String,
    pub(crate) hint: String,
}

impl Stop {
    fn new(problem: impl Into<String>, hint: impl Into<String>) -> Self {
        Self { problem: problem.into(), hint: hint.into() }
    }
}

impl From<anyhow::Error> for Stop {
    fn from(error: anyhow::Error) -> Self {
        Self::new(format!("{error:#}"), "see docs/guides/configuration.md, or run with --log debug")
    }
}

/// A node that serves.
pub(crate) struct Running {
    local: Arc<Local>,
    config: Config,
    telemetry: Telemetry,
    tasks: Vec<tokio::task::JoinHandle<()>>,
    /// The tasks that hold the sockets for applications.
    accepting: Vec<tokio::task::JoinHandle<()>>,
    incarnation: Incarnation,
    /// Held while the node lives: one data directory, one node.
    _lock: File,
}

/// Starts a node: directory, identity, listeners, then readiness.
///
/// `flags` is the command line it was configured with; without one the configuration cannot be read again.
pub(crate) async fn start(config: Config, flags: Option<Flags>) -> Result<Running, Stop> {
    let dir = config.data_dir.clone();
    let lock = lock(&dir)?;
    let clock = Clock::start();
    // A token works once: what can be refused is found out before it is used.
    let listeners = bind(&config).await?;
    let probe = config.mesh_listen;
    let port = free_udp_port(probe)?;
    let (identity, seeds) = identity(&config, &dir, &clock).await?;
    let identity = Arc::new(identity);
    let listening: Vec<SocketAddr> =
        listeners.iter().filter_map(|listener| listener.local_addr().ok()).collect();
    let Some(first) = listening.first().copied() else {
        return Err(Stop::new(
            "there is no address to listen on for applications",
            "give one with --listen 127.0.0.1:8385",
        ));
    };
    let telemetry = Telemetry::start(TelemetrySettings {
        otlp_endpoint: config.telemetry.otlp_endpoint.clone(),
        service_name: "deskmesh".to_owned(),
        service_version: env!("CARGO_PKG_VERSION").to_owned(),
        node: identity.node(),
        node_name: config.name.clone(),
    })
    .map_err(|error| Stop::new(error.to_string(), "see the key telemetry.otlp_endpoint"))?;

    let incarnation = identity.next_incarnation(clock.wall_ms()).map_err(|error| anyhow!(error))?;
    let mesh_addresses = |port: u16| advertised(&config, port);
    let mesh_listen = SocketAddr::new(probe.ip(), port);
    let addresses = mesh_addresses(port);
    let settings = NodeSettings {
        node: identity.node(),
        incarnation,
        name: Text::from(config.name.as_str()),
        addresses: addresses.iter().map(|address| address.as_str().into()).collect(),
        domain: domain_of(identity.owner()),
        id_secret: random()?,
        visibility: config.visibility.lists().map_err(|problem| anyhow!(problem))?,
        relay: config.relay,
        slow_rules: config.streams.rules(),
        limits: config.limits.model(),
        timing: config.link_profile.timing(),
    };
    let tokens = TokenStore::open(&dir);
    let ratio = config.telemetry.sample_ratio;
    let gateway = Gateway::new(settings, clock.clone(), identity.clone(), tokens, telemetry.clone(), ratio);
    let endpoint = MeshEndpoint::bind(
        identity.clone(),
        mesh_listen,
        gateway.clone(),
        config.limits.link(),
        clock,
    )
    .map_err(|error| {
        let hint =
            "another node may be running; stop it, or choose another port with --mesh-listen 0.0.0.0:PORT";
        Stop::new(format!("cannot listen for other nodes on {mesh_listen}/udp: {error}"), hint)
    })?;
    gateway.set_endpoint(endpoint);
    let client_tokens = ClientTokens::open(&dir).context("cannot open the key of client tokens")?;
    let secret = format!("{:032x}{:032x}", random()?, random()?);
    let local = Local::new(
        gateway.clone(),
        config.clone(),
        Reloader::new(config.clone(), flags),
        client_tokens,
        secret.clone(),
        addresses.clone(),
        listening,
    );

    gateway.set_sessions_file(SessionsFile::in_dir(&dir));
    let mut tasks = vec![tokio::spawn(gateway.clone().run_timers())];
    tasks.push(tokio::spawn(SessionsFile::run(gateway.clone())));
    if config.mesh_advertise.is_empty() && config.mesh_listen.ip().is_unspecified() {
        tasks.push(tokio::spawn(watch_addresses(local.clone(), config.clone(), port)));
    }
    let knows_others = dir.join("peers.json").exists() || !seeds.is_empty();
    tasks.push(tokio::spawn(dialer::run(gateway.clone(), seeds, dir.clone())));
    if config.discovery.mdns {
        tasks.push(tokio::spawn(discovery::run(local.clone())));
    }
    // The sockets are open already, so a returning client waits instead of being refused; it is
    // answered once the others' state is here.
    if knows_others {
        let caught_up = async {
            while !gateway.look(|node| node.peers().iter().any(|peer| peer.state == "up")) {
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
        };
        if tokio::time::timeout(CATCH_UP, caught_up).await.is_err() {
            tracing::info!("no other node could be reached yet; this one serves alone meanwhile");
        }
    }
    let of_agents = local.clone();
    tasks.push(tokio::spawn(async move { of_agents.fdc3.run().await }));
    local.fdc3.set_directory(crate::fdc3::directory::start(&config.fdc3).await);
    let accepting =
        listeners.into_iter().map(|listener| tokio::spawn(local.clone().serve(listener))).collect();
    let file = NodeFile {
        pid: std::process::id(),
        node: identity.node().to_string(),
        name: config.name.clone(),
        http: first,
        mesh: addresses.join(", "),
        secret,
    };
    file.write(&dir).with_context(|| format!("cannot write {}", NodeFile::path(&dir).display()))?;
    local.ready.store(true, Ordering::Relaxed);
    Ok(Running { local, config, telemetry, tasks, accepting, incarnation, _lock: lock })
}

impl Running {
    fn announce(&self) {
        let identity = self.local.gateway.identity();
        output::line(&format!(
            "deskmesh {} is up: node {} of {}",
            env!("CARGO_PKG_VERSION"),
            self.config.name,
            identity.owner()
        ));
        for address in self.endpoints() {
            output::line(&format!("  applications connect to   {address}"));
        }
        output::line(&format!(
            "  other nodes connect to    {} (UDP)",
            self.local.mesh_addresses().join(", ")
        ));
        if identity.is_authority() {
            output::line(
                "  to add a machine: `deskmesh token create` here, then `deskmesh up --join <token>` there",
            );
        }
        output::line("Ctrl-C stops it.");
    }

    /// Waits until this node is to stop, or to go on under another id.
    async fn until_ended(&self) -> Result<Ended, Stop> {
        tokio::select! {
            stopped = self.until_stopped() => stopped.map(|()| Ended::Stopped),
            () = self.local.gateway.superseded.notified() => Ok(Ended::Superseded(self.incarnation)),
        }
    }

    /// Waits for the signal to stop. Meanwhile a hangup signal makes the node read its configuration again.
    async fn until_stopped(&self) -> Result<(), Stop> {
        #[cfg(unix)]
        {
            use tokio::signal::unix::{SignalKind, signal};
            let mut hangup = signal(SignalKind::hangup()).context("cannot listen for SIGHUP")?;
            let stopped = stop_signal();
            tokio::pin!(stopped);
            loop {
                tokio::select! {
                    result = &mut stopped => return result,
                    _ = hangup.recv() => {
                        if let Err(error) = self.local.reloader.reload(&self.local.gateway) {
                            let problem = output::chain(&error);
                            tracing::error!(%problem, "the configuration was not read again; nothing has changed");
                        }
                    }
                }
            }
        }
        #[cfg(not(unix))]
        stop_signal().await
    }

    #[cfg(test)]
    pub(crate) fn local(&self) -> &Local {
        &self.local
    }

    /// Returns where applications connect.
    pub(crate) fn endpoints(&self) -> Vec<String> {
        self.local.listening.iter().map(|address| format!("ws://{address}")).collect()
    }

    /// Makes a token that lets another node join.
    pub(crate) fn token(&self) -> Result<String, Stop> {
        let gateway = &self.local.gateway;
        let made = gateway.tokens().create(
            gateway.identity(),
            self.local.mesh_addresses(),
            mesh_identity::TOKEN_TTL_MS,
            gateway.clock.wall_ms(),
        );
        made.map(|token| token.line()).map_err(|error| anyhow!(error).into())
    }

    /// Drains and stops: readiness first, then clients and nodes are told, then the sockets go.
    pub(crate) async fn stop(self) {
        tracing::info!("shutting down");
        // A client whose connection is accepted and then dropped forgets what it knew; one that is refused
        // tries again.
        for task in self.accepting {
            task.abort();
            let _ = task.await;
        }
        self.local.drain();
        let gateway = &self.local.gateway;
        let emptied = async {
            while gateway.look(|node| node.status().sessions) > 0 {
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
        };
        let _ = tokio::time::timeout(DRAIN, emptied).await;
        // The other nodes are told last, behind all that applications were told is done; they close the links
        // when they have it.
        let links: Vec<LinkId> = gateway.links.iter().map(|link| *link.key()).collect();
        gateway.input(Input::Leave);
        let heard = async {
            while links.iter().any(|link| gateway.links.contains_key(link)) {
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
        };
        let _ = tokio::time::timeout(FAREWELL, heard).await;
        if let Some(endpoint) = gateway.endpoint() {
            let _ = tokio::time::timeout(DRAIN, endpoint.shutdown()).await;
        }
        for task in &self.tasks {
            task.abort();
        }
        if let Some(file) = gateway.sessions_file() {
            file.rewrite(gateway);
        }
        let _ = NodeFile::remove(&self.config.data_dir);
        self.telemetry.shutdown().await;
    }
}

/// Opens the sockets for applications.
async fn bind(config: &Config) -> Result<Vec<TcpListener>, Stop> {
    let mut listeners = Vec::new();
    for address in &config.listen {
        match TcpListener::bind(address).await {
            Ok(listener) => listeners.push(listener),
            Err(error) if address.is_ipv6() && error.kind() == std::io::ErrorKind::AddrNotAvailable => {
                tracing::info!(%address, "this machine has no IPv6; not listening there");
            }
            Err(error) => {
                let hint = "another node or gateway may be running; stop it, or choose another port with --listen 127.0.0.1:PORT";
                return Err(Stop::new(format!("cannot listen for applications on {address}: {error}"), hint));
            }
        }
    }
    Ok(listeners)
}

fn lock(dir: &Path) -> Result<File, Stop> {
    let unusable = |error: std::io::Error| {
        let hint = "give a directory that this user can write with --data-dir DIR";
        Stop::new(format!("cannot use the data directory {}: {error}", dir.display()), hint)
    };
    std::fs::create_dir_all(dir).map_err(unusable)?;
    let file =
        File::options().create(true).truncate(false).write(true).open(dir.join("lock")).map_err(unusable)?;
    match file.try_lock() {
        Ok(()) => Ok(file),
        Err(TryLockError::WouldBlock) => {
            let hint = "stop it, or give this one a directory of its own with --data-dir DIR";
            Err(Stop::new(format!("a node is running on {} already", dir.display()), hint))
        }
        Err(TryLockError::Error(error)) => Err(unusable(error)),
    }
}

/// Finds this node's identity: the one on disk, else one from a join token, else that of a first node.
async fn identity(config: &Config, dir: &Path, clock: &Clock) -> Result<(NodeIdentity, Vec<String>), Stop> {
    let mut seeds = config.seeds.clone();
    let token = match &config.join {
        Some(line) => Some(JoinToken::parse(line).map_err(|error| {
            Stop::new(
                format!("the join token is not valid: {error}"),
                "make a new one with `deskmesh token create` and copy the whole line",
            )
        })?),
        None => None,
    };
    if let Some(token) = &token {
        seeds.extend(token.addresses().iter().map(ToString::to_string));
    }
    let known = NodeIdentity::load(dir).map_err(|error| {
        Stop::new(
            format!("the identity in {} cannot be read: {error}", dir.display()),
            "restore the directory, or start with an empty one and join again",
        )
    })?;
    if let Some(identity) = known {
        let identity = identity_here(identity, dir)?;
        if token.as_ref().is_some_and(|token| *token.owner() != **identity.owner()) {
            let hint = "a node has one owner; use another --data-dir to join as somebody else";
            return Err(Stop::new(
                format!(
                    "this node belongs to {} already, and the token is of another owner",
                    identity.owner()
                ),
                hint,
            ));
        }
        return Ok((identity, seeds));
    }
    let Some(token) = token else {
        let found =
            NodeIdentity::found(dir, &config.user, clock.wall_ms()).map_err(|error| anyhow!(error))?;
        tracing::info!(owner = %found.owner(), "first node of a new mesh");
        return Ok((identity_here(found, dir)?, seeds));
    };
    let candidate = Candidate::generate().map_err(|error| anyhow!(error))?;
    let bind = SocketAddr::new(config.mesh_listen.ip(), 0);
    let adopted = quic::join(&token, &candidate, bind, clock).await.map_err(|error| {
        let hint = "a token works once and for 15 minutes: make a new one with `deskmesh token create`, and check that the other node is up";
        Stop::new(format!("cannot join: {}", output::chain(&error)), hint)
    })?;
    let identity = NodeIdentity::adopt(dir, &candidate, &adopted).map_err(|error| anyhow!(error))?;
    // Until there has been a link, nothing else tells where the others are.
    dialer::remember_seeds(dir, &seeds);
    tracing::info!(owner = %identity.owner(), "joined");
    Ok((identity_here(identity, dir)?, seeds))
}

/// Returns the identity that is to serve here: that of the data directory, which remembers where it is, or a
/// new one if the directory has been copied from elsewhere. What the directory remembers of those who used
/// the other goes then, too.
fn identity_here(identity: NodeIdentity, dir: &Path) -> Result<NodeIdentity, Stop> {
    if !identity.is_copied(&place(dir)).map_err(|error| anyhow!(error))? {
        return Ok(identity);
    }
    for file in ["sessions.json", "token.key", "join-tokens.json"] {
        match std::fs::remove_file(dir.join(file)) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                let hint = "a copied data directory must be writable, or be deleted and joined anew";
                return Err(Stop::new(format!("cannot remove {file} from {}: {error}", dir.display()), hint));
            }
            _ => {}
        }
    }
    part(&identity, dir)
}

/// Gives a node that others know a newer life of an id of its own. What it remembers of its applications is
/// its own: they were here until now.
fn part_from_newer(dir: &Path, life: Incarnation) -> Result<(), Stop> {
    let _lock = lock(dir)?;
    let unknown = || Stop::new(format!("there is no identity in {}", dir.display()), "start the node anew");
    let identity = NodeIdentity::load(dir).map_err(|error| anyhow!(error))?.ok_or_else(unknown)?;
    if !identity.is_last_life(life).map_err(|error| anyhow!(error))? {
        let hint =
            "two processes must not share a data directory: give one of them another with --data-dir DIR";
        return Err(Stop::new(format!("another node has begun on {} since this one", dir.display()), hint));
    }
    part(&identity, dir).map(drop)
}

fn part(identity: &NodeIdentity, dir: &Path) -> Result<NodeIdentity, Stop> {
    let parted = NodeIdentity::part(dir).map_err(|error| anyhow!(error))?;
    let parted = parted.ok_or_else(|| anyhow!("the identity in {} is gone", dir.display()))?;
    // It is there already if this happens while the node runs, and says where it is.
    parted.is_copied(&place(dir)).map_err(|error| anyhow!(error))?;
    let (before, now) = (identity.node().short(), parted.node().short());
    tracing::warn!(%before, %now, "the data directory or disk of this node was copied; the copy here has an id of its own now");
    if parted.is_authority() {
        tracing::warn!(
            "the copy has the key of the mesh's authority, too: whoever gets hold of it can let nodes in; remove identity/root.key from copies"
        );
    }
    Ok(parted)
}

/// Returns where a data directory is, as far as the system says it.
fn place(dir: &Path) -> Place {
    // On Windows the id in the registry is often copied with the disk, and computers are told apart by their
    // names. Elsewhere names may come from whatever network there is.
    let machine = match cfg!(windows) {
        true => std::env::var("COMPUTERNAME").unwrap_or_default(),
        false => std::fs::read_to_string("/etc/machine-id").unwrap_or_default(),
    };
    Place { machine: machine.trim().to_owned(), dir: dir.canonicalize().unwrap_or_else(|_| dir.to_owned()) }
}

fn advertised(config: &Config, port: u16) -> Vec<String> {
    if !config.mesh_advertise.is_empty() {
        return config.mesh_advertise.clone();
    }
    let ip = config.mesh_listen.ip();
    let ip = if ip.is_unspecified() { own_address(ip) } else { ip };
    vec![SocketAddr::new(ip, port).to_string()]
}

/// Notices when this machine's address changes, and tells the others where it is now.
async fn watch_addresses(local: Arc<Local>, config: Config, port: u16) {
    /// How often it is looked at. Nothing is sent for it.
    const LOOK_EVERY: Duration = Duration::from_secs(1);
    loop {
        tokio::time::sleep(LOOK_EVERY).await;
        // Without any network there is nobody to tell.
        if own_address(config.mesh_listen.ip()).is_loopback() {
            continue;
        }
        let addresses = advertised(&config, port);
        if addresses == local.mesh_addresses() {
            continue;
        }
        tracing::info!(addresses = addresses.join(", "), "this machine has another address");
        let texts = addresses.iter().map(|address| address.as_str().into()).collect();
        local.set_mesh_addresses(addresses);
        local.gateway.input(Input::Addresses(texts));
        local.gateway.disturbed();
    }
}

/// Returns the address this machine would use towards others. Nothing is sent.
fn own_address(unspecified: IpAddr) -> IpAddr {
    let target = if unspecified.is_ipv4() { "192.0.2.1:9" } else { "[2001:db8::1]:9" };
    let found = UdpSocket::bind(SocketAddr::new(unspecified, 0)).and_then(|socket| {
        socket.connect(target)?;
        socket.local_addr()
    });
    let loopback = if unspecified.is_ipv4() {
        IpAddr::from([127, 0, 0, 1])
    } else {
        IpAddr::from([0, 0, 0, 0, 0, 0, 0, 1])
    };
    found.map_or(loopback, |address| address.ip())
}

/// Finds the port for other nodes, before the node says where it can be dialled.
fn free_udp_port(wanted: SocketAddr) -> Result<u16, Stop> {
    let port = UdpSocket::bind(wanted).and_then(|socket| socket.local_addr()).map(|address| address.port());
    port.map_err(|error| {
        let hint =
            "another node may be running; stop it, or choose another port with --mesh-listen 0.0.0.0:PORT";
        Stop::new(format!("cannot listen for other nodes on {wanted}/udp: {error}"), hint)
    })
}

/// One domain per owner.
fn domain_of(owner: &str) -> DomainId {
    let digest =
        ring::digest::digest(&ring::digest::SHA256, format!("deskmesh user domain\0{owner}").as_bytes());
    let mut id = [0u8; 16];
    id.copy_from_slice(&digest.as_ref()[..16]);
    DomainId(id)
}

fn random() -> Result<u128, Stop> {
    let mut bytes = [0u8; 16];
    ring::rand::SecureRandom::fill(&ring::rand::SystemRandom::new(), &mut bytes)
        .map_err(|_| Stop::new("the system gives no random bytes", "restart the machine"))?;
    Ok(u128::from_le_bytes(bytes))
}

async fn stop_signal() -> Result<(), Stop> {
    #[cfg(unix)]
    {
        let mut terminate = tokio::signal::unix::signal(tokio::signal::unix::SignalKind::terminate())
            .context("cannot listen for SIGTERM")?;
        tokio::select! {
            result = tokio::signal::ctrl_c() => result.context("cannot listen for Ctrl-C")?,
            _ = terminate.recv() => {}
        }
    }
    #[cfg(not(unix))]
    tokio::signal::ctrl_c().await.context("cannot listen for Ctrl-C")?;
    Ok(())
}

/// Returns a configuration for a node of a demonstration or a test: loopback, ports of its own.
pub(crate) fn private_config(
    data_dir: PathBuf,
    name: &str,
    user: &str,
    join: Option<String>,
) -> Result<Config, Stop> {
    let values = vec![
        ("data_dir", data_dir.to_string_lossy().into_owned()),
        ("listen", "127.0.0.1:0".to_owned()),
        ("mesh_listen", "127.0.0.1:0".to_owned()),
        ("name", name.to_owned()),
        ("user", user.to_owned()),
    ];
    let flags = Flags { config: None, values };
    let loaded = Config::load(flags).map_err(|error| Stop::new(error.to_string(), error.hint()))?;
    Ok(Config { join, ..loaded.config })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(flavor = "multi_thread")]
    async fn a_node_whose_start_fails_can_still_join_and_finds_the_others_later() {
        let dirs = [tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap()];
        let config = |at: usize, join: Option<String>| {
            private_config(dirs[at].path().to_owned(), ["a", "b"][at], "ann", join).unwrap()
        };
        let first = start(config(0, None), None).await.unwrap();
        let token = first.token().unwrap();
        let taken = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let mut wrong = config(1, Some(token.clone()));
        wrong.listen = vec![taken.local_addr().unwrap()];
        let stop = start(wrong, None).await.map(drop).unwrap_err();
        assert!(stop.problem.contains("cannot listen for applications"), "{}", stop.problem);
        let taken = UdpSocket::bind("127.0.0.1:0").unwrap();
        let mut wrong = config(1, Some(token.clone()));
        wrong.mesh_listen = taken.local_addr().unwrap();
        let stop = start(wrong, None).await.map(drop).unwrap_err();
        assert!(stop.problem.contains("cannot listen for other nodes"), "{}", stop.problem);
        // It has joined when this is found to be wrong.
        let mut wrong = config(1, Some(token));
        wrong.telemetry.otlp_endpoint = Some("nowhere".to_owned());
        let stop = start(wrong, None).await.map(drop).unwrap_err();
        assert!(stop.hint.contains("otlp_endpoint"), "{}", stop.problem);
        let second = start(config(1, None), None).await.unwrap();
        let linked = async {
            while second.local.gateway.links.is_empty() {
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
        };
        tokio::time::timeout(Duration::from_secs(60), linked).await.expect("a link without a token");
        second.stop().await;
        first.stop().await;
    }
}
