//! Programs that decide who may log in: one for each authentication provider of the configuration.
//!
//! A login that names a provider is written to that provider's program as one line of JSON, and the
//! program answers with one line, in any order:
//!
//! ```text
//! > {"id":7,"connection":3,"request_id":"a1","remote-identity":{"machine":"127.0.0.1"},"authentication":{"provider":"win","method":"access-token","token":"TlRMTVNTUAAB"}}
//! < {"id":7,"type":"continue","authentication":{"token":"TlRMTVNTUAAC"}}
//! > {"id":8,"connection":3,"request_id":"a1","remote-identity":{"machine":"127.0.0.1"},"authentication":{"provider":"win","method":"access-token","token":"TlRMTVNTUAAD"}}
//! < {"id":8,"type":"success","user":"joe","login":"CORP\\joe"}
//! ```
//!
//! `connection` and `request_id` together tell which challenge a login answers. A success may also carry
//! `access_token`, which the client is given, and `options` with `"service?": true` for an app that all
//! users see. The third answer is `{"id":8,"type":"failure","message":"why"}`.
//!
//! A program is started at the first login that needs it, and again if it has ended. What it writes to
//! its standard error appears in that of the node.

use std::collections::{BTreeMap, HashMap};
use std::io;
use std::process::Stdio;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use mesh_model::Json;
use serde::Deserialize;
use tokio::io::{AsyncBufReadExt as _, AsyncReadExt as _, AsyncWriteExt as _, BufReader};
use tokio::process::{Child, ChildStdin, ChildStdout, Command};
use tokio::sync::{mpsc, oneshot};
use tokio::time::Instant;

/// The provider of logins that name none. It is built in: any password will do, because who may connect
/// at all was decided before. A program of this name replaces it.
pub(crate) const BASIC: &str = "basic";
/// Logins that wait to be written to one program.
const WAITING_MAX: usize = 256;
/// The longest line that a program may write.
const LINE_BYTES_MAX: u64 = 1 << 20;
/// Between two starts of a program.
const PAUSE: Duration = Duration::from_secs(1);

/// The programs, by provider.
#[derive(Debug)]
pub(crate) struct Authenticators(BTreeMap<String, Arc<Authenticator>>);

/// One program.
#[derive(Debug)]
pub(crate) struct Authenticator {
    provider: String,
    command: Vec<String>,
    timeout: Duration,
    running: Mutex<Option<Running>>,
    waiting: Arc<Waiting>,
    next: AtomicU64,
}

#[derive(Debug)]
struct Running {
    lines: mpsc::Sender<Vec<u8>>,
    since: Instant,
}

/// Who waits for which answer.
type Waiting = Mutex<HashMap<u64, oneshot::Sender<Verdict>>>;

/// What a program is asked.
#[derive(Clone, Debug)]
pub(crate) struct Question {
    /// A number of the connection.
    pub(crate) connection: u64,
    /// The id of the request.
    pub(crate) request: Json,
    /// The address of the client.
    pub(crate) machine: String,
    /// What the client says.
    pub(crate) authentication: Json,
}

/// What a program answers.
#[derive(Debug, PartialEq, Eq, Deserialize)]
#[serde(tag = "type", rename_all = "lowercase")]
pub(crate) enum Verdict {
    /// It is who it says.
    Success {
        /// Whose instance it is.
        #[serde(default)]
        user: Option<String>,
        /// The name under which it logged in.
        #[serde(default)]
        login: Option<String>,
        /// What the client may log in with the next time.
        #[serde(default)]
        access_token: Option<String>,
        /// What else follows from it.
        #[serde(default)]
        options: Options,
    },
    /// The client has to answer this first.
    Continue {
        /// The challenge, as the client is sent it.
        authentication: serde_json::Value,
    },
    /// It is not.
    Failure {
        /// Why, for the client.
        #[serde(default)]
        message: Option<String>,
    },
}

/// What else follows from a login.
#[derive(Debug, Default, PartialEq, Eq, Deserialize)]
pub(crate) struct Options {
    /// All users see the app.
    #[serde(default, rename = "service?")]
    pub(crate) service: bool,
}

#[derive(Deserialize)]
struct Line {
    id: u64,
    #[serde(flatten)]
    verdict: Verdict,
}

