//! The command line: what can be asked of `deskmesh`, and how it answers what it does not understand.

use std::ffi::OsString;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use clap::error::ErrorKind;
use clap::{Args, Parser, Subcommand};

use crate::admin_client::{self, Query};
use crate::config::{self, Flags};
use crate::output;

/// An interop mesh for trading desktops.
///
/// A node runs on every desktop. Applications connect to the node of their own machine, and find each
/// other on all machines of the same owner.
#[derive(Clone, Debug, Parser)]
#[command(name = "deskmesh", version, arg_required_else_help = true, disable_help_subcommand = true)]
#[command(after_help = "Begin with `deskmesh demo`, or run a node with `deskmesh up`.")]
pub struct Cli {
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
}

/// What to do.
#[derive(Clone, Debug, Subcommand)]
pub enum Command {
    /// Run a node, until interrupted
    Up(UpArgs),
    /// Let other machines join this node's mesh
    #[command(subcommand)]
    Token(TokenCommand),
    /// Show how the node is
    Status(QueryArgs),
    /// List the nodes this one knows
    Peers(QueryArgs),
    /// List the applications, on all nodes
    Apps(QueryArgs),
    /// List the methods and streams that applications offer
    Methods(QueryArgs),
    /// List the shared contexts
    Contexts(QueryArgs),
    /// Tell who sees a context, a method or an app, on all nodes
    WhoSees(WhoSeesArgs),
    /// Have the node read its configuration again
    Reload(QueryArgs),
    /// Start a small mesh on this machine, and show it at work
    Demo(DemoArgs),
    /// Check or show the configuration
    #[command(subcommand)]
    Config(ConfigCommand),
}

/// How to run a node.
#[derive(Clone, Debug, Default, Args)]
#[command(after_help = "\
Each option overrides the configuration files and the environment; `deskmesh config show` tells what
they say. A token on the command line can be seen by other users of this machine: it works once, or set
the variable DESKMESH_JOIN instead.")]
pub struct UpArgs {
    /// Where the node keeps its identity and state
    #[arg(long, value_name = "DIR")]
    pub data_dir: Option<PathBuf>,
    /// A loopback address for applications; may be repeated [default: port 8385]
    #[arg(long, value_name = "ADDR")]
    pub listen: Vec<SocketAddr>,
    /// The address for other nodes, over UDP [default: 0.0.0.0:8386]
    #[arg(long, value_name = "ADDR")]
    pub mesh_listen: Option<SocketAddr>,
    /// Join the mesh that `deskmesh token create` made this token for
    #[arg(long, value_name = "TOKEN")]
    pub join: Option<String>,
    /// Read this file after the usual ones
    #[arg(long, value_name = "FILE")]
    pub config: Option<PathBuf>,
    /// What to call this node [default: the machine's name]
    #[arg(long, value_name = "NODE")]
    pub name: Option<String>,
    /// Whose node this is; only nodes of one owner share anything [default: the login name]
    #[arg(long, value_name = "OWNER")]
    pub user: Option<String>,
    /// How much to log: error, warn, info, debug, trace, or a filter [default: info]
    #[arg(long, value_name = "LEVEL")]
    pub log: Option<String>,
}

/// Letting other machines in.
#[derive(Clone, Debug, Subcommand)]
pub enum TokenCommand {
    /// Print a token that lets one machine join, for `deskmesh up --join`
    Create(TokenCreateArgs),
    /// Print a token that logs a service in at this node: an app that all users see
    Service(ServiceTokenArgs),
}

/// How to make a token.
#[derive(Clone, Debug, Args)]
pub struct TokenCreateArgs {
    /// The data directory of the node to ask
    #[arg(long, value_name = "DIR")]
    pub data_dir: Option<PathBuf>,
    /// How long the token works: 90s, 15m, 2h or 1d
    #[arg(long, value_name = "TIME", default_value = "15m", value_parser = parse_duration)]
    pub ttl: Duration,
}

