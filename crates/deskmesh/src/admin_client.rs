//! Asking a running node, and the words of its answers.
//!
//! A node writes [`NodeFile`] into its data directory when it is up, readable by its owner alone, with
//! the address of its local endpoint and a secret that is new in each life. Whoever can read the file
//! may ask; nobody else on the machine can. The conversation is one HTTP/1.1 request on a connection of
//! its own:
//!
//! ```text
//! GET  /admin/v1/{status,peers,apps,methods,contexts}     Authorization: Bearer <secret>
//! GET  /admin/v1/who-sees?kind=context&name=…
//! POST /admin/v1/token?ttl_s=900
//! POST /admin/v1/service-token?user=…&ttl_s=…
//! POST /admin/v1/reload
//! ```
//!
//! The node builds its answers from the same row types that this side reads.

use std::error::Error;
use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;
use std::{fmt, fs};

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use crate::output::{self, Cell, Table};
use crate::reload::Reloaded;
use crate::who_sees::Sights;

/// What a running node says about itself to its owner's commands.
#[derive(Clone, Serialize, Deserialize)]
pub struct NodeFile {
    /// The node's process.
    pub pid: u32,
    /// The node's id, as 32 hexadecimal digits.
    pub node: String,
    /// The node's name.
    pub name: String,
    /// Its local endpoint.
    pub http: SocketAddr,
    /// Where other nodes reach it.
    pub mesh: String,
    /// What a command must show.
    pub secret: String,
}

/// What can be asked about a node.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Query {
    /// The node itself: a [`Status`].
    Status,
    /// The nodes it knows: [`PeerRow`]s.
    Peers,
    /// The applications: [`AppRow`]s.
    Apps,
    /// What they offer: [`MethodRow`]s.
    Methods,
    /// The shared contexts: [`ContextRow`]s.
    Contexts,
}

/// How a node is.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Status {
    /// Its id.
    pub node: String,
    /// Its name.
    pub name: String,
    /// Whose it is.
    pub user: String,
    /// Which build it is.
    pub version: String,
    /// Its process.
    pub pid: u32,
    /// How long it has been up, in seconds.
    pub uptime_s: u64,
    /// Where applications connect.
    pub listen: Vec<String>,
    /// Where other nodes connect.
    pub mesh: String,
    /// How many other nodes are connected.
    pub peers: u64,
    /// How many applications are connected to this node.
    pub sessions: u64,
    /// How many methods there are, on all nodes.
    pub methods: u64,
    /// How many shared contexts there are.
    pub contexts: u64,
    /// How many pieces of stream data and publications slow applications were not given.
    pub stream_events_dropped: u64,
    /// How many spans never reached the trace collector.
    pub spans_dropped: u64,
    /// How many messages about applications' own metrics were discarded.
    pub metrics_discarded: u64,
}

/// One other node.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct PeerRow {
    /// Its id.
    pub node: String,
    /// Its name.
    pub name: String,
    /// Where it is.
    pub address: String,
    /// Whether it is reachable, in a word.
    pub state: String,
    /// The node that relays to it, if there is no direct link.
    #[serde(default)]
    pub by_way_of: Option<String>,
    /// How long a message takes there and back, in milliseconds, if that is known.
    pub rtt_ms: Option<f64>,
    /// How many applications are connected to it.
    pub sessions: u64,
    /// Which of its lives this is.
    pub incarnation: u64,
}

/// One application.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct AppRow {
    /// Its instance.
    pub instance: String,
    /// Its name.
    pub application: String,
    /// Who it logged in as.
    pub user: String,
    /// The node it is connected to, by name.
    pub node: String,
    /// The machine it runs on.
    pub machine: String,
    /// Whether it is connected to the node that was asked.
    pub local: bool,
    /// How many methods it offers.
    pub methods: u64,
}

