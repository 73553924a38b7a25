//! The app directories of this node: files and servers, read again when they change.
//!
//! Every source has a task of its own, so that one that does not answer holds up no other. A source that
//! cannot be read keeps what it held last, and the log says so once, and again when it can be read. The
//! tasks end when nobody holds the [`watch::Receiver`] any more.

use std::convert::Infallible;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use anyhow::{Context as _, anyhow, bail};
use fdc3_directory::{Directory, Parsed};
use hyper::StatusCode;
use hyper::header::{ACCEPT, ETAG, HeaderValue, IF_NONE_MATCH};
use reqwest::redirect::Policy;
use reqwest::{Client, Url};
use tokio::io::AsyncReadExt as _;
use tokio::sync::{mpsc, watch};

use crate::config::Fdc3Config;

/// Reads the directories of the configuration, and goes on to.
///
/// Returns when each has been tried once, or after [`FIRST_READ`]: an application that connects as soon
/// as the node is up is to be known then.
pub(crate) async fn start(config: &Fdc3Config) -> watch::Receiver<Arc<Directory>> {
    let server = Duration::from_secs(config.directory_refresh_s);
    start_at(config, Pace { file: LOOK_EVERY, server, retry: RETRY.min(server) }).await
}

/// How long to wait between two readings.
#[derive(Clone, Copy)]
struct Pace {
    file: Duration,
    server: Duration,
    /// Of a server that could not be read.
    retry: Duration,
}

async fn start_at(config: &Fdc3Config, pace: Pace) -> watch::Receiver<Arc<Directory>> {
    let mut directory = Directory::default();
    for name in &config.directories {
        // Whichever is read first: the order of the configuration counts.
        directory.replace(name, Vec::new());
    }
    let (directory_tx, directory_rx) = watch::channel(Arc::new(directory));
    let directory_tx = Arc::new(directory_tx);
    let (tried_tx, mut tried_rx) = mpsc::channel(1);
    for name in &config.directories {
        let source = Source::new(name, config.directory_token.as_deref());
        tokio::spawn(source.run(directory_tx.clone(), tried_tx.clone(), pace));
    }
    drop(tried_tx);
    // Nothing is ever sent: this ends when every task has dropped its end.
    let _ = tokio::time::timeout(FIRST_READ, tried_rx.recv()).await;
    directory_rx
}

/// One directory.
struct Source {
    name: String,
    place: Place,
    /// The digest of the text that is in force.
    known: Option<[u8; 32]>,
    /// Why it could not be read the last time.
    trouble: Option<String>,
}

enum Place {
    File(FilePlace),
    Server(ServerPlace),
}

struct FilePlace {
    path: PathBuf,
    /// What the file looked like when it was read; see [`Place::forget`].
    seen: Option<(SystemTime, u64)>,
}

struct ServerPlace {
    url: Url,
    token: Option<String>,
    client: Option<Client>,
    /// The tag of the last answer; see [`Place::forget`].
    etag: Option<HeaderValue>,
}

impl Source {
    fn new(name: &str, token: Option<&str>) -> Self {
        let place = match Url::parse(name) {
            Ok(url) if matches!(url.scheme(), "http" | "https") => {
                let token = token.filter(|_| {
                    let safe = url.scheme() == "https" || is_loopback(&url);
                    if !safe {
                        tracing::warn!(source = name, "fdc3.directory_token is not sent there: it would be readable on the way; use https");
                    }
                    safe
                });
                Place::Server(ServerPlace {
                    url,
                    token: token.map(ToOwned::to_owned),
                    client: None,
                    etag: None,
                })
            }
            _ => Place::File(FilePlace { path: PathBuf::from(name), seen: None }),
        };
        Self { name: name.to_owned(), place, known: None, trouble: None }
    }

