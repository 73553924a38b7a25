//! What was last broadcast on each channel (Bridging, step 5, *Synchronize the Bridge's Channel State*).

use std::collections::BTreeMap;

use mesh_model::{Json, Key, Kind, Text, json};

/// How much of it is kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ChannelLimits {
    /// Channels (`bridge_channels_max`).
    pub channels_max: usize,
    /// Types of context on one channel (`bridge_context_types_max`).
    pub context_types_max: usize,
    /// Bytes of contexts and ids, over all channels (`bridge_channels_bytes_max`).
    pub bytes_max: usize,
}

impl Default for ChannelLimits {
    fn default() -> Self {
        Self { channels_max: 4_096, context_types_max: 256, bytes_max: 64 << 20 }
    }
}

/// The newest context of each type on each channel, most recent first. User and app channels only.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ChannelsState {
    channels: BTreeMap<Text, Vec<Kept>>,
    bytes: usize,
}

#[derive(Clone, Debug, PartialEq, Eq)]
struct Kept {
    context_type: Text,
    context: Json,
}

/// A context that listeners are to be told of, because their agent has adopted it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Telling {
    /// The channel.
    pub channel: Text,
    /// The context.
    pub context: Json,
    /// Which listeners of the channel.
    pub listeners: Listeners,
}

/// Which context listeners of a channel.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Listeners {
    /// Those for exactly the context's type.
    Typed,
    /// Those for any type.
    Untyped,
}

impl ChannelsState {
    /// Reads the `channelsState` of a handshake or update. What has no `type`, or is no context at all, is
    /// left out: some agents put other things there. `null` is an empty state.
    ///
    /// Returns the state, and the limit that kept something out of it, if one did.
    #[must_use]
    pub fn from_json(value: &Json, limits: &ChannelLimits) -> (Self, Option<&'static str>) {
        let mut state = Self::default();
        let mut reached = None;
        for (channel, contexts) in value.members().unwrap_or_default() {
            let Ok(channel) = Text::from_utf8(channel.0) else { continue };
            for context in contexts.elements().unwrap_or_default() {
                if let Some(context_type) = context_type(&context) {
                    reached = state.append(&channel, context_type, &context, limits).err().or(reached);
                }
            }
        }
        (state, reached)
    }

    /// Writes the state as `channelsState`.
    #[must_use]
    pub fn to_json(&self) -> Json {
        let members = self.channels.iter().map(|(channel, kept)| {
            let mut out = vec![b'['];
            for (at, kept) in kept.iter().enumerate() {
                if at > 0 {
                    out.push(b',');
                }
                out.extend_from_slice(kept.context.as_bytes());
            }
            out.push(b']');
            (Key(channel.as_bytes().clone()), Json::assembled(out))
        });
        let members = members.collect::<Vec<_>>();
        json::object(members.iter().map(|(key, value)| (key, value)))
    }

