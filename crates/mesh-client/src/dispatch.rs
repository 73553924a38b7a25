//! What each message from the node does. Everything here happens in the reader, and nothing waits.

use std::sync::Arc;

use serde_json::{Map, Value};
use tokio::sync::mpsc::error::TrySendError;

use crate::bus::BusMessage;
use crate::connection::{Connection, Effect, Pending, Reply, State};
use crate::error::RequestError;
use crate::identity::Instance;
use crate::message::{Domain, ErrorReply, Incoming, text};
use crate::method::WaitingCall;
use crate::payload::Payload;
use crate::stream::{StreamEvent, StreamSource, WaitingSubscriber, reject_at_once};

impl Connection {
    /// Takes one message. What cannot be read is skipped, like what is unknown: newer nodes may say more.
    pub(crate) fn dispatch(&self, message: &str) {
        let Ok(message) = serde_json::from_str::<Incoming<'_>>(message) else { return };
        match &*message.kind {
            "success" | "error" | "result" | "subscribed" | "context-created" | "subscribed-context" => {
                self.on_reply(&message);
            }
            "peer-added" => self.on_peer_added(message),
            "peer-removed" => {
                self.state().view.remove_peer(text(&message.removed_id));
                self.notify_changes();
            }
            "methods-added" => {
                let methods = message.methods.unwrap_or_default();
                self.state().view.add_methods(text(&message.server_id), methods);
                self.notify_changes();
            }
            "methods-removed" => {
                let methods = message.methods.unwrap_or_default();
                self.state().view.remove_methods(text(&message.server_id), &methods);
                self.notify_changes();
            }
            "invoke" => self.on_invoke(&message),
            "add-interest" => self.on_add_interest(&message),
            "remove-interest" => {
                let mut state = self.state();
                for stream in state.own_streams.values_mut() {
                    stream.remove_subscriber(text(&message.subscription_id));
                }
            }
            "event" => self.on_event(&message),
            "subscription-cancelled" => {
                let source = self.state().stream_sources.remove(text(&message.subscription_id));
                // Ends the feed if it was the last source, outside the lock.
                drop(source);
            }
            "context-added" => {
                self.state().contexts.added(text(&message.name), text(&message.context_id));
                self.notify_changes();
            }
            "context-updated" => {
                if let Some(delta) = message.delta {
                    let updater = message.updater_id.as_ref().map(|id| id.0.as_ref());
                    self.state().contexts.updated(text(&message.context_id), updater, &Payload::new(delta));
                }
            }
            "context-destroyed" => {
                self.state().contexts.destroyed(text(&message.context_id));
                self.notify_changes();
            }
            _ => {}
        }
    }

    fn on_reply(&self, message: &Incoming<'_>) {
        let Some(id) = message.request_id.and_then(|id| id.get().trim_matches('"').parse::<u64>().ok())
        else {
            return;
        };
        let mut state = self.state();
        let Some(Pending { what, reply_tx, effect }) = state.pending.remove(&id) else { return };
        if message.kind == "error" {
            drop(state);
            let reason = match text(&message.reason) {
                "" => "no reason given".to_owned(),
                reason => reason.to_owned(),
            };
            let reason_uri = text(&message.reason_uri).to_owned();
            let _ = reply_tx.send(Err(RequestError::Refused { what, reason, reason_uri }));
            return;
        }
        let unwanted = state.effect(effect, message);
        drop(state);
        if let Some(domain) = unwanted {
            self.unsubscribe(domain, text(&message.subscription_id));
        }
        let _ = reply_tx.send(Ok(Reply {
            kind: message.kind.clone().into_owned(),
            context_id: text(&message.context_id).to_owned(),
            result: message.result.map(ToOwned::to_owned),
        }));
    }

    fn on_peer_added(&self, message: Incoming<'_>) {
        let is_local = message.meta.and_then(|meta| meta.local).unwrap_or(true);
        let peer_id = text(&message.new_peer_id).to_owned();
        let instance = Instance::new(peer_id, is_local, message.identity.unwrap_or_default());
        self.state().view.add_peer(Arc::new(instance));
        self.notify_changes();
    }

