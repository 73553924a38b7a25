//! What an operator may set, where it is read from, and what is said when it is wrong.
//!
//! ```text
//! defaults < /etc/deskmesh/config.toml < the user's file < --config FILE < DESKMESH_… < flags
//! ```
//!
//! Each source is checked by itself before the sources are merged, so that a complaint names the file
//! or variable in which the wrong value stands, even where a later source would have replaced it.
//! [`key`] has the list of all keys; `docs/guides/configuration.md` explains them to people, and a test
//! below keeps the two together.

pub mod bridge;
pub mod key;
pub(crate) mod place;
pub mod streams;
pub mod visibility;

use std::collections::BTreeMap;
use std::error::Error;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::{fmt, fs, io};

use figment::providers::{Format, Toml};
use figment::value::{Dict, Map, Value};
use figment::{Figment, Metadata, Profile, Provider};
use mesh_core::Timing;
use mesh_model::limits::JsonLimits;
use mesh_net::quic::LinkLimits;
use mesh_telemetry::logging::{LogFormat, LogSettings};
use proto_bridge::AgentSettings;
use serde::{Deserialize, Serialize};

use crate::output;
use bridge::BridgeRuleConfig;
use key::{Key, KeyError};
use streams::StreamsConfig;
use visibility::VisibilityConfig;

/// Everything an operator may set, with every value checked.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Config {
    /// What this node is called in tables and traces. By default the machine's name.
    pub name: String,
    /// Whose node this is: only nodes of one owner share state. By default the login name.
    pub user: String,
    /// Where the node keeps its identity and its state.
    pub data_dir: PathBuf,
    /// Where applications connect: loopback addresses.
    pub listen: Vec<SocketAddr>,
    /// Where other nodes connect, over UDP.
    pub mesh_listen: SocketAddr,
    /// The `host:port` addresses that tokens carry. Empty: derived from the machine's own addresses.
    pub mesh_advertise: Vec<String>,
    /// The token that a first start joins a mesh with.
    pub join: Option<String>,
    /// The `host:port` addresses of nodes to connect to.
    pub seeds: Vec<String>,
    /// What the links to other nodes are like.
    pub link_profile: LinkProfile,
    /// Whether nodes that cannot reach each other speak through this one, and this one through others.
    pub relay: bool,
    /// Which web pages may connect besides loopback ones; see [`key::is_origin`].
    pub allowed_origins: Vec<String>,
    /// Which `Host` headers are accepted besides loopback names.
    pub allowed_hosts: Vec<String>,
    /// Which local programs may connect.
    pub admit: Admit,
    /// The programs that decide about logins, with their arguments, by authentication provider.
    pub authenticators: BTreeMap<String, Vec<String>>,
    /// How nodes are found that nobody has named.
    pub discovery: DiscoveryConfig,
    /// What other nodes get to know.
    pub visibility: VisibilityConfig,
    /// FDC3 applications.
    pub fdc3: Fdc3Config,
    /// Streams whose subscribers read slowly.
    pub streams: StreamsConfig,
    /// Traces and the log.
    pub telemetry: TelemetryConfig,
    /// Bounds.
    pub limits: LimitsConfig,
}

/// How nodes are found that nobody has named.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DiscoveryConfig {
    /// Whether this node says by mDNS where it is, and looks for others of its mesh.
    pub mdns: bool,
}

/// What the links to other nodes are like, and so how soon a silent node counts as gone.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum LinkProfile {
    /// Local networks: withdrawn within 2 s.
    Lan,
    /// Wide areas and bad wireless networks: withdrawn within 5 s.
    Wan,
}

impl LinkProfile {
    /// Returns the times that go with it.
    #[must_use]
    pub fn timing(self) -> Timing {
        match self {
            Self::Lan => Timing::default(),
            Self::Wan => Timing::wan(),
        }
    }
}

/// Which local programs may connect.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Admit {
    /// Those of the operating-system user who runs the node.
    SameOsUser,
    /// Those of any user of this machine.
    AnyLocal,
}

