//! The keys of the configuration: their names, what they may hold, and the nearest to a misspelt one.

use figment::providers::{Format as _, Toml};
use figment::value::{Dict, Value};
use mesh_model::limits::JSON_DEPTH_MAX;

use super::Environment;
use super::visibility::List;

/// One key.
#[derive(Debug)]
pub struct Key {
    /// Its name with its section: `limits.sessions_max`.
    pub path: &'static str,
    kind: Kind,
}

/// What a key may hold.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Kind {
    /// A short name for people.
    Name,
    Directory,
    File,
    /// Loopback addresses.
    ListenAddresses,
    Address,
    /// Addresses whose host may be a name.
    HostPorts,
    Token,
    /// A credential that goes into an HTTP header.
    Secret,
    /// Files and web addresses.
    Sources,
    Origins,
    Hosts,
    Choice(&'static [&'static str]),
    Switch,
    Endpoint,
    /// From 0 to 1.
    Ratio,
    LogFilter,
    /// A whole number above 0.
    Count,
    /// The same, or 0 for none.
    CountOrNone,
    /// A whole number above 0, but not more than this.
    CountTo(u64),
    /// A visibility list.
    Rules(List),
    /// A table of commands.
    Programs,
}

/// Every key, in the order in which people meet them.
pub const KEYS: &[Key] = &[
    Key { path: "name", kind: Kind::Name },
    Key { path: "user", kind: Kind::Name },
    Key { path: "data_dir", kind: Kind::Directory },
    Key { path: "listen", kind: Kind::ListenAddresses },
    Key { path: "mesh_listen", kind: Kind::Address },
    Key { path: "mesh_advertise", kind: Kind::HostPorts },
    Key { path: "join", kind: Kind::Token },
    Key { path: "seeds", kind: Kind::HostPorts },
    Key { path: "link_profile", kind: Kind::Choice(&["lan", "wan"]) },
    Key { path: "relay", kind: Kind::Switch },
    Key { path: "allowed_origins", kind: Kind::Origins },
    Key { path: "allowed_hosts", kind: Kind::Hosts },
    Key { path: "admit", kind: Kind::Choice(&["same-os-user", "any-local"]) },
    Key { path: "authenticators", kind: Kind::Programs },
    Key { path: "discovery.mdns", kind: Kind::Switch },
    Key { path: "visibility.contexts", kind: Kind::Rules(List::Contexts) },
    Key { path: "visibility.methods", kind: Kind::Rules(List::Methods) },
    Key { path: "visibility.peers", kind: Kind::Rules(List::Peers) },
    Key { path: "fdc3.directories", kind: Kind::Sources },
    Key { path: "fdc3.directory_token", kind: Kind::Secret },
    Key { path: "fdc3.directory_refresh_s", kind: Kind::Count },
    Key { path: "fdc3.user", kind: Kind::Name },
    Key { path: "fdc3.intent_result_timeout_s", kind: Kind::CountTo(RESULT_TIMEOUT_S_MAX) },
    Key { path: "fdc3.bridge", kind: Kind::Switch },
    Key { path: "fdc3.bridge_port", kind: Kind::CountTo(BRIDGE_PORT_MAX) },
    Key { path: "fdc3.bridge_secret_file", kind: Kind::File },
    Key { path: "fdc3.bridge_rules", kind: Kind::Rules(List::Bridge) },
    Key { path: "streams.slow_subscribers", kind: Kind::Rules(List::SlowSubscribers) },
    Key { path: "telemetry.otlp_endpoint", kind: Kind::Endpoint },
    Key { path: "telemetry.sample_ratio", kind: Kind::Ratio },
    Key { path: "telemetry.log", kind: Kind::LogFilter },
    Key { path: "telemetry.log_format", kind: Kind::Choice(&["human", "json"]) },
    Key { path: "limits.message_bytes_max", kind: Kind::Count },
    Key { path: "limits.message_bytes_warn", kind: Kind::Count },
    Key { path: "limits.json_depth_max", kind: Kind::CountTo(JSON_DEPTH_MAX as u64) },
    Key { path: "limits.json_keys_max", kind: Kind::Count },
    Key { path: "limits.session_outbox_bytes_max", kind: Kind::Count },
    Key { path: "limits.outbox_control_bytes_max", kind: Kind::Count },
    Key { path: "limits.outbox_calls_bytes_max", kind: Kind::Count },
    Key { path: "limits.outbox_context_conflate_bytes", kind: Kind::Count },
    Key { path: "limits.outbox_context_bytes_max", kind: Kind::Count },
    Key { path: "limits.outbox_stream_bytes_max", kind: Kind::Count },
    Key { path: "limits.outbox_subscription_bytes_max", kind: Kind::Count },
    Key { path: "limits.slow_stream_consumer", kind: Kind::Choice(&["disconnect", "drop-oldest"]) },
    Key { path: "limits.write_deadline_ms", kind: Kind::Count },
    Key { path: "limits.ping_interval_ms", kind: Kind::Count },
    Key { path: "limits.missed_pings_max", kind: Kind::Count },
    Key { path: "limits.sessions_max", kind: Kind::Count },
    Key { path: "limits.sessions_per_user_max", kind: Kind::Count },
    Key { path: "limits.methods_per_session_max", kind: Kind::Count },
    Key { path: "limits.subscriptions_per_session_max", kind: Kind::Count },
    Key { path: "limits.contexts_per_session_max", kind: Kind::Count },
    Key { path: "limits.calls_per_session_max", kind: Kind::Count },
    Key { path: "limits.context_updates_per_second_max", kind: Kind::CountOrNone },
    Key { path: "limits.domain_entries_max", kind: Kind::Count },
    Key { path: "limits.domain_bytes_max", kind: Kind::Count },
    Key { path: "limits.clock_skew_ms_max", kind: Kind::Count },
    Key { path: "limits.batch_bytes_max", kind: Kind::Count },
    Key { path: "limits.held_messages_max", kind: Kind::Count },
    Key { path: "limits.call_ms_max", kind: Kind::Count },
    Key { path: "limits.core_stall_ms_max", kind: Kind::CountOrNone },
    Key { path: "limits.departed_sessions_max", kind: Kind::Count },
    Key { path: "limits.departed_bytes_max", kind: Kind::Count },
    Key { path: "limits.departed_ms_max", kind: Kind::Count },
    Key { path: "limits.hello_timeout_ms", kind: Kind::Count },
    Key { path: "limits.authentication_timeout_ms", kind: Kind::Count },
    Key { path: "limits.handshakes_per_second_max", kind: Kind::Count },
];