    async fn run(
        mut self,
        directory: Arc<watch::Sender<Arc<Directory>>>,
        tried: mpsc::Sender<Infallible>,
        pace: Pace,
    ) {
        let mut tried = Some(tried);
        loop {
            let read = tokio::select! {
                () = directory.closed() => return,
                read = self.place.read() => read,
            };
            self.take(read, &directory);
            drop(tried.take());
            let pause = match &self.place {
                Place::File(_) => pace.file,
                Place::Server(_) if self.trouble.is_some() => pace.retry,
                Place::Server(_) => pace.server,
            };
            tokio::select! {
                () = directory.closed() => return,
                () = tokio::time::sleep(pause) => {}
            }
        }
    }

    /// Takes what was read: a text, nothing new, or an error.
    fn take(&mut self, read: anyhow::Result<Option<Vec<u8>>>, directory: &watch::Sender<Arc<Directory>>) {
        match read.and_then(|text| self.news(text)) {
            Ok(news) => {
                if self.trouble.take().is_some() {
                    tracing::info!(source = %self.name, "the app directory can be read again");
                }
                if let Some((digest, parsed)) = news {
                    self.known = Some(digest);
                    self.publish(parsed, directory);
                }
            }
            Err(error) => {
                self.place.forget();
                let problem = format!("{error:#}");
                if self.is_news(&problem) {
                    tracing::warn!(source = %self.name, problem, "an app directory cannot be read; what it held last stays in force");
                }
            }
        }
    }

    /// Returns what a text holds, unless that is in force already.
    fn news(&self, text: Option<Vec<u8>>) -> anyhow::Result<Option<([u8; 32], Parsed)>> {
        let Some(text) = text else { return Ok(None) };
        let digest = digest(&text);
        if self.known == Some(digest) {
            return Ok(None);
        }
        let parsed = fdc3_directory::parse(&text).context("it is no app directory")?;
        Ok(Some((digest, parsed)))
    }

    /// Notes a problem, and returns whether it is another than before.
    fn is_news(&mut self, problem: &str) -> bool {
        let is_news = self.trouble.as_deref() != Some(problem);
        self.trouble = Some(problem.to_owned());
        is_news
    }

    fn publish(&self, parsed: Parsed, directory: &watch::Sender<Arc<Directory>>) {
        let apps = parsed.records.len();
        let mut duplicates = Vec::new();
        directory.send_modify(|directory| {
            duplicates = Arc::make_mut(directory).replace(&self.name, parsed.records);
        });
        let source = &self.name;
        tracing::info!(source, apps, "app directory read");
        let warnings = parsed.warnings.iter().map(ToString::to_string);
        let warnings: Vec<_> = warnings.chain(duplicates.iter().map(ToString::to_string)).collect();
        for problem in warnings.iter().take(WARNINGS_MAX) {
            tracing::warn!(source, problem, "something is wrong in an app directory");
        }
        if let Some(more @ 1..) = warnings.len().checked_sub(WARNINGS_MAX) {
            tracing::warn!(source, more, "more is wrong in this app directory");
        }
    }
}

impl Place {
    /// Returns the text, or `None` if it is what it was the last time.
    async fn read(&mut self) -> anyhow::Result<Option<Vec<u8>>> {
        match self {
            Self::File(file) => file.read().await,
            Self::Server(server) => server.read().await,
        }
    }

    /// Makes the next reading return the text whatever it was the last time: that was of no use.
    fn forget(&mut self) {
        match self {
            Self::File(file) => file.seen = None,
            Self::Server(server) => server.etag = None,
        }
    }
}

impl FilePlace {
    async fn read(&mut self) -> anyhow::Result<Option<Vec<u8>>> {
        let metadata = tokio::fs::metadata(&self.path).await?;
        // To open a pipe could take for ever.
        if !metadata.is_file() {
            bail!("it is no file");
        }
        let looks = (metadata.modified()?, metadata.len());
        if self.seen == Some(looks) {
            return Ok(None);
        }
        let text = read_at_most(&self.path, DIRECTORY_BYTES_MAX).await?;
        self.seen = Some(looks);
        Ok(Some(text))
    }
}

