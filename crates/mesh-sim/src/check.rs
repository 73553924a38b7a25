//! What must hold when all is quiet.

use std::collections::{BTreeMap, BTreeSet};

use mesh_core::{Input, Node};
use mesh_model::{Command, Event, SessionId, Text};
use serde_json::Value;

use crate::app::{App, Pending};
use crate::host::{BYTES_MAX, ENTRIES_MAX};
use crate::value::from_json;
use crate::world::World;

impl World {
    /// What must hold at any time.
    pub(crate) fn look(&mut self) {
        if self.options.old_disks {
            self.copy_disks();
        }
        for host in 0..self.hosts.len() {
            let Some(status) = self.hosts[host].node.as_ref().map(Node::status) else { continue };
            if status.divergences > 0 {
                self.violate(format!("node {host} saw equal vectors with unequal states"));
            }
            if status.entries > ENTRIES_MAX || status.entry_bytes > BYTES_MAX {
                self.violate(format!(
                    "node {host} holds {} entries, {} bytes",
                    status.entries, status.entry_bytes
                ));
            }
        }
    }

    fn hashes(&mut self, when: &str) {
        let nodes: Vec<(u64, u64)> = self
            .hosts
            .iter()
            .filter_map(|host| host.node.as_ref())
            .map(|node| (node.state_hash(), node.status().divergences))
            .collect();
        if nodes.windows(2).any(|pair| pair[0].0 != pair[1].0) {
            self.violate(format!("{when}: the nodes hold different states: {nodes:x?}"));
        }
        if nodes.iter().any(|(_, divergences)| *divergences > 0) {
            self.violate(format!("{when}: equal vectors with unequal states were seen: {nodes:x?}"));
        }
    }

    fn sees(&self, app: usize, other: usize) -> bool {
        let (a, b) = (&self.apps[app], &self.apps[other]);
        app != other && a.user == b.user && (a.host == b.host || self.reaches(a.host, b.host))
    }

    /// Returns whether one node can reach another by itself, or by way of a third.
    fn reaches(&self, from: usize, to: usize) -> bool {
        let by_way_of = |third: usize| self.linked(from, third) && self.linked(third, to);
        self.linked(from, to) || self.options.relay && (0..self.hosts.len()).any(by_way_of)
    }

    fn alive(&self) -> Vec<usize> {
        (0..self.apps.len()).filter(|app| self.apps[*app].alive).collect()
    }

    pub(crate) fn check_quiet(&mut self) {
        if !self.violations.is_empty() {
            return;
        }
        self.hashes("quiet");
        let alive = self.alive();
        for app in alive.iter().copied() {
            let own = &self.apps[app];
            if !own.pending.is_empty() {
                let open: Vec<&Pending> = own.pending.values().collect();
                let what = format!("app {app} on node {}: never answered: {open:?}", own.host);
                return self.violate(what);
            }
            if own.interop {
                let wanted: BTreeMap<Text, BTreeSet<String>> = alive
                    .iter()
                    .map(|other| (*other, &self.apps[*other]))
                    .filter(|(other, peer)| peer.interop && self.sees(app, *other))
                    .filter_map(|(_, peer)| Some((peer.instance.clone()?, peer.own.clone())))
                    .collect();
                if own.known != wanted {
                    let what = format!("app {app} on node {} sees {:?}, not {wanted:?}", own.host, own.known);
                    return self.violate(what);
                }
            }
        }
        let of = |pick: &dyn Fn(&App) -> Vec<u64>| -> Vec<u64> {
            let mut all: Vec<u64> = alive.iter().flat_map(|app| pick(&self.apps[*app])).collect();
            all.sort_unstable();
            all
        };
        let accepted =
            of(&|app| app.asked.values().filter(|a| a.branch.is_some()).map(|asked| asked.token).collect());
        let held = of(&|app| app.held.values().map(|held| held.token).collect());
        if accepted != held {
            self.violate(format!("providers feed subscriptions {accepted:?}, subscribers hold {held:?}"));
        }
        self.check_contexts();
    }

    /// Asks each node for the value of each context, and compares nodes and copies.
    fn check_contexts(&mut self) {
        let mut values: BTreeMap<(&str, Text), (usize, Value)> = BTreeMap::new();
        for host in 0..self.hosts.len() {
            for user in ["ann", "bob"] {
                let mut probe = App::new(host, self.hosts[host].life, SessionId(1 << 40), user);
                let session = probe.session;
                let attach = Command::Attach {
                    request: probe.unanswered(),
                    identity: mesh_model::Json::from_static("{}"),
                    user: Some(user.into()),
                    login: None,
                    service: false,
                };
                let mut names = Vec::new();
                for event in self.ask(host, Input::Session { session, command: attach }) {
                    if let Event::ContextAdded { context, name, creator } = event {
                        self.check_held(host, user, &name, creator.as_ref());
                        names.push((context, name));
                    }
                }
                for (context, name) in names {
                    let request = probe.unanswered();
                    let command = Command::SubscribeContext { request, context: context.clone() };
                    for event in self.ask(host, Input::Session { session, command }) {
                        let Event::ContextSnapshot { data, .. } = event else { continue };
                        let value = from_json(&data);
                        for app in self.alive() {
                            let own = &self.apps[app];
                            let copy = (own.host == host && own.user == user)
                                .then(|| own.contexts.get(&context).and_then(|copy| copy.value.clone()))
                                .flatten();
                            if copy.as_ref().is_some_and(|copy| *copy != value) {
                                let what = format!(
                                    "app {app} on node {host} has {copy:?} of {name}, its node {value}"
                                );
                                self.violate(what);
                            }
                        }
                        match values.get(&(user, name.clone())) {
                            Some((other, known)) if *known != value => {
                                let what =
                                    format!("context {name}: node {other} has {known}, node {host} {value}");
                                self.violate(what);
                            }
                            Some(_) => {}
                            None if host > 0 => {
                                self.violate(format!(
                                    "context {name} of {user} is on node {host}, not on node 0"
                                ));
                            }
                            None => {
                                values.insert((user, name.clone()), (host, value));
                            }
                        }
                    }
                    let request = probe.unanswered();
                    let command = Command::UnsubscribeContext { request, context };
                    self.ask(host, Input::Session { session, command });
                }
                self.ask(host, Input::SessionClosed { session, heard: None });
            }
        }
    }

