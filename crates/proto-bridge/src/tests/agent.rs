//! An agent whose bridge is the test.

use super::*;

struct Seeker {
    agent: BridgeAgent,
    now_ms: u64,
}

impl Seeker {
    fn new(ports: std::ops::RangeInclusive<u16>) -> Self {
        let mut drawn = 0;
        let uuids = Uuids::new(move || {
            drawn += 1;
            drawn
        });
        let settings = AgentSettings::new(Text::from("seeker"), json(r#"{"provider":"p","appMetadata":{}}"#));
        Self { agent: BridgeAgent::new(AgentSettings { ports, ..settings }, uuids), now_ms: 0 }
    }

    fn input(&mut self, input: AgentInput) -> Vec<AgentOutput> {
        self.agent.handle(input, self.now_ms);
        self.outputs()
    }

    fn frame(&mut self, text: &str) -> Vec<AgentOutput> {
        self.input(AgentInput::Frame(Bytes::copy_from_slice(text.as_bytes())))
    }

    /// Lets time pass until something is due.
    fn wait(&mut self) -> (u64, Vec<AgentOutput>) {
        let due_ms = self.agent.poll_timeout().unwrap();
        let waited = due_ms.saturating_sub(self.now_ms);
        self.now_ms += waited;
        self.agent.handle_timeout(self.now_ms);
        (waited, self.outputs())
    }

    fn outputs(&mut self) -> Vec<AgentOutput> {
        std::iter::from_fn(|| self.agent.poll_output()).collect()
    }

    /// Joins the bridge on the port that is dialled next.
    fn join(&mut self, name: &str) -> Message {
        self.wait();
        self.input(AgentInput::Opened);
        self.frame(HELLO);
        let outputs = self.input(AgentInput::Join { channels: ChannelsState::default(), auth_token: None });
        let [AgentOutput::Frame(handshake)] = &outputs[..] else { panic!("{outputs:?}") };
        let handshake = Message::decode(handshake).unwrap();
        let request = handshake.meta.request.clone().unwrap();
        // Somebody else's update does not name this one.
        assert_eq!(self.frame(&update("other", "other-request")), []);
        let outputs = self.frame(&update(name, &request));
        assert!(matches!(&outputs[..], [AgentOutput::Joined { .. }, AgentOutput::Message(_)]), "{outputs:?}");
        assert_eq!(self.agent.name().unwrap(), name);
        handshake
    }
}

const HELLO: &str = r#"{"type":"hello","payload":{"desktopAgentBridgeVersion":"1","supportedFDC3Versions":["2.2"],"authRequired":true,"authToken":null},"meta":{"timestamp":"t"}}"#;

fn update(name: &str, request: &str) -> String {
    format!(
        r#"{{"type":"connectedAgentsUpdate","payload":{{"addAgent":"{name}","allAgents":[{{"desktopAgent":"{name}"}}],"channelsState":{{}}}},"meta":{{"requestUuid":"{request}","responseUuid":"u"}}}}"#
    )
}

fn dial(port: u16) -> AgentOutput {
    AgentOutput::Dial { port }
}

#[test]
fn ports_are_tried_in_order() {
    let mut seeker = Seeker::new(4475..=4477);
    assert_eq!(seeker.wait(), (0, vec![dial(4475)]));
    assert_eq!(seeker.input(AgentInput::Closed), [AgentOutput::HangUp, dial(4476)]);
    // Something that opens and says nothing, and something that is no bridge.
    seeker.input(AgentInput::Opened);
    assert_eq!(seeker.wait(), (750, vec![AgentOutput::HangUp, dial(4477)]));
    seeker.input(AgentInput::Opened);
    let strange = r#"{"type":"hello","payload":{},"meta":{}}"#;
    assert_eq!(seeker.frame(strange), [AgentOutput::HangUp]);
    assert_eq!(seeker.wait(), (5_000, vec![dial(4475)]));
    seeker.input(AgentInput::Opened);
    let greeted = AgentOutput::Greeted { port: 4475, auth_required: true, auth_token: None };
    assert_eq!(seeker.frame(HELLO), [greeted]);
    assert_eq!(seeker.input(AgentInput::Decline), [AgentOutput::HangUp, dial(4476)]);
    assert_eq!(AgentSettings::PORTS.count(), 101);
}

#[test]
fn an_agent_that_is_turned_away_looks_further() {
    let mut seeker = Seeker::new(4475..=4476);
    seeker.wait();
    seeker.input(AgentInput::Opened);
    seeker.frame(HELLO);
    seeker.input(AgentInput::Join { channels: ChannelsState::default(), auth_token: None });
    let refused = r#"{"type":"authenticationFailed","payload":{"message":"no"},"meta":{"requestUuid":"x","responseUuid":"y"}}"#;
    let turned_away = AgentOutput::TurnedAway { port: 4475, why: Text::from("no") };
    assert_eq!(seeker.frame(refused), [turned_away, AgentOutput::HangUp, dial(4476)]);
}

#[test]
fn it_joins_asks_and_comes_back_under_its_name() {
    let mut seeker = Seeker::new(4475..=4475);
    let handshake = seeker.join("seeker-2");
    assert_eq!(
        handshake.payload.to_string(),
        r#"{"implementationMetadata":{"provider":"p"},"requestedName":"seeker","channelsState":{}}"#
    );
    assert_eq!(seeker.agent.agents(), [json(r#"{"desktopAgent":"seeker-2"}"#)]);
    let find = || Message::request(Exchange::FindInstances, json(r#"{"app":{"appId":"x"}}"#), None);
    let asked = |outputs: Vec<AgentOutput>| match &outputs[..] {
        [AgentOutput::Frame(frame)] => Message::decode(frame).unwrap().meta.request.unwrap(),
        other => panic!("{other:?}"),
    };
    let request = asked(seeker.input(AgentInput::Send(find())));
    let answer = format!(
        r#"{{"type":"findInstancesResponse","payload":{{"appIdentifiers":[]}},"meta":{{"requestUuid":"{request}","responseUuid":"u"}}}}"#
    );
    assert!(matches!(&seeker.frame(&answer)[..], [AgentOutput::Message(_)]));
    assert_eq!(seeker.frame(&answer), [], "only once");
    // A bridge that does not answer.
    let request = asked(seeker.input(AgentInput::Send(find())));
    let (waited, outputs) = seeker.wait();
    let [AgentOutput::Message(message)] = &outputs[..] else { panic!("{outputs:?}") };
    assert_eq!(waited, 3_000);
    assert_eq!(message.error().as_deref(), Some("ResponseToBridgeTimedOut"));
    assert_eq!(message.meta.request.as_ref(), Some(&request));
    // A bridge that goes away.
    asked(seeker.input(AgentInput::Send(find())));
    let outputs = seeker.input(AgentInput::Closed);
    let [AgentOutput::Message(message), AgentOutput::Left] = &outputs[..] else { panic!("{outputs:?}") };
    assert_eq!(message.error().as_deref(), Some("NotConnectedToBridge"));
    let outputs = seeker.input(AgentInput::Send(find()));
    let [AgentOutput::Message(message)] = &outputs[..] else { panic!("{outputs:?}") };
    assert_eq!(message.error().as_deref(), Some("NotConnectedToBridge"));
    assert_eq!(seeker.agent.poll_timeout(), Some(seeker.now_ms + 1_000));
    let handshake = seeker.join("seeker-2");
    assert_eq!(member(&handshake, "requestedName"), r#""seeker-2""#);
}

/// Both sides of this crate, together.
#[test]
fn a_bridge_and_its_agent_understand_each_other() {
    let mut desk = Desk::with(&["host"]);
    let mut seeker = Seeker::new(4475..=4475);
    seeker.now_ms = desk.now_ms;
    seeker.wait();
    seeker.input(AgentInput::Opened);
    desk.connect(2);
    let carry = |desk: &mut Desk, seeker: &mut Seeker, mut outputs: Vec<AgentOutput>| {
        let mut messages = Vec::new();
        while !outputs.is_empty() || desk.sent.contains_key(&2) {
            for output in std::mem::take(&mut outputs) {
                match output {
                    AgentOutput::Frame(frame) => desk.input(Input::Frame { agent: AgentId(2), frame }),
                    AgentOutput::Greeted { .. } => {
                        let channels = ChannelsState::default();
                        outputs.extend(seeker.input(AgentInput::Join { channels, auth_token: None }));
                    }
                    AgentOutput::Message(message) => messages.push(message),
                    other => assert!(matches!(other, AgentOutput::Joined { .. }), "{other:?}"),
                }
            }
            for message in desk.taken(2) {
                outputs.extend(seeker.input(AgentInput::Frame(message.encode())));
            }
        }
        messages
    };
    carry(&mut desk, &mut seeker, Vec::new());
    assert_eq!(seeker.agent.name().unwrap(), "seeker");
    let payload = json(r#"{"intent":"I","context":{"type":"t"},"app":{"appId":"x","desktopAgent":"host"}}"#);
    let outputs = seeker.input(AgentInput::Send(Message::request(Exchange::RaiseIntent, payload, None)));
    carry(&mut desk, &mut seeker, outputs);
    let id = desk.taken(1).pop().unwrap().meta.request.unwrap();
    desk.say(
        1,
        "raiseIntentResponse",
        &id,
        "r",
        r#"{"intentResolution":{"intent":"I","source":{"appId":"x"}}}"#,
    );
    desk.say(1, "raiseIntentResultResponse", &id, "r", "{}");
    let types = carry(&mut desk, &mut seeker, Vec::new()).into_iter().map(|message| message.message_type);
    assert_eq!(
        types.collect::<Vec<_>>(),
        [MessageType::Response(Exchange::RaiseIntent), MessageType::RaiseIntentResult]
    );
}
