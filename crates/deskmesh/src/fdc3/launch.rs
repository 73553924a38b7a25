//! Native applications as processes.
//!
//! The process is told by its environment where to connect and who it is. It belongs to the user, not to
//! the node: it has a process group of its own, so that Ctrl-C at the node does not reach it, and it goes
//! on when the node stops.

use std::error::Error;
use std::path::Path;
use std::process::{ExitStatus, Stdio};
use std::sync::Arc;
use std::{fmt, io};

use fdc3_directory::{AppType, Details, Record};
use mesh_model::Text;
use tokio::process::{Child, Command};
use tokio::sync::Notify;

use crate::config::key;

/// What an application needs in order to connect.
pub(crate) struct Credentials {
    /// Where: `ws://127.0.0.1:PORT/fdc3`.
    pub(crate) websocket_url: String,
    /// The id of the instance that it is to be. Everybody may know it.
    pub(crate) instance_id: String,
    /// By which it shows that it is this instance. Only it may know.
    pub(crate) instance_uuid: String,
    /// The secret of its first connection. Only it may know.
    pub(crate) shared_secret: String,
}

/// A native application that was started.
#[derive(Debug)]
pub(crate) struct Process {
    /// None when it has just ended.
    pid: Option<u32>,
    end: Arc<Notify>,
}

impl Process {
    /// Asks it to end, in its own good order. Returns whether the system has a way to.
    pub(crate) fn end(&self) -> bool {
        tracing::info!(pid = self.pid, "native app is asked to end, as it has asked for");
        self.end.notify_one();
        cfg!(unix)
    }
}

/// Starts a native application. `on_exit` is called when it has ended.
///
/// Must be called within a tokio runtime.
///
/// # Errors
///
/// Returns an error if there is nothing to start, or the system does not start it; `on_exit` is dropped.
pub(crate) fn launch(
    record: &Record,
    credentials: &Credentials,
    on_exit: impl FnOnce(io::Result<ExitStatus>) + Send + 'static,
) -> Result<Process, LaunchError> {
    let app_id = record.app_id.to_string();
    let Details::Native { path, arguments } = &record.details else {
        return Err(LaunchError::NotStartable { app_id, why: why_not(record) });
    };
    let mut child = command(path, arguments, credentials)
        .spawn()
        .map_err(|source| LaunchError::new(app_id, path, source))?;
    let pid = child.id();
    tracing::info!(app = %record.app_id, program = %path, pid, "native app started");
    let app_id = record.app_id.detached();
    let end = Arc::new(Notify::new());
    let asked = end.clone();
    tokio::spawn(async move {
        let ended = loop {
            tokio::select! {
                ended = child.wait() => break ended,
                () = asked.notified() => ask_to_end(&child, &app_id),
            }
        };
        match &ended {
            Ok(status) => tracing::info!(app = %app_id, pid, %status, "native app ended"),
            Err(error) => {
                tracing::warn!(app = %app_id, pid, %error, "it is not known how a native app ended")
            }
        }
        on_exit(ended);
    });
    Ok(Process { pid, end })
}

/// Asks the process, and those that it has started, to end. While it is waited for, its id is no other's.
#[cfg(unix)]
fn ask_to_end(child: &Child, app_id: &Text) {
    use rustix::process::{Pid, Signal, kill_process_group};
    let Some(pid) = child.id().and_then(|pid| Pid::from_raw(i32::try_from(pid).ok()?)) else { return };
    if let Err(error) = kill_process_group(pid, Signal::TERM) {
        tracing::warn!(app = %app_id, %error, "a native app cannot be asked to end");
    }
}

/// Processes without a window of their own cannot be asked to.
#[cfg(not(unix))]
fn ask_to_end(_: &Child, _: &Text) {}

/// Returns why a record is of no program that a node starts, and what to do.
fn why_not(record: &Record) -> String {
    match record.app_type {
        AppType::Web => "it is no program: its app directory has no page for it in `details.url`".to_owned(),
        AppType::Native => "its app directory names no program in `details.path`".to_owned(),
        AppType::Citrix => {
            "it is of type `citrix`, which nodes do not start; start it with the Citrix client".to_owned()
        }
        AppType::OnlineNative => {
            let url = record.raw.member("details").and_then(|details| details.member("url")?.as_text());
            let url = url.unwrap_or_else(|| "its address".into());
            format!("it is of type `onlineNative`, which nodes do not start; open {url} in a browser")
        }
        AppType::Other => "its type in the app directory is none that nodes start: web and native".to_owned(),
    }
}