    /// A context that lives by an application lives no longer than it, however it ended.
    fn check_held(&mut self, host: usize, user: &str, name: &Text, creator: Option<&Text>) {
        let holds = |app: &App| {
            let has = app.contexts.values().any(|copy| copy.name == *name && copy.value.is_some());
            app.alive && app.user == user && has
        };
        let held = match name.as_bytes().first() {
            Some(b'c') => self.apps.iter().any(holds),
            Some(b'o') => self.apps.iter().any(|app| holds(app) && app.instance.as_ref() == creator),
            _ => true,
        };
        if !held {
            self.violate(format!("node {host}: nobody holds context {name} of {user} by {creator:?}"));
        }
    }

    /// Gives a node an input of a session that lives outside of the world, and returns what it is told.
    fn ask(&mut self, host: usize, input: Input) -> Vec<Event> {
        self.input_aside(host, input, |session| session.0 == 1 << 40)
    }

    /// All that is there can be used.
    pub(crate) fn check_alive(&mut self) {
        if !self.violations.is_empty() {
            return;
        }
        let first = self.calls.len();
        let mut published = Vec::new();
        for app in self.alive() {
            let offers: Vec<(Text, String)> = self.apps[app]
                .known
                .iter()
                .filter_map(|(server, ids)| {
                    Some((server.clone(), ids.iter().find(|id| id.starts_with('m'))?.clone()))
                })
                .collect();
            for (server, method) in offers {
                self.call_to(app, server, &method);
            }
            for branch in ["x", "y", "z"] {
                self.push_branch(app, branch);
            }
            if self.apps[app].bus {
                published.push((app, self.publish(app)));
            }
        }
        self.advance(self.now + 4_000_000);
        for call in first..self.calls.len() {
            if !matches!(self.calls[call].ended, Some("ok" | "app_error")) {
                let ended = self.calls[call].ended;
                self.violate(format!("call {call} in quiet times ended as {ended:?}"));
            }
        }
        let fed: Vec<(u64, String, u64)> = self
            .alive()
            .into_iter()
            .flat_map(|app| {
                let own = &self.apps[app];
                own.asked.values().filter_map(|asked| {
                    let branch = asked.branch.clone()?;
                    let n = own.pushed.get(&branch).copied()?;
                    Some((asked.token, branch, n))
                })
            })
            .collect();
        let alive = self.alive();
        for (token, branch, n) in fed {
            let got = alive
                .iter()
                .flat_map(|app| self.apps[*app].held.values())
                .find(|held| held.token == token)
                .and_then(|held| held.last.get(&branch).copied());
            if got != Some(n) {
                self.violate(format!("subscription {token} on branch {branch} got {got:?} last, not {n}"));
            }
        }
        for (from, token) in published {
            for app in alive.iter().copied() {
                let lost = (self.sees(app, from) || app == from)
                    && self.apps[app]
                        .topics
                        .values()
                        .any(|(pattern, seen)| pattern == "t>" && !seen.contains(&token));
                if lost {
                    self.violate(format!("publication {token} of app {from} did not reach app {app}"));
                }
            }
        }
        for (call, record) in self.calls.iter().enumerate() {
            let never = matches!(
                record.ended,
                Some("no_target" | "not_delivered" | "refused" | "denied" | "overloaded")
            );
            if never && record.executions > 0 {
                let what = format!("call {call} ended as {:?} and was run", record.ended);
                return self.violate(what);
            }
        }
    }

    /// When all applications are gone, nothing of them is left.
    pub(crate) fn check_empty(&mut self) {
        if !self.violations.is_empty() {
            return;
        }
        self.hashes("empty");
        for host in 0..self.hosts.len() {
            let Some(node) = self.hosts[host].node.as_ref() else { continue };
            let mut left = tables_left(node);
            let contexts = self.hosts[host].node.as_mut().map(mesh_core::Node::contexts).unwrap_or_default();
            left.extend(contexts.into_iter().map(|c| c.name.to_string()).filter(|c| !c.starts_with('r')));
            if !left.is_empty() {
                self.violate(format!("node {host} without applications keeps {left:?}"));
            }
        }
    }
}

/// Returns what is left of applications on a node that has none.
pub(crate) fn tables_left(node: &Node) -> Vec<String> {
    let status = node.status();
    let mut left = Vec::new();
    if status.sessions + status.methods + status.calls_pending > 0 {
        left.push(format!("{status:?}"));
    }
    let text = format!("{node:?}");
    for table in [
        "interests",
        "branches",
        "subscriptions",
        "remote_branches",
        "invocations",
        "remote",
        "deadlines",
        "instances",
    ] {
        if !text.contains(&format!(", {table}: {{}}")) {
            left.push(table.to_owned());
        }
    }
    if !text.contains("served: Served { calls: {}, ended: [], bytes: 0,") {
        left.push("served".to_owned());
    }
    if text.contains("calls_wait_until: Some") {
        left.push("calls_wait_until".to_owned());
    }
    left
}