async fn read_at_most(path: &Path, bytes_max: usize) -> anyhow::Result<Vec<u8>> {
    let mut text = Vec::new();
    let file = tokio::fs::File::open(path).await?;
    file.take(bytes_max as u64 + 1).read_to_end(&mut text).await?;
    if text.len() > bytes_max {
        return Err(too_large());
    }
    Ok(text)
}

impl ServerPlace {
    async fn read(&mut self) -> anyhow::Result<Option<Vec<u8>>> {
        let client = match self.client.take() {
            Some(client) => client,
            None => client(&self.url)?,
        };
        let mut request = self.client.insert(client).get(self.url.clone()).header(ACCEPT, "application/json");
        if let Some(token) = &self.token {
            request = request.bearer_auth(token);
        }
        if let Some(etag) = &self.etag {
            request = request.header(IF_NONE_MATCH, etag);
        }
        // The log has the address already.
        let mut response = request.send().await.map_err(reqwest::Error::without_url)?;
        match response.status() {
            StatusCode::NOT_MODIFIED if self.etag.is_some() => return Ok(None),
            status @ (StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN) => {
                bail!("the server answers {status}; it may want another `fdc3.directory_token`")
            }
            status if !status.is_success() => bail!("the server answers {status}"),
            _ => {}
        }
        let mut text = Vec::new();
        while let Some(chunk) = response.chunk().await.map_err(reqwest::Error::without_url)? {
            if text.len() + chunk.len() > DIRECTORY_BYTES_MAX {
                return Err(too_large());
            }
            text.extend_from_slice(&chunk);
        }
        self.etag = response.headers().get(ETAG).cloned();
        Ok(Some(text))
    }
}

fn client(url: &Url) -> anyhow::Result<Client> {
    // The HTTP library insists on a provider. If the process has one already, that stays.
    let _ = rustls::crypto::ring::default_provider().install_default();
    let builder = || {
        let builder = Client::builder()
            .timeout(REQUEST_TIMEOUT)
            .redirect(Policy::custom(|attempt| match redirect_problem(attempt.previous(), attempt.url()) {
                Some(problem) => attempt.error(problem),
                None => attempt.follow(),
            }))
            .user_agent(concat!("deskmesh/", env!("CARGO_PKG_VERSION")));
        // A company's proxy has no way to this machine's own server.
        if is_loopback(url) { builder.no_proxy() } else { builder }
    };
    let client = match builder().build() {
        // A machine without root certificates can still speak plain HTTP.
        Err(_) if url.scheme() == "http" => builder().tls_certs_only([]).build(),
        client => client,
    };
    client.context("no HTTP client")
}

/// Returns why a redirect is not followed.
fn redirect_problem(previous: &[Url], next: &Url) -> Option<String> {
    let was_https = previous.last().is_some_and(|url| url.scheme() == "https");
    // A directory says which programs are started: nobody on the way may write it.
    if was_https && next.scheme() != "https" {
        return Some("it redirects from https to http".to_owned());
    }
    (previous.len() > REDIRECTS_MAX).then(|| format!("it redirects more than {REDIRECTS_MAX} times"))
}

fn is_loopback(url: &Url) -> bool {
    let host = url.host_str().unwrap_or_default().trim_matches(['[', ']']);
    host == "localhost" || host.parse::<std::net::IpAddr>().is_ok_and(|ip| ip.is_loopback())
}

fn digest(text: &[u8]) -> [u8; 32] {
    let mut digest = [0; 32];
    digest.copy_from_slice(ring::digest::digest(&ring::digest::SHA256, text).as_ref());
    digest
}

fn too_large() -> anyhow::Error {
    anyhow!("it is larger than {DIRECTORY_BYTES_MAX} bytes (limit directory_bytes_max)")
}

/// The largest directory (`directory_bytes_max`).
const DIRECTORY_BYTES_MAX: usize = 16 << 20;

/// How long [`start`] waits for directories.
const FIRST_READ: Duration = Duration::from_secs(2);

/// Between two looks at a file.
const LOOK_EVERY: Duration = Duration::from_secs(1);

/// How soon a server that could not be read is asked again.
const RETRY: Duration = Duration::from_secs(10);

/// How long a server may take for its answer.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(20);