fn command(path: &str, arguments: &[Text], credentials: &Credentials) -> Command {
    let mut command = Command::new(path);
    command
        .args(arguments.iter().map(|argument| &**argument))
        .env("FDC3_WEBSOCKET_URL", &credentials.websocket_url)
        .env("FDC3_INSTANCE_ID", &credentials.instance_id)
        .env("FDC3_INSTANCE_UUID", &credentials.instance_uuid)
        .env("FDC3_SHARED_SECRET", &credentials.shared_secret)
        // Whoever reads the node's output must not have to wait for the end of an application.
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null());
    // The secrets that the node got this way are not for others.
    for key in key::KEYS.iter().filter(|key| key.is_secret()) {
        command.env_remove(key.variable());
    }
    #[cfg(unix)]
    command.process_group(0);
    #[cfg(windows)]
    command.creation_flags(CREATE_NEW_PROCESS_GROUP);
    command
}

/// Why an application was not started.
#[derive(Debug)]
pub(crate) enum LaunchError {
    /// It is of a type that nodes do not start, or its directory does not say which program it is.
    NotStartable {
        /// The application.
        app_id: String,
        /// Why, and what to do.
        why: String,
    },
    /// There is no such program.
    NotThere {
        /// The application.
        app_id: String,
        /// The program.
        program: String,
    },
    /// The system does not start it.
    Refused {
        /// The application.
        app_id: String,
        /// The program.
        program: String,
        /// What the system said.
        source: io::Error,
    },
}

impl LaunchError {
    fn new(app_id: String, program: &str, source: io::Error) -> Self {
        let program = program.to_owned();
        // The system says the same of a script whose interpreter is missing.
        if source.kind() == io::ErrorKind::NotFound && !Path::new(&program).exists() {
            return Self::NotThere { app_id, program };
        }
        Self::Refused { app_id, program, source }
    }
}

impl fmt::Display for LaunchError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NotStartable { app_id, why } => write!(f, "app `{app_id}` cannot be started: {why}"),
            Self::NotThere { app_id, program } => write!(
                f,
                "app `{app_id}` cannot be started: there is no program `{program}`; install it, or correct \
                 `details.path` in its app directory"
            ),
            Self::Refused { app_id, program, .. } => {
                write!(f, "app `{app_id}` cannot be started: the system refuses to run `{program}`")
            }
        }
    }
}

impl Error for LaunchError {
    fn source(&self) -> Option<&(dyn Error + 'static)> {
        match self {
            Self::Refused { source, .. } => Some(source),
            Self::NotStartable { .. } | Self::NotThere { .. } => None,
        }
    }
}

#[cfg(windows)]
const CREATE_NEW_PROCESS_GROUP: u32 = 0x200;

#[cfg(unix)]
#[cfg(test)]
mod tests {
    use std::os::unix::process::ExitStatusExt as _;
    use std::time::Duration;

    use rustix::process::{Pid, Signal, getpgid, kill_process, test_kill_process};
    use tokio::sync::oneshot;

    use super::*;
    use crate::output;

    fn native(path: &str, arguments: &[&str]) -> Record {
        let text = serde_json::json!({
            "appId": "pricer", "title": "Pricer", "type": "native",
            "details": { "path": path, "arguments": arguments },
        });
        fdc3_directory::parse(text.to_string().as_bytes()).unwrap().records.remove(0)
    }

    fn credentials() -> Credentials {
        Credentials {
            websocket_url: "ws://127.0.0.1:8385/fdc3".to_owned(),
            instance_id: "i1".to_owned(),
            instance_uuid: "u1".to_owned(),
            shared_secret: "s1".to_owned(),
        }
    }

    /// Starts it, and returns its process id and what will be its end.
    fn launched(record: &Record) -> (Pid, oneshot::Receiver<io::Result<ExitStatus>>) {
        let (tx, rx) = oneshot::channel();
        let on_exit = move |ended| drop(tx.send(ended));
        let pid = launch(record, &credentials(), on_exit).unwrap().pid.unwrap();
        (Pid::from_raw(i32::try_from(pid).unwrap()).unwrap(), rx)
    }

    async fn end(rx: oneshot::Receiver<io::Result<ExitStatus>>) -> ExitStatus {
        tokio::time::timeout(Duration::from_secs(20), rx).await.expect("it ends").unwrap().unwrap()
    }

