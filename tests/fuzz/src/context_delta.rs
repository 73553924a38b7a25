//! Shared contexts: random data and deltas on one node and on two, against a model of their meaning.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use mesh_core::Input;
use mesh_model::{Command, Event, Json, Lifetime, Request, SessionId, Text};
use serde_json::Value;

use crate::choices::Choices;
use crate::mesh::{Mesh, Told};
use crate::model;

/// Names that mean something to somebody, or nearly do.
const NAMES: [&str; 20] = [
    "a",
    "b",
    "c",
    "0",
    "1",
    "2",
    "",
    "00",
    "-1",
    "9",
    "length",
    "__proto__",
    "constructor",
    "__interopIOTracePropagationInfo",
    "\\ud800",
    "\\u0000",
    "\\u00e9",
    "a.b",
    "99999999",
    "\\u0061",
];

/// Two applications on each node: one that writes, and one that keeps a copy.
struct World {
    mesh: Mesh,
    /// The context's id on each node.
    ids: Vec<Option<Text>>,
    /// What each application was told that it asked for, by the number of its request.
    answers: BTreeMap<(usize, u64), Event>,
    /// The copies of those that watch.
    copies: Vec<Option<Value>>,
    requests: u64,
    /// What was asked for, for whoever reads a failure.
    history: Vec<String>,
}

/// Checks what deltas make of a context: on the node, on the other one, and in the copies of clients.
pub fn context_delta(data: &[u8]) {
    let mut choices = Choices::new(data);
    let mode = choices.below(3);
    let nodes = if mode == 0 { 1 } else { 2 };
    let mut world = World {
        mesh: Mesh::new(nodes),
        ids: vec![None; nodes],
        answers: BTreeMap::new(),
        copies: vec![None; nodes],
        requests: 0,
        history: Vec::new(),
    };
    for node in 0..nodes {
        for session in [WRITER, WATCHER] {
            world.ask(node, session, |request| Command::Attach {
                request,
                identity: Json::from_static("{}"),
                user: Some("joe".into()),
                login: None,
                service: false,
            });
        }
    }
    match mode {
        0 | 1 => in_order(&mut world, &mut choices),
        _ => at_once(&mut world, &mut choices),
    }
    world.mesh.check_equal();
}

const WRITER: u64 = 1;
const WATCHER: u64 = 2;

/// One change after the other: the model says what all must have.
fn in_order(world: &mut World, choices: &mut Choices<'_>) {
    let nodes = world.ids.len();
    let data = any_value(choices, 3);
    let mut expected = model::assigned(&plain(&data));
    world.create(0, &data);
    world.mesh.settle();
    world.watch();
    world.check(&expected);
    for _ in 0..12 {
        if choices.is_empty() {
            break;
        }
        let node = choices.below(nodes);
        let delta = any_delta(choices);
        let Some(json) = json(&delta) else { continue };
        let taken = world.update(node, json);
        world.mesh.settle();
        world.listen();
        let read = plain(&delta);
        match model::apply(&expected, &read) {
            Some(next) if taken => expected = next,
            // The node counts the nesting of members that a later one of the same name replaces.
            Some(_) => assert!(read.to_string().len() < delta.len(), "refused: {delta}"),
            None => assert!(!taken, "taken: {delta}"),
        }
        world.check(&expected);
    }
}

/// Changes on both nodes, with frames delivered now and then: all must have the same in the end.
fn at_once(world: &mut World, choices: &mut Choices<'_>) {
    let data = any_value(choices, 2);
    world.create(0, &data);
    if choices.once_in(2) {
        world.mesh.settle();
    }
    let data = any_value(choices, 2);
    world.create(1, &data);
    world.mesh.settle();
    world.listen();
    world.watch();
    for _ in 0..24 {
        if choices.is_empty() {
            break;
        }
        let choice = choices.byte();
        match choice % 8 {
            0..=3 => {
                if let Some(delta) = json(&any_delta(choices)) {
                    world.update(usize::from(choice / 8 % 2), delta);
                }
            }
            4 | 5 => drop(world.mesh.deliver(usize::from(choice / 8))),
            6 => world.mesh.settle(),
            _ if choice / 8 < 4 => {
                world.history.push("cut".into());
                world.mesh.cut();
                world.listen();
            }
            _ => world.mesh.link(),
        }
    }
    world.mesh.link();
    world.mesh.settle();
    world.listen();
    let expected = world.value(0);
    world.check(&expected);
}