/// FDC3 applications.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Fdc3Config {
    /// The app directories: files, and addresses of servers. The first that has an application counts.
    pub directories: Vec<String>,
    /// The bearer token for the servers among them.
    pub directory_token: Option<String>,
    /// Between two questions to a server, in seconds.
    pub directory_refresh_s: u64,
    /// Whose the FDC3 applications are. None: the node's user's.
    pub user: Option<String>,
    /// How long the raiser of an intent waits for its result, in seconds.
    pub intent_result_timeout_s: u64,
    /// Whether other desktop agents of this machine meet the applications, at a desktop agent bridge.
    pub bridge: bool,
    /// The first of the ports at which bridges are.
    pub bridge_port: u16,
    /// A file with the secret that the bridge and its agents prove to know. None: nobody is asked to.
    pub bridge_secret_file: Option<PathBuf>,
    /// Rules for what may cross the bridge: the first that matches decides.
    pub bridge_rules: Vec<BridgeRuleConfig>,
}

/// Traces and the log.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TelemetryConfig {
    /// The base address of an OTLP/HTTP collector. None: no traces.
    pub otlp_endpoint: Option<String>,
    /// Which share of traces that begin here is kept. A trace that arrives keeps its own decision.
    pub sample_ratio: f64,
    /// A level, or a filter such as `info,mesh_net=debug`.
    pub log: String,
    /// `human` or `json`.
    pub log_format: LogFormatConfig,
}

/// How the log is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum LogFormatConfig {
    /// Lines for people.
    Human,
    /// JSON objects for programs.
    Json,
}

/// Bounds: those of [`mesh_model::Limits`], and the shell's own.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
#[expect(missing_docs, reason = "named after the fields of mesh_model::Limits, where they are explained")]
pub struct LimitsConfig {
    pub message_bytes_max: usize,
    /// From which size on a message from an application is noted in the log, in bytes.
    pub message_bytes_warn: usize,
    pub json_depth_max: usize,
    pub json_keys_max: usize,
    pub session_outbox_bytes_max: usize,
    // What waits for one application, by class; see [`crate::outbox`].
    pub outbox_control_bytes_max: usize,
    pub outbox_calls_bytes_max: usize,
    pub outbox_context_conflate_bytes: usize,
    pub outbox_context_bytes_max: usize,
    pub outbox_stream_bytes_max: usize,
    pub outbox_subscription_bytes_max: usize,
    pub slow_stream_consumer: SlowStreamConsumer,
    /// How long an application may read nothing of what waits for it, in milliseconds.
    pub write_deadline_ms: u64,
    /// Between pings to an application, in milliseconds.
    pub ping_interval_ms: u64,
    /// Pings without a sign of life, before an application counts as gone.
    pub missed_pings_max: u64,
    pub sessions_max: usize,
    pub sessions_per_user_max: usize,
    pub methods_per_session_max: usize,
    pub subscriptions_per_session_max: usize,
    pub contexts_per_session_max: usize,
    pub calls_per_session_max: usize,
    pub context_updates_per_second_max: u64,
    pub domain_entries_max: usize,
    pub domain_bytes_max: usize,
    pub clock_skew_ms_max: u64,
    pub batch_bytes_max: usize,
    pub held_messages_max: usize,
    pub call_ms_max: u64,
    pub core_stall_ms_max: u64,
    pub departed_sessions_max: usize,
    pub departed_bytes_max: usize,
    pub departed_ms_max: u64,
    /// How long a connection may take to log in, in milliseconds.
    pub hello_timeout_ms: u64,
    /// How long an authentication program may take for an answer, in milliseconds.
    pub authentication_timeout_ms: u64,
    /// Handshakes per second from one address; see [`LinkLimits::handshakes_per_second_max`].
    pub handshakes_per_second_max: usize,
}

/// What becomes of an application for which too much stream data waits.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum SlowStreamConsumer {
    /// It is closed.
    Disconnect,
    /// It loses the oldest.
    DropOldest,
}

impl Config {
    /// Reads the configuration of this process: files, environment, flags.
    pub fn load(flags: Flags) -> Result<Loaded, ConfigError> {
        Sources::of_this_process(flags).load()
    }