    #[tokio::test]
    async fn a_program_is_told_where_to_connect() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("said").display().to_string();
        let script = r#"echo "$FDC3_WEBSOCKET_URL $FDC3_INSTANCE_ID $FDC3_INSTANCE_UUID $FDC3_SHARED_SECRET|$1|$2" > "$0""#;
        let (_, rx) = launched(&native("/bin/sh", &["-c", script, &file, "a b", ""]));
        assert!(end(rx).await.success());
        let said = std::fs::read_to_string(&file).unwrap();
        assert_eq!(said, "ws://127.0.0.1:8385/fdc3 i1 u1 s1|a b|\n");
    }

    #[test]
    fn it_does_not_inherit_the_secrets_of_the_node() {
        let command = command("p", &[], &credentials());
        let removed = command.as_std().get_envs().filter(|(_, value)| value.is_none());
        let names: Vec<_> = removed.map(|(name, _)| name.to_str().unwrap()).collect();
        assert_eq!(names, ["DESKMESH_FDC3_DIRECTORY_TOKEN", "DESKMESH_JOIN"]);
    }

    #[tokio::test]
    async fn its_end_is_reported() {
        let (_, rx) = launched(&native("sh", &["-c", "exit 7"]));
        assert_eq!(end(rx).await.code(), Some(7));
        let (pid, rx) = launched(&native("sh", &["-c", "kill -9 $$"]));
        assert_eq!(end(rx).await.signal(), Some(9));
        // Nothing is left of it, not even a row in the process table.
        assert!(test_kill_process(pid).is_err());
    }

    #[tokio::test]
    async fn it_is_asked_to_end_with_what_it_has_started() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("said");
        // It ends by itself, once its child has.
        let script = r#"trap 'wait; echo ended >> "$0"; exit 3' TERM; (trap 'echo child >> "$0"; exit' TERM; echo up > "$0"; while :; do sleep 0.05; done) & wait"#;
        let (tx, rx) = oneshot::channel();
        let record = native("/bin/sh", &["-c", script, file.to_str().unwrap()]);
        let process = launch(&record, &credentials(), |ended| drop(tx.send(ended))).unwrap();
        let said = || std::fs::read_to_string(&file).unwrap_or_default();
        while said().is_empty() {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        assert!(process.end());
        assert_eq!(end(rx).await.code(), Some(3));
        assert_eq!(said(), "up\nchild\nended\n");
        // Whoever asks once more reaches nobody.
        assert!(process.end());
    }

    #[test]
    fn it_has_a_group_of_its_own_and_outlives_the_node() {
        let runtime = tokio::runtime::Runtime::new().unwrap();
        let (pid, _rx) = runtime.block_on(async { launched(&native("sleep", &["600"])) });
        let group = getpgid(Some(pid));
        runtime.shutdown_background();
        let lives = test_kill_process(pid);
        kill_process(pid, Signal::KILL).unwrap();
        assert_eq!((group, lives), (Ok(pid), Ok(())));
    }

    #[tokio::test]
    async fn what_cannot_be_started_is_named() {
        let dir = tempfile::tempdir().unwrap();
        let [plain, orphan] = ["plain", "orphan"].map(|name| dir.path().join(name).display().to_string());
        std::fs::write(&plain, "x").unwrap();
        std::fs::write(&orphan, "#!/no/such/interpreter\n").unwrap();
        let executable = std::os::unix::fs::PermissionsExt::from_mode(0o755);
        std::fs::set_permissions(&orphan, executable).unwrap();
        let of_type = |app_type: &str| {
            let text = serde_json::json!({
                "appId": "app", "title": "x", "type": app_type, "details": { "url": "https://a.example/x" },
            });
            fdc3_directory::parse(text.to_string().as_bytes()).unwrap().records.remove(0)
        };
        for (record, expected) in [
            (
                native("/no/such/program", &[]),
                "there is no program `/no/such/program`; install it, or correct `details.path`".to_owned(),
            ),
            (
                native("no-such-program-either", &[]),
                "there is no program `no-such-program-either`".to_owned(),
            ),
            (native(&plain, &[]), format!("the system refuses to run `{plain}`: Permission denied")),
            (native(&orphan, &[]), format!("the system refuses to run `{orphan}`: No such file")),
            (of_type("web"), "app `app` cannot be started: it is no program".to_owned()),
            (of_type("native"), "names no program in `details.path`".to_owned()),
            (of_type("citrix"), "of type `citrix`, which nodes do not start".to_owned()),
            (of_type("onlineNative"), "open https://a.example/x in a browser".to_owned()),
            (of_type("other"), "none that nodes start".to_owned()),
        ] {
            let error = launch(&record, &credentials(), |_| panic!("nothing was started")).unwrap_err();
            let problem = output::chain(&error);
            assert!(problem.contains(&expected) && problem.contains(&*record.app_id), "{problem}");
        }
    }
}
