//! The three visibility lists: what of this node's apps other nodes get to know.
//!
//! A rule says `local` or `cluster`. The first rule that matches decides; the built-in rules stand
//! behind the operator's, and what no rule matches is `cluster`. What is local is never sent to another
//! node, so nobody there can see, call or subscribe to it.

use std::collections::BTreeMap;
use std::fmt;

use mesh_model::{Area, Json, Text};
use regex::Regex;

use crate::restriction::{compile, whole};

/// How far something can be seen.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Scope {
    /// On this node only.
    Local,
    /// On all nodes of the owner.
    Cluster,
}

impl Scope {
    /// Returns the word for it.
    #[must_use]
    pub const fn word(self) -> &'static str {
        match self {
            Self::Local => "local",
            Self::Cluster => "cluster",
        }
    }
}

/// What a name has to be: `/…/` is a regular expression that is looked for anywhere, `#…` one for the
/// whole name, anything else the name itself.
#[derive(Clone, Debug)]
pub struct Pattern {
    text: String,
    regex: Option<Regex>,
}

impl Pattern {
    /// Parses a pattern.
    ///
    /// # Errors
    ///
    /// Returns what is wrong with the regular expression.
    pub fn parse(text: &str) -> Result<Self, String> {
        let inner = text.strip_prefix('/').and_then(|rest| rest.strip_suffix('/'));
        let regex = match (inner, text.strip_prefix('#')) {
            (Some(anywhere), _) => Some(compile(anywhere)),
            (None, Some(all)) => Some(whole(all)),
            (None, None) => None,
        };
        let regex = regex.transpose().map_err(|error| error.to_string())?;
        Ok(Self { text: text.to_owned(), regex })
    }

    /// Returns whether a name fulfils it.
    #[must_use]
    pub fn matches(&self, name: &str) -> bool {
        self.regex.as_ref().map_or(self.text == name, |regex| regex.is_match(name))
    }
}

impl fmt::Display for Pattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

/// Conditions on an identity: all of these fields have to match.
pub type IdentityPatterns = BTreeMap<String, Pattern>;

fn identity_matches(patterns: &IdentityPatterns, identity: &Json) -> bool {
    patterns.iter().all(|(field, pattern)| {
        identity.member(field).is_some_and(|value| {
            pattern.matches(&value.as_text().unwrap_or_else(|| value.to_string().into()))
        })
    })
}

/// A rule for shared contexts, channels among them.
#[derive(Clone, Debug)]
pub struct ContextRule {
    /// The context's name.
    pub context: Pattern,
    /// How far it can be seen.
    pub scope: Scope,
}

/// A rule for methods and streams.
#[derive(Clone, Debug)]
pub struct MethodRule {
    /// The method's name; any if absent.
    pub method: Option<Pattern>,
    /// The provider's identity.
    pub identity: IdentityPatterns,
    /// How far it can be seen.
    pub scope: Scope,
}

/// A rule for apps as a whole.
#[derive(Clone, Debug)]
pub struct PeerRule {
    /// For methods and streams, or for the bus; for both if absent.
    pub area: Option<Area>,
    /// The app's identity.
    pub identity: IdentityPatterns,
    /// How far the app takes part.
    pub scope: Scope,
}

/// The lists.
#[derive(Clone, Debug, Default)]
pub struct Visibility {
    /// For shared contexts.
    pub contexts: Vec<ContextRule>,
    /// For methods and streams.
    pub methods: Vec<MethodRule>,
    /// For apps as a whole.
    pub peers: Vec<PeerRule>,
}

/// What is decided, and by which rule.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Verdict {
    /// How far it can be seen.
    pub scope: Scope,
    /// The deciding rule's place in its list, from 0; `None` if no rule matches.
    pub rule: Option<usize>,
}

impl Verdict {
    fn first<'a, R: 'a>(
        rules: impl IntoIterator<Item = &'a R>,
        matches: impl Fn(&R) -> bool,
        scope: impl Fn(&R) -> Scope,
    ) -> Self {
        let found = rules.into_iter().enumerate().find(|(_, rule)| matches(rule));
        found.map_or(Self { scope: Scope::Cluster, rule: None }, |(at, rule)| Self {
            scope: scope(rule),
            rule: Some(at),
        })
    }
}

/// Names of contexts that belong to one machine's windows.
const LOCAL_CONTEXTS: &str = "#___(workspace|window|instance|window-hibernation)___.*";
/// Names of methods by which apps talk to the platform of their own machine.
const LOCAL_METHODS: &str = r"#T42\..*";