    fn defaults(env: &Environment) -> Self {
        Self {
            name: place::host_name(env),
            user: place::user_name(env),
            // Replaced, or refused, before anybody sees it.
            data_dir: place::data_dir(env).unwrap_or_default(),
            listen: vec![
                SocketAddr::from(([127, 0, 0, 1], CLIENT_PORT)),
                SocketAddr::from(([0, 0, 0, 0, 0, 0, 0, 1], CLIENT_PORT)),
            ],
            mesh_listen: SocketAddr::from(([0, 0, 0, 0], MESH_PORT)),
            mesh_advertise: Vec::new(),
            join: None,
            seeds: Vec::new(),
            link_profile: LinkProfile::Lan,
            relay: true,
            allowed_origins: Vec::new(),
            authenticators: BTreeMap::new(),
            allowed_hosts: Vec::new(),
            admit: Admit::SameOsUser,
            discovery: DiscoveryConfig { mdns: false },
            visibility: VisibilityConfig::default(),
            fdc3: Fdc3Config::default(),
            streams: StreamsConfig::default(),
            telemetry: TelemetryConfig {
                otlp_endpoint: None,
                sample_ratio: 1.0,
                log: "info".to_owned(),
                log_format: LogFormatConfig::Human,
            },
            limits: LimitsConfig::default(),
        }
    }
}

impl TelemetryConfig {
    /// Returns how to set up the log.
    #[must_use]
    pub fn log_settings(&self) -> LogSettings {
        let format = match self.log_format {
            LogFormatConfig::Human => LogFormat::Human,
            LogFormatConfig::Json => LogFormat::Json,
        };
        LogSettings { filter: self.log.clone(), format }
    }
}

impl Default for Fdc3Config {
    fn default() -> Self {
        Self {
            directories: Vec::new(),
            directory_token: None,
            directory_refresh_s: 60,
            user: None,
            intent_result_timeout_s: fdc3_agent::Limits::default().result_ms / 1_000,
            bridge: false,
            bridge_port: *AgentSettings::PORTS.start(),
            bridge_secret_file: None,
            bridge_rules: Vec::new(),
        }
    }
}

impl Default for LimitsConfig {
    fn default() -> Self {
        let model = mesh_model::Limits::default();
        let json = JsonLimits::default();
        Self {
            message_bytes_max: model.message_bytes_max,
            message_bytes_warn: 1 << 20,
            json_depth_max: json.depth_max,
            json_keys_max: json.keys_max,
            session_outbox_bytes_max: model.session_outbox_bytes_max,
            outbox_control_bytes_max: 1 << 20,
            outbox_calls_bytes_max: 8 << 20,
            outbox_context_conflate_bytes: 512 << 10,
            outbox_context_bytes_max: 4 << 20,
            outbox_stream_bytes_max: 4 << 20,
            outbox_subscription_bytes_max: 1 << 20,
            slow_stream_consumer: SlowStreamConsumer::Disconnect,
            write_deadline_ms: 10_000,
            ping_interval_ms: 30_000,
            missed_pings_max: 2,
            sessions_max: model.sessions_max,
            sessions_per_user_max: model.sessions_per_user_max,
            methods_per_session_max: model.methods_per_session_max,
            subscriptions_per_session_max: model.subscriptions_per_session_max,
            contexts_per_session_max: model.contexts_per_session_max,
            calls_per_session_max: model.calls_per_session_max,
            context_updates_per_second_max: model.context_updates_per_second_max,
            domain_entries_max: model.domain_entries_max,
            domain_bytes_max: model.domain_bytes_max,
            clock_skew_ms_max: model.clock_skew_ms_max,
            batch_bytes_max: model.batch_bytes_max,
            held_messages_max: model.held_messages_max,
            call_ms_max: model.call_ms_max,
            core_stall_ms_max: model.core_stall_ms_max,
            departed_sessions_max: model.departed_sessions_max,
            departed_bytes_max: model.departed_bytes_max,
            departed_ms_max: model.departed_ms_max,
            hello_timeout_ms: 5_000,
            authentication_timeout_ms: 5_000,
            handshakes_per_second_max: LinkLimits::default().handshakes_per_second_max,
        }
    }
}