impl Key {
    /// Returns the key of this path.
    #[must_use]
    pub fn of_path(path: &str) -> Option<&'static Self> {
        KEYS.iter().find(|key| key.path == path)
    }

    /// Returns the key that an environment variable sets.
    #[must_use]
    pub fn of_variable(variable: &str) -> Option<&'static Self> {
        KEYS.iter().find(|key| key.variable() == variable)
    }

    /// Returns the environment variable that sets this key.
    #[must_use]
    pub fn variable(&self) -> String {
        format!("{PREFIX}{}", self.path.replace('.', "_").to_uppercase())
    }

    /// Returns the section, or nothing for the top.
    #[must_use]
    pub fn section(&self) -> &'static str {
        self.path.split_once('.').map_or("", |(section, _)| section)
    }

    /// Returns the name within the section.
    #[must_use]
    pub fn name(&self) -> &'static str {
        self.path.split_once('.').map_or(self.path, |(_, name)| name)
    }

    /// Returns whether the value must not be shown.
    #[must_use]
    pub fn is_secret(&self) -> bool {
        matches!(self.kind, Kind::Token | Kind::Secret)
    }

    /// Returns the value that a text from the environment or the command line stands for.
    pub(super) fn value_of_text(&self, text: &str) -> Value {
        let text = text.trim();
        match self.kind {
            Kind::Count | Kind::CountOrNone | Kind::CountTo(_) => {
                text.parse::<u64>().map_or_else(|_| Value::from(text), Value::from)
            }
            Kind::Switch => text.parse::<bool>().map_or_else(|_| Value::from(text), Value::from),
            Kind::Ratio => text.parse::<f64>().map_or_else(|_| Value::from(text), Value::from),
            Kind::ListenAddresses | Kind::HostPorts | Kind::Sources | Kind::Origins | Kind::Hosts => {
                let parts = text.split(',').map(str::trim).filter(|part| !part.is_empty());
                Value::from(parts.collect::<Vec<_>>())
            }
            // One that makes no sense as TOML is refused as what it is: a text.
            Kind::Rules(_) | Kind::Programs => Toml::from_str::<Dict>(&format!("value = {text}"))
                .ok()
                .and_then(|mut values| values.remove("value"))
                .unwrap_or_else(|| Value::from(text)),
            _ => Value::from(text),
        }
    }

    /// Returns the value in the one form that the rest of the program reads, if it is allowed.
    pub(super) fn check(&'static self, value: Value, env: &Environment) -> Result<Value, KeyError> {
        if let Kind::Rules(list) = self.kind {
            return match list.check(&value) {
                Ok(()) => Ok(value),
                Err(problem) => Err(KeyError::Rules { key: self, problem, expected: list.example() }),
            };
        }
        let checked = match self.kind {
            Kind::Name => text_where(&value, is_name),
            Kind::Directory | Kind::File => {
                text_where(&value, |text| !text.is_empty()).map(|text| home_expanded(text, env))
            }
            Kind::ListenAddresses => list_where(&value, is_loopback).filter(|list| !is_empty(list)),
            Kind::Address => text_where(&value, |text| text.parse::<std::net::SocketAddr>().is_ok()),
            Kind::HostPorts => list_where(&value, is_host_port),
            Kind::Token => text_where(&value, |text| !text.is_empty() && !text.contains(char::is_whitespace)),
            Kind::Secret => {
                text_where(&value, |text| !text.is_empty() && text.chars().all(|c| c.is_ascii_graphic()))
            }
            Kind::Sources => list_where(&value, is_source).map(|list| each_home_expanded(&list, env)),
            Kind::Origins => list_where(&value, is_origin),
            Kind::Hosts => list_where(&value, |text| is_host(text) || is_host_port(text)),
            Kind::Choice(words) => text_where(&value, |text| words.contains(&text)),
            Kind::Switch => value.to_bool().map(Value::from),
            Kind::Endpoint => text_where(&value, |text| mesh_telemetry::check_endpoint(text).is_ok()),
            Kind::Ratio => number(&value).filter(|ratio| (0.0..=1.0).contains(ratio)).map(Value::from),
            Kind::LogFilter => text_where(&value, |text| mesh_telemetry::logging::check_filter(text).is_ok()),
            Kind::Count => whole_number(&value).filter(|count| *count > 0).map(Value::from),
            Kind::CountOrNone => whole_number(&value).map(Value::from),
            Kind::Rules(_) => None,
            Kind::Programs => programs(value.clone()),
            Kind::CountTo(max) => {
                whole_number(&value).filter(|count| (1..=max).contains(count)).map(Value::from)
            }
        };
        checked.ok_or_else(|| KeyError::Value {
            key: self,
            // Not even a token of the wrong form belongs on a screen.
            found: (!self.is_secret())
                .then(|| written(&value))
                .flatten()
                .filter(|text| text.chars().count() <= SHOWN_LEN_MAX),
            expected: self.expected(),
        })
    }

    fn expected(&self) -> String {
        let fixed = match self.kind {
            Kind::Name => "a text of 1 to 64 printable characters",
            Kind::Directory => "a directory in quotes",
            Kind::File => "the path of a file in quotes",
            Kind::ListenAddresses => {
                "a loopback address and port such as \"127.0.0.1:8385\", or a list of them"
            }
            Kind::Address => "an address and port such as \"0.0.0.0:8386\"",
            Kind::HostPorts => "a host and port such as \"desk-2.corp.example:8386\", or a list of them",
            Kind::Token => "the text that `deskmesh token create` printed",
            Kind::Secret => "a text of visible ASCII characters, without spaces",
            Kind::Sources => {
                "the full path of a file such as \"/etc/deskmesh/apps.json\", an http:// or https:// address \
                 without credentials such as \"https://appd.corp.example/v2/apps\", or a list of them"
            }
            Kind::Origins => {
                "an origin as browsers send it, such as \"https://apps.corp.example\" or \
                 \"https://*.corp.example\" for any one label, or a list of them"
            }
            Kind::Hosts => "a host name such as \"desk.corp.example\", or a list of them",
            Kind::Choice(words) => {
                let words: Vec<_> = words.iter().map(|word| format!("\"{word}\"")).collect();
                return words.join(" or ");
            }
            Kind::Switch => "true or false",
            Kind::Endpoint => {
                "the http:// or https:// address of a collector, without credentials, such as \
                 \"http://127.0.0.1:4318\""
            }
            Kind::Ratio => "a number from 0 to 1",
            Kind::LogFilter => {
                "\"error\", \"warn\", \"info\", \"debug\", \"trace\", \"off\", or a filter such as \"info,mesh_net=debug\""
            }
            Kind::Count => "a whole number above 0",
            Kind::CountOrNone => "a whole number, or 0 for no limit",
            Kind::Rules(list) => list.example(),
            Kind::Programs => {
                "a table of programs with their arguments, such as { win = [\"/usr/lib/corp/negotiate\", \"--ntlm\"] }"
            }
            Kind::CountTo(max) => return format!("a whole number from 1 to {max}"),
        };
        fixed.to_owned()
    }
}