    /// Returns whether nothing is kept.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.channels.is_empty()
    }

    /// Returns the contexts of a channel, most recent first.
    pub fn contexts(&self, channel: &Text) -> impl Iterator<Item = &Json> {
        self.channels.get(channel).into_iter().flatten().map(|kept| &kept.context)
    }

    /// Returns the channels and their contexts, most recent first.
    pub fn iter(&self) -> impl Iterator<Item = (&Text, impl Iterator<Item = &Json>)> {
        self.channels.iter().map(|(channel, kept)| (channel, kept.iter().map(|kept| &kept.context)))
    }

    /// Takes note of a broadcast: it is the newest of its channel now, and the only one of its type.
    ///
    /// # Errors
    ///
    /// Returns the limit that is reached; the context is not kept then, and neither is an older one of its
    /// type.
    pub fn broadcast(
        &mut self,
        channel: &Text,
        context: &Json,
        limits: &ChannelLimits,
    ) -> Result<(), &'static str> {
        let Some(context_type) = context_type(context) else { return Ok(()) };
        self.remove(channel, &context_type);
        if let Err(limit) = self.room(channel, context, limits) {
            // An empty channel is none.
            self.channels.retain(|_, kept| !kept.is_empty());
            return Err(limit);
        }
        self.bytes += context.len();
        let kept = Kept { context_type: context_type.detached(), context: context.detached() };
        self.channel(channel).insert(0, kept);
        Ok(())
    }

    /// Merges the state of an agent that joins: what is here wins, types that are not are taken as older.
    ///
    /// Returns the limit that kept something out, if one did.
    pub fn merge(&mut self, incoming: &Self, limits: &ChannelLimits) -> Option<&'static str> {
        let mut reached = None;
        for (channel, kept) in &incoming.channels {
            for Kept { context_type, context } in kept {
                reached = self.append(channel, context_type.clone(), context, limits).err().or(reached);
            }
        }
        reached
    }

    /// Adopts the state that a bridge has announced, as an agent, and returns what its listeners are to be
    /// told, in that order (Bridging, step 6, *Connected Agents Update*).
    ///
    /// Nothing of this is a broadcast; what the bridge does not know stays as older.
    pub fn adopt(&mut self, incoming: &Self, limits: &ChannelLimits) -> Vec<Telling> {
        let mut tellings = Vec::new();
        for (channel, kept) in &incoming.channels {
            let own = self.channels.get(channel).map(Vec::as_slice).unwrap_or_default();
            let mut tell = |context: &Json, listeners| {
                tellings.push(Telling { channel: channel.clone(), context: context.clone(), listeners });
            };
            for theirs in kept.iter().rev() {
                let same_type = own.iter().find(|own| own.context_type == theirs.context_type);
                if same_type.is_none_or(|own| own.context != theirs.context) {
                    tell(&theirs.context, Listeners::Typed);
                }
            }
            if let Some(newest) = kept.first()
                && own.first() != Some(newest)
            {
                tell(&newest.context, Listeners::Untyped);
            }
        }
        let own = std::mem::replace(self, incoming.clone());
        self.merge(&own, limits);
        tellings
    }

    /// Adds a context as the oldest, unless there is one of its type.
    fn append(
        &mut self,
        channel: &Text,
        context_type: Text,
        context: &Json,
        limits: &ChannelLimits,
    ) -> Result<(), &'static str> {
        let kept = self.channels.get(channel).map(Vec::as_slice).unwrap_or_default();
        if kept.iter().any(|kept| kept.context_type == context_type) {
            return Ok(());
        }
        self.room(channel, context, limits)?;
        self.bytes += context.len();
        let kept = Kept { context_type: context_type.detached(), context: context.detached() };
        self.channel(channel).push(kept);
        Ok(())
    }

    fn room(&self, channel: &Text, context: &Json, limits: &ChannelLimits) -> Result<(), &'static str> {
        let kept = self.channels.get(channel);
        if kept.is_none() && self.channels.len() >= limits.channels_max {
            return Err("bridge_channels_max");
        }
        if kept.is_some_and(|kept| kept.len() >= limits.context_types_max) {
            return Err("bridge_context_types_max");
        }
        let new_channel = if kept.is_none() { channel.len() } else { 0 };
        if self.bytes + new_channel + context.len() > limits.bytes_max {
            return Err("bridge_channels_bytes_max");
        }
        Ok(())
    }

    fn channel(&mut self, channel: &Text) -> &mut Vec<Kept> {
        if !self.channels.contains_key(channel) {
            self.bytes += channel.len();
        }
        self.channels.entry(channel.detached()).or_default()
    }

    fn remove(&mut self, channel: &Text, context_type: &Text) {
        let Some(kept) = self.channels.get_mut(channel) else { return };
        if let Some(at) = kept.iter().position(|kept| kept.context_type == *context_type) {
            self.bytes -= kept.remove(at).context.len();
        }
    }
}

