//! Frames that look like those of a client.

use mesh_model::SessionId;

use super::{Client, Ids, MARKS, Numbers, USERS, World};
use crate::choices::Choices;

impl World {
    pub(super) fn any_session(&self, client: usize, choices: &mut Choices<'_>) -> Option<SessionId> {
        let sessions: Vec<SessionId> = self.clients[client].sessions.keys().copied().collect();
        (!sessions.is_empty()).then(|| sessions[choices.below(sessions.len())])
    }

    /// Lets a provider do something about what it was asked.
    pub(super) fn respond(&mut self, choices: &mut Choices<'_>) {
        let asked = |numbers: &Numbers| !numbers.invocations.is_empty() || !numbers.interests.is_empty();
        let sessions: Vec<SessionId> =
            self.numbers.iter().filter(|(_, numbers)| asked(numbers)).map(|(id, _)| *id).collect();
        if sessions.is_empty() {
            return;
        }
        let session = sessions[choices.below(sessions.len())];
        let Some(client) = self.owners.get(&session).copied() else { return };
        let template = choices.pick(&TEMPLATES[ANSWERING]);
        let frame = self.structured(client, Some(session), template, choices);
        self.frame(client, &frame.into());
    }

    pub(super) fn structured(
        &mut self,
        client: usize,
        session: Option<SessionId>,
        (domain, kind, fields): Template,
        choices: &mut Choices<'_>,
    ) -> String {
        let user = self.clients[client].user;
        let peer = session.and_then(|s| self.clients[client].sessions[&s].clone()).unwrap_or_default();
        self.next_request += 1;
        let mut members: Vec<(String, String)> = vec![
            ("domain".into(), format!("\"{domain}\"")),
            ("type".into(), format!("\"{kind}\"")),
            ("request_id".into(), format!("\"q{}\"", self.next_request)),
            ("peer_id".into(), format!("\"{peer}\"")),
        ];
        let many = choices.byte();
        for (at, (name, field)) in fields.iter().enumerate() {
            if name.ends_with('?') && (many >> (at % 8)) & 1 == 0 {
                continue;
            }
            let value = self.field(*field, client, session, choices);
            members.push((name.trim_end_matches('?').to_owned(), value));
        }
        let damage = choices.byte();
        if damage >= 200 {
            for _ in 0..1 + damage % 3 {
                self.damage(&mut members, user, choices);
            }
        }
        let members: Vec<String> =
            members.iter().map(|(name, value)| format!("\"{name}\":{value}")).collect();
        format!("{{{}}}", members.join(","))
    }

    pub(super) fn damage(&self, members: &mut Vec<(String, String)>, user: usize, choices: &mut Choices<'_>) {
        if members.is_empty() {
            return;
        }
        let at = choices.below(members.len());
        match choices.below(6) {
            0 => drop(members.remove(at)),
            1 => {
                let name = members[at].0.clone();
                members.push((name, odd_value(user, choices)));
            }
            2 => members.rotate_left(at),
            3 => {
                let name = choices.pick(&NAMES).to_owned();
                members.push((name, odd_value(user, choices)));
            }
            _ => members[at].1 = odd_value(user, choices),
        }
    }