/// Checks all values of a source, and returns them in the form that the rest of the program reads.
pub(super) fn check(values: Dict, env: &Environment) -> Result<Dict, KeyError> {
    check_section("", values, env)
}

fn check_section(section: &str, values: Dict, env: &Environment) -> Result<Dict, KeyError> {
    let mut checked = Dict::new();
    for (name, value) in values {
        let path = if section.is_empty() { name.clone() } else { format!("{section}.{name}") };
        let value = match (Key::of_path(&path), value) {
            (Some(key), value) => key.check(value, env)?,
            (None, Value::Dict(_, values)) if is_section(&path) => {
                Value::from(check_section(&path, values, env)?)
            }
            (None, _) if is_section(&path) => return Err(KeyError::NoSection { section: path }),
            (None, _) => return Err(KeyError::Unknown { near: nearest(&path), key: path }),
        };
        checked.insert(name, value);
    }
    Ok(checked)
}

/// Returns a table of commands with each as a list: a program without arguments may stand alone.
fn programs(value: Value) -> Option<Value> {
    let Value::Dict(_, programs) = value else { return None };
    let command = |(provider, command): (String, Value)| {
        let command = list_where(&command, |text| !text.is_empty()).filter(|list| !is_empty(list))?;
        (!provider.is_empty()).then_some((provider, command))
    };
    programs.into_iter().map(command).collect::<Option<Dict>>().map(Value::from)
}