impl LimitsConfig {
    /// Returns how complicated a message of an application may be.
    #[must_use]
    pub const fn json(&self) -> JsonLimits {
        JsonLimits { depth_max: self.json_depth_max, keys_max: self.json_keys_max }
    }

    /// Returns the bounds that links keep.
    #[must_use]
    pub fn link(&self) -> LinkLimits {
        LinkLimits { handshakes_per_second_max: self.handshakes_per_second_max, ..LinkLimits::default() }
    }

    /// Returns the bounds that the core keeps.
    #[must_use]
    pub const fn model(&self) -> mesh_model::Limits {
        mesh_model::Limits {
            message_bytes_max: self.message_bytes_max,
            session_outbox_bytes_max: self.session_outbox_bytes_max,
            sessions_max: self.sessions_max,
            sessions_per_user_max: self.sessions_per_user_max,
            methods_per_session_max: self.methods_per_session_max,
            subscriptions_per_session_max: self.subscriptions_per_session_max,
            contexts_per_session_max: self.contexts_per_session_max,
            calls_per_session_max: self.calls_per_session_max,
            context_updates_per_second_max: self.context_updates_per_second_max,
            domain_entries_max: self.domain_entries_max,
            domain_bytes_max: self.domain_bytes_max,
            clock_skew_ms_max: self.clock_skew_ms_max,
            batch_bytes_max: self.batch_bytes_max,
            held_messages_max: self.held_messages_max,
            call_ms_max: self.call_ms_max,
            core_stall_ms_max: self.core_stall_ms_max,
            departed_sessions_max: self.departed_sessions_max,
            departed_bytes_max: self.departed_bytes_max,
            departed_ms_max: self.departed_ms_max,
        }
    }
}

/// What the command line sets. Values are texts, as in the environment.
#[derive(Clone, Debug, Default)]
pub struct Flags {
    /// The file of `--config`.
    pub config: Option<PathBuf>,
    /// Values by the path of their key; lists are separated by commas.
    pub values: Vec<(&'static str, String)>,
}

/// A configuration, and what there is to say about where it came from.
#[derive(Clone, Debug)]
pub struct Loaded {
    /// The configuration.
    pub config: Config,
    /// The files that were there.
    pub files: Vec<PathBuf>,
    /// What looks wrong and stops nothing, as sentences.
    pub warnings: Vec<String>,
    figment: Figment,
}

/// Returns the data directory of the node that a command asks: the one named, or the configured one.
pub fn data_dir(named: Option<&Path>) -> Result<PathBuf, ConfigError> {
    match named {
        Some(named) => Ok(named.to_owned()),
        None => Ok(Config::load(Flags::default())?.config.data_dir),
    }
}

/// Checks the configuration and says so: `deskmesh config check`.
#[must_use]
pub fn run_check(file: Option<PathBuf>) -> ExitCode {
    let loaded = match Config::load(Flags { config: file, values: Vec::new() }) {
        Ok(loaded) => loaded,
        Err(error) => return error.report(),
    };
    for warning in &loaded.warnings {
        output::warning(warning);
    }
    let files: Vec<_> = loaded.files.iter().map(|file| file.display().to_string()).collect();
    output::line(&match &files[..] {
        [] => "The configuration is valid; there is no file to read.".to_owned(),
        files => format!("The configuration is valid; it was read from {}.", files.join(", ")),
    });
    ExitCode::from(output::EXIT_DONE)
}

/// Prints every key with its value and where that came from: `deskmesh config show`.
#[must_use]
pub fn run_show(file: Option<PathBuf>) -> ExitCode {
    let loaded = match Config::load(Flags { config: file, values: Vec::new() }) {
        Ok(loaded) => loaded,
        Err(error) => return error.report(),
    };
    for warning in &loaded.warnings {
        output::warning(warning);
    }
    output::text(&loaded.show());
    ExitCode::from(output::EXIT_DONE)
}

impl Loaded {
    /// Returns the configuration as a file, with the origin of each value as a comment. The token is
    /// left out.
    #[must_use]
    pub fn show(&self) -> String {
        let mut text = String::new();
        let mut section = "";
        for key in key::KEYS {
            if key.section() != section {
                section = key.section();
                text.push_str(&format!("\n[{section}]\n"));
            }
            let origin = self.figment.find_metadata(key.path).map_or("", |metadata| metadata.name.as_ref());
            let value = self.figment.find_value(key.path).ok().and_then(|value| key::written(&value));
            let line = match value {
                Some(_) if key.is_secret() => format!("# {} is set, and not shown", key.name()),
                Some(value) => format!("{} = {value}", key.name()),
                None => format!("# {} is not set", key.name()),
            };
            text.push_str(&format!("{line:<46} # {origin}\n"));
        }
        text
    }
}

/// Environment variables, by name.
type Environment = BTreeMap<String, String>;

/// Everything a configuration is made from.
struct Sources {
    /// Files that may be missing, weakest first.
    optional_files: Vec<PathBuf>,
    env: Environment,
    flags: Flags,
}

/// The checked values of one source.
struct Layer {
    origin: String,
    values: Dict,
}

impl Sources {
    fn of_this_process(flags: Flags) -> Self {
        // What is not Unicode is no setting of ours.
        let text = |(name, value): (std::ffi::OsString, std::ffi::OsString)| {
            Some((name.into_string().ok()?, value.into_string().ok()?))
        };
        let env: Environment = std::env::vars_os().filter_map(text).collect();
        Self { optional_files: place::config_files(&env), env, flags }
    }