/// One method that one application offers.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct MethodRow {
    /// Its name.
    pub name: String,
    /// Who offers it.
    pub application: String,
    /// Which instance.
    pub instance: String,
    /// On which node, by name.
    pub node: String,
    /// Whether it is a stream.
    pub streaming: bool,
    /// Whether it is offered at the node that was asked.
    pub local: bool,
}

/// One shared context.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ContextRow {
    /// Its name.
    pub name: String,
    /// Whose it is.
    pub user: String,
    /// How large it is, as JSON.
    pub bytes: u64,
    /// How many applications hold it.
    pub members: u64,
    /// How many keys it has.
    pub keys: u64,
}

/// A token, for as long as it works.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct TokenAnswer {
    /// The token.
    pub token: String,
    /// How long it works, in seconds.
    pub expires_in_s: u64,
}

/// Asks the node of a data directory, and prints the answer.
#[must_use]
pub fn run_query(query: Query, data_dir: &Path, json: bool) -> ExitCode {
    let answered = ask(data_dir, "GET", query.path()).and_then(|body| {
        let body = text(body)?;
        if json {
            serde_json::from_str::<serde::de::IgnoredAny>(&body).map_err(AdminError::NotUnderstood)?;
            output::json(body.trim_end());
        } else {
            output::text(&query.rendered(&body)?);
        }
        Ok(())
    });
    exit(answered, data_dir)
}

/// Has the node of a data directory make a token, and prints the token alone.
#[must_use]
pub fn run_token_create(data_dir: &Path, ttl: Duration) -> ExitCode {
    let path = format!("/admin/v1/token?ttl_s={}", ttl.as_secs());
    let answered = ask(data_dir, "POST", &path).and_then(|body| {
        let answer: TokenAnswer = understood(&text(body)?)?;
        output::line(&answer.token);
        Ok(())
    });
    exit(answered, data_dir)
}

/// Has the node of a data directory make a token for a service, and prints the token alone.
#[must_use]
pub fn run_service_token(data_dir: &Path, user: &str, ttl: Duration) -> ExitCode {
    let path = format!("/admin/v1/service-token?user={}&ttl_s={}", escaped(user), ttl.as_secs());
    let answered = ask(data_dir, "POST", &path).and_then(|body| {
        let answer: TokenAnswer = understood(&text(body)?)?;
        output::line(&answer.token);
        Ok(())
    });
    exit(answered, data_dir)
}

/// Has the node of a data directory read its configuration again, and says what has changed.
#[must_use]
pub fn run_reload(data_dir: &Path, json: bool) -> ExitCode {
    let answered = ask(data_dir, "POST", "/admin/v1/reload").and_then(|body| {
        let body = text(body)?;
        match json {
            true => output::json(body.trim_end()),
            false => understood::<Reloaded>(&body)?.print(),
        }
        Ok(())
    });
    exit(answered, data_dir)
}

/// Asks the node of a data directory who sees something, and prints the answer.
#[must_use]
pub fn run_who_sees(data_dir: &Path, kind: &str, name: &str, explain: bool, json: bool) -> ExitCode {
    let path = format!("/admin/v1/who-sees?kind={kind}&name={}", escaped(name));
    let answered = ask(data_dir, "GET", &path).and_then(|body| {
        let body = text(body)?;
        match json {
            true => output::json(body.trim_end()),
            false => output::text(&understood::<Sights>(&body)?.render(name, explain)),
        }
        Ok(())
    });
    exit(answered, data_dir)
}

fn escaped(text: &str) -> impl fmt::Display {
    percent_encoding::utf8_percent_encode(text, percent_encoding::NON_ALPHANUMERIC)
}

fn exit(answered: Result<(), AdminError>, data_dir: &Path) -> ExitCode {
    match answered {
        Ok(()) => ExitCode::from(output::EXIT_DONE),
        Err(error) => {
            output::error_chain(&error, &error.hint(data_dir));
            ExitCode::from(error.exit_code())
        }
    }
}

