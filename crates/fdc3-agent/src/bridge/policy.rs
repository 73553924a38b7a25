//! What may cross the bridge of this machine: broadcasts by channel, intents, and apps.

use mesh_core::visibility::Pattern;
use mesh_model::{Json, Text};
use proto_bridge::Exchange;
use proto_dacp::{Fault, Request};

use super::names::with_apps_of_intents;
use super::text;
use crate::document::Slot;
use crate::{Agent, Output};

/// Which way something goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Direction {
    /// From agents on the bridge to apps of the mesh: what those ask, and what they broadcast.
    In,
    /// From apps of the mesh to agents on the bridge.
    Out,
}

/// A rule. What it names has to match; what it does not name does not matter.
#[derive(Clone, Debug)]
pub struct BridgeRule {
    /// Which way; none: both.
    pub direction: Option<Direction>,
    /// The channel of a broadcast, or of a context that is on it.
    pub channel: Option<Pattern>,
    /// The intent that is looked for, or raised.
    pub intent: Option<Pattern>,
    /// The id of the app that is found, opened, or is to handle an intent; of a broadcast, that of its sender.
    pub app: Option<Pattern>,
    /// Whether that may cross.
    pub allow: bool,
}

/// The rules: the first that matches decides. What no rule matches, may cross.
#[derive(Clone, Debug, Default)]
pub struct BridgeRules(pub Vec<BridgeRule>);

/// Something that is about to cross.
#[derive(Clone, Copy, Debug)]
pub(super) struct Crossing<'a> {
    pub(super) direction: Direction,
    pub(super) channel: Option<&'a str>,
    pub(super) intent: Option<&'a str>,
    pub(super) app: Option<&'a str>,
}

impl<'a> Crossing<'a> {
    pub(super) const fn broadcast(direction: Direction, channel: &'a str, app: Option<&'a str>) -> Self {
        Self { direction, channel: Some(channel), intent: None, app }
    }

    pub(super) const fn request(direction: Direction, intent: Option<&'a str>, app: Option<&'a str>) -> Self {
        Self { direction, channel: None, intent, app }
    }

    /// Returns this in words, for the log.
    fn words(&self) -> String {
        let way = match self.direction {
            Direction::In => "from the bridge",
            Direction::Out => "to the bridge",
        };
        let named = [("channel", self.channel), ("intent", self.intent), ("app", self.app)];
        let named = named.iter().filter_map(|(what, name)| name.map(|name| format!("{what} `{name}`")));
        format!("{way}: {}", named.collect::<Vec<_>>().join(", "))
    }
}

impl BridgeRules {
    /// Returns the place in the list, from 1, of the rule that keeps something from crossing.
    fn refusing(&self, crossing: &Crossing<'_>) -> Option<usize> {
        let fits = |pattern: &Option<Pattern>, name: Option<&str>| {
            pattern.as_ref().is_none_or(|pattern| name.is_some_and(|name| pattern.matches(name)))
        };
        let at = self.0.iter().position(|rule| {
            rule.direction.is_none_or(|direction| direction == crossing.direction)
                && fits(&rule.channel, crossing.channel)
                && fits(&rule.intent, crossing.intent)
                && fits(&rule.app, crossing.app)
        })?;
        (!self.0[at].allow).then_some(at + 1)
    }
}

impl Agent {
    /// Sets what may cross the bridge.
    pub fn set_bridge_rules(&mut self, rules: BridgeRules) {
        self.bridge.rules = rules;
    }

    pub(super) fn may_cross(&self, crossing: &Crossing<'_>) -> bool {
        self.bridge.rules.refusing(crossing).is_none()
    }

    /// Returns whether something is kept from crossing, which is noted.
    pub(super) fn is_kept(&mut self, crossing: &Crossing<'_>) -> bool {
        let Some(rule) = self.bridge.rules.refusing(crossing) else { return false };
        let is_request = crossing.channel.is_none();
        self.outputs.push_back(Output::Kept { rule, what: crossing.words(), is_request });
        true
    }

    /// Returns whether an app of the mesh may be told to the bridge, or one of the bridge to the mesh.
    fn shows(&self, direction: Direction, intent: Option<&str>, app: &Json) -> bool {
        let id = text(app, "appId");
        self.may_cross(&Crossing::request(direction, intent, id.as_deref()))
    }

    /// Leaves out of what was found the apps that may not cross.
    pub(super) fn shown_apps(&self, direction: Direction, exchange: Exchange, found: &Json) -> Json {
        let kept = with_apps_of_intents(exchange, found, &|intent, app| {
            self.shows(direction, intent, app).then(|| app.clone())
        });
        kept.unwrap_or_else(|| found.clone())
    }

    /// Returns the error for what an agent on the bridge asks and may not.
    pub(super) fn kept_request(&mut self, request: &Request) -> Option<Fault> {
        let id = |agent: &Self, app_id: &Text| {
            agent.record(app_id).map_or_else(|| app_id.clone(), |record| record.app_id.clone())
        };
        let (intent, app, fault) = match request {
            Request::Open { app, .. } => (None, id(self, &app.app_id), Fault::AppNotFound),
            Request::GetAppMetadata { app: Some(app) } => {
                (None, id(self, &app.app_id), Fault::TargetAppUnavailable)
            }
            Request::RaiseIntent { intent, app: Some(app), .. } => {
                (Some(intent), id(self, &app.app_id), Fault::NoAppsFound)
            }
            _ => return None,
        };
        let intent = intent.map(|intent| &**intent);
        self.is_kept(&Crossing::request(Direction::In, intent, Some(&app))).then_some(fault)
    }

    /// Returns the error for what an app of the mesh asks agents on the bridge and may not.
    pub(super) fn kept_question(&mut self, exchange: Exchange, payload: &Json) -> Option<Text> {
        let (intent, app) =
            (text(payload, "intent"), payload.member("app").and_then(|app| text(&app, "appId")));
        let fault = match exchange {
            Exchange::Open => Fault::AppNotFound,
            Exchange::GetAppMetadata => Fault::TargetAppUnavailable,
            _ => Fault::NoAppsFound,
        };
        let crossing = Crossing::request(Direction::Out, intent.as_deref(), app.as_deref());
        self.is_kept(&crossing).then(|| fault.word().into())
    }

    /// Returns whether a context on a channel may be told to the bridge.
    pub(super) fn may_tell(&self, channel: &str, slot: &Slot) -> bool {
        let app = slot.cast.as_ref().and_then(|cast| text(&cast.source, "appId"));
        self.may_cross(&Crossing::broadcast(Direction::Out, channel, app.as_deref()))
    }
}
