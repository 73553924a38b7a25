//! The launcher pages: what they are told, and what they ask for.
//!
//! A launcher is a page of this node in somebody's browser, the only thing that can open the windows of
//! web apps. It says what it wants, and is told what there is, in JSON; see `desktop.js`.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bytes::Bytes;
use fdc3_agent::{Agent, Asked};
use mesh_model::Json;
use proto_dacp::{Object, array};

use super::service::Desktop;
use crate::local::websocket::CloseWith;
use crate::outbox::{Item, Outbox};

/// The launchers that are open, the latest last.
#[derive(Debug, Default)]
pub(crate) struct Launchers {
    open: Mutex<Vec<(u64, Arc<Outbox>)>>,
    next: AtomicU64,
    /// What all have been told last of apps and instances.
    told: Mutex<[Bytes; 2]>,
}

impl Launchers {
    fn lock(&self) -> MutexGuard<'_, Vec<(u64, Arc<Outbox>)>> {
        self.open.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn told(&self) -> MutexGuard<'_, [Bytes; 2]> {
        self.told.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Adds a launcher that has just come, and tells it what there is.
    fn add(&self, outbox: &Arc<Outbox>, agent: &Agent) -> u64 {
        let id = self.next.fetch_add(1, Ordering::Relaxed);
        let now = [apps(agent), instances(agent)];
        for frame in &now {
            outbox.push(Item::Frame(frame.clone()));
        }
        // Nobody has been told what changed while there was none.
        if self.lock().is_empty() {
            *self.told() = now;
        }
        self.lock().push((id, outbox.clone()));
        id
    }

    pub(crate) fn remove(&self, id: u64) {
        self.lock().retain(|(other, _)| *other != id);
    }

    /// Has the window of a web app opened by the latest launcher. Returns whether there is one.
    pub(crate) fn open(&self, instance: &str, secret: &str, url: &str) -> bool {
        let message = Object::new()
            .text("type", "open")
            .text("instanceId", instance)
            .text("url", url)
            .text("launchKey", secret)
            .end();
        let open = self.lock();
        if open.is_empty() {
            tracing::warn!(url, "a web app was not started: no launcher page is open (/fdc3/desktop)");
        }
        open.last().map(|(_, outbox)| outbox.push(Item::Frame(message.as_bytes().clone()))).is_some()
    }

    /// Has the window of an app closed by the launcher that opened it. Returns whether there is any.
    pub(crate) fn close_window(&self, instance: &str) -> bool {
        let message = Object::new().text("type", "close").text("instanceId", instance).end();
        self.tell(message.as_bytes());
        !self.lock().is_empty()
    }

    pub(crate) fn close(&self, with: &CloseWith) {
        for (_, outbox) in &*self.lock() {
            outbox.push(Item::Close(with.clone()));
        }
    }

    fn tell(&self, frame: &Bytes) {
        for (_, outbox) in &*self.lock() {
            outbox.push(Item::Frame(frame.clone()));
        }
    }

    /// Has all launchers show a sentence.
    pub(crate) fn show_problem(&self, problem: &str) {
        self.tell(&error(problem));
    }

    /// Tells all launchers what is other than before. A page shows anew what it is told, beneath the pointer of
    /// whoever is about to click.
    pub(crate) fn show(&self, agent: &Agent) {
        if self.lock().is_empty() {
            return;
        }
        let mut told = self.told();
        for (last, now) in told.iter_mut().zip([apps(agent), instances(agent)]) {
            if *last != now {
                self.tell(&now);
                *last = now;
            }
        }
    }
}

fn error(problem: &str) -> Bytes {
    Object::new().text("type", "error").text("message", problem).end().as_bytes().clone()
}

/// Writes what a launcher is told of the apps.
pub(crate) fn apps(agent: &Agent) -> Bytes {
    let apps: Vec<Json> = agent
        .apps()
        .into_iter()
        .map(|app| {
            let text = |name: &str| app.metadata.member(name);
            let icon =
                app.metadata.member("icons").and_then(|icons| icons.elements()?.first()?.member("src"));
            Object::new()
                .text("appId", &app.app_id)
                .json("title", &text("title").unwrap_or_else(|| Json::string(&app.app_id)))
                .some("description", text("description").as_ref())
                .some("icon", icon.as_ref())
                .some_text("url", app.url.as_deref())
                .text("node", &app.node)
                .end()
        })
        .collect();
    let message = Object::new().text("type", "apps").text("node", agent.node()).json("apps", &array(&apps));
    let channels: Vec<Json> = agent.channels().iter().map(shown_channel).collect();
    let message = message.json("channels", &array(&channels)).end();
    message.as_bytes().clone()
}

fn shown_channel(channel: &Json) -> Json {
    let display = channel.member("displayMetadata").unwrap_or_else(|| Json::from_static("{}"));
    Object::new()
        .some("id", channel.member("id").as_ref())
        .some("name", display.member("name").or_else(|| channel.member("id")).as_ref())
        .some("color", display.member("color").as_ref())
        .end()
}

/// Writes what a launcher is told of the running apps.
pub(crate) fn instances(agent: &Agent) -> Bytes {
    let instances: Vec<Json> = agent
        .instances()
        .into_iter()
        .map(|running| {
            let channel = running.channel.as_ref().map(shown_channel);
            let title = running.metadata.member("title").unwrap_or_else(|| Json::string(&running.app_id));
            Object::new()
                .text("appId", &running.app_id)
                .json("title", &title)
                .text("instanceId", &running.instance)
                .text("node", agent.node())
                .or_null("channel", channel.as_ref())
                .text("state", if running.connected { "connected" } else { "starting" })
                .end()
        })
        .collect();
    Object::new().text("type", "instances").json("instances", &array(&instances)).end().as_bytes().clone()
}

impl Desktop {
    /// Does what a launcher asks for. Returns what to answer.
    pub(crate) fn launcher_asks(&self, frame: &Bytes) -> Option<Bytes> {
        let now = self.now();
        match self.with(|agent| agent.launcher_asks(frame, now)).0 {
            Asked::Done => None,
            Asked::Problem(problem) => Some(error(&problem)),
            Asked::Blocked(url) => {
                tracing::warn!(%url, "the browser did not let the launcher open a window: allow pop-ups for it");
                None
            }
        }
    }

    /// Adds a launcher that has just come, and tells it what there is.
    pub(crate) fn add_launcher(&self, outbox: &Arc<Outbox>) -> u64 {
        self.with(|agent| self.launchers.add(outbox, agent)).0
    }
}