    pub(super) fn field(
        &self,
        field: Field,
        client: usize,
        session: Option<SessionId>,
        choices: &mut Choices<'_>,
    ) -> String {
        let Client { user, node, .. } = self.clients[client];
        let mark = MARKS[user];
        let pick = |from: &Ids, wanted: usize, choices: &mut Choices<'_>| {
            let any = choices.once_in(8);
            let from: Vec<&String> =
                from.iter().filter(|(of, _)| any || *of == wanted).map(|(_, id)| id).collect();
            match from.as_slice() {
                [] => "\"p-0\"".to_owned(),
                from => format!("\"{}\"", from[choices.below(from.len().min(256))]),
            }
        };
        let number = |of: fn(&Numbers) -> &Vec<u64>, choices: &mut Choices<'_>| {
            let own = session.filter(|_| !choices.once_in(8));
            let known = self.numbers.iter().filter(|(of, _)| own.is_none_or(|own| own == **of));
            let known: Vec<u64> = known.flat_map(|(_, numbers)| of(numbers)).copied().collect();
            match known.as_slice() {
                [] => "\"r-1\"".to_owned(),
                // Mostly the last one.
                known if choices.once_in(2) => {
                    format!("\"r-{}\"", known[choices.below(known.len().min(256))])
                }
                [.., last] => format!("\"r-{last}\""),
            }
        };
        match field {
            Field::Peer => pick(&self.peers, user, choices),
            Field::Context => pick(&self.contexts, node, choices),
            Field::Invocation => number(|numbers| &numbers.invocations, choices),
            Field::Interest => number(|numbers| &numbers.interests, choices),
            Field::Subscription => number(|numbers| &numbers.subscriptions, choices),
            Field::Any => match choices.below(2) {
                0 => number(|numbers| &numbers.invocations, choices),
                _ => number(|numbers| &numbers.interests, choices),
            },
            Field::Method => choices.pick(&["\"0\"", "1", "\"0\"", "1", "1", "\"1\"", "null", "{}"]).into(),
            Field::Methods => {
                let methods: Vec<String> = (0..choices.below(4))
                    .map(|_| {
                        let id = self.field(Field::Method, client, session, choices);
                        format!("{{\"id\":{id},\"name\":\"{mark}{}\"}}", choices.below(3))
                    })
                    .collect();
                format!("[{}]", methods.join(","))
            }
            Field::MethodIds => {
                let ids: Vec<&str> =
                    (0..choices.below(3)).map(|_| choices.pick(&["\"0\"", "1", "\"1\""])).collect();
                format!("[{}]", ids.join(","))
            }
            Field::Name => format!("\"{mark}{}\"", choices.below(3)),
            Field::Lifetime => choices.pick(&["\"retained\"", "\"ownership\"", "\"ref-counted\""]).into(),
            Field::Branch => choices.pick(&["\"0\"", "\"0\"", "\"1\"", "{}"]).into(),
            Field::Topic => {
                format!("\"{mark}{}\"", choices.pick(&["", ".a", ".*", ">", ".a.b", "*", ".>", ".*.b"]))
            }
            Field::Key => choices.pick(&["\"k\"", "\"l\"", "null", "\"\""]).into(),
            Field::Value => any_value(mark, choices, 2),
            Field::List => format!("[{}]", any_value(mark, choices, 1)),
            Field::Object => {
                format!("{{\"{}\":{}}}", choices.pick(&NAMES), any_value(mark, choices, 1))
            }
            Field::Target => choices
                .pick(&["{}", "{\"user\":\"joe\"}", "{\"user\":\"ann\"}", "{\"machine\":\"node1\"}", "null"])
                .into(),
            Field::Delta => match choices.below(5) {
                0 => format!("{{\"reset\":{{\"a\":{}}}}}", any_value(mark, choices, 2)),
                1 => {
                    let (one, two) = (any_value(mark, choices, 1), any_value(mark, choices, 1));
                    format!("{{\"added\":{{\"a\":{one}}},\"updated\":{{\"b\":{two}}},\"removed\":[\"c\"]}}")
                }
                _ => {
                    let path: Vec<&str> =
                        (0..1 + choices.below(4)).map(|_| choices.pick(&["a", "b", "0", ""])).collect();
                    let (path, kind) = (path.join("."), choices.pick(&["set", "set", "remove"]));
                    let value = any_value(mark, choices, 1);
                    format!(
                        "{{\"commands\":[{{\"type\":\"{kind}\",\"path\":\"{path}\",\"value\":{value}}}]}}"
                    )
                }
            },
            Field::Destination => choices
                .pick(&["\"agm\"", "\"bus\"", "\"context\"", "\"metrics\"", "\"x\"", "\"global\""])
                .into(),
            Field::Identity => match choices.below(4) {
                0 => format!("{{\"application\":\"{mark}\",\"instance\":\"{}\"}}", choices.below(2)),
                1 => format!("{{\"application\":\"{mark}\",\"instance\":\"?\",\"user\":\"ann\"}}"),
                2 => any_value(mark, choices, 1),
                _ => format!("{{\"application\":\"{mark}\"}}"),
            },
            Field::Login => match choices.below(4) {
                0 => "{\"method\":\"gateway-token\",\"token\":\"t\"}".into(),
                1 => "{\"method\":\"secret\",\"login\":\"eve\",\"secret\":\"\"}".into(),
                _ => format!("{{\"method\":\"secret\",\"login\":\"{}\",\"secret\":\"\"}}", USERS[user]),
            },
            Field::Word => choices.pick(&["\"why\"", "null", "7", "{\"a\":1}"]).into(),
        }
    }
}

