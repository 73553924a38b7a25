//! How apps get in, and what launcher pages ask for: first frames at the desktop agent of a node, with
//! claims, secrets and launch keys that are right, of somebody else, or made up.

use std::collections::BTreeSet;

use bytes::Bytes;
use fdc3_agent::{Admission, Asked, ConnectionId, Output, Refused, Time};
use fdc3_directory::Details;
use mesh_core::NodeSettings;
use mesh_model::limits::JsonLimits;
use mesh_model::{Json, Limits, SessionId, Text};
use proto_dacp::Hello;

use crate::choices::Choices;
use crate::desk::{Desk, Line, Secrets, check_secrets, directory, time, welcome};
use crate::mesh::{Mesh, Told, settings};

const LINES: usize = 4;
const DIRECTORY: &str = r#"[
  {"appId":"one","title":"One","type":"web","details":{"url":"http://one.example/a"}},
  {"appId":"query","title":"Query","type":"web","details":{"url":"http://one.example/a?q=1#f"}},
  {"appId":"two","title":"Two","type":"web","details":{"url":"https://two.example"}},
  {"appId":"near","title":"Near","type":"native","details":{"path":"/bin/near"}},
  {"appId":"odd","title":"Odd","type":"citrix","details":{"alias":"odd"}}
]"#;
const URLS: [&str; 14] = [
    "http://one.example/a",
    "http://one.example/a?q=1#f",
    "http://one.example/b",
    "http://one.example:80/a",
    "HTTP://ONE.EXAMPLE/a",
    "http://one.example@two.example/a",
    "https://two.example/",
    "https://two.example:444/",
    "http://one.example\\\\@two.example/a",
    "null",
    "native",
    "file:///a",
    "",
    "http://\\u00f6ne.example/a%2e%2e/../a",
];
const ORIGINS: [&str; 6] = [
    "http://one.example",
    "https://two.example",
    "http://127.0.0.1:8385",
    "null",
    "",
    "http://one.example:80",
];
const APPS: [&str; 6] = ["one", "query", "two", "near", "odd", "nobody"];

struct World {
    mesh: Mesh,
    desk: Desk,
    secrets: Secrets,
    next: u64,
}

/// Checks that each first frame gets one answer, that nobody becomes an instance without its secret or an
/// app of another origin, that secrets are told to their instance alone, and that nothing is left.
pub fn fdc3_hello(data: &[u8]) {
    let mut choices = Choices::new(data);
    let mut world = World::new();
    for _ in 0..48 {
        if choices.is_empty() {
            break;
        }
        world.step(&mut choices);
    }
    world.finish();
}

impl World {
    fn new() -> Self {
        let known = settings(0);
        // One of them is the desk's.
        let limits = Limits { sessions_per_user_max: 4, sessions_max: 8, ..known.limits.clone() };
        let mesh = Mesh::of(vec![NodeSettings { limits, ..known }]);
        let limits = fdc3_agent::Limits { apps_max: 8, ..fdc3_agent::Limits::default() };
        let now = time(&mesh);
        let desk = Desk::new(0, limits, directory(DIRECTORY), SessionId(1), LINES, now);
        let mut world = Self { mesh, desk, secrets: Secrets::new(), next: 1 };
        world.pump();
        world
    }

    fn number(&mut self) -> u64 {
        self.next += 1;
        self.next
    }

    fn time(&self) -> Time {
        time(&self.mesh)
    }

    fn step(&mut self, choices: &mut Choices<'_>) {
        let kind = choices.byte();
        let at = usize::from(kind >> 6);
        match kind & 0x1f {
            0 => {
                let count = usize::from(choices.byte());
                let frame = Bytes::copy_from_slice(choices.bytes(count));
                self.greet(at, &frame, &Admission::default());
            }
            1 => {
                let count = usize::from(choices.byte());
                self.launcher(&Bytes::copy_from_slice(choices.bytes(count)));
            }
            2..=4 => self.hang_up(at),
            5 => {
                self.mesh.advance_ms(u64::from(choices.byte()) * 200);
                self.due();
            }
            6 | 7 => self.say(at, choices),
            8..=13 => {
                let frame = self.launcher_frame(choices);
                self.launcher(&damaged(frame, choices));
            }
            14 => {
                if let Some(instance) = self.any(choices).map(|(instance, _)| instance) {
                    let now = self.time();
                    self.desk.agent.launched(&instance, choices.once_in(2), now);
                }
            }
            _ => {
                let (frame, admission) = self.hello(choices);
                let frame = damaged(frame, choices);
                self.greet(at, &frame, &admission);
            }
        }
        self.pump();
    }