/// How to make a token for a service.
#[derive(Clone, Debug, Args)]
#[command(after_help = "\
The app logs in with `auth: { token: '…' }`. Keep the token as secret as a password: who has it sees the
apps of all users of this node's owner.")]
pub struct ServiceTokenArgs {
    /// The user name that the service goes by
    #[arg(long, value_name = "NAME")]
    pub user: String,
    /// The data directory of the node to ask
    #[arg(long, value_name = "DIR")]
    pub data_dir: Option<PathBuf>,
    /// How long the token works: 90s, 15m, 2h or 365d
    #[arg(long, value_name = "TIME", default_value = "365d", value_parser = parse_duration)]
    pub ttl: Duration,
}

/// What to look for.
#[derive(Clone, Debug, Args)]
pub struct WhoSeesArgs {
    /// What it is
    pub kind: WatchedKind,
    /// Its name
    pub name: String,
    /// List the rules, too
    #[arg(long)]
    pub explain: bool,
    /// Which node to ask, and how to answer.
    #[command(flatten)]
    pub query: QueryArgs,
}

/// What `who-sees` can look for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum WatchedKind {
    /// A shared context or channel.
    Context,
    /// A method or stream.
    Method,
    /// An application.
    App,
}

impl WatchedKind {
    const fn word(self) -> &'static str {
        match self {
            Self::Context => "context",
            Self::Method => "method",
            Self::App => "app",
        }
    }
}

/// Which node to ask, and how to answer.
#[derive(Clone, Debug, Args)]
pub struct QueryArgs {
    /// The data directory of the node to ask
    #[arg(long, value_name = "DIR")]
    pub data_dir: Option<PathBuf>,
    /// Answer with JSON, for programs
    #[arg(long)]
    pub json: bool,
}

/// How to run the demonstration.
#[derive(Clone, Debug, Args)]
pub struct DemoArgs {
    /// Stop after one round
    #[arg(long)]
    pub once: bool,
}

/// Looking at the configuration.
#[derive(Clone, Debug, Subcommand)]
pub enum ConfigCommand {
    /// Say whether the configuration is valid, and which files it was read from
    Check(ConfigArgs),
    /// Print every key with its value and where that came from
    Show(ConfigArgs),
}

/// Which configuration to look at.
#[derive(Clone, Debug, Args)]
pub struct ConfigArgs {
    /// Read this file after the usual ones
    #[arg(long, value_name = "FILE")]
    pub config: Option<PathBuf>,
}

/// Reads the command line. If there is nothing to run — help was asked for, or the line makes no sense —
/// that has been printed, and the exit code is returned.
pub fn parse<I, T>(arguments: I) -> Result<Cli, ExitCode>
where
    I: IntoIterator<Item = T>,
    T: Into<OsString> + Clone,
{
    Cli::try_parse_from(arguments).map_err(|error| {
        let complaint = Complaint::of(&error);
        match &complaint {
            Complaint::Help(text) => output::text(text),
            Complaint::NoCommand(text) => output::error_text(text),
            Complaint::Usage { problem, hint } => output::error(problem, hint),
        }
        ExitCode::from(complaint.exit_code())
    })
}

/// What to say instead of running a command.
#[derive(Debug, PartialEq, Eq)]
enum Complaint {
    Help(String),
    NoCommand(String),
    Usage { problem: String, hint: String },
}

impl Complaint {
    fn of(error: &clap::Error) -> Self {
        let text = error.render().to_string();
        match error.kind() {
            ErrorKind::DisplayHelp | ErrorKind::DisplayVersion => Self::Help(text),
            ErrorKind::DisplayHelpOnMissingArgumentOrSubcommand => Self::NoCommand(text),
            _ => Self::usage(&text),
        }
    }

    /// Makes our two lines of clap's several: the problem first, then its tips, or else the usage.
    fn usage(text: &str) -> Self {
        let mut lines = text.lines();
        let mut problem = lines.next().unwrap_or_default().trim_start_matches("error: ").to_owned();
        let mut hints = Vec::new();
        let mut usage = None;
        for line in lines.map(str::trim).filter(|line| !line.is_empty()) {
            if let Some(tip) = line.strip_prefix("tip: ") {
                hints.push(tip.to_owned());
            } else if let Some(line) = line.strip_prefix("Usage: ") {
                usage = Some(line.to_owned());
            } else if usage.is_none() && !line.starts_with("For more information") {
                problem.push(' ');
                problem.push_str(line);
            }
        }
        if hints.is_empty() {
            hints.extend(usage.map(|usage| format!("usage: {usage}")));
        }
        hints.push("`--help` explains the options".to_owned());
        Self::Usage { problem, hint: format!("{}.", hints.join("; ")) }
    }

