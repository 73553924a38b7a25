//! An application as a real client would be one: what it knows, and what it relies on.

use std::collections::{BTreeMap, BTreeSet};

use mesh_model::{
    Answer, Arguments, CallFailure, Cause, Command, Event, Json, Outcome, Request, SessionId, Text,
};
use serde_json::{Value, json};

use crate::value::{apply, from_json, number, to_json};
use crate::world::{Happening, Phase, World};

/// A request that has no answer yet.
#[derive(Clone, Debug)]
pub(crate) enum Pending {
    Attach,
    Join { bus: bool },
    Leave { bus: bool },
    Register(Vec<String>),
    Unregister,
    Call(usize),
    Subscribe(u64),
    Unsubscribe(u64),
    Create(Value),
    Enter,
    Exit(Text),
    Update(Text, Value),
    Destroy,
    BusSubscribe(String),
    BusUnsubscribe(u64),
}

/// A call and all that is known of it.
#[derive(Debug)]
pub(crate) struct CallRecord {
    pub(crate) user: &'static str,
    pub(crate) executions: u32,
    pub(crate) ended: Option<&'static str>,
}

/// A subscription as its provider knows it.
#[derive(Clone, Debug)]
pub(crate) struct Asked {
    pub(crate) token: u64,
    pub(crate) method: String,
    pub(crate) branch: Option<String>,
}

/// A subscription as its subscriber knows it.
#[derive(Clone, Debug, Default)]
pub(crate) struct Held {
    pub(crate) token: u64,
    /// The last number seen per branch; the empty name stands for private data.
    pub(crate) last: BTreeMap<String, u64>,
}

#[derive(Debug)]
pub(crate) struct Copy {
    pub(crate) name: Text,
    /// Present while subscribed.
    pub(crate) value: Option<Value>,
}

#[derive(Debug)]
pub(crate) struct App {
    pub(crate) host: usize,
    pub(crate) life: u64,
    pub(crate) session: SessionId,
    pub(crate) user: &'static str,
    pub(crate) alive: bool,
    pub(crate) closed: bool,
    pub(crate) up: u64,
    pub(crate) down: u64,
    pub(crate) instance: Option<Text>,
    pub(crate) interop: bool,
    pub(crate) bus: bool,
    requests: u64,
    pub(crate) pending: BTreeMap<u64, Pending>,
    pub(crate) known: BTreeMap<Text, BTreeSet<String>>,
    pub(crate) own: BTreeSet<String>,
    /// Invocations not answered yet, with the call they are.
    pub(crate) running: Vec<(u64, usize)>,
    pub(crate) asked: BTreeMap<u64, Asked>,
    pub(crate) held: BTreeMap<u64, Held>,
    pub(crate) pushed: BTreeMap<String, u64>,
    pub(crate) contexts: BTreeMap<Text, Copy>,
    pub(crate) topics: BTreeMap<u64, (String, BTreeSet<u64>)>,
}

impl App {
    pub(crate) const fn new(host: usize, life: u64, session: SessionId, user: &'static str) -> Self {
        Self {
            host,
            life,
            session,
            user,
            alive: true,
            closed: false,
            up: 0,
            down: 0,
            instance: None,
            interop: false,
            bus: false,
            requests: 0,
            pending: BTreeMap::new(),
            known: BTreeMap::new(),
            own: BTreeSet::new(),
            running: Vec::new(),
            asked: BTreeMap::new(),
            held: BTreeMap::new(),
            pushed: BTreeMap::new(),
            contexts: BTreeMap::new(),
            topics: BTreeMap::new(),
        }
    }

    /// Makes a request that will be answered.
    pub(crate) fn request(&mut self, pending: Pending) -> Request {
        let request = self.unanswered();
        self.pending.insert(self.requests, pending);
        request
    }

    /// Makes a request that is answered only when it is refused.
    pub(crate) fn unanswered(&mut self) -> Request {
        self.requests += 1;
        Request { id: to_json(&json!(self.requests)), face: 0 }
    }

    fn leave_interop(&mut self) {
        self.interop = false;
        self.known.clear();
        self.own.clear();
        self.running.clear();
        self.asked.clear();
        self.held.clear();
    }
}

fn text_of(value: &Json) -> String {
    from_json(value).as_str().unwrap_or_default().to_owned()
}

fn id_of(definition: &Json) -> String {
    from_json(definition).get("id").and_then(Value::as_str).unwrap_or_default().to_owned()
}

fn named(arguments: &Arguments, name: &str) -> Option<u64> {
    from_json(arguments.named.as_ref()?).get(name)?.as_u64()
}

