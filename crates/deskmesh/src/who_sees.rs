//! `deskmesh who-sees`: who sees a context, a method or an app, and by which rule.

use mesh_core::visibility::Visibility;
use mesh_core::{Onlooker, SightView, Watched};
use mesh_model::Area;
use serde::{Deserialize, Serialize};

use crate::gateway::Gateway;
use crate::output::printable;

/// The answer to `who-sees`.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Sights {
    /// What there is of the name.
    pub sights: Vec<Sight>,
    /// What the lists would say of a name that nothing has, or has not yet.
    pub by_name: Option<Decision>,
    /// Every rule of the list that decides, in order.
    pub rules: Vec<RuleRow>,
}

/// One thing of the name.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Sight {
    /// Whose it is: a context's user, else the application.
    pub owner: String,
    /// The node it is on.
    pub node: String,
    /// `interop` or `bus`, if it is about one alone.
    pub domain: Option<String>,
    /// What this node's lists say; none if the other node's decide.
    pub decision: Option<Decision>,
    /// Who sees it.
    pub seen_by: Vec<String>,
    /// Who does not, and why.
    pub hidden_from: Vec<Hidden>,
}

/// How far something can be seen, and why.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Decision {
    /// `local` or `cluster`.
    pub scope: String,
    /// The deciding rule's number in [`Sights::rules`], from 1; none if no rule matches.
    pub rule: Option<usize>,
}

/// An app that does not see something.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Hidden {
    /// The app.
    pub app: String,
    /// Why.
    pub why: String,
}

/// A rule of a visibility list.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct RuleRow {
    /// Where it stands: in the configuration, or built in.
    pub place: String,
    /// What it says.
    pub rule: String,
}

/// Answers for a name; `kind` is `context`, `method` or `app`.
pub(crate) fn answer(gateway: &Gateway, lists: &Visibility, kind: &str, name: &str) -> Option<Sights> {
    let own = |scope: mesh_core::visibility::Scope| scope.word();
    let (watched, by_name, list, rules): (_, _, _, Vec<String>) = match kind {
        "context" => {
            let rules = lists
                .contexts
                .iter()
                .map(|r| format!("context = {} → {}", r.context, own(r.scope)))
                .collect();
            (Watched::Context(name.into()), Some(lists.context(name)), "contexts", rules)
        }
        "method" => {
            let rules = lists.methods.iter().map(|r| {
                let method = r.method.as_ref().map(|pattern| format!("method = {pattern}"));
                let parts = method.into_iter().chain(fields(&r.identity)).collect::<Vec<_>>().join(", ");
                format!("{} → {}", any(parts), own(r.scope))
            });
            (Watched::Method(name.into()), None, "methods", rules.collect())
        }
        "app" => {
            let rules = lists.peers.iter().map(|r| {
                let domain = r.area.map(|area| format!("domain = {}", domain(area)));
                let parts = domain.into_iter().chain(fields(&r.identity)).collect::<Vec<_>>().join(", ");
                format!("{} → {}", any(parts), own(r.scope))
            });
            (Watched::App(name.into()), None, "peers", rules.collect())
        }
        _ => return None,
    };
    let configured = rules.len()
        - match kind {
            // The built-in rules stand behind the configured ones; there is none for apps.
            "app" => 0,
            _ => Visibility::BUILT_IN_PER_LIST,
        };
    let rules = rules.into_iter().enumerate().map(|(at, rule)| RuleRow {
        place: if at < configured { format!("visibility.{list}, {}", at + 1) } else { "built in".into() },
        rule,
    });
    let decision = |verdict: mesh_core::visibility::Verdict| Decision {
        scope: verdict.scope.word().to_owned(),
        rule: verdict.rule.map(|at| at + 1),
    };
    let sight = |view: SightView| Sight {
        owner: view.owner.to_string(),
        node: view.node.to_string(),
        domain: view.area.map(|area| domain(area).to_owned()),
        decision: view.verdict.map(decision),
        seen_by: view.seen_by.iter().map(label).collect(),
        hidden_from: view
            .hidden_from
            .iter()
            .map(|(app, why)| Hidden { app: label(app), why: (*why).to_owned() })
            .collect(),
    };
    let sights = gateway.look(|node| node.who_sees(&watched)).into_iter().map(sight).collect();
    Some(Sights { sights, by_name: by_name.map(decision), rules: rules.collect() })
}