    const fn exit_code(&self) -> u8 {
        match self {
            Self::Help(_) => output::EXIT_DONE,
            Self::NoCommand(_) | Self::Usage { .. } => output::EXIT_USAGE,
        }
    }
}

impl UpArgs {
    /// Returns what these options set.
    #[must_use]
    pub fn flags(&self) -> Flags {
        let listen: Vec<_> = self.listen.iter().map(SocketAddr::to_string).collect();
        let values = [
            ("data_dir", self.data_dir.as_ref().map(|dir| dir.to_string_lossy().into_owned())),
            ("listen", (!listen.is_empty()).then(|| listen.join(","))),
            ("mesh_listen", self.mesh_listen.map(|address| address.to_string())),
            ("join", self.join.clone()),
            ("name", self.name.clone()),
            ("user", self.user.clone()),
            ("telemetry.log", self.log.clone()),
        ];
        let given = values.into_iter().filter_map(|(path, value)| Some((path, value?)));
        Flags { config: self.config.clone(), values: given.collect() }
    }
}

impl Command {
    /// Runs this command, unless it starts a node: everything but `up` and `demo`.
    #[must_use]
    pub fn run_client(&self) -> Option<ExitCode> {
        let ask = |named: &Option<PathBuf>, ask: &dyn Fn(PathBuf) -> ExitCode| {
            config::data_dir(named.as_deref()).map_or_else(|error| error.report(), ask)
        };
        if let Some((query, args)) = self.query() {
            return Some(ask(&args.data_dir, &|dir| admin_client::run_query(query, &dir, args.json)));
        }
        match self {
            Self::Token(TokenCommand::Create(args)) => {
                Some(ask(&args.data_dir, &|dir| admin_client::run_token_create(&dir, args.ttl)))
            }
            Self::Token(TokenCommand::Service(args)) => {
                Some(ask(&args.data_dir, &|dir| admin_client::run_service_token(&dir, &args.user, args.ttl)))
            }
            Self::WhoSees(args) => Some(ask(&args.query.data_dir, &|dir| {
                admin_client::run_who_sees(&dir, args.kind.word(), &args.name, args.explain, args.query.json)
            })),
            Self::Reload(args) => Some(ask(&args.data_dir, &|dir| admin_client::run_reload(&dir, args.json))),
            Self::Config(ConfigCommand::Check(args)) => Some(config::run_check(args.config.clone())),
            Self::Config(ConfigCommand::Show(args)) => Some(config::run_show(args.config.clone())),
            _ => None,
        }
    }

    /// Returns the question that this command puts to a running node, if it does.
    #[must_use]
    pub fn query(&self) -> Option<(Query, &QueryArgs)> {
        match self {
            Self::Status(args) => Some((Query::Status, args)),
            Self::Peers(args) => Some((Query::Peers, args)),
            Self::Apps(args) => Some((Query::Apps, args)),
            Self::Methods(args) => Some((Query::Methods, args)),
            Self::Contexts(args) => Some((Query::Contexts, args)),
            _ => None,
        }
    }
}

