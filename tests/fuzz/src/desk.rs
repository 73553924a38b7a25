//! A desktop agent at one node of a mesh, with the connections of its apps: what the targets that send FDC3
//! frames have in common.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use fdc3_agent::{Admission, Agent, ConnectionId, Limits, Output, Refused, Settings, Time};
use fdc3_directory::Directory;
use mesh_core::{Input, Node};
use mesh_model::limits::JsonLimits;
use mesh_model::{Event, Json, SessionId, Text};
use proto_dacp::Hello;

use crate::mesh::Mesh;

/// A connection of an app.
#[derive(Default)]
pub(crate) struct Line {
    /// Its number at its agent, while it is open.
    pub(crate) id: Option<ConnectionId>,
    /// Which instance it is, once it was let in.
    pub(crate) instance: Option<Text>,
    /// Its first frame has been answered.
    pub(crate) welcomed: bool,
    /// The last frame from it was a broadcast that is being handled.
    pub(crate) broadcasts: bool,
}

/// What proves each instance, as far as anybody was told.
pub(crate) type Secrets = BTreeMap<Text, Text>;

pub(crate) struct Desk {
    pub(crate) agent: Agent,
    pub(crate) session: SessionId,
    pub(crate) sessions: BTreeSet<SessionId>,
    pub(crate) lines: Vec<Line>,
}

impl Desk {
    /// Starts the agent of a node, which has this app directory.
    pub(crate) fn new(
        node: usize,
        limits: Limits,
        directory: Arc<Directory>,
        session: SessionId,
        lines: usize,
        now: Time,
    ) -> Self {
        let key = u8::try_from(node).unwrap_or(9);
        let settings = Settings {
            node: format!("node{node}").into(),
            user: "joe".into(),
            version: "1".into(),
            secret: [key; 32],
            instance_key: [key + 100; 32],
            json: JsonLimits::default(),
            limits,
        };
        Self {
            agent: Agent::new(settings, session, directory, now),
            session,
            sessions: BTreeSet::from([session]),
            lines: (0..lines).map(|_| Line::default()).collect(),
        }
    }

    pub(crate) fn line(&mut self, connection: ConnectionId) -> Option<&mut Line> {
        self.lines.iter_mut().find(|line| line.id == Some(connection))
    }

    /// Opens a connection with this first frame.
    pub(crate) fn connect(
        &mut self,
        at: usize,
        (id, session): (ConnectionId, SessionId),
        hello: &Hello,
        admission: &Admission,
        now: Time,
    ) -> Result<(), Refused> {
        self.lines[at] = Line { id: Some(id), ..Line::default() };
        let connected = self.agent.connect(id, session, hello, admission, now);
        match connected {
            Ok(()) => drop(self.sessions.insert(session)),
            Err(_) => self.lines[at] = Line::default(),
        }
        connected
    }

    /// The node tells one of the agent's sessions something.
    pub(crate) fn event(&mut self, session: SessionId, event: Event, now: Time) {
        if self.sessions.contains(&session) {
            self.agent.event(session, event, now);
        }
    }

    /// Does what the agent wants of its node; returns what it wants of others.
    pub(crate) fn obey(&mut self, node: usize, mesh: &mut Mesh, output: Output) -> Option<Output> {
        match output {
            Output::Command(session, command) => mesh.input(node, Input::Session { session, command }),
            Output::CloseSession(session) => {
                assert!(self.sessions.remove(&session), "a session that is not open is closed");
                mesh.input(node, Input::SessionClosed { session, heard: None });
            }
            other => return Some(other),
        }
        None
    }

    pub(crate) fn due(&mut self, now: Time) {
        if self.agent.poll_timeout().is_some_and(|at| at <= now.ms) {
            self.agent.handle_timeout(now);
        }
    }

    /// Checks that nothing is left of apps that have all gone.
    pub(crate) fn check_empty(&self, node: &Node) {
        let text = format!("{:?}", self.agent);
        for table in
            ["apps", "connections", "sessions", "openings", "raises", "owed", "pending", "casting", "servers"]
        {
            let at = text.find(&format!(" {table}: ")).expect("a table");
            let rest = &text[at..];
            let shown: String = rest.chars().take(600).collect();
            assert!(rest.starts_with(&format!(" {table}: {{}}")), "{table} is not empty: {shown}");
        }
        assert!(!text.contains("Private("), "a private channel is left");
        assert_eq!(text.matches("waiting: []").count(), text.matches("waiting: [").count());
        assert_eq!(self.sessions, BTreeSet::from([self.session]));
        let status = node.status();
        assert_eq!((status.sessions, status.calls_pending), (1, 0), "{status:?}");
    }
}

pub(crate) fn directory(text: &str) -> Arc<Directory> {
    let mut directory = Directory::default();
    directory.replace("fuzz", fdc3_directory::parse(text.as_bytes()).expect("a directory").records);
    Arc::new(directory)
}

pub(crate) fn time(mesh: &Mesh) -> Time {
    Time { ms: mesh.now.tick.0 / 1_000, wall_ms: mesh.now.wall_ms }
}

/// Returns who an app is told to be, and what proves it, if this frame welcomes it.
pub(crate) fn welcome(name: &str, payload: &Json) -> Option<(Text, Option<Text>)> {
    if !matches!(name, "WCP5ValidateAppIdentityResponse" | "WSCPDesktopAgentConnect") {
        return None;
    }
    let about = payload.member("implementationMetadata").and_then(|about| about.member("appMetadata"));
    let instance = about.and_then(|about| about.member("instanceId")?.as_text()).expect("an instance");
    Some((instance, payload.member("instanceUuid").and_then(|secret| secret.as_text())))
}

/// Checks that an app is not told what proves another.
pub(crate) fn check_secrets(secrets: &Secrets, me: Option<&Text>, text: &str) {
    for (instance, secret) in secrets {
        let is_told = memchr::memmem::find(text.as_bytes(), secret.as_bytes()).is_some();
        assert!(!is_told || me == Some(instance), "{me:?} is told the secret of {instance}: {text}");
    }
}
