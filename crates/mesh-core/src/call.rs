//! One call's life: from its caller's node to its callee and back, ending exactly once.
//!
//! A call to an instance of this node is an [`Invocation`] that remembers where its answer goes. A call
//! to another node is a [`RemoteCall`] here and an invocation there. The caller's node is the only exit:
//! the first end wins, whatever comes later is for nobody.

use mesh_model::link::LinkMessage;
use mesh_model::trace::{Hop, HopKind, Route, TraceContext};
use mesh_model::{
    Answer, Arguments, CallFailure, CallId, Event, Json, LinkId, NodeId, Outcome, Reason, Request, SessionId,
    Text, Tick, Words,
};

use crate::Output;
use crate::node::Node;
use crate::registry::{Method, RemoteInstance};

/// A method that is running on this node.
#[derive(Debug)]
pub(crate) struct Invocation {
    pub(crate) callee: SessionId,
    reply: Reply,
    deadline: Tick,
    trace: Option<Box<Traced>>,
}

/// Where an answer goes.
#[derive(Clone, Debug)]
enum Reply {
    Local { session: SessionId, request: Request },
    Remote { node: NodeId, link: LinkId, id: CallId },
}

/// A call that another node answers.
#[derive(Debug)]
pub(crate) struct RemoteCall {
    pub(crate) session: SessionId,
    pub(crate) request: Request,
    pub(crate) node: NodeId,
    pub(crate) link: LinkId,
    /// The callee.
    pub(crate) server: Text,
    deadline: Tick,
    trace: Option<Box<Traced>>,
}

/// What is needed to report a traced call once it has ended.
#[derive(Clone, Debug)]
struct Traced {
    hop: Hop,
    /// The hop to the other node, if there is one: its span id.
    forward: Option<u64>,
}

impl Node {
    pub(crate) fn call(
        &mut self,
        session: SessionId,
        request: Request,
        server: &Text,
        method: Json,
        arguments: Arguments,
        trace: Option<TraceContext>,
    ) {
        let target = match self.target(session, server, &method, &arguments) {
            Ok(target) => target,
            Err(refusal) => return self.not_called(session, request, refusal),
        };
        let traced =
            trace.filter(|trace| trace.sampled).map(|trace| self.traced(session, &target, &method, trace));
        match target {
            Target::Local { callee, .. } => {
                let reply = Reply::Local { session, request };
                let caller = self.sessions[&session].instance.clone();
                self.invoke(callee, caller, method, arguments, reply, traced);
            }
            Target::Remote { node, link, .. } => {
                let Some(id) = self.remote_call(session, request, node, link, server, traced.clone()) else {
                    return;
                };
                let trace = traced.and_then(|traced| {
                    let span_id = traced.forward?;
                    Some(TraceContext { trace_id: traced.hop.trace_id, span_id, sampled: true })
                });
                self.send_call(session, link, id, false, server, method, arguments, trace);
            }
        }
    }

    /// Finds where a call or a subscription goes. The checks and their order are those of §6.3.
    pub(crate) fn target(
        &self,
        session: SessionId,
        server: &Text,
        method: &Json,
        arguments: &Arguments,
    ) -> Result<Target, Refusal> {
        let no_target = |what: &str| Refusal::Ended(CallFailure::NoTarget { what: what.into() });
        let own = self.sessions.get(&session).ok_or(Refusal::Refused(Reason::NotAttached))?;
        let local = self.instances.get(server).and_then(|id| self.sessions.get(id).map(|s| (*id, s)));
        let remote = self.remote.get(server);
        let known = local.is_some_and(|(_, s)| s.interop) || remote.is_some();
        if !known {
            return Err(Refusal::Refused(Reason::UnknownServer { server: server.detached() }));
        }
        if !own.interop {
            return Err(Refusal::Refused(Reason::NotJoined { area: "agm" }));
        }
        let both =
            [&arguments.positional, &arguments.named].map(|part| part.as_ref().is_some_and(has_content));
        let oneself = local.is_some_and(|(id, _)| id == session);
        let party = local.map(|(_, server)| server.party()).or(remote.map(RemoteInstance::party));
        let hidden = remote.is_some() && own.interop_local;
        if hidden || !oneself && !party.is_some_and(|party| party.sees(own.party())) {
            return Err(no_target("there is no such peer for this user"));
        }
        let is_for_own = |provider: &Json, method: &Method| oneself || method.is_for(provider, &own.identity);
        let offered = match (local, remote) {
            (Some((_, server)), _) => {
                server.methods.get(method).is_some_and(|m| is_for_own(&server.identity, m))
            }
            (None, Some(row)) => {
                !row.leaving && row.methods.get(method).is_some_and(|m| is_for_own(&row.identity, m))
            }
            (None, None) => false,
        };
        if !offered {
            return Err(no_target("the peer does not offer that method"));
        }
        if both == [true, true] {
            let what = "both `arguments` and `arguments_kv` are given".into();
            return Err(Refusal::Ended(CallFailure::BadRequest { what }));
        }
        if let Some((callee, server)) = local {
            return Ok(Target::Local { callee, name: server.methods[method].name.clone() });
        }
        let row = remote.ok_or_else(|| no_target("the peer is gone"))?;
        let node = self.nodes.get(&row.node);
        let name = node.map(|node| node.name.clone()).unwrap_or_default();
        match node.and_then(|node| node.link.filter(|_| node.shown)) {
            Some(link) => {
                let method_name = row.methods[method].name.clone();
                Ok(Target::Remote { node: row.node, link, node_name: name, name: method_name })
            }
            None => Err(Refusal::Ended(CallFailure::NotDelivered { node: name })),
        }
    }

