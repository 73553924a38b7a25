//! The log on standard error: lines for people, or JSON for programs.

use std::io::{self, IsTerminal};

use tracing::Subscriber;
use tracing_subscriber::EnvFilter;
use tracing_subscriber::fmt::MakeWriter;

/// How the log is written.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum LogFormat {
    /// A line per event for people; coloured on a terminal, unless `NO_COLOR` is set.
    #[default]
    Human,
    /// A JSON object per line.
    Json,
}

/// What to log, and how.
#[derive(Clone, Debug)]
pub struct LogSettings {
    /// A level (`error`, `warn`, `info`, `debug`, `trace`, `off`), or the filter language of
    /// `tracing-subscriber`: `info,mesh_net=debug`.
    pub filter: String,
    /// How each event is written.
    pub format: LogFormat,
}

/// The log could not be set up.
#[derive(Debug, thiserror::Error)]
pub enum LogError {
    /// The filter does not parse. No log was set up.
    #[error("`{filter}` is not a log level or filter")]
    Filter {
        /// What was given.
        filter: String,
    },
    /// This process already has a log, which stays as it is.
    #[error("the log was set up before")]
    AlreadySet(#[source] tracing_subscriber::util::TryInitError),
}

/// Checks a filter without setting anything up.
pub fn check_filter(filter: &str) -> Result<(), LogError> {
    env_filter(filter).map(drop)
}

/// Sets up the log of this process on standard error.
pub fn init(settings: &LogSettings) -> Result<(), LogError> {
    use tracing_subscriber::util::SubscriberInitExt;

    let coloured = io::stderr().is_terminal() && std::env::var_os("NO_COLOR").is_none_or(|no| no.is_empty());
    subscriber(settings, coloured, io::stderr)?.try_init().map_err(LogError::AlreadySet)
}

fn subscriber<W>(
    settings: &LogSettings,
    coloured: bool,
    writer: W,
) -> Result<Box<dyn Subscriber + Send + Sync>, LogError>
where
    W: for<'writer> MakeWriter<'writer> + Send + Sync + 'static,
{
    let builder = tracing_subscriber::fmt()
        .with_env_filter(env_filter(&settings.filter)?)
        .with_ansi(coloured)
        .with_writer(writer);
    Ok(match settings.format {
        LogFormat::Human => Box::new(builder.finish()),
        LogFormat::Json => Box::new(builder.json().flatten_event(true).finish()),
    })
}

fn env_filter(filter: &str) -> Result<EnvFilter, LogError> {
    let bad = || LogError::Filter { filter: filter.to_owned() };
    // A bare word that is no level would be taken for the name of a module, and silence all others.
    if !filter.contains(['=', ',']) && !LEVELS.contains(&filter.to_ascii_lowercase().as_str()) {
        return Err(bad());
    }
    // The collector's absence is reported by our own exporter, once a minute; theirs would repeat it.
    EnvFilter::builder().parse(format!("{QUIET}{filter}")).map_err(|_| bad())
}

const LEVELS: [&str; 6] = ["off", "error", "warn", "info", "debug", "trace"];

/// Libraries whose names begin so tell an operator nothing; what the operator asks for comes later and wins.
const QUIET: &str = "opentelemetry=off,";

#[cfg(test)]
mod tests {
    use std::io::Write;
    use std::sync::{Arc, Mutex};

    use super::*;

    #[derive(Clone, Default)]
    struct Sink(Arc<Mutex<Vec<u8>>>);

    impl Write for Sink {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0.lock().unwrap().extend_from_slice(bytes);
            Ok(bytes.len())
        }
        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    fn logged(filter: &str, format: LogFormat) -> String {
        let sink = Sink::default();
        let writer = sink.clone();
        let settings = LogSettings { filter: filter.to_owned(), format };
        let subscriber = subscriber(&settings, false, move || writer.clone()).unwrap();
        tracing::subscriber::with_default(subscriber, || {
            tracing::debug!("quiet");
            tracing::info!(sessions = 3, "node is up");
            tracing::error!(target: "opentelemetry_sdk", "theirs");
        });
        String::from_utf8(sink.0.lock().unwrap().clone()).unwrap()
    }

    #[test]
    fn writes_lines_for_people() {
        let text = logged("info", LogFormat::Human);
        assert_eq!(text.lines().count(), 1, "{text}");
        assert!(text.contains(" INFO ") && text.contains("node is up sessions=3"), "{text}");
    }

    #[test]
    fn writes_lines_for_programs() {
        let text = logged("INFO", LogFormat::Json);
        let line: serde_json::Value = serde_json::from_str(text.trim_end()).unwrap();
        assert_eq!(line["level"], "INFO");
        assert_eq!(line["message"], "node is up");
        assert_eq!(line["sessions"], 3);
        assert!(line["timestamp"].is_string());
    }

    #[test]
    fn takes_a_level_or_a_filter() {
        assert_eq!(logged("off", LogFormat::Human), "");
        assert_eq!(logged("debug", LogFormat::Human).lines().count(), 2);
        assert_eq!(logged("warn,mesh_telemetry=debug", LogFormat::Human).lines().count(), 2);
        assert_eq!(logged("warn,opentelemetry_sdk=error", LogFormat::Human).lines().count(), 1);
        for filter in ["loud", "mesh_net", "", "info,mesh_net=loud"] {
            let error = check_filter(filter).unwrap_err();
            assert_eq!(error.to_string(), format!("`{filter}` is not a log level or filter"));
        }
    }
}
