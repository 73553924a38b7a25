//! Intents: who handles them, raising them, and their results.
//!
//! Handlers are the apps of directories, here and on other nodes, and running instances: of FDC3 apps,
//! and of io.Connect apps that offer a method `Tick42.FDC3.Intents.<intent>`. An intent that is raised
//! gets an id of ours, which its handler names with the result: so nobody answers for somebody else.
//!
//! This file has the words, and the listeners here as other nodes and io.Connect apps see them; who
//! handles an intent is in [`finding`], how it gets there in [`raising`], and its end in [`results`].

mod finding;
mod raising;
mod results;

use mesh_model::{Arguments, Command, Json, SessionId, Text, Words};
use proto_dacp::{AppRef, Object, array, context_type};

use crate::document::with_type;
use crate::{Agent, Asker, Pending};

/// What the methods of intent handlers begin with.
pub(crate) const INTENT: &str = "Tick42.FDC3.Intents.";

/// An intent that waits for its handler to listen.
#[derive(Debug)]
pub(crate) struct Raise {
    intent: Text,
    context: Json,
    kind: Text,
    metadata: Option<Json>,
    source: Json,
    raiser: Raiser,
    /// The instance that is to handle it.
    target: Text,
}

/// Who raised an intent.
#[derive(Clone, Debug)]
pub(crate) enum Raiser {
    /// An app here.
    App(Asker),
    /// The agent of another node: its desk, its invocation, its id for the intent, and the app there.
    Desk { desk: Text, invocation: u64, raise: Text, instance: Option<Text> },
    /// An io.Connect app that has called the method of a handler here.
    Call { session: SessionId, invocation: u64 },
}

/// A result that somebody waits for.
#[derive(Debug)]
pub(crate) struct Owed {
    raiser: Raiser,
    handler: Handler,
    /// Grows from one to the next.
    number: u64,
    /// When it is not waited for any longer, in [`crate::Time::ms`].
    due: u64,
}

/// Who owes it.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Handler {
    /// An app here.
    App(Text),
    /// The agent of another node.
    Desk(Text),
    /// An io.Connect app.
    Server(Text),
}

/// Somebody who handles an intent.
#[derive(Clone, Debug)]
pub(crate) struct Candidate {
    pub(crate) app_id: Text,
    pub(crate) instance: Option<Text>,
    pub(crate) node: Option<Text>,
    pub(crate) about: Json,
    pub(crate) display_name: Option<Text>,
}

/// A search for handlers, which may take its time as agents on the bridge are asked.
#[derive(Debug)]
pub(crate) struct Search {
    pub(crate) asker: Asker,
    /// The intent; none: all that are handled for a type of context.
    pub(crate) intent: Option<Text>,
    pub(crate) found: Vec<(Text, Vec<Candidate>)>,
    pub(crate) purpose: Purpose,
}

/// What a search is for.
#[derive(Debug)]
#[expect(clippy::large_enum_variant, reason = "made and taken once")]
pub(crate) enum Purpose {
    /// To tell.
    Find,
    /// To raise an intent.
    Raise(Raise, Option<AppRef>),
}

impl Agent {
    /// Registers the method of an intent, unless it is.
    pub(crate) fn offer_intent(&mut self, instance: &Text, intent: &Text) {
        let Some(app) = self.apps.get_mut(instance) else { return };
        let Some(session) = app.session.filter(|_| !app.methods.contains_key(intent)) else { return };
        let id = self.next_request;
        app.methods.insert(intent.clone(), id);
        let of_intent = app.intents.values().filter(|listener| listener.intent == *intent);
        let mut types: Vec<Json> = Vec::new();
        for listener in of_intent {
            types.extend(listener.contexts.iter().flatten().map(|kind| Json::string(kind)));
        }
        let record = self.directory.find(&app.app_id);
        let declared = record.and_then(|record| record.intents.iter().find(|own| own.intent == *intent));
        if types.is_empty() {
            types =
                declared.into_iter().flat_map(|own| &own.contexts).map(|kind| Json::string(kind)).collect();
        }
        let about = Object::new()
            .json("contextTypes", &array(&types))
            .some_text("displayName", declared.and_then(|own| own.display_name.as_deref()))
            .some_text("resultType", declared.and_then(|own| own.result_type.as_deref()))
            .end();
        let flags = Object::new()
            .flag("streaming", false)
            .json("metadata", &Object::new().json("intent", &about).end())
            .end();
        let method = Object::new()
            .number("id", id)
            .text("name", &format!("{INTENT}{intent}"))
            .json("flags", &flags)
            .end();
        self.ask(session, Pending::Nothing, |request| Command::Register { request, methods: vec![method] });
    }

    pub(crate) fn intent_listener_gone(&mut self, instance: &Text, intent: &Text) {
        let Some(app) = self.apps.get_mut(instance) else { return };
        if app.intents.values().any(|listener| listener.intent == *intent) {
            return;
        }
        if let (Some(id), Some(session)) = (app.methods.remove(intent), app.session) {
            let method = Json::assembled(id.to_string().into_bytes());
            self.ask(session, Pending::Nothing, |request| Command::Unregister {
                request,
                methods: vec![method],
            });
        }
    }

    /// An io.Connect app calls the method of an intent.
    pub(crate) fn invoked(
        &mut self,
        instance: &Text,
        invocation: u64,
        method: &Json,
        caller: &Text,
        arguments: &Arguments,
    ) {
        let Some(app) = self.apps.get(instance) else { return };
        let Some(session) = app.session else { return };
        let id = method.to_string().parse().ok();
        let intent = app.methods.iter().find(|(_, own)| Some(**own) == id).map(|(intent, _)| intent.clone());
        let given = arguments.named.clone().unwrap_or_else(crate::empty);
        let context = context_of_call(&given);
        let (Some(intent), Some(kind)) = (intent, context_type(&context)) else {
            let words =
                Words { uri: None, reason: Some(Json::string("an intent needs a context with a `type`")) };
            return self.fail_call(session, invocation, words);
        };
        let raise = Raise {
            intent,
            context,
            kind,
            metadata: None,
            source: self.source_of_server(caller),
            raiser: Raiser::Call { session, invocation },
            target: instance.clone(),
        };
        self.deliver_or_wait(raise);
    }
}

/// Returns the FDC3 context in the argument of a call by an io.Connect app: `{type, data}`, where `data`
/// may be the context itself.
fn context_of_call(given: &Json) -> Json {
    let data = given.member("data").filter(|data| data.members().is_some());
    match (given.member("type").and_then(|kind| kind.as_text()), data) {
        (Some(kind), Some(data)) => with_type(&data, &kind, 0).detached(),
        _ => given.detached(),
    }
}