const REDIRECTS_MAX: usize = 3;

/// How much of what is wrong with a directory is logged.
const WARNINGS_MAX: usize = 20;

#[cfg(test)]
mod tests {
    use std::fs;
    use std::sync::Mutex;
    use std::sync::atomic::{AtomicUsize, Ordering};

    use http_body_util::Full;
    use hyper::body::{Bytes, Incoming};
    use hyper::header::{AUTHORIZATION, LOCATION};
    use hyper::service::service_fn;
    use hyper::{Request, Response};
    use hyper_util::rt::TokioIo;
    use tokio::net::TcpListener;

    use super::*;

    const PACE: Pace = Pace {
        file: Duration::from_millis(5),
        server: Duration::from_millis(5),
        retry: Duration::from_millis(5),
    };

    type Answer = Box<dyn Fn(&Request<Incoming>) -> Response<Full<Bytes>> + Send>;

    /// A server on this machine, whose answers a test chooses.
    struct Server {
        base: String,
        answer: Arc<Mutex<Answer>>,
    }

    impl Server {
        async fn new(answer: impl Fn(&Request<Incoming>) -> Response<Full<Bytes>> + Send + 'static) -> Self {
            let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
            let base = format!("http://{}", listener.local_addr().unwrap());
            let answer: Arc<Mutex<Answer>> = Arc::new(Mutex::new(Box::new(answer)));
            let shared = answer.clone();
            tokio::spawn(async move {
                while let Ok((stream, _)) = listener.accept().await {
                    let shared = shared.clone();
                    let service = service_fn(move |request| {
                        let response = (shared.lock().unwrap())(&request);
                        std::future::ready(Ok::<_, Infallible>(response))
                    });
                    tokio::spawn(
                        hyper::server::conn::http1::Builder::new()
                            .serve_connection(TokioIo::new(stream), service),
                    );
                }
            });
            Self { base, answer }
        }

        fn answers(&self, answer: impl Fn(&Request<Incoming>) -> Response<Full<Bytes>> + Send + 'static) {
            *self.answer.lock().unwrap() = Box::new(answer);
        }

        fn place(&self, path: &str) -> Place {
            Source::new(&format!("{}{path}", self.base), None).place
        }
    }

    fn response(status: u16, text: impl Into<Bytes>) -> Response<Full<Bytes>> {
        Response::builder().status(status).body(Full::new(text.into())).unwrap()
    }

