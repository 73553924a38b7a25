//! Agents on the desktop agent bridge of this machine, which are nodes of no mesh.
//!
//! To the apps here they are like other machines: their apps are found, opened, and raised intents at,
//! under `desktopAgent`. To them this agent speaks for all apps of the mesh: those of other nodes go by
//! the name `appId@node`. Each node speaks to its own bridge only: what apps of other nodes ask its agents
//! goes by way of it ([`elsewhere`]); a broadcast goes over the mesh to all nodes and from each to its
//! bridge, and what a bridge has said is not said to it again. Where several nodes of one mesh are on one
//! bridge, the one whose name comes first speaks for all.
//!
//! An app of such an agent is an instance whose id no app of the mesh can have: [`instance_of`]. So what
//! it asks is served as if an app had asked. Its agent is a desk of that kind: [`desk_of`].

mod asked;
mod asking;
mod channels;
mod elsewhere;
mod metadata;
mod names;
mod policy;
mod private;
#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, BTreeSet};

use mesh_model::{Json, Text};
use proto_bridge::{ChannelLimits, ChannelsState, Message, MessageType, Participant, error};
use proto_dacp::Object;

use crate::{Agent, Time};

pub(crate) use asking::Asked;
pub(crate) use elsewhere::AGENTS;

pub use policy::{BridgeRule, BridgeRules, Direction};

use asking::Gathering;

/// What ids begin with that belong to agents on the bridge.
const MARK: char = '\0';
/// The member of the implementation metadata by which nodes know each other on a bridge.
const OWN: &str = "deskmesh";
/// Longest id of an app or an instance that an agent on the bridge may use, in bytes.
const ID_BYTES_MAX: usize = 1_024;
/// What an agent can listen for in private channels.
const EVENTS: [&str; 3] = ["onAddContextListener", "onUnsubscribe", "onDisconnect"];

/// What is known of the bridge.
#[derive(Debug, Default)]
pub(crate) struct Bridge {
    /// This agent's name there, while it takes part.
    name: Option<Text>,
    /// The update that tells of this agent's own joining has yet to come.
    joining: bool,
    /// The other agents, with the nodes of those that are nodes.
    agents: BTreeMap<Text, Option<Text>>,
    /// Those of them that are known to know what FDC3 3.0 says about contexts.
    modern: BTreeSet<Text>,
    asked: BTreeMap<Text, Asked>,
    /// What is asked of several bridges, by number.
    gatherings: BTreeMap<u64, Gathering>,
    /// The agents that other nodes were told of.
    told: BTreeSet<Text>,
    /// The agents on the bridges of other nodes, by their desks.
    elsewhere: BTreeMap<Text, BTreeSet<Text>>,
    /// What is to be taken over once the channel is open.
    adopting: BTreeMap<Text, Vec<Adopted>>,
    rules: BridgeRules,
    /// The desk hears of broadcasts on channels that no app here uses.
    hears_all: bool,
    /// Which events of private channels agents listen for, by channel and desk.
    hears: BTreeMap<(Text, Text), BTreeSet<Text>>,
    /// Which app there handles an intent whose result is owed.
    handlers: BTreeMap<Text, Participant>,
    /// Which app there has made a private channel.
    makers: BTreeMap<Text, Participant>,
}

/// A context that the bridge has and this agent did not have.
#[derive(Clone, Debug)]
pub(crate) struct Adopted {
    pub(crate) kind: Text,
    pub(crate) context: Json,
    pub(crate) is_newest: bool,
    /// Listeners for its type hear of it, listeners for all types do.
    pub(crate) heard_by: (bool, bool),
}

/// An agent on a bridge.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct AgentAt {
    /// The desk of the node that holds the bridge, or takes part in it; none: this one.
    pub(crate) desk: Option<Text>,
    /// Its name on that bridge.
    pub(crate) agent: Text,
}

/// Returns the id under which an app of an agent on the bridge goes here.
fn instance_of(agent: &str, app: &Participant) -> Text {
    let text = |text: &Option<Text>| text.clone().unwrap_or_default();
    format!("{MARK}{agent}{MARK}{}{MARK}{}", text(&app.app_id), text(&app.instance_id)).into()
}

/// Returns whether an instance, or a desk, is on the bridge.
pub(crate) fn is_foreign(id: &str) -> bool {
    id.starts_with(MARK)
}

/// Returns the desk of an instance that is on the bridge.
pub(crate) fn desk_of(instance: &str) -> Option<Text> {
    parts(instance).map(|(agent, ..)| desk(agent))
}

fn desk(agent: &str) -> Text {
    format!("{MARK}{agent}").into()
}

/// Returns the agent, the app and its instance.
fn parts(instance: &str) -> Option<(&str, &str, &str)> {
    let mut parts = instance.strip_prefix(MARK)?.splitn(3, MARK);
    Some((parts.next()?, parts.next().unwrap_or_default(), parts.next().unwrap_or_default()))
}

