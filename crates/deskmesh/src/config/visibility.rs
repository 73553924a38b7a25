//! The visibility lists as they stand in the configuration.

use std::collections::BTreeMap;

use figment::value::Value;
use mesh_core::visibility::{
    ContextRule, IdentityPatterns, MethodRule, Pattern, PeerRule, Scope, Visibility,
};
use mesh_model::Area;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use super::bridge::BridgeRuleConfig;
use super::streams::SlowRuleConfig;

/// What other nodes get to know of this node's apps: the first rule that matches decides, and the built-in
/// rules stand behind these.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct VisibilityConfig {
    /// Rules for shared contexts.
    pub contexts: Vec<ContextRuleConfig>,
    /// Rules for methods and streams.
    pub methods: Vec<MethodRuleConfig>,
    /// Rules for apps as a whole.
    pub peers: Vec<PeerRuleConfig>,
}

/// How far something can be seen.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum ScopeConfig {
    /// On its node only.
    Local,
    /// On all nodes of the owner.
    Cluster,
}

/// A rule for shared contexts.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ContextRuleConfig {
    /// A pattern for its name; see [`Pattern`].
    pub context: String,
    /// How far it can be seen.
    pub restrictions: ScopeConfig,
}

/// A rule for methods and streams.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct MethodRuleConfig {
    /// A pattern for its name. None: any.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub method: Option<String>,
    /// Patterns for fields of the provider's identity.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub identity: BTreeMap<String, String>,
    /// How far it can be seen.
    pub restrictions: ScopeConfig,
}

/// A rule for apps.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PeerRuleConfig {
    /// `interop` or `bus`. None: both.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub domain: Option<PeerDomain>,
    /// Patterns for fields of its identity.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub identity: BTreeMap<String, String>,
    /// How far it takes part.
    pub restrictions: ScopeConfig,
}

/// What an app takes part in.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum PeerDomain {
    /// Methods and streams.
    Interop,
    /// Publish and subscribe.
    Bus,
}

/// Which of the lists.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum List {
    /// `visibility.contexts`
    Contexts,
    /// `visibility.methods`
    Methods,
    /// `visibility.peers`
    Peers,
    /// `streams.slow_subscribers`
    SlowSubscribers,
    /// `fdc3.bridge_rules`
    Bridge,
}

impl List {
    /// Returns what a rule of this list looks like.
    pub(super) const fn example(self) -> &'static str {
        match self {
            Self::Contexts => r#"a list of rules such as { context = "/^trade/", restrictions = "local" }"#,
            Self::Methods => {
                r#"a list of rules such as { method = "/^Excel/", identity = { application = "excel" }, restrictions = "cluster" }"#
            }
            Self::Peers => r#"a list of rules such as { domain = "bus", restrictions = "local" }"#,
            Self::SlowSubscribers => super::streams::EXAMPLE,
            Self::Bridge => super::bridge::EXAMPLE,
        }
    }

    /// Checks a list; the error names the rule, from 1.
    pub(super) fn check(self, value: &Value) -> Result<(), String> {
        let Some(rules) = value.as_array() else { return Err("it is no list".into()) };
        for (at, rule) in rules.iter().enumerate() {
            let checked = match self {
                Self::Contexts => parsed::<ContextRuleConfig>(rule).and_then(|rule| rule.rule().map(drop)),
                Self::Methods => parsed::<MethodRuleConfig>(rule).and_then(|rule| rule.rule().map(drop)),
                Self::Peers => parsed::<PeerRuleConfig>(rule).and_then(|rule| rule.rule().map(drop)),
                Self::SlowSubscribers => {
                    parsed::<SlowRuleConfig>(rule).and_then(|rule| rule.rule().map(drop))
                }
                Self::Bridge => parsed::<BridgeRuleConfig>(rule).and_then(|rule| rule.rule().map(drop)),
            };
            checked.map_err(|problem| format!("rule {}: {problem}", at + 1))?;
        }
        Ok(())
    }
}

fn parsed<T: DeserializeOwned>(rule: &Value) -> Result<T, String> {
    rule.deserialize().map_err(|error: figment::Error| error.to_string())
}

impl ScopeConfig {
    const fn scope(self) -> Scope {
        match self {
            Self::Local => Scope::Local,
            Self::Cluster => Scope::Cluster,
        }
    }
}

pub(super) fn pattern(text: &str) -> Result<Pattern, String> {
    Pattern::parse(text).map_err(|problem| format!("`{text}` is no regular expression: {problem}"))
}

fn patterns(identity: &BTreeMap<String, String>) -> Result<IdentityPatterns, String> {
    identity.iter().map(|(field, text)| Ok((field.clone(), pattern(text)?))).collect()
}

impl ContextRuleConfig {
    fn rule(&self) -> Result<ContextRule, String> {
        Ok(ContextRule { context: pattern(&self.context)?, scope: self.restrictions.scope() })
    }
}

impl MethodRuleConfig {
    fn rule(&self) -> Result<MethodRule, String> {
        let method = self.method.as_deref().map(pattern).transpose()?;
        Ok(MethodRule { method, identity: patterns(&self.identity)?, scope: self.restrictions.scope() })
    }
}

impl PeerRuleConfig {
    fn rule(&self) -> Result<PeerRule, String> {
        let area = self.domain.map(|domain| match domain {
            PeerDomain::Interop => Area::Interop,
            PeerDomain::Bus => Area::Bus,
        });
        Ok(PeerRule { area, identity: patterns(&self.identity)?, scope: self.restrictions.scope() })
    }
}

impl VisibilityConfig {
    /// Returns the lists, with the built-in rules behind these.
    ///
    /// # Errors
    ///
    /// Returns what is wrong with a rule; a configuration that was loaded has none.
    pub fn lists(&self) -> Result<Visibility, String> {
        let lists = Visibility {
            contexts: self.contexts.iter().map(ContextRuleConfig::rule).collect::<Result<_, _>>()?,
            methods: self.methods.iter().map(MethodRuleConfig::rule).collect::<Result<_, _>>()?,
            peers: self.peers.iter().map(PeerRuleConfig::rule).collect::<Result<_, _>>()?,
        };
        Ok(lists.with_built_in())
    }
}
