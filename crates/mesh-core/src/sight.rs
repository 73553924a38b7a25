//! Who sees what, and why not: for an operator who asks.

use mesh_model::{Area, Json, SessionId, Text};

use crate::context::SharedContext;
use crate::key::{ContextKey, UserKey};
use crate::node::Node;
use crate::party::Party;
use crate::registry::RemoteInstance;
use crate::session::Session;
use crate::visibility::{Scope, Verdict};

/// What is asked about, by name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Watched {
    /// A shared context.
    Context(Text),
    /// A method or stream.
    Method(Text),
    /// An application.
    App(Text),
}

/// One thing of that name, and who sees it.
#[derive(Clone, Debug)]
pub struct SightView {
    /// Whose it is: a context's user, the application that offers a method, the application itself.
    pub owner: Text,
    /// The node it is on; for a context, the one that was asked.
    pub node: Text,
    /// In which area, if it is about one alone.
    pub area: Option<Area>,
    /// What this node's lists say of it; `None` if another node decides.
    pub verdict: Option<Verdict>,
    /// The apps that see it.
    pub seen_by: Vec<Onlooker>,
    /// The apps of the same user that do not.
    pub hidden_from: Vec<(Onlooker, &'static str)>,
}

/// An app that sees something or not.
#[derive(Clone, Debug)]
#[expect(missing_docs, reason = "the words say it")]
pub struct Onlooker {
    pub application: Text,
    pub instance: Text,
    pub node: Text,
}

const BY_LISTS: &str = "the visibility lists keep it on its node";
const BY_RESTRICTION: &str = "a restriction is not fulfilled";
const BY_PERMISSION: &str = "its read permissions do not allow it";
const NOT_JOINED: &str = "it has not joined";

impl SightView {
    fn new(owner: &Text, node: &Text, area: Option<Area>, verdict: Option<Verdict>) -> Self {
        let (owner, node) = (owner.clone(), node.clone());
        Self { owner, node, area, verdict, seen_by: Vec::new(), hidden_from: Vec::new() }
    }

    fn add(&mut self, onlooker: Onlooker, obstacle: Option<&'static str>) {
        match obstacle {
            None => self.seen_by.push(onlooker),
            Some(why) => self.hidden_from.push((onlooker, why)),
        }
    }
}

impl Node {
    /// Returns what there is of a name, and who sees it.
    #[must_use]
    pub fn who_sees(&self, watched: &Watched) -> Vec<SightView> {
        match watched {
            Watched::Context(name) => {
                let of_name = self.contexts.iter().filter(|(key, _)| key.name == *name);
                of_name.map(|(key, context)| self.context_sight(key, context)).collect()
            }
            Watched::Method(name) => {
                let here = self.sessions.iter().filter_map(|(id, own)| self.method_sight(*id, own, name));
                let rows = self.remote.iter().filter(|(_, row)| self.is_shown(row));
                here.chain(rows.filter_map(|(id, row)| self.remote_method_sight(id, row, name))).collect()
            }
            Watched::App(name) => {
                let of_name = self.sessions.iter().filter(|(_, own)| own.application == *name);
                of_name
                    .flat_map(|(id, own)| {
                        [Area::Interop, Area::Bus].map(|area| self.app_sight(*id, own, area))
                    })
                    .collect()
            }
        }
    }

    fn context_sight(&self, key: &ContextKey, context: &SharedContext) -> SightView {
        let verdict = self.settings.visibility.context(&key.name);
        let user = key.user.user().unwrap_or_default();
        let mut view = SightView::new(&user, &self.settings.name, None, Some(verdict));
        let obstacle = |instance: &Text, identity: &Json| {
            (!context.may_be_read_by(instance, identity)).then_some(BY_PERMISSION)
        };
        for own in self.sessions.values().filter(|own| own.user == key.user) {
            view.add(self.onlooker(own), obstacle(&own.instance, &own.identity));
        }
        for (instance, row) in self.rows_of(&key.user) {
            let hidden = (verdict.scope == Scope::Local).then_some(BY_LISTS);
            view.add(
                self.remote_onlooker(instance, row),
                hidden.or_else(|| obstacle(instance, &row.identity)),
            );
        }
        view
    }