    /// Opens a connection, if it is not open, with this first frame.
    fn greet(&mut self, at: usize, frame: &Bytes, admission: &Admission) {
        if self.desk.lines[at].id.is_some() {
            return;
        }
        let Ok(hello) = proto_dacp::decode_hello(frame, JsonLimits::default()) else { return };
        let (id, session, now) = (ConnectionId(self.number()), SessionId(self.number()), self.time());
        let before: BTreeSet<Text> =
            self.desk.agent.instances().into_iter().map(|app| app.instance).collect();
        let refused = match self.desk.connect(at, (id, session), &hello, admission, now) {
            Ok(()) => {
                self.pump();
                let line = &self.desk.lines[at];
                assert!(line.id.is_none() || line.welcomed, "no answer to {frame:?}");
                line.instance.clone()
            }
            Err(Refused { frame: answer, why }) => {
                assert!(!why.is_empty());
                check_refusal(&hello, &answer);
                None
            }
        };
        let Some(instance) = refused else { return };
        self.check_in(&instance, &hello, admission, before.contains(&instance), frame);
    }

    /// Checks that an app may be what it has become.
    fn check_in(
        &self,
        instance: &Text,
        hello: &Hello,
        admission: &Admission,
        was_there: bool,
        frame: &Bytes,
    ) {
        let running = self.desk.agent.instances();
        let app = running.iter().find(|app| app.instance == *instance).expect("it is there");
        assert!(app.connected);
        let secret = self.secrets.get(instance);
        let (shown, origin) = match hello {
            Hello::Secret { secret, .. } => (Some(secret), None),
            Hello::Identity { claim, attested, .. } => {
                let attested = attested.as_ref().filter(|_| admission.own_page);
                let key = attested.and_then(|attested| attested.launch_key.as_ref());
                let claimed = claim.as_ref().filter(|(of, _)| of == instance).map(|(_, secret)| secret);
                let origin = attested.map(|attested| &attested.origin).or(admission.origin.as_ref());
                (claimed.filter(|shown| Some(*shown) == secret).or(key), origin)
            }
            Hello::Other { name } => panic!("`{name}` let somebody in: {frame:?}"),
        };
        if was_there {
            assert_eq!(shown, secret, "somebody has become {instance} without its secret: {frame:?}");
        }
        let Some(origin) = origin else { return };
        let of_app = match &*app.app_id {
            "one" | "query" => "http://one.example",
            "two" => "https://two.example",
            other => panic!("a page is the app {other}: {frame:?}"),
        };
        assert_eq!(of_app, &**origin, "a page is an app of another origin: {frame:?}");
    }

    fn hang_up(&mut self, at: usize) {
        let now = self.time();
        if let Some(id) = std::mem::take(&mut self.desk.lines[at]).id {
            self.desk.agent.disconnected(id, now);
        }
        self.pump();
    }

    /// Something that an app says once it is in.
    fn say(&mut self, at: usize, choices: &mut Choices<'_>) {
        let Some(id) = self.desk.lines[at].id else { return };
        let frame = choices.pick(&[
            r#"{"type":"WCP6Goodbye"}"#,
            r#"{"type":"getInfoRequest","payload":{},"meta":{"requestUuid":"q"}}"#,
            r#"{"type":"openRequest","payload":{"app":{"appId":"near"}},"meta":{"requestUuid":"q"}}"#,
            r#"{"type":"openRequest","payload":{"app":{"appId":"odd"}},"meta":{"requestUuid":"q"}}"#,
            r#"{"type":"WCP4ValidateAppIdentity","payload":{"identityUrl":"https://two.example/"},"meta":{}}"#,
        ]);
        let now = self.time();
        assert_eq!(self.desk.agent.frame(id, &Bytes::from_static(frame.as_bytes()), now), Ok(()));
    }