impl World {
    pub(crate) fn spawn(&mut self, host: usize) {
        if self.hosts[host].node.is_none() || self.phase == Phase::Quiet {
            return;
        }
        let app = self.apps.len();
        let user = if self.rng.chance(70) { "ann" } else { "bob" };
        self.apps.push(App::new(host, self.hosts[host].life, SessionId(app as u64 + 1), user));
        self.begin(app);
        self.after(5_000, Happening::Act { app });
    }

    /// Sends a command from an application to its node.
    pub(crate) fn command(&mut self, app: usize, command: Command) {
        let delay = self.rng.range(10, 4_000);
        let at = (self.now + delay).max(self.apps[app].up);
        self.apps[app].up = at;
        self.at(at, Happening::Command { app, command: Box::new(command) });
    }

    /// An application ends without a word.
    pub(crate) fn close_app(&mut self, app: usize) {
        if self.apps[app].alive {
            self.apps[app].alive = false;
            let at = (self.now + 100).max(self.apps[app].up);
            self.at(at, Happening::Gone { app });
            if self.phase == Phase::Active {
                let (host, wait) = (self.apps[app].host, self.rng.range(10_000, 1_000_000));
                self.after(wait, Happening::Spawn { host });
            }
        }
    }

    pub(crate) fn begin(&mut self, app: usize) {
        let user = self.apps[app].user;
        let request = self.apps[app].request(Pending::Attach);
        let identity = to_json(&json!({ "application": format!("app-{user}"), "user": "somebody else" }));
        self.command(
            app,
            Command::Attach { request, identity, user: Some(user.into()), login: None, service: false },
        );
    }

    fn wrong(&mut self, app: usize, what: &str) {
        let (host, user) = (self.apps[app].host, self.apps[app].user);
        self.violate(format!("app {app} of {user} on node {host}: {what}"));
    }

    /// Nothing of one user may reach another.
    fn taint(&mut self, app: usize, value: &Json) {
        let other = if self.apps[app].user == "ann" { "bob#" } else { "ann#" };
        if value.to_string().contains(other) {
            self.wrong(app, &format!("got what belongs to another user: {value}"));
        }
    }

    fn answered(&mut self, app: usize, request: &Request) -> Option<Pending> {
        let id = from_json(&request.id).as_u64().unwrap_or(0);
        let pending = self.apps[app].pending.remove(&id);
        if pending.is_none() {
            self.wrong(app, &format!("request {id} was answered twice, or never made"));
        }
        pending
    }