impl NodeFile {
    /// Returns where the file of a data directory is.
    #[must_use]
    pub fn path(data_dir: &Path) -> PathBuf {
        data_dir.join("node.json")
    }

    /// Writes the file, readable by the owner alone. A reader sees the old one or the new, never a part.
    pub fn write(&self, data_dir: &Path) -> io::Result<()> {
        let part = data_dir.join(format!("node.json.{}", std::process::id()));
        // What a crash left behind may have other permissions.
        let _ = fs::remove_file(&part);
        let mut options = fs::OpenOptions::new();
        options.write(true).create_new(true);
        #[cfg(unix)]
        std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
        let mut file = options.open(&part)?;
        file.write_all(&serde_json::to_vec(self)?)?;
        drop(file);
        fs::rename(&part, Self::path(data_dir))
    }

    /// Reads the file of a data directory.
    pub fn read(data_dir: &Path) -> io::Result<Self> {
        Ok(serde_json::from_slice(&fs::read(Self::path(data_dir))?)?)
    }

    /// Removes the file of a data directory, as a node does when it goes down.
    pub fn remove(data_dir: &Path) -> io::Result<()> {
        fs::remove_file(Self::path(data_dir))
    }
}

impl fmt::Debug for NodeFile {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { pid, node, name, http, mesh, secret: _ } = self;
        f.debug_struct("NodeFile")
            .field("pid", pid)
            .field("node", node)
            .field("name", name)
            .field("http", http)
            .field("mesh", mesh)
            .finish_non_exhaustive()
    }
}

impl Query {
    /// Returns where it is asked.
    #[must_use]
    pub const fn path(self) -> &'static str {
        match self {
            Self::Status => "/admin/v1/status",
            Self::Peers => "/admin/v1/peers",
            Self::Apps => "/admin/v1/apps",
            Self::Methods => "/admin/v1/methods",
            Self::Contexts => "/admin/v1/contexts",
        }
    }

    /// Returns an answer as people read it.
    fn rendered(self, body: &str) -> Result<String, AdminError> {
        match self {
            Self::Status => Ok(understood::<Status>(body)?.render()),
            Self::Peers => table(
                body,
                &["NAME", "NODE", "ADDRESS", "STATE", "RTT MS", "APPS", "LIFE"],
                |row: PeerRow| {
                    vec![
                        Cell::text(row.name),
                        Cell::text(row.node.chars().take(8).collect::<String>()),
                        Cell::text(row.by_way_of.map_or(row.address, |name| format!("via {name}"))),
                        Cell::text(row.state),
                        Cell::number(row.rtt_ms.map_or("-".to_owned(), |rtt| format!("{rtt:.1}"))),
                        Cell::number(row.sessions),
                        Cell::number(row.incarnation),
                    ]
                },
            ),
            Self::Apps => table(
                body,
                &["APPLICATION", "INSTANCE", "USER", "NODE", "MACHINE", "LOCAL", "METHODS"],
                |row: AppRow| {
                    vec![
                        Cell::text(row.application),
                        Cell::text(row.instance),
                        Cell::text(row.user),
                        Cell::text(row.node),
                        Cell::text(row.machine),
                        Cell::yes(row.local),
                        Cell::number(row.methods),
                    ]
                },
            ),
            Self::Methods => table(
                body,
                &["METHOD", "APPLICATION", "INSTANCE", "NODE", "STREAM", "LOCAL"],
                |row: MethodRow| {
                    vec![
                        Cell::text(row.name),
                        Cell::text(row.application),
                        Cell::text(row.instance),
                        Cell::text(row.node),
                        Cell::yes(row.streaming),
                        Cell::yes(row.local),
                    ]
                },
            ),
            Self::Contexts => {
                table(body, &["CONTEXT", "USER", "BYTES", "MEMBERS", "KEYS"], |row: ContextRow| {
                    vec![
                        Cell::text(row.name),
                        Cell::text(row.user),
                        Cell::number(row.bytes),
                        Cell::number(row.members),
                        Cell::number(row.keys),
                    ]
                })
            }
        }
    }
}