impl Visibility {
    /// How many rules [`with_built_in`](Self::with_built_in) adds to the lists of contexts and of methods, each.
    pub const BUILT_IN_PER_LIST: usize = 1;

    /// Adds the built-in rules behind those that are there: window, workspace and instance contexts and the
    /// platform's methods stay on their machine.
    #[must_use]
    pub fn with_built_in(mut self) -> Self {
        let pattern = |text: &str| Pattern { text: text.to_owned(), regex: whole(&text[1..]).ok() };
        self.contexts.push(ContextRule { context: pattern(LOCAL_CONTEXTS), scope: Scope::Local });
        let method = Some(pattern(LOCAL_METHODS));
        self.methods.push(MethodRule { method, identity: BTreeMap::new(), scope: Scope::Local });
        self
    }

    /// Decides on a shared context.
    #[must_use]
    pub fn context(&self, name: &str) -> Verdict {
        Verdict::first(&self.contexts, |rule| rule.context.matches(name), |rule| rule.scope)
    }

    /// Decides on a method or stream.
    #[must_use]
    pub fn method(&self, name: &Text, provider: &Json) -> Verdict {
        let matches = |rule: &MethodRule| {
            rule.method.as_ref().is_none_or(|pattern| pattern.matches(name))
                && identity_matches(&rule.identity, provider)
        };
        Verdict::first(&self.methods, matches, |rule| rule.scope)
    }

    /// Decides on an app.
    #[must_use]
    pub fn peer(&self, area: Area, identity: &Json) -> Verdict {
        let matches = |rule: &PeerRule| {
            rule.area.is_none_or(|wanted| wanted == area) && identity_matches(&rule.identity, identity)
        };
        Verdict::first(&self.peers, matches, |rule| rule.scope)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_rule_that_matches_decides() {
        let pattern = |text: &str| Pattern::parse(text).unwrap();
        let rule = |text: &str, scope| ContextRule { context: pattern(text), scope };
        let lists = Visibility {
            contexts: vec![
                rule("/secret/", Scope::Local),
                rule("#___workspace___shared.*", Scope::Cluster),
                rule("exact.name", Scope::Local),
            ],
            ..Visibility::default()
        };
        let lists = lists.with_built_in();
        for (name, scope, by) in [
            ("my secret name", Scope::Local, Some(0)),
            ("___workspace___shared1", Scope::Cluster, Some(1)),
            ("exact.name", Scope::Local, Some(2)),
            ("exactXname", Scope::Cluster, None),
            ("___workspace___1", Scope::Local, Some(3)),
            ("x___workspace___1", Scope::Cluster, None),
            ("___window-hibernation___1", Scope::Local, Some(3)),
            ("___channel___Red", Scope::Cluster, None),
        ] {
            assert_eq!(lists.context(name), Verdict { scope, rule: by }, "{name}");
        }
        assert!(Pattern::parse("/(/").is_err());
        assert!(Pattern::parse("(").unwrap().matches("("));
    }

    #[test]
    fn identities_match_in_all_fields() {
        let identity = Json::parse("{\"application\":\"excel\",\"process\":7}".into()).unwrap();
        let of = |fields: &[(&str, &str)]| -> IdentityPatterns {
            fields.iter().map(|(f, p)| ((*f).to_owned(), Pattern::parse(p).unwrap())).collect()
        };
        for (fields, expected) in [
            (of(&[]), Scope::Local),
            (of(&[("application", "/^ex/"), ("process", "7")]), Scope::Local),
            (of(&[("application", "excel"), ("process", "8")]), Scope::Cluster),
            (of(&[("none", "/.*/")]), Scope::Cluster),
        ] {
            let rule = PeerRule { area: Some(Area::Bus), identity: fields, scope: Scope::Local };
            let lists = Visibility { peers: vec![rule], ..Visibility::default() };
            assert_eq!(lists.peer(Area::Bus, &identity).scope, expected);
            assert_eq!(lists.peer(Area::Interop, &identity).scope, Scope::Cluster);
        }
        let built_in = Visibility::default().with_built_in();
        assert_eq!(built_in.method(&"T42.ACS.Start".into(), &identity).scope, Scope::Local);
        assert_eq!(built_in.method(&"T420".into(), &identity).scope, Scope::Cluster);
    }
}
