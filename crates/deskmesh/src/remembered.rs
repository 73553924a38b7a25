//! Who is connected, on disk: so that the clients of a node that was killed are known again when it is back.
//!
//! The file says who had which instance name. What a client knew of its contexts is not in it, so all
//! that the new life of the node holds counts as news to those who return.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, UNIX_EPOCH};

use mesh_core::{Input, Recognition};
use mesh_model::{Json, Text};
use serde::{Deserialize, Serialize};

use crate::gateway::Gateway;
use crate::owner;

/// The shortest time between two writes of the file: a millisecond per session in it, within these. Who
/// came in this time before a crash is a stranger after it.
const PAUSE_SHORTEST: Duration = Duration::from_millis(10);
const PAUSE_LONGEST: Duration = Duration::from_secs(1);
/// How often the file is marked, so that its time tells until when the node was alive.
const ALIVE_EVERY: Duration = Duration::from_secs(10);

/// A session as it is remembered.
#[derive(Serialize, Deserialize)]
struct Remembered {
    user: Option<String>,
    /// What its client said of itself, as JSON text.
    identity: String,
    instance: String,
    /// When it was cut off, in milliseconds since 1970, unless it was still here.
    gone_wall_ms: Option<u64>,
}

/// Tells the core whom the former life of this node knew.
pub(crate) fn restore(gateway: &Gateway, dir: &Path) {
    let file = file_in(dir);
    let now = gateway.clock.wall_ms();
    let alive = std::fs::metadata(&file).and_then(|metadata| metadata.modified()).ok();
    let alive = alive.and_then(|at| at.duration_since(UNIX_EPOCH).ok());
    let alive_wall_ms = alive.map_or(0, |since| u64::try_from(since.as_millis()).unwrap_or(u64::MAX));
    for known in read(&file) {
        let Ok(identity) = Json::parse(known.identity.into()) else { continue };
        let recognition = Recognition {
            user: known.user.map(Text::from),
            identity,
            instance: Text::from(known.instance),
            away_ms: now.saturating_sub(known.gone_wall_ms.unwrap_or(alive_wall_ms)),
        };
        gateway.input(Input::SessionRemembered(recognition));
    }
}

/// Keeps the file up to date until the program ends.
pub(crate) async fn run(gateway: Arc<Gateway>, dir: PathBuf) {
    loop {
        let sessions = save(&gateway, &dir);
        // A crowd that comes at once is written in a few steps.
        let pause = Duration::from_millis(sessions as u64).clamp(PAUSE_SHORTEST, PAUSE_LONGEST);
        tokio::time::sleep(pause).await;
        loop {
            tokio::select! {
                () = gateway.recognitions_changed.notified() => break,
                () = tokio::time::sleep(ALIVE_EVERY), if sessions > 0 => mark_alive(&gateway, &dir),
            }
        }
    }
}

/// Writes the file and returns how many sessions are in it.
pub(crate) fn save(gateway: &Gateway, dir: &Path) -> usize {
    let now = gateway.clock.wall_ms();
    let known = gateway.look(|node| node.recognitions());
    let all: Vec<Remembered> = known
        .iter()
        .map(|known| Remembered {
            user: known.user.as_ref().map(ToString::to_string),
            identity: known.identity.to_string(),
            instance: known.instance.to_string(),
            gone_wall_ms: (known.away_ms > 0).then(|| now.saturating_sub(known.away_ms)),
        })
        .collect();
    let file = file_in(dir);
    let written = serde_json::to_vec_pretty(&all)
        .map_err(std::io::Error::other)
        .and_then(|bytes| owner::replace_private(&file, &bytes));
    if let Err(error) = written {
        tracing::warn!(%error, file = %file.display(), "who is connected could not be saved; after a crash, apps get new instance ids");
    }
    all.len()
}

fn mark_alive(gateway: &Gateway, dir: &Path) {
    let now = UNIX_EPOCH + Duration::from_millis(gateway.clock.wall_ms());
    let marked =
        std::fs::File::options().write(true).open(file_in(dir)).and_then(|file| file.set_modified(now));
    if let Err(error) = marked {
        tracing::debug!(%error, "the file of sessions could not be marked");
    }
}

fn read(file: &Path) -> Vec<Remembered> {
    std::fs::read(file).ok().and_then(|bytes| serde_json::from_slice(&bytes).ok()).unwrap_or_default()
}

fn file_in(dir: &Path) -> PathBuf {
    dir.join("sessions.json")
}
