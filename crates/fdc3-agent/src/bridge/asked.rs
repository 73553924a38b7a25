//! What agents on the bridge ask.

use mesh_model::{Json, Text};
use proto_bridge::{Answered, Exchange, Message, MessageType, error};
use proto_dacp::{Fault, Object, Request, context_type};

use super::metadata::metadata_in;
use super::names::with_apps;
use super::policy::{Crossing, Direction};
use super::{ID_BYTES_MAX, instance_of, parts, text};
use crate::{Agent, Asker, Output};

impl Agent {
    pub(super) fn bridge_asks(&mut self, exchange: Exchange, message: Message) {
        let Some(request) = message.meta.request.clone() else { return };
        let source = message.meta.source.clone().unwrap_or_default();
        let short = |text: &Option<Text>| text.as_ref().is_none_or(|text| text.len() <= ID_BYTES_MAX);
        let agent = source.desktop_agent.clone().filter(|agent| self.bridge.agents.contains_key(agent));
        let Some(agent) = agent.filter(|_| short(&source.app_id) && short(&source.instance_id)) else {
            if exchange.answered() != Answered::Never {
                let payload = Object::new().text("error", &error::MALFORMED).end();
                self.outputs.push_back(Output::Bridge(Message::response(exchange, request, payload)));
            }
            return;
        };
        self.note_metadata(&agent, &message.payload);
        let asker = Asker {
            instance: instance_of(&agent, &source),
            name: exchange.types().0.into(),
            uuid: Json::string(&request),
        };
        // Of several nodes one speaks for all, and among each other they have the mesh.
        let stands_back = !self.speaks() || self.is_of_mesh(&agent);
        let asked = match exchange {
            Exchange::Broadcast if stands_back => return,
            _ if exchange.answered() == Answered::Collated && stands_back => Err(Fault::NoAppsFound),
            Exchange::Broadcast
            | Exchange::FindIntent
            | Exchange::FindIntentsByContext
            | Exchange::FindInstances
            | Exchange::GetAppMetadata
            | Exchange::Open
            | Exchange::RaiseIntent => self.request_of(exchange, &message.payload),
            Exchange::PrivateBroadcast
            | Exchange::PrivateEventListenerAdded
            | Exchange::PrivateEventListenerRemoved
            | Exchange::PrivateOnAddContextListener
            | Exchange::PrivateOnUnsubscribe
            | Exchange::PrivateOnDisconnect => {
                return self.private_from_bridge(exchange, &agent, &source, &message.payload);
            }
        };
        if let Ok(Request::Broadcast { channel, .. }) = &asked
            && self.is_kept(&Crossing::broadcast(Direction::In, channel, source.app_id.as_deref()))
        {
            return;
        }
        let kept = asked.as_ref().ok().and_then(|request| self.kept_request(request));
        match kept.map_or(asked, Err) {
            Ok(request) => self.request(asker, request),
            Err(fault) => self.answer(&asker, Err(fault)),
        }
    }

    /// Reads what an agent on the bridge asks as what an app would ask.
    fn request_of(&mut self, exchange: Exchange, payload: &Json) -> Result<Request, Fault> {
        let context = payload.member("context").filter(|context| !context.is_null());
        let context = context.map(|context| context.detached());
        let kind = context.as_ref().and_then(context_type).map(|kind| kind.detached());
        if context.is_some() && kind.is_none() {
            return Err(Fault::MalformedContext);
        }
        let needed = |context: Option<Json>| context.ok_or(Fault::MalformedContext);
        let result = text(payload, "resultType");
        let intent = text(payload, "intent").ok_or(Fault::NoAppsFound);
        Ok(match exchange {
            Exchange::FindIntent => Request::FindIntent { intent: intent?, context: kind, result },
            Exchange::FindIntentsByContext => {
                Request::FindIntentsByContext { context: kind.ok_or(Fault::MalformedContext)?, result }
            }
            Exchange::FindInstances => Request::FindInstances { app: self.app_meant(payload)? },
            Exchange::GetAppMetadata => Request::GetAppMetadata { app: Some(self.app_meant(payload)?) },
            Exchange::Open => {
                let app = self.app_meant(payload).map_err(|fault| match fault {
                    Fault::TargetAppUnavailable => Fault::AppNotFound,
                    fault => fault,
                })?;
                Request::Open { app, context, metadata: metadata_in(payload) }
            }
            Exchange::RaiseIntent => Request::RaiseIntent {
                intent: intent?,
                context: needed(context)?,
                app: Some(self.app_meant(payload)?),
                metadata: metadata_in(payload),
            },
            _ => {
                let channel = text(payload, "channelId").ok_or(Fault::NoChannelFound)?;
                if !self.add_app_channel(&channel) {
                    return Err(Fault::CreationFailed);
                }
                Request::Broadcast { channel, context: needed(context)?, metadata: metadata_in(payload) }
            }
        })
    }

    /// Answers an agent on the bridge.
    pub(crate) fn answer_bridge(&mut self, asker: &Asker, answer: Result<Json, Fault>) {
        let Some(request) = asker.uuid.as_text() else { return };
        if !self.bridge.is_on() {
            return;
        }
        let message = match (MessageType::from(asker.name.clone()), answer) {
            (MessageType::Request(exchange), _) if exchange.answered() == Answered::Never => return,
            (MessageType::Request(exchange), Ok(payload)) => {
                let shown = self.shown_apps(Direction::In, exchange, &payload);
                let exported = with_apps(exchange, &shown, &|app| self.exported(app));
                Message::response(exchange, request, exported.unwrap_or(payload))
            }
            (MessageType::Request(exchange), Err(fault)) => {
                let payload = crate::open::fault(of_exchange(exchange, fault));
                Message::response(exchange, request, payload)
            }
            // The second answer to `raiseIntent`.
            (_, Ok(payload)) => {
                let result = payload.member("intentResult").unwrap_or_else(crate::empty);
                let agent = parts(&asker.instance).map_or("", |(agent, ..)| agent);
                let metadata = self.metadata_to(agent, payload.member("resultMetadata").as_ref());
                let payload = Object::new()
                    .json("intentResult", &result)
                    .some("resultMetadata", metadata.as_ref())
                    .end();
                Message::intent_result(request, payload)
            }
            (_, Err(fault)) => Message::intent_result(request, crate::open::fault(fault)),
        };
        self.outputs.push_back(Output::Bridge(message));
    }
}

/// Returns the fault as the error enumeration of an exchange has it.
const fn of_exchange(exchange: Exchange, fault: Fault) -> Fault {
    match (exchange, fault) {
        (_, Fault::DesktopAgentNotFound | Fault::MalformedContext | Fault::ApiTimeout)
        | (Exchange::Open, Fault::AppNotFound | Fault::AppTimeout | Fault::ErrorOnLaunch) => fault,
        (Exchange::Open, _) => Fault::ErrorOnLaunch,
        (
            _,
            Fault::NoAppsFound
            | Fault::TargetAppUnavailable
            | Fault::TargetInstanceUnavailable
            | Fault::IntentDeliveryFailed,
        ) => fault,
        (Exchange::RaiseIntent, _) => Fault::IntentDeliveryFailed,
        _ => Fault::TargetAppUnavailable,
    }
}