/// Reads `90s`, `15m`, `2h` or `1d`.
fn parse_duration(text: &str) -> Result<Duration, String> {
    let wrong = || "a time is a number and one of s, m, h, d: 90s, 15m, 2h, 1d".to_owned();
    let at = text.find(|c: char| !c.is_ascii_digit()).ok_or_else(wrong)?;
    let (number, unit) = text.split_at(at);
    let seconds: u64 = match unit {
        "s" => 1,
        "m" => 60,
        "h" => 3_600,
        "d" => 86_400,
        _ => return Err(wrong()),
    };
    let number: u64 = number.parse().map_err(|_| wrong())?;
    match number.checked_mul(seconds) {
        Some(seconds @ 1..) => Ok(Duration::from_secs(seconds)),
        _ => Err(wrong()),
    }
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    fn parsed(line: &str) -> Result<Command, Complaint> {
        let arguments = std::iter::once("deskmesh").chain(line.split_whitespace());
        Cli::try_parse_from(arguments).map(|cli| cli.command).map_err(|error| Complaint::of(&error))
    }

    fn check_usage(line: &str, problem: &str, hint: &str) {
        let complaint = parsed(line).unwrap_err();
        assert_eq!(complaint.exit_code(), output::EXIT_USAGE);
        assert_eq!(complaint, Complaint::Usage { problem: problem.into(), hint: hint.into() }, "{line}");
    }

    #[test]
    fn the_definitions_agree_with_themselves() {
        Cli::command().debug_assert();
    }

    #[test]
    fn up_becomes_flags() {
        let line = "up --data-dir d --listen 127.0.0.1:0 --listen [::1]:0 --mesh-listen 0.0.0.0:1 --join T \
                    --config c.toml --name desk --user ann --log debug";
        let Ok(Command::Up(args)) = parsed(line) else { panic!("up") };
        let flags = args.flags();
        assert_eq!(flags.config, Some("c.toml".into()));
        let expected = [
            ("data_dir", "d"),
            ("listen", "127.0.0.1:0,[::1]:0"),
            ("mesh_listen", "0.0.0.0:1"),
            ("join", "T"),
            ("name", "desk"),
            ("user", "ann"),
            ("telemetry.log", "debug"),
        ];
        assert_eq!(flags.values, expected.map(|(path, value)| (path, value.to_owned())));
        assert!(UpArgs::default().flags().values.is_empty());
    }

    #[test]
    fn the_other_commands() {
        let (query, args) =
            parsed("apps --data-dir d --json").unwrap().query().map(|(q, a)| (q, a.clone())).unwrap();
        assert!(query == Query::Apps && args.json && args.data_dir == Some("d".into()));
        for line in ["status", "peers", "methods", "contexts"] {
            assert!(parsed(line).unwrap().query().is_some(), "{line}");
        }
        for line in ["demo --once", "config check", "config show --config f", "token create"] {
            assert!(parsed(line).unwrap().query().is_none(), "{line}");
        }
    }

    #[test]
    fn a_time_has_a_unit() {
        for (text, expected) in
            [("90s", Some(90)), ("15m", Some(900)), ("2h", Some(7_200)), ("1d", Some(86_400))]
        {
            assert_eq!(parse_duration(text).ok(), expected.map(Duration::from_secs));
        }
        for text in
            ["", "15", "m", "0m", "15 m", "-1m", "1.5h", "99999999999999999999d", "9999999999999999999d"]
        {
            assert!(parse_duration(text).is_err(), "{text}");
        }
    }

    #[test]
    fn what_makes_no_sense_gets_two_lines() {
        check_usage(
            "up --lisen 1",
            "unexpected argument '--lisen' found",
            "a similar argument exists: '--listen'; `--help` explains the options.",
        );
        check_usage(
            "statu",
            "unrecognized subcommand 'statu'",
            "a similar subcommand exists: 'status'; `--help` explains the options.",
        );
        check_usage(
            "up --listen here",
            "invalid value 'here' for '--listen <ADDR>': invalid socket address syntax",
            "`--help` explains the options.",
        );
        check_usage(
            "token create --ttl 15",
            "invalid value '15' for '--ttl <TIME>': a time is a number and one of s, m, h, d: 90s, 15m, 2h, 1d",
            "`--help` explains the options.",
        );
    }

    #[test]
    fn help_is_not_an_error() {
        for line in ["--help", "--version", "up --help", "token create -h"] {
            let complaint = parsed(line).unwrap_err();
            assert!(matches!(&complaint, Complaint::Help(text) if !text.is_empty()), "{line}");
            assert_eq!(complaint.exit_code(), output::EXIT_DONE);
        }
        for line in ["", "token", "config"] {
            let complaint = parsed(line).unwrap_err();
            assert!(matches!(complaint, Complaint::NoCommand(_)), "{line}: {complaint:?}");
            assert_eq!(complaint.exit_code(), output::EXIT_USAGE);
        }
    }
}