fn is_section(path: &str) -> bool {
    !path.is_empty() && KEYS.iter().any(|key| key.section() == path)
}

/// Returns the sentence about a variable that looks like a setting and is none.
///
/// It stops nothing: container platforms set variables like `DESKMESH_SERVICE_HOST` for a service of
/// that name.
pub(super) fn unknown_variable(variable: &str) -> Option<String> {
    if variable == super::CONFIG_VARIABLE {
        return None;
    }
    let name = variable.strip_prefix(PREFIX)?.to_lowercase();
    let near = KEYS
        .iter()
        .map(|key| (distance(&name, &key.path.replace('.', "_")), key))
        .min_by_key(|(distance, _)| *distance)
        .filter(|(distance, _)| *distance <= name.len() / 3);
    Some(match near {
        Some((_, key)) => {
            format!("the environment variable {variable} is no setting; did you mean {}?", key.variable())
        }
        None => format!("the environment variable {variable} is no setting, and ignored"),
    })
}

/// What is wrong with a key or its value.
#[derive(Clone, Debug)]
pub enum KeyError {
    /// There is no such key.
    Unknown {
        /// What was written.
        key: String,
        /// The key that was probably meant.
        near: Option<&'static Key>,
    },
    /// A section's name stands where a key should.
    NoSection {
        /// The section.
        section: String,
    },
    /// A rule of a list makes no sense.
    Rules {
        /// The key.
        key: &'static Key,
        /// Which rule, and what is wrong with it.
        problem: String,
        /// What is allowed.
        expected: &'static str,
    },
    /// The value is not allowed.
    Value {
        /// The key.
        key: &'static Key,
        /// What was written, unless it is secret or too long.
        found: Option<String>,
        /// What is allowed.
        expected: String,
    },
}

