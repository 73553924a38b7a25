//! The local endpoint: one port for applications (WebSocket) and for questions (HTTP).
//!
//! A request is admitted before anything else is looked at: the address is loopback, `Host` is one of
//! ours (a rebound name is refused), a browser's `Origin` is allowed, and a program without one belongs
//! to the user who runs the node. Then its path decides.

mod admin;
pub(crate) mod admission;
mod session;
mod settling;
pub mod websocket;
pub(crate) mod wire;

use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use hyper::body::Incoming as Body;
use hyper::header::{self, HeaderMap, HeaderValue};
use hyper::{Method, Request, StatusCode};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use self::websocket::{Answer, Upgraded, text, upgrade};
use fdc3_agent::Admission;

use crate::authenticator::Authenticators;
use crate::config::Config;
use crate::fdc3::endpoint::{self, Role};
use crate::fdc3::pages;
use crate::fdc3::service::Fdc3;
use crate::gateway::Gateway;
use crate::reload::Reloader;
use crate::tokens::ClientTokens;

/// Connections that may be open beside WebSockets: questions, and those that are about to be refused.
const REQUESTS_MAX: usize = 64;

/// What all connections of the local endpoint share.
pub(crate) struct Local {
    pub(crate) gateway: Arc<Gateway>,
    pub(crate) config: Config,
    pub(crate) reloader: Reloader,
    pub(crate) tokens: ClientTokens,
    pub(crate) authenticators: Authenticators,
    /// How many WebSockets there have been.
    pub(crate) connections: AtomicU64,
    pub(crate) fdc3: Fdc3,
    /// What a command must show to be answered.
    pub(crate) admin_secret: String,
    /// The addresses other nodes are told to dial.
    mesh_addresses: Mutex<Vec<String>>,
    pub(crate) listening: Vec<SocketAddr>,
    pub(crate) ready: AtomicBool,
    pub(crate) draining: AtomicBool,
    pub(crate) started: Instant,
    /// One for each WebSocket that may be open.
    places: Arc<Semaphore>,
    /// One for each connection that may be accepted: some more, so that it can be told why not.
    doors: Arc<Semaphore>,
}

impl Local {
    pub(crate) fn new(
        gateway: Arc<Gateway>,
        config: Config,
        reloader: Reloader,
        tokens: ClientTokens,
        admin_secret: String,
        mesh_addresses: Vec<String>,
        listening: Vec<SocketAddr>,
    ) -> Arc<Self> {
        #[expect(clippy::disallowed_methods, reason = "the age of the process, for people")]
        let started = Instant::now();
        let places = config.limits.sessions_max.min(Semaphore::MAX_PERMITS - REQUESTS_MAX);
        let patience = Duration::from_millis(config.limits.authentication_timeout_ms);
        let authenticators = Authenticators::new(&config.authenticators, patience);
        let address = listening.first().copied().unwrap_or(SocketAddr::from(([127, 0, 0, 1], 0)));
        let fdc3 = Fdc3::new(gateway.clone(), &config, address, tokens.derived("fdc3 instances"));
        Arc::new(Self {
            fdc3,
            gateway,
            config,
            reloader,
            tokens,
            authenticators,
            connections: AtomicU64::new(1),
            admin_secret,
            mesh_addresses: Mutex::new(mesh_addresses),
            listening,
            ready: AtomicBool::new(false),
            draining: AtomicBool::new(false),
            started,
            places: Arc::new(Semaphore::new(places)),
            doors: Arc::new(Semaphore::new(places + REQUESTS_MAX)),
        })
    }