    #[expect(clippy::too_many_lines, reason = "one arm per event")]
    pub(crate) fn app_event(&mut self, app: usize, event: Event) {
        match event {
            Event::Attached { request, instance, .. } => {
                self.answered(app, &request);
                self.apps[app].instance = Some(instance);
            }
            Event::Done { request, .. } => self.done(app, &request),
            Event::Refused { request, reason } => {
                let id = from_json(&request.id).as_u64().unwrap_or(0);
                let pending = self.apps[app].pending.remove(&id);
                if let Some(Pending::Attach | Pending::Join { .. } | Pending::Leave { .. }) = pending {
                    self.wrong(app, &format!("{pending:?} was refused: {reason}"));
                }
                if let Some(Pending::Call(call)) = pending {
                    self.end_call(app, call, "refused");
                }
            }
            Event::InstanceAdded { instance, identity, .. } => {
                let user = from_json(&identity).get("user").and_then(Value::as_str).map(ToOwned::to_owned);
                if user.as_deref() != Some(self.apps[app].user) {
                    self.wrong(app, &format!("sees an instance of another user: {identity}"));
                }
                if self.apps[app].known.insert(instance.clone(), BTreeSet::new()).is_some() {
                    self.wrong(app, &format!("instance {instance} was added twice"));
                }
            }
            Event::InstanceRemoved { instance, cause } => {
                if self.apps[app].known.remove(&instance).is_none() {
                    self.wrong(app, &format!("instance {instance} was removed and not there"));
                }
                if cause == Cause::Unreachable && self.options.keeps_links() {
                    self.wrong(app, &format!("instance {instance} was withdrawn, and nothing was cut"));
                }
            }
            Event::MethodsAdded { server, methods, .. } => {
                let ids: Vec<String> = methods.iter().map(id_of).collect();
                let known = &mut self.apps[app];
                let set = if known.instance.as_ref() == Some(&server) {
                    Some(&mut known.own)
                } else {
                    known.known.get_mut(&server)
                };
                match set {
                    Some(set) => set.extend(ids),
                    None => self.wrong(app, &format!("methods of unknown instance {server}")),
                }
            }
            Event::MethodsRemoved { server, methods } => {
                let ids: Vec<String> = methods.iter().map(text_of).collect();
                let known = &mut self.apps[app];
                let own = known.instance.as_ref() == Some(&server);
                if own {
                    known.asked.retain(|_, asked| !ids.contains(&asked.method));
                }
                let set = if own { Some(&mut known.own) } else { known.known.get_mut(&server) };
                let gone = set.is_some_and(|set| ids.iter().all(|id| set.remove(id)));
                if !gone {
                    self.wrong(app, &format!("methods {ids:?} of {server} were removed and not there"));
                }
            }
            Event::Invoke { invocation, caller, arguments, .. } => {
                let call = named(&arguments, "t").and_then(|call| usize::try_from(call).ok()).unwrap_or(0);
                self.calls[call].executions += 1;
                if self.calls[call].executions > 1 {
                    self.wrong(app, &format!("call {call} was run twice"));
                }
                if self.calls[call].user != self.apps[app].user {
                    self.wrong(app, &format!("call {call} of another user"));
                }
                if !self.apps[app].known.contains_key(&caller)
                    && self.apps[app].instance.as_ref() != Some(&caller)
                {
                    self.wrong(app, &format!("call {call} by {caller}, who is not known here"));
                }
                self.apps[app].running.push((invocation, call));
            }
            Event::CallEnded { request, outcome } => self.call_ended(app, &request, &outcome),
            Event::SubscriptionRequested { subscription, method, arguments, .. } => {
                let token = named(&arguments, "s").unwrap_or(0);
                let asked = Asked { token, method: text_of(&method), branch: None };
                if self.apps[app].asked.insert(subscription, asked).is_some() {
                    self.wrong(app, "a subscription was requested twice");
                }
            }
            Event::SubscriberGone { subscription, .. } => {
                self.apps[app].asked.remove(&subscription);
            }
            Event::Subscribed { request, subscription } => {
                if let Some(Pending::Subscribe(token)) = self.answered(app, &request) {
                    self.apps[app].held.insert(subscription, Held { token, ..Held::default() });
                } else {
                    self.wrong(app, "Subscribed is no answer to that request");
                }
            }
            Event::StreamData { subscription, private, data, .. } => {
                self.received[0] += 1;
                self.taint(app, &data);
                let value = from_json(&data);
                let strict = self.options.faultless();
                let Some(held) = self.apps[app].held.get_mut(&subscription) else {
                    return self.wrong(app, &format!("data for subscription {subscription}, which is none"));
                };
                let branch = value.get("b").and_then(Value::as_str).unwrap_or_default().to_owned();
                let n = number(&value, "n");
                let token = held.token;
                let before = held.last.insert(branch.clone(), n);
                if private && number(&value, "s") != token {
                    self.wrong(app, "private data for another subscription");
                }
                if before.is_some_and(|before| before >= n || (strict && before + 1 != n)) {
                    self.wrong(
                        app,
                        &format!("subscription {subscription}, {branch:?}: {n} after {before:?}"),
                    );
                }
            }
            Event::SubscriptionEnded { subscription, .. } => {
                if self.apps[app].held.remove(&subscription).is_none() {
                    self.wrong(app, &format!("subscription {subscription} ended and is none"));
                }
            }
            Event::ContextAdded { context, name, .. } => {
                let same = self.apps[app].contexts.values().any(|known| known.name == name);
                let copy = Copy { name: name.clone(), value: None };
                if self.apps[app].contexts.insert(context, copy).is_some() || same {
                    self.wrong(app, &format!("context {name} was added twice"));
                }
            }
            Event::ContextCreated { request, context } => {
                if let Some(Pending::Create(data)) = self.answered(app, &request) {
                    self.set_copy(app, &context, data);
                }
            }
            Event::ContextSnapshot { request, context, data, .. } => {
                self.answered(app, &request);
                self.taint(app, &data);
                self.set_copy(app, &context, from_json(&data));
            }
            Event::ContextUpdated { context, delta, .. } => {
                self.received[1] += 1;
                self.taint(app, &delta);
                match self.apps[app].contexts.get_mut(&context).and_then(|known| known.value.as_mut()) {
                    Some(value) => apply(value, &from_json(&delta)),
                    None => self.wrong(app, &format!("a change of context {context}, not subscribed")),
                }
            }
            Event::ContextDestroyed { context, .. } => {
                if self.apps[app].contexts.remove(&context).is_none() {
                    self.wrong(app, &format!("context {context} was destroyed and not there"));
                }
            }
            Event::BusSubscribed { request, subscription } => {
                if let Some(Pending::BusSubscribe(pattern)) = self.answered(app, &request) {
                    self.apps[app].topics.insert(subscription, (pattern, BTreeSet::new()));
                }
            }
            Event::BusEvent { subscription, data, .. } => {
                self.received[2] += 1;
                self.taint(app, &data);
                let token = number(&from_json(&data), "k");
                let Some((_, seen)) = self.apps[app].topics.get_mut(&subscription) else {
                    return self.wrong(app, "a publication for no subscription");
                };
                if !seen.insert(token) {
                    self.wrong(app, &format!("publication {token} came twice"));
                }
            }
        }
    }