    fn on_invoke(&self, message: &Incoming<'_>) {
        let invocation_id = text(&message.invocation_id);
        let refusal = {
            let state = self.state();
            let method = message.method_id.as_ref().and_then(Value::as_str);
            let method = method.and_then(|id| state.own_methods.get(id));
            let call = WaitingCall {
                invocation_id: invocation_id.to_owned(),
                args: Payload::from_option(message.arguments_kv),
                caller: state.instance(text(&message.caller_id)),
            };
            match method.map(|method| method.calls_tx.try_send(call)) {
                Some(Ok(())) => return,
                Some(Err(TrySendError::Full(_))) => "too many calls are waiting for this method; try later",
                Some(Err(TrySendError::Closed(_))) | None => "this app no longer offers the method",
            }
        };
        let body = ErrorReply { reason_uri: CLIENT_ERROR, reason: refusal };
        self.try_tell(Domain::Agm, "error", Some(invocation_id), body);
    }

    fn on_add_interest(&self, message: &Incoming<'_>) {
        let subscription_id = text(&message.subscription_id);
        let refusal = {
            let mut state = self.state();
            let request = WaitingSubscriber {
                subscription_id: subscription_id.to_owned(),
                args: Payload::from_option(message.arguments_kv),
                caller: state.instance(text(&message.caller_id)),
            };
            let method_id = message.method_id.as_ref().and_then(Value::as_str);
            let stream = method_id.and_then(|id| state.own_streams.get_mut(id));
            match stream.map(|stream| stream.ask(request)) {
                Some(Ok(())) => return,
                Some(Err(TrySendError::Full(_))) => "too many subscribers are waiting; try later",
                Some(Err(TrySendError::Closed(_))) | None => "this app no longer offers the stream",
            }
        };
        reject_at_once(self, subscription_id, refusal);
    }

    fn on_event(&self, message: &Incoming<'_>) {
        let state = self.state();
        let id = text(&message.subscription_id);
        if text(&message.domain) == "bus" {
            if let Some(source) = state.bus_sources.get(id) {
                let identity = message.publisher_identity.clone().unwrap_or_default();
                source.sender.push(BusMessage {
                    topic: source.topic.clone(),
                    data: Payload::from_option(message.data),
                    publisher: identity,
                });
            }
        } else if let Some(source) = state.stream_sources.get(id) {
            source.sender.push(StreamEvent {
                data: Payload::from_option(message.data),
                by: source.by.clone(),
                is_private: message.oob.unwrap_or(false),
            });
        }
    }
}

impl State {
    /// Lets a successful reply take effect; returns the domain of a subscription that nobody wants any more.
    fn effect(&mut self, effect: Effect, message: &Incoming<'_>) -> Option<Domain> {
        let subscription_id = || text(&message.subscription_id).to_owned();
        match effect {
            Effect::None => None,
            Effect::StreamSource { sender, .. } if sender.is_abandoned() => Some(Domain::Agm),
            Effect::BusSource { sender, .. } if sender.is_abandoned() => Some(Domain::Bus),
            Effect::StreamSource { feed, by, sender } => {
                self.stream_sources.insert(subscription_id(), StreamSource { feed, by, sender });
                None
            }
            Effect::BusSource { feed, topic, sender } => {
                let source = crate::bus::BusSource { feed, topic, sender };
                self.bus_sources.insert(subscription_id(), source);
                None
            }
            Effect::ContextState { name, created_with } => {
                let data = match (&*message.kind, created_with) {
                    ("context-created", Some(data)) => data,
                    _ => Payload::from_option(message.data).value().unwrap_or_default(),
                };
                self.contexts.joined(&name, text(&message.context_id), data);
                None
            }
            Effect::ContextUpdated { context_id, delta } => {
                self.contexts.updated(&context_id, None, &delta);
                None
            }
        }
    }

    /// The app of that peer; one without a name if it is not known.
    pub(crate) fn instance(&self, peer_id: &str) -> Arc<Instance> {
        match self.view.peer(peer_id) {
            Some(instance) => instance.clone(),
            None => Arc::new(Instance::new(peer_id.to_owned(), true, Map::new())),
        }
    }
}

/// The reason of an app that answers a call with an error.
pub(crate) const CLIENT_ERROR: &str = "agm.errors.client_error";
