//! Asking a running node, and the words of its answers.
//!
//! A node writes [`NodeFile`] into its data directory when it is up, readable by its owner alone, with
//! the address of its local endpoint and a secret that is new in each life. Whoever can read the file
//! may ask; nobody else on the machine can. The conversation is one HTTP/1.1 request on a connection of
//! its own:
//!
//! ```text
//! GET  /admin/v1/{status,peers,apps,methods,contexts}     Authorization: Bearer <secret>
//! GET  /admin/v1/who-sees?kind=context&name=…
//! POST /admin/v1/token?ttl_s=900
//! POST /admin/v1/service-token?user=…&ttl_s=…
//! POST /admin/v1/reload
//! ```
//!
//! The node builds its answers from the same row types that this side reads.

mod asking;
mod node_file;
mod rows;

use std::fmt;
use std::path::Path;
use std::process::ExitCode;
use std::time::Duration;

use crate::output;
use crate::reload::Reloaded;
use crate::who_sees::Sights;

pub use asking::{AdminError, ask};
pub use node_file::NodeFile;
pub use rows::{AppRow, ContextRow, MethodRow, PeerRow, Status, TokenAnswer};

use asking::{text, understood};

/// What can be asked about a node.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Query {
    /// The node itself: a [`Status`].
    Status,
    /// The nodes it knows: [`PeerRow`]s.
    Peers,
    /// The applications: [`AppRow`]s.
    Apps,
    /// What they offer: [`MethodRow`]s.
    Methods,
    /// The shared contexts: [`ContextRow`]s.
    Contexts,
}

impl Query {
    /// Returns where it is asked.
    #[must_use]
    pub const fn path(self) -> &'static str {
        match self {
            Self::Status => "/admin/v1/status",
            Self::Peers => "/admin/v1/peers",
            Self::Apps => "/admin/v1/apps",
            Self::Methods => "/admin/v1/methods",
            Self::Contexts => "/admin/v1/contexts",
        }
    }
}

/// Asks the node of a data directory, and prints the answer.
#[must_use]
pub fn run_query(query: Query, data_dir: &Path, json: bool) -> ExitCode {
    let answered = ask(data_dir, "GET", query.path()).and_then(|body| {
        let body = text(body)?;
        if json {
            serde_json::from_str::<serde::de::IgnoredAny>(&body).map_err(AdminError::NotUnderstood)?;
            output::json(body.trim_end());
        } else {
            output::text(&query.rendered(&body)?);
        }
        Ok(())
    });
    exit(answered, data_dir)
}

/// Has the node of a data directory make a token, and prints the token alone.
#[must_use]
pub fn run_token_create(data_dir: &Path, ttl: Duration) -> ExitCode {
    let path = format!("/admin/v1/token?ttl_s={}", ttl.as_secs());
    let answered = ask(data_dir, "POST", &path).and_then(|body| {
        let answer: TokenAnswer = understood(&text(body)?)?;
        output::line(&answer.token);
        Ok(())
    });
    exit(answered, data_dir)
}

/// Has the node of a data directory make a token for a service, and prints the token alone.
#[must_use]
pub fn run_service_token(data_dir: &Path, user: &str, ttl: Duration) -> ExitCode {
    let path = format!("/admin/v1/service-token?user={}&ttl_s={}", escaped(user), ttl.as_secs());
    let answered = ask(data_dir, "POST", &path).and_then(|body| {
        let answer: TokenAnswer = understood(&text(body)?)?;
        output::line(&answer.token);
        Ok(())
    });
    exit(answered, data_dir)
}

/// Has the node of a data directory read its configuration again, and says what has changed.
#[must_use]
pub fn run_reload(data_dir: &Path, json: bool) -> ExitCode {
    let answered = ask(data_dir, "POST", "/admin/v1/reload").and_then(|body| {
        let body = text(body)?;
        match json {
            true => output::json(body.trim_end()),
            false => understood::<Reloaded>(&body)?.print(),
        }
        Ok(())
    });
    exit(answered, data_dir)
}

/// Asks the node of a data directory who sees something, and prints the answer.
#[must_use]
pub fn run_who_sees(data_dir: &Path, kind: &str, name: &str, explain: bool, json: bool) -> ExitCode {
    let path = format!("/admin/v1/who-sees?kind={kind}&name={}", escaped(name));
    let answered = ask(data_dir, "GET", &path).and_then(|body| {
        let body = text(body)?;
        match json {
            true => output::json(body.trim_end()),
            false => output::text(&understood::<Sights>(&body)?.render(name, explain)),
        }
        Ok(())
    });
    exit(answered, data_dir)
}

fn escaped(text: &str) -> impl fmt::Display {
    percent_encoding::utf8_percent_encode(text, percent_encoding::NON_ALPHANUMERIC)
}

fn exit(answered: Result<(), AdminError>, data_dir: &Path) -> ExitCode {
    match answered {
        Ok(()) => ExitCode::from(output::EXIT_DONE),
        Err(error) => {
            output::error_chain(&error, &error.hint(data_dir));
            ExitCode::from(error.exit_code())
        }
    }
}
