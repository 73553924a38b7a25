//! One request to a running node, and its answer.

use std::error::Error;
use std::fmt;
use std::io::{self, Read as _, Write as _};
use std::net::TcpStream;
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde::Deserialize;
use serde::de::DeserializeOwned;

use super::NodeFile;
use crate::output;

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
    pub(super) const fn exit_code(&self) -> u8 {
        match self {
            Self::Refused { .. } => output::EXIT_NO,
            _ => output::EXIT_UNREACHABLE,
        }
    }

    pub(super) fn hint(&self, data_dir: &Path) -> String {
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

pub(super) fn text(body: Vec<u8>) -> Result<String, AdminError> {
    String::from_utf8(body).map_err(|_| AdminError::Garbled("it is not UTF-8"))
}

pub(super) fn understood<T: DeserializeOwned>(body: &str) -> Result<T, AdminError> {
    serde_json::from_str(body).map_err(AdminError::NotUnderstood)
}

const CONNECT_TIMEOUT: Duration = Duration::from_secs(2);

/// How long a node may be silent.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(10);

/// The largest answer that is read.
const ANSWER_BYTES_MAX: usize = 64 << 20;

#[cfg(test)]
pub(super) mod tests {
    use std::fs;
    use std::net::{SocketAddr, TcpListener};
    use std::thread::JoinHandle;

    use super::*;
    use crate::admin_client::Query;

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
        node_file(http).write(data_dir.path()).unwrap();
        data_dir
    }

    pub(in super::super) fn node_file(http: SocketAddr) -> NodeFile {
        NodeFile {
            pid: 7,
            node: "ab".repeat(16),
            name: "desk-1".into(),
            http,
            mesh: "0.0.0.0:8386".into(),
            secret: "s3cret".into(),
        }
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
}
