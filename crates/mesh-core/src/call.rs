//! One call's life: from its caller's node to its callee and back, ending exactly once.
//!
//! A call to an instance of this node is an [`Invocation`] that remembers where its answer goes. A call
//! to another node is a [`RemoteCall`] here and an invocation there. The caller's node is the only exit:
//! the first end wins, whatever comes later is for nobody. If the link breaks meanwhile, the call waits a
//! while for another one, over which its node asks what became of it; see [`served`](crate::served).

use mesh_model::link::LinkMessage;
use mesh_model::trace::{Hop, HopKind, Route, TraceContext};
use mesh_model::{
    Answer, Arguments, CallFailure, CallId, Event, Incarnation, Json, Lane, LinkId, NodeId, Origin, Outcome,
    Reason, Request, SessionId, Text, Tick, Words,
};

use crate::Output;
use crate::node::Node;
use crate::registry::{Method, RemoteInstance};
use crate::served::Known;

/// A method that is running on this node.
#[derive(Clone, Debug)]
pub(crate) struct Invocation {
    pub(crate) callee: SessionId,
    reply: Reply,
    /// The time it has.
    millis: u64,
    deadline: Tick,
    trace: Option<Box<Traced>>,
}

/// Where an answer goes.
#[derive(Clone, Debug)]
enum Reply {
    Local {
        session: SessionId,
        request: Request,
    },
    /// To a life of a node, over whichever link there is to it; `link` is the one over which it asked last.
    Remote {
        origin: Origin,
        link: LinkId,
        id: CallId,
    },
}

