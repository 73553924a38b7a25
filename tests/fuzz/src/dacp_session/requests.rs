//! Frames that look like those of a client.

use mesh_model::Text;

use super::{APPS, INTENTS, World};
use crate::choices::Choices;

const KINDS: [&str; 6] = ["x.y", "x.y", "x", "a&b", "a.b", ""];

impl World {
    pub(super) fn context(&mut self, choices: &mut Choices<'_>) -> String {
        let (number, kind) = (self.number(), choices.pick(&KINDS));
        let (mark, kind) = (format!("\"m\":\"~{number}~\""), format!("\"type\":\"{kind}\""));
        match choices.below(12) {
            0 => format!("{{{mark},{kind},\"n\":1.0}}"),
            1 => format!("{{{kind},{mark},\"s\":\"\\ud800\"}}"),
            2 => format!("{{ {kind} , {mark}, \"sp\" : [1 , 2]}}"),
            3 => format!("{{{kind},{mark},\"a\":1,\"a\":2}}"),
            4 => format!("{{{kind},{mark},{kind}}}"),
            5 => format!("{{{mark},\"\\u0074ype\":\"x\",\"b\":12345678901234567890}}"),
            6 => format!("{{{kind},{mark},\"\":null,\"a.b\":{{\"c\":[[[]]]}}}}"),
            7 => format!("{{{mark}}}"),
            8 => format!("{{{kind},{mark},\"__interopIOTracePropagationInfo\":{{\"traceparent\":\"x\"}}}}"),
            _ => format!("{{{kind},{mark}}}"),
        }
    }

