//! What comes back, and what is checked of it.

use bytes::Bytes;
use fdc3_agent::{ConnectionId, Output};
use mesh_model::{Json, Text};

use super::{World, add};
use crate::desk::{check_secrets, welcome};
use crate::mesh::Told;

impl World {
    /// Carries out what agents and nodes say, until there is no more.
    pub(super) fn pump(&mut self) {
        loop {
            let mut is_quiet = true;
            for desk in 0..self.desks.len() {
                while let Some(output) = self.desks[desk].agent.poll_output() {
                    is_quiet = false;
                    self.carry_out(desk, output);
                }
            }
            while let Some((node, session, told)) = self.mesh.told.pop_front() {
                is_quiet = false;
                let Told::Event(event) = told else { panic!("a session of ours was closed") };
                let now = self.time();
                if node == 0 && session == self.io {
                    self.io_event(*event);
                } else {
                    self.desks[node].event(session, *event, now);
                }
            }
            if is_quiet {
                return;
            }
        }
    }

    /// The same, with all that is on its way between nodes.
    pub(super) fn settle(&mut self) {
        loop {
            self.pump();
            if !self.mesh.deliver(0) {
                return;
            }
        }
    }

    pub(super) fn quiet(&mut self) {
        self.settle();
    }

    pub(super) fn due(&mut self) {
        let now = self.time();
        self.desks.iter_mut().for_each(|desk| desk.due(now));
        self.pump();
    }

    pub(super) fn carry_out(&mut self, desk: usize, output: Output) {
        let Some(output) = self.desks[desk].obey(desk, &mut self.mesh, output) else { return };
        match output {
            Output::Frame(connection, frame) | Output::Data(connection, frame) => {
                self.told(desk, connection, frame);
            }
            Output::Close(connection, _) | Output::Refuse(connection, _) => {
                let line = self.desks[desk].line(connection);
                let instance = line.and_then(|line| std::mem::take(line).instance);
                self.closed(instance.as_ref());
                let now = self.time();
                self.desks[desk].agent.disconnected(connection, now);
            }
            Output::Launch { instance, secret, .. } => {
                self.secrets.insert(instance.clone(), secret.clone());
                self.launches[desk].push((instance, secret));
            }
            // Now and then nobody can.
            Output::CloseApp(instance) => {
                let now = self.time();
                if self.next.is_multiple_of(2) {
                    self.desks[desk].agent.not_closed(&instance, now);
                }
            }
            _ => {}
        }
    }

    pub(super) fn closed(&mut self, instance: Option<&Text>) {
        let Some((instance, asked)) = instance.and_then(|instance| self.asked.remove_entry(instance)) else {
            return;
        };
        let former = self.former.entry(instance).or_default();
        for (key, (answers, results)) in asked {
            let of = former.entry(key).or_default();
            *of = (of.0 + answers, of.1 + results);
        }
    }

    pub(super) fn told(&mut self, desk: usize, connection: ConnectionId, frame: Bytes) {
        let text = std::str::from_utf8(&frame).expect("a frame is text");
        assert!(serde_json::from_str::<serde::de::IgnoredAny>(text).is_ok(), "not one JSON value: {text}");
        let found = self.desks[desk].lines.iter().position(|line| line.id == Some(connection));
        let at = found.unwrap_or_else(|| panic!("told to nobody: {text}"));
        let json = Json::parse(frame.clone()).expect("a frame is JSON");
        let name = json.member("type").and_then(|name| name.as_text()).expect("a type");
        let payload = json.member("payload").expect("a payload");
        let text_of = |name: &str| payload.member(name).and_then(|value| value.as_text());
        if self.desks[desk].lines[at].instance.is_none() {
            let (instance, secret) = welcome(&name, &payload).unwrap_or_else(|| panic!("no welcome: {text}"));
            if let Some(secret) = secret {
                self.secrets.insert(instance.clone(), secret);
            }
            self.desks[desk].lines[at].instance = Some(instance);
        }
        let me = self.desks[desk].lines[at].instance.clone().expect("set above");
        check_secrets(&self.secrets, Some(&me), text);
        if name.ends_with("Event") {
            if &*name == "broadcastEvent" {
                assert!(
                    !self.desks[desk].lines[at].broadcasts,
                    "a broadcast came back to its sender: {text}"
                );
            }
            if let Some(raise) = text_of("raiseIntentRequestUuid") {
                add(&mut self.raises, raise);
            }
        } else if !name.starts_with("WCP5") && !name.starts_with("WSCP") {
            self.answered(&me, &name, &json, text);
        }
        for id in ["channel", "privateChannel"] {
            if let Some(id) = payload.member(id).and_then(|channel| channel.member("id")?.as_text()) {
                add(&mut self.channels, id);
            }
        }
        if let Some(listener) = text_of("listenerUUID") {
            add(&mut self.listeners, listener);
        }
        self.check_context(&payload, text);
    }

    pub(super) fn answered(&mut self, me: &Text, name: &str, json: &Json, text: &str) {
        let uuid = json.member("meta").and_then(|meta| meta.member("requestUuid")).expect("a request id");
        let is_result = name == "raiseIntentResultResponse";
        let plain = name.strip_suffix("Response").unwrap_or_else(|| panic!("not an answer: {text}"));
        let names = match is_result {
            true => ["raiseIntentRequest".to_owned(), "raiseIntentForContextRequest".to_owned()],
            false => [format!("{plain}Request"), plain.to_owned()],
        };
        for asked in [&mut self.asked, &mut self.former].into_iter().filter_map(|asked| asked.get_mut(me)) {
            for name in &names {
                let Some(of) = asked.get_mut(&(name.clone(), uuid.clone())) else { continue };
                let left = if is_result { &mut of.1 } else { &mut of.0 };
                if *left > 0 {
                    *left -= 1;
                    return;
                }
            }
        }
        panic!("an answer to nothing, or a second one: {text}");
    }

    /// Checks that a context is the one that an FDC3 app has sent.
    pub(super) fn check_context(&self, payload: &Json, text: &str) {
        let source = |name: &str| payload.member(name).and_then(|about| about.member("source"));
        let source = payload.member("originatingApp").or_else(|| source("metadata"));
        let source =
            source.or_else(|| payload.member("resultMetadata").and_then(|about| about.member("source")));
        let app = source.and_then(|source| source.member("appId")?.as_text());
        let context = payload
            .member("context")
            .or_else(|| payload.member("intentResult").and_then(|result| result.member("context")));
        let Some(context) = context.filter(|_| app.is_some_and(|app| *app != *"io")) else { return };
        if let Some(known) = mark_of(&context).and_then(|mark| self.sent.get(&mark)) {
            assert_eq!(context.as_bytes(), known.as_bytes(), "another context than was sent: {text}");
        }
    }
}

pub(super) fn mark_of(context: &Json) -> Option<Text> {
    context.member("m")?.as_text().filter(|mark| mark.starts_with('~'))
}