fn any(parts: String) -> String {
    if parts.is_empty() { "any".to_owned() } else { parts }
}

fn fields(identity: &mesh_core::visibility::IdentityPatterns) -> impl Iterator<Item = String> {
    identity.iter().map(|(field, pattern)| format!("identity.{field} = {pattern}"))
}

const fn domain(area: Area) -> &'static str {
    match area {
        Area::Interop => "interop",
        Area::Bus => "bus",
    }
}

fn label(app: &Onlooker) -> String {
    format!("{} ({}) on {}", app.application, app.instance, app.node)
}

impl Sights {
    /// Returns the answer as people read it.
    #[must_use]
    pub fn render(&self, name: &str, explain: bool) -> String {
        let mut text = String::new();
        let mut line = |indent: usize, words: &str| {
            text.push_str(&format!("{}{}\n", " ".repeat(indent), printable(words)));
        };
        if self.sights.is_empty() {
            line(0, &format!("There is no {name} at the moment."));
        }
        let because = |decision: &Decision| match decision.rule.and_then(|at| self.rules.get(at - 1)) {
            Some(rule) => format!("{}, by {} ({})", decision.scope, rule.place, rule.rule),
            None => format!("{}, as no rule matches", decision.scope),
        };
        if let Some(decision) = self.by_name.as_ref().filter(|_| self.sights.is_empty()) {
            line(0, &format!("It would be {}.", because(decision)));
        }
        for sight in &self.sights {
            let domain = sight.domain.as_ref().map(|domain| format!(", in {domain}")).unwrap_or_default();
            let decision =
                sight.decision.as_ref().map_or("decided by its own node's lists".to_owned(), because);
            line(0, &format!("{name} of {} on {}{domain}: {decision}", sight.owner, sight.node));
            for app in &sight.seen_by {
                line(2, &format!("seen by      {app}"));
            }
            for Hidden { app, why } in &sight.hidden_from {
                line(2, &format!("hidden from  {app}: {why}"));
            }
            if sight.seen_by.is_empty() && sight.hidden_from.is_empty() {
                line(2, "no other app of that user is there");
            }
        }
        if explain {
            line(0, "");
            line(0, "The rules, of which the first that matches decides:");
            for (at, RuleRow { place, rule }) in self.rules.iter().enumerate() {
                line(2, &format!("{}. {rule}  [{place}]", at + 1));
            }
            line(2, &format!("{}. anything else → cluster", self.rules.len() + 1));
        }
        text
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_answer_names_rule_and_reason() {
        let sights = Sights {
            sights: vec![Sight {
                owner: "ann".into(),
                node: "desk-1".into(),
                domain: None,
                decision: Some(Decision { scope: "local".into(), rule: Some(1) }),
                seen_by: vec!["blotter (i1) on desk-1".into()],
                hidden_from: vec![Hidden { app: "chart (i2) on desk-2".into(), why: "the lists".into() }],
            }],
            by_name: None,
            rules: vec![RuleRow { place: "built in".into(), rule: "context = x → local".into() }],
        };
        assert_eq!(
            sights.render("x", true),
            "\
x of ann on desk-1: local, by built in (context = x → local)
  seen by      blotter (i1) on desk-1
  hidden from  chart (i2) on desk-2: the lists

The rules, of which the first that matches decides:
  1. context = x → local  [built in]
  2. anything else → cluster
"
        );
        let none =
            Sights { by_name: Some(Decision { scope: "cluster".into(), rule: None }), ..Sights::default() };
        assert_eq!(
            none.render("y", false),
            "There is no y at the moment.\nIt would be cluster, as no rule matches.\n"
        );
    }
}