    fn method_sight(&self, id: SessionId, own: &Session, name: &Text) -> Option<SightView> {
        let method = own.methods.values().find(|method| method.name == *name)?;
        let verdict = self.settings.visibility.method(name, &own.identity);
        let mut view = SightView::new(&own.application, &self.settings.name, None, Some(verdict));
        let obstacle = |party: Party<'_>| {
            let allowed = own.party().sees(party) && method.is_for(&own.identity, party.identity);
            (!allowed).then_some(BY_RESTRICTION)
        };
        for session in self.others(id) {
            if in_reach(own.party(), session.party()) {
                let absent = (!session.interop).then_some(NOT_JOINED);
                view.add(self.onlooker(session), absent.or_else(|| obstacle(session.party())));
            }
        }
        for (instance, row) in self.remote.iter().filter(|(_, row)| self.is_shown(row)) {
            if in_reach(own.party(), row.party()) {
                let hidden = (method.local || own.interop_local).then_some(BY_LISTS);
                view.add(self.remote_onlooker(instance, row), hidden.or_else(|| obstacle(row.party())));
            }
        }
        Some(view)
    }

    fn remote_method_sight(&self, instance: &Text, row: &RemoteInstance, name: &Text) -> Option<SightView> {
        let method = row.methods.values().find(|method| method.name == *name)?;
        let provider = self.remote_onlooker(instance, row);
        let mut view = SightView::new(&provider.application, &provider.node, None, None);
        for session in self.sessions.values().filter(|session| in_reach(row.party(), session.party())) {
            let allowed =
                row.party().sees(session.party()) && method.is_for(&row.identity, &session.identity);
            let obstacle = match session {
                Session { interop: false, .. } => Some(NOT_JOINED),
                Session { interop_local: true, .. } => Some(BY_LISTS),
                _ => (!allowed).then_some(BY_RESTRICTION),
            };
            view.add(self.onlooker(session), obstacle);
        }
        Some(view)
    }

    fn app_sight(&self, id: SessionId, own: &Session, area: Area) -> SightView {
        let verdict = self.settings.visibility.peer(area, &own.identity);
        let mut view = SightView::new(&own.application, &self.settings.name, Some(area), Some(verdict));
        let party = |session: &'_ Session| match area {
            Area::Interop => (session.interop, session.party().sees(own.party())),
            Area::Bus => (session.bus, session.bus_party().sees(own.bus_party())),
        };
        for session in self.others(id) {
            if in_reach(own.party(), session.party()) {
                let obstacle = match party(session) {
                    (false, _) => Some(NOT_JOINED),
                    (true, false) => Some(BY_RESTRICTION),
                    (true, true) => None,
                };
                view.add(self.onlooker(session), obstacle);
            }
        }
        for (instance, row) in self.remote.iter().filter(|(_, row)| self.is_shown(row)) {
            if in_reach(own.party(), row.party()) {
                let hidden = (verdict.scope == Scope::Local).then_some(BY_LISTS);
                // How others joined the bus is known to their node alone.
                let sees = area == Area::Bus || own.party().sees(row.party());
                view.add(self.remote_onlooker(instance, row), hidden.or((!sees).then_some(BY_RESTRICTION)));
            }
        }
        view
    }

    fn others(&self, id: SessionId) -> impl Iterator<Item = &Session> {
        self.sessions.iter().filter(move |(other, _)| **other != id).map(|(_, session)| session)
    }

    fn is_shown(&self, row: &RemoteInstance) -> bool {
        self.nodes.get(&row.node).is_some_and(|node| node.shown)
    }

    fn rows_of<'a>(&'a self, user: &'a UserKey) -> impl Iterator<Item = (&'a Text, &'a RemoteInstance)> {
        self.remote.iter().filter(move |(_, row)| row.user == *user && self.is_shown(row))
    }

    fn onlooker(&self, session: &Session) -> Onlooker {
        Onlooker {
            application: session.application.clone(),
            instance: session.instance.clone(),
            node: self.settings.name.clone(),
        }
    }

    fn remote_onlooker(&self, instance: &Text, row: &RemoteInstance) -> Onlooker {
        Onlooker {
            application: row.identity.member("application").and_then(|v| v.as_text()).unwrap_or_default(),
            instance: instance.clone(),
            node: self.nodes.get(&row.node).map(|node| node.name.clone()).unwrap_or_default(),
        }
    }
}

/// Returns whether two peers could see each other at all: those of other users are not even mentioned.
fn in_reach(a: Party<'_>, b: Party<'_>) -> bool {
    Party { restriction: None, ..a }.sees(Party { restriction: None, ..b })
}