    pub(crate) fn not_called(&mut self, session: SessionId, request: Request, refusal: Refusal) {
        match refusal {
            Refusal::Refused(reason) => self.refuse(session, request, reason),
            Refusal::Ended(failure) => {
                self.tell(session, Event::CallEnded { request, outcome: Outcome::Failed(failure) });
            }
        }
    }

    /// Opens a row for a call that leaves this node.
    fn remote_call(
        &mut self,
        session: SessionId,
        request: Request,
        node: NodeId,
        link: LinkId,
        server: &Text,
        trace: Option<Box<Traced>>,
    ) -> Option<CallId> {
        let max = self.settings.limits.calls_per_session_max;
        if self.sessions.get(&session)?.calls.len() >= max {
            let limit = format!("calls_per_session_max ({max})").into();
            self.not_called(session, request, Refusal::Ended(CallFailure::Overloaded { limit }));
            return None;
        }
        let id = CallId(self.next_number());
        let deadline = self.now.tick.plus_millis(self.settings.limits.call_ms_max);
        let server = server.detached();
        self.calls.insert(id, RemoteCall { session, request, node, link, server, deadline, trace });
        self.deadlines.insert((deadline, id));
        self.sessions.get_mut(&session)?.calls.insert(id);
        Some(id)
    }

    pub(crate) fn send_call(
        &mut self,
        session: SessionId,
        link: LinkId,
        id: CallId,
        subscribe: bool,
        to: &Text,
        method: Json,
        arguments: Arguments,
        trace: Option<TraceContext>,
    ) {
        let Some(own) = self.sessions.get(&session) else { return };
        let message = LinkMessage::Call {
            id,
            domain: self.settings.domain,
            subscribe,
            from: own.instance.clone(),
            to: to.clone(),
            method,
            arguments,
            millis_left: self.settings.limits.call_ms_max,
            after: self.seq,
            trace,
        };
        self.send_from(session.0, link, message);
    }

    /// Takes a call from another node.
    pub(crate) fn call_arrived(
        &mut self,
        link: LinkId,
        node: NodeId,
        id: CallId,
        subscribe: bool,
        from: &Text,
        to: &Text,
        method: Json,
        arguments: Arguments,
        trace: Option<TraceContext>,
    ) {
        let shown = self.nodes.get(&node).is_some_and(|known| known.shown);
        let caller = self.remote.get(from).filter(|row| row.node == node && shown);
        let callee = self.instances.get(to).copied().and_then(|id| self.sessions.get(&id).map(|s| (id, s)));
        let failure = match (caller, callee) {
            // What the caller's node wrote of it did not arrive in time, or the caller is gone again.
            (None, _) => Some(CallFailure::NotDelivered { node: self.settings.name.clone() }),
            (_, None) => Some(CallFailure::NoTarget { what: "the peer is gone".into() }),
            (Some(row), Some((_, session))) if !session.interop || !session.party().sees(row.party()) => {
                Some(CallFailure::NoTarget { what: "there is no such peer for this user".into() })
            }
            (Some(row), Some((_, session))) => {
                let offered = session.methods.get(&method).is_some_and(|method| {
                    !method.local && !session.interop_local && method.is_for(&session.identity, &row.identity)
                });
                let what = Text::from_static("the peer does not offer that method");
                (!offered).then_some(CallFailure::NoTarget { what })
            }
        };
        let (Some((callee, _)), None) = (callee, &failure) else {
            let failure = failure.unwrap_or(CallFailure::NoTarget { what: "the peer is gone".into() });
            let message = LinkMessage::CallEnd { id, outcome: Outcome::Failed(failure), after: self.seq };
            return self.send_from(id.0, link, message);
        };
        if subscribe {
            return self.subscription_arrived(callee, node, id, from.clone(), method, arguments);
        }
        let traced = trace.filter(|trace| trace.sampled).map(|trace| {
            let name = self.sessions[&callee].methods[&method].name.clone();
            Box::new(Traced {
                hop: Hop {
                    trace_id: trace.trace_id,
                    span_id: trace.child_id(3),
                    parent_span_id: trace.span_id,
                    kind: HopKind::Egress,
                    method: name,
                    start: self.now.tick,
                    end: self.now.tick,
                    route: Route::LocalInstance,
                    caller_application: self.application_of(from),
                    node: self.nodes.get(&node).map(|node| node.name.clone()),
                    outcome: "",
                },
                forward: None,
            })
        });
        self.invoke(callee, from.clone(), method, arguments, Reply::Remote { node, link, id }, traced);
    }