impl Authenticators {
    /// Takes the programs of the configuration. None is started yet.
    pub(crate) fn new(programs: &BTreeMap<String, Vec<String>>, timeout: Duration) -> Self {
        let authenticator = |(provider, command): (&String, &Vec<String>)| {
            let authenticator = Authenticator {
                provider: provider.clone(),
                command: command.clone(),
                timeout,
                running: Mutex::default(),
                waiting: Arc::default(),
                next: AtomicU64::new(1),
            };
            (provider.clone(), Arc::new(authenticator))
        };
        Self(programs.iter().map(authenticator).collect())
    }

    /// Returns a provider's program.
    pub(crate) fn of(&self, provider: &str) -> Option<&Arc<Authenticator>> {
        self.0.get(provider)
    }
}

impl Authenticator {
    /// Asks the program. The error is for the client.
    pub(crate) async fn ask(&self, question: Question) -> Result<Verdict, String> {
        let (millis, provider) = (self.timeout.as_millis(), &self.provider);
        tokio::time::timeout(self.timeout, self.exchange(question)).await.unwrap_or_else(|_| {
            Err(format!("authentication provider `{provider}` gave no answer within {millis} ms (limit authentication_timeout_ms)"))
        })
    }

    async fn exchange(&self, question: Question) -> Result<Verdict, String> {
        let id = self.next.fetch_add(1, Ordering::Relaxed);
        let (answer, answered) = oneshot::channel();
        lock(&self.waiting).insert(id, answer);
        // Also when the client goes, or the time is over.
        let _waits = Waits(&self.waiting, id);
        let ended = || format!("the program of authentication provider `{}` has ended", self.provider);
        let lines = self.lines().map_err(|error| {
            tracing::error!(provider = %self.provider, %error, "no authentication program");
            format!("the program of authentication provider `{}` cannot be started", self.provider)
        })?;
        lines.send(question.line(id)).await.map_err(|_| ended())?;
        answered.await.map_err(|_| ended())
    }

    /// Returns where questions go: to a program that was started just now, if there was none.
    fn lines(&self) -> io::Result<mpsc::Sender<Vec<u8>>> {
        let mut running = lock(&self.running);
        if let Some(running) = &*running {
            if !running.lines.is_closed() {
                return Ok(running.lines.clone());
            }
            if running.since.elapsed() < PAUSE {
                return Err(io::Error::other("it ended less than a second after its start"));
            }
        }
        let (program, arguments) =
            self.command.split_first().ok_or_else(|| io::Error::other("no program is named"))?;
        let mut child = Command::new(program)
            .args(arguments)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .kill_on_drop(true)
            .spawn()
            .map_err(|error| io::Error::new(error.kind(), format!("`{program}`: {error}")))?;
        let (Some(stdin), Some(stdout)) = (child.stdin.take(), child.stdout.take()) else {
            return Err(io::Error::other("it has no standard input and output"));
        };
        let (lines, to_write) = mpsc::channel(WAITING_MAX);
        tracing::info!(provider = %self.provider, program, "authentication program started");
        let (provider, waiting) = (self.provider.clone(), self.waiting.clone());
        tokio::spawn(async move {
            let problem = attend(child, stdin, stdout, to_write, &waiting).await;
            tracing::warn!(provider, %problem, "authentication program ended");
            lock(&waiting).clear();
        });
        *running = Some(Running { lines: lines.clone(), since: Instant::now() });
        Ok(lines)
    }
}

/// Passes questions and answers on until the program ends or writes what it must not.
async fn attend(
    mut child: Child,
    stdin: ChildStdin,
    stdout: ChildStdout,
    to_write: mpsc::Receiver<Vec<u8>>,
    waiting: &Waiting,
) -> io::Error {
    let ended = tokio::select! {
        ended = write(stdin, to_write) => ended,
        ended = read(stdout, waiting) => ended,
    };
    let error = ended.err().unwrap_or_else(|| io::Error::other("it closed its standard output"));
    let _ = child.kill().await;
    error
}

async fn write(mut stdin: ChildStdin, mut lines: mpsc::Receiver<Vec<u8>>) -> io::Result<()> {
    while let Some(line) = lines.recv().await {
        stdin.write_all(&line).await?;
    }
    Ok(())
}

