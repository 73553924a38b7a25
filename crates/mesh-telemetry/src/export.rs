//! The way from a finished span to the collector.
//!
//! [`Telemetry::export`] pushes to a bounded queue and returns; a thread of its own with a small
//! runtime of its own does the rest, so neither a slow collector nor a busy node disturbs the other.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;
use std::{fmt, io, thread};

use mesh_model::NodeId;
use opentelemetry::KeyValue;
use opentelemetry_otlp::{Protocol, WithExportConfig, WithHttpConfig};
use opentelemetry_sdk::Resource;
use opentelemetry_sdk::trace::SpanExporter as _;
use reqwest::{Client, Url, redirect};
use tokio::sync::{mpsc, watch};

use crate::worker::{self, Worker};
use crate::{SpanRecord, names};

/// Where spans go and whose they are.
#[derive(Clone, Debug)]
pub struct TelemetrySettings {
    /// The collector's base address, as OpenTelemetry defines it: `http://127.0.0.1:4318`, to which
    /// `/v1/traces` is added unless it already ends so. `None` exports nothing.
    pub otlp_endpoint: Option<String>,
    /// What runs: `deskmesh`.
    pub service_name: String,
    /// Which build of it.
    pub service_version: String,
    /// Which node.
    pub node: NodeId,
    /// The node's name.
    pub node_name: String,
}

/// Exports spans. Clones share one queue and one connection.
#[derive(Clone, Debug)]
pub struct Telemetry(Option<Arc<Running>>);

struct Running {
    spans_tx: mpsc::Sender<SpanRecord>,
    dropped: Arc<AtomicU64>,
    stop_tx: watch::Sender<bool>,
    /// Closes when the worker has ended. Nothing is ever sent.
    ended_rx: watch::Receiver<()>,
}

impl Telemetry {
    /// Starts to export. Whether the collector answers is not checked: it may come later.
    pub fn start(settings: TelemetrySettings) -> Result<Self, TelemetryError> {
        let Some(endpoint) = &settings.otlp_endpoint else { return Ok(Self::disabled()) };
        let endpoint = traces_endpoint(endpoint)?;
        let mut exporter = opentelemetry_otlp::SpanExporter::builder()
            .with_http()
            .with_protocol(Protocol::HttpBinary)
            .with_endpoint(endpoint.as_str())
            .with_timeout(EXPORT_TIMEOUT)
            .with_http_client(client(&endpoint)?)
            .build()?;
        exporter.set_resource(&resource(&settings));

        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .map_err(TelemetryError::Thread)?;
        let (spans_tx, spans_rx) = mpsc::channel(QUEUE_LEN_MAX);
        let (stop_tx, stop_rx) = watch::channel(false);
        let (ended_tx, ended_rx) = watch::channel(());
        let dropped = Arc::new(AtomicU64::new(0));
        let worker = Worker::new(exporter, spans_rx, stop_rx, Arc::clone(&dropped), authority(&endpoint));
        thread::Builder::new()
            .name("telemetry".to_owned())
            .spawn(move || {
                runtime.block_on(worker::run(worker));
                // A name look-up that never ends must not keep the process from ending.
                runtime.shutdown_background();
                drop(ended_tx);
            })
            .map_err(TelemetryError::Thread)?;
        Ok(Self(Some(Arc::new(Running { spans_tx, dropped, stop_tx, ended_rx }))))
    }

    /// Returns a telemetry that exports nothing.
    #[must_use]
    pub const fn disabled() -> Self {
        Self(None)
    }

    /// Returns whether spans go anywhere; if not, none need be made.
    #[must_use]
    pub const fn is_enabled(&self) -> bool {
        self.0.is_some()
    }