    fn invoke(
        &mut self,
        callee: SessionId,
        caller: Text,
        method: Json,
        arguments: Arguments,
        reply: Reply,
        trace: Option<Box<Traced>>,
    ) {
        let max = self.settings.limits.calls_per_session_max;
        if self.sessions.get(&callee).is_some_and(|s| s.invocations.len() >= max) {
            let limit = format!("calls_per_session_max ({max})").into();
            return self.reply(callee.0, reply, trace, Outcome::Failed(CallFailure::Overloaded { limit }));
        }
        let invocation = self.next_number();
        let deadline = self.now.tick.plus_millis(self.settings.limits.call_ms_max);
        self.invocations.insert(invocation, Invocation { callee, reply, deadline, trace });
        self.deadlines.insert((deadline, CallId(invocation)));
        if let Some(session) = self.sessions.get_mut(&callee) {
            session.invocations.insert(invocation);
        }
        self.tell(callee, Event::Invoke { invocation, method, caller, arguments });
    }

    pub(crate) fn yield_result(&mut self, session: SessionId, invocation: u64, result: Option<Json>) {
        self.end_invocation(session, invocation, Outcome::Answered(Answer::Result(result)));
    }

    /// An error answers an invocation, or rejects or ends a subscription.
    pub(crate) fn fail(
        &mut self,
        session: SessionId,
        request: Request,
        id: u64,
        words: Words,
        context: Option<Json>,
    ) {
        let answer = Answer::Error { words, context };
        if self.end_invocation(session, id, Outcome::Answered(answer.clone()))
            || self.reject(session, id, Outcome::Answered(answer))
        {
            return;
        }
        self.refuse(session, request, Reason::InvalidSubscription);
    }

    /// The callee was not even asked: certainly not run.
    pub(crate) fn not_taken(&mut self, session: SessionId, id: u64, limit: Text) {
        let outcome = Outcome::Failed(CallFailure::Overloaded { limit });
        if !self.end_invocation(session, id, outcome.clone()) {
            self.reject(session, id, outcome);
        }
    }

    /// Ends an invocation if it is this callee's; returns whether it was.
    fn end_invocation(&mut self, callee: SessionId, invocation: u64, outcome: Outcome) -> bool {
        if self.invocations.get(&invocation).is_none_or(|known| known.callee != callee) {
            return false;
        }
        let Some(Invocation { reply, deadline, trace, .. }) = self.invocations.remove(&invocation) else {
            return false;
        };
        self.deadlines.remove(&(deadline, CallId(invocation)));
        if let Some(session) = self.sessions.get_mut(&callee) {
            session.invocations.remove(&invocation);
        }
        self.reply(callee.0, reply, trace, outcome);
        true
    }

    fn reply(&mut self, callee: u64, reply: Reply, trace: Option<Box<Traced>>, outcome: Outcome) {
        if let Some(mut traced) = trace {
            traced.hop.end = self.now.tick;
            traced.hop.outcome = outcome.word();
            self.emit(Output::Hop(Box::new(traced.hop)));
        }
        match reply {
            Reply::Local { session, request } => {
                if self.sessions.contains_key(&session) {
                    self.tell(session, Event::CallEnded { request, outcome });
                }
            }
            Reply::Remote { node, link, id } => {
                // On another link than the one it came by: the caller's node has ended the call when
                // that one broke, so the answer is for nobody.
                if self.nodes.get(&node).and_then(|node| node.link) == Some(link) {
                    let after = self.seq;
                    self.send_from(callee, link, LinkMessage::CallEnd { id, outcome, after });
                }
            }
        }
    }

    /// The callee is gone: whoever waits for it is told at once.
    pub(crate) fn end_invocations_of(&mut self, session: SessionId) {
        let Some(own) = self.sessions.get(&session) else { return };
        for invocation in own.invocations.clone() {
            self.end_invocation(session, invocation, Outcome::Failed(CallFailure::CalleeGone));
        }
        // What it called itself goes on over there and its answers are for nobody, but the session may
        // only have left interop: each of its requests has an end.
        let Some(own) = self.sessions.get_mut(&session) else { return };
        for id in std::mem::take(&mut own.calls) {
            let Some(call) = self.calls.get(&id) else { continue };
            let node = self.nodes.get(&call.node).map(|node| node.name.clone()).unwrap_or_default();
            self.end_call(id, Outcome::Failed(CallFailure::UnknownOutcome { node }));
        }
    }