impl World {
    fn ask(&mut self, node: usize, session: u64, command: impl FnOnce(Request) -> Command) -> u64 {
        self.requests += 1;
        let number = self.requests;
        let request = Request { id: Json::string(&number.to_string()), face: 0 };
        let session = SessionId(session);
        self.mesh.input(node, Input::Session { session, command: command(request) });
        self.listen();
        number
    }

    /// Takes what was told.
    fn listen(&mut self) {
        while let Some((node, session, told)) = self.mesh.told.pop_front() {
            let Told::Event(event) = told else { continue };
            match *event {
                Event::ContextAdded { context, .. } => {
                    self.ids[node] = Some(context);
                }
                Event::ContextUpdated { delta, .. } if session.0 == WATCHER => {
                    if let Some(copy) = &mut self.copies[node] {
                        model::follow(copy, &plain(&delta.to_string()));
                    }
                }
                Event::Done { ref request, .. }
                | Event::Refused { ref request, .. }
                | Event::ContextCreated { ref request, .. }
                | Event::ContextSnapshot { ref request, .. } => {
                    let number = request.id.as_text().and_then(|id| id.parse().ok()).expect("a number");
                    let before = self.answers.insert((node, number), *event);
                    assert!(before.is_none(), "answered twice: {before:?}");
                }
                _ => {}
            }
        }
    }

    fn create(&mut self, node: usize, data: &str) {
        self.history.push(format!("{node}: create {data}"));
        let data = json(data);
        let number = self.ask(node, WRITER, |request| Command::CreateContext {
            request,
            name: "c".into(),
            data,
            lifetime: Lifetime::Retained,
            permissions: mesh_model::Permissions::default(),
        });
        let answer = self.answers.remove(&(node, number));
        assert!(
            matches!(answer, Some(Event::ContextCreated { .. } | Event::ContextSnapshot { .. })),
            "{answer:?}"
        );
    }

    /// Gives the watchers the value as it is.
    fn watch(&mut self) {
        for node in 0..self.ids.len() {
            self.copies[node] = Some(self.snapshot(node, WATCHER));
        }
    }

    fn update(&mut self, node: usize, delta: Json) -> bool {
        self.history.push(format!("{node}: {delta}"));
        let context = self.ids[node].clone().expect("a context");
        let number = self.ask(node, WRITER, |request| Command::UpdateContext { request, context, delta });
        match self.answers.remove(&(node, number)) {
            Some(Event::Done { .. }) => true,
            Some(Event::Refused { .. }) => false,
            other => panic!("an update was answered with {other:?}"),
        }
    }

    fn snapshot(&mut self, node: usize, session: u64) -> Value {
        let context = self.ids[node].clone().expect("a context");
        let number = self.ask(node, session, |request| Command::SubscribeContext { request, context });
        match self.answers.remove(&(node, number)) {
            Some(Event::ContextSnapshot { data, .. }) => plain(&data.to_string()),
            other => panic!("a subscription was answered with {other:?}"),
        }
    }

    fn value(&mut self, node: usize) -> Value {
        self.snapshot(node, WRITER)
    }

    /// Checks that nodes and copies have the value.
    fn check(&mut self, expected: &Value) {
        for node in 0..self.ids.len() {
            let value = self.value(node);
            assert_eq!(value, *expected, "the value on node {node} after {:#?}", self.history);
            let copy = self.copies[node].as_ref();
            assert_eq!(copy, Some(expected), "the copy on node {node} after {:#?}", self.history);
        }
    }
}

/// Reads a text into plain values, which know no lone surrogates: another character stands for them.
fn plain(text: &str) -> Value {
    serde_json::from_str(&text.replace("\\ud800", "\\ue000")).expect("JSON")
}

