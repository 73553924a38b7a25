//! What becomes of streams whose subscribers read slowly, as it stands in the configuration.

use mesh_core::SlowRule;
use mesh_model::SlowPolicy;
use serde::{Deserialize, Serialize};

use super::visibility::pattern;

/// What a rule looks like.
pub(super) const EXAMPLE: &str = r#"a list of rules such as { stream = "/^Prices/", policy = "latest-by-key", key = "symbol" }, with a policy "end", "drop-oldest", "latest" or "latest-by-key", and a key with the last one"#;

/// Streams.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct StreamsConfig {
    /// Rules for what is not read in time: the first that matches decides.
    pub slow_subscribers: Vec<SlowRuleConfig>,
}

/// A rule for streams.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SlowRuleConfig {
    /// A pattern for the stream's name; see [`Pattern`](mesh_core::visibility::Pattern).
    pub stream: String,
    /// What becomes of its data.
    pub policy: SlowPolicyConfig,
    /// With [`SlowPolicyConfig::LatestByKey`]: the member that tells what is of the same kind.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub key: Option<String>,
}

/// What becomes of a stream's data that is not read in time.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum SlowPolicyConfig {
    /// The subscription ends.
    End,
    /// The oldest is left out.
    DropOldest,
    /// Only the newest is kept.
    Latest,
    /// Of each value of the key only the newest is kept.
    LatestByKey,
}

impl SlowRuleConfig {
    pub(super) fn rule(&self) -> Result<SlowRule, String> {
        let policy = match (self.policy, &self.key) {
            (SlowPolicyConfig::End, None) => SlowPolicy::End,
            (SlowPolicyConfig::DropOldest, None) => SlowPolicy::DropOldest,
            (SlowPolicyConfig::Latest, None) => SlowPolicy::Latest,
            (SlowPolicyConfig::LatestByKey, Some(key)) => SlowPolicy::LatestByKey(key.as_str().into()),
            (SlowPolicyConfig::LatestByKey, None) => return Err("it has no `key`".into()),
            (_, Some(_)) => return Err("only the policy `latest-by-key` has a `key`".into()),
        };
        Ok(SlowRule { stream: pattern(&self.stream)?, policy })
    }
}

impl StreamsConfig {
    /// Returns the rules as the core reads them. They have been checked.
    #[must_use]
    pub fn rules(&self) -> Vec<SlowRule> {
        self.slow_subscribers.iter().filter_map(|rule| rule.rule().ok()).collect()
    }
}