async fn read(stdout: ChildStdout, waiting: &Waiting) -> io::Result<()> {
    let mut stdout = BufReader::new(stdout);
    let mut line = Vec::new();
    loop {
        line.clear();
        if (&mut stdout).take(LINE_BYTES_MAX).read_until(b'\n', &mut line).await? == 0 {
            return Ok(());
        }
        if line.len() as u64 == LINE_BYTES_MAX {
            return Err(io::Error::other(format!("it wrote a line of more than {LINE_BYTES_MAX} bytes")));
        }
        match serde_json::from_slice::<Line>(&line) {
            Ok(Line { id, verdict }) => {
                let who = lock(waiting).remove(&id);
                // Who no longer waits needs no answer.
                let _ = who.map(|who| who.send(verdict));
            }
            Err(error) => tracing::warn!(%error, "an authentication program wrote a line that is no answer"),
        }
    }
}

impl Question {
    fn line(&self, id: u64) -> Vec<u8> {
        let machine = serde_json::Value::from(&*self.machine);
        let mut line = format!(r#"{{"id":{id},"connection":{},"request_id":"#, self.connection).into_bytes();
        line.extend_from_slice(self.request.as_bytes());
        line.extend_from_slice(
            format!(r#","remote-identity":{{"machine":{machine}}},"authentication":"#).as_bytes(),
        );
        line.extend_from_slice(self.authentication.as_bytes());
        // Line ends in what a client sent can only stand between its parts.
        for byte in &mut line {
            if matches!(byte, b'\n' | b'\r') {
                *byte = b' ';
            }
        }
        line.extend_from_slice(b"}\n");
        line
    }
}

struct Waits<'a>(&'a Waiting, u64);

impl Drop for Waits<'_> {
    fn drop(&mut self) {
        lock(self.0).remove(&self.1);
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn question(authentication: &'static str) -> Question {
        let (request, authentication) = (Json::from_static("\"a\""), Json::from_static(authentication));
        Question { connection: 1, request, machine: "127.0.0.1".into(), authentication }
    }

    fn program(script: &str) -> Arc<Authenticator> {
        let command = vec!["/bin/sh".to_owned(), "-c".to_owned(), script.to_owned()];
        let programs = BTreeMap::from([("p".to_owned(), command)]);
        Authenticators::new(&programs, Duration::from_millis(500)).of("p").unwrap().clone()
    }

    #[test]
    fn a_question_is_one_line() {
        let line = question("{\"token\":\r\n\"x\\ny\"}").line(7);
        let line = String::from_utf8(line).unwrap();
        assert_eq!(line.find('\n'), Some(line.len() - 1));
        let value: serde_json::Value = serde_json::from_str(&line).unwrap();
        assert_eq!(value["authentication"]["token"], "x\ny");
        assert_eq!(value["id"], 7);
    }

    #[tokio::test]
    async fn programs_answer_each_their_own() {
        let p = program(
            r#"read a; read b; echo '{"id":2,"type":"failure","message":"no"}'; echo '{"id":1,"type":"success","user":"joe","options":{"service?":true}}'; read c"#,
        );
        let (first, second) = tokio::join!(p.ask(question("{}")), p.ask(question("{}")));
        let options = Options { service: true };
        let success = Verdict::Success { user: Some("joe".into()), login: None, access_token: None, options };
        assert_eq!(first, Ok(success));
        assert_eq!(second, Ok(Verdict::Failure { message: Some("no".into()) }));
    }

    #[tokio::test]
    async fn a_program_that_fails_is_told_from_one_that_is_slow() {
        let error = program("exit 1").ask(question("{}")).await.unwrap_err();
        assert!(error.contains("has ended"), "{error}");
        let slow = program("sleep 30");
        let error = slow.ask(question("{}")).await.unwrap_err();
        assert!(error.contains("authentication_timeout_ms"), "{error}");
        assert!(lock(&slow.waiting).is_empty());
        let programs = BTreeMap::from([("p".to_owned(), vec!["/no/such/program".to_owned()])]);
        let none = Authenticators::new(&programs, Duration::from_secs(1));
        let error = none.of("p").unwrap().ask(question("{}")).await.unwrap_err();
        assert!(error.contains("cannot be started"), "{error}");
    }
}