fn some(text: &str) -> Option<&str> {
    Some(text).filter(|text| !text.is_empty())
}

fn text(of: &Json, name: &str) -> Option<Text> {
    of.member(name)?.as_text().map(|text| text.detached())
}

impl Bridge {
    pub(crate) const fn is_on(&self) -> bool {
        self.name.is_some()
    }
}

impl Agent {
    /// Returns what `getInfo` says of this agent, for a bridge that it joins.
    #[must_use]
    pub fn bridge_implementation(&self) -> Json {
        let own = Object::new().text("node", &self.settings.node).text("user", &self.settings.user).end();
        self.implementation(true).json(OWN, &own).end()
    }

    /// Returns what is on the user and app channels.
    #[must_use]
    pub fn bridge_channels(&self) -> ChannelsState {
        let limits = ChannelLimits::default();
        let mut state = ChannelsState::default();
        for (id, channel) in &self.channels.by_id {
            let Some(shared) = channel.shared() else { continue };
            for slot in shared.slots().into_iter().filter(|slot| self.may_tell(id, slot)) {
                // What has no room is not told.
                let _ = state.broadcast(id, &slot.context, &limits);
            }
        }
        state
    }

    /// This agent takes part in a bridge, under this name. The update that says so follows as a message.
    pub fn bridge_joined(&mut self, name: Text, now: Time) {
        self.now = now;
        self.leave_bridge();
        self.bridge.name = Some(name);
        self.bridge.joining = true;
        self.hear_all_channels();
    }

    /// The bridge is gone.
    pub fn bridge_left(&mut self, now: Time) {
        self.now = now;
        self.leave_bridge();
    }

    fn leave_bridge(&mut self) {
        self.bridge.name = None;
        self.bridge.adopting.clear();
        for (_, asked) in std::mem::take(&mut self.bridge.asked) {
            self.not_answered(asked, Some(&error::NOT_CONNECTED));
        }
        for agent in std::mem::take(&mut self.bridge.agents).into_keys() {
            self.bridge_agent_gone(&agent);
        }
        self.publish_agents();
    }

    fn bridge_agent_gone(&mut self, agent: &str) {
        let desk = desk(agent);
        self.bridge.hears.retain(|(_, of), _| *of != desk);
        self.private_peer_gone(&desk);
        self.intent_peer_gone(&desk);
    }

    /// Takes a message of the bridge.
    pub fn bridge_message(&mut self, message: Message, now: Time) {
        self.now = now;
        if !self.bridge.is_on() {
            return;
        }
        match message.message_type {
            MessageType::ConnectedAgentsUpdate => self.bridge_updated(&message),
            MessageType::Request(exchange) if message.meta.response.is_none() => {
                self.bridge_asks(exchange, message);
            }
            MessageType::Response(exchange) => self.bridge_answers(exchange, &message),
            MessageType::RaiseIntentResult => self.bridge_result(&message),
            _ => {}
        }
    }

    fn bridge_updated(&mut self, message: &Message) {
        let all = message.payload.member("allAgents").and_then(|agents| agents.elements());
        let own = self.bridge.name.clone();
        let named = all.unwrap_or_default().into_iter().filter_map(|about| {
            let name = text(&about, "desktopAgent").filter(|name| Some(name) != own.as_ref())?;
            let node = about.member(OWN).and_then(|own| text(&own, "node"));
            (!name.contains(MARK)).then_some((name, node))
        });
        let agents: BTreeMap<Text, Option<Text>> =
            named.take(self.settings.limits.bridge_agents_max).collect();
        self.bridge.modern.retain(|agent| agents.contains_key(agent));
        self.bridge
            .modern
            .extend(agents.iter().filter(|(_, node)| node.is_some()).map(|(name, _)| name.clone()));
        let former = std::mem::replace(&mut self.bridge.agents, agents);
        for agent in former.into_keys() {
            if !self.bridge.agents.contains_key(&agent) {
                self.bridge_agent_gone(&agent);
            }
        }
        self.publish_agents();
        let joined = std::mem::take(&mut self.bridge.joining);
        if let Some(state) = message.payload.member("channelsState").filter(|_| self.speaks()) {
            let (state, _) = ChannelsState::from_json(&state, &ChannelLimits::default());
            self.adopt_state(&state, joined);
        }
    }

    /// Returns whether this node is the one of its mesh that speaks to the bridge for all.
    fn speaks(&self) -> bool {
        let others = self.bridge.agents.values().flatten();
        others.filter(|node| self.peers.desk_of(node).is_some()).all(|node| self.settings.node < *node)
    }

    /// Returns whether an agent on the bridge is a node of this mesh.
    fn is_of_mesh(&self, agent: &str) -> bool {
        let node =
            self.bridge.agents.iter().find(|(name, _)| ***name == *agent).and_then(|(_, node)| node.as_ref());
        node.is_some_and(|node| self.peers.desk_of(node).is_some())
    }
}
