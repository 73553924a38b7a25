//! One running node: started, asked, killed, stopped and started again.

use std::fmt::Write as _;
use std::fs::{self, OpenOptions};
use std::io::{self, Write as _};
use std::net::{Ipv4Addr, TcpListener, UdpSocket};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus};
use std::sync::atomic::{AtomicU16, Ordering};
use std::thread;
use std::time::Duration;

use tempfile::TempDir;

use crate::program::{self, Finished, run_in};
use crate::raw;
use crate::wait::until;

/// How long a node may take to start or to stop.
pub const PATIENCE: Duration = Duration::from_secs(15);

/// What a node is started with.
#[derive(Clone, Debug)]
pub struct NodeOptions {
    /// Its name.
    pub name: String,
    /// Its owner.
    pub user: String,
    /// A configuration file's text; none if empty.
    pub config: String,
    /// A token that it joins with.
    pub join: Option<String>,
}

impl Default for NodeOptions {
    fn default() -> Self {
        Self { name: "desk".into(), user: "ann".into(), config: String::new(), join: None }
    }
}

/// A node with a data directory and ports of its own, which it keeps when it is started again.
///
/// It ends with this value; if that happens in a panic, its log is printed.
#[derive(Debug)]
pub struct Node {
    options: NodeOptions,
    home: TempDir,
    http_port: u16,
    mesh_port: u16,
    child: Option<Child>,
}

impl Node {
    /// Starts a node and waits until it is ready.
    ///
    /// # Panics
    ///
    /// If it does not become ready.
    #[must_use]
    pub fn start(options: NodeOptions) -> Self {
        let mut node = Self::prepared(options);
        node.up();
        node
    }

    /// Returns a node that has yet to be started with [`up`](Self::up).
    ///
    /// # Panics
    ///
    /// If there is no place for its files.
    #[must_use]
    pub fn prepared(options: NodeOptions) -> Self {
        let home = tempfile::tempdir().expect("a temporary directory");
        fs::write(home.path().join("config.toml"), &options.config).expect("a file can be written");
        Self { options, home, http_port: free_port(), mesh_port: free_port(), child: None }
    }

    /// Starts the node, again or for the first time, and waits until it is ready.
    ///
    /// # Panics
    ///
    /// If it does not become ready.
    pub fn up(&mut self) {
        self.launch();
        let ready = until(PATIENCE, || self.is_ready() || !self.is_alive());
        assert!(ready && self.is_alive(), "node {} is not ready\n{}", self.options.name, self.log());
    }

    fn launch(&mut self) {
        let log = || {
            let file = OpenOptions::new().create(true).append(true).open(self.log_path());
            file.expect("a log can be written")
        };
        let mut command = self.command();
        self.child = Some(command.stdout(log()).stderr(log()).spawn().expect("deskmesh can be started"));
    }

    /// Returns the command that runs this node.
    #[must_use]
    pub fn command(&self) -> Command {
        let mut command = program::command(self.home.path());
        command.arg("up").arg("--data-dir").arg(self.data_dir());
        command.args(["--listen", &format!("127.0.0.1:{}", self.http_port)]);
        command.args(["--mesh-listen", &format!("127.0.0.1:{}", self.mesh_port)]);
        command.args(["--name", &self.options.name, "--user", &self.options.user]);
        if !self.options.config.is_empty() {
            command.arg("--config").arg(self.home.path().join("config.toml"));
        }
        // Once joined, the token is spent.
        if let Some(token) = self.options.join.as_ref().filter(|_| !self.data_dir().exists()) {
            command.args(["--join", token]);
        }
        command
    }

    /// Returns whether the node says that it is ready.
    #[must_use]
    pub fn is_ready(&self) -> bool {
        raw::get(self.http_port, "/readyz").is_ok_and(|answer| answer.status == 200)
    }

    /// Returns whether the process is there.
    pub fn is_alive(&mut self) -> bool {
        self.child.as_mut().is_some_and(|child| matches!(child.try_wait(), Ok(None)))
    }

    /// Ends the process at once, as a power cut would.
    pub fn kill(&mut self) {
        if let Some(mut child) = self.child.take() {
            // It may be dead already.
            let _ = child.kill();
            let _ = child.wait();
        }
    }

    /// Sends the process a signal, such as `-STOP`, after which it does nothing until `-CONT`.
    ///
    /// # Panics
    ///
    /// If that fails.
    pub fn signal(&self, signal: &str) {
        let id = self.child.as_ref().expect("a running node").id().to_string();
        let told = Command::new("kill").args([signal, &id]).status();
        assert!(told.is_ok_and(|status| status.success()), "the signal cannot be sent");
    }