    fn launcher(&mut self, frame: &Bytes) {
        let now = self.time();
        let asked = self.desk.agent.launcher_asks(frame, now);
        let known = Json::parse(frame.clone()).ok().and_then(|frame| frame.member("type")?.as_text());
        let known =
            known.as_deref().is_some_and(|kind| ["launch", "closed", "blocked", "join"].contains(&kind));
        match asked {
            Asked::Problem(problem) => assert!(!problem.is_empty()),
            Asked::Done | Asked::Blocked(_) => assert!(known, "{frame:?} was understood"),
        }
        self.pump();
    }

    // What comes back.

    fn pump(&mut self) {
        loop {
            let mut is_quiet = true;
            while let Some(output) = self.desk.agent.poll_output() {
                is_quiet = false;
                self.carry_out(output);
            }
            while let Some((_, session, told)) = self.mesh.told.pop_front() {
                is_quiet = false;
                let Told::Event(event) = told else { panic!("a session of ours was closed") };
                let now = self.time();
                self.desk.event(session, *event, now);
            }
            if is_quiet {
                return;
            }
        }
    }

    fn carry_out(&mut self, output: Output) {
        let Some(output) = self.desk.obey(0, &mut self.mesh, output) else { return };
        match output {
            Output::Frame(connection, frame) | Output::Data(connection, frame) => {
                self.told(connection, &frame);
            }
            Output::Close(connection, reason) => {
                assert!(!reason.is_empty());
                self.closed(connection);
            }
            Output::Refuse(connection, Refused { frame, why }) => {
                assert!(why.contains("limit "), "{why}");
                self.told(connection, &frame);
                self.closed(connection);
            }
            Output::Launch { instance, secret, record } => {
                let is_startable = matches!(record.details, Details::Web { .. } | Details::Native { .. });
                self.secrets.insert(instance.clone(), secret);
                let now = self.time();
                if !is_startable {
                    self.desk.agent.launched(&instance, false, now);
                }
            }
            _ => {}
        }
    }

    fn closed(&mut self, connection: ConnectionId) {
        if let Some(line) = self.desk.line(connection) {
            *line = Line::default();
        }
        let now = self.time();
        self.desk.agent.disconnected(connection, now);
    }

    fn told(&mut self, connection: ConnectionId, frame: &Bytes) {
        let text = std::str::from_utf8(frame).expect("a frame is text");
        let json = Json::parse(frame.clone()).expect("a frame is JSON");
        let line = self.desk.line(connection);
        let line = line.unwrap_or_else(|| panic!("told to nobody: {text}"));
        let name = json.member("type").and_then(|name| name.as_text()).expect("a type");
        let payload = json.member("payload").expect("a payload");
        let is_answer = name.starts_with("WCP5") || name.starts_with("WSCP");
        assert_eq!(is_answer, !std::mem::replace(&mut line.welcomed, true), "one answer, first: {text}");
        if let Some((instance, secret)) = welcome(&name, &payload) {
            line.instance = Some(instance.clone());
            if let Some(secret) = secret {
                let known = self.secrets.insert(instance, secret.clone());
                assert!(known.is_none_or(|known| known == secret), "an instance has one secret");
            }
        }
        let me = line.instance.clone();
        check_secrets(&self.secrets, me.as_ref(), text);
        let holders = self.desk.lines.iter().filter(|line| line.instance.is_some() && line.instance == me);
        assert!(holders.count() <= 1, "two connections are one instance: {text}");
    }

    fn due(&mut self) {
        let now = self.time();
        self.desk.due(now);
        self.pump();
    }

    // Frames that look like those of clients and launchers.

    fn any(&self, choices: &mut Choices<'_>) -> Option<(Text, Text)> {
        let count = self.secrets.len().min(256);
        let at = if count == 0 { return None } else { choices.below(count) };
        self.secrets.iter().nth(at).map(|(instance, secret)| (instance.clone(), secret.clone()))
    }