impl Status {
    fn render(&self) -> String {
        let facts = [
            ("name", self.name.clone()),
            ("node", self.node.clone()),
            ("owner", self.user.clone()),
            ("version", self.version.clone()),
            ("process", self.pid.to_string()),
            ("up for", for_people(Duration::from_secs(self.uptime_s))),
            ("applications", self.listen.join(", ")),
            ("mesh", self.mesh.clone()),
            ("peers", self.peers.to_string()),
            ("sessions", self.sessions.to_string()),
            ("methods", self.methods.to_string()),
            ("contexts", self.contexts.to_string()),
            ("stream lost", self.stream_events_dropped.to_string()),
            ("spans lost", self.spans_dropped.to_string()),
            ("metrics", format!("{} discarded", self.metrics_discarded)),
        ];
        let mut text = String::new();
        for (name, value) in facts {
            let value = if value.is_empty() { "-".to_owned() } else { output::printable(&value) };
            text.push_str(&format!("{name:<14}{value}\n"));
        }
        text
    }
}

/// Returns an array of rows as a table.
fn table<Row: DeserializeOwned>(
    body: &str,
    titles: &[&'static str],
    cells: impl Fn(Row) -> Vec<Cell>,
) -> Result<String, AdminError> {
    let mut table = Table::new(titles);
    for row in understood::<Vec<Row>>(body)? {
        table.push(cells(row));
    }
    Ok(table.render())
}

fn for_people(time: Duration) -> String {
    let seconds = time.as_secs();
    let (days, hours, minutes) = (seconds / 86_400, seconds / 3_600 % 24, seconds / 60 % 60);
    match (days, hours, minutes) {
        (0, 0, 0) => format!("{seconds} s"),
        (0, 0, _) => format!("{minutes} min {} s", seconds % 60),
        (0, _, _) => format!("{hours} h {minutes} min"),
        _ => format!("{days} d {hours} h"),
    }
}

fn text(body: Vec<u8>) -> Result<String, AdminError> {
    String::from_utf8(body).map_err(|_| AdminError::Garbled("it is not UTF-8"))
}

fn understood<T: DeserializeOwned>(body: &str) -> Result<T, AdminError> {
    serde_json::from_str(body).map_err(AdminError::NotUnderstood)
}

/// A node did not answer, or not as it should.
#[derive(Debug)]
pub enum AdminError {
    /// There is no node file, or nobody listens where it points.
    NotRunning {
        /// The data directory.
        data_dir: PathBuf,
    },
    /// There is a node file that cannot be used.
    NodeFile {
        /// The file.
        file: PathBuf,
        /// What the system or the parser said.
        source: io::Error,
    },
    /// The connection broke, or took too long.
    Connection(io::Error),
    /// What came back is no HTTP/1.1 answer.
    Garbled(&'static str),
    /// What came back is not what was asked for: another version, perhaps.
    NotUnderstood(serde_json::Error),
    /// The node refused.
    Refused {
        /// The HTTP status.
        status: u16,
        /// What the node said.
        message: String,
    },
}

impl AdminError {
    const fn exit_code(&self) -> u8 {
        match self {
            Self::Refused { .. } => output::EXIT_NO,
            _ => output::EXIT_UNREACHABLE,
        }
    }

    fn hint(&self, data_dir: &Path) -> String {
        let up = format!("deskmesh up --data-dir {}", data_dir.display());
        match self {
            Self::NotRunning { .. } => up,
            Self::NodeFile { .. } => {
                "Only the user who runs the node may ask it; a restart of the node writes the file anew."
                    .into()
            }
            Self::Refused { status: 401 | 403, .. } => "The node was restarted just now; try again.".into(),
            Self::Refused { .. } => "`deskmesh status` tells how the node is.".into(),
            Self::Connection(_) => "The node may be busy or about to stop; its log tells.".into(),
            Self::Garbled(_) | Self::NotUnderstood(_) => {
                format!("Another program, or a node of another version, listens there; restart it: {up}")
            }
        }
    }
}

impl fmt::Display for AdminError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NotRunning { data_dir } => {
                write!(f, "no deskmesh node is running on {}", data_dir.display())
            }
            Self::NodeFile { file, .. } => write!(f, "cannot use {}", file.display()),
            Self::Connection(_) => f.write_str("the node did not answer"),
            Self::Garbled(problem) => write!(f, "the node's answer makes no sense: {problem}"),
            Self::NotUnderstood(_) => f.write_str("the node's answer makes no sense"),
            Self::Refused { status, message } if message.is_empty() => {
                write!(f, "the node refused, with HTTP status {status}")
            }
            Self::Refused { message, .. } => write!(f, "the node refused: {message}"),
        }
    }
}