    fn load(&self) -> Result<Loaded, ConfigError> {
        let mut files = Vec::new();
        let mut warnings = Vec::new();
        let mut figment = Figment::from(Layer::of_defaults(&self.env));
        for file in &self.optional_files {
            if let Some(layer) = read_file(file, &self.env)? {
                files.push(file.clone());
                warnings.extend(layer.warning(file));
                figment = figment.merge(layer);
            }
        }
        if let Some(file) = self.named_file() {
            let missing = || ConfigError::Unreadable {
                file: file.clone(),
                source: io::Error::from(io::ErrorKind::NotFound),
            };
            let layer = read_file(&file, &self.env)?.ok_or_else(missing)?;
            warnings.extend(layer.warning(&file));
            figment = figment.merge(layer);
            files.push(file);
        }
        for (name, value) in &self.env {
            match Key::of_variable(name) {
                // An empty variable is the usual way to unset one.
                Some(_) if value.is_empty() => {}
                Some(key) => figment = figment.merge(Layer::of_text(key, value, name, &self.env)?),
                None => warnings.extend(key::unknown_variable(name)),
            }
        }
        for (path, value) in &self.flags.values {
            let key = Key::of_path(path).expect("flags name keys of the table");
            let origin = format!("--{}", key.name().replace('_', "-"));
            figment = figment.merge(Layer::of_text(key, value, &origin, &self.env)?);
        }
        let config: Config = figment.extract().expect("each source was checked");
        if config.data_dir.as_os_str().is_empty() {
            return Err(ConfigError::NoHome);
        }
        Ok(Loaded { config, files, warnings, figment })
    }

    fn named_file(&self) -> Option<PathBuf> {
        let variable = || self.env.get(CONFIG_VARIABLE).filter(|file| !file.is_empty()).map(PathBuf::from);
        self.flags.config.clone().or_else(variable)
    }
}

/// Reads and checks a file; `None` if it is not there.
fn read_file(file: &Path, env: &Environment) -> Result<Option<Layer>, ConfigError> {
    let text = match fs::read_to_string(file) {
        Ok(text) => text,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(source) => return Err(ConfigError::Unreadable { file: file.to_owned(), source }),
    };
    let origin = file.display().to_string();
    let parsed: Dict = match Toml::from_str(&text) {
        Ok(parsed) => parsed,
        Err(error) => {
            let offset = error.span().map_or(0, |span| span.start).min(text.len());
            let line = text.as_bytes()[..offset].iter().filter(|byte| **byte == b'\n').count() + 1;
            let problem = error.message().lines().collect::<Vec<_>>().join("; ");
            return Err(ConfigError::NotToml { origin, line, problem });
        }
    };
    let values =
        key::check(parsed, env).map_err(|error| ConfigError::Key { origin: origin.clone(), error })?;
    Ok(Some(Layer { origin, values }))
}

impl Layer {
    fn of_defaults(env: &Environment) -> Self {
        let values = Value::serialize(Config::defaults(env)).ok().and_then(Value::into_dict);
        Self { origin: "default".to_owned(), values: values.expect("a struct of plain values") }
    }