impl std::fmt::Display for KeyError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Unknown { key, near: Some(near) } => {
                write!(f, "there is no key `{key}`; did you mean `{}`?", near.path)
            }
            Self::Unknown { key, near: None } => {
                let section = key.split_once('.').map_or("", |(section, _)| section);
                let keys = KEYS.iter().filter(|key| key.section() == section);
                let names: Vec<_> = keys.map(Key::name).collect();
                write!(f, "there is no key `{key}`; the keys ")?;
                match section {
                    "" => write!(f, "outside sections are {}", names.join(", ")),
                    section => write!(f, "of [{section}] are {}", names.join(", ")),
                }
            }
            Self::NoSection { section } => {
                write!(f, "`{section}` must be a section, [{section}], with `key = value` lines below it")
            }
            Self::Rules { key, problem, expected } => {
                write!(f, "`{}`: {problem}; it must be {expected}", key.path)
            }
            Self::Value { key, found: Some(found), expected } => {
                write!(f, "`{}` is {found}, but must be {expected}", key.path)
            }
            Self::Value { key, found: None, expected } => write!(f, "`{}` must be {expected}", key.path),
        }
    }
}

impl KeyError {
    /// Returns what to do about it.
    #[must_use]
    pub fn hint(&self) -> String {
        match self {
            Self::Unknown { near: Some(near), .. } if !near.section().is_empty() => {
                format!("Write `{}` below [{}], or remove the line.", near.name(), near.section())
            }
            Self::Unknown { .. } => "Correct the name, or remove the line.".to_owned(),
            Self::NoSection { section } => format!("Correct it, or remove `{section}`."),
            Self::Rules { key, .. } | Self::Value { key, .. } => {
                format!("Correct it, or remove `{}` to get its default.", key.path)
            }
        }
    }
}

/// Returns the key that was probably meant.
fn nearest(path: &str) -> Option<&'static Key> {
    let name = path.rsplit('.').next().unwrap_or(path);
    // A right name in the wrong section is the likeliest mistake.
    if let Some(key) = KEYS.iter().find(|key| key.name() == name) {
        return Some(key);
    }
    let (distance, key) =
        KEYS.iter().map(|key| (distance(name, key.name()), key)).min_by_key(|(distance, _)| *distance)?;
    (distance <= (name.len() / 3).max(1)).then_some(key)
}

/// Returns how many letters must be changed, added or removed to make one word of the other.
fn distance(left: &str, right: &str) -> usize {
    let mut row: Vec<usize> = (0..=right.chars().count()).collect();
    for (i, l) in left.chars().enumerate() {
        let mut diagonal = row[0];
        row[0] = i + 1;
        for (j, r) in right.chars().enumerate() {
            let changed = diagonal + usize::from(l != r);
            diagonal = row[j + 1];
            row[j + 1] = changed.min(diagonal + 1).min(row[j] + 1);
        }
    }
    row[right.chars().count()]
}

/// Returns a value as it would be written in a file; `None` if it is not set.
pub(super) fn written(value: &Value) -> Option<String> {
    if matches!(value, Value::Empty(..)) {
        return None;
    }
    Some(toml_of(&serde_json::to_value(value).ok()?))
}