impl Error for AdminError {
    fn source(&self) -> Option<&(dyn Error + 'static)> {
        match self {
            Self::NodeFile { source, .. } | Self::Connection(source) => Some(source),
            Self::NotUnderstood(source) => Some(source),
            Self::NotRunning { .. } | Self::Garbled(_) | Self::Refused { .. } => None,
        }
    }
}

/// Puts one request to the node of a data directory, and returns the body of its answer.
pub fn ask(data_dir: &Path, method: &str, path: &str) -> Result<Vec<u8>, AdminError> {
    let not_running = || AdminError::NotRunning { data_dir: data_dir.to_owned() };
    let unusable = |source| AdminError::NodeFile { file: NodeFile::path(data_dir), source };
    let node = match NodeFile::read(data_dir) {
        Ok(node) => node,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Err(not_running()),
        Err(error) => return Err(unusable(error)),
    };
    // The secret stays on this machine, whoever wrote the file.
    if !node.http.ip().is_loopback() {
        return Err(unusable(io::Error::other("its address is not one of this machine")));
    }
    let mut stream = match TcpStream::connect_timeout(&node.http, CONNECT_TIMEOUT) {
        Ok(stream) => stream,
        Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => return Err(not_running()),
        Err(error) => return Err(AdminError::Connection(error)),
    };
    stream.set_read_timeout(Some(ANSWER_TIMEOUT)).map_err(AdminError::Connection)?;
    stream.set_write_timeout(Some(ANSWER_TIMEOUT)).map_err(AdminError::Connection)?;
    let request = format!(
        "{method} {path} HTTP/1.1\r\nHost: {}\r\nAuthorization: Bearer {}\r\nAccept: application/json\r\n\
         Content-Length: 0\r\nConnection: close\r\n\r\n",
        node.http, node.secret
    );
    stream.write_all(request.as_bytes()).map_err(AdminError::Connection)?;
    let answer = read_answer(&mut stream).map_err(AdminError::Connection)?;
    let (status, body) = answer_of(&answer)?;
    if status == 200 {
        return Ok(body);
    }
    Err(AdminError::Refused { status, message: message_of(&body) })
}

/// Reads until the answer has the length it claims, or the node closes the connection.
fn read_answer(stream: &mut TcpStream) -> io::Result<Vec<u8>> {
    let mut answer = Vec::new();
    let mut part = vec![0; 64 << 10];
    while answer.len() < ANSWER_BYTES_MAX && !has_claimed_length(&answer) {
        let count = stream.read(&mut part)?;
        if count == 0 {
            break;
        }
        answer.extend_from_slice(&part[..count]);
    }
    Ok(answer)
}

fn has_claimed_length(answer: &[u8]) -> bool {
    let Some(end) = find(answer, b"\r\n\r\n") else { return false };
    let head = std::str::from_utf8(&answer[..end]).unwrap_or_default();
    let length = header(head, "content-length").and_then(|length| length.parse::<usize>().ok());
    length.is_some_and(|length| answer.len() - end - 4 >= length)
}