/// Returns a context's type, if it is one.
pub(crate) fn context_type(context: &Json) -> Option<Text> {
    if context.kind() != Kind::Object {
        return None;
    }
    context.member("type")?.as_text()
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;

    use super::*;

    fn state(text: &str) -> ChannelsState {
        let value = Json::parse(Bytes::copy_from_slice(text.as_bytes())).unwrap();
        ChannelsState::from_json(&value, &ChannelLimits::default()).0
    }

    fn told(own: &str, incoming: &str) -> (String, Vec<String>) {
        let mut own = state(own);
        let tellings = own.adopt(&state(incoming), &ChannelLimits::default());
        let tellings = tellings
            .iter()
            .map(|t| format!("{} {:?} {}", t.channel, t.listeners, t.context))
            .collect::<Vec<_>>();
        (own.to_json().to_string(), tellings)
    }

    #[test]
    fn what_is_there_wins_and_unknown_types_are_older() {
        let mut ours = state(r#"{"red":[{"type":"a","n":1}]}"#);
        let theirs = state(r#"{"red":[{"type":"b"},{"type":"a","n":2}],"blue":[{"type":"a"}]}"#);
        assert_eq!(ours.merge(&theirs, &ChannelLimits::default()), None);
        assert_eq!(
            ours.to_json().to_string(),
            r#"{"blue":[{"type":"a"}],"red":[{"type":"a","n":1},{"type":"b"}]}"#
        );
    }

    #[test]
    fn strange_entries_are_left_out() {
        let odd = r#"{"a":[{"desktopAgent":"x"},null,1,{"type":null},{"type":"t","n":1.0}],"b":null,"c":{}}"#;
        assert_eq!(state(odd).to_json().to_string(), r#"{"a":[{"type":"t","n":1.0}]}"#);
        assert!(state("null").is_empty());
    }

    #[test]
    fn a_broadcast_is_the_newest_and_the_only_one_of_its_type() {
        let mut state = state(r#"{"red":[{"type":"a","n":1},{"type":"b"}]}"#);
        let bytes = state.bytes;
        let newest = Json::from_static(r#"{"type":"b", "n":1.0}"#);
        state.broadcast(&Text::from("red"), &newest, &ChannelLimits::default()).unwrap();
        assert_eq!(state.to_json().to_string(), r#"{"red":[{"type":"b", "n":1.0},{"type":"a","n":1}]}"#);
        assert_eq!(state.bytes, bytes + newest.len() - r#"{"type":"b"}"#.len());
    }

    #[test]
    fn listeners_are_told_once() {
        // A new type: only those who wait for it. The newest is the same for the others.
        let (state, tellings) = told(r#"{"r":[{"type":"a"}]}"#, r#"{"r":[{"type":"a"},{"type":"b"}]}"#);
        assert_eq!(state, r#"{"r":[{"type":"a"},{"type":"b"}]}"#);
        assert_eq!(tellings, [r#"r Typed {"type":"b"}"#]);
        // Another newest value: both kinds. What only we know stays, as older.
        let (state, tellings) =
            told(r#"{"r":[{"type":"a","n":1},{"type":"c"}]}"#, r#"{"r":[{"type":"a","n":2}]}"#);
        assert_eq!(state, r#"{"r":[{"type":"a","n":2},{"type":"c"}]}"#);
        assert_eq!(tellings, [r#"r Typed {"type":"a","n":2}"#, r#"r Untyped {"type":"a","n":2}"#]);
        // The same again: nobody.
        assert_eq!(told(r#"{"r":[{"type":"a"}]}"#, r#"{"r":[{"type":"a"}]}"#).1, [""; 0]);
    }

    #[test]
    fn limits_are_named() {
        let context = Json::from_static(r#"{"type":"a"}"#);
        let (red, blue) = (Text::from("red"), Text::from("blue"));
        let check = |limits: ChannelLimits, channel: &Text, context: &Json, expected: Result<(), &str>| {
            let mut state = state(r#"{"red":[{"type":"x"}]}"#);
            assert_eq!(state.broadcast(channel, context, &limits), expected);
        };
        let wide = ChannelLimits::default();
        check(ChannelLimits { channels_max: 1, ..wide }, &blue, &context, Err("bridge_channels_max"));
        check(ChannelLimits { channels_max: 1, ..wide }, &red, &context, Ok(()));
        check(
            ChannelLimits { context_types_max: 1, ..wide },
            &red,
            &context,
            Err("bridge_context_types_max"),
        );
        check(ChannelLimits { bytes_max: 20, ..wide }, &red, &context, Err("bridge_channels_bytes_max"));
        // One that takes the place of another needs no room for both.
        check(ChannelLimits { bytes_max: 20, ..wide }, &red, &Json::from_static(r#"{"type":"x"}"#), Ok(()));
    }
}