    pub(super) fn request(&mut self, desk: usize, at: usize, choices: &mut Choices<'_>) -> String {
        let pick = |from: &[Text], choices: &mut Choices<'_>| match from {
            [] => "null".to_owned(),
            [.., last] if choices.once_in(2) => format!("\"{last}\""),
            from => format!("\"{}\"", from[choices.below(from.len().min(256))]),
        };
        let kind = choices.pick(&["\"x.y\"", "\"x\"", "\"a&b\"", "null", "null", "7"]);
        let intent = choices.pick(&INTENTS);
        let (name, payload) = match choices.below(34) {
            0 => ("getInfo", "{}".to_owned()),
            1 => ("getUserChannels", "{}".into()),
            2 => ("getCurrentChannel", "{}".into()),
            3 => ("getAppMetadata", format!("{{\"app\":{}}}", self.app(choices))),
            4 => ("findInstances", format!("{{\"app\":{}}}", self.app(choices))),
            5 => {
                let context = self.context(choices);
                (
                    "findIntent",
                    format!("{{\"intent\":\"{intent}\",\"context\":{context},\"resultType\":{kind}}}"),
                )
            }
            6 => (
                "findIntentsByContext",
                format!("{{\"context\":{},\"resultType\":{kind}}}", self.context(choices)),
            ),
            7 | 8 => {
                let app = self.app(choices);
                let context = match choices.once_in(2) {
                    true => self.context(choices),
                    false => "null".into(),
                };
                ("open", format!("{{\"app\":{app},\"context\":{context}}}"))
            }
            9 => ("close", "{}".into()),
            10 => ("joinUserChannel", format!("{{\"channelId\":{}}}", pick(&self.channels[..2], choices))),
            11 => ("leaveCurrentChannel", "{}".into()),
            12 => {
                let long = format!("\"{}\"", "n".repeat(1_100));
                let id = match choices.below(6) {
                    0 => long,
                    1 => "\"\"".into(),
                    2 => format!("\"app{}\"", choices.below(8)),
                    _ => pick(&self.channels, choices),
                };
                ("getOrCreateChannel", format!("{{\"channelId\":{id}}}"))
            }
            13 => ("createPrivateChannel", "{}".into()),
            14..=18 => {
                let metadata = choices.pick(&["null", "{\"traceId\":\"t\",\"custom\":{\"a\":1}}", "7"]);
                let (id, context) = (pick(&self.channels, choices), self.context(choices));
                ("broadcast", format!("{{\"channelId\":{id},\"context\":{context},\"metadata\":{metadata}}}"))
            }
            19 => (
                "getCurrentContext",
                format!("{{\"channelId\":{},\"contextType\":{kind}}}", pick(&self.channels, choices)),
            ),
            20 => (
                "clearContext",
                format!("{{\"channelId\":{},\"contextType\":{kind}}}", pick(&self.channels, choices)),
            ),
            21 | 22 => {
                let id = match choices.once_in(3) {
                    true => "null".into(),
                    false => pick(&self.channels, choices),
                };
                ("addContextListener", format!("{{\"channelId\":{id},\"contextType\":{kind}}}"))
            }
            23 => ("addEventListener", "{\"type\":\"USER_CHANNEL_CHANGED\"}".into()),
            24 => (
                "privateChannelAddEventListener",
                format!("{{\"privateChannelId\":{}}}", pick(&self.channels, choices)),
            ),
            25 => {
                ("privateChannelDisconnect", format!("{{\"channelId\":{}}}", pick(&self.channels, choices)))
            }
            26 => {
                let name = choices.pick(&[
                    "contextListenerUnsubscribe",
                    "intentListenerUnsubscribe",
                    "eventListenerUnsubscribe",
                    "privateChannelUnsubscribeEventListener",
                ]);
                (name, format!("{{\"listenerUUID\":{}}}", pick(&self.listeners, choices)))
            }
            27 | 28 => {
                let types = choices.pick(&["null", "[\"x.y\"]", "[\"x\",\"x.y\"]", "[7]"]);
                ("addIntentListener", format!("{{\"intent\":\"{intent}\",\"contextTypes\":{types}}}"))
            }
            29 | 30 => {
                let app = match choices.once_in(2) {
                    true => self.app(choices),
                    false => "null".into(),
                };
                (
                    "raiseIntent",
                    format!(
                        "{{\"intent\":\"{intent}\",\"context\":{},\"app\":{app}}}",
                        self.context(choices)
                    ),
                )
            }
            31 => ("raiseIntentForContext", format!("{{\"context\":{}}}", self.context(choices))),
            32 => {
                let result = match choices.below(4) {
                    0 => "{}".into(),
                    1 => "7".into(),
                    2 => format!(
                        "{{\"channel\":{{\"id\":{},\"type\":\"private\"}}}}",
                        pick(&self.channels, choices)
                    ),
                    _ => format!("{{\"context\":{}}}", self.context(choices)),
                };
                (
                    "intentResult",
                    format!(
                        "{{\"raiseIntentRequestUuid\":{},\"intentResult\":{result}}}",
                        pick(&self.raises, choices)
                    ),
                )
            }
            _ => (choices.pick(&["nonsense", "heartbeatAcknowledgement"]), "{}".into()),
        };
        let number = self.number();
        let uuid = match choices.below(24) {
            0 => "null".into(),
            1 => "\"again\"".into(),
            2 => "{\"a\":[1]}".into(),
            _ => format!("\"q{number}\""),
        };
        let frame = format!(
            "{{\"type\":\"{name}Request\",\"payload\":{payload},\"meta\":{{\"requestUuid\":{uuid}}}}}"
        );
        let name = self.desks[desk].lines[at].instance.as_ref().map_or(0, |name| name.len());
        match choices.below(40) {
            0 => format!("{{\"type\":\"WCP6Goodbye\",\"meta\":{name}}}"),
            1 => frame.replacen("null", choices.pick(&["7", "\"\\ud800\"", "[]", "{}", "tru"]), 1),
            2 => frame.replacen('"', choices.pick(&["", "\\", "\"a\":1,\""]), 1 + choices.below(3)),
            3 => frame.replace("\"payload\"", "\"Payload\""),
            _ => frame,
        }
    }

    pub(super) fn app(&self, choices: &mut Choices<'_>) -> String {
        let instances: Vec<&Text> = self
            .desks
            .iter()
            .flat_map(|desk| &desk.lines)
            .filter_map(|line| line.instance.as_ref())
            .collect();
        let id = choices.pick(&APPS);
        let instance = match (choices.below(3), instances.len()) {
            (0, _) | (_, 0) => String::new(),
            (_, count) => format!(",\"instanceId\":\"{}\"", instances[choices.below(count)]),
        };
        let agent = choices.pick(&["", "", "", ",\"desktopAgent\":\"node1\"", ",\"desktopAgent\":\"node9\""]);
        format!("{{\"appId\":\"{id}\"{instance}{agent}}}")
    }
}