fn json(text: &str) -> Option<Json> {
    Json::parse(text.to_owned().into()).ok()
}

fn name(choices: &mut Choices<'_>) -> &'static str {
    // Few names meet more often.
    let few = choices.byte();
    if few < 200 { NAMES[usize::from(few) % 6] } else { choices.pick(&NAMES) }
}

fn any_value(choices: &mut Choices<'_>, levels: usize) -> String {
    let choice = choices.below(if levels == 0 { 8 } else { 16 });
    match choice {
        0 | 1 => choices.byte().to_string(),
        2 => "null".into(),
        3 => "\"\\ud800x\"".into(),
        4 => "{}".into(),
        5 => "[]".into(),
        6 => choices.pick(&["true", "-0.5", "1e3", "9007199254740993", "\"#T42_DATE#1\"", "\"\""]).into(),
        7 => {
            // Seldom: deep values are slow.
            let levels = usize::from(choices.byte().saturating_sub(140));
            format!("{}1{}", "{\"a\":".repeat(levels), "}".repeat(levels))
        }
        8..=10 => {
            let elements: Vec<String> =
                (0..choices.below(4)).map(|_| any_value(choices, levels - 1)).collect();
            format!("[{}]", elements.join(","))
        }
        _ => any_object(choices, levels),
    }
}

fn any_object(choices: &mut Choices<'_>, levels: usize) -> String {
    let mut object = String::from("{");
    for count in 0..choices.below(4) {
        let comma = if count > 0 { "," } else { "" };
        let name = name(choices);
        let value = any_value(choices, levels.saturating_sub(1));
        let _ = write!(object, "{comma}\"{name}\":{value}");
    }
    object + "}"
}

fn any_path(choices: &mut Choices<'_>) -> String {
    let segments = match choices.below(16) {
        0 => return String::new(),
        1 => 1 + usize::from(choices.byte()) / 2,
        few => 1 + few % 4,
    };
    let segments: Vec<&str> = (0..segments).map(|_| name(choices)).collect();
    segments.join(".")
}

fn any_command(choices: &mut Choices<'_>) -> String {
    match choices.below(32) {
        0 => format!("{{\"type\":\"{}\",\"path\":\"a\"}}", name(choices)),
        1 => any_value(choices, 1),
        2 => format!("{{\"type\":\"set\",\"path\":\"{}\"}}", any_path(choices)),
        few if few % 3 == 0 => format!("{{\"type\":\"remove\",\"path\":\"{}\"}}", any_path(choices)),
        _ => {
            let (path, value) = (any_path(choices), any_value(choices, 2));
            format!("{{\"type\":\"set\",\"path\":\"{path}\",\"value\":{value}}}")
        }
    }
}

fn any_delta(choices: &mut Choices<'_>) -> String {
    let form = choices.byte();
    if form == 255 {
        return any_value(choices, 2);
    }
    let mut parts = Vec::new();
    let mut part = |name: &str, choices: &mut Choices<'_>| {
        let value = match (name, choices.below(32)) {
            (_, 0) => "null".into(),
            (_, 1) => any_value(choices, 1),
            ("removed", _) => {
                let names: Vec<String> =
                    (0..choices.below(4)).map(|_| format!("\"{}\"", self::name(choices))).collect();
                format!("[{}]", names.join(","))
            }
            ("commands", _) => {
                let commands: Vec<String> = (0..choices.below(5)).map(|_| any_command(choices)).collect();
                format!("[{}]", commands.join(","))
            }
            _ => any_object(choices, 3),
        };
        parts.push(format!("\"{name}\":{value}"));
    };
    match form % 8 {
        0 => part("reset", choices),
        1..=3 => part("commands", choices),
        4 => part("updated", choices),
        5 => {
            for name in ["added", "updated", "removed"] {
                part(name, choices);
            }
        }
        _ => {
            for _ in 0..1 + form / 8 % 4 {
                let name = choices.pick(&["reset", "added", "updated", "removed", "commands", "other"]);
                part(name, choices);
            }
        }
    }
    format!("{{{}}}", parts.join(","))
}
