//! Who is called what (Bridging, step 4, *Auth Confirmation and Name Assignment*).
//!
//! Apps see names of agents and hand them back later, so a name is not given to somebody else soon: it is
//! kept for a while for the agent that had it, which is known by the name it asks for and by what it says
//! of itself.

use std::collections::{BTreeMap, VecDeque};

use mesh_model::{Json, Text};

use crate::bridge::AgentId;

/// Who asks for a name, as far as that can be told.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Applicant {
    /// The name asked for, tidied.
    pub(crate) requested: Text,
    /// Its implementation metadata.
    pub(crate) implementation: Json,
}

#[derive(Debug)]
struct Former {
    name: Text,
    applicant: Applicant,
    until_ms: u64,
}

/// The names of those who are connected, and of those who left lately.
#[derive(Debug, Default)]
pub(crate) struct Names {
    connected: BTreeMap<Text, AgentId>,
    /// Oldest first.
    former: VecDeque<Former>,
}

impl Names {
    pub(crate) fn agent(&self, name: &Text) -> Option<AgentId> {
        self.connected.get(name).copied()
    }

    /// Gives an agent its name: the one it had, or the one it asks for, or that with a number.
    pub(crate) fn assign(&mut self, agent: AgentId, applicant: &Applicant, now_ms: u64) -> Text {
        self.former.retain(|former| former.until_ms > now_ms);
        let back = self.former.iter().rposition(|former| {
            let asked = &applicant.requested;
            let same = former.applicant.requested == *asked || former.name == *asked;
            same && former.applicant.implementation == applicant.implementation
        });
        let name = match back.and_then(|at| self.former.remove(at)) {
            Some(former) => former.name,
            None => self.free(&applicant.requested),
        };
        self.connected.insert(name.clone(), agent);
        name
    }

    /// Takes a name back, and keeps it for who had it.
    pub(crate) fn release(&mut self, name: &Text, applicant: Applicant, until_ms: u64, former_max: usize) {
        self.connected.remove(name);
        self.former.push_back(Former { name: name.clone(), applicant, until_ms });
        while self.former.len() > former_max {
            self.former.pop_front();
        }
    }

    fn free(&self, requested: &Text) -> Text {
        let taken = |name: &Text| {
            self.connected.contains_key(name) || self.former.iter().any(|former| former.name == *name)
        };
        let numbered = (2_u64..).map(|number| Text::from(format!("{requested}-{number}")));
        // Some number is free: there are fewer names than numbers.
        std::iter::once(requested.clone()).chain(numbered).find(|name| !taken(name)).unwrap_or_default()
    }
}

/// Returns a name as it may stand in messages: without white space around it and control characters, not
/// longer than `bytes_max`, and with a word for none.
pub(crate) fn tidied(requested: &str, bytes_max: usize) -> Text {
    let mut name = String::new();
    for c in requested.trim().chars().filter(|c| !c.is_control()) {
        if name.len() + c.len_utf8() > bytes_max {
            break;
        }
        name.push(c);
    }
    Text::from(if name.is_empty() { "agent".to_owned() } else { name })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn applicant(requested: &str, implementation: &'static str) -> Applicant {
        Applicant { requested: Text::from(requested), implementation: Json::from_static(implementation) }
    }

    #[test]
    fn names_are_unique_and_kept_for_who_had_them() {
        let mut names = Names::default();
        let (ours, theirs) = (applicant("agent", "{}"), applicant("agent", r#"{"provider":"p"}"#));
        assert_eq!(names.assign(AgentId(1), &ours, 0), "agent");
        assert_eq!(names.assign(AgentId(2), &theirs, 0), "agent-2");
        assert_eq!(names.assign(AgentId(3), &ours, 0), "agent-3");
        names.release(&Text::from("agent-2"), theirs.clone(), 100, 8);
        names.release(&Text::from("agent"), ours.clone(), 100, 8);
        // Somebody else gets neither, and each gets its own back.
        assert_eq!(names.assign(AgentId(4), &applicant("agent", "[]"), 50), "agent-4");
        assert_eq!(names.assign(AgentId(5), &theirs, 50), "agent-2");
        assert_eq!(names.assign(AgentId(6), &ours, 50), "agent");
        // By its former name, too.
        names.release(&Text::from("agent-2"), theirs, 100, 8);
        assert_eq!(names.assign(AgentId(7), &applicant("agent-2", r#"{"provider":"p"}"#), 60), "agent-2");
        // After the grace period the name is anybody's.
        names.release(&Text::from("agent"), ours, 100, 8);
        assert_eq!(names.assign(AgentId(8), &applicant("agent", "[]"), 100), "agent");
        assert_eq!(names.agent(&Text::from("agent")), Some(AgentId(8)));
    }

    #[test]
    fn names_are_tidied() {
        for (requested, expected) in
            [("  a b ", "a b"), ("", "agent"), ("\n\t", "agent"), ("a\u{7}b", "ab"), ("äöüß", "äöü")]
        {
            assert_eq!(tidied(requested, 6), expected);
        }
    }
}