/// Returns the value of a header.
fn header<'a>(head: &'a str, wanted: &str) -> Option<&'a str> {
    let mut headers = head.split("\r\n").skip(1).filter_map(|line| line.split_once(':'));
    headers.find(|(name, _)| name.eq_ignore_ascii_case(wanted)).map(|(_, value)| value.trim())
}

/// Takes an HTTP/1.1 answer apart: status and body.
fn answer_of(answer: &[u8]) -> Result<(u16, Vec<u8>), AdminError> {
    let garbled = AdminError::Garbled;
    let end = find(answer, b"\r\n\r\n").ok_or(garbled("it is no HTTP"))?;
    let head = std::str::from_utf8(&answer[..end]).map_err(|_| garbled("it is no HTTP"))?;
    let body = &answer[end + 4..];
    let status = head
        .split("\r\n")
        .next()
        .and_then(|line| line.strip_prefix("HTTP/1."))
        .and_then(|line| line.split(' ').nth(1))
        .and_then(|status| status.parse().ok())
        .ok_or(garbled("it is no HTTP"))?;
    if header(head, "transfer-encoding").is_some_and(|coding| coding.eq_ignore_ascii_case("chunked")) {
        return Ok((status, unchunked(body).ok_or(garbled("it is cut off"))?));
    }
    match header(head, "content-length").map(str::parse::<usize>) {
        None => Ok((status, body.to_vec())),
        Some(Ok(length)) if length <= body.len() => Ok((status, body[..length].to_vec())),
        Some(Ok(_)) => Err(garbled("it is cut off")),
        Some(Err(_)) => Err(garbled("its length is no number")),
    }
}

fn unchunked(mut rest: &[u8]) -> Option<Vec<u8>> {
    let mut body = Vec::new();
    loop {
        let end = find(rest, b"\r\n")?;
        let size = std::str::from_utf8(&rest[..end]).ok()?.split(';').next()?.trim();
        let size = usize::from_str_radix(size, 16).ok()?;
        rest = &rest[end + 2..];
        if size == 0 {
            return Some(body);
        }
        body.extend_from_slice(rest.get(..size)?);
        rest = rest.get(size..)?.strip_prefix(b"\r\n")?;
    }
}

fn find(bytes: &[u8], wanted: &[u8]) -> Option<usize> {
    bytes.windows(wanted.len()).position(|window| window == wanted)
}

/// Returns what a refusal says: the `error` of a JSON object, or the text itself.
fn message_of(body: &[u8]) -> String {
    #[derive(Deserialize)]
    struct Refusal {
        error: String,
    }
    match serde_json::from_slice::<Refusal>(body) {
        Ok(refusal) => refusal.error,
        Err(_) => String::from_utf8_lossy(body).trim().chars().take(200).collect(),
    }
}

const CONNECT_TIMEOUT: Duration = Duration::from_secs(2);

/// How long a node may be silent.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(10);

/// The largest answer that is read.
const ANSWER_BYTES_MAX: usize = 64 << 20;

#[cfg(test)]
mod tests {
    use std::net::TcpListener;
    use std::thread::JoinHandle;

    use super::*;

    /// A data directory whose node gives one answer, and returns the request it got.
    fn node(answer: impl Into<Vec<u8>>) -> (tempfile::TempDir, JoinHandle<String>) {
        let answer = answer.into();
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let data_dir = data_dir(listener.local_addr().unwrap());
        let served = std::thread::spawn(move || {
            let (mut stream, _) = listener.accept().unwrap();
            let mut request = Vec::new();
            while find(&request, b"\r\n\r\n").is_none() {
                let mut bytes = [0; 1024];
                let count = stream.read(&mut bytes).unwrap();
                request.extend_from_slice(&bytes[..count]);
            }
            stream.write_all(&answer).unwrap();
            String::from_utf8(request).unwrap()
        });
        (data_dir, served)
    }

