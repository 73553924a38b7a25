//! An io.Connect app beside the FDC3 apps.

use bytes::Bytes;
use mesh_core::Input;
use mesh_model::{Arguments, Command, Event, Json, Lifetime, Permissions, Request, Words};

use super::{INTENTS, World, add};
use crate::choices::Choices;

impl World {
    pub(super) fn io_asks(&mut self, command: impl FnOnce(Request) -> Command) {
        let request = Request { id: Json::assembled(self.number().to_string().into_bytes()), face: 0 };
        self.mesh.input(0, Input::Session { session: self.io, command: command(request) });
        self.pump();
    }

    pub(super) fn io_event(&mut self, event: Event) {
        match event {
            Event::ContextAdded { context, .. } | Event::ContextCreated { context, .. } => {
                add(&mut self.contexts, context);
            }
            Event::ContextDestroyed { context, .. } => self.contexts.retain(|known| *known != context),
            Event::MethodsAdded { server, methods, .. } => {
                for id in methods.iter().filter_map(|method| method.member("id")) {
                    self.methods.push((server.clone(), id));
                }
            }
            Event::MethodsRemoved { server, methods } => {
                let gone: Vec<Json> =
                    methods.iter().map(|m| m.member("id").unwrap_or_else(|| m.clone())).collect();
                self.methods.retain(|(of, id)| *of != server || !gone.contains(id));
            }
            Event::Invoke { invocation, .. } => self.invocations.push(invocation),
            _ => {}
        }
    }

    pub(super) fn io_step(&mut self, choices: &mut Choices<'_>) {
        let json = |text: &str| Json::parse(Bytes::copy_from_slice(text.as_bytes())).expect("JSON");
        match choices.below(8) {
            0 => {
                let intent = choices.pick(&INTENTS);
                let id = self.number();
                let flags = choices.pick(&[
                    "{}",
                    "{\"metadata\":{\"intent\":{\"contextTypes\":[\"x.y\"]}}}",
                    "{\"metadata\":{\"intent\":7}}",
                ]);
                let method = json(&format!(
                    "{{\"id\":{id},\"name\":\"Tick42.FDC3.Intents.{intent}\",\"flags\":{flags}}}"
                ));
                self.io_asks(|request| Command::Register { request, methods: vec![method] });
            }
            1 if !self.methods.is_empty() => {
                let (server, method) = self.methods[choices.below(self.methods.len().min(256))].clone();
                let named = choices.pick(&[
                    "{\"type\":\"x.y\",\"data\":{\"v\":1}}",
                    "{\"type\":\"x.y\"}",
                    "{}",
                    "{\"op\":\"batch\",\"ops\":[{\"op\":\"result\"}]}",
                    "{\"type\":7,\"data\":[]}",
                ]);
                let arguments = Arguments { named: Some(json(named)), ..Arguments::default() };
                self.io_asks(|request| Command::Call { request, server, method, arguments, trace: None });
            }
            2 if !self.invocations.is_empty() => {
                let invocation = self.invocations.remove(choices.below(self.invocations.len().min(256)));
                let result = choices.pick(&[
                    "{}",
                    "{\"type\":\"x\",\"v\":1}",
                    "{\"v\":1}",
                    "{\"fdc3error\":\"no\"}",
                    "{\"fdc3intentChannel\":{\"id\":\"app\",\"type\":\"app\"}}",
                    "{\"fdc3intentContext\":{\"contextType\":\"x\",\"payload\":{\"v\":1}}}",
                    "{\"fdc3intentContext\":7}",
                    "[]",
                ]);
                let result = json(result);
                match choices.once_in(4) {
                    true => self.io_asks(|request| {
                        let words = Words { uri: None, reason: None };
                        Command::Fail { request, id: invocation, words, context: None }
                    }),
                    false => self.io_asks(|_| Command::Yield { invocation, result: Some(result) }),
                }
            }
            3 => {
                let name = choices.pick(&["app", "___channel___Red", "___channel___Mine", "other"]);
                let data = choices.pick(&[
                    "{\"meta\":{\"fdc3\":{\"id\":\"fdc3.channel.1\"}}}",
                    "{\"meta\":{\"fdc3\":{\"id\":\"mine\"}},\"data\":{\"fdc3_x\":{\"v\":1}}}",
                    "{}",
                    "{\"data\":7}",
                ]);
                let data = Some(json(data));
                let (lifetime, permissions) = (Lifetime::Retained, Permissions::default());
                self.io_asks(|request| Command::CreateContext {
                    request,
                    name: name.into(),
                    data,
                    lifetime,
                    permissions,
                });
            }
            4 if !self.contexts.is_empty() && choices.once_in(4) => {
                let context = self.contexts[choices.below(self.contexts.len().min(256))].clone();
                self.io_asks(|request| Command::DestroyContext { request, context });
            }
            _ if !self.contexts.is_empty() => {
                let context = self.contexts[choices.below(self.contexts.len().min(256))].clone();
                let delta = json(choices.pick(&DELTAS));
                self.io_asks(|request| Command::UpdateContext { request, context, delta });
            }
            _ => {}
        }
    }
}

const DELTAS: [&str; 14] = [
    r#"{"commands":[{"type":"set","path":"data.fdc3_x&y","value":{"v":2}},{"type":"set","path":"latest_fdc3_type","value":"x&y"}]}"#,
    r#"{"commands":[{"type":"set","path":"data.fdc3_x&y.v","value":3}]}"#,
    r#"{"commands":[{"type":"set","path":"data.fdc3_x","value":7}]}"#,
    r#"{"commands":[{"type":"remove","path":"data.fdc3_x"}]}"#,
    r#"{"commands":[{"type":"remove","path":"data"}]}"#,
    r#"{"commands":[{"type":"set","path":"data","value":[]}]}"#,
    r#"{"commands":[{"type":"remove","path":"___fdc3___"}]}"#,
    r#"{"commands":[{"type":"set","path":"___fdc3___.x&y","value":7},{"type":"set","path":"meta","value":null}]}"#,
    r#"{"commands":[{"type":"set","path":"latest_fdc3_type","value":"nothing"}]}"#,
    r#"{"reset":{"data":{"fdc3_x":{"v":1},"fdc3_a&b":{}}}}"#,
    r#"{"reset":{}}"#,
    r#"{"updated":{"data":{"fdc3_x":{"w":1}}}}"#,
    r#"{"added":{"data":{"fdc3_":{}}},"removed":["latest_fdc3_type"]}"#,
    r#"{"removed":["data","meta"]}"#,
];