    /// Asks the process to end (SIGTERM) and returns how it did.
    ///
    /// # Panics
    ///
    /// If it does not end.
    pub fn terminate(&mut self) -> ExitStatus {
        self.signal("-TERM");
        let mut child = self.child.take().expect("a running node");
        let mut status = None;
        let ended = until(PATIENCE, || {
            status = child.try_wait().ok().flatten();
            status.is_some()
        });
        if !ended {
            let _ = child.kill();
            let _ = child.wait();
        }
        status.unwrap_or_else(|| panic!("node {} ignores SIGTERM\n{}", self.options.name, self.log()))
    }

    /// Asks the node: `deskmesh ARGUMENTS --data-dir DIR`.
    #[must_use]
    pub fn ask(&self, arguments: &[&str]) -> Finished {
        let dir = self.data_dir();
        let dir = dir.to_str().expect("a path of ASCII");
        run_in(self.home.path(), arguments.iter().copied().chain(["--data-dir", dir]))
    }

    /// Asks the node for JSON.
    ///
    /// # Panics
    ///
    /// If the answer is none.
    #[must_use]
    pub fn ask_json(&self, question: &str) -> serde_json::Value {
        let Finished { code, stdout, stderr } = self.ask(&[question, "--json"]);
        assert_eq!(code, Some(0), "{question}: {stderr}");
        serde_json::from_str(&stdout).unwrap_or_else(|error| panic!("{question}: {error}: {stdout}"))
    }

    /// Returns how many other nodes it is linked to; none if it does not answer, as one that starts again.
    #[must_use]
    pub fn peers_up(&self) -> usize {
        let answer = self.ask(&["peers", "--json"]);
        let peers: serde_json::Value = serde_json::from_str(&answer.stdout).unwrap_or_default();
        peers.as_array().map_or(0, |peers| peers.iter().filter(|peer| peer["state"] == "up").count())
    }

    /// Has the node make a token for another to join with.
    ///
    /// # Panics
    ///
    /// If it refuses.
    #[must_use]
    pub fn token(&self) -> String {
        let Finished { code, stdout, stderr } = self.ask(&["token", "create"]);
        assert_eq!(code, Some(0), "{stderr}");
        stdout.trim().to_owned()
    }

    /// Returns the address for applications.
    #[must_use]
    pub fn url(&self) -> String {
        format!("ws://127.0.0.1:{}", self.http_port)
    }

    /// Returns the port for applications.
    #[must_use]
    pub const fn http_port(&self) -> u16 {
        self.http_port
    }

    /// Returns the UDP port for other nodes.
    #[must_use]
    pub const fn mesh_port(&self) -> u16 {
        self.mesh_port
    }

    /// Returns where the node keeps its state.
    #[must_use]
    pub fn data_dir(&self) -> PathBuf {
        self.home.path().join("data")
    }

    /// Returns its home directory.
    #[must_use]
    pub fn home(&self) -> &Path {
        self.home.path()
    }

    /// Returns how much memory the process holds, in bytes, where the system tells (Linux).
    #[must_use]
    pub fn resident_bytes(&self) -> Option<u64> {
        let status = fs::read_to_string(format!("/proc/{}/status", self.child.as_ref()?.id())).ok()?;
        let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"))?;
        let kib: u64 = line.trim().strip_suffix(" kB")?.parse().ok()?;
        Some(kib * 1024)
    }

    /// Returns what the node has said in all its lives.
    #[must_use]
    pub fn log(&self) -> String {
        fs::read(self.log_path())
            .map(|bytes| String::from_utf8_lossy(&bytes).into_owned())
            .unwrap_or_default()
    }

    fn log_path(&self) -> PathBuf {
        self.home.path().join("log")
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        self.kill();
        if thread::panicking() {
            let mut text = String::new();
            let lines: Vec<_> = self.log().lines().map(ToOwned::to_owned).collect();
            let _ =
                writeln!(text, "log of node {} ({} lines, the last here):", self.options.name, lines.len());
            for line in &lines[lines.len().saturating_sub(LOG_LINES_SHOWN)..] {
                let _ = writeln!(text, "    | {line}");
            }
            let _ = io::stderr().lock().write_all(text.as_bytes());
        }
    }
}

/// How much of a log is printed below a failure.
const LOG_LINES_SHOWN: usize = 60;

/// Returns a port that is free for TCP and UDP.
///
/// Ports come in turn from below those that systems give to outgoing connections, so that nobody takes
/// one while its node is down.
fn free_port() -> u16 {
    static NEXT: AtomicU16 = AtomicU16::new(0);
    // Test programs that run at once begin at different places.
    let start = (std::process::id() % 300) as u16 * 40;
    loop {
        let port = 20_000 + (start + NEXT.fetch_add(1, Ordering::Relaxed)) % 12_000;
        let address = (Ipv4Addr::LOCALHOST, port);
        if TcpListener::bind(address).is_ok() && UdpSocket::bind(address).is_ok() {
            return port;
        }
    }
}