    fn set_copy(&mut self, app: usize, context: &Text, value: Value) {
        match self.apps[app].contexts.get_mut(context) {
            Some(known) => known.value = Some(value),
            None => self.wrong(app, &format!("the value of context {context}, which is unknown")),
        }
    }

    fn done(&mut self, app: usize, request: &Request) {
        let Some(pending) = self.answered(app, request) else { return };
        let known = &mut self.apps[app];
        match pending {
            Pending::Join { bus: true } => known.bus = true,
            Pending::Join { bus: false } => known.interop = true,
            Pending::Leave { bus: true } => {
                known.bus = false;
                known.topics.clear();
            }
            Pending::Leave { bus: false } => known.leave_interop(),
            Pending::Unsubscribe(subscription) => {
                known.held.remove(&subscription);
            }
            Pending::Exit(context) => {
                if let Some(copy) = known.contexts.get_mut(&context) {
                    copy.value = None;
                }
            }
            Pending::Update(context, delta) => {
                if let Some(value) = known.contexts.get_mut(&context).and_then(|copy| copy.value.as_mut()) {
                    apply(value, &delta);
                }
            }
            Pending::BusUnsubscribe(subscription) => {
                known.topics.remove(&subscription);
            }
            Pending::Register(ids) => {
                if !ids.iter().all(|id| known.own.contains(id)) {
                    self.wrong(app, "registered, and not told so before");
                }
            }
            Pending::Unregister | Pending::Destroy => {}
            other => self.wrong(app, &format!("Done is no answer to {other:?}")),
        }
    }

    fn call_ended(&mut self, app: usize, request: &Request, outcome: &Outcome) {
        match self.answered(app, request) {
            Some(Pending::Call(call)) => {
                if let Outcome::Answered(Answer::Result(Some(result))) = outcome {
                    self.taint(app, result);
                    if number(&from_json(result), "r") != call as u64 {
                        self.wrong(app, &format!("call {call} got the answer of another"));
                    }
                }
                if let Outcome::Failed(
                    CallFailure::UnknownOutcome { .. } | CallFailure::NotDelivered { .. },
                ) = outcome
                {
                    self.lost_call(app, call, outcome.word());
                }
                let word = match outcome {
                    // The callee's node said so, or this one did: certainly not run.
                    Outcome::Failed(CallFailure::MethodRemoved) => "refused",
                    other => other.word(),
                };
                self.end_call(app, call, word);
            }
            Some(Pending::Subscribe(_)) | None => {}
            Some(other) => self.wrong(app, &format!("CallEnded is no answer to {other:?}")),
        }
    }

    /// Where a link is only replaced by another, its calls end as well as they would without.
    fn lost_call(&mut self, app: usize, call: usize, word: &str) {
        let gave_up = self.apps[app].pending.values().any(|open| matches!(open, Pending::Leave { .. }));
        // A call that came before what its caller's node wrote of it may not be delivered, either.
        let too_early = word == "not_delivered" && !self.options.late_link;
        if self.options.keeps_links() && !gave_up && !too_early {
            self.wrong(app, &format!("call {call} ended as {word}, and nothing was cut"));
        }
    }

    fn end_call(&mut self, app: usize, call: usize, word: &'static str) {
        self.ok += u64::from(word == "ok");
        self.lost[0] += u64::from(word == "not_delivered");
        self.lost[1] += u64::from(word == "unknown_outcome");
        let record = &mut self.calls[call];
        let before = record.ended.replace(word);
        let executions = record.executions;
        if before.is_some() {
            self.wrong(app, &format!("call {call} ended twice"));
        }
        if matches!(word, "ok" | "app_error") && executions != 1 {
            self.wrong(app, &format!("call {call} was answered and ran {executions} times"));
        }
    }
}