    fn data_dir(http: SocketAddr) -> tempfile::TempDir {
        let data_dir = tempfile::tempdir().unwrap();
        let file = NodeFile {
            pid: 7,
            node: "ab".repeat(16),
            name: "desk-1".into(),
            http,
            mesh: "0.0.0.0:8386".into(),
            secret: "s3cret".into(),
        };
        file.write(data_dir.path()).unwrap();
        data_dir
    }

    fn http(status: &str, body: &str) -> String {
        format!(
            "HTTP/1.1 {status}\r\nContent-Type: application/json\r\nContent-Length: {}\r\n\r\n{body}",
            body.len()
        )
    }

    #[test]
    fn asks_as_agreed() {
        let (data_dir, served) = node(http("200 OK", "[]"));
        assert_eq!(ask(data_dir.path(), "GET", Query::Apps.path()).unwrap(), b"[]");
        let request = served.join().unwrap();
        assert!(request.starts_with("GET /admin/v1/apps HTTP/1.1\r\nHost: 127.0.0.1:"), "{request}");
        assert!(request.contains("\r\nAuthorization: Bearer s3cret\r\n"), "{request}");
    }

    #[test]
    fn says_what_went_wrong() {
        let check = |data_dir: &Path, problem: &str, hint: &str, code: u8| {
            let error = ask(data_dir, "GET", "/").unwrap_err();
            let text = output::chain(&error);
            assert!(text.contains(problem), "{text}");
            assert!(error.hint(data_dir).contains(hint), "{}", error.hint(data_dir));
            assert_eq!(error.exit_code(), code);
        };
        let empty = tempfile::tempdir().unwrap();
        let place = empty.path().display().to_string();
        let up = format!("deskmesh up --data-dir {place}");
        check(empty.path(), &format!("no deskmesh node is running on {place}"), &up, 3);

        let free = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
        check(data_dir(free).path(), "no deskmesh node is running on", "deskmesh up", 3);
        check(data_dir("192.0.2.1:1".parse().unwrap()).path(), "not one of this machine", "Only the user", 3);
        fs::write(NodeFile::path(empty.path()), "{").unwrap();
        check(empty.path(), "cannot use", "restart of the node", 3);

        check(node("SSH-2.0-x\r\n\r\n").0.path(), "makes no sense", "Another program", 3);
        check(node("HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nx").0.path(), "cut off", "Another", 3);
        check(node(http("401 Unauthorized", "")).0.path(), "HTTP status 401", "try again", 1);
        let refusal = r#"{"error":"only the founder makes tokens"}"#;
        check(
            node(http("409 Conflict", refusal)).0.path(),
            "the node refused: only the founder",
            "status",
            1,
        );
    }

    #[test]
    fn reads_answers_in_pieces() {
        let chunked =
            "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\n[1,\r\n2;x=y\r\n2]\r\n0\r\n\r\n";
        assert_eq!(answer_of(chunked.as_bytes()).unwrap(), (200, b"[1,2]".to_vec()));
        assert!(answer_of(&chunked.as_bytes()[..chunked.len() - 10]).is_err());
        assert_eq!(answer_of(b"HTTP/1.0 404 Not Found\r\n\r\nno").unwrap(), (404, b"no".to_vec()));
    }

    #[test]
    fn does_not_wait_for_the_node_to_hang_up() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let data_dir = data_dir(listener.local_addr().unwrap());
        let asked = std::thread::spawn(move || ask(data_dir.path(), "GET", "/"));
        let (mut stream, _) = listener.accept().unwrap();
        stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\n[").unwrap();
        stream.write_all(b"12]").unwrap();
        // The connection is still open.
        assert_eq!(asked.join().unwrap().unwrap(), b"[12]");
        drop(stream);
    }