    /// Returns the addresses that other nodes are told to dial.
    pub(crate) fn mesh_addresses(&self) -> Vec<String> {
        self.mesh_addresses.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    pub(crate) fn set_mesh_addresses(&self, addresses: Vec<String>) {
        *self.mesh_addresses.lock().unwrap_or_else(PoisonError::into_inner) = addresses;
    }

    /// Accepts connections until the program ends.
    pub(crate) async fn serve(self: Arc<Self>, listener: TcpListener) {
        loop {
            let (stream, remote) = match listener.accept().await {
                Ok(accepted) => accepted,
                Err(error) => {
                    // Out of file descriptors, most likely: those that are open go on.
                    tracing::warn!(%error, "a connection could not be accepted");
                    tokio::time::sleep(Duration::from_millis(100)).await;
                    continue;
                }
            };
            let Ok(door) = self.doors.clone().try_acquire_owned() else {
                let max = self.config.limits.sessions_max;
                tracing::warn!(%remote, "connection refused: limit sessions_max ({max}) is reached");
                continue;
            };
            let _ = stream.set_nodelay(true);
            let local = self.clone();
            tokio::spawn(async move {
                // Boxed, because what HTTP needs is much, and not needed for the rest of the connection.
                if let Some(upgraded) = Box::pin(local.clone().connection(stream, remote)).await {
                    let (purpose, place) = upgraded.with;
                    local.run(purpose, upgraded.stream, upgraded.read, remote).await;
                    drop(place);
                }
                drop(door);
            });
        }
    }

    /// Answers requests until the connection ends or becomes a WebSocket.
    async fn connection(
        self: Arc<Self>,
        stream: TcpStream,
        remote: SocketAddr,
    ) -> Option<Upgraded<(Purpose, OwnedSemaphorePermit)>> {
        let own = stream.local_addr().ok()?;
        let upgraded = websocket::upgraded(stream, |request| self.answer(request, remote, own)).await;
        upgraded.unwrap_or_else(|error| {
            tracing::debug!(%remote, %error, "not a request");
            None
        })
    }

    /// Serves a WebSocket to its end.
    async fn run(self: Arc<Self>, purpose: Purpose, stream: TcpStream, read: Vec<u8>, remote: SocketAddr) {
        let (role, user) = match purpose {
            Purpose::Gw3 => return session::run(self, stream, read, remote).await,
            Purpose::App { admission, user } => (Role::App(admission), user),
            Purpose::Launcher => (Role::Launcher, None),
        };
        let desktop = match self.fdc3.desktop(user.as_deref()) {
            Ok(desktop) => desktop,
            Err(why) => {
                tracing::warn!(%remote, reason = %why, "an FDC3 connection was closed");
                return endpoint::turn_away(&self.config.limits, stream, read, why).await;
            }
        };
        let connection = self.fdc3.connection();
        endpoint::run(desktop, connection, self.config.limits.clone(), stream, read, role).await;
    }

    /// Answers a request; with a place for a WebSocket, if it becomes one.
    fn answer(
        &self,
        request: &Request<Body>,
        remote: SocketAddr,
        own: SocketAddr,
    ) -> (Answer, Option<(Purpose, OwnedSemaphorePermit)>) {
        let headers = request.headers();
        let path = request.uri().path();
        // The pages of apps in the directory need no other permission to be FDC3 apps.
        let of_apps = match path == "/fdc3" || path.starts_with("/fdc3/") {
            true => self.fdc3.app_origins(),
            false => Vec::new(),
        };
        let admitted = admission::check(&self.config, headers, remote, own, path, &of_apps);
        let (mut answer, place) = match admitted {
            Ok(()) => self.route(request, remote),
            Err(refusal) => {
                tracing::warn!(%remote, reason = %refusal.reason, "connection refused");
                (text(refusal.status, &refusal.reason), None)
            }
        };
        if let Some(origin) = headers.get(header::ORIGIN).filter(|_| answer.status() != StatusCode::FORBIDDEN)
        {
            // Pages probe the endpoint with a plain request before they open a socket.
            answer.headers_mut().insert(header::ACCESS_CONTROL_ALLOW_ORIGIN, origin.clone());
            answer.headers_mut().insert(header::VARY, HeaderValue::from_static("Origin"));
        }
        (answer, place)
    }

    fn route(
        &self,
        request: &Request<Body>,
        remote: SocketAddr,
    ) -> (Answer, Option<(Purpose, OwnedSemaphorePermit)>) {
        if !is_upgrade(request.headers()) {
            return (self.plain(request), None);
        }
        let Ok(place) = self.places.clone().try_acquire_owned() else {
            let max = self.config.limits.sessions_max;
            let reason = format!("limit sessions_max ({max}) is reached: close an application, or raise it");
            tracing::warn!(%remote, %reason, "connection refused");
            return (text(StatusCode::SERVICE_UNAVAILABLE, &reason), None);
        };
        let purpose = match self.purpose(request) {
            Ok(purpose) => purpose,
            Err((status, reason)) => return (text(status, reason), None),
        };
        let answer = upgrade(request);
        let place = (answer.status() == StatusCode::SWITCHING_PROTOCOLS).then_some((purpose, place));
        (answer, place)
    }

    /// Returns what a WebSocket is for, by its path.
    fn purpose(&self, request: &Request<Body>) -> Result<Purpose, (StatusCode, &'static str)> {
        let origin = request.headers().get(header::ORIGIN).and_then(|origin| origin.to_str().ok());
        let own_page = origin.is_some_and(|origin| is_own_page(origin, request.headers()));
        match request.uri().path() {
            "/fdc3" => {
                let user = request.uri().query().and_then(|query| {
                    let named = query.split('&').find_map(|part| part.strip_prefix("user="))?;
                    percent_encoding::percent_decode_str(named).decode_utf8().ok().map(Into::into)
                });
                let admission = Admission { origin: origin.map(Into::into), own_page };
                Ok(Purpose::App { admission, user })
            }
            "/fdc3/desk" if own_page => Ok(Purpose::Launcher),
            "/fdc3/desk" => {
                let reason = "only the launcher page of this node, /fdc3/desktop, may connect here";
                Err((StatusCode::FORBIDDEN, reason))
            }
            path if path.starts_with("/fdc3/") => Err((StatusCode::NOT_FOUND, "FDC3 apps connect to /fdc3")),
            _ => Ok(Purpose::Gw3),
        }
    }

    fn plain(&self, request: &Request<Body>) -> Answer {
        match (request.method(), request.uri().path()) {
            (&Method::GET, "/health" | "/livez") => text(StatusCode::OK, "ok"),
            (&Method::GET, "/readyz") => {
                match self.ready.load(Ordering::Relaxed) && !self.draining.load(Ordering::Relaxed) {
                    true => text(StatusCode::OK, "ready"),
                    false => text(StatusCode::SERVICE_UNAVAILABLE, "not ready: starting or shutting down"),
                }
            }
            (&Method::GET, path) if path.starts_with("/fdc3/") => {
                let host = request.headers().get(header::HOST).and_then(|host| host.to_str().ok());
                let mut origins = self.fdc3.app_origins();
                origins.extend(self.config.allowed_origins.iter().cloned());
                pages::answer(path, host.unwrap_or_default(), &origins)
            }
            (_, path) if path.starts_with("/admin/v1/") => admin::answer(self, request),
            _ => {
                let mut answer = text(
                    StatusCode::UPGRADE_REQUIRED,
                    "this is a deskmesh node: connect with a WebSocket (GW3), or ask GET /readyz, /livez or /health",
                );
                answer.headers_mut().insert(header::UPGRADE, HeaderValue::from_static("websocket"));
                answer
            }
        }
    }
}

/// What a WebSocket is for.
#[derive(Debug)]
enum Purpose {
    /// An io.Connect app.
    Gw3,
    /// An FDC3 app, of this user if one is named.
    App { admission: Admission, user: Option<String> },
    /// A launcher page.
    Launcher,
}

/// Returns whether an origin is that of the node's own pages.
fn is_own_page(origin: &str, headers: &HeaderMap) -> bool {
    let host = headers.get(header::HOST).and_then(|host| host.to_str().ok());
    host.is_some_and(|host| origin.strip_prefix("http://") == Some(host))
}

fn is_upgrade(headers: &HeaderMap) -> bool {
    headers.get(header::UPGRADE).is_some_and(|value| value.as_bytes().eq_ignore_ascii_case(b"websocket"))
}