/// What a field of a template holds.
#[derive(Clone, Copy)]
pub(super) enum Field {
    Peer,
    Context,
    Invocation,
    Interest,
    Subscription,
    /// An invocation, or a subscription that was requested.
    Any,
    Method,
    Methods,
    MethodIds,
    Name,
    Lifetime,
    Branch,
    Topic,
    Key,
    Value,
    List,
    Object,
    Target,
    Delta,
    Destination,
    Identity,
    Login,
    Word,
}

/// Domain, type, and fields; those with a question mark are there or not.
pub(super) type Template = (&'static str, &'static str, &'static [(&'static str, Field)]);

const WORDS: [(&str, Field); 2] = [("reason_uri?", Field::Word), ("reason?", Field::Word)];
const CALL: &[(&str, Field)] = &[
    ("server_id", Field::Peer),
    ("method_id", Field::Method),
    ("arguments?", Field::List),
    ("arguments_kv?", Field::Object),
    ("context?", Field::Value),
    ("flags?", Field::Value),
];
const DROP: &[(&str, Field)] = &[("subscription_id", Field::Interest), WORDS[0], WORDS[1]];
const UNSUBSCRIBE: &[(&str, Field)] = &[("subscription_id", Field::Subscription), WORDS[0], WORDS[1]];
const CREATE: &[(&str, Field)] =
    &[("name", Field::Name), ("data?", Field::Value), ("lifetime", Field::Lifetime)];
const CONTEXT: &[(&str, Field)] = &[("context_id", Field::Context)];
const UPDATE: &[(&str, Field)] = &[("context_id", Field::Context), ("delta", Field::Delta)];
const PUBLISH: &[(&str, Field)] = &[
    ("topic", Field::Topic),
    ("data?", Field::Value),
    ("routing_key?", Field::Key),
    ("target_identity?", Field::Target),
];
const PUSH: [(&str, Field); 3] =
    [("data?", Field::Value), ("sequence?", Field::Value), ("snapshot?", Field::Value)];

/// Which of the templates ask other applications, answer them, and use contexts.
pub(super) const ASKING: std::ops::Range<usize> = 0..2;
const ANSWERING: std::ops::Range<usize> = 2..9;
pub(super) const CONTEXTS: std::ops::Range<usize> = 9..17;