    fn apps(ids: &[&str]) -> String {
        let records: Vec<_> =
            ids.iter().map(|id| format!(r#"{{"appId":"{id}","title":"{id}","type":"other"}}"#)).collect();
        format!(r#"{{"applications":[{}]}}"#, records.join(","))
    }

    fn config(directories: Vec<String>) -> Fdc3Config {
        Fdc3Config { directories, ..Fdc3Config::default() }
    }

    fn ids(directory: &Directory) -> String {
        directory.iter().map(|record| record.app_id.to_string()).collect::<Vec<_>>().join(" ")
    }

    async fn until(directory: &mut watch::Receiver<Arc<Directory>>, expected: &str) {
        let found = directory.wait_for(|directory| ids(directory) == expected);
        tokio::time::timeout(Duration::from_secs(20), found).await.expect(expected).unwrap();
    }

    /// Returns the problem of a reading.
    async fn problem(mut place: Place) -> String {
        format!("{:#}", place.read().await.unwrap_err())
    }

    #[tokio::test]
    async fn what_can_be_read_is_there_at_the_start() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("apps.json");
        fs::write(&file, apps(&["a"])).unwrap();
        let server = Server::new(|_| response(200, apps(&["b", "a"]))).await;
        let directories = vec!["/no/such/file".to_owned(), server.base.clone(), file.display().to_string()];
        let directory = start(&config(directories)).await;
        assert_eq!(ids(&directory.borrow()), "b a");
    }

    #[tokio::test]
    async fn files_are_read_again_when_they_change() {
        let dir = tempfile::tempdir().unwrap();
        let [one, two] = ["one.json", "two.json"].map(|name| dir.path().join(name));
        fs::write(&two, apps(&["b", "c"])).unwrap();
        let names = [&one, &two].map(|path| path.display().to_string());
        let mut directory = start_at(&config(names.into()), PACE).await;
        until(&mut directory, "b c").await;
        fs::write(&one, apps(&["a", "b"])).unwrap();
        until(&mut directory, "a b c").await;
        // Neither what is broken nor what is gone changes anything; what comes then does.
        fs::write(&one, "{").unwrap();
        fs::remove_file(&two).unwrap();
        fs::write(&two, apps(&["d"])).unwrap();
        until(&mut directory, "a b d").await;
        fs::write(&one, apps(&["e"])).unwrap();
        until(&mut directory, "e d").await;
    }

    #[tokio::test]
    async fn a_server_is_asked_with_token_and_tag() {
        let requests = Arc::new(Mutex::new(Vec::new()));
        let noted = requests.clone();
        let server = Server::new(move |request| {
            let header = |name| request.headers().get(name).map(|value| value.to_str().unwrap().to_owned());
            noted.lock().unwrap().push((header(AUTHORIZATION), header(IF_NONE_MATCH)));
            if header(IF_NONE_MATCH).is_some() {
                return response(304, "");
            }
            let mut response = response(200, apps(&["a"]));
            response.headers_mut().insert(ETAG, HeaderValue::from_static("\"1\""));
            response
        })
        .await;
        let mut config = config(vec![format!("{}/v2/apps", server.base)]);
        config.directory_token = Some("hush".to_owned());
        let mut directory = start_at(&config, PACE).await;
        assert_eq!(ids(&directory.borrow_and_update()), "a");
        while requests.lock().unwrap().len() < 3 {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        assert!(!directory.has_changed().unwrap());
        let token = Some("Bearer hush".to_owned());
        let tag = Some("\"1\"".to_owned());
        assert_eq!(
            requests.lock().unwrap()[..3],
            [(token.clone(), None), (token.clone(), tag.clone()), (token, tag)]
        );

        let refused = Arc::new(AtomicUsize::new(0));
        let counted = refused.clone();
        server.answers(move |_| {
            counted.fetch_add(1, Ordering::Relaxed);
            response(500, apps(&["c"]))
        });
        while refused.load(Ordering::Relaxed) < 2 {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        assert!(!directory.has_changed().unwrap());
        server.answers(|_| response(200, apps(&["b"])));
        until(&mut directory, "b").await;
    }

    #[tokio::test]
    async fn a_source_that_fails_keeps_what_it_had() {
        let (directory, directory_rx) = watch::channel(Arc::default());
        let mut source = Source::new("/apps.json", None);
        let text = || Ok(Some(apps(&["a"]).into_bytes()));
        source.take(text(), &directory);
        for failed in [Err(anyhow!("gone")), Ok(Some(b"{".to_vec())), Ok(Some(b"[5]{".to_vec()))] {
            source.take(failed, &directory);
            assert!(source.trouble.is_some());
            assert_eq!(ids(&directory_rx.borrow()), "a");
        }
        // The same text again ends the trouble, and is no change.
        let mut changes = directory.subscribe();
        source.take(text(), &directory);
        assert_eq!((source.trouble.as_deref(), changes.has_changed().unwrap()), (None, false));
        source.take(Ok(Some(b"[]".to_vec())), &directory);
        assert_eq!((changes.has_changed().unwrap(), &*ids(&changes.borrow_and_update())), (true, ""));
    }

    #[tokio::test]
    async fn what_was_of_no_use_is_read_again() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("apps.json");
        fs::write(&file, "{").unwrap();
        let (directory, _directory_rx) = watch::channel(Arc::default());
        let mut source = Source::new(&file.display().to_string(), None);
        for _ in 0..2 {
            let read = source.place.read().await;
            assert!(matches!(read, Ok(Some(_))));
            source.take(read, &directory);
        }
        fs::write(&file, "[]").unwrap();
        let read = source.place.read().await;
        source.take(read, &directory);
        assert!(matches!(source.place.read().await, Ok(None)));
    }

    #[test]
    fn a_problem_is_news_once() {
        let mut source = Source::new("/apps.json", None);
        let news = ["a", "a", "b", "b", "a"].map(|problem| source.is_news(problem));
        assert_eq!(news, [true, false, true, false, true]);
    }

    #[tokio::test]
    async fn what_a_server_must_not_answer_is_a_problem() {
        let server = Server::new(|request| {
            let to = |path: &'static str| {
                let mut response = response(302, "");
                response.headers_mut().insert(LOCATION, HeaderValue::from_static(path));
                response
            };
            match request.uri().path() {
                "/once" => to("/apps"),
                "/loop" => to("/loop"),
                "/large" => response(200, vec![b' '; DIRECTORY_BYTES_MAX + 1]),
                "/secret" => response(401, ""),
                "/unasked" => response(304, ""),
                "/apps" => response(200, apps(&["a"])),
                _ => response(404, ""),
            }
        })
        .await;
        for (path, expected) in [
            ("/loop", "it redirects more than 3 times"),
            ("/large", "it is larger than 16777216 bytes (limit directory_bytes_max)"),
            ("/secret", "401 Unauthorized; it may want another `fdc3.directory_token`"),
            ("/unasked", "304 Not Modified"),
            ("/none", "404 Not Found"),
        ] {
            let problem = problem(server.place(path)).await;
            assert!(problem.contains(expected), "{path}: {problem}");
        }
        let text = server.place("/once").read().await.unwrap().unwrap();
        assert_eq!(text, apps(&["a"]).into_bytes());
    }

    #[tokio::test]
    async fn what_is_no_readable_file_is_a_problem() {
        let dir = tempfile::tempdir().unwrap();
        let large = dir.path().join("large.json");
        fs::File::create(&large).unwrap().set_len(DIRECTORY_BYTES_MAX as u64 + 1).unwrap();
        for (path, expected) in [
            (large, "limit directory_bytes_max"),
            (dir.path().to_owned(), "it is no file"),
            (dir.path().join("none.json"), "No such file"),
        ] {
            let problem = problem(Place::File(FilePlace { path, seen: None })).await;
            assert!(problem.contains(expected), "{problem}");
        }
    }

    #[test]
    fn a_redirect_does_not_leave_tls() {
        for (previous, next, followed) in [
            ("http://a.example", "http://b.example", true),
            ("http://a.example", "https://a.example", true),
            ("https://a.example", "https://b.example", true),
            ("https://a.example", "http://a.example", false),
        ] {
            let [previous, next] = [previous, next].map(|url| Url::parse(url).unwrap());
            assert_eq!(
                redirect_problem(&[previous], &next),
                (!followed).then(|| "it redirects from https to http".to_owned())
            );
        }
    }

    #[test]
    fn the_token_goes_only_where_nobody_listens_in() {
        for (name, expected) in [
            ("https://appd.example/v2/apps", true),
            ("http://127.0.0.1:1/v2/apps", true),
            ("http://[::1]:1/v2/apps", true),
            ("http://localhost/v2/apps", true),
            ("http://appd.example/v2/apps", false),
            ("http://localhost.appd.example/v2/apps", false),
        ] {
            let Place::Server(server) = Source::new(name, Some("hush")).place else { panic!("{name}") };
            assert_eq!(server.token.is_some(), expected, "{name}");
        }
    }

    #[tokio::test]
    async fn a_task_ends_with_the_last_reader() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("apps.json");
        fs::write(&file, apps(&["a"])).unwrap();
        let (directory, mut directory_rx) = watch::channel(Arc::default());
        let (tried, _tried_rx) = mpsc::channel(1);
        let source = Source::new(&file.display().to_string(), None);
        let task = tokio::spawn(source.run(Arc::new(directory), tried, PACE));
        until(&mut directory_rx, "a").await;
        drop(directory_rx);
        tokio::time::timeout(Duration::from_secs(20), task).await.expect("it ends").unwrap();
    }
}