    #[test]
    fn answers_become_tables() {
        for (query, body, expected) in [
            (
                Query::Peers,
                r#"[{"node":"abababababababababababababababab","name":"desk-2","address":"10.0.0.2:8386","state":"up",
                     "rtt_ms":0.42,"sessions":3,"incarnation":9},
                    {"node":"cdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcd","name":"desk-3","address":"","state":"down",
                     "rtt_ms":null,"sessions":0,"incarnation":12},
                    {"node":"efefefefefefefefefefefefefefefef","name":"desk-4","address":"10.0.0.4:8386","state":"up",
                     "by_way_of":"desk-2","rtt_ms":1.0,"sessions":1,"incarnation":2}]"#,
                "\
NAME    NODE      ADDRESS        STATE  RTT MS  APPS  LIFE
desk-2  abababab  10.0.0.2:8386  up        0.4     3     9
desk-3  cdcdcdcd  -              down        -     0    12
desk-4  efefefef  via desk-2     up        1.0     1     2
",
            ),
            (
                Query::Apps,
                r#"[{"instance":"i1","application":"blotter","user":"ann","node":"desk-1","machine":"m1",
                     "local":true,"methods":2}]"#,
                "\
APPLICATION  INSTANCE  USER  NODE    MACHINE  LOCAL  METHODS
blotter      i1        ann   desk-1  m1       yes          2
",
            ),
            (
                Query::Methods,
                r#"[{"name":"Quotes.Get","application":"quotes","instance":"i2","node":"desk-2",
                     "streaming":false,"local":false}]"#,
                "\
METHOD      APPLICATION  INSTANCE  NODE    STREAM  LOCAL
Quotes.Get  quotes       i2        desk-2  no      no
",
            ),
            (
                Query::Contexts,
                r#"[{"name":"___channel___Red","user":"ann","bytes":120,"members":2,"keys":1}]"#,
                "\
CONTEXT           USER  BYTES  MEMBERS  KEYS
___channel___Red  ann     120        2     1
",
            ),
            (Query::Contexts, "[]", "CONTEXT  USER  BYTES  MEMBERS  KEYS\n"),
        ] {
            assert_eq!(query.rendered(body).unwrap(), expected);
        }
        assert!(matches!(Query::Apps.rendered(r#"[{"a":1}]"#), Err(AdminError::NotUnderstood(_))));
    }

    #[test]
    fn status_is_a_page() {
        let status = Status {
            name: "desk-1".into(),
            uptime_s: 3_725,
            listen: vec!["127.0.0.1:8385".into()],
            ..Status::default()
        };
        let page = Query::Status.rendered(&serde_json::to_string(&status).unwrap()).unwrap();
        assert!(page.starts_with("name          desk-1\nnode          -\n"), "{page}");
        assert!(page.contains("up for        1 h 2 min\napplications  127.0.0.1:8385\n"), "{page}");
    }

    #[test]
    fn times_for_people() {
        for (seconds, expected) in
            [(0, "0 s"), (59, "59 s"), (60, "1 min 0 s"), (3_600, "1 h 0 min"), (90_000, "1 d 1 h")]
        {
            assert_eq!(for_people(Duration::from_secs(seconds)), expected);
        }
    }

    #[test]
    fn the_file_is_the_owners() {
        let data_dir = data_dir("127.0.0.1:1".parse().unwrap());
        let file = NodeFile::read(data_dir.path()).unwrap();
        assert!(!format!("{file:?}").contains("s3cret"));
        file.write(data_dir.path()).unwrap();
        #[cfg(unix)]
        {
            use std::os::unix::fs::PermissionsExt;
            let mode = fs::metadata(NodeFile::path(data_dir.path())).unwrap().permissions().mode();
            assert_eq!(mode & 0o777, 0o600);
        }
        assert_eq!(fs::read_dir(data_dir.path()).unwrap().count(), 1);
        NodeFile::remove(data_dir.path()).unwrap();
        assert!(NodeFile::read(data_dir.path()).is_err());
    }
}