    /// Takes the end of a call from another node.
    pub(crate) fn call_ended(&mut self, node: NodeId, id: CallId, outcome: Outcome) {
        if self.subscription_refused(node, id, &outcome) {
            return;
        }
        if self.calls.get(&id).is_some_and(|call| call.node == node) {
            self.end_call(id, outcome);
        }
    }

    fn end_call(&mut self, id: CallId, outcome: Outcome) {
        let Some(call) = self.close_call(id) else { return };
        if let Some(traced) = call.trace {
            let mut hop = traced.hop;
            hop.end = self.now.tick;
            hop.outcome = outcome.word();
            if let Some(forward) = traced.forward {
                let forward = Hop {
                    span_id: forward,
                    parent_span_id: hop.span_id,
                    kind: HopKind::Forward,
                    ..hop.clone()
                };
                self.emit(Output::Hop(Box::new(forward)));
            }
            self.emit(Output::Hop(Box::new(hop)));
        }
        if self.sessions.contains_key(&call.session) {
            self.tell(call.session, Event::CallEnded { request: call.request, outcome });
        }
    }

    fn close_call(&mut self, id: CallId) -> Option<RemoteCall> {
        let call = self.calls.remove(&id)?;
        self.deadlines.remove(&(call.deadline, id));
        if let Some(session) = self.sessions.get_mut(&call.session) {
            session.calls.remove(&id);
        }
        Some(call)
    }

    /// A link broke: the calls that went over it may or may not have run.
    pub(crate) fn end_calls_over(&mut self, link: LinkId, node_name: &Text) {
        let broken: Vec<CallId> =
            self.calls.iter().filter(|(_, call)| call.link == link).map(|(id, _)| *id).collect();
        for id in broken {
            let failure = CallFailure::UnknownOutcome { node: node_name.clone() };
            self.end_call(id, Outcome::Failed(failure));
        }
    }

    pub(crate) fn call_timers(&mut self) {
        while let Some((at, id)) = self.deadlines.first().copied() {
            if at > self.now.tick {
                break;
            }
            let millis = self.settings.limits.call_ms_max;
            let outcome = Outcome::Failed(CallFailure::Deadline { millis });
            match self.invocations.get(&id.0).map(|invocation| invocation.callee) {
                // A callee that never answers must not fill up with what it forgot.
                Some(callee) => drop(self.end_invocation(callee, id.0, outcome)),
                None => self.end_call(id, outcome),
            }
            self.deadlines.remove(&(at, id));
        }
    }

    fn traced(
        &mut self,
        session: SessionId,
        target: &Target,
        method: &Json,
        trace: TraceContext,
    ) -> Box<Traced> {
        let salt = self.next_number();
        let span_id = trace.child_id(salt);
        let (name, route, node) = match target {
            Target::Local { name, .. } => (name.clone(), Route::LocalInstance, None),
            Target::Remote { node_name, name, .. } => {
                let here = self.interop_neighbours(session).into_iter().any(|other| {
                    self.sessions
                        .get(&other)
                        .is_some_and(|s| s.methods.values().any(|method| method.name == *name))
                });
                let route = if here { Route::RemoteInstanceChosen } else { Route::RemoteInstanceOnly };
                (name.clone(), route, Some(node_name.clone()))
            }
        };
        debug_assert!(!method.is_null());
        let own = TraceContext { span_id, ..trace };
        Box::new(Traced {
            forward: node.is_some().then(|| own.child_id(2)),
            hop: Hop {
                trace_id: trace.trace_id,
                span_id,
                parent_span_id: trace.span_id,
                kind: HopKind::Ingress,
                method: name,
                start: self.now.tick,
                end: self.now.tick,
                route,
                caller_application: self
                    .sessions
                    .get(&session)
                    .map(|s| s.application.clone())
                    .unwrap_or_default(),
                node,
                outcome: "",
            },
        })
    }

    fn application_of(&self, instance: &Text) -> Text {
        let row = self.remote.get(instance);
        row.and_then(|row| row.identity.member("application"))
            .and_then(|name| name.as_text())
            .unwrap_or_default()
    }
}

/// Where a call goes.
pub(crate) enum Target {
    Local { callee: SessionId, name: Text },
    Remote { node: NodeId, link: LinkId, node_name: Text, name: Text },
}

/// Why it goes nowhere.
pub(crate) enum Refusal {
    Refused(Reason),
    Ended(CallFailure),
}

fn has_content(value: &Json) -> bool {
    !matches!(value.as_bytes().as_ref(), b"null" | b"[]" | b"{}")
}