/// A call that another node answers.
#[derive(Clone, Debug)]
pub(crate) struct RemoteCall {
    pub(crate) session: SessionId,
    pub(crate) request: Request,
    pub(crate) node: NodeId,
    /// The life of that node.
    life: Incarnation,
    /// The link over which it went, or that node has said that it knows of it.
    link: LinkId,
    /// Whether the callee has it.
    pub(crate) accepted: bool,
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
                let millis = self.settings.limits.call_ms_max;
                self.invoke(callee, caller, method, arguments, millis, reply, traced);
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
        let life = self.links.get(&link).map(|link| link.incarnation).unwrap_or_default();
        let call =
            RemoteCall { session, request, node, life, link, accepted: false, server, deadline, trace };
        self.calls.insert(id, call);
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
            subscribe,
            from: own.instance.clone(),
            to: to.clone(),
            method,
            arguments,
            millis_left: self.settings.limits.call_ms_max,
            after: self.known_to(session.0),
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
        millis_left: u64,
        trace: Option<TraceContext>,
    ) {
        let Some(origin) = self.origin_of(link) else { return };
        let known = if subscribe { None } else { self.served.get(origin, id) };
        match known {
            // Whatever the path it came by, it runs once.
            Some(Known::Running(_) | Known::Fenced) => return,
            Some(Known::Ended(outcome)) => {
                let message = LinkMessage::CallEnd { id, outcome, after: self.seq };
                return self.send_from(id.0, link, message);
            }
            // A call goes out once, and over one link: this one has not run, it is merely late.
            Some(Known::Forgotten) | None => {}
        }
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
            let outcome = Outcome::Failed(failure);
            if !subscribe {
                self.served.end(origin, id, &outcome, self.now.tick);
            }
            return self.send_from(id.0, link, LinkMessage::CallEnd { id, outcome, after: self.seq });
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
        let reply = Reply::Remote { origin, link, id };
        self.invoke(callee, from.clone(), method, arguments, millis_left, reply, traced);
    }

    /// Returns the life of the node at the other end of a link.
    fn origin_of(&self, link: LinkId) -> Option<Origin> {
        self.links.get(&link).map(|link| Origin { node: link.peer, incarnation: link.incarnation })
    }

    /// Returns the link to a node, if it still lives that life.
    fn link_to_life(&self, origin: Origin) -> Option<LinkId> {
        self.link_to(origin.node).filter(|link| self.origin_of(*link) == Some(origin))
    }

    fn invoke(
        &mut self,
        callee: SessionId,
        caller: Text,
        method: Json,
        arguments: Arguments,
        millis_left: u64,
        reply: Reply,
        trace: Option<Box<Traced>>,
    ) {
        let max = self.settings.limits.calls_per_session_max;
        if self.sessions.get(&callee).is_some_and(|s| s.invocations.len() >= max) {
            let limit = format!("calls_per_session_max ({max})").into();
            return self.reply(callee.0, reply, trace, Outcome::Failed(CallFailure::Overloaded { limit }));
        }
        let invocation = self.next_number();
        let millis = match (millis_left, self.settings.limits.call_ms_max) {
            (0, max) => max,
            (left, max) => left.min(max),
        };
        let deadline = self.now.tick.plus_millis(millis);
        let remote = match reply {
            Reply::Remote { origin, id, .. } => Some((origin, id)),
            Reply::Local { .. } => None,
        };
        self.invocations.insert(invocation, Invocation { callee, reply, millis, deadline, trace });
        self.deadlines.insert((deadline, CallId(invocation)));
        if let Some(session) = self.sessions.get_mut(&callee) {
            session.invocations.insert(invocation);
        }
        self.tell(callee, Event::Invoke { invocation, method, caller, arguments });
        if let Some((origin, id)) = remote {
            self.served.run(origin, id, invocation);
            self.unaccepted.insert(invocation);
        }
    }

    /// Tells other nodes of those of their calls that run. Most have ended before, and their end says it all:
    /// until then this life knows that they run, whatever it has told.
    fn accept_calls(&mut self) {
        for invocation in std::mem::take(&mut self.unaccepted) {
            let Some(known) = self.invocations.get(&invocation) else { continue };
            let (callee, Reply::Remote { origin, id, .. }) = (known.callee, known.reply.clone()) else {
                continue;
            };
            if let Some(link) = self.link_to_life(origin) {
                self.send_from(callee.0, link, LinkMessage::Accepted { id });
            }
        }
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

    /// A link had no room for a message. A publication is lost; a call has certainly not run; a stream must not
    /// go on with a hole in it.
    pub(crate) fn not_sent(&mut self, link: LinkId, message: LinkMessage, limit: Text) {
        let Some((peer, message)) = self.addressed(link, message) else { return };
        match message {
            LinkMessage::Call { id, .. } => {
                self.call_ended(peer, id, Outcome::Failed(CallFailure::Overloaded { limit }));
            }
            LinkMessage::BranchData { branch, .. } => self.end_branch_for(peer, branch),
            LinkMessage::PrivateData { id, .. } => self.end_too_slow_for(peer, id),
            _ => {}
        }
    }

    /// Ends an invocation if it is this callee's; returns whether it was.
    fn end_invocation(&mut self, callee: SessionId, invocation: u64, outcome: Outcome) -> bool {
        if self.invocations.get(&invocation).is_none_or(|known| known.callee != callee) {
            return false;
        }
        let Some(Invocation { reply, trace, .. }) = self.close_invocation(invocation) else { return false };
        self.reply(callee.0, reply, trace, outcome);
        true
    }

    fn close_invocation(&mut self, invocation: u64) -> Option<Invocation> {
        let closed = self.invocations.remove(&invocation)?;
        self.unaccepted.remove(&invocation);
        self.deadlines.remove(&(closed.deadline, CallId(invocation)));
        if let Some(session) = self.sessions.get_mut(&closed.callee) {
            session.invocations.remove(&invocation);
        }
        Some(closed)
    }

    fn report_egress(&mut self, trace: Option<Box<Traced>>, outcome: &Outcome) {
        if let Some(mut traced) = trace {
            traced.hop.end = self.now.tick;
            traced.hop.outcome = outcome.word();
            self.emit(Output::Hop(Box::new(traced.hop)));
        }
    }

    fn reply(&mut self, callee: u64, reply: Reply, trace: Option<Box<Traced>>, outcome: Outcome) {
        self.report_egress(trace, &outcome);
        match reply {
            Reply::Local { session, request } => {
                if self.sessions.contains_key(&session) {
                    self.tell(session, Event::CallEnded { request, outcome });
                }
            }
            Reply::Remote { origin, id, .. } => {
                self.served.end(origin, id, &outcome, self.now.tick);
                // Without a link the end waits until it is asked for. Another life of the caller's node may
                // use the same id for another call.
                if let Some(link) = self.link_to_life(origin) {
                    let after = self.known_to(callee);
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
        // Nobody waits for what it called itself, but the session may only have left interop: each of its
        // requests has an end.
        let Some(own) = self.sessions.get_mut(&session) else { return };
        for id in std::mem::take(&mut own.calls) {
            let Some(call) = self.calls.get(&id) else { continue };
            let node = self.nodes.get(&call.node).map(|node| node.name.clone()).unwrap_or_default();
            self.give_up_call(id, Outcome::Failed(CallFailure::UnknownOutcome { node }));
        }
    }

    /// Ends a call that may still run, and says so to the callee's node. Without a link that node hears it
    /// when it is asked for the others.
    fn give_up_call(&mut self, id: CallId, outcome: Outcome) {
        let Some(call) = self.calls.get(&id) else { return };
        let (session, callee) = (call.session, Origin { node: call.node, incarnation: call.life });
        self.end_call(id, outcome);
        if let Some(link) = self.link_to_life(callee) {
            self.send_from(session.0, link, LinkMessage::Cancel { id });
        }
    }

    /// The caller's side gave a call up: it is for nobody any more. Should it come only now, since a large
    /// call travels beside the lanes, it is not run.
    pub(crate) fn call_cancelled(&mut self, link: LinkId, id: CallId) {
        let Some(origin) = self.origin_of(link) else { return };
        match self.served.get(origin, id) {
            Some(Known::Running(invocation)) => self.cancel(origin, id, invocation),
            Some(Known::Ended(_) | Known::Fenced | Known::Forgotten) => {}
            None => self.served.fence(origin, id, self.now.tick),
        }
    }

    /// Forgets an invocation whose caller is gone. Its application cannot be told; what it yields is dropped.
    fn cancel(&mut self, origin: Origin, id: CallId, invocation: u64) {
        let node = self.settings.name.clone();
        let outcome = Outcome::Failed(CallFailure::UnknownOutcome { node });
        self.served.end(origin, id, &outcome, self.now.tick);
        let trace = self.close_invocation(invocation).and_then(|closed| closed.trace);
        self.report_egress(trace, &outcome);
    }

    /// Cancels all calls of some lives of a node.
    pub(crate) fn cancel_all_of(&mut self, node: NodeId, concerned: impl Fn(Origin) -> bool) {
        for (origin, id, invocation) in self.served.running(node) {
            if concerned(origin) {
                self.cancel(origin, id, invocation);
            }
        }
    }

    /// Takes word that a call has been given to its callee.
    pub(crate) fn call_accepted(&mut self, node: NodeId, id: CallId) {
        if let Some(call) = self.calls.get_mut(&id).filter(|call| call.node == node) {
            call.accepted = true;
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

    /// The link to a node broke: the calls that went over it may or may not have run, and wait for a while
    /// for another link, over which that node can say.
    pub(crate) fn calls_wait(&mut self, node: NodeId, until: Tick) {
        let any = self.calls.values().any(|call| call.node == node);
        if let Some(known) = self.nodes.get_mut(&node) {
            known.calls_wait_until = any.then_some(until);
        }
    }

    /// Returns the calls to a node that went over another link than the one that serves.
    fn waiting_calls(&self, node: NodeId) -> Vec<CallId> {
        let link = self.link_to(node);
        let waits = |call: &RemoteCall| call.node == node && Some(call.link) != link;
        self.calls.iter().filter(|(_, call)| waits(call)).map(|(id, _)| *id).collect()
    }

    /// Ends the calls to a node that wait: there is no telling whether they ran.
    pub(crate) fn end_calls_to(&mut self, node: NodeId) {
        let waiting = self.waiting_calls(node);
        let Some(known) = self.nodes.get_mut(&node) else { return };
        known.calls_wait_until = None;
        let name = known.name.clone();
        for id in waiting {
            let failure = CallFailure::UnknownOutcome { node: name.clone() };
            self.end_call(id, Outcome::Failed(failure));
        }
    }

    /// Returns whether a call that went over a link may still be on its way there.
    pub(crate) fn any_on_its_way(&self, link: LinkId) -> bool {
        self.calls.values().any(|call| call.link == link && !call.accepted)
    }

    /// There is a new link to a node: asks it what became of the calls that wait.
    pub(crate) fn attach_calls(&mut self, node: NodeId, link: LinkId) {
        let Some(Origin { incarnation, .. }) = self.origin_of(link) else { return };
        let waiting = self.waiting_calls(node);
        if waiting.iter().any(|id| self.calls.get(id).is_some_and(|call| call.life != incarnation)) {
            // The life that knew of them is over.
            self.end_calls_to(node);
        }
        let calls = self.waiting_calls(node);
        // The node is there, so that its answer only takes as long as other words of an opening.
        let until = self.now.tick.plus_millis(self.settings.timing.open_ms);
        if let Some(known) = self.nodes.get_mut(&node) {
            known.calls_wait_until = (!calls.is_empty()).then_some(until);
        }
        // Even without calls to ask for: those that are not named are given up.
        self.emit(Output::Link { link, lane: Lane::Control, message: LinkMessage::Attach { calls } });
    }

    /// The caller's node asks over a new link what became of its calls.
    pub(crate) fn calls_asked_for(&mut self, link: LinkId, calls: &[CallId]) {
        let Some(origin) = self.origin_of(link) else { return };
        let (mut known, mut unseen, mut forgotten) = (Vec::new(), Vec::new(), Vec::new());
        let mut ended = Vec::new();
        for id in calls.iter().copied() {
            match self.served.get(origin, id) {
                Some(Known::Running(invocation)) => {
                    if let Some(Invocation { reply: Reply::Remote { link: asked_over, .. }, .. }) =
                        self.invocations.get_mut(&invocation)
                    {
                        *asked_over = link;
                    }
                    known.push(id);
                }
                Some(Known::Ended(outcome)) => {
                    ended.push((id, outcome));
                    known.push(id);
                }
                Some(Known::Fenced) => unseen.push(id),
                Some(Known::Forgotten) => forgotten.push(id),
                None => {
                    self.served.fence(origin, id, self.now.tick);
                    unseen.push(id);
                }
            }
        }
        let asked_over_another = |invocation: &u64| {
            let reply = self.invocations.get(invocation).map(|invocation| &invocation.reply);
            matches!(reply, Some(Reply::Remote { link: other, .. }) if *other != link)
        };
        let mut given_up = self.served.running(origin.node);
        given_up.retain(|(_, _, invocation)| asked_over_another(invocation));
        for (origin, id, invocation) in given_up {
            self.cancel(origin, id, invocation);
        }
        let message = LinkMessage::CallState { known, unseen, forgotten };
        self.emit(Output::Link { link, lane: Lane::Control, message });
        for (id, outcome) in ended {
            let after = self.seq;
            self.send_from(id.0, link, LinkMessage::CallEnd { id, outcome, after });
        }
    }

    /// The callee's node says what became of the calls that it was asked for.
    pub(crate) fn calls_told_of(
        &mut self,
        link: LinkId,
        node: NodeId,
        known: &[CallId],
        unseen: &[CallId],
        forgotten: &[CallId],
    ) {
        let name = self.nodes.get(&node).map(|node| node.name.clone()).unwrap_or_default();
        let waits = |call: &RemoteCall| call.node == node && call.link != link;
        for id in known {
            if let Some(call) = self.calls.get_mut(id).filter(|call| waits(call)) {
                call.link = link;
            }
        }
        for id in unseen {
            // What the callee was given cannot be unseen: then that node has lost its memory.
            if self.calls.get(id).is_some_and(|call| waits(call) && !call.accepted) {
                let node = name.clone();
                self.end_call(*id, Outcome::Failed(CallFailure::NotDelivered { node }));
            }
        }
        for id in forgotten {
            if self.calls.get(id).is_some_and(waits) {
                let node = name.clone();
                self.end_call(*id, Outcome::Failed(CallFailure::UnknownOutcome { node }));
            }
        }
        self.end_calls_to(node);
    }

    pub(crate) fn call_timers(&mut self) {
        self.accept_calls();
        while let Some((at, id)) = self.deadlines.first().copied() {
            if at > self.now.tick {
                break;
            }
            let outcome = |millis| Outcome::Failed(CallFailure::Deadline { millis });
            match self.invocations.get(&id.0).map(|invocation| (invocation.callee, invocation.millis)) {
                // A callee that never answers must not fill up with what it forgot.
                Some((callee, millis)) => drop(self.end_invocation(callee, id.0, outcome(millis))),
                None if self.end_unanswered(id) => {}
                None => self.give_up_call(id, outcome(self.settings.limits.call_ms_max)),
            }
            self.deadlines.remove(&(at, id));
        }
        let kept = self.settings.timing.ended_call_ms * 1000;
        if let Some(before) = self.now.tick.0.checked_sub(kept) {
            self.served.forget_until(Tick(before));
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