/// Writes a value as TOML on one line: texts, numbers and lists of them look as in JSON.
fn toml_of(value: &serde_json::Value) -> String {
    match value {
        serde_json::Value::Array(values) => {
            format!("[{}]", values.iter().map(toml_of).collect::<Vec<_>>().join(", "))
        }
        serde_json::Value::Object(members) => {
            let bare = |name: &str| name.chars().all(|c| c.is_ascii_alphanumeric() || "-_".contains(c));
            let members = members.iter().map(|(name, value)| match bare(name) {
                true => format!("{name} = {}", toml_of(value)),
                false => format!("{} = {}", serde_json::Value::from(name.as_str()), toml_of(value)),
            });
            format!("{{ {} }}", members.collect::<Vec<_>>().join(", "))
        }
        plain => plain.to_string(),
    }
}

fn text_where(value: &Value, rule: impl Fn(&str) -> bool) -> Option<Value> {
    value.as_str().filter(|text| rule(text)).map(Value::from)
}

/// Makes a list of a single text, too.
fn list_where(value: &Value, rule: impl Fn(&str) -> bool) -> Option<Value> {
    let texts: Vec<&str> = match value {
        Value::String(_, text) => vec![text],
        Value::Array(_, values) => values.iter().map(Value::as_str).collect::<Option<_>>()?,
        _ => return None,
    };
    texts.iter().all(|text| rule(text)).then(|| Value::from(texts))
}

fn is_empty(list: &Value) -> bool {
    list.as_array().is_none_or(<[Value]>::is_empty)
}

/// Returns a whole number that is not negative, whichever type its source gave it.
fn whole_number(value: &Value) -> Option<u64> {
    let signed = || value.to_i128().and_then(|number| u128::try_from(number).ok());
    let number = value.to_u128().or_else(signed)?;
    // No TOML file could hold a larger one.
    i64::try_from(number).ok()?;
    u64::try_from(number).ok()
}

fn number(value: &Value) -> Option<f64> {
    let fraction = || value.to_num().and_then(|number| number.to_f64());
    // A whole number other than 0 and 1 is out of range however it is rounded.
    whole_number(value).map(|number| number as f64).or_else(fraction)
}

fn home_expanded(text: Value, env: &Environment) -> Value {
    let rest = text.as_str().and_then(|text| text.strip_prefix("~/"));
    match (rest, env.get("HOME")) {
        (Some(rest), Some(home)) => Value::from(format!("{home}/{rest}")),
        _ => text,
    }
}

fn each_home_expanded(list: &Value, env: &Environment) -> Value {
    let values = list.as_array().unwrap_or_default().iter().cloned();
    Value::from(values.map(|value| home_expanded(value, env)).collect::<Vec<_>>())
}

fn is_name(text: &str) -> bool {
    (1..=64).contains(&text.chars().count())
        && text.trim() == text
        && !text.contains(|c: char| c.is_control() || is_invisible(c))
}

/// Characters that change how a line reads without being seen.
fn is_invisible(c: char) -> bool {
    matches!(c, '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2060}'..='\u{206f}' | '\u{feff}')
}

/// A node may run anywhere, so a file must be named in full.
fn is_source(text: &str) -> bool {
    match reqwest::Url::parse(text) {
        Ok(url) if matches!(url.scheme(), "http" | "https") => {
            url.username().is_empty() && url.password().is_none()
        }
        _ => text.starts_with("~/") || std::path::Path::new(text).is_absolute(),
    }
}

fn is_loopback(text: &str) -> bool {
    text.parse::<std::net::SocketAddr>().is_ok_and(|address| address.ip().is_loopback())
}

/// Returns whether a text is an origin as browsers send it: scheme, host, and a port unless it is the
/// scheme's own. The leftmost label of the host may be `*`, which stands for exactly one label.
#[must_use]
pub fn is_origin(text: &str) -> bool {
    let Some((scheme, authority)) = text.split_once("://") else { return false };
    let scheme_ok = scheme.starts_with(|c: char| c.is_ascii_lowercase())
        && scheme.chars().all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || "+-.".contains(c));
    let own_port = match scheme {
        "http" => ":80",
        "https" => ":443",
        _ => "",
    };
    let port_ok = own_port.is_empty() || !authority.ends_with(own_port);
    let host_ok = match authority.strip_prefix("*.") {
        // `https://*.com` would admit half the world.
        Some(parent) => host_of(parent).is_some_and(|host| host.contains('.') && !is_address(host)),
        None => host_of(authority).is_some(),
    };
    scheme_ok && port_ok && host_ok
}