    /// Hands a span over. Never waits: with [`QUEUE_LEN_MAX`] spans waiting, this one is dropped and
    /// counted.
    pub fn export(&self, span: SpanRecord) {
        let Some(running) = &self.0 else { return };
        if running.spans_tx.try_send(span).is_err() {
            running.dropped.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// Returns how many spans never reached the collector.
    #[must_use]
    pub fn dropped(&self) -> u64 {
        self.0.as_ref().map_or(0, |running| running.dropped.load(Ordering::Relaxed))
    }

    /// Sends what is waiting and ends the export, within [`SHUTDOWN_TIMEOUT`]. What could not be sent
    /// by then is counted as dropped, as is what a clone exports later.
    pub async fn shutdown(self) {
        let Some(running) = &self.0 else { return };
        running.stop_tx.send_replace(true);
        let mut ended_rx = running.ended_rx.clone();
        while ended_rx.changed().await.is_ok() {}
    }
}

impl fmt::Debug for Running {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Running").field("dropped", &self.dropped).finish_non_exhaustive()
    }
}

/// Spans could not be exported at all. Nothing was started.
#[derive(Debug, thiserror::Error)]
pub enum TelemetryError {
    /// The address is not one of a collector.
    #[error("`{endpoint}` is not the address of an OTLP collector: {problem}")]
    Endpoint {
        /// What was given.
        endpoint: String,
        /// What is wrong with it.
        problem: String,
    },
    /// The HTTP client could not be made; with `https`, the system's root certificates may be missing.
    #[error("no HTTP client for the OTLP collector")]
    Client(#[source] reqwest::Error),
    /// An `OTEL_EXPORTER_OTLP_…` variable of the environment has a value that cannot be used.
    #[error("no OTLP exporter")]
    Exporter(#[from] opentelemetry_otlp::ExporterBuildError),
    /// The system refused a thread.
    #[error("no thread for the OTLP exporter")]
    Thread(#[source] io::Error),
}

/// Checks a collector's address without connecting to it.
pub fn check_endpoint(endpoint: &str) -> Result<(), TelemetryError> {
    traces_endpoint(endpoint).map(drop)
}

/// Returns the address that spans are posted to.
fn traces_endpoint(endpoint: &str) -> Result<Url, TelemetryError> {
    let bad = |problem: &str| TelemetryError::Endpoint { endpoint: endpoint.into(), problem: problem.into() };
    let mut url = Url::parse(endpoint).map_err(|error| bad(&error.to_string()))?;
    if !matches!(url.scheme(), "http" | "https") {
        return Err(bad("it must begin with http:// or https://"));
    }
    if !url.username().is_empty() || url.password().is_some() {
        // The address is logged. It is not repeated here for the same reason.
        return Err(TelemetryError::Endpoint {
            endpoint: authority(&url),
            problem: "credentials belong in the environment variable OTEL_EXPORTER_OTLP_HEADERS".into(),
        });
    }
    if url.query().is_some() || url.fragment().is_some() {
        return Err(bad("it must end with the path"));
    }
    let base = url.path().trim_end_matches('/').to_owned();
    if !base.ends_with(TRACES_PATH) {
        url.set_path(&format!("{base}{TRACES_PATH}"));
    }
    Ok(url)
}

/// Returns the part of an address that is fit for a log.
fn authority(url: &Url) -> String {
    let host = url.host_str().unwrap_or_default();
    match url.port_or_known_default() {
        Some(port) => format!("{host}:{port}"),
        None => host.to_owned(),
    }
}

fn client(endpoint: &Url) -> Result<Client, TelemetryError> {
    // The HTTP library insists on a provider, even where it will not use TLS. It is the one every
    // other crate of the house names; if the process has one already, that stays.
    let _ = rustls::crypto::ring::default_provider().install_default();
    let builder =
        Client::builder().timeout(EXPORT_TIMEOUT).redirect(redirect::Policy::none()).user_agent(USER_AGENT);
    let builder = if endpoint.scheme() == "http" {
        // Without this, a machine without root certificates could not even speak plain HTTP.
        builder.tls_certs_only([])
    } else {
        builder
    };
    let builder = if is_loopback(endpoint) { builder.no_proxy() } else { builder };
    builder.build().map_err(TelemetryError::Client)
}

/// A company's proxy has no way to this machine's own collector.
fn is_loopback(endpoint: &Url) -> bool {
    let host = endpoint.host_str().unwrap_or_default().trim_matches(['[', ']']);
    host == "localhost" || host.parse::<std::net::IpAddr>().is_ok_and(|ip| ip.is_loopback())
}

fn resource(settings: &TelemetrySettings) -> Resource {
    Resource::builder_empty()
        .with_attributes([
            KeyValue::new(names::SERVICE_NAME, settings.service_name.clone()),
            KeyValue::new(names::SERVICE_VERSION, settings.service_version.clone()),
            KeyValue::new(names::SERVICE_INSTANCE_ID, settings.node.to_string()),
            KeyValue::new(names::HOST_NAME, settings.node_name.clone()),
        ])
        .build()
}

/// How many spans may wait for the collector: about 1 MB.
pub const QUEUE_LEN_MAX: usize = 2048;

/// How long [`Telemetry::shutdown`] may take.
pub const SHUTDOWN_TIMEOUT: Duration = Duration::from_secs(3);

/// How long the collector may take for a batch, retries included.
const EXPORT_TIMEOUT: Duration = Duration::from_secs(5);

const TRACES_PATH: &str = "/v1/traces";

const USER_AGENT: &str = concat!("deskmesh/", env!("CARGO_PKG_VERSION"));

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn appends_the_path_of_the_signal() {
        for (given, expected) in [
            ("http://127.0.0.1:4318", "http://127.0.0.1:4318/v1/traces"),
            ("http://127.0.0.1:4318/", "http://127.0.0.1:4318/v1/traces"),
            ("http://[::1]:4318", "http://[::1]:4318/v1/traces"),
            ("https://otel.corp.example/team/", "https://otel.corp.example/team/v1/traces"),
            ("http://127.0.0.1:4318/v1/traces", "http://127.0.0.1:4318/v1/traces"),
        ] {
            assert_eq!(traces_endpoint(given).unwrap().as_str(), expected);
        }
    }

    #[test]
    fn refuses_what_is_no_collector() {
        for (given, expected) in [
            ("127.0.0.1:4318", "not the address"),
            ("localhost:4318", "must begin with http://"),
            ("grpc://localhost:4317", "must begin with http://"),
            ("http://", "empty host"),
            ("http://localhost:4318?x=1", "must end with the path"),
        ] {
            let error = check_endpoint(given).unwrap_err().to_string();
            assert!(error.contains(expected) && error.contains(given), "{error}");
        }
        let error = check_endpoint("http://me:hunter2@localhost:4318").unwrap_err().to_string();
        assert!(error.contains("OTEL_EXPORTER_OTLP_HEADERS") && !error.contains("hunter2"), "{error}");
    }

    #[test]
    fn knows_its_own_machine() {
        for (url, expected) in [
            ("http://localhost:1/", true),
            ("http://127.0.0.9/", true),
            ("http://[::1]:1/", true),
            ("http://10.0.0.1/", false),
            ("http://localhost.corp.example/", false),
        ] {
            assert_eq!(is_loopback(&Url::parse(url).unwrap()), expected, "{url}");
        }
    }
}