    fn hello(&mut self, choices: &mut Choices<'_>) -> (String, Admission) {
        let origin = choices.pick(&ORIGINS);
        let admission =
            Admission { origin: (!choices.once_in(3)).then(|| origin.into()), own_page: choices.once_in(2) };
        let attempt = choices.pick(&["\"a\"", "\"a\"", "null", "7", "{\"b\":[]}"]);
        let known = |world: &Self, choices: &mut Choices<'_>| {
            let (instance, mut secret) = world.any(choices).unwrap_or_default();
            // Somebody else's, or none.
            if choices.once_in(3) {
                secret = world.any(choices).map_or_else(Text::default, |(_, secret)| secret);
            }
            (instance, secret)
        };
        let frame = match choices.once_in(4) {
            true => {
                let (_, secret) = known(self, choices);
                format!(
                    "{{\"type\":\"WSCPApplicationConnect\",\"meta\":{{\"connectionAttemptUuid\":{attempt}}},\
                     \"payload\":{{\"protocolVersion\":\"1.0\",\"sharedSecret\":\"{secret}\"}}}}"
                )
            }
            false => {
                let url = choices.pick(&URLS);
                let actual = if choices.once_in(4) { choices.pick(&URLS) } else { url };
                let claim = match choices.once_in(2) {
                    true => {
                        let (instance, secret) = known(self, choices);
                        format!(",\"instanceId\":\"{instance}\",\"instanceUuid\":\"{secret}\"")
                    }
                    false => String::new(),
                };
                let attested = match choices.below(3) {
                    0 => {
                        let (origin, (_, key)) = (choices.pick(&ORIGINS), known(self, choices));
                        format!(",\"attested\":{{\"origin\":\"{origin}\",\"launchKey\":\"{key}\"}}")
                    }
                    1 => ",\"attested\":7".to_owned(),
                    _ => String::new(),
                };
                format!(
                    "{{\"type\":\"WCP4ValidateAppIdentity\",\"meta\":{{\"connectionAttemptUuid\":{attempt}}},\
                     \"payload\":{{\"identityUrl\":\"{url}\",\"actualUrl\":\"{actual}\"{claim}}}{attested}}}"
                )
            }
        };
        (frame, admission)
    }

    fn launcher_frame(&mut self, choices: &mut Choices<'_>) -> String {
        let app = choices.pick(&APPS);
        let node = choices.pick(&["null", "\"node0\"", "\"node9\"", "7"]);
        let instance = self.any(choices).map_or_else(Text::default, |(instance, _)| instance);
        let channel = choices.pick(&["null", "\"fdc3.channel.1\"", "\"___x\"", "[]"]);
        match choices.below(7) {
            0..=2 => format!("{{\"type\":\"launch\",\"appId\":\"{app}\",\"node\":{node}}}"),
            3 => format!("{{\"type\":\"closed\",\"instanceId\":\"{instance}\"}}"),
            4 => format!("{{\"type\":\"blocked\",\"instanceId\":\"{instance}\",\"url\":\"u\"}}"),
            5 => format!("{{\"type\":\"join\",\"instanceId\":\"{instance}\",\"channelId\":{channel}}}"),
            _ => format!("{{\"type\":\"{app}\",\"instanceId\":\"{instance}\"}}"),
        }
    }

    fn finish(&mut self) {
        for at in 0..LINES {
            self.hang_up(at);
        }
        for _ in 0..3 {
            self.mesh.advance_ms(31_000);
            self.due();
        }
        self.desk.check_empty(&self.mesh.nodes[0]);
    }
}

/// Checks that a refusal is the one to this first frame.
fn check_refusal(hello: &Hello, answer: &Bytes) {
    let json = Json::parse(answer.clone()).expect("a frame is JSON");
    let name = json.member("type").and_then(|name| name.as_text()).expect("a type");
    let attempt = json.member("meta").and_then(|meta| meta.member("connectionAttemptUuid"));
    let (expected, given) = match hello {
        Hello::Secret { attempt, .. } => ("WSCPConnectFailed", Some(attempt)),
        Hello::Identity { attempt, .. } => ("WCP5ValidateAppIdentityFailedResponse", Some(attempt)),
        Hello::Other { .. } => ("WCP5ValidateAppIdentityFailedResponse", None),
    };
    assert_eq!((&*name, attempt.as_ref()), (expected, given));
}

/// Damages a frame now and then.
fn damaged(frame: String, choices: &mut Choices<'_>) -> Bytes {
    let frame = match choices.below(24) {
        0 => frame.replacen("null", choices.pick(&["\"\\ud800\"", "{}", "tru"]), 1),
        1 => frame.replacen('"', choices.pick(&["", "\\", "\"a\":1,\""]), 1 + choices.below(3)),
        2 => frame.replace("\"payload\"", choices.pick(&["\"Payload\"", "\"meta\""])),
        3 => frame.replacen("{\"type\"", "{\"type\":\"x\",\"type\"", 1),
        4 => frame.replace("Url\":\"", "Url\":[\""),
        _ => frame,
    };
    frame.into()
}