pub(super) const TEMPLATES: [Template; 31] = [
    ("agm", "call", CALL),
    ("agm", "subscribe", CALL),
    ("agm", "yield", &[("invocation_id", Field::Invocation), ("result?", Field::Value)]),
    ("agm", "error", &[("request_id", Field::Any), WORDS[0], WORDS[1], ("context?", Field::Value)]),
    ("agm", "accepted", &[("subscription_id", Field::Interest), ("stream_id", Field::Branch)]),
    ("agm", "accepted", &[("subscription_id", Field::Interest), ("stream_id", Field::Branch)]),
    ("agm", "publish", &[("stream_id", Field::Branch), PUSH[0], PUSH[1], PUSH[2]]),
    ("agm", "post", &[("subscription_id", Field::Interest), PUSH[0], PUSH[1], PUSH[2]]),
    ("agm", "drop-subscription", DROP),
    ("global", "create-context", CREATE),
    ("context", "create-context", CREATE),
    ("global", "subscribe-context", CONTEXT),
    ("context", "subscribe-context", CONTEXT),
    ("global", "unsubscribe-context", CONTEXT),
    ("global", "destroy-context", CONTEXT),
    ("global", "update-context", UPDATE),
    ("context", "update-context", UPDATE),
    ("global", "hello", &[("identity?", Field::Identity), ("authentication", Field::Login)]),
    ("global", "join", &[("destination", Field::Destination)]),
    ("global", "leave", &[("destination", Field::Destination), WORDS[0], WORDS[1]]),
    ("global", "create-token", &[]),
    ("global", "ping", &[]),
    ("agm", "register", &[("methods", Field::Methods)]),
    ("agm", "unregister", &[("methods", Field::MethodIds)]),
    ("agm", "unsubscribe", UNSUBSCRIBE),
    ("bus", "subscribe", &[("topic", Field::Topic), ("routing_key?", Field::Key)]),
    ("bus", "unsubscribe", &[("subscription_id", Field::Subscription)]),
    ("bus", "publish", PUBLISH),
    ("metrics", "publish", &[("x?", Field::Value)]),
    ("activity", "create", &[("x?", Field::Value)]),
    ("activity", "unsubscribe", &[]),
];

const NAMES: [&str; 8] = [
    "a",
    "",
    "__interopIOTracePropagationInfo",
    "type",
    "request_id",
    "restrictions",
    "\\ud800",
    "read_permissions",
];

fn any_value(mark: &str, choices: &mut Choices<'_>, levels: usize) -> String {
    match choices.below(if levels == 0 { 5 } else { 8 }) {
        0 => format!("\"{mark}\""),
        1 => format!("{{\"{mark}\":{}}}", choices.byte()),
        2 => "null".into(),
        3 => choices.pick(&["false", "0", "\"\"", "[]", "{}", "1e400", "\"\\udfff\"", "-0.0"]).into(),
        4 => {
            let count = usize::from(choices.byte());
            format!("\"{mark}{}\"", "\\u0000x".repeat(count))
        }
        5 => format!("[{},{}]", any_value(mark, choices, levels - 1), any_value(mark, choices, levels - 1)),
        6 => format!("{{\"traceparent\":{}}}", any_value(mark, choices, levels - 1)),
        _ => format!("{{\"{}\":{}}}", choices.pick(&NAMES), any_value(mark, choices, levels - 1)),
    }
}

/// Values that do not belong where they are put.
fn odd_value(user: usize, choices: &mut Choices<'_>) -> String {
    let mark = MARKS[user];
    match choices.below(14) {
        0 => "null".into(),
        1 => "\"\\ud800\"".into(),
        2 => format!("\"{}\"", "n".repeat(1_100)),
        3 => {
            let levels = usize::from(choices.byte());
            format!("{}{}", "[".repeat(levels), "]".repeat(levels))
        }
        4 => {
            let levels = usize::from(choices.byte());
            format!("{}1{}", "{\"a\":".repeat(levels), "}".repeat(levels))
        }
        5 => "\"r-18446744073709551615\"".into(),
        6 => "\"r-18446744073709551616\"".into(),
        7 => format!("\"{}\"", "\\u0000".repeat(300)),
        8 => "tru".into(),
        9 => format!("\"{}\"", choices.pick(&NAMES)),
        10 => format!("[{{\"id\":\"{mark}\",\"id\":2}}]"),
        11 => "{\"type\":\"hello\"}".into(),
        12 => format!("{}", i32::from(choices.byte()) - 128),
        _ => any_value(mark, choices, 2),
    }
}