/// Returns the host of `host` or `host:port`, if both are well-formed.
fn host_of(authority: &str) -> Option<&str> {
    if is_host(authority) {
        return Some(authority);
    }
    let (host, port) = authority.rsplit_once(':')?;
    (is_host(host) && is_port(port)).then_some(host)
}

pub(crate) fn is_host_port(text: &str) -> bool {
    text.rsplit_once(':').is_some_and(|(host, port)| is_host(host) && is_port(port))
}

/// A name in lower case, an IPv4 address, or an IPv6 address in brackets.
fn is_host(text: &str) -> bool {
    if let Some(address) = text.strip_prefix('[').and_then(|text| text.strip_suffix(']')) {
        return address.parse::<std::net::Ipv6Addr>().is_ok();
    }
    let label = |label: &str| {
        (1..=63).contains(&label.len())
            && !label.starts_with('-')
            && !label.ends_with('-')
            && label.chars().all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || "-_".contains(c))
    };
    text.len() <= 253 && text.split('.').all(label)
}

fn is_address(host: &str) -> bool {
    host.starts_with('[') || host.parse::<std::net::Ipv4Addr>().is_ok()
}

fn is_port(text: &str) -> bool {
    !text.starts_with(['0', '+']) && text.parse::<u16>().is_ok()
}

/// The first port of bridges, with 100 more behind it.
const BRIDGE_PORT_MAX: u64 = 65_435;

/// A week.
const RESULT_TIMEOUT_S_MAX: u64 = 604_800;

const PREFIX: &str = "DESKMESH_";

/// How much of a value is shown.
const SHOWN_LEN_MAX: usize = 400;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn knows_an_origin_when_it_sees_one() {
        for origin in [
            "https://apps.corp.example",
            "https://*.corp.example",
            "https://*.corp.example:8443",
            "http://localhost:3000",
            "http://10.1.2.3:8080",
            "http://[::1]:3000",
            "https://xn--bcher-kva.example",
            "chrome-extension://abcdefghijklmnop",
        ] {
            assert!(is_origin(origin), "{origin}");
        }
        for other in [
            "",
            "*",
            "null",
            "file://",
            "apps.corp.example",
            "https://",
            "https://*",
            "https://*.example",
            "https://*.1.2.3.4",
            "https://a.*.example",
            "https://a*.corp.example",
            "https://**.corp.example",
            "https://*.*.example",
            "https://apps.corp.example/",
            "https://apps.corp.example:443",
            "http://apps.corp.example:80",
            "https://apps.corp.example:0",
            "https://apps.corp.example:",
            "https://apps.corp.example:99999",
            "https://apps.corp.example:+1",
            "https://Apps.corp.example",
            "https://user@corp.example",
            "https://apps..example",
            "https://.example",
            "https://bücher.example",
            "https://a b.example",
            "HTTPS://corp.example",
            "https://apps.corp.example?x",
            "https://apps.corp.example#x",
        ] {
            assert!(!is_origin(other), "{other}");
        }
    }

    #[test]
    fn finds_the_nearest_key() {
        for (given, expected) in [
            ("lisen", Some("listen")),
            ("mesh-listen", Some("mesh_listen")),
            ("allowed_origin", Some("allowed_origins")),
            ("sessions_max", Some("limits.sessions_max")),
            ("limits.name", Some("name")),
            ("limits.session_max", Some("limits.sessions_max")),
            ("telemetry.otlp_enpoint", Some("telemetry.otlp_endpoint")),
            ("colour", None),
        ] {
            assert_eq!(nearest(given).map(|key| key.path), expected, "{given}");
        }
        assert_eq!((distance("kitten", "sitting"), distance("", "ab"), distance("a", "a")), (3, 2, 0));
    }
}
