//! The suites of `tests/clients` and `tests/fdc3`, which are Node.js programs.

use std::io::{self, BufRead as _, BufReader, Write as _};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::path::PathBuf;
use std::process::Command;
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::thread;

use crate::linked::Linked;

/// Runs a program of `tests/clients` to its end. What it says is passed on as it comes.
///
/// # Panics
///
/// If it fails, or Node.js is missing: these tests are not skipped.
pub fn run(arguments: &[&str]) {
    static INSTALLED: OnceLock<()> = OnceLock::new();
    INSTALLED.get_or_init(|| install("clients"));
    run_in("clients", arguments);
}

/// Runs a program of `tests/fdc3` to its end.
///
/// # Panics
///
/// If it fails, or Node.js is missing: these tests are not skipped.
pub fn run_fdc3(arguments: &[&str]) {
    static INSTALLED: OnceLock<()> = OnceLock::new();
    // Both use what is below `tests/clients`.
    INSTALLED.get_or_init(|| ["clients", "fdc3"].into_iter().for_each(install));
    run_in("fdc3", arguments);
}

fn run_in(folder: &str, arguments: &[&str]) {
    let command = format!("node {}", arguments.join(" "));
    let status = Command::new("node").args(arguments).current_dir(directory(folder)).status();
    let status = status.unwrap_or_else(|error| panic!("{command}: {error}"));
    assert!(status.success(), "`{command}` in tests/{folder} failed, see above");
}

/// Installs the client libraries, unless they are there.
fn install(folder: &str) {
    const NEEDED: &str = "the client tests are not skipped: install Node.js 20 or newer with npm";
    let version = Command::new("node").arg("--version").output();
    let version = version.unwrap_or_else(|error| panic!("node cannot be run ({error}); {NEEDED}")).stdout;
    let version = String::from_utf8_lossy(&version).into_owned();
    let major = version.trim().trim_start_matches('v').split('.').next().and_then(|major| major.parse().ok());
    assert!(major.is_some_and(|major: u32| major >= 20), "node is {}; {NEEDED}", version.trim());
    // Two tests may find it missing at once.
    static TURN: Mutex<()> = Mutex::new(());
    let _turn = lock(&TURN);
    let directory = directory(folder);
    if directory.join("node_modules").is_dir() {
        return;
    }
    let status = Command::new("npm").arg("ci").current_dir(directory).status();
    let status = status.unwrap_or_else(|error| panic!("npm cannot be run ({error}); {NEEDED}"));
    assert!(status.success(), "`npm ci` in tests/{folder} failed, see above");
}

fn directory(folder: &str) -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join(folder)
}

/// Obeys `node-control ADDRESS COMMAND…` for nodes until the program ends, and returns the address. The
/// commands are those of [`Linked::obey`].
///
/// The nodes stay children of this process and the caller's, so that they end with their test.
///
/// # Panics
///
/// If no port is free.
pub fn control(nodes: &Arc<Mutex<Linked>>) -> SocketAddr {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("a free port");
    let address = listener.local_addr().expect("a bound socket");
    let nodes = Arc::downgrade(nodes);
    thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            let Some(nodes) = nodes.upgrade() else { return };
            // The other side reads an end without a word as a failure.
            let _ = obey(&nodes, stream);
        }
    });
    address
}

fn obey(nodes: &Mutex<Linked>, mut stream: TcpStream) -> io::Result<()> {
    let mut line = String::new();
    BufReader::new(stream.try_clone()?).read_line(&mut line)?;
    let words: Vec<_> = line.split_whitespace().collect();
    if lock(nodes).obey(&words) {
        stream.write_all(b"done\n")?;
    }
    Ok(())
}

/// Tells controlled nodes what to do, and returns whether it was done.
pub fn tell(address: &str, command: &str) -> io::Result<bool> {
    let mut stream = TcpStream::connect(address)?;
    writeln!(stream, "{command}")?;
    let mut answer = String::new();
    BufReader::new(stream).read_line(&mut answer)?;
    Ok(answer == "done\n")
}

/// Takes a lock, also after the thread that held it has panicked: its complaint says enough.
pub fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
