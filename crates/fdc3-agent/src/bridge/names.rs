//! What is called what: here, at other nodes, and on the bridge.

use mesh_model::json::{Edit, edited};
use mesh_model::{Json, Key, Text};
use proto_bridge::{Exchange, Participant};
use proto_dacp::{AppRef, Fault, array};

use super::{MARK, parts, some, text};
use crate::{Agent, app_identifier};

impl Agent {
    /// Returns the agent on the bridge that apps here know by this name.
    pub(super) fn bridge_agent(&self, shown: &str) -> Option<Text> {
        let plain = shown.strip_suffix(&*self.settings.node).and_then(|rest| rest.strip_suffix('@'));
        let known = |name: &str| self.bridge.agents.contains_key(name.as_bytes());
        [Some(shown), plain].into_iter().flatten().find(|name| known(name)).map(Text::from)
    }

    /// Returns the name under which apps here know an agent on the bridge: its own, unless a node has it.
    pub(super) fn shown(&self, agent: &str) -> Text {
        let node = &self.settings.node;
        match agent == &**node || self.peers.known_nodes.contains(agent.as_bytes()) {
            true => format!("{agent}@{node}").into(),
            false => agent.into(),
        }
    }

    /// Returns the source of what an app on the bridge does.
    pub(crate) fn foreign_source(&self, instance: &str) -> Option<Json> {
        let (agent, app, instance) = parts(instance)?;
        Some(app_identifier(app, some(instance), Some(&self.shown(agent))))
    }

    /// Returns a source as other nodes are to know it.
    pub(crate) fn abroad(&self, source: &Json) -> Json {
        let Some(agent) = text(source, "desktopAgent") else { return source.clone() };
        let node = &self.settings.node;
        if agent.ends_with(&format!("@{node}")) {
            return source.clone();
        }
        edited(source, &[Key::new("desktopAgent")], Edit::Set(&Json::string(&format!("{agent}@{node}"))))
    }

    /// Returns the id of an instance as other nodes are to know it: an agent here and one on the bridge of
    /// another node may have one name.
    pub(crate) fn id_abroad(&self, instance: &str) -> Option<Text> {
        let (agent, app, own) = parts(instance)?;
        let is_abroad = agent.rsplit_once('@').is_some_and(|(_, node)| self.is_node(node));
        let node = &self.settings.node;
        (!is_abroad).then(|| format!("{MARK}{agent}@{node}{MARK}{app}{MARK}{own}").into())
    }

