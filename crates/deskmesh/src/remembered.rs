//! Who is connected, on disk: so that the clients of a node that was killed are known again when it is back.
//!
//! The file says who had which instance name, a line each. What a client knew of its contexts is not in it,
//! so all that the others have written counts as news to those who return. A login adds its line
//! before it is answered; now and then the file is written anew.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use mesh_core::{Input, Recognition};
use mesh_model::{Json, SessionId, Text};
use serde::{Deserialize, Serialize};

use crate::gateway::Gateway;
use crate::owner;

/// The shortest time between two times that the file is written anew.
const REWRITE_EVERY: Duration = Duration::from_secs(1);

/// A session as it is remembered: a line of the file.
#[derive(Serialize, Deserialize)]
struct Remembered {
    user: Option<String>,
    /// What its client said of itself, as JSON text.
    identity: String,
    instance: String,
    /// For how long it had been away, in milliseconds; 0 while it was here. Time while there is no node is
    /// not counted: nobody can return then, and a wall clock may have been set meanwhile.
    #[serde(default)]
    away_ms: u64,
}

/// The file of those who are, or were, connected.
#[derive(Debug)]
pub(crate) struct SessionsFile {
    path: PathBuf,
    /// Where lines are added. Held while the file is written anew, so that none is lost between the two.
    end: Mutex<Option<File>>,
}

impl SessionsFile {
    pub(crate) fn in_dir(dir: &Path) -> Self {
        Self { path: dir.join("sessions.json"), end: Mutex::default() }
    }

    /// Tells the core whom the former life of this node knew.
    pub(crate) fn restore(&self, gateway: &Gateway) {
        for known in parse(&std::fs::read_to_string(&self.path).unwrap_or_default()) {
            let Ok(identity) = Json::parse(known.identity.into()) else { continue };
            gateway.input(Input::SessionRemembered(Recognition {
                user: known.user.map(Text::from),
                identity,
                instance: Text::from(known.instance),
                away_ms: known.away_ms,
            }));
        }
    }

    /// Keeps the file up to date until the program ends.
    pub(crate) async fn run(gateway: Arc<Gateway>) {
        let Some(file) = gateway.sessions_file() else { return };
        loop {
            file.rewrite(&gateway);
            tokio::time::sleep(REWRITE_EVERY).await;
            gateway.recognitions_changed.notified().await;
        }
    }

    /// Adds a session that has just come.
    pub(crate) fn add(&self, gateway: &Gateway, session: SessionId) {
        let Some(known) = gateway.look(|node| node.recognition_of(session)) else { return };
        let line = line(&known);
        if let Some(end) = &mut *self.end()
            && let Err(error) = end.write_all(&line)
        {
            self.complain(&error);
        }
    }

    /// Writes the file anew.
    pub(crate) fn rewrite(&self, gateway: &Gateway) {
        let mut end = self.end();
        let lines: Vec<u8> = gateway.look(|node| node.recognitions()).iter().flat_map(line).collect();
        match owner::replace_private(&self.path, &lines) {
            Ok(file) => *end = Some(file),
            Err(error) => self.complain(&error),
        }
    }

    fn complain(&self, error: &io::Error) {
        let file = self.path.display();
        tracing::warn!(%error, %file, "who is connected could not be saved; after a crash, apps get new instance ids");
    }

    fn end(&self) -> MutexGuard<'_, Option<File>> {
        self.end.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn line(known: &Recognition) -> Vec<u8> {
    let remembered = Remembered {
        user: known.user.as_ref().map(ToString::to_string),
        identity: known.identity.to_string(),
        instance: known.instance.to_string(),
        away_ms: known.away_ms,
    };
    let mut line = serde_json::to_vec(&remembered).unwrap_or_default();
    line.push(b'\n');
    line
}

/// Reads the lines. Of two with one instance name the last counts, and one that was cut short does not.
fn parse(text: &str) -> Vec<Remembered> {
    let lines: Vec<Remembered> = text.lines().filter_map(|line| serde_json::from_str(line).ok()).collect();
    let last: BTreeMap<String, usize> =
        lines.iter().enumerate().map(|(at, known)| (known.instance.clone(), at)).collect();
    lines
        .into_iter()
        .enumerate()
        .filter(|(at, known)| last[&known.instance] == *at)
        .map(|(_, known)| known)
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_are_read_as_they_were_written() {
        let known = |instance: &str, away_ms| Recognition {
            user: Some("joe \"x\"".into()),
            identity: Json::parse("{\"application\":\"a\\nb\"}".into()).unwrap(),
            instance: instance.into(),
            away_ms,
        };
        let all = [known("i-1", 0), known("i-2", 5), known("i-1", 7)];
        let mut text: Vec<u8> = all.iter().flat_map(line).collect();
        text.extend_from_slice(&line(&known("i-3", 0))[..20]);
        let read = parse(std::str::from_utf8(&text).unwrap());
        let seen: Vec<_> = read.iter().map(|known| (known.instance.as_str(), known.away_ms)).collect();
        assert_eq!(seen, [("i-2", 5), ("i-1", 7)]);
        assert_eq!(read[0].user.as_deref(), Some("joe \"x\""));
        assert_eq!(read[0].identity, "{\"application\":\"a\\nb\"}");
    }
}
