//! Server processes: starting them, waiting for them, and what /proc says about them.

use std::net::{Ipv4Addr, SocketAddr, TcpListener, UdpSocket};
use std::path::Path;
use std::process::Stdio;
use std::sync::atomic::AtomicU16;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;

use anyhow::{Context as _, Result, bail};
use rustix::process::{Pid, Signal, kill_process};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::process::{Child, Command};

use crate::clock;

/// A running server; it ends when this is dropped.
#[derive(Debug)]
pub(crate) struct Process {
    name: String,
    child: Child,
    pid: u32,
}

impl Process {
    /// Starts `command` with its output in `log`.
    pub(crate) fn start(name: &str, command: &mut Command, log: &Path) -> Result<Self> {
        let log = std::fs::File::create(log).with_context(|| format!("cannot write {}", log.display()))?;
        let child = command
            .stdin(Stdio::null())
            .stdout(log.try_clone()?)
            .stderr(log)
            .kill_on_drop(true)
            .spawn()
            .with_context(|| format!("cannot start {name}"))?;
        let pid = child.id().context("a process without an id")?;
        Ok(Self { name: name.to_owned(), child, pid })
    }

    /// The process id.
    pub(crate) fn pid(&self) -> u32 {
        self.pid
    }

    /// Waits until `ready` holds; fails if the process ends first or takes too long.
    pub(crate) async fn wait_until(
        &mut self,
        what: &str,
        mut ready: impl AsyncFnMut() -> bool,
    ) -> Result<()> {
        let deadline = clock::now() + START_PATIENCE;
        while !ready().await {
            if let Some(status) = self.child.try_wait()? {
                bail!("{} ended while starting ({status}); see its log", self.name);
            }
            if clock::now() > deadline {
                bail!("{} is not ready after {START_PATIENCE:?}: {what}", self.name);
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        Ok(())
    }

    /// Waits until the process listens on that TCP address.
    pub(crate) async fn wait_for_listener(&mut self, address: SocketAddr) -> Result<()> {
        let what = format!("nobody listens on {address}");
        self.wait_until(&what, async || TcpStream::connect(address).await.is_ok()).await
    }

    /// Sends a signal.
    pub(crate) fn signal(&self, signal: Signal) -> Result<()> {
        let pid = i32::try_from(self.pid).ok().and_then(Pid::from_raw).context("not a process id")?;
        kill_process(pid, signal).with_context(|| format!("cannot signal {}", self.name))
    }

    /// Waits until the process has ended.
    pub(crate) async fn wait(&mut self) -> Result<()> {
        self.child.wait().await?;
        Ok(())
    }

    /// Ends the process and waits for it.
    pub(crate) async fn stop(mut self) {
        // Only fails if the process has ended by itself.
        let _ = self.child.kill().await;
    }
}

/// Answers `GET path` on that address: status and body, or nothing if it does not answer.
pub(crate) async fn http_get(address: SocketAddr, path: &str) -> Option<(u16, String)> {
    let mut stream = TcpStream::connect(address).await.ok()?;
    let request = format!("GET {path} HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).await.ok()?;
    let mut bytes = Vec::new();
    stream.read_to_end(&mut bytes).await.ok()?;
    let text = String::from_utf8_lossy(&bytes);
    let (head, body) = text.split_once("\r\n\r\n")?;
    let status = head.split(' ').nth(1)?.parse().ok()?;
    Some((status, body.to_owned()))
}

/// A loopback address that nobody uses, for TCP and UDP, and that is not handed out twice.
///
/// Port 0 would do for one server. A system of two is told all its ports before it starts, and by then the
/// kernel may have given such a port to an outgoing connection; these lie below the range it takes from.
pub(crate) fn free_address() -> Result<SocketAddr> {
    static NEXT: AtomicU16 = AtomicU16::new(0);
    for _ in 0..PORTS_LEN {
        let port =
            PORTS_START + NEXT.fetch_add(1, Relaxed).wrapping_add(std::process::id() as u16) % PORTS_LEN;
        let address = SocketAddr::from((Ipv4Addr::LOCALHOST, port));
        if TcpListener::bind(address).is_ok() && UdpSocket::bind(address).is_ok() {
            return Ok(address);
        }
    }
    bail!("no free port between {PORTS_START} and {}", PORTS_START + PORTS_LEN)
}

/// Reads processor time of a set of servers and of this process.
#[derive(Debug)]
pub(crate) struct Meter {
    servers: Vec<u32>,
}

/// Processor time used so far.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Cpu {
    /// By all servers together.
    pub(crate) servers: Duration,
    /// By this process, the load generator.
    pub(crate) own: Duration,
}

impl Meter {
    /// A meter of those processes.
    pub(crate) fn new(servers: Vec<u32>) -> Self {
        Self { servers }
    }

    /// Reads the meter.
    pub(crate) fn read(&self) -> Result<Cpu> {
        let servers = self.servers.iter().map(|&pid| cpu_time(pid)).sum::<Result<_>>()?;
        Ok(Cpu { servers, own: cpu_time(std::process::id())? })
    }
}

/// Processor time of all threads of a process, from the scheduler's nanosecond counters.
fn cpu_time(pid: u32) -> Result<Duration> {
    let mut nanos = 0;
    for task in std::fs::read_dir(format!("/proc/{pid}/task"))
        .with_context(|| format!("process {pid} is gone, or this is not Linux"))?
    {
        let line = std::fs::read_to_string(task?.path().join("schedstat")).unwrap_or_default();
        nanos += line.split(' ').next().and_then(|field| field.parse::<u64>().ok()).unwrap_or(0);
    }
    Ok(Duration::from_nanos(nanos))
}

/// Resident memory of a process in KiB.
pub(crate) fn rss_kib(pid: u32) -> Result<u64> {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status"))?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).context("no VmRSS in /proc")?;
    Ok(line.trim().trim_end_matches(" kB").parse()?)
}

const PORTS_START: u16 = 20_000;
const PORTS_LEN: u16 = 10_000;
const START_PATIENCE: Duration = Duration::from_secs(15);