    /// Returns what is said about a private channel as other nodes are to know it.
    pub(crate) fn op_abroad(&self, op: Json) -> Json {
        let renamed = |op: Json, name: &'static str| {
            let id = text(&op, name).and_then(|id| self.id_abroad(&id));
            id.map_or(op.clone(), |id| edited(&op, &[Key::new(name)], Edit::Set(&Json::string(&id))))
        };
        renamed(renamed(op, "by"), "instance")
    }

    /// Returns who does something, as the bridge is to know them.
    pub(super) fn participant(&self, instance: &str) -> Participant {
        let of = |app_id: &str, node: Option<&str>, instance: &str| Participant {
            desktop_agent: None,
            app_id: some(app_id).map(|id| exported_id(id, node, &self.settings.node)),
            instance_id: some(instance).map(Text::from),
        };
        if let Some((agent, app, instance)) = parts(instance) {
            return of(app, Some(agent), instance);
        }
        if let Some(app) = self.apps.get(instance.as_bytes()) {
            return of(&app.app_id, None, instance);
        }
        let server = self.peers.servers.values().find(|server| *server.instance == *instance);
        server.map_or_else(
            || of("", None, instance),
            |server| of(&server.app_id, server.node.as_deref(), instance),
        )
    }

    /// Returns the source of what other nodes ask or have said, as the bridge is to know it.
    pub(super) fn exported_source(&self, source: &Json) -> Participant {
        let source = Participant::from_json(source);
        let agent = source.desktop_agent.as_deref();
        Participant {
            app_id: source.app_id.map(|id| exported_id(&id, agent, &self.settings.node)),
            instance_id: source.instance_id.map(|id| id.detached()),
            desktop_agent: None,
        }
    }

    /// Returns an app identifier as the bridge is to know it: all apps of the mesh are this agent's.
    pub(super) fn exported(&self, app: &Json) -> Option<Json> {
        let id = exported_id(&text(app, "appId")?, text(app, "desktopAgent").as_deref(), &self.settings.node);
        let app = edited(app, &[Key::new("appId")], Edit::Set(&Json::string(&id)));
        let name = self.bridge.name.as_deref().unwrap_or_default();
        Some(edited(&app, &[Key::new("desktopAgent")], Edit::Set(&Json::string(name))))
    }

    /// Returns an app identifier of an agent on the bridge as apps here are to know it.
    pub(super) fn imported(&self, app: &Json) -> Option<Json> {
        text(app, "appId")?;
        let agent = text(app, "desktopAgent").filter(|agent| self.bridge.agents.contains_key(agent))?;
        let shown = self.shown(&agent);
        match shown == agent {
            true => Some(app.detached()),
            false => Some(edited(app, &[Key::new("desktopAgent")], Edit::Set(&Json::string(&shown)))),
        }
    }

    /// Reads which app an agent on the bridge means.
    pub(super) fn app_meant(&self, payload: &Json) -> Result<AppRef, Fault> {
        let app = payload.member("app").ok_or(Fault::TargetAppUnavailable)?;
        let given = Participant::from_json(&app);
        let app_id = given.app_id.ok_or(Fault::TargetAppUnavailable)?.detached();
        if given.desktop_agent.is_some_and(|agent| Some(&agent) != self.bridge.name.as_ref()) {
            return Err(Fault::DesktopAgentNotFound);
        }
        let mut meant =
            AppRef { app_id, instance_id: given.instance_id.map(|id| id.detached()), desktop_agent: None };
        let is_ours = self.record(&meant.app_id).is_some_and(|record| record.app_id == meant.app_id);
        if is_ours {
            return Ok(meant);
        }
        if let Some((id, at)) = self.agent_in_id(&meant.app_id) {
            // From the bridge to the bridge is no business of this agent.
            at.desk.ok_or(Fault::DesktopAgentNotFound)?;
            let shown = meant.app_id[id.len() + 1..].into();
            (meant.app_id, meant.desktop_agent) = (id, Some(shown));
        } else if let Some((id, node)) = meant.app_id.clone().rsplit_once('@')
            && self.peers.desk_of(node).is_some()
        {
            (meant.app_id, meant.desktop_agent) = (id.into(), Some(node.into()));
        }
        Ok(meant)
    }
}

/// Returns the id of an app as the bridge is to know it.
pub(super) fn exported_id(app_id: &str, agent: Option<&str>, node: &str) -> Text {
    match agent.filter(|agent| *agent != node) {
        Some(agent) => format!("{app_id}@{agent}").into(),
        None => app_id.into(),
    }
}

/// Changes each app identifier in a successful answer; those that become nothing are left out.
pub(super) fn with_apps(
    exchange: Exchange,
    payload: &Json,
    change: &impl Fn(&Json) -> Option<Json>,
) -> Option<Json> {
    with_apps_of_intents(exchange, payload, &|_, app| change(app))
}

/// Changes each app identifier in a successful answer, given the intent that it was found for, if any.
pub(super) fn with_apps_of_intents(
    exchange: Exchange,
    payload: &Json,
    change: &impl Fn(Option<&str>, &Json) -> Option<Json>,
) -> Option<Json> {
    let of_intent = |intent: &Json| {
        let name = intent.member("intent").and_then(|about| text(&about, "name"));
        replaced(intent, "apps", |apps| each(apps, &|app: &Json| change(name.as_deref(), app)))
    };
    let change = |app: &Json| change(None, app);
    match exchange {
        Exchange::FindIntent => replaced(payload, "appIntent", of_intent),
        Exchange::FindIntentsByContext => {
            replaced(payload, "appIntents", |intents| each(intents, &of_intent))
        }
        Exchange::FindInstances => replaced(payload, "appIdentifiers", |apps| each(apps, &change)),
        Exchange::GetAppMetadata => replaced(payload, "appMetadata", change),
        Exchange::Open => replaced(payload, "appIdentifier", change),
        Exchange::RaiseIntent => {
            replaced(payload, "intentResolution", |resolution| replaced(resolution, "source", change))
        }
        _ => None,
    }
}

fn replaced(value: &Json, name: &str, with: impl Fn(&Json) -> Option<Json>) -> Option<Json> {
    let new = with(&value.member(name)?)?;
    Some(edited(value, &[Key::new(name)], Edit::Set(&new)))
}

fn each(list: &Json, with: &impl Fn(&Json) -> Option<Json>) -> Option<Json> {
    let elements: Vec<Json> = list.elements()?.iter().filter_map(with).collect();
    Some(array(&elements))
}
