//! What may cross the desktop agent bridge, as it stands in the configuration.

use fdc3_agent::{BridgeRule, BridgeRules, Direction};
use serde::{Deserialize, Serialize};

use super::visibility::pattern;

/// What a rule looks like.
pub(super) const EXAMPLE: &str = r#"a list of rules such as { direction = "in", intent = "StartTrade", app = "/^oms/", allow = false }, with a direction "in" (what agents on the bridge ask and say), "out" or none, and a channel, an intent, an app or several of them"#;

/// A rule for what may cross the bridge: the first that matches decides.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct BridgeRuleConfig {
    /// Which way. None: both.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub direction: Option<DirectionConfig>,
    /// A pattern for the channel of a broadcast; see [`Pattern`](mesh_core::visibility::Pattern).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub channel: Option<String>,
    /// A pattern for the intent that is looked for or raised.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub intent: Option<String>,
    /// A pattern for the id of the app that is found, opened or handles the intent, or that broadcasts.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub app: Option<String>,
    /// Whether it may.
    pub allow: bool,
}

/// Which way something crosses the bridge.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum DirectionConfig {
    /// From agents on the bridge to the mesh.
    In,
    /// From the mesh to agents on the bridge.
    Out,
}

impl BridgeRuleConfig {
    pub(super) fn rule(&self) -> Result<BridgeRule, String> {
        let parsed = |text: &Option<String>| text.as_deref().map(pattern).transpose();
        Ok(BridgeRule {
            direction: self.direction.map(|direction| match direction {
                DirectionConfig::In => Direction::In,
                DirectionConfig::Out => Direction::Out,
            }),
            channel: parsed(&self.channel)?,
            intent: parsed(&self.intent)?,
            app: parsed(&self.app)?,
            allow: self.allow,
        })
    }
}

/// Returns the rules as the desktop agent reads them. They have been checked.
pub(crate) fn rules(rules: &[BridgeRuleConfig]) -> BridgeRules {
    BridgeRules(rules.iter().filter_map(|rule| rule.rule().ok()).collect())
}