    /// Makes a layer of one value that was given as text.
    fn of_text(key: &'static Key, text: &str, origin: &str, env: &Environment) -> Result<Self, ConfigError> {
        let value = key
            .check(key.value_of_text(text), env)
            .map_err(|error| ConfigError::Key { origin: origin.to_owned(), error })?;
        let values = match key.path.split_once('.') {
            Some((section, name)) => {
                Dict::from([(section.to_owned(), Value::from(Dict::from([(name.to_owned(), value)])))])
            }
            None => Dict::from([(key.path.to_owned(), value)]),
        };
        Ok(Self { origin: origin.to_owned(), values })
    }

    /// Says so if others can read a token in this file.
    fn warning(&self, file: &Path) -> Option<String> {
        let fdc3 = self.values.get("fdc3").and_then(Value::as_dict);
        let token = if self.values.contains_key("join") {
            "a join token"
        } else if fdc3.is_some_and(|fdc3| fdc3.contains_key("directory_token")) {
            "the token of an app directory"
        } else {
            return None;
        };
        if !place::is_readable_by_others(file) {
            return None;
        }
        let file = file.display();
        Some(format!("{file} holds {token} that other users can read; run `chmod 600 {file}`"))
    }
}

impl Provider for Layer {
    fn metadata(&self) -> Metadata {
        Metadata::named(self.origin.clone())
    }

    fn data(&self) -> Result<Map<Profile, Dict>, figment::Error> {
        Ok(Map::from([(Profile::Default, self.values.clone())]))
    }
}

/// The configuration cannot be used. Nothing was started.
#[derive(Debug)]
pub enum ConfigError {
    /// A file that was named is missing, or one that is there cannot be read.
    Unreadable {
        /// The file.
        file: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// A file is not TOML.
    NotToml {
        /// The file.
        origin: String,
        /// The line, from 1.
        line: usize,
        /// What the parser said.
        problem: String,
    },
    /// A key is unknown, or its value is not allowed.
    Key {
        /// The file, variable or flag.
        origin: String,
        /// What is wrong.
        error: KeyError,
    },
    /// There is no home directory to put the data directory in.
    NoHome,
}

impl fmt::Display for ConfigError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unreadable { file, .. } => {
                write!(f, "cannot read the configuration file {}", file.display())
            }
            Self::NotToml { origin, line, problem } => write!(f, "{origin}, line {line}: {problem}"),
            Self::Key { origin, error } => write!(f, "{origin}: {error}"),
            Self::NoHome => {
                f.write_str("`data_dir` is not set, and there is no home directory for its default")
            }
        }
    }
}

impl Error for ConfigError {
    fn source(&self) -> Option<&(dyn Error + 'static)> {
        match self {
            Self::Unreadable { source, .. } => Some(source),
            _ => None,
        }
    }
}

impl ConfigError {
    /// Returns what to do about it.
    #[must_use]
    pub fn hint(&self) -> String {
        match self {
            Self::Unreadable { .. } => "Check that the file exists and that you may read it.".to_owned(),
            Self::NotToml { .. } => "The file must be TOML: `key = value` lines, texts in quotes.".to_owned(),
            Self::Key { error, .. } => error.hint(),
            Self::NoHome => "Name a directory with --data-dir, or set DESKMESH_DATA_DIR.".to_owned(),
        }
    }

    /// Prints the error and returns the exit code of a bad configuration.
    #[must_use]
    pub fn report(&self) -> ExitCode {
        output::error_chain(self, &self.hint());
        ExitCode::from(output::EXIT_CONFIG)
    }
}

/// Where applications look for a node.
pub const CLIENT_PORT: u16 = 8385;

/// Where nodes look for each other.
pub const MESH_PORT: u16 = 8386;

/// The variable that stands in for `--config`.
const CONFIG_VARIABLE: &str = "DESKMESH_CONFIG";

#[cfg(test)]
mod tests;
