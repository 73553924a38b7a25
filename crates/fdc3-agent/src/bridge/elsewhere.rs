//! Agents on the bridges of other nodes: which there are, and under what names.
//!
//! Each node tells the others who is on its bridge, in a shared context of its own: [`AGENTS`] and its desk's
//! instance id. Here they are `name@node`, and are asked by way of that node, which alone speaks to its
//! bridge. Of several nodes on one bridge only the one that speaks for all tells of it.

use std::collections::BTreeSet;

use mesh_model::{Command, Json, Lifetime, Permissions, Text};
use proto_dacp::{Object, array};

use super::{AgentAt, MARK, text};
use crate::{Agent, Pending};

/// The shared contexts with the agents on the bridge of a node begin so.
pub(crate) const AGENTS: &str = "___fdc3___.agents.";

impl Agent {
    /// Tells other nodes who is on the bridge of this machine, if that is news.
    pub(crate) fn publish_agents(&mut self) {
        let Some(desk) = self.desk.instance.clone() else { return };
        let agents: BTreeSet<Text> = match self.speaks() {
            true => self.bridge.agents.keys().filter(|agent| !self.is_of_mesh(agent)).cloned().collect(),
            false => BTreeSet::new(),
        };
        if self.bridge.told == agents {
            return;
        }
        let names: Vec<Json> = agents.iter().map(|agent| Json::string(agent)).collect();
        let data = Object::new().json("agents", &array(&names)).end();
        let name: Text = format!("{AGENTS}{desk}").into();
        match self.channels.name_of(&name) {
            Some(context) => {
                let delta = Object::new().json("reset", &data).end();
                self.ask_desk(Pending::Nothing, |request| Command::UpdateContext { request, context, delta });
            }
            // What comes while it is being made is told when it is.
            None if !self.bridge.told.is_empty() => return,
            None => {
                self.ask_desk(Pending::Channel { name: name.clone() }, |request| Command::CreateContext {
                    request,
                    name,
                    data: Some(data),
                    lifetime: Lifetime::Ownership,
                    permissions: Permissions::default(),
                });
            }
        }
        self.bridge.told = agents;
    }

    /// Another node says who is on its bridge.
    pub(crate) fn agents_elsewhere(&mut self, desk: &str, value: Option<&Json>) {
        if self.desk.instance.as_deref() == Some(desk) {
            return self.publish_agents();
        }
        // A change may be about what else is in the context.
        let Some(names) = value.and_then(|value| value.member("agents")?.elements()) else { return };
        let names = names.iter().filter_map(|name| Some(name.as_text()?.detached()));
        let names: BTreeSet<Text> =
            names.filter(|name| !name.contains(MARK)).take(self.settings.limits.bridge_agents_max).collect();
        match names.is_empty() {
            true => self.bridge.elsewhere.remove(desk.as_bytes()),
            false => self.bridge.elsewhere.insert(desk.into(), names),
        };
    }

    pub(crate) fn no_agents_elsewhere(&mut self, desk: &str) {
        self.bridge.elsewhere.remove(desk.as_bytes());
    }

    /// Returns whether an agent is on the bridge of this machine.
    pub(crate) fn bridge_has(&self, agent: &Text) -> bool {
        self.bridge.agents.contains_key(agent)
    }

    /// Returns whether there are agents on the bridge of this machine.
    pub(super) fn has_agents(&self) -> bool {
        self.bridge.is_on() && self.bridge.agents.keys().any(|agent| !self.is_of_mesh(agent))
    }

    /// Returns the desks of other nodes with agents on their bridges. A node on the bridge of this machine
    /// has none that are not asked here.
    pub(super) fn desks_with_agents(&self) -> Vec<Text> {
        let is_asked_here = |node: &Text| self.bridge.agents.values().flatten().any(|here| here == node);
        let desks = self.bridge.elsewhere.keys();
        desks
            .filter(|desk| self.peers.desks.get(*desk).is_some_and(|peer| !is_asked_here(&peer.node)))
            .cloned()
            .collect()
    }

    /// Returns the agent on a bridge that apps here know by this name.
    pub(crate) fn agent_at(&self, shown: &str) -> Option<AgentAt> {
        if let Some(agent) = self.bridge_agent(shown) {
            return Some(AgentAt { desk: None, agent });
        }
        self.bridge.elsewhere.iter().find_map(|(desk, agents)| {
            let node = &self.peers.desks.get(desk)?.node;
            let agent = shown.strip_suffix(&**node)?.strip_suffix('@')?;
            let agent = agents.get(agent.as_bytes())?;
            Some(AgentAt { desk: Some(desk.clone()), agent: agent.clone() })
        })
    }

    /// Returns the app and the agent on a bridge that the id of an app names: `app@agent`.
    pub(crate) fn agent_in_id(&self, app_id: &str) -> Option<(Text, AgentAt)> {
        // Names of agents may have an `@` too.
        app_id.match_indices('@').find_map(|(at, _)| {
            // A node that is gone is not to be taken for an agent of its name.
            let shown = Some(&app_id[at + 1..]).filter(|shown| !self.is_node(shown))?;
            Some((app_id[..at].into(), self.agent_at(shown)?))
        })
    }

    /// Returns whether two apps are one, of an agent that is on two bridges.
    pub(super) fn is_same(&self, one: &Json, other: &Json) -> bool {
        let plain = |app: &Json| {
            let agent = text(app, "desktopAgent")?;
            Some(match agent.rsplit_once('@') {
                Some((name, node)) if self.is_node(node) => Text::from(name),
                _ => agent,
            })
        };
        let same = |name: &str| text(one, name) == text(other, name);
        text(one, "instanceId").is_some()
            && same("instanceId")
            && same("appId")
            && plain(one).is_some()
            && plain(one) == plain(other)
    }

    pub(super) fn is_node(&self, name: &str) -> bool {
        *name == *self.settings.node || self.peers.known_nodes.contains(name.as_bytes())
    }
}
