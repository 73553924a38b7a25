//! User channels and app channels.

use mesh_model::{Command, Text};
use proto_bridge::{ChannelLimits, ChannelsState, Exchange, Listeners, Message};
use proto_dacp::{Object, context_type};

use super::policy::{Crossing, Direction};
use super::{Adopted, is_foreign, text};
use crate::channel::TOPIC;
use crate::document::{Cast, Slot};
use crate::{Agent, Output, Pending, app_identifier};

impl Agent {
    /// Tells the bridge of a broadcast, unless it came from there.
    pub(crate) fn cast_to_bridge(&mut self, id: &Text, slot: &Slot, from: Option<&Text>) {
        if !self.bridge.is_on() || from.is_some_and(|from| is_foreign(from)) || !self.speaks() {
            return;
        }
        let app = slot.cast.as_ref().and_then(|cast| text(&cast.source, "appId"));
        if self.is_kept(&Crossing::broadcast(Direction::Out, id, app.as_deref())) {
            return;
        }
        let source = slot.cast.as_ref().map(|cast| self.exported_source(&cast.source)).unwrap_or_default();
        let metadata = self.metadata_to_all(slot.cast.as_ref().and_then(|cast| cast.metadata.as_ref()));
        let payload = Object::new()
            .text("channelId", id)
            .json("context", &slot.context)
            .some("metadata", metadata.as_ref())
            .end();
        let message = Message::request(Exchange::Broadcast, payload, Some(source));
        self.outputs.push_back(Output::Bridge(message));
    }

    /// Hears of broadcasts on all channels of the mesh, as no app here needs to know those of which agents on
    /// the bridge are told.
    pub(super) fn hear_all_channels(&mut self) {
        if std::mem::replace(&mut self.bridge.hears_all, true) {
            return;
        }
        self.ask_desk(Pending::Nothing, |request| Command::BusSubscribe {
            request,
            pattern: format!("{TOPIC}>").into(),
            routing_key: None,
        });
    }

    /// Makes the channel of a broadcast on another node that agents on the bridge are to be told of.
    pub(crate) fn open_for_bridge(&mut self, id: &Text) {
        let is_known = self.channels.by_id.contains_key(id);
        if !is_known && self.has_agents() && self.speaks() && self.add_app_channel(id) {
            self.open_if_started(id);
        }
    }

    /// Takes over what the bridge has on its channels: as state, and not as broadcasts.
    pub(super) fn adopt_state(&mut self, theirs: &ChannelsState, joined: bool) {
        let ours = self.bridge_channels();
        let has = |id: &Text, kind: &Text| {
            ours.contexts(id).any(|context| context_type(context).as_ref() == Some(kind))
        };
        let tellings = ours.clone().adopt(theirs, &ChannelLimits::default());
        for (id, contexts) in theirs.iter() {
            if !self.may_cross(&Crossing::broadcast(Direction::In, id, None)) {
                continue;
            }
            let newest_here = ours.contexts(id).next().cloned();
            let mut taken = Vec::new();
            for (at, context) in contexts.enumerate() {
                let Some(kind) = context_type(context) else { continue };
                let told = |listeners| {
                    tellings.iter().any(|telling| {
                        telling.channel == *id
                            && telling.listeners == listeners
                            && telling.context == *context
                    })
                };
                // Later this agent has heard all broadcasts, and the update may be older than the last one.
                if !joined && has(id, &kind) {
                    continue;
                }
                let is_newest = at == 0 && (joined || newest_here.is_none());
                let same = ours.contexts(id).any(|own| own == context);
                if same && !(is_newest && newest_here.as_ref() != Some(context)) {
                    continue;
                }
                taken.push(Adopted {
                    kind,
                    context: context.clone(),
                    is_newest,
                    heard_by: (told(Listeners::Typed), is_newest && told(Listeners::Untyped)),
                });
            }
            // The oldest first.
            taken.reverse();
            if taken.is_empty() || !self.add_app_channel(id) {
                continue;
            }
            self.bridge.adopting.insert(id.clone(), taken);
            self.open_if_started(id);
            self.adopt_waiting(id);
        }
    }

    /// Takes over what the bridge has on a channel, if the channel is open by now.
    pub(crate) fn adopt_waiting(&mut self, id: &Text) {
        if !self.bridge.adopting.contains_key(id) || !self.is_open(id) {
            return;
        }
        for adopted in self.bridge.adopting.remove(id).unwrap_or_default() {
            let source = app_identifier("unknown", None, None);
            let cast = Cast { event: self.ids.uuid(), source, wall_ms: self.now.wall_ms, metadata: None };
            self.adopt_context(id, adopted, cast);
        }
    }
}
