//! The connection, its peers, and the domains of the protocol.

use std::collections::BTreeMap;

use mesh_model::limits::JsonLimits;
use mesh_model::{SessionId, Text};

/// A GW3 domain: which part of a client a message belongs to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
#[expect(missing_docs, reason = "the protocol's own names")]
pub enum Domain {
    Global,
    Agm,
    Bus,
    Metrics,
    Context,
    Activity,
}

impl Domain {
    pub(crate) const ALL: [Self; 6] =
        [Self::Agm, Self::Activity, Self::Global, Self::Bus, Self::Context, Self::Metrics];

    /// Returns the domain's name on the wire.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Global => "global",
            Self::Agm => "agm",
            Self::Bus => "bus",
            Self::Metrics => "metrics",
            Self::Context => "context",
            Self::Activity => "activity",
        }
    }

    pub(crate) fn parse(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|domain| domain.name() == name)
    }

    pub(crate) const fn face(self) -> u8 {
        self as u8
    }

    pub(crate) fn of_face(face: u8) -> Self {
        Self::ALL.into_iter().find(|domain| domain.face() == face).unwrap_or(Self::Global)
    }

    /// Returns the version that clients read: `context` must be exactly 2, or path deltas are off.
    pub(crate) const fn version(self) -> u8 {
        match self {
            Self::Context | Self::Activity => 2,
            Self::Global | Self::Agm | Self::Bus | Self::Metrics => 1,
        }
    }
}

/// What a connection knows: the peers that have logged in on it.
#[derive(Debug, Default)]
pub struct Connection {
    pub(crate) peers: BTreeMap<Text, SessionId>,
    pub(crate) sessions: BTreeMap<SessionId, Peer>,
    /// What its messages may be like.
    pub(crate) limits: JsonLimits,
}

/// One logged-in peer of a connection.
#[derive(Debug, Default)]
pub(crate) struct Peer {
    pub(crate) id: Text,
    /// Given to the client in its welcome, to log in with again.
    pub(crate) access_token: Option<Text>,
    /// Whether it joined the domain `context`, and so wants context pushes there.
    pub(crate) in_context_domain: bool,
}

impl Connection {
    /// Returns a connection on which nobody has logged in.
    #[must_use]
    pub fn new(limits: JsonLimits) -> Self {
        Self { limits, ..Self::default() }
    }

    /// Notes the token that a session will be given with its welcome.
    pub fn will_attach(&mut self, session: SessionId, access_token: Option<Text>) {
        self.sessions.insert(session, Peer { access_token, ..Peer::default() });
    }

    /// Forgets a session if its login has not led to a welcome, and returns whether it did so.
    pub fn forget_refused(&mut self, session: SessionId) -> bool {
        let refused = self.sessions.get(&session).is_some_and(|peer| peer.id.is_empty());
        if refused {
            self.sessions.remove(&session);
        }
        refused
    }

    /// Returns the sessions that have logged in, or are about to.
    pub fn sessions(&self) -> impl Iterator<Item = SessionId> + '_ {
        self.sessions.keys().copied()
    }
}
